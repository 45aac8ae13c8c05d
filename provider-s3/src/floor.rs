//! The floor under a store on S3: one `PUT` for each commit under the condition that there is no such object. A stream would be as many
//! `GET`s as it has commits, which is no floor of a load.

use crate::config::Config;
use async_trait::async_trait;
use evstore_api::{Deadline, Error, ErrorKind, Result, Settings, Usage};
use evstore_aws::s3::{Condition, Link, Put as Answer};
use evstore_kit::floor::{Bare, Floor, Put};
use std::sync::Arc;
use std::time::Duration;

/// Longest time of a request.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// The floor.
#[must_use]
pub fn floor() -> Arc<dyn Floor> {
    Arc::new(Service)
}

#[derive(Debug)]
struct Service;

#[async_trait]
impl Floor for Service {
    fn sentence(&self) -> &'static str {
        "the SDK, one PUT for each commit under the condition that there is no such object"
    }

    fn loads(&self) -> bool {
        false
    }

    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>> {
        let config = Config::new(scratch)?;
        Ok(Arc::new(One {
            link: Link::new(&config.access, &config.bucket, config.request_timeout).await?,
            prefix: config.prefix,
        }))
    }
}

#[derive(Debug)]
struct One {
    link: Link,
    prefix: String,
}

#[async_trait]
impl Bare for One {
    async fn append(&self, put: Put) -> Result<Usage> {
        let mut usage = Usage::default();
        let key = format!("{}/floor/{}/{}", self.prefix, put.stream, put.slot);
        let deadline = Deadline::within(REQUEST_MAX);
        match self.link.put(&key, put.events, Condition::Free, deadline, &mut usage).await? {
            Answer::Done => Ok(usage),
            Answer::Refused | Answer::Contended => Err(Error::new(ErrorKind::Conflict, "the object is there")),
        }
    }

    async fn load(&self, _: u64) -> Result<Usage> {
        Err(Error::new(ErrorKind::Unsupported, "a stream is as many objects as it has commits"))
    }

    async fn close(&self) {}
}
