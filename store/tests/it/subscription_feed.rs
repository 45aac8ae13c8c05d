//! Subscriptions: everything once and in order, first what is there and then what comes.
use crate::stores::{Fault, Faulty, append, memory, soon};
use evstore::api::*;
use evstore::{Batch, Delivery, Start, Subscribe, Subscription};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

async fn open(store: &Arc<dyn EventStore>, start: Start) -> Subscription {
    Subscribe::to(store.clone(), start).open().await.unwrap()
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await.expect("nothing was delivered");
    next.unwrap().expect("the subscription has ended")
}

async fn next_batch(subscription: &mut Subscription) -> Batch {
    loop {
        if let Delivery::Batch(batch) = next(subscription).await {
            return batch;
        }
    }
}

/// The data of the next events, up to a count.
async fn numbers(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let batch = next_batch(subscription).await;
        numbers.extend(
            batch.events().map(|event| std::str::from_utf8(&event.event().data).unwrap().parse::<u64>().unwrap()),
        );
    }
    numbers
}

#[tokio::test]
async fn what_is_there_comes_first_and_then_what_is_appended() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1, 2]).await;
    let mut all = open(&store, Start::First).await;
    assert_eq!(numbers(&mut all, 2).await, [1, 2]);
    append(&*store, "order-2", "Placed", &[3]).await;
    assert_eq!(numbers(&mut all, 1).await, [3]);
}

#[tokio::test]
async fn a_subscription_begins_where_it_is_told_to() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let cursor = store.feed_head(soon()).await.unwrap().cursor;
    append(&*store, "order-1", "Placed", &[2]).await;
    let mut now = open(&store, Start::Now).await;
    append(&*store, "order-1", "Placed", &[3]).await;
    assert_eq!(numbers(&mut now, 1).await, [3]);
    for (start, expected) in [(Start::First, vec![1, 2, 3]), (Start::After(cursor), vec![2, 3])] {
        assert_eq!(numbers(&mut open(&store, start.clone()).await, expected.len()).await, expected, "{start:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn going_live_under_load_loses_and_repeats_nothing() {
    const WRITERS: u64 = 4;
    const EVENTS: u64 = 500;
    let store = memory().await;
    let write = |writer: u64| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 1..=EVENTS {
                append(&*store, &format!("order-{writer}"), "Placed", &[n]).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let mut all = Subscribe::to(store.clone(), Start::First).page_events(7).open().await.unwrap();
    let mut seen: HashMap<String, u64> = HashMap::new();
    while seen.values().sum::<u64>() < WRITERS * EVENTS {
        for event in next_batch(&mut all).await.events() {
            let revision = seen.entry(event.stream().to_string()).or_default();
            *revision += 1;
            assert_eq!(event.revision(), Revision(*revision), "out of order, lost or repeated");
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(seen.len() as u64, WRITERS);
}

#[tokio::test]
async fn the_end_is_announced_once_and_falling_behind_too() {
    let store = memory().await;
    for n in 0..5 {
        append(&*store, "order-1", "Placed", &[n]).await;
    }
    let mut all = Subscribe::to(store.clone(), Start::First).page_events(2).open().await.unwrap();
    let mut notices = Vec::new();
    let mut events = 0;
    for round in 0..3 {
        let until = [5, 6, 20][round];
        while events < until || notices.len() < [1, 1, 3][round] {
            match next(&mut all).await {
                Delivery::Batch(batch) => events += batch.events().count(),
                notice => notices.push((notice, events)),
            }
        }
        let more = [1, 14, 0][round];
        for n in 0..more {
            append(&*store, "order-1", "Placed", &[n]).await;
        }
    }
    assert_eq!(notices, [(Delivery::CaughtUp, 5), (Delivery::FellBehind, 6), (Delivery::CaughtUp, 20)]);
}

#[tokio::test]
async fn a_filter_lets_pass_whole_categories_and_types_only() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    append(&*store, "orders-1", "Placed", &[2]).await;
    append(&*store, "order-1", "Shipped", &[3]).await;
    append(&*store, "order", "Placed", &[4]).await;
    let subscribe = Subscribe::to(store.clone(), Start::First).category("order");
    assert_eq!(numbers(&mut subscribe.clone().open().await.unwrap(), 3).await, [1, 3, 4]);
    assert_eq!(numbers(&mut subscribe.types(["Shipped"]).open().await.unwrap(), 1).await, [3]);
    let bad = Subscribe::to(store, Start::First).category("a\0b").open().await;
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_cursor_moves_although_nothing_matches() {
    let store = memory().await;
    append(&*store, "order-1", "Placed", &[1, 2, 3]).await;
    let mut none = Subscribe::to(store.clone(), Start::First).category("invoice").open().await.unwrap();
    let batch = next_batch(&mut none).await;
    assert_eq!((batch.commits().len(), batch.cursor()), (0, &store.feed_head(soon()).await.unwrap().cursor));
    assert_eq!(none.cursor(), Some(batch.cursor()));
}

#[tokio::test]
async fn no_more_than_a_page_is_held_however_slow_the_consumer() {
    let store = Faulty::new().await;
    for n in 0..100 {
        append(&*store, "order-1", "Placed", &[n]).await;
    }
    let reads = |store: &Faulty| store.calls().iter().filter(|call| **call == "read_feed").count();
    let mut all = Subscribe::to(store.clone(), Start::First).page_events(10).open().await.unwrap();
    assert_eq!(reads(&store), 0);
    for page in 1..=10 {
        assert_eq!(next_batch(&mut all).await.events().count(), 10);
        assert_eq!(reads(&store), page);
    }
}

#[tokio::test]
async fn the_largest_event_is_delivered() {
    let store = memory().await;
    let capabilities::Limit::Max(bytes) = store.capabilities().limits.event_bytes else { panic!("no limit") };
    let data = vec![b'7'; bytes as usize];
    let commit = NewCommit {
        id: CommitId::generate(),
        events: Events::new(vec![NewEvent::new(EventType::new("Large").unwrap(), data.clone())]).unwrap(),
    };
    let stream = StreamId::new("order-1").unwrap();
    store.append(Append { stream, expected: Expected::Any, commit, deadline: soon() }).await.unwrap();
    let batch = next_batch(&mut open(&store, Start::First).await).await;
    assert_eq!(batch.events().next().unwrap().event().data, data);
}

#[tokio::test]
async fn an_event_whose_notification_is_lost_is_found_by_polling() {
    let store = Arc::new(Faulty { deaf: true, ..Faulty::around(memory().await) });
    let poll = Duration::from_millis(20);
    let mut all = Subscribe::to(store.clone(), Start::Now).poll(poll).open().await.unwrap();
    assert_eq!(next(&mut all).await, Delivery::CaughtUp);
    append(&*store, "order-1", "Placed", &[1]).await;
    assert_eq!(numbers(&mut all, 1).await, [1]);
}

#[tokio::test]
async fn errors_that_pass_are_waited_out() {
    let store = Faulty::new().await;
    append(&*store, "order-1", "Placed", &[1]).await;
    let errors = [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::DeadlineExceeded];
    store.on_read_feed.lock().unwrap().extend(errors.map(Fault::Refuse));
    let store: Arc<dyn EventStore> = store;
    assert_eq!(numbers(&mut open(&store, Start::First).await, 1).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_come_in_time_is_asked_for_in_parts() {
    let store = Faulty::new().await;
    for number in 1..=200 {
        append(&*store, "order-1", "Placed", &[number]).await;
    }
    *store.feed_page_max.lock().unwrap() = Some(20);
    let store: Arc<dyn EventStore> = store;
    let wanted: Vec<u64> = (1..=200).collect();
    assert_eq!(numbers(&mut open(&store, Start::First).await, 200).await, wanted);
}

#[tokio::test]
async fn an_error_that_does_not_pass_ends_the_subscription() {
    let store = Faulty::new().await;
    store.on_read_feed.lock().unwrap().push_back(Fault::Refuse(ErrorKind::HistoryLost));
    let store: Arc<dyn EventStore> = store;
    let mut all = open(&store, Start::First).await;
    assert_eq!(all.next().await.unwrap_err().kind(), ErrorKind::HistoryLost);
    assert_eq!(all.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_store_ends_the_subscription_and_says_so() {
    let store = memory().await;
    let mut all = open(&store, Start::First).await;
    next_batch(&mut all).await;
    store.close().await.unwrap();
    let error = loop {
        match all.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_subscription_stops_from_elsewhere_while_it_waits_and_stopping_twice_is_harmless() {
    let store = memory().await;
    let mut all = open(&store, Start::First).await;
    let stopper = all.stopper();
    let waiting = tokio::spawn(async move { while all.next().await.unwrap().is_some() {} });
    tokio::task::yield_now().await;
    stopper.stop();
    stopper.stop();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it does not stop").unwrap();
}

#[tokio::test]
async fn dropping_a_wait_loses_nothing() {
    let store = memory().await;
    let mut all = Subscribe::to(store.clone(), Start::First).page_events(3).open().await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                append(&*store, "order-1", "Placed", &[n]).await;
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let wait = tokio::time::timeout(Duration::from_micros(200), all.next()).await;
        if let Ok(delivery) = wait
            && let Some(Delivery::Batch(batch)) = delivery.unwrap()
        {
            seen.extend(batch.events().map(|event| event.revision().0));
        }
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    writer.await.unwrap();
}

#[tokio::test]
async fn a_place_beyond_the_end_of_its_own_history_is_refused_with_both_numbers() {
    // An older copy of the file was restored: nobody told the store, and its identity is the same.
    let store = memory().await;
    for n in 1..=3 {
        append(&*store, "order-1", "Placed", &[n]).await;
    }
    let incarnation = store.feed_head(soon()).await.unwrap().cursor.incarnation();
    let beyond = Start::After(Cursor::total(incarnation, Position(6)));
    let error = Subscribe::to(store.clone(), beyond).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HistoryLost);
    assert!(error.to_string().contains("place: 6, end: 3"), "{error}");
    let at_the_end = Start::After(Cursor::total(incarnation, Position(3)));
    open(&store, at_the_end).await;
}

#[tokio::test]
async fn a_store_that_lost_its_end_while_it_was_away_is_noticed() {
    let faulty = Faulty::new().await;
    let store: Arc<dyn EventStore> = faulty.clone();
    append(&*store, "order-1", "Placed", &[1, 2]).await;
    let mut all = Subscribe::to(store.clone(), Start::First).poll(Duration::from_millis(10)).open().await.unwrap();
    assert_eq!(numbers(&mut all, 2).await, [1, 2]);
    let incarnation = store.feed_head(soon()).await.unwrap().cursor.incarnation();
    *faulty.feed_ends_at.lock().unwrap() = Some(Cursor::total(incarnation, Position(1)));
    faulty.on_read_feed.lock().unwrap().push_back(Fault::Refuse(ErrorKind::Unavailable));
    let lost = loop {
        match all.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it has ended without a word"),
            Err(error) => break error,
        }
    };
    assert_eq!(lost.kind(), ErrorKind::HistoryLost);
}

#[tokio::test]
async fn every_delivery_leaves_a_cursor_that_goes_on_without_a_gap() {
    let store = memory().await;
    let mut all = Subscribe::to(store.clone(), Start::First).page_events(2).open().await.unwrap();
    let (mut seen, mut fell_behind) = (0, false);
    for n in 1..=12 {
        append(&*store, "order-1", "Placed", &[n]).await;
        if n % 4 != 0 {
            continue;
        }
        while seen < n {
            match next(&mut all).await {
                Delivery::Batch(batch) => seen += batch.events().count() as u64,
                Delivery::FellBehind => fell_behind = true,
                Delivery::CaughtUp => {}
            }
            let start = all.cursor().cloned().map_or(Start::First, Start::After);
            if seen < n {
                assert_eq!(numbers(&mut open(&store, start).await, 1).await[0], seen + 1);
            }
        }
        // The end is announced before more comes, so that falling behind is too.
        while next(&mut all).await != Delivery::CaughtUp {}
    }
    assert!(fell_behind);
}
