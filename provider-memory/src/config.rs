//! The keys of a store in the config file, and what they say.

use evstore_api::capabilities::{Limits, Window};
use evstore_api::{ConfigKey, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_kit::keys;

/// Most items in a page. A commit of the most events fits.
const PAGE_ITEMS_MAX: u32 = 10_000;

/// Every key that the provider reads.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "name",
        kind: KeyKind::Text,
        default: KeyDefault::Value("default"),
        secrecy: Secrecy::Plain,
        sentence: "Which of the stores in this process: those of one name are one store.",
    },
    ConfigKey {
        name: "scratch",
        kind: KeyKind::Text,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Plain,
        sentence: "Tag of a scratch store beside it; set by whoever makes one, never by hand.",
    },
    keys::event_bytes_max("1MiB"),
    keys::commit_bytes_max("4MiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("4MiB"),
    keys::record_bytes_max("64KiB"),
    keys::idempotency_commits(),
];

/// What the keys say.
#[derive(Debug)]
pub struct Config {
    /// The store's name in the config file: what markers call it.
    pub store: StoreName,
    /// Which database.
    pub name: String,
    /// Which scratch database beside that one.
    pub scratch: Option<String>,
    /// The bounds.
    pub limits: Limits,
    /// How far back repeats are recognised.
    pub window: Window,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// `Invalid` for a window that is too small.
    pub fn new(settings: &Settings) -> Result<Self> {
        Ok(Self {
            store: settings.store().clone(),
            name: settings.text("name").unwrap_or_default().to_owned(),
            scratch: settings.text("scratch").map(str::to_owned),
            limits: keys::limits(settings, PAGE_ITEMS_MAX)?,
            window: keys::window(settings)?,
        })
    }
}
