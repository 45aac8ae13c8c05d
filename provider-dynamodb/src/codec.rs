//! Between what an item holds and the contract's types. Pure.
//!
//! A commit is two attributes. The frame is everything but the events: what it holds is at the top of [`encode_frame`], every number
//! an unsigned LEB128 varint, and it ends with a CRC-32 that also covers the item's key, so that an item that was moved is found. The
//! events are as format v1 encodes them, compressed by zstd where that is smaller, without the four bytes that every frame of zstd begins
//! with. Removing them strips the commit.

use crate::dictionary::Dictionary;
use crate::place::Place;
use crate::source::{self, Progress};
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Appended, Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Error, ErrorKind,
    Extension, Namespace, Position, Record, RecordKey, RecordNumber, Result, Revision, Snapshot, StreamId, StreamName,
    Timestamp, Usage, format,
};
use std::collections::BTreeMap;

/// First byte of everything here.
const FORMAT: u8 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;
/// Fewest bytes that are worth a look whether they get smaller.
const COMPRESSED_FROM_BYTES: usize = 64;
/// How hard zstd tries: the level that measured best for commits of this size.
pub const COMPRESSION_LEVEL: i32 = 3;
/// What every frame of zstd begins with, left out of what is stored: the frame of the commit says that it is one.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest header of such a frame, without what it begins with.
const ZSTD_HEADER_BYTES_MAX: usize = 14;
/// Largest commit that is decompressed: more than any limit allows.
const PLAIN_BYTES_MAX: u64 = 16 << 20;

const STRIPPED: u8 = 1;
const IMPORTED: u8 = 2;
const GROUPED: u8 = 4;
const POSITIONED: u8 = 8;
const MARKER: u8 = 16;
const EXTENDED: u8 = 32;
const CUT: u8 = 64;
const COMPRESSED: u8 = 128;

/// What of a commit is not its events, its stream and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its id.
    pub id: CommitId,
    /// Events or a marker.
    pub kind: CommitKind,
    /// Revision of its first event.
    pub first: Revision,
    /// How many events.
    pub count: u32,
    /// Position of its first event.
    pub position: Option<Position>,
    /// When it was taken.
    pub recorded_at: Timestamp,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// The epoch that copied it here.
    pub imported: Option<Epoch>,
    /// Ties commits together.
    pub group: Option<CommitId>,
    /// Kept unchanged.
    pub extensions: Vec<Extension>,
    /// Whether its events are gone.
    pub content: Content,
    /// Bytes of its events before they were compressed; none where they are not.
    pub plain_bytes: Option<u64>,
    /// The first event that is kept in its stream, as of this commit: what a head has to say.
    pub retained: Revision,
    /// The slot from which on to look for it.
    pub from: CommitNumber,
    /// Its place in the feed's index, where there is one: it stands beside the frame.
    pub place: Option<Place>,
}

impl Frame {
    /// Revision of its last event; for a marker the head's.
    pub fn last(&self) -> Revision {
        Revision(self.first.0 + u64::from(self.count) - 1)
    }

    /// The receipt of the commit in this slot.
    pub fn receipt(&self, number: CommitNumber) -> Appended {
        Appended {
            commit: self.id,
            number,
            first: self.first,
            last: self.last(),
            position: self.position,
            recorded_at: self.recorded_at,
            digest: self.digest,
            repeated: true,
            usage: Usage::default(),
        }
    }

    /// The frame of a commit that is to be written.
    pub fn of(commit: &Commit, events: &Events, retained: Revision, from: CommitNumber) -> Self {
        Self {
            id: commit.id,
            kind: commit.kind.clone(),
            first: commit.first_revision,
            count: commit.count,
            position: commit.first_position,
            recorded_at: commit.recorded_at,
            digest: commit.digest,
            imported: commit.imported,
            group: commit.group,
            extensions: commit.extensions.clone(),
            content: commit.content,
            plain_bytes: events.plain_bytes,
            retained,
            from,
            place: None,
        }
    }
}

/// The events of a commit as they are stored.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// The bytes; none for a marker and where they were stripped.
    pub stored: Option<Bytes>,
    /// How many there were before they were compressed.
    pub plain_bytes: Option<u64>,
}

impl Events {
    /// Of encoded events: compressed where that is smaller, with a dictionary where there is one.
    pub fn new(encoded: Vec<u8>, dictionary: Option<&Dictionary>) -> Self {
        let compress = || match dictionary {
            Some(dictionary) => dictionary.compress(&encoded),
            None => zstd::bulk::compress(&encoded, COMPRESSION_LEVEL).ok(),
        };
        if encoded.len() >= COMPRESSED_FROM_BYTES
            && let Some(compressed) = compress()
            && let Some(smaller) = compressed.strip_prefix(&ZSTD_MAGIC)
            && smaller.len() < encoded.len()
        {
            let stored = Some(Bytes::copy_from_slice(smaller));
            return Self { stored, plain_bytes: Some(encoded.len() as u64) };
        }
        Self::plain(encoded)
    }

    /// The same as they are.
    pub fn plain(encoded: Vec<u8>) -> Self {
        Self { stored: Some(encoded.into()), plain_bytes: None }
    }

    /// How many bytes they take.
    pub fn len(&self) -> usize {
        self.stored.as_ref().map_or(0, Bytes::len)
    }
}

/// A frame in its slot.
pub fn encode_frame(stream: &StreamId, number: CommitNumber, frame: &Frame) -> Vec<u8> {
    let marker = frame.kind.is_marker();
    let cut = frame.retained > Revision(1);
    let flags = flag(frame.content == Content::Stripped, STRIPPED)
        | flag(frame.imported.is_some(), IMPORTED)
        | flag(frame.group.is_some(), GROUPED)
        | flag(frame.position.is_some(), POSITIONED)
        | flag(marker, MARKER)
        | flag(!frame.extensions.is_empty(), EXTENDED)
        | flag(cut, CUT)
        | flag(frame.plain_bytes.is_some(), COMPRESSED);
    let mut writer = Writer(vec![FORMAT, flags]);
    writer.0.extend_from_slice(&frame.id.0);
    writer.0.extend_from_slice(&frame.digest.0);
    writer.number(frame.first.0);
    writer.number(u64::from(frame.count));
    // Which is when it was appended, where its place says that too.
    writer.time(Timestamp(frame.recorded_at.0.wrapping_sub(begin_of_time(frame.place))));
    for number in [frame.position.map(|one| one.0), frame.imported.map(|one| one.0)].into_iter().flatten() {
        writer.number(number);
    }
    if let Some(group) = frame.group {
        writer.0.extend_from_slice(&group.0);
    }
    if cut {
        writer.number(frame.retained.0);
        writer.number(frame.from.0);
    }
    if let Some(plain_bytes) = frame.plain_bytes {
        writer.number(plain_bytes);
    }
    if marker {
        writer.bytes(&format::encode_kind(&frame.kind));
    }
    if !frame.extensions.is_empty() {
        writer.bytes(&format::encode_extensions(&frame.extensions));
    }
    let sum = checksum(stream, number, frame.place, &writer.0);
    writer.0.extend_from_slice(&sum);
    writer.0
}

/// Reads a frame out of its slot.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_frame(stream: &StreamId, number: CommitNumber, place: Option<Place>, stored: &[u8]) -> Result<Frame> {
    let named = |error: Error| error.with("stream", stream).with("number", number);
    let (body, sum) = stored
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .map(|at| stored.split_at(at))
        .ok_or_else(|| named(corrupt("a stored commit is not one")))?;
    if checksum(stream, number, place, body) != *sum {
        return Err(named(corrupt("stored bytes fail their checksum")));
    }
    parse_frame(place, body).map_err(named)
}

fn parse_frame(place: Option<Place>, body: &[u8]) -> Result<Frame> {
    let mut reader = Reader(body);
    reader.format()?;
    let flags = reader.byte()?;
    let has = |flag: u8| flags & flag != 0;
    let id = CommitId(reader.raw()?);
    let digest = ContentDigest(reader.raw()?);
    let first = Revision(reader.number()?);
    let count = u32::try_from(reader.number()?).map_err(|_| corrupt("a count is out of bounds"))?;
    let recorded_at = Timestamp(reader.time()?.0.wrapping_add(begin_of_time(place)));
    let position = if has(POSITIONED) { Some(Position(reader.number()?)) } else { None };
    let imported = if has(IMPORTED) { Some(Epoch(reader.number()?)) } else { None };
    let group = if has(GROUPED) { Some(CommitId(reader.raw()?)) } else { None };
    let (retained, from) = if has(CUT) {
        (Revision(reader.number()?), CommitNumber(reader.number()?))
    } else {
        (Revision(1), CommitNumber(1))
    };
    let plain_bytes = if has(COMPRESSED) { Some(reader.number()?) } else { None };
    let kind =
        if has(MARKER) { format::decode_kind(&Bytes::copy_from_slice(reader.bytes()?))? } else { CommitKind::Events };
    let extensions =
        if has(EXTENDED) { format::decode_extensions(&Bytes::copy_from_slice(reader.bytes()?))? } else { Vec::new() };
    reader.finish()?;
    if first.0 == 0 || kind.is_marker() != (count == 0) {
        return Err(corrupt("a commit's numbers do not agree"));
    }
    let content = if has(STRIPPED) { Content::Stripped } else { Content::Kept };
    Ok(Frame {
        id,
        kind,
        first,
        count,
        position,
        recorded_at,
        digest,
        imported,
        group,
        extensions,
        content,
        plain_bytes,
        retained,
        from,
        place,
    })
}

/// From when on a frame counts time, beside a place.
fn begin_of_time(place: Option<Place>) -> i64 {
    place.map_or(0, |place| i64::try_from(place.at).unwrap_or(0))
}

/// The number of the dictionary that a commit's events are compressed with, where they are with one.
pub fn dictionary_of(frame: &Frame, stored: Option<&[u8]>) -> Option<u32> {
    // All that says so stands at the beginning.
    let begin = stored.filter(|_| frame.plain_bytes.is_some())?;
    let begin = [&ZSTD_MAGIC, &begin[..begin.len().min(ZSTD_HEADER_BYTES_MAX)]].concat();
    zstd::zstd_safe::get_dict_id_from_frame(&begin).map(u32::from)
}

/// The commit that a frame and its events are; all its checksums are verified.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn commit(
    stream: &StreamId,
    number: CommitNumber,
    frame: Frame,
    stored: Option<Vec<u8>>,
    dictionary: Option<&Dictionary>,
) -> Result<Commit> {
    let named = |error: Error| error.with("stream", stream).with("number", number);
    let mut commit = Commit {
        stream: stream.clone(),
        id: frame.id,
        number,
        kind: frame.kind,
        first_revision: frame.first,
        count: frame.count,
        first_position: frame.position,
        recorded_at: frame.recorded_at,
        digest: frame.digest,
        imported: frame.imported,
        group: frame.group,
        extensions: frame.extensions,
        content: frame.content,
        events: Vec::new(),
    };
    if commit.kind.is_marker() || commit.content == Content::Stripped {
        return Ok(commit);
    }
    let stored = stored.ok_or_else(|| named(corrupt("the events of a commit are missing")))?;
    let encoded: Bytes = match frame.plain_bytes {
        None => stored.into(),
        Some(bytes) if bytes <= PLAIN_BYTES_MAX => {
            let stored = [&ZSTD_MAGIC, &stored[..]].concat();
            let plain = match dictionary {
                Some(dictionary) => dictionary.decompress(&stored, bytes as usize),
                None => zstd::bulk::decompress(&stored, bytes as usize),
            };
            plain.map_err(|cause| named(corrupt("a commit is not decompressible").caused_by(cause)))?.into()
        }
        Some(_) => return Err(named(corrupt("a commit is larger than any can be"))),
    };
    commit.events = format::decode_events(commit.id, &encoded).map_err(named)?;
    let digest = format::digest_encoded(stream, commit.id, &commit.kind, &encoded);
    if digest != commit.digest || !commit.is_whole() {
        return Err(named(corrupt("a commit's content is not what its digest says")));
    }
    Ok(commit)
}

/// Where a commit stands, as the log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// Its stream.
    pub stream: StreamId,
    /// Its slot.
    pub number: CommitNumber,
    /// How many positions it takes.
    pub positions: u64,
}

/// What takes a range of positions: commits in order, or nothing where they were removed.
pub fn encode_refs(first: Position, last: Position, refs: &[Ref]) -> Vec<u8> {
    let mut writer = Writer(vec![FORMAT]);
    for number in [first.0, last.0, refs.len() as u64] {
        writer.number(number);
    }
    for one in refs {
        writer.bytes(one.stream.namespace.as_str().as_bytes());
        writer.bytes(one.stream.name.as_str().as_bytes());
        writer.number(one.number.0);
        writer.number(one.positions);
    }
    writer.sealed()
}

/// Reads what [`encode_refs`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_refs(stored: &[u8]) -> Result<(Position, Position, Vec<Ref>)> {
    let mut reader = Reader::sealed(stored)?;
    reader.format()?;
    let (first, last) = (Position(reader.number()?), Position(reader.number()?));
    let count = reader.number()?;
    let mut refs = Vec::new();
    for _ in 0..count {
        let wrong = |_| corrupt("the log names something that is no stream");
        let namespace = Namespace::new(reader.text()?).map_err(wrong)?;
        let name = StreamName::new(reader.text()?).map_err(wrong)?;
        let stream = StreamId { namespace, name };
        refs.push(Ref { stream, number: CommitNumber(reader.number()?), positions: reader.number()? });
    }
    reader.finish()?;
    let taken = refs.iter().fold(0_u64, |sum, one| sum.saturating_add(one.positions));
    if first.0 == 0 || last < first || (count > 0 && taken != last.0 + 1 - first.0) {
        return Err(corrupt("the positions of the log do not agree"));
    }
    Ok((first, last, refs))
}

/// How far a sequencer has come, as it stands in the log: names of shards are alike and numbers long, so they are compressed.
pub fn encode_progress(progress: &Progress) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.number(progress.settled.0);
    writer.time(progress.read_at);
    writer.bytes(progress.source.as_bytes());
    writer.number(progress.shards.len() as u64);
    for (shard, place) in &progress.shards {
        writer.bytes(shard.as_bytes());
        match place {
            // No number of a record is empty.
            source::Place::Behind(sequence) => writer.bytes(sequence.as_bytes()),
            source::Place::Ended => writer.bytes(b""),
        }
    }
    let plain = writer.0;
    let mut writer = Writer(vec![FORMAT]);
    writer.number(plain.len() as u64);
    // The compressor refuses nothing that fits into memory, and what it can't make smaller it keeps.
    writer.0.extend(zstd::bulk::compress(&plain, COMPRESSION_LEVEL).unwrap_or_default());
    writer.sealed()
}

/// Reads what [`encode_progress`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_progress(stored: &[u8]) -> Result<Progress> {
    let mut reader = Reader::sealed(stored)?;
    reader.format()?;
    let bytes = reader.number()?;
    if bytes > PLAIN_BYTES_MAX {
        return Err(corrupt("the progress of the sequencer is larger than any can be"));
    }
    let plain = zstd::bulk::decompress(reader.0, bytes as usize)
        .map_err(|cause| corrupt("the progress of the sequencer is not decompressible").caused_by(cause))?;
    let mut reader = Reader(&plain);
    let settled = Position(reader.number()?);
    let read_at = reader.time()?;
    let source = reader.text()?.to_owned();
    let mut shards = BTreeMap::new();
    for _ in 0..reader.number()? {
        let shard = reader.text()?.to_owned();
        let place = match reader.text()? {
            "" => source::Place::Ended,
            sequence => source::Place::Behind(sequence.to_owned()),
        };
        shards.insert(shard, place);
    }
    reader.finish()?;
    Ok(Progress { settled, read_at, source, shards })
}

/// A snapshot without its stream, which is its key.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let mut writer = Writer(vec![FORMAT]);
    writer.number(snapshot.revision.0);
    writer.number(snapshot.number.0);
    writer.0.extend_from_slice(&snapshot.commit.0);
    writer.number(u64::from(snapshot.schema));
    writer.bytes(snapshot.content_type.as_str().as_bytes());
    writer.time(snapshot.taken_at);
    writer.bytes(&snapshot.data);
    writer.sealed()
}

/// Reads what [`encode_snapshot`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_snapshot(stored: &[u8], stream: &StreamId) -> Result<Snapshot> {
    let read = || {
        let mut reader = Reader::sealed(stored)?;
        reader.format()?;
        let (revision, number) = (Revision(reader.number()?), CommitNumber(reader.number()?));
        let commit = CommitId(reader.raw()?);
        let schema = u32::try_from(reader.number()?).map_err(|_| corrupt("a schema number is out of bounds"))?;
        let content_type = ContentType::new(reader.text()?).map_err(|_| corrupt("a content type is not one"))?;
        let taken_at = reader.time()?;
        let data = Bytes::copy_from_slice(reader.bytes()?);
        reader.finish()?;
        Ok(Snapshot { stream: stream.clone(), revision, number, commit, schema, content_type, data, taken_at })
    };
    read().map_err(|error: Error| error.with("stream", stream))
}

/// A small record without its key.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut writer = Writer(vec![FORMAT, u8::from(record.value.is_some())]);
    writer.number(record.number.0);
    writer.number(record.epoch.0);
    writer.time(record.updated_at);
    writer.bytes(record.value.as_deref().unwrap_or_default());
    writer.sealed()
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_record(stored: &[u8], key: RecordKey) -> Result<Record> {
    let name = key.name.clone();
    let read = || {
        let mut reader = Reader::sealed(stored)?;
        reader.format()?;
        let has_value = reader.byte()? == 1;
        let (number, epoch) = (RecordNumber(reader.number()?), Epoch(reader.number()?));
        let updated_at = reader.time()?;
        let value = Bytes::copy_from_slice(reader.bytes()?);
        reader.finish()?;
        Ok(Record { key, number, epoch, value: has_value.then_some(value), updated_at })
    };
    read().map_err(|error: Error| error.with("record", name))
}

/// Stored bytes that are not what this release writes.
pub fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn checksum(stream: &StreamId, number: CommitNumber, place: Option<Place>, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    // Names hold no NUL: the parts can't be shifted against each other.
    for part in [stream.namespace.as_str().as_bytes(), b"\0", stream.name.as_str().as_bytes(), b"\0"] {
        hasher.update(part);
    }
    hasher.update(&number.0.to_le_bytes());
    hasher.update(&place.map(Place::encode).unwrap_or_default());
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// Appends fields to a buffer.
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn time(&mut self, time: Timestamp) {
        self.number(((time.0 << 1) ^ (time.0 >> 63)) as u64);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn sealed(mut self) -> Vec<u8> {
        let sum = crc32fast::hash(&self.0).to_le_bytes();
        self.0.extend_from_slice(&sum);
        self.0
    }
}

/// Takes fields off a buffer.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn sealed(stored: &'a [u8]) -> Result<Self> {
        let at = stored.len().checked_sub(CHECKSUM_BYTES).ok_or_else(short)?;
        let (body, sum) = stored.split_at(at);
        if crc32fast::hash(body).to_le_bytes() != *sum {
            return Err(corrupt("stored bytes fail their checksum"));
        }
        Ok(Self(body))
    }

    fn format(&mut self) -> Result<()> {
        if self.byte()? == FORMAT {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Schema, "stored bytes are of a layout that this release does not know"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn raw(&mut self) -> Result<[u8; 16]> {
        self.take(16)?.try_into().map_err(|_| short())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number does not end"))
    }

    fn number(&mut self) -> Result<u64> {
        let number = self.varint()?;
        if number > NUMBER_MAX { Err(corrupt("a number is out of bounds")) } else { Ok(number) }
    }

    fn time(&mut self) -> Result<Timestamp> {
        let zigzag = self.varint()?;
        Ok(Timestamp((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = usize::try_from(self.varint()?).map_err(|_| short())?;
        self.take(count)
    }

    fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| corrupt("a stored text is not one"))
    }

    fn finish(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt("stored bytes go on behind their end")) }
    }
}

fn short() -> Error {
    corrupt("stored bytes end too early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Event, EventType, NewEvent, StoreName};

    fn stream() -> StreamId {
        StreamId::within("tenant", "order-42").unwrap()
    }

    fn frame() -> Frame {
        Frame {
            id: CommitId([1; 16]),
            kind: CommitKind::Events,
            first: Revision(7),
            count: 2,
            position: None,
            recorded_at: Timestamp(-5),
            digest: ContentDigest([2; 16]),
            imported: None,
            group: None,
            extensions: Vec::new(),
            content: Content::Kept,
            plain_bytes: None,
            retained: Revision(1),
            from: CommitNumber(1),
            place: None,
        }
    }

    fn place() -> Place {
        Place::behind(None, Timestamp(1_800_000_000_000_000), ContentDigest([2; 16]))
    }

    fn frames() -> Vec<Frame> {
        let kind = CommitKind::MovedOut { epoch: Epoch(3), to: StoreName::new("other").unwrap() };
        let extension = Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"kept") };
        vec![
            frame(),
            Frame { kind, count: 0, ..frame() },
            Frame {
                position: Some(Position(NUMBER_MAX)),
                recorded_at: Timestamp(i64::MIN),
                imported: Some(Epoch(9)),
                group: Some(CommitId([3; 16])),
                extensions: vec![extension],
                content: Content::Stripped,
                plain_bytes: Some(1_000),
                retained: Revision(5),
                from: CommitNumber(4),
                ..frame()
            },
            Frame { place: Some(place()), recorded_at: Timestamp(1_800_000_000_000_000), ..frame() },
            Frame { place: Some(place()), recorded_at: Timestamp(i64::MIN), ..frame() },
        ]
    }

    #[test]
    fn a_frame_reads_back_from_its_slot_and_no_other() {
        for frame in frames() {
            let stored = encode_frame(&stream(), CommitNumber(3), &frame);
            assert_eq!(decode_frame(&stream(), CommitNumber(3), frame.place, &stored).unwrap(), frame);
            let elsewhere = StreamId::within("tenan", "torder-42").unwrap();
            let moved = Some(Place::behind(frame.place, Timestamp(1), frame.digest));
            for (stream, number, place) in
                [(stream(), 4, frame.place), (elsewhere, 3, frame.place), (stream(), 3, moved)]
            {
                let error = decode_frame(&stream, CommitNumber(number), place, &stored).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let mut forms = Vec::new();
        for frame in frames().into_iter().filter(|frame| frame.place.is_none()) {
            let stored = encode_frame(&stream(), CommitNumber(3), &frame);
            forms.push((stored, "frame"));
        }
        let one = Ref { stream: stream(), number: CommitNumber(3), positions: 2 };
        forms.push((encode_refs(Position(5), Position(8), &[one.clone(), one]), "refs"));
        for (stored, form) in forms {
            let reads = |stored: &[u8]| match form {
                "frame" => decode_frame(&stream(), CommitNumber(3), None, stored).is_ok(),
                _ => decode_refs(stored).is_ok(),
            };
            assert!(reads(&stored));
            for bit in 0..stored.len() * 8 {
                let mut damaged = stored.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(!reads(&damaged), "bit {bit} of a {form}");
            }
            for cut in 0..stored.len() {
                assert!(!reads(&stored[..cut]), "{cut} bytes of a {form}");
            }
        }
    }

    #[test]
    fn events_are_compressed_where_that_is_smaller() {
        let id = CommitId([1; 16]);
        let of = |data: Vec<u8>| {
            let event = Event::recorded(NewEvent::new(EventType::new("t").unwrap(), data), id, 0);
            let encoded = format::encode_events(id, std::slice::from_ref(&event));
            let digest = format::digest_encoded(&stream(), id, &CommitKind::Events, &encoded);
            (event, Events::new(encoded, None), digest)
        };
        let random: Vec<u8> = (0..900_u32).flat_map(|n| crc32fast::hash(&n.to_le_bytes()).to_le_bytes()).collect();
        for (data, smaller) in [(vec![7; 900], true), (random, false), (vec![7; 10], false)] {
            let (event, events, digest) = of(data);
            assert_eq!(events.plain_bytes.is_some(), smaller);
            let frame = Frame { count: 1, digest, plain_bytes: events.plain_bytes, ..frame() };
            let stored = events.stored.map(|stored| stored.to_vec());
            let commit = commit(&stream(), CommitNumber(1), frame.clone(), stored.clone(), None).unwrap();
            assert_eq!(commit.events, [event]);
            let other = Frame { digest: ContentDigest([0; 16]), ..frame };
            let error = super::commit(&stream(), CommitNumber(1), other, stored, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    /// The bar: what is beside 900 bytes of type, payload and metadata has to fit into 124, with a name of 40.
    #[test]
    fn a_commit_of_900_bytes_fits_into_one_unit() {
        let stream = StreamId::new("a".repeat(40)).unwrap();
        let id = CommitId([1; 16]);
        let random: Vec<u8> = (0..225_u32).flat_map(|n| crc32fast::hash(&n.to_le_bytes()).to_le_bytes()).collect();
        let event = Event::recorded(NewEvent::new(EventType::new("t").unwrap(), random[..899].to_vec()), id, 0);
        let events = Events::new(format::encode_events(id, &[event]), None);
        let million = 1_000_000;
        let frame = Frame {
            count: 1,
            first: Revision(million),
            position: Some(Position(100 * million)),
            recorded_at: Timestamp(1_800_000_000_000_000),
            ..frame()
        };
        let number = CommitNumber(million);
        // One byte for each attribute's name, and a number takes one for two digits and one more.
        let keys = 4 + stream.name.as_str().len() + 1 + 7_usize.div_ceil(2);
        let item = keys + encode_frame(&stream, number, &frame).len() + events.len();
        assert!(item <= 1_024, "{item} bytes");
        // With an index there are a shard and a place, which also says when.
        let place = Place::behind(None, frame.recorded_at, frame.digest);
        let frame = Frame { position: None, place: Some(place), ..frame };
        let index = (1 + 1) + (1 + place.encode().len());
        let item = keys + encode_frame(&stream, number, &frame).len() + events.len() + index;
        assert!(item <= 1_024, "{item} bytes");
    }

    #[test]
    fn small_things_read_back() {
        let key =
            RecordKey { kind: evstore_api::RecordKind::Checkpoint, name: evstore_api::RecordName::new("c").unwrap() };
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))] {
            let record =
                Record { key: key.clone(), number: RecordNumber(3), epoch: Epoch(1), value, updated_at: Timestamp(9) };
            assert_eq!(decode_record(&encode_record(&record), key.clone()).unwrap(), record);
        }
        let snapshot = Snapshot {
            stream: stream(),
            revision: Revision(4),
            number: CommitNumber(2),
            commit: CommitId([4; 16]),
            schema: 7,
            content_type: ContentType::json(),
            data: Bytes::from_static(b"\0x"),
            taken_at: Timestamp(-1),
        };
        assert_eq!(decode_snapshot(&encode_snapshot(&snapshot), &stream()).unwrap(), snapshot);
    }
}
