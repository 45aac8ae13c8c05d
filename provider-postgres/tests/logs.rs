//! What the provider and its driver log, down to every statement: nothing of what is stored. On the server at
//! `EVSTORE_TEST_POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod support;

use evstore_api::*;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::*;

/// What is logged, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const CANARY: &str = "canary-4711";

/// Everything that a caller can hand over, once taken and once refused.
async fn write_and_read(store: &dyn EventStore) {
    let mut request = request("a-1", Expected::NoStream, 1);
    let mut event = NewEvent::new(EventType::new("placed").unwrap(), CANARY);
    event.metadata = CANARY.into();
    request.commit.events = Events::new(vec![event]).unwrap();
    let receipt = store.append(request.clone()).await.unwrap();
    request.commit.id = id(2);
    assert_eq!(store.append(request).await.unwrap_err().kind(), ErrorKind::Conflict);
    let snapshot = |revision| Snapshot {
        stream: name("a-1"),
        revision,
        number: receipt.number,
        commit: receipt.commit,
        schema: 1,
        content_type: ContentType::bytes(),
        data: CANARY.into(),
        taken_at: Timestamp(0),
    };
    store.put_snapshot(PutSnapshot { snapshot: snapshot(receipt.last), deadline: soon() }).await.unwrap();
    let ahead = store.put_snapshot(PutSnapshot { snapshot: snapshot(Revision(9)), deadline: soon() }).await;
    assert_eq!(ahead.unwrap_err().kind(), ErrorKind::Conflict);
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("consumer").unwrap() };
    for refused in [false, true] {
        let (key, expected, value) = (key.clone(), RecordExpected::Absent, Some(CANARY.into()));
        let put = store.put_record(PutRecord { key, expected, value, deadline: soon() }).await;
        assert_eq!(put.is_err(), refused);
    }
    let request = ReadSnapshot { stream: name("a-1"), deadline: soon() };
    assert_eq!(store.read_snapshot(request).await.unwrap().unwrap().data, CANARY);
    assert_eq!(store.read_record(ReadRecord { key, deadline: soon() }).await.unwrap().unwrap().value.unwrap(), CANARY);
    let (stream, from, direction) = (name("a-1"), StreamStart::First, Direction::Forward);
    let read = ReadStream { stream, from, direction, limit: 10, max_bytes: 1 << 20, deadline: soon() };
    assert_eq!(store.read_stream(read).await.unwrap().events().next().unwrap().event.data, CANARY);
    let fed = store.wait_feed(WaitFeed {
        after: store.feed_head(soon()).await.unwrap().cursor,
        deadline: Deadline::within(Duration::from_millis(50)),
    });
    fed.await.unwrap();
    store.read_feed(feed_request(FeedStart::First)).await.unwrap();
}

/// On one thread, so that everything is logged to the test's own log, also what the store does by itself.
#[test]
fn nothing_that_is_stored_is_logged() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || written.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let url = told("EVSTORE_TEST_POSTGRES_URL");
            let opener = evstore_postgres::provider().opener;
            let settings = settings(&url, &format!("logs_{}", std::process::id()), &[]);
            let settings = opener.make_scratch(&settings, "logs").await.unwrap();
            let store = opener.open(&settings).await.unwrap();
            write_and_read(&*store).await;
            store.close().await.unwrap();
            opener.drop_scratch(&settings).await.unwrap();
        });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("sqlx"), "not even the driver logs anything, and nothing is shown: {log}");
    assert!(!log.contains(CANARY), "{log}");
    // As the driver shows bytes.
    let shown = CANARY.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!log.contains(&shown) && !log.to_lowercase().contains(&hex), "{log}");
}
