//! Mode B: a seal per stream, for stores that can check only the stream's next slot per append.
//!
//! One stream is followed; messages are never taken away (see `store_fence`). The store's record is
//! checked atomically by creations and seals only, both rare, never by ordinary appends.

use crate::{Client, Expect, Row, Scopes, are_distinct, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

type Id = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    /// The store's own append.
    Own(Id),
    /// Written by `replicate`: carries `imported{epoch}`.
    Imported(Id),
    Out(u8),
    In(u8),
}
use Item::*;

/// The store's record. Only `Open` lets streams be created; only `Leaving` lets them be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Meta {
    Open(u8),
    Leaving(u8),
    Importing(u8),
    Retired(u8),
}
use Meta::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    meta: Meta,
    log: Vec<Item>,
}

impl Store {
    /// Decided by the last item alone.
    fn open(&self) -> bool {
        matches!(self.log.last(), Some(Own(_) | In(_)))
    }
    fn has(&self, id: Id) -> bool {
        self.log.iter().any(|i| matches!(i, Own(x) | Imported(x) if *x == id))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    to: usize,
    slot: u8,
    id: Id,
    /// For a creation: the epoch of the record that the writer read before it looked for the stream.
    guard: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Op {
    Record { of: usize, was: Meta, to: Meta },
    Copy { to: usize, slot: u8, id: Id },
    Seal { from: usize, slot: u8, epoch: u8 },
    OpenIt { to: usize, slot: u8, epoch: u8 },
    Reopen { from: usize, slot: u8, epoch: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: [Store; 2],
    clients: Vec<Client>,
    sent: BTreeSet<Put>,
    checked: BTreeSet<Put>,
    ops: BTreeSet<Op>,
    acked: BTreeSet<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    NoImportedFlag,
    NoFlagInReverse,
    SealBesideSlots,
    SealIgnoresRecord,
    OpenIncomplete,
    ReopenInPlace,
    CreateWithoutLook,
    CreateUnguarded,
    CreateIgnoresEpoch,
    RetireWhileSealed,
    GuardNotAtomic,
    GuardOpenedEarly,
    GuardIgnoresEpoch,
    RollbackRacesRetire,
    NoIdLookup,
    AbortLeavesRecord,
}

#[derive(Clone, Copy)]
struct Seal {
    clients: u8,
    commits: u8,
    max_epoch: u8,
    /// Whether the stream exists when the migration starts.
    exists: bool,
    mistake: Mistake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Try(u8),
    /// A restarted node knows its config again, and nothing else.
    Restart(u8),
    Arrive(Put, bool),
    WriteChecked(Put, bool),
    Do(Op),
}

impl Seal {
    fn learn(&self, s: &mut State) {
        use Mistake::*;
        for (from, to) in [(0, 1), (1, 0)] {
            let (a, b) = (&s.store[from], &s.store[to]);
            let mut ops = Vec::new();
            let record = |of, was, to| Op::Record { of, was, to };
            match (a.meta, b.meta) {
                // The destination's record goes first, so that `Retired` and a new move exclude each other.
                (Open(e), Leaving(f)) if e == f && e < self.max_epoch => {
                    ops.push(record(to, b.meta, Importing(e + 1)));
                    if self.mistake == RollbackRacesRetire {
                        ops.push(record(from, a.meta, Leaving(e + 1)));
                    }
                }
                (Open(e), Importing(f)) if f == e + 1 => {
                    ops.push(record(from, a.meta, Leaving(f)));
                    // Abort: possible only before `Leaving`, and it has to refuse a late `Leaving`.
                    if self.mistake == AbortLeavesRecord && e == 0 {
                        ops.push(record(to, b.meta, Retired(f)));
                    } else if f < self.max_epoch {
                        ops.push(record(from, a.meta, Open(f + 1)));
                    }
                }
                (Open(e), Importing(f)) if f < e && e < self.max_epoch => {
                    ops.push(record(to, b.meta, Importing(e + 1)))
                }
                (Leaving(e), Importing(f)) if e == f => ops.push(record(to, b.meta, Open(e))),
                (Leaving(e), Leaving(f)) if e == f + 1 => ops.push(record(to, b.meta, Open(e))),
                _ => (),
            }
            if let (GuardOpenedEarly, Importing(e)) = (self.mistake, b.meta) {
                ops.push(record(to, b.meta, Open(e)));
            }
            if let (Leaving(e), Open(f)) = (a.meta, b.meta) {
                let never = a.log.is_empty() && (b.log.is_empty() || self.mistake == RetireWhileSealed);
                if e == f && (never || (!a.open() && b.open())) {
                    ops.push(record(from, a.meta, Retired(e)));
                }
            }
            // Copying needs no epoch: whatever slot was read is final.
            if let Some(Own(id) | Imported(id)) = a.log.get(b.log.len()) {
                ops.push(Op::Copy { to, slot: b.log.len() as u8, id: *id });
            }
            if a.open() {
                let slot = a.log.len() as u8;
                match a.meta {
                    _ if self.mistake == SealIgnoresRecord => {
                        ops.extend((1..=epoch(a.meta).max(1)).map(|epoch| Op::Seal { from, slot, epoch }))
                    }
                    Leaving(epoch) => ops.push(Op::Seal { from, slot, epoch }),
                    _ => (),
                }
            }
            for (n, item) in a.log.iter().enumerate() {
                if let Out(epoch) = *item {
                    let here = b.log.len();
                    if here == n || (self.mistake == OpenIncomplete && here < n) {
                        ops.push(Op::OpenIt { to, slot: here as u8, epoch });
                    }
                }
            }
            if let (ReopenInPlace, Some(Out(e))) = (self.mistake, a.log.last()) {
                ops.push(Op::Reopen { from, slot: a.log.len() as u8, epoch: e + 1 });
            }
            s.ops.extend(ops);
        }
    }

    fn perform(&self, s: &mut State, op: Op) {
        let m = self.mistake;
        match op {
            Op::Record { of, was, to } => {
                let forced = m == Mistake::GuardIgnoresEpoch && matches!(to, Open(_));
                if s.store[of].meta == was || forced {
                    s.store[of].meta = to;
                }
            }
            Op::Copy { to, slot, id } => {
                // Only behind `Importing` or a marker: nothing but copies can be next there.
                let log = &mut s.store[to].log;
                if log.len() == slot as usize {
                    let behind = log.iter().any(|i| matches!(i, Out(_)));
                    let plain = m == Mistake::NoImportedFlag || (m == Mistake::NoFlagInReverse && behind);
                    log.push(if plain { Own(id) } else { Imported(id) });
                }
            }
            Op::Seal { from, slot, epoch } => {
                // One transaction: the slot is free and the record says `Leaving(epoch)`.
                let store = &mut s.store[from];
                let record = store.meta == Leaving(epoch) || m == Mistake::SealIgnoresRecord;
                if record && store.log.len() == slot as usize {
                    store.log.push(Out(epoch));
                }
            }
            Op::OpenIt { to, slot, epoch } | Op::Reopen { from: to, slot, epoch } => {
                if s.store[to].log.len() == slot as usize {
                    s.store[to].log.push(In(epoch));
                }
            }
        }
    }

    fn current(&self, s: &State, client: usize) -> Option<Id> {
        let c = &s.clients[client];
        (c.done < self.commits).then_some(10 * (client as u8 + 1) + c.done)
    }

    fn acked(&self, s: &mut State, id: Id) {
        let client = (id / 10 - 1) as usize;
        if self.current(s, client) == Some(id) {
            s.acked.insert(id);
            s.clients[client].done += 1;
        }
    }

    /// Whether a client that found no stream at `at` may create it there.
    fn may_create(&self, s: &State, at: usize) -> bool {
        let (here, other) = (&s.store[at], &s.store[1 - at]);
        match here.meta {
            // Before the first move there is no other store to look at.
            Open(0) => true,
            Open(_) => {
                let gone = other.log.is_empty() && !matches!(other.meta, Open(_));
                gone || self.mistake == Mistake::CreateWithoutLook
            }
            _ => self.mistake == Mistake::CreateUnguarded,
        }
    }

    fn write(&self, s: &mut State, p: Put) -> bool {
        let (log, slot) = (&mut s.store[p.to].log, p.slot as usize);
        // The mistake: the marker stands beside the log and takes no slot from a late append.
        let beside = self.mistake == Mistake::SealBesideSlots && log.len() == slot + 1 && matches!(log[slot], Out(_));
        let free = log.len() == slot || beside;
        if free {
            log.insert(slot, Own(p.id));
        }
        free
    }
}

fn epoch(m: Meta) -> u8 {
    match m {
        Open(e) | Leaving(e) | Importing(e) | Retired(e) => e,
    }
}

impl Model for Seal {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Client 1 was deployed with the new config and starts cold at the target.
        let clients = (0..self.clients).map(|c| Client { route: (c % 2) as usize, done: 0 }).collect();
        let log = if self.exists { vec![Own(1)] } else { vec![] };
        let store = [Store { meta: Open(0), log }, Store { meta: Importing(1), log: vec![] }];
        let acked = if self.exists { [1].into() } else { BTreeSet::new() };
        let mut s =
            State { store, clients, sent: BTreeSet::new(), checked: BTreeSet::new(), ops: BTreeSet::new(), acked };
        self.learn(&mut s);
        vec![s]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        out.extend((0..self.clients).flat_map(|c| [Action::Try(c), Action::Restart(c)]));
        out.extend(s.sent.iter().flat_map(|p| [Action::Arrive(*p, true), Action::Arrive(*p, false)]));
        out.extend(s.checked.iter().flat_map(|p| [Action::WriteChecked(*p, true), Action::WriteChecked(*p, false)]));
        out.extend(s.ops.iter().map(|o| Action::Do(*o)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Try(c) => {
                let (id, at) = (self.current(&s, c as usize)?, s.clients[c as usize].route);
                let here = &s.store[at];
                let slot = here.log.len() as u8;
                if here.open() && here.has(id) && self.mistake != Mistake::NoIdLookup {
                    self.acked(&mut s, id);
                } else if slot < 7 && (here.open() || (slot == 0 && self.may_create(&s, at))) {
                    let guard = (slot == 0).then_some(epoch(here.meta));
                    s.sent.insert(Put { to: at, slot, id, guard });
                } else {
                    s.clients[c as usize].route = 1 - at;
                }
            }
            Action::Restart(c) => s.clients[c as usize].route = (c % 2) as usize,
            Action::Arrive(p, answered) => {
                let meta = s.store[p.to].meta;
                let refused = match (p.guard, self.mistake) {
                    (None, _) | (_, Mistake::CreateUnguarded) => false,
                    (_, Mistake::CreateIgnoresEpoch) => !matches!(meta, Open(_)),
                    (Some(read), _) => meta != Open(read),
                };
                if p.guard.is_some() && !refused && self.mistake == Mistake::GuardNotAtomic {
                    s.checked.insert(p);
                } else if !refused && self.write(&mut s, p) && answered {
                    self.acked(&mut s, p.id);
                }
            }
            Action::WriteChecked(p, answered) => {
                if self.write(&mut s, p) && answered {
                    self.acked(&mut s, p.id);
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
                let [a, b] = &s.store;
                // With neither open, the sealed source is the longer log.
                let owner = match (a.open(), b.open()) {
                    (true, _) => a,
                    (_, true) => b,
                    _ if a.log.len() >= b.log.len() => a,
                    _ => b,
                };
                s.acked.iter().all(|id| owner.has(*id))
            }),
            Property::always("never open in both", |_, s: &State| !(s.store[0].open() && s.store[1].open())),
            Property::always("no duplicate commit id", |_, s: &State| {
                s.store
                    .iter()
                    .all(|x| are_distinct(x.log.iter().filter(|i| matches!(i, Own(_) | Imported(_))).map(id_of)))
            }),
            Property::always("same slot, same commit", |_, s: &State| {
                s.store[0].log.iter().zip(&s.store[1].log).all(|(a, b)| id_of(a) == id_of(b))
            }),
            // Asked only of the right protocol: a seeded mistake has to show harm to the data.
            Property::always("never both open for new streams", |m: &Seal, s: &State| {
                m.mistake != Mistake::Nothing || !s.store.iter().all(|x| matches!(x.meta, Open(_)))
            }),
            Property::always("nothing is open in a retired store", |_, s: &State| {
                s.store.iter().all(|x| !matches!(x.meta, Retired(_)) || !x.open())
            }),
            Property::sometimes("a hand-over completes", |m, s: &State| {
                s.store[1].open() && s.store[1].log.iter().any(|i| !m.exists || *i == In(1)) && all_done(m, s)
            }),
            Property::sometimes("a move is retired", |m, s: &State| {
                matches!(s.store[0].meta, Retired(1)) && all_done(m, s)
            }),
            Property::sometimes("abort, then success", |m, s: &State| {
                m.max_epoch < 3
                    || (m.exists && s.store[1].log.contains(&In(3)))
                    || (!m.exists && s.store[1].meta == Open(3) && all_done(m, s))
            }),
            Property::sometimes("a rollback completes", |m, s: &State| {
                m.max_epoch < 2 || (s.store[0].log.contains(&In(2)) && s.store[0].open() && all_done(m, s))
            }),
        ]
    }
}

/// What both stores must agree on: the commit id, or that a marker of this epoch is here.
fn id_of(i: &Item) -> u8 {
    match i {
        Own(id) | Imported(id) => *id,
        Out(e) | In(e) => 200 + e,
    }
}

fn all_done(m: &Seal, s: &State) -> bool {
    s.clients.iter().all(|c| c.done == m.commits)
}

fn end(m: &Seal, s: &State) -> bool {
    all_done(m, s) && s.store.iter().filter(|x| x.open()).count() == 1
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    let base = Seal { clients: 2, commits: 1, max_epoch: 2, exists: true, mistake: Nothing };
    let new = Seal { exists: false, ..base };
    let mut rows = Vec::new();
    let mut run = |name: &str, m: Seal, e: Expect| rows.push(report(name, m, e, Some(end)));
    run("right: existing stream, 2 x 1, epoch 1", Seal { max_epoch: 1, ..base }, Expect::Holds);
    run("right: new stream, 2 x 1, epoch 1", Seal { max_epoch: 1, ..new }, Expect::Holds);
    run("right: existing stream, 2 x 1, rollback", base, Expect::Holds);
    run("right: new stream, 2 x 1, rollback", new, Expect::Holds);
    if scopes == Scopes::All {
        run("right: existing stream, 1 x 2, rollback", Seal { clients: 1, commits: 2, ..base }, Expect::Holds);
        run("right: new stream, 1 x 1, epochs to 3", Seal { clients: 1, max_epoch: 3, ..new }, Expect::Holds);
        run("right: new stream, 2 x 1, epochs to 3", Seal { max_epoch: 3, ..new }, Expect::Holds);
        run("right: existing stream, 2 x 1, epochs to 3", Seal { max_epoch: 3, ..base }, Expect::Holds);
    }
    use Mistake::*;
    let mistakes = [
        (NoImportedFlag, base),
        (NoFlagInReverse, base),
        (SealBesideSlots, base),
        (SealIgnoresRecord, base),
        (OpenIncomplete, base),
        (ReopenInPlace, base),
        (CreateWithoutLook, base),
        (CreateUnguarded, new),
        (CreateIgnoresEpoch, new),
        (RetireWhileSealed, base),
        (GuardNotAtomic, new),
        (GuardIgnoresEpoch, new),
        (RollbackRacesRetire, base),
        (NoIdLookup, base),
        (AbortLeavesRecord, base),
    ];
    for (mistake, m) in mistakes {
        run(&format!("mistake: {mistake:?}"), Seal { mistake, ..m }, Expect::Broken);
    }
    // Looking at the other store's record keeps the data safe here; the epochs can still run into a dead end.
    run("mistake: GuardOpenedEarly", Seal { mistake: GuardOpenedEarly, ..new }, Expect::Stuck);
    rows
}
