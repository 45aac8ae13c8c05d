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
    places bigint NOT NULL,
    -- Where the commit's row lay when it was numbered: looked at first, because neighbours in the feed are mostly neighbours
    -- there. The slot is what counts; a row that has moved since, or was restored, is found by that.
    lay tid
);

--; find the positions of a stream's commits
CREATE UNIQUE INDEX feed_slot ON {schema}.feed (stream, revision, number) INCLUDE (position);

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

--; make the streams of appends that may create them
CREATE OR REPLACE FUNCTION {schema}.make_streams(
    turn integer, round integer[], namespace text[], name text[], category text[], expected bigint[]
) RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = {schema}, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    -- Under the locks of these streams: nobody else makes them.
    INSERT INTO streams (namespace, name, category)
    SELECT a.namespace, a.name, a.category
    FROM unnest(round, namespace, name, category, expected) a (round, namespace, name, category, expected)
    CROSS JOIN store
    LEFT JOIN LATERAL (
        SELECT key FROM streams WHERE streams.namespace = a.namespace AND streams.name = a.name
        AND streams.category = a.category OFFSET 0
    ) s ON true
    WHERE a.round = turn AND store.id = 1 AND a.expected IN (-1, 0) AND store.access = 0 AND s.key IS NULL;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION {schema}.make_streams FROM PUBLIC;

--; make the append of one, for when nothing else waits: what it writes, or nothing where the other has to say why not
CREATE OR REPLACE FUNCTION {schema}.append_one(
    now bigint, stream_lock bigint, namespace text, name text, category text,
    id uuid, digest uuid, lowest bigint, highest bigint, count bigint, events bytea
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = {schema}, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    written bigint[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appends run under read committed' USING ERRCODE = 'feature_not_supported';
    END IF;
    -- As in `append`, whose reasons these are.
    IF pg_advisory_xact_lock_shared('commits'::regclass::oid::integer, 0) IS NULL THEN END IF;
    IF pg_advisory_xact_lock(stream_lock) IS NULL THEN END IF;
    INSERT INTO commits AS c (stream, number, revision, recorded_at, xid, ordering, count, id, digest, events)
    SELECT s.key, h.number + 1, h.next, greatest(now, h.recorded_at),
        store.xid_bias + pg_current_xact_id()::text::bigint, nextval('order_of_commits'), count, id, digest, events
    FROM store
    CROSS JOIN LATERAL (
        SELECT t.key FROM streams t WHERE t.namespace = namespace AND t.name = name AND t.category = category OFFSET 0
    ) s
    CROSS JOIN LATERAL (
        SELECT l.number, l.revision + l.count AS next, l.recorded_at, l.kind FROM commits l WHERE l.stream = s.key
        ORDER BY l.revision DESC, l.number DESC LIMIT 1
    ) h
    WHERE store.id = 1 AND store.access < 2 AND h.kind NOT IN (2, 3) AND h.next BETWEEN lowest AND highest
        AND h.number < 9007199254740991
        AND NOT EXISTS (
            SELECT FROM (
                SELECT FROM commits f WHERE (f.stream, f.id) BETWEEN (s.key, id) AND (s.key, id)
                ORDER BY f.stream, f.id LIMIT 1
            ) same
        )
    RETURNING ARRAY[c.number, c.revision, c.recorded_at] INTO written;
    RETURN written;
END
$$;
REVOKE ALL ON FUNCTION {schema}.append_one FROM PUBLIC;

--; make the append of several in different streams: what it writes, while the other has to say why not
CREATE OR REPLACE FUNCTION {schema}.append_many(
    now bigint, locks bigint[], namespace text[], name text[], category text[],
    id uuid[], digest uuid[], lowest bigint[], highest bigint[], count bigint[], events bytea[]
) RETURNS TABLE (written uuid, at_number bigint, at_revision bigint, taken_at bigint) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = {schema}, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    stream_lock bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appends run under read committed' USING ERRCODE = 'feature_not_supported';
    END IF;
    -- As in `append`, whose reasons these are.
    IF pg_advisory_xact_lock_shared('commits'::regclass::oid::integer, 0) IS NULL THEN END IF;
    FOREACH stream_lock IN ARRAY locks LOOP
        IF pg_advisory_xact_lock(stream_lock) IS NULL THEN END IF;
    END LOOP;
    RETURN QUERY
    INSERT INTO commits AS c (stream, number, revision, recorded_at, xid, ordering, count, id, digest, events)
    SELECT s.key, h.number + 1, h.next, greatest(now, h.recorded_at),
        store.xid_bias + pg_current_xact_id()::text::bigint, nextval('order_of_commits'), a.count, a.id, a.digest, a.events
    FROM unnest(namespace, name, category, id, digest, lowest, highest, count, events)
        a (namespace, name, category, id, digest, lowest, highest, count, events)
    CROSS JOIN store
    CROSS JOIN LATERAL (
        SELECT t.key FROM streams t WHERE t.namespace = a.namespace AND t.name = a.name AND t.category = a.category OFFSET 0
    ) s
    CROSS JOIN LATERAL (
        SELECT l.number, l.revision + l.count AS next, l.recorded_at, l.kind FROM commits l WHERE l.stream = s.key
        ORDER BY l.revision DESC, l.number DESC LIMIT 1
    ) h
    WHERE store.id = 1 AND store.access < 2 AND h.kind NOT IN (2, 3) AND h.next BETWEEN a.lowest AND a.highest
        AND h.number < 9007199254740991
        AND NOT EXISTS (
            SELECT FROM (
                SELECT FROM commits f WHERE (f.stream, f.id) BETWEEN (s.key, a.id) AND (s.key, a.id)
                ORDER BY f.stream, f.id LIMIT 1
            ) same
        )
    RETURNING c.digest, c.number, c.revision, c.recorded_at;
END
$$;
REVOKE ALL ON FUNCTION {schema}.append_many FROM PUBLIC;

--; make the append: a batch, each with its own verdict, in one round trip
CREATE OR REPLACE FUNCTION {schema}.append(
    now bigint, locks bigint[], sizes integer[],
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
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    fence CONSTANT integer := 'commits'::regclass::oid::integer;
    stream_lock bigint;
    makes CONSTANT boolean := -1 = ANY (expected);
    -- Whether missing streams were made in this turn, as far as they may be.
    tried boolean;
    -- Commits of this turn are numbered above it.
    began bigint := 0;
    missing integer;
    more integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appends run under read committed' USING ERRCODE = 'feature_not_supported';
    END IF;
    -- The fence first, then the streams in one order for all, before anything takes a transaction id. As expressions, because a
    -- statement for each would cost more than the lock.
    IF pg_advisory_xact_lock_shared(fence, 0) IS NULL THEN END IF;
    FOREACH stream_lock IN ARRAY locks LOOP
        IF pg_advisory_xact_lock(stream_lock) IS NULL THEN END IF;
    END LOOP;
    -- Only statements that begin now see what the locks were waited for. Each lookup can be made by nothing but the index that is
    -- meant for it, or asks for an order that only this one gives: a plan that was made when tables were small, or from statistics
    -- of another day, is the same plan.
    FOR turn IN 1..cardinality(sizes) LOOP
        missing := sizes[turn];
        IF turn > 1 THEN
            began := nextval('order_of_commits');
        END IF;
        -- Where streams are expected to be new they are made first; where they only may be, once an append went without.
        tried := 0 = ANY (expected);
        IF tried AND make_streams(turn, round, namespace, name, category, expected) THEN END IF;
        LOOP
            RETURN QUERY
            INSERT INTO commits (stream, number, revision, recorded_at, xid, ordering, count, id, digest, events)
            SELECT s.key, coalesce(h.number, 0) + 1, coalesce(h.next, 1), greatest(now, h.recorded_at),
                store.xid_bias + pg_current_xact_id()::text::bigint, nextval('order_of_commits'), a.count, a.id, a.digest, a.events
            FROM unnest(round, namespace, name, category, id, digest, expected, count, events)
                a (round, namespace, name, category, id, digest, expected, count, events)
            CROSS JOIN store
            CROSS JOIN LATERAL (
                SELECT key FROM streams WHERE streams.namespace = a.namespace AND streams.name = a.name
                AND streams.category = a.category OFFSET 0
            ) s
            LEFT JOIN LATERAL (
                SELECT number, revision + count AS next, recorded_at, kind FROM commits WHERE commits.stream = s.key
                ORDER BY commits.revision DESC, commits.number DESC LIMIT 1
            ) h ON true
            LEFT JOIN LATERAL (
                SELECT id FROM commits WHERE (commits.stream, commits.id) BETWEEN (s.key, a.id) AND (s.key, a.id)
                ORDER BY commits.stream, commits.id LIMIT 1
            ) f ON true
            WHERE a.round = turn AND store.id = 1 AND f.id IS NULL
                AND (store.access = 0 OR store.access = 1 AND h.number IS NOT NULL)
                AND coalesce(h.kind, 0) NOT IN (2, 3)
                AND CASE a.expected WHEN -1 THEN true WHEN -2 THEN coalesce(h.next, 1) > 1
                    ELSE a.expected = coalesce(h.next, 1) - 1 END
                AND coalesce(h.next, 1) - 1 + a.count < 9007199254740991
                AND coalesce(h.number, 0) < 9007199254740991
            RETURNING NULL::bigint, commits.number, commits.revision, commits.recorded_at, NULL::smallint, NULL::bytea,
                NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::uuid, NULL::bytea, NULL::bigint, NULL::bigint,
                NULL::bigint, NULL::bigint, NULL::bigint, commits.digest, NULL::bigint;
            GET DIAGNOSTICS more = ROW_COUNT;
            missing := missing - more;
            EXIT WHEN missing = 0 OR tried OR NOT makes;
            tried := true;
            EXIT WHEN NOT make_streams(turn, round, namespace, name, category, expected);
        END LOOP;
        CONTINUE WHEN missing = 0;
        -- What was found of those that were not written. Why that is a refusal is for the client to say.
        RETURN QUERY
        SELECT a.ordinal, NULL::bigint, NULL::bigint, NULL::bigint, store.access, store.meta, s.first_retained,
            h.number, h.revision + h.count - 1, h.recorded_at, h.id, h.marker, h.imported,
            f.number, f.revision, f.count, f.recorded_at, f.digest, p.position
        FROM unnest(round, namespace, name, category, id) WITH ORDINALITY a (round, namespace, name, category, id, ordinal)
        CROSS JOIN store
        LEFT JOIN LATERAL (
            SELECT * FROM streams WHERE streams.namespace = a.namespace AND streams.name = a.name
            AND streams.category = a.category OFFSET 0
        ) s ON true
        LEFT JOIN LATERAL (
            SELECT * FROM commits WHERE commits.stream = s.key ORDER BY commits.revision DESC, commits.number DESC LIMIT 1
        ) h ON true
        LEFT JOIN LATERAL (
            SELECT * FROM commits WHERE (commits.stream, commits.id) BETWEEN (s.key, a.id) AND (s.key, a.id)
            ORDER BY commits.stream, commits.id LIMIT 1
        ) f ON true
        LEFT JOIN LATERAL (
            SELECT position FROM feed WHERE feed.stream = s.key AND feed.revision = f.revision AND feed.number = f.number OFFSET 0
        ) p ON true
        WHERE a.round = turn AND store.id = 1 AND NOT coalesce(
            f.ordering > began AND f.xid = store.xid_bias + pg_current_xact_id_if_assigned()::text::bigint, false);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION {schema}.append FROM PUBLIC;

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
    -- Near the last position there may be some without one. What fits takes them; what does not stays new, and is waited for in
    -- vain: the feed is behind for ever, and says so.
    WITH fresh AS MATERIALIZED (
        SELECT c.stream, c.revision, c.number, greatest(c.count, 1) AS places, c.lay,
            sum(greatest(c.count, 1)) OVER (ORDER BY c.ordering) AS upto
        FROM (
            SELECT *, ctid AS lay FROM commits WHERE xid >= bias + pg_snapshot_xmax(before)::text::bigint
            UNION ALL
            SELECT l.* FROM pg_snapshot_xip(before) running
            CROSS JOIN LATERAL (SELECT *, ctid AS lay FROM commits WHERE xid = bias + running::text::bigint OFFSET 0) l
        ) c
        WHERE last <= 9007199254740991 - (1::bigint << 40) OR NOT EXISTS (
            SELECT FROM feed f WHERE f.stream = c.stream AND f.revision = c.revision AND f.number = c.number
        )
    ), fed AS (
        INSERT INTO feed (position, stream, revision, number, places, lay)
        SELECT last + upto - places + 1, stream, revision, number, places, lay FROM fresh
        WHERE last + upto <= 9007199254740991 ORDER BY upto
    ), kept AS (
        UPDATE sequencer s SET position = last + t.fits,
            snapshot = CASE WHEN t.fits = t.total THEN pg_current_snapshot() ELSE s.snapshot END
        FROM (SELECT max(upto) AS total, max(upto) FILTER (WHERE last + upto <= 9007199254740991) AS fits FROM fresh) t
        WHERE t.fits IS NOT NULL
        RETURNING t.fits
    )
    SELECT coalesce(sum(fits), 0) INTO moved FROM kept;
    end_position := last + moved;
    outcome := 'done';
END
$$;
REVOKE ALL ON FUNCTION {schema}.sequence_commits FROM PUBLIC;

--; tell what the sequencer has not seen yet, and since when the oldest of it waits
CREATE OR REPLACE FUNCTION {schema}.unsequenced(OUT commits bigint, OUT oldest bigint)
LANGUAGE plpgsql STABLE
SET search_path = {schema}, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    SELECT count(*), min(c.recorded_at) INTO commits, oldest
    FROM (SELECT s.snapshot, s.position, store.xid_bias AS bias FROM sequencer s CROSS JOIN store) q
    CROSS JOIN LATERAL (
        SELECT l.stream, l.revision, l.number, l.recorded_at FROM commits l WHERE l.xid >= q.bias + pg_snapshot_xmax(q.snapshot)::text::bigint
        UNION ALL
        SELECT l.* FROM pg_snapshot_xip(q.snapshot) running CROSS JOIN LATERAL (
            SELECT m.stream, m.revision, m.number, m.recorded_at FROM commits m
            WHERE m.xid = q.bias + running::text::bigint OFFSET 0
        ) l
    ) c
    -- Near the last position a step may have numbered a part of what is new.
    WHERE q.position <= 9007199254740991 - (1::bigint << 40) OR NOT EXISTS (
        SELECT FROM feed f WHERE f.stream = c.stream AND f.revision = c.revision AND f.number = c.number
    );
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
