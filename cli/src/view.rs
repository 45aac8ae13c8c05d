//! How the things of the contract look: as JSON for programs, as cells for people. The same facts in both.

use crate::line::{self, Detail};
use crate::moment;
use crate::output::{Cell, Tone};
use evstore_api::capabilities::Positioned;
use evstore_api::{Appended, Commit, CommitKind, Content, EventRef, Head, Position, StreamId, StreamState, Timestamp};
use serde_json::{Map, Value};

/// Longest preview of data in a table, in characters.
const PREVIEW_CHARS_MAX: usize = 120;

/// The columns of a list of events.
pub const EVENT_COLUMNS: [&str; 4] = ["revision", "type", "time", "data"];
/// The columns of the feed.
pub const FEED_COLUMNS: [&str; 6] = ["position", "stream", "revision", "type", "time", "data"];

/// A JSON object from pairs, in this order.
#[must_use]
pub fn object<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The keys that name a stream.
#[must_use]
pub fn stream_json(stream: &StreamId) -> Map<String, Value> {
    let mut map = object([("stream", stream.name.as_str().into())]);
    if !stream.namespace.as_str().is_empty() {
        map.insert("namespace".into(), stream.namespace.as_str().into());
    }
    map
}

/// A head.
#[must_use]
pub fn head_json(stream: &StreamId, head: &Head) -> Map<String, Value> {
    let mut map = stream_json(stream);
    map.extend(object([
        ("revision", head.revision.0.into()),
        ("number", head.number.0.into()),
        ("first_retained", head.first_retained.0.into()),
        ("commit", head.commit.map(|commit| commit.to_string()).into()),
        ("recorded_at", head.recorded_at.map_or(Value::Null, moment::json)),
    ]));
    map.extend(state_json(&head.state));
    map
}

fn state_json(state: &StreamState) -> Map<String, Value> {
    let name = ("state", state_name(state).into());
    match state {
        StreamState::Missing | StreamState::Open | StreamState::Deleted => object([name]),
        StreamState::Sealed { epoch, to } => object([name, ("epoch", epoch.0.into()), ("to", to.as_str().into())]),
    }
}

/// The name of a stream's state.
#[must_use]
pub fn state_name(state: &StreamState) -> &'static str {
    match state {
        StreamState::Missing => "missing",
        StreamState::Open => "open",
        StreamState::Sealed { .. } => "sealed",
        StreamState::Deleted => "deleted",
    }
}

/// The facts of a head, for people.
#[must_use]
pub fn head_facts(stream: &StreamId, head: &Head) -> Vec<(&'static str, Cell)> {
    let tone = match head.state {
        StreamState::Missing | StreamState::Open => Tone::Plain,
        StreamState::Sealed { .. } | StreamState::Deleted => Tone::Warning,
    };
    let state = match &head.state {
        StreamState::Sealed { epoch, to } => format!("sealed (epoch: {epoch}, to: {to})"),
        other => state_name(other).to_owned(),
    };
    vec![
        ("stream", stream.to_string().into()),
        ("state", Cell::toned(state, tone)),
        ("revision", head.revision.to_string().into()),
        ("first retained", head.first_retained.to_string().into()),
        ("commits", head.number.to_string().into()),
        ("last commit", head.commit.map_or("none".into(), |commit| commit.to_string()).into()),
        ("recorded at", time_cell(head.recorded_at)),
    ]
}

/// A receipt.
#[must_use]
pub fn receipt_json(stream: &StreamId, receipt: &Appended) -> Map<String, Value> {
    let mut map = stream_json(stream);
    map.extend(object([
        ("commit", receipt.commit.to_string().into()),
        ("number", receipt.number.0.into()),
        ("first_revision", receipt.first.0.into()),
        ("last_revision", receipt.last.0.into()),
        ("position", receipt.position.map(|position| position.0).into()),
        ("recorded_at", moment::json(receipt.recorded_at)),
        ("digest", receipt.digest.to_string().into()),
        ("repeated", receipt.repeated.into()),
    ]));
    map
}

/// The facts of a receipt, for people. Where positions are given by nobody, or later, it has none and says which.
#[must_use]
pub fn receipt_facts(stream: &StreamId, receipt: &Appended, positioned: Positioned) -> Vec<(&'static str, Cell)> {
    let revisions = match receipt.last > receipt.first {
        true => format!("{} to {}", receipt.first, receipt.last),
        false => receipt.last.to_string(),
    };
    let mut facts = vec![
        ("stream", stream.to_string().into()),
        ("revision", revisions.into()),
        ("position", position_given(receipt.position, positioned).into()),
        ("commit", receipt.commit.to_string().into()),
        ("recorded at", moment::show(receipt.recorded_at).into()),
    ];
    if receipt.repeated {
        facts.push(("repeated", Cell::toned("yes: it was there already, nothing was written", Tone::Warning)));
    }
    facts
}

fn position_given(position: Option<Position>, positioned: Positioned) -> String {
    match (position, positioned) {
        (Some(position), _) => position.to_string(),
        (None, Positioned::Never { .. }) => "none: this store does not number its feed".into(),
        (None, Positioned::ByAppend | Positioned::BySequencer { .. }) => "not yet known".into(),
    }
}

/// An event as a line for programs.
#[must_use]
pub fn event_json(event: EventRef<'_>) -> String {
    line::event(event, Detail::Every)
}

/// An event in a list of one stream.
#[must_use]
pub fn event_cells(at: EventRef<'_>) -> Vec<Cell> {
    vec![
        at.revision().to_string().into(),
        at.event.event_type.as_str().into(),
        event_time(at),
        Cell::toned(preview(&at.event.data), Tone::Faint),
    ]
}

/// An event in the feed.
#[must_use]
pub fn feed_cells(at: EventRef<'_>) -> Vec<Cell> {
    let mut cells = vec![position_cell(at.position()), at.stream().to_string().into()];
    cells.extend(event_cells(at));
    cells
}

/// A marker in the feed.
#[must_use]
pub fn marker_cells(commit: &Commit) -> Vec<Cell> {
    let what = match (&commit.kind, commit.content) {
        (CommitKind::Events, Content::Kept) => "events".to_owned(),
        (CommitKind::Events, Content::Stripped) => "stripped".to_owned(),
        (CommitKind::Truncated { before }, _) => format!("truncated before {before}"),
        (CommitKind::Deleted, _) => "deleted".to_owned(),
        (CommitKind::MovedOut { to, .. }, _) => format!("moved out to {to}"),
        (CommitKind::MovedIn { owner, .. }, _) => format!("moved in to {owner}"),
    };
    vec![
        position_cell(commit.first_position),
        commit.stream.to_string().into(),
        "".into(),
        Cell::toned(what, Tone::Warning),
        moment::show(commit.recorded_at).into(),
        "".into(),
    ]
}

/// A removed range in the feed.
#[must_use]
pub fn removed_cells(first: Position, last: Position) -> Vec<Cell> {
    let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
    vec![range.into(), "".into(), "".into(), Cell::toned("removed", Tone::Faint), "".into(), "".into()]
}

fn position_cell(position: Option<Position>) -> Cell {
    position.map_or_else(|| "-".into(), |position| position.to_string().into())
}

/// The caller's own time, else when the store took it.
fn event_time(at: EventRef<'_>) -> Cell {
    match at.event.occurred_at {
        Some(time) => moment::show(time).into(),
        None => Cell::toned(moment::show(at.commit.recorded_at), Tone::Faint),
    }
}

fn time_cell(time: Option<Timestamp>) -> Cell {
    time.map_or("never".into(), moment::show).into()
}

/// The beginning of some bytes, on one line.
#[must_use]
pub fn preview(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("{} bytes", bytes.len());
    };
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.retain(|c| !c.is_control());
    match words.char_indices().nth(PREVIEW_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_receipt_says_whether_a_position_is_to_come() {
        assert_eq!(position_given(Some(Position(7)), Positioned::ByAppend), "7");
        let later = Positioned::BySequencer { within: Duration::from_millis(1) };
        assert_eq!(position_given(None, later), "not yet known");
        let never = Positioned::Never { settling: Duration::ZERO };
        assert_eq!(position_given(None, never), "none: this store does not number its feed");
    }

    #[test]
    fn a_preview_is_one_short_line() {
        assert_eq!(preview(b"{\n  \"a\": 1\n}"), "{ \"a\": 1 }");
        assert_eq!(preview(&[0xff, 0]), "2 bytes");
        assert_eq!(preview("é".repeat(500).as_bytes()).chars().count(), 121);
        assert_eq!(preview(b"a\x1b[31mb"), "a[31mb");
    }
}
