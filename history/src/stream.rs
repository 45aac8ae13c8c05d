//! Rules S0 to S4: whether the calls on a stream can have happened one after the other, each at a moment between its
//! invocation and its return, and left the final log behind. The answer is exact; the cost is a sort.
//!
//! Revisions fix the order: a read or a conflict that shows head h belongs between the commit that ends at h and the next.
//! That order is a total preorder, so moments exist exactly if no call returned before one that stands earlier in it was
//! invoked. A running maximum finds that out. Eventual reads are judged in `eventual.rs`.

use std::collections::HashSet;

use super::eventual;
use super::log::{Gap, Log, Logs, Placed, Shape, says_written};
use super::record::{
    Append, AppendOutcome, Call, Consistency, Event, FeedItem, FinalBody, FinalCommit, Moment, Operation, Read,
    ReadOutcome, Receipt, Returned, Seen,
};
use super::rule::Rule;
use super::spread::Spread;
use super::violation::{Violation, Violations};

/// What a store promises of its streams, beyond what every store has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClaims {
    /// What an eventual read promises to the client that makes it.
    pub sessions: Sessions,
    /// Whether anybody may have removed something.
    pub removal: Removal,
}

/// Whether anybody truncated, deleted or moved a stream while the history was recorded. Those calls are not recorded, so only
/// who made the history knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nobody: whatever is removed, and every marker, is a loss.
    Never,
    /// Nobody, and streams were sealed on their way to another store: a marker takes a number and a position, and removes nothing.
    Sealed,
    /// Somebody: what is removed is not missed.
    Asked,
}

/// What an eventual read promises to the client that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// What this client read and wrote before: rules E2, E3 and E5.
    Guaranteed,
    /// Nothing of that.
    NotPromised,
}

/// What a check of streams found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamVerdict {
    /// The broken rules.
    pub violations: Violations,
    /// How long the heads that eventual reads showed had been overtaken.
    pub staleness: Spread,
}

/// Checks every stream of a history.
pub fn check_streams(logs: &Logs<'_>, claims: &StreamClaims) -> StreamVerdict {
    let mut violations = Violations::default();
    let mut staleness = Vec::new();
    for log in logs.streams.values() {
        check_stream(log, &mut violations);
        match claims.removal {
            kept @ (Removal::Never | Removal::Sealed) => check_kept(log, kept, &mut violations),
            Removal::Asked => {}
        }
        eventual::check(log, claims.sessions, &mut violations, &mut staleness);
    }
    match claims.removal {
        kept @ (Removal::Never | Removal::Sealed) => check_kept_in_feed(logs, kept, &mut violations),
        Removal::Asked => {}
    }
    StreamVerdict { violations, staleness: Spread::of(staleness) }
}

fn check_stream(log: &Log<'_>, violations: &mut Violations) {
    check_record(log, violations);
    check_shape(log, violations);
    for commit in &log.commits {
        check_commit(log, commit, violations);
    }
    for (operation, append) in &log.absent {
        check_absent(log, operation, append, violations);
    }
    // In a log with holes a revision is no place, and everything further would follow from the hole.
    if log.shape == Shape::Whole {
        let observers = place_observers(log, violations);
        check_order(log, &observers, violations);
    }
}

fn check_record(log: &Log<'_>, violations: &mut Violations) {
    for operation in &log.operations {
        if operation.returned_at.is_before(operation.invoked_at) {
            let says = "a call returned before it was invoked";
            violations.add(Violation::new(Rule::Record, log.stream, says).shown_by([*operation]));
        }
        if matches!(&operation.call, Call::Append(append) if append.events.is_empty()) {
            let says = "an append without events was recorded";
            violations.add(Violation::new(Rule::Record, log.stream, says).shown_by([*operation]));
        }
    }
}

// --- S0: the shape of the final log

fn check_shape(log: &Log<'_>, violations: &mut Violations) {
    let Some(first_final) = log.finals.first() else { return };
    if log.finals.iter().any(|other| other != first_final) {
        let says = "two reads of the quiet stream returned different logs";
        violations.add(Violation::new(Rule::Record, log.stream, says));
    }
    let mut next_revision = 1;
    let mut commit_ids = HashSet::with_capacity(first_final.commits.len());
    let mut event_ids = HashSet::with_capacity(first_final.commits.len());
    for (place, commit) in first_final.commits.iter().enumerate() {
        check_number(log, commit, place as u64 + 1, violations);
        check_revisions(log, commit, &mut next_revision, violations);
        if !commit_ids.insert(commit.id) {
            violations.add(second_occurrence(log, commit));
        } else if let FinalBody::Events { events, .. } = &commit.body {
            for event in events.iter().filter(|event| !event_ids.insert(event.id)) {
                let says = format!("event {} is in the stream twice", event.id);
                violations.add(Violation::new(Rule::DuplicateId, log.stream, says).with_fact(described(commit)));
            }
        }
    }
}

fn check_number(log: &Log<'_>, commit: &FinalCommit, expected: u64, violations: &mut Violations) {
    if commit.number != expected {
        let says = format!("commit number {} stands where {expected} belongs", commit.number);
        violations.add(Violation::new(Rule::LogShape, log.stream, says).with_fact(described(commit)));
    }
}

/// Nobody removed anything: every commit still has its events, and nothing but a seal takes a number.
fn check_kept(log: &Log<'_>, kept: Removal, violations: &mut Violations) {
    let Some(log_final) = log.finals.first() else { return };
    for commit in &log_final.commits {
        let is_as_it_was = match commit.body {
            FinalBody::Events { .. } => true,
            FinalBody::Marker => kept == Removal::Sealed,
            FinalBody::Removed { .. } => false,
        };
        if !is_as_it_was {
            let says = "the stream says that something was removed, and nobody asked for that";
            violations.add(Violation::new(Rule::RemovedUnasked, log.stream, says).with_fact(described(commit)));
        }
    }
}

/// Nor does any reader of the feed get a removed range, or a marker that is no seal.
fn check_kept_in_feed(logs: &Logs<'_>, kept: Removal, violations: &mut Violations) {
    let replayed = logs.history.final_feed.iter().flat_map(|feed| &feed.entries);
    let delivered = logs.history.runs.iter().flat_map(|run| &run.deliveries).map(|delivery| &delivery.entry);
    for entry in replayed.chain(delivered) {
        let (stream, what) = match &entry.item {
            FeedItem::Event { .. } => continue,
            FeedItem::Marker { .. } if kept == Removal::Sealed => continue,
            FeedItem::Marker { stream, number } => (stream.as_str(), format!("marker {number}")),
            FeedItem::Removed { last } => ("", format!("nothing any more up to position {last}")),
        };
        let says = format!("the feed has {what} at position {}, and nobody removed anything", entry.position);
        violations.add(Violation::new(Rule::RemovedUnasked, stream, says));
    }
}

fn check_revisions(log: &Log<'_>, commit: &FinalCommit, next: &mut u64, violations: &mut Violations) {
    let (first, count) = match &commit.body {
        FinalBody::Marker => return,
        FinalBody::Events { first, events } => (*first, events.len() as u64),
        FinalBody::Removed { first, last } => (*first, last.saturating_add(1).saturating_sub(*first)),
    };
    if first != *next || count == 0 {
        let says = format!("{count} event(s) stand at revision {first} where revision {next} belongs");
        violations.add(Violation::new(Rule::LogShape, log.stream, says).with_fact(described(commit)));
    }
    *next = first.saturating_add(count);
}

/// A commit id that is met again: the rest of a commit that was torn apart, or the whole commit once more.
fn second_occurrence(log: &Log<'_>, again: &FinalCommit) -> Violation {
    let earlier = log.commit(again.id);
    let asked: Vec<(&Operation, &Append)> = earlier.map(|commit| log.attempts_at(commit).collect()).unwrap_or_default();
    let is_part = |events: &[Event]| asked.iter().any(|(_, append)| append.events.len() > events.len());
    let torn = matches!(&again.body, FinalBody::Events { events, .. } if is_part(events));
    let violation = if torn {
        Violation::new(Rule::TornCommit, log.stream, format!("commit {} stands in two places, in parts", again.id))
    } else {
        Violation::new(Rule::DuplicateId, log.stream, format!("commit {} is in the stream twice", again.id))
    };
    let violation = violation.shown_by(asked.iter().map(|(operation, _)| *operation));
    let violation = earlier.into_iter().fold(violation, |violation, commit| violation.with_fact(log.place(commit)));
    violation.with_fact(described(again))
}

fn described(commit: &FinalCommit) -> String {
    match &commit.body {
        FinalBody::Events { first, events } => {
            format!("final log: commit {}, number {}, {} event(s) from {first}", commit.id, commit.number, events.len())
        }
        FinalBody::Marker => format!("final log: marker {}, number {}", commit.id, commit.number),
        FinalBody::Removed { first, last } => {
            format!("final log: commit {}, number {}, removed {first}..={last}", commit.id, commit.number)
        }
    }
}

// --- S0 to S2: each commit of the log and its attempts

fn check_commit(log: &Log<'_>, commit: &Placed<'_>, violations: &mut Violations) {
    check_answers(log, commit, violations);
    if let Some((rule, says)) = explain_writer(log, commit) {
        let attempts = log.attempts_at(commit).map(|(operation, _)| operation);
        violations.add(Violation::new(rule, log.stream, says).shown_by(attempts).with_fact(log.place(commit)));
    } else if commit.window.returned_at.is_before(commit.window.invoked_at) {
        let says = "an answer showed the commit before the attempt that says that it wrote it was invoked";
        let ends = commit.window.returned_by.into_iter().chain(commit.window.invoked_by);
        violations.add(Violation::new(Rule::Idempotence, log.stream, says).shown_by(ends).with_fact(log.place(commit)));
    }
}

/// Why no attempt can have written this commit as it stands; nothing if one can.
fn explain_writer(log: &Log<'_>, commit: &Placed<'_>) -> Option<(Rule, String)> {
    let says_so: Vec<&Append> = written_attempts(log, commit, says_written);
    let possible: Vec<&Append> = match says_so.len() {
        0 => written_attempts(log, commit, may_have_written),
        1 => says_so,
        count => return Some((Rule::Idempotence, format!("{count} attempts say that they wrote the same commit"))),
    };
    if log.attempts_at(commit).next().is_none() {
        return Some((Rule::Phantom, "nobody asked for this commit".to_owned()));
    }
    if possible.is_empty() {
        return Some((
            Rule::RefusedButPresent,
            "every attempt was refused, yet the commit is in the stream".to_owned(),
        ));
    }
    let same: Vec<&&Append> = possible.iter().filter(|append| commit.holds(&append.events)).collect();
    if same.is_empty() {
        return Some(explain_content(commit, possible[0]));
    }
    if same.iter().any(|append| append.expected.holds_at(commit.first.saturating_sub(1))) {
        return None;
    }
    let says =
        format!("written after revision {}, expected was {:?}", commit.first.saturating_sub(1), same[0].expected);
    Some((Rule::Expectation, says))
}

fn written_attempts<'h>(log: &Log<'h>, commit: &Placed<'h>, wanted: impl Fn(&Append) -> bool) -> Vec<&'h Append> {
    log.attempts_at(commit).map(|(_, append)| append).filter(|append| wanted(append)).collect()
}

fn may_have_written(append: &Append) -> bool {
    matches!(append.outcome, AppendOutcome::Ok(_) | AppendOutcome::Ambiguous)
}

fn explain_content(commit: &Placed<'_>, append: &Append) -> (Rule, String) {
    let stored = commit.events.unwrap_or_default();
    let is_part = stored.len() < append.events.len() && stored.iter().all(|event| append.events.contains(event));
    if is_part {
        let says = format!("{} of {} events of the commit are in the stream", stored.len(), append.events.len());
        (Rule::TornCommit, says)
    } else {
        (Rule::Corrupt, "the stream holds other events than were given".to_owned())
    }
}

fn check_answers(log: &Log<'_>, commit: &Placed<'_>, violations: &mut Violations) {
    for (operation, append) in log.attempts_at(commit) {
        if let Some((rule, says)) = explain_answer(commit, append) {
            let writer = commit.window.invoked_by;
            let shown = writer.into_iter().chain([operation]);
            violations.add(Violation::new(rule, log.stream, says).shown_by(shown).with_fact(log.place(commit)));
        }
    }
}

/// What is wrong with the answer to one attempt at a commit that is in the log.
fn explain_answer(commit: &Placed<'_>, append: &Append) -> Option<(Rule, String)> {
    match append.outcome {
        AppendOutcome::Ok(receipt) => explain_receipt(commit, append, &receipt),
        AppendOutcome::Conflict { actual } if actual >= commit.last => {
            let says = "a repeat conflicted though the commit was in the stream already";
            Some((Rule::Idempotence, says.to_owned()))
        }
        AppendOutcome::OtherContent if commit.events.is_some() && commit.holds(&append.events) => {
            let says = "refused for other content, though the stream holds the same events";
            Some((Rule::Idempotence, says.to_owned()))
        }
        AppendOutcome::Conflict { .. }
        | AppendOutcome::OtherContent
        | AppendOutcome::DefiniteFail
        | AppendOutcome::Ambiguous => None,
    }
}

fn explain_receipt(commit: &Placed<'_>, append: &Append, receipt: &Receipt) -> Option<(Rule, String)> {
    let stored = (commit.first, commit.last, commit.number);
    let answered = (receipt.first, receipt.last, receipt.number);
    if stored != answered {
        let (first, last, number) = answered;
        let says = format!("the receipt says {first}..={last}, number {number}, where the stream has it elsewhere");
        let rule = if receipt.repeated { Rule::Idempotence } else { Rule::WrongRevision };
        return Some((rule, says));
    }
    if receipt.repeated && !commit.holds(&append.events) {
        return Some((Rule::Idempotence, "other content under a used commit id was not refused".to_owned()));
    }
    None
}

/// A commit that is not in the log must not have been acknowledged.
fn check_absent(log: &Log<'_>, operation: &Operation, append: &Append, violations: &mut Violations) {
    match append.outcome {
        AppendOutcome::Ok(receipt) => violations.add(lost(log, operation, &receipt)),
        AppendOutcome::OtherContent => {
            let says = "refused for other content, though the stream does not have the commit id";
            violations.add(Violation::new(Rule::Idempotence, log.stream, says).shown_by([operation]));
        }
        // A conflict is judged by the head that it shows; the others were not applied, or need not have been.
        AppendOutcome::Conflict { .. } | AppendOutcome::DefiniteFail | AppendOutcome::Ambiguous => {}
    }
}

fn lost(log: &Log<'_>, operation: &Operation, receipt: &Receipt) -> Violation {
    let says = format!("acknowledged at {}..={}, and not in the stream", receipt.first, receipt.last);
    let violation = Violation::new(Rule::LostAck, log.stream, says);
    match log.commit_holding(receipt.first).map(|commit| &log.commits[commit]) {
        Some(instead) => {
            violation.shown_by(instead.window.invoked_by.into_iter().chain([operation])).with_fact(log.place(instead))
        }
        None => violation.shown_by([operation]).with_fact(format!("final log: ends at revision {}", log.head())),
    }
}

// --- S3: the gap in which an answer was given

/// A call that showed a head, in the gap it belongs to.
struct Observer<'h> {
    gap: usize,
    operation: &'h Operation,
}

fn place_observers<'h>(log: &Log<'h>, violations: &mut Violations) -> Vec<Observer<'h>> {
    let mut observers = Vec::new();
    for operation in &log.operations {
        let Some(head) = shown_head(operation) else { continue };
        check_conflict(log, operation, head, violations);
        match log.gap(head) {
            Gap::At(gap) => observers.push(Observer { gap, operation }),
            Gap::BeyondEnd => violations.add(beyond_end(Rule::ReadFromFuture, log, operation, head)),
            Gap::InsideCommit(commit) => violations.add(inside_commit(log, operation, head, commit)),
        }
        if let Call::Read(read) = &operation.call {
            check_content(log, operation, read, violations);
        }
    }
    observers.sort_by_key(|observer| observer.gap);
    observers
}

/// The head that a strong answer showed.
fn shown_head(operation: &Operation) -> Option<u64> {
    match &operation.call {
        Call::Append(Append { outcome: AppendOutcome::Conflict { actual }, .. }) => Some(*actual),
        Call::Read(Read { consistency: Consistency::Strong, outcome: ReadOutcome::Ok { head, .. } }) => Some(*head),
        Call::Append(_) | Call::Read(_) | Call::SaveSnapshot(_) | Call::LoadSnapshot(_) | Call::DeleteSnapshot => None,
    }
}

fn check_conflict(log: &Log<'_>, operation: &Operation, head: u64, violations: &mut Violations) {
    if let Call::Append(append) = &operation.call
        && append.expected.holds_at(head)
    {
        let says = format!("a conflict at head {head}, where {:?} holds", append.expected);
        violations.add(Violation::new(Rule::SpuriousConflict, log.stream, says).shown_by([operation]));
    }
}

pub(crate) fn beyond_end(rule: Rule, log: &Log<'_>, operation: &Operation, head: u64) -> Violation {
    let says = format!("head {head} was shown, and the stream never got that far");
    Violation::new(rule, log.stream, says)
        .shown_by([operation])
        .with_fact(format!("final log: ends at revision {}", log.head()))
}

pub(crate) fn inside_commit(log: &Log<'_>, operation: &Operation, head: u64, commit: usize) -> Violation {
    let commit = &log.commits[commit];
    Violation::new(Rule::TornRead, log.stream, format!("head {head} was shown, which is inside a commit"))
        .shown_by(commit.window.invoked_by.into_iter().chain([operation]))
        .with_fact(log.place(commit))
}

/// Compares what a read showed with the log, as far as the log still has it.
pub(crate) fn check_content(log: &Log<'_>, operation: &Operation, read: &Read, violations: &mut Violations) {
    let ReadOutcome::Ok { head, seen } = &read.outcome else { return };
    let wrong = match seen {
        Seen::Head => None,
        Seen::Chain(chain) => match log.chain_at(*head) {
            Some(stored) if stored != *chain => Some(format!("the events up to {head} were read otherwise")),
            Some(_) | None => None,
        },
        Seen::Events { from, events } => explain_events(log, *head, *from, events),
    };
    if let Some(says) = wrong {
        violations.add(Violation::new(Rule::WrongRead, log.stream, says).shown_by([operation]));
    }
}

fn explain_events(log: &Log<'_>, head: u64, from: u64, events: &[Event]) -> Option<String> {
    let after = from.saturating_add(events.len() as u64);
    if !events.is_empty() && (from == 0 || after > head.saturating_add(1)) {
        return Some(format!("revisions {from}..{after} were read where the head was {head}"));
    }
    (from..after).zip(events).find_map(|(revision, event)| match log.event(revision) {
        Some(stored) if stored != event => {
            Some(format!("revision {revision} was read as event {}, stored is {}", event.id, stored.id))
        }
        Some(_) | None => None,
    })
}

// --- S4: real time

/// A point in the order that the revisions fix.
#[derive(Clone, Copy)]
enum Point<'h> {
    Observer(&'h Operation),
    Commit(usize),
}

/// The latest invocation so far in the order of the log.
struct Latest<'h> {
    invoked_at: Moment,
    point: Point<'h>,
    /// A call that is out of place is shown once, not with everything that stands after it.
    shown: Shown,
}

#[derive(PartialEq, Eq)]
enum Shown {
    NotYet,
    Already,
}

fn check_order<'h>(log: &Log<'h>, observers: &[Observer<'h>], violations: &mut Violations) {
    let mut latest: Option<Latest<'h>> = None;
    let mut rest = observers;
    for gap in 0..=log.commits.len() {
        let here = rest.partition_point(|observer| observer.gap == gap);
        let (same, later) = rest.split_at(here);
        rest = later;
        // Calls in one gap do not order each other, so all are judged before any of them counts.
        for observer in same {
            let returned_at = observer.operation.returned_at;
            judge(log, &mut latest, Point::Observer(observer.operation), returned_at, violations);
        }
        for observer in same {
            advance(&mut latest, Point::Observer(observer.operation), observer.operation.invoked_at);
        }
        if let Some(commit) = log.commits.get(gap) {
            judge(log, &mut latest, Point::Commit(gap), commit.window.returned_at, violations);
            advance(&mut latest, Point::Commit(gap), commit.window.invoked_at);
        }
    }
}

fn advance<'h>(latest: &mut Option<Latest<'h>>, point: Point<'h>, invoked_at: Moment) {
    if latest.as_ref().is_none_or(|latest| latest.invoked_at < invoked_at) {
        *latest = Some(Latest { invoked_at, point, shown: Shown::NotYet });
    }
}

fn judge<'h>(
    log: &Log<'h>,
    latest: &mut Option<Latest<'h>>,
    point: Point<'h>,
    returned_at: Returned,
    violations: &mut Violations,
) {
    let Some(latest) = latest else { return };
    if returned_at.is_before(latest.invoked_at) && latest.shown == Shown::NotYet {
        latest.shown = Shown::Already;
        violations.add(out_of_order(log, latest.point, point));
    }
}

/// `before` stands before `after` in the log, and was invoked when `after` had returned.
fn out_of_order<'h>(log: &Log<'h>, before: Point<'h>, after: Point<'h>) -> Violation {
    let (rule, says) = match (before, after) {
        (Point::Observer(_), _) => (Rule::StaleRead, "a head was shown that had been overtaken before the call"),
        (Point::Commit(_), Point::Observer(_)) => {
            (Rule::ReadFromFuture, "a head was shown that holds an append which was not yet invoked")
        }
        (Point::Commit(_), Point::Commit(_)) => {
            (Rule::RealtimeOrder, "an append returned before another was invoked, and stands after it")
        }
    };
    let mut shown = Vec::new();
    let mut facts = Vec::new();
    for (point, is_begin) in [(before, true), (after, false)] {
        match point {
            Point::Observer(operation) => shown.push(operation),
            Point::Commit(index) => {
                let commit = &log.commits[index];
                let window = commit.window;
                shown.extend(if is_begin { window.invoked_by } else { window.returned_by });
                facts.push(log.place(commit));
            }
        }
    }
    let violation = Violation::new(rule, log.stream, says).shown_by(shown);
    facts.into_iter().fold(violation, Violation::with_fact)
}
