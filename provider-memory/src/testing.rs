//! What the tests of this crate need again and again.

use evstore_api::{
    Append, Appended, Clock, CommitId, Deadline, EventStore, EventType, Events, Expected, NewCommit, NewEvent, Result,
    Settings, StoreAdmin, StoreName, StreamId, Timestamp,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A deadline that no test reaches.
pub fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

/// Settings of a store of this name.
pub fn settings(name: &str) -> Settings {
    Settings::new(StoreName::new(name).unwrap(), crate::config::KEYS, []).unwrap()
}

/// A store of its own, both sides.
pub async fn open(name: &str) -> (Arc<dyn EventStore>, Arc<dyn StoreAdmin>) {
    let opener = crate::provider().opener;
    let settings = settings(name);
    (opener.open(&settings).await.unwrap(), opener.open_admin(&settings).await.unwrap())
}

/// A stream.
pub fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

/// A commit id.
pub fn commit(id: u8) -> CommitId {
    CommitId([id; 16])
}

/// Appends `count` events.
pub async fn append(
    store: &Arc<dyn EventStore>,
    name: &str,
    id: u8,
    count: usize,
    expected: Expected,
) -> Result<Appended> {
    let event = NewEvent::new(EventType::new("t").unwrap(), vec![id; 4]);
    let commit = NewCommit { id: commit(id), events: Events::new(vec![event; count]).unwrap() };
    store.append(Append { stream: stream(name), expected, commit, deadline: deadline() }).await
}

/// A clock that stands still.
#[derive(Debug)]
pub struct FixedClock(AtomicI64);

impl FixedClock {
    /// A clock that shows this.
    pub fn at(micros: i64) -> Self {
        Self(AtomicI64::new(micros))
    }

    /// Sets it.
    pub fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
