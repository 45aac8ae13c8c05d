//! Format v1: how commits, their events and the store's record are written as bytes, readable for ever.
//!
//! All integers are unsigned LEB128 varints unless said otherwise; `bytes` means a length and that many bytes. A time is
//! zigzagged first. Every record begins with its format number and ends with the CRC-32 (IEEE, little-endian) of what comes
//! before it, which every decoder verifies. What a decoder does not know fails closed, unless it says that it may be
//! ignored. The layout is in `docs/FORMAT.md`; golden vectors are beside this file.

use crate::commit::{Commit, CommitKind, Content};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Extension};
use crate::id::{self, CommitId, ContentDigest, EventId, Incarnation};
use crate::meta::{Format, Lineage, Meta, StoreState};
use crate::name::{ContentType, EventType, Namespace, StoreName, StreamId, StreamName};
use crate::number::{CommitNumber, Epoch, NUMBER_MAX, Position, Revision, Timestamp};
use bytes::Bytes;
use std::sync::LazyLock;

/// First byte of everything that this format writes.
const FORMAT_1: u8 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;
/// Fewest bytes that an event takes, which bounds what a count can make a decoder reserve.
const EVENT_BYTES_MIN: usize = 8;

/// The event's id is not the derived one and is stored.
const EVENT_HAS_ID: u8 = 1;
/// The event has the caller's own time.
const EVENT_HAS_TIME: u8 = 2;
/// Compression byte of an event whose data is as given. No other is written in this release.
const EVENT_PLAIN: u8 = 0;
/// Key id of an event whose data is not encrypted. No other is written in this release.
const EVENT_NO_KEY: u64 = 0;

/// Media types with a code of their own, from 1. Only ever added to.
const CONTENT_TYPES: [&str; 2] = ["application/json", "application/octet-stream"];
/// The same as values, so that events share them.
static KNOWN_CONTENT_TYPES: LazyLock<[ContentType; 2]> =
    LazyLock::new(|| CONTENT_TYPES.map(|text| ContentType::new(text).expect("it is written above")));

const COMMIT_STRIPPED: u8 = 1;
const COMMIT_IMPORTED: u8 = 2;
const COMMIT_GROUPED: u8 = 4;
const COMMIT_POSITIONED: u8 = 8;
const COMMIT_FLAGS: u8 = COMMIT_STRIPPED | COMMIT_IMPORTED | COMMIT_GROUPED | COMMIT_POSITIONED;

const EXTENSION_CRITICAL: u8 = 1;

/// Bytes of a commit's content as limits count them: the encoded events, before any compression.
#[must_use]
pub fn content_bytes(commit: CommitId, events: &[Event]) -> u64 {
    encode_events(commit, events).len() as u64
}

/// Digest of a commit's content: its stream, its id, and its events or what its marker says. Not its numbers, position,
/// times or expectation.
#[must_use]
pub fn digest(stream: &StreamId, commit: CommitId, kind: &CommitKind, events: &[Event]) -> ContentDigest {
    digest_encoded(stream, commit, kind, &encode_events(commit, events))
}

/// The same from events that are encoded already, which saves encoding them twice.
#[must_use]
pub fn digest_encoded(stream: &StreamId, commit: CommitId, kind: &CommitKind, encoded_events: &[u8]) -> ContentDigest {
    let mut head = Writer(Vec::new());
    head.text(stream.namespace.as_str());
    head.text(stream.name.as_str());
    head.raw(&commit.0);
    head.kind(kind);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"evstore content v1");
    hasher.update(&head.0);
    hasher.update(&encoded_events[..encoded_events.len().saturating_sub(CHECKSUM_BYTES)]);
    ContentDigest(id::cut(&hasher))
}

/// Encodes the events of a commit, which must be whole and in order.
///
/// # Panics
/// When ordinals are not 0, 1, 2, …: a sliced commit can't be written.
#[must_use]
pub fn encode_events(commit: CommitId, events: &[Event]) -> Vec<u8> {
    let bytes: usize = events.iter().map(|event| 64 + event.data.len() + event.metadata.len()).sum();
    let mut writer = Writer(Vec::with_capacity(bytes + 16));
    writer.byte(FORMAT_1);
    writer.number(events.len() as u64);
    for (event, ordinal) in events.iter().zip(0..) {
        assert_eq!(event.ordinal, ordinal, "only a whole commit is encoded");
        writer.event(commit, event);
    }
    writer.sealed()
}

/// Decodes the events of a commit. Data and metadata share the memory of `encoded`.
///
/// # Errors
/// `Corrupt` when the checksum fails or the bytes are not such events; `Schema` when they are of a newer format.
pub fn decode_events(commit: CommitId, encoded: &Bytes) -> Result<Vec<Event>> {
    let mut reader = Reader::open(encoded)?;
    let count = reader.count(EVENT_BYTES_MIN)?;
    // The count is of the bytes' own making: a lie must not take more memory than they do.
    let mut events = Vec::with_capacity(count.min(EVENTS_EXPECTED));
    for ordinal in 0..count as u32 {
        events.push(reader.event(commit, ordinal)?);
    }
    reader.finish()?;
    Ok(events)
}

/// Room that is made for the events of a commit before they are decoded.
const EVENTS_EXPECTED: usize = 256;

/// Encodes a whole commit, or the stub of a stripped one.
///
/// # Panics
/// When events of a commit that is not stripped are missing.
#[must_use]
pub fn encode(commit: &Commit) -> Vec<u8> {
    let stripped = commit.content == Content::Stripped;
    assert!(stripped || commit.is_whole(), "only a whole commit is encoded");
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let mut writer = Writer(Vec::new());
    writer.byte(FORMAT_1);
    writer.byte(
        flag(stripped, COMMIT_STRIPPED)
            | flag(commit.imported.is_some(), COMMIT_IMPORTED)
            | flag(commit.group.is_some(), COMMIT_GROUPED)
            | flag(commit.first_position.is_some(), COMMIT_POSITIONED),
    );
    writer.text(commit.stream.namespace.as_str());
    writer.text(commit.stream.name.as_str());
    writer.raw(&commit.id.0);
    writer.number(commit.number.0);
    writer.kind(&commit.kind);
    writer.number(commit.first_revision.0);
    writer.number(u64::from(commit.count));
    if let Some(position) = commit.first_position {
        writer.number(position.0);
    }
    writer.time(commit.recorded_at);
    writer.raw(&commit.digest.0);
    if let Some(epoch) = commit.imported {
        writer.number(epoch.0);
    }
    if let Some(group) = commit.group {
        writer.raw(&group.0);
    }
    writer.extensions(&commit.extensions);
    if !stripped {
        writer.bytes(&encode_events(commit.id, &commit.events));
    }
    writer.sealed()
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when a checksum or the content digest fails or the bytes are not a commit; `Schema` when they are of a newer
/// format, or of a kind that this release does not know.
pub fn decode(encoded: &Bytes) -> Result<Commit> {
    let mut reader = Reader::open(encoded)?;
    let flags = reader.byte()?;
    if flags & !COMMIT_FLAGS != 0 {
        return Err(newer("a commit has flags that this release does not know"));
    }
    let has = |flag: u8| flags & flag != 0;
    let stream = StreamId { namespace: reader.text(Namespace::new)?, name: reader.text(StreamName::new)? };
    let id = CommitId(reader.raw()?);
    let number = CommitNumber(reader.bounded()?);
    let kind = reader.kind()?;
    let first_revision = Revision(reader.bounded()?);
    let count = u32::try_from(reader.number()?).map_err(|_| corrupt("a count is out of bounds"))?;
    let first_position = if has(COMMIT_POSITIONED) { Some(Position(reader.bounded()?)) } else { None };
    let recorded_at = reader.time()?;
    let digest = ContentDigest(reader.raw()?);
    let imported = if has(COMMIT_IMPORTED) { Some(Epoch(reader.bounded()?)) } else { None };
    let group = if has(COMMIT_GROUPED) { Some(CommitId(reader.raw()?)) } else { None };
    let extensions = reader.extensions()?;
    let (content, events) = if has(COMMIT_STRIPPED) {
        (Content::Stripped, Vec::new())
    } else {
        let events = reader.bytes()?;
        if digest_encoded(&stream, id, &kind, &events) != digest {
            return Err(corrupt("a commit's content is not what its digest says"));
        }
        (Content::Kept, decode_events(id, &events)?)
    };
    reader.finish()?;
    if content == Content::Kept && events.len() != count as usize || number.0 == 0 || first_revision.0 == 0 {
        return Err(corrupt("a commit's numbers do not agree"));
    }
    let commit = Commit {
        stream,
        id,
        number,
        kind,
        first_revision,
        count,
        first_position,
        recorded_at,
        digest,
        imported,
        group,
        extensions,
        content,
        events,
    };
    Ok(commit)
}

/// Encodes the store's record.
#[must_use]
pub fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.byte(FORMAT_1);
    for number in [meta.format.format, meta.format.oldest_reader, meta.format.oldest_writer] {
        writer.number(u64::from(number));
    }
    writer.number(meta.lineage.len() as u64);
    for one in &meta.lineage {
        writer.raw(&one.incarnation.0);
        writer.number(one.ended_at.map_or(0, |end| end.0 + 1));
    }
    writer.number(meta.epoch.0);
    let (tag, store, end) = match &meta.state {
        StoreState::Open => (0, None, None),
        StoreState::Fenced { to } => (1, Some(to), None),
        StoreState::Moved { to, end } => (2, Some(to), Some(*end)),
        StoreState::Importing { from } => (3, from.as_ref(), None),
        StoreState::Leaving { to } => (4, Some(to), None),
        StoreState::Retired { to } => (5, Some(to), None),
    };
    writer.byte(tag);
    writer.text(store.map_or("", StoreName::as_str));
    writer.number(end.map_or(0, |end| end.0));
    writer.time(meta.created_at);
    writer.sealed()
}

/// Decodes what [`encode_meta`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_meta(encoded: &Bytes) -> Result<Meta> {
    let mut reader = Reader::open(encoded)?;
    let mut format =
        || -> Result<u32> { u32::try_from(reader.number()?).map_err(|_| corrupt("a format is out of bounds")) };
    let format = Format { format: format()?, oldest_reader: format()?, oldest_writer: format()? };
    let lineage = (0..reader.count(17)?)
        .map(|_| {
            let incarnation = Incarnation(reader.raw()?);
            let ended_at = reader.bounded()?.checked_sub(1).map(Position);
            Ok(Lineage { incarnation, ended_at })
        })
        .collect::<Result<Vec<_>>>()?;
    let epoch = Epoch(reader.bounded()?);
    let tag = reader.byte()?;
    let store = reader.text(|text| if text.is_empty() { Ok(None) } else { StoreName::new(text).map(Some) })?;
    let end = Position(reader.bounded()?);
    let state = match (tag, store) {
        (0, None) => StoreState::Open,
        (1, Some(to)) => StoreState::Fenced { to },
        (2, Some(to)) => StoreState::Moved { to, end },
        (3, from) => StoreState::Importing { from },
        (4, Some(to)) => StoreState::Leaving { to },
        (5, Some(to)) => StoreState::Retired { to },
        (0..=5, _) => return Err(corrupt("the store's record is not one")),
        _ => return Err(newer("the store's state is one that this release does not know")),
    };
    let created_at = reader.time()?;
    reader.finish()?;
    if lineage.is_empty() {
        return Err(corrupt("the store's record has no history"));
    }
    Ok(Meta { format, lineage, epoch, state, created_at })
}

/// Encodes the kind of a commit and what its marker says, for stores that keep the frame in columns.
#[must_use]
pub fn encode_kind(kind: &CommitKind) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.byte(FORMAT_1);
    writer.kind(kind);
    writer.sealed()
}

/// Decodes what [`encode_kind`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` for a kind that this release does not know.
pub fn decode_kind(encoded: &Bytes) -> Result<CommitKind> {
    let mut reader = Reader::open(encoded)?;
    let kind = reader.kind()?;
    reader.finish()?;
    Ok(kind)
}

/// Encodes extensions, for stores that keep the frame in columns.
#[must_use]
pub fn encode_extensions(extensions: &[Extension]) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.byte(FORMAT_1);
    writer.extensions(extensions);
    writer.sealed()
}

/// Decodes what [`encode_extensions`] wrote.
///
/// # Errors
/// `Corrupt`, or `Schema` for a critical one that this release does not know.
pub fn decode_extensions(encoded: &Bytes) -> Result<Vec<Extension>> {
    let mut reader = Reader::open(encoded)?;
    let extensions = reader.extensions()?;
    reader.finish()?;
    Ok(extensions)
}

fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn newer(message: &'static str) -> Error {
    Error::new(ErrorKind::Schema, message)
}

/// Appends fields to a buffer.
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn time(&mut self, time: Timestamp) {
        self.number(((time.0 << 1) ^ (time.0 >> 63)) as u64);
    }

    fn kind(&mut self, kind: &CommitKind) {
        match kind {
            CommitKind::Events => self.byte(0),
            CommitKind::Truncated { before } => {
                self.byte(1);
                self.number(before.0);
            }
            CommitKind::Deleted => self.byte(2),
            CommitKind::MovedOut { epoch, to } => {
                self.byte(3);
                self.number(epoch.0);
                self.text(to.as_str());
            }
            CommitKind::MovedIn { epoch, owner } => {
                self.byte(4);
                self.number(epoch.0);
                self.text(owner.as_str());
            }
        }
    }

    fn extensions(&mut self, extensions: &[Extension]) {
        self.number(extensions.len() as u64);
        for extension in extensions {
            self.number(u64::from(extension.tag));
            self.byte(if extension.critical { EXTENSION_CRITICAL } else { 0 });
            self.bytes(&extension.value);
        }
    }

    fn event(&mut self, commit: CommitId, event: &Event) {
        let supplied = event.id != EventId::derive(commit, event.ordinal);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        self.byte(flag(supplied, EVENT_HAS_ID) | flag(event.occurred_at.is_some(), EVENT_HAS_TIME));
        self.byte(EVENT_PLAIN);
        self.number(EVENT_NO_KEY);
        if supplied {
            self.raw(&event.id.0);
        }
        self.text(event.event_type.as_str());
        self.number(u64::from(event.schema));
        self.content_type(&event.content_type);
        if let Some(time) = event.occurred_at {
            self.time(time);
        }
        self.extensions(&event.extensions);
        self.bytes(&event.metadata);
        self.bytes(&event.data);
    }

    /// The two common media types take one byte, so that a small event stays small.
    fn content_type(&mut self, content_type: &ContentType) {
        match CONTENT_TYPES.iter().position(|one| *one == content_type.as_str()) {
            Some(at) => self.number(at as u64 + 1),
            None => {
                self.number(0);
                self.text(content_type.as_str());
            }
        }
    }

    fn sealed(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.0);
        self.0.extend_from_slice(&checksum.to_le_bytes());
        self.0
    }
}

/// Takes fields from a buffer; never past its end, never more memory than is there.
struct Reader<'a> {
    whole: &'a Bytes,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// Verifies the checksum and the format number.
    fn open(whole: &'a Bytes) -> Result<Self> {
        let Some(end) = whole.len().checked_sub(CHECKSUM_BYTES).filter(|end| *end > 0) else {
            return Err(corrupt("stored bytes are too short"));
        };
        if crc32fast::hash(&whole[..end]).to_le_bytes() != whole[end..] {
            return Err(corrupt("stored bytes fail their checksum"));
        }
        let mut reader = Self { whole, at: 0, end };
        match reader.byte()? {
            FORMAT_1 => Ok(reader),
            _ => Err(newer("stored bytes are of a format that this release does not know")),
        }
    }

    fn finish(self) -> Result<()> {
        if self.at == self.end { Ok(()) } else { Err(corrupt("stored bytes have a tail")) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.end);
        let end = end.ok_or_else(|| corrupt("stored bytes end too early"))?;
        let taken = &self.whole[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn raw(&mut self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(self.take(16)?);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number is too long"))
    }

    fn bounded(&mut self) -> Result<u64> {
        let number = self.number()?;
        if number <= NUMBER_MAX { Ok(number) } else { Err(corrupt("a number is out of bounds")) }
    }

    /// A count of things that take at least `bytes_min` each, so that a lie can't make anyone reserve memory.
    fn count(&mut self, bytes_min: usize) -> Result<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| corrupt("a count is out of bounds"))?;
        if count > (self.end - self.at) / bytes_min {
            return Err(corrupt("a count is larger than what follows"));
        }
        Ok(count)
    }

    fn slice(&mut self) -> Result<&'a [u8]> {
        let count = usize::try_from(self.number()?).map_err(|_| corrupt("a length is out of bounds"))?;
        self.take(count)
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let slice = self.slice()?;
        Ok(self.whole.slice_ref(slice))
    }

    fn text<T>(&mut self, check: impl FnOnce(&'a str) -> Result<T>) -> Result<T> {
        let text = std::str::from_utf8(self.slice()?).map_err(|_| corrupt("a name is not UTF-8"))?;
        check(text).map_err(|cause| corrupt("a name is not valid").caused_by(cause))
    }

    fn time(&mut self) -> Result<Timestamp> {
        let number = self.number()?;
        Ok(Timestamp((number >> 1) as i64 ^ -((number & 1) as i64)))
    }

    fn kind(&mut self) -> Result<CommitKind> {
        Ok(match self.byte()? {
            0 => CommitKind::Events,
            1 => CommitKind::Truncated { before: Revision(self.bounded()?) },
            2 => CommitKind::Deleted,
            3 => CommitKind::MovedOut { epoch: Epoch(self.bounded()?), to: self.text(StoreName::new)? },
            4 => CommitKind::MovedIn { epoch: Epoch(self.bounded()?), owner: self.text(StoreName::new)? },
            _ => return Err(newer("a commit is of a kind that this release does not know")),
        })
    }

    fn extensions(&mut self) -> Result<Vec<Extension>> {
        (0..self.count(3)?)
            .map(|_| {
                let tag = u32::try_from(self.number()?).map_err(|_| corrupt("a tag is out of bounds"))?;
                let critical = self.byte()? & EXTENSION_CRITICAL != 0;
                // This release knows no tag at all, so every critical one is unknown.
                if critical {
                    return Err(newer("an extension is critical and this release does not know it").with("tag", tag));
                }
                Ok(Extension { tag, critical, value: self.bytes()? })
            })
            .collect()
    }

    fn content_type(&mut self) -> Result<ContentType> {
        match self.number()? {
            0 => self.text(ContentType::new),
            code => match usize::try_from(code).ok().and_then(|code| KNOWN_CONTENT_TYPES.get(code - 1)) {
                Some(known) => Ok(known.clone()),
                None => Err(newer("a content type is one that this release does not know")),
            },
        }
    }

    fn event(&mut self, commit: CommitId, ordinal: u32) -> Result<Event> {
        let flags = self.byte()?;
        if flags & !(EVENT_HAS_ID | EVENT_HAS_TIME) != 0 {
            return Err(newer("an event has flags that this release does not know"));
        }
        if self.byte()? != EVENT_PLAIN || self.number()? != EVENT_NO_KEY {
            return Err(newer("an event is compressed or encrypted in a way that this release does not know"));
        }
        let supplied = flags & EVENT_HAS_ID != 0;
        let id = if supplied { EventId(self.raw()?) } else { EventId::derive(commit, ordinal) };
        let event_type = self.text(EventType::new)?;
        let schema = u32::try_from(self.number()?).map_err(|_| corrupt("a schema number is out of bounds"))?;
        let content_type = self.content_type()?;
        let occurred_at = if flags & EVENT_HAS_TIME != 0 { Some(self.time()?) } else { None };
        let extensions = self.extensions()?;
        let metadata = self.bytes()?;
        let data = self.bytes()?;
        Ok(Event { ordinal, id, event_type, schema, content_type, data, metadata, occurred_at, extensions })
    }
}

#[cfg(test)]
mod tests;
