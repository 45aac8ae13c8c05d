//! Places in a feed that can be kept, printed, compared and handed to another process.

use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;
use crate::number::{NUMBER_MAX, Position};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Longest printed cursor, in bytes.
pub const CURSOR_BYTES_MAX: usize = 1024;

/// A place in the feed of one incarnation of a store. Opaque to applications; printable; at most 1 KiB.
///
/// Two compare as before, equal, after, or not at all: across incarnations, or where partitions went different ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    incarnation: Incarnation,
    place: Place,
}

/// What a cursor points at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Up to and with this position of a total order; 0 is before the first.
    Total(Position),
    /// Up to and with a mark in each partition, by rising partition; one that is not named is before its first.
    Parts(Vec<(u32, Vec<u8>)>),
}

impl Cursor {
    /// A place in a total order.
    #[must_use]
    pub fn total(incarnation: Incarnation, position: Position) -> Self {
        Self { incarnation, place: Place::Total(position) }
    }

    /// A place in a partitioned order. Marks compare as bytes and are never empty.
    ///
    /// # Errors
    /// `Invalid` when partitions do not rise, a mark is empty, or it would print longer than 1 KiB.
    pub fn parts(incarnation: Incarnation, parts: Vec<(u32, Vec<u8>)>) -> Result<Self> {
        let rising = parts.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let cursor = Self { incarnation, place: Place::Parts(parts) };
        match &cursor.place {
            Place::Parts(parts) if rising && parts.iter().all(|(_, mark)| !mark.is_empty()) => {}
            _ => return Err(Error::new(ErrorKind::Invalid, "cursor partitions are not in order")),
        }
        if cursor.to_string().len() > CURSOR_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "cursor is too long").with("bytes_max", CURSOR_BYTES_MAX));
        }
        Ok(cursor)
    }

    /// The history that it belongs to.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What it points at; for providers and migrations.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its position, where the order is total.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self.place {
            Place::Total(position) => Some(position),
            Place::Parts(_) => None,
        }
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self.incarnation != other.incarnation {
            return None;
        }
        match (&self.place, &other.place) {
            (Place::Total(mine), Place::Total(theirs)) => Some(mine.cmp(theirs)),
            (Place::Parts(mine), Place::Parts(theirs)) => compare_parts(mine, theirs),
            (Place::Total(_), Place::Parts(_)) | (Place::Parts(_), Place::Total(_)) => None,
        }
    }
}

/// Compares partition by partition; a partition that is not named is before every mark.
fn compare_parts(mine: &[(u32, Vec<u8>)], theirs: &[(u32, Vec<u8>)]) -> Option<Ordering> {
    let mark = |parts: &[(u32, Vec<u8>)], wanted: u32| -> Vec<u8> {
        parts.iter().find(|(partition, _)| *partition == wanted).map(|(_, mark)| mark.clone()).unwrap_or_default()
    };
    let mut overall = Ordering::Equal;
    for partition in mine.iter().chain(theirs).map(|(partition, _)| *partition) {
        match (overall, mark(mine, partition).cmp(&mark(theirs, partition))) {
            (_, Ordering::Equal) => {}
            (Ordering::Equal, found) => overall = found,
            (before, found) if before == found => {}
            _ => return None,
        }
    }
    Some(overall)
}

/// `1.` incarnation `.t` position, or `1.` incarnation `.p` and `partition=mark` joined by `,`, marks as URL-safe base64.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.", self.incarnation)?;
        match &self.place {
            Place::Total(position) => write!(f, "t{position}"),
            Place::Parts(parts) => {
                f.write_str("p")?;
                for (i, (partition, mark)) in parts.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{partition}={}", URL_SAFE_NO_PAD.encode(mark))?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Cursor {
    type Err = Error;

    /// Reads what `Display` wrote.
    ///
    /// # Errors
    /// `CursorRefused` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::new(ErrorKind::CursorRefused, "cursor is malformed"))
    }
}

fn parse(text: &str) -> Option<Cursor> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let (incarnation, place) = text.strip_prefix("1.")?.split_once('.')?;
    let incarnation: Incarnation = incarnation.parse().ok()?;
    let cursor = match place.split_at_checked(1)? {
        ("t", digits) => Cursor::total(incarnation, Position(digits.parse().ok().filter(|p| *p <= NUMBER_MAX)?)),
        ("p", "") => Cursor::parts(incarnation, Vec::new()).ok()?,
        ("p", parts) => {
            let part = |part: &str| {
                let (partition, mark) = part.split_once('=')?;
                Some((partition.parse().ok()?, URL_SAFE_NO_PAD.decode(mark).ok()?))
            };
            Cursor::parts(incarnation, parts.split(',').map(part).collect::<Option<_>>()?).ok()?
        }
        _ => return None,
    };
    // One place has one text: `t007` and `t7` must not both be taken.
    (cursor.to_string() == text).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Incarnation {
        Incarnation([7; 16])
    }

    fn parts(parts: &[(u32, &str)]) -> Cursor {
        Cursor::parts(here(), parts.iter().map(|(p, m)| (*p, m.as_bytes().to_vec())).collect()).unwrap()
    }

    #[test]
    fn a_cursor_prints_and_reads_back() {
        for cursor in [Cursor::total(here(), Position(42)), parts(&[]), parts(&[(0, "a"), (7, "\u{ff}b")])] {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        let good = Cursor::total(here(), Position(42)).to_string();
        for bad in ["", "42", "1.x.t1", &format!("{good}0x"), &good.replace("t42", "t042"), &"1.".repeat(1024)] {
            assert_eq!(bad.parse::<Cursor>().unwrap_err().kind(), ErrorKind::CursorRefused, "{bad}");
        }
    }

    #[test]
    fn cursors_compare_as_before_after_or_not_at_all() {
        let total = |position| Cursor::total(here(), Position(position));
        assert!(total(1) < total(2));
        assert_eq!(total(1).partial_cmp(&Cursor::total(Incarnation([8; 16]), Position(2))), None);
        assert!(parts(&[(0, "a")]) < parts(&[(0, "a"), (1, "a")]));
        assert!(parts(&[(0, "b"), (1, "a")]).partial_cmp(&parts(&[(0, "a"), (1, "b")])).is_none());
    }
}
