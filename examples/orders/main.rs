//! A whole application: orders, what was sold, and shipping what is paid. It runs on the store that `evstore.toml` names;
//! without one, on SQLite in `./evstore.db`. Run it twice: its requests have the same ids, so that nothing is done again.
//!
//! ```sh
//! cargo run -p evstore --example orders
//! cargo test -p evstore --example orders
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to the person who started it")]

mod order;
mod sales;
mod shipping;

use evstore::{
    Aggregate, CommitId, Config, Context, ExecuteError, Registry, Repository, SnapshotPolicy, Sources, Store,
};
use order::Order;
use sales::Sales;
use shipping::Shipping;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// Longer than another process that crashed holds a projection up.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::load(&Sources::of_process()?)?;
    let store = Registry::builtin().open(&config, config.default_store()?).await?;
    sell(&store, Path::new("sales.db")).await?;
    Ok(store.close().await?)
}

/// A request as it comes in: with an id of the client's, so that sending it again is safe.
struct Request<'a> {
    id: &'a str,
    user: &'a str,
}

impl Request<'_> {
    /// The id of the commit that it makes.
    fn commit(&self) -> CommitId {
        CommitId::derive(&[b"request", self.id.as_bytes()])
    }

    /// Where what it makes comes from; every event keeps it.
    fn context(&self) -> Context {
        Context::correlated(self.id).with("user", self.user)
    }
}

async fn sell(store: &Store, sales: &Path) -> Result<(), Box<dyn Error>> {
    let orders = store.repository::<Order>().with_snapshots(SnapshotPolicy::WhenOutweighed);
    let counting = store.projection("sales").category(Order::CATEGORY).run_into(Sales::open(sales)?).await?;
    let shipping = store.projection("shipping").types(["order-paid"]).run(Shipping(orders.clone())).await?;

    let place = Request { id: "r-1", user: "ada" };
    let on = |request: &Request| -> Repository<Order> { orders.clone().with_context(request.context()) };
    let placed = on(&place).execute("1001", place.commit(), |order| order.place("ada", "book", 2)).await?;
    println!("{} is at revision {}", placed.stream, placed.revision);
    let again = on(&place).execute("1001", place.commit(), |order| order.place("ada", "book", 2)).await?;
    println!("sent again, executed before: {}", again.repeated());

    let early = Request { id: "r-2", user: "ada" };
    match on(&early).execute("1001", early.commit(), Order::ship).await {
        Ok(_) => println!("shipped"),
        Err(ExecuteError::Rejected(refusal)) => println!("not shipped: {refusal}"),
        Err(ExecuteError::Store(error)) => return Err(error.into()),
    }

    let pay = Request { id: "r-3", user: "ada" };
    let paid = on(&pay).execute("1001", pay.commit(), |order| order.pay(1999)).await?;
    // Read your own writes: what follows from the payment was done, and the read model has counted.
    shipping.wait_for(&paid, PATIENCE).await?;
    counting.wait_for(&paid, PATIENCE).await?;
    println!("shipped: {}", orders.load("1001").await?.state.is_shipped());
    println!("books sold: {}", Sales::open(sales)?.of("book")?);
    shipping.stop().await?;
    counting.stop().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore::{EventStoreExt, StreamId};

    #[tokio::test]
    async fn selling_twice_sells_once_and_what_follows_knows_where_it_comes_from() -> Result<(), Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let database = folder.path().join("sales.db");
        let store = Store::memory().await?;
        sell(&store, &database).await?;
        sell(&store, &database).await?;
        assert_eq!(Sales::open(&database)?.of("book")?, 2);
        let shipped = store.events().latest_event(&StreamId::new("order-1001")?).await?.ok_or("no event")?;
        assert_eq!((shipped.revision().0, shipped.event().event_type.as_str()), (3, "order-shipped"));
        assert_eq!(shipped.context()?.correlation_id(), Some("r-3"));
        Ok(())
    }
}
