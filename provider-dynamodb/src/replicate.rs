//! Copying recorded content in. The whole request is decided first, over what the tables have; then it is written in as few
//! transactions as fit, each under the condition that nobody wrote in between. What breaks off between two of them leaves a beginning
//! of the request, is answered as such, and a repeat goes on: every item that is there is recognised.

use crate::append;
use crate::codec::{self, Events, Frame, Ref};
use crate::config::Snapshots;
use crate::known::{self, Known, Last};
use crate::lane::{beside, commit_item, jittered};
use crate::link::{Condition, TRANSACTION_BYTES_MAX, TRANSACTION_ITEMS_MAX, Transacted, Write, sleep};
use crate::log::{self, Owner, Tail};
use crate::read;
use crate::record;
use crate::schema::{self, StoredMeta};
use crate::snapshot;
use crate::source::Progress;
use crate::store::Client;
use crate::tables::{META, Table, named};
use bytes::Bytes;
use evstore_api::{
    Commit, CommitKind, CommitNumber, Content, Deadline, Error, ErrorKind, Head, Position, Record, RecordKey, Replica,
    Replicate, Replicated, Result, Revision, Snapshot, StreamId, Usage,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::limits;
use evstore_kit::refusal;
use futures::future::try_join_all;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Tries of one request: each but the first met another writer.
const TRIES_MAX: u32 = 16;
/// Pause after the service said that others write the same items; a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(20);
/// Bytes that a reference to a commit takes in the log beside its stream's name.
const REF_BYTES: usize = 32;

/// Copies the items of a request.
pub async fn replicate(client: &Client, request: Replicate) -> Result<Replicated> {
    let _open = client.enter(request.deadline).await?;
    if client.index().is_some() {
        return Err(refusal::unsupported("replicate", "replication", client.capabilities().replication));
    }
    let items = prepared(client, &request)?;
    let deadline = request.deadline;
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let mut draft = Draft::load(client, &items, &request, &mut usage).await?;
        // A copy goes behind what was appended here before, and passes on how far that was read.
        if let Some(sequencer) = client.sequencer()
            && !sequencer.is_settled(draft.meta.token, draft.end)
        {
            usage = draft.usage;
            usage += sequencer.settle(client, draft.meta.token, deadline).await?;
            continue;
        }
        let decided = draft.add_all(&items).await;
        usage = draft.usage;
        let mut replicated = match decided {
            Ok(replicated) => replicated,
            // What was read is not of one moment: another copier may have been in the middle of the same.
            Err(_) if draft.has_moved(&mut usage).await? => continue,
            Err(refused) => return Err(refused),
        };
        let end = draft.end;
        let (streams, chunks) = draft.finish();
        match write(client, chunks, deadline, &mut usage).await? {
            Wrote::All => {
                if let Some(sequencer) = client.sequencer() {
                    sequencer.copied(end);
                }
            }
            Wrote::Nothing => {
                sleep(jittered(CONTENDED_PAUSE), deadline).await?;
                continue;
            }
        }
        // A chunk that only looks leaves nothing to tell.
        if replicated.written > 0 {
            client.ring();
        }
        for (stream, touched) in streams {
            finish(client, &stream, touched, deadline).await?;
        }
        replicated.usage = usage;
        return Ok(replicated);
    }
    Err(Error::new(ErrorKind::Unavailable, "others write to the store while it is copied into"))
}

enum Wrote {
    All,
    Nothing,
}

/// Writes one chunk after the other.
async fn write(client: &Client, chunks: Vec<Vec<Write>>, deadline: Deadline, usage: &mut Usage) -> Result<Wrote> {
    let partly = || Error::new(ErrorKind::Indeterminate, "a part of the request is written; repeat it");
    for (at, chunk) in chunks.into_iter().enumerate() {
        loop {
            match client.link().transact(chunk.clone(), deadline, usage).await {
                Ok(Transacted::Done) => break,
                Ok(Transacted::Contended) => match sleep(jittered(CONTENDED_PAUSE), deadline).await {
                    Err(_) if at > 0 => return Err(partly()),
                    slept => slept?,
                },
                Ok(Transacted::Refused(_)) if at == 0 => return Ok(Wrote::Nothing),
                Ok(Transacted::Refused(_)) => return Err(partly()),
                Err(error) if at == 0 => return Err(error),
                Err(error) => return Err(partly().caused_by(error)),
            }
        }
    }
    Ok(Wrote::All)
}

/// Strips what the markers of a stream take away, now that they are written.
async fn finish(client: &Client, stream: &StreamId, touched: Touched, deadline: Deadline) -> Result<()> {
    client.memory().forget(stream);
    let strip = async || {
        append::strip(client, stream, touched.had_from, touched.last.from, deadline).await?;
        if touched.last.kind == CommitKind::Deleted && client.config().snapshots == Snapshots::Interleaved {
            snapshot::remove_all(client, stream, deadline).await?;
        }
        Ok(())
    };
    let stripped: Result<()> = strip().await;
    stripped.map_err(|error| match error.kind() {
        ErrorKind::Corrupt => error,
        _ => Error::new(
            ErrorKind::Indeterminate,
            "the request is written, and what it takes away is not all gone; repeat it",
        )
        .caused_by(error),
    })
}

/// Something to copy that keeps every limit, a commit with its events as they are stored.
enum Item {
    Commit(Commit, Events),
    Removed { first: Position, last: Position },
    Snapshot(Snapshot),
    Record(Record),
}

/// What can be refused without a look at the store is refused before it.
fn prepared(client: &Client, request: &Replicate) -> Result<Vec<Item>> {
    let imported = copy::imported(request.origin, request.epoch);
    let mut items = Vec::with_capacity(request.items.len());
    for item in &request.items {
        items.push(match item {
            Replica::Commit(commit) => {
                let encoded = limits::check_copy(client.limits(), commit)?;
                let kept = commit.content == Content::Kept && !commit.kind.is_marker();
                let events = if kept { client.pack(encoded) } else { Events::default() };
                Item::Commit(Commit { imported, ..commit.clone() }, events)
            }
            Replica::Snapshot(snapshot) => {
                limits::check_snapshot(client.limits(), snapshot)?;
                Item::Snapshot(snapshot.clone())
            }
            Replica::Record(record) => {
                limits::check_record(client.limits(), record)?;
                Item::Record(record.clone())
            }
            Replica::Removed { first, last } => Item::Removed { first: *first, last: *last },
        });
    }
    Ok(items)
}

/// What a request does to a stream.
struct Touched {
    last: Last,
    /// From which slot on the stream had events before.
    had_from: CommitNumber,
}

/// What the store will be, over what it is.
struct Draft<'a> {
    client: &'a Client,
    deadline: Deadline,
    usage: Usage,
    meta: Arc<StoredMeta>,
    /// Where the log ended when the first of all this was read.
    began_at: Tail,
    end: Position,
    streams: HashMap<StreamId, StreamDraft>,
    /// The frames that stand in the slots which the request names.
    standing: HashMap<(StreamId, CommitNumber), Commit>,
    /// Ranges without content that the request adds, and stubs that it puts into such ranges.
    removed: BTreeMap<Position, Position>,
    stubs: BTreeMap<Position, Position>,
    records: HashMap<RecordKey, Record>,
    chunks: Chunks,
}

struct StreamDraft {
    last: Last,
    /// Its last slot as it was read.
    stood_at: CommitNumber,
    had_from: CommitNumber,
    /// Commits that the request adds, by their first revision: where a truncation looks first.
    added: BTreeMap<Revision, (CommitNumber, Revision)>,
    snapshot: Option<Snapshot>,
    is_changed: bool,
}

impl StreamDraft {
    /// Whether the last commit of the stream has no position yet, so that what follows it can't have one.
    fn is_unlogged(&self) -> bool {
        !self.last.is_missing() && self.last.position.is_none()
    }
}

impl<'a> Draft<'a> {
    /// Reads what the items are decided by.
    async fn load(client: &'a Client, items: &[Item], request: &Replicate, usage: &mut Usage) -> Result<Self> {
        let deadline = request.deadline;
        let (tail, meta) = place(client, deadline, usage).await?;
        copy::check_importing(&meta.meta, request.epoch, request.origin)?;
        let mut streams = HashSet::new();
        let mut slots = Vec::new();
        let mut keys = HashSet::new();
        for item in items {
            match item {
                Item::Commit(commit, _) => {
                    streams.insert(commit.stream.clone());
                    slots.push(Ref { stream: commit.stream.clone(), number: commit.number, positions: 0 });
                }
                Item::Snapshot(snapshot) => drop(streams.insert(snapshot.stream.clone())),
                Item::Record(record) => drop(keys.insert(record.key.clone())),
                Item::Removed { .. } => {}
            }
        }
        let mut draft = Self {
            client,
            deadline,
            usage: *usage,
            end: tail.end,
            streams: HashMap::new(),
            standing: HashMap::new(),
            removed: BTreeMap::new(),
            stubs: BTreeMap::new(),
            records: HashMap::new(),
            chunks: Chunks::new(
                meta.token,
                client.owner(),
                tail.progress.as_deref().map(codec::decode_progress).transpose()?,
            ),
            began_at: tail,
            meta,
        };
        draft.load_streams(items, streams).await?;
        // A service refuses the same key twice in one request.
        let mut seen = HashSet::new();
        slots.retain(|one| {
            let known = draft.streams.get(&one.stream).is_some_and(|draft| one.number <= draft.last.number);
            known && seen.insert((one.stream.clone(), one.number))
        });
        draft.standing = read::fetch(client, slots.iter(), deadline, &mut draft.usage).await?;
        for key in keys {
            let found = client.link().get(Table::Names, record::place(&key), deadline, &mut draft.usage).await?;
            if let Some(found) = found {
                let kept = record::decode(&found, key.clone())?;
                draft.records.insert(key, kept);
            }
        }
        Ok(draft)
    }

    async fn load_streams(&mut self, items: &[Item], streams: HashSet<StreamId>) -> Result<()> {
        let with_snapshot: HashSet<&StreamId> = items
            .iter()
            .filter_map(|item| match item {
                Item::Snapshot(snapshot) => Some(&snapshot.stream),
                Item::Commit(..) | Item::Removed { .. } | Item::Record(_) => None,
            })
            .collect();
        let (client, deadline) = (self.client, self.deadline);
        let reads = streams.into_iter().map(|stream| {
            let wanted = with_snapshot.contains(&stream);
            async move {
                let mut usage = Usage::default();
                let known: Known = known::refresh(client, &stream, deadline, &mut usage).await?;
                let snapshot = match wanted {
                    true => snapshot::latest(client, &stream, deadline, &mut usage).await?,
                    false => None,
                };
                let had_from = known.last.from;
                let last = known.last;
                let stood_at = last.number;
                let draft =
                    StreamDraft { last, stood_at, had_from, added: BTreeMap::new(), snapshot, is_changed: false };
                Ok::<_, Error>((stream, draft, usage))
            }
        });
        for (stream, draft, usage) in try_join_all(reads).await? {
            self.usage += usage;
            self.streams.insert(stream, draft);
        }
        Ok(())
    }

    async fn add_all(&mut self, items: &[Item]) -> Result<Replicated> {
        let mut replicated = Replicated { written: 0, present: 0, usage: Usage::default() };
        for item in items {
            match self.add(item).await? {
                Fate::Write => replicated.written += 1,
                Fate::Present => replicated.present += 1,
            }
        }
        Ok(replicated)
    }

    /// Whether somebody wrote what this is decided by since it was begun to be read.
    async fn has_moved(&self, usage: &mut Usage) -> Result<bool> {
        if place(self.client, self.deadline, usage).await?.0 != self.began_at {
            return Ok(true);
        }
        for (stream, draft) in &self.streams {
            let known = known::refresh(self.client, stream, self.deadline, usage).await?;
            if known.last.number != draft.stood_at {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn add(&mut self, item: &Item) -> Result<Fate> {
        match item {
            Item::Commit(commit, events) => self.add_commit(commit, events).await,
            Item::Removed { first, last } => self.add_removed(*first, *last).await,
            Item::Snapshot(snapshot) => self.add_snapshot(snapshot),
            Item::Record(record) => self.add_record(record),
        }
    }

    fn stream(&mut self, stream: &StreamId) -> &mut StreamDraft {
        self.streams.get_mut(stream).expect("the streams of all items were loaded")
    }

    async fn add_commit(&mut self, commit: &Commit, events: &Events) -> Result<Fate> {
        let claimed = self.claimed(commit).await?;
        let (meta, client, end) = (self.meta.clone(), self.client, self.end);
        let last = &self.stream(&commit.stream).last;
        let head: Head = client.head(last, &meta.meta);
        let found = self.standing.get(&(commit.stream.clone(), commit.number)).filter(|_| commit.number <= head.number);
        let first = match copy::commit(commit, &head, found, end, claimed)? {
            CommitFate::Present => return Ok(Fate::Present),
            CommitFate::Write { first } => first,
        };
        let mut commit = commit.clone();
        commit.first_position = Some(first);
        let (retained, from) = self.retained(&commit).await?;
        let frame = Frame::of(&commit, events, retained, from);
        let item = commit_item(self.client, &commit.stream, commit.number, &frame, events);
        let one = Ref { stream: commit.stream.clone(), number: commit.number, positions: commit.positions() };
        let last = Position(first.0 + commit.positions() - 1);
        let mut writes = vec![Write::put(Table::Commits, item, Some(Condition::absent()))];
        writes.extend(beside(self.client, &commit.stream, commit.number, &commit.kind));
        if self.client.sequencer().is_some() && self.stream(&commit.stream).is_unlogged() {
            return Err(Error::new(ErrorKind::Conflict, "the stream was appended to while it is copied into")
                .with("stream", &commit.stream));
        }
        if first > self.end {
            self.chunks.add_commit(one, first, writes);
            self.end = last;
        } else {
            let stub = log::stub(one, first, last);
            writes.push(Write::put(Table::Log, stub, Some(Condition::absent())));
            self.chunks.add(writes);
            self.stubs.insert(first, last);
        }
        let draft = self.stream(&commit.stream);
        draft.last = Last::of(commit.number, &frame);
        draft.is_changed = true;
        if commit.count > 0 {
            draft.added.insert(commit.first_revision, (commit.number, commit.last_revision()));
        }
        if commit.kind == CommitKind::Deleted {
            draft.snapshot = None;
        }
        // A later item of the same request may name it again.
        self.standing.insert((commit.stream.clone(), commit.number), Commit { events: Vec::new(), ..commit });
        Ok(Fate::Write)
    }

    /// The first event that a stream keeps behind a commit, and the slot from which on to look for it.
    async fn retained(&mut self, commit: &Commit) -> Result<(Revision, CommitNumber)> {
        let draft = self.stream(&commit.stream);
        let last = draft.last.clone();
        let behind = (Revision(commit.last_revision().0 + 1), commit.number.next());
        let found = match &commit.kind {
            CommitKind::Deleted => behind,
            // What its source stripped, it had stripped from the beginning.
            CommitKind::Events if commit.content == Content::Stripped => behind,
            CommitKind::Truncated { before } if *before > last.revision => behind,
            CommitKind::Truncated { before } if *before <= last.retained => (last.retained, last.from),
            CommitKind::Truncated { before } => {
                let added = draft.added.range(..=*before).next_back();
                match added.filter(|(_, (_, end))| end >= before) {
                    Some((first, (number, _))) => (*first, *number),
                    None => self.stands(&commit.stream, *before).await?,
                }
            }
            CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. } => (last.retained, last.from),
        };
        Ok(found.max((last.retained, last.from)))
    }

    /// Where the commit stands that holds a revision, of those that the table has.
    async fn stands(&mut self, stream: &StreamId, revision: Revision) -> Result<(Revision, CommitNumber)> {
        let last = read::last(self.client, stream, self.deadline, &mut self.usage).await?;
        read::locate(self.client, stream, &last, revision, self.deadline, &mut self.usage).await
    }

    /// What stands at the positions that a commit claims.
    async fn claimed(&mut self, commit: &Commit) -> Result<Claimed> {
        let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else {
            return Ok(Claimed::Otherwise);
        };
        if first.0 == self.end.0 + 1 {
            return Ok(Claimed::Next);
        }
        if first > self.end || !self.is_removed(first, last).await? {
            return Ok(Claimed::Otherwise);
        }
        let drafted = self.stubs.range(..=last).next_back().is_some_and(|(_, end)| *end >= first);
        let standing = log::stub_within(self.client.link(), first, last, self.deadline, &mut self.usage).await?;
        Ok(if drafted || standing.is_some() { Claimed::Otherwise } else { Claimed::Removed })
    }

    /// Whether one range without content holds these positions.
    async fn is_removed(&mut self, first: Position, last: Position) -> Result<bool> {
        if self.removed.range(..=first).next_back().is_some_and(|(_, end)| *end >= last) {
            return Ok(true);
        }
        let found = log::holding(self.client.link(), first, self.deadline, &mut self.usage).await?;
        Ok(found.is_some_and(|entry| entry.commits.is_empty() && entry.last >= last))
    }

    async fn add_removed(&mut self, first: Position, last: Position) -> Result<Fate> {
        let covered = first > self.end || last < first || self.holds_nothing(first, last.min(self.end)).await?;
        let fate = copy::removed(first, last, self.end, covered)?;
        if fate == Fate::Write {
            let begin = self.end.next();
            self.chunks.add_removed(begin, last);
            self.removed.insert(begin, last);
            self.end = last;
        }
        Ok(fate)
    }

    /// Whether a range of positions that were given has neither events nor markers any more.
    async fn holds_nothing(&mut self, first: Position, last: Position) -> Result<bool> {
        if self.chunks.has_commits_within(first, last) {
            return Ok(false);
        }
        let mut at = first;
        while at <= last {
            if let Some((_, end)) = self.removed.range(..=at).next_back().filter(|(_, end)| **end >= at) {
                at = end.next();
                continue;
            }
            let Some(entry) = log::holding(self.client.link(), at, self.deadline, &mut self.usage).await? else {
                return Ok(false);
            };
            let found = read::fetch(self.client, entry.commits.iter(), self.deadline, &mut self.usage).await?;
            let within = |commit: &&Commit| {
                commit.first_position.is_some_and(|begin| begin <= last)
                    && commit.last_position().is_some_and(|end| end >= first)
            };
            let has_content = |commit: &Commit| commit.content == Content::Kept || commit.kind.is_marker();
            if found.values().filter(within).any(has_content) {
                return Ok(false);
            }
            at = entry.last.next();
        }
        Ok(true)
    }

    fn add_snapshot(&mut self, item: &Snapshot) -> Result<Fate> {
        let (meta, client) = (self.meta.clone(), self.client);
        let draft = self.stream(&item.stream);
        let head = client.head(&draft.last, &meta.meta);
        let fate = copy::snapshot(item, draft.snapshot.as_ref(), &head)?;
        if fate == Fate::Write {
            draft.snapshot = Some(item.clone());
            let condition = Some(Condition::not_newer(item.revision.0));
            self.chunks.add(vec![Write::put(Table::Commits, snapshot::item(self.client, item), condition)]);
        }
        Ok(fate)
    }

    fn add_record(&mut self, item: &Record) -> Result<Fate> {
        let kept = self.records.get(&item.key);
        let fate = copy::record(item, kept)?;
        if fate == Fate::Write {
            let condition = match kept {
                Some(kept) => Condition::counted(kept.number.0),
                None => Condition::absent(),
            };
            self.records.insert(item.key.clone(), item.clone());
            self.chunks.add(vec![Write::put(Table::Names, record::item(item), Some(condition))]);
        }
        Ok(fate)
    }

    fn finish(self) -> (Vec<(StreamId, Touched)>, Vec<Vec<Write>>) {
        // A stream whose commits were all there is looked at too: stripping may have been broken off.
        let touched = |(stream, draft): (StreamId, StreamDraft)| {
            let had_from = if draft.is_changed { draft.had_from } else { CommitNumber(1) };
            (stream, Touched { last: draft.last, had_from })
        };
        (self.streams.into_iter().map(touched).collect(), self.chunks.finish())
    }
}

/// The end of the log and the store's record, of one moment.
async fn place(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<(Tail, Arc<StoredMeta>)> {
    loop {
        let tail = log::tail(client.link(), deadline, usage).await?;
        let meta = schema::read_meta(client, deadline, usage).await?;
        if meta.token == tail.token {
            return Ok((tail, meta));
        }
    }
}

/// Transactions in the making.
struct Chunks {
    token: u64,
    own: Owner,
    /// What the end of the log said of the sequencer, which each record passes on.
    progress: Option<Progress>,
    done: Vec<Vec<Write>>,
    writes: Vec<Write>,
    places: HashSet<(Table, String)>,
    bytes: usize,
    /// The record of the log that is open.
    run: Option<Run>,
    /// Whether the open transaction takes a place in the log, where a fence would stand in its way.
    is_fenced: bool,
    /// Where commits of the request stand.
    commits: BTreeMap<Position, Position>,
}

struct Run {
    first: Position,
    last: Position,
    commits: Vec<Ref>,
}

impl Chunks {
    fn new(token: u64, own: Owner, progress: Option<Progress>) -> Self {
        Self {
            token,
            own,
            progress,
            done: Vec::new(),
            writes: Vec::new(),
            places: HashSet::new(),
            bytes: 0,
            run: None,
            is_fenced: false,
            commits: BTreeMap::new(),
        }
    }

    /// Makes room for writes that stay together, with a record of the log and a look at the store's record beside them.
    fn make_room(&mut self, writes: &[Write], more_bytes: usize) {
        let bytes: usize = writes.iter().map(Write::bytes).sum::<usize>() + more_bytes;
        let too_many = self.writes.len() + writes.len() + 3 > TRANSACTION_ITEMS_MAX;
        // A transaction takes no item twice.
        let twice = writes.iter().any(|write| self.places.contains(&write.place()));
        if !self.writes.is_empty() && (too_many || twice || self.bytes + bytes > TRANSACTION_BYTES_MAX) {
            self.close();
        }
        self.bytes += bytes;
    }

    fn add(&mut self, writes: Vec<Write>) {
        self.make_room(&writes, 0);
        self.put(writes);
    }

    fn put(&mut self, writes: Vec<Write>) {
        self.places.extend(writes.iter().map(Write::place));
        self.writes.extend(writes);
    }

    fn add_commit(&mut self, one: Ref, first: Position, writes: Vec<Write>) {
        let name_bytes = one.stream.namespace.as_str().len() + one.stream.name.as_str().len();
        self.make_room(&writes, name_bytes + REF_BYTES);
        self.put(writes);
        let last = Position(first.0 + one.positions - 1);
        self.commits.insert(first, last);
        match &mut self.run {
            Some(run) if run.last.next() == first => {
                run.last = last;
                run.commits.push(one);
            }
            _ => {
                self.close_run();
                self.run = Some(Run { first, last, commits: vec![one] });
            }
        }
    }

    fn add_removed(&mut self, first: Position, last: Position) {
        self.close_run();
        let write = Write::put(
            Table::Log,
            log::entry(first, last, self.token, self.progress_at(last).as_ref(), &[]),
            Some(log::free(self.token, self.own, None)),
        );
        self.add(vec![write]);
        self.is_fenced = true;
    }

    /// What a record says of the sequencer: copied commits have their positions with them, so that they are settled.
    fn progress_at(&self, last: Position) -> Option<Bytes> {
        let progress = self.progress.as_ref()?;
        Some(codec::encode_progress(&Progress { settled: last, ..progress.clone() }).into())
    }

    fn has_commits_within(&self, first: Position, last: Position) -> bool {
        self.commits.range(..=last).next_back().is_some_and(|(_, end)| *end >= first)
    }

    fn close_run(&mut self) {
        if let Some(run) = self.run.take() {
            let progress = self.progress_at(run.last);
            let entry = log::entry(run.first, run.last, self.token, progress.as_ref(), &run.commits);
            self.put(vec![Write::put(Table::Log, entry, Some(log::free(self.token, self.own, None)))]);
            self.is_fenced = true;
        }
    }

    fn close(&mut self) {
        self.close_run();
        if self.writes.is_empty() {
            return;
        }
        let mut writes = std::mem::take(&mut self.writes);
        if !self.is_fenced {
            writes.push(Write::check(Table::Names, named(META, META), Condition::counted(self.token)));
        }
        self.done.push(writes);
        self.places.clear();
        self.bytes = 0;
        self.is_fenced = false;
    }

    fn finish(mut self) -> Vec<Vec<Write>> {
        self.close();
        self.done
    }
}
