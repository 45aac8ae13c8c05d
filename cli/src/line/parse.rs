//! Reads lines. What is unknown, missing or contradictory is refused with what is wrong and what is known.

use super::print::implied_content_type;
use super::{BareLine, Body, CheckpointLine, EXPORT_FORMAT, EventLine, ExportHead, Frame, Line, payload};
use crate::moment;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use evstore_api::{
    CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Error, ErrorKind, EventId,
    EventType, Extension, NewEvent, Position, RecordName, RecordNumber, Revision, Snapshot, StoreName, StreamId,
    Timestamp, number::NUMBER_MAX,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::str::FromStr;

/// Every key that a line may have.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keys<'a> {
    stream: Option<String>,
    namespace: Option<String>,
    r#type: Option<String>,
    time: Option<Moment>,
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    #[serde(borrow, deserialize_with = "present")]
    metadata: Option<&'a RawValue>,
    metadata_base64: Option<String>,
    id: Option<String>,
    commit: Option<String>,
    revision: Option<u64>,
    schema: Option<u32>,
    content_type: Option<String>,
    extensions: Option<Vec<ExtensionKeys>>,
    position: Option<u64>,
    number: Option<u64>,
    count: Option<u32>,
    recorded_at: Option<Moment>,
    digest: Option<String>,
    group: Option<String>,
    commit_extensions: Option<Vec<ExtensionKeys>>,
    marker: Option<String>,
    before: Option<u64>,
    epoch: Option<u64>,
    to: Option<String>,
    owner: Option<String>,
    stripped: Option<bool>,
    removed: Option<RemovedKeys>,
    #[serde(borrow)]
    snapshot: Option<SnapshotKeys<'a>>,
    #[serde(borrow)]
    checkpoint: Option<CheckpointKeys<'a>>,
    export: Option<ExportKeys>,
    chain: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtensionKeys {
    tag: u32,
    #[serde(default)]
    critical: bool,
    value_base64: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemovedKeys {
    first: u64,
    last: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportKeys {
    format: u32,
    through: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotKeys<'a> {
    stream: String,
    #[serde(default)]
    namespace: String,
    revision: u64,
    number: u64,
    commit: String,
    schema: u32,
    content_type: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    taken_at: Moment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointKeys<'a> {
    name: String,
    number: u64,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    updated_at: Moment,
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

/// Reads one line, without its line break.
///
/// # Errors
/// `Invalid`, saying what is wrong with it.
pub fn parse(line: &[u8]) -> Result<Line, Error> {
    let keys = keys(line)?;
    let export = keys.export.as_ref().map(export_head).transpose()?;
    let chain = keys.chain.clone();
    Ok(Line { export, chain, body: body(keys)? })
}

/// Reads one event of a stream that is known already, and that the line may leave out.
///
/// # Errors
/// `Invalid`, saying what is wrong with it.
pub fn parse_event_of(wanted: &StreamId, line: &[u8]) -> Result<EventLine, Error> {
    let mut keys = keys(line)?;
    if keys.stream.is_none() {
        keys.stream = Some(wanted.name.to_string());
        keys.namespace = Some(wanted.namespace.to_string());
    }
    match body(keys)? {
        Body::Event(event) if event.stream == *wanted => Ok(event),
        Body::Event(event) => {
            Err(invalid("an event is of another stream").with("given", event.stream).with("wanted", wanted))
        }
        Body::Bare(_) | Body::Removed { .. } | Body::Nothing | Body::Snapshot(_) | Body::Checkpoint(_) => {
            Err(invalid("a line is not an event"))
        }
    }
}

fn keys(line: &[u8]) -> Result<Keys<'_>, Error> {
    // A list would be taken as the values of the keys, in their order.
    if line.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(invalid("a line is not a JSON object"));
    }
    serde_json::from_slice(line).map_err(|cause| {
        // "line 1" is the line within itself; the caller knows which line of the file it is.
        let cause = cause.to_string().replace(" at line 1 column ", " at column ");
        invalid("a line is not an event as a JSON object").caused_by(cause)
    })
}

fn body(keys: Keys<'_>) -> Result<Body, Error> {
    match (&keys.removed, &keys.snapshot, &keys.checkpoint) {
        (Some(removed), None, None) => {
            let (first, last) = (Position(bounded(removed.first)?), Position(bounded(removed.last)?));
            if first.0 == 0 || last < first {
                return Err(invalid("a removed range is empty").with("first", first).with("last", last));
            }
            Ok(Body::Removed { first, last })
        }
        (None, Some(keys), None) => snapshot(keys).map(Body::Snapshot),
        (None, None, Some(keys)) => checkpoint(keys).map(Body::Checkpoint),
        (None, None, None) if keys.marker.is_some() || keys.stripped == Some(true) => bare(&keys).map(Body::Bare),
        (None, None, None) if keys.export.is_some() && keys.stream.is_none() => Ok(Body::Nothing),
        (None, None, None) => event(&keys).map(Body::Event),
        _ => Err(invalid("a line is about more than one thing")),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// What a line of its kind has to have.
fn required<T>(value: Option<T>, key: &'static str) -> Result<T, Error> {
    value.ok_or_else(|| invalid("a key is missing").with("key", key))
}

fn bounded(number: u64) -> Result<u64, Error> {
    if number <= NUMBER_MAX {
        Ok(number)
    } else {
        Err(invalid("a number is out of bounds").with("given", number).with("max", NUMBER_MAX))
    }
}

fn export_head(keys: &ExportKeys) -> Result<ExportHead, Error> {
    if keys.format != EXPORT_FORMAT {
        return Err(Error::new(ErrorKind::Schema, "the export was written by a newer release; upgrade this one")
            .with("format", keys.format)
            .with("ours", EXPORT_FORMAT));
    }
    Ok(ExportHead { through: keys.through.map(bounded).transpose()?.map(Position) })
}

fn timestamp(moment: &Moment) -> Result<Timestamp, Error> {
    match moment {
        // Seconds or milliseconds of other systems must not be taken for microseconds.
        Moment::Micros(micros) if moment::text(Timestamp(*micros)).is_some() => {
            Err(invalid("a time is not RFC 3339 with an offset").with("given", micros))
        }
        Moment::Micros(micros) => Ok(Timestamp(*micros)),
        Moment::Text(text) => moment::parse(text),
    }
}

fn id<T: FromStr<Err = Error>>(text: Option<&String>) -> Result<Option<T>, Error> {
    text.map(|text| text.parse()).transpose()
}

fn stream(keys: &Keys<'_>) -> Result<StreamId, Error> {
    let name = required(keys.stream.as_deref(), "stream")?;
    StreamId::within(keys.namespace.as_deref().unwrap_or_default(), name)
}

fn extensions(keys: Option<&Vec<ExtensionKeys>>) -> Result<Vec<Extension>, Error> {
    let one = |keys: &ExtensionKeys| {
        let value = STANDARD
            .decode(&keys.value_base64)
            .map_err(|cause| invalid("bytes are not base64").with("keys", "value_base64").caused_by(cause))?;
        Ok(Extension { tag: keys.tag, critical: keys.critical, value: value.into() })
    };
    keys.map_or(Ok(Vec::new()), |all| all.iter().map(one).collect())
}

fn event(keys: &Keys<'_>) -> Result<EventLine, Error> {
    let stream = stream(keys)?;
    let event_type = EventType::new(required(keys.r#type.as_deref(), "type")?)?;
    let data = payload::decode(keys.data, keys.data_base64.as_deref(), "data data_base64")?;
    let data = required(data, "data (or data_base64)")?;
    let metadata = payload::decode(keys.metadata, keys.metadata_base64.as_deref(), "metadata metadata_base64")?;
    let content_type = match &keys.content_type {
        Some(text) => ContentType::new(text)?,
        None => implied_content_type(&data),
    };
    let event = NewEvent {
        id: id::<EventId>(keys.id.as_ref())?,
        event_type,
        schema: keys.schema.unwrap_or(1),
        content_type,
        data,
        metadata: metadata.unwrap_or_default(),
        occurred_at: keys.time.as_ref().map(timestamp).transpose()?,
        extensions: extensions(keys.extensions.as_ref())?,
    };
    let revision = keys.revision.map(bounded).transpose()?.map(Revision);
    if revision == Some(Revision(0)) {
        return Err(invalid("revisions start at 1").with("key", "revision"));
    }
    // `digest` is what only an export writes; single lines of `read` and `feed` have a number and no digest.
    let frame = keys.digest.as_ref().map(|_| frame(keys, 1)).transpose()?;
    Ok(EventLine { stream, event, commit: id(keys.commit.as_ref())?, revision, frame })
}

fn frame(keys: &Keys<'_>, count: u32) -> Result<Frame, Error> {
    Ok(Frame {
        number: CommitNumber(bounded(required(keys.number, "number")?)?),
        count: keys.count.unwrap_or(count),
        position: keys.position.map(bounded).transpose()?.map(Position),
        recorded_at: timestamp(required(keys.recorded_at.as_ref(), "recorded_at")?)?,
        digest: required(id::<ContentDigest>(keys.digest.as_ref())?, "digest")?,
        group: id(keys.group.as_ref())?,
        extensions: extensions(keys.commit_extensions.as_ref())?,
    })
}

fn bare(keys: &Keys<'_>) -> Result<BareLine, Error> {
    let epoch = || -> Result<Epoch, Error> { Ok(Epoch(bounded(required(keys.epoch, "epoch")?)?)) };
    let kind = match keys.marker.as_deref() {
        None => CommitKind::Events,
        Some("truncated") => CommitKind::Truncated { before: Revision(bounded(required(keys.before, "before")?)?) },
        Some("deleted") => CommitKind::Deleted,
        Some("moved_out") => {
            CommitKind::MovedOut { epoch: epoch()?, to: StoreName::new(required(keys.to.as_deref(), "to")?)? }
        }
        Some("moved_in") => {
            CommitKind::MovedIn { epoch: epoch()?, owner: StoreName::new(required(keys.owner.as_deref(), "owner")?)? }
        }
        Some(other) => {
            return Err(invalid("no such marker")
                .with("given", other.chars().take(64).collect::<String>())
                .with("known", "truncated deleted moved_out moved_in"));
        }
    };
    let content = if keys.stripped == Some(true) { Content::Stripped } else { Content::Kept };
    // As in an event's line, one event goes without saying; a marker says that it has none.
    let frame = frame(keys, 1)?;
    Ok(BareLine {
        stream: stream(keys)?,
        commit: required(id::<CommitId>(keys.commit.as_ref())?, "commit")?,
        revision: Revision(bounded(required(keys.revision, "revision")?)?),
        kind,
        content,
        frame,
    })
}

fn snapshot(keys: &SnapshotKeys<'_>) -> Result<Snapshot, Error> {
    let data = payload::decode(keys.data, keys.data_base64.as_deref(), "data data_base64")?;
    Ok(Snapshot {
        stream: StreamId::within(&keys.namespace, &keys.stream)?,
        revision: Revision(bounded(keys.revision)?),
        number: CommitNumber(bounded(keys.number)?),
        commit: keys.commit.parse()?,
        schema: keys.schema,
        content_type: ContentType::new(&keys.content_type)?,
        data: required(data, "data (or data_base64)")?,
        taken_at: timestamp(&keys.taken_at)?,
    })
}

fn checkpoint(keys: &CheckpointKeys<'_>) -> Result<CheckpointLine, Error> {
    let value: Option<Bytes> = payload::decode(keys.value, keys.value_base64.as_deref(), "value value_base64")?;
    Ok(CheckpointLine {
        name: RecordName::new(&keys.name)?,
        number: RecordNumber(bounded(keys.number)?),
        updated_at: timestamp(&keys.updated_at)?,
        value: required(value, "value (or value_base64)")?,
    })
}
