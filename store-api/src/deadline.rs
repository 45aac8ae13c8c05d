//! When a caller stops waiting. Every request carries one.

use std::time::{Duration, Instant};

/// The moment after which no request is sent any more for a call.
///
/// An append that is still queued then is removed and answered `DeadlineExceeded`, nothing written; one that was sent is
/// `Indeterminate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// Longest wait that [`Deadline::within`] gives: a year, so that adding it to the present never overflows.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Deadline {
    /// The moment `wait` from now, at most a year ahead.
    #[must_use]
    pub fn within(wait: Duration) -> Self {
        Self(Instant::now() + wait.min(WAIT_MAX))
    }

    /// What is left of it; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it lies in the past.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}
