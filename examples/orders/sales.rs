//! A read model in a database of its own: what was sold, counted once whatever fails.

use crate::order::OrderEvent;
use evstore::{Batch, BoxError, Move, ReadModel};
use rusqlite::{Connection, OptionalExtension as _, Result};
use std::path::Path;

/// Counts of items, in SQL. The place up to which they count stands beside them and moves in the same transaction.
pub struct Sales(Connection);

impl Sales {
    /// Opens the database, and makes its tables where they are missing.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Connection::open(path)?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS sold (item TEXT PRIMARY KEY, count INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), at TEXT);
             INSERT OR IGNORE INTO place VALUES (1, NULL);",
        )?;
        Ok(Self(database))
    }

    /// How many of an item were ordered.
    pub fn of(&self, item: &str) -> Result<u32> {
        let count = self.0.query_row("SELECT count FROM sold WHERE item = ?1", [item], |row| row.get(0));
        Ok(count.optional()?.unwrap_or(0))
    }
}

impl ReadModel for Sales {
    async fn checkpoint(&mut self) -> Result<Option<String>, BoxError> {
        Ok(self.0.query_row("SELECT at FROM place", [], |row| row.get(0))?)
    }

    async fn apply(&mut self, batch: &Batch, place: &Move) -> Result<(), BoxError> {
        let transaction = self.0.transaction()?;
        // `IS` holds for two nulls too. No row is changed where another process has moved the place.
        let moved = transaction.execute("UPDATE place SET at = ?1 WHERE at IS ?2", (&place.to, &place.from))?;
        if moved != 1 {
            return Err("another process is feeding this read model".into());
        }
        for event in batch.events() {
            if let Some(OrderEvent::Placed { item, count, .. }) = event.decode()? {
                let add = "INSERT INTO sold VALUES (?1, ?2) ON CONFLICT (item) DO UPDATE SET count = count + ?2";
                transaction.execute(add, (item, count))?;
            }
        }
        Ok(transaction.commit()?)
    }
}
