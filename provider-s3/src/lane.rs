//! The way of all writes of a handle: what waits is decided in order and put as one object. There is one at a time: two of one process
//! would only meet at the log's end. Between processes the number decides; who loses it takes over what stands there and decides
//! everything that waits again.

use crate::checkpoint;
use crate::claim;
use crate::codec::{self, Author};
use crate::draft::{Draft, Drafted};
use crate::error;
use crate::log::{self, Outcome};
use crate::store::Client;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use evstore_kit::{group_commit, refusal};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// Calls of one object at most.
const GROUP_CALLS_MAX: usize = 4_096;
/// Bytes of one object at most; a larger call makes an object of its own.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Bytes that wait at most.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Unit in which they are counted, so that it also bounds the number of small calls.
const QUEUE_UNIT_BYTES: usize = 1 << 10;
/// Bytes of a call beside its payload, about.
const CALL_BYTES: usize = 256;
/// Tries of one group: each but the last lost its number to another process.
const TRIES_MAX: u32 = 1_000;
/// How long a group waits for one more of those that were answered last to come back, and for all of them together. A caller in a loop
/// is back at once, and callers that come back together share one put, which takes many times as long.
const RETURN_WAIT: Duration = Duration::from_millis(2);
const RETURN_WAIT_MAX: Duration = Duration::from_millis(10);

/// Pause after a number was lost; it doubles, and a part of it is chance.
const LOST_PAUSE: Duration = Duration::from_millis(5);
const LOST_PAUSE_MAX: Duration = Duration::from_millis(320);

/// Nothing of it was sent yet.
const WAITING: u8 = 0;
/// It was sent: what becomes of it is not its caller's any more.
const SENT: u8 = 1;
/// Its caller went away before it was sent.
const GIVEN_UP: u8 = 2;

/// Where the callers put what they want.
#[derive(Debug)]
pub struct Lane {
    queue: Arc<Queue>,
}

/// What waits.
struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    waiting: AtomicUsize,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    closed: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// A call on its way, whatever its answer is.
trait Job: Send {
    fn bytes(&self) -> usize;
    fn deadline(&self) -> Deadline;
    /// Whether somebody waits for the answer.
    fn is_wanted(&self) -> bool;
    /// Decides it, and keeps what becomes of it.
    fn decide(&mut self, draft: &mut Draft<'_>);
    /// Whether it changes something.
    fn writes(&self) -> bool;
    /// It is about to be sent; false where its caller went away.
    fn begin(&self) -> bool;
    /// Nothing of it was written: its caller may go away again.
    fn take_back(&self);
    /// Answers what was decided.
    fn answer(self: Box<Self>, usage: Usage);
    /// Answers that it failed.
    fn fail(self: Box<Self>, error: Error);
}

struct Call<T, F> {
    decide: F,
    decided: Option<Result<T>>,
    writes: bool,
    bytes: usize,
    deadline: Deadline,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<(T, Usage)>>,
    _room: OwnedSemaphorePermit,
}

fn change(state: &AtomicU8, from: u8, to: u8) -> bool {
    state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl<T: Send, F: FnMut(&mut Draft<'_>) -> Result<T> + Send> Job for Call<T, F> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.state.load(Ordering::Acquire) != GIVEN_UP && !self.answer.is_closed()
    }

    fn decide(&mut self, draft: &mut Draft<'_>) {
        let mark = draft.mark();
        let decided = (self.decide)(draft);
        if decided.is_err() {
            draft.back_to(mark);
        }
        self.writes = draft.mark() != mark;
        self.decided = Some(decided);
    }

    fn writes(&self) -> bool {
        self.writes
    }

    fn begin(&self) -> bool {
        change(&self.state, WAITING, SENT)
    }

    fn take_back(&self) {
        change(&self.state, SENT, WAITING);
    }

    fn answer(self: Box<Self>, usage: Usage) {
        let decided = self.decided.expect("a call is decided before it is answered");
        // Nobody may be left to hear it.
        let _nobody = self.answer.send(decided.map(|done| (done, usage)));
    }

    fn fail(self: Box<Self>, error: Error) {
        let _nobody = self.answer.send(Err(error));
    }
}

/// Lets go of a call whose caller is dropped, if it was not sent yet.
struct Interest(Arc<AtomicU8>);

impl Drop for Interest {
    fn drop(&mut self) {
        change(&self.0, WAITING, GIVEN_UP);
    }
}

impl Lane {
    /// Starts the lane of a client. It ends when it is closed and drained.
    pub fn start(client: Arc<Client>) -> Self {
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / QUEUE_UNIT_BYTES));
        let queue = Queue { state: Mutex::default(), arrived: Notify::new(), waiting: AtomicUsize::new(0), room };
        let queue = Arc::new(queue);
        tokio::spawn(run(client, queue.clone()));
        Self { queue }
    }

    /// Decides something, with what else waits, and writes what follows from it. `decide` is called as often as a number is lost.
    ///
    /// # Errors
    /// What `decide` refuses, and what the service does; `DeadlineExceeded` where nothing was sent in time, `Indeterminate` where
    /// something was.
    ///
    /// # Cancel safety
    /// Dropped before it is sent, it is not written.
    pub async fn write<T: Send + 'static>(
        &self,
        payload_bytes: usize,
        deadline: Deadline,
        decide: impl FnMut(&mut Draft<'_>) -> Result<T> + Send + 'static,
    ) -> Result<(T, Usage)> {
        let late = || Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued");
        let bytes = payload_bytes + CALL_BYTES;
        let units = (bytes / QUEUE_UNIT_BYTES + 1).min(QUEUE_BYTES_MAX / QUEUE_UNIT_BYTES) as u32;
        let room = tokio::time::timeout_at(deadline.0.into(), self.queue.room.clone().acquire_many_owned(units));
        let room = room.await.map_err(|_| late())?.map_err(|_| refusal::closed())?;
        let (answer, answered) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(WAITING));
        let interest = Interest(state.clone());
        let call =
            Call { decide, decided: None, writes: false, bytes, deadline, state: state.clone(), answer, _room: room };
        self.queue.push(Box::new(call))?;
        let answer = tokio::time::timeout_at(deadline.0.into(), answered).await;
        let sent = !change(&state, WAITING, GIVEN_UP);
        drop(interest);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) if sent => Err(error::unanswered()),
            Ok(Err(_)) => Err(refusal::closed()),
            Err(_) => Err(late()),
        }
    }

    /// Takes no more.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_one();
    }
}

/// A handle that nobody closed ends its lane too.
impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Box<dyn Job>) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(refusal::closed());
        }
        state.jobs.push_back(job);
        self.waiting.store(state.jobs.len(), Ordering::Release);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for calls, and takes the oldest of them; none once it is closed and drained.
    async fn take(&self, answered: usize) -> Option<Vec<Box<dyn Job>>> {
        self.let_return(answered).await;
        loop {
            {
                let mut state = self.lock();
                if !state.jobs.is_empty() {
                    let taken = take_group(&mut state.jobs);
                    self.waiting.store(state.jobs.len(), Ordering::Release);
                    return Some(taken);
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Waits until as many calls wait as were answered last, for as long as more of them keep coming. Who is alone waits for nobody.
    async fn let_return(&self, answered: usize) {
        let until = Instant::now() + RETURN_WAIT_MAX;
        while answered > 1 && self.waiting.load(Ordering::Acquire) < answered {
            let patience = (Instant::now() + RETURN_WAIT).min(until);
            if tokio::time::timeout_at(patience, self.arrived.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// At least one, so that a call larger than a group is not stuck for ever.
fn take_group(jobs: &mut VecDeque<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    let mut bytes = 0;
    let fits = |of_job: &usize| {
        bytes += of_job;
        bytes <= GROUP_BYTES_MAX
    };
    let count = jobs.iter().take(GROUP_CALLS_MAX).map(|job| job.bytes()).take_while(fits).count();
    jobs.drain(..count.max(1)).collect()
}

async fn run(client: Arc<Client>, queue: Arc<Queue>) {
    let (mut answered, mut puts) = (0, 0);
    while let Some(jobs) = queue.take(answered).await {
        answered = jobs.len();
        let mut group = Group { client: &client, jobs, usage: Usage::default(), claimant: None, claimed: false };
        let written = group.write(&mut puts).await;
        if group.claimed {
            claim::end(&client, &mut Usage::default()).await;
        }
        let claimant = group.claimant;
        if let Err(failed) = written {
            group.fail(&failed);
        }
        if let Some(claimant) = claimant {
            // What can't be read now is found out by the next group.
            let _read = claim::yield_to(&client, claimant, &mut Usage::default()).await;
        }
    }
}

/// Calls on their way.
struct Group<'a> {
    client: &'a Arc<Client>,
    jobs: Vec<Box<dyn Job>>,
    usage: Usage,
    /// Who else asks for a turn.
    claimant: Option<[u8; 16]>,
    /// Whether this handle does.
    claimed: bool,
}

impl Group<'_> {
    /// Tries until every call is answered; gives what those that are left are answered with.
    async fn write(&mut self, puts: &mut u32) -> Result<()> {
        let client = self.client;
        // Whether the state has everything that was answered before these calls came.
        let mut fresh = false;
        for lost in 1..=TRIES_MAX {
            self.keep_begun();
            let Some(deadline) = self.jobs.iter().map(|job| job.deadline()).max() else { return Ok(()) };
            client.opened(deadline, &mut self.usage).await?;
            let (end, drafted) = self.decide()?;
            if drafted.is_empty() {
                // Nothing is put that would show whether the state is the present one.
                if fresh {
                    self.answer();
                    return Ok(());
                }
                log::catch_up(client, deadline, &mut self.usage).await?;
                fresh = true;
                continue;
            }
            if !self.begin() {
                continue;
            }
            let (number, author) = (end + 1, Author::new(client.writer()));
            let body = Bytes::from(codec::encode(number, author, &drafted));
            let began = client.tickets.load(Ordering::Acquire);
            *puts += 1;
            let (put, claimant) = self.put(number, author, &body, deadline, *puts).await;
            self.claimant = claimant;
            match put? {
                Outcome::Ours => {
                    // It is written, whatever this handle makes of it.
                    log::advance(client, number, body)
                        .map_err(|cause| error::unanswered().caused_by(cause.to_string()))?;
                    // Whoever asked before the put was sent finds in the state what was answered before.
                    client.seen.fetch_max(began, Ordering::AcqRel);
                    self.answer();
                    checkpoint::begin(client, number);
                    return Ok(());
                }
                Outcome::Theirs(found) => {
                    self.jobs.iter().for_each(|job| job.take_back());
                    log::advance(client, number, found)?;
                    if self.claimed {
                        continue;
                    }
                    if lost.is_multiple_of(claim::LOST_BEFORE_CLAIM) {
                        // Without one it goes on as before.
                        self.claimed = claim::make(client, &mut self.usage).await.unwrap_or(false);
                    } else {
                        stand_back(client, lost, deadline, &mut self.usage).await?;
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Throttled, "too many processes write to the store at once"))
    }

    /// Puts an object, and now and then looks beside it whether another asks for a turn.
    async fn put(
        &mut self,
        number: u64,
        author: Author,
        body: &Bytes,
        deadline: Deadline,
        puts: u32,
    ) -> (Result<Outcome>, Option<[u8; 16]>) {
        let client = self.client;
        let (mut cost, mut looked) = (Usage::default(), Usage::default());
        let put = log::put(client, number, author, body, deadline, &mut cost);
        let look = async {
            if puts.is_multiple_of(claim::PUTS_BETWEEN_LOOKS) {
                claim::look(client, &mut looked).await.unwrap_or(None)
            } else {
                None
            }
        };
        let done = futures::join!(put, look);
        self.usage += cost;
        self.usage += looked;
        done
    }

    /// Keeps the calls that are still wanted; those past their deadline are answered.
    fn keep_begun(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        let (kept, late): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| !job.deadline().has_passed());
        for job in late {
            job.fail(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the call was sent"));
        }
        self.jobs = kept.into_iter().filter(|job| job.is_wanted()).collect();
    }

    /// Decides all calls in order; gives the end of the log that they were decided against.
    fn decide(&mut self) -> Result<(u64, Vec<Drafted>)> {
        let mut tables = self.client.tables();
        log::check(self.client, &tables)?;
        let end = tables.end;
        let mut draft = Draft::new(self.client, &mut tables);
        self.jobs.iter_mut().for_each(|job| job.decide(&mut draft));
        Ok((end, draft.finish()))
    }

    /// Whether all that are about to be sent still have their callers; where one has not, everything is decided again without it.
    fn begin(&mut self) -> bool {
        let begun = self.jobs.iter().filter(|job| job.writes()).all(|job| job.begin());
        if !begun {
            self.jobs.iter().for_each(|job| job.take_back());
        }
        begun
    }

    fn answer(&mut self) {
        let shares = group_commit::shares(self.usage, self.jobs.len());
        std::mem::take(&mut self.jobs).into_iter().zip(shares).for_each(|(job, usage)| job.answer(usage));
    }

    fn fail(self, failed: &Error) {
        for job in self.jobs {
            // What would have changed nothing was not sent.
            let unsent = failed.kind() == ErrorKind::Indeterminate && !job.writes();
            job.fail(match unsent {
                true => Error::new(ErrorKind::Unavailable, "what the answer rests on could not be written"),
                false => refusal::again(failed),
            });
        }
    }
}

/// Lets others go on for a moment: puts that meet are paid for by all and made by one. Looking whether the log went on costs a twelfth of
/// a put.
async fn stand_back(client: &Client, lost: u32, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let pause = (LOST_PAUSE * 2_u32.saturating_pow(lost - 1)).min(LOST_PAUSE_MAX);
    tokio::time::sleep(log::jittered(pause).min(deadline.remaining())).await;
    log::catch_up(client, deadline, usage).await
}
