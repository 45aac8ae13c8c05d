//! The provider as a value, and scratch stores: tables beside the store's own.

use crate::admin::DynamoAdmin;
use crate::config::{Config, KEYS, SCRATCH};
use crate::error::{self, Purpose};
use crate::schema::{self, Commits};
use crate::store::{Client, DynamoStore, Handle};
use crate::tables::Table;
use async_trait::async_trait;
use evstore_api::{
    Clock, Deadline, Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin, SystemClock,
};
use evstore_kit::keys;
use std::sync::Arc;
use std::time::Duration;

/// How long opening a store may take, and how long making or dropping one: a table takes AWS some seconds.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
const MAKE_PATIENCE: Duration = Duration::from_secs(120);

/// DynamoDB with the system's clock.
#[must_use]
pub fn provider() -> Provider {
    provider_with(Arc::new(SystemClock))
}

/// DynamoDB with a clock that a test chooses.
#[must_use]
pub fn provider_with(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: crate::NAME,
        sentence: "Amazon DynamoDB: a commit is one item, written where there is none; paid by what is read and written.",
        keys: KEYS,
        opener: Arc::new(DynamoOpener { clock }),
    }
}

struct DynamoOpener {
    clock: Arc<dyn Clock>,
}

impl DynamoOpener {
    async fn client(&self, settings: &Settings) -> Result<Client> {
        Client::new(Config::new(settings)?, self.clock.clone()).await
    }
}

#[async_trait]
impl Opener for DynamoOpener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let client = self.client(settings).await?;
        // Only where it is missing: one that newer releases write may still be read.
        if client.config().auto_create && client.config().scratch_tag().is_none() {
            let deadline = Deadline::within(MAKE_PATIENCE);
            if !schema::is_there(&client, deadline).await? {
                schema::apply(&client, Commits::Perhaps, deadline).await?;
            }
        }
        schema::check(&client, Deadline::within(OPEN_PATIENCE)).await?.meta.format.check_read()?;
        Ok(Arc::new(DynamoStore(Handle::new(client).with_sequencer())))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(DynamoAdmin(Handle::new(self.client(settings).await?))))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        keys::check_scratch_tag(tag)?;
        let table = Config::new(settings)?.table;
        let name = table.split(SCRATCH).next().unwrap_or_default();
        settings.clone().with("table", format!("{name}{SCRATCH}{tag}"))
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let client = self.client(&scratch).await?;
        let deadline = Deadline::within(MAKE_PATIENCE);
        // The first table decides between two that make it at once.
        if !schema::create(&client, Table::Commits, deadline).await? {
            return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag").with("tag", tag));
        }
        schema::apply(&client, Commits::New, deadline).await?;
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let client = self.client(scratch).await?;
        if client.config().scratch_tag().is_none() {
            return Err(
                Error::new(ErrorKind::Invalid, "only a scratch store is dropped").with("table", &client.config().table)
            );
        }
        schema::drop_tables(&client, Deadline::within(MAKE_PATIENCE)).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let client = self.client(settings).await?;
        let name = client.config().table.split(SCRATCH).next().unwrap_or_default().to_owned();
        let prefix = format!("{name}{SCRATCH}");
        let deadline = Deadline::within(OPEN_PATIENCE);
        let mut tags = Vec::new();
        // Names come in order: those of scratch stores directly behind the store's own.
        let mut start = Some(name);
        while let Some(after) = start {
            let request = client.link().client().list_tables().exclusive_start_table_name(after);
            let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
            let found = answer
                .map_err(|_| error::late(Purpose::Read))?
                .map_err(|refusal| error::failed(&refusal, Purpose::Read))?;
            let names = found.table_names();
            let tag = |name: &String| {
                let tag = name.strip_prefix(&prefix)?.split('-').next()?;
                keys::check_scratch_tag(tag).ok().map(|()| tag.to_owned())
            };
            tags.extend(names.iter().filter_map(tag));
            let past = names.last().is_none_or(|last| *last > prefix && !last.starts_with(&prefix));
            start = found.last_evaluated_table_name.filter(|_| !past);
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }
}
