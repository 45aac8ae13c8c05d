//! What can be wrong with repeats.

use super::Mutant;
use super::defect::{Defect, find, forgotten, head, lock, mutant, with_events};
use async_trait::async_trait;
use evstore_api::capabilities::{EventIds, Window};
use evstore_api::{
    Append, Appended, Capabilities, CommitId, Error, ErrorKind, EventStore, FindCommit, Replicate, Replicated, Result,
    StoreAdmin, StreamState, Truncate, Truncated,
};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<Forgets>(
        "idempotency.forgets",
        "a commit id is not looked at: a repeat is appended once more",
        &[
            "idempotency.a-repeat-returns-the-first-receipt",
            "idempotency.a-dropped-append-is-resolved-by-repeating",
            "idempotency.other-content-is-refused",
            "concurrency.identical-appends-are-made-once",
        ],
    ),
    mutant::<RepeatIsNotTold>(
        "idempotency.a-repeat-is-not-told",
        "a repeat answers as if it had been made now",
        &["idempotency.a-repeat-returns-the-first-receipt", "concurrency.identical-appends-are-made-once"],
    ),
    mutant::<RemembersTheLast>(
        "idempotency.remembers-the-last",
        "only the last commit of a stream is known by its id",
        &["idempotency.a-repeat-is-recognised-after-others", "idempotency.the-window-is-as-declared"],
    ),
    mutant::<Shortened<0>>(
        "idempotency.markers-shorten-the-window",
        "the marker of a truncation takes two places of the window",
        &["idempotency.markers-count-in-the-window"],
    ),
    mutant::<Shortened<1>>(
        "idempotency.copies-shorten-the-window",
        "the window of a stream that was copied is smaller by one",
        &["idempotency.the-window-is-as-declared"],
    ),
    mutant::<Shortened<2>>(
        "idempotency.new-handles-shorten-the-window",
        "once a store was opened a second time, its window is smaller by one",
        &["idempotency.the-window-is-as-declared"],
    ),
    mutant::<ExpectationFirst>(
        "idempotency.expectation-first",
        "the expectation is looked at before the commit id",
        &["idempotency.a-repeat-is-recognised-after-others", "idempotency.a-repeat-returns-the-first-receipt"],
    ),
    mutant::<ContentUnchecked>(
        "idempotency.content-unchecked",
        "a known commit id is answered with the first receipt whatever the content",
        &["idempotency.other-content-is-refused", "idempotency.a-refused-commit-leaves-its-id-free"],
    ),
    mutant::<IdsOfTheStore>(
        "idempotency.ids-of-the-store",
        "a commit id of another stream is taken for a repeat",
        &["idempotency.an-id-belongs-to-its-stream", "tenancy.namespaces-are-independent"],
    ),
    mutant::<BurnsIds>(
        "idempotency.burns-ids",
        "the id of an append that conflicted can't be used any more",
        &["idempotency.a-refused-commit-leaves-its-id-free"],
    ),
    mutant::<LosesEventIds>(
        "idempotency.loses-event-ids",
        "event ids of the caller are replaced",
        &[
            "idempotency.an-event-id-twice-in-a-commit-is-refused",
            "idempotency.event-ids-are-unique-as-declared",
            "payload.every-field-comes-back",
        ],
    ),
    mutant::<DeclaresUniqueIds>(
        "idempotency.declares-unique-event-ids",
        "event ids are declared unique in the store, and nobody looks",
        &["idempotency.event-ids-are-unique-as-declared"],
    ),
    mutant::<ShortWindow>(
        "idempotency.a-short-window",
        "a commit is known by its id for 63 commits, whatever is declared",
        &["idempotency.the-window-is-as-declared"],
    ),
    mutant::<FindsNothing>(
        "idempotency.finds-nothing",
        "no commit is found by its id",
        &["idempotency.a-commit-is-found-by-its-id", "time.recorded-times-agree-everywhere"],
    ),
    mutant::<LostAnswer>(
        "idempotency.forgets-lost-answers",
        "a commit whose caller went away is written and not remembered",
        &["idempotency.a-dropped-append-is-resolved-by-repeating"],
    ),
    mutant::<ForgetsTruncated>(
        "idempotency.forgets-truncated-commits",
        "truncation takes the ids away with the events",
        &["idempotency.a-repeat-is-recognised-after-truncation"],
    ),
    mutant::<GoneFirst>(
        "idempotency.gone-first",
        "a repeat of a commit of a deleted stream is refused",
        &["idempotency.a-repeat-is-recognised-after-deletion"],
    ),
];

#[derive(Debug, Default)]
struct Forgets;

#[async_trait]
impl Defect for Forgets {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        match find(store, &request).await? {
            None => store.append(request).await,
            Some(_) => store.append(forgotten(Append { expected: evstore_api::Expected::Any, ..request })).await,
        }
    }
}

#[derive(Debug, Default)]
struct RepeatIsNotTold;

#[async_trait]
impl Defect for RepeatIsNotTold {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        Ok(Appended { repeated: false, ..store.append(request).await? })
    }
}

#[derive(Debug, Default)]
struct RemembersTheLast;

#[async_trait]
impl Defect for RemembersTheLast {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let last = head(store, &request.stream, request.deadline).await?.number;
        let known = find(store, &request).await?.is_none_or(|found| found.number == last);
        store.append(if known { request } else { forgotten(request) }).await
    }
}

#[derive(Debug, Default)]
struct ExpectationFirst;

#[async_trait]
impl Defect for ExpectationFirst {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let found = head(store, &request.stream, request.deadline).await?;
        if request.expected.holds(found.revision) {
            return store.append(request).await;
        }
        Err(Error::new(ErrorKind::Conflict, "the stream is not as expected").at_head(found))
    }
}

#[derive(Debug, Default)]
struct ContentUnchecked;

#[async_trait]
impl Defect for ContentUnchecked {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        match find(store, &request).await? {
            Some(found) => Ok(found),
            None => store.append(request).await,
        }
    }
}

#[derive(Debug, Default)]
struct IdsOfTheStore(Mutex<HashMap<CommitId, Appended>>);

#[async_trait]
impl Defect for IdsOfTheStore {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let known = lock(&self.0).get(&request.commit.id).cloned();
        if let Some(receipt) = known {
            return Ok(Appended { repeated: true, ..receipt });
        }
        let receipt = store.append(request).await?;
        lock(&self.0).insert(receipt.commit, receipt.clone());
        Ok(receipt)
    }
}

#[derive(Debug, Default)]
struct BurnsIds(Mutex<HashSet<CommitId>>);

#[async_trait]
impl Defect for BurnsIds {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let id = request.commit.id;
        if lock(&self.0).contains(&id) {
            return Err(Error::new(ErrorKind::IdReused, "the commit id was used for other content").of_commit(id));
        }
        let answer = store.append(request).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
            lock(&self.0).insert(id);
        }
        answer
    }
}

#[derive(Debug, Default)]
struct LosesEventIds;

#[async_trait]
impl Defect for LosesEventIds {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = with_events(request, |events| events.iter_mut().for_each(|event| event.id = None))?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct DeclaresUniqueIds;

impl Defect for DeclaresUniqueIds {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { event_ids: EventIds::PerStore, ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct ShortWindow;

#[async_trait]
impl Defect for ShortWindow {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let last = head(store, &request.stream, request.deadline).await?.number;
        let known = find(store, &request).await?.is_none_or(|found| found.number.0 + 63 > last.0);
        store.append(if known { request } else { forgotten(request) }).await
    }
}

#[derive(Debug, Default)]
struct FindsNothing;

#[async_trait]
impl Defect for FindsNothing {
    async fn find_commit(&self, _: &dyn EventStore, _: FindCommit) -> Result<Option<Appended>> {
        Ok(None)
    }
}

#[derive(Debug, Default)]
struct LostAnswer(Mutex<HashSet<CommitId>>);

#[async_trait]
impl Defect for LostAnswer {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let id = request.commit.id;
        if lock(&self.0).contains(&id) {
            let again = forgotten(Append { expected: evstore_api::Expected::Any, ..request });
            let receipt = store.append(again).await?;
            return Ok(Appended { commit: id, ..receipt });
        }
        let receipt = store.append(request).await?;
        // Taken back when the answer is given; a caller who went away leaves it.
        lock(&self.0).insert(id);
        tokio::task::yield_now().await;
        lock(&self.0).remove(&id);
        Ok(receipt)
    }
}

#[derive(Debug, Default)]
struct ForgetsTruncated;

#[async_trait]
impl Defect for ForgetsTruncated {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let first = head(store, &request.stream, request.deadline).await?.first_retained;
        let known = find(store, &request).await?.is_none_or(|found| found.last >= first);
        store.append(if known { request } else { forgotten(request) }).await
    }
}

#[derive(Debug, Default)]
struct GoneFirst;

#[async_trait]
impl Defect for GoneFirst {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        match head(store, &request.stream, request.deadline).await?.state {
            StreamState::Deleted => Err(Error::new(ErrorKind::Gone, "the stream was deleted for good")),
            _ => store.append(request).await,
        }
    }
}

/// How often what shortens the window was done: a truncation, a copy, or an opening, of which the first is the store's making.
#[derive(Debug, Default)]
struct Shortened<const BY: usize>([AtomicU64; 3]);

impl<const BY: usize> Shortened<BY> {
    fn done(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl<const BY: usize> Defect for Shortened<BY> {
    async fn opened(&self, _: &dyn EventStore) -> Result<()> {
        self.done(2);
        Ok(())
    }

    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        self.done(0);
        admin.truncate(request).await
    }

    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        self.done(1);
        admin.replicate(request).await
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let least = if BY == 2 { 2 } else { 1 };
        let Window::Commits(window) = store.capabilities().idempotency else { return store.append(request).await };
        let Some(first) = find(store, &request).await? else { return store.append(request).await };
        let now = head(store, &request.stream, request.deadline).await?.number;
        let is_last = now.0 - first.number.0 + 1 >= window;
        let shortened = self.0[BY].load(Ordering::SeqCst) >= least;
        store.append(if is_last && shortened { forgotten(request) } else { request }).await
    }
}
