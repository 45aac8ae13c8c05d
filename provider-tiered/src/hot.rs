//! The store in front, as a setting: a registry resolves its name and hands its provider and settings along, so that every process
//! that gets the settings of the tiered store can open both.

use evstore_api::{Error, ErrorKind, Provider, Result, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key that holds it. A config file does not have it: the registry fills it in.
pub const HOT_STORE: &str = "hot_store";

#[derive(Serialize, Deserialize)]
struct Resolved {
    provider: String,
    values: BTreeMap<String, String>,
}

/// The settings of a tiered store with the store in front resolved.
///
/// # Errors
/// As changing a setting; `Invalid` for a tiered store in front of another.
pub fn with_hot(settings: Settings, hot: &Provider, hot_settings: &Settings) -> Result<Settings> {
    if hot.name == crate::NAME {
        return Err(Error::new(ErrorKind::Invalid, "a tiered store has no tiered store in front").with("key", "hot"));
    }
    let values = hot_settings.values().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let resolved = Resolved { provider: hot.name.into(), values };
    settings.with(HOT_STORE, serde_json::to_string(&resolved).unwrap_or_default())
}

/// The provider and the settings of the store in front.
///
/// # Errors
/// `Invalid` where it was not resolved, or its provider is not there.
pub fn resolve(settings: &Settings, providers: &[Provider]) -> Result<(Provider, Settings)> {
    let refused = |message| Error::new(ErrorKind::Invalid, message).with("store", settings.store()).with("key", "hot");
    let text = settings.text(HOT_STORE).ok_or_else(|| refused("the store in front was not looked up"))?;
    // Its text has credentials in it, and is not shown.
    let resolved: Resolved =
        serde_json::from_str(text).map_err(|_| refused("the store in front can't be understood"))?;
    let provider = providers.iter().find(|provider| provider.name == resolved.provider).cloned();
    let provider = provider.ok_or_else(|| refused("no such provider").with("provider", &resolved.provider))?;
    // It has the name of the whole: where its streams live is where the whole is.
    let settings = Settings::new(settings.store().clone(), provider.keys, resolved.values)?;
    Ok((provider, settings))
}
