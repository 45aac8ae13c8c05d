//! The document of a run: what programs read, and what everything that is shown is made of. `docs/COMPARE.md` has its schema; fields are
//! only ever added.

use crate::answers::{self, Answer};
use crate::cost::{self, Cost as Price};
use crate::estimate::{self, Bill, Payer, Reckoned};
use crate::losses::{self, Loss};
use crate::prices::Prices;
use crate::run::{Found, Opened, micros};
use crate::spread::Spread;
use crate::tally::{Cost, Latencies};
use crate::workload::Plan;
use evstore_api::{Capabilities, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema that this release writes.
pub const SCHEMA: u32 = 1;

/// What a run found, whole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The schema of this document.
    pub schema: u32,
    /// When it began, RFC 3339.
    pub began_at: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether all was measured; else it was interrupted, and the rows are what there was by then.
    pub complete: bool,
    /// Where it ran.
    pub machine: Machine,
    /// The seed of payloads and choices.
    pub seed: u64,
    /// What was measured.
    pub plan: Plan,
    /// The stores.
    pub stores: Vec<Store>,
    /// What was measured, a row for each workload, number of callers and store.
    pub rows: Vec<Row>,
    /// What the measuring itself costs, where it was measured.
    pub harness: Option<Harness>,
    /// What a million operations of a row cost, by the offers for its store's provider.
    pub costs: Vec<Price>,
    /// A month's bills, where the workloads were made of a live store.
    pub bills: Vec<Bill>,
    /// What each row was reckoned to take by the rules of an offer, beside what its receipts counted.
    #[serde(default)]
    pub reckoned: Vec<Reckoned>,
    /// What accidents take of what was acknowledged: measured, by a model, or why not.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// Write units that one partition gives in a second, by store, where its offer has such a limit.
    #[serde(default)]
    pub partition_limits: BTreeMap<String, u64>,
    /// Of when and where the prices are.
    pub prices: String,
    /// The questions that people ask, each with its answer or why there is none.
    pub answers: Vec<Answer>,
    /// What the figures do not show.
    pub does_not_show: Vec<String>,
}

/// Where a run was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// The release of evstore.
    pub release: String,
    /// How it was built: `release` or `debug`.
    pub build: String,
    /// Processors that it may use.
    pub processors: usize,
    /// Operating system and processor.
    pub platform: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            build: if cfg!(debug_assertions) { "debug".into() } else { "release".into() },
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// A store that was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Store {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// Its engine, as it says itself.
    pub engine: String,
    /// What it promises: names and values, in the order of the contract.
    pub promises: Vec<(String, String)>,
    /// What can take acknowledged commits from it, as it is set up.
    pub risks: Vec<String>,
    /// Where its config points, if not to the service itself: an emulator, most often, whose times say nothing about the service.
    pub endpoint: Option<String>,
    /// How it is set up: every choice, and what differs from its default.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Largest commit that it takes, in bytes; none where it has no bound.
    pub commit_bytes_max: Option<u64>,
    /// What the catalog said, where it was asked.
    pub conformance: Option<Conformance>,
}

/// What the catalog said of a store.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Conformance {
    /// Names of checks that begin so were run; all where there is none.
    pub only: Vec<String>,
    /// How many checks have each verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Promises that are broken: the check and what it found.
    pub broken: Vec<(String, String)>,
    /// The seed that repeats it.
    pub seed: u64,
}

/// What was measured of one workload, on one store, with one number of callers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// Its title.
    pub title: String,
    /// The store's name.
    pub store: String,
    /// Whether it is of the store that does nothing.
    pub harness: bool,
    /// Whether it is of a bare client of an engine: the store that it is the floor of. Its own name has `:bare` behind that.
    #[serde(default)]
    pub bare: Option<String>,
    /// Callers at a time; with a rate, operations under way at most.
    pub callers: u32,
    /// Operations that were begun in a second, in an open loop.
    pub rate: Option<f64>,
    /// Rounds that were measured.
    pub rounds: u32,
    /// How long they took together.
    pub seconds: f64,
    /// Operations that were answered.
    pub operations: u64,
    /// The same in a second, round by round.
    pub per_second: Spread,
    /// The same as numbers, in the order of the rounds.
    #[serde(default)]
    pub by_round: Vec<f64>,
    /// Its rate as a share of its floor's, round by round; none where there is no bare client for it.
    #[serde(default)]
    pub of_floor: Option<Spread>,
    /// Events written or read in a second.
    pub events_per_second: Spread,
    /// Latencies of all rounds together.
    pub latency: Latency,
    /// The median latency, round by round.
    pub p50_us: Spread,
    /// The 99th percentile, round by round.
    pub p99_us: Spread,
    /// Attempts that conflicted and were made again.
    pub conflicts: u64,
    /// Operations that failed, by kind; `not_begun` are those that an open loop was too late for.
    pub errors: BTreeMap<String, u64>,
    /// What the first error said.
    pub first_error: Option<String>,
    /// The share that was answered within the workload's bound.
    pub within: Option<f64>,
    /// What the engine says that an operation costs, where it says so.
    pub cost: PerOperation,
    /// Reads through another node, where the workload makes some.
    pub stale: Option<Stale>,
    /// What became of everything that was acknowledged, where the workload is checked.
    pub checked: Option<Checked>,
    /// Why it could not be measured.
    pub failed: Option<String>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names of quantiles say what they are")]
pub struct Latency {
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// Of a histogram; zeros where it is empty.
    #[must_use]
    pub fn of(latencies: &Latencies) -> Self {
        if latencies.is_empty() {
            return Self::default();
        }
        Self {
            p50_us: micros(latencies, 0.5),
            p90_us: micros(latencies, 0.9),
            p99_us: micros(latencies, 0.99),
            p999_us: micros(latencies, 0.999),
            max_us: latencies.max() as f64 / 1_000.0,
        }
    }
}

/// What an operation costs, by its receipts. Zeros where an engine does not say.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PerOperation {
    /// Requests to the engine.
    pub requests: f64,
    /// Read units.
    pub read_units: f64,
    /// Write units.
    pub write_units: f64,
}

impl PerOperation {
    /// Of what was counted over some operations.
    #[must_use]
    pub fn of(cost: &Cost, operations: u64) -> Self {
        let each = |sum: f64| if operations == 0 { 0.0 } else { sum / operations as f64 };
        Self { requests: each(cost.requests), read_units: each(cost.read_units), write_units: each(cost.write_units) }
    }
}

/// Reads through another node than the one that was acknowledged.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Stale {
    /// How many were made.
    pub reads: u64,
    /// How many did not show what was acknowledged.
    pub stale: u64,
    /// How long it took until one showed it.
    pub until_seen: Latency,
}

/// What became of everything that was acknowledged.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Checked {
    /// Commits that were acknowledged.
    pub acknowledged: u64,
    /// Commits of unknown outcome.
    pub unknown: u64,
    /// Acknowledged, and not in their streams. This and the next three are of all rows of the workload together.
    pub lost: u64,
    /// In the streams twice.
    pub doubled: u64,
    /// In the streams, and nobody's.
    pub unexplained: u64,
    /// In the streams under another revision than was acknowledged, or acknowledged under another than was expected.
    pub elsewhere: u64,
    /// From the acknowledgement until it was read from the feed.
    pub feed_lag: Latency,
    /// Acknowledged, and never in the feed.
    pub feed_missing: u64,
    /// In the feed twice.
    pub feed_doubled: u64,
    /// In the feed out of the order of its stream, or of positions.
    pub feed_disordered: u64,
    /// In the feed before what was acknowledged before it began.
    pub feed_against_time: u64,
    /// What of this the store promises not to happen.
    pub broken: Vec<String>,
}

/// What the measuring costs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Harness {
    /// The row of the fastest store that was measured with it.
    pub row: String,
    /// The share of its time that is the measuring's own: what it adds, on a store that does nothing, to a bare loop of the same calls. All
    /// that it takes there, the calls too, where no loop was measured.
    pub share: f64,
}

impl Row {
    /// Its name in a document: workload, callers, store.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.workload, self.callers, self.store)
    }

    /// Whether it is of a store, and not of the harness or of a floor.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        !self.harness && self.bare.is_none()
    }

    /// Whether there is a figure.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.operations > 0
    }
}

/// What is known beside what was found.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// When it began, RFC 3339.
    pub began_at: String,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub plan: Plan,
    /// The seed.
    pub seed: u64,
    /// What is asked for.
    pub prices: Prices,
    /// What the catalog said, by the store's name.
    pub conformance: BTreeMap<String, Conformance>,
    /// What accidents that were provoked took.
    pub losses: Vec<Loss>,
}

impl Report {
    /// Puts a report together; `promises` tells what a store promises in words.
    #[must_use]
    pub fn new(
        found: Found,
        circumstances: Circumstances,
        promises: impl Fn(&Capabilities) -> Vec<(&'static str, String)>,
    ) -> Self {
        let Circumstances { began_at, seconds, machine, plan, seed, prices, mut conformance, losses } = circumstances;
        let capabilities: Vec<Capabilities> = found.stores.iter().map(|store| store.capabilities.clone()).collect();
        let stores = found.stores.into_iter().map(|Opened { name, capabilities, endpoint, settings }| {
            let promises = promises(&capabilities).into_iter().map(|(name, value)| (name.to_owned(), value));
            Store {
                provider: capabilities.provider.to_owned(),
                engine: capabilities.engine.clone(),
                promises: promises.collect(),
                risks: capabilities.risks().into_iter().map(str::to_owned).collect(),
                commit_bytes_max: match capabilities.limits.commit_bytes {
                    evstore_api::capabilities::Limit::Max(max) => Some(max),
                    evstore_api::capabilities::Limit::None => None,
                },
                conformance: conformance.remove(&name),
                endpoint,
                settings,
                name,
            }
        });
        let stores: Vec<Store> = stores.collect();
        let mut report = Self {
            schema: SCHEMA,
            began_at,
            seconds,
            complete: found.complete,
            machine,
            seed,
            plan,
            stores,
            harness: harness(&found.rows),
            rows: with_floors(found.rows),
            costs: Vec::new(),
            bills: Vec::new(),
            reckoned: Vec::new(),
            partition_limits: BTreeMap::new(),
            losses,
            prices: format!("{}, {}, {}", prices.region, prices.currency, prices.date),
            answers: Vec::new(),
            does_not_show: Vec::new(),
        };
        report.costs = cost::costs(&report, &prices);
        let limit = |store: &Store| {
            let limit = prices.of(&store.provider).find_map(|offer| offer.partition_units_a_second);
            limit.map(|units| (store.name.clone(), units))
        };
        report.partition_limits = report.stores.iter().filter_map(limit).collect();
        report.reckoned = cost::reckoned(&report, &prices);
        let payer = |store: &Store| Payer { provider: store.provider.clone(), settings: store.settings.clone() };
        let payers: Vec<Payer> = report.stores.iter().map(payer).collect();
        if let (Some(observed), false) = (&report.plan.observed, payers.is_empty()) {
            report.bills = estimate::bills(observed, &prices, &payers);
        }
        let by_model = losses::by_model(&report, &capabilities);
        report.losses.extend(by_model);
        report.answers = answers::answers(&report);
        report.does_not_show = answers::does_not_show(&report);
        report
    }

    /// Reads a report that was written before.
    ///
    /// # Errors
    /// `Invalid` for what is none, or one of another schema.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let refused = |message| Error::new(ErrorKind::Invalid, message).with("file", file);
        let unreadable = |cause| refused("it is not a report of `evstore compare`").with("problem", cause);
        let head: Head = serde_json::from_str(text).map_err(unreadable)?;
        if head.schema != SCHEMA {
            let error = refused("this release does not read reports of this schema");
            return Err(error.with("schema", head.schema).with("wanted", SCHEMA));
        }
        serde_json::from_str(text).map_err(unreadable)
    }

    /// The rows of stores, without those of the harness and of floors.
    pub fn store_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_of_store())
    }

    /// What was found that a store promises not to happen: the row, and what.
    pub fn broken(&self) -> impl Iterator<Item = (String, &str)> {
        let of_rows = self.rows.iter().flat_map(|row| {
            row.checked.iter().flat_map(|checked| &checked.broken).map(|what| (row.id(), what.as_str()))
        });
        let of_catalog = self.stores.iter().flat_map(|store| {
            let broken = store.conformance.iter().flat_map(|verdicts| &verdicts.broken);
            broken.map(|(check, what)| (format!("{} {check}", store.name), what.as_str()))
        });
        let of_losses =
            self.losses.iter().filter(|loss| loss.is_broken()).map(|loss| (loss.store.clone(), loss.said.as_str()));
        of_rows.chain(of_catalog).chain(of_losses)
    }
}

/// Each row beside its floor, round by round: what else the machine does changes from one to the next.
fn with_floors(mut rows: Vec<Row>) -> Vec<Row> {
    let floors: Vec<Row> = rows.iter().filter(|row| row.bare.is_some() && row.is_measured()).cloned().collect();
    for row in rows.iter_mut().filter(|row| row.is_of_store() && row.is_measured()) {
        let same = |floor: &&Row| {
            floor.bare.as_ref() == Some(&row.store) && floor.workload == row.workload && floor.callers == row.callers
        };
        let ratios = floors.iter().find(same).map(|floor| {
            let rounds = row.by_round.iter().zip(&floor.by_round).filter(|(_, floor)| **floor > 0.0);
            rounds.map(|(own, floor)| own / floor).collect::<Vec<f64>>()
        });
        row.of_floor = ratios.filter(|ratios| !ratios.is_empty()).map(|ratios| Spread::of(&ratios));
    }
    rows
}

/// The share of the fastest store's time that is the measuring's own.
fn harness(rows: &[Row]) -> Option<Harness> {
    let takes = |row: &Row, is_bare: bool| {
        let same = |other: &&Row| {
            other.harness
                && other.bare.is_some() == is_bare
                && other.workload == row.workload
                && other.callers == row.callers
        };
        rows.iter().find(same).filter(|other| other.is_measured()).map(|other| 1.0 / other.per_second.median)
    };
    // An open loop goes at its rate whoever answers.
    let shares =
        rows.iter().filter(|row| row.is_of_store() && row.rate.is_none() && row.is_measured()).filter_map(|row| {
            let own = takes(row, false)? - takes(row, true).unwrap_or(0.0);
            Some(Harness { row: row.id(), share: row.per_second.median * own.max(0.0) })
        });
    shares.max_by(|a, b| a.share.total_cmp(&b.share))
}
