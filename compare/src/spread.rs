//! Several rounds as one figure: the median, and how far they lie apart.

use serde::{Deserialize, Serialize};

/// The median of some rounds with the lowest and the highest.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Spread {
    /// The one in the middle; the mean of the two where there is none.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of rounds; zeros where there is none.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) = (sorted.first().copied(), sorted.last().copied()) else { return Self::default() };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { median, low, high }
    }

    /// Whether the two have no value in common, so that the difference is more than what rounds differ by themselves.
    #[must_use]
    pub fn apart(&self, other: &Self) -> bool {
        self.low > other.high || other.low > self.high
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn what_touches_is_not_apart() {
        let one = Spread { median: 1.0, low: 1.0, high: 2.0 };
        assert!(!one.apart(&Spread { median: 3.0, low: 2.0, high: 4.0 }));
        assert!(one.apart(&Spread { median: 3.0, low: 2.1, high: 4.0 }));
    }
}
