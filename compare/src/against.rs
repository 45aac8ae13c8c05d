//! Two reports: what changed from one to the other.

use crate::report::{Report, Row};
use serde::Serialize;

/// A row that both have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub row: String,
    /// Operations in a second before, in the middle of the rounds.
    pub before_per_second: f64,
    /// Operations in a second now.
    pub now_per_second: f64,
    /// The 99th percentile before, in microseconds.
    pub before_p99_us: f64,
    /// The 99th percentile now.
    pub now_p99_us: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// Whether a change is more than what rounds differ by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every round of now was better than every round before.
    Better,
    /// Every round of now was worse than every round before.
    Worse,
    /// They overlap.
    Same,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
        }
    }
}

/// Two reports compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changes {
    /// When the older one was made.
    pub before: String,
    /// Rows that both have.
    pub rows: Vec<Change>,
    /// Rows that only the newer one has.
    pub new: Vec<String>,
    /// Rows that only the older one has.
    pub gone: Vec<String>,
    /// Why the figures may differ although no store does: another machine, build or workload.
    pub differs: Vec<String>,
}

/// What changed from one report to another.
#[must_use]
pub fn changes(before: &Report, now: &Report) -> Changes {
    let find = |rows: &[Row], id: &str| rows.iter().find(|row| row.id() == id && row.is_measured()).cloned();
    let mut changes = Changes {
        before: before.began_at.clone(),
        rows: Vec::new(),
        new: Vec::new(),
        gone: Vec::new(),
        differs: differs(before, now),
    };
    for row in now.store_rows().filter(|row| row.is_measured()) {
        match find(&before.rows, &row.id()) {
            Some(old) => changes.rows.push(change(&old, row)),
            None => changes.new.push(row.id()),
        }
    }
    let gone = before.store_rows().filter(|row| row.is_measured() && find(&now.rows, &row.id()).is_none());
    changes.gone = gone.map(Row::id).collect();
    changes
}

fn change(before: &Row, now: &Row) -> Change {
    // In an open loop the rate is given, and the latency is what was found.
    let (old, new, more_is_better) = match now.rate {
        None => (before.per_second, now.per_second, true),
        Some(_) => (before.p99_us, now.p99_us, false),
    };
    let verdict = match (old.apart(&new), (new.median > old.median) == more_is_better) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    };
    Change {
        row: now.id(),
        before_per_second: before.per_second.median,
        now_per_second: now.per_second.median,
        before_p99_us: before.p99_us.median,
        now_p99_us: now.p99_us.median,
        verdict,
    }
}

fn differs(before: &Report, now: &Report) -> Vec<String> {
    let mut differs = Vec::new();
    let mut tell = |what: &str, old: String, new: String| {
        if old != new {
            differs.push(format!("{what}: {old} before, {new} now"));
        }
    };
    tell("release", before.machine.release.clone(), now.machine.release.clone());
    tell("build", before.machine.build.clone(), now.machine.build.clone());
    tell("processors", before.machine.processors.to_string(), now.machine.processors.to_string());
    tell("platform", before.machine.platform.clone(), now.machine.platform.clone());
    tell("time a round", format!("{:?}", before.plan.measure.0), format!("{:?}", now.plan.measure.0));
    for workload in &now.plan.workloads {
        let old = before.plan.workloads.iter().find(|old| old.name == workload.name);
        let is_another = old.is_some_and(|old| serde_json::to_string(old).ok() != serde_json::to_string(workload).ok());
        if is_another {
            differs.push(format!("the workload {} is another one than before", workload.name));
        }
    }
    for store in &now.stores {
        if let Some(old) =
            before.stores.iter().find(|old| old.name == store.name).filter(|old| old.engine != store.engine)
        {
            differs.push(format!("the engine of {}: {} before, {} now", store.name, old.engine, store.engine));
        }
    }
    differs
}
