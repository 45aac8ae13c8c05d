//! An application whose store is moved under it keeps appending, reading and following, and nobody tells it.

// A test may fail by a panic, also in its helpers.
use crate::stores::{Fault, Faulty};
use evstore::api::{
    EventStore, Opener, Provider, PutRecord, ReadRecord, RecordExpected, RecordKey, RecordKind, Settings, StoreAdmin,
    Waited,
};
use evstore::{
    Append, CommitId, Config, Deadline, Delivery, Direction, ErrorKind, EventType, Events, Expected, NewCommit,
    NewEvent, ReadStream, Registry, Start, Store, StoreName, StreamId, StreamStart,
};
use evstore_kit::presence::{self, Reached};
use evstore_migrate::nodes::{self, Lack, Present};
use evstore_migrate::{Migration, Settled, Side, Way};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const BOTH: &str = "default_store = \"old\"\n[stores.old]\nprovider = \"memory\"\nname = \"old\"\n[stores.new]\nprovider = \"memory\"\nname = \"new\"\n[migrate]\ntargets = [\"new\"]\n";
const OLD_ONLY: &str = "[stores.old]\nprovider = \"memory\"\nname = \"old\"\n";

fn name(name: &str) -> StoreName {
    StoreName::new(name).unwrap()
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

async fn node(registry: &Registry, text: &str, store: &str) -> Store {
    registry.open(&config(text), &name(store)).await.unwrap()
}

/// The stores themselves, as a migrator has them.
async fn migration(registry: &Registry) -> Migration {
    let side = |store: &'static str| async move {
        let configured = registry.settings(&config(BOTH), &name(store)).unwrap();
        let store_itself = configured.provider.opener.open(&configured.settings).await.unwrap();
        Side { name: name(store), store: store_itself, admin: configured.open_admin().await.unwrap() }
    };
    Migration::new(side("old").await, side("new").await).unwrap()
}

fn append(id: u64, wait: Duration) -> Append {
    let mut commit = [0; 16];
    commit[..8].copy_from_slice(&id.to_le_bytes());
    let event = NewEvent::new(EventType::new("made").unwrap(), id.to_string().into_bytes());
    let commit = NewCommit { id: CommitId(commit), events: Events::new(vec![event]).unwrap() };
    let stream = StreamId::new(format!("a-{}", id % 3)).unwrap();
    Append { stream, expected: Expected::Any, commit, deadline: Deadline::within(wait) }
}

async fn revision(store: &Store, stream: &str) -> u64 {
    let request = ReadStream {
        stream: StreamId::new(stream).unwrap(),
        from: StreamStart::Last,
        direction: Direction::Backward,
        limit: 1,
        max_bytes: 1 << 20,
        deadline: store.deadline(),
    };
    store.events().read_stream(request).await.unwrap().head.revision.0
}

#[test]
fn the_config_of_the_tests_names_the_target() {
    assert_eq!(config(BOTH).migrate().targets(), [name("new")]);
}

async fn done(settled: evstore::Result<Settled>) {
    assert!(matches!(settled.unwrap(), Settled::Done(_)));
}

#[tokio::test]
async fn appends_and_reads_follow_there_and_back() {
    let registry = Registry::builtin();
    let (one, other) = (node(&registry, BOTH, "old").await, node(&registry, BOTH, "old").await);
    let migration = migration(&registry).await;
    one.events().append(append(0, PATIENCE)).await.unwrap();
    migration.start().await.unwrap();
    // A node that was deployed with the new config already.
    let early = node(&registry, BOTH, "new").await;
    early.events().append(append(3, PATIENCE)).await.unwrap();
    assert_eq!(revision(&early, "a-0").await, 2);
    done(migration.cutover(PATIENCE, None).await).await;
    one.events().append(append(6, PATIENCE)).await.unwrap();
    assert!(one.events().append(append(0, PATIENCE)).await.unwrap().repeated);
    // One that only reads notices too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revision(&other, "a-0").await, 3);
    done(migration.rollback(PATIENCE, None).await).await;
    early.events().append(append(9, PATIENCE)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revision(&other, "a-0").await, 4);
    let head = migration.source().store.feed_head(Deadline::within(PATIENCE)).await.unwrap();
    assert_eq!(head.position.unwrap().0, 4, "all of it is where the streams are");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_append_fails_and_none_is_lost_under_load() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let writers = (0..4u64).map(|writer| {
        let registry = registry.clone();
        tokio::spawn(async move {
            let store = node(&registry, BOTH, if writer == 3 { "new" } else { "old" }).await;
            for number in 0..300 {
                store.events().append(append(writer * 1000 + number, PATIENCE)).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    migration.start().await.unwrap();
    let writers: Vec<_> = writers.collect();
    let follower = node(&registry, BOTH, "old").await;
    let follows = tokio::spawn(async move {
        let mut feed = follower.subscribe(Start::First).open().await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 1200 {
            if let Some(Delivery::Batch(batch)) = feed.next().await.unwrap() {
                seen.extend(batch.events().map(|event| (event.position().unwrap().0, event.event().data.clone())));
            }
        }
        seen
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    done(migration.cutover(PATIENCE, None).await).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    done(migration.rollback(PATIENCE, None).await).await;
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = tokio::time::timeout(PATIENCE, follows).await.unwrap().unwrap();
    let positions: Vec<u64> = seen.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, (1..=1200).collect::<Vec<_>>(), "every event once, in order");
    let mut data: Vec<_> = seen.into_iter().map(|(_, data)| data).collect();
    data.sort();
    data.dedup();
    assert_eq!(data.len(), 1200);
}

#[tokio::test]
async fn a_node_that_was_never_told_of_the_target_says_what_to_configure() {
    let registry = Registry::builtin();
    let told = node(&registry, OLD_ONLY, "old").await;
    let migration = migration(&registry).await;
    told.events().append(append(0, PATIENCE)).await.unwrap();
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    let error = told.events().append(append(1, PATIENCE)).await.unwrap_err();
    assert_eq!((error.kind(), error.moved_to()), (ErrorKind::Moved, Some(&name("new"))));
    assert!(error.to_string().contains("add: [stores.new]"), "{error}");
    // A read from what was left behind would be silently old: the store is asked beside it, and a later one fails.
    let begun = std::time::Instant::now();
    let error = loop {
        assert!(begun.elapsed() < PATIENCE, "a reader never notices");
        match told.events().feed_head(told.deadline()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Moved);
    assert!(error.to_string().contains("add: [stores.new]"), "{error}");
}

/// One file for the source, and a target whose path some nodes have wrong.
#[tokio::test]
async fn a_store_of_the_right_name_and_another_history_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &str| {
        let file = |name: &str, path: &str| {
            format!("[stores.{name}]\nprovider = \"sqlite\"\npath = \"{}/{path}\"\n", folder.path().display())
        };
        format!("{}{}", file("old", "old.db"), file("new", path))
    };
    let registry = Registry::builtin();
    let open = |path: &str, store: &str| {
        let (registry, config, store) = (registry.clone(), config(&text(path)), name(store));
        async move { registry.settings(&config, &store).unwrap() }
    };
    let mut sides = Vec::new();
    for store in ["old", "new"] {
        let configured = open("new.db", store).await;
        let itself = configured.provider.opener.open(&configured.settings).await.unwrap();
        sides.push(Side { name: name(store), store: itself, admin: configured.open_admin().await.unwrap() });
    }
    let new = sides.pop().unwrap();
    let migration = Migration::new(sides.pop().unwrap(), new).unwrap();
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    // Not there: it is not made, as an empty store would take the append.
    let mistyped = registry.open(&config(&text("nwe.db")), &name("old")).await.unwrap();
    assert_eq!(mistyped.events().append(append(0, PATIENCE)).await.unwrap_err().kind(), ErrorKind::Schema);
    assert!(!folder.path().join("nwe.db").exists());
    // There, and another one.
    drop(registry.open(&config(&text("other.db")), &name("new")).await.unwrap());
    let wrong = registry.open(&config(&text("other.db")), &name("old")).await.unwrap();
    assert_eq!(wrong.events().append(append(0, PATIENCE)).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    let right = registry.open(&config(&text("new.db")), &name("old")).await.unwrap();
    right.events().append(append(0, PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn a_wait_goes_on_in_the_store_that_took_over() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let (node, writer) = (node(&registry, BOTH, "old").await, node(&registry, BOTH, "old").await);
    let after = node.events().feed_head(node.deadline()).await.unwrap().cursor;
    let waits = tokio::spawn(async move {
        let request = evstore::api::WaitFeed { after, deadline: Deadline::within(PATIENCE) };
        node.events().wait_feed(request).await.unwrap()
    });
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    writer.events().append(append(0, PATIENCE)).await.unwrap();
    assert_eq!(waits.await.unwrap(), Waited::More);
}

#[tokio::test]
async fn a_hand_over_that_does_not_end_is_told_by_the_deadline() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let node = node(&registry, BOTH, "old").await;
    migration.start().await.unwrap();
    // As a migrator leaves it that is killed between the decision and the opening.
    let (old, new) = (migration.source(), migration.target());
    let deadline = Deadline::within(PATIENCE);
    let meta = old.admin.read_meta(deadline).await.unwrap();
    let fenced = evstore_migrate::phase::fenced(&meta, &new.name);
    let moved = evstore_migrate::phase::moved(&fenced, &new.name, evstore::Position(0));
    for (expected, next) in [(meta, fenced.clone()), (fenced, moved)] {
        old.admin.swap_meta(evstore::api::SwapMeta { expected, new: next, deadline }).await.unwrap();
    }
    let error = node.events().append(append(0, Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(revision(&node, "a-0").await, 0);
    done(migration.cutover(PATIENCE, None).await).await;
    node.events().append(append(0, PATIENCE)).await.unwrap();
}

/// Opens stores whose records may not be written.
struct ReadOnly(Arc<dyn Opener>);

#[async_trait::async_trait]
impl Opener for ReadOnly {
    async fn open(&self, settings: &Settings) -> evstore::Result<Arc<dyn EventStore>> {
        let faulty = Faulty::around(self.0.open(settings).await?);
        faulty.on_put_record.lock().unwrap().extend((0..1000).map(|_| Fault::Refuse(ErrorKind::Denied)));
        Ok(Arc::new(faulty))
    }

    async fn open_admin(&self, settings: &Settings) -> evstore::Result<Arc<dyn StoreAdmin>> {
        self.0.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> evstore::Result<Settings> {
        self.0.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> evstore::Result<Settings> {
        self.0.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> evstore::Result<()> {
        self.0.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> evstore::Result<Vec<String>> {
        self.0.list_scratch(settings).await
    }
}

#[tokio::test]
async fn a_node_that_may_only_read_follows_there_and_back() {
    let registry = Registry::builtin();
    let memory = registry.get("memory").unwrap().clone();
    let opener = Arc::new(ReadOnly(memory.opener.clone()));
    let readers = registry.clone().with(Provider { name: "reader", opener, ..memory });
    let reader = node(&readers, &BOTH.replace("\"memory\"", "\"reader\""), "old").await;
    let writer = node(&registry, BOTH, "old").await;
    let migration = migration(&registry).await;
    writer.events().append(append(0, PATIENCE)).await.unwrap();
    assert_eq!(revision(&reader, "a-0").await, 1);
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    writer.events().append(append(3, PATIENCE)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revision(&reader, "a-0").await, 2);
    done(migration.rollback(PATIENCE, None).await).await;
    writer.events().append(append(6, PATIENCE)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revision(&reader, "a-0").await, 3);
}

/// Opens stores slowly, and counts how often each was opened by its name; one it can't open.
struct Slow {
    inner: Arc<dyn Opener>,
    opened: Mutex<Vec<StoreName>>,
    away: AtomicBool,
}

#[async_trait::async_trait]
impl Opener for Slow {
    async fn open(&self, settings: &Settings) -> evstore::Result<Arc<dyn EventStore>> {
        self.opened.lock().unwrap().push(settings.store().clone());
        tokio::time::sleep(Duration::from_millis(50)).await;
        if self.away.load(Ordering::SeqCst) {
            return Err(evstore::Error::new(ErrorKind::Unavailable, "it is away"));
        }
        self.inner.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> evstore::Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> evstore::Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> evstore::Result<Settings> {
        self.inner.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> evstore::Result<()> {
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> evstore::Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}

/// A store that is slow to open, and a node of it that has not noticed that its streams have moved there.
async fn slow_and_moved() -> (Arc<Slow>, Store) {
    let registry = Registry::builtin();
    let memory = registry.get("memory").unwrap().clone();
    let slow = Arc::new(Slow { inner: memory.opener.clone(), opened: Mutex::default(), away: AtomicBool::new(false) });
    let slowly = registry.clone().with(Provider { name: "slow", opener: slow.clone(), ..memory });
    // Without targets, so that it is not opened ahead.
    let text = BOTH.replace("\"memory\"", "\"slow\"").replace("[migrate]\ntargets = [\"new\"]\n", "");
    let node = node(&slowly, &text, "old").await;
    let migration = migration(&registry).await;
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    (slow, node)
}

/// A store on S3 reads much of itself when it is opened: calls that each opened one would keep each other from ever having one.
#[tokio::test]
async fn calls_that_follow_at_once_open_the_store_once() {
    let (slow, node) = slow_and_moved().await;
    slow.away.store(true, Ordering::SeqCst);
    let calls = |from: u64, wait| (from..from + 50).map(move |id| append(id, wait));
    let failed = calls(0, PATIENCE).map(|request| node.events().append(request));
    for answer in futures::future::join_all(failed).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let opened = || slow.opened.lock().unwrap().iter().filter(|store| **store == name("new")).count();
    let tried = opened();
    assert_eq!(tried, 1, "what fails for one is not tried by all");
    slow.away.store(false, Ordering::SeqCst);
    let taken = calls(100, PATIENCE).map(|request| node.events().append(request));
    for answer in futures::future::join_all(taken).await {
        answer.unwrap();
    }
    assert_eq!(opened(), tried + 1);
}

/// As `select!` leaves a future that it goes on with later.
#[tokio::test]
async fn a_call_that_is_not_polled_keeps_no_other_from_following() {
    let (slow, node) = slow_and_moved().await;
    let mut left = Box::pin(node.events().append(append(0, PATIENCE)));
    while slow.opened.lock().unwrap().last() != Some(&name("new")) {
        assert!(futures::poll!(&mut left).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.events().append(append(3, Duration::from_secs(2))).await.unwrap();
    left.await.unwrap();
}

/// Waits until what nodes say of themselves in a store is as wanted.
async fn present(side: &Side, what: &str, is: impl Fn(&[Present]) -> bool) -> Vec<Present> {
    let begun = std::time::Instant::now();
    loop {
        let found = nodes::of([&*side.store]).await.unwrap();
        if is(&found) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_node_tells_of_itself_where_its_calls_go_and_leaves_when_it_is_closed() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let told = node(&registry, BOTH, "old").await;
    let untold = node(&registry, OLD_ONLY, "old").await;
    let found = present(migration.source(), "both are there", |found| found.len() == 2).await;
    let of = |stores: usize| found.iter().find(|one| one.node.stores.len() == stores).unwrap();
    let history = migration.target().store.feed_head(Deadline::within(PATIENCE)).await.unwrap().cursor.incarnation();
    assert_eq!(of(2).node.reached, [(name("new"), Reached::Writes(history.to_string()))].into());
    assert_eq!((&of(1).node.opened, of(1).node.reached.len()), (&name("old"), 0));
    assert!(found.iter().all(|one| one.is_live() && one.node.name.ends_with(&format!("-{}", std::process::id()))));
    assert_ne!(found[0].node.id, found[1].node.id);
    let lacks = migration.lacks(Way::Forth, Some(3)).await.unwrap();
    let left_behind = Lack::Untold { node: of(1).node.name.clone(), store: name("new") };
    assert_eq!(lacks, [Lack::TooFew { expected: 3, live: 2 }, left_behind]);
    untold.close().await.unwrap();
    present(migration.source(), "one has left", |found| found.len() == 1).await;
    assert_eq!(migration.lacks(Way::Forth, Some(1)).await.unwrap(), []);
    // Its record follows its calls, and is not in both stores.
    migration.start().await.unwrap();
    done(migration.cutover(PATIENCE, None).await).await;
    told.events().append(append(0, PATIENCE)).await.unwrap();
    let found = present(migration.target(), "it has followed", |found| found.len() == 1).await;
    assert_eq!((&found[0].node.opened, &found[0].node.follows), (&name("old"), &name("new")));
    present(migration.source(), "it has left", <[Present]>::is_empty).await;
    assert_eq!(migration.lacks(Way::Back, Some(1)).await.unwrap(), [], "it can go back");
    told.close().await.unwrap();
    assert_eq!(migration.nodes().await.unwrap(), []);
}

#[tokio::test]
async fn a_node_with_another_store_under_the_name_is_found_before_the_cutover() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let mistyped = BOTH.replace("name = \"new\"", "name = \"nwe\"");
    let _node = node(&registry, &mistyped, "old").await;
    let found = present(migration.source(), "it is there", |found| found.len() == 1).await;
    let another = [Lack::Another { node: found[0].node.name.clone(), store: name("new") }];
    assert_eq!(migration.lacks(Way::Forth, None).await.unwrap(), another);
    migration.start().await.unwrap();
    assert_eq!(migration.lacks(Way::Forth, None).await.unwrap(), another);
}

#[tokio::test]
async fn a_record_of_a_node_that_left_is_taken_by_the_next() {
    let registry = Registry::builtin();
    let migration = migration(&registry).await;
    let source = migration.source();
    for _ in 0..3 {
        let node = node(&registry, BOTH, "old").await;
        present(source, "it is there", |found| found.len() == 1).await;
        node.close().await.unwrap();
    }
    let key = |place| RecordKey { kind: RecordKind::Presence, name: presence::record(place).unwrap() };
    let read = |place| ReadRecord { key: key(place), deadline: Deadline::within(PATIENCE) };
    let first = source.store.read_record(read(1)).await.unwrap().unwrap();
    assert!(first.value.is_none() && first.number.0 >= 6, "{first:?}");
    assert_eq!(source.store.read_record(read(2)).await.unwrap(), None);
    // What stands in a record of this name and is not understood is nobody, and stays.
    let put = PutRecord {
        key: key(1),
        expected: RecordExpected::Any,
        value: Some("not a node".into()),
        deadline: Deadline::within(PATIENCE),
    };
    source.store.put_record(put).await.unwrap();
    let node = node(&registry, BOTH, "old").await;
    present(source, "it is there", |found| found.len() == 1).await;
    assert_eq!(source.store.read_record(read(1)).await.unwrap().unwrap().value, Some("not a node".into()));
    node.close().await.unwrap();
}
