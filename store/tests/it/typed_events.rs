//! What `#[derive(DomainEvent)]` stores, and what it reads back.
use evstore::api::{CommitId, Error, ErrorKind, Event, EventType, NewEvent};
use evstore::{Context, DomainEvent, RawEvent, testing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum OrderEvent {
    #[event(name = "order-placed", alias = "order-created")]
    Placed {
        customer: String,
        #[serde(rename = "n", default)]
        lines: u32,
    },
    #[event(schema = 3, upcast(1 = shipped_v1, 2 = shipped_v2))]
    Shipped(Shipment),
    Moved(u8, u8),
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shipment {
    carrier: String,
    express: bool,
}

fn shipped_v1(carrier: String) -> OrderEvent {
    OrderEvent::Shipped(Shipment { carrier, express: false })
}

fn shipped_v2(old: Value) -> OrderEvent {
    OrderEvent::Shipped(Shipment { carrier: old["by"].as_str().unwrap_or("?").to_owned(), express: true })
}

#[derive(Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum Open {
    #[event(unknown)]
    #[serde(skip)]
    Other(RawEvent),
    Known {
        n: u64,
    },
}

#[derive(Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(unknown = "skip")]
enum Narrow {
    Known { n: u64 },
}

fn stored(event_type: &str, schema: u32, data: &str) -> Event {
    let mut new = NewEvent::new(EventType::new(event_type).unwrap(), data.as_bytes().to_vec());
    new.schema = schema;
    Event::recorded(new, CommitId([0; 16]), 0)
}

fn refused<E: DomainEvent + std::fmt::Debug>(event_type: &str, schema: u32, data: &str) -> Error {
    E::decode(&stored(event_type, schema, data)).unwrap_err()
}

#[test]
fn the_content_of_a_variant_is_stored_without_the_enum_around_it() {
    let encoded = |event: OrderEvent| {
        let new = event.encode().unwrap();
        (new.event_type.to_string(), new.schema, String::from_utf8(new.data.to_vec()).unwrap())
    };
    let placed = OrderEvent::Placed { customer: "ada".into(), lines: 2 };
    assert_eq!(encoded(placed), ("order-placed".into(), 1, r#"{"customer":"ada","n":2}"#.into()));
    let shipped = OrderEvent::Shipped(Shipment { carrier: "owl".into(), express: true });
    assert_eq!(encoded(shipped), ("Shipped".into(), 3, r#"{"carrier":"owl","express":true}"#.into()));
    assert_eq!(encoded(OrderEvent::Moved(1, 2)), ("Moved".into(), 1, "[1,2]".into()));
    assert_eq!(encoded(OrderEvent::Cancelled), ("Cancelled".into(), 1, "{}".into()));
    assert_eq!(OrderEvent::Cancelled.encode().unwrap().content_type.as_str(), "application/json");
}

#[test]
fn every_shape_of_variant_comes_back() {
    for event in [
        OrderEvent::Placed { customer: "\u{1f980}\0".into(), lines: u32::MAX },
        OrderEvent::Shipped(Shipment { carrier: String::new(), express: true }),
        OrderEvent::Moved(0, 255),
        OrderEvent::Cancelled,
    ] {
        let event_stored = Event::recorded(event.encode().unwrap(), CommitId([0; 16]), 0);
        assert_eq!(OrderEvent::decode(&event_stored).unwrap(), Some(event));
    }
}

#[test]
fn types_list_every_name_that_is_read() {
    assert_eq!(OrderEvent::TYPES, ["order-placed", "order-created", "Shipped", "Moved", "Cancelled"]);
}

#[test]
fn an_alias_is_read_and_never_written() {
    let event = testing::decode::<OrderEvent>("order-created", 1, r#"{"customer":"ada"}"#);
    assert_eq!(event, OrderEvent::Placed { customer: "ada".into(), lines: 0 });
    assert_eq!(event.encode().unwrap().event_type.as_str(), "order-placed");
}

#[test]
fn older_schemas_are_upcast() {
    let shipped = |carrier: &str, express| OrderEvent::Shipped(Shipment { carrier: carrier.into(), express });
    assert_eq!(testing::decode::<OrderEvent>("Shipped", 1, r#""owl""#), shipped("owl", false));
    assert_eq!(testing::decode::<OrderEvent>("Shipped", 2, r#"{"by":"owl"}"#), shipped("owl", true));
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let error = refused::<OrderEvent>("Shipped", 4, "{}");
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("schema: 4"), "{error}");
}

#[test]
fn an_unknown_type_is_refused_unless_said_otherwise() {
    let error = refused::<OrderEvent>("Exploded", 1, "{}");
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("type: Exploded"), "{error}");
    assert_eq!(Narrow::decode(&stored("Exploded", 1, "{}")).unwrap(), None);
}

#[test]
fn an_unknown_type_can_be_kept_raw_and_written_back_as_it_was() {
    let event = stored("Exploded", 7, "\u{7}not json");
    let Some(Open::Other(raw)) = Open::decode(&event).unwrap() else { panic!("not kept") };
    assert_eq!((raw.event_type.as_str(), raw.schema, &raw.data[..]), ("Exploded", 7, &b"\x07not json"[..]));
    let back = Event::recorded(Open::Other(raw).encode().unwrap(), CommitId([0; 16]), 0);
    assert_eq!(back, event);
}

#[test]
fn variants_beside_a_raw_one_keep_their_place() {
    assert_eq!(testing::decode::<Open>("Known", 1, r#"{"n":3}"#), Open::Known { n: 3 });
}

#[test]
fn unreadable_content_is_corrupt_and_never_quoted() {
    for bad in [r#"{"customer":"secret"#, r#"{"customer":17}"#, r#"{"customer":"a"} trailing"#, ""] {
        let error = refused::<OrderEvent>("order-placed", 1, bad);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_context_is_metadata_and_what_follows_inherits_it() {
    let mut event = stored("Known", 1, "{}");
    event.metadata = br#"{"correlation_id":"request-17","user":"ada"}"#.to_vec().into();
    let context = Context::of(&event).unwrap();
    assert_eq!((context.correlation_id(), context.get("user")), (Some("request-17"), Some(&Value::from("ada"))));
    let next = Context::following(&event);
    assert_eq!((next.correlation_id(), next.causation_id()), (Some("request-17"), Some(&*event.id.to_string())));
}

#[test]
fn what_follows_an_event_without_a_context_is_correlated_with_the_event() {
    for metadata in ["", "not json", "[]"] {
        let mut event = stored("Known", 1, "{}");
        event.metadata = metadata.as_bytes().to_vec().into();
        let next = Context::following(&event);
        assert_eq!(
            (next.correlation_id(), next.causation_id()),
            (Some(&*event.id.to_string()), Some(&*event.id.to_string()))
        );
    }
}
