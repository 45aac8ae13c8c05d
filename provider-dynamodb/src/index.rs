//! The feed of `feed = "sharded-index"`: an index of the commits' table, by shard and place, whose shards are merged in the order of
//! places. It says nothing of the commits but where they are; they are read from the table.
//!
//! The index comes behind the table, and places are told by the clocks of those who append. So a reader gets a commit only when it is old enough
//! for every earlier one to have come, which are those that came within `settling`. Nothing rests on that being so: a commit is given only
//! behind the one that it follows in its stream, looked for where its place says, and a reader's mark counts what was before it, so that one
//! that came behind the reader is noticed when that is counted again. Both stop the reader, and say why.

use crate::codec::{Ref, corrupt};
use crate::known::{Recent, frame_of};
use crate::link::{Order, Part, Range, ShardRange};
use crate::place::{self, Mark, Place, SPAN, micros};
use crate::read::{self, FETCHED_AT_ONCE, PART_ITEMS_MAX};
use crate::schema;
use crate::server_time::ServerTime;
use crate::store::Client;
use crate::tables::{
    Item, KEY, NAME, NUMBER, PLACE, STREAMS, Table, bytes_of, listed_stream, number_of, numbered, stream_key,
    stream_of_key, text_of,
};
use evstore_api::cursor::Place as CursorPlace;
use evstore_api::{
    Clock, CommitNumber, Cursor, Deadline, Error, ErrorKind, FeedHead, FeedItem, FeedPage, FeedStart, Lag, Meta,
    Position, ReadFeed, Result, StreamId, Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::Assembler;
use evstore_kit::{limits, refusal};
use futures::future::{join_all, try_join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The only partition of a cursor: all shards are merged into one order.
const PARTITION: u32 = 0;
/// Marks of readers whose last count is remembered.
const MARKS_MAX: usize = 1_024;
/// Streams whose last commit that was seen in the index is remembered.
const STREAMS_MAX: usize = 65_536;
/// Places that are looked for at a time.
const LOOKS_AT_ONCE: usize = 16;
/// Commits at one place that are looked through for one of them.
const MOMENT_MAX: u32 = 1_000;
/// How many times `settling` a mark is good for until what it counts is counted again.
const COUNTED_FOR: u32 = 12;
/// How many times `settling` readers are behind.
const HELD_BACK: u32 = 2;
/// More entries than its share that are read of a shard at once, since shards are not equally full.
const PART_MORE: u32 = 8;

/// What a handle knows of the index.
#[derive(Debug)]
pub struct Index {
    time: ServerTime,
    /// When what a mark counts was counted last.
    counted: Mutex<Recent<Mark, Instant>>,
    /// The commit of a stream that was seen last, and where.
    seen: Mutex<Recent<String, (CommitNumber, Place)>>,
    /// The mark of the feed's end.
    head: Mutex<Option<Mark>>,
}

impl Index {
    /// Nothing is known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            time: ServerTime::new(clock),
            counted: Mutex::new(Recent::new(MARKS_MAX)),
            seen: Mutex::new(Recent::new(STREAMS_MAX)),
            head: Mutex::default(),
        }
    }

    /// What is known of the service's clock.
    pub fn time(&self) -> &ServerTime {
        &self.time
    }

    fn counted_at(&self, mark: &Mark) -> Option<Instant> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).get(mark).copied()
    }

    fn count_again_after(&self, mark: Mark, counted: Instant) {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).put(mark, counted);
    }

    fn count_again(&self, mark: &Mark) {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(mark);
    }

    /// Where a commit was seen, if it is the one of its stream that was seen last.
    fn seen_at(&self, key: &str, number: CommitNumber) -> Option<Place> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&key.to_owned()).filter(|(last, _)| *last == number).map(|(_, place)| *place)
    }

    fn see(&self, entry: &Entry) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.put(entry.key.clone(), (entry.number, entry.place));
    }
}

/// A way to the index of a client that has one.
#[derive(Clone, Copy)]
struct Reading<'a> {
    client: &'a Client,
    index: &'a Index,
    shards: u8,
    settling: Duration,
    deadline: Deadline,
}

impl<'a> Reading<'a> {
    fn new(client: &'a Client, deadline: Deadline) -> Result<Self> {
        let without = || Error::new(ErrorKind::Unsupported, "the store has no index of its feed");
        let (shards, settling) = client.config().feed.index().ok_or_else(without)?;
        let index = client.index().ok_or_else(without)?;
        index.time.check(settling / 2)?;
        Ok(Self { client, index, shards, settling, deadline })
    }

    /// Behind which moment commits are not given yet.
    fn horizon(&self) -> u64 {
        micros(self.client.now()).saturating_sub((self.settling * HELD_BACK).as_micros() as u64)
    }

    fn range(&self, shard: u8, from: &[u8], to: &[u8], order: Order) -> ShardRange {
        ShardRange { shard, from: from.to_vec(), to: to.to_vec(), order }
    }

    /// How many entries there are between two sort keys, in all shards.
    async fn count(&self, from: &[u8], to: &[u8], usage: &mut Usage) -> Result<u64> {
        if from > to {
            return Ok(0);
        }
        let counts = (0..self.shards).map(|shard| async move {
            let mut usage = Usage::default();
            let range = self.range(shard, from, to, Order::Rising);
            let count = self.client.link().count(&range, self.deadline, &mut usage).await?;
            Ok::<_, Error>((count, usage))
        });
        let mut sum = 0;
        for (count, cost) in try_join_all(counts).await? {
            sum += count;
            *usage += cost;
        }
        Ok(sum)
    }

    /// The first entry between two sort keys, or with falling order the last.
    async fn first(&self, from: &[u8], to: &[u8], order: Order, usage: &mut Usage) -> Result<Option<Entry>> {
        if from > to {
            return Ok(None);
        }
        let firsts = (0..self.shards).map(|shard| async move {
            let mut usage = Usage::default();
            let range = self.range(shard, from, to, order);
            let part = self.client.link().entries(&range, None, 1, self.deadline, &mut usage).await?;
            let first = part.items.first().map(Entry::of).transpose()?;
            Ok::<_, Error>((first, usage))
        });
        let mut found = Vec::new();
        for (first, cost) in try_join_all(firsts).await? {
            found.extend(first);
            *usage += cost;
        }
        Ok(match order {
            Order::Rising => found.into_iter().min_by_key(|entry| entry.place),
            Order::Falling => found.into_iter().max_by_key(|entry| entry.place),
        })
    }

    /// The mark of a reader that was given everything up to a place.
    async fn mark(&self, place: Place, usage: &mut Usage) -> Result<Mark> {
        let unmarked = Mark { place, before: 0, within: 0 };
        let (before, within) = unmarked.spans();
        let (mut cost, mut more) = (Usage::default(), Usage::default());
        let (earlier, own, end) = (place::from(before), place::from(within), place.after());
        // The first key of its own span is before every place in it.
        let (before, within) =
            futures::try_join!(self.count(&earlier, &own, &mut cost), self.count(&own, &end, &mut more))?;
        *usage += cost;
        *usage += more;
        Ok(Mark { place, before, within })
    }

    /// Counts again what a mark counts, now and then, and stops a reader behind whom something came. Gives when it was counted.
    async fn verify(&self, mark: &Mark, usage: &mut Usage) -> Result<Instant> {
        let now = Instant::now();
        if let Some(counted) = self.index.counted_at(mark)
            && counted.elapsed() < self.settling * COUNTED_FOR
        {
            return Ok(counted);
        }
        let found = self.mark(mark.place, usage).await?;
        if found.before > mark.before || found.within > mark.within {
            let (begin, _) = mark.spans();
            let again = match self.first(&place::from(0), &place::from(begin), Order::Falling, usage).await? {
                Some(last) => Some(self.mark(last.place, usage).await?),
                None => None,
            };
            let meta = schema::read_meta(self.client, self.deadline, usage).await?;
            return Err(Error::new(
                ErrorKind::HistoryLost,
                "commits came into the feed's index later than `settling`, behind a reader that had passed them; read again from before",
            )
            .with("late", found.before.saturating_sub(mark.before) + found.within.saturating_sub(mark.within))
            .with("again", cursor(&meta.meta, again)?));
        }
        if found != *mark {
            return Err(Error::new(ErrorKind::Unavailable, "the feed's index shows less than it did: it is behind")
                .with("settling_ms", self.settling.as_millis()));
        }
        self.index.count_again_after(*mark, now);
        Ok(now)
    }

    /// How many of these entries, which stand next in the feed, have before them what they follow in their streams; and why not the next.
    async fn contiguous(
        &self,
        entries: &[Entry],
        after: Option<Mark>,
        given: &mut HashMap<String, CommitNumber>,
        usage: &mut Usage,
    ) -> Result<(usize, Option<Error>)> {
        let (mut whole, mut looks) = (entries.len(), Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            let before = given.insert(entry.key.clone(), entry.number);
            let wanted = CommitNumber(entry.number.0 - 1);
            if wanted == before.unwrap_or_default() {
                continue;
            }
            let Some(after) = after.filter(|_| before.is_none()) else {
                // It would have been given in this page.
                whole = at;
                break;
            };
            match self.index.seen_at(&entry.key, wanted) {
                Some(place) if place <= after.place => {}
                Some(_) => {
                    whole = at;
                    break;
                }
                None => looks.push((at, entry)),
            }
        }
        looks.retain(|(at, _)| *at < whole);
        if let Some(after) = after.filter(|_| !looks.is_empty()) {
            whole = self.passed(&looks, after, usage).await?.unwrap_or(whole);
        }
        entries[..whole].iter().for_each(|entry| self.index.see(entry));
        Ok((whole, entries.get(whole).map(|entry| self.missing(entry))))
    }

    /// Looks whether a reader passed what these follow in their streams, and the index has that: in the table for where it should be, then
    /// there. Gives the first of which it is not so.
    async fn passed(&self, looks: &[(usize, &Entry)], after: Mark, usage: &mut Usage) -> Result<Option<usize>> {
        let keys = looks.iter().map(|(_, entry)| numbered(entry.key.clone(), entry.number.0 - 1)).collect();
        let mut places = HashMap::new();
        for item in self.client.link().get_all(Table::Commits, keys, None, self.deadline, usage).await? {
            let key = text_of(&item, KEY).unwrap_or_default().to_owned();
            let found = frame_of(&stream_of_key(&key)?, &item)?;
            places.extend(found.and_then(|(number, frame)| Some(((key, number), frame.place?))));
        }
        let looks: Vec<_> = looks
            .iter()
            .map(|(at, entry)| {
                let place = places.get(&(entry.key.clone(), CommitNumber(entry.number.0 - 1))).copied();
                let (at, entry) = (*at, *entry);
                async move {
                    let mut usage = Usage::default();
                    let named = |error: Error| error.with("stream", &entry.stream).with("number", entry.number);
                    let place = place.ok_or_else(|| named(corrupt("a commit follows one that has no place")))?;
                    let has_passed = place <= after.place && self.has(&entry.key, place, &mut usage).await?;
                    Ok::<_, Error>(((!has_passed).then_some(at), usage))
                }
            })
            .collect();
        let looked: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        looked.iter().for_each(|(_, cost)| *usage += *cost);
        Ok(looked.into_iter().filter_map(|(at, _)| at).min())
    }

    /// Whether the index has a commit of a stream at a place.
    async fn has(&self, key: &str, place: Place, usage: &mut Usage) -> Result<bool> {
        let shard = place::shard_of(key, self.shards);
        let range = self.range(shard, &place.encode(), &place.encode(), Order::Rising);
        let part = self.client.link().entries(&range, None, MOMENT_MAX, self.deadline, usage).await?;
        Ok(part.items.iter().any(|item| text_of(item, KEY) == Some(key)))
    }

    /// Whether the index has the last commit of a stream, unless that is too new to be missed.
    async fn has_end(&self, stream: &StreamId) -> Result<bool> {
        let mut usage = Usage::default();
        let last = read::last(self.client, stream, self.deadline, &mut usage).await?;
        let Some(place) = last.place.filter(|place| place.at <= self.horizon()) else { return Ok(true) };
        self.has(&stream_key(stream), place, &mut usage).await
    }

    fn missing(&self, entry: &Entry) -> Error {
        let error = Error::new(
            ErrorKind::Unavailable,
            "the feed's index lacks a commit for longer than `settling`, and has one that follows it in its stream",
        );
        error.with("stream", &entry.stream).with("number", entry.number.0 - 1)
    }
}

/// What the index says of a commit.
#[derive(Clone, Debug)]
struct Entry {
    key: String,
    stream: StreamId,
    number: CommitNumber,
    place: Place,
}

impl Entry {
    fn of(item: &Item) -> Result<Self> {
        let wrong = || corrupt("the feed's index holds something else");
        let key = text_of(item, KEY).ok_or_else(wrong)?.to_owned();
        let stream = stream_of_key(&key)?;
        let number = number_of(item, NUMBER).filter(|number| *number > 0).map(CommitNumber).ok_or_else(wrong)?;
        let place = Place::decode(&bytes_of(item, PLACE).ok_or_else(wrong)?)?;
        Ok(Self { key, stream, number, place })
    }

    fn one(&self) -> Ref {
        Ref { stream: self.stream.clone(), number: self.number, positions: 0 }
    }
}

/// The shards as one feed: behind a mark, and up to a moment.
struct Merge<'a> {
    reading: Reading<'a>,
    part: u32,
    shards: Vec<Walk>,
}

struct Walk {
    range: ShardRange,
    start: Option<Item>,
    ready: VecDeque<Entry>,
    ended: bool,
}

impl<'a> Merge<'a> {
    fn new(reading: Reading<'a>, after: Option<Mark>, horizon: u64, wanted: u32) -> Self {
        let from = after.map_or_else(|| place::from(0), |mark| mark.place.after());
        let to = place::from(horizon.saturating_add(1));
        // A mark of another process may be ahead of what this one gives yet.
        let ended = from > to;
        let walk = |shard| Walk {
            range: reading.range(shard, &from, &to, Order::Rising),
            start: None,
            ready: VecDeque::new(),
            ended,
        };
        let part = (wanted.div_ceil(reading.shards.into()) + PART_MORE).min(PART_ITEMS_MAX);
        Self { reading, part, shards: (0..reading.shards).map(walk).collect() }
    }

    /// The next entries, as many as asked for or all that there are.
    async fn next(&mut self, count: usize, usage: &mut Usage) -> Result<Vec<Entry>> {
        let mut next = Vec::new();
        while next.len() < count {
            self.fill(usage).await?;
            let first = self.shards.iter_mut().filter(|walk| !walk.ready.is_empty());
            let first = first.min_by_key(|walk| walk.ready.front().map(|entry| entry.place));
            match first.and_then(|walk| walk.ready.pop_front()) {
                Some(entry) => next.push(entry),
                None => break,
            }
        }
        Ok(next)
    }

    /// Sees to it that every shard that has more shows its next entry.
    async fn fill(&mut self, usage: &mut Usage) -> Result<()> {
        let (reading, part) = (self.reading, self.part);
        let fills = self.shards.iter_mut().filter(|walk| walk.ready.is_empty() && !walk.ended).map(|walk| async move {
            let mut usage = Usage::default();
            while walk.ready.is_empty() && !walk.ended {
                let start = walk.start.take();
                let found: Part =
                    reading.client.link().entries(&walk.range, start, part, reading.deadline, &mut usage).await?;
                for item in &found.items {
                    walk.ready.push_back(Entry::of(item)?);
                }
                walk.ended = found.next.is_none();
                walk.start = found.next;
            }
            Ok::<_, Error>(usage)
        });
        for cost in join_all(fills).await {
            *usage += cost?;
        }
        Ok(())
    }
}

/// Reads the feed.
pub async fn read_feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let meta = schema::read_meta(client, request.deadline, &mut usage).await?;
    let after = match &request.from {
        FeedStart::First => None,
        FeedStart::After(cursor) => mark_of(&meta.meta, cursor)?,
        FeedStart::AfterPosition(_) => {
            let positions = client.capabilities().positions;
            return Err(refusal::unsupported("read_feed after a position", "positions", positions));
        }
    };
    let reading = Reading::new(client, request.deadline)?;
    // Read first: what comes into the index while it is counted is behind it.
    let horizon = reading.horizon();
    let counted = match &after {
        Some(mark) => reading.verify(mark, &mut usage).await?,
        None => Instant::now(),
    };
    let mut filling =
        Filling { reading, request, page: Assembler::new(request, Position(0)), at: Position(0), steps: Vec::new() };
    let is_whole = filling.fill(after, horizon, &mut usage).await;
    let Filling { page, at, steps, .. } = filling;
    let (is_end, broken) = match is_whole? {
        Filled::ToTheEnd => (true, None),
        Filled::Page => (false, None),
        Filled::UpTo(broken) => (false, Some(broken)),
    };
    // The positions are this page's own, and nobody is shown them.
    let end = if is_end { at } else { at.next() };
    let page = page.finish(meta.meta.incarnation(), end, usage);
    let reached = page.next.position().unwrap_or_default();
    let passed = steps.iter().take_while(|(at, _)| *at <= reached);
    let next = passed.fold(after, |mark, (_, place)| Some(Mark::then(mark, *place)));
    if let Some(broken) = broken {
        // What is missing may have been passed, and come before the next page is read.
        if next == after {
            after.inspect(|after| reading.index.count_again(after));
            return Err(broken);
        }
    } else if let Some(next) = next {
        reading.index.count_again_after(next, counted);
    }
    let items = page.items.into_iter().filter_map(without_position).collect();
    Ok(FeedPage { items, before: None, next: cursor(&meta.meta, next)?, end: page.end, usage })
}

/// A page in the making.
struct Filling<'a> {
    reading: Reading<'a>,
    request: &'a ReadFeed,
    page: Assembler,
    /// The last position that was made up.
    at: Position,
    /// Which of them end at which places.
    steps: Vec<(Position, Place)>,
}

/// Why nothing more comes into a page.
enum Filled {
    /// There is nothing more.
    ToTheEnd,
    /// It is full.
    Page,
    /// What stands next has to wait.
    UpTo(Error),
}

impl Filling<'_> {
    async fn fill(&mut self, after: Option<Mark>, horizon: u64, usage: &mut Usage) -> Result<Filled> {
        let wanted = self.request.limit.saturating_add(1);
        let mut merge = Merge::new(self.reading, after, horizon, wanted);
        let mut given = HashMap::new();
        loop {
            let entries = merge.next(FETCHED_AT_ONCE.min(wanted as usize), usage).await?;
            if entries.is_empty() {
                return Ok(Filled::ToTheEnd);
            }
            let (whole, broken) = self.reading.contiguous(&entries, after, &mut given, usage).await?;
            if self.push(&entries[..whole], usage).await?.is_break() {
                return Ok(Filled::Page);
            }
            if let Some(broken) = broken {
                return Ok(Filled::UpTo(broken));
            }
        }
    }

    async fn push(&mut self, entries: &[Entry], usage: &mut Usage) -> Result<ControlFlow<()>> {
        let (filter, client) = (&self.request.filter, self.reading.client);
        let seen: Vec<Ref> = entries.iter().filter(|one| filter.covers_stream(&one.stream)).map(Entry::one).collect();
        let mut found = read::fetch(client, seen.iter(), self.request.deadline, usage).await?;
        for entry in entries {
            let first = self.at.next();
            let (item, last) = if filter.covers_stream(&entry.stream) {
                let named = |error: Error| error.with("stream", &entry.stream).with("number", entry.number);
                let commit = found.remove(&(entry.stream.clone(), entry.number));
                let mut commit = commit.ok_or_else(|| named(corrupt("a commit of the feed's index is missing")))?;
                if !entry.place.is_of(commit.digest) {
                    return Err(named(corrupt("a commit is not where the feed's index has it")));
                }
                commit.first_position = Some(first);
                let last = Position(first.0 + commit.positions() - 1);
                (FeedItem::Commit(commit), last)
            } else {
                (FeedItem::Removed { first, last: first }, first)
            };
            if self.page.push(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.at = last;
            self.steps.push((last, entry.place));
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A commit as readers get it. Of one that was stripped nothing is left in a feed without positions.
fn without_position(item: FeedItem) -> Option<FeedItem> {
    match item {
        FeedItem::Commit(mut commit) => {
            commit.first_position = None;
            Some(FeedItem::Commit(commit))
        }
        FeedItem::Removed { .. } => None,
    }
}

fn cursor(meta: &Meta, mark: Option<Mark>) -> Result<Cursor> {
    Cursor::parts(meta.incarnation(), mark.map(|mark| (PARTITION, mark.encode())).into_iter().collect())
}

/// Where a cursor is; none before the first commit.
fn mark_of(meta: &Meta, cursor: &Cursor) -> Result<Option<Mark>> {
    let refused = |message| Err(Error::new(ErrorKind::CursorRefused, message));
    let CursorPlace::Parts(parts) = cursor.place() else {
        return refused("cursor is of a total order, this store's is by best effort");
    };
    match meta.lineage.iter().position(|one| one.incarnation == cursor.incarnation()) {
        None => return refused("cursor comes from another store"),
        Some(at) if at + 1 < meta.lineage.len() && !parts.is_empty() => {
            return Err(Error::new(ErrorKind::HistoryLost, "commits up to this cursor may have been lost"));
        }
        Some(_) => {}
    }
    match &parts[..] {
        [] => Ok(None),
        [(PARTITION, mark)] => match Mark::decode(mark) {
            Some(mark) => Ok(Some(mark)),
            None => refused("cursor is not of this store"),
        },
        _ => refused("cursor is not of this store"),
    }
}

/// How long a record of the store is good for that a waiting reader has read.
const RECORD_FOR: Duration = Duration::from_secs(1);

/// Waits until the feed has more. The deadline is an answer here, not an error.
pub async fn wait_feed(client: &Client, request: &WaitFeed) -> Result<Waited> {
    let mut known: Option<(Instant, Option<Mark>)> = None;
    loop {
        client.check_open()?;
        let (reading, mut usage) = (Reading::new(client, client.patience())?, Usage::default());
        let after = match known {
            Some((since, after)) if since.elapsed() < RECORD_FOR => after,
            // A new history may refuse the cursors of those who wait.
            _ => {
                let meta = schema::read_meta(client, reading.deadline, &mut usage).await?;
                let after = mark_of(&meta.meta, &request.after)?;
                known = Some((Instant::now(), after));
                after
            }
        };
        let from = after.map_or_else(|| place::from(0), |mark| mark.place.after());
        let next = reading.first(&from, &place::end(), Order::Rising, &mut usage).await?;
        let early = next.map(|next| next.place.at.saturating_sub(reading.horizon()));
        if early == Some(0) {
            return Ok(Waited::More);
        }
        if request.deadline.has_passed() {
            return Ok(Waited::DeadlinePassed);
        }
        // What comes in between is older than what waits, and is looked for again all the same.
        let settled = early.map_or(Duration::MAX, Duration::from_micros);
        tokio::time::sleep(client.config().feed_poll.min(settled).min(request.deadline.remaining())).await;
    }
}

/// Reads the end of the feed, and how far it is behind what the index has.
pub async fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    let _open = client.enter(deadline).await?;
    let mut usage = Usage::default();
    let meta = schema::read_meta(client, deadline, &mut usage).await?;
    let reading = Reading::new(client, deadline)?;
    let horizon = place::from(reading.horizon().saturating_add(1));
    let (first, newest) = (place::from(0), place::end());
    let (mut cost, mut more) = (Usage::default(), Usage::default());
    let (last, waiting) = futures::try_join!(
        reading.first(&first, &horizon, Order::Falling, &mut cost),
        reading.first(&horizon, &newest, Order::Rising, &mut more),
    )?;
    let mark = match last {
        Some(last) => Some(head_mark(&reading, last.place, &mut usage).await?),
        None => None,
    };
    let lag = match waiting {
        Some(oldest) => Lag {
            commits: reading.count(&horizon, &newest, &mut usage).await?.max(1),
            age: Duration::from_micros(micros(client.now()).saturating_sub(oldest.place.at).max(1)),
        },
        None => Lag { commits: 0, age: Duration::ZERO },
    };
    usage += cost;
    usage += more;
    Ok(FeedHead { cursor: cursor(&meta.meta, mark)?, position: None, lag, usage })
}

/// The mark of the feed's end: from the one of the end before, where what that counts was counted lately.
async fn head_mark(reading: &Reading<'_>, place: Place, usage: &mut Usage) -> Result<Mark> {
    let kept = *reading.index.head.lock().unwrap_or_else(PoisonError::into_inner);
    let lately = kept.and_then(|kept| Some((kept, reading.index.counted_at(&kept)?)));
    let (mark, counted) = match lately.filter(|(_, since)| since.elapsed() < reading.settling * COUNTED_FOR) {
        Some((kept, since)) if kept.place == place => (kept, since),
        Some((kept, since)) if kept.place < place && kept.spans() == (Mark { place, ..kept }).spans() => {
            let more = reading.count(&kept.place.after(), &place.encode(), usage).await?;
            (Mark { place, within: kept.within + more, ..kept }, since)
        }
        _ => (reading.mark(place, usage).await?, Instant::now()),
    };
    *reading.index.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    reading.index.count_again_after(mark, counted);
    Ok(mark)
}

/// Waits until everything that the index has now is in the feed.
///
/// # Errors
/// `DeadlineExceeded` where that takes longer.
pub async fn settle(client: &Client, deadline: Deadline) -> Result<()> {
    let reading = Reading::new(client, deadline)?;
    let mut usage = Usage::default();
    let last = reading.first(&place::from(0), &place::end(), Order::Falling, &mut usage).await?;
    let early = last.map_or(0, |last| last.place.at.saturating_sub(reading.horizon()));
    crate::link::sleep(Duration::from_micros(early), deadline).await
}

/// What a look for the ends of streams found.
#[derive(Debug)]
pub struct Missing {
    /// How many streams were looked at.
    pub streams: usize,
    /// Whether these were all.
    pub is_all: bool,
    /// Those whose last commit is older than it takes to come into the index, which has it not.
    pub missing: Vec<StreamId>,
}

/// Looks for the last commit of every stream in the index, of so many streams at most.
///
/// # Errors
/// As reads have them.
pub async fn missing(client: &Client, streams_max: usize, deadline: Deadline) -> Result<Missing> {
    let reading = Reading::new(client, deadline)?;
    let range =
        Range { table: Table::Names, key: STREAMS.to_owned(), from: None, to: None, order: Order::Rising, only: None };
    let (mut found, mut start, mut usage) =
        (Missing { streams: 0, is_all: true, missing: Vec::new() }, None, Usage::default());
    loop {
        let part = client.link().query(&range, start, PART_ITEMS_MAX, deadline, &mut usage).await?;
        let wrong = || corrupt("the list of streams holds something else");
        let listed = |item: &Item| text_of(item, NAME).ok_or_else(wrong).and_then(listed_stream);
        let mut streams = part.items.iter().map(listed).collect::<Result<Vec<_>>>()?;
        let room = streams_max - found.streams;
        found.is_all = streams.len() <= room;
        streams.truncate(room);
        found.streams += streams.len();
        let looks = stream::iter(streams).map(|stream| async move {
            let is_there = reading.has_end(&stream).await?;
            Ok::<_, Error>((!is_there).then_some(stream))
        });
        let missing: Vec<_> = looks.buffered(LOOKS_AT_ONCE).try_collect().await?;
        found.missing.extend(missing.into_iter().flatten());
        start = part.next;
        if start.is_none() || !found.is_all || found.streams == streams_max {
            found.is_all &= start.is_none();
            return Ok(found);
        }
    }
}

const _: () =
    assert!(SPAN.as_secs() > 5 * 60, "a request lands in a span that a mark counts, however long it was on its way");
