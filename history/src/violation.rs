//! What a checker found: the broken rule, a sentence, and the shortest part of the history that shows it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::record::{AppendOutcome, Call, LoadOutcome, Operation, ReadOutcome, Returned, Seen};
use super::rule::Rule;

/// Of each rule this many violations are kept in full; the others are counted.
pub const KEPT_MAX: usize = 8;

/// One place where a history breaks a rule. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What happened, in one sentence.
    pub says: String,
    /// The stream; none where several are concerned.
    pub stream: Option<String>,
    /// The calls that show it, by the moment they were invoked.
    pub operations: Vec<Operation>,
    /// What else shows it: places in the final log, deliveries.
    pub facts: Vec<String>,
}

impl Violation {
    pub(crate) fn new(rule: Rule, stream: &str, says: impl Into<String>) -> Self {
        Violation {
            rule,
            says: says.into(),
            stream: Some(stream.to_owned()),
            operations: Vec::new(),
            facts: Vec::new(),
        }
    }

    pub(crate) fn of_store(rule: Rule, says: impl Into<String>) -> Self {
        Violation { rule, says: says.into(), stream: None, operations: Vec::new(), facts: Vec::new() }
    }

    pub(crate) fn shown_by<'h>(mut self, operations: impl IntoIterator<Item = &'h Operation>) -> Self {
        self.operations.extend(operations.into_iter().cloned());
        self.operations.sort_by_key(|operation| (operation.invoked_at, operation.returned_at));
        self.operations.dedup();
        self
    }

    pub(crate) fn with_fact(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}: {}", self.rule, self.says)?;
        writeln!(formatter, "  promise: {}", self.rule.promise())?;
        if let Some(stream) = &self.stream {
            writeln!(formatter, "  stream: {stream}")?;
        }
        let start = self.operations.first().map_or(0, |first| first.invoked_at.0);
        for operation in &self.operations {
            writeln!(formatter, "  {}", Shown { operation, start })?;
        }
        self.facts.iter().try_for_each(|fact| writeln!(formatter, "  {fact}"))
    }
}

/// The violations of a check: a few of each rule in full, the number of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Violations {
    /// The first [`KEPT_MAX`] of each rule.
    pub kept: Vec<Violation>,
    /// How many there are of each rule.
    pub counts: BTreeMap<Rule, u64>,
}

impl Violations {
    /// True if no rule was broken.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// True if this rule was broken.
    pub fn has(&self, rule: Rule) -> bool {
        self.counts.contains_key(&rule)
    }

    pub(crate) fn add(&mut self, violation: Violation) {
        let count = self.counts.entry(violation.rule).or_default();
        *count += 1;
        if *count <= KEPT_MAX as u64 {
            self.kept.push(violation);
        }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kept.iter().try_for_each(|violation| write!(formatter, "{violation}"))?;
        for (rule, count) in &self.counts {
            if *count > KEPT_MAX as u64 {
                writeln!(formatter, "{rule}: {} more", count - KEPT_MAX as u64)?;
            }
        }
        Ok(())
    }
}

/// One operation on one line, its times in microseconds since `start`.
struct Shown<'h> {
    operation: &'h Operation,
    start: u64,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.operation;
        let since = |moment: u64| moment.saturating_sub(self.start) as f64 / 1_000.0;
        write!(formatter, "[{:.3} us .. ", since(operation.invoked_at.0))?;
        match operation.returned_at {
            Returned::At(moment) => write!(formatter, "{:.3} us]", since(moment.0))?,
            Returned::Never => write!(formatter, "never]")?,
        }
        write!(
            formatter,
            " client {} call {} attempt {} on {}: ",
            operation.client, operation.operation, operation.attempt, operation.stream
        )?;
        show_call(formatter, &operation.call)
    }
}

fn show_call(formatter: &mut fmt::Formatter<'_>, call: &Call) -> fmt::Result {
    match call {
        Call::Append(append) => {
            let count = append.events.len();
            write!(formatter, "append {count} event(s), {:?}, commit {} -> ", append.expected, append.commit)?;
            show_append_outcome(formatter, &append.outcome)
        }
        Call::Read(read) => {
            write!(formatter, "{:?} read -> ", read.consistency)?;
            show_read_outcome(formatter, &read.outcome)
        }
        Call::SaveSnapshot(save) => {
            write!(formatter, "save snapshot at {}, state {} -> {:?}", save.revision, save.state, save.outcome)
        }
        Call::LoadSnapshot(LoadOutcome::Found { revision, state }) => {
            write!(formatter, "load snapshot -> at {revision}, state {state}")
        }
        Call::LoadSnapshot(LoadOutcome::Absent) => formatter.write_str("load snapshot -> absent"),
        Call::LoadSnapshot(LoadOutcome::Failed) => formatter.write_str("load snapshot -> failed"),
        Call::DeleteSnapshot => formatter.write_str("delete snapshot"),
    }
}

fn show_append_outcome(formatter: &mut fmt::Formatter<'_>, outcome: &AppendOutcome) -> fmt::Result {
    match outcome {
        AppendOutcome::Ok(receipt) => {
            let repeated = if receipt.repeated { ", repeated" } else { "" };
            write!(formatter, "ok at {}..={}, commit number {}{repeated}", receipt.first, receipt.last, receipt.number)
        }
        AppendOutcome::Conflict { actual } => write!(formatter, "conflict, head at {actual}"),
        AppendOutcome::OtherContent => formatter.write_str("refused, other content under this id"),
        AppendOutcome::DefiniteFail => formatter.write_str("failed, not applied"),
        AppendOutcome::Ambiguous => formatter.write_str("not known"),
    }
}

fn show_read_outcome(formatter: &mut fmt::Formatter<'_>, outcome: &ReadOutcome) -> fmt::Result {
    match outcome {
        ReadOutcome::Failed => formatter.write_str("failed"),
        ReadOutcome::Ok { head, seen: Seen::Head } => write!(formatter, "head at {head}"),
        ReadOutcome::Ok { head, seen: Seen::Chain(digest) } => {
            write!(formatter, "head at {head}, chain {digest}")
        }
        ReadOutcome::Ok { head, seen: Seen::Events { from, events } } => {
            write!(formatter, "head at {head}, {} event(s) from {from}", events.len())
        }
    }
}
