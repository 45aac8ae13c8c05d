//! Stores that are right for one caller and wrong for several.

use super::Mutant;
use super::defect::{Defect, find, forgotten, mutant, with_events};
use crate::seed::Seed;
use async_trait::async_trait;
use evstore_api::capabilities::Processes;
use evstore_api::{
    Append, Appended, Capabilities, CommitId, CommitsPage, Deadline, Error, ErrorKind, EventStore, Expected,
    FeedFilter, FeedItem, FeedPage, FeedStart, FindCommit, Head, ListStreams, Meta, MetaSwapped, ReadCommits, ReadFeed,
    ReadHead, Result, Revision, StoreAdmin, StreamId, StreamsPage, SwapMeta,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<CheckedApart>(
        "concurrency.expectation-checked-apart",
        "the expectation is checked in a step before the one that writes",
        &[
            "concurrency.one-append-wins-each-revision",
            "concurrency.the-expectation-is-checked-at-the-commit",
            "concurrency.histories-of-threads-are-serial",
        ],
    ),
    mutant::<LosersWin>(
        "concurrency.losers-are-appended-all-the-same",
        "an append that conflicts is made once more without its expectation",
        &[
            "concurrency.a-stalled-writer-conflicts",
            "concurrency.one-append-wins-each-revision",
            "concurrency.clients-see-each-other",
        ],
    ),
    mutant::<AnyIsAnExpectation>(
        "concurrency.any-conflicts",
        "an append that expects nothing expects the head that it read",
        &["concurrency.unconditional-appends-all-succeed"],
    ),
    mutant::<OneAtATime>(
        "concurrency.streams-conflict",
        "an append conflicts while another is under way, whatever its stream",
        &["concurrency.streams-do-not-conflict"],
    ),
    mutant::<LookupApart>(
        "concurrency.commit-id-looked-up-apart",
        "the commit id is looked up in a step before the one that writes",
        &["concurrency.identical-appends-are-made-once"],
    ),
    mutant::<CheckedPerHandle>(
        "concurrency.expectation-checked-per-handle",
        "appends of one handle take turns, and the expectation is checked in a step before the one that writes",
        &["concurrency.one-append-wins-each-revision", "concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<LookupPerHandle>(
        "concurrency.commit-id-looked-up-per-handle",
        "appends of one handle take turns, and the commit id is looked up in a step before the one that writes",
        &["concurrency.identical-appends-are-made-once"],
    ),
    mutant::<HeadsDrift>(
        "listing.heads-drift-with-conflicts",
        "an append that conflicts counts in the list of streams all the same",
        &["concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<CachedHeads>(
        "concurrency.heads-from-a-cache",
        "a head is answered as it was when it was read first",
        &["concurrency.clients-see-each-other"],
    ),
    mutant::<ForgetsSome>(
        "concurrency.acknowledged-and-forgotten",
        "every seventh append is acknowledged and not made",
        &[
            "concurrency.decisions-under-contention-are-serial",
            "concurrency.unconditional-appends-all-succeed",
            "concurrency.histories-of-threads-are-serial",
        ],
    ),
];

/// Stores that are right in one process and wrong in several, or once a process is killed. They need a store that several
/// processes can open.
pub(super) static OF_PROCESSES: &[Mutant] = &[
    mutant::<TrustedHeads>(
        "processes.heads-trusted-from-memory",
        "a process that knows a head does not look whether another has moved it",
        &["concurrency.histories-of-processes-are-serial"],
    ),
    mutant::<Behind>(
        "processes.acknowledged-before-written",
        "an append is acknowledged when it is queued, and written with the next",
        &["concurrency.killed-processes-lose-nothing-acknowledged"],
    ),
    mutant::<Alone<Behind>>(
        "processes.acknowledged-before-written-by-one",
        "an append is acknowledged when it is queued and written with the next, in a store that one process has open at a time",
        &["concurrency.killed-processes-lose-nothing-acknowledged"],
    ),
    mutant::<Alone<OpenDropsLast>>(
        "processes.open-drops-the-last-commit",
        "a store that is opened takes its last commit for one that was not finished, and drops it",
        &["concurrency.killed-processes-lose-nothing-acknowledged"],
    ),
    mutant::<LookupPerHandle>(
        "processes.commit-id-looked-up-apart",
        "appends of one process take turns, and the commit id is looked up in a step before the one that writes",
        &["concurrency.histories-of-processes-are-serial"],
    ),
    mutant::<RepeatsUnknown>(
        "processes.a-repeat-after-a-crash-is-made-again",
        "a process knows the commit ids that it has seen itself",
        &["concurrency.killed-processes-lose-nothing-acknowledged"],
    ),
    mutant::<TwoTransactions>(
        "processes.a-commit-in-two-transactions",
        "the events of a commit behind the first are written in a transaction of their own",
        &["concurrency.killed-processes-lose-nothing-acknowledged", "concurrency.histories-of-processes-are-serial"],
    ),
    mutant::<FenceInMemory>(
        "processes.fence-trusted-from-memory",
        "a fence is kept in the memory of the process that set it",
        &["ownership.no-process-appends-behind-the-fence"],
    ),
];

/// Long enough for another caller to come between two steps.
const BETWEEN: Duration = Duration::from_millis(2);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn head_of(store: &dyn EventStore, request: &Append) -> Result<Head> {
    store.head(ReadHead { stream: request.stream.clone(), deadline: request.deadline }).await
}

/// The receipt that an append at a head would have.
fn receipt_at(head: &Head, request: &Append) -> Appended {
    let first = head.revision.next();
    Appended {
        commit: request.commit.id,
        number: head.number.next(),
        first,
        last: Revision(head.revision.0 + u64::from(request.commit.events.count())),
        position: None,
        recorded_at: head.recorded_at.unwrap_or_default(),
        digest: evstore_api::ContentDigest([0; 16]),
        repeated: false,
        usage: evstore_api::Usage::default(),
    }
}

fn conflict(head: Head) -> Error {
    Error::new(ErrorKind::Conflict, "the expectation does not hold").at_head(head)
}

#[derive(Debug, Default)]
struct CheckedApart;

#[async_trait]
impl Defect for CheckedApart {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        let head = head_of(store, &request).await?;
        if !request.expected.holds(head.revision) {
            return store.append(request).await;
        }
        tokio::time::sleep(BETWEEN).await;
        request.expected = Expected::Any;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct LosersWin;

#[async_trait]
impl Defect for LosersWin {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        match store.append(request.clone()).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                request.expected = Expected::Any;
                store.append(request).await
            }
            result => result,
        }
    }
}

#[derive(Debug, Default)]
struct AnyIsAnExpectation;

#[async_trait]
impl Defect for AnyIsAnExpectation {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        if request.expected == Expected::Any {
            request.expected = Expected::At(head_of(store, &request).await?.revision);
            tokio::time::sleep(BETWEEN).await;
        }
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct OneAtATime {
    under_way: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Defect for OneAtATime {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let Ok(_alone) = self.under_way.try_lock() else {
            return Err(conflict(head_of(store, &request).await?));
        };
        tokio::time::sleep(BETWEEN).await;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct LookupApart {
    made: Mutex<HashMap<(StreamId, CommitId), Appended>>,
    copies: AtomicU64,
}

#[async_trait]
impl Defect for LookupApart {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        let key = (request.stream.clone(), request.commit.id);
        if let Some(receipt) = lock(&self.made).get(&key) {
            return Ok(Appended { repeated: true, ..receipt.clone() });
        }
        tokio::time::sleep(BETWEEN).await;
        // Only the first goes in under the caller's id: the inner store looks it up in the right step.
        let lookup = FindCommit { stream: key.0.clone(), commit: key.1, deadline: request.deadline };
        if store.find_commit(lookup).await?.is_some() {
            let copy = self.copies.fetch_add(1, Ordering::Relaxed);
            request.commit.id = CommitId::derive(&[&key.1.0, &copy.to_le_bytes()]);
        }
        let receipt = Appended { commit: key.1, ..store.append(request).await? };
        lock(&self.made).insert(key, receipt.clone());
        Ok(receipt)
    }
}

/// One lock for each handle. A handle is known by the store that it has inside.
#[derive(Debug, Default)]
struct PerHandle {
    locks: Mutex<HashMap<usize, Arc<tokio::sync::Mutex<()>>>>,
    pauses: AtomicU64,
}

impl PerHandle {
    fn lock_of(&self, store: &dyn EventStore) -> Arc<tokio::sync::Mutex<()>> {
        let handle = std::ptr::from_ref(store).cast::<()>().addr();
        lock(&self.locks).entry(handle).or_default().clone()
    }

    /// Differs from process to process and from call to call, so that two handles are not always in the same step.
    async fn pause(&self) {
        let drawn = self.pauses.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
        tokio::time::sleep(Duration::from_micros(Seed(drawn).below(8_000))).await;
    }
}

#[derive(Debug, Default)]
struct CheckedPerHandle(PerHandle);

#[async_trait]
impl Defect for CheckedPerHandle {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        let turn = self.0.lock_of(store);
        let _turn = turn.lock().await;
        let head = head_of(store, &request).await?;
        if !request.expected.holds(head.revision) {
            return store.append(request).await;
        }
        self.0.pause().await;
        request.expected = Expected::Any;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct LookupPerHandle(PerHandle);

#[async_trait]
impl Defect for LookupPerHandle {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let turn = self.0.lock_of(store);
        let _turn = turn.lock().await;
        if find(store, &request).await?.is_some() {
            return store.append(request).await;
        }
        self.0.pause().await;
        // Made by another handle in between: the inner store would notice, and this one does not.
        if find(store, &request).await?.is_some() {
            let commit = request.commit.id;
            return Ok(Appended { commit, ..store.append(forgotten(request)).await? });
        }
        store.append(request).await
    }
}

/// How many appends to each stream conflicted.
#[derive(Debug, Default)]
struct HeadsDrift(Mutex<HashMap<StreamId, u64>>);

#[async_trait]
impl Defect for HeadsDrift {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let stream = request.stream.clone();
        let result = store.append(request).await;
        if matches!(&result, Err(error) if error.kind() == ErrorKind::Conflict) {
            *lock(&self.0).entry(stream).or_default() += 1;
        }
        result
    }

    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let mut page = store.list_streams(request).await?;
        for one in &mut page.streams {
            one.head.revision.0 += lock(&self.0).get(&one.stream).copied().unwrap_or_default();
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct CachedHeads {
    heads: Mutex<HashMap<StreamId, Head>>,
}

#[async_trait]
impl Defect for CachedHeads {
    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        if let Some(head) = lock(&self.heads).get(&request.stream) {
            return Ok(head.clone());
        }
        let head = store.head(request.clone()).await?;
        lock(&self.heads).insert(request.stream, head.clone());
        Ok(head)
    }
}

#[derive(Debug, Default)]
struct ForgetsSome {
    appends: AtomicU64,
}

#[async_trait]
impl Defect for ForgetsSome {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        if self.appends.fetch_add(1, Ordering::Relaxed) % 7 != 6 {
            return store.append(request).await;
        }
        let head = head_of(store, &request).await?;
        if !request.expected.holds(head.revision) {
            return Err(conflict(head));
        }
        Ok(receipt_at(&head, &request))
    }
}

#[derive(Debug, Default)]
struct TrustedHeads {
    heads: tokio::sync::Mutex<HashMap<StreamId, Revision>>,
}

#[async_trait]
impl Defect for TrustedHeads {
    async fn append(&self, store: &dyn EventStore, mut request: Append) -> Result<Appended> {
        let mut heads = self.heads.lock().await;
        let known = heads.get(&request.stream).copied();
        if known.is_some_and(|known| request.expected.holds(known)) {
            request.expected = Expected::Any;
        }
        let stream = request.stream.clone();
        let result = store.append(request).await;
        match &result {
            Ok(receipt) if !receipt.repeated => _ = heads.insert(stream, receipt.last),
            Ok(_) => {}
            Err(error) => _ = error.head().map(|head| heads.insert(stream, head.revision)),
        }
        result
    }
}

#[derive(Debug, Default)]
struct Behind {
    queued: tokio::sync::Mutex<Vec<Append>>,
    seen: Mutex<HashSet<CommitId>>,
}

impl Behind {
    async fn flush(&self, store: &dyn EventStore, queued: &mut Vec<Append>) -> Result<()> {
        for mut request in queued.drain(..) {
            request.expected = Expected::Any;
            store.append(request).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Defect for Behind {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let mut queued = self.queued.lock().await;
        self.flush(store, &mut queued).await?;
        let head = head_of(store, &request).await?;
        if !lock(&self.seen).insert(request.commit.id) || !request.expected.holds(head.revision) {
            return store.append(request).await;
        }
        let receipt = receipt_at(&head, &request);
        queued.push(request);
        Ok(receipt)
    }

    async fn close(&self, store: &dyn EventStore) -> Result<()> {
        self.flush(store, &mut *self.queued.lock().await).await?;
        store.close().await
    }
}

/// A store with a defect that one process has open at a time.
#[derive(Debug, Default)]
struct Alone<D>(D);

#[async_trait]
impl<D: Defect> Defect for Alone<D> {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { processes: Processes::One, ..self.0.capabilities(inner) }
    }

    async fn opened(&self, store: &dyn EventStore) -> Result<()> {
        self.0.opened(store).await
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        self.0.append(store, request).await
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        self.0.read_feed(store, request).await
    }

    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        self.0.read_commits(admin, request).await
    }

    async fn close(&self, store: &dyn EventStore) -> Result<()> {
        self.0.close(store).await
    }
}

/// The commit that was the last of the feed when the store was opened.
#[derive(Debug, Default)]
struct OpenDropsLast(Mutex<HashSet<CommitId>>);

#[async_trait]
impl Defect for OpenDropsLast {
    async fn opened(&self, store: &dyn EventStore) -> Result<()> {
        let (mut from, mut last) = (FeedStart::First, None);
        loop {
            let (filter, limit, max_bytes) = (FeedFilter::none(), 500, u64::MAX);
            let deadline = Deadline::within(Duration::from_secs(20));
            let page = store.read_feed(ReadFeed { from, filter, limit, max_bytes, deadline }).await?;
            last = page.commits().last().map(|commit| commit.id).or(last);
            if page.end {
                break;
            }
            from = FeedStart::After(page.next);
        }
        lock(&self.0).extend(last);
        Ok(())
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        page.items.retain(|item| match item {
            FeedItem::Commit(commit) => !lock(&self.0).contains(&commit.id),
            FeedItem::Removed { .. } => true,
        });
        Ok(page)
    }

    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let mut page = admin.read_commits(request).await?;
        page.commits.retain(|commit| !lock(&self.0).contains(&commit.id));
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct RepeatsUnknown(Mutex<HashSet<CommitId>>);

#[async_trait]
impl Defect for RepeatsUnknown {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let commit = request.commit.id;
        if lock(&self.0).insert(commit) && find(store, &request).await?.is_some() {
            return Ok(Appended { commit, ..store.append(forgotten(request)).await? });
        }
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct TwoTransactions;

#[async_trait]
impl Defect for TwoTransactions {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let there = find(store, &request).await?.is_some();
        if there || request.commit.events.count() == 1 {
            return store.append(request).await;
        }
        let mut rest = with_events(forgotten(request.clone()), |events| drop(events.remove(0)))?;
        let first = with_events(request, |events| events.truncate(1))?;
        let receipt = store.append(first).await?;
        rest.expected = Expected::At(receipt.last);
        let rest = store.append(rest).await?;
        Ok(Appended { last: rest.last, ..receipt })
    }
}

/// The record as this process last changed it.
#[derive(Debug, Default)]
struct FenceInMemory(Mutex<Option<Meta>>);

#[async_trait]
impl Defect for FenceInMemory {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let state = lock(&self.0).as_ref().map(|meta| meta.state.clone());
        state.map_or(Ok(()), |state| state.check_append())?;
        store.append(request).await
    }

    async fn swap_meta(&self, _: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        *lock(&self.0) = Some(request.new);
        Ok(MetaSwapped::Done)
    }
}
