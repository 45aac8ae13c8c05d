//! Opening, closing, deadlines, dropped calls, scratch stores, and what errors may say: properties 40, 41, 181 to 190.

use super::feed::{append_to, catch_up, slots};
use super::records::put_request;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, event_type, revisions};
use crate::seed::Seed;
use bytes::Bytes;
use evstore_api::capabilities::{Limit, Support};
use evstore_api::{
    AdvanceFeed, Append, Appended, CommitId, CommitNumber, ContentDigest, ContentType, Deadline, Delete,
    DeleteSnapshot, Epoch, Error, ErrorKind, EventId, EventStore, Expected, FeedFilter, FeedStart, FindCommit, Format,
    ListRecords, ListStreams, Meta, NamespaceFilter, NewEvent, Origin, PutRecord, PutSnapshot, ReadCommits, ReadFeed,
    ReadHead, ReadRecord, ReadSnapshot, ReadStream, RecordExpected, RecordKey, RecordKind, RecordName, Replica,
    Replicate, Revision, Secrecy, Settings, Snapshot, StoreAdmin, StoreState, StreamId, StreamStart, SwapMeta,
    Timestamp, Truncate, Usage, WaitFeed, Waited,
};
use std::collections::HashSet;
use std::error::Error as _;
use std::time::{Duration, Instant};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "lifecycle.a-closed-store-refuses-every-call",
        "after a close every call of that handle is refused as closed, closing again succeeds, and nothing was written",
        [182],
        a_closed_store_refuses_every_call
    ),
    check!(
        "lifecycle.closing-one-handle-leaves-the-others",
        "two handles of one store are two clients: closing one leaves the other and the content",
        [182],
        closing_one_handle_leaves_the_others
    ),
    check!(
        "lifecycle.a-close-answers-what-was-taken",
        "an append under way when its handle is closed is answered, and what it says is what there is",
        [182],
        a_close_answers_what_was_taken
    ),
    check!(
        "lifecycle.the-schema-can-be-applied-again",
        "a store that is ready has nothing to change, and applying its schema again keeps everything",
        [182, 183],
        the_schema_can_be_applied_again
    ),
    check!(
        "lifecycle.a-missing-store-is-refused",
        "a store that is not there is refused as such, and can be made by its administrative side where that opens",
        [182, 183],
        a_missing_store_is_refused
    ),
    check!(
        "lifecycle.a-newer-store-is-refused",
        "a store that only newer releases may read or write is refused, and one that older ones may still write is not",
        [183],
        a_newer_store_is_refused
    ),
    check!(
        "lifecycle.a-passed-deadline-writes-nothing",
        "a call whose deadline has passed is refused as such, and nothing of it is written, then or later",
        [187],
        a_passed_deadline_writes_nothing
    ),
    check!(
        "lifecycle.a-short-deadline-tells-the-truth",
        "an append that runs out of time says that nothing was written only if nothing was, else that nobody knows",
        [41, 187],
        a_short_deadline_tells_the_truth
    ),
    check!(
        "lifecycle.a-dropped-append-has-one-outcome",
        "an append whose caller went away is made once or not at all, and repeating it finds out",
        [32, 40],
        a_dropped_append_has_one_outcome
    ),
    check!(
        "lifecycle.waiting-readers-starve-nobody",
        "many readers that wait for the feed, and append when they wake, hold up neither appends nor each other",
        [186],
        waiting_readers_starve_nobody
    ),
    check!(
        "lifecycle.errors-hold-no-payload",
        "no error, fact, cause or handle shows an event's data, a snapshot, a record's value or a secret",
        [190],
        errors_hold_no_payload
    ),
    check!(
        "lifecycle.scratch-stores-come-and-go",
        "a scratch store is new, empty and apart, stands in the list until it is dropped, and its tag is free again then",
        [181, 182],
        scratch_stores_come_and_go
    ),
];

/// Callers at a time.
const CALLERS: usize = 8;

/// One call of a store, by its name, and whether it was refused.
pub(super) type Called = (&'static str, Result<(), Error>);

/// Makes every call of an application that has a deadline, but for the wait, with requests that an open store takes.
pub(super) async fn every_read(
    context: &Context,
    store: &dyn EventStore,
    stream: &StreamId,
    deadline: Deadline,
) -> Vec<Called> {
    let key = record_key(context);
    let (limit, max_bytes, from) = (10, 10_000, FeedStart::First);
    let filter = FeedFilter::none();
    let stream = || stream.clone();
    let streams = ListStreams {
        namespace: NamespaceFilter::All,
        category: None,
        prefix: String::new(),
        after: None,
        limit,
        deadline,
    };
    let kind = RecordKind::Checkpoint;
    vec![
        (
            "find_commit",
            ok(store.find_commit(FindCommit { stream: stream(), commit: CommitId([1; 16]), deadline }).await),
        ),
        ("head", ok(store.head(ReadHead { stream: stream(), deadline }).await)),
        (
            "read_stream",
            ok(store.read_stream(ReadStream { deadline, ..context.read_request(&stream(), StreamStart::First) }).await),
        ),
        ("read_feed", ok(store.read_feed(ReadFeed { from, filter, limit, max_bytes, deadline }).await)),
        ("feed_head", ok(store.feed_head(deadline).await)),
        ("list_streams", ok(store.list_streams(streams).await)),
        ("read_snapshot", ok(store.read_snapshot(ReadSnapshot { stream: stream(), deadline }).await)),
        ("read_record", ok(store.read_record(ReadRecord { key, deadline }).await)),
        ("list_records", ok(store.list_records(ListRecords { kind, after: None, limit, deadline }).await)),
    ]
}

/// Makes every call of an application that writes what a fence holds up, with requests that an open store takes of a stream
/// of one event or more.
pub(super) async fn every_write(
    context: &Context,
    store: &dyn EventStore,
    stream: &StreamId,
    deadline: Deadline,
) -> Vec<Called> {
    let events = context.request(stream, Expected::Any, context.commit_id(), context.events(1));
    let append = async { store.append(Append { deadline, ..events? }).await }.await;
    let snapshot = Snapshot {
        stream: stream.clone(),
        revision: Revision(1),
        number: CommitNumber(1),
        commit: CommitId([1; 16]),
        schema: 1,
        content_type: ContentType::bytes(),
        data: Bytes::from_static(b"late"),
        taken_at: Timestamp(0),
    };
    let record =
        PutRecord { deadline, ..put_request(context, &record_key(context), RecordExpected::Any, Some("late")) };
    vec![
        ("append", ok(append)),
        ("put_snapshot", ok(store.put_snapshot(PutSnapshot { snapshot, deadline }).await)),
        ("delete_snapshot", ok(store.delete_snapshot(DeleteSnapshot { stream: stream.clone(), deadline }).await)),
        ("put_record", ok(store.put_record(record).await)),
    ]
}

/// Truncates and deletes, where that is promised.
pub(super) async fn every_deletion(
    context: &Context,
    admin: &dyn StoreAdmin,
    stream: &StreamId,
    deadline: Deadline,
) -> Vec<Called> {
    if context.capabilities().deletion == Support::Refused {
        return Vec::new();
    }
    let (stream, commit) = (stream.clone(), context.commit_id());
    let truncate = Truncate { stream: stream.clone(), commit, before: Revision(2), deadline };
    let commit = context.commit_id();
    vec![
        ("truncate", ok(admin.truncate(truncate).await)),
        ("delete", ok(admin.delete(Delete { stream, expected: Expected::Any, commit, deadline }).await)),
    ]
}

/// Makes every call of an administrator that leaves the content alone.
async fn every_look(admin: &dyn StoreAdmin, stream: &StreamId, deadline: Deadline) -> Vec<Called> {
    let (stream, from) = (stream.clone(), CommitNumber(1));
    vec![
        ("read_meta", ok(admin.read_meta(deadline).await)),
        (
            "read_commits",
            ok(admin.read_commits(ReadCommits { stream, from, limit: 10, max_bytes: 10_000, deadline }).await),
        ),
        ("advance_feed", ok(admin.advance_feed(AdvanceFeed { deadline }).await)),
        ("plan_schema", ok(admin.plan_schema(deadline).await)),
        ("apply_schema", ok(admin.apply_schema(deadline).await)),
        ("check_schema", ok(admin.check_schema(deadline).await)),
        ("examine", ok(admin.examine(deadline).await)),
    ]
}

fn ok<T>(result: Result<T, Error>) -> Result<(), Error> {
    result.map(drop)
}

/// The checkpoint that [`every_write`] changes.
pub(super) fn record_key(context: &Context) -> RecordKey {
    let name = RecordName::new(context.category().as_str()).expect("a category is a name");
    RecordKey { kind: RecordKind::Checkpoint, name }
}

/// A store of the check's own with one stream of two commits.
async fn with_a_stream(context: &Context) -> Result<(Fresh, StreamId), Error> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    append_to(context, &*fresh.store, &stream, 2).await?;
    append_to(context, &*fresh.store, &stream, 1).await?;
    Ok((fresh, stream))
}

/// Ends a check as broken unless a stream of [`with_a_stream`] is as it was made.
async fn ensure_untouched(context: &Context, store: &dyn EventStore, stream: &StreamId) -> Result<(), Broken> {
    let page = context.read_from(store, stream).await?;
    let found = (page.head.revision, page.head.number, page.head.first_retained, revisions(&page).len());
    ensure_eq!(
        found,
        (Revision(3), CommitNumber(2), Revision(1), 3),
        "head and events of a stream that nothing was written to"
    );
    let deadline = context.deadline();
    let snapshot = store.read_snapshot(ReadSnapshot { stream: stream.clone(), deadline }).await?;
    ensure_eq!(snapshot, None, "snapshot of a stream that none was kept of");
    let record = store.read_record(ReadRecord { key: record_key(context), deadline }).await?;
    ensure_eq!(record, None, "a record that was never written");
    Ok(())
}

async fn a_closed_store_refuses_every_call(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = with_a_stream(&context).await?;
    let (store, admin) = (&*fresh.store, &*fresh.admin);
    let deadline = context.deadline();
    let meta = admin.read_meta(deadline).await?;
    let after = store.feed_head(deadline).await?.cursor;
    for _ in 0..2 {
        store.close().await?;
        admin.close().await?;
    }
    let mut calls = every_read(&context, store, &stream, deadline).await;
    calls.extend(every_write(&context, store, &stream, deadline).await);
    calls.push(("wait_feed", ok(store.wait_feed(WaitFeed { after, deadline }).await)));
    calls.extend(every_look(admin, &stream, deadline).await);
    calls.extend(every_deletion(&context, admin, &stream, deadline).await);
    calls.push(("swap_meta", ok(admin.swap_meta(SwapMeta { expected: meta.clone(), new: meta, deadline }).await)));
    for (name, result) in calls {
        ensure_kind!(result, Closed, "{name} after the handle was closed");
    }
    let again = context.open(&fresh.settings).await?;
    ensure_untouched(&context, &*again, &stream).await?;
    again.close().await?;
    Ok(Outcome::Held)
}

async fn closing_one_handle_leaves_the_others(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = with_a_stream(&context).await?;
    let opener = &context.target().provider.opener;
    let other = context.open(&fresh.settings).await?;
    let other_admin = opener.open_admin(&fresh.settings).await?;
    ensure_untouched(&context, &*other, &stream).await?;
    other.close().await?;
    other_admin.close().await?;
    ensure_untouched(&context, &*fresh.store, &stream).await?;
    append_to(&context, &*fresh.store, &stream, 1).await?;
    ensure_eq!(slots(&context, &*fresh.admin, &stream).await?.len(), 3, "slots read by the handle that is open");
    fresh.store.close().await?;
    let again = context.open(&fresh.settings).await?;
    let page = context.read_from(&*again, &stream).await?;
    ensure_eq!(revisions(&page).len(), 4, "events once every handle was closed and one opened again");
    again.close().await?;
    Ok(Outcome::Held)
}

async fn a_close_answers_what_was_taken(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(3) {
        let (fresh, _) = with_a_stream(&context).await?;
        let stream = context.stream();
        let answers = context
            .together(CALLERS + 1, |caller| {
                let (context, store, stream) = (context.clone(), fresh.store.clone(), stream.clone());
                async move {
                    if caller == CALLERS {
                        return store.close().await.map(|()| Vec::new());
                    }
                    let mut asked = Vec::new();
                    for _ in 0..5 {
                        let commit = context.commit_id();
                        let request = context.request(&stream, Expected::Any, commit, context.events(1))?;
                        asked.push((commit, store.append(request).await));
                    }
                    Ok(asked)
                }
            })
            .await?;
        let again = context.open(&fresh.settings).await?;
        let page = context.read_from(&*again, &stream).await?;
        let there: HashSet<_> = page.commits.iter().map(|commit| commit.id).collect();
        for (commit, answer) in answers.into_iter().collect::<Result<Vec<_>, Error>>()?.into_iter().flatten() {
            match answer {
                Ok(_) => ensure!(there.contains(&commit), "an acknowledged commit is not there after a close"),
                Err(error) if error.kind() == ErrorKind::Indeterminate => {}
                Err(error) => {
                    ensure_eq!(error.kind(), ErrorKind::Closed, "kind of a refusal by a handle that is closed");
                    ensure!(!there.contains(&commit), "a commit is there that was refused as closed");
                }
            }
        }
        again.close().await?;
    }
    Ok(Outcome::Held)
}

async fn the_schema_can_be_applied_again(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = with_a_stream(&context).await?;
    let meta = fresh.admin.read_meta(context.deadline()).await?;
    for _ in 0..2 {
        ensure_eq!(
            fresh.admin.plan_schema(context.deadline()).await?.changes,
            [],
            "changes planned for a store that is ready"
        );
        ensure_eq!(
            fresh.admin.apply_schema(context.deadline()).await?.changes,
            [],
            "changes made to a store that is ready"
        );
        fresh.admin.check_schema(context.deadline()).await?;
    }
    ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, meta, "the record after the schema was applied again");
    ensure_untouched(&context, &*fresh.store, &stream).await?;
    Ok(Outcome::Held)
}

async fn a_missing_store_is_refused(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = with_a_stream(&context).await?;
    fresh.store.close().await?;
    fresh.admin.close().await?;
    let opener = &context.target().provider.opener;
    opener.drop_scratch(&fresh.settings).await?;
    ensure_kind!(context.open(&fresh.settings).await, Schema, "opening a store that was dropped");
    let admin = match opener.open_admin(&fresh.settings).await {
        Ok(admin) => admin,
        // Where nothing is left that a schema could be applied to.
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Schema, "kind of the refusal to administer a store that was dropped");
            return Ok(Outcome::Held);
        }
    };
    ensure_kind!(
        admin.check_schema(context.deadline()).await,
        Schema,
        "checking the schema of a store that was dropped"
    );
    ensure_kind!(admin.read_meta(context.deadline()).await, Schema, "reading the record of a store that was dropped");
    let planned = admin.plan_schema(context.deadline()).await?;
    ensure!(!planned.changes.is_empty(), "nothing is planned for a store that was dropped");
    ensure_eq!(admin.apply_schema(context.deadline()).await?, planned, "what was applied, beside the plan");
    admin.check_schema(context.deadline()).await?;
    let store = context.open(&fresh.settings).await?;
    append_to(&context, &*store, &stream, 1).await?;
    ensure_eq!(
        revisions(&context.read_from(&*store, &stream).await?),
        [Revision(1)],
        "revisions in the store made anew"
    );
    store.close().await?;
    admin.close().await?;
    Ok(Outcome::Held)
}

async fn a_newer_store_is_refused(context: Context) -> Result<Outcome, Broken> {
    let ours = evstore_api::meta::FORMAT;
    // A newer release has been here, and left it so that this one can go on.
    let (fresh, stream) = with_a_stream(&context).await?;
    fresh.swap_meta(&context, |meta| meta.format = Format { format: ours + 1, ..Format::CURRENT }).await?;
    let store = context.open(&fresh.settings).await?;
    append_to(&context, &*store, &stream, 1).await?;
    store.close().await?;
    // It left it so that this one can read, and must not write: half of a fleet is still of this release.
    let (fresh, stream) = with_a_stream(&context).await?;
    let readable = Format { format: ours + 1, oldest_reader: ours, oldest_writer: ours + 1 };
    fresh.swap_meta(&context, |meta| meta.format = readable).await?;
    let store = context.open(&fresh.settings).await?;
    ensure!(context.read_from(&*store, &stream).await?.head.revision.0 > 0, "nothing was read of a readable store");
    ensure_kind!(append_to(&context, &*store, &stream, 1).await, Schema, "an append to a store of {readable:?}");
    store.close().await?;
    newer_schema_is_refused(&context, &fresh, readable).await?;
    // It left nothing that this one understands.
    let (fresh, _) = with_a_stream(&context).await?;
    let unreadable = Format { format: ours + 1, oldest_reader: ours + 1, oldest_writer: ours + 1 };
    fresh.swap_meta(&context, |meta| meta.format = unreadable).await?;
    ensure_kind!(context.open(&fresh.settings).await, Schema, "opening a store of {unreadable:?}");
    newer_schema_is_refused(&context, &fresh, unreadable).await?;
    Ok(Outcome::Held)
}

async fn newer_schema_is_refused(context: &Context, fresh: &Fresh, format: Format) -> Result<(), Broken> {
    let admin = context.target().provider.opener.open_admin(&fresh.settings).await?;
    let deadline = context.deadline();
    ensure_kind!(admin.check_schema(deadline).await, Schema, "checking the schema of a store of {format:?}");
    ensure_kind!(admin.plan_schema(deadline).await, Schema, "planning the schema of a store of {format:?}");
    ensure_kind!(admin.apply_schema(deadline).await, Schema, "applying the schema to a store of {format:?}");
    admin.close().await?;
    Ok(())
}

async fn a_passed_deadline_writes_nothing(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = with_a_stream(&context).await?;
    let (store, admin) = (&*fresh.store, &*fresh.admin);
    let passed = Deadline(Instant::now());
    let meta = admin.read_meta(context.deadline()).await?;
    let mut calls = every_read(&context, store, &stream, passed).await;
    calls.extend(every_write(&context, store, &stream, passed).await);
    calls.extend(every_deletion(&context, admin, &stream, passed).await);
    calls.extend(every_look(admin, &stream, passed).await);
    let next = Meta { epoch: Epoch(meta.epoch.0 + 1), ..meta.clone() };
    let swap = SwapMeta { expected: meta.clone(), new: next, deadline: passed };
    calls.push(("swap_meta", ok(admin.swap_meta(swap).await)));
    for (name, result) in calls {
        ensure_kind!(result, DeadlineExceeded, "{name} past its deadline");
    }
    ensure_untouched(&context, store, &stream).await?;
    ensure_eq!(admin.read_meta(context.deadline()).await?, meta, "the record after a change past its deadline");
    // Where a sequencer gives positions, more would come by itself.
    admin.advance_feed(AdvanceFeed { deadline: context.deadline() }).await?;
    let after = store.feed_head(context.deadline()).await?.cursor;
    let waited = store.wait_feed(WaitFeed { after, deadline: passed }).await?;
    ensure_eq!(waited, Waited::DeadlinePassed, "a wait past its deadline");
    if context.capabilities().replication == Support::Promised {
        let target = context.fresh().await?;
        let epoch = target.enter(&context, StoreState::Importing { from: None }).await?.epoch;
        let items = slots(&context, admin, &stream).await?.into_iter().map(Replica::Commit).collect();
        let copy = Replicate { epoch, origin: Origin::Restore, items, deadline: passed };
        ensure_kind!(target.admin.replicate(copy).await, DeadlineExceeded, "a copy past its deadline");
        ensure_eq!(
            slots(&context, &*target.admin, &stream).await?.len(),
            0,
            "slots that were copied past the deadline"
        );
    }
    Ok(Outcome::Held)
}

async fn a_short_deadline_tells_the_truth(context: Context) -> Result<Outcome, Broken> {
    for round in 0..context.rounds(4) {
        let stream = context.stream();
        let answers = context
            .together(CALLERS, |caller| {
                let (context, stream) = (context.clone(), stream.clone());
                let mut seed = Seed(context.seed().0 ^ (round << 32) ^ caller as u64);
                async move {
                    let (mut unwritten, mut written) = (Vec::new(), Vec::new());
                    for _ in 0..4 {
                        let request =
                            context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
                        let deadline = Deadline::within(Duration::from_micros(seed.below(1_500)));
                        match context.store().append(Append { deadline, ..request.clone() }).await {
                            Ok(receipt) => written.push(receipt),
                            Err(error) if error.kind() == ErrorKind::Indeterminate => {}
                            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => unwritten.push(request),
                            Err(error) => return Err(error),
                        }
                    }
                    // With all the time it needs, so that there is something to be found in every round.
                    written.push(context.append(&stream, Expected::Any, 1).await?);
                    Ok((unwritten, written))
                }
            })
            .await?;
        let (unwritten, written): (Vec<_>, Vec<_>) =
            answers.into_iter().collect::<Result<Vec<_>, Error>>()?.into_iter().unzip();
        for receipt in written.concat() {
            let found = context.find(&stream, receipt.commit).await?.map(|found| (found.first, found.last));
            ensure_eq!(found, Some((receipt.first, receipt.last)), "a commit that was acknowledged");
        }
        for request in unwritten.concat() {
            let found = context.find(&stream, request.commit.id).await?;
            ensure_eq!(found, None, "a commit of which the store said that nothing was written");
            let receipt = context.store().append(request).await?;
            ensure!(!receipt.repeated, "a commit was there of which the store said that nothing was written");
        }
    }
    Ok(Outcome::Held)
}

async fn a_dropped_append_has_one_outcome(context: Context) -> Result<Outcome, Broken> {
    for round in 0..context.rounds(4) {
        let stream = context.stream();
        let answers = context
            .together(CALLERS, |caller| {
                let (context, stream) = (context.clone(), stream.clone());
                let mut seed = Seed(context.seed().0 ^ (round << 32) ^ caller as u64);
                async move {
                    let mut receipts = Vec::new();
                    for _ in 0..4 {
                        let request =
                            context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
                        let cut = Duration::from_micros(seed.below(1_500));
                        drop(tokio::time::timeout(cut, context.store().append(request.clone())).await);
                        let resolved = context.store().append(request.clone()).await?;
                        let again = context.store().append(request).await?;
                        receipts.push((resolved, again));
                    }
                    Ok::<_, Error>(receipts)
                }
            })
            .await?;
        let receipts = answers.into_iter().collect::<Result<Vec<_>, Error>>()?.concat();
        let page = context.read(&stream).await?;
        let ids: HashSet<_> = page.commits.iter().map(|commit| commit.id).collect();
        let found = (page.commits.len(), ids.len(), revisions(&page).len());
        ensure_eq!(found, (receipts.len(), receipts.len(), receipts.len() * 2), "commits, different ones, and events");
        for (resolved, again) in receipts {
            ensure!(again.repeated, "a commit that was acknowledged is written once more");
            let place = (resolved.number, resolved.first, resolved.last, resolved.digest);
            ensure_eq!((again.number, again.first, again.last, again.digest), place, "the receipt of a repeat");
            let found = context.find(&stream, resolved.commit).await?.map(|found| found.number);
            ensure_eq!(found, Some(resolved.number), "the slot of a commit that is found by its id");
        }
    }
    Ok(Outcome::Held)
}

async fn waiting_readers_starve_nobody(context: Context) -> Result<Outcome, Broken> {
    const READERS: usize = 24;
    // As small as the settings allow: more readers wait than there can be connections.
    let fresh = context.fresh_with(&[("pool_max", "2"), ("readers_max", "1")]).await?;
    let stream = context.stream();
    append_to(&context, &*fresh.store, &stream, 1).await?;
    catch_up(&context, &*fresh.admin).await?;
    let after = fresh.store.feed_head(context.deadline()).await?.cursor;
    let reader = async || {
        let deadline = Deadline::within(Duration::from_secs(5));
        let waited = fresh.store.wait_feed(WaitFeed { after: after.clone(), deadline }).await?;
        let from = FeedStart::After(after.clone());
        fresh.store.read_feed(context.feed_request(from, FeedFilter::none())).await?;
        append_to(&context, &*fresh.store, &context.stream(), 1).await?;
        Ok::<_, Error>(waited)
    };
    let mut readers = std::pin::pin!(futures::future::join_all((0..READERS).map(|_| reader())));
    // All of them wait before anything is appended.
    let early = futures::poll!(&mut readers);
    ensure!(early.is_pending(), "{READERS} waits of five seconds ended at once");
    let append = async {
        append_to(&context, &*fresh.store, &stream, 1).await?;
        catch_up(&context, &*fresh.admin).await
    };
    let (answers, appended) = futures::join!(readers, append);
    appended?;
    let woken = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let late = woken.iter().filter(|waited| **waited == Waited::DeadlinePassed).count();
    ensure_eq!(late, 0, "readers of {READERS} that were not woken within five seconds");
    Ok(Outcome::Held)
}

/// Everything that an error shows.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {:?}", error.context());
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(" {source} {source:?}");
        cause = source.source();
    }
    text
}

async fn errors_hold_no_payload(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let (store, admin) = (&*fresh.store, &*fresh.admin);
    let canary = format!("canary{}", context.category());
    let event = || NewEvent {
        metadata: format!("meta{canary}").into(),
        ..NewEvent::new(event_type("Tried"), format!("data{canary}"))
    };
    let (stream, id) = (context.stream(), context.commit_id());
    let request = |expected, id, events| context.request(&stream, expected, id, events);
    store.append(request(Expected::NoStream, id, vec![event()])?).await?;
    let snapshot = |revision, data: String| Snapshot {
        data: data.into(),
        revision: Revision(revision),
        ..super::deletion::snapshot(&stream, &receipt_of(id))
    };
    let deadline = context.deadline();
    store.put_snapshot(PutSnapshot { snapshot: snapshot(1, canary.clone()), deadline }).await?;
    let key = record_key(&context);
    store.put_record(put_request(&context, &key, RecordExpected::Any, Some(&canary))).await?;
    let mut calls = vec![
        ("conflict", ok(store.append(request(Expected::NoStream, context.commit_id(), vec![event()])?).await)),
        ("other content", ok(store.append(request(Expected::Any, id, vec![event(), event()])?).await)),
        (
            "late",
            ok(store
                .append(Append {
                    deadline: Deadline(Instant::now()),
                    ..request(Expected::Any, context.commit_id(), vec![event()])?
                })
                .await),
        ),
        (
            "stale record",
            ok(store.put_record(put_request(&context, &key, RecordExpected::Absent, Some(&canary))).await),
        ),
        (
            "snapshot of nothing",
            ok(store.put_snapshot(PutSnapshot { snapshot: snapshot(0, canary.clone()), deadline }).await),
        ),
    ];
    // A supplied id that is also the derived one of the second event can only be found where the ids are made.
    let commit = context.commit_id();
    let twice = vec![NewEvent { id: Some(EventId::derive(commit, 1)), ..event() }, event()];
    calls.push(("an id twice", ok(store.append(request(Expected::Any, commit, twice)?).await)));
    if let Limit::Max(max @ ..=33_554_432) = context.capabilities().limits.event_bytes {
        let large = NewEvent::new(event_type("Tried"), canary.repeat(max as usize / canary.len() + 1));
        calls.push(("too large", ok(store.append(request(Expected::Any, context.commit_id(), vec![large])?).await)));
    }
    if context.capabilities().replication == Support::Promised {
        let meta = admin.read_meta(deadline).await?;
        let (epoch, origin) = (meta.epoch, Origin::Move { history: meta.incarnation() });
        let items = slots(&context, admin, &stream).await?.into_iter().map(Replica::Commit).collect();
        calls.push(("copy", ok(admin.replicate(Replicate { epoch, origin, items, deadline }).await)));
    }
    for (what, result) in calls {
        let Err(error) = result else { return Err(Broken::new(format!("{what}: succeeded and had to be refused"))) };
        ensure_secret(&context, &canary, &shown(&error), &format!("the error of {what}"))?;
    }
    let handles = format!("{store:?} {store:#?} {admin:?} {admin:#?} {:?}", fresh.settings);
    ensure_secret(&context, &canary, &handles, "the handles of a store")?;
    Ok(Outcome::Held)
}

/// A receipt that names a commit, for a snapshot of it.
fn receipt_of(commit: CommitId) -> Appended {
    Appended {
        commit,
        number: CommitNumber(1),
        first: Revision(1),
        last: Revision(1),
        position: None,
        recorded_at: Timestamp(0),
        digest: ContentDigest([0; 16]),
        repeated: false,
        usage: Usage::default(),
    }
}

/// Shortest secret that is looked for: `x`, which local engines are given, is in every text.
const SECRET_MIN: usize = 6;

/// Ends a check as broken when a text shows the canary, as text or as bytes, or a secret of the settings.
fn ensure_secret(context: &Context, canary: &str, text: &str, what: &str) -> Result<(), Broken> {
    let bytes = format!("{:?}", canary.as_bytes());
    let bytes = bytes.trim_matches(['[', ']']);
    let leaks = text.contains(canary) || text.split_whitespace().collect::<Vec<_>>().join(" ").contains(bytes);
    ensure!(!leaks, "{what} shows a payload");
    let settings = context.settings();
    let secrets = settings.keys().iter().filter(|key| key.secrecy == Secrecy::Secret);
    for key in secrets {
        let secret = settings.text(key.name).filter(|secret| secret.len() >= SECRET_MIN);
        let leaks = secret.is_some_and(|secret| text.contains(secret));
        ensure!(!leaks, "{what} shows the secret {}", key.name);
    }
    Ok(())
}

async fn scratch_stores_come_and_go(context: Context) -> Result<Outcome, Broken> {
    let opener = &context.target().provider.opener;
    let beside = &context.target().settings;
    let tag = format!("{}s", context.category());
    let listed = async || -> Result<bool, Error> { Ok(opener.list_scratch(beside).await?.contains(&tag)) };
    ensure!(!listed().await?, "a tag is in the list before its store was made");
    ensure_kind!(opener.scratch(beside, "Not a tag"), Invalid, "the scratch store of what is no tag");
    for _ in 0..2 {
        let settings = opener.make_scratch(beside, &tag).await?;
        ensure!(
            opener.scratch(beside, &tag)? == settings,
            "a scratch store that is left behind is not found by its tag: its settings are not those it was made with"
        );
        let used = use_scratch(&context, &settings, listed().await, &tag).await;
        opener.drop_scratch(&settings).await?;
        used?;
        ensure!(!listed().await?, "a scratch store is in the list after it was dropped");
    }
    Ok(Outcome::Held)
}

/// What has to be true of a scratch store while there is one. It is dropped whatever this says.
async fn use_scratch(
    context: &Context,
    settings: &Settings,
    listed: Result<bool, Error>,
    tag: &str,
) -> Result<(), Broken> {
    ensure!(listed?, "a scratch store that was made is not in the list");
    let opener = &context.target().provider.opener;
    let again = opener.make_scratch(&context.target().settings, tag).await;
    ensure_kind!(again, Conflict, "a second scratch store of the same tag");
    let store = context.open(settings).await?;
    let stream = context.stream();
    ensure_eq!(context.read_from(&*store, &stream).await?.commits, [], "commits in a new scratch store");
    append_to(context, &*store, &stream, 1).await?;
    ensure_eq!(context.read(&stream).await?.commits, [], "what the store beside it has of its commits");
    store.close().await?;
    Ok(())
}
