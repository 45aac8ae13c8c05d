//! Identities of 16 bytes, and how they are derived and printed.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads 32 hexadecimal digits, with or without the hyphens of a UUID.
            ///
            /// # Errors
            /// `Invalid` for anything else.
            fn from_str(text: &str) -> Result<Self> {
                match Uuid::try_parse(text) {
                    Ok(uuid) => Ok(Self(uuid.into_bytes())),
                    Err(_) => Err(Error::new(ErrorKind::Invalid, concat!($what, " is not 32 hexadecimal digits"))
                        .with("given", text.chars().take(64).collect::<String>())),
                }
            }
        }
    };
}

id! {
    /// Identity of a commit, chosen by the caller; its scope is its stream. Repeating a commit under its id is safe.
    CommitId, "commit id"
}
id! {
    /// Identity of an event: supplied by the caller, or derived from its commit's id and its ordinal.
    EventId, "event id"
}
id! {
    /// The first 16 bytes of BLAKE3 over a commit's content: stream, commit id and events; not its numbers or times.
    ContentDigest, "content digest"
}
id! {
    /// Identity of a store's history. A restored backup or a failover that lost acknowledged commits is a new one.
    Incarnation, "incarnation"
}

impl CommitId {
    /// A new time-ordered id (UUID version 7), from the system's clock and randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }

    /// An id that is the same for the same parts, for work that has a natural identity: a file's line, a request's key.
    #[must_use]
    pub fn derive(parts: &[&[u8]]) -> Self {
        Self(derive("evstore commit id v1", parts))
    }
}

impl EventId {
    /// The id of the event at `ordinal` (from 0) of a commit, where the caller supplies none.
    #[must_use]
    pub fn derive(commit: CommitId, ordinal: u32) -> Self {
        Self(derive("evstore event id v1", &[&commit.0, &ordinal.to_le_bytes()]))
    }
}

impl Incarnation {
    /// A new identity for a history that begins now.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

/// Hashes length-prefixed parts under a domain, so that no two lists of parts give the same input.
fn derive(domain: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    cut(&hasher)
}

/// The first 16 bytes of a hash.
pub(crate) fn cut(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes
}
