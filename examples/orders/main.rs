//! A whole application: orders, and what was sold. It runs on the store that `evstore.toml` names; without one, on SQLite in
//! `./evstore.db`.
//!
//! ```sh
//! cargo run -p evstore --example orders
//! cargo test -p evstore --example orders
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to the person who started it")]

mod order;
mod sales;

use evstore::{Aggregate, CommitId, Config, Context, ExecuteError, Registry, SnapshotPolicy, Sources};
use order::Order;
use sales::Sales;
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::load(&Sources::of_process()?)?;
    let store = Registry::builtin().open(&config, config.default_store()?).await?;
    let orders = store.repository::<Order>().with_snapshots(SnapshotPolicy::WhenOutweighed);
    let sales = Sales::default();
    let projection = store.projection("sales").category(Order::CATEGORY).run_into(sales.clone()).await?;

    // A request brings its id along, so that sending it again is safe, and its context, which every event keeps.
    let (key, request) = (CommitId::generate(), CommitId::generate());
    let orders = orders.with_context(Context::correlated(request));
    let placed = orders.execute(key, request, |order| order.place("ada", "book", 2)).await?;
    println!("{} is at revision {}", placed.stream, placed.revision);
    let again = orders.execute(key, request, |order| order.place("ada", "book", 2)).await?;
    println!("sent again, executed before: {}", again.commit.is_some_and(|commit| commit.repeated));

    match orders.execute(key, CommitId::generate(), Order::ship).await {
        Err(ExecuteError::Rejected(refusal)) => println!("not shipped: {refusal}"),
        other => println!("shipped: {other:?}"),
    }
    orders.execute(key, CommitId::generate(), |order| order.pay(1999)).await?;
    let shipped = orders.execute(key, CommitId::generate(), Order::ship).await?;

    // Read your own writes: the read model has seen what was executed here.
    projection.wait_for(&shipped, Duration::from_secs(5)).await?;
    println!("books sold: {}", sales.of("book"));
    projection.stop().await?;
    Ok(store.close().await?)
}
