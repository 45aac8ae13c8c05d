//! Mode A: one store-wide fence, and the source's own record decides.
//!
//! Messages are never taken away: a request or a migrator's write, once justified by something that
//! was truly read, may arrive at any later time, any number of times, or never. That covers lost and
//! late answers, crashes, restarts, several migrators and zombies without modelling processes.

use crate::{Client, Expect, Row, Scopes, are_distinct, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

type Id = u8;
const HOLE: Id = 0;

/// The ownership record of a store. Every change is one compare-and-set on the whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Meta {
    Unused,
    Open(u8),
    Fenced(u8),
    Moved(u8, u8),
    Importing(u8),
    Retired(u8),
}
use Meta::*;

impl Meta {
    fn epoch(self) -> u8 {
        match self {
            Unused => 0,
            Open(e) | Fenced(e) | Moved(e, _) | Importing(e) | Retired(e) => e,
        }
    }
    fn owns(self) -> bool {
        matches!(self, Open(_) | Fenced(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    meta: Meta,
    log: Vec<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Append {
    to: usize,
    id: Id,
    /// Expected head; `None` is `Expected::Any`.
    at: Option<u8>,
}

/// What a migrator, or a node that helps, writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Op {
    Import {
        to: usize,
        was: Meta,
        epoch: u8,
    },
    Fence {
        from: usize,
        epoch: u8,
    },
    Copy {
        to: usize,
        slot: u8,
        id: Id,
        epoch: u8,
    },
    Move {
        from: usize,
        epoch: u8,
        head: u8,
    },
    OpenIt {
        to: usize,
        epoch: u8,
    },
    Abort {
        from: usize,
        epoch: u8,
    },
    /// Abort before the fence: a late fence of this epoch must be refused. Also the first half of finishing.
    GiveUp {
        from: usize,
        was: u8,
    },
    /// The other half: a store that can never own again says so.
    Retire {
        store: usize,
        was: Meta,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: [Store; 2],
    clients: Vec<Client>,
    sent: BTreeSet<Append>,
    checked: BTreeSet<Append>,
    ops: BTreeSet<Op>,
    acked: BTreeSet<Id>,
    epoch_fell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    CheckThenAppend,
    OpenOnFenced,
    MoveUndrained,
    MoveIgnoresEpoch,
    OpenIgnoresEpoch,
    AbortWithoutCas,
    AbortReusesEpoch,
    AbortToSameEpoch,
    FenceIgnoresEpoch,
    ImportWithoutCas,
    CopyLeavesGaps,
    CopyUnfenced,
    AppendWhileImporting,
    NoIdLookup,
    ReverseBeforeOpen,
    ImportingIsNoPointer,
    RetireBeforeGivingUp,
    RetireWithoutCas,
}

#[derive(Clone, Copy)]
struct Fence {
    clients: u8,
    commits: u8,
    max_epoch: u8,
    /// Requests name the expected head, instead of `Any`.
    exact: bool,
    /// A second attempt starts with an emptied target.
    wipe: bool,
    /// A move may be finished, after which there is no way back.
    finishes: bool,
    mistake: Mistake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send(u8),
    /// A restarted node knows its config again, and nothing else.
    Restart(u8),
    Arrive(Append, bool),
    WriteChecked(Append, bool),
    Do(Op),
}

impl Fence {
    /// Adds everything that a true read of this moment justifies writing.
    fn learn(&self, s: &mut State) {
        use Mistake::*;
        for (from, to) in [(0, 1), (1, 0)] {
            let (a, b) = (s.store[from].meta, s.store[to].meta);
            let (src, dst) = (s.store[from].log.clone(), s.store[to].log.len());
            let next = a.epoch() + 1;
            let may_start = matches!(a, Open(_)) || (self.mistake == ReverseBeforeOpen && matches!(a, Importing(_)));
            if may_start && next <= self.max_epoch && matches!(b, Unused | Importing(_) | Moved(..)) && b.epoch() < next
            {
                s.ops.insert(Op::Import { to, was: b, epoch: next });
            }
            if matches!(a, Open(_)) && b == Importing(next) {
                s.ops.insert(Op::Fence { from, epoch: next });
                if next < self.max_epoch {
                    s.ops.insert(Op::GiveUp { from, was: a.epoch() });
                }
            }
            if let Importing(e) = b {
                if matches!(a, Open(_) | Fenced(_) | Moved(..)) {
                    let reach = if self.mistake == CopyLeavesGaps { 2 } else { 1 };
                    for slot in
                        (0..src.len()).filter(|k| s.store[to].log.get(*k).is_none_or(|x| *x == HOLE)).take(reach)
                    {
                        s.ops.insert(Op::Copy { to, slot: slot as u8, id: src[slot], epoch: e });
                    }
                }
                if a == Fenced(e) && (dst == src.len() || self.mistake == MoveUndrained) {
                    s.ops.insert(Op::Move { from, epoch: e, head: src.len() as u8 });
                    if self.mistake == OpenOnFenced {
                        s.ops.insert(Op::OpenIt { to, epoch: e });
                    }
                }
            }
            if self.mistake == CopyUnfenced && !matches!(b, Unused) {
                for (slot, id) in src.iter().enumerate() {
                    s.ops.insert(Op::Copy { to, slot: slot as u8, id: *id, epoch: 0 });
                }
            }
            // Nothing may ever open a retired store again: its way back was never begun, or was given up in the owner's record.
            let may_retire = match (a, b) {
                (Moved(e, _), Open(f)) => f >= e,
                (Importing(e), Open(f)) => f > e || self.mistake == RetireBeforeGivingUp,
                _ => false,
            };
            if self.finishes && may_retire && from == 0 {
                s.ops.insert(Op::Retire { store: from, was: a });
            }
            match a {
                Moved(epoch, _) => s.ops.insert(Op::OpenIt { to, epoch }),
                Fenced(epoch) if epoch < self.max_epoch => s.ops.insert(Op::Abort { from, epoch }),
                _ => false,
            };
        }
    }

    fn perform(&self, s: &mut State, op: Op) {
        use Mistake::*;
        let m = self.mistake;
        match op {
            Op::Import { to, was, epoch } => {
                if s.store[to].meta == was || m == ImportWithoutCas {
                    if self.wipe && matches!(was, Importing(_)) {
                        s.store[to].log.clear();
                    }
                    set(s, to, Importing(epoch));
                }
            }
            Op::Fence { from, epoch } => {
                if s.store[from].meta == Open(epoch - 1)
                    || (m == FenceIgnoresEpoch && matches!(s.store[from].meta, Open(_)))
                {
                    set(s, from, Fenced(epoch));
                }
            }
            Op::Copy { to, slot, id, epoch } => {
                let (slot, log) = (slot as usize, &s.store[to].log);
                if s.store[to].meta == Importing(epoch) || m == CopyUnfenced {
                    if slot == log.len() {
                        s.store[to].log.push(id);
                    } else if m == CopyLeavesGaps {
                        let len = log.len().max(slot + 1);
                        s.store[to].log.resize(len, HOLE);
                        s.store[to].log[slot] = id;
                    }
                }
            }
            Op::Move { from, epoch, head } => {
                let now = s.store[from].meta;
                if now == Fenced(epoch) || (m == MoveIgnoresEpoch && matches!(now, Fenced(_))) {
                    let epoch = now.epoch();
                    set(s, from, Moved(epoch, head));
                }
            }
            Op::OpenIt { to, epoch } => {
                let now = s.store[to].meta;
                if now == Importing(epoch) || (m == OpenIgnoresEpoch && matches!(now, Importing(_))) {
                    let epoch = now.epoch();
                    set(s, to, Open(epoch));
                }
            }
            Op::GiveUp { from, was } if s.store[from].meta == Open(was) => set(s, from, Open(was + 2)),
            Op::GiveUp { .. } => (),
            Op::Retire { store, was } => {
                if s.store[store].meta == was || m == RetireWithoutCas {
                    set(s, store, Retired(was.epoch().max(s.store[store].meta.epoch())));
                }
            }
            Op::Abort { from, epoch } => {
                let now = s.store[from].meta;
                if now == Fenced(epoch) || (m == AbortWithoutCas && now.epoch() == epoch) {
                    let back = match m {
                        AbortReusesEpoch => epoch - 1,
                        AbortToSameEpoch => epoch,
                        _ => epoch + 1,
                    };
                    set(s, from, Open(back));
                }
            }
        }
    }

    fn current(&self, s: &State, client: usize) -> Option<Id> {
        let c = &s.clients[client];
        (c.done < self.commits).then_some(10 * (client as u8 + 1) + c.done)
    }

    /// The store's answer reaches the client, which follows a refusal to where the record points.
    fn answer(&self, s: &mut State, a: Append, written: bool) {
        let client = (a.id / 10 - 1) as usize;
        if self.current(s, client) != Some(a.id) {
            return;
        }
        if written {
            s.acked.insert(a.id);
            s.clients[client].done += 1;
        } else if s.clients[client].route == a.to {
            let elsewhere = match s.store[a.to].meta {
                Moved(..) | Unused | Retired(_) => true,
                Importing(_) => self.mistake != Mistake::ImportingIsNoPointer,
                _ => false,
            };
            if elsewhere {
                s.clients[client].route = 1 - a.to;
            }
        }
    }

    fn write(&self, s: &mut State, a: Append) -> bool {
        let log = &mut s.store[a.to].log;
        if log.contains(&a.id) && self.mistake != Mistake::NoIdLookup {
            return true;
        }
        let fits = a.at.is_none_or(|n| n as usize == log.len());
        if fits && log.len() < 9 {
            log.push(a.id);
        }
        fits
    }
}

fn set(s: &mut State, store: usize, to: Meta) {
    s.epoch_fell |= to.epoch() < s.store[store].meta.epoch();
    s.store[store].meta = to;
}

impl Model for Fence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // One commit exists. Client 0 has the old config; client 1 was deployed with the new one.
        let clients = (0..self.clients).map(|c| Client { route: (c % 2) as usize, done: 0 }).collect();
        let store = [Store { meta: Open(0), log: vec![1] }, Store { meta: Unused, log: vec![] }];
        let mut s = State {
            store,
            clients,
            sent: BTreeSet::new(),
            checked: BTreeSet::new(),
            ops: BTreeSet::new(),
            acked: [1].into(),
            epoch_fell: false,
        };
        self.learn(&mut s);
        vec![s]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        out.extend((0..self.clients).flat_map(|c| [Action::Send(c), Action::Restart(c)]));
        out.extend(s.sent.iter().flat_map(|a| [Action::Arrive(*a, true), Action::Arrive(*a, false)]));
        out.extend(s.checked.iter().flat_map(|a| [Action::WriteChecked(*a, true), Action::WriteChecked(*a, false)]));
        out.extend(s.ops.iter().map(|o| Action::Do(*o)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Send(c) => {
                let id = self.current(&s, c as usize)?;
                let to = s.clients[c as usize].route;
                let at = self.exact.then_some(s.store[to].log.len() as u8);
                s.sent.insert(Append { to, id, at });
            }
            Action::Restart(c) => s.clients[c as usize].route = (c % 2) as usize,
            Action::Arrive(a, answered) => {
                let meta = s.store[a.to].meta;
                let open = matches!(meta, Open(_))
                    || (self.mistake == Mistake::AppendWhileImporting && matches!(meta, Importing(_)));
                if open && self.mistake == Mistake::CheckThenAppend {
                    s.checked.insert(a);
                } else {
                    // Check and write are one atomic step.
                    let written = open && self.write(&mut s, a);
                    if answered {
                        self.answer(&mut s, a, written);
                    }
                }
            }
            Action::WriteChecked(a, answered) => {
                let written = self.write(&mut s, a);
                if answered {
                    self.answer(&mut s, a, written);
                }
            }
            Action::Do(op) => self.perform(&mut s, op),
        }
        self.learn(&mut s);
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an acked commit is in the owner's log", |_, s: &State| {
                // Between `Moved` and the target's `Open` the target already owns the log.
                let owner = match (s.store[0].meta.owns(), s.store[1].meta.owns()) {
                    (true, _) => 0,
                    (_, true) => 1,
                    _ if matches!(s.store[0].meta, Moved(..)) => 1,
                    _ => 0,
                };
                s.acked.iter().all(|id| s.store[owner].log.contains(id))
            }),
            Property::always("never two owners", |_, s: &State| !(s.store[0].meta.owns() && s.store[1].meta.owns())),
            Property::always("no duplicate commit id", |_, s: &State| {
                s.store.iter().all(|x| are_distinct(x.log.iter().filter(|i| **i != HOLE)))
            }),
            Property::always("same slot, same commit", |_, s: &State| {
                s.store[0].log.iter().zip(&s.store[1].log).all(|(a, b)| a == b || *a == HOLE || *b == HOLE)
            }),
            Property::always("opens only with the complete prefix", |_, s: &State| {
                [(0, 1), (1, 0)].into_iter().all(|(from, to)| match (s.store[from].meta, s.store[to].meta) {
                    (Moved(e, head), Open(f)) if e == f => {
                        let n = head as usize;
                        s.store[to].log.get(..n).is_some_and(|copy| s.store[from].log.get(..n) == Some(copy))
                    }
                    _ => true,
                })
            }),
            // Asked only of the right protocol: a seeded mistake has to show harm to the data.
            Property::always("an epoch never falls", |m: &Fence, s: &State| {
                !s.epoch_fell || m.mistake != Mistake::Nothing
            }),
            Property::sometimes("a migration completes", |m, s: &State| s.store[1].meta == Open(1) && all_done(m, s)),
            Property::sometimes("abort, then success", |m, s: &State| {
                m.max_epoch < 3
                    || (matches!(s.store[0].meta, Moved(3, _)) && s.store[1].meta == Open(3) && all_done(m, s))
            }),
            Property::sometimes("a move is finished", |m, s: &State| {
                !m.finishes
                    || (matches!(s.store[0].meta, Retired(_)) && matches!(s.store[1].meta, Open(_)) && all_done(m, s))
            }),
            Property::sometimes("the way back is given up, then the move finished", |m, s: &State| {
                m.max_epoch < 3
                    || (matches!(s.store[0].meta, Retired(2)) && s.store[1].meta == Open(3) && all_done(m, s))
            }),
            Property::sometimes("rollback completes", |m, s: &State| {
                m.max_epoch < 2
                    || (s.store[0].meta == Open(2) && matches!(s.store[1].meta, Moved(2, _)) && all_done(m, s))
            }),
        ]
    }
}

fn all_done(m: &Fence, s: &State) -> bool {
    s.clients.iter().all(|c| c.done == m.commits)
}

fn end(m: &Fence, s: &State) -> bool {
    all_done(m, s) && s.store.iter().any(|x| matches!(x.meta, Open(_)))
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    let base =
        Fence { clients: 2, commits: 1, max_epoch: 3, exact: false, wipe: false, finishes: true, mistake: Nothing };
    let mut rows = Vec::new();
    let mut run = |name: &str, m: Fence, e: Expect| rows.push(report(name, m, e, Some(end)));
    run("right: any, 2 clients x 1, epochs to 1", Fence { max_epoch: 1, ..base }, Expect::Holds);
    run("right: any, 2 x 1, epochs to 3", base, Expect::Holds);
    run("right: exact head, 2 x 1, epochs to 1", Fence { exact: true, max_epoch: 1, ..base }, Expect::Holds);
    run("right: any, 2 x 2, epochs to 2", Fence { commits: 2, max_epoch: 2, ..base }, Expect::Holds);
    run("right: any, 2 x 1, epochs to 3, emptied target", Fence { wipe: true, ..base }, Expect::Holds);
    if scopes == Scopes::All {
        run("right: exact head, 2 x 1, epochs to 3", Fence { exact: true, ..base }, Expect::Holds);
        run("right: any, 2 x 2, epochs to 3", Fence { commits: 2, ..base }, Expect::Holds);
        run("right: any, 2 x 1, epochs to 5", Fence { max_epoch: 5, ..base }, Expect::Holds);
    }
    use Mistake::*;
    for mistake in [
        CheckThenAppend,
        OpenOnFenced,
        MoveUndrained,
        MoveIgnoresEpoch,
        OpenIgnoresEpoch,
        AbortWithoutCas,
        AbortReusesEpoch,
        FenceIgnoresEpoch,
        ImportWithoutCas,
        CopyLeavesGaps,
        AppendWhileImporting,
        NoIdLookup,
    ] {
        run(&format!("mistake: {mistake:?}"), Fence { mistake, ..base }, Expect::Broken);
    }
    for mistake in [ReverseBeforeOpen, RetireBeforeGivingUp, RetireWithoutCas] {
        run(&format!("mistake: {mistake:?}"), Fence { mistake, ..base }, Expect::Stuck);
    }
    // A finished move would tell the starved node where to go: it has to find out before.
    let unfollowed = Fence { mistake: ImportingIsNoPointer, finishes: false, ..base };
    run("mistake: ImportingIsNoPointer", unfollowed, Expect::Stuck);
    for mistake in [AbortToSameEpoch, CopyUnfenced] {
        run(&format!("redundant rule dropped: {mistake:?}"), Fence { mistake, ..base }, Expect::Holds);
        run(&format!("the same, emptied target: {mistake:?}"), Fence { mistake, wipe: true, ..base }, Expect::Holds);
    }
    rows
}
