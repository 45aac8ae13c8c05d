//! Reads the slots of one stream in order and goes on behind those that can't be read.

use crate::session::deadline;
use evstore_api::{
    Commit, CommitNumber, Direction, Error, ErrorKind, EventStore, Head, ReadCommits, ReadStream, Result, Revision,
    StoreAdmin, StreamId, StreamStart,
};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Most bytes in a page.
const PAGE_BYTES: u64 = 4 << 20;
/// How fast pages shrink where damage is met, and grow behind it.
const LIMIT_FACTOR: u32 = 32;

/// What stands next in a stream.
pub enum Slot {
    /// A commit.
    Commit(Commit),
    /// Slots that can't be read, both ends included, with the revisions that they may have; the second below the first
    /// where they have none.
    Unreadable { numbers: (CommitNumber, CommitNumber), revisions: (Revision, Revision), error: Error },
}

/// A stream that is being read.
pub struct Slots<'a> {
    store: &'a dyn EventStore,
    admin: &'a dyn StoreAdmin,
    stream: &'a StreamId,
    /// What comes next.
    number: CommitNumber,
    revision: Revision,
    /// Where to end.
    last: CommitNumber,
    last_revision: Revision,
    limit: u32,
    waiting: VecDeque<Commit>,
}

impl<'a> Slots<'a> {
    /// From the first slot to the head's.
    pub fn new(store: &'a dyn EventStore, admin: &'a dyn StoreAdmin, stream: &'a StreamId, head: &Head) -> Self {
        Self {
            store,
            admin,
            stream,
            number: CommitNumber(1),
            revision: Revision(1),
            last: head.number,
            last_revision: head.revision,
            limit: store.capabilities().limits.page_items,
            waiting: VecDeque::new(),
        }
    }

    /// The next slot; none at the end, which may be before the head's.
    ///
    /// # Errors
    /// As the store's reads, for anything but damage.
    pub async fn next(&mut self) -> Result<Option<Slot>> {
        while self.waiting.is_empty() && self.number <= self.last {
            match self.read(self.limit).await {
                Ok(commits) if commits.is_empty() => return Ok(None),
                Ok(commits) => {
                    self.waiting = commits;
                    self.limit = self.limit.saturating_mul(LIMIT_FACTOR).min(self.page_items());
                }
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                // The page may hold much that is good before what is not.
                Err(_) if self.limit > 1 => self.limit = (self.limit / LIMIT_FACTOR).max(1),
                Err(error) => return self.find_next(error).await.map(Some),
            }
        }
        Ok(self.waiting.pop_front().map(|commit| self.passed(commit)))
    }

    fn page_items(&self) -> u32 {
        self.store.capabilities().limits.page_items
    }

    fn passed(&mut self, commit: Commit) -> Slot {
        self.number = commit.number.next();
        self.revision = commit.last_revision().next();
        Slot::Commit(commit)
    }

    fn unreadable(&mut self, number: CommitNumber, revision: Revision, error: Error) -> Slot {
        let numbers = (self.number, CommitNumber(number.0 - 1));
        let revisions = (self.revision, Revision(revision.0.saturating_sub(1)));
        (self.number, self.revision) = (number, revision);
        Slot::Unreadable { numbers, revisions, error }
    }

    async fn read(&self, limit: u32) -> Result<VecDeque<Commit>> {
        let (stream, from) = (self.stream.clone(), self.number);
        let request = ReadCommits { stream, from, limit, max_bytes: PAGE_BYTES, deadline: deadline() };
        Ok(self.admin.read_commits(request).await?.commits.into())
    }

    /// By slots it can't be read, also where only the one behind is damaged: by revisions it ends exactly where it is told.
    async fn find_next(&mut self, error: Error) -> Result<Slot> {
        let mut bad = Revision(self.revision.0 - 1);
        let mut step = 1;
        // Steps that double find a revision that can be read, halving the first.
        let found = loop {
            let at = Revision((self.revision.0 - 1).saturating_add(step).min(self.last_revision.0));
            if at <= bad {
                break None;
            }
            match self.commit_at(at).await? {
                Some(commit) => break Some((at, commit)),
                None => (bad, step) = (at, step.saturating_mul(2)),
            }
        };
        let Some((mut good, mut commit)) = found else {
            return Ok(self.unreadable(self.last.next(), self.last_revision.next(), error));
        };
        while good.0.min(commit.first_revision.0).saturating_sub(bad.0) > 1 {
            good = good.min(commit.first_revision);
            let middle = Revision(bad.0 + (good.0 - bad.0) / 2);
            match self.commit_at(middle).await? {
                Some(earlier) => (good, commit) = (middle, earlier),
                None => bad = middle,
            }
        }
        match commit.number.cmp(&self.number) {
            Ordering::Equal => return Ok(self.passed(commit)),
            // Numbers that fall are no order to go on by.
            Ordering::Less => return Ok(self.unreadable(self.last.next(), self.last_revision.next(), error)),
            Ordering::Greater => {}
        }
        let (number, revision) = (commit.number, commit.first_revision);
        self.waiting.push_back(commit);
        Ok(self.unreadable(number, revision, error))
    }

    /// The commit with an event, whole; none where it can't be read.
    async fn commit_at(&self, revision: Revision) -> Result<Option<Commit>> {
        let read = async |from: Revision, limit: u32| -> Result<Option<Commit>> {
            let request = ReadStream {
                stream: self.stream.clone(),
                from: StreamStart::At(from),
                direction: Direction::Forward,
                limit,
                max_bytes: u64::MAX,
                deadline: deadline(),
            };
            match self.store.read_stream(request).await {
                Ok(page) => Ok(page.commits.into_iter().next()),
                Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(mut whole) = read(revision, 1).await? else { return Ok(None) };
        whole.events.clear();
        while (whole.events.len() as u64) < u64::from(whole.count) {
            let from = whole.first_revision.plus(whole.events.len() as u64);
            let left = whole.count - whole.events.len() as u32;
            let Some(part) = read(from, left.min(self.page_items())).await? else { return Ok(None) };
            if part.number != whole.number || part.events.is_empty() {
                break;
            }
            whole.events.extend(part.events);
        }
        Ok(Some(whole))
    }
}
