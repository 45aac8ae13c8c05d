//! A segment: frames of zstd over lines of JSON, an index by stream, and a footer that finds the index from the end. Other tools read
//! it as one zstd file, because what is not lines stands in skippable frames.

use crate::{error, line};
use bytes::Bytes;
use evstore_api::{Commit, Error, ErrorKind, Position, Result, Revision, StreamId, format};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::thread::JoinHandle;

/// Bytes of lines after which a frame ends: one ranged GET of some ten kilobytes, and as good a ratio as one large frame.
pub const FRAME_BYTES: usize = 256 << 10;
/// Level of compression: measured on the incident log, 2026-11-27, with `zstd` 1.5: level 3 gives 53 bytes an event, 6 gives 48, 9 gives 46 at half
/// the speed.
const LEVEL: i32 = 6;
/// What a skippable frame begins with.
const SKIPPABLE: u32 = 0x184D_2A50;
/// What the first frame says.
const HEADER: &[u8] = b"{\"evstore_segment\":1}\n";
/// What a segment ends with.
const MAGIC: &[u8; 8] = b"EVSEG\0\0\x01";
/// Bytes of the footer: where the index lies, how long it is, its checksum, the magic bytes.
pub const FOOTER_BYTES: u64 = 40;
/// Bytes before the first frame.
const HEADER_BYTES: u64 = 8 + HEADER.len() as u64;

/// The first 16 bytes of BLAKE3.
pub fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    cut
}

/// The same as text.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What stands in a segment, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The frames, by position.
    pub frames: Vec<Frame>,
    /// The streams, by namespace and name.
    pub streams: Vec<StreamEntry>,
}

/// A frame: lines that are compressed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The first position in it.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Commits in it.
    pub commits: u64,
    /// Events in it.
    pub events: u64,
    /// Bytes of its lines.
    pub raw_bytes: u64,
    /// The first 16 bytes of BLAKE3 over it as it lies there.
    pub blake3: String,
}

/// A stream in a segment: its revisions here follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// Its namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub stream: String,
    /// In which frames it has events, and the first revision in each.
    pub runs: Vec<(u32, u64)>,
    /// The last revision.
    pub last: u64,
}

impl StreamEntry {
    fn is(&self, stream: &StreamId) -> std::cmp::Ordering {
        (self.namespace.as_str(), self.stream.as_str()).cmp(&(stream.namespace.as_str(), stream.name.as_str()))
    }

    /// The stream.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn id(&self) -> Result<StreamId> {
        StreamId::within(&self.namespace, &self.stream)
            .map_err(|cause| Error::new(ErrorKind::Corrupt, "an index names no stream").caused_by(cause))
    }

    /// The first revision.
    pub fn first(&self) -> u64 {
        self.runs.first().map_or(0, |(_, first)| *first)
    }

    /// The frames that may hold revisions of a range, both ends included.
    pub fn frames(&self, first: u64, last: u64) -> impl Iterator<Item = usize> + '_ {
        let ends = self.runs.iter().skip(1).map(|(_, next)| next - 1).chain(std::iter::once(self.last));
        self.runs
            .iter()
            .zip(ends)
            .filter(move |((_, begin), end)| *begin <= last && *end >= first)
            .map(|((frame, _), _)| *frame as usize)
    }
}

impl Index {
    /// What it has of a stream.
    pub fn stream(&self, stream: &StreamId) -> Option<&StreamEntry> {
        self.streams.binary_search_by(|entry| entry.is(stream)).ok().map(|at| &self.streams[at])
    }

    /// Bytes that it takes in memory, about.
    pub fn weight(&self) -> usize {
        let streams: usize = self.streams.iter().map(|one| 96 + one.stream.len() + one.runs.len() * 16).sum();
        streams + self.frames.len() * 144
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(unwritten)?;
        zstd::bulk::compress(&json, LEVEL).map_err(unwritten)
    }

    /// Reads what [`Index::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    pub fn decode(object: &str, bytes: &[u8], wanted: &str) -> Result<Self> {
        if hex(&checksum(bytes)) != wanted {
            return Err(error::damaged(object, "the index fails its checksum"));
        }
        let json =
            zstd::stream::decode_all(bytes).map_err(|_| error::damaged(object, "the index can't be unpacked"))?;
        serde_json::from_slice(&json).map_err(|_| error::damaged(object, "the index can't be understood"))
    }
}

fn unwritten(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, "a segment could not be made").caused_by(cause)
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The first 16 bytes of BLAKE3 over it.
    pub blake3: String,
}

impl Part {
    /// As a range.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }
}

/// A segment in the making.
#[derive(Debug, Default)]
pub struct Builder {
    object: Vec<u8>,
    lines: Vec<u8>,
    frame: Option<Frame>,
    /// The frame before, which is compressed while the lines of this one are written.
    packing: Option<JoinHandle<Packed>>,
    frames: Vec<Frame>,
    /// The last position that was added.
    last: u64,
    streams: BTreeMap<StreamId, (Vec<(u32, u64)>, u64)>,
    content: Content,
}

/// What a segment holds, counted and digested from commits: once as they were given, once as they are read again.
#[derive(Debug, Default)]
pub struct Content {
    /// Commits.
    pub commits: u64,
    /// Events.
    pub events: u64,
    hasher: blake3::Hasher,
}

impl Content {
    /// Adds a commit.
    pub fn add(&mut self, commit: &Commit) {
        self.commits += 1;
        self.events += u64::from(commit.count);
        self.hasher.update(&format::encode(commit));
    }

    /// The digest over all of them: their encoding by format v1, one after the other.
    pub fn digest(&self) -> String {
        hex(self.hasher.finalize().as_bytes())
    }
}

/// A segment that is made.
#[derive(Debug)]
pub struct Made {
    /// Its bytes.
    pub object: Bytes,
    /// The first position.
    pub first: Position,
    /// The last position.
    pub last: Position,
    /// Its index.
    pub index: Index,
    /// Where that lies.
    pub part: Part,
    /// Bytes of its lines.
    pub raw_bytes: u64,
    /// What it holds.
    pub content: Content,
}

impl Builder {
    /// Bytes that the object has by now.
    pub fn bytes(&self) -> u64 {
        self.object.len() as u64 + self.lines.len() as u64 / 8
    }

    /// Adds a commit, whole, behind all before it in the feed and in its stream.
    ///
    /// # Errors
    /// `Corrupt` for one that does not follow; `Unavailable` where it can't be compressed.
    pub fn add(&mut self, commit: &Commit) -> Result<()> {
        let refused = |message| Err(Error::new(ErrorKind::Corrupt, message).with("stream", &commit.stream));
        let (Some(first), Some(last), true) = (commit.first_position, commit.last_position(), commit.is_whole()) else {
            return refused("only a whole commit with a position is archived");
        };
        if first.0 <= self.last {
            return refused("commits are archived in the order of their positions");
        }
        if self.object.is_empty() {
            skippable(&mut self.object, HEADER);
        }
        self.last = last.0;
        let at = self.frames.len() as u32 + u32::from(self.packing.is_some());
        let (runs, end) = self.streams.entry(commit.stream.clone()).or_insert((Vec::new(), 0));
        if !runs.is_empty() && *end + 1 != commit.first_revision.0 {
            return refused("a stream is archived without a gap");
        }
        if runs.last().is_none_or(|(frame, _)| *frame != at) {
            runs.push((at, commit.first_revision.0));
        }
        *end = commit.last_revision().0;
        let frame = self.frame.get_or_insert(Frame {
            offset: 0,
            bytes: 0,
            first: first.0,
            last: 0,
            commits: 0,
            events: 0,
            raw_bytes: 0,
            blake3: String::new(),
        });
        frame.last = last.0;
        frame.commits += 1;
        frame.events += u64::from(commit.count);
        line::write(commit, first, &mut self.lines);
        self.content.add(commit);
        if self.lines.len() >= FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<()> {
        self.end_packing()?;
        if let Some(frame) = self.frame.take() {
            let lines = std::mem::take(&mut self.lines);
            self.packing = Some(std::thread::spawn(move || pack(frame, &lines)));
        }
        Ok(())
    }

    fn end_packing(&mut self) -> Result<()> {
        let Some(packing) = self.packing.take() else { return Ok(()) };
        let (mut frame, packed) = packing.join().map_err(|_| unwritten("a thread ended"))??;
        frame.offset = self.object.len() as u64;
        self.object.extend_from_slice(&packed);
        self.frames.push(frame);
        Ok(())
    }

    /// The segment; none where nothing was added.
    ///
    /// # Errors
    /// `Unavailable` where it can't be compressed.
    pub fn finish(mut self) -> Result<Option<Made>> {
        self.end_frame()?;
        self.end_packing()?;
        let (Some(first), Some(last)) = (self.frames.first(), self.frames.last()) else { return Ok(None) };
        let (first, last) = (Position(first.first), Position(last.last));
        let raw_bytes = self.frames.iter().map(|frame| frame.raw_bytes).sum();
        let entry = |(stream, (runs, last)): (StreamId, (Vec<(u32, u64)>, u64))| StreamEntry {
            namespace: stream.namespace.to_string(),
            stream: stream.name.to_string(),
            runs,
            last,
        };
        let index = Index { frames: self.frames, streams: self.streams.into_iter().map(entry).collect() };
        let packed = index.encode()?;
        let offset = self.object.len() as u64 + 8;
        let part = Part { offset, bytes: packed.len() as u64, blake3: hex(&checksum(&packed)) };
        let mut tail = packed;
        let sum = checksum(&tail);
        tail.extend_from_slice(&part.offset.to_le_bytes());
        tail.extend_from_slice(&part.bytes.to_le_bytes());
        tail.extend_from_slice(&sum);
        tail.extend_from_slice(MAGIC);
        skippable(&mut self.object, &tail);
        Ok(Some(Made { object: self.object.into(), first, last, index, part, raw_bytes, content: self.content }))
    }
}

/// A frame and its bytes.
type Packed = Result<(Frame, Vec<u8>)>;

fn pack(mut frame: Frame, lines: &[u8]) -> Packed {
    let packed = zstd::bulk::compress(lines, LEVEL).map_err(unwritten)?;
    frame.bytes = packed.len() as u64;
    frame.raw_bytes = lines.len() as u64;
    frame.blake3 = hex(&checksum(&packed));
    Ok((frame, packed))
}

fn skippable(object: &mut Vec<u8>, content: &[u8]) {
    object.extend_from_slice(&SKIPPABLE.to_le_bytes());
    object.extend_from_slice(&(content.len() as u32).to_le_bytes());
    object.extend_from_slice(content);
}

/// The lines of a frame.
///
/// # Errors
/// `Corrupt`, naming the object and where the frame begins.
pub fn lines(object: &str, frame: &Frame, bytes: &[u8]) -> Result<Vec<u8>> {
    let damaged = |message| Err(error::damaged(object, message).with("offset", frame.offset));
    if bytes.len() as u64 != frame.bytes || hex(&checksum(bytes)) != frame.blake3 {
        return damaged("a frame fails its checksum");
    }
    let Ok(size) = usize::try_from(frame.raw_bytes) else { return damaged("a frame is too large") };
    match zstd::bulk::decompress(bytes, size) {
        Ok(lines) if lines.len() == size => Ok(lines),
        Ok(_) | Err(_) => damaged("a frame can't be unpacked"),
    }
}

/// The commits of a frame.
///
/// # Errors
/// As [`lines`].
pub fn commits(object: &str, frame: &Frame, bytes: &[u8]) -> Result<Vec<Commit>> {
    let lines = lines(object, frame, bytes)?;
    let commits = line::read(&lines);
    commits.map_err(|cause| {
        error::damaged(object, "a line can't be understood").with("offset", frame.offset).caused_by(cause)
    })
}

/// The commits of one stream in a frame.
///
/// # Errors
/// As [`lines`].
pub fn commits_of(object: &str, frame: &Frame, bytes: &[u8], stream: &StreamId) -> Result<Vec<Commit>> {
    let lines = lines(object, frame, bytes)?;
    let commits = line::read_stream(&lines, stream);
    commits.map_err(|cause| {
        error::damaged(object, "a line can't be understood").with("offset", frame.offset).caused_by(cause)
    })
}

/// Where the index of a whole object lies, as its footer says.
///
/// # Errors
/// `Corrupt`, `Schema` for one that a newer release wrote.
pub fn footer(object: &str, bytes: &[u8]) -> Result<Part> {
    let Some(footer) = bytes.last_chunk::<40>() else { return Err(error::damaged(object, "it is too short")) };
    if footer[32..37] != MAGIC[..5] {
        return Err(error::damaged(object, "it has no footer"));
    }
    if footer[32..] != MAGIC[..] {
        return Err(error::newer(object));
    }
    let number = |at: usize| footer[at..at + 8].iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    Ok(Part { offset: number(0), bytes: number(8), blake3: hex(&footer[16..32]) })
}

/// Works on every item, by a thread for each processor, and hands the results out in the order of the items. No thread is further
/// ahead than one result.
fn in_order<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let work = &work;
    std::thread::scope(|scope| {
        let start = |first: usize| {
            let (give, take) = std::sync::mpsc::sync_channel(1);
            // It ends early where nobody takes any more.
            scope.spawn(move || items[first..].iter().step_by(threads).try_for_each(|item| give.send(work(item))));
            take
        };
        let started: Vec<_> = (0..threads).map(start).collect();
        (0..items.len()).zip(started.iter().cycle()).try_for_each(|(_, take)| {
            let gone = |_| Error::new(ErrorKind::Unavailable, "a thread that reads a segment ended");
            each(take.recv().map_err(gone)?)
        })
    })
}

/// Reads a whole segment, everything verified, and hands its commits out in order.
///
/// # Errors
/// `Corrupt`, saying where; what `each` fails with.
pub fn read_whole(object: &str, bytes: &Bytes, mut each: impl FnMut(Commit) -> Result<()>) -> Result<Index> {
    let part = footer(object, bytes)?;
    let at = |range: Range<u64>| -> Option<&[u8]> {
        bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    };
    let mut header = Vec::new();
    skippable(&mut header, HEADER);
    if at(0..HEADER_BYTES).is_none_or(|found| found != header) {
        return Err(error::damaged(object, "it does not begin as a segment"));
    }
    let end = part.offset.checked_add(part.bytes).filter(|end| end + FOOTER_BYTES == bytes.len() as u64);
    let packed =
        end.and_then(|end| at(part.offset..end)).ok_or_else(|| error::damaged(object, "its footer is wrong"))?;
    let index = Index::decode(object, packed, &part.blake3)?;
    let mut offset = HEADER_BYTES;
    let mut frames = Vec::with_capacity(index.frames.len());
    for frame in &index.frames {
        if frame.offset != offset {
            return Err(error::damaged(object, "its frames have gaps").with("offset", offset));
        }
        offset = frame.offset.saturating_add(frame.bytes);
        let packed = at(frame.offset..offset).ok_or_else(|| error::damaged(object, "a frame is beyond its end"))?;
        frames.push((frame, packed));
    }
    let mut seen: BTreeMap<StreamId, (Vec<(u32, u64)>, u64)> = BTreeMap::new();
    let mut number = 0_u32;
    let read = |(frame, packed): &(&Frame, &[u8])| {
        let commits = commits(object, frame, packed)?;
        let events: u64 = commits.iter().map(|commit| u64::from(commit.count)).sum();
        let span = (commits.first().and_then(|one| one.first_position), commits.last().and_then(Commit::last_position));
        let told = (commits.len() as u64, events, Some(Position(frame.first)), Some(Position(frame.last)));
        if told != (frame.commits, frame.events, span.0, span.1) {
            return Err(error::damaged(object, "a frame is not what the index says").with("offset", frame.offset));
        }
        Ok(commits)
    };
    in_order(&frames, read, |commits| {
        for commit in commits? {
            let (runs, last) = seen.entry(commit.stream.clone()).or_default();
            if runs.last().is_none_or(|(frame, _)| *frame != number) {
                runs.push((number, commit.first_revision.0));
            }
            *last = commit.last_revision().0;
            each(commit)?;
        }
        number += 1;
        Ok(())
    })?;
    if offset + 8 != part.offset || at(offset..offset + 4).is_none_or(|magic| magic != SKIPPABLE.to_le_bytes()) {
        return Err(error::damaged(object, "something stands before its index").with("offset", offset));
    }
    let length = (part.bytes + FOOTER_BYTES) as u32;
    if at(offset + 4..offset + 8).is_none_or(|told| told != length.to_le_bytes()) {
        return Err(error::damaged(object, "the length of its index is wrong").with("offset", offset + 4));
    }
    let told = index.streams.iter().map(|entry| Ok((entry.id()?, (entry.runs.clone(), entry.last))));
    if told.collect::<Result<BTreeMap<_, _>>>()? != seen {
        return Err(error::damaged(object, "the index of its streams is wrong"));
    }
    Ok(index)
}

/// The first revision that is behind what a segment has of a stream.
pub fn behind(entry: &StreamEntry) -> Revision {
    Revision(entry.last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tests::commit;

    fn made(commits: &[Commit]) -> Made {
        let mut builder = Builder::default();
        commits.iter().for_each(|commit| builder.add(commit).unwrap());
        builder.finish().unwrap().unwrap()
    }

    fn some() -> Vec<Commit> {
        let mut commits = Vec::new();
        let (mut a, mut b, mut position) = (1, 1, 1);
        for n in 1..=400_u64 {
            let count = (n % 4 + 1) as u32;
            let (stream, first) = if n % 3 == 0 { ("b-1", &mut b) } else { ("a-1", &mut a) };
            // The number decides the namespace too.
            commits.push(commit(stream, 2 * n, *first, position, count));
            *first += u64::from(count);
            position += u64::from(count) + n % 2;
        }
        commits
    }

    #[test]
    fn a_segment_is_read_as_it_was_made() {
        let commits = some();
        let segment = made(&commits);
        let mut read = Vec::new();
        let index = read_whole("s", &segment.object, |commit| {
            read.push(commit);
            Ok(())
        })
        .unwrap();
        assert_eq!((&index, &read), (&segment.index, &commits));
        let entry = index.stream(&commits[0].stream).unwrap();
        assert_eq!(entry.first(), 1);
        assert!(index.stream(&StreamId::new("a-1").unwrap()).is_none());
    }

    #[test]
    fn other_tools_read_it_as_one_file_of_lines() {
        let commits = some();
        let mut lines = Vec::new();
        commits.iter().for_each(|commit| line::write(commit, commit.first_position.unwrap(), &mut lines));
        assert_eq!(zstd::stream::decode_all(&made(&commits).object[..]).unwrap(), lines);
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let object = made(&some()).object;
        let mut damaged = object.to_vec();
        let step = (damaged.len() / 500).max(1);
        let ends = (0..64).chain(damaged.len() - 64..damaged.len());
        for at in (0..damaged.len()).step_by(step).chain(ends) {
            damaged[at] ^= 1 << (at % 8);
            let read = read_whole("s", &Bytes::copy_from_slice(&damaged), |_| Ok(()));
            let error = read.expect_err(&format!("bit of byte {at}"));
            assert!(error.context().iter().any(|(name, value)| *name == "object" && value == "s"), "{error}");
            damaged[at] ^= 1 << (at % 8);
        }
    }
}
