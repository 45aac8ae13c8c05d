//! The keys of a store on DynamoDB.

use evstore_api::capabilities::{Limits, Window};
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use evstore_aws::Access;
use evstore_kit::keys;
use std::time::Duration;

/// Largest value that any setting allows: an item is 400 KB with its keys and the names of its attributes
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>, 2026-11-20), of which 4 KiB are kept for these.
const VALUE_BYTES_CEILING: u64 = 409_600 - 4_096;
/// Most events, streams or records in a page: a page of a list asks for the head of each stream, and has to be done within a call's
/// time.
const PAGE_ITEMS: u32 = 1_000;
/// Longest window: reading it is one query, and its ids are kept in memory.
const WINDOW_CEILING: u64 = 1_000;
/// Most shards of the feed's index: each is a query of every look at the feed.
const SHARDS_CEILING: u64 = 64;
/// Longest time that commits are given to come into the index.
const SETTLING_CEILING: Duration = Duration::from_secs(60);
/// Most units that a table is given by hand.
const UNITS_CEILING: u64 = 1_000_000;
/// What stands between the table of a store and the tag of a scratch store.
pub const SCRATCH: char = '.';
/// How the name of a queue ends that keeps an order.
const QUEUE_END: &str = ".fifo";
/// Longest name of a queue
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-quotas.html>, 2026-11-20).
const QUEUE_NAME_MAX: usize = 80;

/// What a store on DynamoDB reads from its table.
pub const KEYS: &[ConfigKey] = &[
    plain(
        "table",
        KeyKind::Text,
        "evstore",
        "Its first table; two more have the same name with `-log` and `-names` behind it. 3 to 200 \
         of a-z, A-Z, 0-9, _ and -.",
    ),
    evstore_aws::REGION,
    evstore_aws::ENDPOINT,
    evstore_aws::INSECURE,
    evstore_aws::ACCESS_KEY_ID,
    evstore_aws::SECRET_ACCESS_KEY,
    evstore_aws::SESSION_TOKEN,
    plain(
        "feed",
        KeyKind::OneOf(&["sequencer", "transactional", "sharded-index", "sqs-fifo"]),
        "sequencer",
        "How the feed comes about. `sequencer`: an append touches its stream only, and a sequencer \
         that reads the table's change stream gives the positions behind it. `transactional`: an append takes its \
         positions in its own transaction, in one order and at once, and all of a store's appends share one next position. \
         `sharded-index`: the table's own index orders commits by when they were appended, by best effort: no positions, and readers \
         wait until what may come late has come. `sqs-fifo`: as `sequencer`, and what it reads goes through a queue of SQS before it is \
         logged, which is for comparison: it costs more and promises nothing more. Fixed when the store is made, but that `sequencer` and \
         `sqs-fifo` may be changed for each other at any time.",
    ),
    plain(
        "shards",
        KeyKind::Count,
        "4",
        "With `feed = \"sharded-index\"`, partitions of the index, 1 to 64. Each takes a thousand appends a second, and each is a query \
         of every look at the feed. Fixed when the store is made.",
    ),
    plain(
        "settling",
        KeyKind::Duration,
        "5s",
        "With `feed = \"sharded-index\"`, how late a commit may come into the index behind the moment of its append, up to a minute; \
         the same in every process. Clocks may be half of it off, readers wait twice as long, and what comes later stops them.",
    ),
    plain(
        "sequencer",
        KeyKind::OneOf(&["inside", "apart"]),
        "inside",
        "With `feed = \"sequencer\"` or `\"sqs-fifo\"`, whether an application that has the store open also runs \
         the sequencer: of all that do, one works at a time. With `apart` some process has to, `evstore sequencer run` say.",
    ),
    plain(
        "sequencer_poll",
        KeyKind::Duration,
        "200ms",
        "How often the sequencer looks for what was appended, and a fifth as often where nothing was for a while; the service takes \
         five reads of a shard a second.",
    ),
    absent(
        "queue",
        "With `feed = \"sqs-fifo\"`, the name of its queue, which ends in `.fifo`; without it the table's with `.fifo` behind it. No other \
         store may have it.",
    ),
    absent(
        "queue_endpoint",
        "Another endpoint of the queue than the region's, as `endpoint` is one of the table; without it `endpoint` where that is not \
         AWS's.",
    ),
    plain(
        "snapshots",
        KeyKind::OneOf(&["separate", "interleaved"]),
        "separate",
        "Where snapshots are kept: `separate` keeps the latest \
         in an item of its own; `interleaved` keeps each behind its commit. Fixed when the store is made.",
    ),
    plain(
        "compression",
        KeyKind::OneOf(&["zstd", "none"]),
        "zstd",
        "Whether the events of a commit are compressed where that is smaller. What is stored is read either way.",
    ),
    plain(
        "dictionary",
        KeyKind::Switch,
        "false",
        "Whether small commits are made smaller with a dictionary, which the first process that appended 500 of them makes of these. \
         It is kept in the store, with parts of what they hold, and never removed.",
    ),
    plain("auto_create", KeyKind::Switch, "false", "Whether opening makes the tables where they are missing."),
    plain(
        "billing",
        KeyKind::OneOf(&["on-demand", "provisioned"]),
        "on-demand",
        "How tables that are made are paid for.",
    ),
    plain("read_units", KeyKind::Count, "5", "Read units for each table, with `billing = \"provisioned\"`."),
    plain("write_units", KeyKind::Count, "5", "Write units for each table, with `billing = \"provisioned\"`."),
    plain(
        "idempotency_commits",
        KeyKind::Count,
        "64",
        "Commits of a stream, counted from its end, among which a repeated one is \
         recognised; 64 to 1000.",
    ),
    plain(
        "request_timeout",
        KeyKind::Duration,
        "5s",
        "How long one request may take; past it nobody knows whether it was carried out.",
    ),
    plain(
        "feed_poll",
        KeyKind::Duration,
        "100ms",
        "How often a reader that waits for the feed looks whether another process appended.",
    ),
    keys::event_bytes_max("390KiB"),
    keys::commit_bytes_max("395KiB"),
    keys::commit_events_max("10000"),
    keys::snapshot_bytes_max("395KiB"),
    keys::record_bytes_max("64KiB"),
];

const fn plain(name: &'static str, kind: KeyKind, default: &'static str, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default: KeyDefault::Value(default), secrecy: Secrecy::Plain, sentence }
}

const fn absent(name: &'static str, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind: KeyKind::Text, default: KeyDefault::Absent, secrecy: Secrecy::Plain, sentence }
}

/// Where snapshots are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    /// In an item of its own, at number 0.
    Separate,
    /// Half a number behind its commit.
    Interleaved,
}

impl Snapshots {
    /// The word in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Separate => "separate",
            Self::Interleaved => "interleaved",
        }
    }
}

/// How the feed comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// A sequencer orders the commits behind the appends.
    Sequencer {
        /// Whether handles of this store run it.
        inside: bool,
        /// How often it looks.
        poll: Duration,
    },
    /// The same, and what the sequencer reads goes through a queue before it is ordered.
    SqsFifo {
        /// Whether handles of this store run it.
        inside: bool,
        /// How often it looks.
        poll: Duration,
    },
    /// Appends take their positions in their own transaction.
    Transactional,
    /// An index of the table orders commits by when they were appended.
    ShardedIndex {
        /// Its partitions.
        shards: u8,
        /// How late a commit may come into it.
        settling: Duration,
    },
}

impl Feed {
    /// The word in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequencer { .. } => "sequencer",
            Self::SqsFifo { .. } => "sqs-fifo",
            Self::Transactional => "transactional",
            Self::ShardedIndex { .. } => "sharded-index",
        }
    }

    /// The word for what it leaves in the tables. A queue leaves nothing: with one and without, the log is the same.
    pub fn layout(self) -> &'static str {
        match self {
            Self::Sequencer { .. } | Self::SqsFifo { .. } => "sequencer",
            Self::Transactional | Self::ShardedIndex { .. } => self.name(),
        }
    }

    /// Whether appends write to their streams alone.
    pub fn is_behind_appends(self) -> bool {
        match self {
            Self::Sequencer { .. } | Self::SqsFifo { .. } | Self::ShardedIndex { .. } => true,
            Self::Transactional => false,
        }
    }

    /// Whether handles of this store run a sequencer, and how often it looks, where there is one.
    pub fn sequencer(self) -> Option<(bool, Duration)> {
        match self {
            Self::Sequencer { inside, poll } | Self::SqsFifo { inside, poll } => Some((inside, poll)),
            Self::Transactional | Self::ShardedIndex { .. } => None,
        }
    }

    /// The shards of its index and how late commits may come into it, where there is one.
    pub fn index(&self) -> Option<(u8, Duration)> {
        match *self {
            Self::ShardedIndex { shards, settling } => Some((shards, settling)),
            Self::Sequencer { .. } | Self::SqsFifo { .. } | Self::Transactional => None,
        }
    }
}

/// The queue that commits go through.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Its name.
    pub name: String,
    /// Where it is, and whose requests they are.
    #[cfg_attr(not(feature = "sqs"), expect(dead_code, reason = "without the feature nobody goes there"))]
    pub access: Access,
}

/// How tables that are made are paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// By request.
    OnDemand,
    /// By the hour, for so many units of each table.
    Provisioned {
        /// Read units.
        read: u64,
        /// Write units.
        write: u64,
    },
}

/// The settings of one store, read.
#[derive(Clone)]
pub struct Config {
    /// The store's name: what markers call it.
    pub own: StoreName,
    /// Its first table.
    pub table: String,
    /// Where the service is, and whose requests they are.
    pub access: Access,
    /// How the feed comes about.
    pub feed: Feed,
    /// The queue, where there is one.
    pub queue: Option<QueueConfig>,
    /// Where snapshots are kept.
    pub snapshots: Snapshots,
    /// Whether commits are compressed.
    pub compressed: bool,
    /// Whether they are with a dictionary.
    pub dictionary: bool,
    /// Whether opening makes the tables.
    pub auto_create: bool,
    /// How they are paid for.
    pub billing: Billing,
    /// How many commits of a stream are recognised.
    pub window: u64,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How often a waiting reader looks.
    pub feed_poll: Duration,
    /// The declared limits.
    pub limits: Limits,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("own", &self.own).field("table", &self.table).finish_non_exhaustive()
    }
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
        let units = |key| bounded(settings, key, 1, UNITS_CEILING);
        let time =
            |key| settings.duration(key).filter(|time| !time.is_zero()).ok_or_else(|| out_of_bounds(settings, key));
        if time("settling")? > SETTLING_CEILING {
            return Err(out_of_bounds(settings, "settling"));
        }
        let (table, access) = (table(settings)?, Access::new(settings)?);
        let (inside, poll) = (settings.text("sequencer") != Some("apart"), time("sequencer_poll")?);
        let feed = match settings.text("feed") {
            Some("transactional") => Feed::Transactional,
            Some("sharded-index") => Feed::ShardedIndex {
                shards: bounded(settings, "shards", 1, SHARDS_CEILING)? as u8,
                settling: time("settling")?,
            },
            Some("sqs-fifo") => Feed::SqsFifo { inside, poll },
            _ => Feed::Sequencer { inside, poll },
        };
        let compressed = settings.text("compression") != Some("none");
        let dictionary = settings.switch("dictionary").unwrap_or(false);
        if dictionary && !compressed {
            let message = "dictionary = true needs compression = \"zstd\"; leave one of the two out";
            return Err(Error::new(ErrorKind::Invalid, message).with("store", settings.store()));
        }
        Ok(Self {
            own: settings.store().clone(),
            queue: match feed {
                Feed::SqsFifo { .. } => Some(queue(settings, &table, &access)?),
                Feed::Sequencer { .. } | Feed::Transactional | Feed::ShardedIndex { .. } => None,
            },
            table,
            access,
            feed,
            snapshots: match settings.text("snapshots") {
                Some("interleaved") => Snapshots::Interleaved,
                _ => Snapshots::Separate,
            },
            compressed,
            dictionary,
            auto_create: settings.switch("auto_create").unwrap_or(false),
            billing: match settings.text("billing") {
                Some("provisioned") => {
                    Billing::Provisioned { read: units("read_units")?, write: units("write_units")? }
                }
                _ => Billing::OnDemand,
            },
            window: bounded(settings, "idempotency_commits", keys::IDEMPOTENCY_COMMITS_MIN, WINDOW_CEILING)?,
            request_timeout: time("request_timeout")?,
            feed_poll: time("feed_poll")?,
            limits: keys::limits(settings, PAGE_ITEMS)?,
        })
    }

    /// The store's table and the tag, where it is a scratch store.
    pub fn scratch_tag(&self) -> Option<(&str, &str)> {
        self.table.split_once(SCRATCH)
    }

    /// How many commits are recognised, as a promise.
    pub fn idempotency(&self) -> Window {
        Window::Commits(self.window)
    }
}

fn table(settings: &Settings) -> Result<String> {
    let given = settings.text("table").unwrap_or_default();
    let (name, tag) = given.split_once(SCRATCH).map_or((given, None), |(name, tag)| (name, Some(tag)));
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let tagged = tag.is_none_or(|tag| keys::check_scratch_tag(tag).is_ok());
    // The service wants three characters at least.
    if !(3..=200).contains(&name.len()) || !name.chars().all(allowed) || !tagged {
        return Err(Error::new(ErrorKind::Invalid, "a table's name is 3 to 200 of a-z, A-Z, 0-9, _ and -")
            .with("store", settings.store())
            .with("given", given));
    }
    Ok(given.to_owned())
}

/// The queue: one of its own for each scratch store.
fn queue(settings: &Settings, table: &str, access: &Access) -> Result<QueueConfig> {
    if !cfg!(feature = "sqs") {
        return Err(Error::new(ErrorKind::Invalid, "feed = \"sqs-fifo\" is not built in; the feature `sqs` has it")
            .with("store", settings.store()));
    }
    let (own, tag) = table.split_once(SCRATCH).map_or((table, None), |(own, tag)| (own, Some(tag)));
    let base = match settings.text("queue") {
        Some(given) => given.strip_suffix(QUEUE_END).unwrap_or_default(),
        None => own,
    };
    let name = match tag {
        Some(tag) => format!("{base}--{tag}{QUEUE_END}"),
        None => format!("{base}{QUEUE_END}"),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if base.is_empty() || name.len() > QUEUE_NAME_MAX || !base.chars().all(allowed) {
        return Err(Error::new(ErrorKind::Invalid, "a queue's name is up to 75 of a-z, A-Z, 0-9, _ and -, and .fifo")
            .with("store", settings.store())
            .with("key", "queue")
            .with("name", name));
    }
    Ok(QueueConfig { name, access: access.of_another(settings, "queue_endpoint")? })
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
        Config::new(&Settings::new(StoreName::new("a").unwrap(), KEYS, given)?)
    }

    #[test]
    fn what_is_not_there_yet_or_does_not_fit_is_refused() {
        let bad = [
            ("sequencer", "never"),
            ("sequencer_poll", "0s"),
            ("feed", "something-else"),
            ("settling", "0s"),
            ("settling", "61s"),
            ("idempotency_commits", "63"),
            ("commit_bytes_max", "400KiB"),
            ("table", "a b"),
            ("table", "main.UPPER"),
            ("access_key_id", "alone"),
            ("request_timeout", "0s"),
        ];
        for given in bad {
            assert_eq!(config(&[given]).unwrap_err().kind(), ErrorKind::Invalid, "{given:?}");
        }
    }

    #[test]
    fn a_dictionary_is_refused_where_nothing_is_compressed() {
        assert!(config(&[("compression", "none")]).is_ok_and(|config| !config.compressed));
        let error = config(&[("compression", "none"), ("dictionary", "true")]).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Invalid && error.to_string().contains("leave one of the two out"),
            "{error}"
        );
    }

    #[test]
    fn an_index_has_its_shards() {
        for (shards, good) in [("0", false), ("1", true), ("64", true), ("65", false)] {
            let given = config(&[("feed", "sharded-index"), ("shards", shards)]);
            assert_eq!(given.is_ok_and(|config| config.feed.index().is_some()), good, "{shards}");
        }
    }

    #[test]
    #[cfg(feature = "sqs")]
    fn a_queue_is_named_as_its_table_and_one_for_each_scratch_store() {
        let named = |given: &[(&str, &str)]| {
            let all: Vec<_> = given.iter().copied().chain([("feed", "sqs-fifo")]).collect();
            config(&all).map(|config| config.queue.unwrap().name)
        };
        assert_eq!(named(&[("table", "orders")]).unwrap(), "orders.fifo");
        assert_eq!(named(&[("table", "orders"), ("queue", "theirs.fifo")]).unwrap(), "theirs.fifo");
        assert_eq!(named(&[("table", "orders.a1")]).unwrap(), "orders--a1.fifo");
        assert_eq!(named(&[("table", "orders.a1"), ("queue", "theirs.fifo")]).unwrap(), "theirs--a1.fifo");
        let long = "t".repeat(76);
        for bad in [("queue", "plain"), ("queue", ".fifo"), ("queue", "a b.fifo"), ("table", long.as_str())] {
            assert_eq!(named(&[bad]).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        assert!(config(&[]).unwrap().queue.is_none());
    }

    #[test]
    #[cfg(not(feature = "sqs"))]
    fn a_queue_that_is_not_built_in_is_refused() {
        let error = config(&[("feed", "sqs-fifo")]).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("feature `sqs`"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let config = config(&[("access_key_id", "AKIA"), ("secret_access_key", "hunter2")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
