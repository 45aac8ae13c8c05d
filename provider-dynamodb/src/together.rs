//! Seals that are put many at a time, with a feed that comes about behind the appends: each transaction takes as many as were asked for
//! meanwhile, and their record of the log. A store has thousands of streams, and a seal by itself is two writes, its own and later its
//! position, that wait for those of all others.
//!
//! It is logged as a sequencer logs: behind what is settled, a stream's commits that are not in the log yet before its seal. The next place of the
//! log is claimed before anything is read, so that nobody logs in between, and as long as more seals wait. A sequencer lets them go first, and
//! finds then that its own place was taken, and reads anew.

use crate::codec::{Events, Frame, Ref, encode_progress};
use crate::known::{Last, frame_of, frames};
use crate::lane::{commit_item, jittered};
use crate::link::{Condition, Order, TRANSACTION_ITEMS_MAX, Transacted, Verdict, Write, Written, sleep};
use crate::log::{self, Tail};
use crate::schema;
use crate::seal::{closes, marker, takes};
use crate::sequencer::{self, End};
use crate::source::Progress;
use crate::store::Client;
use crate::tables::{Table, numbered, stream_key};
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Appended, CommitId, CommitKind, CommitNumber, ContentDigest, Deadline, Epoch, Error, ErrorKind, Position, Result,
    StreamId, Usage,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, oneshot};

/// Commits of one transaction: all that fit beside their record of the log and a claim of the next place.
const AT_ONCE: usize = TRANSACTION_ITEMS_MAX - 2;
/// The last commits of a stream that are looked at: of a quiet one the last is in the log, of a busy one some of the last are not.
const LOOKED_AT: [u32; 2] = [2, AT_ONCE as u32];
/// Tries of one transaction: each but the first met another who logs, or appends.
const TRIES_MAX: u32 = 16;
/// Tries to claim a place: each but the last met another who was quicker, or waited.
const CLAIMS_MAX: u32 = 100;
/// Pause after the service said that others write the same items; a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(20);

/// A seal that is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The stream.
    pub stream: StreamId,
    /// The id of the marker.
    pub commit: CommitId,
    /// The marker.
    pub kind: CommitKind,
    /// Its digest.
    pub digest: ContentDigest,
    /// The epoch in which the store has to be closed.
    pub epoch: Epoch,
}

type Waiting = (Wanted, oneshot::Sender<Option<Appended>>);

/// Those of one handle that wait for their turn.
#[derive(Debug, Default)]
pub struct Together {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Where the log ends, as the last transaction left it.
    turn: Turn<Option<End>>,
}

/// A stream that is to be sealed.
struct Looked {
    last: Last,
    /// Its commits that are not in the log yet, in order, and how many positions each takes.
    unlogged: Vec<(CommitNumber, u64)>,
}

impl Together {
    /// Puts a seal together with those that others want at the same time. Nothing where that can't be: it is to be put by itself.
    ///
    /// # Errors
    /// As reads and writes have them.
    pub async fn seal(&self, client: &Client, wanted: Wanted, deadline: Deadline) -> Result<Option<Appended>> {
        let (tell, mut told) = oneshot::channel();
        self.waiting().push_back((wanted, tell));
        let mut known = self.turn.lock().await;
        loop {
            match told.try_recv() {
                Ok(sealed) => return Ok(sealed),
                // Whoever had the turn met an error, or was dropped: what is there is found.
                Err(oneshot::error::TryRecvError::Closed) => return Ok(None),
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            self.put(client, &mut known, deadline).await?;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts as many as fit into one transaction.
    async fn put(&self, client: &Client, known: &mut Option<End>, deadline: Deadline) -> Result<()> {
        let mut usage = Usage::default();
        let mut batch: Vec<Waiting> = {
            let mut waiting = self.waiting();
            let count = waiting.len().min(AT_ONCE);
            waiting.drain(..count).collect()
        };
        // Those of them that were looked at under the claim that still holds.
        let (mut sealed, mut items): (Vec<(Waiting, Looked)>, usize) = (Vec::new(), 0);
        for _ in 0..TRIES_MAX {
            let end = match known.take() {
                Some(end) if end.tail.claim == Some(client.owner()) => end,
                Some(_) | None => {
                    // What was looked at before may be in the log by now.
                    batch.extend(sealed.drain(..).map(|(waiting, _)| waiting));
                    items = 0;
                    claim(client, deadline, &mut usage).await?;
                    sequencer::settled_end(client, deadline).await?
                }
            };
            let Some(meta) = client.known_meta().filter(|meta| meta.token == end.tail.token) else {
                schema::read_meta(client, deadline, &mut usage).await?;
                continue;
            };
            // Read once nobody else logs any more: what has no position then is not in the log.
            let streams = batch.iter().map(|(wanted, _)| wanted.stream.clone()).collect();
            let looked = look(client, streams, deadline, &mut usage).await?;
            for ((wanted, one), looked) in batch.drain(..).zip(looked) {
                let looked = looked.filter(|looked| {
                    let is_twice = sealed.iter().any(|((other, _), _)| other.stream == wanted.stream);
                    closes(&meta.meta, wanted.epoch)
                        && takes(&client.head(&looked.last, &meta.meta).state, wanted.epoch)
                        && looked.unlogged.len() < AT_ONCE
                        && !is_twice
                });
                match looked {
                    Some(looked) if items + looked.unlogged.len() < AT_ONCE => {
                        items += looked.unlogged.len() + 1;
                        sealed.push(((wanted, one), looked));
                    }
                    Some(_) => self.waiting().push_front((wanted, one)),
                    None => tell(one, None),
                }
            }
            let more_wait = !self.waiting().is_empty();
            if sealed.is_empty() {
                if more_wait {
                    *known = Some(end);
                } else {
                    release(client, end, deadline, &mut usage).await?;
                }
                return Ok(());
            }
            let Draft { writes, frames, tail, progress } = draft(client, &end, &sealed, more_wait)?;
            match client.link().transact(writes, deadline, &mut usage).await? {
                Transacted::Done => {
                    *known = Some(End { tail, progress });
                    // All of what it took is told of the first: it is one request.
                    for (((_, one), _), (number, frame)) in sealed.into_iter().zip(frames) {
                        let usage = std::mem::take(&mut usage);
                        tell(one, Some(Appended { repeated: false, usage, ..frame.receipt(number) }));
                    }
                    client.ring();
                    return Ok(());
                }
                Transacted::Contended => sleep(jittered(CONTENDED_PAUSE), deadline).await?,
                // Only slots were taken, of some: the place in the log is as it was, and so are the others.
                Transacted::Refused(verdicts) if matches!(verdicts.first(), Some(Verdict::Fine)) => {
                    let mut verdicts = verdicts.into_iter().skip(1);
                    let mut is_taken = |looked: &Looked| {
                        let of_it = verdicts.by_ref().take(looked.unlogged.len() + 1);
                        of_it.filter(|verdict| matches!(verdict, Verdict::Refused(_))).count() > 0
                    };
                    let (taken, free): (Vec<_>, _) = sealed.into_iter().partition(|(_, looked)| is_taken(looked));
                    sealed = free;
                    items = sealed.iter().map(|(_, looked)| looked.unlogged.len() + 1).sum();
                    batch.extend(taken.into_iter().map(|(waiting, _)| waiting));
                    *known = Some(end);
                }
                Transacted::Refused(_) => {}
            }
        }
        batch.extend(sealed.into_iter().map(|(waiting, _)| waiting));
        // Others are quicker all the time.
        batch.into_iter().for_each(|(_, one)| tell(one, None));
        Ok(())
    }
}

fn tell(one: oneshot::Sender<Option<Appended>>, sealed: Option<Appended>) {
    // Nobody waits for it any more.
    drop(one.send(sealed));
}

struct Draft {
    /// The record of the log first.
    writes: Vec<Write>,
    frames: Vec<(CommitNumber, Frame)>,
    tail: Tail,
    progress: Progress,
}

/// What is to be written behind the end of the log; with a claim of the next place as long as others wait.
fn draft(client: &Client, end: &End, sealed: &[(Waiting, Looked)], more_wait: bool) -> Result<Draft> {
    let first = end.tail.end.next();
    let (mut at, mut refs, mut frames, mut writes) = (first, Vec::new(), Vec::new(), Vec::new());
    for ((wanted, _), looked) in sealed {
        for (number, positions) in &looked.unlogged {
            writes.push(Write::position(numbered(stream_key(&wanted.stream), number.0), at));
            refs.push(Ref { stream: wanted.stream.clone(), number: *number, positions: *positions });
            at = Position(at.0 + positions);
        }
        let frame = marker(client, wanted.commit, &wanted.kind, &looked.last, wanted.digest)?;
        let (frame, number) = (Frame { position: Some(at), ..frame }, looked.last.number.next());
        let item = commit_item(client, &wanted.stream, number, &frame, &Events::default());
        writes.push(Write::put(Table::Commits, item, Some(Condition::absent())));
        refs.push(Ref { stream: wanted.stream.clone(), number, positions: 1 });
        frames.push((number, frame));
        at = at.next();
    }
    let last = Position(at.0 - 1);
    if last.0 > NUMBER_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "the store has no positions left for its seals").with("last", last));
    }
    let progress = Progress { settled: last, ..end.progress.clone() };
    let stored = Bytes::from(encode_progress(&progress));
    let entry = log::entry(first, last, end.tail.token, Some(&stored), &refs);
    let free = log::free(end.tail.token, client.owner(), end.tail.claim);
    writes.insert(0, Write::put(Table::Log, entry, Some(free)));
    let claim = more_wait.then(|| client.owner());
    let tail = Tail { end: last, token: end.tail.token, claim, progress: Some(stored) };
    if claim.is_some() {
        writes.push(Write::put(Table::Log, log::barrier(&tail), Some(Condition::absent())));
    }
    Ok(Draft { writes, frames, tail, progress })
}

/// Takes the next place of the log for this handle: to settle what is before it takes longer than a sequencer leaves it free.
async fn claim(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let mut claimed = log::Claimed::default();
    for _ in 0..CLAIMS_MAX {
        let tail = log::tail(client.link(), deadline, usage).await?;
        if tail.claim == Some(client.owner()) {
            return Ok(());
        }
        if claimed.sees(&tail, client.owner()) {
            sleep(jittered(CONTENDED_PAUSE), deadline).await?;
            continue;
        }
        let free = log::free(tail.token, client.owner(), tail.claim);
        let barrier = log::barrier(&Tail { claim: Some(client.owner()), ..tail });
        match client.link().put(Table::Log, barrier, free, deadline, usage).await? {
            Written::Done => return Ok(()),
            Written::Refused(_) | Written::Contended => {}
        }
    }
    // It is tried without.
    Ok(())
}

/// Gives the next place of the log back; where that is not known to have been done, it is outwaited.
async fn release(client: &Client, end: End, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let free = log::free(end.tail.token, client.owner(), None);
    let barrier = log::barrier(&Tail { claim: None, ..end.tail });
    client.link().put(Table::Log, barrier, free, deadline, usage).await.map(drop)
}

/// Where streams end; nothing of one that is missing, or so busy that none of its last commits is in the log.
async fn look(
    client: &Client,
    streams: Vec<StreamId>,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Vec<Option<Looked>>> {
    let looks = streams.into_iter().map(|stream| async move {
        let (mut usage, range) = (Usage::default(), frames(&stream, 1, Order::Falling));
        for most in LOOKED_AT {
            let part = client.link().query(&range, None, most, deadline, &mut usage).await?;
            let (mut last, mut unlogged, mut is_logged) = (None, Vec::new(), part.next.is_none());
            for item in &part.items {
                let Some((number, frame)) = frame_of(&stream, item)? else { continue };
                last.get_or_insert_with(|| Last::of(number, &frame));
                if frame.position.is_some() {
                    is_logged = true;
                    break;
                }
                unlogged.push((number, u64::from(frame.count.max(1))));
            }
            if is_logged {
                unlogged.reverse();
                return Ok::<_, Error>((last.map(|last| Looked { last, unlogged }), usage));
            }
        }
        Ok((None, usage))
    });
    let found: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    let mut looked = Vec::with_capacity(found.len());
    for (one, cost) in found {
        *usage += cost;
        looked.push(one);
    }
    Ok(looked)
}
