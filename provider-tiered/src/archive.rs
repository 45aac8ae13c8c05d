//! Finding commits in the archive: the catalog, the indexes of segments, their frames, and what of them is kept in memory.

use crate::catalog::{self, Catalog, Segment};
use crate::error;
use crate::note::{self, Note};
use crate::place::Place;
use crate::segment::{self, Frame, Index};
use bytes::Bytes;
use evstore_api::{Commit, Deadline, Direction, Error, ErrorKind, EventStore, Result, Revision, StreamId, Usage};
use evstore_kit::limits::event_bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that one request asks for at most, unless one frame is larger.
const SPAN_BYTES_MAX: u64 = 16 << 20;
/// Bytes that are read ahead along the feed.
const AHEAD_BYTES: u64 = 1 << 20;

/// An archive.
#[derive(Debug)]
pub struct Archive {
    place: Arc<dyn Place>,
    cache: Mutex<Cache>,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Cache {
    catalog: Option<Arc<Catalog>>,
    kept: HashMap<(String, Option<usize>), Kept>,
    bytes: usize,
    bytes_max: usize,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    what: What,
    bytes: usize,
    used: u64,
}

#[derive(Clone, Debug)]
enum What {
    Index(Arc<Index>),
    Frame(Bytes),
}

impl Cache {
    fn get(&mut self, key: &str, frame: Option<usize>) -> Option<What> {
        self.uses += 1;
        let kept = self.kept.get_mut(&(key.to_owned(), frame))?;
        kept.used = self.uses;
        Some(kept.what.clone())
    }

    fn put(&mut self, key: &str, frame: Option<usize>, what: What, bytes: usize) {
        self.uses += 1;
        let kept = Kept { what, bytes, used: self.uses };
        self.bytes += bytes;
        if let Some(old) = self.kept.insert((key.to_owned(), frame), kept) {
            self.bytes -= old.bytes;
        }
        while self.bytes > self.bytes_max {
            // There are few: an index is of thousands of streams, a frame of hundreds of events.
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone()) else {
                return;
            };
            self.bytes -= self.kept.remove(&oldest).map_or(0, |kept| kept.bytes);
        }
    }
}

impl Archive {
    /// At a place, with so many bytes in memory.
    pub fn new(place: Arc<dyn Place>, cache_bytes: u64) -> Self {
        let bytes_max = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        Self { place, cache: Mutex::new(Cache { bytes_max, ..Cache::default() }) }
    }

    /// Where it lies.
    pub fn place(&self) -> &Arc<dyn Place> {
        &self.place
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads an object, or a part of it. A place that does not answer costs a caller its deadline and nobody else anything.
    async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Bytes>> {
        match tokio::time::timeout_at(deadline.0.into(), self.place.get(key, part, deadline, usage)).await {
            Ok(got) => got,
            Err(_) => {
                let message = "the deadline passed before the archive answered";
                Err(Error::new(ErrorKind::DeadlineExceeded, message).with("object", key))
            }
        }
    }

    /// The catalog that a note names, or a later one.
    ///
    /// # Errors
    /// As reading an object; `Schema` where it is another archive's; `Corrupt`.
    pub async fn catalog(&self, note: &Note, deadline: Deadline, usage: &mut Usage) -> Result<Arc<Catalog>> {
        if let Some(kept) = self.cache().catalog.clone().filter(|kept| kept.number >= note.catalog) {
            return Ok(kept);
        }
        let catalog = match self.read_catalog(note.catalog, deadline, usage).await? {
            Some(catalog) => catalog,
            // A hot store that was restored may know a catalog that is gone since.
            None => {
                let last = self.last_catalog(deadline, usage).await?;
                last.filter(|last| last.number > note.catalog)
                    .ok_or_else(|| error::missing(&catalog::key(note.catalog)))?
            }
        };
        if catalog.archive != note.archive {
            return Err(note::other(&note.archive, &catalog.archive));
        }
        Ok(self.keep(catalog))
    }

    /// Keeps a catalog in memory, unless a later one is there.
    pub fn keep(&self, catalog: Catalog) -> Arc<Catalog> {
        let catalog = Arc::new(catalog);
        let mut cache = self.cache();
        if cache.catalog.as_ref().is_none_or(|kept| kept.number < catalog.number) {
            cache.catalog = Some(catalog.clone());
        }
        catalog
    }

    /// A catalog by its number.
    ///
    /// # Errors
    /// As reading an object; `Corrupt`.
    pub async fn read_catalog(&self, number: u64, deadline: Deadline, usage: &mut Usage) -> Result<Option<Catalog>> {
        let key = catalog::key(number);
        let Some(bytes) = self.get(&key, None, deadline, usage).await? else { return Ok(None) };
        let catalog = Catalog::decode(&key, &bytes)?;
        if catalog.number != number {
            return Err(error::damaged(&key, "it is another catalog"));
        }
        Ok(Some(catalog))
    }

    /// The last catalog that there is, found by a list.
    ///
    /// # Errors
    /// As reading objects; `Corrupt`.
    pub async fn last_catalog(&self, deadline: Deadline, usage: &mut Usage) -> Result<Option<Catalog>> {
        let keys = self.place.list("catalog/", deadline, usage).await?;
        match keys.iter().filter_map(|key| catalog::number_of(key)).max() {
            Some(number) => self.read_catalog(number, deadline, usage).await,
            None => Ok(None),
        }
    }

    /// The index of a segment.
    ///
    /// # Errors
    /// As reading an object; `Corrupt`.
    pub async fn index(&self, segment: &Segment, deadline: Deadline, usage: &mut Usage) -> Result<Arc<Index>> {
        if let Some(What::Index(index)) = self.cache().get(&segment.key, None) {
            return Ok(index);
        }
        let part = &segment.index;
        let bytes = self.get(&segment.key, Some(part.range()), deadline, usage).await?;
        let bytes = bytes.ok_or_else(|| error::missing(&segment.key))?;
        let index = Arc::new(Index::decode(&segment.key, &bytes, &part.blake3)?);
        self.cache().put(&segment.key, None, What::Index(index.clone()), index.weight());
        Ok(index)
    }

    /// Frames of a segment as they lie there, from the first wanted one on as many as one request brings.
    async fn frames(
        &self,
        segment: &Segment,
        index: &Index,
        wanted: &[usize],
        ahead: bool,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Vec<(usize, Bytes)>> {
        let frame = |at: usize| {
            index.frames.get(at).ok_or_else(|| error::damaged(&segment.key, "its index names a frame that it has not"))
        };
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for at in wanted {
            match self.cache().get(&segment.key, Some(*at)) {
                Some(What::Frame(bytes)) if missing.is_empty() => found.push((*at, bytes)),
                _ => missing.push(*at),
            }
        }
        let (Some(first), Some(mut last)) = (missing.first().copied(), missing.last().copied()) else {
            return Ok(found);
        };
        let start = frame(first)?.offset;
        let end = |at: usize| frame(at).map(|frame| frame.offset + frame.bytes);
        while last > first && end(last)? - start > SPAN_BYTES_MAX {
            last -= 1;
        }
        while ahead && last + 1 < index.frames.len() && end(last + 1)? - start <= AHEAD_BYTES {
            last += 1;
        }
        let bytes = self.get(&segment.key, Some(start..end(last)?), deadline, usage).await?;
        let bytes = bytes.ok_or_else(|| error::missing(&segment.key))?;
        for at in first..=last {
            let Frame { offset, bytes: length, .. } = frame(at)?;
            let (from, to) = ((offset - start) as usize, (offset - start + length) as usize);
            if to > bytes.len() {
                return Err(
                    error::damaged(&segment.key, "it ends too early").with("offset", start + bytes.len() as u64)
                );
            }
            let own = bytes.slice(from..to);
            self.cache().put(&segment.key, Some(at), What::Frame(own.clone()), own.len());
            if missing.contains(&at) {
                found.push((at, own));
            }
        }
        Ok(found)
    }

    /// The commits of a frame.
    ///
    /// # Errors
    /// As reading an object; `Corrupt`, saying where.
    pub async fn frame(
        &self,
        segment: &Segment,
        index: &Index,
        at: usize,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Vec<Commit>> {
        let found = self.frames(segment, index, &[at], true, deadline, usage).await?;
        let bytes = found.into_iter().find(|(found, _)| *found == at).map(|(_, bytes)| bytes);
        match (index.frames.get(at), bytes) {
            (Some(frame), Some(bytes)) => segment::commits(&segment.key, frame, &bytes),
            _ => Err(error::damaged(&segment.key, "its index names a frame that it has not")),
        }
    }

    /// Commits of a stream, from the one that holds a revision on, in the order of reading: at least one where the archive has it, and
    /// about as many events and bytes as are wanted.
    ///
    /// # Errors
    /// As reading objects; `Corrupt`, saying where.
    pub async fn stream(&self, catalog: &Catalog, read: &StreamRead<'_>, usage: &mut Usage) -> Result<Vec<Commit>> {
        let mut commits: Vec<Commit> = Vec::new();
        let (mut next, mut events_left, mut bytes_left) = (read.from.0, u64::from(read.events), read.bytes);
        let candidates = catalog.segments.iter().filter(|segment| segment.filter.may_have(read.stream));
        let mut segments: Vec<&Segment> = candidates.collect();
        if read.direction == Direction::Backward {
            segments.reverse();
        }
        for segment in segments {
            let index = self.index(segment, read.deadline, usage).await?;
            let Some(entry) = index.stream(read.stream) else { continue };
            while (entry.first()..=entry.last).contains(&next) {
                if next == 0 || (!commits.is_empty() && (events_left == 0 || bytes_left == 0)) {
                    return Ok(commits);
                }
                let span = events_left.max(1) - 1;
                let (low, high) = match read.direction {
                    Direction::Forward => (next, next.saturating_add(span)),
                    Direction::Backward => (next.saturating_sub(span), next),
                };
                let mut wanted: Vec<usize> = entry.frames(low, high).collect();
                if read.direction == Direction::Backward {
                    // What one request brings has to end where reading begins.
                    wanted = last_span(&index, &wanted);
                }
                let mut found = self.frames(segment, &index, &wanted, false, read.deadline, usage).await?;
                if read.direction == Direction::Backward {
                    found.reverse();
                }
                let before = next;
                for (at, bytes) in found {
                    let Some(frame) = index.frames.get(at) else { continue };
                    let mut own = segment::commits_of(&segment.key, frame, &bytes, read.stream)?;
                    if read.direction == Direction::Backward {
                        own.reverse();
                    }
                    for commit in own {
                        let (first, last) = (commit.first_revision.0, commit.last_revision().0);
                        let holds = first <= next && next <= last;
                        let passed = match read.direction {
                            Direction::Forward => last < next,
                            Direction::Backward => first > next,
                        };
                        if passed {
                            continue;
                        }
                        if !holds {
                            return Err(lost(segment, read.stream, next));
                        }
                        next = match read.direction {
                            Direction::Forward => last + 1,
                            Direction::Backward => first - 1,
                        };
                        events_left = events_left.saturating_sub(u64::from(commit.count));
                        bytes_left = bytes_left.saturating_sub(commit.events.iter().map(event_bytes).sum());
                        commits.push(commit);
                        if events_left == 0 || bytes_left == 0 {
                            return Ok(commits);
                        }
                    }
                }
                if next == before {
                    return Err(lost(segment, read.stream, next));
                }
            }
        }
        Ok(commits)
    }
}

/// A read of one stream.
#[derive(Clone, Debug)]
pub struct StreamRead<'a> {
    /// The stream.
    pub stream: &'a StreamId,
    /// Where to begin.
    pub from: Revision,
    /// Which way.
    pub direction: Direction,
    /// Events wanted.
    pub events: u32,
    /// Bytes wanted.
    pub bytes: u64,
    /// When to stop waiting.
    pub deadline: Deadline,
}

fn last_span(index: &Index, wanted: &[usize]) -> Vec<usize> {
    let offset = |at: usize| index.frames.get(at).map_or(0, |frame| frame.offset);
    let end = wanted.last().and_then(|at| index.frames.get(*at)).map_or(0, |frame| frame.offset + frame.bytes);
    let last = wanted.last().copied();
    wanted.iter().copied().filter(|at| Some(*at) == last || end - offset(*at) <= SPAN_BYTES_MAX).collect()
}

fn lost(segment: &Segment, stream: &StreamId, revision: u64) -> Error {
    error::damaged(&segment.key, "a revision is missing that its index has")
        .with("stream", stream)
        .with("revision", revision)
}

/// The note to go on with after something failed with a catalog: a segment that was rewritten meanwhile is gone under its old key, and a
/// later catalog has it under another.
///
/// # Errors
/// What failed, where there is no later catalog.
pub async fn later(hot: &dyn EventStore, failed: Error, catalog: &Catalog, deadline: Deadline) -> Result<Note> {
    if failed.kind() != ErrorKind::Corrupt {
        return Err(failed);
    }
    let later = note::read(hot, deadline).await?.filter(|later| later.catalog > catalog.number);
    later.ok_or(failed)
}

/// Reads a stream with the catalog that the note names, or a later one.
///
/// # Errors
/// As [`Archive::stream`].
pub async fn read_stream(
    hot: &dyn EventStore,
    archive: &Archive,
    mut note: Note,
    read: &StreamRead<'_>,
    usage: &mut Usage,
) -> Result<Vec<Commit>> {
    loop {
        let catalog = archive.catalog(&note, read.deadline, usage).await?;
        match archive.stream(&catalog, read, usage).await {
            Ok(found) => return Ok(found),
            Err(failed) => note = later(hot, failed, &catalog, read.deadline).await?,
        }
    }
}
