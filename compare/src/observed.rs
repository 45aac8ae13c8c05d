//! What a live store holds, in figures and without its payloads: what `evstore profile` writes and `evstore estimate` prices.

use crate::workload::{Mix, Plan, SCHEMA, Sizes, Time, Workload};
use evstore_api::{Commit, Timestamp, format};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// Members of a list that stands for a distribution: each is a twentieth of it.
const MEMBERS: usize = 20;
/// Hottest streams whose shares are told.
const HOTTEST: usize = 10;
/// Least share that makes a stream a hot one: below, streams that come by turns are as good.
const HOT_MIN: f64 = 0.01;
/// Sizes that are kept; beyond, every second one is, and so on.
const SIZES_MAX: usize = 1 << 16;
/// Seconds in a month of 730 hours.
pub const MONTH_SECONDS: f64 = 730.0 * 3_600.0;
const SECOND_MICROS: i64 = 1_000_000;

/// What was seen of a store. No name and no content of an event is in it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Commits that were read.
    pub commits: u64,
    /// Events that were read.
    pub events: u64,
    /// Streams that they are of.
    pub streams: u64,
    /// From the first commit to the last, in seconds.
    pub seconds: f64,
    /// Bytes of all commits as the format encodes them.
    pub bytes: u64,
    /// Bytes of a commit, as the format encodes it: twenty sizes, equally frequent, the last the largest.
    pub commit_bytes: Vec<u64>,
    /// Events of a stream: twenty lengths, equally frequent, the last the longest.
    pub stream_events: Vec<u64>,
    /// Commits in the fullest second.
    pub peak_second: u64,
    /// Commits of one stream in its fullest second.
    pub stream_peak_second: u64,
    /// Shares of the commits that the hottest streams have.
    pub hottest: Vec<f64>,
    /// Shares of the commits by the hour of the day, UTC.
    pub by_hour: Vec<f64>,
    /// Streams that are loaded in a month. A store does not know it: it is put here by who does.
    #[serde(default)]
    pub loads_a_month: f64,
}

impl Observed {
    /// Commits in a month at the pace that was seen.
    #[must_use]
    pub fn commits_a_month(&self) -> f64 {
        self.commits as f64 / self.seconds.max(1.0) * MONTH_SECONDS
    }

    /// The largest commit, in bytes.
    #[must_use]
    pub fn largest_commit(&self) -> u64 {
        self.commit_bytes.last().copied().unwrap_or_default()
    }
}

/// Looks at commits one by one, in feed order, and keeps figures.
#[derive(Debug, Default)]
pub struct Observer {
    streams: HashMap<u64, Stream>,
    events: u64,
    commits: u64,
    bytes: u64,
    commit_bytes: Sample,
    commit_events: Sample,
    event_bytes: Sample,
    hours: [u64; 24],
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    seconds: Seconds,
    stream_peak_second: u64,
}

#[derive(Debug, Default)]
struct Stream {
    commits: u64,
    events: u64,
    second: (i64, u64),
}

impl Observer {
    /// Looks at one. Markers and what is stripped are passed over: nothing of them is known. Its time is that of its first event, where
    /// the caller gave one, else when the store took it.
    pub fn see(&mut self, commit: &Commit) {
        if commit.kind.is_marker() || !commit.is_whole() {
            return;
        }
        let bytes = format::encode(commit).len() as u64;
        self.commits += 1;
        self.events += commit.events.len() as u64;
        self.bytes += bytes;
        self.commit_bytes.add(bytes);
        self.commit_events.add(commit.events.len() as u64);
        commit.events.iter().for_each(|event| self.event_bytes.add((event.data.len() + event.metadata.len()) as u64));
        // A log that was imported has the pace of its own times, not that of its import.
        let at = commit.events[0].occurred_at.unwrap_or(commit.recorded_at);
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        let second = at.0.div_euclid(SECOND_MICROS);
        self.hours[(second.div_euclid(3_600)).rem_euclid(24) as usize] += 1;
        self.seconds.count(second);
        // A hash is enough to tell streams apart, and keeps no name.
        let stream = self.streams.entry(hashed(commit)).or_default();
        stream.commits += 1;
        stream.events += commit.events.len() as u64;
        self.stream_peak_second = self.stream_peak_second.max(counted(&mut stream.second, second));
    }

    /// Commits that were looked at.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// The figures, and workloads that are like them. None where nothing was seen.
    #[must_use]
    pub fn plan(self, name: &str) -> Option<Plan> {
        let (first, last) = (self.first?, self.last?);
        let mut lengths: Vec<u64> = self.streams.values().map(|stream| stream.events).collect();
        let mut hottest: Vec<u64> = self.streams.values().map(|stream| stream.commits).collect();
        hottest.sort_unstable_by(|a, b| b.cmp(a));
        let share = |count: u64| round(count as f64 / self.commits as f64);
        let observed = Observed {
            commits: self.commits,
            events: self.events,
            streams: self.streams.len() as u64,
            seconds: (last.0 - first.0) as f64 / SECOND_MICROS as f64,
            bytes: self.bytes,
            commit_bytes: self.commit_bytes.quantiles(),
            stream_events: quantiles(&mut lengths),
            peak_second: self.seconds.peak,
            stream_peak_second: self.stream_peak_second,
            hottest: hottest.iter().take(HOTTEST).map(|count| share(*count)).collect(),
            by_hour: self.hours.iter().map(|count| share(*count)).collect(),
            loads_a_month: 0.0,
        };
        let sizes = |sample: &Sample, most: u32| {
            let all: Vec<u32> = sample.quantiles().iter().map(|size| (*size).min(u64::from(most)) as u32).collect();
            if all.windows(2).all(|two| two[0] == two[1]) { Sizes::One(all[0]) } else { Sizes::Many(all) }
        };
        let common = Workload {
            name: "observed-append".into(),
            title: "Append as observed".into(),
            about: "Sizes, streams and hot streams are those of the live store; one round of its fullest second."
                .into(),
            does: Mix { append: 1, ..Mix::default() },
            callers: vec![32],
            rate: Some(self.seconds.peak as f64),
            answer_within: Some(Time(Duration::from_millis(10))),
            nodes: 1,
            streams: observed.streams.clamp(1, 100_000),
            hot: observed.hottest.iter().copied().filter(|share| *share >= HOT_MIN).collect(),
            stream_events: 0,
            snapshot_behind: None,
            snapshot_bytes: 1_000,
            commit_events: sizes(&self.commit_events, 1_000),
            event_bytes: sizes(&self.event_bytes, 1 << 20),
            compressible: true,
            expected: crate::workload::Expectation::Head,
            check: false,
            log: None,
            harness: false,
        };
        let most = Workload {
            name: "observed-most".into(),
            title: "Append as observed, as fast as it goes".into(),
            about: String::new(),
            callers: vec![1, 32],
            rate: None,
            answer_within: None,
            ..common.clone()
        };
        let middle = observed.stream_events.get(MEMBERS / 2).copied().unwrap_or(1).clamp(1, 10_000);
        let load = Workload {
            name: "observed-load".into(),
            title: format!("Load a stream of {middle} events, as half of them have at most"),
            about: String::new(),
            does: Mix { load: 1, ..Mix::default() },
            callers: vec![1, 8],
            rate: None,
            answer_within: None,
            streams: 100.min(observed.streams).max(1),
            hot: Vec::new(),
            stream_events: middle,
            ..common.clone()
        };
        Some(Plan {
            schema: SCHEMA,
            name: name.to_owned(),
            about: "What was seen of a live store, without its payloads and names.".into(),
            rounds: 3,
            measure: Time(Duration::from_secs(2)),
            warm_up: Time(Duration::from_millis(500)),
            observed: Some(observed),
            workloads: vec![common, most, load],
        })
    }
}

/// Six digits of a share are enough, and read better.
fn round(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

/// Counts one in its second, and gives the count of that second.
fn counted(current: &mut (i64, u64), second: i64) -> u64 {
    *current = if current.0 == second { (second, current.1 + 1) } else { (second, 1) };
    current.1
}

/// Seconds that are kept at a time, and how old the oldest of them may then be.
const SECONDS_MAX: usize = 1 << 20;
const SECONDS_KEPT: i64 = 3_600;

/// Counts of seconds, which come nearly in order.
#[derive(Debug, Default)]
struct Seconds {
    counts: HashMap<i64, u64>,
    newest: i64,
    peak: u64,
}

impl Seconds {
    fn count(&mut self, second: i64) {
        let count = self.counts.entry(second).or_default();
        *count += 1;
        self.peak = self.peak.max(*count);
        self.newest = self.newest.max(second);
        if self.counts.len() >= SECONDS_MAX {
            let oldest = self.newest - SECONDS_KEPT;
            self.counts.retain(|second, _| *second >= oldest);
        }
    }
}

fn hashed(commit: &Commit) -> u64 {
    let id = evstore_api::CommitId::derive(&[
        commit.stream.namespace.as_str().as_bytes(),
        commit.stream.name.as_str().as_bytes(),
    ]);
    u64::from_le_bytes(id.0[..8].try_into().expect("it is eight bytes"))
}

/// Values of which every so many-th is kept, so that memory stays bounded, and the largest always.
#[derive(Debug, Default)]
struct Sample {
    kept: Vec<u64>,
    /// One in two to the power of this is kept.
    thinned: u32,
    seen: u64,
    largest: u64,
}

impl Sample {
    fn add(&mut self, value: u64) {
        self.largest = self.largest.max(value);
        if self.seen.is_multiple_of(1 << self.thinned) {
            self.kept.push(value);
        }
        self.seen += 1;
        if self.kept.len() >= SIZES_MAX {
            let mut keep = false;
            self.kept.retain(|_| {
                keep = !keep;
                keep
            });
            self.thinned += 1;
        }
    }

    fn quantiles(&self) -> Vec<u64> {
        let mut kept = self.kept.clone();
        let mut all = quantiles(&mut kept);
        if let Some(last) = all.last_mut() {
            *last = self.largest;
        }
        all
    }
}

/// Twenty members that stand for all: from each twentieth the one in its middle, from the last the largest.
fn quantiles(values: &mut [u64]) -> Vec<u64> {
    values.sort_unstable();
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let at = |member: usize| values[(last * (2 * member + 1)) / (2 * MEMBERS)];
    let mut all: Vec<u64> = (0..MEMBERS).map(at).collect();
    all[MEMBERS - 1] = values[last];
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_members_stand_for_all_and_the_last_is_the_largest() {
        let mut values: Vec<u64> = (1..=1_000).collect();
        let all = quantiles(&mut values);
        assert_eq!((all.len(), all[0], all[19]), (20, 25, 1_000));
        assert_eq!(quantiles(&mut [7]), vec![7; 20]);
    }

    #[test]
    fn a_sample_stays_small_and_keeps_the_largest() {
        let mut sample = Sample::default();
        (0..500_000).for_each(|value| sample.add(value % 1_000));
        sample.add(5_000);
        assert!(sample.kept.len() < SIZES_MAX);
        let all = sample.quantiles();
        assert!(all[10].abs_diff(525) < 20, "{all:?}");
        assert_eq!(all[19], 5_000);
    }
}
