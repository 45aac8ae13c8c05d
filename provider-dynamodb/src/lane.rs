//! The way of all appends of a handle, with `feed = "transactional"`: what waits is one transaction, that of its commits and of the next record of the log. Two
//! transactions of one process would only meet at the log's end, so there is one at a time; between processes the end decides.
//!
//! Decisions are made by what is known of the streams, in the order in which callers came, each seeing what those before it in its
//! batch do. What would be refused is refused only once what it rests on was read after its caller came.

use crate::codec::{Events, Frame, Ref, encode_frame};
use crate::config::Snapshots;
use crate::error;
use crate::known::{self, Known, Last};
use crate::link::{Condition, TRANSACTION_BYTES_MAX, TRANSACTION_ITEMS_MAX, Transacted, Verdict, Write, Written};
use crate::log::{self, Claimed, Tail};
use crate::place;
use crate::read;
use crate::schema::{self, StoredMeta};
use crate::store::Client;
use crate::tables::{
    BURNT, EVENTS, FRAME, Item, PLACE, SHARD, STREAMS, Table, bytes, listed_name, named, numbered, stream_key, with,
};
use aws_sdk_dynamodb::types::AttributeValue;
use evstore_api::{
    Appended, CommitKind, CommitNumber, Content, Deadline, Error, ErrorKind, Position, Result, Revision, StreamId,
    Usage,
};
use evstore_kit::decide::{self, Decision, Situation, Slot, Wanted};
use evstore_kit::{group_commit, refusal};
use futures::future::join_all;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Appends of one transaction: each is its commit, and at most one item more.
const BATCH_JOBS_MAX: usize = (TRANSACTION_ITEMS_MAX - 1) / 2;
/// Bytes that wait at most.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Unit in which they are counted, so that it also bounds the number of small appends.
const QUEUE_UNIT_BYTES: usize = 1 << 10;
/// Tries of one batch: each but the last met a writer of another process, or found that what it rested on had moved.
const TRIES_MAX: u32 = 1_000;
/// Races that a batch loses before it claims the next place.
const LOST_BEFORE_CLAIM: u32 = 3;
/// Tries to put a claim: each but the last met a writer that was quicker.
const CLAIMS_MAX: u32 = 100;
/// First pause after the service said that others write the same items; it doubles, and a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(2);
/// Longest such pause.
const CONTENDED_PAUSE_MAX: Duration = Duration::from_millis(100);

/// A commit or a marker that somebody wants written.
#[derive(Debug)]
pub struct Work {
    /// What is wanted.
    pub wanted: Wanted,
    /// Its events.
    pub events: Events,
    /// For a truncation, before which revision.
    pub before: Option<Revision>,
}

/// What became of it.
#[derive(Debug)]
pub struct Done {
    /// Its receipt.
    pub receipt: Appended,
    /// The end of its stream behind it; that of the whole stream where it is a repeat.
    pub last: Last,
    /// From which slot on its stream had events before it.
    pub had_from: CommitNumber,
}

/// Where the callers put what they want.
#[derive(Debug)]
pub struct Lane {
    sender: Mutex<Option<mpsc::UnboundedSender<Job>>>,
    room: Arc<Semaphore>,
}

/// Nothing of it was sent yet.
const WAITING: u8 = 0;
/// It was sent: what becomes of it is not its caller's any more.
const SENT: u8 = 1;
/// Its caller went away before it was sent.
const GIVEN_UP: u8 = 2;

#[derive(Debug)]
struct Job {
    work: Work,
    deadline: Deadline,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Done>>,
    /// Where the commit stands that holds the first revision to keep.
    cut: Option<(Revision, CommitNumber)>,
    _room: OwnedSemaphorePermit,
}

impl Job {
    fn changes(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Lets go of a job whose caller is dropped, if it was not sent yet.
struct Interest(Arc<AtomicU8>);

impl Drop for Interest {
    fn drop(&mut self) {
        let _sent = self.0.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Lane {
    /// Starts the lane of a client. It ends when it is closed and drained.
    pub fn start(client: Arc<Client>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(run(client, receiver));
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / QUEUE_UNIT_BYTES));
        Self { sender: Mutex::new(Some(sender)), room }
    }

    /// Writes something with what else waits.
    ///
    /// # Errors
    /// What `decide` refuses, and what the service does; `DeadlineExceeded` where nothing was sent in time, `Indeterminate` where
    /// something was.
    ///
    /// # Cancel safety
    /// Dropped before it is sent, it is not written.
    pub async fn write(&self, work: Work, deadline: Deadline) -> Result<Done> {
        let units = (work.events.len() / QUEUE_UNIT_BYTES + 1) as u32;
        let late = || Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued");
        let room = tokio::time::timeout_at(deadline.0.into(), self.room.clone().acquire_many_owned(units));
        let room = room.await.map_err(|_| late())?.map_err(|_| refusal::closed())?;
        let (answer, answered) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(WAITING));
        let interest = Interest(state.clone());
        let job = Job { work, deadline, state: state.clone(), answer, cut: None, _room: room };
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sender.ok_or_else(refusal::closed)?.send(job).map_err(|_| refusal::closed())?;
        let answer = tokio::time::timeout_at(deadline.0.into(), answered).await;
        let sent = state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_err();
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
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What the lane knows of the store.
#[derive(Debug, Default)]
struct Place {
    tail: Option<Tail>,
    meta: Option<Arc<StoredMeta>>,
    claimed: Claimed,
}

impl Place {
    /// What is not known any more.
    fn forget(&mut self) {
        self.tail = None;
        self.meta = None;
    }
}

async fn run(client: Arc<Client>, mut receiver: mpsc::UnboundedReceiver<Job>) {
    let mut place = Place::default();
    let mut over: Option<Job> = None;
    loop {
        let first = match over.take() {
            Some(job) => job,
            None => match receiver.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let mut size = first.work.events.len();
        let mut jobs = vec![first];
        while jobs.len() < BATCH_JOBS_MAX {
            let Ok(job) = receiver.try_recv() else { break };
            size += job.work.events.len();
            if size > TRANSACTION_BYTES_MAX {
                over = Some(job);
                break;
            }
            jobs.push(job);
        }
        Batch::new(&client, &mut place).write(jobs).await;
    }
}

/// One batch on its way.
struct Batch<'a> {
    client: &'a Client,
    place: &'a mut Place,
    usage: Usage,
    /// The streams and the store's record that were read after the callers came, and not found outdated since.
    fresh: HashSet<StreamId>,
    store_is_fresh: bool,
    /// The streams that are to be read anew.
    stale: HashSet<StreamId>,
    /// Whether the next place of the log is held for this batch.
    holds_claim: bool,
}

/// What is decided of a job.
enum Verdicted {
    /// It is written into this slot.
    Write(Slot, Box<Frame>),
    /// It is not; what the answer rests on.
    Answered(Result<Appended>, Ground),
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    /// What stands in the tables.
    Stands,
    /// What its own batch is about to write.
    Batch,
}

/// A stream as the batch leaves it.
struct Overlay {
    last: Last,
    had_from: CommitNumber,
    added: Vec<(Last, Appended)>,
}

/// What has to be read before a decision.
enum Need {
    Stream(StreamId),
    Store,
    Cut(usize),
}

/// What is decided of a whole batch.
struct Decided {
    verdicts: Vec<Verdicted>,
    overlays: HashMap<StreamId, Overlay>,
    end: Position,
}

impl<'a> Batch<'a> {
    fn new(client: &'a Client, place: &'a mut Place) -> Self {
        let usage = Usage::default();
        Self {
            client,
            place,
            usage,
            fresh: HashSet::new(),
            store_is_fresh: false,
            stale: HashSet::new(),
            holds_claim: false,
        }
    }

    /// Answers every job.
    async fn write(mut self, mut jobs: Vec<Job>) {
        let error = self.attempts(&mut jobs).await;
        if self.holds_claim {
            self.release().await;
        }
        fail(jobs, &error);
    }

    /// Tries until every job is answered, or gives what those that are left are answered with.
    async fn attempts(&mut self, jobs: &mut Vec<Job>) -> Error {
        let mut pause = CONTENDED_PAUSE;
        let mut lost = 0;
        for _ in 0..TRIES_MAX {
            *jobs = keep(std::mem::take(jobs));
            if jobs.is_empty() {
                break;
            }
            match self.attempt(jobs).await {
                Ok(Outcome::Again) => continue,
                Ok(Outcome::Answered) => break,
                Ok(Outcome::Lost) => {}
                Ok(Outcome::Contended) => {
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(CONTENDED_PAUSE_MAX);
                }
                Err(error) => return error,
            }
            lost += 1;
            if lost % LOST_BEFORE_CLAIM == 0
                && !self.holds_claim
                && let Err(error) = self.claim(jobs).await
            {
                return error;
            }
        }
        Error::new(ErrorKind::Throttled, "too many processes write to the store at once")
    }

    /// Puts a claim at the end of the log. It is one small write that needs no knowledge of streams, and so as quick as those who win.
    async fn claim(&mut self, jobs: &[Job]) -> Result<()> {
        let (client, deadline) = (self.client, self.client.patience());
        for _ in 0..CLAIMS_MAX {
            let (tail, meta) = self.store(deadline).await?;
            if self.place.claimed.sees(&tail, client.owner()) {
                return Ok(());
            }
            let free = log::free(meta.token, client.owner(), tail.claim);
            let own = Tail { claim: Some(client.owner()), ..tail };
            match client.link().put(Table::Log, log::barrier(&own), free, deadline, &mut self.usage).await? {
                Written::Done => {
                    self.place.tail = Some(own);
                    self.holds_claim = true;
                    // Nobody writes now: what is read next stands until this batch does.
                    self.stale.extend(jobs.iter().map(|job| job.work.wanted.stream.clone()));
                    return Ok(());
                }
                Written::Refused(there) => self.place.tail = there.as_ref().map(log::tail_of).transpose()?,
                Written::Contended => tokio::time::sleep(jittered(CONTENDED_PAUSE)).await,
            }
        }
        Ok(())
    }

    /// Lets others go on. Where it fails, they wait a moment.
    async fn release(&mut self) {
        self.holds_claim = false;
        let Some(tail) = self.place.tail.take().filter(|tail| tail.claim == Some(self.client.owner())) else { return };
        let free = log::free(tail.token, self.client.owner(), None);
        let barrier = log::barrier(&Tail { claim: None, ..tail });
        let deadline = self.client.patience();
        let _outwaited = self.client.link().put(Table::Log, barrier, free, deadline, &mut self.usage).await;
    }

    async fn attempt(&mut self, jobs: &mut Vec<Job>) -> Result<Outcome> {
        let deadline = self.client.patience();
        self.read(jobs, deadline).await;
        if jobs.is_empty() {
            return Ok(Outcome::Answered);
        }
        let (tail, meta) = self.store(deadline).await?;
        if self.place.claimed.sees(&tail, self.client.owner()) {
            self.place.tail = None;
            return Ok(Outcome::Contended);
        }
        let decided = match self.decide(jobs, &tail, &meta) {
            Ok(decided) => decided,
            Err(needs) => {
                self.meet(jobs, needs, deadline).await;
                return Ok(Outcome::Again);
            }
        };
        let writes = self.writes(jobs, &decided, &tail, &meta);
        if writes.is_empty() {
            self.answer(std::mem::take(jobs), decided);
            return Ok(Outcome::Answered);
        }
        // Whoever gave up meanwhile takes no part, and what was decided behind it is decided again.
        let begins = |(job, verdict): (&Job, &Verdicted)| match verdict {
            Verdicted::Write(..) => job.changes(WAITING, SENT),
            Verdicted::Answered(..) => true,
        };
        let begun: Vec<bool> = jobs.iter().zip(&decided.verdicts).map(begins).collect();
        if begun.contains(&false) {
            take_back(jobs);
            return Ok(Outcome::Again);
        }
        let places: Vec<_> = writes.iter().map(|write| write.stream.clone()).collect();
        let writes = writes.into_iter().map(|write| write.write).collect();
        match self.client.link().transact(writes, deadline, &mut self.usage).await {
            Ok(Transacted::Done) => {
                self.place.tail = Some(Tail { end: decided.end, token: meta.token, claim: None, progress: None });
                self.holds_claim = false;
                self.learn(&decided);
                self.client.ring();
                self.answer(std::mem::take(jobs), decided);
                Ok(Outcome::Answered)
            }
            Ok(Transacted::Contended) => {
                take_back(jobs);
                Ok(Outcome::Contended)
            }
            Ok(Transacted::Refused(verdicts)) => {
                take_back(jobs);
                self.holds_claim = false;
                self.refused(verdicts, &places, meta.token)?;
                Ok(Outcome::Lost)
            }
            Err(error) => {
                // What is known stays: where it was written after all, the next transaction finds its place taken, and asks what
                // stands there before it decides again.
                self.failed(std::mem::take(jobs), decided, &error);
                Ok(Outcome::Answered)
            }
        }
    }

    /// Reads the streams that are not known. Where one can't be read, its jobs alone are answered so.
    async fn read(&mut self, jobs: &mut Vec<Job>, deadline: Deadline) {
        let missing: HashSet<StreamId> = jobs
            .iter()
            .map(|job| &job.work.wanted.stream)
            .filter(|stream| self.stale.contains(*stream) || self.client.memory().look(stream, |known| known.is_none()))
            .cloned()
            .collect();
        let client = self.client;
        let reads = missing.into_iter().map(|stream| async move {
            let mut usage = Usage::default();
            let read = known::refresh(client, &stream, deadline, &mut usage).await;
            (stream, read.err(), usage)
        });
        for (stream, failed, usage) in join_all(reads).await {
            self.usage += usage;
            match failed {
                None => drop(self.fresh.insert(stream)),
                Some(error) => fail(take_if(jobs, |job| job.work.wanted.stream == stream), &error),
            }
        }
        self.stale.clear();
    }

    /// The end of the log and the store's record, of one moment.
    async fn store(&mut self, deadline: Deadline) -> Result<(Tail, Arc<StoredMeta>)> {
        loop {
            let tail = match self.place.tail.take() {
                Some(tail) => tail,
                None => log::tail(self.client.link(), deadline, &mut self.usage).await?,
            };
            self.place.tail = Some(tail.clone());
            let meta = match &self.place.meta {
                Some(meta) if meta.token == tail.token => meta.clone(),
                _ => {
                    self.store_is_fresh = true;
                    schema::read_meta(self.client, deadline, &mut self.usage).await?
                }
            };
            self.place.meta = Some(meta.clone());
            if meta.token == tail.token {
                return Ok((tail, meta));
            }
            // The record changed in between; its barrier stands in the log.
            self.place.tail = None;
        }
    }

    /// Decides every job, or tells what has to be read first.
    fn decide(&self, jobs: &[Job], tail: &Tail, meta: &StoredMeta) -> Result<Decided, Vec<Need>> {
        let mut decided = Decided { verdicts: Vec::with_capacity(jobs.len()), overlays: HashMap::new(), end: tail.end };
        let mut needs = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            match self.decide_one(job, at, meta, &mut decided) {
                Ok(verdict) => decided.verdicts.push(verdict),
                Err(more) => needs.extend(more),
            }
        }
        if needs.is_empty() { Ok(decided) } else { Err(needs) }
    }

    fn decide_one(
        &self,
        job: &Job,
        at: usize,
        meta: &StoredMeta,
        decided: &mut Decided,
    ) -> Result<Verdicted, Vec<Need>> {
        let Work { wanted, before, .. } = &job.work;
        let stream = &wanted.stream;
        if !decided.overlays.contains_key(stream) {
            let Some(last) = self.client.memory().look(stream, |known| known.map(|known| known.last.clone())) else {
                return Err(vec![Need::Stream(stream.clone())]);
            };
            let overlay = Overlay { had_from: last.from, last, added: Vec::new() };
            decided.overlays.insert(stream.clone(), overlay);
        }
        let overlay = decided.overlays.get_mut(stream).expect("it was put there");
        let added = overlay.added.iter().rev().map(|(_, receipt)| receipt);
        let mut ground = Ground::Batch;
        let mut found = added.clone().find(|receipt| receipt.commit == wanted.commit).cloned();
        if found.is_none() {
            ground = if overlay.added.is_empty() { Ground::Stands } else { Ground::Batch };
            found =
                self.client.memory().look(stream, |known| known.and_then(|known| known.find(wanted.commit).cloned()));
            found = found.filter(|receipt| known::in_window(self.client, &overlay.last, receipt));
            if found.is_some() {
                ground = Ground::Stands;
            }
        }
        let head = self.client.head(&overlay.last, &meta.meta);
        let situation = Situation {
            meta: &meta.meta,
            own: self.client.own(),
            head: &head,
            last_position: Some(decided.end),
            now: self.client.now(),
        };
        let decision = match before {
            Some(before) => decide::truncate(&situation, wanted, *before, found),
            None => decide::append(&situation, wanted, found),
        };
        let slot = match decision {
            Ok(Decision::Repeated(receipt)) => return Ok(Verdicted::Answered(Ok(receipt), ground)),
            Ok(Decision::Write(slot)) => slot,
            Err(error) => {
                let needs = self.doubts(&error, stream, ground);
                return if needs.is_empty() { Ok(Verdicted::Answered(Err(error), ground)) } else { Err(needs) };
            }
        };
        let frame = new_frame(&job.work, &slot, &overlay.last, job.cut).ok_or_else(|| vec![Need::Cut(at)])?;
        overlay.last = Last::of(slot.number, &frame);
        overlay.added.push((overlay.last.clone(), frame.receipt(slot.number)));
        decided.end = decided.end.plus(u64::from(wanted.events.max(1)));
        Ok(Verdicted::Write(slot, Box::new(frame)))
    }

    /// What a refusal rests on that was not read since its caller came.
    fn doubts(&self, error: &Error, stream: &StreamId, ground: Ground) -> Vec<Need> {
        let mut needs = Vec::new();
        // What the batch itself writes is as fresh as can be: its transaction fails where it is not.
        if ground == Ground::Stands && !self.fresh.contains(stream) && error.kind() != ErrorKind::IdReused {
            needs.push(Need::Stream(stream.clone()));
        }
        let of_store = matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Moved | ErrorKind::Schema);
        if of_store && !self.store_is_fresh {
            needs.push(Need::Store);
        }
        needs
    }

    /// Reads what decisions lack, or sees to it that it is read next.
    async fn meet(&mut self, jobs: &mut Vec<Job>, needs: Vec<Need>, deadline: Deadline) {
        let mut failed: Vec<(Arc<AtomicU8>, Error)> = Vec::new();
        for need in needs {
            match need {
                Need::Stream(stream) => drop(self.stale.insert(stream)),
                Need::Store => {
                    self.place.forget();
                    self.store_is_fresh = true;
                }
                Need::Cut(at) => match self.find_cut(&jobs[at], deadline).await {
                    Ok(Some(cut)) => jobs[at].cut = Some(cut),
                    Ok(None) => drop(self.stale.insert(jobs[at].work.wanted.stream.clone())),
                    Err(error) => failed.push((jobs[at].state.clone(), error)),
                },
            }
        }
        for (state, error) in failed {
            fail(take_if(jobs, |job| Arc::ptr_eq(&job.state, &state)), &error);
        }
    }

    /// Where the commit stands that holds the first revision that a truncation keeps; none where the stream is to be read first.
    async fn find_cut(&mut self, job: &Job, deadline: Deadline) -> Result<Option<(Revision, CommitNumber)>> {
        let stream = &job.work.wanted.stream;
        let last = self.client.memory().look(stream, |known| known.map(|known| known.last.clone()));
        let (Some(last), Some(before)) = (last, job.work.before) else { return Ok(None) };
        find_cut(self.client, stream, &last, before, deadline, &mut self.usage).await
    }

    /// The transaction: the record of the log first.
    fn writes(&self, jobs: &[Job], decided: &Decided, tail: &Tail, meta: &StoredMeta) -> Vec<Placed> {
        let mut refs = Vec::new();
        let mut writes = Vec::new();
        for (job, verdict) in jobs.iter().zip(&decided.verdicts) {
            let Verdicted::Write(slot, frame) = verdict else { continue };
            let stream = &job.work.wanted.stream;
            let positions = u64::from(frame.count.max(1));
            refs.push(Ref { stream: stream.clone(), number: slot.number, positions });
            let item = commit_item(self.client, stream, slot.number, frame, &job.work.events);
            let commit = Write::put(Table::Commits, item, Some(Condition::absent()));
            writes.push(Placed { stream: Some(stream.clone()), write: commit });
            let beside = beside(self.client, stream, slot.number, &frame.kind);
            writes.extend(beside.into_iter().map(|write| Placed { stream: None, write }));
        }
        if refs.is_empty() {
            return Vec::new();
        }
        let entry = log::entry(tail.end.next(), decided.end, meta.token, None, &refs);
        let write = Write::put(Table::Log, entry, Some(log::free(meta.token, self.client.owner(), tail.claim)));
        writes.insert(0, Placed { stream: None, write });
        writes
    }

    /// Learns from a refused transaction what stands in its way.
    fn refused(&mut self, verdicts: Vec<Verdict>, places: &[Option<StreamId>], token: u64) -> Result<()> {
        for (verdict, (at, stream)) in verdicts.into_iter().zip(places.iter().enumerate()) {
            let Verdict::Refused(there) = verdict else { continue };
            if let Some(stream) = stream {
                self.stale.insert(stream.clone());
            } else if at == 0 {
                let tail = there.as_ref().map(log::tail_of).transpose()?;
                if tail.as_ref().is_none_or(|tail| tail.token != token) {
                    self.place.meta = None;
                }
                self.place.tail = tail;
            }
        }
        // Others write: what was read before is not what stands now.
        self.fresh.clear();
        self.store_is_fresh = false;
        Ok(())
    }

    fn learn(&self, decided: &Decided) {
        let window = self.client.window();
        for (stream, overlay) in &decided.overlays {
            self.client.memory().look(stream, |known: Option<&mut Known>| {
                let Some(known) = known else { return };
                for (last, receipt) in &overlay.added {
                    // What somebody read meanwhile is there already.
                    if known.last.number.0 + 1 == last.number.0 {
                        known.push(last.clone(), receipt.clone(), window);
                    }
                }
            });
        }
    }

    fn answer(&self, jobs: Vec<Job>, decided: Decided) {
        let shares = group_commit::shares(self.usage, jobs.len());
        for ((job, verdict), usage) in jobs.into_iter().zip(decided.verdicts).zip(shares) {
            let overlay = decided.overlays.get(&job.work.wanted.stream).expect("every job's stream was looked at");
            let (receipt, had_from) = match verdict {
                Verdicted::Write(slot, _) => (Ok(slot.receipt(&job.work.wanted, usage)), overlay.had_from),
                Verdicted::Answered(receipt, _) => (receipt, CommitNumber(1)),
            };
            let done = receipt.map(|receipt| Done {
                receipt: Appended { usage, ..receipt },
                last: overlay.last.clone(),
                had_from,
            });
            answer(job, done);
        }
    }

    /// Answers a batch whose transaction failed: what stands in the tables holds all the same.
    fn failed(&self, jobs: Vec<Job>, decided: Decided, error: &Error) {
        let shares = group_commit::shares(self.usage, jobs.len());
        for ((job, verdict), usage) in jobs.into_iter().zip(decided.verdicts).zip(shares) {
            let overlay = decided.overlays.get(&job.work.wanted.stream).expect("every job's stream was looked at");
            let done = match verdict {
                Verdicted::Answered(receipt, Ground::Stands) => receipt.map(|receipt| Done {
                    receipt: Appended { usage, ..receipt },
                    last: overlay.last.clone(),
                    had_from: CommitNumber(1),
                }),
                Verdicted::Answered(_, Ground::Batch) | Verdicted::Write(..) => Err(refusal::again(error)),
            };
            answer(job, done);
        }
    }
}

/// The frame of something that is to be written into a slot behind the last one; none where it has to be looked first where the commit
/// stands that a truncation keeps.
pub fn new_frame(work: &Work, slot: &Slot, last: &Last, cut: Option<(Revision, CommitNumber)>) -> Option<Frame> {
    let (retained, from) = match (&work.wanted.kind, work.before, cut) {
        (CommitKind::Deleted, _, _) => (slot.first, slot.number.next()),
        (_, Some(before), _) if before > last.revision => (slot.first, slot.number.next()),
        (_, Some(_), None) => return None,
        (_, Some(_), Some((retained, from))) if retained > last.retained => (retained, from),
        _ => (last.retained, last.from),
    };
    Some(Frame {
        id: work.wanted.commit,
        kind: work.wanted.kind.clone(),
        first: slot.first,
        count: work.wanted.events,
        position: slot.position,
        recorded_at: slot.recorded_at,
        digest: work.wanted.digest,
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        plain_bytes: work.events.plain_bytes,
        retained,
        from,
        place: None,
    })
}

/// Where the commit stands that holds the first revision that a truncation keeps; none where nothing is kept.
///
/// # Errors
/// As reads have them.
pub async fn find_cut(
    client: &Client,
    stream: &StreamId,
    last: &Last,
    before: Revision,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Option<(Revision, CommitNumber)>> {
    if before > last.revision {
        return Ok(None);
    }
    // What lies before what is kept is not looked for: it keeps nothing new away.
    if before <= last.retained {
        return Ok(Some((last.retained, last.from)));
    }
    read::locate(client, stream, last, before, deadline, usage).await.map(Some)
}

enum Outcome {
    /// Every job is.
    Answered,
    /// Something had to be read; now it can be decided.
    Again,
    /// Another process was quicker.
    Lost,
    /// Others are at it just now.
    Contended,
}

/// A write, and the stream whose slot it takes.
struct Placed {
    stream: Option<StreamId>,
    write: Write,
}

/// A commit as it is put.
pub fn commit_item(client: &Client, stream: &StreamId, number: CommitNumber, frame: &Frame, events: &Events) -> Item {
    let key = stream_key(stream);
    let place = client.config().feed.index().zip(frame.place);
    let place = place.map(|((shards, _), place)| (place::shard_of(&key, shards), place));
    let item = numbered(key, number.0);
    let item = with(item, FRAME, bytes(encode_frame(stream, number, frame)));
    let item = match place {
        Some((shard, place)) => with(with(item, SHARD, bytes([shard])), PLACE, bytes(place.encode())),
        None => item,
    };
    match &events.stored {
        Some(stored) => with(item, EVENTS, bytes(stored.to_vec())),
        None => item,
    }
}

/// What is written with a commit beside it: a new stream into the list, and in place of a deleted stream's snapshot the mark that
/// none comes any more.
pub fn beside(client: &Client, stream: &StreamId, number: CommitNumber, kind: &CommitKind) -> Vec<Write> {
    let mut writes = Vec::new();
    if number.0 == 1 {
        writes.push(Write::put(Table::Names, named(STREAMS, listed_name(stream)), None));
    }
    if *kind == CommitKind::Deleted && client.config().snapshots == Snapshots::Separate {
        let burnt = with(numbered(stream_key(stream), 0), BURNT, AttributeValue::Bool(true));
        writes.push(Write::put(Table::Commits, burnt, None));
    }
    writes
}

/// Keeps the jobs that are still wanted; those past their deadline are answered.
fn keep(jobs: Vec<Job>) -> Vec<Job> {
    let (kept, late): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| !job.deadline.has_passed());
    for job in late {
        answer(job, Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the call was sent")));
    }
    kept.into_iter().filter(|job| job.state.load(Ordering::Acquire) != GIVEN_UP && !job.answer.is_closed()).collect()
}

/// Nothing was written: their callers may go away again.
fn take_back(jobs: &[Job]) {
    for job in jobs {
        job.changes(SENT, WAITING);
    }
}

/// Takes out the jobs of which something holds.
fn take_if(jobs: &mut Vec<Job>, holds: impl Fn(&Job) -> bool) -> Vec<Job> {
    let (taken, kept) = std::mem::take(jobs).into_iter().partition(holds);
    *jobs = kept;
    taken
}

fn fail(jobs: Vec<Job>, error: &Error) {
    for job in jobs {
        answer(job, Err(refusal::again(error)));
    }
}

fn answer(job: Job, answer: Result<Done>) {
    // Nobody may be left to hear it.
    let _nobody = job.answer.send(answer);
}

/// From half of a pause to all of it.
pub fn jittered(pause: Duration) -> Duration {
    // A new state is seeded anew each time: chance enough for two processes that wait for each other.
    let chance = RandomState::new().hash_one(pause) as u32;
    pause / 2 + pause / 2 * (chance >> 16) / (1 << 16)
}
