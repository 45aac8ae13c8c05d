//! The same with a feed that a sequencer makes behind the appends: what an append costs then, and sequencers that die, meet each other,
//! or come too late for the change stream.

use crate::engine::{
    Fate, Proxy, Scratch, append, append_one, ask, deadline, event, is_there, noise, refusal, settings, stream,
};
use crate::{NAME, feed, order_event, read};
use evstore_api::{
    AdvanceFeed, Append, CommitId, CommitNumber, Deadline, Direction, ErrorKind, EventStore, Events, Expected,
    FeedFilter, FeedStart, FindCommit, NewCommit, Position, ReadFeed, Revision, Severity, StreamStart,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};

const BEHIND: (&str, &str) = ("feed", "sequencer");
/// Nobody sequences by itself.
pub const APART: (&str, &str) = ("sequencer", "apart");

/// Brings the feed up to the streams.
pub async fn advance(scratch: &Scratch) -> Position {
    let admin = scratch.admin().await;
    let advanced = admin.advance_feed(AdvanceFeed { deadline: deadline() }).await.unwrap();
    admin.close().await.unwrap();
    assert_eq!(advanced.head.lag.commits, 0);
    advanced.head.position.unwrap()
}

/// Every commit of the feed, after it was proved that each stream's are there in their order, that no position is missing, and that each
/// commit has its own beside it.
pub async fn proved_feed(store: &Arc<dyn EventStore>) -> Vec<CommitId> {
    let (mut from, mut next, mut ids) = (FeedStart::First, 1, Vec::new());
    let mut last: HashMap<String, CommitNumber> = HashMap::new();
    loop {
        let (filter, deadline) = (FeedFilter::none(), deadline());
        let page =
            store.read_feed(ReadFeed { from, filter, limit: 1_000, max_bytes: u64::MAX, deadline }).await.unwrap();
        for commit in page.commits() {
            assert_eq!(commit.first_position, Some(Position(next)), "a position is missing or there twice");
            next += commit.positions();
            let before = last.insert(commit.stream.to_string(), commit.number).unwrap_or_default();
            assert_eq!(commit.number, before.next(), "{} comes out of order", commit.stream);
            ids.push(commit.id);
            // One of a few: each is a read.
            if ids.len() % 5 == 0 {
                let find = FindCommit { stream: commit.stream.clone(), commit: commit.id, deadline: crate::deadline() };
                let found = store.find_commit(find).await.unwrap();
                // Old ones are not recognised by their ids any more.
                assert!(found.is_none_or(|found| found.position == commit.first_position), "{}", commit.stream);
            }
        }
        if page.end {
            return ids;
        }
        from = FeedStart::After(page.next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_known_stream_is_one_unit_and_one_request() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND, APART]).await;
    let store = scratch.open().await;
    let commit = |n: u32| vec![event(noise(900 - "Happened".len(), n + 1))];
    let made = append(&store, NAME, Expected::NoStream, CommitId::generate(), commit(0)).await.unwrap();
    // Creating a stream under the guard: its place in the list and a look at the store's record, in one transaction, once the stream
    // was looked for.
    assert_eq!((made.usage.write_units, made.usage.requests), (6.0, 2));
    proxy.take_seen();
    for n in 1..20 {
        let expected = Expected::At(Revision(u64::from(n)));
        let receipt = append(&store, NAME, expected, CommitId::generate(), commit(n)).await.unwrap();
        assert_eq!((receipt.usage.write_units, receipt.usage.read_units, receipt.usage.requests), (1.0, 0.0, 1), "{n}");
    }
    let seen: Vec<_> = proxy.take_seen().into_iter().map(|(operation, _)| operation).collect();
    assert_eq!(seen, vec!["PutItem"; 19]);
    let events = (0..10).map(order_event).collect();
    let receipt = append(&store, NAME, Expected::Any, CommitId::generate(), events).await.unwrap();
    assert!(receipt.usage.write_units <= 2.0, "ten events of JSON: {}", receipt.usage.write_units);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_tells_the_head_with_one_more_read_and_a_load_costs_its_bytes() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND, APART]).await;
    let (store, other) = (scratch.open().await, scratch.open().await);
    for _ in 0..3 {
        append_one(&store, NAME, CommitId::generate()).await.unwrap();
    }
    append_one(&other, NAME, CommitId::generate()).await.unwrap();
    proxy.take_seen();
    for (expected, actual) in [(3, 4), (2, 4), (9, 4)] {
        let error = append(&store, NAME, Expected::At(Revision(expected)), CommitId::generate(), vec![event(vec![])]);
        let error = error.await.unwrap_err();
        assert_eq!((error.kind(), error.head().unwrap().revision), (ErrorKind::Conflict, Revision(actual)));
        let seen = proxy.take_seen();
        assert_eq!(seen.iter().filter(|(operation, _)| operation != "PutItem").count(), 1, "{expected}: {seen:?}");
    }
    for n in 0..100 {
        append(&store, "order-loaded", Expected::Any, CommitId::generate(), vec![order_event(n)]).await.unwrap();
    }
    for positions in ["before", "with"] {
        let page = read(&store, "order-loaded", StreamStart::First, Direction::Forward, 1_000).await;
        assert_eq!((page.events().count(), page.usage.requests), (100, 1), "{positions}");
        assert!(page.usage.read_units <= 11.0, "{positions} positions: {}", page.usage.read_units);
        advance(&scratch).await;
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_indeterminate_and_never_taken_for_a_conflict() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND, APART]).await;
    let store = scratch.open().await;
    let first = CommitId::generate();
    proxy.once("TransactWriteItems", Fate::LoseAnswer);
    assert_eq!(append_one(&store, "a-1", first).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert!(append_one(&store, "a-1", first).await.unwrap().repeated);
    for was_done in [false, true] {
        let id = CommitId::generate();
        proxy.once("PutItem", if was_done { Fate::LoseAnswer } else { Fate::LoseRequest });
        assert_eq!(append_one(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Indeterminate);
        assert_eq!(append_one(&store, "a-1", id).await.unwrap().repeated, was_done);
        assert!(is_there(&store, "a-1", id).await);
    }
    // Another commit goes behind the one that nobody knew of.
    let (lost, next) = (CommitId::generate(), CommitId::generate());
    proxy.once("PutItem", Fate::LoseAnswer);
    append_one(&store, "a-1", lost).await.unwrap_err();
    assert_eq!(append_one(&store, "a-1", next).await.unwrap().number, CommitNumber(5));
    for (code, kind) in [
        ("ProvisionedThroughputExceededException", ErrorKind::Throttled),
        ("InternalServerError", ErrorKind::Indeterminate),
        ("AccessDeniedException", ErrorKind::Denied),
    ] {
        let id = CommitId::generate();
        proxy.once("PutItem", refusal(code));
        assert_eq!(append_one(&store, "a-1", id).await.unwrap_err().kind(), kind, "{code}");
        assert!(!append_one(&store, "a-1", id).await.unwrap().repeated, "{code}");
    }
    proxy.once("PutItem", refusal("TransactionConflictException"));
    assert!(!append_one(&store, "a-1", CommitId::generate()).await.unwrap().repeated);
    advance(&scratch).await;
    assert_eq!(proved_feed(&store).await.len(), 9);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_born_in_a_store_whose_record_has_changed() {
    let scratch = Scratch::new(&[BEHIND, APART]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    let meta = admin.read_meta(deadline()).await.unwrap();
    let mut fenced = meta.clone();
    fenced.epoch.0 += 1;
    fenced.state = evstore_api::StoreState::Fenced { to: evstore_api::StoreName::new("next").unwrap() };
    let swap = evstore_api::SwapMeta { expected: meta, new: fenced, deadline: deadline() };
    admin.swap_meta(swap).await.unwrap();
    // The handle has the old record, and appends look at their stream alone, until that is sealed.
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    assert_eq!(append_one(&store, "b-1", CommitId::generate()).await.unwrap_err().kind(), ErrorKind::Fenced);
    scratch.end().await;
}

/// Commits that wait for their positions at most, beyond which the writers wait too: a step that has more to do takes longer than those live
/// that are killed.
const WAITING_MAX: u64 = 300;

/// What writers and the one who kills sequencers tell each other.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    appended: AtomicU64,
    logged: AtomicU64,
}

/// Appends until it is told to stop, one of several writers on a few streams; gives what was acknowledged.
async fn write(store: Arc<dyn EventStore>, writer: usize, load: Arc<Load>) -> Vec<CommitId> {
    let mut acknowledged = Vec::new();
    // It does not run out while sequencers are killed.
    for n in 0..200 * kills() as usize {
        let is_far_ahead = || load.appended.load(Ordering::Acquire) > load.logged.load(Ordering::Acquire) + WAITING_MAX;
        while is_far_ahead() && !load.stop.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if load.stop.load(Ordering::Acquire) {
            break;
        }
        load.appended.fetch_add(1, Ordering::AcqRel);
        let name = match n % 3 {
            0 => "hot-1".to_owned(),
            1 => format!("warm-{}", n % 7),
            _ => format!("cold-{writer}-{n}"),
        };
        let id = CommitId::generate();
        let events = (0..=n % 2).map(|_| event(b"{}".to_vec())).collect();
        let commit = NewCommit { id, events: Events::new(events).unwrap() };
        let request = Append { stream: stream(&name), expected: Expected::Any, commit, deadline: deadline() };
        let begun = Instant::now();
        loop {
            match store.append(request.clone()).await {
                Ok(_) => break acknowledged.push(id),
                Err(error) => {
                    let passing = [ErrorKind::Indeterminate, ErrorKind::Throttled, ErrorKind::Unavailable]
                        .contains(&error.kind());
                    assert!(passing && begun.elapsed() < Duration::from_secs(60), "{error:?}");
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    acknowledged
}

/// A sequencer that works until it is dropped.
async fn advance_for_ever(scratch: &Scratch) -> AbortHandle {
    let admin = scratch.admin().await;
    let task = tokio::spawn(async move {
        loop {
            // What it fails with, the next one finds mended.
            let _failed = admin.advance_feed(AdvanceFeed { deadline: deadline() }).await;
        }
    });
    task.abort_handle()
}

/// How often a sequencer is killed: more before a release.
fn kills() -> u32 {
    std::env::var("EVSTORE_TEST_SEQUENCER_KILLS").map_or(12, |kills| kills.parse().expect("a number of kills"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sequencers_that_die_anywhere_and_meet_lose_nothing_and_repeat_nothing() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND, APART]).await;
    let seed = std::process::id();
    println!("seed {seed}");
    kill_under_load(&[&proxy], scratch, seed).await;
}

/// Kills sequencers at random under a load, and proves what they made. The first of the proxies is that of the tables, which loses and
/// refuses some of what is asked; none of them does any more when the last sequencer brings the feed up.
pub async fn kill_under_load(proxies: &[&Proxy], scratch: Scratch, seed: u32) {
    let store = scratch.open().await;
    let straight = scratch.open_with(&[("endpoint", &crate::engine::url())]).await.unwrap();
    // Logged before all this, and silent until its end.
    append_one(&store, "silent-1", CommitId::generate()).await.unwrap();
    advance(&scratch).await;
    let load = Arc::<Load>::default();
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write(store.clone(), writer, load.clone()))).collect();
    let chance = noise(4 * kills() as usize, seed);
    let count = AtomicU32::new(seed);
    proxies[0].decide(move |message| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        // A fifth of what is put has no answer; of what a step asks for by the dozen so little that some come to their end.
        match (message.operation().as_str(), n % 10, n % 70) {
            ("PutItem", 3, _) | ("UpdateItem", _, 11) => Fate::LoseAnswer,
            ("PutItem", 7, _) | ("UpdateItem", _, 47) => Fate::LoseRequest,
            ("GetRecords", 1, _) | ("Query", _, 29) => refusal("ThrottlingException"),
            _ => Fate::Pass,
        }
    });
    let (begun, mut longer, mut last) = (Instant::now(), Duration::ZERO, Position(0));
    let patience = Duration::from_secs(8) * kills();
    for (killed, kill) in chance.chunks(4).cycle().enumerate() {
        // Where none came to the end of a step, nothing would be shown.
        let head = straight.feed_head(deadline()).await.unwrap();
        let logged = head.position.unwrap();
        // Positions are of events, of which commits have one and two by turns.
        load.logged.store(logged.0 * 2 / 3, Ordering::Release);
        if killed >= kills() as usize && logged > Position(20) {
            break;
        }
        assert!(
            begun.elapsed() < patience,
            "{killed} were killed, and only {logged} positions given by those that died"
        );
        // Two at once, each dropped wherever it is.
        let (first, second) = (advance_for_ever(&scratch).await, advance_for_ever(&scratch).await);
        // The more there is to log, the longer a step takes that is to come to its end.
        longer = if logged > last { Duration::ZERO } else { longer + Duration::from_millis(200) };
        assert!(!writers.iter().any(JoinHandle::is_finished), "there is a load as long as sequencers are killed");
        last = logged;
        tokio::time::sleep(longer + Duration::from_millis(40 + u64::from(kill[0]) * 2)).await;
        first.abort();
        tokio::time::sleep(Duration::from_millis(u64::from(kill[1]))).await;
        second.abort();
    }
    load.stop.store(true, Ordering::Release);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    for proxy in proxies {
        proxy.decide(|_| Fate::Pass);
    }
    let silent = CommitId::generate();
    append_one(&store, "silent-1", silent).await.unwrap();
    acknowledged.push(silent);
    advance(&scratch).await;
    let found = proved_feed(&store).await;
    let distinct: HashSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "a commit stands twice");
    assert_eq!(found.len(), acknowledged.len() + 1, "the feed has exactly what was acknowledged");
    assert!(acknowledged.iter().all(|id| distinct.contains(id)), "an acknowledged commit is missing");
    assert!(acknowledged.len() > 20, "{} commits are no load", acknowledged.len());
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_waiting_in_the_middle_of_a_step_loses_nothing() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND]).await;
    let straight = scratch.open_with(&[APART, ("endpoint", &crate::engine::url())]).await.unwrap();
    append_one(&straight, "a-1", CommitId::generate()).await.unwrap();
    // The sequencer of this handle makes its first step for the reader, and the next one by itself.
    let store = scratch.open_with(&[("sequencer_poll", "1s")]).await.unwrap();
    let (held, seen) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (may, wait) = watch::channel(false);
    let (holds, log) = (held.clone(), format!("{}-log", scratch.table()));
    proxy.decide(move |message| {
        let put = message.json();
        let is_record = message.operation() == "PutItem" && put["TableName"] == log && put["Item"]["v"].is_object();
        if !is_record || seen.swap(true, Ordering::AcqRel) {
            return Fate::Pass;
        }
        holds.notify_one();
        Fate::PassOnce(wait.clone())
    });
    let reader = {
        let store = store.clone();
        tokio::spawn(async move { feed(&store).await })
    };
    tokio::time::timeout(Duration::from_secs(10), held.notified()).await.expect("a step is made for the reader");
    reader.abort();
    assert!(reader.await.unwrap_err().is_cancelled());
    append_one(&straight, "a-1", CommitId::generate()).await.unwrap();
    let begun = Instant::now();
    while feed(&straight).await.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "a commit is missing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    may.send_replace(true);
    assert_eq!(proved_feed(&straight).await.len(), 2);
    for handle in [store, straight] {
        handle.close().await.unwrap();
    }
    scratch.end().await;
}

/// Turns the change stream of a store's table off and on, which ends the one that there was.
async fn lose_changes(scratch: &Scratch, between: impl AsyncFnOnce()) {
    let off = json!({ "TableName": scratch.table(), "StreamSpecification": { "StreamEnabled": false } });
    ask("UpdateTable", off).await;
    between().await;
    let on = json!({
        "TableName": scratch.table(), "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_IMAGE" },
    });
    ask("UpdateTable", on).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_change_stream_has_lost_is_found_from_the_ends_of_the_streams() {
    let scratch = Scratch::new(&[BEHIND, APART]).await;
    let store = scratch.open().await;
    let mut ids = Vec::new();
    let mut more = async |names: &[&str], count: usize| {
        for n in 0..count {
            let id = CommitId::generate();
            append_one(&store, names[n % names.len()], id).await.unwrap();
            ids.push(id);
        }
    };
    more(&["a-1", "b-1", "silent-1"], 9).await;
    advance(&scratch).await;
    more(&["a-1", "c-1"], 4).await;
    lose_changes(&scratch, async || {
        more(&["a-1", "b-1", "d-1"], 12).await;
    })
    .await;
    more(&["a-1", "d-1", "e-1"], 6).await;
    let behind = store.feed_head(deadline()).await.unwrap().lag;
    assert!(behind.commits > 0, "{behind:?}");
    assert_eq!(advance(&scratch).await, Position(31));
    let found = proved_feed(&store).await;
    assert_eq!(found.iter().collect::<HashSet<_>>(), ids.iter().collect::<HashSet<_>>());
    assert_eq!(found.len(), ids.len());
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_has_nothing_to_be_looked_for_at_the_ends_of_its_streams() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &[BEHIND, APART]).await;
    let store = scratch.open().await;
    for n in 0..20 {
        append_one(&store, &format!("a-{n}"), CommitId::generate()).await.unwrap();
    }
    proxy.take_seen();
    assert_eq!(advance(&scratch).await, Position(20));
    let names = format!("{}-names", scratch.table());
    let seen = proxy.take_seen();
    let queries = |table: &str| {
        seen.iter().filter(|(operation, asked)| operation == "Query" && asked["TableName"] == table).count()
    };
    assert_eq!(queries(&names), 0, "the list of streams is read");
    assert_eq!(queries(&scratch.table()), 0, "streams are looked at one by one");
    let together = seen.iter().filter(|(operation, _)| operation == "BatchGetItem").count();
    assert_eq!(together, 1, "one look at all streams");
    assert_eq!(proved_feed(&store).await.len(), 20);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_of_what_waits() {
    let scratch = Scratch::new(&[BEHIND, APART]).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    let told = async || {
        let findings = admin.examine(deadline()).await.unwrap();
        findings.into_iter().find(|finding| finding.about == "sequencer").unwrap()
    };
    let found = told().await;
    assert!(found.found.starts_with("1 commits wait"), "{found:?}");
    assert_eq!(found.severity, Severity::Fine);
    advance(&scratch).await;
    assert!(told().await.found.starts_with("0 commits wait"));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_works_and_another_takes_its_place() {
    let scratch = Scratch::new(&[BEHIND]).await;
    let mut handles = Vec::new();
    for _ in 0..3 {
        handles.push(scratch.open().await);
    }
    for round in 0..3 {
        let writer = handles.last().unwrap().clone();
        append_one(&writer, &format!("a-{round}"), CommitId::generate()).await.unwrap();
        let begun = Instant::now();
        // By itself, whoever works.
        while feed(&writer).await.len() <= round {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody works");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handles.remove(0).close().await.unwrap();
        if handles.is_empty() {
            break;
        }
    }
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_change_stream_is_refused() {
    let scratch = Scratch::new(&[BEHIND, APART]).await;
    lose_changes(&scratch, async || {
        let error = scratch.open_with(&[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("change stream"), "{error}");
    })
    .await;
    let other = settings(&crate::engine::url(), &[]).with("table", scratch.table()).unwrap();
    // Made with another way to the feed.
    let error = scratch.provider.opener.open(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    let late = Deadline::within(Duration::ZERO);
    let admin = scratch.admin().await;
    assert_eq!(
        admin.advance_feed(AdvanceFeed { deadline: late }).await.unwrap_err().kind(),
        ErrorKind::DeadlineExceeded
    );
    scratch.end().await;
}
