//! What can be wrong with what a store declares.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::capabilities::{Positions, RealTime, Support, Window};
use evstore_api::{Capabilities, EventStore, ListStreams, Result, StreamsPage};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<NoEngine>("honesty.no-engine", "the engine has no name", &["honesty.everything-is-declared"]),
    mutant::<SmallWindow>(
        "honesty.a-small-window",
        "repeats are declared to be recognised for ten commits",
        &["honesty.everything-is-declared"],
    ),
    mutant::<DeclaresAnew>(
        "honesty.every-handle-declares-its-own",
        "every handle declares larger pages than the one before",
        &["honesty.every-handle-declares-the-same"],
    ),
    mutant::<OpaquePositions>(
        "honesty.opaque-positions",
        "positions are declared opaque, and appends give them",
        &["honesty.declarations-agree", "honesty.operations-are-as-declared"],
    ),
    mutant::<TimelessOrder>(
        "honesty.time-without-order",
        "the order is declared to hold in each stream only, and to agree with time",
        &["honesty.declarations-agree"],
    ),
    mutant::<RefusesToDelete>(
        "honesty.deletes-what-it-refuses",
        "truncation and deletion are declared to be refused, and work",
        &["honesty.operations-are-as-declared", "deletion.each-expectation-is-checked"],
    ),
    mutant::<RefusesCopies>(
        "honesty.copies-what-it-refuses",
        "copies are declared to be refused, and are taken",
        &["honesty.operations-are-as-declared"],
    ),
    mutant::<ListsOneBehind>(
        "honesty.lists-are-one-behind",
        "a list shows what the same list showed the time before",
        &["honesty.lists-are-as-fresh-as-declared"],
    ),
];

#[derive(Debug, Default)]
struct NoEngine;

impl Defect for NoEngine {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { engine: String::new(), ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct SmallWindow;

impl Defect for SmallWindow {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { idempotency: Window::Commits(10), ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct DeclaresAnew(AtomicU64);

impl Defect for DeclaresAnew {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let mut declared = inner.clone();
        declared.limits.page_items += self.0.fetch_add(1, Ordering::Relaxed) as u32;
        declared
    }
}

#[derive(Debug, Default)]
struct OpaquePositions;

impl Defect for OpaquePositions {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { positions: Positions::Opaque, ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct TimelessOrder;

impl Defect for TimelessOrder {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let order = evstore_api::capabilities::FeedOrder::PerStream;
        Capabilities { order, real_time: RealTime::Kept, ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct RefusesToDelete;

impl Defect for RefusesToDelete {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { deletion: Support::Refused, ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct RefusesCopies;

impl Defect for RefusesCopies {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { replication: Support::Refused, ..inner.clone() }
    }
}

/// What each prefix showed.
#[derive(Debug, Default)]
struct ListsOneBehind(Mutex<HashMap<String, StreamsPage>>);

#[async_trait]
impl Defect for ListsOneBehind {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let prefix = request.prefix.clone();
        let found = store.list_streams(request).await?;
        let before = lock(&self.0).insert(prefix, found.clone());
        Ok(before.unwrap_or(found))
    }
}
