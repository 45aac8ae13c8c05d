//! Workloads as data: a TOML file of what is measured, and how. Everything that can be wrong with one is found here, before a store is
//! touched.

use crate::observed::Observed;
use evstore_api::provider::parse_duration;
use evstore_api::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;
use std::time::Duration;

/// The form of workload files that this release reads.
pub const SCHEMA: u32 = 1;

/// What is measured where no file is named: what the stores differ in, in under two minutes for the embedded ones.
pub const STANDARD: &str = include_str!("../workloads/standard.toml");

/// Most rounds of a plan.
const ROUNDS_MAX: u32 = 100;
/// Longest time that one cell is driven in a round.
const MEASURE_MAX: Duration = Duration::from_secs(3600);
/// Most callers of a cell.
const CALLERS_MAX: u32 = 4096;
/// Most clients of one store.
const NODES_MAX: u32 = 64;
/// Most streams of a workload, and most events that are put into them before it begins: they are written one stream after another.
const STREAMS_MAX: u64 = 1_000_000;
const EVENTS_BEFORE_MAX: u64 = 10_000_000;
/// Largest event and most events of a commit that a workload may ask for; a store's own limits are lower and show in its row.
const EVENT_BYTES_MAX: u32 = 16 << 20;
const COMMIT_EVENTS_MAX: u32 = 10_000;
/// Highest rate of an open loop.
const RATE_MAX: f64 = 1_000_000.0;

/// A file of workloads.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The form of the file.
    pub schema: u32,
    /// Its name in reports.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// How often each cell is measured, in turns with the other stores'.
    pub rounds: u32,
    /// How long a cell is driven in each round.
    pub measure: Time,
    /// How long it is driven before its first round, without being counted.
    pub warm_up: Time,
    /// What was seen of a live store, where the workloads were made of one: what a bill is reckoned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    /// What is measured, in this order.
    #[serde(rename = "workload")]
    pub workloads: Vec<Workload>,
}

/// One workload: a mix of operations on streams of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name: `a` to `z`, digits and `-`. Rows of two reports are compared by it.
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// Why it is measured, or what to know about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Which operations it makes, and how often of each.
    pub does: Mix,
    /// A row for each of these: so many callers at a time. With a `rate`: at most so many calls under way.
    pub callers: Vec<u32>,
    /// An open loop: so many operations begin in a second, whatever becomes of those before. Latency counts from when each was to
    /// begin, so that a stall shows in all that it held up. A closed loop where it is not given: each caller goes on when it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The share of operations that are answered within this is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_within: Option<Time>,
    /// Clients of the store, as nodes of an application have one each; callers are dealt out to them.
    #[serde(default = "one")]
    pub nodes: u32,
    /// How many streams there are. With fewer streams than callers, callers contend for them; else each has its own.
    #[serde(default = "thousand")]
    pub streams: u64,
    /// Shares of the operations that the hottest streams get, the hottest first; the rest goes to all by turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hot: Vec<f64>,
    /// Events in each stream before it begins.
    #[serde(default)]
    pub stream_events: u64,
    /// A snapshot of each stream, so many events before its last; loads begin there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_behind: Option<u64>,
    /// Bytes of a snapshot.
    #[serde(default = "thousand_bytes")]
    pub snapshot_bytes: u32,
    /// Events in a commit: a number, or a list whose members are equally frequent.
    #[serde(default = "Sizes::one")]
    pub commit_events: Sizes,
    /// Bytes of an event's data: a number, or a list whose members are equally frequent.
    #[serde(default = "Sizes::event")]
    pub event_bytes: Sizes,
    /// Whether data is JSON, in which compression finds what it finds in events; else random bytes, in which it finds nothing, so that a store
    /// that compresses keeps them as they are.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub compressible: bool,
    /// What appends expect of their stream.
    #[serde(default)]
    pub expected: Expectation,
    /// Keeps every acknowledgement, follows the feed meanwhile, and compares both with what is there afterwards.
    #[serde(default, skip_serializing_if = "is_false")]
    pub check: bool,
    /// A log whose events are appended, stream by stream in its order: `permits`, or a file of JSON lines (`stream`, `type`, `data`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Also measured against a store that does nothing, to tell what the measuring costs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub harness: bool,
}

/// How often each operation is made, as weights.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Appends a commit.
    #[serde(skip_serializing_if = "is_zero")]
    pub append: u32,
    /// Reads a stream whole, from its snapshot where there is one.
    #[serde(skip_serializing_if = "is_zero")]
    pub load: u32,
    /// A command: loads a stream, and appends under the expectation that nothing came between.
    #[serde(skip_serializing_if = "is_zero")]
    pub execute: u32,
    /// Appends through one node and reads the head through another.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_back: u32,
    /// Reads one page of the feed, from the first event on, again and again.
    #[serde(skip_serializing_if = "is_zero")]
    pub catch_up: u32,
}

/// An operation of the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// See [`Mix::append`].
    Append,
    /// See [`Mix::load`].
    Load,
    /// See [`Mix::execute`].
    Execute,
    /// See [`Mix::read_back`].
    ReadBack,
    /// See [`Mix::catch_up`].
    CatchUp,
}

impl Mix {
    /// The operations that are made, with their weights.
    #[must_use]
    pub fn parts(&self) -> Vec<(Operation, u32)> {
        let Self { append, load, execute, read_back, catch_up } = *self;
        let all = [
            (Operation::Append, append),
            (Operation::Load, load),
            (Operation::Execute, execute),
            (Operation::ReadBack, read_back),
            (Operation::CatchUp, catch_up),
        ];
        all.into_iter().filter(|(_, weight)| *weight > 0).collect()
    }

    fn has(&self, operation: Operation) -> bool {
        self.parts().iter().any(|(one, _)| *one == operation)
    }
}

/// What appends expect.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// The head that the caller knows: what an event-sourced application does.
    #[default]
    Head,
    /// Nothing.
    Any,
}

/// Sizes that are drawn from, each as often as the others.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Sizes {
    /// Always this.
    One(u32),
    /// One of these.
    Many(Vec<u32>),
}

impl Sizes {
    fn one() -> Self {
        Self::One(1)
    }

    fn event() -> Self {
        Self::One(256)
    }

    /// The sizes, at least one.
    #[must_use]
    pub fn all(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// What is drawn on average.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let all = self.all();
        all.iter().map(|one| f64::from(*one)).sum::<f64>() / all.len().max(1) as f64
    }

    /// The largest.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.all().iter().copied().max().unwrap_or_default()
    }
}

/// A time, as config files write it: `500ms`, `2s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wanted = || serde::de::Error::custom(format!("\"{text}\" is not a time; write \"500ms\" or \"2s\""));
        parse_duration(&text).map(Self).ok_or_else(wanted)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", self.0.as_millis()))
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

fn one() -> u32 {
    1
}

fn thousand() -> u64 {
    1_000
}

fn thousand_bytes() -> u32 {
    1_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Plan {
    /// Reads a workload file; `file` is how messages call it.
    ///
    /// # Errors
    /// `Invalid`, with the line and what to write instead.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text).map_err(|cause| misread(&cause, text, file))?;
        plan.validate().map_err(|error| error.with("file", file))?;
        Ok(plan)
    }

    /// The plan that is measured where no file is named.
    #[must_use]
    pub fn standard() -> Self {
        Self::parse(STANDARD, "standard").expect("a test parses it")
    }

    /// Keeps only workloads whose names begin with one of these; all where there is none.
    ///
    /// # Errors
    /// `Invalid` where none is left, naming the known ones.
    pub fn only(mut self, prefixes: &[String]) -> Result<Self> {
        if prefixes.is_empty() {
            return Ok(self);
        }
        let known: Vec<String> = self.workloads.iter().map(|workload| workload.name.clone()).collect();
        self.workloads.retain(|workload| prefixes.iter().any(|prefix| workload.name.starts_with(&**prefix)));
        if self.workloads.is_empty() {
            let error = refused("no workload begins so").with("given", prefixes.join(" "));
            return Err(error.with("known", known.join(" ")));
        }
        Ok(self)
    }

    fn validate(&self) -> Result<()> {
        if self.schema != SCHEMA {
            let error = refused("this release does not read workload files of this schema");
            return Err(error.with("schema", self.schema).with("wanted", SCHEMA));
        }
        between("rounds", f64::from(self.rounds), 1.0, f64::from(ROUNDS_MAX))?;
        for (key, time) in [("measure", self.measure), ("warm_up", self.warm_up)] {
            let least = if key == "measure" { Duration::from_millis(10) } else { Duration::ZERO };
            if time.0 < least || time.0 > MEASURE_MAX {
                let error = refused("a time is out of its range").with("key", key);
                return Err(error.with("wanted", format!("{} ms to {} s", least.as_millis(), MEASURE_MAX.as_secs())));
            }
        }
        if self.workloads.is_empty() {
            return Err(refused("a workload file has at least one [[workload]]"));
        }
        let mut names = HashSet::new();
        for workload in &self.workloads {
            workload.validate().map_err(|error| error.with("workload", &workload.name))?;
            if !names.insert(&workload.name) {
                return Err(refused("two workloads have one name").with("workload", &workload.name));
            }
        }
        Ok(())
    }
}

impl Workload {
    fn validate(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.chars().all(fits) {
            return Err(refused("a workload's name is 1 to 40 of a-z, 0-9 and -"));
        }
        if self.does.parts().is_empty() {
            let error = refused("a workload does something: does = { append = 1 }");
            return Err(error.with("known", "append load execute read_back catch_up"));
        }
        if self.callers.is_empty() {
            return Err(refused("a workload has callers: callers = [1, 8]"));
        }
        for callers in &self.callers {
            between("callers", f64::from(*callers), 1.0, f64::from(CALLERS_MAX))?;
        }
        between("nodes", f64::from(self.nodes), 1.0, f64::from(NODES_MAX))?;
        between("streams", self.streams as f64, 1.0, STREAMS_MAX as f64)?;
        let before = self.streams as f64 * self.stream_events as f64;
        between("streams times stream_events", before, 0.0, EVENTS_BEFORE_MAX as f64)?;
        if let Some(rate) = self.rate {
            between("rate", rate, 0.1, RATE_MAX)?;
        }
        for (key, sizes, least, most) in [
            ("commit_events", &self.commit_events, 1, COMMIT_EVENTS_MAX),
            ("event_bytes", &self.event_bytes, 0, EVENT_BYTES_MAX),
        ] {
            if sizes.all().is_empty() || sizes.all().len() > 1_000 {
                return Err(refused("a list of sizes has 1 to 1000 members").with("key", key));
            }
            for size in sizes.all() {
                between(key, f64::from(*size), f64::from(least), f64::from(most))?;
            }
        }
        let shares: f64 = self.hot.iter().sum();
        if self.hot.len() as u64 > self.streams
            || self.hot.iter().any(|share| !(0.0..=1.0).contains(share))
            || shares > 1.0
        {
            return Err(refused("hot has shares from 0 to 1, together at most 1, and no more of them than streams"));
        }
        if self.does.has(Operation::ReadBack) && self.nodes < 2 {
            return Err(refused("read_back reads through another node: nodes = 2"));
        }
        if self.snapshot_behind.is_some_and(|behind| behind >= self.stream_events) {
            return Err(refused("a snapshot stands on an event: snapshot_behind is less than stream_events"));
        }
        if self.log.is_some() && self.does.parts() != [(Operation::Append, self.does.append)] {
            return Err(refused("a log is appended: does = { append = 1 }"));
        }
        if self.log.is_some() && self.check {
            return Err(refused("a log and check do not go together"));
        }
        Ok(())
    }

    /// Whether a bare client can do it too: one kind of call at a time, each caller on streams of its own, whole commits of one size.
    #[must_use]
    pub fn has_floor(&self, loads: bool) -> bool {
        let most = self.callers.iter().max().copied().unwrap_or(1);
        let own = self.streams >= u64::from(most) && self.nodes == 1 && self.hot.is_empty();
        let plain = self.rate.is_none() && self.log.is_none() && !self.check && self.snapshot_behind.is_none();
        let even =
            matches!(self.commit_events, Sizes::One(events) if self.stream_events.is_multiple_of(u64::from(events)));
        let call = match self.does.parts().as_slice() {
            [(Operation::Append, _)] => self.expected == Expectation::Head,
            [(Operation::Load, _)] => loads,
            _ => false,
        };
        own && plain && even && call
    }

    /// Whether it reads the feed, and so needs some in it.
    #[must_use]
    pub fn catches_up(&self) -> bool {
        self.does.has(Operation::CatchUp)
    }

    /// Whether it needs a store that keeps what it is given: the store that does nothing can't show it.
    #[must_use]
    pub fn needs_content(&self) -> bool {
        self.check || self.does.has(Operation::CatchUp) || self.does.has(Operation::ReadBack)
    }

    /// Whether it appends what was made beforehand as fast as it is answered, and does nothing else.
    #[must_use]
    pub fn only_appends(&self) -> bool {
        let is_append = |(operation, _): &(Operation, u32)| *operation == Operation::Append;
        self.does.parts().iter().all(is_append) && self.log.is_none() && self.rate.is_none()
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn between(key: &'static str, value: f64, least: f64, most: f64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let error = refused("a number is out of its range").with("key", key).with("given", value);
    Err(error.with("wanted", format!("{least} to {most}")))
}

/// What TOML found, with the line, and the nearest of the known keys where one is unknown.
pub(crate) fn misread(cause: &toml::de::Error, text: &str, file: &str) -> Error {
    let line = cause.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
    let mut error = refused("the file is not understood").with("file", file);
    if let Some(line) = line {
        error = error.with("line", line);
    }
    let message = cause.message();
    if let Some(meant) = meant(message) {
        error = error.with("did you mean", meant);
    }
    error.with("problem", message)
}

/// The known key that is nearest to an unknown one. Serde's message names both, each between backticks, the unknown one first.
fn meant(message: &str) -> Option<&str> {
    if !message.starts_with("unknown") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let wrong = names.next()?;
    let near = names.map(|name| (strsim::jaro_winkler(wrong, name), name)).filter(|(likeness, _)| *likeness > 0.75);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workload: &str) -> Result<Plan> {
        let head = "schema = 1\nname = \"t\"\nabout = \"\"\nrounds = 1\nmeasure = \"1s\"\nwarm_up = \"0ms\"\n";
        Plan::parse(&format!("{head}[[workload]]\n{workload}"), "t.toml")
    }

    const GOOD: &str = "name = \"a\"\ntitle = \"a\"\ndoes = { append = 1 }\ncallers = [1]\n";

    fn context(error: &Error, name: &str) -> String {
        error.context().iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    #[test]
    fn the_standard_plan_is_read() {
        let plan = Plan::standard();
        assert!(plan.workloads.iter().any(|workload| workload.harness));
        assert!(plan.workloads.iter().any(|workload| workload.check));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        let error = plan(&format!("{GOOD}callrs = [8]\n")).unwrap_err();
        assert_eq!((context(&error, "line"), context(&error, "did you mean")), ("11".into(), "callers".into()));
        let error = plan(&GOOD.replace("append", "apend")).unwrap_err();
        assert_eq!(context(&error, "did you mean"), "append");
    }

    #[test]
    fn what_can_not_be_measured_is_refused_before_anything_runs() {
        for wrong in [
            GOOD.replace("append = 1", "append = 0"),
            GOOD.replace("[1]", "[]"),
            GOOD.replace("[1]", "[0]"),
            GOOD.replace("\"a\"", "\"A b\""),
            GOOD.replace("append", "read_back"),
            format!("{GOOD}rate = 0\n"),
            format!("{GOOD}streams = 0\n"),
            format!("{GOOD}commit_events = []\n"),
            format!("{GOOD}event_bytes = [1, 99999999]\n"),
            format!("{GOOD}hot = [0.9, 0.2]\n"),
            format!("{GOOD}stream_events = 5\nsnapshot_behind = 5\n"),
            format!("{GOOD}stream_events = 100000000\n"),
            format!("{GOOD}answer_within = \"soon\"\n"),
            format!("{GOOD}log = \"permits\"\ncheck = true\n"),
        ] {
            assert_eq!(plan(&wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
        assert!(plan(GOOD).is_ok());
    }

    #[test]
    fn a_plan_that_is_written_is_read_again() {
        let plan = Plan::standard();
        let text = toml::to_string(&plan).unwrap();
        let again = Plan::parse(&text, "again").unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), text);
    }
}
