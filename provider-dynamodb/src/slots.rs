//! The way of appends that write to their streams alone, with a feed that comes about behind them: each takes the next slot of its
//! stream, under the condition that it is free. What is known of the stream decides, as in `lane`; what would be refused is refused only
//! once what it rests on was read after its caller came.
//!
//! A new stream is made in a transaction with its place in the list and a look at the store's record, so that none is born in a store
//! that is being moved away or filled.

use crate::codec::Frame;
use crate::known::{self, Known, Last, frame_of};
use crate::lane::{Done, Work, beside, commit_item, find_cut, jittered, new_frame};
use crate::link::{Condition, Transacted, Verdict, Write, Written, sleep};
use crate::schema;
use crate::store::Client;
use crate::tables::{Item, META, Table, named};
use evstore_api::{Appended, CommitNumber, Deadline, Error, ErrorKind, Result, StreamId, Usage};
use evstore_kit::decide::{self, Decision, Situation, Slot};
use evstore_kit::refusal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as Turn;

/// Tries of one append: each but the last met a writer of another process, or found that what it rested on had moved.
const TRIES_MAX: u32 = 1_000;
/// First pause after the service said that others write the same items; it doubles, and a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(2);
/// Longest such pause.
const CONTENDED_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Where the callers of one handle meet, by stream: two of them would only take the slot from each other.
#[derive(Debug)]
pub struct Slots {
    client: Arc<Client>,
    turns: Mutex<HashMap<StreamId, Arc<Turn<()>>>>,
}

impl Slots {
    /// Of a client.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, turns: Mutex::default() }
    }

    /// Writes something into the next slot of its stream.
    ///
    /// # Errors
    /// What `decide` refuses, and what the service does; `DeadlineExceeded` where nothing was sent in time, `Indeterminate` where
    /// something was.
    ///
    /// # Cancel safety
    /// Dropped before it is sent, it is not written.
    pub async fn write(&self, work: Work, deadline: Deadline) -> Result<Done> {
        let stream = work.wanted.stream.clone();
        let turn = self.turns().entry(stream.clone()).or_default().clone();
        let late = || Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued");
        let done = match tokio::time::timeout_at(deadline.0.into(), turn.lock()).await {
            Ok(_held) => Writing::new(&self.client, &work, deadline).write().await,
            Err(_) => Err(late()),
        };
        drop(turn);
        let mut turns = self.turns();
        // Nobody else waits for it.
        if turns.get(&stream).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&stream);
        }
        done
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, HashMap<StreamId, Arc<Turn<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One append on its way.
struct Writing<'a> {
    client: &'a Client,
    work: &'a Work,
    deadline: Deadline,
    usage: Usage,
    /// Whether the stream and the store's record were read since the caller came, and nothing was found outdated since.
    stream_is_fresh: bool,
    store_is_fresh: bool,
}

enum Tried {
    Done(Box<Done>),
    /// What it rested on was read anew.
    Again,
    /// Others are at it just now.
    Contended,
}

impl<'a> Writing<'a> {
    fn new(client: &'a Client, work: &'a Work, deadline: Deadline) -> Self {
        let usage = Usage::default();
        Self { client, work, deadline, usage, stream_is_fresh: false, store_is_fresh: false }
    }

    async fn write(mut self) -> Result<Done> {
        let mut pause = CONTENDED_PAUSE;
        for _ in 0..TRIES_MAX {
            refusal::check_deadline(self.deadline)?;
            match self.attempt().await? {
                Tried::Done(done) => {
                    let Done { receipt, last, had_from } = *done;
                    return Ok(Done { receipt: Appended { usage: self.usage, ..receipt }, last, had_from });
                }
                Tried::Again => {}
                Tried::Contended => {
                    sleep(jittered(pause), self.deadline).await?;
                    pause = (pause * 2).min(CONTENDED_PAUSE_MAX);
                }
            }
        }
        Err(Error::new(ErrorKind::Throttled, "too many processes write to the stream at once"))
    }

    async fn attempt(&mut self) -> Result<Tried> {
        let (client, wanted) = (self.client, &self.work.wanted);
        let known = match client.memory().look(&wanted.stream, |known| known.cloned()) {
            Some(known) => known,
            None => self.refresh().await?,
        };
        let meta = match client.known_meta() {
            Some(meta) if !known.last.is_marked() || self.store_is_fresh => meta,
            // Whether a stream takes appends that was sealed or copied is for the record to say.
            _ => {
                self.store_is_fresh = true;
                schema::read_meta(client, self.deadline, &mut self.usage).await?
            }
        };
        let found = known.find(wanted.commit).cloned();
        let found = found.filter(|receipt| known::in_window(client, &known.last, receipt));
        let head = client.head(&known.last, &meta.meta);
        // Once, so that its place says when it was recorded.
        let now = client.now();
        let situation = Situation { meta: &meta.meta, own: client.own(), head: &head, last_position: None, now };
        let decision = match self.work.before {
            Some(before) => decide::truncate(&situation, wanted, before, found),
            None => decide::append(&situation, wanted, found),
        };
        let slot = match decision {
            Ok(Decision::Repeated(receipt)) => {
                let done = Done { receipt, last: known.last, had_from: CommitNumber(1) };
                return Ok(Tried::Done(Box::new(done)));
            }
            Ok(Decision::Write(slot)) => slot,
            Err(error) => return self.doubt(error).await,
        };
        let cut = match self.work.before {
            Some(before) => {
                find_cut(client, &wanted.stream, &known.last, before, self.deadline, &mut self.usage).await?
            }
            None => None,
        };
        let frame = new_frame(self.work, &slot, &known.last, cut).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "a truncation has no place").with("stream", &wanted.stream)
        })?;
        let frame = Frame { place: client.place(&known.last, now, frame.digest)?, ..frame };
        self.put(known, slot, frame, meta.token).await
    }

    /// A refusal, unless what it rests on has to be read first.
    async fn doubt(&mut self, error: Error) -> Result<Tried> {
        if error.kind() == ErrorKind::IdReused {
            return Err(error);
        }
        let of_store = matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Moved | ErrorKind::Schema);
        let (reads_stream, reads_store) = (!self.stream_is_fresh, of_store && !self.store_is_fresh);
        if reads_stream {
            self.refresh().await?;
        }
        if reads_store {
            self.store_is_fresh = true;
            schema::read_meta(self.client, self.deadline, &mut self.usage).await?;
        }
        if reads_stream || reads_store { Ok(Tried::Again) } else { Err(error) }
    }

    async fn refresh(&mut self) -> Result<Known> {
        self.stream_is_fresh = true;
        known::refresh(self.client, &self.work.wanted.stream, self.deadline, &mut self.usage).await
    }

    async fn put(&mut self, known: Known, slot: Slot, frame: Frame, token: u64) -> Result<Tried> {
        let (client, stream) = (self.client, &self.work.wanted.stream);
        let item = commit_item(client, stream, slot.number, &frame, &self.work.events);
        let more = beside(client, stream, slot.number, &frame.kind);
        let written = if slot.number.0 > 1 && more.is_empty() {
            client.link().put(Table::Commits, item, Condition::absent(), self.deadline, &mut self.usage).await?
        } else {
            let mut writes = vec![Write::put(Table::Commits, item, Some(Condition::absent()))];
            if slot.number.0 == 1 {
                writes.push(Write::check(Table::Names, named(META, META), Condition::counted(token)));
            }
            writes.extend(more);
            match client.link().transact(writes, self.deadline, &mut self.usage).await? {
                Transacted::Done => Written::Done,
                Transacted::Contended => Written::Contended,
                Transacted::Refused(verdicts) => {
                    if let Some(Verdict::Refused(there)) = verdicts.into_iter().next() {
                        Written::Refused(there)
                    } else {
                        // The store's record was changed.
                        self.store_is_fresh = true;
                        schema::read_meta(client, self.deadline, &mut self.usage).await?;
                        return Ok(Tried::Again);
                    }
                }
            }
        };
        match written {
            Written::Done => Ok(Tried::Done(Box::new(self.done(known, slot, &frame)))),
            Written::Contended => Ok(Tried::Contended),
            Written::Refused(there) => self.taken(known, &slot, there).await,
        }
    }

    fn done(&self, mut known: Known, slot: Slot, frame: &Frame) -> Done {
        let client = self.client;
        let last = Last::of(slot.number, frame);
        let receipt = slot.receipt(&self.work.wanted, Usage::default());
        let had_from = known.last.from;
        // A first slot was written where none was: what was read before it is all that there is.
        known.push(last.clone(), frame.receipt(slot.number), client.window());
        client.memory().learn(&self.work.wanted.stream, known);
        client.appended();
        Done { receipt, last, had_from }
    }

    /// Learns what took the slot. Where that is this very commit, an earlier try of it was carried out.
    async fn taken(&mut self, mut known: Known, slot: &Slot, there: Option<Item>) -> Result<Tried> {
        let wanted = &self.work.wanted;
        let found = there.as_ref().map(|item| frame_of(&wanted.stream, item)).transpose()?.flatten();
        if let Some((_, frame)) = found
            && frame.id == wanted.commit
            && frame.digest == wanted.digest
        {
            let (last, receipt) = (Last::of(slot.number, &frame), frame.receipt(slot.number));
            let had_from = known.last.from;
            known.push(last.clone(), receipt.clone(), self.client.window());
            self.client.memory().learn(&wanted.stream, known);
            self.client.appended();
            return Ok(Tried::Done(Box::new(Done { receipt, last, had_from })));
        }
        self.refresh().await?;
        Ok(Tried::Again)
    }
}
