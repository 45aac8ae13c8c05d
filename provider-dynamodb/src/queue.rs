//! A queue that keeps the order of each of its groups, as a sequencer uses it. The service stands behind a trait, because it is built in
//! with a feature of its own (`sqs`).

use crate::config::QueueConfig;
use crate::tables::{stream_key, stream_of_key};
use async_trait::async_trait;
use evstore_api::{CommitId, CommitNumber, Deadline, Error, ErrorKind, Result, StreamId};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Messages of one request at most.
pub const BATCH_MAX: usize = 10;
/// For how long a message is with the one who received it, of a queue that is made. Whoever dies with it holds its stream up for so long.
pub const VISIBILITY: Duration = Duration::from_secs(10);
/// The longest such time that is taken: a message that is not deleted by then is a dead process's.
const VISIBILITY_MAX: Duration = Duration::from_secs(60);
/// For how long messages are kept, of a queue that is made: the longest. Nothing is lost with them.
pub const RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What the queue is told of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The commit's stream.
    pub stream: StreamId,
    /// Its number.
    pub number: CommitNumber,
    /// Its id, by which the service recognises within five minutes what it was sent already.
    pub id: CommitId,
    /// How many positions it takes, which the queue is not told.
    pub positions: u64,
}

impl Letter {
    /// What it says.
    pub fn body(&self) -> String {
        json!({ "stream": stream_key(&self.stream), "commit": self.number.0 }).to_string()
    }

    /// Whose order it is in: its stream's. Streams whose groups are one wait for each other, which does no harm.
    pub fn group(&self) -> String {
        format!("{:08x}", crc32fast::hash(stream_key(&self.stream).as_bytes()))
    }
}

/// What a message tells of; nothing where it is none of a store.
pub fn read_body(body: &str) -> Option<(StreamId, CommitNumber)> {
    let body: Value = serde_json::from_str(body).ok()?;
    let stream = stream_of_key(body["stream"].as_str()?).ok()?;
    Some((stream, CommitNumber(body["commit"].as_u64().filter(|number| *number > 0)?)))
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// By what it is deleted.
    pub handle: String,
    /// What it says.
    pub body: String,
}

/// What a queue says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Whether it keeps the order of each group.
    pub is_fifo: bool,
    /// Whether it takes messages of the same content for one.
    pub is_by_content: bool,
    /// For how long a message is with the one who received it.
    pub visibility: Duration,
    /// For how long it withholds each message.
    pub delay: Duration,
    /// Messages that wait, by and large.
    pub waiting: u64,
    /// Messages that somebody has received, by and large.
    pub in_flight: u64,
}

impl QueueState {
    /// Refuses a queue that is another one than this release makes.
    ///
    /// # Errors
    /// `Schema`.
    pub fn check(&self, name: &str) -> Result<()> {
        let refused = |message| Err(Error::new(ErrorKind::Schema, message).with("queue", name));
        if !self.is_fifo {
            return refused("a queue keeps no order: it is not FIFO");
        }
        if self.is_by_content {
            return refused(
                "a queue takes messages of the same content for one (ContentBasedDeduplication); it is to go by the commits' ids",
            );
        }
        if self.visibility.is_zero() || self.visibility > VISIBILITY_MAX {
            return refused(
                "a queue's messages are to be with who received them for 1 to 60 seconds (VisibilityTimeout)",
            );
        }
        if !self.delay.is_zero() {
            return refused("a queue withholds every message (DelaySeconds)");
        }
        Ok(())
    }
}

/// What a queue can be asked. What was asked may be asked again: a message that comes twice does no harm.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// Its name.
    fn name(&self) -> &str;

    /// How many requests were sent.
    fn requests(&self) -> u64;

    /// What it says of itself; none where there is no such queue.
    ///
    /// # Errors
    /// As reads have them.
    async fn state(&self, deadline: Deadline) -> Result<Option<QueueState>>;

    /// Makes it; success where it is there.
    ///
    /// # Errors
    /// As reads have them.
    async fn make(&self, deadline: Deadline) -> Result<()>;

    /// Removes it; success where it is not there.
    ///
    /// # Errors
    /// As reads have them.
    async fn remove(&self, deadline: Deadline) -> Result<()>;

    /// Sends up to [`BATCH_MAX`] messages, in their order.
    ///
    /// # Errors
    /// As reads have them; some may have been sent.
    async fn send(&self, letters: &[Letter], deadline: Deadline) -> Result<()>;

    /// Receives up to [`BATCH_MAX`] messages; none where it has none just now.
    ///
    /// # Errors
    /// As reads have them.
    async fn receive(&self, deadline: Deadline) -> Result<Vec<Received>>;

    /// Deletes up to [`BATCH_MAX`] messages, as far as they are still with who received them.
    ///
    /// # Errors
    /// As reads have them.
    async fn delete(&self, handles: &[String], deadline: Deadline) -> Result<()>;

    /// Lets others receive up to [`BATCH_MAX`] messages, as far as they are still with who received them.
    ///
    /// # Errors
    /// As reads have them.
    async fn give_back(&self, handles: &[String], deadline: Deadline) -> Result<()>;
}

/// The queue of a store.
///
/// # Errors
/// `Invalid` where there is no region.
#[cfg(feature = "sqs")]
pub async fn connect(config: &QueueConfig, request_timeout: Duration) -> Result<Arc<dyn Queue>> {
    Ok(Arc::new(crate::sqs::Sqs::new(config, request_timeout).await?))
}

/// The queue of a store, which a config can't name without the feature.
///
/// # Errors
/// `Invalid`.
#[cfg(not(feature = "sqs"))]
#[expect(clippy::unused_async, reason = "it is with the feature")]
pub async fn connect(config: &QueueConfig, _: Duration) -> Result<Arc<dyn Queue>> {
    Err(Error::new(ErrorKind::Invalid, "queues are not built in; the feature `sqs` has them")
        .with("queue", &config.name))
}

/// There is no such queue.
pub fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Schema, "the store's queue is not there; apply the schema, or set auto_create")
        .with("queue", name)
}

/// The queue as a resource of CloudFormation, by its logical name.
pub fn template(name: &str) -> Value {
    let properties = json!({
        "QueueName": name,
        "FifoQueue": true,
        "ContentBasedDeduplication": false,
        "VisibilityTimeout": VISIBILITY.as_secs(),
        "MessageRetentionPeriod": RETENTION.as_secs(),
    });
    json!({ "EvstoreQueue": { "Type": "AWS::SQS::Queue", "Properties": properties } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_and_another_is_none() {
        let stream = StreamId::within("tenant", "order-\u{fc}\"1").unwrap();
        let letter = Letter { stream: stream.clone(), number: CommitNumber(7), id: CommitId([7; 16]), positions: 2 };
        assert_eq!(read_body(&letter.body()), Some((stream, CommitNumber(7))));
        // The service takes no control characters.
        assert!(!letter.body().contains(char::is_control));
        assert!(letter.group().len() == 8 && letter.group().chars().all(|c| c.is_ascii_hexdigit()));
        let bad = ["", "{}", "[1]", r#"{"stream":"a"}"#, r#"{"stream":"","commit":1}"#, r#"{"stream":"a","commit":0}"#];
        for bad in bad {
            assert_eq!(read_body(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_queue_that_is_another_one_is_refused() {
        let made = QueueState {
            is_fifo: true,
            is_by_content: false,
            visibility: VISIBILITY,
            delay: Duration::ZERO,
            waiting: 3,
            in_flight: 1,
        };
        made.check("a.fifo").unwrap();
        for seconds in [1, 60] {
            QueueState { visibility: Duration::from_secs(seconds), ..made }.check("a.fifo").unwrap();
        }
        let bad = [
            QueueState { is_fifo: false, ..made },
            QueueState { is_by_content: true, ..made },
            QueueState { visibility: Duration::ZERO, ..made },
            QueueState { visibility: Duration::from_secs(61), ..made },
            QueueState { delay: Duration::from_secs(1), ..made },
        ];
        for bad in bad {
            assert_eq!(bad.check("a.fifo").unwrap_err().kind(), ErrorKind::Schema, "{bad:?}");
        }
    }
}
