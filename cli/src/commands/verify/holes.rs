//! Positions that the feed could not give, less those that streams have.

use evstore_api::Position;
use std::collections::BTreeMap;

/// Ranges of positions, apart from each other.
#[derive(Clone, Debug, Default)]
pub struct Holes(BTreeMap<u64, u64>);

impl Holes {
    /// Adds a range behind all others.
    pub fn add(&mut self, first: Position, last: Position) {
        self.0.insert(first.0, last.0);
    }

    /// Takes out what a stream has; says whether there was something to take out.
    pub fn cover(&mut self, first: Position, last: Position) -> bool {
        let met: Vec<(u64, u64)> =
            self.0.range(..=last.0).rev().take_while(|(_, end)| **end >= first.0).map(|(a, b)| (*a, *b)).collect();
        for &(begin, end) in &met {
            self.0.remove(&begin);
            if begin < first.0 {
                self.0.insert(begin, first.0 - 1);
            }
            if end > last.0 {
                self.0.insert(last.0 + 1, end);
            }
        }
        !met.is_empty()
    }

    /// The one range between two positions, neither included; none where there are several, or there is none.
    pub fn only_between(&self, after: Option<Position>, before: Option<Position>) -> Option<(Position, Position)> {
        let after = after.map_or(0, |after| after.0);
        let before = before.map_or(u64::MAX, |before| before.0);
        let mut between = self.0.range(after + 1..).take_while(|(_, last)| **last < before);
        match (between.next(), between.next()) {
            (Some((first, last)), None) => Some((Position(*first), Position(*last))),
            _ => None,
        }
    }

    /// Those that are left.
    pub fn iter(&self) -> impl Iterator<Item = (Position, Position)> + '_ {
        self.0.iter().map(|(first, last)| (Position(*first), Position(*last)))
    }

    /// Takes a whole range out.
    pub fn remove(&mut self, first: Position) {
        self.0.remove(&first.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(holes: &Holes) -> Vec<(u64, u64)> {
        holes.iter().map(|(first, last)| (first.0, last.0)).collect()
    }

    #[test]
    fn what_streams_have_is_no_hole() {
        let mut holes = Holes::default();
        holes.add(Position(3), Position(9));
        holes.add(Position(12), Position(12));
        holes.cover(Position(1), Position(3));
        holes.cover(Position(6), Position(7));
        assert_eq!(ranges(&holes), [(4, 5), (8, 9), (12, 12)]);
        holes.cover(Position(5), Position(12));
        assert_eq!(ranges(&holes), [(4, 4)]);
    }

    #[test]
    fn a_place_is_known_where_there_is_one_only() {
        let mut holes = Holes::default();
        holes.add(Position(3), Position(4));
        holes.add(Position(8), Position(8));
        assert_eq!(holes.only_between(Some(Position(5)), None), Some((Position(8), Position(8))));
        assert_eq!(holes.only_between(None, None), None);
        assert_eq!(holes.only_between(Some(Position(2)), Some(Position(5))), Some((Position(3), Position(4))));
    }
}
