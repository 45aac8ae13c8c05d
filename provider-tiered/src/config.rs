//! The keys of a tiered store.

use crate::archiver::Policy;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings};
use std::path::PathBuf;

/// What stands between the name of an archive's place and the tag of a scratch store.
pub const SCRATCH: &str = ".scratch-";
/// Smallest and largest segment.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=256 << 20;

const fn key(name: &'static str, kind: KeyKind, default: KeyDefault, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default, secrecy: Secrecy::Plain, sentence }
}

/// What a tiered store reads from its table.
pub const KEYS: &[ConfigKey] = &[
    key("hot", KeyKind::Text, KeyDefault::Required, "The store in front, by its name in the config file."),
    key(
        "archive",
        KeyKind::Text,
        KeyDefault::Required,
        "Where the archive lies: `file:FOLDER`, or `s3://BUCKET/PREFIX`.",
    ),
    key(
        "older_than",
        KeyKind::Duration,
        KeyDefault::Absent,
        "Commits that were taken longer ago than this are archived.",
    ),
    key(
        "keep_last",
        KeyKind::Count,
        KeyDefault::Absent,
        "So many events at the end of the feed stay in the store in front.",
    ),
    key(
        "below_snapshot",
        KeyKind::Switch,
        KeyDefault::Value("false"),
        "Whether only commits that the snapshot of their stream has folded in are archived.",
    ),
    key(
        "segment_bytes",
        KeyKind::Bytes,
        KeyDefault::Value("8MiB"),
        "Bytes that a segment has, about, compressed; 4KiB to 256MiB. Memory holds one or two.",
    ),
    key(
        "cache_bytes",
        KeyKind::Bytes,
        KeyDefault::Value("64MiB"),
        "Bytes of indexes and frames that a handle keeps in memory.",
    ),
    key(
        "request_timeout",
        KeyKind::Duration,
        KeyDefault::Value("30s"),
        "How long one request to the archive may take.",
    ),
    key(
        "auto_create",
        KeyKind::Switch,
        KeyDefault::Absent,
        "Whether opening makes the store in front where it is missing; its own setting says so without it.",
    ),
    #[cfg(feature = "s3")]
    evstore_aws::REGION,
    #[cfg(feature = "s3")]
    evstore_aws::ENDPOINT,
    #[cfg(feature = "s3")]
    evstore_aws::INSECURE,
    #[cfg(feature = "s3")]
    evstore_aws::ACCESS_KEY_ID,
    #[cfg(feature = "s3")]
    evstore_aws::SECRET_ACCESS_KEY,
    #[cfg(feature = "s3")]
    evstore_aws::SESSION_TOKEN,
    key("scratch", KeyKind::Text, KeyDefault::Absent, "The tag of a scratch store; not for config files."),
    ConfigKey {
        name: crate::HOT_STORE,
        kind: KeyKind::Text,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Secret,
        sentence: "What `hot` names, looked up by the registry; not for config files.",
    },
];

/// Where an archive lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket, under a prefix.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What its keys begin with.
        prefix: String,
    },
}

/// The settings of one store, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its archive lies.
    pub location: Location,
    /// What is archived.
    pub policy: Policy,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes in memory.
    pub cache_bytes: u64,
    /// How long one request may take.
    pub request_timeout: std::time::Duration,
}

impl Config {
    /// Reads settings that were checked against [`KEYS`].
    ///
    /// # Errors
    /// `Invalid` for a value out of bounds.
    pub fn new(settings: &Settings) -> Result<Self> {
        let refused = |key| {
            Error::new(ErrorKind::Invalid, "a value is out of bounds").with("store", settings.store()).with("key", key)
        };
        let segment_bytes = settings.number("segment_bytes").filter(|bytes| SEGMENT_BYTES.contains(bytes));
        let timeout = settings.duration("request_timeout").filter(|time| !time.is_zero());
        Ok(Self {
            location: location(settings)?,
            policy: Policy {
                older_than: settings.duration("older_than"),
                keep_last: settings.number("keep_last"),
                below_snapshot: settings.switch("below_snapshot").unwrap_or(false),
            },
            segment_bytes: segment_bytes.ok_or_else(|| refused("segment_bytes"))?,
            cache_bytes: settings.number("cache_bytes").unwrap_or(0),
            request_timeout: timeout.ok_or_else(|| refused("request_timeout"))?,
        })
    }
}

fn location(settings: &Settings) -> Result<Location> {
    let given = settings.text("archive").unwrap_or_default();
    let refused = |message| {
        Error::new(ErrorKind::Invalid, message)
            .with("store", settings.store())
            .with("key", "archive")
            .with("given", given)
    };
    let tag = settings.text("scratch");
    if let Some(tag) = tag {
        evstore_kit::keys::check_scratch_tag(tag)?;
    }
    let tagged = |text: &str| tag.map_or_else(|| text.to_owned(), |tag| format!("{text}{SCRATCH}{tag}"));
    match (given.strip_prefix("file:"), given.strip_prefix("s3://")) {
        (Some(folder), _) if !folder.is_empty() => Ok(Location::Folder(tagged(folder.trim_end_matches('/')).into())),
        (_, Some(rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_end_matches('/');
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
            let whole = prefix.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            if bucket.len() < 3 || !whole || prefix.len() > 512 || !prefix.chars().all(allowed) {
                return Err(refused(
                    "an archive on S3 is s3://BUCKET/PREFIX, the prefix 1 to 512 of a-z, A-Z, 0-9, _, -, . and /",
                ));
            }
            Ok(Location::Bucket { bucket: bucket.to_owned(), prefix: tagged(prefix) })
        }
        _ => Err(refused("an archive is file:FOLDER or s3://BUCKET/PREFIX")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::StoreName;

    fn config(archive: &str, more: &[(&str, &str)]) -> Result<Config> {
        let given = [("hot", "main"), ("archive", archive)];
        let given = given.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Config::new(&Settings::new(StoreName::new("a").unwrap(), KEYS, given)?)
    }

    #[test]
    fn an_archive_is_a_folder_or_a_prefix_of_a_bucket() {
        assert_eq!(config("file:./cold", &[]).unwrap().location, Location::Folder("./cold".into()));
        let bucket = Location::Bucket { bucket: "events".into(), prefix: "a/cold.scratch-t1".into() };
        assert_eq!(config("s3://events/a/cold/", &[("scratch", "t1")]).unwrap().location, bucket);
        for bad in
            ["", "file:", "cold", "s3://events", "s3://e/x", "s3://events/a//b", "s3://events/../x", "s3://events/a b"]
        {
            assert_eq!(config(bad, &[]).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert!(config("file:a", &[("scratch", "../x")]).is_err());
        assert!(config("file:a", &[("segment_bytes", "1KiB")]).is_err());
    }
}
