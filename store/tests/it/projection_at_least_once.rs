//! Projections with their checkpoint in the store: nothing is lost, whatever fails.
use crate::stores::{Fault, Faulty, Recorder, append, memory, soon};
use evstore::api::*;
use evstore::{
    Checkpoint, Executed, FeedEvent, LastCommit, OnError, Phase, Project, Projection, RetryError, Rivals, Start,
    StopReason, WaitError,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    Project::new(store.clone(), "orders").rivals(Rivals::TakeOver)
}

fn executed(stream: &str, receipt: Appended) -> Executed {
    Executed::of(StreamId::new(stream).unwrap(), receipt)
}

async fn wait(projection: &Projection, stream: &str, receipt: Appended) {
    projection.wait_for(&executed(stream, receipt), Duration::from_secs(10)).await.unwrap();
}

async fn kept_or_none(store: &dyn EventStore) -> Option<Checkpoint> {
    let request = ReadRecord { key: Checkpoint::key("orders").unwrap(), deadline: soon() };
    let value = store.read_record(request).await.unwrap()?.value.unwrap();
    Some(Checkpoint::from_value(&value).unwrap())
}

async fn kept(store: &dyn EventStore) -> Checkpoint {
    kept_or_none(store).await.unwrap()
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
    drop(store.projection("others").run(Log::default().handler()).await.unwrap());
    first.stop().await.unwrap();
    drop(store.projection("orders").run(Log::default().handler()).await.unwrap());
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
    let parked = projection.status().parked;
    assert_eq!((parked.len(), parked[0].revision, parked[0].cause.as_str()), (1, Revision(1), "poison"));
    assert_eq!(log.all(), ["order-1@1", "order-2@1"]);
    projection.stop().await.unwrap();

    // It stays parked over a restart, until the handler can take it; then nothing is left out and nothing comes twice.
    let projection = project(&store).on_error(OnError::ParkAfter(1)).run(log.handler()).await.unwrap();
    let stream = StreamId::new("order-1").unwrap();
    assert_eq!(projection.status().parked, parked);
    projection.retry_parked(&stream).await.unwrap();
    assert!(projection.status().parked.is_empty());
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
    while projection.status().parked.is_empty() {
        tokio::task::yield_now().await;
    }
    projection.stop().await.unwrap();
    let third = |event: &FeedEvent| event.revision() == Revision(3);
    let projection = project(&store).run(log.failing(third)).await.unwrap();
    let outcome = projection.retry_parked(&StreamId::new("order-1").unwrap()).await;
    assert!(matches!(outcome, Err(RetryError::Handler(_))));
    assert_eq!(projection.status().parked[0].revision, Revision(3));
}

#[tokio::test]
async fn a_panicking_handler_ends_its_projection_and_frees_the_name() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let panics = |_: FeedEvent| async { panic!("in the handler") as Result<(), &str> };
    let projection = project(&store).run(panics).await.unwrap();
    assert!(matches!(&*stopped(&projection).await, StopReason::Panicked(text) if text == "in the handler"));
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

/// Sets the checkpoint, as an operator does.
async fn set(store: &dyn EventStore, checkpoint: &Checkpoint) {
    let (key, value) = (Checkpoint::key("orders").unwrap(), Some(checkpoint.to_value().unwrap()));
    store.put_record(PutRecord { key, expected: RecordExpected::Any, value, deadline: soon() }).await.unwrap();
}

#[tokio::test]
async fn a_projection_whose_history_was_lost_does_not_start() {
    let store = memory().await;
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let cursor = store.feed_head(soon()).await.unwrap().cursor;
    let last = |position, digest| Some(LastCommit { position: Position(position), digest });
    let at = |position| Checkpoint::at(Cursor::total(cursor.incarnation(), Position(position)));
    for (checkpoint, held) in [
        (Checkpoint { last: last(1, receipt.digest), ..at(1) }, true),
        (Checkpoint { last: last(1, ContentDigest([0; 16])), ..at(1) }, false),
        (Checkpoint { last: last(2, receipt.digest), ..at(1) }, false),
        // The filter let nothing pass, so that there is no last commit to know it by.
        (at(2), false),
    ] {
        set(&*store, &checkpoint).await;
        match project(&store).run(Log::default().handler()).await {
            Ok(projection) => assert!(projection.stop().await.is_ok() && held),
            Err(error) => assert!(!held && error.kind() == ErrorKind::HistoryLost, "{error}"),
        }
    }
}

#[tokio::test]
async fn one_that_stands_by_does_not_believe_a_place_that_the_store_has_lost() {
    let store = memory().await;
    let stand_by = project(&store).rivals(Rivals::StandBy(Duration::from_secs(60))).poll(Duration::from_millis(10));
    let owner = Some(CommitId::generate());
    set(&*store, &Checkpoint { owner, ..Checkpoint::default() }).await;
    let projection = stand_by.run(Log::default().handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let incarnation = store.feed_head(soon()).await.unwrap().cursor.incarnation();
    set(&*store, &Checkpoint { owner, ..Checkpoint::at(Cursor::total(incarnation, Position(6))) }).await;
    let waited = projection.wait_for(&executed("order-1", receipt), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Stopped(_))), "{waited:?}");
}

#[tokio::test]
async fn a_projection_that_is_set_back_gets_what_came_before_a_parked_event_too() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1, 2]).await;
    let third = append(&*store, "order-1", "Placed", &[3, 4]).await;
    let parks = || project(&store).on_error(OnError::ParkAfter(1));
    let poison = |event: &FeedEvent| event.revision() == Revision(3);
    let projection = parks().run(Log::default().failing(poison)).await.unwrap();
    let waited = projection.wait_for(&executed("order-1", third.clone()), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Parked)));
    projection.stop().await.unwrap();

    // Set back by what keeps the parked stream: it is held from its event on, and not before.
    let kept_one = kept(&*store).await;
    set(&*store, &Checkpoint { cursor: None, last: None, ..kept_one }).await;
    let log = Log::default();
    let projection = parks().run(log.handler()).await.unwrap();
    let waited = projection.wait_for(&executed("order-1", third.clone()), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Parked)));
    assert_eq!(log.all(), ["order-1@1", "order-1@2"]);
    projection.stop().await.unwrap();

    // Set back by hand to a plain place: what was parked is forgotten, and everything comes.
    let incarnation = store.feed_head(soon()).await.unwrap().cursor.incarnation();
    let (key, value) = (Checkpoint::key("orders").unwrap(), Cursor::total(incarnation, Position(0)).to_string());
    let put =
        PutRecord { key, expected: RecordExpected::Any, value: Some(value.into_bytes().into()), deadline: soon() };
    store.put_record(put).await.unwrap();
    let log = Log::default();
    let projection = parks().run(log.handler()).await.unwrap();
    wait(&projection, "order-1", third).await;
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@3", "order-1@4"]);
}

#[tokio::test]
async fn a_wait_for_what_came_before_a_parked_event_is_met() {
    let store = memory().await;
    let before = append(&*store, "order-1", "Placed", &[1]).await;
    let poisoned = append(&*store, "order-1", "Placed", &[2]).await;
    let poison = |event: &FeedEvent| event.revision() == Revision(2);
    let parks = project(&store).on_error(OnError::ParkAfter(1));
    let projection = parks.run(Log::default().failing(poison)).await.unwrap();
    let waited = projection.wait_for(&executed("order-1", poisoned), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Parked)));
    wait(&projection, "order-1", before).await;
}

#[tokio::test]
async fn at_the_bound_a_parked_stream_that_fails_again_stays_parked_and_one_more_stops_the_projection() {
    let store = memory().await;
    for n in 1..=100 {
        append(&*store, &format!("order-{n}"), "Placed", &[n]).await;
    }
    let parks = project(&store).on_error(OnError::ParkAfter(1));
    let projection = parks.run(Log::default().failing(|_| true)).await.unwrap();
    while projection.status().parked.len() < 100 {
        tokio::task::yield_now().await;
    }
    let again = projection.retry_parked(&StreamId::new("order-1").unwrap()).await;
    assert!(matches!(again, Err(RetryError::Handler(_))), "{again:?}");
    append(&*store, "order-101", "Placed", &[1]).await;
    match &*stopped(&projection).await {
        StopReason::Store(error) => assert_eq!(error.kind(), ErrorKind::TooLarge),
        other => panic!("stopped for another reason: {other:?}"),
    }
    assert_eq!(kept(&*store).await.parked.len(), 100);
}

#[tokio::test]
async fn a_zombie_parks_nothing() {
    let store = memory().await;
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let fails = {
        let (entered, leave) = (entered.clone(), leave.clone());
        move |_: FeedEvent| {
            let (entered, leave) = (entered.clone(), leave.clone());
            async move {
                entered.notify_one();
                leave.notified().await;
                Err::<(), _>("poison")
            }
        }
    };
    let zombie = project(&store).on_error(OnError::ParkAfter(1)).run(fails).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    entered.notified().await;
    let rival = project(&store).run(Log::default().handler()).await.unwrap();
    wait(&rival, "order-1", receipt).await;
    leave.notify_one();
    assert!(matches!(*stopped(&zombie).await, StopReason::Rival(_)));
    rival.stop().await.unwrap();
    assert_eq!(kept(&*store).await.parked, []);
}

#[tokio::test]
async fn a_handler_that_fails_is_not_tried_again_once_another_process_has_taken_over() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let failing = Log::default();
    let zombie = project(&store).run(failing.failing(|_| true)).await.unwrap();
    while failing.all().is_empty() {
        tokio::task::yield_now().await;
    }
    let rival = project(&store).run(Log::default().handler()).await.unwrap();
    assert!(matches!(*stopped(&zombie).await, StopReason::Rival(_)));
    assert!(failing.all().len() <= 2, "{:?}", failing.all());
    drop(rival);
}

#[tokio::test]
async fn nobody_takes_over_from_a_handler_that_is_slow() {
    let store = memory().await;
    let stand_by = || project(&store).rivals(Rivals::StandBy(Duration::from_secs(1))).poll(Duration::from_millis(50));
    let slow = Log::default();
    let logged = slow.clone();
    let handler = move |event: FeedEvent| {
        logged.push(&event);
        async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            Ok::<_, &str>(())
        }
    };
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let first = stand_by().run(handler).await.unwrap();
    while slow.all().is_empty() {
        tokio::task::yield_now().await;
    }
    let other = Log::default();
    let second = stand_by().run(other.handler()).await.unwrap();
    wait(&first, "order-1", receipt).await;
    assert!(matches!(second.status().phase, Phase::StandingBy));
    assert_eq!((slow.all().len(), other.all().len()), (1, 0));
}

#[tokio::test]
async fn a_page_that_takes_longer_than_the_mark_may_go_untouched_is_read_all_the_same() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    *faulty.read_feed_takes.lock().unwrap() = Duration::from_millis(700);
    let stand_by = project(&store).rivals(Rivals::StandBy(Duration::from_secs(1)));
    let projection = stand_by.run(Log::default().handler()).await.unwrap();
    wait(&projection, "order-1", receipt).await;
}

#[tokio::test]
async fn standing_by_for_less_than_a_second_is_refused() {
    let store = memory().await;
    let eager = project(&store).rivals(Rivals::StandBy(Duration::ZERO)).run(Log::default().handler()).await;
    assert_eq!(eager.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn errors_that_pass_do_not_end_a_projection_that_takes_over() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let first = project(&store).run(Log::default().handler()).await.unwrap();
    wait(&first, "order-1", receipt.clone()).await;
    let refused = || Fault::Refuse(ErrorKind::Unavailable);
    let stand_by = project(&store).rivals(Rivals::StandBy(Duration::from_secs(1))).poll(Duration::from_millis(50));
    let second = stand_by.run(Log::default().handler()).await.unwrap();
    while !matches!(second.status().phase, Phase::StandingBy) {
        tokio::task::yield_now().await;
    }
    faulty.on_read_record.lock().unwrap().extend([refused(), refused()]);
    faulty.on_feed_head.lock().unwrap().extend([refused(), refused(), refused()]);
    faulty.on_read_feed.lock().unwrap().extend([refused(), refused()]);
    faulty.on_put_record.lock().unwrap().extend([refused(), refused()]);
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    wait(&second, "order-1", receipt).await;
}

#[tokio::test]
async fn a_lost_answer_a_conflict_and_a_read_that_fails_are_not_a_rival() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    let projection = project(&store).checkpoint_every(1, Duration::ZERO).run(Log::default().handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&projection, "order-1", receipt).await;
    // Written, the answer lost; looking for it fails; written again it conflicts with itself; looking fails once more.
    faulty.on_put_record.lock().unwrap().push_back(Fault::LoseAnswer);
    let refused = || Fault::Refuse(ErrorKind::Unavailable);
    faulty.on_read_record.lock().unwrap().extend([refused(), refused(), refused()]);
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    wait(&projection, "order-1", receipt).await;
    let receipt = append(&*store, "order-1", "Placed", &[3]).await;
    wait(&projection, "order-1", receipt).await;
    projection.stop().await.unwrap();
    assert_eq!(kept(&*store).await.cursor.and_then(|cursor| cursor.position()), Some(Position(3)));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_store_that_does_not_answer() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    let projection = project(&store).checkpoint_every(1, Duration::ZERO).run(Log::default().handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&projection, "order-1", receipt).await;
    faulty.on_put_record.lock().unwrap().extend((0..1000).map(|_| Fault::Hang));
    append(&*store, "order-1", "Placed", &[2]).await;
    while faulty.on_put_record.lock().unwrap().len() == 1000 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(8), projection.stop()).await.expect("it does not stop").unwrap();
}

#[tokio::test]
async fn a_handler_that_never_ends_is_cut_off_where_the_stop_has_a_bound() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let entered = Arc::new(Notify::new());
    let inside = entered.clone();
    let hangs = move |_: FeedEvent| {
        inside.notify_one();
        std::future::pending::<Result<(), &str>>()
    };
    let projection = project(&store).run(hangs).await.unwrap();
    entered.notified().await;
    let stopped = projection.stop_within(Duration::from_millis(50)).await;
    assert!(matches!(*stopped.unwrap_err(), StopReason::Cancelled));
}

#[tokio::test]
async fn one_that_stands_by_answers_for_the_one_that_runs() {
    let store = memory().await;
    let parks = || {
        let stand_by = project(&store).rivals(Rivals::StandBy(Duration::from_secs(60)));
        stand_by.poll(Duration::from_millis(20)).on_error(OnError::ParkAfter(1))
    };
    let first = parks().run(Log::default().failing(|event| event.key() == "1")).await.unwrap();
    let second = parks().run(Log::default().handler()).await.unwrap();
    let poisoned = append(&*store, "order-1", "Placed", &[1]).await;
    let waited = second.wait_for(&executed("order-1", poisoned), Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Parked)), "{waited:?}");
    assert_eq!(second.status().parked, first.status().parked);
    let stream = StreamId::new("order-1").unwrap();
    let retried = second.retry_parked(&stream);
    let retried = tokio::time::timeout(Duration::from_secs(5), retried).await.expect("it hangs");
    assert!(matches!(retried, Err(RetryError::StandingBy)), "{retried:?}");
}

#[tokio::test]
async fn a_projection_begins_where_it_is_told_to_and_only_once() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let begins_now = || project(&store).start(Start::Now);
    let log = Log::default();
    let first = begins_now().run(log.handler()).await.unwrap();
    while kept_or_none(&*store).await.is_none() {
        tokio::task::yield_now().await;
    }
    first.stop().await.unwrap();
    // It has a checkpoint by now, so that what was appended meanwhile is not passed over.
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    let second = begins_now().run(log.handler()).await.unwrap();
    wait(&second, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@2"]);
}

#[tokio::test]
async fn a_detached_projection_runs_until_its_stopper_stops_it() {
    let store = memory().await;
    let log = Log::default();
    let stopper = project(&store).run(log.handler()).await.unwrap().detach();
    append(&*store, "order-1", "Placed", &[1]).await;
    while log.all().is_empty() {
        tokio::task::yield_now().await;
    }
    stopper.stop();
    while kept(&*store).await.owner.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn how_far_a_projection_is_behind_is_told_while_its_handler_is_slow() {
    let store = memory().await;
    let hangs = |_: FeedEvent| std::future::pending::<Result<(), &str>>();
    for n in 1..=3 {
        append(&*store, "order-1", "Placed", &[n]).await;
    }
    let stand_by = project(&store).rivals(Rivals::StandBy(Duration::from_secs(1)));
    let projection = stand_by.run(hangs).await.unwrap();
    let lag = async {
        while projection.status().lag != Some(3) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), lag).await.expect("the lag is not told");
}

#[tokio::test]
async fn a_commit_that_was_appended_by_hand_is_waited_for_by_its_stream_and_receipt() {
    let store = memory().await;
    let log = Log::default();
    let projection = project(&store).run(log.handler()).await.unwrap();
    let (stream, receipt) = (StreamId::new("order-1").unwrap(), append(&*store, "order-1", "Placed", &[1]).await);
    projection.wait_for((&stream, &receipt), Duration::from_secs(10)).await.unwrap();
    assert_eq!(log.all(), ["order-1@1"]);
}

#[tokio::test]
async fn of_two_that_stand_by_one_runs_and_the_other_takes_over() {
    let store = memory().await;
    let log = Log::default();
    let stand_by = || project(&store).rivals(Rivals::StandBy(Duration::from_secs(1))).poll(Duration::from_millis(50));
    let first = stand_by().run(log.handler()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&first, "order-1", receipt).await;
    let second = stand_by().run(log.handler()).await.unwrap();
    // One that stands by knows how far the other has come.
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    wait(&second, "order-1", receipt).await;
    // Longer than it would wait for an owner that is gone.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(matches!((first.status().phase, second.status().phase), (Phase::Live, Phase::StandingBy)));
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[3]).await;
    wait(&second, "order-1", receipt).await;
    assert_eq!(log.all(), ["order-1@1", "order-1@2", "order-1@3"]);
}

#[test]
fn a_projection_tells_its_lag_its_events_its_failures_and_what_is_parked() {
    let metrics = Recorder::default();
    metrics::with_local_recorder(&metrics, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let store = memory().await;
            append(&*store, "order-1", "Placed", &[1, 2]).await;
            let last = append(&*store, "order-2", "Placed", &[3]).await;
            // The first stream is parked; at the second the handler waits, so that the mark is touched with one event to go.
            let gate = Arc::new(Notify::new());
            let opened = gate.clone();
            let handler = move |event: FeedEvent| {
                let (gate, fails) = (gate.clone(), event.key() == "1");
                async move {
                    if fails {
                        return Err("poison");
                    }
                    gate.notified().await;
                    Ok(())
                }
            };
            let projection = project(&store).on_error(OnError::ParkAfter(1)).run(handler).await.unwrap();
            let told = async |lag: f64| {
                while metrics.gauge("evstore_projection_lag orders") != Some(lag) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let soon = |told| tokio::time::timeout(Duration::from_secs(600), told);
            soon(told(1.0)).await.expect("the lag is told while it is behind");
            opened.notify_one();
            wait(&projection, "order-2", last).await;
            soon(told(0.0)).await.expect("the lag is told when it has caught up");
            projection.stop().await.unwrap();
        });
    });
    assert_eq!(metrics.counter("evstore_projection_events orders"), Some(3), "{metrics:?}");
    assert_eq!(metrics.counter("evstore_projection_failures orders"), Some(1), "{metrics:?}");
    assert_eq!(metrics.gauge("evstore_projection_parked orders"), Some(1.0), "{metrics:?}");
}
