//! The exact checker against an exhaustive search on small random histories: both must always say the same. The search
//! tries every order of the calls, and knows nothing of gaps, windows and running maxima.
//!
//! `HISTORIES` and `SEED` choose how many and which; a disagreement prints the seed that shows it.

use std::collections::HashSet;

use evstore_conformance::history::record::{
    Append, AppendOutcome, Call, CommitId, Consistency, Digest, Event, EventId, Expected, FinalBody, FinalCommit,
    FinalStream, Moment, Operation, Read, ReadOutcome, Receipt, Returned, Seen, chain,
};
use evstore_conformance::history::stream::{Removal, Sessions, StreamClaims, check_streams};
use evstore_conformance::history::{History, Logs};
use evstore_conformance::seed::Seed;

#[test]
fn the_checker_agrees_with_an_exhaustive_search() {
    let count = from_environment("HISTORIES").unwrap_or(200_000);
    let start = from_environment("SEED").unwrap_or(1);
    let mut accepted = 0;
    let mut rules = HashSet::new();
    for seed in start..start + count {
        let history = small_history(&mut Seed(seed));
        let claims = StreamClaims { sessions: Sessions::NotPromised, removal: Removal::Never };
        let violations = check_streams(&Logs::of(&history), &claims).violations;
        let possible = is_possible(&history);
        assert_eq!(
            violations.is_empty(),
            possible,
            "SEED={seed} HISTORIES=1: possible is {possible}, the checker says:\n{violations}\n{history:#?}"
        );
        accepted += u64::from(possible);
        rules.extend(violations.counts.into_keys());
    }
    let mut rules: Vec<&str> = rules.into_iter().map(|rule| rule.name()).collect();
    rules.sort_unstable();
    println!("seeds {start}..{}: {accepted} accepted, {} rejected by {rules:?}", start + count, count - accepted);
    // With few histories the share says nothing.
    if count >= 10_000 {
        assert!(accepted > count / 5 && accepted < count * 4 / 5, "{accepted} of {count} accepted");
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

// --- The exhaustive search

/// True if some order of the calls that respects real time gives every answer and leaves the final log.
fn is_possible(history: &History) -> bool {
    let log = &history.final_streams[0].commits;
    if !has_shape(log) {
        return false;
    }
    let calls: Vec<&Operation> =
        history.operations.iter().filter(|operation| has_effect_or_answer(operation)).collect();
    Search { log, calls: &calls, seen: HashSet::new() }.finds(0, 0)
}

fn has_shape(log: &[FinalCommit]) -> bool {
    let ids: HashSet<CommitId> = log.iter().map(|commit| commit.id).collect();
    let numbered = log.iter().zip(1..).all(|(commit, number)| commit.number == number);
    let placed = (0..log.len()).all(|place| {
        let FinalBody::Events { first, events } = &log[place].body else { panic!("only events are generated") };
        *first == head(&log[..place]) + 1 && !events.is_empty()
    });
    ids.len() == log.len() && numbered && placed
}

fn has_effect_or_answer(operation: &Operation) -> bool {
    !matches!(
        &operation.call,
        Call::Append(Append { outcome: AppendOutcome::DefiniteFail, .. })
            | Call::Read(Read { outcome: ReadOutcome::Failed, .. })
    )
}

fn head(log: &[FinalCommit]) -> u64 {
    log.iter().map(|commit| events(commit).len() as u64).sum()
}

fn events(commit: &FinalCommit) -> &[Event] {
    match &commit.body {
        FinalBody::Events { events, .. } => events,
        FinalBody::Marker | FinalBody::Removed { .. } => panic!("only events are generated"),
    }
}

struct Search<'h> {
    log: &'h [FinalCommit],
    calls: &'h [&'h Operation],
    /// The sets of calls that were done, with the length of the log then, that lead nowhere.
    seen: HashSet<(u32, usize)>,
}

impl Search<'_> {
    /// True if the calls that are not in `done` can follow when the first `length` commits are there.
    fn finds(&mut self, done: u32, length: usize) -> bool {
        if !self.seen.insert((done, length)) {
            return false;
        }
        let open = |index: usize| done & (1 << index) == 0;
        let answered = |index: usize| !is_ambiguous(self.calls[index]);
        if length == self.log.len() && !(0..self.calls.len()).any(|index| open(index) && answered(index)) {
            return true;
        }
        let first_return = (0..self.calls.len())
            .filter(|index| open(*index) && answered(*index))
            .map(|index| self.calls[index].returned_at)
            .min()
            .unwrap_or(Returned::Never);
        let next: Vec<(u32, usize)> = (0..self.calls.len())
            .filter(|index| open(*index) && !first_return.is_before(self.calls[*index].invoked_at))
            .filter_map(|index| Some((done | 1 << index, self.step(self.calls[index], length)?)))
            .collect();
        next.into_iter().any(|(done, length)| self.finds(done, length))
    }

    /// The length of the log after a call, if the call can give its answer now.
    fn step(&self, operation: &Operation, length: usize) -> Option<usize> {
        let now = &self.log[..length];
        match &operation.call {
            Call::Read(read) => shows(read, now).then_some(length),
            Call::Append(append) => self.append(append, now),
            Call::SaveSnapshot(_) | Call::LoadSnapshot(_) | Call::DeleteSnapshot => None,
        }
    }

    fn append(&self, append: &Append, now: &[FinalCommit]) -> Option<usize> {
        let length = now.len();
        let stored = now.iter().position(|commit| commit.id == append.commit);
        let holds = append.expected.holds_at(head(now));
        match (append.outcome, stored) {
            (AppendOutcome::Ok(receipt), Some(place)) => {
                let same = receipt.repeated && events(&now[place]) == append.events;
                (same && agrees(&receipt, now, place)).then_some(length)
            }
            (AppendOutcome::Ok(receipt), None) => {
                let written = holds && self.is_next(append, length) && agrees(&receipt, self.log, length);
                written.then_some(length + 1)
            }
            (AppendOutcome::Conflict { actual }, None) => (!holds && actual == head(now)).then_some(length),
            (AppendOutcome::OtherContent, Some(place)) => (events(&now[place]) != append.events).then_some(length),
            (AppendOutcome::Ambiguous, None) => (holds && self.is_next(append, length)).then_some(length + 1),
            // A repeat that changes nothing is as good as one that never happened, which is tried anyhow.
            (AppendOutcome::Ambiguous, Some(_)) => None,
            (AppendOutcome::Conflict { .. }, Some(_)) | (AppendOutcome::OtherContent, None) => None,
            (AppendOutcome::DefiniteFail, _) => None,
        }
    }

    fn is_next(&self, append: &Append, length: usize) -> bool {
        let next = self.log.get(length);
        next.is_some_and(|next| next.id == append.commit && events(next) == append.events)
    }
}

fn is_ambiguous(operation: &Operation) -> bool {
    matches!(&operation.call, Call::Append(Append { outcome: AppendOutcome::Ambiguous, .. }))
}

fn agrees(receipt: &Receipt, log: &[FinalCommit], place: usize) -> bool {
    let first = head(&log[..place]) + 1;
    let last = head(&log[..=place]);
    (receipt.first, receipt.last, receipt.number) == (first, last, place as u64 + 1)
}

fn shows(read: &Read, now: &[FinalCommit]) -> bool {
    let stored: Vec<Event> = now.iter().flat_map(events).copied().collect();
    match &read.outcome {
        ReadOutcome::Failed => true,
        ReadOutcome::Ok { head, seen } => {
            *head == stored.len() as u64
                && match seen {
                    Seen::Head => true,
                    Seen::Chain(digest) => *digest == stored.iter().fold(Digest::default(), chain),
                    Seen::Events { from, events } => {
                        let after = *from as usize - 1 + events.len();
                        // No events may be asked for beyond the head.
                        events.is_empty() || after <= stored.len() && stored[*from as usize - 1..after] == events[..]
                    }
                }
        }
    }
}

// --- Small random histories

/// Most of a right store, some of them changed afterwards in one or two places, which may or may not break them.
fn small_history(seed: &mut Seed) -> History {
    let mut history = right_history(seed);
    if seed.chance(65) {
        for _ in 0..=seed.below(2) {
            change(&mut history, seed);
        }
    }
    history
}

fn right_history(seed: &mut Seed) -> History {
    let mut moments: Vec<u64> = (0..2 + seed.below(6)).map(|_| 10 + seed.below(14)).collect();
    moments.sort_unstable();
    let mut log = Vec::new();
    let mut operations = Vec::new();
    for (number, moment) in moments.into_iter().enumerate() {
        let call = if seed.chance(70) { append(&mut log, seed) } else { read(&log, seed) };
        let unanswered = matches!(&call, Call::Append(Append { outcome: AppendOutcome::Ambiguous, .. }));
        operations.push(Operation {
            client: number as u64,
            operation: 1,
            attempt: 1,
            stream: "s-1".to_owned(),
            invoked_at: Moment(moment - seed.below(5)),
            returned_at: if unanswered { Returned::Never } else { Returned::At(Moment(moment + seed.below(5))) },
            call,
        });
    }
    let final_streams = vec![FinalStream { stream: "s-1".to_owned(), commits: log }];
    History { operations, final_streams, ..History::default() }
}

fn commit_id(seed: &mut Seed) -> CommitId {
    CommitId([seed.below(4) as u8; 16])
}

/// The events of a commit; rarely other content under the same id.
fn content(commit: CommitId, seed: &mut Seed) -> Vec<Event> {
    let variant = u8::from(seed.chance(10));
    let count = 1 + commit.0[0] % 2 + variant * u8::from(seed.chance(50));
    let event = |ordinal| Event { id: EventId([commit.0[0] * 16 + ordinal; 16]), digest: Digest([variant; 16]) };
    (0..count).map(event).collect()
}

fn expectation(seed: &mut Seed) -> Expected {
    match seed.below(8) {
        0..3 => Expected::Any,
        3 => Expected::NoStream,
        4 => Expected::Exists,
        _ => Expected::At(seed.below(5)),
    }
}

fn append(log: &mut Vec<FinalCommit>, seed: &mut Seed) -> Call {
    let commit = commit_id(seed);
    let events = content(commit, seed);
    let expected = if seed.chance(40) { Expected::At(head(log)) } else { expectation(seed) };
    let mut append = Append { commit, expected, events, outcome: AppendOutcome::Ambiguous };
    let fate = seed.below(100);
    append.outcome = match fate {
        0..4 => AppendOutcome::DefiniteFail,
        4..12 => AppendOutcome::Ambiguous,
        _ => apply(log, &append),
    };
    match (&mut append.outcome, fate) {
        (outcome, 12..27) => *outcome = AppendOutcome::Ambiguous,
        // A layer below the recorder repeated the call by itself.
        (AppendOutcome::Ok(receipt), 27..30) => receipt.repeated = true,
        _ => {}
    }
    Call::Append(append)
}

fn apply(log: &mut Vec<FinalCommit>, append: &Append) -> AppendOutcome {
    if let Some(place) = log.iter().position(|commit| commit.id == append.commit) {
        return if events(&log[place]) == append.events {
            AppendOutcome::Ok(receipt(log, place, true))
        } else {
            AppendOutcome::OtherContent
        };
    }
    let actual = head(log);
    if !append.expected.holds_at(actual) {
        return AppendOutcome::Conflict { actual };
    }
    let body = FinalBody::Events { first: actual + 1, events: append.events.clone() };
    log.push(FinalCommit { id: append.commit, number: log.len() as u64 + 1, body });
    AppendOutcome::Ok(receipt(log, log.len() - 1, false))
}

fn receipt(log: &[FinalCommit], place: usize, repeated: bool) -> Receipt {
    let first = head(&log[..place]) + 1;
    Receipt { first, last: head(&log[..=place]), number: place as u64 + 1, position: None, repeated }
}

fn read(log: &[FinalCommit], seed: &mut Seed) -> Call {
    let stored: Vec<Event> = log.iter().flat_map(events).copied().collect();
    let head = stored.len() as u64;
    let seen = match seed.below(4) {
        0 | 1 => Seen::Head,
        2 => Seen::Chain(stored.iter().fold(Digest::default(), chain)),
        _ => {
            let from = 1 + seed.below(head + 1);
            Seen::Events { from, events: stored[from as usize - 1..].to_vec() }
        }
    };
    Call::Read(Read { consistency: Consistency::Strong, outcome: ReadOutcome::Ok { head, seen } })
}

// --- Changes

fn change(history: &mut History, seed: &mut Seed) {
    let log = &mut history.final_streams[0].commits;
    if seed.chance(25) && !log.is_empty() {
        return change_log(log, seed);
    }
    let log = log.clone();
    let operation = seed.below(history.operations.len() as u64) as usize;
    let operation = &mut history.operations[operation];
    if seed.chance(40) {
        return change_times(operation, seed);
    }
    match &mut operation.call {
        Call::Append(append) => change_append(append, &log, seed),
        Call::Read(read) => change_read(read, &log, seed),
        Call::SaveSnapshot(_) | Call::LoadSnapshot(_) | Call::DeleteSnapshot => {}
    }
}

fn change_times(operation: &mut Operation, seed: &mut Seed) {
    let begin = 5 + seed.below(22);
    operation.invoked_at = Moment(begin);
    if let Returned::At(_) = operation.returned_at {
        operation.returned_at = Returned::At(Moment(begin + seed.below(6)));
    }
}

fn change_append(append: &mut Append, log: &[FinalCommit], seed: &mut Seed) {
    match seed.below(8) {
        0 => append.expected = expectation(seed),
        1 => append.events = content(append.commit, seed),
        2 => append.commit = commit_id(seed),
        3 => append.outcome = AppendOutcome::Conflict { actual: seed.below(6) },
        4 => append.outcome = AppendOutcome::Ambiguous,
        5 => {
            append.outcome = *seed.pick(&[AppendOutcome::DefiniteFail, AppendOutcome::OtherContent]);
        }
        6 if !log.is_empty() => {
            let place = seed.below(log.len() as u64) as usize;
            append.outcome = AppendOutcome::Ok(receipt(log, place, seed.chance(50)));
        }
        _ => change_receipt(&mut append.outcome, seed),
    }
}

fn change_receipt(outcome: &mut AppendOutcome, seed: &mut Seed) {
    if let AppendOutcome::Ok(receipt) = outcome {
        match seed.below(4) {
            0 => receipt.first = seed.below(6),
            1 => receipt.last = seed.below(6),
            2 => receipt.number = seed.below(5),
            _ => receipt.repeated = !receipt.repeated,
        }
    }
}

fn change_read(read: &mut Read, log: &[FinalCommit], seed: &mut Seed) {
    let length = seed.below(log.len() as u64 + 1) as usize;
    // The stream as it was at another time, so that only real time can tell.
    let Call::Read(other) = self::read(&log[..length], seed) else { return };
    *read = other;
    let ReadOutcome::Ok { head, seen } = &mut read.outcome else { return };
    match (seed.below(8), seen) {
        (0, _) => *head = seed.below(6),
        (1, Seen::Events { events, .. }) if !events.is_empty() => events[0].digest = Digest([9; 16]),
        (1, Seen::Chain(digest)) => *digest = Digest([9; 16]),
        _ => {}
    }
}

fn change_log(log: &mut Vec<FinalCommit>, seed: &mut Seed) {
    let place = seed.below(log.len() as u64) as usize;
    match seed.below(6) {
        0 => {
            log.remove(place);
        }
        1 => {
            let other = seed.below(log.len() as u64) as usize;
            log.swap(place, other);
        }
        2 => {
            let FinalBody::Events { events, .. } = &mut log[place].body else { return };
            events.iter_mut().take(1).for_each(|event| event.digest = Digest([1; 16]));
        }
        3 => {
            let FinalBody::Events { events, .. } = &mut log[place].body else { return };
            events.pop();
        }
        4 => log[place].id = commit_id(seed),
        _ => {
            let again = log[place].clone();
            log.push(again);
        }
    }
    if seed.chance(90) {
        renumber(log);
    }
}

fn renumber(log: &mut [FinalCommit]) {
    let mut next = 1;
    for (commit, number) in log.iter_mut().zip(1..) {
        commit.number = number;
        let FinalBody::Events { first, events } = &mut commit.body else { return };
        *first = next;
        next += events.len() as u64;
    }
}
