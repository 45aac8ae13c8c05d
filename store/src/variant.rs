//! The content of one enum variant as JSON, without the enum's own tag: the event type says which variant it is.
//!
//! Used by what `#[derive(DomainEvent)]` writes. All attributes of serde on variants and fields keep their meaning.

use crate::api::{ContentType, Error, ErrorKind, Event, EventType, NewEvent, Result};
use crate::domain_event::{self, RawEvent};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::ser::{self, Impossible, Serialize, SerializeStruct, SerializeTuple, Serializer};

type Json<'a> = &'a mut serde_json::Serializer<Vec<u8>>;

/// Encodes the variant that `event` is.
///
/// # Errors
/// `Invalid` when serde refuses.
pub fn encode<E: Serialize>(event: &E, event_type: &str, schema: u32) -> Result<NewEvent> {
    let mut json = serde_json::Serializer::new(Vec::new());
    event.serialize(Content(&mut json)).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "event cannot be written as JSON").with("type", event_type).caused_by(cause)
    })?;
    let mut new = NewEvent::new(EventType::new(event_type)?, json.into_inner());
    new.schema = schema;
    new.content_type = ContentType::json();
    Ok(new)
}

/// Encodes a raw event as it was.
///
/// # Errors
/// `Invalid` when a name in it is.
pub fn encode_raw(raw: &RawEvent) -> Result<NewEvent> {
    let mut new = NewEvent::new(EventType::new(&raw.event_type)?, raw.data.clone());
    new.schema = raw.schema;
    new.content_type = ContentType::new(&raw.content_type)?;
    Ok(new)
}

/// Decodes the variant at `index` among those that serde reads.
///
/// # Errors
/// `Corrupt` when the content does not read as that variant.
pub fn decode<E: DeserializeOwned>(event: &Event, index: u32) -> Result<E> {
    E::deserialize(Variant { index, data: &event.data }).map_err(|cause| unreadable(event, cause))
}

/// Decodes the content of an older schema for an upcast function.
///
/// # Errors
/// `Corrupt` when the content does not read as `Old`.
pub fn decode_old<Old: DeserializeOwned>(event: &Event) -> Result<Old> {
    serde_json::from_slice(&event.data).map_err(|cause| unreadable(event, cause))
}

/// The refusal of a type that the enum does not know.
#[must_use]
pub fn unknown_type(event: &Event, known: &[&str]) -> Error {
    domain_event::unknown_type(event, known)
}

/// The refusal of a schema number that the variant does not know.
#[must_use]
pub fn unknown_schema(event: &Event, newest: u32) -> Error {
    domain_event::unknown_schema(event, newest)
}

// The place in the content is told, never the content: serde's own sentence may quote a value.
fn unreadable(event: &Event, cause: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "event content does not read as its type")
        .with("type", &event.event_type)
        .with("schema", event.schema)
        .with("line", cause.line())
        .with("column", cause.column())
}

/// Writes what a variant holds: an object, an array, one value, or `{}` for a unit variant, which may get fields later.
struct Content<'a>(Json<'a>);

/// The fields of a struct variant, as an object.
struct Fields<'a>(<Json<'a> as Serializer>::SerializeStruct);

/// The fields of a tuple variant, as an array.
struct Elements<'a>(<Json<'a> as Serializer>::SerializeTuple);

fn not_a_variant<T>() -> Result<T, serde_json::Error> {
    Err(ser::Error::custom("not an enum in serde's external representation"))
}

macro_rules! not_variants {
    ($($method:ident($($argument:ty),*) -> $output:ty;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$output, Self::Error> {
            not_a_variant()
        })*
    };
}

impl<'a> Serializer for Content<'a> {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = Impossible<(), Self::Error>;
    type SerializeTuple = Impossible<(), Self::Error>;
    type SerializeTupleStruct = Impossible<(), Self::Error>;
    type SerializeTupleVariant = Elements<'a>;
    type SerializeMap = Impossible<(), Self::Error>;
    type SerializeStruct = Impossible<(), Self::Error>;
    type SerializeStructVariant = Fields<'a>;

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Self::Error> {
        SerializeStruct::end(self.0.serialize_struct("", 0)?)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        value.serialize(self.0)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Elements<'a>, Self::Error> {
        self.0.serialize_tuple(len).map(Elements)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Fields<'a>, Self::Error> {
        self.0.serialize_struct(name, len).map(Fields)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Self::Error> {
        not_a_variant()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<(), Self::Error> {
        not_a_variant()
    }

    not_variants! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

impl ser::SerializeStructVariant for Fields<'_> {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Self::Error> {
        SerializeStruct::serialize_field(&mut self.0, key, value)
    }

    fn end(self) -> Result<(), Self::Error> {
        SerializeStruct::end(self.0)
    }
}

impl ser::SerializeTupleVariant for Elements<'_> {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
        SerializeTuple::serialize_element(&mut self.0, value)
    }

    fn end(self) -> Result<(), Self::Error> {
        SerializeTuple::end(self.0)
    }
}

/// Presents content to serde as the enum's variant at `index`.
struct Variant<'a> {
    index: u32,
    data: &'a [u8],
}

impl<'de> Deserializer<'de> for Variant<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not an enum in serde's external representation"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = serde_json::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Self::Error> {
        let index: de::value::U32Deserializer<serde_json::Error> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        let mut json = serde_json::Deserializer::from_slice(self.data);
        let value = seed.deserialize(&mut json)?;
        json.end().map(|()| value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        let mut json = serde_json::Deserializer::from_slice(self.data);
        let value = json.deserialize_tuple(len, visitor)?;
        json.end().map(|()| value)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let mut json = serde_json::Deserializer::from_slice(self.data);
        let value = json.deserialize_struct("", fields, visitor)?;
        json.end().map(|()| value)
    }
}
