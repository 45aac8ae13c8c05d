//! The report as one HTML page that needs nothing else: no network, no script, light and dark, on paper too.

use crate::against::{Changes, Verdict};
use crate::answers::{Answer, Line};
use crate::chart;
use crate::cost::Cost;
use crate::estimate::{Bill, Reckoned};
use crate::figures::{bytes, dollars, grouped, rate, share, time};
use crate::losses::{Fault, How};
use crate::report::{Latency, Report, Row};
use crate::workload::Workload;
use evstore_api::{Error, ErrorKind, Result};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

const TEMPLATE: &str = include_str!("../templates/report.html");

/// Draws a report, with what changed since an older one where there is one.
///
/// # Errors
/// When the template and the report do not fit, which a test excludes.
pub fn page(report: &Report, changes: Option<&Changes>) -> Result<String> {
    let failed = |cause: minijinja::Error| Error::new(ErrorKind::Invalid, "the report can't be drawn").caused_by(cause);
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // The name decides that values are escaped.
    environment.add_template("report.html", TEMPLATE).map_err(failed)?;
    let template = environment.get_template("report.html").map_err(failed)?;
    let document = serde_json::to_string(report).map_err(|cause| failed_document(&cause))?;
    let shown = Page {
        report,
        machine: format!(
            "evstore {} ({} build), {} processors, {}",
            report.machine.release, report.machine.build, report.machine.processors, report.machine.platform
        ),
        took: time(report.seconds * 1e6),
        answers: report.answers.iter().map(|answer| shown_answer(answer, report)).collect(),
        promises: promises(report),
        sections: report.plan.workloads.iter().filter_map(|workload| section(report, workload)).collect(),
        harness: report.harness.as_ref().map(|harness| (share(harness.share), harness.row.clone())),
        costs: report.costs.iter().map(paid).collect(),
        bills: report.bills.iter().map(billed).collect(),
        reckoned: report.reckoned.iter().map(shown_reckoned).collect(),
        losses: losses(report),
        left_out: left_out(report),
        changes: changes.map(shown_changes),
        plan: toml::to_string(&report.plan).unwrap_or_default(),
        // In a script element nothing but its end is special.
        document: document.replace('<', "\\u003c"),
    };
    template.render(Serde(shown)).map_err(failed)
}

fn failed_document(cause: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Invalid, "the report can't be written").with("problem", cause)
}

/// What the template is given.
#[derive(Serialize)]
struct Page<'a> {
    report: &'a Report,
    machine: String,
    took: String,
    answers: Vec<ShownAnswer>,
    promises: Vec<Promise>,
    sections: Vec<Section>,
    harness: Option<(String, String)>,
    costs: Vec<Paid>,
    bills: Vec<Paid>,
    reckoned: Vec<Paid>,
    losses: Vec<(String, Vec<String>)>,
    left_out: Vec<String>,
    changes: Option<ShownChanges>,
    plan: String,
    document: String,
}

/// A question with its answer.
#[derive(Serialize)]
struct ShownAnswer {
    question: String,
    lines: Vec<ShownLine>,
    not_measured: Option<String>,
}

/// A line of an answer: whose it is, and what was found.
#[derive(Serialize)]
struct ShownLine {
    of: String,
    /// The colour of the store that it is of.
    colour: Option<usize>,
    text: String,
    row: Option<String>,
}

fn shown_answer(answer: &Answer, report: &Report) -> ShownAnswer {
    let line = |line: &Line| {
        let (of, text) = line.text.split_once(": ").unwrap_or(("", &line.text));
        let store = of.split([',', ' ']).next().unwrap_or_default();
        let colour = report.stores.iter().position(|known| known.name == store).map(|at| at % 8);
        ShownLine { of: of.to_owned(), colour, text: text.to_owned(), row: line.row.clone() }
    };
    ShownAnswer {
        question: answer.question.clone(),
        lines: answer.lines.iter().map(line).collect(),
        not_measured: answer.not_measured.clone(),
    }
}

/// One promise, of every store.
#[derive(Serialize)]
struct Promise {
    name: String,
    values: Vec<String>,
    differs: bool,
}

fn promises(report: &Report) -> Vec<Promise> {
    let names = report.stores.first().map(|store| store.promises.iter().map(|(name, _)| name.clone()).collect());
    let names: Vec<String> = names.unwrap_or_default();
    let value = |store: &crate::report::Store, name: &str| {
        store
            .promises
            .iter()
            .find(|(known, _)| known == name)
            .map_or_else(|| "?".to_owned(), |(_, value)| readable(name, value))
    };
    let of_name = |name: String| {
        let values: Vec<String> = report.stores.iter().map(|store| value(store, &name)).collect();
        Promise { differs: values.iter().any(|one| *one != values[0]), values, name }
    };
    names.into_iter().map(of_name).collect()
}

/// A promise's value as people read it: counts of bytes are long.
fn readable(name: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(count) if name.ends_with("bytes") => bytes(count),
        Ok(count) => grouped(count),
        Err(_) => value.to_owned(),
    }
}

/// One workload: its plots and its table.
#[derive(Serialize)]
struct Section {
    name: String,
    title: String,
    about: String,
    rates: Option<String>,
    latencies: String,
    columns: Vec<&'static str>,
    rows: Vec<Shown>,
    notes: Vec<String>,
}

/// A row as it is shown.
#[derive(Serialize)]
struct Shown {
    id: String,
    harness: bool,
    cells: Vec<String>,
}

fn section(report: &Report, workload: &Workload) -> Option<Section> {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.workload == workload.name).collect();
    if rows.is_empty() {
        return None;
    }
    // A floor is a mark on the bar of its store.
    let drawn: Vec<&Row> =
        rows.iter().copied().filter(|row| row.bare.is_none() && (!row.harness || workload.rate.is_some())).collect();
    let stores: Vec<String> = report.stores.iter().map(|store| store.name.clone()).collect();
    let columns = columns(workload);
    Some(Section {
        name: workload.name.clone(),
        title: workload.title.clone(),
        about: workload.about.clone(),
        // In an open loop the rate is given, and tells nothing.
        rates: workload.rate.is_none().then(|| chart::rates(&drawn, &stores)),
        latencies: chart::latencies(&drawn, &stores),
        rows: rows
            .iter()
            .map(|row| Shown {
                id: row.id(),
                harness: !row.is_of_store(),
                cells: columns.iter().map(|(_, cell)| cell(row)).collect(),
            })
            .collect(),
        columns: columns.into_iter().map(|(name, _)| name).collect(),
        notes: rows.iter().filter_map(|row| note(row)).collect(),
    })
}

type Column = (&'static str, fn(&Row) -> String);

/// The columns that have something to say about a workload.
fn columns(workload: &Workload) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![
        ("callers", |row| row.callers.to_string()),
        ("store", |row| row.store.clone()),
        ("a second", |row| if row.is_measured() { rate(row.per_second.median) } else { "not measured".into() }),
        ("lowest to highest round", |row| format!("{} to {}", rate(row.per_second.low), rate(row.per_second.high))),
        ("of its floor", |row| {
            row.of_floor.map_or_else(
                || "-".into(),
                |ratio| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high),
            )
        }),
        ("half within", |row| time(row.latency.p50_us)),
        ("99 % within", |row| time(row.latency.p99_us)),
        ("99.9 % within", |row| time(row.latency.p999_us)),
        ("longest", |row| time(row.latency.max_us)),
    ];
    if workload.does.load > 0 || workload.does.catch_up > 0 || workload.commit_events.largest() > 1 {
        columns.push(("events a second", |row| rate(row.events_per_second.median)));
    }
    if workload.answer_within.is_some() {
        columns.push(("in time", |row| row.within.map_or_else(|| "-".into(), share)));
    }
    columns.push(("conflicts", |row| grouped(row.conflicts)));
    columns.push(("errors", |row| grouped(row.errors.values().sum())));
    if workload.check {
        let seen: [Column; 6] = [
            ("in the feed: half within", |row| lag_of(row, |lag| lag.p50_us)),
            ("99 % within", |row| lag_of(row, |lag| lag.p99_us)),
            ("all within", |row| lag_of(row, |lag| lag.max_us)),
            ("acknowledged", |row| {
                row.checked.as_ref().map_or_else(|| "-".into(), |checked| grouped(checked.acknowledged))
            }),
            ("lost, doubled or out of order", |row| match &row.checked {
                Some(checked) if checked.broken.is_empty() => "none".into(),
                Some(checked) => checked.broken.join("; "),
                None => "-".into(),
            }),
            ("stale reads", |row| {
                row.stale
                    .map_or_else(|| "-".into(), |stale| format!("{} of {}", grouped(stale.stale), grouped(stale.reads)))
            }),
        ];
        columns.extend(seen);
    }
    columns
}

fn lag_of(row: &Row, of: impl Fn(&Latency) -> f64) -> String {
    row.checked.as_ref().map_or_else(|| "-".into(), |checked| time(of(&checked.feed_lag)))
}

/// What went wrong in a row.
fn note(row: &Row) -> Option<String> {
    if let Some(failed) = &row.failed {
        return Some(format!("{}: {failed}", row.id()));
    }
    if row.errors.is_empty() {
        return None;
    }
    let kinds: Vec<String> = row.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let first = row.first_error.as_ref().map_or_else(String::new, |first| format!("; the first: {first}"));
    Some(format!("{}: {}{first}", row.id(), kinds.join(", ")))
}

/// What is paid for a row, or in a month.
#[derive(Serialize)]
struct Paid {
    row: String,
    offer: String,
    cells: Vec<String>,
}

fn paid(cost: &Cost) -> Paid {
    let or_none = |usd: f64| if usd == 0.0 { "-".to_owned() } else { dollars(usd) };
    let cells = std::iter::once(cost.counted_usd).chain(cost.hours_usd).map(or_none).collect();
    Paid { row: cost.row.clone(), offer: cost.offer.clone(), cells }
}

fn shown_reckoned(reckoned: &Reckoned) -> Paid {
    let difference = if reckoned.estimated > 0.0 {
        format!("{:+.0} %", (reckoned.counted / reckoned.estimated - 1.0) * 100.0)
    } else {
        "-".into()
    };
    let cells =
        vec![reckoned.of.clone(), format!("{:.2}", reckoned.estimated), format!("{:.2}", reckoned.counted), difference];
    Paid { row: reckoned.row.clone(), offer: reckoned.offer.clone(), cells }
}

/// For each store what each accident takes.
fn losses(report: &Report) -> Vec<(String, Vec<String>)> {
    let of = |store: &str, fault: Fault| {
        let found = report.losses.iter().find(|loss| loss.store == store && loss.fault == fault);
        found.map_or_else(
            || "-".to_owned(),
            |loss| {
                let how = if loss.how == How::Model { "by a model: " } else { "" };
                format!("{how}{}", loss.said)
            },
        )
    };
    let of_store = |store: &str| {
        (store.to_owned(), [Fault::Node, Fault::Power, Fault::Failover].map(|fault| of(store, fault)).into())
    };
    report.stores.iter().map(|store| of_store(&store.name)).collect()
}

fn billed(bill: &Bill) -> Paid {
    let mut cells: Vec<String> = bill.total_usd().into_iter().map(dollars).collect();
    cells.extend([dollars(bill.hours_usd), dollars(bill.stored_usd[0])]);
    cells.push(bill.write_units_a_commit.map_or_else(|| "-".into(), |units| format!("{units:.2}")));
    cells.push(bill.hottest_of_partition.map_or_else(|| "-".into(), share));
    Paid { row: String::new(), offer: bill.offer.clone(), cells }
}

/// What bills have besides, each once.
fn left_out(report: &Report) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let costs = report.costs.iter().map(|cost| (&cost.offer, &cost.left_out));
    for (offer, what) in costs.chain(report.bills.iter().map(|bill| (&bill.offer, &bill.left_out))) {
        let line = format!("{offer}: {what}");
        if !all.contains(&line) {
            all.push(line);
        }
    }
    all
}

/// What changed, as it is shown.
#[derive(Serialize)]
struct ShownChanges {
    before: String,
    rows: Vec<(String, &'static str, Vec<String>)>,
    same: usize,
    new: usize,
    gone: usize,
    differs: Vec<String>,
}

fn shown_changes(changes: &Changes) -> ShownChanges {
    let apart = changes.rows.iter().filter(|change| change.verdict != Verdict::Same);
    let rows = apart.map(|change| {
        let cells = vec![
            rate(change.before_per_second),
            rate(change.now_per_second),
            time(change.before_p99_us),
            time(change.now_p99_us),
        ];
        (change.row.clone(), change.verdict.name(), cells)
    });
    let rows: Vec<_> = rows.collect();
    ShownChanges {
        before: changes.before.clone(),
        same: changes.rows.len() - rows.len(),
        rows,
        new: changes.new.len(),
        gone: changes.gone.len(),
        differs: changes.differs.clone(),
    }
}
