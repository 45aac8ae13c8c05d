//! Subscribers that tail the feed while others append, or read it from its beginning, and record what they were given.

use crate::check::{Broken, ensure};
use crate::context::page_of;
use crate::history::record::{Delivery, Digest, PrefixPoll, RunEnd, SubscriptionRun, feed_chain};
use crate::race::{feed_entries, feed_request, now};
use crate::seed::Seed;
use evstore_api::cursor::Place;
use evstore_api::{Cursor, Deadline, EventStore, FeedPage, FeedStart, Result, WaitFeed};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Most events that a tailing reader takes at a time: few, so that pages end in the middle of what is going on.
const PAGE_MAX: u64 = 12;

/// Tails until `quiet` is set and the end is reached; now and then it is cut and starts again from an older checkpoint.
///
/// # Errors
/// As a read fails, and when a commit comes in parts.
pub(crate) async fn tail(
    store: Arc<dyn EventStore>,
    subscriber: u64,
    seed: u64,
    quiet: Arc<AtomicBool>,
) -> Result<Vec<SubscriptionRun>, Broken> {
    let mut seed = Seed(seed);
    let mut runs = Vec::new();
    let mut checkpoint: Option<Cursor> = None;
    loop {
        let mut run = begin(&*store, subscriber, runs.len() as u32, checkpoint.as_ref()).await?;
        let mut at = checkpoint.clone();
        loop {
            // Read before the page: what was appended before it was set is in a page that comes after.
            let was_quiet = quiet.load(Ordering::SeqCst);
            let from = at.clone().map_or(FeedStart::First, FeedStart::After);
            let page = store.read_feed(feed_request(from, 1 + seed.below(PAGE_MAX) as u32)).await?;
            // A commit that comes in parts is whole in every replay: only here is it seen.
            for commit in page.commits() {
                ensure!(
                    commit.is_whole(),
                    "a subscriber got {} of {} events of commit {} of {}",
                    commit.events.len(),
                    commit.count,
                    commit.number,
                    commit.stream
                );
            }
            deliver(&mut run, &page);
            at = Some(page.next.clone());
            if page.end && was_quiet {
                run.ended = RunEnd::Drained;
                runs.push(run);
                return Ok(runs);
            }
            if page.end {
                let deadline = Deadline::within(Duration::from_millis(5));
                store.wait_feed(WaitFeed { after: page.next, deadline }).await?;
            }
            if seed.chance(2) {
                checkpoint = at.clone();
            }
            if seed.chance(3) && runs.len() < 8 {
                // Half of them go on exactly where they were: then nobody gives what is left out there.
                if seed.chance(50) {
                    checkpoint = at;
                }
                break;
            }
        }
        runs.push(run);
    }
}

/// Most reads of the beginning in one race.
const POLLS_MAX: usize = 25;
/// Time between two of them: a race is not about those who read it.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Reads the feed from its beginning time and again until `quiet` is set: what was read has to stand there in the end.
///
/// # Errors
/// As a read fails.
pub(crate) async fn poll(
    store: Arc<dyn EventStore>,
    client: u64,
    quiet: Arc<AtomicBool>,
) -> Result<Vec<PrefixPoll>, Broken> {
    let limit = page_of(store.capabilities());
    let mut polls = Vec::new();
    while polls.len() < POLLS_MAX && !quiet.load(Ordering::SeqCst) {
        let invoked_at = now();
        let (mut from, mut up_to, mut entries, mut chain) = (FeedStart::First, 0, 0, Digest::default());
        let incarnation = loop {
            let page = store.read_feed(feed_request(from, limit)).await?;
            for entry in page.items.iter().flat_map(feed_entries) {
                (up_to, entries, chain) = (entry.end(), entries + 1, feed_chain(chain, &entry));
            }
            if page.end {
                break page.next.incarnation().to_string();
            }
            from = FeedStart::After(page.next);
        };
        polls.push(PrefixPoll { client, incarnation, invoked_at, up_to, entries, chain });
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(polls)
}

async fn begin(
    store: &dyn EventStore,
    subscriber: u64,
    run: u32,
    checkpoint: Option<&Cursor>,
) -> Result<SubscriptionRun> {
    let head = store.feed_head(Deadline::within(Duration::from_secs(20))).await?;
    Ok(SubscriptionRun {
        subscriber,
        run,
        incarnation: head.cursor.incarnation().to_string(),
        after: checkpoint.map_or(0, begun_after),
        started_at: now(),
        ended: RunEnd::Cut,
        deliveries: Vec::new(),
    })
}

/// The position that a run begins after; 1 where it begins somewhere in a feed that has none, so that nothing is expected to be
/// the first of its stream.
fn begun_after(checkpoint: &Cursor) -> u64 {
    match checkpoint.place() {
        Place::Total(position) => position.0,
        Place::Parts(parts) => u64::from(!parts.is_empty()),
    }
}

fn deliver(run: &mut SubscriptionRun, page: &FeedPage) {
    let delivered_at = now();
    let entries = page.items.iter().flat_map(feed_entries);
    run.deliveries.extend(entries.map(|entry| Delivery { delivered_at, entry }));
}
