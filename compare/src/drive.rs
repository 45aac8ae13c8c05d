//! Drives a stage with so many callers for so long: in a closed loop, where each goes on when it is answered, or in an open one, where
//! operations begin at a rate whatever becomes of those before.

use crate::check::{ACKNOWLEDGED_MAX, Watcher};
use crate::operation::Caller;
use crate::stage::{CALL_MAX, Stage};
use crate::tally::Tally;
use evstore_api::{Append, CommitId, Deadline, Error, ErrorKind, Expected, NewCommit, Result, Revision};
use evstore_conformance::seed::Seed;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long after the end of a round operations that are late may still begin; those that are later are told as not begun.
const LATE_MAX: Duration = Duration::from_secs(2);
/// Operations after which a caller lets others run, where there are others: a store that never waits would keep the thread for itself.
const TURNS: u64 = 64;

/// What one round of a cell came to.
#[derive(Clone, Debug)]
pub struct Driven {
    /// What was counted.
    pub tally: Tally,
    /// From the beginning to the last answer.
    pub seconds: f64,
}

/// Drives it.
///
/// # Errors
/// When callers do not end, or the feed can't be followed. Errors of operations are counted, not given.
pub async fn drive(stage: &Arc<Stage>, callers: u32, time: Duration, seed: u64) -> Result<Driven> {
    let watcher = match stage.workload.check {
        true => Some(Watcher::start(stage).await?),
        false => None,
    };
    let mut seed = Seed(seed);
    let start = Instant::now();
    let until = start + time;
    let pace = stage.workload.rate.map(|rate| Pace::start(rate, start, until, callers as usize));
    let mut tasks = JoinSet::new();
    for number in 0..callers as usize {
        let caller = Caller::new(stage, number, callers as usize, seed.fork());
        let pace = pace.as_ref().map(|pace| pace.shared.clone());
        tasks.spawn(work(caller, stage.clone(), Round { callers, start, until, pace }));
    }
    let ended = tokio::time::timeout(time + LATE_MAX + CALL_MAX * 3, tasks.join_all()).await;
    let tallies = ended.map_err(|_| Error::new(ErrorKind::DeadlineExceeded, "callers did not end in time"))?;
    let mut tally = Tally::default();
    let mut last = start;
    for (one, end) in tallies {
        tally.merge(one);
        last = last.max(end);
    }
    if let Some(left) = pace.map(|pace| pace.not_begun(until)).filter(|left| *left > 0) {
        *tally.errors.entry("not_begun").or_default() += left;
    }
    if let Some(watcher) = watcher {
        tally.kept.feed = watcher.end(&tally.kept.acknowledged, &stage.streams).await?;
    }
    let seconds = last.saturating_duration_since(start).as_secs_f64().max(f64::EPSILON);
    Ok(Driven { tally, seconds })
}

/// Makes the calls of a workload that only appends, and does nothing else: the least that an application does which makes them. What
/// [`drive`] takes longer is what the measuring costs.
///
/// # Errors
/// As the store's.
pub async fn call(stage: &Arc<Stage>, callers: u32, time: Duration, seed: u64) -> Result<Driven> {
    let mut seed = Seed(seed);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..callers as usize {
        tasks.spawn(appends(stage.clone(), number, callers as usize, seed.fork(), start + time));
    }
    let mut tally = Tally::default();
    for done in tasks.join_all().await {
        tally.done += done?;
    }
    Ok(Driven { tally, seconds: start.elapsed().as_secs_f64().max(f64::EPSILON) })
}

/// One caller's appends; gives how many.
async fn appends(stage: Arc<Stage>, number: usize, callers: usize, mut seed: Seed, until: Instant) -> Result<u64> {
    let store = stage.scratch.nodes[number % stage.scratch.nodes.len()].clone();
    let first = number % stage.streams.len();
    let mut heads = vec![Revision(0); stage.streams.len()];
    let (mut stream, mut done) = (first, 0_u64);
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(done);
        }
        let commit = NewCommit { id: CommitId(seed.bytes()), events: seed.pick(&stage.commits).clone() };
        let (name, expected) = (stage.streams[stream].clone(), Expected::At(heads[stream]));
        let receipt =
            store.append(Append { stream: name, expected, commit, deadline: Deadline(now + CALL_MAX) }).await?;
        heads[stream] = receipt.last;
        done += 1;
        stream += callers;
        if stream >= stage.streams.len() {
            stream = first;
        }
        if callers > 1 && done.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
    }
}

/// What the callers of one round have in common.
struct Round {
    callers: u32,
    start: Instant,
    until: Instant,
    pace: Option<Arc<Shared>>,
}

/// One caller's operations; gives when the last was answered.
async fn work(mut caller: Caller, stage: Arc<Stage>, round: Round) -> (Tally, Instant) {
    let Round { callers, start, until, pace } = round;
    let kept_max = ACKNOWLEDGED_MAX / callers as usize;
    let mut tally = Tally::default();
    let bound = stage.workload.answer_within.map(|time| time.0);
    let (mut now, mut last, mut turn) = (start, start, 0_u64);
    if caller.is_idle() {
        return (tally, last);
    }
    loop {
        let begun = match &pace {
            None => now,
            Some(pace) => match pace.next(until).await {
                Some(begun) => begun,
                None => break,
            },
        };
        if begun >= until || tally.kept.acknowledged.len() >= kept_max {
            break;
        }
        let result = caller.next(begun, &mut tally).await;
        last = Instant::now();
        now = last;
        match result {
            Ok(()) => tally.answered(last.saturating_duration_since(begun), bound),
            Err(error) => {
                tally.failed(&error);
                // What fails at once would fail a million times a second.
                tokio::time::sleep(Duration::from_millis(1)).await;
                now = Instant::now();
            }
        }
        turn += 1;
        if callers > 1 && turn.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
            // Waiting for a thread because others have it is not the store's time.
            now = Instant::now();
        }
    }
    (tally, last)
}

/// Hands out the moments at which operations are to begin. A thread of its own keeps the time: the runtime's timer ticks in milliseconds,
/// which is longer than what is measured.
#[derive(Debug)]
struct Pace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    rate: f64,
    due: Semaphore,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Shared {
    fn moment(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many operations are to begin before the end.
    fn tickets(&self, until: Instant) -> u64 {
        let mut count = (until.saturating_duration_since(self.start).as_secs_f64() * self.rate).floor() as u64;
        while self.moment(count) < until {
            count += 1;
        }
        count
    }

    /// The moment at which the next operation was to begin, once it has come. None after the end.
    async fn next(&self, until: Instant) -> Option<Instant> {
        // Never closed.
        self.due.acquire().await.ok()?.forget();
        let late = Instant::now().saturating_duration_since(until) > LATE_MAX;
        (!late).then(|| self.moment(self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Pace {
    fn start(rate: f64, start: Instant, until: Instant, callers: usize) -> Self {
        let (due, next, stopped) = (Semaphore::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { start, rate, due, next, stopped });
        let pacing = shared.clone();
        // Ends by itself at the end of the round, or when the pace is dropped.
        std::thread::spawn(move || {
            let mut released = 0;
            while Instant::now() < until && !pacing.stopped.load(Ordering::Relaxed) {
                while pacing.moment(released) <= Instant::now() {
                    pacing.due.add_permits(1);
                    released += 1;
                }
                let wait = pacing.moment(released).min(until).saturating_duration_since(Instant::now());
                std::thread::sleep(wait.min(Duration::from_millis(100)));
            }
            // What became due while it slept, and one more for each, so that everybody hears of the end.
            let all = pacing.tickets(until);
            pacing.due.add_permits(all.saturating_sub(released) as usize + callers);
        });
        Self { shared }
    }

    /// How many operations were to begin and did not.
    fn not_begun(&self, until: Instant) -> u64 {
        self.shared.tickets(until).saturating_sub(self.shared.next.load(Ordering::Relaxed))
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}
