//! How fast a move comes nearer its end, told from two looks at where it stands.

use crate::Status;
use std::time::Duration;

/// What happened between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Positions that were copied, per second.
    pub copied: f64,
    /// Positions that were appended in the owner, per second.
    pub appended: f64,
    /// Positions that are left to copy.
    pub lag: u64,
}

impl Rate {
    /// Between a look and one that came so much later.
    #[must_use]
    pub fn between(before: &Status, after: &Status, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let grown = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let ((from, to), (from_later, to_later)) = (before.ends(), after.ends());
        Self { copied: grown(to, to_later), appended: grown(from, from_later), lag: after.lag() }
    }

    /// Whether the copy comes nearer, or is there.
    #[must_use]
    pub fn converges(&self) -> bool {
        self.lag == 0 || self.copied > self.appended
    }

    /// How long it takes at this rate until all is copied; none where it does not come nearer.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        match self.converges() {
            true if self.lag == 0 => Some(Duration::ZERO),
            true => Duration::try_from_secs_f64(self.lag as f64 / (self.copied - self.appended)).ok(),
            false => None,
        }
    }
}

/// The middle, the hundredth of the longest, and the longest of some times.
#[must_use]
pub fn spread(times: &[Duration]) -> Option<[Duration; 3]> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |hundredths: usize| sorted.get((sorted.len() * hundredths).div_ceil(100).max(1) - 1).copied();
    Some([at(50)?, at(99)?, at(100)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_slower_than_the_appends_never_ends() {
        let faster = Rate { copied: 300.0, appended: 100.0, lag: 1000 };
        assert_eq!((faster.converges(), faster.left()), (true, Some(Duration::from_secs(5))));
        let slower = Rate { copied: 100.0, appended: 100.0, lag: 1 };
        assert_eq!((slower.converges(), slower.left()), (false, None));
        let done = Rate { copied: 0.0, appended: 50.0, lag: 0 };
        assert_eq!((done.converges(), done.left()), (true, Some(Duration::ZERO)));
    }

    #[test]
    fn the_spread_of_times_is_by_rank() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(spread(&times), Some([100, 198, 200].map(Duration::from_millis)));
        assert_eq!(spread(&times[..1]), Some([Duration::from_millis(1); 3]));
        assert_eq!(spread(&[]), None);
    }
}
