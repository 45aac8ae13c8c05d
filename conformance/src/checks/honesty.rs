//! Whether a store declares everything, and is what it declares: properties 191, 192 and 194. Numbers are probed where what
//! they bound is checked.

use super::feed::{append_to, slots};
use super::payload::room_of_one;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::Context;
use evstore_api::capabilities::{
    Capabilities, Consistency, FeedOrder, Fence, Limit, Positioned, Positions, RealTime, Support, Window,
};
use evstore_api::name::{EVENT_TYPE_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use evstore_api::{
    CONTRACT, CommitNumber, Delete, Error, EventStore, Expected, FeedFilter, FeedStart, Head, ListStreams,
    NamespaceFilter, OpenStream, Origin, Position, Replica, Replicate, Revision, SealStream, StoreState, StreamId,
    Truncate,
};
use std::time::Duration;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "honesty.everything-is-declared",
        "a store names its contract, provider and engine, and declares bounds that can be kept and are no smaller than the least",
        [29, 191],
        everything_is_declared
    ),
    check!(
        "honesty.every-handle-declares-the-same",
        "every handle of a store, of applications and of operators, declares the same, as long as it is open",
        [191],
        every_handle_declares_the_same
    ),
    check!(
        "honesty.declarations-agree",
        "what a store declares of its feed, positions and limits does not contradict itself",
        [191, 194],
        declarations_agree
    ),
    check!(
        "honesty.operations-are-as-declared",
        "an operation that is promised works, and one that is not is refused as unsupported and changes nothing",
        [192, 194],
        operations_are_as_declared
    ),
    check!(
        "honesty.lists-are-as-fresh-as-declared",
        "the list of streams shows from any client what was acknowledged before, within the declared time",
        [110, 194],
        lists_are_as_fresh_as_declared
    ),
];

/// What every store takes: an application that keeps within it can be moved to any other. No check asks for more.
struct Least {
    stream_name_bytes: u64,
    event_type_bytes: u64,
    event_bytes: u64,
    commit_bytes: u64,
    commit_events: u64,
    snapshot_bytes: u64,
    record_bytes: u64,
    page_items: u64,
}

const LEAST: Least = Least {
    stream_name_bytes: 128,
    event_type_bytes: 64,
    event_bytes: 64 << 10,
    commit_bytes: 128 << 10,
    commit_events: 50,
    snapshot_bytes: 64 << 10,
    // A checkpoint, whose cursor alone prints in up to 1 KiB.
    record_bytes: 4 << 10,
    page_items: 100,
};

async fn everything_is_declared(context: Context) -> Result<Outcome, Broken> {
    let declared = context.capabilities();
    // Conformance runs this contract and the one before.
    ensure!((CONTRACT - 1..=CONTRACT).contains(&declared.contract), "the contract is {}", declared.contract);
    // Not the name of the provider that was asked: one that decides only where stores lie lets another keep them.
    ensure!(!declared.provider.trim().is_empty(), "the provider has no name");
    ensure!(!declared.engine.trim().is_empty(), "the engine has no name");
    ensure!(declared.time_precision > Duration::ZERO, "times are kept to no precision");
    if let Window::Commits(commits) = declared.idempotency {
        ensure!(commits >= 64, "repeats are recognised for {commits} commits, and 64 are the least");
    }
    let limits = declared.limits;
    for (what, bytes, most) in [
        ("stream name", limits.stream_name_bytes, STREAM_NAME_BYTES_MAX),
        ("event type", limits.event_type_bytes, EVENT_TYPE_BYTES_MAX),
    ] {
        ensure!(bytes <= most as u64, "the longest {what} has {bytes} bytes, and {most} are the most");
    }
    for (what, limit, least) in [
        ("stream_name_bytes", Limit::Max(limits.stream_name_bytes), LEAST.stream_name_bytes),
        ("event_type_bytes", Limit::Max(limits.event_type_bytes), LEAST.event_type_bytes),
        ("event_bytes", limits.event_bytes, LEAST.event_bytes),
        ("commit_bytes", limits.commit_bytes, LEAST.commit_bytes),
        ("commit_events", limits.commit_events, LEAST.commit_events),
        ("snapshot_bytes", limits.snapshot_bytes, LEAST.snapshot_bytes),
        ("record_bytes", limits.record_bytes, LEAST.record_bytes),
        ("page_items", Limit::Max(limits.page_items.into()), LEAST.page_items),
    ] {
        ensure!(limit.allows(least), "{what} is at most {limit}, and {least} is the least that a store takes");
    }
    Ok(Outcome::Held)
}

async fn every_handle_declares_the_same(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let declared = fresh.store.capabilities().clone();
    ensure_eq!(fresh.admin.capabilities(), &declared, "what the administrative side declares");
    append_to(&context, &*fresh.store, &context.stream(), 1).await?;
    fresh.enter(&context, StoreState::Open).await?;
    let other = context.open(&fresh.settings).await?;
    ensure_eq!(other.capabilities(), &declared, "what another handle declares");
    ensure_eq!(fresh.store.capabilities(), &declared, "what the first handle declares later");
    other.close().await?;
    Ok(Outcome::Held)
}

async fn declarations_agree(context: Context) -> Result<Outcome, Broken> {
    let Capabilities { positioned, positions, order, real_time, reads, lists, limits, .. } = context.capabilities();
    let never = matches!(positioned, Positioned::Never { .. });
    ensure_eq!(never, *positions == Positions::Opaque, "whether nobody gives positions, where they are {positions:?}");
    // Across partitions or streams two commits stand in no order at all, so that it can't agree with time.
    let ordered = *real_time == RealTime::NotKept || *order == FeedOrder::Total;
    ensure!(ordered, "the order is {order:?}, and is said to agree with time");
    let waits = match positioned {
        Positioned::ByAppend => None,
        Positioned::BySequencer { within } => Some(*within),
        Positioned::Never { settling } => Some(*settling),
    };
    ensure!(waits != Some(Duration::ZERO), "what takes time to arrive takes none");
    for consistency in [reads, lists] {
        ensure!(*consistency != Consistency::Eventual { staleness: Duration::ZERO }, "what lags does not lag");
    }
    if let (Limit::Max(event), Limit::Max(commit)) = (limits.event_bytes, limits.commit_bytes) {
        let room = room_of_one(commit);
        ensure!(
            event <= room,
            "events of {event} bytes are declared, and no commit of {commit} bytes holds one of more than {room}"
        );
    }
    let feed = context.store().feed_head(context.deadline()).await?;
    let numbered = *positions != Positions::Opaque;
    ensure_eq!(feed.position.is_some(), numbered, "whether the feed's head has a position");
    let of_one_order = *order == FeedOrder::Total && numbered;
    ensure_eq!(feed.cursor.position().is_some(), of_one_order, "whether a cursor is of one order");
    Ok(Outcome::Held)
}

async fn operations_are_as_declared(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    for _ in 0..2 {
        append_to(&context, &*fresh.store, &stream, 2).await?;
    }
    let declared = context.capabilities();
    let (deadline, epoch) = (context.deadline(), fresh.admin.read_meta(context.deadline()).await?.epoch);
    let before = head(&context, &*fresh.store, &stream).await?;
    let (commit, to) = (context.commit_id(), super::ownership::elsewhere());
    let seal = SealStream { stream: stream.clone(), commit, epoch, to, deadline };
    let (commit, owner) = (context.commit_id(), fresh.settings.store().clone());
    let open = OpenStream { stream: stream.clone(), commit, number: CommitNumber(3), epoch, owner, deadline };
    if declared.fence != Fence::Stream {
        ensure_kind!(fresh.admin.seal_stream(seal).await, Unsupported, "a seal, where the fence is of the store");
        ensure_kind!(fresh.admin.open_stream(open).await, Unsupported, "an opening, where the fence is of the store");
    }
    let after = FeedStart::AfterPosition(Position(1));
    let positioned = fresh.store.read_feed(context.feed_request(after, FeedFilter::none())).await;
    match declared.positions {
        Positions::Opaque => drop(ensure_kind!(positioned, Unsupported, "a read after a position that is opaque")),
        Positions::Contiguous | Positions::Increasing => drop(positioned?),
    }
    ensure_eq!(head(&context, &*fresh.store, &stream).await?, before, "the head after refused operations");
    copy_as_declared(&context, &stream, slots(&context, &*fresh.admin, &stream).await?).await?;
    let (commit, before_revision) = (context.commit_id(), Revision(3));
    let truncate = Truncate { stream: stream.clone(), commit, before: before_revision, deadline };
    let truncated = fresh.admin.truncate(truncate).await;
    let (commit, expected) = (context.commit_id(), Expected::Any);
    let deleted = fresh.admin.delete(Delete { stream: stream.clone(), expected, commit, deadline }).await;
    match declared.deletion {
        Support::Promised => {
            truncated?;
            deleted?;
        }
        Support::Refused => {
            ensure_kind!(truncated, Unsupported, "a truncation that is not promised");
            ensure_kind!(deleted, Unsupported, "a deletion that is not promised");
            ensure_eq!(head(&context, &*fresh.store, &stream).await?, before, "the head after refused operations");
        }
    }
    Ok(Outcome::Held)
}

async fn copy_as_declared(
    context: &Context,
    stream: &StreamId,
    commits: Vec<evstore_api::Commit>,
) -> Result<(), Broken> {
    let target = context.fresh().await?;
    let items = commits.into_iter().map(Replica::Commit).collect();
    let epoch = target.enter(context, StoreState::Importing { from: None }).await?.epoch;
    let copy = Replicate { epoch, origin: Origin::Restore, items, deadline: context.deadline() };
    let copied = target.admin.replicate(copy).await;
    let wanted = match context.capabilities().replication {
        Support::Promised => {
            copied?;
            2
        }
        Support::Refused => {
            ensure_kind!(copied, Unsupported, "a copy that is not promised");
            0
        }
    };
    ensure_eq!(slots(context, &*target.admin, stream).await?.len(), wanted, "slots of the copy");
    Ok(())
}

async fn head(context: &Context, store: &dyn EventStore, stream: &StreamId) -> Result<Head, Error> {
    Ok(context.read_from(store, stream).await?.head)
}

async fn lists_are_as_fresh_as_declared(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    for _ in 0..context.rounds(5) {
        let stream = context.stream();
        for revision in 1..=2 {
            context.append(&stream, Expected::Any, 1).await?;
            context.settle_lists().await;
            for store in [context.store(), &other] {
                let request = ListStreams {
                    namespace: NamespaceFilter::All,
                    category: None,
                    prefix: stream.name.to_string(),
                    after: None,
                    limit: 1,
                    deadline: context.deadline(),
                };
                let page = store.list_streams(request).await?;
                let found: Vec<_> = page.streams.iter().map(|one| (&one.stream, one.head.revision)).collect();
                ensure_eq!(found, [(&stream, Revision(revision))], "the list directly after an append");
            }
        }
    }
    other.close().await?;
    Ok(Outcome::Held)
}
