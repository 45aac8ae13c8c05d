//! Every mutant is found BROKEN by the checks that it names, every check is named by a mutant, and a healthy store breaks
//! none.

use evstore_api::{Settings, StoreName};
use evstore_conformance::check::Verdict;
use evstore_conformance::mutants::{DOES_NOTHING, Mutant, honest_classes, mutants};
use evstore_conformance::{Check, Report, Runner, Target, catalog};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Checks that only processes of their own can break. They are held against broken stores in `provider-sqlite`.
const NEED_PROCESSES: &[&str] = &[
    "concurrency.histories-of-processes-are-serial",
    "concurrency.killed-processes-lose-nothing-acknowledged",
    "ownership.no-process-appends-behind-the-fence",
];

/// Checks that a store may pass that does nothing at all: they look for what must not be done.
const WANT_NOTHING_DONE: &[&str] = &[
    "lifecycle.a-missing-store-is-refused",
    "lifecycle.scratch-stores-come-and-go",
    "honesty.everything-is-declared",
    "honesty.every-handle-declares-the-same",
    "honesty.declarations-agree",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // A check that panics is a finding of its report; what the panic prints beside it would bury the others.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = Arc::new(runtime.expect("threads can be started"));
    let mut trials: Vec<Trial> = mutants()
        .map(|mutant| {
            let runtime = runtime.clone();
            Trial::test(mutant.name, move || mutant_is_noticed(&runtime, mutant)).with_kind("mutant")
        })
        .collect();
    trials.extend(honest_classes().map(|class| {
        let runtime = runtime.clone();
        Trial::test(class.name, move || a_class_breaks_no_check(&runtime, class)).with_kind("honest")
    }));
    trials.push(Trial::test("names_are_unique", names_are_unique));
    trials.push(Trial::test("every_check_is_named_by_a_mutant", every_check_is_named_by_a_mutant));
    let shared = runtime.clone();
    trials.push(Trial::test("a_store_that_does_nothing_breaks_every_check_that_wants_something", move || {
        a_store_that_does_nothing_breaks_every_check_that_wants_something(&shared)
    }));
    trials.push(Trial::test("a_healthy_store_breaks_no_check", move || a_healthy_store_breaks_no_check(&runtime)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs checks on a store in memory, with a defect or without.
fn run(runtime: &Runtime, mutant: Option<&Mutant>, only: &[&str]) -> Result<Report, Failed> {
    let healthy = evstore_memory::provider();
    let provider = mutant.map_or(healthy.clone(), |mutant| mutant.provider(&healthy));
    let settings = Settings::new(StoreName::new("mutant")?, provider.keys, [])?;
    // A seed of its own for every run: a mutant that is noticed only by luck shows itself in time.
    let mut runner = Runner::new(Target::new(provider, settings), std::process::id().into());
    runner.only = only.iter().map(|&name| name.to_owned()).collect();
    Ok(runtime.block_on(runner.run(|_| {}))?)
}

fn mutant_is_noticed(runtime: &Runtime, mutant: &Mutant) -> Result<(), Failed> {
    if mutant.killed_by.is_empty() {
        return Err("no check is named that notices it".into());
    }
    let report = run(runtime, Some(mutant), mutant.killed_by)?;
    let mut survived = Vec::new();
    for &name in mutant.killed_by {
        let finding = report.findings.iter().find(|finding| finding.check.name == name);
        match finding.map(|finding| &finding.verdict) {
            Some(Verdict::Broken(_)) => {}
            Some(verdict) => survived.push(format!("{name} says {}", verdict.name())),
            None => survived.push(format!("{name} is not in the catalog")),
        }
    }
    if survived.is_empty() {
        return Ok(());
    }
    Err(format!("{} (seed {})\n{}", mutant.defect, report.seed, survived.join("\n")).into())
}

fn names_are_unique() -> Result<(), Failed> {
    let mut names: Vec<_> = mutants().map(|mutant| mutant.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(twice) => Err(format!("{} stands twice", twice[0]).into()),
    }
}

fn every_check_is_named_by_a_mutant() -> Result<(), Failed> {
    let named = |check: &Check| mutants().any(|mutant| mutant.killed_by.contains(&check.name));
    let unnamed: Vec<_> =
        catalog().filter(|check| !named(check) && !NEED_PROCESSES.contains(&check.name)).map(|one| one.name).collect();
    if unnamed.is_empty() { Ok(()) } else { Err(format!("no mutant names\n{}", unnamed.join("\n")).into()) }
}

fn a_store_that_does_nothing_breaks_every_check_that_wants_something(runtime: &Runtime) -> Result<(), Failed> {
    let mutant = mutants().find(|mutant| mutant.name == DOES_NOTHING).ok_or("there is no such mutant")?;
    let report = run(runtime, Some(mutant), &[])?;
    let content = |name: &str| !NEED_PROCESSES.contains(&name) && !WANT_NOTHING_DONE.contains(&name);
    let fooled: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| content(finding.check.name) && !matches!(finding.verdict, Verdict::Broken(_)))
        .map(|finding| format!("{} says {}", finding.check.name, finding.verdict.name()))
        .collect();
    if fooled.is_empty() { Ok(()) } else { Err(format!("content with nothing\n{}", fooled.join("\n")).into()) }
}

/// A check holds for every honest store, of whatever class.
fn a_class_breaks_no_check(runtime: &Runtime, class: &Mutant) -> Result<(), Failed> {
    let report = run(runtime, Some(class), &[])?;
    if report.broken().next().is_none() { Ok(()) } else { Err(report.text().into()) }
}

fn a_healthy_store_breaks_no_check(runtime: &Runtime) -> Result<(), Failed> {
    let report = run(runtime, None, &[])?;
    if report.broken().next().is_none() { Ok(()) } else { Err(report.text().into()) }
}
