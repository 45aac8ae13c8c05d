//! A store with all that a store can hold is moved, taken back, moved again and left for good: nothing is lost on the way.

// A test may fail by a panic, also in its helpers.
#![allow(clippy::unwrap_used)]

use evstore_api::capabilities::Support;
use evstore_api::{
    Append, CommitId, Cursor, Deadline, Delete, ErrorKind, EventStore, EventType, Events, Expected, FeedStart,
    NewCommit, NewEvent, Position, PutRecord, PutSnapshot, ReadFeed, ReadRecord, ReadSnapshot, RecordExpected,
    RecordKey, RecordKind, RecordName, Revision, Settings, Snapshot, StoreName, StreamId, Timestamp, Truncate,
};
use evstore_migrate::{Migration, Pace, Phase, Settled, Side, Way};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(20))
}

fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

/// A commit whose id is told by a number.
fn append(name: &str, id: u8, events: usize) -> Append {
    let event = |n: usize| NewEvent::new(EventType::new("Made").unwrap(), format!("{id}/{n}").into_bytes());
    let events = Events::new((0..events).map(event).collect()).unwrap();
    let commit = NewCommit { id: CommitId([id; 16]), events };
    Append { stream: stream(name), expected: Expected::Any, commit, deadline: deadline() }
}

fn checkpoint(consumer: &str) -> RecordKey {
    RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new(consumer).unwrap() }
}

async fn put_checkpoint(side: &Side, consumer: &str, value: Option<&str>) {
    let value = value.map(|value| value.to_owned().into_bytes().into());
    let request = PutRecord { key: checkpoint(consumer), expected: RecordExpected::Any, value, deadline: deadline() };
    side.store.put_record(request).await.unwrap();
}

async fn snapshot(side: &Side, name: &str) {
    let head = side.store.head(evstore_api::ReadHead { stream: stream(name), deadline: deadline() }).await.unwrap();
    let snapshot = Snapshot {
        stream: stream(name),
        revision: head.revision,
        number: head.number,
        commit: head.commit.unwrap(),
        schema: 1,
        content_type: evstore_api::ContentType::bytes(),
        data: "state".into(),
        taken_at: Timestamp(7),
    };
    side.store.put_snapshot(PutSnapshot { snapshot, deadline: deadline() }).await.unwrap();
}

async fn fill(side: &Side) {
    for id in 1..=20 {
        side.store
            .append(append(["a-1", "a-2", "b-1", "b-2"][usize::from(id) % 4], id, usize::from(id % 3) + 1))
            .await
            .unwrap();
    }
    let truncate =
        Truncate { stream: stream("a-1"), commit: CommitId([100; 16]), before: Revision(4), deadline: deadline() };
    side.admin.truncate(truncate).await.unwrap();
    let delete =
        Delete { stream: stream("b-2"), expected: Expected::Any, commit: CommitId([101; 16]), deadline: deadline() };
    side.admin.delete(delete).await.unwrap();
    snapshot(side, "a-2").await;
    put_checkpoint(side, "mails", Some("seven")).await;
    put_checkpoint(side, "gone", Some("one")).await;
}

async fn memory_and_sqlite(folder: &std::path::Path) -> Migration {
    let memory = evstore_memory::provider();
    let name = |name| StoreName::new(name).unwrap();
    let settings = Settings::new(name("old"), memory.keys, []).unwrap();
    let (store, admin) =
        (memory.opener.open(&settings).await.unwrap(), memory.opener.open_admin(&settings).await.unwrap());
    let old = Side { name: name("old"), store, admin };
    let sqlite = evstore_sqlite::provider();
    let path = folder.join("new.db").to_str().unwrap().to_owned();
    let settings = Settings::new(name("new"), sqlite.keys, [("path".to_owned(), path)]).unwrap();
    let (store, admin) =
        (sqlite.opener.open(&settings).await.unwrap(), sqlite.opener.open_admin(&settings).await.unwrap());
    Migration::new(old, Side { name: name("new"), store, admin }).unwrap()
}

#[tokio::test]
async fn a_shorter_window_is_accepted_by_name_only() {
    let memory = evstore_memory::provider();
    let side = async |name: &str, window: Option<&str>| {
        let name = StoreName::new(name).unwrap();
        let window = window.map(|window| ("idempotency_commits".to_owned(), window.to_owned()));
        let given = [("name".to_owned(), name.to_string())].into_iter().chain(window);
        let settings = Settings::new(name.clone(), memory.keys, given).unwrap();
        let (store, admin) = (memory.opener.open(&settings).await, memory.opener.open_admin(&settings).await);
        Side { name, store: store.unwrap(), admin: admin.unwrap() }
    };
    let migration = Migration::new(side("long", None).await, side("short", Some("64")).await).unwrap();
    let plan = migration.plan(None).await.unwrap();
    let names: Vec<_> = plan.weaker.iter().map(|weaker| weaker.name).collect();
    assert_eq!(names, ["window"]);
    let refused = plan.check(&[].into()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("accept: window"), "{refused}");
    plan.check(&["window".to_owned()].into()).unwrap();
    // The other way it is no loss.
    let migration = Migration::new(side("less", Some("64")).await, side("more", Some("65")).await).unwrap();
    assert!(migration.plan(None).await.unwrap().weaker.is_empty());
    // What is accepted is what it says: inside the window of the target one that is sent again is known, before it not.
    let migration = Migration::new(side("all", None).await, side("last", Some("64")).await).unwrap();
    for id in 1..=100 {
        migration.source().store.append(append("a-1", id, 1)).await.unwrap();
    }
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    let target = &migration.target().store;
    assert!(target.append(append("a-1", 37, 1)).await.unwrap().repeated);
    assert!(!target.append(append("a-1", 36, 1)).await.unwrap().repeated);
}

async fn feed(store: &dyn EventStore, after: &Cursor) -> Vec<String> {
    let request = ReadFeed {
        from: FeedStart::After(after.clone()),
        filter: evstore_api::FeedFilter::none(),
        limit: 100,
        max_bytes: 1 << 20,
        deadline: deadline(),
    };
    let page = store.read_feed(request).await.unwrap();
    page.events().map(|event| format!("{} {} {}", event.stream(), event.revision(), event.event.id)).collect()
}

async fn hand_over(settled: evstore_api::Result<Settled>) {
    match settled.unwrap() {
        Settled::Done(cutover) => assert_eq!(cutover.compared.count(), 0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_goes_there_and_back_and_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    assert_eq!(old.store.capabilities().deletion, Support::Promised);
    fill(old).await;
    let place = old.store.feed_head(deadline()).await.unwrap().cursor;

    assert_eq!(migration.start().await.unwrap(), Phase::Copying(Way::Forth));
    assert_eq!(migration.start().await.unwrap(), Phase::Copying(Way::Forth));
    migration.catch_up(Pace::default(), None).await.unwrap();
    // The target takes nothing, and says where the streams are.
    let error = new.store.append(append("a-1", 50, 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.moved_to()), (ErrorKind::Moved, Some(&old.name)));
    // What happens after the copy comes along: a truncation of what was copied, and a checkpoint that is deleted.
    old.store.append(append("a-2", 21, 2)).await.unwrap();
    let truncate =
        Truncate { stream: stream("a-2"), commit: CommitId([102; 16]), before: Revision(3), deadline: deadline() };
    old.admin.truncate(truncate).await.unwrap();
    put_checkpoint(old, "gone", None).await;
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert_eq!(migration.status().await.unwrap().phase, Phase::Moved(Way::Forth));

    // A repeat is recognised, an old place is good, and the old store says where to go.
    assert!(new.store.append(append("a-2", 21, 2)).await.unwrap().repeated);
    let error = old.store.append(append("a-1", 51, 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.moved_to()), (ErrorKind::Moved, Some(&new.name)));
    assert_eq!(new.store.append(append("b-2", 52, 1)).await.unwrap_err().kind(), ErrorKind::Gone);
    new.store.append(append("c-1", 53, 1)).await.unwrap();
    let seen = feed(&*new.store, &place).await;
    assert_eq!(seen.len(), 3, "{seen:?}");
    let read = |side: &Side, key| {
        let store = side.store.clone();
        async move { store.read_record(ReadRecord { key, deadline: deadline() }).await.unwrap() }
    };
    assert_eq!(read(new, checkpoint("mails")).await, read(old, checkpoint("mails")).await);
    assert_eq!(read(new, checkpoint("gone")).await.and_then(|record| record.value), None);
    let kept = ReadSnapshot { stream: stream("a-2"), deadline: deadline() };
    assert_eq!(new.store.read_snapshot(kept.clone()).await.unwrap(), old.store.read_snapshot(kept).await.unwrap());

    // Back, with what was appended meanwhile.
    put_checkpoint(new, "mails", Some("eight")).await;
    hand_over(migration.rollback(PATIENCE, None).await).await;
    assert_eq!(migration.status().await.unwrap().phase, Phase::Moved(Way::Back));
    assert_eq!(feed(&*old.store, &place).await, seen);
    assert_eq!(read(old, checkpoint("mails")).await, read(new, checkpoint("mails")).await);
    old.store.append(append("c-1", 54, 1)).await.unwrap();

    // And there again, for good.
    assert_eq!(migration.start().await.unwrap(), Phase::Copying(Way::Forth));
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert_eq!(migration.verify(None).await.unwrap().count(), 0);
    assert_eq!(migration.finish().await.unwrap(), Phase::Finished);
    assert_eq!(migration.finish().await.unwrap(), Phase::Finished);
    assert_eq!(migration.rollback(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    new.store.append(append("c-1", 55, 1)).await.unwrap();
    assert_eq!(old.store.append(append("c-1", 55, 1)).await.unwrap_err().moved_to(), Some(&new.name));
}

#[tokio::test]
async fn a_move_is_given_up_and_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    assert_eq!(migration.cutover(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    fill(old).await;
    migration.start().await.unwrap();
    migration.catch_up(Pace::default(), None).await.unwrap();
    assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Forth));
    assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Forth));
    old.store.append(append("a-1", 60, 1)).await.unwrap();
    assert_eq!(new.store.append(append("a-1", 61, 1)).await.unwrap_err().kind(), ErrorKind::Moved);
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert_eq!(migration.abort().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(new.store.append(append("a-1", 60, 1)).await.unwrap().repeated);
}

/// Closes the owner as a migrator does that is killed right after it: for a hand-over, or for a rehearsal.
async fn close(owner: &Side, to: &Side) {
    let expected = owner.admin.read_meta(deadline()).await.unwrap();
    let closed = evstore_migrate::phase::fenced(&expected, &to.name);
    owner.admin.swap_meta(evstore_api::SwapMeta { expected, new: closed, deadline: deadline() }).await.unwrap();
}

#[tokio::test]
async fn a_move_is_given_up_in_each_phase_and_made_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    let phase = async || migration.status().await.unwrap().phase;
    let refused = async || migration.abort().await.unwrap_err().kind();
    fill(old).await;
    assert_eq!((phase().await, refused().await), (Phase::NotBegun, ErrorKind::Conflict));
    let mut id = 110;
    let mut appended = async |owner: &Side| {
        id += 1;
        owner.store.append(append("a-1", id, 1)).await.unwrap();
    };
    // While it is copied, given up already, closed for a hand-over, and closed for a rehearsal.
    let ways_there: [(Phase, Option<&Side>); 4] = [
        (Phase::Copying(Way::Forth), None),
        (Phase::GivenUp(Way::Forth), None),
        (Phase::Fenced(Way::Forth), Some(new)),
        (Phase::Rehearsing(Way::Forth), Some(old)),
    ];
    for (wanted, closed_for) in ways_there {
        if wanted != Phase::GivenUp(Way::Forth) {
            migration.start().await.unwrap();
        }
        if let Some(closed_for) = closed_for {
            close(old, closed_for).await;
        }
        assert_eq!(phase().await, wanted);
        assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Forth), "{wanted:?}");
        appended(old).await;
    }
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert_eq!((phase().await, refused().await), (Phase::Moved(Way::Forth), ErrorKind::Conflict));
    appended(new).await;
    for closed_for in [old, new] {
        // A rollback begins the copy back; what is closed for it, or for its rehearsal, is opened again.
        let behind = migration.rollback(PATIENCE, None).await;
        hand_over(behind).await;
        migration.start().await.unwrap();
        hand_over(migration.cutover(PATIENCE, None).await).await;
        let runs = tokio::spawn({
            let migration = migration.clone();
            async move { migration.run(Pace::default(), None).await }
        });
        let begun = std::time::Instant::now();
        while phase().await != Phase::Copying(Way::Back) {
            assert!(begun.elapsed() < PATIENCE, "nothing is copied back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        runs.abort();
        assert_eq!(refused().await, ErrorKind::Conflict, "a way back that is copied takes nothing from anybody");
        close(new, closed_for).await;
        assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Back));
        appended(new).await;
    }
    hand_over(migration.rollback(PATIENCE, None).await).await;
    appended(old).await;
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    migration.finish().await.unwrap();
    assert_eq!((phase().await, refused().await), (Phase::Finished, ErrorKind::Conflict));
    appended(new).await;
    assert_eq!(migration.verify(None).await.unwrap().count(), 0);
}

/// As a migrator leaves it that is killed inside the pause, while the other store can't be reached.
#[tokio::test]
async fn a_closed_store_is_opened_again_without_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    fill(old).await;
    migration.start().await.unwrap();
    let fence = || close(old, new);
    fence().await;
    assert_eq!(old.store.append(append("a-1", 80, 1)).await.unwrap_err().kind(), ErrorKind::Fenced);
    // It goes on where it was left.
    hand_over(migration.cutover(PATIENCE, None).await).await;
    hand_over(migration.rollback(PATIENCE, None).await).await;
    migration.start().await.unwrap();
    fence().await;
    new.admin.close().await.unwrap();
    assert!(migration.cutover(PATIENCE, None).await.is_err());
    assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Forth));
    old.store.append(append("a-1", 80, 1)).await.unwrap();
    assert!(!old.release(&new.name).await.unwrap());
}

#[tokio::test]
async fn a_rollback_needs_no_run_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    fill(migration.source()).await;
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    hand_over(migration.rollback(PATIENCE, None).await).await;
    assert_eq!(migration.status().await.unwrap().phase, Phase::Moved(Way::Back));
}

#[tokio::test]
async fn a_run_copies_both_ways_until_the_move_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    fill(migration.source()).await;
    migration.start().await.unwrap();
    let runs = [migration.clone(), migration.clone()]
        .map(|one| tokio::spawn(async move { one.run(Pace::default(), None).await }));
    hand_over(migration.cutover(PATIENCE, None).await).await;
    migration.target().store.append(append("c-1", 70, 3)).await.unwrap();
    let end = migration.target().store.feed_head(deadline()).await.unwrap().position;
    let begun = std::time::Instant::now();
    while migration.source().store.feed_head(deadline()).await.unwrap().position != end {
        assert!(begun.elapsed() < PATIENCE, "nothing was copied back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    migration.finish().await.unwrap();
    for run in runs {
        // One of them may see the step in between, where the way back is given up and the source not yet left.
        assert!(matches!(run.await.unwrap().unwrap(), Phase::Finished | Phase::GivenUp(Way::Back)));
    }
}

#[tokio::test]
async fn a_target_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    migration.target().store.append(append("x-1", 1, 1)).await.unwrap();
    assert_eq!(migration.start().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(migration.plan(None).await.unwrap_err().kind(), ErrorKind::Conflict);
    migration.target().store.append(append("x-1", 2, 1)).await.unwrap();
    assert_eq!(migration.status().await.unwrap().target.1, Position(2));
}

#[tokio::test]
async fn a_copy_that_does_not_come_near_is_told_and_closes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    for id in 1..=200 {
        migration.source().store.append(append("a-1", id, 4)).await.unwrap();
    }
    migration.start().await.unwrap();
    let settled = migration.cutover(Duration::ZERO, None).await.unwrap();
    assert_eq!(settled, Settled::Behind { lag: 800 });
    assert_eq!(migration.status().await.unwrap().phase, Phase::Copying(Way::Forth));
    migration.source().store.append(append("a-1", 201, 1)).await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
}

#[tokio::test]
async fn a_rehearsal_measures_the_pause_and_moves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    fill(old).await;
    assert_eq!(migration.rehearse(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    migration.start().await.unwrap();
    let Settled::Done(rehearsed) = migration.rehearse(PATIENCE, None).await.unwrap() else { panic!("not rehearsed") };
    let end = old.store.feed_head(deadline()).await.unwrap().position.unwrap();
    assert_eq!((rehearsed.end, rehearsed.compared.count()), (end, 0));
    let status = migration.status().await.unwrap();
    assert_eq!((status.phase, status.pauses.len()), (Phase::Copying(Way::Forth), 1));
    old.store.append(append("a-1", 90, 1)).await.unwrap();
    assert_eq!(new.store.append(append("a-1", 91, 1)).await.unwrap_err().kind(), ErrorKind::Moved);
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert!(new.store.append(append("a-1", 90, 1)).await.unwrap().repeated);
    assert_eq!(migration.status().await.unwrap().pauses.len(), 2);
}

/// As a migrator leaves it that is killed in the middle of a rehearsal.
#[tokio::test]
async fn a_rehearsal_that_was_cut_off_hands_nothing_over() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let old = migration.source();
    fill(old).await;
    migration.start().await.unwrap();
    let closed = || async {
        let expected = old.admin.read_meta(deadline()).await.unwrap();
        let closed = evstore_migrate::phase::fenced(&expected, &old.name);
        old.admin.swap_meta(evstore_api::SwapMeta { expected, new: closed, deadline: deadline() }).await.unwrap();
        assert_eq!(migration.status().await.unwrap().phase, Phase::Rehearsing(Way::Forth));
        assert_eq!(old.store.append(append("a-1", 92, 1)).await.unwrap_err().kind(), ErrorKind::Fenced);
    };
    closed().await;
    assert_eq!(migration.cutover(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(migration.abort().await.unwrap(), Phase::GivenUp(Way::Forth));
    old.store.append(append("a-1", 93, 1)).await.unwrap();
    migration.start().await.unwrap();
    closed().await;
    // A run that comes by opens the source, and goes on copying.
    let run = tokio::spawn({
        let migration = migration.clone();
        async move { migration.run(Pace::default(), None).await }
    });
    let begun = std::time::Instant::now();
    while migration.status().await.unwrap().phase != Phase::Copying(Way::Forth) {
        assert!(begun.elapsed() < PATIENCE, "the source stays closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.abort();
    old.store.append(append("a-1", 94, 1)).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_is_paused_waits_and_is_not_handed_over_to() {
    let folder = tempfile::tempdir().unwrap();
    let migration = memory_and_sqlite(folder.path()).await;
    let (old, new) = (migration.source(), migration.target());
    fill(old).await;
    assert_eq!(migration.pause().await.unwrap_err().kind(), ErrorKind::Conflict);
    migration.start().await.unwrap();
    assert_eq!(migration.pause().await.unwrap(), Phase::Copying(Way::Forth));
    let (says, mut said) = tokio::sync::mpsc::unbounded_channel();
    let observer: evstore_migrate::Observer = std::sync::Arc::new(move |news| {
        if let evstore_migrate::News::Paused = news {
            let _ = says.send(());
        }
    });
    let run = tokio::spawn({
        let migration = migration.clone();
        async move { migration.run(Pace::default(), Some(&observer)).await }
    });
    said.recv().await.unwrap();
    assert_eq!(new.store.feed_head(deadline()).await.unwrap().position, Some(Position(0)));
    assert!(migration.status().await.unwrap().paused);
    assert_eq!(migration.cutover(PATIENCE, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    migration.resume().await.unwrap();
    let end = old.store.feed_head(deadline()).await.unwrap().position;
    let begun = std::time::Instant::now();
    while new.store.feed_head(deadline()).await.unwrap().position != end {
        assert!(begun.elapsed() < PATIENCE, "the copy does not go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hand_over(migration.cutover(PATIENCE, None).await).await;
    run.abort();
}

/// A tiered store over a file, and what moves its events into the archive.
async fn tiered(folder: &std::path::Path, name: &str) -> (Side, evstore_tiered::Archiver) {
    let sqlite = evstore_sqlite::provider();
    let path = folder.join(format!("{name}.db")).display().to_string();
    let hot = Settings::new(StoreName::new("hot").unwrap(), sqlite.keys, [("path".to_owned(), path)]).unwrap();
    let provider = evstore_tiered::provider([sqlite.clone()]);
    let archive = format!("file:{}", folder.join(format!("{name}-archive")).display());
    let given = [("hot".to_owned(), "hot".to_owned()), ("archive".to_owned(), archive)];
    let name = StoreName::new(name).unwrap();
    let settings = Settings::new(name.clone(), provider.keys, given).unwrap();
    let settings = evstore_tiered::with_hot(settings, &sqlite, &hot).unwrap();
    let (store, admin) =
        (provider.opener.open(&settings).await.unwrap(), provider.opener.open_admin(&settings).await.unwrap());
    let archiver = evstore_tiered::Archiver::open(&settings, &[sqlite]).await.unwrap();
    let policy = evstore_tiered::Policy { keep_last: Some(2), ..Default::default() };
    (Side { name, store, admin }, archiver.with_policy(policy))
}

#[tokio::test]
async fn stores_with_an_archive_are_moved_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, archives_old) = tiered(folder.path(), "old").await;
    let (new, archives_new) = tiered(folder.path(), "new").await;
    let migration = Migration::new(old, new).unwrap();
    let (old, new) = (migration.source(), migration.target());
    fill(old).await;
    let everything = Cursor::total(old.admin.read_meta(deadline()).await.unwrap().incarnation(), Position(0));
    let seen = feed(&*old.store, &everything).await;
    let archived = archives_old.run(&|_| {}).await.unwrap();
    assert!(archived.events > 20, "{archived:?}");
    assert!(migration.plan(None).await.unwrap().weaker.is_empty());
    migration.start().await.unwrap();
    hand_over(migration.cutover(PATIENCE, None).await).await;
    assert_eq!(feed(&*new.store, &everything).await, seen);
    // The one archives what the other has in its archive too, which the other then takes no more of.
    archives_new.run(&|_| {}).await.unwrap();
    assert_eq!(archives_old.run(&|_| {}).await.unwrap_err().kind(), ErrorKind::Moved);
    new.store.append(append("a-2", 61, 2)).await.unwrap();
    let truncate =
        Truncate { stream: stream("a-2"), commit: CommitId([103; 16]), before: Revision(5), deadline: deadline() };
    new.admin.truncate(truncate).await.unwrap();
    let delete =
        Delete { stream: stream("b-1"), expected: Expected::Any, commit: CommitId([104; 16]), deadline: deadline() };
    new.admin.delete(delete).await.unwrap();
    let left = feed(&*new.store, &everything).await;
    assert!(left.len() < seen.len(), "{left:?}");
    hand_over(migration.rollback(PATIENCE, None).await).await;
    assert_eq!(feed(&*old.store, &everything).await, left, "what was taken away is gone from the archive of the other");
    archives_old.run(&|_| {}).await.unwrap();
    assert_eq!(feed(&*old.store, &everything).await, left);
    assert_eq!(migration.verify(None).await.unwrap().count(), 0);
    // The store in front by itself lacks what is archived.
    let sqlite = evstore_sqlite::provider();
    let path = folder.path().join("old.db").display().to_string();
    let settings = Settings::new(StoreName::new("hot").unwrap(), sqlite.keys, [("path".to_owned(), path)]).unwrap();
    let (store, admin) = (sqlite.opener.open(&settings).await.unwrap(), sqlite.opener.open_admin(&settings).await);
    let alone = Side { name: StoreName::new("alone").unwrap(), store, admin: admin.unwrap() };
    let empty = memory_and_sqlite(folder.path()).await.target().clone();
    assert_eq!(Migration::new(alone, empty).unwrap().start().await.unwrap_err().kind(), ErrorKind::Unsupported);
}
