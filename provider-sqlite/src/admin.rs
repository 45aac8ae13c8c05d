//! Administration inside the write transaction: the store's record, truncation, deletion, and copies.

use crate::append::{
    CommitRow, NO_KEY, USAGE, find_commit, find_stream, head_of, put_commit, put_stream, situation, write,
};
use crate::checksum;
use crate::codec::{self, FRAME_COLUMNS, StreamRow};
use crate::error::Result as Worked;
use crate::read::start_of_commit;
use crate::writer::Transaction;
use crate::{record, snapshot};
use evstore_api::capabilities::Limits;
use evstore_api::{
    Commit, CommitKind, Content, Delete, Deleted, Epoch, Error, ErrorKind, MetaSwapped, Position, Record, Release,
    Released, Replica, Replicate, Replicated, Revision, Snapshot, SwapMeta, Truncate, Truncated, format,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::decide::{self, Decision, Wanted};
use evstore_kit::limits;
use rusqlite::{Connection, params};

/// Changes the store's record if it is as expected. The write lock makes it the fence: what comes later sees it.
pub fn swap_meta(transaction: &mut Transaction<'_>, request: &SwapMeta) -> Worked<MetaSwapped> {
    match decide::swap_meta(transaction.meta(), request)? {
        Some(answer) => Ok(answer),
        None => {
            transaction.put_meta(request.new.clone())?;
            Ok(MetaSwapped::Done)
        }
    }
}

/// Strips the commits of a stream that lie wholly before a revision, and puts a marker at its next slot.
pub fn truncate(transaction: &mut Transaction<'_>, request: &Truncate) -> Worked<Truncated> {
    let wanted = Wanted::truncation(request);
    let mut found = find_stream(transaction.connection, &request.stream)?;
    let repeat = find_commit(transaction.connection, found.as_ref(), request.commit)?;
    let head = head_of(transaction, found.as_ref());
    match decide::truncate(&situation(transaction, &head), &wanted, request.before, repeat)? {
        Decision::Repeated(marker) => Ok(Truncated { marker, first_retained: head.first_retained }),
        Decision::Write(slot) => {
            if let Some(found) = &mut found {
                strip(transaction, found, request.before)?;
            }
            let first_retained = found.as_ref().map_or(Revision(1), |found| found.first_retained);
            let marker = write(transaction, found, &wanted, &slot, None)?;
            Ok(Truncated { marker, first_retained })
        }
    }
}

/// Deletes a stream for good: its tombstone, its events, its snapshot.
pub fn delete(transaction: &mut Transaction<'_>, request: &Delete) -> Worked<Deleted> {
    let wanted = Wanted::deletion(request);
    let mut found = find_stream(transaction.connection, &request.stream)?;
    let repeat = find_commit(transaction.connection, found.as_ref(), request.commit)?;
    let head = head_of(transaction, found.as_ref());
    match decide::delete(&situation(transaction, &head), &wanted, repeat)? {
        Decision::Repeated(receipt) => Ok(receipt),
        Decision::Write(slot) => {
            if let Some(found) = &mut found {
                strip_all(transaction, found)?;
            }
            write(transaction, found, &wanted, &slot, None)
        }
    }
}

/// Takes the events away from the commits that lie wholly before a revision. What lies before the first retained event is
/// not looked at again, so that all strippings of a stream together visit each of its commits once.
fn strip(transaction: &mut Transaction<'_>, found: &mut StreamRow, before: Revision) -> Worked<()> {
    const STRIP: &str = "UPDATE commits SET events = NULL, checksum = 4294967295 - checksum
        WHERE stream = ?1 AND revision >= ?2 AND revision < ?3 AND events IS NOT NULL";
    let first = first_retained(transaction.connection, found, before)?;
    if first <= found.first_retained {
        return Ok(());
    }
    let bounds = params![found.key, codec::integer(found.first_retained.0)?, codec::integer(first.0)?];
    transaction.connection.prepare_cached(STRIP)?.execute(bounds)?;
    transaction.mark_erased();
    found.first_retained = first;
    Ok(())
}

/// Where the commit begins that holds a revision: all before it lie wholly before. One above the head past the head.
fn first_retained(connection: &Connection, found: &StreamRow, before: Revision) -> Worked<Revision> {
    if before > found.revision || found.key == NO_KEY {
        return Ok(found.revision.next());
    }
    // Above its first retained event a stream is whole, so that what begins last before a revision holds it.
    start_of_commit(connection, found.key, before)
}

/// Takes out the events of commits that an archive holds: those that lie wholly before a revision. They are not erased by that, so that
/// the WAL need not be emptied of them: whoever strips the stream later does that, whether events are still there or not.
pub fn release(transaction: &mut Transaction<'_>, request: &Release) -> Worked<Released> {
    const RELEASE: &str = "UPDATE commits SET events = NULL, checksum = 4294967295 - checksum
        WHERE stream = ?1 AND revision < ?2 AND revision + count <= ?2 AND events IS NOT NULL";
    decide::release(transaction.meta())?;
    for (stream, before) in &request.streams {
        let Some(found) = find_stream(transaction.connection, stream)? else { continue };
        let before = (*before).min(found.revision.next());
        let bounds = params![found.key, codec::integer(before.0)?];
        transaction.connection.prepare_cached(RELEASE)?.execute(bounds)?;
    }
    Ok(Released { usage: USAGE })
}

fn strip_all(transaction: &mut Transaction<'_>, found: &mut StreamRow) -> Worked<()> {
    strip(transaction, found, found.revision.next())?;
    snapshot::delete_of(transaction, found.key)
}

/// Copies recorded content, all of a request or nothing.
pub fn replicate(transaction: &mut Transaction<'_>, request: &Replicate, limits: &Limits) -> Worked<Replicated> {
    transaction.all_or_nothing(|transaction| {
        copy::check_importing(transaction.meta(), request.epoch, request.origin)?;
        let imported = copy::imported(request.origin, request.epoch);
        let mut done = Replicated { written: 0, present: 0, usage: USAGE };
        for item in &request.items {
            let fate = match item {
                Replica::Commit(commit) => copy_commit(transaction, commit, imported, limits)?,
                Replica::Removed { first, last } => copy_removed(transaction, *first, *last)?,
                Replica::Snapshot(copied) => copy_snapshot(transaction, copied, limits)?,
                Replica::Record(copied) => copy_record(transaction.connection, copied, limits)?,
            };
            match fate {
                Fate::Write => done.written += 1,
                Fate::Present => done.present += 1,
            }
        }
        Ok(done)
    })
}

fn copy_commit(
    transaction: &mut Transaction<'_>,
    commit: &Commit,
    imported: Option<Epoch>,
    limits: &Limits,
) -> Worked<Fate> {
    let events = limits::check_copy(limits, commit)?;
    let found = find_stream(transaction.connection, &commit.stream)?;
    let head = head_of(transaction, found.as_ref());
    let standing = read_slot(transaction.connection, found.as_ref(), commit)?;
    let claimed = claimed(transaction, commit)?;
    let first = match copy::commit(commit, &head, standing.as_ref(), transaction.end(), claimed)? {
        CommitFate::Present => return Ok(Fate::Present),
        CommitFate::Write { first } => first,
    };
    if find_commit(transaction.connection, found.as_ref(), commit.id)?.is_some() {
        let error = Error::new(ErrorKind::Conflict, "another slot of the stream has the commit's id");
        return Err(error.with("stream", &commit.stream).with("number", commit.number).of_commit(commit.id).into());
    }
    if first > transaction.end() {
        transaction.take_positions(commit.positions())?;
    }
    let key = put_copied_stream(transaction, found, commit, imported)?;
    put_commit(
        transaction,
        &CommitRow {
            position: first,
            stream: key,
            named: checksum::of_name(&commit.stream),
            number: commit.number,
            revision: commit.first_revision,
            count: commit.count,
            recorded_at: commit.recorded_at,
            id: commit.id,
            digest: commit.digest,
            kind: &commit.kind,
            imported,
            group: commit.group,
            extensions: (!commit.extensions.is_empty()).then(|| format::encode_extensions(&commit.extensions)),
            events: has_events(commit).then_some(&events[..]),
        },
    )?;
    Ok(Fate::Write)
}

/// Whether a copied commit brings events.
fn has_events(commit: &Commit) -> bool {
    commit.content == Content::Kept && !commit.kind.is_marker()
}

/// The commit in the slot that a copied one claims, as far as it begins at the same revision: any other is a conflict.
fn read_slot(connection: &Connection, found: Option<&StreamRow>, commit: &Commit) -> Worked<Option<Commit>> {
    let Some(found) = found else { return Ok(None) };
    let sql = format!("SELECT {FRAME_COLUMNS} FROM commits WHERE stream = ?1 AND revision = ?2 AND number = ?3");
    let mut select = connection.prepare_cached(&sql)?;
    let slot = params![found.key, codec::integer(commit.first_revision.0)?, codec::integer(commit.number.0)?];
    let mut rows = select.query(slot)?;
    rows.next()?.map(|row| codec::frame(row, commit.stream.clone())).transpose()
}

/// What stands at the positions that a copied commit claims.
fn claimed(transaction: &Transaction<'_>, commit: &Commit) -> Worked<Claimed> {
    const IN_REMOVED: &str = "SELECT EXISTS (SELECT 1 FROM removed WHERE first <= ?1 AND last >= ?2)";
    let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else { return Ok(Claimed::Next) };
    if first.0 == transaction.end().0 + 1 {
        return Ok(Claimed::Next);
    }
    let bounds = [codec::integer(first.0)?, codec::integer(last.0)?];
    let mut select = transaction.connection.prepare_cached(IN_REMOVED)?;
    let in_removed: bool = select.query_row(bounds, |row| row.get(0))?;
    let free = in_removed && rows_within(transaction.connection, first, last)? == 0;
    Ok(if free { Claimed::Removed } else { Claimed::Otherwise })
}

/// How many commits and markers have a place in a range of positions.
fn rows_within(connection: &Connection, first: Position, last: Position) -> Worked<i64> {
    // The one that begins last before the range may reach into it.
    const WITHIN: &str = "SELECT count(*) FROM commits
        WHERE position >= coalesce((SELECT max(position) FROM commits WHERE position <= ?1), ?1) AND position <= ?2
        AND position + max(count, 1) > ?1";
    let bounds = [codec::integer(first.0)?, codec::integer(last.0)?];
    Ok(connection.prepare_cached(WITHIN)?.query_row(bounds, |row| row.get(0))?)
}

/// The stream after a copied commit, with what the commit does to it.
fn put_copied_stream(
    transaction: &mut Transaction<'_>,
    found: Option<StreamRow>,
    commit: &Commit,
    imported: Option<Epoch>,
) -> Worked<i64> {
    let mut after = StreamRow {
        first_retained: found.as_ref().map_or(Revision(1), |found| found.first_retained),
        key: found.map_or(NO_KEY, |found| found.key),
        named: checksum::of_name(&commit.stream),
        revision: commit.last_revision(),
        number: commit.number,
        recorded_at: commit.recorded_at,
        last_id: commit.id,
        last_kind: commit.kind.clone(),
        last_imported: imported,
    };
    match commit.kind {
        CommitKind::Truncated { before } => strip(transaction, &mut after, before)?,
        CommitKind::Deleted => strip_all(transaction, &mut after)?,
        // What its source stripped, it had stripped from the beginning.
        CommitKind::Events if commit.content == Content::Stripped => {
            let before = after.revision.next();
            strip(transaction, &mut after, before)?;
        }
        CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. } => {}
    }
    put_stream(transaction, &commit.stream, &after)
}

fn copy_removed(transaction: &mut Transaction<'_>, first: Position, last: Position) -> Worked<Fate> {
    let end = transaction.end();
    let covered = first > end || holds_nothing(transaction.connection, first, last.min(end))?;
    let fate = copy::removed(first, last, end, covered)?;
    if fate == Fate::Write {
        let begin = transaction.take_positions(last.0 - end.0)?;
        let mut insert =
            transaction.connection.prepare_cached("INSERT INTO removed (first, last, checksum) VALUES (?1, ?2, ?3)")?;
        let (first, last) = (codec::integer(begin.0)?, codec::integer(last.0)?);
        insert.execute([first, last, checksum::of_removed(first, last)])?;
    }
    Ok(fate)
}

/// Whether a range of positions that were given has neither events nor markers any more.
fn holds_nothing(connection: &Connection, first: Position, last: Position) -> Worked<bool> {
    const HELD: &str = "SELECT EXISTS (SELECT 1 FROM commits
        WHERE position >= coalesce((SELECT max(position) FROM commits WHERE position <= ?1), ?1) AND position <= ?2
        AND position + max(count, 1) > ?1 AND (events IS NOT NULL OR marker IS NOT NULL))";
    let bounds = [codec::integer(first.0)?, codec::integer(last.0)?];
    let held: bool = connection.prepare_cached(HELD)?.query_row(bounds, |row| row.get(0))?;
    Ok(!held)
}

fn copy_snapshot(transaction: &Transaction<'_>, copied: &Snapshot, limits: &Limits) -> Worked<Fate> {
    limits::check_snapshot(limits, copied)?;
    let found = find_stream(transaction.connection, &copied.stream)?;
    let head = head_of(transaction, found.as_ref());
    let kept = snapshot::read(transaction.connection, &copied.stream)?;
    let fate = copy::snapshot(copied, kept.as_ref(), &head)?;
    if fate == Fate::Write {
        // A stream that is missing is one that the snapshot is ahead of.
        snapshot::write(transaction.connection, found.map_or(NO_KEY, |found| found.key), copied)?;
    }
    Ok(fate)
}

fn copy_record(connection: &Connection, copied: &Record, limits: &Limits) -> Worked<Fate> {
    limits::check_record(limits, copied)?;
    let kept = record::read(connection, &copied.key)?;
    let fate = copy::record(copied, kept.as_ref())?;
    if fate == Fate::Write {
        record::write(connection, copied)?;
    }
    Ok(fate)
}
