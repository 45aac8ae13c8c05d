//! An application under load whose store is changed under it, and changed back. Four nodes pay into the same accounts all the time: two
//! have the config from before the move, two the one for after it, and none is told when. A watcher follows the feed and compares it with
//! what the nodes were promised. Moves from one SQLite file to Postgres where `DATABASE_URL` says where that is, else to a second file.
//!
//! ```sh
//! cargo run -p evstore --example migrate-live
//! DATABASE_URL=postgres://… cargo run -p evstore --features postgres --example migrate-live
//! cargo test -p evstore --example migrate-live
//! ```
//!
//! On Postgres it makes the schema `migrate_live`, which has to be empty; drop it afterwards.
#![allow(clippy::print_stdout, reason = "an example talks to the person who started it")]

mod account;
mod watch;

use account::Account;
use evstore::{CommitId, Config, ExecuteError, Registry, Store, StoreName};
use evstore_migrate::{Cutover, Migration, Pace, Settled, Side};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use watch::{Acknowledged, Watch};

type Failure = Box<dyn Error + Send + Sync>;

/// Accounts that all nodes pay into.
const ACCOUNTS: u64 = 5;
/// Nodes, of which every second one has the new config.
const NODES: u64 = 4;
/// How long a copy may take to come near.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let url = std::env::var("DATABASE_URL").ok();
    let told = move_there_and_back(folder.path(), url.as_deref(), Duration::from_secs(2)).await?;
    println!("{told}");
    Ok(())
}

/// The stores, as every node's config has them; the nodes differ in which one is the default.
fn config(folder: &Path, url: Option<&str>, default: &str) -> Result<Config, Failure> {
    let next = match url {
        Some(url) => format!("provider = \"postgres\"\nurl = {url:?}\nschema = \"migrate_live\"\nauto_create = true"),
        None => format!("provider = \"sqlite\"\npath = {:?}", folder.join("next.db")),
    };
    Ok(Config::parse(&format!(
        "default_store = \"{default}\"\n[stores.main]\nprovider = \"sqlite\"\npath = {:?}\n[stores.next]\n{next}\n\
         [migrate]\ntargets = [\"next\"]\n",
        folder.join("main.db")
    ))?)
}

/// A node: it pays into accounts until it is told to stop, and keeps what it was told.
async fn pay(store: Store, node: u64, stop: Arc<AtomicBool>) -> Result<Vec<Acknowledged>, Failure> {
    let accounts = store.repository::<Account>();
    let mut acknowledged = Vec::new();
    for payment in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // The id is made once: whatever happens in between, the payment is made once.
        let id = CommitId::derive(&[b"payment", &node.to_le_bytes(), &u64::to_le_bytes(payment)]);
        let account = (payment % ACCOUNTS).to_string();
        let began = Instant::now();
        match accounts.execute(&account, id, |account| account.pay_in(1 + payment)).await {
            Ok(paid) => acknowledged.push(Acknowledged {
                commit: id,
                place: (paid.stream.to_string(), paid.revision.0),
                took: began.elapsed(),
            }),
            Err(ExecuteError::Rejected(why)) => return Err(why.into()),
            Err(ExecuteError::Store(error)) => return Err(error.into()),
        }
    }
    store.close().await?;
    Ok(acknowledged)
}

/// The two stores as the one who moves them has them: with both sides, and without the layers that follow a move.
async fn migration(registry: &Registry, config: &Config) -> Result<Migration, Failure> {
    let side = |name: &'static str| async move {
        let name = StoreName::new(name)?;
        let configured = registry.settings(config, &name)?;
        let store = configured.provider.opener.open(&configured.settings).await?;
        Ok::<_, Failure>(Side { name, store, admin: configured.open_admin().await? })
    };
    Ok(Migration::new(side("main").await?, side("next").await?)?)
}

fn done(settled: Settled) -> Result<Cutover, Failure> {
    match settled {
        Settled::Done(cutover) => Ok(*cutover),
        other => Err(format!("nothing was handed over: {other:?}").into()),
    }
}

async fn move_there_and_back(folder: &Path, url: Option<&str>, between: Duration) -> Result<String, Failure> {
    let registry = Registry::builtin();
    let before = config(folder, url, "main")?;
    let open = |default| {
        let registry = &registry;
        async move {
            let config = config(folder, url, default)?;
            Ok::<_, Failure>(registry.open(&config, config.default_store()?).await?)
        }
    };
    let (tells, told) = tokio::sync::oneshot::channel();
    let watches = tokio::spawn(Watch::default().follow(open("main").await?, told));
    let stop = Arc::new(AtomicBool::new(false));
    let mut nodes = vec![tokio::spawn(pay(open("main").await?, 0, stop.clone()))];
    tokio::time::sleep(between / 4).await;

    // The target is filled from now on. Those with the new config are deployed, and find the source through it.
    let migration = migration(&registry, &before).await?;
    migration.start().await?;
    let copies = tokio::spawn({
        let migration = migration.clone();
        async move { migration.run(Pace::default(), None).await }
    });
    for node in 1..NODES {
        let default = if node % 2 == 1 { "next" } else { "main" };
        nodes.push(tokio::spawn(pay(open(default).await?, node, stop.clone())));
    }
    tokio::time::sleep(between).await;
    let there = done(migration.cutover(PATIENCE, None).await?)?;
    tokio::time::sleep(between).await;
    let back = done(migration.rollback(PATIENCE, None).await?)?;
    tokio::time::sleep(between).await;

    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for node in nodes {
        acknowledged.extend(node.await??);
    }
    let count = acknowledged.len();
    tells.send(acknowledged).map_err(|_| "the watcher has ended")?;
    let (watch, acknowledged) = watches.await??;
    copies.await??;
    let longest = acknowledged.iter().map(|one| one.took).max().unwrap_or_default();
    let ms = |pause: Option<Duration>| pause.unwrap_or_default().as_millis();
    Ok(format!(
        "moved at position {} in {} ms, and back at position {} in {} ms, under {NODES} nodes\n\
         {count} payments acknowledged, {} seen: none lost, none twice, all in order; none failed, the longest took {} ms",
        there.end,
        ms(there.pause),
        back.end,
        ms(back.pause),
        watch.events(),
        longest.as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_lost_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let told = move_there_and_back(folder.path(), None, Duration::from_millis(400)).await.unwrap();
        assert!(told.contains("none lost"), "{told}");
    }
}
