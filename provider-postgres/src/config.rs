//! The keys of a store in Postgres, and what they say.

use evstore_api::capabilities::Limits;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_kit::keys;
use std::time::Duration;

/// Longest name of a schema: Postgres cuts identifiers after 63 bytes without a word.
const SCHEMA_BYTES_MAX: usize = 63;
/// Largest value that any setting allows, in bytes: a field of Postgres ends at 1 GiB, and hexadecimal text doubles bytes.
const VALUE_BYTES_CEILING: u64 = 256 << 20;
/// Most events, streams or records in a page.
const PAGE_ITEMS: u32 = 10_000;
/// Between a schema's name and the tag of a scratch store beside it.
pub const SCRATCH: &str = "_scratch_";

/// What a store in Postgres reads from its table.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "url",
        kind: KeyKind::Text,
        default: KeyDefault::Required,
        secrecy: Secrecy::Secret,
        sentence: "Where the server is: postgres://user:password@host:port/database?sslmode=verify-full.",
    },
    ConfigKey {
        name: "schema",
        kind: KeyKind::Text,
        default: KeyDefault::Value("evstore"),
        secrecy: Secrecy::Plain,
        sentence: "The schema that holds the store, so that several share a database: a-z, 0-9 and _, not a digit first.",
    },
    ConfigKey {
        name: "auto_create",
        kind: KeyKind::Switch,
        default: KeyDefault::Value("false"),
        secrecy: Secrecy::Plain,
        sentence: "Whether opening makes the schema where it is missing; else `evstore schema apply` does.",
    },
    ConfigKey {
        name: "pool_max",
        kind: KeyKind::Count,
        default: KeyDefault::Value("16"),
        secrecy: Secrecy::Plain,
        sentence: "Connections of this process at most, 2 to 1000.",
    },
    ConfigKey {
        name: "append_lanes_max",
        kind: KeyKind::Count,
        default: KeyDefault::Value("8"),
        secrecy: Secrecy::Plain,
        sentence: "Batches of appends that are under way at a time, each on a connection of its own, 1 to 64.",
    },
    keys::event_bytes_max("8MiB"),
    keys::commit_bytes_max("16MiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("16MiB"),
    keys::record_bytes_max("64KiB"),
];

/// The settings of one store, read.
#[derive(Clone)]
pub struct Config {
    /// The store's name: what markers call it.
    pub own: StoreName,
    /// Where the server is. Holds a password: never shown.
    pub url: String,
    /// The schema, valid and not quoted.
    pub schema: String,
    /// What opening does where the schema is missing.
    pub missing: Missing,
    /// Connections at most.
    pub pool_max: u32,
    /// Batches under way at most.
    pub lanes_max: usize,
    /// The declared limits.
    pub limits: Limits,
}

/// Without the address.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("own", &self.own).field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// What opening does where the schema is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Makes it.
    Make,
    /// Refuses.
    Refuse,
}

/// How long opening a connection may take before the server counts as unreachable, where no deadline is nearer.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

impl Config {
    /// Reads settings that were checked against [`KEYS`].
    ///
    /// # Errors
    /// `Invalid` for a schema name that is none, and for a value out of bounds.
    pub fn new(settings: &Settings) -> Result<Self> {
        for key in ["event_bytes_max", "commit_bytes_max", "snapshot_bytes_max", "record_bytes_max"] {
            bounded(settings, key, 1, VALUE_BYTES_CEILING)?;
        }
        let schema = settings.text("schema").unwrap_or_default();
        check_schema_name(schema).map_err(|error| error.with("store", settings.store()))?;
        let switch = settings.switch("auto_create").unwrap_or(false);
        Ok(Self {
            own: settings.store().clone(),
            url: settings.text("url").unwrap_or_default().to_owned(),
            schema: schema.to_owned(),
            missing: if switch { Missing::Make } else { Missing::Refuse },
            pool_max: bounded(settings, "pool_max", 2, 1000)? as u32,
            lanes_max: bounded(settings, "append_lanes_max", 1, 64)? as usize,
            limits: keys::limits(settings, PAGE_ITEMS),
        })
    }

    /// The schema of a scratch store beside this one.
    ///
    /// # Errors
    /// `Invalid` for a tag that is none, or where the two make too long a name.
    pub fn scratch(&self, tag: &str) -> Result<String> {
        keys::check_scratch_tag(tag)?;
        let schema = format!("{}{SCRATCH}{tag}", self.schema);
        check_schema_name(&schema)?;
        Ok(schema)
    }
}

/// Refuses what is not `[a-z_][a-z0-9_]{0,62}`: nothing else ever reaches a statement.
fn check_schema_name(name: &str) -> Result<()> {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let allowed = |c: char| first(c) || c.is_ascii_digit();
    if name.len() <= SCHEMA_BYTES_MAX && name.starts_with(first) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "a schema name is 1 to 63 of a-z, 0-9 and _, and begins with no digit")
        .with("schema", name))
}

fn bounded(settings: &Settings, key: &'static str, min: u64, max: u64) -> Result<u64> {
    let given = settings.number(key).filter(|given| (min..=max).contains(given));
    given.ok_or_else(|| {
        let error = Error::new(ErrorKind::Invalid, "a value is out of bounds").with("store", settings.store());
        error.with("key", key).with("min", min).with("max", max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_name_holds_nothing_that_would_need_quoting() {
        for good in ["evstore", "_", "a1", &"a".repeat(63)] {
            assert!(check_schema_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a\"b", "a b", "ä", &"a".repeat(64)] {
            assert_eq!(check_schema_name(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
