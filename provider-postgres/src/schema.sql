--; make the schema
CREATE SCHEMA {schema};

--; make the store's own record: who may write, the identity that it was made with, and how far the feed goes
CREATE TABLE {schema}.store (
    id smallint PRIMARY KEY CHECK (id = 1),
    meta bytea NOT NULL,
    -- 0 takes appends, 1 takes them to streams that are there, 2 takes none: what `meta` says, for the append function.
    access smallint NOT NULL,
    system_identifier bigint NOT NULL,
    timeline integer NOT NULL,
    commits_oid oid NOT NULL,
    -- Added to transaction ids, so that those of a restored store, whose server counts from a start of its own, still rise.
    xid_bias bigint NOT NULL DEFAULT 0
);

--; make the state of the sequencer: what it saw last, and the last position that it gave
CREATE TABLE {schema}.sequencer (
    id smallint PRIMARY KEY CHECK (id = 1),
    snapshot pg_snapshot NOT NULL,
    position bigint NOT NULL
);

--; make the streams
CREATE TABLE {schema}.streams (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_retained bigint NOT NULL DEFAULT 1,
    namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    category text COLLATE "C" NOT NULL
);

--; find a stream by its name, and keep names apart
CREATE UNIQUE INDEX streams_name ON {schema}.streams (namespace, name);

--; list the streams of a category
CREATE INDEX streams_category ON {schema}.streams (category, namespace, name);

--; make the numbers that order commits of one sequencer step
CREATE SEQUENCE {schema}.order_of_commits CACHE 1;

--; make the commits; rows of up to a page stay in one piece, because most commits are small and read whole
CREATE TABLE {schema}.commits (
    stream bigint NOT NULL,
    number bigint NOT NULL,
    revision bigint NOT NULL,
    recorded_at bigint NOT NULL,
    -- The transaction that wrote it, for the sequencer. NULL where a copy brought its position along.
    xid bigint,
    ordering bigint NOT NULL,
    count bigint NOT NULL,
    kind smallint NOT NULL DEFAULT 0,
    id uuid NOT NULL,
    digest uuid NOT NULL,
    imported bigint,
    grouped uuid,
    marker bytea,
    extensions bytea,
    events bytea
) WITH (toast_tuple_target = 8160);

--; decide every race: one commit in a slot
CREATE UNIQUE INDEX commits_slot ON {schema}.commits (stream, revision, number);

--; recognise a repeated commit for ever
CREATE UNIQUE INDEX commits_id ON {schema}.commits (stream, id);

--; find what a sequencer step has not seen
CREATE INDEX commits_xid ON {schema}.commits (xid);

--; make the feed: the position of a commit's first event, filled by the sequencer
CREATE TABLE {schema}.feed (
    position bigint PRIMARY KEY,
    stream bigint NOT NULL,
    revision bigint NOT NULL,
    number bigint NOT NULL,
    places bigint NOT NULL
);

--; find the position of a commit
CREATE UNIQUE INDEX feed_slot ON {schema}.feed (stream, revision, number);

--; make the ranges of positions without content
CREATE TABLE {schema}.removed (
    first bigint PRIMARY KEY,
    last bigint NOT NULL
);

--; make the snapshots
CREATE TABLE {schema}.snapshots (
    stream bigint PRIMARY KEY,
    revision bigint NOT NULL,
    number bigint NOT NULL,
    taken_at bigint NOT NULL,
    schema bigint NOT NULL,
    checksum bigint NOT NULL,
    id uuid NOT NULL,
    content_type text NOT NULL,
    data bytea NOT NULL
);

--; make the small records
CREATE TABLE {schema}.records (
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    epoch bigint NOT NULL,
    updated_at bigint NOT NULL,
    checksum bigint NOT NULL,
    value bytea,
    PRIMARY KEY (kind, name)
);

--; make the append: a batch, each with its own verdict, in one round trip
CREATE OR REPLACE FUNCTION {schema}.append(
    now bigint, locks bigint[], rounds integer,
    round integer[], namespace text[], name text[], category text[],
    id uuid[], digest uuid[], expected bigint[], count bigint[], events bytea[]
) RETURNS TABLE (
    ordinal bigint, written bigint, first bigint, taken_at bigint, access smallint, meta bytea, first_retained bigint,
    head_number bigint, head_revision bigint, head_at bigint, head_id uuid, head_marker bytea, head_imported bigint,
    found_number bigint, found_revision bigint, found_count bigint, found_at bigint, found_digest uuid, found_position bigint
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = {schema}, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appends run under read committed' USING ERRCODE = 'feature_not_supported';
    END IF;
    -- The fence first, then the streams in one order for all, before anything takes a transaction id.
    PERFORM pg_advisory_xact_lock_shared('commits'::regclass::oid::integer, 0);
    PERFORM pg_advisory_xact_lock(lock) FROM unnest(locks) lock;
    -- Only statements that begin now see what the locks were waited for.
    FOR turn IN 1..rounds LOOP
        RETURN QUERY
        WITH asked AS MATERIALIZED (
            SELECT a.*, st.key, st.first_retained, store.access, store.meta, store.xid_bias,
                h.number AS head_number, h.revision + h.count - 1 AS head_revision, h.recorded_at AS head_at, h.id AS head_id,
                h.kind AS head_kind, h.marker AS head_marker, h.imported AS head_imported,
                f.number AS found_number, f.revision AS found_revision, f.count AS found_count, f.recorded_at AS found_at,
                f.digest AS found_digest
            FROM unnest(round, namespace, name, category, id, digest, expected, count, events) WITH ORDINALITY
                a (round, namespace, name, category, id, digest, expected, count, events, ordinal)
            CROSS JOIN store
            LEFT JOIN streams st ON st.namespace = a.namespace AND st.name = a.name
            LEFT JOIN LATERAL (
                SELECT * FROM commits c WHERE c.stream = st.key ORDER BY c.revision DESC, c.number DESC LIMIT 1
            ) h ON true
            LEFT JOIN commits f ON f.stream = st.key AND f.id = a.id
            WHERE a.round = turn
        ), made AS (
            INSERT INTO streams (namespace, name, category)
            SELECT a.namespace, a.name, a.category FROM asked a
            WHERE a.key IS NULL AND a.access = 0 AND a.expected IN (-1, 0)
            RETURNING streams.key, streams.namespace, streams.name
        ), wrote AS (
            INSERT INTO commits (stream, number, revision, recorded_at, xid, ordering, count, id, digest, events)
            SELECT coalesce(a.key, m.key), coalesce(a.head_number, 0) + 1, coalesce(a.head_revision, 0) + 1,
                greatest(now, a.head_at), a.xid_bias + pg_current_xact_id()::text::bigint, nextval('order_of_commits'), a.count, a.id, a.digest, a.events
            FROM asked a LEFT JOIN made m ON m.namespace = a.namespace AND m.name = a.name
            WHERE a.found_number IS NULL
                AND (a.access = 0 OR a.access = 1 AND a.head_number IS NOT NULL)
                AND coalesce(a.head_kind, 0) NOT IN (2, 3)
                AND CASE a.expected WHEN -1 THEN true WHEN -2 THEN coalesce(a.head_revision, 0) > 0
                    ELSE a.expected = coalesce(a.head_revision, 0) END
                AND coalesce(a.head_revision, 0) + a.count < 9007199254740991
                AND coalesce(a.head_number, 0) < 9007199254740991
            RETURNING commits.stream, commits.id, commits.number, commits.revision, commits.recorded_at
        )
        SELECT a.ordinal, w.number, w.revision, w.recorded_at, a.access, CASE WHEN w.number IS NULL THEN a.meta END,
            a.first_retained,
            a.head_number, a.head_revision, a.head_at, a.head_id, a.head_marker, a.head_imported,
            a.found_number, a.found_revision, a.found_count, a.found_at, a.found_digest, p.position
        FROM asked a
        LEFT JOIN made m ON m.namespace = a.namespace AND m.name = a.name
        LEFT JOIN wrote w ON w.stream = coalesce(a.key, m.key) AND w.id = a.id
        LEFT JOIN feed p ON p.stream = a.key AND p.revision = a.found_revision AND p.number = a.found_number;
    END LOOP;
END
$$;

--; make the sequencer: what became visible since the step before takes the next positions
CREATE OR REPLACE FUNCTION {schema}.sequence_commits(OUT outcome text, OUT end_position bigint, OUT moved bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = {schema}, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    before pg_snapshot;
    last bigint;
    bias bigint;
BEGIN
    moved := 0;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the sequencer runs under read committed' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF NOT pg_try_advisory_xact_lock('commits'::regclass::oid::integer, 1) THEN
        outcome := 'busy';
        SELECT s.position INTO end_position FROM sequencer s;
        RETURN;
    END IF;
    -- Under the lock, in a statement of its own: it sees the step before.
    SELECT s.snapshot, s.position, store.xid_bias INTO before, last, bias FROM sequencer s CROSS JOIN store;
    end_position := last;
    IF EXISTS (SELECT 1 FROM store WHERE commits_oid <> 'commits'::regclass
            OR timeline <> ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer)
        OR pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(before)
    THEN
        -- Another history begins here: positions wait until somebody has said where the old one ended.
        outcome := 'moved';
        RETURN;
    END IF;
    -- One statement: its snapshot is the one that is kept, and everything that it sees and the one before did not is new.
    WITH fresh AS MATERIALIZED (
        SELECT c.stream, c.revision, c.number, greatest(c.count, 1) AS places,
            sum(greatest(c.count, 1)) OVER (ORDER BY c.ordering) AS upto
        FROM (
            SELECT * FROM commits WHERE xid >= bias + pg_snapshot_xmax(before)::text::bigint
            UNION ALL
            SELECT l.* FROM pg_snapshot_xip(before) running
            CROSS JOIN LATERAL (SELECT * FROM commits WHERE xid = bias + running::text::bigint OFFSET 0) l
        ) c
    ), fed AS (
        INSERT INTO feed (position, stream, revision, number, places)
        SELECT last + upto - places + 1, stream, revision, number, places FROM fresh ORDER BY upto
    ), kept AS (
        UPDATE sequencer s SET snapshot = pg_current_snapshot(), position = last + t.total
        FROM (SELECT max(upto) AS total FROM fresh) t WHERE t.total IS NOT NULL
        RETURNING t.total
    )
    SELECT coalesce(sum(total), 0) INTO moved FROM kept;
    end_position := last + moved;
    outcome := 'done';
END
$$;

--; read events out of a commit's bytes, for the views
CREATE OR REPLACE FUNCTION {schema}.unpack_events(packed bytea)
RETURNS TABLE (ordinal integer, event_id uuid, type text, schema bigint, content_type text, occurred_at bigint,
    metadata bytea, data bytea)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    at integer := 1; -- the byte after the format number
    -- Fields in the order of the format; `value` holds the number read last.
    value bigint; shift integer; part integer; total bigint; flags integer; extensions bigint; step integer;
BEGIN
    IF get_byte(packed, 0) <> 1 THEN
        RAISE EXCEPTION 'events are of a format that these views do not know';
    END IF;
    value := 0; shift := 0;
    LOOP part := get_byte(packed, at); at := at + 1; value := value | ((part & 127)::bigint << shift); shift := shift + 7;
        EXIT WHEN part < 128; END LOOP;
    total := value;
    FOR n IN 0..total - 1 LOOP
        ordinal := n; event_id := NULL; occurred_at := NULL;
        flags := get_byte(packed, at);
        IF flags > 3 OR get_byte(packed, at + 1) <> 0 OR get_byte(packed, at + 2) <> 0 THEN
            RAISE EXCEPTION 'an event is encoded in a way that these views do not know';
        END IF;
        at := at + 3;
        IF flags & 1 = 1 THEN
            event_id := encode(substr(packed, at + 1, 16), 'hex')::uuid;
            at := at + 16;
        END IF;
        -- type, schema, content type, time, extensions, metadata, data
        FOR step IN 1..7 LOOP
            CONTINUE WHEN step = 4 AND flags & 2 = 0;
            value := 0; shift := 0;
            LOOP part := get_byte(packed, at); at := at + 1; value := value | ((part & 127)::bigint << shift);
                shift := shift + 7; EXIT WHEN part < 128; END LOOP;
            IF step = 1 THEN type := convert_from(substr(packed, at + 1, value::integer), 'UTF8'); at := at + value::integer;
            ELSIF step = 2 THEN schema := value;
            ELSIF step = 3 AND value = 1 THEN content_type := 'application/json';
            ELSIF step = 3 AND value = 2 THEN content_type := 'application/octet-stream';
            ELSIF step = 3 THEN
                value := 0; shift := 0;
                LOOP part := get_byte(packed, at); at := at + 1; value := value | ((part & 127)::bigint << shift);
                    shift := shift + 7; EXIT WHEN part < 128; END LOOP;
                content_type := convert_from(substr(packed, at + 1, value::integer), 'UTF8'); at := at + value::integer;
            ELSIF step = 4 THEN occurred_at := ((value >> 1) & 9223372036854775807) # -(value & 1);
            ELSIF step = 5 THEN
                extensions := value;
                WHILE extensions > 0 LOOP
                    LOOP part := get_byte(packed, at); at := at + 1; EXIT WHEN part < 128; END LOOP;
                    at := at + 1;
                    value := 0; shift := 0;
                    LOOP part := get_byte(packed, at); at := at + 1; value := value | ((part & 127)::bigint << shift);
                        shift := shift + 7; EXIT WHEN part < 128; END LOOP;
                    at := at + value::integer;
                    extensions := extensions - 1;
                END LOOP;
            ELSIF step = 6 THEN metadata := substr(packed, at + 1, value::integer); at := at + value::integer;
            ELSE data := substr(packed, at + 1, value::integer); at := at + value::integer;
            END IF;
        END LOOP;
        RETURN NEXT;
    END LOOP;
END
$$;

--; read bytes as JSON where they are JSON
CREATE OR REPLACE FUNCTION {schema}.as_json(bytes bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
    RETURN convert_from(bytes, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

--; show events to SQL, read-only: version 1 of the public surface
CREATE OR REPLACE VIEW {schema}.events AS
SELECT f.position + e.ordinal AS position, s.namespace, s.name AS stream, s.category, c.revision + e.ordinal AS revision,
    e.type, e.schema, e.content_type, e.data, e.metadata, e.event_id, c.id AS commit_id, c.number AS commit_number, e.ordinal,
    timestamptz 'epoch' + e.occurred_at * interval '1 microsecond' AS occurred_at,
    timestamptz 'epoch' + c.recorded_at * interval '1 microsecond' AS recorded_at
FROM {schema}.commits c
JOIN {schema}.streams s ON s.key = c.stream
LEFT JOIN {schema}.feed f ON f.stream = c.stream AND f.revision = c.revision AND f.number = c.number
CROSS JOIN LATERAL {schema}.unpack_events(c.events) e
WHERE c.kind = 0;

--; show events to SQL with their data as JSON, NULL where it is none
CREATE OR REPLACE VIEW {schema}.events_json AS
SELECT position, namespace, stream, category, revision, type, schema, content_type, {schema}.as_json(data) AS data,
    {schema}.as_json(metadata) AS metadata, event_id, commit_id, commit_number, ordinal, occurred_at, recorded_at
FROM {schema}.events;
