//! The queue on SQS: every request to it, with its bound and its cost counted. What its refusals mean is told by `error`, as those of
//! tables.

use crate::config::QueueConfig;
use crate::error::{self, Purpose};
use crate::queue::{self, BATCH_MAX, Letter, Queue, QueueState, RETENTION, Received, VISIBILITY};
use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, QueueAttributeName as Name,
    SendMessageBatchRequestEntry,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use evstore_api::{Deadline, Error, ErrorKind, Result};
use evstore_aws::failure::bounded;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A queue of the service.
pub struct Sqs {
    client: Client,
    name: String,
    /// Where it is, once that was asked.
    url: OnceCell<String>,
    requests: AtomicU64,
}

/// Without the SDK's client, which shows whose requests they are.
impl std::fmt::Debug for Sqs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqs").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Sqs {
    /// Connects. Nothing is sent yet, unless credentials have to be found.
    ///
    /// # Errors
    /// `Invalid` where there is no region.
    pub async fn new(config: &QueueConfig, request_timeout: Duration) -> Result<Self> {
        let loaded = config.access.load(request_timeout).await?;
        Ok(Self {
            client: Client::new(&loaded),
            name: config.name.clone(),
            url: OnceCell::new(),
            requests: AtomicU64::new(0),
        })
    }

    /// Sends a request that may be sent again: who waits for its answer has written nothing of a caller's. None where there is no such queue.
    async fn ask<T, E>(
        &self,
        request: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
        deadline: Deadline,
    ) -> Result<Option<T>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match bounded(request, deadline, Purpose::Read).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(refusal) if error::code(&refusal).is_some_and(is_missing) => Ok(None),
            Err(refusal) => Err(error::failed(&refusal, Purpose::Read)),
        }
    }

    fn missing(&self) -> Error {
        queue::missing(&self.name)
    }

    /// Where it is; none where there is no such queue.
    async fn find(&self, deadline: Deadline) -> Result<Option<String>> {
        if let Some(url) = self.url.get() {
            return Ok(Some(url.clone()));
        }
        let found = self.ask(self.client.get_queue_url().queue_name(&self.name).send(), deadline).await?;
        let Some(url) = found.map(|found| found.queue_url.unwrap_or_default()) else { return Ok(None) };
        Ok(Some(self.url.get_or_init(|| async { url }).await.clone()))
    }

    async fn url(&self, deadline: Deadline) -> Result<String> {
        self.find(deadline).await?.ok_or_else(|| self.missing())
    }
}

#[async_trait]
impl Queue for Sqs {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn state(&self, deadline: Deadline) -> Result<Option<QueueState>> {
        let Some(url) = self.find(deadline).await? else { return Ok(None) };
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(Name::All);
        let Some(found) = self.ask(request.send(), deadline).await? else { return Ok(None) };
        let found = found.attributes.unwrap_or_default();
        let number = |name: &Name| found.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let is_true = |name: &Name| found.get(name).is_some_and(|value| value == "true");
        Ok(Some(QueueState {
            is_fifo: is_true(&Name::FifoQueue),
            is_by_content: is_true(&Name::ContentBasedDeduplication),
            visibility: Duration::from_secs(number(&Name::VisibilityTimeout)),
            delay: Duration::from_secs(number(&Name::DelaySeconds)),
            waiting: number(&Name::ApproximateNumberOfMessages),
            in_flight: number(&Name::ApproximateNumberOfMessagesNotVisible),
        }))
    }

    async fn make(&self, deadline: Deadline) -> Result<()> {
        let attributes = HashMap::from([
            (Name::FifoQueue, "true".to_owned()),
            (Name::ContentBasedDeduplication, "false".to_owned()),
            (Name::VisibilityTimeout, VISIBILITY.as_secs().to_string()),
            (Name::MessageRetentionPeriod, RETENTION.as_secs().to_string()),
        ]);
        let request = self.client.create_queue().queue_name(&self.name).set_attributes(Some(attributes));
        self.ask(request.send(), deadline).await?.map(drop).ok_or_else(|| self.missing())
    }

    async fn remove(&self, deadline: Deadline) -> Result<()> {
        let Some(url) = self.find(deadline).await? else { return Ok(()) };
        self.ask(self.client.delete_queue().queue_url(url).send(), deadline).await.map(drop)
    }

    async fn send(&self, letters: &[Letter], deadline: Deadline) -> Result<()> {
        let complete = "an id and a body are given";
        let entry = |(at, letter): (usize, &Letter)| {
            SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(letter.body())
                .message_group_id(letter.group())
                .message_deduplication_id(letter.id.to_string())
                .build()
                .expect(complete)
        };
        let entries = letters.iter().enumerate().map(entry).collect();
        let request = self.client.send_message_batch().queue_url(self.url(deadline).await?).set_entries(Some(entries));
        let sent = self.ask(request.send(), deadline).await?.ok_or_else(|| self.missing())?;
        match sent.failed().first() {
            None => Ok(()),
            Some(failed) if error::is_throttling(failed.code()) => Err(error::throttled(failed.code())),
            Some(failed) => {
                let error = Error::new(ErrorKind::Unavailable, "the queue did not take a message");
                Err(error.with("queue", &self.name).with("code", failed.code()))
            }
        }
    }

    async fn receive(&self, deadline: Deadline) -> Result<Vec<Received>> {
        let most = i32::try_from(BATCH_MAX).unwrap_or(1);
        let request = self.client.receive_message().queue_url(self.url(deadline).await?).max_number_of_messages(most);
        let received = self.ask(request.wait_time_seconds(0).send(), deadline).await?.ok_or_else(|| self.missing())?;
        let messages = received.messages.unwrap_or_default().into_iter();
        Ok(messages
            .filter_map(|message| {
                Some(Received { handle: message.receipt_handle?, body: message.body.unwrap_or_default() })
            })
            .collect())
    }

    async fn delete(&self, handles: &[String], deadline: Deadline) -> Result<()> {
        let complete = "an id and a handle are given";
        let entry = |(at, handle): (usize, &String)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(handle);
            entry.build().expect(complete)
        };
        let entries = handles.iter().enumerate().map(entry).collect();
        let request =
            self.client.delete_message_batch().queue_url(self.url(deadline).await?).set_entries(Some(entries));
        // One that is with somebody else by now comes once more, and is found to be logged.
        self.ask(request.send(), deadline).await?.map(drop).ok_or_else(|| self.missing())
    }

    async fn give_back(&self, handles: &[String], deadline: Deadline) -> Result<()> {
        let complete = "an id and a handle are given";
        let entry = |(at, handle): (usize, &String)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(at.to_string()).receipt_handle(handle);
            entry.visibility_timeout(0).build().expect(complete)
        };
        let entries = handles.iter().enumerate().map(entry).collect();
        let request = self
            .client
            .change_message_visibility_batch()
            .queue_url(self.url(deadline).await?)
            .set_entries(Some(entries));
        self.ask(request.send(), deadline).await?.map(drop).ok_or_else(|| self.missing())
    }
}

/// Whether there is no such queue, in either of the protocols that the service answers in.
fn is_missing(code: &str) -> bool {
    matches!(code, "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue")
}
