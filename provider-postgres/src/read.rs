//! Reading: heads, one stream, its slots, the list of streams, the feed and its end. Each page is one statement, so that its
//! head, its commits and the store's record are of one moment.

use crate::codec::{self, EVENTS, ONE_REQUEST, integer};
use crate::error::{Result as Worked, corrupt};
use crate::packed::{self, Packed};
use crate::sequencer;
use crate::statements::Statement;
use crate::store::Client;
use evstore_api::{
    Commit, CommitNumber, CommitsPage, Cursor, Deadline, Direction, Error, ErrorKind, FeedHead, FeedItem, FeedPage,
    FeedStart, Head, Lag, ListStreams, ListedStream, Meta, NamespaceFilter, Position, ReadCommits, ReadFeed, ReadHead,
    ReadStream, Result, StreamId, StreamPage, StreamStart, StreamsPage, Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::limits;
use evstore_kit::prefix::after_prefix;
use evstore_kit::stream_page::{self, Slicer};
use futures::TryStreamExt;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Positions that one statement of a feed read looks at, at most: bounds what is on the way when a page is full.
const FEED_WINDOW_MAX: u64 = 2_000;
/// The same, at least, where a filter may drop most of them.
const FILTERED_WINDOW_MIN: u64 = 1_000;
/// Windows that are not looked for together after one that was not found so.
const MOVED_WINDOWS: u32 = 8;
/// Bytes of events that wait for the names of their streams, at most, and one commit.
const HELD_BYTES_MAX: usize = 4 << 20;

/// The head of a stream.
pub async fn head(client: &Client, request: &ReadHead) -> Result<Head> {
    client
        .read(request.deadline, async |connection| {
            let select = client
                .statements
                .head
                .query()
                .bind(request.stream.namespace.as_str())
                .bind(request.stream.name.as_str());
            let rows = select.fetch_all(connection).await?;
            let row = rows.first().ok_or_else(missing_record)?;
            let last = codec::last(row, 0)?;
            Ok(codec::head_of(last.as_ref(), &codec::meta(row, 8)?, client.own()))
        })
        .await
}

fn missing_record() -> Error {
    Error::new(ErrorKind::Schema, "the store's record is missing")
}

/// A page of one stream.
pub async fn stream(client: &Client, request: &ReadStream) -> Result<StreamPage> {
    stream_page::check_start(request.from)?;
    limits::check_page_max(client.limits(), request.limit)?;
    let start = match request.from {
        StreamStart::First => 0,
        StreamStart::Last => -1,
        // Beyond every revision there is.
        StreamStart::At(revision) => i64::try_from(revision.0).unwrap_or(i64::MAX).min(1 << 60),
    };
    let statement = match request.direction {
        Direction::Forward => &client.statements.read_forward,
        Direction::Backward => &client.statements.read_backward,
    };
    client
        .read(request.deadline, async |connection| {
            let select = statement
                .query()
                .bind(request.stream.namespace.as_str())
                .bind(request.stream.name.as_str())
                .bind(start)
                .bind(i64::from(request.limit));
            let mut rows = select.fetch(connection);
            let first = rows.try_next().await?.ok_or_else(missing_record)?;
            let mut page = Ordered {
                page: Slicer::new(request, page_head(client, &first)?),
                direction: request.direction,
                positions: positions_of_page(&first)?,
                before: None,
            };
            for commit in packed::commits(codec::get::<Option<&[u8]>>(&first, PACKED)?.unwrap_or_default()) {
                if page.is_full() || page.push(commit?.commit(request.stream.clone())?)?.is_break() {
                    break;
                }
            }
            while let Some(row) = rows.try_next().await? {
                if page.is_full() || page.push(codec::commit(&row, 0, request.stream.clone())?)?.is_break() {
                    break;
                }
            }
            Ok(page.page.finish(ONE_REQUEST)?)
        })
        .await
}

/// Column of the first row of a stream's page with its commits, where all of them are packed.
const PACKED: usize = 9;
/// Column of the first row of a stream's page with its positions.
const POSITIONS: usize = 12;

/// A page of a stream in the making, whose commits have to come in order.
struct Ordered {
    page: Slicer,
    direction: Direction,
    /// Numbers with their positions, in order.
    positions: Vec<[i64; 2]>,
    before: Option<CommitNumber>,
}

impl Ordered {
    fn is_full(&self) -> bool {
        self.page.wants().is_none()
    }

    fn push(&mut self, mut commit: Commit) -> Worked<ControlFlow<()>> {
        let in_order = self.before.is_none_or(|before| match self.direction {
            Direction::Forward => before < commit.number,
            Direction::Backward => before > commit.number,
        });
        if !in_order {
            return Err(corrupt("the server gave commits out of order").into());
        }
        self.before = Some(commit.number);
        let at = self.positions.binary_search_by_key(&integer(commit.number.0), |[number, _]| *number);
        commit.first_position = at.ok().map(|at| Position(self.positions[at][1].unsigned_abs()));
        Ok(self.page.push(commit))
    }
}

fn positions_of_page(first: &PgRow) -> Worked<Vec<[i64; 2]>> {
    let mut positions = packed::numbers(codec::get::<Option<&[u8]>>(first, POSITIONS)?.unwrap_or_default())?;
    positions.sort_unstable();
    Ok(positions)
}

/// The head in the first row of a stream's page, whose columns are those of a commit.
fn page_head(client: &Client, row: &PgRow) -> Worked<Head> {
    let meta = codec::meta(row, EVENTS)?;
    let last = codec::last_of_page(row)?;
    Ok(codec::head_of(last.as_ref(), &meta, client.own()))
}

/// A page of the slots of one stream.
pub async fn commits(client: &Client, request: &ReadCommits) -> Result<CommitsPage> {
    limits::check_read_commits(client.limits(), request)?;
    client
        .read(request.deadline, async |connection| {
            let select = client
                .statements
                .slots
                .query()
                .bind(request.stream.namespace.as_str())
                .bind(request.stream.name.as_str())
                .bind(integer(request.from.0.min(evstore_api::number::NUMBER_MAX)))
                .bind(i64::from(request.limit) + 1);
            let mut rows = select.fetch(connection);
            let mut page = CommitsPage { commits: Vec::new(), next: None, usage: ONE_REQUEST };
            let mut bytes_left = request.max_bytes;
            while let Some(row) = rows.try_next().await? {
                let commit = codec::commit(&row, 0, request.stream.clone())?;
                let bytes = commit.events.iter().map(limits::event_bytes).sum();
                let full = page.commits.len() >= request.limit as usize || bytes > bytes_left;
                if full && !page.commits.is_empty() {
                    page.next = Some(commit.number);
                    break;
                }
                bytes_left = bytes_left.saturating_sub(bytes);
                page.commits.push(commit);
            }
            Ok(page)
        })
        .await
}

/// A page of the list of streams.
pub async fn streams(client: &Client, request: &ListStreams) -> Result<StreamsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let statement = Statement::new(&streams_sql(request), client.schema(), client.config.prepared);
    client
        .read(request.deadline, async |connection| {
            let after = request.after.as_ref();
            let namespace = match &request.namespace {
                NamespaceFilter::All => None,
                NamespaceFilter::One(one) => Some(one.as_str()),
            };
            let select = statement
                .query()
                .bind(after.map_or("", |after| after.namespace.as_str()))
                .bind(after.map_or("", |after| after.name.as_str()))
                .bind(request.prefix.as_str())
                .bind(after_prefix(&request.prefix))
                .bind(namespace)
                .bind(request.category.as_ref().map(|category| category.as_str().to_owned()))
                .bind(i64::from(request.limit) + 1);
            let rows = select.fetch_all(connection).await?;
            let mut streams = Vec::with_capacity(rows.len());
            for row in rows.iter().take(request.limit as usize) {
                let meta = codec::meta(row, 8)?;
                let head = codec::head_of(codec::last(row, 0)?.as_ref(), &meta, client.own());
                streams.push(ListedStream { stream: codec::stream_id(row, 9)?, head });
            }
            let more = rows.len() > streams.len();
            let next = streams.last().filter(|_| more).map(|last: &ListedStream| last.stream.clone());
            Ok(StreamsPage { streams, next, usage: ONE_REQUEST })
        })
        .await
}

/// The statement of a list, with the clauses that the request needs and no others, so that an index serves them.
fn streams_sql(request: &ListStreams) -> String {
    let mut sql = String::from(
        "SELECT s.key, s.first_retained, h.revision + h.count - 1, h.number, h.recorded_at, h.id, h.marker, h.imported,
            store.meta, s.namespace, s.name FROM {schema}.store CROSS JOIN {schema}.streams s
        JOIN LATERAL (SELECT * FROM {schema}.commits c WHERE c.stream = s.key ORDER BY c.revision DESC, c.number DESC LIMIT 1)
            h ON true
        WHERE (s.namespace, s.name) > ($1::text, $2::text) AND s.name >= $3::text",
    );
    let mut clause = |filters: bool, with: &str, without: &str| sql.push_str(if filters { with } else { without });
    let bounded = after_prefix(&request.prefix).is_some();
    clause(bounded, " AND s.name < $4::text", " AND $4::text IS NULL");
    let one = matches!(request.namespace, NamespaceFilter::One(_));
    clause(one, " AND s.namespace = $5::text", " AND $5::text IS NULL");
    clause(request.category.is_some(), " AND s.category = $6::text", " AND $6::text IS NULL");
    sql.push_str(" ORDER BY s.namespace, s.name LIMIT $7");
    sql
}

/// A page of the feed. Where it would end at the end of the feed, what is not numbered yet is numbered first.
pub async fn feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    limits::check_page(client.limits(), request.limit)?;
    let (page, place) = feed_once(client, request).await?;
    if !page.end {
        return Ok(page);
    }
    // To its end also where another node makes a step: that one may have looked before a commit that this reader knows of.
    match sequencer::advance(client, request.deadline).await {
        Ok(end) if end <= place => return Ok(page),
        Ok(_) => {}
        // Credentials that only read leave steps to others, and read what those gave positions.
        Err(error) if error.kind() == ErrorKind::Denied => return Ok(page),
        Err(error) => return Err(error),
    }
    let (mut page, _) = feed_once(client, request).await?;
    page.usage.requests += 2;
    Ok(page)
}

/// Reads a page, and the end of the feed that it saw.
async fn feed_once(client: &Client, request: &ReadFeed) -> Result<(FeedPage, Position)> {
    let after = match &request.from {
        FeedStart::First => Position(0),
        // Only the record tells whether the cursor is good; it comes with the first rows.
        FeedStart::After(cursor) => cursor.position().unwrap_or_default(),
        FeedStart::AfterPosition(position) => *position,
    };
    let after = after.min(Position(evstore_api::number::NUMBER_MAX));
    let window = match request.filter.is_none() {
        true => u64::from(request.limit),
        false => u64::from(request.limit).max(FILTERED_WINDOW_MIN),
    };
    let window = window.min(FEED_WINDOW_MAX);
    client
        .read(request.deadline, async |connection| {
            let mut reading = Reading { page: None, at: after, accounted: None, requests: 0 };
            let mut look = client.layout.first_look();
            loop {
                let (end, stop) = reading.window(client, connection, request, window, look).await?;
                look = match (stop, look) {
                    (Some(Stop::Hole), Look::Together) => {
                        client.layout.have_moved();
                        Look::Each
                    }
                    // Rows have moved since they were numbered, if they are not lost.
                    (Some(Stop::Hole), Look::Each) => Look::Anywhere,
                    (Some(Stop::Hole), Look::Anywhere) => {
                        let error = corrupt("the feed does not account for a position");
                        return Err(error.with("position", reading.before().next()).into());
                    }
                    (None, _) if reading.at < end.position && !reading.is_full() => client.layout.first_look(),
                    (Some(Stop::Full) | None, _) => {
                        let page = reading.page.take().ok_or_else(missing_record)?;
                        let usage = Usage { requests: reading.requests, ..Usage::default() };
                        return Ok((page.finish(end.meta.incarnation(), end.position, usage), end.position));
                    }
                };
            }
        })
        .await
}

/// How the commits of a window are looked for, the quickest first. Only the last finds all that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// All where they lay, small ones only.
    Together,
    /// Each where it lay, one after another.
    Each,
    /// Each by its slot.
    Anywhere,
}

/// What is known of how the feed's commits lie.
#[derive(Debug, Default)]
pub struct Layout {
    /// Windows to come that are not looked for together.
    moved: AtomicU32,
}

impl Layout {
    /// What to begin a window with.
    fn first_look(&self) -> Look {
        let counted = |windows: u32| windows.checked_sub(1);
        if self.moved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_ok() {
            return Look::Each;
        }
        Look::Together
    }

    /// A window's commits were not found together: those behind it most likely are not either.
    fn have_moved(&self) {
        self.moved.store(MOVED_WINDOWS, Ordering::Relaxed);
    }
}

/// The end of the feed, and whose it is.
struct End {
    meta: Meta,
    position: Position,
}

/// A read of the feed under way.
struct Reading {
    page: Option<Assembler>,
    /// The last position that was looked at.
    at: Position,
    accounted: Option<Position>,
    requests: u32,
}

/// Why a window was not looked at to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The page is full.
    Full,
    /// A position was given, and nothing found that it was given to.
    Hole,
}

/// Positions in their order, with what was found of the commit that each was given to.
fn commits_at(row: &PgRow) -> Worked<Vec<(Position, Option<Packed<'_>>)>> {
    let mut places = packed::numbers::<3>(codec::get::<Option<&[u8]>>(row, 3)?.unwrap_or_default())?;
    places.sort_unstable();
    let mut commits: Vec<_> = places.iter().map(|[position, ..]| (Position(position.unsigned_abs()), None)).collect();
    let slots: HashMap<_, _> = places.iter().zip(0..).map(|([_, key, number], at)| ((*key, *number), at)).collect();
    for commit in packed::commits(codec::get::<Option<&[u8]>>(row, 4)?.unwrap_or_default()) {
        let commit = commit?;
        // What lies there by now may be another.
        if let Some(at) = slots.get(&(commit.key, commit.number)) {
            let at: usize = *at;
            commits[at].1 = Some(commit);
        }
    }
    Ok(commits)
}

impl Reading {
    /// Looks at the next positions.
    async fn window(
        &mut self,
        client: &Client,
        connection: &mut PgConnection,
        request: &ReadFeed,
        window: u64,
        look: Look,
    ) -> Worked<(End, Option<Stop>)> {
        let upto = Position(self.at.0.saturating_add(window).min(evstore_api::number::NUMBER_MAX));
        match look {
            Look::Together => self.together(client, connection, request, upto).await,
            Look::Each => self.each(client, connection, request, upto, &client.statements.feed).await,
            Look::Anywhere => self.each(client, connection, request, upto, &client.statements.feed_moved).await,
        }
    }

    /// Begins the page, where it is not begun yet.
    fn begin(&mut self, request: &ReadFeed, end: &End) -> Result<()> {
        if self.page.is_none() {
            self.page = Some(Assembler::new(request, feed_page::start(&end.meta, &request.from)?));
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.page.as_ref().is_some_and(Assembler::is_full)
    }

    /// Looks for commits together.
    async fn together(
        &mut self,
        client: &Client,
        connection: &mut PgConnection,
        request: &ReadFeed,
        upto: Position,
    ) -> Worked<(End, Option<Stop>)> {
        let select = client.statements.feed_together.query().bind(integer(self.at.0)).bind(integer(upto.0));
        self.requests += 1;
        let mut rows = select.fetch(&mut *connection);
        let first = rows.try_next().await?.ok_or_else(missing_record)?;
        let end = End { meta: codec::meta(&first, 0)?, position: Position(codec::number(&first, 1)?) };
        self.begin(request, &end)?;
        let incarnation = end.meta.incarnation();
        let mut removed = VecDeque::new();
        // Rows with a stream that is not known yet, and those behind them.
        let (mut held, mut unnamed) = (Vec::new(), Vec::new());
        while let Some(row) = rows.try_next().await? {
            if let Some(first) = codec::get::<Option<i64>>(&row, 1)? {
                removed.push_back((Position(first.unsigned_abs()), Position(codec::number(&row, 2)?)));
                continue;
            }
            let commits = commits_at(&row)?;
            let keys = commits.iter().filter_map(|(_, commit)| commit.map(|commit| commit.key));
            let streams = client.names.get_all(incarnation, keys.clone());
            if !held.is_empty() || streams.iter().any(Option::is_none) {
                unnamed.extend(keys);
                drop(commits);
                held.push(row);
                continue;
            }
            if let ControlFlow::Break(stop) = self.packed(request, commits, streams, &mut removed)? {
                return Ok((end, Some(stop)));
            }
        }
        drop(rows);
        if !held.is_empty() {
            let names = client.names.look_up(incarnation, unnamed, &client.statements.names, connection).await?;
            self.requests += 1;
            for row in held {
                let commits = commits_at(&row)?;
                let keys = commits.iter().filter_map(|(_, commit)| commit.map(|commit| commit.key));
                let streams = keys.map(|key| names.get(&key).cloned()).collect();
                if let ControlFlow::Break(stop) = self.packed(request, commits, streams, &mut removed)? {
                    return Ok((end, Some(stop)));
                }
            }
        }
        let stop = self.end_window(upto.min(end.position), removed).break_value();
        Ok((end, stop))
    }

    /// Hands commits to the page. The names are those of the streams of all that were found.
    fn packed(
        &mut self,
        request: &ReadFeed,
        commits: Vec<(Position, Option<Packed<'_>>)>,
        streams: Vec<Option<StreamId>>,
        removed: &mut VecDeque<(Position, Position)>,
    ) -> Worked<ControlFlow<Stop>> {
        let mut streams = streams.into_iter().flatten();
        for (position, commit) in commits {
            let (Some(commit), Some(stream)) = (commit, commit.and_then(|_| streams.next())) else {
                return Ok(ControlFlow::Break(Stop::Hole));
            };
            let covered = request.filter.covers_stream(&stream);
            let commit = if covered { commit.commit(stream)? } else { commit.frame(stream)? };
            if let ControlFlow::Break(stop) = self.commit(position, commit, removed) {
                return Ok(ControlFlow::Break(stop));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Looks for each commit by itself; they come in the order of their positions.
    async fn each(
        &mut self,
        client: &Client,
        connection: &mut PgConnection,
        request: &ReadFeed,
        upto: Position,
        statement: &Statement,
    ) -> Worked<(End, Option<Stop>)> {
        let select = statement.query().bind(integer(self.at.0)).bind(integer(upto.0));
        self.requests += 1;
        let mut rows = select.fetch(&mut *connection);
        let first = rows.try_next().await?.ok_or_else(missing_record)?;
        let end = End { meta: codec::meta(&first, 11)?, position: Position(codec::number(&first, 12)?) };
        self.begin(request, &end)?;
        let incarnation = end.meta.incarnation();
        let mut removed = VecDeque::new();
        // Rows whose stream is not known yet, and those behind them.
        let (mut held, mut held_bytes) = (Vec::new(), 0);
        let mut whole = true;
        while let Some(row) = rows.try_next().await? {
            let Some(key) = codec::get::<Option<i64>>(&row, 0)? else {
                removed.push_back((Position(codec::number(&row, 12)?), Position(codec::number(&row, 1)?)));
                continue;
            };
            let known = if held.is_empty() { client.names.get(incarnation, key) } else { None };
            if let Some(stream) = known {
                if let ControlFlow::Break(stop) = self.row(request, &row, stream, &mut removed)? {
                    return Ok((end, Some(stop)));
                }
                continue;
            }
            held_bytes += codec::get::<Option<&[u8]>>(&row, 1 + EVENTS)?.map_or(0, <[u8]>::len);
            held.push((key, row));
            if held_bytes > HELD_BYTES_MAX {
                whole = false;
                break;
            }
        }
        drop(rows);
        if !held.is_empty() {
            let keys = held.iter().map(|(key, _)| *key).collect();
            let names = client.names.look_up(incarnation, keys, &client.statements.names, connection).await?;
            self.requests += 1;
            for (key, row) in held {
                if let ControlFlow::Break(stop) = self.row(request, &row, names[&key].clone(), &mut removed)? {
                    return Ok((end, Some(stop)));
                }
            }
        }
        let stop = if whole { self.end_window(upto.min(end.position), removed).break_value() } else { None };
        Ok((end, stop))
    }

    /// Hands the ranges behind the last commit of a window to the page. Everything up to its end is accounted for then.
    fn end_window(&mut self, upto: Position, removed: VecDeque<(Position, Position)>) -> ControlFlow<Stop> {
        for (first, last) in removed {
            self.take(first, last, FeedItem::Removed { first, last })?;
        }
        if self.before() < upto { ControlFlow::Break(Stop::Hole) } else { ControlFlow::Continue(()) }
    }

    /// The position before the one that has to come next.
    fn before(&self) -> Position {
        self.accounted.unwrap_or(self.at)
    }

    /// Hands a commit that comes with its position to the page.
    fn row(
        &mut self,
        request: &ReadFeed,
        row: &PgRow,
        stream: StreamId,
        removed: &mut VecDeque<(Position, Position)>,
    ) -> Worked<ControlFlow<Stop>> {
        // What a filter by stream drops is not worth decoding; its frame is enough to move on.
        let covered = request.filter.covers_stream(&stream);
        let commit = if covered { codec::commit(row, 1, stream)? } else { codec::frame(row, 1, stream)? };
        Ok(self.commit(Position(codec::number(row, 12)?), commit, removed))
    }

    /// Hands a commit to the page, after the ranges before it.
    fn commit(
        &mut self,
        position: Position,
        mut commit: Commit,
        removed: &mut VecDeque<(Position, Position)>,
    ) -> ControlFlow<Stop> {
        while let Some((first, last)) = removed.pop_front_if(|(first, _)| *first <= position) {
            self.take(first, last, FeedItem::Removed { first, last })?;
        }
        commit.first_position = Some(position);
        let last = commit.last_position().unwrap_or(position);
        // What begins last before the place may end there, or lie in a range that was told of.
        if last <= self.before() {
            return ControlFlow::Continue(());
        }
        self.take(position, last, FeedItem::Commit(commit))
    }

    /// Hands something to the page. Positions have to follow each other: a hole would be a lost commit.
    fn take(&mut self, first: Position, last: Position, item: FeedItem) -> ControlFlow<Stop> {
        let next = self.before().0 + 1;
        // Only the first may begin before what was asked for.
        let follows = if self.accounted.is_none() { first.0 <= next } else { first.0 == next };
        if !follows {
            return ControlFlow::Break(Stop::Hole);
        }
        self.accounted = Some(last);
        self.at = self.at.max(last);
        match self.page.as_mut().map(|page| page.push(item)) {
            Some(ControlFlow::Continue(())) => ControlFlow::Continue(()),
            Some(ControlFlow::Break(())) | None => ControlFlow::Break(Stop::Full),
        }
    }
}

/// Waits until the feed has more. The deadline is an answer here, not an error.
pub async fn wait(client: &Client, request: &WaitFeed) -> Result<Waited> {
    // Heard from before the first look, so that nothing happens unheard between a look and a wait.
    let mut listener = client.sequencer.listen();
    loop {
        match has_more(client, &request.after, request.deadline).await {
            Ok(true) => return Ok(Waited::More),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Ok(Waited::DeadlinePassed),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = listener.changed() => {}
            () = client.closing() => return Err(evstore_kit::refusal::closed()),
            () = tokio::time::sleep_until(request.deadline.0.into()) => return Ok(Waited::DeadlinePassed),
        }
    }
}

async fn has_more(client: &Client, after: &Cursor, deadline: Deadline) -> Result<bool> {
    let end = client
        .read(deadline, async |connection| {
            let rows = client.statements.end.query().fetch_all(connection).await?;
            let row = rows.first().ok_or_else(missing_record)?;
            Ok(End { meta: codec::meta(row, 0)?, position: Position(codec::number(row, 1)?) })
        })
        .await?;
    Ok(end.position > end.meta.position_of(after)?)
}

/// Reads the end of the feed, and how far it is behind.
pub async fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    client
        .read(deadline, async |connection| {
            let rows = client.statements.lag.query().fetch_all(connection).await?;
            let row = rows.first().ok_or_else(missing_record)?;
            let (meta, end) = (codec::meta(row, 0)?, Position(codec::number(row, 1)?));
            let oldest: Option<i64> = codec::get(row, 3)?;
            let age = oldest.map_or(0, |oldest| client.now().0.saturating_sub(oldest).max(0));
            Ok(FeedHead {
                cursor: Cursor::total(meta.incarnation(), end),
                position: Some(end),
                lag: Lag { commits: codec::number(row, 2)?, age: Duration::from_micros(age.unsigned_abs()) },
                usage: ONE_REQUEST,
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_below_the_next_text() {
        assert_eq!(after_prefix("order-").as_deref(), Some("order."));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_prefix(""), None);
    }
}
