//! A read model: what was sold, counted once whatever fails.

use crate::order::OrderEvent;
use evstore::{Batch, BoxError, Move, ReadModel};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of items. In memory, so that each start of the program makes it anew from the first event; one in a database
/// stores the place there, in the transaction that changes the counts, and goes on where it was.
#[derive(Clone, Default)]
pub struct Sales(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    items: BTreeMap<String, u64>,
    place: Option<String>,
}

impl Sales {
    /// How many of an item were ordered.
    pub fn of(&self, item: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).items.get(item).copied().unwrap_or(0)
    }
}

impl ReadModel for Sales {
    async fn checkpoint(&mut self) -> Result<Option<String>, BoxError> {
        Ok(self.0.lock().map_err(|_| "poisoned")?.place.clone())
    }

    async fn apply(&mut self, batch: &Batch, place: &Move) -> Result<(), BoxError> {
        let mut state = self.0.lock().map_err(|_| "poisoned")?;
        let mut next = state.clone();
        // In a database: UPDATE place SET at = $to WHERE at IS NOT DISTINCT FROM $from, and one row has to be changed.
        if next.place != place.from {
            return Err("another process is feeding this read model".into());
        }
        next.place = Some(place.to.clone());
        for event in batch.events() {
            if let Some(OrderEvent::Placed { item, count, .. }) = event.decode()? {
                *next.items.entry(item).or_default() += u64::from(count);
            }
        }
        *state = next;
        Ok(())
    }
}
