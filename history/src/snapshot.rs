//! Rules P1 to P4: what a snapshot holds, and that it never goes back.
//!
//! Clients fold their state with [`chain`](super::record::chain), so a snapshot is right if its state is the chain at its
//! revision. Then loading it and reading on equals reading everything.

use super::log::{Log, Logs, Shape};
use super::record::{Call, Digest, LoadOutcome, Moment, Operation, Returned, SaveOutcome, SaveSnapshot};
use super::rule::Rule;
use super::violation::{Violation, Violations};

/// Checks every snapshot of a history.
pub fn check_snapshots(logs: &Logs<'_>) -> Violations {
    let mut violations = Violations::default();
    for log in logs.streams.values() {
        if log.shape == Shape::Whole {
            check_states(log, &mut violations);
        }
        check_progress(log, &mut violations);
    }
    violations
}

// --- P1 and P2: what it holds

fn check_states(log: &Log<'_>, violations: &mut Violations) {
    for operation in &log.operations {
        match &operation.call {
            Call::SaveSnapshot(SaveSnapshot { revision, state, .. })
            | Call::LoadSnapshot(LoadOutcome::Found { revision, state }) => {
                check_state(log, operation, *revision, *state, violations);
            }
            Call::LoadSnapshot(LoadOutcome::Absent | LoadOutcome::Failed)
            | Call::DeleteSnapshot
            | Call::Append(_)
            | Call::Read(_) => {}
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

// --- P3 and P4: it never goes back

/// A call that showed which snapshot is the latest.
#[derive(Clone, Copy)]
struct Sight<'h> {
    operation: &'h Operation,
    /// 0 for none.
    revision: u64,
}

fn check_progress(log: &Log<'_>, violations: &mut Violations) {
    let mut begun: Vec<Sight<'_>> = log.operations.iter().filter_map(|operation| sight(operation)).collect();
    let mut ended: Vec<(Moment, Sight<'_>)> = begun.iter().filter_map(ended_sight).collect();
    begun.sort_by_key(|sight| sight.operation.invoked_at);
    ended.sort_by_key(|(moment, _)| *moment);
    let mut ended = ended.into_iter().peekable();
    let mut newest_before: Option<Sight<'_>> = None;
    for sight in begun {
        while let Some((_, before)) = ended.next_if(|(moment, _)| *moment < sight.operation.invoked_at) {
            newest_before = newest_before.filter(|newest| newest.revision >= before.revision).or(Some(before));
        }
        if let Some(newest) = newest_before.filter(|newest| sight.revision < newest.revision)
            && !may_be_deleted_between(log, newest.operation, sight.operation)
        {
            violations.add(went_back(log, newest, sight));
            // What follows from the older snapshot is not shown again.
            newest_before = None;
        }
    }
}

fn sight(operation: &Operation) -> Option<Sight<'_>> {
    let revision = match &operation.call {
        Call::SaveSnapshot(save) => match save.outcome {
            SaveOutcome::Stored => save.revision,
            SaveOutcome::Superseded { by } => by,
            SaveOutcome::DefiniteFail | SaveOutcome::Ambiguous => return None,
        },
        Call::LoadSnapshot(LoadOutcome::Found { revision, .. }) => *revision,
        Call::LoadSnapshot(LoadOutcome::Absent) => 0,
        Call::LoadSnapshot(LoadOutcome::Failed) | Call::DeleteSnapshot | Call::Append(_) | Call::Read(_) => {
            return None;
        }
    };
    Some(Sight { operation, revision })
}

fn ended_sight<'h>(sight: &Sight<'h>) -> Option<(Moment, Sight<'h>)> {
    match sight.operation.returned_at {
        Returned::At(moment) => Some((moment, *sight)),
        Returned::Never => None,
    }
}

fn may_be_deleted_between(log: &Log<'_>, from: &Operation, to: &Operation) -> bool {
    log.operations
        .iter()
        .any(|operation| matches!(operation.call, Call::DeleteSnapshot) && may_happen_between(operation, from, to))
}

/// True if a call can have taken effect after `from` did and before `to` did. One without an answer may do so late.
fn may_happen_between(operation: &Operation, from: &Operation, to: &Operation) -> bool {
    !operation.returned_at.is_before(from.invoked_at) && !to.returned_at.is_before(operation.invoked_at)
}

/// An older snapshot was the latest than was certainly there before. Overwritten, if the older one was saved after it.
fn went_back(log: &Log<'_>, newest: Sight<'_>, sight: Sight<'_>) -> Violation {
    let revision = sight.revision;
    let overwriter = log.operations.iter().find(|operation| match &operation.call {
        Call::SaveSnapshot(save) if save.revision == revision => match save.outcome {
            SaveOutcome::Stored | SaveOutcome::Ambiguous => {
                may_happen_between(operation, newest.operation, sight.operation)
            }
            SaveOutcome::Superseded { .. } | SaveOutcome::DefiniteFail => false,
        },
        Call::SaveSnapshot(_) | Call::LoadSnapshot(_) | Call::DeleteSnapshot | Call::Append(_) | Call::Read(_) => false,
    });
    let (rule, what) = match overwriter {
        Some(_) => (Rule::SnapshotOverwritten, "was overwritten by one"),
        None => (Rule::SnapshotRegressed, "was there before one"),
    };
    let says = format!("a snapshot at {} {what} at {revision}", newest.revision);
    let shown = overwriter.into_iter().copied().chain([newest.operation, sight.operation]);
    Violation::new(rule, log.stream, says).shown_by(shown)
}
