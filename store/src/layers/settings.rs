//! The keys that every store has, whoever provides it: how long to wait, and how often to try.

use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use std::time::Duration;

/// The keys of the layers, beside the provider's own in a store's table.
pub const LAYER_KEYS: &[ConfigKey] = &[
    key(
        "call_timeout",
        KeyKind::Duration,
        "30s",
        "Longest that a call may take, repeats included; a caller may ask for less.",
    ),
    // Above the pauses that a healthy engine makes (a checkpoint, a failover of seconds): a try that is cut off is repeated,
    // and only adds to the load of a store that is slow.
    key("append_timeout", KeyKind::Duration, "5s", "Longest that one try of an append or another write may take."),
    key("read_timeout", KeyKind::Duration, "10s", "Longest that one try of a read may take."),
    key(
        "retries_max",
        KeyKind::Count,
        "5",
        "How often a call that failed for the moment is repeated; 0 for never. A store \
        that is closed for a move is waited for until the call's time is up.",
    ),
    key(
        "retry_pause_min",
        KeyKind::Duration,
        "20ms",
        "About how long to wait before the first repeat; twice as long before each further one.",
    ),
    key("retry_pause_max", KeyKind::Duration, "2s", "Longest wait before a repeat."),
];

const fn key(name: &'static str, kind: KeyKind, default: &'static str, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default: KeyDefault::Value(default), secrecy: Secrecy::Plain, sentence }
}

/// What the layers are told about one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSettings {
    /// Longest that a call may take, repeats included.
    pub call_timeout: Duration,
    /// Longest that one try of a write may take.
    pub append_timeout: Duration,
    /// Longest that one try of a read may take.
    pub read_timeout: Duration,
    /// How often a call is repeated.
    pub retries_max: u64,
    /// The first pause before a repeat.
    pub retry_pause_min: Duration,
    /// The longest pause before a repeat.
    pub retry_pause_max: Duration,
}

impl LayerSettings {
    /// Checks what was given against [`LAYER_KEYS`] and fills in defaults.
    ///
    /// # Errors
    /// `Invalid` for an unknown key, a value of another kind, or a time of zero.
    pub fn new(store: &StoreName, given: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let settings = Settings::new(store.clone(), LAYER_KEYS, given)?;
        Ok(Self {
            call_timeout: time(&settings, "call_timeout")?,
            append_timeout: time(&settings, "append_timeout")?,
            read_timeout: time(&settings, "read_timeout")?,
            retries_max: settings.number("retries_max").unwrap_or_default(),
            retry_pause_min: time(&settings, "retry_pause_min")?,
            retry_pause_max: time(&settings, "retry_pause_max")?,
        })
    }
}

fn time(settings: &Settings, key: &'static str) -> Result<Duration> {
    settings.duration(key).filter(|time| !time.is_zero()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "a time of zero lets nothing happen")
            .with("store", settings.store())
            .with("key", key)
    })
}
