//! How stores in Postgres are opened, and scratch stores beside them made and dropped.

use crate::config::{Config, KEYS, SCRATCH};
use crate::schema;
use crate::store::{Client, PostgresAdmin, PostgresStore};
use async_trait::async_trait;
use evstore_api::{
    Clock, Deadline, Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin, SystemClock,
};
use evstore_kit::keys;
use std::sync::Arc;
use std::time::Duration;

/// How long making or dropping a scratch store may take.
const SCRATCH_MAX: Duration = Duration::from_secs(60);

/// The provider.
#[must_use]
pub fn provider() -> Provider {
    provider_with_clock(Arc::new(SystemClock))
}

/// The provider with a clock of the caller's choice.
#[must_use]
pub fn provider_with_clock(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: crate::NAME,
        sentence: "Postgres 13 and later, and Aurora: durable, strict order, many nodes.",
        keys: KEYS,
        opener: Arc::new(Servers { clock }),
    }
}

struct Servers {
    clock: Arc<dyn Clock>,
}

impl Servers {
    async fn admin(&self, settings: &Settings) -> Result<Arc<Client>> {
        Client::open_admin(Config::new(settings)?, self.clock.clone()).await
    }
}

#[async_trait]
impl Opener for Servers {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(PostgresStore(Client::open(Config::new(settings)?, self.clock.clone()).await?)))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(PostgresAdmin(self.admin(settings).await?)))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let schema = Config::new(settings)?.scratch(tag)?;
        // Once it is dropped, opening it must not make it again.
        settings.clone().with("schema", schema)?.with("auto_create", "false")
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let admin = PostgresAdmin(self.admin(&scratch).await?);
        let made = schema::make_scratch(&admin.0, Deadline::within(SCRATCH_MAX)).await;
        admin.close().await?;
        made.map(|()| scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let config = Config::new(scratch)?;
        let tag = config.schema.rsplit_once(SCRATCH).map(|(_, tag)| tag);
        if tag.is_none_or(|tag| keys::check_scratch_tag(tag).is_err()) {
            return Err(
                Error::new(ErrorKind::Invalid, "the schema is not a scratch store").with("schema", config.schema)
            );
        }
        let admin = PostgresAdmin(self.admin(scratch).await?);
        let dropped = schema::remove(&admin.0, Deadline::within(SCRATCH_MAX)).await;
        admin.close().await?;
        dropped
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let admin = PostgresAdmin(self.admin(settings).await?);
        let prefix = format!("{}{SCRATCH}", Config::new(settings)?.schema);
        let listed = schema::list(&admin.0, &prefix, Deadline::within(SCRATCH_MAX)).await;
        admin.close().await?;
        let tags = listed?.into_iter().filter_map(|schema| schema.strip_prefix(&prefix).map(str::to_owned));
        Ok(tags.filter(|tag| keys::check_scratch_tag(tag).is_ok()).collect())
    }
}
