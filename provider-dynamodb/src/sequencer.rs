//! Gives commits their positions, with `feed = "sequencer"`. What was appended is read from the table's change stream, and put into
//! records of the log, each of which also says how far was read: a record is put under the condition that its key is free, so that of two
//! sequencers one is too late and begins anew from what the other wrote. The mark of the one that works only saves the others that work.
//!
//! What a commit may follow is never guessed: the last commit of a stream that is in the log is the last that has its position
//! beside it, and the positions of a record are beside its commits before the next record is put. So a change that comes twice, late, or
//! before the one that it follows does no harm, and what the change stream has lost is found from the streams' ends alone.
//!
//! With `feed = "sqs-fifo"` what is read goes through a queue before it is logged (`courier`), and the order is the one in which it comes
//! out. A record says that something was read once all of it is logged, so that nothing hangs on the queue.

use crate::codec::{self, Frame, Ref};
use crate::courier::Courier;
use crate::known::{Recent, frame_of, frames};
use crate::lane::jittered;
use crate::link::{Condition, Order, Range, Written, sleep};
use crate::log::{self, Tail};
use crate::queue::{Letter, Queue};
use crate::schema;
use crate::source::{Change, Progress, Round, Rounds, Source};
use crate::store::Client;
use crate::tables::{
    COUNT, Item, KEY, LEASE, NAME, NUMBER, OWNER, STREAMS, Table, bytes, bytes_of, listed_stream, number, number_of,
    numbered, stream_key, stream_of_key, text_of, with,
};
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{CommitNumber, Deadline, Error, ErrorKind, Lag, Position, Result, StreamId, Timestamp, Usage};
use evstore_kit::refusal;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, watch};

/// Commits of one record of the log at most, and bytes of their names: a record is an item, and read whole.
const REFS_MAX: usize = 400;
const REFS_BYTES_MAX: usize = 64 << 10;
/// Streams whose last commit in the log is remembered; one that is not is looked at in its table.
const STREAMS_MAX: usize = 65_536;
/// Positions that are written beside their commits at a time, and streams that are looked at.
const AT_ONCE: usize = 32;
/// Items that are looked at first for the last commit in the log; each further look takes so many times more.
const LOOKED_AT_FIRST: u32 = 2;
const LOOKED_AT_MORE: u32 = 8;
const LOOKED_AT_MAX: u32 = 1_000;
/// What of an item says whether its commit has its position.
pub const WITH_POSITIONS: &str = "k, n, f, p";
/// Names of streams that are listed at a time where the change stream has lost something.
const NAMES_PART: u32 = 500;
/// Positions that others may have logged since which are read from the log, so that what is known of streams can be kept.
const FOLLOWED_MAX: u64 = 65_536;
/// How often the one that works says so, how often the others look, and after how long without a sign one takes its place.
const LEASE_BEAT: Duration = Duration::from_secs(1);
const LEASE_LOOK: Duration = Duration::from_millis(500);
const LEASE_PATIENCE: Duration = Duration::from_secs(4);
/// How often it is written down how far was read where there was nothing to log.
const KEEP_PROGRESS: Duration = Duration::from_secs(15 * 60);
/// Longest time of a step of the background task, one over all streams included.
const STEP_MAX: Duration = Duration::from_secs(600);
/// Changes of a round below which there are hardly more.
const ROUND_CHANGES_FEW: usize = 500;
/// Rounds of one call that asks how far the feed is behind.
const LAG_ROUNDS_MAX: u32 = 64;
/// Tries of a request of a step that may be made any number of times, and the first pause between them, which doubles.
const PATIENT_TRIES: u32 = 6;
const PATIENT_PAUSE: Duration = Duration::from_millis(10);
/// Steps of one reader who came to the end.
const CATCH_UP_STEPS_MAX: u32 = 16;
/// How much longer than a step takes nothing is asked for after it, as long as little comes.
const RESTS: u32 = 3;
const REST_MAX: Duration = Duration::from_secs(5);
/// How much less often is looked where nothing was found for a while.
pub const IDLE_POLLS: u32 = 5;
/// How long copies go on behind each other without a look at the change stream: it brings little but themselves.
const COPIES_GO_ON: Duration = Duration::from_secs(5);
/// Pause of an operator's call before it goes on where the service asks for a slower pace: a shard is read five times a second.
const THROTTLED_PAUSE: Duration = Duration::from_millis(250);
/// Pause of a call that waits for what others have taken out of the queue.
const WAITING_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a step that another sequencer was in the way of.
const LOST_PAUSE: Duration = Duration::from_millis(20);

/// The sequencer of one handle.
#[derive(Debug)]
pub struct Sequencer {
    state: Mutex<State>,
    /// Apart from the state: who asks how far the feed is behind does not wait for a step, and changes nothing.
    behind: Mutex<Rounds>,
    work: Notify,
    /// What copies may go on behind; nothing before the first.
    copied: std::sync::Mutex<Option<Copied>>,
}

/// Where the log ended when nothing was behind it, or when copies were put there since.
#[derive(Clone, Copy, Debug)]
struct Copied {
    /// How often the store's record was changed by then.
    token: u64,
    end: Position,
    since: Instant,
}

#[derive(Debug)]
struct State {
    rounds: Rounds,
    /// The way through a queue, where there is one.
    courier: Option<Courier>,
    /// What is known of the end of the log; nothing before the first step, and where another wrote.
    place: Option<At>,
    /// The last commit of a stream that is in the log, by its key.
    logged: Recent<String, CommitNumber>,
    lease: Lease,
    claimed: log::Claimed,
    stepped: Option<Instant>,
    kept: Instant,
    /// Whether a step was begun and did not come to its end: who reads the feed may stop waiting for one at any moment.
    is_broken_off: bool,
}

#[derive(Clone, Debug)]
struct At {
    tail: Tail,
    progress: Progress,
    /// What was lost from: records say so until all streams were looked at, so that what breaks off is begun again.
    lost_from: Option<Progress>,
}

/// What is known of who works.
#[derive(Debug)]
enum Lease {
    Unknown,
    /// This one does, and said so so many times, the last time then.
    Ours {
        beats: u64,
        since: Instant,
    },
    /// Another does or did: what it said, since when that is seen, and when it was looked last.
    Others {
        owner: Vec<u8>,
        beats: u64,
        since: Instant,
        looked: Instant,
    },
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many commits got their positions.
    Logged(u64),
    /// Nothing was there.
    Quiet,
    /// There were changes, and no new commit among them.
    Nothing,
    /// What was sent to the queue is with somebody else, who may be gone.
    Waiting,
    /// Another sequencer was quicker.
    Lost,
}

impl Sequencer {
    /// Nothing is known yet.
    pub fn new(source: &Arc<dyn Source>, queue: Option<Arc<dyn Queue>>) -> Self {
        let state = State {
            rounds: Rounds::new(source.clone()),
            courier: queue.map(Courier::new),
            place: None,
            logged: Recent::new(STREAMS_MAX),
            lease: Lease::Unknown,
            claimed: log::Claimed::default(),
            stepped: None,
            kept: Instant::now(),
            is_broken_off: false,
        };
        Self {
            state: Mutex::new(state),
            behind: Mutex::new(Rounds::new(source.clone())),
            work: Notify::new(),
            copied: std::sync::Mutex::default(),
        }
    }

    /// Whether a copy may go behind this end of the log: it was settled a moment ago under the same record, and nobody has logged since but this
    /// handle's copies.
    pub fn is_settled(&self, token: u64, end: Position) -> bool {
        let copied = *self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        copied.is_some_and(|copied| (copied.token, copied.end) == (token, end) && copied.since.elapsed() < COPIES_GO_ON)
    }

    /// Brings the feed up to what the change stream has before something is copied behind it; gives what that took.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub async fn settle(&self, client: &Client, token: u64, deadline: Deadline) -> Result<Usage> {
        let since = Instant::now();
        let (end, usage) = self.advance(client, deadline).await?;
        *self.copied.lock().unwrap_or_else(PoisonError::into_inner) = Some(Copied { token, end, since });
        Ok(usage)
    }

    /// Copies were put behind a settled end, up to here.
    pub fn copied(&self, end: Position) {
        if let Some(copied) = &mut *self.copied.lock().unwrap_or_else(PoisonError::into_inner) {
            copied.end = end;
        }
    }

    /// Says that there is something to log.
    pub fn nudge(&self) {
        self.work.notify_one();
    }

    /// Brings the feed up to what the change stream has, whoever else works. Gives the end of the log, and what the queue was asked for,
    /// where there is one.
    ///
    /// # Errors
    /// As reads and writes have them; `TooLarge` where no positions are left.
    pub async fn advance(&self, client: &Client, deadline: Deadline) -> Result<(Position, Usage)> {
        let mut state = self.state.lock().await;
        let before = state.queue_requests();
        // Others may have logged since.
        follow(client, &mut state, deadline).await?;
        state.rounds.forget();
        loop {
            match step(client, &mut state, deadline).await {
                Ok(Step::Quiet) => break,
                Ok(Step::Logged(_) | Step::Nothing) => {}
                Ok(Step::Waiting) => sleep(WAITING_PAUSE, deadline).await?,
                Ok(Step::Lost) => sleep(LOST_PAUSE, deadline).await?,
                Err(error) if error.kind() == ErrorKind::Throttled => sleep(THROTTLED_PAUSE, deadline).await?,
                Err(error) => return Err(error),
            }
            refusal::check_deadline(deadline)?;
        }
        let requests = state.queue_requests().saturating_sub(before);
        let usage = Usage { requests: u32::try_from(requests).unwrap_or(u32::MAX), ..Usage::default() };
        let end = state.place.as_ref().map(|at| (at.tail.end, usage));
        end.ok_or_else(|| Error::new(ErrorKind::Unavailable, "others write to the log at once"))
    }

    /// Makes a step if it is this handle's turn, and not too soon after the last one. Whether it was.
    ///
    /// # Errors
    /// As reads and writes have them.
    pub async fn turn(&self, client: &Client, deadline: Deadline) -> Result<Option<Step>> {
        let Some((_, poll)) = client.config().feed.sequencer() else { return Ok(None) };
        let mut state = self.state.lock().await;
        if state.stepped.is_some_and(|stepped| stepped.elapsed() < poll) || !hold(client, &mut state, deadline).await? {
            return Ok(None);
        }
        state.stepped = Some(Instant::now());
        step(client, &mut state, deadline).await.map(Some)
    }

    /// Makes steps while they bring something, if it is this handle's turn: for a reader who came to the end. Whether it was.
    ///
    /// # Errors
    /// As reads and writes have them.
    pub async fn catch_up(&self, client: &Client, deadline: Deadline) -> Result<bool> {
        let Some(mut stepped) = self.turn(client, deadline).await? else { return Ok(false) };
        for _ in 0..CATCH_UP_STEPS_MAX {
            if matches!(stepped, Step::Quiet | Step::Waiting | Step::Lost) {
                break;
            }
            stepped = step(client, &mut *self.state.lock().await, deadline).await?;
        }
        Ok(true)
    }

    /// How far the feed is behind what the change stream has.
    ///
    /// # Errors
    /// As reads have them.
    pub async fn lag(&self, client: &Client, tail: &Tail, deadline: Deadline, usage: &mut Usage) -> Result<Lag> {
        let mut rounds = self.behind.lock().await;
        let pending = pending(client, &mut rounds, tail, deadline, usage).await?;
        let oldest = pending.iter().map(|one| one.recorded_at).min();
        let age = oldest.map_or(0, |oldest| client.now().0.saturating_sub(oldest.0));
        Ok(Lag { commits: pending.len() as u64, age: Duration::from_micros(u64::try_from(age).unwrap_or(0)) })
    }

    /// Lets others take its place at once.
    pub async fn release(&self, client: &Client) {
        let mut state = self.state.lock().await;
        if let Some(courier) = &mut state.courier
            && let Err(error) = courier.give_back(client.patience()).await
        {
            // They are seen again after a time.
            tracing::debug!(store = %client.own(), %error, "messages of the queue were not given back");
        }
        if let Lease::Ours { .. } = state.lease {
            state.lease = Lease::Unknown;
            let released = client.link().release(lease_key(), bytes(client.owner().0), client.patience()).await;
            if let Err(error) = released {
                // It is outwaited then.
                tracing::debug!(store = %client.own(), %error, "the sequencer's mark was not given back");
            }
        }
    }
}

/// The background task of one open store. Ends when the store is closed or dropped.
pub async fn run(client: Arc<Client>, mut closed: watch::Receiver<bool>) {
    let (Some(sequencer), Some((_, poll))) = (client.sequencer(), client.config().feed.sequencer()) else { return };
    let task = async {
        let (mut failing, mut last, mut pause, mut rest) = (None, Instant::now(), poll, poll);
        loop {
            // A timeout is a look for what other processes appended: less often while there is nothing.
            let _nudged = tokio::time::timeout(pause, sequencer.work.notified()).await;
            // What came meanwhile is logged together.
            tokio::time::sleep(rest.saturating_sub(last.elapsed())).await;
            last = Instant::now();
            match sequencer.turn(&client, Deadline::within(STEP_MAX)).await {
                Ok(stepped) => {
                    failing = None;
                    // An engine that answers slowly has others to answer too, unless much has come.
                    let is_much = matches!(stepped, Some(Step::Logged(commits)) if commits >= REFS_MAX as u64);
                    rest = if is_much { poll } else { poll.max((last.elapsed() * RESTS).min(REST_MAX)) };
                    pause = match stepped {
                        Some(Step::Quiet) | None => (pause * 2).min(poll * IDLE_POLLS),
                        Some(Step::Logged(_) | Step::Nothing | Step::Waiting | Step::Lost) => poll,
                    };
                }
                Err(error) => {
                    // Once for each reason: what goes on failing would say so many times a second.
                    if failing.replace(error.kind()) != Some(error.kind()) {
                        tracing::warn!(store = %client.own(), %error, "a sequencer step failed");
                    }
                }
            }
        }
    };
    tokio::select! {
        () = task => {}
        // An error says that the last handle was dropped.
        _ = closed.wait_for(|closed| *closed) => {}
    }
    sequencer.release(&client).await;
}

fn lease_key() -> Item {
    numbered(LEASE, 0)
}

/// Whether this handle is the one that works, or becomes it.
async fn hold(client: &Client, state: &mut State, deadline: Deadline) -> Result<bool> {
    let (now, mut usage) = (Instant::now(), Usage::default());
    let (condition, beats) = match &state.lease {
        Lease::Ours { since, .. } if since.elapsed() < LEASE_BEAT => return Ok(true),
        Lease::Ours { beats, .. } => (owned_by(client.owner().0.to_vec(), *beats), beats + 1),
        Lease::Others { looked, .. } if looked.elapsed() < LEASE_LOOK => return Ok(false),
        Lease::Others { .. } | Lease::Unknown => {
            match client.link().get(Table::Log, lease_key(), deadline, &mut usage).await? {
                None => (Condition::absent(), 1),
                Some(there) => {
                    let (owner, beats, since) = state.others(&there);
                    if since.elapsed() < LEASE_PATIENCE {
                        return Ok(false);
                    }
                    (owned_by(owner, beats), beats + 1)
                }
            }
        }
    };
    let item = with(lease_key(), OWNER, bytes(client.owner().0));
    let item = with(item, COUNT, number(beats));
    match client.link().put(Table::Log, item, condition, deadline, &mut usage).await? {
        Written::Done => {
            if !matches!(state.lease, Lease::Ours { .. }) {
                // Another may have logged since this one did.
                state.forget();
            }
            state.lease = Lease::Ours { beats, since: now };
            Ok(true)
        }
        Written::Refused(Some(there)) => {
            let (owner, beats, _) = state.others(&there);
            // Without an answer to the last try it may be ours all the same.
            let is_ours = owner == client.owner().0;
            if is_ours {
                state.lease = Lease::Ours { beats, since: now };
            }
            Ok(is_ours)
        }
        Written::Refused(None) | Written::Contended => {
            state.lease = Lease::Unknown;
            Ok(false)
        }
    }
}

fn owned_by(owner: Vec<u8>, beats: u64) -> Condition {
    Condition { expression: "o = :o AND c = :c", values: vec![(":o", bytes(owner)), (":c", number(beats))] }
}

impl State {
    /// Learns what another says that works, and since when it says so.
    fn others(&mut self, there: &Item) -> (Vec<u8>, u64, Instant) {
        let owner = bytes_of(there, OWNER).unwrap_or_default();
        let (beats, looked) = (number_of(there, COUNT).unwrap_or_default(), Instant::now());
        let since = match &self.lease {
            Lease::Others { owner: seen, beats: said, since, .. } if *seen == owner && *said == beats => *since,
            Lease::Others { .. } | Lease::Ours { .. } | Lease::Unknown => looked,
        };
        self.lease = Lease::Others { owner: owner.clone(), beats, since, looked };
        (owner, beats, since)
    }

    /// Nothing of what others may have changed is known any more.
    fn forget(&mut self) {
        self.place = None;
        self.logged = Recent::new(STREAMS_MAX);
        if let Some(courier) = &mut self.courier {
            courier.forget();
        }
    }

    fn queue_requests(&self) -> u64 {
        self.courier.as_ref().map_or(0, Courier::requests)
    }
}

/// Reads a round and logs what is new in it.
async fn step(client: &Client, state: &mut State, deadline: Deadline) -> Result<Step> {
    // What it noted of streams was to be written, and perhaps was not: a commit that is taken for a logged one would never be.
    if std::mem::replace(&mut state.is_broken_off, true) {
        state.forget();
    }
    let stepped = try_step(client, state, deadline).await;
    state.is_broken_off = false;
    if matches!(stepped, Err(_) | Ok(Step::Lost)) {
        state.forget();
    }
    stepped
}

async fn try_step(client: &Client, state: &mut State, deadline: Deadline) -> Result<Step> {
    let at = match state.place.take() {
        Some(at) => at,
        None => begin(client, deadline).await?,
    };
    // What went into the queue was read, though not all of it is logged.
    let read_to = state.courier.as_ref().and_then(Courier::read_to).unwrap_or(&at.progress);
    let read = match &state.courier {
        // First what is there comes out again.
        Some(courier) if courier.is_full() => {
            Round::Read { changes: Vec::new(), progress: read_to.clone(), is_quiet: false }
        }
        Some(_) | None => state.rounds.next(read_to, client.now(), deadline).await?,
    };
    let at = state.place.insert(at);
    let is_waiting = state.courier.as_ref().is_some_and(Courier::is_waiting);
    match read {
        Round::Lost { beginning } => {
            // What is kept comes first, in its order; what is missing before it is found on the way.
            let from = std::mem::replace(&mut at.progress, beginning);
            at.lost_from.get_or_insert(from);
            if let Some(courier) = &mut state.courier {
                courier.forget();
            }
            Ok(Step::Nothing)
        }
        Round::Read { is_quiet: true, .. } if at.lost_from.is_some() && !is_waiting => {
            recover(client, state, deadline).await
        }
        Round::Read { changes, progress, is_quiet } if state.courier.is_some() => {
            carry(client, state, (changes, progress, is_quiet), deadline).await
        }
        Round::Read { changes, progress, is_quiet } => {
            let had_changes = !changes.is_empty();
            let told = puts_of(changes)?.into_iter().map(Told::from).collect();
            let commits = new_commits(client, state, told, deadline).await?;
            match write(client, state, &commits, Some(progress), deadline).await? {
                Wrote::Lost => Ok(Step::Lost),
                Wrote::All if !commits.is_empty() => Ok(Step::Logged(commits.len() as u64)),
                Wrote::All if had_changes => Ok(Step::Nothing),
                Wrote::All if is_quiet => Ok(Step::Quiet),
                Wrote::All => Ok(Step::Nothing),
            }
        }
    }
}

/// Sends what was read to the queue, and logs what comes out of it.
async fn carry(
    client: &Client,
    state: &mut State,
    (changes, progress, is_quiet): (Vec<Change>, Progress, bool),
    deadline: Deadline,
) -> Result<Step> {
    let had_changes = !changes.is_empty();
    let mut letters: Vec<Letter> = puts_of(changes)?.into_iter().map(Letter::from).collect();
    let logged =
        last_of_streams(client, state, letters.iter().map(|one| (one.stream.clone(), one.number)), deadline).await?;
    letters.retain(|one| logged.get(&stream_key(&one.stream)).is_none_or(|last| one.number > *last));
    let courier = state.courier.as_mut().ok_or_else(forgotten)?;
    courier.send(&letters, progress, deadline).await?;
    courier.receive(deadline).await?;
    let told = courier.told();
    let were_told = !told.is_empty();
    let commits = new_commits(client, state, told.clone(), deadline).await?;
    let (courier, at) = (state.courier.as_mut().ok_or_else(forgotten)?, state.place.as_ref().ok_or_else(forgotten)?);
    let all_logged_to = courier.logged(&told, &commits).unwrap_or_else(|| at.progress.clone());
    if let Wrote::Lost = write(client, state, &commits, Some(all_logged_to), deadline).await? {
        return Ok(Step::Lost);
    }
    let courier = state.courier.as_mut().ok_or_else(forgotten)?;
    courier.delete(deadline).await?;
    if were_told {
        let (store, requests) = (client.own(), courier.requests());
        tracing::debug!(%store, messages = told.len(), commits = commits.len(), requests, "messages of the queue were logged");
    }
    let is_waiting = courier.is_waiting();
    if is_waiting && !were_told {
        // Whoever has the messages may have logged them.
        let at = state.place.as_ref().ok_or_else(forgotten)?;
        let tail = log::tail(client.link(), deadline, &mut Usage::default()).await?;
        return Ok(if tail.end == at.tail.end { Step::Waiting } else { Step::Lost });
    }
    Ok(match commits.len() {
        0 if is_quiet && !had_changes && !is_waiting => Step::Quiet,
        0 => Step::Nothing,
        count => Step::Logged(count as u64),
    })
}

/// The end of the log, where everything before it has its position beside it: what has its own with it may be put there.
#[derive(Debug)]
pub struct End {
    /// The end.
    pub tail: Tail,
    /// What it says of how far was read.
    pub progress: Progress,
}

/// Reads where the log ends, and settles what is before.
///
/// # Errors
/// As reads and writes have them.
pub async fn settled_end(client: &Client, deadline: Deadline) -> Result<End> {
    begin(client, deadline).await.map(|At { tail, progress, .. }| End { tail, progress })
}

/// Learns from the log what others have logged since this one stepped last. What is known of streams beside it stays: to look at thousands of
/// them again takes a request for each.
async fn follow(client: &Client, state: &mut State, deadline: Deadline) -> Result<()> {
    let known = match &state.place {
        Some(at) if state.courier.is_none() && !state.is_broken_off => at.tail.clone(),
        Some(_) | None => {
            state.forget();
            return Ok(());
        }
    };
    let mut usage = Usage::default();
    let tail = log::tail(client.link(), deadline, &mut usage).await?;
    if tail == known {
        return Ok(());
    }
    if tail.end.0.saturating_sub(known.end.0) > FOLLOWED_MAX {
        state.forget();
        return Ok(());
    }
    state.place = None;
    for entry in entries(client, known.end, deadline, &mut usage).await? {
        for one in entry.commits {
            state.logged.put(stream_key(&one.stream), one.number);
        }
    }
    Ok(())
}

/// Reads where the log ends, and settles what whoever wrote it did not come to.
async fn begin(client: &Client, deadline: Deadline) -> Result<At> {
    let mut usage = Usage::default();
    let tail = log::tail(client.link(), deadline, &mut usage).await?;
    let mut progress = progress_of(&tail)?;
    for entry in entries(client, progress.settled, deadline, &mut usage).await? {
        if entry.last <= tail.end {
            settle(client, entry.first, &entry.commits, deadline).await?;
        }
    }
    progress.settled = tail.end;
    // A newer release may have written what this one does not understand.
    schema::read_meta(client, deadline, &mut usage).await?.meta.format.check_write()?;
    Ok(At { tail, progress, lost_from: None })
}

fn progress_of(tail: &Tail) -> Result<Progress> {
    match &tail.progress {
        Some(stored) => codec::decode_progress(stored),
        None => Ok(Progress::none(Position(0))),
    }
}

/// The records of the log behind a position.
async fn entries(client: &Client, settled: Position, deadline: Deadline, usage: &mut Usage) -> Result<Vec<log::Entry>> {
    let (mut found, mut start) = (Vec::new(), None);
    loop {
        let part = log::after(client.link(), settled, start, NAMES_PART, deadline, usage).await?;
        for item in &part.items {
            found.extend(log::entry_of(item)?);
        }
        start = part.next;
        if start.is_none() {
            return Ok(found);
        }
    }
}

/// Writes positions beside the commits of a record.
async fn settle(client: &Client, first: Position, commits: &[Ref], deadline: Deadline) -> Result<()> {
    let mut at = first;
    let places = commits.iter().map(|one| {
        let place = (numbered(stream_key(&one.stream), one.number.0), at);
        at = Position(at.0 + one.positions);
        place
    });
    let places: Vec<_> = places.collect();
    stream::iter(places)
        .map(|(key, position)| async move {
            let mut patience = Patience::until(deadline);
            loop {
                let mut usage = Usage::default();
                match client.link().position(key.clone(), position, deadline, &mut usage).await {
                    Ok(()) => return Ok(()),
                    Err(error) => patience.after(error).await?,
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// How long requests of a step are repeated that may be made any number of times and fail in a way that passes: a step that needs hundreds
/// would hardly ever come to its end where each that fails ends it.
pub struct Patience {
    deadline: Deadline,
    pause: Duration,
    left: u32,
}

impl Patience {
    /// Nothing has failed yet.
    pub fn until(deadline: Deadline) -> Self {
        Self { deadline, pause: PATIENT_PAUSE, left: PATIENT_TRIES }
    }

    /// Waits before the next try, unless the failure does not pass.
    ///
    /// # Errors
    /// The failure; `DeadlineExceeded`.
    pub async fn after(&mut self, error: Error) -> Result<()> {
        let passes = matches!(error.kind(), ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Indeterminate);
        self.left -= 1;
        if !passes || self.left == 0 {
            return Err(error);
        }
        sleep(jittered(self.pause), self.deadline).await?;
        self.pause *= 2;
        Ok(())
    }
}

/// A commit that a change put.
struct Put {
    stream: StreamId,
    number: CommitNumber,
    frame: Frame,
}

/// A commit that somebody tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub number: CommitNumber,
    /// How many positions it takes, where it was read by the one who tells; else its table is asked, whether there is such a commit too.
    pub positions: Option<u64>,
}

impl From<Put> for Told {
    fn from(put: Put) -> Self {
        Self { positions: Some(positions(&put.frame)), stream: put.stream, number: put.number }
    }
}

impl From<Put> for Letter {
    fn from(put: Put) -> Self {
        Self { positions: positions(&put.frame), id: put.frame.id, stream: put.stream, number: put.number }
    }
}

fn positions(frame: &Frame) -> u64 {
    u64::from(frame.count.max(1))
}

/// The commits of changes; without those of snapshots, and of commits that were copied in with their positions.
fn puts_of(changes: Vec<Change>) -> Result<Vec<Put>> {
    let mut puts = Vec::new();
    for item in changes.into_iter().filter_map(|change| change.put) {
        let Some(key) = text_of(&item, KEY) else { continue };
        let stream = stream_of_key(key)?;
        let found = frame_of(&stream, &item)?.filter(|(_, frame)| frame.position.is_none());
        puts.extend(found.map(|(number, frame)| Put { stream, number, frame }));
    }
    Ok(puts)
}

/// The last commit of each of these streams that is in the log, by their keys.
async fn last_of_streams(
    client: &Client,
    state: &mut State,
    told: impl Iterator<Item = (StreamId, CommitNumber)>,
    deadline: Deadline,
) -> Result<HashMap<String, CommitNumber>> {
    // What is remembered may be forgotten while it is looked at: a round has its own of all of its streams.
    let (mut logged, mut unknown): (HashMap<String, CommitNumber>, Vec<_>) = (HashMap::new(), Vec::new());
    for (stream, number) in told {
        let key = stream_key(&stream);
        match state.logged.get(&key).copied() {
            Some(last) => drop(logged.insert(key, last)),
            None => unknown.push((stream, number)),
        }
    }
    for (stream, last) in last_before(client, unknown.into_iter(), deadline).await? {
        let key = stream_key(&stream);
        if let LastLogged::Is(last) = last {
            state.logged.put(key.clone(), last);
        }
        logged.insert(key, last.number());
    }
    Ok(logged)
}

/// What is known of the last commit of a stream that is in the log.
#[derive(Clone, Copy)]
enum LastLogged {
    /// It is this one.
    Is(CommitNumber),
    /// It is this one, or a later one: all that was told of is in the log.
    IsAtLeast(CommitNumber),
}

impl LastLogged {
    fn number(self) -> CommitNumber {
        match self {
            Self::Is(number) | Self::IsAtLeast(number) => number,
        }
    }
}

/// The last commit of each of these streams that is in the log, given commits that somebody tells of. Most often the first of a stream is the
/// next to be logged, or all of them are logged already: so it, the one before it and the last are read, of many streams at a time. Any other
/// stream is looked at by itself.
async fn last_before(
    client: &Client,
    told: impl Iterator<Item = (StreamId, CommitNumber)>,
    deadline: Deadline,
) -> Result<HashMap<StreamId, LastLogged>> {
    let mut ends: HashMap<StreamId, (CommitNumber, CommitNumber)> = HashMap::new();
    for (stream, number) in told {
        let (first, last) = ends.entry(stream).or_insert((number, number));
        (*first, *last) = (number.min(*first), number.max(*last));
    }
    let keys = ends.iter().flat_map(|(stream, (first, last))| {
        let key = stream_key(stream);
        let numbers = BTreeSet::from([first.0.saturating_sub(1).max(1), first.0, last.0]);
        numbers.into_iter().map(move |number| numbered(key.clone(), number))
    });
    let (keys, mut patience) = (keys.collect::<Vec<_>>(), Patience::until(deadline));
    let found = loop {
        let only = Some(WITH_POSITIONS);
        match client.link().get_all(Table::Commits, keys.clone(), only, deadline, &mut Usage::default()).await {
            Ok(found) => break found,
            Err(error) => patience.after(error).await?,
        }
    };
    let mut has_position: HashMap<(String, u64), bool> = HashMap::new();
    for item in &found {
        if let (Some(key), Some(number)) = (text_of(item, KEY), number_of(item, NUMBER)) {
            let frame = frame_of(&stream_of_key(key)?, item)?;
            has_position.insert((key.to_owned(), number), frame.is_some_and(|(_, frame)| frame.position.is_some()));
        }
    }
    let (mut logged, mut looks): (HashMap<StreamId, LastLogged>, Vec<_>) = (HashMap::new(), Vec::new());
    for (stream, (first, last)) in ends {
        let key = stream_key(&stream);
        let before = CommitNumber(first.0.saturating_sub(1));
        let is_logged = |number: CommitNumber| has_position.get(&(key.clone(), number.0)).copied();
        if is_logged(first) == Some(false) && (before.0 == 0 || is_logged(before) == Some(true)) {
            logged.insert(stream, LastLogged::Is(before));
        } else if is_logged(first) == Some(true) && is_logged(last) == Some(true) {
            logged.insert(stream, LastLogged::IsAtLeast(last));
        } else {
            looks.push(async move {
                let found = last_logged(client, &stream, deadline, &mut Usage::default()).await?;
                Ok::<_, Error>((stream, LastLogged::Is(found)))
            });
        }
    }
    let looked: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    logged.extend(looked);
    Ok(logged)
}

/// What of that is to be logged, in an order in which each stream's commits follow each other: those that a commit follows and that
/// did not come yet are read from their table.
async fn new_commits(client: &Client, state: &mut State, told: Vec<Told>, deadline: Deadline) -> Result<Vec<Ref>> {
    let mut logged =
        last_of_streams(client, state, told.iter().map(|one| (one.stream.clone(), one.number)), deadline).await?;
    let mut commits = Vec::new();
    for Told { stream, number, positions } in told {
        let last = logged.get_mut(&stream_key(&stream)).ok_or_else(forgotten)?;
        if number <= *last {
            continue;
        }
        let begin = last.next();
        match positions {
            Some(positions) => {
                commits.extend(slots(client, &stream, (begin, CommitNumber(number.0 - 1)), deadline).await?);
                commits.push(Ref { stream, number, positions });
                *last = number;
            }
            None => {
                let found = stored(client, &stream, (begin, number), deadline).await?;
                *last = found.last().map_or(*last, |one| one.number);
                if *last < number {
                    tracing::warn!(
                        store = %client.own(), %stream, %number,
                        "the queue has a message of a commit that is not there; does another store have the same queue?"
                    );
                }
                commits.extend(found);
            }
        }
    }
    // Of a stream of which nothing is to be logged the last one may be later than what was told of.
    for one in &commits {
        state.logged.put(stream_key(&one.stream), one.number);
    }
    Ok(commits)
}

/// The last commit of a stream that is in the log: commits get their positions in order, so it is the last that has one.
async fn last_logged(
    client: &Client,
    stream: &StreamId,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<CommitNumber> {
    let range = frames(stream, 1, Order::Falling);
    let (mut start, mut wanted, mut patience) = (None, LOOKED_AT_FIRST, Patience::until(deadline));
    loop {
        let part = match client.link().query(&range, start.clone(), wanted, deadline, usage).await {
            Ok(part) => part,
            Err(error) => {
                patience.after(error).await?;
                continue;
            }
        };
        for item in &part.items {
            if let Some((number, frame)) = frame_of(stream, item)?
                && frame.position.is_some()
            {
                return Ok(number);
            }
        }
        start = part.next;
        if start.is_none() {
            return Ok(CommitNumber(0));
        }
        wanted = (wanted * LOOKED_AT_MORE).min(LOOKED_AT_MAX);
    }
}

/// The commits in slots from one to another, all of them.
async fn slots(
    client: &Client,
    stream: &StreamId,
    (from, to): (CommitNumber, CommitNumber),
    deadline: Deadline,
) -> Result<Vec<Ref>> {
    let found = stored(client, stream, (from, to), deadline).await?;
    if found.len() as u64 == (to.0 + 1).saturating_sub(from.0) {
        return Ok(found);
    }
    Err(codec::corrupt("a slot of a stream is missing").with("stream", stream).with("number", from))
}

/// The same, as many as are there without a gap.
async fn stored(
    client: &Client,
    stream: &StreamId,
    (from, to): (CommitNumber, CommitNumber),
    deadline: Deadline,
) -> Result<Vec<Ref>> {
    if from > to {
        return Ok(Vec::new());
    }
    let mut range = frames(stream, from.0, Order::Rising);
    range.to = Some(number(to.0));
    let (mut found, mut start) = (Vec::new(), None);
    let mut usage = Usage::default();
    loop {
        let part = client.link().query(&range, start, LOOKED_AT_MAX, deadline, &mut usage).await?;
        for item in &part.items {
            if let Some((number, frame)) = frame_of(stream, item)? {
                found.push(Ref { stream: stream.clone(), number, positions: positions(&frame) });
            }
        }
        start = part.next;
        if start.is_none() {
            break;
        }
    }
    let dense = found.iter().zip(from.0..).take_while(|(one, wanted)| one.number.0 == *wanted).count();
    found.truncate(dense);
    Ok(found)
}

enum Wrote {
    All,
    Lost,
}

/// Puts commits behind the end of the log. The last record says how far was read; those before it that it was not read further yet. Without
/// a progress, all say so.
async fn write(
    client: &Client,
    state: &mut State,
    commits: &[Ref],
    progress: Option<Progress>,
    deadline: Deadline,
) -> Result<Wrote> {
    let mut rest = commits;
    while !rest.is_empty() {
        let at = state.place.as_mut().ok_or_else(forgotten)?;
        // Many seals are about to be put there.
        if state.claimed.sees(&at.tail, client.owner()) {
            return Ok(Wrote::Lost);
        }
        let taken = fitting(rest, at.tail.end)?;
        let (part, later) = rest.split_at(taken);
        rest = later;
        let (first, last) =
            (at.tail.end.next(), Position(at.tail.end.0 + part.iter().map(|one| one.positions).sum::<u64>()));
        let read = progress.as_ref().filter(|_| rest.is_empty()).unwrap_or(&at.progress);
        // Everything before this record is settled.
        let read = Progress { settled: at.tail.end, ..read.clone() };
        let kept = at.lost_from.as_ref().map(|from| Progress { settled: at.tail.end, ..from.clone() });
        let encoded = Bytes::from(codec::encode_progress(kept.as_ref().unwrap_or(&read)));
        let entry = log::entry(first, last, at.tail.token, Some(&encoded), part);
        let free = log::free(at.tail.token, client.owner(), at.tail.claim);
        match client.link().put(Table::Log, entry, free, deadline, &mut Usage::default()).await? {
            Written::Done => {}
            Written::Refused(_) | Written::Contended => return Ok(Wrote::Lost),
        }
        client.ring();
        settle(client, first, part, deadline).await?;
        at.tail = Tail { end: last, claim: None, progress: Some(encoded), ..at.tail.clone() };
        at.progress = Progress { settled: last, ..read };
        state.kept = Instant::now();
    }
    let at = state.place.as_mut().ok_or_else(forgotten)?;
    if let Some(progress) = progress.filter(|_| commits.is_empty()) {
        at.progress = Progress { settled: at.progress.settled, ..progress };
        if at.lost_from.is_none() && state.kept.elapsed() >= KEEP_PROGRESS {
            return keep(client, state, deadline).await;
        }
    }
    Ok(Wrote::All)
}

fn forgotten() -> Error {
    Error::new(ErrorKind::Unavailable, "the end of the log is not known")
}

/// Writes down how far was read, without a commit.
async fn keep(client: &Client, state: &mut State, deadline: Deadline) -> Result<Wrote> {
    let at = state.place.as_mut().ok_or_else(forgotten)?;
    let encoded = Bytes::from(codec::encode_progress(&at.progress));
    let tail = Tail { claim: None, progress: Some(encoded), ..at.tail.clone() };
    let free = log::free(tail.token, client.owner(), at.tail.claim);
    match client.link().put(Table::Log, log::barrier(&tail), free, deadline, &mut Usage::default()).await? {
        Written::Done => {
            at.tail = tail;
            state.kept = Instant::now();
            Ok(Wrote::All)
        }
        Written::Refused(_) | Written::Contended => Ok(Wrote::Lost),
    }
}

/// How many of the commits one record takes.
fn fitting(commits: &[Ref], end: Position) -> Result<usize> {
    let (mut bytes, mut last, mut taken) = (0, end.0, 0);
    for one in commits.iter().take(REFS_MAX) {
        bytes += one.stream.namespace.as_str().len() + one.stream.name.as_str().len();
        if taken > 0 && bytes > REFS_BYTES_MAX || last + one.positions > NUMBER_MAX {
            break;
        }
        last += one.positions;
        taken += 1;
    }
    if taken == 0 {
        return Err(Error::new(ErrorKind::TooLarge, "the store has no positions left for a commit").with("last", end));
    }
    Ok(taken)
}

/// Logs what no change tells of any more, once all that is kept was read: every stream's end is compared with the last of its commits that
/// is in the log. That it was all is written down last, so that what breaks off is begun again.
async fn recover(client: &Client, state: &mut State, deadline: Deadline) -> Result<Step> {
    let range =
        Range { table: Table::Names, key: STREAMS.to_owned(), from: None, to: None, order: Order::Rising, only: None };
    let mut usage = Usage::default();
    let (mut start, mut logged) = (None, 0);
    loop {
        let part = client.link().query(&range, start, NAMES_PART, deadline, &mut usage).await?;
        let mut streams = Vec::with_capacity(part.items.len());
        for item in &part.items {
            let name = text_of(item, NAME).ok_or_else(|| codec::corrupt("the list of streams holds something else"))?;
            streams.push(listed_stream(name)?);
        }
        let missing: Vec<_> = stream::iter(streams)
            .map(|stream| async move {
                let mut usage = Usage::default();
                let end = crate::read::last(client, &stream, deadline, &mut usage).await?;
                if end.is_missing() || end.position.is_some() {
                    return Ok::<_, Error>((stream, end.number, Vec::new()));
                }
                let last = last_logged(client, &stream, deadline, &mut usage).await?;
                let missing = slots(client, &stream, (last.next(), end.number), deadline).await?;
                Ok((stream, end.number, missing))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut commits = Vec::new();
        for (stream, end, missing) in missing {
            if !missing.is_empty() {
                state.logged.put(stream_key(&stream), end);
            }
            commits.extend(missing);
        }
        logged += commits.len() as u64;
        if let Wrote::Lost = write(client, state, &commits, None, deadline).await? {
            return Ok(Step::Lost);
        }
        start = part.next;
        if start.is_none() {
            break;
        }
    }
    let at = state.place.as_mut().ok_or_else(forgotten)?;
    let is_first = at.lost_from.take().is_none_or(|from| from.source.is_empty());
    match keep(client, state, deadline).await? {
        Wrote::Lost => Ok(Step::Lost),
        Wrote::All => {
            if !is_first {
                tracing::warn!(
                    store = %client.own(),
                    commits = logged,
                    "the change stream had lost what was not read yet; every stream was looked at"
                );
            }
            Ok(Step::Nothing)
        }
    }
}

/// A commit that waits for its position.
struct Pending {
    recorded_at: Timestamp,
}

/// The commits of the change stream that are not in the log.
async fn pending(
    client: &Client,
    rounds: &mut Rounds,
    tail: &Tail,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Vec<Pending>> {
    let mut progress = progress_of(tail)?;
    // Read before the streams are: what is logged meanwhile has its position beside it, or stands here.
    let mut logged: HashMap<StreamId, CommitNumber> = HashMap::new();
    for entry in entries(client, progress.settled, deadline, usage).await? {
        for one in entry.commits {
            let last = logged.entry(one.stream).or_default();
            *last = one.number.max(*last);
        }
    }
    let mut puts = Vec::new();
    for _ in 0..LAG_ROUNDS_MAX {
        match rounds.next(&progress, client.now(), deadline).await {
            // What was read until then is what is known.
            Err(error) if error.kind() == ErrorKind::Throttled => break,
            Err(error) => return Err(error),
            Ok(Round::Lost { beginning }) => progress = beginning,
            Ok(Round::Read { changes, progress: after, is_quiet }) => {
                progress = after;
                let is_last = is_quiet || changes.len() < ROUND_CHANGES_FEW;
                puts.extend(puts_of(changes)?);
                if is_last {
                    break;
                }
            }
        }
    }
    puts.retain(|put| logged.get(&put.stream).is_none_or(|last| put.number > *last));
    let beside = last_before(client, puts.iter().map(|put| (put.stream.clone(), put.number)), deadline).await?;
    let is_pending = |put: &Put| beside.get(&put.stream).is_none_or(|last| put.number > last.number());
    let mut found: HashMap<(StreamId, CommitNumber), Timestamp> = HashMap::new();
    for put in puts.into_iter().filter(is_pending) {
        found.insert((put.stream, put.number), put.frame.recorded_at);
    }
    Ok(found.into_values().map(|recorded_at| Pending { recorded_at }).collect())
}
