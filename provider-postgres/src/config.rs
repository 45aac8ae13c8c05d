//! The keys of a store in Postgres, and what they say.

use crate::statements::Prepared;
use evstore_api::capabilities::Limits;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_kit::keys;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::str::FromStr;
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
    ConfigKey {
        name: "transaction_pooler",
        kind: KeyKind::Switch,
        default: KeyDefault::Value("false"),
        secrecy: Secrecy::Plain,
        sentence: "Whether a pooler in transaction mode stands between that keeps no prepared statements, as PgBouncer before 1.21: \
                   statements are prepared anew in each transaction, at the cost of round trips.",
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
    /// How long a connection keeps what it prepared.
    pub prepared: Prepared,
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
        let pooler = settings.switch("transaction_pooler").unwrap_or(false);
        Ok(Self {
            own: settings.store().clone(),
            url: settings.text("url").unwrap_or_default().to_owned(),
            schema: schema.to_owned(),
            missing: if switch { Missing::Make } else { Missing::Refuse },
            prepared: if pooler { Prepared::Once } else { Prepared::Kept },
            pool_max: bounded(settings, "pool_max", 2, 1000)? as u32,
            lanes_max: bounded(settings, "append_lanes_max", 1, 64)? as usize,
            limits: keys::limits(settings, PAGE_ITEMS)?,
        })
    }

    /// How a connection is made. Over a network it is encrypted, and the server has to show a certificate for its name, unless the
    /// url says otherwise in so many words.
    ///
    /// # Errors
    /// `Invalid` for a url that is none, and for one that leaves it to the server whether a network sees the data.
    pub fn connect_options(&self) -> Result<PgConnectOptions> {
        let options = PgConnectOptions::from_str(&self.url).map_err(crate::error::not_written)?;
        let options = options.application_name("evstore");
        if is_local(&options) {
            return Ok(options);
        }
        match (says_ssl_mode(&self.url), options.get_ssl_mode()) {
            (false, _) => Ok(options.ssl_mode(PgSslMode::VerifyFull)),
            (true, PgSslMode::Allow | PgSslMode::Prefer) => {
                let message = "sslmode allow and prefer leave it to the network whether it reads along; say verify-full, or disable";
                Err(Error::new(ErrorKind::Invalid, message).with("store", &self.own))
            }
            (true, _) => Ok(options),
        }
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

/// Whether what is sent stays on this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let loopback = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    options.get_socket().is_some() || host.starts_with('/') || host == "localhost" || loopback
}

fn says_ssl_mode(url: &str) -> bool {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    parameters.split('&').any(|parameter| parameter.starts_with("sslmode=") || parameter.starts_with("ssl-mode="))
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

    fn options(url: &str) -> Result<PgConnectOptions> {
        let given = [("url".to_owned(), url.to_owned())];
        let settings = Settings::new(StoreName::new("main").unwrap(), KEYS, given).unwrap();
        Config::new(&settings).unwrap().connect_options()
    }

    #[test]
    fn a_network_sees_nothing_unless_the_url_says_so() {
        use std::mem::discriminant;
        for (url, mode) in [
            ("postgres://u:p@db.example.com/d", PgSslMode::VerifyFull),
            ("postgres://u:p@10.1.2.3/d", PgSslMode::VerifyFull),
            ("postgres://u:p@10.1.2.3/d?sslmode=disable", PgSslMode::Disable),
            ("postgres://u:p@10.1.2.3/d?sslmode=verify-ca", PgSslMode::VerifyCa),
        ] {
            assert_eq!(discriminant(&options(url).unwrap().get_ssl_mode()), discriminant(&mode), "{url}");
        }
        for url in ["postgres://u:p@10.1.2.3/d?sslmode=prefer", "postgres://u:p@db/d?application_name=x&sslmode=allow"]
        {
            assert_eq!(options(url).unwrap_err().kind(), ErrorKind::Invalid, "{url}");
        }
        for url in
            ["postgres://u@localhost/d", "postgres://u@127.0.0.1/d", "postgres://u@[::1]/d", "postgres:///d?host=/tmp"]
        {
            assert!(is_local(&options(url).unwrap()), "{url}");
        }
    }

    #[test]
    fn no_error_repeats_a_password() {
        for url in ["postgres://u:hunter2@host:port/d", "hunter2", "postgres://u:hunter2@h/d?sslmode=hunter2"] {
            let error = options(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let config = {
            let given = [("url".to_owned(), "postgres://u:hunter2@localhost/d".to_owned())];
            Config::new(&Settings::new(StoreName::new("main").unwrap(), KEYS, given).unwrap()).unwrap()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

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
