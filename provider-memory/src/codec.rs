//! From what was decided to what is stored. Other providers encode here; memory keeps commits as they are.

use evstore_api::{Commit, Content, Event};
use evstore_kit::decide::{Slot, Wanted};

/// The commit that was wanted, in its slot.
pub fn commit(wanted: &Wanted, slot: &Slot, events: Vec<Event>) -> Commit {
    assert_eq!(events.len(), wanted.events as usize, "a commit is stored whole");
    Commit {
        stream: wanted.stream.clone(),
        id: wanted.commit,
        number: slot.number,
        kind: wanted.kind.clone(),
        first_revision: slot.first,
        count: wanted.events,
        first_position: slot.position,
        recorded_at: slot.recorded_at,
        digest: wanted.digest,
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        events,
    }
}
