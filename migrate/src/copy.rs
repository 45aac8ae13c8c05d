//! Copies the feed of one store into another that is being filled: bit-exact, in feed order, behind what is there already. How far it
//! came is the last position of the store that is filled, and nothing else.

use crate::governor::Governor;
use crate::side::Side;
use crate::walk::Walk;
use crate::{Doing, News, Observer, Progress, deadline, until_told};
use evstore_api::{
    Epoch, Error, ErrorKind, FeedItem, Incarnation, Meta, Origin, Position, Replica, Replicate, Result, StoreAdmin,
};
use std::time::{Duration, Instant};

/// Items of one request.
const BATCH_ITEMS_MAX: usize = 1024;
/// Bytes of one request, unless one item alone has more.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// How often a request is sent whose outcome is not told.
const SENDINGS_MAX: u32 = 5;

/// How fast a copy goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Most events per second; as fast as it goes without it.
    pub events_per_second: Option<u64>,
}

/// What copies belong to. A store that is filled in another epoch or history by now refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filling {
    pub epoch: Epoch,
    history: Incarnation,
}

impl Filling {
    /// As the record of the store that is filled says, before anything that is copied is read.
    pub fn of(filled: &Meta) -> Self {
        Self { epoch: filled.epoch, history: filled.incarnation() }
    }
}

/// What a round copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The last position that was copied: of both stores, unless it ended early.
    pub through: Position,
    /// Positions that were copied.
    pub positions: u64,
}

/// How a round copies.
#[derive(Debug, Default)]
pub(crate) struct Manner<'a> {
    /// How fast at most.
    pub pace: Pace,
    /// What slows it down for the sake of the store that is read.
    pub governor: Option<&'a mut Governor>,
    /// How long it may take; to the end without it.
    pub most: Option<Duration>,
    /// How many commits the feed may be behind the streams, so that it is copied as far as it has come. None without it: a feed that comes about
    /// behind the appends is waited for, which takes as long as it is busy.
    pub behind: u64,
}

/// Copies up to where the source's feed ends when this begins.
pub(crate) async fn round(
    from: &Side,
    to: &Side,
    filling: Filling,
    mut manner: Manner<'_>,
    observer: Option<&Observer>,
) -> Result<Copied> {
    let began = Instant::now();
    let after = to.head().await?;
    let (head, behind) = from.end().await?;
    let through = match head {
        // What is there is copied before more is waited for, where nothing hangs on how near the end is.
        head if manner.most.is_some() && head > after => head,
        head if manner.behind > 0 && behind <= manner.behind => head,
        _ => from.settled_head().await?,
    };
    if after > through {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the store that is filled holds more than the one that it is filled from",
        )
        .with("store", &to.name)
        .with("last", after)
        .with("source_last", through));
    }
    let mut walk = Walk::between(from.store.clone(), from.admin.clone(), after, through);
    let mut next = walk.next().await.map_err(|error| from.named(error))?;
    let mut reached = after;
    while let Some(items) = next {
        let page_began = Instant::now();
        reached = items.last().and_then(last_of).unwrap_or(reached);
        // The next page is read while this one is written: two pages at most are held.
        let (written, read) = futures::join!(write(to, filling, items, manner.pace), walk.next());
        written?;
        next = read.map_err(|error| from.named(error))?;
        if let Some(observer) = observer {
            observer(News::Progress(Progress { doing: Doing::Copying, at: reached, through }));
        }
        if let Some(governor) = manner.governor.as_deref_mut() {
            let (worked, share) = (page_began.elapsed(), governor.share());
            governor.look(from).await;
            if let Some(observer) = observer.filter(|_| share != governor.share()) {
                observer(News::Slowed(governor.share()));
            }
            tokio::time::sleep(governor.rest(worked)).await;
        }
        if manner.most.is_some_and(|most| began.elapsed() >= most) {
            break;
        }
    }
    Ok(Copied { through: reached, positions: reached.0 - after.0 })
}

fn last_of(item: &FeedItem) -> Option<Position> {
    match item {
        FeedItem::Commit(commit) => commit.last_position(),
        FeedItem::Removed { last, .. } => Some(*last),
    }
}

async fn write(to: &Side, filling: Filling, items: Vec<FeedItem>, pace: Pace) -> Result<()> {
    let (mut batch, mut bytes, mut events) = (Vec::new(), 0, 0);
    for item in items {
        let replica = match item {
            FeedItem::Commit(commit) => Replica::Commit(commit),
            FeedItem::Removed { first, last } => Replica::Removed { first, last },
        };
        let size = bytes_of(&replica);
        if !batch.is_empty() && (batch.len() >= BATCH_ITEMS_MAX || bytes + size > BATCH_BYTES_MAX) {
            send(to, filling, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        bytes += size;
        events += events_of(&replica);
        batch.push(replica);
    }
    send(to, filling, batch).await?;
    rest(pace, events).await;
    Ok(())
}

/// Sends one request.
pub(crate) async fn send(to: &Side, filling: Filling, items: Vec<Replica>) -> Result<()> {
    let Filling { epoch, history } = filling;
    replicate(&*to.admin, epoch, Origin::Move { history }, items).await.map(drop).map_err(|error| to.named(error))
}

/// Sends copies to a store, and again where it is not known what was written: what is there is recognised then. A store that writes
/// fewer than fit into one call's minute gets on with each sending, so that a slow one is no reason to end.
///
/// Gives how many items were written; none where that can't be told, because it was sent more than once.
///
/// # Errors
/// As [`StoreAdmin::replicate`]: `Indeterminate` after the last sending, when a part may be written.
pub async fn replicate(
    admin: &dyn StoreAdmin,
    epoch: Epoch,
    origin: Origin,
    items: Vec<Replica>,
) -> Result<Option<u64>> {
    if items.is_empty() {
        return Ok(Some(0));
    }
    let sent = |sending| {
        let request = Replicate { epoch, origin, items: items.clone(), deadline: deadline() };
        async move { Ok((sending == 1).then_some(admin.replicate(request).await?.written)) }
    };
    until_told(SENDINGS_MAX, sent).await
}

/// Waits as long as so many events may take.
async fn rest(pace: Pace, events: u64) {
    if let Some(most) = pace.events_per_second.filter(|most| *most > 0) {
        tokio::time::sleep(Duration::from_secs_f64(events as f64 / most as f64)).await;
    }
}

/// About how many bytes it takes in a request.
#[must_use]
pub fn bytes_of(replica: &Replica) -> usize {
    match replica {
        Replica::Commit(commit) => {
            commit.events.iter().map(|event| 64 + event.data.len() + event.metadata.len()).sum::<usize>() + 128
        }
        Replica::Removed { .. } => 32,
        Replica::Snapshot(snapshot) => snapshot.data.len() + 128,
        Replica::Record(record) => record.value.as_ref().map_or(0, bytes::Bytes::len) + 64,
    }
}

/// Events that it brings.
#[must_use]
pub fn events_of(replica: &Replica) -> u64 {
    match replica {
        Replica::Commit(commit) => commit.events.len() as u64,
        Replica::Removed { .. } | Replica::Snapshot(_) | Replica::Record(_) => 0,
    }
}
