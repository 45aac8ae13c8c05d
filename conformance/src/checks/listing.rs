//! The list of streams: properties 108, 109.

use super::deletion::deleting;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::Context;
use evstore_api::{
    Category, Delete, EventStore, Expected, ListStreams, ListedStream, NamespaceFilter, StreamId, StreamState,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "listing.every-stream-is-listed-once",
        "streams are listed once each, in the order of namespace and name, at every length beside a multiple of the page",
        [108],
        every_stream_is_listed_once
    ),
    check!(
        "listing.prefixes-and-categories-are-exact",
        "a list of a prefix or a category has the streams whose names begin so, byte by byte, and no other",
        [105, 108],
        prefixes_and_categories_are_exact
    ),
    check!(
        "listing.heads-are-those-of-the-streams",
        "a listed stream has the head that reading it gives, and a stream that does not exist is not listed",
        [109],
        heads_are_those_of_the_streams
    ),
    check!(
        "listing.a-new-stream-is-listed-as-declared",
        "a new stream and a new head are in the list at once, or within the declared staleness",
        [110],
        a_new_stream_is_listed_as_declared
    ),
    check!(
        "listing.streams-made-meanwhile-disturb-nothing",
        "a list that is read page by page while streams are made has every stream that was there at the start once",
        [108],
        streams_made_meanwhile_disturb_nothing
    ),
    check!(
        "listing.deleted-streams-are-listed-as-deleted",
        "a deleted stream stays in the list, and its head says that it is deleted",
        [108],
        deleted_streams_are_listed_as_deleted
    ),
    check!(
        "listing.pages-are-as-large-as-declared",
        "a page of no stream or of one more than declared is refused; the largest is given",
        [109],
        pages_are_as_large_as_declared
    ),
];

impl Context {
    /// A request for the streams of this check's category.
    pub(super) fn own_streams(&self) -> ListStreams {
        ListStreams {
            namespace: NamespaceFilter::All,
            category: Some(self.category()),
            prefix: String::new(),
            after: None,
            limit: 100,
            deadline: self.deadline(),
        }
    }
}

/// Lists page by page.
pub(super) async fn list(
    context: &Context,
    store: &dyn EventStore,
    request: &ListStreams,
) -> Result<Vec<ListedStream>, Broken> {
    let (mut request, mut streams) = (request.clone(), Vec::new());
    loop {
        request.deadline = context.deadline();
        let page = store.list_streams(request.clone()).await?;
        ensure!(
            page.streams.len() <= request.limit as usize,
            "a page of {} streams, {} were asked",
            page.streams.len(),
            request.limit
        );
        ensure!(!page.streams.is_empty() || page.next.is_none(), "an empty page says to go on after {:?}", page.next);
        streams.extend(page.streams);
        match page.next {
            None => return Ok(streams),
            Some(next) => {
                ensure!(request.after.as_ref() != Some(&next), "a page goes on where it began: {next:?}");
                request.after = Some(next);
            }
        }
    }
}

fn ids(streams: Vec<ListedStream>) -> Vec<StreamId> {
    streams.into_iter().map(|one| one.stream).collect()
}

async fn every_stream_is_listed_once(context: Context) -> Result<Outcome, Broken> {
    let category = context.category();
    let mut made = Vec::new();
    // Made in an order that is not the list's, with names whose order as text differs from that as numbers or by case.
    for key in ["9", "10", "b", "B", "é", "a/b", "a", "a-b", "🦀", "1", "~", "a b"] {
        for namespace in ["", "z", "a"] {
            let stream = StreamId::within(namespace, format!("{category}-{key}"))?;
            context.append(&stream, Expected::NoStream, 1).await?;
            made.push(stream);
        }
    }
    made.sort();
    context.settle_lists().await;
    for limit in [1, 5, 35, 36, 37, 100] {
        let request = ListStreams { limit, ..context.own_streams() };
        let found = ids(list(&context, &**context.store(), &request).await?);
        ensure_eq!(found, made, "streams in pages of {limit}");
    }
    Ok(Outcome::Held)
}

async fn prefixes_and_categories_are_exact(context: Context) -> Result<Outcome, Broken> {
    let own = context.category();
    let mut made = Vec::new();
    let ends = [
        "-1",
        "-10",
        "-2",
        "-%",
        "-_",
        "-a",
        "-A",
        "-é",
        "-e\u{301}",
        "-\u{10ffff}",
        "-\u{10ffff}x",
        "-\\",
        "s-1",
        "%-1",
        "-'",
    ];
    for end in ends {
        let stream = StreamId::new(format!("{own}{end}"))?;
        context.append(&stream, Expected::NoStream, 1).await?;
        made.push(stream);
    }
    made.sort();
    context.settle_lists().await;
    for end in ["", "-", "-1", "-%", "-_", "-a", "-e", "-é", "-\u{10ffff}", "-\\", "s", "%", "_", "-nothing", "-'"] {
        let prefix = format!("{own}{end}");
        let wanted: Vec<_> = made.iter().filter(|one| one.name.as_str().starts_with(&prefix)).cloned().collect();
        let request = ListStreams { category: None, prefix: prefix.clone(), limit: 3, ..context.own_streams() };
        let found = ids(list(&context, &**context.store(), &request).await?);
        ensure_eq!(found, wanted, "streams whose names begin with {prefix:?}");
    }
    for end in ["", "s", "%", "_", "x"] {
        let category = Category::new(format!("{own}{end}"))?;
        let wanted: Vec<_> = made.iter().filter(|one| one.name.category() == category).cloned().collect();
        let request = ListStreams { category: Some(category.clone()), limit: 3, ..context.own_streams() };
        let found = ids(list(&context, &**context.store(), &request).await?);
        ensure_eq!(found, wanted, "streams of the category {:?}", category.as_str());
    }
    let request = ListStreams { prefix: format!("{own}-1"), ..context.own_streams() };
    ensure_eq!(ids(list(&context, &**context.store(), &request).await?).len(), 2, "streams of a category and a prefix");
    Ok(Outcome::Held)
}

async fn heads_are_those_of_the_streams(context: Context) -> Result<Outcome, Broken> {
    let (one, many, missing) = (context.stream(), context.stream(), context.stream());
    context.append(&one, Expected::Any, 1).await?;
    for count in [3, 1] {
        context.append(&many, Expected::Any, count).await?;
    }
    context.settle_lists().await;
    let listed = list(&context, &**context.store(), &context.own_streams()).await?;
    ensure_eq!(listed.len(), 2, "streams in the list");
    for ListedStream { stream, head } in listed {
        ensure!(stream != missing, "a stream that does not exist is listed");
        ensure_eq!(head, context.head(&stream).await?, "head in the list, and by reading it");
        ensure_eq!(context.read(&stream).await?.events().count() as u64, head.revision.0, "events and head");
    }
    Ok(Outcome::Held)
}

async fn a_new_stream_is_listed_as_declared(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    let mut made = Vec::new();
    for round in 1..=context.rounds(10) {
        let stream = context.stream();
        context.append(&stream, Expected::Any, 1).await?;
        context.append(&stream, Expected::Any, 1).await?;
        made.push((stream, 2));
        made.sort();
        for (client, name) in [(context.store(), "the same client"), (&other, "another client")] {
            context.settle_lists().await;
            let listed = list(&context, &**client, &context.own_streams()).await?;
            let listed: Vec<_> = listed.into_iter().map(|one| (one.stream, one.head.revision.0)).collect();
            ensure_eq!(listed, made, "streams and heads that {name} lists after {round} were made");
        }
    }
    other.close().await?;
    Ok(Outcome::Held)
}

async fn streams_made_meanwhile_disturb_nothing(context: Context) -> Result<Outcome, Broken> {
    let category = context.category();
    let named = |number: u64| StreamId::new(format!("{category}-{number:04}"));
    let mut there = Vec::new();
    for number in (0..30).map(|number| number * 10) {
        context.append(&named(number)?, Expected::NoStream, 1).await?;
        there.push(named(number)?);
    }
    context.settle_lists().await;
    let mut seed = context.seed();
    let mut request = ListStreams { limit: 4, ..context.own_streams() };
    let mut found = Vec::new();
    loop {
        let page = context.store().list_streams(request.clone()).await?;
        found.extend(ids(page.streams));
        let Some(next) = page.next else { break };
        request.after = Some(next);
        // Before, between and behind what was listed already.
        for _ in 0..3 {
            context.append(&named(seed.below(300))?, Expected::Any, 1).await?;
        }
    }
    ensure!(found.windows(2).all(|pair| pair[0] < pair[1]), "streams are listed twice or out of order");
    let lost: Vec<_> = there.iter().filter(|stream| !found.contains(stream)).collect();
    ensure_eq!(lost, Vec::<&StreamId>::new(), "streams that were there at the start and are not listed");
    Ok(Outcome::Held)
}

async fn deleted_streams_are_listed_as_deleted(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let (kept, gone) = (context.stream(), context.stream());
    for stream in [&kept, &gone] {
        context.append(stream, Expected::Any, 2).await?;
    }
    let (commit, deadline) = (context.commit_id(), context.deadline());
    context.admin().delete(Delete { stream: gone.clone(), expected: Expected::Any, commit, deadline }).await?;
    context.settle_lists().await;
    let listed = list(&context, &**context.store(), &context.own_streams()).await?;
    let states: Vec<_> = listed.into_iter().map(|one| (one.stream, one.head.state, one.head.revision.0)).collect();
    ensure_eq!(states, [(kept, StreamState::Open, 2), (gone, StreamState::Deleted, 2)], "listed streams");
    Ok(Outcome::Held)
}

async fn pages_are_as_large_as_declared(context: Context) -> Result<Outcome, Broken> {
    context.append(&context.stream(), Expected::Any, 1).await?;
    context.settle_lists().await;
    let most = context.capabilities().limits.page_items;
    let page = async |limit| context.store().list_streams(ListStreams { limit, ..context.own_streams() }).await;
    ensure_kind!(page(0).await, Invalid, "a page of no stream");
    if let Some(beyond) = most.checked_add(1) {
        ensure_kind!(page(beyond).await, Invalid, "a page of one stream more than declared");
    }
    ensure_eq!(page(most).await?.streams.len(), 1, "streams in the largest page");
    Ok(Outcome::Held)
}
