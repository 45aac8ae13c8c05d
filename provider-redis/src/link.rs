//! The way to the primary of one partition: one connection that many callers share, found anew after a failover. It follows
//! MOVED and ASK, sends a script whole where the server has forgotten it, and never repeats what may have been written.

use crate::address;
use crate::config::{Config, Topology};
use crate::error::{self, Detour, Purpose};
use crate::keyspace::Keyspace;
use crate::script::Call;
use crate::server::{self, Witness};
use evstore_api::{Deadline, Error, ErrorKind, Result};
use evstore_kit::refusal;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisError, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Detours of one call: a slot can be moved again while one follows it, but not for ever.
const DETOURS_MAX: u32 = 16;
/// Pause before a slot that is on its way is asked once more.
const PAUSE: Duration = Duration::from_millis(20);
/// A connection that left a call unanswered for this long is not trusted any more.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Something to send.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// A script.
    Script(Call<'a>),
    /// A command.
    Command(Cmd),
}

/// A connection that works.
#[derive(Clone)]
pub struct Live {
    /// The connection.
    pub connection: MultiplexedConnection,
    number: u64,
}

/// The way to one partition.
pub struct Link {
    config: Arc<Config>,
    keys: Keyspace,
    partition: u32,
    state: Mutex<State>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// The node that answered last for this partition.
    node: Option<String>,
    connections: u64,
    /// The last commit that this handle acknowledged.
    witness: Option<Witness>,
    /// What is gone, once something is.
    lost: Option<Witness>,
    keeps_acknowledged: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl Link {
    /// A way that was not gone yet.
    pub fn new(config: Arc<Config>, keys: Keyspace, partition: u32) -> Self {
        Self { config, keys, partition, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Says that no failover of this set-up takes acknowledged commits, so that another server is no other history.
    pub fn keeps_acknowledged(&self) {
        self.state().keeps_acknowledged = true;
    }

    /// Remembers what was acknowledged last, to be looked for on the next connection.
    pub fn witness(&self, witness: Witness) {
        let mut state = self.state();
        if state.witness.as_ref().is_none_or(|known| known.position < witness.position) {
            state.witness = Some(witness);
        }
    }

    /// Lets go of the connection.
    pub fn close(&self) {
        self.state().live = None;
    }

    /// Runs a step.
    ///
    /// # Errors
    /// `Unavailable` and its like where nothing was executed; `Indeterminate` where a write was sent without an answer.
    pub async fn run(&self, step: &Step<'_>, deadline: Deadline, purpose: Purpose) -> Result<Value> {
        let mut replies = self.run_all(std::slice::from_ref(step), deadline, purpose).await?;
        replies.pop().ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server gave no answer"))
    }

    /// Runs reads in one round trip, or a single write.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_all(&self, steps: &[Step<'_>], deadline: Deadline, purpose: Purpose) -> Result<Vec<Value>> {
        let (mut whole, mut broken) = (false, false);
        let mut asked: Option<String> = None;
        for _ in 0..DETOURS_MAX {
            refusal::check_deadline(deadline)?;
            let live = match asked.take() {
                None => self.live(deadline).await?,
                Some(node) => self.visit(&node, deadline).await?,
            };
            let asking = live.number == 0;
            let sent_at = Instant::now();
            let sent = send(live.connection.clone(), pipeline(steps, whole, asking), usize::from(asking), steps.len());
            let error = match tokio::time::timeout_at(deadline.0.into(), sent).await {
                Ok(Ok(replies)) => return Ok(replies),
                Ok(Err(error)) => error,
                Err(_) => {
                    if sent_at.elapsed() >= SILENCE_MAX {
                        self.discard(&live);
                    }
                    return Err(error::late(purpose));
                }
            };
            match error::detour(&error) {
                Detour::NoScript => whole = true,
                Detour::Moved(node) => self.moved(&live, &node),
                Detour::Asked(node) => asked = Some(node),
                Detour::Again => tokio::time::sleep(PAUSE).await,
                Detour::None => {
                    if error::is_spent(&error) {
                        self.discard(&live);
                    }
                    // A read that met a dead connection is made once more on a new one: nobody can tell the difference.
                    if purpose == Purpose::Write || broken || error.code().is_some() {
                        return Err(error::failed(&error, purpose));
                    }
                    broken = true;
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the slot moves between nodes"))
    }

    /// The connection, made anew where there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `DeadlineExceeded`; `HistoryLost` where the server has not what this handle acknowledged.
    /// Nothing was sent.
    pub async fn live(&self, deadline: Deadline) -> Result<Live> {
        if let Some(live) = self.known()? {
            return Ok(live);
        }
        let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before a connection was made");
        let connect = async {
            let _alone = self.connecting.lock().await;
            match self.known()? {
                Some(live) => Ok(live),
                None => self.connect().await,
            }
        };
        tokio::time::timeout_at(deadline.0.into(), connect).await.map_err(late)?
    }

    /// Takes a connection out of use, unless another has taken its place.
    pub fn discard(&self, live: &Live) {
        let mut state = self.state();
        if state.live.as_ref().is_some_and(|current| current.number == live.number) {
            state.live = None;
        }
    }

    fn known(&self) -> Result<Option<Live>> {
        let state = self.state();
        match &state.lost {
            Some(lost) => Err(lost.error()),
            None => Ok(state.live.clone()),
        }
    }

    async fn connect(&self) -> Result<Live> {
        for _ in 0..DETOURS_MAX {
            let node = self.state().node.clone();
            let connection = self.reach(node.as_deref()).await.inspect_err(|_| self.state().node = None)?;
            let (witness, keeps) = {
                let state = self.state();
                (state.witness.clone(), state.keeps_acknowledged)
            };
            match server::arrive(connection.clone(), &self.keys, self.partition, witness.as_ref(), keeps).await {
                Ok(server::Arrival::Ready) => {
                    let mut state = self.state();
                    state.connections += 1;
                    let live = Live { connection, number: state.connections };
                    state.live = Some(live.clone());
                    return Ok(live);
                }
                Ok(server::Arrival::Lost(lost)) => {
                    let error = lost.error();
                    self.state().lost = Some(lost);
                    return Err(error);
                }
                Err(error) => match error::detour(&error) {
                    Detour::Moved(node) | Detour::Asked(node) => self.state().node = Some(node),
                    Detour::Again | Detour::NoScript => tokio::time::sleep(PAUSE).await,
                    Detour::None => {
                        self.state().node = None;
                        return Err(match error::failed(&error, Purpose::Read) {
                            failed if error.code().is_some() => failed,
                            _ => error::unreachable(&error),
                        });
                    }
                },
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the slot moves between nodes"))
    }

    /// A connection to a node, or to whoever can be asked for it.
    async fn reach(&self, node: Option<&str>) -> Result<MultiplexedConnection> {
        match (&self.config.topology, node) {
            (Topology::Sentinel { primary }, _) => self.ask_sentinels(primary).await,
            (Topology::Cluster, Some(node)) => self.open(self.info_of(node)?).await,
            (Topology::Single | Topology::Cluster, _) => {
                let mut failed = None;
                for url in &self.config.urls {
                    match self.open(address::info(url)?).await {
                        Ok(connection) => return Ok(connection),
                        Err(error) => failed = Some(error),
                    }
                }
                Err(failed.unwrap_or_else(|| Error::new(ErrorKind::Invalid, "there is no url")))
            }
        }
    }

    async fn ask_sentinels(&self, primary: &str) -> Result<MultiplexedConnection> {
        let mut failed = Error::new(ErrorKind::Unavailable, "no sentinel knows the primary").with("primary", primary);
        for url in &self.config.urls {
            let sentinel = address::info(url)?;
            // Sentinels have no databases and, by default, no password; what the url says of both is for the primary.
            let plain = sentinel.clone().set_redis_settings(redis::RedisConnectionInfo::default());
            let mut asked = Cmd::new();
            asked.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(primary);
            let answer = match self.open(plain).await {
                Ok(connection) => send(connection, pipeline(&[Step::Command(asked)], false, false), 0, 1).await,
                Err(error) => {
                    failed = error;
                    continue;
                }
            };
            let node = match answer.as_deref() {
                Ok([Value::Array(parts)]) => parts.iter().filter_map(server::text).collect::<Vec<_>>().join(":"),
                Ok(_) => continue,
                Err(error) => {
                    failed = error::unreachable(error);
                    continue;
                }
            };
            match self.open(address::other(sentinel, &node)?).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// A connection for one call to a node that a slot is on its way to.
    async fn visit(&self, node: &str, deadline: Deadline) -> Result<Live> {
        let info = self.info_of(node)?;
        let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before a connection was made");
        let connection = tokio::time::timeout_at(deadline.0.into(), self.open(info)).await.map_err(late)??;
        Ok(Live { connection, number: 0 })
    }

    fn info_of(&self, node: &str) -> Result<ConnectionInfo> {
        let first = self.config.urls.first().map(String::as_str).unwrap_or_default();
        address::other(address::info(first)?, node)
    }

    async fn open(&self, info: ConnectionInfo) -> Result<MultiplexedConnection> {
        // Without a response timeout: its default of 500 ms would break off what has a later deadline.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(None);
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        // Also where a node is named by a sentinel or by another node.
        address::check_private(&info, &self.config)?;
        let client = self.client(info).map_err(|error| error::unreachable(&error))?;
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        connected.map_err(|error| error::unreachable(&error))
    }

    #[cfg(feature = "rustls")]
    fn client(&self, info: ConnectionInfo) -> redis::RedisResult<Client> {
        match (&self.config.authorities, info.addr()) {
            (Some(pem), redis::ConnectionAddr::TcpTls { .. }) => {
                let trusted = redis::TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                Client::build_with_tls(info, trusted)
            }
            _ => Client::open(info),
        }
    }

    #[cfg(not(feature = "rustls"))]
    fn client(&self, info: ConnectionInfo) -> redis::RedisResult<Client> {
        Client::open(info)
    }

    fn moved(&self, live: &Live, node: &str) {
        self.discard(live);
        self.state().node = Some(node.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pipeline(steps: &[Step<'_>], whole: bool, asking: bool) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(steps.len() + 1);
    if asking {
        pipeline.add_command(redis::cmd("ASKING"));
    }
    for step in steps {
        pipeline.add_command(match step {
            Step::Script(call) if whole => call.whole(),
            Step::Script(call) => call.by_hash(),
            Step::Command(command) => command.clone(),
        });
    }
    pipeline
}

async fn send(
    mut connection: MultiplexedConnection,
    pipeline: Pipeline,
    skipped: usize,
    count: usize,
) -> Result<Vec<Value>, RedisError> {
    let replies = connection.send_packed_commands(&pipeline, skipped, count).await?;
    replies.into_iter().map(Value::extract_error).collect()
}
