//! The keys of a store. Our own hash tag stands first in every one, so that no name decides where a key lives:
//!
//! - `{evs:P:N}:meta`: the record of partition N, its last position, the position that enough replicas hold
//! - `{evs:P:N}:feed`: what takes the positions, by the first of each
//! - `{evs:P:N}:streams`: the identities of its streams, in their order
//! - `{evs:P:N}:s:NAMESPACE:NAME`: one stream: head, commits by number, slots by id, snapshot
//! - `{evs:P:0}:records:KIND` and `{evs:P:0}:names:KIND`: small records, and the names of those that have a value
//! - `{evs:P:0}:scratch`: tags of scratch stores beside this one
//!
//! P is the prefix of the store, with `.TAG` behind it where it is a scratch store.

use evstore_api::{Namespace, RecordKind, StreamId, StreamName};
use evstore_kit::escape::escape;

/// What stands between namespace and name in the list of streams: no name has it, and it sorts before everything.
const BETWEEN: u8 = 0;

/// The keys of one store.
#[derive(Clone, Debug)]
pub struct Keyspace {
    prefix: String,
    partitions: u32,
}

impl Keyspace {
    /// The keys of the store with this prefix.
    pub fn new(prefix: String, partitions: u32) -> Self {
        Self { prefix, partitions }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Where a stream lives.
    pub fn partition(&self, stream: &StreamId) -> u32 {
        if self.partitions == 1 { 0 } else { crc32fast::hash(&member(stream)) % self.partitions }
    }

    /// The record of a partition.
    pub fn meta(&self, partition: u32) -> String {
        self.key(partition, "meta")
    }

    /// The feed of a partition.
    pub fn feed(&self, partition: u32) -> String {
        self.key(partition, "feed")
    }

    /// The streams of a partition.
    pub fn streams(&self, partition: u32) -> String {
        self.key(partition, "streams")
    }

    /// A stream.
    pub fn stream(&self, stream: &StreamId) -> String {
        let names = format!("s:{}:{}", escape(stream.namespace.as_str()), escape(stream.name.as_str()));
        self.key(self.partition(stream), &names)
    }

    /// The small records of a kind.
    pub fn records(&self, kind: RecordKind) -> String {
        self.key(0, &format!("records:{}", kind.name()))
    }

    /// The names of small records that have a value.
    pub fn record_names(&self, kind: RecordKind) -> String {
        self.key(0, &format!("names:{}", kind.name()))
    }

    /// Tags of scratch stores.
    pub fn scratch(&self) -> String {
        self.key(0, "scratch")
    }

    fn key(&self, partition: u32, kind: &str) -> String {
        format!("{{evs:{}:{partition}}}:{kind}", self.prefix)
    }
}

/// How a stream stands in the list of streams and in the feed.
pub fn member(stream: &StreamId) -> Vec<u8> {
    let (namespace, name) = (stream.namespace.as_str().as_bytes(), stream.name.as_str().as_bytes());
    [namespace, &[BETWEEN], name].concat()
}

/// Reads what [`member`] wrote.
pub fn stream_of(member: &[u8]) -> Option<StreamId> {
    let (namespace, name) = std::str::from_utf8(member).ok()?.split_once(char::from(BETWEEN))?;
    Some(StreamId { namespace: Namespace::new(namespace).ok()?, name: StreamName::new(name).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_tag_comes_first_whatever_the_name_says() {
        let keys = Keyspace::new("main".into(), 1);
        let key = keys.stream(&StreamId::within("{x}", "a{y}:b").unwrap());
        assert_eq!(key, "{evs:main:0}:s:=7bx=7d:a=7by=7d=3ab");
    }

    #[test]
    fn streams_are_listed_in_the_order_of_their_identities() {
        let streams = [("", "z"), ("a", "b"), ("a", "b-1"), ("a ", "a"), ("ab", "a"), ("ü", "a")];
        let members: Vec<_> =
            streams.map(|(space, name)| StreamId::within(space, name).unwrap()).map(|id| member(&id)).into();
        assert!(members.is_sorted());
        for bytes in members {
            assert_eq!(member(&stream_of(&bytes).unwrap()), bytes);
        }
    }
}
