//! Who uses the stores of a move, by what nodes say of themselves in them. It informs: a node that says nothing is protected by the fence
//! all the same, and waits or is refused.

use crate::pages::Records;
use crate::phase::Way;
use crate::side::Side;
use crate::{Migration, deadline};
use evstore_api::{
    EventStore, Meta, PutRecord, ReadRecord, RecordExpected, RecordKey, RecordKind, RecordName, Result, StoreName,
    Timestamp,
};
use evstore_kit::presence::{self, Node, Reached};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The record that is written to learn what time it is to a store.
const CLOCK: &str = "evstore-clock";

/// A node that told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// What it said.
    pub node: Node,
    /// How long ago, by the clock that stamps records.
    pub silent: Duration,
}

impl Present {
    /// Whether it goes on, as far as can be told.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.node.is_live(self.silent)
    }
}

/// Why a hand-over would leave somebody behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Fewer nodes are there than are expected.
    TooFew {
        /// That are expected.
        expected: u64,
        /// That are there.
        live: u64,
    },
    /// A node has not got the store in its config.
    Untold {
        /// Which node.
        node: String,
        /// Which store.
        store: StoreName,
    },
    /// A node can't reach the store.
    Unreached {
        /// Which node.
        node: String,
        /// Which store.
        store: StoreName,
        /// Kind of the error that it met.
        error: String,
    },
    /// A node has another store under this name.
    Another {
        /// Which node.
        node: String,
        /// Which name.
        store: StoreName,
    },
}

impl Lack {
    /// The node that lacks something; none where nodes are missing.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::TooFew { .. } => None,
            Self::Untold { node, .. } | Self::Unreached { node, .. } | Self::Another { node, .. } => Some(node),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { expected, live } => write!(f, "{live} nodes are there of {expected} that are expected"),
            Self::Untold { node, store } => write!(f, "node {node} has no [stores.{store}] in its config"),
            Self::Unreached { node, store, error } => write!(f, "node {node} does not reach {store}: {error}"),
            Self::Another { node, store } => write!(f, "node {node} has another store under the name {store}"),
        }
    }
}

/// What nodes say of themselves in these stores, each once, by name.
///
/// # Errors
/// As listing records.
pub async fn of(stores: impl IntoIterator<Item = &dyn EventStore>) -> Result<Vec<Present>> {
    let mut found: BTreeMap<(String, String), Present> = BTreeMap::new();
    for store in stores {
        let now = now(store).await;
        let mut records = Records::all(store, RecordKind::Presence);
        while let Some(page) = records.next(store).await? {
            let of_nodes = page.into_iter().filter(|record| presence::place(&record.key.name).is_some());
            for record in of_nodes {
                let Some(node) = record.value.as_ref().and_then(|value| Node::from_value(value)) else { continue };
                let silent = Duration::from_micros(now.0.saturating_sub(record.updated_at.0).try_into().unwrap_or(0));
                let said = Present { node, silent };
                // What it said last counts, in whichever store.
                let key = (said.node.name.clone(), said.node.id.clone());
                if found.get(&key).is_none_or(|other| said.silent < other.silent) {
                    found.insert(key, said);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// What time it is to a store, so that a node is not taken for gone because two machines disagree. This machine's time where that
/// can't be asked.
async fn now(store: &dyn EventStore) -> Timestamp {
    let asked = async {
        let key = RecordKey { kind: RecordKind::Presence, name: RecordName::new(CLOCK)? };
        let (expected, value) = (RecordExpected::Any, Some("".into()));
        store.put_record(PutRecord { key: key.clone(), expected, value, deadline: deadline() }).await?;
        store.read_record(ReadRecord { key, deadline: deadline() }).await
    };
    match asked.await {
        Ok(Some(record)) => record.updated_at,
        Ok(None) | Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(now.as_micros().try_into().unwrap_or(i64::MAX))
        }
    }
}

/// Why a hand-over to a store would leave somebody behind.
#[must_use]
pub fn lacks(nodes: &[Present], to: &StoreName, record: &Meta, expected: Option<u64>) -> Vec<Lack> {
    let live: Vec<_> = nodes.iter().filter(|present| present.is_live()).map(|present| &present.node).collect();
    let too_few = expected.filter(|expected| (live.len() as u64) < *expected);
    let too_few = too_few.map(|expected| Lack::TooFew { expected, live: live.len() as u64 });
    let is_known = |history: &String| record.lineage.iter().any(|one| one.incarnation.to_string() == *history);
    let of_node = |node: &Node| {
        let (name, store) = (node.name.clone(), to.clone());
        if !node.knows(to) {
            return Some(Lack::Untold { node: name, store });
        }
        match node.reached.get(to) {
            Some(Reached::Not(error)) => Some(Lack::Unreached { node: name, store, error: error.clone() }),
            Some(Reached::Writes(history) | Reached::Reads(history)) if !is_known(history) => {
                Some(Lack::Another { node: name, store })
            }
            // One that names no targets goes there when it is told to, and has not tried.
            Some(_) | None => None,
        }
    };
    too_few.into_iter().chain(live.iter().filter_map(|node| of_node(node))).collect()
}

impl Migration {
    /// The nodes that tell of themselves in either store.
    ///
    /// # Errors
    /// As reading the stores.
    pub async fn nodes(&self) -> Result<Vec<Present>> {
        let sides: [&Side; 2] = [self.source(), self.target()];
        of(sides.map(|side| &*side.store)).await
    }

    /// Why a hand-over would leave a node behind that goes on now, or with fewer nodes than there should be. Nobody has to heed it: a node
    /// that can't follow is refused, and writes nothing.
    ///
    /// # Errors
    /// As reading the stores.
    pub async fn lacks(&self, way: Way, expected: Option<u64>) -> Result<Vec<Lack>> {
        let to = match way {
            Way::Forth => self.target(),
            Way::Back => self.source(),
        };
        Ok(lacks(&self.nodes().await?, &to.name, &to.meta().await?, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> StoreName {
        StoreName::new(name).unwrap()
    }

    fn present(name: &str, change: impl FnOnce(&mut Node)) -> Present {
        let mut node = Node {
            id: name.into(),
            name: name.into(),
            release: "0.1.0".into(),
            opened: store("main"),
            follows: store("main"),
            stores: vec![store("main"), store("next")],
            reached: BTreeMap::new(),
            every: Duration::from_secs(10),
        };
        change(&mut node);
        Present { node, silent: Duration::ZERO }
    }

    #[test]
    fn a_node_that_would_be_left_behind_is_named() {
        let record = Meta::new(Timestamp(0));
        let next = store("next");
        let reach = |reached| move |node: &mut Node| drop(node.reached.insert(store("next"), reached));
        let nodes = [
            present("told", |_| {}),
            present("reaches", reach(Reached::Writes(record.incarnation().to_string()))),
            present("untold", |node| node.stores.truncate(1)),
            present("cut-off", reach(Reached::Not("unavailable".into()))),
            present("mistyped", reach(Reached::Writes("another".into()))),
        ];
        let (node, other) = (|name: &str| name.to_owned(), next.clone());
        assert_eq!(
            lacks(&nodes, &next, &record, Some(5)),
            [
                Lack::Untold { node: node("untold"), store: next.clone() },
                Lack::Unreached { node: node("cut-off"), store: next.clone(), error: "unavailable".into() },
                Lack::Another { node: node("mistyped"), store: other },
            ]
        );
    }

    #[test]
    fn nodes_are_counted_that_go_on() {
        let record = Meta::new(Timestamp(0));
        let gone = Present { silent: Duration::from_secs(31), ..present("gone", |node| node.stores.clear()) };
        let nodes = [present("there", |_| {}), gone];
        assert_eq!(lacks(&nodes, &store("next"), &record, Some(1)), []);
        assert_eq!(lacks(&nodes, &store("next"), &record, None), []);
        let too_few = lacks(&nodes, &store("next"), &record, Some(2));
        assert_eq!(too_few, [Lack::TooFew { expected: 2, live: 1 }]);
    }
}
