//! The provider as a value, and scratch stores: prefixes beside the store's own.

use crate::admin::S3Admin;
use crate::config::{Config, KEYS, SCRATCH};
use crate::schema;
use crate::store::{Client, Handle, S3Store};
use async_trait::async_trait;
use evstore_api::{
    Clock, Deadline, Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin, SystemClock, Usage,
};
use evstore_kit::keys;
use std::sync::Arc;
use std::time::Duration;

/// How long opening a store may take, and making or dropping one. Without a checkpoint the whole log is read.
const OPEN_PATIENCE: Duration = Duration::from_secs(300);
const MAKE_PATIENCE: Duration = Duration::from_secs(120);

/// S3 with the system's clock.
#[must_use]
pub fn provider() -> Provider {
    provider_with(Arc::new(SystemClock))
}

/// S3 with a clock that a test chooses.
#[must_use]
pub fn provider_with(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: crate::NAME,
        sentence: "Amazon S3: what waits is one object, put where there is none; cheap to keep, paid by request, slow to append.",
        keys: KEYS,
        opener: Arc::new(S3Opener { clock }),
    }
}

struct S3Opener {
    clock: Arc<dyn Clock>,
}

impl S3Opener {
    async fn client(&self, settings: &Settings) -> Result<Client> {
        Client::new(Config::new(settings)?, self.clock.clone()).await
    }
}

#[async_trait]
impl Opener for S3Opener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let client = self.client(settings).await?;
        // Only where it is missing: one that newer releases write may still be read.
        if client.config().auto_create && client.config().scratch_tag().is_none() {
            let deadline = Deadline::within(MAKE_PATIENCE);
            if !schema::is_there(&client, deadline).await? {
                schema::apply(&client, deadline).await?;
            }
        }
        let readable = |tables: &crate::tables::Tables| tables.meta().format.check_read();
        client.look(Deadline::within(OPEN_PATIENCE), &mut Usage::default(), readable).await?;
        Ok(Arc::new(S3Store(Handle::new(client))))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(S3Admin(Handle::new(self.client(settings).await?))))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        keys::check_scratch_tag(tag)?;
        let prefix = Config::new(settings)?.prefix;
        let name = prefix.split(SCRATCH).next().unwrap_or_default();
        settings.clone().with("prefix", format!("{name}{SCRATCH}{tag}"))
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let client = self.client(&scratch).await?;
        let deadline = Deadline::within(MAKE_PATIENCE);
        // The first object decides between two that make it at once.
        let made = match schema::create(&client, deadline).await {
            Err(error) if error.kind() == ErrorKind::Schema => {
                client.link().make_bucket(deadline).await?;
                schema::create(&client, deadline).await?
            }
            made => made?,
        };
        if !made {
            return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag").with("tag", tag));
        }
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let client = self.client(scratch).await?;
        if client.config().scratch_tag().is_none() {
            return Err(
                Error::new(ErrorKind::Invalid, "only a scratch store is dropped").with("prefix", client.prefix())
            );
        }
        schema::drop_objects(&client, Deadline::within(MAKE_PATIENCE)).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let client = self.client(settings).await?;
        let name = client.prefix().split(SCRATCH).next().unwrap_or_default();
        let begin = format!("{name}{SCRATCH}");
        let deadline = Deadline::within(OPEN_PATIENCE);
        let found = client.link().list_all(&begin, Some("/"), deadline, &mut Usage::default()).await?;
        let tag = |prefix: &String| prefix.strip_prefix(&begin)?.strip_suffix('/').map(str::to_owned);
        let tags = found.prefixes.iter().filter_map(tag).filter(|tag| keys::check_scratch_tag(tag).is_ok());
        let mut tags: Vec<String> = tags.collect();
        tags.sort();
        Ok(tags)
    }
}
