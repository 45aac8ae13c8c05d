//! Streams that a projection has set aside, because its handler could not take one of their events.

use crate::api::{
    Clock, Deadline, Error, ErrorKind, EventStore, ListRecords, PutRecord, RecordExpected, RecordKey, RecordKind,
    RecordName, Result, Revision, StreamId, SystemClock, Timestamp,
};
use crate::subscription::{FeedEvent, passes};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most streams that a projection parks. Beyond it more is wrong than single events, and it stops.
const STREAMS_MAX: usize = 1000;
/// Most bytes of a cause that are kept.
const CAUSE_BYTES_MAX: usize = 1024;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const PAGE_RECORDS: u32 = 100;

/// A stream that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The stream.
    pub stream: StreamId,
    /// The event that the handler could not take. It and all later ones of the stream are not handled.
    pub revision: Revision,
    /// What the handler said, cut to 1 KiB.
    pub cause: String,
    /// When.
    pub parked_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    namespace: String,
    stream: String,
    revision: u64,
    cause: String,
    parked_at: i64,
}

/// What is set aside, in the store and in memory.
#[derive(Clone, Debug)]
pub(crate) struct Parking {
    events: Arc<dyn EventStore>,
    prefix: String,
    parked: Arc<Mutex<HashMap<StreamId, Parked>>>,
}

impl Parking {
    pub fn new(events: Arc<dyn EventStore>, projection: &str) -> Self {
        Self { events, prefix: format!("{projection}!parked!"), parked: Arc::default() }
    }

    /// Reads what was set aside before.
    pub async fn load(&self) -> Result<()> {
        let mut found = HashMap::new();
        let mut after = Some(RecordName::new(&self.prefix)?);
        while after.is_some() {
            let request = ListRecords {
                kind: RecordKind::Checkpoint,
                after,
                limit: PAGE_RECORDS.min(self.events.capabilities().limits.page_items),
                deadline: Deadline::within(CALL_TIMEOUT),
            };
            let page = self.events.list_records(request).await?;
            after = page.next;
            for record in page.records {
                if !record.key.name.as_str().starts_with(&self.prefix) {
                    after = None;
                    break;
                }
                let parked = Parked::from_value(record.value.as_deref().unwrap_or_default())?;
                found.insert(parked.stream.clone(), parked);
            }
        }
        *self.lock() = found;
        Ok(())
    }

    pub fn list(&self) -> Vec<Parked> {
        let mut parked: Vec<_> = self.lock().values().cloned().collect();
        parked.sort_by_key(|parked| (parked.parked_at, parked.stream.clone()));
        parked
    }

    pub fn holds(&self, stream: &StreamId) -> bool {
        self.lock().contains_key(stream)
    }

    pub fn get(&self, stream: &StreamId) -> Option<Parked> {
        self.lock().get(stream).cloned()
    }

    /// Sets a stream aside from an event on.
    pub async fn park(&self, event: &FeedEvent, cause: &str) -> Result<()> {
        if self.lock().len() >= STREAMS_MAX {
            let error = Error::new(ErrorKind::TooLarge, "a projection has parked as many streams as it may");
            return Err(error.with("streams_max", STREAMS_MAX));
        }
        let parked = Parked {
            stream: event.stream().clone(),
            revision: event.revision(),
            cause: cut(cause),
            parked_at: SystemClock.now(),
        };
        self.put(&parked.stream, Some(parked.to_value()?)).await?;
        self.lock().insert(parked.stream.clone(), parked);
        Ok(())
    }

    /// Lets a stream go on.
    pub async fn release(&self, stream: &StreamId) -> Result<()> {
        self.put(stream, None).await?;
        self.lock().remove(stream);
        Ok(())
    }

    async fn put(&self, stream: &StreamId, value: Option<Vec<u8>>) -> Result<()> {
        let value = value.map(bytes::Bytes::from);
        loop {
            let put = PutRecord {
                key: self.key(stream)?,
                expected: RecordExpected::Any,
                value: value.clone(),
                deadline: Deadline::within(CALL_TIMEOUT),
            };
            match self.events.put_record(put).await {
                Ok(_) => return Ok(()),
                Err(error) if passes(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Stream names may be longer than names of records, so that the key has an id that is derived from it.
    fn key(&self, stream: &StreamId) -> Result<RecordKey> {
        let parts = [stream.namespace.as_str().as_bytes(), stream.name.as_str().as_bytes()];
        let id = crate::api::CommitId::derive(&parts);
        let name = RecordName::new(format!("{}{id}", self.prefix))?;
        Ok(RecordKey { kind: RecordKind::Checkpoint, name })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    fn to_value(&self) -> Result<Vec<u8>> {
        let stored = Stored {
            namespace: self.stream.namespace.to_string(),
            stream: self.stream.name.to_string(),
            revision: self.revision.0,
            cause: self.cause.clone(),
            parked_at: self.parked_at.0,
        };
        let refused = |cause| Error::new(ErrorKind::Invalid, "a parked stream cannot be written").caused_by(cause);
        serde_json::to_vec(&stored).map_err(refused)
    }

    fn from_value(value: &[u8]) -> Result<Self> {
        let stored: Stored = serde_json::from_slice(value)
            .map_err(|cause| Error::new(ErrorKind::Corrupt, "a parked stream does not read").caused_by(cause))?;
        Ok(Self {
            stream: StreamId::within(stored.namespace, stored.stream)?,
            revision: Revision(stored.revision),
            cause: stored.cause,
            parked_at: Timestamp(stored.parked_at),
        })
    }
}

fn cut(cause: &str) -> String {
    cause[..cause.floor_char_boundary(CAUSE_BYTES_MAX)].to_owned()
}
