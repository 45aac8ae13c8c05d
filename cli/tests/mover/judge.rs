//! Judges what the nodes saw against what the store holds that took over.

use crate::node::{commits, entries, event, is_seal};
use evstore::{Config, Registry, Sources, Store, StoreName};
use evstore_conformance::history::feed::{FeedClaims, FeedRealtime};
use evstore_conformance::history::record as seen;
use evstore_conformance::history::stream::{Removal, Sessions, StreamClaims};
use evstore_conformance::history::{Claims, FeedClaim, History, Rule, check, lines};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What the nodes saw, and what was there in the end.
pub struct Seen {
    /// All of it.
    pub history: History,
    /// Whether one of the stores is sealed stream by stream, and has a feed that comes about behind the appends.
    pub is_sealed: bool,
}

impl Seen {
    /// Reads what nodes wrote down, and what a store holds now.
    pub fn read(files: impl Iterator<Item = std::path::PathBuf>, config: &Path, owner: &str, is_sealed: bool) -> Self {
        let mut text = Vec::new();
        for file in files {
            // A process that was killed may have been in the middle of a line.
            let all = std::fs::read(&file).unwrap();
            text.extend_from_slice(&all[..all.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)]);
        }
        let mut history = lines::read(text.as_slice()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = itself(config, owner).await;
            let (streams, feed) = finals(&store).await;
            history.final_streams = streams;
            history.final_feed = Some(feed);
            store.close().await.unwrap();
        });
        Self { history, is_sealed }
    }

    /// Appends that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.appends().filter(|(_, append)| matches!(append.outcome, seen::AppendOutcome::Ok(_))).count()
    }

    /// Acknowledged commits that the store had already when they were sent: retries across the move among them.
    pub fn repeated(&self) -> usize {
        let is_repeated = |append: &seen::Append| matches!(append.outcome, seen::AppendOutcome::Ok(r) if r.repeated);
        self.appends().filter(|(_, append)| is_repeated(append)).count()
    }

    /// The same, for commits of which nobody had an answer before: their first attempt is the one that says so.
    pub fn repeated_at_first(&self) -> usize {
        let is_repeated = |append: &seen::Append| matches!(append.outcome, seen::AppendOutcome::Ok(r) if r.repeated);
        self.appends().filter(|(operation, append)| operation.attempt == 0 && is_repeated(append)).count()
    }

    fn appends(&self) -> impl Iterator<Item = (&seen::Operation, &seen::Append)> {
        self.history.operations.iter().filter_map(|operation| match &operation.call {
            seen::Call::Append(append) => Some((operation, append)),
            _ => None,
        })
    }

    /// The longest append that was answered.
    pub fn longest_append(&self) -> Duration {
        let took = |operation: &seen::Operation| match operation.returned_at {
            seen::Returned::At(at) => at.0.saturating_sub(operation.invoked_at.0),
            seen::Returned::Never => 0,
        };
        let real = self.appends().filter(|(operation, _)| operation.invoked_at.0 > 0);
        Duration::from_nanos(real.map(|(operation, _)| took(operation)).max().unwrap_or_default())
    }

    /// Whether a call of this kind was answered between two moments.
    pub fn has_between(&self, from: seen::Moment, to: seen::Moment, is: impl Fn(&seen::Call) -> bool) -> bool {
        self.history.operations.iter().any(|operation| {
            let in_time = matches!(operation.returned_at, seen::Returned::At(at) if from < at && at < to);
            in_time && is(&operation.call)
        })
    }

    /// Every call was answered, no acknowledged commit is missing or twice, and the feed is whole and in order.
    ///
    /// Snapshots are hints: one that was taken last may arrive a moment after its stream has moved, so that a load may show an earlier one.
    /// What a snapshot holds, and that none is ahead of its stream, is judged all the same.
    pub fn judge(&self) {
        let unanswered: Vec<_> =
            self.history.operations.iter().filter(|one| one.returned_at == seen::Returned::Never).collect();
        assert!(unanswered.is_empty(), "calls got no answer: {unanswered:?}");
        let (removal, real_time) = match self.is_sealed {
            true => (Removal::Sealed, FeedRealtime::NotPromised),
            false => (Removal::Never, FeedRealtime::Ordered),
        };
        let streams = StreamClaims { sessions: Sessions::Guaranteed, removal };
        let feed = FeedClaim::Of(FeedClaims { real_time, ..FeedClaims::STRICT });
        let mut verdict = check(&self.history, &Claims { streams, feed });
        for rule in [Rule::SnapshotAhead, Rule::SnapshotState] {
            assert!(!verdict.snapshots.has(rule), "{verdict}");
        }
        verdict.snapshots = Default::default();
        assert!(verdict.held(), "{verdict}");
        println!(
            "{} calls, {} commits acknowledged, {} of them more than once; the longest append took {} ms",
            self.history.operations.len(),
            self.acknowledged(),
            self.repeated(),
            self.longest_append().as_millis()
        );
    }
}

/// A store of a config, which follows no move.
pub async fn itself(config: &Path, name: &str) -> Store {
    let sources = Sources::new(config.parent().unwrap(), evstore::Environment::default()).with_file(config);
    let config = Config::load(&sources).unwrap();
    Registry::builtin().settings(&config, &StoreName::new(name).unwrap()).unwrap().open().await.unwrap()
}

/// What a store holds.
async fn finals(store: &Store) -> (Vec<seen::FinalStream>, seen::FinalFeed) {
    let mut streams: BTreeMap<String, Vec<seen::FinalCommit>> = BTreeMap::new();
    let all = commits(store).await;
    for commit in &all {
        let body = if is_seal(commit) {
            seen::FinalBody::Marker
        } else {
            let events = commit.events.iter().map(event).collect();
            seen::FinalBody::Events { first: commit.first_revision.0, events }
        };
        let of_stream = streams.entry(commit.stream.to_string()).or_default();
        of_stream.push(seen::FinalCommit { id: commit.id.0.into(), number: commit.number.0, body });
    }
    let deadline = evstore::Deadline::within(crate::node::CALL_MAX);
    let incarnation = store.events().feed_head(deadline).await.unwrap().cursor.incarnation().to_string();
    let streams = streams.into_iter().map(|(stream, commits)| seen::FinalStream { stream, commits }).collect();
    (streams, seen::FinalFeed { incarnation, entries: all.iter().flat_map(entries).collect() })
}
