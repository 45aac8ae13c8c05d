//! A process manager: what is paid is shipped. From an event to a command.

use crate::order::{Order, OrderEvent};
use evstore::{BoxError, CommitId, Context, ExecuteError, FeedEvent, Handler, Repository};

/// Ships what is paid.
pub struct Shipping(pub Repository<Order>);

impl Handler for Shipping {
    async fn handle(&mut self, event: FeedEvent) -> Result<(), BoxError> {
        let Some(OrderEvent::Paid { .. }) = event.decode()? else { return Ok(()) };
        // The same event always makes the same command, so that it is executed once although the event may come again.
        let command = CommitId::derive(&[b"ship", &event.event().id.0]);
        let orders = self.0.clone().with_context(Context::following(event.event()));
        match orders.execute(event.key(), command, Order::ship).await {
            Ok(_) => Ok(()),
            // An answer, not a failure: it would be the same next time.
            Err(ExecuteError::Rejected(refusal)) => {
                println!("not shipped: {refusal}");
                Ok(())
            }
            Err(ExecuteError::Store(error)) => Err(error.into()),
        }
    }
}
