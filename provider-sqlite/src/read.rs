//! Reading: one stream, its slots, the list of streams, and the feed. Each function runs in one read transaction.

use crate::append::{USAGE, find_stream};
use crate::codec::{self, COMMIT_COLUMNS, STREAM_COLUMNS, StreamRow};
use crate::error::Result as Worked;
use crate::reader::Names;
use bytes::Bytes;
use evstore_api::{
    Commit, CommitNumber, CommitsPage, Content, Cursor, Direction, Error, ErrorKind, FeedFilter, FeedHead, FeedItem,
    FeedPage, Head, Lag, ListStreams, ListedStream, Meta, NamespaceFilter, Position, ReadCommits, ReadFeed, ReadStream,
    Revision, StoreName, StreamId, StreamPage, StreamsPage, format,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::limits;
use evstore_kit::stream_page::Slicer;
use rusqlite::{Connection, OptionalExtension, Row, params};
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
        while let Some(row) = rows.next()? {
            if page.push(codec::commit(row, request.stream.clone())?).is_break() {
                break;
            }
        }
    }
    Ok(page.finish(USAGE))
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
    let sql =
        format!("SELECT {COMMIT_COLUMNS} FROM commits WHERE stream = ?1 AND revision >= ?2 ORDER BY revision, number");
    let start = revision_of_slot(connection, &found, request.from)?;
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params![found.key, codec::integer(start.0)?])?;
    let mut bytes_left = request.max_bytes;
    while let Some(row) = rows.next()? {
        let number = CommitNumber(codec::number(row, 2)?);
        if number < request.from {
            continue;
        }
        let commit = codec::commit(row, request.stream.clone())?;
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
    let sql = format!(
        "SELECT {COMMIT_COLUMNS} FROM commits
        WHERE position >= coalesce((SELECT max(position) FROM commits WHERE position <= ?1), 0) ORDER BY position"
    );
    let mut removed = removed_ranges(connection, after)?.into_iter().peekable();
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query([codec::integer(after.0 + 1)?])?;
    let mut select_name = Names::select(connection)?;
    let mut accounted = None;
    loop {
        let row = rows.next()?;
        let reached = row.map_or(Ok(end.0 + 1), |row| codec::number(row, 0))?;
        while let Some((first, last)) = removed.next_if(|(first, _)| first.0 <= reached) {
            account(&mut accounted, after, first, last)?;
            if page.push(FeedItem::Removed { first, last }).is_break() {
                return Ok(());
            }
        }
        let Some(row) = row else { return Ok(()) };
        let stream = names.of(&mut select_name, row.get(1)?)?;
        let commit = feed_commit(stream, &request.filter, row)?;
        // A stub may lie in a range that was removed, and is then told of already.
        if commit.content == Content::Stripped && accounted.is_some() && commit.last_position() <= accounted {
            continue;
        }
        if let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) {
            account(&mut accounted, after, first, last)?;
        }
        if page.push(FeedItem::Commit(commit)).is_break() {
            return Ok(());
        }
    }
}

/// What a filter by stream drops is not worth decoding; its frame is enough to move on.
fn feed_commit(stream: StreamId, filter: &FeedFilter, row: &Row<'_>) -> Worked<Commit> {
    if filter.covers_stream(&stream) { codec::commit(row, stream) } else { codec::frame(row, stream) }
}

/// Moves on over positions that have to be the next ones: a hole would be a lost commit.
fn account(accounted: &mut Option<Position>, after: Position, first: Position, last: Position) -> Worked<()> {
    let next = accounted.map_or(after, |last: Position| last).next();
    let starts = if accounted.is_none() { first <= next } else { first == next };
    if !starts {
        return Err(codec::corrupt("the feed does not account for a position").with("position", next).into());
    }
    *accounted = Some(last);
    Ok(())
}

/// Ranges without a commit that end after a position. There are few: one for each gap that a copy was told of.
fn removed_ranges(connection: &Connection, after: Position) -> Worked<Vec<(Position, Position)>> {
    const SELECT: &str = "SELECT first, last FROM removed WHERE last > ?1 ORDER BY first";
    let mut select = connection.prepare_cached(SELECT)?;
    let range = |row: &Row<'_>| Ok((Position(codec::number(row, 0)?), Position(codec::number(row, 1)?)));
    Ok(select.query_map([codec::integer(after.0)?], range)?.collect::<rusqlite::Result<_>>()?)
}

/// A page of the list of streams.
pub fn streams(connection: &Connection, own: &StoreName, request: &ListStreams) -> Worked<StreamsPage> {
    let mut sql = format!(
        "SELECT {STREAM_COLUMNS}, namespace, name FROM streams WHERE (namespace, name) > (?1, ?2) AND name >= ?3"
    );
    let mut clause = |needed: bool, clause: &str| {
        if needed {
            sql.push_str(clause);
        }
    };
    let namespace = match &request.namespace {
        NamespaceFilter::All => None,
        NamespaceFilter::One(one) => Some(one.as_str()),
    };
    let category = request.category.as_ref().map(|category| category.as_str());
    let above = after_prefix(&request.prefix);
    // Each parameter is named in the statement whether it filters or not, so that all have one number.
    clause(true, if above.is_some() { " AND name < ?4" } else { " AND ?4 IS NULL" });
    clause(true, if namespace.is_some() { " AND namespace = ?5" } else { " AND ?5 IS NULL" });
    clause(true, if category.is_some() { " AND category = ?6" } else { " AND ?6 IS NULL" });
    clause(true, " ORDER BY namespace, name LIMIT ?7");
    let (after_namespace, after_name) =
        request.after.as_ref().map_or(("", ""), |after| (after.namespace.as_str(), after.name.as_str()));
    let limit = i64::from(request.limit) + 1;
    let (meta, _) = store(connection)?;
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows =
        select.query(params![after_namespace, after_name, request.prefix, above, namespace, category, limit])?;
    let mut streams = Vec::new();
    while let Some(row) = rows.next()? {
        streams.push(ListedStream { stream: codec::stream_id(row, 8, 9)?, head: codec::stream(row)?.head(&meta, own) });
    }
    let more = streams.len() > request.limit as usize;
    streams.truncate(request.limit as usize);
    let next = if more { streams.last().map(|last| last.stream.clone()) } else { None };
    Ok(StreamsPage { streams, next, usage: USAGE })
}

/// The first text, in the order of bytes, that is above every text that begins with a prefix.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Not every number is a character: the surrogates are left out.
        if let Some(next) = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_below_the_next_text() {
        assert_eq!(after_prefix("order-").as_deref(), Some("order."));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_prefix(""), None);
    }
}
