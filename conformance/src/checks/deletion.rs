//! Truncation and deletion: properties 33, 34, 101, 139 to 144, 147 and 149.

use super::feed::{append_to, catch_up, ensure_same, seen, slots, whole_feed};
use super::records::{put_request, read_from};
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, revisions};
use crate::seed::Seed;
use bytes::Bytes;
use evstore_api::capabilities::{FeedOrder, Positions, Support};
use evstore_api::{
    AdvanceFeed, Appended, Commit, CommitId, CommitKind, CommitNumber, Content, ContentType, Delete, Deleted,
    Direction, Error, ErrorKind, Expected, FeedFilter, FeedItem, FeedPage, FeedStart, FindCommit, Head, ListStreams,
    NamespaceFilter, Position, PutSnapshot, ReadHead, ReadSnapshot, ReadStream, RecordExpected, RecordKey, RecordKind,
    RecordName, Release, Released, Revision, Snapshot, StoreAdmin, StreamId, StreamPage, StreamStart, StreamState,
    Timestamp, Truncate, Truncated,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "deletion.truncation-strips-whole-commits",
        "truncation takes exactly the commits before a revision, keeps the one that holds it whole, and says what is left",
        [76, 144],
        truncation_strips_whole_commits
    ),
    check!(
        "deletion.truncated-reads-begin-at-what-is-left",
        "reads of a truncated stream in both directions begin and end at the first event that is left",
        [76, 144],
        truncated_reads_begin_at_what_is_left
    ),
    check!(
        "deletion.truncated-slots-stay-as-stubs",
        "the slots of truncated commits keep their number, id, digest, time and place, and the marker takes the next one",
        [144],
        truncated_slots_stay_as_stubs
    ),
    check!(
        "deletion.truncation-is-bounded",
        "truncation before a revision that is not from 2 to one above the head is refused and changes nothing",
        [69, 144],
        truncation_is_bounded
    ),
    check!(
        "deletion.truncation-never-gives-back",
        "a second truncation takes more or nothing, and never gives back what is gone",
        [144, 150],
        truncation_never_gives_back
    ),
    check!(
        "deletion.numbers-are-never-reused",
        "a stream whose events are all truncated stays open, keeps its head, and goes on behind it",
        [140, 143, 147],
        numbers_are_never_reused
    ),
    check!(
        "deletion.markers-are-repeatable",
        "a truncation or deletion that is repeated by id gets the first receipt, and the id of another commit is refused",
        [23, 24, 139],
        markers_are_repeatable
    ),
    check!(
        "deletion.ids-survive",
        "commits that were truncated or deleted are still found and recognised by their ids",
        [33, 34],
        ids_survive
    ),
    check!(
        "deletion.each-expectation-is-checked",
        "a deletion is made or conflicts by its expectation, as an append is",
        [139],
        each_expectation_is_checked
    ),
    check!(
        "deletion.a-missing-name-can-be-burnt",
        "a missing stream is deleted under any expectation that holds of it, and its name is gone then",
        [139, 141],
        a_missing_name_can_be_burnt
    ),
    check!(
        "deletion.a-deleted-name-is-gone-for-ever",
        "no append, truncation, deletion or snapshot of a deleted stream is ever taken again",
        [68, 139, 141, 149],
        a_deleted_name_is_gone_for_ever
    ),
    check!(
        "deletion.deleted-streams-say-so",
        "a deleted stream reads as empty with its head, its state and its slots, and is listed as deleted",
        [68, 108, 149],
        deleted_streams_say_so
    ),
    check!(
        "deletion.neighbours-are-untouched",
        "truncation and deletion leave streams of similar names, other namespaces, snapshots and records alone",
        [142],
        neighbours_are_untouched
    ),
    check!(
        "deletion.the-snapshot-goes-too",
        "the snapshot of a deleted stream is gone, and one of a truncated stream stays",
        [139, 154],
        the_snapshot_goes_too
    ),
    check!(
        "deletion.the-feed-shows-what-is-gone",
        "the feed keeps the places of what is gone as removed ranges, and of markers, and every reader goes on over them",
        [101],
        the_feed_shows_what_is_gone
    ),
    check!(
        "deletion.races-with-appends-lose-nothing",
        "appends and truncations at the same time lose no acknowledged event behind the cut and break no numbers",
        [50, 144],
        races_with_appends_lose_nothing
    ),
    check!(
        "deletion.races-with-appends-end-gone",
        "of appends that race with a deletion, each is acknowledged before it or told that the stream is gone",
        [139, 141],
        races_with_appends_end_gone
    ),
    check!(
        "deletion.released-events-are-told",
        "events that are released to an archive are told to be there by every read, and nothing else of their stream changes",
        [149],
        released_events_are_told
    ),
];

/// What a check works on that deletes or truncates: a store that does, or the answer that it does not.
macro_rules! deleting {
    ($context:expr) => {
        if let Some(refused) = $crate::checks::deletion::refused(&$context).await? {
            return Ok(refused);
        }
    };
}

pub(super) use deleting;

/// Where deletion is not promised: that both operations are refused and change nothing.
pub(super) async fn refused(context: &Context) -> Result<Option<Outcome>, Broken> {
    if context.capabilities().deletion == Support::Promised {
        return Ok(None);
    }
    let stream = context.stream();
    context.append(&stream, Expected::NoStream, 3).await?;
    let before = context.head(&stream).await?;
    let admin = &**context.admin();
    let answer = truncate(context, admin, &stream, 2).await;
    let answer = ensure_kind!(answer, Unsupported, "a truncation that is not promised");
    ensure_kind!(delete(context, admin, &stream, Expected::Any).await, Unsupported, "a deletion that is not promised");
    ensure_eq!(context.head(&stream).await?, before, "the head after refused operations");
    ensure_eq!(revisions(&context.read(&stream).await?).len(), 3, "events after refused operations");
    Outcome::refused(&answer, "truncation and deletion are not promised").map(Some)
}

fn truncate_request(context: &Context, stream: &StreamId, before: u64) -> Truncate {
    let (commit, deadline) = (context.commit_id(), context.deadline());
    Truncate { stream: stream.clone(), commit, before: Revision(before), deadline }
}

async fn truncate(
    context: &Context,
    admin: &dyn StoreAdmin,
    stream: &StreamId,
    before: u64,
) -> Result<Truncated, Error> {
    admin.truncate(truncate_request(context, stream, before)).await
}

fn delete_request(context: &Context, stream: &StreamId, expected: Expected) -> Delete {
    let (commit, deadline) = (context.commit_id(), context.deadline());
    Delete { stream: stream.clone(), expected, commit, deadline }
}

async fn delete(
    context: &Context,
    admin: &dyn StoreAdmin,
    stream: &StreamId,
    expected: Expected,
) -> Result<Deleted, Error> {
    admin.delete(delete_request(context, stream, expected)).await
}

async fn release(context: &Context, streams: &[(&StreamId, u64)]) -> Result<Released, Error> {
    let streams = streams.iter().map(|(stream, before)| ((*stream).clone(), Revision(*before))).collect();
    context.admin().release(Release { streams, deadline: context.deadline() }).await
}

async fn released_events_are_told(context: Context) -> Result<Outcome, Broken> {
    let (stream, receipts) = three_commits(&context).await?;
    let (missing, deleted) = (context.stream(), context.stream());
    context.settle().await;
    let head = context.head(&stream).await?;
    if context.capabilities().archive == Support::Refused {
        let answer =
            ensure_kind!(release(&context, &[(&stream, 5)]).await, Unsupported, "a release that is not promised");
        ensure_eq!(context.head(&stream).await?, head, "the head after a refused release");
        ensure_eq!(revisions(&context.read(&stream).await?).len(), 9, "events after a refused release");
        return Outcome::refused(&answer, "being the hot store in front of an archive is not promised");
    }
    if context.capabilities().deletion == Support::Promised {
        delete(&context, &**context.admin(), &deleted, Expected::Any).await?;
    }
    // It tells where the second commit is to be found: behind one that is released.
    let put = PutSnapshot { snapshot: snapshot(&stream, &receipts[0]), deadline: context.deadline() };
    context.store().put_snapshot(put).await?;
    ensure!(snapshot_of(&context, &stream).await?.is_some(), "a snapshot is not there");
    let at = |revision| StreamStart::At(Revision(revision));
    for repeat in ["a release", "a repeated release"] {
        release(&context, &[(&missing, 3), (&stream, 5), (&deleted, 2)]).await?;
        context.settle().await;
        ensure_eq!(context.head(&stream).await?, head, "the head after {repeat}");
        for (from, direction) in [
            (StreamStart::First, Direction::Forward),
            (at(1), Direction::Forward),
            (at(3), Direction::Forward),
            (at(3), Direction::Backward),
            (at(1), Direction::Backward),
        ] {
            let answer = read(&context, &stream, from, direction).await;
            ensure_kind!(answer, Schema, "a read from {from:?} {direction:?} of events that were released");
        }
        let page = read(&context, &stream, at(4), Direction::Forward).await?;
        ensure_eq!(revisions(&page), (4..=9).map(Revision).collect::<Vec<_>>(), "what was not released");
        let page = read(&context, &stream, StreamStart::Last, Direction::Backward).await?;
        ensure_eq!(revisions(&page), (4..=9).rev().map(Revision).collect::<Vec<_>>(), "the same, backward");
        ensure_eq!(page.next, Some(Revision(3)), "where a read that comes to released events says to go on");
    }
    let kept = slots(&context, &**context.admin(), &stream).await?;
    let contents: Vec<Content> = kept.iter().map(|commit| commit.content).collect();
    ensure_eq!(contents, [Content::Stripped, Content::Kept, Content::Kept], "slots after a release before revision 5");
    for (slot, receipt) in kept.iter().zip(&receipts) {
        let of_slot = (slot.id, slot.number, slot.first_revision, slot.digest, slot.recorded_at);
        let of_receipt = (receipt.commit, receipt.number, receipt.first, receipt.digest, receipt.recorded_at);
        ensure_eq!(of_slot, of_receipt, "a slot after a release");
        let find = FindCommit { stream: stream.clone(), commit: receipt.commit, deadline: context.deadline() };
        let found = context.store().find_commit(find).await?;
        ensure!(found.is_some_and(|found| found.repeated), "a released commit is not found by its id");
    }
    // A truncation takes what it always does, wherever its events are.
    if context.capabilities().deletion == Support::Promised {
        let truncated = truncate(&context, &**context.admin(), &stream, 2).await?;
        ensure_eq!(truncated.first_retained, Revision(1), "first revision left, before 2");
        let truncated = truncate(&context, &**context.admin(), &stream, 4).await?;
        ensure_eq!(truncated.first_retained, Revision(4), "first revision left, before 4");
        let page = read(&context, &stream, StreamStart::First, Direction::Forward).await?;
        ensure_eq!(revisions(&page), (4..=9).map(Revision).collect::<Vec<_>>(), "what is left behind it");
    }
    Ok(Outcome::Held)
}

/// A stream of three commits: revisions 1 to 3, 4 to 5, 6 to 9.
async fn three_commits(context: &Context) -> Result<(StreamId, Vec<Appended>), Error> {
    let stream = context.stream();
    let mut receipts = Vec::new();
    for count in [3, 2, 4] {
        receipts.push(context.append(&stream, Expected::Any, count).await?);
    }
    Ok((stream, receipts))
}

/// The first revision that is left of [`three_commits`] after a truncation.
fn first_left(before: u64) -> u64 {
    [1, 4, 6, 10].into_iter().rfind(|first| *first <= before).unwrap_or(1)
}

async fn read(
    context: &Context,
    stream: &StreamId,
    from: StreamStart,
    direction: Direction,
) -> Result<StreamPage, Error> {
    context.settle().await;
    let request = ReadStream { direction, ..context.read_request(stream, from) };
    context.store().read_stream(request).await
}

async fn truncation_strips_whole_commits(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    for before in 2..=10 {
        let (stream, _) = three_commits(&context).await?;
        let truncated = truncate(&context, &**context.admin(), &stream, before).await?;
        let first = first_left(before);
        ensure_eq!(truncated.first_retained, Revision(first), "first revision left in the receipt, before {before}");
        let marker = &truncated.marker;
        let numbers = (marker.number, marker.first, marker.last, marker.repeated);
        let wanted = (CommitNumber(4), Revision(10), Revision(9), false);
        ensure_eq!(numbers, wanted, "receipt of the marker of a truncation before {before}");
        let page = context.read(&stream).await?;
        ensure_eq!(revisions(&page), (first..=9).map(Revision).collect::<Vec<_>>(), "what is left before {before}");
        let head = &page.head;
        let found = (head.revision, head.number, head.first_retained, head.commit, &head.state);
        let wanted = (Revision(9), CommitNumber(4), Revision(first), Some(marker.commit), &StreamState::Open);
        ensure_eq!(found, wanted, "head after a truncation before {before}");
        ensure_eq!(&context.head(&stream).await?, head, "the head as a read of it alone gives it");
    }
    Ok(Outcome::Held)
}

async fn truncated_reads_begin_at_what_is_left(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    truncate(&context, &**context.admin(), &stream, 5).await?;
    let at = |revision| StreamStart::At(Revision(revision));
    let rising = |first: u64, last: u64| (first..=last).map(Revision).collect::<Vec<_>>();
    let falling = |last: u64, first: u64| (first..=last).rev().map(Revision).collect::<Vec<_>>();
    let cases = [
        (StreamStart::First, Direction::Forward, rising(4, 9)),
        (at(1), Direction::Forward, rising(4, 9)),
        (at(3), Direction::Forward, rising(4, 9)),
        (at(5), Direction::Forward, rising(5, 9)),
        (at(10), Direction::Forward, vec![]),
        (StreamStart::Last, Direction::Backward, falling(9, 4)),
        (at(5), Direction::Backward, falling(5, 4)),
        (at(3), Direction::Backward, vec![]),
        (at(100), Direction::Backward, falling(9, 4)),
    ];
    for (from, direction, wanted) in cases {
        let page = read(&context, &stream, from, direction).await?;
        ensure_eq!(revisions(&page), wanted, "revisions read from {from:?} {direction:?}");
        ensure_eq!(page.next, None, "where a read from {from:?} {direction:?} goes on");
        ensure!(page.commits.iter().all(|commit| !commit.kind.is_marker()), "a read of events shows a marker");
    }
    let everything = truncate(&context, &**context.admin(), &stream, 10).await?;
    ensure_eq!(everything.first_retained, Revision(10), "first revision left of a stream without events");
    for (from, direction) in [
        (StreamStart::First, Direction::Forward),
        (at(9), Direction::Forward),
        (StreamStart::Last, Direction::Backward),
        (at(1), Direction::Backward),
    ] {
        let page = read(&context, &stream, from, direction).await?;
        ensure_eq!((revisions(&page).len(), page.next), (0, None), "events read from {from:?} {direction:?} of none");
    }
    Ok(Outcome::Held)
}

async fn truncated_slots_stay_as_stubs(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    catch_up(&context, &**context.admin()).await?;
    let before = slots(&context, &**context.admin(), &stream).await?;
    ensure_eq!(before.len(), 3, "slots of the stream");
    let truncated = truncate(&context, &**context.admin(), &stream, 6).await?;
    catch_up(&context, &**context.admin()).await?;
    let after = slots(&context, &**context.admin(), &stream).await?;
    let stub = |commit: &Commit| Commit { content: Content::Stripped, events: Vec::new(), ..commit.clone() };
    let wanted = vec![stub(&before[0]), stub(&before[1]), before[2].clone()];
    ensure_eq!(after[..after.len().min(3)], wanted, "slots of the commits after a truncation");
    let marker = after.get(3).map(|commit| (&commit.kind, commit.id, commit.number, commit.count));
    let kind = CommitKind::Truncated { before: Revision(6) };
    ensure_eq!(marker, Some((&kind, truncated.marker.commit, CommitNumber(4), 0)), "the slot of the marker");
    Ok(Outcome::Held)
}

async fn truncation_is_bounded(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    let head = context.head(&stream).await?;
    let admin = &**context.admin();
    for wrong in [0, 1, 11, 12, 1_000_000] {
        ensure_kind!(truncate(&context, admin, &stream, wrong).await, Invalid, "a truncation before {wrong} at head 9");
    }
    ensure_kind!(truncate(&context, admin, &context.stream(), 2).await, NotFound, "a truncation of a missing stream");
    ensure_eq!(context.head(&stream).await?, head, "the head after refused truncations");
    ensure_eq!(revisions(&context.read(&stream).await?).len(), 9, "events after refused truncations");
    truncate(&context, admin, &stream, 10).await?;
    Ok(Outcome::Held)
}

async fn truncation_never_gives_back(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    // Tighter, looser, the same, tighter: what is left only shrinks, and each takes a slot.
    for (before, first, number) in [(4, 4, 4), (2, 4, 5), (4, 4, 6), (5, 4, 7), (6, 6, 8), (2, 6, 9)] {
        let truncated = truncate(&context, &**context.admin(), &stream, before).await?;
        let found = (truncated.first_retained, truncated.marker.number);
        ensure_eq!(found, (Revision(first), CommitNumber(number)), "first revision left, and slot, before {before}");
        let page = context.read(&stream).await?;
        ensure_eq!(revisions(&page), (first..=9).map(Revision).collect::<Vec<_>>(), "what is left before {before}");
        ensure_eq!(page.head.first_retained, Revision(first), "first revision left in the head, before {before}");
    }
    Ok(Outcome::Held)
}

async fn numbers_are_never_reused(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    truncate(&context, &**context.admin(), &stream, 10).await?;
    let head = context.head(&stream).await?;
    let found = (head.revision, head.number, head.first_retained, &head.state);
    ensure_eq!(found, (Revision(9), CommitNumber(4), Revision(10), &StreamState::Open), "head of an emptied stream");
    for wrong in [Expected::NoStream, Expected::At(Revision(0)), Expected::At(Revision(10))] {
        let error = ensure_kind!(context.append(&stream, wrong, 1).await, Conflict, "an append that expects {wrong}");
        ensure_eq!(error.head(), Some(&head), "the head that the conflict carries");
    }
    let receipt = context.append(&stream, Expected::Exists, 1).await?;
    let found = (receipt.first, receipt.last, receipt.number);
    ensure_eq!(found, (Revision(10), Revision(10), CommitNumber(5)), "receipt of the first append behind the cut");
    ensure_eq!(revisions(&context.read(&stream).await?), [Revision(10)], "revisions of the stream");
    // The last event alone is taken away: its number is not given again.
    truncate(&context, &**context.admin(), &stream, 11).await?;
    let receipt = context.append(&stream, Expected::At(Revision(10)), 2).await?;
    ensure_eq!((receipt.first, receipt.number), (Revision(11), CommitNumber(7)), "receipt behind a second cut");
    Ok(Outcome::Held)
}

/// A receipt without what differs on a repeat.
fn lasting(receipt: &Appended) -> (CommitId, CommitNumber, Revision, Revision, Option<Position>, Timestamp) {
    let Appended { commit, number, first, last, position, recorded_at, .. } = receipt;
    (*commit, *number, *first, *last, *position, *recorded_at)
}

/// Ends a check as broken unless a repeat got the first receipt. A sequencer may have given the position since.
fn ensure_repeat(repeat: &Appended, first: &Appended, what: &str) -> Result<(), Broken> {
    ensure!(repeat.repeated, "{what} is not said to be repeated");
    let first = Appended { position: first.position.or(repeat.position), ..first.clone() };
    ensure_eq!(lasting(repeat), lasting(&first), "the receipt of {what}");
    ensure_eq!(repeat.digest, first.digest, "the digest of {what}");
    Ok(())
}

async fn markers_are_repeatable(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, receipts) = three_commits(&context).await?;
    let admin = context.admin();
    let request = truncate_request(&context, &stream, 5);
    let first = admin.truncate(request.clone()).await?;
    context.append(&stream, Expected::Any, 1).await?;
    let repeat = admin.truncate(request.clone()).await?;
    ensure_repeat(&repeat.marker, &first.marker, "a repeated truncation")?;
    ensure_eq!(repeat.first_retained, Revision(4), "first revision left in the repeat's receipt");
    let other = Truncate { before: Revision(6), ..request.clone() };
    ensure_kind!(admin.truncate(other).await, IdReused, "another truncation under the same id");
    let taken = Truncate { commit: receipts[2].commit, ..truncate_request(&context, &stream, 6) };
    ensure_kind!(admin.truncate(taken).await, IdReused, "a truncation under the id of a commit");
    let append = context.request(&stream, Expected::Any, request.commit, context.events(1))?;
    ensure_kind!(context.store().append(append).await, IdReused, "an append under the id of a truncation");
    ensure_eq!(context.head(&stream).await?.number, CommitNumber(5), "the last slot after repeats and refusals");
    let request = delete_request(&context, &stream, Expected::At(Revision(10)));
    let first = admin.delete(request.clone()).await?;
    let found = (first.number, first.first, first.last);
    ensure_eq!(found, (CommitNumber(6), Revision(11), Revision(10)), "receipt of a deletion");
    let repeat = admin.delete(Delete { expected: Expected::NoStream, ..request.clone() }).await?;
    ensure_repeat(&repeat, &first, "a repeated deletion")?;
    let found = context.find(&stream, request.commit).await?;
    ensure_repeat(
        &found.ok_or_else(|| Broken::new("a tombstone is not found by its id"))?,
        &first,
        "a found tombstone",
    )?;
    ensure_eq!(context.head(&stream).await?.number, CommitNumber(6), "the last slot after a repeated deletion");
    Ok(Outcome::Held)
}

async fn ids_survive(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let stream = context.stream();
    let mut appends = Vec::new();
    for count in [3, 2] {
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(count))?;
        let receipt = context.store().append(request.clone()).await?;
        appends.push((request, receipt));
    }
    let recognised = async |when: &str| {
        for (request, receipt) in &appends {
            let repeat = context.store().append(request.clone()).await?;
            ensure_repeat(&repeat, receipt, &format!("a commit repeated {when}"))?;
            let deadline = context.deadline();
            let find = FindCommit { stream: stream.clone(), commit: receipt.commit, deadline };
            match context.store().find_commit(find).await? {
                Some(found) => ensure_repeat(&found, receipt, &format!("a commit found {when}"))?,
                None => return Err(Broken::new(format!("a commit is not found {when}"))),
            }
            let other = context.request(&stream, Expected::Any, receipt.commit, context.events(1))?;
            ensure_kind!(context.store().append(other).await, IdReused, "other content under an id {when}");
        }
        Ok(())
    };
    truncate(&context, &**context.admin(), &stream, 6).await?;
    recognised("after a truncation").await?;
    delete(&context, &**context.admin(), &stream, Expected::Any).await?;
    recognised("after a deletion").await?;
    Ok(Outcome::Held)
}

async fn each_expectation_is_checked(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    for expected in [Expected::Any, Expected::Exists, Expected::At(Revision(9))] {
        let (stream, _) = three_commits(&context).await?;
        let receipt = delete(&context, &**context.admin(), &stream, expected).await?;
        ensure_eq!(receipt.number, CommitNumber(4), "slot of a deletion that expects {expected}");
        ensure_eq!(context.head(&stream).await?.state, StreamState::Deleted, "state after it");
    }
    let (stream, _) = three_commits(&context).await?;
    let head = context.head(&stream).await?;
    for expected in [Expected::NoStream, Expected::At(Revision(8)), Expected::At(Revision(10))] {
        let result = delete(&context, &**context.admin(), &stream, expected).await;
        let error = ensure_kind!(result, Conflict, "a deletion at head 9 that expects {expected}");
        ensure_eq!(error.head(), Some(&head), "the head that the conflict carries");
    }
    ensure_eq!(context.head(&stream).await?, head, "the head after refused deletions");
    ensure_eq!(revisions(&context.read(&stream).await?).len(), 9, "events after refused deletions");
    Ok(Outcome::Held)
}

async fn a_missing_name_can_be_burnt(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    for expected in [Expected::Any, Expected::NoStream, Expected::At(Revision(0))] {
        let stream = context.stream();
        let receipt = delete(&context, &**context.admin(), &stream, expected).await?;
        let found = (receipt.number, receipt.first, receipt.last);
        ensure_eq!(found, (CommitNumber(1), Revision(1), Revision(0)), "receipt of a deletion of a missing stream");
        let head = context.head(&stream).await?;
        let found = (head.revision, head.number, head.first_retained, &head.state);
        let wanted = (Revision(0), CommitNumber(1), Revision(1), &StreamState::Deleted);
        ensure_eq!(found, wanted, "head of a name that was burnt");
        ensure_kind!(context.append(&stream, Expected::NoStream, 1).await, Gone, "an append to a name that was burnt");
    }
    for expected in [Expected::Exists, Expected::At(Revision(1))] {
        let stream = context.stream();
        let refused = delete(&context, &**context.admin(), &stream, expected).await;
        ensure_kind!(refused, Conflict, "a deletion of a missing stream that expects {expected}");
        ensure_eq!(context.head(&stream).await?, Head::missing(), "head of a missing stream after it");
        context.append(&stream, Expected::NoStream, 1).await?;
    }
    Ok(Outcome::Held)
}

async fn a_deleted_name_is_gone_for_ever(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, receipts) = three_commits(&context).await?;
    delete(&context, &**context.admin(), &stream, Expected::Exists).await?;
    let head = context.head(&stream).await?;
    let expectations =
        [Expected::Any, Expected::NoStream, Expected::Exists, Expected::At(Revision(9)), Expected::At(Revision(0))];
    for expected in expectations {
        let append = context.append(&stream, expected, 1).await;
        ensure_kind!(append, Gone, "an append to a deleted stream that expects {expected}");
        let deleted = delete(&context, &**context.admin(), &stream, expected).await;
        ensure_kind!(deleted, Gone, "another deletion of a deleted stream that expects {expected}");
    }
    ensure_kind!(truncate(&context, &**context.admin(), &stream, 5).await, Gone, "a truncation of a deleted stream");
    let put = PutSnapshot { snapshot: snapshot(&stream, &receipts[2]), deadline: context.deadline() };
    ensure_kind!(context.store().put_snapshot(put).await, Gone, "a snapshot of a deleted stream");
    ensure_eq!(context.head(&stream).await?, head, "the head after refusals");
    Ok(Outcome::Held)
}

async fn deleted_streams_say_so(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, _) = three_commits(&context).await?;
    catch_up(&context, &**context.admin()).await?;
    let before = slots(&context, &**context.admin(), &stream).await?;
    let tombstone = delete(&context, &**context.admin(), &stream, Expected::Any).await?;
    for (from, direction) in [
        (StreamStart::First, Direction::Forward),
        (StreamStart::At(Revision(2)), Direction::Forward),
        (StreamStart::Last, Direction::Backward),
    ] {
        let page = read(&context, &stream, from, direction).await?;
        ensure_eq!((revisions(&page).len(), page.next), (0, None), "events of a deleted stream, from {from:?}");
        let head = (page.head.revision, page.head.number, page.head.first_retained, page.head.commit, page.head.state);
        let id = Some(tombstone.commit);
        let wanted = (Revision(9), CommitNumber(4), Revision(10), id, StreamState::Deleted);
        ensure_eq!(head, wanted, "head of a deleted stream");
    }
    let after = slots(&context, &**context.admin(), &stream).await?;
    let stubs: Vec<_> =
        before.into_iter().map(|commit| Commit { content: Content::Stripped, events: Vec::new(), ..commit }).collect();
    ensure_eq!(after[..after.len().min(3)], stubs, "slots of the commits after a deletion");
    let last = after.get(3).map(|commit| (&commit.kind, commit.id));
    ensure_eq!(last, Some((&CommitKind::Deleted, tombstone.commit)), "the slot of the tombstone");
    context.settle_lists().await;
    let (category, deadline) = (Some(context.category()), context.deadline());
    let request = ListStreams {
        namespace: NamespaceFilter::All,
        category,
        prefix: String::new(),
        after: None,
        limit: 10,
        deadline,
    };
    let listed = context.store().list_streams(request).await?.streams;
    let found: Vec<_> = listed.iter().map(|one| (&one.stream, &one.head.state)).collect();
    ensure_eq!(found, [(&stream, &StreamState::Deleted)], "the list of streams");
    Ok(Outcome::Held)
}

/// A snapshot after a commit.
pub(super) fn snapshot(stream: &StreamId, receipt: &Appended) -> Snapshot {
    Snapshot {
        stream: stream.clone(),
        revision: receipt.last,
        number: receipt.number,
        commit: receipt.commit,
        schema: 1,
        content_type: ContentType::json(),
        data: Bytes::from_static(b"{\"total\":9}"),
        taken_at: Timestamp(1_700_000_000_000_000),
    }
}

async fn snapshot_of(context: &Context, stream: &StreamId) -> Result<Option<Snapshot>, Error> {
    context.settle().await;
    context.store().read_snapshot(ReadSnapshot { stream: stream.clone(), deadline: context.deadline() }).await
}

async fn neighbours_are_untouched(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let name = context.stream().name;
    let streams = [
        StreamId::within("", name.as_str())?,
        StreamId::within("", format!("{name}0"))?,
        StreamId::within("", format!("{name}-0"))?,
        StreamId::within("tenant", name.as_str())?,
        StreamId::within("", name.as_str().to_uppercase())?,
        StreamId::within("", context.category().as_str())?,
    ];
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new(name.as_str())? };
    context.store().put_record(put_request(&context, &key, RecordExpected::Any, Some("kept"))).await?;
    for stream in &streams {
        let receipt = context.append(stream, Expected::NoStream, 3).await?;
        context.append(stream, Expected::Any, 1).await?;
        let put = PutSnapshot { snapshot: snapshot(stream, &receipt), deadline: context.deadline() };
        context.store().put_snapshot(put).await?;
    }
    // Where a sequencer gives positions, they come later; what is compared has them.
    context.admin().advance_feed(AdvanceFeed { deadline: context.deadline() }).await?;
    let mut before = Vec::new();
    for stream in &streams {
        before.push((context.read(stream).await?, snapshot_of(&context, stream).await?));
    }
    truncate(&context, &**context.admin(), &streams[0], 4).await?;
    delete(&context, &**context.admin(), &streams[0], Expected::Any).await?;
    for (stream, (page, snapshot)) in streams.iter().zip(before).skip(1) {
        let found = context.read(stream).await?;
        ensure_eq!((&found.head, &found.commits), (&page.head, &page.commits), "head and commits of {stream:?}");
        ensure_eq!(snapshot_of(&context, stream).await?, snapshot, "snapshot of {stream:?}");
    }
    let record = read_from(&context, &**context.store(), &key).await?.and_then(|record| record.value);
    ensure_eq!(record, Some(Bytes::from_static(b"kept")), "a record of the deleted stream's name");
    Ok(Outcome::Held)
}

async fn the_snapshot_goes_too(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (stream, receipts) = three_commits(&context).await?;
    let kept = snapshot(&stream, &receipts[1]);
    let put = PutSnapshot { snapshot: kept.clone(), deadline: context.deadline() };
    context.store().put_snapshot(put).await?;
    truncate(&context, &**context.admin(), &stream, 6).await?;
    ensure_eq!(snapshot_of(&context, &stream).await?, Some(kept), "the snapshot of a truncated stream");
    delete(&context, &**context.admin(), &stream, Expected::Any).await?;
    ensure_eq!(snapshot_of(&context, &stream).await?, None, "the snapshot of a deleted stream");
    Ok(Outcome::Held)
}

/// A truncated stream, a deleted one and one that is left alone, mixed; before and after.
async fn mixed(context: &Context) -> Result<(Fresh, [StreamId; 3], Vec<super::feed::Seen>), Broken> {
    let fresh = context.fresh().await?;
    let streams = [context.stream(), context.stream(), context.stream()];
    for (stream, count) in [(0, 2), (1, 3), (2, 1), (0, 1), (1, 1), (0, 2), (2, 2)] {
        append_to(context, &*fresh.store, &streams[stream], count).await?;
    }
    let before = seen(&whole_feed(context, &fresh).await?);
    truncate(context, &*fresh.admin, &streams[0], 4).await?;
    delete(context, &*fresh.admin, &streams[1], Expected::Any).await?;
    catch_up(context, &*fresh.admin).await?;
    Ok((fresh, streams, before))
}

async fn the_feed_shows_what_is_gone(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (fresh, streams, before) = mixed(&context).await?;
    let left = |event: &&super::feed::Seen| {
        event.stream == streams[2] || (event.stream == streams[0] && event.revision > Revision(3))
    };
    let wanted: Vec<_> = before.iter().filter(left).cloned().collect();
    let pages = whole_feed(&context, &fresh).await?;
    ensure_same(&context, &seen(&pages), &wanted, "the feed after a truncation and a deletion")?;
    let markers = pages.iter().flat_map(FeedPage::commits).filter(|commit| commit.kind.is_marker());
    let mut markers: Vec<_> = markers.map(|commit| (commit.stream.clone(), commit.kind.clone())).collect();
    markers.sort_by(|one, other| one.0.cmp(&other.0));
    let kinds = [CommitKind::Truncated { before: Revision(4) }, CommitKind::Deleted];
    let mut both: Vec<_> = streams.iter().cloned().zip(kinds).collect();
    both.sort_by(|one, other| one.0.cmp(&other.0));
    ensure_eq!(markers, both, "markers of the feed");
    // A filter by type shows no marker, one by category shows those of its streams; neither shows a range.
    let filtered = FeedFilter { categories: vec![context.category()], ..FeedFilter::none() };
    let filtered = context.feed_until(&*fresh.store, FeedStart::First, filtered, 0).await?;
    ensure_eq!(
        filtered.iter().map(|page| page.commits().count()).sum::<usize>(),
        wanted_commits(&pages),
        "commits that pass by category"
    );
    ensure!(filtered.iter().all(|page| page.items.iter().all(is_commit)), "a removed range passes a filter");
    if context.capabilities().positions != Positions::Opaque && context.capabilities().order == FeedOrder::Total {
        let gone: Vec<_> = before.iter().filter(|event| !left(event)).filter_map(|event| event.position).collect();
        let ranges = pages.iter().flat_map(|page| &page.items).filter_map(|item| match item {
            FeedItem::Removed { first, last } => Some(first.0..=last.0),
            FeedItem::Commit(_) => None,
        });
        let removed: Vec<_> = ranges.flatten().map(Position).collect();
        ensure_eq!(removed, gone, "positions of removed ranges");
        for position in gone {
            let from = FeedStart::AfterPosition(position);
            let rest = seen(&context.feed_until(&*fresh.store, from, FeedFilter::none(), 0).await?);
            let wanted: Vec<_> = wanted.iter().filter(|event| event.position > Some(position)).cloned().collect();
            ensure_same(&context, &rest, &wanted, "what comes after a position that is gone")?;
        }
    }
    Ok(Outcome::Held)
}

fn is_commit(item: &FeedItem) -> bool {
    matches!(item, FeedItem::Commit(_))
}

fn wanted_commits(pages: &[FeedPage]) -> usize {
    pages.iter().map(|page| page.commits().count()).sum()
}

async fn races_with_appends_lose_nothing(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    for _ in 0..context.rounds(3) {
        let stream = context.stream();
        context.append(&stream, Expected::NoStream, 2).await?;
        let answers = context
            .together(6, |caller| {
                let (context, stream) = (context.clone(), stream.clone());
                let mut seed = Seed(context.seed().0 ^ caller as u64);
                async move {
                    let (mut acknowledged, mut latest) = (0, Revision(1));
                    for _ in 0..5 {
                        if caller < 4 {
                            let count = 1 + seed.below(3) as u32;
                            context.append(&stream, Expected::Any, count).await?;
                            acknowledged += u64::from(count);
                        } else {
                            let deadline = context.deadline();
                            let head = context.store().head(ReadHead { stream: stream.clone(), deadline }).await?;
                            // The older half at most: what a cut was not asked for has to stay.
                            let before = 2 + seed.below(head.revision.0.div_ceil(2));
                            truncate(&context, &**context.admin(), &stream, before).await?;
                            latest = latest.max(Revision(before));
                        }
                    }
                    Ok::<_, Error>((acknowledged, latest))
                }
            })
            .await?;
        let answers = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let acknowledged = 2 + answers.iter().map(|answer| answer.0).sum::<u64>();
        let latest = answers.iter().map(|answer| answer.1).max().unwrap_or_default();
        let page = context.read(&stream).await?;
        ensure_eq!(page.head.revision, Revision(acknowledged), "head after appends and truncations");
        ensure_eq!(page.head.number, CommitNumber(1 + 4 * 5 + 2 * 5), "slots after appends and truncations");
        let first = page.head.first_retained.0;
        ensure!(first <= latest.0, "events up to {first} are gone, and the latest cut was before {latest}");
        ensure_eq!(revisions(&page), (first..=acknowledged).map(Revision).collect::<Vec<_>>(), "what is left");
        let slots = slots(&context, &**context.admin(), &stream).await?;
        let mut last = Revision(0);
        for (commit, number) in slots.iter().zip(1..) {
            let found = (commit.number, commit.first_revision);
            ensure_eq!(found, (CommitNumber(number), last.next()), "numbers of slot {number}");
            last = commit.last_revision();
            let stripped = !commit.kind.is_marker() && commit.content == Content::Stripped;
            ensure_eq!(stripped, !commit.kind.is_marker() && last.0 < first, "whether slot {number} is stripped");
        }
    }
    Ok(Outcome::Held)
}

/// Most appends of one writer that races with a deletion, which comes long before.
const APPENDS_MAX: usize = 1_000;

async fn races_with_appends_end_gone(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    for _ in 0..context.rounds(5) {
        let stream = context.stream();
        context.append(&stream, Expected::NoStream, 1).await?;
        let answers = context
            .together(6, |caller| {
                let (context, stream) = (context.clone(), stream.clone());
                async move {
                    if caller == 0 {
                        tokio::task::yield_now().await;
                        let tombstone = delete(&context, &**context.admin(), &stream, Expected::Any).await?;
                        return Ok((Some(tombstone), Vec::new()));
                    }
                    let mut receipts = Vec::new();
                    while receipts.len() < APPENDS_MAX {
                        match context.append(&stream, Expected::Any, 1).await {
                            Ok(receipt) => receipts.push(receipt),
                            Err(error) if error.kind() == ErrorKind::Gone => break,
                            Err(error) => return Err(error),
                        }
                        tokio::task::yield_now().await;
                    }
                    Ok((None, receipts))
                }
            })
            .await?;
        let answers = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let Some(tombstone) = answers.iter().find_map(|answer| answer.0.clone()) else {
            return Err(Broken::new("a deletion has no receipt"));
        };
        for receipt in answers.iter().flat_map(|answer| &answer.1) {
            let before = receipt.number < tombstone.number;
            ensure!(before, "slot {} was acknowledged behind the tombstone in {}", receipt.number, tombstone.number);
        }
        let slots = slots(&context, &**context.admin(), &stream).await?;
        let last = slots.last().map(|commit| (commit.number, &commit.kind));
        ensure_eq!(last, Some((tombstone.number, &CommitKind::Deleted)), "the last slot of a deleted stream");
        ensure_eq!(revisions(&context.read(&stream).await?).len(), 0, "events of a deleted stream");
    }
    Ok(Outcome::Held)
}
