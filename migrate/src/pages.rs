//! Long lists, page by page: the streams of a store, and its small records. Every command that goes over all of them does
//! it here, so that memory is bounded by a page and every call has a deadline of its own.

use crate::deadline;
use evstore_api::{
    Category, EventStore, ListRecords, ListStreams, ListedStream, NamespaceFilter, Record, RecordKind, Result,
};

/// Streams, by namespace and name.
pub struct Streams {
    request: ListStreams,
    /// Streams that are still wanted.
    left: u64,
    ended: bool,
}

impl Streams {
    /// Every stream of a store.
    #[must_use]
    pub fn all(store: &dyn EventStore) -> Self {
        Self::of(store, NamespaceFilter::All, None, String::new())
    }

    /// Those of a namespace, of a category, whose names begin so.
    #[must_use]
    pub fn of(store: &dyn EventStore, namespace: NamespaceFilter, category: Option<Category>, prefix: String) -> Self {
        let limit = store.capabilities().limits.page_items;
        let request = ListStreams { namespace, category, prefix, after: None, limit, deadline: deadline() };
        Self { request, left: u64::MAX, ended: false }
    }

    /// At most so many of them.
    #[must_use]
    pub fn at_most(mut self, streams: u64) -> Self {
        self.left = streams;
        self
    }

    /// The next ones, which may be none although more follow; nothing at the end.
    ///
    /// # Errors
    /// As the store's list.
    pub async fn next(&mut self, store: &dyn EventStore) -> Result<Option<Vec<ListedStream>>> {
        if self.ended || self.left == 0 {
            return Ok(None);
        }
        self.request.limit = self.request.limit.min(u32::try_from(self.left).unwrap_or(u32::MAX));
        self.request.deadline = deadline();
        let page = store.list_streams(self.request.clone()).await?;
        self.left = self.left.saturating_sub(page.streams.len() as u64);
        self.ended = page.next.is_none();
        self.request.after = page.next;
        Ok(Some(page.streams))
    }
}

/// Small records of one kind, by name.
pub struct Records {
    request: ListRecords,
    ended: bool,
}

impl Records {
    /// All of a kind that have a value.
    #[must_use]
    pub fn all(store: &dyn EventStore, kind: RecordKind) -> Self {
        let limit = store.capabilities().limits.page_items;
        Self { request: ListRecords { kind, after: None, limit, deadline: deadline() }, ended: false }
    }

    /// The next ones, which may be none although more follow; nothing at the end.
    ///
    /// # Errors
    /// As the store's list.
    pub async fn next(&mut self, store: &dyn EventStore) -> Result<Option<Vec<Record>>> {
        if self.ended {
            return Ok(None);
        }
        self.request.deadline = deadline();
        let page = store.list_records(self.request.clone()).await?;
        self.ended = page.next.is_none();
        self.request.after = page.next;
        Ok(Some(page.records))
    }
}
