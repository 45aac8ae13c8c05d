//! Writes lines. The same store gives the same bytes: fixed order of keys, fixed form of numbers and times.

use super::{CheckpointLine, EXPORT_FORMAT, payload};
use crate::moment;
use evstore_api::{
    Commit, CommitKind, Content, ContentType, EventId, EventRef, Extension, Position, Snapshot, StreamId, Timestamp,
};
use serde_json::Value;
use std::fmt::{Display, Write as _};

/// How much a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Everything on every line, for whoever reads single lines.
    Every,
    /// What can be derived or stands on the commit's first line is left out, for a restore.
    Once,
}

/// What the first line of an export says beside its own content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstLine {
    /// The last position that the export will hold.
    pub through: Option<Position>,
}

/// A JSON object that is written key by key.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn raw(&mut self, key: &str, json: impl Display) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // Writing to a string can't fail.
        let _ = write!(self.0, "\"{key}\":{json}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.raw(key, Value::from(text));
    }

    fn time(&mut self, key: &str, time: Timestamp) {
        self.raw(key, moment::json(time));
    }

    fn bytes(&mut self, key: &str, bytes: &[u8]) {
        match payload::verbatim(bytes) {
            Some(json) => self.raw(key, json),
            None => self.text(&format!("{key}_base64"), &payload::base64(bytes)),
        }
    }

    fn stream(&mut self, stream: &StreamId) {
        self.text("stream", stream.name.as_str());
        if !stream.namespace.as_str().is_empty() {
            self.text("namespace", stream.namespace.as_str());
        }
    }

    fn extensions(&mut self, key: &str, extensions: &[Extension]) {
        if extensions.is_empty() {
            return;
        }
        let one = |extension: &Extension| {
            let mut object = Self::new();
            object.raw("tag", extension.tag);
            if extension.critical {
                object.raw("critical", true);
            }
            object.text("value_base64", &payload::base64(&extension.value));
            object.end()
        };
        let all: Vec<String> = extensions.iter().map(one).collect();
        self.raw(key, format!("[{}]", all.join(",")));
    }

    fn first_line(&mut self, first: FirstLine) {
        let mut head = Self::new();
        head.raw("format", EXPORT_FORMAT);
        if let Some(through) = first.through {
            head.raw("through", through);
        }
        self.raw("export", head.end());
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The content type that a line has where it names none.
pub(super) fn implied_content_type(data: &[u8]) -> ContentType {
    if payload::verbatim(data).is_some() { ContentType::json() } else { ContentType::bytes() }
}

/// An event as a line of its own.
#[must_use]
pub fn event(event: EventRef<'_>, detail: Detail) -> String {
    event_line(event, detail, None)
}

fn event_line(at: EventRef<'_>, detail: Detail, first: Option<FirstLine>) -> String {
    let (commit, event) = (at.commit, at.event);
    let mut object = Object::new();
    object.stream(&commit.stream);
    object.raw("revision", at.revision());
    if let Some(position) = at.position() {
        object.raw("position", position);
    }
    object.text("type", event.event_type.as_str());
    if let Some(time) = event.occurred_at {
        object.time("time", time);
    }
    if detail == Detail::Every || event.schema != 1 {
        object.raw("schema", event.schema);
    }
    if detail == Detail::Every || event.content_type != implied_content_type(&event.data) {
        object.text("content_type", event.content_type.as_str());
    }
    object.bytes("data", &event.data);
    if !event.metadata.is_empty() {
        object.bytes("metadata", &event.metadata);
    }
    if detail == Detail::Every || event.id != EventId::derive(commit.id, event.ordinal) {
        object.text("id", &event.id.to_string());
    }
    object.extensions("extensions", &event.extensions);
    object.text("commit", &commit.id.to_string());
    match detail {
        Detail::Every => {
            object.raw("number", commit.number);
            object.time("recorded_at", commit.recorded_at);
        }
        Detail::Once if event.ordinal == 0 => frame(&mut object, commit),
        Detail::Once => {}
    }
    if let Some(first) = first {
        object.first_line(first);
    }
    object.end()
}

/// What the store gave a commit, but for revision, position and id.
fn frame(object: &mut Object, commit: &Commit) {
    object.raw("number", commit.number);
    if commit.count != 1 {
        object.raw("count", commit.count);
    }
    object.time("recorded_at", commit.recorded_at);
    object.text("digest", &commit.digest.to_string());
    if let Some(group) = commit.group {
        object.text("group", &group.to_string());
    }
    object.extensions("commit_extensions", &commit.extensions);
}

/// A marker, or the stub of a stripped commit.
#[must_use]
pub fn marker(commit: &Commit, first: Option<FirstLine>) -> String {
    let mut object = Object::new();
    object.stream(&commit.stream);
    match &commit.kind {
        CommitKind::Events => {}
        CommitKind::Truncated { before } => {
            object.text("marker", "truncated");
            object.raw("before", before);
        }
        CommitKind::Deleted => object.text("marker", "deleted"),
        CommitKind::MovedOut { epoch, to } => {
            object.text("marker", "moved_out");
            object.raw("epoch", epoch);
            object.text("to", to.as_str());
        }
        CommitKind::MovedIn { epoch, owner } => {
            object.text("marker", "moved_in");
            object.raw("epoch", epoch);
            object.text("owner", owner.as_str());
        }
    }
    if commit.content == Content::Stripped {
        object.raw("stripped", true);
    }
    object.raw("revision", commit.first_revision);
    if let Some(position) = commit.first_position {
        object.raw("position", position);
    }
    object.text("commit", &commit.id.to_string());
    frame(&mut object, commit);
    if let Some(first) = first {
        object.first_line(first);
    }
    object.end()
}

/// A commit as its lines in an export: one for each event, or one for a marker or a stub.
#[must_use]
pub fn commit_lines(commit: &Commit, first: Option<FirstLine>) -> Vec<String> {
    if commit.kind.is_marker() || commit.content == Content::Stripped {
        return vec![marker(commit, first)];
    }
    let with_first = |at: EventRef<'_>| event_line(at, Detail::Once, first.filter(|_| at.event.ordinal == 0));
    commit.events().map(with_first).collect()
}

/// Positions without content.
#[must_use]
pub fn removed(from: Position, to: Position, first: Option<FirstLine>) -> String {
    let mut object = Object::new();
    object.raw("removed", format_args!("{{\"first\":{from},\"last\":{to}}}"));
    if let Some(first) = first {
        object.first_line(first);
    }
    object.end()
}

/// The beginning of an export of nothing.
#[must_use]
pub fn nothing(first: FirstLine) -> String {
    let mut object = Object::new();
    object.first_line(first);
    object.end()
}

/// A snapshot as a line of an export.
#[must_use]
pub fn snapshot(snapshot: &Snapshot) -> String {
    let mut object = Object::new();
    object.raw("snapshot", snapshot_object(snapshot));
    object.end()
}

/// A snapshot by itself.
#[must_use]
pub fn snapshot_object(snapshot: &Snapshot) -> String {
    let mut inner = Object::new();
    inner.stream(&snapshot.stream);
    inner.raw("revision", snapshot.revision);
    inner.raw("number", snapshot.number);
    inner.text("commit", &snapshot.commit.to_string());
    inner.raw("schema", snapshot.schema);
    inner.text("content_type", snapshot.content_type.as_str());
    inner.bytes("data", &snapshot.data);
    inner.time("taken_at", snapshot.taken_at);
    inner.end()
}

/// A consumer's checkpoint.
#[must_use]
pub fn checkpoint(checkpoint: &CheckpointLine) -> String {
    let mut inner = Object::new();
    inner.text("name", checkpoint.name.as_str());
    inner.raw("number", checkpoint.number);
    inner.bytes("value", &checkpoint.value);
    inner.time("updated_at", checkpoint.updated_at);
    let mut object = Object::new();
    object.raw("checkpoint", inner.end());
    object.end()
}
