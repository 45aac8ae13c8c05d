//! Namespaces, and stores beside each other: properties 177 to 181.

use super::deletion::deleting;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh};
use evstore_api::record::RecordExpected;
use evstore_api::{
    Append, Delete, Expected, FeedFilter, FeedStart, FindCommit, Head, ListRecords, ListStreams, Namespace,
    NamespaceFilter, PutRecord, PutSnapshot, ReadHead, ReadRecord, ReadSnapshot, RecordKey, RecordKind, RecordName,
    Revision, Snapshot, StreamId, StreamState,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "tenancy.namespaces-are-independent",
        "streams of one name in different namespaces share no event, head, commit id or snapshot",
        [177],
        namespaces_are_independent
    ),
    check!(
        "tenancy.every-namespace-is-its-own",
        "namespaces that look alike, hold wildcards, or join with a name to the same text are different",
        [177, 178],
        every_namespace_is_its_own
    ),
    check!(
        "tenancy.feed-and-list-by-namespace-and-whole",
        "the feed and the list of a namespace have its streams only, and those of the store have all",
        [180],
        feed_and_list_by_namespace_and_whole
    ),
    check!(
        "tenancy.deleting-in-one-namespace-leaves-others",
        "deleting every stream of one namespace leaves those of the same names in others as they are",
        [179],
        deleting_in_one_namespace_leaves_others
    ),
    check!(
        "tenancy.two-stores-share-nothing",
        "two stores beside each other share no stream, commit, snapshot, record or cursor",
        [181],
        two_stores_share_nothing
    ),
    check!(
        "tenancy.stores-of-like-names-share-nothing",
        "two stores of which the name of one begins that of the other share nothing, and dropping one leaves the other",
        [179, 181],
        stores_of_like_names_share_nothing
    ),
];

async fn namespaces_are_independent(context: Context) -> Result<Outcome, Broken> {
    let name = context.stream().name;
    let streams = ["", "a", "b"].map(|namespace| StreamId::within(namespace, name.as_str()));
    let id = context.commit_id();
    for (stream, count) in streams.iter().zip(1..) {
        let stream = stream.as_ref().map_err(|error| Broken::new(format!("{error:?}")))?;
        let request = context.request(stream, Expected::NoStream, id, context.events(count))?;
        let receipt = context.store().append(request).await?;
        ensure_eq!((receipt.repeated, receipt.last), (false, Revision(count.into())), "receipt in {stream:?}");
    }
    for (stream, count) in streams.into_iter().zip(1..) {
        let stream = stream?;
        let page = context.read(&stream).await?;
        ensure_eq!((page.head.revision.0, page.events().count() as u64), (count, count), "events of {stream:?}");
        ensure_eq!(page.commits[0].stream, stream, "stream of what was read");
        let found = context.find(&stream, id).await?.map(|receipt| receipt.last.0);
        ensure_eq!(found, Some(count), "the commit that is found in {stream:?}");
        ensure_eq!(context.snapshot(&stream).await?, None, "snapshot of {stream:?}, before it has one");
        let kept = context.kept_snapshot(&stream).await?;
        ensure_eq!(context.snapshot(&stream).await?, Some(kept), "snapshot of {stream:?}");
    }
    Ok(Outcome::Held)
}

async fn every_namespace_is_its_own(context: Context) -> Result<Outcome, Broken> {
    let category = context.category();
    let mut streams = Vec::new();
    let alike = [
        "",
        "a",
        "A",
        "a ",
        " a",
        "%",
        "a%",
        "_",
        "a_",
        "*",
        "a*",
        "?",
        "a:",
        ":a",
        "a::",
        "a/",
        "/",
        "a-",
        "-",
        "..",
        "é",
        "e\u{301}",
        "🦀",
        "\u{10ffff}",
        "'",
        "\\",
        "a.b",
        "a$",
        "#",
        "{a}",
        "null",
        "0",
        "00",
    ];
    for namespace in alike {
        streams.push(StreamId::within(namespace, format!("{category}-1"))?);
    }
    streams.push(StreamId::within("n".repeat(evstore_api::name::NAMESPACE_BYTES_MAX), format!("{category}-1"))?);
    // Different parts that join to one text, with whatever sign stands between.
    for sign in ["", ":", "::", "/", "-", "#", "|", "\\", ".", " "] {
        streams.push(StreamId::within("x", format!("{sign}{category}-1"))?);
        streams.push(StreamId::within(format!("x{sign}"), format!("{category}-1"))?);
    }
    streams.sort();
    streams.dedup();
    for stream in &streams {
        let made = context.append(stream, Expected::NoStream, 1).await;
        made.map_err(|error| Broken::new(format!("the first append to {stream:?} failed: {error:?}")))?;
    }
    for stream in &streams {
        let page = context.read(stream).await?;
        ensure_eq!((page.head.revision.0, page.events().count()), (1, 1), "head and events of {stream:?}");
        ensure_eq!(&page.commits[0].stream, stream, "stream of what was read");
        context.settle_lists().await;
        let namespace = NamespaceFilter::One(stream.namespace.clone());
        let prefix = stream.name.to_string();
        let request = ListStreams { namespace, category: None, prefix, ..context.own_streams() };
        let listed = super::listing::list(&context, &**context.store(), &request).await?;
        let listed: Vec<_> = listed.into_iter().map(|one| one.stream).collect();
        ensure_eq!(listed, std::slice::from_ref(stream), "list of the namespace {:?}", stream.namespace.as_str());
    }
    Ok(Outcome::Held)
}

async fn feed_and_list_by_namespace_and_whole(context: Context) -> Result<Outcome, Broken> {
    let name = context.stream().name;
    // Named after the check, so that its namespaces are its own too.
    let spaces = ["", "%", "x"].map(|end| format!("{}{end}", context.category()));
    for _ in 0..2 {
        for space in &spaces {
            context.append(&StreamId::within(space, name.as_str())?, Expected::Any, 1).await?;
        }
    }
    context.settle_lists().await;
    for space in &spaces {
        let namespace = NamespaceFilter::One(Namespace::new(space)?);
        let filter = FeedFilter { namespace: namespace.clone(), ..FeedFilter::none() };
        let pages = context.feed_until(&**context.store(), FeedStart::First, filter, 2).await?;
        let stream = StreamId::within(space, name.as_str())?;
        let found: Vec<_> =
            pages.iter().flat_map(|page| page.events()).map(|one| (one.stream().clone(), one.revision().0)).collect();
        ensure_eq!(found, [(stream.clone(), 1), (stream.clone(), 2)], "feed of the namespace {space:?}");
        let request = ListStreams { namespace, category: None, ..context.own_streams() };
        let listed = super::listing::list(&context, &**context.store(), &request).await?;
        let listed: Vec<_> = listed.into_iter().map(|one| one.stream).collect();
        ensure_eq!(listed, [stream], "list of the namespace {space:?}");
    }
    let pages = context.feed_of_own_streams(6).await?;
    ensure_eq!(pages.iter().flat_map(|page| page.events()).count(), 6, "events of all namespaces in the feed");
    let listed = super::listing::list(&context, &**context.store(), &context.own_streams()).await?;
    ensure_eq!(listed.len(), 3, "streams of all namespaces in the list");
    Ok(Outcome::Held)
}

async fn deleting_in_one_namespace_leaves_others(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let names = [context.stream().name, context.stream().name];
    let (gone, kept) = (context.category().to_string(), format!("{}%", context.category()));
    for name in &names {
        for space in [&gone, &kept] {
            context.append(&StreamId::within(space, name.as_str())?, Expected::Any, 2).await?;
        }
    }
    for name in &names {
        let (stream, expected) = (StreamId::within(&gone, name.as_str())?, Expected::Any);
        let (commit, deadline) = (context.commit_id(), context.deadline());
        context.admin().delete(Delete { stream, expected, commit, deadline }).await?;
    }
    for name in &names {
        let deleted = context.read(&StreamId::within(&gone, name.as_str())?).await?;
        ensure_eq!((deleted.head.state.clone(), deleted.events().count()), (StreamState::Deleted, 0), "deleted stream");
        let stream = StreamId::within(&kept, name.as_str())?;
        let page = context.read(&stream).await?;
        ensure_eq!(
            (page.head.state.clone(), page.events().count()),
            (StreamState::Open, 2),
            "stream of another namespace"
        );
        context.append(&stream, Expected::At(Revision(2)), 1).await?;
    }
    Ok(Outcome::Held)
}

/// Writes one of everything into a store.
async fn fill(context: &Context, fresh: &Fresh, request: Append, key: &RecordKey) -> Result<Snapshot, Broken> {
    let stream = request.stream.clone();
    let receipt = fresh.store.append(request).await?;
    ensure!(!receipt.repeated, "a commit of another store is taken for a repeat");
    let snapshot = Snapshot {
        stream,
        revision: receipt.last,
        number: receipt.number,
        commit: receipt.commit,
        schema: 1,
        content_type: evstore_api::ContentType::bytes(),
        data: "state".into(),
        taken_at: receipt.recorded_at,
    };
    let deadline = context.deadline();
    fresh.store.put_snapshot(PutSnapshot { snapshot: snapshot.clone(), deadline }).await?;
    let (key, value) = (key.clone(), Some("value".into()));
    fresh.store.put_record(PutRecord { key, expected: RecordExpected::Absent, value, deadline }).await?;
    Ok(snapshot)
}

async fn stores_of_like_names_share_nothing(context: Context) -> Result<Outcome, Broken> {
    let opener = &context.target().provider.opener;
    let stream = context.stream();
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("consumer")? };
    // Either may be the one that is dropped: where one name begins another, and where a longer one is a pattern's match.
    for dropped in 0..2 {
        let stores = [context.fresh_tagged("0").await?, context.fresh_tagged("01").await?];
        for fresh in &stores {
            let request = context.request(&stream, Expected::NoStream, context.commit_id(), context.events(2))?;
            fill(&context, fresh, request, &key).await?;
        }
        for fresh in &stores {
            ensure_has_one_of_everything(&context, fresh, &stream, &key, "beside a store of a like name").await?;
        }
        let [gone, kept] = if dropped == 0 { [&stores[0], &stores[1]] } else { [&stores[1], &stores[0]] };
        gone.close().await?;
        opener.drop_scratch(&gone.settings).await?;
        let again = context.reopened(&kept.settings).await?;
        ensure_has_one_of_everything(&context, &again, &stream, &key, "after a store of a like name was dropped")
            .await?;
        again.close().await?;
        kept.close().await?;
        opener.drop_scratch(&kept.settings).await?;
    }
    Ok(Outcome::Held)
}

/// Ends a check as broken unless a store has what [`fill`] writes, and nothing else.
async fn ensure_has_one_of_everything(
    context: &Context,
    fresh: &Fresh,
    stream: &StreamId,
    key: &RecordKey,
    what: &str,
) -> Result<(), Broken> {
    let (store, deadline) = (&fresh.store, context.deadline());
    ensure_eq!(context.read_from(&**store, stream).await?.events().count(), 2, "events {what}");
    context.settle_lists().await;
    let everything = ListStreams { category: None, ..context.own_streams() };
    let listed: Vec<_> = store.list_streams(everything).await?.streams.into_iter().map(|one| one.stream).collect();
    ensure_eq!(listed, std::slice::from_ref(stream), "streams {what}");
    let records = ListRecords { kind: RecordKind::Checkpoint, after: None, limit: 10, deadline };
    let found: Vec<_> = store.list_records(records).await?.records.into_iter().map(|record| record.key).collect();
    ensure_eq!(found, std::slice::from_ref(key), "records {what}");
    let snapshot = store.read_snapshot(ReadSnapshot { stream: stream.clone(), deadline }).await?;
    ensure_eq!(snapshot.map(|one| one.data), Some("state".into()), "snapshot {what}");
    let pages = context.feed_until(&**store, FeedStart::First, FeedFilter::none(), 2).await?;
    ensure_eq!(pages.iter().flat_map(|page| page.events()).count(), 2, "events of the feed {what}");
    Ok(())
}

async fn two_stores_share_nothing(context: Context) -> Result<Outcome, Broken> {
    let (one, other) = (context.fresh().await?, context.fresh().await?);
    let stream = context.stream();
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("consumer")? };
    let request = context.request(&stream, Expected::NoStream, context.commit_id(), context.events(2))?;
    let (commit, deadline) = (request.commit.id, context.deadline());
    fill(&context, &one, request.clone(), &key).await?;
    context.settle().await;
    let store = &other.store;
    ensure_eq!(
        store.head(ReadHead { stream: stream.clone(), deadline }).await?,
        Head::missing(),
        "head in the other store"
    );
    let found = store.find_commit(FindCommit { stream: stream.clone(), commit, deadline }).await?;
    ensure_eq!(found, None, "commit in the other store");
    let found = store.read_snapshot(ReadSnapshot { stream: stream.clone(), deadline }).await?;
    ensure_eq!(found, None, "snapshot in the other store");
    ensure_eq!(store.read_record(ReadRecord { key: key.clone(), deadline }).await?, None, "record in the other store");
    let records = ListRecords { kind: RecordKind::Checkpoint, after: None, limit: 10, deadline };
    ensure_eq!(store.list_records(records).await?.records, [], "records in the other store");
    let everything = ListStreams { category: None, ..context.own_streams() };
    ensure_eq!(store.list_streams(everything).await?.streams, [], "streams in the other store");
    let page = store.read_feed(context.feed_request(FeedStart::First, FeedFilter::none())).await?;
    ensure_eq!((page.items.len(), page.end), (0, true), "items of the other store's feed");
    let cursor = one.store.feed_head(deadline).await?.cursor;
    let foreign = store.read_feed(context.feed_request(FeedStart::After(cursor), FeedFilter::none())).await;
    ensure_kind!(foreign, CursorRefused, "a cursor of the other store");
    // The same of everything again is the other store's own.
    fill(&context, &other, request, &key).await?;
    let pages = context.feed_until(&**store, FeedStart::First, FeedFilter::none(), 2).await?;
    ensure_eq!(pages.iter().flat_map(|page| page.events()).count(), 2, "events of the other store's feed");
    context.target().provider.opener.drop_scratch(&one.settings).await?;
    let page = context.read_from(&**store, &stream).await?;
    ensure_eq!(page.events().count(), 2, "events of the other store after the first was dropped");
    Ok(Outcome::Held)
}
