//! How a measured time is spread: median, ninety-ninth percentile, largest.

use serde::Serialize;

/// The spread of some durations, in nanoseconds; all zero where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Spread {
    /// How many were measured.
    pub count: u64,
    /// Half of them were at most this long.
    pub p50_ns: u64,
    /// Ninety-nine of a hundred were at most this long.
    pub p99_ns: u64,
    /// None was longer.
    pub max_ns: u64,
}

impl Spread {
    /// The spread of these durations, in nanoseconds.
    pub fn of(mut durations: Vec<u64>) -> Self {
        durations.sort_unstable();
        Spread {
            count: durations.len() as u64,
            p50_ns: nearest_rank(&durations, 50),
            p99_ns: nearest_rank(&durations, 99),
            max_ns: durations.last().copied().unwrap_or(0),
        }
    }
}

fn nearest_rank(sorted: &[u64], per_hundred: usize) -> u64 {
    let rank = (sorted.len() * per_hundred).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn ranks_are_the_nearest() {
        let spread = Spread::of((1..=200).rev().collect());
        assert_eq!(spread, Spread { count: 200, p50_ns: 100, p99_ns: 198, max_ns: 200 });
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        assert_eq!(Spread::of(vec![7]), Spread { count: 1, p50_ns: 7, p99_ns: 7, max_ns: 7 });
    }
}
