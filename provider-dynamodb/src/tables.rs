//! The tables of a store and the keys of their items. Names of streams and records hold no control character, so that one sets the
//! parts of a key apart.
//!
//! - `TABLE`: the commits, by stream (`k`) and commit number (`n`); the snapshot of a stream stands at number 0, or with
//!   `snapshots = "interleaved"` half a number behind its commit. With `feed = "sharded-index"` its index `feed` has the commits by shard
//!   (`g`) and place (`i`).
//! - `TABLE-log`: the feed. Under `log` each record by its first position; under `stubs` the stripped commits that were copied into
//!   ranges without content; under `lease` which sequencer works.
//! - `TABLE-names`: the store's record, the list of streams, the small records, and the dictionaries.

use crate::codec::corrupt;
use aws_sdk_dynamodb::types::AttributeValue;
use evstore_api::{Namespace, RecordKind, Result, StreamId, StreamName};
use std::collections::HashMap;

/// An item, by the names of its attributes.
pub type Item = HashMap<String, AttributeValue>;

/// Partition key of every table.
pub const KEY: &str = "k";
/// Sort key of the tables whose items are numbered.
pub const NUMBER: &str = "n";
/// Sort key of the table of names.
pub const NAME: &str = "s";
/// The frame of a commit.
pub const FRAME: &str = "f";
/// The events of a commit.
pub const EVENTS: &str = "e";
/// A value: a snapshot, a small record, the refs of a record of the log, the store's record.
pub const VALUE: &str = "v";
/// A number beside a value: the revision of a snapshot, of a small record how often it was changed, the same of the store's record.
pub const COUNT: &str = "c";
/// The last position of a record of the log.
pub const LAST: &str = "q";
/// How often the store's record was changed before a record of the log was written.
pub const TOKEN: &str = "t";
/// Marks a barrier of the log.
pub const BARRIER: &str = "b";
/// Who holds the next place of the log for itself.
pub const OWNER: &str = "o";
/// The first position of a commit, where a sequencer gives it: written once it stands in the log.
pub const POSITION: &str = "p";
/// How far the sequencer had read when it wrote a record of the log.
pub const PROGRESS: &str = "u";
/// The shard of a commit in the feed's index.
pub const SHARD: &str = "g";
/// The place of a commit in the feed's index.
pub const PLACE: &str = "i";
/// The feed's index.
pub const INDEX: &str = "feed";
/// Marks the place of a snapshot that no snapshot comes to any more.
pub const BURNT: &str = "x";
/// The layout of a store, beside its record.
pub const LAYOUT: &str = "l";

/// Partition of the log's records.
pub const LOG: &str = "log";
/// Partition of the stubs that lie in ranges without content.
pub const STUBS: &str = "stubs";
/// Partition of the mark of the sequencer that works.
pub const LEASE: &str = "lease";
/// Partition of the list of streams.
pub const STREAMS: &str = "streams";
/// Partition of the dictionaries.
pub const DICTIONARIES: &str = "dictionaries";
/// Partition and name of the store's record.
pub const META: &str = "meta";

/// What sets a namespace apart from a name: below every character that either may hold, so that keys sort as streams do.
const SEPARATOR: char = '\u{1}';

/// Which table of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The commits and snapshots.
    Commits,
    /// The feed.
    Log,
    /// Everything that has a name.
    Names,
}

impl Table {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::Commits, Self::Log, Self::Names];

    /// Its sort key.
    pub fn sort_key(self) -> &'static str {
        match self {
            Self::Commits | Self::Log => NUMBER,
            Self::Names => NAME,
        }
    }
}

/// The names of the tables of one store.
#[derive(Clone, Debug)]
pub struct Tables {
    commits: String,
    log: String,
    names: String,
}

impl Tables {
    /// Those of a store whose first table has this name.
    pub fn new(table: &str) -> Self {
        Self { commits: table.to_owned(), log: format!("{table}-log"), names: format!("{table}-names") }
    }

    /// The name of one of them.
    pub fn name(&self, table: Table) -> &str {
        match table {
            Table::Commits => &self.commits,
            Table::Log => &self.log,
            Table::Names => &self.names,
        }
    }
}

/// Key of a stream's commits: its name alone where it is in no namespace, which is shortest.
pub fn stream_key(stream: &StreamId) -> String {
    if stream.namespace.as_str().is_empty() { stream.name.as_str().to_owned() } else { listed_name(stream) }
}

/// The stream that a key of commits is of.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn stream_of_key(key: &str) -> Result<StreamId> {
    if key.contains(SEPARATOR) {
        return listed_stream(key);
    }
    let name = StreamName::new(key).map_err(|_| corrupt("the key of a commit is no stream's"))?;
    Ok(StreamId { namespace: Namespace::none(), name })
}

/// A stream in the list of all of them.
pub fn listed_name(stream: &StreamId) -> String {
    format!("{}{SEPARATOR}{}", stream.namespace, stream.name)
}

/// What every listed name of a namespace begins with.
pub fn listed_prefix(namespace: &Namespace, prefix: &str) -> String {
    format!("{namespace}{SEPARATOR}{prefix}")
}

/// The stream that a listed name is of.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn listed_stream(name: &str) -> Result<StreamId> {
    let wrong = || corrupt("the list of streams holds something else");
    let (namespace, name) = name.split_once(SEPARATOR).ok_or_else(wrong)?;
    Ok(StreamId {
        namespace: Namespace::new(namespace).map_err(|_| wrong())?,
        name: StreamName::new(name).map_err(|_| wrong())?,
    })
}

/// Partition of the small records of a kind.
pub fn records(kind: RecordKind) -> &'static str {
    kind.name()
}

/// A text.
pub fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number.
pub fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Bytes.
pub fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new(bytes))
}

/// The key of an item that is numbered.
pub fn numbered(key: impl Into<String>, at: u64) -> Item {
    HashMap::from([(KEY.to_owned(), text(key)), (NUMBER.to_owned(), number(at))])
}

/// The key of an item that has a name.
pub fn named(key: impl Into<String>, name: impl Into<String>) -> Item {
    HashMap::from([(KEY.to_owned(), text(key)), (NAME.to_owned(), text(name))])
}

/// Adds an attribute.
pub fn with(mut item: Item, name: &str, value: AttributeValue) -> Item {
    item.insert(name.to_owned(), value);
    item
}

/// A whole number of an item, if it is there. One between two numbers, as of an interleaved snapshot, is the lower one.
pub fn number_of(item: &Item, name: &str) -> Option<u64> {
    let text = item.get(name)?.as_n().ok()?;
    text.split('.').next()?.parse().ok()
}

/// The bytes of an item, if they are there.
pub fn bytes_of(item: &Item, name: &str) -> Option<Vec<u8>> {
    Some(item.get(name)?.as_b().ok()?.as_ref().to_vec())
}

/// The bytes of an item, taken out of it.
pub fn take_bytes(item: &mut Item, name: &str) -> Option<Vec<u8>> {
    match item.remove(name)? {
        AttributeValue::B(bytes) => Some(bytes.into_inner()),
        _ => None,
    }
}

/// The text of an item, if it is there.
pub fn text_of<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_streams_stay_apart_and_sort_as_streams_do() {
        let stream = |namespace, name| StreamId::within(namespace, name).unwrap();
        let streams = [stream("", "a-1"), stream("", "b"), stream("a", "-1"), stream("a", "a"), stream("a b", "a")];
        let listed: Vec<_> = streams.iter().map(listed_name).collect();
        assert!(listed.is_sorted());
        for (stream, name) in streams.iter().zip(&listed) {
            assert_eq!(listed_stream(name).unwrap(), *stream);
        }
        let mut keys: Vec<_> = streams.iter().map(stream_key).collect();
        for (stream, key) in streams.iter().zip(&keys) {
            assert_eq!(stream_of_key(key).unwrap(), *stream);
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), streams.len());
    }

    #[test]
    fn a_number_between_two_is_the_lower_one() {
        let item = Item::from([("n".to_owned(), AttributeValue::N("12.5".to_owned()))]);
        assert_eq!(number_of(&item, "n"), Some(12));
    }
}
