//! What can be done with a stream, told from the last thing that stands in it and from the store's record.

use evstore_api::capabilities::Fence;
use evstore_api::{CommitKind, Epoch, Meta, StoreName, StoreState, StreamState};

/// The state of a stream whose last commit is of this kind and was, or was not, imported.
///
/// # Behavior
/// A deleted stream stays deleted, and one that moved out stays sealed, whatever the record says. For the others:
///
/// - Where the fence is of the whole store, the record decides: a copy is closed while the store is being filled, and open
///   once the record is. Nothing else could ever open it, as such a store has no markers of its own.
/// - Where the fence is of each stream, an imported commit opens nothing, and `MovedIn` opens the store that it names.
#[must_use]
pub fn of_stream(
    last: &CommitKind,
    imported: Option<Epoch>,
    meta: &Meta,
    fence: Fence,
    own: &StoreName,
) -> StreamState {
    let being_copied = |epoch: Epoch| StreamState::Sealed { epoch, to: own.clone() };
    match (last, imported, fence) {
        (CommitKind::Deleted, _, _) => StreamState::Deleted,
        (CommitKind::MovedOut { epoch, to }, _, _) => StreamState::Sealed { epoch: *epoch, to: to.clone() },
        (_, Some(epoch), Fence::Store | Fence::Partition) => match meta.state {
            StoreState::Importing { .. } => being_copied(epoch),
            StoreState::Open
            | StoreState::Fenced { .. }
            | StoreState::Moved { .. }
            | StoreState::Leaving { .. }
            | StoreState::Retired { .. } => StreamState::Open,
        },
        (_, Some(epoch), Fence::Stream) => being_copied(epoch),
        (CommitKind::MovedIn { epoch, owner }, None, Fence::Stream) if owner != own => {
            StreamState::Sealed { epoch: *epoch, to: owner.clone() }
        }
        (CommitKind::Events | CommitKind::Truncated { .. } | CommitKind::MovedIn { .. }, None, _) => StreamState::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::Timestamp;

    fn name(name: &str) -> StoreName {
        StoreName::new(name).unwrap()
    }

    fn state(last: CommitKind, imported: Option<u64>, state: StoreState, fence: Fence) -> StreamState {
        let meta = Meta { state, ..Meta::new(Timestamp(0)) };
        of_stream(&last, imported.map(Epoch), &meta, fence, &name("own"))
    }

    #[test]
    fn a_copy_is_closed_until_the_record_or_a_marker_opens_it() {
        let importing = StoreState::Importing { from: Some(name("other")) };
        let sealed = StreamState::Sealed { epoch: Epoch(3), to: name("own") };
        assert_eq!(state(CommitKind::Events, Some(3), importing.clone(), Fence::Store), sealed);
        assert_eq!(state(CommitKind::Events, Some(3), StoreState::Open, Fence::Store), StreamState::Open);
        assert_eq!(state(CommitKind::Events, Some(3), StoreState::Open, Fence::Stream), sealed);
        assert_eq!(state(CommitKind::Events, None, importing, Fence::Store), StreamState::Open);
        let moved_in = |owner| CommitKind::MovedIn { epoch: Epoch(3), owner: name(owner) };
        assert_eq!(state(moved_in("own"), None, StoreState::Open, Fence::Stream), StreamState::Open);
        let elsewhere = StreamState::Sealed { epoch: Epoch(3), to: name("other") };
        assert_eq!(state(moved_in("other"), None, StoreState::Open, Fence::Stream), elsewhere);
    }

    #[test]
    fn what_moved_out_or_was_deleted_is_never_open() {
        let moved_out = CommitKind::MovedOut { epoch: Epoch(3), to: name("other") };
        let sealed = StreamState::Sealed { epoch: Epoch(3), to: name("other") };
        assert_eq!(state(moved_out, Some(9), StoreState::Open, Fence::Store), sealed);
        assert_eq!(state(CommitKind::Deleted, Some(9), StoreState::Open, Fence::Store), StreamState::Deleted);
    }
}
