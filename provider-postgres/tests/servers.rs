//! What can happen to the server itself: killed under load, failed over to a standby that lacks commits, restored from a dump, cut off
//! in the middle of a call. Each test owns its clusters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod support;

use evstore_api::*;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::cluster::Cluster;
use support::proxy::{Proxy, Way};
use support::*;

const MAKE: (&str, &str) = ("auto_create", "true");

/// Appends under one id until the outcome is known.
async fn until_known(store: &Arc<dyn EventStore>, stream: &str, number: u64) -> Appended {
    loop {
        match store.append(request(stream, Expected::Any, number)).await {
            Ok(appended) => return appended,
            Err(error) => {
                use ErrorKind::{DeadlineExceeded, Indeterminate, Throttled, Unavailable};
                assert!(matches!(error.kind(), Indeterminate | Unavailable | Throttled | DeadlineExceeded), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Properties 84 and others: the postmaster dies under 16 writers, again and again, and comes back. What was acknowledged is there
/// once, in order, and the feed goes on without a hole, also for a reader that lived through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_keeps_what_it_acknowledged() {
    const WRITERS: u64 = 16;
    let mut cluster = Cluster::new();
    let settings = settings(&cluster.url(), "killed", &[MAKE]);
    let store = open(&settings).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, over) = (store.clone(), over.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let number = writer * 1_000_000 + acknowledged.len() as u64;
                    until_known(&store, &format!("busy-{}", number % 5), number).await;
                    acknowledged.push(id(number));
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.kill();
        cluster.start();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    over.store(true, Ordering::SeqCst);
    let mut acknowledged = HashSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() as u64 > WRITERS);
    let fed = whole_feed(&store).await.unwrap();
    assert_eq!(fed.len(), acknowledged.len(), "something is there twice, or is missing");
    assert_eq!(fed.into_iter().collect::<HashSet<_>>(), acknowledged);
    store.close().await.unwrap();
}

/// A real failover: the standby was cut off before the last commits were acknowledged, and is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_standby_that_lacks_commits_is_told() {
    let mut primary = Cluster::new();
    let proxy = Proxy::to(primary.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let settings = settings(&url, "failed_over", &[MAKE]);
    let store = open(&settings).await.unwrap();
    for number in 1..=5 {
        store.append(request("a-1", Expected::Any, number)).await.unwrap();
    }
    page(&store, FeedStart::First).await;
    let mut standby = primary.standby();
    primary.wait_for(&standby);
    standby.kill();
    for number in 6..=8 {
        store.append(request("a-1", Expected::Any, number)).await.unwrap();
    }
    let before = page(&store, FeedStart::First).await.next;
    assert_eq!(before.position(), Some(Position(8)));
    primary.kill();
    standby.start();
    standby.promote();
    proxy.lead_to(standby.port());
    // The same open handle goes on: first what it does not know of the connections that died, then with the other server.
    let appended = until_known(&store, "a-1", 9).await;
    assert_eq!(appended.last, Revision(6), "three commits are lost, as an asynchronous standby may");
    let after = page(&store, FeedStart::First).await;
    assert_ne!(after.next.incarnation(), before.incarnation(), "positions are used again, so the history is another");
    assert_eq!(after.next.position(), Some(Position(6)));
    let error = store.read_feed(feed_request(FeedStart::After(before.clone()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HistoryLost, "{error}");
    assert!(error.context().iter().any(|(name, value)| *name == "lost_after" && value == "5"), "{error}");
    let kept = Cursor::total(before.incarnation(), Position(5));
    let rest: Vec<_> = page(&store, FeedStart::After(kept)).await.commits().map(|commit| commit.id).collect();
    assert_eq!(rest, [id(9)]);
    store.close().await.unwrap();
}

/// A dump of a server that has counted far, restored into a fresh one that has not.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_elsewhere_goes_on_where_it_ended() {
    let source = Cluster::new();
    let at_source = settings(&source.url(), "dumped", &[MAKE]);
    let store = open(&at_source).await.unwrap();
    let burn = "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    source.psql(burn);
    for number in 1..=20 {
        store.append(request(&format!("a-{}", number % 3), Expected::Any, number)).await.unwrap();
    }
    let before = page(&store, FeedStart::First).await.next;
    // Acknowledged, and perhaps not in the feed when the dump is taken.
    store.append(request("a-0", Expected::Any, 21)).await.unwrap();
    let dump = source.dump("dumped");
    store.close().await.unwrap();
    drop(source);
    let target = Cluster::new();
    target.psql(&dump);
    let at_target = settings(&target.url(), "dumped", &[]);
    let store = open(&at_target).await.unwrap();
    store.append(request("a-0", Expected::Any, 22)).await.unwrap();
    assert!(store.append(request("a-1", Expected::Any, 1)).await.unwrap().repeated, "ids are known for ever");
    let fed = whole_feed(&store).await.unwrap();
    assert_eq!(fed, (1..=22).map(id).collect::<Vec<_>>());
    let rest = page(&store, FeedStart::After(before.clone())).await;
    assert_eq!(rest.commits().map(|commit| commit.id).collect::<Vec<_>>(), [id(21), id(22)]);
    assert_ne!(rest.next.incarnation(), before.incarnation(), "a restored store is another history");
    store.close().await.unwrap();
}

/// Connections that are cut before what was sent arrives, and after: nobody is told "not written" of what is, or "written" of
/// what is not; the id resolves it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_indeterminate_and_resolves_by_the_id() {
    let cluster = Cluster::new();
    let proxy = Proxy::to(cluster.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let settings = settings(&url, "cut", &[MAKE]);
    let store = open(&settings).await.unwrap();
    let (mut unknown, mut known_after) = ([0, 0], 0);
    for number in 0..60 {
        let after = number % 2 == 1;
        until_known(&store, "a-1", 1_000 + number).await;
        proxy.set(if after { Way::CutAfter } else { Way::CutBefore });
        match store.append(request("a-1", Expected::Any, number)).await {
            Ok(appended) => assert!(!appended.repeated),
            Err(error) => {
                assert_eq!((error.kind(), error.commit()), (ErrorKind::Indeterminate, Some(id(number))), "{error}");
                unknown[usize::from(after)] += 1;
                proxy.set(Way::Open);
                let resolved = until_known(&store, "a-1", number).await;
                known_after += u64::from(after && resolved.repeated);
            }
        }
        proxy.set(Way::Open);
    }
    assert!(
        unknown[0] > 5 && unknown[1] > 5 && known_after > 5,
        "cuts were not where they should be: {unknown:?} {known_after}"
    );
    let fed = whole_feed(&store).await.unwrap();
    assert_eq!(fed.len(), 120);
    assert_eq!(fed.into_iter().collect::<HashSet<_>>().len(), 120);
    store.close().await.unwrap();
}
