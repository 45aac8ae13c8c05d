//! A real log that is appended again: its streams, its order in each, its types and its sizes.

use evstore_api::{ContentType, Error, ErrorKind, EventType, Events, NewEvent, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Most events that are kept of a log.
const EVENTS_MAX: usize = 1_000_000;

/// A log, ready to be appended.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// How many streams it has.
    pub streams: usize,
    /// One event each, in the log's order: the number of its stream, and the event as a commit.
    pub entries: Vec<(usize, Events)>,
}

#[derive(Deserialize)]
struct Line<'a> {
    stream: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Log {
    /// Reads a log of JSON lines; what is there beside `stream`, `type` and `data` is passed over.
    ///
    /// # Errors
    /// `Invalid`, with the line.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let mut log = Self::default();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).take(EVENTS_MAX) {
            let (stream, commit) = entry(line).map_err(|error| error.with("log", name).with("line", number + 1))?;
            let next = known.len();
            log.entries.push((*known.entry(stream).or_insert(next), commit));
        }
        log.streams = known.len();
        if log.entries.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the log has no event").with("log", name));
        }
        Ok(log)
    }
}

fn entry(line: &str) -> Result<(String, Events)> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "a line of the log is not understood").with("problem", cause)
    })?;
    let data = line.data.map_or("", RawValue::get).to_owned();
    let mut event = NewEvent::new(EventType::new(line.event_type)?, data);
    event.content_type = ContentType::json();
    Ok((line.stream, Events::new(vec![event])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_numbered_in_the_order_of_their_first_event() {
        let log = Log::parse(
            "{\"stream\":\"a-1\",\"type\":\"t\",\"data\":{\"x\":1}}\n\n{\"stream\":\"b-1\",\"type\":\"t\"}\n{\"stream\":\"a-1\",\"type\":\"u\",\"time\":\"x\"}\n",
            "l",
        )
        .unwrap();
        assert_eq!(
            (log.streams, log.entries.iter().map(|(stream, _)| *stream).collect::<Vec<_>>()),
            (2, vec![0, 1, 0])
        );
        assert_eq!(&log.entries[0].1.as_slice()[0].data[..], b"{\"x\":1}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = Log::parse("{\"stream\":\"a-1\",\"type\":\"t\"}\nnonsense\n", "l").unwrap_err();
        assert!(error.context().contains(&("line", "2".into())), "{error:?}");
    }
}
