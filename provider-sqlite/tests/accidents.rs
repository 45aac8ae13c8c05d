//! What can happen to a SQLite file and to nothing else: other processes, locks, copies, damage.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use evstore_api::*;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

struct Fixture {
    _folder: tempfile::TempDir,
    settings: Settings,
    provider: Provider,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let provider = evstore_sqlite::provider();
        let path = folder.path().join("events.db").to_str().unwrap().to_owned();
        let settings =
            Settings::new(StoreName::new("main").unwrap(), provider.keys, [("path".to_owned(), path)]).unwrap();
        Self { _folder: folder, settings, provider }
    }

    async fn open(&self) -> Arc<dyn EventStore> {
        self.provider.opener.open(&self.settings).await.unwrap()
    }

    async fn admin(&self) -> Arc<dyn StoreAdmin> {
        self.provider.opener.open_admin(&self.settings).await.unwrap()
    }

    fn path(&self) -> std::path::PathBuf {
        self.settings.path("path").unwrap()
    }
}

fn soon() -> Deadline {
    Deadline::within(SOON)
}

fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

fn append(name: &str, id: u8, expected: Expected, data: &[&str]) -> Append {
    let event = |data: &&str| NewEvent::new(EventType::new("t").unwrap(), data.as_bytes().to_vec());
    let events = Events::new(data.iter().map(event).collect()).unwrap();
    Append { stream: stream(name), expected, commit: NewCommit { id: CommitId([id; 16]), events }, deadline: soon() }
}

fn read(name: &str) -> ReadStream {
    ReadStream {
        stream: stream(name),
        from: StreamStart::First,
        direction: Direction::Forward,
        limit: 100,
        max_bytes: 1 << 20,
        deadline: soon(),
    }
}

fn feed() -> ReadFeed {
    ReadFeed { from: FeedStart::First, filter: FeedFilter::none(), limit: 1000, max_bytes: 1 << 20, deadline: soon() }
}

fn data(page: &StreamPage) -> Vec<String> {
    page.events().map(|event| String::from_utf8(event.event.data.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_is_read_back_by_another_handle() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.open().await, fixture.open().await);
    let first = one.append(append("order-1", 1, Expected::NoStream, &["a", "b"])).await.unwrap();
    assert_eq!((first.number, first.first, first.last), (CommitNumber(1), Revision(1), Revision(2)));
    assert_eq!((first.position, first.repeated), (Some(Position(1)), false));
    let second = other.append(append("order-1", 2, Expected::At(Revision(2)), &["c"])).await.unwrap();
    assert_eq!((second.first, second.position), (Revision(3), Some(Position(3))));
    assert_eq!(data(&one.read_stream(read("order-1")).await.unwrap()), ["a", "b", "c"]);
    let repeated = one.append(append("order-1", 1, Expected::NoStream, &["a", "b"])).await.unwrap();
    assert_eq!(repeated, Appended { repeated: true, ..first });
    let error = one.append(append("order-1", 1, Expected::Any, &["x"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdReused);
    let error = one.append(append("order-1", 3, Expected::At(Revision(2)), &["x"])).await.unwrap_err();
    assert_eq!((error.kind(), error.head().unwrap().revision), (ErrorKind::Conflict, Revision(3)));
    let page = one.read_feed(feed()).await.unwrap();
    assert_eq!((page.items.len(), page.end, page.next.position()), (2, true, Some(Position(3))));
    one.close().await.unwrap();
    assert_eq!(one.append(append("order-1", 4, Expected::Any, &["x"])).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_and_deletion_leave_every_position_accounted_for() {
    let fixture = Fixture::new();
    let (store, admin) = (fixture.open().await, fixture.admin().await);
    for id in 1..=4 {
        store.append(append("order-1", id, Expected::Any, &["a", "b"])).await.unwrap();
    }
    store.append(append("order-2", 1, Expected::Any, &["z"])).await.unwrap();
    let truncate =
        Truncate { stream: stream("order-1"), commit: CommitId([9; 16]), before: Revision(4), deadline: soon() };
    let truncated = admin.truncate(truncate.clone()).await.unwrap();
    assert_eq!(truncated.first_retained, Revision(3));
    assert!(admin.truncate(truncate).await.unwrap().marker.repeated);
    let page = store.read_stream(read("order-1")).await.unwrap();
    assert_eq!((data(&page).len(), page.head.first_retained, page.head.number), (6, Revision(3), CommitNumber(5)));
    let backward = ReadStream { from: StreamStart::Last, direction: Direction::Backward, limit: 3, ..read("order-1") };
    let page = store.read_stream(backward).await.unwrap();
    assert_eq!((data(&page).join(""), page.next), ("bab".to_owned(), Some(Revision(5))));
    let delete = Delete {
        stream: stream("order-1"),
        expected: Expected::At(Revision(8)),
        commit: CommitId([10; 16]),
        deadline: soon(),
    };
    admin.delete(delete).await.unwrap();
    let page = store.read_feed(feed()).await.unwrap();
    let spans: Vec<_> = page
        .items
        .iter()
        .map(|item| match item {
            FeedItem::Commit(commit) => (commit.first_position.unwrap().0, commit.last_position().unwrap().0),
            FeedItem::Removed { first, last } => (first.0, last.0),
        })
        .collect();
    assert_eq!(spans, [(1, 8), (9, 9), (10, 10), (11, 11)]);
    let gone = store.append(append("order-1", 20, Expected::Any, &["x"])).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Gone);
    assert!(store.append(append("order-1", 1, Expected::Any, &["a", "b"])).await.unwrap().repeated);
    let commits =
        ReadCommits { stream: stream("order-1"), from: CommitNumber(3), limit: 3, max_bytes: 100, deadline: soon() };
    let page = admin.read_commits(commits).await.unwrap();
    let numbers: Vec<_> = page.commits.iter().map(|commit| commit.number.0).collect();
    assert_eq!((numbers, page.next), (vec![3, 4, 5], Some(CommitNumber(6))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_append_past_its_deadline_is_not_written() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let late =
        Append { deadline: Deadline::within(Duration::from_millis(50)), ..append("order-1", 2, Expected::Any, &["b"]) };
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.append(append("order-1", 3, Expected::Any, &["c"])).await }
    });
    assert_eq!(store.append(late).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    // Reads do not wait for the writer's lock.
    assert_eq!(data(&store.read_stream(read("order-1")).await.unwrap()), ["a"]);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().first, Revision(2));
    assert_eq!(data(&store.read_stream(read("order-1")).await.unwrap()), ["a", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_is_called_by_its_own_writer_and_notices_another() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.open().await, fixture.open().await);
    let head = one.feed_head(soon()).await.unwrap();
    let wait = |after: &Cursor, within: u64| WaitFeed {
        after: after.clone(),
        deadline: Deadline::within(Duration::from_millis(within)),
    };
    assert_eq!(one.wait_feed(wait(&head.cursor, 30)).await.unwrap(), Waited::DeadlinePassed);
    for (writer, id) in [(&one, 1), (&other, 2)] {
        let head = one.feed_head(soon()).await.unwrap();
        let waiting = tokio::spawn({
            let (one, wait) = (one.clone(), wait(&head.cursor, 20_000));
            async move { one.wait_feed(wait).await }
        });
        writer.append(append("order-1", id, Expected::Any, &["a"])).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), Waited::More);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_set_through_another_handle_holds_at_once() {
    let fixture = Fixture::new();
    let (store, admin) = (fixture.open().await, fixture.admin().await);
    store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap();
    let open = admin.read_meta(soon()).await.unwrap();
    let to = StoreName::new("next").unwrap();
    let fenced = Meta { epoch: Epoch(1), state: StoreState::Fenced { to }, ..open.clone() };
    let swap = SwapMeta { expected: open, new: fenced, deadline: soon() };
    assert_eq!(admin.swap_meta(swap.clone()).await.unwrap(), MetaSwapped::Done);
    assert_eq!(admin.swap_meta(swap).await.unwrap(), MetaSwapped::Done);
    let error = store.append(append("order-1", 2, Expected::Any, &["b"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap().repeated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_reads_like_its_source() {
    let (source, target) = (Fixture::new(), Fixture::new());
    let (from, from_admin, to, to_admin) =
        (source.open().await, source.admin().await, target.open().await, target.admin().await);
    for id in 1..=3 {
        from.append(append("order-1", id, Expected::Any, &["a", "b"])).await.unwrap();
        from.append(append("order-2", id, Expected::Any, &["c"])).await.unwrap();
    }
    let cut = Truncate { stream: stream("order-1"), commit: CommitId([9; 16]), before: Revision(3), deadline: soon() };
    from_admin.truncate(cut).await.unwrap();
    let open = to_admin.read_meta(soon()).await.unwrap();
    let importing = Meta { epoch: Epoch(1), state: StoreState::Importing { from: None }, ..open.clone() };
    let swap = SwapMeta { expected: open, new: importing.clone(), deadline: soon() };
    assert_eq!(to_admin.swap_meta(swap).await.unwrap(), MetaSwapped::Done);
    let page = from.read_feed(feed()).await.unwrap();
    let mut items = Vec::new();
    for item in &page.items {
        match item {
            FeedItem::Commit(commit) => items.push(Replica::Commit(commit.clone())),
            FeedItem::Removed { first, last } => {
                items.push(Replica::Removed { first: *first, last: *last });
                let slots = ReadCommits {
                    stream: stream("order-1"),
                    from: CommitNumber(1),
                    limit: 1,
                    max_bytes: 0,
                    deadline: soon(),
                };
                items.extend(from_admin.read_commits(slots).await.unwrap().commits.into_iter().map(Replica::Commit));
            }
        }
    }
    let copy = Replicate { epoch: Epoch(1), origin: Origin::Restore, items: items.clone(), deadline: soon() };
    let done = to_admin.replicate(copy.clone()).await.unwrap();
    assert_eq!((done.written, done.present), (items.len() as u64, 0));
    assert_eq!(to_admin.replicate(copy.clone()).await.unwrap().present, items.len() as u64);
    assert_eq!(to.read_feed(feed()).await.unwrap().items, page.items);
    let (ours, theirs) =
        (to.read_stream(read("order-1")).await.unwrap(), from.read_stream(read("order-1")).await.unwrap());
    assert_eq!(ours.commits, theirs.commits);
    // A gap is refused, and nothing before it in the same request stays.
    let next = from.append(append("order-3", 1, Expected::Any, &["d"])).await.unwrap();
    from.append(append("order-3", 2, Expected::Any, &["e"])).await.unwrap();
    from.append(append("order-3", 3, Expected::Any, &["f"])).await.unwrap();
    let rest = from.read_feed(ReadFeed { from: FeedStart::After(page.next), ..feed() }).await.unwrap();
    let commits: Vec<_> = rest.commits().cloned().collect();
    let gap = vec![Replica::Commit(commits[0].clone()), Replica::Commit(commits[2].clone())];
    let error = to_admin.replicate(Replicate { items: gap, ..copy }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let find = FindCommit { stream: stream("order-3"), commit: next.commit, deadline: soon() };
    assert_eq!(to.find_commit(find).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_records_survive_reopening() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let receipt = store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap();
    let snapshot = Snapshot {
        stream: stream("order-1"),
        revision: Revision(1),
        number: receipt.number,
        commit: receipt.commit,
        schema: 3,
        content_type: ContentType::json(),
        data: Bytes::from_static(b"{}"),
        taken_at: Timestamp(7),
    };
    store.put_snapshot(PutSnapshot { snapshot: snapshot.clone(), deadline: soon() }).await.unwrap();
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("mine").unwrap() };
    let put = |expected, value: Option<&'static str>| PutRecord {
        key: key.clone(),
        expected,
        value: value.map(Bytes::from),
        deadline: soon(),
    };
    store.put_record(put(RecordExpected::Absent, Some("1"))).await.unwrap();
    let stale = store.put_record(put(RecordExpected::Absent, Some("2"))).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    store.close().await.unwrap();
    let store = fixture.open().await;
    let read = ReadSnapshot { stream: stream("order-1"), deadline: soon() };
    assert_eq!(store.read_snapshot(read).await.unwrap(), Some(snapshot));
    store.put_record(put(RecordExpected::At(RecordNumber(1)), None)).await.unwrap();
    let record = store.read_record(ReadRecord { key: key.clone(), deadline: soon() }).await.unwrap().unwrap();
    assert_eq!((record.number, record.value), (RecordNumber(2), None));
    let list = ListRecords { kind: RecordKind::Checkpoint, after: None, limit: 5, deadline: soon() };
    assert!(store.list_records(list).await.unwrap().records.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_in_the_order_of_their_bytes() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    for name in ["order-2", "order-10", "orders-1", "order!", "Order-1", "order", "\u{10ffff}"] {
        store.append(append(name, 1, Expected::Any, &["a"])).await.unwrap();
    }
    let mut inside = append("order-1", 1, Expected::Any, &["a"]);
    inside.stream = StreamId::within("tenant", "order-1").unwrap();
    store.append(inside).await.unwrap();
    let list = |namespace, category: Option<&str>, prefix: &str| ListStreams {
        namespace,
        category: category.map(|category| StreamName::new(format!("{category}-x")).unwrap().category()),
        prefix: prefix.to_owned(),
        after: None,
        limit: 2,
        deadline: soon(),
    };
    let names = async |mut request: ListStreams| {
        let mut names = Vec::new();
        loop {
            let page = store.list_streams(request.clone()).await.unwrap();
            names.extend(page.streams.iter().map(|listed| listed.stream.to_string()));
            match page.next {
                Some(next) => request.after = Some(next),
                None => return names,
            }
        }
    };
    let all = ["Order-1", "order", "order!", "order-10", "order-2", "orders-1", "\u{10ffff}", "tenant::order-1"];
    assert_eq!(names(list(NamespaceFilter::All, None, "")).await, all);
    assert_eq!(names(list(NamespaceFilter::All, None, "order-")).await, ["order-10", "order-2", "tenant::order-1"]);
    let one = NamespaceFilter::One(Namespace::none());
    assert_eq!(names(list(one, Some("order"), "")).await, ["order", "order-10", "order-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_and_a_changed_table_are_refused() {
    let fixture = Fixture::new();
    let admin = fixture.admin().await;
    assert_eq!(admin.check_schema(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(admin.read_meta(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    let plan = admin.plan_schema(soon()).await.unwrap();
    assert!(!fixture.path().exists());
    assert_eq!(admin.apply_schema(soon()).await.unwrap(), plan);
    assert!(admin.apply_schema(soon()).await.unwrap().changes.is_empty());
    admin.check_schema(soon()).await.unwrap();
    admin.close().await.unwrap();
    rusqlite::Connection::open(fixture.path()).unwrap().execute_batch("DROP INDEX commits_by_id").unwrap();
    let error = fixture.provider.opener.open(&fixture.settings).await.unwrap_err();
    assert_eq!((error.kind(), error.context()[0].1.as_str()), (ErrorKind::Schema, "commits_by_id"));
    std::fs::write(fixture.path(), "something else entirely, long enough to be looked at as a header of a file")
        .unwrap();
    assert_eq!(fixture.provider.opener.open(&fixture.settings).await.unwrap_err().kind(), ErrorKind::Schema);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_payload_is_never_given_out() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.append(append("order-1", 1, Expected::Any, &["payload"])).await.unwrap();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other
        .execute("UPDATE commits SET events = CAST(replace(CAST(events AS TEXT), 'payload', 'forgery') AS BLOB)", [])
        .unwrap();
    assert_eq!(store.read_stream(read("order-1")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.read_feed(feed()).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn scratch_stores_stand_beside_the_file_and_go_away() {
    let fixture = Fixture::new();
    let opener = &fixture.provider.opener;
    let scratch = opener.make_scratch(&fixture.settings, "a1").await.unwrap();
    assert_eq!(opener.make_scratch(&fixture.settings, "a1").await.unwrap_err().kind(), ErrorKind::Conflict);
    let store = opener.open(&scratch).await.unwrap();
    store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(opener.list_scratch(&fixture.settings).await.unwrap(), ["a1"]);
    assert_eq!(opener.drop_scratch(&fixture.settings).await.unwrap_err().kind(), ErrorKind::Invalid);
    opener.drop_scratch(&scratch).await.unwrap();
    assert!(opener.list_scratch(&fixture.settings).await.unwrap().is_empty());
    assert!(!fixture.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_applications_database_stays_as_it_is() {
    let fixture = Fixture::new();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("CREATE TABLE theirs (id INTEGER)").unwrap();
    drop(other);
    let before = std::fs::read(fixture.path()).unwrap();
    let opened = fixture.provider.opener.open(&fixture.settings).await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Schema);
    let admin = fixture.admin().await;
    assert_eq!(admin.plan_schema(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(admin.check_schema(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(admin.apply_schema(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(admin.read_meta(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(std::fs::read(fixture.path()).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_on_an_empty_file_leaves_it_empty() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "").unwrap();
    let admin = fixture.admin().await;
    assert!(!admin.plan_schema(soon()).await.unwrap().changes.is_empty());
    assert_eq!(admin.check_schema(soon()).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(std::fs::metadata(fixture.path()).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_through_a_file_is_not_a_missing_store() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "").unwrap();
    let below = fixture.path().join("events.db").display().to_string();
    let settings = fixture.settings.clone().with("path", below).unwrap();
    let opened = fixture.provider.opener.open(&settings).await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_or_replaced_while_open_takes_nothing_more() {
    let fixture = Fixture::new();
    let (store, admin) = (fixture.open().await, fixture.admin().await);
    store.append(append("order-1", 1, Expected::Any, &["a"])).await.unwrap();
    store.read_stream(read("order-1")).await.unwrap();
    admin.read_meta(soon()).await.unwrap();
    let aside = fixture.path().with_extension("aside");
    std::fs::rename(fixture.path(), &aside).unwrap();
    let lost = async |id| {
        let error = store.append(append("order-1", id, Expected::Any, &["b"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HistoryLost);
        assert!(error.message().contains("replaced or removed"));
        assert_eq!(store.read_stream(read("order-1")).await.unwrap_err().kind(), ErrorKind::HistoryLost);
        assert_eq!(admin.apply_schema(soon()).await.unwrap_err().kind(), ErrorKind::HistoryLost);
        assert_eq!(admin.read_meta(soon()).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    };
    lost(2).await;
    assert!(!fixture.path().exists());
    std::fs::copy(&aside, fixture.path()).unwrap();
    lost(3).await;
    std::fs::rename(&aside, fixture.path()).unwrap();
    store.append(append("order-1", 4, Expected::Any, &["c"])).await.unwrap();
    assert_eq!(data(&store.read_stream(read("order-1")).await.unwrap()), ["a", "c"]);
}

#[test]
fn a_read_that_gets_no_thread_ends_with_its_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        let cursor = store.feed_head(soon()).await.unwrap().cursor;
        let blocked = tokio::task::spawn_blocking(move || held.recv());
        let deadline = || Deadline::within(Duration::from_millis(50));
        let head = ReadHead { stream: stream("order-1"), deadline: deadline() };
        assert_eq!(store.head(head).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        let waited = store.wait_feed(WaitFeed { after: cursor, deadline: deadline() }).await.unwrap();
        assert_eq!(waited, Waited::DeadlinePassed);
        drop(release);
        blocked.await.unwrap().unwrap_err();
    });
}

/// Every stream whose payload is in a file, found by what the payloads begin with.
fn payloads_in(folder: &std::path::Path) -> std::collections::BTreeSet<usize> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for at in bytes.windows(SECRET.len()).enumerate().filter(|(_, window)| *window == SECRET.as_bytes()) {
            let digits = bytes[at.0 + SECRET.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            found.insert(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')));
        }
    }
    found
}

const SECRET: &str = "the secret of stream ";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_in_no_file_any_more() {
    const STREAMS: usize = 40;
    let fixture = Fixture::new();
    let (store, other, admin) = (fixture.open().await, fixture.open().await, fixture.admin().await);
    for round in 0..12 {
        for number in 0..STREAMS {
            // Short ones share a page, long ones have pages of their own behind it.
            let length = [10, 300, 300, 2_000, 9_000][(round + number) % 5];
            let secret = format!("{SECRET}{number}; {}", "x".repeat(length));
            let receipt = store
                .append(append(&format!("order-{number}"), round as u8, Expected::Any, &[&secret, &secret]))
                .await
                .unwrap();
            let snapshot = Snapshot {
                stream: stream(&format!("order-{number}")),
                revision: receipt.last,
                number: receipt.number,
                commit: receipt.commit,
                schema: 1,
                content_type: ContentType::bytes(),
                data: secret.into(),
                taken_at: Timestamp(0),
            };
            store.put_snapshot(PutSnapshot { snapshot, deadline: soon() }).await.unwrap();
        }
        other.read_stream(read("order-1")).await.unwrap();
    }
    let folder = fixture.path().parent().unwrap().to_owned();
    let mut kept: std::collections::BTreeSet<_> = (0..STREAMS).collect();
    assert_eq!(payloads_in(&folder), kept);
    for number in (0..STREAMS).map(|turn| turn * 7 % STREAMS) {
        let (stream, commit) = (stream(&format!("order-{number}")), CommitId([0xdd; 16]));
        // Some are in an archive by then: what was released may be in the WAL until it is deleted, and no longer.
        if number % 3 == 0 {
            let streams = vec![(stream.clone(), Revision(1_000))];
            admin.release(Release { streams, deadline: soon() }).await.unwrap();
        }
        admin.delete(Delete { stream, expected: Expected::Any, commit, deadline: soon() }).await.unwrap();
        kept.remove(&number);
        assert_eq!(payloads_in(&folder), kept, "after stream {number} was deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_under_a_reader_is_wiped_once_it_is_gone() {
    let fixture = Fixture::new();
    let (store, admin) = (fixture.open().await, fixture.admin().await);
    let secret = format!("{SECRET}1;");
    store.append(append("order-1", 1, Expected::Any, &[&secret, &secret])).await.unwrap();
    store.append(append("order-1", 2, Expected::Any, &["kept"])).await.unwrap();
    let reader = rusqlite::Connection::open(fixture.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM commits").unwrap();
    let cut = Truncate { stream: stream("order-1"), commit: CommitId([9; 16]), before: Revision(3), deadline: soon() };
    admin.truncate(cut).await.unwrap();
    let folder = fixture.path().parent().unwrap().to_owned();
    // What the reader may still read has to stay.
    assert_eq!(payloads_in(&folder).len(), 1);
    reader.execute_batch("COMMIT").unwrap();
    let patience = soon();
    while !payloads_in(&folder).is_empty() {
        assert!(!patience.has_passed(), "what was erased is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(data(&store.read_stream(read("order-1")).await.unwrap()), ["kept"]);
}

#[derive(Debug)]
struct SlowClock(Duration);

impl Clock for SlowClock {
    fn now(&self) -> Timestamp {
        std::thread::sleep(self.0);
        Timestamp(1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_has_not_begun_by_its_deadline_writes_nothing() {
    let fixture = Fixture::new();
    fixture.open().await.close().await.unwrap();
    let slow = evstore_sqlite::provider_with(Arc::new(SlowClock(Duration::from_millis(400))));
    let store = slow.opener.open(&fixture.settings).await.unwrap();
    let begun = std::time::Instant::now();
    let late =
        Append { deadline: Deadline::within(Duration::from_millis(50)), ..append("order-1", 1, Expected::Any, &["a"]) };
    assert_eq!(store.append(late).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_millis(300));
    let receipt = store.append(append("order-1", 2, Expected::NoStream, &["b"])).await.unwrap();
    assert_eq!(receipt.position, Some(Position(1)));
}

/// Each waits its turn to switch the new file to its log, also where SQLite does not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_new_file_is_opened_by_many_at_once() {
    for round in 0..40 {
        let fixture = Fixture::new();
        let opens: Vec<_> = (0..8)
            .map(|_| {
                let (opener, settings) = (fixture.provider.opener.clone(), fixture.settings.clone());
                tokio::spawn(async move { opener.open(&settings).await.map(drop) })
            })
            .collect();
        for open in opens {
            open.await.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    }
}
