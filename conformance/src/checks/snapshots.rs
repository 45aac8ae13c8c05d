//! Snapshots: properties 153 to 160.

use super::deletion::deleting;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::Context;
use bytes::Bytes;
use evstore_api::capabilities::Limit;
use evstore_api::{
    Appended, CommitNumber, ContentType, Delete, DeleteSnapshot, Direction, Expected, PutSnapshot, ReadSnapshot,
    Result, Revision, Snapshot, SnapshotPut, StreamId, StreamPage, StreamStart, Timestamp,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "snapshots.the-latest-is-read-back",
        "a snapshot is read back with every field as it was given, and a stream without one has none",
        [153],
        the_latest_is_read_back
    ),
    check!(
        "snapshots.an-older-one-replaces-none",
        "a snapshot replaces one of the same or a lower revision, and gives way to one of a higher one",
        [153, 154],
        an_older_one_replaces_none
    ),
    check!(
        "snapshots.deleting-one-leaves-others",
        "a deleted snapshot is gone and can be deleted again; those of other streams and namespaces stay",
        [154, 177],
        deleting_one_leaves_others
    ),
    check!(
        "snapshots.snapshot-and-tail-equal-a-replay",
        "the state of a snapshot folded on with the events after it is that of all events, and its commit is found there",
        [155, 157],
        snapshot_and_tail_equal_a_replay
    ),
    check!(
        "snapshots.need-a-stream-and-a-revision",
        "a snapshot of a stream without commits or of revision 0 is refused, and none is kept",
        [157],
        need_a_stream_and_a_revision
    ),
    check!(
        "snapshots.ahead-of-their-stream-are-refused",
        "a snapshot of a revision or a commit number that its stream has not reached is refused with the head, and the one before \
         it stays",
        [157],
        ahead_of_their_stream_are_refused
    ),
    check!(
        "snapshots.up-to-the-limit",
        "the largest declared snapshot is kept byte by byte, one byte more is refused and the one before it stays",
        [159],
        up_to_the_limit
    ),
    check!(
        "snapshots.take-nothing-from-the-stream",
        "keeping a snapshot takes no revision, no commit number and no position, and no append conflicts with it",
        [160],
        take_nothing_from_the_stream
    ),
    check!(
        "snapshots.go-with-their-stream",
        "the snapshot of a deleted stream is gone, and a new one is refused",
        [154],
        go_with_their_stream
    ),
];

/// A snapshot after a commit.
fn after(stream: &StreamId, receipt: &Appended, data: impl Into<Bytes>) -> Snapshot {
    Snapshot {
        stream: stream.clone(),
        revision: receipt.last,
        number: receipt.number,
        commit: receipt.commit,
        schema: 1,
        content_type: ContentType::bytes(),
        data: data.into(),
        taken_at: Timestamp(0),
    }
}

impl Context {
    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<SnapshotPut> {
        self.store().put_snapshot(PutSnapshot { snapshot, deadline: self.deadline() }).await
    }

    pub(super) async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>> {
        self.settle().await;
        self.store().read_snapshot(ReadSnapshot { stream: stream.clone(), deadline: self.deadline() }).await
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<()> {
        self.store().delete_snapshot(DeleteSnapshot { stream: stream.clone(), deadline: self.deadline() }).await
    }

    /// Keeps a snapshot after a new commit of a new stream.
    pub(super) async fn kept_snapshot(&self, stream: &StreamId) -> Result<Snapshot> {
        let receipt = self.append(stream, Expected::Any, 1).await?;
        let snapshot = after(stream, &receipt, format!("state of {stream}"));
        self.put_snapshot(snapshot.clone()).await?;
        Ok(snapshot)
    }
}

async fn the_latest_is_read_back(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    ensure_eq!(context.snapshot(&stream).await?, None, "snapshot of a missing stream");
    let receipt = context.append(&stream, Expected::Any, 3).await?;
    ensure_eq!(context.snapshot(&stream).await?, None, "snapshot of a stream that has none");
    let every_byte: Vec<u8> = (0..=255).chain([0, 0]).collect();
    for data in [every_byte, Vec::new()] {
        let snapshot = Snapshot {
            schema: u32::MAX,
            content_type: ContentType::new("application/x-state; a=\"b\"")?,
            taken_at: Timestamp(-1),
            ..after(&stream, &receipt, data)
        };
        context.put_snapshot(snapshot.clone()).await?;
        ensure_eq!(context.snapshot(&stream).await?, Some(snapshot), "the snapshot");
    }
    Ok(Outcome::Held)
}

async fn an_older_one_replaces_none(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut receipts = Vec::new();
    for _ in 0..3 {
        receipts.push(context.append(&stream, Expected::Any, 2).await?);
    }
    let stored = |put| matches!(put, SnapshotPut::Stored { .. });
    ensure!(stored(context.put_snapshot(after(&stream, &receipts[1], "second")).await?), "the first is not kept");
    let older = context.put_snapshot(after(&stream, &receipts[0], "first")).await?;
    let by = match older {
        SnapshotPut::Superseded { by, .. } => Some(by),
        SnapshotPut::Stored { .. } => None,
    };
    ensure_eq!(by, Some(Revision(4)), "revision of the snapshot that an older one gives way to");
    let data = async || context.snapshot(&stream).await.map(|found| found.map(|one| one.data));
    ensure_eq!(data().await?, Some("second".into()), "snapshot after an older one");
    ensure!(
        stored(context.put_snapshot(after(&stream, &receipts[1], "second again")).await?),
        "an equal one is not kept"
    );
    ensure_eq!(data().await?, Some("second again".into()), "snapshot after one of the same revision");
    ensure!(stored(context.put_snapshot(after(&stream, &receipts[2], "third")).await?), "a newer one is not kept");
    ensure_eq!(data().await?, Some("third".into()), "snapshot after a newer one");
    Ok(Outcome::Held)
}

async fn deleting_one_leaves_others(context: Context) -> Result<Outcome, Broken> {
    let (gone, other) = (context.stream(), context.stream());
    let twin = StreamId::within("twin", gone.name.as_str())?;
    let mut kept = Vec::new();
    for stream in [&gone, &other, &twin] {
        kept.push(context.kept_snapshot(stream).await?);
    }
    for _ in 0..2 {
        context.delete_snapshot(&gone).await?;
        ensure_eq!(context.snapshot(&gone).await?, None, "snapshot after it was deleted");
    }
    for (stream, kept) in [&other, &twin].into_iter().zip(&kept[1..]) {
        ensure_eq!(context.snapshot(stream).await?.as_ref(), Some(kept), "snapshot of {stream:?}");
    }
    ensure_eq!(context.head(&gone).await?.revision, Revision(1), "head after its snapshot was deleted");
    let again = context.kept_snapshot(&gone).await?;
    ensure_eq!(context.snapshot(&gone).await?, Some(again), "snapshot that was kept after one was deleted");
    Ok(Outcome::Held)
}

/// A state that depends on every event and on their order.
fn fold(state: Bytes, page: &StreamPage) -> Bytes {
    let fold = |state: Vec<u8>, event: evstore_api::EventRef<'_>| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&state).update(&event.event.data);
        hasher.finalize().as_bytes().to_vec()
    };
    page.events().fold(state.to_vec(), fold).into()
}

async fn snapshot_and_tail_equal_a_replay(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut seed = context.seed();
    let mut commits = 0;
    for _ in 0..context.rounds(12) {
        let receipt = context.append(&stream, Expected::Any, 1 + seed.below(4) as u32).await?;
        commits += 1;
        // One is there from the first commit on.
        if commits == 1 || seed.chance(40) {
            let state = fold(Bytes::new(), &context.read(&stream).await?);
            context.put_snapshot(after(&stream, &receipt, state)).await?;
        }
        let replayed = fold(Bytes::new(), &context.read(&stream).await?);
        let snapshot = context.snapshot(&stream).await?;
        let snapshot = snapshot.ok_or_else(|| Broken::new("a snapshot that was kept is not there"))?;
        let head = context.head(&stream).await?.revision;
        ensure!(snapshot.revision <= head, "a snapshot of revision {} at head {head}", snapshot.revision);
        // As a repository loads it: from the commit that the snapshot names, whose id has to be the same.
        let from = StreamStart::At(snapshot.revision);
        let mut tail = context.store().read_stream(context.read_request(&stream, from)).await?;
        let named = tail.commits.first().map(|commit| (commit.id, commit.number, commit.last_revision()));
        let wanted = (snapshot.commit, snapshot.number, snapshot.revision);
        ensure_eq!(named, Some(wanted), "the commit that the snapshot names");
        tail.commits.remove(0);
        ensure_eq!(fold(snapshot.data, &tail), replayed, "state by snapshot and tail, and by all events");
        ensure_eq!(tail.direction, Direction::Forward, "direction of the read");
    }
    Ok(Outcome::Held)
}

async fn need_a_stream_and_a_revision(context: Context) -> Result<Outcome, Broken> {
    let (stream, missing) = (context.stream(), context.stream());
    let receipt = context.append(&stream, Expected::Any, 1).await?;
    let result = context.put_snapshot(after(&missing, &receipt, "x")).await;
    ensure_kind!(result, NotFound, "a snapshot of a missing stream");
    let zero = Snapshot { revision: Revision(0), number: CommitNumber(0), ..after(&stream, &receipt, "x") };
    ensure_kind!(context.put_snapshot(zero).await, Invalid, "a snapshot of revision 0");
    for stream in [&stream, &missing] {
        ensure_eq!(context.snapshot(stream).await?, None, "snapshot after a refused one");
    }
    context.settle_lists().await;
    let listed = super::listing::list(&context, &**context.store(), &context.own_streams()).await?;
    ensure_eq!(listed.len(), 1, "streams after a refused snapshot of a missing one");
    Ok(Outcome::Held)
}

async fn ahead_of_their_stream_are_refused(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let first = context.append(&stream, Expected::Any, 2).await?;
    let last = context.append(&stream, Expected::Any, 2).await?;
    let kept = after(&stream, &first, "kept");
    context.put_snapshot(kept.clone()).await?;
    let at_head = after(&stream, &last, "at the head");
    // As from a stream that has lost its last commit, or from a writer that counted wrong.
    let ahead = [
        ("revision", Snapshot { revision: last.last.next(), ..at_head.clone() }),
        ("commit number", Snapshot { number: last.number.next(), ..at_head.clone() }),
        ("commit", Snapshot { revision: last.last.next(), number: last.number.next(), ..at_head.clone() }),
    ];
    for (what, snapshot) in ahead {
        let error = ensure_kind!(context.put_snapshot(snapshot).await, Conflict, "a snapshot of a {what} to come");
        let head = error.head().map(|head| (head.revision, head.number));
        ensure_eq!(head, Some((last.last, last.number)), "head that a snapshot of a {what} to come conflicts with");
        ensure_eq!(context.snapshot(&stream).await?.as_ref(), Some(&kept), "snapshot after one of a {what} to come");
    }
    context.put_snapshot(at_head.clone()).await?;
    ensure_eq!(context.snapshot(&stream).await?, Some(at_head), "snapshot of the head");
    Ok(Outcome::Held)
}

async fn up_to_the_limit(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let first = context.append(&stream, Expected::Any, 1).await?;
    let Limit::Max(max) = context.capabilities().limits.snapshot_bytes else {
        let large = after(&stream, &first, super::payload::incompressible(&context, super::payload::STATE_BEYOND));
        context.put_snapshot(large.clone()).await?;
        let kept = context.snapshot(&stream).await?;
        ensure!(
            kept == Some(large),
            "a snapshot of 5 MiB is read otherwise than it was kept, and no limit is declared"
        );
        return Ok(Outcome::Held);
    };
    let second = context.append(&stream, Expected::Any, 1).await?;
    let largest = super::payload::incompressible(&context, max as usize);
    context.put_snapshot(after(&stream, &first, largest.clone())).await?;
    let kept = context.snapshot(&stream).await?.map(|one| one.data);
    ensure!(kept.as_ref() == Some(&largest), "the largest snapshot is read with other bytes than were kept");
    let larger = super::payload::incompressible(&context, max as usize + 1);
    ensure_kind!(
        context.put_snapshot(after(&stream, &second, larger)).await,
        TooLarge,
        "a snapshot of one byte too much"
    );
    let kept = context.snapshot(&stream).await?.map(|one| one.revision);
    ensure_eq!(kept, Some(first.last), "revision of the snapshot after a refused one");
    Ok(Outcome::Held)
}

async fn take_nothing_from_the_stream(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut head = context.append(&stream, Expected::Any, 1).await?;
    for _ in 0..3 {
        let before = context.head(&stream).await?;
        context.put_snapshot(after(&stream, &head, "state")).await?;
        ensure_eq!(context.head(&stream).await?, before, "head after a snapshot was kept");
        let next = context.append(&stream, Expected::At(head.last), 1).await?;
        ensure_eq!((next.first, next.number), (head.last.next(), head.number.next()), "numbers after a snapshot");
        head = next;
    }
    let pages = context.feed_of_own_streams(4).await?;
    let items: Vec<_> = pages.iter().flat_map(|page| page.commits()).map(|commit| commit.number.0).collect();
    ensure_eq!(items, [1, 2, 3, 4], "commits of the stream in the feed");
    let page = context.read(&stream).await?;
    ensure_eq!(page.commits.len(), 4, "commits of the stream");
    Ok(Outcome::Held)
}

async fn go_with_their_stream(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (gone, kept) = (context.stream(), context.stream());
    let snapshot = context.kept_snapshot(&gone).await?;
    let other = context.kept_snapshot(&kept).await?;
    let (commit, deadline) = (context.commit_id(), context.deadline());
    context.admin().delete(Delete { stream: gone.clone(), expected: Expected::Any, commit, deadline }).await?;
    ensure_eq!(context.snapshot(&gone).await?, None, "snapshot of a deleted stream");
    ensure_kind!(context.put_snapshot(snapshot).await, Gone, "a snapshot of a deleted stream");
    ensure_eq!(context.snapshot(&kept).await?, Some(other), "snapshot of another stream");
    Ok(Outcome::Held)
}
