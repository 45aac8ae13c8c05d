//! The queue of a group commit: callers put jobs in, a writer takes what waits as one batch. Bounds, order, deadlines and
//! draining are decided here; what a job does and how it is answered is the provider's.

use crate::refusal;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What waits in the queue: a call and the way to its caller.
pub trait Job: Send {
    /// When its caller stops waiting.
    fn deadline(&self) -> Deadline;

    /// Whether nobody waits for the answer any more, so that it need not begin.
    fn is_abandoned(&self) -> bool;

    /// Answers it without having begun: nothing of it was written.
    fn refuse(self, error: Error);
}

/// What each of several calls cost of what they cost together. Requests are whole: the first calls take one more each, so that the sum
/// is what was sent.
pub fn shares(usage: Usage, calls: usize) -> impl Iterator<Item = Usage> {
    let calls = calls.max(1);
    let (each, more) = (usage.requests / calls as u32, usage.requests as usize % calls);
    (0..calls).map(move |call| Usage {
        requests: each + u32::from(call < more),
        read_units: usage.read_units / calls as f64,
        write_units: usage.write_units / calls as f64,
    })
}

/// How much may wait and how much one batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that wait at most; a job counts at least one KiB. Callers beyond it wait outside, in order.
    pub queue_bytes_max: usize,
    /// Jobs of one batch at most.
    pub batch_jobs_max: usize,
    /// Bytes of one batch at most; a larger job makes a batch of its own.
    pub batch_bytes_max: usize,
}

/// How long the writer waits for one more of those that it answered last to come back, and for all of them together. A caller in
/// a loop is back sooner than a sleeping thread is woken, and callers that come back together share one fsync.
const RETURN_WAIT: Duration = Duration::from_micros(120);
const RETURN_WAIT_MAX: Duration = Duration::from_millis(1);

/// How long a caller that is alone stays awake for its answer. One that sleeps is woken tens of microseconds after it, a fifth of
/// what it waits for where an fsync takes a hundred.
const PATIENCE: Duration = Duration::from_micros(300);

/// Unit in which room is counted, so that it also bounds the number of small jobs.
const ROOM_UNIT_BYTES: usize = 1024;

/// A bounded queue between many callers and one writer.
pub struct Queue<J> {
    bounds: Bounds,
    room: Semaphore,
    room_units_max: u32,
    state: Mutex<State<J>>,
    /// How many wait: what a writer looks at that does not want to hold anybody up.
    waiting: AtomicUsize,
    /// Jobs of the batch that was taken last: as many may come back.
    taken: AtomicUsize,
    /// What the writer had to do with the last batch, in nanoseconds.
    wrote: AtomicU64,
    arrived: Condvar,
}

struct State<J> {
    waiting: VecDeque<Waiting<J>>,
    /// The writer sleeps and has not been called yet.
    writer_sleeps: bool,
    closed: bool,
    /// When the writer was given the batch that it is at.
    given: Option<Instant>,
}

struct Waiting<J> {
    job: J,
    bytes: usize,
    room_units: u32,
}

impl<J: Job> Queue<J> {
    /// An empty, open queue.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let units = (bounds.queue_bytes_max / ROOM_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let room_units_max = u32::try_from(units).unwrap_or(u32::MAX);
        let state = State { waiting: VecDeque::new(), writer_sleeps: false, closed: false, given: None };
        Self {
            bounds,
            room: Semaphore::new(units),
            room_units_max,
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            wrote: AtomicU64::new(u64::MAX),
            arrived: Condvar::new(),
        }
    }

    /// Puts a job of `bytes` into the queue; waits while the queue is full.
    ///
    /// # Errors
    /// `DeadlineExceeded` when there was no room in time, `Closed` after [`Queue::close`]. Nothing was written.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the job is not in the queue.
    pub async fn submit(&self, job: J, bytes: usize) -> Result<()> {
        let room_units = self.room_units(bytes);
        self.wait_for_room(room_units, job.deadline()).await?;
        let mut state = self.lock();
        if state.closed {
            return Err(refusal::closed());
        }
        state.waiting.push_back(Waiting { job, bytes, room_units });
        self.waiting.store(state.waiting.len(), Ordering::Relaxed);
        // Taken here and not by the one who wakes, so that a burst of jobs calls it once.
        if std::mem::take(&mut state.writer_sleeps) {
            drop(state);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Blocks until jobs wait, and takes the oldest of them, as many as one batch holds; those past their deadline are
    /// answered, those without a caller dropped. None once the queue is closed and drained.
    ///
    /// A job that comes to an idle queue is taken at once. Directly after a batch those that were in it are given a moment to
    /// come back.
    pub fn take_batch(&self) -> Option<Vec<J>> {
        if let Some(given) = self.lock().given.take() {
            self.wrote.store(u64::try_from(given.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.let_return(self.taken.swap(0, Ordering::Relaxed));
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && !state.closed {
                state.writer_sleeps = true;
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.waiting.is_empty() {
                return None;
            }
            let taken = self.take_from(&mut state.waiting);
            self.waiting.store(state.waiting.len(), Ordering::Relaxed);
            state.given = Some(Instant::now());
            drop(state);
            let batch = self.begin(taken);
            if !batch.is_empty() {
                self.taken.store(batch.len(), Ordering::Relaxed);
                return Some(batch);
            }
        }
    }

    /// How long a caller that just submitted may stay awake for its answer: none where it is not the only one, or where the last
    /// batch took so long that this one would be in vain.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let wrote = Duration::from_nanos(self.wrote.load(Ordering::Relaxed));
        let callers = self.waiting.load(Ordering::Relaxed) + self.taken.load(Ordering::Relaxed);
        if callers > 1 || wrote > 2 * PATIENCE { Duration::ZERO } else { PATIENCE }
    }

    /// Waits until as many jobs wait as were answered last, for as long as more of them keep coming.
    fn let_return(&self, answered: usize) {
        let begun = Instant::now();
        let (mut seen, mut came) = (0, begun);
        while seen < answered {
            let (waiting, now) = (self.waiting.load(Ordering::Relaxed), Instant::now());
            if waiting != seen {
                (seen, came) = (waiting, now);
            } else if now - came >= RETURN_WAIT || now - begun >= RETURN_WAIT_MAX {
                return;
            }
            // Gives the processor to those who are awaited, where there are no others free.
            std::thread::yield_now();
        }
    }

    /// Blocks until jobs wait or the queue is closed, and answers that; not longer than `wait`. For a writer that has work of its
    /// own to come back to.
    pub fn wait_for_jobs(&self, wait: Duration) -> bool {
        let mut state = self.lock();
        let until = Instant::now() + wait;
        loop {
            if !state.waiting.is_empty() || state.closed {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.writer_sleeps = false;
                return false;
            }
            state.writer_sleeps = true;
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Answers what waits past its deadline. For a writer that is itself kept waiting.
    pub fn expire(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.waiting.iter().any(|waiting| waiting.job.deadline().0 <= now) {
            return;
        }
        let (late, waiting) = state.waiting.drain(..).partition(|waiting| waiting.job.deadline().0 <= now);
        state.waiting = waiting;
        self.waiting.store(state.waiting.len(), Ordering::Relaxed);
        drop(state);
        self.begin(late.into());
    }

    /// Refuses new jobs from now on. What waits is still taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn take_from(&self, waiting: &mut VecDeque<Waiting<J>>) -> Vec<Waiting<J>> {
        let mut bytes = 0;
        let mut fits = |waiting: &Waiting<J>| {
            bytes += waiting.bytes;
            bytes <= self.bounds.batch_bytes_max
        };
        let count = waiting.iter().take(self.bounds.batch_jobs_max).take_while(|waiting| fits(waiting)).count();
        // At least one, so that a job larger than a batch is not stuck for ever.
        waiting.drain(..count.max(1)).collect()
    }

    /// Gives back the room of jobs that left the queue, and keeps those that shall begin.
    fn begin(&self, taken: Vec<Waiting<J>>) -> Vec<J> {
        let units: u32 = taken.iter().map(|waiting| waiting.room_units).sum();
        self.room.add_permits(units as usize);
        keep_begun(taken.into_iter().map(|waiting| waiting.job).collect())
    }

    fn room_units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.room_units_max)
    }

    async fn wait_for_room(&self, units: u32, deadline: Deadline) -> Result<()> {
        let room = match self.room.try_acquire_many(units) {
            Ok(room) => room,
            Err(tokio::sync::TryAcquireError::Closed) => return Err(refusal::closed()),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                match tokio::time::timeout_at(deadline.0.into(), self.room.acquire_many(units)).await {
                    Ok(Ok(room)) => room,
                    Ok(Err(_)) => return Err(refusal::closed()),
                    Err(_) => return Err(late()),
                }
            }
        };
        room.forget();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// Keeps the jobs that shall still begin: answers those past their deadline, drops those without a caller. For a writer
/// that waits between taking a batch and sending it.
pub fn keep_begun<J: Job>(jobs: Vec<J>) -> Vec<J> {
    let now = Instant::now();
    let begins = |job: &J| job.deadline().0 > now && !job.is_abandoned();
    if jobs.iter().all(begins) {
        return jobs;
    }
    let (begun, refused): (Vec<J>, Vec<J>) = jobs.into_iter().partition(begins);
    refused.into_iter().filter(|job| !job.is_abandoned()).for_each(|job| job.refuse(late()));
    begun
}

fn late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    #[derive(Debug)]
    struct Named {
        name: u32,
        deadline: Deadline,
        abandoned: bool,
        refused: Sender<(u32, ErrorKind)>,
    }

    impl Job for Named {
        fn deadline(&self) -> Deadline {
            self.deadline
        }

        fn is_abandoned(&self) -> bool {
            self.abandoned
        }

        fn refuse(self, error: Error) {
            self.refused.send((self.name, error.kind())).unwrap();
        }
    }

    struct Fixture {
        queue: Arc<Queue<Named>>,
        refusals: Receiver<(u32, ErrorKind)>,
        refused: Sender<(u32, ErrorKind)>,
    }

    impl Fixture {
        fn new(bounds: Bounds) -> Self {
            let (refused, refusals) = channel();
            Self { queue: Arc::new(Queue::new(bounds)), refusals, refused }
        }

        fn job(&self, name: u32) -> Named {
            let deadline = Deadline::within(Duration::from_secs(60));
            Named { name, deadline, abandoned: false, refused: self.refused.clone() }
        }

        fn late(&self, name: u32) -> Named {
            Named { deadline: Deadline(Instant::now()), ..self.job(name) }
        }

        fn take(&self) -> Option<Vec<u32>> {
            self.queue.take_batch().map(|batch| batch.iter().map(|job| job.name).collect())
        }
    }

    const BOUNDS: Bounds = Bounds { queue_bytes_max: 8 << 10, batch_jobs_max: 3, batch_bytes_max: 100 };

    #[tokio::test]
    async fn a_batch_is_bounded_by_jobs_and_by_bytes() {
        let fixture = Fixture::new(BOUNDS);
        for (name, bytes) in [(1, 0), (2, 0), (3, 0), (4, 60), (5, 60), (6, 500)] {
            fixture.queue.submit(fixture.job(name), bytes).await.unwrap();
        }
        let batches: Vec<_> = (0..4).map(|_| fixture.take().unwrap()).collect();
        assert_eq!(batches, [vec![1, 2, 3], vec![4], vec![5], vec![6]]);
    }

    #[tokio::test]
    async fn a_late_job_is_answered_and_an_abandoned_one_dropped() {
        let fixture = Fixture::new(BOUNDS);
        fixture.queue.submit(fixture.late(1), 0).await.unwrap();
        fixture.queue.submit(Named { abandoned: true, ..fixture.job(2) }, 0).await.unwrap();
        fixture.queue.submit(fixture.job(3), 0).await.unwrap();
        assert_eq!(fixture.take(), Some(vec![3]));
        assert_eq!(fixture.refusals.try_iter().collect::<Vec<_>>(), [(1, ErrorKind::DeadlineExceeded)]);
    }

    #[tokio::test]
    async fn what_waits_expires_without_being_taken() {
        let fixture = Fixture::new(BOUNDS);
        fixture.queue.submit(fixture.job(1), 0).await.unwrap();
        fixture.queue.submit(fixture.late(2), 0).await.unwrap();
        fixture.queue.expire();
        assert_eq!(fixture.refusals.try_iter().collect::<Vec<_>>(), [(2, ErrorKind::DeadlineExceeded)]);
        assert_eq!(fixture.take(), Some(vec![1]));
    }

    #[tokio::test]
    async fn a_full_queue_keeps_callers_outside_until_there_is_room() {
        let fixture = Fixture::new(BOUNDS);
        // Eight KiB of room: small jobs count one each.
        for name in 0..8 {
            fixture.queue.submit(fixture.job(name), 0).await.unwrap();
        }
        let soon = Deadline::within(Duration::from_millis(10));
        let error = fixture.queue.submit(Named { deadline: soon, ..fixture.job(8) }, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        let (queue, job) = (fixture.queue.clone(), fixture.job(9));
        let outside = tokio::spawn(async move { queue.submit(job, 0).await });
        assert_eq!(fixture.take(), Some(vec![0, 1, 2]));
        outside.await.unwrap().unwrap();
        assert_eq!((fixture.take(), fixture.take()), (Some(vec![3, 4, 5]), Some(vec![6, 7, 9])));
    }

    #[tokio::test]
    async fn a_caller_stays_awake_when_it_is_alone_and_the_writer_is_fast() {
        let fixture = Fixture::new(BOUNDS);
        let patience = |wrote: Duration, taken: usize| {
            fixture.queue.wrote.store(wrote.as_nanos() as u64, Ordering::Relaxed);
            fixture.queue.taken.store(taken, Ordering::Relaxed);
            fixture.queue.patience()
        };
        fixture.queue.submit(fixture.job(1), 0).await.unwrap();
        assert_eq!(fixture.queue.patience(), Duration::ZERO, "nothing is known of the writer");
        assert_eq!(patience(PATIENCE, 0), PATIENCE);
        assert_eq!(patience(3 * PATIENCE, 0), Duration::ZERO, "the writer is slow");
        assert_eq!(patience(PATIENCE, 1), Duration::ZERO, "the writer is at another's job");
        fixture.queue.submit(fixture.job(2), 0).await.unwrap();
        assert_eq!(patience(PATIENCE, 0), Duration::ZERO, "another waits too");
    }

    #[tokio::test]
    async fn what_the_writer_did_with_a_batch_is_timed() {
        let fixture = Fixture::new(BOUNDS);
        fixture.queue.submit(fixture.job(1), 0).await.unwrap();
        assert_eq!(fixture.take(), Some(vec![1]));
        std::thread::sleep(PATIENCE);
        fixture.queue.close();
        assert_eq!(fixture.take(), None);
        assert!(fixture.queue.wrote.load(Ordering::Relaxed) >= PATIENCE.as_nanos() as u64);
    }

    #[tokio::test]
    async fn a_closed_queue_is_drained_and_takes_no_more() {
        let fixture = Fixture::new(BOUNDS);
        fixture.queue.submit(fixture.job(1), 0).await.unwrap();
        fixture.queue.close();
        let error = fixture.queue.submit(fixture.job(2), 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!((fixture.take(), fixture.take()), (Some(vec![1]), None));
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_a_while_is_called_or_goes_on() {
        let fixture = Fixture::new(BOUNDS);
        assert!(!fixture.queue.wait_for_jobs(Duration::from_millis(1)));
        let writer = std::thread::spawn({
            let queue = fixture.queue.clone();
            move || queue.wait_for_jobs(Duration::from_secs(60))
        });
        fixture.queue.submit(fixture.job(1), 0).await.unwrap();
        assert!(writer.join().unwrap());
        assert_eq!(fixture.take(), Some(vec![1]));
        fixture.queue.close();
        assert!(fixture.queue.wait_for_jobs(Duration::from_secs(60)));
    }

    #[test]
    fn shares_together_are_what_was_sent() {
        let usage = Usage { requests: 7, read_units: 0.0, write_units: 8.0 };
        let shares: Vec<Usage> = shares(usage, 4).collect();
        assert_eq!(shares.iter().map(|share| share.requests).collect::<Vec<_>>(), [2, 2, 2, 1]);
        assert!(shares.iter().all(|share| share.write_units == 2.0));
        assert_eq!(super::shares(usage, 0).count(), 1);
    }

    #[test]
    fn a_sleeping_writer_is_called() {
        let fixture = Fixture::new(BOUNDS);
        let writer = std::thread::spawn({
            let queue = fixture.queue.clone();
            move || std::iter::from_fn(|| queue.take_batch()).map(|batch| batch.len()).sum::<usize>()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for name in 0..100 {
                fixture.queue.submit(fixture.job(name), 0).await.unwrap();
            }
        });
        fixture.queue.close();
        assert_eq!(writer.join().unwrap(), 100);
    }
}
