//! Refuses what the store's capabilities exclude, before anything is sent.

use super::layered::Layer;
use super::request::Request;
use evstore_api::capabilities::{Limit, Limits, Positions};
use evstore_api::{
    Append, Capabilities, Error, ErrorKind, EventStore, FeedStart, ReadFeed, ReadStream, Result, Revision, StreamStart,
};
use evstore_kit::{limits, refusal};

pub use limits::{check_page as page, check_put_record as put_record, check_put_snapshot as put_snapshot};

/// The layer.
pub struct Check;

impl Layer for Check {
    const NAME: &'static str = "check";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        request.check(store.capabilities())?;
        request.send(store).await
    }
}

/// Whatever can be said without encoding. A commit that only its encoding makes too large is refused by the provider, which
/// encodes it anyway, and before it sends anything too.
pub fn append(limits: &Limits, request: &Append) -> Result<()> {
    let of_commit = |error: Error| error.of_commit(request.commit.id);
    let keep = |limit: Limit, given: usize, name: &'static str| {
        if limit.allows(given as u64) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded");
        Err(of_commit(error.with("limit", name).with("max", limit).with("given", given)))
    };
    let events = request.commit.events.as_slice();
    keep(Limit::Max(limits.stream_name_bytes), request.stream.name.as_str().len(), "stream_name_bytes")?;
    keep(limits.commit_events, events.len(), "commit_events")?;
    let mut bytes = 0;
    for event in events {
        keep(Limit::Max(limits.event_type_bytes), event.event_type.as_str().len(), "event_type_bytes")?;
        keep(limits.event_bytes, event.data.len() + event.metadata.len(), "event_bytes")?;
        bytes += event.data.len() + event.metadata.len();
    }
    keep(limits.commit_bytes, bytes, "commit_bytes")
}

pub fn read_stream(limits: &Limits, request: &ReadStream) -> Result<()> {
    if request.from == StreamStart::At(Revision(0)) {
        return Err(Error::new(ErrorKind::Invalid, "revisions count from 1").with("stream", &request.stream));
    }
    limits::check_page_max(limits, request.limit)
}

pub fn read_feed(capabilities: &Capabilities, request: &ReadFeed) -> Result<()> {
    match (&request.from, capabilities.positions) {
        (FeedStart::AfterPosition(_), Positions::Opaque) => {
            Err(refusal::unsupported("read_feed", "positions", capabilities.positions))
        }
        (FeedStart::First | FeedStart::After(_) | FeedStart::AfterPosition(_), _) => {
            page(&capabilities.limits, request.limit)
        }
    }
}
