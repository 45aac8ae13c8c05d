//! Both sides of an open store: the connections, and which job does what.

use crate::capabilities::{self, Server};
use crate::config::{CONNECT_MAX, Config, Missing};
use crate::error::{self, Result as Worked};
use crate::lanes::{self, Lanes};
use crate::names::Names;
use crate::read::Layout;
use crate::sequencer::{self, Sequencer};
use crate::statements::{Prepared, Statements};
use crate::transaction::Transaction;
use crate::{admin, append, codec, examine, read, record, replicate, schema, snapshot};
use async_trait::async_trait;
use evstore_api::capabilities::Limits;
use evstore_api::{
    AdvanceFeed, Append, Appended, Capabilities, Clock, CommitsPage, Deadline, Delete, DeleteSnapshot, Deleted, Error,
    ErrorKind, EventStore, FeedAdvanced, FeedHead, FeedPage, FindCommit, Finding, Head, ListRecords, ListStreams, Meta,
    MetaSwapped, OpenStream, PutRecord, PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadRecord, ReadSnapshot,
    ReadStream, Record, RecordPut, RecordsPage, Release, Released, Replicate, Replicated, Result, SchemaPlan,
    SealStream, Snapshot, SnapshotPut, StoreAdmin, StoreName, StreamOpened, StreamPage, StreamSealed, StreamsPage,
    SwapMeta, Timestamp, Truncate, Truncated, WaitFeed, Waited,
};
use evstore_kit::refusal;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Postgres};
use std::ops::{AsyncFnOnce, Deref};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long opening a store may take.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// A connection that nobody needed for so long is closed.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(300);

/// A connection that lay idle for so long is asked whether it lives before it is used.
pub const ASK_AFTER: Duration = Duration::from_millis(500);

/// How long one more try may take that tells why there is no connection.
const ASK_MAX: Duration = Duration::from_secs(1);

/// What a store's handles and its background task share.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// Every statement.
    pub statements: Arc<Statements>,
    /// What those who wait for the feed share.
    pub sequencer: Sequencer,
    /// What streams are called.
    pub names: Names,
    /// How the feed's rows lie.
    pub layout: Layout,
    pool: PgPool,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let statements = Arc::new(Statements::new(&config.schema, config.prepared));
        Ok(Self {
            pool: pool(&config)?,
            statements,
            sequencer: Sequencer::new(),
            names: Names::default(),
            layout: Layout::default(),
            clock,
            config,
        })
    }

    /// The store's name in markers.
    pub fn own(&self) -> &StoreName {
        &self.config.own
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.config.schema
    }

    /// The bounds of a request.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// `DeadlineExceeded`, `Unavailable`, `Denied`, `Throttled`, `Closed`; nothing was sent.
    pub async fn connection(&self, deadline: Deadline) -> Result<Lent> {
        let acquired = tokio::time::timeout_at(deadline.0.into(), self.pool.acquire()).await;
        match acquired.map_err(|_| late())? {
            // The pool goes on trying where nobody listens, and says no more than that it took too long.
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_no_connection().await),
            acquired => acquired.map(Lent::new).map_err(error::not_written),
        }
    }

    /// Whether the pool is used up or the server can't be reached, by one more try.
    async fn why_no_connection(&self) -> Error {
        match tokio::time::timeout(ASK_MAX, self.pool.connect_options().connect()).await {
            Ok(Ok(connection)) => {
                // Where it fails, it is closed all the same.
                let _ = connection.close().await;
                error::not_written(sqlx::Error::PoolTimedOut)
            }
            Ok(Err(error)) => error::not_written(error),
            Err(_) => error::not_written(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Runs a read on a connection of the pool.
    pub async fn read<T>(
        &self,
        deadline: Deadline,
        work: impl AsyncFnOnce(&mut PgConnection) -> Worked<T>,
    ) -> Result<T> {
        refusal::check_deadline(deadline)?;
        let mut lent = self.connection(deadline).await?;
        let whole = self.whole(lent.connection(), work);
        match tokio::time::timeout_at(deadline.0.into(), whole).await {
            Ok(worked) => {
                lent.give_back();
                Ok(worked?)
            }
            Err(_) => Err(late()),
        }
    }

    /// Runs statements by themselves; in a transaction where a pooler would give each of them to another server process.
    ///
    /// # Errors
    /// As the statements.
    pub async fn whole<T, E: From<sqlx::Error>>(
        &self,
        connection: &mut PgConnection,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.config.prepared == Prepared::Kept {
            return work(connection).await;
        }
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        match work(connection).await {
            Ok(worked) => {
                connection.execute("COMMIT").await?;
                Ok(worked)
            }
            Err(error) => {
                // Where this fails the connection is gone, and the server undoes what it has of it.
                let _ = connection.execute("ROLLBACK").await;
                Err(error)
            }
        }
    }

    /// Runs a write in a transaction, and commits it.
    pub async fn write<T>(
        &self,
        deadline: Deadline,
        work: impl AsyncFnOnce(&mut Transaction) -> Worked<T>,
    ) -> Result<T> {
        refusal::check_deadline(deadline)?;
        let whole = async {
            let mut transaction = Transaction::begin(self, deadline).await?;
            let worked = work(&mut transaction).await;
            transaction.end(worked).await
        };
        // The server's own timeout is the deadline; this one is for a server that does not answer at all.
        let patience = Deadline::within(deadline.remaining() + Duration::from_secs(1));
        tokio::time::timeout_at(patience.0.into(), whole).await.unwrap_or_else(|_| Err(error::late()))
    }
}

/// A connection of the pool in use. Dropped before it is given back, it is closed: an answer may still be on its way, or a
/// transaction open whose locks nobody would ever give up.
pub struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    /// Takes care of a connection.
    pub fn new(connection: PoolConnection<Postgres>) -> Self {
        Self(Some(connection))
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("a lent connection is there until it is given back")
    }

    /// Gives it back to the pool.
    pub fn give_back(self) {
        drop(self.into_inner());
    }

    /// The connection, of which somebody else takes care now.
    pub fn into_inner(mut self) -> Option<PoolConnection<Postgres>> {
        self.0.take()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

/// Nothing came back in time, and nothing was written.
pub fn late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the server answered")
}

fn pool(config: &Config) -> Result<PgPool> {
    let options = config.connect_options()?.disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(config.pool_max)
        .acquire_timeout(CONNECT_MAX)
        .idle_timeout(IDLE_CONNECTION_MAX)
        // A question before every use would double the round trips. One that lay idle may be dead, though, and a write that is sent
        // on it would leave its caller without knowing what became of it.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= ASK_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        });
    Ok(pool.connect_lazy_with(options))
}

/// One handle's way to the store.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    capabilities: Capabilities,
    /// Appends on their way.
    pub lanes: Lanes,
    closed: watch::Sender<bool>,
}

impl Deref for Client {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Client {
    /// Opens the application's side: the schema is verified, and the background task of the sequencer begins.
    ///
    /// # Errors
    /// `Schema` when the schema is missing or not what it should be; `Unavailable`, `Denied`.
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let deadline = Deadline::within(OPEN_MAX);
        let shared = Arc::new(Shared::new(config, clock)?);
        if shared.config.missing == Missing::Make {
            // What is there and can't be changed may still be read; the check says.
            schema::apply(&shared, deadline).await.map(drop).or_else(schema::without_changes)?;
        }
        schema::check(&shared, deadline).await?;
        sequencer::begin_history(&shared, deadline).await.or_else(schema::without_rights)?;
        let client = Self::with(shared, deadline).await?;
        tokio::spawn(sequencer::run(client.shared.clone(), client.closed.subscribe()));
        Ok(client)
    }

    /// Opens the administrative side, also where there is no schema yet.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`.
    pub async fn open_admin(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        Self::with(Arc::new(Shared::new(config, clock)?), Deadline::within(OPEN_MAX)).await
    }

    async fn with(shared: Arc<Shared>, deadline: Deadline) -> Result<Arc<Self>> {
        let server = server(&shared, deadline).await?;
        let capabilities = capabilities::capabilities(&server, shared.config.limits);
        let lanes = Lanes::new(shared.config.lanes_max, shared.config.pool_max as usize);
        Ok(Arc::new(Self { shared, capabilities, lanes, closed: watch::Sender::new(false) }))
    }

    /// What the store promises.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Refuses once the handle was closed.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() { Err(refusal::closed()) } else { Ok(()) }
    }

    /// Resolves when the handle is closed.
    pub async fn closing(&self) {
        // An error would mean that the sender is gone, and it is ours.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        self.lanes.close().await;
        self.shared.pool.close().await;
        Ok(())
    }
}

/// What the server says of itself.
///
/// # Errors
/// As a read.
pub async fn server(shared: &Shared, deadline: Deadline) -> Result<Server> {
    shared
        .read(deadline, async |connection| {
            let rows = shared.statements.server.query().fetch_all(connection).await?;
            let row = rows.first().ok_or_else(|| error::corrupt("the server says nothing of itself"))?;
            let text = |column| codec::get::<&str>(row, column).map(str::to_owned);
            let version = text(0)?;
            let version = version.split(" on ").next().unwrap_or_default().to_owned();
            Ok(Server {
                version,
                fsync: text(1)?,
                full_page_writes: text(2)?,
                synchronous_commit: text(3)?,
                synchronous_standby_names: text(4)?,
                aurora: codec::get(row, 5)?,
                standby: codec::get(row, 6)?,
            })
        })
        .await
}

/// The side of a store that applications hold.
#[derive(Debug)]
pub struct PostgresStore(pub Arc<Client>);

#[async_trait]
impl EventStore for PostgresStore {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        lanes::append(&self.0, request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        self.0.check_open()?;
        append::find_commit(&self.0, &request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        self.0.check_open()?;
        read::head(&self.0, &request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        self.0.check_open()?;
        read::stream(&self.0, &request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        self.0.check_open()?;
        read::feed(&self.0, &request).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.0.check_open()?;
        read::wait(&self.0, &request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.0.check_open()?;
        read::feed_head(&self.0, deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        self.0.check_open()?;
        read::streams(&self.0, &request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        self.0.check_open()?;
        snapshot::put(&self.0, &request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.0.check_open()?;
        snapshot::read(&self.0, &request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        self.0.check_open()?;
        snapshot::delete(&self.0, &request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        self.0.check_open()?;
        record::put(&self.0, request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        self.0.check_open()?;
        record::read(&self.0, &request).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        self.0.check_open()?;
        record::list(&self.0, &request).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

/// The side of a store that operators and migrations hold.
#[derive(Debug)]
pub struct PostgresAdmin(pub Arc<Client>);

#[async_trait]
impl StoreAdmin for PostgresAdmin {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        self.0.check_open()?;
        admin::read_meta(&self.0, deadline).await
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        self.0.check_open()?;
        admin::swap_meta(&self.0, &request).await
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        self.0.check_open()?;
        refusal::check_deadline(request.deadline)?;
        Err(refusal::unsupported("seal_stream", "fence", capabilities::FENCE).of_commit(request.commit))
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        self.0.check_open()?;
        refusal::check_deadline(request.deadline)?;
        Err(refusal::unsupported("open_stream", "fence", capabilities::FENCE).of_commit(request.commit))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        self.0.check_open()?;
        replicate::replicate(&self.0, request).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        self.0.check_open()?;
        read::commits(&self.0, &request).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        self.0.check_open()?;
        admin::truncate(&self.0, &request).await
    }

    async fn release(&self, request: Release) -> Result<Released> {
        self.0.check_open()?;
        admin::release(&self.0, &request).await
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        self.0.check_open()?;
        admin::delete(&self.0, &request).await
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        self.0.check_open()?;
        refusal::check_deadline(request.deadline)?;
        sequencer::advance(&self.0, request.deadline).await?;
        Ok(FeedAdvanced { head: read::feed_head(&self.0, request.deadline).await? })
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.0.check_open()?;
        schema::plan(&self.0, deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.0.check_open()?;
        schema::apply(&self.0, deadline).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        self.0.check_open()?;
        schema::check(&self.0, deadline).await?;
        // An operator's side: that this release may write is part of what is asked.
        admin::read_meta(&self.0, deadline).await?.format.check_write()
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        self.0.check_open()?;
        examine::examine(&self.0, deadline).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
