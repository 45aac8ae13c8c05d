//! What can happen to a store on a Postgres server and to no other: transactions that stay open, are undone late, or are
//! somebody else's; connections that are ended; a schema that somebody changed. On the server at `EVSTORE_TEST_POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use evstore_api::*;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn url() -> String {
    std::env::var("EVSTORE_TEST_POSTGRES_URL")
        .expect("EVSTORE_TEST_POSTGRES_URL is not set: `cargo xtask test` starts a throwaway server and sets it")
}

struct Fixture {
    settings: Settings,
    opener: Arc<dyn Opener>,
    store: Arc<dyn EventStore>,
    schema: String,
}

impl Fixture {
    async fn new(tag: &str) -> Self {
        let provider = evstore_postgres::provider();
        let schema = format!("accidents_{}", std::process::id());
        let given = [("url".to_owned(), url()), ("schema".to_owned(), schema)];
        let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, given).unwrap();
        let opener = provider.opener;
        let settings = opener.make_scratch(&settings, tag).await.unwrap();
        let store = opener.open(&settings).await.unwrap();
        let schema = settings.text("schema").unwrap().to_owned();
        Self { settings, opener, store, schema }
    }

    async fn end(self) {
        self.store.close().await.unwrap();
        self.opener.drop_scratch(&self.settings).await.unwrap();
    }

    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&url()).await.unwrap()
    }

    /// Appends by hand, in whatever transaction the connection has open.
    async fn append_by_hand(&self, connection: &mut PgConnection, stream: &str, number: u64) {
        let encoded = {
            let commit = NewCommit { id: id(number), events: Events::new(vec![event(number)]).unwrap() };
            format::encode_events(id(number), &commit.recorded().unwrap())
        };
        let digest = format::digest_encoded(&name(stream), id(number), &CommitKind::Events, &encoded);
        let sql = format!(
            "SELECT written FROM {}.append(1, ARRAY[hashtext($1)::bigint], 1, '{{1}}', '{{\"\"}}', ARRAY[$1], '{{held}}',
             ARRAY[$2::uuid], ARRAY[$3::uuid], '{{-1}}', '{{1}}', ARRAY[$4])",
            self.schema
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(stream)
            .bind(id(number).to_string())
            .bind(digest.to_string())
            .bind(encoded)
            .fetch_all(connection)
            .await
            .unwrap();
        assert!(row[0].get::<Option<i64>, _>(0).is_some());
    }
}

fn id(number: u64) -> CommitId {
    CommitId::derive(&[b"accidents", &number.to_le_bytes()])
}

fn name(stream: &str) -> StreamId {
    StreamId::new(stream).unwrap()
}

fn event(number: u64) -> NewEvent {
    NewEvent::new(EventType::new("happened").unwrap(), format!("{{\"n\":{number}}}"))
}

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(30))
}

fn request(stream: &str, expected: Expected, number: u64) -> Append {
    let commit = NewCommit { id: id(number), events: Events::new(vec![event(number)]).unwrap() };
    Append { stream: name(stream), expected, commit, deadline: soon() }
}

async fn page(store: &Arc<dyn EventStore>, from: FeedStart) -> FeedPage {
    let request = ReadFeed { from, filter: FeedFilter::none(), limit: 500, max_bytes: 16 << 20, deadline: soon() };
    store.read_feed(request).await.unwrap()
}

/// Follows the feed until told that all is quiet and its end is reached; checks that positions have no hole and revisions no
/// disorder, and gives the commits.
async fn follow(store: Arc<dyn EventStore>, quiet: Arc<AtomicBool>) -> Vec<CommitId> {
    let (mut from, mut commits, mut position) = (FeedStart::First, Vec::new(), 0);
    let mut revisions: BTreeMap<StreamId, u64> = BTreeMap::new();
    loop {
        let was_quiet = quiet.load(Ordering::SeqCst);
        let page = page(&store, from).await;
        for commit in page.commits() {
            assert_eq!(commit.first_position, Some(Position(position + 1)), "positions follow each other");
            position += commit.positions();
            let revision = revisions.entry(commit.stream.clone()).or_default();
            assert_eq!(commit.first_revision.0, *revision + 1, "revisions of {:?} follow each other", commit.stream);
            *revision = commit.last_revision().0;
            commits.push(commit.id);
        }
        if was_quiet && page.end {
            return commits;
        }
        from = FeedStart::After(page.next);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Properties 80 to 85: late commits, rolled-back ones, both interleaved, before the first event, across a restart of a
/// reader, and foreign transactions of every kind, while 32 writers append.
#[tokio::test(flavor = "multi_thread")]
async fn late_and_undone_commits_are_neither_skipped_nor_waited_for() {
    const WRITERS: u64 = 32;
    const EACH: u64 = 25;
    let fixture = Fixture::new("late").await;
    // Somebody else's: one that only holds an id, one that locks rows, one that was prepared and forgotten.
    let mut foreign = fixture.connection().await;
    sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut foreign).await.unwrap();
    let mut locking = fixture.connection().await;
    let lock = format!("BEGIN; SELECT * FROM {}.store FOR KEY SHARE", fixture.schema);
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut locking).await.unwrap();
    let orphan = format!("accidents_{}", std::process::id());
    let mut preparing = fixture.connection().await;
    let prepare = format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{orphan}'");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut preparing).await.unwrap();
    // Held before the first event: one that commits late, one that is undone.
    let mut held = Vec::new();
    for number in 0..6 {
        let mut connection = fixture.connection().await;
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.unwrap();
        fixture.append_by_hand(&mut connection, &format!("held-{number}"), 1_000_000 + number).await;
        held.push(connection);
    }
    let quiet = Arc::new(AtomicBool::new(false));
    let other = fixture.opener.open(&fixture.settings).await.unwrap();
    let readers: Vec<_> =
        [&fixture.store, &other].map(|store| tokio::spawn(follow(store.clone(), quiet.clone()))).into_iter().collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = if writer % 2 == 0 { fixture.store.clone() } else { other.clone() };
            tokio::spawn(async move {
                for n in 0..EACH {
                    let stream = format!("busy-{}", (writer + n) % 8);
                    store.append(request(&stream, Expected::Any, writer * EACH + n)).await.unwrap();
                }
            })
        })
        .collect();
    // While they run, the held ones end one by one, every second one undone.
    for (number, connection) in held.iter_mut().enumerate().take(4) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let end = if number % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
        sqlx::raw_sql(end).execute(connection).await.unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Nothing waits for what is still held: every acknowledged commit is there.
    let mut commits = HashSet::new();
    let mut from = FeedStart::First;
    loop {
        let page = page(&fixture.store, from).await;
        commits.extend(page.commits().map(|commit| commit.id));
        if page.end {
            break;
        }
        from = FeedStart::After(page.next);
    }
    assert_eq!(commits.len() as u64, WRITERS * EACH + 2, "the feed has stalled");
    // The last two end after everything else: one late, one undone.
    sqlx::raw_sql("COMMIT").execute(&mut held[4]).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut held[5]).await.unwrap();
    quiet.store(true, Ordering::SeqCst);
    let mut expected: HashSet<CommitId> = (0..WRITERS * EACH).map(id).collect();
    expected.extend([0, 2, 4].map(|number| id(1_000_000 + number)));
    for reader in readers {
        let read = reader.await.unwrap();
        assert_eq!(read.len(), expected.len(), "a reader got something twice");
        assert_eq!(read.into_iter().collect::<HashSet<_>>(), expected);
    }
    sqlx::raw_sql(AssertSqlSafe(format!("ROLLBACK PREPARED '{orphan}'"))).execute(&mut preparing).await.unwrap();
    // A session that still locks a row would keep the schema from being dropped.
    drop((foreign, locking, held));
    other.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_connection_is_ended_is_indeterminate_and_resolves_by_its_id() {
    let fixture = Fixture::new("ended").await;
    fixture.store.append(request("a-1", Expected::NoStream, 1)).await.unwrap();
    // Keeps the append inside the server: nobody gets past the fence.
    let mut holder = fixture.connection().await;
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock('{}.commits'::regclass::oid::integer, 0)", fixture.schema);
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let store = fixture.store.clone();
    let append = tokio::spawn(async move { store.append(request("a-1", Expected::At(Revision(1)), 2)).await });
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND classid = '{}.commits'::regclass::oid",
        fixture.schema
    );
    let mut killer = fixture.connection().await;
    while sqlx::query(AssertSqlSafe(end.clone())).fetch_all(&mut killer).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = append.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.commit()), (ErrorKind::Indeterminate, Some(id(2))));
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    let again = fixture.store.append(request("a-1", Expected::At(Revision(1)), 2)).await.unwrap();
    assert_eq!((again.last, again.repeated), (Revision(2), false));
    assert!(fixture.store.append(request("a-1", Expected::Any, 2)).await.unwrap().repeated);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_gives_each_append_its_own_verdict() {
    let fixture = Fixture::new("batch").await;
    fixture.store.append(request("a-1", Expected::NoStream, 0)).await.unwrap();
    let appends = (1..=40).map(|number| {
        let expected = match number % 4 {
            0 => Expected::At(Revision(9_999)),
            1 => Expected::Any,
            2 => Expected::NoStream,
            _ => Expected::Exists,
        };
        let stream = if number % 4 == 2 { format!("new-{number}") } else { "a-1".to_owned() };
        let store = fixture.store.clone();
        tokio::spawn(async move { (number, store.append(request(&stream, expected, number)).await) })
    });
    for append in appends.collect::<Vec<_>>() {
        let (number, verdict) = append.await.unwrap();
        match number % 4 {
            0 => assert_eq!(verdict.unwrap_err().kind(), ErrorKind::Conflict),
            _ => assert!(!verdict.unwrap().repeated),
        }
    }
    let head = fixture.store.head(ReadHead { stream: name("a-1"), deadline: soon() }).await.unwrap();
    assert_eq!(head.revision, Revision(21));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_is_refused_by_name() {
    for (tag, change, named) in [
        ("key", "DROP INDEX {schema}.commits_id", "commits_id"),
        (
            "unique",
            "DROP INDEX {schema}.commits_slot; CREATE INDEX commits_slot ON {schema}.commits (stream, revision, number)",
            "commits_slot",
        ),
        ("type", "ALTER TABLE {schema}.records ALTER COLUMN epoch TYPE integer", "records.epoch"),
        ("function", "DROP FUNCTION {schema}.sequence_commits", "sequence_commits"),
    ] {
        let fixture = Fixture::new(tag).await;
        let mut connection = fixture.connection().await;
        let change = change.replace("{schema}", &fixture.schema);
        sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut connection).await.unwrap();
        let error = fixture.opener.open(&fixture.settings).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.context().iter().any(|(_, value)| value == named), "{error} does not name {named}");
        fixture.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_users_see_events_and_their_json() {
    let fixture = Fixture::new("views").await;
    let long = NewEvent {
        id: Some(EventId([7; 16])),
        content_type: ContentType::json(),
        metadata: "not json".into(),
        occurred_at: Some(Timestamp(-1_500_000)),
        data: format!("\"{}\"", "x".repeat(300)).into(),
        ..event(0)
    };
    let events = Events::new(vec![event(1), long]).unwrap();
    let commit = NewCommit { id: id(1), events };
    let append = Append { stream: name("order-1"), expected: Expected::Any, commit, deadline: soon() };
    fixture.store.append(append).await.unwrap();
    page(&fixture.store, FeedStart::First).await;
    let mut connection = fixture.connection().await;
    let sql = format!(
        "SELECT position, stream, category, revision, type, content_type, data::text, metadata::text, event_id::text,
         commit_id::text, occurred_at::text, length(data::text) FROM {}.events_json ORDER BY position",
        fixture.schema
    );
    sqlx::raw_sql("SET timezone = 'UTC'").execute(&mut connection).await.unwrap();
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    let text = |row: usize, column: usize| rows[row].get::<Option<String>, _>(column);
    assert_eq!(rows.iter().map(|row| row.get::<i64, _>(0)).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(text(0, 1).as_deref(), Some("order-1"));
    assert_eq!(text(0, 6).as_deref(), Some("{\"n\": 1}"));
    assert_eq!((text(0, 8), text(0, 10)), (None, None));
    assert_eq!(text(1, 5).as_deref(), Some("application/json"));
    assert_eq!((text(1, 7), rows[1].get::<i32, _>(11)), (None, 302));
    assert_eq!(text(1, 8), Some(EventId([7; 16]).to_string()));
    assert_eq!(text(1, 10).as_deref(), Some("1969-12-31 23:59:58.5+00"));
    assert_eq!(text(1, 9), Some(id(1).to_string()));
    fixture.end().await;
}

/// Runs statements as an operator's tools would.
async fn by_hand(fixture: &Fixture, sql: &str) {
    let mut connection = fixture.connection().await;
    let sql = sql.replace("{schema}", &fixture.schema);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

/// As after a failover to a standby that lacks the last commit: its timeline is another, and the commit is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_a_commit_is_told_and_begins_a_new_history() {
    let fixture = Fixture::new("failover").await;
    for number in 1..=3 {
        fixture.store.append(request("a-1", Expected::Any, number)).await.unwrap();
    }
    let before = page(&fixture.store, FeedStart::First).await;
    assert_eq!(before.next.position(), Some(Position(3)));
    let kept = Cursor::total(before.next.incarnation(), Position(2));
    let lose = "BEGIN; DELETE FROM {schema}.commits WHERE number = 3; DELETE FROM {schema}.feed WHERE number = 3;
        UPDATE {schema}.sequencer SET position = 2; UPDATE {schema}.store SET timeline = timeline + 7; COMMIT";
    by_hand(&fixture, lose).await;
    fixture.store.append(request("a-1", Expected::At(Revision(2)), 4)).await.unwrap();
    // The first look finds the other server, and says what was lost.
    page(&fixture.store, FeedStart::First).await;
    let lost = ReadFeed {
        from: FeedStart::After(before.next.clone()),
        filter: FeedFilter::none(),
        limit: 10,
        max_bytes: 1 << 20,
        deadline: soon(),
    };
    let error = fixture.store.read_feed(lost).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HistoryLost, "{error}");
    assert!(error.context().iter().any(|(name, value)| *name == "lost_after" && value == "2"), "{error}");
    let after = page(&fixture.store, FeedStart::After(kept)).await;
    assert_eq!(
        after.commits().map(|commit| (commit.id, commit.first_position)).collect::<Vec<_>>(),
        [(id(4), Some(Position(3)))]
    );
    assert_ne!(after.next.incarnation(), before.next.incarnation());
    fixture.end().await;
}

/// As after `pg_dump` and a restore: other oids, transaction ids that begin far below the dump's, and a commit that the dump had
/// and the feed had not.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_dump_goes_on_where_it_ended() {
    let fixture = Fixture::new("restore").await;
    for number in 1..=3 {
        fixture.store.append(request("a-1", Expected::Any, number)).await.unwrap();
    }
    page(&fixture.store, FeedStart::First).await;
    fixture.store.close().await.unwrap();
    let restore =
        "BEGIN; UPDATE {schema}.store SET commits_oid = 1; UPDATE {schema}.commits SET xid = xid + 3000000000;
        UPDATE {schema}.sequencer SET snapshot = '3900000000:3900000000:', position = 2;
        DELETE FROM {schema}.feed WHERE number = 3; COMMIT";
    by_hand(&fixture, restore).await;
    let store = fixture.opener.open(&fixture.settings).await.unwrap();
    for number in 4..=6 {
        store.append(request("a-1", Expected::Any, number)).await.unwrap();
    }
    let page = page(&store, FeedStart::First).await;
    let read: Vec<_> = page.commits().map(|commit| (commit.id, commit.first_position.unwrap().0)).collect();
    assert_eq!(read, (1..=6).map(|number| (id(number), number)).collect::<Vec<_>>());
    store.close().await.unwrap();
    fixture.opener.drop_scratch(&fixture.settings).await.unwrap();
}
