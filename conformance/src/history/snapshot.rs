//! Rules P1 to P4: what a snapshot holds, and that it never goes back.
//!
//! Clients fold their state with [`chain`](super::record::chain), so a snapshot is right if its state is the chain at its
//! revision. Then loading it and reading on equals reading everything.

use std::collections::BTreeMap;

use super::log::{Log, Logs, Shape};
use super::record::{
    Call, Digest, LoadOutcome, LoadSnapshot, Moment, Operation, Returned, SaveOutcome, SaveSnapshot,
};
use super::rule::Rule;
use super::violation::{Violation, Violations};

/// Checks every snapshot of a history.
pub fn check_snapshots(logs: &Logs<'_>) -> Violations {
    let mut violations = Violations::default();
    for log in logs.streams.values() {
        let mut names: BTreeMap<&str, Calls<'_>> = BTreeMap::new();
        for operation in &log.operations {
            match &operation.call {
                Call::SaveSnapshot(save) => names.entry(&save.name).or_default().saves.push((operation, save)),
                Call::LoadSnapshot(load) => names.entry(&load.name).or_default().loads.push((operation, load)),
                Call::Append(_) | Call::Read(_) => {}
            }
        }
        for calls in names.values() {
            check_states(log, calls, &mut violations);
            check_progress(log, calls, &mut violations);
        }
    }
    violations
}

/// The calls on one snapshot.
#[derive(Default)]
struct Calls<'h> {
    saves: Vec<(&'h Operation, &'h SaveSnapshot)>,
    loads: Vec<(&'h Operation, &'h LoadSnapshot)>,
}

fn check_states(log: &Log<'_>, calls: &Calls<'_>, violations: &mut Violations) {
    if log.shape == Shape::Broken {
        return;
    }
    for (operation, save) in &calls.saves {
        check_state(log, operation, save.revision, save.state, violations);
    }
    for (operation, load) in &calls.loads {
        if let LoadOutcome::Found { revision, state } = load.outcome {
            check_state(log, operation, revision, state, violations);
        }
    }
}

fn check_state(log: &Log<'_>, operation: &Operation, revision: u64, state: Digest, violations: &mut Violations) {
    if revision > log.head() {
        let says = format!("a snapshot at {revision}, and the stream never got that far");
        let end = format!("final log: ends at revision {}", log.head());
        violations.add(Violation::new(Rule::SnapshotAhead, log.stream, says).shown_by([operation]).with_fact(end));
        return;
    }
    if let Some(commit) = log.commit_holding(revision).map(|commit| &log.commits[commit])
        && operation.returned_at.is_before(commit.window.invoked_at)
    {
        let says = format!("a snapshot at {revision}, which was not yet asked for");
        let shown = commit.window.invoked_by.into_iter().chain([operation]);
        violations.add(Violation::new(Rule::SnapshotAhead, log.stream, says).shown_by(shown));
    }
    if let Some(fold) = log.chain_at(revision)
        && fold != state
    {
        let says = format!("a snapshot at {revision} holds another state than the events up to it");
        let fact = format!("the events up to {revision} fold to {fold}, the snapshot holds {state}");
        violations.add(Violation::new(Rule::SnapshotState, log.stream, says).shown_by([operation]).with_fact(fact));
    }
}

/// A call after which no load may show an older snapshot.
struct Mark<'h> {
    returned_at: Moment,
    revision: u64,
    operation: &'h Operation,
}

fn check_progress(log: &Log<'_>, calls: &Calls<'_>, violations: &mut Violations) {
    let marks = marks(calls);
    let mut loads: Vec<(&Operation, u64)> = calls.loads.iter().filter_map(|(operation, load)| {
        Some((*operation, shown_revision(&load.outcome)?))
    }).collect();
    loads.sort_by_key(|(operation, _)| operation.invoked_at);
    let mut newest: Option<&Mark<'_>> = None;
    let mut passed = marks.iter().peekable();
    for (operation, revision) in loads {
        while let Some(mark) = passed.next_if(|mark| mark.returned_at < operation.invoked_at) {
            newest = newest.filter(|newest| newest.revision >= mark.revision).or(Some(mark));
        }
        if let Some(mark) = newest.filter(|mark| revision < mark.revision) {
            violations.add(went_back(log, calls, mark, operation, revision));
        }
    }
}

/// The acknowledged saves and the loads, by the moment from which on they count.
fn marks<'h>(calls: &Calls<'h>) -> Vec<Mark<'h>> {
    let saves = calls.saves.iter().filter_map(|(operation, save)| match save.outcome {
        SaveOutcome::Acknowledged => Some((*operation, save.revision)),
        SaveOutcome::DefiniteFail | SaveOutcome::Ambiguous => None,
    });
    let loads = calls.loads.iter().filter_map(|(operation, load)| Some((*operation, shown_revision(&load.outcome)?)));
    let mut marks: Vec<Mark<'h>> = saves
        .chain(loads)
        .filter_map(|(operation, revision)| match operation.returned_at {
            Returned::At(returned_at) => Some(Mark { returned_at, revision, operation }),
            Returned::Never => None,
        })
        .collect();
    marks.sort_by_key(|mark| mark.returned_at);
    marks
}

/// The revision that a load showed, 0 for no snapshot; none where it showed nothing.
fn shown_revision(outcome: &LoadOutcome) -> Option<u64> {
    match outcome {
        LoadOutcome::Found { revision, .. } => Some(*revision),
        LoadOutcome::Absent => Some(0),
        LoadOutcome::Failed => None,
    }
}

/// A load showed an older snapshot than was certainly there: overwritten, if the older one was being saved afterwards.
fn went_back(log: &Log<'_>, calls: &Calls<'_>, mark: &Mark<'_>, load: &Operation, revision: u64) -> Violation {
    let overwriter = calls.saves.iter().find(|(operation, save)| {
        save.revision == revision
            && save.outcome != SaveOutcome::DefiniteFail
            && !operation.returned_at.is_before(mark.operation.invoked_at)
            && !load.returned_at.is_before(operation.invoked_at)
    });
    let (rule, says) = match overwriter {
        Some(_) => (Rule::SnapshotOverwritten, "a save at"),
        None => (Rule::SnapshotRegressed, "a load shows"),
    };
    let says = format!("{says} revision {revision}, after revision {} was there", mark.revision);
    let shown = overwriter.map(|(operation, _)| *operation).into_iter().chain([mark.operation, load]);
    Violation::new(rule, log.stream, says).shown_by(shown)
}
