//! Cuts a page out of one stream: a provider hands in commits in the order of reading until the page is full.

use crate::limits::event_bytes;
use crate::refusal;
use evstore_api::{
    Commit, CommitKind, Content, Direction, Error, ErrorKind, Head, ReadStream, Result, Revision, StreamId, StreamPage,
    StreamStart, Usage,
};
use std::ops::ControlFlow;

/// A page in the making.
#[derive(Debug)]
pub struct Slicer {
    stream: StreamId,
    head: Head,
    direction: Direction,
    /// The next event wanted; none where the stream ends in this direction.
    next: Option<Revision>,
    events_left: u32,
    bytes_left: u64,
    commits: Vec<Commit>,
    /// Whether the next event was met and is in an archive.
    archived: bool,
}

/// Refuses a read that begins at revision 0. To be called before any look at the store.
///
/// # Errors
/// `Invalid`.
pub fn check_start(start: StreamStart) -> Result<()> {
    if start == StreamStart::At(Revision(0)) {
        return Err(Error::new(ErrorKind::Invalid, "revisions count from 1"));
    }
    Ok(())
}

impl Slicer {
    /// An empty page of a stream with this head. The head and all commits have to be of one moment.
    #[must_use]
    pub fn new(request: &ReadStream, head: Head) -> Self {
        let (first, last) = (head.first_retained, head.revision);
        let start = match (request.from, request.direction) {
            (StreamStart::First, _) => first,
            (StreamStart::Last, _) => last,
            (StreamStart::At(revision), Direction::Forward) => revision.max(first),
            (StreamStart::At(revision), Direction::Backward) => revision.min(last),
        };
        let mut page = Self {
            stream: request.stream.clone(),
            head,
            direction: request.direction,
            next: None,
            events_left: request.limit,
            bytes_left: request.max_bytes,
            commits: Vec::new(),
            archived: false,
        };
        page.next = page.there(start);
        page
    }

    /// The event that the first commit handed in has to hold, and from which commits follow in the order of reading. None
    /// when the page is complete without any.
    #[must_use]
    pub fn wants(&self) -> Option<Revision> {
        if self.events_left == 0 { None } else { self.next }
    }

    /// Adds the next commit, whole, and cuts off what does not belong to the page. Markers, and commits that were stripped before
    /// the first retained event, may be handed in or left out. One that is stripped behind it is in an archive: it has to be handed
    /// in, and the page ends before it. Breaks when the page is full.
    pub fn push(&mut self, mut commit: Commit) -> ControlFlow<()> {
        let Some(next) = self.wants() else {
            return ControlFlow::Break(());
        };
        let first = commit.first_revision;
        let stripped = commit.content == Content::Stripped && commit.kind == CommitKind::Events;
        let is_wanted = match self.direction {
            Direction::Forward => commit.last_revision() >= next,
            Direction::Backward => first <= next,
        };
        if stripped && is_wanted && commit.last_revision() >= self.head.first_retained {
            self.archived = true;
            return ControlFlow::Break(());
        }
        let wanted = |ordinal: u32| match self.direction {
            Direction::Forward => first.plus(u64::from(ordinal)) >= next,
            Direction::Backward => first.plus(u64::from(ordinal)) <= next,
        };
        commit.events.retain(|event| wanted(event.ordinal));
        let available = commit.events.len();
        let fits = self.fitting(&commit);
        match self.direction {
            Direction::Forward => commit.events.truncate(fits),
            Direction::Backward => drop(commit.events.drain(..available - fits)),
        }
        let last = match self.direction {
            Direction::Forward => commit.events.last(),
            Direction::Backward => commit.events.first(),
        };
        if let Some(last) = last {
            self.next = self.following(first.plus(u64::from(last.ordinal)));
            self.commits.push(commit);
        }
        if fits < available || self.wants().is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The page.
    ///
    /// # Errors
    /// `Schema` where its first event is in an archive: an empty page would be taken for the stream's end.
    pub fn finish(self, usage: Usage) -> Result<StreamPage> {
        match self.next {
            Some(next) if self.archived && self.commits.is_empty() => Err(refusal::archived(&self.stream, next)),
            next => Ok(StreamPage { head: self.head, commits: self.commits, direction: self.direction, next, usage }),
        }
    }

    /// How many events of a commit fit, counted from the side on which reading begins. Takes their room.
    fn fitting(&mut self, commit: &Commit) -> usize {
        let mut bytes: Vec<u64> = commit.events.iter().map(event_bytes).collect();
        if self.direction == Direction::Backward {
            bytes.reverse();
        }
        let mut fits = 0;
        for bytes in bytes {
            let alone = self.commits.is_empty() && fits == 0;
            if self.events_left == 0 || (bytes > self.bytes_left && !alone) {
                break;
            }
            self.events_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            fits += 1;
        }
        fits
    }

    fn following(&self, revision: Revision) -> Option<Revision> {
        match self.direction {
            Direction::Forward => self.there(revision.next()),
            Direction::Backward => self.there(Revision(revision.0 - 1)),
        }
    }

    /// A revision, if the stream still has that event.
    fn there(&self, revision: Revision) -> Option<Revision> {
        (self.head.first_retained..=self.head.revision).contains(&revision).then_some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{
        CommitId, CommitKind, CommitNumber, Content, ContentDigest, Deadline, Event, EventType, NewEvent, StreamId,
        StreamState, Timestamp,
    };
    use std::time::Duration;

    fn commit(number: u64, first: u64, count: u32) -> Commit {
        let id = CommitId([1; 16]);
        let event = |ordinal| Event::recorded(NewEvent::new(EventType::new("t").unwrap(), vec![0; 10]), id, ordinal);
        Commit {
            stream: StreamId::new("s-1").unwrap(),
            id,
            number: CommitNumber(number),
            kind: CommitKind::Events,
            first_revision: Revision(first),
            count,
            first_position: None,
            recorded_at: Timestamp(0),
            digest: ContentDigest([0; 16]),
            imported: None,
            group: None,
            extensions: Vec::new(),
            content: Content::Kept,
            events: (0..count).map(event).collect(),
        }
    }

    /// Revisions and `next` of a read in a stream of commits 1–3, 4–5 and 6–9, of which the first is stripped.
    fn read(from: StreamStart, direction: Direction, limit: u32, max_bytes: u64) -> (Vec<u64>, Option<u64>) {
        let stream = StreamId::new("s-1").unwrap();
        let deadline = Deadline::within(Duration::from_secs(1));
        let request = ReadStream { stream, from, direction, limit, max_bytes, deadline };
        let head = Head {
            revision: Revision(9),
            number: CommitNumber(3),
            first_retained: Revision(4),
            state: StreamState::Open,
            ..Head::missing()
        };
        let mut slicer = Slicer::new(&request, head);
        if let Some(wanted) = slicer.wants() {
            let mut commits = vec![commit(2, 4, 2), commit(3, 6, 4)];
            match direction {
                Direction::Forward => commits.retain(|commit| commit.last_revision() >= wanted),
                Direction::Backward => {
                    commits.retain(|commit| commit.first_revision <= wanted);
                    commits.reverse();
                }
            }
            let _ = commits.into_iter().try_for_each(|commit| slicer.push(commit));
        }
        let page = slicer.finish(Usage::default()).unwrap();
        let revisions = page.events().map(|event| event.revision().0).collect();
        (revisions, page.next.map(|next| next.0))
    }

    #[test]
    fn a_read_begins_where_asked_and_ends_at_its_limit() {
        use Direction::{Backward, Forward};
        use StreamStart::{At, First, Last};
        let all = u64::MAX;
        assert_eq!(read(First, Forward, 100, all), ((4..=9).collect(), None));
        assert_eq!(read(Last, Backward, 100, all), ((4..=9).rev().collect(), None));
        assert_eq!(read(At(Revision(1)), Forward, 3, all), (vec![4, 5, 6], Some(7)));
        assert_eq!(read(At(Revision(7)), Forward, 3, all), (vec![7, 8, 9], None));
        assert_eq!(read(At(Revision(99)), Backward, 5, all), (vec![9, 8, 7, 6, 5], Some(4)));
        assert_eq!(read(At(Revision(7)), Backward, 2, all), (vec![7, 6], Some(5)));
        assert_eq!(read(Last, Forward, 5, all), (vec![9], None));
        assert_eq!(read(First, Backward, 5, all), (vec![4], None));
    }

    #[test]
    fn a_page_ends_before_what_is_in_an_archive() {
        let stream = StreamId::new("s-1").unwrap();
        let deadline = Deadline::within(Duration::from_secs(1));
        let head = Head { revision: Revision(9), state: StreamState::Open, ..Head::missing() };
        let stub = Commit { content: Content::Stripped, events: Vec::new(), ..commit(1, 1, 3) };
        let page = |from, direction, commits: Vec<Commit>| {
            let request =
                ReadStream { stream: stream.clone(), from, direction, limit: 9, max_bytes: u64::MAX, deadline };
            let mut slicer = Slicer::new(&request, head.clone());
            let _ = commits.into_iter().try_for_each(|commit| slicer.push(commit));
            slicer.finish(Usage::default())
        };
        let forward = page(StreamStart::First, Direction::Forward, vec![stub.clone(), commit(2, 4, 6)]);
        assert_eq!(forward.unwrap_err().kind(), ErrorKind::Schema);
        let backward = page(StreamStart::Last, Direction::Backward, vec![commit(2, 4, 6), stub.clone()]).unwrap();
        assert_eq!((backward.commits.len(), backward.next), (1, Some(Revision(3))));
        let further = page(StreamStart::At(Revision(3)), Direction::Backward, vec![stub.clone()]);
        assert_eq!(further.unwrap_err().kind(), ErrorKind::Schema);
        // A provider may begin with the commit before the one that is wanted.
        let behind = page(StreamStart::At(Revision(4)), Direction::Forward, vec![stub, commit(2, 4, 6)]).unwrap();
        assert_eq!((behind.commits.len(), behind.next), (1, None));
    }

    #[test]
    fn past_an_end_nothing_is_read() {
        assert_eq!(read(StreamStart::At(Revision(10)), Direction::Forward, 5, 99), (vec![], None));
        assert_eq!(read(StreamStart::At(Revision(3)), Direction::Backward, 5, 99), (vec![], None));
    }

    #[test]
    fn limit_zero_is_the_head_alone() {
        assert_eq!(read(StreamStart::First, Direction::Forward, 0, 99), (vec![], Some(4)));
    }

    #[test]
    fn bytes_bound_a_page_of_at_least_one_event() {
        assert_eq!(read(StreamStart::First, Direction::Forward, 9, 0), (vec![4], Some(5)));
        assert_eq!(read(StreamStart::First, Direction::Forward, 9, 29), (vec![4, 5], Some(6)));
        assert_eq!(read(StreamStart::First, Direction::Forward, 9, 30), (vec![4, 5, 6], Some(7)));
        assert_eq!(read(StreamStart::Last, Direction::Backward, 9, 30), (vec![9, 8, 7], Some(6)));
    }
}
