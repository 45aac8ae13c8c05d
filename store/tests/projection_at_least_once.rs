//! Projections with their checkpoint in the store: nothing is lost, whatever fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its stage has failed")]

mod stores;

use evstore::api::*;
use evstore::{
    Checkpoint, Executed, FeedEvent, OnError, Phase, Project, Projection, RetryError, Rivals, StopReason, WaitError,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stores::{Fault, Faulty, append, memory, soon};
use tokio::sync::Notify;

/// What a handler was given, as `stream@revision`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, event: &FeedEvent) {
        self.0.lock().unwrap().push(format!("{}@{}", event.stream(), event.revision()));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A handler that logs and succeeds.
    fn handler(&self) -> impl evstore::Handler {
        let log = self.clone();
        move |event: FeedEvent| {
            log.push(&event);
            async { Ok::<_, &str>(()) }
        }
    }

    /// A handler that logs, and fails where it is told to.
    fn failing(&self, fails: impl Fn(&FeedEvent) -> bool + Send + 'static) -> impl evstore::Handler {
        let log = self.clone();
        move |event: FeedEvent| {
            log.push(&event);
            let outcome = if fails(&event) { Err("poison") } else { Ok(()) };
            async move { outcome }
        }
    }
}

fn project(store: &Arc<dyn EventStore>) -> Project {
    Project::new(store.clone(), "orders")
}

fn executed(stream: &str, receipt: Appended) -> Executed {
    Executed::of(StreamId::new(stream).unwrap(), receipt)
}

async fn wait(projection: &Projection, stream: &str, receipt: Appended) {
    projection.wait_for(&executed(stream, receipt), Duration::from_secs(10)).await.unwrap();
}

async fn kept(store: &dyn EventStore) -> Checkpoint {
    let request = ReadRecord { key: Checkpoint::key("orders").unwrap(), deadline: soon() };
    Checkpoint::from_value(&store.read_record(request).await.unwrap().unwrap().value.unwrap()).unwrap()
}

async fn stopped(projection: &Projection) -> Arc<StopReason> {
    tokio::time::timeout(Duration::from_secs(10), projection.stopped()).await.expect("it does not stop")
}

#[tokio::test]
async fn a_projection_goes_on_where_it_stopped() {
    let store = memory().await;
    let log = Log::default();
    let receipt = append(&*store, "order-1", "Placed", &[1, 2]).await;
    let first = project(&store).run(log.handler()).await.unwrap();
    wait(&first, "order-1", receipt).await;
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[3]).await;
    let second = project(&store).run(log.handler()).await.unwrap();
    wait(&second, "order-1", receipt).await;
    second.stop().await.unwrap();
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@3"]);
    let checkpoint = kept(&*store).await;
    assert_eq!(checkpoint.cursor, Some(store.feed_head(soon()).await.unwrap().cursor));
    assert_eq!((checkpoint.last.map(|last| last.position), checkpoint.owner), (Some(Position(3)), None));
}

#[tokio::test]
async fn the_checkpoint_moves_also_where_the_filter_matches_nothing() {
    let store = memory().await;
    let receipt = append(&*store, "invoice-1", "Paid", &[1, 2, 3]).await;
    let projection = project(&store).category("order").run(Log::default().handler()).await.unwrap();
    wait(&projection, "invoice-1", receipt).await;
    assert_eq!(projection.status().events, 0);
    projection.stop().await.unwrap();
    assert_eq!(kept(&*store).await.cursor, Some(store.feed_head(soon()).await.unwrap().cursor));
}

#[tokio::test]
async fn a_crash_before_the_checkpoint_repeats_and_loses_nothing() {
    let store = memory().await;
    let log = Log::default();
    let receipt = append(&*store, "order-1", "Placed", &[1, 2]).await;
    // Never stopped: as a process that is killed, it keeps nothing on its way out.
    let crashed = project(&store).checkpoint_every(1000, Duration::from_secs(3600)).run(log.handler()).await.unwrap();
    wait(&crashed, "order-1", receipt.clone()).await;
    let again = project(&store).run(log.handler()).await.unwrap();
    wait(&again, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@1", "order-1@2"]);
    drop(crashed);
}

#[tokio::test]
async fn a_zombie_cannot_move_the_checkpoint_and_stops() {
    let store = memory().await;
    let log = Log::default();
    let zombie = project(&store).checkpoint_every(1, Duration::ZERO).run(log.handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&zombie, "order-1", receipt).await;
    let failing = log.failing(|_| true);
    let rival = project(&store).on_error(OnError::Retry).run(failing).await.unwrap();
    let before = loop {
        let checkpoint = kept(&*store).await;
        if checkpoint.cursor.is_some() && rival.status().cursor.is_some() {
            break checkpoint;
        }
        tokio::task::yield_now().await;
    };
    // The zombie handles it, and is refused when it marks it as handled: the rival has not.
    append(&*store, "order-1", "Placed", &[2]).await;
    assert!(matches!(*stopped(&zombie).await, StopReason::Rival(_)));
    assert_eq!(kept(&*store).await.cursor, before.cursor);
}

#[tokio::test]
async fn a_lost_answer_is_not_taken_for_a_rival() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    let log = Log::default();
    let projection = project(&store).checkpoint_every(1, Duration::ZERO).run(log.handler()).await.unwrap();
    for n in 1..=3 {
        let receipt = append(&*store, "order-1", "Placed", &[n]).await;
        wait(&projection, "order-1", receipt).await;
        let faults = [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse(ErrorKind::Unavailable), Fault::LoseAnswer];
        faulty.on_put_record.lock().unwrap().extend(faults);
    }
    projection.stop().await.unwrap();
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@3"]);
}

#[tokio::test]
async fn a_name_runs_once_among_the_clones_of_a_store_and_is_free_after_a_stop() {
    let name = StoreName::new("main").unwrap();
    let layers = evstore::layers::LayerSettings::new(&name, []).unwrap();
    let store = evstore::Store::new(name, memory().await, &layers);
    let first = store.projection("orders").run(Log::default().handler()).await.unwrap();
    let second = store.clone().projection("orders").run(Log::default().handler()).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
    store.projection("others").run(Log::default().handler()).await.unwrap();
    first.stop().await.unwrap();
    store.projection("orders").run(Log::default().handler()).await.unwrap();
}

#[tokio::test]
async fn a_failing_handler_is_tried_again_and_what_follows_waits() {
    let store = memory().await;
    let log = Log::default();
    let receipt = append(&*store, "order-1", "Placed", &[1, 2]).await;
    let mut failures = 1;
    let counted = log.clone();
    let handler = move |event: FeedEvent| {
        counted.push(&event);
        let outcome = if failures > 0 { Err("not yet") } else { Ok(()) };
        failures -= i32::from(failures > 0);
        async move { outcome }
    };
    let projection = project(&store).run(handler).await.unwrap();
    wait(&projection, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@1", "order-1@1", "order-1@2"]);
}

#[tokio::test]
async fn a_projection_that_stops_at_an_event_keeps_what_was_handled_before_it() {
    let store = memory().await;
    let log = Log::default();
    for n in 1..=3 {
        append(&*store, &format!("order-{n}"), "Placed", &[n]).await;
    }
    let poison = |event: &FeedEvent| event.key() == "2";
    let projection = project(&store).on_error(OnError::StopAfter(2)).run(log.failing(poison)).await.unwrap();
    match &*stopped(&projection).await {
        StopReason::Handler { at: Some((stream, revision)), cause } => {
            assert_eq!(
                (stream.to_string().as_str(), *revision, cause.to_string().as_str()),
                ("order-2", Revision(1), "poison")
            );
        }
        other => panic!("stopped for another reason: {other:?}"),
    }
    assert_eq!(kept(&*store).await.cursor.and_then(|cursor| cursor.position()), Some(Position(1)));
    assert_eq!(log.all(), ["order-1@1", "order-2@1", "order-2@1"]);
    let receipt = append(&*store, "order-4", "Placed", &[4]).await;
    let waited = projection.wait_for(&executed("order-4", receipt), Duration::from_secs(1)).await;
    assert!(matches!(waited, Err(WaitError::Stopped(_))));
}

#[tokio::test]
async fn a_poisoned_stream_is_parked_with_its_cause_and_others_go_on() {
    let store = memory().await;
    let log = Log::default();
    append(&*store, "order-1", "Placed", &[1, 2]).await;
    append(&*store, "order-2", "Placed", &[3]).await;
    let poison = |event: &FeedEvent| event.key() == "1";
    let projection = project(&store).on_error(OnError::ParkAfter(1)).run(log.failing(poison)).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[4]).await;
    let waited = projection.wait_for(&executed("order-1", receipt), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Parked)));
    let parked = projection.parked();
    assert_eq!((parked.len(), parked[0].revision, parked[0].cause.as_str()), (1, Revision(1), "poison"));
    assert_eq!(log.all(), ["order-1@1", "order-2@1"]);
    projection.stop().await.unwrap();

    // It stays parked over a restart, until the handler can take it; then nothing is left out and nothing comes twice.
    let projection = project(&store).on_error(OnError::ParkAfter(1)).run(log.handler()).await.unwrap();
    let stream = StreamId::new("order-1").unwrap();
    assert_eq!(projection.parked(), parked);
    projection.retry_parked(&stream).await.unwrap();
    assert!(projection.parked().is_empty());
    assert!(matches!(projection.retry_parked(&stream).await, Err(RetryError::NotParked)));
    let receipt = append(&*store, "order-1", "Placed", &[5]).await;
    wait(&projection, "order-1", receipt).await;
    assert_eq!(log.all()[2..], ["order-1@1", "order-1@2", "order-1@3", "order-1@4"]);
}

#[tokio::test]
async fn what_was_handled_ahead_of_the_feed_does_not_come_again() {
    let store = memory().await;
    for stream in ["order-1", "order-2", "order-1"] {
        append(&*store, stream, "Placed", &[1]).await;
    }
    let log = Log::default();
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (log, entered, leave) = (log.clone(), entered.clone(), leave.clone());
        move |event: FeedEvent| {
            let (log, entered, leave) = (log.clone(), entered.clone(), leave.clone());
            async move {
                log.push(&event);
                if event.key() == "2" {
                    entered.notify_one();
                    leave.notified().await;
                }
                if log.all().len() == 1 { Err("not yet") } else { Ok(()) }
            }
        }
    };
    let one_by_one = project(&store).on_error(OnError::ParkAfter(1)).checkpoint_every(1, Duration::ZERO);
    let projection = Arc::new(one_by_one.run(handler).await.unwrap());
    entered.notified().await;
    // Asked for while the second event is in hand, so that the stream is taken up before the feed gives its third.
    let retry = {
        let projection = projection.clone();
        tokio::spawn(async move { projection.retry_parked(&StreamId::new("order-1").unwrap()).await })
    };
    tokio::task::yield_now().await;
    leave.notify_one();
    retry.await.unwrap().unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&projection, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@1", "order-2@1", "order-1@1", "order-1@2", "order-1@3"]);
}

#[tokio::test]
async fn a_parked_stream_that_fails_again_stays_parked_from_there() {
    let store = memory().await;
    let log = Log::default();
    append(&*store, "order-1", "Placed", &[1, 2, 3]).await;
    let projection = project(&store).on_error(OnError::ParkAfter(1)).run(log.failing(|_| true)).await.unwrap();
    while projection.parked().is_empty() {
        tokio::task::yield_now().await;
    }
    projection.stop().await.unwrap();
    let third = |event: &FeedEvent| event.revision() == Revision(3);
    let projection = project(&store).run(log.failing(third)).await.unwrap();
    let outcome = projection.retry_parked(&StreamId::new("order-1").unwrap()).await;
    assert!(matches!(outcome, Err(RetryError::Handler(_))));
    assert_eq!(projection.parked()[0].revision, Revision(3));
}

#[tokio::test]
async fn a_panicking_handler_ends_its_projection_and_frees_the_name() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let panics = |_: FeedEvent| async { panic!("in the handler") as Result<(), &str> };
    let projection = project(&store).run(panics).await.unwrap();
    assert!(matches!(*stopped(&projection).await, StopReason::Panicked));
}

#[tokio::test]
async fn a_stop_waits_for_the_event_in_hand_and_keeps_it() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    append(&*store, "order-1", "Placed", &[2]).await;
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, leave) = (entered.clone(), leave.clone());
        move |_: FeedEvent| {
            let (entered, leave) = (entered.clone(), leave.clone());
            async move {
                entered.notify_one();
                leave.notified().await;
                Ok::<_, &str>(())
            }
        }
    };
    let projection = project(&store).run(handler).await.unwrap();
    entered.notified().await;
    projection.stopper().stop();
    leave.notify_one();
    projection.stop().await.unwrap();
    assert_eq!(kept(&*store).await.cursor.and_then(|cursor| cursor.position()), Some(Position(1)));
}

#[tokio::test]
async fn a_write_is_seen_once_it_was_waited_for_also_without_a_position_in_the_receipt() {
    for unpositioned in [false, true] {
        let store: Arc<dyn EventStore> = Arc::new(Faulty { unpositioned, ..Faulty::around(memory().await) });
        let log = Log::default();
        let projection = project(&store).category("order").run(log.handler()).await.unwrap();
        for n in 1..=20 {
            let receipt = append(&*store, "order-1", "Placed", &[n]).await;
            wait(&projection, "order-1", receipt).await;
            assert_eq!(log.all().len() as u64, n);
        }
        // What the filter drops is waited for all the same.
        let receipt = append(&*store, "invoice-1", "Paid", &[1]).await;
        wait(&projection, "invoice-1", receipt).await;
    }
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_up() {
    let store = memory().await;
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let hangs = |_: FeedEvent| std::future::pending::<Result<(), &str>>();
    let projection = project(&store).run(hangs).await.unwrap();
    let waited = projection.wait_for(&executed("order-1", receipt), Duration::from_millis(20)).await;
    assert!(matches!(waited, Err(WaitError::TimedOut)));
}

#[tokio::test]
async fn a_projection_whose_history_was_lost_does_not_start() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let cursor = store.feed_head(soon()).await.unwrap().cursor;
    let last = evstore::LastCommit { position: Position(1), digest: ContentDigest([0; 16]) };
    let value = Some(Checkpoint { last: Some(last), ..Checkpoint::at(cursor) }.to_value().unwrap());
    let key = Checkpoint::key("orders").unwrap();
    store.put_record(PutRecord { key, expected: RecordExpected::Any, value, deadline: soon() }).await.unwrap();
    let error = project(&store).run(Log::default().handler()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HistoryLost);
    assert!(error.to_string().contains("position: 1"), "{error}");
}

#[tokio::test]
async fn of_two_that_stand_by_one_runs_and_the_other_takes_over() {
    let store = memory().await;
    let log = Log::default();
    let stand_by =
        || project(&store).rivals(Rivals::StandBy(Duration::from_millis(600))).poll(Duration::from_millis(50));
    let first = stand_by().run(log.handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&first, "order-1", receipt).await;
    let second = stand_by().run(log.handler()).await.unwrap();
    // One that stands by knows how far the other has come.
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    wait(&second, "order-1", receipt).await;
    // Longer than it would wait for an owner that is gone.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(matches!((first.status().phase, second.status().phase), (Phase::Live, Phase::StandingBy)));
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[3]).await;
    wait(&second, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@3"]);
}
