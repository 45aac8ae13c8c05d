//! A bucket on S3 as the place of an archive.

use super::Place;
use crate::error;
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Settings, Usage};
use evstore_aws::Access;
use evstore_aws::s3::{Condition, Link, Put};
use std::ops::Range;
use std::time::Duration;

/// Tries of a put that met another of the same key.
const TRIES_MAX: u32 = 5;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(50);

/// A prefix of a bucket.
#[derive(Debug)]
pub struct Bucket {
    link: Link,
    prefix: String,
}

impl Bucket {
    /// Connects. Nothing is sent yet, unless credentials have to be found.
    ///
    /// # Errors
    /// `Invalid` for settings that do not go together.
    pub async fn new(settings: &Settings, bucket: &str, prefix: &str, timeout: Duration) -> Result<Self> {
        let link = Link::new(&Access::new(settings)?, bucket, timeout).await?;
        Ok(Self { link, prefix: prefix.to_owned() })
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }
}

#[async_trait]
impl Place for Bucket {
    fn name(&self) -> String {
        format!("s3://{}/{}", self.link.bucket(), self.prefix)
    }

    async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Bytes>> {
        let got = self.link.get(&self.key(key), part, deadline, usage).await;
        Ok(got.map_err(|failed| error::of(key, failed))?.map(|got| got.body))
    }

    async fn put_new(&self, key: &str, body: Bytes, deadline: Deadline, usage: &mut Usage) -> Result<bool> {
        for _ in 0..TRIES_MAX {
            let put = self.link.put(&self.key(key), body.clone(), Condition::Free, deadline, usage).await;
            match put.map_err(|failed| error::of(key, failed))? {
                Put::Done => return Ok(true),
                Put::Refused => return Ok(false),
                Put::Contended => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "an object is being put by others all the time").with("object", key))
    }

    async fn remove(&self, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        self.link.delete(&self.key(key), deadline, usage).await.map_err(|failed| error::of(key, failed))
    }

    async fn list(&self, prefix: &str, deadline: Deadline, usage: &mut Usage) -> Result<Vec<String>> {
        let listed = self.link.list_all(&self.key(prefix), None, deadline, usage).await;
        let begin = self.key("");
        let keys = listed.map_err(|failed| error::of(prefix, failed))?.keys;
        let mut keys: Vec<String> = keys.iter().filter_map(|key| key.strip_prefix(&begin)).map(str::to_owned).collect();
        keys.sort();
        Ok(keys)
    }

    async fn make(&self, deadline: Deadline) -> Result<()> {
        if self.link.has_bucket(deadline).await? {
            return Ok(());
        }
        self.link.make_bucket(deadline).await
    }

    /// A prefix is nothing by itself.
    async fn unmake(&self, _: Deadline) -> Result<()> {
        Ok(())
    }

    async fn tags(&self, deadline: Deadline) -> Result<Vec<String>> {
        let begin = format!("{}{}", self.prefix, crate::config::SCRATCH);
        match self.link.list_all(&begin, Some("/"), deadline, &mut Usage::default()).await {
            Ok(listed) => {
                let tag = |prefix: &String| prefix.strip_prefix(&begin)?.strip_suffix('/').map(str::to_owned);
                Ok(listed.prefixes.iter().filter_map(tag).collect())
            }
            // There is no bucket, and so nothing in it.
            Err(error) if error.kind() == ErrorKind::Schema => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
