//! Reading: one stream, its slots, the list of streams, and the feed. Each function runs in one read transaction.

use crate::append::{USAGE, find_stream};
use crate::checksum;
use crate::codec::{self, COMMIT_COLUMNS, FRAME_COLUMNS, STREAM_COLUMNS, StreamRow};
use crate::error::{Result as Worked, Stop};
use crate::reader::Names;
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Commit, CommitNumber, CommitsPage, Cursor, Direction, Error, ErrorKind, FeedFilter, FeedHead, FeedItem, FeedPage,
    Head, Lag, ListStreams, ListedStream, Meta, NamespaceFilter, Position, ReadCommits, ReadFeed, ReadStream, Revision,
    StoreName, StreamId, StreamPage, StreamsPage, format,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::limits;
use evstore_kit::prefix::after_prefix;
use evstore_kit::stream_page::Slicer;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use std::ops::ControlFlow;
use std::time::Duration;

/// The head of a stream.
pub fn head(connection: &Connection, own: &StoreName, stream: &StreamId) -> Worked<Head> {
    let found = find_stream(connection, stream)?;
    head_of(connection, own, found.as_ref())
}

fn head_of(connection: &Connection, own: &StoreName, found: Option<&StreamRow>) -> Worked<Head> {
    let Some(found) = found else { return Ok(Head::missing()) };
    let (meta, _) = store(connection)?;
    Ok(found.head(&meta, own))
}

/// A page of one stream.
pub fn stream(connection: &Connection, own: &StoreName, request: &ReadStream) -> Worked<StreamPage> {
    let found = find_stream(connection, &request.stream)?;
    let mut page = Slicer::new(request, head_of(connection, own, found.as_ref())?);
    if let (Some(found), Some(wanted)) = (found, page.wants()) {
        let (rows, bound) = match request.direction {
            Direction::Forward => {
                ("revision >= ?2 ORDER BY revision, number", start_of_commit(connection, found.key, wanted)?)
            }
            Direction::Backward => ("revision <= ?2 ORDER BY revision DESC, number DESC", wanted),
        };
        let sql = format!("SELECT {COMMIT_COLUMNS} FROM commits WHERE stream = ?1 AND {rows}");
        let mut select = connection.prepare_cached(&sql)?;
        let mut rows = select.query(params![found.key, codec::integer(bound.0)?])?;
        let mut run = Run::new(&found, request.direction, wanted);
        loop {
            let Some(row) = rows.next()? else {
                run.check_end(&request.stream)?;
                break;
            };
            let commit = codec::commit(row, request.stream.clone())?;
            run.check_next(&commit)?;
            if page.push(commit).is_break() {
                break;
            }
        }
    }
    Ok(page.finish(USAGE)?)
}

/// Commits of one stream that have to follow each other: a gap would be a lost one.
struct Run<'a> {
    found: &'a StreamRow,
    direction: Direction,
    wanted: Revision,
    /// Slot, first and last revision of the commit before.
    before: Option<(u64, u64, u64)>,
}

impl<'a> Run<'a> {
    fn new(found: &'a StreamRow, direction: Direction, wanted: Revision) -> Self {
        Self { found, direction, wanted, before: None }
    }

    /// Refuses a commit that does not follow. One whose events are missing though nobody took them fails the checksum of its row.
    fn check_next(&mut self, commit: &Commit) -> Worked<()> {
        let (number, first, last) = span(commit);
        let follows = match (self.before, self.direction) {
            (None, Direction::Forward) => first <= self.wanted.0,
            (None, Direction::Backward) => first <= self.wanted.0 && self.wanted.0 <= last,
            (Some((before, _, end)), Direction::Forward) => number == before + 1 && first == end + 1,
            (Some((before, begin, _)), Direction::Backward) => number + 1 == before && last + 1 == begin,
        };
        let is_within = number <= self.found.number.0 && last <= self.found.revision.0;
        if !(follows && is_within) {
            return Err(lost(&commit.stream, number));
        }
        self.before = Some((number, first, last));
        Ok(())
    }

    /// Refuses an end before the last slot, or the first where reading goes backward.
    fn check_end(&self, stream: &StreamId) -> Worked<()> {
        let is_end = match (self.before, self.direction) {
            (None, _) => false,
            (Some((number, _, last)), Direction::Forward) => {
                number == self.found.number.0 && last == self.found.revision.0
            }
            (Some((number, first, _)), Direction::Backward) => number == 1 && first == 1,
        };
        if is_end { Ok(()) } else { Err(lost(stream, self.before.map_or(0, |(number, ..)| number))) }
    }
}

fn span(commit: &Commit) -> (u64, u64, u64) {
    let first = commit.first_revision.0;
    (commit.number.0, first, (first + u64::from(commit.count)).saturating_sub(1))
}

fn lost(stream: &StreamId, number: u64) -> Stop {
    codec::corrupt("a stream does not account for a commit").with("stream", stream).with("number", number).into()
}

/// Revision at which the commit begins that holds this one.
pub fn start_of_commit(connection: &Connection, key: i64, revision: Revision) -> Worked<Revision> {
    const SELECT: &str = "SELECT max(revision) FROM commits WHERE stream = ?1 AND revision <= ?2";
    let mut select = connection.prepare_cached(SELECT)?;
    let start = select.query_row(params![key, codec::integer(revision.0)?], |row| codec::number(row, 0))?;
    Ok(Revision(start))
}

/// A page of the slots of one stream.
pub fn commits(connection: &Connection, request: &ReadCommits) -> Worked<CommitsPage> {
    let mut page = CommitsPage { commits: Vec::new(), next: None, usage: USAGE };
    let Some(found) = find_stream(connection, &request.stream)? else { return Ok(page) };
    if request.from > found.number {
        return Ok(page);
    }
    // Numbers rise with revisions, so that the index by revision is also one by number.
    let sql = format!(
        "SELECT {COMMIT_COLUMNS} FROM commits WHERE stream = ?1 AND (revision, number) >= (?2, ?3)
        ORDER BY revision, number"
    );
    let start = revision_of_slot(connection, &found, request.from)?;
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params![found.key, codec::integer(start.0)?, codec::integer(request.from.0)?])?;
    let mut run = Run::new(&found, Direction::Forward, start);
    let mut bytes_left = request.max_bytes;
    loop {
        let Some(row) = rows.next()? else {
            run.check_end(&request.stream)?;
            break;
        };
        let commit = codec::commit(row, request.stream.clone())?;
        let number = commit.number;
        if page.commits.is_empty() && number != request.from.max(CommitNumber(1)) {
            return Err(lost(&request.stream, request.from.0));
        }
        run.check_next(&commit)?;
        let bytes = commit.events.iter().map(limits::event_bytes).sum();
        if !page.commits.is_empty() && (page.commits.len() >= request.limit as usize || bytes > bytes_left) {
            page.next = Some(number);
            break;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        page.commits.push(commit);
    }
    Ok(page)
}

/// The revision at which a slot begins, found by halving: slots and revisions rise together. One above the head for a slot
/// that is not there.
fn revision_of_slot(connection: &Connection, found: &StreamRow, slot: CommitNumber) -> Worked<Revision> {
    const SELECT: &str = "SELECT max(number) FROM commits WHERE stream = ?1 AND revision =
        (SELECT max(revision) FROM commits WHERE stream = ?1 AND revision <= ?2)";
    let mut select = connection.prepare_cached(SELECT)?;
    let (mut low, mut high) = (1, found.revision.0 + 1);
    while low < high && slot.0 > 1 {
        let middle = low + (high - low) / 2;
        let last: i64 = select.query_row(params![found.key, codec::integer(middle)?], |row| row.get(0))?;
        if last >= codec::integer(slot.0)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Revision(low))
}

/// The store's record and the last position, as a read transaction sees them.
pub fn store(connection: &Connection) -> Worked<(Meta, Position)> {
    let mut select = connection.prepare_cached("SELECT meta, position FROM store WHERE id = 1")?;
    let row = select.query_row([], |row| Ok((row.get::<_, Vec<u8>>(0)?, codec::number(row, 1)?))).optional()?;
    let Some((encoded, position)) = row else {
        return Err(Error::new(ErrorKind::Schema, "the store's record is missing").into());
    };
    let meta = format::decode_meta(&Bytes::from(encoded))?;
    meta.format.check_read()?;
    Ok((meta, Position(position)))
}

/// The end of the feed.
pub fn feed_head(connection: &Connection) -> Worked<FeedHead> {
    let (meta, end) = store(connection)?;
    let lag = Lag { commits: 0, age: Duration::ZERO };
    Ok(FeedHead { cursor: Cursor::total(meta.incarnation(), end), position: Some(end), lag, usage: USAGE })
}

/// Whether the feed has something after a place.
pub fn has_more(connection: &Connection, after: &Cursor) -> Worked<bool> {
    let (meta, end) = store(connection)?;
    Ok(meta.position_of(after)? < end)
}

/// A page of the feed.
pub fn feed(connection: &Connection, names: &mut Names, request: &ReadFeed) -> Worked<FeedPage> {
    let (meta, end) = store(connection)?;
    let after = feed_page::start(&meta, &request.from)?;
    let mut page = Assembler::new(request, after);
    if after < end {
        fill(connection, names, request, after, end, &mut page)?;
    }
    Ok(page.finish(meta.incarnation(), end, USAGE))
}

/// Hands everything after a position to a page, in order, until the page is full.
fn fill(
    connection: &Connection,
    names: &mut Names,
    request: &ReadFeed,
    after: Position,
    end: Position,
    page: &mut Assembler,
) -> Worked<()> {
    let mut accounted = None;
    // A range that was removed is told of as one; the stubs within are not looked at.
    for (first, last) in removed_ranges(connection, after)? {
        let before = Position(first.0.saturating_sub(1));
        if before > accounted.unwrap_or(after)
            && fill_commits(connection, names, request, after, (&mut accounted, before), page)?.is_break()
        {
            return Ok(());
        }
        account(&mut accounted, after, first, last)?;
        if page.push(FeedItem::Removed { first, last }).is_break() {
            return Ok(());
        }
    }
    // Nothing may stand behind the last position, so that there is no bound.
    if fill_commits(connection, names, request, after, (&mut accounted, Position(NUMBER_MAX)), page)?.is_continue()
        && accounted.unwrap_or(after) != end
    {
        return Err(unaccounted(accounted.unwrap_or(after).next()));
    }
    Ok(())
}

/// Hands the commits that begin after what is accounted for to a page, up to a position. Breaks when the page is full.
fn fill_commits(
    connection: &Connection,
    names: &mut Names,
    request: &ReadFeed,
    after: Position,
    (accounted, until): (&mut Option<Position>, Position),
    page: &mut Assembler,
) -> Worked<ControlFlow<()>> {
    let filter = &request.filter;
    let is_whole = filter.categories.is_empty() && filter.namespace == NamespaceFilter::All;
    let sql = format!(
        "SELECT {} FROM commits WHERE position >= coalesce((SELECT max(position) FROM commits WHERE position <= ?1), 0)
        AND position <= ?2 ORDER BY position",
        if is_whole { COMMIT_COLUMNS } else { FRAME_COLUMNS }
    );
    let mut select = connection.prepare_cached(&sql)?;
    let mut select_events = connection.prepare_cached("SELECT events FROM commits WHERE position = ?1")?;
    let mut select_name = Names::select(connection)?;
    let begin = accounted.unwrap_or(after).next();
    let mut rows = select.query([codec::integer(begin.0)?, codec::integer(until.0)?])?;
    while let Some(row) = rows.next()? {
        let stream = names.of(&mut select_name, row.get(1)?)?;
        let commit = match is_whole {
            true => codec::commit(row, stream)?,
            false => filtered(&mut select_events, filter, row, stream)?,
        };
        if let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) {
            // What begins last before the place may end there, or lie in a range that was told of.
            if last < begin {
                continue;
            }
            account(accounted, after, first, last)?;
        }
        if page.push(FeedItem::Commit(commit)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What a filter by stream drops is not worth reading; its frame is enough to move on.
fn filtered(
    select_events: &mut CachedStatement<'_>,
    filter: &FeedFilter,
    row: &Row<'_>,
    stream: StreamId,
) -> Worked<Commit> {
    let has_events = row.get::<_, Option<i64>>(codec::EVENTS)?.is_some();
    let mut commit = codec::frame(row, stream)?;
    if has_events && filter.covers_stream(&commit.stream) {
        let position: i64 = row.get(0)?;
        let encoded: Vec<u8> = select_events.query_row([position], |row| row.get(0))?;
        codec::add_events(&mut commit, &Bytes::from(encoded), row.get(codec::EVENTS_CHECKSUM)?)?;
    }
    Ok(commit)
}

/// Moves on over positions that have to be the next ones: a hole would be a lost commit.
fn account(accounted: &mut Option<Position>, after: Position, first: Position, last: Position) -> Worked<()> {
    let next = accounted.map_or(after, |last: Position| last).next();
    let starts = if accounted.is_none() { first <= next } else { first == next };
    if !starts {
        return Err(unaccounted(next));
    }
    *accounted = Some(last);
    Ok(())
}

fn unaccounted(position: Position) -> Stop {
    codec::corrupt("the feed does not account for a position").with("position", position).into()
}

/// Ranges without a commit that end after a position. There are few: one for each gap that a copy was told of.
fn removed_ranges(connection: &Connection, after: Position) -> Worked<Vec<(Position, Position)>> {
    const SELECT: &str = "SELECT first, last, checksum FROM removed WHERE last > ?1 ORDER BY first";
    let mut select = connection.prepare_cached(SELECT)?;
    let mut rows = select.query([codec::integer(after.0)?])?;
    let mut ranges = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(2)? != checksum::of_removed(row.get(0)?, row.get(1)?) {
            return Err(codec::corrupt("a stored row fails its checksum")
                .with("position", row.get::<_, i64>(0)?)
                .into());
        }
        ranges.push((Position(codec::number(row, 0)?), Position(codec::number(row, 1)?)));
    }
    Ok(ranges)
}

/// A page of the list of streams: one namespace after the other, so that each is entered by the index at the names that are
/// wanted, and what lies between them is not looked at.
pub fn streams(connection: &Connection, own: &StoreName, request: &ListStreams) -> Worked<StreamsPage> {
    let (meta, _) = store(connection)?;
    let mut listing = Listing { connection, own, meta, request, streams: Vec::new() };
    match &request.namespace {
        NamespaceFilter::One(one) => listing.add_namespace(one.as_str())?,
        NamespaceFilter::All => {
            let first = request.after.as_ref().map_or("", |after| after.namespace.as_str());
            let mut namespace = Some(first.to_owned());
            while let Some(current) = namespace.filter(|_| !listing.is_full()) {
                listing.add_namespace(&current)?;
                namespace = listing.next_namespace(&current)?;
            }
        }
    }
    Ok(listing.finish())
}

/// A page of the list in the making. It takes one more than the page holds, which tells whether there are more.
struct Listing<'a> {
    connection: &'a Connection,
    own: &'a StoreName,
    meta: Meta,
    request: &'a ListStreams,
    streams: Vec<ListedStream>,
}

impl Listing<'_> {
    fn is_full(&self) -> bool {
        self.streams.len() > self.request.limit as usize
    }

    fn category(&self) -> Option<&str> {
        self.request.category.as_ref().map(|category| category.as_str())
    }

    /// Adds the streams of a namespace, as many as there is room for.
    fn add_namespace(&mut self, namespace: &str) -> Worked<()> {
        let after = match &self.request.after {
            Some(after) if after.namespace.as_str() > namespace => return Ok(()),
            // The next text of all, so that there is one lower bound, which the index begins at.
            Some(after) if after.namespace.as_str() == namespace => format!("{}\0", after.name),
            Some(_) | None => String::new(),
        };
        let from = after.max(self.request.prefix.clone());
        let above = after_prefix(&self.request.prefix);
        let sql = list_statement(above.is_some(), self.request.category.is_some());
        let room = i64::from(self.request.limit) + 1 - self.streams.len() as i64;
        let mut select = self.connection.prepare_cached(&sql)?;
        let bounds = params![namespace, from, above, self.category(), room];
        let mut rows = select.query(bounds)?;
        while let Some(row) = rows.next()? {
            let stream = codec::stream_id(row, 9, 10)?;
            let head = codec::stream(row, &stream)?.head(&self.meta, self.own);
            self.streams.push(ListedStream { stream, head });
        }
        Ok(())
    }

    /// The first namespace above another one that has streams, of the category where one is wanted.
    fn next_namespace(&self, namespace: &str) -> Worked<Option<String>> {
        let mut select = self.connection.prepare_cached(match self.category() {
            Some(_) => NEXT_NAMESPACE_OF_CATEGORY,
            None => NEXT_NAMESPACE,
        })?;
        Ok(select.query_row(params![namespace, self.category()], |row| row.get(0))?)
    }

    fn finish(mut self) -> StreamsPage {
        let more = self.is_full();
        self.streams.truncate(self.request.limit as usize);
        let next = if more { self.streams.last().map(|last| last.stream.clone()) } else { None };
        StreamsPage { streams: self.streams, next, usage: USAGE }
    }
}

const NEXT_NAMESPACE: &str = "SELECT min(namespace) FROM streams WHERE namespace > ?1 AND ?2 IS NULL";
const NEXT_NAMESPACE_OF_CATEGORY: &str = "SELECT min(namespace) FROM streams WHERE namespace > ?1 AND category = ?2";

/// Each parameter is named in the statement whether it filters or not, so that all have one number.
fn list_statement(is_prefixed: bool, has_category: bool) -> String {
    let below = if is_prefixed { "name < ?3" } else { "?3 IS NULL" };
    // Told which index: between bounds on both sides SQLite prefers the unique one, which has the other categories too.
    let (index, category) = match has_category {
        true => ("streams_by_category", "category = ?4"),
        false => ("streams_by_name", "?4 IS NULL"),
    };
    format!(
        "SELECT {STREAM_COLUMNS}, namespace, name FROM streams INDEXED BY {index}
        WHERE namespace = ?1 AND name >= ?2 AND {below} AND {category} ORDER BY name LIMIT ?5"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::STATEMENTS;

    /// How SQLite goes about a statement: the lines of its plan.
    fn plan(connection: &Connection, statement: &str) -> Vec<String> {
        let mut select = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let unbound = std::iter::repeat_n(rusqlite::types::Null, select.parameter_count());
        let rows = select.query_map(rusqlite::params_from_iter(unbound), |row| row.get(3)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn a_list_enters_each_namespace_by_an_index_and_sorts_nothing() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(STATEMENTS).unwrap();
        for (is_prefixed, has_category, wanted) in [
            (false, false, "SEARCH streams USING INDEX streams_by_name (namespace=? AND name>?)"),
            (true, false, "SEARCH streams USING INDEX streams_by_name (namespace=? AND name>? AND name<?)"),
            (false, true, "SEARCH streams USING INDEX streams_by_category (category=? AND namespace=? AND name>?)"),
            (
                true,
                true,
                "SEARCH streams USING INDEX streams_by_category (category=? AND namespace=? AND name>? AND name<?)",
            ),
        ] {
            assert_eq!(plan(&connection, &list_statement(is_prefixed, has_category)), [wanted]);
        }
        let next = "SEARCH streams USING COVERING INDEX streams_by_name (namespace>?)";
        assert_eq!(plan(&connection, NEXT_NAMESPACE), [next]);
        let next = "SEARCH streams USING COVERING INDEX streams_by_category (category=? AND namespace>?)";
        assert_eq!(plan(&connection, NEXT_NAMESPACE_OF_CATEGORY), [next]);
    }
}
