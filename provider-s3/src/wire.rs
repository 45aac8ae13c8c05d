//! Fields of what this provider writes: unsigned LEB128 numbers, lengths before bytes. Pure.

use evstore_api::name::{Namespace, StreamName};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{Error, ErrorKind, Result, StreamId, Timestamp};

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Bytes of a known length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A number.
    pub fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A time, zigzagged.
    pub fn time(&mut self, time: Timestamp) {
        self.number(((time.0 << 1) ^ (time.0 >> 63)) as u64);
    }

    /// A length and so many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Both parts of a stream's name.
    pub fn stream(&mut self, stream: &StreamId) {
        self.bytes(stream.namespace.as_str().as_bytes());
        self.bytes(stream.name.as_str().as_bytes());
    }

    /// What was written, and its checksum.
    pub fn sealed(mut self) -> Vec<u8> {
        let sum = crc32fast::hash(&self.0).to_le_bytes();
        self.raw(&sum);
        self.0
    }
}

/// Takes fields off a buffer.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Begins behind a checksum that holds.
    pub fn sealed(stored: &'a [u8]) -> Result<Self> {
        let at = stored.len().checked_sub(4).ok_or_else(short)?;
        let (body, sum) = stored.split_at(at);
        if crc32fast::hash(body).to_le_bytes() != *sum {
            return Err(corrupt("stored bytes fail their checksum"));
        }
        Ok(Self(body))
    }

    /// Bytes of a known length.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An identity.
    pub fn raw(&mut self) -> Result<[u8; 16]> {
        self.take(16)?.try_into().map_err(|_| short())
    }

    /// Any number.
    pub fn varint(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number does not end"))
    }

    /// A number as the contract has them.
    pub fn number(&mut self) -> Result<u64> {
        let number = self.varint()?;
        if number > NUMBER_MAX { Err(corrupt("a number is out of bounds")) } else { Ok(number) }
    }

    /// A small number.
    pub fn small(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| corrupt("a number is out of bounds"))
    }

    /// A count of things that take a byte at least, so that a lie reserves no memory.
    pub fn count(&mut self) -> Result<usize> {
        let count = usize::try_from(self.varint()?).map_err(|_| short())?;
        if count > self.0.len() { Err(short()) } else { Ok(count) }
    }

    /// A time.
    pub fn time(&mut self) -> Result<Timestamp> {
        let zigzag = self.varint()?;
        Ok(Timestamp((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)))
    }

    /// A length and so many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    /// Text that is valid in its way.
    pub fn text<T>(&mut self, check: impl FnOnce(&'a str) -> Result<T>) -> Result<T> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| corrupt("a stored text is not one"))?;
        check(text).map_err(|cause| corrupt("a stored name is not valid").caused_by(cause))
    }

    /// Both parts of a stream's name.
    pub fn stream(&mut self) -> Result<StreamId> {
        Ok(StreamId { namespace: self.text(Namespace::new)?, name: self.text(StreamName::new)? })
    }

    /// Refuses what goes on.
    pub fn finish(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt("stored bytes go on behind their end")) }
    }
}

/// Stored bytes that are not what this provider writes.
pub fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Stored bytes of another release.
pub fn newer(message: &'static str) -> Error {
    Error::new(ErrorKind::Schema, message)
}

fn short() -> Error {
    corrupt("stored bytes end too early")
}
