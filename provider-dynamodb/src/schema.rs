//! The tables and the store's record: planning them, making them, verifying them, changing the record.

use crate::codec::{self, corrupt};
use crate::config::Billing;
use crate::dictionary;
use crate::error::{self, Purpose};
use crate::lane::jittered;
use crate::link::{Condition, Transacted, Verdict, Write, sleep};
use crate::log::{self, Tail};
use crate::queue::{self, Queue};
use crate::source::Progress;
use crate::store::Client;
use crate::tables::{
    COUNT, INDEX, KEY, LAYOUT, META, PLACE, SHARD, Table, VALUE, bytes, bytes_of, named, number, number_of, text,
    text_of, with,
};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, GlobalSecondaryIndexDescription, IndexStatus,
    KeySchemaElement, KeyType, Projection, ProjectionType, ProvisionedThroughput, ScalarAttributeType,
    StreamSpecification, StreamViewType, TableDescription, TableStatus, TimeToLiveStatus,
};
use bytes::Bytes;
use evstore_api::{
    Deadline, Error, ErrorKind, Meta, MetaSwapped, Position, Result, SchemaChange, SchemaPlan, SwapMeta, Usage, format,
};
use evstore_kit::decide;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Version of the layout of tables and items.
const LAYOUT_VERSION: &str = "1";
/// How often a table is looked at that is being made.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause after the service said that others write the same items; a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(20);

/// The store's record as it was read.
#[derive(Clone, Debug)]
pub struct StoredMeta {
    /// The record.
    pub meta: Meta,
    /// How often it was changed, which tells two apart also where they are alike.
    pub token: u64,
}

/// Reads the store's record.
///
/// # Errors
/// `Schema` where there is none or a newer release wrote it, `Corrupt`.
pub async fn read_meta(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<Arc<StoredMeta>> {
    let found = client.link().get(Table::Names, named(META, META), deadline, usage).await?.ok_or_else(missing)?;
    let stored = bytes_of(&found, VALUE).ok_or_else(|| corrupt("the store's record is not one"))?;
    let token = number_of(&found, COUNT).ok_or_else(|| corrupt("the store's record is not one"))?;
    let stored = Arc::new(StoredMeta { meta: format::decode_meta(&stored.into())?, token });
    client.learn(stored.clone());
    Ok(stored)
}

fn missing() -> Error {
    Error::new(ErrorKind::Schema, "the store is not there yet; apply the schema, or set auto_create")
}

/// Changes the store's record if it is as expected, and puts its barrier at the end of the log in the same transaction: who appends
/// behind it has read it.
pub async fn swap_meta(client: &Client, request: SwapMeta) -> Result<MetaSwapped> {
    let deadline = request.deadline;
    let mut usage = Usage::default();
    let mut known: Option<(Arc<StoredMeta>, Tail)> = None;
    loop {
        let (found, tail) = match known.take() {
            Some(known) => known,
            None => {
                let found = read_meta(client, deadline, &mut usage).await?;
                if let Some(swapped) = decide::swap_meta(&found.meta, &request)? {
                    return Ok(swapped);
                }
                (found, log::tail(client.link(), deadline, &mut usage).await?)
            }
        };
        let token = found.token + 1;
        let barrier = log::barrier(&Tail { token, claim: None, ..tail });
        let writes = vec![
            Write::put(Table::Log, barrier, Some(log::free_for_barrier())),
            Write::put(Table::Names, record(client, &request.new, token), Some(Condition::counted(found.token))),
        ];
        match client.link().transact(writes, deadline, &mut usage).await? {
            Transacted::Done => {
                client.ring();
                return Ok(MetaSwapped::Done);
            }
            Transacted::Contended => sleep(jittered(CONTENDED_PAUSE), deadline).await?,
            // Where somebody has appended, what is there says where the log ends now, so that the next try is as quick as an
            // append's. That the record is still as it was is part of the condition.
            Transacted::Refused(verdicts) => {
                if let [Verdict::Refused(Some(there)), Verdict::Fine] = &verdicts[..] {
                    known = Some((found, log::tail_of(there)?));
                }
            }
        }
    }
}

fn record(client: &Client, meta: &Meta, token: u64) -> crate::tables::Item {
    let item = with(named(META, META), COUNT, number(token));
    let item = with(item, LAYOUT, text(layout(client)));
    with(item, VALUE, bytes(format::encode_meta(meta)))
}

/// What has to be the same in every process that opens the store.
fn layout(client: &Client) -> String {
    let config = client.config();
    let (feed, snapshots) = (config.feed.layout(), config.snapshots.name());
    match config.feed.index() {
        Some((shards, _)) => format!("{LAYOUT_VERSION} {feed} of {shards} {snapshots}"),
        None => format!("{LAYOUT_VERSION} {feed} {snapshots}"),
    }
}

/// What [`apply`] would do.
pub async fn plan(client: &Client, deadline: Deadline) -> Result<SchemaPlan> {
    let mut changes = Vec::new();
    for table in Table::ALL {
        match describe(client, table, deadline).await? {
            Some(found) => check_table(client, table, &found)?,
            None => changes.push(SchemaChange {
                summary: format!("make the table {}", client.link().table(table)),
                statement: template(client, table).to_string(),
            }),
        }
    }
    let are_there = changes.is_empty();
    if let Some(queue) = client.queue() {
        match queue.state(deadline).await? {
            Some(found) => found.check(queue.name())?,
            None => changes.push(SchemaChange {
                summary: format!("make the queue {}", queue.name()),
                statement: queue::template(queue.name()).to_string(),
            }),
        }
    }
    if !are_there {
        changes.push(SchemaChange { summary: "make the store's record".to_owned(), statement: String::new() });
    } else {
        match stored_layout(client, deadline).await? {
            None => {
                changes.push(SchemaChange { summary: "make the store's record".to_owned(), statement: String::new() });
            }
            Some(found) if found == layout(client) => {
                let mut usage = Usage::default();
                read_meta(client, deadline, &mut usage).await?.meta.format.check_write()?;
            }
            Some(found) => return Err(other_layout(client, &found)),
        }
    }
    Ok(SchemaPlan { changes })
}

/// What is known of the table of commits before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// It was made just now, and so was its change stream.
    New,
    /// It may have been there, with whatever is in it.
    Perhaps,
}

/// Makes what is missing. Of two that try at once, one makes it.
pub async fn apply(client: &Client, mut commits: Commits, deadline: Deadline) -> Result<SchemaPlan> {
    let planned = plan(client, deadline).await?;
    if planned.changes.is_empty() {
        return Ok(planned);
    }
    for table in Table::ALL {
        let is_made = describe(client, table, deadline).await?.is_none() && create(client, table, deadline).await?;
        if is_made && table == Table::Commits {
            commits = Commits::New;
        }
    }
    if let Some(queue) = client.queue() {
        make_queue(queue, deadline).await?;
    }
    for table in Table::ALL {
        wait_until_active(client, table, deadline).await?;
    }
    let mut usage = Usage::default();
    let token = 1;
    let progress = match commits {
        Commits::New => beginning(client, deadline).await?,
        Commits::Perhaps => None,
    };
    let writes = vec![
        Write::put(
            Table::Log,
            log::barrier(&Tail { end: Position(0), token, claim: None, progress }),
            Some(Condition::absent()),
        ),
        Write::put(Table::Names, record(client, &Meta::new(client.now()), token), Some(Condition::absent())),
    ];
    loop {
        match client.link().transact(writes.clone(), deadline, &mut usage).await? {
            // Made, now or by another.
            Transacted::Done | Transacted::Refused(_) => return Ok(planned),
            Transacted::Contended => sleep(jittered(CONTENDED_PAUSE), deadline).await?,
        }
    }
}

async fn make_queue(queue: &dyn Queue, deadline: Deadline) -> Result<()> {
    if queue.state(deadline).await?.is_none() {
        queue.make(deadline).await?;
    }
    // It takes a second until it is known everywhere.
    while queue.state(deadline).await?.is_none() {
        sleep(LOOK_EVERY, deadline).await?;
    }
    Ok(())
}

/// Where the sequencer of a store begins whose change stream has everything that will ever be appended: it need not look at every
/// stream first.
async fn beginning(client: &Client, deadline: Deadline) -> Result<Option<Bytes>> {
    if !has_stream(client, Table::Commits) {
        return Ok(None);
    }
    let found = describe(client, Table::Commits, deadline).await?;
    let source = found.and_then(|found| found.latest_stream_arn);
    let progress = source.map(|source| Progress { read_at: client.now(), source, ..Progress::none(Position(0)) });
    Ok(progress.map(|progress| codec::encode_progress(&progress).into()))
}

/// Whether the store was made.
pub async fn is_there(client: &Client, deadline: Deadline) -> Result<bool> {
    match stored_layout(client, deadline).await {
        Ok(None) => Ok(false),
        Ok(Some(_)) => match client.queue() {
            Some(queue) => Ok(queue.state(deadline).await?.is_some()),
            None => Ok(true),
        },
        Err(error) if error.kind() == ErrorKind::Schema => Ok(false),
        Err(error) => Err(error),
    }
}

/// Verifies that tables and record are there, as this release needs them, and as the config says; gives the record.
pub async fn check(client: &Client, deadline: Deadline) -> Result<Arc<StoredMeta>> {
    for table in Table::ALL {
        let found = describe(client, table, deadline)
            .await?
            .ok_or_else(|| missing().with("table", client.link().table(table)))?;
        check_table(client, table, &found)?;
        check_expiry(client, table, deadline).await?;
    }
    if let Some(queue) = client.queue() {
        check_queue(client, queue, deadline).await?;
    }
    match stored_layout(client, deadline).await? {
        None => return Err(missing()),
        Some(found) if found == layout(client) => {}
        Some(found) => return Err(other_layout(client, &found)),
    }
    let meta = read_meta(client, deadline, &mut Usage::default()).await?;
    if client.index().is_some_and(|index| !index.time().is_known()) {
        return Err(Error::new(
            ErrorKind::Schema,
            "the service's answers have no date, without which feed = \"sharded-index\" can't tell clocks that are off",
        ));
    }
    if client.config().dictionary {
        dictionary::load(client, deadline, &mut Usage::default()).await?;
    }
    Ok(meta)
}

async fn check_queue(client: &Client, queue: &dyn Queue, deadline: Deadline) -> Result<()> {
    match queue.state(deadline).await {
        Ok(Some(found)) => found.check(queue.name()),
        Ok(None) => Err(queue::missing(queue.name())),
        // Whoever does not sequence need not be allowed to look at it.
        Err(error)
            if error.kind() == ErrorKind::Denied
                && client.config().feed.sequencer().is_some_and(|(inside, _)| !inside) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn stored_layout(client: &Client, deadline: Deadline) -> Result<Option<String>> {
    let mut usage = Usage::default();
    let found = client.link().get(Table::Names, named(META, META), deadline, &mut usage).await?;
    Ok(found.map(|item| text_of(&item, LAYOUT).unwrap_or_default().to_owned()))
}

fn other_layout(client: &Client, found: &str) -> Error {
    Error::new(
        ErrorKind::Schema,
        "the store was made in another layout, or with another `feed`, `shards` or `snapshots`",
    )
    .with("made", found)
    .with("ours", layout(client))
}

/// A table as the service describes it; none where there is none.
pub async fn describe(client: &Client, table: Table, deadline: Deadline) -> Result<Option<TableDescription>> {
    let request = client.link().client().describe_table().table_name(client.link().table(table));
    let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
    match answer.map_err(|_| error::late(Purpose::Read))? {
        Ok(output) => Ok(output.table),
        Err(refusal)
            if matches!(refusal.as_service_error(), Some(DescribeTableError::ResourceNotFoundException(_))) =>
        {
            Ok(None)
        }
        Err(refusal) => Err(error::failed(&refusal, Purpose::Read)),
    }
}

/// Refuses a table that is another one than this release makes.
fn check_table(client: &Client, table: Table, found: &TableDescription) -> Result<()> {
    let refused = |message| Err(Error::new(ErrorKind::Schema, message).with("table", client.link().table(table)));
    let keys: Vec<_> = found.key_schema().iter().map(|key| (key.attribute_name(), key.key_type().clone())).collect();
    if keys != [(KEY, KeyType::Hash), (table.sort_key(), KeyType::Range)] {
        return refused("a table has other keys than the store's");
    }
    let wanted = attributes(client, table);
    let wrong_type = found
        .attribute_definitions()
        .iter()
        .any(|one| wanted.iter().any(|(name, kind)| *name == one.attribute_name() && kind != one.attribute_type()));
    if wrong_type {
        return refused("a key of a table is of another type than the store's");
    }
    if has_stream(client, table) {
        let stream = found.stream_specification();
        let shown = stream.filter(|one| one.stream_enabled()).and_then(|one| one.stream_view_type());
        if !matches!(shown, Some(StreamViewType::NewImage | StreamViewType::NewAndOldImages)) {
            return refused("a table has no change stream with new images, which a sequencer reads");
        }
    }
    if has_index(client, table) {
        let named = |one: &&GlobalSecondaryIndexDescription| one.index_name() == Some(INDEX);
        let Some(index) = found.global_secondary_indexes().iter().find(named) else {
            return refused("a table has no index `feed`, which feed = \"sharded-index\" reads");
        };
        let keys: Vec<_> =
            index.key_schema().iter().map(|key| (key.attribute_name(), key.key_type().clone())).collect();
        if keys != [(SHARD, KeyType::Hash), (PLACE, KeyType::Range)] {
            return refused("the index `feed` of a table has other keys than the store's");
        }
        if index.index_status() == Some(&IndexStatus::Creating) {
            return refused("the index `feed` of a table is being made, and shows a part of the commits");
        }
    }
    if !found.replicas().is_empty() {
        return refused("a table has replicas in other regions, where the last writer wins and appends would be lost");
    }
    Ok(())
}

/// Whether the sequencer reads the changes of a table.
fn has_stream(client: &Client, table: Table) -> bool {
    table == Table::Commits && client.config().feed.sequencer().is_some()
}

/// Whether a table has the index that is the feed.
fn has_index(client: &Client, table: Table) -> bool {
    table == Table::Commits && client.config().feed.index().is_some()
}

/// The attributes that are keys of a table or its index, each with its type.
fn attributes(client: &Client, table: Table) -> Vec<(&'static str, ScalarAttributeType)> {
    let kind = |name: &'static str| match name {
        crate::tables::NUMBER => (name, ScalarAttributeType::N),
        SHARD | PLACE => (name, ScalarAttributeType::B),
        _ => (name, ScalarAttributeType::S),
    };
    let of_index = has_index(client, table).then_some([SHARD, PLACE]);
    [KEY, table.sort_key()].into_iter().chain(of_index.into_iter().flatten()).map(kind).collect()
}

/// Refuses a table whose items may expire: no commit does.
async fn check_expiry(client: &Client, table: Table, deadline: Deadline) -> Result<()> {
    let name = client.link().table(table);
    let request = client.link().client().describe_time_to_live().table_name(name);
    let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
    let found =
        answer.map_err(|_| error::late(Purpose::Read))?.map_err(|refusal| error::failed(&refusal, Purpose::Read))?;
    let status = found.time_to_live_description.and_then(|found| found.time_to_live_status);
    match status {
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => {
            Err(Error::new(ErrorKind::Schema, "items of a table expire, and commits must not").with("table", name))
        }
        _ => Ok(()),
    }
}

/// Makes a table; false where it is there, or another makes it just now.
pub async fn create(client: &Client, table: Table, deadline: Deadline) -> Result<bool> {
    let key = |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let complete = "name and type are given";
    let sort = table.sort_key();
    let request = client
        .link()
        .client()
        .create_table()
        .table_name(client.link().table(table))
        .key_schema(key(KEY, KeyType::Hash).expect(complete))
        .key_schema(key(sort, KeyType::Range).expect(complete));
    let request = attributes(client, table).into_iter().fold(request, |request, (name, kind)| {
        let define = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
        request.attribute_definitions(define.build().expect(complete))
    });
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage);
    let request = match has_stream(client, table) {
        true => request.stream_specification(stream.build().expect("it is said whether there is one")),
        false => request,
    };
    let units = match client.config().billing {
        Billing::OnDemand => None,
        Billing::Provisioned { read, write } => {
            let units = ProvisionedThroughput::builder()
                .read_capacity_units(i64::try_from(read).unwrap_or(i64::MAX))
                .write_capacity_units(i64::try_from(write).unwrap_or(i64::MAX));
            Some(units.build().expect("both are given"))
        }
    };
    let request = match has_index(client, table) {
        true => {
            let places = Projection::builder().projection_type(ProjectionType::KeysOnly).build();
            let index = GlobalSecondaryIndex::builder()
                .index_name(INDEX)
                .key_schema(key(SHARD, KeyType::Hash).expect(complete))
                .key_schema(key(PLACE, KeyType::Range).expect(complete))
                .projection(places)
                .set_provisioned_throughput(units.clone());
            request.global_secondary_indexes(index.build().expect(complete))
        }
        false => request,
    };
    let request = match units {
        None => request.billing_mode(BillingMode::PayPerRequest),
        Some(units) => request.billing_mode(BillingMode::Provisioned).provisioned_throughput(units),
    };
    let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
    match answer.map_err(|_| error::late(Purpose::Write))? {
        Ok(_) => Ok(true),
        Err(refusal) if matches!(refusal.as_service_error(), Some(CreateTableError::ResourceInUseException(_))) => {
            Ok(false)
        }
        Err(refusal) => Err(error::failed(&refusal, Purpose::Write)),
    }
}

async fn wait_until_active(client: &Client, table: Table, deadline: Deadline) -> Result<()> {
    loop {
        let found = describe(client, table, deadline).await?;
        match found.and_then(|found| found.table_status) {
            Some(TableStatus::Active | TableStatus::Updating) => return Ok(()),
            _ => sleep(LOOK_EVERY, deadline).await?,
        }
    }
}

/// Removes the tables.
///
/// # Errors
/// As writes have them; a repeat goes on.
pub async fn drop_tables(client: &Client, deadline: Deadline) -> Result<()> {
    // First: its name is found from that of the tables.
    if let Some(queue) = client.queue() {
        queue.remove(deadline).await?;
    }
    for table in Table::ALL {
        let request = client.link().client().delete_table().table_name(client.link().table(table));
        let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
        match answer.map_err(|_| error::late(Purpose::Write))? {
            Ok(_) => {}
            Err(refusal) if error::code(&refusal) == Some("ResourceNotFoundException") => {}
            Err(refusal) => return Err(error::failed(&refusal, Purpose::Write)),
        }
    }
    for table in Table::ALL {
        while describe(client, table, deadline).await?.is_some() {
            sleep(LOOK_EVERY, deadline).await?;
        }
    }
    Ok(())
}

/// The table as a resource of CloudFormation, by its logical name.
fn template(client: &Client, table: Table) -> Value {
    let sort = table.sort_key();
    let define =
        |(name, kind): (&str, ScalarAttributeType)| json!({ "AttributeName": name, "AttributeType": kind.as_str() });
    let mut properties = json!({
        "TableName": client.link().table(table),
        "AttributeDefinitions": attributes(client, table).into_iter().map(define).collect::<Vec<_>>(),
        "KeySchema": [
            { "AttributeName": KEY, "KeyType": "HASH" },
            { "AttributeName": sort, "KeyType": "RANGE" },
        ],
        "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": true },
        "DeletionProtectionEnabled": true,
    });
    if has_index(client, table) {
        properties["GlobalSecondaryIndexes"] = json!([{
            "IndexName": INDEX,
            "KeySchema": [
                { "AttributeName": SHARD, "KeyType": "HASH" },
                { "AttributeName": PLACE, "KeyType": "RANGE" },
            ],
            "Projection": { "ProjectionType": "KEYS_ONLY" },
        }]);
    }
    match client.config().billing {
        Billing::OnDemand => properties["BillingMode"] = json!("PAY_PER_REQUEST"),
        Billing::Provisioned { read, write } => {
            properties["BillingMode"] = json!("PROVISIONED");
            let units = json!({ "ReadCapacityUnits": read, "WriteCapacityUnits": write });
            if has_index(client, table) {
                properties["GlobalSecondaryIndexes"][0]["ProvisionedThroughput"] = units.clone();
            }
            properties["ProvisionedThroughput"] = units;
        }
    }
    if has_stream(client, table) {
        properties["StreamSpecification"] = json!({ "StreamViewType": "NEW_IMAGE" });
    }
    let name = match table {
        Table::Commits => "EvstoreCommits",
        Table::Log => "EvstoreLog",
        Table::Names => "EvstoreNames",
    };
    json!({ name: { "Type": "AWS::DynamoDB::Table", "DeletionPolicy": "Retain", "Properties": properties } })
}
