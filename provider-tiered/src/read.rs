//! Reads that put the store in front and the archive together. The store in front is asked first: what it does not have any more is in
//! the archive by then. What is not archived is read without a look at the archive.

use crate::archive::{self, Archive, StreamRead};
use crate::catalog::Catalog;
use crate::feed::Cold;
use crate::note::{self, Note};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Commit, CommitKind, CommitsPage, Content, Direction, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedPage,
    FeedStart, Head, Position, ReadCommits, ReadFeed, ReadHead, ReadStream, Result, Revision, StreamPage, StreamStart,
    Usage,
};
use evstore_kit::feed_page::Assembler;
use evstore_kit::limits::event_bytes;
use evstore_kit::stream_page::Slicer;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Events and bytes that the store in front is asked for at least where its pages are put together with the archive's.
const HOT_EVENTS_MIN: u32 = 500;
const HOT_BYTES_MIN: u64 = 1 << 20;

/// A page of one stream.
pub async fn stream(hot: &dyn EventStore, archive: &Archive, request: ReadStream) -> Result<StreamPage> {
    let (page, archived) = match hot.read_stream(request.clone()).await {
        Ok(page) => match archived_behind(hot, &request, &page).await? {
            Some(archived) => (Some(page), archived),
            None => return Ok(page),
        },
        Err(error) if error.kind() == ErrorKind::Schema => (None, error),
        Err(error) => return Err(error),
    };
    let mut usage = page.as_ref().map(|page| page.usage).unwrap_or_default();
    let head = match &page {
        Some(page) => page.head.clone(),
        None => hot.head(ReadHead { stream: request.stream.clone(), deadline: request.deadline }).await?,
    };
    let hot_commits = page.map(|page| page.commits).unwrap_or_default();
    // Without a note nothing was archived through this store: then it is as the store in front says.
    let note = note::read(hot, request.deadline).await?.ok_or(archived)?;
    put_together(hot, archive, &request, head, hot_commits, note, &mut usage).await
}

/// Why a page of the store in front ended before it was full, where that is the archive.
async fn archived_behind(hot: &dyn EventStore, request: &ReadStream, page: &StreamPage) -> Result<Option<Error>> {
    let events: usize = page.commits.iter().map(|commit| commit.events.len()).sum();
    let Some(next) = page.next else { return Ok(None) };
    if request.direction == Direction::Forward || events >= request.limit as usize || page.commits.is_empty() {
        return Ok(None);
    }
    // Bytes may have been the reason.
    let probe = ReadStream { from: StreamStart::At(next), limit: 1, max_bytes: 1, ..request.clone() };
    match hot.read_stream(probe).await {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Schema => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// What is left to be read.
struct Left {
    events: u32,
    bytes: u64,
}

impl Left {
    fn take(&mut self, commit: &Commit) {
        self.events = self.events.saturating_sub(commit.events.len() as u32).max(1);
        self.bytes = self.bytes.saturating_sub(commit.events.iter().map(event_bytes).sum()).max(1);
    }
}

/// Hands commits to a page: those of the store in front that were read already, then the archive's, then those of the store in front
/// behind them.
async fn put_together(
    hot: &dyn EventStore,
    archive: &Archive,
    request: &ReadStream,
    head: Head,
    hot_commits: Vec<Commit>,
    mut note: Note,
    usage: &mut Usage,
) -> Result<StreamPage> {
    let mut page = Slicer::new(request, head);
    let mut left = Left { events: request.limit.max(1), bytes: request.max_bytes.max(1) };
    let mut full = false;
    let push = |page: &mut Slicer, left: &mut Left, commits: Vec<Commit>| {
        commits.into_iter().any(|commit| {
            left.take(&commit);
            page.push(commit).is_break()
        })
    };
    full |= push(&mut page, &mut left, hot_commits);
    while let Some(from) = page.wants().filter(|_| !full) {
        let read = StreamRead {
            stream: &request.stream,
            from,
            direction: request.direction,
            events: left.events,
            bytes: left.bytes,
            deadline: request.deadline,
        };
        let cold = archive::read_stream(hot, archive, note.clone(), &read, usage).await?;
        if !cold.is_empty() {
            full |= push(&mut page, &mut left, cold);
            continue;
        }
        // The archive ends here, and the store in front goes on.
        let rest = ReadStream { from: StreamStart::At(from), ..request.clone() };
        match hot.read_stream(rest).await {
            Ok(rest) => {
                *usage += rest.usage;
                push(&mut page, &mut left, rest.commits);
                full = true;
            }
            Err(error) if error.kind() == ErrorKind::Schema => {
                // It was archived since the note was read: then a later one has it.
                let later = note::read(hot, request.deadline).await?.filter(|later| later.catalog > note.catalog);
                note = later.ok_or_else(|| lost(request, from))?;
            }
            Err(error) => return Err(error),
        }
    }
    page.finish(*usage)
}

fn lost(request: &ReadStream, revision: Revision) -> Error {
    Error::new(ErrorKind::Corrupt, "an event is neither in the store in front nor in the archive")
        .with("stream", &request.stream)
        .with("revision", revision)
}

/// A page of the feed.
pub async fn feed(hot: &dyn EventStore, archive: &Archive, request: ReadFeed, page_items: u32) -> Result<FeedPage> {
    let page = hot.read_feed(request.clone()).await?;
    let removed = page.items.iter().find_map(|item| match item {
        FeedItem::Removed { first, .. } => Some(*first),
        FeedItem::Commit(_) => None,
    });
    let Some(after) = page.before else { return Ok(page) };
    if request.filter.is_none() && removed.is_none() {
        return Ok(page);
    }
    let Some(note) = note::read(hot, request.deadline).await? else { return Ok(page) };
    // A filter leaves ranges out, so that only the positions tell.
    let first = if request.filter.is_none() { removed.unwrap_or(after.next()) } else { after.next() };
    if first.0 > note.through {
        return Ok(page);
    }
    let mut usage = page.usage;
    let merge = Merge { hot, archive, request: &request, after, page_items };
    let (assembled, end) = merge.run(note, &mut usage).await?;
    Ok(assembled.finish(page.next.incarnation(), end, usage))
}

/// A page of the feed that is put together from both.
struct Merge<'a> {
    hot: &'a dyn EventStore,
    archive: &'a Archive,
    request: &'a ReadFeed,
    after: Position,
    page_items: u32,
}

impl Merge<'_> {
    /// Tells where the feed ends too, as far as the page has to know.
    async fn run(&self, mut note: Note, usage: &mut Usage) -> Result<(Assembler, Position)> {
        loop {
            let catalog = self.archive.catalog(&note, self.request.deadline, usage).await?;
            match self.with_catalog(catalog.clone(), usage).await {
                Err(failed) => note = archive::later(self.hot, failed, &catalog, self.request.deadline).await?,
                done => return done,
            }
        }
    }

    /// Hands what stands in the feed to a page, ranges of the store in front filled from the archive.
    async fn with_catalog(&self, mut catalog: Arc<Catalog>, usage: &mut Usage) -> Result<(Assembler, Position)> {
        let deadline = self.request.deadline;
        let mut page = Assembler::new(self.request, self.after);
        let mut cold = Cold::new(self.archive, catalog.clone(), self.after.next(), deadline);
        let mut at = self.after;
        loop {
            let ask = ReadFeed {
                from: FeedStart::AfterPosition(at),
                filter: FeedFilter::none(),
                limit: self.request.limit.max(HOT_EVENTS_MIN).min(self.page_items),
                max_bytes: self.request.max_bytes.max(HOT_BYTES_MIN),
                deadline,
            };
            let found = self.hot.read_feed(ask).await?;
            *usage += found.usage;
            // What is missing here may have been archived just before it was read: the catalog has to be of later than that.
            if found.items.iter().any(|item| matches!(item, FeedItem::Removed { .. }))
                && let Some(note) = note::read(self.hot, deadline).await?
                && note.catalog > catalog.number
            {
                catalog = self.archive.catalog(&note, deadline, usage).await?;
                cold = Cold::new(self.archive, catalog.clone(), at.next(), deadline);
            }
            for item in found.items {
                let pushed = match item {
                    FeedItem::Commit(commit) => page.push(FeedItem::Commit(commit)),
                    FeedItem::Removed { first, last } => fill(&mut cold, &mut page, first, last, usage).await?,
                };
                if pushed.is_break() {
                    return Ok((page, Position(NUMBER_MAX)));
                }
            }
            let next = found.next.position().unwrap_or(at);
            if found.end || next <= at {
                return Ok((page, Position(0)));
            }
            at = next;
        }
    }
}

/// Hands a range to a page: what the archive has of it, and the rest as what is gone.
async fn fill(
    cold: &mut Cold<'_>,
    page: &mut Assembler,
    first: Position,
    last: Position,
    usage: &mut Usage,
) -> Result<ControlFlow<()>> {
    let mut next = first;
    while next <= last {
        let commit = cold.next(next, last, usage).await?;
        let (begin, end) = match &commit {
            Some(commit) => (commit.first_position.unwrap_or(next), commit.last_position().unwrap_or(next)),
            None => (last.next(), last),
        };
        if begin > next && page.push(FeedItem::Removed { first: next, last: Position(begin.0 - 1) }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(commit) = commit
            && page.push(FeedItem::Commit(commit)).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        next = end.next();
    }
    Ok(ControlFlow::Continue(()))
}

/// A page of the slots of a stream as the store in front has them, made whole where the archive has their events.
pub async fn commits(
    hot: &dyn EventStore,
    archive: &Archive,
    request: ReadCommits,
    mut page: CommitsPage,
) -> Result<CommitsPage> {
    let head = hot.head(ReadHead { stream: request.stream.clone(), deadline: request.deadline }).await?;
    let is_archived = |commit: &Commit| {
        commit.kind == CommitKind::Events
            && commit.content == Content::Stripped
            && commit.last_revision() >= head.first_retained
    };
    if !page.commits.iter().any(is_archived) {
        return Ok(page);
    }
    let mut commits: Vec<Commit> = Vec::new();
    let mut bytes_left = request.max_bytes;
    let found = std::mem::take(&mut page.commits);
    let mut events_left: u32 = found.iter().filter(|commit| is_archived(commit)).map(|commit| commit.count).sum();
    let mut cold = VecDeque::new();
    for stub in found {
        let commit = if is_archived(&stub) {
            if cold.is_empty() {
                cold = whole(hot, archive, &stub, events_left, bytes_left, &request, &mut page.usage).await?;
            }
            events_left -= stub.count;
            same(cold.pop_front(), &stub)?
        } else {
            stub
        };
        let bytes: u64 = commit.events.iter().map(event_bytes).sum();
        if !commits.is_empty() && bytes > bytes_left {
            page.next = Some(commit.number);
            break;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        commits.push(commit);
    }
    page.commits = commits;
    Ok(page)
}

/// What the archive has of a stream from a stub on.
async fn whole(
    hot: &dyn EventStore,
    archive: &Archive,
    stub: &Commit,
    events: u32,
    bytes: u64,
    request: &ReadCommits,
    usage: &mut Usage,
) -> Result<VecDeque<Commit>> {
    let note = note::read(hot, request.deadline).await?.ok_or_else(|| nowhere(stub))?;
    let read = StreamRead {
        stream: &stub.stream,
        from: stub.first_revision,
        direction: Direction::Forward,
        events,
        bytes: bytes.max(1),
        deadline: request.deadline,
    };
    Ok(archive::read_stream(hot, archive, note, &read, usage).await?.into())
}

/// A commit of the archive, if it is the one of which the store in front kept the stub.
fn same(found: Option<Commit>, stub: &Commit) -> Result<Commit> {
    let found = found.ok_or_else(|| nowhere(stub))?;
    if (found.number, found.id, found.digest) != (stub.number, stub.id, stub.digest) {
        return Err(Error::new(ErrorKind::Corrupt, "the archive has another commit than the one that was archived")
            .with("stream", &stub.stream)
            .with("number", stub.number));
    }
    Ok(found)
}

fn nowhere(stub: &Commit) -> Error {
    Error::new(ErrorKind::Corrupt, "a commit is neither in the store in front nor in the archive")
        .with("stream", &stub.stream)
        .with("number", stub.number)
}
