//! What happens to servers while they are used: forgotten scripts, crashes, full memory, stalled replicas, failovers, slots
//! that move. `EVSTORE_TEST_REDIS_SERVER` is the path of the server that is started, `valkey-server` or `redis-server`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod server;

use evstore_api::capabilities::{Durability, Failover};
use evstore_api::{
    CommitId, CommitNumber, Content, Cursor, Deadline, Direction, ErrorKind, EventStore, FeedFilter, FeedStart,
    FindCommit, ReadCommits, ReadFeed, ReadHead, ReadStream, Revision, Severity, StreamStart, Truncate, WaitFeed,
};
use evstore_kit::floor::Put;
use server::proxy::Proxy;
use server::{Server, append, append_by, deadline, is_there, open, open_admin, settings, stream, text};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// The ids of all commits of the feed.
async fn feed(store: &Arc<dyn EventStore>) -> Vec<CommitId> {
    let (mut found, mut from) = (Vec::new(), FeedStart::First);
    loop {
        let (filter, deadline) = (FeedFilter::none(), deadline());
        let page =
            store.read_feed(ReadFeed { from, filter, limit: 1_000, max_bytes: u64::MAX, deadline }).await.unwrap();
        found.extend(page.commits().map(|commit| commit.id));
        if page.end {
            return found;
        }
        from = FeedStart::After(page.next);
    }
}

/// Appends by several callers until told to stop; what was acknowledged comes back, what was not is repeated until it is.
async fn append_meanwhile(store: &Arc<dyn EventStore>, callers: u64, until: Instant) -> Vec<(String, CommitId)> {
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let (name, mut acknowledged) = (format!("caller-{caller}"), Vec::new());
            while Instant::now() < until {
                let id = CommitId::generate();
                let begun = Instant::now();
                loop {
                    match append(&store, &name, id).await {
                        Ok(_) => break acknowledged.push((name.clone(), id)),
                        Err(error) if error.kind() == ErrorKind::HistoryLost => return acknowledged,
                        Err(error) => {
                            let passing = matches!(error.kind(), ErrorKind::Indeterminate | ErrorKind::Unavailable);
                            assert!(passing, "{error:?}");
                            assert!(begun.elapsed() < Duration::from_secs(30), "{error:?}");
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            }
            acknowledged
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

async fn all_are_there_once(store: &Arc<dyn EventStore>, acknowledged: &[(String, CommitId)]) {
    for (name, commit) in acknowledged {
        assert!(is_there(store, name, *commit).await, "an acknowledged commit is missing: {name} {commit}");
    }
    let mut fed = feed(store).await;
    let count = fed.len();
    fed.sort();
    fed.dedup();
    assert_eq!(fed.len(), count, "a commit stands twice in the feed");
    assert!(acknowledged.iter().all(|(_, commit)| fed.binary_search(commit).is_ok()), "the feed lacks a commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_script_is_sent_whole() {
    let server = Server::start(&[]).await;
    let store = open(&server.url(), &[]).await;
    let until = Instant::now() + Duration::from_millis(800);
    let flush = async {
        while Instant::now() < until {
            server.run(&["SCRIPT", "FLUSH", "SYNC"]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (acknowledged, ()) = tokio::join!(append_meanwhile(&store, 4, until), flush);
    assert!(acknowledged.len() > 50);
    let appended = feed(&store).await.len();
    assert_eq!(appended, acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_forgotten_among_confirmed_appends_is_sent_whole() {
    let primary = Server::start(DURABLE).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    let store = open(&primary.url(), &[("durability", "replicas"), ("replicas_timeout", "10s")]).await;
    let until = Instant::now() + Duration::from_millis(800);
    let flush = async {
        while Instant::now() < until {
            primary.run(&["SCRIPT", "FLUSH", "SYNC"]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (acknowledged, ()) = tokio::join!(append_meanwhile(&store, 8, until), flush);
    assert!(acknowledged.len() > 50);
    assert_eq!(feed(&store).await.len(), acknowledged.len());
    all_are_there_once(&store, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_indeterminate_and_the_commit_says_what_became_of_it() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port).await;
    let store = open(&format!("redis://127.0.0.1:{}", proxy.port), &[]).await;
    append(&store, "a-1", CommitId::generate()).await.unwrap();
    for round in 0..20 {
        for was_done in [false, true] {
            let id = CommitId::generate();
            if was_done {
                proxy.cut_answer()
            } else {
                proxy.cut_request()
            }
            assert_eq!(append(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Indeterminate, "round {round}");
            assert_eq!(is_there(&store, "a-1", id).await, was_done, "round {round}");
            assert_eq!(append(&store, "a-1", id).await.unwrap().repeated, was_done, "round {round}");
        }
    }
    assert_eq!(feed(&store).await.len(), 41, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_keeps_what_was_acknowledged() {
    let mut server = Server::start(DURABLE).await;
    let store = open(&server.url(), &[]).await;
    assert_eq!(store.capabilities().durability, Durability::PowerLoss);
    assert_eq!(store.capabilities().failover, Failover::None);
    let cursor = store.feed_head(deadline()).await.unwrap().cursor;
    let until = Instant::now() + Duration::from_millis(1500);
    let crash = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.restart().await;
        }
    };
    let (acknowledged, ()) = tokio::join!(append_meanwhile(&store, 8, until), crash);
    all_are_there_once(&store, &acknowledged).await;
    let now = store.feed_head(deadline()).await.unwrap().cursor;
    assert_eq!(now.incarnation(), cursor.incarnation(), "nothing was lost, so the history is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commits_that_are_gone_are_raised() {
    // With the store's record on disk and the appends not: what a power cut under `everysec` leaves.
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    let store = open(&server.url(), &[]).await;
    assert_eq!(store.capabilities().durability, Durability::ProcessCrash);
    assert_eq!(store.capabilities().failover, Failover::MayLoseAcknowledged);
    append(&store, "kept-1", CommitId::generate()).await.unwrap();
    let kept = store.feed_head(deadline()).await.unwrap().cursor;
    server.run(&["CONFIG", "SET", "appendonly", "no"]).await.unwrap();
    append(&store, "lost-1", CommitId::generate()).await.unwrap();
    let lost = store.feed_head(deadline()).await.unwrap().cursor;
    server.restart().await;

    let found = loop {
        match append(&store, "kept-1", CommitId::generate()).await {
            Err(error) if matches!(error.kind(), ErrorKind::Indeterminate | ErrorKind::Unavailable) => {}
            other => break other,
        }
    };
    assert_eq!(found.unwrap_err().kind(), ErrorKind::HistoryLost);

    // A consumer that was not there at the time: its cursor says so, and one from before the loss goes on.
    let again = open(&server.url(), &[]).await;
    append(&again, "kept-1", CommitId::generate()).await.unwrap();
    let after = |cursor| ReadFeed {
        from: FeedStart::After(cursor),
        filter: FeedFilter::none(),
        limit: 10,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    assert_eq!(again.read_feed(after(lost.clone())).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    let wait = WaitFeed { after: lost, deadline: deadline() };
    assert_eq!(again.wait_feed(wait).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    assert_eq!(again.read_feed(after(kept)).await.unwrap().commits().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_lost_commits_stops_those_who_read_them() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    let parts = [("partitions", "2")];
    let store = open(&server.url(), &parts).await;
    for name in 0..20 {
        append(&store, &format!("kept-{name}"), CommitId::generate()).await.unwrap();
    }
    let kept = store.feed_head(deadline()).await.unwrap().cursor;
    server.run(&["CONFIG", "SET", "appendonly", "no"]).await.unwrap();
    append(&store, "lost-1", CommitId::generate()).await.unwrap();
    let lost = store.feed_head(deadline()).await.unwrap().cursor;
    server.restart().await;

    // Enough that both partitions are beyond what was lost: without a history of its own nobody could tell.
    let again = open(&server.url(), &parts).await;
    for name in 0..20 {
        append(&again, &format!("kept-{name}"), CommitId::generate()).await.unwrap();
    }
    let after = |cursor: &Cursor| ReadFeed {
        from: FeedStart::After(cursor.clone()),
        filter: FeedFilter::none(),
        limit: 100,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    assert_eq!(again.read_feed(after(&lost)).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    let wait = WaitFeed { after: lost, deadline: deadline() };
    assert_eq!(again.wait_feed(wait).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    let page = again.read_feed(after(&kept)).await.unwrap();
    assert_eq!(page.commits().count(), 20);
    assert_eq!(again.read_feed(after(&page.next)).await.unwrap().commits().count(), 0);
}

/// Commits of a stream that is too long to be cut by one script.
const LONG: u64 = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_is_cut_piece_by_piece() {
    let server = Server::start(&[]).await;
    let store = open(&server.url(), &[]).await;
    for _ in 0..LONG / 100 {
        let appends = (0..100).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { append(&store, "long-1", CommitId::generate()).await.unwrap() })
        });
        for appended in appends.collect::<Vec<_>>() {
            appended.await.unwrap();
        }
    }
    append(&store, "other-1", CommitId::generate()).await.unwrap();
    // The server knows the script by now: it is not sent twice.
    let other =
        Truncate { stream: stream("other-1"), commit: CommitId::generate(), before: Revision(2), deadline: deadline() };
    open_admin(&server.url(), &[]).await.truncate(other).await.unwrap();

    // The answer to the marker does not come back, so that nothing goes on with the cutting.
    let proxy = Proxy::start(server.port).await;
    let admin = open_admin(&format!("redis://127.0.0.1:{}", proxy.port), &[]).await;
    admin.read_meta(deadline()).await.unwrap();
    let before = Revision(LONG - 9);
    let truncate = Truncate { stream: stream("long-1"), commit: CommitId::generate(), before, deadline: deadline() };
    proxy.cut_answer();
    assert_eq!(admin.truncate(truncate.clone()).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    let cutting = || async { text(&server.run(&["HGET", "{evs:main:0}:meta", "cutting"]).await.unwrap()) };
    assert_eq!(cutting().await, "1");
    let looked = async || {
        let head = store.head(ReadHead { stream: stream("long-1"), deadline: deadline() }).await.unwrap();
        assert_eq!(head.first_retained, before);
        for (from, direction) in [(StreamStart::First, Direction::Forward), (StreamStart::Last, Direction::Backward)] {
            let (limit, max_bytes) = (100, u64::MAX);
            let request =
                ReadStream { stream: stream("long-1"), from, direction, limit, max_bytes, deadline: deadline() };
            assert_eq!(store.read_stream(request).await.unwrap().events().count(), 10);
        }
        let request = FeedFilter::none();
        let (mut from, mut events) = (FeedStart::First, 0);
        loop {
            let (filter, deadline) = (request.clone(), deadline());
            let page =
                store.read_feed(ReadFeed { from, filter, limit: 1_000, max_bytes: u64::MAX, deadline }).await.unwrap();
            events += page.events().count();
            if page.end {
                break;
            }
            from = FeedStart::After(page.next);
        }
        assert_eq!(events, 10, "what was cut is not fed");
        let (from, limit, max_bytes) = (CommitNumber(LONG - 10), 3, u64::MAX);
        let request = ReadCommits { stream: stream("long-1"), from, limit, max_bytes, deadline: deadline() };
        let commits = admin.read_commits(request).await.unwrap().commits;
        let kept: Vec<_> = commits.iter().map(|commit| commit.content == Content::Kept).collect();
        assert_eq!(kept, [false, true, true]);
    };
    looked().await;
    let bytes =
        async || text(&server.run(&["HSTRLEN", "{evs:main:0}:s::long-1", "2000"]).await.unwrap()).parse::<u64>();
    let whole = bytes().await.unwrap();
    assert!(admin.truncate(truncate.clone()).await.unwrap().marker.repeated);
    assert!(bytes().await.unwrap() < whole);
    assert_eq!(cutting().await, "0");
    looked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_makes_room() {
    let server = Server::start(&[]).await;
    let (store, admin) = (open(&server.url(), &[]).await, open_admin(&server.url(), &[]).await);
    for _ in 0..3 {
        append(&store, "a-1", CommitId::generate()).await.unwrap();
    }
    server.run(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    assert_eq!(append(&store, "a-1", CommitId::generate()).await.unwrap_err().kind(), ErrorKind::Throttled);
    let (stream, commit) = (stream("a-1"), CommitId::generate());
    let truncated =
        admin.truncate(Truncate { stream, commit, before: Revision(4), deadline: deadline() }).await.unwrap();
    assert_eq!(truncated.first_retained, Revision(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_names_what_may_be_lost() {
    let primary = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    let worse = async |more: &[(&str, &str)]| {
        let admin = open_admin(&primary.url(), more).await;
        let found = admin.examine(deadline()).await.unwrap().into_iter();
        found.filter(|one| one.severity != Severity::Fine).map(|one| one.about).collect::<Vec<_>>()
    };
    assert_eq!(worse(&[]).await, ["durability", "memory"]);
    primary.run(&["CONFIG", "SET", "appendfsync", "always"]).await.unwrap();
    primary.run(&["CONFIG", "SET", "maxmemory", "1gb"]).await.unwrap();
    assert_eq!(worse(&[]).await, Vec::<&str>::new());
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    assert_eq!(worse(&[]).await, ["failover"]);
    assert_eq!(worse(&[("durability", "replicas")]).await, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_before_it_writes() {
    let server = Server::start(&[]).await;
    let store = open(&server.url(), &[]).await;
    append(&store, "a-1", CommitId::generate()).await.unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let id = CommitId::generate();
    assert_eq!(append(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert!(!is_there(&store, "a-1", id).await);
    assert_eq!(feed(&store).await.len(), 1);
    server.run(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    append(&store, "a-1", id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_less_than_wanted_is_refused() {
    let server = Server::start(&[]).await;
    let opener = evstore_redis::provider().opener;
    let refused = |durability: &'static str| {
        let (opener, settings) = (opener.clone(), settings(&server.url(), &[("durability", durability)]));
        async move { opener.open(&settings).await.unwrap_err() }
    };
    for durability in ["process-crash", "power-loss", "replicas"] {
        assert_eq!(refused(durability).await.kind(), ErrorKind::Invalid);
    }
    server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let error = refused("server").await;
    assert!(error.to_string().contains("noeviction"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_config_durability_has_to_be_said() {
    let server = Server::start(&[]).await;
    // The least that a role needs, but for `config|get`.
    let allowed = ["+@read", "+@write", "+@scripting", "+@connection", "+info", "+wait"];
    let rules = ["ACL", "SETUSER", "app", "on", ">secret", "~{evs:*", "-@all"];
    server.run(&[rules.as_slice(), &allowed].concat()).await.unwrap();
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port);
    let opener = evstore_redis::provider().opener;
    let error = opener.open(&settings(&url, &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(!format!("{error:?}").contains("secret"));
    let store = open(&url, &[("durability", "memory")]).await;
    append(&store, "a-1", CommitId::generate()).await.unwrap();
    server.run(&["ACL", "SETUSER", "app", "+config|get"]).await.unwrap();
    assert_eq!(open(&url, &[]).await.capabilities().durability, Durability::Memory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_replica_leaves_a_commit_unconfirmed_and_unfed() {
    let primary = Server::start(DURABLE).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    let store = open(&primary.url(), &[("durability", "replicas"), ("replicas_timeout", "200ms")]).await;
    assert_eq!(store.capabilities().durability, Durability::ReplicaQuorum);
    let id = CommitId::generate();
    // The first confirmation of a replica that is busy may come late.
    let (first, begun) = (CommitId::generate(), Instant::now());
    while let Err(error) = append(&store, "a-1", first).await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{error:?}");
    }
    replica.signal("-STOP");
    assert_eq!(append(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert_eq!(append(&store, "a-1", id).await.unwrap_err().kind(), ErrorKind::Indeterminate, "a repeat is no better");
    assert_eq!(feed(&store).await.len(), 1);
    replica.signal("-CONT");
    let again = append(&store, "a-1", id).await.unwrap();
    assert!(again.repeated);
    assert_eq!(feed(&store).await.len(), 2);
}

/// What several callers were acknowledged, until it is more than a few: a replica that is busy confirms late.
async fn append_some(store: &Arc<dyn EventStore>) -> Vec<(String, CommitId)> {
    let (begun, mut all) = (Instant::now(), Vec::new());
    while all.len() <= 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", all.len());
        all.extend(append_meanwhile(store, 4, Instant::now() + Duration::from_millis(800)).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_behind_sentinel_keeps_what_replicas_confirmed() {
    let mut primary = Server::start(DURABLE).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    let sentinel = Server::sentinel(primary.port).await;
    sentinel.until(&["SENTINEL", "REPLICAS", "main"], &replica.port.to_string()).await;
    let more = [("topology", "sentinel"), ("sentinel_primary", "main"), ("durability", "replicas")];
    let store = open(&sentinel.url(), &more).await;
    let cursor = store.feed_head(deadline()).await.unwrap().cursor;
    let confirmed = append_some(&store).await;
    primary.kill();
    let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
    sentinel.until(&named, &replica.port.to_string()).await;
    // Nobody confirms any more: the promoted one has no replica yet.
    let unconfirmed = append_by(&store, "late-1", CommitId::generate(), Deadline::within(Duration::from_secs(4))).await;
    assert_eq!(unconfirmed.unwrap_err().kind(), ErrorKind::Indeterminate);
    for (name, commit) in &confirmed {
        assert!(is_there(&store, name, *commit).await, "a confirmed commit is missing");
    }
    let admin = open_admin(&replica.url(), &[]).await;
    let meta = admin.read_meta(deadline()).await.unwrap();
    assert_eq!(meta.lineage.len(), 2, "another primary, another history");
    assert_ne!(meta.incarnation(), cursor.incarnation());
    assert_eq!(meta.position_of(&cursor).unwrap().0, 0, "what was kept is good for cursors of before");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_behind_a_sentinel_is_that_of_the_primary() {
    let primary = Server::start(DURABLE).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    let sentinel = Server::sentinel(primary.port).await;
    sentinel.until(&["SENTINEL", "REPLICAS", "main"], &replica.port.to_string()).await;
    let more = [("topology", "sentinel"), ("sentinel_primary", "main")];
    let store = open(&sentinel.url(), &more).await;
    let bare = evstore_redis::floor::floor().connect(&settings(&sentinel.url(), &more)).await.unwrap();
    let put = Put { stream: 1, slot: 1, count: 1, id: CommitId::generate(), events: b"events".to_vec().into() };
    bare.append(put).await.unwrap();
    let request = ReadHead { stream: stream("order-1"), deadline: deadline() };
    let head = store.head(request).await.unwrap();
    assert_eq!(head.revision, Revision(1));
}

/// Two primaries that share all slots, without any tool beside the server.
async fn cluster() -> (Server, Server) {
    let clustered = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "yes"];
    let (one, two) = (Server::start(&clustered).await, Server::start(&clustered).await);
    one.run(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.unwrap();
    two.run(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]).await.unwrap();
    one.run(&["CLUSTER", "MEET", "127.0.0.1", &two.port.to_string()]).await.unwrap();
    for server in [&one, &two] {
        server.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        server.until(&["CLUSTER", "INFO"], "cluster_known_nodes:2").await;
    }
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed() {
    let (one, two) = cluster().await;
    let store = open(&one.url(), &[("topology", "cluster")]).await;
    let slot = text(&one.run(&["CLUSTER", "KEYSLOT", "{evs:main:0}"]).await.unwrap());
    let (from, to) = (id(&one).await, id(&two).await);
    let until = Instant::now() + Duration::from_secs(2);
    let movement = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        two.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from]).await.unwrap();
        one.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to]).await.unwrap();
        loop {
            let keys = text(&one.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "3"]).await.unwrap());
            if keys.is_empty() {
                break;
            }
            for key in keys.split(' ') {
                let port = two.port.to_string();
                one.run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for server in [&two, &one] {
            server.run(&["CLUSTER", "SETSLOT", &slot, "NODE", &to]).await.unwrap();
        }
    };
    let (acknowledged, ()) = tokio::join!(append_meanwhile(&store, 4, until), movement);
    assert!(acknowledged.len() > 100);
    all_are_there_once(&store, &acknowledged).await;
    assert_eq!(text(&one.run(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await.unwrap()), "0");
}

async fn id(server: &Server) -> String {
    text(&server.run(&["CLUSTER", "MYID"]).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_a_cluster_keeps_what_replicas_confirmed() {
    let (mut one, two) = cluster().await;
    // The other one hands in nothing that it could keep: it has no slots, and becomes the replica.
    two.run(&["CLUSTER", "REPLICATE", &id(&one).await]).await.unwrap();
    two.until(&["INFO", "replication"], "master_link_status:up").await;
    let urls = format!("{},{}", one.url(), two.url());
    let more =
        [("topology", "cluster"), ("durability", "replicas"), ("replicas_timeout", "500ms"), ("partitions", "2")];
    let store = open(&urls, &more).await;
    let confirmed = append_some(&store).await;
    one.kill();
    // Nobody is left who could elect it.
    two.run(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await.unwrap();
    two.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
    for (name, commit) in &confirmed {
        let begun = Instant::now();
        loop {
            match store.find_commit(FindCommit { stream: stream(name), commit: *commit, deadline: deadline() }).await {
                Ok(found) => break assert!(found.is_some(), "a confirmed commit is missing"),
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error:?}"),
            }
        }
    }
    // Nobody confirms any more: the promoted one has no replica.
    let late = append_by(&store, "late-1", CommitId::generate(), Deadline::within(Duration::from_secs(4))).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Indeterminate);
}
