//! The feed by category and type: properties 104 to 107, 109.

use super::deletion::deleting;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq};
use crate::context::{Context, event_type};
use evstore_api::{
    Append, Category, Commit, Delete, EventType, Events, Expected, FeedFilter, FeedItem, FeedPage, FeedStart,
    NewCommit, NewEvent, ReadFeed, Revision, StreamId, Truncate,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "filters.categories-are-whole-names",
        "the feed of a category has the streams of exactly that name before the first hyphen, not those it begins or is like",
        [104, 105],
        categories_are_whole_names
    ),
    check!(
        "filters.any-of-several-passes",
        "several categories or types let pass what any of them names, both together what both name, and none everything",
        [104, 106],
        any_of_several_passes
    ),
    check!(
        "filters.a-filtered-commit-keeps-its-frame",
        "a commit of which only some events pass keeps its numbers, positions, count and digest",
        [106],
        a_filtered_commit_keeps_its_frame
    ),
    check!(
        "filters.the-limit-counts-what-passes",
        "pages of a filtered feed hold no more events than asked, and one after the other every event that passes once",
        [104, 107],
        the_limit_counts_what_passes
    ),
    check!(
        "filters.nothing-that-passes-is-an-end",
        "a filter that nothing passes reaches the end of the feed in bounded pages, and goes on from there",
        [106],
        nothing_that_passes_is_an_end
    ),
    check!(
        "filters.markers-pass-with-their-stream",
        "markers pass a filter by category and none by type, and removed positions pass only where nothing is filtered",
        [104],
        markers_pass_with_their_stream
    ),
];

/// A category that begins with this check's own.
fn category(context: &Context, end: &str) -> Category {
    Category::new(format!("{}{end}", context.category())).expect("it is short and has no control character")
}

fn stream_of(category: &Category, key: &str) -> StreamId {
    StreamId::new(format!("{category}-{key}")).expect("it is short and has no control character")
}

fn of_categories(categories: &[&Category]) -> FeedFilter {
    FeedFilter { categories: categories.iter().map(|&one| one.clone()).collect(), ..FeedFilter::none() }
}

/// Streams and revisions of what pages hold.
fn seen(pages: &[FeedPage]) -> Vec<(StreamId, u64)> {
    pages.iter().flat_map(|page| page.events()).map(|one| (one.stream().clone(), one.revision().0)).collect()
}

async fn feed(context: &Context, filter: FeedFilter, count: usize) -> evstore_api::Result<Vec<FeedPage>> {
    context.feed_until(&**context.store(), FeedStart::First, filter, count).await
}

/// Ends of categories that an engine's patterns, orders and escapes could take for one another.
const ENDS: &[&str] =
    &["", "s", "%", "_", "S", "s%", "S_", ".", ":", "/", "$", " ", "é", "e\u{301}", "0", "\u{10ffff}", "'"];

async fn categories_are_whole_names(context: Context) -> Result<Outcome, Broken> {
    let categories: Vec<_> = ENDS.iter().map(|end| category(&context, end)).collect();
    for category in &categories {
        for key in ["1", "", "1-2", "-"] {
            context.append(&stream_of(category, key), Expected::NoStream, 1).await?;
        }
    }
    // A name without a hyphen is all category.
    let bare = StreamId::new(category(&context, "bare").as_str())?;
    context.append(&bare, Expected::NoStream, 1).await?;
    for category in &categories {
        let mut found = seen(&feed(&context, of_categories(&[category]), 4).await?);
        let mut wanted: Vec<_> = ["1", "", "1-2", "-"].iter().map(|key| (stream_of(category, key), 1)).collect();
        // Streams have an order among themselves only in a feed that is one.
        found.sort();
        wanted.sort();
        ensure_eq!(found, wanted, "feed of the category {:?}", category.as_str());
    }
    let found = seen(&feed(&context, of_categories(&[&category(&context, "bare")]), 1).await?);
    ensure_eq!(found, [(bare, 1)], "feed of a category of one name without a hyphen");
    Ok(Outcome::Held)
}

async fn any_of_several_passes(context: Context) -> Result<Outcome, Broken> {
    // Each could be taken for another by a pattern, a prefix or a comparison that folds case.
    let types = ["Placed", "Paid", "placed", "PaidLate", "Paid%", "Pa_d"].map(event_type);
    let categories = ["a", "b", "c"].map(|end| category(&context, end));
    let mut made = Vec::new();
    for round in 1..=2 {
        for category in &categories {
            let stream = stream_of(category, "1");
            let events = types.iter().map(|event_type| NewEvent::new(event_type.clone(), "x")).collect();
            context.append_events(&stream, Expected::Any, events).await?;
            let first = (round - 1) * types.len() as u64 + 1;
            made.extend(types.iter().zip(first..).map(|(of, revision)| (category.clone(), of.clone(), revision)));
        }
    }
    let unknown = event_type("Unknown");
    let [a, b, c] = &categories;
    for (by_category, by_type) in [
        (vec![a, b, c], vec![]),
        (vec![a, c], vec![]),
        (vec![b], vec![&types[0]]),
        (vec![a, b, c], vec![&types[1], &types[2]]),
        (vec![a, b, c], vec![&types[1]]),
        (vec![a, c], vec![&types[4], &types[5]]),
        (vec![a, b, c], vec![&types[3]]),
        (vec![a, b], vec![&types[0], &unknown]),
        (vec![a, b, c], vec![&unknown]),
    ] {
        let wanted: Vec<_> = made
            .iter()
            .filter(|(category, of, _)| {
                by_category.contains(&category) && (by_type.is_empty() || by_type.contains(&of))
            })
            .map(|(category, _, revision)| (stream_of(category, "1"), *revision))
            .collect();
        let types: Vec<EventType> = by_type.iter().map(|&one| one.clone()).collect();
        let filter = FeedFilter { types, ..of_categories(&by_category) };
        let mut found = seen(&feed(&context, filter, wanted.len()).await?);
        let mut wanted = wanted;
        // Across streams the declared order decides, which is not this check's business.
        found.sort();
        wanted.sort();
        ensure_eq!(found, wanted, "events of categories {by_category:?} and types {by_type:?}");
    }
    Ok(Outcome::Held)
}

async fn a_filtered_commit_keeps_its_frame(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let types = ["Placed", "Paid", "Placed", "Shipped", "Paid"].map(event_type);
    let events = types.iter().map(|one| NewEvent::new(one.clone(), one.as_str().to_owned())).collect();
    let receipt = context.append_events(&stream, Expected::Any, events).await?;
    let whole = context.feed_of_own_streams(5).await?;
    let whole = whole.iter().flat_map(|page| page.commits()).next().cloned();
    let whole = whole.ok_or_else(|| Broken::new("the commit is not in the feed"))?;
    let filter = FeedFilter { types: vec![event_type("Paid")], ..of_categories(&[&context.category()]) };
    let pages = feed(&context, filter, 2).await?;
    let found: Vec<_> = pages.iter().flat_map(|page| page.commits()).cloned().collect();
    let mut wanted = whole.clone();
    wanted.events.retain(|event| event.event_type == types[1]);
    ensure_eq!(found, [wanted], "the commit, filtered");
    let frame = |commit: &Commit| (commit.id, commit.number, commit.count, commit.digest, commit.recorded_at);
    ensure_eq!(
        frame(&whole),
        (receipt.commit, receipt.number, 5, receipt.digest, receipt.recorded_at),
        "the commit, unfiltered"
    );
    let revisions: Vec<_> = found[0].events().map(|one| one.revision().0).collect();
    ensure_eq!(revisions, [2, 5], "revisions of the events that pass");
    Ok(Outcome::Held)
}

async fn the_limit_counts_what_passes(context: Context) -> Result<Outcome, Broken> {
    let (wanted, other) = (category(&context, "w"), category(&context, "o"));
    let paid = event_type("Paid");
    let mut made = Vec::new();
    for number in 0..30_u64 {
        // Mostly what does not pass, in runs of different lengths.
        let stream = stream_of(if number % 3 == 0 { &wanted } else { &other }, "1");
        let events = (0..3).map(|place| {
            let name = if (number + place) % 2 == 0 { paid.clone() } else { event_type("Placed") };
            NewEvent::new(name, "x")
        });
        let receipt = context.append_events(&stream, Expected::Any, events.collect()).await?;
        if stream == stream_of(&wanted, "1") {
            made.extend((0..3).filter(|place| (number + place) % 2 == 0).map(|place| receipt.first.0 + place));
        }
    }
    let filter = FeedFilter { types: vec![paid], ..of_categories(&[&wanted]) };
    // Behind this everything is in the feed.
    feed(&context, filter.clone(), made.len()).await?;
    for limit in [1, 2, 3, 4, made.len() as u32] {
        let (mut from, mut found) = (FeedStart::First, Vec::new());
        loop {
            let request = ReadFeed { limit, ..context.feed_request(from, filter.clone()) };
            let page = context.store().read_feed(request).await?;
            let events = page.events().count();
            let fits = events <= limit as usize || page.commits().count() == 1;
            ensure!(fits, "a page of {events} events in {} commits, {limit} were asked", page.commits().count());
            found.extend(page.events().map(|one| one.revision().0));
            if page.end {
                break;
            }
            from = FeedStart::After(page.next);
        }
        ensure_eq!(found, made, "revisions that passed, in pages of {limit}");
    }
    Ok(Outcome::Held)
}

/// More pages than a check's store can have.
const PAGES_MAX: usize = 1_000;

async fn nothing_that_passes_is_an_end(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    for _ in 0..20 {
        context.append(&stream, Expected::Any, 2).await?;
    }
    context.feed_of_own_streams(40).await?;
    let of_none = category(&context, "none");
    let nothing = of_categories(&[&of_none]);
    let (mut from, mut pages) = (FeedStart::First, 0);
    let end = loop {
        let request = ReadFeed { limit: 1, ..context.feed_request(from.clone(), nothing.clone()) };
        let page = context.store().read_feed(request).await?;
        pages += 1;
        ensure_eq!(page.items.len(), 0, "items of a page that nothing passes");
        if page.end {
            break page.next;
        }
        ensure!(from != FeedStart::After(page.next.clone()), "a page goes on where it began: {}", page.next);
        ensure!(pages < PAGES_MAX, "a filter that nothing passes did not reach the end in {pages} pages");
        from = FeedStart::After(page.next);
    };
    // What comes later and passes is found from there, and only that.
    let late = stream_of(&of_none, "1");
    context.append(&late, Expected::Any, 1).await?;
    let later = context.feed_until(&**context.store(), FeedStart::After(end.clone()), nothing, 1).await?;
    ensure_eq!(seen(&later), [(late, 1)], "events after the end of a feed that nothing passed");
    let own = of_categories(&[&context.category()]);
    let skipped = context.store().read_feed(context.feed_request(FeedStart::After(end), own)).await?;
    ensure_eq!(skipped.events().count(), 0, "events of another filter after the end that was reached");
    Ok(Outcome::Held)
}

async fn markers_pass_with_their_stream(context: Context) -> Result<Outcome, Broken> {
    deleting!(context);
    let fresh = context.fresh().await?;
    let (kept, gone) = (category(&context, "k"), category(&context, "g"));
    for (category, count) in [(&kept, 2), (&gone, 3)] {
        let commit = NewCommit { id: context.commit_id(), events: Events::new(context.events(count))? };
        let stream = stream_of(category, "1");
        let request = Append { stream, expected: Expected::Any, commit, deadline: context.deadline() };
        fresh.store.append(request).await?;
    }
    let (stream, before, deadline) = (stream_of(&kept, "1"), Revision(3), context.deadline());
    fresh.admin.truncate(Truncate { stream, commit: context.commit_id(), before, deadline }).await?;
    let (stream, expected, commit) = (stream_of(&gone, "1"), Expected::Any, context.commit_id());
    fresh.admin.delete(Delete { stream, expected, commit, deadline }).await?;
    let items = async |filter: FeedFilter| {
        fresh.admin.advance_feed(evstore_api::AdvanceFeed { deadline: context.deadline() }).await?;
        let pages = context.feed_until(&*fresh.store, FeedStart::First, filter, 0).await?;
        let names = pages.iter().flat_map(|page| &page.items).map(|item| match item {
            FeedItem::Commit(commit) if commit.kind.is_marker() => format!("marker of {}", commit.stream),
            FeedItem::Commit(commit) => format!("events of {}", commit.stream),
            FeedItem::Removed { .. } => "removed".to_owned(),
        });
        Ok::<Vec<String>, Broken>(names.collect())
    };
    let (kept_marker, gone_marker) = (format!("marker of {kept}-1"), format!("marker of {gone}-1"));
    let tried = FeedFilter { types: vec![event_type("Tried")], ..FeedFilter::none() };
    ensure_eq!(
        items(of_categories(&[&kept])).await?,
        std::slice::from_ref(&kept_marker),
        "items of the truncated stream's category"
    );
    ensure_eq!(
        items(of_categories(&[&gone])).await?,
        std::slice::from_ref(&gone_marker),
        "items of the deleted stream's category"
    );
    ensure_eq!(items(tried).await?, Vec::<String>::new(), "items of a type");
    let mut all = items(FeedFilter::none()).await?;
    all.retain(|item| item != "removed");
    all.sort();
    let mut wanted = vec![kept_marker, gone_marker];
    wanted.sort();
    ensure_eq!(all, wanted, "markers where nothing is filtered");
    Ok(Outcome::Held)
}
