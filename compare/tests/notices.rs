//! A run finds what stores do wrong. Each store here is whole but for one defect; what finds it is an ordinary checked workload.

// A test may fail by a panic, also in its helpers.
#![allow(clippy::unwrap_used)]

use evstore_api::{Settings, StoreName};
use evstore_compare::contender::{Contender, Part};
use evstore_compare::noop;
use evstore_compare::prices::Prices;
use evstore_compare::report::{Circumstances, Machine, Report};
use evstore_compare::run::{Results, Run};
use evstore_compare::workload::Plan;
use evstore_conformance::mutants;
use std::collections::{BTreeMap, HashMap};

/// A race that is long enough for what is seldom.
const RACE: &str = r#"
schema = 1
name = "race"
about = "Nodes race for few streams."
rounds = 1
measure = "800ms"
warm_up = "0ms"
[[workload]]
name = "race"
title = "Race"
does = { append = 1 }
rate = 800
nodes = 3
streams = 4
callers = [16]
check = true
"#;

fn contender(name: &str, mutant: Option<&str>) -> Contender {
    let provider = evstore_memory::provider();
    let provider = match mutant {
        None => provider,
        Some(mutant) => mutants::mutants().find(|known| known.name == mutant).unwrap().provider(&provider),
    };
    let settings = Settings::new(StoreName::new(name).unwrap(), provider.keys, []).unwrap();
    Contender { name: name.into(), provider, settings, part: Part::Store }
}

async fn measured(plan: &str, contenders: Vec<Contender>) -> Report {
    let plan = Plan::parse(plan, "test").unwrap();
    let results = Results::default();
    let run = Run { plan: plan.clone(), contenders, logs: HashMap::new(), seed: 1 };
    run.run(&results, |_| {}).await.unwrap();
    let circumstances = Circumstances {
        began_at: "2026-11-27T00:00:00Z".into(),
        seconds: 1.0,
        machine: Machine::here("0"),
        plan,
        seed: 1,
        prices: Prices::list(),
        conformance: BTreeMap::new(),
        losses: Vec::new(),
    };
    Report::new(results.found(), circumstances, |_| Vec::new())
}

async fn broken(mutant: Option<&str>) -> Vec<String> {
    let report = measured(RACE, vec![contender("tried", mutant)]).await;
    assert!(report.rows[0].is_measured(), "{:?}", report.rows);
    report.broken().map(|(_, what)| what.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_defect_breaks_nothing() {
    assert_eq!(broken(None).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_passes_over_what_is_late_is_found() {
    let found = broken(Some("feed.serial-positions")).await;
    assert!(found.iter().any(|what| what.ends_with("never came in the feed")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_repeats_is_found() {
    let found = broken(Some("feed.repeats")).await;
    assert!(found.iter().any(|what| what.ends_with("came in the feed twice")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_and_writes_apart_is_found() {
    let found = broken(Some("concurrency.expectation-checked-apart")).await;
    assert!(found.iter().any(|what| what.contains("other revisions")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_and_forgotten_is_found() {
    let found = broken(Some("concurrency.acknowledged-and-forgotten")).await;
    assert!(found.iter().any(|what| what.contains("are not in their streams")), "{found:?}");
}

/// What closed and open loops, loads, snapshots and catching up come to on a store that works, and on the one that does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_gives_a_row_and_the_harness_beside_it() {
    let plan = r#"
schema = 1
name = "all"
about = "Every operation once."
rounds = 2
measure = "60ms"
warm_up = "10ms"
[[workload]]
name = "append"
title = "Append"
does = { append = 1 }
commit_events = [1, 3]
callers = [1, 4]
harness = true
[[workload]]
name = "hot"
title = "Hot"
does = { append = 1 }
streams = 10
hot = [0.9]
callers = [4]
[[workload]]
name = "load"
title = "Load"
does = { load = 1 }
streams = 2
stream_events = 20
snapshot_behind = 5
callers = [1]
[[workload]]
name = "catch-up"
title = "Catch up"
does = { catch_up = 1 }
streams = 2
stream_events = 20
callers = [1]
[[workload]]
name = "steady"
title = "Steady"
does = { execute = 1, load = 1 }
rate = 200
answer_within = "5s"
streams = 4
callers = [4]
[[workload]]
name = "seen"
title = "Seen"
does = { read_back = 1 }
rate = 200
nodes = 2
streams = 4
callers = [4]
check = true
"#;
    let [harness, calls] = noop::contenders();
    let report = measured(plan, vec![contender("tried", None), harness, calls]).await;
    assert!(report.complete);
    let ids: Vec<String> = report.rows.iter().map(|row| row.id()).collect();
    let wanted = [
        "append/1/tried",
        "append/1/harness",
        "append/1/harness:bare",
        "append/4/tried",
        "append/4/harness",
        "append/4/harness:bare",
        "hot/4/tried",
        "load/1/tried",
        "catch-up/1/tried",
        "steady/4/tried",
        "seen/4/tried",
    ];
    assert_eq!(ids, wanted);
    for row in &report.rows {
        assert!(row.is_measured() && row.failed.is_none() && row.errors.is_empty(), "{row:?}");
        assert_eq!(row.rounds, 2);
        // A bare loop does not look at the clock twice.
        let is_timed = row.latency.p50_us > 0.0 && row.latency.p50_us <= row.latency.max_us;
        assert_eq!(is_timed, row.bare.is_none(), "{row:?}");
    }
    let row = |id: &str| report.rows.iter().find(|row| row.id() == id).unwrap();
    // A load reads the event that its snapshot stands on, and the five behind it.
    assert_eq!((row("load/1/tried").events_per_second.median / row("load/1/tried").per_second.median).round(), 6.0);
    assert_eq!(row("append/1/tried").conflicts, 0);
    assert!(row("hot/4/tried").conflicts > 0);
    assert_eq!(row("steady/4/tried").within, Some(1.0));
    let seen = row("seen/4/tried");
    assert_eq!((seen.stale.unwrap().stale, seen.checked.as_ref().unwrap().broken.len()), (0, 0));
    // What the measuring adds to the calls, in the row of which that is the largest part.
    let takes = |id: &str| 1.0 / row(id).per_second.median;
    let share = |callers: u32| {
        let adds = takes(&format!("append/{callers}/harness")) - takes(&format!("append/{callers}/harness:bare"));
        adds.max(0.0) / takes(&format!("append/{callers}/tried"))
    };
    let told = report.harness.as_ref().unwrap();
    assert!((told.share - share(1).max(share(4))).abs() < 1e-9, "{told:?}");
    // Every answer that is given stands on rows or parts of the page that are there.
    for answer in &report.answers {
        assert_eq!(answer.not_measured.is_some(), answer.lines.is_empty(), "{answer:?}");
        for row in answer.lines.iter().filter_map(|line| line.row.as_ref()) {
            let is_part = ["losses", "guarantees", "cost", "estimates"].contains(&row.as_str());
            assert!(is_part || ids.contains(row), "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_not_be_opened_has_rows_that_say_so() {
    let mut wrong = contender("wrong", None);
    wrong.provider = evstore_sqlite::provider();
    let given = [("path".to_owned(), "/dev/null/all.db".to_owned())];
    wrong.settings = Settings::new(StoreName::new("wrong").unwrap(), wrong.provider.keys, given).unwrap();
    let report = measured(RACE, vec![wrong, contender("tried", None)]).await;
    assert!(report.rows[0].failed.as_ref().unwrap().starts_with("it could not be prepared"), "{:?}", report.rows[0]);
    assert!(report.rows[1].is_measured());
}
