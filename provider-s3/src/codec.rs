//! The objects of the log: an index of effects under a checksum, and behind it their payloads, each with a checksum of its own.
//! Pure.
//!
//! The index of an object never changes, and no payload ever moves in it. A payload that was removed is zeros, and those at the end
//! are cut off; one that is there never begins with a zero.

use crate::draft::Drafted;
use crate::tables::{Effect, Frame, Location, SnapshotDigest};
use crate::wire::{Reader, Writer, corrupt, newer};
use bytes::Bytes;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentType, Epoch, Position, Record, RecordKey, RecordKind,
    RecordName, RecordNumber, Result, Revision, Snapshot, StreamId, format,
};

/// First bytes of every object of the log.
const MAGIC: [u8; 4] = *b"EVS3";
/// Layout of objects. It is the first thing that is read behind the magic.
const LAYOUT: u8 = 1;
/// Bytes before the index: magic, layout, length of the index.
const HEAD_BYTES: usize = 9;
/// Bytes of a checksum.
const SUM_BYTES: usize = 4;
/// First byte of a snapshot's payload.
const SNAPSHOT: u8 = 1;

const COMMIT_WITH_EVENTS: u8 = 1;
const COMMIT_WITHOUT: u8 = 2;
const REMOVED: u8 = 3;
const STRIPPED: u8 = 4;
const A_SNAPSHOT: u8 = 5;
const NO_SNAPSHOT: u8 = 6;
const A_RECORD: u8 = 7;
const META: u8 = 8;
const BLANKED: u8 = 9;

/// Who put an object: the handle, and which of its tries. Nobody else has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The handle.
    pub writer: [u8; 16],
    /// The try.
    pub attempt: [u8; 16],
}

impl Author {
    /// One that nobody had before.
    pub fn new(writer: [u8; 16]) -> Self {
        Self { writer, attempt: CommitId::generate().0 }
    }
}

/// An object of the log, without its payloads.
#[derive(Debug)]
pub struct Object {
    /// Who put it.
    pub author: Author,
    /// What it does.
    pub effects: Vec<Effect>,
}

impl Object {
    /// Where its payloads lie, in order.
    pub fn locations(&self) -> impl Iterator<Item = Location> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Commit(_, at) => *at,
            Effect::Snapshot(_, _, at) => Some(*at),
            _ => None,
        })
    }
}

/// The object of a number.
///
/// # Panics
/// When what it would hold does not fit into it, which the bounds of a group rule out.
pub fn encode(number: u64, author: Author, drafted: &[Drafted]) -> Vec<u8> {
    let mut index = Writer::default();
    index.raw(&author.writer);
    index.raw(&author.attempt);
    index.number(number);
    index.number(drafted.len() as u64);
    for Drafted { effect, payload } in drafted {
        let bytes = payload.as_ref().map_or(0, |payload| payload.len() as u64);
        encode_effect(&mut index, effect, bytes);
    }
    let payload_bytes: usize = drafted.iter().filter_map(|one| one.payload.as_ref()).map(Bytes::len).sum();
    let mut whole = Writer(Vec::with_capacity(HEAD_BYTES + index.0.len() + SUM_BYTES + payload_bytes));
    whole.raw(&MAGIC);
    whole.byte(LAYOUT);
    whole.raw(&u32::try_from(index.0.len()).expect("a group has a bound").to_le_bytes());
    whole.raw(&index.0);
    let mut body = whole.sealed();
    drafted.iter().filter_map(|one| one.payload.as_ref()).for_each(|payload| body.extend_from_slice(payload));
    assert!(u32::try_from(body.len()).is_ok(), "a group has a bound");
    body
}

fn encode_effect(index: &mut Writer, effect: &Effect, payload_bytes: u64) {
    match effect {
        Effect::Commit(commit, Some(_)) => {
            index.byte(COMMIT_WITH_EVENTS);
            let stub = Commit { content: Content::Stripped, events: Vec::new(), ..(**commit).clone() };
            index.bytes(&format::encode(&stub));
            index.number(payload_bytes);
        }
        Effect::Commit(commit, None) => {
            index.byte(COMMIT_WITHOUT);
            index.bytes(&format::encode(commit));
        }
        Effect::Removed(last) => {
            index.byte(REMOVED);
            index.number(last.0);
        }
        Effect::Stripped(stream, before) => {
            index.byte(STRIPPED);
            index.stream(stream);
            index.number(before.0);
        }
        Effect::Snapshot(snapshot, digest, _) => {
            index.byte(A_SNAPSHOT);
            encode_snapshot(index, snapshot);
            index.raw(&digest.0);
            index.number(payload_bytes);
        }
        Effect::NoSnapshot(stream) => {
            index.byte(NO_SNAPSHOT);
            index.stream(stream);
        }
        Effect::Record(record) => {
            index.byte(A_RECORD);
            encode_record(index, record);
        }
        Effect::Meta(meta) => {
            index.byte(META);
            index.bytes(&format::encode_meta(meta));
        }
        Effect::Blanked(gone) => {
            index.byte(BLANKED);
            index.number(gone.len() as u64);
            gone.iter().for_each(|at| encode_location(index, *at));
        }
    }
}

/// Reads the object of a number. Payloads are not looked at.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode(number: u64, body: &[u8]) -> Result<Object> {
    let mut head = Reader(body);
    if head.take(4)? != MAGIC {
        return Err(corrupt("it does not begin as objects of the log do"));
    }
    if head.byte()? != LAYOUT {
        return Err(newer("it is of a layout that this release does not know"));
    }
    let bytes = head.take(4)?.try_into().map_err(|_| corrupt("it ends too early"))?;
    let end = HEAD_BYTES.saturating_add(u32::from_le_bytes(bytes) as usize).saturating_add(SUM_BYTES);
    let sealed = body.get(..end).ok_or_else(|| corrupt("it ends too early"))?;
    let mut index = Reader::sealed(sealed)?;
    index.take(HEAD_BYTES)?;
    let author = Author { writer: index.raw()?, attempt: index.raw()? };
    if index.number()? != number {
        return Err(corrupt("it is another one of the log"));
    }
    let mut next = u32::try_from(end).map_err(|_| corrupt("it is too long"))?;
    let mut place = |bytes: u32| {
        let at = Location { object: number, offset: next, bytes };
        next = next.checked_add(bytes).ok_or_else(|| corrupt("it is too long"))?;
        Ok(at)
    };
    let count = index.count()?;
    let effects = (0..count).map(|_| decode_effect(&mut index, &mut place)).collect::<Result<_>>()?;
    index.finish()?;
    Ok(Object { author, effects })
}

fn decode_effect(index: &mut Reader<'_>, place: &mut impl FnMut(u32) -> Result<Location>) -> Result<Effect> {
    Ok(match index.byte()? {
        COMMIT_WITH_EVENTS => {
            let stub = format::decode(&Bytes::copy_from_slice(index.bytes()?))?;
            let at = place(index.small()?)?;
            Effect::Commit(Box::new(Commit { content: Content::Kept, ..stub }), Some(at))
        }
        COMMIT_WITHOUT => Effect::Commit(Box::new(format::decode(&Bytes::copy_from_slice(index.bytes()?))?), None),
        REMOVED => Effect::Removed(Position(index.number()?)),
        STRIPPED => Effect::Stripped(index.stream()?, Revision(index.number()?)),
        A_SNAPSHOT => {
            let (snapshot, digest) = (decode_snapshot(index)?, SnapshotDigest(index.raw()?));
            Effect::Snapshot(Box::new(snapshot), digest, place(index.small()?)?)
        }
        NO_SNAPSHOT => Effect::NoSnapshot(index.stream()?),
        A_RECORD => Effect::Record(decode_record(index)?),
        META => Effect::Meta(format::decode_meta(&Bytes::copy_from_slice(index.bytes()?))?),
        BLANKED => {
            let count = index.count()?;
            Effect::Blanked((0..count).map(|_| decode_location(index)).collect::<Result<_>>()?)
        }
        _ => return Err(newer("it has an effect that this release does not know")),
    })
}

/// Takes payloads out of an object; none of the others moves.
///
/// # Errors
/// As [`decode`].
pub fn blank(number: u64, body: &[u8], gone: &[Location]) -> Result<Vec<u8>> {
    let object = decode(number, body)?;
    let mut blanked = body.to_vec();
    for at in gone {
        let (start, end) = (at.offset as usize, at.offset as usize + at.bytes as usize);
        let end = end.min(blanked.len());
        if let Some(payload) = blanked.get_mut(start..end) {
            payload.fill(0);
        }
    }
    let locations: Vec<Location> = object.locations().collect();
    for at in locations.into_iter().rev() {
        let start = at.offset as usize;
        match blanked.get(start..) {
            Some(rest) if rest.iter().any(|byte| *byte != 0) => break,
            Some(_) => blanked.truncate(start),
            None => {}
        }
    }
    Ok(blanked)
}

/// A commit, with the events that lay where its frame says.
///
/// # Errors
/// `Corrupt` for other bytes than were written there.
pub fn commit(stream: &StreamId, number: CommitNumber, frame: &Frame, payload: &Bytes) -> Result<Commit> {
    if format::digest_encoded(stream, frame.id, &frame.kind, payload) != frame.digest {
        return Err(corrupt("a commit's content is not what its digest says"));
    }
    let events = format::decode_events(frame.id, payload)?;
    if events.len() != frame.count as usize {
        return Err(corrupt("a commit has another number of events than its frame says"));
    }
    Ok(frame.commit(stream, number, events))
}

/// A snapshot's data as it lies in an object.
pub fn snapshot_payload(data: &Bytes) -> Bytes {
    let mut payload = Writer(Vec::with_capacity(data.len() + 1 + SUM_BYTES));
    payload.byte(SNAPSHOT);
    payload.raw(data);
    payload.sealed().into()
}

/// The data that lay there.
///
/// # Errors
/// `Corrupt` for other bytes than were written there.
pub fn snapshot_data(payload: &Bytes) -> Result<Bytes> {
    let mut reader = Reader::sealed(payload)?;
    match reader.byte()? {
        SNAPSHOT => Ok(payload.slice(1..payload.len() - SUM_BYTES)),
        _ => Err(corrupt("a snapshot does not begin as one")),
    }
}

/// A place in an object.
pub fn encode_location(out: &mut Writer, at: Location) {
    out.number(at.object);
    out.number(at.offset.into());
    out.number(at.bytes.into());
}

/// A place in an object.
///
/// # Errors
/// `Corrupt`.
pub fn decode_location(from: &mut Reader<'_>) -> Result<Location> {
    Ok(Location { object: from.number()?, offset: from.small()?, bytes: from.small()? })
}

/// A snapshot but its data.
pub fn encode_snapshot(out: &mut Writer, snapshot: &Snapshot) {
    out.stream(&snapshot.stream);
    out.number(snapshot.revision.0);
    out.number(snapshot.number.0);
    out.raw(&snapshot.commit.0);
    out.number(snapshot.schema.into());
    out.bytes(snapshot.content_type.as_str().as_bytes());
    out.time(snapshot.taken_at);
}

/// A snapshot but its data.
///
/// # Errors
/// `Corrupt`.
pub fn decode_snapshot(from: &mut Reader<'_>) -> Result<Snapshot> {
    Ok(Snapshot {
        stream: from.stream()?,
        revision: Revision(from.number()?),
        number: CommitNumber(from.number()?),
        commit: CommitId(from.raw()?),
        schema: from.small()?,
        content_type: from.text(ContentType::new)?,
        data: Bytes::new(),
        taken_at: from.time()?,
    })
}

/// A small record.
pub fn encode_record(out: &mut Writer, record: &Record) {
    out.byte(match record.key.kind {
        RecordKind::Checkpoint => 0,
        RecordKind::Presence => 1,
    });
    out.bytes(record.key.name.as_str().as_bytes());
    out.number(record.number.0);
    out.number(record.epoch.0);
    out.time(record.updated_at);
    out.byte(record.value.is_some().into());
    out.bytes(record.value.as_deref().unwrap_or_default());
}

/// A small record.
///
/// # Errors
/// `Corrupt`.
pub fn decode_record(from: &mut Reader<'_>) -> Result<Record> {
    let kind = match from.byte()? {
        0 => RecordKind::Checkpoint,
        1 => RecordKind::Presence,
        _ => return Err(newer("a record is of a kind that this release does not know")),
    };
    let key = RecordKey { kind, name: from.text(RecordName::new)? };
    let (number, epoch) = (RecordNumber(from.number()?), Epoch(from.number()?));
    let updated_at = from.time()?;
    let has_value = from.byte()? != 0;
    let value = Bytes::copy_from_slice(from.bytes()?);
    Ok(Record { key, number, epoch, value: has_value.then_some(value), updated_at })
}

/// A frame, behind the one before it in its stream.
pub fn encode_frame(out: &mut Writer, frame: &Frame) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let marker = frame.kind != CommitKind::Events;
    out.byte(
        flag(marker, 1)
            | flag(frame.imported.is_some(), 2)
            | flag(frame.rare.is_some(), 4)
            | flag(frame.at.is_some(), 8),
    );
    out.raw(&frame.id.0);
    out.raw(&frame.digest.0);
    out.number(frame.count.into());
    out.number(frame.first_position.0);
    out.time(frame.recorded_at);
    if marker {
        out.bytes(&format::encode_kind(&frame.kind));
    }
    if let Some(epoch) = frame.imported {
        out.number(epoch.0);
    }
    if let Some(rare) = &frame.rare {
        out.byte(rare.group.is_some().into());
        out.raw(&rare.group.map_or([0; 16], |group| group.0));
        out.bytes(&format::encode_extensions(&rare.extensions));
    }
    if let Some(at) = frame.at {
        encode_location(out, at);
    }
}

/// A frame, of which the first event has this revision.
///
/// # Errors
/// `Corrupt`, `Schema`.
pub fn decode_frame(from: &mut Reader<'_>, first_revision: Revision) -> Result<Frame> {
    let flags = from.byte()?;
    if flags > 15 {
        return Err(newer("a commit has flags that this release does not know"));
    }
    let (id, digest) = (CommitId(from.raw()?), evstore_api::ContentDigest(from.raw()?));
    let (count, first_position) = (from.small()?, Position(from.number()?));
    let recorded_at = from.time()?;
    let kind = match flags & 1 {
        0 => CommitKind::Events,
        _ => format::decode_kind(&Bytes::copy_from_slice(from.bytes()?))?,
    };
    let imported = if flags & 2 != 0 { Some(Epoch(from.number()?)) } else { None };
    let rare = if flags & 4 != 0 {
        let (grouped, group) = (from.byte()? != 0, CommitId(from.raw()?));
        let extensions = format::decode_extensions(&Bytes::copy_from_slice(from.bytes()?))?;
        Some(Box::new(crate::tables::Rare { group: grouped.then_some(group), extensions }))
    } else {
        None
    };
    let at = if flags & 8 != 0 { Some(decode_location(from)?) } else { None };
    Ok(Frame { id, kind, first_revision, count, first_position, recorded_at, digest, imported, rare, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Event, EventType, Extension, Meta, NewEvent, RecordName, Revision, Timestamp};

    const AUTHOR: Author = Author { writer: [7; 16], attempt: [9; 16] };

    fn stream() -> StreamId {
        StreamId::within("shop", "order-1").unwrap()
    }

    fn written(number: u64) -> (Commit, Bytes) {
        let id = CommitId([number as u8; 16]);
        let event = NewEvent::new(EventType::new("Happened").unwrap(), vec![b'x'; 100]);
        let events = vec![Event::recorded(event, id, 0)];
        let payload = format::encode_events(id, &events);
        let commit = Commit {
            stream: stream(),
            id,
            number: CommitNumber(number),
            kind: CommitKind::Events,
            first_revision: Revision(number),
            count: 1,
            first_position: Some(Position(number)),
            recorded_at: Timestamp(-5),
            digest: format::digest_encoded(&stream(), id, &CommitKind::Events, &payload),
            imported: Some(Epoch(3)),
            group: None,
            extensions: vec![Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"kept") }],
            content: Content::Kept,
            events: Vec::new(),
        };
        (commit, payload.into())
    }

    fn drafted() -> Vec<Drafted> {
        let nowhere = Location { object: 0, offset: 0, bytes: 0 };
        let with = |commit: (Commit, Bytes)| Drafted {
            effect: Effect::Commit(Box::new(commit.0), Some(nowhere)),
            payload: Some(commit.1),
        };
        let plain = |effect| Drafted { effect, payload: None };
        let marker = Commit {
            kind: CommitKind::Truncated { before: Revision(2) },
            count: 0,
            digest: format::digest(&stream(), CommitId([3; 16]), &CommitKind::Truncated { before: Revision(2) }, &[]),
            ..written(3).0
        };
        let stub = Commit { content: Content::Stripped, ..written(4).0 };
        let snapshot = Snapshot {
            stream: stream(),
            revision: Revision(2),
            number: CommitNumber(2),
            commit: CommitId([2; 16]),
            schema: 4,
            content_type: ContentType::bytes(),
            data: Bytes::new(),
            taken_at: Timestamp(6),
        };
        let record = Record {
            key: RecordKey { kind: RecordKind::Presence, name: RecordName::new("node").unwrap() },
            number: RecordNumber(2),
            epoch: Epoch(1),
            value: Some(Bytes::new()),
            updated_at: Timestamp(8),
        };
        vec![
            plain(Effect::Meta(Meta::new(Timestamp(1)))),
            with(written(1)),
            with(written(2)),
            Drafted {
                effect: Effect::Snapshot(Box::new(snapshot), SnapshotDigest::of(&[0; 9]), nowhere),
                payload: Some(snapshot_payload(&Bytes::from_static(&[0; 9]))),
            },
            plain(Effect::Commit(Box::new(marker), None)),
            plain(Effect::Commit(Box::new(stub), None)),
            plain(Effect::Removed(Position(40))),
            plain(Effect::Stripped(stream(), Revision(2))),
            plain(Effect::NoSnapshot(stream())),
            plain(Effect::Record(record.clone())),
            plain(Effect::Record(Record { value: None, ..record })),
            plain(Effect::Blanked(vec![Location { object: 3, offset: 900, bytes: 5 }])),
        ]
    }

    #[test]
    fn an_object_reads_back_as_its_number_and_no_other() {
        let drafted = drafted();
        let body = encode(12, AUTHOR, &drafted);
        let object = decode(12, &body).unwrap();
        assert_eq!(object.author, AUTHOR);
        let plain = |effect: &Effect| match effect {
            Effect::Commit(commit, Some(_)) => Effect::Commit(commit.clone(), None),
            Effect::Snapshot(snapshot, digest, _) => {
                Effect::Snapshot(snapshot.clone(), *digest, Location { object: 0, offset: 0, bytes: 0 })
            }
            other => other.clone(),
        };
        let expected: Vec<Effect> = drafted.iter().map(|one| plain(&one.effect)).collect();
        assert_eq!(object.effects.iter().map(plain).collect::<Vec<_>>(), expected);
        let at: Vec<Location> = object.locations().collect();
        let payload = |at: &Location| Bytes::copy_from_slice(&body[at.offset as usize..][..at.bytes as usize]);
        for (at, number) in at.iter().zip(1..=2) {
            let (commit, _) = written(number);
            let frame = Frame {
                id: commit.id,
                kind: commit.kind,
                first_revision: commit.first_revision,
                count: 1,
                first_position: Position(number),
                recorded_at: commit.recorded_at,
                digest: commit.digest,
                imported: None,
                rare: None,
                at: Some(*at),
            };
            assert_eq!(super::commit(&stream(), CommitNumber(number), &frame, &payload(at)).unwrap().events.len(), 1);
        }
        assert_eq!(snapshot_data(&payload(&at[2])).unwrap(), Bytes::from_static(&[0; 9]));
        assert!(decode(13, &body).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_an_index_is_found() {
        let body = encode(12, AUTHOR, &drafted());
        let end = decode(12, &body).unwrap().locations().next().unwrap().offset as usize;
        for at in 0..end {
            assert!(decode(12, &body[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = body.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode(12, &flipped).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn what_is_blanked_is_gone_and_nothing_else_moves() {
        let body = encode(12, AUTHOR, &drafted());
        let at: Vec<Location> = decode(12, &body).unwrap().locations().collect();
        let blanked = blank(12, &body, &at[..1]).unwrap();
        assert_eq!(blanked.len(), body.len());
        assert!(blanked[at[0].offset as usize..][..at[0].bytes as usize].iter().all(|byte| *byte == 0));
        assert_eq!(blanked[at[1].offset as usize..], body[at[1].offset as usize..]);
        let shorter = blank(12, &blanked, &at[2..]).unwrap();
        assert_eq!(shorter.len(), at[2].offset as usize);
        let empty = blank(12, &shorter, &at[1..2]).unwrap();
        assert_eq!(empty.len(), at[0].offset as usize);
        assert_eq!(blank(12, &empty, &at).unwrap(), empty);
        assert_eq!(decode(12, &empty).unwrap().effects, decode(12, &body).unwrap().effects);
    }
}
