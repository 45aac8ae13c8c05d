//! What readers see of what was acknowledged: how long until it is in the feed, in which order, and whether all of it is there, once.

use crate::stage::{CALL_MAX, PAGE_BYTES, Stage};
use crate::tally::{Latencies, count, latencies};
use evstore_api::capabilities::{Consistency, RealTime};
use evstore_api::{
    Capabilities, Commit, CommitId, Deadline, Direction, FeedFilter, FeedStart, Position, ReadFeed, ReadStream, Result,
    Revision, StreamId, StreamStart, WaitFeed,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long the feed may take to show what was acknowledged before it counts as missing.
const MISSING_AFTER: Duration = Duration::from_secs(15);
/// How long one wait for the feed is, so that the end of a round is noticed.
const WAIT: Duration = Duration::from_millis(100);
/// Most acknowledgements that are kept of one cell: a round ends early that has made its share of them.
pub const ACKNOWLEDGED_MAX: usize = 2_000_000;

/// A commit that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Its stream, by number.
    pub stream: usize,
    /// The commit.
    pub commit: CommitId,
    /// Revision of its first event.
    pub first: Revision,
    /// When the attempt began that was acknowledged.
    pub begun: Instant,
    /// When the answer was there.
    pub at: Instant,
}

/// What has to be looked for, and what was seen of it in the feed.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What was acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// What may have been written.
    pub unknown: HashSet<CommitId>,
    /// Acknowledged at another revision than the one that was expected: somebody else came between.
    pub misplaced: u64,
    /// What the feed showed.
    pub feed: FeedSeen,
}

/// What the feed showed of what was acknowledged.
#[derive(Clone, Debug)]
pub struct FeedSeen {
    /// From the acknowledgement until it was read from the feed.
    pub lag: Latencies,
    /// Acknowledged and never seen.
    pub missing: u64,
    /// Seen more than once.
    pub doubled: u64,
    /// Seen before one that stands before it in its stream, or at a position that is not higher.
    pub disordered: u64,
    /// Seen before one that was acknowledged before it began.
    pub against_time: u64,
}

impl Default for FeedSeen {
    fn default() -> Self {
        Self { lag: latencies(), missing: 0, doubled: 0, disordered: 0, against_time: 0 }
    }
}

impl Kept {
    /// Adds what another kept.
    pub fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.misplaced += other.misplaced;
        self.feed.lag += other.feed.lag;
        self.feed.missing += other.feed.missing;
        self.feed.doubled += other.feed.doubled;
        self.feed.disordered += other.feed.disordered;
        self.feed.against_time += other.feed.against_time;
    }

    /// The same without how long the feed took.
    #[must_use]
    pub fn without_lags(mut self) -> Self {
        self.feed.lag = latencies();
        self
    }
}

/// A commit as the feed showed it.
#[derive(Clone, Debug)]
struct Seen {
    stream: StreamId,
    commit: CommitId,
    first: Revision,
    position: Option<Position>,
    at: Instant,
}

/// Follows the feed while others append.
#[derive(Debug)]
pub struct Watcher {
    task: JoinHandle<Result<Vec<Seen>>>,
    wanted: oneshot::Sender<HashSet<CommitId>>,
}

impl Watcher {
    /// Follows from the feed's present end on.
    ///
    /// # Errors
    /// As reading the end fails.
    pub async fn start(stage: &Arc<Stage>) -> Result<Self> {
        let head = stage.scratch.watcher.feed_head(Deadline::within(CALL_MAX)).await?;
        let (wanted, told) = oneshot::channel();
        let task = tokio::spawn(follow(stage.clone(), FeedStart::After(head.cursor), told));
        Ok(Self { task, wanted })
    }

    /// Goes on until all of this was seen, or it is missing; then tells what the feed showed.
    ///
    /// # Errors
    /// As reading the feed fails.
    pub async fn end(self, acknowledged: &[Acknowledged], streams: &[StreamId]) -> Result<FeedSeen> {
        let wanted = acknowledged.iter().map(|one| one.commit).collect();
        // A watcher that is gone has ended with an error, which is told below.
        let _ = self.wanted.send(wanted);
        let seen = match self.task.await {
            Ok(seen) => seen?,
            Err(cause) => {
                let error = evstore_api::Error::new(evstore_api::ErrorKind::Closed, "reading the feed panicked");
                return Err(error.caused_by(cause));
            }
        };
        Ok(judge(acknowledged, &seen, streams))
    }
}

async fn follow(
    stage: Arc<Stage>,
    mut from: FeedStart,
    mut told: oneshot::Receiver<HashSet<CommitId>>,
) -> Result<Vec<Seen>> {
    let store = &stage.scratch.watcher;
    let mut seen: Vec<Seen> = Vec::new();
    let mut wanted: Option<(HashSet<CommitId>, Deadline)> = None;
    loop {
        let request = ReadFeed {
            from: from.clone(),
            filter: FeedFilter::none(),
            limit: 1_000.min(stage.page_items),
            max_bytes: PAGE_BYTES,
            deadline: Deadline::within(CALL_MAX),
        };
        let page = store.read_feed(request).await?;
        let at = Instant::now();
        for commit in page.commits() {
            if let Some((wanted, _)) = &mut wanted {
                wanted.remove(&commit.id);
            }
            seen.push(Seen {
                stream: commit.stream.clone(),
                commit: commit.id,
                first: commit.first_revision,
                position: commit.first_position,
                at,
            });
        }
        if wanted.is_none() {
            match told.try_recv() {
                Ok(mut all) => {
                    for one in &seen {
                        all.remove(&one.commit);
                    }
                    wanted = Some((all, Deadline::within(MISSING_AFTER)));
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                // Nobody will ask.
                Err(oneshot::error::TryRecvError::Closed) => return Ok(seen),
            }
        }
        if page.end {
            if wanted.as_ref().is_some_and(|(wanted, until)| wanted.is_empty() || until.has_passed()) {
                return Ok(seen);
            }
            store.wait_feed(WaitFeed { after: page.next.clone(), deadline: Deadline::within(WAIT) }).await?;
        }
        from = FeedStart::After(page.next);
    }
}

/// Compares what was acknowledged with what was seen, in the order of seeing.
fn judge(acknowledged: &[Acknowledged], seen: &[Seen], streams: &[StreamId]) -> FeedSeen {
    let mut found = FeedSeen::default();
    let known: HashMap<CommitId, &Acknowledged> = acknowledged.iter().map(|one| (one.commit, one)).collect();
    let mut times: HashMap<CommitId, u64> = HashMap::new();
    let mut ends: HashMap<&StreamId, Revision> = HashMap::new();
    let mut last_position = None;
    // Of all that were seen so far, when the one that began last did.
    let mut begun_last: Option<Instant> = None;
    for one in seen {
        let count_of = times.entry(one.commit).or_default();
        *count_of += 1;
        if *count_of > 1 {
            found.doubled += 1;
            continue;
        }
        let is_behind_stream = ends.get(&one.stream).is_some_and(|end| one.first <= *end);
        let is_behind_position = one.position.is_some() && one.position <= last_position;
        found.disordered += u64::from(is_behind_stream || is_behind_position);
        ends.insert(&one.stream, one.first);
        last_position = one.position.or(last_position);
        let Some(acknowledged) = known.get(&one.commit) else { continue };
        debug_assert_eq!(streams[acknowledged.stream], one.stream);
        count(&mut found.lag, one.at.saturating_duration_since(acknowledged.at));
        found.against_time += u64::from(begun_last.is_some_and(|begun| acknowledged.at < begun));
        begun_last = begun_last.max(Some(acknowledged.begun));
    }
    found.missing = acknowledged.iter().filter(|one| !times.contains_key(&one.commit)).count() as u64;
    found
}

/// What the streams held in the end of what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamsHeld {
    /// Acknowledged, and not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// There, and neither acknowledged nor of unknown outcome.
    pub unexplained: u64,
    /// There, under another revision than was acknowledged, or acknowledged under another than was expected.
    pub elsewhere: u64,
}

/// Reads every stream, and looks for what was acknowledged.
///
/// # Errors
/// As reading fails.
pub async fn verify(stage: &Stage, kept: &Kept) -> Result<StreamsHeld> {
    let store = &stage.scratch.watcher;
    if let Consistency::Eventual { staleness } = store.capabilities().reads {
        tokio::time::sleep(staleness).await;
    }
    let mut wanted: HashMap<CommitId, (usize, Revision)> =
        kept.acknowledged.iter().map(|one| (one.commit, (one.stream, one.first))).collect();
    let mut present = HashSet::new();
    let mut held = StreamsHeld { elsewhere: kept.misplaced, ..StreamsHeld::default() };
    for (number, stream) in stage.streams.iter().enumerate() {
        let mut from = StreamStart::First;
        loop {
            let page = store.read_stream(whole(stream, from, stage.page_items)).await?;
            for commit in page.commits.iter().filter(|commit| is_measured(stage, commit)) {
                if !present.insert(commit.id) {
                    // A commit that goes over two pages is in both.
                    held.doubled += u64::from(commit.events.first().is_some_and(|event| event.ordinal == 0));
                    continue;
                }
                match wanted.remove(&commit.id) {
                    Some(at) => held.elsewhere += u64::from(at != (number, commit.first_revision)),
                    None => held.unexplained += u64::from(!kept.unknown.contains(&commit.id)),
                }
            }
            match page.next {
                Some(next) => from = StreamStart::At(next),
                None => break,
            }
        }
    }
    held.lost = wanted.len() as u64;
    Ok(held)
}

/// Whether a commit was appended while measuring, and not before.
fn is_measured(stage: &Stage, commit: &Commit) -> bool {
    commit.first_revision.0 > stage.workload.stream_events
}

fn whole(stream: &StreamId, from: StreamStart, page_items: u32) -> ReadStream {
    ReadStream {
        stream: stream.clone(),
        from,
        direction: Direction::Forward,
        limit: 1_000.min(page_items),
        max_bytes: PAGE_BYTES,
        deadline: Deadline::within(CALL_MAX),
    }
}

/// What was found that the store promises not to happen, each in a sentence.
#[must_use]
pub fn broken(capabilities: &Capabilities, feed: &FeedSeen, held: &StreamsHeld) -> Vec<String> {
    let kept = capabilities.real_time == RealTime::Kept;
    let against_time = if kept { feed.against_time } else { 0 };
    [
        (held.lost, "acknowledged commits are not in their streams"),
        (held.doubled, "commits are in their streams twice"),
        (held.unexplained, "commits are in the streams that nobody was acknowledged"),
        (held.elsewhere, "commits have other revisions than were expected or acknowledged"),
        (feed.missing, "acknowledged commits never came in the feed"),
        (feed.doubled, "commits came in the feed twice"),
        (feed.disordered, "commits came in the feed out of order"),
        (against_time, "commits came in the feed before ones that were acknowledged before they began"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(number: u8, begun: Instant, at: Instant) -> Acknowledged {
        Acknowledged { stream: 0, commit: CommitId([number; 16]), first: Revision(u64::from(number)), begun, at }
    }

    fn seen(number: u8, at: Instant) -> Seen {
        let position = Some(Position(u64::from(number)));
        let (stream, commit) = (StreamId::new("compare-0").unwrap(), CommitId([number; 16]));
        Seen { stream, commit, first: Revision(u64::from(number)), position, at }
    }

    fn judged(acknowledged: &[Acknowledged], seen: &[Seen]) -> FeedSeen {
        judge(acknowledged, seen, &[StreamId::new("compare-0").unwrap()])
    }

    #[test]
    fn what_is_missing_doubled_and_out_of_order_is_counted() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let all = [acknowledged(1, at(0), at(5)), acknowledged(2, at(1), at(6)), acknowledged(3, at(2), at(7))];
        let fine = judged(&all, &[seen(1, at(8)), seen(2, at(9)), seen(3, at(10))]);
        assert_eq!((fine.missing, fine.doubled, fine.disordered, fine.against_time), (0, 0, 0, 0));
        // Two digits of a latency count.
        assert_eq!((fine.lag.len(), fine.lag.max().div_ceil(1_000_000)), (3, 4));
        let wrong = judged(&all, &[seen(2, at(8)), seen(1, at(9)), seen(2, at(10))]);
        assert_eq!((wrong.missing, wrong.doubled, wrong.disordered, wrong.against_time), (1, 1, 1, 0));
    }

    #[test]
    fn what_was_acknowledged_before_another_began_stands_before_it() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let all = [acknowledged(1, at(0), at(1)), acknowledged(2, at(2), at(3))];
        assert_eq!(judged(&all, &[seen(2, at(4)), seen(1, at(4))]).against_time, 1);
    }
}
