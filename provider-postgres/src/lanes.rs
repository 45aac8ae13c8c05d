//! Group commit: appends that wait share a round trip and a transaction. A few batches are under way at a time, each in a lane
//! with a connection of its own; a stream is in one lane at a time, so that no batch waits for another.
//!
//! The queue of provider-kit blocks a thread; here there is none to block. An append that finds nothing under way is sent by its
//! caller; a lane of its own begins only when something waits.

use crate::append::Batch;
use crate::store::{ASK_AFTER, Client, Lent};
use evstore_api::{Append, Appended, Deadline, Error, ErrorKind, Result};
use evstore_kit::decide::Wanted;
use evstore_kit::group_commit::keep_begun;
use evstore_kit::{limits, refusal};
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};

/// So many appends have to wait before a second lane begins, and for each lane more four times as many: a batch of several costs the
/// server less than several of one. With none under way nothing waits.
const LANE_JOBS_MIN: usize = 3;
/// What waited for so long gets another lane all the same: those under way may wait for somebody else.
const LANE_PATIENCE: Duration = Duration::from_millis(2);
/// Appends of one batch at most: beyond it a batch gains little, and holds more advisory locks than a server has by default.
const BATCH_JOBS_MAX: usize = 64;
/// Bytes of one batch at most; a larger append makes a batch of its own.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// KiB that wait at most. Callers beyond it wait outside, in order.
const QUEUE_KIB_MAX: u32 = 64 << 10;

/// An append on its way.
#[derive(Debug)]
pub struct Job {
    number: u64,
    /// What is wanted.
    pub wanted: Wanted,
    /// Its events, encoded.
    pub encoded: Vec<u8>,
    /// What stands for its stream among advisory locks.
    pub lock: i64,
    /// When its caller stops waiting.
    pub deadline: Deadline,
    caller: oneshot::Sender<Result<Appended>>,
}

impl Job {
    /// Gives the caller the verdict. Nobody may be there any more; the commit id then tells what became of it.
    pub fn answer(self, verdict: Result<Appended>) {
        let _ = self.caller.send(verdict);
    }
}

impl evstore_kit::group_commit::Job for Job {
    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn refuse(self, error: Error) {
        let error = error.of_commit(self.wanted.commit);
        self.answer(Err(error));
    }
}

/// What waits, and what is under way.
#[derive(Debug)]
pub struct Lanes {
    state: Mutex<State>,
    room: Semaphore,
    lanes_max: usize,
    kept_max: usize,
    idle: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Locks of the streams that are under way.
    busy: HashSet<i64>,
    lanes: usize,
    jobs: u64,
    closed: bool,
    /// Connections of lanes that ended, the last used at the end: giving one back to the pool costs a round trip.
    kept: Vec<(PoolConnection<Postgres>, Instant)>,
}

/// What is to be done for an append that was put in.
enum Begun {
    /// It is the only one: its caller sends it.
    Alone(Batch),
    /// It waits, and a lane has to be begun.
    Lane,
    /// It waits for a lane that is under way.
    Queued,
}

impl Lanes {
    /// Nothing waits. At most half of a pool's connections are kept.
    pub fn new(lanes_max: usize, pool_max: usize) -> Self {
        let room = Semaphore::new(QUEUE_KIB_MAX as usize);
        let kept_max = lanes_max.min(pool_max / 2);
        Self { state: Mutex::default(), room, lanes_max, kept_max, idle: watch::Sender::new(0) }
    }

    /// Refuses what comes from now on, and waits until everything that came before is answered.
    pub async fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        // An error would mean that the sender is gone, and it is ours.
        let _ = self.idle.subscribe().wait_for(|lanes| *lanes == 0).await;
        let kept = std::mem::take(&mut self.lock().kept);
        drop(kept);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job in. Gives its number, what is to be done for it, and where its verdict will come.
    fn submit(
        &self,
        prepared: limits::Prepared,
        lock: i64,
    ) -> Result<(u64, Begun, oneshot::Receiver<Result<Appended>>)> {
        let (caller, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(refusal::closed());
        }
        state.jobs += 1;
        let number = state.jobs;
        let wanted = Wanted::append(&prepared);
        let job = Job { number, wanted, encoded: prepared.encoded, lock, deadline: prepared.deadline, caller };
        if state.lanes == 0 && state.waiting.is_empty() {
            self.count(&mut state, 1);
            state.busy.insert(lock);
            return Ok((number, Begun::Alone(Batch::new(vec![job])), answer));
        }
        state.waiting.push_back(job);
        let enough = 4_usize.saturating_pow(u32::try_from(state.lanes).unwrap_or(u32::MAX).saturating_sub(1));
        let awaited = state.lanes == 0 || state.waiting.len() >= LANE_JOBS_MIN.saturating_mul(enough);
        let begins = awaited && self.begin(&mut state);
        Ok((number, if begins { Begun::Lane } else { Begun::Queued }, answer))
    }

    /// Counts another lane in, if there may be one.
    fn begin(&self, state: &mut State) -> bool {
        let begins = state.lanes < self.lanes_max;
        if begins {
            self.count(state, state.lanes + 1);
        }
        begins
    }

    fn count(&self, state: &mut State, lanes: usize) {
        state.lanes = lanes;
        self.idle.send_replace(lanes);
    }

    /// Whether another lane has to be begun for a job that has waited for a while.
    fn is_passed_over(&self, number: u64) -> bool {
        let mut state = self.lock();
        let waits = state.waiting.iter().any(|job| job.number == number && !state.busy.contains(&job.lock));
        waits && self.begin(&mut state)
    }

    /// Takes what one batch holds, the oldest first, and leaves streams that another lane has. None ends the lane.
    fn take(&self) -> Option<Batch> {
        loop {
            let mut guard = self.lock();
            let state = &mut *guard;
            let mut passed: HashSet<i64> = HashSet::new();
            let (mut taken, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
            while let Some(job) = state.waiting.pop_front() {
                let full =
                    taken.len() >= BATCH_JOBS_MAX || (bytes + job.encoded.len() > BATCH_BYTES_MAX && !taken.is_empty());
                if full {
                    left.push_back(job);
                    break;
                }
                // What is passed over holds back those of its stream that came later.
                if state.busy.contains(&job.lock) || passed.contains(&job.lock) {
                    passed.insert(job.lock);
                    left.push_back(job);
                    continue;
                }
                bytes += job.encoded.len();
                taken.push(job);
            }
            left.append(&mut state.waiting);
            state.waiting = left;
            if taken.is_empty() {
                self.count(state, state.lanes - 1);
                return None;
            }
            let jobs = keep_begun(taken);
            if jobs.is_empty() {
                continue;
            }
            state.busy.extend(jobs.iter().map(|job| job.lock));
            return Some(Batch::new(jobs));
        }
    }

    /// Takes a job out of the queue that has not begun.
    fn take_back(&self, number: u64) -> bool {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|job| job.number == number);
        place.is_some_and(|place| state.waiting.remove(place).is_some())
    }
}

/// A connection on which a batch is sent. Dropped before it is given back, it is closed.
pub struct Line<'a> {
    lanes: &'a Lanes,
    lent: Lent,
}

impl<'a> Line<'a> {
    /// One that was kept, if it lives, or one of the pool.
    ///
    /// # Errors
    /// As of the pool.
    pub async fn open(client: &'a Client, deadline: Deadline) -> Result<Self> {
        loop {
            let kept = client.lanes.lock().kept.pop();
            let Some((connection, since)) = kept else {
                return Ok(Self { lanes: &client.lanes, lent: client.connection(deadline).await? });
            };
            let mut line = Self { lanes: &client.lanes, lent: Lent::new(connection) };
            if since.elapsed() < ASK_AFTER {
                return Ok(line);
            }
            let answered = tokio::time::timeout_at(deadline.0.into(), line.connection().ping()).await;
            match answered {
                Ok(Ok(())) => return Ok(line),
                Ok(Err(_)) => {}
                Err(_) => return Err(crate::store::late()),
            }
        }
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.lent.connection()
    }

    /// Keeps the connection for the next batch, or gives it back to the pool.
    pub fn give_back(self) {
        let mut state = self.lanes.lock();
        if state.kept.len() < self.lanes.kept_max && !state.closed {
            state.kept.extend(self.lent.into_inner().map(|connection| (connection, Instant::now())));
        } else {
            drop(state);
            self.lent.give_back();
        }
    }
}

/// Appends through the lanes.
pub async fn append(client: &Arc<Client>, request: Append) -> Result<Appended> {
    let prepared = limits::check_append(client.limits(), request)?;
    client.check_open()?;
    let (commit, deadline) = (prepared.commit, prepared.deadline);
    refusal::check_deadline(deadline).map_err(|error| error.of_commit(commit))?;
    let lanes = &client.lanes;
    let kib = u32::try_from(prepared.encoded.len() / 1024 + 1).unwrap_or(QUEUE_KIB_MAX).min(QUEUE_KIB_MAX);
    let room = match lanes.room.try_acquire_many(kib) {
        Ok(room) => room,
        Err(_) => match tokio::time::timeout_at(deadline.0.into(), lanes.room.acquire_many(kib)).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(refusal::closed()),
            Err(_) => return Err(queued_too_long().of_commit(commit)),
        },
    };
    let lock = crate::codec::lock_of(client.schema(), &prepared.stream);
    let (number, begun, mut answer) = lanes.submit(prepared, lock)?;
    match begun {
        Begun::Alone(batch) => {
            let lane = Lane { client: client.clone(), ended: false };
            send(client, batch).await;
            // Goes on as a task of its own where others came meanwhile.
            drop(lane);
        }
        Begun::Lane => drop(tokio::spawn(run(Lane { client: client.clone(), ended: false }))),
        Begun::Queued => {}
    }
    let mut answered = tokio::time::timeout(LANE_PATIENCE.min(deadline.remaining()), &mut answer).await;
    if answered.is_err() {
        if lanes.is_passed_over(number) {
            tokio::spawn(run(Lane { client: client.clone(), ended: false }));
        }
        answered = tokio::time::timeout_at(deadline.0.into(), answer).await;
    }
    drop(room);
    match answered {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(lost().of_commit(commit)),
        Err(_) if lanes.take_back(number) => Err(queued_too_long().of_commit(commit)),
        Err(_) => Err(crate::error::late().of_commit(commit)),
    }
}

fn queued_too_long() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued")
}

fn lost() -> Error {
    Error::new(ErrorKind::Indeterminate, "the batch ended without an answer")
}

/// One lane: batch after batch until nothing waits that it may take.
async fn run(mut lane: Lane) {
    let client = lane.client.clone();
    while let Some(batch) = client.lanes.take() {
        send(&client, batch).await;
        // Callers that were answered often come back at once: this lets them, so that the next batch is not of one.
        tokio::task::yield_now().await;
    }
    lane.ended = true;
}

async fn send(client: &Client, batch: Batch) {
    let _busy = Busy { lanes: &client.lanes, locks: batch.locks() };
    batch.send(client).await;
    client.sequencer.nudge();
}

/// Streams under way; no longer when it is dropped, however the batch ended.
struct Busy<'a> {
    lanes: &'a Lanes,
    locks: Vec<i64>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.lanes.lock();
        for lock in &self.locks {
            state.busy.remove(lock);
        }
    }
}

/// A lane that was counted in. However it ends, it counts itself out, and leaves nothing waiting without a lane.
struct Lane {
    client: Arc<Client>,
    /// Whether it was counted out.
    ended: bool,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let lanes = &self.client.lanes;
        let mut state = lanes.lock();
        // A caller may be dropped when there is no runtime any more; then nobody waits either.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !state.waiting.is_empty() => {
                runtime.spawn(run(Lane { client: self.client.clone(), ended: false }));
            }
            _ => {
                let left = state.lanes - 1;
                lanes.count(&mut state, left);
            }
        }
    }
}
