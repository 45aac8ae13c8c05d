//! A small seeded generator of random numbers, so that a run can be repeated from the seed it prints. Choosing the seed is
//! the caller's.

/// SplitMix64: the same seed gives the same numbers on every machine and in every release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, `bound`.
    ///
    /// # Panics
    /// When `bound` is 0: there is no such number.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        // The high half of the product: fairer than a remainder, and without a division.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True `per_hundred` times out of a hundred.
    pub fn chance(&mut self, per_hundred: u64) -> bool {
        self.below(100) < per_hundred
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When `choices` is empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Sixteen random bytes, for ids.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes
    }

    /// A generator of its own, for one client of many: what it draws does not depend on what the others draw.
    pub fn fork(&mut self) -> Seed {
        Seed(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut seed = Seed(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| seed.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_below_the_bound_and_reach_both_ends() {
        let mut seed = Seed(1);
        let drawn: Vec<u64> = (0..1_000).map(|_| seed.below(7)).collect();
        assert_eq!(drawn.iter().min(), Some(&0));
        assert_eq!(drawn.iter().max(), Some(&6));
    }
}
