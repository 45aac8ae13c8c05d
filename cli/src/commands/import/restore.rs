//! Restores an export into an empty store, bit-exact. The store is closed for appends until it is whole; a restore that
//! was cut off goes on where it ended.

use super::Imported;
use super::incoming::{Incoming, Numbered};
use crate::failure::{Failure, Result};
use crate::line::{BareLine, Body, CheckpointLine, EventLine, ExportHead, Frame, INCARNATION};
use crate::pages::Streams;
use crate::session::{Session, deadline};
use crate::walk::{Damage, Walk};
use evstore_api::chain::Chain;
use evstore_api::{
    Commit, CommitId, CommitKind, Content, Epoch, Error, ErrorKind, Event, EventStore, FeedItem, Incarnation, Meta,
    MetaSwapped, NewEvent, Origin, Position, Record, RecordKey, RecordKind, Replica, Replicate, Revision, StoreAdmin,
    StoreState, StreamId, SwapMeta, format,
};
use std::collections::HashSet;
use std::sync::Arc;

/// Items of one request.
const BATCH_ITEMS_MAX: usize = 512;
/// Bytes of one request, unless one item alone has more.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Something to restore, with the first of its lines.
struct Item {
    line: u64,
    replica: Replica,
}

/// Restores.
pub async fn run(mut incoming: Incoming, head: ExportHead, dry_run: bool, session: &mut Session) -> Result<Imported> {
    session.refuse_namespace("an export is restored whole")?;
    let mut reading = Reading::new(head);
    if dry_run {
        while reading.next(&mut incoming, Epoch(0), None).await?.is_some() {}
        reading.check_whole(&incoming)?;
        return Ok(reading.imported(&incoming));
    }
    let store = session.open_store_to_append().await?;
    let admin = session.open_admin().await?;
    let meta = match begin(&*store, &*admin).await? {
        Begin::Importing(meta) => meta,
        Begin::NotEmpty => return compare(reading, incoming, store, admin).await,
    };
    let mut batch = Batch::default();
    while let Some(item) = reading.next(&mut incoming, meta.epoch, Some(meta.incarnation())).await? {
        if batch.is_full_with(&item) {
            reading.add(batch.send(&*admin, meta.epoch, &incoming).await?);
        }
        batch.add(item);
    }
    reading.add(batch.send(&*admin, meta.epoch, &incoming).await?);
    reading.check_whole(&incoming)?;
    finish(&*admin, &meta).await?;
    Ok(reading.imported(&incoming))
}

/// What a restore can begin with.
enum Begin {
    /// An empty store, now closed, or one that an earlier restore left unfinished.
    Importing(Meta),
    /// A store with something in it.
    NotEmpty,
}

async fn begin(store: &dyn EventStore, admin: &dyn StoreAdmin) -> Result<Begin> {
    let meta = admin.read_meta(deadline()).await?;
    match &meta.state {
        StoreState::Importing { from: None } => Ok(Begin::Importing(meta)),
        StoreState::Open if !is_empty(store).await? => Ok(Begin::NotEmpty),
        StoreState::Open => {
            let closed = Meta { epoch: meta.epoch.next(), state: StoreState::Importing { from: None }, ..meta.clone() };
            swap(admin, meta, closed.clone()).await?;
            // An append may have come in between the look and the closing of the store.
            if is_empty(store).await? {
                return Ok(Begin::Importing(closed));
            }
            finish(admin, &closed).await?;
            Ok(Begin::NotEmpty)
        }
        other => Err(Error::new(ErrorKind::Fenced, "the store takes part in a move and can't be restored into")
            .with("state", other.name())
            .into()),
    }
}

async fn is_empty(store: &dyn EventStore) -> Result<bool> {
    let nothing_numbered = store.feed_head(deadline()).await?.position.is_none_or(|position| position.0 == 0);
    let first = Streams::all(store).at_most(1).next(store).await?;
    Ok(nothing_numbered && first.is_none_or(|streams| streams.is_empty()))
}

/// Opens the store again. Whoever restored the same beside us may have done so already.
async fn finish(admin: &dyn StoreAdmin, closed: &Meta) -> Result {
    let open = Meta { epoch: closed.epoch.next(), state: StoreState::Open, ..closed.clone() };
    swap(admin, closed.clone(), open).await
}

async fn swap(admin: &dyn StoreAdmin, expected: Meta, new: Meta) -> Result {
    let wanted = new.clone();
    match admin.swap_meta(SwapMeta { expected, new, deadline: deadline() }).await? {
        MetaSwapped::Done => Ok(()),
        MetaSwapped::Differs(found) if *found == wanted => Ok(()),
        MetaSwapped::Differs(found) => {
            Err(Error::new(ErrorKind::Conflict, "another command changed the store's state")
                .with("state", found.state.name())
                .into())
        }
    }
}

/// Items that go into one request.
#[derive(Default)]
struct Batch {
    items: Vec<Replica>,
    first_line: u64,
    last_line: u64,
    bytes: usize,
}

impl Batch {
    fn is_full_with(&self, item: &Item) -> bool {
        let bytes = self.bytes + bytes_of(&item.replica);
        !self.items.is_empty() && (self.items.len() >= BATCH_ITEMS_MAX || bytes > BATCH_BYTES_MAX)
    }

    fn add(&mut self, item: Item) {
        if self.items.is_empty() {
            self.first_line = item.line;
        }
        self.last_line = item.line;
        self.bytes += bytes_of(&item.replica);
        self.items.push(item.replica);
    }

    /// Sends what there is; gives how many events were there already, as far as whole requests tell.
    async fn send(&mut self, admin: &dyn StoreAdmin, epoch: Epoch, incoming: &Incoming) -> Result<u64> {
        if self.items.is_empty() {
            return Ok(0);
        }
        let batch = std::mem::take(self);
        let events: u64 = batch.items.iter().map(events_of).sum();
        let request = Replicate { epoch, origin: Origin::Restore, items: batch.items, deadline: deadline() };
        let receipt = admin.replicate(request).await.map_err(|error| {
            error
                .with("file", incoming.file())
                .with("lines", format_args!("{} to {}", batch.first_line, batch.last_line))
        })?;
        Ok(if receipt.written == 0 { events } else { 0 })
    }
}

fn bytes_of(replica: &Replica) -> usize {
    match replica {
        Replica::Commit(commit) => {
            commit.events.iter().map(|event| 64 + event.data.len() + event.metadata.len()).sum::<usize>() + 128
        }
        Replica::Removed { .. } => 32,
        Replica::Snapshot(snapshot) => snapshot.data.len() + 128,
        Replica::Record(record) => record.value.as_ref().map_or(0, bytes::Bytes::len) + 64,
    }
}

fn events_of(replica: &Replica) -> u64 {
    match replica {
        Replica::Commit(commit) => commit.events.len() as u64,
        Replica::Removed { .. } | Replica::Snapshot(_) | Replica::Record(_) => 0,
    }
}

/// An export that is being read.
struct Reading {
    head: ExportHead,
    reached: Option<Position>,
    chain: Chain,
    sealed: bool,
    streams: HashSet<StreamId>,
    events: u64,
    present: u64,
}

impl Reading {
    fn new(head: ExportHead) -> Self {
        let (reached, chain, sealed) = (None, Chain::default(), false);
        Self { head, reached, chain, sealed, streams: HashSet::new(), events: 0, present: 0 }
    }

    fn add(&mut self, present: u64) {
        self.present += present;
    }

    fn imported(&self, incoming: &Incoming) -> Imported {
        Imported {
            lines: incoming.lines(),
            events: self.events,
            added: self.events - self.present,
            present: self.present,
            streams: self.streams.len() as u64,
            restored: true,
        }
    }

    /// The next thing to restore.
    async fn next(
        &mut self,
        incoming: &mut Incoming,
        epoch: Epoch,
        incarnation: Option<Incarnation>,
    ) -> Result<Option<Item>> {
        let Some(first) = incoming.next().await? else { return Ok(None) };
        let number = first.number;
        let mut chain = first.line.chain;
        let replica = match first.line.body {
            Body::Removed { first, last } => {
                self.chain.push_removed(first, last);
                self.reached = Some(last);
                Replica::Removed { first, last }
            }
            Body::Bare(bare) => {
                let commit = bare_commit(bare);
                self.reached(&commit);
                Replica::Commit(commit)
            }
            Body::Event(event) => {
                let (commit, sealed_by) = whole_commit(event, number, incoming).await?;
                chain = chain.or(sealed_by);
                self.reached(&commit);
                Replica::Commit(commit)
            }
            Body::Snapshot(snapshot) => Replica::Snapshot(snapshot),
            Body::Checkpoint(checkpoint) => Replica::Record(record(checkpoint, epoch, incarnation)),
        };
        if let Some(chain) = chain {
            self.seal(&chain).map_err(|error| incoming.at(error, number))?;
        }
        Ok(Some(Item { line: number, replica }))
    }

    fn reached(&mut self, commit: &Commit) {
        self.chain.push(commit);
        self.reached = commit.last_position().or(self.reached);
        self.events += commit.events.len() as u64;
        if !self.streams.contains(&commit.stream) {
            self.streams.insert(commit.stream.clone());
        }
    }

    /// Compares with what the export says of itself.
    fn seal(&mut self, chain: &str) -> Result<(), Error> {
        self.sealed = true;
        if self.chain.to_string() == chain {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "the export is not what was written: its lines do not give its digest")
            .with("given", chain.chars().take(64).collect::<String>())
            .with("found", self.chain))
    }

    /// Refuses an export whose end is missing.
    fn check_whole(&self, incoming: &Incoming) -> Result {
        if self.sealed && self.head.through.is_none_or(|through| self.reached == Some(through)) {
            return Ok(());
        }
        let position = |position: Option<Position>| position.map_or("unknown".into(), |one| one.to_string());
        Err(Error::new(
            ErrorKind::Invalid,
            "the export ends too early; the store stays closed: import the whole export to go on",
        )
        .with("file", incoming.file())
        .with("lines", incoming.lines())
        .with("reached", position(self.reached))
        .with("wanted", position(self.head.through))
        .into())
    }
}

/// Takes the lines of one commit.
async fn whole_commit(first: EventLine, number: u64, incoming: &mut Incoming) -> Result<(Commit, Option<String>)> {
    let Some(frame) = first.frame else {
        let error = Error::new(ErrorKind::Invalid, "a line is not the first of a commit, as an export writes it");
        return Err(incoming.at(error, number).into());
    };
    let (Some(id), Some(revision)) = (first.commit, first.revision) else {
        let error = Error::new(ErrorKind::Invalid, "a key is missing").with("key", "commit revision");
        return Err(incoming.at(error, number).into());
    };
    let mut events = vec![Event::recorded(first.event, id, 0)];
    let mut chain = None;
    for ordinal in 1..frame.count {
        let next = incoming.next().await?;
        let (event, sealed_by) = following(next, &first.stream, id, revision.plus(u64::from(ordinal)))
            .map_err(|(error, line)| incoming.at(error, line.unwrap_or(number)))?;
        chain = chain.or(sealed_by);
        events.push(Event::recorded(event, id, ordinal));
    }
    let commit = framed(first.stream, id, revision, CommitKind::Events, Content::Kept, frame, events);
    if format::digest(&commit.stream, id, &commit.kind, &commit.events) != commit.digest {
        let error = Error::new(ErrorKind::Corrupt, "a commit is not what its digest says; its line was changed");
        return Err(incoming.at(error.with("stream", &commit.stream), number).into());
    }
    Ok((commit, chain))
}

/// The next event of a commit that has begun.
fn following(
    line: Option<Numbered>,
    stream: &StreamId,
    id: CommitId,
    revision: Revision,
) -> Result<(NewEvent, Option<String>), (Error, Option<u64>)> {
    let cut = || Error::new(ErrorKind::Invalid, "a commit ends too early: its next event is missing");
    let Some(line) = line else {
        return Err((cut().with("stream", stream).with("revision", revision), None));
    };
    match line.line.body {
        Body::Event(event)
            if event.stream == *stream && event.commit == Some(id) && event.revision == Some(revision) =>
        {
            Ok((event.event, line.line.chain))
        }
        _ => Err((cut().with("stream", stream).with("revision", revision), Some(line.number))),
    }
}

fn bare_commit(bare: BareLine) -> Commit {
    framed(bare.stream, bare.commit, bare.revision, bare.kind, bare.content, bare.frame, Vec::new())
}

fn framed(
    stream: StreamId,
    id: CommitId,
    first_revision: Revision,
    kind: CommitKind,
    content: Content,
    frame: Frame,
    events: Vec<Event>,
) -> Commit {
    Commit {
        stream,
        id,
        number: frame.number,
        kind,
        first_revision,
        count: frame.count,
        first_position: frame.position,
        recorded_at: frame.recorded_at,
        digest: frame.digest,
        imported: None,
        group: frame.group,
        extensions: frame.extensions,
        content,
        events,
    }
}

/// A checkpoint of the store that it is restored into.
fn record(line: CheckpointLine, epoch: Epoch, incarnation: Option<Incarnation>) -> Record {
    let value = match (std::str::from_utf8(&line.value), incarnation) {
        (Ok(text), Some(incarnation)) => text.replace(INCARNATION, &incarnation.to_string()).into(),
        _ => line.value,
    };
    let key = RecordKey { kind: RecordKind::Checkpoint, name: line.name };
    Record { key, number: line.number, epoch, value: Some(value), updated_at: line.updated_at }
}

/// Looks whether a store that is not empty holds exactly what the export does: then there is nothing left to do.
async fn compare(
    mut reading: Reading,
    mut incoming: Incoming,
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
) -> Result<Imported> {
    while reading.next(&mut incoming, Epoch(0), None).await?.is_some() {}
    reading.check_whole(&incoming)?;
    let mut walk = Walk::begin(store, admin, Damage::Stops).await?;
    let mut chain = Chain::default();
    if walk.through() == reading.reached {
        while let Some(items) = walk.next().await? {
            for item in &items {
                match item {
                    FeedItem::Commit(commit) => chain.push(commit),
                    FeedItem::Removed { first, last } => chain.push_removed(*first, *last),
                }
            }
        }
    }
    if chain == reading.chain {
        reading.present = reading.events;
        return Ok(reading.imported(&incoming));
    }
    Err(Failure::Store(
        Error::new(ErrorKind::Conflict, "the store is not empty, and an export is restored only into an empty one")
            .with("file", incoming.file()),
    ))
}
