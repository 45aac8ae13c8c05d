//! A read model: what was sold, counted once whatever fails.

use crate::order::OrderEvent;
use evstore::api::Cursor;
use evstore::{Batch, BoxError, DomainEvent, ReadModel};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of items. In memory, so that each start of the program makes it anew from the first event; one in a database
/// stores the cursor there, in the transaction that changes the counts, and goes on where it was.
#[derive(Clone, Default)]
pub struct Sales(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    items: BTreeMap<String, u64>,
    cursor: Option<Cursor>,
}

impl Sales {
    /// How many of an item were ordered.
    pub fn of(&self, item: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).items.get(item).copied().unwrap_or(0)
    }
}

impl ReadModel for Sales {
    async fn checkpoint(&mut self) -> Result<Option<Cursor>, BoxError> {
        Ok(self.0.lock().map_err(|_| "poisoned")?.cursor.clone())
    }

    async fn apply(&mut self, batch: &Batch, cursor: &Cursor) -> Result<(), BoxError> {
        let mut state = self.0.lock().map_err(|_| "poisoned")?;
        let mut next = state.clone();
        for event in batch.events() {
            if let Some(OrderEvent::Placed { item, count, .. }) = OrderEvent::decode(event.event)? {
                *next.items.entry(item).or_default() += u64::from(count);
            }
        }
        next.cursor = Some(cursor.clone());
        *state = next;
        Ok(())
    }
}
