//! Every statement but those of the schema, as text with the schema's name in place. Nothing else is ever put into a statement:
//! values are bound.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        /// The statements of one store.
        pub struct Statements {
            $($(#[$doc])* pub $name: Statement,)*
        }

        impl std::fmt::Debug for Statements {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Statements")
            }
        }

        impl Statements {
            /// The statements of the store in a schema, whose name was validated.
            pub fn new(schema: &str, prepared: Prepared) -> Self {
                Self { $($name: Statement::new($text, schema, prepared),)* }
            }
        }
    };
}

/// How long a connection keeps what it prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// As long as it lives.
    Kept,
    /// For one transaction: a pooler gives the next one to another server process.
    Once,
}

/// A statement of one store.
#[derive(Clone)]
pub struct Statement {
    text: &'static str,
    prepared: Prepared,
}

/// Without the text: a store's `Debug` would be pages of it.
impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Statement")
    }
}

impl Statement {
    /// A statement whose text is ours but for the name of the schema.
    pub fn new(text: &str, schema: &str, prepared: Prepared) -> Self {
        Self { text: kept(text.replace("{schema}", &format!("\"{schema}\""))), prepared }
    }

    /// As sqlx takes it: the text is one of this file, and the schema's name is of letters, digits and underscores.
    pub fn sql(&self) -> &'static str {
        self.text
    }

    /// With values to be bound.
    pub fn query<'q>(&self) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(self.sql()).persistent(self.prepared == Prepared::Kept)
    }
}

/// The text, once and for as long as the process runs: some 30 kB for each schema that it ever opens. A query borrows its text,
/// and a borrow of a store's would end before the query does.
fn kept(text: String) -> &'static str {
    static KEPT: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = kept.get(text.as_str()) {
        return text;
    }
    let text: &'static str = text.leak();
    kept.insert(text);
    text
}

/// A commit's columns, in the order in which `codec::commit` reads them, its position last.
macro_rules! commit_columns {
    ($position:literal) => {
        concat!(
            "c.revision, c.number, c.count, c.recorded_at, c.id, c.digest, c.marker, c.imported, c.grouped, c.extensions, c.events, ",
            $position
        )
    };
}

/// The place of a commit `c` in the feed `f`.
macro_rules! placed {
    () => {
        " LEFT JOIN {schema}.feed f ON f.stream = c.stream AND f.revision = c.revision AND f.number = c.number "
    };
}

/// What a head is made of: the stream's key and first retained revision, its last commit, the store's record.
macro_rules! head_columns {
    () => {
        "s.key, s.first_retained, h.revision + h.count - 1 AS revision, h.number, h.recorded_at, h.id, h.marker, h.imported"
    };
}

macro_rules! last_commit {
    () => {
        " JOIN LATERAL (SELECT * FROM {schema}.commits c WHERE c.stream = s.key ORDER BY c.revision DESC, c.number DESC LIMIT 1)
          h ON true "
    };
}

/// A commit `c` as `packed.rs` reads it.
macro_rules! packed {
    () => {
        "int8send(c.stream) || int8send(c.number) || int8send(c.revision) || int8send(c.count) || int8send(c.recorded_at)
            || int8send(coalesce(c.imported, -1)) || uuid_send(c.id) || uuid_send(c.digest)
            || int4send(octet_length(c.events)) || c.events"
    };
}

/// Whether a commit `c` is packed: one that has more than events, or many bytes of them, comes in a row of its own. The bound is
/// near that from which events lie outside of the table.
macro_rules! packs {
    () => {
        "c.marker IS NULL AND c.grouped IS NULL AND c.extensions IS NULL AND octet_length(c.events) <= 8192"
    };
}

/// The stream's head, the store's record, and the page's commits packed with their positions by number; where not all of them can be
/// packed, the commits follow in rows. $3: 0 the first, -1 the last, or a revision; `begins` is that of the commit which holds the
/// lowest. The positions come in one value, because to look each of them up beside its commit takes longer than the commits.
macro_rules! page_of_stream {
    ($low:literal, $high:literal, $order:literal) => {
        concat!(
            "WITH p AS MATERIALIZED (SELECT p.*, coalesce((SELECT max(b.revision) FROM {schema}.commits b
                    WHERE b.stream = p.key AND b.revision <= p.low), 0) AS begins
                FROM (SELECT p.*, ", $low, " AS low, ", $high, " AS high FROM (
                    SELECT ", head_columns!(), ", store.meta FROM {schema}.store LEFT JOIN ({schema}.streams s", last_commit!(), ")
                    ON s.namespace = $1 AND s.name = $2) p) p),
            k AS MATERIALIZED (SELECT string_agg(c.packed, '') AS packed, $4 <= 1000 AND count(*) = count(c.packed) AS whole
                FROM (SELECT CASE WHEN ", packs!(), " THEN ", packed!(), " END AS packed FROM {schema}.commits c
                    WHERE c.stream = (SELECT key FROM p) AND c.kind = 0 AND c.revision <= (SELECT high FROM p)
                    AND c.revision >= (SELECT begins FROM p) AND $4 <= 1000 ", $order, ") c)
            SELECT p.revision, p.number, NULL::bigint AS count, p.recorded_at, p.id, NULL::uuid, p.marker, p.imported, NULL::uuid,
                CASE WHEN k.whole THEN coalesce(k.packed, '') END, p.meta, p.first_retained, (
                    SELECT string_agg(int8send(f.number) || int8send(f.position), '') FROM {schema}.feed f
                    WHERE f.stream = p.key AND f.revision BETWEEN p.begins AND p.high)
                FROM p CROSS JOIN k
            UNION ALL (SELECT ", commit_columns!("NULL::bigint"), ", NULL FROM {schema}.commits c
                WHERE NOT (SELECT whole FROM k) AND c.stream = (SELECT key FROM p) AND c.kind = 0
                AND c.revision <= (SELECT high FROM p) AND c.revision >= (SELECT begins FROM p) ", $order, ")"
        )
    };
}

/// Which of the feed's rows are of the window: the one that holds the position after $1, and those up to $2.
macro_rules! in_window {
    () => {
        " f.position >= (SELECT coalesce(max(b.position), 0) FROM {schema}.feed b WHERE b.position <= $1 + 1)
          AND f.position <= $2 "
    };
}

/// A window of the feed, with the condition that finds a commit's row sooner than its slot does.
macro_rules! page_of_feed {
    ($sooner:literal) => {
        concat!(
            "SELECT NULL::bigint AS stream, NULL::bigint AS revision, 0::bigint AS number, NULL::bigint AS count, NULL::bigint,
                NULL::uuid, NULL::uuid, NULL::bytea, NULL::bigint, NULL::uuid, NULL::bytea, store.meta, q.position
                FROM {schema}.store CROSS JOIN {schema}.sequencer q
            UNION ALL (SELECT NULL, r.last, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, r.first
                FROM {schema}.removed r WHERE r.last > $1 AND r.first <= $2 ORDER BY r.first)
            UNION ALL (SELECT f.stream, ", commit_columns!("f.position"), " FROM {schema}.feed f
                JOIN {schema}.commits c ON ", $sooner, "c.stream = f.stream AND c.revision = f.revision AND c.number = f.number
                WHERE", in_window!(), "ORDER BY f.position)"
        )
    };
}

statements! {
    /// Appends a batch.
    append = "SELECT * FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    /// Appends one, if nothing can be said against it.
    append_one = "SELECT {schema}.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    /// Appends several to different streams, each if nothing can be said against it.
    append_many = "SELECT * FROM {schema}.append_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    /// Makes a sequencer step.
    sequence = "SELECT outcome, end_position, moved FROM {schema}.sequence_commits()";

    /// The store's record.
    meta = "SELECT meta FROM {schema}.store";
    /// The store's record and the end of the feed.
    end = "SELECT store.meta, q.position FROM {schema}.store CROSS JOIN {schema}.sequencer q";
    /// The end of the feed with what is not in it yet.
    lag = "SELECT store.meta, q.position, w.commits, w.oldest FROM {schema}.store CROSS JOIN {schema}.sequencer q
        CROSS JOIN {schema}.unsequenced() w";

    /// A stream's head, with the store's record.
    head = concat!(
        "SELECT ", head_columns!(), ", store.meta FROM {schema}.store LEFT JOIN ({schema}.streams s", last_commit!(), ")
        ON s.namespace = $1 AND s.name = $2"
    );
    /// The receipt of a commit.
    find = concat!(
        "SELECT c.revision, c.number, c.count, c.recorded_at, c.digest, f.position FROM {schema}.streams s
        JOIN {schema}.commits c ON c.stream = s.key", placed!(), "WHERE s.namespace = $1 AND s.name = $2 AND c.id = $3"
    );
    /// The head and a page of a stream, forward.
    read_forward = page_of_stream!(
        "CASE $3::bigint WHEN 0 THEN first_retained WHEN -1 THEN revision ELSE greatest($3, first_retained) END",
        "CASE $3::bigint WHEN 0 THEN first_retained WHEN -1 THEN revision ELSE greatest($3, first_retained) END + $4 - 1",
        "ORDER BY c.revision, c.number"
    );
    /// The head and a page of a stream, backward.
    read_backward = page_of_stream!(
        "CASE $3::bigint WHEN 0 THEN first_retained WHEN -1 THEN revision ELSE least($3, revision) END - $4 + 1",
        "CASE $3::bigint WHEN 0 THEN first_retained WHEN -1 THEN revision ELSE least($3, revision) END",
        "ORDER BY c.revision DESC, c.number DESC"
    );
    /// Slots of a stream.
    slots = concat!(
        "SELECT ", commit_columns!("f.position"), " FROM {schema}.commits c", placed!(),
        "WHERE c.stream = (SELECT key FROM {schema}.streams WHERE namespace = $1 AND name = $2) AND c.number >= $3
        ORDER BY c.revision, c.number LIMIT $4"
    );
    /// The end of the feed, ranges that were removed, then for each hundred positions which slots have them, and packed what lies where
    /// their commits lay when they were numbered, in no order. One look for a hundred of them costs half of a look for each, and a
    /// value of more bytes costs the server more than it saves.
    feed_together = concat!(
        "SELECT store.meta, q.position, NULL::bigint AS last, NULL::bytea AS places, NULL::bytea AS commits
            FROM {schema}.store CROSS JOIN {schema}.sequencer q
        UNION ALL (SELECT NULL, r.first, r.last, NULL, NULL
            FROM {schema}.removed r WHERE r.last > $1 AND r.first <= $2 ORDER BY r.first)
        UNION ALL (SELECT NULL, NULL, NULL, k.places, (SELECT string_agg(", packed!(), ", '') FROM {schema}.commits c
                WHERE c.ctid = ANY (k.lays) AND ", packs!(), ")
            FROM generate_series((SELECT coalesce(max(b.position), 0) FROM {schema}.feed b WHERE b.position <= $1 + 1),
                    least($2, (SELECT position FROM {schema}.sequencer)), 100) hundred
            CROSS JOIN LATERAL (SELECT array_agg(f.lay) AS lays,
                    string_agg(int8send(f.position) || int8send(f.stream) || int8send(f.number), '') AS places FROM {schema}.feed f
                WHERE f.position >= hundred AND f.position < hundred + 100 AND f.position <= $2) k
            WHERE k.places IS NOT NULL)"
    );
    /// The end of the feed, ranges that were removed, then commits after a position, their streams by their keys: those that lie
    /// where they lay when they were numbered.
    feed = page_of_feed!("c.ctid = f.lay AND ");
    /// The same, wherever they lie.
    feed_moved = page_of_feed!("");
    /// What streams are called.
    names = "SELECT key, namespace, name FROM {schema}.streams WHERE key = ANY($1)";

    /// Changes the store's record.
    put_meta = "UPDATE {schema}.store SET meta = $1, access = $2";
    /// Keeps everybody who writes outside, until the transaction ends.
    lock_store = "SELECT pg_advisory_xact_lock('{schema}.commits'::regclass::oid::integer, 0)";
    /// Keeps changes of the store's record outside, until the transaction ends.
    share_store = "SELECT pg_advisory_xact_lock_shared('{schema}.commits'::regclass::oid::integer, 0)";
    /// Keeps other sequencers outside, until the transaction ends.
    lock_sequencer = "SELECT pg_advisory_xact_lock('{schema}.commits'::regclass::oid::integer, 1)";
    /// Keeps other writers out of a stream, until the transaction ends.
    lock_stream = "SELECT pg_advisory_xact_lock($1::bigint)";

    /// Makes a stream.
    make_stream = "INSERT INTO {schema}.streams (namespace, name, category) VALUES ($1, $2, $3) RETURNING key";
    /// Writes a marker, which the sequencer will give a position.
    put_marker = "INSERT INTO {schema}.commits
        (stream, number, revision, recorded_at, xid, ordering, count, kind, id, digest, marker)
        SELECT $1, $2, $3, $4, store.xid_bias + pg_current_xact_id()::text::bigint, nextval('{schema}.order_of_commits'), 0, $5,
            $6, $7, $8 FROM {schema}.store";
    /// Takes the events away from commits that lie wholly before a revision.
    strip = "UPDATE {schema}.commits SET events = NULL
        WHERE stream = $1 AND revision < $2 AND revision + count <= $2 AND events IS NOT NULL";
    /// Notes where a stream's events begin; one above its head where none is left.
    retain = "UPDATE {schema}.streams SET first_retained = greatest(first_retained, coalesce((SELECT min(revision)
        FROM {schema}.commits WHERE stream = $1 AND revision >= first_retained AND kind = 0 AND revision + count > $3), $2))
        WHERE key = $1 RETURNING first_retained";
    /// Takes the events away from commits that an archive holds: of each stream those that lie wholly before a revision.
    release = "UPDATE {schema}.commits c SET events = NULL
        FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (namespace, name, before)
        JOIN {schema}.streams s ON s.namespace = w.namespace AND s.name = w.name
        WHERE c.stream = s.key AND c.revision < w.before AND c.revision + c.count <= w.before AND c.events IS NOT NULL";

    /// The revision of the snapshot that is kept.
    snapshot_revision = "SELECT revision FROM {schema}.snapshots WHERE stream = $1";
    /// Keeps a snapshot.
    put_snapshot = "INSERT INTO {schema}.snapshots
        (stream, revision, number, taken_at, schema, checksum, id, content_type, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (stream) DO UPDATE SET revision = excluded.revision,
        number = excluded.number, taken_at = excluded.taken_at, schema = excluded.schema, checksum = excluded.checksum,
        id = excluded.id, content_type = excluded.content_type, data = excluded.data";
    /// Reads the snapshot of a stream.
    read_snapshot = "SELECT n.revision, n.number, n.taken_at, n.schema, n.checksum, n.id, n.content_type, n.data
        FROM {schema}.streams s JOIN {schema}.snapshots n ON n.stream = s.key WHERE s.namespace = $1 AND s.name = $2";
    /// Removes the snapshot of a stream.
    delete_snapshot = "DELETE FROM {schema}.snapshots WHERE stream = $1";

    /// Reads a small record.
    read_record = "SELECT number, epoch, updated_at, checksum, value FROM {schema}.records WHERE kind = $1 AND name = $2";
    /// Writes a small record.
    put_record = "INSERT INTO {schema}.records (kind, name, number, epoch, updated_at, checksum, value)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, name) DO UPDATE SET number = excluded.number,
        epoch = excluded.epoch, updated_at = excluded.updated_at, checksum = excluded.checksum, value = excluded.value";
    /// Lists small records.
    list_records = "SELECT number, epoch, updated_at, checksum, value, name FROM {schema}.records
        WHERE kind = $1 AND name > $2 AND value IS NOT NULL ORDER BY name LIMIT $3";

    /// Heads of many streams, in the order asked for.
    heads = concat!(
        "SELECT ", head_columns!(), " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY a (namespace, name, ordinal)
        LEFT JOIN ({schema}.streams s", last_commit!(), ") ON s.namespace = a.namespace AND s.name = a.name ORDER BY a.ordinal"
    );
    /// Commits in slots, with which of those asked for each is.
    slots_of = concat!(
        "SELECT ", commit_columns!("f.position"), ", a.ordinal FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
        WITH ORDINALITY a (stream, revision, number, ordinal)
        JOIN {schema}.commits c ON c.stream = a.stream AND c.revision = a.revision AND c.number = a.number", placed!()
    );
    /// Which commit ids are taken.
    ids_of = "SELECT a.ordinal FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY a (stream, id, ordinal)
        JOIN {schema}.commits c ON c.stream = a.stream AND c.id = a.id";
    /// Makes streams; gives back their keys.
    make_streams = "INSERT INTO {schema}.streams (namespace, name, category)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) RETURNING key, namespace, name";
    /// The last position.
    last_position = "SELECT position FROM {schema}.sequencer";
    /// Moves the last position on.
    put_last_position = "UPDATE {schema}.sequencer SET position = $1";
    /// Whether a range lies in one that was removed, and holds no commit.
    in_removed = "SELECT EXISTS (SELECT 1 FROM {schema}.removed WHERE first <= $1 AND last >= $2)
        AND NOT EXISTS (SELECT 1 FROM {schema}.feed WHERE position <= $2 AND position >=
            (SELECT coalesce(max(position), 0) FROM {schema}.feed WHERE position <= $1) AND position + places > $1)";
    /// Whether a range of given positions holds events or markers.
    holds = "SELECT EXISTS (SELECT 1 FROM {schema}.feed f
        JOIN {schema}.commits c ON c.stream = f.stream AND c.revision = f.revision AND c.number = f.number
        WHERE f.position <= $2 AND f.position >= (SELECT coalesce(max(position), 0) FROM {schema}.feed WHERE position <= $1)
        AND f.position + f.places > $1 AND (c.events IS NOT NULL OR c.kind <> 0))";
    /// Notes a range of removed positions.
    put_removed = "INSERT INTO {schema}.removed (first, last) VALUES ($1, $2)";
    /// Copies commits in: their positions come along.
    copy_commits = "COPY {schema}.commits (stream, number, revision, recorded_at, ordering, count, kind, id, digest, imported,
        grouped, marker, extensions, events) FROM STDIN (FORMAT binary)";
    /// Notes the places of commits that were copied in.
    place_copies = "INSERT INTO {schema}.feed (position, stream, revision, number, places, lay)
        SELECT a.position, a.stream, a.revision, a.number, a.places, c.ctid
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
            a (position, stream, revision, number, places)
        JOIN {schema}.commits c ON c.stream = a.stream AND c.revision = a.revision AND c.number = a.number ORDER BY a.position";
    /// Has every commit that a copy asks for looked up by its index, until the transaction ends: a plan that was made when the
    /// tables were small would read them whole.
    look_up = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
        set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)";
    /// Takes numbers from the order of commits.
    take_order = "SELECT nextval('{schema}.order_of_commits')";

    /// The identity that the store was made with, and the one that it has.
    identity = "SELECT s.system_identifier, s.timeline, s.commits_oid::bigint,
            (SELECT system_identifier FROM pg_control_system()),
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer,
            '{schema}.commits'::regclass::oid::bigint,
            pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(q.snapshot), s.meta, q.position
        FROM {schema}.store s CROSS JOIN {schema}.sequencer q";
    /// Notes the identity of the history that begins now.
    put_identity = "UPDATE {schema}.store SET meta = $1, system_identifier = (SELECT system_identifier FROM pg_control_system()),
        timeline = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer,
        commits_oid = '{schema}.commits'::regclass";
    /// After a dump was restored: positions for what the dump had and the feed had not, and transaction ids that rise on.
    sequence_restored = "WITH fresh AS (
            SELECT c.stream, c.revision, c.number, greatest(c.count, 1) AS places, c.ctid AS lay,
                sum(greatest(c.count, 1)) OVER (ORDER BY c.ordering) AS upto
            FROM {schema}.commits c WHERE c.xid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {schema}.feed f
                WHERE f.stream = c.stream AND f.revision = c.revision AND f.number = c.number)
        ), fed AS (
            INSERT INTO {schema}.feed (position, stream, revision, number, places, lay)
            SELECT q.position + upto - places + 1, stream, revision, number, places, lay FROM fresh CROSS JOIN {schema}.sequencer q
        ), biased AS (
            UPDATE {schema}.store SET xid_bias = coalesce((SELECT max(xid) FROM {schema}.commits), 0)
        )
        UPDATE {schema}.sequencer SET snapshot = pg_current_snapshot(),
            position = position + coalesce((SELECT max(upto) FROM fresh), 0)";

    /// Who keeps a sequencer step from being made: sessions that hold its lock for longer than a step takes.
    sequencer_held = "SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
            extract(epoch FROM clock_timestamp() - a.xact_start)::bigint
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.classid = '{schema}.commits'::regclass::oid AND a.xact_start < clock_timestamp() - interval '5 seconds'
        ORDER BY a.xact_start LIMIT 5";
    /// Transactions of appends that are open for longer than an append takes: they hold the fence from the writers' side.
    appends_open = "SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
            extract(epoch FROM clock_timestamp() - a.xact_start)::bigint
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid = 0
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.classid = '{schema}.commits'::regclass::oid AND a.xact_start < clock_timestamp() - interval '5 seconds'
        ORDER BY a.xact_start LIMIT 5";
    /// The oldest snapshot of the cluster that keeps dead rows from being cleaned away, where it is old; and prepared orphans.
    oldest_snapshot = "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(a.xact_start)), 0)::bigint,
            (SELECT count(*) FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '5 minutes')
        FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)";

    /// Whether there is a schema, as far as these credentials see.
    has_schema = "SELECT to_regclass('{schema}.commits') IS NOT NULL AND to_regprocedure('{schema}.unsequenced()') IS NOT NULL";
    /// What the server says of itself.
    server = "SELECT version(), current_setting('fsync'), current_setting('full_page_writes'),
        current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
        EXISTS (SELECT 1 FROM pg_proc WHERE proname = 'aurora_version'), pg_is_in_recovery()";
}
