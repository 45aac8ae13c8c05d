//! A history as JSON Lines, so that several processes write their parts while they run, and the parts are put together
//! afterwards. What the records mean is in `record.rs`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::record::{
    Delivery, FeedEntry, FinalFeed, FinalStream, History, Moment, Operation, PrefixPoll, Returned, RunEnd,
    SubscriptionRun,
};

/// One line of a recorded history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// An attempt of a call; replaces an earlier line about the same attempt.
    Operation(Operation),
    /// A subscription run begins.
    RunStarted {
        /// The subscriber.
        subscriber: u64,
        /// Number of the run at its subscriber.
        run: u32,
        /// The store's incarnation that it reads.
        incarnation: String,
        /// Its checkpoint.
        after: u64,
        /// The moment it started.
        at: Moment,
    },
    /// A subscription run was given an entry.
    Delivered {
        /// The subscriber.
        subscriber: u64,
        /// Number of the run at its subscriber.
        run: u32,
        /// The moment it arrived.
        at: Moment,
        /// What arrived.
        entry: FeedEntry,
    },
    /// A subscription run got everything there is; without this line it was cut.
    RunDrained {
        /// The subscriber.
        subscriber: u64,
        /// Number of the run at its subscriber.
        run: u32,
    },
    /// The beginning of the feed was read once more.
    Poll(PrefixPoll),
    /// A quiet stream was read.
    FinalStream(FinalStream),
    /// A part of the quiet feed was read; further lines continue it.
    FinalFeed(FinalFeed),
}

/// Writes one line, in one piece.
///
/// # Errors
/// Those of the writer.
pub fn write_line(writer: &mut impl Write, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    writer.write_all(&text)
}

/// Writes a whole history.
///
/// # Errors
/// Those of the writer.
pub fn write(writer: &mut impl Write, history: &History) -> io::Result<()> {
    for operation in &history.operations {
        write_line(writer, &Line::Operation(operation.clone()))?;
    }
    for run in &history.runs {
        write_run(writer, run)?;
    }
    for poll in &history.polls {
        write_line(writer, &Line::Poll(poll.clone()))?;
    }
    for stream in &history.final_streams {
        write_line(writer, &Line::FinalStream(stream.clone()))?;
    }
    history.final_feed.iter().try_for_each(|feed| write_line(writer, &Line::FinalFeed(feed.clone())))
}

fn write_run(writer: &mut impl Write, run: &SubscriptionRun) -> io::Result<()> {
    let (subscriber, number) = (run.subscriber, run.run);
    let started = Line::RunStarted {
        subscriber,
        run: number,
        incarnation: run.incarnation.clone(),
        after: run.after,
        at: run.started_at,
    };
    write_line(writer, &started)?;
    for delivery in &run.deliveries {
        let (at, entry) = (delivery.delivered_at, delivery.entry.clone());
        write_line(writer, &Line::Delivered { subscriber, run: number, at, entry })?;
    }
    match run.ended {
        RunEnd::Drained => write_line(writer, &Line::RunDrained { subscriber, run: number }),
        RunEnd::Cut => Ok(()),
    }
}

/// Reads what one process wrote.
///
/// # Behavior
/// A last line without its end is left out: the process was killed while it wrote it.
///
/// # Errors
/// A line that is not a record, a delivery without its run, or an error of the reader.
pub fn read(mut reader: impl BufRead) -> Result<History, LineError> {
    let mut assembly = Assembly::default();
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let fail = |reason: String| LineError { line: number, reason };
        reader.read_line(&mut text).map_err(|error| fail(error.to_string()))?;
        if !text.ends_with('\n') {
            break;
        }
        let line = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
        assembly.take(line).map_err(fail)?;
    }
    Ok(assembly.history)
}

/// A history that is being put together from its lines.
#[derive(Default)]
struct Assembly {
    history: History,
    operations: HashMap<(u64, u64, u32), usize>,
    runs: HashMap<(u64, u32), usize>,
}

impl Assembly {
    fn take(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Operation(operation) => self.take_operation(operation),
            Line::RunStarted { subscriber, run, incarnation, after, at } => {
                let index = self.history.runs.len();
                if self.runs.insert((subscriber, run), index).is_some() {
                    return Err(format!("run {run} of subscriber {subscriber} starts twice"));
                }
                self.history.runs.push(SubscriptionRun {
                    subscriber,
                    run,
                    incarnation,
                    after,
                    started_at: at,
                    ended: RunEnd::Cut,
                    deliveries: Vec::new(),
                });
            }
            Line::Delivered { subscriber, run, at, entry } => {
                let delivery = Delivery { delivered_at: at, entry };
                self.run(subscriber, run)?.deliveries.push(delivery);
            }
            Line::RunDrained { subscriber, run } => self.run(subscriber, run)?.ended = RunEnd::Drained,
            Line::Poll(poll) => self.history.polls.push(poll),
            Line::FinalStream(stream) => self.history.final_streams.push(stream),
            Line::FinalFeed(part) => return self.take_final_feed(part),
        }
        Ok(())
    }

    fn take_operation(&mut self, operation: Operation) {
        let key = (operation.client, operation.operation, operation.attempt);
        match self.operations.get(&key) {
            Some(index) => self.history.operations[*index] = operation,
            None => {
                self.operations.insert(key, self.history.operations.len());
                self.history.operations.push(operation);
            }
        }
    }

    fn run(&mut self, subscriber: u64, run: u32) -> Result<&mut SubscriptionRun, String> {
        match self.runs.get(&(subscriber, run)) {
            Some(index) => Ok(&mut self.history.runs[*index]),
            None => Err(format!("run {run} of subscriber {subscriber} was not started")),
        }
    }

    fn take_final_feed(&mut self, part: FinalFeed) -> Result<(), String> {
        match &mut self.history.final_feed {
            None => self.history.final_feed = Some(part),
            Some(feed) if feed.incarnation == part.incarnation => feed.entries.extend(part.entries),
            Some(_) => return Err("the final feed changes its incarnation".to_owned()),
        }
        Ok(())
    }
}

/// Why lines are not a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Number of the line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "history line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for LineError {}

/// What one host recorded, and how far its clock may be off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The records, with moments already brought to the common clock as well as can be.
    pub history: History,
    /// The clock is off by at most this many nanoseconds; 0 where all parts come from one host.
    pub clock_off_ns: u64,
}

/// Puts the parts of a history together.
///
/// # Behavior
/// Every call of a part is widened at both ends by what its clock may be off, so that no order is concluded that the
/// clocks cannot tell.
///
/// # Errors
/// Parts that use the same client or the same subscription run, or that both hold the final feed.
pub fn merge(parts: Vec<Part>) -> Result<History, MergeError> {
    let mut whole = History::default();
    let mut clients = HashSet::new();
    let mut runs = HashSet::new();
    for mut part in parts {
        let own_clients: HashSet<u64> = part.history.operations.iter().map(|operation| operation.client).collect();
        if let Some(client) = own_clients.iter().find(|client| clients.contains(*client)) {
            return Err(MergeError::SharedClient(*client));
        }
        clients.extend(own_clients);
        if let Some(run) = part.history.runs.iter().find(|run| !runs.insert((run.subscriber, run.run))) {
            return Err(MergeError::SharedRun { subscriber: run.subscriber, run: run.run });
        }
        if whole.final_feed.is_some() && part.history.final_feed.is_some() {
            return Err(MergeError::TwoFinalFeeds);
        }
        widen(&mut part.history, part.clock_off_ns);
        whole.operations.append(&mut part.history.operations);
        whole.runs.append(&mut part.history.runs);
        whole.polls.append(&mut part.history.polls);
        whole.final_streams.append(&mut part.history.final_streams);
        whole.final_feed = whole.final_feed.or(part.history.final_feed);
    }
    Ok(whole)
}

fn widen(history: &mut History, by_ns: u64) {
    let earlier = |moment: &mut Moment| moment.0 = moment.0.saturating_sub(by_ns);
    let later = |moment: &mut Moment| moment.0 = moment.0.saturating_add(by_ns);
    for operation in &mut history.operations {
        earlier(&mut operation.invoked_at);
        match &mut operation.returned_at {
            Returned::At(moment) => later(moment),
            Returned::Never => {}
        }
    }
    for run in &mut history.runs {
        earlier(&mut run.started_at);
        run.deliveries.iter_mut().for_each(|delivery| later(&mut delivery.delivered_at));
    }
    history.polls.iter_mut().for_each(|poll| earlier(&mut poll.invoked_at));
}

/// Why parts do not make one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeError {
    /// Two parts have calls of the same client.
    SharedClient(u64),
    /// Two parts have the same run of the same subscriber.
    SharedRun {
        /// The subscriber.
        subscriber: u64,
        /// Number of the run.
        run: u32,
    },
    /// Two parts hold a final feed.
    TwoFinalFeeds,
}

impl fmt::Display for MergeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeError::SharedClient(client) => write!(formatter, "two parts have calls of client {client}"),
            MergeError::SharedRun { subscriber, run } => {
                write!(formatter, "two parts have run {run} of subscriber {subscriber}")
            }
            MergeError::TwoFinalFeeds => formatter.write_str("two parts hold a final feed"),
        }
    }
}

impl std::error::Error for MergeError {}
