//! Reading streams: properties 65 to 77.

use super::deletion::deleting;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, PAGE_BYTES, revisions};
use evstore_api::capabilities::{Consistency, Limit, Support};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Deadline, Delete, Direction, EventStore, Expected, Head, NewEvent, ReadStream, Result, Revision, StreamId,
    StreamPage, StreamStart, StreamState, Truncate, Usage,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "streams.are-read-from-anywhere-in-both-directions",
        "a read begins at the asked revision, goes the asked way, and returns exactly as many events as asked or are there",
        [65, 66],
        are_read_from_anywhere_in_both_directions
    ),
    check!(
        "streams.pages-join-without-gap-or-repeat",
        "pages one after the other give every event once, at every length beside a multiple of the page",
        [66, 67],
        pages_join_without_gap_or_repeat
    ),
    check!(
        "streams.long-and-large-streams-are-read-whole",
        "a stream of more than a thousand events and of more than a megabyte is read whole, within the asked bounds",
        [66, 67],
        long_and_large_streams_are_read_whole
    ),
    check!(
        "streams.a-page-keeps-within-its-bytes",
        "a page holds no more bytes than asked, but always one event, and the next page goes on behind it",
        [66, 67],
        a_page_keeps_within_its_bytes
    ),
    check!(
        "streams.a-slice-keeps-the-frame-of-its-commit",
        "a read that begins or ends inside a commit keeps the commit's numbers, count and digest",
        [65, 73],
        a_slice_keeps_the_frame_of_its_commit
    ),
    check!(
        "streams.states-are-told-apart",
        "missing, open, wholly truncated and deleted streams answer differently, in heads, reads and appends",
        [68],
        states_are_told_apart
    ),
    check!(
        "streams.bounds-that-mean-nothing-are-refused",
        "revision 0 and a page above the declared one are refused, also on a missing stream; the largest page is given, and the \
         largest revisions are behind every head",
        [69],
        bounds_that_mean_nothing_are_refused
    ),
    check!(
        "streams.the-head-agrees-with-the-stream",
        "the head, the head of a page, an empty read and the last commit say the same, also when a read is limited",
        [70, 73, 74],
        the_head_agrees_with_the_stream
    ),
    check!(
        "streams.an-append-is-read-at-once",
        "what was acknowledged is read by the same client at once, and by another within the declared staleness",
        [71],
        an_append_is_read_at_once
    ),
    check!(
        "streams.a-slow-reader-sees-a-prefix",
        "a reader that goes page by page while others append sees every event once and in order",
        [72],
        a_slow_reader_sees_a_prefix
    ),
    check!(
        "streams.a-truncated-beginning-is-told",
        "a read of a stream whose beginning was truncated begins at the first event that is there, and says which that is",
        [76],
        a_truncated_beginning_is_told
    ),
    check!(
        "streams.a-read-costs-its-own-size",
        "reading one stream costs the same however many others there are",
        [77],
        a_read_costs_its_own_size
    ),
];

fn request(context: &Context, stream: &StreamId, from: StreamStart, direction: Direction, limit: u32) -> ReadStream {
    ReadStream { direction, limit, ..context.read_request(stream, from) }
}

/// What a read of a stream with `head` events has to return.
fn model(head: u64, from: StreamStart, direction: Direction, limit: u32) -> Vec<Revision> {
    let start = match (from, direction) {
        (StreamStart::First, _) => 1,
        (StreamStart::Last, _) => head,
        (StreamStart::At(revision), Direction::Forward) => revision.0,
        (StreamStart::At(revision), Direction::Backward) => revision.0.min(head),
    };
    let there: Vec<u64> = match direction {
        Direction::Forward => (start..=head).collect(),
        Direction::Backward => (1..=start).rev().collect(),
    };
    there.into_iter().take(limit as usize).map(Revision).collect()
}

/// A stream of twelve events in commits of different sizes.
async fn twelve_events(context: &Context) -> Result<StreamId> {
    let stream = context.stream();
    for count in [1, 4, 2, 1, 3, 1] {
        context.append(&stream, Expected::Any, count).await?;
    }
    context.settle().await;
    Ok(stream)
}

async fn are_read_from_anywhere_in_both_directions(context: Context) -> Result<Outcome, Broken> {
    const HEAD: u64 = 12;
    let stream = twelve_events(&context).await?;
    let starts = [StreamStart::First, StreamStart::Last].into_iter();
    let starts: Vec<_> =
        starts.chain([1, 2, 4, 5, 6, 8, 11, 12, 13, 99].map(|at| StreamStart::At(Revision(at)))).collect();
    for direction in [Direction::Forward, Direction::Backward] {
        for &from in &starts {
            for limit in [0, 1, 2, 3, 5, 11, 12, 13, 100] {
                let page = context.store().read_stream(request(&context, &stream, from, direction, limit)).await?;
                let what = format!("a read from {from:?} {direction:?} with limit {limit}");
                let wanted = model(HEAD, from, direction, limit);
                ensure_eq!(revisions(&page), wanted, "revisions of {what}");
                ensure_eq!((page.direction, page.head.revision), (direction, Revision(HEAD)), "frame of {what}");
                if limit > 0 {
                    let rest = model(HEAD, from, direction, u32::MAX).get(wanted.len()).copied();
                    ensure_eq!(page.next, rest, "where {what} says to go on");
                }
            }
        }
    }
    Ok(Outcome::Held)
}

/// Reads a stream page by page; no page may hold more than asked.
async fn walk(
    store: &dyn EventStore,
    mut request: ReadStream,
    between: Duration,
) -> Result<(Vec<Revision>, Vec<StreamPage>), Broken> {
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    loop {
        let page = store.read_stream(request.clone()).await?;
        let found = revisions(&page);
        ensure!(
            found.len() <= request.limit as usize,
            "a page of {} events, {} were asked",
            found.len(),
            request.limit
        );
        ensure!(!found.is_empty() || page.next.is_none(), "an empty page says to go on at {:?}", page.next);
        seen.extend(found);
        let next = page.next;
        pages.push(page);
        match next {
            None => return Ok((seen, pages)),
            Some(next) => request.from = StreamStart::At(next),
        }
        if !between.is_zero() {
            tokio::time::sleep(between).await;
        }
    }
}

async fn pages_join_without_gap_or_repeat(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut length = 0;
    // Commits of one to three events, so that pages end inside commits too.
    for count in [1, 3, 2, 3, 1, 1, 2, 3, 2, 1, 1, 1, 1] {
        context.append(&stream, Expected::Any, count).await?;
        length += u64::from(count);
        context.settle().await;
        for limit in [1, 2, 3, 4, 7] {
            for direction in [Direction::Forward, Direction::Backward] {
                let from = if direction == Direction::Forward { StreamStart::First } else { StreamStart::Last };
                let request = request(&context, &stream, from, direction, limit);
                let (seen, pages) = walk(&**context.store(), request, Duration::ZERO).await?;
                let what = format!("{length} events in pages of {limit} {direction:?}");
                ensure_eq!(seen, model(length, from, direction, u32::MAX), "revisions of {what}");
                let wanted = length.div_ceil(u64::from(limit));
                ensure_eq!(pages.len() as u64, wanted, "pages of {what}");
            }
        }
    }
    Ok(Outcome::Held)
}

async fn long_and_large_streams_are_read_whole(context: Context) -> Result<Outcome, Broken> {
    let limits = context.capabilities().limits;
    let stream = context.stream();
    let events_max = |limit| if let Limit::Max(max) = limit { max } else { u64::MAX };
    // More than 1,000 rows, and more than 1 MB, which is where engines cut their own pages.
    let (long, page) = (1_100_u64, limits.page_items.min(1_000));
    let at_once = events_max(limits.commit_events).min(100) as u32;
    let mut length = 0;
    while length < long {
        let count = at_once.min((long - length) as u32);
        context.append(&stream, Expected::Any, count).await?;
        length += u64::from(count);
    }
    context.settle().await;
    let forward = request(&context, &stream, StreamStart::First, Direction::Forward, page);
    let (seen, pages) = walk(&**context.store(), forward, Duration::ZERO).await?;
    ensure_eq!(seen, model(long, StreamStart::First, Direction::Forward, u32::MAX), "revisions of a long stream");
    ensure_eq!(pages.len() as u64, long.div_ceil(u64::from(page)), "pages of a long stream");
    let large = context.stream();
    // Half of what an event may hold, or 100 KB: twenty of them are more than any engine's own page.
    let size = events_max(limits.event_bytes).min(events_max(limits.commit_bytes) / 2).min(100_000) as usize;
    for number in 0..20_u8 {
        let mut event = context.event();
        event.data = vec![number; size].into();
        context.append_events(&large, Expected::Any, vec![event]).await?;
    }
    context.settle().await;
    for direction in [Direction::Forward, Direction::Backward] {
        let from = if direction == Direction::Forward { StreamStart::First } else { StreamStart::Last };
        let page = context.store().read_stream(request(&context, &large, from, direction, 20)).await?;
        ensure_eq!(revisions(&page), model(20, from, direction, 20), "revisions of a large stream {direction:?}");
        let whole = page.events().all(|one| *one.event.data == vec![(one.revision().0 - 1) as u8; size]);
        ensure!(whole, "an event of a large stream has other bytes than were appended");
    }
    Ok(Outcome::Held)
}

async fn a_page_keeps_within_its_bytes(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let sizes = [10_u64, 20, 500, 1, 0, 30, 30, 499];
    for pair in sizes.chunks(2) {
        let events = pair.iter().map(|&size| {
            let mut event = context.event();
            // Metadata counts too.
            event.data = vec![1; (size / 2) as usize].into();
            event.metadata = vec![2; (size - size / 2) as usize].into();
            event
        });
        context.append_events(&stream, Expected::Any, events.collect()).await?;
    }
    context.settle().await;
    for max_bytes in [0, 1, 30, 31, 60, 500, 530, PAGE_BYTES, u64::MAX] {
        for direction in [Direction::Forward, Direction::Backward] {
            let from = if direction == Direction::Forward { StreamStart::First } else { StreamStart::Last };
            let request = ReadStream { max_bytes, ..request(&context, &stream, from, direction, 100) };
            let (seen, pages) = walk(&**context.store(), request, Duration::ZERO).await?;
            let what = format!("a stream in pages of {max_bytes} bytes {direction:?}");
            ensure_eq!(seen, model(8, from, direction, 8), "revisions of {what}");
            ensure!(max_bytes < PAGE_BYTES || pages.len() == 1, "{what} is given in {} pages", pages.len());
            for page in pages {
                let bytes: Vec<u64> =
                    page.events().map(|one| (one.event.data.len() + one.event.metadata.len()) as u64).collect();
                // One event may be larger than the page; behind it there is room for none that has bytes.
                let (total, behind) = (bytes.iter().sum::<u64>(), bytes.iter().skip(1).sum::<u64>());
                ensure!(total <= max_bytes || behind == 0, "{what}: {} events of {total} bytes", bytes.len());
            }
        }
    }
    Ok(Outcome::Held)
}

async fn a_slice_keeps_the_frame_of_its_commit(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::Any, 2).await?;
    let receipt = context.append(&stream, Expected::Any, 5).await?;
    context.settle().await;
    for (direction, from, wanted) in
        [(Direction::Forward, 4, [1, 2, 3]), (Direction::Backward, 6, [1, 2, 3]), (Direction::Forward, 5, [2, 3, 4])]
    {
        let from = StreamStart::At(Revision(from));
        let page = context.store().read_stream(request(&context, &stream, from, direction, 3)).await?;
        ensure_eq!(page.commits.len(), 1, "commits of a read inside a commit");
        let commit = &page.commits[0];
        ensure_eq!(
            (commit.id, commit.number, commit.first_revision, commit.count, commit.digest, commit.recorded_at),
            (receipt.commit, receipt.number, receipt.first, 5, receipt.digest, receipt.recorded_at),
            "frame of a commit that was read in part"
        );
        let ordinals: Vec<_> = commit.events.iter().map(|event| event.ordinal).collect();
        ensure_eq!(ordinals, wanted, "ordinals of the part");
        ensure!(!commit.is_whole(), "a part says that it is the whole commit");
    }
    Ok(Outcome::Held)
}

async fn states_are_told_apart(context: Context) -> Result<Outcome, Broken> {
    let (missing, open, truncated, deleted) = (context.stream(), context.stream(), context.stream(), context.stream());
    for stream in [&open, &truncated, &deleted] {
        context.append(stream, Expected::Any, 2).await?;
    }
    let states = |page: &StreamPage| (page.head.state.clone(), page.head.revision.0, page.head.first_retained.0);
    let mut wanted = vec![(&missing, (StreamState::Missing, 0, 1), 0), (&open, (StreamState::Open, 2, 1), 2)];
    if context.capabilities().deletion == Support::Promised {
        let (commit, deadline) = (context.commit_id(), context.deadline());
        let truncate = Truncate { stream: truncated.clone(), commit, before: Revision(3), deadline };
        context.admin().truncate(truncate).await?;
        let commit = context.commit_id();
        context.admin().delete(Delete { stream: deleted.clone(), expected: Expected::Any, commit, deadline }).await?;
        wanted.push((&truncated, (StreamState::Open, 2, 3), 0));
        wanted.push((&deleted, (StreamState::Deleted, 2, 3), 0));
    }
    for (stream, state, events) in wanted {
        let page = context.read(stream).await?;
        ensure_eq!(states(&page), state, "state, head and first event that is there");
        ensure_eq!(page.events().count(), events, "events of a stream that is {:?}", state.0);
        ensure_eq!(context.head(stream).await?, page.head, "head of a stream that is {:?}", state.0);
        let result = context.append(stream, Expected::Any, 1).await;
        if state.0 == StreamState::Deleted {
            ensure_kind!(result, Gone, "an append to a deleted stream");
        } else {
            ensure_eq!(result?.first, Revision(state.1 + 1), "revision of an append to a stream that is {:?}", state.0);
        }
    }
    Ok(Outcome::Held)
}

async fn bounds_that_mean_nothing_are_refused(context: Context) -> Result<Outcome, Broken> {
    let (stream, missing) = (twelve_events(&context).await?, context.stream());
    let most = context.capabilities().limits.page_items;
    for stream in [&stream, &missing] {
        for direction in [Direction::Forward, Direction::Backward] {
            let zero = request(&context, stream, StreamStart::At(Revision(0)), direction, 1);
            ensure_kind!(context.store().read_stream(zero).await, Invalid, "a read {direction:?} from revision 0");
            let full = request(&context, stream, StreamStart::First, direction, most);
            context.store().read_stream(full.clone()).await?;
            if let Some(limit) = most.checked_add(1) {
                let beyond = ReadStream { limit, ..full };
                let beyond = context.store().read_stream(beyond).await;
                ensure_kind!(beyond, Invalid, "a page of one event more than declared");
            }
            for far in [NUMBER_MAX, NUMBER_MAX + 1, i64::MAX as u64, u64::MAX] {
                let from = StreamStart::At(Revision(far));
                let page = context.store().read_stream(request(&context, stream, from, direction, 3)).await?;
                let head = page.head.revision.0;
                let what = format!("a read {direction:?} from revision {far} of a stream with {head} events");
                ensure_eq!(revisions(&page), model(head, from, direction, 3), "revisions of {what}");
                let next = model(head, from, direction, 4).get(3).copied();
                ensure_eq!(page.next, next, "where {what} says to go on");
            }
        }
    }
    Ok(Outcome::Held)
}

async fn the_head_agrees_with_the_stream(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    for count in [1, 4, 2] {
        let receipt = context.append(&stream, Expected::Any, count).await?;
        let head = context.head(&stream).await?;
        let wanted = Head {
            revision: receipt.last,
            number: receipt.number,
            first_retained: Revision(1),
            commit: Some(receipt.commit),
            recorded_at: Some(receipt.recorded_at),
            state: StreamState::Open,
        };
        ensure_eq!(head, wanted, "head after an append");
        for (from, direction, limit) in [
            (StreamStart::First, Direction::Forward, 0),
            (StreamStart::First, Direction::Forward, 1),
            (StreamStart::Last, Direction::Backward, 1),
            (StreamStart::At(Revision(99)), Direction::Forward, 5),
        ] {
            let page = context.store().read_stream(request(&context, &stream, from, direction, limit)).await?;
            ensure_eq!(page.head, head, "head of a page from {from:?} {direction:?} with limit {limit}");
        }
    }
    // A reader that has seen one event of seven still knows what to expect.
    let page =
        context.store().read_stream(request(&context, &stream, StreamStart::First, Direction::Forward, 1)).await?;
    let receipt = context.append(&stream, Expected::At(page.head.revision), 1).await?;
    ensure_eq!(receipt.first, Revision(8), "revision of an append after a limited read");
    Ok(Outcome::Held)
}

async fn an_append_is_read_at_once(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    let stream = context.stream();
    let staleness = match context.capabilities().reads {
        Consistency::Strong => Duration::ZERO,
        Consistency::Eventual { staleness } => staleness,
    };
    // Whoever was told that it is made reads it, however far behind others may be.
    let readers = [(context.store(), "the same client", Duration::ZERO), (&other, "another client", staleness)];
    for round in 1..=context.rounds(20) {
        context.append(&stream, Expected::Any, 1).await?;
        for (client, name, staleness) in readers {
            let within = Deadline::within(staleness);
            let last = request(&context, &stream, StreamStart::Last, Direction::Backward, 1);
            let mut page = client.read_stream(last.clone()).await?;
            while page.head.revision < Revision(round) && !within.has_passed() {
                tokio::task::yield_now().await;
                page = client.read_stream(last.clone()).await?;
            }
            ensure_eq!(page.head.revision, Revision(round), "head that {name} reads {staleness:?} after an append");
            ensure_eq!(revisions(&page), [Revision(round)], "last event that {name} reads");
        }
    }
    other.close().await?;
    Ok(Outcome::Held)
}

async fn a_slow_reader_sees_a_prefix(context: Context) -> Result<Outcome, Broken> {
    let stream = twelve_events(&context).await?;
    let other = context.another_client().await?;
    let (mut seen, mut heads) = (Vec::<Revision>::new(), Vec::new());
    // Small pages never come to the end while somebody appends, and large ones do time and again.
    for limit in [2, crate::context::page_of(context.capabilities())] {
        let written = AtomicBool::new(false);
        let writing = async {
            let result = append_some(&context, &*other, &stream).await;
            written.store(true, Ordering::SeqCst);
            result
        };
        let reading = async {
            loop {
                // Read before the walk: what was appended before it was set is in the pages that come after.
                let last = written.load(Ordering::SeqCst);
                let from = seen.last().map_or(StreamStart::First, |last| StreamStart::At(last.next()));
                let forward = request(&context, &stream, from, Direction::Forward, limit);
                let (more, pages) = walk(&**context.store(), forward, Duration::from_micros(50)).await?;
                seen.extend(more);
                heads.extend(pages.iter().map(|page| page.head.revision));
                // Nothing is behind the last page, so the head that it names has been read.
                ensure_eq!(seen.last(), heads.last(), "the last event before the end, beside the head of its page");
                if last {
                    return Ok(());
                }
                // The writer runs meanwhile, also where no read ever waits.
                tokio::task::yield_now().await;
            }
        };
        let (written, read) = futures::join!(writing, reading);
        written?;
        read?;
    }
    let wanted: Vec<_> = (1..=12 + 6 * context.rounds(15)).map(Revision).collect();
    match context.capabilities().reads {
        Consistency::Strong => ensure_eq!(seen, wanted, "revisions that a slow reader saw"),
        Consistency::Eventual { .. } => {
            ensure!(wanted.starts_with(&seen), "a slow reader saw no beginning of the stream: {seen:?}");
        }
    }
    ensure!(seen.len() >= 12, "a slow reader saw {} of at least 12 events", seen.len());
    ensure!(heads.is_sorted(), "the head fell while a reader went on: {heads:?}");
    other.close().await?;
    Ok(Outcome::Held)
}

async fn append_some(context: &Context, store: &dyn EventStore, stream: &StreamId) -> Result<(), Broken> {
    for _ in 0..context.rounds(15) {
        store.append(context.request(stream, Expected::Any, context.commit_id(), context.events(3))?).await?;
        // Long enough for the reader to come between.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn a_truncated_beginning_is_told(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let stream = twelve_events(&context).await?;
    let (commit, deadline) = (context.commit_id(), context.deadline());
    // Commits end at 1, 5, 7, 8, 11, 12: the one that holds event 6 is kept whole.
    let request = Truncate { stream: stream.clone(), commit, before: Revision(7), deadline };
    let truncated = context.admin().truncate(request).await?;
    ensure_eq!(truncated.first_retained, Revision(6), "first event that is there, by the receipt");
    for (from, direction, wanted) in [
        (StreamStart::First, Direction::Forward, (6..=12).collect::<Vec<u64>>()),
        (StreamStart::At(Revision(1)), Direction::Forward, (6..=12).collect()),
        (StreamStart::At(Revision(8)), Direction::Forward, (8..=12).collect()),
        (StreamStart::Last, Direction::Backward, (6..=12).rev().collect()),
        (StreamStart::At(Revision(6)), Direction::Backward, vec![6]),
        (StreamStart::At(Revision(5)), Direction::Backward, vec![]),
    ] {
        context.settle().await;
        let page = context.store().read_stream(self::request(&context, &stream, from, direction, 100)).await?;
        let wanted: Vec<_> = wanted.into_iter().map(Revision).collect();
        ensure_eq!(revisions(&page), wanted, "revisions from {from:?} {direction:?} after truncation before 7");
        ensure_eq!(page.next, None, "where to go on");
        ensure_eq!((page.head.first_retained, page.head.revision), (Revision(6), Revision(12)), "first and last event");
    }
    Ok(Outcome::Held)
}

async fn a_read_costs_its_own_size(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    let append = |stream: StreamId| {
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(1));
        let store = fresh.store.clone();
        async move { store.append(request?).await }
    };
    for _ in 0..5 {
        append(stream.clone()).await?;
    }
    let read = async |stream: &StreamId| {
        let page = fresh.store.read_stream(context.read_request(stream, StreamStart::First)).await?;
        Ok::<_, Broken>((page.events().count(), page.usage))
    };
    let (events, alone) = read(&stream).await?;
    ensure_eq!(events, 5, "events of the stream");
    let others = context.rounds(100);
    for _ in 0..others {
        append(context.stream()).await?;
    }
    let (events, beside) = read(&stream).await?;
    ensure_eq!(events, 5, "events of the stream beside {others} others");
    let cost = |usage: &Usage| (usage.requests, usage.read_units);
    ensure_eq!(cost(&beside), cost(&alone), "requests and read units of a read beside {others} other streams");
    // What says the same of everything says nothing: two megabytes are several pages of any engine.
    let large = context.stream();
    for _ in 0..LARGE {
        let event = NewEvent { data: vec![7; LARGE_BYTES].into(), ..context.event() };
        fresh.store.append(context.request(&large, Expected::Any, context.commit_id(), vec![event])?).await?;
    }
    let (events, of_large) = read(&large).await?;
    ensure_eq!(events, LARGE, "events of a large stream");
    if cost(&of_large) == cost(&alone) {
        return Ok(Outcome::NotRun(format!(
            "the store says of every read that it took {} requests and {} read units, of two megabytes too",
            alone.requests, alone.read_units
        )));
    }
    context.remark(format!("{} requests for five events, {} for two megabytes", alone.requests, of_large.requests));
    Ok(Outcome::Held)
}

/// Events of a stream of two megabytes, and the bytes of each.
const LARGE: usize = 50;
const LARGE_BYTES: usize = 40_000;
