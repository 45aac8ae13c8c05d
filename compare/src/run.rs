//! A run: every workload on every contender, round by round in turns, and what was found so far at any moment.

use crate::check::{self, Kept, StreamsHeld};
use crate::contender::{Contender, Part};
use crate::drive::{Driven, call, drive};
use crate::log::Log;
use crate::noop;
use crate::report::{Checked, Latency, PerOperation, Row, Stale};
use crate::spread::Spread;
use crate::stage::Stage;
use crate::tally::{Latencies, Tally};
use crate::workload::{Plan, Workload};
use evstore_api::{Capabilities, ConfigKey, Error, KeyDefault, KeyKind, Result, Secrecy, Settings};
use futures::future::join_all;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is measured, on what.
#[derive(Clone, Debug)]
pub struct Run {
    /// The workloads.
    pub plan: Plan,
    /// The stores, and the one that does nothing.
    pub contenders: Vec<Contender>,
    /// The logs that workloads name.
    pub logs: HashMap<String, Arc<Log>>,
    /// Seed of payloads, ids and choices.
    pub seed: u64,
}

/// What was found so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Results(Arc<Mutex<Found>>);

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The stores that were opened, in the order of the contenders.
    pub stores: Vec<Opened>,
    /// The rows, in the order of the plan.
    pub rows: Vec<Row>,
    /// Whether all was measured.
    pub complete: bool,
}

/// A store that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its name.
    pub name: String,
    /// What it promises.
    pub capabilities: Capabilities,
    /// Where its config points, if not to the service itself: an emulator, most often.
    pub endpoint: Option<String>,
    /// How it is set up: every choice, and what differs from its default. No address and no secret is in it.
    pub settings: BTreeMap<String, String>,
}

impl Results {
    /// What was found so far.
    #[must_use]
    pub fn found(&self) -> Found {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Whole rows are put in: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, contender: &Contender, capabilities: &Capabilities) {
        let mut found = self.lock();
        if found.stores.iter().all(|known| known.name != contender.name) {
            let endpoint = contender.settings.text("endpoint").map(str::to_owned);
            let settings = told(&contender.settings);
            let (name, capabilities) = (contender.name.clone(), capabilities.clone());
            found.stores.push(Opened { name, capabilities, endpoint, settings });
        }
    }

    /// Puts a row in, in the place of what was known of it.
    fn put(&self, row: Row) {
        let mut found = self.lock();
        match found.rows.iter_mut().find(|known| known.id() == row.id()) {
            Some(known) => *known = row,
            None => found.rows.push(row),
        }
    }
}

/// What of a store's settings says how it is set up, and not where it is or whose.
#[must_use]
pub fn told(settings: &Settings) -> BTreeMap<String, String> {
    let shown = |key: &&ConfigKey| {
        let differs = match (settings.text(key.name), key.default) {
            (None, _) => false,
            (Some(value), KeyDefault::Value(default)) => value != default,
            (Some(_), KeyDefault::Required | KeyDefault::Absent) => true,
        };
        key.secrecy == Secrecy::Plain
            && match key.kind {
                KeyKind::OneOf(_) => settings.text(key.name).is_some(),
                KeyKind::Count | KeyKind::Bytes | KeyKind::Duration => differs,
                // Where it is, and whether it is made: nothing that is measured depends on it.
                KeyKind::Text | KeyKind::Path | KeyKind::Switch => false,
            }
    };
    let keys = settings.keys().iter().filter(shown);
    keys.map(|key| (key.name.to_owned(), settings.text(key.name).unwrap_or_default().to_owned())).collect()
}

/// How far a run is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Rounds of cells that are done.
    pub done: u64,
    /// Those that there are.
    pub total: u64,
    /// What is measured now.
    pub on: String,
}

impl Run {
    /// How many rounds of cells there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        let cells = self.plan.workloads.iter().map(|workload| workload.callers.len() * self.of(workload).count());
        cells.sum::<usize>() as u64 * u64::from(self.plan.rounds)
    }

    /// Measures. What a store fails at stands in its rows; the others go on.
    ///
    /// # Errors
    /// None of a store's: only when the run itself can't go on.
    pub async fn run(&self, results: &Results, mut progress: impl FnMut(&Progress)) -> Result<()> {
        let mut state = Progress { done: 0, total: self.total(), on: String::new() };
        for workload in &self.plan.workloads {
            let mut cells = self.stages(workload, results, &mut state, &mut progress).await;
            for round in 0..self.plan.rounds {
                for (at, callers) in workload.callers.iter().enumerate() {
                    for cell in &mut cells {
                        state.on = format!("{} with {callers} on {}", workload.name, cell.contender.name);
                        progress(&state);
                        let seed = self.seed ^ (u64::from(round) << 32) ^ at as u64;
                        cell.measure(&self.plan, *callers, round, seed).await;
                        results.put(cell.row(*callers));
                        state.done += 1;
                        progress(&state);
                    }
                }
            }
            join_all(cells.into_iter().map(|cell| cell.end(results))).await;
        }
        results.lock().complete = true;
        Ok(())
    }

    /// The contenders that take part in a workload.
    fn of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Contender> {
        let harness = workload.harness && !workload.needs_content();
        let calls = harness && workload.only_appends();
        self.contenders.iter().filter(move |contender| match &contender.part {
            Part::Store => true,
            Part::Floor { loads, .. } => workload.has_floor(*loads),
            Part::Harness => harness,
            Part::Calls => calls,
        })
    }

    async fn stages(
        &self,
        workload: &Workload,
        results: &Results,
        state: &mut Progress,
        progress: &mut impl FnMut(&Progress),
    ) -> Vec<Cell> {
        state.on = format!("{} is prepared", workload.name);
        progress(state);
        let log = workload.log.as_ref().and_then(|name| self.logs.get(name));
        // At a time: most of it is waiting for engines, and nothing is measured yet.
        let prepared =
            join_all(self.of(workload).map(async |contender| {
                (contender, Stage::prepare(contender, workload, log.cloned(), self.seed).await)
            }));
        let cell = |(contender, stage): (&Contender, Result<Arc<Stage>>)| {
            if let (Ok(stage), Part::Store) = (&stage, &contender.part) {
                results.opened(contender, stage.scratch.watcher.capabilities());
            }
            Cell { contender: contender.clone(), workload: workload.clone(), stage, sums: HashMap::new() }
        };
        prepared.await.into_iter().map(cell).collect()
    }
}

/// One workload on one contender.
#[derive(Debug)]
struct Cell {
    contender: Contender,
    workload: Workload,
    stage: Result<Arc<Stage>>,
    /// By the number of callers.
    sums: HashMap<u32, Sum>,
}

/// The rounds of one row.
#[derive(Debug, Default)]
struct Sum {
    tally: Tally,
    seconds: f64,
    per_second: Vec<f64>,
    events_per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    checked: Option<Checked>,
    failed: Option<String>,
}

impl Cell {
    async fn measure(&mut self, plan: &Plan, callers: u32, round: u32, seed: u64) {
        let sum = self.sums.entry(callers).or_default();
        let stage = match &self.stage {
            Ok(stage) => stage,
            Err(error) => {
                sum.failed = Some(format!("it could not be prepared: {error}"));
                return;
            }
        };
        if sum.failed.is_some() {
            return;
        }
        if round == 0 && plan.warm_up.0 > Duration::ZERO {
            match drive(stage, callers, plan.warm_up.0, !seed).await {
                Ok(driven) => sum.tally.merge(driven.tally.warm()),
                Err(error) => return sum.fail(&error),
            }
        }
        let driven = match &self.contender.part {
            Part::Calls => call(stage, callers, plan.measure.0, seed).await,
            Part::Store | Part::Floor { .. } | Part::Harness => drive(stage, callers, plan.measure.0, seed).await,
        };
        match driven {
            Ok(driven) => sum.add(driven),
            Err(error) => sum.fail(&error),
        }
    }

    fn row(&self, callers: u32) -> Row {
        let empty = Sum::default();
        let sum = self.sums.get(&callers).unwrap_or(&empty);
        let tally = &sum.tally;
        let bound = self.workload.answer_within;
        Row {
            workload: self.workload.name.clone(),
            title: self.workload.title.clone(),
            store: self.contender.name.clone(),
            harness: matches!(self.contender.part, Part::Harness | Part::Calls),
            bare: match &self.contender.part {
                Part::Floor { of, .. } => Some(of.clone()),
                Part::Calls => Some(noop::NAME.into()),
                Part::Store | Part::Harness => None,
            },
            by_round: sum.per_second.clone(),
            of_floor: None,
            callers,
            rate: self.workload.rate,
            rounds: sum.per_second.len() as u32,
            seconds: sum.seconds,
            operations: tally.done,
            per_second: Spread::of(&sum.per_second),
            events_per_second: Spread::of(&sum.events_per_second),
            latency: Latency::of(&tally.latency),
            p50_us: Spread::of(&sum.p50),
            p99_us: Spread::of(&sum.p99),
            conflicts: tally.conflicts,
            errors: tally.errors.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            first_error: tally.first_error.clone(),
            within: bound.filter(|_| tally.done > 0).map(|_| tally.within as f64 / tally.done as f64),
            cost: PerOperation::of(&tally.cost, tally.done),
            stale: (tally.read_back > 0).then(|| Stale {
                reads: tally.read_back,
                stale: tally.stale,
                until_seen: Latency::of(&tally.stale_for),
            }),
            checked: sum.checked.clone(),
            failed: sum.failed.clone(),
        }
    }

    /// Looks for what was acknowledged, and removes the scratch store.
    async fn end(mut self, results: &Results) {
        let Ok(stage) = std::mem::replace(&mut self.stage, Err(Error::new(evstore_api::ErrorKind::Closed, "over")))
        else {
            return;
        };
        // What callers that did not end were told is not known: nothing can be said about it.
        if self.workload.check && self.sums.values().all(|sum| sum.failed.is_none()) {
            self.verify(&stage, results).await;
        }
        if let Err(error) = Stage::clear(stage).await {
            for callers in self.workload.callers.clone() {
                self.sums.entry(callers).or_default().failed =
                    Some(format!("its scratch store is still there: {error}"));
                results.put(self.row(callers));
            }
        }
    }

    /// Rows of one workload share its streams: what was acknowledged in one is looked for together with the others'.
    async fn verify(&mut self, stage: &Arc<Stage>, results: &Results) {
        let mut all = Kept::default();
        self.sums.values().for_each(|sum| all.merge(sum.tally.kept.clone()));
        let held = check::verify(stage, &all).await;
        for callers in &self.workload.callers {
            let Some(sum) = self.sums.get_mut(callers) else { continue };
            match &held {
                Ok(held) => sum.checked = Some(checked(stage, sum, held)),
                Err(error) => sum.failed = Some(format!("its streams could not be read back: {error}")),
            }
            results.put(self.row(*callers));
        }
    }
}

fn checked(stage: &Stage, sum: &Sum, held: &StreamsHeld) -> Checked {
    let feed = &sum.tally.kept.feed;
    Checked {
        acknowledged: sum.tally.kept.acknowledged.len() as u64,
        unknown: sum.tally.kept.unknown.len() as u64,
        lost: held.lost,
        doubled: held.doubled,
        unexplained: held.unexplained,
        elsewhere: held.elsewhere,
        feed_lag: Latency::of(&feed.lag),
        feed_missing: feed.missing,
        feed_doubled: feed.doubled,
        feed_disordered: feed.disordered,
        feed_against_time: feed.against_time,
        broken: check::broken(stage.scratch.watcher.capabilities(), feed, held),
    }
}

impl Sum {
    fn add(&mut self, driven: Driven) {
        let Driven { tally, seconds } = driven;
        self.per_second.push(tally.done as f64 / seconds);
        self.events_per_second.push(tally.events as f64 / seconds);
        if tally.done > 0 {
            self.p50.push(micros(&tally.latency, 0.5));
            self.p99.push(micros(&tally.latency, 0.99));
        }
        self.seconds += seconds;
        self.tally.merge(tally);
    }

    fn fail(&mut self, error: &Error) {
        self.failed = Some(error.to_string());
    }
}

/// A quantile in microseconds.
#[must_use]
pub fn micros(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1_000.0
}
