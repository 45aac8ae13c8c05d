//! Places what clients asked for in the final logs: which commit stands where, which attempts belong to it, and between
//! which moments it was written. Whether that was right is decided in `stream.rs`, `feed.rs` and `snapshot.rs`.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::record::{
    Append, AppendOutcome, Call, CommitId, Digest, Event, FinalBody, FinalStream, History, Moment, Operation, Returned,
    chain,
};

/// A history laid out by stream, ready to be checked. It borrows the history.
pub struct Logs<'h> {
    pub(crate) history: &'h History,
    pub(crate) streams: BTreeMap<&'h str, Log<'h>>,
}

impl<'h> Logs<'h> {
    /// Lays out a history.
    pub fn of(history: &'h History) -> Self {
        let mut operations: HashMap<&'h str, Vec<&'h Operation>> = HashMap::new();
        for operation in &history.operations {
            operations.entry(&operation.stream).or_default().push(operation);
        }
        let mut finals: HashMap<&'h str, Vec<&'h FinalStream>> = HashMap::new();
        for log in &history.final_streams {
            finals.entry(&log.stream).or_default().push(log);
            operations.entry(&log.stream).or_default();
        }
        let streams = operations
            .into_iter()
            .map(|(stream, operations)| {
                let finals = finals.remove(stream).unwrap_or_default();
                (stream, Log::of(stream, operations, finals))
            })
            .collect();
        Logs { history, streams }
    }
}

/// One stream: its final log and every call that concerns it.
pub(crate) struct Log<'h> {
    pub(crate) stream: &'h str,
    pub(crate) operations: Vec<&'h Operation>,
    /// More than one where several processes read the stream at the end. The first one counts.
    pub(crate) finals: Vec<&'h FinalStream>,
    pub(crate) shape: Shape,
    /// The commits with events, in order, each id once.
    pub(crate) commits: Vec<Placed<'h>>,
    /// Appends whose commit is not in the log.
    pub(crate) absent: Vec<(&'h Operation, &'h Append)>,
    attempts: Vec<(u32, &'h Operation, &'h Append)>,
    index: HashMap<CommitId, u32>,
    /// By revision, the commit that holds it; revision 0 is held by none.
    commit_of: Vec<u32>,
    chain: OnceCell<Vec<Digest>>,
}

/// Whether revisions count up from 1 without a hole, so that a revision is a place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    Broken,
}

/// Whether the events of a commit are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Stored,
    Removed,
}

/// A commit with events, in its place in the log.
pub(crate) struct Placed<'h> {
    pub(crate) id: CommitId,
    pub(crate) number: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) kept: Kept,
    /// None where the events were removed and no attempt tells what they were.
    pub(crate) events: Option<&'h [Event]>,
    pub(crate) window: Window<'h>,
    attempts: Range<usize>,
}

/// The moments between which a commit was written.
///
/// Attempts with one commit id are one write: it begins with the earliest attempt that can have written it, and ends with
/// the earliest answer that shows it written.
#[derive(Clone, Copy)]
pub(crate) struct Window<'h> {
    pub(crate) invoked_at: Moment,
    pub(crate) invoked_by: Option<&'h Operation>,
    pub(crate) returned_at: Returned,
    pub(crate) returned_by: Option<&'h Operation>,
}

/// Where a head lies in a log: gap g is the time at which the first g commits were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    At(usize),
    InsideCommit(usize),
    BeyondEnd,
}

impl<'h> Log<'h> {
    fn of(stream: &'h str, operations: Vec<&'h Operation>, finals: Vec<&'h FinalStream>) -> Self {
        let mut log = Log {
            stream,
            operations,
            finals,
            shape: Shape::Whole,
            commits: Vec::new(),
            absent: Vec::new(),
            attempts: Vec::new(),
            index: HashMap::new(),
            commit_of: vec![0],
            chain: OnceCell::new(),
        };
        log.place_commits();
        log.place_attempts();
        log.place_windows();
        log
    }

    /// The last revision of the log.
    pub(crate) fn head(&self) -> u64 {
        self.commit_of.len() as u64 - 1
    }

    pub(crate) fn gap(&self, head: u64) -> Gap {
        match self.commit_holding(head) {
            None if head == 0 => Gap::At(0),
            None => Gap::BeyondEnd,
            Some(commit) if self.commits[commit].last == head => Gap::At(commit + 1),
            Some(commit) => Gap::InsideCommit(commit),
        }
    }

    /// Index of the commit that holds a revision.
    pub(crate) fn commit_holding(&self, revision: u64) -> Option<usize> {
        let index = usize::try_from(revision).ok().filter(|revision| *revision > 0)?;
        self.commit_of.get(index).map(|commit| *commit as usize)
    }

    /// The event at a revision, where the log still has it.
    pub(crate) fn event(&self, revision: u64) -> Option<&'h Event> {
        let commit = &self.commits[self.commit_holding(revision)?];
        commit.events?.get((revision - commit.first) as usize)
    }

    /// Every event up to a revision, folded; none where the log no longer has them all.
    pub(crate) fn chain_at(&self, revision: u64) -> Option<Digest> {
        let chain = self.chain.get_or_init(|| self.fold());
        chain.get(usize::try_from(revision).ok()?).copied()
    }

    /// The commit with this id.
    pub(crate) fn commit(&self, id: CommitId) -> Option<&Placed<'h>> {
        self.index.get(&id).map(|commit| &self.commits[*commit as usize])
    }

    /// The attempts at a commit of the log, in the order in which they were recorded.
    pub(crate) fn attempts_at(&self, commit: &Placed<'h>) -> impl Iterator<Item = (&'h Operation, &'h Append)> + '_ {
        let attempts = &self.attempts[commit.attempts.clone()];
        attempts.iter().map(|(_, operation, append)| (*operation, *append))
    }

    /// The place of a commit as a fact for a report.
    pub(crate) fn place(&self, commit: &Placed<'_>) -> String {
        format!(
            "final log of {}: revisions {}..={} are commit {}, number {}",
            self.stream, commit.first, commit.last, commit.id, commit.number
        )
    }

    fn fold(&self) -> Vec<Digest> {
        let mut folded = vec![Digest::default()];
        let mut last = Digest::default();
        for event in self.commits.iter().map_while(|commit| commit.events).flatten() {
            last = chain(last, event);
            folded.push(last);
        }
        folded
    }

    fn place_commits(&mut self) {
        let Some(log) = self.finals.first().copied() else { return };
        self.index.reserve(log.commits.len());
        for commit in &log.commits {
            let (first, last, events) = match &commit.body {
                FinalBody::Marker => continue,
                FinalBody::Events { first, events } => {
                    (*first, first.saturating_add(events.len() as u64).saturating_sub(1), Some(events.as_slice()))
                }
                FinalBody::Removed { first, last } => (*first, *last, None),
            };
            let place = self.commits.len() as u32;
            if self.index.contains_key(&commit.id) {
                self.shape = Shape::Broken;
                continue;
            }
            self.index.insert(commit.id, place);
            // The bound keeps a corrupt revision from filling the memory.
            if first != self.head() + 1 || last < first || last > u64::from(u32::MAX) {
                self.shape = Shape::Broken;
            }
            if self.shape == Shape::Whole {
                self.commit_of.resize(last as usize + 1, place);
            }
            self.commits.push(Placed {
                id: commit.id,
                number: commit.number,
                first,
                last,
                kept: if events.is_some() { Kept::Stored } else { Kept::Removed },
                events,
                window: Window::UNKNOWN,
                attempts: 0..0,
            });
        }
    }

    fn place_attempts(&mut self) {
        for operation in &self.operations {
            let Call::Append(append) = &operation.call else { continue };
            match self.index.get(&append.commit) {
                Some(commit) => self.attempts.push((*commit, operation, append)),
                None => self.absent.push((operation, append)),
            }
        }
        self.attempts.sort_by_key(|(commit, _, _)| *commit);
        let mut start = 0;
        for attempts in self.attempts.chunk_by(|one, other| one.0 == other.0) {
            self.commits[attempts[0].0 as usize].attempts = start..start + attempts.len();
            start += attempts.len();
        }
    }

    fn place_windows(&mut self) {
        for commit in &mut self.commits {
            let attempts = &self.attempts[commit.attempts.clone()];
            commit.window = Window::of(commit, attempts);
            if commit.events.is_none() {
                commit.events = removed_events(commit, attempts);
            }
        }
    }
}

impl Placed<'_> {
    /// True if the commit holds these events, or may hold them where they were removed.
    pub(crate) fn holds(&self, events: &[Event]) -> bool {
        match self.events {
            Some(stored) => stored == events,
            None => self.last.saturating_add(1).saturating_sub(self.first) == events.len() as u64,
        }
    }

    /// True if this attempt can have written the commit. An attempt that says that it wrote it is the only one; where none
    /// does, it was one whose answer was lost, or one whose answer was lost on the way and repeated by a layer below the
    /// recorder.
    pub(crate) fn can_be_written_by(&self, append: &Append) -> bool {
        match append.outcome {
            AppendOutcome::Ok(_) | AppendOutcome::Ambiguous => {
                self.holds(&append.events) && append.expected.holds_at(self.first.saturating_sub(1))
            }
            AppendOutcome::Conflict { .. } | AppendOutcome::OtherContent | AppendOutcome::DefiniteFail => false,
        }
    }
}

impl<'h> Window<'h> {
    const UNKNOWN: Window<'static> =
        Window { invoked_at: Moment(0), invoked_by: None, returned_at: Returned::Never, returned_by: None };

    fn of(commit: &Placed<'_>, attempts: &[(u32, &'h Operation, &'h Append)]) -> Window<'h> {
        let writers = || attempts.iter().filter(|(_, _, append)| says_written(append));
        let possible = || attempts.iter().filter(|(_, _, append)| commit.can_be_written_by(append));
        // Where no attempt can have written it that is a violation of its own; its attempts are the best guess then.
        let begin = earliest_invoked(writers())
            .or_else(|| earliest_invoked(possible()))
            .or_else(|| earliest_invoked(attempts.iter()));
        let end = attempts
            .iter()
            .filter(|(_, _, append)| shows_written(append))
            .map(|(_, operation, _)| *operation)
            .min_by_key(|operation| operation.returned_at);
        Window {
            invoked_at: begin.map_or(Moment(0), |operation| operation.invoked_at),
            invoked_by: begin,
            returned_at: end.map_or(Returned::Never, |operation| operation.returned_at),
            returned_by: end,
        }
    }
}

/// True if the answer says that this attempt wrote the commit.
pub(crate) fn says_written(append: &Append) -> bool {
    matches!(append.outcome, AppendOutcome::Ok(receipt) if !receipt.repeated)
}

/// True if the commit was in the stream when the answer was given.
fn shows_written(append: &Append) -> bool {
    match append.outcome {
        AppendOutcome::Ok(_) | AppendOutcome::OtherContent => true,
        AppendOutcome::Conflict { .. } | AppendOutcome::DefiniteFail | AppendOutcome::Ambiguous => false,
    }
}

fn earliest_invoked<'a, 'h: 'a>(
    attempts: impl Iterator<Item = &'a (u32, &'h Operation, &'h Append)>,
) -> Option<&'h Operation> {
    attempts.map(|(_, operation, _)| *operation).min_by_key(|operation| operation.invoked_at)
}

/// What a removed commit held, as the attempt that can have written it tells.
fn removed_events<'h>(commit: &Placed<'_>, attempts: &[(u32, &'h Operation, &'h Append)]) -> Option<&'h [Event]> {
    let written = |attempt: &&(u32, &'h Operation, &'h Append)| commit.can_be_written_by(attempt.2);
    let attempt = attempts
        .iter()
        .filter(|(_, _, append)| says_written(append))
        .find(written)
        .or_else(|| attempts.iter().find(written))?;
    Some(attempt.2.events.as_slice())
}
