//! Copying recorded content in, all of a request or nothing: what the request touches is read at once, every item is decided on
//! that, and everything is written at the end, with COPY.

use crate::codec::{self, Id, Last, ONE_REQUEST, integer};
use crate::error::{Result as Worked, corrupt};
use crate::store::Client;
use crate::transaction::Transaction;
use crate::{admin, record, snapshot};
use evstore_api::{
    Commit, CommitId, CommitKind, Content, Epoch, Error, ErrorKind, Meta, Position, Record, Replica, Replicate,
    Replicated, Result, Revision, Snapshot, StoreName, StreamId, format,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::limits;
use sqlx::query::Query;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Bytes that are handed to COPY at a time.
const COPY_CHUNK_BYTES: usize = 256 << 10;

/// Copies the items of a request.
pub async fn replicate(client: &Client, request: Replicate) -> Result<Replicated> {
    let mut events = Vec::with_capacity(request.items.len());
    for item in &request.items {
        events.push(match item {
            Replica::Commit(commit) => Some(limits::check_copy(client.limits(), commit)?),
            Replica::Snapshot(copied) => limits::check_snapshot(client.limits(), copied).map(|()| None)?,
            Replica::Record(copied) => limits::check_record(client.limits(), copied).map(|()| None)?,
            Replica::Removed { .. } => None,
        });
    }
    let replicated = client
        .write(request.deadline, async |transaction| copy_all(client, transaction, &request, events).await)
        .await?;
    client.sequencer.nudge();
    Ok(replicated)
}

async fn copy_all(
    client: &Client,
    transaction: &mut Transaction,
    request: &Replicate,
    events: Vec<Option<Vec<u8>>>,
) -> Worked<Replicated> {
    // Copies exclude each other, steps of the sequencer, and changes of the record; appends are refused by the state.
    transaction.run(|statements| &statements.share_store).await?;
    transaction.run(|statements| &statements.lock_sequencer).await?;
    transaction.run(|statements| &statements.look_up).await?;
    let meta = transaction.meta().await?;
    copy::check_importing(&meta, request.epoch, request.origin)?;
    // What was appended here before the store was fenced has its positions first.
    transaction.run(|statements| &statements.sequence).await?;
    let imported = copy::imported(request.origin, request.epoch);
    let mut draft = Draft::read(transaction, &request.items, meta, client.own().clone()).await?;
    let mut done = Replicated { written: 0, present: 0, usage: ONE_REQUEST };
    for (item, events) in request.items.iter().zip(events) {
        let fate = match item {
            Replica::Commit(commit) => draft.commit(transaction, commit, imported, events.unwrap_or_default()).await?,
            Replica::Removed { first, last } => draft.removed(transaction, *first, *last).await?,
            Replica::Snapshot(copied) => draft.snapshot(transaction, copied).await?,
            Replica::Record(copied) => copy_record(transaction, copied).await?,
        };
        match fate {
            Fate::Write => done.written += 1,
            Fate::Present => done.present += 1,
        }
    }
    draft.write(transaction).await?;
    Ok(done)
}

async fn copy_record(transaction: &mut Transaction, copied: &Record) -> Worked<Fate> {
    let kept = record::read_in(transaction, &copied.key).await?;
    let fate = copy::record(copied, kept.as_ref())?;
    if fate == Fate::Write {
        record::write(transaction, copied).await?;
    }
    Ok(fate)
}

/// A request on its way into the tables.
struct Draft {
    meta: Meta,
    own: StoreName,
    /// Streams of the request, as the items so far leave them; key 0 for one that has to be made.
    streams: HashMap<StreamId, Option<Last>>,
    /// Commits that stand in slots of the request, or were put there by an item before.
    slots: HashMap<(StreamId, u64), Commit>,
    ids: HashSet<(StreamId, CommitId)>,
    last_position: Position,
    commits: Vec<Row>,
    /// Places of the feed that are not written yet.
    removed: Vec<(Position, Position)>,
    /// What is stripped once everything is written.
    strips: BTreeMap<StreamId, Revision>,
}

/// A commit that is to be written.
struct Row {
    commit: Commit,
    position: Position,
    events: Option<Vec<u8>>,
}

impl Draft {
    async fn read(transaction: &mut Transaction, items: &[Replica], meta: Meta, own: StoreName) -> Worked<Self> {
        let last = transaction.statements().last_position.query();
        let row = transaction.row(last).await?.ok_or_else(|| corrupt("the sequencer's state is missing"))?;
        let mut draft = Self {
            meta,
            own,
            streams: HashMap::new(),
            slots: HashMap::new(),
            ids: HashSet::new(),
            last_position: Position(codec::number(&row, 0)?),
            commits: Vec::new(),
            removed: Vec::new(),
            strips: BTreeMap::new(),
        };
        draft.read_streams(transaction, items).await?;
        draft.read_slots(transaction, items).await?;
        Ok(draft)
    }

    async fn read_streams(&mut self, transaction: &mut Transaction, items: &[Replica]) -> Worked<()> {
        let stream = |item: &Replica| match item {
            Replica::Commit(commit) => Some(commit.stream.clone()),
            Replica::Snapshot(snapshot) => Some(snapshot.stream.clone()),
            Replica::Removed { .. } | Replica::Record(_) => None,
        };
        let streams: Vec<StreamId> = items.iter().filter_map(stream).collect::<BTreeSet<_>>().into_iter().collect();
        let select = transaction
            .statements()
            .heads
            .query()
            .bind(streams.iter().map(|stream| stream.namespace.as_str().to_owned()).collect::<Vec<_>>())
            .bind(streams.iter().map(|stream| stream.name.as_str().to_owned()).collect::<Vec<_>>());
        let rows = transaction.rows(select).await?;
        for (stream, row) in streams.into_iter().zip(&rows) {
            self.streams.insert(stream, codec::last(row, 0)?);
        }
        Ok(())
    }

    /// Reads what stands in the slots of the request, and which of its ids are taken.
    async fn read_slots(&mut self, transaction: &mut Transaction, items: &[Replica]) -> Worked<()> {
        let mut asked: Vec<(i64, &Commit)> = Vec::new();
        for item in items {
            let Replica::Commit(commit) = item else { continue };
            if let Some(Some(last)) = self.streams.get(&commit.stream) {
                asked.push((last.key, commit));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let keys = || asked.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        let statements = transaction.statements();
        let slots = statements
            .slots_of
            .query()
            .bind(keys())
            .bind(asked.iter().map(|(_, commit)| integer(commit.first_revision.0)).collect::<Vec<_>>())
            .bind(asked.iter().map(|(_, commit)| integer(commit.number.0)).collect::<Vec<_>>());
        for row in transaction.rows(slots).await? {
            let commit = asked_for(&asked, codec::number(&row, 12)?)?;
            let frame = codec::frame(&row, 0, commit.stream.clone())?;
            self.slots.insert((commit.stream.clone(), frame.number.0), frame);
        }
        let ids = statements
            .ids_of
            .query()
            .bind(keys())
            .bind(asked.iter().map(|(_, commit)| Id(commit.id.0)).collect::<Vec<_>>());
        for row in transaction.rows(ids).await? {
            let commit = asked_for(&asked, codec::number(&row, 0)?)?;
            self.ids.insert((commit.stream.clone(), commit.id));
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        transaction: &mut Transaction,
        commit: &Commit,
        imported: Option<Epoch>,
        events: Vec<u8>,
    ) -> Worked<Fate> {
        let last = self.streams.get(&commit.stream).cloned().flatten();
        let head = codec::head_of(last.as_ref(), &self.meta, &self.own);
        let claimed = self.claimed(transaction, commit).await?;
        let standing = self.slots.get(&(commit.stream.clone(), commit.number.0));
        let position = match copy::commit(commit, &head, standing, self.last_position, claimed)? {
            CommitFate::Present => return Ok(Fate::Present),
            CommitFate::Write { first } => first,
        };
        if !self.ids.insert((commit.stream.clone(), commit.id)) {
            let error = Error::new(ErrorKind::Conflict, "another slot of the stream has the commit's id");
            let error = error.with("stream", &commit.stream).with("number", commit.number);
            return Err(error.of_commit(commit.id).into());
        }
        if position > self.last_position {
            self.last_position = self.last_position.plus(commit.positions());
        }
        self.note(transaction, commit, imported).await?;
        let frame = Commit { imported, first_position: Some(position), ..commit.frame() };
        self.slots.insert((commit.stream.clone(), commit.number.0), frame.clone());
        let has_events = commit.content == Content::Kept && !commit.kind.is_marker();
        self.commits.push(Row { commit: frame, position, events: has_events.then_some(events) });
        Ok(Fate::Write)
    }

    /// The stream after a copied commit, with what the commit takes away from it.
    async fn note(&mut self, transaction: &mut Transaction, commit: &Commit, imported: Option<Epoch>) -> Worked<()> {
        let entry = self.streams.entry(commit.stream.clone()).or_insert(None);
        let key = entry.as_ref().map_or(0, |last| last.key);
        *entry = Some(Last {
            key,
            first_retained: entry.as_ref().map_or(Revision(1), |last| last.first_retained),
            revision: commit.last_revision(),
            number: commit.number,
            recorded_at: commit.recorded_at,
            id: commit.id,
            kind: commit.kind.clone(),
            imported,
        });
        let before = match (&commit.kind, commit.content) {
            (CommitKind::Truncated { before }, _) => *before,
            (CommitKind::Deleted, _) => {
                if key != 0 {
                    snapshot::delete_of(transaction, key).await?;
                }
                commit.first_revision
            }
            // What its source stripped, it had stripped from the beginning.
            (CommitKind::Events, Content::Stripped) => commit.last_revision().next(),
            (CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. }, _) => return Ok(()),
        };
        let noted = self.strips.entry(commit.stream.clone()).or_insert(before);
        *noted = before.max(*noted);
        Ok(())
    }

    /// What stands at the positions that a copied commit claims.
    async fn claimed(&mut self, transaction: &mut Transaction, commit: &Commit) -> Worked<Claimed> {
        let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else {
            return Ok(Claimed::Next);
        };
        if first.0 == self.last_position.0 + 1 {
            return Ok(Claimed::Next);
        }
        self.flush(transaction).await?;
        let select = transaction.statements().in_removed.query();
        let row = transaction.row(select.bind(integer(first.0)).bind(integer(last.0))).await?;
        let free = row.map_or(Ok(false), |row| codec::get(&row, 0))?;
        Ok(if free { Claimed::Removed } else { Claimed::Otherwise })
    }

    async fn removed(&mut self, transaction: &mut Transaction, first: Position, last: Position) -> Worked<Fate> {
        let end = self.last_position;
        let covered = first > end || !self.holds(transaction, first, last.min(end)).await?;
        let fate = copy::removed(first, last, end, covered)?;
        if fate == Fate::Write {
            self.removed.push((end.next(), last));
            self.last_position = last;
        }
        Ok(fate)
    }

    /// Whether positions that were given hold events or markers.
    async fn holds(&mut self, transaction: &mut Transaction, first: Position, last: Position) -> Worked<bool> {
        self.flush(transaction).await?;
        let bounded = |position: Position| integer(position.0.min(evstore_api::number::NUMBER_MAX));
        let select = transaction.statements().holds.query().bind(bounded(first)).bind(bounded(last));
        let row = transaction.row(select).await?;
        row.map_or(Ok(false), |row| codec::get(&row, 0))
    }

    async fn snapshot(&mut self, transaction: &mut Transaction, copied: &Snapshot) -> Worked<Fate> {
        self.flush(transaction).await?;
        let Some(Some(last)) = self.streams.get(&copied.stream) else {
            let error = Error::new(ErrorKind::Conflict, "the stream of a snapshot is not here");
            return Err(error.with("stream", &copied.stream).into());
        };
        let head = last.head(&self.meta, &self.own);
        let select = transaction
            .statements()
            .read_snapshot
            .query()
            .bind(copied.stream.namespace.as_str().to_owned())
            .bind(copied.stream.name.as_str().to_owned());
        let kept = match transaction.row(select).await? {
            Some(row) => Some(codec::snapshot(&row, copied.stream.clone())?),
            None => None,
        };
        let fate = copy::snapshot(copied, kept.as_ref(), &head)?;
        if fate == Fate::Write {
            snapshot::write(transaction, last.key, copied).await?;
        }
        Ok(fate)
    }

    /// Writes what is decided so far, so that statements see it.
    async fn flush(&mut self, transaction: &mut Transaction) -> Worked<()> {
        let rows = std::mem::take(&mut self.commits);
        if !rows.is_empty() {
            self.make_streams(transaction, &rows).await?;
            self.write_commits(transaction, &rows).await?;
        }
        for (first, last) in std::mem::take(&mut self.removed) {
            let insert = transaction.statements().put_removed.query();
            transaction.execute(insert.bind(integer(first.0)).bind(integer(last.0))).await?;
        }
        Ok(())
    }

    async fn write(mut self, transaction: &mut Transaction) -> Worked<()> {
        self.flush(transaction).await?;
        for (stream, before) in std::mem::take(&mut self.strips) {
            if let Some(Some(last)) = self.streams.get(&stream) {
                admin::strip(transaction, last.key, before, last.revision).await?;
            }
        }
        let update = transaction.statements().put_last_position.query().bind(integer(self.last_position.0));
        transaction.execute(update).await.map(drop)
    }

    async fn make_streams(&mut self, transaction: &mut Transaction, rows: &[Row]) -> Worked<()> {
        let is_new = |stream: &StreamId| matches!(self.streams.get(stream), Some(Some(last)) if last.key == 0);
        let new: Vec<&StreamId> = rows
            .iter()
            .map(|row| &row.commit.stream)
            .filter(|stream| is_new(stream))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let insert = transaction
            .statements()
            .make_streams
            .query()
            .bind(new.iter().map(|stream| stream.namespace.as_str().to_owned()).collect::<Vec<_>>())
            .bind(new.iter().map(|stream| stream.name.as_str().to_owned()).collect::<Vec<_>>())
            .bind(new.iter().map(|stream| stream.name.category().as_str().to_owned()).collect::<Vec<_>>());
        for row in transaction.rows(insert).await? {
            let key = codec::get(&row, 0)?;
            if let Some(Some(last)) = self.streams.get_mut(&codec::stream_id(&row, 1)?) {
                last.key = key;
            }
        }
        Ok(())
    }

    async fn write_commits(&self, transaction: &mut Transaction, rows: &[Row]) -> Worked<()> {
        let take = transaction.statements().take_order.query();
        let row = transaction.row(take).await?.ok_or_else(|| corrupt("the order of commits has no number"))?;
        let order: i64 = codec::get(&row, 0)?;
        let mut places: [Vec<i64>; 5] = Default::default();
        let sql = transaction.statements().copy_commits.sql();
        let mut copy = transaction.connection().copy_in_raw(sql).await?;
        let mut packed = Packed::new();
        for row in rows {
            let Some(Some(last)) = self.streams.get(&row.commit.stream) else { continue };
            packed.commit(last.key, order, row);
            let Row { commit, position, .. } = row;
            let place = [position.0, commit.first_revision.0, commit.number.0, commit.positions()].map(integer);
            for (column, number) in places.iter_mut().zip([place[0], last.key, place[1], place[2], place[3]]) {
                column.push(number);
            }
            // The server works on what it has while the rest is packed.
            if packed.0.len() >= COPY_CHUNK_BYTES {
                copy.send(std::mem::take(&mut packed.0)).await?;
            }
        }
        copy.send(packed.finish()).await?;
        copy.finish().await?;
        let place = transaction.statements().place_copies.query();
        transaction.execute(places.into_iter().fold(place, Query::bind)).await.map(drop)
    }
}

fn asked_for<'a>(asked: &[(i64, &'a Commit)], ordinal: u64) -> Worked<&'a Commit> {
    let found = usize::try_from(ordinal).ok().and_then(|ordinal| asked.get(ordinal.checked_sub(1)?));
    found.map(|(_, commit)| *commit).ok_or_else(|| corrupt("the server answered for nothing that was asked").into())
}

/// Rows in the binary form of COPY: <https://www.postgresql.org/docs/18/sql-copy.html>, 2026-11-20.
struct Packed(Vec<u8>);

impl Packed {
    fn new() -> Self {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend((-1_i16).to_be_bytes());
        self.0
    }

    fn commit(&mut self, key: i64, order: i64, row: &Row) {
        let commit = &row.commit;
        let (kind, marker) = codec::kind_columns(&commit.kind);
        let extensions = (!commit.extensions.is_empty()).then(|| format::encode_extensions(&commit.extensions));
        self.row(14);
        for number in [key, integer(commit.number.0), integer(commit.first_revision.0), commit.recorded_at.0, order] {
            self.field(Some(&number.to_be_bytes()));
        }
        self.field(Some(&i64::from(commit.count).to_be_bytes()));
        self.field(Some(&kind.to_be_bytes()));
        self.field(Some(&commit.id.0));
        self.field(Some(&commit.digest.0));
        self.field(commit.imported.map(|epoch| integer(epoch.0).to_be_bytes()).as_ref().map(|bytes| &bytes[..]));
        self.field(commit.group.as_ref().map(|group| &group.0[..]));
        self.field(marker.as_deref());
        self.field(extensions.as_deref());
        self.field(row.events.as_deref());
    }

    fn row(&mut self, fields: i16) {
        self.0.extend(fields.to_be_bytes());
    }

    fn field(&mut self, value: Option<&[u8]>) {
        match value {
            // A field of Postgres ends at 1 GiB, and the limits end before that.
            Some(value) => {
                self.0.extend((value.len() as i32).to_be_bytes());
                self.0.extend_from_slice(value);
            }
            None => self.0.extend((-1_i32).to_be_bytes()),
        }
    }
}
