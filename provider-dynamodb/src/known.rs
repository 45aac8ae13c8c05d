//! What a process knows of streams without asking: the last slot, and the ids of the last commits without a gap. Never believed:
//! whatever is written on its strength is written under the condition that the next slot is free, and whatever is refused on its
//! strength is looked at again first.

use crate::codec::{self, Frame, corrupt};
use crate::link::{Order, Range};
use crate::place::Place;
use crate::store::Client;
use crate::tables::{FRAME, Item, NUMBER, PLACE, POSITION, Table, bytes_of, number, number_of, numbered, stream_key};
use evstore_api::capabilities::Fence;
use evstore_api::{
    Appended, CommitId, CommitKind, CommitNumber, Deadline, Epoch, Head, Meta, Position, Result, Revision, StoreName,
    StoreState, StreamId, Timestamp, Usage,
};
use evstore_kit::{decide, state};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Streams of which something is kept; with the smallest window each takes about 10 KiB.
const STREAMS_MAX: usize = 4_096;
/// Places at which readers stopped that are kept, so that the next page need not look for them.
const PLACES_MAX: usize = 16_384;

/// Streams that were seen sealed in the epoch of the store's record which are kept; each takes about 300 bytes.
const SEALS_MAX: usize = 100_000;

/// What of an item is not the events of its commit.
pub const FRAMES: &str = "n, f, p, i";

/// What stands last in a stream. What can be done with it also hangs on the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its last slot; 0 for a missing stream.
    pub number: CommitNumber,
    /// Revision of its last event.
    pub revision: Revision,
    /// Revision of the first event that is kept.
    pub retained: Revision,
    /// The slot from which on events are kept.
    pub from: CommitNumber,
    /// When its last commit was taken.
    pub recorded_at: Timestamp,
    /// Kind of its last commit.
    pub kind: CommitKind,
    /// The epoch that copied its last commit here.
    pub imported: Option<Epoch>,
    /// Id of its last commit.
    pub commit: CommitId,
    /// Position of its last commit, as far as it was there when this was read.
    pub position: Option<Position>,
    /// Place of its last commit in the feed's index, where there is one.
    pub place: Option<Place>,
}

impl Last {
    /// Of a stream without a commit.
    pub fn missing() -> Self {
        Self {
            number: CommitNumber(0),
            revision: Revision(0),
            retained: Revision(1),
            from: CommitNumber(1),
            recorded_at: Timestamp(i64::MIN),
            kind: CommitKind::Events,
            imported: None,
            commit: CommitId([0; 16]),
            position: None,
            place: None,
        }
    }

    /// Of a stream whose last commit has this frame.
    pub fn of(number: CommitNumber, frame: &Frame) -> Self {
        Self {
            number,
            revision: frame.last(),
            retained: frame.retained,
            from: frame.from,
            recorded_at: frame.recorded_at,
            kind: frame.kind.clone(),
            imported: frame.imported,
            commit: frame.id,
            position: frame.position,
            place: frame.place,
        }
    }

    /// Whether it says of an epoch that the stream was closed in it, so that the record has to be known.
    pub fn is_marked(&self) -> bool {
        self.imported.is_some() || matches!(self.kind, CommitKind::MovedOut { .. })
    }

    /// Whether the stream has no commit.
    pub fn is_missing(&self) -> bool {
        self.number.0 == 0
    }

    /// The head, under this record of the store with this name, which so closes for a move.
    pub fn head(&self, meta: &Meta, own: &StoreName, fence: Fence) -> Head {
        if self.is_missing() {
            return Head::missing();
        }
        Head {
            revision: self.revision,
            number: self.number,
            first_retained: self.retained,
            commit: Some(self.commit),
            recorded_at: Some(self.recorded_at),
            state: state::of_stream(&self.kind, self.imported, meta, fence, own),
        }
    }
}

/// A stream's end: its last slot, and the receipts of the commits that are recognised.
#[derive(Clone, Debug)]
pub struct Known {
    /// What stands last.
    pub last: Last,
    /// The last commits, oldest first, without a gap up to the last: as many as the window has, or all.
    receipts: VecDeque<Appended>,
}

impl Known {
    /// Of a stream without a commit.
    pub fn missing() -> Self {
        Self { last: Last::missing(), receipts: VecDeque::new() }
    }

    /// Adds the commit in the next slot.
    pub fn push(&mut self, last: Last, receipt: Appended, window: u64) {
        self.last = last;
        self.receipts.push_back(receipt);
        while self.receipts.len() as u64 > window {
            self.receipts.pop_front();
        }
    }

    /// The latest commit of an id.
    pub fn find(&self, commit: CommitId) -> Option<&Appended> {
        self.receipts.iter().rev().find(|receipt| receipt.commit == commit)
    }
}

/// What is known, of a bounded number of streams.
#[derive(Debug)]
pub struct Memory {
    streams: Mutex<Recent<StreamId, Known>>,
    places: Mutex<Recent<(StreamId, Revision), CommitNumber>>,
    seals: Mutex<Seals>,
}

/// The ends of streams that were seen sealed in one epoch.
#[derive(Debug, Default)]
struct Seals {
    epoch: Epoch,
    ends: HashMap<StreamId, Last>,
}

impl Memory {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            streams: Mutex::new(Recent::new(STREAMS_MAX)),
            places: Mutex::new(Recent::new(PLACES_MAX)),
            seals: Mutex::default(),
        }
    }

    /// Keeps the end of a stream that is sealed in the epoch in which this record closes the store.
    pub fn keep_seal(&self, stream: &StreamId, last: &Last, meta: &Meta) {
        let is_seal = last.imported.is_none()
            && matches!(&last.kind, CommitKind::MovedOut { epoch, .. } if *epoch == meta.epoch)
            && seals_stand(meta);
        if !is_seal {
            return;
        }
        let mut seals = self.seals();
        if seals.epoch != meta.epoch {
            *seals = Seals { epoch: meta.epoch, ends: HashMap::new() };
        }
        if seals.ends.len() < SEALS_MAX {
            seals.ends.insert(stream.clone(), last.clone());
        }
    }

    /// Whether a stream was seen sealed, in whatever epoch.
    pub fn has_seals(&self) -> bool {
        !self.seals().ends.is_empty()
    }

    /// The ends of those of the streams that are known to be sealed under this record. They need not be read again: behind the seal of an
    /// epoch something stands only once the record is open in that epoch or a later one, and then it closes the store in a later one only.
    pub fn sealed_in(&self, meta: &Meta, streams: &[StreamId]) -> HashMap<StreamId, Last> {
        let seals = self.seals();
        if seals.epoch != meta.epoch || !seals_stand(meta) {
            return HashMap::new();
        }
        let known = |stream: &StreamId| Some((stream.clone(), seals.ends.get(stream)?.clone()));
        streams.iter().filter_map(known).collect()
    }

    fn seals(&self) -> MutexGuard<'_, Seals> {
        self.seals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is known of a stream.
    pub fn look<R>(&self, stream: &StreamId, look: impl FnOnce(Option<&mut Known>) -> R) -> R {
        look(self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(stream))
    }

    /// Keeps what was read, unless more is known already.
    pub fn learn(&self, stream: &StreamId, known: Known) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.get(stream).is_none_or(|there| there.last.number <= known.last.number) {
            streams.put(stream.clone(), known);
        }
    }

    /// Forgets a stream.
    pub fn forget(&self, stream: &StreamId) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }

    /// The slot at which a reader goes on that wants this event.
    pub fn place(&self, stream: &StreamId, revision: Revision) -> Option<CommitNumber> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&(stream.clone(), revision)).copied()
    }

    /// Keeps where a reader will go on. The place of an event never changes.
    pub fn keep_place(&self, stream: &StreamId, revision: Revision, at: CommitNumber) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).put((stream.clone(), revision), at);
    }
}

/// Whether nothing is written behind seals of this record's epoch, as long as it stands.
fn seals_stand(meta: &Meta) -> bool {
    matches!(&meta.state, StoreState::Leaving { .. } | StoreState::Fenced { .. })
}

/// A map that forgets what was not looked at for longest, half at a time.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    max: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Of so many at most.
    pub fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), max }
    }

    /// What is kept under a key.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.put(key, value);
        }
        self.young.get_mut(key)
    }

    /// Keeps something under a key.
    pub fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets what is kept under a key.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// The slot and the frame of an item; none where it is a snapshot.
///
/// # Errors
/// `Corrupt`, `Schema`.
pub fn frame_of(stream: &StreamId, item: &Item) -> Result<Option<(CommitNumber, Frame)>> {
    let Some(stored) = bytes_of(item, FRAME) else { return Ok(None) };
    let number = number_of(item, NUMBER).ok_or_else(|| corrupt("a commit has no number").with("stream", stream))?;
    let number = CommitNumber(number);
    let place = bytes_of(item, PLACE).map(|place| Place::decode(&place)).transpose()?;
    let mut frame = codec::decode_frame(stream, number, place, &stored)?;
    // A sequencer writes it beside the frame, behind the append.
    frame.position = frame.position.or_else(|| number_of(item, POSITION).map(Position));
    Ok(Some((number, frame)))
}

/// Commits of a stream, whichever way, without their events.
pub fn frames(stream: &StreamId, from: u64, order: Order) -> Range {
    Range {
        table: Table::Commits,
        key: stream_key(stream),
        from: Some(number(from)),
        to: None,
        order,
        only: Some(FRAMES),
    }
}

/// Reads a stream's end anew: one query, unless its last commits are larger than a megabyte together.
///
/// # Errors
/// As reads have them.
pub async fn load(client: &Client, stream: &StreamId, deadline: Deadline, usage: &mut Usage) -> Result<Known> {
    let window = client.window();
    let range = frames(stream, 1, Order::Falling);
    let mut found: Vec<(CommitNumber, Frame)> = Vec::new();
    let mut start = None;
    loop {
        let missing = window - found.len() as u64;
        let part = client.link().query(&range, start, missing as u32, deadline, usage).await?;
        for item in &part.items {
            found.extend(frame_of(stream, item)?);
        }
        found.truncate(window as usize);
        start = part.next;
        if start.is_none() || found.len() as u64 >= window {
            break;
        }
    }
    let mut known = Known::missing();
    for (number, frame) in found.iter().rev() {
        follows(stream, &known, *number)?;
        known.push(Last::of(*number, frame), frame.receipt(*number), window);
    }
    client.memory().learn(stream, known.clone());
    Ok(known)
}

/// Brings what is known of a stream up to its end: of one that did not move, that is one unit. Gives it.
///
/// # Errors
/// As reads have them.
pub async fn refresh(client: &Client, stream: &StreamId, deadline: Deadline, usage: &mut Usage) -> Result<Known> {
    let Some(mut known) = client.memory().look(stream, |known| known.cloned()) else {
        return load(client, stream, deadline, usage).await;
    };
    let window = client.window();
    let range = frames(stream, known.last.number.0 + 1, Order::Rising);
    let part = client.link().query(&range, None, window as u32, deadline, usage).await?;
    if part.next.is_some() {
        client.memory().forget(stream);
        return load(client, stream, deadline, usage).await;
    }
    for item in &part.items {
        if let Some((number, frame)) = frame_of(stream, item)? {
            follows(stream, &known, number)?;
            known.push(Last::of(number, &frame), frame.receipt(number), window);
        }
    }
    client.memory().learn(stream, known.clone());
    Ok(known)
}

/// A receipt with the position that a sequencer has given since; what is found is kept.
///
/// # Errors
/// As reads have them.
pub async fn positioned(
    client: &Client,
    stream: &StreamId,
    receipt: Appended,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Appended> {
    if receipt.position.is_some() {
        return Ok(receipt);
    }
    let key = numbered(stream_key(stream), receipt.number.0);
    let item = client.link().get(Table::Commits, key, deadline, usage).await?;
    let found = item.map(|item| frame_of(stream, &item)).transpose()?.flatten();
    let position = found.and_then(|(_, frame)| frame.position);
    client.memory().look(stream, |known| {
        let there = known.and_then(|known| known.receipts.iter_mut().find(|one| one.number == receipt.number));
        if let Some(there) = there {
            there.position = position;
        }
    });
    Ok(Appended { position, ..receipt })
}

fn follows(stream: &StreamId, known: &Known, number: CommitNumber) -> Result<()> {
    if known.last.is_missing() && known.receipts.is_empty() || known.last.number.0 + 1 == number.0 {
        return Ok(());
    }
    Err(corrupt("a slot of a stream is missing").with("stream", stream).with("number", number))
}

/// Whether a receipt is of a commit that is still recognised.
pub fn in_window(client: &Client, last: &Last, receipt: &Appended) -> bool {
    decide::in_window(client.config().idempotency(), last.number, receipt.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_stays() {
        let mut recent = Recent::new(4);
        for key in 0..3 {
            recent.put(key, key);
            recent.get(&0);
        }
        assert_eq!(recent.get(&0), Some(&mut 0));
        for key in 3..20 {
            recent.put(key, key);
        }
        assert_eq!(recent.get(&0), None);
        assert!(recent.young.len() + recent.old.len() <= 4);
    }
}
