//! The catalog: which segments there are. Each change is a new object under the next number, put where there is none.

use crate::error;
use crate::segment::{Part, checksum, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evstore_api::{Commit, Position, Result, Revision, StreamId};
use serde::{Deserialize, Serialize};

/// The format of catalogs that this release writes and reads.
const FORMAT: u32 = 1;
/// Bits of the filter for each stream, and how many of them a stream sets: one in a hundred of other streams seems to be there.
const BITS_PER_STREAM: usize = 10;
const BITS_SET: u64 = 7;

/// The key of a catalog.
pub fn key(number: u64) -> String {
    format!("catalog/{number:020}.json")
}

/// The number of a catalog's key.
pub fn number_of(key: &str) -> Option<u64> {
    key.strip_prefix("catalog/")?.strip_suffix(".json")?.parse().ok()
}

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Its format.
    pub format: u32,
    /// Identity of the archive: the note in the hot store names it too.
    pub archive: String,
    /// Its number.
    pub number: u64,
    /// Who wrote it, to tell a lost answer from another's catalog.
    pub writer: String,
    /// The position up to which the feed was looked at for commits to archive.
    pub looked_at: u64,
    /// The segments, by their first positions.
    pub segments: Vec<Segment>,
    /// Streams of which something was truncated or deleted that may still be in a segment, by namespace and name.
    pub gone: Vec<Gone>,
    /// Objects that belonged to it and are to be removed.
    pub garbage: Vec<String>,
}

/// A segment in a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its key.
    pub key: String,
    /// Number of the catalog that had its commits first.
    pub since: u64,
    /// The first position in it.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Commits in it.
    pub commits: u64,
    /// Events in it.
    pub events: u64,
    /// Streams in it.
    pub streams: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of its lines, unpacked.
    pub raw_bytes: u64,
    /// BLAKE3 of the object.
    pub blake3: String,
    /// BLAKE3 over its commits as format v1 encodes them.
    pub content: String,
    /// Its index.
    pub index: Part,
    /// A Bloom filter over its streams, as base64.
    pub filter: Filter,
}

/// What of a stream is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub stream: String,
    /// The first revision that is not; absent where all is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

impl Gone {
    /// A stream of which nothing before a revision is left; nothing at all without one.
    pub fn new(stream: &StreamId, before: Option<Revision>) -> Self {
        let (namespace, name) = (stream.namespace.to_string(), stream.name.to_string());
        Self { namespace, stream: name, before: before.map(|before| before.0) }
    }

    fn is(&self, stream: &StreamId) -> std::cmp::Ordering {
        (self.namespace.as_str(), self.stream.as_str()).cmp(&(stream.namespace.as_str(), stream.name.as_str()))
    }
}

/// A Bloom filter over names of streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Filter(Vec<u8>);

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        STANDARD.encode(filter.0)
    }
}

impl TryFrom<String> for Filter {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, base64::DecodeError> {
        STANDARD.decode(text).map(Self)
    }
}

impl Filter {
    /// Over some streams.
    pub fn new<'a>(streams: impl ExactSizeIterator<Item = &'a StreamId>) -> Self {
        let mut filter = Self(vec![0; (streams.len() * BITS_PER_STREAM).div_ceil(8).max(1)]);
        for stream in streams {
            for bit in filter.bits(stream) {
                filter.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    /// Whether a stream may be among them. False is certain.
    pub fn may_have(&self, stream: &StreamId) -> bool {
        !self.0.is_empty() && self.bits(stream).all(|bit| self.0[bit / 8] & (1 << (bit % 8)) != 0)
    }

    fn bits(&self, stream: &StreamId) -> impl Iterator<Item = usize> + use<> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(stream.namespace.as_str().len() as u64).to_le_bytes());
        hasher.update(stream.namespace.as_str().as_bytes());
        hasher.update(stream.name.as_str().as_bytes());
        let hash = hasher.finalize();
        let half =
            |at: usize| hash.as_bytes()[at..at + 8].iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        let (one, two, size) = (half(0), half(8) | 1, self.0.len() as u64 * 8);
        (0..BITS_SET).map(move |n| (one.wrapping_add(n.wrapping_mul(two)) % size) as usize)
    }
}

impl Catalog {
    /// That of a new archive.
    pub fn first(archive: String, writer: String) -> Self {
        let (segments, gone, garbage) = (Vec::new(), Vec::new(), Vec::new());
        Self { format: FORMAT, archive, number: 1, writer, looked_at: 0, segments, gone, garbage }
    }

    /// The next one, to be changed before it is written.
    pub fn next(&self, writer: String) -> Self {
        Self { number: self.number + 1, writer, ..self.clone() }
    }

    /// The last position that it holds.
    pub fn through(&self) -> Position {
        Position(self.segments.iter().map(|segment| segment.last).max().unwrap_or(0))
    }

    /// Notes that something of a stream is gone. What is more stays.
    pub fn note_gone(&mut self, new: Gone, stream: &StreamId) -> bool {
        if !self.segments.iter().any(|segment| segment.filter.may_have(stream)) {
            return false;
        }
        match self.gone.binary_search_by(|gone| gone.is(stream)) {
            Ok(at) => match (self.gone[at].before, new.before) {
                (None, _) => false,
                (Some(had), Some(has)) if has <= had => false,
                _ => {
                    self.gone[at] = new;
                    true
                }
            },
            Err(at) => {
                self.gone.insert(at, new);
                true
            }
        }
    }

    /// Whether a commit was truncated or deleted since it was archived.
    pub fn is_gone(&self, commit: &Commit) -> bool {
        self.gone
            .binary_search_by(|gone| gone.is(&commit.stream))
            .is_ok_and(|at| self.gone[at].before.is_none_or(|before| commit.last_revision().0 < before))
    }

    /// Whether something that is gone may be in a segment.
    pub fn has_gone(&self, segment: &Segment) -> bool {
        self.gone.iter().any(|gone| {
            StreamId::within(&gone.namespace, &gone.stream).is_ok_and(|stream| segment.filter.may_have(&stream))
        })
    }

    /// Its bytes: itself as one line of JSON, and a line with the BLAKE3 of that.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        let sum = hex(&checksum(&bytes));
        bytes.extend_from_slice(format!("\n{{\"blake3\":\"{sum}\"}}\n").as_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt`, `Schema` for one that a newer release wrote; naming the object.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (Some(line), Some(sum)) = (lines.next(), lines.next()) else {
            return Err(error::damaged(object, "it has not two lines"));
        };
        if sum != format!("{{\"blake3\":\"{}\"}}", hex(&checksum(line))).as_bytes() || lines.next() != Some(&[]) {
            return Err(error::damaged(object, "it fails its checksum"));
        }
        let Ok(Format { format }) = serde_json::from_slice(line) else {
            return Err(error::damaged(object, "it is no catalog"));
        };
        if format != FORMAT {
            return Err(error::newer(object));
        }
        serde_json::from_slice(line).map_err(|_| error::damaged(object, "it is no catalog"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(n: u32) -> StreamId {
        StreamId::new(format!("order-{n}")).unwrap()
    }

    #[test]
    fn a_filter_has_what_was_put_in_and_hardly_anything_else() {
        let streams: Vec<StreamId> = (0..1_000).map(stream).collect();
        let filter = Filter::new(streams.iter());
        assert!(streams.iter().all(|stream| filter.may_have(stream)));
        let wrong = (1_000..11_000).filter(|n| filter.may_have(&stream(*n))).count();
        assert!(wrong < 200, "{wrong} of 10000");
        let text = String::from(filter.clone());
        assert_eq!(Filter::try_from(text).unwrap(), filter);
    }

    #[test]
    fn a_catalog_is_read_as_it_was_written_and_damage_is_found() {
        let catalog = Catalog::first("a".into(), "w".into()).next("v".into());
        let bytes = catalog.encode();
        assert_eq!(Catalog::decode("c", &bytes).unwrap(), catalog);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Catalog::decode("c", &damaged).is_err(), "byte {at}");
        }
        assert_eq!(number_of(&key(7)), Some(7));
    }
}
