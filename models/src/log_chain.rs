//! The log of a DynamoDB store whose appends take their positions themselves: a chain of records, each put at the key behind the last
//! one, in the transaction that also takes a slot of a stream; barriers that carry a fence; claims for those who keep losing.
//!
//! While the store is closed it is filled by a copier, which puts records too. Writers share one stream. Requests are never removed: each may be carried out late, again or never, and its answer may be lost.

use crate::{Expect, Row, Scopes, report};
use stateright::{Model, Property};
use std::collections::BTreeSet;

/// The store's record: how often it was changed, and whether the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Meta {
    token: u8,
    open: bool,
}

/// What stands at the key behind the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Barrier {
    token: u8,
    claim: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tail {
    end: usize,
    token: u8,
    claim: Option<usize>,
}

/// What a writer knows, read at different times.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Writer {
    tail: Option<Tail>,
    meta: Option<Meta>,
    head: Option<usize>,
    /// The commit that it wants, and how many it has had acknowledged.
    wants: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Append { writer: usize, commit: u8, key: usize, token: u8, slot: usize, outwaits: Option<usize> },
    Claim { writer: usize, key: usize, token: u8 },
    Swap { key: usize, token: u8, open: bool },
    Copy { key: usize, token: u8 },
}

/// Who is said to have written what was copied.
const COPIER: usize = usize::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    meta: Meta,
    /// The token of each record, by its key from 1.
    log: Vec<u8>,
    barrier: Option<Barrier>,
    /// Who wrote each slot, and what.
    stream: Vec<(usize, u8)>,
    writers: Vec<Writer>,
    sent: BTreeSet<Request>,
    landed_behind_the_fence: bool,
    has_gap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    /// A writer takes a new end of the log together with an old record.
    TokenNotCompared,
    /// The condition of an append lets any barrier be replaced.
    BarrierNotCompared,
    /// The record is changed first, and its barrier put afterwards.
    BarrierApart,
    /// A claim takes the place of a barrier whatever that says.
    ClaimForgetsToken,
    /// After a lost answer a writer takes its record for written.
    EndIsGuessed,
    /// Whoever finds no slot taken goes by the head that it knew, and looks up no id.
    IdIsNotLookedUp,
}

#[derive(Clone, Copy)]
struct Chain {
    writers: usize,
    commits: u8,
    /// Changes of the record: a fence, its abort, another fence, and so on.
    changes: u8,
    claims: bool,
    /// Whether a closed store is filled.
    copies: bool,
    /// Requests of one writer, or of those who change the record, that may be on their way: one that is late, and one that is new.
    on_the_way: usize,
    mistake: Mistake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    ReadTail(usize),
    ReadMeta(usize),
    ReadStream(usize),
    Send(usize),
    Claim(usize),
    Guess(usize),
    Swap,
    PutBarrier,
    Copy,
    /// A request is carried out, and answered.
    Answer(Request),
    /// A request is carried out, and its answer lost.
    Lose(Request),
}
use Action::*;

impl Chain {
    fn tail(s: &State) -> Tail {
        let end = s.log.len();
        match s.barrier {
            Some(Barrier { token, claim }) => Tail { end, token, claim },
            None => Tail { end, token: s.log.last().copied().unwrap_or(0), claim: None },
        }
    }

    /// Whether a request may put something at a key, of what stands there.
    fn is_free(&self, s: &State, key: usize, token: u8, writer: usize, outwaits: Option<usize>) -> bool {
        if key <= s.log.len() {
            return false;
        }
        match s.barrier {
            Some(barrier) if key == s.log.len() + 1 => {
                let read = barrier.token == token || self.mistake == Mistake::BarrierNotCompared;
                read && barrier.claim.is_none_or(|owner| owner == writer || Some(owner) == outwaits)
            }
            Some(_) | None => true,
        }
    }

    /// Forgets what can never be carried out any more: its key is taken, or the record has changed.
    fn forget(&self, s: &mut State) {
        let (end, token, barrier) = (s.log.len(), s.meta.token, s.barrier);
        // Barriers only give way to newer ones, and to the record that their key is for.
        let is_late = |key: usize, token: u8| {
            self.mistake == Mistake::Nothing && key == end + 1 && barrier.is_some_and(|barrier| barrier.token > token)
        };
        s.sent.retain(|request| match request {
            Request::Append { key, token, .. } | Request::Claim { key, token, .. } | Request::Copy { key, token } => {
                *key > end && !is_late(*key, *token)
            }
            Request::Swap { key, token: expected, .. } => *key > end && *expected == token,
        });
    }

    /// Carries a request out. Whether it was done.
    fn execute(&self, s: &mut State, request: Request) -> bool {
        match request {
            Request::Append { writer, commit, key, token, slot, outwaits } => {
                if !self.is_free(s, key, token, writer, outwaits) || slot <= s.stream.len() {
                    return false;
                }
                s.has_gap |= key > s.log.len() + 1 || slot > s.stream.len() + 1;
                s.landed_behind_the_fence |= !s.meta.open;
                s.log.push(token);
                s.stream.push((writer, commit));
                s.barrier = None;
                true
            }
            Request::Claim { writer, key, token } => {
                let forgets = self.mistake == Mistake::ClaimForgetsToken;
                if key != s.log.len() + 1 || !(forgets || self.is_free(s, key, token, writer, None)) {
                    return false;
                }
                s.barrier = Some(Barrier { token, claim: Some(writer) });
                true
            }
            Request::Copy { key, token } => {
                if !self.is_free(s, key, token, COPIER, None) || key <= s.stream.len() {
                    return false;
                }
                s.landed_behind_the_fence |= s.meta.open;
                s.log.push(token);
                s.stream.push((COPIER, key as u8));
                s.barrier = None;
                true
            }
            Request::Swap { key, token, open } => {
                if s.meta.token != token || key != s.log.len() + 1 {
                    return false;
                }
                s.meta = Meta { token: token + 1, open };
                if self.mistake != Mistake::BarrierApart {
                    s.barrier = Some(Barrier { token: token + 1, claim: None });
                }
                true
            }
        }
    }
}

/// Whose a request is.
fn sender(request: &Request) -> Option<usize> {
    match request {
        Request::Append { writer, .. } | Request::Claim { writer, .. } => Some(*writer),
        Request::Swap { .. } => None,
        Request::Copy { .. } => Some(COPIER),
    }
}

/// Sends a request, where not too many are on their way that could still be carried out.
fn send(s: &mut State, request: Request, on_the_way: usize) -> Option<()> {
    if s.sent.iter().filter(|one| sender(one) == sender(&request)).count() >= on_the_way {
        return None;
    }
    s.sent.insert(request).then_some(())
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let writer = Writer { tail: None, meta: None, head: None, wants: 0 };
        vec![State {
            meta: Meta { token: 0, open: true },
            log: Vec::new(),
            barrier: Some(Barrier { token: 0, claim: None }),
            stream: Vec::new(),
            writers: vec![writer; self.writers],
            sent: BTreeSet::new(),
            landed_behind_the_fence: false,
            has_gap: false,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        for w in 0..self.writers {
            out.extend([ReadTail(w), ReadMeta(w), ReadStream(w), Send(w)]);
            if self.claims {
                out.push(Claim(w));
            }
            if self.mistake == Mistake::EndIsGuessed {
                out.push(Guess(w));
            }
        }
        out.extend([Swap, Copy]);
        if self.mistake == Mistake::BarrierApart {
            out.push(PutBarrier);
        }
        out.extend(s.sent.iter().flat_map(|request| [Answer(*request), Lose(*request)]));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            ReadTail(w) => s.writers[w].tail = Some(Self::tail(&s)),
            ReadMeta(w) => s.writers[w].meta = Some(s.meta),
            ReadStream(w) => {
                s.writers[w].head = Some(s.stream.len());
                // A commit that is there already is found by its id, and acknowledged.
                if self.mistake != Mistake::IdIsNotLookedUp && s.stream.contains(&(w, s.writers[w].wants)) {
                    s.writers[w].wants += 1;
                }
            }
            Send(w) => {
                let Writer { tail, meta, head, wants } = s.writers[w].clone();
                let (tail, meta, head) = (tail?, meta?, head?);
                let agree = tail.token == meta.token || self.mistake == Mistake::TokenNotCompared;
                if !agree || !meta.open || wants >= self.commits {
                    return None;
                }
                let (key, slot, outwaits) = (tail.end + 1, head + 1, tail.claim);
                send(
                    &mut s,
                    Request::Append { writer: w, commit: wants, key, token: meta.token, slot, outwaits },
                    self.on_the_way,
                )?;
            }
            Claim(w) => {
                let (tail, meta) = (s.writers[w].tail?, s.writers[w].meta?);
                let agree = tail.token == meta.token || self.mistake == Mistake::ClaimForgetsToken;
                if !agree || s.writers[w].wants >= self.commits {
                    return None;
                }
                send(&mut s, Request::Claim { writer: w, key: tail.end + 1, token: meta.token }, self.on_the_way)?;
            }
            Guess(w) => {
                let tail = s.writers[w].tail?;
                let sent = |one: &Request| matches!(one, Request::Append { writer, key, .. } if *writer == w && *key == tail.end + 1);
                if !s.sent.iter().any(sent) {
                    return None;
                }
                s.writers[w].tail = Some(Tail { end: tail.end + 1, claim: None, ..tail });
                s.writers[w].head = s.writers[w].head.map(|head| head + 1);
                s.writers[w].wants += 1;
            }
            Swap => {
                if s.meta.token >= self.changes {
                    return None;
                }
                let swap = Request::Swap { key: s.log.len() + 1, token: s.meta.token, open: !s.meta.open };
                send(&mut s, swap, self.on_the_way)?;
            }
            Copy => {
                let copied = s.stream.iter().any(|(writer, _)| *writer == COPIER);
                if s.meta.open || copied || !self.copies {
                    return None;
                }
                let (key, token) = (s.log.len() + 1, s.meta.token);
                send(&mut s, Request::Copy { key, token }, self.on_the_way)?;
            }
            PutBarrier => s.barrier = Some(Barrier { token: s.meta.token, claim: None }),
            Answer(request) | Lose(request) => {
                let done = self.execute(&mut s, request);
                if !done {
                    return None;
                }
                if let (Answer(_), Request::Append { writer, commit, key, token, slot, .. }) = (action, request) {
                    // The answer comes while its writer still waits for it.
                    let waits = &mut s.writers[writer];
                    if waits.wants == commit {
                        waits.wants += 1;
                        waits.tail = Some(Tail { end: key, token, claim: None });
                        waits.head = Some(slot);
                    }
                }
            }
        }
        self.forget(&mut s);
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no append lands behind the fence, and no copy before it", |_, s: &State| {
                !s.landed_behind_the_fence
            }),
            Property::always("the log and the stream have no gap", |_, s: &State| !s.has_gap),
            Property::always("no commit stands twice", |_, s: &State| {
                let distinct: BTreeSet<_> = s.stream.iter().collect();
                distinct.len() == s.stream.len()
            }),
            Property::always("each record has its commit", |_, s: &State| s.log.len() == s.stream.len()),
            Property::sometimes("everything is acknowledged", |m: &Chain, s: &State| end(m, s)),
        ]
    }
}

fn end(m: &Chain, s: &State) -> bool {
    s.writers.iter().all(|writer| writer.wants >= m.commits)
}

/// Runs every check of this model.
#[must_use]
pub fn run(scopes: Scopes) -> Vec<Row> {
    use Mistake::*;
    let base =
        Chain { writers: 2, commits: 1, changes: 1, claims: true, copies: true, on_the_way: 1, mistake: Nothing };
    let plain = Chain { claims: false, on_the_way: 2, ..base };
    let twice = Chain { commits: 2, changes: 0, ..plain };
    let mut rows = vec![
        report("right: 2 writers x 1, fence and abort", Chain { changes: 2, ..plain }, Expect::Holds, Some(end)),
        report("right: 2 writers x 1, fence, claims", base, Expect::Holds, None),
        report("right: 2 writers x 2", twice, Expect::Holds, Some(end)),
    ];
    if scopes == Scopes::All {
        let abort = Chain { changes: 2, on_the_way: 2, ..base };
        // Safety alone: with two requests at most a writer may have none left to outwait a claim with, as it never has in life.
        rows.push(report("right: 2 writers x 1, fence and abort, claims", abort, Expect::Holds, None));
        rows.push(report("right: 2 writers x 2, fence", Chain { changes: 1, ..twice }, Expect::Holds, None));
    }
    for (mistake, scope) in [
        (TokenNotCompared, base),
        (BarrierNotCompared, base),
        (BarrierApart, base),
        (ClaimForgetsToken, base),
        (EndIsGuessed, twice),
        (IdIsNotLookedUp, twice),
    ] {
        rows.push(report(&format!("mistake: {mistake:?}"), Chain { mistake, ..scope }, Expect::Broken, None));
    }
    rows
}
