//! Payloads: fetched from the objects that they lie in, each object with one request, whole where it is small or most of it is wanted.

use crate::codec;
use crate::error;
use crate::log;
use crate::store::Client;
use crate::tables::{Frame, Location};
use bytes::Bytes;
use evstore_api::{CommitNumber, Deadline, FeedItem, Position, Result, StreamId, Usage};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Objects that are fetched at once.
const FETCHES_MAX: usize = 8;
/// Objects up to this size are fetched whole: a part costs as much, and the rest may be asked for next.
const WHOLE_BYTES: u32 = 256 << 10;
/// Commits and bytes that are fetched before it is known whether the page takes them.
const CHUNK_COMMITS: usize = 512;
const CHUNK_BYTES: u64 = 4 << 20;

/// Objects in memory, the ones that were used last.
#[derive(Debug)]
pub struct Cache {
    bytes_max: u64,
    bytes: u64,
    uses: u64,
    objects: HashMap<u64, (Bytes, u64)>,
    by_use: BTreeMap<u64, u64>,
}

impl Cache {
    /// An empty one of at most so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, uses: 0, objects: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Keeps an object, and lets go of those that were not used for longest.
    pub fn put(&mut self, number: u64, body: Bytes) {
        self.forget(number);
        self.bytes += body.len() as u64;
        self.uses += 1;
        self.objects.insert(number, (body, self.uses));
        self.by_use.insert(self.uses, number);
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            self.forget(*oldest);
        }
    }

    /// Lets go of an object.
    pub fn forget(&mut self, number: u64) {
        if let Some((body, used)) = self.objects.remove(&number) {
            self.bytes -= body.len() as u64;
            self.by_use.remove(&used);
        }
    }

    fn get(&mut self, number: u64) -> Option<Bytes> {
        let (body, used) = self.objects.get_mut(&number)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, number);
        Some(body.clone())
    }
}

/// Something of a page, in its order, without events.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A commit.
    Commit {
        /// Its stream.
        stream: Arc<StreamId>,
        /// Its slot.
        number: CommitNumber,
        /// The rest of it.
        frame: Frame,
    },
    /// Positions without content.
    Removed {
        /// The first.
        first: Position,
        /// The last.
        last: Position,
    },
}

impl Entry {
    fn at(&self) -> Option<Location> {
        match self {
            Self::Commit { frame, .. } => frame.at,
            Self::Removed { .. } => None,
        }
    }
}

/// Whether a page could be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is.
    Whole,
    /// Something of it was removed meanwhile: it has to be begun anew.
    Outdated,
}

/// Hands a page's entries over with their events, in order, until it is full.
///
/// # Errors
/// As reads have them; `Corrupt` for an object that is missing or damaged, naming it.
pub async fn deliver(
    client: &Client,
    entries: &[Entry],
    max_bytes: u64,
    deadline: Deadline,
    usage: &mut Usage,
    mut push: impl FnMut(FeedItem) -> ControlFlow<()>,
) -> Result<Delivered> {
    let mut rest = entries;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(chunk_of(rest, max_bytes));
        let wanted: Vec<Location> = chunk.iter().filter_map(Entry::at).collect();
        let mut payloads = fetch(client, &wanted, deadline, usage).await?;
        for entry in chunk {
            let item = match entry {
                Entry::Removed { first, last } => FeedItem::Removed { first: *first, last: *last },
                Entry::Commit { stream, number, frame } => {
                    let Some(at) = frame.at else {
                        if push(FeedItem::Commit(frame.commit(stream, *number, Vec::new()))).is_break() {
                            return Ok(Delivered::Whole);
                        }
                        continue;
                    };
                    let payload = payloads.remove(&at).unwrap_or_default();
                    match codec::commit(stream, *number, frame, &payload) {
                        Ok(commit) => FeedItem::Commit(commit),
                        Err(_) if is_gone(client, stream, *number, deadline, usage).await? => {
                            return Ok(Delivered::Outdated);
                        }
                        Err(cause) => {
                            client.cache().forget(at.object);
                            return Err(error::damaged(&client.slot(at.object), cause)
                                .with("stream", stream)
                                .with("number", number)
                                .of_commit(frame.id));
                        }
                    }
                }
            };
            if push(item).is_break() {
                return Ok(Delivered::Whole);
            }
        }
        rest = later;
    }
    Ok(Delivered::Whole)
}

/// How many entries are fetched together.
fn chunk_of(entries: &[Entry], max_bytes: u64) -> usize {
    let mut bytes = 0;
    let most = CHUNK_BYTES.min(max_bytes);
    let fits = |entry: &&Entry| {
        let before = bytes;
        bytes += entry.at().map_or(0, |at| u64::from(at.bytes));
        before < most
    };
    entries.iter().take(CHUNK_COMMITS).take_while(fits).count().max(1)
}

/// Whether a commit lost its events since it was looked at.
async fn is_gone(
    client: &Client,
    stream: &StreamId,
    number: CommitNumber,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<bool> {
    log::catch_up(client, deadline, usage).await?;
    Ok(client.tables().frame(stream, number).is_none_or(|frame| frame.at.is_none()))
}

/// Fetches one payload.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_one(client: &Client, at: Location, deadline: Deadline, usage: &mut Usage) -> Result<Bytes> {
    Ok(fetch(client, &[at], deadline, usage).await?.remove(&at).unwrap_or_default())
}

/// Fetches payloads. Of one that was taken out of its object nothing or zeros come.
///
/// # Errors
/// As reads have them; `Corrupt` for an object that is missing, naming it.
async fn fetch(
    client: &Client,
    wanted: &[Location],
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<HashMap<Location, Bytes>> {
    let mut by_object: BTreeMap<u64, Vec<Location>> = BTreeMap::new();
    for at in wanted {
        by_object.entry(at.object).or_default().push(*at);
    }
    let fetched = by_object.into_iter().map(|(object, wanted)| async move {
        let mut usage = Usage::default();
        let part = part(client, object, &wanted, deadline, &mut usage).await?;
        Ok((wanted, part, usage))
    });
    let parts: Vec<_> = stream::iter(fetched).buffer_unordered(FETCHES_MAX).try_collect().await?;
    let mut payloads = HashMap::with_capacity(wanted.len());
    for (wanted, part, cost) in parts {
        *usage += cost;
        payloads.extend(wanted.into_iter().map(|at| (at, part.slice(at))));
    }
    Ok(payloads)
}

/// Bytes of an object from some place on.
struct Part {
    start: usize,
    bytes: Bytes,
}

impl Part {
    fn slice(&self, at: Location) -> Bytes {
        let start = (at.offset as usize).saturating_sub(self.start).min(self.bytes.len());
        self.bytes.slice(start..start.saturating_add(at.bytes as usize).min(self.bytes.len()))
    }
}

async fn part(
    client: &Client,
    object: u64,
    wanted: &[Location],
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Part> {
    if let Some(bytes) = client.cache().get(object) {
        return Ok(Part { start: 0, bytes });
    }
    let range = range_of(client, object, wanted);
    let key = client.slot(object);
    let got = client.link().get(&key, range.clone(), deadline.min(client.patience()), usage).await?;
    let got = got.ok_or_else(|| error::missing(&key))?;
    match range {
        Some(range) => Ok(Part { start: range.start as usize, bytes: got.body }),
        None => {
            client.cache().put(object, got.body.clone());
            Ok(Part { start: 0, bytes: got.body })
        }
    }
}

/// The part of an object that is fetched; none for all of it.
fn range_of(client: &Client, object: u64, wanted: &[Location]) -> Option<Range<u64>> {
    let size = client.tables().sizes.get((object - 1) as usize).copied().unwrap_or(0);
    let start = wanted.iter().map(|at| at.offset).min()?;
    let end = wanted.iter().map(|at| at.offset.saturating_add(at.bytes)).max()?;
    let some = size > WHOLE_BYTES && u64::from(end - start) * 2 < u64::from(size);
    some.then(|| u64::from(start)..u64::from(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_was_used_last_and_no_more_than_it_may() {
        let mut cache = Cache::new(10);
        cache.put(1, Bytes::from_static(b"1234"));
        cache.put(2, Bytes::from_static(b"1234"));
        assert!(cache.get(1).is_some());
        cache.put(3, Bytes::from_static(b"1234"));
        assert_eq!((cache.get(1).is_some(), cache.get(2).is_some(), cache.get(3).is_some()), (true, false, true));
        cache.put(4, Bytes::from_static(b"12345678901"));
        assert_eq!((cache.bytes, cache.objects.len(), cache.by_use.len()), (0, 0, 0));
    }
}
