//! Stores that are right for one caller and wrong for several.

use super::Mutant;
use super::defect::{Defect, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, CommitId, Error, ErrorKind, EventStore, Expected, FindCommit, Head, ReadHead, Result, Revision,
    StreamId,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) const MUTANTS: &[Mutant] = &[
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
pub(super) const OF_PROCESSES: &[Mutant] = &[
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
