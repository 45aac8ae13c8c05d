//! Times: properties 172 to 176.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq};
use crate::context::Context;
use evstore_api::{Clock, Expected, NewEvent, StreamId, SystemClock, Timestamp};
use std::time::Duration;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "time.the-callers-time-is-kept",
        "the time that a caller gives an event comes back to the microsecond, also far from now, and none stays none",
        [172, 173, 175, 176],
        the_callers_time_is_kept
    ),
    check!(
        "time.recorded-times-never-fall",
        "the recorded times of a stream's commits never fall, from whichever client they come",
        [174],
        recorded_times_never_fall
    ),
    check!(
        "time.recorded-times-agree-everywhere",
        "a commit has one recorded time, at the declared precision, on its receipt and on every way of reading it",
        [172],
        recorded_times_agree_everywhere
    ),
    check!(
        "time.recorded-times-are-of-now",
        "recorded times count microseconds since 1970 in UTC, within a day of the caller's clock",
        [172, 173],
        recorded_times_are_of_now
    ),
];

/// Times at which clocks, calendars and number formats end, and a few between.
const TIMES: [i64; 13] = [
    i64::MIN,
    -62_135_596_800_000_000, // year 1
    -2_208_988_800_000_000,  // 1900
    -1,
    0,
    1,
    999,
    1_000,
    2_147_483_647_999_999, // 2038
    2_147_483_648_000_000,
    253_402_300_799_999_999, // the end of year 9999
    253_402_300_800_000_000,
    i64::MAX,
];

async fn the_callers_time_is_kept(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let times: Vec<_> = TIMES.into_iter().map(|time| Some(Timestamp(time))).chain([None]).collect();
    let events = times.iter().map(|&occurred_at| NewEvent { occurred_at, ..context.event() });
    context.append_events(&stream, Expected::Any, events.collect()).await?;
    let found: Vec<_> = context.read(&stream).await?.events().map(|one| one.event.occurred_at).collect();
    ensure_eq!(found, times, "times in the stream");
    let pages = context.feed_of_own_streams(times.len()).await?;
    let found: Vec<_> = pages.iter().flat_map(|page| page.events()).map(|one| one.event.occurred_at).collect();
    ensure_eq!(found, times, "times in the feed");
    Ok(Outcome::Held)
}

async fn recorded_times_never_fall(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let other = context.another_client().await?;
    for round in 0..context.rounds(20) {
        let client = if round % 2 == 0 { context.store() } else { &other };
        client.append(context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?).await?;
    }
    other.close().await?;
    let page = context.read(&stream).await?;
    ensure_eq!(page.commits.len() as u64, context.rounds(20), "commits of the stream");
    let times: Vec<_> = page.commits.iter().map(|commit| commit.recorded_at).collect();
    ensure!(times.is_sorted(), "recorded times of a stream fall: {times:?}");
    ensure_eq!(page.head.recorded_at, times.last().copied(), "time of the head");
    ensure_as_precise(&context, &times)?;
    Ok(Outcome::Held)
}

/// Times that are kept to ten times less than is declared would all be multiples of that. Ten times a long one may be longer
/// than the check, so that all of its times could be.
fn ensure_as_precise(context: &Context, times: &[Timestamp]) -> Result<(), Broken> {
    let declared = context.capabilities().time_precision;
    let coarse = 10 * declared.as_micros() as i64;
    let tells = times.len() >= 20 && declared <= Duration::from_millis(1);
    let all = times.iter().all(|time| time.0 % coarse == 0);
    ensure!(!(tells && all), "times are declared to {declared:?}, and all are multiples of {coarse} µs");
    Ok(())
}

async fn recorded_times_agree_everywhere(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    // Several, so that a time that happens to be round shows nothing by luck.
    for _ in 0..5 {
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(1))?;
        let receipt = context.store().append(request.clone()).await?;
        let wanted = Some(receipt.recorded_at);
        let repeat = context.store().append(request).await?;
        let found = context.find(&stream, receipt.commit).await?.map(|found| found.recorded_at);
        let read = context.read(&stream).await?.commits.last().map(|commit| commit.recorded_at);
        let ways = [
            ("a repeat", Some(repeat.recorded_at)),
            ("its id", found),
            ("the stream", read),
            ("the head", context.head(&stream).await?.recorded_at),
            ("the feed", in_feed(&context, &stream, receipt.last.0 as usize).await?),
        ];
        for (way, found) in ways {
            ensure_eq!(found, wanted, "recorded time by {way}");
        }
        let precision = context.capabilities().time_precision.as_micros() as i64;
        ensure!(precision > 0, "the declared precision of times is nothing");
        ensure_eq!(receipt.recorded_at.0 % precision, 0, "part of a recorded time below the declared precision");
    }
    Ok(Outcome::Held)
}

async fn in_feed(context: &Context, stream: &StreamId, count: usize) -> evstore_api::Result<Option<Timestamp>> {
    let pages = context.feed_of_own_streams(count).await?;
    let commits = pages.iter().flat_map(|page| page.commits()).filter(|commit| commit.stream == *stream);
    Ok(commits.last().map(|commit| commit.recorded_at))
}

/// Further apart than any two clocks that are set at all, and far closer than another unit or epoch would be.
const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

async fn recorded_times_are_of_now(context: Context) -> Result<Outcome, Broken> {
    let now = SystemClock.now().0;
    let receipt = context.append(&context.stream(), Expected::Any, 1).await?;
    let recorded = receipt.recorded_at.0;
    ensure!((recorded - now).abs() < DAY_MICROS, "recorded at {recorded}, and the caller's clock says {now}");
    Ok(Outcome::Held)
}
