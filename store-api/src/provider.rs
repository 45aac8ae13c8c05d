//! A provider as a value: its name, the keys that it reads, and how it opens a store.

use crate::admin::StoreAdmin;
use crate::error::{Error, ErrorKind, Result};
use crate::name::StoreName;
use crate::store::EventStore;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What kind of value a key has. All are written as text in a config file; numbers and booleans may go without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Any text.
    Text,
    /// A path; relative ones start at the config file's folder.
    Path,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A whole number.
    Count,
    /// A size: `4MiB`, `400KiB`, `1024`.
    Bytes,
    /// A time: `2s`, `250ms`, `5m`, `1h`.
    Duration,
    /// `true` or `false`.
    Switch,
}

/// What holds where a key is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefault {
    /// It has to be given.
    Required,
    /// It may be absent.
    Absent,
    /// This.
    Value(&'static str),
}

/// Whether a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// It may.
    Plain,
    /// Never in a log, a message or `config show`.
    Secret,
}

/// A key that a provider reads from its store's table in the config file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: KeyKind,
    /// What holds without it.
    pub default: KeyDefault,
    /// Whether it may be shown.
    pub secrecy: Secrecy,
    /// What it does, in a sentence.
    pub sentence: &'static str,
}

/// The settings of one store, checked against its provider's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    store: StoreName,
    keys: &'static [ConfigKey],
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Checks what was given against the keys and fills in defaults.
    ///
    /// # Errors
    /// `Invalid` for an unknown key (naming the known ones), a value of another kind, or a missing one.
    pub fn new(
        store: StoreName,
        keys: &'static [ConfigKey],
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let mut settings = Self { store, keys, values: BTreeMap::new() };
        for (name, value) in given {
            settings.set(&name, value)?;
        }
        for key in keys {
            match (settings.values.contains_key(key.name), key.default) {
                (false, KeyDefault::Value(value)) => settings.set(key.name, value.into())?,
                (false, KeyDefault::Required) => {
                    return Err(settings.refused("a required key is missing").with("key", key.name));
                }
                (true, _) | (false, KeyDefault::Absent) => {}
            }
        }
        Ok(settings)
    }

    /// The same settings with one value changed; for scratch stores and tests.
    ///
    /// # Errors
    /// As `new`.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Result<Self> {
        self.set(name, value.into())?;
        Ok(self)
    }

    /// The store's name in the config file.
    #[must_use]
    pub fn store(&self) -> &StoreName {
        &self.store
    }

    /// The keys of the provider.
    #[must_use]
    pub fn keys(&self) -> &'static [ConfigKey] {
        self.keys
    }

    /// What is set, defaults included, by name.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// A text, if it is set.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A path, if it is set.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A count or a size in bytes, if it is set.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(parse_bytes)
    }

    /// A time, if it is set.
    #[must_use]
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(parse_duration)
    }

    /// A switch, if it is set.
    #[must_use]
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            let known: Vec<_> = self.keys.iter().map(|key| key.name).collect();
            return Err(self.refused("no such key").with("key", name).with("known", known.join(" ")));
        };
        let (fits, wanted) = match key.kind {
            KeyKind::Text => (true, String::new()),
            KeyKind::Path => (!value.is_empty(), "a path".into()),
            KeyKind::OneOf(words) => (words.contains(&value.as_str()), format!("one of {}", words.join(" "))),
            KeyKind::Count => (value.parse::<u64>().is_ok(), "a whole number".into()),
            KeyKind::Bytes => (parse_bytes(&value).is_some(), "a size such as 4MiB".into()),
            KeyKind::Duration => (parse_duration(&value).is_some(), "a time such as 2s or 250ms".into()),
            KeyKind::Switch => (value.parse::<bool>().is_ok(), "true or false".into()),
        };
        if !fits {
            let error = self.refused("a value does not fit its key").with("key", name).with("wanted", wanted);
            return Err(match key.secrecy {
                Secrecy::Plain => error.with("given", value),
                Secrecy::Secret => error,
            });
        }
        self.values.insert(key.name, value);
        Ok(())
    }

    fn refused(&self, message: &'static str) -> Error {
        Error::new(ErrorKind::Invalid, message).with("store", &self.store)
    }
}

/// Secrets are masked.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for key in self.keys {
            match (self.text(key.name), key.secrecy) {
                (Some(value), Secrecy::Plain) => map.entry(&key.name, &value),
                (Some(_), Secrecy::Secret) => map.entry(&key.name, &"***"),
                (None, _) => &mut map,
            };
        }
        map.finish()
    }
}

/// A whole number of bytes with an optional unit of 1000 or 1024.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A whole number of a unit from milliseconds to days.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let millis: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

/// How a provider opens its stores.
///
/// Two handles opened with the same settings are two clients of one store.
#[async_trait]
pub trait Opener: Send + Sync {
    /// Opens a store for an application.
    ///
    /// # Errors
    /// `Schema` when the schema is missing, older or newer, or not what it should be; `Unavailable`; `Denied`; `Invalid` for
    /// settings that do not go together.
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>>;

    /// Opens the administrative side. Succeeds also where the schema is still missing, so that it can be applied.
    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>>;

    /// Settings of the scratch store of a tag (`[a-z0-9]`, at most 16 bytes) beside this one: same server, same credentials, a
    /// place of its own that is named by the tag. Whether it is there is not looked at.
    ///
    /// # Errors
    /// `Invalid` for what is no tag.
    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings>;

    /// Makes a new, empty store with the settings that [`scratch`](Self::scratch) gives, ready to open, and gives them.
    ///
    /// # Errors
    /// `Conflict` when there is one of that tag.
    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings>;

    /// Removes a scratch store and everything in it. Refuses any other store.
    async fn drop_scratch(&self, scratch: &Settings) -> Result<()>;

    /// Tags of the scratch stores that are beside this one: in use, or left behind.
    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>>;
}

/// The code for one kind of store.
#[derive(Clone)]
pub struct Provider {
    /// Its name in config files.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub sentence: &'static str,
    /// The keys that it reads.
    pub keys: &'static [ConfigKey],
    /// How it opens stores.
    pub opener: Arc<dyn Opener>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({})", self.name)
    }
}
