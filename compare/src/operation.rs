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

/// A commit that is to be appended.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    id: CommitId,
    stream: usize,
    /// Of its events, in the log or among those that were made beforehand.
    place: usize,
}

fn never_won() -> Error {
    Error::new(ErrorKind::Conflict, "the race was never won").with("attempts", ATTEMPTS_MAX)
}

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
    /// The next of its own streams.
    turn: usize,
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
            turn: number,
            feed: FeedStart::First,
        }
    }

    /// Whether it has nothing to do: more callers than streams of a log.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stage.log.is_some() && self.script.is_empty()
    }

    /// Makes the next operation of the mix, which began at this moment; conflicts and costs are counted on the way.
    ///
    /// # Errors
    /// As the store's, once nothing is left to be tried.
    pub async fn next(&mut self, begun: Instant, tally: &mut Tally) -> Result<()> {
        let operation = match self.wheel.as_slice() {
            [only] => *only,
            wheel => *self.seed.pick(wheel),
        };
        let deadline = Deadline(begun + CALL_MAX);
        match operation {
            Operation::Append => self.append(deadline, tally).await.map(drop),
            Operation::Load => {
                let stream = self.next_stream();
                self.load(stream, deadline, tally).await.map(drop)
            }
            Operation::Execute => self.execute(deadline, tally).await,
            Operation::ReadBack => self.read_back(deadline, tally).await,
            Operation::CatchUp => self.catch_up(deadline, tally).await,
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
        let stream = self.turn;
        // By adding: a division is a noticeable part of what a fast store takes.
        self.turn += self.callers;
        if self.turn >= streams {
            self.turn = self.number;
        }
        stream
    }

    /// What is appended next, and where to.
    fn next_commit(&mut self) -> Drawn {
        let id = CommitId(self.seed.bytes());
        if self.stage.log.is_some() {
            // Through, it goes round again: its streams then grow longer than they were.
            let place = self.script[self.stage.advance(self.number) as usize % self.script.len()] as usize;
            let stream = self.stage.log.as_ref().map_or(0, |log| log.entries[place].0);
            return Drawn { id, stream, place };
        }
        let stream = self.next_stream();
        Drawn { id, stream, place: self.seed.below(self.stage.commits.len() as u64) as usize }
    }

    /// The events of what was drawn: made once, and copied for each attempt only.
    fn events(&self, drawn: &Drawn) -> &Events {
        match &self.stage.log {
            Some(log) => &log.entries[drawn.place].1,
            None => &self.stage.commits[drawn.place],
        }
    }

    /// Appends under the head that the node knows; after a conflict again under the one that it then knows.
    async fn append(&mut self, deadline: Deadline, tally: &mut Tally) -> Result<(usize, Revision)> {
        let drawn = self.next_commit();
        for _ in 0..ATTEMPTS_MAX {
            let expected = match self.stage.workload.expected {
                Expectation::Head => Expected::At(self.stage.head(self.node, drawn.stream)),
                Expectation::Any => Expected::Any,
            };
            if let Some(last) = self.try_append(&drawn, expected, deadline, tally).await? {
                return Ok((drawn.stream, last));
            }
        }
        Err(never_won())
    }

    /// One attempt; none where it conflicted, and the node knows the head by then.
    async fn try_append(
        &self,
        drawn: &Drawn,
        expected: Expected,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> Result<Option<Revision>> {
        let is_checked = self.stage.workload.check;
        let begun = is_checked.then(Instant::now);
        let events = self.events(drawn).clone();
        let count = events.count();
        let request =
            Append { stream: self.name(drawn.stream), expected, commit: NewCommit { id: drawn.id, events }, deadline };
        match self.store().append(request).await {
            Ok(receipt) => {
                self.stage.learn(self.node, drawn.stream, receipt.last);
                tally.events += u64::from(count);
                tally.cost.add(receipt.usage);
                if let Some(begun) = begun {
                    if let Expected::At(revision) = expected {
                        tally.kept.misplaced += u64::from(receipt.first != revision.next());
                    }
                    let (stream, commit, first, at) = (drawn.stream, drawn.id, receipt.first, Instant::now());
                    tally.kept.acknowledged.push(Acknowledged { stream, commit, first, begun, at });
                }
                Ok(Some(receipt.last))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tally.conflicts += 1;
                let head = match error.head() {
                    Some(head) => head.revision,
                    None => self.head(self.store(), drawn.stream, deadline).await?.revision,
                };
                self.stage.learn(self.node, drawn.stream, head);
                // Others that were waiting for their turn get it before the same caller tries again.
                tokio::task::yield_now().await;
                Ok(None)
            }
            Err(error) => {
                if is_checked && error.written() == Written::Unknown {
                    tally.kept.unknown.insert(drawn.id);
                }
                Err(error)
            }
        }
    }

    async fn head(&self, store: &dyn EventStore, stream: usize, deadline: Deadline) -> Result<Head> {
        store.head(ReadHead { stream: self.name(stream), deadline }).await
    }

    fn name(&self, stream: usize) -> StreamId {
        self.stage.streams[stream].clone()
    }

    /// Reads a stream from its snapshot on, or whole; gives the last revision.
    async fn load(&self, stream: usize, deadline: Deadline, tally: &mut Tally) -> Result<Revision> {
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
    async fn execute(&mut self, deadline: Deadline, tally: &mut Tally) -> Result<()> {
        let drawn = self.next_commit();
        for _ in 0..ATTEMPTS_MAX {
            let head = self.load(drawn.stream, deadline, tally).await?;
            if self.try_append(&drawn, Expected::At(head), deadline, tally).await?.is_some() {
                return Ok(());
            }
        }
        Err(never_won())
    }

    /// Appends, and looks through the next node whether it is there.
    async fn read_back(&mut self, deadline: Deadline, tally: &mut Tally) -> Result<()> {
        let (stream, last) = self.append(deadline, tally).await?;
        let acknowledged = Instant::now();
        let other = self.stage.scratch.nodes[(self.node + 1) % self.stage.scratch.nodes.len()].clone();
        tally.read_back += 1;
        let mut is_stale = false;
        while self.head(other.as_ref(), stream, Deadline::within(CALL_MAX)).await?.revision < last {
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
    async fn catch_up(&mut self, deadline: Deadline, tally: &mut Tally) -> Result<()> {
        let request = ReadFeed {
            from: self.feed.clone(),
            filter: FeedFilter::none(),
            limit: PAGE_EVENTS.min(self.stage.page_items),
            max_bytes: PAGE_BYTES,
            deadline,
        };
        let page = self.store().read_feed(request).await?;
        tally.events += page.events().count() as u64;
        tally.cost.add(page.usage);
        self.feed = if page.end { FeedStart::First } else { FeedStart::After(page.next) };
        Ok(())
    }
}
