//! What happens between a store and its objects: lost answers, throttling, conflicts, objects that are missing or damaged, services
//! that keep no conditions; and what calls cost in requests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod engine;

use engine::{Fate, Proxy, Scratch, append, append_one, ask, deadline, event, object, settings, stream};
use evstore_api::{
    Appended, CommitId, CommitNumber, ContentType, Deadline, Delete, Direction, ErrorKind, EventStore, Expected,
    FindCommit, PutSnapshot, ReadHead, ReadSnapshot, ReadStream, Revision, Snapshot, StreamPage, StreamStart,
    Timestamp, Truncate,
};
use std::sync::Arc;
use std::time::Duration;

async fn try_read(store: &Arc<dyn EventStore>, name: &str) -> Result<StreamPage, evstore_api::Error> {
    let request = ReadStream {
        stream: stream(name),
        from: StreamStart::First,
        direction: Direction::Forward,
        limit: 10_000,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    store.read_stream(request).await
}

async fn read(store: &Arc<dyn EventStore>, name: &str) -> StreamPage {
    try_read(store, name).await.unwrap()
}

async fn revision(store: &Arc<dyn EventStore>, name: &str) -> Revision {
    store.head(ReadHead { stream: stream(name), deadline: deadline() }).await.unwrap().revision
}

fn puts(seen: &[(String, String)]) -> usize {
    seen.iter().filter(|(method, _)| method == "PUT").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_to_be_ours() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    proxy.next_puts([Fate::LoseAnswer]);
    let made = append(&store, "a-1", Expected::NoStream, CommitId::generate(), vec![event(b"x")], deadline()).await;
    assert_eq!((made.as_ref().unwrap().last, made.unwrap().repeated), (Revision(1), false));
    assert_eq!(revision(&store, "a-1").await, Revision(1));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_a_failure_and_a_lost_request_are_sent_again() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    for fate in [
        Fate::Refuse(409, "ConditionalRequestConflict"),
        Fate::Refuse(500, "InternalError"),
        Fate::Refuse(503, "ServiceUnavailable"),
        Fate::LoseRequest,
    ] {
        proxy.next_puts([fate, fate]);
        let made = append_one(&store, "a-1", CommitId::generate()).await;
        assert!(!made.unwrap_or_else(|error| panic!("{fate:?}: {error:?}")).repeated);
    }
    assert_eq!(revision(&store, "a-1").await, Revision(4));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slower_pace_is_passed_on_and_nothing_is_written() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    for (status, code, kind) in [
        (503, "SlowDown", ErrorKind::Throttled),
        (403, "AccessDenied", ErrorKind::Denied),
        (404, "NoSuchBucket", ErrorKind::Schema),
        (409, "OperationAborted", ErrorKind::Unavailable),
    ] {
        proxy.next_puts([Fate::Refuse(status, code)]);
        assert_eq!(append_one(&store, "a-1", CommitId::generate()).await.unwrap_err().kind(), kind, "{code}");
    }
    assert_eq!(revision(&store, "a-1").await, Revision(0));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_answer_nobody_knows_until_it_is_repeated() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let store = scratch.open().await;
    let id = CommitId::generate();
    let soon = || Deadline::within(Duration::from_millis(300));
    let events = || vec![event(b"x")];
    // The first one arrives, and no answer ever comes back.
    proxy.decide(|message| if message.method() == "PUT" { Fate::LoseAnswer } else { Fate::LoseRequest });
    let unknown = append(&store, "a-1", Expected::NoStream, id, events(), soon()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Indeterminate);
    proxy.decide(|_| Fate::Pass);
    let repeated = append(&store, "a-1", Expected::NoStream, id, events(), deadline()).await.unwrap();
    assert_eq!((repeated.repeated, repeated.last), (true, Revision(1)));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_number_decides_again() {
    let scratch = Scratch::new(&[]).await;
    let (one, two) = (scratch.open().await, scratch.open().await);
    let at = |revision| Expected::At(Revision(revision));
    let next = |store, expected| append(store, "a-1", expected, CommitId::generate(), vec![event(b"x")], deadline());
    next(&one, at(0)).await.unwrap();
    // The other handle knows nothing of it yet.
    let conflict = next(&two, at(0)).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.head().unwrap().revision), (ErrorKind::Conflict, Revision(1)));
    next(&two, at(1)).await.unwrap();
    next(&one, Expected::Any).await.unwrap();
    assert_eq!(revision(&two, "a-1").await, Revision(3));
    scratch.end().await;
}

/// Callers that append one commit after the other; gives the receipts.
async fn crowd(store: &Arc<dyn EventStore>, callers: u64, commits: u64) -> Vec<Appended> {
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for _ in 0..commits {
                    let name = format!("crowd-{caller}");
                    receipts.push(append_one(&store, &name, CommitId::generate()).await.unwrap());
                }
                receipts
            })
        })
        .collect();
    let mut receipts = Vec::new();
    for task in tasks {
        receipts.extend(task.await.unwrap());
    }
    receipts
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_share_a_put() {
    let proxy = Proxy::start().await;
    for (callers, commits, least) in [(1, 10, 1), (64, 20, 20), (256, 8, 50)] {
        let scratch = Scratch::at(&proxy.url, &[]).await;
        let store = scratch.open().await;
        proxy.take_seen();
        let receipts = crowd(&store, callers, commits).await;
        let seen = proxy.take_seen();
        let each = (callers * commits) as f64 / puts(&seen) as f64;
        println!(
            "{callers} callers: {each:.1} commits for each of {} puts, {} requests in all",
            puts(&seen),
            seen.len()
        );
        assert!(each >= f64::from(least), "{callers} callers: {each} commits for each put");
        let told: u32 = receipts.iter().map(|receipt| receipt.usage.requests).sum();
        let of_log = seen.iter().filter(|(method, path)| method == "PUT" && path.contains("/log/")).count();
        let all = of_log..=seen.len();
        assert!(
            all.contains(&(told as usize)),
            "{told} requests in receipts, {of_log} puts of the log, {} sent",
            seen.len()
        );
        let mut positions: Vec<u64> = receipts.iter().map(|receipt| receipt.position.unwrap().0).collect();
        positions.sort_unstable();
        assert!(positions.into_iter().eq(1..=callers * commits));
        scratch.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_nothing_asks_for_nothing() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    admin.read_meta(deadline()).await.unwrap();
    proxy.take_seen();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(proxy.take_seen(), []);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_reads_a_checkpoint_and_a_bounded_rest() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[("checkpoint_every", "16")]).await;
    let store = scratch.open().await;
    for _ in 0..70 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    store.close().await.unwrap();
    let before = {
        proxy.take_seen();
        let store = scratch.open().await;
        let seen = proxy.take_seen();
        let slots = seen.iter().filter(|(method, path)| method == "GET" && path.contains("/log/0")).count();
        assert!(slots <= 16 + 16, "{slots} objects of the log were asked for");
        read(&store, "a-1").await
    };
    let listed = ask("GET", &format!("?list-type=2&prefix={}/checkpoint/", scratch.prefix()), &[]).await;
    let kept = String::from_utf8(listed.body).unwrap().matches("<Key>").count();
    assert!((1..=2).contains(&kept), "{kept} checkpoints are kept");
    // A hint is a hint: damaged or pointing nowhere, the log says the same.
    let pointer = format!("/{}/head", scratch.prefix());
    let number = String::from_utf8(object(pointer.trim_start_matches('/')).await.unwrap()).unwrap();
    let checkpoint = format!("/{}/checkpoint/{:020}", scratch.prefix(), number.parse::<u64>().unwrap());
    for (key, body) in [(&checkpoint, &b"EVSC\x01nonsense"[..]), (&pointer, b"12345"), (&pointer, b"\xff")] {
        ask("PUT", key, body).await;
        let page = read(&scratch.open().await, "a-1").await;
        assert_eq!((page.head, page.commits), (before.head.clone(), before.commits.clone()));
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_named_and_is_no_end() {
    let scratch = Scratch::new(&[("cache_bytes", "0")]).await;
    let store = scratch.open().await;
    for _ in 0..5 {
        append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    let slot = scratch.slot(4);
    let kept = object(&slot).await.unwrap();
    ask("DELETE", &format!("/{slot}"), &[]).await;
    for refused in [try_read(&store, "a-1").await.unwrap_err(), scratch.open_with(&[]).await.unwrap_err()] {
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains(&slot), "{refused}");
    }
    ask("PUT", &format!("/{slot}"), &kept).await;
    assert_eq!(read(&scratch.open().await, "a-1").await.events().count(), 5);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let scratch = Scratch::new(&[("cache_bytes", "0")]).await;
    let store = scratch.open().await;
    append(&store, "a-1", Expected::Any, CommitId::generate(), vec![event(b"payload")], deadline()).await.unwrap();
    let slot = scratch.slot(2);
    let kept = object(&slot).await.unwrap();
    for at in 0..kept.len() {
        let mut flipped = kept.clone();
        flipped[at] ^= 1;
        ask("PUT", &format!("/{slot}"), &flipped).await;
        let refused = match scratch.open_with(&[]).await {
            Ok(store) => try_read(&store, "a-1").await.expect_err("something is flipped"),
            Err(refused) => refused,
        };
        // A newer layout is not damage: the version says so before anything else is looked at.
        let kind = if at == 4 { ErrorKind::Schema } else { ErrorKind::Corrupt };
        assert_eq!(refused.kind(), kind, "byte {at}: {refused}");
        assert!(refused.to_string().contains(&slot), "{refused}");
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_is_gone_from_every_object() {
    let scratch = Scratch::new(&[]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    let write = |name: &'static str, text: &'static str| {
        let store = store.clone();
        async move {
            let id = CommitId::generate();
            append(&store, name, Expected::Any, id, vec![event(text)], deadline()).await.unwrap()
        }
    };
    let (secret, kept, _) =
        tokio::join!(write("a-1", "secret-of-a"), write("b-1", "kept-of-b"), write("c-1", "secret-of-c"));
    write("a-1", "kept-of-a").await;
    for text in ["secret-first-snapshot", "secret-second-snapshot"] {
        let snapshot = Snapshot {
            stream: stream("c-1"),
            revision: Revision(1),
            number: CommitNumber(1),
            commit: CommitId([0; 16]),
            schema: 1,
            content_type: ContentType::bytes(),
            data: text.as_bytes().to_vec().into(),
            taken_at: Timestamp(0),
        };
        store.put_snapshot(PutSnapshot { snapshot, deadline: deadline() }).await.unwrap();
    }
    let commit = CommitId::generate();
    let truncated = admin
        .truncate(Truncate { stream: stream("a-1"), commit, before: Revision(2), deadline: deadline() })
        .await
        .unwrap();
    assert_eq!(truncated.first_retained, Revision(2));
    let request =
        Delete { stream: stream("c-1"), expected: Expected::Any, commit: CommitId::generate(), deadline: deadline() };
    admin.delete(request).await.unwrap();
    let mut all = Vec::new();
    for number in 1.. {
        let Some(body) = object(&scratch.slot(number)).await else { break };
        all.extend(body);
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(!text.contains("secret"));
    assert!(text.contains("kept-of-a") && text.contains("kept-of-b"));
    // No number is free again, and what is left reads as before, also for who reads everything anew.
    for store in [store, scratch.open().await] {
        assert_eq!(read(&store, "a-1").await.events().next().unwrap().event.data, "kept-of-a");
        assert_eq!(read(&store, "b-1").await.events().next().unwrap().event.data, "kept-of-b");
        assert_eq!(read(&store, "c-1").await.events().count(), 0);
        let snapshot = ReadSnapshot { stream: stream("c-1"), deadline: deadline() };
        assert_eq!(store.read_snapshot(snapshot).await.unwrap(), None);
        let find = |stream, commit| FindCommit { stream, commit, deadline: deadline() };
        assert!(store.find_commit(find(stream("a-1"), secret.commit)).await.unwrap().is_some());
        assert!(store.find_commit(find(stream("b-1"), kept.commit)).await.unwrap().is_some());
    }
    let findings = admin.examine(deadline()).await.unwrap();
    assert!(findings.iter().any(|one| one.about == "removed" && one.mending.is_empty()), "{findings:?}");
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_taken_out_is_told_and_taken_out_later() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    append(&store, "a-1", Expected::Any, CommitId::generate(), vec![event(b"secret")], deadline()).await.unwrap();
    proxy.decide(|message| match message.method() == "PUT" && !message.is_put_of_log() {
        true => Fate::Refuse(403, "AccessDenied"),
        false => Fate::Pass,
    });
    let request =
        Delete { stream: stream("a-1"), expected: Expected::Any, commit: CommitId::generate(), deadline: deadline() };
    admin.delete(request).await.unwrap();
    let has_secret = || async { String::from_utf8_lossy(&object(&scratch.slot(2)).await.unwrap()).contains("secret") };
    assert!(has_secret().await);
    let findings = admin.examine(deadline()).await.unwrap();
    assert!(findings.iter().any(|one| one.about == "removed" && !one.mending.is_empty()), "{findings:?}");
    proxy.decide(|_| Fate::Pass);
    scratch.admin().await.apply_schema(deadline()).await.unwrap();
    assert!(!has_secret().await);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_no_conditions_is_refused() {
    let proxy = Proxy::start().await;
    proxy.decide(|_| Fate::Unconditional);
    let provider = evstore_s3::provider();
    let settings = settings(&proxy.url, &[("prefix", "without-conditions")]);
    let admin = provider.opener.open_admin(&settings).await.unwrap();
    let refused = admin.apply_schema(deadline()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert!(refused.message().contains("conditions"), "{refused}");
    assert!(object("without-conditions/log/00000000000000000001").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_large_object_is_fetched_alone() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[("cache_bytes", "0"), ("event_bytes_max", "1MiB")]).await;
    let store = scratch.open().await;
    let big = |name: &'static str, byte: u8, bytes: usize| {
        let store = store.clone();
        let events = vec![event(vec![byte; bytes])];
        async move { append(&store, name, Expected::Any, CommitId::generate(), events, deadline()).await.unwrap() }
    };
    // One is alone with its put; those that come meanwhile share the next.
    tokio::join!(big("a-1", 1, 10), big("b-1", 2, 900_000), big("c-1", 3, 900_000), big("d-1", 4, 20));
    for (name, byte, bytes) in [("a-1", 1, 10), ("b-1", 2, 900_000), ("c-1", 3, 900_000), ("d-1", 4, 20)] {
        let page = read(&store, name).await;
        assert_eq!(page.events().next().unwrap().event.data, vec![byte; bytes]);
    }
    scratch.end().await;
}
