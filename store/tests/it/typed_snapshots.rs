//! Snapshots: when they are taken, when they are believed, and that a load with one equals a replay.
use crate::stores::{Fault, Faulty, memory, memory_with};
use bytes::Bytes;
use evstore::api::*;
use evstore::{Aggregate, DomainEvent, FoldedFrom, Repository, SnapshotPolicy, SnapshotRefused};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum Noted {
    Note { text: String },
    Erase,
}

/// A state in which every event and their order can be seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Notes {
    texts: Vec<String>,
    erased: u32,
}

impl Aggregate for Notes {
    const CATEGORY: &'static str = "notes";
    const SNAPSHOT_SCHEMA: u32 = 2;
    type Event = Noted;

    fn apply(&mut self, event: &Noted) {
        match event {
            Noted::Note { text } => self.texts.push(text.clone()),
            Noted::Erase => {
                self.texts.pop();
                self.erased += 1;
            }
        }
    }
}

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(5))
}

fn notes(store: Arc<dyn EventStore>, policy: SnapshotPolicy) -> Repository<Notes> {
    Repository::new(store).with_snapshots(policy)
}

async fn note(notes: &Repository<Notes>, texts: &[&str]) -> Appended {
    let events: Vec<_> = texts.iter().map(|text| Noted::Note { text: (*text).to_owned() }).collect();
    let executed = notes.execute("a", CommitId::generate(), |_| Ok::<_, ()>(events.clone())).await.unwrap();
    executed.commit.unwrap()
}

async fn kept(store: &dyn EventStore) -> Option<Snapshot> {
    let request = ReadSnapshot { stream: StreamId::new("notes-a").unwrap(), deadline: soon() };
    store.read_snapshot(request).await.unwrap()
}

/// A store with three commits of one event, the last two not in the snapshot, which `change` changes when it is read.
async fn with_changed_snapshot(change: impl FnOnce(&mut Snapshot)) -> Repository<Notes> {
    let store = Faulty::new().await;
    let notes = notes(store.clone(), SnapshotPolicy::Never);
    note(&notes, &["one"]).await;
    notes.take_snapshot("a").await.unwrap();
    note(&notes, &["two"]).await;
    note(&notes, &["three"]).await;
    let mut snapshot = kept(&*store).await.unwrap();
    change(&mut snapshot);
    *store.other_snapshot.lock().unwrap() = Some(snapshot);
    notes
}

async fn assert_falls_back(notes: &Repository<Notes>, refused: SnapshotRefused) {
    let loaded = notes.load("a").await.unwrap();
    assert_eq!(loaded.from, FoldedFrom::EventsNotSnapshot(refused));
    assert_eq!((loaded.state.texts, loaded.revision), (vec!["one".into(), "two".into(), "three".into()], Revision(3)));
}

#[tokio::test]
async fn a_snapshot_behind_the_head_is_used_with_the_events_after_it() {
    let loaded = with_changed_snapshot(|_| {}).await.load("a").await.unwrap();
    assert_eq!(loaded.from, FoldedFrom::Snapshot(Revision(1)));
    assert_eq!((loaded.state.texts, loaded.revision), (vec!["one".into(), "two".into(), "three".into()], Revision(3)));
}

#[tokio::test]
async fn a_snapshot_of_an_older_schema_falls_back_to_replay() {
    let notes = with_changed_snapshot(|snapshot| snapshot.schema = 1).await;
    assert_falls_back(&notes, SnapshotRefused::OlderSchema).await;
}

#[tokio::test]
async fn a_snapshot_of_a_newer_schema_falls_back_to_replay() {
    let notes = with_changed_snapshot(|snapshot| snapshot.schema = 3).await;
    assert_falls_back(&notes, SnapshotRefused::NewerSchema).await;
}

#[tokio::test]
async fn a_snapshot_with_a_flipped_bit_falls_back_to_replay_also_where_it_still_reads() {
    // `"one"` becomes `"ooe"`: the same shape, another state.
    let flip = |snapshot: &mut Snapshot| {
        let text = String::from_utf8(snapshot.data.to_vec()).unwrap().replace("one", "ooe");
        snapshot.data = Bytes::from(text);
    };
    assert_falls_back(&with_changed_snapshot(flip).await, SnapshotRefused::Corrupt).await;
}

#[tokio::test]
async fn a_snapshot_that_does_not_read_as_the_state_falls_back_to_replay() {
    let garble = |snapshot: &mut Snapshot| {
        snapshot.data = Bytes::from_static(b"[1,2");
        snapshot.content_type = ContentType::json();
    };
    assert_falls_back(&with_changed_snapshot(garble).await, SnapshotRefused::Corrupt).await;
}

#[tokio::test]
async fn a_snapshot_of_another_commit_falls_back_to_replay() {
    let other_history = |snapshot: &mut Snapshot| snapshot.commit = CommitId([9; 16]);
    assert_falls_back(&with_changed_snapshot(other_history).await, SnapshotRefused::Foreign).await;
    let other_slot = |snapshot: &mut Snapshot| snapshot.number = CommitNumber(2);
    assert_falls_back(&with_changed_snapshot(other_slot).await, SnapshotRefused::Foreign).await;
}

#[tokio::test]
async fn a_snapshot_inside_a_commit_falls_back_to_replay() {
    let store = memory().await;
    let notes = notes(store.clone(), SnapshotPolicy::Never);
    note(&notes, &["one", "two", "three"]).await;
    notes.take_snapshot("a").await.unwrap();
    let mut snapshot = kept(&*store).await.unwrap();
    store.delete_snapshot(DeleteSnapshot { stream: snapshot.stream.clone(), deadline: soon() }).await.unwrap();
    snapshot.revision = Revision(2);
    store.put_snapshot(PutSnapshot { snapshot, deadline: soon() }).await.unwrap();
    assert_falls_back(&notes, SnapshotRefused::Foreign).await;
}

#[tokio::test]
async fn a_snapshot_ahead_of_the_stream_falls_back_to_replay() {
    let ahead = |snapshot: &mut Snapshot| snapshot.revision = Revision(4);
    assert_falls_back(&with_changed_snapshot(ahead).await, SnapshotRefused::AheadOfStream).await;
}

#[tokio::test]
async fn a_snapshot_ahead_of_the_stream_makes_way_for_one_that_is_not() {
    let faulty = Faulty::new().await;
    let every_one = notes(faulty.clone(), SnapshotPolicy::EveryEvents(1));
    note(&every_one, &["one"]).await;
    let mut ahead = kept(&*faulty).await.unwrap();
    ahead.revision = Revision(100);
    *faulty.other_snapshot.lock().unwrap() = Some(ahead);
    note(&every_one, &["two"]).await;
    assert_eq!(kept(&*faulty).await.unwrap().revision, Revision(2));
    assert_eq!(every_one.load("a").await.unwrap().from, FoldedFrom::Snapshot(Revision(2)));
    assert_eq!(faulty.calls().iter().filter(|call| **call == "delete_snapshot").count(), 1);
}

#[tokio::test]
async fn a_snapshot_of_a_newer_schema_is_left_to_the_newer_release() {
    let store = memory().await;
    let every_one = notes(store.clone(), SnapshotPolicy::EveryEvents(1));
    note(&every_one, &["one"]).await;
    let newer = Snapshot { schema: 3, ..kept(&*store).await.unwrap() };
    store.put_snapshot(PutSnapshot { snapshot: newer.clone(), deadline: soon() }).await.unwrap();
    note(&every_one, &["two"]).await;
    assert_eq!(kept(&*store).await, Some(newer.clone()));
    assert_eq!(every_one.take_snapshot("a").await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(kept(&*store).await, Some(newer));
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_falls_back_to_replay() {
    let store = Faulty::new().await;
    let notes = notes(store.clone(), SnapshotPolicy::EveryEvents(1));
    note(&notes, &["one", "two"]).await;
    note(&notes, &["three"]).await;
    store.on_read_snapshot.lock().unwrap().push_back(Fault::Refuse(ErrorKind::Corrupt));
    assert_falls_back(&notes, SnapshotRefused::Unreadable).await;
}

#[tokio::test]
async fn a_snapshot_is_taken_every_so_many_events() {
    let store = memory().await;
    let notes = notes(store.clone(), SnapshotPolicy::EveryEvents(3));
    let mut at = Vec::new();
    for text in ["1", "2", "3", "4", "5", "6", "7"] {
        note(&notes, &[text]).await;
        at.push(kept(&*store).await.map_or(0, |snapshot| snapshot.revision.0));
    }
    assert_eq!(at, [0, 0, 3, 3, 3, 6, 6]);
}

#[tokio::test]
async fn a_snapshot_is_taken_once_the_commits_since_outweigh_it() {
    let store = memory().await;
    let notes = notes(store.clone(), SnapshotPolicy::WhenOutweighed);
    let mut kept_after = Vec::new();
    let mut tail = 0;
    for _ in 0..12 {
        note(&notes, &["x"]).await;
        tail += br#"{"text":"x"}"#.len();
        let before = kept_after.last().copied().unwrap_or(0);
        let snapshot = kept(&*store).await;
        let revision = snapshot.as_ref().map_or(0, |snapshot| snapshot.revision.0);
        kept_after.push(revision);
        if revision != before {
            assert!(tail > snapshot.unwrap().data.len(), "taken before it was outweighed");
            tail = 0;
        }
    }
    let taken: Vec<_> = kept_after.iter().filter(|revision| **revision > 0).collect();
    assert!(!taken.is_empty(), "never taken: {kept_after:?}");
    assert!(kept_after.windows(2).any(|pair| pair[0] > 0 && pair[0] == pair[1]), "taken every time: {kept_after:?}");
}

#[tokio::test]
async fn a_snapshot_that_fails_does_not_fail_the_append() {
    let store = Faulty::new().await;
    store.on_put_snapshot.lock().unwrap().push_back(Fault::Refuse(ErrorKind::TooLarge));
    let notes = notes(store.clone(), SnapshotPolicy::EveryEvents(1));
    assert_eq!(note(&notes, &["one"]).await.last, Revision(1));
    assert_eq!(kept(&*store).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_hangs_delays_the_append_by_a_bound() {
    let store = Faulty::new().await;
    store.on_put_snapshot.lock().unwrap().push_back(Fault::Hang);
    let began = tokio::time::Instant::now();
    note(&notes(store.clone(), SnapshotPolicy::EveryEvents(1)), &["one"]).await;
    assert_eq!(began.elapsed(), Duration::from_millis(500));
}

#[tokio::test]
async fn a_truncated_stream_is_folded_from_its_snapshot() {
    let (store, admin) = memory_with(&[]).await;
    let notes = notes(store.clone(), SnapshotPolicy::Never);
    for text in ["one", "two", "three"] {
        note(&notes, &[text]).await;
    }
    notes.take_snapshot("a").await.unwrap();
    let truncate = Truncate {
        stream: StreamId::new("notes-a").unwrap(),
        before: Revision(4),
        commit: CommitId::generate(),
        deadline: soon(),
    };
    admin.truncate(truncate).await.unwrap();
    let loaded = notes.load("a").await.unwrap();
    assert_eq!((loaded.state.texts.len(), loaded.from), (3, FoldedFrom::Snapshot(Revision(3))));
    note(&notes, &["four"]).await;
    assert_eq!(notes.load("a").await.unwrap().state.texts.len(), 4);
    store
        .delete_snapshot(DeleteSnapshot { stream: StreamId::new("notes-a").unwrap(), deadline: soon() })
        .await
        .unwrap();
    assert_eq!(notes.load("a").await.unwrap_err().kind(), ErrorKind::HistoryLost);
}

/// A random history: commits of events, with snapshots taken in between.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Noted>),
    TakeSnapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = prop_oneof![3 => "[a-z]{0,8}".prop_map(|text| Noted::Note { text }), 1 => Just(Noted::Erase)];
    let commit = prop::collection::vec(event, 1..4).prop_map(Step::Commit);
    prop::collection::vec(prop_oneof![4 => commit, 1 => Just(Step::TakeSnapshot)], 0..40)
}

fn policies() -> impl Strategy<Value = SnapshotPolicy> {
    prop_oneof![
        Just(SnapshotPolicy::Never),
        (1..10u64).prop_map(SnapshotPolicy::EveryEvents),
        Just(SnapshotPolicy::WhenOutweighed)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_load_with_snapshots_equals_a_replay(steps in steps(), policy in policies()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = memory().await;
            let snapshotted = notes(store.clone(), policy);
            let replayed = Repository::<Notes>::new(store);
            let mut expected = Notes::default();
            for step in steps {
                match step {
                    Step::Commit(events) => {
                        events.iter().for_each(|event| expected.apply(event));
                        let decide = |_: &Notes| Ok::<_, ()>(events.clone());
                        snapshotted.execute("a", CommitId::generate(), decide).await.unwrap();
                    }
                    Step::TakeSnapshot => match snapshotted.take_snapshot("a").await {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    },
                }
                let with = snapshotted.load("a").await.unwrap();
                let without = replayed.load("a").await.unwrap();
                assert_eq!(with.state, expected);
                assert_eq!((with.state, with.revision), (without.state, without.revision));
                assert_eq!(without.from, FoldedFrom::Events);
            }
        });
    }
}

#[tokio::test]
async fn a_load_with_a_snapshot_reads_only_what_came_after_it() {
    let store = Faulty::new().await;
    let notes = notes(store.clone(), SnapshotPolicy::EveryEvents(100));
    note(&notes, &["x"; 5000]).await;
    let before = store.calls().len();
    notes.load("a").await.unwrap();
    assert_eq!(store.calls()[before..], ["read_snapshot", "read_stream"]);
}
