//! What can be wrong with what a store declares.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::capabilities::{Limit, Limits, Positions, RealTime, Support, Window};
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
    mutant::<HidesLimits>(
        "honesty.hides-its-limits",
        "no limits are declared, and there are some",
        &[
            "payload.events-up-to-the-limit",
            "payload.commits-up-to-the-limit-of-bytes",
            "payload.commits-up-to-the-limit-of-events",
            "payload.the-largest-event-is-read-on-every-way",
            "snapshots.up-to-the-limit",
            "records.value-limit-is-kept",
            "copies.nothing-is-cut-to-fit",
        ],
    ),
    mutant::<EventAsLargeAsCommit>(
        "honesty.an-event-that-no-commit-holds",
        "an event is declared to be as large as its commit, which has to hold more than it",
        &["honesty.declarations-agree", "payload.events-up-to-the-limit"],
    ),
    mutant::<PagesOfTen>(
        "honesty.pages-below-the-least",
        "a page has ten items at most",
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
        &[
            "honesty.operations-are-as-declared",
            "deletion.each-expectation-is-checked",
            "snapshots.go-with-their-stream",
            "tenancy.deleting-in-one-namespace-leaves-others",
            "streams.a-truncated-beginning-is-told",
            "filters.markers-pass-with-their-stream",
            "listing.deleted-streams-are-listed-as-deleted",
            "idempotency.a-repeat-is-recognised-after-truncation",
            "idempotency.a-repeat-is-recognised-after-deletion",
        ],
    ),
    mutant::<RefusesCopies>(
        "honesty.copies-what-it-refuses",
        "copies are declared to be refused, and are taken",
        &["honesty.operations-are-as-declared", "copies.a-copy-is-the-same"],
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

#[derive(Debug, Default)]
struct HidesLimits;

/// The same bounds, but for those that a store may be without.
pub(super) fn without_limits(limits: &Limits) -> Limits {
    Limits {
        event_bytes: Limit::None,
        commit_bytes: Limit::None,
        commit_events: Limit::None,
        snapshot_bytes: Limit::None,
        record_bytes: Limit::None,
        ..*limits
    }
}

impl Defect for HidesLimits {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { limits: without_limits(&inner.limits), ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct EventAsLargeAsCommit;

impl Defect for EventAsLargeAsCommit {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let mut declared = inner.clone();
        declared.limits.event_bytes = declared.limits.commit_bytes;
        declared
    }
}

#[derive(Debug, Default)]
struct PagesOfTen;

impl Defect for PagesOfTen {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let mut declared = inner.clone();
        declared.limits.page_items = 10;
        declared
    }
}
