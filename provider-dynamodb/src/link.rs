//! The way to the service: every request that is sent, with its bound, its cost counted, and its refusals sorted. Nothing is
//! repeated here but what the service left over of a request.

use crate::codec::corrupt;
use crate::config::Config;
use crate::error::{self, Purpose};
use crate::server_time::ServerTime;
use crate::tables::{BURNT, COUNT, INDEX, Item, KEY, Table, Tables, number, text};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, ConsumedCapacity, KeysAndAttributes, Put,
    ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure, Select, TransactWriteItem, Update,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use evstore_api::{Deadline, Error, ErrorKind, Position, Result, Usage};
use evstore_aws::failure::bounded;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::time::Duration;

/// Keys of one `BatchGetItem` at most.
pub const BATCH_KEYS_MAX: usize = 100;
/// Such requests of one read at a time: a page of a feed has one key for each commit, and would wait for ten of them in turn.
const BATCHES_AT_ONCE: usize = 8;
/// Items of one transaction at most.
pub const TRANSACTION_ITEMS_MAX: usize = 100;
/// Bytes of one transaction at most are 4 MB; this leaves room for what is counted otherwise than here.
pub const TRANSACTION_BYTES_MAX: usize = 3 << 20;
/// First pause before what the service left over of a request is asked for again; it doubles.
const LEFT_OVER_PAUSE: Duration = Duration::from_millis(10);
/// Longest such pause.
const LEFT_OVER_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The way to the tables of one store.
pub struct Link {
    client: Client,
    tables: Tables,
}

/// Without the SDK's client, which shows whose requests they are.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// What became of a write under a condition.
#[derive(Debug)]
pub enum Written {
    /// It was made.
    Done,
    /// The condition does not hold, of what is there.
    Refused(Option<Item>),
    /// Nothing was written: a transaction is on the item just now.
    Contended,
}

/// What became of a transaction.
#[derive(Debug)]
pub enum Transacted {
    /// It was made.
    Done,
    /// Nothing was written: for each write whether its condition failed, and what is there.
    Refused(Vec<Verdict>),
    /// Nothing was written: others write the same items just now.
    Contended,
}

/// What a cancelled transaction says of one of its writes.
#[derive(Debug)]
pub enum Verdict {
    /// It was not the cause.
    Fine,
    /// Its condition does not hold, of what is there.
    Refused(Option<Item>),
}

/// A condition and its values.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The expression. Attributes are named as they are: none is a reserved word.
    pub expression: &'static str,
    /// Its values.
    pub values: Vec<(&'static str, AttributeValue)>,
}

impl Condition {
    /// There is no such item.
    pub fn absent() -> Self {
        Self { expression: "attribute_not_exists(k)", values: Vec::new() }
    }

    /// It is a commit without a position.
    fn unlogged() -> Self {
        Self { expression: "attribute_exists(f) AND attribute_not_exists(p)", values: Vec::new() }
    }

    /// It was changed so often.
    pub fn counted(count: u64) -> Self {
        Self { expression: "c = :c", values: vec![(":c", number(count))] }
    }

    /// A snapshot that is not newer, or none, where one may come.
    pub fn not_newer(revision: u64) -> Self {
        Self {
            expression: "attribute_not_exists(k) OR (attribute_not_exists(x) AND c <= :c)",
            values: vec![(":c", number(revision))],
        }
    }
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// The item, or the key of one that is only looked at.
    pub item: Item,
    /// What has to hold.
    pub condition: Option<Condition>,
    /// Whether it is written.
    pub kind: WriteKind,
}

/// Whether a write writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The item is put.
    Put,
    /// The condition alone is looked at.
    Check,
    /// The position of a commit is written beside its frame, once.
    Position(Position),
}

impl Write {
    /// Puts an item.
    pub fn put(table: Table, item: Item, condition: Option<Condition>) -> Self {
        Self { table, item, condition, kind: WriteKind::Put }
    }

    /// Looks at a condition.
    pub fn check(table: Table, key: Item, condition: Condition) -> Self {
        Self { table, item: key, condition: Some(condition), kind: WriteKind::Check }
    }

    /// Writes the position of a commit that has none beside its frame.
    pub fn position(key: Item, position: Position) -> Self {
        Self {
            table: Table::Commits,
            item: key,
            condition: Some(Condition::unlogged()),
            kind: WriteKind::Position(position),
        }
    }

    /// About how many bytes it is.
    pub fn bytes(&self) -> usize {
        let value = |value: &AttributeValue| match value {
            AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            _ => 1,
        };
        self.item.iter().map(|(name, given)| name.len() + value(given)).sum()
    }

    /// What tells its item from others.
    pub fn place(&self) -> (Table, String) {
        let sort = self.item.get(self.table.sort_key()).map(|key| format!("{key:?}")).unwrap_or_default();
        let key = self.item.get(KEY).and_then(|key| key.as_s().ok()).cloned().unwrap_or_default();
        (self.table, format!("{key}\0{sort}"))
    }
}

/// Items of one partition key, in the order of the sort key.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where.
    pub table: Table,
    /// The partition key.
    pub key: String,
    /// From this sort key on, included.
    pub from: Option<AttributeValue>,
    /// Up to this sort key, included.
    pub to: Option<AttributeValue>,
    /// Which way.
    pub order: Order,
    /// What is given of each item; all of it without.
    pub only: Option<&'static str>,
}

/// Entries of a shard of the feed's index, in their order.
#[derive(Clone, Debug)]
pub struct ShardRange {
    /// Which shard.
    pub shard: u8,
    /// From this sort key on, included.
    pub from: Vec<u8>,
    /// Up to this sort key, included, which is not before the first.
    pub to: Vec<u8>,
    /// Which way.
    pub order: Order,
}

/// Which way a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By rising sort key.
    Rising,
    /// By falling sort key.
    Falling,
}

/// A part of a range.
#[derive(Debug)]
pub struct Part {
    /// The items.
    pub items: Vec<Item>,
    /// Where to go on; none at the end.
    pub next: Option<Item>,
}

impl Link {
    /// Connects. Nothing is sent yet, unless credentials have to be found.
    ///
    /// # Errors
    /// `Invalid` where there is no region.
    pub async fn new(config: &Config, time: Option<&ServerTime>) -> Result<Self> {
        let loaded = config.access.load(config.request_timeout).await?;
        let settings = aws_sdk_dynamodb::config::Builder::from(&loaded);
        let settings = match time {
            Some(time) => settings.interceptor(time.clone()),
            None => settings,
        };
        Ok(Self { client: Client::from_conf(settings.build()), tables: Tables::new(&config.table) })
    }

    /// The SDK's client, for the few requests about tables themselves.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The name of a table.
    pub fn table(&self, table: Table) -> &str {
        self.tables.name(table)
    }

    /// Reads one item, with every write that was answered.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn get(&self, table: Table, key: Item, deadline: Deadline, usage: &mut Usage) -> Result<Option<Item>> {
        let request = self
            .client
            .get_item()
            .table_name(self.table(table))
            .set_key(Some(key))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let output = bounded(request.send(), deadline, Purpose::Read).await?;
        usage.requests += 1;
        let output = output.map_err(|error| error::failed(&error, Purpose::Read))?;
        read(usage, output.consumed_capacity.as_slice());
        Ok(output.item)
    }

    /// Reads a part of a range, with every write that was answered: as many items as asked for, or a megabyte.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn query(
        &self,
        range: &Range,
        start: Option<Item>,
        limit: u32,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Part> {
        let sort = range.table.sort_key();
        let condition = match (&range.from, &range.to) {
            (None, None) => "k = :k".to_owned(),
            (Some(_), None) => format!("k = :k AND {sort} >= :from"),
            (None, Some(_)) => format!("k = :k AND {sort} <= :to"),
            (Some(_), Some(_)) => format!("k = :k AND {sort} BETWEEN :from AND :to"),
        };
        let mut request = self
            .client
            .query()
            .table_name(self.table(range.table))
            .key_condition_expression(condition)
            .expression_attribute_values(":k", text(&range.key))
            .scan_index_forward(range.order == Order::Rising)
            .consistent_read(true)
            .limit(i32::try_from(limit.max(1)).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start)
            .set_projection_expression(range.only.map(str::to_owned))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        for (name, bound) in [(":from", &range.from), (":to", &range.to)] {
            if let Some(bound) = bound {
                request = request.expression_attribute_values(name, bound.clone());
            }
        }
        let output = bounded(request.send(), deadline, Purpose::Read).await?;
        usage.requests += 1;
        let output = output.map_err(|error| error::failed(&error, Purpose::Read))?;
        read(usage, output.consumed_capacity.as_slice());
        Ok(Part { items: output.items.unwrap_or_default(), next: output.last_evaluated_key })
    }

    /// Reads a part of a shard of the feed's index, as far as that has come: as many entries as asked for, or a megabyte.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn entries(
        &self,
        range: &ShardRange,
        start: Option<Item>,
        limit: u32,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Part> {
        let limit = i32::try_from(limit.max(1)).unwrap_or(i32::MAX);
        let request = self.index_query(range).limit(limit).set_exclusive_start_key(start);
        let output = bounded(request.send(), deadline, Purpose::Read).await?;
        usage.requests += 1;
        let output = output.map_err(|error| error::failed(&error, Purpose::Read))?;
        read(usage, output.consumed_capacity.as_slice());
        Ok(Part { items: output.items.unwrap_or_default(), next: output.last_evaluated_key })
    }

    /// Counts the entries of a part of a shard of the feed's index, as far as that has come.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn count(&self, range: &ShardRange, deadline: Deadline, usage: &mut Usage) -> Result<u64> {
        let (mut count, mut start) = (0, None);
        loop {
            let request = self.index_query(range).select(Select::Count).set_exclusive_start_key(start);
            let output = bounded(request.send(), deadline, Purpose::Read).await?;
            usage.requests += 1;
            let output = output.map_err(|error| error::failed(&error, Purpose::Read))?;
            read(usage, output.consumed_capacity.as_slice());
            count += u64::try_from(output.count).unwrap_or(0);
            start = output.last_evaluated_key;
            if start.is_none() {
                return Ok(count);
            }
        }
    }

    /// A query of the index, which is never strongly consistent.
    fn index_query(&self, range: &ShardRange) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(self.table(Table::Commits))
            .index_name(INDEX)
            .key_condition_expression("g = :g AND i BETWEEN :from AND :to")
            .expression_attribute_values(":g", crate::tables::bytes([range.shard]))
            .expression_attribute_values(":from", crate::tables::bytes(&range.from[..]))
            .expression_attribute_values(":to", crate::tables::bytes(&range.to[..]))
            .scan_index_forward(range.order == Order::Rising)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
    }

    /// Reads items by their keys, in no order; all of each, or only some of its parts. What the service leaves over is asked for again.
    ///
    /// # Errors
    /// As [`error::failed`] for a read.
    pub async fn get_all(
        &self,
        table: Table,
        keys: Vec<Item>,
        only: Option<&str>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Vec<Item>> {
        let batches: Vec<Vec<Item>> = keys.chunks(BATCH_KEYS_MAX).map(<[Item]>::to_vec).collect();
        let asked = batches.into_iter().map(|batch| async move {
            let mut usage = Usage::default();
            let found = self.get_batch(table, batch, only, deadline, &mut usage).await?;
            Ok::<_, Error>((found, usage))
        });
        let mut found = stream::iter(asked).buffer_unordered(BATCHES_AT_ONCE);
        let mut items = Vec::with_capacity(keys.len());
        while let Some((batch, cost)) = found.try_next().await? {
            *usage += cost;
            items.extend(batch);
        }
        Ok(items)
    }

    async fn get_batch(
        &self,
        table: Table,
        keys: Vec<Item>,
        only: Option<&str>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::with_capacity(keys.len());
        let mut rest = keys;
        let mut pause = LEFT_OVER_PAUSE;
        while !rest.is_empty() {
            let asked = KeysAndAttributes::builder().set_keys(Some(rest)).consistent_read(true);
            let asked = asked.set_projection_expression(only.map(str::to_owned)).build();
            let asked = asked.expect("the keys are given");
            let request = self
                .client
                .batch_get_item()
                .request_items(self.table(table), asked)
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            let output = bounded(request.send(), deadline, Purpose::Read).await?;
            usage.requests += 1;
            let output = output.map_err(|error| error::failed(&error, Purpose::Read))?;
            read(usage, output.consumed_capacity());
            let found: Vec<Item> = output.responses.unwrap_or_default().into_values().flatten().collect();
            let came = !found.is_empty();
            items.extend(found);
            let left = output.unprocessed_keys.unwrap_or_default().into_values().flat_map(|left| left.keys);
            rest = left.collect();
            // Left over is what the table could not give in time, or what did not fit 16 MB: only the former wants a pause.
            if !rest.is_empty() && !came {
                sleep(pause, deadline).await?;
                pause = (pause * 2).min(LEFT_OVER_PAUSE_MAX);
            } else {
                pause = LEFT_OVER_PAUSE;
            }
        }
        Ok(items)
    }

    /// Puts an item under a condition.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn put(
        &self,
        table: Table,
        item: Item,
        condition: Condition,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Written> {
        let request = self
            .client
            .put_item()
            .table_name(self.table(table))
            .set_item(Some(item))
            .condition_expression(condition.expression)
            .set_expression_attribute_values(values(&condition))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = bounded(request.send(), deadline, Purpose::Write).await?;
        usage.requests += 1;
        match answer {
            Ok(output) => {
                wrote(usage, output.consumed_capacity.as_slice());
                Ok(Written::Done)
            }
            Err(SdkError::ServiceError(refusal)) if refusal.err().is_conditional_check_failed_exception() => {
                Ok(Written::Refused(match refusal.into_err() {
                    PutItemError::ConditionalCheckFailedException(refusal) => refusal.item,
                    _ => None,
                }))
            }
            Err(error) if error::code(&error).is_some_and(error::is_contention) => Ok(Written::Contended),
            Err(error) => Err(error::failed(&error, Purpose::Write)),
        }
    }

    /// Takes the events of a commit away and puts another frame in place of its own.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn strip(&self, key: Item, frame: Vec<u8>, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        let request = self
            .client
            .update_item()
            .table_name(self.table(Table::Commits))
            .set_key(Some(key))
            .update_expression("SET f = :f REMOVE e")
            .condition_expression("attribute_exists(e)")
            .expression_attribute_values(":f", crate::tables::bytes(frame))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = bounded(request.send(), deadline, Purpose::Write).await?;
        usage.requests += 1;
        match answer {
            Ok(output) => wrote(usage, output.consumed_capacity.as_slice()),
            Err(SdkError::ServiceError(refusal))
                if matches!(refusal.err(), UpdateItemError::ConditionalCheckFailedException(_)) => {}
            Err(error) => return Err(error::failed(&error, Purpose::Write)),
        }
        Ok(())
    }

    /// Writes the position of a commit beside its frame.
    ///
    /// # Errors
    /// As [`error::failed`] for a write; `Corrupt` where there is no such commit.
    pub async fn position(&self, key: Item, position: Position, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        let request = self
            .client
            .update_item()
            .table_name(self.table(Table::Commits))
            .set_key(Some(key))
            .update_expression("SET p = :p")
            .condition_expression("attribute_exists(f) AND (attribute_not_exists(p) OR p = :p)")
            .expression_attribute_values(":p", number(position.0))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = bounded(request.send(), deadline, Purpose::Write).await?;
        usage.requests += 1;
        match answer {
            Ok(output) => wrote(usage, output.consumed_capacity.as_slice()),
            Err(SdkError::ServiceError(refusal))
                if matches!(refusal.err(), UpdateItemError::ConditionalCheckFailedException(_)) =>
            {
                return Err(
                    corrupt("a commit of the log is missing, or is said to stand elsewhere").with("position", position)
                );
            }
            Err(error) => return Err(error::failed(&error, Purpose::Write)),
        }
        Ok(())
    }

    /// Gives the mark of the sequencer that works back, if it is its owner's.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn release(&self, key: Item, owner: AttributeValue, deadline: Deadline) -> Result<()> {
        let request = self
            .client
            .delete_item()
            .table_name(self.table(Table::Log))
            .set_key(Some(key))
            .condition_expression("o = :o")
            .expression_attribute_values(":o", owner);
        match bounded(request.send(), deadline, Purpose::Write).await? {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(refusal))
                if matches!(refusal.err(), DeleteItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(())
            }
            Err(error) => Err(error::failed(&error, Purpose::Write)),
        }
    }

    /// Removes a snapshot, unless it is the mark that none comes any more.
    ///
    /// # Errors
    /// As [`error::failed`] for a write.
    pub async fn remove(&self, key: Item, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        let request = self
            .client
            .delete_item()
            .table_name(self.table(Table::Commits))
            .set_key(Some(key))
            .condition_expression(format!("attribute_exists({COUNT}) AND attribute_not_exists({BURNT})"))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = bounded(request.send(), deadline, Purpose::Write).await?;
        usage.requests += 1;
        match answer {
            Ok(output) => wrote(usage, output.consumed_capacity.as_slice()),
            Err(SdkError::ServiceError(refusal))
                if matches!(refusal.err(), DeleteItemError::ConditionalCheckFailedException(_)) => {}
            Err(error) => return Err(error::failed(&error, Purpose::Write)),
        }
        Ok(())
    }

    /// Makes all writes or none.
    ///
    /// # Errors
    /// As [`error::failed`] for a write; `Throttled` where a table asks for a slower pace.
    pub async fn transact(&self, writes: Vec<Write>, deadline: Deadline, usage: &mut Usage) -> Result<Transacted> {
        let count = writes.len();
        let items = writes.into_iter().map(|write| self.item(write)).collect();
        let request = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = bounded(request.send(), deadline, Purpose::Write).await?;
        usage.requests += 1;
        let error = match answer {
            Ok(output) => {
                wrote(usage, output.consumed_capacity());
                return Ok(Transacted::Done);
            }
            Err(error) => error,
        };
        if error::code(&error).is_some_and(error::is_contention) {
            return Ok(Transacted::Contended);
        }
        match cancelled(&error) {
            Some(reasons) if reasons.len() == count => verdicts(reasons),
            _ => Err(error::failed(&error, Purpose::Write)),
        }
    }

    fn item(&self, write: Write) -> TransactWriteItem {
        let Write { table, item, condition, kind } = write;
        let (expression, given) = match &condition {
            Some(condition) => (Some(condition.expression.to_owned()), values(condition)),
            None => (None, None),
        };
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        match kind {
            WriteKind::Put => {
                let put = Put::builder()
                    .table_name(self.table(table))
                    .set_item(Some(item))
                    .set_condition_expression(expression)
                    .set_expression_attribute_values(given)
                    .return_values_on_condition_check_failure(old);
                TransactWriteItem::builder().put(put.build().expect("table and item are given")).build()
            }
            WriteKind::Position(position) => {
                let update = Update::builder()
                    .table_name(self.table(table))
                    .set_key(Some(item))
                    .update_expression("SET p = :p")
                    .expression_attribute_values(":p", number(position.0))
                    .set_condition_expression(expression)
                    .return_values_on_condition_check_failure(old);
                let update = update.build().expect("table, key and change are given");
                TransactWriteItem::builder().update(update).build()
            }
            WriteKind::Check => {
                let check = ConditionCheck::builder()
                    .table_name(self.table(table))
                    .set_key(Some(item))
                    .set_condition_expression(expression)
                    .set_expression_attribute_values(given)
                    .return_values_on_condition_check_failure(old);
                let check = check.build().expect("table, key and condition are given");
                TransactWriteItem::builder().condition_check(check).build()
            }
        }
    }
}

/// Waits, unless the deadline comes first.
///
/// # Errors
/// `DeadlineExceeded`; nothing is on its way.
pub async fn sleep(pause: Duration, deadline: Deadline) -> Result<()> {
    if deadline.remaining() <= pause {
        return Err(error::late(Purpose::Read));
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

fn values(condition: &Condition) -> Option<HashMap<String, AttributeValue>> {
    let named = |(name, value): &(&'static str, AttributeValue)| ((*name).to_owned(), value.clone());
    (!condition.values.is_empty()).then(|| condition.values.iter().map(named).collect())
}

fn read(usage: &mut Usage, capacities: &[ConsumedCapacity]) {
    usage.read_units += capacities.iter().filter_map(|one| one.capacity_units).sum::<f64>();
}

fn wrote(usage: &mut Usage, capacities: &[ConsumedCapacity]) {
    usage.write_units += capacities.iter().filter_map(|one| one.capacity_units).sum::<f64>();
}

fn cancelled(error: &SdkError<TransactWriteItemsError, HttpResponse>) -> Option<&[CancellationReason]> {
    match error.as_service_error()? {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => Some(cancelled.cancellation_reasons()),
        _ => None,
    }
}

/// What the reasons of a cancelled transaction mean together: what can never succeed comes first, then conditions, then what
/// passes by itself.
fn verdicts(reasons: &[CancellationReason]) -> Result<Transacted> {
    let codes: Vec<&str> = reasons.iter().map(|reason| reason.code().unwrap_or("None")).collect();
    let known = |code: &&&str| {
        **code == "None"
            || **code == "ConditionalCheckFailed"
            || error::is_contention(code)
            || error::is_throttling(code)
    };
    if let Some(code) = codes.iter().find(|code| !known(code)) {
        let too_large = *code == "ItemCollectionSizeLimitExceeded";
        let kind = if too_large { ErrorKind::TooLarge } else { ErrorKind::Invalid };
        return Err(Error::new(kind, "the service does not take a write").with("code", code));
    }
    if codes.contains(&"ConditionalCheckFailed") {
        let verdict = |reason: &CancellationReason| match reason.code() {
            Some("ConditionalCheckFailed") => Verdict::Refused(reason.item.clone().filter(|item| !item.is_empty())),
            _ => Verdict::Fine,
        };
        return Ok(Transacted::Refused(reasons.iter().map(verdict).collect()));
    }
    match codes.iter().find(|code| error::is_throttling(code)) {
        Some(code) => Err(error::throttled(code)),
        None => Ok(Transacted::Contended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(codes: &[&str]) -> Result<Transacted> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        verdicts(&codes.iter().map(reason).collect::<Vec<_>>())
    }

    #[test]
    fn a_conflict_is_told_from_contention_and_throttling() {
        assert!(matches!(of(&["None", "TransactionConflict"]), Ok(Transacted::Contended)));
        assert!(matches!(of(&["ConditionalCheckFailed", "TransactionConflict"]), Ok(Transacted::Refused(_))));
        for code in ["ProvisionedThroughputExceeded", "ThrottlingError"] {
            assert_eq!(of(&["None", code]).unwrap_err().kind(), ErrorKind::Throttled);
        }
        for code in ["ValidationError", "SomethingNew"] {
            assert_eq!(of(&["ConditionalCheckFailed", code]).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert_eq!(of(&["ItemCollectionSizeLimitExceeded"]).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn places_of_writes_are_told_apart() {
        let put = |table, key: &str, at| Write::put(table, crate::tables::numbered(key, at), None).place();
        assert_eq!(put(Table::Commits, "a", 1), put(Table::Commits, "a", 1));
        assert_ne!(put(Table::Commits, "a", 1), put(Table::Log, "a", 1));
        assert_ne!(put(Table::Commits, "a", 1), put(Table::Commits, "a", 2));
    }
}
