//! Commands: what is decided when, what is repeated, and what is never done twice.
use crate::stores::{Fault, Faulty, memory, memory_with};
use evstore::api::*;
use evstore::{Aggregate, Context, DomainEvent, ExecuteError, FoldedFrom, Repository};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum Counted {
    Added { n: u64 },
}

#[derive(Debug, Default, PartialEq)]
struct Counter {
    sum: u64,
    events: u64,
}

impl Aggregate for Counter {
    const CATEGORY: &'static str = "counter";
    type Event = Counted;

    fn apply(&mut self, Counted::Added { n }: &Counted) {
        self.sum += n;
        self.events += 1;
    }
}

type Decision = Result<Vec<Counted>, &'static str>;

fn add(n: u64) -> impl Fn(&Counter) -> Decision {
    move |_| Ok(vec![Counted::Added { n }])
}

fn id(n: u8) -> CommitId {
    CommitId([n; 16])
}

fn store_error<T: std::fmt::Debug>(result: Result<T, ExecuteError<&'static str>>) -> Error {
    match result {
        Err(ExecuteError::Store(error)) => error,
        other => panic!("expected a store error, got {other:?}"),
    }
}

#[tokio::test]
async fn a_command_is_decided_on_the_folded_state() {
    let counters = Repository::<Counter>::new(memory().await);
    counters.execute("a", id(1), add(2)).await.unwrap();
    let double =
        |counter: &Counter| -> Decision { Ok(vec![Counted::Added { n: counter.sum }, Counted::Added { n: 1 }]) };
    let executed = counters.execute("a", id(2), double).await.unwrap();
    assert_eq!((executed.stream.to_string().as_str(), executed.revision), ("counter-a", Revision(3)));
    let loaded = counters.load("a").await.unwrap();
    assert_eq!(
        (loaded.state, loaded.revision, loaded.from),
        (Counter { sum: 5, events: 3 }, Revision(3), FoldedFrom::Events)
    );
}

#[tokio::test]
async fn an_aggregate_without_events_is_its_default() {
    let loaded = Repository::<Counter>::new(memory().await).load(42).await.unwrap();
    assert_eq!((loaded.state, loaded.revision), (Counter::default(), Revision(0)));
}

#[tokio::test]
async fn a_repeated_command_gets_its_first_receipt_and_is_not_decided_again() {
    let counters = Repository::<Counter>::new(memory().await);
    let first = counters.execute("a", id(1), add(2)).await.unwrap();
    counters.execute("a", id(2), add(3)).await.unwrap();
    let never = |_: &Counter| -> Decision { panic!("decided again") };
    let again = counters.execute("a", id(1), never).await.unwrap();
    let (first, again) = (first.commit.unwrap(), again.commit.unwrap());
    assert!(again.repeated && !first.repeated);
    assert_eq!(Appended { repeated: false, usage: first.usage, ..again }, first);
    let at = counters.execute_at("a", Revision(9), id(1), never).await.unwrap();
    assert_eq!(at.revision, Revision(1));
}

#[tokio::test]
async fn the_commit_id_is_looked_up_before_the_decision_also_where_a_snapshot_hides_it() {
    let store = Faulty::new().await;
    let snapshots = Repository::<Snapped>::new(store.clone()).with_snapshots(evstore::SnapshotPolicy::EveryEvents(1));
    snapshots.execute("a", id(1), |_| Ok::<_, ()>(vec![Counted::Added { n: 1 }])).await.unwrap();
    snapshots.execute("a", id(2), |_| Ok::<_, ()>(vec![Counted::Added { n: 1 }])).await.unwrap();
    let never = |_: &Snapped| -> Result<Vec<Counted>, ()> { panic!("decided again") };
    assert!(snapshots.execute("a", id(1), never).await.unwrap().commit.unwrap().repeated);
    let calls = store.calls();
    assert_eq!(calls[calls.len() - 3..], ["read_snapshot", "read_stream", "find_commit"]);
}

#[derive(Default, Serialize, Deserialize)]
struct Snapped(u64);

impl Aggregate for Snapped {
    const CATEGORY: &'static str = "snapped";
    type Event = Counted;

    fn apply(&mut self, Counted::Added { n }: &Counted) {
        self.0 += n;
    }
}

#[tokio::test]
async fn a_rejected_command_writes_nothing() {
    let store = Faulty::new().await;
    let counters = Repository::<Counter>::new(store.clone());
    let rejected = counters.execute("a", id(1), |_| Err::<Vec<Counted>, _>("no")).await;
    assert!(matches!(rejected, Err(ExecuteError::Rejected("no"))));
    assert!(!store.calls().contains(&"append"));
}

#[tokio::test]
async fn a_decision_without_events_appends_nothing() {
    let store = Faulty::new().await;
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", id(1), add(1)).await.unwrap();
    let executed = counters.execute("a", id(2), |_| Ok::<_, ()>(vec![])).await.unwrap();
    assert_eq!((executed.revision, executed.commit), (Revision(1), None));
    assert_eq!(store.appends.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_conflict_the_decision_is_made_anew_under_the_same_id() {
    let store = Faulty::new().await;
    let rival = Repository::<Counter>::new(store.inner.clone());
    let comes_first = Box::pin(async move { drop(rival.execute("a", id(9), add(10)).await.unwrap()) });
    store.on_append.lock().unwrap().push_back(Fault::After(comes_first));
    let decisions = AtomicU32::new(0);
    let decide = |counter: &Counter| -> Decision {
        decisions.fetch_add(1, Ordering::Relaxed);
        Ok(vec![Counted::Added { n: counter.sum + 1 }])
    };
    let executed = Repository::<Counter>::new(store.clone()).execute("a", id(1), decide).await.unwrap();
    assert_eq!((executed.revision, decisions.into_inner()), (Revision(2), 2));
    let appends = store.appends.lock().unwrap();
    assert_eq!((appends[0].expected, appends[1].expected), (Expected::At(Revision(0)), Expected::At(Revision(1))));
    assert_eq!(appends[1].commit.id, id(1));
    assert_eq!(&appends[1].commit.events.as_slice()[0].data[..], br#"{"n":11}"#);
}

#[tokio::test]
async fn after_an_unknown_outcome_the_same_bytes_are_repeated() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let store = Faulty::new().await;
        store.on_append.lock().unwrap().push_back(fault);
        let decisions = AtomicU32::new(0);
        let decide = |_: &Counter| -> Decision {
            let n = u64::from(decisions.fetch_add(1, Ordering::Relaxed));
            Ok(vec![Counted::Added { n }])
        };
        let counters = Repository::<Counter>::new(store.clone());
        counters.execute("a", id(1), decide).await.unwrap();
        assert_eq!(decisions.load(Ordering::Relaxed), 1);
        assert_eq!(counters.load("a").await.unwrap().revision, Revision(1));
        let appends = store.appends.lock().unwrap();
        assert_eq!(appends.len(), 2);
        assert_eq!((&appends[0].commit, appends[0].expected), (&appends[1].commit, appends[1].expected));
    }
}

#[tokio::test]
async fn an_answer_that_stays_unknown_is_never_called_not_written() {
    let store = Faulty::new().await;
    let lost = std::iter::once(Fault::LoseAnswer);
    store.on_append.lock().unwrap().extend(lost.chain((0..99).map(|_| Fault::Refuse(ErrorKind::Unavailable))));
    let counters = Repository::<Counter>::new(store.clone()).with_timeout(Duration::from_millis(50));
    let error = store_error(counters.execute("a", id(1), add(1)).await);
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    store.on_append.lock().unwrap().clear();
    assert!(counters.execute("a", id(1), add(1)).await.unwrap().commit.unwrap().repeated);
}

#[tokio::test]
async fn a_store_that_is_away_for_a_moment_is_waited_for_within_the_time() {
    let store = Faulty::new().await;
    store.on_append.lock().unwrap().push_back(Fault::Refuse(ErrorKind::Unavailable));
    let counters = Repository::<Counter>::new(store.clone()).with_timeout(Duration::from_millis(40));
    counters.execute("a", id(1), add(1)).await.unwrap();
    store.on_append.lock().unwrap().extend((0..99).map(|_| Fault::Refuse(ErrorKind::Throttled)));
    assert_eq!(store_error(counters.execute("a", id(2), add(1)).await).kind(), ErrorKind::Throttled);
}

#[tokio::test]
async fn a_twin_that_executes_the_command_meanwhile_gives_its_receipt() {
    // The twin decides on another state, so its content differs under the same id.
    let store = Faulty::new().await;
    let twin = Repository::<Counter>::new(store.inner.clone());
    let comes_first = Box::pin(async move {
        twin.execute("a", id(9), add(10)).await.unwrap();
        twin.execute("a", id(1), |counter: &Counter| -> Decision { Ok(vec![Counted::Added { n: counter.sum }]) })
            .await
            .unwrap();
    });
    store.on_append.lock().unwrap().push_back(Fault::After(comes_first));
    let counters = Repository::<Counter>::new(store.clone());
    let executed = counters.execute("a", id(1), add(1)).await.unwrap();
    assert!(executed.commit.unwrap().repeated);
    assert_eq!(counters.load("a").await.unwrap().state, Counter { sum: 20, events: 2 });
}

#[tokio::test]
async fn a_command_is_not_decided_upon_its_own_effects() {
    // The twin executes the command while this one is reading, and leaves a snapshot that hides its commit.
    let store = Faulty::new().await;
    let every = evstore::SnapshotPolicy::EveryEvents(1);
    let twin = Repository::<Snapped>::new(store.inner.clone()).with_snapshots(every);
    let comes_first = Box::pin(async move {
        for n in 1..=2 {
            twin.execute("a", id(n), |_| Ok::<_, ()>(vec![Counted::Added { n: 1 }])).await.unwrap();
        }
    });
    store.on_read_snapshot.lock().unwrap().push_back(Fault::After(comes_first));
    let counters = Repository::<Snapped>::new(store.clone()).with_snapshots(every);
    let once = |state: &Snapped| if state.0 == 0 { Ok(vec![Counted::Added { n: 1 }]) } else { Err("done already") };
    assert!(counters.execute("a", id(1), once).await.unwrap().commit.unwrap().repeated);
}

#[tokio::test]
async fn many_callers_at_once_each_count_once() {
    let counters = Repository::<Counter>::new(memory().await);
    let one = |n: u8| {
        let counters = counters.clone();
        tokio::spawn(async move { counters.execute("a", id(n), add(1)).await.map(drop) })
    };
    for caller in (0..32).map(one).collect::<Vec<_>>() {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(counters.load("a").await.unwrap().state, Counter { sum: 32, events: 32 });
}

#[tokio::test]
async fn a_command_for_one_revision_is_refused_at_another() {
    let store = Faulty::new().await;
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute_at("a", Revision(0), id(1), add(1)).await.unwrap();
    let error = store_error(counters.execute_at("a", Revision(0), id(2), add(1)).await);
    assert_eq!((error.kind(), error.head().unwrap().revision), (ErrorKind::Conflict, Revision(1)));
    let rival = Repository::<Counter>::new(store.inner.clone());
    let comes_first = Box::pin(async move { drop(rival.execute("a", id(9), add(10)).await.unwrap()) });
    store.on_append.lock().unwrap().push_back(Fault::After(comes_first));
    let error = store_error(counters.execute_at("a", Revision(1), id(3), add(1)).await);
    assert_eq!((error.kind(), error.head().unwrap().revision), (ErrorKind::Conflict, Revision(2)));
}

#[tokio::test]
async fn a_context_goes_with_every_event() {
    let store = memory().await;
    let context = Context::correlated("request-17").caused_by("command-4");
    let counters = Repository::<Counter>::new(store.clone()).with_context(context.clone());
    let executed = counters.execute("a", id(1), add(1)).await.unwrap();
    let page = store
        .read_stream(ReadStream {
            stream: executed.stream,
            from: StreamStart::First,
            direction: Direction::Forward,
            limit: 10,
            max_bytes: 1000,
            deadline: Deadline::within(Duration::from_secs(1)),
        })
        .await
        .unwrap();
    assert_eq!(Context::of(&page.commits[0].events[0]).unwrap(), context);
}

#[tokio::test]
async fn namespaces_keep_aggregates_of_one_key_apart() {
    let store = memory().await;
    let mine = Repository::<Counter>::new(store.clone());
    let theirs = mine.clone().in_namespace(Namespace::new("them").unwrap());
    mine.execute("a", id(1), add(1)).await.unwrap();
    assert_eq!(theirs.load("a").await.unwrap().revision, Revision(0));
    theirs.execute("a", id(1), add(5)).await.unwrap();
    assert_eq!((mine.load("a").await.unwrap().state.sum, theirs.load("a").await.unwrap().state.sum), (1, 5));
}

#[tokio::test]
async fn a_deleted_aggregate_is_gone_and_a_repeat_still_gets_its_receipt() {
    let (store, admin) = memory_with(&[]).await;
    let counters = Repository::<Counter>::new(store);
    let executed = counters.execute("a", id(1), add(1)).await.unwrap();
    let delete = Delete {
        stream: executed.stream,
        expected: Expected::Any,
        commit: id(2),
        deadline: Deadline::within(Duration::from_secs(1)),
    };
    admin.delete(delete).await.unwrap();
    assert_eq!(counters.load("a").await.unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(store_error(counters.execute("a", id(3), add(1)).await).kind(), ErrorKind::Gone);
    assert!(counters.execute("a", id(1), add(1)).await.unwrap().commit.unwrap().repeated);
}

#[tokio::test]
async fn an_empty_or_impossible_key_is_refused() {
    let counters = Repository::<Counter>::new(memory().await);
    for key in [String::new(), "a\0b".into(), "a".repeat(600)] {
        assert_eq!(counters.load(&key).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_stream_longer_than_a_page_is_folded_whole() {
    let counters = Repository::<Counter>::new(memory().await);
    let many = |_: &Counter| -> Decision { Ok(vec![Counted::Added { n: 1 }; 1700]) };
    counters.execute("a", id(1), many).await.unwrap();
    counters.execute("a", id(2), many).await.unwrap();
    assert_eq!(counters.load("a").await.unwrap().state.sum, 3400);
}

fn _is_send(counters: Repository<Counter>) {
    fn send<T: Send>(_: T) {}
    send(async move { counters.execute("a", id(1), add(1)).await.map(drop) });
}
