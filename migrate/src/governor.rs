//! Slows a copy down where it hurts the store that it reads: by how long a write there takes, beside what that was without it.
//!
//! The write is one that is refused and changes nothing. On a store with one writer it waits in the same queue as appends do.

use crate::side::Side;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Deadline, Position, PutRecord, RecordExpected, RecordKey, RecordKind, RecordName, RecordNumber, Result,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times that are looked at together.
const WINDOW: usize = 25;
/// Times that are measured before anything is copied.
const FIRST: usize = 20;
/// How often a time is taken while there is something to copy.
const EVERY: Duration = Duration::from_millis(20);
/// How often what is usual is learnt anew: it changes with the hour.
const RENEWED_EVERY: Duration = Duration::from_secs(30);
/// Appends per second below which nobody is hurt.
const BUSY: u64 = 20;
/// Longest that one may take.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// What is not slow, whatever it was before: nobody notices it.
const HARMLESS: Duration = Duration::from_millis(20);
/// How often as long as before is too long for the slowest of a hundred.
const TOO_LONG: u32 = 3;
/// How often as long as before is too long for the middle one: callers that wait for one append before the next make 0.7 of them then.
const TOO_LONG_USUALLY: f64 = 1.4;
/// The least part of the time that is spent copying.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// How the part grows again.
const GROWTH: f64 = 1.25;
/// The record that is asked to change and never does.
const PROBE: &str = "evstore-probe";

/// What is known of the store that is read.
#[derive(Debug)]
pub(crate) struct Governor {
    /// The middle one and the slowest of a hundred, while nothing was copied.
    before: [Duration; 2],
    learnt_at: Instant,
    times: VecDeque<Duration>,
    /// Where the feed of the store ended, and when.
    head: (Position, Instant),
    /// The part of the time that may be spent copying.
    share: f64,
    probed_at: Instant,
}

impl Governor {
    /// Learns how long a write takes now.
    pub(crate) async fn begin(side: &Side) -> Self {
        let (now, head) = (Instant::now(), side.head().await.unwrap_or_default());
        let mut governor = Self {
            before: [Duration::ZERO; 2],
            learnt_at: now,
            times: VecDeque::new(),
            head: (head, now),
            share: 1.0,
            probed_at: now,
        };
        governor.learn(side).await;
        governor
    }

    async fn learn(&mut self, side: &Side) {
        let mut before = VecDeque::new();
        for _ in 0..FIRST {
            before.extend(probe(side).await.ok());
        }
        (self.before, self.learnt_at) = (usual_and_slow(&before), Instant::now());
    }

    /// Takes a time, now and then.
    pub(crate) async fn look(&mut self, side: &Side) {
        if self.probed_at.elapsed() >= EVERY {
            self.probed_at = Instant::now();
            // A store that can't be asked tells so where it is read.
            self.times.extend(probe(side).await.ok());
        }
        if self.times.len() >= WINDOW {
            let (head, now) = (side.head().await.unwrap_or_default(), Instant::now());
            let appended = head.0.saturating_sub(self.head.0.0) as f64 / (now - self.head.1).as_secs_f64().max(0.001);
            self.head = (head, now);
            self.judge(appended >= BUSY as f64);
        }
        if self.learnt_at.elapsed() >= RENEWED_EVERY {
            self.learn(side).await;
        }
    }

    fn judge(&mut self, is_busy: bool) {
        let ([usual, slow], [usual_before, slow_before]) = (usual_and_slow(&self.times), self.before);
        let too_long = slow > HARMLESS.max(slow_before * TOO_LONG) || usual > usual_before.mul_f64(TOO_LONG_USUALLY);
        let slows = is_busy && too_long;
        self.share = if slows { (self.share / 2.0).max(SHARE_MIN) } else { (self.share * GROWTH).min(1.0) };
        self.times.clear();
    }

    /// How long to rest after work that took so long.
    pub(crate) fn rest(&self, worked: Duration) -> Duration {
        worked.mul_f64(1.0 / self.share - 1.0)
    }

    /// The part of the time that is spent copying.
    pub(crate) fn share(&self) -> f64 {
        self.share
    }
}

fn usual_and_slow(times: &VecDeque<Duration>) -> [Duration; 2] {
    let times: Vec<_> = times.iter().copied().collect();
    crate::rate::spread(&times).map_or([Duration::ZERO; 2], |[usual, slow, _]| [usual, slow])
}

async fn probe(side: &Side) -> Result<Duration> {
    let asked_at = Instant::now();
    let request = PutRecord {
        key: RecordKey { kind: RecordKind::Presence, name: RecordName::new(PROBE)? },
        // This number no record ever has, so that nothing is written.
        expected: RecordExpected::At(RecordNumber(NUMBER_MAX)),
        value: None,
        deadline: Deadline::within(PROBE_MAX),
    };
    match side.store.put_record(request).await {
        Err(error) if error.kind() != evstore_api::ErrorKind::Conflict => Err(error),
        Ok(_) | Err(_) => Ok(asked_at.elapsed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn governor(before: u64) -> Governor {
        let (before, now) = ([Duration::from_millis(before); 2], Instant::now());
        Governor {
            before,
            learnt_at: now,
            times: VecDeque::new(),
            head: (Position(0), now),
            share: 1.0,
            probed_at: now,
        }
    }

    fn take(governor: &mut Governor, usual: u64, slow: u64, is_busy: bool) -> f64 {
        governor.times.extend((1..WINDOW).map(|_| Duration::from_millis(usual)));
        governor.times.push_back(Duration::from_millis(slow));
        governor.judge(is_busy);
        governor.share()
    }

    #[test]
    fn a_copy_slows_down_where_writes_do_and_recovers() {
        let mut governor = governor(10);
        assert_eq!(take(&mut governor, 14, 29, true), 1.0);
        assert_eq!(governor.rest(Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(take(&mut governor, 14, 31, true), 0.5, "the slowest ones are too slow");
        assert_eq!(governor.rest(Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(take(&mut governor, 15, 20, true), 0.25, "most of them are");
        assert_eq!((0..9).map(|_| take(&mut governor, 15, 20, true)).last(), Some(SHARE_MIN), "it never stops");
        assert!(take(&mut governor, 5, 5, true) > SHARE_MIN);
        assert_eq!((0..20).map(|_| take(&mut governor, 5, 5, true)).last(), Some(1.0));
    }

    #[test]
    fn what_hurts_nobody_does_not_slow_it_down() {
        assert_eq!(take(&mut governor(10), 100, 100, false), 1.0);
    }
}
