//! The feed over all streams: properties 78 to 103, and waiting for it (88, 125). Its filters are in `filters`.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, event_type};
use crate::seed::Seed;
use evstore_api::capabilities::{FeedOrder, Positioned, Positions, RealTime, Support};
use evstore_api::cursor::Place;
use evstore_api::{
    AdvanceFeed, Appended, Commit, CommitId, CommitNumber, Cursor, Deadline, Delete, Error, ErrorKind, EventId,
    EventRef, EventStore, Expected, FeedFilter, FeedItem, FeedPage, FeedStart, FindCommit, Incarnation, Lag, Lineage,
    NewEvent, Origin, Position, ReadCommits, ReadFeed, Replica, Replicate, Revision, Settings, StoreAdmin, StoreState,
    StreamId, Timestamp, Truncate, WaitFeed, Waited,
};
use std::cmp::Ordering as Compared;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "feed.every-event-appears-once",
        "every committed event is in the feed exactly once, with all that its stream has of it",
        [78, 90],
        every_event_appears_once
    ),
    check!(
        "feed.the-order-holds-under-load",
        "the feed keeps its declared order, and the order within each stream, while many append",
        [79, 91, 194],
        the_order_holds_under_load
    ),
    check!(
        "feed.a-tailing-reader-skips-nothing",
        "a reader that always resumes after its last place misses nothing, whatever is late, refused or cancelled",
        [80, 81, 82, 83, 84, 94],
        a_tailing_reader_skips_nothing
    ),
    check!(
        "feed.a-stalled-caller-holds-up-nobody",
        "an append whose caller stalls neither stops the feed nor is skipped by it",
        [80, 85],
        a_stalled_caller_holds_up_nobody
    ),
    check!(
        "feed.cursors-print-parse-and-compare",
        "a cursor prints in at most 1 KiB, reads back as the same place, and compares with others of its store",
        [86],
        cursors_print_parse_and_compare
    ),
    check!(
        "feed.resumes-from-every-place",
        "from every place that a page gave, filtered or not, a reader gets exactly the rest",
        [87, 92],
        resumes_from_every_place
    ),
    check!(
        "feed.resumes-after-every-position",
        "after every position, also inside a commit, a reader gets exactly the rest; opaque positions are refused",
        [87, 102],
        resumes_after_every_position
    ),
    check!(
        "feed.the-end-is-empty-then-live",
        "at and beyond its end the feed is empty, and what is appended later is read from there",
        [88],
        the_end_is_empty_then_live
    ),
    check!(
        "feed.foreign-cursors-are-refused",
        "a cursor that is malformed, of another store or of another kind of order is refused",
        [89],
        foreign_cursors_are_refused
    ),
    check!(
        "feed.lost-history-stops-a-consumer",
        "after a history ended, a cursor up to its end goes on, and one beyond it is told that history was lost",
        [89],
        lost_history_stops_a_consumer
    ),
    check!(
        "feed.receipts-agree-with-it",
        "the position in a receipt is the one in the feed, where the append gives it, and none where it does not",
        [13, 90, 194],
        receipts_agree_with_it
    ),
    check!(
        "feed.pages-hold-whole-commits",
        "a page holds whole commits, at least one, and no more events or bytes than asked for where it has several",
        [35, 92],
        pages_hold_whole_commits
    ),
    check!(
        "feed.limits-of-a-page-are-kept",
        "a limit of 0 or above the declared one is refused; the declared one is taken",
        [69, 194],
        limits_of_a_page_are_kept
    ),
    check!(
        "feed.events-of-one-moment-all-come",
        "many more events of one moment than fit a page all come, in pages that always move on",
        [92, 93],
        events_of_one_moment_all_come
    ),
    check!(
        "feed.clocks-do-not-order-it",
        "commits whose clock was days ahead or behind neither hide nor reorder others, and time never falls in a stream",
        [95, 174],
        clocks_do_not_order_it
    ),
    check!(
        "feed.an-empty-store-has-a-place",
        "the feed of an empty store is empty, and its head is the place before the first",
        [98],
        an_empty_store_has_a_place
    ),
    check!(
        "feed.readers-at-any-speed-see-the-same",
        "two readers at different speeds get the same sequence",
        [99],
        readers_at_any_speed_see_the_same
    ),
    check!(
        "feed.the-head-never-moves-back",
        "the head of the feed and the places that reads return never move back, from any client",
        [100],
        the_head_never_moves_back
    ),
    check!(
        "feed.every-position-is-accounted-for",
        "every position up to the head is an event, a marker or part of a removed range, and every page says where it began",
        [101, 102],
        every_position_is_accounted_for
    ),
    check!(
        "feed.is-as-fast-as-declared",
        "an acknowledged commit comes into the feed within the declared time by itself, and the lag says how late it is",
        [103, 194],
        is_as_fast_as_declared
    ),
    check!(
        "feed.lag-is-reported",
        "the head says how far the feed is behind the streams, and what it holds not to be behind is there",
        [103],
        lag_is_reported
    ),
    check!(
        "feed.a-wait-ends-with-an-append",
        "a wait ends when any client appends, at once when there is more already, and else at its deadline",
        [88, 125],
        a_wait_ends_with_an_append
    ),
];

/// Writers at a time, where many append.
const WRITERS: usize = 16;
/// Streams that they share.
const STREAMS: usize = 5;
/// Pages with nothing in them that a reader takes before the end, once nobody appends any more.
const IDLE_MAX: u32 = 1_000;
/// Looks of a watcher once nobody appends any more.
const LOOKS_MORE: usize = 6;
/// Longest time that others need while a caller stalls.
const STALL_MAX: Duration = Duration::from_secs(5);

/// An event as the feed gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) position: Option<Position>,
    pub(super) stream: StreamId,
    pub(super) revision: Revision,
    pub(super) event: EventId,
}

impl Seen {
    fn of(event: EventRef<'_>) -> Self {
        Self {
            position: event.position(),
            stream: event.stream().clone(),
            revision: event.revision(),
            event: event.event.id,
        }
    }
}

/// The events of pages.
pub(super) fn seen<'a>(pages: impl IntoIterator<Item = &'a FeedPage>) -> Vec<Seen> {
    pages.into_iter().flat_map(FeedPage::events).map(Seen::of).collect()
}

/// Brings the feed up to what was acknowledged, where a sequencer or time has to do that.
pub(super) async fn catch_up(context: &Context, admin: &dyn StoreAdmin) -> Result<(), Error> {
    let deadline = context.deadline();
    loop {
        let head = admin.advance_feed(AdvanceFeed { deadline }).await?.head;
        if head.lag.commits == 0 || deadline.has_passed() {
            break;
        }
    }
    if let Positioned::Never { settling } = context.capabilities().positioned {
        tokio::time::sleep(settling).await;
    }
    Ok(())
}

/// Pages of a whole feed, brought up to the streams first.
pub(super) async fn whole_feed(context: &Context, fresh: &Fresh) -> Result<Vec<FeedPage>, Error> {
    catch_up(context, &*fresh.admin).await?;
    context.feed_until(&*fresh.store, FeedStart::First, FeedFilter::none(), 0).await
}

/// Appends so many events to a store of the check's own, whatever the stream's head.
pub(super) async fn append_to(
    context: &Context,
    store: &dyn EventStore,
    stream: &StreamId,
    count: u32,
) -> Result<Appended, Error> {
    store.append(context.request(stream, Expected::Any, context.commit_id(), context.events(count))?).await
}

/// Ends a check as broken unless two reads of one feed gave the same events, in an order that the store declares.
pub(super) fn ensure_same(context: &Context, found: &[Seen], wanted: &[Seen], what: &str) -> Result<(), Broken> {
    let arranged = |events: &[Seen]| {
        let mut events = events.to_vec();
        // Without one order over all streams two reads may mix them differently. The sort is stable: it keeps each stream.
        if context.capabilities().order != FeedOrder::Total {
            events.sort_by(|one, other| one.stream.cmp(&other.stream));
        }
        events
    };
    let (found, wanted) = (arranged(found), arranged(wanted));
    let differs = (0..found.len().max(wanted.len())).find(|&at| found.get(at) != wanted.get(at));
    match differs {
        None => Ok(()),
        Some(at) => Err(Broken::new(format!(
            "{what}: event {} of {} is {:?}, wanted {:?} of {}",
            at + 1,
            found.len(),
            found.get(at),
            wanted.get(at),
            wanted.len()
        ))),
    }
}

/// A few streams with commits of several sizes, one after the other, in a store of the check's own.
async fn filled(context: &Context) -> Result<(Fresh, Vec<StreamId>, Vec<Appended>), Broken> {
    let fresh = context.fresh().await?;
    let streams: Vec<_> = (0..3).map(|_| context.stream()).collect();
    let mut receipts = Vec::new();
    for (stream, count) in [(0, 2), (1, 1), (0, 3), (2, 1), (1, 4), (0, 1), (2, 2)] {
        receipts.push(append_to(context, &*fresh.store, &streams[stream], count).await?);
    }
    catch_up(context, &*fresh.admin).await?;
    for (stream, events) in streams.iter().zip([6, 5, 3]) {
        let there = context.read_from(&*fresh.store, stream).await?.events().count();
        ensure_eq!(there, events, "events of {stream}, before anything is asked of the feed");
    }
    Ok((fresh, streams, receipts))
}

/// All slots of a stream.
pub(super) async fn slots(context: &Context, admin: &dyn StoreAdmin, stream: &StreamId) -> Result<Vec<Commit>, Error> {
    let (mut commits, mut next) = (Vec::new(), Some(CommitNumber(1)));
    while let Some(from) = next {
        let deadline = context.deadline();
        let (limit, max_bytes) = (crate::context::page_of(admin.capabilities()), crate::context::PAGE_BYTES);
        let page = admin.read_commits(ReadCommits { stream: stream.clone(), from, limit, max_bytes, deadline }).await?;
        commits.extend(page.commits);
        next = page.next;
    }
    Ok(commits)
}

async fn every_event_appears_once(context: Context) -> Result<Outcome, Broken> {
    let (fresh, streams, _) = filled(&context).await?;
    let mut wanted = BTreeMap::new();
    for stream in &streams {
        for commit in context.read_from(&*fresh.store, stream).await?.commits {
            wanted.insert((commit.stream.clone(), commit.number), commit);
        }
    }
    for page in whole_feed(&context, &fresh).await? {
        for commit in page.commits() {
            let standing = wanted.remove(&(commit.stream.clone(), commit.number));
            ensure_eq!(standing.as_ref(), Some(commit), "a commit of the feed, as its stream has it, once");
        }
    }
    ensure!(wanted.is_empty(), "commits that are in no page of the feed: {:?}", wanted.keys());
    Ok(Outcome::Held)
}

/// An acknowledged append, by when it was under way.
#[derive(Clone, Debug)]
struct Timed {
    receipt: Appended,
    began: Instant,
    ended: Instant,
}

async fn the_order_holds_under_load(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(2) {
        let fresh = context.fresh().await?;
        let streams: Vec<_> = (0..STREAMS).map(|_| context.stream()).collect();
        let answers = context
            .together(WRITERS, |writer| {
                let (context, store, streams) = (context.clone(), fresh.store.clone(), streams.clone());
                let mut seed = Seed(context.seed().0 ^ writer as u64);
                async move {
                    let mut timed = Vec::new();
                    for _ in 0..6 {
                        let (stream, count) = (seed.pick(&streams).clone(), 1 + seed.below(4) as u32);
                        let began = Instant::now();
                        let receipt = append_to(&context, &*store, &stream, count).await?;
                        timed.push(Timed { receipt, began, ended: Instant::now() });
                    }
                    Ok::<_, Error>(timed)
                }
            })
            .await?;
        let timed: Vec<Timed> = answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let pages = whole_feed(&context, &fresh).await?;
        let commits: Vec<&Commit> = pages.iter().flat_map(FeedPage::commits).collect();
        ensure_eq!(commits.len(), timed.len(), "commits in the feed");
        ensure_in_stream_order(&commits)?;
        ensure_positions_rise(&context, &commits)?;
        ensure_real_time(&context, &commits, &timed)?;
        if context.capabilities().order == FeedOrder::PerPartition {
            ensure_partitions_agree(&context, &fresh, &commits).await?;
        }
    }
    Ok(Outcome::Held)
}

/// Within each partition every reader gets the same order, in small pages and in large ones.
async fn ensure_partitions_agree(context: &Context, fresh: &Fresh, replayed: &[&Commit]) -> Result<(), Broken> {
    let other = context.open(&fresh.settings).await?;
    let (one, another) = (partitions(context, &*fresh.store).await?, partitions(context, &*other).await?);
    other.close().await?;
    ensure!(
        one.len() * 2 >= replayed.len(),
        "of {} commits in pages of one, {} move the mark of one partition",
        replayed.len(),
        one.len()
    );
    // Two readers may go through the partitions in another order, and each of these in one only.
    let arranged = |commits: Vec<CommitId>| {
        let mut orders: BTreeMap<u32, Vec<CommitId>> = BTreeMap::new();
        for commit in commits {
            if let Some((_, partition)) = one.iter().find(|(known, _)| *known == commit) {
                orders.entry(*partition).or_default().push(commit);
            }
        }
        orders
    };
    let wanted = arranged(one.iter().map(|(commit, _)| *commit).collect());
    let again = arranged(another.iter().map(|(commit, _)| *commit).collect());
    for (partition, commits) in &again {
        let first = wanted.get(partition).map(|wanted| wanted.iter().filter(|one| commits.contains(one)).collect());
        ensure_eq!(Some(commits.iter().collect::<Vec<_>>()), first, "commits of partition {partition} for two readers");
    }
    let large = arranged(replayed.iter().map(|commit| commit.id).collect());
    ensure_eq!(large, wanted, "commits of each partition in large pages, beside those in pages of one");
    Ok(())
}

/// The commits of a feed in pages of one, each with the partition whose mark its page moved.
async fn partitions(context: &Context, store: &dyn EventStore) -> Result<Vec<(CommitId, u32)>, Broken> {
    let (mut from, mut marks, mut found) = (FeedStart::First, Vec::new(), Vec::new());
    loop {
        let request = ReadFeed { limit: 1, ..context.feed_request(from, FeedFilter::none()) };
        let page = store.read_feed(request).await?;
        let Place::Parts(parts) = page.next.place() else {
            return Err(Broken::new("the feed is in partitions, and a cursor is of one order"));
        };
        let moved: Vec<_> =
            parts.iter().filter(|part| !marks.contains(*part)).map(|(partition, _)| *partition).collect();
        // The first page may name every partition.
        if let ([partition], Some(commit)) = (&moved[..], page.commits().next()) {
            found.push((commit.id, *partition));
        }
        marks.clone_from(parts);
        if page.end {
            return Ok(found);
        }
        from = FeedStart::After(page.next);
    }
}

fn ensure_in_stream_order(commits: &[&Commit]) -> Result<(), Broken> {
    let mut heads: HashMap<&StreamId, (Revision, CommitNumber)> = HashMap::new();
    for commit in commits {
        let (revision, number) = heads.entry(&commit.stream).or_default();
        ensure!(commit.is_whole(), "a page has a part of commit {} of {}", commit.number, commit.stream);
        let found = (commit.first_revision, commit.number);
        ensure_eq!(found, (revision.next(), number.next()), "next commit of {} in the feed", commit.stream);
        (*revision, *number) = (commit.last_revision(), commit.number);
    }
    Ok(())
}

/// Events of one commit take positions one after the other: what comes behind may begin only after the last of them.
fn ensure_positions_rise(context: &Context, commits: &[&Commit]) -> Result<(), Broken> {
    let capabilities = context.capabilities();
    let mut last = Position(0);
    for commit in commits {
        match (commit.first_position, capabilities.positions) {
            (None, Positions::Opaque) => {}
            (Some(first), Positions::Contiguous) if capabilities.order == FeedOrder::Total => {
                ensure_eq!(first, last.next(), "position after {last}");
            }
            (Some(first), Positions::Contiguous | Positions::Increasing) => {
                let rises = capabilities.order != FeedOrder::Total || first > last;
                ensure!(rises, "position {first} stands behind {last}");
            }
            (found, declared) => {
                return Err(Broken::new(format!("positions are {declared:?}, and a commit has {found:?}")));
            }
        }
        last = commit.last_position().unwrap_or_default();
    }
    Ok(())
}

/// What was acknowledged before something else began stands before it, where that is declared.
fn ensure_real_time(context: &Context, commits: &[&Commit], timed: &[Timed]) -> Result<(), Broken> {
    if context.capabilities().real_time == RealTime::NotKept {
        return Ok(());
    }
    let times: HashMap<_, _> = timed.iter().map(|timed| (timed.receipt.commit, timed)).collect();
    let mut earliest_end: Option<&Timed> = None;
    for commit in commits.iter().rev() {
        let Some(timed) = times.get(&commit.id) else {
            return Err(Broken::new(format!("commit {} of the feed was never acknowledged", commit.id)));
        };
        if let Some(later) = earliest_end.filter(|later| later.ended < timed.began) {
            return Err(Broken::new(format!(
                "commit {} was acknowledged before commit {} began, and stands behind it",
                later.receipt.commit, commit.id
            )));
        }
        earliest_end = Some(earliest_end.map_or(timed, |later| if later.ended < timed.ended { later } else { timed }));
    }
    Ok(())
}

/// A reader that tails the feed.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// Takes pages of so many events.
    Pages(u32),
    /// The same, and keeps no more than the printed cursor between two pages, as one that restarts each time.
    Restarting(u32),
    /// The same, and opens the store anew for each page, as one whose process ends after each.
    Reopening(u32),
}

/// Follows the feed from its beginning, always after the last place given, until it is quiet.
async fn follow(
    context: Context,
    settings: Settings,
    store: Arc<dyn EventStore>,
    reader: Reader,
    quiet: Arc<AtomicBool>,
) -> Result<Vec<Seen>, Broken> {
    let (mut from, mut given, mut idle) = (FeedStart::First, Vec::new(), 0);
    loop {
        // Others run between two pages, whatever the store does.
        tokio::task::yield_now().await;
        // Read before the page: what was appended before it was set is in a page that comes after.
        let was_quiet = quiet.load(Ordering::SeqCst);
        let (limit, next) = match reader {
            Reader::Pages(limit) | Reader::Restarting(limit) | Reader::Reopening(limit) => (limit, from.clone()),
        };
        let reopened = match reader {
            Reader::Reopening(_) => Some(context.open(&settings).await?),
            Reader::Pages(_) | Reader::Restarting(_) => None,
        };
        let reads = reopened.as_ref().unwrap_or(&store);
        let page = reads.read_feed(ReadFeed { limit, ..context.feed_request(next, FeedFilter::none()) }).await?;
        // A commit that comes in parts is whole in every replay: only here is it seen.
        for commit in page.commits() {
            let (found, number) = (commit.events.len(), commit.number);
            ensure!(
                commit.is_whole(),
                "a reader got {found} of {} events of commit {number} of {}",
                commit.count,
                commit.stream
            );
        }
        given.extend(page.events().map(Seen::of));
        if let Some(reopened) = reopened {
            reopened.close().await?;
        }
        if page.end && was_quiet {
            return Ok(given);
        }
        idle = if page.items.is_empty() && was_quiet { idle + 1 } else { 0 };
        ensure!(idle <= IDLE_MAX, "a reader is given nothing in {IDLE_MAX} pages, and is not at the end");
        if page.end {
            let deadline = Deadline::within(Duration::from_millis(5));
            store.wait_feed(WaitFeed { after: page.next.clone(), deadline }).await?;
        }
        from = FeedStart::After(match reader {
            Reader::Pages(_) => page.next,
            Reader::Restarting(_) | Reader::Reopening(_) => page.next.to_string().parse()?,
        });
    }
}

async fn a_tailing_reader_skips_nothing(context: Context) -> Result<Outcome, Broken> {
    for round in 0..context.rounds(3) {
        let fresh = context.fresh().await?;
        let other = context.open(&fresh.settings).await?;
        let quiet = Arc::new(AtomicBool::new(false));
        let readers =
            [Reader::Pages(1), Reader::Pages(3), Reader::Restarting(2), Reader::Pages(100), Reader::Reopening(10)];
        // Readers are there before the first event: a hole before it must not be passed over either.
        let readers: Vec<_> = readers
            .into_iter()
            .zip([&fresh.store, &other, &other, &fresh.store, &other])
            .map(|(reader, store)| {
                let (context, settings) = (context.clone(), fresh.settings.clone());
                tokio::spawn(follow(context, settings, store.clone(), reader, quiet.clone()))
            })
            .collect();
        hole_at_the_beginning(&context, &*fresh.store).await?;
        let landed = storm(&context, [fresh.store.clone(), other.clone()], context.seed().0 ^ (round << 32)).await?;
        catch_up(&context, &*fresh.admin).await?;
        quiet.store(true, Ordering::SeqCst);
        let whole = seen(&whole_feed(&context, &fresh).await?);
        for reader in readers {
            let given = reader.await.map_err(|panic| Broken::new(format!("a reader panicked: {panic}")))??;
            ensure_same(&context, &given, &whole, "what a tailing reader was given, beside a replay")?;
        }
        let replayed: HashSet<_> = whole.iter().map(|event| (&event.stream, event.revision)).collect();
        for receipt in &landed {
            let missing =
                (receipt.1.first.0..=receipt.1.last.0).find(|r| !replayed.contains(&(&receipt.0, Revision(*r))));
            ensure!(missing.is_none(), "acknowledged revision {missing:?} of {} is not in the feed", receipt.0);
        }
        other.close().await?;
    }
    Ok(Outcome::Held)
}

/// What the very first appends of a store were: refused, dropped in the middle, and then one that is made.
async fn hole_at_the_beginning(context: &Context, store: &dyn EventStore) -> Result<(), Broken> {
    let stream = context.stream();
    for _ in 0..3 {
        let refused = context.request(&stream, Expected::At(Revision(7)), context.commit_id(), context.events(2))?;
        ensure_kind!(store.append(refused).await, Conflict, "an append to a new stream that expects revision 7");
    }
    let dropped = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
    let mut dropped = store.append(dropped);
    let _ = futures::poll!(&mut dropped);
    drop(dropped);
    append_to(context, store, &context.stream(), 1).await?;
    Ok(())
}

/// Writers that append, conflict, repeat and are cut off in the middle; what they were acknowledged in the end.
async fn storm(
    context: &Context,
    stores: [Arc<dyn EventStore>; 2],
    seed: u64,
) -> Result<Vec<(StreamId, Appended)>, Broken> {
    let streams: Vec<_> = (0..STREAMS).map(|_| context.stream()).collect();
    let answers = context
        .together(WRITERS, |writer| {
            let (context, store, streams) = (context.clone(), stores[writer % 2].clone(), streams.clone());
            let mut seed = Seed(seed ^ writer as u64);
            async move {
                let mut landed = Vec::new();
                for _ in 0..5 {
                    let stream = seed.pick(&streams).clone();
                    let events = context.events(1 + seed.below(3) as u32);
                    let expected = if seed.chance(30) { Expected::At(Revision(seed.below(9))) } else { Expected::Any };
                    let request = context.request(&stream, expected, context.commit_id(), events)?;
                    if seed.chance(30) {
                        // A reader that stops waiting, wherever it is: perhaps it had begun something for others.
                        let cut = Duration::from_micros(seed.below(6_000));
                        let read = store.read_feed(context.feed_request(FeedStart::First, FeedFilter::none()));
                        drop(tokio::time::timeout(cut, read).await);
                    }
                    if seed.chance(40) {
                        // Dropped in the middle, perhaps: its fate is found out by the repeat below.
                        let cut = Duration::from_micros(seed.below(2_000));
                        drop(tokio::time::timeout(cut, store.append(request.clone())).await);
                    }
                    match store.append(request).await {
                        Ok(receipt) => landed.push((stream, receipt)),
                        Err(error) if error.kind() == ErrorKind::Conflict => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(landed)
            }
        })
        .await?;
    Ok(answers.into_iter().collect::<Result<Vec<_>, Error>>()?.concat())
}

async fn a_stalled_caller_holds_up_nobody(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(3) {
        let fresh = context.fresh().await?;
        let (slow, quick) = (context.stream(), context.stream());
        append_to(&context, &*fresh.store, &quick, 1).await?;
        let request = context.request(&slow, Expected::NoStream, context.commit_id(), context.events(2))?;
        let mut stalled = fresh.store.append(request);
        let mut answer = futures::poll!(&mut stalled);
        let others = async {
            for _ in 0..4 {
                append_to(&context, &*fresh.store, &quick, 1).await?;
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(STALL_MAX, others).await {
            Ok(done) => done?,
            Err(_) => return Err(Broken::new("an append whose caller stalls holds up appends to another stream")),
        }
        catch_up(&context, &*fresh.admin).await?;
        let none = FeedFilter::none();
        let pages = context.feed_until(&*fresh.store, FeedStart::First, none.clone(), 5).await?;
        let quick_seen = seen(&pages).iter().filter(|event| event.stream == quick).count();
        ensure_eq!(quick_seen, 5, "events of the other stream that the feed has while an append's caller stalls");
        if answer.is_pending() {
            answer = std::task::Poll::Ready(stalled.await);
        }
        let std::task::Poll::Ready(receipt) = answer else { continue };
        let receipt = receipt?;
        catch_up(&context, &*fresh.admin).await?;
        let place = pages.last().map(|page| page.next.clone());
        let rest = match place {
            Some(place) => context.feed_until(&*fresh.store, FeedStart::After(place), none, 0).await?,
            None => Vec::new(),
        };
        let given = seen(pages.iter().chain(&rest)).iter().filter(|event| event.stream == slow).count() as u64;
        ensure_eq!(given, receipt.last.0, "events of the stalled append that a tailing reader was given");
    }
    Ok(Outcome::Held)
}

async fn cursors_print_parse_and_compare(context: Context) -> Result<Outcome, Broken> {
    let (fresh, ..) = filled(&context).await?;
    let mut places = Vec::new();
    let mut from = FeedStart::First;
    loop {
        let request = ReadFeed { limit: 2, ..context.feed_request(from, FeedFilter::none()) };
        let page = fresh.store.read_feed(request).await?;
        places.push(page.next.clone());
        if page.end {
            break;
        }
        from = FeedStart::After(page.next);
    }
    for pair in places.windows(2) {
        let compared = pair[0].partial_cmp(&pair[1]);
        ensure_eq!(compared, Some(Compared::Less), "the place of a page beside that of the next");
    }
    let head = fresh.store.feed_head(context.deadline()).await?.cursor;
    let last = places.last().and_then(|last| last.partial_cmp(&head));
    ensure_eq!(last, Some(Compared::Equal), "the place at the end beside the head");
    for place in places {
        let text = place.to_string();
        ensure!(text.len() <= evstore_api::cursor::CURSOR_BYTES_MAX, "a cursor prints in {} bytes", text.len());
        let parsed: Cursor = text.parse()?;
        ensure_eq!(parsed, place, "a cursor that was printed and read back");
        let again = fresh.store.read_feed(context.feed_request(FeedStart::After(parsed), FeedFilter::none())).await?;
        let wanted = fresh.store.read_feed(context.feed_request(FeedStart::After(place), FeedFilter::none())).await?;
        ensure_same(&context, &seen([&again]), &seen([&wanted]), "what is read after a cursor that was read back")?;
    }
    Ok(Outcome::Held)
}

/// Filters over what [`typed`] appends.
fn filters(context: &Context, streams: &[StreamId]) -> Vec<FeedFilter> {
    let none = FeedFilter::none();
    vec![
        none.clone(),
        FeedFilter { types: vec![event_type("Odd")], ..none.clone() },
        FeedFilter { categories: vec![context.category()], ..none.clone() },
        FeedFilter { categories: vec![streams[1].name.category()], types: vec![event_type("Even")], ..none },
    ]
}

/// Two streams of different categories, with commits of events that are `Odd` and `Even` in turns.
async fn typed(context: &Context) -> Result<(Fresh, Vec<StreamId>), Broken> {
    let fresh = context.fresh().await?;
    let other = StreamId::new(format!("{}x-1", context.category()))?;
    let streams = vec![context.stream(), other];
    for (stream, count) in [(0, 3), (1, 2), (0, 1), (1, 4), (0, 2), (1, 1)] {
        let event = |at: u32| NewEvent {
            event_type: event_type(if at.is_multiple_of(2) { "Even" } else { "Odd" }),
            ..context.event()
        };
        let events = (0..count).map(event).collect();
        let request = context.request(&streams[stream], Expected::Any, context.commit_id(), events)?;
        fresh.store.append(request).await?;
    }
    catch_up(context, &*fresh.admin).await?;
    Ok((fresh, streams))
}

async fn resumes_from_every_place(context: Context) -> Result<Outcome, Broken> {
    let (fresh, streams) = typed(&context).await?;
    for filter in filters(&context, &streams) {
        let whole = seen(&context.feed_until(&*fresh.store, FeedStart::First, filter.clone(), 0).await?);
        ensure!(!whole.is_empty(), "nothing passes {filter:?}");
        for limit in [1, 2, 3, 5] {
            let (mut from, mut given, mut pages) = (FeedStart::First, Vec::new(), 0);
            loop {
                let request = ReadFeed { limit, ..context.feed_request(from.clone(), filter.clone()) };
                let page = fresh.store.read_feed(request).await?;
                given.extend(seen([&page]));
                from = FeedStart::After(page.next.clone());
                let rest = context.feed_until(&*fresh.store, from.clone(), filter.clone(), 0).await?;
                let both: Vec<_> = given.iter().cloned().chain(seen(&rest)).collect();
                ensure_same(&context, &both, &whole, "pages up to a place, and what comes after it")?;
                pages += 1;
                ensure!(pages <= whole.len() + 50, "a read of limit {limit} does not come to its end");
                if page.end {
                    break;
                }
            }
        }
    }
    Ok(Outcome::Held)
}

async fn resumes_after_every_position(context: Context) -> Result<Outcome, Broken> {
    let (fresh, ..) = filled(&context).await?;
    let after = |position| context.feed_request(FeedStart::AfterPosition(position), FeedFilter::none());
    let capabilities = context.capabilities();
    if capabilities.positions == Positions::Opaque {
        let refused = fresh.store.read_feed(after(Position(1))).await;
        let answer = ensure_kind!(refused, Unsupported, "a read after a position, where positions are opaque");
        return Outcome::refused(&answer, "positions are opaque");
    }
    if capabilities.order != FeedOrder::Total {
        return Ok(Outcome::NotApplicable("positions are not of one order".into()));
    }
    let whole = seen(&whole_feed(&context, &fresh).await?);
    let last = whole.iter().filter_map(|event| event.position).max().unwrap_or_default();
    for position in 0..=last.0 {
        let from = FeedStart::AfterPosition(Position(position));
        let found = seen(&context.feed_until(&*fresh.store, from, FeedFilter::none(), 0).await?);
        let rest: Vec<_> = whole.iter().filter(|event| event.position > Some(Position(position))).cloned().collect();
        ensure_same(&context, &found, &rest, &format!("what is read after position {position}"))?;
        let limited = fresh.store.read_feed(ReadFeed { limit: 1, ..after(Position(position)) }).await?;
        let found = seen([&limited]);
        ensure_same(
            &context,
            &found,
            &rest[..found.len().min(rest.len())],
            &format!("a page after position {position}"),
        )?;
        ensure!(rest.is_empty() || !found.is_empty(), "a page after position {position} is empty before the end");
    }
    Ok(Outcome::Held)
}

async fn the_end_is_empty_then_live(context: Context) -> Result<Outcome, Broken> {
    let (fresh, streams, _) = filled(&context).await?;
    let end = fresh.store.feed_head(context.deadline()).await?.cursor;
    let none = FeedFilter::none();
    let page = fresh.store.read_feed(context.feed_request(FeedStart::After(end.clone()), none.clone())).await?;
    ensure_eq!((page.items.len(), page.end), (0, true), "items of the page at the end, and whether it says so");
    ensure_eq!(page.next, end, "the place of the page at the end");
    if let Some(position) = end.position() {
        let beyond = FeedStart::AfterPosition(position.plus(1_000));
        let page = fresh.store.read_feed(context.feed_request(beyond, none.clone())).await?;
        ensure_eq!((page.items.len(), page.end), (0, true), "items of the page beyond the end, and whether it says so");
        let beyond = Cursor::total(end.incarnation(), position.plus(1_000));
        let page = fresh.store.read_feed(context.feed_request(FeedStart::After(beyond), none.clone())).await?;
        ensure_eq!((page.items.len(), page.end), (0, true), "items of the page beyond the end, and whether it says so");
    }
    append_to(&context, &*fresh.store, &streams[0], 2).await?;
    catch_up(&context, &*fresh.admin).await?;
    let live = seen(&context.feed_until(&*fresh.store, FeedStart::After(page.next), none, 2).await?);
    let found: Vec<_> = live.iter().map(|event| (&event.stream, event.revision)).collect();
    let wanted = [(&streams[0], Revision(7)), (&streams[0], Revision(8))];
    ensure_eq!(found, wanted, "what is read from the former end");
    Ok(Outcome::Held)
}

async fn foreign_cursors_are_refused(context: Context) -> Result<Outcome, Broken> {
    let (fresh, ..) = filled(&context).await?;
    let foreign = context.feed_end().await?;
    let here = fresh.store.feed_head(context.deadline()).await?.cursor;
    let unborn = Cursor::total(Incarnation([0xEE; 16]), Position(1));
    let of_other_order = match here.position() {
        Some(_) => Cursor::parts(here.incarnation(), vec![(0, vec![1])])?,
        None => Cursor::total(here.incarnation(), Position(1)),
    };
    for (cursor, what) in
        [(foreign, "of another store"), (unborn, "of no store at all"), (of_other_order, "of another kind of order")]
    {
        let request = context.feed_request(FeedStart::After(cursor.clone()), FeedFilter::none());
        ensure_kind!(fresh.store.read_feed(request).await, CursorRefused, "a read after a cursor {what}");
        let waited = fresh.store.wait_feed(WaitFeed { after: cursor, deadline: context.deadline() }).await;
        ensure_kind!(waited, CursorRefused, "a wait after a cursor {what}");
    }
    let text = here.to_string();
    // Cut within its incarnation: a cursor of fewer partitions is one, too.
    for malformed in ["", "7", &text[1..], &text[..20], &format!("{text} "), &format!("{text}{text}")] {
        ensure_kind!(malformed.parse::<Cursor>(), CursorRefused, "a cursor that reads {malformed:?}");
    }
    Ok(Outcome::Held)
}

async fn lost_history_stops_a_consumer(context: Context) -> Result<Outcome, Broken> {
    let (fresh, ..) = filled(&context).await?;
    let whole = seen(&whole_feed(&context, &fresh).await?);
    let Some(old) = fresh.store.feed_head(context.deadline()).await?.cursor.position() else {
        return Ok(Outcome::NotRun("a history ends at a position, and this store's are opaque".into()));
    };
    let old_incarnation = fresh.store.feed_head(context.deadline()).await?.cursor.incarnation();
    let ended_at = Position(old.0 - 2);
    fresh
        .swap_meta(&context, |meta| {
            meta.lineage.last_mut().expect("a lineage is never empty").ended_at = Some(ended_at);
            meta.lineage.push(Lineage { incarnation: Incarnation::generate(), ended_at: None });
        })
        .await?;
    let now = fresh.store.feed_head(context.deadline()).await?.cursor;
    ensure!(now.incarnation() != old_incarnation, "the head still names the history that ended");
    let good = FeedStart::After(Cursor::total(old_incarnation, ended_at));
    let rest = seen(&context.feed_until(&*fresh.store, good, FeedFilter::none(), 0).await?);
    let wanted: Vec<_> = whole.iter().filter(|event| event.position > Some(ended_at)).cloned().collect();
    ensure_same(&context, &rest, &wanted, "what is read after the last place that was kept")?;
    let lost = Cursor::total(old_incarnation, ended_at.next());
    let request = context.feed_request(FeedStart::After(lost.clone()), FeedFilter::none());
    ensure_kind!(fresh.store.read_feed(request).await, HistoryLost, "a read after a place that was lost");
    let waited = fresh.store.wait_feed(WaitFeed { after: lost, deadline: context.deadline() }).await;
    ensure_kind!(waited, HistoryLost, "a wait after a place that was lost");
    Ok(Outcome::Held)
}

async fn receipts_agree_with_it(context: Context) -> Result<Outcome, Broken> {
    let (fresh, _, receipts) = filled(&context).await?;
    let positioned = context.capabilities().positioned;
    let pages = whole_feed(&context, &fresh).await?;
    let places: HashMap<_, _> = pages.iter().flat_map(FeedPage::commits).map(|commit| (commit.id, commit)).collect();
    for receipt in receipts {
        let Some(commit) = places.get(&receipt.commit) else {
            return Err(Broken::new(format!("commit {} is not in the feed", receipt.commit)));
        };
        let (stream, id) = (commit.stream.clone(), commit.id);
        let later = fresh.store.find_commit(FindCommit { stream, commit: id, deadline: context.deadline() }).await?;
        let later = later.and_then(|found| found.position);
        match positioned {
            Positioned::ByAppend => {
                ensure!(receipt.position.is_some(), "the append gives positions, and a receipt has none");
                ensure_eq!(receipt.position, commit.first_position, "the position in a receipt, beside the feed's");
                ensure_eq!(later, commit.first_position, "the position of a commit found again, beside the feed's");
            }
            Positioned::BySequencer { .. } => {
                ensure_eq!(receipt.position, None, "the position in a receipt, where a sequencer gives it");
                ensure!(commit.first_position.is_some(), "the sequencer gives positions, and the feed has none");
                ensure_eq!(later, commit.first_position, "the position of a commit found again, beside the feed's");
            }
            Positioned::Never { .. } => {
                let all = [receipt.position, commit.first_position, later];
                ensure_eq!(all, [None; 3], "positions of a commit, where there are none");
            }
        }
    }
    Ok(Outcome::Held)
}

async fn pages_hold_whole_commits(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    // Each commit has `count` events of 100 bytes.
    for count in [3, 1, 5, 2] {
        let event = || NewEvent::new(event_type("Tried"), vec![7; 100]);
        let events = (0..count).map(|_| event()).collect();
        fresh.store.append(context.request(&stream, Expected::Any, context.commit_id(), events)?).await?;
    }
    catch_up(&context, &*fresh.admin).await?;
    let sizes = async |limit, max_bytes| {
        let (mut from, mut sizes) = (FeedStart::First, Vec::new());
        loop {
            let request = ReadFeed { limit, max_bytes, ..context.feed_request(from, FeedFilter::none()) };
            let page = fresh.store.read_feed(request).await?;
            for commit in page.commits() {
                ensure!(commit.is_whole(), "a page of limit {limit}, {max_bytes} bytes has a part of a commit");
            }
            let found: Vec<_> = page.commits().map(|commit| u64::from(commit.count)).collect();
            ensure!(
                page.end || !found.is_empty(),
                "a page of limit {limit}, {max_bytes} bytes is empty before the end"
            );
            sizes.push(found);
            if page.end {
                return Ok(sizes);
            }
            from = FeedStart::After(page.next);
        }
    };
    for (limit, max_bytes) in [
        (1, 10_000),
        (2, 10_000),
        (3, 10_000),
        (4, 10_000),
        (6, 10_000),
        (100, 0),
        (100, 1),
        (100, 399),
        (100, 400),
        (100, 899),
        (100, u64::MAX),
    ] {
        let pages: Vec<Vec<u64>> = sizes(limit, max_bytes).await?;
        ensure_eq!(pages.concat(), [3, 1, 5, 2], "sizes of the commits in pages of limit {limit}, {max_bytes} bytes");
        for page in pages.iter().filter(|page| page.len() > 1) {
            let events: u64 = page.iter().sum();
            let fits = events <= u64::from(limit) && events * 100 <= max_bytes;
            ensure!(fits, "a page of limit {limit}, {max_bytes} bytes has commits of {page:?} events of 100 bytes");
        }
        let has_items = pages.iter().filter(|page| !page.is_empty()).count();
        ensure!(max_bytes < u64::MAX || has_items == 1, "1,100 bytes are given in {has_items} pages of any size");
    }
    Ok(Outcome::Held)
}

async fn limits_of_a_page_are_kept(context: Context) -> Result<Outcome, Broken> {
    context.append(&context.stream(), Expected::NoStream, 1).await?;
    let read = async |limit| {
        let request = ReadFeed { limit, ..context.feed_request(FeedStart::First, FeedFilter::none()) };
        context.store().read_feed(request).await
    };
    let max = context.capabilities().limits.page_items;
    ensure_kind!(read(0).await, Invalid, "a read of limit 0");
    read(1).await?;
    read(max).await?;
    if max < u32::MAX {
        ensure_kind!(read(max + 1).await, Invalid, "a read of one more than the declared limit");
    }
    Ok(Outcome::Held)
}

async fn events_of_one_moment_all_come(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let answers = context
        .together(WRITERS, |_| {
            let (context, store) = (context.clone(), fresh.store.clone());
            async move {
                for _ in 0..4 {
                    append_to(&context, &*store, &context.stream(), 1).await?;
                }
                Ok::<(), Error>(())
            }
        })
        .await?;
    answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
    catch_up(&context, &*fresh.admin).await?;
    let wanted = WRITERS * 4;
    ensure_all_come(&context, &*fresh.store, 3, wanted).await?;
    if context.capabilities().replication == Support::Refused {
        context.remark("only a copy could give many commits one time: what was appended at once had nearly the same");
        return Ok(Outcome::Held);
    }
    let target = context.fresh().await?;
    let epoch = target.enter(&context, StoreState::Importing { from: None }).await?.epoch;
    let pages = whole_feed(&context, &fresh).await?;
    let mut commits: Vec<Commit> = pages.iter().flat_map(FeedPage::commits).cloned().collect();
    let moment = commits.iter().map(|commit| commit.recorded_at).max().unwrap_or(Timestamp(0));
    commits.iter_mut().for_each(|commit| commit.recorded_at = moment);
    let (items, deadline) = (commits.into_iter().map(Replica::Commit).collect(), context.deadline());
    target.admin.replicate(Replicate { epoch, origin: Origin::Restore, items, deadline }).await?;
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    catch_up(&context, &*target.admin).await?;
    for limit in [1, 3, 39, wanted as u32 - 1] {
        ensure_all_come(&context, &*target.store, limit, wanted).await?;
    }
    Ok(Outcome::Held)
}

/// Ends a check as broken unless so many events of one each come once, in pages of a limit that always move on.
async fn ensure_all_come(context: &Context, store: &dyn EventStore, limit: u32, wanted: usize) -> Result<(), Broken> {
    let (mut from, mut found) = (FeedStart::First, Vec::<Seen>::new());
    for pages in 0.. {
        ensure!(pages <= 3 * wanted, "{wanted} events are not read in {pages} pages");
        let request = ReadFeed { limit, ..context.feed_request(from.clone(), FeedFilter::none()) };
        let page = store.read_feed(request).await?;
        found.extend(seen([&page]));
        if let FeedStart::After(before) = &from {
            let moves = before < &page.next || (page.end && *before == page.next);
            ensure!(moves, "a page after {before} leads to {}", page.next);
        }
        if page.end {
            break;
        }
        from = FeedStart::After(page.next);
    }
    let different: HashSet<_> = found.iter().map(|event| event.event).collect();
    ensure_eq!((found.len(), different.len()), (wanted, wanted), "events read in pages of {limit}, and different ones");
    Ok(())
}

async fn clocks_do_not_order_it(context: Context) -> Result<Outcome, Broken> {
    if context.capabilities().replication == Support::Refused {
        return Ok(Outcome::NotRun("the store takes no copies, and no other way to another clock is known".into()));
    }
    const DAY: i64 = 24 * 3600 * 1_000_000;
    let (fresh, streams, receipts) = filled(&context).await?;
    let target = context.fresh().await?;
    target.enter(&context, StoreState::Importing { from: None }).await?;
    // The writers of the three streams had clocks that were a day ahead, right, and at the beginning of time.
    let moved = |mut commit: Commit| {
        let shift = match streams.iter().position(|stream| *stream == commit.stream) {
            Some(0) => DAY,
            Some(1) => 0,
            Some(_) | None => -commit.recorded_at.0 + commit.number.0 as i64,
        };
        commit.recorded_at = Timestamp(commit.recorded_at.0 + shift);
        commit
    };
    let pages = whole_feed(&context, &fresh).await?;
    let source: Vec<_> = pages.iter().flat_map(FeedPage::commits).map(|commit| commit.id).collect();
    let items = pages.iter().flat_map(FeedPage::commits).cloned().map(moved).map(Replica::Commit).collect();
    let deadline = context.deadline();
    let epoch = target.admin.read_meta(deadline).await?.epoch;
    target.admin.replicate(Replicate { epoch, origin: Origin::Restore, items, deadline }).await?;
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    let mut wanted: Vec<_> = receipts.iter().map(|receipt| receipt.commit).collect();
    for stream in &streams {
        let receipt = append_to(&context, &*target.store, stream, 1).await?;
        let before = slots(&context, &*target.admin, stream).await?;
        let last = before.iter().rev().nth(1).map(|commit| commit.recorded_at);
        ensure!(last <= Some(receipt.recorded_at), "time falls in {stream}: {last:?}, then {:?}", receipt.recorded_at);
        wanted.push(receipt.commit);
    }
    let pages = whole_feed(&context, &target).await?;
    let mut found: Vec<_> = pages.iter().flat_map(FeedPage::commits).map(|commit| commit.id).collect();
    let capabilities = context.capabilities();
    let is_ordered = capabilities.order == FeedOrder::Total;
    if is_ordered {
        ensure_eq!(found.get(..source.len()), Some(&source[..]), "copied commits of the feed");
    }
    // Of appends to several streams any may come first where time is not kept.
    if !is_ordered || capabilities.real_time == RealTime::NotKept {
        found.sort();
        wanted.sort();
    }
    ensure_eq!(found, wanted, "commits of the feed");
    Ok(Outcome::Held)
}

async fn an_empty_store_has_a_place(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let head = fresh.store.feed_head(context.deadline()).await?;
    let opaque = context.capabilities().positions == Positions::Opaque;
    let before_first = if opaque { None } else { Some(Position(0)) };
    ensure_eq!(head.position, before_first, "the head's position");
    ensure_eq!(head.lag, Lag { commits: 0, age: Duration::ZERO }, "the head's lag");
    for from in [FeedStart::First, FeedStart::After(head.cursor.clone())] {
        let page = fresh.store.read_feed(context.feed_request(from, FeedFilter::none())).await?;
        ensure_eq!((page.items.len(), page.end, page.before), (0, true, before_first), "the page of an empty feed");
        ensure_eq!(page.next, head.cursor, "its place");
    }
    let deadline = Deadline::within(Duration::from_millis(20));
    let waited = fresh.store.wait_feed(WaitFeed { after: head.cursor.clone(), deadline }).await?;
    ensure_eq!(waited, Waited::DeadlinePassed, "a wait in an empty store");
    append_to(&context, &*fresh.store, &context.stream(), 1).await?;
    catch_up(&context, &*fresh.admin).await?;
    let first = context.feed_until(&*fresh.store, FeedStart::After(head.cursor), FeedFilter::none(), 1).await?;
    ensure_eq!(seen(&first).len(), 1, "events after the place before the first");
    Ok(Outcome::Held)
}

async fn readers_at_any_speed_see_the_same(context: Context) -> Result<Outcome, Broken> {
    let (fresh, ..) = filled(&context).await?;
    let other = context.open(&fresh.settings).await?;
    let quiet = Arc::new(AtomicBool::new(false));
    let read = |store: &Arc<dyn EventStore>, reader| {
        follow(context.clone(), fresh.settings.clone(), store.clone(), reader, quiet.clone())
    };
    let writes = async {
        for _ in 0..10 {
            append_to(&context, &*fresh.store, &context.stream(), 2).await?;
        }
        catch_up(&context, &*fresh.admin).await?;
        quiet.store(true, Ordering::SeqCst);
        Ok::<(), Error>(())
    };
    let (slow, quick, written) =
        futures::join!(read(&fresh.store, Reader::Pages(1)), read(&other, Reader::Pages(100)), writes);
    written?;
    let (slow, quick) = (slow?, quick?);
    ensure_eq!(slow.len(), 34, "events that the slow reader got");
    ensure_same(&context, &quick, &slow, "what the quick reader got, beside the slow one")?;
    other.close().await?;
    Ok(Outcome::Held)
}

async fn the_head_never_moves_back(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let quiet = Arc::new(AtomicBool::new(false));
    let clients = [fresh.store.clone(), context.open(&fresh.settings).await?];
    // One watcher asks two clients in turns: neither may be behind what the other said.
    let watch = |clients: [Arc<dyn EventStore>; 2], context: Context, quiet: Arc<AtomicBool>| async move {
        let (mut marks, mut left) = (Vec::new(), LOOKS_MORE);
        while left > 0 {
            // A few looks more once nobody appends: then every answer has to be the same.
            left -= usize::from(quiet.load(Ordering::SeqCst));
            let store = &clients[marks.len() / 2 % 2];
            marks.push(store.feed_head(context.deadline()).await?.cursor);
            let from = FeedStart::After(marks[marks.len() - 1].clone());
            marks.push(store.read_feed(context.feed_request(from, FeedFilter::none())).await?.next);
            tokio::task::yield_now().await;
        }
        Ok::<_, Error>(marks)
    };
    let watchers: Vec<_> =
        (0..2).map(|_| tokio::spawn(watch(clients.clone(), context.clone(), quiet.clone()))).collect();
    let answers = context
        .together(WRITERS, |writer| {
            let (context, store) = (context.clone(), clients[writer % 2].clone());
            async move {
                let stream = context.stream();
                for _ in 0..5 {
                    append_to(&context, &*store, &stream, 2).await?;
                }
                Ok::<(), Error>(())
            }
        })
        .await;
    quiet.store(true, Ordering::SeqCst);
    answers?.into_iter().collect::<Result<Vec<_>, Error>>()?;
    for watcher in watchers {
        let marks = watcher.await.map_err(|panic| Broken::new(format!("a watcher panicked: {panic}")))??;
        for pair in marks.windows(2) {
            let forward = matches!(pair[0].partial_cmp(&pair[1]), Some(Compared::Less | Compared::Equal));
            ensure!(forward, "the feed was at {}, and then at {}", pair[0], pair[1]);
        }
    }
    let events = seen(&whole_feed(&context, &fresh).await?).len();
    ensure_eq!(events, WRITERS * 5 * 2, "events of the feed in the end");
    clients[1].close().await?;
    Ok(Outcome::Held)
}

async fn every_position_is_accounted_for(context: Context) -> Result<Outcome, Broken> {
    let (fresh, streams, _) = filled(&context).await?;
    if context.capabilities().positions == Positions::Opaque {
        return Ok(Outcome::NotApplicable("positions are opaque".into()));
    }
    if context.capabilities().order != FeedOrder::Total {
        return Ok(Outcome::NotApplicable("positions are not of one order".into()));
    }
    let refused = context.request(&streams[0], Expected::NoStream, context.commit_id(), context.events(3))?;
    ensure_kind!(fresh.store.append(refused).await, Conflict, "an append that expects no stream");
    ensure_accounted(&context, &fresh).await?;
    if context.capabilities().deletion == Support::Promised {
        let (commit, deadline) = (context.commit_id(), context.deadline());
        let truncate = Truncate { stream: streams[0].clone(), commit, before: Revision(6), deadline };
        fresh.admin.truncate(truncate).await?;
        ensure_accounted(&context, &fresh).await?;
        let (commit, expected) = (context.commit_id(), Expected::Any);
        fresh.admin.delete(Delete { stream: streams[1].clone(), expected, commit, deadline }).await?;
        append_to(&context, &*fresh.store, &streams[2], 2).await?;
        ensure_accounted(&context, &fresh).await?;
    }
    Ok(Outcome::Held)
}

/// Every position up to the head stands in one place of the feed, whatever the pages.
async fn ensure_accounted(context: &Context, fresh: &Fresh) -> Result<(), Broken> {
    catch_up(context, &*fresh.admin).await?;
    let head = fresh.store.feed_head(context.deadline()).await?.position.unwrap_or_default();
    for limit in [1, 2, 100] {
        let (mut from, mut at) = (FeedStart::First, Position(0));
        loop {
            let request = ReadFeed { limit, ..context.feed_request(from, FeedFilter::none()) };
            let page = fresh.store.read_feed(request).await?;
            ensure_eq!(page.before, Some(at), "the position before a page of limit {limit}");
            for item in &page.items {
                let (first, last) = match item {
                    FeedItem::Commit(commit) => (commit.first_position, commit.last_position()),
                    FeedItem::Removed { first, last } => (Some(*first), Some(*last)),
                };
                let (Some(first), Some(last)) = (first, last) else {
                    return Err(Broken::new("a commit of the feed has no position"));
                };
                let follows = match context.capabilities().positions {
                    Positions::Contiguous => first == at.next(),
                    Positions::Increasing | Positions::Opaque => first > at,
                };
                ensure!(follows && last >= first, "behind position {at} stand positions {first} to {last}");
                at = last;
            }
            if page.end {
                break;
            }
            ensure_eq!(page.next.position(), Some(at), "the place of a page beside its last position");
            from = FeedStart::After(page.next);
        }
        ensure_eq!(at, head, "the last position that is accounted for, beside the head");
    }
    Ok(())
}

/// Commits whose way into the feed is measured.
const MEASURED: usize = 200;
/// How much longer than declared half of them, and nearly all of them, may take: the machine may be busy with others.
const HALF_MORE: Duration = Duration::from_secs(1);
const MOST_MORE: Duration = Duration::from_secs(10);

async fn is_as_fast_as_declared(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let within = match context.capabilities().positioned {
        Positioned::ByAppend => {
            is_there_at_once(&context, &fresh).await?;
            return Ok(Outcome::Held);
        }
        Positioned::BySequencer { within } => within,
        Positioned::Never { settling } => settling,
    };
    let most = within * 4 + MOST_MORE;
    let writes = async {
        let mut receipts = Vec::new();
        for _ in 0..MEASURED {
            let receipt = append_to(&context, &*fresh.store, &context.stream(), 1).await?;
            receipts.push((receipt.commit, Instant::now()));
        }
        Ok::<_, Error>((receipts, Deadline::within(most)))
    };
    let other = context.open(&fresh.settings).await?;
    let mut writes = std::pin::pin!(writes);
    let (mut written, mut arrived, mut from) = (None, HashMap::new(), FeedStart::First);
    let mut behind_since: Option<Instant> = None;
    loop {
        // Nobody asks for the feed to be brought up: it has to come by itself.
        let page = other.read_feed(context.feed_request(from, FeedFilter::none())).await?;
        let now = Instant::now();
        arrived.extend(page.commits().map(|commit| (commit.id, now)));
        let lag = other.feed_head(context.deadline()).await?.lag;
        behind_since = if lag.commits > 0 { behind_since.or(Some(now)) } else { None };
        let long = behind_since.is_some_and(|since| since.elapsed() > within + Duration::from_secs(1));
        ensure!(!long || lag.age > Duration::ZERO, "a feed is {} commits behind, of no age", lag.commits);
        ensure!(lag.commits > 0 || lag.age == Duration::ZERO, "a feed that is not behind is {:?} old", lag.age);
        if arrived.len() >= MEASURED {
            break;
        }
        if let Some((_, deadline)) = &written {
            let deadline: &Deadline = deadline;
            ensure!(
                !deadline.has_passed(),
                "{} of {MEASURED} commits are in the feed {most:?} after the last of them, and {within:?} is declared",
                arrived.len()
            );
        }
        from = FeedStart::After(page.next.clone());
        let deadline = Deadline::within(Duration::from_millis(5));
        let waits = other.wait_feed(WaitFeed { after: page.next, deadline });
        if written.is_none() {
            let waits = std::pin::pin!(waits);
            match futures::future::select(&mut writes, waits).await {
                futures::future::Either::Left((done, _)) => written = Some(done?),
                futures::future::Either::Right((waited, _)) => drop(waited?),
            }
        } else {
            waits.await?;
        }
    }
    let receipts = match written {
        Some((receipts, _)) => receipts,
        None => writes.await?.0,
    };
    other.close().await?;
    let mut lags: Vec<Duration> = receipts
        .iter()
        .filter_map(|(commit, since)| arrived.get(commit).map(|at| at.saturating_duration_since(*since)))
        .collect();
    lags.sort_unstable();
    ensure_eq!(lags.len(), MEASURED, "acknowledged commits that came into the feed");
    let (half, nearly) = (lags[MEASURED / 2], lags[MEASURED * 99 / 100]);
    context.remark(format!("in the feed within {half:?} (half), {nearly:?} (99 of 100); {within:?} is declared"));
    ensure!(half <= within + HALF_MORE, "half of the commits took more than {half:?}, and {within:?} is declared");
    ensure!(nearly <= most, "one of a hundred commits took more than {nearly:?}, and {within:?} is declared");
    Ok(Outcome::Held)
}

/// Where the append orders it: the first page after the receipt has the commit.
async fn is_there_at_once(context: &Context, fresh: &Fresh) -> Result<(), Broken> {
    let other = context.open(&fresh.settings).await?;
    let mut from = FeedStart::First;
    for _ in 0..MEASURED {
        let receipt = append_to(context, &*fresh.store, &context.stream(), 1).await?;
        let page = other.read_feed(context.feed_request(from, FeedFilter::none())).await?;
        let found: Vec<_> = page.commits().map(|commit| commit.id).collect();
        ensure_eq!(found, [receipt.commit], "commits of the first page after a receipt");
        let lag = other.feed_head(context.deadline()).await?.lag;
        ensure_eq!(lag, Lag { commits: 0, age: Duration::ZERO }, "the lag of a feed that the append orders");
        from = FeedStart::After(page.next);
    }
    other.close().await?;
    Ok(())
}

async fn lag_is_reported(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    for round in 1..=5 {
        append_to(&context, &*fresh.store, &stream, 1).await?;
        if context.capabilities().positioned != Positioned::ByAppend {
            catch_up(&context, &*fresh.admin).await?;
        }
        let head = fresh.store.feed_head(context.deadline()).await?;
        ensure_eq!(head.lag, Lag { commits: 0, age: Duration::ZERO }, "the lag once the feed has all");
        let pages = context.feed_until(&*fresh.store, FeedStart::First, FeedFilter::none(), 0).await?;
        ensure_eq!(seen(&pages).len(), round, "events of a feed that is not behind");
        if context.capabilities().positions == Positions::Contiguous {
            ensure_eq!(head.position, Some(Position(round as u64)), "position of the head");
        }
        let place = pages.last().map(|page| page.next.clone());
        ensure_eq!(place, Some(head.cursor), "the place at the end of the feed, beside the head");
    }
    Ok(Outcome::Held)
}

async fn a_wait_ends_with_an_append(context: Context) -> Result<Outcome, Broken> {
    let (fresh, streams, _) = filled(&context).await?;
    let other = context.open(&fresh.settings).await?;
    let end = fresh.store.feed_head(context.deadline()).await?.cursor;
    let first =
        fresh.store.read_feed(ReadFeed { limit: 1, ..context.feed_request(FeedStart::First, FeedFilter::none()) });
    let after = first.await?.next;
    let began = Instant::now();
    let deadline = Deadline::within(Duration::from_secs(5));
    let waited = fresh.store.wait_feed(WaitFeed { after, deadline }).await?;
    ensure_eq!(waited, Waited::More, "a wait where there is more already");
    ensure!(began.elapsed() < Duration::from_secs(5), "a wait where there is more already took {:?}", began.elapsed());
    let (began, wait) = (Instant::now(), Duration::from_millis(30));
    let waited = fresh.store.wait_feed(WaitFeed { after: end.clone(), deadline: Deadline::within(wait) }).await?;
    ensure_eq!(waited, Waited::DeadlinePassed, "a wait at the end where nothing is appended");
    ensure!(began.elapsed() >= wait, "a wait of {wait:?} gave up after {:?}", began.elapsed());
    for writer in [&fresh.store, &other] {
        let after = fresh.store.feed_head(context.deadline()).await?.cursor;
        let store = fresh.store.clone();
        let mut waiting = std::pin::pin!(wait_for_more(&*store, after));
        // It has begun before the append; it may say too early that there is more.
        let early = futures::poll!(&mut waiting);
        append_to(&context, &**writer, &streams[0], 1).await?;
        catch_up(&context, &*fresh.admin).await?;
        let waited = match early {
            std::task::Poll::Ready(waited) => waited,
            std::task::Poll::Pending => waiting.await,
        };
        ensure_eq!(waited?, Waited::More, "a wait during which a client appended");
    }
    other.close().await?;
    Ok(Outcome::Held)
}

/// Waits after a place for at most five seconds in all. A wait may say that there is more too early.
async fn wait_for_more(store: &dyn EventStore, after: Cursor) -> Result<Waited, Error> {
    let deadline = Deadline::within(Duration::from_secs(5));
    loop {
        let waited = store.wait_feed(WaitFeed { after: after.clone(), deadline }).await?;
        let from = FeedStart::After(after.clone());
        let request = ReadFeed {
            from,
            filter: FeedFilter::none(),
            limit: 1,
            max_bytes: 1,
            deadline: Deadline::within(Duration::from_secs(20)),
        };
        if waited == Waited::DeadlinePassed || !store.read_feed(request).await?.items.is_empty() {
            return Ok(waited);
        }
    }
}
