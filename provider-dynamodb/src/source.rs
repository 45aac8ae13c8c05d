//! The change stream of the commits' table, as a sequencer reads it: shards, parents before their children, each from where it was
//! left. Nothing here decides what a record means. The service stands behind a trait, because local engines have one shard that never
//! ends and lose nothing.

use crate::config::Config;
use crate::error::{self, Purpose};
use crate::tables::{FRAME, Item, KEY, NUMBER, POSITION, bytes, text};
use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::Client as Streams;
use aws_sdk_dynamodbstreams::types::{AttributeValue as Changed, OperationType, Record, ShardIteratorType};
use evstore_api::{Deadline, Error, ErrorKind, Position, Result, Timestamp};
use futures::future::join_all;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a list of shards is good while none of them ends: the service lists ten times a second, for all readers of a table.
const LISTED_FOR: Duration = Duration::from_secs(10);
/// How old what was read last may be. A change stream keeps a day; a shard that began and ended unread before that leaves no trace, so
/// that time has to tell.
const READ_WITHIN: Duration = Duration::from_secs(18 * 60 * 60);
/// Records of one read: a thousand or a megabyte, whichever is less, is what the service gives.
const READ_RECORDS: i32 = 1_000;
/// Pages of shards that are listed: a hundred in each.
const LIST_PAGES_MAX: usize = 1_000;

/// How far a sequencer has come. It stands in the record of the log that holds what it had read by then, so that both are written or
/// neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last position up to which every commit has its position beside it.
    pub settled: Position,
    /// When this was read. What a change stream kept for longer ago is not relied on.
    pub read_at: Timestamp,
    /// The change stream that the places are of; empty where none was read to its beginning yet.
    pub source: String,
    /// Where each shard was left. One that is not named was not begun.
    pub shards: BTreeMap<String, Place>,
}

impl Progress {
    /// Nothing was read, and everything up to a position is settled.
    pub fn none(settled: Position) -> Self {
        Self { settled, read_at: Timestamp(0), source: String::new(), shards: BTreeMap::new() }
    }
}

/// Where a shard was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind the record of this number.
    Behind(String),
    /// At its end: its children may be read.
    Ended,
}

/// The shards of a change stream.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// What the stream is called: another one after it was turned off and on.
    pub source: String,
    /// Its shards, and from which each was split.
    pub shards: Vec<(String, Option<String>)>,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug)]
pub enum From<'a> {
    /// Where an earlier one stopped.
    Mark(&'a str),
    /// Behind a record.
    Behind(&'a str),
    /// At the oldest record that is there.
    Beginning,
}

/// A part of a shard.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The changes.
    pub changes: Vec<Change>,
    /// Where to go on; none at the end of a shard that ended.
    pub mark: Option<String>,
}

/// What became of a read.
#[derive(Debug)]
pub enum Found {
    /// A part.
    Part(Part),
    /// What stood there is gone.
    Trimmed,
    /// The mark is too old.
    Expired,
}

/// A change of an item.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number in its shard.
    pub sequence: String,
    /// The item as far as a sequencer looks at it, where it was put and not there before.
    pub put: Option<Item>,
}

/// What a change stream can be asked.
#[async_trait]
pub trait Source: Send + Sync + std::fmt::Debug {
    /// Lists the shards.
    ///
    /// # Errors
    /// `Schema` where the table has no change stream; as reads have them.
    async fn list(&self, deadline: Deadline) -> Result<Listing>;

    /// Reads a part of a shard.
    ///
    /// # Errors
    /// As reads have them.
    async fn read(&self, source: &str, shard: &str, from: From<'_>, deadline: Deadline) -> Result<Found>;
}

/// The change stream of the service.
pub struct TableChanges {
    streams: Streams,
    tables: aws_sdk_dynamodb::Client,
    table: String,
}

/// Without the SDK's clients, which show whose requests they are.
impl std::fmt::Debug for TableChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableChanges").field("table", &self.table).finish_non_exhaustive()
    }
}

impl TableChanges {
    /// Of the commits' table of a store.
    ///
    /// # Errors
    /// `Invalid` where there is no region.
    pub async fn new(config: &Config) -> Result<Self> {
        let loaded = config.access.load(config.request_timeout).await?;
        let table = config.table.clone();
        Ok(Self { streams: Streams::new(&loaded), tables: aws_sdk_dynamodb::Client::new(&loaded), table })
    }

    async fn iterator(
        &self,
        source: &str,
        shard: &str,
        behind: Option<&str>,
        deadline: Deadline,
    ) -> Result<Option<String>> {
        let kind = match behind {
            Some(_) => ShardIteratorType::AfterSequenceNumber,
            None => ShardIteratorType::TrimHorizon,
        };
        let request = self.streams.get_shard_iterator().stream_arn(source).shard_id(shard).shard_iterator_type(kind);
        let request = request.set_sequence_number(behind.map(str::to_owned));
        match within(request.send(), deadline).await? {
            Ok(output) => Ok(output.shard_iterator),
            Err(refusal) if error::code(&refusal).is_some_and(is_trimmed) => Ok(None),
            Err(refusal) => Err(error::failed(&refusal, Purpose::Read)),
        }
    }
}

async fn within<T>(request: impl Future<Output = T>, deadline: Deadline) -> Result<T> {
    tokio::time::timeout_at(deadline.0.into(), request).await.map_err(|_| error::late(Purpose::Read))
}

/// Whether what was asked for is not kept any more. A shard of which nothing is kept is not there at all.
fn is_trimmed(code: &str) -> bool {
    matches!(code, "TrimmedDataAccessException" | "ResourceNotFoundException")
}

#[async_trait]
impl Source for TableChanges {
    async fn list(&self, deadline: Deadline) -> Result<Listing> {
        let described = self.tables.describe_table().table_name(&self.table);
        let described = within(described.send(), deadline).await?;
        let described = described.map_err(|refusal| error::failed(&refusal, Purpose::Read))?;
        let table = described.table.as_ref();
        let enabled = table.and_then(|table| table.stream_specification()).is_some_and(|one| one.stream_enabled());
        let source = table.and_then(|table| table.latest_stream_arn()).filter(|_| enabled);
        let source = source.ok_or_else(|| {
            Error::new(ErrorKind::Schema, "the table has no change stream, which a sequencer reads")
                .with("table", &self.table)
        })?;
        let mut shards = Vec::new();
        let mut start = None;
        for _ in 0..LIST_PAGES_MAX {
            let request = self.streams.describe_stream().stream_arn(source).set_exclusive_start_shard_id(start);
            let output = within(request.send(), deadline).await?;
            let output = output.map_err(|refusal| error::failed(&refusal, Purpose::Read))?;
            let Some(found) = output.stream_description else { break };
            let named = |shard: &aws_sdk_dynamodbstreams::types::Shard| {
                Some((shard.shard_id.clone()?, shard.parent_shard_id.clone()))
            };
            shards.extend(found.shards().iter().filter_map(named));
            start = found.last_evaluated_shard_id;
            if start.is_none() {
                break;
            }
        }
        Ok(Listing { source: source.to_owned(), shards })
    }

    async fn read(&self, source: &str, shard: &str, from: From<'_>, deadline: Deadline) -> Result<Found> {
        let iterator = match from {
            From::Mark(mark) => Some(mark.to_owned()),
            From::Behind(sequence) => self.iterator(source, shard, Some(sequence), deadline).await?,
            From::Beginning => self.iterator(source, shard, None, deadline).await?,
        };
        let Some(iterator) = iterator else { return Ok(Found::Trimmed) };
        let request = self.streams.get_records().shard_iterator(iterator).limit(READ_RECORDS);
        match within(request.send(), deadline).await? {
            Ok(output) => {
                let changes = output.records.unwrap_or_default().into_iter().filter_map(change).collect();
                Ok(Found::Part(Part { changes, mark: output.next_shard_iterator }))
            }
            Err(refusal) => match error::code(&refusal) {
                Some("ExpiredIteratorException") => Ok(Found::Expired),
                Some(code) if is_trimmed(code) => Ok(Found::Trimmed),
                _ => Err(error::failed(&refusal, Purpose::Read)),
            },
        }
    }
}

fn change(record: Record) -> Option<Change> {
    let inserted = record.event_name == Some(OperationType::Insert);
    let record = record.dynamodb?;
    let sequence = record.sequence_number?;
    let put = record.new_image.filter(|_| inserted).map(|image| {
        let looked_at = [KEY, NUMBER, FRAME, POSITION];
        let taken = image.into_iter().filter(|(name, _)| looked_at.contains(&name.as_str()));
        taken.filter_map(|(name, value)| Some((name, value_of(value)?))).collect()
    });
    Some(Change { sequence, put })
}

fn value_of(value: Changed) -> Option<AttributeValue> {
    match value {
        Changed::S(given) => Some(text(given)),
        Changed::N(given) => Some(AttributeValue::N(given)),
        Changed::B(given) => Some(bytes(given.into_inner())),
        _ => None,
    }
}

/// What a round over the shards brought.
#[derive(Debug)]
pub enum Round {
    /// Changes, each shard's in its order, and the progress once they are dealt with.
    Read {
        /// The changes.
        changes: Vec<Change>,
        /// Where the shards are left behind them.
        progress: Progress,
        /// Whether no shard had anything, and none ended.
        is_quiet: bool,
    },
    /// Something is gone that was not read: only the tables know what it was. Everything that is kept can be read from here on.
    Lost {
        /// The beginning of what is kept.
        beginning: Progress,
    },
}

/// Reads shards one round after the other.
#[derive(Debug)]
pub struct Rounds {
    source: Arc<dyn Source>,
    listing: Option<(Instant, Listing)>,
    /// Where the service is to go on, beside the place that it stands for: faster than finding that again.
    marks: HashMap<String, (Option<Place>, String)>,
}

impl Rounds {
    /// Nothing is read yet.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, listing: None, marks: HashMap::new() }
    }

    /// Lists the shards anew next time.
    pub fn forget(&mut self) {
        self.listing = None;
    }

    /// Reads the next part of every shard that may be read.
    ///
    /// # Errors
    /// As reads have them; nothing is lost then.
    pub async fn next(&mut self, progress: &Progress, now: Timestamp, deadline: Deadline) -> Result<Round> {
        let listing = match self.listing.take() {
            Some((since, listing)) if since.elapsed() < LISTED_FOR => (since, listing),
            _ => (Instant::now(), self.source.list(deadline).await?),
        };
        let (since, listing) = &*self.listing.insert(listing);
        let since = *since;
        let beginning = || Progress {
            settled: progress.settled,
            read_at: now,
            source: listing.source.clone(),
            shards: BTreeMap::new(),
        };
        let listed: HashSet<&str> = listing.shards.iter().map(|(shard, _)| shard.as_str()).collect();
        // One that was left in its middle and is not there any more ended, and nobody knows what it had before.
        let is_gone = |(shard, place): (&String, &Place)| *place != Place::Ended && !listed.contains(shard.as_str());
        let is_old = now.0.saturating_sub(progress.read_at.0) > READ_WITHIN.as_micros() as i64;
        if is_old || progress.source != listing.source || progress.shards.iter().any(is_gone) {
            return Ok(Round::Lost { beginning: beginning() });
        }
        let mut after = Progress { read_at: now, ..progress.clone() };
        after.shards.retain(|shard, _| listed.contains(shard.as_str()));
        let may_be_read = |parent: Option<&String>| {
            parent.is_none_or(|parent| {
                !listed.contains(parent.as_str()) || progress.shards.get(parent) == Some(&Place::Ended)
            })
        };
        let wanted = listing.shards.iter().filter(|(shard, parent)| {
            progress.shards.get(shard) != Some(&Place::Ended) && may_be_read(parent.as_ref())
        });
        let (source, marks) = (&self.source, &self.marks);
        let reads = wanted.map(|(shard, _)| async move {
            let place = progress.shards.get(shard);
            let mark = marks.get(shard).filter(|(at, _)| at.as_ref() == place).map(|(_, mark)| mark.as_str());
            let from = match (mark, place) {
                (Some(mark), _) => From::Mark(mark),
                (None, place) => from_place(place),
            };
            let found = source.read(&listing.source, shard, from, deadline).await;
            match found {
                Ok(Found::Expired) => (shard, source.read(&listing.source, shard, from_place(place), deadline).await),
                found => (shard, found),
            }
        });
        let found = join_all(reads).await;
        let (mut changes, mut is_quiet, mut ended) = (Vec::new(), true, false);
        let mut marks = HashMap::new();
        for (shard, found) in found {
            let part = match found? {
                Found::Part(part) => part,
                Found::Trimmed | Found::Expired => return Ok(Round::Lost { beginning: beginning() }),
            };
            if let Some(last) = part.changes.last() {
                is_quiet = false;
                after.shards.insert(shard.clone(), Place::Behind(last.sequence.clone()));
            }
            changes.extend(part.changes);
            match part.mark {
                Some(mark) => drop(marks.insert(shard.clone(), (after.shards.get(shard).cloned(), mark))),
                None => {
                    (is_quiet, ended) = (false, true);
                    after.shards.insert(shard.clone(), Place::Ended);
                }
            }
        }
        self.marks = marks;
        // Who ended has children.
        if ended || since.elapsed() >= LISTED_FOR {
            self.listing = None;
        }
        Ok(Round::Read { changes, progress: after, is_quiet })
    }
}

fn from_place(place: Option<&Place>) -> From<'_> {
    match place {
        Some(Place::Behind(sequence)) => From::Behind(sequence),
        // Who ended is not read.
        Some(Place::Ended) | None => From::Beginning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Shards as a service may have them: each with its parent, its records as far as they are kept, and whether it ended.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<(String, Vec<Shard>)>);

    #[derive(Clone, Debug)]
    struct Shard {
        name: &'static str,
        parent: Option<&'static str>,
        /// Numbers of the records that there were, and how many of them are gone.
        records: Vec<u32>,
        gone: usize,
        ended: bool,
    }

    fn shard(name: &'static str, parent: Option<&'static str>, records: &[u32], ended: bool) -> Shard {
        Shard { name, parent, records: records.to_vec(), gone: 0, ended }
    }

    impl Scripted {
        fn new(shards: Vec<Shard>) -> Arc<Self> {
            Arc::new(Self(Mutex::new(("one".to_owned(), shards))))
        }

        fn change(&self, change: impl FnOnce(&mut String, &mut Vec<Shard>)) {
            let (source, shards) = &mut *self.0.lock().unwrap();
            change(source, shards);
        }
    }

    #[async_trait]
    impl Source for Scripted {
        async fn list(&self, _: Deadline) -> Result<Listing> {
            let (source, shards) = &*self.0.lock().unwrap();
            let named = |one: &Shard| (one.name.to_owned(), one.parent.map(str::to_owned));
            Ok(Listing { source: source.clone(), shards: shards.iter().map(named).collect() })
        }

        async fn read(&self, _: &str, shard: &str, from: From<'_>, _: Deadline) -> Result<Found> {
            let state = self.0.lock().unwrap();
            let Some(found) = state.1.iter().find(|one| one.name == shard) else { return Ok(Found::Trimmed) };
            let begin = match from {
                From::Beginning => found.gone,
                From::Mark("old") => return Ok(Found::Expired),
                From::Mark(mark) => mark.parse().unwrap(),
                From::Behind(number) => {
                    let at = found.records.iter().position(|one| one.to_string() == number).unwrap() + 1;
                    if at < found.gone {
                        return Ok(Found::Trimmed);
                    }
                    at
                }
            };
            // Two at a time.
            let part: Vec<_> = found.records[begin..].iter().take(2).collect();
            let end = begin + part.len();
            let mark = (end < found.records.len() || !found.ended).then(|| end.to_string());
            let changes = part.into_iter().map(|one| Change { sequence: one.to_string(), put: None }).collect();
            Ok(Found::Part(Part { changes, mark }))
        }
    }

    const NOW: Timestamp = Timestamp(1_000_000_000);

    async fn next(rounds: &mut Rounds, progress: &mut Progress, now: Timestamp) -> Option<Vec<u32>> {
        match rounds.next(progress, now, Deadline::within(Duration::from_secs(5))).await.unwrap() {
            Round::Read { changes, progress: after, .. } => {
                *progress = after;
                Some(changes.into_iter().map(|change| change.sequence.parse().unwrap()).collect())
            }
            Round::Lost { beginning } => {
                *progress = beginning;
                None
            }
        }
    }

    fn at_beginning() -> Progress {
        Progress { source: "one".to_owned(), read_at: NOW, ..Progress::none(Position(0)) }
    }

    #[tokio::test]
    async fn children_are_read_once_their_parent_has_ended() {
        let source = Scripted::new(vec![
            shard("c", Some("a"), &[30, 31], false),
            shard("a", Some("trimmed long ago"), &[10, 11, 12], true),
            shard("d", Some("c"), &[40], false),
            shard("b", None, &[20], false),
        ]);
        let (mut rounds, mut progress) = (Rounds::new(source.clone()), at_beginning());
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![10, 11, 20]));
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![12]));
        assert_eq!(progress.shards["a"], Place::Ended);
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![30, 31]));
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![]));
        source.change(|_, shards| {
            shards[0].ended = true;
            shards[3].records.push(21);
        });
        // One that begins anew goes on from the same place.
        let mut rounds = Rounds::new(source.clone());
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![21]));
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![40]));
        // A shard that ended and is gone needs no place any more.
        source.change(|_, shards| shards.retain(|one| one.name != "a"));
        rounds.forget();
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![]));
        assert!(!progress.shards.contains_key("a"));
    }

    #[tokio::test]
    async fn what_was_lost_unread_is_noticed() {
        let whole = || vec![shard("a", None, &[10, 11, 12, 13, 14], false)];
        // A part of what was not read is gone; the shard is; the stream is another one; it is too long ago.
        let losses: [fn(&mut String, &mut Vec<Shard>); 3] =
            [|_, shards| shards[0].gone = 4, |_, shards| shards.clear(), |source, _| *source = "two".to_owned()];
        for loss in losses {
            let source = Scripted::new(whole());
            let (mut rounds, mut progress) = (Rounds::new(source.clone()), at_beginning());
            assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![10, 11]));
            source.change(loss);
            let mut rounds = Rounds::new(source.clone());
            assert_eq!(next(&mut rounds, &mut progress, NOW).await, None);
            let source = progress.source.clone();
            assert!(progress.shards.is_empty() && !source.is_empty());
        }
        let (mut rounds, mut progress) = (Rounds::new(Scripted::new(whole())), at_beginning());
        let late = Timestamp(NOW.0 + READ_WITHIN.as_micros() as i64 + 1);
        assert_eq!(next(&mut rounds, &mut progress, late).await, None);
        assert_eq!(next(&mut rounds, &mut progress, late).await, Some(vec![10, 11]));
    }

    #[tokio::test]
    async fn an_expired_mark_is_found_again() {
        let source = Scripted::new(vec![shard("a", None, &[10, 11, 12], false)]);
        let (mut rounds, mut progress) = (Rounds::new(source), at_beginning());
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![10, 11]));
        rounds.marks.get_mut("a").unwrap().1 = "old".to_owned();
        assert_eq!(next(&mut rounds, &mut progress, NOW).await, Some(vec![12]));
    }

    #[test]
    fn progress_is_read_back() {
        let mut progress = at_beginning();
        progress.settled = Position(7);
        progress.shards.insert("shardId-00000001556045784-8ef4f3a1".to_owned(), Place::Ended);
        progress.shards.insert("shardId-00000001556045785-a1b2c3d4".to_owned(), Place::Behind("4".repeat(40)));
        let stored = crate::codec::encode_progress(&progress);
        assert_eq!(crate::codec::decode_progress(&stored).unwrap(), progress);
        let mut damaged = stored;
        damaged[9] ^= 1;
        assert_eq!(crate::codec::decode_progress(&damaged).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
