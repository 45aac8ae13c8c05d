//! What several tests of the provider need: streams, events and requests with fixed ids, a reader that follows the feed, clusters
//! that a test owns, and a way to them that can be cut.

#![allow(dead_code, reason = "each test uses its part")]

pub mod cluster;
pub mod proxy;

use evstore_api::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a test must be told, by `cargo xtask test` or by hand with `cargo xtask engine postgres`.
pub fn told(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: `cargo xtask test` starts a throwaway server and sets it"))
}

/// Settings of a store.
pub fn settings(url: &str, schema: &str, more: &[(&str, &str)]) -> Settings {
    let mut given = vec![("url".to_owned(), url.to_owned()), ("schema".to_owned(), schema.to_owned())];
    given.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::new(StoreName::new("main").unwrap(), evstore_postgres::KEYS, given).unwrap()
}

/// Opens a store, and makes its schema where the settings say so.
pub async fn open(settings: &Settings) -> Result<Arc<dyn EventStore>> {
    evstore_postgres::provider().opener.open(settings).await
}

pub fn id(number: u64) -> CommitId {
    CommitId::derive(&[b"accidents", &number.to_le_bytes()])
}

pub fn name(stream: &str) -> StreamId {
    StreamId::new(stream).unwrap()
}

pub fn event(number: u64) -> NewEvent {
    NewEvent::new(EventType::new("happened").unwrap(), format!("{{\"n\":{number}}}"))
}

pub fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(30))
}

pub fn request(stream: &str, expected: Expected, number: u64) -> Append {
    let commit = NewCommit { id: id(number), events: Events::new(vec![event(number)]).unwrap() };
    Append { stream: name(stream), expected, commit, deadline: soon() }
}

pub fn feed_request(from: FeedStart) -> ReadFeed {
    ReadFeed { from, filter: FeedFilter::none(), limit: 500, max_bytes: 16 << 20, deadline: soon() }
}

pub async fn page(store: &Arc<dyn EventStore>, from: FeedStart) -> FeedPage {
    store.read_feed(feed_request(from)).await.unwrap()
}

/// What a reader of the feed was given, checked as it comes: positions without a hole, revisions without disorder.
#[derive(Default)]
pub struct Followed {
    pub commits: Vec<CommitId>,
    position: u64,
    revisions: BTreeMap<StreamId, u64>,
}

impl Followed {
    pub fn take(&mut self, page: &FeedPage) -> std::result::Result<(), String> {
        for commit in page.commits() {
            if commit.first_position != Some(Position(self.position + 1)) {
                return Err(format!("position {:?} after {}", commit.first_position, self.position));
            }
            self.position += commit.positions();
            let revision = self.revisions.entry(commit.stream.clone()).or_default();
            if commit.first_revision.0 != *revision + 1 {
                return Err(format!("{:?}: revision {} after {revision}", commit.stream, commit.first_revision.0));
            }
            *revision = commit.last_revision().0;
            self.commits.push(commit.id);
        }
        Ok(())
    }
}

/// The whole feed, checked.
pub async fn whole_feed(store: &Arc<dyn EventStore>) -> std::result::Result<Vec<CommitId>, String> {
    let (mut followed, mut from) = (Followed::default(), FeedStart::First);
    loop {
        let page = store.read_feed(feed_request(from)).await.map_err(|error| error.to_string())?;
        followed.take(&page)?;
        if page.end {
            return Ok(followed.commits);
        }
        from = FeedStart::After(page.next);
    }
}
