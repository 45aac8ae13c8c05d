//! An order: its events, its state, and its decisions. No store in sight.

use evstore::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

/// What can happen to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
pub enum OrderEvent {
    /// Somebody wants something.
    #[event(name = "order-placed", schema = 2, upcast(1 = placed_v1))]
    Placed { customer: String, item: String, count: u32 },
    /// It is paid for.
    #[event(name = "order-paid")]
    Paid { cents: u64 },
    /// It is on its way.
    #[event(name = "order-shipped")]
    Shipped,
}

/// Schema 1 of `order-placed` was from a time when everybody bought one of a thing.
#[derive(Deserialize)]
struct PlacedV1 {
    customer: String,
    item: String,
}

fn placed_v1(old: PlacedV1) -> OrderEvent {
    OrderEvent::Placed { customer: old.customer, item: old.item, count: 1 }
}

/// What decisions need to know, and no more.
#[derive(Default, Serialize, Deserialize)]
pub struct Order {
    placed: bool,
    paid: bool,
    shipped: bool,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed { .. } => self.placed = true,
            OrderEvent::Paid { .. } => self.paid = true,
            OrderEvent::Shipped => self.shipped = true,
        }
    }
}

/// Why a command is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Unknown,
    PlacedAlready,
    NotPaid,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "there is no such order",
            Self::PlacedAlready => "the order was placed before",
            Self::NotPaid => "the order is not paid",
        })
    }
}

impl Order {
    pub fn is_shipped(&self) -> bool {
        self.shipped
    }
}

/// Decisions: plain functions from a state to new events.
impl Order {
    pub fn place(&self, customer: &str, item: &str, count: u32) -> Result<Vec<OrderEvent>, Refusal> {
        match self.placed {
            true => Err(Refusal::PlacedAlready),
            false => Ok(vec![OrderEvent::Placed { customer: customer.into(), item: item.into(), count }]),
        }
    }

    pub fn pay(&self, cents: u64) -> Result<Vec<OrderEvent>, Refusal> {
        match self.placed {
            true => Ok(vec![OrderEvent::Paid { cents }]),
            false => Err(Refusal::Unknown),
        }
    }

    /// Shipping what is shipped changes nothing.
    pub fn ship(&self) -> Result<Vec<OrderEvent>, Refusal> {
        match (self.paid, self.shipped) {
            (false, _) => Err(Refusal::NotPaid),
            (true, false) => Ok(vec![OrderEvent::Shipped]),
            (true, true) => Ok(vec![]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore::testing::{decode, given};

    fn placed() -> OrderEvent {
        OrderEvent::Placed { customer: "ada".into(), item: "book".into(), count: 2 }
    }

    #[test]
    fn an_order_is_placed_once() {
        given([]).when(|order: &Order| order.place("ada", "book", 2)).then_expect([placed()]);
        given([placed()]).when(|order: &Order| order.place("ada", "book", 2)).then_rejected(Refusal::PlacedAlready);
    }

    #[test]
    fn only_what_is_paid_is_shipped() {
        given([placed()]).when(Order::ship).then_rejected(Refusal::NotPaid);
        given([placed(), OrderEvent::Paid { cents: 1999 }]).when(Order::ship).then_expect([OrderEvent::Shipped]);
    }

    #[test]
    fn shipping_twice_changes_nothing() {
        given([placed(), OrderEvent::Paid { cents: 1999 }, OrderEvent::Shipped]).when(Order::ship).then_expect([]);
    }

    #[test]
    fn orders_from_before_there_were_counts_are_read() {
        let old = decode::<OrderEvent>("order-placed", 1, r#"{"customer":"ada","item":"book"}"#);
        assert_eq!(old, OrderEvent::Placed { customer: "ada".into(), item: "book".into(), count: 1 });
    }
}
