//! What can be wrong with bytes, fields, limits and times.

use super::Mutant;
use super::defect::{Defect, mutant, with_events};
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::capabilities::Limit;
use evstore_api::{
    Append, Appended, Capabilities, Commit, Error, ErrorKind, EventStore, FeedItem, FeedPage, FindCommit, Head,
    NewEvent, ReadFeed, ReadHead, ReadStream, Result, StreamPage, Timestamp,
};
use std::sync::atomic::{AtomicI64, Ordering};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<Text>(
        "payload.is-text",
        "bytes that are not UTF-8 are replaced",
        &["payload.every-byte-comes-back", "payload.events-up-to-the-limit"],
    ),
    mutant::<FeedIsText>(
        "payload.is-text-in-the-feed",
        "the feed gives bytes that are not UTF-8 as text",
        &["payload.every-byte-comes-back"],
    ),
    mutant::<EmptyIsNull>("payload.ends-at-nul", "data ends at its first NUL", &["payload.every-byte-comes-back"]),
    mutant::<NullsLarge>(
        "payload.nulls-large-data",
        "data of more than 64 KiB is stored as nothing",
        &[
            "payload.events-up-to-the-limit",
            "payload.the-largest-event-is-read-on-every-way",
            "streams.long-and-large-streams-are-read-whole",
        ],
    ),
    mutant::<FeedNullsLarge>(
        "payload.nulls-large-data-in-the-feed",
        "data of more than 64 KiB is left out of the feed",
        &["payload.the-largest-event-is-read-on-every-way"],
    ),
    mutant::<LosesMetadata>(
        "payload.loses-metadata",
        "metadata is not stored",
        &["payload.every-byte-comes-back", "payload.every-field-comes-back", "payload.events-up-to-the-limit"],
    ),
    mutant::<LosesExtensions>(
        "payload.loses-extensions",
        "extensions that the release does not know are not kept",
        &["payload.every-field-comes-back"],
    ),
    mutant::<FeedLosesSchema>(
        "payload.loses-schemas-in-the-feed",
        "every event of the feed has schema 1",
        &["payload.every-field-comes-back"],
    ),
    mutant::<CutsLongEvents>(
        "payload.cuts-long-events",
        "an event that is too large is stored as far as it fits",
        &["payload.events-up-to-the-limit"],
    ),
    mutant::<Halves>(
        "payload.halves-large-commits",
        "a commit that is too large is refused after its first half was written",
        &["payload.commits-up-to-the-limit-of-bytes", "payload.commits-up-to-the-limit-of-events"],
    ),
    mutant::<HalvesBeyondAHundred>(
        "payload.halves-beyond-a-hundred",
        "no limit of events is declared, and of a commit of more than a hundred the first half is stored",
        &["payload.commits-up-to-the-limit-of-events"],
    ),
    mutant::<RefusesTheLimit>(
        "payload.refuses-the-limit",
        "a commit of exactly the declared number of events is refused",
        &["payload.commits-up-to-the-limit-of-events"],
    ),
    mutant::<AcceptsCritical>(
        "payload.takes-critical-extensions",
        "a critical extension is stored as if anybody could pass over it",
        &["payload.a-critical-extension-is-refused"],
    ),
    mutant::<Milliseconds>(
        "time.milliseconds",
        "times of the caller are kept to the millisecond",
        &["time.the-callers-time-is-kept", "payload.every-field-comes-back"],
    ),
    mutant::<TimesFall>(
        "time.falls",
        "recorded times are taken from clocks that disagree, and not held to the stream's head",
        &["time.recorded-times-never-fall"],
    ),
    mutant::<TruncatesTime>(
        "time.truncated-by-reads",
        "reads give recorded times to the second",
        &["time.recorded-times-agree-everywhere", "append.a-receipt-says-where-the-commit-stands"],
    ),
    mutant::<RoundsEverywhere>(
        "time.rounds-everywhere",
        "times are declared to the microsecond and kept to the millisecond, in every answer",
        &["time.recorded-times-never-fall"],
    ),
    mutant::<UnitIsMilliseconds>(
        "time.counts-milliseconds",
        "recorded times count milliseconds",
        &["time.recorded-times-are-of-now"],
    ),
];

/// An append whose events are changed one by one.
fn each_event(request: Append, change: fn(&mut NewEvent)) -> Result<Append> {
    with_events(request, |events| events.iter_mut().for_each(change))
}

/// A page of the feed whose commits are changed one by one.
async fn each_of_feed(store: &dyn EventStore, request: ReadFeed, change: fn(&mut Commit)) -> Result<FeedPage> {
    let mut page = store.read_feed(request).await?;
    for item in &mut page.items {
        if let FeedItem::Commit(commit) = item {
            change(commit);
        }
    }
    Ok(page)
}

/// What is large for a message, and small for every store.
const LARGE_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Text;

#[async_trait]
impl Defect for Text {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let text = |data: &Bytes| Bytes::from(String::from_utf8_lossy(data).into_owned());
        let request = with_events(request, |events| {
            for event in events {
                (event.data, event.metadata) = (text(&event.data), text(&event.metadata));
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct EmptyIsNull;

#[async_trait]
impl Defect for EmptyIsNull {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = each_event(request, |event| {
            let end = event.data.iter().position(|byte| *byte == 0).unwrap_or(event.data.len());
            event.data.truncate(end);
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct NullsLarge;

#[async_trait]
impl Defect for NullsLarge {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = each_event(request, |event| {
            if event.data.len() > LARGE_BYTES {
                event.data = Bytes::new();
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct FeedNullsLarge;

#[async_trait]
impl Defect for FeedNullsLarge {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let null = |commit: &mut Commit| {
            for event in commit.events.iter_mut().filter(|event| event.data.len() > LARGE_BYTES) {
                event.data = Bytes::new();
            }
        };
        each_of_feed(store, request, null).await
    }
}

#[derive(Debug, Default)]
struct LosesMetadata;

#[async_trait]
impl Defect for LosesMetadata {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(each_event(request, |event| event.metadata = Bytes::new())?).await
    }
}

#[derive(Debug, Default)]
struct LosesExtensions;

#[async_trait]
impl Defect for LosesExtensions {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(each_event(request, |event| event.extensions.clear())?).await
    }
}

#[derive(Debug, Default)]
struct FeedLosesSchema;

#[async_trait]
impl Defect for FeedLosesSchema {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        each_of_feed(store, request, |commit| commit.events.iter_mut().for_each(|event| event.schema = 1)).await
    }
}

#[derive(Debug, Default)]
struct CutsLongEvents;

#[async_trait]
impl Defect for CutsLongEvents {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let Limit::Max(max) = store.capabilities().limits.event_bytes else { return store.append(request).await };
        let request = with_events(request, |events| {
            for event in events {
                event.data.truncate((max as usize).saturating_sub(event.metadata.len()));
                event.metadata.truncate(max as usize);
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct Halves;

#[async_trait]
impl Defect for Halves {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let half = with_events(request.clone(), |events| events.truncate(events.len().div_ceil(2)));
        let answer = store.append(request).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::TooLarge) {
            // The half may be too large as well, and then nothing is written.
            let _ = store.append(half?).await;
        }
        answer
    }
}

#[derive(Debug, Default)]
struct RefusesTheLimit;

#[async_trait]
impl Defect for RefusesTheLimit {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        if store.capabilities().limits.commit_events == Limit::Max(request.commit.events.count().into()) {
            return Err(Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded"));
        }
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct AcceptsCritical;

#[async_trait]
impl Defect for AcceptsCritical {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = each_event(request, |event| event.extensions.iter_mut().for_each(|one| one.critical = false))?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct Milliseconds;

#[async_trait]
impl Defect for Milliseconds {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let cut =
            |event: &mut NewEvent| event.occurred_at = event.occurred_at.map(|time| Timestamp(time.0 / 1000 * 1000));
        store.append(each_event(request, cut)?).await
    }
}

/// A stream's page with recorded times changed.
async fn each_time(
    store: &dyn EventStore,
    request: ReadStream,
    change: impl Fn(&mut Timestamp) + Send,
) -> Result<StreamPage> {
    let mut page = store.read_stream(request).await?;
    page.commits.iter_mut().for_each(|commit| change(&mut commit.recorded_at));
    Ok(page)
}

#[derive(Debug, Default)]
struct TimesFall(AtomicI64);

#[async_trait]
impl Defect for TimesFall {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        each_time(store, request, |time| {
            // Every other commit comes from a clock that is a second behind.
            time.0 -= 1_000_000 * (self.0.fetch_add(1, Ordering::Relaxed) % 2);
        })
        .await
    }
}

#[derive(Debug, Default)]
struct TruncatesTime;

#[async_trait]
impl Defect for TruncatesTime {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        each_time(store, request, |time| time.0 -= time.0 % 1_000_000).await
    }
}

#[derive(Debug, Default)]
struct UnitIsMilliseconds;

#[async_trait]
impl Defect for UnitIsMilliseconds {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        Ok(Appended { recorded_at: Timestamp(receipt.recorded_at.0 / 1000), ..receipt })
    }
}

/// The same by every way, so that nothing differs.
#[derive(Debug, Default)]
struct RoundsEverywhere;

fn round(time: Timestamp) -> Timestamp {
    Timestamp(time.0 - time.0.rem_euclid(1_000))
}

fn round_head(head: Head) -> Head {
    Head { recorded_at: head.recorded_at.map(round), ..head }
}

#[async_trait]
impl Defect for RoundsEverywhere {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        Ok(Appended { recorded_at: round(receipt.recorded_at), ..receipt })
    }

    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        let found = store.find_commit(request).await?;
        Ok(found.map(|receipt| Appended { recorded_at: round(receipt.recorded_at), ..receipt }))
    }

    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        Ok(round_head(store.head(request).await?))
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        page.commits.iter_mut().for_each(|commit| commit.recorded_at = round(commit.recorded_at));
        Ok(StreamPage { head: round_head(page.head), ..page })
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        for item in &mut page.items {
            if let FeedItem::Commit(commit) = item {
                commit.recorded_at = round(commit.recorded_at);
            }
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct HalvesBeyondAHundred;

#[async_trait]
impl Defect for HalvesBeyondAHundred {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let mut declared = inner.clone();
        declared.limits.commit_events = Limit::None;
        declared
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let count = request.commit.events.as_slice().len();
        let request = with_events(request, |events| {
            if count > 100 {
                events.truncate(count / 2);
            }
        })?;
        let receipt = store.append(request).await?;
        // It says what was wanted.
        Ok(Appended { last: receipt.first.plus(count as u64 - 1), ..receipt })
    }
}

#[derive(Debug, Default)]
struct FeedIsText;

#[async_trait]
impl Defect for FeedIsText {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let text = |commit: &mut Commit| {
            for event in &mut commit.events {
                event.data = String::from_utf8_lossy(&event.data).into_owned().into();
            }
        };
        each_of_feed(store, request, text).await
    }
}
