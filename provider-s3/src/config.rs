//! The keys of a store on S3.

use evstore_api::capabilities::{Limits, Window};
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_aws::Access;
use evstore_kit::keys;
use std::time::Duration;

/// Most events, streams or records in a page.
const PAGE_ITEMS: u32 = 10_000;
/// Largest value that any setting allows: one object holds it, in one request, in memory.
const VALUE_BYTES_CEILING: u64 = 64 << 20;
/// Longest prefix: keys have at most 1,024 bytes.
const PREFIX_BYTES_MAX: usize = 512;
/// What stands between the prefix of a store and the tag of a scratch store.
pub const SCRATCH: char = '.';

/// What a store on S3 reads from its table.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "bucket",
        kind: KeyKind::Text,
        default: KeyDefault::Required,
        secrecy: Secrecy::Plain,
        sentence: "The bucket.",
    },
    plain(
        "prefix",
        KeyKind::Text,
        "evstore",
        "What the store's keys in the bucket begin with. 1 to 512 of a-z, A-Z, 0-9, _, - and /.",
    ),
    evstore_aws::REGION,
    evstore_aws::ENDPOINT,
    evstore_aws::INSECURE,
    evstore_aws::ACCESS_KEY_ID,
    evstore_aws::SECRET_ACCESS_KEY,
    evstore_aws::SESSION_TOKEN,
    plain(
        "auto_create",
        KeyKind::Switch,
        "false",
        "Whether opening makes the store, and its bucket, where they are missing.",
    ),
    plain(
        "request_timeout",
        KeyKind::Duration,
        "10s",
        "How long one request may take; past it nobody knows whether it was carried out.",
    ),
    plain(
        "feed_poll",
        KeyKind::Duration,
        "250ms",
        "How often a reader that waits for the feed looks whether another process appended: one GET each time.",
    ),
    plain(
        "checkpoint_every",
        KeyKind::Count,
        "512",
        "Objects of the log after which the state is kept once more, so that opening reads no more of them; 16 to 65536.",
    ),
    plain("cache_bytes", KeyKind::Bytes, "64MiB", "Bytes of objects that a handle keeps in memory."),
    keys::event_bytes_max("1MiB"),
    keys::commit_bytes_max("4MiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("4MiB"),
    keys::record_bytes_max("64KiB"),
    keys::idempotency_commits(),
];

const fn plain(name: &'static str, kind: KeyKind, default: &'static str, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default: KeyDefault::Value(default), secrecy: Secrecy::Plain, sentence }
}

/// The settings of one store, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's name: what markers call it.
    pub own: StoreName,
    /// The bucket.
    pub bucket: String,
    /// What its keys begin with.
    pub prefix: String,
    /// Where the service is, and whose requests they are.
    pub access: Access,
    /// Whether opening makes the store.
    pub auto_create: bool,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How often a waiting reader looks.
    pub feed_poll: Duration,
    /// Objects between two checkpoints.
    pub checkpoint_every: u64,
    /// Bytes of objects in memory.
    pub cache_bytes: u64,
    /// How far back repeats are recognised.
    pub window: Window,
    /// The declared limits.
    pub limits: Limits,
}

impl Config {
    /// Reads settings that were checked against [`KEYS`].
    ///
    /// # Errors
    /// `Invalid` for a value out of bounds, and for those that do not go together.
    pub fn new(settings: &Settings) -> Result<Self> {
        for key in ["commit_bytes_max", "snapshot_bytes_max", "record_bytes_max"] {
            bounded(settings, key, 1, VALUE_BYTES_CEILING)?;
        }
        let time =
            |key| settings.duration(key).filter(|time| !time.is_zero()).ok_or_else(|| out_of_bounds(settings, key));
        Ok(Self {
            own: settings.store().clone(),
            bucket: bucket(settings)?,
            prefix: prefix(settings)?,
            access: Access::new(settings)?,
            auto_create: settings.switch("auto_create").unwrap_or(false),
            request_timeout: time("request_timeout")?,
            feed_poll: time("feed_poll")?,
            checkpoint_every: bounded(settings, "checkpoint_every", 16, 65_536)?,
            cache_bytes: bounded(settings, "cache_bytes", 0, 1 << 40)?,
            window: keys::window(settings)?,
            limits: keys::limits(settings, PAGE_ITEMS)?,
        })
    }

    /// The store's prefix and the tag, where it is a scratch store.
    pub fn scratch_tag(&self) -> Option<(&str, &str)> {
        self.prefix.split_once(SCRATCH)
    }
}

fn bucket(settings: &Settings) -> Result<String> {
    let given = settings.text("bucket").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/');
    // Access points are named by `arn:aws:s3:…`; what is a name the service knows best.
    if !(3..=255).contains(&given.len()) || !given.chars().all(allowed) {
        return Err(Error::new(ErrorKind::Invalid, "a bucket is named by 3 letters or more")
            .with("store", settings.store())
            .with("key", "bucket")
            .with("given", given));
    }
    Ok(given.to_owned())
}

fn prefix(settings: &Settings) -> Result<String> {
    let given = settings.text("prefix").unwrap_or_default();
    let (name, tag) = given.split_once(SCRATCH).map_or((given, None), |(name, tag)| (name, Some(tag)));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
    let tagged = tag.is_none_or(|tag| keys::check_scratch_tag(tag).is_ok());
    let whole = name.split('/').all(|part| !part.is_empty());
    if name.len() > PREFIX_BYTES_MAX || !name.chars().all(allowed) || !whole || !tagged {
        return Err(Error::new(
            ErrorKind::Invalid,
            "a prefix is 1 to 512 of a-z, A-Z, 0-9, _, - and /, with something before and behind each /",
        )
        .with("store", settings.store())
        .with("key", "prefix")
        .with("given", given));
    }
    Ok(given.to_owned())
}

fn bounded(settings: &Settings, key: &'static str, min: u64, max: u64) -> Result<u64> {
    settings
        .number(key)
        .filter(|given| (min..=max).contains(given))
        .ok_or_else(|| out_of_bounds(settings, key).with("min", min).with("max", max))
}

fn out_of_bounds(settings: &Settings, key: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "a value is out of bounds").with("store", settings.store()).with("key", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(given: &[(&str, &str)]) -> Result<Config> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let bucket = ("bucket".to_owned(), "events".to_owned());
        Config::new(&Settings::new(StoreName::new("a").unwrap(), KEYS, std::iter::once(bucket).chain(given))?)
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bad = [
            ("bucket", "a b"),
            ("prefix", ""),
            ("prefix", "/a"),
            ("prefix", "a//b"),
            ("prefix", "a."),
            ("prefix", "a.UPPER"),
            ("checkpoint_every", "15"),
            ("idempotency_commits", "63"),
            ("commit_bytes_max", "65MiB"),
            ("request_timeout", "0s"),
            ("endpoint", "http://10.0.0.1"),
        ];
        for given in bad {
            assert_eq!(config(&[given]).unwrap_err().kind(), ErrorKind::Invalid, "{given:?}");
        }
        let scratch = config(&[("prefix", "shop/orders.t1")]).unwrap();
        assert_eq!(scratch.scratch_tag(), Some(("shop/orders", "t1")));
    }
}
