//! Whether a feed that stands still is told from one that has nothing to do: property 189.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq};
use crate::context::Context;
use evstore_api::capabilities::Positioned;
use evstore_api::{Append, EventStore, Expected, FeedFilter, FeedStart, Lag, Result};
use std::time::Duration;

pub(crate) const CHECKS: &[Check] = &[check!(
    "health.a-stuck-feed-is-told-from-an-idle-one",
    "a feed that lacks an acknowledged commit says that it is behind, and one that has all never does, however long it idles",
    [103, 189],
    a_stuck_feed_is_told_from_an_idle_one
)];

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

/// How many events the feed has now.
async fn events(context: &Context, store: &dyn EventStore) -> Result<usize> {
    let pages = context.feed_until(store, FeedStart::First, FeedFilter::none(), 0).await?;
    Ok(pages.iter().flat_map(|page| page.events()).count())
}
