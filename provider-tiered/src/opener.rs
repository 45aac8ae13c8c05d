//! The provider as a value, and scratch stores: one of the store in front, with a place beside the archive's.

use crate::admin::TieredAdmin;
use crate::archive::Archive;
use crate::config::{Config, KEYS};
use crate::hot;
use crate::place;
use crate::store::Tiered;
use async_trait::async_trait;
use evstore_api::{Deadline, Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin, Usage};
use evstore_kit::keys;
use std::sync::Arc;
use std::time::Duration;

/// How long making or dropping an archive may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The key with which a provider makes a missing store when it is opened.
const AUTO_CREATE: &str = "auto_create";

/// Tiered stores in front of which one of these providers stands.
#[must_use]
pub fn provider(hot: impl IntoIterator<Item = Provider>) -> Provider {
    Provider {
        name: crate::NAME,
        sentence: "An archive behind another store: cold commits in segments on S3 or in a folder, read as before.",
        keys: KEYS,
        opener: Arc::new(TieredOpener { providers: hot.into_iter().collect() }),
    }
}

/// How tiered stores are opened.
pub struct TieredOpener {
    providers: Vec<Provider>,
}

/// The parts of a tiered store.
pub struct Parts {
    /// The provider of the store in front.
    pub provider: Provider,
    /// Its settings.
    pub settings: Settings,
    /// What the tiered store is told.
    pub config: Config,
    /// The archive.
    pub archive: Arc<Archive>,
}

/// Finds the parts that settings name.
///
/// # Errors
/// `Invalid`.
pub async fn parts(settings: &Settings, providers: &[Provider]) -> Result<Parts> {
    let config = Config::new(settings)?;
    let (provider, hot) = hot::resolve(settings, providers)?;
    let hot = match settings.text("scratch") {
        Some(tag) => provider.opener.scratch(&hot, tag)?,
        None => hot,
    };
    let makes = provider.keys.iter().any(|key| key.name == AUTO_CREATE);
    let hot = match settings.text(AUTO_CREATE) {
        Some(given) if makes => hot.with(AUTO_CREATE, given)?,
        _ => hot,
    };
    let archive = Arc::new(Archive::new(place::of(&config, settings).await?, config.cache_bytes));
    Ok(Parts { provider, settings: hot, config, archive })
}

/// The same settings, with which a missing store is not made.
///
/// # Errors
/// As changing a setting.
pub fn existing(provider: &Provider, settings: &Settings) -> Result<Settings> {
    match provider.keys.iter().any(|key| key.name == AUTO_CREATE) {
        true => settings.clone().with(AUTO_CREATE, "false"),
        false => Ok(settings.clone()),
    }
}

#[async_trait]
impl Opener for TieredOpener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let parts = parts(settings, &self.providers).await?;
        let hot = parts.provider.opener.open(&parts.settings).await?;
        Ok(Arc::new(Tiered::new(hot, parts.archive)?))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        let parts = parts(settings, &self.providers).await?;
        let hot = parts.provider.opener.open_admin(&parts.settings).await?;
        let existing = existing(&parts.provider, &parts.settings)?;
        Ok(Arc::new(TieredAdmin::new(hot, parts.provider, existing, parts.archive, parts.config)?))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        keys::check_scratch_tag(tag)?;
        settings.clone().with("scratch", tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let (provider, hot) = hot::resolve(settings, &self.providers)?;
        provider.opener.make_scratch(&hot, tag).await?;
        parts(&scratch, &self.providers).await?.archive.place().make(Deadline::within(PATIENCE)).await?;
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        if scratch.text("scratch").is_none() {
            return Err(
                Error::new(ErrorKind::Invalid, "only a scratch store is dropped").with("store", scratch.store())
            );
        }
        let parts = parts(scratch, &self.providers).await?;
        // First, so that no archiver begins any more.
        parts.provider.opener.drop_scratch(&parts.settings).await?;
        let (place, deadline) = (parts.archive.place().clone(), Deadline::within(PATIENCE));
        for prefix in ["catalog/", "segments/"] {
            let listed = match place.list(prefix, deadline, &mut Usage::default()).await {
                // There is no bucket, and so nothing in it.
                Err(error) if error.kind() == ErrorKind::Schema => Vec::new(),
                listed => listed?,
            };
            for key in listed {
                place.remove(&key, deadline, &mut Usage::default()).await?;
            }
        }
        place.unmake(deadline).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let (provider, hot) = hot::resolve(settings, &self.providers)?;
        let mut tags = provider.opener.list_scratch(&hot).await?;
        let parts = parts(settings, &self.providers).await?;
        let beside = parts.archive.place().tags(Deadline::within(PATIENCE)).await?;
        tags.extend(beside.into_iter().filter(|tag| keys::check_scratch_tag(tag).is_ok()));
        tags.sort();
        tags.dedup();
        Ok(tags)
    }
}
