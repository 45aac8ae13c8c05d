//! The store's own record: its format, its history, and who may write.

use crate::cursor::{Cursor, Place};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;
use crate::name::StoreName;
use crate::number::{Epoch, NUMBER_MAX, Position, Timestamp};
use std::collections::HashSet;

/// The storage format that this release writes.
pub const FORMAT: u32 = 1;

/// Which releases can work on a store, so that two run on it during a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// What was written last.
    pub format: u32,
    /// The oldest format whose readers understand everything in it.
    pub oldest_reader: u32,
    /// The oldest format whose writers may still write.
    pub oldest_writer: u32,
}

impl Format {
    /// What this release makes.
    pub const CURRENT: Self = Self { format: FORMAT, oldest_reader: FORMAT, oldest_writer: FORMAT };

    /// Refuses a store that this release does not understand.
    ///
    /// # Errors
    /// `Schema`, naming the formats.
    pub fn check_read(self) -> Result<()> {
        if self.oldest_reader <= FORMAT {
            Ok(())
        } else {
            Err(self.newer("the store is of a newer format; upgrade this release"))
        }
    }

    /// Refuses a store that this release must not write. It may still be one that it can read.
    ///
    /// # Errors
    /// `Schema`, naming the formats.
    pub fn check_write(self) -> Result<()> {
        self.check_read()?;
        let newer = "the store takes writes of newer releases only; upgrade this one, which may still read";
        if self.oldest_writer <= FORMAT { Ok(()) } else { Err(self.newer(newer)) }
    }

    fn newer(self, message: &'static str) -> Error {
        Error::new(ErrorKind::Schema, message)
            .with("format", self.format)
            .with("oldest_reader", self.oldest_reader)
            .with("oldest_writer", self.oldest_writer)
            .with("ours", FORMAT)
    }
}

/// One stretch of a store's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Its identity.
    pub incarnation: Incarnation,
    /// The last position that the next incarnation kept; none for the present one.
    pub ended_at: Option<Position>,
}

/// Who may write. Every change is a compare-and-set of the whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It takes appends.
    Open,
    /// Closed while the rest is copied to another store, and sealed where appends look at nothing but their stream. May still be undone.
    Fenced {
        /// Where its content is going.
        to: StoreName,
    },
    /// Another store owns the log, from this end on.
    Moved {
        /// The owner.
        to: StoreName,
        /// The last position that this store gave.
        end: Position,
    },
    /// It is being filled by `replicate` and takes no appends.
    Importing {
        /// The store that it is filled from, where appends go meanwhile; none for a restore.
        from: Option<StoreName>,
    },
    /// Its streams are sealed one by one, because appends look at nothing but their stream. Those that are not sealed yet take appends, and
    /// new ones are made. What comes next is `Fenced`; it may still be undone.
    Leaving {
        /// Where its content is going.
        to: StoreName,
    },
    /// All streams have left.
    Retired {
        /// Where they went.
        to: StoreName,
    },
}

impl StoreState {
    /// Refuses an append to a stream of this store, or a change of a checkpoint or snapshot, unless the state allows it.
    ///
    /// `Leaving` allows it: there the streams are sealed one by one.
    ///
    /// # Errors
    /// `Moved` where another store answers, `Fenced` where one has to wait; nothing was written.
    pub fn check_append(&self) -> Result<()> {
        match self {
            Self::Open | Self::Leaving { .. } => Ok(()),
            Self::Fenced { to } => Err(Error::new(ErrorKind::Fenced, "the store is fenced for a move").with("to", to)),
            Self::Importing { from: None } => Err(Error::new(
                ErrorKind::Fenced,
                "the store is being restored and takes no appends until that is finished",
            )),
            Self::Moved { to, .. } | Self::Retired { to } | Self::Importing { from: Some(to) } => {
                Err(Error::new(ErrorKind::Moved, "the store's streams live in another store")
                    .with("to", to)
                    .to_store(to.clone()))
            }
        }
    }

    /// The last position that a store gave which is moved; none for any other.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        match self {
            Self::Moved { end, .. } => Some(*end),
            Self::Open | Self::Fenced { .. } | Self::Importing { .. } | Self::Leaving { .. } | Self::Retired { .. } => {
                None
            }
        }
    }

    /// The name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Fenced { .. } => "fenced",
            Self::Moved { .. } => "moved",
            Self::Importing { .. } => "importing",
            Self::Leaving { .. } => "leaving",
            Self::Retired { .. } => "retired",
        }
    }
}

/// The store's own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Which releases can work on it.
    pub format: Format,
    /// Its histories, the present one last; never empty.
    pub lineage: Vec<Lineage>,
    /// Counts the ownership. It only grows.
    pub epoch: Epoch,
    /// Who may write.
    pub state: StoreState,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Meta {
    /// The record of a new, open store.
    #[must_use]
    pub fn new(created_at: Timestamp) -> Self {
        Self {
            format: Format::CURRENT,
            lineage: vec![Lineage { incarnation: Incarnation::generate(), ended_at: None }],
            epoch: Epoch(0),
            state: StoreState::Open,
            created_at,
        }
    }

    /// The present history.
    ///
    /// # Panics
    /// When the lineage is empty, which no constructor and no decoder lets pass.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.lineage.last().expect("a lineage is never empty").incarnation
    }

    /// Translates a cursor of a total order to a position of the present history.
    ///
    /// A cursor of an older incarnation is good up to where that ended.
    ///
    /// # Errors
    /// `CursorRefused` for a cursor of another store or another kind of order. `HistoryLost` when it stands on what a
    /// failover or a restore took away; the context says after which position.
    pub fn position_of(&self, cursor: &Cursor) -> Result<Position> {
        let Place::Total(position) = *cursor.place() else {
            return Err(Error::new(
                ErrorKind::CursorRefused,
                "cursor is of a partitioned order, this store's is total",
            ));
        };
        let Some(at) = self.lineage.iter().position(|one| one.incarnation == cursor.incarnation()) else {
            return Err(Error::new(ErrorKind::CursorRefused, "cursor comes from another store")
                .with("incarnation", cursor.incarnation()));
        };
        // Every later end bounds it too: a second failover may have gone back further than the first.
        let kept = self.lineage[at..].iter().filter_map(|one| one.ended_at).min();
        match kept {
            Some(end) if position > end => Err(Error::new(
                ErrorKind::HistoryLost,
                "commits up to this cursor were lost by a failover or a restore",
            )
            .with("cursor", position)
            .with("lost_after", end)),
            _ => Ok(position),
        }
    }

    /// Refuses a next record that no protocol makes: an epoch that falls, a history rewritten, another birth.
    ///
    /// # Errors
    /// `Invalid`; nothing was written.
    pub fn check_next(&self, next: &Self) -> Result<()> {
        let refused = |message| Err(Error::new(ErrorKind::Invalid, message));
        if next.epoch < self.epoch {
            return refused("the epoch of a store only grows");
        }
        let ends = next.lineage.iter().filter_map(|one| one.ended_at).chain(next.state.end());
        if next.epoch.0 > NUMBER_MAX || ends.into_iter().any(|end| end.0 > NUMBER_MAX) {
            return refused("an epoch and a position stay below 2^53");
        }
        let mut incarnations = HashSet::new();
        if !next.lineage.iter().all(|one| incarnations.insert(one.incarnation)) {
            return refused("every history of a store has an identity of its own");
        }
        if next.state != self.state && next.epoch == self.epoch && self.state == StoreState::Open {
            // Leaving `Open(e)` is the one step that late requests of epoch e must be able to see.
            match next.state {
                StoreState::Leaving { .. } => {}
                _ => return refused("a store leaves its open state only with a higher epoch"),
            }
        }
        let same = |(old, new): (&Lineage, &Lineage)| {
            old.incarnation == new.incarnation && (old.ended_at.is_none() || old.ended_at == new.ended_at)
        };
        if let StoreState::Importing { from: Some(_) } = next.state {
            // A store that is filled takes over the histories of the one that it is filled from, those too that began there or here
            // since, by a restart of a server say. Its content is what that store says it is.
            if !self.lineage.iter().all(|one| incarnations.contains(&one.incarnation)) {
                return refused("no history of a store is forgotten");
            }
        } else if next.lineage.len() < self.lineage.len() || !self.lineage.iter().zip(&next.lineage).all(same) {
            return refused("the history of a store is only added to");
        }
        if next.lineage.iter().rev().skip(1).any(|one| one.ended_at.is_none())
            || next.lineage.last().is_none_or(|last| last.ended_at.is_some())
        {
            return refused("every history but the present one has ended");
        }
        if next.created_at != self.created_at {
            return refused("a store is made once");
        }
        Ok(())
    }
}

/// Changes the store's record if it is still exactly as expected.
#[derive(Clone, Debug)]
pub struct SwapMeta {
    /// The record as it was read.
    pub expected: Meta,
    /// The record as it should be.
    pub new: Meta,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// What became of a change of the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaSwapped {
    /// It is as wanted, by this call or by an earlier one of the same content.
    Done,
    /// It was not as expected; nothing was written. This is what is there.
    Differs(Box<Meta>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(ends: &[Option<u64>]) -> Meta {
        let lineage = ends
            .iter()
            .zip(1..)
            .map(|(end, n)| Lineage { incarnation: Incarnation([n; 16]), ended_at: end.map(Position) });
        Meta { lineage: lineage.collect(), ..Meta::new(Timestamp(0)) }
    }

    #[test]
    fn a_cursor_of_an_older_history_is_good_up_to_its_end() {
        let meta = meta(&[Some(10), Some(7), None]);
        let position = |n, position| meta.position_of(&Cursor::total(Incarnation([n; 16]), Position(position)));
        assert_eq!(position(3, 99).unwrap(), Position(99));
        assert_eq!(position(2, 7).unwrap(), Position(7));
        assert_eq!(position(1, 8).unwrap_err().kind(), ErrorKind::HistoryLost);
        assert_eq!(position(9, 1).unwrap_err().kind(), ErrorKind::CursorRefused);
    }

    #[test]
    fn a_next_record_keeps_epoch_and_history() {
        let now = meta(&[None]);
        let with = |change: fn(&mut Meta)| {
            let mut next = now.clone();
            change(&mut next);
            now.check_next(&next).is_ok()
        };
        assert!(with(|_| {}));
        assert!(with(|next| next.epoch = Epoch(1)));
        assert!(!with(|next| next.lineage.clear()));
        assert!(!with(|next| next.lineage[0].ended_at = Some(Position(1))));
        assert!(!with(|next| next.state = StoreState::Importing { from: None }));
        assert!(!with(|next| next.epoch = Epoch(NUMBER_MAX + 1)));
        assert!(!with(|next| {
            next.lineage[0].ended_at = Some(Position(NUMBER_MAX + 1));
            next.lineage.push(Lineage { incarnation: Incarnation([9; 16]), ended_at: None });
        }));
        assert!(!with(|next| {
            next.lineage[0].ended_at = Some(Position(1));
            next.lineage.push(Lineage { ended_at: None, ..next.lineage[0] });
        }));
    }

    #[test]
    fn a_store_that_is_filled_takes_over_histories_and_forgets_none() {
        let filled_from = |ends: &[Option<u64>]| {
            let from = Some(StoreName::new("from").expect("a name"));
            Meta { epoch: Epoch(1), state: StoreState::Importing { from }, ..meta(ends) }
        };
        let now = filled_from(&[Some(4), None]);
        let mut next = filled_from(&[Some(9), Some(4), None]);
        next.created_at = now.created_at;
        assert!(now.check_next(&next).is_ok());
        next.lineage.remove(1);
        assert!(now.check_next(&next).is_err(), "a history is missing");
        let open = Meta { state: StoreState::Open, ..filled_from(&[Some(9), Some(4), None]) };
        assert!(now.check_next(&open).is_err(), "an open store rewrites none");
    }
}
