//! What streams are called, by the keys that stand for them in the tables: a key keeps its name as long as the store has the same
//! incarnation, so that a page of the feed need not carry the names of all its commits.

use crate::codec;
use crate::error::{Result as Worked, corrupt};
use crate::statements::Statement;
use evstore_api::{Incarnation, StreamId};
use sqlx::PgConnection;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names that are kept at most: some 10 MB of them.
const NAMES_MAX: usize = 65_536;

/// Names that were looked up before.
#[derive(Debug, Default)]
pub struct Names(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    incarnation: Option<Incarnation>,
    names: HashMap<i64, StreamId>,
}

impl Names {
    fn of(&self, incarnation: Incarnation) -> MutexGuard<'_, Kept> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After a restore, keys that were given since the dump stand for other streams.
        if kept.incarnation != Some(incarnation) {
            *kept = Kept { incarnation: Some(incarnation), names: HashMap::new() };
        }
        kept
    }

    /// The name behind a key, where it is known.
    pub fn get(&self, incarnation: Incarnation, key: i64) -> Option<StreamId> {
        self.of(incarnation).names.get(&key).cloned()
    }

    /// The names behind keys, in their order.
    pub fn get_all(&self, incarnation: Incarnation, keys: impl Iterator<Item = i64>) -> Vec<Option<StreamId>> {
        let kept = self.of(incarnation);
        keys.map(|key| kept.names.get(&key).cloned()).collect()
    }

    /// Looks up the names behind these keys, and keeps them. Every one of them is in the answer.
    ///
    /// # Errors
    /// `Corrupt` where a key stands for nothing.
    pub async fn look_up(
        &self,
        incarnation: Incarnation,
        mut keys: Vec<i64>,
        statement: &Statement,
        connection: &mut PgConnection,
    ) -> Worked<HashMap<i64, StreamId>> {
        keys.sort_unstable();
        keys.dedup();
        let mut found = HashMap::with_capacity(keys.len());
        for row in statement.query().bind(&keys[..]).fetch_all(connection).await? {
            found.insert(codec::get(&row, 0)?, codec::stream_id(&row, 1)?);
        }
        if found.len() < keys.len() {
            return Err(corrupt("a commit's stream has no name").into());
        }
        let mut kept = self.of(incarnation);
        if kept.names.len() + found.len() > NAMES_MAX {
            kept.names.clear();
        }
        kept.names.extend(found.iter().map(|(key, stream)| (*key, stream.clone())));
        Ok(found)
    }
}
