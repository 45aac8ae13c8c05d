//! Mode A with servers that restart, and fail over with a loss: a store that is filled takes over the histories of its owner
//! (`docs/decisions/0042`). Steps of a migrator come late, again or never, as in `store_fence`. A copy names the present history of the store
//! that is filled, as it was when it was read: one of a history that is lost since is refused, which a store that looks at the epoch alone
//! would take.
//!
//! Of two stores only one loses what is not yet the other's: what both lost is nowhere.

use crate::{Expect, Row, Scopes, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

type Id = u8;
type History = u8;

/// Who may write, and the last commit of a store that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Who {
    Unused,
    Open(u8),
    Fenced(u8),
    Moved(u8, u8),
    Importing(u8),
}
use Who::*;

/// The record of a store. Histories have ended after so many commits, the present one has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Record {
    who: Who,
    lineage: Vec<(History, Option<u8>)>,
}

impl Record {
    fn present(&self) -> History {
        self.lineage.last().map_or(0, |one| one.0)
    }

    fn knows(&self, history: History) -> bool {
        self.lineage.iter().any(|one| one.0 == history)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    record: Record,
    log: Vec<Id>,
    /// Up to where it was compared, and how many histories it had then.
    note: (u8, u8),
}

/// What a migrator writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Op {
    /// Of the target: begins to fill it, takes histories over, opens it.
    Target {
        was: Record,
        new: Record,
    },
    /// Of the source: closes it, decides.
    Source {
        was: Record,
        new: Record,
    },
    Copy {
        /// The history that it names.
        history: History,
        slot: u8,
        id: Id,
    },
    Note {
        note: (u8, u8),
    },
}

/// What a consumer holds: a history, how many commits it has seen, and the last of them.
type Cursor = (History, u8, Id);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: [Store; 2],
    ops: BTreeSet<Op>,
    acked: BTreeSet<Id>,
    /// The source's log as it was decided on.
    decided: Option<Vec<Id>>,
    cursor: Option<Cursor>,
    appended: u8,
    histories: u8,
    restarted: [bool; 2],
    lost: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    /// What was compared before a restart is not compared again.
    NoteOfAnyHistory,
    /// It is opened as it is found after the decision.
    OpensUnlooked,
    /// It is opened once it holds as much as was decided on.
    OpensUncompared,
    /// A store that lost copies after the decision goes on with the history that it began by that.
    StaysInItsOwnHistory,
    /// The decision compares who may write, and not the histories.
    DecidesOnOldHistories,
    /// Of the owner's histories only the present one is taken over.
    TakesThePresentOnly,
    /// Histories are taken over although the copy may hold what the owner lost.
    TakesOverUnlooked,
}
use Mistake::*;

/// By what a store takes a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    /// By its epoch alone.
    ByEpoch,
    /// By the present history too, as stores do.
    ByHistory,
}

#[derive(Clone, Copy)]
struct Histories {
    commits: u8,
    /// Restarts and failovers, of both.
    breaks: u8,
    copies: Copies,
    /// Whether nothing may come back that its owner has lost, so that a cursor is refused of which all that it saw stands.
    is_strict: bool,
    mistake: Mistake,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Append(usize),
    /// A new history begins, and nothing is lost.
    Restart(usize),
    /// A new history begins, and the last commit is lost.
    Lose(usize),
    Consume(usize),
    Do(Op),
}

/// As `phase::taken_over`.
fn taken_over(owner: &Record, filled: &Record, head: u8) -> Vec<(History, Option<u8>)> {
    if owner.lineage.last() == filled.lineage.last() {
        return filled.lineage.clone();
    }
    let own = filled.lineage.iter().filter(|one| !owner.knows(one.0));
    let closed = own.map(|one| (one.0, Some(one.1.map_or(head, |end| end.min(head)))));
    closed.chain(owner.lineage.iter().copied()).collect()
}

/// As `phase::shared_end`.
fn shared_end(owner: &Record, filled: &Record) -> Option<u8> {
    let at = |one: &(History, Option<u8>)| owner.lineage.iter().position(|other| other.0 == one.0);
    let shared = filled.lineage.iter().rev().find_map(at)?;
    Some(owner.lineage[shared..].iter().filter_map(|one| one.1).min().unwrap_or(u8::MAX))
}

fn last_shared(filled: &Record, left: &Record) -> Option<usize> {
    filled.lineage.iter().rposition(|one| left.knows(one.0))
}

/// Whether two logs hold the same after one place and up to another.
fn same(one: &[Id], other: &[Id], after: u8, through: u8) -> bool {
    let (after, through) = (usize::from(after.min(through)), usize::from(through));
    matches!((one.get(after..through), other.get(after..through)), (Some(one), Some(other)) if one == other)
}

fn len(store: &Store) -> u8 {
    store.log.len() as u8
}

impl Histories {
    /// After which commit the target has to be compared.
    fn compared(self, t: &Store) -> u8 {
        let (through, histories) = t.note;
        let holds = self.mistake == NoteOfAnyHistory || histories == t.record.lineage.len() as u8;
        if holds && through <= len(t) { through } else { 0 }
    }

    /// Adds everything that a true read of this moment justifies writing.
    fn learn(self, state: &mut State) {
        let [s, t] = state.store.clone();
        let mut ops = Vec::new();
        let target = |new: Record| Op::Target { was: t.record.clone(), new };
        let source = |who| Op::Source { was: s.record.clone(), new: Record { who, ..s.record.clone() } };
        let is_sound = s.record.present() == t.record.present();
        if matches!((s.record.who, t.record.who), (Open(0), Unused)) {
            ops.push(target(Record { who: Importing(1), lineage: self.of_owner(&s, &t) }));
        }
        if t.record.who != Importing(1) {
            return state.ops.extend(ops);
        }
        if let Some(id) = s.log.get(t.log.len()) {
            let history = if self.copies == Copies::ByHistory { t.record.present() } else { 0 };
            ops.push(Op::Copy { history, slot: len(&t), id: *id });
        }
        let equal = same(&s.log, &t.log, self.compared(&t), len(&t));
        match s.record.who {
            Open(_) | Fenced(_) if !is_sound => {
                let shared = shared_end(&s.record, &t.record);
                let is_prefix = shared.is_some_and(|end| len(&t) <= end || same(&s.log, &t.log, end, len(&t)));
                if is_prefix || self.mistake == TakesOverUnlooked {
                    ops.push(target(Record { lineage: self.of_owner(&s, &t), ..t.record.clone() }));
                }
            }
            Open(_) | Fenced(_) => {
                if equal {
                    ops.push(Op::Note { note: (len(&t), t.record.lineage.len() as u8) });
                }
                match s.record.who {
                    Open(_) => ops.push(source(Fenced(1))),
                    _ if equal && len(&s) == len(&t) => ops.push(source(Moved(1, len(&s)))),
                    _ => {}
                }
            }
            Moved(_, end) => {
                let lineage = self.decided_on(&t.record, &s.record, end);
                let is_same = same(&s.log, &t.log, self.compared(&t), end) || self.mistake == OpensUncompared;
                let may_open = len(&t) == end && (is_sound || lineage == t.record.lineage);
                if self.mistake == OpensUnlooked || (is_same && may_open) {
                    ops.push(target(Record { who: Open(1), ..t.record.clone() }));
                } else if len(&t) >= end && !may_open {
                    ops.push(target(Record { lineage, ..t.record.clone() }));
                }
            }
            Unused | Importing(_) => {}
        }
        state.ops.extend(ops);
    }

    /// As `phase::decided_on`.
    fn decided_on(self, filled: &Record, left: &Record, end: u8) -> Vec<(History, Option<u8>)> {
        let closed = |one: &(History, Option<u8>)| (one.0, Some(one.1.map_or(end, |at| at.min(end))));
        let of_left = left.lineage.iter().filter(|one| !filled.knows(one.0)).map(closed);
        let Some(shared) = last_shared(filled, left) else { return filled.lineage.clone() };
        if self.mistake == StaysInItsOwnHistory {
            return of_left.chain(filled.lineage.iter().copied()).collect();
        }
        let (before, since) = filled.lineage.split_at(shared + 1);
        let before = before.iter().map(|one| if one == &before[shared] { (one.0, None) } else { *one });
        of_left.chain(since.iter().map(closed)).chain(before).collect()
    }

    fn of_owner(self, s: &Store, t: &Store) -> Vec<(History, Option<u8>)> {
        let all = taken_over(&s.record, &t.record, len(t));
        if self.mistake != TakesThePresentOnly {
            return all;
        }
        let is_old = |one: &(History, Option<u8>)| one.0 != s.record.present() && s.record.knows(one.0);
        all.into_iter().filter(|one| !is_old(one)).collect()
    }

    fn perform(self, state: &mut State, op: Op) {
        let [s, t] = &mut state.store;
        match op {
            Op::Target { was, new } if t.record == was => t.record = new,
            Op::Source { was, new } => {
                let is_decision = matches!(new.who, Moved(..));
                if s.record == was {
                    s.record = new;
                } else if self.mistake == DecidesOnOldHistories && is_decision && s.record.who == was.who {
                    s.record.who = new.who;
                } else {
                    return;
                }
                if is_decision {
                    state.decided = Some(s.log.clone());
                }
            }
            Op::Copy { history, slot, id } => {
                let is_of_it = self.copies == Copies::ByEpoch || t.record.present() == history;
                if t.record.who == Importing(1) && is_of_it && len(t) == slot {
                    t.log.push(id);
                }
            }
            Op::Note { note } => t.note = note,
            Op::Target { .. } => {}
        }
    }

    /// Whether a store may lose its last commit: something else may not have lost it before.
    fn may_lose(self, state: &State, store: usize) -> bool {
        let other = &state.store[1 - store];
        match state.store[0].record.who {
            Moved(_, end) if !matches!(state.store[1].record.who, Open(_)) => {
                len(other) >= end && !state.lost_since(1 - store)
            }
            _ => true,
        }
    }
}

impl State {
    /// Whether a store holds less than was decided on.
    fn lost_since(&self, store: usize) -> bool {
        self.decided.as_ref().is_some_and(|decided| !self.store[store].log.starts_with(decided))
    }

    /// The store that owns the streams.
    fn owner(&self) -> usize {
        usize::from(matches!(self.store[0].record.who, Moved(..)))
    }

    fn begin_history(&mut self, store: usize) {
        self.histories += 1;
        let of = &mut self.store[store];
        let head = of.log.len() as u8;
        if let Some(last) = of.record.lineage.last_mut() {
            last.1 = Some(head);
        }
        of.record.lineage.push((self.histories, None));
    }
}

impl Model for Histories {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = |who, history, log: &[Id]| Store {
            record: Record { who, lineage: vec![(history, None)] },
            log: log.to_vec(),
            note: (0, 0),
        };
        let mut state = State {
            store: [store(Open(0), 1, &[1]), store(Unused, 2, &[])],
            ops: BTreeSet::new(),
            acked: [1].into(),
            decided: None,
            cursor: None,
            appended: 0,
            histories: 2,
            restarted: [false; 2],
            lost: [false; 2],
        };
        self.learn(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        for store in [0, 1] {
            let of = &state.store[store];
            if matches!(of.record.who, Open(_)) && state.appended < self.commits {
                out.push(Action::Append(store));
            }
            // What the source told its consumers before is what the move may break.
            if store == 0 && matches!(of.record.who, Open(_) | Fenced(_)) && !of.log.is_empty() {
                out.push(Action::Consume(store));
            }
            if of.record.who != Unused && state.histories < 2 + self.breaks {
                out.push(Action::Restart(store));
                if !of.log.is_empty() && self.may_lose(state, store) {
                    out.push(Action::Lose(store));
                }
            }
        }
        out.extend(state.ops.iter().cloned().map(Action::Do));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Append(store) => {
                state.appended += 1;
                let id = state.appended + 1;
                state.store[store].log.push(id);
                state.acked.insert(id);
            }
            Action::Restart(store) => {
                state.restarted[store] = true;
                state.begin_history(store);
            }
            Action::Lose(store) => {
                state.lost[store] = true;
                let lost = state.store[store].log.pop()?;
                // Acknowledged commits that their owner loses are lost, and said to be; a copy is only a copy.
                if state.owner() == store && !(store == 1 && state.store[1].record.who == Importing(1)) {
                    state.acked.remove(&lost);
                }
                state.begin_history(store);
            }
            Action::Consume(store) => {
                let of = &state.store[store];
                state.cursor = Some((of.record.present(), len(of), *of.log.last()?));
            }
            Action::Do(op) => self.perform(&mut state, op),
        }
        self.learn(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an acked commit is in the owner's log, or can be copied to it", |_, state: &State| {
                let held = |store: usize, id: &Id| state.store[store].log.contains(id);
                let owner = state.owner();
                let is_to_be_filled = owner == 1 && state.store[1].record.who == Importing(1);
                state.acked.iter().all(|id| held(owner, id) || (is_to_be_filled && held(0, id)))
            }),
            Property::always("opens with what was decided on", |_, state: &State| {
                let is_open = matches!(state.store[1].record.who, Open(_));
                // What it loses once it is open is its own to lose.
                !is_open
                    || state.lost[1] && state.acked.iter().all(|id| state.store[1].log.contains(id))
                    || !state.lost_since(1)
            }),
            Property::always("a cursor stands where it stood, or is refused as lost", |model: &Self, state: &State| {
                state.cursor.is_none_or(|(history, seen, id)| {
                    state.store.iter().filter(|of| matches!(of.record.who, Open(_))).all(|of| {
                        let Some(at) = of.record.lineage.iter().position(|one| one.0 == history) else { return false };
                        let end = of.record.lineage[at..].iter().filter_map(|one| one.1).min();
                        let is_taken = end.is_none_or(|end| seen <= end);
                        let stands = of.log.get(usize::from(seen) - 1) == Some(&id);
                        // What its owner has lost may come back before the opening: it is not wrong, and refused.
                        is_taken == stands || (stands && !model.is_strict)
                    })
                })
            }),
            Property::sometimes("moved after the source restarted", |_, state: &State| {
                state.restarted[0] && matches!(state.store[1].record.who, Open(_))
            }),
            Property::sometimes("moved after the source lost a commit", |_, state: &State| {
                state.lost[0] && matches!(state.store[1].record.who, Open(_))
            }),
            Property::sometimes("moved after the target lost a copy", |_, state: &State| {
                state.lost[1] && matches!(state.store[1].record.who, Open(_)) && !state.lost_since(1)
            }),
        ]
    }
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    let base = Histories { commits: 1, breaks: 2, copies: Copies::ByHistory, is_strict: true, mistake: Nothing };
    let mut rows = Vec::new();
    let mut run = |name: &str, model: Histories, expect| rows.push(report(name, model, expect, None));
    run("histories: 1 commit, 1 break", Histories { breaks: 1, ..base }, Expect::Holds);
    run("histories: 2 commits, 1 break", Histories { breaks: 1, commits: 2, ..base }, Expect::Holds);
    let by_epoch = Histories { copies: Copies::ByEpoch, ..base };
    if scopes == Scopes::All {
        run("histories: 1 commit, 2 breaks", base, Expect::Holds);
        run("histories: 2 commits, 2 breaks", Histories { commits: 2, ..base }, Expect::Holds);
        for mistake in [TakesOverUnlooked, OpensUncompared] {
            run(&format!("redundant rule dropped: {mistake:?}"), Histories { mistake, ..base }, Expect::Holds);
        }
        let decides = Histories { mistake: DecidesOnOldHistories, ..base };
        run("mistake: DecidesOnOldHistories", decides, Expect::Broken);
        // What it is for, should a store not look at the history of a copy.
        let lax = Histories { is_strict: false, ..by_epoch };
        run("by their epoch alone, but for that", lax, Expect::Holds);
        run("the same, opened uncompared", Histories { mistake: OpensUncompared, ..lax }, Expect::Broken);
    }
    // A copy of what its owner has lost comes back between the last look and the opening. It harms nobody that a cursor is taken for it.
    run("mistake: copies by their epoch alone", by_epoch, Expect::Broken);
    for mistake in [NoteOfAnyHistory, OpensUnlooked, TakesThePresentOnly, StaysInItsOwnHistory] {
        run(&format!("mistake: {mistake:?}"), Histories { mistake, ..base }, Expect::Broken);
    }
    rows
}
