//! Between what the server keeps and the contract's types. Pure. The scripts know two of these forms: the head's text, and
//! the line in front of a commit.
//!
//! A commit is `1 number first count position time stub-bytes checksum`, a line break, its stub and its events. The stub is
//! the commit in format v1 as if it were stripped, with its numbers left at 1: the numbers are known only when the script
//! writes them into the line. Cutting the events off strips the commit.

use crate::error::corrupt;
use bytes::Bytes;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Extension, Head, Meta,
    Position, Record, RecordKey, RecordNumber, Result, Revision, Snapshot, StoreName, StreamId, Timestamp, format,
};
use evstore_kit::state;
use std::fmt::Write as _;
use std::str::FromStr;

/// The field of a stream under which the slot of a commit id stands.
pub fn id_field(commit: CommitId) -> Vec<u8> {
    [b"i".as_slice(), &commit.0].concat()
}

/// The field of a stream under which its head stands.
pub const HEAD: &str = "h";
/// The field of a stream under which its snapshot stands.
pub const SNAPSHOT: &str = "s";

/// What stands last in a stream. What can be done with it also hangs on the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// Its last slot.
    pub number: CommitNumber,
    /// Revision of its last event.
    pub revision: Revision,
    /// Revision of the first event that is still there.
    pub retained: Revision,
    /// The slot from which on to look for it.
    pub from: CommitNumber,
    /// When its last commit was taken.
    pub recorded_at: Timestamp,
    /// Kind of its last commit.
    pub kind: CommitKind,
    /// The epoch that copied its last commit here.
    pub imported: Option<Epoch>,
    /// Id of its last commit.
    pub commit: CommitId,
}

impl StoredHead {
    /// The head, under this record of the store with this name.
    pub fn head(&self, meta: &Meta, own: &StoreName) -> Head {
        Head {
            revision: self.revision,
            number: self.number,
            first_retained: self.retained,
            commit: Some(self.commit),
            recorded_at: Some(self.recorded_at),
            state: state::of_stream(&self.kind, self.imported, meta, crate::capabilities::FENCE, own),
        }
    }

    /// As the scripts read it: `number revision retained from time kind imported id`, and what a moved stream says.
    pub fn print(&self) -> String {
        let mut text =
            format!("{} {} {} {} {}", self.number, self.revision, self.retained, self.from, self.recorded_at.0);
        let (kind, rest) = match &self.kind {
            CommitKind::Events => ("e", String::new()),
            CommitKind::Truncated { .. } => ("t", String::new()),
            CommitKind::Deleted => ("d", String::new()),
            CommitKind::MovedOut { epoch, to } => ("o", format!(" {epoch} {to}")),
            CommitKind::MovedIn { epoch, owner } => ("i", format!(" {epoch} {owner}")),
        };
        let imported = self.imported.map_or("-".to_owned(), |epoch| epoch.to_string());
        write!(text, " {kind} {imported} {}{rest}", hex(&self.commit.0)).expect("writing to a string does not fail");
        text
    }

    /// Reads what [`print`](Self::print) or a script wrote.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let wrong = || corrupt("the head of a stream is not one");
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or_else(wrong);
        let (number, revision, retained, from) = (one(next()?)?, one(next()?)?, one(next()?)?, one(next()?)?);
        let recorded_at = Timestamp(one(next()?)?);
        let kind = next()?;
        let imported = match next()? {
            "-" => None,
            epoch => Some(Epoch(one(epoch)?)),
        };
        let commit = CommitId::from_str(next()?).map_err(|_| wrong())?;
        let kind = match kind {
            "e" => CommitKind::Events,
            // Before which revision is in the marker; for the state of the stream it makes no difference.
            "t" => CommitKind::Truncated { before: Revision(retained) },
            "d" => CommitKind::Deleted,
            "o" => CommitKind::MovedOut { epoch: Epoch(one(next()?)?), to: StoreName::new(next()?)? },
            "i" => CommitKind::MovedIn { epoch: Epoch(one(next()?)?), owner: StoreName::new(next()?)? },
            _ => return Err(wrong()),
        };
        Ok(Self {
            number: CommitNumber(number),
            revision: Revision(revision),
            retained: Revision(retained),
            from: CommitNumber(from),
            recorded_at,
            kind,
            imported,
            commit,
        })
    }
}

/// The head of a stream, or of a missing one.
///
/// # Errors
/// `Corrupt`.
pub fn head(stored: Option<&[u8]>, meta: &Meta, own: &StoreName) -> Result<Head> {
    Ok(match stored {
        Some(text) => StoredHead::parse(text)?.head(meta, own),
        None => Head::missing(),
    })
}

/// What of a commit is known before it has a slot.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Its stream.
    pub stream: &'a StreamId,
    /// Its id.
    pub id: CommitId,
    /// Events or a marker.
    pub kind: &'a CommitKind,
    /// How many events.
    pub count: u32,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// The epoch that copies it here.
    pub imported: Option<Epoch>,
    /// Ties commits together.
    pub group: Option<CommitId>,
    /// Kept unchanged.
    pub extensions: &'a [Extension],
}

/// The stub of a commit.
pub fn stub(frame: &Frame<'_>) -> Vec<u8> {
    format::encode(&Commit {
        stream: frame.stream.clone(),
        id: frame.id,
        number: CommitNumber(1),
        kind: frame.kind.clone(),
        first_revision: Revision(1),
        count: frame.count,
        first_position: None,
        recorded_at: Timestamp(0),
        digest: frame.digest,
        imported: frame.imported,
        group: frame.group,
        extensions: frame.extensions.to_vec(),
        content: Content::Stripped,
        events: Vec::new(),
    })
}

/// A whole commit as a script would write it, for copies that bring their numbers along.
pub fn commit(commit: &Commit, position: Position, encoded_events: &[u8]) -> Vec<u8> {
    let stub = stub(&Frame {
        stream: &commit.stream,
        id: commit.id,
        kind: &commit.kind,
        count: commit.count,
        digest: commit.digest,
        imported: commit.imported,
        group: commit.group,
        extensions: &commit.extensions,
    });
    let Commit { number, first_revision, count, recorded_at, .. } = commit;
    let line = format!("1 {number} {first_revision} {count} {position} {} {}", recorded_at.0, stub.len());
    let kept = !commit.kind.is_marker() && commit.content == Content::Kept;
    let events = if kept { encoded_events } else { &[] };
    [line.as_bytes(), b" ", &checksum(line.as_bytes()), b"\n", &stub, events].concat()
}

/// Reads a commit of a stream, whole or stripped; all its checksums are verified.
///
/// # Errors
/// `Corrupt`, or `Schema` where a newer release wrote it.
pub fn decode_commit(stored: &Bytes, stream: &StreamId) -> Result<Commit> {
    let wrong = || corrupt("a stored commit is not one").with("stream", stream);
    let end = stored.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n').ok_or_else(wrong)?;
    let line = std::str::from_utf8(&stored[..end]).map_err(|_| wrong())?;
    let (numbers, sum) = line.rsplit_once(' ').ok_or_else(wrong)?;
    if checksum(numbers.as_bytes()) != sum.as_bytes() {
        return Err(corrupt("stored bytes fail their checksum").with("stream", stream));
    }
    let mut parts = numbers.split(' ');
    let mut next = || parts.next().ok_or_else(wrong);
    if next()? != "1" {
        return Err(evstore_api::Error::new(
            evstore_api::ErrorKind::Schema,
            "a stored commit is of a layout that this release does not know",
        ));
    }
    let (number, first, count, position) = (one(next()?)?, one(next()?)?, one::<u32>(next()?)?, one(next()?)?);
    let (recorded_at, stub_bytes) = (one(next()?)?, one::<usize>(next()?)?);
    let body = stored.slice(end + 1..);
    if stub_bytes > body.len() {
        return Err(wrong());
    }
    let mut commit = format::decode(&body.slice(..stub_bytes)).map_err(|error| error.with("stream", stream))?;
    if commit.stream != *stream || commit.count != count {
        return Err(corrupt("a stored commit belongs elsewhere").with("stream", stream));
    }
    commit.number = CommitNumber(number);
    commit.first_revision = Revision(first);
    commit.first_position = Some(Position(position));
    commit.recorded_at = Timestamp(recorded_at);
    let events = body.slice(stub_bytes..);
    if commit.kind.is_marker() {
        commit.content = Content::Kept;
    } else if !events.is_empty() {
        commit.content = Content::Kept;
        commit.events = decode_events(&commit, &events).map_err(|error| error.with("stream", stream))?;
    }
    Ok(commit)
}

/// A commit as it is after a truncation that has not come to it yet: one that stands before the slot from which on events are kept.
pub fn as_cut(mut commit: Commit, from: CommitNumber) -> Commit {
    if commit.number < from && !commit.kind.is_marker() {
        commit.content = Content::Stripped;
        commit.events = Vec::new();
    }
    commit
}

/// Longest line in front of a commit: six numbers of up to 20 digits, a format, a checksum.
const LINE_BYTES_MAX: usize = 160;

fn decode_events(commit: &Commit, encoded: &Bytes) -> Result<Vec<evstore_api::Event>> {
    let events = format::decode_events(commit.id, encoded)?;
    let digest = format::digest_encoded(&commit.stream, commit.id, &commit.kind, encoded);
    if digest != commit.digest || events.len() != commit.count as usize {
        return Err(corrupt("a commit's content is not what its digest says").with("commit", commit.id));
    }
    Ok(events)
}

/// The first 8 hexadecimal digits of SHA-1, the only checksum that a script can make.
fn checksum(line: &[u8]) -> [u8; 8] {
    let digest = sha1_smol::Sha1::from(line).digest().to_string();
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest.as_bytes()[..8]);
    sum
}

/// What a place of the feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first position.
    pub first: Position,
    /// Its last one.
    pub last: Position,
    /// The commit there; none where it was removed before it came here.
    pub commit: Option<(StreamId, CommitNumber)>,
    /// Bytes of that commit when it was written.
    pub bytes: usize,
}

impl Place {
    /// As the scripts write it: `last number bytes ` and the identity of the stream; nothing behind `last` where it is empty.
    pub fn member(&self) -> Vec<u8> {
        match &self.commit {
            None => format!("{} ", self.last).into_bytes(),
            Some((stream, number)) => {
                [format!("{} {number} {} ", self.last, self.bytes).as_bytes(), &crate::keyspace::member(stream)]
                    .concat()
            }
        }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn parse(member: &[u8], score: &str) -> Result<Self> {
        Self::read(member, score).ok_or_else(|| corrupt("a place of the feed is not one"))
    }

    fn read(member: &[u8], score: &str) -> Option<Self> {
        let mut parts = member.splitn(4, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (first, last) = (Position(score.parse().ok()?), Position(number()?));
        let Some(slot) = number() else {
            return Some(Self { first, last, commit: None, bytes: 0 });
        };
        let bytes = usize::try_from(number()?).ok()?;
        let stream = crate::keyspace::stream_of(parts.next()?)?;
        Some(Self { first, last, commit: Some((stream, CommitNumber(slot))), bytes })
    }
}

/// A snapshot: a line of its numbers and the length of its content type, that, the data, a CRC-32.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let Snapshot { revision, number, commit, schema, content_type, data, taken_at, .. } = snapshot;
    let content_type = content_type.as_str();
    let line = format!("1 {revision} {number} {} {schema} {} {}\n", hex(&commit.0), taken_at.0, content_type.len());
    sealed([line.as_bytes(), content_type.as_bytes(), data].concat())
}

/// Reads what [`encode_snapshot`] wrote.
///
/// # Errors
/// `Corrupt`.
pub fn decode_snapshot(stored: &Bytes, stream: &StreamId) -> Result<Snapshot> {
    let wrong = || corrupt("a stored snapshot is not one").with("stream", stream);
    let (line, body) = opened(stored, wrong)?;
    let mut parts = line.split(' ').skip(1);
    let mut next = || parts.next().ok_or_else(wrong);
    let (revision, number) = (Revision(one(next()?)?), CommitNumber(one(next()?)?));
    let commit = CommitId::from_str(next()?).map_err(|_| wrong())?;
    let (schema, taken_at, type_bytes) = (one(next()?)?, Timestamp(one(next()?)?), one::<usize>(next()?)?);
    if type_bytes > body.len() {
        return Err(wrong());
    }
    let content_type = std::str::from_utf8(&body[..type_bytes]).map_err(|_| wrong())?;
    let content_type = ContentType::new(content_type).map_err(|_| wrong())?;
    let data = body.slice(type_bytes..);
    Ok(Snapshot { stream: stream.clone(), revision, number, commit, schema, content_type, data, taken_at })
}

/// A small record: a line of its numbers, its value, a CRC-32.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let Record { number, epoch, value, updated_at, .. } = record;
    let there = if value.is_some() { "+" } else { "-" };
    let line = format!("1 {number} {epoch} {} {there}\n", updated_at.0);
    sealed([line.as_bytes(), value.as_deref().unwrap_or_default()].concat())
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// `Corrupt`.
pub fn decode_record(stored: &Bytes, key: RecordKey) -> Result<Record> {
    let wrong = || corrupt("a stored record is not one");
    let (line, body) = opened(stored, wrong)?;
    let mut parts = line.split(' ').skip(1);
    let mut next = || parts.next().ok_or_else(wrong);
    let (number, epoch) = (RecordNumber(one(next()?)?), Epoch(one(next()?)?));
    let updated_at = Timestamp(one(next()?)?);
    let value = (next()? == "+").then_some(body);
    Ok(Record { key, number, epoch, value, updated_at })
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The line and what follows it, once the checksum holds.
fn opened(stored: &Bytes, wrong: impl Fn() -> evstore_api::Error) -> Result<(String, Bytes)> {
    let end = stored.len().checked_sub(4).ok_or_else(&wrong)?;
    if crc32fast::hash(&stored[..end]).to_le_bytes() != stored[end..] {
        return Err(corrupt("stored bytes fail their checksum"));
    }
    let line_end = stored[..end].iter().position(|byte| *byte == b'\n').ok_or_else(&wrong)?;
    let line = std::str::from_utf8(&stored[..line_end]).map_err(|_| wrong())?;
    if !line.starts_with("1 ") {
        return Err(wrong());
    }
    Ok((line.to_owned(), stored.slice(line_end + 1..end)))
}

fn one<T: FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt("a stored number is not one"))
}

/// 32 hexadecimal digits.
pub fn hex(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(32);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}
