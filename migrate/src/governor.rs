//! Slows a copy down where it hurts the store that it reads: by how long a write there takes, beside what that was without it.
//!
//! The write is one that is refused and changes nothing. On a store with one writer it waits in the same queue as appends do.

use crate::side::Side;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{Deadline, PutRecord, RecordExpected, RecordKey, RecordKind, RecordName, RecordNumber, Result};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times that are looked at together.
const WINDOW: usize = 50;
/// Times that are measured before anything is copied.
const FIRST: usize = 20;
/// How often a time is taken while there is something to copy.
const EVERY: Duration = Duration::from_millis(40);
/// Longest that one may take.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// What is not slow, whatever it was before: nobody notices it.
const HARMLESS: Duration = Duration::from_millis(20);
/// How often as long as before is too long.
const TOO_LONG: u32 = 3;
/// The least part of the time that is spent copying.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// How the part grows again.
const GROWTH: f64 = 1.25;
/// The record that is asked to change and never does.
const PROBE: &str = "evstore-probe";

/// What is known of the store that is read.
#[derive(Debug)]
pub(crate) struct Governor {
    /// The slowest of a hundred, before anything was copied.
    before: Duration,
    times: VecDeque<Duration>,
    /// The part of the time that may be spent copying.
    share: f64,
    probed_at: Instant,
}

impl Governor {
    /// Learns how long a write takes now.
    pub(crate) async fn begin(side: &Side) -> Self {
        let mut before = VecDeque::new();
        for _ in 0..FIRST {
            before.extend(probe(side).await.ok());
        }
        Self { before: slowest(&before), times: VecDeque::new(), share: 1.0, probed_at: Instant::now() }
    }

    /// Takes a time, now and then.
    pub(crate) async fn look(&mut self, side: &Side) {
        if self.probed_at.elapsed() >= EVERY {
            self.probed_at = Instant::now();
            // A store that can't be asked tells so where it is read.
            if let Ok(time) = probe(side).await {
                self.take(time);
            }
        }
    }

    fn take(&mut self, time: Duration) {
        self.times.push_back(time);
        if self.times.len() < WINDOW {
            return;
        }
        let too_long = slowest(&self.times) > HARMLESS.max(self.before * TOO_LONG);
        self.share = if too_long { (self.share / 2.0).max(SHARE_MIN) } else { (self.share * GROWTH).min(1.0) };
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

/// The slowest but one of a hundred.
fn slowest(times: &VecDeque<Duration>) -> Duration {
    let times: Vec<_> = times.iter().copied().collect();
    crate::rate::spread(&times).map_or(Duration::ZERO, |[_, slow, _]| slow)
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
        let before = Duration::from_millis(before);
        Governor { before, times: VecDeque::new(), share: 1.0, probed_at: Instant::now() }
    }

    fn take(governor: &mut Governor, time: u64) -> f64 {
        (0..WINDOW).for_each(|_| governor.take(Duration::from_millis(time)));
        governor.share()
    }

    #[test]
    fn a_copy_slows_down_where_writes_do_and_recovers() {
        let mut governor = governor(10);
        assert_eq!(take(&mut governor, 29), 1.0);
        assert_eq!(governor.rest(Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(take(&mut governor, 31), 0.5);
        assert_eq!(governor.rest(Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!((0..9).map(|_| take(&mut governor, 31)).last(), Some(SHARE_MIN), "it never stops");
        assert!(take(&mut governor, 5) > SHARE_MIN);
        assert_eq!((0..20).map(|_| take(&mut governor, 5)).last(), Some(1.0));
    }

    #[test]
    fn times_that_nobody_notices_do_not_slow_it_down() {
        assert_eq!(take(&mut governor(1), 19), 1.0);
    }
}
