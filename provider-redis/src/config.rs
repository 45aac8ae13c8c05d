//! The keys of a store on Redis or Valkey.

use crate::address;
use evstore_api::capabilities::Limits;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_kit::keys;
use std::io::Read as _;
use std::time::Duration;

/// Largest value that any setting allows, in bytes; `proto-max-bulk-len` is 512 MiB, and a commit is one argument.
const VALUE_BYTES_CEILING: u64 = 256 << 20;
/// Most events, streams or records in a page.
const PAGE_ITEMS: u32 = 10_000;
/// Most partitions: a cursor names each of them and stays below 1 KiB.
pub const PARTITIONS_CEILING: u64 = 32;
/// Most replicas that an append waits for.
const REPLICAS_CEILING: u64 = 16;
/// Most bytes of a file of certificate authorities that are read; the system's own has about 200 KiB.
const AUTHORITIES_BYTES_MAX: u64 = 4 << 20;
/// What stands between the prefix of a store and the tag of a scratch store.
pub const SCRATCH: char = '.';

/// What a store on Redis reads from its table.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "url",
        kind: KeyKind::Text,
        default: KeyDefault::Required,
        secrecy: Secrecy::Secret,
        sentence: "`redis://[user:password@]host:port[/db]`, `rediss://` with TLS; several, separated by commas, for \
                   sentinels and for the nodes of a cluster.",
    },
    ConfigKey {
        name: "insecure",
        kind: KeyKind::Switch,
        default: KeyDefault::Value("false"),
        secrecy: Secrecy::Plain,
        sentence: "Whether `redis://` may lead to another host, where everybody on the way can read and change what is sent.",
    },
    ConfigKey {
        name: "ca_file",
        kind: KeyKind::Path,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Plain,
        sentence: "PEM file of the certificate authorities to trust with `rediss://`, instead of the system's.",
    },
    ConfigKey {
        name: "topology",
        kind: KeyKind::OneOf(&["single", "sentinel", "cluster"]),
        default: KeyDefault::Value("single"),
        secrecy: Secrecy::Plain,
        sentence: "Whether `url` names the server, sentinels that know it, or nodes of a cluster.",
    },
    ConfigKey {
        name: "sentinel_primary",
        kind: KeyKind::Text,
        default: KeyDefault::Value("mymaster"),
        secrecy: Secrecy::Plain,
        sentence: "Name by which the sentinels know the primary.",
    },
    ConfigKey {
        name: "prefix",
        kind: KeyKind::Text,
        default: KeyDefault::Value("main"),
        secrecy: Secrecy::Plain,
        sentence: "Which store on the server: all keys begin with `{evs:PREFIX:`. 1 to 64 of a-z, 0-9, _ and -.",
    },
    ConfigKey {
        name: "partitions",
        kind: KeyKind::Count,
        default: KeyDefault::Value("1"),
        secrecy: Secrecy::Plain,
        sentence: "Hash slots that the store is spread over, 1 to 32. With one the feed is in one order, with more each \
                   has an order of its own. Fixed when the store is made.",
    },
    ConfigKey {
        name: "auto_create",
        kind: KeyKind::Switch,
        default: KeyDefault::Value("false"),
        secrecy: Secrecy::Plain,
        sentence: "Whether opening makes the store where it is missing.",
    },
    ConfigKey {
        name: "durability",
        kind: KeyKind::OneOf(&["server", "memory", "process-crash", "power-loss", "replicas"]),
        default: KeyDefault::Value("server"),
        secrecy: Secrecy::Plain,
        sentence: "What an acknowledged commit has to survive: `server` takes what the server is set up for; the others \
                   are refused where it gives less; `replicas` waits for `replicas`. Required where CONFIG is forbidden.",
    },
    ConfigKey {
        name: "replicas",
        kind: KeyKind::Count,
        default: KeyDefault::Value("1"),
        secrecy: Secrecy::Plain,
        sentence: "Replicas that hold a commit before it is acknowledged, with `durability = \"replicas\"`; 1 to 16.",
    },
    ConfigKey {
        name: "replicas_timeout",
        kind: KeyKind::Duration,
        default: KeyDefault::Value("1s"),
        secrecy: Secrecy::Plain,
        sentence: "How long an append waits for the replicas; past it nobody knows whether they have it.",
    },
    ConfigKey {
        name: "connect_timeout",
        kind: KeyKind::Duration,
        default: KeyDefault::Value("2s"),
        secrecy: Secrecy::Plain,
        sentence: "How long opening a connection may take.",
    },
    keys::event_bytes_max("8MiB"),
    keys::commit_bytes_max("16MiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("16MiB"),
    keys::record_bytes_max("64KiB"),
];

/// How the primary of a partition is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// It is the first of the addresses.
    Single,
    /// The addresses are sentinels, and know it by this name.
    Sentinel {
        /// The name.
        primary: String,
    },
    /// The addresses are nodes of a cluster, and tell by their refusals.
    Cluster,
}

/// What an acknowledged commit has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What the server is set up for.
    AsServer,
    /// Nothing.
    Memory,
    /// A crash of the process.
    ProcessCrash,
    /// A power cut.
    PowerLoss,
    /// The loss of the primary, with so many replicas.
    Replicas(u32),
}

/// The settings of one store, read. Its URLs hold passwords: they are never shown.
#[derive(Clone)]
pub struct Config {
    /// The store's name: what markers call it.
    pub own: StoreName,
    /// Where servers are.
    pub urls: Vec<String>,
    /// Whether others may read and change what is sent.
    pub insecure: bool,
    /// Whom to trust with TLS, as PEM; none for those whom the system trusts.
    pub authorities: Option<Vec<u8>>,
    /// How the primary is found.
    pub topology: Topology,
    /// Which store.
    pub prefix: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Whether opening makes it.
    pub auto_create: bool,
    /// What an acknowledged commit has to survive.
    pub wanted: Wanted,
    /// How long an append waits for replicas.
    pub replicas_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// The declared limits.
    pub limits: Limits,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("own", &self.own).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads settings that were checked against [`KEYS`].
    ///
    /// # Errors
    /// `Invalid` for a value out of bounds.
    pub fn new(settings: &Settings) -> Result<Self> {
        for key in ["commit_bytes_max", "snapshot_bytes_max", "record_bytes_max"] {
            bounded(settings, key, 1, VALUE_BYTES_CEILING)?;
        }
        let text = |key| settings.text(key).unwrap_or_default().to_owned();
        let time = |key| settings.duration(key).unwrap_or(Duration::from_secs(1));
        let urls: Vec<String> =
            text("url").split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect();
        if urls.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a required key is missing").with("key", "url"));
        }
        let replicas = bounded(settings, "replicas", 1, REPLICAS_CEILING)? as u32;
        let config = Self {
            own: settings.store().clone(),
            urls,
            insecure: settings.switch("insecure").unwrap_or(false),
            authorities: authorities(settings)?,
            topology: match settings.text("topology") {
                Some("sentinel") => Topology::Sentinel { primary: text("sentinel_primary") },
                Some("cluster") => Topology::Cluster,
                _ => Topology::Single,
            },
            prefix: prefix(settings)?,
            partitions: bounded(settings, "partitions", 1, PARTITIONS_CEILING)? as u32,
            auto_create: settings.switch("auto_create").unwrap_or(false),
            wanted: match settings.text("durability") {
                Some("memory") => Wanted::Memory,
                Some("process-crash") => Wanted::ProcessCrash,
                Some("power-loss") => Wanted::PowerLoss,
                Some("replicas") => Wanted::Replicas(replicas),
                _ => Wanted::AsServer,
            },
            replicas_timeout: time("replicas_timeout"),
            connect_timeout: time("connect_timeout"),
            limits: keys::limits(settings, PAGE_ITEMS)?,
        };
        for url in &config.urls {
            address::check_private(&address::info(url)?, &config)?;
        }
        Ok(config)
    }

    /// The tag, where it is a scratch store.
    pub fn scratch_tag(&self) -> Option<(&str, &str)> {
        self.prefix.split_once(SCRATCH)
    }

    /// How many replicas an append waits for.
    pub fn replicas(&self) -> u32 {
        match self.wanted {
            Wanted::Replicas(replicas) => replicas,
            Wanted::AsServer | Wanted::Memory | Wanted::ProcessCrash | Wanted::PowerLoss => 0,
        }
    }
}

fn authorities(settings: &Settings) -> Result<Option<Vec<u8>>> {
    let Some(path) = settings.path("ca_file") else { return Ok(None) };
    let read = || {
        let mut pem = Vec::new();
        std::fs::File::open(&path)?.take(AUTHORITIES_BYTES_MAX).read_to_end(&mut pem)?;
        Ok(pem)
    };
    let failed = |error: std::io::Error| {
        let error =
            Error::new(ErrorKind::Invalid, "the file of certificate authorities can't be read").caused_by(error);
        error.with("store", settings.store()).with("ca_file", path.display())
    };
    read().map(Some).map_err(failed)
}

fn prefix(settings: &Settings) -> Result<String> {
    let given = settings.text("prefix").unwrap_or_default();
    let (name, tag) = given.split_once(SCRATCH).map_or((given, None), |(name, tag)| (name, Some(tag)));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let tagged = tag.is_none_or(|tag| keys::check_scratch_tag(tag).is_ok());
    if !(1..=64).contains(&name.len()) || !name.chars().all(allowed) || !tagged {
        return Err(Error::new(ErrorKind::Invalid, "a prefix is 1 to 64 of a-z, 0-9, _ and -").with("given", given));
    }
    Ok(given.to_owned())
}

fn bounded(settings: &Settings, key: &'static str, min: u64, max: u64) -> Result<u64> {
    settings.number(key).filter(|given| (min..=max).contains(given)).ok_or_else(|| {
        let error = Error::new(ErrorKind::Invalid, "a value is out of bounds").with("store", settings.store());
        error.with("key", key).with("min", min).with("max", max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, insecure: &str) -> Result<Config> {
        let given = [("url", url), ("insecure", insecure)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Config::new(&Settings::new(StoreName::new("a").unwrap(), KEYS, given).unwrap())
    }

    #[test]
    fn a_network_is_not_crossed_in_plain_text() {
        for url in ["redis://localhost", "redis://127.0.0.1:1,redis://[::1]:2", "rediss://redis.example"] {
            config(url, "false").unwrap();
        }
        let secret = "redis://user:word@redis.example";
        for url in [secret, "redis://10.0.0.1", "redis://localhost,redis://10.0.0.1"] {
            let error = config(url, "false").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains("insecure = true"), "{error}");
            assert!(!format!("{error} {error:?}").contains("word"));
            config(url, "true").unwrap();
        }
        assert_eq!(config("rediss://redis.example/#insecure", "true").unwrap_err().kind(), ErrorKind::Invalid);
        assert!(!format!("{:?}", config(secret, "true").unwrap()).contains("word"));
        let error = config("redis//user:word@nonsense", "false").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("word"));
    }
}
