//! The provider as a value, and scratch stores: a prefix beside the store's own.

use crate::admin::RedisAdmin;
use crate::config::{Config, KEYS, SCRATCH};
use crate::error::Purpose;
use crate::link::Step;
use crate::schema::{self, command};
use crate::server::text;
use crate::store::{Client, RedisStore, array, bytes_of};
use async_trait::async_trait;
use evstore_api::{
    Clock, Deadline, Error, ErrorKind, EventStore, Opener, Provider, RecordKind, Result, Settings, StoreAdmin,
    SystemClock,
};
use evstore_kit::keys;
use redis::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long opening, making and dropping a store may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Streams that are removed at a time.
const DROPPED_AT_ONCE: u64 = 500;

/// Redis and Valkey with the system's clock.
#[must_use]
pub fn provider() -> Provider {
    provider_with(Arc::new(SystemClock))
}

/// Redis and Valkey with a clock that a test chooses.
#[must_use]
pub fn provider_with(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: crate::NAME,
        sentence: "Redis 7.0 and later, or Valkey: standalone, behind Sentinel, or a Cluster; as durable as it is set up.",
        keys: KEYS,
        opener: Arc::new(RedisOpener { clock }),
    }
}

struct RedisOpener {
    clock: Arc<dyn Clock>,
}

impl RedisOpener {
    async fn client(&self, settings: &Settings) -> Result<Client> {
        Client::open(Config::new(settings)?, self.clock.clone()).await
    }
}

#[async_trait]
impl Opener for RedisOpener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let config = Config::new(settings)?;
        let makes = config.auto_create && config.scratch_tag().is_none();
        let client = Client::open(config, self.clock.clone()).await?;
        let deadline = Deadline::within(PATIENCE);
        // Only where it is missing: one that newer releases write may still be read.
        if makes && !schema::is_there(&client, deadline).await? {
            schema::apply(&client, deadline).await?;
        }
        schema::check(&client, deadline).await?.check_read()?;
        Ok(Arc::new(RedisStore(client)))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(RedisAdmin(self.client(settings).await?)))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        keys::check_scratch_tag(tag)?;
        let prefix = Config::new(settings)?.prefix;
        let name = prefix.split(SCRATCH).next().unwrap_or_default();
        settings.clone().with("prefix", format!("{name}{SCRATCH}{tag}"))
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let beside = self.client(settings).await?;
        let deadline = Deadline::within(PATIENCE);
        let added = Step::Command(command("SADD", beside.keys().scratch(), &[tag]));
        if beside.run(0, &added, deadline, Purpose::Write).await? != Value::Int(1) {
            return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag").with("tag", tag));
        }
        schema::apply(&self.client(&scratch).await?, deadline).await?;
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let config = Config::new(scratch)?;
        let Some((prefix, tag)) = config.scratch_tag().map(|(prefix, tag)| (prefix.to_owned(), tag.to_owned())) else {
            return Err(Error::new(ErrorKind::Invalid, "only a scratch store is dropped").with("prefix", config.prefix));
        };
        let deadline = Deadline::within(PATIENCE);
        drop_keys(&self.client(scratch).await?, deadline).await?;
        let beside = self.client(&scratch.clone().with("prefix", prefix)?).await?;
        let removed = Step::Command(command("SREM", beside.keys().scratch(), &[tag.as_str()]));
        beside.run(0, &removed, deadline, Purpose::Write).await.map(drop)
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let client = self.client(settings).await?;
        let asked = Step::Command(command("SMEMBERS", client.keys().scratch(), &[]));
        let tags = array(client.run(0, &asked, Deadline::within(PATIENCE), Purpose::Read).await?);
        let mut tags: Vec<String> = tags.iter().filter_map(text).collect();
        tags.sort();
        Ok(tags)
    }
}

/// Removes every key of a store, each by its name: the list of streams knows them all.
async fn drop_keys(client: &Client, deadline: Deadline) -> Result<()> {
    let keys = client.keys();
    for partition in 0..keys.partitions() {
        loop {
            let mut range = redis::cmd("ZRANGE");
            range.arg(keys.streams(partition)).arg(0).arg(DROPPED_AT_ONCE - 1);
            let members = array(client.run(partition, &Step::Command(range), deadline, Purpose::Read).await?);
            if members.is_empty() {
                break;
            }
            let (mut unlink, mut unlist) = (redis::cmd("UNLINK"), redis::cmd("ZREM"));
            unlist.arg(keys.streams(partition));
            for member in members.iter().filter_map(bytes_of) {
                unlist.arg(member);
                if let Some(stream) = crate::keyspace::stream_of(member) {
                    unlink.arg(keys.stream(&stream));
                }
            }
            // First what is listed, then the list: a drop that breaks off can be made again.
            client.run(partition, &Step::Command(unlink), deadline, Purpose::Write).await?;
            client.run(partition, &Step::Command(unlist), deadline, Purpose::Write).await?;
        }
        let mut fixed = redis::cmd("UNLINK");
        fixed.arg(keys.feed(partition)).arg(keys.streams(partition)).arg(keys.meta(partition));
        if partition == 0 {
            for kind in [RecordKind::Checkpoint, RecordKind::Presence] {
                fixed.arg(keys.records(kind)).arg(keys.record_names(kind));
            }
        }
        client.run(partition, &Step::Command(fixed), deadline, Purpose::Write).await?;
    }
    Ok(())
}
