//! Puts a page of the feed together: a provider hands in what stands there, in order, until the page is full.

use crate::limits::event_bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Commit, Content, Cursor, Error, ErrorKind, FeedFilter, FeedItem, FeedPage, FeedStart, Incarnation, Meta, Position,
    ReadFeed, Result, Usage,
};
use std::ops::ControlFlow;

/// Commits and ranges that one call looks at for nothing: a filter drops them, or they lengthen a range.
pub const PASSED_OVER_ITEMS_MAX: u32 = 10_000;
/// Bytes of data and metadata that one call looks at for nothing.
pub const PASSED_OVER_BYTES_MAX: u64 = 16 << 20;

/// The position after which a read begins.
///
/// # Errors
/// `Invalid` for a number that no position can have; `CursorRefused` and `HistoryLost` as [`Meta::position_of`].
pub fn start(meta: &Meta, from: &FeedStart) -> Result<Position> {
    let after = match from {
        FeedStart::First => Position(0),
        FeedStart::After(cursor) => meta.position_of(cursor)?,
        FeedStart::AfterPosition(position) => *position,
    };
    if after.0 > NUMBER_MAX {
        return Err(Error::new(ErrorKind::Invalid, "positions stay below 2^53").with("position", after));
    }
    Ok(after)
}

/// A page in the making, in a feed whose positions are contiguous.
#[derive(Debug)]
pub struct Assembler {
    filter: FeedFilter,
    /// The place after which the page begins.
    after: Position,
    /// The last place that was looked at.
    at: Position,
    events_left: u64,
    bytes_left: u64,
    items_to_pass_over: u32,
    bytes_to_pass_over: u64,
    items: Vec<FeedItem>,
}

impl Assembler {
    /// An empty page after a position.
    #[must_use]
    pub fn new(request: &ReadFeed, after: Position) -> Self {
        Self {
            filter: request.filter.clone(),
            after,
            at: after,
            events_left: u64::from(request.limit),
            bytes_left: request.max_bytes,
            items_to_pass_over: PASSED_OVER_ITEMS_MAX,
            bytes_to_pass_over: PASSED_OVER_BYTES_MAX,
            items: Vec::new(),
        }
    }

    /// Adds what stands next: a commit as it is stored, stripped ones too, or a range. What lies at or before the start is
    /// cut off. Breaks when the page is full, and has then not taken what was handed in.
    ///
    /// # Panics
    /// When a commit has no position.
    pub fn push(&mut self, item: FeedItem) -> ControlFlow<()> {
        if self.items_to_pass_over == 0 || self.bytes_to_pass_over == 0 {
            return ControlFlow::Break(());
        }
        let (first, last) = span(&item);
        if last <= self.after {
            return ControlFlow::Continue(());
        }
        let looked_at = bytes(&item);
        match self.seen(item, first, last) {
            Some(item) if !self.lengthens(&item) => self.take(item)?,
            Some(_) | None => {
                self.items_to_pass_over -= 1;
                self.bytes_to_pass_over = self.bytes_to_pass_over.saturating_sub(looked_at);
            }
        }
        self.at = last;
        ControlFlow::Continue(())
    }

    /// Whether no event more has room, so that what follows is not worth reading. It may be handed in all the same.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.events_left == 0
    }

    /// The page, in the feed of this incarnation that ends at `end`.
    #[must_use]
    pub fn finish(self, incarnation: Incarnation, end: Position, usage: Usage) -> FeedPage {
        FeedPage {
            items: self.items,
            before: Some(self.after),
            next: Cursor::total(incarnation, self.at),
            end: self.at >= end,
            usage,
        }
    }

    /// What the reader gets to see of it.
    fn seen(&self, item: FeedItem, first: Position, last: Position) -> Option<FeedItem> {
        let first = first.max(self.after.next());
        match item {
            FeedItem::Commit(commit) if is_stub(&commit) => {
                self.filter.is_none().then_some(FeedItem::Removed { first, last })
            }
            FeedItem::Removed { .. } => self.filter.is_none().then_some(FeedItem::Removed { first, last }),
            FeedItem::Commit(mut commit) => {
                // The places up to `last` that are asked for; all others hold events that the reader has.
                let wanted = last.0 + 1 - first.0;
                commit.events.retain(|event| u64::from(event.ordinal) + wanted >= u64::from(commit.count));
                self.filter.apply(commit).map(FeedItem::Commit)
            }
        }
    }

    /// Whether it is a range that follows the last one directly; it is part of that then.
    fn lengthens(&mut self, item: &FeedItem) -> bool {
        match (self.items.last_mut(), item) {
            (Some(FeedItem::Removed { last: end, .. }), FeedItem::Removed { first, last }) if end.next() == *first => {
                *end = *last;
                true
            }
            _ => false,
        }
    }

    /// Takes an item where there is room for it. The first is taken always.
    fn take(&mut self, item: FeedItem) -> ControlFlow<()> {
        // A marker or a range counts as one event, so that a page of them is bounded too.
        let events = match &item {
            FeedItem::Commit(commit) => commit.events.len().max(1) as u64,
            FeedItem::Removed { .. } => 1,
        };
        let bytes = bytes(&item);
        if !self.items.is_empty() && (events > self.events_left || bytes > self.bytes_left) {
            return ControlFlow::Break(());
        }
        self.events_left = self.events_left.saturating_sub(events);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.items.push(item);
        ControlFlow::Continue(())
    }
}

/// Whether only the frame of a commit with events is left.
fn is_stub(commit: &Commit) -> bool {
    commit.content == Content::Stripped && !commit.kind.is_marker()
}

fn span(item: &FeedItem) -> (Position, Position) {
    match item {
        FeedItem::Commit(commit) => {
            let first = commit.first_position.expect("a commit in a contiguous feed has a position");
            (first, first.plus(commit.positions() - 1))
        }
        FeedItem::Removed { first, last } => (*first, *last),
    }
}

fn bytes(item: &FeedItem) -> u64 {
    match item {
        FeedItem::Commit(commit) => commit.events.iter().map(event_bytes).sum(),
        FeedItem::Removed { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{
        CommitId, CommitKind, CommitNumber, ContentDigest, Deadline, Event, EventType, NewEvent, Revision, StreamId,
        Timestamp,
    };
    use std::time::Duration;

    const HERE: Incarnation = Incarnation([7; 16]);

    fn commit(stream: &str, first: u64, count: u32) -> Commit {
        let id = CommitId([1; 16]);
        let event = |ordinal| Event::recorded(NewEvent::new(EventType::new("t").unwrap(), vec![0; 10]), id, ordinal);
        Commit {
            stream: StreamId::new(stream).unwrap(),
            id,
            number: CommitNumber(1),
            kind: if count == 0 { CommitKind::Deleted } else { CommitKind::Events },
            first_revision: Revision(1),
            count,
            first_position: Some(Position(first)),
            recorded_at: Timestamp(0),
            digest: ContentDigest([0; 16]),
            imported: None,
            group: None,
            extensions: Vec::new(),
            content: Content::Kept,
            events: (0..count).map(event).collect(),
        }
    }

    fn stub(first: u64, count: u32) -> Commit {
        Commit { content: Content::Stripped, events: Vec::new(), ..commit("a-1", first, count) }
    }

    /// 1–2 removed, 3–5 stripped, 6–7 of `a`, 8–10 of `b`, 11 a marker of `a`.
    fn feed() -> Vec<FeedItem> {
        vec![
            FeedItem::Removed { first: Position(1), last: Position(2) },
            FeedItem::Commit(stub(3, 3)),
            FeedItem::Commit(commit("a-1", 6, 2)),
            FeedItem::Commit(commit("b-1", 8, 3)),
            FeedItem::Commit(commit("a-1", 11, 0)),
        ]
    }

    #[test]
    fn a_page_is_full_when_no_event_has_room() {
        let deadline = Deadline::within(Duration::from_secs(1));
        let request =
            ReadFeed { from: FeedStart::First, filter: FeedFilter::none(), limit: 2, max_bytes: 1_000, deadline };
        let mut page = Assembler::new(&request, Position(5));
        assert!(!page.is_full());
        assert!(page.push(FeedItem::Commit(commit("a-1", 6, 1))).is_continue());
        assert!(!page.is_full());
        assert!(page.push(FeedItem::Commit(commit("a-1", 7, 1))).is_continue());
        assert!(page.is_full());
    }

    fn read(after: u64, filter: FeedFilter, limit: u32, max_bytes: u64) -> FeedPage {
        let deadline = Deadline::within(Duration::from_secs(1));
        let request = ReadFeed { from: FeedStart::First, filter, limit, max_bytes, deadline };
        let mut page = Assembler::new(&request, Position(after));
        let _ = feed().into_iter().try_for_each(|item| page.push(item));
        page.finish(HERE, Position(11), Usage::default())
    }

    /// What a page holds, as `Removed` ranges or the positions of events and markers, and where it ends.
    fn spans(page: &FeedPage) -> (Vec<(u64, u64)>, u64, bool) {
        let span = |item: &FeedItem| match item {
            FeedItem::Removed { first, last } => (first.0, last.0),
            FeedItem::Commit(commit) => {
                let positions: Vec<_> = commit.events().filter_map(|event| event.position()).collect();
                let first = commit.first_position.unwrap();
                (positions.first().unwrap_or(&first).0, positions.last().unwrap_or(&first).0)
            }
        };
        (page.items.iter().map(span).collect(), page.next.position().unwrap().0, page.end)
    }

    #[test]
    fn what_was_removed_is_one_range_and_commits_are_whole() {
        let page = read(0, FeedFilter::none(), 100, u64::MAX);
        assert_eq!(spans(&page), (vec![(1, 5), (6, 7), (8, 10), (11, 11)], 11, true));
        assert_eq!(page.before, Some(Position(0)));
    }

    #[test]
    fn a_page_is_bounded_and_never_empty_handed() {
        assert_eq!(spans(&read(5, FeedFilter::none(), 1, u64::MAX)), (vec![(6, 7)], 7, false));
        assert_eq!(spans(&read(5, FeedFilter::none(), 4, u64::MAX)), (vec![(6, 7)], 7, false));
        assert_eq!(spans(&read(5, FeedFilter::none(), 5, u64::MAX)), (vec![(6, 7), (8, 10)], 10, false));
        assert_eq!(spans(&read(5, FeedFilter::none(), 100, 49)), (vec![(6, 7)], 7, false));
        assert_eq!(spans(&read(5, FeedFilter::none(), 100, 50)), (vec![(6, 7), (8, 10), (11, 11)], 11, true));
    }

    #[test]
    fn a_start_inside_a_commit_or_range_gives_exactly_the_rest() {
        assert_eq!(spans(&read(3, FeedFilter::none(), 1, u64::MAX)), (vec![(4, 5)], 5, false));
        assert_eq!(spans(&read(8, FeedFilter::none(), 2, u64::MAX)), (vec![(9, 10)], 10, false));
    }

    #[test]
    fn a_place_at_or_beyond_the_end_is_an_empty_page() {
        assert_eq!(spans(&read(11, FeedFilter::none(), 1, u64::MAX)), (vec![], 11, true));
        assert_eq!(spans(&read(50, FeedFilter::none(), 1, u64::MAX)), (vec![], 50, true));
    }

    #[test]
    fn a_read_begins_at_a_number_that_a_position_can_have() {
        let meta = Meta::new(Timestamp(0));
        let kind = |position| start(&meta, &FeedStart::AfterPosition(Position(position))).map_err(|error| error.kind());
        assert_eq!(kind(NUMBER_MAX), Ok(Position(NUMBER_MAX)));
        assert_eq!(kind(NUMBER_MAX + 1), Err(ErrorKind::Invalid));
    }

    #[test]
    fn a_filter_moves_the_cursor_over_what_it_drops() {
        let category = StreamId::new("b-1").unwrap().name.category();
        let filter = FeedFilter { categories: vec![category], ..FeedFilter::none() };
        assert_eq!(spans(&read(0, filter, 100, u64::MAX)), (vec![(8, 10)], 11, true));
        let filter = FeedFilter { types: vec![EventType::new("other").unwrap()], ..FeedFilter::none() };
        assert_eq!(spans(&read(0, filter, 1, 1)), (vec![], 11, true));
    }

    #[test]
    fn work_is_bounded_where_a_filter_drops_everything() {
        let filter = FeedFilter { types: vec![EventType::new("other").unwrap()], ..FeedFilter::none() };
        let deadline = Deadline::within(Duration::from_secs(1));
        let request = ReadFeed { from: FeedStart::First, filter, limit: 1, max_bytes: 1, deadline };
        let mut page = Assembler::new(&request, Position(0));
        let all = u64::from(PASSED_OVER_ITEMS_MAX) + 5;
        let _ = (1..=all).try_for_each(|position| page.push(FeedItem::Commit(commit("a-1", position, 1))));
        let page = page.finish(HERE, Position(all), Usage::default());
        assert_eq!(spans(&page), (vec![], u64::from(PASSED_OVER_ITEMS_MAX), false));
    }
}
