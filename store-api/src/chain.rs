//! Digests over many commits, for comparing two stores without moving their content.

use crate::commit::{Commit, Content};
use crate::format;
use crate::id;
use crate::number::Position;
use std::fmt;

/// A running digest over commits in order. Equal chains mean equal commits: content, numbers, times, boundaries.
///
/// What differs between a store and its copy on purpose is left out: `imported`, and whether content was stripped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain([u8; 16]);

impl Chain {
    /// Adds a commit.
    pub fn push(&mut self, commit: &Commit) {
        let mut frame = commit.clone();
        frame.imported = None;
        frame.content = Content::Stripped;
        frame.events.clear();
        self.add(&format::encode(&frame));
    }

    /// Adds positions without content, both ends included.
    pub fn push_removed(&mut self, first: Position, last: Position) {
        let mut bytes = b"removed".to_vec();
        bytes.extend(first.0.to_le_bytes());
        bytes.extend(last.0.to_le_bytes());
        self.add(&bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(bytes);
        self.0 = id::cut(&hasher);
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
