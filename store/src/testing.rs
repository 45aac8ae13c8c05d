//! Decisions tested without a store: given these events, when this is decided, then expect those.
//!
//! Every event passes through its stored form on the way, so that one which would not survive being stored fails here.
//!
//! ```
//! # use evstore::{Aggregate, DomainEvent};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
//! # enum DoorEvent { Opened, Closed }
//! # #[derive(Default)]
//! # struct Door { open: bool }
//! # impl Aggregate for Door {
//! #     const CATEGORY: &'static str = "door";
//! #     type Event = DoorEvent;
//! #     fn apply(&mut self, event: &DoorEvent) { self.open = *event == DoorEvent::Opened; }
//! # }
//! # impl Door {
//! #     fn close(&self) -> Result<Vec<DoorEvent>, &'static str> {
//! #         if self.open { Ok(vec![DoorEvent::Closed]) } else { Err("it is closed") }
//! #     }
//! # }
//! use evstore::testing::given;
//!
//! given([DoorEvent::Opened]).when(Door::close).then_expect([DoorEvent::Closed]);
//! given([]).when(Door::close).then_rejected("it is closed");
//! ```

use crate::aggregate::Aggregate;
use crate::api::{CommitId, ContentType, Event, EventType, NewEvent};
use crate::domain_event::DomainEvent;
use std::fmt::Debug;

/// The history that a decision is made on; empty for an aggregate that is new.
pub fn given<E: DomainEvent>(events: impl IntoIterator<Item = E>) -> Given<E> {
    Given { events: events.into_iter().collect() }
}

/// Reads a stored event, of an older schema for instance.
///
/// # Panics
/// When it does not read, or is skipped as unknown.
#[track_caller]
pub fn decode<E: DomainEvent>(event_type: &str, schema: u32, json: &str) -> E {
    let event_type = EventType::new(event_type).expect("the event type is a valid name");
    let mut new = NewEvent::new(event_type, json.as_bytes().to_vec());
    new.schema = schema;
    new.content_type = ContentType::json();
    read(new)
}

/// See [`given`].
#[derive(Debug)]
#[must_use = "nothing is tested before `then_…`"]
pub struct Given<E> {
    events: Vec<E>,
}

impl<E: DomainEvent> Given<E> {
    /// Makes the decision on the state that the events give.
    ///
    /// # Panics
    /// When an event does not survive being stored.
    #[track_caller]
    pub fn when<A: Aggregate<Event = E>, R>(self, decide: impl FnOnce(&A) -> Result<Vec<E>, R>) -> Decided<E, R> {
        let mut state = A::default();
        for event in &self.events {
            state.apply(&stored(event));
        }
        Decided { outcome: decide(&state) }
    }
}

/// What was decided.
#[derive(Debug)]
#[must_use = "nothing is tested before `then_…`"]
pub struct Decided<E, R> {
    outcome: Result<Vec<E>, R>,
}

impl<E: DomainEvent + Debug + PartialEq, R: Debug> Decided<E, R> {
    /// Exactly these events were decided, none for `[]`, and all survive being stored.
    ///
    /// # Panics
    /// When anything else happened.
    #[track_caller]
    pub fn then_expect(self, expected: impl IntoIterator<Item = E>) {
        let expected: Vec<E> = expected.into_iter().collect();
        match self.outcome {
            Ok(events) => {
                assert_eq!(events, expected, "other events were decided");
                let stored: Vec<E> = events.iter().map(stored).collect();
                assert_eq!(stored, expected, "the events came back from their stored form as others");
            }
            Err(rejection) => panic!("rejected with {rejection:?}, expected {expected:?}"),
        }
    }

    /// The command was rejected, for exactly this reason.
    ///
    /// # Panics
    /// When anything else happened.
    #[track_caller]
    pub fn then_rejected(self, expected: R)
    where
        R: PartialEq,
    {
        match self.outcome {
            Err(rejection) => assert_eq!(rejection, expected, "rejected for another reason"),
            Ok(events) => panic!("decided {events:?}, expected a rejection with {expected:?}"),
        }
    }

    /// The command was rejected, for whatever reason; gives it back.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn then_any_rejection(self) -> R {
        match self.outcome {
            Err(rejection) => rejection,
            Ok(events) => panic!("decided {events:?}, expected a rejection"),
        }
    }
}

/// The event as a store would give it back.
#[track_caller]
fn stored<E: DomainEvent>(event: &E) -> E {
    match event.encode() {
        Ok(new) => read(new),
        Err(error) => panic!("an event cannot be stored: {error}"),
    }
}

#[track_caller]
fn read<E: DomainEvent>(new: NewEvent) -> E {
    let event = Event::recorded(new, CommitId([0; 16]), 0);
    match E::decode(&event) {
        Ok(Some(event)) => event,
        Ok(None) => panic!("the event type {} is unknown and skipped", event.event_type),
        Err(error) => panic!("a stored event does not read: {error}"),
    }
}
