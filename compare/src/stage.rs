//! The streams of one workload on one scratch store, made before anything is measured.

use crate::contender::{Contender, Scratch};
use crate::log::Log;
use crate::payload;
use crate::workload::Workload;
use evstore_api::{
    AdvanceFeed, Append, Clock as _, CommitId, ContentType, Deadline, Direction, Error, ErrorKind, Events, Expected,
    NewCommit, PutSnapshot, ReadStream, Result, Revision, Snapshot, StreamId, StreamStart, SystemClock,
};
use evstore_conformance::seed::Seed;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Longest time of one call.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// Most bytes in a page.
pub const PAGE_BYTES: u64 = 4 << 20;
/// How many streams are filled at a time.
const FILLERS: usize = 32;
/// How long a feed may take to come up with what was filled in.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// A workload's streams, filled, with what is needed to append to them.
#[derive(Debug)]
pub struct Stage {
    /// The workload.
    pub workload: Workload,
    /// The store.
    pub scratch: Scratch,
    /// Its streams.
    pub streams: Vec<StreamId>,
    /// The last revision of each that a node knows, node by node: nodes learn nothing from each other.
    heads: Vec<Vec<AtomicU64>>,
    /// What is appended, by turns.
    pub commits: Vec<Events>,
    /// What is appended instead, where the workload replays a log.
    pub log: Option<Arc<Log>>,
    /// How far each caller came in the log.
    offsets: Vec<AtomicU64>,
    /// Most events in a page that the store allows.
    pub page_items: u32,
}

impl Stage {
    /// Makes the scratch store, its streams and their snapshots.
    ///
    /// # Errors
    /// As the store's; the scratch store is then removed.
    pub async fn prepare(
        contender: &Contender,
        workload: &Workload,
        log: Option<Arc<Log>>,
        seed: u64,
    ) -> Result<Arc<Self>> {
        let mut seed = Seed(seed);
        let scratch = contender.scratch(workload.nodes).await?;
        let count = log.as_ref().map_or(workload.streams, |log| log.streams as u64);
        let streams =
            (0..count).map(|number| StreamId::new(format!("compare-{number}"))).collect::<Result<Vec<_>>>()?;
        let most = workload.callers.iter().copied().max().unwrap_or(1) as usize;
        let stage = Arc::new(Self {
            commits: payload::commits(workload, &mut seed)?,
            heads: scratch.nodes.iter().map(|_| streams.iter().map(|_| AtomicU64::new(0)).collect()).collect(),
            offsets: (0..most).map(|_| AtomicU64::new(0)).collect(),
            page_items: scratch.watcher.capabilities().limits.page_items,
            workload: workload.clone(),
            scratch,
            streams,
            log,
        });
        match stage.make_ready(&mut seed).await {
            Ok(()) => Ok(stage),
            Err(error) => {
                // Why it could not be filled is told; what is left of it is listed by `evstore doctor`.
                let _ = Self::clear(stage).await;
                Err(error)
            }
        }
    }

    async fn make_ready(self: &Arc<Self>, seed: &mut Seed) -> Result<()> {
        self.fill(seed).await?;
        if self.workload.catches_up() {
            self.settle().await?;
        }
        Ok(())
    }

    /// The revision that a node expects of a stream.
    #[must_use]
    pub fn head(&self, node: usize, stream: usize) -> Revision {
        Revision(self.heads[node][stream].load(Ordering::Relaxed))
    }

    /// What a node learned of a stream's end. An older answer that comes late is passed over.
    pub fn learn(&self, node: usize, stream: usize, head: Revision) {
        self.heads[node][stream].fetch_max(head.0, Ordering::Relaxed);
    }

    /// The caller's next place in the log.
    pub fn advance(&self, caller: usize) -> u64 {
        self.offsets[caller].fetch_add(1, Ordering::Relaxed)
    }

    async fn fill(self: &Arc<Self>, seed: &mut Seed) -> Result<()> {
        if self.workload.stream_events == 0 {
            return Ok(());
        }
        let mut tasks = JoinSet::new();
        for filler in 0..FILLERS.min(self.streams.len()) {
            let (stage, mut seed) = (self.clone(), seed.fork());
            tasks.spawn(async move {
                for stream in (filler..stage.streams.len()).step_by(FILLERS) {
                    stage.fill_stream(stream, &mut seed).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|cause| Err(Error::new(ErrorKind::Closed, "a call panicked").caused_by(cause)))?;
        }
        Ok(())
    }

    async fn fill_stream(&self, stream: usize, seed: &mut Seed) -> Result<()> {
        let store = &self.scratch.nodes[0];
        let wanted = self.workload.stream_events;
        while self.head(0, stream).0 < wanted {
            let left = wanted - self.head(0, stream).0;
            let events = seed.pick(&self.commits).as_slice();
            let events = Events::new(events[..events.len().min(left as usize)].to_vec())?;
            let request = Append {
                stream: self.streams[stream].clone(),
                expected: Expected::At(self.head(0, stream)),
                commit: NewCommit { id: CommitId(seed.bytes()), events },
                deadline: Deadline::within(CALL_MAX),
            };
            let last = store.append(request).await?.last;
            (0..self.heads.len()).for_each(|node| self.learn(node, stream, last));
        }
        match self.workload.snapshot_behind {
            Some(behind) => self.put_snapshot(stream, Revision(wanted - behind), seed).await,
            None => Ok(()),
        }
    }

    /// Puts a snapshot on the end of the commit that holds a revision: a snapshot names a commit.
    async fn put_snapshot(&self, stream: usize, revision: Revision, seed: &mut Seed) -> Result<()> {
        let store = &self.scratch.nodes[0];
        let request = ReadStream {
            stream: self.streams[stream].clone(),
            from: StreamStart::At(revision),
            direction: Direction::Forward,
            limit: 1,
            max_bytes: PAGE_BYTES,
            deadline: Deadline::within(CALL_MAX),
        };
        let page = store.read_stream(request).await?;
        // The store that does nothing has no commit to name.
        let Some(commit) = page.commits.first() else { return Ok(()) };
        let snapshot = Snapshot {
            stream: commit.stream.clone(),
            revision: commit.last_revision(),
            number: commit.number,
            commit: commit.id,
            schema: 1,
            content_type: ContentType::json(),
            data: payload::snapshot(self.workload.snapshot_bytes, seed),
            taken_at: SystemClock.now(),
        };
        store.put_snapshot(PutSnapshot { snapshot, deadline: Deadline::within(CALL_MAX) }).await.map(drop)
    }

    /// Waits until the feed has what was filled in.
    async fn settle(&self) -> Result<()> {
        let deadline = Deadline::within(SETTLE_MAX);
        loop {
            let head = self.scratch.admin.advance_feed(AdvanceFeed { deadline }).await?.head;
            if head.lag.commits == 0 {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    "the feed does not come up with what was filled in",
                )
                .with("behind", head.lag.commits));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes the scratch store.
    ///
    /// # Errors
    /// As the store's.
    pub async fn clear(stage: Arc<Self>) -> Result<()> {
        match Arc::try_unwrap(stage) {
            Ok(stage) => stage.scratch.drop_all().await,
            // Callers that did not end in time hold it: whoever watches the opener drops it at the end.
            Err(_) => Ok(()),
        }
    }
}
