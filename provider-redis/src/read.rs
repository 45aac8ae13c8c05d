//! Reading: heads, streams, the feed and its end, lists, slots.

use crate::codec::{self, HEAD, Place, StoredHead};
use crate::error::{Purpose, corrupt};
use crate::keyspace::{member, stream_of};
use crate::link::Step;
use crate::schema::{Known, command};
use crate::script;
use crate::server::{self, text};
use crate::store::{Client, array, bytes_of, number};
use bytes::Bytes;
use evstore_api::cursor::Place as CursorPlace;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Commit, CommitNumber, CommitsPage, Content, Cursor, Deadline, Direction, Error, ErrorKind, FeedHead, FeedItem,
    FeedPage, FeedStart, Head, Lag, ListStreams, ListedStream, NamespaceFilter, Position, ReadCommits, ReadFeed,
    ReadHead, ReadStream, Result, StreamId, StreamPage, StreamStart, StreamsPage, Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::stream_page::{self, Slicer};
use evstore_kit::{limits, refusal};
use redis::Value;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Commits that one call of a script gives back at most: it holds up everybody else meanwhile.
const CHUNK_COMMITS: u64 = 512;
/// Bytes of commits that one answer holds, but for the last of them.
const CHUNK_BYTES: u64 = 4 << 20;
/// Bytes that a stored commit has beside data and metadata, for a first guess of how much to ask for.
const OVERHEAD_BYTES: u64 = 512;
/// Reads of one page: each but the first met a truncation.
const TRIES_MAX: u32 = 16;
/// How often a waiting reader looks whether another process has appended.
const POLL: Duration = Duration::from_millis(25);

/// Reads a stream's head.
pub async fn head(client: &Client, request: &ReadHead) -> Result<Head> {
    let _open = client.enter(request.deadline).await?;
    let (known, stored) = situation(client, &request.stream, request.deadline).await?;
    codec::head(stored.as_deref(), &known.meta, client.own())
}

/// The record and the head of a stream, of one moment.
pub async fn situation(
    client: &Client,
    stream: &StreamId,
    deadline: Deadline,
) -> Result<(Arc<Known>, Option<Vec<u8>>)> {
    let answer = chunk(client, stream, "first", Direction::Forward, 0, 0, deadline).await?;
    let known = client.record(answer.first().and_then(bytes_of))?;
    Ok((known, answer.get(1).and_then(bytes_of).map(<[u8]>::to_vec)))
}

async fn chunk(
    client: &Client,
    stream: &StreamId,
    start: &str,
    direction: Direction,
    commits: u64,
    bytes: u64,
    deadline: Deadline,
) -> Result<Vec<Value>> {
    let partition = client.keys().partition(stream);
    let direction = match direction {
        Direction::Forward => "forward",
        Direction::Backward => "backward",
    };
    let call = client
        .call(script::READ)
        .key(client.keys().meta(partition))
        .key(client.keys().stream(stream))
        .arg(start)
        .arg(direction)
        .number(commits)
        .number(bytes);
    Ok(array(client.run(partition, &Step::Script(call), deadline, Purpose::Read).await?))
}

/// Reads events of a stream.
pub async fn read_stream(client: &Client, request: &ReadStream) -> Result<StreamPage> {
    stream_page::check_start(request.from)?;
    limits::check_page_max(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut requests = 0;
    for _ in 0..TRIES_MAX {
        if let Some(page) = try_read_stream(client, request, &mut requests).await? {
            return Ok(page);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the stream is truncated while it is read"))
}

/// A page of one moment; none where the stream was truncated between two chunks of it.
async fn try_read_stream(client: &Client, request: &ReadStream, requests: &mut u32) -> Result<Option<StreamPage>> {
    let stream = &request.stream;
    let mut start = match request.from {
        StreamStart::First => "first".to_owned(),
        StreamStart::Last => "last".to_owned(),
        StreamStart::At(revision) => revision.to_string(),
    };
    let mut page: Option<(Slicer, Option<StoredHead>)> = None;
    let mut events_left = u64::from(request.limit);
    let mut bytes_left = request.max_bytes;
    loop {
        let commits = events_left.min(CHUNK_COMMITS);
        let bytes = bytes_left.saturating_add(OVERHEAD_BYTES * commits).min(CHUNK_BYTES);
        let answer = chunk(client, stream, &start, request.direction, commits, bytes, request.deadline).await?;
        *requests += 1;
        let mut answer = answer.into_iter();
        let (record, head) = (answer.next(), answer.next());
        let head = head.as_ref().and_then(bytes_of).map(StoredHead::parse).transpose()?;
        let (slicer, first_head) = match &mut page {
            Some(page) => (&mut page.0, &page.1),
            None => {
                let known = client.record(record.as_ref().and_then(bytes_of))?;
                let seen = head.as_ref().map_or_else(Head::missing, |head| head.head(&known.meta, client.own()));
                let begun = page.insert((Slicer::new(request, seen), head.clone()));
                (&mut begun.0, &begun.1)
            }
        };
        let retained = |head: &Option<StoredHead>| head.as_ref().map(|head| head.retained);
        if retained(first_head) != retained(&head) {
            return Ok(None);
        }
        let mut last = None;
        let mut full = slicer.wants().is_none();
        for value in answer {
            let commit = decode(client, value, stream)?;
            last = Some(commit.number);
            events_left = events_left.saturating_sub(u64::from(commit.count)).max(1);
            bytes_left = bytes_left.saturating_sub(commit.events.iter().map(limits::event_bytes).sum());
            if slicer.push(commit).is_break() {
                full = true;
                break;
            }
        }
        let next = match (last, request.direction) {
            (Some(last), Direction::Forward) => Some(last.0 + 1),
            (Some(last), Direction::Backward) => last.0.checked_sub(1).filter(|next| *next > 0),
            (None, _) => None,
        };
        match next.filter(|_| !full) {
            Some(next) => start = format!("#{next}"),
            None => break,
        }
    }
    let usage = Usage { requests: *requests, ..Usage::default() };
    page.map(|(slicer, _)| slicer.finish(usage)).transpose()
}

/// A commit that an answer holds, with its position as callers see it.
fn decode(client: &Client, value: Value, stream: &StreamId) -> Result<Commit> {
    let Value::BulkString(stored) = value else {
        return Err(corrupt("a commit of the stream is missing").with("stream", stream));
    };
    let mut commit = codec::decode_commit(&Bytes::from(stored), stream)?;
    commit.first_position = commit.first_position.and_then(|position| client.shown(position));
    Ok(commit)
}

/// Reads the slots of a stream.
pub async fn read_commits(client: &Client, request: &ReadCommits) -> Result<CommitsPage> {
    limits::check_read_commits(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let mut commits: Vec<Commit> = Vec::new();
    let mut next = request.from;
    let mut bytes_left = request.max_bytes;
    let mut requests = 0;
    let end = loop {
        let left = u64::from(request.limit).saturating_sub(commits.len() as u64) + 1;
        let wanted = left.min(CHUNK_COMMITS);
        let bytes = bytes_left.saturating_add(OVERHEAD_BYTES * wanted).min(CHUNK_BYTES);
        let start = format!("#{next}");
        let answer =
            chunk(client, &request.stream, &start, Direction::Forward, wanted, bytes, request.deadline).await?;
        requests += 1;
        client.record(answer.first().and_then(bytes_of))?;
        let head = answer.get(1).and_then(bytes_of).map(StoredHead::parse).transpose()?;
        let (last, from) = head.map_or((CommitNumber(0), CommitNumber(0)), |head| (head.number, head.from));
        if answer.len() <= 2 {
            break None;
        }
        let mut full = false;
        for value in answer.into_iter().skip(2) {
            let commit = codec::as_cut(decode(client, value, &request.stream)?, from);
            let bytes: u64 = commit.events.iter().map(limits::event_bytes).sum();
            if !commits.is_empty() && (commits.len() >= request.limit as usize || bytes > bytes_left) {
                full = true;
                break;
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            next = commit.number.next();
            commits.push(commit);
        }
        if full || next > last {
            break Some(next).filter(|next| *next <= last);
        }
    };
    Ok(CommitsPage { commits, next: end, usage: Usage { requests, ..Usage::default() } })
}

/// Reads the feed.
pub async fn read_feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut requests = 0;
    if client.keys().partitions() > 1 {
        return read_partitions(client, request, &mut requests).await;
    }
    let end = feed_end(client, 0, request.deadline).await?;
    let after = feed_page::start(&end.known.meta, &request.from)?;
    let mut page = Assembler::new(request, after);
    let end = assemble(client, 0, request, after, &mut page, &mut requests).await?;
    Ok(page.finish(end.known.meta.incarnation(), end.position, Usage { requests, ..Usage::default() }))
}

/// The record, and where the feed ends.
struct End {
    known: Arc<Known>,
    /// The last position that may be read.
    position: Position,
    /// The last position.
    reached: Position,
    /// Where a partition's earlier histories ended.
    ends: Vec<Position>,
}

async fn feed_end(client: &Client, partition: u32, deadline: Deadline) -> Result<End> {
    let fields = ["record", "position", "safe", "ends"];
    let asked = Step::Command(command("HMGET", client.keys().meta(partition), &fields));
    let answer = array(client.run(partition, &asked, deadline, Purpose::Read).await?);
    end_of(client, partition, &answer, deadline).await
}

/// What an answer says of the end. Where replicas are waited for, it is the safe position; one that stays behind is
/// brought up, as the append that should have raised it may be without an answer.
async fn end_of(client: &Client, partition: u32, answer: &[Value], deadline: Deadline) -> Result<End> {
    let known = client.record(answer.first().and_then(bytes_of))?;
    let reached = Position(number(answer.get(1))?);
    let ends = server::ends(answer.get(3));
    if !client.waits_for_replicas() {
        return Ok(End { known, position: reached, reached, ends });
    }
    let mut safe = number(answer.get(2)).unwrap_or(0);
    if safe < reached.0 {
        // Where too few replicas answer, the feed ends where they were last known to be.
        let _unconfirmed = client.confirm(partition, deadline).await;
        let asked = Step::Command(command("HGET", client.keys().meta(partition), &["safe"]));
        safe = number(Some(&client.run(partition, &asked, deadline, Purpose::Read).await?)).unwrap_or(0);
    }
    Ok(End { known, position: Position(safe), reached, ends })
}

/// Fills a page with what one partition has after a position.
async fn assemble(
    client: &Client,
    partition: u32,
    request: &ReadFeed,
    after: Position,
    page: &mut Assembler,
    requests: &mut u32,
) -> Result<End> {
    let mut next = after.0 + 1;
    let mut wanted = (u64::from(request.limit) + 1).min(CHUNK_COMMITS);
    loop {
        let call = client
            .call(script::FEED)
            .key(client.keys().meta(partition))
            .key(client.keys().feed(partition))
            .number(next)
            .number(wanted);
        let answer = array(client.run(partition, &Step::Script(call), request.deadline, Purpose::Read).await?);
        *requests += 1;
        let end = end_of(client, partition, &answer, request.deadline).await?;
        let cutting = match number(answer.get(4)) {
            Ok(1..) => Cutting::Perhaps,
            Ok(0) | Err(_) => Cutting::No,
        };
        let mut places = places(answer.into_iter().nth(5).map_or_else(Vec::new, array))?;
        let complete = (places.len() as u64) < wanted;
        places.retain(|place| place.last >= Position(next) && place.first <= end.position);
        let Some(last) = places.last().map(|place| place.last) else {
            return Ok(end);
        };
        if push(client, partition, request, &places, cutting, page, requests).await?.is_break()
            || complete
            || last >= end.position
            || last.0 >= NUMBER_MAX
        {
            return Ok(end);
        }
        next = last.0 + 1;
        wanted = CHUNK_COMMITS;
    }
}

fn places(answer: Vec<Value>) -> Result<Vec<Place>> {
    let place = |pair: &[Value]| {
        let member = bytes_of(&pair[0]).unwrap_or_default();
        Place::parse(member, &text(&pair[1]).unwrap_or_default())
    };
    answer.chunks_exact(2).map(place).collect()
}

/// Fetches the commits of places, a bounded number of bytes at a time, and hands them in.
async fn push(
    client: &Client,
    partition: u32,
    request: &ReadFeed,
    places: &[Place],
    cutting: Cutting,
    page: &mut Assembler,
    requests: &mut u32,
) -> Result<ControlFlow<()>> {
    let mut rest = places;
    while !rest.is_empty() {
        let mut bytes = 0;
        let mut fits = |place: &&Place| {
            bytes += place.bytes as u64;
            bytes <= CHUNK_BYTES.min(request.max_bytes.saturating_add(OVERHEAD_BYTES * CHUNK_COMMITS))
        };
        let count = rest.iter().take_while(&mut fits).count().max(1);
        let (now, later) = rest.split_at(count);
        // What the filter drops by the name of its stream is not fetched at all.
        let seen = |place: &Place| match &place.commit {
            Some((stream, number)) if request.filter.covers_stream(stream) => Some((stream.clone(), *number)),
            Some(_) | None => None,
        };
        let slots = now.iter().filter_map(seen).collect();
        let commits = fetch(client, partition, slots, cutting, request.deadline).await?;
        *requests += u32::from(!commits.is_empty());
        let mut commits = commits.into_iter();
        for place in now {
            let item = match seen(place) {
                Some(_) => {
                    commits.next().map(FeedItem::Commit).ok_or_else(|| corrupt("a commit of the feed is missing"))?
                }
                None => FeedItem::Removed { first: place.first, last: place.last },
            };
            if page.push(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        rest = later;
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether some stream is being cut, so that heads have to say what is left of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutting {
    /// None is.
    No,
    /// One may be.
    Perhaps,
}

/// Commits by their slots, in one round trip.
pub async fn fetch(
    client: &Client,
    partition: u32,
    slots: Vec<(StreamId, CommitNumber)>,
    cutting: Cutting,
    deadline: Deadline,
) -> Result<Vec<Commit>> {
    let step = |(stream, number): &(StreamId, CommitNumber)| {
        let (key, slot) = (client.keys().stream(stream), number.to_string());
        Step::Command(match cutting {
            Cutting::No => command("HGET", key, &[&slot]),
            Cutting::Perhaps => command("HMGET", key, &[&slot, HEAD]),
        })
    };
    let steps: Vec<_> = slots.iter().map(step).collect();
    let values = client.read_all(partition, &steps, deadline).await?;
    let one = |(value, (stream, number)): (Value, &(StreamId, CommitNumber))| {
        let (value, head) = match value {
            Value::Array(fields) => {
                let mut fields = fields.into_iter();
                (fields.next().unwrap_or_default(), fields.next())
            }
            value => (value, None),
        };
        let from = head.as_ref().and_then(bytes_of).map(StoredHead::parse).transpose()?.map(|head| head.from);
        let Value::BulkString(stored) = value else {
            return Err(corrupt("a commit of the feed is missing").with("stream", stream).with("number", number));
        };
        // With its position, whatever callers see of it: the page is put together by it.
        let commit = codec::decode_commit(&Bytes::from(stored), stream)?;
        if commit.number != *number {
            return Err(corrupt("a stored commit belongs elsewhere").with("stream", stream).with("number", number));
        }
        Ok(codec::as_cut(commit, from.unwrap_or(CommitNumber(0))))
    };
    values.into_iter().zip(&slots).map(one).collect()
}

/// A page over several partitions: each in its own order, and none left out for ever, as the first one changes with every page.
async fn read_partitions(client: &Client, request: &ReadFeed, requests: &mut u32) -> Result<FeedPage> {
    let partitions = client.keys().partitions();
    let known = client.known(request.deadline).await?;
    let mut marks = match &request.from {
        FeedStart::First => vec![Mark::default(); partitions as usize],
        FeedStart::After(cursor) => marks(&known, cursor, partitions)?,
        FeedStart::AfterPosition(_) => {
            return Err(refusal::unsupported(
                "read_feed after a position",
                "positions",
                client.capabilities().positions,
            ));
        }
    };
    let first = (marks.iter().map(|mark| mark.position.0).sum::<u64>() % u64::from(partitions)) as u32;
    let (mut items, mut end): (Vec<FeedItem>, bool) = (Vec::new(), true);
    let mut left = request.clone();
    for partition in (0..partitions).map(|at| (first + at) % partitions) {
        let mark = &mut marks[partition as usize];
        let after = mark.position;
        if left.limit == 0 {
            let seen = feed_end(client, partition, request.deadline).await?;
            mark.check(&seen)?;
            end &= seen.position <= after;
            continue;
        }
        let mut page = Assembler::new(&left, after);
        let seen = assemble(client, partition, &left, after, &mut page, requests).await?;
        mark.check(&seen)?;
        let part = page.finish(known.meta.incarnation(), seen.position, Usage::default());
        let bytes: u64 = part.events().map(|event| limits::event_bytes(event.event)).sum();
        if !items.is_empty() && bytes > left.max_bytes {
            // The first commit of a page may be larger than what is left of this one.
            end = false;
            continue;
        }
        left.limit = left.limit.saturating_sub(part.events().count().max(part.items.len()) as u32);
        left.max_bytes = left.max_bytes.saturating_sub(bytes);
        *mark = Mark::at(part.next.position().unwrap_or(after), &seen);
        end &= part.end;
        items.extend(part.items.into_iter().map(without_position));
    }
    let next = cursor(&known, &marks)?;
    Ok(FeedPage { items, before: None, next, end, usage: Usage { requests: *requests, ..Usage::default() } })
}

/// Positions count inside a partition, so nobody is shown them.
fn without_position(item: FeedItem) -> FeedItem {
    match item {
        FeedItem::Commit(commit) => FeedItem::Commit(Commit { first_position: None, ..commit }),
        removed @ FeedItem::Removed { .. } => removed,
    }
}

/// How far a reader is in a partition, and in which of its histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    history: u32,
    position: Position,
}

impl Mark {
    fn at(position: Position, end: &End) -> Self {
        Self { history: end.ends.len() as u32, position }
    }

    /// What was read of an earlier history has to be there still: another one begins at its end.
    fn check(self, end: &End) -> Result<()> {
        let since = end.ends.get(self.history as usize..).unwrap_or_default();
        // Nobody was given a position that the feed has not reached, unless what reached it is gone.
        let kept = since.iter().copied().chain([end.reached]).min().unwrap_or(end.reached);
        if self.position <= kept {
            return Ok(());
        }
        Err(Error::new(ErrorKind::HistoryLost, "commits up to this cursor may have been lost")
            .with("cursor", self.position)
            .with("kept", kept))
    }

    fn print(self) -> Vec<u8> {
        [self.history.to_be_bytes().as_slice(), &self.position.0.to_be_bytes()].concat()
    }

    fn parse(mark: &[u8]) -> Option<Self> {
        let (history, position) = mark.split_first_chunk::<4>()?;
        let position = u64::from_be_bytes(position.try_into().ok()?).min(NUMBER_MAX - 1);
        Some(Self { history: u32::from_be_bytes(*history), position: Position(position) })
    }
}

fn cursor(known: &Known, marks: &[Mark]) -> Result<Cursor> {
    let parts = marks.iter().zip(0..).filter(|(mark, _)| mark.position > Position(0));
    let parts = parts.map(|(mark, partition)| (partition, mark.print())).collect();
    Cursor::parts(known.meta.incarnation(), parts)
}

fn marks(known: &Known, cursor: &Cursor, partitions: u32) -> Result<Vec<Mark>> {
    let refused = |message| Err(Error::new(ErrorKind::CursorRefused, message));
    let CursorPlace::Parts(parts) = cursor.place() else {
        return refused("cursor is of a total order, this store's is partitioned");
    };
    match known.meta.lineage.iter().position(|one| one.incarnation == cursor.incarnation()) {
        None => return refused("cursor comes from another store"),
        Some(at) if at + 1 < known.meta.lineage.len() && !parts.is_empty() => {
            return Err(Error::new(ErrorKind::HistoryLost, "commits up to this cursor may have been lost"));
        }
        Some(_) => {}
    }
    let mut marks = vec![Mark::default(); partitions as usize];
    for (partition, mark) in parts {
        let (Some(place), Some(mark)) = (marks.get_mut(*partition as usize), Mark::parse(mark)) else {
            return refused("cursor is not of this store");
        };
        *place = mark;
    }
    Ok(marks)
}

/// Waits until the feed has more. The deadline is an answer here, not an error.
pub async fn wait_feed(client: &Client, request: &WaitFeed) -> Result<Waited> {
    // Heard from before the first look, so that nothing rings unheard between a look and a wait.
    let mut bell = client.listen();
    loop {
        client.check_open()?;
        match has_more(client, request).await {
            Ok(true) => return Ok(Waited::More),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Ok(Waited::DeadlinePassed),
            Err(error) => return Err(error),
        }
        let until = request.deadline.0.min(std::time::Instant::now() + POLL);
        let _heard = tokio::time::timeout_at(until.into(), bell.changed()).await;
        if request.deadline.has_passed() {
            client.check_open()?;
            return Ok(Waited::DeadlinePassed);
        }
    }
}

async fn has_more(client: &Client, request: &WaitFeed) -> Result<bool> {
    // A wait that begins late still looks once.
    let deadline = Deadline(request.deadline.0.max(std::time::Instant::now() + POLL));
    let partitions = client.keys().partitions();
    let first = feed_end(client, 0, deadline).await?;
    if partitions == 1 {
        let after = first.known.meta.position_of(&request.after)?;
        return Ok(first.position > after);
    }
    let marks = marks(&first.known, &request.after, partitions)?;
    for partition in 0..partitions {
        let end = feed_end(client, partition, deadline).await?;
        let mark = marks[partition as usize];
        mark.check(&end)?;
        if end.position > mark.position {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the end of the feed, which is never behind the streams.
pub async fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    let _open = client.enter(deadline).await?;
    let first = feed_end(client, 0, deadline).await?;
    let partitions = client.keys().partitions();
    let lag = Lag { commits: 0, age: Duration::ZERO };
    let usage = Usage { requests: partitions, ..Usage::default() };
    if partitions == 1 {
        let cursor = Cursor::total(first.known.meta.incarnation(), first.position);
        return Ok(FeedHead { cursor, position: Some(first.position), lag, usage });
    }
    let mut marks = vec![Mark::at(first.position, &first)];
    for partition in 1..partitions {
        let end = feed_end(client, partition, deadline).await?;
        marks.push(Mark::at(end.position, &end));
    }
    Ok(FeedHead { cursor: cursor(&first.known, &marks)?, position: None, lag, usage })
}

/// Lists streams.
pub async fn list_streams(client: &Client, request: &ListStreams) -> Result<StreamsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut requests = 0;
    let mut found: Vec<StreamId> = Vec::new();
    for partition in 0..client.keys().partitions() {
        found.extend(list_partition(client, partition, request, &mut requests).await?);
    }
    found.sort();
    let more = found.len() > request.limit as usize;
    found.truncate(request.limit as usize);
    let streams = with_heads(client, found, request.deadline, &mut requests).await?;
    let next = streams.last().filter(|_| more).map(|last| last.stream.clone());
    Ok(StreamsPage { streams, next, usage: Usage { requests, ..Usage::default() } })
}

/// The streams of one partition that are asked for, one more than a page holds.
async fn list_partition(
    client: &Client,
    partition: u32,
    request: &ListStreams,
    requests: &mut u32,
) -> Result<Vec<StreamId>> {
    let listed = |stream: &StreamId| {
        request.namespace.covers(&stream.namespace)
            && request.category.as_ref().is_none_or(|category| stream.name.category() == *category)
            && stream.name.as_str().starts_with(&request.prefix)
    };
    let (mut low, high) = bounds(request);
    let wanted = request.limit as usize + 1;
    let mut found = Vec::new();
    loop {
        let mut range = redis::cmd("ZRANGE");
        range.arg(client.keys().streams(partition)).arg(&low[..]).arg(&high[..]).arg("BYLEX");
        range.arg("LIMIT").arg(0).arg(CHUNK_COMMITS.max(wanted as u64));
        let members = array(client.run(partition, &Step::Command(range), request.deadline, Purpose::Read).await?);
        *requests += 1;
        let complete = (members.len() as u64) < CHUNK_COMMITS.max(wanted as u64);
        for member in &members {
            let stream = bytes_of(member).and_then(stream_of);
            let stream = stream.ok_or_else(|| corrupt("the list of streams holds something else"))?;
            if listed(&stream) {
                found.push(stream);
            }
        }
        if complete || found.len() >= wanted {
            found.truncate(wanted);
            return Ok(found);
        }
        low = [b"(", members.last().and_then(bytes_of).unwrap_or_default()].concat();
    }
}

/// Where a list begins and ends, as narrow as names sort.
fn bounds(request: &ListStreams) -> (Vec<u8>, Vec<u8>) {
    let (mut low, high) = match &request.namespace {
        NamespaceFilter::All => (b"-".to_vec(), b"+".to_vec()),
        NamespaceFilter::One(namespace) => {
            let prefix = match (&request.category, request.prefix.as_str()) {
                (Some(category), "") => category.as_str(),
                (_, prefix) => prefix,
            };
            let start = [namespace.as_str().as_bytes(), &[0], prefix.as_bytes()].concat();
            // No name has the byte 255, so that it stands behind all that begin so.
            ([b"[", start.as_slice()].concat(), [b"(", start.as_slice(), &[255]].concat())
        }
    };
    if let Some(after) = &request.after {
        let after = [b"(".as_slice(), &member(after)].concat();
        if low == b"-" || after[1..] >= low[1..] {
            low = after;
        }
    }
    (low, high)
}

async fn with_heads(
    client: &Client,
    streams: Vec<StreamId>,
    deadline: Deadline,
    requests: &mut u32,
) -> Result<Vec<ListedStream>> {
    let known = schema_record(client, deadline).await?;
    let mut heads: Vec<Option<Value>> = vec![None; streams.len()];
    for partition in 0..client.keys().partitions() {
        let mine: Vec<usize> =
            (0..streams.len()).filter(|at| client.keys().partition(&streams[*at]) == partition).collect();
        let step = |at: &usize| Step::Command(command("HGET", client.keys().stream(&streams[*at]), &[HEAD]));
        let steps: Vec<_> = mine.iter().map(step).collect();
        let values = client.read_all(partition, &steps, deadline).await?;
        *requests += u32::from(!values.is_empty());
        mine.into_iter().zip(values).for_each(|(at, value)| heads[at] = Some(value));
    }
    let listed = |(stream, head): (StreamId, Option<Value>)| {
        let head = codec::head(head.as_ref().and_then(bytes_of), &known.meta, client.own())?;
        Ok(ListedStream { stream, head })
    };
    streams.into_iter().zip(heads).map(listed).collect()
}

async fn schema_record(client: &Client, deadline: Deadline) -> Result<Arc<Known>> {
    let asked = Step::Command(command("HGET", client.keys().meta(0), &["record"]));
    let record = client.run(0, &asked, deadline, Purpose::Read).await?;
    client.record(bytes_of(&record))
}

/// Whether a commit was stripped.
pub fn is_stub(commit: &Commit) -> bool {
    commit.content == Content::Stripped && !commit.kind.is_marker()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::Incarnation;

    #[test]
    fn a_cursor_has_room_for_every_partition() {
        let last = Mark { history: u32::MAX, position: Position(NUMBER_MAX - 1) };
        let parts = (0..crate::config::PARTITIONS_CEILING as u32).map(|partition| (partition, last.print())).collect();
        Cursor::parts(Incarnation([255; 16]), parts).unwrap();
        assert_eq!(Mark::parse(&last.print()), Some(last));
    }
}
