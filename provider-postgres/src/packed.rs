//! Many commits in one value, as `packed!` in `statements.rs` writes them: a row of the protocol for each takes the client longer than
//! all that it does with a small commit. Pure, as `codec.rs`.

use crate::error::{Result as Worked, corrupt};
use bytes::Bytes;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, Epoch, Revision, StreamId, Timestamp, format,
};

/// A commit with events and without the columns that hardly any has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// What stands for its stream in the tables.
    pub key: i64,
    /// Its slot.
    pub number: i64,
    revision: i64,
    count: i64,
    recorded_at: i64,
    /// Below zero where no epoch copied it here.
    imported: i64,
    id: [u8; 16],
    digest: [u8; 16],
    events: &'a [u8],
}

/// Reads what lies one behind the other; nothing for a value that is null.
///
/// # Errors
/// `Corrupt` where it is cut short.
pub fn commits(mut packed: &[u8]) -> impl Iterator<Item = Worked<Packed<'_>>> {
    std::iter::from_fn(move || {
        if packed.is_empty() {
            return None;
        }
        let read = Packed::read(&mut packed);
        if read.is_none() {
            packed = &[];
        }
        Some(read.ok_or_else(|| corrupt("packed commits are cut short").into()))
    })
}

/// Reads rows of so many numbers of eight bytes.
///
/// # Errors
/// `Corrupt` where the last is cut short.
pub fn numbers<const COUNT: usize>(mut packed: &[u8]) -> Worked<Vec<[i64; COUNT]>> {
    let mut rows = Vec::with_capacity(packed.len() / 8 / COUNT);
    while !packed.is_empty() {
        let mut row = [0; COUNT];
        for number in &mut row {
            *number = integer(&mut packed).ok_or_else(|| corrupt("packed numbers are cut short"))?;
        }
        rows.push(row);
    }
    Ok(rows)
}

fn take<const COUNT: usize>(from: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

fn integer(from: &mut &[u8]) -> Option<i64> {
    take(from).map(i64::from_be_bytes)
}

fn unsigned(number: i64) -> Worked<u64> {
    u64::try_from(number).map_err(|_| corrupt("a stored number is negative").into())
}

impl<'a> Packed<'a> {
    fn read(from: &mut &'a [u8]) -> Option<Self> {
        Some(Self {
            key: integer(from)?,
            number: integer(from)?,
            revision: integer(from)?,
            count: integer(from)?,
            recorded_at: integer(from)?,
            imported: integer(from)?,
            id: take(from)?,
            digest: take(from)?,
            events: {
                let bytes = usize::try_from(i32::from_be_bytes(take(from)?)).ok()?;
                from.split_off(..bytes)?
            },
        })
    }

    /// The commit without its events, and without a position, as it was packed without one.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn frame(&self, stream: StreamId) -> Worked<Commit> {
        Ok(Commit {
            stream,
            id: CommitId(self.id),
            number: CommitNumber(unsigned(self.number)?),
            kind: CommitKind::Events,
            first_revision: Revision(unsigned(self.revision)?),
            count: u32::try_from(self.count).map_err(|_| corrupt("a commit's count is out of bounds"))?,
            first_position: None,
            recorded_at: Timestamp(self.recorded_at),
            digest: ContentDigest(self.digest),
            imported: u64::try_from(self.imported).ok().map(Epoch),
            group: None,
            extensions: Vec::new(),
            content: Content::Kept,
            events: Vec::new(),
        })
    }

    /// The commit, whole; the checksum of its events is verified.
    ///
    /// # Errors
    /// `Corrupt`, and `Schema` where a newer release wrote it.
    pub fn commit(&self, stream: StreamId) -> Worked<Commit> {
        let mut commit = self.frame(stream)?;
        // Copied out, so that who keeps one event does not keep a page.
        commit.events = format::decode_events(commit.id, &Bytes::copy_from_slice(self.events))?;
        if !commit.is_whole() {
            return Err(corrupt("a commit's events are not as many as its row says").with("commit", commit.id).into());
        }
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [7_i64, 3, 11, 1, 1_000, -1] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend([1; 16]);
        bytes.extend([2; 16]);
        bytes.extend(2_i32.to_be_bytes());
        bytes.extend([8, 9]);
        bytes
    }

    #[test]
    fn commits_follow_each_other() {
        let two = [packed(), packed()].concat();
        let read: Vec<_> = commits(&two).map(Result::unwrap).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].key, read[1].number, read[1].events), (7, 3, &[8, 9][..]));
        let frame = read[0].frame(StreamId::new("a-1").unwrap()).unwrap();
        assert_eq!((frame.first_revision, frame.count, frame.imported), (Revision(11), 1, None));
        assert!(commits(&[]).next().is_none());
    }

    #[test]
    fn what_is_cut_short_is_an_error_once() {
        let whole = packed();
        for length in 1..whole.len() {
            let read: Vec<_> = commits(&whole[..length]).collect();
            assert!(matches!(&read[..], [Err(_)]), "{length}");
        }
        assert!(numbers::<2>(&[0; 17]).is_err());
        assert_eq!(numbers::<2>(&[0; 32]).unwrap(), [[0, 0], [0, 0]]);
    }
}
