//! The same with a feed that goes through a queue: what it takes, and messages that come twice, late, out of order or never, which the local
//! engine of queues does not show by itself. One that comes twice is sent twice here, with another id: as the service takes the same id for
//! another one after five minutes.

use crate::engine::{Fate, Proxy, Scratch, append, append_one, ask_queue, deadline, event, noise, queues_url, refusal};
use crate::sequencer::{APART, advance, kill_under_load, proved_feed};
use crate::{NAME, order_event};
use evstore_api::{AdvanceFeed, CommitId, Error, ErrorKind, Expected, Position, Severity};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const QUEUED: (&str, &str) = ("feed", "sqs-fifo");

/// A store whose queue is spoken to through a proxy.
async fn queued(queues: &Proxy) -> Scratch {
    Scratch::new(&[QUEUED, APART, ("queue_endpoint", &queues.url)]).await
}

fn queue_name(scratch: &Scratch) -> String {
    format!("{}.fifo", scratch.table().replace('.', "--"))
}

async fn queue_url(scratch: &Scratch) -> Value {
    ask_queue("GetQueueUrl", json!({ "QueueName": queue_name(scratch) })).await["QueueUrl"].clone()
}

async fn set(scratch: &Scratch, name: &str, value: &str) {
    let request = json!({ "QueueUrl": queue_url(scratch).await, "Attributes": { name: value } });
    ask_queue("SetQueueAttributes", request).await;
}

/// How many messages are in the queue, those that somebody has received included.
async fn depth(scratch: &Scratch) -> u64 {
    let request = json!({ "QueueUrl": queue_url(scratch).await, "AttributeNames": ["All"] });
    let found = ask_queue("GetQueueAttributes", request).await;
    let number = |name: &str| found["Attributes"][name].as_str().unwrap().parse::<u64>().unwrap();
    number("ApproximateNumberOfMessages") + number("ApproximateNumberOfMessagesNotVisible")
}

/// Sends something to the queue, past the provider and with an id that nothing else has.
async fn send(scratch: &Scratch, group: &str, body: String) {
    let request = json!({
        "QueueUrl": queue_url(scratch).await, "MessageBody": body, "MessageGroupId": group,
        "MessageDeduplicationId": CommitId::generate().to_string(),
    });
    ask_queue("SendMessage", request).await;
}

fn tells(stream: &str, commit: u64) -> String {
    json!({ "stream": stream, "commit": commit }).to_string()
}

/// How often each request was sent since the last call.
fn counted(proxy: &Proxy) -> HashMap<String, usize> {
    proxy.take_seen().into_iter().fold(HashMap::new(), |mut counted, (operation, _)| {
        *counted.entry(operation).or_default() += 1;
        counted
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_never_touches_the_queue_and_ten_commits_are_three_requests() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    let store = scratch.open().await;
    let admin = scratch.admin().await;
    queues.take_seen();
    for n in 0..20 {
        let commit = vec![event(noise(900 - "Happened".len(), n + 1))];
        let usage = append(&store, NAME, Expected::Any, CommitId::generate(), commit).await.unwrap().usage;
        assert!(n == 0 || (usage.write_units, usage.read_units, usage.requests) == (1.0, 0.0, 1), "{n}: {usage:?}");
    }
    assert!(queues.take_seen().is_empty(), "an append asked the queue for something");
    let advanced = admin.advance_feed(AdvanceFeed { deadline: deadline() }).await.unwrap();
    assert_eq!(advanced.head.position, Some(Position(20)));
    let seen = counted(&queues);
    let of = |name: &str| seen.get(name).copied().unwrap_or_default();
    assert_eq!((of("SendMessageBatch"), of("DeleteMessageBatch")), (2, 2), "{seen:?}");
    // Both parts are of one group, so that the second may have to wait for the first.
    assert!((2..=4).contains(&of("ReceiveMessage")), "{seen:?}");
    assert!(advanced.head.usage.requests as usize >= seen.values().sum(), "{:?} {seen:?}", advanced.head.usage);
    // One that comes alone, and what was asked about the queue was asked once.
    append(&store, NAME, Expected::Any, CommitId::generate(), vec![order_event(1)]).await.unwrap();
    admin.advance_feed(AdvanceFeed { deadline: deadline() }).await.unwrap();
    let wanted = ["SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"].map(|name| (name.to_owned(), 1));
    assert_eq!(counted(&queues), HashMap::from(wanted));
    assert_eq!((proved_feed(&store).await.len(), depth(&scratch).await), (21, 0));
    let findings = admin.examine(deadline()).await.unwrap();
    let found = findings.iter().find(|finding| finding.about == "queue").unwrap();
    assert!(found.severity == Severity::Fine && found.found.contains("has 0 messages"), "{found:?}");
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_twice_out_of_its_window_or_out_of_order_is_logged_once() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    let store = scratch.open().await;
    for _ in 0..3 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    // Before the first of them is sent, and the last one first; in a group of its own, so that nothing holds it back.
    send(&scratch, "early", tells("a-1", 3)).await;
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), 3);
    // Long after they were logged, once and once more.
    for number in [1, 3, 2, 3] {
        send(&scratch, "late", tells("a-1", number)).await;
    }
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    append_one(&store, "b-1", CommitId::generate()).await.unwrap();
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), 5);
    // Of nothing that is there, and nothing at all: another store's, say, or somebody's by hand.
    for body in [tells("c-1", 1), tells("a-1", 9), tells("\u{7}", 1), "{}".to_owned(), "words".to_owned()] {
        send(&scratch, "strange", body).await;
    }
    let mut more = 5;
    // What is not waited for comes as it comes.
    while depth(&scratch).await > 0 || more == 5 {
        assert!(more < 40, "the queue is never empty");
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
        more += 1;
        advance(&scratch).await;
    }
    assert_eq!(proved_feed(&store).await.len(), more);
    append_one(&store, "c-1", CommitId::generate()).await.unwrap();
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), more + 1);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_or_never_is_done_without_after_as_long_as_a_dead_process_could_have_it() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    set(&scratch, "VisibilityTimeout", "1").await;
    let store = scratch.open().await;
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    append_one(&store, "b-1", CommitId::generate()).await.unwrap();
    // The queue has them, and gives nobody any.
    queues.decide(|message| match message.operation().as_str() {
        "ReceiveMessage" => Fate::Answer(200, json!({})),
        _ => Fate::Pass,
    });
    let begun = Instant::now();
    advance(&scratch).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "they were waited for");
    assert_eq!(proved_feed(&store).await.len(), 3);
    assert_eq!(depth(&scratch).await, 3);
    // Then they come, and what was appended since.
    queues.decide(|_| Fate::Pass);
    append_one(&store, "b-1", CommitId::generate()).await.unwrap();
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), 4);
    // With one that is gone from the queue, as after somebody emptied it.
    append_one(&store, "b-1", CommitId::generate()).await.unwrap();
    queues.once("SendMessageBatch", Fate::Answer(200, json!({ "Successful": [], "Failed": [] })));
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), 5);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_somebody_died_with_are_waited_for() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    set(&scratch, "VisibilityTimeout", "1").await;
    let store = scratch.open().await;
    for n in 0..6 {
        append_one(&store, &format!("a-{n}"), CommitId::generate()).await.unwrap();
    }
    // Received, and their answer lost: nobody deletes them.
    queues.once("ReceiveMessage", Fate::LoseAnswer);
    let begun = Instant::now();
    advance(&scratch).await;
    assert!(begun.elapsed() >= Duration::from_millis(700), "they were not with the dead");
    assert_eq!((proved_feed(&store).await.len(), depth(&scratch).await), (6, 0));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_the_queue_that_fail_are_begun_again() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    set(&scratch, "VisibilityTimeout", "1").await;
    let store = scratch.open().await;
    let not_taken = || {
        let failed = json!({ "Id": "0", "Code": "ThrottlingException", "Message": "forged", "SenderFault": false });
        Fate::Answer(200, json!({ "Successful": [], "Failed": [failed] }))
    };
    let failures = [
        ("SendMessageBatch", Fate::LoseAnswer),
        ("SendMessageBatch", Fate::LoseRequest),
        ("SendMessageBatch", refusal("ThrottlingException")),
        ("SendMessageBatch", not_taken()),
        ("ReceiveMessage", refusal("InternalServerError")),
        ("DeleteMessageBatch", Fate::LoseAnswer),
        ("DeleteMessageBatch", Fate::LoseRequest),
        ("DeleteMessageBatch", refusal("OverLimit")),
    ];
    let (admin, mut appended) = (scratch.admin().await, 0);
    for (operation, fate) in failures {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
        append_one(&store, &format!("b-{appended}"), CommitId::generate()).await.unwrap();
        appended += 2;
        queues.once(operation, fate);
        for last in [false, true] {
            match admin.advance_feed(AdvanceFeed { deadline: deadline() }).await {
                Ok(_) => break,
                Err(error) => assert!(!last && error.kind() == ErrorKind::Unavailable, "{operation}: {error:?}"),
            }
        }
        assert_eq!(proved_feed(&store).await.len(), appended, "{operation}");
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_taken_and_left_at_any_time() {
    let scratch = Scratch::new(&[QUEUED, ("queue_endpoint", &queues_url())]).await;
    let mut appended = 0;
    // Both at once in the end, each in a process of its own.
    let mut open = Vec::new();
    for feed in ["sqs-fifo", "sequencer", "sqs-fifo", "sequencer"] {
        let store = scratch.open_with(&[("feed", feed)]).await.unwrap();
        for n in 0..5 {
            append_one(&store, &format!("a-{}", n % 2), CommitId::generate()).await.unwrap();
            appended += 1;
        }
        let begun = Instant::now();
        while proved_feed(&store).await.len() < appended {
            assert!(begun.elapsed() < Duration::from_secs(30), "{feed}: the feed does not come on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if appended < 15 {
            store.close().await.unwrap();
        } else {
            open.push(store);
        }
    }
    for store in open {
        store.close().await.unwrap();
    }
    scratch.end().await;
}

/// A failure to open a store, with settings beside its own.
async fn refused(scratch: &Scratch, more: &[(&str, &str)]) -> Error {
    scratch.open_with(more).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_another_one_or_not_there_is_refused() {
    let queues = Proxy::before(queues_url()).await;
    let scratch = queued(&queues).await;
    for (name, bad, good) in
        [("ContentBasedDeduplication", "true", "false"), ("VisibilityTimeout", "0", "10"), ("DelaySeconds", "5", "0")]
    {
        set(&scratch, name, bad).await;
        let error = refused(&scratch, &[]).await;
        assert!(error.kind() == ErrorKind::Schema && error.to_string().contains(name), "{error:?}");
        set(&scratch, name, good).await;
        scratch.open().await.close().await.unwrap();
    }
    // Who may not look at it can't sequence, and need not be able to.
    queues.decide(|_| refusal("AccessDenied"));
    assert_eq!(refused(&scratch, &[("sequencer", "inside")]).await.kind(), ErrorKind::Denied);
    scratch.open().await.close().await.unwrap();
    queues.decide(|_| Fate::Pass);
    ask_queue("DeleteQueue", json!({ "QueueUrl": queue_url(&scratch).await })).await;
    let error = refused(&scratch, &[]).await;
    assert!(error.kind() == ErrorKind::Schema && error.to_string().contains("queue is not there"), "{error:?}");
    let admin = scratch.admin().await;
    let planned = admin.plan_schema(deadline()).await.unwrap();
    assert_eq!(planned.changes.len(), 1, "{planned:?}");
    let statement: Value = serde_json::from_str(&planned.changes[0].statement).unwrap();
    let wanted = json!({
        "Type": "AWS::SQS::Queue",
        "Properties": {
            "QueueName": queue_name(&scratch), "FifoQueue": true, "ContentBasedDeduplication": false,
            "VisibilityTimeout": 10, "MessageRetentionPeriod": 1_209_600,
        },
    });
    assert_eq!(statement["EvstoreQueue"], wanted);
    assert_eq!(admin.apply_schema(deadline()).await.unwrap(), planned);
    assert!(admin.plan_schema(deadline()).await.unwrap().changes.is_empty());
    // What was made is what is asked for.
    scratch.open().await.close().await.unwrap();
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequencers_that_die_anywhere_and_meet_in_a_queue_lose_nothing_and_repeat_nothing() {
    let (proxy, queues) = (Proxy::start().await, Proxy::before(queues_url()).await);
    let scratch = Scratch::at(&proxy.url, &[QUEUED, APART, ("queue_endpoint", &queues.url)]).await;
    // What the dead have out of the queue is with them for a second.
    set(&scratch, "VisibilityTimeout", "1").await;
    let count = AtomicU32::new(0);
    queues.decide(move |_| match count.fetch_add(1, Ordering::Relaxed) % 30 {
        11 => Fate::LoseAnswer,
        23 => Fate::LoseRequest,
        _ => Fate::Pass,
    });
    let seed = std::process::id();
    println!("seed {seed}");
    kill_under_load(&[&proxy, &queues], scratch, seed).await;
}
