//! A commit as lines of JSON, one for each event, and back. The keys are those of `evstore export`; docs/ARCHIVE.md has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Error, ErrorKind, Event,
    EventId, EventType, Extension, Position, Result, Revision, StreamId, Timestamp, format, number::NUMBER_MAX,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{Display, Write as _};

/// Writes a commit that has all of its events and a position.
pub fn write(commit: &Commit, position: Position, out: &mut Vec<u8>) {
    for event in &commit.events {
        let ordinal = u64::from(event.ordinal);
        let mut object = Object::new(out);
        object.text("stream", commit.stream.name.as_str());
        if !commit.stream.namespace.as_str().is_empty() {
            object.text("namespace", commit.stream.namespace.as_str());
        }
        object.raw("revision", commit.first_revision.0 + ordinal);
        object.raw("position", position.0 + ordinal);
        object.text("type", event.event_type.as_str());
        if let Some(time) = event.occurred_at {
            object.time("time", time);
        }
        if event.schema != 1 {
            object.raw("schema", event.schema);
        }
        let verbatim = object.bytes("data", &event.data);
        if event.content_type != implied(verbatim) {
            object.text("content_type", event.content_type.as_str());
        }
        if !event.metadata.is_empty() {
            object.bytes("metadata", &event.metadata);
        }
        if event.id != EventId::derive(commit.id, event.ordinal) {
            object.raw("id", format_args!("\"{}\"", event.id));
        }
        object.extensions("extensions", &event.extensions);
        object.raw("commit", format_args!("\"{}\"", commit.id));
        object.raw("number", commit.number);
        object.time("recorded_at", commit.recorded_at);
        if commit.count != 1 {
            object.raw("count", commit.count);
        }
        if event.ordinal == 0 {
            // It follows from the content, which the frame's own checksum covers.
            if commit.digest != format::digest(&commit.stream, commit.id, &commit.kind, &commit.events) {
                object.raw("digest", format_args!("\"{}\"", commit.digest));
            }
            if let Some(epoch) = commit.imported {
                object.raw("imported", epoch);
            }
            if let Some(group) = commit.group {
                object.raw("group", format_args!("\"{group}\""));
            }
            object.extensions("commit_extensions", &commit.extensions);
        }
        object.end();
    }
}

fn implied(verbatim: bool) -> ContentType {
    if verbatim { ContentType::json() } else { ContentType::bytes() }
}

/// A JSON object that is written key by key.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl<'a> Object<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(&mut self, key: &str, json: impl Display) {
        self.key(key);
        // Writing to memory can't fail.
        let _ = write!(Text(self.out), "{json}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        // A string is always JSON, and writing to memory can't fail.
        let _ = serde_json::to_writer(&mut *self.out, text);
    }

    fn time(&mut self, key: &str, time: Timestamp) {
        match jiff::Timestamp::from_microsecond(time.0) {
            Ok(text) => self.raw(key, format_args!("\"{text}\"")),
            // No calendar reaches there.
            Err(_) => self.raw(key, time.0),
        }
    }

    /// Verbatim where the bytes are JSON in one line, and says so.
    fn bytes(&mut self, key: &str, bytes: &[u8]) -> bool {
        match verbatim(bytes) {
            Some(json) => {
                self.key(key);
                self.out.extend_from_slice(json.as_bytes());
                true
            }
            None => {
                self.raw(&format!("{key}_base64"), format_args!("\"{}\"", STANDARD.encode(bytes)));
                false
            }
        }
    }

    fn extensions(&mut self, key: &str, extensions: &[Extension]) {
        if extensions.is_empty() {
            return;
        }
        self.key(key);
        let mut separator = b'[';
        for extension in extensions {
            self.out.push(separator);
            separator = b',';
            let mut object = Object::new(self.out);
            object.raw("tag", extension.tag);
            if extension.critical {
                object.raw("critical", true);
            }
            object.raw("value_base64", format_args!("\"{}\"", STANDARD.encode(&extension.value)));
            object.out.push(b'}');
        }
        self.out.push(b']');
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// The bytes as they can stand in a line unchanged: JSON, without a line break, without spaces around it.
fn verbatim(bytes: &[u8]) -> Option<&str> {
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    let value: &RawValue = serde_json::from_slice(bytes).ok()?;
    (value.get().len() == bytes.len()).then(|| value.get())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(default)]
    namespace: Option<String>,
    revision: u64,
    position: u64,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(default)]
    time: Option<Moment>,
    #[serde(default)]
    schema: Option<u32>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    metadata: Option<&'a RawValue>,
    #[serde(default)]
    metadata_base64: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    extensions: Vec<ExtensionKeys>,
    #[serde(borrow)]
    commit: Cow<'a, str>,
    number: u64,
    recorded_at: Moment,
    #[serde(default)]
    count: Option<u32>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    imported: Option<u64>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    commit_extensions: Vec<ExtensionKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtensionKeys {
    tag: u32,
    #[serde(default)]
    critical: bool,
    value_base64: String,
}

/// A time as text, or as microseconds since 1970 where no calendar reaches.
#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Micros(i64),
    Text(String),
}

/// Keeps `null` as a value: data may be just that.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What a line says of itself before its event is made, for whoever looks for some only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted<'a> {
    All,
    Stream(&'a StreamId),
}

/// The commits of lines, in their order.
///
/// # Errors
/// `Corrupt` for lines that are none.
pub fn read(lines: &[u8]) -> Result<Vec<Commit>> {
    read_wanted(lines, Wanted::All)
}

/// The commits of one stream among lines.
///
/// # Errors
/// As [`read`].
pub fn read_stream(lines: &[u8], stream: &StreamId) -> Result<Vec<Commit>> {
    read_wanted(lines, Wanted::Stream(stream))
}

fn read_wanted(lines: &[u8], wanted: Wanted<'_>) -> Result<Vec<Commit>> {
    let mut commits: Vec<Commit> = Vec::new();
    let mut stored_digest: Vec<Option<ContentDigest>> = Vec::new();
    // The name stands first in every line, so that what is of other streams is passed over without a look inside.
    let mut begin = b"{\"stream\":".to_vec();
    if let Wanted::Stream(stream) = wanted {
        // A string is always JSON, and writing to memory can't fail.
        let _ = serde_json::to_writer(&mut begin, stream.name.as_str());
    }
    let own = |line: &&[u8]| !line.is_empty() && (wanted == Wanted::All || line.starts_with(&begin));
    for line in lines.split(|byte| *byte == b'\n').filter(own) {
        let keys: Keys<'_> =
            serde_json::from_slice(line).map_err(|cause| corrupt("a line is not an event").caused_by(cause))?;
        if let Wanted::Stream(stream) = wanted
            && (keys.stream != stream.name.as_str()
                || keys.namespace.as_deref().unwrap_or_default() != stream.namespace.as_str())
        {
            continue;
        }
        add(keys, &mut commits, &mut stored_digest)?;
    }
    for (commit, stored) in commits.iter_mut().zip(stored_digest) {
        if !commit.is_whole() {
            return Err(corrupt("a commit has not all of its events").with("stream", &commit.stream));
        }
        commit.digest = match stored {
            Some(digest) => digest,
            None => format::digest(&commit.stream, commit.id, &commit.kind, &commit.events),
        };
    }
    Ok(commits)
}

fn add(keys: Keys<'_>, commits: &mut Vec<Commit>, digests: &mut Vec<Option<ContentDigest>>) -> Result<()> {
    let id: CommitId = keys.commit.parse()?;
    let stream = StreamId::within(keys.namespace.as_deref().unwrap_or_default(), &keys.stream)?;
    let (revision, position) = (bounded(keys.revision)?, bounded(keys.position)?);
    let continues = commits
        .last()
        .is_some_and(|last| !last.is_whole() && last.id == id && last.stream == stream && last.number.0 == keys.number);
    if !continues {
        if commits.last().is_some_and(|last| !last.is_whole()) {
            return Err(corrupt("a commit has not all of its events"));
        }
        digests.push(keys.digest.as_deref().map(str::parse).transpose()?);
        commits.push(Commit {
            stream,
            id,
            number: CommitNumber(bounded(keys.number)?),
            kind: CommitKind::Events,
            first_revision: Revision(revision),
            count: keys.count.unwrap_or(1),
            first_position: Some(Position(position)),
            recorded_at: time(&keys.recorded_at)?,
            digest: ContentDigest([0; 16]),
            imported: keys.imported.map(bounded).transpose()?.map(Epoch),
            group: keys.group.as_deref().map(str::parse).transpose()?,
            extensions: extensions(&keys.commit_extensions)?,
            content: Content::Kept,
            events: Vec::new(),
        });
    }
    let Some(commit) = commits.last_mut() else { return Ok(()) };
    let ordinal = commit.events.len() as u32;
    let follows = commit.first_revision.0 + u64::from(ordinal) == revision
        && commit.first_position.is_some_and(|first| first.0 + u64::from(ordinal) == position);
    if !follows || commit.count == 0 {
        return Err(corrupt("an event does not follow the one before").with("stream", &commit.stream));
    }
    let data = bytes(keys.data, keys.data_base64.as_deref())?.ok_or_else(|| corrupt("an event has no data"))?;
    let content_type = match keys.content_type {
        Some(text) => ContentType::new(text)?,
        None => implied(keys.data.is_some()),
    };
    commit.events.push(Event {
        ordinal,
        id: match keys.id {
            Some(text) => text.parse()?,
            None => EventId::derive(id, ordinal),
        },
        event_type: EventType::new(&keys.r#type)?,
        schema: keys.schema.unwrap_or(1),
        content_type,
        data,
        metadata: bytes(keys.metadata, keys.metadata_base64.as_deref())?.unwrap_or_default(),
        occurred_at: keys.time.as_ref().map(time).transpose()?,
        extensions: extensions(&keys.extensions)?,
    });
    Ok(())
}

fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn bounded(number: u64) -> Result<u64> {
    if number <= NUMBER_MAX { Ok(number) } else { Err(corrupt("a number is out of bounds")) }
}

fn time(moment: &Moment) -> Result<Timestamp> {
    match moment {
        Moment::Micros(micros) => Ok(Timestamp(*micros)),
        Moment::Text(text) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Ok(Timestamp(time.as_microsecond())),
            Err(cause) => Err(corrupt("a time is not one").caused_by(cause)),
        },
    }
}

fn bytes(verbatim: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Bytes>> {
    match (verbatim, base64) {
        (Some(value), _) => Ok(Some(Bytes::copy_from_slice(value.get().as_bytes()))),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(cause) => Err(corrupt("bytes are not base64").caused_by(cause)),
        },
        (None, None) => Ok(None),
    }
}

fn extensions(keys: &[ExtensionKeys]) -> Result<Vec<Extension>> {
    keys.iter()
        .map(|keys| {
            let value = bytes(None, Some(&keys.value_base64))?.unwrap_or_default();
            Ok(Extension { tag: keys.tag, critical: keys.critical, value })
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use evstore_api::NewEvent;

    /// A commit with everything that a commit can have.
    pub fn commit(stream: &str, number: u64, first: u64, position: u64, count: u32) -> Commit {
        let id = CommitId::derive(&[stream.as_bytes(), &number.to_le_bytes()]);
        let data: [&[u8]; 6] = [b"{\"a\": [1, 2.50, null]}", b"null", b"", b"\x00\xff", b" 1", b"{\"b\":\n1}"];
        let event = |ordinal: u32| {
            let mut event =
                NewEvent::new(EventType::new("it \"happened\"").unwrap(), data[ordinal as usize % 6].to_vec());
            if ordinal.is_multiple_of(2) {
                event.content_type = ContentType::json();
                event.metadata = Bytes::from_static(b"\"\\u00fc\"");
                event.occurred_at = Some(Timestamp(i64::MAX - i64::from(ordinal)));
            } else {
                event.id = Some(EventId([ordinal as u8; 16]));
                event.schema = 7;
                event.occurred_at = Some(Timestamp(-1));
                event.extensions = vec![Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"x") }];
            }
            Event::recorded(event, id, ordinal)
        };
        let stream = StreamId::within(if number.is_multiple_of(2) { "tenant \u{fc}" } else { "" }, stream).unwrap();
        let events: Vec<Event> = (0..count).map(event).collect();
        let odd = number.is_multiple_of(3);
        Commit {
            digest: format::digest(&stream, id, &CommitKind::Events, &events),
            stream,
            id,
            number: CommitNumber(number),
            kind: CommitKind::Events,
            first_revision: Revision(first),
            count,
            first_position: Some(Position(position)),
            recorded_at: Timestamp(1_790_000_000_123_456 + number as i64),
            imported: odd.then_some(Epoch(3)),
            group: odd.then_some(CommitId([5; 16])),
            extensions: if odd {
                vec![Extension { tag: 1 << 31, critical: false, value: Bytes::new() }]
            } else {
                Vec::new()
            },
            content: Content::Kept,
            events,
        }
    }

    #[test]
    fn a_commit_comes_back_as_it_was() {
        let commits: Vec<Commit> = (1..=6).map(|n| commit("a-1", n, n * 10, n * 100, n as u32)).collect();
        let mut lines = Vec::new();
        commits.iter().for_each(|commit| write(commit, commit.first_position.unwrap(), &mut lines));
        assert_eq!(read(&lines).unwrap(), commits);
        assert!(lines.split(|byte| *byte == b'\n').all(|line| line.is_empty() || line.starts_with(b"{\"stream\":")));
        let own = read_stream(&lines, &commits[1].stream).unwrap();
        assert_eq!(own.len(), 3);
    }

    #[test]
    fn what_is_missing_or_out_of_order_is_refused() {
        let whole = commit("a-1", 1, 1, 1, 3);
        let mut lines = Vec::new();
        write(&whole, Position(1), &mut lines);
        let parts: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        for bad in [parts[..2].concat(), [parts[0], parts[2]].concat(), [parts[1], parts[2]].concat(), b"{}\n".to_vec()]
        {
            assert_eq!(read(&bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
