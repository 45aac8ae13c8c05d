//! Repeating commits: properties 23 to 34, 40.

use super::deletion::deleting;
use super::feed::{append_to, catch_up, slots};
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, event_type, revisions};
use evstore_api::capabilities::{EventIds, Support, Window};
use evstore_api::{
    Append, Appended, CommitNumber, ContentType, Delete, EventId, EventStore, Events, Expected, Extension, FindCommit,
    NewEvent, Origin, Replica, Replicate, Result, Revision, StoreState, StreamId, Timestamp, Truncate, Usage,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "idempotency.a-repeat-returns-the-first-receipt",
        "the same commit again returns the first receipt, says that it is repeated, and appends nothing",
        [23],
        a_repeat_returns_the_first_receipt
    ),
    check!(
        "idempotency.a-repeat-is-recognised-after-others",
        "a repeat is recognised after others have appended, from any client, whatever it expects",
        [25, 30],
        a_repeat_is_recognised_after_others
    ),
    check!(
        "idempotency.other-content-is-refused",
        "a commit id with other content is refused, and nothing of it is stored",
        [24, 26],
        other_content_is_refused
    ),
    check!(
        "idempotency.an-id-belongs-to-its-stream",
        "the same commit id in another stream or namespace is another commit",
        [23],
        an_id_belongs_to_its_stream
    ),
    check!(
        "idempotency.a-refused-commit-leaves-its-id-free",
        "after a conflict the same commit id is free, for the same content and for other content",
        [11, 24],
        a_refused_commit_leaves_its_id_free
    ),
    check!(
        "idempotency.an-event-id-twice-in-a-commit-is-refused",
        "an event id that stands twice in a commit, given or derived, is refused and nothing is stored",
        [27],
        an_event_id_twice_in_a_commit_is_refused
    ),
    check!(
        "idempotency.event-ids-are-unique-as-declared",
        "an event id that was used before is taken or refused as the store declares, in its stream and in others",
        [28],
        event_ids_are_unique_as_declared
    ),
    check!(
        "idempotency.the-window-is-as-declared",
        "a repeat is recognised up to the last commit of the declared window, and not after it where it ends, from a new handle \
         and at a copy too",
        [25, 29],
        the_window_is_as_declared
    ),
    check!(
        "idempotency.markers-count-in-the-window",
        "a marker takes a slot of the declared window as every commit does, no more and no fewer",
        [29],
        markers_count_in_the_window
    ),
    check!(
        "idempotency.a-commit-is-found-by-its-id",
        "a commit is found by its id, with its receipt, in its stream only",
        [32, 40],
        a_commit_is_found_by_its_id
    ),
    check!(
        "idempotency.a-dropped-append-is-resolved-by-repeating",
        "an append whose caller went away at any moment is made exactly once when it is repeated",
        [32, 40],
        a_dropped_append_is_resolved_by_repeating
    ),
    check!(
        "idempotency.a-repeat-is-recognised-after-truncation",
        "a commit whose events were truncated is still recognised by its id, and its id stays used",
        [33],
        a_repeat_is_recognised_after_truncation
    ),
    check!(
        "idempotency.a-repeat-is-recognised-after-deletion",
        "a commit of a deleted stream is still recognised by its id, while nothing new can be appended",
        [34],
        a_repeat_is_recognised_after_deletion
    ),
];

/// Ends a check as broken unless a receipt is that of an earlier commit.
fn same_receipt(repeat: &Appended, first: &Appended, what: &str) -> Result<(), Broken> {
    ensure!(repeat.repeated, "{what}: the receipt does not say that it is repeated");
    // A sequencer may have given the position in between.
    let position = first.position.or(repeat.position);
    let wanted = Appended { repeated: true, usage: Usage::default(), position, ..first.clone() };
    ensure_eq!(Appended { usage: Usage::default(), ..repeat.clone() }, wanted, "{what}: the receipt of a repeat");
    Ok(())
}

async fn a_repeat_returns_the_first_receipt(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::Any, 1).await?;
    let request = context.request(&stream, Expected::At(Revision(1)), context.commit_id(), context.events(3))?;
    let first = context.store().append(request.clone()).await?;
    ensure!(!first.repeated, "the first append says that it is repeated");
    for _ in 0..3 {
        let repeat = context.store().append(request.clone()).await?;
        same_receipt(&repeat, &first, "a repeat")?;
    }
    ensure_eq!(revisions(&context.read(&stream).await?), [1, 2, 3, 4].map(Revision), "revisions of the stream");
    let pages = context.feed_of_own_streams(4).await?;
    ensure_eq!(pages.iter().flat_map(|page| page.events()).count(), 4, "events in the feed");
    Ok(Outcome::Held)
}

async fn a_repeat_is_recognised_after_others(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let request = context.request(&stream, Expected::NoStream, context.commit_id(), context.events(2))?;
    let first = context.store().append(request.clone()).await?;
    for _ in 0..5 {
        context.append(&stream, Expected::Any, 2).await?;
    }
    let other = context.another_client().await?;
    let expectations =
        [Expected::NoStream, Expected::Any, Expected::Exists, Expected::At(Revision(1)), Expected::At(Revision(99))];
    for expected in expectations {
        let request = Append { expected, ..request.clone() };
        for (client, name) in [(context.store(), "the same client"), (&other, "another client")] {
            let repeat = client.append(request.clone()).await;
            let repeat =
                repeat.map_err(|error| Broken::new(format!("a repeat that expects {expected} failed: {error:?}")))?;
            same_receipt(&repeat, &first, &format!("a repeat that expects {expected}, from {name}"))?;
        }
    }
    ensure_eq!(context.head(&stream).await?.revision, Revision(12), "head after the repeats");
    other.close().await?;
    Ok(Outcome::Held)
}

/// Ways in which the content of a commit of three events can be another.
fn other_contents(events: &[NewEvent]) -> Vec<(&'static str, Vec<NewEvent>)> {
    let changed = |change: fn(&mut NewEvent)| {
        let mut events = events.to_vec();
        change(&mut events[1]);
        events
    };
    let superset = [events, &[NewEvent::new(event_type("Tried"), "one more")]].concat();
    let reordered = vec![events[1].clone(), events[0].clone(), events[2].clone()];
    vec![
        ("other data", changed(|event| event.data = "other".into())),
        ("no data", changed(|event| event.data = bytes::Bytes::new())),
        ("other metadata", changed(|event| event.metadata = "other".into())),
        ("another type", changed(|event| event.event_type = event_type("Other"))),
        ("another schema", changed(|event| event.schema = 2)),
        ("another content type", changed(|event| event.content_type = ContentType::json())),
        ("another time", changed(|event| event.occurred_at = Some(Timestamp(1)))),
        ("another event id", changed(|event| event.id = Some(EventId([7; 16])))),
        (
            "an extension",
            changed(|event| {
                let value = "x".into();
                event.extensions = vec![Extension { tag: u32::MAX, critical: false, value }];
            }),
        ),
        ("fewer events", events[..2].to_vec()),
        ("one event more", superset),
        ("another order", reordered),
    ]
}

async fn other_content_is_refused(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let (id, events) = (context.commit_id(), context.events(3));
    let first = context.store().append(context.request(&stream, Expected::Any, id, events.clone())?).await?;
    for (what, events) in other_contents(&events) {
        for expected in [Expected::Any, Expected::NoStream, Expected::At(first.last)] {
            let result = context.store().append(context.request(&stream, expected, id, events.clone())?).await;
            let error = ensure_kind!(result, IdReused, "the same commit id with {what}, expecting {expected}");
            ensure_eq!(error.commit(), Some(id), "the commit that the error carries");
        }
    }
    let page = context.read(&stream).await?;
    ensure_eq!(revisions(&page), [1, 2, 3].map(Revision), "revisions of the stream");
    let stored: Vec<_> = page.events().map(|one| one.event.data.clone()).collect();
    ensure_eq!(stored, events.into_iter().map(|event| event.data).collect::<Vec<_>>(), "data of the stream");
    Ok(Outcome::Held)
}

async fn an_id_belongs_to_its_stream(context: Context) -> Result<Outcome, Broken> {
    let (one, other) = (context.stream(), context.stream());
    let elsewhere = StreamId::within("elsewhere", one.name.as_str())?;
    let (id, events) = (context.commit_id(), context.events(1));
    for stream in [&one, &other, &elsewhere] {
        let receipt = context.store().append(context.request(stream, Expected::Any, id, events.clone())?).await?;
        ensure!(!receipt.repeated, "an append to {stream:?} is taken for a repeat of one to another stream");
        ensure_eq!(context.head(stream).await?.revision, Revision(1), "head of {stream:?}");
    }
    let result = context.store().append(context.request(&other, Expected::Any, id, context.events(1))?).await;
    ensure_kind!(result, IdReused, "other content in the second stream");
    Ok(Outcome::Held)
}

async fn a_refused_commit_leaves_its_id_free(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::Any, 1).await?;
    let (id, events) = (context.commit_id(), context.events(1));
    let stale = context.request(&stream, Expected::NoStream, id, events)?;
    ensure_kind!(context.store().append(stale.clone()).await, Conflict, "an append with a stale expectation");
    let decided_again = context.request(&stream, Expected::At(Revision(1)), id, context.events(2))?;
    let receipt = context.store().append(decided_again.clone()).await?;
    ensure!(!receipt.repeated, "a commit that was refused before is taken for a repeat");
    ensure_kind!(context.store().append(stale).await, IdReused, "the first decision, after the second was appended");
    same_receipt(&context.store().append(decided_again).await?, &receipt, "the second decision again")?;
    Ok(Outcome::Held)
}

async fn an_event_id_twice_in_a_commit_is_refused(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut given = context.events(2);
    given[0].id = Some(EventId([7; 16]));
    given[1].id = Some(EventId([7; 16]));
    ensure_kind!(Events::new(given).map(|_| ()), Invalid, "two events of the same id");
    // The first event takes the id that is derived for the third.
    let id = context.commit_id();
    let mut derived = context.events(3);
    derived[0].id = Some(EventId::derive(id, 2));
    let result = context.store().append(context.request(&stream, Expected::Any, id, derived)?).await;
    ensure_kind!(result, Invalid, "an event with the derived id of another one");
    ensure_eq!(context.head(&stream).await?.revision, Revision(0), "head after the refused append");
    Ok(Outcome::Held)
}

async fn event_ids_are_unique_as_declared(context: Context) -> Result<Outcome, Broken> {
    let (stream, other) = (context.stream(), context.stream());
    let id = EventId(context.seed().bytes());
    let mut event = context.event();
    event.id = Some(id);
    context.append_events(&stream, Expected::Any, vec![event.clone()]).await?;
    let declared = context.capabilities().event_ids;
    let again = [
        (&stream, "in its stream", declared == EventIds::PerCommit),
        (&other, "in another stream", declared != EventIds::PerStore),
    ];
    for (stream, what, taken) in again {
        let before = context.head(stream).await?;
        let result = context.append_events(stream, Expected::Any, vec![event.clone()]).await;
        if taken {
            result.map_err(|error| {
                Broken::new(format!("event ids are unique {declared:?}, and one again {what} failed: {error:?}"))
            })?;
            let page = context.read(stream).await?;
            ensure_eq!(page.events().last().map(|one| one.event.id), Some(id), "id of the event {what}");
        } else {
            ensure_kind!(result, IdReused, "event ids are unique {declared:?}: one again {what}");
            ensure_eq!(context.head(stream).await?, before, "head after the refused append");
        }
    }
    Ok(Outcome::Held)
}

/// Largest window whose far edge is walked to.
const WINDOW_WALKED_MAX: u64 = 2_000;

async fn the_window_is_as_declared(context: Context) -> Result<Outcome, Broken> {
    // The smallest that any store may have: a store that can be told gets one whose edge is near.
    let fresh = context.fresh_with(&[("idempotency_commits", "64")]).await?;
    let (store, stream) = (fresh.store.clone(), context.stream());
    let window = store.capabilities().idempotency;
    let walked = match window {
        Window::Forever => context.rounds(300),
        Window::Commits(commits) => {
            ensure!(commits >= 64, "the declared window of {commits} commits is smaller than 64");
            commits.min(WINDOW_WALKED_MAX) - 1
        }
    };
    let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
    let first = store.append(request.clone()).await?;
    let later = |count| {
        let (context, store, stream) = (context.clone(), store.clone(), stream.clone());
        async move {
            for _ in 0..count {
                let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
                store.append(request).await?;
            }
            Ok::<_, evstore_api::Error>(())
        }
    };
    later(walked).await?;
    let commits = format!("{walked} later commits");
    ensure_inside(&context, &*store, &request, &first, &format!("after {commits}")).await?;
    if let Window::Commits(commits) = window
        && commits != walked + 1
    {
        return Ok(Outcome::NotRun(format!("the edge of a window of {commits} commits is too far to walk")));
    }
    // The same of who opens the store anew, and of where it was copied to.
    let reopened = context.open(&fresh.settings).await?;
    ensure_inside(&context, &*reopened, &request, &first, &format!("from a new handle, after {commits}")).await?;
    reopened.close().await?;
    let copy = copied(&context, &fresh, &stream).await?;
    if let Some(copy) = &copy {
        ensure_inside(&context, &*copy.store, &request, &first, &format!("at a copy, after {commits}")).await?;
    }
    if window == Window::Forever {
        return Ok(Outcome::Held);
    }
    if let Some(copy) = copy {
        ensure_outside_after_one(&context, &*copy.store, request.clone(), "at a copy").await?;
    }
    ensure_outside_after_one(&context, &*store, request, "at the far edge").await?;
    Ok(Outcome::Held)
}

async fn markers_count_in_the_window(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let fresh = context.fresh_with(&[("idempotency_commits", "64")]).await?;
    let (store, stream) = (&*fresh.store, context.stream());
    let later = match store.capabilities().idempotency {
        Window::Forever => 63,
        Window::Commits(commits) if commits <= WINDOW_WALKED_MAX => commits - 1,
        Window::Commits(commits) => {
            return Ok(Outcome::NotRun(format!("the edge of a window of {commits} commits is too far to walk")));
        }
    };
    append_to(&context, store, &stream, 1).await?;
    let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
    let first = store.append(request.clone()).await?;
    for number in 1..=later {
        // One of them is the marker of a truncation, which takes a slot as every commit does.
        if number == later / 2 {
            let (before, commit, deadline) = (Revision(2), context.commit_id(), context.deadline());
            fresh.admin.truncate(Truncate { stream: stream.clone(), commit, before, deadline }).await?;
        } else {
            append_to(&context, store, &stream, 1).await?;
        }
    }
    ensure_inside(&context, store, &request, &first, &format!("after {later} slots, a marker among them")).await?;
    if store.capabilities().idempotency != Window::Forever {
        ensure_outside_after_one(&context, store, request, "with a marker in the window").await?;
    }
    Ok(Outcome::Held)
}

/// A copy of a stream in a store of its own with the same window; none where the store takes no copies.
async fn copied(context: &Context, source: &Fresh, stream: &StreamId) -> Result<Option<Fresh>, Broken> {
    if context.capabilities().replication == Support::Refused {
        return Ok(None);
    }
    catch_up(context, &*source.admin).await?;
    let target = context.fresh_with(&[("idempotency_commits", "64")]).await?;
    let epoch = target.enter(context, StoreState::Importing { from: None }).await?.epoch;
    let items: Vec<_> = slots(context, &*source.admin, stream).await?.into_iter().map(Replica::Commit).collect();
    for items in items.chunks(50) {
        let (items, deadline) = (items.to_vec(), context.deadline());
        target.admin.replicate(Replicate { epoch, origin: Origin::Restore, items, deadline }).await?;
    }
    target.swap_meta(context, |meta| meta.state = StoreState::Open).await?;
    Ok(Some(target))
}

/// Ends a check as broken unless a commit is recognised.
async fn ensure_inside(
    context: &Context,
    store: &dyn EventStore,
    request: &Append,
    first: &Appended,
    what: &str,
) -> Result<(), Broken> {
    let repeat = store.append(request.clone()).await?;
    same_receipt(&repeat, first, &format!("a repeat {what}"))?;
    let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, context.deadline());
    let found = store.find_commit(FindCommit { stream, commit, deadline }).await?;
    ensure!(found.is_some(), "a commit inside the window is not found {what}");
    Ok(())
}

/// Ends a check as broken unless a commit that is the last one of its window is outside of it after one more.
async fn ensure_outside_after_one(
    context: &Context,
    store: &dyn EventStore,
    request: Append,
    what: &str,
) -> Result<(), Broken> {
    let last = append_to(context, store, &request.stream, 1).await?;
    let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, context.deadline());
    let found = store.find_commit(FindCommit { stream, commit, deadline }).await?;
    ensure_eq!(found, None, "a commit that lies as many commits back as the window has, {what}");
    let anew = store.append(request).await?;
    ensure!(!anew.repeated, "a commit outside the window is taken for a repeat, {what}");
    ensure_eq!(anew.number, last.number.next(), "slot of a commit that was appended anew, {what}");
    Ok(())
}

async fn a_commit_is_found_by_its_id(context: Context) -> Result<Outcome, Broken> {
    let (stream, other, missing) = (context.stream(), context.stream(), context.stream());
    let mut receipts = Vec::new();
    for count in [2, 1, 3] {
        receipts.push(context.append(&stream, Expected::Any, count).await?);
    }
    context.append(&other, Expected::Any, 1).await?;
    for receipt in &receipts {
        let found = context.find(&stream, receipt.commit).await?;
        let found = found.ok_or_else(|| Broken::new("an acknowledged commit is not found by its id"))?;
        same_receipt(&found, receipt, "a commit that was looked up")?;
        for elsewhere in [&other, &missing] {
            ensure_eq!(context.find(elsewhere, receipt.commit).await?, None, "a commit of another stream");
        }
    }
    ensure_eq!(context.find(&stream, context.commit_id()).await?, None, "an id that no commit has");
    Ok(Outcome::Held)
}

async fn a_dropped_append_is_resolved_by_repeating(context: Context) -> Result<Outcome, Broken> {
    let mut seed = context.seed();
    for _ in 0..context.rounds(30) {
        let stream = context.stream();
        context.append(&stream, Expected::Any, 1).await?;
        let request = context.request(&stream, Expected::At(Revision(1)), context.commit_id(), context.events(2))?;
        drop_after(&**context.store(), request.clone(), seed.below(6)).await;
        // What was dropped may still be on its way; the repeat finds it, or is made in its place.
        let receipt = context.store().append(request.clone()).await?;
        ensure_eq!((receipt.first, receipt.last), (Revision(2), Revision(3)), "revisions after a dropped append");
        let again = context.store().append(request).await?;
        same_receipt(&again, &receipt, "the same once more")?;
        ensure_eq!(revisions(&context.read(&stream).await?), [1, 2, 3].map(Revision), "revisions of the stream");
    }
    Ok(Outcome::Held)
}

/// Polls an append a few times and drops it.
async fn drop_after(store: &dyn EventStore, request: Append, polls: u64) {
    let mut append = store.append(request);
    for _ in 0..=polls {
        if futures::poll!(&mut append).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn a_repeat_is_recognised_after_truncation(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let stream = context.stream();
    let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
    let first = context.store().append(request.clone()).await?;
    context.append(&stream, Expected::Any, 1).await?;
    let (before, commit, deadline) = (Revision(3), context.commit_id(), context.deadline());
    context.admin().truncate(Truncate { stream: stream.clone(), commit, before, deadline }).await?;
    same_receipt(&context.store().append(request).await?, &first, "a repeat of a truncated commit")?;
    let other = context.request(&stream, Expected::Any, first.commit, context.events(2))?;
    ensure_kind!(context.store().append(other).await, IdReused, "other content under the id of a truncated commit");
    ensure_eq!(context.head(&stream).await?.revision, Revision(3), "head after the repeats");
    Ok(Outcome::Held)
}

async fn a_repeat_is_recognised_after_deletion(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let stream = context.stream();
    let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
    let first = context.store().append(request.clone()).await?;
    let (commit, deadline) = (context.commit_id(), context.deadline());
    context.admin().delete(Delete { stream: stream.clone(), expected: Expected::Any, commit, deadline }).await?;
    same_receipt(&context.store().append(request).await?, &first, "a repeat of a commit of a deleted stream")?;
    let found = context.find(&stream, commit).await?;
    let tombstone = found.ok_or_else(|| Broken::new("the tombstone is not found by its id"))?;
    ensure_eq!((tombstone.number, tombstone.last), (CommitNumber(2), Revision(2)), "numbers of the tombstone");
    ensure_kind!(context.append(&stream, Expected::Any, 1).await, Gone, "a new commit after deletion");
    Ok(Outcome::Held)
}
