//! The mark up to which a projection has handled everything, and who may move it: kept in the store by compare-and-set under
//! its owner's id, so that of two runners only one can.

use super::{Parts, Rivals, StopReason};
use crate::api::capabilities::Limit;
use crate::api::{
    Commit, CommitId, Cursor, Deadline, Error, ErrorKind, PutRecord, ReadRecord, RecordExpected, RecordKey,
    RecordNumber, Revision, StreamId,
};
use crate::backoff::Backoff;
use crate::checkpoint::{Checkpoint, LastCommit, Parked};
use crate::logged::Logged;
use crate::subscription::{Stopper, passes};
use bytes::Bytes;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// How long one try to read or to keep the mark may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(20);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often the mark is touched while others stand by, as a part of the time that they wait.
const TOUCHES: u32 = 3;
/// Most streams that a projection parks. Beyond it more is wrong than single events, and it stops.
pub(super) const PARKED_MAX: usize = 100;

/// A wish to have the mark.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    parts: &'a Parts,
    key: RecordKey,
    owner: CommitId,
    /// The number that was seen last, and since when.
    seen: Option<(RecordNumber, Instant)>,
}

/// What stands in the store.
#[derive(Debug)]
pub(super) struct Found {
    /// None where the projection has not begun.
    pub checkpoint: Option<Checkpoint>,
    pub number: RecordNumber,
    /// Whether it may be claimed: nobody has it, or whoever had it has not touched it for so long.
    pub free: bool,
    /// Whether it is another one than at the last look.
    pub changed: bool,
}

impl<'a> Claim<'a> {
    pub fn new(parts: &'a Parts) -> Result<Self, StopReason> {
        let key = Checkpoint::key(&parts.name).map_err(StopReason::Store)?;
        Ok(Self { parts, key, owner: CommitId::generate(), seen: None })
    }

    /// Looks at what there is. No clock of another machine is compared: only whether the record changes.
    pub async fn look(&mut self) -> Result<Found, StopReason> {
        let read = || Checkpoint::read(&*self.parts.events, &self.key, Deadline::within(CALL_TIMEOUT));
        let (record, checkpoint) = self.parts.ask(read).await?;
        let number = record.map_or(RecordNumber(0), |record| record.number);
        let (changed, since) = match self.seen {
            Some((seen, since)) if seen == number => (false, since),
            Some(_) | None => (true, Instant::now()),
        };
        self.seen = Some((number, since));
        let is_owned = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.owner.is_some());
        let free = match self.parts.rivals {
            Rivals::TakeOver => true,
            Rivals::StandBy(wait) => !is_owned || since.elapsed() >= wait,
        };
        Ok(Found { checkpoint, number, free, changed })
    }

    /// Takes the mark over, so that whoever had it can move it no more. None where somebody else was faster.
    pub async fn take(&self, number: RecordNumber, before: Checkpoint) -> Result<Option<Mark>, StopReason> {
        let mut mark = Mark {
            parts: self.parts.clone(),
            key: self.key.clone(),
            touch: self.parts.rivals.wait() / TOUCHES,
            owner: self.owner,
            number,
            kept_at: Instant::now(),
            now: Checkpoint { owner: Some(self.owner), ..before },
            unkept_events: 0,
            unkept_since: None,
        };
        match mark.keep().await {
            Ok(()) => Ok(Some(mark)),
            Err(StopReason::Rival(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// How long to wait between two looks.
    pub fn pause(&self) -> Duration {
        (self.parts.rivals.wait() / (TOUCHES * 2)).min(self.parts.poll)
    }
}

/// The mark of a runner that has claimed it.
#[derive(Debug)]
pub(super) struct Mark {
    parts: Parts,
    key: RecordKey,
    /// How long it may go untouched.
    touch: Duration,
    owner: CommitId,
    number: RecordNumber,
    kept_at: Instant,
    now: Checkpoint,
    unkept_events: u32,
    /// Since when something is handled that is not kept.
    unkept_since: Option<Instant>,
}

/// Whose the record is that a write did not find as expected.
enum Whose {
    /// This runner's, with the value that was to be kept.
    Kept(RecordNumber),
    /// This runner's, with an older value: a write whose answer was lost or not waited for.
    Mine(RecordNumber),
    /// As it was: the write was lost.
    Untouched,
    Anothers,
}

impl Mark {
    /// Up to where everything is handled.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.now.cursor.as_ref()
    }

    /// What is set aside.
    pub fn parked(&self) -> &[Parked] {
        &self.now.parked
    }

    /// Whether an event waits behind one that was parked, or is that one.
    pub fn holds(&self, stream: &StreamId, revision: Revision) -> bool {
        self.now.parked.iter().any(|parked| parked.stream == *stream && parked.revision <= revision)
    }

    /// Moves it over a commit that is handled, and whatever stood before.
    pub fn pass_commit(&mut self, commit: &Commit, events: u32, cursor: Option<Cursor>) {
        if let Some(last) = LastCommit::of(commit) {
            self.now.last = Some(last);
        }
        self.unkept_events += events;
        if let Some(cursor) = cursor {
            self.pass_to(cursor);
        }
    }

    /// Moves it to a place before which everything is handled.
    pub fn pass_to(&mut self, cursor: Cursor) {
        if self.now.cursor.as_ref() != Some(&cursor) {
            self.now.cursor = Some(cursor);
            self.unkept_since.get_or_insert_with(Instant::now);
        }
    }

    /// Sets a stream aside from an event on, or says that it is set aside from another one on.
    pub async fn park(&mut self, parked: Parked) -> Result<(), StopReason> {
        let mut all = self.now.parked.clone();
        all.retain(|other| other.stream != parked.stream);
        all.push(parked);
        let too_many = || {
            let error = Error::new(ErrorKind::TooLarge, "a projection has parked as many streams as it may");
            StopReason::Store(error.with("max", PARKED_MAX))
        };
        if all.len() > PARKED_MAX {
            return Err(too_many());
        }
        let after = Checkpoint { parked: all, ..self.now.clone() };
        let bytes = after.to_value().map_err(StopReason::Store)?.len() as u64;
        match self.parts.events.capabilities().limits.record_bytes {
            Limit::Max(max) if bytes > max => return Err(too_many()),
            Limit::Max(_) | Limit::None => {}
        }
        self.now = after;
        self.keep().await
    }

    /// Lets a stream go on.
    pub async fn release_stream(&mut self, stream: &StreamId) -> Result<(), StopReason> {
        self.now.parked.retain(|other| other.stream != *stream);
        self.keep().await
    }

    /// When it is to be kept, if nothing else happens.
    pub fn due_at(&self) -> Instant {
        let touched = self.kept_at + self.touch;
        self.unkept_since.map_or(touched, |since| touched.min(since + self.parts.keep.every))
    }

    /// Keeps it if it is due.
    pub async fn keep_if_due(&mut self) -> Result<(), StopReason> {
        let is_due = self.due_at() <= Instant::now();
        let is_enough = self.unkept_events >= self.parts.keep.events && self.unkept_since.is_some();
        if is_due || is_enough {
            self.keep().await?;
        }
        if is_due {
            self.parts.measure_lag().await;
        }
        Ok(())
    }

    /// Waits for work and touches the mark meanwhile, so that nobody takes over from a runner that is slow.
    ///
    /// # Errors
    /// `Rival` when somebody has: the work is dropped where it stands. Not for a stop: the work is finished.
    pub async fn hold_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, StopReason> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                // Left in the middle, it is found again by its owner.
                kept = self.keep_when_due() => kept?,
            }
        }
    }

    async fn keep_when_due(&mut self) -> Result<(), StopReason> {
        tokio::time::sleep_until(self.due_at()).await;
        self.keep_until(&Stopper::new()).await?;
        self.parts.measure_lag().await;
        Ok(())
    }

    /// Keeps it and gives it up, so that another runner need not wait.
    pub async fn release(mut self) -> Result<(), StopReason> {
        self.now.owner = None;
        self.keep_until(&Stopper::new()).await
    }

    /// Keeps it, for as long as it takes: whether moved or not, this shows that it is still this runner's.
    ///
    /// # Errors
    /// `Rival` when it is not; `Asked` when it was stopped before the store has answered.
    pub async fn keep(&mut self) -> Result<(), StopReason> {
        let stopper = self.parts.stopper.clone();
        self.keep_until(&stopper).await
    }

    async fn keep_until(&mut self, stopper: &Stopper) -> Result<(), StopReason> {
        let value = self.now.to_value().map_err(StopReason::Store)?;
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, &self.owner.0);
        let mut is_unknown = false;
        loop {
            let put = PutRecord {
                key: self.key.clone(),
                expected: RecordExpected::At(self.number),
                value: Some(value.clone()),
                deadline: Deadline::within(CALL_TIMEOUT),
            };
            let error = match stopper.or(self.parts.events.put_record(put)).await {
                None => return Err(StopReason::Asked),
                Some(Ok(put)) => {
                    self.kept(put.number);
                    return Ok(());
                }
                Some(Err(error)) => error,
            };
            match error.kind() {
                ErrorKind::Conflict | ErrorKind::Indeterminate => {
                    is_unknown |= error.kind() == ErrorKind::Indeterminate;
                    match self.whose(&value, stopper).await? {
                        Whose::Kept(number) => {
                            self.kept(number);
                            return Ok(());
                        }
                        Whose::Mine(number) => self.number = number,
                        Whose::Untouched => {}
                        // It was given up, as far as anybody knows, and somebody else has it since.
                        Whose::Anothers if self.now.owner.is_none() && is_unknown => return Ok(()),
                        Whose::Anothers => {
                            let error = Error::new(ErrorKind::Conflict, "another process has the checkpoint");
                            return Err(StopReason::Rival(error.with("projection", &self.key.name)));
                        }
                    }
                }
                _ if passes(&error) => tracing::warn!(error = %Logged(&error), "a checkpoint is not kept yet"),
                _ => return Err(StopReason::Store(error)),
            }
            let pause = pauses.pause().max(error.pause().unwrap_or_default());
            if stopper.or(tokio::time::sleep(pause)).await.is_none() {
                return Err(StopReason::Asked);
            }
        }
    }

    fn kept(&mut self, number: RecordNumber) {
        self.number = number;
        self.kept_at = Instant::now();
        self.unkept_events = 0;
        self.unkept_since = None;
    }

    /// Reads the record until the store answers: only what stands there tells a rival from a lost answer.
    async fn whose(&self, value: &Bytes, stopper: &Stopper) -> Result<Whose, StopReason> {
        let read = || {
            let request = ReadRecord { key: self.key.clone(), deadline: Deadline::within(CALL_TIMEOUT) };
            self.parts.events.read_record(request)
        };
        let record = until_answered(stopper, self.key.name.as_str(), read).await?;
        let number = record.as_ref().map_or(RecordNumber(0), |record| record.number);
        let found = record.and_then(|record| record.value);
        let owner = found.as_deref().and_then(|found| Checkpoint::from_value(found).ok()?.owner);
        Ok(match found {
            Some(found) if found == *value => Whose::Kept(number),
            Some(_) if owner == Some(self.owner) => Whose::Mine(number),
            Some(_) | None if number == self.number => Whose::Untouched,
            Some(_) | None => Whose::Anothers,
        })
    }
}

/// Asks the store until it answers, for as long as its errors pass.
///
/// # Errors
/// `Asked` when it was stopped before, `Store` with what does not pass.
pub(super) async fn until_answered<T, F>(
    stopper: &Stopper,
    projection: &str,
    call: impl Fn() -> F,
) -> Result<T, StopReason>
where
    F: Future<Output = crate::api::Result<T>>,
{
    let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, projection.as_bytes());
    loop {
        let error = match stopper.or(call()).await {
            None => return Err(StopReason::Asked),
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) if passes(&error) => error,
            Some(Err(error)) => return Err(StopReason::Store(error)),
        };
        let pause = pauses.pause().max(error.pause().unwrap_or_default());
        tracing::warn!(projection, error = %Logged(&error), ?pause, "a projection waits for its store");
        if stopper.or(tokio::time::sleep(pause)).await.is_none() {
            return Err(StopReason::Asked);
        }
    }
}
