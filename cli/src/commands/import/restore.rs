//! Restores an export into an empty store, bit-exact. The store is closed for appends until it is whole; a restore that
//! was cut off goes on where it ended.

use super::Imported;
use super::incoming::{Incoming, Numbered};
use crate::failure::{Failure, Result};
use crate::files::Lines;
use crate::line::{BareLine, Body, CheckpointLine, EventLine, ExportHead, Frame, INCARNATION};
use crate::session::{Session, deadline};
use evstore_api::Capabilities;
use evstore_api::capabilities::{Limits, Support};
use evstore_api::chain::Chain;
use evstore_api::{
    Commit, CommitId, CommitKind, Content, Epoch, Error, ErrorKind, Event, EventStore, FeedItem, Incarnation, Meta,
    MetaSwapped, NewEvent, Origin, Position, Record, RecordKey, RecordKind, Replica, Revision, StoreAdmin, StoreState,
    StreamId, SwapMeta, format,
};
use evstore_kit::limits;
use evstore_migrate::pages::Streams;
use evstore_migrate::walk::{Damage, Walk};
use evstore_migrate::{bytes_of, events_of};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Items of one request.
const BATCH_ITEMS_MAX: usize = 4096;
/// Bytes of one request, unless one item alone has more.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Something to restore, with the first of its lines.
struct Item {
    line: u64,
    replica: Replica,
}

/// Restores. `again` is where the export can be read once more: it is then checked whole before anything is written.
pub async fn run(
    mut incoming: Incoming,
    head: ExportHead,
    again: Option<&Path>,
    dry_run: bool,
    session: &mut Session,
) -> Result<Imported> {
    session.refuse_namespace("an export is restored whole")?;
    let admin = session.open_admin().await?;
    refuse_unable(admin.capabilities())?;
    let limits = admin.capabilities().limits;
    if dry_run {
        incoming.doing("checking");
        return plan(incoming, Reading::new(head), &limits, admin, session).await;
    }
    let mut checked = None;
    if let Some(file) = again {
        incoming.doing("checking");
        checked = Some(Reading::new(head).read_whole(&mut incoming, &limits).await?);
        incoming = Incoming::start(Lines::open(file)?, incoming.into_progress());
        incoming.doing("restoring");
    }
    let store = session.open_store_to_append().await?;
    let meta = match begin(&*store, &*admin).await? {
        Begin::Importing(meta) => meta,
        Begin::NotEmpty => {
            let reading = match checked {
                Some(reading) => reading,
                None => Reading::new(head).read_whole(&mut incoming, &limits).await?,
            };
            return compare(reading, incoming.file(), store, admin).await;
        }
    };
    let restored = restore(&mut incoming, Reading::new(head), &*admin, &meta).await.map_err(cut_off)?;
    finish(&*admin, &meta, restored.sealed_in).await?;
    Ok(restored.imported())
}

async fn restore(
    incoming: &mut Incoming,
    mut reading: Reading,
    admin: &dyn StoreAdmin,
    meta: &Meta,
) -> Result<Reading> {
    let mut batch = Batch::default();
    while let Some(item) = reading.next(incoming, meta.epoch, Some(meta.incarnation())).await? {
        if batch.is_full_with(&item) {
            reading.present += batch.send(admin, meta.epoch, incoming).await?;
        }
        batch.add(item);
    }
    reading.present += batch.send(admin, meta.epoch, incoming).await?;
    reading.check_whole(incoming)?;
    Ok(reading)
}

/// A store that can't take copies must not be closed for one.
fn refuse_unable(capabilities: &Capabilities) -> Result {
    match capabilities.replication {
        Support::Promised => Ok(()),
        Support::Refused => Err(Failure::Advised {
            error: Error::new(ErrorKind::Unsupported, "no export can be restored into this store: it takes no copies")
                .with("provider", capabilities.provider),
            hint: "nothing was written; `evstore providers NAME` tells what a kind of store promises".into(),
        }),
    }
}

/// What goes wrong in the middle leaves the store closed: that has to be told, with the way on.
fn cut_off(failure: Failure) -> Failure {
    let hint = "the store stays closed with what was restored so far: import the whole export to go on. It can't be opened \
                with a part; where the export is lost, restore another one into a new store";
    match failure {
        Failure::Store(error) => Failure::Advised { error, hint: hint.into() },
        other => other,
    }
}

/// What a restore would do with a store, which may not be there yet.
async fn plan(
    mut incoming: Incoming,
    mut reading: Reading,
    limits: &Limits,
    admin: Arc<dyn StoreAdmin>,
    session: &mut Session,
) -> Result<Imported> {
    let Some(store) = session.open_store_if_there().await? else {
        return Ok(reading.read_whole(&mut incoming, limits).await?.imported());
    };
    let meta = admin.read_meta(deadline()).await?;
    refuse_state(&meta)?;
    if meta.state == StoreState::Open && !is_empty(&*store).await? {
        let reading = reading.read_whole(&mut incoming, limits).await?;
        return compare(reading, incoming.file(), store, admin).await;
    }
    // What an earlier run restored is compared when it is restored again.
    reading.there = store.feed_head(deadline()).await?.position.unwrap_or_default();
    Ok(reading.read_whole(&mut incoming, limits).await?.imported())
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
    refuse_state(&meta)?;
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
            finish(admin, &closed, Epoch(0)).await?;
            Ok(Begin::NotEmpty)
        }
        _ => Ok(Begin::NotEmpty),
    }
}

fn refuse_state(meta: &Meta) -> Result {
    match &meta.state {
        StoreState::Open | StoreState::Importing { from: None } => Ok(()),
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
///
/// What was sealed in the store that was exported is open in one that is open in a later epoch.
async fn finish(admin: &dyn StoreAdmin, closed: &Meta, sealed_in: Epoch) -> Result {
    let open = Meta { epoch: closed.epoch.max(sealed_in).next(), state: StoreState::Open, ..closed.clone() };
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
        let written =
            evstore_migrate::replicate(admin, epoch, Origin::Restore, batch.items).await.map_err(|error| {
                error
                    .with("file", incoming.file())
                    .with("lines", format_args!("{} to {}", batch.first_line, batch.last_line))
            })?;
        Ok(if written == Some(0) { events } else { 0 })
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
    /// Snapshots and checkpoints.
    beside: u64,
    left_out: u64,
    lines: u64,
    /// The place up to which a store has it, for a plan.
    there: Position,
    /// The last epoch in which one of the streams was sealed.
    sealed_in: Epoch,
}

impl Reading {
    fn new(head: ExportHead) -> Self {
        Self {
            head,
            reached: None,
            chain: Chain::default(),
            sealed: false,
            streams: HashSet::new(),
            events: 0,
            present: 0,
            beside: 0,
            left_out: 0,
            lines: 0,
            there: Position(0),
            sealed_in: Epoch(0),
        }
    }

    fn imported(&self) -> Imported {
        Imported {
            lines: self.lines,
            events: self.events,
            added: self.events - self.present,
            present: self.present,
            streams: self.streams.len() as u64,
            restored: true,
            left_out: self.left_out,
        }
    }

    /// Reads all of it and checks all that can be checked without writing.
    async fn read_whole(mut self, incoming: &mut Incoming, limits: &Limits) -> Result<Self> {
        while let Some(Item { line, replica }) = self.next(incoming, Epoch(0), None).await? {
            let fits = match &replica {
                Replica::Commit(commit) => limits::check_copy(limits, commit).map(drop),
                Replica::Snapshot(snapshot) => limits::check_snapshot(limits, snapshot),
                Replica::Record(record) => limits::check_record(limits, record),
                Replica::Removed { .. } => Ok(()),
            };
            fits.map_err(|error| incoming.at(error, line))?;
        }
        self.check_whole(incoming)?;
        Ok(self)
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
            Body::Snapshot(snapshot) => {
                self.beside += 1;
                Replica::Snapshot(snapshot)
            }
            Body::Checkpoint(checkpoint) => {
                self.beside += 1;
                Replica::Record(record(checkpoint, epoch, incarnation))
            }
            Body::Nothing => {
                self.end_line(chain, number, incoming)?;
                // It is the first line and there is one of them.
                return Box::pin(self.next(incoming, epoch, incarnation)).await;
            }
        };
        self.end_line(chain, number, incoming)?;
        Ok(Some(Item { line: number, replica }))
    }

    fn end_line(&mut self, chain: Option<String>, number: u64, incoming: &Incoming) -> Result {
        self.lines = incoming.lines();
        if let Some(chain) = chain {
            self.seal(&chain).map_err(|error| incoming.at(error, number))?;
        }
        Ok(())
    }

    fn reached(&mut self, commit: &Commit) {
        self.chain.push(commit);
        self.reached = commit.last_position().or(self.reached);
        if let CommitKind::MovedOut { epoch, .. } = &commit.kind {
            self.sealed_in = self.sealed_in.max(*epoch);
        }
        self.events += commit.events.len() as u64;
        if commit.last_position().is_some_and(|last| last <= self.there) {
            self.present += commit.events.len() as u64;
        }
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
        let reached = self.reached.unwrap_or_default();
        if self.sealed && self.head.through.is_none_or(|through| reached == through) {
            return Ok(());
        }
        let position = |position: Option<Position>| position.map_or("unknown".into(), |one| one.to_string());
        Err(Error::new(ErrorKind::Invalid, "the export ends too early: its last lines are missing")
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

/// Looks whether a store that is not empty holds what the export does, and perhaps more since: then there is nothing left to
/// do. What was truncated or deleted since is still accounted for.
async fn compare(
    mut reading: Reading,
    file: &str,
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
) -> Result<Imported> {
    let reached = reading.reached.unwrap_or_default();
    let mut walk = Walk::begin(store, admin, Damage::Stops).await?;
    let (mut chain, mut at) = (Chain::default(), Position(0));
    'walk: while at < reached {
        let Some(items) = walk.next().await? else { break };
        for item in items {
            at = match item {
                FeedItem::Commit(commit) if commit.last_position().is_some_and(|last| last <= reached) => {
                    chain.push(&commit);
                    commit.last_position().unwrap_or_default()
                }
                FeedItem::Removed { first, last } if last <= reached => {
                    chain.push_removed(first, last);
                    last
                }
                // What came later, or straddles the end and so is something else.
                FeedItem::Commit(_) | FeedItem::Removed { .. } => break 'walk,
            };
        }
    }
    if at == reached && chain == reading.chain {
        (reading.present, reading.left_out) = (reading.events, reading.beside);
        return Ok(reading.imported());
    }
    let ends_at = walk.through().map_or("none".into(), |through| through.to_string());
    Err(Failure::Advised {
        error: Error::new(ErrorKind::Conflict, "the store is not empty, and holds something else than the export")
            .with("file", file)
            .with("export_ends_at", reached)
            .with("store_ends_at", ends_at),
        hint:
            "nothing was written: an export is restored into an empty store; add one to the config and name it with -s"
                .into(),
    })
}
