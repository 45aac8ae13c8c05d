//! Reading: heads, streams, the feed and its end, lists, slots. Every read is strongly consistent.

use crate::codec::{self, Frame, Ref, corrupt};
use crate::dictionary;
use crate::index;
use crate::known::{FRAMES, Last, frame_of};
use crate::link::{Order, Range};
use crate::log::{self, Entry};
use crate::schema;
use crate::store::Client;
use crate::tables::{
    EVENTS, Item, KEY, NAME, NUMBER, STREAMS, Table, listed_name, listed_prefix, listed_stream, number, number_of,
    numbered, stream_key, take_bytes, text, text_of,
};
use evstore_api::{
    Commit, CommitKind, CommitNumber, CommitsPage, Content, Cursor, Deadline, Direction, Error, ErrorKind, FeedHead,
    FeedItem, FeedPage, Head, Lag, ListStreams, ListedStream, NamespaceFilter, Position, ReadCommits, ReadFeed,
    ReadHead, ReadStream, Result, Revision, StreamId, StreamPage, StreamStart, StreamsPage, Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::limits;
use evstore_kit::prefix::after_prefix;
use evstore_kit::stream_page::{self, Slicer};
use futures::stream::{self as futures_stream, StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

/// Items that one request asks for at most; a megabyte of them comes at most.
pub const PART_ITEMS_MAX: u32 = 5_000;
/// Fewest bytes that a commit takes in a table, for a first guess of how many to ask for.
const COMMIT_BYTES_MIN: u64 = 128;
/// Commits of the feed that are fetched at a time: as many as one request has keys.
pub const FETCHED_AT_ONCE: usize = 100;
/// Names that a list reads at a time at least, where it drops some of them.
const FILTERED_AT_ONCE: usize = 500;
/// Heads that a list reads at a time.
const HEADS_AT_ONCE: usize = 64;
/// Reads of one page: each but the first met a truncation.
const TRIES_MAX: u32 = 16;

/// What is said of a feed that has everything.
const NO_LAG: Lag = Lag { commits: 0, age: Duration::ZERO };

/// Reads a stream's head.
pub async fn head(client: &Client, request: &ReadHead) -> Result<Head> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let last = last(client, &request.stream, request.deadline, &mut usage).await?;
    told(client, &last, request.deadline, &mut usage).await
}

/// What stands last in a stream: one item is read, of however long a stream.
pub async fn last(client: &Client, stream: &StreamId, deadline: Deadline, usage: &mut Usage) -> Result<Last> {
    let mut walk = Walk::new(client, stream, 1, Order::Falling);
    walk.range.only = Some(FRAMES);
    while walk.ready.is_empty() && walk.more(1, deadline, usage).await? {}
    Ok(walk.ready.front().map_or_else(Last::missing, |first| Last::of(first.number, &first.frame)))
}

/// A head as callers see it.
pub async fn told(client: &Client, last: &Last, deadline: Deadline, usage: &mut Usage) -> Result<Head> {
    let meta = client.meta_for(last, deadline, usage).await?;
    Ok(client.head(last, &meta.meta))
}

/// A commit as it stands.
struct Stored {
    number: CommitNumber,
    frame: Frame,
    events: Option<Vec<u8>>,
}

impl Stored {
    /// The commit of an item; none for a snapshot.
    fn of(stream: &StreamId, mut item: Item) -> Result<Option<Self>> {
        let Some((number, frame)) = frame_of(stream, &item)? else { return Ok(None) };
        Ok(Some(Self { number, frame, events: take_bytes(&mut item, EVENTS) }))
    }

    async fn commit(self, client: &Client, stream: &StreamId, deadline: Deadline, usage: &mut Usage) -> Result<Commit> {
        let dictionary = match codec::dictionary_of(&self.frame, self.events.as_deref()) {
            Some(number) => Some(dictionary::find(client, number, deadline, usage).await?),
            None => None,
        };
        codec::commit(stream, self.number, self.frame, self.events, dictionary.as_deref())
    }
}

/// Commits of a stream one after the other, fetched in parts.
struct Walk<'a> {
    client: &'a Client,
    stream: &'a StreamId,
    range: Range,
    start: Option<Item>,
    /// What was fetched and not taken yet.
    ready: VecDeque<Stored>,
    /// Whether there is nothing more to fetch.
    ended: bool,
}

impl<'a> Walk<'a> {
    /// From a slot on, upwards; downwards it ends there.
    fn new(client: &'a Client, stream: &'a StreamId, from: u64, order: Order) -> Self {
        let range = Range {
            table: Table::Commits,
            key: stream_key(stream),
            from: Some(number(from)),
            to: None,
            order,
            only: None,
        };
        Self { client, stream, range, start: None, ready: VecDeque::new(), ended: false }
    }

    /// From a slot downwards.
    fn falling_from(client: &'a Client, stream: &'a StreamId, from: CommitNumber) -> Self {
        let mut walk = Self::new(client, stream, 1, Order::Falling);
        walk.range.to = Some(number(from.0));
        walk
    }

    /// Fetches the next part. False where there is none.
    async fn more(&mut self, items: u32, deadline: Deadline, usage: &mut Usage) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let items = items.clamp(1, PART_ITEMS_MAX);
        let part = self.client.link().query(&self.range, self.start.take(), items, deadline, usage).await?;
        for item in part.items {
            self.ready.extend(Stored::of(self.stream, item)?);
        }
        self.ended = part.next.is_none();
        self.start = part.next;
        Ok(true)
    }
}

/// Reads events of a stream.
pub async fn read_stream(client: &Client, request: &ReadStream) -> Result<StreamPage> {
    stream_page::check_start(request.from)?;
    limits::check_page_max(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        if let Some(page) = try_read_stream(client, request, &mut usage).await? {
            return Ok(page);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the stream is truncated while it is read"))
}

/// A page of one moment; none where the stream was truncated meanwhile.
async fn try_read_stream(client: &Client, request: &ReadStream, usage: &mut Usage) -> Result<Option<StreamPage>> {
    let (stream, deadline) = (&request.stream, request.deadline);
    let wanted = items_for(request);
    let mut walk = begin(client, request);
    if let Some(walk) = &mut walk {
        while walk.ready.is_empty() && walk.more(wanted, deadline, usage).await? {}
    }
    let last = match walk.as_ref().and_then(|walk| end_of(walk, request.direction)) {
        Some(end) => end,
        None => last(client, stream, deadline, usage).await?,
    };
    let mut page = Slicer::new(request, told(client, &last, deadline, usage).await?);
    let Some(first) = page.wants() else { return page.finish(*usage).map(Some) };
    let mut walk = match walk {
        Some(walk)
            if !is_far_before(&walk, &last, request.direction) && begins_with(&walk, first, request.direction) =>
        {
            walk
        }
        _ => {
            let (_, at) = locate(client, stream, &last, first, deadline, usage).await?;
            match request.direction {
                Direction::Forward => Walk::new(client, stream, at.0, Order::Rising),
                Direction::Backward => Walk::falling_from(client, stream, at),
            }
        }
    };
    let mut taken = None;
    loop {
        let Some(stored) = walk.ready.pop_front() else {
            if walk.more(wanted, deadline, usage).await? {
                continue;
            }
            break;
        };
        if stored.number < last.from || stored.number > last.number {
            continue;
        }
        if stored.frame.content == Content::Stripped && stored.frame.kind == CommitKind::Events {
            // Truncated meanwhile, or in an archive: then it still belongs to what is kept.
            let now = self::last(client, stream, deadline, usage).await?;
            if stored.number < now.from {
                return Ok(None);
            }
        }
        let commit = stored.commit(client, stream, deadline, usage).await?;
        taken = Some((commit.number, commit.first_revision, commit.last_revision()));
        if page.push(commit).is_break() {
            break;
        }
    }
    let page = page.finish(*usage)?;
    if let (Some(next), Some((number, first, last))) = (page.next, taken) {
        let at = match request.direction {
            Direction::Forward if last < next => number.next(),
            Direction::Backward if first > next => CommitNumber(number.0 - 1),
            Direction::Forward | Direction::Backward => number,
        };
        client.memory().keep_place(stream, next, at);
    }
    Ok(Some(page))
}

/// How many items to ask for at once: one more than can be wanted, so that an end is seen where it is one.
fn items_for(request: &ReadStream) -> u32 {
    let by_bytes = u32::try_from(request.max_bytes / COMMIT_BYTES_MIN).unwrap_or(u32::MAX).saturating_add(2);
    request.limit.saturating_add(1).min(by_bytes)
}

/// A walk that can begin before the head is known, where the way in is known: at an end of the stream, or where a reader stopped.
fn begin<'a>(client: &'a Client, request: &'a ReadStream) -> Option<Walk<'a>> {
    let stream = &request.stream;
    if request.limit == 0 {
        return None;
    }
    match (request.from, request.direction) {
        (StreamStart::First | StreamStart::At(Revision(1)), Direction::Forward) => {
            // What is known may be old: a stream's beginning only ever moves on.
            let from = client.memory().look(stream, |known| known.map_or(1, |known| known.last.from.0));
            Some(Walk::new(client, stream, from, Order::Rising))
        }
        (StreamStart::Last, Direction::Backward) => Some(Walk::new(client, stream, 1, Order::Falling)),
        (StreamStart::At(revision), Direction::Forward) => {
            let at = client.memory().place(stream, revision)?;
            Some(Walk::new(client, stream, at.0, Order::Rising))
        }
        (StreamStart::At(revision), Direction::Backward) => {
            let at = client.memory().place(stream, revision)?;
            Some(Walk::falling_from(client, stream, at))
        }
        (StreamStart::Last, Direction::Forward) | (StreamStart::First, Direction::Backward) => None,
    }
}

/// The stream's end, where a walk has seen it.
fn end_of(walk: &Walk<'_>, direction: Direction) -> Option<Last> {
    let seen = match direction {
        Direction::Forward if walk.ended => walk.ready.back(),
        Direction::Backward if walk.range.to.is_none() => walk.ready.front(),
        Direction::Forward | Direction::Backward => None,
    };
    match seen {
        Some(stored) => Some(Last::of(stored.number, &stored.frame)),
        // From its first slot on there is nothing.
        None if walk.ended && walk.ready.is_empty() && walk.range.to.is_none() && is_from_first(walk) => {
            Some(Last::missing())
        }
        None => None,
    }
}

fn is_from_first(walk: &Walk<'_>) -> bool {
    walk.range.from == Some(number(1))
}

/// Whether a walk began where the commit stands that holds a revision, or before it. Where a reader stopped may be told by a snapshot,
/// and that is told by an application.
fn begins_with(walk: &Walk<'_>, wanted: Revision, direction: Direction) -> bool {
    let met = walk.ready.iter().find(|stored| stored.frame.count > 0);
    met.is_some_and(|stored| match direction {
        Direction::Forward => stored.frame.first <= wanted,
        Direction::Backward => stored.frame.last() >= wanted,
    })
}

/// Whether a forward walk has only met what lies before what is kept, so that it had better begin there.
fn is_far_before(walk: &Walk<'_>, last: &Last, direction: Direction) -> bool {
    direction == Direction::Forward
        && !walk.ended
        && walk.ready.back().is_some_and(|stored| stored.number.0 + 1 < last.from.0)
}

/// Finds the commit that holds a revision between the first one that is kept and the last: its first revision and its slot. Slots
/// are guessed by where the revision lies among the others, so that commits of one event each are found at once.
///
/// # Errors
/// As reads have them; `Corrupt` where slots and revisions do not agree.
pub async fn locate(
    client: &Client,
    stream: &StreamId,
    last: &Last,
    revision: Revision,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<(Revision, CommitNumber)> {
    if revision == last.retained {
        return Ok((revision, last.from));
    }
    let (mut low, mut high) = (last.from.0, last.number.0);
    let (mut low_revision, mut high_revision) = (last.retained.0, last.revision.0);
    let mut guesses = 0_u32;
    while low <= high && low_revision <= revision.0 && revision.0 <= high_revision {
        guesses += 1;
        // Where the guesses stay at one side, halving goes on by itself.
        let span = u128::from(high - low) * u128::from(revision.0 - low_revision);
        let guess = match guesses % 3 {
            0 => low + (high - low) / 2,
            _ => low + (span / u128::from((high_revision - low_revision).max(1))) as u64,
        };
        let (first, count) = frame_at(client, stream, guess, deadline, usage).await?;
        if revision < first {
            high = guess - 1;
            high_revision = first.0 - 1;
        } else if revision.0 < first.0 + count {
            return Ok((first, CommitNumber(guess)));
        } else {
            low = guess + 1;
            low_revision = first.0 + count;
        }
    }
    Err(corrupt("no slot of a stream holds one of its revisions").with("stream", stream).with("revision", revision))
}

async fn frame_at(
    client: &Client,
    stream: &StreamId,
    at: u64,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<(Revision, u64)> {
    let item = client.link().get(Table::Commits, numbered(stream_key(stream), at), deadline, usage).await?;
    let found = item.map(|item| frame_of(stream, &item)).transpose()?.flatten();
    let (_, frame) =
        found.ok_or_else(|| corrupt("a slot of a stream is missing").with("stream", stream).with("number", at))?;
    Ok((frame.first, u64::from(frame.count)))
}

/// Reads the slots of a stream.
pub async fn read_commits(client: &Client, request: &ReadCommits) -> Result<CommitsPage> {
    limits::check_read_commits(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let (stream, deadline) = (&request.stream, request.deadline);
    let mut usage = Usage::default();
    let mut walk = Walk::new(client, stream, request.from.0, Order::Rising);
    let mut commits: Vec<Commit> = Vec::new();
    let mut bytes_left = request.max_bytes;
    let mut last_frame = None;
    let next = loop {
        let Some(stored) = walk.ready.pop_front() else {
            if walk.more(request.limit.saturating_add(1), deadline, &mut usage).await? {
                continue;
            }
            break None;
        };
        let last = Last::of(stored.number, &stored.frame);
        let commit = stored.commit(client, stream, deadline, &mut usage).await?;
        let bytes: u64 = commit.events.iter().map(limits::event_bytes).sum();
        if !commits.is_empty() && (commits.len() >= request.limit as usize || bytes > bytes_left) {
            break Some(commit.number);
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        last_frame = Some(last);
        commits.push(commit);
    };
    // The last slot says what the stream has lost. Past the end there is nothing that could have been.
    let from = match (next, last_frame) {
        (None, seen) => seen.map_or(CommitNumber(1), |last| last.from),
        (Some(_), _) => last(client, stream, deadline, &mut usage).await?.from,
    };
    let commits = commits.into_iter().map(|commit| as_cut(commit, from)).collect();
    Ok(CommitsPage { commits, next, usage })
}

/// A commit as it is after a truncation that has not come to it yet: one that stands before the slot from which on events are
/// kept.
fn as_cut(mut commit: Commit, from: CommitNumber) -> Commit {
    if commit.number < from && !commit.kind.is_marker() {
        commit.content = Content::Stripped;
        commit.events = Vec::new();
    }
    commit
}

/// Reads the feed.
pub async fn read_feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    if client.index().is_some() {
        return index::read_feed(client, request).await;
    }
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let deadline = request.deadline;
    let mut usage = Usage::default();
    let meta = schema::read_meta(client, deadline, &mut usage).await?;
    let after = feed_page::start(&meta.meta, &request.from)?;
    let mut page = Assembler::new(request, after);
    let wanted = request.limit.saturating_add(1).min(PART_ITEMS_MAX);
    let mut part = log::after(client.link(), after, None, wanted, deadline, &mut usage).await?;
    let (mut end, mut caught_up) = (after, false);
    // A place inside a record: the rest of that comes first.
    let first = part.items.first().and_then(|item| number_of(item, NUMBER));
    if after.0 > 0
        && first != Some(after.0 + 1)
        && let Some(entry) = log::holding(client.link(), after.next(), deadline, &mut usage).await?
    {
        end = entry.last;
        if push(client, request, &entry, after, &mut page, &mut usage).await?.is_break() {
            return Ok(page.finish(meta.meta.incarnation(), end.max(after.next()), usage));
        }
    }
    loop {
        for item in &part.items {
            let Some(entry) = log::entry_of(item)? else { continue };
            end = end.max(entry.last);
            if push(client, request, &entry, after, &mut page, &mut usage).await?.is_break() {
                return Ok(page.finish(meta.meta.incarnation(), end, usage));
            }
        }
        let start = part.next.take();
        if start.is_none() && (caught_up || !catch_up(client, deadline).await) {
            break;
        }
        caught_up |= start.is_none();
        let from = if start.is_none() { end } else { after };
        part = log::after(client.link(), from, start, wanted, deadline, &mut usage).await?;
    }
    Ok(page.finish(meta.meta.incarnation(), end, usage))
}

/// Lets the sequencer of this handle work if it is its turn, so that who appended and reads finds it. Whether it did.
async fn catch_up(client: &Client, deadline: Deadline) -> bool {
    let Some(sequencer) = client.sequencer() else { return false };
    if client.config().feed.sequencer().is_none_or(|(is_inside, _)| !is_inside) {
        return false;
    }
    // Where it fails, the feed is what it is: its background task says why.
    sequencer.catch_up(client, deadline).await.unwrap_or(false)
}

/// Hands in what a record of the log holds behind a place, fetching its commits as they are needed.
async fn push(
    client: &Client,
    request: &ReadFeed,
    entry: &Entry,
    after: Position,
    page: &mut Assembler,
    usage: &mut Usage,
) -> Result<ControlFlow<()>> {
    if entry.commits.is_empty() {
        return Ok(page.push(FeedItem::Removed { first: entry.first, last: entry.last }));
    }
    let mut at = entry.first;
    let mut places: Vec<(&Ref, Position)> = Vec::new();
    for one in &entry.commits {
        let next = Position(at.0 + one.positions);
        if next > after.next() {
            places.push((one, at));
        }
        at = next;
    }
    for some in places.chunks(FETCHED_AT_ONCE.min(request.limit.max(1) as usize + 1)) {
        // What the filter drops by the name of its stream is not fetched at all.
        let seen = some.iter().map(|(one, _)| *one).filter(|one| request.filter.covers_stream(&one.stream));
        let mut found = fetch(client, seen, request.deadline, usage).await?;
        for (one, first) in some {
            let last = Position(first.0 + one.positions - 1);
            let item = if request.filter.covers_stream(&one.stream) {
                let mut commit = found.remove(&(one.stream.clone(), one.number)).ok_or_else(|| missing(one))?;
                // A sequencer writes it there once it stands in the log.
                if client.config().feed.is_behind_appends() {
                    commit.first_position = commit.first_position.or(Some(*first));
                }
                if commit.first_position != Some(*first) || commit.positions() != one.positions {
                    return Err(corrupt("a commit is not where the log has it").with("position", first));
                }
                FeedItem::Commit(commit)
            } else {
                FeedItem::Removed { first: *first, last }
            };
            if page.push(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn missing(one: &Ref) -> Error {
    corrupt("a commit that the log has is missing").with("stream", &one.stream).with("number", one.number)
}

/// Commits by their slots.
pub async fn fetch(
    client: &Client,
    refs: impl Iterator<Item = &Ref>,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<HashMap<(StreamId, CommitNumber), Commit>> {
    let streams: HashMap<String, &StreamId> = HashMap::new();
    let (streams, keys) = refs.fold((streams, Vec::new()), |(mut streams, mut keys), one| {
        let key = stream_key(&one.stream);
        keys.push(numbered(key.clone(), one.number.0));
        streams.insert(key, &one.stream);
        (streams, keys)
    });
    let mut commits = HashMap::new();
    for item in client.link().get_all(Table::Commits, keys, None, deadline, usage).await? {
        let stream = text_of(&item, KEY).and_then(|key| streams.get(key)).copied();
        let stream = stream.ok_or_else(|| corrupt("an item came that was not asked for"))?;
        if let Some(stored) = Stored::of(stream, item)? {
            let number = stored.number;
            commits.insert((stream.clone(), number), stored.commit(client, stream, deadline, usage).await?);
        }
    }
    Ok(commits)
}

/// Waits until the feed has more. The deadline is an answer here, not an error.
pub async fn wait_feed(client: &Client, request: &WaitFeed) -> Result<Waited> {
    if client.index().is_some() {
        return index::wait_feed(client, request).await;
    }
    // Heard from before the first look, so that nothing rings unheard between a look and a wait.
    let mut bell = client.listen();
    if let Some(sequencer) = client.sequencer() {
        sequencer.nudge();
    }
    let mut known: Option<(u64, Position)> = None;
    loop {
        client.check_open()?;
        let (deadline, mut usage) = (client.patience(), Usage::default());
        let tail = log::tail(client.link(), deadline, &mut usage).await?;
        let after = match known {
            Some((token, after)) if token == tail.token => after,
            // A new history may refuse the cursors of those who wait.
            _ => schema::read_meta(client, deadline, &mut usage).await?.meta.position_of(&request.after)?,
        };
        known = Some((tail.token, after));
        if tail.end > after {
            return Ok(Waited::More);
        }
        if request.deadline.has_passed() {
            return Ok(Waited::DeadlinePassed);
        }
        let pause = client.config().feed_poll.min(request.deadline.remaining());
        // Either way there is another look.
        let _rung = tokio::time::timeout(pause, bell.changed()).await;
    }
}

/// Reads the end of the feed, and how far it is behind the streams where appends do not order it.
pub async fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    if client.index().is_some() {
        return index::feed_head(client, deadline).await;
    }
    let _open = client.enter(deadline).await?;
    let mut usage = Usage::default();
    let meta = schema::read_meta(client, deadline, &mut usage).await?;
    let mut tail = log::tail(client.link(), deadline, &mut usage).await?;
    let mut lag = NO_LAG;
    if let Some(sequencer) = client.sequencer() {
        for _ in 0..TRIES_MAX {
            lag = match sequencer.lag(client, &tail, deadline, &mut usage).await {
                // Who may not read the change stream does not know.
                Err(error) if error.kind() == ErrorKind::Denied => NO_LAG,
                lag => lag?,
            };
            let now = log::tail(client.link(), deadline, &mut usage).await?;
            // What was logged in between is not behind any more, and not before that end.
            if lag.commits > 0 || now.end == tail.end {
                break;
            }
            tail = now;
        }
    }
    Ok(FeedHead { cursor: Cursor::total(meta.meta.incarnation(), tail.end), position: Some(tail.end), lag, usage })
}

/// Lists streams. Their names are read, and the last slot of each; no event is.
pub async fn list_streams(client: &Client, request: &ListStreams) -> Result<StreamsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let deadline = request.deadline;
    let mut usage = Usage::default();
    let range = listed(request);
    let wanted = request.limit as usize + 1;
    // What is not asked for is passed over many at a time.
    let all_pass =
        request.category.is_none() && (request.prefix.is_empty() || request.namespace != NamespaceFilter::All);
    let fewest = if all_pass { 1 } else { FILTERED_AT_ONCE };
    let mut streams: Vec<StreamId> = Vec::new();
    let mut start = None;
    loop {
        let part = (wanted - streams.len() + 1).clamp(fewest, PART_ITEMS_MAX as usize) as u32;
        let part = client.link().query(&range, start, part, deadline, &mut usage).await?;
        for item in &part.items {
            let name = text_of(item, NAME).ok_or_else(|| corrupt("the list of streams holds something else"))?;
            let stream = listed_stream(name)?;
            if is_listed(request, &stream) {
                streams.push(stream);
            }
        }
        start = part.next;
        if start.is_none() || streams.len() >= wanted {
            break;
        }
    }
    let more = streams.len() >= wanted;
    streams.truncate(request.limit as usize);
    let next = streams.last().filter(|_| more).cloned();
    let sealed = match client.memory().has_seals() {
        true => client.memory().sealed_in(&schema::read_meta(client, deadline, &mut usage).await?.meta, &streams),
        false => HashMap::new(),
    };
    let ends = streams.into_iter().map(|stream| {
        let known = sealed.get(&stream).cloned();
        async move {
            let mut usage = Usage::default();
            let last = match known {
                Some(last) => last,
                None => last(client, &stream, deadline, &mut usage).await?,
            };
            Ok::<_, Error>((stream, last, usage))
        }
    });
    let ends: Vec<_> = futures_stream::iter(ends).buffered(HEADS_AT_ONCE).try_collect().await?;
    // One record for all of them, read behind the ends where one of them says of an epoch that its stream was closed in it.
    let meta = match client.known_meta().filter(|_| !ends.iter().any(|(_, last, _)| last.is_marked())) {
        Some(known) => known,
        None => schema::read_meta(client, deadline, &mut usage).await?,
    };
    let mut streams = Vec::with_capacity(ends.len());
    for (stream, last, cost) in ends {
        usage += cost;
        client.memory().keep_seal(&stream, &last, &meta.meta);
        streams.push(ListedStream { head: client.head(&last, &meta.meta), stream });
    }
    Ok(StreamsPage { streams, next, usage })
}

/// The part of the list of streams that can hold what is asked for.
fn listed(request: &ListStreams) -> Range {
    let category = request.category.as_ref().map_or("", |category| category.as_str());
    let prefix = if request.prefix.len() > category.len() { &request.prefix } else { category };
    let begins = match &request.namespace {
        NamespaceFilter::One(namespace) => Some(listed_prefix(namespace, prefix)),
        NamespaceFilter::All => None,
    };
    let after = request.after.as_ref().map(listed_name);
    let from = begins.clone().max(after).map(text);
    let to = begins.and_then(|begins| after_prefix(&begins)).map(text);
    let key = STREAMS.to_owned();
    // A place behind all of them: a range that ends before it begins is refused by the service.
    let to = match (&from, to) {
        (Some(from), Some(to)) if text_is_above(from, &to) => Some(from.clone()),
        (_, to) => to,
    };
    Range { table: Table::Names, key, from, to, order: Order::Rising, only: None }
}

fn text_is_above(
    one: &aws_sdk_dynamodb::types::AttributeValue,
    other: &aws_sdk_dynamodb::types::AttributeValue,
) -> bool {
    one.as_s().ok() > other.as_s().ok()
}

fn is_listed(request: &ListStreams, stream: &StreamId) -> bool {
    request.namespace.covers(&stream.namespace)
        && request.category.as_ref().is_none_or(|category| stream.name.category() == *category)
        && stream.name.as_str().starts_with(&request.prefix)
        && request.after.as_ref().is_none_or(|after| stream > after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_begins_and_ends_where_its_names_do() {
        let request = |namespace, prefix: &str, after: Option<&str>| ListStreams {
            namespace,
            category: None,
            prefix: prefix.to_owned(),
            after: after.map(|after| StreamId::new(after).unwrap()),
            limit: 1,
            deadline: Deadline::within(Duration::from_secs(1)),
        };
        let none = NamespaceFilter::One(evstore_api::Namespace::none());
        let range = listed(&request(none.clone(), "order-", None));
        assert_eq!((range.from, range.to), (Some(text("\u{1}order-")), Some(text("\u{1}order."))));
        let range = listed(&request(none.clone(), "order-", Some("order-7")));
        assert_eq!(range.from, Some(text("\u{1}order-7")));
        let range = listed(&request(none, "order-", Some("z")));
        assert_eq!((range.from, range.to), (Some(text("\u{1}z")), Some(text("\u{1}z"))));
        let range = listed(&request(NamespaceFilter::All, "order-", None));
        assert_eq!((range.from, range.to), (None, None));
    }
}
