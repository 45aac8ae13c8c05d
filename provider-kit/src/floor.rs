//! The floor under a store: what its engine's own client reaches that does nothing but write a commit and read a stream. It checks no
//! expectation of its own, knows no repeat, keeps no feed and no fence. Comparisons show each store as a ratio to it.

use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::{CommitId, Result, Settings, Usage};
use std::fmt;
use std::sync::Arc;

/// How the bare client of an engine is had.
#[async_trait]
pub trait Floor: fmt::Debug + Send + Sync {
    /// What one append and one load are, in a sentence.
    fn sentence(&self) -> &'static str;

    /// Whether it reads streams too.
    fn loads(&self) -> bool;

    /// Connects to a scratch store that was made for it and is dropped behind it.
    ///
    /// # Errors
    /// As connecting fails.
    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>>;
}

/// A bare client. Streams are numbers, and so are the slots in them: whoever calls gives each once.
#[async_trait]
pub trait Bare: fmt::Debug + Send + Sync {
    /// Writes one commit, and waits until the engine has it.
    ///
    /// # Errors
    /// As the engine refuses.
    async fn append(&self, put: Put) -> Result<Usage>;

    /// Reads all that was written to a stream.
    ///
    /// # Errors
    /// As the engine refuses; `Unsupported` where [`Floor::loads`] says so.
    async fn load(&self, stream: u64) -> Result<Usage>;

    /// Lets go of the engine.
    async fn close(&self);
}

/// A commit to write.
#[derive(Clone, Debug)]
pub struct Put {
    /// Its stream.
    pub stream: u64,
    /// Its slot, from 1 on. The revisions of its events end at `slot * events`.
    pub slot: u64,
    /// How many events it has: all commits of a stream have as many.
    pub count: u32,
    /// Its id.
    pub id: CommitId,
    /// Its events, as the format encodes them.
    pub events: Bytes,
}

impl Put {
    /// The revision of its first event.
    #[must_use]
    pub fn first_revision(&self) -> u64 {
        (self.slot - 1) * u64::from(self.count) + 1
    }
}
