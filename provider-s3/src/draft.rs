//! Deciding what waits against the state, each seeing what those before it do. The state is as before once the draft is done: what
//! was decided is applied only when it stands in the log.

use crate::store::Client;
use crate::tables::{Change, Effect, Location, SnapshotDigest, Tables};
use bytes::Bytes;
use evstore_api::{Commit, CommitKind, Content, Meta, Result, Snapshot, StreamId, Timestamp, Usage};
use evstore_kit::decide::{self, Decision, Situation, Slot, Wanted};

/// An effect and the payload that belongs to it.
#[derive(Clone, Debug)]
pub struct Drafted {
    /// What it does.
    pub effect: Effect,
    /// Its payload, where it has one.
    pub payload: Option<Bytes>,
}

/// Where a payload lies that has no place yet.
const NOWHERE: Location = Location { object: 0, offset: 0, bytes: 0 };

/// A group in the making.
#[derive(Debug)]
pub struct Draft<'a> {
    client: &'a Client,
    tables: &'a mut Tables,
    now: Timestamp,
    drafted: Vec<Drafted>,
    changes: Vec<Change>,
}

/// A point to which a draft can go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    drafted: usize,
    changes: usize,
}

/// Whatever breaks off in the middle leaves the state as it was.
impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.back_to(Mark { drafted: 0, changes: 0 });
    }
}

impl<'a> Draft<'a> {
    /// An empty one.
    pub fn new(client: &'a Client, tables: &'a mut Tables) -> Self {
        Self { now: client.now(), client, tables, drafted: Vec::new(), changes: Vec::new() }
    }

    /// The state with what was decided so far.
    pub fn tables(&self) -> &Tables {
        self.tables
    }

    /// Whose store it is.
    pub fn client(&self) -> &'a Client {
        self.client
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The store's record.
    pub fn meta(&self) -> &Meta {
        self.tables.meta()
    }

    /// Where it is now.
    pub fn mark(&self) -> Mark {
        Mark { drafted: self.drafted.len(), changes: self.changes.len() }
    }

    /// Takes back what came after a mark.
    pub fn back_to(&mut self, mark: Mark) {
        self.drafted.truncate(mark.drafted);
        for change in self.changes.drain(mark.changes..).rev() {
            self.tables.take_back(change);
        }
    }

    /// Takes everything back, and gives what was decided.
    pub fn finish(mut self) -> Vec<Drafted> {
        std::mem::take(&mut self.drafted)
    }

    /// Adds an effect.
    ///
    /// # Errors
    /// `Corrupt` for one that does not follow, which a decision never gives.
    pub fn add(&mut self, effect: Effect) -> Result<()> {
        self.put(effect, None)
    }

    /// Adds a commit with its encoded events, or without where it is stripped or a marker.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_commit(&mut self, commit: Commit, payload: Option<Bytes>) -> Result<()> {
        let at = payload.is_some().then_some(NOWHERE);
        self.put(Effect::Commit(Box::new(commit), at), payload)
    }

    /// Adds a snapshot.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_snapshot(&mut self, mut snapshot: Snapshot) -> Result<()> {
        let data = std::mem::take(&mut snapshot.data);
        let digest = SnapshotDigest::of(&data);
        self.put(Effect::Snapshot(Box::new(snapshot), digest, NOWHERE), Some(crate::codec::snapshot_payload(&data)))
    }

    fn put(&mut self, effect: Effect, payload: Option<Bytes>) -> Result<()> {
        self.drafted.push(Drafted { effect: effect.clone(), payload });
        self.changes.extend(self.tables.apply(effect)?);
        Ok(())
    }

    /// Decides something about a stream by the rules of the kit.
    ///
    /// # Errors
    /// What the rules refuse.
    pub fn decide<T>(&self, stream: &StreamId, rule: impl FnOnce(&Situation<'_>) -> Result<T>) -> Result<T> {
        let head = self.tables.head(stream, self.client.own());
        rule(&Situation {
            meta: self.meta(),
            own: self.client.own(),
            head: &head,
            last_position: Some(self.tables.last_position),
            now: self.now,
        })
    }

    /// The receipt of what stands under the id of what is wanted.
    pub fn found(&self, wanted: &Wanted) -> Option<evstore_api::Appended> {
        let found = self.tables.find(&wanted.stream, wanted.commit, self.client.window())?;
        Some(decide::repeated(&found, Usage::default()))
    }

    /// Writes what was decided; true where that is something new.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn write(
        &mut self,
        wanted: &Wanted,
        decision: Decision,
        payload: Option<&Bytes>,
    ) -> Result<(evstore_api::Appended, bool)> {
        let slot = match decision {
            Decision::Repeated(receipt) => return Ok((receipt, false)),
            Decision::Write(slot) => slot,
        };
        self.add_commit(stored(wanted, &slot), payload.cloned())?;
        Ok((slot.receipt(wanted, Usage::default()), true))
    }
}

/// The commit that was wanted, in its slot, without its events.
fn stored(wanted: &Wanted, slot: &Slot) -> Commit {
    assert!(wanted.kind != CommitKind::Events || wanted.events > 0, "a commit has events and a marker has none");
    Commit {
        stream: wanted.stream.clone(),
        id: wanted.commit,
        number: slot.number,
        kind: wanted.kind.clone(),
        first_revision: slot.first,
        count: wanted.events,
        first_position: slot.position,
        recorded_at: slot.recorded_at,
        digest: wanted.digest,
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        events: Vec::new(),
    }
}
