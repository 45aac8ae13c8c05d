//! Explicit-state models of live migration, and of a log that several processes write: every order of events of a small world, with
//! requests and writes that come late, again or never. What the engine in `migrate` does, and why each rule is needed, is decided here first; `RULES.md` has the findings.
//!
//! `cargo run --release -p evstore-models` prints a row for each check; `-- --all` adds the largest scopes, `-- --trace` the shortest
//! trace of each violation.

pub mod feed_join;
pub mod histories;
pub mod log_chain;
pub mod log_sequencer;
pub mod store_fence;
pub mod store_seal;
pub mod stream_seal;

use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::{Duration, Instant};

/// Somebody who appends, in the models of a move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    /// The store that it takes for the owner.
    route: usize,
    /// Commits that it was acknowledged.
    done: u8,
}

/// Whether none stands twice.
fn are_distinct<T: Eq + Hash>(mut ids: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    ids.all(|id| seen.insert(id))
}

/// What a run has to show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expect {
    /// Every invariant holds and every goal is reachable.
    Holds,
    /// Some invariant is broken: the model has teeth for this mistake.
    Broken,
    /// Every invariant holds, but some state can no longer reach the end.
    Stuck,
}

/// Which scopes to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scopes {
    /// Those that take seconds: on every change.
    Quick,
    /// The largest too: minutes.
    All,
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Row {
    /// The model and its scope, or its mistake.
    pub name: String,
    /// What it had to show.
    pub expect: Expect,
    /// What it showed.
    pub found: Expect,
    /// How many states there are.
    pub states: usize,
    /// In words.
    pub verdict: String,
    /// The shortest way to a violation.
    pub trace: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.found == self.expect { "" } else { "   <-- NOT AS EXPECTED" };
        let Self { name, states, verdict, took, .. } = self;
        write!(f, "{name:<58} {states:>9} states  {verdict}  ({:.1}s){mark}", took.as_secs_f32())
    }
}

/// Checks `model`. `end` says where every behaviour must still be able to arrive; with `None` only invariants and reachability
/// are checked.
pub fn report<M>(name: &str, model: M, expect: Expect, end: Option<fn(&M, &M::State) -> bool>) -> Row
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + fmt::Debug + Eq + Hash + Send + Sync,
    M::Action: Clone + fmt::Debug + Eq,
{
    let start = Instant::now();
    let kinds: HashMap<_, _> = model.properties().into_iter().map(|p| (p.name, p.expectation)).collect();
    let checker = model.clone().checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let broken: Vec<_> = found.iter().filter(|(n, _)| kinds[*n] == Expectation::Always).collect();
    let missing: Vec<_> = kinds
        .iter()
        .filter(|(n, k)| **k == Expectation::Sometimes && !found.contains_key(*n))
        .map(|(n, _)| *n)
        .collect();
    let stuck = match end {
        Some(end) if broken.is_empty() => dead_ends(&model, end),
        _ => 0,
    };
    let got = match (broken.is_empty(), missing.is_empty() && stuck == 0) {
        (false, _) => Expect::Broken,
        (true, false) => Expect::Stuck,
        (true, true) => Expect::Holds,
    };
    let steps = |path: &stateright::Path<M::State, M::Action>| path.clone().into_actions().len();
    // The checker keeps the last trace of a block of states, not the shortest: search again, by depth.
    let within = |depth| {
        let found = model.clone().checker().target_max_depth(depth).spawn_bfs().join().discoveries();
        found.into_iter().filter(|(n, _)| kinds[n] == Expectation::Always).min_by_key(|(n, path)| (steps(path), *n))
    };
    let mut shortest = None;
    if let Some(longest) = broken.iter().map(|(_, path)| steps(path)).max() {
        let (mut low, mut high) = (1, longest + 2);
        while low <= high {
            let depth = low.midpoint(high);
            match within(depth) {
                Some(found) => (shortest, high) = (Some(found), depth - 1),
                None => low = depth + 1,
            }
        }
    }
    let verdict = match &shortest {
        Some((n, path)) => format!("BROKEN: {n}, {} steps", steps(path)),
        None if got == Expect::Stuck => {
            format!("stuck: {stuck} dead ends, never reached {missing:?}")
        }
        None => "holds".into(),
    };
    let trace = shortest.map(|(_, path)| path.into_actions().iter().map(|one| format!("{one:?}")).collect());
    Row {
        name: name.to_owned(),
        expect,
        found: got,
        states: checker.unique_state_count(),
        verdict,
        trace: trace.unwrap_or_default(),
        took: start.elapsed(),
    }
}

/// Number of reachable states from which no state satisfying `end` can be reached.
fn dead_ends<M>(model: &M, end: fn(&M, &M::State) -> bool) -> usize
where
    M: Model,
    M::State: Clone + Eq + Hash,
{
    let mut index: HashMap<u64, u32> = HashMap::new();
    let (mut todo, mut back, mut good) = (Vec::new(), Vec::<Vec<u32>>::new(), Vec::new());
    let key = |s: &M::State| BuildHasherDefault::<DefaultHasher>::default().hash_one(s);
    for s in model.init_states() {
        index.insert(key(&s), back.len() as u32);
        back.push(Vec::new());
        todo.push(s);
    }
    while let Some(s) = todo.pop() {
        let at = index[&key(&s)];
        if end(model, &s) {
            good.push(at);
        }
        let mut actions = Vec::new();
        model.actions(&s, &mut actions);
        for n in actions.into_iter().filter_map(|a| model.next_state(&s, a)) {
            let to = *index.entry(key(&n)).or_insert_with(|| {
                back.push(Vec::new());
                todo.push(n);
                back.len() as u32 - 1
            });
            back[to as usize].push(at);
        }
    }
    let mut reaches = vec![false; back.len()];
    while let Some(i) = good.pop() {
        if !std::mem::replace(&mut reaches[i as usize], true) {
            good.extend(&back[i as usize]);
        }
    }
    reaches.iter().filter(|r| !**r).count()
}
