//! Where an event comes from: correlation and causation, passed on from a request to its events and from those to the next.

use crate::api::{Error, ErrorKind, Event, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::Display;

/// What the metadata of an event says about its origin; stored as a JSON object, empty when there is nothing to say.
///
/// ```
/// use evstore::Context;
///
/// let context = Context::correlated("request-17").caused_by("command-4").with("user", "ada");
/// assert_eq!(context.correlation_id(), Some("request-17"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Context {
    /// Nothing known.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Part of the conversation of this name: a request, a process, a job.
    #[must_use]
    pub fn correlated(id: impl Display) -> Self {
        Self { correlation_id: Some(id.to_string()), ..Self::default() }
    }

    /// Caused by what has this name: a command, an event.
    #[must_use]
    pub fn caused_by(mut self, id: impl Display) -> Self {
        self.causation_id = Some(id.to_string());
        self
    }

    /// Something more: who, from where. `correlation_id` and `causation_id` keep their meaning.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        match (name, value.as_str()) {
            ("correlation_id", Some(id)) => self.correlation_id = Some(id.into()),
            ("causation_id", Some(id)) => self.causation_id = Some(id.into()),
            (_, _) => {
                self.rest.insert(name.into(), value);
            }
        }
        self
    }

    /// What follows from an event: in its conversation, or in one that it begins, and caused by it.
    ///
    /// Only the conversation is passed on. Further fields are not: who asked for the first thing did not ask for the next.
    /// What should follow along is put in again, `Context::following(event).with("tenant", …)`.
    ///
    /// Metadata that is not such an object begins a new conversation too: whoever wrote it had another use for it.
    #[must_use]
    pub fn following(event: &Event) -> Self {
        let before = Self::of(event).unwrap_or_default();
        let correlation = before.correlation_id.unwrap_or_else(|| event.id.to_string());
        Self::correlated(correlation).caused_by(event.id)
    }

    /// What an event's metadata says.
    ///
    /// # Errors
    /// `Invalid` when the metadata is not a JSON object of this kind.
    pub fn of(event: &Event) -> Result<Self> {
        if event.metadata.is_empty() {
            return Ok(Self::none());
        }
        serde_json::from_slice(&event.metadata)
            .map_err(|_| Error::new(ErrorKind::Invalid, "event metadata is not a context").with("event", event.id))
    }

    /// The conversation.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The cause.
    #[must_use]
    pub fn causation_id(&self) -> Option<&str> {
        self.causation_id.as_deref()
    }

    /// Something more.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.rest.get(name)
    }

    /// As metadata.
    pub(crate) fn to_metadata(&self) -> Result<Bytes> {
        if *self == Self::none() {
            return Ok(Bytes::new());
        }
        let refused = |cause| Error::new(ErrorKind::Invalid, "context cannot be written as JSON").caused_by(cause);
        serde_json::to_vec(self).map(Bytes::from).map_err(refused)
    }
}
