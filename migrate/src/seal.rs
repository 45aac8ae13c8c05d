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
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Streams that are sealed at a time.
const AT_ONCE: usize = 64;
/// Streams that are sealed once the store is closed: those that were appended to last.
const LAST: usize = 1_000;
/// Tries of one seal of which nothing is known.
const TRIES_MAX: u32 = 8;

/// Whether the record of a store alone does not close it.
pub(crate) fn is_needed(side: &Side) -> bool {
    side.store.capabilities().fence == Fence::Stream
}

/// Seals the streams of a store that is leaving, but for those that were appended to last: their writers would wait the longest for the rest.
/// It can be repeated, and made by several at once.
pub(crate) async fn quiet(from: &Side, to: &StoreName, epoch: Epoch) -> Result<()> {
    let mut last: BinaryHeap<Reverse<(Option<Timestamp>, StreamId)>> = BinaryHeap::new();
    let mut pages = Streams::all(&*from.store);
    while let Some(page) = pages.next(&*from.store).await.map_err(|error| from.named(error))? {
        let mut quiet = Vec::new();
        for listed in page.into_iter().filter(|listed| !is_closed(listed, epoch)) {
            last.push(Reverse((listed.head.recorded_at, listed.stream)));
            if last.len() > LAST {
                quiet.extend(last.pop().map(|Reverse((_, stream))| stream));
            }
        }
        these(from, to, epoch, quiet.into_iter()).await?;
    }
    Ok(())
}

/// Seals every stream of a store that is closed.
pub(crate) async fn all(from: &Side, to: &StoreName, epoch: Epoch) -> Result<()> {
    let mut pages = Streams::all(&*from.store);
    while let Some(page) = pages.next(&*from.store).await.map_err(|error| from.named(error))? {
        let open = page.into_iter().filter(|listed| !is_closed(listed, epoch));
        these(from, to, epoch, open.map(|listed| listed.stream)).await?;
    }
    Ok(())
}

/// By this attempt, or for good.
fn is_closed(listed: &ListedStream, epoch: Epoch) -> bool {
    match &listed.head.state {
        StreamState::Deleted | StreamState::Missing => true,
        StreamState::Sealed { epoch: sealed, .. } => *sealed == epoch,
        StreamState::Open => false,
    }
}

async fn these(from: &Side, to: &StoreName, epoch: Epoch, streams: impl Iterator<Item = StreamId>) -> Result<()> {
    let seals = stream::iter(streams.map(|stream| one(from, to, epoch, stream)));
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
