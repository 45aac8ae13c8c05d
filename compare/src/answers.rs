//! The questions that people ask of a comparison, each with its answer and the row that it stands on, or why there is none. An answer is
//! made of rows and of nothing else.

use crate::cost::Cost;
use crate::estimate::{self, Reckoned};
use crate::figures::{bytes, dollars, grouped, rate, share, time};
use crate::losses::How;
use crate::observed::MONTH_SECONDS;
use crate::report::{Report, Row};
use crate::workload::Workload;
use serde::{Deserialize, Serialize};

/// A question with its answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// The answer: a line for each store, or one for all.
    pub lines: Vec<Line>,
    /// Why it is not measured here; none where it is.
    pub not_measured: Option<String>,
}

/// A line of an answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Line {
    /// What was found.
    pub text: String,
    /// The row that it stands on, or the part of the page.
    pub row: Option<String>,
}

/// Every question, in the order of asking.
#[must_use]
pub fn answers(report: &Report) -> Vec<Answer> {
    vec![
        appends(report),
        loads(report),
        steady(report),
        hottest(report),
        visibility(report),
        races(report),
        losses(report),
        largest(report),
        guarantees(report),
        price(report),
        designs(report),
        estimates(report),
        monthly(report),
        overtakes(report),
        runs(report),
        move_there_and_back(report),
    ]
}

const NOT_OBSERVED: &str =
    "these workloads were not made of a live store; evstore profile makes them, and evstore estimate prices them";

/// An answer of lines; where there is none it was not measured, for this reason.
fn of_lines(question: &str, lines: Vec<Line>, why_none: &str) -> Answer {
    let not_measured = lines.is_empty().then(|| why_none.to_owned());
    Answer { question: question.into(), lines, not_measured }
}

fn line(row: &Row, text: String) -> Line {
    Line { text, row: Some(row.id()) }
}

/// Measured rows of workloads that fit.
fn rows<'a>(report: &'a Report, fits: impl Fn(&Workload) -> bool + 'a) -> impl Iterator<Item = &'a Row> {
    let fitting = report.plan.workloads.iter().filter(move |workload| fits(workload));
    fitting
        .flat_map(|workload| report.store_rows().filter(move |row| row.workload == workload.name && row.is_measured()))
}

fn best<'a>(rows: impl Iterator<Item = &'a Row>, store: &str, by: impl Fn(&Row) -> f64) -> Option<&'a Row> {
    rows.filter(|row| row.store == store).max_by(|a, b| by(a).total_cmp(&by(b)))
}

fn callers(count: u32) -> String {
    if count == 1 { "one caller".into() } else { format!("{count} callers") }
}

/// How it compares to the bare client of its engine.
fn of_floor(row: &Row) -> String {
    row.of_floor.map_or_else(String::new, |ratio| format!(" ({:.2} of its engine's bare client)", ratio.median))
}

fn is_plain_append(workload: &Workload) -> bool {
    let only = crate::workload::Mix { append: workload.does.append, ..Default::default() };
    workload.does == only && workload.rate.is_none() && workload.log.is_none() && !workload.check
}

fn appends(report: &Report) -> Answer {
    let own = |workload: &Workload| {
        is_plain_append(workload)
            && workload.commit_events.largest() == 1
            && u64::from(*workload.callers.iter().max().unwrap_or(&1)) <= workload.streams
    };
    let lines = report.stores.iter().filter_map(|store| {
        let most = best(rows(report, own), &store.name, |row| row.per_second.median)?;
        let one = rows(report, own).find(|row| row.store == store.name && row.callers == 1);
        let one = one.filter(|row| row.id() != most.id()).map_or_else(String::new, |row| {
            format!(
                "; one caller makes {}, half of them within {}",
                rate(row.per_second.median),
                time(row.latency.p50_us)
            )
        });
        let (per_second, callers) = (rate(most.per_second.median), callers(most.callers));
        let half = time(most.latency.p50_us);
        Some(line(
            most,
            format!(
                "{}: {per_second} a second with {callers}{}, half of them within {half}{one}",
                store.name,
                of_floor(most)
            ),
        ))
    });
    of_lines("How many appends does each take?", lines.collect(), "no workload of this run appends single events")
}

fn loads(report: &Report) -> Answer {
    let loads = |workload: &Workload| {
        workload.does == crate::workload::Mix { load: workload.does.load, ..Default::default() }
            && workload.does.load > 0
    };
    let lines = report.stores.iter().filter_map(|store| {
        let own = rows(report, loads).filter(|row| row.callers == 1 && row.store == store.name);
        let own: Vec<&Row> = own.collect();
        let texts: Vec<String> =
            own.iter().map(|row| format!("{} {}", row.title.to_lowercase(), time(row.latency.p50_us))).collect();
        Some(line(own.first()?, format!("{}: {} (half of them within)", store.name, texts.join("; "))))
    });
    of_lines("How long does loading take?", lines.collect(), "no workload of this run loads with one caller")
}

fn steady(report: &Report) -> Answer {
    let lines = rows(report, |workload| workload.answer_within.is_some()).map(|row| {
        let bound = report.plan.workloads.iter().find(|workload| workload.name == row.workload);
        let bound = bound.and_then(|workload| workload.answer_within).map_or(0.0, |time| time.0.as_micros() as f64);
        let text = format!(
            "{}: {} of {} were answered within {}, counted from when each was to begin; the longest took {}",
            row.store,
            row.within.map_or_else(String::new, share),
            row.rate.map_or_else(|| "all".into(), |per_second| format!("{} requests a second", rate(per_second))),
            time(bound),
            time(row.latency.max_us)
        );
        line(row, text)
    });
    let question = "Does a steady load get its answers in time?";
    of_lines(question, lines.collect(), "no workload of this run has answer_within")
}

fn hottest(report: &Report) -> Answer {
    let one = |workload: &Workload| is_plain_append(workload) && workload.streams == 1;
    let lines = report.stores.iter().filter_map(|store| {
        let row = best(rows(report, one), &store.name, |row| row.per_second.median)?;
        let attempts = row.operations + row.conflicts;
        let lost = share(row.conflicts as f64 / attempts.max(1) as f64);
        let (per_second, callers) = (rate(row.per_second.median), callers(row.callers));
        let limit = report.partition_limits.get(&store.name).filter(|_| row.cost.write_units > 0.0).map_or_else(
            String::new,
            |units| {
                format!(
                    "; a partition of the service gives {} write units a second, which at {:.1} a commit are {} commits",
                    grouped(*units),
                    row.cost.write_units,
                    rate(*units as f64 / row.cost.write_units)
                )
            },
        );
        let text = format!(
            "{}: {per_second} a second with {callers} on one stream; {lost} of the attempts conflicted{limit}",
            store.name
        );
        Some(line(row, text))
    });
    let seen = report.bills.iter().filter_map(|bill| {
        let share_of = share(bill.hottest_of_partition?);
        let text = format!(
            "{}: the hottest stream of the live store takes {share_of} of its partition in its fullest second",
            bill.offer
        );
        Some(Line { text, row: Some("cost".into()) })
    });
    let lines = lines.chain(seen);
    let question = "What does the hottest stream take?";
    of_lines(
        question,
        lines.collect(),
        "no workload of this run appends to one stream; limits of a service are not measured here",
    )
}

fn visibility(report: &Report) -> Answer {
    let lines = report.store_rows().filter_map(|row| {
        let checked = row.checked.as_ref()?;
        let lag = checked.feed_lag;
        let stale = row.stale.map_or_else(String::new, |stale| {
            format!("; {} of {} reads through another node were stale", grouped(stale.stale), grouped(stale.reads))
        });
        let text = format!(
            "{}, {}: half within {}, 99 of 100 within {}, all within {}{stale}",
            row.store,
            row.workload,
            time(lag.p50_us),
            time(lag.p99_us),
            time(lag.max_us)
        );
        Some(line(row, text))
    });
    let question = "How long until a projection sees what was acknowledged?";
    of_lines(question, lines.collect(), "no workload of this run is checked")
}

fn races(report: &Report) -> Answer {
    let lines = report.store_rows().filter_map(|row| {
        let checked = row.checked.as_ref()?;
        let acknowledged = grouped(checked.acknowledged);
        let text = match checked.broken.as_slice() {
            [] => format!("{}, {}: none of {acknowledged} acknowledged commits", row.store, row.workload),
            broken => {
                format!("{}, {}: of {acknowledged} acknowledged commits {}", row.store, row.workload, broken.join("; "))
            }
        };
        Some(line(row, text))
    });
    let question = "Was anything lost, doubled or out of order while nodes raced?";
    of_lines(question, lines.collect(), "no workload of this run is checked")
}

fn losses(report: &Report) -> Answer {
    let lines = report.stores.iter().filter_map(|store| {
        let own = report.losses.iter().filter(|loss| loss.store == store.name);
        let texts: Vec<String> = own
            .map(|loss| {
                let how = if loss.how == How::Model { "by a model, " } else { "" };
                format!("{}: {how}{}", loss.fault.name(), loss.said)
            })
            .collect();
        let row = Some("losses".to_owned());
        (!texts.is_empty()).then(|| Line { text: format!("{}: {}", store.name, texts.join("; ")), row })
    });
    let question = "What does the loss of a node, a machine's power or a zone cost?";
    of_lines(question, lines.collect(), "no store could be opened")
}

/// Set-ups of one engine that is paid by the piece, beside each other.
fn designs(report: &Report) -> Answer {
    let lines = report.stores.iter().filter_map(|store| {
        let rows = report.store_rows().filter(|row| row.store == store.name && row.callers == 1 && row.is_measured());
        let units = rows.filter_map(|row| match (row.cost.write_units, row.cost.read_units) {
            (write, _) if write > 0.0 => Some((row, format!("{}: {write:.2} write units", row.title.to_lowercase()))),
            (_, read) if read > 0.0 => Some((row, format!("{}: {read:.2} read units", row.title.to_lowercase()))),
            _ => None,
        });
        let units: Vec<(&Row, String)> = units.collect();
        let (first, _) = units.first()?;
        let settings: Vec<String> = store.settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
        let texts: Vec<&str> = units.iter().map(|(_, text)| text.as_str()).collect();
        Some(line(first, format!("{} ({}): {}", store.name, settings.join(", "), texts.join("; "))))
    });
    let question = "What does each design take by the piece, with one caller?";
    of_lines(question, lines.collect(), "no engine of these stores counts units")
}

/// What estimates are worth.
fn estimates(report: &Report) -> Answer {
    let mut lines = Vec::new();
    for store in &report.stores {
        let of_store = |one: &&Reckoned| one.row.ends_with(&format!("/{}", store.name)) && one.estimated > 0.0;
        let apart = |one: &Reckoned| (one.counted / one.estimated - 1.0).abs();
        let all: Vec<&Reckoned> = report.reckoned.iter().filter(of_store).collect();
        let Some(worst) = all.iter().max_by(|a, b| apart(a).total_cmp(&apart(b))) else { continue };
        let near = all.iter().filter(|one| apart(one) <= 0.1).count();
        let text = format!(
            "{}: {near} of {} estimates are within a tenth of the count; the farthest is {} of {}, {:.2} estimated and {:.2} counted",
            store.name,
            all.len(),
            worst.of,
            worst.row,
            worst.estimated,
            worst.counted
        );
        lines.push(Line { text, row: Some("estimates".into()) });
    }
    let question = "How far is an estimate from the count?";
    of_lines(question, lines, "no offer of the price file counts what these engines count")
}

fn largest(report: &Report) -> Answer {
    let of =
        |workload: &Workload| u64::from(workload.commit_events.largest()) * u64::from(workload.event_bytes.largest());
    let largest =
        report.plan.workloads.iter().filter(|workload| workload.log.is_none()).map(of).max().unwrap_or_default();
    let seen =
        report.plan.observed.as_ref().map_or_else(String::new, |observed| {
            format!(", that of the live store {}", bytes(observed.largest_commit()))
        });
    let lines = report.stores.iter().map(|store| {
        let limit = store
            .commit_bytes_max
            .map_or_else(|| "has no limit of its own".into(), |max| format!("takes {}", bytes(max)));
        let text = format!(
            "{}: {limit}; the largest commit of these workloads has {} of data{seen}",
            store.name,
            bytes(largest)
        );
        Line { text, row: Some("guarantees".into()) }
    });
    of_lines("How near is the largest commit to what a store takes?", lines.collect(), "no store could be opened")
}

fn guarantees(report: &Report) -> Answer {
    let lines = report.stores.iter().filter_map(|store| {
        let found = store.conformance.as_ref()?;
        let counts: Vec<String> = found.verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        let only =
            if found.only.is_empty() { "all checks".into() } else { format!("checks {}…", found.only.join(", ")) };
        let at = store
            .endpoint
            .as_ref()
            .map_or("on this machine or where its address points", |_| "at an endpoint of its own");
        let text =
            format!("{}, {at}: {only}: {} (seed {}, {})", store.name, counts.join(", "), found.seed, report.began_at);
        Some(Line { text, row: Some("guarantees".into()) })
    });
    let question = "Which guarantees were probed, where and when?";
    of_lines(
        question,
        lines.collect(),
        "the catalog was not asked: --conformance has it asked, and evstore conformance asks it by itself",
    )
}

/// What a million of the plainest appends cost.
fn price(report: &Report) -> Answer {
    let plain: Vec<String> = rows(report, |workload| {
        is_plain_append(workload) && workload.commit_events.largest() == 1 && workload.streams > 1
    })
    .map(Row::id)
    .collect();
    let most = |cost: &&Cost| {
        let row = report.rows.iter().find(|row| row.id() == cost.row);
        let of_store = |other: &&Row| row.is_some_and(|row| row.store == other.store) && plain.contains(&other.id());
        let best =
            report.rows.iter().filter(of_store).max_by(|a, b| a.per_second.median.total_cmp(&b.per_second.median));
        best.is_some_and(|best| best.id() == cost.row)
    };
    let lines = report.costs.iter().filter(most).map(|cost| {
        let [_, tenth, half] = cost.hours_usd.map(|hours| dollars(hours + cost.counted_usd));
        let (store, offer, left_out) = (cost.row.rsplit('/').next().unwrap_or_default(), &cost.offer, &cost.left_out);
        let text = if cost.hours_usd[0] > 0.0 {
            format!(
                "{store}, {offer}: {half} at half use and {tenth} at a tenth, if the machine paid for is as fast as this one; left out: {left_out}"
            )
        } else {
            format!("{store}, {offer}: {}; left out: {left_out}", dollars(cost.counted_usd))
        };
        Line { text, row: Some(cost.row.clone()) }
    });
    let question = format!("What do a million appends cost? ({})", report.prices);
    of_lines(
        &question,
        lines.collect(),
        "the price file has no offer for these stores, or their engines count nothing that it prices",
    )
}

fn monthly(report: &Report) -> Answer {
    let lines = report.bills.iter().map(|bill| {
        let [now, three, ten] = bill.total_usd().map(dollars);
        Line {
            text: format!("{}: {now} now, {three} at 3 and {ten} at 10 times; {} left out", bill.offer, bill.left_out),
            row: Some("cost".into()),
        }
    });
    let why =
        if report.plan.observed.is_some() { "the price file has no offer for these stores" } else { NOT_OBSERVED };
    of_lines("What is the monthly bill now, at 3 and at 10 times?", lines.collect(), why)
}

fn overtakes(report: &Report) -> Answer {
    let pairs = report.bills.iter().flat_map(|one| report.bills.iter().map(move |other| (one, other)));
    let crossing = pairs.filter_map(|(one, other)| Some((one, other, estimate::crossing(one, other)?)));
    let lines = crossing.map(|(one, other, times)| Line {
        text: format!(
            "{} becomes dearer than {} at {times:.1} times of what there is now, {} commits a second",
            one.offer,
            other.offer,
            rate(times * report.plan.observed.as_ref().map_or(0.0, |seen| seen.commits_a_month() / MONTH_SECONDS))
        ),
        row: Some("cost".into()),
    });
    let why = match report.bills.len() {
        0 => NOT_OBSERVED,
        1 => "there is one offer to pay for these stores",
        _ => "none does: the cheaper one stays cheaper",
    };
    of_lines("At which rate does one store become dearer than another?", lines.collect(), why)
}

/// What has to be there for a store, as it is set up. Who is called at night no measurement tells.
fn runs(report: &Report) -> Answer {
    let lines = report.stores.iter().map(|store| {
        let promise =
            |wanted: &str| store.promises.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let what = match promise("processes") {
            Some("one") => "nothing besides the application, in one process".to_owned(),
            Some(several) if several.contains("local") => "nothing besides the application, on one machine".to_owned(),
            _ => format!("{}, which somebody runs or rents; who is paged for it is not measured here", store.engine),
        };
        Line { text: format!("{}: {what}", store.name), row: Some("guarantees".into()) }
    });
    of_lines("What must run, and who is paged?", lines.collect(), "no store could be opened")
}

fn move_there_and_back(report: &Report) -> Answer {
    let lines = report.bills.iter().map(|bill| {
        let (there, back) = (dollars(bill.moved_in_usd), dollars(bill.moved_out_usd));
        let text = format!("{}: {there} to write all that there is once, {back} to read it once", bill.offer);
        Line { text, row: Some("cost".into()) }
    });
    let why = "it is reckoned from a profile of a live store; evstore migrate plan counts it on the data that is to be moved, and \
               evstore migrate rehearse measures the pause";
    of_lines("What does a move there and back cost?", lines.collect(), why)
}

/// What the figures do not show, in sentences.
#[must_use]
pub fn does_not_show(report: &Report) -> Vec<String> {
    let plan = &report.plan;
    let mut all = vec![
        format!(
            "Each figure is the median of {} rounds of {} ms: what a store does after hours, with a full disk, while it cleans up or when it is a hundred times as large, is not in it.",
            plan.rounds,
            plan.measure.0.as_millis()
        ),
        "Callers and whatever store runs here share one machine: a network between them adds its time to every call, and takes the load of one from the other.".into(),
        "No disk, machine or network was broken: of accidents only the end of a process was provoked. What a store survives is declared, and put to the test by `evstore conformance`.".into(),
        "Stores are measured as their providers have them, without the layers that repeat and time calls for an application.".into(),
    ];
    for store in report.stores.iter().filter(|store| store.endpoint.is_some()) {
        all.push(format!(
            "{} answers at an endpoint of its own: if that is an emulator, its times and rates say nothing about the service that it stands in for. Requests and units do.",
            store.name
        ));
    }
    if report.machine.build == "debug" {
        all.push("This command was built without optimisation: every figure is too slow, and ratios are wrong.".into());
    }
    if !report.complete {
        all.push("The run was interrupted: later workloads are missing, and the last one has fewer rounds.".into());
    }
    if report.harness.as_ref().is_some_and(|harness| harness.share > 0.05) {
        all.push("The measuring itself took more than a twentieth of the fastest store's time: that store is faster than it looks.".into());
    }
    all
}
