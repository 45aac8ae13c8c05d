//! What a node says of itself: the content of a small record of the kind `presence`. Nodes write it and migrators read it. It informs;
//! what it says is never why a store may be written.
//!
//! Lines of a word and what it says, so that it can be read in any store by hand. Words that are not known are passed over.

use bytes::Bytes;
use evstore_api::{RecordName, Result, StoreName};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// What the names of these records begin with.
pub const RECORDS: &str = "evstore-node-";
/// Most nodes that are told apart. A place is taken again once its node has left, so that records do not grow with restarts.
pub const NODES_MAX: u32 = 1_000;
/// Most stores that a node tells of, those of its moves first.
pub const STORES_MAX: usize = 64;
/// Longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// A node that was not heard of for so many of its pauses is taken for gone.
pub const PAUSES_MISSED_MAX: u32 = 3;

const HEADER: &str = "evstore node";

/// A process that has a store open, by what it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The identity of this handle of a store, until it is closed.
    pub id: String,
    /// What people call it: its host and process.
    pub name: String,
    /// The release that it is built with.
    pub release: String,
    /// The store that it opened.
    pub opened: StoreName,
    /// The store that its calls go to now.
    pub follows: StoreName,
    /// The stores of its config, at most [`STORES_MAX`].
    pub stores: Vec<StoreName>,
    /// What came of trying to reach those that streams may move to, with its own credentials.
    pub reached: BTreeMap<StoreName, Reached>,
    /// How often it says so.
    pub every: Duration,
}

/// What came of trying to reach a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It may write there. This is the history that it found.
    Writes(String),
    /// It may read there, and not write.
    Reads(String),
    /// It failed, with an error of this kind.
    Not(String),
}

/// The record of a place, from 1 to [`NODES_MAX`].
///
/// # Errors
/// Never for such a number.
pub fn record(place: u32) -> Result<RecordName> {
    RecordName::new(format!("{RECORDS}{place:04}"))
}

/// The place of a record; none for a record that says something else.
#[must_use]
pub fn place(record: &RecordName) -> Option<u32> {
    record.as_str().strip_prefix(RECORDS)?.parse().ok().filter(|place| (1..=NODES_MAX).contains(place))
}

/// A name on one line and not too long.
#[must_use]
pub fn name(text: &str) -> String {
    let plain = |one: char| if one.is_whitespace() || one.is_control() { '-' } else { one };
    let mut name: String = text.chars().map(plain).collect();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    name
}

impl Node {
    /// Whether a node that was last heard of so long ago is taken for one that goes on.
    #[must_use]
    pub fn is_live(&self, silent: Duration) -> bool {
        silent <= self.every * PAUSES_MISSED_MAX
    }

    /// Whether a store is in its config, so that its calls can follow there.
    #[must_use]
    pub fn knows(&self, store: &StoreName) -> bool {
        self.stores.contains(store) || self.reached.contains_key(store) || self.opened == *store
    }

    /// The value of its record.
    #[must_use]
    pub fn to_value(&self) -> Bytes {
        let mut text = format!("{HEADER}\nid {}\nname {}\nrelease {}\n", self.id, name(&self.name), self.release);
        let mut line = |word: &str, said: &str| {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{word} {said}");
        };
        line("opened", self.opened.as_str());
        line("follows", self.follows.as_str());
        line("every_s", &self.every.as_secs().to_string());
        for store in self.stores.iter().take(STORES_MAX) {
            line("store", store.as_str());
        }
        for (store, reached) in self.reached.iter().take(STORES_MAX) {
            match reached {
                Reached::Writes(history) => line("writes", &format!("{history} {store}")),
                Reached::Reads(history) => line("reads", &format!("{history} {store}")),
                Reached::Not(kind) => line("fails", &format!("{kind} {store}")),
            }
        }
        text.into()
    }

    /// What a record says; none where it is not understood.
    #[must_use]
    pub fn from_value(value: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(value).ok()?.lines();
        lines.next().filter(|line| *line == HEADER)?;
        let (mut words, mut stores, mut reached) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for (word, said) in lines.filter_map(|line| line.split_once(' ')) {
            let mut tell = |reached_as: fn(String) -> Reached| -> Option<()> {
                let (what, store) = said.split_once(' ')?;
                reached.insert(StoreName::new(store).ok()?, reached_as(what.to_owned()));
                Some(())
            };
            match word {
                "store" => stores.push(StoreName::new(said).ok()?),
                "writes" => tell(Reached::Writes)?,
                "reads" => tell(Reached::Reads)?,
                "fails" => tell(Reached::Not)?,
                _ => drop(words.insert(word, said)),
            }
        }
        let said = |word| words.get(word).map(|said| (*said).to_owned());
        let store = |word| StoreName::new(said(word)?).ok();
        Some(Self {
            id: said("id")?,
            name: said("name")?,
            release: said("release")?,
            opened: store("opened")?,
            follows: store("follows")?,
            stores,
            reached,
            every: Duration::from_secs(said("every_s")?.parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> StoreName {
        StoreName::new(name).expect("a name")
    }

    fn node() -> Node {
        let reached = [
            (store("next"), Reached::Writes("6ba7".into())),
            (store("other"), Reached::Reads("6ba8".into())),
            (store("third"), Reached::Not("unavailable".into())),
        ];
        Node {
            id: "1".into(),
            name: "host-7".into(),
            release: "0.1.0".into(),
            opened: store("main"),
            follows: store("next"),
            stores: vec![store("main"), store("next")],
            reached: reached.into(),
            every: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!(Node::from_value(&node().to_value()), Some(node()));
        let newer = [&node().to_value()[..], b"mood good\nsilent\n"].concat();
        assert_eq!(Node::from_value(&newer), Some(node()), "what a newer release adds is passed over");
    }

    #[test]
    fn what_is_not_said_whole_is_not_understood() {
        let value = node().to_value();
        assert_eq!(Node::from_value(b""), None);
        assert_eq!(Node::from_value(b"{}"), None);
        assert_eq!(Node::from_value(&[0xff; 9]), None);
        for missing in ["id ", "name ", "release ", "opened ", "follows ", "every_s "] {
            let text = std::str::from_utf8(&value).expect("text");
            let less: String =
                text.lines().filter(|line| !line.starts_with(missing)).map(|l| format!("{l}\n")).collect();
            assert_eq!(Node::from_value(less.as_bytes()), None, "without {missing}");
        }
    }

    #[test]
    fn a_name_stays_on_its_line() {
        let told = Node { name: "a\nopened other\r\0".into(), ..node() };
        let read = Node::from_value(&told.to_value()).expect("it is understood");
        assert_eq!((read.name.as_str(), read.opened), ("a-opened-other--", store("main")));
        assert_eq!(name(&"ä".repeat(200)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn a_node_is_live_until_it_misses_its_pauses() {
        assert!(node().is_live(Duration::from_secs(30)));
        assert!(!node().is_live(Duration::from_secs(31)));
    }

    #[test]
    fn a_record_has_its_place() {
        assert_eq!(place(&record(7).expect("a name")), Some(7));
        for other in ["evstore-node-", "evstore-node-0", "evstore-node-1001", "evstore-owner"] {
            assert_eq!(place(&RecordName::new(other).expect("a name")), None, "{other}");
        }
    }
}
