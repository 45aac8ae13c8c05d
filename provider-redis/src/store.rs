//! The handle that applications hold, and what it shares with the administrative one: the way to the server.

use crate::config::Config;
use crate::error::Purpose;
use crate::keyspace::Keyspace;
use crate::link::{Link, Step};
use crate::schema::{self, Known};
use crate::script::{Call, Scripts};
use crate::server::{self, Facts, Witness};
use crate::wait::Confirmed;
use crate::{append, capabilities, error, read, record, snapshot};
use async_trait::async_trait;
use evstore_api::capabilities::{Failover, Limits, Positions};
use evstore_api::{
    Append, Appended, Capabilities, Clock, CommitId, Deadline, DeleteSnapshot, EventStore, FeedHead, FeedPage,
    FindCommit, Head, ListRecords, ListStreams, Position, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord,
    ReadSnapshot, ReadStream, Record, RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StoreName, StreamId,
    StreamPage, StreamsPage, Timestamp, WaitFeed, Waited,
};
use evstore_kit::refusal;
use redis::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{RwLock as Gate, RwLockReadGuard, watch};

/// One handle's way to a store.
#[derive(Debug)]
pub struct Client {
    config: Arc<Config>,
    keys: Keyspace,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    scripts: Scripts,
    links: Vec<Arc<Link>>,
    confirmed: Vec<Confirmed>,
    /// The record as it was last read: only ever compared by the server, never believed.
    known: RwLock<Option<Arc<Known>>>,
    bell: watch::Sender<()>,
    closed: AtomicBool,
    /// Held by every call, and by closing, which so waits for those that began.
    gate: Gate<()>,
}

impl Client {
    /// Connects, and asks the server what it keeps.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`; `Invalid` where the server keeps less than is wanted.
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let config = Arc::new(config);
        let keys = Keyspace::new(config.prefix.clone(), config.partitions);
        let link = |partition| Arc::new(Link::new(config.clone(), keys.clone(), partition));
        let links: Vec<_> = (0..config.partitions).map(link).collect();
        let mut facts: Option<Facts> = None;
        for link in &links {
            let live = link.live(Deadline::within(config.connect_timeout)).await?;
            let more = server::facts(live.connection).await.map_err(|error| error::failed(&error, Purpose::Read))?;
            facts = Some(match facts {
                None => more,
                Some(facts) => facts.weaker(more),
            });
        }
        let facts = facts.ok_or_else(|| error::corrupt("a store has at least one partition"))?;
        let capabilities = capabilities::of(&config, &facts)?;
        if capabilities.failover != Failover::MayLoseAcknowledged {
            links.iter().for_each(|link| link.keeps_acknowledged());
        }
        let scripts = Scripts::new();
        let confirmed = match config.replicas() {
            0 => Vec::new(),
            replicas => links
                .iter()
                .zip(0..)
                .map(|(link, partition)| {
                    Confirmed::start(
                        link.clone(),
                        keys.meta(partition),
                        scripts.clone(),
                        replicas,
                        config.replicas_timeout,
                    )
                })
                .collect(),
        };
        Ok(Self {
            keys,
            capabilities,
            clock,
            scripts,
            links,
            confirmed,
            known: RwLock::default(),
            bell: watch::channel(()).0,
            closed: AtomicBool::new(false),
            gate: Gate::default(),
            config,
        })
    }

    /// What the store promises.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The bounds of a request.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The store's name in markers.
    pub fn own(&self) -> &StoreName {
        &self.config.own
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the server of a partition says of itself.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn facts(&self, partition: u32, deadline: Deadline) -> Result<Facts> {
        let live = self.links[partition as usize].live(deadline).await?;
        let facts = tokio::time::timeout_at(deadline.0.into(), server::facts(live.connection)).await;
        facts.map_err(|_| error::late(Purpose::Read))?.map_err(|error| error::failed(&error, Purpose::Read))
    }

    /// The last position of a partition; none before it is made.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn position(&self, partition: u32, deadline: Deadline) -> Result<Option<u64>> {
        let asked = Step::Command(schema::command("HGET", self.keys.meta(partition), &["position"]));
        let found = self.run(partition, &asked, deadline, Purpose::Read).await?;
        Ok(server::text(&found).and_then(|position| position.parse().ok()))
    }

    /// Its keys.
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the feed ends at the safe position: replicas are waited for.
    pub fn waits_for_replicas(&self) -> bool {
        !self.confirmed.is_empty()
    }

    /// A position as callers see it: none where each partition counts by itself.
    pub fn shown(&self, position: Position) -> Option<Position> {
        (self.capabilities.positions == Positions::Contiguous).then_some(position)
    }

    /// Begins a call: closing waits for it.
    ///
    /// # Errors
    /// `Closed`, `DeadlineExceeded`.
    pub async fn enter(&self, deadline: Deadline) -> Result<RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read().await;
        self.check_open()?;
        refusal::check_deadline(deadline)?;
        Ok(guard)
    }

    /// Refuses what comes after closing.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(refusal::closed()) } else { Ok(()) }
    }

    /// A call of a script.
    pub fn call(&self, text: &'static str) -> Call<'_> {
        Call::new(self.scripts.of(text))
    }

    /// Runs a step on the primary of a partition.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub async fn run(&self, partition: u32, step: &Step<'_>, deadline: Deadline, purpose: Purpose) -> Result<Value> {
        self.links[partition as usize].run(step, deadline, purpose).await
    }

    /// Runs reads in one round trip.
    ///
    /// # Errors
    /// As [`Link::run_all`].
    pub async fn read_all(&self, partition: u32, steps: &[Step<'_>], deadline: Deadline) -> Result<Vec<Value>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        self.links[partition as usize].run_all(steps, deadline, Purpose::Read).await
    }

    /// Runs a script that writes; with replicas to wait for, its answer is as durable as theirs.
    ///
    /// # Errors
    /// As [`Link::run`]; `Indeterminate` where too few replicas had it in time.
    pub async fn write(&self, partition: u32, call: Call<'_>, deadline: Deadline) -> Result<Value> {
        match self.confirmed.get(partition as usize) {
            None => self.run(partition, &Step::Script(call), deadline, Purpose::Write).await,
            Some(confirmed) => confirmed.run(call.by_hash(), call.whole(), deadline).await,
        }
    }

    /// Lets the safe position catch up, where what stands behind it was written by a call without an answer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn confirm(&self, partition: u32, deadline: Deadline) -> Result<()> {
        match self.confirmed.get(partition as usize) {
            None => Ok(()),
            Some(confirmed) => confirmed.touch(deadline).await,
        }
    }

    /// The record as it was last read, or read now.
    ///
    /// # Errors
    /// `Schema` where there is none.
    pub async fn known(&self, deadline: Deadline) -> Result<Arc<Known>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(known) => Ok(known),
            None => schema::read_meta(self, deadline).await,
        }
    }

    /// Keeps the record as it was read.
    pub fn learn(&self, known: Arc<Known>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// The record that came with an answer; decoded only where it is another one.
    ///
    /// # Errors
    /// As [`Known::new`].
    pub fn record(&self, record: Option<&[u8]>) -> Result<Arc<Known>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (known, record) {
            (Some(known), Some(record)) if known.record == record => Ok(known),
            (_, record) => {
                let new = Known::new(record.map(<[u8]>::to_vec))?;
                new.meta.format.check_read()?;
                self.learn(new.clone());
                Ok(new)
            }
        }
    }

    /// Remembers what was acknowledged, so that a server without it is found out.
    pub fn acknowledged(&self, stream: &StreamId, commit: CommitId, position: Position) {
        let link = &self.links[self.keys.partition(stream) as usize];
        link.witness(Witness { stream: self.keys.stream(stream), commit, position });
    }

    /// Whose history the server has; none where it may not be asked.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn replication_id(&self, partition: u32, deadline: Deadline) -> Result<Option<String>> {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        match self.run(partition, &Step::Command(info), deadline, Purpose::Read).await {
            Ok(info) => Ok(server::text(&info).and_then(|info| server::field(&info, "master_replid"))),
            Err(error) if error.kind() == evstore_api::ErrorKind::Denied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hears of what this handle changes.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// Tells those who wait.
    pub fn ring(&self) {
        self.bell.send_replace(());
    }

    /// Refuses calls from now on, waits for those that began, and lets go of connections.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
        let _alone = self.gate.write().await;
        self.links.iter().for_each(|link| link.close());
    }
}

/// The bytes of a value, none for a missing one.
pub fn bytes_of(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// The values of an array.
pub fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

/// A number that a script gave.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn number(value: Option<&Value>) -> Result<u64> {
    let number = match value {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        Some(value) => server::text(value).and_then(|text| text.parse().ok()),
        None => None,
    };
    number.ok_or_else(|| error::corrupt("a stored number is not one"))
}

/// A store on Redis or Valkey.
#[derive(Debug)]
pub struct RedisStore(pub Client);

#[async_trait]
impl EventStore for RedisStore {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        append::append(&self.0, request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        append::find_commit(&self.0, &request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        read::head(&self.0, &request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        read::read_stream(&self.0, &request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        read::read_feed(&self.0, &request).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        read::wait_feed(&self.0, &request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        read::feed_head(&self.0, deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        read::list_streams(&self.0, &request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        snapshot::put(&self.0, &request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        snapshot::read(&self.0, &request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        snapshot::delete(&self.0, &request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        record::put(&self.0, &request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        record::read(&self.0, &request).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        record::list(&self.0, &request).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await;
        Ok(())
    }
}
