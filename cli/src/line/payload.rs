//! Bytes in a JSON line: verbatim where they are JSON without a line break, else as base64. Byte-exact either way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use evstore_api::{Error, ErrorKind};
use serde_json::value::RawValue;

/// The bytes as they can stand in a line unchanged: JSON, without a line break, without spaces around it.
pub fn verbatim(bytes: &[u8]) -> Option<&str> {
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    let value: &RawValue = serde_json::from_slice(bytes).ok()?;
    // Spaces before and after a value belong to the line, not to the value: they would be lost.
    (value.get().len() == bytes.len()).then(|| value.get())
}

/// The bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes that a line has under a name, or under that name with `_base64`.
pub fn decode(verbatim: Option<&RawValue>, base64: Option<&str>, both: &'static str) -> Result<Option<Bytes>, Error> {
    match (verbatim, base64) {
        (Some(_), Some(_)) => Err(Error::new(ErrorKind::Invalid, "a line has the same bytes twice").with("keys", both)),
        (Some(value), None) => Ok(Some(Bytes::copy_from_slice(value.get().as_bytes()))),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(cause) => {
                Err(Error::new(ErrorKind::Invalid, "bytes are not base64").with("keys", both).caused_by(cause))
            }
        },
        (None, None) => Ok(None),
    }
}
