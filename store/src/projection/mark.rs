//! The mark up to which a projection has handled everything: kept in the store by compare-and-set, so that of two runners
//! only one can move it.

use super::{Keep, Parts, Phase, Rivals, StopReason};
use crate::api::{
    Commit, CommitId, Cursor, Deadline, ErrorKind, EventStore, PutRecord, Record, RecordExpected, RecordKey,
    RecordNumber, Result,
};
use crate::backoff::Backoff;
use crate::checkpoint::{Checkpoint, LastCommit};
use crate::subscription::passes;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one try to keep the mark may take.
const PUT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often the mark is touched while another runner stands by, as a part of the time that it waits.
const TOUCHES: u32 = 3;

/// The mark of a runner that has claimed it.
#[derive(Debug)]
pub(super) struct Mark {
    events: Arc<dyn EventStore>,
    key: RecordKey,
    keep: Keep,
    /// How long it may go untouched; none where nobody stands by.
    touch: Option<Duration>,
    number: RecordNumber,
    kept_at: Instant,
    now: Checkpoint,
    unkept_events: u32,
    /// Since when something is handled that is not kept.
    unkept_since: Option<Instant>,
}

impl Mark {
    /// Takes the mark over, so that whoever had it can move it no more.
    pub async fn claim(parts: &Parts) -> Result<Self, StopReason> {
        let key = Checkpoint::key(&parts.name).map_err(StopReason::Store)?;
        let owner = CommitId::generate();
        loop {
            let (record, checkpoint) = read(parts, &key).await?;
            let before = checkpoint.unwrap_or(Checkpoint { cursor: None, last: None, owner: None });
            if let (Rivals::StandBy(wait), Some(_)) = (parts.rivals, before.owner) {
                parts.report(|status| {
                    status.phase = Phase::StandingBy;
                    status.cursor = before.cursor.clone();
                });
                if touched_within(parts, &key, record.as_ref(), wait).await? {
                    continue;
                }
            }
            before.check_history(&*parts.events, Deadline::within(PUT_TIMEOUT)).await.map_err(StopReason::Store)?;
            let mut mark = Self {
                events: parts.events.clone(),
                key: key.clone(),
                keep: parts.keep,
                touch: match parts.rivals {
                    Rivals::StandBy(wait) => Some(wait / TOUCHES),
                    Rivals::TakeOver => None,
                },
                number: record.map_or(RecordNumber(0), |record| record.number),
                kept_at: Instant::now(),
                now: Checkpoint { owner: Some(owner), ..before },
                unkept_events: 0,
                unkept_since: None,
            };
            match mark.keep().await {
                Ok(()) => return Ok(mark),
                // Somebody else was faster: look again at what there is.
                Err(StopReason::Rival(_)) => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// Up to where everything is handled.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.now.cursor.as_ref()
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

    /// When it is to be kept, if nothing else happens.
    pub fn due_at(&self) -> Option<Instant> {
        let kept = self.unkept_since.map(|since| since + self.keep.every);
        let touched = self.touch.map(|touch| self.kept_at + touch);
        kept.into_iter().chain(touched).min()
    }

    /// Keeps it if it is due.
    pub async fn keep_if_due(&mut self) -> Result<(), StopReason> {
        let enough = self.unkept_events >= self.keep.events && self.unkept_since.is_some();
        if enough || self.due_at().is_some_and(|due| due <= Instant::now()) {
            self.keep().await?;
        }
        Ok(())
    }

    /// Keeps it if it has moved.
    pub async fn keep_if_moved(&mut self) -> Result<(), StopReason> {
        match self.unkept_since {
            Some(_) => self.keep().await,
            None => Ok(()),
        }
    }

    /// Keeps it and gives it up, so that another runner need not wait.
    pub async fn release(mut self) -> Result<(), StopReason> {
        self.now.owner = None;
        self.keep().await
    }

    async fn keep(&mut self) -> Result<(), StopReason> {
        let value = self.now.to_value().map_err(StopReason::Store)?;
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.key.name.as_str().as_bytes());
        loop {
            let put = PutRecord {
                key: self.key.clone(),
                expected: RecordExpected::At(self.number),
                value: Some(value.clone()),
                deadline: Deadline::within(PUT_TIMEOUT),
            };
            let error = match self.events.put_record(put).await {
                Ok(put) => {
                    self.kept(put.number);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.kind() {
                // An answer may have been lost before: then what is there is what this runner wrote.
                ErrorKind::Conflict | ErrorKind::Indeterminate => {
                    if let Some(number) = self.find(&value).await? {
                        self.kept(number);
                        return Ok(());
                    }
                    if error.kind() == ErrorKind::Conflict {
                        return Err(StopReason::Rival(error.with("projection", &self.key.name)));
                    }
                }
                _ if passes(&error) => tracing::warn!(%error, "a checkpoint is not kept yet"),
                _ => return Err(StopReason::Store(error)),
            }
            tokio::time::sleep(pauses.pause()).await;
        }
    }

    fn kept(&mut self, number: RecordNumber) {
        self.number = number;
        self.kept_at = Instant::now();
        self.unkept_events = 0;
        self.unkept_since = None;
    }

    /// The record's number if it has just this value: the owner in it makes it this runner's own.
    async fn find(&self, value: &Bytes) -> Result<Option<RecordNumber>, StopReason> {
        let request = crate::api::ReadRecord { key: self.key.clone(), deadline: Deadline::within(PUT_TIMEOUT) };
        match self.events.read_record(request).await {
            Ok(record) => Ok(record.filter(|record| record.value.as_ref() == Some(value)).map(|record| record.number)),
            Err(error) if passes(&error) => Ok(None),
            Err(error) => Err(StopReason::Store(error)),
        }
    }
}

/// Reads the record for as long as it takes.
async fn read(parts: &Parts, key: &RecordKey) -> Result<(Option<Record>, Option<Checkpoint>), StopReason> {
    let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, parts.name.as_bytes());
    loop {
        match Checkpoint::read(&*parts.events, key, Deadline::within(PUT_TIMEOUT)).await {
            Ok(found) => return Ok(found),
            Err(error) if passes(&error) => tokio::time::sleep(pauses.pause()).await,
            Err(error) => return Err(StopReason::Store(error)),
        }
    }
}

/// Waits whether the record is touched. No clock of another machine is looked at: only whether it changes.
async fn touched_within(
    parts: &Parts,
    key: &RecordKey,
    before: Option<&Record>,
    wait: Duration,
) -> Result<bool, StopReason> {
    let number = before.map(|record| record.number);
    let until = Instant::now() + wait;
    while Instant::now() < until {
        tokio::time::sleep((wait / (TOUCHES * 2)).min(parts.poll)).await;
        let (record, _) = read(parts, key).await?;
        if record.map(|record| record.number) != number {
            return Ok(true);
        }
    }
    Ok(false)
}
