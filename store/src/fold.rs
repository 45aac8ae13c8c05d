//! Folding a stream into an aggregate: from a snapshot that proves itself, or from the first event.

use crate::aggregate::Aggregate;
use crate::api::{
    Appended, Commit, CommitId, CommitNumber, Deadline, Direction, Error, ErrorKind, EventStore, FindCommit, Head,
    ReadSnapshot, ReadStream, Result, Revision, Snapshot, StreamId, StreamPage, StreamStart, StreamState, Usage,
};
use crate::domain_event::decode_event;
use crate::logged::category;
use crate::snapshots::{self, SnapshotRefused, StateCodec, Tail};

/// Most bytes of one page of a stream.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Most events of one page of a stream, where the store allows as many.
const PAGE_EVENTS_MAX: u32 = 1000;

/// What a state was folded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldedFrom {
    /// Every event.
    Events,
    /// The snapshot of this revision, and the events after it.
    Snapshot(Revision),
    /// Every event, because a snapshot was not to be trusted.
    EventsNotSnapshot(SnapshotRefused),
}

/// A state and the place in the stream at which it stands.
#[derive(Debug)]
pub(crate) struct Fold<A> {
    pub state: A,
    pub revision: Revision,
    /// The commit that ends at `revision`; none before the first.
    pub last: Option<(CommitNumber, CommitId)>,
    pub from: FoldedFrom,
    /// Revision of a snapshot that was not to be trusted: one below it is not kept while it is there.
    pub refused_at: Option<Revision>,
    pub tail: Tail,
    /// The head as it was last seen.
    pub head: Head,
    /// The commit that was looked for, if it was met.
    pub met: Option<Appended>,
    /// Whether every commit of the stream was met, so that one that was not met is not there.
    pub met_all: bool,
}

/// Reads one stream and folds it.
pub(crate) struct Folder<'a, A> {
    pub events: &'a dyn EventStore,
    pub stream: &'a StreamId,
    pub codec: Option<StateCodec<A>>,
    /// A commit to look for on the way.
    pub sought: Option<CommitId>,
    pub deadline: Deadline,
}

impl<A: Aggregate> Folder<'_, A> {
    /// Folds the stream up to its head.
    pub async fn fold(&self) -> Result<Fold<A>> {
        let Some(codec) = self.codec else {
            return self.replay(FoldedFrom::Events).await;
        };
        let request = ReadSnapshot { stream: self.stream.clone(), deadline: self.deadline };
        let (refused, refused_at) = match self.events.read_snapshot(request).await {
            Ok(None) => return self.replay(FoldedFrom::Events).await,
            Ok(Some(snapshot)) => match self.resume(&snapshot, codec).await? {
                Ok(fold) => return Ok(fold),
                Err(refused) => (refused, Some(snapshot.revision)),
            },
            // A hint that can't be read is no hint. If the store is at fault, reading the events says so.
            Err(_) => (SnapshotRefused::Unreadable, None),
        };
        let category = category(self.stream);
        tracing::warn!(category, ?refused, "a snapshot is not used, the stream is replayed");
        let fold = self.replay(FoldedFrom::EventsNotSnapshot(refused)).await?;
        Ok(Fold { refused_at, ..fold })
    }

    /// Takes in what was appended since. Starts anew where the stream is shorter than it was.
    pub async fn catch_up(&self, mut fold: Fold<A>) -> Result<Fold<A>> {
        let page = self.read(fold.revision.next()).await?;
        if page.head.revision < fold.revision {
            return self.fold().await;
        }
        self.take(&mut fold, page).await?;
        Ok(fold)
    }

    async fn replay(&self, from: FoldedFrom) -> Result<Fold<A>> {
        let page = self.read(Revision(1)).await?;
        let met_all = page.head.first_retained == Revision(1);
        let mut fold = Fold::new(A::default(), from, met_all, page.head.clone());
        self.take(&mut fold, page).await?;
        Ok(fold)
    }

    /// Starts at the commit that the snapshot names and folds the rest in, if that commit is there.
    async fn resume(&self, snapshot: &Snapshot, codec: StateCodec<A>) -> Result<Result<Fold<A>, SnapshotRefused>> {
        let state = match (codec.decode)(snapshot) {
            Ok(state) if snapshot.stream == *self.stream => state,
            Ok(_) => return Ok(Err(SnapshotRefused::Foreign)),
            Err(refused) => return Ok(Err(refused)),
        };
        // Past any head, and not to be asked for.
        if snapshot.revision == Revision(0) {
            return Ok(Err(SnapshotRefused::AheadOfStream));
        }
        let page = self.read(snapshot.revision).await?;
        if let Err(refused) = snapshots::check_head(snapshot, &page.head) {
            return Ok(Err(refused));
        }
        if !self.stands_on(snapshot, &page).await? {
            return Ok(Err(SnapshotRefused::Foreign));
        }
        let mut fold = Fold::new(state, FoldedFrom::Snapshot(snapshot.revision), false, page.head.clone());
        fold.revision = snapshot.revision;
        fold.last = Some((snapshot.number, snapshot.commit));
        fold.tail.snapshot_bytes = Some(snapshot.data.len() as u64);
        self.take(&mut fold, page).await?;
        Ok(Ok(fold))
    }

    /// Whether the commit that the snapshot names ends at its revision. A truncated one is asked for by its id.
    async fn stands_on(&self, snapshot: &Snapshot, page: &StreamPage) -> Result<bool> {
        if page.head.first_retained <= snapshot.revision {
            return Ok(page.commits.first().is_some_and(|commit| {
                commit.id == snapshot.commit
                    && commit.number == snapshot.number
                    && commit.last_revision() == snapshot.revision
            }));
        }
        let found = self.find(snapshot.commit).await?;
        Ok(found.is_some_and(|found| found.number == snapshot.number && found.last == snapshot.revision))
    }

    /// Folds a page in and reads on to the end of the stream.
    async fn take(&self, fold: &mut Fold<A>, page: StreamPage) -> Result<()> {
        let mut page = page;
        loop {
            self.check_retained(fold, &page.head)?;
            for commit in &page.commits {
                self.take_commit(fold, commit)?;
            }
            fold.head = page.head;
            match page.next {
                Some(next) => page = self.read(next).await?,
                None => return Ok(()),
            }
        }
    }

    fn check_retained(&self, fold: &Fold<A>, head: &Head) -> Result<()> {
        if head.state == StreamState::Deleted {
            return Err(Error::new(ErrorKind::Gone, "the stream was deleted").with("stream", self.stream));
        }
        if head.first_retained > fold.revision.next() {
            let error = Error::new(ErrorKind::HistoryLost, "events were truncated that no snapshot stands for");
            return Err(error.with("stream", self.stream).with("first_retained", head.first_retained));
        }
        Ok(())
    }

    fn take_commit(&self, fold: &mut Fold<A>, commit: &Commit) -> Result<()> {
        let folded = fold.revision;
        for event in commit.events().filter(|event| event.revision() > folded) {
            if event.revision() != fold.revision.next() {
                let error = Error::new(ErrorKind::Corrupt, "a stream read left an event out").of_commit(commit.id);
                return Err(error.with("stream", self.stream).with("revision", fold.revision.next()));
            }
            if let Some(decoded) = decode_event::<A::Event>(event)? {
                fold.state.apply(&decoded);
            }
            fold.revision = event.revision();
            fold.last = Some((commit.number, commit.id));
            fold.tail.events += 1;
            fold.tail.bytes += (event.event.data.len() + event.event.metadata.len()) as u64;
        }
        if self.sought == Some(commit.id) {
            fold.met = Some(receipt(commit));
        }
        Ok(())
    }

    /// Finds a commit by its id.
    pub async fn find(&self, commit: CommitId) -> Result<Option<Appended>> {
        let request = FindCommit { stream: self.stream.clone(), commit, deadline: self.deadline };
        self.events.find_commit(request).await
    }

    async fn read(&self, from: Revision) -> Result<StreamPage> {
        let request = ReadStream {
            stream: self.stream.clone(),
            from: StreamStart::At(from),
            direction: Direction::Forward,
            limit: PAGE_EVENTS_MAX.min(self.events.capabilities().limits.page_items),
            max_bytes: PAGE_BYTES_MAX,
            deadline: self.deadline,
        };
        self.events.read_stream(request).await
    }
}

impl<A> Fold<A> {
    fn new(state: A, from: FoldedFrom, met_all: bool, head: Head) -> Self {
        let revision = Revision(0);
        Self { state, revision, last: None, from, refused_at: None, tail: Tail::default(), head, met: None, met_all }
    }
}

/// The receipt that a commit got, as a repeat would get it.
fn receipt(commit: &Commit) -> Appended {
    Appended {
        commit: commit.id,
        number: commit.number,
        first: commit.first_revision,
        last: commit.last_revision(),
        position: commit.first_position,
        recorded_at: commit.recorded_at,
        digest: commit.digest,
        repeated: true,
        usage: Usage::default(),
    }
}
