//! What can be wrong with opening, closing, deadlines, dropped calls and errors.

use super::Mutant;
use super::defect::{Defect, find, forgotten, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Append, Appended, CommitId, Deadline, Error, ErrorKind, EventStore, Finding, Incarnation, Lineage,
    Opener, ReadStream, Result, SchemaChange, SchemaPlan, Settings, StoreAdmin, StreamPage, SwapMeta, WaitFeed, Waited,
};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<NeverCloses>(
        "lifecycle.never-closes",
        "a handle that was closed goes on",
        &["lifecycle.a-closed-store-refuses-every-call"],
    ),
    mutant::<ClosesAll>(
        "lifecycle.closes-every-handle",
        "closing one handle of a store closes all of them",
        &["lifecycle.closing-one-handle-leaves-the-others"],
    ),
    mutant::<DropsAnswers>(
        "lifecycle.a-close-drops-answers",
        "an append that was made while its handle was closed is answered as if it had been refused",
        &["lifecycle.a-close-answers-what-was-taken"],
    ),
    mutant::<NeverReady>(
        "lifecycle.the-schema-is-never-ready",
        "there is always one more change of the schema to make",
        &["lifecycle.the-schema-can-be-applied-again"],
    ),
    mutant::<CriesWolf>(
        "health.finds-a-problem-where-there-is-none",
        "every examination finds a problem",
        &["health.an-examination-changes-nothing"],
    ),
    mutant::<ExaminationMends>(
        "health.an-examination-begins-a-history",
        "an examination begins a new history of the store",
        &["health.an-examination-changes-nothing"],
    ),
    mutant::<IgnoresFormat>(
        "lifecycle.takes-every-format",
        "the schema of every store is found to be right",
        &["lifecycle.a-newer-store-is-refused"],
    ),
    Mutant {
        name: "lifecycle.drops-nothing",
        defect: "a scratch store that was dropped is still there",
        killed_by: &["lifecycle.a-missing-store-is-refused", "lifecycle.scratch-stores-come-and-go"],
        wrap: |inner| Arc::new(DropsNothing(inner)),
    },
    Mutant {
        name: "lifecycle.tags-lead-elsewhere",
        defect: "the settings that a tag gives are not those of the scratch store that was made with it",
        killed_by: &["lifecycle.scratch-stores-come-and-go"],
        wrap: |inner| Arc::new(Elsewhere(inner)),
    },
    mutant::<LateWrites>(
        "lifecycle.writes-past-the-deadline",
        "an append whose deadline has passed is made all the same",
        &["lifecycle.a-passed-deadline-writes-nothing"],
    ),
    mutant::<SaysNotWritten>(
        "lifecycle.says-that-nothing-was-written",
        "an append that was made too late is answered as if it had not been made",
        &["lifecycle.a-short-deadline-tells-the-truth"],
    ),
    mutant::<ForgetsDropped>(
        "lifecycle.forgets-dropped-appends",
        "the id of an append whose caller went away is not kept",
        &["lifecycle.a-dropped-append-has-one-outcome"],
    ),
    mutant::<FourConnections>(
        "lifecycle.waits-hold-connections",
        "a wait holds one of four connections, which appends need too",
        &["lifecycle.waiting-readers-starve-nobody"],
    ),
    mutant::<ShowsData>(
        "lifecycle.errors-show-data",
        "the error of a refused append has the data of its first event",
        &["lifecycle.errors-hold-no-payload"],
    ),
    mutant::<KeepsData>(
        "lifecycle.handles-show-data",
        "a handle shows the data of the last append",
        &["lifecycle.errors-hold-no-payload"],
    ),
];

#[derive(Debug, Default)]
struct CriesWolf;

#[async_trait]
impl Defect for CriesWolf {
    async fn examine(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<Vec<Finding>> {
        let mut findings = admin.examine(deadline).await?;
        findings.push(Finding::problem("wolf", "it is here", "run"));
        Ok(findings)
    }
}

#[derive(Debug, Default)]
struct ExaminationMends;

#[async_trait]
impl Defect for ExaminationMends {
    async fn examine(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<Vec<Finding>> {
        let meta = admin.read_meta(deadline).await?;
        let mut new = meta.clone();
        if let Some(last) = new.lineage.last_mut() {
            last.ended_at = Some(admin.advance_feed(AdvanceFeed { deadline }).await?.head.position.unwrap_or_default());
        }
        new.lineage.push(Lineage { incarnation: Incarnation::generate(), ended_at: None });
        admin.swap_meta(SwapMeta { expected: meta, new, deadline }).await?;
        admin.examine(deadline).await
    }
}

#[derive(Debug, Default)]
struct NeverCloses;

#[async_trait]
impl Defect for NeverCloses {
    async fn close(&self, _: &dyn EventStore) -> Result<()> {
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the handle was closed")
}

#[derive(Debug, Default)]
struct ClosesAll(AtomicBool);

#[async_trait]
impl Defect for ClosesAll {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        if self.0.load(Ordering::SeqCst) {
            return Err(closed());
        }
        store.read_stream(request).await
    }

    async fn close(&self, store: &dyn EventStore) -> Result<()> {
        self.0.store(true, Ordering::SeqCst);
        store.close().await
    }
}

#[derive(Debug, Default)]
struct DropsAnswers(AtomicBool);

#[async_trait]
impl Defect for DropsAnswers {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        tokio::time::sleep(Duration::from_micros(500)).await;
        if self.0.load(Ordering::SeqCst) { Err(closed()) } else { Ok(receipt) }
    }

    async fn close(&self, store: &dyn EventStore) -> Result<()> {
        // The appends of the race have begun by then.
        tokio::time::sleep(Duration::from_micros(200)).await;
        self.0.store(true, Ordering::SeqCst);
        store.close().await
    }
}

#[derive(Debug, Default)]
struct NeverReady;

#[async_trait]
impl Defect for NeverReady {
    async fn plan_schema(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<SchemaPlan> {
        let mut plan = admin.plan_schema(deadline).await?;
        plan.changes.push(SchemaChange { summary: "make an index".into(), statement: String::new() });
        Ok(plan)
    }
}

#[derive(Debug, Default)]
struct IgnoresFormat;

#[async_trait]
impl Defect for IgnoresFormat {
    async fn plan_schema(&self, _: &dyn StoreAdmin, _: Deadline) -> Result<SchemaPlan> {
        Ok(SchemaPlan { changes: Vec::new() })
    }

    async fn check_schema(&self, _: &dyn StoreAdmin, _: Deadline) -> Result<()> {
        Ok(())
    }
}

struct DropsNothing(Arc<dyn Opener>);

#[async_trait]
impl Opener for DropsNothing {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.0.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.0.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.0.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.0.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, _: &Settings) -> Result<()> {
        Ok(())
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.0.list_scratch(settings).await
    }
}

struct Elsewhere(Arc<dyn Opener>);

#[async_trait]
impl Opener for Elsewhere {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.0.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.0.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.0.scratch(settings, &tag.chars().rev().collect::<String>())
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.0.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.0.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.0.list_scratch(settings).await
    }
}

/// More time than any check gives.
fn later() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

#[derive(Debug, Default)]
struct LateWrites;

#[async_trait]
impl Defect for LateWrites {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(Append { deadline: later(), ..request }).await
    }
}

#[derive(Debug, Default)]
struct SaysNotWritten;

#[async_trait]
impl Defect for SaysNotWritten {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let deadline = request.deadline;
        let receipt = store.append(Append { deadline: later(), ..request }).await?;
        tokio::time::sleep(Duration::from_micros(300)).await;
        if deadline.has_passed() {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline has passed"));
        }
        Ok(receipt)
    }
}

/// Commits whose callers went away before they had an answer.
#[derive(Debug, Default)]
struct ForgetsDropped(Mutex<HashSet<CommitId>>);

/// Notes a commit, unless its caller stays to the end.
struct Answering<'a> {
    dropped: &'a Mutex<HashSet<CommitId>>,
    commit: Option<CommitId>,
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        lock(self.dropped).extend(self.commit);
    }
}

#[async_trait]
impl Defect for ForgetsDropped {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let commit = request.commit.id;
        if lock(&self.0).contains(&commit) {
            return store.append(forgotten(request)).await;
        }
        let mut answering = Answering { dropped: &self.0, commit: Some(commit) };
        let repeated = find(store, &request).await?.is_some();
        let receipt = store.append(request).await;
        if !repeated {
            tokio::time::sleep(Duration::from_micros(700)).await;
        }
        answering.commit = None;
        receipt
    }
}

#[derive(Debug)]
struct FourConnections(Semaphore);

impl Default for FourConnections {
    fn default() -> Self {
        Self(Semaphore::new(4))
    }
}

#[async_trait]
impl Defect for FourConnections {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let _connection = self.0.acquire().await;
        store.append(request).await
    }

    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        let _connection = self.0.acquire().await;
        store.wait_feed(request).await
    }
}

fn first_data(request: &Append) -> String {
    request.commit.events.as_slice().first().map(|event| format!("{:?}", event.data)).unwrap_or_default()
}

#[derive(Debug, Default)]
struct ShowsData;

#[async_trait]
impl Defect for ShowsData {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let data = first_data(&request);
        store.append(request).await.map_err(|error| error.with("event", data))
    }
}

#[derive(Debug, Default)]
struct KeepsData(Mutex<String>);

#[async_trait]
impl Defect for KeepsData {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        *lock(&self.0) = first_data(&request);
        store.append(request).await
    }
}
