//! A migrator is cut off before and after every single call that it makes to a store, and another one goes on: as `kill -9` does, at
//! every instruction that anybody but the migrator could notice.

// A test may fail by a panic, also in its helpers.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use evstore_api::*;
use evstore_migrate::{Migration, Phase, Settled, Side, Way};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const PATIENCE: Duration = Duration::from_secs(30);
/// More calls than a hand-over makes.
const CALLS_MAX: i64 = 500;

/// A process whose calls stop being made.
#[derive(Debug)]
struct Life {
    calls_left: AtomicI64,
    /// Whether the last call still arrives, and only its answer does not.
    arrives: bool,
    died: Notify,
    /// It was stopped, not killed: what it was about to do comes much later.
    wakes: Notify,
    /// How many copies are taken without a word.
    untold: AtomicI64,
    /// Until when each of the copies had time.
    asked: Mutex<Vec<Deadline>>,
}

impl Life {
    fn of(calls: i64, arrives: bool) -> Arc<Self> {
        Arc::new(Self {
            calls_left: AtomicI64::new(calls),
            arrives,
            died: Notify::new(),
            wakes: Notify::new(),
            untold: AtomicI64::new(0),
            asked: Mutex::default(),
        })
    }

    async fn call<T>(&self, call: impl Future<Output = T> + Send) -> T {
        let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return call.await;
        }
        if left == 0 && self.arrives {
            call.await;
            self.died.notify_one();
            return std::future::pending().await;
        }
        self.died.notify_one();
        self.wakes.notified().await;
        self.wakes.notify_one();
        call.await
    }
}

#[derive(Debug)]
struct Mortal<S: ?Sized> {
    life: Arc<Life>,
    inner: Arc<S>,
}

macro_rules! forward {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(
            fn $name<'life, 'call>(&'life self, request: $request) -> std::pin::Pin<Box<dyn Future<Output = Result<$answer>> + Send + 'call>>
            where
                'life: 'call,
                Self: 'call,
            {
                Box::pin(async move { self.life.call(self.inner.$name(request)).await })
            }
        )*
    };
}

#[async_trait]
impl EventStore for Mortal<dyn EventStore> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    forward! {
        append(Append) -> Appended;
        find_commit(FindCommit) -> Option<Appended>;
        head(ReadHead) -> Head;
        read_stream(ReadStream) -> StreamPage;
        read_feed(ReadFeed) -> FeedPage;
        wait_feed(WaitFeed) -> Waited;
        feed_head(Deadline) -> FeedHead;
        list_streams(ListStreams) -> StreamsPage;
        put_snapshot(PutSnapshot) -> SnapshotPut;
        read_snapshot(ReadSnapshot) -> Option<Snapshot>;
        delete_snapshot(DeleteSnapshot) -> ();
        put_record(PutRecord) -> RecordPut;
        read_record(ReadRecord) -> Option<Record>;
        list_records(ListRecords) -> RecordsPage;
    }
}

#[async_trait]
impl StoreAdmin for Mortal<dyn StoreAdmin> {
    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        self.life.asked.lock().unwrap().push(request.deadline);
        let answer = self.life.call(self.inner.replicate(request)).await;
        match self.life.untold.fetch_sub(1, Ordering::SeqCst) {
            ..1 => answer,
            _ => Err(Error::new(ErrorKind::Indeterminate, "no answer")),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    forward! {
        read_meta(Deadline) -> Meta;
        swap_meta(SwapMeta) -> MetaSwapped;
        seal_stream(SealStream) -> Appended;
        open_stream(OpenStream) -> Appended;
        read_commits(ReadCommits) -> CommitsPage;
        truncate(Truncate) -> Truncated;
        release(Release) -> Released;
        delete(Delete) -> Appended;
        advance_feed(AdvanceFeed) -> FeedAdvanced;
        plan_schema(Deadline) -> SchemaPlan;
        apply_schema(Deadline) -> SchemaPlan;
        check_schema(Deadline) -> ();
        examine(Deadline) -> Vec<Finding>;
    }
}

/// The same two stores as another process sees them that lives for so many calls.
fn mortal(migration: &Migration, life: &Arc<Life>) -> Migration {
    let side = |side: &Side| Side {
        name: side.name.clone(),
        store: Arc::new(Mortal::<dyn EventStore> { life: life.clone(), inner: side.store.clone() }),
        admin: Arc::new(Mortal::<dyn StoreAdmin> { life: life.clone(), inner: side.admin.clone() }),
    };
    Migration::new(side(migration.source()), side(migration.target())).unwrap()
}

async fn two_stores() -> Migration {
    let memory = evstore_memory::provider();
    let side = |name: &'static str| {
        let memory = memory.clone();
        async move {
            let settings =
                Settings::new(StoreName::new(name).unwrap(), memory.keys, [("name".to_owned(), name.to_owned())]);
            let settings = settings.unwrap();
            let store = memory.opener.open(&settings).await.unwrap();
            Side {
                name: StoreName::new(name).unwrap(),
                store,
                admin: memory.opener.open_admin(&settings).await.unwrap(),
            }
        }
    };
    let migration = Migration::new(side("old").await, side("new").await).unwrap();
    for id in 1..=6 {
        migration.source().store.append(append(id)).await.unwrap();
    }
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("mails").unwrap() };
    let request = PutRecord { key, expected: RecordExpected::Any, value: Some("3".into()), deadline: deadline() };
    migration.source().store.put_record(request).await.unwrap();
    migration
}

fn deadline() -> Deadline {
    Deadline::within(PATIENCE)
}

fn append(id: u8) -> Append {
    let events = Events::new(vec![NewEvent::new(EventType::new("made").unwrap(), vec![id])]).unwrap();
    let stream = StreamId::new(format!("a-{}", id % 2)).unwrap();
    Append {
        stream,
        expected: Expected::Any,
        commit: NewCommit { id: CommitId([id; 16]), events },
        deadline: deadline(),
    }
}

/// Both take it, or say where it is taken: exactly one of the two stores, once whoever helps has helped.
async fn takes_appends(migration: &Migration, id: u8) -> &'static str {
    let (old, new) =
        futures::join!(migration.source().store.append(append(id)), migration.target().store.append(append(id)));
    match (old, new) {
        (Ok(_), Err(error)) if error.kind() == ErrorKind::Moved => "old",
        (Err(error), Ok(_)) if error.kind() == ErrorKind::Moved => "new",
        // Nobody does, for a moment: the pause.
        (Err(old), Err(new)) => {
            for error in [old, new] {
                assert!(matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Moved), "{error}");
            }
            "none"
        }
        both => panic!("both stores take appends, or one lost its way: {both:?}"),
    }
}

/// Everything that was appended is in the owner, once.
async fn check_whole(side: &Side, ids: &[u8]) {
    let request = ReadFeed {
        from: FeedStart::First,
        filter: FeedFilter::none(),
        limit: 1000,
        max_bytes: 1 << 20,
        deadline: deadline(),
    };
    let page = side.store.read_feed(request).await.unwrap();
    let mut found: Vec<u8> = page.commits().map(|commit| commit.id.0[0]).collect();
    found.sort_unstable();
    assert_eq!(found, ids);
}

async fn hand_over(migration: &Migration, way: Way) -> Result<Settled> {
    match way {
        Way::Forth => migration.cutover(PATIENCE, None).await,
        Way::Back => migration.rollback(PATIENCE, None).await,
    }
}

/// Cuts a hand-over off after so many calls; says in which phase it was left, or none where it was done before.
async fn cut_off(calls: i64, arrives: bool, way: Way) -> Option<Phase> {
    let migration = two_stores().await;
    migration.start().await.unwrap();
    if way == Way::Back {
        assert!(matches!(migration.cutover(PATIENCE, None).await.unwrap(), Settled::Done(_)));
    }
    let life = Life::of(calls, arrives);
    let dying = mortal(&migration, &life);
    let done = tokio::select! {
        settled = hand_over(&dying, way) => { assert!(matches!(settled.unwrap(), Settled::Done(_))); true }
        () = life.died.notified() => false,
    };
    let left_in = migration.status().await.unwrap().phase;
    let mut ids = vec![1, 2, 3, 4, 5, 6];
    if takes_appends(&migration, 7).await != "none" {
        ids.push(7);
    }
    if !done {
        // It was not decided: it can be given up as well, and begun again.
        if calls % 3 == 0 && migration.abort().await.is_ok() {
            assert_ne!(takes_appends(&migration, 8).await, "none");
            ids.push(8);
            if way == Way::Forth {
                migration.start().await.unwrap();
            }
        }
        match hand_over(&migration, way).await {
            Ok(settled) => assert!(matches!(settled, Settled::Done(_)), "{settled:?}"),
            // It had been done but for the answer.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    let owner = match way {
        Way::Forth => migration.target(),
        Way::Back => migration.source(),
    };
    assert_eq!(migration.status().await.unwrap().phase, Phase::Moved(way));
    assert_eq!(takes_appends(&migration, 9).await, owner.name.as_str());
    ids.push(9);
    check_whole(owner, &ids).await;
    (!done).then_some(left_in)
}

async fn everywhere(way: Way) {
    for arrives in [false, true] {
        let mut left_in = Vec::new();
        for calls in 0..CALLS_MAX {
            match cut_off(calls, arrives, way).await {
                Some(phase) => left_in.push(phase),
                None => break,
            }
        }
        // The windows were hit, each of them.
        for phase in [Phase::Copying(way), Phase::Fenced(way), Phase::Decided(way), Phase::Moved(way)] {
            assert!(left_in.contains(&phase), "never cut off in {phase:?}: {left_in:?}");
        }
        assert!(left_in.len() < CALLS_MAX as usize, "it never came to an end");
    }
}

#[tokio::test]
async fn a_cutover_is_cut_off_at_every_call() {
    everywhere(Way::Forth).await;
}

#[tokio::test]
async fn a_rollback_is_cut_off_at_every_call() {
    everywhere(Way::Back).await;
}

/// A migrator is stopped before a call, others go on, there and back, and then it wakes up with what it knew.
#[tokio::test]
async fn a_migrator_that_wakes_up_late_changes_nothing() {
    let mut stopped_in = Vec::new();
    for calls in 0..CALLS_MAX {
        let migration = two_stores().await;
        migration.start().await.unwrap();
        let life = Life::of(calls, false);
        let zombie = mortal(&migration, &life);
        let zombie = tokio::spawn(async move { zombie.cutover(PATIENCE, None).await });
        let stopped = tokio::select! {
            () = life.died.notified() => true,
            () = async { while !zombie.is_finished() { tokio::task::yield_now().await } } => false,
        };
        if !stopped {
            break;
        }
        stopped_in.push(migration.status().await.unwrap().phase);
        match migration.cutover(PATIENCE, None).await {
            Ok(settled) => assert!(matches!(settled, Settled::Done(_))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        assert_eq!(takes_appends(&migration, 7).await, "new");
        assert!(matches!(migration.rollback(PATIENCE, None).await.unwrap(), Settled::Done(_)));
        assert_eq!(takes_appends(&migration, 8).await, "old");
        life.wakes.notify_one();
        // It may find that there is nothing left to do, or that it can't do it any more: both are right.
        let _ = zombie.await.unwrap();
        assert_eq!(migration.status().await.unwrap().phase, Phase::Moved(Way::Back), "stopped before call {calls}");
        assert_eq!(takes_appends(&migration, 9).await, "old");
        check_whole(migration.source(), &[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    }
    for phase in [Phase::Copying(Way::Forth), Phase::Fenced(Way::Forth), Phase::Decided(Way::Forth)] {
        assert!(stopped_in.contains(&phase), "never stopped in {phase:?}");
    }
}

#[tokio::test]
async fn copies_are_sent_again_while_it_is_not_told_what_became_of_them() {
    for (untold, arrives) in [(4, true), (5, false)] {
        let migration = two_stores().await;
        migration.start().await.unwrap();
        let life = Life::of(CALLS_MAX, false);
        life.untold.store(untold, Ordering::SeqCst);
        let copied = mortal(&migration, &life).catch_up(Default::default(), None).await;
        // Each sending has its whole time: what is written within it is not written again.
        let asked = std::mem::take(&mut *life.asked.lock().unwrap());
        assert!(asked.len() >= 5 && asked.is_sorted_by(|one, next| one.0 < next.0), "{asked:?}");
        assert_eq!(copied.map_err(|error| error.kind()).err(), (!arrives).then_some(ErrorKind::Indeterminate));
        assert!(matches!(migration.cutover(PATIENCE, None).await.unwrap(), Settled::Done(_)));
        check_whole(migration.target(), &[1, 2, 3, 4, 5, 6]).await;
    }
}

/// Something else than the source's commits is written into the target, behind its back.
#[tokio::test]
async fn a_copy_that_is_not_the_source_is_not_handed_over_to() {
    let migration = two_stores().await;
    migration.start().await.unwrap();
    migration.catch_up(Default::default(), None).await.unwrap();
    let read = ReadCommits {
        stream: StreamId::new("a-1").unwrap(),
        from: CommitNumber(3),
        limit: 1,
        max_bytes: 1 << 20,
        deadline: deadline(),
    };
    let last = migration.source().admin.read_commits(read).await.unwrap().commits.remove(0);
    let id = CommitId([77; 16]);
    let events = NewCommit { id, events: append(77).commit.events }.recorded().unwrap();
    let digest = format::digest(&last.stream, id, &CommitKind::Events, &events);
    let (number, first_revision) = (last.number.next(), last.last_revision().next());
    let forged = Commit { id, events, digest, number, first_revision, first_position: Some(Position(7)), ..last };
    let filled = migration.target().admin.read_meta(deadline()).await.unwrap();
    let (epoch, history) = (filled.epoch, filled.incarnation());
    let items = vec![Replica::Commit(forged)];
    let request = Replicate { epoch, origin: Origin::Move { history }, items, deadline: deadline() };
    migration.target().admin.replicate(request).await.unwrap();
    // The target has more than the source: that is found, and nothing is closed.
    let compared = migration.verify(None).await.unwrap();
    assert_eq!((compared.count(), compared.differences[0].what), (1, "foreign"));
    assert_eq!(migration.cutover(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(takes_appends(&migration, 7).await, "old");
    // And then as much, but not the same.
    let compared = migration.verify(None).await.unwrap();
    assert_eq!((compared.count(), compared.differences[0].what), (1, "commit"));
    match migration.cutover(PATIENCE, None).await.unwrap() {
        Settled::Differs(compared) => assert_eq!(compared.count(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(takes_appends(&migration, 8).await, "old");
}

#[tokio::test]
async fn a_store_with_events_in_an_archive_is_not_moved() {
    let migration = two_stores().await;
    // As the tiered store in front of which it stands writes it.
    let key = RecordKey { kind: RecordKind::Presence, name: RecordName::new("evstore-archive").unwrap() };
    let request = PutRecord { key, expected: RecordExpected::Any, value: Some("{}".into()), deadline: deadline() };
    migration.source().store.put_record(request).await.unwrap();
    assert_eq!(migration.plan(None).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(migration.start().await.unwrap_err().kind(), ErrorKind::Unsupported);
}
