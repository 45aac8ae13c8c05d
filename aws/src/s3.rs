//! The way to objects on S3: every request that is sent, with its bound, its cost counted, and its refusals sorted. Nothing is
//! repeated here.

pub mod error;

use self::error::Purpose;
use crate::failure::bounded;
use crate::{Access, cause};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use std::ops::Range;
use std::time::Duration;

/// The way to the objects of a bucket.
pub struct Link {
    client: Client,
    bucket: String,
    region: String,
}

/// Without the SDK's client, which shows whose requests they are.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// What has to hold for an object to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// There is none under its key.
    Free,
    /// What is there was not changed since it was read.
    Unchanged(&'a str),
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// The condition does not hold; or it did, and this is the repeat of a put whose answer was lost.
    Refused,
    /// Another put of the same key was under way. It says nothing about what is there.
    Contended,
}

/// An object, or a part of it.
#[derive(Clone, Debug)]
pub struct Got {
    /// Its bytes.
    pub body: Bytes,
    /// What tells it from the same key at another time.
    pub tag: String,
}

/// A part of a list.
#[derive(Debug)]
pub struct Listed {
    /// Keys.
    pub keys: Vec<String>,
    /// What keys with the delimiter begin with.
    pub prefixes: Vec<String>,
    /// Where to go on.
    pub next: Option<String>,
}

impl Link {
    /// Connects. Nothing is sent yet, unless credentials have to be found.
    ///
    /// # Errors
    /// `Invalid` where there is no region.
    pub async fn new(access: &Access, bucket: &str, request_timeout: Duration) -> Result<Self> {
        let loaded = access.load(request_timeout).await?;
        let region = loaded.region().map(ToString::to_string).unwrap_or_default();
        // A server of one's own has hardly a name for each bucket.
        let by_path = access.endpoint().is_some() && !access.is_aws();
        let settings = Builder::from(&loaded).force_path_style(by_path).build();
        Ok(Self { client: Client::from_conf(settings), bucket: bucket.to_owned(), region })
    }

    /// The SDK's client, for the few requests about the bucket itself.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Reads an object, or a part of it; none where there is no such key.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Got>> {
        let range = part.map(|part| format!("bytes={}-{}", part.start, part.end.saturating_sub(1)));
        let request = self.client.get_object().bucket(&self.bucket).key(key).set_range(range);
        let whole = async {
            let found = match request.send().await {
                Ok(found) => found,
                Err(failed) => match error::refusal(&failed) {
                    Some(("NoSuchKey", _)) => return Ok(None),
                    // What was there was cut off behind what is left of the object.
                    Some(("InvalidRange", _)) | Some((_, 416)) => {
                        return Ok(Some(Got { body: Bytes::new(), tag: String::new() }));
                    }
                    _ => return Err(error::failed(&failed, Purpose::Read)),
                },
            };
            let tag = found.e_tag.unwrap_or_default();
            let body = found.body.collect().await.map_err(|cause| {
                Error::new(ErrorKind::Unavailable, "the connection broke while an object was read")
                    .caused_by(cause::chain(&cause))
            })?;
            Ok(Some(Got { body: body.into_bytes(), tag }))
        };
        usage.requests += 1;
        bounded(whole, deadline, Purpose::Read).await?
    }

    /// Puts an object under a condition.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn put(
        &self,
        key: &str,
        body: Bytes,
        condition: Condition<'_>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Put> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(body));
        let request = match condition {
            Condition::Free => request.if_none_match("*"),
            Condition::Unchanged(tag) => request.if_match(tag),
        };
        let answer = bounded(request.send(), deadline, Purpose::Write).await;
        usage.requests += 1;
        let Err(failed) = answer? else { return Ok(Put::Done) };
        match error::refusal(&failed) {
            Some(("PreconditionFailed", _)) | Some((_, 412)) | Some(("NoSuchKey", _)) => Ok(Put::Refused),
            // Other conflicts have the same status and are none of these.
            Some(("ConditionalRequestConflict", _)) => Ok(Put::Contended),
            _ => Err(error::failed(&failed, Purpose::Write)),
        }
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn delete(&self, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        usage.requests += 1;
        sorted(bounded(request.send(), deadline, Purpose::Write).await?, Purpose::Write).map(drop)
    }

    /// Lists keys behind one, in no order that anything rests on.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        limit: i32,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Listed> {
        self.list_from(prefix, after, None, delimiter, limit, deadline, usage).await
    }

    /// Lists all keys, or all prefixes up to a delimiter.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn list_all(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Listed> {
        let mut all = Listed { keys: Vec::new(), prefixes: Vec::new(), next: None };
        loop {
            let next = all.next.take();
            let page = self.list_from(prefix, None, next.as_deref(), delimiter, 1_000, deadline, usage).await?;
            all.keys.extend(page.keys);
            all.prefixes.extend(page.prefixes);
            match page.next {
                Some(next) => all.next = Some(next),
                None => return Ok(all),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one request of the service, of which each caller gives some fields")]
    async fn list_from(
        &self,
        prefix: &str,
        after: Option<&str>,
        next: Option<&str>,
        delimiter: Option<&str>,
        limit: i32,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Listed> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .set_continuation_token(next.map(str::to_owned))
            .set_delimiter(delimiter.map(str::to_owned))
            .max_keys(limit);
        usage.requests += 1;
        let found = sorted(bounded(request.send(), deadline, Purpose::Read).await?, Purpose::Read)?;
        let keys = found.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect();
        let prefixes = found.common_prefixes.unwrap_or_default().into_iter().filter_map(|one| one.prefix).collect();
        let next = found.next_continuation_token.filter(|_| found.is_truncated == Some(true));
        Ok(Listed { keys, prefixes, next })
    }

    /// Whether the bucket is there.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn has_bucket(&self, deadline: Deadline) -> Result<bool> {
        let request = self.client.head_bucket().bucket(&self.bucket);
        match bounded(request.send(), deadline, Purpose::Read).await? {
            Ok(_) => Ok(true),
            // An answer without a body has no code.
            Err(failed) => match error::refusal(&failed) {
                Some((_, 404)) => Ok(false),
                Some((_, 403)) => Err(Error::new(
                    ErrorKind::Denied,
                    "the bucket is another's, or s3:ListBucket is not allowed with these credentials",
                )
                .with("bucket", &self.bucket)),
                _ => Err(error::failed(&failed, Purpose::Read)),
            },
        }
    }

    /// Makes the bucket. It is success where it is there.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn make_bucket(&self, deadline: Deadline) -> Result<()> {
        use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
        // The first region has no name here.
        let place = (self.region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(self.region.as_str()))
                .build()
        });
        let request = self.client.create_bucket().bucket(&self.bucket).set_create_bucket_configuration(place);
        match bounded(request.send(), deadline, Purpose::Write).await? {
            Ok(_) => Ok(()),
            Err(failed) => match error::refusal(&failed) {
                Some(("BucketAlreadyOwnedByYou", _)) => Ok(()),
                _ => Err(error::failed(&failed, Purpose::Write)),
            },
        }
    }
}

fn sorted<T, E>(answer: std::result::Result<T, SdkError<E, HttpResponse>>, purpose: Purpose) -> Result<T>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    answer.map_err(|failed| error::failed(&failed, purpose))
}
