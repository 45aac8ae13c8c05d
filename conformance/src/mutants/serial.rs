//! The field's commonest feed: positions are taken before the commit and seen in the order of the commits.

use super::Mutant;
use super::defect::{Defect, mutant};
use crate::seed::Seed;
use async_trait::async_trait;
use evstore_api::capabilities::Positions;
use evstore_api::{
    Append, Appended, Capabilities, CommitId, Cursor, EventStore, FeedItem, FeedPage, FeedStart, FindCommit, Position,
    ReadFeed, Result, StreamId, WaitFeed, Waited,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) static MUTANTS: &[Mutant] = &[mutant::<SerialFeed>(
    "feed.serial-positions",
    "an append takes its position first and is seen late, so that a reader who resumes after the last position passes it over",
    &[
        "concurrency.histories-of-threads-are-serial",
        "feed.a-tailing-reader-skips-nothing",
        "feed.a-stalled-caller-holds-up-nobody",
    ],
)];

/// Longest time, in microseconds, between taking a position and being seen.
const PAUSE_MICROS_MAX: u64 = 3_000;

/// What is on its way.
#[derive(Debug, Default)]
struct SerialFeed {
    hidden: Mutex<HashSet<CommitId>>,
    turns: Mutex<HashMap<StreamId, Arc<tokio::sync::Mutex<()>>>>,
    pauses: AtomicU64,
}

/// A commit that no feed reader sees until this is dropped.
struct Hidden<'a>(&'a SerialFeed, CommitId);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.0.hidden().remove(&self.1);
    }
}

impl SerialFeed {
    fn hidden(&self) -> MutexGuard<'_, HashSet<CommitId>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writers of one stream wait for each other, as they do on the unique key of a real table.
    fn turn(&self, stream: &StreamId) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(stream.clone()).or_default().clone()
    }

    fn pause(&self) -> Duration {
        let drawn = Seed(self.pauses.fetch_add(1, Ordering::Relaxed)).below(PAUSE_MICROS_MAX);
        Duration::from_micros(drawn)
    }
}

#[async_trait]
impl Defect for SerialFeed {
    /// Such a store declares holes, and means that nothing ever fills them.
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { positions: Positions::Increasing, ..inner.clone() }
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let turn = self.turn(&request.stream);
        let _turn = turn.lock().await;
        let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, request.deadline);
        if store.find_commit(FindCommit { stream, commit, deadline }).await?.is_some() {
            return store.append(request).await;
        }
        self.hidden().insert(commit);
        let _hidden = Hidden(self, commit);
        let receipt = store.append(request).await?;
        tokio::time::sleep(self.pause()).await;
        Ok(receipt)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let from = request.from.clone();
        // What is hidden when the page is asked for stays hidden in it: a snapshot of the table.
        let hidden = self.hidden().clone();
        let mut page = store.read_feed(request).await?;
        let found = page.items.len();
        page.items.retain(|item| match item {
            FeedItem::Commit(commit) => !hidden.contains(&commit.id),
            FeedItem::Removed { .. } => true,
        });
        if page.items.len() < found {
            let incarnation = page.next.incarnation();
            let last = page.items.last().and_then(|item| match item {
                FeedItem::Commit(commit) => commit.last_position(),
                FeedItem::Removed { last, .. } => Some(*last),
            });
            page.next = match (last, from) {
                (Some(last), _) => Cursor::total(incarnation, last),
                (None, FeedStart::First) => Cursor::total(incarnation, Position(0)),
                (None, FeedStart::After(cursor)) => cursor,
                (None, FeedStart::AfterPosition(position)) => Cursor::total(incarnation, position),
            };
        }
        Ok(page)
    }

    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        let waited = store.wait_feed(request).await?;
        if !self.hidden().is_empty() {
            // There may be nothing to see yet: a reader who asks again at once would keep a thread busy.
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok(waited)
    }
}
