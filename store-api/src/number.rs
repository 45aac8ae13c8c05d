//! The numbers of the contract, one type for each meaning, and time as the store keeps it.

use std::fmt;

/// Largest value of a revision, commit number or position: below 2⁵³, so that a JSON reader keeps it exact.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            ///
            /// # Panics
            /// Past [`NUMBER_MAX`]: a store refuses such an append before it numbers it.
            #[must_use]
            pub fn next(self) -> Self {
                self.plus(1)
            }

            /// The number `count` places further on.
            ///
            /// # Panics
            /// Past [`NUMBER_MAX`].
            #[must_use]
            pub fn plus(self, count: u64) -> Self {
                let sum = self.0.checked_add(count).filter(|sum| *sum <= NUMBER_MAX);
                Self(sum.expect("numbers stay below 2^53"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of an event in its stream, from 1. Zero means "before the first". Equal to the count of events ever appended.
    Revision
}
number! {
    /// Number of a commit in its stream, markers included, from 1: the slot on which every race is decided.
    CommitNumber
}
number! {
    /// Place of an event or a marker in the store's feed, from 1. Zero means "before the first".
    Position
}
number! {
    /// Counts the ownership of a store. It only grows.
    Epoch
}
number! {
    /// Counts the changes of one small record, from 1, deletions included.
    RecordNumber
}

/// A moment in microseconds since 1970-01-01 UTC; negative before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);
