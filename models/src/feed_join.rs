//! The feed of a mode B target that numbers positions inside its append, above a reserved base.
//!
//! Two streams move one after the other while the source's sequencer still runs. One consumer reads
//! the source's feed, then the target's, under the same positions.

use crate::{Expect, Row, Scopes, report};
use stateright::{Model, Property};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Event {
    stream: usize,
    number: u8,
    /// How many events of the other stream its writer may have read.
    seen: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Home {
    Source,
    Sealed,
    Target,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    home: [Home; 2],
    count: [u8; 2],
    /// Appended in the source, not yet sequenced.
    pending: Vec<Event>,
    /// Positions 1.. in the source.
    source: Vec<Event>,
    /// How many of them the target has: the import frontier.
    copied: usize,
    /// Positions base+1.. in the target.
    own: Vec<Event>,
    /// `Removed{g+1..base}` was written with this g.
    removed: Option<usize>,
    cursor: usize,
    delivered: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    ConsumerJumpsHole,
    RemovedBeforeSealed,
    RemovedBeforeDrained,
    RemovedBeforeCopied,
    BaseTooLow,
    OpenBeforeSequenced,
}

#[derive(Clone, Copy)]
struct Feed {
    each: u8,
    base: usize,
    mistake: Mistake,
    /// Asks for the order of cause, with a sequencer that keeps the order of appends.
    causal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append(usize),
    Sequence(usize),
    Seal(usize),
    OpenIt(usize),
    Copy,
    Remove,
    ReadSource,
    ReadTarget,
}
use Action::*;

impl Feed {
    /// The target's event right after the cursor, with its position.
    fn next(&self, s: &State) -> Option<(usize, Event)> {
        if s.cursor < s.copied {
            return Some((s.cursor + 1, s.source[s.cursor]));
        }
        let through = s.removed == Some(s.cursor) || self.mistake == Mistake::ConsumerJumpsHole;
        let n = match s.cursor.checked_sub(self.base) {
            // A base that is too low makes source positions look like the target's own.
            Some(n) if s.cursor > self.base || s.removed.is_some() => n,
            _ if through => 0,
            _ => return None,
        };
        s.own.get(n).map(|e| (self.base + n + 1, *e))
    }
}

impl Model for Feed {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            home: [Home::Source; 2],
            count: [0; 2],
            pending: vec![],
            source: vec![],
            copied: 0,
            own: vec![],
            removed: None,
            cursor: 0,
            delivered: vec![],
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        out.extend((0..2).flat_map(|i| [Append(i), Seal(i), OpenIt(i)]));
        out.extend((0..s.pending.len()).map(Sequence));
        out.extend([Copy, Remove, ReadSource, ReadTarget]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        let m = self.mistake;
        match action {
            Append(i) if s.count[i] < self.each => {
                s.count[i] += 1;
                let event = Event { stream: i, number: s.count[i], seen: s.count[1 - i] };
                match s.home[i] {
                    Home::Source => s.pending.push(event),
                    Home::Target => s.own.push(event),
                    Home::Sealed => return None,
                }
            }
            // Any order between streams, the stream's own order within one.
            Sequence(n) if self.causal && n > 0 => return None,
            Sequence(n) if !s.pending[..n].iter().any(|e| e.stream == s.pending[n].stream) => {
                let event = s.pending.remove(n);
                s.source.push(event);
            }
            Seal(i) if s.home[i] == Home::Source => s.home[i] = Home::Sealed,
            OpenIt(i) if s.home[i] == Home::Sealed => {
                let behind = s.pending.iter().chain(&s.source[s.copied..]).any(|e| e.stream == i);
                if behind && m != Mistake::OpenBeforeSequenced {
                    return None;
                }
                s.home[i] = Home::Target;
            }
            Copy if s.copied < s.source.len() => s.copied += 1,
            Remove if s.removed.is_none() => {
                let sealed = !s.home.contains(&Home::Source) || m == Mistake::RemovedBeforeSealed;
                let drained = s.pending.is_empty() || m == Mistake::RemovedBeforeDrained;
                let copied = s.copied == s.source.len() || m == Mistake::RemovedBeforeCopied;
                if !(sealed && drained && copied) {
                    return None;
                }
                s.removed = Some(s.copied);
            }
            ReadSource if s.cursor < s.source.len() => {
                s.delivered.push(s.source[s.cursor]);
                s.cursor += 1;
            }
            ReadTarget => {
                let (at, event) = self.next(&s)?;
                s.delivered.push(event);
                s.cursor = at;
            }
            _ => return None,
        }
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("each stream in order, without a gap or a repeat", |_, s: &State| {
                (0..2).all(|i| {
                    s.delivered.iter().filter(|e| e.stream == i).map(|e| e.number).eq(1..=s
                        .delivered
                        .iter()
                        .filter(|e| e.stream == i)
                        .count()
                        as u8)
                })
            }),
            Property::always("no position is used twice", |m: &Feed, s: &State| {
                s.own.is_empty() || s.source.len() <= m.base
            }),
            Property::sometimes("the consumer has everything", |m: &Feed, s: &State| end(m, s)),
        ];
        if self.causal {
            all.push(Property::always("nothing before what its writer had read", |_, s: &State| {
                s.delivered
                    .iter()
                    .enumerate()
                    .all(|(n, e)| s.delivered[..n].iter().filter(|o| o.stream != e.stream).count() >= e.seen as usize)
            }));
        }
        all
    }
}

fn end(m: &Feed, s: &State) -> bool {
    s.delivered.len() == 2 * m.each as usize && s.removed.is_some() && s.home == [Home::Target; 2]
}

/// Runs every check of this model.
#[must_use]
pub fn run(_: Scopes) -> Vec<Row> {
    let base = Feed { each: 2, base: 9, mistake: Nothing, causal: false };
    let mut rows = vec![report("right: 2 streams x 2", base, Expect::Holds, Some(end))];
    rows.push(report("right: 2 streams x 3", Feed { each: 3, ..base }, Expect::Holds, Some(end)));
    rows.push(report("not kept: order of cause over two streams", Feed { causal: true, ..base }, Expect::Broken, None));
    use Mistake::*;
    for (mistake, expect) in [
        (ConsumerJumpsHole, Expect::Broken),
        (RemovedBeforeSealed, Expect::Broken),
        (RemovedBeforeDrained, Expect::Broken),
        (RemovedBeforeCopied, Expect::Broken),
        (OpenBeforeSequenced, Expect::Holds),
    ] {
        let kind = if expect == Expect::Holds { "redundant for the feed" } else { "mistake" };
        rows.push(report(&format!("{kind}: {mistake:?}"), Feed { mistake, ..base }, expect, None));
    }
    rows.push(report("mistake: BaseTooLow", Feed { base: 1, mistake: BaseTooLow, ..base }, Expect::Broken, None));
    rows
}
