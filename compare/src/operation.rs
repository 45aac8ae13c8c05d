//! One call as an application makes it: what it sends, what it does about a conflict, and what of it is counted.

use crate::check::Acknowledged;
use crate::stage::{CALL_MAX, PAGE_BYTES, Stage};
use crate::tally::{Tally, count};
use crate::workload::{Expectation, Operation};
use evstore_api::{
    Append, CommitId, Deadline, Direction, Error, ErrorKind, EventStore, Events, Expected, FeedFilter, FeedStart, Head,
    NewCommit, ReadFeed, ReadHead, ReadSnapshot, ReadStream, Result, Revision, StreamId, StreamStart, Written,
};
use evstore_conformance::seed::Seed;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often one operation tries to win a race before it fails.
const ATTEMPTS_MAX: u32 = 1_000;
/// Most events in a page.
const PAGE_EVENTS: u32 = 1_000;
/// How long a read through another node is looked at again before it counts as failed.
const STALE_MAX: Duration = Duration::from_secs(5);

/// One caller: a client of the store, with its streams.
#[derive(Debug)]
pub struct Caller {
    stage: Arc<Stage>,
    number: usize,
    callers: usize,
    node: usize,
    /// Operations, each as often as its weight.
    wheel: Vec<Operation>,
    /// Its part of the log, as places in it.
    script: Vec<u32>,
    seed: Seed,
    turn: u64,
    feed: FeedStart,
}

impl Caller {
    /// A caller of so many.
    #[must_use]
    pub fn new(stage: &Arc<Stage>, number: usize, callers: usize, seed: Seed) -> Self {
        let parts = stage.workload.does.parts();
        let wheel = parts.iter().flat_map(|(operation, weight)| std::iter::repeat_n(*operation, *weight as usize));
        // A stream belongs to one caller, which keeps the log's order in it.
        let own = |entry: &(usize, usize)| entry.1 % callers == number;
        let entries = stage.log.iter().flat_map(|log| log.entries.iter().map(|(stream, _)| *stream).enumerate());
        let script = entries.filter(own).map(|(place, _)| place as u32).collect();
        Self {
            node: number % stage.scratch.nodes.len(),
            wheel: wheel.collect(),
            script,
            stage: stage.clone(),
            number,
            callers,
            seed,
            turn: 0,
            feed: FeedStart::First,
        }
    }

    /// Whether it has nothing to do: more callers than streams of a log.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stage.log.is_some() && self.script.is_empty()
    }

    /// Makes the next operation of the mix; conflicts and costs are counted on the way.
    ///
    /// # Errors
    /// As the store's, once nothing is left to be tried.
    pub async fn next(&mut self, tally: &mut Tally) -> Result<()> {
        let operation = match self.wheel.as_slice() {
            [only] => *only,
            wheel => *self.seed.pick(wheel),
        };
        match operation {
            Operation::Append => {
                let (stream, events) = self.next_commit();
                self.append(stream, events, tally).await.map(drop)
            }
            Operation::Load => {
                let stream = self.next_stream();
                self.load(stream, tally).await.map(drop)
            }
            Operation::Execute => self.execute(tally).await,
            Operation::ReadBack => self.read_back(tally).await,
            Operation::CatchUp => self.catch_up(tally).await,
        }
    }

    fn store(&self) -> &dyn EventStore {
        self.stage.scratch.nodes[self.node].as_ref()
    }

    /// A hot stream by its share, else the caller's own by turns; where streams are too few for that, one that it shares.
    fn next_stream(&mut self) -> usize {
        if !self.stage.workload.hot.is_empty() {
            let mut drawn = self.seed.below(1_000_000) as f64 / 1_000_000.0;
            for (stream, share) in self.stage.workload.hot.iter().enumerate() {
                drawn -= share;
                if drawn < 0.0 {
                    return stream;
                }
            }
        }
        let streams = self.stage.streams.len();
        if streams < self.callers {
            return (self.number + self.seed.below(streams as u64) as usize) % streams;
        }
        let own = (streams - self.number).div_ceil(self.callers);
        self.turn += 1;
        self.number + (self.turn as usize % own) * self.callers
    }

    fn next_commit(&mut self) -> (usize, Events) {
        if let Some(log) = &self.stage.log {
            // Through, it goes round again: its streams then grow longer than they were.
            let place = self.stage.advance(self.number) as usize % self.script.len();
            let (stream, events) = &log.entries[self.script[place] as usize];
            return (*stream, events.clone());
        }
        let stream = self.next_stream();
        (stream, self.draw())
    }

    fn draw(&mut self) -> Events {
        self.seed.pick(&self.stage.commits).clone()
    }

    /// Appends under the head that the node knows; after a conflict again under the one that it then knows.
    async fn append(&mut self, stream: usize, events: Events, tally: &mut Tally) -> Result<Revision> {
        let commit = NewCommit { id: CommitId(self.seed.bytes()), events };
        for _ in 0..ATTEMPTS_MAX {
            let expected = match self.stage.workload.expected {
                Expectation::Head => Expected::At(self.stage.head(self.node, stream)),
                Expectation::Any => Expected::Any,
            };
            if let Some(last) = self.try_append(stream, expected, &commit, tally).await? {
                return Ok(last);
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the race was never won").with("attempts", ATTEMPTS_MAX))
    }

    /// One attempt; none where it conflicted, and the node knows the head by then.
    async fn try_append(
        &self,
        stream: usize,
        expected: Expected,
        commit: &NewCommit,
        tally: &mut Tally,
    ) -> Result<Option<Revision>> {
        let name = self.stage.streams[stream].clone();
        let begun = Instant::now();
        let request = Append { stream: name, expected, commit: commit.clone(), deadline: Deadline(begun + CALL_MAX) };
        let is_checked = self.stage.workload.check;
        match self.store().append(request).await {
            Ok(receipt) => {
                self.stage.learn(self.node, stream, receipt.last);
                tally.events += u64::from(commit.events.count());
                tally.cost.add(receipt.usage);
                if is_checked {
                    if let Expected::At(revision) = expected {
                        tally.kept.misplaced += u64::from(receipt.first != revision.next());
                    }
                    let acknowledged =
                        Acknowledged { stream, commit: commit.id, first: receipt.first, begun, at: Instant::now() };
                    tally.kept.acknowledged.push(acknowledged);
                }
                Ok(Some(receipt.last))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tally.conflicts += 1;
                let head = match error.head() {
                    Some(head) => head.revision,
                    None => self.head(self.store(), stream).await?.revision,
                };
                self.stage.learn(self.node, stream, head);
                Ok(None)
            }
            Err(error) => {
                if is_checked && error.written() == Written::Unknown {
                    tally.kept.unknown.insert(commit.id);
                }
                Err(error)
            }
        }
    }

    async fn head(&self, store: &dyn EventStore, stream: usize) -> Result<Head> {
        store.head(ReadHead { stream: self.name(stream), deadline: Deadline::within(CALL_MAX) }).await
    }

    fn name(&self, stream: usize) -> StreamId {
        self.stage.streams[stream].clone()
    }

    /// Reads a stream from its snapshot on, or whole; gives the last revision.
    async fn load(&self, stream: usize, tally: &mut Tally) -> Result<Revision> {
        let deadline = Deadline::within(CALL_MAX);
        let mut from = StreamStart::First;
        if self.stage.workload.snapshot_behind.is_some() {
            let snapshot = self.store().read_snapshot(ReadSnapshot { stream: self.name(stream), deadline }).await?;
            // The event that it stands on is read with those after it: its commit has to be the one that the snapshot names.
            from = snapshot.map_or(StreamStart::First, |snapshot| StreamStart::At(snapshot.revision));
        }
        loop {
            let request = ReadStream {
                stream: self.name(stream),
                from,
                direction: Direction::Forward,
                limit: PAGE_EVENTS.min(self.stage.page_items),
                max_bytes: PAGE_BYTES,
                deadline,
            };
            let page = self.store().read_stream(request).await?;
            tally.events += page.events().count() as u64;
            tally.cost.add(page.usage);
            match page.next {
                Some(next) => from = StreamStart::At(next),
                None => return Ok(page.head.revision),
            }
        }
    }

    /// Loads, and appends under what was loaded; after a conflict both again, because the decision may be another one.
    async fn execute(&mut self, tally: &mut Tally) -> Result<()> {
        let stream = self.next_stream();
        let commit = NewCommit { id: CommitId(self.seed.bytes()), events: self.draw() };
        for _ in 0..ATTEMPTS_MAX {
            let head = self.load(stream, tally).await?;
            if self.try_append(stream, Expected::At(head), &commit, tally).await?.is_some() {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the race was never won").with("attempts", ATTEMPTS_MAX))
    }

    /// Appends, and looks through the next node whether it is there.
    async fn read_back(&mut self, tally: &mut Tally) -> Result<()> {
        let (stream, events) = self.next_commit();
        let last = self.append(stream, events, tally).await?;
        let acknowledged = Instant::now();
        let other = self.stage.scratch.nodes[(self.node + 1) % self.stage.scratch.nodes.len()].clone();
        tally.read_back += 1;
        let mut is_stale = false;
        while self.head(other.as_ref(), stream).await?.revision < last {
            if acknowledged.elapsed() > STALE_MAX {
                return Err(Error::new(ErrorKind::DeadlineExceeded, "another node never sees what was acknowledged"));
            }
            is_stale = true;
            tokio::task::yield_now().await;
        }
        if is_stale {
            tally.stale += 1;
            count(&mut tally.stale_for, acknowledged.elapsed());
        }
        Ok(())
    }

    /// Reads the next page of the feed; from its beginning again once it is through.
    async fn catch_up(&mut self, tally: &mut Tally) -> Result<()> {
        let request = ReadFeed {
            from: self.feed.clone(),
            filter: FeedFilter::none(),
            limit: PAGE_EVENTS.min(self.stage.page_items),
            max_bytes: PAGE_BYTES,
            deadline: Deadline::within(CALL_MAX),
        };
        let page = self.store().read_feed(request).await?;
        tally.events += page.events().count() as u64;
        tally.cost.add(page.usage);
        self.feed = if page.end { FeedStart::First } else { FeedStart::After(page.next) };
        Ok(())
    }
}
