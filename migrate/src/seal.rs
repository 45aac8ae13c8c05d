//! Closes the streams of a store whose appends look at nothing but their stream. Each gets a marker in its next slot, which bears the epoch
//! of this attempt, so that one that is put late closes nothing in a later one. From then on an append of somebody who knows an older record
//! finds its slot taken. What a copy lacks then shows by the number of the marker. Checked in the model `models/src/store_seal.rs`, rule by
//! rule.

use crate::pages::Streams;
use crate::side::Side;
use crate::{deadline, until_told};
use evstore_api::capabilities::Fence;
use evstore_api::{
    CommitId, Epoch, ErrorKind, ListedStream, Result, SealStream, StoreName, StreamId, StreamState, Timestamp,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet, VecDeque};

/// Streams that are sealed at a time. A store may put those together that are asked for at once.
const AT_ONCE: usize = 256;
/// Streams that are sealed once the store is closed: those that were appended to last. All of them wait for the rest then, which is the
/// shorter the fewer they are.
const LAST: usize = 100;
/// Streams that are listed before the first is sealed: those that were appended to last. Of a store that has more the others come after them.
const LISTED_MAX: usize = 100_000;
/// Tries of one seal of which nothing is known.
const TRIES_MAX: u32 = 8;

/// Whether the record of a store alone does not close it.
pub(crate) fn is_needed(side: &Side) -> bool {
    side.store.capabilities().fence == Fence::Stream
}

/// The streams that take appends, as they were listed while nothing was sealed: those that were appended to longest ago first.
#[derive(Debug, Default)]
pub(crate) struct Listed(Vec<ListedStream>);

/// A stream, by when it was appended to.
struct ByTime(ListedStream);

impl ByTime {
    fn key(&self) -> (Option<Timestamp>, &StreamId) {
        (self.0.head.recorded_at, &self.0.stream)
    }
}

impl PartialEq for ByTime {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ByTime {}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTime {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Listed {
    /// Looks at every stream of a store that is about to leave, or that is leaving in this epoch. What it finds may be out of date when it is
    /// used: a seal whose slot was taken meanwhile is put anew.
    pub(crate) async fn look(from: &Side, epoch: Option<Epoch>) -> Result<Self> {
        let mut last: BinaryHeap<Reverse<ByTime>> = BinaryHeap::new();
        let mut pages = Streams::all(&*from.store);
        while let Some(page) = pages.next(&*from.store).await.map_err(|error| from.named(error))? {
            for listed in page.into_iter().filter(|listed| !is_closed(listed, epoch)) {
                last.push(Reverse(ByTime(listed)));
                if last.len() > LISTED_MAX {
                    last.pop();
                }
            }
        }
        let mut listed: Vec<_> = last.into_iter().map(|Reverse(by_time)| by_time).collect();
        listed.sort_unstable();
        Ok(Self(listed.into_iter().map(|by_time| by_time.0).collect()))
    }
}

/// Seals the streams of a store that is leaving, but for those that were appended to last: their writers would wait the longest for the rest.
/// It can be repeated, and made by several at once.
pub(crate) async fn quiet(from: &Side, to: &StoreName, epoch: Epoch, listed: Listed) -> Result<()> {
    let mut listed = listed.0;
    let busy: HashSet<StreamId> =
        listed.split_off(listed.len().saturating_sub(LAST)).into_iter().map(|listed| listed.stream).collect();
    these(from, to, epoch, listed.into_iter()).await?;
    // What was made since it was listed, and what did not fit.
    let mut pages = Streams::all(&*from.store);
    while let Some(page) = pages.next(&*from.store).await.map_err(|error| from.named(error))? {
        let is_left = |listed: &ListedStream| !is_closed(listed, Some(epoch)) && !busy.contains(&listed.stream);
        these(from, to, epoch, page.into_iter().filter(is_left)).await?;
    }
    Ok(())
}

/// Seals every stream of a store that is closed.
pub(crate) async fn all(from: &Side, to: &StoreName, epoch: Epoch) -> Result<()> {
    let mut pages = Streams::all(&*from.store);
    while let Some(page) = pages.next(&*from.store).await.map_err(|error| from.named(error))? {
        these(from, to, epoch, page.into_iter().filter(|listed| !is_closed(listed, Some(epoch)))).await?;
    }
    Ok(())
}

/// By the attempt of this epoch, or for good.
fn is_closed(listed: &ListedStream, epoch: Option<Epoch>) -> bool {
    match &listed.head.state {
        StreamState::Deleted | StreamState::Missing => true,
        StreamState::Sealed { epoch: sealed, .. } => Some(*sealed) == epoch,
        StreamState::Open => false,
    }
}

async fn these(from: &Side, to: &StoreName, epoch: Epoch, streams: impl Iterator<Item = ListedStream>) -> Result<()> {
    let seals = stream::iter(streams.map(|listed| one(from, to, epoch, listed.stream)));
    seals.buffer_unordered(AT_ONCE).try_collect().await
}

async fn one(from: &Side, to: &StoreName, epoch: Epoch, stream: StreamId) -> Result<()> {
    let (namespace, name) = (stream.namespace.as_str().as_bytes(), stream.name.as_str().as_bytes());
    // Whoever seals it in this attempt puts the same marker.
    let commit = CommitId::derive(&[b"seal", namespace, name, &epoch.0.to_le_bytes()]);
    let sealed = |_| {
        let request = SealStream { stream: stream.clone(), commit, epoch, to: to.clone(), deadline: deadline() };
        from.admin.seal_stream(request)
    };
    match until_told(TRIES_MAX, sealed).await {
        Ok(_) => Ok(()),
        // It is closed for good.
        Err(error) if error.kind() == ErrorKind::Gone => Ok(()),
        Err(error) => Err(from.named(error)),
    }
}

/// Whether a copy has every stream of a store that is closed up to its end. Only a stream itself tells where that is: a feed that comes about
/// behind the appends may be late.
pub(crate) async fn is_copied(from: &Side, to: &Side) -> Result<bool> {
    let (mut theirs, mut ours) = (Streams::all(&*from.store), Streams::all(&*to.store));
    let mut copied: VecDeque<ListedStream> = VecDeque::new();
    while let Some(page) = theirs.next(&*from.store).await.map_err(|error| from.named(error))? {
        for listed in page {
            while copied.is_empty() {
                match ours.next(&*to.store).await.map_err(|error| to.named(error))? {
                    Some(page) => copied.extend(page),
                    None => return Ok(false),
                }
            }
            let same = copied.pop_front();
            if same.is_none_or(|copy| (copy.stream, copy.head.number) != (listed.stream, listed.head.number)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
