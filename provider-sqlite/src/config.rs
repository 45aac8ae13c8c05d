//! The keys of a store in one SQLite file.

use evstore_api::{
    ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName, capabilities::Limits,
};
use evstore_kit::keys;
use std::path::PathBuf;

/// Largest value that any setting allows, in bytes: SQLite refuses rows above 1,000,000,000 bytes.
const VALUE_BYTES_CEILING: u64 = 512 << 20;
/// Most events, streams or records in a page.
const PAGE_ITEMS: u32 = 10_000;
/// Connections that read at a time, at most.
const READERS_CEILING: u64 = 64;

/// What a store in a SQLite file reads from its table.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "path",
        kind: KeyKind::Path,
        default: KeyDefault::Required,
        secrecy: Secrecy::Plain,
        sentence: "The file. Beside it stand, while it is open, its -wal and -shm.",
    },
    ConfigKey {
        name: "auto_create",
        kind: KeyKind::Switch,
        default: KeyDefault::Value("true"),
        secrecy: Secrecy::Plain,
        sentence: "Whether opening makes the file and its tables where they are missing.",
    },
    ConfigKey {
        name: "readers_max",
        kind: KeyKind::Count,
        default: KeyDefault::Value("4"),
        secrecy: Secrecy::Plain,
        sentence: "Connections that read at a time, beside the writer; 1 to 64.",
    },
    ConfigKey {
        name: "queue_bytes_max",
        kind: KeyKind::Bytes,
        default: KeyDefault::Value("64MiB"),
        secrecy: Secrecy::Plain,
        sentence: "Most bytes of appends that wait for the writer; callers beyond it wait outside.",
    },
    keys::event_bytes_max("8MiB"),
    keys::commit_bytes_max("16MiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("16MiB"),
    keys::record_bytes_max("64KiB"),
];

/// The settings of one store, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's name.
    pub own: StoreName,
    /// The file, as an absolute path.
    pub path: PathBuf,
    /// What opening does where the store is missing.
    pub missing: Missing,
    /// Connections that read at a time.
    pub readers_max: u32,
    /// Most bytes that wait for the writer.
    pub queue_bytes_max: usize,
    /// The declared limits.
    pub limits: Limits,
}

/// What opening does where the file or its tables are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Makes them.
    Make,
    /// Refuses.
    Refuse,
}

impl Config {
    /// Reads settings that were checked against [`KEYS`].
    ///
    /// # Errors
    /// `Invalid` for a value out of bounds.
    pub fn new(settings: &Settings) -> Result<Self> {
        let path = settings.path("path").ok_or_else(|| Error::new(ErrorKind::Invalid, "a required key is missing"))?;
        // Absolute, so that SQLite takes no name for one of its own (`:memory:`, `file:…`).
        let path = std::path::absolute(path)
            .map_err(|cause| Error::new(ErrorKind::Invalid, "the path is not one").caused_by(cause))?;
        for key in ["commit_bytes_max", "snapshot_bytes_max", "record_bytes_max"] {
            bounded(settings, key, 1, VALUE_BYTES_CEILING)?;
        }
        let missing = if settings.switch("auto_create").unwrap_or(true) { Missing::Make } else { Missing::Refuse };
        Ok(Self {
            own: settings.store().clone(),
            path,
            missing,
            readers_max: bounded(settings, "readers_max", 1, READERS_CEILING)? as u32,
            queue_bytes_max: bounded(settings, "queue_bytes_max", 1, u64::from(u32::MAX))?,
            limits: keys::limits(settings, PAGE_ITEMS)?,
        })
    }
}

fn bounded(settings: &Settings, key: &'static str, min: u64, max: u64) -> Result<usize> {
    let refused = || {
        let error = Error::new(ErrorKind::Invalid, "a value is out of bounds").with("store", settings.store());
        error.with("key", key).with("min", min).with("max", max)
    };
    let given = settings.number(key).filter(|given| (min..=max).contains(given)).ok_or_else(refused)?;
    usize::try_from(given).map_err(|_| refused())
}
