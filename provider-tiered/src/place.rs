//! Where the objects of an archive lie. An object is never changed: it is put where there is none, read, and removed.

#[cfg(feature = "s3")]
mod bucket;
mod folder;

use crate::config::{Config, Location};
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::{Deadline, Result, Settings, Usage};
use std::ops::Range;
use std::sync::Arc;

/// A place for objects.
#[async_trait]
pub trait Place: Send + Sync + std::fmt::Debug {
    /// Where it is, for people.
    fn name(&self) -> String;

    /// Reads an object, or a part of it; none where there is none. What lies behind its end is left out.
    async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Bytes>>;

    /// Puts an object where there is none; false where there is one.
    ///
    /// # Errors
    /// `Indeterminate` where nobody knows whether it was put.
    async fn put_new(&self, key: &str, body: Bytes, deadline: Deadline, usage: &mut Usage) -> Result<bool>;

    /// Removes an object, if it is there.
    async fn remove(&self, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()>;

    /// All keys that begin with something, in their order.
    async fn list(&self, prefix: &str, deadline: Deadline, usage: &mut Usage) -> Result<Vec<String>>;

    /// Makes it, where that is needed.
    async fn make(&self, deadline: Deadline) -> Result<()>;

    /// Takes away what is left of it once its objects are removed.
    async fn unmake(&self, deadline: Deadline) -> Result<()>;

    /// Tags of the scratch archives beside it.
    async fn tags(&self, deadline: Deadline) -> Result<Vec<String>>;
}

/// The place that settings name.
///
/// # Errors
/// `Invalid` for an archive on S3 in a build without it.
pub async fn of(config: &Config, settings: &Settings) -> Result<Arc<dyn Place>> {
    match &config.location {
        Location::Folder(path) => Ok(Arc::new(folder::Folder::new(path, config.request_timeout)?)),
        #[cfg(feature = "s3")]
        Location::Bucket { bucket, prefix } => {
            Ok(Arc::new(bucket::Bucket::new(settings, bucket, prefix, config.request_timeout).await?))
        }
        #[cfg(not(feature = "s3"))]
        Location::Bucket { .. } => Err(evstore_api::Error::new(
            evstore_api::ErrorKind::Invalid,
            "archives on S3 are not in this build; build with the feature s3",
        )
        .with("store", settings.store())
        .with("feature", "s3")),
    }
}
