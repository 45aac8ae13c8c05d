//! What happens between a store and its tables: lost answers, throttling, transactions that others cancel, pages of a megabyte, tables
//! that are none of ours; and what each call costs, as the engine counts it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod engine;
mod index;
mod queue;
mod sequencer;

use engine::{
    Fate, Proxy, Scratch, append, append_one, ask, deadline, event, is_there, noise, refusal, settings, stream,
};
use evstore_api::{
    CommitId, CommitNumber, Content, ContentType, DeleteSnapshot, Direction, ErrorKind, EventStore, Expected,
    FeedFilter, FeedStart, FindCommit, Meta, NewEvent, PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadSnapshot,
    ReadStream, Revision, Snapshot, SnapshotPut, StreamPage, StreamStart, SwapMeta, Timestamp, Truncate,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A name of 40 bytes, as the bars have it.
const NAME: &str = "order-2e9f0a6c5d1b4f7e8a90b1c2d3e4f5a6b7";

async fn read(
    store: &Arc<dyn EventStore>,
    name: &str,
    from: StreamStart,
    direction: Direction,
    limit: u32,
) -> StreamPage {
    let request =
        ReadStream { stream: stream(name), from, direction, limit, max_bytes: u64::MAX, deadline: deadline() };
    store.read_stream(request).await.unwrap()
}

/// The ids of all commits of the feed.
async fn feed(store: &Arc<dyn EventStore>) -> Vec<CommitId> {
    let (mut found, mut from) = (Vec::new(), FeedStart::First);
    loop {
        let (filter, deadline) = (FeedFilter::none(), deadline());
        let page =
            store.read_feed(ReadFeed { from, filter, limit: 1_000, max_bytes: u64::MAX, deadline }).await.unwrap();
        found.extend(page.commits().map(|commit| commit.id));
        if page.end {
            return found;
        }
        from = FeedStart::After(page.next);
    }
}

/// An event as applications write them: 416 bytes of JSON with ids, a time and an amount.
fn order_event(seed: u32) -> NewEvent {
    let id = |at: u32| {
        let bytes = noise(16, seed * 31 + at);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let mut data = json!({
        "orderId": id(1), "customerId": id(2), "eventType": "OrderLineAdded", "currency": "EUR",
        "sku": format!("SKU-{:06}", noise(4, seed).iter().fold(0_u32, |sum, byte| sum * 7 + u32::from(*byte))),
        "quantity": seed % 9 + 1, "amount": f64::from(seed * 137 % 9_999) / 100.0,
        "at": format!("2026-11-27T16:{:02}:{:02}.{:06}Z", seed % 60, seed * 7 % 60, seed * 104_729 % 1_000_000),
        "metadata": { "correlationId": id(3), "causationId": id(4), "user": "service-orders" }, "note": "",
    });
    let missing = 416 - data.to_string().len();
    data["note"] =
        Value::String("picked by hand, leave at the door if nobody is there ".chars().cycle().take(missing).collect());
    assert_eq!(data.to_string().len(), 416);
    event(data.to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_known_stream_is_one_request_that_reads_nothing() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    // 900 bytes of type, payload and metadata that can't be made smaller.
    let commit = |n: u32| vec![event(noise(900 - "Happened".len(), n + 1))];
    let made = append(&store, NAME, Expected::NoStream, CommitId::generate(), commit(0)).await.unwrap();
    // Creating a stream: its place in the list besides. The end of the log, the record and the stream are read for the first time.
    assert_eq!((made.usage.write_units, made.usage.requests), (6.0, 4));
    proxy.take_seen();
    for n in 1..20 {
        let expected = Expected::At(Revision(u64::from(n)));
        let receipt = append(&store, NAME, expected, CommitId::generate(), commit(n)).await.unwrap();
        // Two units in the log and two for the commit: a transaction counts twice.
        assert_eq!((receipt.usage.write_units, receipt.usage.read_units, receipt.usage.requests), (4.0, 0.0, 1), "{n}");
    }
    let seen: Vec<_> = proxy.take_seen().into_iter().map(|(operation, _)| operation).collect();
    assert_eq!(seen, vec!["TransactWriteItems"; 19]);
    // The item itself is one unit: what the transaction writes of it is two.
    let item = ask(
        "GetItem",
        json!({
            "TableName": scratch.table(), "Key": { "k": { "S": NAME }, "n": { "N": "20" } }, "ConsistentRead": true,
            "ReturnConsumedCapacity": "TOTAL",
        }),
    );
    let item = item.await;
    assert_eq!(item["ConsumedCapacity"]["CapacityUnits"], 1.0);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_wait_share_a_place_in_the_log() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    for n in 0..40 {
        append_one(&store, &format!("order-{n}"), CommitId::generate()).await.unwrap();
    }
    let appends = (0..40).map(|n| {
        let store = store.clone();
        tokio::spawn(
            async move { append_one(&store, &format!("order-{n}"), CommitId::generate()).await.unwrap().usage },
        )
    });
    let (mut units, mut reads) = (0.0, 0.0);
    for append in appends.collect::<Vec<_>>() {
        let usage = append.await.unwrap();
        units += usage.write_units;
        reads += usage.read_units;
    }
    // Alone each would be four. Forty commits are eighty; how many records of the log there are is a matter of who came when.
    assert!((80.0..140.0).contains(&units), "{units}");
    assert_eq!(reads, 0.0);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_events_of_json_are_two_units_of_item() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    append_one(&store, NAME, CommitId::generate()).await.unwrap();
    let events = (0..10).map(order_event).collect();
    let receipt = append(&store, NAME, Expected::Any, CommitId::generate(), events).await.unwrap();
    // Twice two for the item, and two in the log.
    assert_eq!(receipt.usage.write_units, 6.0);
    // Without compression five for the item, and what is stored so is read like any other.
    let plain = scratch.open_with(&[("compression", "none")]).await.unwrap();
    append_one(&plain, NAME, CommitId::generate()).await.unwrap();
    let events = (0..10).map(order_event).collect();
    let receipt = append(&plain, NAME, Expected::Any, CommitId::generate(), events).await.unwrap();
    assert_eq!(receipt.usage.write_units, 12.0);
    let page = read(&store, NAME, StreamStart::First, Direction::Forward, 100).await;
    let data = |number: usize| page.commits[number].events().map(|event| event.event.data.clone()).collect::<Vec<_>>();
    assert_eq!((data(1).len(), data(1)), (10, data(3)));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_told_with_one_small_read() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let (store, other) = (scratch.open().await, scratch.open().await);
    for _ in 0..3 {
        append_one(&store, NAME, CommitId::generate()).await.unwrap();
    }
    append_one(&other, NAME, CommitId::generate()).await.unwrap();
    proxy.take_seen();
    // Of what this handle knows to be so, and of what only the other one does.
    for (expected, actual) in [(3, 4), (2, 4), (9, 4)] {
        let error = append(&store, NAME, Expected::At(Revision(expected)), CommitId::generate(), vec![event(vec![])]);
        let error = error.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.head().unwrap().revision),
            (ErrorKind::Conflict, Revision(actual)),
            "{expected}"
        );
        let seen = proxy.take_seen();
        let reads = seen.iter().filter(|(operation, _)| operation != "TransactWriteItems").count();
        assert_eq!(reads, 1, "{expected}: {seen:?}");
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_costs_the_bytes_that_it_reads() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    for n in 0..100 {
        append(&store, NAME, Expected::Any, CommitId::generate(), vec![order_event(n)]).await.unwrap();
    }
    for from in [StreamStart::First, StreamStart::At(Revision(1))] {
        let page = read(&store, NAME, from, Direction::Forward, 1_000).await;
        assert_eq!(page.events().count(), 100);
        assert_eq!(page.usage.requests, 1);
        assert!(page.usage.read_units <= 11.0, "{}", page.usage.read_units);
    }
    let page = read(&store, NAME, StreamStart::Last, Direction::Backward, 1).await;
    assert_eq!((page.events().count(), page.usage.requests, page.usage.read_units), (1, 1, 1.0));
    // With a snapshot at the head, a load reads it and looks whether anything came behind it.
    let head = store.head(ReadHead { stream: stream(NAME), deadline: deadline() }).await.unwrap();
    let snapshot = Snapshot {
        stream: stream(NAME),
        revision: head.revision,
        number: head.number,
        commit: head.commit.unwrap(),
        schema: 1,
        content_type: ContentType::json(),
        data: vec![7; 2_000].into(),
        taken_at: Timestamp(1),
    };
    let put = store.put_snapshot(PutSnapshot { snapshot: snapshot.clone(), deadline: deadline() }).await.unwrap();
    assert!(matches!(put, SnapshotPut::Stored { .. }));
    let kept = store.read_snapshot(ReadSnapshot { stream: stream(NAME), deadline: deadline() }).await.unwrap();
    assert_eq!(kept, Some(snapshot));
    let page = read(&store, NAME, StreamStart::At(Revision(100)), Direction::Forward, 1_000).await;
    assert_eq!((page.events().count(), page.usage.requests, page.usage.read_units), (1, 1, 1.0));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_makes_a_load_of_small_commits_cheaper() {
    let scratch = Scratch::new(&[("feed", "sequencer"), ("sequencer", "apart"), ("dictionary", "true")]).await;
    let store = scratch.open().await;
    // A handle from before there was one.
    let (early, without) = (scratch.open().await, scratch.open_with(&[("dictionary", "false")]).await.unwrap());
    append(&store, "early-1", Expected::Any, CommitId::generate(), vec![order_event(1)]).await.unwrap();
    let streams = 8;
    let appends = (0..streams).map(|at| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..75 {
                let (name, event) = (format!("sample-{at}"), order_event(1_000 + at * 100 + n));
                append(&store, &name, Expected::Any, CommitId::generate(), vec![event]).await.unwrap();
            }
        })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap();
    }
    // It is made beside.
    let key = json!({ "k": { "S": "dictionaries" }, "s": { "S": "0000000001" } });
    let begun = Instant::now();
    let of_names = || ask("GetItem", json!({ "TableName": format!("{}-names", scratch.table()), "Key": key }));
    while of_names().await["Item"].is_null() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no dictionary is made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fresh = scratch.open().await;
    for n in 0..100 {
        let receipt = append(&fresh, NAME, Expected::Any, CommitId::generate(), vec![order_event(n)]).await.unwrap();
        assert!(n == 0 || receipt.usage.write_units == 1.0, "{n}: {}", receipt.usage.write_units);
    }
    let page = read(&fresh, NAME, StreamStart::First, Direction::Forward, 1_000).await;
    assert_eq!((page.events().count(), page.usage.requests), (100, 1));
    println!("100 commits of one event: {} units", page.usage.read_units);
    assert!(page.usage.read_units <= 7.0, "{}", page.usage.read_units);
    // Who has not heard of it looks for it; who does not use it reads it all the same.
    for store in [&early, &without] {
        let page = read(store, NAME, StreamStart::First, Direction::Forward, 1_000).await;
        let found: Vec<_> = page.events().map(|event| event.event.data.clone()).collect();
        assert_eq!(found, (0..100).map(|n| order_event(n).data).collect::<Vec<_>>());
        assert_eq!(read(store, "early-1", StreamStart::First, Direction::Forward, 9).await.events().count(), 1);
    }
    let plain = append(&without, NAME, Expected::Any, CommitId::generate(), vec![order_event(7)]).await.unwrap();
    assert_eq!(plain.number, CommitNumber(101));
    // Without it nothing is made up.
    ask("DeleteItem", json!({ "TableName": format!("{}-names", scratch.table()), "Key": key })).await;
    let unknowing = scratch.open_with(&[("dictionary", "false")]).await.unwrap();
    let request = ReadStream {
        stream: stream(NAME),
        from: StreamStart::First,
        direction: Direction::Forward,
        limit: 10,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    assert_eq!(unknowing.read_stream(request).await.unwrap_err().kind(), ErrorKind::Corrupt);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_the_middle_of_a_stream_is_found_and_not_walked_to() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    let mut last = 0;
    for n in 0..300_u64 {
        let events = (0..=n % 3).map(|_| event(noise(100, 7))).collect::<Vec<_>>();
        last += events.len() as u64;
        append(&store, NAME, Expected::Any, CommitId::generate(), events).await.unwrap();
    }
    for revision in [2, 3, last / 2, last / 2 + 1, last - 1, last] {
        // A handle that knows nothing yet.
        let fresh = scratch.open().await;
        for (direction, limit) in [(Direction::Forward, 2), (Direction::Backward, 2)] {
            let page = read(&fresh, NAME, StreamStart::At(Revision(revision)), direction, limit).await;
            let found: Vec<u64> = page.events().map(|event| event.revision().0).collect();
            let wanted: Vec<u64> = match direction {
                Direction::Forward => (revision..=last).take(2).collect(),
                Direction::Backward => (1..=revision).rev().take(2).collect(),
            };
            assert_eq!(found, wanted);
            assert!(page.usage.read_units < 20.0, "{revision}: {}", page.usage.read_units);
        }
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_indeterminate_and_the_commit_says_what_became_of_it() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    for round in 0..20 {
        for was_done in [false, true] {
            let id = CommitId::generate();
            let fate = if was_done { Fate::LoseAnswer } else { Fate::LoseRequest };
            proxy.once("TransactWriteItems", fate);
            let error = append_one(&store, "a-1", id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Indeterminate, "round {round}: {error:?}");
            assert_eq!(is_there(&store, "a-1", id).await, was_done, "round {round}");
            assert_eq!(append_one(&store, "a-1", id).await.unwrap().repeated, was_done, "round {round}");
        }
    }
    assert_eq!(feed(&store).await.len(), 41, "nothing twice");
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_answers_is_sorted_and_never_taken_for_a_conflict() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    let cases = [
        ("ProvisionedThroughputExceededException", ErrorKind::Throttled),
        ("ThrottlingException", ErrorKind::Throttled),
        ("RequestLimitExceeded", ErrorKind::Throttled),
        ("InternalServerError", ErrorKind::Indeterminate),
        ("AccessDeniedException", ErrorKind::Denied),
        ("ExpiredTokenException", ErrorKind::Denied),
        ("ResourceNotFoundException", ErrorKind::Schema),
    ];
    for (code, kind) in cases {
        let id = CommitId::generate();
        proxy.once("TransactWriteItems", refusal(code));
        assert_eq!(append_one(&store, "a-1", id).await.unwrap_err().kind(), kind, "{code}");
        assert!(!is_there(&store, "a-1", id).await, "{code}");
        assert!(!append_one(&store, "a-1", id).await.unwrap().repeated, "{code}");
    }
    let cancelled = |codes: [&str; 2]| {
        let reasons: Vec<_> = codes.iter().map(|code| json!({ "Code": code })).collect();
        let answer = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "forged", "CancellationReasons": reasons,
        });
        Fate::Answer(400, answer)
    };
    let id = CommitId::generate();
    proxy.once("TransactWriteItems", cancelled(["None", "ThrottlingError"]));
    assert_eq!(append_one(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert!(!is_there(&store, "a-1", id).await);
    // What passes by itself is waited for.
    for codes in [["TransactionConflict", "None"], ["None", "TransactionConflict"]] {
        proxy.once("TransactWriteItems", cancelled(codes));
        assert!(!append_one(&store, "a-1", CommitId::generate()).await.unwrap().repeated);
    }
    proxy.once("TransactWriteItems", refusal("TransactionInProgressException"));
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    // Reads.
    let head = || async { store.head(ReadHead { stream: stream("a-1"), deadline: deadline() }).await };
    for (code, kind) in [("ThrottlingException", ErrorKind::Throttled), ("InternalServerError", ErrorKind::Unavailable)]
    {
        proxy.once("Query", refusal(code));
        assert_eq!(head().await.unwrap_err().kind(), kind, "{code}");
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_service_leaves_over_are_asked_for_again() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    let mut ids = Vec::new();
    for n in 0..30 {
        let id = CommitId::generate();
        append_one(&store, &format!("a-{}", n % 4), id).await.unwrap();
        ids.push(id);
    }
    let asked = Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    // All of them, twice; then all but the first, which is passed on in a request of its own.
    proxy.decide(move |message| {
        if message.operation() != "BatchGetItem" || counted.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            return Fate::Pass;
        }
        Fate::Answer(200, json!({ "Responses": {}, "UnprocessedKeys": message.json()["RequestItems"] }))
    });
    assert_eq!(feed(&store).await, ids);
    assert!(asked.load(Ordering::Relaxed) >= 3);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_asks_for_what_is_written() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    read(&store, "a-1", StreamStart::Last, Direction::Backward, 5).await;
    feed(&store).await;
    let find = FindCommit { stream: stream("a-1"), commit: CommitId::generate(), deadline: deadline() };
    assert_eq!(store.find_commit(find).await.unwrap(), None);
    let mut asked = 0;
    for (operation, body) in proxy.take_seen() {
        let consistent = match operation.as_str() {
            "Query" | "GetItem" => body["ConsistentRead"] == true,
            "BatchGetItem" => {
                body["RequestItems"].as_object().unwrap().values().all(|asked| asked["ConsistentRead"] == true)
            }
            _ => continue,
        };
        asked += 1;
        assert!(consistent, "{operation}: {body}");
    }
    assert!(asked > 5);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_megabytes_is_read_whole_and_a_limit_is_exact() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    for n in 0..7 {
        append(&store, "a-1", Expected::Any, CommitId::generate(), vec![event(noise(380_000, n + 1))]).await.unwrap();
    }
    for limit in [1, 2, 3, 6, 7, 8] {
        let wanted = u64::from(limit).min(7);
        let page = read(&store, "a-1", StreamStart::First, Direction::Forward, limit).await;
        assert_eq!(page.events().map(|event| event.revision().0).collect::<Vec<_>>(), (1..=wanted).collect::<Vec<_>>());
        assert_eq!(page.next, (wanted < 7).then_some(Revision(wanted + 1)));
        let page = read(&store, "a-1", StreamStart::Last, Direction::Backward, limit).await;
        let found: Vec<_> = page.events().map(|event| event.revision().0).collect();
        assert_eq!(found, (8 - wanted..=7).rev().collect::<Vec<_>>());
    }
    assert_eq!(feed(&store).await.len(), 7);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_slot_was_truncated_away_loses() {
    let scratch = Scratch::new(&[]).await;
    let (store, paused, admin) = (scratch.open().await, scratch.open().await, scratch.admin().await);
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    append_one(&paused, "a-1", CommitId::generate()).await.unwrap();
    for _ in 0..5 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    let truncate =
        Truncate { stream: stream("a-1"), commit: CommitId::generate(), before: Revision(8), deadline: deadline() };
    admin.truncate(truncate).await.unwrap();
    let error = append(&paused, "a-1", Expected::At(Revision(2)), CommitId::generate(), vec![event(vec![1])]).await;
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.head().unwrap().revision), (ErrorKind::Conflict, Revision(7)));
    assert_eq!(append_one(&paused, "a-1", CommitId::generate()).await.unwrap().first, Revision(8));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_that_was_broken_off_is_hidden_and_goes_on_when_it_is_repeated() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    for _ in 0..10 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    let truncate =
        Truncate { stream: stream("a-1"), commit: CommitId::generate(), before: Revision(9), deadline: deadline() };
    let stripped = AtomicU32::new(0);
    proxy.decide(move |message| match message.operation().as_str() {
        "UpdateItem" if stripped.fetch_add(1, Ordering::Relaxed) >= 3 => refusal("ThrottlingException"),
        _ => Fate::Pass,
    });
    let error = admin.truncate(truncate.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error:?}");
    let kept = |page: StreamPage| page.events().map(|event| event.revision().0).collect::<Vec<_>>();
    assert_eq!(kept(read(&store, "a-1", StreamStart::First, Direction::Forward, 100).await), [9, 10]);
    let slots = ReadCommits {
        stream: stream("a-1"),
        from: CommitNumber(1),
        limit: 100,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    let stubs = admin.read_commits(slots).await.unwrap().commits;
    assert_eq!(stubs.iter().filter(|commit| commit.content == Content::Stripped).count(), 8);
    proxy.decide(|_| Fate::Pass);
    let done = admin.truncate(truncate).await.unwrap();
    assert!(done.marker.repeated);
    assert_eq!(done.first_retained, Revision(9));
    let item = |number: u64| {
        let key = json!({ "k": { "S": "a-1" }, "n": { "N": number.to_string() } });
        ask("GetItem", json!({ "TableName": scratch.table(), "Key": key }))
    };
    for number in 1..=8 {
        assert!(item(number).await["Item"].get("e").is_none(), "slot {number}");
    }
    assert!(item(9).await["Item"].get("e").is_some());
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_writer_died_holds_nobody_up_for_long() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    let receipt = append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    let next = receipt.position.unwrap().0 + 1;
    let claim = json!({
        "k": { "S": "log" }, "n": { "N": next.to_string() }, "t": { "N": "1" }, "b": { "BOOL": true },
        "o": { "B": "AAAAAAAAAAAAAAAAAAAAAA==" },
    });
    ask("PutItem", json!({ "TableName": format!("{}-log", scratch.table()), "Item": claim })).await;
    let begun = Instant::now();
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_paused_across_the_fence_is_refused() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let (paused, admin) = (scratch.open().await, scratch.admin().await);
    append_one(&paused, "a-1", CommitId::generate()).await.unwrap();
    let meta = admin.read_meta(deadline()).await.unwrap();
    let to = evstore_api::StoreName::new("other").unwrap();
    let state = evstore_api::StoreState::Fenced { to };
    let fenced = Meta { state, epoch: evstore_api::Epoch(meta.epoch.0 + 1), ..meta.clone() };
    admin.swap_meta(SwapMeta { expected: meta, new: fenced, deadline: deadline() }).await.unwrap();
    proxy.take_seen();
    // It knows the end of the log and the record as they were, and sends its transaction first.
    let error = append_one(&paused, "a-1", CommitId::generate()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(proxy.take_seen()[0].0, "TransactWriteItems");
    assert_eq!(feed(&paused).await.len(), 1);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_snapshot_of_a_deleted_stream_is_not_kept() {
    for snapshots in ["separate", "interleaved"] {
        let proxy = Proxy::start().await;
        let scratch = Scratch::at(&proxy.url, &[("snapshots", snapshots)]).await;
        let (store, admin) = (scratch.open().await, scratch.admin().await);
        let receipt = append_one(&store, "a-1", CommitId::generate()).await.unwrap();
        let snapshot = Snapshot {
            stream: stream("a-1"),
            revision: receipt.last,
            number: receipt.number,
            commit: receipt.commit,
            schema: 1,
            content_type: ContentType::json(),
            data: vec![7].into(),
            taken_at: Timestamp(1),
        };
        let read = || store.read_snapshot(ReadSnapshot { stream: stream("a-1"), deadline: deadline() });
        // Its head was read; then the stream is deleted; then it is put.
        let (late, may_be_put) = watch::channel(false);
        proxy.decide(move |message| match message.operation().as_str() {
            "PutItem" => Fate::PassOnce(may_be_put.clone()),
            _ => Fate::Pass,
        });
        let put = store.put_snapshot(PutSnapshot { snapshot, deadline: deadline() });
        let delete = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (expected, commit) = (Expected::Any, CommitId::generate());
            let delete = evstore_api::Delete { stream: stream("a-1"), expected, commit, deadline: deadline() };
            admin.delete(delete).await.unwrap();
            late.send_replace(true);
        };
        let (put, ()) = tokio::join!(put, delete);
        if snapshots == "separate" {
            assert_eq!(put.unwrap_err().kind(), ErrorKind::Gone);
        }
        assert_eq!(read().await.unwrap(), None, "{snapshots}");
        store.delete_snapshot(DeleteSnapshot { stream: stream("a-1"), deadline: deadline() }).await.unwrap();
        scratch.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_fit_are_refused() {
    let scratch = Scratch::new(&[]).await;
    let table = scratch.table();
    let refused = |more: Vec<(&'static str, String)>| {
        let scratch = &scratch;
        async move {
            let more: Vec<(&str, &str)> = more.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let error = scratch.open_with(&more).await.unwrap_err();
            (error.kind(), error.to_string())
        }
    };
    let (kind, words) = refused(vec![("snapshots", "interleaved".to_owned())]).await;
    assert_eq!(kind, ErrorKind::Schema);
    assert!(words.contains("snapshots"), "{words}");
    assert_eq!(refused(vec![("table", "evstore-none".to_owned())]).await.0, ErrorKind::Schema);
    // The commits' table in the place of the names': numbers are not names.
    let odd = format!("{table}x");
    for (name, sort) in [(odd.clone(), "n"), (format!("{odd}-log"), "n"), (format!("{odd}-names"), "n")] {
        make_table(&name, sort).await;
    }
    let (kind, words) = refused(vec![("table", odd.clone())]).await;
    assert_eq!(kind, ErrorKind::Schema);
    assert!(words.contains("other keys"), "{words}");
    for name in [odd.clone(), format!("{odd}-log"), format!("{odd}-names")] {
        ask("DeleteTable", json!({ "TableName": name })).await;
    }
    let expiry = json!({ "TableName": table, "TimeToLiveSpecification": { "Enabled": true, "AttributeName": "x" } });
    ask("UpdateTimeToLive", expiry).await;
    let (kind, words) = refused(Vec::new()).await;
    assert_eq!(kind, ErrorKind::Schema);
    assert!(words.contains("expire"), "{words}");
    scratch.end().await;
}

async fn make_table(name: &str, sort: &str) {
    let attribute = |name: &str, kind: &str| json!({ "AttributeName": name, "AttributeType": kind });
    let key = |name: &str, kind: &str| json!({ "AttributeName": name, "KeyType": kind });
    ask(
        "CreateTable",
        json!({
            "TableName": name, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [attribute("k", "S"), attribute(sort, "N")],
            "KeySchema": [key("k", "HASH"), key(sort, "RANGE")],
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_items_are_found() {
    let scratch = Scratch::new(&[]).await;
    let store = scratch.open().await;
    for _ in 0..2 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    append_one(&store, "b-1", CommitId::generate()).await.unwrap();
    let key = |name: &str, number: u64| json!({ "k": { "S": name }, "n": { "N": number.to_string() } });
    let mut item = ask("GetItem", json!({ "TableName": scratch.table(), "Key": key("a-1", 1) })).await["Item"].clone();
    let kept = item.clone();
    // The first commit in the place of the second, and that of another stream.
    for (name, number) in [("a-1", 2), ("b-1", 1)] {
        item["k"]["S"] = json!(name);
        item["n"]["N"] = json!(number.to_string());
        ask("PutItem", json!({ "TableName": scratch.table(), "Item": item })).await;
        let fresh = scratch.open().await;
        let request = ReadStream {
            stream: stream(name),
            from: StreamStart::First,
            direction: Direction::Forward,
            limit: 10,
            max_bytes: u64::MAX,
            deadline: deadline(),
        };
        assert_eq!(fresh.read_stream(request).await.unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
    }
    // One damaged stream holds up no other.
    let fresh = scratch.open().await;
    let (damaged, whole) =
        tokio::join!(append_one(&fresh, "a-1", CommitId::generate()), append_one(&fresh, "c-1", CommitId::generate()));
    assert_eq!(damaged.unwrap_err().kind(), ErrorKind::Corrupt);
    whole.unwrap();
    let mut events = kept;
    events["n"]["N"] = json!("1");
    events.as_object_mut().unwrap().remove("e");
    ask("PutItem", json!({ "TableName": scratch.table(), "Item": events })).await;
    let error = fresh
        .read_feed(ReadFeed {
            from: FeedStart::First,
            filter: FeedFilter::none(),
            limit: 10,
            max_bytes: u64::MAX,
            deadline: deadline(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_is_unavailable_and_nothing_was_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = evstore_dynamodb::provider().opener.open(&settings(&url, &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_where_a_fifth_of_the_answers_is() {
    const CLIENTS: usize = 4;
    const TASKS: u32 = 16;
    const APPENDS: u32 = 12;
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(scratch.open().await);
    }
    let count = AtomicU32::new(0);
    proxy.decide(move |message| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        match (message.operation().as_str(), n % 20) {
            ("TransactWriteItems", 3 | 11) => Fate::LoseAnswer,
            (_, 7) => refusal("ThrottlingException"),
            (_, 13) => refusal("InternalServerError"),
            _ => Fate::Pass,
        }
    });
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let store = clients[task as usize % CLIENTS].clone();
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..APPENDS {
                // Half of all race on one stream, the others are spread.
                let name = if n % 2 == 0 { "hot-1".to_owned() } else { format!("cold-{task}-{n}") };
                let id = CommitId::generate();
                let begun = Instant::now();
                loop {
                    match append_one(&store, &name, id).await {
                        Ok(receipt) => break acknowledged.push((name, receipt.number, id)),
                        Err(error) => {
                            let passing = [ErrorKind::Indeterminate, ErrorKind::Throttled, ErrorKind::Unavailable]
                                .contains(&error.kind());
                            assert!(passing && begun.elapsed() < Duration::from_secs(60), "{error:?}");
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                    }
                }
            }
            acknowledged
        }));
    }
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    proxy.decide(|_| Fate::Pass);
    assert_eq!(acknowledged.len(), (TASKS * APPENDS) as usize);
    let fed = feed(&clients[0]).await;
    let distinct: HashSet<_> = fed.iter().collect();
    assert_eq!(distinct.len(), fed.len(), "a commit stands twice in the feed");
    assert_eq!(distinct.len(), acknowledged.len(), "the feed has exactly what was acknowledged");
    let hot: HashSet<_> =
        acknowledged.iter().filter(|(name, ..)| name == "hot-1").map(|(_, number, _)| number.0).collect();
    assert_eq!(hot, (1..=u64::from(TASKS * APPENDS / 2)).collect(), "each slot of the hot stream once");
    assert!(acknowledged.iter().all(|(_, _, id)| distinct.contains(id)));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_endpoint_is_spoken_to_with_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let first = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 3];
        tokio::io::AsyncReadExt::read_exact(&mut client, &mut bytes).await.unwrap();
        bytes
    });
    let error = evstore_dynamodb::provider().opener.open(&settings(&url, &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // A handshake, of TLS 1.0 or later as its record says.
    assert_eq!(first.await.unwrap()[..2], [22, 3]);
}
