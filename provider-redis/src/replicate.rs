//! Copying recorded content in, all of a request or nothing: decided here over what the server has, then written by one
//! script that begins only if none of that has changed.

use crate::append;
use crate::codec::{self, HEAD, Place, SNAPSHOT, StoredHead};
use crate::error::corrupt;
use crate::keyspace::member;
use crate::link::Step;
use crate::read;
use crate::schema::{Known, command};
use crate::script::{self, Call};
use crate::server::text;
use crate::store::{Client, array, bytes_of, number};
use bytes::Bytes;
use evstore_api::{
    Commit, CommitKind, CommitNumber, Content, Error, ErrorKind, Head, Position, Record, RecordKey, RecordKind,
    Replica, Replicate, Replicated, Result, Revision, Snapshot, StreamId, Usage,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::{limits, refusal};
use redis::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Tries of one request: each but the first met another writer.
const TRIES_MAX: u32 = 16;
/// Most bytes of one request: one script takes them all.
const REQUEST_BYTES_MAX: usize = 256 << 20;

/// The keys of the script, by their numbers there; streams come behind them.
const META: usize = 1;
const FEED: usize = 2;
const STREAMS: usize = 3;
const RECORDS: usize = 4;
const NAMES: usize = 5;

/// Copies the items of a request.
pub async fn replicate(client: &Client, request: Replicate) -> Result<Replicated> {
    let _open = client.enter(request.deadline).await?;
    if client.keys().partitions() > 1 {
        return Err(refusal::unsupported("replicate", "replication", client.capabilities().replication));
    }
    let items = prepared(client, &request)?;
    let mut requests = 0;
    for _ in 0..TRIES_MAX {
        let mut draft = Draft::load(client, &items, &request).await?;
        requests += 2;
        copy::check_importing(&draft.known.meta, request.epoch, request.origin)?;
        let mut replicated = Replicated { written: 0, present: 0, usage: Usage::default() };
        for item in &items {
            match draft.add(item)? {
                Fate::Write => replicated.written += 1,
                Fate::Present => replicated.present += 1,
            }
        }
        replicated.usage.requests = requests + 1;
        if replicated.written == 0 {
            return Ok(replicated);
        }
        if client.write(0, draft.changes(), request.deadline).await? == Value::Int(1) {
            client.ring();
            for stream in draft.streams.iter().filter(|stream| stream.strip.is_some()) {
                append::cut(client, &stream.stream, request.deadline).await?;
            }
            return Ok(replicated);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "others write to the store while it is copied into"))
}

/// Something to copy that keeps every limit, a commit with its events encoded.
enum Item {
    Commit(Commit, Vec<u8>),
    Removed { first: Position, last: Position },
    Snapshot(Snapshot),
    Record(Record),
}

/// What can be refused without a look at the store is refused before it.
fn prepared(client: &Client, request: &Replicate) -> Result<Vec<Item>> {
    let imported = copy::imported(request.origin, request.epoch);
    let mut bytes = 0;
    let mut items = Vec::with_capacity(request.items.len());
    for item in &request.items {
        items.push(match item {
            Replica::Commit(commit) => {
                let encoded = limits::check_copy(client.limits(), commit)?;
                bytes += encoded.len();
                Item::Commit(Commit { imported, ..commit.clone() }, encoded)
            }
            Replica::Snapshot(snapshot) => {
                limits::check_snapshot(client.limits(), snapshot)?;
                bytes += snapshot.data.len();
                Item::Snapshot(snapshot.clone())
            }
            Replica::Record(record) => {
                limits::check_record(client.limits(), record)?;
                Item::Record(record.clone())
            }
            Replica::Removed { first, last } => Item::Removed { first: *first, last: *last },
        });
    }
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a request to copy is too large; split it")
            .with("bytes", bytes)
            .with("bytes_max", REQUEST_BYTES_MAX));
    }
    Ok(items)
}

/// What the store will be, over what it is.
struct Draft<'a> {
    client: &'a Client,
    known: Arc<Known>,
    position: Position,
    last: Position,
    /// The streams that are touched, in the order of their keys in the script.
    streams: Vec<StreamDraft>,
    numbered: HashMap<StreamId, usize>,
    /// The places that are touched: as they are, and as they will be.
    standing: BTreeMap<Position, Place>,
    places: BTreeMap<Position, Place>,
    /// Commits that stand stripped where a range is said to be without content.
    stubs: HashSet<(StreamId, CommitNumber)>,
    records: HashMap<RecordKey, RecordDraft>,
}

struct StreamDraft {
    stream: StreamId,
    stored: Option<Vec<u8>>,
    head: Option<StoredHead>,
    /// Commits that stand there or are to be written, as far as they are looked at.
    commits: BTreeMap<CommitNumber, Commit>,
    written: Vec<(CommitNumber, Vec<u8>)>,
    strip: Option<Revision>,
    stored_snapshot: Option<Vec<u8>>,
    snapshot: Option<Snapshot>,
    snapshot_changed: bool,
}

struct RecordDraft {
    stored: Option<Vec<u8>>,
    record: Option<Record>,
    changed: bool,
}

impl<'a> Draft<'a> {
    /// Reads what the items are decided by.
    async fn load(client: &'a Client, items: &[Item], request: &Replicate) -> Result<Self> {
        let keys = client.keys();
        let mut numbered: HashMap<StreamId, usize> = HashMap::new();
        let mut steps = vec![Step::Command(command("HMGET", keys.meta(0), &["record", "position"]))];
        let mut streams: Vec<StreamDraft> = Vec::new();
        for item in items {
            let stream = match item {
                Item::Commit(commit, _) => &commit.stream,
                Item::Snapshot(snapshot) => &snapshot.stream,
                Item::Removed { .. } | Item::Record(_) => continue,
            };
            if !numbered.contains_key(stream) {
                numbered.insert(stream.clone(), streams.len());
                streams.push(StreamDraft::new(stream));
                steps.push(Step::Command(command("HMGET", keys.stream(stream), &[HEAD, SNAPSHOT])));
            }
        }
        for item in items {
            match item {
                Item::Commit(commit, _) => {
                    let slot = commit.number.to_string();
                    steps.push(Step::Command(command("HGET", keys.stream(&commit.stream), &[&slot])));
                    steps.push(holding(client, commit.first_position.unwrap_or(Position(0))));
                }
                Item::Removed { first, last } => {
                    let mut range = redis::cmd("ZRANGEBYSCORE");
                    range.arg(keys.feed(0)).arg(first.0).arg(last.0).arg("WITHSCORES");
                    steps.push(holding(client, *first));
                    steps.push(Step::Command(range));
                }
                Item::Record(record) => {
                    let name = record.key.name.as_str();
                    steps.push(Step::Command(command("HGET", keys.records(record.key.kind), &[name])));
                }
                Item::Snapshot(_) => {}
            }
        }
        let answers = client.read_all(0, &steps, request.deadline).await?;
        let mut answers = answers.into_iter();
        let meta = answers.next().map_or_else(Vec::new, array);
        let known = client.record(meta.first().and_then(bytes_of))?;
        let position = Position(number(meta.get(1))?);
        for stream in &mut streams {
            stream.found(&answers.next().map_or_else(Vec::new, array))?;
        }
        let mut draft = Self {
            client,
            known,
            position,
            last: position,
            streams,
            numbered,
            standing: BTreeMap::new(),
            places: BTreeMap::new(),
            stubs: HashSet::new(),
            records: HashMap::new(),
        };
        draft.take(items, answers)?;
        draft.load_claimed(items, request).await?;
        Ok(draft)
    }

    fn take(&mut self, items: &[Item], mut answers: impl Iterator<Item = Value>) -> Result<()> {
        for item in items {
            match item {
                Item::Commit(commit, _) => {
                    if let Some(Value::BulkString(stored)) = answers.next() {
                        let found = codec::decode_commit(&Bytes::from(stored), &commit.stream)?;
                        self.stream(&commit.stream).commits.insert(found.number, found);
                    }
                    self.stand(answers.next())?;
                }
                Item::Removed { .. } => {
                    self.stand(answers.next())?;
                    self.stand(answers.next())?;
                }
                Item::Record(record) => {
                    let stored = answers.next().as_ref().and_then(bytes_of).map(<[u8]>::to_vec);
                    let decode =
                        |stored: &Vec<u8>| codec::decode_record(&Bytes::copy_from_slice(stored), record.key.clone());
                    let kept = stored.as_ref().map(decode).transpose()?;
                    self.records.insert(record.key.clone(), RecordDraft { stored, record: kept, changed: false });
                }
                Item::Snapshot(_) => {}
            }
        }
        self.places = self.standing.clone();
        Ok(())
    }

    fn stand(&mut self, answer: Option<Value>) -> Result<()> {
        for pair in answer.map_or_else(Vec::new, array).chunks_exact(2) {
            let place = Place::parse(bytes_of(&pair[0]).unwrap_or_default(), &text(&pair[1]).unwrap_or_default())?;
            self.standing.insert(place.first, place);
        }
        Ok(())
    }

    /// The commits inside ranges that are said to be without content.
    async fn load_claimed(&mut self, items: &[Item], request: &Replicate) -> Result<()> {
        let claimed = |place: &Place| {
            items.iter().any(|item| match item {
                Item::Removed { first, last } => place.first <= *last && place.last >= *first,
                Item::Commit(..) | Item::Snapshot(_) | Item::Record(_) => false,
            })
        };
        let slots: Vec<_> =
            self.standing.values().filter(|place| claimed(place)).filter_map(|place| place.commit.clone()).collect();
        let found = read::fetch(self.client, 0, slots, read::Cutting::Perhaps, request.deadline).await?;
        let stubs = found.into_iter().filter(read::is_stub);
        self.stubs.extend(stubs.map(|commit| (commit.stream, commit.number)));
        Ok(())
    }

    /// A stream that an item is about: all of those were loaded.
    fn stream(&mut self, stream: &StreamId) -> &mut StreamDraft {
        let at = self.numbered.get(stream).expect("the streams of all items were loaded");
        &mut self.streams[*at]
    }

    fn add(&mut self, item: &Item) -> Result<Fate> {
        match item {
            Item::Commit(commit, encoded) => self.add_commit(commit, encoded),
            Item::Removed { first, last } => self.add_removed(*first, *last),
            Item::Snapshot(snapshot) => self.add_snapshot(snapshot),
            Item::Record(record) => self.add_record(record),
        }
    }

    fn add_commit(&mut self, commit: &Commit, encoded: &[u8]) -> Result<Fate> {
        let (claimed, last) = (self.claimed(commit), self.last);
        let (known, own) = (self.known.clone(), self.client.own().clone());
        let draft = self.stream(&commit.stream);
        let head = draft.head.as_ref().map_or_else(Head::missing, |head| head.head(&known.meta, &own));
        let found = draft.commits.get(&commit.number).filter(|_| commit.number <= head.number);
        let first = match copy::commit(commit, &head, found, last, claimed)? {
            CommitFate::Present => return Ok(Fate::Present),
            CommitFate::Write { first } => first,
        };
        let mut commit = commit.clone();
        commit.first_position = Some(first);
        let stored = codec::commit(&commit, first, encoded);
        let bytes = stored.len();
        draft.push(&commit, stored);
        self.place(&commit, first, bytes);
        Ok(Fate::Write)
    }

    fn claimed(&self, commit: &Commit) -> Claimed {
        let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else {
            return Claimed::Otherwise;
        };
        if first.0 == self.last.0 + 1 {
            return Claimed::Next;
        }
        match self.places.range(..=first).next_back() {
            Some((_, place)) if place.commit.is_none() && last <= place.last => Claimed::Removed,
            _ => Claimed::Otherwise,
        }
    }

    /// Gives a commit its place: at the end of the feed, or cut out of a range that was removed.
    fn place(&mut self, commit: &Commit, first: Position, bytes: usize) {
        let last = first.plus(commit.positions() - 1);
        if first <= self.last {
            let range = self.places.range(..=first).next_back().map(|(start, place)| (*start, place.last));
            let (start, end) = range.expect("a commit that is not at the end was found inside a range");
            if start < first {
                self.set(Place { first: start, last: Position(first.0 - 1), commit: None, bytes: 0 });
            }
            if last < end {
                self.set(Place { first: last.next(), last: end, commit: None, bytes: 0 });
            }
        } else {
            self.last = last;
        }
        self.set(Place { first, last, commit: Some((commit.stream.clone(), commit.number)), bytes });
    }

    fn set(&mut self, place: Place) {
        self.places.insert(place.first, place);
    }

    fn add_removed(&mut self, first: Position, last: Position) -> Result<Fate> {
        let fate = copy::removed(first, last, self.last, self.is_covered(first, last))?;
        if fate == Fate::Write {
            self.set(Place { first: self.last.next(), last, commit: None, bytes: 0 });
            self.last = last;
        }
        Ok(fate)
    }

    /// Whether nothing has content of what a range claims and the feed has given already.
    fn is_covered(&self, first: Position, last: Position) -> bool {
        let given = last.min(self.last);
        let mut claimed = self.places.values().filter(|place| place.first <= given && place.last >= first);
        claimed.all(|place| match &place.commit {
            None => true,
            Some(slot @ (stream, number)) => {
                let draft = self.numbered.get(stream).map(|at| &self.streams[*at]);
                self.stubs.contains(slot)
                    || draft.and_then(|draft| draft.commits.get(number)).is_some_and(read::is_stub)
            }
        })
    }

    fn add_snapshot(&mut self, snapshot: &Snapshot) -> Result<Fate> {
        let (known, own) = (self.known.clone(), self.client.own().clone());
        let draft = self.stream(&snapshot.stream);
        let head = draft.head.as_ref().map_or_else(Head::missing, |head| head.head(&known.meta, &own));
        let fate = copy::snapshot(snapshot, draft.snapshot.as_ref(), &head)?;
        if fate == Fate::Write {
            draft.snapshot = Some(snapshot.clone());
            draft.snapshot_changed = true;
        }
        Ok(fate)
    }

    fn add_record(&mut self, record: &Record) -> Result<Fate> {
        let kept = self.records.get_mut(&record.key).ok_or_else(|| corrupt("a record was not looked at"))?;
        let fate = copy::record(record, kept.record.as_ref())?;
        if fate == Fate::Write {
            kept.record = Some(record.clone());
            kept.changed = true;
        }
        Ok(fate)
    }

    /// The script with everything that it needs.
    fn changes(&self) -> Call<'a> {
        let keys = self.client.keys();
        // Presence is refused before: all records are checkpoints.
        let kind = RecordKind::Checkpoint;
        let mut call = self.client.call(script::CHANGE).key(keys.meta(0)).key(keys.feed(0)).key(keys.streams(0));
        call = call.key(keys.records(kind)).key(keys.record_names(kind));
        for draft in &self.streams {
            call = call.key(keys.stream(&draft.stream));
        }
        let mut script = Script { call, guards: Vec::new(), changes: Vec::new() };
        script.guard(META, "token", Some(self.known.token.as_bytes()));
        script.guard(META, "position", Some(self.position.to_string().as_bytes()));
        script.set(META, "position", self.last.to_string().as_bytes());
        for (draft, key) in self.streams.iter().zip(NAMES + 1..) {
            draft.write(&mut script, key);
        }
        for (first, place) in &self.standing {
            if self.places.get(first) != Some(place) {
                script.change("unplace", FEED, [place.member()]);
            }
        }
        for (first, place) in &self.places {
            if self.standing.get(first) != Some(place) {
                script.change("place", FEED, [first.to_string().into_bytes(), place.member()]);
            }
        }
        for (key, draft) in &self.records {
            draft.write(&mut script, key);
        }
        for (draft, key) in self.streams.iter().zip(NAMES + 1..) {
            if let Some(before) = draft.strip {
                script.change("strip", key, [before.to_string().into_bytes()]);
            }
        }
        script.finish()
    }
}

fn holding(client: &Client, position: Position) -> Step<'static> {
    let mut asked = redis::cmd("ZREVRANGEBYSCORE");
    asked.arg(client.keys().feed(0)).arg(position.0).arg("-inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(1);
    Step::Command(asked)
}

impl StreamDraft {
    fn new(stream: &StreamId) -> Self {
        Self {
            stream: stream.clone(),
            stored: None,
            head: None,
            commits: BTreeMap::new(),
            written: Vec::new(),
            strip: None,
            stored_snapshot: None,
            snapshot: None,
            snapshot_changed: false,
        }
    }

    fn found(&mut self, fields: &[Value]) -> Result<()> {
        self.stored = fields.first().and_then(bytes_of).map(<[u8]>::to_vec);
        self.head = self.stored.as_deref().map(StoredHead::parse).transpose()?;
        self.stored_snapshot = fields.get(1).and_then(bytes_of).map(<[u8]>::to_vec);
        let decode = |stored: &Vec<u8>| codec::decode_snapshot(&Bytes::copy_from_slice(stored), &self.stream);
        self.snapshot = self.stored_snapshot.as_ref().map(decode).transpose()?;
        Ok(())
    }

    fn push(&mut self, commit: &Commit, stored: Vec<u8>) {
        let (retained, from) =
            self.head.as_ref().map_or((Revision(1), CommitNumber(1)), |head| (head.retained, head.from));
        self.head = Some(StoredHead {
            number: commit.number,
            revision: commit.last_revision(),
            retained,
            from,
            recorded_at: commit.recorded_at,
            kind: commit.kind.clone(),
            imported: commit.imported,
            commit: commit.id,
        });
        self.note_strip(commit);
        self.written.push((commit.number, stored));
        self.commits.insert(commit.number, commit.clone());
    }

    /// What a marker takes away, and what the source of a stripped commit had taken away.
    fn note_strip(&mut self, commit: &Commit) {
        let before = match (&commit.kind, commit.content) {
            (CommitKind::Truncated { before }, _) => *before,
            (CommitKind::Deleted, _) => {
                self.snapshot_changed |= self.snapshot.take().is_some() || self.stored_snapshot.is_some();
                commit.first_revision
            }
            (CommitKind::Events, Content::Stripped) => commit.last_revision().next(),
            (CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. }, _) => return,
        };
        self.strip = Some(self.strip.map_or(before, |noted| noted.max(before)));
    }

    fn write(&self, script: &mut Script<'_>, key: usize) {
        script.guard(key, HEAD, self.stored.as_deref());
        for (number, stored) in &self.written {
            let slot = number.to_string();
            script.set(key, slot.as_str(), stored);
            if let Some(commit) = self.commits.get(number) {
                script.set(key, codec::id_field(commit.id), slot.as_bytes());
            }
        }
        if let (Some(head), false) = (&self.head, self.written.is_empty()) {
            script.set(key, HEAD, head.print().as_bytes());
            if self.stored.is_none() {
                script.change("place", STREAMS, [b"0".to_vec(), member(&self.stream)]);
            }
        }
        if self.snapshot_changed {
            script.guard(key, SNAPSHOT, self.stored_snapshot.as_deref());
            match &self.snapshot {
                Some(snapshot) => script.set(key, SNAPSHOT, &codec::encode_snapshot(snapshot)),
                None => script.change("unset", key, [SNAPSHOT.into()]),
            }
        }
    }
}

impl RecordDraft {
    fn write(&self, script: &mut Script<'_>, key: &RecordKey) {
        let (Some(record), true) = (&self.record, self.changed) else { return };
        let name = key.name.as_str();
        script.guard(RECORDS, name, self.stored.as_deref());
        script.set(RECORDS, name, &codec::encode_record(record));
        match record.value {
            Some(_) => script.change("place", NAMES, [b"0".to_vec(), name.into()]),
            None => script.change("unplace", NAMES, [name.into()]),
        }
    }
}

/// A call in the making: guards come before changes.
struct Script<'a> {
    call: Call<'a>,
    guards: Vec<[Vec<u8>; 4]>,
    changes: Vec<Vec<u8>>,
}

impl<'a> Script<'a> {
    fn guard(&mut self, key: usize, field: &str, found: Option<&[u8]>) {
        let sign = if found.is_some() { "=" } else { "-" };
        self.guards.push([key.to_string().into(), field.into(), sign.into(), found.unwrap_or_default().into()]);
    }

    fn set(&mut self, key: usize, field: impl Into<Vec<u8>>, value: &[u8]) {
        self.change("set", key, [field.into(), value.to_vec()]);
    }

    fn change<const N: usize>(&mut self, change: &str, key: usize, arguments: [Vec<u8>; N]) {
        self.changes.push(change.into());
        self.changes.push(key.to_string().into());
        self.changes.extend(arguments);
    }

    fn finish(self) -> Call<'a> {
        let call = self.call.number(self.guards.len());
        let call = self.guards.into_iter().flatten().fold(call, Call::arg);
        self.changes.into_iter().fold(call, Call::arg)
    }
}
