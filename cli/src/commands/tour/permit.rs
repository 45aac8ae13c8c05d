//! The aggregate of the tour: a permit application, folded with the typed layer as an application would do it.

use crate::failure::Result;
use crate::view;
use evstore::{Aggregate, DomainEvent, FoldedFrom, Loaded, RawEvent, Repository, SnapshotPolicy};
use evstore_api::EventStore;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a load is timed.
const LOADS: usize = 21;

/// What is done for an application. The activities of the log are many; two matter here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum PermitEvent {
    #[event(name = "Confirmation of receipt")]
    Received(Activity),
    #[event(unknown)]
    Worked(RawEvent),
}

/// What the log says of an activity, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Activity {
    #[serde(default, rename = "org:resource")]
    resource: String,
}

/// An application, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Permit {
    received: bool,
    activities: u64,
    people: BTreeSet<String>,
}

impl Aggregate for Permit {
    const CATEGORY: &'static str = "permit";
    type Event = PermitEvent;

    fn apply(&mut self, event: &PermitEvent) {
        self.activities += 1;
        let person = match event {
            PermitEvent::Received(activity) => {
                self.received = true;
                activity.resource.clone()
            }
            // What does not read as an activity names nobody.
            PermitEvent::Worked(raw) => serde_json::from_slice::<Activity>(&raw.data).unwrap_or_default().resource,
        };
        if !person.is_empty() {
            self.people.insert(person);
        }
    }
}

/// An application, folded from its events and from a snapshot.
pub struct Folded {
    permit: Permit,
    events: u64,
    from_events: Duration,
    from_snapshot: Duration,
    snapshot: u64,
}

/// Folds an application from its events, takes a snapshot, and folds it from that.
///
/// # Errors
/// As the repository's.
pub async fn fold_both_ways(store: Arc<dyn EventStore>, key: &str) -> Result<Folded> {
    let plain = Repository::<Permit>::new(store.clone());
    let (whole, from_events) = timed(&plain, key).await?;
    let with_snapshots = Repository::<Permit>::new(store).with_snapshots(SnapshotPolicy::EveryEvents(10));
    with_snapshots.take_snapshot(key).await?;
    let (short, from_snapshot) = timed(&with_snapshots, key).await?;
    let snapshot = match short.from {
        FoldedFrom::Snapshot(revision) => revision.0,
        FoldedFrom::Events | FoldedFrom::EventsNotSnapshot(_) => 0,
    };
    if short.state != whole.state {
        return Err(crate::failure::Failure::Broken {
            message: "a snapshot gives another state than the events".into(),
            hint: "evstore verify reads the whole store".into(),
        });
    }
    Ok(Folded { permit: whole.state, events: whole.revision.0, from_events, from_snapshot, snapshot })
}

/// Loads an application several times; the time is the median.
async fn timed(repository: &Repository<Permit>, key: &str) -> Result<(Loaded<Permit>, Duration)> {
    let mut loaded = repository.load(key).await?;
    let mut took = Vec::with_capacity(LOADS);
    for _ in 0..LOADS {
        let began = Instant::now();
        loaded = repository.load(key).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok((loaded, took[LOADS / 2]))
}

impl Folded {
    /// For people.
    pub fn text(&self) -> String {
        let received = if self.permit.received { "received" } else { "not received" };
        let people: Vec<&str> = self.permit.people.iter().map(String::as_str).collect();
        format!(
            "{received}, {} activities by {}\nfrom {} events in {:?}; from the snapshot of revision {} in {:?}: the same state",
            self.permit.activities,
            people.join(", "),
            self.events,
            self.from_events,
            self.snapshot,
            self.from_snapshot
        )
    }

    /// For programs.
    pub fn json(&self) -> Map<String, Value> {
        view::object([
            ("events", self.events.into()),
            ("activities", self.permit.activities.into()),
            ("people", self.permit.people.len().into()),
            ("snapshot_revision", self.snapshot.into()),
        ])
    }
}
