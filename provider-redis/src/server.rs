//! What the server says of itself: its version, what it keeps over a crash, who copies it, and whether its history is the one
//! that this handle knows.

use crate::config::{Config, Wanted};
use crate::keyspace::Keyspace;
use crate::schema;
use bytes::Bytes;
use evstore_api::capabilities::Durability;
use evstore_api::{CommitId, Error, ErrorKind, Incarnation, Lineage, Position, Result, format};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use std::collections::BTreeMap;

/// A commit that was acknowledged: where it has to be found again.
#[derive(Clone, Debug)]
pub struct Witness {
    /// The key of its stream.
    pub stream: String,
    /// Its id.
    pub commit: CommitId,
    /// Its position in its partition.
    pub position: Position,
}

impl Witness {
    /// The error for everything that a handle does after it was lost.
    pub fn error(&self) -> Error {
        Error::new(ErrorKind::HistoryLost, "the server lost commits that were acknowledged")
            .with("commit", self.commit)
            .with("position", self.position)
    }
}

/// What a new connection found.
#[derive(Debug)]
pub enum Arrival {
    /// What was acknowledged is there.
    Ready,
    /// This is not.
    Lost(Witness),
}

/// The facts that promises are made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Product and version.
    pub engine: String,
    /// What an acknowledged write survives on the primary alone; none where CONFIG is forbidden.
    pub durability: Option<Durability>,
    /// How many replicas are connected.
    pub replicas: u64,
    /// What is removed where memory is short; none where CONFIG is forbidden.
    pub eviction: Option<String>,
    /// All that it says of itself; nothing where INFO is forbidden.
    pub info: String,
}

impl Facts {
    /// What holds on both of two servers. Nothing is known where one does not say it.
    pub fn weaker(self, other: Self) -> Self {
        let evicts = |policy: &Option<String>| policy.as_deref() != Some("noeviction");
        Self {
            durability: self.durability.zip(other.durability).map(|(one, two)| one.min(two)),
            replicas: self.replicas.min(other.replicas),
            eviction: if evicts(&self.eviction) { self.eviction } else { other.eviction },
            ..self
        }
    }
}

/// A text that the server gave.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Compares the server with what this handle knows, before anything is written through a new connection.
///
/// # Behavior
/// The last acknowledged commit has to be there. A server of another replication id than the store was written on was
/// promoted or restarted since: unless that keeps what was acknowledged, a new incarnation begins at its end, so that no
/// consumer carries on over what may be missing.
pub async fn arrive(
    mut connection: MultiplexedConnection,
    keys: &Keyspace,
    partition: u32,
    witness: Option<&Witness>,
    keeps_acknowledged: bool,
) -> Result<Arrival, RedisError> {
    let mut asked = Pipeline::new();
    asked.cmd("HMGET").arg(keys.meta(partition)).arg("record").arg("position").arg("replid").arg("ends");
    asked.cmd("INFO").arg("replication");
    if let Some(witness) = witness {
        asked.cmd("HEXISTS").arg(&witness.stream).arg(crate::codec::id_field(witness.commit));
    }
    let answers = connection.send_packed_commands(&asked, 0, 2 + usize::from(witness.is_some())).await?;
    let mut answers = answers.into_iter();
    let meta = answers.next().unwrap_or_default().extract_error()?;
    let info = answers.next().unwrap_or_default();
    if let (Some(witness), Some(there)) = (witness, answers.next())
        && there.extract_error()? != Value::Int(1)
    {
        return Ok(Arrival::Lost(witness.clone()));
    }
    let (Value::Array(meta), Some(replid)) = (meta, text(&info).and_then(|info| field(&info, "master_replid"))) else {
        return Ok(Arrival::Ready);
    };
    let known = meta.get(2).and_then(text);
    if known.is_some_and(|known| known != replid) {
        let new = match (keeps_acknowledged, keys.partitions()) {
            (true, _) => Vec::new(),
            (false, 1) => next_incarnation(&meta),
            (false, _) => next_history(&meta),
        };
        adopt(connection, &keys.meta(partition), &meta, &replid, new).await?;
    }
    Ok(Arrival::Ready)
}

/// Where the earlier histories of a partition ended, each without what it may have lost.
pub fn ends(value: Option<&Value>) -> Vec<Position> {
    let text = value.and_then(text).unwrap_or_default();
    text.split(' ').filter_map(|end| end.parse().ok().map(Position)).collect()
}

/// A new history of one partition, which begins at its end: cursors say which of its histories they read.
fn next_history(meta: &[Value]) -> Vec<(&'static str, Vec<u8>)> {
    let Some(position) = meta.get(1).and_then(text) else { return Vec::new() };
    let ends = meta.get(3).and_then(text).map_or_else(|| position.clone(), |ends| format!("{ends} {position}"));
    vec![("ends", ends.into_bytes())]
}

/// The store's record with a new history that begins at its end.
fn next_incarnation(meta: &[Value]) -> Vec<(&'static str, Vec<u8>)> {
    let new = || {
        let Some(Value::BulkString(record)) = meta.first() else { return None };
        let position: u64 = meta.get(1).and_then(text)?.parse().ok()?;
        let mut meta = format::decode_meta(&Bytes::from(record.clone())).ok()?;
        meta.lineage.last_mut()?.ended_at = Some(Position(position));
        meta.lineage.push(Lineage { incarnation: Incarnation::generate(), ended_at: None });
        Some(format::encode_meta(&meta))
    };
    let Some(new) = new() else { return Vec::new() };
    let token = schema::token(&new).into_bytes();
    vec![("record", new), ("token", token)]
}

/// Writes down whose history this is, if nobody else has meanwhile.
async fn adopt(
    mut connection: MultiplexedConnection,
    key: &str,
    meta: &[Value],
    replid: &str,
    new: Vec<(&'static str, Vec<u8>)>,
) -> Result<(), RedisError> {
    let Some(Value::BulkString(record)) = meta.first() else { return Ok(()) };
    let known = meta.get(2).and_then(text).unwrap_or_default();
    let mut command = redis::cmd("EVAL");
    command.arg(crate::script::CHANGE).arg(1).arg(key).arg(2);
    command.arg(1).arg("record").arg("=").arg(record.as_slice());
    command.arg(1).arg("replid").arg("=").arg(known);
    command.arg("set").arg(1).arg("replid").arg(replid);
    for (field, value) in new {
        command.arg("set").arg(1).arg(field).arg(value);
    }
    connection.send_packed_command(&command).await?.extract_error().map(drop)
}

/// Asks the server for what promises depend on.
pub async fn facts(mut connection: MultiplexedConnection) -> Result<Facts, RedisError> {
    let mut asked = Pipeline::new();
    asked.cmd("INFO");
    asked.cmd("CONFIG").arg("GET").arg("append*");
    asked.cmd("CONFIG").arg("GET").arg("maxmemory-policy");
    let answers = connection.send_packed_commands(&asked, 0, 3).await?;
    let info = answers.first().and_then(text).unwrap_or_default();
    let persistence = answers.get(1).and_then(pairs);
    let policy = answers.get(2).and_then(pairs);
    Ok(Facts {
        engine: engine(&info),
        durability: persistence.map(|persistence| durability(&persistence)),
        replicas: field(&info, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0),
        eviction: policy.and_then(|policy| policy.get("maxmemory-policy").cloned()),
        info,
    })
}

/// What an acknowledged commit survives: what the server is set up for, held against what is wanted.
///
/// # Errors
/// `Invalid` where less is given than wanted, where it can't be read and was not said, and where the server evicts.
pub fn durability_of(config: &Config, facts: &Facts) -> Result<Durability> {
    let refused = |message| Error::new(ErrorKind::Invalid, message).with("store", &config.own);
    if let Some(policy) = facts.eviction.as_ref().filter(|policy| *policy != "noeviction") {
        return Err(refused("the server would evict events; set maxmemory-policy to noeviction")
            .with("maxmemory-policy", policy));
    }
    let wanted = match config.wanted {
        Wanted::AsServer => {
            return facts.durability.ok_or_else(|| {
                refused("the server does not say what it keeps; set durability to what it is set up for")
            });
        }
        Wanted::Replicas(replicas) if facts.replicas < u64::from(replicas) => {
            return Err(refused("the server has fewer replicas than durability asks for")
                .with("replicas", replicas)
                .with("connected", facts.replicas));
        }
        Wanted::Replicas(_) => return Ok(Durability::ReplicaQuorum),
        Wanted::Memory => Durability::Memory,
        Wanted::ProcessCrash => Durability::ProcessCrash,
        Wanted::PowerLoss => Durability::PowerLoss,
    };
    match facts.durability {
        Some(given) if given < wanted => Err(refused(
            "the server keeps less than durability asks for; set appendonly to \
                                                      yes, and appendfsync to always to survive a power cut",
        )
        .with("wanted", format!("{wanted:?}"))
        .with("given", format!("{given:?}"))),
        Some(_) | None => Ok(wanted),
    }
}

fn engine(info: &str) -> String {
    match (field(info, "valkey_version"), field(info, "redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => "Redis".to_owned(),
    }
}

/// `everysec` and `no` leave what was acknowledged in the page cache, which a killed process does not lose and a power cut
/// does: 2,915 of 22,320 commits (`docs/REDIS.md`).
fn durability(settings: &BTreeMap<String, String>) -> Durability {
    let get = |name: &str| settings.get(name).map(String::as_str);
    match (get("appendonly"), get("appendfsync")) {
        (Some("yes"), Some("always")) => Durability::PowerLoss,
        (Some("yes"), _) => Durability::ProcessCrash,
        _ => Durability::Memory,
    }
}

/// A line of INFO.
pub fn field(info: &str, name: &str) -> Option<String> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    info.lines().find_map(|line| value(line.trim_end()))
}

fn pairs(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Array(parts) => {
            Some(parts.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect())
        }
        Value::Map(pairs) => Some(pairs.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persistence_is_read_as_what_it_survives() {
        let read = |appendonly: &str, appendfsync: &str| {
            let settings = [("appendonly", appendonly), ("appendfsync", appendfsync)];
            durability(&settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
        };
        assert_eq!(read("yes", "always"), Durability::PowerLoss);
        assert_eq!(read("yes", "everysec"), Durability::ProcessCrash);
        assert_eq!(read("no", "always"), Durability::Memory);
    }

    #[test]
    fn a_store_promises_what_its_weakest_server_gives() {
        let facts = |durability, replicas, eviction: &str| Facts {
            engine: "Redis".to_owned(),
            durability,
            replicas,
            eviction: Some(eviction.to_owned()),
            info: String::new(),
        };
        let strong = facts(Some(Durability::PowerLoss), 2, "noeviction");
        let weak = facts(Some(Durability::Memory), 0, "allkeys-lru");
        for both in [strong.clone().weaker(weak.clone()), weak.weaker(strong.clone())] {
            assert_eq!(both.durability, Some(Durability::Memory));
            assert_eq!((both.replicas, both.eviction.as_deref()), (0, Some("allkeys-lru")));
        }
        assert_eq!(facts(None, 1, "noeviction").weaker(strong).durability, None);
    }

    #[test]
    fn valkey_says_so_before_it_says_redis() {
        assert_eq!(engine("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n"), "Valkey 9.1.2");
        assert_eq!(engine("redis_version:7.0.15\r\n"), "Redis 7.0.15");
    }
}
