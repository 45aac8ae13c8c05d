//! Rules E1 to E5: reads that may be behind. Each shows a beginning of the stream; a client may be promised that it never
//! goes back behind itself. How far they are behind is measured, not judged.

use std::collections::BTreeMap;

use super::log::{Gap, Log, Shape, says_written};
use super::record::{AppendOutcome, Call, Consistency, Moment, Operation, Read, ReadOutcome, Returned};
use super::rule::Rule;
use super::stream::{Sessions, beyond_end, check_content, inside_commit};
use super::violation::{Violation, Violations};

/// Checks one stream, and adds how long each head that an eventual read showed had been overtaken, in nanoseconds.
pub(crate) fn check(log: &Log<'_>, sessions: Sessions, violations: &mut Violations, staleness: &mut Vec<u64>) {
    if log.shape == Shape::Broken {
        return;
    }
    check_reads(log, violations, staleness);
    match sessions {
        Sessions::Guaranteed => check_sessions(log, violations),
        Sessions::NotPromised => {}
    }
}

fn check_reads(log: &Log<'_>, violations: &mut Violations, staleness: &mut Vec<u64>) {
    let mut bounds = None;
    for operation in &log.operations {
        let Call::Read(read) = &operation.call else { continue };
        let Some(head) = eventual_head(read) else { continue };
        match log.gap(head) {
            Gap::BeyondEnd => violations.add(beyond_end(Rule::EventualFuture, log, operation, head)),
            Gap::InsideCommit(commit) => violations.add(inside_commit(log, operation, head, commit)),
            Gap::At(gap) => {
                let bounds = bounds.get_or_insert_with(|| Bounds::of(log));
                check_future(log, operation, gap, bounds, violations);
                staleness.push(bounds.overtaken_for(gap, operation.invoked_at));
            }
        }
        check_content(log, operation, read, violations);
    }
}

fn eventual_head(read: &Read) -> Option<u64> {
    match (&read.consistency, &read.outcome) {
        (Consistency::Eventual, ReadOutcome::Ok { head, .. }) => Some(*head),
        (Consistency::Eventual, ReadOutcome::Failed) | (Consistency::Strong, _) => None,
    }
}

fn check_future(log: &Log<'_>, operation: &Operation, gap: usize, bounds: &Bounds, violations: &mut Violations) {
    let Some(before) = gap.checked_sub(1) else { return };
    if operation.returned_at.is_before(bounds.begins[before]) {
        let cause = bounds.begins.partition_point(|begin| *begin < bounds.begins[before]);
        let says = "a head was shown that holds an append which was not yet invoked";
        let shown = log.commits[cause].window.invoked_by.into_iter().chain([operation]);
        violations.add(Violation::new(Rule::EventualFuture, log.stream, says).shown_by(shown));
    }
}

/// When each gap can first have been there, and when it was certainly over.
struct Bounds {
    /// By commit: the latest invocation up to it.
    begins: Vec<Moment>,
    /// By commit: the earliest return from it on.
    ends: Vec<Returned>,
}

impl Bounds {
    fn of(log: &Log<'_>) -> Self {
        let mut latest = Moment(0);
        let begin = |commit: &super::log::Placed<'_>| {
            latest = latest.max(commit.window.invoked_at);
            latest
        };
        let begins = log.commits.iter().map(begin).collect();
        let mut ends: Vec<Returned> = log.commits.iter().map(|commit| commit.window.returned_at).collect();
        for index in (1..ends.len()).rev() {
            ends[index - 1] = ends[index - 1].min(ends[index]);
        }
        Bounds { begins, ends }
    }

    fn overtaken_for(&self, gap: usize, read_at: Moment) -> u64 {
        match self.ends.get(gap) {
            Some(Returned::At(end)) => read_at.0.saturating_sub(end.0),
            Some(Returned::Never) | None => 0,
        }
    }
}

/// What one client saw and wrote so far, with the calls that show it.
#[derive(Default)]
struct Session<'h> {
    read: Option<(u64, &'h Operation)>,
    written: Option<(u64, &'h Operation)>,
}

fn check_sessions(log: &Log<'_>, violations: &mut Violations) {
    let mut clients: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in &log.operations {
        clients.entry(operation.client).or_default().push(operation);
    }
    for operations in clients.values_mut() {
        // A client's own count orders its calls, also where clocks are only known within bounds.
        operations.sort_by_key(|operation| (operation.operation, operation.attempt));
        let mut session = Session::default();
        for operation in operations.iter() {
            session.follow(log, operation, violations);
        }
    }
}

impl<'h> Session<'h> {
    fn follow(&mut self, log: &Log<'h>, operation: &'h Operation, violations: &mut Violations) {
        match &operation.call {
            Call::Read(Read { outcome: ReadOutcome::Ok { head, .. }, .. }) => {
                behind(Rule::MonotonicReads, log, self.read, *head, operation, violations);
                behind(Rule::ReadYourWrites, log, self.written, *head, operation, violations);
                raise(&mut self.read, *head, operation);
            }
            Call::Append(append) => {
                let placed = self.written_by(log, operation);
                if let Some(first) = placed {
                    // Its first revision has to be beyond everything before, so the one before it must not be behind.
                    behind(Rule::MonotonicWrites, log, self.written, first - 1, operation, violations);
                    behind(Rule::WritesFollowReads, log, self.read, first - 1, operation, violations);
                }
                if let AppendOutcome::Ok(receipt) = append.outcome {
                    raise(&mut self.written, receipt.last, operation);
                }
            }
            Call::Read(_) | Call::SaveSnapshot(_) | Call::LoadSnapshot(_) | Call::DeleteSnapshot => {}
        }
    }

    /// The first revision of the commit that this attempt wrote; none if it wrote none, or another may have.
    fn written_by(&self, log: &Log<'h>, operation: &'h Operation) -> Option<u64> {
        let Call::Append(append) = &operation.call else { return None };
        let AppendOutcome::Ok(receipt) = append.outcome else { return None };
        let commit = &log.commits[log.commit_holding(receipt.first)?];
        (says_written(append) && commit.id == append.commit).then_some(commit.first)
    }
}

fn behind(
    rule: Rule,
    log: &Log<'_>,
    before: Option<(u64, &Operation)>,
    now: u64,
    operation: &Operation,
    violations: &mut Violations,
) {
    if let Some((revision, earlier)) = before
        && now < revision
    {
        let says = format!("the client was at revision {revision} before, and is at {now} now");
        violations.add(Violation::new(rule, log.stream, says).shown_by([earlier, operation]));
    }
}

fn raise<'h>(mark: &mut Option<(u64, &'h Operation)>, revision: u64, operation: &'h Operation) {
    if mark.is_none_or(|(before, _)| before < revision) {
        *mark = Some((revision, operation));
    }
}
