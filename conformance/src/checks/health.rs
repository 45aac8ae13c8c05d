//! Whether a feed that stands still is told from one that has nothing to do (property 189), and whether an operator can look
//! at a store's health without changing it.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq};
use crate::context::Context;
use evstore_api::capabilities::Positioned;
use evstore_api::{Append, EventStore, Expected, FeedFilter, FeedStart, Finding, Lag, Result, Severity};
use std::time::Duration;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "health.a-stuck-feed-is-told-from-an-idle-one",
        "a feed that lacks an acknowledged commit says that it is behind, and one that has all never does, however long it idles",
        [103, 189],
        a_stuck_feed_is_told_from_an_idle_one
    ),
    check!(
        "health.an-examination-changes-nothing",
        "an examination of a store that works finds no problem, says what to do about each warning, and leaves everything as it was",
        [189],
        an_examination_changes_nothing
    ),
];

/// Long enough for a clock that runs without reason to show.
const IDLE: Duration = Duration::from_millis(20);

async fn a_stuck_feed_is_told_from_an_idle_one(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let store = &*fresh.store;
    let stream = context.stream();
    for round in 1..=5 {
        let request: Append = context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
        store.append(request).await?;
        // Asked first: what was behind then may be there by now, and what was not behind has to be.
        let lag = store.feed_head(context.deadline()).await?.lag;
        let there = events(&context, store).await?;
        ensure!(
            lag.commits > 0 || there == round,
            "the feed lacks {} of {round} events and says that it is not behind",
            round - there
        );
        if let Positioned::ByAppend = context.capabilities().positioned {
            ensure_eq!(lag.commits, 0, "commits that a feed is behind whose appends order it");
        }
    }
    let pages = context.feed_until(store, FeedStart::First, FeedFilter::none(), 5).await?;
    ensure_eq!(pages.iter().flat_map(|page| page.events()).count(), 5, "events of the feed");
    let lag = async || Ok::<_, Broken>(store.feed_head(context.deadline()).await?.lag);
    let caught_up = Lag { commits: 0, age: Duration::ZERO };
    for _ in 0..2 {
        ensure_eq!(lag().await?, caught_up, "lag of a feed that has everything");
        tokio::time::sleep(IDLE).await;
    }
    ensure_eq!(lag().await?, caught_up, "lag of a feed that has idled");
    Ok(Outcome::Held)
}

async fn an_examination_changes_nothing(context: Context) -> Result<Outcome, Broken> {
    let fresh = context.fresh().await?;
    let stream = context.stream();
    let request: Append = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
    fresh.store.append(request).await?;
    context.feed_until(&*fresh.store, FeedStart::First, FeedFilter::none(), 2).await?;
    let state = async || -> Result<_, Broken> {
        let meta = fresh.admin.read_meta(context.deadline()).await?;
        let end = fresh.store.feed_head(context.deadline()).await?;
        Ok((meta, end.position, end.lag, context.read_from(&*fresh.store, &stream).await?.events().count()))
    };
    let before = state().await?;
    ensure_eq!(before.3, 2, "events of the stream before the store is examined");
    for finding in fresh.admin.examine(context.deadline()).await? {
        let Finding { severity, about, found, mending } = finding;
        ensure!(severity != Severity::Problem, "a problem of a store that works: {about}: {found}");
        ensure!(!about.is_empty() && !found.is_empty(), "a finding says nothing: {about:?}: {found:?}");
        ensure_eq!(
            mending.is_empty(),
            severity == Severity::Fine,
            "nothing to do, exactly where all is fine ({about})"
        );
    }
    ensure_eq!(state().await?, before, "the store after it was examined");
    Ok(Outcome::Held)
}

/// How many events the feed has now.
async fn events(context: &Context, store: &dyn EventStore) -> Result<usize> {
    let pages = context.feed_until(store, FeedStart::First, FeedFilter::none(), 0).await?;
    Ok(pages.iter().flat_map(|page| page.events()).count())
}
