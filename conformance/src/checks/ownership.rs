//! Who may write: the store's record, its fence, and the seal of a stream. Properties 205, 206, 209, 219 and 221.

use super::concurrency::{is_acknowledged, without_processes};
use super::copies::copying;
use super::feed::{append_to, slots};
use super::lifecycle::{every_deletion, every_read, every_write, record_key};
use super::records::{put_request, read_from};
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, revisions};
use crate::history::record::{Append, AppendOutcome, Call, Operation};
use crate::race::now;
use crate::seed::Seed;
use crate::worker::Job;
use evstore_api::capabilities::Fence;
use evstore_api::{
    AdvanceFeed, CommitKind, CommitNumber, Epoch, Error, ErrorKind, Expected, Format, Head, Incarnation, Lineage,
    ListStreams, Meta, MetaSwapped, NamespaceFilter, OpenStream, Origin, Position, ReadHead, RecordExpected, RecordKey,
    RecordKind, RecordName, Replica, Replicate, Revision, SealStream, StoreName, StoreState, StreamId, StreamState,
    SwapMeta, Timestamp,
};
use futures::future::join_all;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Streams that are sealed at the same time.
const MANY: usize = 120;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "ownership.the-record-is-compared-and-set",
        "the store's record changes only from exactly what was read, says else what is there, and can be repeated",
        [205, 209],
        the_record_is_compared_and_set
    ),
    check!(
        "ownership.illegal-steps-are-refused",
        "no epoch falls, no history is rewritten, and no store leaves its open state without a higher epoch",
        [205],
        illegal_steps_are_refused
    ),
    check!(
        "ownership.a-filled-store-takes-over-histories",
        "a store that is filled from another takes over its histories, as often as they grow, and forgets none; an open one takes none",
        [205, 209],
        a_filled_store_takes_over_histories
    ),
    check!(
        "ownership.one-of-many-changes-wins",
        "of several changes of the same record exactly one is made, and the others are told which",
        [205, 209],
        one_of_many_changes_wins
    ),
    check!(
        "ownership.a-closed-record-refuses-every-write",
        "a store that is fenced, moved, importing or retired refuses every write, says where to go, and still reads",
        [205, 206],
        a_closed_record_refuses_every_write
    ),
    check!(
        "ownership.a-repeat-is-answered-behind-the-fence",
        "a commit that was made before the fence is recognised behind it, and gets its first receipt",
        [23, 206],
        a_repeat_is_answered_behind_the_fence
    ),
    check!(
        "ownership.an-aborted-fence-opens-again",
        "a fence that is aborted opens the store in a higher epoch, and a late step of the old epoch is refused",
        [205, 209],
        an_aborted_fence_opens_again
    ),
    check!(
        "ownership.no-append-lands-behind-the-fence",
        "once the fence is answered, every acknowledged append is there, none is acknowledged, and none appears later",
        [206, 219],
        no_append_lands_behind_the_fence
    ),
    check!(
        "ownership.no-process-appends-behind-the-fence",
        "once the fence is answered in one process, no other process has an append acknowledged, and none appears later",
        [206, 219],
        no_process_appends_behind_the_fence
    ),
    check!(
        "ownership.records-name-their-epoch",
        "a checkpoint says in which epoch it was changed last",
        [133, 206],
        records_name_their_epoch
    ),
    check!(
        "ownership.a-seal-closes-its-stream",
        "a seal takes the next slot of its stream and closes it, where streams move one by one; else it is refused",
        [206, 221],
        a_seal_closes_its_stream
    ),
    check!(
        "ownership.a-seal-is-of-its-attempt",
        "a seal closes in the epoch of its attempt: given up, the stream opens with its store, and the next attempt seals anew",
        [206, 221],
        a_seal_is_of_its_attempt
    ),
    check!(
        "ownership.an-imported-stream-is-opened-at-its-slot",
        "a copied stream is opened at exactly the slot of its seal, where streams move one by one; else that is refused",
        [206, 221],
        an_imported_stream_is_opened_at_its_slot
    ),
];

/// Another store, by its name.
pub(super) fn elsewhere() -> StoreName {
    StoreName::new("elsewhere").expect("a fixed name is valid")
}

fn next(meta: &Meta, change: impl FnOnce(&mut Meta)) -> Meta {
    let mut next = meta.clone();
    next.epoch = Epoch(meta.epoch.0 + 1);
    change(&mut next);
    next
}

async fn swap(context: &Context, fresh: &Fresh, expected: &Meta, new: &Meta) -> Result<MetaSwapped, Error> {
    let (expected, new) = (expected.clone(), new.clone());
    fresh.admin.swap_meta(SwapMeta { expected, new, deadline: context.deadline() }).await
}

async fn the_record_is_compared_and_set(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let first = fresh.admin.read_meta(context.deadline()).await?;
    let found = (first.format, first.epoch, &first.state, first.lineage.len());
    ensure_eq!(found, (Format::CURRENT, Epoch(0), &StoreState::Open, 1), "the record of a new store");
    let incarnation = fresh.store.feed_head(context.deadline()).await?.cursor.incarnation();
    ensure_eq!(first.incarnation(), incarnation, "the history that the record names, beside the feed's");
    let second = next(&first, |meta| meta.state = StoreState::Fenced { to: elsewhere() });
    let third = next(&second, |meta| meta.state = StoreState::Open);
    ensure_eq!(swap(&context, &fresh, &first, &second).await?, MetaSwapped::Done, "a change from what was read");
    ensure_eq!(swap(&context, &fresh, &first, &second).await?, MetaSwapped::Done, "the same change once more");
    let differs = MetaSwapped::Differs(Box::new(second.clone()));
    ensure_eq!(swap(&context, &fresh, &first, &third).await?, differs, "a change from what is no longer there");
    // Everything counts, not the epoch alone.
    let other = Meta { state: StoreState::Fenced { to: StoreName::new("other")? }, ..second.clone() };
    ensure_eq!(
        swap(&context, &fresh, &other, &third).await?,
        differs,
        "a change from another record of the same epoch"
    );
    let admin = context.target().provider.opener.open_admin(&fresh.settings).await?;
    ensure_eq!(admin.read_meta(context.deadline()).await?, second, "the record as another handle reads it");
    admin.close().await?;
    ensure_eq!(swap(&context, &fresh, &second, &third).await?, MetaSwapped::Done, "the next change");
    ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, third, "the record in the end");
    Ok(Outcome::Held)
}

async fn illegal_steps_are_refused(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let first = fresh.admin.read_meta(context.deadline()).await?;
    let open = fresh.enter(&context, StoreState::Open).await?;
    let with = |change: fn(&mut Meta)| {
        let mut wrong = open.clone();
        change(&mut wrong);
        wrong
    };
    let steps = [
        ("a lower epoch", with(|meta| meta.epoch = Epoch(0))),
        ("a fence without a higher epoch", with(|meta| meta.state = StoreState::Fenced { to: elsewhere() })),
        ("an import without a higher epoch", with(|meta| meta.state = StoreState::Importing { from: None })),
        ("no history", with(|meta| meta.lineage.clear())),
        ("another history", with(|meta| meta.lineage[0].incarnation = Incarnation([7; 16]))),
        ("a present history that has ended", with(|meta| meta.lineage[0].ended_at = Some(Position(0)))),
        (
            "two present histories",
            with(|meta| meta.lineage.push(Lineage { incarnation: Incarnation([7; 16]), ended_at: None })),
        ),
        ("another birth", with(|meta| meta.created_at = Timestamp(meta.created_at.0 - 1))),
    ];
    for (what, wrong) in steps {
        ensure_kind!(swap(&context, &fresh, &open, &wrong).await, Invalid, "a change to {what}");
        ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, open, "the record after a change to {what}");
    }
    ensure!(first.epoch < open.epoch, "the epoch did not grow");
    append_to(&context, &*fresh.store, &context.stream(), 1).await?;
    Ok(Outcome::Held)
}

async fn a_filled_store_takes_over_histories(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let own = fresh.admin.read_meta(context.deadline()).await?.incarnation();
    let (theirs, later) = (Incarnation([7; 16]), Incarnation([8; 16]));
    let ended = |incarnation| Lineage { incarnation, ended_at: Some(Position(0)) };
    let present = |incarnation| Lineage { incarnation, ended_at: None };
    let open = fresh.enter(&context, StoreState::Open).await?;
    let from = |lineage: Vec<Lineage>| {
        let state = StoreState::Importing { from: Some(elsewhere()) };
        Meta { epoch: Epoch(open.epoch.0 + 1), state, lineage, ..open.clone() }
    };
    let filled = from(vec![ended(own), present(theirs)]);
    ensure_eq!(swap(&context, &fresh, &open, &filled).await?, MetaSwapped::Done, "the histories of another store");
    // A history that the other store began since stands between those that are known, or behind them.
    let grown = from(vec![ended(own), ended(theirs), present(later)]);
    ensure_eq!(swap(&context, &fresh, &filled, &grown).await?, MetaSwapped::Done, "a history that began since");
    ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, grown, "the record of a store that is filled");
    let head = fresh.store.feed_head(context.deadline()).await?;
    ensure_eq!(head.cursor.incarnation(), later, "the history of the feed");
    let opened = Meta { state: StoreState::Open, ..grown.clone() };
    let steps = [
        ("histories without its own", from(vec![ended(theirs), present(later)])),
        ("histories without one of the other store's", from(vec![ended(own), present(later)])),
        ("one history twice", from(vec![ended(own), ended(theirs), ended(own), present(later)])),
        ("no present history", from(vec![ended(own), ended(theirs), ended(later)])),
        ("two present histories", from(vec![ended(own), present(theirs), present(later)])),
        (
            "an open store with histories in another order",
            Meta { lineage: vec![ended(theirs), ended(own), present(later)], ..opened.clone() },
        ),
    ];
    for (what, wrong) in steps {
        ensure_kind!(swap(&context, &fresh, &grown, &wrong).await, Invalid, "a change to {what}");
        ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, grown, "the record after a change to {what}");
    }
    ensure_eq!(swap(&context, &fresh, &grown, &opened).await?, MetaSwapped::Done, "its opening");
    let rewritten = next(&opened, |meta| {
        meta.lineage = vec![ended(own), ended(theirs), ended(later), present(Incarnation([9; 16]))]
    });
    let reordered = next(&opened, |meta| meta.lineage = vec![ended(theirs), ended(own), present(later)]);
    ensure_kind!(swap(&context, &fresh, &opened, &reordered).await, Invalid, "other histories in an open store");
    ensure_eq!(
        swap(&context, &fresh, &opened, &rewritten).await?,
        MetaSwapped::Done,
        "one more history in an open store"
    );
    Ok(Outcome::Held)
}

async fn one_of_many_changes_wins(context: Context) -> Result<Outcome, Broken> {
    const CALLERS: usize = 8;
    let fresh = context.fresh().await?;
    let other = context.target().provider.opener.open_admin(&fresh.settings).await?;
    for _ in 0..context.rounds(10) {
        let before = fresh.admin.read_meta(context.deadline()).await?;
        let answers = context
            .together(CALLERS, |caller| {
                let admin = if caller % 2 == 0 { fresh.admin.clone() } else { other.clone() };
                // Each wants another record: the epochs differ.
                let new = Meta { epoch: Epoch(before.epoch.0 + 1 + caller as u64), ..before.clone() };
                let request = SwapMeta { expected: before.clone(), new: new.clone(), deadline: context.deadline() };
                async move { admin.swap_meta(request).await.map(|swapped| (new, swapped)) }
            })
            .await?;
        let answers = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let now = fresh.admin.read_meta(context.deadline()).await?;
        let done: Vec<_> = answers.iter().filter(|(_, swapped)| *swapped == MetaSwapped::Done).collect();
        ensure_eq!(done.len(), 1, "changes of the same record that were made");
        ensure_eq!(done[0].0, now, "the change that was made, beside the record");
        for (_, swapped) in answers.iter().filter(|(_, swapped)| *swapped != MetaSwapped::Done) {
            ensure_eq!(*swapped, MetaSwapped::Differs(Box::new(now.clone())), "what a change that lost is told");
        }
    }
    other.close().await?;
    Ok(Outcome::Held)
}

/// The answer where a store has no fence of its own.
fn without_store_fence(context: &Context) -> Option<Outcome> {
    match context.capabilities().fence {
        Fence::Store | Fence::Partition => None,
        Fence::Stream => {
            Some(Outcome::NotApplicable("streams are closed one by one, not by the store's record".into()))
        }
    }
}

async fn a_closed_record_refuses_every_write(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_store_fence(&context) {
        return Ok(refused);
    }
    let fresh = context.fresh().await?;
    let stream = context.stream();
    append_to(&context, &*fresh.store, &stream, 3).await?;
    let (to, end) = (elsewhere(), Position(3));
    // Where a sequencer gives positions, they come later; what is compared has them.
    fresh.admin.advance_feed(AdvanceFeed { deadline: context.deadline() }).await?;
    let before = context.read_from(&*fresh.store, &stream).await?;
    let node = RecordKey { kind: RecordKind::Presence, name: RecordName::new("node")? };
    for (state, kind) in [
        (StoreState::Fenced { to: to.clone() }, ErrorKind::Fenced),
        (StoreState::Moved { to: to.clone(), end }, ErrorKind::Moved),
        (StoreState::Importing { from: Some(to.clone()) }, ErrorKind::Moved),
        (StoreState::Importing { from: None }, ErrorKind::Fenced),
        (StoreState::Retired { to: to.clone() }, ErrorKind::Moved),
    ] {
        let name = state.name();
        fresh.enter(&context, state).await?;
        let mut calls = every_write(&context, &*fresh.store, &stream, context.deadline()).await;
        calls.extend(every_write(&context, &*fresh.store, &context.stream(), context.deadline()).await);
        calls.extend(every_deletion(&context, &*fresh.admin, &stream, context.deadline()).await);
        for (call, result) in calls {
            let Err(error) = result else {
                return Err(Broken::new(format!("{call} succeeded in a store that is {name}")));
            };
            ensure_eq!(error.kind(), kind, "kind of the refusal of {call} in a store that is {name}");
            if kind == ErrorKind::Moved {
                ensure_eq!(error.moved_to(), Some(&to), "where {call} is sent by a store that is {name}");
            }
        }
        for (call, result) in every_read(&context, &*fresh.store, &stream, context.deadline()).await {
            ensure!(result.is_ok(), "{call} fails in a store that is {name}: {result:?}");
        }
        fresh.store.put_record(put_request(&context, &node, RecordExpected::Any, Some(name))).await?;
        let page = context.read_from(&*fresh.store, &stream).await?;
        ensure_eq!((&page.head, &page.commits), (&before.head, &before.commits), "a stream of a store that is {name}");
        ensure_eq!(
            read_from(&context, &*fresh.store, &record_key(&context)).await?,
            None,
            "a checkpoint that was refused by a store that is {name}"
        );
    }
    Ok(Outcome::Held)
}

async fn a_repeat_is_answered_behind_the_fence(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_store_fence(&context) {
        return Ok(refused);
    }
    let fresh = context.fresh().await?;
    let stream = context.stream();
    let request = context.request(&stream, Expected::NoStream, context.commit_id(), context.events(2))?;
    let first = fresh.store.append(request.clone()).await?;
    let (to, end) = (elsewhere(), Position(2));
    for state in [StoreState::Fenced { to: to.clone() }, StoreState::Moved { to, end }] {
        let name = state.name();
        fresh.enter(&context, state).await?;
        let repeat = fresh.store.append(request.clone()).await?;
        ensure!(repeat.repeated, "a commit is made twice in a store that is {name}");
        let wanted = (first.number, first.first, first.last, first.digest, first.recorded_at);
        let found = (repeat.number, repeat.first, repeat.last, repeat.digest, repeat.recorded_at);
        ensure_eq!(found, wanted, "the receipt of a repeat in a store that is {name}");
        let other = context.request(&stream, Expected::Any, first.commit, context.events(1))?;
        ensure_kind!(fresh.store.append(other).await, IdReused, "other content under its id in a store that is {name}");
    }
    Ok(Outcome::Held)
}

async fn an_aborted_fence_opens_again(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    append_to(&context, &*fresh.store, &stream, 1).await?;
    let fenced = fresh.enter(&context, StoreState::Fenced { to: elsewhere() }).await?;
    let moved = Meta { state: StoreState::Moved { to: elsewhere(), end: Position(1) }, ..fenced.clone() };
    let open = fresh.enter(&context, StoreState::Open).await?;
    append_to(&context, &*fresh.store, &stream, 1).await?;
    let late = swap(&context, &fresh, &fenced, &moved).await?;
    ensure_eq!(late, MetaSwapped::Differs(Box::new(open.clone())), "the last step of a move that was aborted");
    append_to(&context, &*fresh.store, &stream, 1).await?;
    let page = context.read_from(&*fresh.store, &stream).await?;
    ensure_eq!(revisions(&page), [1, 2, 3].map(Revision), "revisions across an aborted fence");
    ensure_eq!(fresh.admin.read_meta(context.deadline()).await?, open, "the record after a late step");
    Ok(Outcome::Held)
}

async fn no_append_lands_behind_the_fence(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_store_fence(&context) {
        return Ok(refused);
    }
    let fresh = context.fresh().await?;
    let other = context.open(&fresh.settings).await?;
    let stores = [fresh.store.clone(), other.clone()];
    for round in 0..context.rounds(12) {
        let streams = [context.stream(), context.stream(), context.stream()];
        let answers = context
            .together(WRITERS + 1, |caller| {
                let (context, store, streams) = (context.clone(), stores[caller % 2].clone(), streams.clone());
                let (fresh, mut seed) = (fresh.clone(), Seed(context.seed().0 ^ (round << 32) ^ caller as u64));
                async move {
                    if caller < WRITERS {
                        return write_until_fenced(&context, &*store, &streams, seed).await.map(Raced::Acknowledged);
                    }
                    for _ in 0..seed.below(60) {
                        tokio::task::yield_now().await;
                    }
                    fresh.enter(&context, StoreState::Fenced { to: elsewhere() }).await?;
                    heads(&context, &fresh, &streams).await.map(Raced::Fenced)
                }
            })
            .await?;
        let answers = answers.into_iter().collect::<Result<Vec<_>, Broken>>()?;
        let Some(at_fence) = answers.iter().find_map(|answer| match answer {
            Raced::Fenced(heads) => Some(heads.clone()),
            Raced::Acknowledged(_) => None,
        }) else {
            return Err(Broken::new("the fence was not answered"));
        };
        for answer in &answers {
            let Raced::Acknowledged(acknowledged) = answer else { continue };
            for &(stream, number) in acknowledged {
                let head = at_fence[stream];
                ensure!(
                    number <= head,
                    "slot {number} of {} was acknowledged, and the head was {head} once the fence was answered",
                    streams[stream]
                );
            }
        }
        let later = heads(&context, &fresh, &streams).await?;
        ensure_eq!(later, at_fence, "last slots once every writer had its answer, beside those at the fence");
        fresh.enter(&context, StoreState::Open).await?;
    }
    other.close().await?;
    Ok(Outcome::Held)
}

/// Writers that race with a fence.
const WRITERS: usize = 8;
/// Most appends of one of them: the fence comes long before.
const APPENDS_MAX: usize = 2_000;

/// What came of one side of a race with the fence.
#[derive(Debug)]
enum Raced {
    /// Streams, by their place, and the slots in them that were acknowledged.
    Acknowledged(Vec<(usize, CommitNumber)>),
    /// The last slot of each stream directly after the fence was answered.
    Fenced(Vec<CommitNumber>),
}

async fn write_until_fenced(
    context: &Context,
    store: &dyn evstore_api::EventStore,
    streams: &[StreamId],
    mut seed: Seed,
) -> Result<Vec<(usize, CommitNumber)>, Broken> {
    let mut acknowledged = Vec::new();
    for _ in 0..APPENDS_MAX {
        let stream = seed.below(streams.len() as u64) as usize;
        match append_to(context, store, &streams[stream], 1).await {
            Ok(receipt) => acknowledged.push((stream, receipt.number)),
            Err(error) if error.kind() == ErrorKind::Fenced => return Ok(acknowledged),
            Err(error) => return Err(error.into()),
        }
        tokio::task::yield_now().await;
    }
    Err(Broken::new(format!("{APPENDS_MAX} appends of one writer were not met by the fence")))
}

async fn heads(context: &Context, fresh: &Fresh, streams: &[StreamId]) -> Result<Vec<CommitNumber>, Broken> {
    let mut heads = Vec::new();
    for stream in streams {
        let request = ReadHead { stream: stream.clone(), deadline: context.deadline() };
        heads.push(fresh.store.head(request).await?.number);
    }
    Ok(heads)
}

async fn no_process_appends_behind_the_fence(context: Context) -> Result<Outcome, Broken> {
    if let Some(outcome) = without_store_fence(&context).or_else(|| without_processes(&context)) {
        return Ok(outcome);
    }
    let Some(command) = context.worker().cloned() else {
        return Ok(Outcome::NotRun("there is no command to start another process with".into()));
    };
    for round in 0..context.rounds(2) {
        let fresh = context.fresh().await?;
        let streams = [context.stream(), context.stream(), context.stream()];
        let mut random = Seed(context.seed().0 ^ round);
        let job = Job::new(&context.target().provider, &fresh.settings, &streams, random.next_u64());
        let mut running = Vec::new();
        for process in 0..2 {
            let mut process = job.clone().with_clients(process * 2, 2, u64::MAX).start(&command).await?;
            let begun = process.read_until(is_acknowledged).await?;
            ensure!(begun, "a process ended before anything that it appended was acknowledged");
            running.push(process);
        }
        // In nanoseconds of the clock that the processes share; never before the fence is answered.
        let answered = AtomicU64::new(u64::MAX);
        let is_behind = |operation: &Operation| operation.invoked_at.0 > answered.load(Ordering::SeqCst);
        let is_answered = |operation: &Operation| {
            let appends = matches!(&operation.call, Call::Append(append) if append.outcome != AppendOutcome::Ambiguous);
            appends && is_behind(operation)
        };
        let fence = async {
            tokio::time::sleep(Duration::from_millis(random.below(100))).await;
            fresh.enter(&context, StoreState::Fenced { to: elsewhere() }).await?;
            answered.store(now().0, Ordering::SeqCst);
            heads(&context, &fresh, &streams).await
        };
        // They are read meanwhile: one whose lines nobody takes does not append.
        let [one, two] = &mut running[..] else { return Err(Broken::new("two processes were started")) };
        let (at_fence, one, two) = futures::join!(fence, one.read_until(is_answered), two.read_until(is_answered));
        let at_fence = at_fence?;
        ensure!(one? && two?, "a process had no answer to an append behind the fence");
        let mut operations = Vec::new();
        for process in running {
            operations.extend(process.killed_after(Duration::from_millis(20)).await?.operations);
        }
        for operation in operations.iter().filter(|operation| is_acknowledged(operation)) {
            let Call::Append(Append { outcome: AppendOutcome::Ok(receipt), .. }) = &operation.call else { continue };
            let stream = streams.iter().position(|stream| stream.to_string() == operation.stream).unwrap_or_default();
            let head = at_fence[stream];
            ensure!(
                receipt.number <= head.0 && (receipt.repeated || !is_behind(operation)),
                "slot {} of {} was acknowledged to another process, and the head was {head} once the fence was answered",
                receipt.number,
                operation.stream
            );
        }
        let later = heads(&context, &fresh, &streams).await?;
        ensure_eq!(later, at_fence, "last slots once the processes have ended, beside those at the fence");
    }
    Ok(Outcome::Held)
}

async fn records_name_their_epoch(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let key = record_key(&context);
    for (value, epoch) in [("a", 0), ("b", 1), ("c", 2)] {
        let put = put_request(&context, &key, RecordExpected::Any, Some(value));
        fresh.store.put_record(put).await?;
        let found = read_from(&context, &*fresh.store, &key).await?.map(|record| record.epoch);
        ensure_eq!(found, Some(Epoch(epoch)), "epoch of a checkpoint that was changed in epoch {epoch}");
        fresh.enter(&context, StoreState::Open).await?;
        let found = read_from(&context, &*fresh.store, &key).await?.map(|record| record.epoch);
        ensure_eq!(found, Some(Epoch(epoch)), "its epoch once the store's has changed");
    }
    Ok(Outcome::Held)
}

fn seal(context: &Context, stream: &StreamId, epoch: Epoch) -> SealStream {
    let (commit, to, deadline) = (context.commit_id(), elsewhere(), context.deadline());
    SealStream { stream: stream.clone(), commit, epoch, to, deadline }
}

/// The head of a stream as the store lists it.
async fn listed(context: &Context, fresh: &Fresh, stream: &StreamId) -> Result<Head, Broken> {
    let (namespace, prefix) = (NamespaceFilter::One(stream.namespace.clone()), stream.name.as_str().to_owned());
    let request =
        ListStreams { namespace, category: None, prefix, after: None, limit: 10, deadline: context.deadline() };
    let found = fresh.store.list_streams(request).await?.streams.into_iter().find(|listed| listed.stream == *stream);
    found.map(|listed| listed.head).ok_or_else(|| Broken::new("a stream is not in the list"))
}

fn open(context: &Context, fresh: &Fresh, stream: &StreamId, number: u64, epoch: Epoch) -> OpenStream {
    let (owner, deadline) = (fresh.settings.store().clone(), context.deadline());
    OpenStream {
        stream: stream.clone(),
        commit: context.commit_id(),
        number: CommitNumber(number),
        epoch,
        owner,
        deadline,
    }
}

/// Where the fence is of the whole store: that both steps of the other mode are refused and change nothing.
async fn without_stream_fence(context: &Context) -> Result<Option<Outcome>, Broken> {
    if context.capabilities().fence == Fence::Stream {
        return Ok(None);
    }
    let fresh = context.fresh().await?;
    let stream = context.stream();
    append_to(context, &*fresh.store, &stream, 2).await?;
    fresh.admin.advance_feed(AdvanceFeed { deadline: context.deadline() }).await?;
    let before = context.read_from(&*fresh.store, &stream).await?;
    let sealed = fresh.admin.seal_stream(seal(context, &stream, Epoch(0))).await;
    let answer = ensure_kind!(sealed, Unsupported, "a seal, where the fence is of the store");
    let opened = fresh.admin.open_stream(open(context, &fresh, &stream, 2, Epoch(0))).await;
    ensure_kind!(opened, Unsupported, "the opening of a stream, where the fence is of the store");
    let after = context.read_from(&*fresh.store, &stream).await?;
    ensure_eq!((&after.head, &after.commits), (&before.head, &before.commits), "the stream after refused steps");
    ensure_eq!(slots(context, &*fresh.admin, &stream).await?.len(), 1, "slots after refused steps");
    append_to(context, &*fresh.store, &stream, 1).await?;
    Outcome::refused(&answer, "the fence is of the whole store").map(Some)
}

async fn a_seal_closes_its_stream(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_stream_fence(&context).await? {
        return Ok(refused);
    }
    let fresh = context.fresh().await?;
    let (stream, untouched) = (context.stream(), context.stream());
    for stream in [&stream, &untouched] {
        append_to(&context, &*fresh.store, stream, 2).await?;
    }
    let early = fresh.admin.seal_stream(seal(&context, &stream, Epoch(1))).await;
    ensure_kind!(early, Conflict, "a seal in a store that is not leaving");
    let epoch = fresh.enter(&context, StoreState::Leaving { to: elsewhere() }).await?.epoch;
    let wrong = fresh.admin.seal_stream(seal(&context, &stream, Epoch(epoch.0 + 1))).await;
    ensure_kind!(wrong, Conflict, "a seal of another epoch");
    let missing = fresh.admin.seal_stream(seal(&context, &context.stream(), epoch)).await;
    ensure_kind!(missing, NotFound, "a seal of a missing stream");
    append_to(&context, &*fresh.store, &stream, 1).await?;
    let request = seal(&context, &stream, epoch);
    let sealed = fresh.admin.seal_stream(request.clone()).await?;
    ensure_eq!((sealed.number, sealed.last), (CommitNumber(3), Revision(3)), "receipt of a seal");
    ensure!(fresh.admin.seal_stream(request).await?.repeated, "a seal that is repeated is made twice");
    let refused = append_to(&context, &*fresh.store, &stream, 1).await;
    ensure_kind!(refused, Fenced, "an append to a sealed stream of a store that is leaving");
    let page = context.read_from(&*fresh.store, &stream).await?;
    let state = StreamState::Sealed { epoch, to: elsewhere() };
    ensure_eq!((revisions(&page).len(), &page.head.state), (3, &state), "a sealed stream");
    let last = slots(&context, &*fresh.admin, &stream).await?.pop().map(|commit| commit.kind);
    ensure_eq!(last, Some(CommitKind::MovedOut { epoch, to: elsewhere() }), "the slot of the seal");
    // Many at a time, among which are some that were just appended to, one that is sealed already and one that is missing.
    let many: Vec<_> = (0..MANY).map(|_| context.stream()).collect();
    for (stream, commits) in many.iter().zip((1..4).cycle()) {
        for _ in 0..commits {
            append_to(&context, &*fresh.store, stream, 1).await?;
        }
    }
    let absent = context.stream();
    let asked: Vec<_> = many.iter().chain([&stream, &absent]).map(|stream| seal(&context, stream, epoch)).collect();
    let answers = join_all(asked.iter().map(|request| fresh.admin.seal_stream(request.clone()))).await;
    for ((request, answer), commits) in asked.iter().zip(answers).zip((1..4).cycle().take(MANY).chain([0, 0])) {
        if commits == 0 {
            let is_refused = answer.is_err_and(|error| [ErrorKind::Moved, ErrorKind::NotFound].contains(&error.kind()));
            ensure!(is_refused, "a stream that is sealed or missing is sealed beside others");
            continue;
        }
        let sealed = answer?;
        let place = (sealed.number.0, sealed.last.0, sealed.repeated);
        ensure_eq!(place, (commits + 1, commits, false), "the seal of one of many streams");
        let again = fresh.admin.seal_stream(request.clone()).await?;
        ensure_eq!((again.number, again.repeated), (sealed.number, true), "the same seal once more");
        ensure_eq!(
            slots(&context, &*fresh.admin, &request.stream).await?.len() as u64,
            commits + 1,
            "slots with a seal"
        );
    }
    let refused = append_to(&context, &*fresh.store, &many[0], 1).await;
    ensure_kind!(refused, Fenced, "an append to one of many sealed streams");
    append_to(&context, &*fresh.store, &untouched, 1).await?;
    append_to(&context, &*fresh.store, &context.stream(), 1).await?;
    // Nothing is decided yet: whoever was refused waits. Once it is, all of them are sent on.
    fresh.swap_meta(&context, |meta| meta.state = StoreState::Fenced { to: elsewhere() }).await?;
    for stream in [&stream, &context.stream()] {
        let refused = append_to(&context, &*fresh.store, stream, 1).await;
        ensure_kind!(refused, Fenced, "an append to a sealed stream, or a new one, of a store that is fenced");
    }
    let late = fresh.admin.seal_stream(seal(&context, &untouched, Epoch(epoch.0 + 1))).await;
    ensure_kind!(late, Conflict, "a seal of another epoch in a store that is fenced");
    fresh.admin.seal_stream(seal(&context, &untouched, epoch)).await?;
    fresh.swap_meta(&context, |meta| meta.state = StoreState::Moved { to: elsewhere(), end: Position(9) }).await?;
    for stream in [&stream, &untouched, &context.stream()] {
        let refused = append_to(&context, &*fresh.store, stream, 1).await;
        let error = ensure_kind!(refused, Moved, "an append to a store whose streams are all sealed");
        ensure_eq!(error.moved_to(), Some(&elsewhere()), "where it is sent");
    }
    Ok(Outcome::Held)
}

async fn a_seal_is_of_its_attempt(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_stream_fence(&context).await? {
        return Ok(refused);
    }
    let fresh = context.fresh().await?;
    let (stream, fenced) = (context.stream(), || StoreState::Fenced { to: elsewhere() });
    append_to(&context, &*fresh.store, &stream, 1).await?;
    let mut late = Vec::new();
    // Sealed and given up, twice, without an append in between: a writer may know the record as it was open then.
    for number in [2, 3] {
        let epoch = fresh.enter(&context, fenced()).await?.epoch;
        let request = seal(&context, &stream, epoch);
        let sealed = fresh.admin.seal_stream(request.clone()).await?;
        ensure_eq!((sealed.number, sealed.repeated), (CommitNumber(number), false), "the seal of an attempt");
        // Twice: a store may remember of a stream that it is sealed, for as long as nothing opens it.
        for _ in 0..2 {
            let head = listed(&context, &fresh, &stream).await?;
            let state = StreamState::Sealed { epoch, to: elsewhere() };
            ensure_eq!((head.number, head.state), (CommitNumber(number), state), "the listed head of a sealed stream");
        }
        ensure_kind!(
            append_to(&context, &*fresh.store, &stream, 1).await,
            Fenced,
            "an append to a stream that is sealed"
        );
        fresh.enter(&context, StoreState::Open).await?;
        let head = listed(&context, &fresh, &stream).await?;
        ensure_eq!(
            (head.number, head.state),
            (CommitNumber(number), StreamState::Open),
            "its listed head once given up"
        );
        late.push(seal(&context, &stream, epoch));
    }
    let receipt = append_to(&context, &*fresh.store, &stream, 1).await?;
    ensure_eq!((receipt.number, receipt.first), (CommitNumber(4), Revision(2)), "an append once it was given up");
    let epoch = fresh.enter(&context, fenced()).await?.epoch;
    for late in late {
        ensure_kind!(fresh.admin.seal_stream(late).await, Conflict, "a seal of an attempt that was given up");
    }
    let sealed = fresh.admin.seal_stream(seal(&context, &stream, epoch)).await?;
    ensure_eq!(sealed.number, CommitNumber(5), "slot of the seal behind the append");
    fresh.swap_meta(&context, |meta| meta.state = StoreState::Moved { to: elsewhere(), end: Position(5) }).await?;
    let refused = append_to(&context, &*fresh.store, &stream, 1).await;
    ensure_kind!(refused, Moved, "an append to a sealed stream of a store that was left");
    Ok(Outcome::Held)
}

async fn an_imported_stream_is_opened_at_its_slot(context: Context) -> Result<Outcome, Broken> {
    if let Some(refused) = without_stream_fence(&context).await? {
        return Ok(refused);
    }
    copying!(context);
    let (source, target) = (context.fresh().await?, context.fresh().await?);
    let stream = context.stream();
    for _ in 0..2 {
        append_to(&context, &*source.store, &stream, 2).await?;
    }
    let filled = target.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?;
    let (epoch, origin) = (filled.epoch, Origin::Move { history: filled.incarnation() });
    let items = slots(&context, &*source.admin, &stream).await?.into_iter().map(Replica::Commit).collect();
    let copy = Replicate { epoch, origin, items, deadline: context.deadline() };
    target.admin.replicate(copy).await?;
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    for wrong in [2, 4] {
        let opened = target.admin.open_stream(open(&context, &target, &stream, wrong, epoch)).await;
        ensure_kind!(opened, Conflict, "the opening of a stream of two commits at slot {wrong}");
    }
    let request = open(&context, &target, &stream, 3, epoch);
    ensure_eq!(target.admin.open_stream(request.clone()).await?.number, CommitNumber(3), "slot of the opening");
    ensure!(target.admin.open_stream(request).await?.repeated, "an opening that is repeated is made twice");
    let receipt = append_to(&context, &*target.store, &stream, 1).await?;
    ensure_eq!((receipt.number, receipt.first), (CommitNumber(4), Revision(5)), "receipt of the first append here");
    Ok(Outcome::Held)
}
