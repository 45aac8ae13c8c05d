//! What an application's own event types have to be able to do: name themselves, become bytes, and come back.

use crate::api::{Error, ErrorKind, Event, NewEvent, Result};
use bytes::Bytes;

/// The events of one kind of aggregate, usually an enum with `#[derive(DomainEvent)]`.
///
/// Each variant is stored under its own event type and schema number, its content alone as JSON. What was stored once
/// stays readable: raise `schema` when the content changes its shape, and say how the older shape becomes the new one.
///
/// ```
/// use evstore::DomainEvent;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
/// enum OrderEvent {
///     #[event(name = "order-placed")]
///     Placed { customer: String },
///     #[event(name = "order-shipped", schema = 2, upcast(1 = shipped_v1))]
///     Shipped { carrier: String, express: bool },
/// }
///
/// /// In schema 1 the carrier was all there was.
/// #[derive(Deserialize)]
/// struct ShippedV1 {
///     carrier: String,
/// }
///
/// fn shipped_v1(old: ShippedV1) -> OrderEvent {
///     OrderEvent::Shipped { carrier: old.carrier, express: false }
/// }
///
/// let event = evstore::testing::decode::<OrderEvent>("order-shipped", 1, r#"{"carrier":"owl"}"#);
/// assert_eq!(event, OrderEvent::Shipped { carrier: "owl".into(), express: false });
/// ```
///
/// On a variant, in `#[event(…)]`:
/// - `name = "…"`: the event type; the variant's name where it is not given. Give it before you rename a variant.
/// - `alias = "…"`: another event type under which older events of this variant were stored. May stand several times.
/// - `schema = 2`: the schema number that is written; 1 where it is not given.
/// - `upcast(1 = from_v1, …)`: a function from the content of an older schema, any type that serde can read, to the enum.
///   Each number below `schema` needs one; leaving one out does not compile.
/// - `unknown`, on a variant that holds one [`RawEvent`]: takes every event type that the enum does not know.
///
/// On the enum: `#[event(unknown = "skip")]` passes over unknown event types. Without either they are an error, because an
/// aggregate that ignores what it does not know decides on a state that is not the stream's.
pub trait DomainEvent: Sized + Send + Sync + 'static {
    /// Every event type that it reads, aliases included. What a subscription filters by.
    const TYPES: &'static [&'static str];

    /// What to store.
    ///
    /// # Errors
    /// `Invalid` when it cannot be written in its format.
    fn encode(&self) -> Result<NewEvent>;

    /// Reads a stored event of any schema number that was ever written. None where the type is unknown and to be skipped.
    ///
    /// # Errors
    /// `Schema` for an unknown type or schema number, `Corrupt` for content that does not read as it should.
    fn decode(event: &Event) -> Result<Option<Self>>;
}

/// An event as it is stored, for types that an enum does not know.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RawEvent {
    /// What happened.
    pub event_type: String,
    /// Number of the schema of `data`.
    pub schema: u32,
    /// Media type of `data`.
    pub content_type: String,
    /// The bytes that were appended.
    pub data: Bytes,
}

impl From<&Event> for RawEvent {
    fn from(event: &Event) -> Self {
        Self {
            event_type: event.event_type.to_string(),
            schema: event.schema,
            content_type: event.content_type.to_string(),
            data: event.data.clone(),
        }
    }
}

/// The stored events of a stream as one aggregate's, skipped ones left out.
pub(crate) fn decode_event<E: DomainEvent>(event: crate::api::EventRef<'_>) -> Result<Option<E>> {
    E::decode(event.event).map_err(|error| {
        error.with("stream", event.stream()).with("revision", event.revision()).of_commit(event.commit.id)
    })
}

/// The refusal of a type that nobody knows.
#[must_use]
pub(crate) fn unknown_type(event: &Event, known: &[&str]) -> Error {
    Error::new(ErrorKind::Schema, "event type is not known to this release")
        .with("type", &event.event_type)
        .with("known", known.join(" "))
}

/// The refusal of a schema number that nobody knows.
#[must_use]
pub(crate) fn unknown_schema(event: &Event, newest: u32) -> Error {
    Error::new(ErrorKind::Schema, "event schema is not known to this release")
        .with("type", &event.event_type)
        .with("schema", event.schema)
        .with("newest", newest)
}
