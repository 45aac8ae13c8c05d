//! What can happen to a store on a Postgres server and to no other: transactions that stay open, are undone late, or are
//! somebody else's; connections that are ended; a schema that somebody changed. On the server at `EVSTORE_TEST_POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod support;

use evstore_api::*;
use sqlx::{Connection, PgConnection, Row};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

fn url() -> String {
    told("EVSTORE_TEST_POSTGRES_URL")
}

struct Fixture {
    settings: Settings,
    opener: Arc<dyn Opener>,
    store: Arc<dyn EventStore>,
    schema: String,
}

impl Fixture {
    async fn new(tag: &str) -> Self {
        Self::with(tag, &[]).await
    }

    async fn with(tag: &str, more: &[(&str, &str)]) -> Self {
        let settings = settings(&url(), &format!("accidents_{}", std::process::id()), more);
        let opener = evstore_postgres::provider().opener;
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

    async fn run(&self, connection: &mut PgConnection, sql: &str) {
        let sql = sql.replace("{schema}", &self.schema);
        sqlx::raw_sql(&sql).execute(connection).await.unwrap();
    }

    /// Another way to the same store.
    fn settings_as(&self, role: &str, more: &[(&str, &str)]) -> Settings {
        let url = url().replace("postgres@", &format!("{role}@"));
        settings(&url, &self.schema, more)
    }

    /// Appends by hand, in whatever transaction the connection has open.
    async fn append_by_hand(&self, connection: &mut PgConnection, stream: &str, number: u64) {
        let encoded = {
            let commit = NewCommit { id: id(number), events: Events::new(vec![event(number)]).unwrap() };
            format::encode_events(id(number), &commit.recorded().unwrap())
        };
        let digest = format::digest_encoded(&name(stream), id(number), &CommitKind::Events, &encoded);
        let sql = format!(
            "SELECT written FROM {}.append(1, ARRAY[hashtext($1)::bigint], '{{1}}', '{{1}}', '{{\"\"}}', ARRAY[$1], '{{held}}',
             ARRAY[$2::uuid], ARRAY[$3::uuid], '{{-1}}', '{{1}}', ARRAY[$4])",
            self.schema
        );
        let row = sqlx::query(&sql)
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

/// Follows the feed until told that all is quiet and its end is reached; checks that positions have no hole and revisions no
/// disorder, and gives the commits.
async fn follow(store: Arc<dyn EventStore>, quiet: Arc<AtomicBool>) -> Vec<CommitId> {
    let (mut from, mut followed) = (FeedStart::First, Followed::default());
    loop {
        let was_quiet = quiet.load(Ordering::SeqCst);
        let page = page(&store, from).await;
        followed.take(&page).unwrap();
        if was_quiet && page.end {
            return followed.commits;
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
    sqlx::raw_sql(&lock).execute(&mut locking).await.unwrap();
    let orphan = format!("accidents_{}", std::process::id());
    let mut preparing = fixture.connection().await;
    let prepare = format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{orphan}'");
    sqlx::raw_sql(&prepare).execute(&mut preparing).await.unwrap();
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
    sqlx::raw_sql(&format!("ROLLBACK PREPARED '{orphan}'")).execute(&mut preparing).await.unwrap();
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
    sqlx::raw_sql(&lock).execute(&mut holder).await.unwrap();
    let store = fixture.store.clone();
    let append = tokio::spawn(async move { store.append(request("a-1", Expected::At(Revision(1)), 2)).await });
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND classid = '{}.commits'::regclass::oid",
        fixture.schema
    );
    let mut killer = fixture.connection().await;
    while sqlx::query(&end).fetch_all(&mut killer).await.unwrap().is_empty() {
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
        sqlx::raw_sql(&change).execute(&mut connection).await.unwrap();
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
    let rows = sqlx::query(&sql).fetch_all(&mut connection).await.unwrap();
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
    sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
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

/// Rows lie elsewhere after an update, a rewrite of the table, and a restore that keeps where they lay once. The feed is the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_finds_rows_that_moved() {
    let fixture = Fixture::new("moved").await;
    for number in 1..=40 {
        let stream = format!("a-{}", number % 3);
        fixture.store.append(request(&stream, Expected::Any, number)).await.unwrap();
    }
    let before = page(&fixture.store, FeedStart::First).await;
    for moving in [
        "UPDATE {schema}.commits SET recorded_at = recorded_at WHERE number % 2 = 0",
        // The last of the feed alone.
        "UPDATE {schema}.commits SET recorded_at = recorded_at WHERE id = (SELECT c.id FROM {schema}.feed f JOIN {schema}.commits c
            ON c.stream = f.stream AND c.number = f.number WHERE f.position = 40)",
        "VACUUM FULL {schema}.commits",
        "UPDATE {schema}.feed SET lay = NULL",
        // Each where another lies.
        "UPDATE {schema}.feed f SET lay = c.ctid FROM {schema}.commits c JOIN {schema}.feed g
            ON g.stream = c.stream AND g.number = c.number WHERE g.position = 41 - f.position",
    ] {
        by_hand(&fixture, moving).await;
        let after = page(&fixture.store, FeedStart::First).await;
        assert!(after.commits().eq(before.commits()), "{moving}");
        assert!(after.end, "{moving}");
    }
    fixture.end().await;
}

/// Commits that can't come packed with others (many bytes, a marker, no events left), among more than a hundred that can, and some
/// that begin before a hundred and end in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_packed_is_read_all_the_same() {
    let fixture = Fixture::new("packed").await;
    let mut stored = Vec::new();
    for number in 1..=260 {
        let mut append = request(["a-1", "b-1", "c-1"][number as usize % 3], Expected::Any, number);
        let events = match number {
            120 => vec![NewEvent::new(EventType::new("large").unwrap(), vec![7; 20_000])],
            _ if number % 5 == 0 => vec![event(number); 7],
            _ => vec![event(number)],
        };
        append.commit.events = Events::new(events).unwrap();
        stored.push(id(number));
        fixture.store.append(append).await.unwrap();
    }
    let by_slot = in_pages(&fixture.store, 3).await;
    assert_eq!(by_slot.iter().map(|commit| commit.id).collect::<HashSet<_>>(), stored.iter().copied().collect());
    for limit in [1, 7, 100, 499, 2_000] {
        assert!(in_pages(&fixture.store, limit).await == by_slot, "{limit}");
    }
    // A marker, and commits without events.
    let truncate = Truncate { stream: name("a-1"), commit: id(1_000), before: Revision(9), deadline: soon() };
    fixture.opener.open_admin(&fixture.settings).await.unwrap().truncate(truncate).await.unwrap();
    let kept = in_pages(&fixture.store, 2_000).await;
    assert!(in_pages(&fixture.store, 3).await == kept);
    assert!(kept.iter().any(|commit| commit.kind.is_marker()) && kept.iter().any(|commit| commit.id == id(120)));
    for stream in ["a-1", "b-1", "c-1"] {
        let of_feed: Vec<_> =
            kept.iter().filter(|commit| commit.stream == name(stream) && !commit.kind.is_marker()).collect();
        for limit in [1_000, 1_001] {
            for direction in [Direction::Forward, Direction::Backward] {
                let from = match direction {
                    Direction::Forward => StreamStart::First,
                    Direction::Backward => StreamStart::Last,
                };
                let read =
                    ReadStream { stream: name(stream), from, direction, limit, max_bytes: 16 << 20, deadline: soon() };
                let mut commits = fixture.store.read_stream(read).await.unwrap().commits;
                if direction == Direction::Backward {
                    commits.reverse();
                }
                assert!(commits.iter().eq(of_feed.iter().copied()), "{stream} {limit} {direction:?}");
            }
        }
    }
    fixture.end().await;
}

/// All commits of the feed, in pages of so many events.
async fn in_pages(store: &Arc<dyn EventStore>, limit: u32) -> Vec<Commit> {
    let (mut commits, mut from) = (Vec::<Commit>::new(), FeedStart::First);
    loop {
        let page = store.read_feed(ReadFeed { limit, ..feed_request(from) }).await.unwrap();
        commits.extend(page.commits().cloned());
        if page.end {
            return commits;
        }
        from = FeedStart::After(page.next);
    }
}

/// A position was given, and what it was given to is gone: an error wherever it stood, never a page that passes it over or ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_feed_lost_is_an_error() {
    for lost in [1, 2, 3] {
        let fixture = Fixture::new(&format!("gone{lost}")).await;
        for number in 1..=3 {
            fixture.store.append(request("a-1", Expected::Any, number)).await.unwrap();
        }
        page(&fixture.store, FeedStart::First).await;
        by_hand(&fixture, &format!("DELETE FROM {{schema}}.commits WHERE number = {lost}")).await;
        let error = fixture.store.read_feed(feed_request(FeedStart::First)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{lost}: {error}");
        let position = error.context().iter().find(|(name, _)| *name == "position").map(|(_, value)| value.clone());
        assert_eq!(position, Some(lost.to_string()), "{error}");
        fixture.end().await;
    }
}

/// After a restore a stream's key may stand for another stream: an open handle does not go by the names that it knew.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_forgotten_with_the_history_that_they_belonged_to() {
    let fixture = Fixture::new("names").await;
    for (number, stream) in [(1, "a-1"), (2, "b-1")] {
        fixture.store.append(request(stream, Expected::NoStream, number)).await.unwrap();
    }
    let streams = |page: &FeedPage| page.commits().map(|commit| commit.stream.to_string()).collect::<Vec<_>>();
    assert_eq!(streams(&page(&fixture.store, FeedStart::First).await), ["a-1", "b-1"]);
    let restore = "BEGIN; UPDATE {schema}.streams SET name = 'c-1', category = 'c' WHERE name = 'b-1';
        UPDATE {schema}.store SET timeline = timeline + 7; COMMIT";
    by_hand(&fixture, restore).await;
    // The first look finds the other history.
    page(&fixture.store, FeedStart::First).await;
    assert_eq!(streams(&page(&fixture.store, FeedStart::First).await), ["a-1", "c-1"]);
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

/// What the feed has to be under late, undone and foreign transactions, said so that a broken sequencer can be shown to break it.
async fn feed_is_right(fixture: &Fixture) -> std::result::Result<(), String> {
    // Somebody else's transaction, of which a feed of transaction ids thinks that it matters.
    let mut foreign = fixture.connection().await;
    fixture.run(&mut foreign, "BEGIN; SELECT pg_current_xact_id()").await;
    // Drawn early, committed late.
    let mut late = fixture.connection().await;
    fixture.run(&mut late, "BEGIN").await;
    fixture.append_by_hand(&mut late, "held-1", 1_000_000).await;
    let mut expected: HashSet<CommitId> = (0..200).chain([1_000_000]).map(id).collect();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    store.append(request(&format!("busy-{writer}"), Expected::Any, writer * 25 + n)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // All of these are acknowledged; the late one is not.
    let fed = whole_feed(&fixture.store).await?;
    if fed.len() != 200 {
        return Err(format!("{} of 200 acknowledged commits are in the feed", fed.len()));
    }
    fixture.run(&mut late, "COMMIT").await;
    let mut again = whole_feed(&fixture.store).await?;
    for number in 200..210 {
        fixture.store.append(request("busy-0", Expected::Any, number)).await.unwrap();
        expected.insert(id(number));
        again = whole_feed(&fixture.store).await?;
    }
    if again[..200] != fed[..] {
        return Err("what was in the feed has changed".into());
    }
    if again.len() != expected.len() || again.into_iter().collect::<HashSet<_>>() != expected {
        return Err("the feed lacks a commit, or has one twice".into());
    }
    Ok(())
}

/// Sequencers as others build them, and ours with its snapshot taken one statement early: each is noticed, and ours is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_sequencer_is_noticed() {
    const TAKEN: &str = "SELECT s.snapshot, s.position, store.xid_bias INTO before, last, bias";
    const NEW: &str = "SELECT *, ctid AS lay FROM commits WHERE xid >= bias + pg_snapshot_xmax(before)::text::bigint";
    // What a step takes to be new is slowed down, so that appends commit between its statements.
    let slow = ("WITH fresh AS MATERIALIZED", "PERFORM pg_sleep(0.02); WITH fresh AS MATERIALIZED");
    let early = [
        slow,
        ("bias bigint;\nBEGIN", "bias bigint; early pg_snapshot;\nBEGIN"),
        (TAKEN, "SELECT s.snapshot, s.position, store.xid_bias, pg_current_snapshot() INTO before, last, bias, early"),
        ("THEN pg_current_snapshot()", "THEN early"),
    ];
    let none_running =
        ("SELECT l.* FROM pg_snapshot_xip(before) running", "SELECT l.* FROM (SELECT 0 WHERE false) none (running)");
    let by_number = [
        none_running,
        (
            NEW,
            "SELECT *, ctid AS lay FROM commits WHERE ordering > coalesce((SELECT max(c.ordering) FROM feed f JOIN commits c
            ON c.stream = f.stream AND c.revision = f.revision AND c.number = f.number), 0)",
        ),
    ];
    let by_xmin = [
        none_running,
        (
            NEW,
            "SELECT *, ctid AS lay FROM commits WHERE xid < bias + pg_snapshot_xmin(pg_current_snapshot())::text::bigint
            AND NOT EXISTS (SELECT 1 FROM feed f WHERE f.stream = commits.stream AND f.number = commits.number)",
        ),
    ];
    for (tag, changes, right) in [
        ("slow", &[slow][..], true),
        ("early", &early[..], false),
        ("bynumber", &by_number[..], false),
        ("byxmin", &by_xmin[..], false),
    ] {
        let fixture = Fixture::new(tag).await;
        let mut connection = fixture.connection().await;
        let body = "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE proname = 'sequence_commits' AND pronamespace = $1::regnamespace";
        let row = sqlx::query(body).bind(&fixture.schema).fetch_one(&mut connection).await.unwrap();
        let mut definition: String = row.get(0);
        for (from, to) in changes {
            assert!(definition.contains(from), "the sequencer has no {from}");
            definition = definition.replace(from, to);
        }
        sqlx::raw_sql(&definition).execute(&mut connection).await.unwrap();
        let found = feed_is_right(&fixture).await;
        assert_eq!(found.is_ok(), right, "{tag}: {found:?}");
        fixture.end().await;
    }
}

/// The documented grants, with real roles: one reads and appends, one reads, and neither does more.
#[tokio::test(flavor = "multi_thread")]
async fn roles_do_what_their_grants_say() {
    let fixture = Fixture::new("roles").await;
    let mut owner = fixture.connection().await;
    let (writer, reader) = (format!("writer_{}", std::process::id()), format!("reader_{}", std::process::id()));
    let grants = include_str!("../src/grants.sql").replace("{writer}", &writer).replace("{reader}", &reader);
    fixture.run(&mut owner, &format!("CREATE ROLE {writer} LOGIN; CREATE ROLE {reader} LOGIN; {grants}")).await;
    let appending = fixture.opener.open(&fixture.settings_as(&writer, &[])).await.unwrap();
    let receipt = appending.append(request("a-1", Expected::NoStream, 1)).await.unwrap();
    appending.append(request("a-1", Expected::Any, 2)).await.unwrap();
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("consumer").unwrap() };
    let value = Some("1".into());
    let put = PutRecord { key, expected: RecordExpected::Any, value, deadline: soon() };
    appending.put_record(put).await.unwrap();
    assert_eq!(whole_feed(&appending).await.unwrap(), [id(1), id(2)]);
    assert_eq!(receipt.last, Revision(1));
    let reading = fixture.opener.open(&fixture.settings_as(&reader, &[])).await.unwrap();
    assert_eq!(whole_feed(&reading).await.unwrap(), [id(1), id(2)]);
    let refused = reading.append(request("a-1", Expected::Any, 3)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    // Around the functions nothing is written by either, and no history is changed.
    for role in [&writer, &reader] {
        let address = url().replace("postgres@", &format!("{role}@"));
        let mut connection = PgConnection::connect(&address).await.unwrap();
        for sql in [
            "INSERT INTO {schema}.streams (namespace, name, category) VALUES ('', 'x', 'x')",
            "DELETE FROM {schema}.commits",
            "UPDATE {schema}.commits SET events = NULL",
            "UPDATE {schema}.store SET access = 0",
            "UPDATE {schema}.sequencer SET position = 0",
            "DELETE FROM {schema}.feed",
            "DROP TABLE {schema}.removed",
        ] {
            let sql = sql.replace("{schema}", &fixture.schema);
            let error = sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap_err();
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            assert_eq!(code, "42501", "{role}: {sql}: {error}");
        }
    }
    let admin = fixture.opener.open_admin(&fixture.settings_as(&writer, &[])).await.unwrap();
    let delete = Delete { stream: name("a-1"), expected: Expected::Any, commit: id(9), deadline: soon() };
    assert_eq!(admin.delete(delete).await.unwrap_err().kind(), ErrorKind::Denied);
    for store in [appending, reading] {
        store.close().await.unwrap();
    }
    admin.close().await.unwrap();
    fixture.run(&mut owner, &format!("DROP OWNED BY {writer}, {reader}; DROP ROLE {writer}, {reader}")).await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_in_one_database_do_not_see_each_other() {
    let (first, second) = (Fixture::new("one").await, Fixture::new("two").await);
    for fixture in [&first, &second] {
        assert!(!fixture.store.append(request("a-1", Expected::NoStream, 1)).await.unwrap().repeated);
    }
    // One store's fence and streams, held for ever, keep nobody out of the other.
    let mut holder = first.connection().await;
    first.run(&mut holder, "BEGIN; SELECT pg_advisory_xact_lock('{schema}.commits'::regclass::oid::integer, 0)").await;
    second.store.append(request("a-1", Expected::At(Revision(1)), 2)).await.unwrap();
    assert_eq!(whole_feed(&second.store).await.unwrap(), [id(1), id(2)]);
    first.run(&mut holder, "ROLLBACK").await;
    assert_eq!(whole_feed(&first.store).await.unwrap(), [id(1)]);
    first.end().await;
    second.end().await;
}

/// Two connections, and more handlers of the feed that append, read and keep checkpoints than that: nobody holds one connection
/// while waiting for another.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_append_do_not_starve_in_a_small_pool() {
    const HANDLERS: u64 = 8;
    const EACH: u64 = 20;
    let fixture = Fixture::with("pool", &[("pool_max", "2")]).await;
    let handlers: Vec<_> = (0..HANDLERS)
        .map(|handler| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let end = store.feed_head(soon()).await.unwrap().cursor;
                    store.append(request(&format!("out-{handler}"), Expected::Any, handler * EACH + n)).await.unwrap();
                    let wait = WaitFeed { after: end.clone(), deadline: soon() };
                    assert_eq!(store.wait_feed(wait).await.unwrap(), Waited::More);
                    store.read_feed(feed_request(FeedStart::After(end))).await.unwrap();
                    let key = RecordKey {
                        kind: RecordKind::Checkpoint,
                        name: RecordName::new(format!("h{handler}")).unwrap(),
                    };
                    let value = Some(n.to_string().into());
                    let put = PutRecord { key, expected: RecordExpected::Any, value, deadline: soon() };
                    store.put_record(put).await.unwrap();
                }
            })
        })
        .collect();
    let all = async {
        for handler in handlers {
            handler.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the pool has starved");
    assert_eq!(whole_feed(&fixture.store).await.unwrap().len() as u64, HANDLERS * EACH);
    fixture.end().await;
}

/// The server undoes an append to end a deadlock; it is made again, and its caller hears nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again_within_the_deadline() {
    let fixture = Fixture::new("deadlock").await;
    let stop = |table: &'static str| format!("BEGIN; LOCK TABLE {{schema}}.{table} IN EXCLUSIVE MODE");
    // An append that is held up in its middle shows which lock stands for its stream.
    let mut holder = fixture.connection().await;
    fixture.run(&mut holder, &stop("commits")).await;
    let store = fixture.store.clone();
    let shown = tokio::spawn(async move { store.append(request("a-1", Expected::Any, 1)).await });
    let mut looking = fixture.connection().await;
    let held = format!(
        "SELECT ((l.classid::bigint << 32) | l.objid::bigint)::text FROM pg_locks l JOIN pg_locks w ON w.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND NOT w.granted AND w.relation = '{}.commits'::regclass",
        fixture.schema
    );
    let key = loop {
        if let Some(row) = sqlx::query(&held).fetch_all(&mut looking).await.unwrap().first() {
            break row.get::<String, _>(0);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    fixture.run(&mut holder, "ROLLBACK").await;
    shown.await.unwrap().unwrap();
    // The stream first and the fence second, against the order of everybody else.
    let lock = format!("SET deadlock_timeout = '60s'; BEGIN; SELECT pg_advisory_xact_lock({key})");
    fixture.run(&mut holder, &lock).await;
    let store = fixture.store.clone();
    let append = tokio::spawn(async move { store.append(request("a-1", Expected::At(Revision(1)), 2)).await });
    let waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND NOT granted";
    while sqlx::query(waits).fetch_all(&mut looking).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.run(&mut holder, "SELECT pg_advisory_xact_lock('{schema}.commits'::regclass::oid::integer, 0)").await;
    fixture.run(&mut holder, "COMMIT").await;
    assert_eq!(append.await.unwrap().unwrap().last, Revision(2));
    fixture.end().await;
}

/// Somebody set another isolation for the role: what would be wrong under it is refused, not done.
#[tokio::test(flavor = "multi_thread")]
async fn another_isolation_is_refused() {
    let fixture = Fixture::new("isolation").await;
    let address = format!("{}?options=-c%20default_transaction_isolation%3Dserializable", url());
    let store = fixture.opener.open(&settings(&address, &fixture.schema, &[])).await.unwrap();
    let error = store.append(request("a-1", Expected::Any, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
    assert_eq!(whole_feed(&fixture.store).await.unwrap(), []);
    store.close().await.unwrap();
    fixture.end().await;
}

/// What holds commits back from the feed is named by an examination.
#[tokio::test(flavor = "multi_thread")]
async fn an_examination_names_who_holds_the_feed_up() {
    let fixture = Fixture::new("examined").await;
    fixture.store.append(request("a-1", Expected::Any, 1)).await.unwrap();
    page(&fixture.store, FeedStart::First).await;
    let admin = fixture.opener.open_admin(&fixture.settings).await.unwrap();
    assert!(admin.examine(soon()).await.unwrap().iter().all(|finding| finding.about != "sequencer"));
    let mut holder = fixture.connection().await;
    fixture.run(&mut holder, "SET application_name = 'forgotten'; BEGIN; SELECT pg_advisory_xact_lock('{schema}.commits'::regclass::oid::integer, 1)").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    fixture.store.append(request("a-1", Expected::Any, 2)).await.unwrap();
    let findings = admin.examine(soon()).await.unwrap();
    let found = findings.iter().find(|finding| finding.about == "sequencer").unwrap();
    assert!(found.found.contains("forgotten"), "{found:?}");
    assert_eq!(found.severity, Severity::Problem);
    fixture.run(&mut holder, "ROLLBACK").await;
    admin.close().await.unwrap();
    fixture.end().await;
}

/// Whoever has a store open locks its tables in another order than what drops them, and the server undoes one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_store_is_dropped_that_others_still_look_at() {
    let mut waited = Duration::ZERO;
    // Which of two tables is dropped first is the server's choice.
    for (tag, one, other) in [("one", "commits", "store"), ("other", "store", "commits")] {
        let fixture = Fixture::new(tag).await;
        let mut foreign = fixture.connection().await;
        // So that it is the drop that is undone.
        fixture.run(&mut foreign, "SET deadlock_timeout = '1min'; BEGIN").await;
        fixture.run(&mut foreign, &format!("LOCK TABLE {{schema}}.{one} IN ACCESS SHARE MODE")).await;
        fixture.store.close().await.unwrap();
        let (opener, settings) = (fixture.opener.clone(), fixture.settings.clone());
        let dropping = tokio::spawn(async move { opener.drop_scratch(&settings).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = std::time::Instant::now();
        fixture.run(&mut foreign, &format!("LOCK TABLE {{schema}}.{other} IN ACCESS SHARE MODE")).await;
        waited = waited.max(began.elapsed());
        fixture.run(&mut foreign, "ROLLBACK").await;
        dropping.await.unwrap().unwrap();
    }
    assert!(waited > Duration::from_millis(100), "no drop stood in the way: {waited:?}");
}
