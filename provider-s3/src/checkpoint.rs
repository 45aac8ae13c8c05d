//! The state, kept now and then, so that opening a store of any length reads one object and a bounded rest. It is a hint: where it is
//! missing or damaged, the log is read from its beginning.

use crate::codec::{
    decode_frame, decode_location, decode_record, decode_snapshot, encode_frame, encode_location, encode_record,
    encode_snapshot,
};
use crate::store::Client;
use crate::tables::{KeptSnapshot, Place, Placed, SnapshotDigest, Tables};
use crate::wire::{Reader, Writer, corrupt, newer};
use bytes::Bytes;
use evstore_api::{Deadline, Position, Result, Revision, Usage, format};
use evstore_aws::s3::{Condition, Put};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// First bytes of every checkpoint.
const MAGIC: [u8; 4] = *b"EVSC";
/// Layout of checkpoints.
const LAYOUT: u8 = 1;
/// Checkpoints that are left beside the last one, for who reads one just now.
const KEPT_BEFORE: usize = 1;
/// Level of compression: ids and digests, most of it, can't be made smaller at any.
const LEVEL: i32 = 1;
/// Tries to point to a new checkpoint.
const TRIES_MAX: u32 = 5;

fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}/checkpoint/{number:020}")
}

fn pointer(prefix: &str) -> String {
    format!("{prefix}/head")
}

/// Reads the last checkpoint, if there is one that can be understood.
///
/// # Errors
/// As reads have them.
pub async fn read(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<Option<Tables>> {
    // A second look, as who writes a new one removes the one before the last.
    for _ in 0..2 {
        let Some((number, _)) = last(client, deadline, usage).await? else { return Ok(None) };
        if let Some(got) = client.link().get(&key(client.prefix(), number), None, deadline, usage).await? {
            let decoded = tokio::task::spawn_blocking(move || decode(&got.body)).await;
            // One that a newer release wrote is passed over too: the log says what it said.
            return Ok(decoded.ok().and_then(Result::ok).filter(|tables| tables.end == number));
        }
    }
    Ok(None)
}

/// The number of the last checkpoint, and the tag of what says so.
async fn last(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<Option<(u64, String)>> {
    let got = client.link().get(&pointer(client.prefix()), None, deadline, usage).await?;
    Ok(got.map(|got| {
        let number = std::str::from_utf8(&got.body).ok().and_then(|text| text.trim().parse().ok());
        (number.unwrap_or(0), got.tag)
    }))
}

/// Begins to write a checkpoint behind an object that this handle put, if it is time. Of several processes the one writes it that put
/// the object with the round number.
pub fn begin(client: &Arc<Client>, number: u64) {
    let every = client.config().checkpoint_every;
    let before = client.checkpointed.load(Ordering::Acquire);
    let long_since = number.saturating_sub(before) >= 2 * every;
    if !number.is_multiple_of(every) && !long_since {
        return;
    }
    let Ok(turn) = client.checkpointing.clone().try_lock_owned() else { return };
    client.checkpointed.store(number, Ordering::Release);
    let client = client.clone();
    tokio::spawn(async move {
        let _turn = turn;
        // A hint that is missing costs time and nothing else; the next one is written all the same.
        let _hint = write(&client).await;
    });
}

/// Writes the state as it is now.
async fn write(client: &Arc<Client>) -> Result<()> {
    let (number, state) = {
        let tables = client.tables();
        (tables.end, encode(&tables))
    };
    let packed = tokio::task::spawn_blocking(move || pack(&state)).await;
    let body = Bytes::from(packed.map_err(|_| corrupt("a checkpoint could not be packed"))??);
    let mut usage = Usage::default();
    let name = key(client.prefix(), number);
    match client.link().put(&name, body, Condition::Free, client.patience(), &mut usage).await? {
        // One of the same number says the same.
        Put::Done | Put::Refused => {}
        Put::Contended => return Ok(()),
    }
    point_to(client, number, &mut usage).await?;
    clear(client, number, &mut usage).await
}

async fn point_to(client: &Client, number: u64, usage: &mut Usage) -> Result<()> {
    for _ in 0..TRIES_MAX {
        let found = last(client, client.patience(), usage).await?;
        let condition = match &found {
            Some((found, _)) if *found >= number => return Ok(()),
            Some((_, tag)) => Condition::Unchanged(tag),
            None => Condition::Free,
        };
        let body = Bytes::from(number.to_string());
        let name = pointer(client.prefix());
        if client.link().put(&name, body, condition, client.patience(), usage).await? == Put::Done {
            return Ok(());
        }
    }
    Ok(())
}

/// Removes the checkpoints that nothing points to any more.
async fn clear(client: &Client, number: u64, usage: &mut Usage) -> Result<()> {
    let prefix = format!("{}/checkpoint/", client.prefix());
    let listed = client.link().list_all(&prefix, None, client.patience(), usage).await?;
    let mut older: Vec<u64> = listed
        .keys
        .iter()
        .filter_map(|key| key.strip_prefix(&prefix)?.parse().ok())
        .filter(|found| *found < number)
        .collect();
    older.sort_unstable();
    for old in &older[..older.len().saturating_sub(KEPT_BEFORE)] {
        client.link().delete(&key(client.prefix(), *old), client.patience(), usage).await?;
    }
    Ok(())
}

fn encode(tables: &Tables) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(tables.end);
    out.bytes(&format::encode_meta(tables.meta()));
    out.number(tables.last_position.0);
    out.number(tables.sizes.len() as u64);
    tables.sizes.iter().for_each(|size| out.number((*size).into()));
    out.number(tables.streams.len() as u64);
    for (id, stream) in &tables.streams {
        out.stream(id);
        out.number(stream.first_retained.0);
        out.number(stream.frames.len() as u64);
        stream.frames.iter().for_each(|frame| encode_frame(&mut out, frame));
    }
    let removed: Vec<_> = tables.feed.iter().filter(|(_, place)| place.content == Placed::Removed).collect();
    out.number(removed.len() as u64);
    for (first, place) in removed {
        out.number(first.0);
        out.number(place.last.0);
    }
    out.number(tables.snapshots.len() as u64);
    for kept in tables.snapshots.values() {
        encode_snapshot(&mut out, &kept.snapshot);
        out.raw(&kept.digest.0);
        encode_location(&mut out, kept.at);
    }
    out.number(tables.records.len() as u64);
    tables.records.values().for_each(|record| encode_record(&mut out, record));
    let dead: Vec<_> = tables.dead.values().flatten().collect();
    out.number(dead.len() as u64);
    dead.into_iter().for_each(|at| encode_location(&mut out, *at));
    out.byte(tables.due.into());
    out.0
}

fn pack(state: &[u8]) -> Result<Vec<u8>> {
    let mut out = Writer::default();
    out.raw(&MAGIC);
    out.byte(LAYOUT);
    let packed = zstd::encode_all(state, LEVEL)
        .map_err(|cause| corrupt("a checkpoint could not be compressed").caused_by(cause))?;
    out.raw(&packed);
    Ok(out.sealed())
}

fn decode(stored: &[u8]) -> Result<Tables> {
    let mut sealed = Reader::sealed(stored)?;
    if sealed.take(4)? != MAGIC {
        return Err(corrupt("it does not begin as checkpoints do"));
    }
    if sealed.byte()? != LAYOUT {
        return Err(newer("it is of a layout that this release does not know"));
    }
    let state = zstd::decode_all(sealed.0).map_err(|cause| corrupt("it can't be expanded").caused_by(cause))?;
    let mut from = Reader(&state);
    let mut tables = Tables { end: from.number()?, ..Tables::default() };
    tables.meta = Some(format::decode_meta(&Bytes::copy_from_slice(from.bytes()?))?);
    tables.last_position = Position(from.number()?);
    for _ in 0..from.count()? {
        tables.sizes.push(from.small()?);
    }
    for _ in 0..from.count()? {
        let (stream, first_retained) = (from.stream()?, Revision(from.number()?));
        let mut frames = Vec::new();
        let mut next = Revision(1);
        for _ in 0..from.count()? {
            let frame = decode_frame(&mut from, next)?;
            next = frame.last_revision().next();
            frames.push(frame);
        }
        tables.restore(stream, first_retained, frames)?;
    }
    for _ in 0..from.count()? {
        let (first, last) = (Position(from.number()?), Position(from.number()?));
        tables.feed.insert(first, Place { last, content: Placed::Removed });
    }
    for _ in 0..from.count()? {
        let (snapshot, digest) = (decode_snapshot(&mut from)?, SnapshotDigest(from.raw()?));
        let kept = KeptSnapshot { digest, at: decode_location(&mut from)?, snapshot };
        tables.snapshots.insert(kept.snapshot.stream.clone(), kept);
    }
    for _ in 0..from.count()? {
        let record = decode_record(&mut from)?;
        tables.records.insert(record.key.clone(), record);
    }
    for _ in 0..from.count()? {
        let at = decode_location(&mut from)?;
        tables.dead.entry(at.object).or_default().push(at);
    }
    tables.due = from.byte()? != 0;
    from.finish()?;
    if tables.sizes.len() as u64 != tables.end {
        return Err(corrupt("it does not count its objects"));
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Effect, Location};
    use evstore_api::{
        Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Meta, Record,
        RecordKey, RecordKind, RecordName, RecordNumber, Snapshot, StreamId, Timestamp,
    };

    fn at(offset: u32) -> Location {
        Location { object: 1, offset, bytes: 7 }
    }

    fn commit(name: &str, number: u64, position: u64, content: Content) -> Commit {
        Commit {
            stream: StreamId::new(name).unwrap(),
            id: CommitId([number as u8; 16]),
            number: CommitNumber(number),
            kind: CommitKind::Events,
            first_revision: Revision(number),
            count: 1,
            first_position: Some(Position(position)),
            recorded_at: Timestamp(5),
            digest: ContentDigest([4; 16]),
            imported: Some(Epoch(2)),
            group: Some(CommitId([8; 16])),
            extensions: Vec::new(),
            content,
            events: Vec::new(),
        }
    }

    fn tables() -> Tables {
        let stream = StreamId::new("a-1").unwrap();
        let snapshot = Snapshot {
            stream: stream.clone(),
            revision: Revision(1),
            number: CommitNumber(1),
            commit: CommitId([1; 16]),
            schema: 1,
            content_type: ContentType::bytes(),
            data: Bytes::new(),
            taken_at: Timestamp(0),
        };
        let record = Record {
            key: RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("c").unwrap() },
            number: RecordNumber(3),
            epoch: Epoch(0),
            value: Some(Bytes::from_static(b"v")),
            updated_at: Timestamp(0),
        };
        let effects = vec![
            Effect::Meta(Meta::new(Timestamp(1))),
            Effect::Removed(Position(9)),
            Effect::Commit(Box::new(commit("a-1", 1, 10, Content::Kept)), Some(at(10))),
            Effect::Commit(Box::new(commit("a-1", 2, 11, Content::Kept)), Some(at(20))),
            Effect::Commit(Box::new(commit("b-1", 1, 4, Content::Stripped)), None),
            Effect::Snapshot(Box::new(snapshot.clone()), SnapshotDigest::of(b"a"), at(30)),
            Effect::Snapshot(Box::new(snapshot), SnapshotDigest::of(b"b"), at(40)),
            Effect::Record(record),
            Effect::Stripped(stream, Revision(2)),
        ];
        let mut tables = Tables::default();
        tables.advance(1, 99, effects).unwrap();
        tables
    }

    #[test]
    fn the_state_reads_back() {
        let tables = tables();
        assert_eq!(tables.dead[&1], [at(30), at(10)]);
        assert_eq!(tables.feed.len(), 5);
        let read = decode(&pack(&encode(&tables)).unwrap()).unwrap();
        assert_eq!(read, tables);
    }

    #[test]
    fn a_draft_that_is_taken_back_leaves_nothing() {
        let mut tables = tables();
        let before = encode(&tables);
        let mut changes = Vec::new();
        for effect in [
            Effect::Commit(Box::new(commit("b-1", 2, 6, Content::Stripped)), None),
            Effect::Commit(Box::new(commit("c-1", 1, 12, Content::Kept)), Some(at(50))),
            Effect::Stripped(StreamId::new("a-1").unwrap(), Revision(3)),
            Effect::NoSnapshot(StreamId::new("a-1").unwrap()),
            Effect::Removed(Position(20)),
        ] {
            changes.extend(tables.apply(effect).unwrap());
        }
        assert_ne!(encode(&tables), before);
        changes.into_iter().rev().for_each(|change| tables.take_back(change));
        assert_eq!(encode(&tables), before);
    }

    #[test]
    fn every_flipped_bit_of_a_checkpoint_is_found() {
        let stored = pack(&encode(&tables())).unwrap();
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 4;
            assert!(decode(&flipped).is_err(), "byte {at}");
        }
    }
}
