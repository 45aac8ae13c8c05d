//! Checksums of rows: CRC-32 over every column and the name that the row belongs to, so that a changed bit is noticed wherever
//! it is. Events and the data of snapshots have one of their own, which the row's covers in their place.

use evstore_api::StreamId;

/// Columns one after the other, each beginning with its kind and length, so that no two rows give the same bytes. Collected
/// in a buffer on the stack, as there is one for each row that is read.
struct Columns {
    hasher: crc32fast::Hasher,
    buffer: [u8; Self::BYTES],
    used: usize,
}

impl Columns {
    /// Holds the columns of nearly every row.
    const BYTES: usize = 192;

    fn new(named: u32) -> Self {
        let columns = Self { hasher: crc32fast::Hasher::new(), buffer: [0; Self::BYTES], used: 0 };
        columns.raw(&named.to_le_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        if self.used + bytes.len() > Self::BYTES {
            self.hasher.update(&self.buffer[..self.used]);
            self.used = 0;
        }
        match self.buffer.get_mut(self.used..self.used + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.used += bytes.len();
            }
            None => self.hasher.update(bytes),
        }
        self
    }

    fn number(self, number: i64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        self.raw(&(bytes.len() as u64).to_le_bytes()).raw(bytes)
    }

    fn maybe_number(self, number: Option<i64>) -> Self {
        self.raw(&[u8::from(number.is_some())]).number(number.unwrap_or_default())
    }

    fn maybe_bytes(self, bytes: Option<&[u8]>) -> Self {
        self.raw(&[u8::from(bytes.is_some())]).bytes(bytes.unwrap_or_default())
    }

    fn checksum(mut self) -> i64 {
        self.hasher.update(&self.buffer[..self.used]);
        i64::from(self.hasher.finalize())
    }
}

/// The checksum of bytes.
pub fn of(bytes: &[u8]) -> i64 {
    i64::from(crc32fast::hash(bytes))
}

/// The checksum of a stream's name, for those of its rows.
pub fn of_name(stream: &StreamId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(stream.namespace.as_str().as_bytes());
    // No name holds this byte: UTF-8 has none.
    hasher.update(&[0xff]);
    hasher.update(stream.name.as_str().as_bytes());
    hasher.finalize()
}

/// The checksum that encoded events end with, which decoding verifies.
pub fn of_events(encoded: &[u8]) -> Option<i64> {
    encoded.last_chunk().map(|last| i64::from(u32::from_le_bytes(*last)))
}

/// The checksum of a commit's row once its events were taken away: all its bits turned. The statement that strips does the
/// same, and so does not bless a row that was damaged before.
pub fn of_stripped(checksum: i64) -> i64 {
    i64::from(u32::MAX) - checksum
}

/// The columns of a commit's row.
#[derive(Debug)]
pub struct CommitSum<'a> {
    pub named: u32,
    pub position: i64,
    pub stream: i64,
    pub number: i64,
    pub revision: i64,
    pub count: i64,
    pub recorded_at: i64,
    pub id: &'a [u8; 16],
    pub digest: &'a [u8; 16],
    pub marker: Option<&'a [u8]>,
    pub imported: Option<i64>,
    pub group: Option<&'a [u8]>,
    pub extensions: Option<&'a [u8]>,
    pub events: Option<i64>,
}

impl CommitSum<'_> {
    /// The checksum while the content is kept.
    pub fn checksum(&self) -> i64 {
        Columns::new(self.named)
            .number(self.position)
            .number(self.stream)
            .number(self.number)
            .number(self.revision)
            .number(self.count)
            .number(self.recorded_at)
            .bytes(self.id)
            .bytes(self.digest)
            .maybe_bytes(self.marker)
            .maybe_number(self.imported)
            .maybe_bytes(self.group)
            .maybe_bytes(self.extensions)
            .maybe_number(self.events)
            .checksum()
    }
}

/// The columns of a stream's row. Its key is not among them: it is given when the row is written.
#[derive(Debug)]
pub struct StreamSum<'a> {
    pub named: u32,
    pub revision: i64,
    pub number: i64,
    pub first_retained: i64,
    pub recorded_at: i64,
    pub last_id: &'a [u8; 16],
    pub last_marker: Option<&'a [u8]>,
    pub last_imported: Option<i64>,
}

impl StreamSum<'_> {
    pub fn checksum(&self) -> i64 {
        Columns::new(self.named)
            .number(self.revision)
            .number(self.number)
            .number(self.first_retained)
            .number(self.recorded_at)
            .bytes(self.last_id)
            .maybe_bytes(self.last_marker)
            .maybe_number(self.last_imported)
            .checksum()
    }
}

/// The columns of a snapshot's row.
#[derive(Debug)]
pub struct SnapshotSum<'a> {
    pub named: u32,
    pub revision: i64,
    pub number: i64,
    pub id: &'a [u8; 16],
    pub schema: i64,
    pub content_type: &'a str,
    pub taken_at: i64,
    pub data: i64,
}

impl SnapshotSum<'_> {
    pub fn checksum(&self) -> i64 {
        Columns::new(self.named)
            .number(self.revision)
            .number(self.number)
            .bytes(self.id)
            .number(self.schema)
            .bytes(self.content_type.as_bytes())
            .number(self.taken_at)
            .number(self.data)
            .checksum()
    }
}

/// The columns of a small record's row.
#[derive(Debug)]
pub struct RecordSum<'a> {
    pub kind: &'a str,
    pub name: &'a str,
    pub number: i64,
    pub epoch: i64,
    pub updated_at: i64,
    pub value: Option<&'a [u8]>,
}

impl RecordSum<'_> {
    pub fn checksum(&self) -> i64 {
        Columns::new(0)
            .bytes(self.kind.as_bytes())
            .bytes(self.name.as_bytes())
            .number(self.number)
            .number(self.epoch)
            .number(self.updated_at)
            .maybe_bytes(self.value)
            .checksum()
    }
}

/// The checksum of a range of positions that were removed.
pub fn of_removed(first: i64, last: i64) -> i64 {
    Columns::new(0).number(first).number(last).checksum()
}
