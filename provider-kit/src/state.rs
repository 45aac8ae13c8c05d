//! What can be done with a stream, told from the last thing that stands in it and from the store's record.

use evstore_api::capabilities::Fence;
use evstore_api::{CommitKind, Epoch, Meta, StoreName, StoreState, StreamState};

/// The state of a stream whose last commit is of this kind and was, or was not, imported.
///
/// # Behavior
/// A deleted stream stays deleted, whatever the record says. For the others:
///
/// - Where the fence is of the whole store, the record decides: a copy is closed while the store is being filled, and open
///   once the record is. Seals that came with copies are other stores'.
/// - Where the fence is of each stream, a seal and a copy close it until the record is open in their epoch or a later one. A writer may
///   know a record that is long out of date: what closed its stream since is of a later epoch. `MovedIn` opens the store that it names.
#[must_use]
pub fn of_stream(
    last: &CommitKind,
    imported: Option<Epoch>,
    meta: &Meta,
    fence: Fence,
    own: &StoreName,
) -> StreamState {
    let being_copied = |epoch: Epoch| StreamState::Sealed { epoch, to: own.clone() };
    let opens = |mark: Epoch| meta.state == StoreState::Open && meta.epoch >= mark;
    match (last, imported, fence) {
        (CommitKind::Deleted, _, _) => StreamState::Deleted,
        (CommitKind::MovedOut { epoch, .. }, None, Fence::Stream) if opens(*epoch) => StreamState::Open,
        (CommitKind::MovedOut { epoch, to }, None, Fence::Stream) => {
            StreamState::Sealed { epoch: *epoch, to: to.clone() }
        }
        (_, Some(epoch), Fence::Store | Fence::Partition) => match meta.state {
            StoreState::Importing { .. } => being_copied(epoch),
            StoreState::Open
            | StoreState::Fenced { .. }
            | StoreState::Moved { .. }
            | StoreState::Leaving { .. }
            | StoreState::Retired { .. } => StreamState::Open,
        },
        (_, Some(epoch), Fence::Stream) if opens(epoch) => StreamState::Open,
        (_, Some(epoch), Fence::Stream) => being_copied(epoch),
        (CommitKind::MovedIn { epoch, owner }, None, Fence::Stream) if owner != own => {
            StreamState::Sealed { epoch: *epoch, to: owner.clone() }
        }
        (
            CommitKind::Events
            | CommitKind::Truncated { .. }
            | CommitKind::MovedIn { .. }
            | CommitKind::MovedOut { .. },
            None,
            _,
        ) => StreamState::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::Timestamp;

    fn name(name: &str) -> StoreName {
        StoreName::new(name).unwrap()
    }

    /// In a store whose record is of this state in epoch 3.
    fn state(last: CommitKind, imported: Option<u64>, state: StoreState, fence: Fence) -> StreamState {
        let meta = Meta { epoch: Epoch(3), state, ..Meta::new(Timestamp(0)) };
        of_stream(&last, imported.map(Epoch), &meta, fence, &name("own"))
    }

    #[test]
    fn a_copy_is_closed_until_the_record_or_a_marker_opens_it() {
        let importing = StoreState::Importing { from: Some(name("other")) };
        let sealed = StreamState::Sealed { epoch: Epoch(3), to: name("own") };
        assert_eq!(state(CommitKind::Events, Some(3), importing.clone(), Fence::Store), sealed);
        assert_eq!(state(CommitKind::Events, Some(3), StoreState::Open, Fence::Store), StreamState::Open);
        assert_eq!(state(CommitKind::Events, Some(3), importing.clone(), Fence::Stream), sealed);
        assert_eq!(state(CommitKind::Events, Some(3), StoreState::Open, Fence::Stream), StreamState::Open);
        let later = StreamState::Sealed { epoch: Epoch(4), to: name("own") };
        assert_eq!(state(CommitKind::Events, Some(4), StoreState::Open, Fence::Stream), later);
        assert_eq!(state(CommitKind::Events, None, importing, Fence::Store), StreamState::Open);
        let moved_in = |owner| CommitKind::MovedIn { epoch: Epoch(3), owner: name(owner) };
        assert_eq!(state(moved_in("own"), None, StoreState::Open, Fence::Stream), StreamState::Open);
        let elsewhere = StreamState::Sealed { epoch: Epoch(3), to: name("other") };
        assert_eq!(state(moved_in("other"), None, StoreState::Open, Fence::Stream), elsewhere);
    }

    #[test]
    fn what_was_sealed_is_closed_until_the_record_is_open_in_that_epoch() {
        let sealed = |epoch| StreamState::Sealed { epoch: Epoch(epoch), to: name("other") };
        let seal = |epoch| CommitKind::MovedOut { epoch: Epoch(epoch), to: name("other") };
        let fenced = StoreState::Fenced { to: name("other") };
        assert_eq!(state(seal(3), None, fenced.clone(), Fence::Stream), sealed(3));
        assert_eq!(state(seal(2), None, fenced, Fence::Stream), sealed(2));
        assert_eq!(state(seal(4), None, StoreState::Open, Fence::Stream), sealed(4));
        assert_eq!(state(seal(3), None, StoreState::Open, Fence::Stream), StreamState::Open);
        // Copies of another store's seals.
        assert_eq!(state(seal(9), Some(3), StoreState::Open, Fence::Stream), StreamState::Open);
        assert_eq!(state(seal(9), Some(3), StoreState::Open, Fence::Store), StreamState::Open);
        assert_eq!(state(seal(9), None, StoreState::Open, Fence::Store), StreamState::Open);
        assert_eq!(state(CommitKind::Deleted, Some(9), StoreState::Open, Fence::Store), StreamState::Deleted);
    }
}
