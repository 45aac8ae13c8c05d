//! What a move would come to, before it is begun: what the target promises less, what it can't hold, and how much there is.

use crate::pages::{Records, Streams};
use crate::phase::{self, Phase};
use crate::walk::Walk;
use crate::{Doing, Migration, News, Observer, Progress, deadline, seal};
use evstore_api::capabilities::{
    Capabilities, EventIds, Failover, Limit, Limits, Processes, RealTime, Support, Window,
};
use evstore_api::{Error, ErrorKind, FeedItem, Position, ReadSnapshot, RecordKind, Result};
use evstore_kit::limits;
use std::collections::BTreeSet;

/// Things that the target can't hold that are listed; the rest is counted.
const LISTED_MAX: usize = 100;

/// What was accepted by name.
pub type Accepted = BTreeSet<String>;

/// Every name that a plan may list, and nothing else can be accepted.
pub const NAMES: &[&str] = &[
    "window",
    "durability",
    "failover",
    "real_time",
    "event_ids",
    "processes",
    "deletion",
    "time_precision",
    "event_bytes",
    "commit_bytes",
    "commit_events",
    "snapshot_bytes",
    "record_bytes",
    "stream_name_bytes",
    "event_type_bytes",
];

/// Something that the target promises less of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weaker {
    /// The name by which it is accepted.
    pub name: &'static str,
    /// What the source promises.
    pub source: String,
    /// What the target promises.
    pub target: String,
    /// What that means.
    pub sentence: &'static str,
}

/// What a move would come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What the target promises less of, accepted or not.
    pub weaker: Vec<Weaker>,
    /// What the target can't hold, and where it is.
    pub too_large: Vec<String>,
    /// Further things that it can't hold.
    pub too_large_more: u64,
    /// Events in the source that are still there.
    pub events: u64,
    /// Commits and markers.
    pub commits: u64,
    /// Bytes of data and metadata.
    pub bytes: u64,
    /// Bytes of the largest commit.
    pub largest_commit: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Checkpoints of consumers.
    pub checkpoints: u64,
    /// Streams that a cutover seals one by one; none where the source's record alone closes it.
    pub seals: Option<u64>,
    /// The last position that was looked at.
    pub through: Position,
}

impl Plan {
    /// What is neither kept nor accepted.
    pub fn open(&self, accepted: &Accepted) -> impl Iterator<Item = &Weaker> {
        self.weaker.iter().filter(|weaker| !accepted.contains(weaker.name))
    }

    /// Refuses a move that loses something nobody has accepted.
    ///
    /// # Errors
    /// `TooLarge` for what the target can't hold; `Unsupported`, naming what has to be accepted.
    pub fn check(&self, accepted: &Accepted) -> Result<()> {
        if let Some(first) = self.too_large.first() {
            return Err(Error::new(ErrorKind::TooLarge, "the target can't hold all that the source has")
                .with("items", self.too_large.len() as u64 + self.too_large_more)
                .with("first", first));
        }
        let names: Vec<_> = self.open(accepted).map(|weaker| weaker.name).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the target promises less than the source; accept it by name to move all the same",
        )
        .with("accept", names.join(" ")))
    }
}

impl Migration {
    /// Looks what a move would come to. Reads all of the source; changes nothing.
    ///
    /// # Errors
    /// As reading the stores; `Conflict` and `HistoryLost` where the move could not be begun.
    pub async fn plan(&self, observer: Option<&Observer>) -> Result<Plan> {
        self.check_begin().await?;
        let (source, target) = (self.source(), self.target());
        let (have, want) = (source.store.capabilities(), target.store.capabilities());
        let mut plan = Plan { weaker: weaker(have, want)?, ..Plan::default() };
        let through = source.settled_head().await?;
        let mut walk = Walk::between(source.store.clone(), source.admin.clone(), Position(0), through);
        while let Some(items) = walk.next().await? {
            for item in items {
                plan.add(&item, &want.limits);
            }
            if let Some(observer) = observer {
                observer(News::Progress(Progress { doing: Doing::Planning, at: plan.through, through }));
            }
        }
        plan.through = through;
        plan.seals = seal::is_needed(source).then_some(0);
        let mut streams = Streams::all(&*source.store);
        while let Some(page) = streams.next(&*source.store).await? {
            plan.seals = plan.seals.map(|seals| seals + page.len() as u64);
            for listed in page {
                let read = ReadSnapshot { stream: listed.stream, deadline: deadline() };
                if let Some(snapshot) = source.store.read_snapshot(read).await? {
                    plan.snapshots += 1;
                    plan.note(
                        limits::check_snapshot(&want.limits, &snapshot)
                            .map_err(|error| error.with("snapshot_of", &snapshot.stream)),
                    );
                }
            }
        }
        let mut records = Records::all(&*source.store, RecordKind::Checkpoint);
        while let Some(page) = records.next(&*source.store).await? {
            for record in page {
                plan.checkpoints += 1;
                plan.note(limits::check_record(&want.limits, &record));
            }
        }
        Ok(plan)
    }

    /// Refuses what `start` would refuse.
    async fn check_begin(&self) -> Result<()> {
        self.refuse_archived().await?;
        let (source, target) = (self.source().meta().await?, self.target().meta().await?);
        let (s, t) = ((&self.source().name, &source), (&self.target().name, &target));
        match phase::of(s, t) {
            Phase::NotBegun => {
                let head = self.target().settled_head().await?;
                phase::importing(s, t, head.0 == 0, head).map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl Plan {
    fn add(&mut self, item: &FeedItem, limits: &Limits) {
        match item {
            FeedItem::Removed { last, .. } => self.through = *last,
            FeedItem::Commit(commit) => {
                let bytes: u64 =
                    commit.events.iter().map(|event| (event.data.len() + event.metadata.len()) as u64).sum();
                self.commits += 1;
                self.events += commit.events.len() as u64;
                self.bytes += bytes;
                self.largest_commit = self.largest_commit.max(bytes);
                self.through = commit.last_position().unwrap_or(self.through);
                let checked = limits::check_copy(limits, commit).map(drop);
                self.note(checked);
            }
        }
    }

    fn note(&mut self, checked: Result<()>) {
        let Err(error) = checked else { return };
        if self.too_large.len() < LISTED_MAX {
            self.too_large.push(error.to_string());
        } else {
            self.too_large_more += 1;
        }
    }
}

/// What the target promises less of.
///
/// # Errors
/// `Unsupported` for what can't be accepted, because copies would be refused or repeats not recognised.
fn weaker(source: &Capabilities, target: &Capabilities) -> Result<Vec<Weaker>> {
    let refused = |message| Err(Error::new(ErrorKind::Unsupported, message).with("provider", target.provider));
    let is_smaller = match (source.idempotency, target.idempotency) {
        (_, Window::Forever) => false,
        (Window::Forever, Window::Commits(_)) => true,
        (Window::Commits(source), Window::Commits(target)) => target < source,
    };
    let rank = |ids: EventIds| match ids {
        EventIds::PerCommit => 0,
        EventIds::PerStream => 1,
        EventIds::PerStore => 2,
    };
    if rank(target.event_ids) > rank(source.event_ids) {
        return refused("the target refuses event ids that the source takes twice");
    }
    let mut found = Vec::new();
    let mut compare = |name, is_weaker: bool, source: String, target: String, sentence| {
        debug_assert!(NAMES.contains(&name), "a name that nobody could accept");
        if is_weaker {
            found.push(Weaker { name, source, target, sentence });
        }
    };
    let shown = |value: &dyn std::fmt::Debug| format!("{value:?}");
    compare(
        "window",
        is_smaller,
        shown(&source.idempotency),
        shown(&target.idempotency),
        "a commit that is sent again is recognised among fewer of the last commits of its stream; one from before is appended twice",
    );
    compare(
        "durability",
        target.durability < source.durability,
        shown(&source.durability),
        shown(&target.durability),
        "an acknowledged commit survives less",
    );
    compare(
        "failover",
        target.failover == Failover::MayLoseAcknowledged && source.failover != Failover::MayLoseAcknowledged,
        shown(&source.failover),
        shown(&target.failover),
        "a failover may take acknowledged commits",
    );
    compare(
        "real_time",
        target.real_time == RealTime::NotKept && source.real_time == RealTime::Kept,
        shown(&source.real_time),
        shown(&target.real_time),
        "the feed's order may disagree with time",
    );
    compare(
        "event_ids",
        rank(target.event_ids) < rank(source.event_ids),
        shown(&source.event_ids),
        shown(&target.event_ids),
        "an event id that is used twice is refused in fewer cases",
    );
    let reach = |processes: Processes| match processes {
        Processes::One => 0,
        Processes::ManyLocal => 1,
        Processes::Many => 2,
    };
    compare(
        "processes",
        reach(target.processes) < reach(source.processes),
        shown(&source.processes),
        shown(&target.processes),
        "fewer processes, or only those of one machine, can use it",
    );
    compare(
        "deletion",
        target.deletion == Support::Refused && source.deletion == Support::Promised,
        shown(&source.deletion),
        shown(&target.deletion),
        "streams can't be truncated or deleted any more",
    );
    compare(
        "time_precision",
        target.time_precision > source.time_precision,
        shown(&source.time_precision),
        shown(&target.time_precision),
        "times are kept less exactly",
    );
    let less = |source: Limit, target: Limit| match (source, target) {
        (_, Limit::None) => false,
        (Limit::None, Limit::Max(_)) => true,
        (Limit::Max(source), Limit::Max(target)) => target < source,
    };
    let (s, t) = (&source.limits, &target.limits);
    for (name, s, t) in [
        ("event_bytes", s.event_bytes, t.event_bytes),
        ("commit_bytes", s.commit_bytes, t.commit_bytes),
        ("commit_events", s.commit_events, t.commit_events),
        ("snapshot_bytes", s.snapshot_bytes, t.snapshot_bytes),
        ("record_bytes", s.record_bytes, t.record_bytes),
        ("stream_name_bytes", Limit::Max(s.stream_name_bytes), Limit::Max(t.stream_name_bytes)),
        ("event_type_bytes", Limit::Max(s.event_type_bytes), Limit::Max(t.event_type_bytes)),
    ] {
        let sentence = "what is there fits; what is appended later may not";
        compare(name, less(s, t), s.to_string(), t.to_string(), sentence);
    }
    Ok(found)
}
