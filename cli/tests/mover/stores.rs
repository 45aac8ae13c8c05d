//! The stores that systems are moved between: a file, or a server of the test's own that can be killed and started again, with a way
//! to it for nodes and one for the migrator.

use crate::process::{self, Process};
use crate::proxy::{MARK, Marks, Proxy};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[path = "../../../provider-postgres/tests/support/cluster.rs"]
#[allow(dead_code, reason = "each test uses its part")]
pub mod cluster;

use cluster::Cluster;

/// Longest time until a server answers.
const READY_MAX: Duration = Duration::from_secs(60);
/// Among how many of a stream's last commits a DynamoDB store of a test recognises one that is sent again: the most there can be.
const WINDOW: u64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a test must be told, by `cargo xtask test`.
fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `cargo xtask test` fetches a server and sets it"))
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server that syncs what it acknowledges.
    Postgres,
    /// The same.
    Redis,
    /// The one that all tests share, with a feed in each append's transaction.
    DynamoDb,
    /// The same, with a feed that comes about behind the appends: its streams are sealed one by one.
    DynamoDbSequencer,
    /// The same.
    S3,
    /// A file, and an archive in a folder behind it.
    Tiered,
}

impl Kind {
    /// All of them that this build can start.
    pub const ALL: &[Self] = if cfg!(feature = "engine-tests") {
        &[Self::Sqlite, Self::Postgres, Self::Redis, Self::DynamoDb, Self::DynamoDbSequencer, Self::S3, Self::Tiered]
    } else {
        &[Self::Sqlite]
    };

    /// The name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::DynamoDb => "dynamodb",
            Self::DynamoDbSequencer => "dynamodb_sequencer",
            Self::S3 => "s3",
            Self::Tiered => "tiered",
        }
    }
}

/// A store.
pub struct Place {
    /// Its name in configs.
    pub name: &'static str,
    /// Where it runs.
    pub engine: Engine,
    /// The way of nodes to it; none to a file.
    nodes: Option<Proxy>,
    /// The way of the migrator to it.
    operator: Option<Proxy>,
}

/// Where a store runs.
pub enum Engine {
    /// A file in the system's folder.
    File,
    /// The same, and a folder beside it.
    FileAndFolder,
    /// A cluster.
    Postgres(Cluster),
    /// A server.
    Redis(Redis),
    /// Tables, or objects, of its own in a server of all tests.
    Shared {
        /// Where that listens.
        port: u16,
        /// Its keys in a config, but for the address.
        keys: String,
    },
}

impl Engine {
    /// A place of its own in the server that a variable names. `keys` end with the one that tells places apart.
    fn shared(variable: &str, provider: &str, keys: &str, name: &str) -> Self {
        let url = told(variable);
        let port = url.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse().ok()).unwrap();
        let keys = format!(
            "provider = \"{}\"\naccess_key_id = \"AKIDEVSTORETEST\"\nsecret_access_key = \"not-looked-at\"\n\
             {keys} = \"moved-{}-{name}\"\n",
            provider,
            std::process::id()
        );
        Self::Shared { port, keys }
    }
}

impl Place {
    /// A store that is there and empty.
    pub fn new(name: &'static str, kind: Kind) -> Self {
        let engine = match kind {
            Kind::Sqlite => Engine::File,
            Kind::Tiered => Engine::FileAndFolder,
            Kind::Postgres => Engine::Postgres(Cluster::new()),
            Kind::Redis => Engine::Redis(Redis::new()),
            Kind::DynamoDb | Kind::DynamoDbSequencer => {
                let feed = if kind == Kind::DynamoDb { "transactional" } else { "sequencer" };
                let keys = format!("region = \"local\"\nfeed = \"{feed}\"\nidempotency_commits = {WINDOW}\ntable");
                Engine::shared("EVSTORE_TEST_DYNAMODB_URL", "dynamodb", &keys, name)
            }
            Kind::S3 => {
                let keys = "region = \"us-east-1\"\nbucket = \"evstore-test\"\nprefix";
                Engine::shared("EVSTORE_TEST_S3_URL", "s3", keys, name)
            }
        };
        let mut place = Self { name, engine, nodes: None, operator: None };
        place.nodes = place.port().map(|port| Proxy::to(port, place.marks()));
        place.operator = place.port().map(|port| Proxy::to(port, place.marks()));
        place
    }

    /// What an append to it is recognised by on its way. What DynamoDB stores is not readable there: a commit is what is put into the table itself.
    fn marks(&self) -> Marks {
        if self.is_dynamodb() {
            vec!["DynamoDB_20120810.PutItem".to_owned(), format!("\"moved-{}-{}\"", std::process::id(), self.name)]
        } else {
            vec![MARK.to_owned()]
        }
    }

    /// The process of its server, where it has one of its own.
    pub fn process(&self) -> Option<u32> {
        match &self.engine {
            Engine::File | Engine::FileAndFolder | Engine::Shared { .. } => None,
            Engine::Postgres(cluster) => cluster.process(),
            Engine::Redis(server) => server.process.as_ref().map(Process::id),
        }
    }

    fn port(&self) -> Option<u16> {
        match &self.engine {
            Engine::File | Engine::FileAndFolder => None,
            Engine::Postgres(cluster) => Some(cluster.port()),
            Engine::Redis(server) => Some(server.port),
            Engine::Shared { port, .. } => Some(*port),
        }
    }

    /// Among how many of a stream's last commits it recognises one that is sent again; none where it always does.
    pub fn window(&self) -> Option<u64> {
        self.is_dynamodb().then_some(WINDOW)
    }

    fn is_dynamodb(&self) -> bool {
        matches!(&self.engine, Engine::Shared { keys, .. } if keys.contains("\"dynamodb\""))
    }

    /// Whether its streams are sealed one by one, because its feed comes about behind the appends.
    pub fn is_sealed(&self) -> bool {
        matches!(&self.engine, Engine::Shared { keys, .. } if keys.contains("\"sequencer\""))
    }

    /// Whether it has an archive.
    pub fn has_archive(&self) -> bool {
        matches!(self.engine, Engine::FileAndFolder)
    }

    /// The way of nodes to it.
    pub fn nodes(&self) -> &Proxy {
        self.nodes.as_ref().expect("a file has no way that could be changed")
    }

    /// The way of the migrator to it; a file has none.
    pub fn operator(&self) -> Option<&Proxy> {
        self.operator.as_ref()
    }

    /// Leads both ways to another server.
    pub fn lead_to(&self, port: u16) {
        [&self.nodes, &self.operator].into_iter().flatten().for_each(|way| way.lead_to(port));
    }

    /// Its table in the config of nodes.
    pub fn table_of_nodes(&self) -> String {
        // A server that is killed is away for seconds: nodes that are to ride through that are told to wait for it.
        format!("{}retries_max = 10000\nretry_pause_max = \"200ms\"\n", self.table(self.nodes.as_ref()))
    }

    /// Its table in the config of the migrator.
    pub fn table_of_operator(&self) -> String {
        self.table(self.operator.as_ref())
    }

    fn table(&self, way: Option<&Proxy>) -> String {
        let name = self.name;
        let file = format!("provider = \"sqlite\"\npath = \"{name}.db\"\n");
        let address = match (&self.engine, way) {
            (Engine::FileAndFolder, _) => {
                let tiered =
                    format!("provider = \"tiered\"\nhot = \"{name}-front\"\narchive = \"file:./{name}-archive\"\n");
                return format!("[stores.{name}-front]\n{file}[stores.{name}]\n{tiered}");
            }
            (Engine::File, _) | (_, None) => file,
            (Engine::Postgres(_), Some(way)) => format!(
                "provider = \"postgres\"\nurl = \"postgres://postgres@127.0.0.1:{}/postgres\"\nauto_create = true\n",
                way.port
            ),
            (Engine::Redis(_), Some(way)) => {
                format!("provider = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\nauto_create = true\n", way.port)
            }
            (Engine::Shared { keys, .. }, Some(way)) => {
                format!("endpoint = \"http://127.0.0.1:{}\"\n{keys}auto_create = true\n", way.port)
            }
        };
        format!("[stores.{name}]\n{address}")
    }

    /// Kills its server as a crash would, and starts it again.
    pub fn crash(&mut self) {
        match &mut self.engine {
            Engine::File | Engine::FileAndFolder | Engine::Shared { .. } => panic!("it has no server of its own"),
            Engine::Postgres(cluster) => {
                cluster.kill();
                cluster.start();
            }
            Engine::Redis(server) => {
                server.kill();
                server.start();
            }
        }
    }

    /// The server, where it is a Redis.
    pub fn redis(&self) -> &Redis {
        match &self.engine {
            Engine::Redis(server) => server,
            Engine::File | Engine::FileAndFolder | Engine::Postgres(_) | Engine::Shared { .. } => {
                panic!("{} is no Redis", self.name)
            }
        }
    }

    /// The server, where it is a Postgres.
    pub fn postgres(&mut self) -> &mut Cluster {
        match &mut self.engine {
            Engine::Postgres(cluster) => cluster,
            Engine::File | Engine::FileAndFolder | Engine::Redis(_) | Engine::Shared { .. } => {
                panic!("{} is no Postgres", self.name)
            }
        }
    }
}

/// A server that syncs what it acknowledges.
pub struct Redis {
    port: u16,
    process: Option<Process>,
    // Last, so that nothing runs any more when it is removed.
    folder: TempDir,
}

impl Redis {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, folder: tempfile::tempdir().unwrap(), process: None };
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = process::command(told("EVSTORE_TEST_REDIS_SERVER"));
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.process = Some(Process::start(&mut command, "a Redis server"));
        let started = Instant::now();
        // It answers before it has read what it holds.
        while !self.try_run("PING").is_some_and(|answer| answer.starts_with("+PONG")) {
            assert!(started.elapsed() < READY_MAX, "a Redis server is not ready");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn try_run(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(READY_MAX)).ok()?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Runs a command, which is a line of words.
    pub fn run(&self, command: &str) -> String {
        self.try_run(command).unwrap()
    }
}
