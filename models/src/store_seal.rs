//! A store that can check only the stream's next slot per append: its record is closed in two steps, and every stream is sealed by a marker
//! that names the epoch. One record decides, as in `store_fence`.
//!
//! While it is `Leaving`, appends go on in streams that are not sealed yet, and streams are made. `Fenced` closes creation and checkpoints; then
//! the rest is sealed, copied and decided. One stream and one checkpoint are followed; messages are never taken away (see `store_fence`). A writer may know a record
//! that is long out of date: it is checked atomically by creations, checkpoints and copies, never by ordinary appends. Seals look at it before
//! they are sent, however long before they are put, and name the slot that was free when the stream was looked at, however long before that.
//! Both stores are such ones here.

use crate::{Client, Expect, Row, Scopes, are_distinct, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

type Id = u8;
type Epoch = u8;

/// More slots than any scope needs.
const SLOTS: u8 = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Content {
    Commit(Id),
    /// The seal of this epoch.
    Out(Epoch),
}
use Content::*;

/// What stands in a slot; what was copied names the epoch that did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Item {
    content: Content,
    imported: Option<Epoch>,
}

impl Item {
    /// The epoch from which on a record that is open opens the stream behind it; none behind the store's own append.
    fn mark(self) -> Option<Epoch> {
        match (self.content, self.imported) {
            (_, Some(epoch)) | (Out(epoch), None) => Some(epoch),
            (Commit(_), None) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Meta {
    Open(Epoch),
    Leaving(Epoch),
    Fenced(Epoch),
    Moved(Epoch),
    Importing(Epoch),
}
use Meta::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    meta: Meta,
    log: Vec<Item>,
    /// The number of the checkpoint.
    kept: u8,
    /// The epochs in which it was open: a writer may still know any of them.
    opened: BTreeSet<Epoch>,
}

impl Store {
    fn has(&self, id: Id) -> bool {
        self.log.iter().any(|item| item.content == Commit(id))
    }

    fn is_sealed(&self, epoch: Epoch) -> bool {
        self.log.last().is_none_or(|last| last.content == Out(epoch))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    to: usize,
    slot: u8,
    id: Id,
    /// For a creation: the record that the writer read before it looked for the stream.
    guard: Option<Meta>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Op {
    Record { of: usize, was: Meta, to: Meta },
    Seal { of: usize, slot: u8, epoch: Epoch },
    Copy { to: usize, slot: u8, content: Content, epoch: Epoch },
    Carry { to: usize, number: u8, epoch: Epoch },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: [Store; 2],
    clients: Vec<Client>,
    sent: BTreeSet<Put>,
    ops: BTreeSet<Op>,
    acked: BTreeSet<Id>,
    /// The last change of the checkpoint that was acknowledged.
    kept: u8,
    /// Whether an append landed in a store that its record had closed for good or was filling.
    astray: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    /// A record that is open opens every stream, whatever marks it.
    MarkIgnored,
    /// What was copied opens with any record that is open.
    CopiesUnmarked,
    /// A seal of an earlier attempt is as good.
    OldSealCounts,
    /// A seal takes whatever slot is free when it is put.
    SealTakesAnySlot,
    /// It is decided before checkpoints are closed.
    DecidesWhileLeaving,
    /// It is decided on what was carried before they were closed.
    CarriesEarly,
    /// A writer that meets a seal takes the record that it knows for the present one.
    SealKeepsOldRecord,
    /// It is decided once the other store holds as much, sealed or not.
    DecidesUnsealed,
    /// It is decided once it is sealed, whatever the other store holds.
    DecidesIncomplete,
    /// Creations look at the record apart.
    CreatesUnguarded,
    /// Giving up goes back to the epoch before.
    AbortsToTheSameEpoch,
    /// Copies are taken in any epoch.
    CopiesOfAnyEpoch,
    /// A repeat is not looked up.
    NoIdLookup,
}
use Mistake::*;

#[derive(Clone, Copy)]
struct Seals {
    clients: u8,
    commits: u8,
    max_epoch: Epoch,
    exists: bool,
    /// Changes of the checkpoint.
    keeps: u8,
    mistake: Mistake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Try(u8, Epoch),
    /// A checkpoint is changed in one step with a look at the record.
    Keep(usize),
    Flip(u8),
    Arrive(Put, bool),
    Do(Op),
}

impl Seals {
    fn learn(&self, s: &mut State) {
        let mut ops = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let (a, b) = (&s.store[from], &s.store[to]);
            let record = |of, was, to| Op::Record { of, was, to };
            match (a.meta, b.meta) {
                // The way back, and forth again.
                (Open(e), Moved(f)) if f <= e && e < self.max_epoch => ops.push(record(to, b.meta, Importing(e + 1))),
                // Given up, and begun again.
                (Open(e), Importing(f)) if f < e && e < self.max_epoch => {
                    ops.push(record(to, b.meta, Importing(e + 1)));
                }
                (Open(e), Importing(f)) if f == e + 1 => {
                    ops.push(record(from, a.meta, Leaving(f)));
                    if f < self.max_epoch {
                        ops.push(record(from, a.meta, Open(f + 1)));
                    }
                }
                (Leaving(e) | Fenced(e), Importing(f)) if e == f => {
                    let slot = a.log.len() as u8;
                    let is_fenced = matches!(a.meta, Fenced(_)) || self.mistake == DecidesWhileLeaving;
                    let is_sealed = match self.mistake {
                        OldSealCounts => a.log.last().is_none_or(|last| matches!(last.content, Out(_))),
                        DecidesUnsealed => true,
                        _ => a.is_sealed(e),
                    };
                    if !is_sealed && slot < SLOTS {
                        ops.push(Op::Seal { of: from, slot, epoch: e });
                    }
                    let is_copied = a.log.len() == b.log.len() || self.mistake == DecidesIncomplete;
                    let is_carried = a.kept == b.kept || self.mistake == CarriesEarly;
                    if is_fenced && is_sealed && is_copied && is_carried {
                        ops.push(record(from, a.meta, Moved(e)));
                    }
                    if let Leaving(_) = a.meta {
                        ops.push(record(from, a.meta, Fenced(e)));
                    }
                    if self.mistake == AbortsToTheSameEpoch {
                        ops.push(record(from, a.meta, Open(e - 1)));
                    } else if e < self.max_epoch {
                        ops.push(record(from, a.meta, Open(e + 1)));
                    }
                }
                (Moved(e), Importing(f)) if e == f => ops.push(record(to, b.meta, Open(f))),
                _ => {}
            }
            if let Importing(epoch) = b.meta
                && let Some(item) = a.log.get(b.log.len())
            {
                ops.push(Op::Copy { to, slot: b.log.len() as u8, content: item.content, epoch });
            }
            if let Importing(epoch) = b.meta
                && a.kept > b.kept
            {
                ops.push(Op::Carry { to, number: a.kept, epoch });
            }
        }
        s.ops.extend(ops);
    }

    fn perform(&self, s: &mut State, op: Op) {
        match op {
            Op::Record { of, was, to } => {
                let store = &mut s.store[of];
                if store.meta == was {
                    store.meta = to;
                    if let Open(epoch) = to {
                        store.opened.insert(epoch);
                    }
                }
            }
            // The slot is free; the record may say anything by then.
            Op::Seal { of, slot, epoch } => {
                let store = &mut s.store[of];
                let is_free = store.log.len() == usize::from(slot);
                if is_free || (self.mistake == SealTakesAnySlot && store.log.len() < usize::from(SLOTS)) {
                    store.log.push(Item { content: Out(epoch), imported: None });
                }
            }
            Op::Copy { to, slot, content, epoch } => {
                let store = &mut s.store[to];
                let holds = match self.mistake {
                    CopiesOfAnyEpoch => matches!(store.meta, Importing(_)),
                    _ => store.meta == Importing(epoch),
                };
                if holds && store.log.len() == usize::from(slot) {
                    store.log.push(Item { content, imported: Some(epoch) });
                }
            }
            Op::Carry { to, number, epoch } => {
                let store = &mut s.store[to];
                if store.meta == Importing(epoch) {
                    store.kept = store.kept.max(number);
                }
            }
        }
    }

    fn current(&self, s: &State, client: usize) -> Option<Id> {
        let c = &s.clients[client];
        (c.done < self.commits).then_some(10 * (client as u8 + 1) + c.done)
    }

    fn acked(&self, s: &mut State, id: Id) {
        let client = usize::from(id / 10 - 1);
        if self.current(s, client) == Some(id) {
            s.acked.insert(id);
            s.clients[client].done += 1;
        }
    }

    /// Whether a writer that knows the record as open in this epoch takes the stream for open.
    fn takes(&self, last: Item, known: Epoch) -> bool {
        match (last.mark(), self.mistake) {
            (None, _) | (_, MarkIgnored) => true,
            (Some(_), CopiesUnmarked) if last.imported.is_some() => true,
            (Some(_), SealKeepsOldRecord) if last.imported.is_none() => true,
            (Some(mark), _) => mark <= known,
        }
    }
}

impl Model for Seals {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let clients = (0..self.clients).map(|c| Client { route: usize::from(c % 2), done: 0 }).collect();
        let log = if self.exists { vec![Item { content: Commit(1), imported: None }] } else { vec![] };
        let acked = if self.exists { [1].into() } else { BTreeSet::new() };
        let source = Store { meta: Open(0), log, kept: 0, opened: [0].into() };
        let target = Store { meta: Importing(1), log: vec![], kept: 0, opened: BTreeSet::new() };
        let mut s = State {
            store: [source, target],
            clients,
            sent: BTreeSet::new(),
            ops: BTreeSet::new(),
            acked,
            kept: 0,
            astray: false,
        };
        self.learn(&mut s);
        vec![s]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        for c in 0..self.clients {
            out.push(Action::Flip(c));
            let at = s.clients[usize::from(c)].route;
            out.extend(s.store[at].opened.iter().map(|known| Action::Try(c, *known)));
        }
        out.extend([Action::Keep(0), Action::Keep(1)]);
        out.extend(s.sent.iter().flat_map(|p| [Action::Arrive(*p, true), Action::Arrive(*p, false)]));
        out.extend(s.ops.iter().map(|o| Action::Do(*o)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Try(c, known) => {
                let id = self.current(&s, usize::from(c))?;
                let at = s.clients[usize::from(c)].route;
                let here = &s.store[at];
                let slot = here.log.len() as u8;
                if here.has(id) && self.mistake != NoIdLookup {
                    self.acked(&mut s, id);
                } else if let Some(last) = here.log.last() {
                    if slot < SLOTS && self.takes(*last, known) {
                        s.sent.insert(Put { to: at, slot, id, guard: None });
                    }
                } else if matches!(here.meta, Open(_) | Leaving(_)) || self.mistake == CreatesUnguarded {
                    s.sent.insert(Put { to: at, slot, id, guard: Some(here.meta) });
                }
            }
            Action::Keep(at) => {
                let store = &mut s.store[at];
                if !matches!(store.meta, Open(_) | Leaving(_)) || store.kept >= self.keeps {
                    return None;
                }
                store.kept += 1;
                s.kept = s.kept.max(store.kept);
            }
            Action::Flip(c) => s.clients[usize::from(c)].route = 1 - s.clients[usize::from(c)].route,
            Action::Arrive(p, answered) => {
                let store = &mut s.store[p.to];
                let refused = p.guard.is_some_and(|read| store.meta != read) && self.mistake != CreatesUnguarded;
                if !refused && store.log.len() == usize::from(p.slot) {
                    store.log.push(Item { content: Commit(p.id), imported: None });
                    s.astray |= matches!(store.meta, Moved(_) | Importing(_));
                    if answered {
                        self.acked(&mut s, p.id);
                    }
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
                s.acked.iter().all(|id| s.store[owner(s)].has(*id))
            }),
            Property::always("an acked checkpoint is in the owner", |_, s: &State| s.store[owner(s)].kept == s.kept),
            Property::always("never both open", |_, s: &State| {
                !s.store.iter().all(|x| matches!(x.meta, Open(_) | Leaving(_) | Fenced(_)))
            }),
            Property::always("no append lands in a store that was left or is filled", |_, s: &State| !s.astray),
            Property::always("no duplicate commit id", |_, s: &State| {
                s.store.iter().all(|x| {
                    are_distinct(x.log.iter().map(|item| item.content).filter(|content| matches!(content, Commit(_))))
                })
            }),
            Property::always("same slot, same commit", |_, s: &State| {
                s.store[0].log.iter().zip(&s.store[1].log).all(|(a, b)| a.content == b.content)
            }),
            // So that a stream which was seen sealed need not be looked at again.
            Property::always("nothing stands behind the seal of a closed store's epoch", |_, s: &State| {
                s.store.iter().all(|x| match x.meta {
                    Leaving(e) | Fenced(e) => {
                        let seal = Item { content: Out(e), imported: None };
                        x.log.iter().rev().skip(1).all(|item| *item != seal)
                    }
                    Open(_) | Moved(_) | Importing(_) => true,
                })
            }),
            Property::sometimes("a hand-over completes", |m, s: &State| {
                matches!(s.store[1].meta, Open(_))
                    && all_done(m, s)
                    && s.store[1].log.last().is_some_and(|last| last.mark().is_none())
            }),
            Property::sometimes("given up, then appended to again", |m, s: &State| {
                m.max_epoch < 2
                    || (s.store[0].meta == Open(2) && s.store[0].log.last().is_some_and(|last| last.mark().is_none()))
            }),
            Property::sometimes("a way back completes", |m, s: &State| {
                m.max_epoch < 2 || (s.store[0].meta == Open(2) && matches!(s.store[1].meta, Moved(2)))
            }),
        ]
    }
}

/// The store that owns the streams.
fn owner(s: &State) -> usize {
    match (s.store[0].meta, s.store[1].meta) {
        (Open(_) | Leaving(_) | Fenced(_), _) => 0,
        // Decided: whoever is filled in that epoch.
        (Moved(_), _) | (_, Open(_) | Leaving(_) | Fenced(_)) => match s.store[1].meta {
            Moved(_) => 0,
            _ => 1,
        },
        (_, _) => 0,
    }
}

fn all_done(m: &Seals, s: &State) -> bool {
    s.clients.iter().all(|c| c.done == m.commits)
}

fn end(m: &Seals, s: &State) -> bool {
    all_done(m, s) && s.store.iter().any(|x| matches!(x.meta, Open(_)))
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    let base = Seals { clients: 2, commits: 1, max_epoch: 2, exists: true, keeps: 0, mistake: Nothing };
    let new = Seals { exists: false, ..base };
    let (small, small_new) = (Seals { clients: 1, ..base }, Seals { clients: 1, ..new });
    let kept = Seals { keeps: 2, ..small_new };
    let mut rows = Vec::new();
    let mut run = |name: &str, m: Seals, e: Expect| rows.push(report(name, m, e, Some(end)));
    run("right: existing stream, 2 x 1, epoch 1", Seals { max_epoch: 1, ..base }, Expect::Holds);
    run("right: new stream, 2 x 1, epoch 1", Seals { max_epoch: 1, ..new }, Expect::Holds);
    run("right: existing stream, 1 x 1, rollback", small, Expect::Holds);
    run("right: new stream, 1 x 1, rollback", small_new, Expect::Holds);
    run("right: new stream and a checkpoint, 1 x 1, epoch 1", Seals { max_epoch: 1, ..kept }, Expect::Holds);
    if scopes == Scopes::All {
        run("right: existing stream, 2 x 1, rollback", base, Expect::Holds);
        run("right: new stream, 2 x 1, rollback", new, Expect::Holds);
        run("right: existing stream, 1 x 2, rollback", Seals { commits: 2, ..small }, Expect::Holds);
        run("right: existing stream, 1 x 1, epochs to 3", Seals { max_epoch: 3, ..small }, Expect::Holds);
        run("right: new stream, 1 x 1, epochs to 3", Seals { max_epoch: 3, ..small_new }, Expect::Holds);
        run("right: new stream and a checkpoint, 1 x 1, rollback", kept, Expect::Holds);
    }
    let mistakes = [
        (MarkIgnored, small),
        (CopiesUnmarked, small),
        (OldSealCounts, small),
        (SealKeepsOldRecord, small),
        (DecidesUnsealed, small),
        (DecidesIncomplete, small),
        (DecidesWhileLeaving, Seals { max_epoch: 1, ..kept }),
        (CarriesEarly, Seals { max_epoch: 1, ..kept }),
        (CreatesUnguarded, small_new),
        (AbortsToTheSameEpoch, small_new),
        (NoIdLookup, small),
        (SealTakesAnySlot, small),
    ];
    for (mistake, m) in mistakes {
        run(&format!("mistake: {mistake:?}"), Seals { mistake, ..m }, Expect::Broken);
    }
    // The slot and the mark of the epoch are enough; the epoch is checked all the same, and finds foreign writes.
    let widest = if scopes == Scopes::All { Seals { max_epoch: 3, ..small } } else { small };
    let mistake = CopiesOfAnyEpoch;
    run(&format!("redundant: {mistake:?}"), Seals { mistake, ..widest }, Expect::Holds);
    rows
}
