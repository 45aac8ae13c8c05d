//! Names, checked once here and valid ever after. No provider escapes what it did not get through these types.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;

/// Longest stream name, in bytes of UTF-8.
pub const STREAM_NAME_BYTES_MAX: usize = 512;
/// Longest namespace, in bytes of UTF-8.
pub const NAMESPACE_BYTES_MAX: usize = 128;
/// Longest event type, in bytes of UTF-8.
pub const EVENT_TYPE_BYTES_MAX: usize = 256;
/// Longest content type, in bytes of UTF-8.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// Longest name of a small record, in bytes of UTF-8.
pub const RECORD_NAME_BYTES_MAX: usize = 256;
/// Longest name of a store in a config file, in bytes.
pub const STORE_NAME_BYTES_MAX: usize = 64;

/// Whether a name may be empty.
#[derive(Clone, Copy, PartialEq)]
enum Empty {
    Allowed,
    Refused,
}

/// Refuses what is too long, empty where it may not be, or has a control character (NUL among them).
fn check(what: &'static str, text: &str, bytes_max: usize, empty: Empty) -> Result<()> {
    let refused =
        |message| Err(Error::new(ErrorKind::Invalid, message).with("name", what).with("bytes_max", bytes_max));
    if text.is_empty() && empty == Empty::Refused {
        return refused("name is empty");
    }
    if text.len() > bytes_max {
        return refused("name is too long");
    }
    if text.chars().any(char::is_control) {
        return refused("name has a control character");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $bytes_max:ident, $empty:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and keeps it as it is: case, Unicode form and spaces matter.
            ///
            /// # Errors
            /// `Invalid` when it is too long, has a control character, or is empty where that is not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                check($what, text.as_ref(), $bytes_max, Empty::$empty)?;
                Ok(Self(text.as_ref().into()))
            }

            /// The text, as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// Name of a stream, `category-key`: 1 to 512 bytes of UTF-8 without control characters.
    StreamName, "stream name", STREAM_NAME_BYTES_MAX, Refused
}
name! {
    /// What sets the streams of one tenant, say, apart from another's: 0 to 128 bytes. Empty by default.
    Namespace, "namespace", NAMESPACE_BYTES_MAX, Allowed
}
name! {
    /// What stands before the first `-` of a stream's name; all of it where there is none.
    Category, "category", STREAM_NAME_BYTES_MAX, Allowed
}
name! {
    /// Type of an event: 1 to 256 bytes.
    EventType, "event type", EVENT_TYPE_BYTES_MAX, Refused
}
name! {
    /// Content type of an event's data, a media type: 0 to 128 bytes.
    ContentType, "content type", CONTENT_TYPE_BYTES_MAX, Allowed
}
name! {
    /// Name of a small record: 1 to 256 bytes.
    RecordName, "record name", RECORD_NAME_BYTES_MAX, Refused
}

impl Namespace {
    /// The empty namespace.
    #[must_use]
    pub fn none() -> Self {
        Self("".into())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::none()
    }
}

impl ContentType {
    /// `application/json`.
    #[must_use]
    pub fn json() -> Self {
        Self("application/json".into())
    }

    /// `application/octet-stream`.
    #[must_use]
    pub fn bytes() -> Self {
        Self("application/octet-stream".into())
    }
}

impl StreamName {
    /// The category of this name.
    #[must_use]
    pub fn category(&self) -> Category {
        Category(self.0.split('-').next().unwrap_or_default().into())
    }
}

/// Identity of a stream: its namespace and its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Whose stream it is.
    pub namespace: Namespace,
    /// Its name.
    pub name: StreamName,
}

impl StreamId {
    /// A stream of the empty namespace.
    ///
    /// # Errors
    /// `Invalid` when the name is.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        Ok(Self { namespace: Namespace::none(), name: StreamName::new(name)? })
    }

    /// A stream of one namespace.
    ///
    /// # Errors
    /// `Invalid` when either part is.
    pub fn within(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Result<Self> {
        Ok(Self { namespace: Namespace::new(namespace)?, name: StreamName::new(name)? })
    }
}

/// For people: the name, behind its namespace and two colons where it has one. Not meant to be read back.
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.as_str().is_empty() {
            write!(f, "{}::", self.namespace)?;
        }
        self.name.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({self})")
    }
}

/// Name of a store in a config file: `[a-z0-9_-]`, 1 to 64 bytes. What a fence or a seal refers to; never a credential.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(Arc<str>);

impl StoreName {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// `Invalid` when it is empty, too long or has another character.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        check("store name", text, STORE_NAME_BYTES_MAX, Empty::Refused)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !text.chars().all(allowed) {
            return Err(Error::new(ErrorKind::Invalid, "store name has a character other than a-z, 0-9, _ and -"));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn category_is_what_stands_before_the_first_hyphen() {
        let category = |name| StreamName::new(name).unwrap().category().as_str().to_owned();
        assert_eq!(category("order-42-a"), "order");
        assert_eq!(category("order"), "order");
        assert_eq!(category("-42"), "");
    }

    #[test]
    fn names_are_refused_beyond_their_bounds() {
        assert!(StreamName::new("a".repeat(STREAM_NAME_BYTES_MAX)).is_ok());
        for bad in ["", "a\0b", "a\nb", &"a".repeat(STREAM_NAME_BYTES_MAX + 1)] {
            assert_eq!(StreamName::new(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert!(StoreName::new("Main").is_err());
    }
}
