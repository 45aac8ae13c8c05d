//! Copying recorded content from one store to another: properties 207 to 216.

use super::deletion::snapshot;
use super::feed::{append_to, slots, whole_feed};
use super::lifecycle::record_key;
use super::ownership::elsewhere;
use super::records::put_request;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, event_type, page_of, revisions};
use bytes::Bytes;
use evstore_api::capabilities::{FeedOrder, Limit, Positions, Support};
use evstore_api::chain::Chain;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentType, Delete, Epoch, Error, ErrorKind, Event, EventId,
    Expected, Extension, FeedFilter, FeedItem, FeedPage, FeedStart, FindCommit, Head, Incarnation, Lineage,
    ListRecords, ListStreams, NamespaceFilter, NewEvent, Origin, Position, PutSnapshot, ReadSnapshot, Record,
    RecordExpected, RecordKind, RecordNumber, Replica, Replicate, Replicated, Revision, Snapshot, StoreState, StreamId,
    StreamState, Timestamp, Truncate, format,
};
use std::collections::{BTreeMap, HashMap};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "copies.a-copy-is-the-same",
        "a copy has every commit, marker, removed range, snapshot and checkpoint with the same content, numbers and times",
        [207, 210, 211, 214],
        a_copy_is_the_same
    ),
    check!(
        "copies.a-copy-says-so",
        "everything that is copied for a move carries its epoch, markers too, and a restore carries nothing",
        [206, 210],
        a_copy_says_so
    ),
    check!(
        "copies.a-repeat-adds-nothing",
        "a copy that is run again, or goes on where one was cut off, adds only what is missing",
        [207, 208],
        a_repeat_adds_nothing
    ),
    check!(
        "copies.a-request-is-all-or-nothing",
        "a request of which one item is refused leaves nothing of the others",
        [207, 208],
        a_request_is_all_or_nothing
    ),
    check!(
        "copies.what-does-not-follow-is-refused",
        "a commit that leaves a gap, or claims a slot or a position that holds something else, is refused",
        [212, 221],
        what_does_not_follow_is_refused
    ),
    check!(
        "copies.tampered-content-is-refused",
        "a commit whose content is not what its digest says is corrupt, and not taken",
        [212, 214],
        tampered_content_is_refused
    ),
    check!(
        "copies.nothing-is-cut-to-fit",
        "a commit of the declared size is copied whole, and a larger one is refused, never shortened",
        [213],
        nothing_is_cut_to_fit
    ),
    check!(
        "copies.only-an-importing-store-takes-them",
        "a copy of another epoch than the import's, or into a store that does not import, is refused",
        [206, 209],
        only_an_importing_store_takes_them
    ),
    check!(
        "copies.of-an-older-history-are-refused",
        "a copy for a move that was read before the store took over a newer history is refused",
        [206, 209],
        of_an_older_history_are_refused
    ),
    check!(
        "copies.two-copiers-make-one-copy",
        "two copiers at once leave what one would have left",
        [209],
        two_copiers_make_one_copy
    ),
    check!(
        "copies.copied-ids-are-recognised",
        "a commit that is repeated where it was copied to gets its first receipt",
        [23, 206],
        copied_ids_are_recognised
    ),
    check!(
        "copies.a-copy-opens-with-its-store",
        "a copied stream is closed while its store imports, and goes on with the next numbers once it is opened",
        [206, 216],
        a_copy_opens_with_its_store
    ),
    check!(
        "copies.older-state-is-passed-over",
        "a snapshot or a checkpoint that is older than the one that is kept does not replace it",
        [207, 214],
        older_state_is_passed_over
    ),
    check!(
        "copies.a-snapshot-waits-for-its-commits",
        "a copied snapshot that is ahead of its stream is refused with its request, and taken once its commits are there",
        [157, 214],
        a_snapshot_waits_for_its_commits
    ),
    check!(
        "copies.removed-ranges-keep-their-place",
        "positions without content are copied as such, and what follows keeps its own",
        [210, 214, 216],
        removed_ranges_keep_their_place
    ),
    check!(
        "copies.the-way-back-adds-what-is-new",
        "what was appended after a move is copied back behind what was there before it",
        [207, 219],
        the_way_back_adds_what_is_new
    ),
];

/// Where a store takes no copies: that it refuses them and stays as it is.
pub(super) async fn refused(context: &Context) -> Result<Option<Outcome>, Broken> {
    if context.capabilities().replication == Support::Promised {
        return Ok(None);
    }
    let (source, target) = (context.fresh().await?, context.fresh().await?);
    let stream = context.stream();
    append_to(context, &*source.store, &stream, 1).await?;
    let items = slots(context, &*source.admin, &stream).await?.into_iter().map(Replica::Commit).collect();
    let refused = replicate(context, &target, Epoch(0), For::Move, items).await;
    let answer = ensure_kind!(refused, Unsupported, "a copy that is not promised");
    ensure_eq!(slots(context, &*target.admin, &stream).await?.len(), 0, "slots after a copy that was refused");
    Outcome::refused(&answer, "the store takes no copies").map(Some)
}

/// What a check works on that copies: a store that takes copies, or the answer that it does not.
macro_rules! copying {
    ($context:expr) => {
        if let Some(refused) = $crate::checks::copies::refused(&$context).await? {
            return Ok(refused);
        }
    };
}

pub(super) use copying;

/// What a copy is made for; one for a move is of the target's present history.
#[derive(Clone, Copy, Debug)]
enum For {
    Move,
    Restore,
}

async fn replicate(
    context: &Context,
    target: &Fresh,
    epoch: Epoch,
    made_for: For,
    items: Vec<Replica>,
) -> Result<Replicated, Error> {
    let deadline = context.deadline();
    let origin = match made_for {
        For::Move => Origin::Move { history: target.admin.read_meta(deadline).await?.incarnation() },
        For::Restore => Origin::Restore,
    };
    target.admin.replicate(Replicate { epoch, origin, items, deadline }).await
}

/// A store that is being filled, and in which epoch.
async fn importing(context: &Context) -> Result<(Fresh, Epoch), Broken> {
    let target = context.fresh().await?;
    let meta = target.enter(context, StoreState::Importing { from: Some(elsewhere()) }).await?;
    Ok((target, meta.epoch))
}

/// A store with everything that a copy has to carry.
async fn source(context: &Context) -> Result<Fresh, Broken> {
    let fresh = context.fresh().await?;
    let rich = StreamId::within("tenant", context.stream().name.as_str())?;
    let (cut, gone, plain) = (context.stream(), context.stream(), context.stream());
    let mut last = None;
    for commits in 0..3 {
        for stream in [&rich, &cut, &gone, &plain] {
            let events = if *stream == rich { rich_events(commits) } else { context.events(1 + commits) };
            let request = context.request(stream, Expected::Any, context.commit_id(), events)?;
            last = Some((stream.clone(), fresh.store.append(request).await?));
        }
    }
    if let Some((stream, receipt)) = last {
        let put = PutSnapshot { snapshot: snapshot(&stream, &receipt), deadline: context.deadline() };
        fresh.store.put_snapshot(put).await?;
    }
    for value in ["first", "second"] {
        fresh.store.put_record(put_request(context, &record_key(context), RecordExpected::Any, Some(value))).await?;
    }
    if context.capabilities().deletion == Support::Promised {
        let (commit, deadline) = (context.commit_id(), context.deadline());
        fresh.admin.truncate(Truncate { stream: cut.clone(), commit, before: Revision(4), deadline }).await?;
        let (commit, expected) = (context.commit_id(), Expected::Any);
        fresh.admin.delete(Delete { stream: gone, expected, commit, deadline }).await?;
        append_to(context, &*fresh.store, &cut, 2).await?;
    }
    append_to(context, &*fresh.store, &plain, 1).await?;
    Ok(fresh)
}

/// Events that use every field.
fn rich_events(commit: u32) -> Vec<NewEvent> {
    let one = NewEvent {
        id: Some(EventId([commit as u8 + 1; 16])),
        event_type: event_type("Tried"),
        schema: 7,
        content_type: ContentType::json(),
        data: Bytes::from(format!("{{\"n\":{commit}}}")),
        metadata: Bytes::from_static(b"\0\xffcausation"),
        occurred_at: Some(Timestamp(-62_135_596_800_000_000 + i64::from(commit))),
        extensions: vec![Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"kept") }],
    };
    vec![one, NewEvent::new(event_type("Empty"), Bytes::new())]
}

/// Everything in a store, as a copier reads it: the feed in its order, before a commit those of its stream that the feed
/// shows no more, and behind all that snapshots and checkpoints.
async fn items(context: &Context, source: &Fresh) -> Result<Vec<Replica>, Broken> {
    let mut items = Vec::new();
    let mut copied: HashMap<StreamId, CommitNumber> = HashMap::new();
    for item in whole_feed(context, source).await?.into_iter().flat_map(|page| page.items) {
        match item {
            FeedItem::Removed { first, last } => items.push(Replica::Removed { first, last }),
            FeedItem::Commit(commit) => {
                let last = copied.insert(commit.stream.clone(), commit.number).unwrap_or_default();
                if commit.number > last.next() {
                    let stubs = slots(context, &*source.admin, &commit.stream).await?;
                    let between = stubs.into_iter().filter(|stub| stub.number > last && stub.number < commit.number);
                    items.extend(between.map(Replica::Commit));
                }
                items.push(Replica::Commit(commit));
            }
        }
    }
    let picture = picture(context, source).await?;
    items.extend(picture.snapshots.into_iter().map(Replica::Snapshot));
    items.extend(picture.records.into_iter().map(Replica::Record));
    Ok(items)
}

/// All that a store has, without what differs between a store and its copy on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Picture {
    heads: BTreeMap<StreamId, Head>,
    commits: BTreeMap<StreamId, Vec<Commit>>,
    feed: Vec<FeedItem>,
    snapshots: Vec<Snapshot>,
    records: Vec<Record>,
}

async fn picture(context: &Context, fresh: &Fresh) -> Result<Picture, Broken> {
    let deadline = context.deadline();
    let (namespace, prefix) = (NamespaceFilter::All, String::new());
    let limit = page_of(context.capabilities());
    let all = ListStreams { namespace, category: None, prefix, after: None, limit, deadline };
    let plain = |commit: Commit| Commit { imported: None, ..commit };
    let mut feed: Vec<_> = whole_feed(context, fresh).await?.into_iter().flat_map(|page| page.items).collect();
    for item in &mut feed {
        if let FeedItem::Commit(commit) = item {
            commit.imported = None;
        }
    }
    if context.capabilities().order != FeedOrder::Total {
        feed.sort_by_key(|item| match item {
            FeedItem::Commit(commit) => (Some(commit.stream.clone()), commit.number),
            FeedItem::Removed { first, .. } => (None, CommitNumber(first.0)),
        });
    }
    let kind = RecordKind::Checkpoint;
    context.settle_lists().await;
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = fresh.store.list_records(ListRecords { kind, after, limit, deadline }).await?;
        records.extend(page.records);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut picture =
        Picture { heads: BTreeMap::new(), commits: BTreeMap::new(), feed, snapshots: Vec::new(), records };
    for listed in super::listing::list(context, &*fresh.store, &all).await? {
        let stream = listed.stream;
        let commits = slots(context, &*fresh.admin, &stream).await?.into_iter().map(plain).collect();
        let read = ReadSnapshot { stream: stream.clone(), deadline };
        picture.snapshots.extend(fresh.store.read_snapshot(read).await?);
        // Whether a stream takes appends is the record's to say, but for a deletion.
        let state = if listed.head.state == StreamState::Deleted { StreamState::Deleted } else { StreamState::Open };
        picture.heads.insert(stream.clone(), Head { state, ..listed.head });
        picture.commits.insert(stream, commits);
    }
    Ok(picture)
}

/// Ends a check as broken unless two stores have the same, and names the first part in which they differ.
fn ensure_alike(found: &Picture, wanted: &Picture, what: &str) -> Result<(), Broken> {
    ensure_eq!(found.heads, wanted.heads, "heads of {what}");
    for (stream, commits) in &wanted.commits {
        for (found, wanted) in found.commits.get(stream).into_iter().flatten().zip(commits) {
            ensure_eq!(found, wanted, "a commit of {what}");
        }
        let found = found.commits.get(stream).map(Vec::len);
        ensure_eq!(found, Some(commits.len()), "slots of {stream} of {what}");
    }
    ensure_eq!(found.feed, wanted.feed, "feed of {what}");
    ensure_eq!(found.snapshots, wanted.snapshots, "snapshots of {what}");
    ensure_eq!(found.records, wanted.records, "checkpoints of {what}");
    ensure_eq!(chain(found), chain(wanted), "digest over the commits of {what}");
    Ok(())
}

fn chain(picture: &Picture) -> Chain {
    let mut chain = Chain::default();
    for item in &picture.feed {
        match item {
            FeedItem::Commit(commit) => chain.push(commit),
            FeedItem::Removed { first, last } => chain.push_removed(*first, *last),
        }
    }
    chain
}

/// Copies in requests of a few items.
async fn copy(
    context: &Context,
    target: &Fresh,
    epoch: Epoch,
    made_for: For,
    items: &[Replica],
) -> Result<(u64, u64), Broken> {
    let (mut written, mut present) = (0, 0);
    for batch in items.chunks(3) {
        let done = replicate(context, target, epoch, made_for, batch.to_vec()).await?;
        ensure_eq!(done.written + done.present, batch.len() as u64, "items that a receipt accounts for");
        written += done.written;
        present += done.present;
    }
    Ok((written, present))
}

async fn a_copy_is_the_same(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = source(&context).await?;
    let items = items(&context, &source).await?;
    for made_for in [For::Move, For::Restore] {
        let (target, epoch) = importing(&context).await?;
        let (written, present) = copy(&context, &target, epoch, made_for, &items).await?;
        ensure_eq!((written, present), (items.len() as u64, 0), "items written and present, in an empty store");
        ensure_alike(&picture(&context, &target).await?, &picture(&context, &source).await?, "a copy")?;
        target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
        ensure_alike(&picture(&context, &target).await?, &picture(&context, &source).await?, "a copy that is open")?;
    }
    Ok(Outcome::Held)
}

async fn a_copy_says_so(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = source(&context).await?;
    let items = items(&context, &source).await?;
    for (made_for, carries) in [(For::Move, true), (For::Restore, false)] {
        let (target, epoch) = importing(&context).await?;
        copy(&context, &target, epoch, made_for, &items).await?;
        let wanted = carries.then_some(epoch);
        for stream in picture(&context, &target).await?.heads.keys() {
            for commit in slots(&context, &*target.admin, stream).await? {
                ensure_eq!(commit.imported, wanted, "the mark of {:?} copied as {made_for:?}", commit.kind);
            }
        }
        target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
        let own = append_to(&context, &*target.store, &context.stream(), 1).await?;
        let feed = whole_feed(&context, &target).await?;
        let mark = feed.iter().flat_map(|page| page.commits()).find(|commit| commit.id == own.commit);
        ensure_eq!(mark.map(|commit| commit.imported), Some(None), "the mark of the store's own append");
    }
    Ok(Outcome::Held)
}

async fn a_repeat_adds_nothing(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = source(&context).await?;
    let items = items(&context, &source).await?;
    let all = items.len() as u64;
    let (target, epoch) = importing(&context).await?;
    // Cut off in the middle of the way, then begun again from the start.
    let half = items.len() / 2;
    copy(&context, &target, epoch, For::Move, &items[..half]).await?;
    let rest = copy(&context, &target, epoch, For::Move, &items).await?;
    ensure_eq!(rest, (all - half as u64, half as u64), "items written and present of a copy that goes on");
    let before = picture(&context, &target).await?;
    let again = copy(&context, &target, epoch, For::Move, &items).await?;
    ensure_eq!(again, (0, all), "items written and present of a copy that is run again");
    ensure_alike(&picture(&context, &target).await?, &before, "a copy that was run again")?;
    ensure_alike(&before, &picture(&context, &source).await?, "a copy that was cut off")?;
    Ok(Outcome::Held)
}

/// Three commits of two streams in a store of their own, as they stand there.
async fn three_commits(context: &Context) -> Result<Vec<Commit>, Broken> {
    let source = context.fresh().await?;
    let (one, other) = (context.stream(), context.stream());
    for (stream, count) in [(&one, 2), (&other, 1), (&one, 3)] {
        append_to(context, &*source.store, stream, count).await?;
    }
    let mut commits: Vec<Commit> = whole_feed(context, &source)
        .await?
        .into_iter()
        .flat_map(|page| page.commits().cloned().collect::<Vec<_>>())
        .collect();
    commits.sort_by_key(|commit| (commit.first_position, commit.stream.clone(), commit.number));
    ensure_eq!(commits.len(), 3, "commits of the feed");
    Ok(commits)
}

async fn a_request_is_all_or_nothing(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let empty = picture(&context, &target).await?;
    let good: Vec<_> = commits.iter().cloned().map(Replica::Commit).collect();
    let gap = Commit { number: commits[2].number.plus(5), ..commits[2].clone() };
    let tampered = Commit { recorded_at: Timestamp(1), digest: commits[1].digest, ..commits[2].clone() };
    let record = Record {
        key: record_key(&context),
        number: RecordNumber(3),
        epoch: Epoch(0),
        value: Some(Bytes::from_static(b"copied")),
        updated_at: Timestamp(5),
    };
    for (wrong, kind) in [(gap, ErrorKind::Conflict), (tampered, ErrorKind::Corrupt)] {
        let mut items = good[..2].to_vec();
        items.push(Replica::Record(record.clone()));
        items.push(Replica::Commit(wrong));
        let refused = replicate(&context, &target, epoch, For::Move, items).await;
        let Err(error) = refused else { return Err(Broken::new("a request with a wrong item was taken")) };
        ensure_eq!(error.kind(), kind, "kind of the refusal");
        ensure_alike(&picture(&context, &target).await?, &empty, "a store that refused a request")?;
        for commit in &commits {
            let (stream, commit) = (commit.stream.clone(), commit.id);
            let found = target.store.find_commit(FindCommit { stream, commit, deadline: context.deadline() }).await?;
            ensure_eq!(found, None, "a commit of a request that was refused");
        }
    }
    let done = replicate(&context, &target, epoch, For::Move, good).await?;
    ensure_eq!((done.written, done.present), (3, 0), "items written and present of the request once it was mended");
    Ok(Outcome::Held)
}

/// A commit with another event's data, and the digest of that.
fn with_other_content(commit: &Commit) -> Commit {
    let mut other = commit.clone();
    other.events[0].data = Bytes::from_static(b"other");
    other.digest = format::digest(&other.stream, other.id, &other.kind, &other.events);
    other
}

async fn what_does_not_follow_is_refused(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let copied = commits[..2].iter().cloned().map(Replica::Commit).collect();
    replicate(&context, &target, epoch, For::Move, copied).await?;
    let before = picture(&context, &target).await?;
    let (first, next) = (&commits[0], &commits[2]);
    let positioned = next.first_position.is_some();
    let mut wrong = vec![
        ("a gap of slots", Commit { number: next.number.next(), ..next.clone() }),
        ("a gap of revisions", Commit { first_revision: next.first_revision.next(), ..next.clone() }),
        ("a revision that is taken", Commit { first_revision: Revision(next.first_revision.0 - 1), ..next.clone() }),
        ("other content in a slot", with_other_content(first)),
        ("another time in a slot", Commit { recorded_at: Timestamp(first.recorded_at.0 + 1), ..first.clone() }),
    ];
    let renamed = Commit { id: CommitId([9; 16]), ..first.clone() };
    let digest = format::digest(&renamed.stream, renamed.id, &renamed.kind, &renamed.events);
    wrong.push(("another commit in a slot", Commit { digest, ..renamed }));
    if let (true, Some(position)) = (positioned, next.first_position) {
        wrong.push(("a gap of positions", Commit { first_position: Some(position.next()), ..next.clone() }));
        wrong.push(("a position that is taken", Commit { first_position: first.first_position, ..next.clone() }));
    }
    for (what, commit) in wrong {
        let refused = replicate(&context, &target, epoch, For::Move, vec![Replica::Commit(commit)]).await;
        ensure_kind!(refused, Conflict, "a copy with {what}");
        ensure_alike(&picture(&context, &target).await?, &before, &format!("a store that refused {what}"))?;
    }
    if let (true, Some(position)) = (positioned, next.first_position) {
        for (what, first, last) in [
            ("a removed range behind a gap", position.plus(1), position.plus(2)),
            ("a removed range where events stand", Position(1), Position(2)),
        ] {
            let refused = replicate(&context, &target, epoch, For::Move, vec![Replica::Removed { first, last }]).await;
            ensure_kind!(refused, Conflict, "{what}");
            ensure_alike(&picture(&context, &target).await?, &before, &format!("a store that refused {what}"))?;
        }
    }
    let done = replicate(&context, &target, epoch, For::Move, vec![Replica::Commit(next.clone())]).await?;
    ensure_eq!(done.written, 1, "items written of what does follow");
    Ok(Outcome::Held)
}

async fn tampered_content_is_refused(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let empty = picture(&context, &target).await?;
    let whole = &commits[0];
    let with = |change: fn(&mut Event)| {
        let mut commit = whole.clone();
        change(&mut commit.events[0]);
        commit
    };
    let tampered = [
        ("data", with(|event| event.data = Bytes::from_static(b"other"))),
        ("metadata", with(|event| event.metadata = Bytes::from_static(b"other"))),
        ("a type", with(|event| event.event_type = event_type("Other"))),
        ("an id", with(|event| event.id = EventId([9; 16]))),
        ("a schema", with(|event| event.schema += 1)),
        ("a digest", Commit { digest: commits[1].digest, ..whole.clone() }),
        ("a commit id", Commit { id: CommitId([9; 16]), ..whole.clone() }),
        ("a stream", Commit { stream: context.stream(), ..whole.clone() }),
    ];
    for (what, commit) in tampered {
        let refused = replicate(&context, &target, epoch, For::Move, vec![Replica::Commit(commit)]).await;
        ensure_kind!(refused, Corrupt, "a copy with another {what}");
        ensure_alike(&picture(&context, &target).await?, &empty, "a store that refused it")?;
    }
    Ok(Outcome::Held)
}

/// Bytes of an event that is copied to a store without a limit of its own: beyond those of engines and their drivers.
const COPY_BEYOND: u64 = 17 << 20;
/// Bytes beside those of an event in its commit, generously.
const ROOM: u64 = 1_024;

async fn nothing_is_cut_to_fit(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let target = context.fresh_with(&[("event_bytes_max", "64KiB"), ("commit_bytes_max", "128KiB")]).await?;
    let epoch = target.enter(&context, StoreState::Importing { from: None }).await?.epoch;
    let limits = target.store.capabilities().limits;
    let (max, beyond) = match (limits.event_bytes, limits.commit_bytes) {
        (Limit::Max(max), _) => (max, true),
        // The commit is not of this check's making, and takes some room beside its event.
        (Limit::None, Limit::Max(max)) => (max.saturating_sub(ROOM).min(COPY_BEYOND), false),
        (Limit::None, Limit::None) => (COPY_BEYOND, false),
    };
    if max > 32 << 20 {
        return Ok(Outcome::NotRun(format!("the limit of {max} bytes is above what a check makes")));
    }
    let template = three_commits(&context).await?.swap_remove(1);
    let of = |bytes: u64| {
        let mut commit = template.clone();
        commit.first_position = commit.first_position.map(|_| Position(1));
        commit.events[0].data = vec![7; bytes as usize].into();
        commit.digest = format::digest(&commit.stream, commit.id, &commit.kind, &commit.events);
        commit
    };
    if beyond {
        let too_large = replicate(&context, &target, epoch, For::Move, vec![Replica::Commit(of(max + 1))]).await;
        ensure_kind!(too_large, TooLarge, "a copy of an event of {max} bytes and one");
        ensure_eq!(slots(&context, &*target.admin, &template.stream).await?.len(), 0, "slots after that");
    }
    replicate(&context, &target, epoch, For::Move, vec![Replica::Commit(of(max))]).await?;
    let copied = slots(&context, &*target.admin, &template.stream).await?;
    let found = copied.first().map(|commit| (commit.digest, commit.events[0].data.len() as u64));
    ensure_eq!(found, Some((of(max).digest, max)), "digest and bytes of a copy of {max} bytes");
    Ok(Outcome::Held)
}

async fn only_an_importing_store_takes_them(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let items = || vec![Replica::Commit(commits[0].clone())];
    let target = context.fresh().await?;
    let refuse = async |epoch: u64, what: &str| {
        let refused = replicate(&context, &target, Epoch(epoch), For::Move, items()).await;
        ensure_kind!(refused, Fenced, "a copy {what}");
        ensure_eq!(slots(&context, &*target.admin, &commits[0].stream).await?.len(), 0, "slots after a copy {what}");
        Ok::<(), Broken>(())
    };
    refuse(0, "into an open store").await?;
    let first = target.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?.epoch;
    refuse(first.0 - 1, "of an earlier epoch").await?;
    refuse(first.0 + 1, "of a later epoch").await?;
    // Another migrator took over: what the first one still sends comes too late.
    let second = target.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?.epoch;
    refuse(first.0, "of a migrator that was replaced").await?;
    target.enter(&context, StoreState::Fenced { to: elsewhere() }).await?;
    refuse(second.0 + 1, "into a fenced store").await?;
    target.enter(&context, StoreState::Open).await?;
    refuse(second.0 + 2, "into a store that was opened").await?;
    let third = target.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?.epoch;
    replicate(&context, &target, third, For::Move, items()).await?;
    Ok(Outcome::Held)
}

async fn of_an_older_history_are_refused(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let stream = &commits[0].stream;
    let items = || vec![Replica::Commit(commits[0].clone())];
    let target = context.fresh().await?;
    let before = target.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?;
    // As an owner that failed over: what it lost may still be on its way.
    let newer = Incarnation::generate();
    let taken_over = target
        .swap_meta(&context, |meta| {
            meta.lineage.iter_mut().for_each(|one| one.ended_at = one.ended_at.or(Some(Position(0))));
            meta.lineage.push(Lineage { incarnation: newer, ended_at: None });
        })
        .await?;
    ensure_eq!(taken_over.epoch, before.epoch, "the epoch once a newer history was taken over");
    let copy = async |history| {
        let (origin, deadline) = (Origin::Move { history }, context.deadline());
        target.admin.replicate(Replicate { epoch: before.epoch, origin, items: items(), deadline }).await
    };
    ensure_kind!(copy(before.incarnation()).await, Fenced, "a copy of an older history");
    ensure_kind!(copy(Incarnation::generate()).await, Fenced, "a copy of another store's history");
    ensure_eq!(slots(&context, &*target.admin, stream).await?.len(), 0, "slots after copies that were refused");
    ensure_eq!(copy(newer).await?.written, 1, "items of a copy of the present history");
    Ok(Outcome::Held)
}

async fn two_copiers_make_one_copy(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = source(&context).await?;
    let items = items(&context, &source).await?;
    let wanted = picture(&context, &source).await?;
    for _ in 0..context.rounds(3) {
        let (target, epoch) = importing(&context).await?;
        let answers = context
            .together(2, |_| {
                let (context, target, items) = (context.clone(), target.clone(), items.clone());
                async move { copy(&context, &target, epoch, For::Move, &items).await }
            })
            .await?;
        let written = answers.into_iter().map(|answer| answer.map(|done| done.0)).sum::<Result<u64, Broken>>()?;
        ensure_eq!(written, items.len() as u64, "items that two copiers wrote together");
        ensure_alike(&picture(&context, &target).await?, &wanted, "a copy that two copiers made")?;
    }
    Ok(Outcome::Held)
}

async fn copied_ids_are_recognised(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = context.fresh().await?;
    let stream = context.stream();
    let mut appends = Vec::new();
    for count in [2, 1, 3] {
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(count))?;
        appends.push((request.clone(), source.store.append(request).await?));
    }
    let (target, epoch) = importing(&context).await?;
    copy(&context, &target, epoch, For::Move, &items(&context, &source).await?).await?;
    for state in ["importing", "open"] {
        for (request, receipt) in &appends {
            let repeat = target.store.append(request.clone()).await?;
            let found = (repeat.repeated, repeat.number, repeat.first, repeat.last, repeat.digest, repeat.recorded_at);
            let wanted = (true, receipt.number, receipt.first, receipt.last, receipt.digest, receipt.recorded_at);
            ensure_eq!(found, wanted, "receipt of a commit that is repeated at the copy, {state}");
            let other = context.request(&stream, Expected::Any, receipt.commit, context.events(1))?;
            ensure_kind!(target.store.append(other).await, IdReused, "other content under a copied id, {state}");
        }
        target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    }
    ensure_eq!(slots(&context, &*target.admin, &stream).await?.len(), 3, "slots after repeats");
    Ok(Outcome::Held)
}

async fn a_copy_opens_with_its_store(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let items = commits.iter().cloned().map(Replica::Commit).collect();
    replicate(&context, &target, epoch, For::Move, items).await?;
    let stream = &commits[0].stream;
    let closed = StreamState::Sealed { epoch, to: target.settings.store().clone() };
    ensure_eq!(context.read_from(&*target.store, stream).await?.head.state, closed, "state of a stream being copied");
    let refused = append_to(&context, &*target.store, stream, 1).await;
    let error = ensure_kind!(refused, Moved, "an append to a store that is being filled from another");
    ensure_eq!(error.moved_to(), Some(&elsewhere()), "where it is sent");
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    let receipt = append_to(&context, &*target.store, stream, 1).await?;
    let found = (receipt.number, receipt.first);
    ensure_eq!(found, (CommitNumber(3), Revision(6)), "slot and revision of the first append behind a copy");
    if context.capabilities().positions == Positions::Contiguous && receipt.position.is_some() {
        ensure_eq!(receipt.position, Some(Position(7)), "position of the first append behind a copy");
    }
    let page = context.read_from(&*target.store, stream).await?;
    ensure_eq!(revisions(&page), (1..=6).map(Revision).collect::<Vec<_>>(), "revisions of a copied stream");
    ensure!(page.head.recorded_at >= commits.last().map(|commit| commit.recorded_at), "time falls behind a copy");
    Ok(Outcome::Held)
}

fn snapshot_of(commit: &Commit, data: &'static [u8]) -> Snapshot {
    Snapshot {
        stream: commit.stream.clone(),
        revision: commit.last_revision(),
        number: commit.number,
        commit: commit.id,
        schema: 1,
        content_type: ContentType::bytes(),
        data: Bytes::from_static(data),
        taken_at: Timestamp(5),
    }
}

async fn a_snapshot_waits_for_its_commits(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let empty = picture(&context, &target).await?;
    let snapshot = snapshot_of(&commits[2], b"state");
    let copied = |commits: &[Commit]| commits.iter().cloned().map(Replica::Commit).collect::<Vec<_>>();
    for (commits, what) in [(&commits[..0], "without its stream"), (&commits[..2], "behind its last commit")] {
        let mut items = copied(commits);
        items.push(Replica::Snapshot(snapshot.clone()));
        let result = replicate(&context, &target, epoch, For::Move, items).await;
        ensure_kind!(result, Conflict, "a copied snapshot {what}");
        ensure_alike(&picture(&context, &target).await?, &empty, "a store that refused a snapshot")?;
    }
    replicate(&context, &target, epoch, For::Move, copied(&commits)).await?;
    let items = vec![Replica::Snapshot(snapshot.clone())];
    ensure_eq!(replicate(&context, &target, epoch, For::Move, items).await?.written, 1, "snapshots that were written");
    ensure_eq!(picture(&context, &target).await?.snapshots, [snapshot], "the snapshots that were copied");
    Ok(Outcome::Held)
}

async fn older_state_is_passed_over(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let commits = three_commits(&context).await?;
    let (target, epoch) = importing(&context).await?;
    let items = commits.iter().cloned().map(Replica::Commit).collect();
    replicate(&context, &target, epoch, For::Move, items).await?;
    let record = |number, value: Option<&'static [u8]>| Record {
        key: record_key(&context),
        number: RecordNumber(number),
        epoch: Epoch(0),
        value: value.map(Bytes::from_static),
        updated_at: Timestamp(7),
    };
    let (old, new) = (snapshot_of(&commits[0], b"old"), snapshot_of(&commits[2], b"new"));
    let (older, newer) = (record(2, Some(b"older")), record(5, Some(b"newer")));
    let both = |one: &Snapshot, other: &Record| vec![Replica::Snapshot(one.clone()), Replica::Record(other.clone())];
    for (items, counts) in [(both(&new, &newer), (2, 0)), (both(&old, &older), (0, 2)), (both(&new, &newer), (0, 2))] {
        let done = replicate(&context, &target, epoch, For::Move, items).await?;
        ensure_eq!((done.written, done.present), counts, "items written and present");
        let picture = picture(&context, &target).await?;
        ensure_eq!(picture.snapshots, std::slice::from_ref(&new), "the snapshot that is kept");
        ensure_eq!(picture.records, std::slice::from_ref(&newer), "the checkpoint that is kept");
    }
    let deleted = record(6, None);
    replicate(&context, &target, epoch, For::Move, vec![Replica::Record(deleted)]).await?;
    ensure_eq!(picture(&context, &target).await?.records, [], "checkpoints once a deletion was copied");
    let late = replicate(&context, &target, epoch, For::Move, vec![Replica::Record(newer)]).await?;
    ensure_eq!((late.written, late.present), (0, 1), "items of a checkpoint from before its deletion");
    Ok(Outcome::Held)
}

/// The places of pages behind a position, and whether content stands there. Two ranges that touch may come as one.
fn places(feed: Vec<FeedPage>, after: u64) -> Vec<(u64, u64, bool)> {
    let place = |item: FeedItem| match item {
        FeedItem::Removed { first, last } => (first.0.max(after + 1), last.0, false),
        FeedItem::Commit(found) => {
            let place = (found.first_position, found.last_position());
            (place.0.unwrap_or_default().0, place.1.unwrap_or_default().0, true)
        }
    };
    let mut places: Vec<_> = feed.into_iter().flat_map(|page| page.items).map(place).collect();
    places.dedup_by(|next, before| {
        let touches = !next.2 && !before.2 && before.1 + 1 == next.0;
        if touches {
            before.1 = next.1;
        }
        touches
    });
    places
}

async fn removed_ranges_keep_their_place(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    if context.capabilities().positions == Positions::Opaque {
        return Ok(Outcome::NotApplicable("positions are opaque".into()));
    }
    let mut commit = three_commits(&context).await?.swap_remove(1);
    commit.first_position = Some(Position(11));
    let (target, epoch) = importing(&context).await?;
    let range = |first, last| Replica::Removed { first: Position(first), last: Position(last) };
    let items = vec![range(1, 10), Replica::Commit(commit.clone()), range(12, 12), range(13, 20)];
    let all = items.len() as u64;
    let done = replicate(&context, &target, epoch, For::Move, items.clone()).await?;
    ensure_eq!((done.written, done.present), (all, 0), "items written and present");
    let again = replicate(&context, &target, epoch, For::Move, items).await?;
    ensure_eq!((again.written, again.present), (0, all), "items written and present of the repeat");
    let inverted = replicate(&context, &target, epoch, For::Move, vec![range(25, 21)]).await;
    ensure!(inverted.is_err(), "a range that ends before it begins was taken");
    let known = [(1, 10, false), (11, 11, true), (12, 20, false)];
    let feed = whole_feed(&context, &target).await?;
    ensure_eq!(places(feed, 0), known, "places of the feed, and whether content stands there");
    // From within a range and from behind one, too: a consumer may stop anywhere.
    for after in 0..=20 {
        let from = FeedStart::AfterPosition(Position(after));
        let feed = context.feed_until(&*target.store, from, FeedFilter::none(), 0).await?;
        let left = known.iter().filter(|(_, last, _)| *last > after);
        let left: Vec<_> = left.map(|(first, last, content)| (*first.max(&(after + 1)), *last, *content)).collect();
        ensure_eq!(places(feed, after), left, "places of the feed after position {after}");
    }
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    append_to(&context, &*target.store, &context.stream(), 1).await?;
    let feed = whole_feed(&context, &target).await?;
    let last = feed.iter().flat_map(|page| page.commits()).last().and_then(|commit| commit.first_position);
    ensure_eq!(last, Some(Position(21)), "position of the first append behind a removed range");
    Ok(Outcome::Held)
}

async fn the_way_back_adds_what_is_new(context: Context) -> Result<Outcome, Broken> {
    copying!(context);
    let source = source(&context).await?;
    let (target, epoch) = importing(&context).await?;
    copy(&context, &target, epoch, For::Move, &items(&context, &source).await?).await?;
    let last = source.store.feed_head(context.deadline()).await?.position.unwrap_or_default();
    source.enter(&context, StoreState::Moved { to: elsewhere(), end: last }).await?;
    target.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    let live: Vec<_> = picture(&context, &target)
        .await?
        .heads
        .into_iter()
        .filter(|(_, head)| head.state == StreamState::Open)
        .collect();
    ensure!(!live.is_empty(), "no stream of the copy is open");
    for (stream, _) in &live {
        append_to(&context, &*target.store, stream, 2).await?;
    }
    append_to(&context, &*target.store, &context.stream(), 1).await?;
    let back = source.enter(&context, StoreState::Importing { from: Some(elsewhere()) }).await?.epoch;
    let items = items(&context, &target).await?;
    let (written, _) = copy(&context, &source, back, For::Move, &items).await?;
    ensure_eq!(written, live.len() as u64 + 1, "items that were written on the way back");
    source.swap_meta(&context, |meta| meta.state = StoreState::Open).await?;
    ensure_alike(
        &picture(&context, &source).await?,
        &picture(&context, &target).await?,
        "the store that was moved back to",
    )?;
    let stream = &live[0].0;
    let receipt = append_to(&context, &*source.store, stream, 1).await?;
    ensure_eq!(receipt.number.0, live[0].1.number.0 + 2, "slot of the first append after the way back");
    let kinds = slots(&context, &*source.admin, stream).await?;
    ensure!(
        kinds.iter().all(|commit| commit.content == Content::Kept || commit.kind == CommitKind::Events),
        "a marker is stripped"
    );
    Ok(Outcome::Held)
}
