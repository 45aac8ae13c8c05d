//! A damaged file: what is changed behind the store's back is refused, and never given out as what was written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use evstore_api::*;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A question and what was answered, none where it was refused.
type Told = (String, Option<String>);

/// Bits that are changed, one at a time.
const FLIPS: u32 = 300;

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(20))
}

fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

fn commit_id(id: u8) -> CommitId {
    CommitId([id; 16])
}

fn record() -> RecordKey {
    RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("mine").unwrap() }
}

async fn open(path: &Path) -> Result<(Arc<dyn EventStore>, Arc<dyn StoreAdmin>)> {
    let provider = evstore_sqlite::provider();
    let path = path.to_str().unwrap().to_owned();
    let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, [("path".to_owned(), path)]).unwrap();
    Ok((provider.opener.open(&settings).await?, provider.opener.open_admin(&settings).await?))
}

/// A small file with two streams, a truncation, a snapshot and a record, and nothing left in the WAL.
async fn clean(folder: &Path) -> PathBuf {
    let path = folder.join("clean.db");
    let (store, admin) = open(&path).await.unwrap();
    for id in 1..=5 {
        for name in ["order-1", "order-2"] {
            let event =
                |data: &str| NewEvent::new(EventType::new("t").unwrap(), format!("{name} {id} {data}").into_bytes());
            let events = Events::new(vec![event("a"), event("b")]).unwrap();
            let commit = NewCommit { id: commit_id(id), events };
            let append = Append { stream: stream(name), expected: Expected::Any, commit, deadline: soon() };
            store.append(append).await.unwrap();
        }
    }
    let cut = Truncate { stream: stream("order-2"), commit: commit_id(9), before: Revision(4), deadline: soon() };
    admin.truncate(cut).await.unwrap();
    let snapshot = Snapshot {
        stream: stream("order-1"),
        revision: Revision(4),
        number: CommitNumber(2),
        commit: commit_id(2),
        schema: 3,
        content_type: ContentType::json(),
        data: Bytes::from_static(b"{\"sum\":4}"),
        taken_at: Timestamp(7),
    };
    store.put_snapshot(PutSnapshot { snapshot, deadline: soon() }).await.unwrap();
    let value = Some(Bytes::from_static(b"place"));
    let put = PutRecord { key: record(), expected: RecordExpected::Absent, value, deadline: soon() };
    store.put_record(put).await.unwrap();
    store.close().await.unwrap();
    admin.close().await.unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE").unwrap();
    path
}

/// Every answer about the file, as text; none for an error.
async fn answers(path: &Path) -> Vec<(String, Option<String>)> {
    let Ok((store, admin)) = open(path).await else { return Vec::new() };
    let mut answers = Vec::new();
    let mut told = |what: &str, answer: Result<String>| answers.push((what.to_owned(), answer.ok()));
    for filter in
        [FeedFilter::none(), FeedFilter { categories: vec![stream("order-1").name.category()], ..FeedFilter::none() }]
    {
        let request = ReadFeed { from: FeedStart::First, filter, limit: 1000, max_bytes: 1 << 20, deadline: soon() };
        told("feed", store.read_feed(request).await.map(|page| format!("{page:?}")));
    }
    for name in ["order-1", "order-2"] {
        for (from, direction) in [(StreamStart::First, Direction::Forward), (StreamStart::Last, Direction::Backward)] {
            let stream = stream(name);
            let request = ReadStream { stream, from, direction, limit: 100, max_bytes: 1 << 20, deadline: soon() };
            told(name, store.read_stream(request).await.map(|page| format!("{page:?}")));
        }
        let from = CommitNumber(1);
        let request = ReadCommits { stream: stream(name), from, limit: 100, max_bytes: 1 << 20, deadline: soon() };
        told("commits", admin.read_commits(request).await.map(|page| format!("{page:?}")));
        for id in 1..=5 {
            let request = FindCommit { stream: stream(name), commit: commit_id(id), deadline: soon() };
            told("receipt", store.find_commit(request).await.map(|found| format!("{found:?}")));
        }
    }
    let (namespace, prefix) = (NamespaceFilter::All, String::new());
    let request = ListStreams { namespace, category: None, prefix, after: None, limit: 100, deadline: soon() };
    told("list", store.list_streams(request).await.map(|page| format!("{page:?}")));
    let request = ReadSnapshot { stream: stream("order-1"), deadline: soon() };
    told("snapshot", store.read_snapshot(request).await.map(|found| format!("{found:?}")));
    let request = ReadRecord { key: record(), deadline: soon() };
    told("record", store.read_record(request).await.map(|found| format!("{found:?}")));
    let _ = (store.close().await, admin.close().await);
    answers
}

/// Whether something wrong was given out. A snapshot or a record that is gone is not: nothing else tells of it.
fn lies(clean: &[(String, Option<String>)], damaged: &[(String, Option<String>)]) -> Vec<String> {
    let lie = |((what, clean), (_, damaged)): (&Told, &Told)| {
        let may_be_gone = what == "snapshot" || what == "record";
        let is_true = damaged.is_none() || clean == damaged || (may_be_gone && damaged.as_deref() == Some("None"));
        (!is_true).then(|| format!("{what}: {damaged:?}, was {clean:?}"))
    };
    clean.iter().zip(damaged).filter_map(lie).collect()
}

/// Pages that hold rows of the tables. The indexes have no checksum: one that loses an entry hides its row from a look by
/// name or by id.
fn pages_of_rows(path: &Path) -> (Vec<u64>, u64) {
    let connection = Connection::open(path).unwrap();
    let size = connection.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0)).map(u64::from).unwrap();
    let select = "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND rootpage > 0";
    let mut select = connection.prepare(select).unwrap();
    let pages = select
        .query_map([], |row| row.get::<_, u32>(0).map(u64::from))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    (pages, size)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_bit_in_a_row_is_never_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = clean(folder.path()).await;
    let (bytes, (pages, size)) = (std::fs::read(&path).unwrap(), pages_of_rows(&path));
    let truth = answers(&path).await;
    assert!(truth.iter().all(|(_, answer)| answer.is_some()));
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed | 1;
    for turn in 0..FLIPS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = pages[(random % pages.len() as u64) as usize];
        // Most rows are in the last quarter of a page, which fills from its end.
        let within = size - 1 - (random >> 16) % (size / 2);
        let at = ((page - 1) * size + within) as usize;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << ((random >> 40) % 8);
        let copy = folder.path().join(format!("{turn}.db"));
        std::fs::write(&copy, damaged).unwrap();
        let lies = lies(&truth, &answers(&copy).await);
        assert!(lies.is_empty(), "seed {seed}, byte {within} of page {page}: {lies:#?}");
    }
}

/// Whether at least one answer is refused after a statement, and none is wrong.
async fn is_refused(statement: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = clean(folder.path()).await;
    let truth = answers(&path).await;
    Connection::open(&path).unwrap().execute_batch(statement).unwrap();
    let damaged = answers(&path).await;
    let mut lies = lies(&truth, &damaged);
    // A statement that changes an id changes its index too: under the old one nothing is left to be found.
    lies.retain(|lie| !lie.starts_with("receipt: Some(\"None\")"));
    assert_eq!(lies, Vec::<String>::new(), "{statement}");
    assert!(damaged.iter().any(|(_, answer)| answer.is_none()), "{statement}: nothing is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_is_refused() {
    for statement in [
        "UPDATE commits SET events = (SELECT events FROM commits WHERE position = 3) WHERE position = 1",
        "UPDATE commits SET id = zeroblob(16) WHERE position = 1",
        "UPDATE commits SET digest = zeroblob(16) WHERE position = 1",
        "UPDATE commits SET recorded_at = recorded_at + 1 WHERE position = 1",
        "UPDATE commits SET revision = 20 WHERE position = 17",
        "UPDATE commits SET events = NULL WHERE position = 5",
        "UPDATE streams SET first_retained = 1 WHERE name = 'order-2'",
        "UPDATE streams SET first_retained = 3 WHERE name = 'order-1'",
        "UPDATE snapshots SET schema = 4",
        "UPDATE snapshots SET data = zeroblob(9)",
        "UPDATE records SET number = 2",
        "UPDATE records SET value = x'00'",
    ] {
        is_refused(statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = clean(folder.path()).await;
    let bytes = std::fs::read(&path).unwrap();
    let truth = answers(&path).await;
    // A receipt of what is lost is not there; the index that finds it has lost it too.
    let without_receipts = |mut answers: Vec<(String, Option<String>)>| {
        answers.retain(|(what, _)| what != "receipt");
        answers
    };
    for position in [1, 5, 9, 17] {
        std::fs::write(&path, &bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute("DELETE FROM commits WHERE position = ?1", [position]).unwrap();
        drop(connection);
        let damaged = without_receipts(answers(&path).await);
        let truth = without_receipts(truth.clone());
        assert_eq!(lies(&truth, &damaged), Vec::<String>::new(), "position {position}");
        let feeds: Vec<_> = damaged.iter().filter(|(what, _)| what == "feed").map(|(_, answer)| answer).collect();
        assert_eq!(feeds, [&None, &None], "position {position}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_at_the_end_of_the_feed_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = clean(folder.path()).await;
    let connection = Connection::open(&path).unwrap();
    connection.execute("DELETE FROM commits WHERE position >= 19", []).unwrap();
    let (store, _) = open(&path).await.unwrap();
    let from = FeedStart::AfterPosition(Position(18));
    let filter = FeedFilter::none();
    let request = ReadFeed { from, filter, limit: 10, max_bytes: 1 << 20, deadline: soon() };
    let error = store.read_feed(request).await.unwrap_err();
    assert_eq!((error.kind(), error.context()[0].1.as_str()), (ErrorKind::Corrupt, "19"));
}
