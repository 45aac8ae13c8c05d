//! Conveniences over the contract, the same for every store: a plain append, a whole stream, its latest event.

use crate::api::{
    Append, Appended, CommitId, Deadline, Direction, Error, EventStore, Events, Expected, NewCommit, NewEvent,
    ReadStream, Result, Revision, StreamId, StreamPage, StreamStart,
};
use crate::subscription::FeedEvent;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long one call may take. The layers of a [`Store`](crate::Store) allow as long or less.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most events and bytes of one page.
const PAGE_EVENTS_MAX: u32 = 500;
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// What can be said shorter of any [`EventStore`], where its bounds do not matter to the caller.
///
/// ```
/// # use evstore::{CommitId, EventStoreExt, EventType, Expected, NewEvent, StreamId};
/// # async fn example(store: evstore::Store) -> Result<(), Box<dyn std::error::Error>> {
/// use futures::TryStreamExt;
///
/// let (events, stream) = (store.events(), StreamId::new("order-42")?);
/// let placed = NewEvent::new(EventType::new("order-placed")?, r#"{"item":"book"}"#);
/// events.append_events(&stream, Expected::NoStream, CommitId::generate(), [placed]).await?;
///
/// let mut all = events.read_all(&stream, evstore::Revision(1));
/// while let Some(event) = all.try_next().await? {
///     println!("{} {}", event.revision(), event.event().event_type);
/// }
/// let latest = events.latest_event(&stream).await?;
/// assert!(latest.is_some());
/// # Ok(())
/// # }
/// ```
pub trait EventStoreExt: EventStore {
    /// Appends events to a stream, all or none.
    ///
    /// # Errors
    /// As [`EventStore::append`]; `Invalid` for no events.
    fn append_events(
        &self,
        stream: &StreamId,
        expected: Expected,
        commit: CommitId,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> impl Future<Output = Result<Appended>> + Send {
        let events = Events::new(events.into_iter().collect());
        let stream = stream.clone();
        async move {
            let commit = NewCommit { id: commit, events: events? };
            self.append(Append { stream, expected, commit, deadline: Deadline::within(TIMEOUT) }).await
        }
    }

    /// The events of a stream from a revision to its end, in their order. One page is held at a time.
    ///
    /// # Errors
    /// As [`EventStore::read_stream`]; the first one ends it.
    fn read_all(&self, stream: &StreamId, from: Revision) -> BoxStream<'_, Result<FeedEvent>> {
        let stream = stream.clone();
        let pages = stream::try_unfold(Some(StreamStart::At(from)), move |from| {
            let stream = stream.clone();
            async move {
                let Some(start) = from else { return Ok::<_, Error>(None) };
                let page = page_of(self, stream, start, Direction::Forward, PAGE_EVENTS_MAX).await?;
                let next = page.next.map(StreamStart::At);
                Ok(Some((page, next)))
            }
        });
        pages.map_ok(|page| stream::iter(events_of(page).into_iter().map(Ok::<_, Error>))).try_flatten().boxed()
    }

    /// The last event of a stream; none where it has none.
    ///
    /// # Errors
    /// As [`EventStore::read_stream`].
    fn latest_event(&self, stream: &StreamId) -> impl Future<Output = Result<Option<FeedEvent>>> + Send {
        let page = page_of(self, stream.clone(), StreamStart::Last, Direction::Backward, 1);
        async move { Ok(events_of(page.await?).into_iter().max_by_key(FeedEvent::revision)) }
    }
}

impl<S: EventStore + ?Sized> EventStoreExt for S {}

async fn page_of<S: EventStore + ?Sized>(
    store: &S,
    stream: StreamId,
    from: StreamStart,
    direction: Direction,
    events_max: u32,
) -> Result<StreamPage> {
    let limit = events_max.min(store.capabilities().limits.page_items);
    let deadline = Deadline::within(TIMEOUT);
    store.read_stream(ReadStream { stream, from, direction, limit, max_bytes: PAGE_BYTES_MAX, deadline }).await
}

fn events_of(page: StreamPage) -> Vec<FeedEvent> {
    page.commits.into_iter().map(Arc::new).flat_map(|commit| FeedEvent::of(&commit)).collect()
}
