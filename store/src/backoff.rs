//! Pauses between tries: doubling, bounded, and spread so that rivals do not meet again.

use std::time::Duration;

/// Pauses that double from one bound to the other.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    /// Spreads the pauses. Handed in rather than drawn, so that a run can be repeated.
    spread: u64,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration, seed: &[u8]) -> Self {
        Self { next: first, max, spread: seed.iter().fold(1, |sum, byte| mix(sum ^ u64::from(*byte))) }
    }

    /// The next pause: between half of the step and all of it.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        self.spread = mix(self.spread);
        step.mul_f64(0.5 + (self.spread % 1024) as f64 / 2048.0)
    }
}

/// One step of splitmix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_differ_by_seed() {
        let pauses = |seed: &[u8]| {
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40), seed);
            [(); 4].map(|()| backoff.pause())
        };
        for (pause, step_ms) in pauses(b"a").into_iter().zip([10, 20, 40, 40]) {
            assert!(pause >= Duration::from_millis(step_ms) / 2 && pause <= Duration::from_millis(step_ms));
        }
        assert_ne!(pauses(b"a"), pauses(b"b"));
    }
}
