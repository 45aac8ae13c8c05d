//! Places in the feed of `feed = "sharded-index"`. Pure.
//!
//! A commit's place is when it was appended, a microsecond behind its stream's previous one at least, and then what tells commits of one
//! moment apart. A reader's mark is the place of the last commit that it was given, and how many commits there were in the spans of time
//! before it: one that comes behind a reader makes them more.

use crate::codec::corrupt;
use evstore_api::{ContentDigest, Result, Timestamp};
use std::time::Duration;

/// A span of time whose commits a mark counts. AWS takes no request that was signed more than five minutes before
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>, 2026-11-28), so that one which was on its way for
/// as long as that still lands in the span of the mark, or in the one before.
pub const SPAN: Duration = Duration::from_secs(6 * 60);

/// Bytes of the moment: enough for two thousand years.
const AT_BYTES: usize = 7;
const TIE_BYTES: usize = 4;
const PLACE_BYTES: usize = AT_BYTES + TIE_BYTES;
/// The last moment that a place can have.
pub const AT_MAX: u64 = (1 << (8 * AT_BYTES)) - 1;

/// Where a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// When it was appended, in microseconds since 1970.
    pub at: u64,
    /// A part of the digest of its content.
    tie: [u8; TIE_BYTES],
}

impl Place {
    /// Of a commit that is appended now, behind the one that has this place.
    pub fn behind(last: Option<Place>, now: Timestamp, digest: ContentDigest) -> Self {
        let at = last.map_or(0, |last| last.at + 1).max(micros(now)).min(AT_MAX);
        let [a, b, c, d, ..] = digest.0;
        Self { at, tie: [a, b, c, d] }
    }

    /// Whether this may be the place of a commit with this content.
    pub fn is_of(self, digest: ContentDigest) -> bool {
        digest.0.starts_with(&self.tie)
    }

    /// As it stands in the index, where bytes sort as places do.
    pub fn encode(self) -> Vec<u8> {
        [from(self.at).as_slice(), &self.tie].concat()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(stored: &[u8]) -> Result<Self> {
        Self::parse(stored).ok_or_else(|| corrupt("a place in the feed's index is not one"))
    }

    fn parse(stored: &[u8]) -> Option<Self> {
        let (at, tie) = stored.split_at_checked(AT_BYTES)?;
        let at = at.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        Some(Self { at, tie: tie.try_into().ok()? })
    }

    /// A sort key behind this place and before every other.
    pub fn after(self) -> Vec<u8> {
        [self.encode().as_slice(), &[0]].concat()
    }
}

/// A sort key before every place of a moment and behind every earlier one.
pub fn from(at: u64) -> Vec<u8> {
    at.min(AT_MAX).to_be_bytes()[8 - AT_BYTES..].to_vec()
}

/// A sort key behind every place.
pub fn end() -> Vec<u8> {
    vec![0xff; PLACE_BYTES]
}

/// A moment as places count it.
pub fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.0).unwrap_or(0)
}

/// The shard of a stream, by its key.
pub fn shard_of(key: &str, shards: u8) -> u8 {
    (crc32fast::hash(key.as_bytes()) % u32::from(shards)) as u8
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The last place that it was given.
    pub place: Place,
    /// Commits in the span of time before that of the place.
    pub before: u64,
    /// Commits in its own up to it.
    pub within: u64,
}

impl Mark {
    /// Behind the next place.
    pub fn then(mark: Option<Self>, place: Place) -> Self {
        let Some(mark) = mark else { return Self { place, before: 0, within: 1 } };
        match span_of(place.at) - span_of(mark.place.at) {
            0 => Self { place, before: mark.before, within: mark.within + 1 },
            1 => Self { place, before: mark.within, within: 1 },
            _ => Self { place, before: 0, within: 1 },
        }
    }

    /// As it stands in a cursor, where bytes sort as marks do.
    pub fn encode(self) -> Vec<u8> {
        [self.place.encode().as_slice(), &self.before.to_be_bytes(), &self.within.to_be_bytes()].concat()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        let (place, counts) = stored.split_at_checked(PLACE_BYTES)?;
        let (before, within) = counts.split_first_chunk::<8>()?;
        let (before, within) = (u64::from_be_bytes(*before), u64::from_be_bytes(within.try_into().ok()?));
        Some(Self { place: Place::parse(place)?, before, within })
    }

    /// When the spans begin whose commits it counts: the one before its own, and its own.
    pub fn spans(self) -> (u64, u64) {
        let (span, length) = (span_of(self.place.at), SPAN.as_micros() as u64);
        (span.saturating_sub(1) * length, span * length)
    }
}

fn span_of(at: u64) -> u64 {
    at / SPAN.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: ContentDigest = ContentDigest([1; 16]);
    const OTHER: ContentDigest = ContentDigest([2; 16]);
    const SPAN_MICROS: u64 = SPAN.as_micros() as u64;

    fn chain(times: &[i64]) -> Vec<Place> {
        let mut last = None;
        let mut next = |time: &i64| *last.insert(Place::behind(last, Timestamp(*time), FIRST));
        times.iter().map(&mut next).collect()
    }

    #[test]
    fn a_stream_never_falls_back() {
        // A clock that stands, one that jumps back, one from before 1970, and one from the end of time.
        let places = chain(&[-5, 100, 100, 7, 1_000_000, 1_000_001, i64::MAX]);
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn places_read_back_and_sort_as_their_bytes_do() {
        let mut places = chain(&[1, 300, 70_000, AT_MAX as i64 / 2]);
        places.push(Place::behind(None, Timestamp(300), OTHER));
        places.push(Place::behind(Some(places[0]), Timestamp(2), OTHER));
        for one in &places {
            let stored = one.encode();
            assert_eq!(Place::decode(&stored).unwrap(), *one);
            assert!(from(one.at) < stored && stored < one.after() && one.after() < from(one.at + 1) && stored < end());
            for other in places.iter().filter(|other| one < other) {
                assert!(stored < other.encode() && one.after() < other.encode());
            }
        }
        assert!(places[0].is_of(FIRST) && !places[0].is_of(OTHER));
        for bad in [&[0; 10][..], &[0; 12], &[]] {
            assert!(Place::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mark_counts_its_span_and_the_one_before() {
        let place = |at| Place { at, tie: [0; TIE_BYTES] };
        let mut mark = None;
        let mut then = |at| {
            let next = Mark::then(mark, place(at));
            mark = Some(next);
            (next.before, next.within)
        };
        let counts = [SPAN_MICROS, SPAN_MICROS + 1, 2 * SPAN_MICROS, 2 * SPAN_MICROS + 9, 3 * SPAN_MICROS - 1];
        assert_eq!(counts.map(&mut then), [(0, 1), (0, 2), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(then(5 * SPAN_MICROS), (0, 1));
        let mark = mark.unwrap();
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(mark.spans(), (4 * SPAN_MICROS, 5 * SPAN_MICROS));
        assert_eq!(Mark::decode(&mark.encode()[1..]), None);
    }
}
