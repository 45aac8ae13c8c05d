//! The record that makes a store: planning it, making it, checking it, changing it in every partition.

use crate::error::Purpose;
use crate::link::Step;
use crate::script;
use crate::server::text;
use crate::store::{Client, array, bytes_of};
use evstore_api::{
    Deadline, Error, ErrorKind, Format, Meta, MetaSwapped, Result, SchemaChange, SchemaPlan, SwapMeta, format,
};
use evstore_kit::decide;
use redis::Value;
use std::sync::Arc;

/// Version of the layout of keys and values.
const LAYOUT: &str = "1";

/// What stands for the store's record where a script compares it: a hash of its bytes.
pub fn token(record: &[u8]) -> String {
    sha1_smol::Sha1::from(record).digest().to_string()
}

/// The store's record as it was read.
#[derive(Clone, Debug)]
pub struct Known {
    /// What a script compares.
    pub token: String,
    /// The record.
    pub meta: Meta,
    /// Its bytes.
    pub record: Vec<u8>,
}

impl Known {
    /// Decodes a record.
    ///
    /// # Errors
    /// `Schema` where there is none or a newer release wrote it, `Corrupt`.
    pub fn new(record: Option<Vec<u8>>) -> Result<Arc<Self>> {
        let record = record.ok_or_else(missing)?;
        let meta = format::decode_meta(&record.clone().into())?;
        Ok(Arc::new(Self { token: token(&record), meta, record }))
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::Schema, "the store is not there yet; apply the schema, or set auto_create")
}

/// Reads the record. Where a change stopped half-way through the partitions, it is finished first: what is answered holds
/// in all of them.
pub async fn read_meta(client: &Client, deadline: Deadline) -> Result<Arc<Known>> {
    loop {
        let first = stored(client, 0, deadline).await?;
        let known = Known::new(first.record)?;
        if spread(client, &known, first.changes, deadline).await? == Spread::Everywhere {
            client.learn(known.clone());
            return Ok(known);
        }
    }
}

/// Changes the record if it is as expected. The first partition decides who wins; only then do the others follow.
pub async fn swap_meta(client: &Client, request: SwapMeta) -> Result<MetaSwapped> {
    loop {
        let first = stored(client, 0, request.deadline).await?;
        let known = Known::new(first.record.clone())?;
        if let Some(swapped) = decide::swap_meta(&known.meta, &request)? {
            // Done before, perhaps by a call that did not come to the other partitions.
            read_meta(client, request.deadline).await?;
            return Ok(swapped);
        }
        let new = Known::new(Some(format::encode_meta(&request.new)))?;
        if write(client, 0, &first, &new, first.changes + 1, request.deadline).await? {
            read_meta(client, request.deadline).await?;
            client.ring();
            return Ok(MetaSwapped::Done);
        }
    }
}

/// What [`apply`] would do.
pub async fn plan(client: &Client, deadline: Deadline) -> Result<SchemaPlan> {
    let mut changes = Vec::new();
    for partition in 0..client.keys().partitions() {
        let found = stored(client, partition, deadline).await?;
        match (found.record, found.layout.as_deref()) {
            (None, None) => changes.push(SchemaChange {
                summary: format!("make the record of partition {partition}"),
                statement: format!("HSET {} record ... layout {LAYOUT} position 0", client.keys().meta(partition)),
            }),
            (Some(record), Some(LAYOUT)) => Known::new(Some(record))?.meta.format.check_write()?,
            (_, layout) => return Err(other_layout(layout)),
        }
    }
    Ok(SchemaPlan { changes })
}

/// Makes the store where it is missing. Of two that try at once, one makes it.
pub async fn apply(client: &Client, deadline: Deadline) -> Result<SchemaPlan> {
    let planned = plan(client, deadline).await?;
    if planned.changes.is_empty() {
        return Ok(planned);
    }
    let new = Known::new(Some(format::encode_meta(&Meta::new(client.now()))))?;
    let first = stored(client, 0, deadline).await?;
    if first.record.is_none() {
        // Of two that make it at once, one does.
        write(client, 0, &first, &new, 1, deadline).await?;
    }
    read_meta(client, deadline).await?;
    Ok(planned)
}

/// Whether the store was made.
pub async fn is_there(client: &Client, deadline: Deadline) -> Result<bool> {
    Ok(stored(client, 0, deadline).await?.record.is_some())
}

/// Verifies that the store is there, in a layout that this release knows, and with as many partitions; gives its format.
pub async fn check(client: &Client, deadline: Deadline) -> Result<Format> {
    let partitions = client.keys().partitions();
    let fields = Step::Command(command("HMGET", client.keys().meta(0), &["layout", "partitions"]));
    let answer = client.run(0, &fields, deadline, Purpose::Read).await?;
    let Value::Array(fields) = answer else { return Err(missing()) };
    let get = |at: usize| fields.get(at).and_then(text);
    match (get(0).as_deref(), get(1)) {
        (None, _) => return Err(missing()),
        (Some(LAYOUT), Some(made)) if made == partitions.to_string() => {}
        (Some(LAYOUT), made) => {
            return Err(Error::new(ErrorKind::Schema, "the store was made with another number of partitions")
                .with("made", made.unwrap_or_default())
                .with("given", partitions));
        }
        (layout, _) => return Err(other_layout(layout)),
    }
    Ok(read_meta(client, deadline).await?.meta.format)
}

fn other_layout(found: Option<&str>) -> Error {
    Error::new(ErrorKind::Schema, "the store has a layout that this release does not know")
        .with("layout", found.unwrap_or("none"))
        .with("ours", LAYOUT)
}

/// A command on one key.
pub fn command(verb: &str, key: String, fields: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(verb);
    command.arg(key).arg(fields);
    command
}

/// What a partition has.
struct Stored {
    record: Option<Vec<u8>>,
    layout: Option<String>,
    /// How often the record was changed: tells a partition that is behind from one that is ahead.
    changes: u64,
}

async fn stored(client: &Client, partition: u32, deadline: Deadline) -> Result<Stored> {
    let asked = Step::Command(command("HMGET", client.keys().meta(partition), &["record", "layout", "changes"]));
    let answer = client.run(partition, &asked, deadline, Purpose::Read).await?;
    let fields = array(answer);
    Ok(Stored {
        record: fields.first().and_then(bytes_of).map(<[u8]>::to_vec),
        layout: fields.get(1).and_then(text),
        changes: fields.get(2).and_then(text).and_then(|changes| changes.parse().ok()).unwrap_or(0),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    Everywhere,
    /// The record changed meanwhile.
    Outrun,
}

/// Brings the other partitions to the record that the first one has.
async fn spread(client: &Client, known: &Known, changes: u64, deadline: Deadline) -> Result<Spread> {
    for partition in 1..client.keys().partitions() {
        let found = stored(client, partition, deadline).await?;
        if found.changes > changes {
            return Ok(Spread::Outrun);
        }
        if found.changes < changes && !write(client, partition, &found, known, changes, deadline).await? {
            return Ok(Spread::Outrun);
        }
    }
    Ok(Spread::Everywhere)
}

async fn write(
    client: &Client,
    partition: u32,
    found: &Stored,
    new: &Known,
    changes: u64,
    deadline: Deadline,
) -> Result<bool> {
    let mut call = client.call(script::CHANGE).key(client.keys().meta(partition)).number(1).number(1).arg("record");
    call = match &found.record {
        Some(found) => call.arg("=").arg(found.clone()),
        None => call.arg("-").arg(""),
    };
    let changes = changes.to_string();
    let mut fields = vec![
        ("record", new.record.clone()),
        ("token", new.token.clone().into_bytes()),
        ("changes", changes.into_bytes()),
    ];
    if found.record.is_none() {
        fields.push(("layout", LAYOUT.into()));
        fields.push(("position", "0".into()));
        fields.push(("partitions", client.keys().partitions().to_string().into_bytes()));
        fields.extend(client.replication_id(partition, deadline).await?.map(|id| ("replid", id.into_bytes())));
    }
    for (field, value) in fields {
        call = call.arg("set").number(1).arg(field).arg(value);
    }
    Ok(client.run(partition, &Step::Script(call), deadline, Purpose::Write).await? == Value::Int(1))
}
