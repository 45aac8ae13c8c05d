//! The calls of the contract as values: what a layer has to know of each.

use super::check;
use evstore_api::{
    Append, Appended, Capabilities, Commit, CommitId, Deadline, DeleteSnapshot, Error, ErrorKind, EventStore, Expected,
    FeedHead, FeedPage, FindCommit, Head, Lag, ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead,
    ReadRecord, ReadSnapshot, ReadStream, Record, RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StreamId,
    StreamPage, StreamsPage, Usage, WaitFeed, Waited,
};

/// What becomes of a call that was sent, when no answer comes or it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changes nothing.
    Read,
    /// It changes nothing, and takes until its deadline on purpose.
    Wait,
    /// It may have written, and repeating it is recognised or does no harm.
    Write,
    /// It may have written, and a repeat would be judged against its own effect.
    WriteOnce,
}

/// A call.
pub trait Request: Clone + Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Send;
    /// The method's name.
    const OPERATION: &'static str;
    /// What becomes of it.
    const EFFECT: Effect;

    /// When its caller stops waiting.
    fn deadline(&self) -> Deadline;

    /// The same with another deadline.
    fn with_deadline(self, deadline: Deadline) -> Self;

    /// Sends it.
    fn send(self, store: &dyn EventStore) -> impl Future<Output = Result<Self::Answer>> + Send;

    /// Refuses what a store with these capabilities does not take.
    fn check(&self, _: &Capabilities) -> Result<()> {
        Ok(())
    }

    /// The commit that it is about.
    fn commit(&self) -> Option<CommitId> {
        None
    }

    /// The stream that it is about.
    fn stream(&self) -> Option<&StreamId> {
        None
    }

    /// How far the answer says that the feed is behind.
    fn lag(_: &Self::Answer) -> Option<Lag> {
        None
    }

    /// Whether this verdict also settles earlier tries that got no answer: they have not written, and can't any more.
    fn is_settled_by(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::Gone | ErrorKind::Moved)
    }

    /// Bytes of data and metadata that it sends.
    fn sent_bytes(&self) -> u64 {
        0
    }

    /// Bytes of data and metadata that came back.
    fn received_bytes(_: &Self::Answer) -> u64 {
        0
    }

    /// What it cost.
    fn usage(_: &Self::Answer) -> Usage {
        Usage::default()
    }

    /// What it is answered with when its deadline passed, if that is no error.
    fn late() -> Option<Self::Answer> {
        None
    }
}

/// Reads the end of the feed: the one call whose method takes a deadline alone.
#[derive(Clone, Debug)]
pub struct ReadFeedHead {
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The parts that are the same for every request with a field `deadline`.
macro_rules! has_deadline {
    () => {
        fn deadline(&self) -> Deadline {
            self.deadline
        }

        fn with_deadline(self, deadline: Deadline) -> Self {
            Self { deadline, ..self }
        }
    };
}

impl Request for Append {
    type Answer = Appended;
    const OPERATION: &'static str = "append";
    const EFFECT: Effect = Effect::Write;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Appended> {
        store.append(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::append(&capabilities.limits, self)
    }

    fn commit(&self) -> Option<CommitId> {
        Some(self.commit.id)
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }

    /// The id is looked up before anything else, so these say that it was not there. A revision that the stream has passed
    /// never comes back; one that it has yet to reach may, and then an earlier try that is still under way would be taken.
    fn is_settled_by(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Conflict => match (self.expected, error.head()) {
                (Expected::NoStream, Some(head)) => head.revision.0 > 0,
                (Expected::At(revision), Some(head)) => head.revision > revision,
                (Expected::Any | Expected::Exists, _) | (_, None) => false,
            },
            ErrorKind::IdReused | ErrorKind::Gone | ErrorKind::Moved => true,
            _ => false,
        }
    }

    fn sent_bytes(&self) -> u64 {
        let events = self.commit.events.as_slice().iter();
        events.map(|event| (event.data.len() + event.metadata.len()) as u64).sum()
    }

    fn usage(answer: &Appended) -> Usage {
        answer.usage
    }
}

impl Request for FindCommit {
    type Answer = Option<Appended>;
    const OPERATION: &'static str = "find_commit";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Option<Appended>> {
        store.find_commit(self).await
    }

    fn commit(&self) -> Option<CommitId> {
        Some(self.commit)
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }

    fn usage(answer: &Option<Appended>) -> Usage {
        answer.as_ref().map(|found| found.usage).unwrap_or_default()
    }
}

impl Request for ReadHead {
    type Answer = Head;
    const OPERATION: &'static str = "head";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Head> {
        store.head(self).await
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }
}

impl Request for ReadStream {
    type Answer = StreamPage;
    const OPERATION: &'static str = "read_stream";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<StreamPage> {
        store.read_stream(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::read_stream(&capabilities.limits, self)
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }

    fn received_bytes(answer: &StreamPage) -> u64 {
        answer.commits.iter().map(commit_bytes).sum()
    }

    fn usage(answer: &StreamPage) -> Usage {
        answer.usage
    }
}

impl Request for ReadFeed {
    type Answer = FeedPage;
    const OPERATION: &'static str = "read_feed";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<FeedPage> {
        store.read_feed(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::read_feed(capabilities, self)
    }

    fn received_bytes(answer: &FeedPage) -> u64 {
        answer.commits().map(commit_bytes).sum()
    }

    fn usage(answer: &FeedPage) -> Usage {
        answer.usage
    }
}

impl Request for WaitFeed {
    type Answer = Waited;
    const OPERATION: &'static str = "wait_feed";
    const EFFECT: Effect = Effect::Wait;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Waited> {
        store.wait_feed(self).await
    }

    fn late() -> Option<Waited> {
        Some(Waited::DeadlinePassed)
    }
}

impl Request for ReadFeedHead {
    type Answer = FeedHead;
    const OPERATION: &'static str = "feed_head";
    const EFFECT: Effect = Effect::Read;

    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn with_deadline(self, deadline: Deadline) -> Self {
        Self { deadline }
    }

    async fn send(self, store: &dyn EventStore) -> Result<FeedHead> {
        store.feed_head(self.deadline).await
    }

    fn usage(answer: &FeedHead) -> Usage {
        answer.usage
    }

    fn lag(answer: &FeedHead) -> Option<Lag> {
        Some(answer.lag)
    }
}

impl Request for ListStreams {
    type Answer = StreamsPage;
    const OPERATION: &'static str = "list_streams";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<StreamsPage> {
        store.list_streams(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::page(&capabilities.limits, self.limit)
    }

    fn usage(answer: &StreamsPage) -> Usage {
        answer.usage
    }
}

impl Request for PutSnapshot {
    type Answer = SnapshotPut;
    const OPERATION: &'static str = "put_snapshot";
    const EFFECT: Effect = Effect::Write;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<SnapshotPut> {
        store.put_snapshot(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::put_snapshot(&capabilities.limits, self)
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.snapshot.stream)
    }

    fn sent_bytes(&self) -> u64 {
        self.snapshot.data.len() as u64
    }

    fn usage(answer: &SnapshotPut) -> Usage {
        match answer {
            SnapshotPut::Stored { usage } | SnapshotPut::Superseded { usage, .. } => *usage,
        }
    }
}

impl Request for ReadSnapshot {
    type Answer = Option<Snapshot>;
    const OPERATION: &'static str = "read_snapshot";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Option<Snapshot>> {
        store.read_snapshot(self).await
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }

    fn received_bytes(answer: &Option<Snapshot>) -> u64 {
        answer.as_ref().map_or(0, |snapshot| snapshot.data.len() as u64)
    }
}

impl Request for DeleteSnapshot {
    type Answer = ();
    const OPERATION: &'static str = "delete_snapshot";
    const EFFECT: Effect = Effect::Write;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<()> {
        store.delete_snapshot(self).await
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }
}

impl Request for PutRecord {
    type Answer = RecordPut;
    const OPERATION: &'static str = "put_record";
    const EFFECT: Effect = Effect::WriteOnce;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<RecordPut> {
        store.put_record(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::put_record(&capabilities.limits, self)
    }

    fn sent_bytes(&self) -> u64 {
        self.value.as_ref().map_or(0, |value| value.len() as u64)
    }

    fn usage(answer: &RecordPut) -> Usage {
        answer.usage
    }
}

impl Request for ReadRecord {
    type Answer = Option<Record>;
    const OPERATION: &'static str = "read_record";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<Option<Record>> {
        store.read_record(self).await
    }

    fn received_bytes(answer: &Option<Record>) -> u64 {
        answer.iter().map(record_bytes).sum()
    }
}

impl Request for ListRecords {
    type Answer = RecordsPage;
    const OPERATION: &'static str = "list_records";
    const EFFECT: Effect = Effect::Read;
    has_deadline!();

    async fn send(self, store: &dyn EventStore) -> Result<RecordsPage> {
        store.list_records(self).await
    }

    fn check(&self, capabilities: &Capabilities) -> Result<()> {
        check::page(&capabilities.limits, self.limit)
    }

    fn received_bytes(answer: &RecordsPage) -> u64 {
        answer.records.iter().map(record_bytes).sum()
    }

    fn usage(answer: &RecordsPage) -> Usage {
        answer.usage
    }
}

fn commit_bytes(commit: &Commit) -> u64 {
    commit.events.iter().map(|event| (event.data.len() + event.metadata.len()) as u64).sum()
}

fn record_bytes(record: &Record) -> u64 {
    record.value.as_ref().map_or(0, |value| value.len() as u64)
}
