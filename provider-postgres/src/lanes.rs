//! Group commit: appends that wait share a round trip and a transaction. A few batches are under way at a time, each in a lane
//! with a connection of its own; a stream is in one lane at a time, so that no batch waits for another.
//!
//! The queue of provider-kit blocks a thread; here there is none to block, and a lane begins only when something waits.

use crate::append::Batch;
use crate::store::Client;
use evstore_api::{Append, Appended, Deadline, Error, ErrorKind, Result};
use evstore_kit::decide::Wanted;
use evstore_kit::group_commit::keep_begun;
use evstore_kit::{limits, refusal};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, oneshot, watch};

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
}

impl Lanes {
    /// Nothing waits.
    pub fn new(lanes_max: usize) -> Self {
        let room = Semaphore::new(QUEUE_KIB_MAX as usize);
        Self { state: Mutex::default(), room, lanes_max, idle: watch::Sender::new(0) }
    }

    /// Refuses what comes from now on, and waits until everything that came before is answered.
    pub async fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        // An error would mean that the sender is gone, and it is ours.
        let _ = self.idle.subscribe().wait_for(|lanes| *lanes == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job into the queue. Gives its number, and whether a lane has to be begun for it.
    fn submit(
        &self,
        prepared: limits::Prepared,
        lock: i64,
    ) -> Result<(u64, bool, oneshot::Receiver<Result<Appended>>)> {
        let (caller, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(refusal::closed());
        }
        state.jobs += 1;
        let number = state.jobs;
        let wanted = Wanted::append(&prepared);
        let job = Job { number, wanted, encoded: prepared.encoded, lock, deadline: prepared.deadline, caller };
        state.waiting.push_back(job);
        let begin = state.lanes < self.lanes_max;
        if begin {
            state.lanes += 1;
            self.idle.send_replace(state.lanes);
        }
        Ok((number, begin, answer))
    }

    /// Takes what one batch holds, the oldest first, and leaves streams that another lane has. None ends the lane.
    fn take(&self) -> Option<Batch> {
        loop {
            let mut state = self.lock();
            let state = &mut *state;
            let mut rounds: HashMap<i64, i32> = HashMap::new();
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
                *rounds.entry(job.lock).or_insert(0) += 1;
                taken.push(job);
            }
            left.append(&mut state.waiting);
            state.waiting = left;
            if taken.is_empty() {
                state.lanes -= 1;
                self.idle.send_replace(state.lanes);
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

    fn release(&self, locks: &[i64]) {
        let mut state = self.lock();
        for lock in locks {
            state.busy.remove(lock);
        }
    }

    /// Takes a job out of the queue that has not begun.
    fn take_back(&self, number: u64) -> bool {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|job| job.number == number);
        place.is_some_and(|place| state.waiting.remove(place).is_some())
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
    let (number, begin, answer) = lanes.submit(prepared, lock)?;
    if begin {
        tokio::spawn(run(client.clone()));
    }
    let answered = tokio::time::timeout_at(deadline.0.into(), answer).await;
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
async fn run(client: Arc<Client>) {
    let mut end = LaneEnd { lanes: &client.lanes, ended: false };
    while let Some(batch) = client.lanes.take() {
        let _busy = Busy { lanes: &client.lanes, locks: batch.locks() };
        batch.send(&client).await;
        client.sequencer.nudge();
    }
    end.ended = true;
}

/// Streams under way; no longer when it is dropped, however the batch ended.
struct Busy<'a> {
    lanes: &'a Lanes,
    locks: Vec<i64>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.lanes.release(&self.locks);
    }
}

/// A lane that ends by a panic still counts itself out.
struct LaneEnd<'a> {
    lanes: &'a Lanes,
    ended: bool,
}

impl Drop for LaneEnd<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.lanes.lock();
            state.lanes -= 1;
            self.lanes.idle.send_replace(state.lanes);
        }
    }
}
