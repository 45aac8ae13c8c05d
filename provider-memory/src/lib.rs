//! The reference provider: everything in memory, behind one lock, gone with the process. New providers start as a copy of
//! it, and tests hold others against it. How stores are opened is here; what they do is in `store` and `admin`.

mod admin;
mod append;
mod capabilities;
mod codec;
mod config;
mod error;
mod read;
mod record;
mod replicate;
mod schema;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;

use crate::admin::MemoryAdmin;
use crate::config::Config;
use crate::schema::Database;
use crate::store::{Client, MemoryStore};
use async_trait::async_trait;
use evstore_api::{Clock, Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin, SystemClock};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Its name in config files.
pub const NAME: &str = "memory";

/// The provider. Its stores live as long as this value or a handle: two values share nothing.
#[must_use]
pub fn provider() -> Provider {
    provider_with(Arc::new(SystemClock))
}

/// The provider with a clock of the caller's choice.
#[must_use]
pub fn provider_with(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: NAME,
        sentence: "In memory, gone with the process: for tests, and to compare others with.",
        keys: config::KEYS,
        opener: Arc::new(Stores { clock, databases: Mutex::default() }),
    }
}

/// What names a database: a store's own name, and the tag of a scratch store beside it.
type Address = (String, Option<String>);

/// The databases of one provider value.
struct Stores {
    clock: Arc<dyn Clock>,
    databases: Mutex<BTreeMap<Address, Arc<Database>>>,
}

impl Stores {
    /// The client of a database. One without a tag is made when it is first opened.
    fn client(&self, settings: &Settings) -> Result<Client> {
        let config = Config::new(settings)?;
        let mut databases = error::lock(&self.databases)?;
        let address = (config.name.clone(), config.scratch.clone());
        let database = match (databases.get(&address), &config.scratch) {
            (Some(database), _) => database.clone(),
            (None, None) => databases.entry(address).or_insert(self.make()).clone(),
            (None, Some(tag)) => {
                return Err(Error::new(ErrorKind::Schema, "there is no scratch store of this tag").with("tag", tag));
            }
        };
        Ok(Client::new(database, self.clock.clone(), config))
    }

    fn make(&self) -> Arc<Database> {
        Arc::new(Database::new(self.clock.now()))
    }
}

#[async_trait]
impl Opener for Stores {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let client = self.client(settings)?;
        client.tables()?.meta.format.check_read()?;
        Ok(Arc::new(MemoryStore(client)))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(MemoryAdmin(self.client(settings)?)))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        evstore_kit::keys::check_scratch_tag(tag)?;
        settings.clone().with("scratch", tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let address = (Config::new(&scratch)?.name, Some(tag.to_owned()));
        let mut databases = error::lock(&self.databases)?;
        if databases.contains_key(&address) {
            return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of this tag").with("tag", tag));
        }
        databases.insert(address, self.make());
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let config = Config::new(scratch)?;
        if config.scratch.is_none() {
            return Err(
                Error::new(ErrorKind::Invalid, "only a scratch store is dropped").with("store", scratch.store())
            );
        }
        error::lock(&self.databases)?.remove(&(config.name, config.scratch));
        Ok(())
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let config = Config::new(settings)?;
        let databases = error::lock(&self.databases)?;
        Ok(databases.keys().filter(|(name, _)| *name == config.name).filter_map(|(_, tag)| tag.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FixedClock, append, deadline, settings, stream};
    use evstore_api::{Expected, FindCommit, ReadHead, Revision, Timestamp, WaitFeed, Waited};

    async fn revision(store: &Arc<dyn EventStore>) -> Revision {
        store.head(ReadHead { stream: stream("a-1"), deadline: deadline() }).await.unwrap().revision
    }

    #[tokio::test]
    async fn equal_settings_are_one_store_and_two_values_share_nothing() {
        let provider = provider();
        let one = provider.opener.open(&settings("main")).await.unwrap();
        let two = provider.opener.open(&settings("main")).await.unwrap();
        append(&one, "a-1", 1, 1, Expected::NoStream).await.unwrap();
        assert_eq!(revision(&two).await, Revision(1));
        let elsewhere = super::provider().opener.open(&settings("main")).await.unwrap();
        assert_eq!(revision(&elsewhere).await, Revision(0));
    }

    #[tokio::test]
    async fn a_scratch_store_is_made_beside_and_dropped() {
        let opener = provider().opener;
        let main = settings("main");
        let scratch = opener.make_scratch(&main, "t1").await.unwrap();
        assert_eq!(opener.make_scratch(&main, "t1").await.unwrap_err().kind(), ErrorKind::Conflict);
        let store = opener.open(&scratch).await.unwrap();
        append(&store, "a-1", 1, 1, Expected::NoStream).await.unwrap();
        assert_eq!(revision(&opener.open(&main).await.unwrap()).await, Revision(0));
        assert_eq!(opener.list_scratch(&main).await.unwrap(), ["t1"]);
        assert_eq!(opener.drop_scratch(&main).await.unwrap_err().kind(), ErrorKind::Invalid);
        opener.drop_scratch(&scratch).await.unwrap();
        assert_eq!(opener.list_scratch(&main).await.unwrap(), Vec::<String>::new());
        assert_eq!(opener.open(&scratch).await.unwrap_err().kind(), ErrorKind::Schema);
    }

    #[tokio::test]
    async fn closing_one_handle_wakes_its_waiters_and_leaves_the_other() {
        let opener = provider().opener;
        let (one, two) = (opener.open(&settings("main")).await.unwrap(), opener.open(&settings("main")).await.unwrap());
        let after = one.feed_head(deadline()).await.unwrap().cursor;
        let wait = |store: Arc<dyn EventStore>| {
            let request = WaitFeed { after: after.clone(), deadline: deadline() };
            tokio::spawn(async move { store.wait_feed(request).await })
        };
        let (first, second) = (wait(one.clone()), wait(two.clone()));
        tokio::task::yield_now().await;
        one.close().await.unwrap();
        one.close().await.unwrap();
        assert_eq!(first.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        append(&two, "a-1", 1, 1, Expected::NoStream).await.unwrap();
        assert_eq!(second.await.unwrap().unwrap(), Waited::More);
        assert_eq!(append(&one, "a-1", 2, 1, Expected::Any).await.unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn time_comes_from_the_clock_and_never_falls() {
        let clock = Arc::new(FixedClock::at(50));
        let store = provider_with(clock.clone()).opener.open(&settings("main")).await.unwrap();
        let first = append(&store, "a-1", 1, 1, Expected::Any).await.unwrap();
        clock.set(20);
        let second = append(&store, "a-1", 2, 1, Expected::Any).await.unwrap();
        assert_eq!((first.recorded_at, second.recorded_at), (Timestamp(50), Timestamp(50)));
    }

    #[tokio::test]
    async fn a_window_ends_after_its_last_commit() {
        let settings = settings("main").with("idempotency_commits", "64").unwrap();
        let store = provider().opener.open(&settings).await.unwrap();
        for id in 0..64 {
            append(&store, "a-1", id, 1, Expected::Any).await.unwrap();
        }
        assert!(append(&store, "a-1", 0, 1, Expected::NoStream).await.unwrap().repeated);
        append(&store, "a-1", 64, 1, Expected::Any).await.unwrap();
        let find = FindCommit { stream: stream("a-1"), commit: testing::commit(0), deadline: deadline() };
        assert_eq!(store.find_commit(find).await.unwrap(), None);
        let smaller = testing::settings("main").with("idempotency_commits", "63").unwrap();
        assert_eq!(provider().opener.open(&smaller).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
