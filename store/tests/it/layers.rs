//! The layers: their order, what each does to a call, and what none of them lets be seen.

use crate::stores::{Fault, Faulty, Recorder, memory_with};
use evstore::api::*;
use evstore::layers::{self, LayerSettings};
use evstore::{Config, Registry};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What must never be seen.
const CANARY: &str = "canary-4f1d";
const LONG: Duration = Duration::from_secs(3600);

fn name() -> StoreName {
    StoreName::new("main").unwrap()
}

/// Layers that wait shortly, with these changes.
fn settings(given: &[(&str, &str)]) -> LayerSettings {
    let short = [("append_timeout", "50ms"), ("read_timeout", "50ms"), ("retry_pause_min", "1ms")];
    let all: BTreeMap<_, _> =
        short.iter().chain(given).map(|(key, value)| (key.to_string(), value.to_string())).collect();
    LayerSettings::new(&name(), all).unwrap()
}

fn wrap(store: &Arc<Faulty>, given: &[(&str, &str)]) -> Arc<dyn EventStore> {
    layers::wrap(&name(), Arc::clone(store) as Arc<dyn EventStore>, &settings(given))
}

async fn on_append(faults: impl IntoIterator<Item = Fault>) -> Arc<Faulty> {
    let store = Faulty::new().await;
    store.on_append.lock().unwrap().extend(faults);
    store
}

fn stream() -> StreamId {
    StreamId::new("order-1").unwrap()
}

fn append(expected: Expected, wait: Duration) -> Append {
    let event = NewEvent::new(EventType::new("placed").unwrap(), "data");
    let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event]).unwrap() };
    Append { stream: stream(), expected, commit, deadline: Deadline::within(wait) }
}

fn read_feed(limit: u32) -> ReadFeed {
    let deadline = Deadline::within(LONG);
    ReadFeed { from: FeedStart::First, filter: FeedFilter::none(), limit, max_bytes: 1 << 20, deadline }
}

async fn commits(store: &Faulty) -> Vec<CommitId> {
    let page = store.inner.read_feed(read_feed(100)).await.unwrap();
    page.commits().map(|commit| commit.id).collect()
}

#[tokio::test]
async fn the_order_of_layers_is_this() {
    let wrapped = wrap(&Faulty::new().await, &[]);
    let order = format!("{wrapped:?}");
    assert!(order.starts_with("trace > measure > bound > check > retry > time_out > Faulty"), "{order}");
}

#[tokio::test]
async fn a_lost_answer_ends_with_exactly_one_commit() {
    let store = on_append([Fault::LoseAnswer, Fault::LoseAnswer]).await;
    let request = append(Expected::NoStream, LONG);
    let receipt = wrap(&store, &[]).append(request.clone()).await.unwrap();
    assert!(receipt.repeated);
    assert_eq!(commits(&store).await, [request.commit.id]);
    let sent: Vec<_> = store.appends.lock().unwrap().iter().map(|append| append.commit.clone()).collect();
    assert_eq!(sent, [request.commit.clone(), request.commit.clone(), request.commit], "the same bytes each time");
}

#[tokio::test]
async fn a_lost_request_is_repeated_until_it_is_there() {
    for fault in [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::Fenced] {
        let store = on_append([Fault::LoseRequest, Fault::Refuse(fault)]).await;
        let receipt = wrap(&store, &[]).append(append(Expected::NoStream, LONG)).await.unwrap();
        assert!(!receipt.repeated);
        assert_eq!(store.calls().len(), 3);
    }
}

#[tokio::test]
async fn an_append_without_an_answer_is_indeterminate() {
    let store = on_append([Fault::Hang]).await;
    let request = append(Expected::Any, LONG);
    let error = wrap(&store, &[("retries_max", "0")]).append(request.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.written()), (ErrorKind::Indeterminate, Written::Unknown));
    assert_eq!(error.commit(), Some(request.commit.id));
}

#[tokio::test]
async fn each_try_has_its_own_time() {
    let store = on_append([Fault::Hang]).await;
    let receipt = wrap(&store, &[]).append(append(Expected::NoStream, LONG)).await.unwrap();
    assert_eq!((receipt.last, store.calls().len()), (Revision(1), 2));
    let ends: Vec<_> = store.appends.lock().unwrap().iter().map(|append| append.deadline).collect();
    assert!(ends[0] < ends[1] && ends[1] <= Deadline::within(Duration::from_millis(50)));
}

#[tokio::test]
async fn a_read_without_an_answer_wrote_nothing() {
    let store = Faulty::new().await;
    store.on_read_feed.lock().unwrap().extend([Fault::Hang, Fault::Hang]);
    let wrapped = wrap(&store, &[("retries_max", "0")]);
    let try_over = wrapped.read_feed(read_feed(1)).await.unwrap_err();
    assert_eq!(try_over.kind(), ErrorKind::Unavailable);
    let call_over = ReadFeed { deadline: Deadline::within(Duration::from_millis(10)), ..read_feed(1) };
    assert_eq!(wrapped.read_feed(call_over).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(wrap(&store, &[]).read_feed(read_feed(1)).await.is_ok());
}

#[tokio::test]
async fn after_its_deadline_nothing_is_sent() {
    let store = Faulty::new().await;
    let error = wrap(&store, &[]).append(append(Expected::Any, Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(store.calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn nothing_is_repeated_past_the_deadline() {
    let store = on_append((0..10_000).map(|_| Fault::Refuse(ErrorKind::Unavailable))).await;
    let request = append(Expected::Any, Duration::from_millis(300));
    let wrapped = wrap(&store, &[("retries_max", "10000"), ("retry_pause_max", "5ms")]);
    let error = wrapped.append(request).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded), "{error:?}");
    assert!((3..10_000).contains(&store.calls().len()));

    let store = on_append([Fault::Refuse(ErrorKind::Unavailable)]).await;
    let request = append(Expected::Any, Duration::from_secs(60));
    let wrapped = wrap(&store, &[("call_timeout", "60s"), ("retry_pause_min", "1h"), ("retry_pause_max", "1h")]);
    assert_eq!(wrapped.append(request.clone()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!request.deadline.has_passed(), "there was no time for the pause, so it is not begun");
}

#[tokio::test]
async fn repeats_are_counted() {
    let store = on_append((0..100).map(|_| Fault::Refuse(ErrorKind::Throttled))).await;
    let wrapped = wrap(&store, &[("retries_max", "3"), ("retry_pause_max", "2ms")]);
    let error = wrapped.append(append(Expected::Any, LONG)).await.unwrap_err();
    assert_eq!(error.to_string(), "injected (tries: 4)");
    assert_eq!(store.calls().len(), 4);
}

#[tokio::test]
async fn a_fence_is_waited_for() {
    let store = on_append((0..20).map(|_| Fault::Refuse(ErrorKind::Fenced))).await;
    let wrapped = wrap(&store, &[("retries_max", "0"), ("retry_pause_max", "2ms")]);
    assert!(wrapped.append(append(Expected::Any, LONG)).await.is_ok());
}

#[tokio::test]
async fn what_a_repeat_can_not_mend_is_not_repeated() {
    let mended = [
        ErrorKind::Unavailable,
        ErrorKind::Throttled,
        ErrorKind::Fenced,
        ErrorKind::Indeterminate,
        // The provider's own, inside the shorter time of one try: only that try's.
        ErrorKind::DeadlineExceeded,
    ];
    for kind in ErrorKind::ALL.into_iter().filter(|kind| !mended.contains(kind)) {
        let store = on_append([Fault::Refuse(kind)]).await;
        let error = wrap(&store, &[]).append(append(Expected::Any, LONG)).await.unwrap_err();
        assert_eq!((error.kind(), store.calls().len()), (kind, 1));
    }
}

#[tokio::test]
async fn a_try_that_never_left_its_queue_is_repeated() {
    let store = on_append([Fault::Refuse(ErrorKind::DeadlineExceeded)]).await;
    assert!(!wrap(&store, &[]).append(append(Expected::Any, LONG)).await.unwrap().repeated);
    assert_eq!(store.calls().len(), 2);
}

#[tokio::test]
async fn a_later_refusal_does_not_hide_an_unknown_outcome() {
    let unsettling = [ErrorKind::Unavailable, ErrorKind::Denied, ErrorKind::Closed, ErrorKind::TooLarge];
    for kind in unsettling {
        let store = on_append([Fault::LoseAnswer, Fault::Refuse(kind)]).await;
        let error = wrap(&store, &[("retries_max", "1")]).append(append(Expected::Any, LONG)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "after {kind:?}");
    }
}

/// A try that is lost, then a rival that takes the revision.
async fn lost_then_rival(expected: Expected) -> Error {
    let store = Faulty::new().await;
    let rival = Arc::clone(&store.inner);
    let first = async move { rival.append(append(Expected::Any, LONG)).await.map(|_| ()).unwrap() };
    store.on_append.lock().unwrap().extend([Fault::LoseRequest, Fault::After(Box::pin(first))]);
    wrap(&store, &[]).append(append(expected, LONG)).await.unwrap_err()
}

#[tokio::test]
async fn a_conflict_settles_an_unknown_outcome_where_the_revision_is_passed() {
    let error = lost_then_rival(Expected::NoStream).await;
    assert_eq!((error.kind(), error.head().map(|head| head.revision)), (ErrorKind::Conflict, Some(Revision(1))));
    assert_eq!(lost_then_rival(Expected::At(Revision(0))).await.kind(), ErrorKind::Conflict);
    // Revision 7 may still come, and the lost try with it.
    assert_eq!(lost_then_rival(Expected::At(Revision(7))).await.kind(), ErrorKind::Indeterminate);
}

#[tokio::test]
async fn a_record_is_not_put_again_when_nobody_knows() {
    let store = Faulty::new().await;
    store.on_put_record.lock().unwrap().extend([Fault::Refuse(ErrorKind::Unavailable), Fault::LoseAnswer]);
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("reader").unwrap() };
    let request = PutRecord { key, expected: RecordExpected::Absent, value: None, deadline: Deadline::within(LONG) };
    let error = wrap(&store, &[]).put_record(request).await.unwrap_err();
    assert_eq!((error.kind(), store.calls().len()), (ErrorKind::Indeterminate, 2));
}

#[tokio::test]
async fn no_call_waits_longer_than_call_timeout() {
    let store = on_append((0..10_000).map(|_| Fault::Refuse(ErrorKind::Unavailable))).await;
    let wrapped = wrap(&store, &[("call_timeout", "40ms"), ("retries_max", "10000"), ("retry_pause_max", "5ms")]);
    let began = Instant::now();
    assert!(wrapped.append(append(Expected::Any, LONG)).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
    let last = store.appends.lock().unwrap().last().map(|append| append.deadline);
    assert!(last.is_some_and(|deadline| deadline <= Deadline::within(Duration::from_millis(40))));
}

#[tokio::test]
async fn a_wait_may_be_longer_and_ends_without_an_error() {
    let inner = Faulty::new().await;
    let after = inner.inner.feed_head(Deadline::within(LONG)).await.unwrap().cursor;
    let wrapped = wrap(&inner, &[("call_timeout", "1ms"), ("read_timeout", "1ms")]);
    let wait = |wait| WaitFeed { after: after.clone(), deadline: Deadline::within(wait) };
    assert_eq!(wrapped.wait_feed(wait(Duration::from_millis(60))).await.unwrap(), Waited::DeadlinePassed);
    assert_eq!(wrapped.wait_feed(wait(Duration::ZERO)).await.unwrap(), Waited::DeadlinePassed);
}

#[tokio::test]
async fn what_exceeds_a_limit_is_refused_before_it_is_sent() {
    let limits = [("event_bytes_max", "8"), ("commit_bytes_max", "2KiB"), ("commit_events_max", "2")];
    let (memory, _) = memory_with(&limits).await;
    let store = Arc::new(Faulty::around(memory));
    let wrapped = wrap(&store, &[]);
    let with = |sizes: &[usize]| {
        let event = |bytes: &usize| NewEvent::new(EventType::new("t").unwrap(), vec![0; *bytes]);
        let commit =
            NewCommit { id: CommitId::generate(), events: Events::new(sizes.iter().map(event).collect()).unwrap() };
        Append { commit, ..append(Expected::Any, LONG) }
    };
    for (sizes, limit) in [(&[9][..], "event_bytes"), (&[1, 1, 1], "commit_events")] {
        let error = wrapped.append(with(sizes)).await.unwrap_err();
        assert_eq!((error.kind(), error.context()[0].1.as_str()), (ErrorKind::TooLarge, limit));
    }
    let most = store.capabilities().limits.page_items;
    for limit in [0, most + 1] {
        assert_eq!(wrapped.read_feed(read_feed(limit)).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(store.calls(), Vec::<&str>::new());
    assert!(wrapped.append(with(&[8, 8])).await.is_ok());
    assert!(wrapped.read_feed(read_feed(most)).await.is_ok());
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn calls_outcomes_bytes_and_repeats_are_counted() {
    let metrics = Recorder::default();
    let calls = metrics::with_local_recorder(&metrics, || {
        block_on(async {
            let store = on_append([Fault::LoseAnswer]).await;
            let wrapped = wrap(&store, &[]);
            wrapped.append(append(Expected::NoStream, LONG)).await.unwrap();
            wrapped.append(append(Expected::NoStream, LONG)).await.unwrap_err();
            wrapped.read_feed(read_feed(0)).await.unwrap_err();
            wrapped.read_feed(read_feed(10)).await.unwrap();
            let lag = Lag { commits: 7, age: Duration::from_millis(1_500) };
            *store.feed_lags.lock().unwrap() = Some(lag);
            wrapped.feed_head(Deadline::within(LONG)).await.unwrap();
            store.calls()
        })
    });
    // What the store below counted: two appends of which one was repeated, and of two reads the one that was sent.
    let of = |name: &str| calls.iter().filter(|call| **call == name).count();
    assert_eq!((of("append"), of("read_feed")), (3, 1), "{calls:?}");
    for (key, count) in [
        ("evstore_calls main append ok", 1),
        ("evstore_calls main append conflict", 1),
        ("evstore_calls main read_feed ok", 1),
        ("evstore_calls main read_feed invalid", 1),
        ("evstore_retries main append indeterminate", 1),
        ("evstore_bytes main append sent", 4),
        ("evstore_bytes main read_feed received", 4),
    ] {
        assert_eq!(metrics.counter(key), Some(count), "{key} in {metrics:?}");
    }
    for (key, value) in [("evstore_feed_lag_commits main", 7.0), ("evstore_feed_lag_seconds main", 1.5)] {
        assert_eq!(metrics.gauge(key), Some(value), "{key} in {metrics:?}");
    }
}

/// What is logged, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn neither_payloads_nor_the_keys_of_streams_are_logged() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || written.clone())
        .finish();
    let commit = tracing::subscriber::with_default(subscriber, || {
        block_on(async {
            let store = on_append([Fault::LoseAnswer]).await;
            let mut event = NewEvent::new(EventType::new("placed").unwrap(), CANARY);
            event.metadata = CANARY.into();
            let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event]).unwrap() };
            let stream = StreamId::new(format!("order-{CANARY}")).unwrap();
            let id = commit.id;
            let wrapped = wrap(&store, &[]);
            let request = Append { stream, commit, ..append(Expected::NoStream, LONG) };
            wrapped.append(request).await.unwrap();
            wrapped.read_feed(read_feed(10)).await.unwrap();
            id
        })
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for told in [
        "operation=\"append\"",
        "store=main",
        "category=\"order\"",
        "outcome=\"ok\"",
        &format!("commit={commit}"),
        "repeating",
    ] {
        assert!(log.contains(told), "{told} in {log}");
    }
    assert!(!log.contains(CANARY), "{log}");
}

#[tokio::test]
async fn a_store_is_opened_by_name_in_its_layers() {
    let config =
        Config::parse("[stores.main]\nprovider = \"memory\"\n[stores.other]\nprovider = \"memory\"\nname = \"b\"\n")
            .unwrap();
    let registry = Registry::builtin();
    let store = registry.open(&config, &name()).await.unwrap();
    assert!(format!("{store:?}").contains("retry > time_out"), "{store:?}");
    store.events().append(append(Expected::NoStream, LONG)).await.unwrap();
    let again = registry.clone().open(&config, &name()).await.unwrap();
    let head = again.events().head(ReadHead { stream: stream(), deadline: again.deadline() }).await.unwrap();
    assert_eq!(head.revision, Revision(1), "a registry's clones share its stores in memory");
    assert!(registry.open_admin(&config, &name()).await.unwrap().read_meta(store.deadline()).await.is_ok());
    store.close().await.unwrap();
}
