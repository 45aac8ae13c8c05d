//! The log of a DynamoDB store that is written behind the appends: sequencers read a change stream in shards and put records, each at the
//! key behind the last one, with how far they have read in the record itself. The mark of the one that works is no fence: any may take it
//! at any time, and goes on with what it had begun.
//!
//! Puts are never removed: each may be carried out late, again or never, and its answer may be lost. A stream's changes may come in
//! either shard, as around a split, and a shard may lose what was not read.

use crate::{Expect, Row, Scopes, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

const STREAMS: usize = 2;
const SHARDS: usize = 2;

/// A commit: its stream, and its number from 1.
type Commit = (usize, u8);

/// How many changes of each shard were read.
type Progress = [u8; SHARDS];

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Record {
    commits: Vec<Commit>,
    progress: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    sequencer: usize,
    key: usize,
    record: Record,
}

/// What a sequencer knows and is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Sequencer {
    /// Records of the log as it knows it; nothing before it has begun.
    end: Option<usize>,
    /// Whether the commits of all these have their positions beside them.
    settled: bool,
    read: Progress,
    /// The last commit of each stream that is logged or about to be.
    last: [Option<u8>; STREAMS],
    batch: Vec<Commit>,
    /// What it put, while it has no answer.
    waits: Option<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    streams: [u8; STREAMS],
    shards: [Vec<Commit>; SHARDS],
    /// Changes that a shard does not have any more.
    trimmed: Progress,
    log: Vec<Record>,
    /// Commits that have their position beside them.
    beside: BTreeSet<Commit>,
    sequencers: Vec<Sequencer>,
    works: usize,
    /// Apart from the log, for the mistake.
    checkpoint: Progress,
    sent: BTreeSet<Put>,
    checkpoints: BTreeSet<Progress>,
    crashes: u8,
    trims: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    /// Who holds the mark puts without a condition.
    MarkWithoutCondition,
    /// How far was read stands in an item of its own.
    CheckpointApart,
    /// What another had logged is not settled before streams are looked at.
    NotSettled,
    /// A stream that is not known is taken to go on with what comes.
    LastIsGuessed,
    /// What a commit follows is not waited for, and not read.
    WhatIsBeforeIsNotRead,
    /// What a shard has lost is passed over.
    LossIsPassedOver,
}

#[derive(Clone, Copy)]
struct Behind {
    sequencers: usize,
    commits: u8,
    crashes: u8,
    trims: u8,
    mistake: Mistake,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Append(usize),
    Trim(usize),
    Take(usize),
    Begin(usize),
    Settle(usize),
    Read(usize, usize),
    Recover(usize),
    Send(usize),
    Crash(usize),
    /// A put is carried out, and answered.
    Answer(Put),
    /// A put is carried out, and its answer lost.
    Lose(Put),
    Checkpoint(Progress),
}
use Action::*;

impl Behind {
    fn logged(s: &State, stream: usize) -> u8 {
        s.log
            .iter()
            .flat_map(|record| &record.commits)
            .filter(|one| one.0 == stream)
            .map(|one| one.1)
            .max()
            .unwrap_or(0)
    }

    /// The last commit of a stream that has its position beside it: what a look at its table says.
    fn looked(s: &State, stream: usize) -> u8 {
        s.beside.iter().filter(|one| one.0 == stream).map(|one| one.1).max().unwrap_or(0)
    }

    fn progress(&self, s: &State) -> Progress {
        match self.mistake {
            Mistake::CheckpointApart => s.checkpoint,
            _ => s.log.last().map_or([0; SHARDS], |record| record.progress),
        }
    }

    /// Carries a put out. Whether it was done.
    fn execute(&self, s: &mut State, put: &Put) -> bool {
        let unconditional = self.mistake == Mistake::MarkWithoutCondition;
        match put.key.cmp(&(s.log.len() + 1)) {
            std::cmp::Ordering::Equal => s.log.push(put.record.clone()),
            std::cmp::Ordering::Less if unconditional => s.log[put.key - 1] = put.record.clone(),
            _ => return false,
        }
        true
    }

    /// Whether a sequencer may look at streams and put.
    fn ready(&self, sequencer: &Sequencer) -> bool {
        let settled = sequencer.settled || self.mistake == Mistake::NotSettled;
        sequencer.end.is_some() && settled && sequencer.waits.is_none()
    }
}

/// What is known of a stream, looked at where nothing is.
fn last(s: &State, sequencer: usize, stream: usize) -> u8 {
    s.sequencers[sequencer].last[stream].unwrap_or_else(|| Behind::looked(s, stream))
}

impl Model for Behind {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            streams: [0; STREAMS],
            shards: Default::default(),
            trimmed: [0; SHARDS],
            log: Vec::new(),
            beside: BTreeSet::new(),
            sequencers: vec![Sequencer::default(); self.sequencers],
            works: 0,
            checkpoint: [0; SHARDS],
            sent: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
            crashes: 0,
            trims: 0,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        out.extend((0..STREAMS).map(Append));
        out.extend((0..SHARDS).map(Trim));
        for one in 0..self.sequencers {
            out.extend([Take(one), Begin(one), Settle(one), Recover(one), Send(one), Crash(one)]);
            out.extend((0..SHARDS).map(|shard| Read(one, shard)));
        }
        out.extend(s.sent.iter().flat_map(|put| [Answer(put.clone()), Lose(put.clone())]));
        out.extend(s.checkpoints.iter().map(|progress| Checkpoint(*progress)));
    }

    fn next_state(&self, old: &State, action: Action) -> Option<State> {
        let mut s = old.clone();
        match action {
            Append(stream) => {
                if s.streams[stream] >= self.commits {
                    return None;
                }
                s.streams[stream] += 1;
                let number = s.streams[stream];
                // A later commit may come in another shard than the one before it.
                s.shards[(stream + usize::from(number)) % SHARDS].push((stream, number));
            }
            Trim(shard) => {
                let has = s.shards[shard].len() as u8;
                if s.trims >= self.trims || s.trimmed[shard] == has {
                    return None;
                }
                s.trims += 1;
                s.trimmed[shard] = has;
            }
            Take(one) => {
                if s.works == one {
                    return None;
                }
                s.works = one;
            }
            Begin(one) => {
                // Whoever holds the mark begins; what another had begun goes on all the same.
                if s.works != one || s.sequencers[one].end == Some(s.log.len()) {
                    return None;
                }
                let (end, read) = (Some(s.log.len()), self.progress(&s));
                s.sequencers[one] = Sequencer { end, read, ..Sequencer::default() };
            }
            Settle(one) => {
                let end = s.sequencers[one].end?;
                if s.sequencers[one].settled {
                    return None;
                }
                s.sequencers[one].settled = true;
                let commits: Vec<Commit> =
                    s.log.iter().take(end).flat_map(|record| record.commits.iter().copied()).collect();
                s.beside.extend(commits);
            }
            Read(one, shard) => {
                if !self.ready(&s.sequencers[one]) {
                    return None;
                }
                let at = s.sequencers[one].read[shard];
                if at < s.trimmed[shard] {
                    if self.mistake != Mistake::LossIsPassedOver {
                        return None;
                    }
                    s.sequencers[one].read[shard] = s.trimmed[shard];
                    return Some(s);
                }
                let (stream, number) = *s.shards[shard].get(usize::from(at))?;
                let known = match (s.sequencers[one].last[stream], self.mistake) {
                    (None, Mistake::LastIsGuessed) => number - 1,
                    _ => last(&s, one, stream),
                };
                let sequencer = &mut s.sequencers[one];
                sequencer.read[shard] += 1;
                sequencer.last[stream] = Some(known.max(number));
                if number > known {
                    let from = if self.mistake == Mistake::WhatIsBeforeIsNotRead { number } else { known + 1 };
                    sequencer.batch.extend((from..=number).map(|number| (stream, number)));
                }
            }
            Recover(one) => {
                let lost = (0..SHARDS).any(|shard| s.sequencers[one].read[shard] < s.trimmed[shard]);
                let passes_over = self.mistake == Mistake::LossIsPassedOver;
                if !self.ready(&s.sequencers[one]) || !lost || passes_over {
                    return None;
                }
                // What is kept is read again from its beginning, so how far comes before the streams are looked at.
                s.sequencers[one].read = s.trimmed;
                for stream in 0..STREAMS {
                    let known = last(&s, one, stream);
                    let missing = (known + 1..=s.streams[stream]).map(|number| (stream, number));
                    s.sequencers[one].batch.extend(missing);
                    s.sequencers[one].last[stream] = Some(s.streams[stream]);
                }
            }
            Send(one) => {
                let sequencer = &mut s.sequencers[one];
                if !self.ready(sequencer) || sequencer.batch.is_empty() {
                    return None;
                }
                let key = sequencer.end? + 1;
                let record = Record { commits: std::mem::take(&mut sequencer.batch), progress: sequencer.read };
                sequencer.waits = Some(record.clone());
                if self.mistake == Mistake::CheckpointApart {
                    s.checkpoints.insert(record.progress);
                }
                s.sent.insert(Put { sequencer: one, key, record });
            }
            Crash(one) => {
                if s.crashes >= self.crashes || s.sequencers[one] == Sequencer::default() {
                    return None;
                }
                s.crashes += 1;
                s.sequencers[one] = Sequencer::default();
            }
            Answer(put) => {
                let done = self.execute(&mut s, &put);
                let sequencer = &mut s.sequencers[put.sequencer];
                let is_awaited = sequencer.waits.as_ref() == Some(&put.record) && sequencer.end == Some(put.key - 1);
                if !is_awaited {
                    // Who sent it has crashed since.
                    if !done {
                        return None;
                    }
                } else if done {
                    *sequencer = Sequencer {
                        end: Some(put.key),
                        settled: false,
                        read: put.record.progress,
                        last: sequencer.last,
                        ..Sequencer::default()
                    };
                } else {
                    *sequencer = Sequencer::default();
                }
            }
            Lose(put) => {
                let done = self.execute(&mut s, &put);
                let sequencer = &mut s.sequencers[put.sequencer];
                let is_awaited = sequencer.waits.as_ref() == Some(&put.record) && sequencer.end == Some(put.key - 1);
                if is_awaited {
                    *sequencer = Sequencer::default();
                }
                if !done && !is_awaited {
                    return None;
                }
            }
            Checkpoint(progress) => {
                if s.checkpoint == progress {
                    return None;
                }
                s.checkpoint = progress;
            }
        }
        // What can never be carried out any more is forgotten.
        let end = s.log.len();
        if self.mistake != Mistake::MarkWithoutCondition {
            let waits: Vec<bool> = s.sequencers.iter().map(|one| one.waits.is_some()).collect();
            s.sent.retain(|put| put.key > end || waits[put.sequencer]);
        }
        (s != *old).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each commit is logged once, in the order of its stream", |_, s: &State| {
                let mut next = [1; STREAMS];
                s.log.iter().flat_map(|record| &record.commits).all(|(stream, number)| {
                    let follows = next[*stream] == *number;
                    next[*stream] += 1;
                    follows
                })
            }),
            Property::always("what was read is logged", |m: &Self, s: &State| {
                let progress = m.progress(s);
                s.shards.iter().zip(progress).all(|(shard, read)| {
                    shard.iter().take(usize::from(read)).all(|(stream, number)| Self::logged(s, *stream) >= *number)
                })
            }),
            Property::sometimes("everything is logged", |m: &Self, s: &State| end(m, s)),
        ]
    }
}

fn end(m: &Behind, s: &State) -> bool {
    (0..STREAMS).all(|stream| s.streams[stream] == m.commits && Behind::logged(s, stream) == m.commits)
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    use Mistake::*;
    let base = Behind { sequencers: 2, commits: 1, crashes: 1, trims: 0, mistake: Nothing };
    let two = Behind { commits: 2, crashes: 0, ..base };
    let one = Behind { sequencers: 1, commits: 2, crashes: 1, trims: 1, mistake: Nothing };
    let mut rows = vec![
        report("right: 2 sequencers, 2 streams x 1, a crash", base, Expect::Holds, Some(end)),
        report("right: 2 sequencers, 2 streams x 1, a crash, a loss", Behind { trims: 1, ..base }, Expect::Holds, None),
        report("right: 1 sequencer, 2 streams x 2, a loss", Behind { crashes: 0, ..one }, Expect::Holds, Some(end)),
    ];
    if scopes == Scopes::All {
        rows.push(report("right: 1 sequencer, 2 streams x 2, a crash, a loss", one, Expect::Holds, Some(end)));
        rows.push(report("right: 2 sequencers, 2 streams x 2", two, Expect::Holds, None));
        let most = Behind { crashes: 1, trims: 1, ..two };
        rows.push(report("right: 2 sequencers, 2 streams x 2, a crash, a loss", most, Expect::Holds, None));
    }
    for (mistake, scope) in [
        (MarkWithoutCondition, base),
        (CheckpointApart, base),
        (NotSettled, Behind { trims: 1, ..base }),
        (LastIsGuessed, one),
        (WhatIsBeforeIsNotRead, one),
        (LossIsPassedOver, one),
    ] {
        rows.push(report(&format!("mistake: {mistake:?}"), Behind { mistake, ..scope }, Expect::Broken, None));
    }
    rows
}
