//! A cluster that a test owns, so that it can be killed, copied and promoted. Its programs lie where `EVSTORE_TEST_POSTGRES_BIN`
//! says. Stopped, and its folder removed, when dropped.

use super::told;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time until a server answers, or has caught up.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct Cluster {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Cluster {
    /// A new one, running.
    pub fn new() -> Self {
        let mut cluster = Self::empty();
        run(cluster
            .program("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(cluster.data()));
        cluster.start();
        cluster
    }

    /// A standby that follows this one, running.
    pub fn standby(&self) -> Self {
        let mut standby = Self::empty();
        run(standby
            .program("pg_basebackup")
            .args(["--checkpoint=fast", "--no-sync", "-R", "-X", "stream", "-d", &self.url(), "-D"])
            .arg(standby.data()));
        standby.start();
        standby
    }

    fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("evstore-cluster-").tempdir().unwrap();
        if is_root() {
            run(Command::new("chown").arg("nobody").arg(folder.path()));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder, port, process: None }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process of its server, while that runs.
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// One of the cluster's programs, run by somebody who is not root.
    fn program(&self, name: &str) -> Command {
        let program = Path::new(&told("EVSTORE_TEST_POSTGRES_BIN")).join(name);
        let mut command = if cfg!(target_os = "linux") {
            // It ends with the test that started it, also with one that is aborted and drops nothing. A server that is told to quit
            // takes its children along.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "QUIT"]);
            if is_root() {
                command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            }
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        command
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        let started = Instant::now();
        loop {
            let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
            let mut server = self.program("postgres");
            server.arg("-D").arg(self.data()).args([
                "-p",
                &self.port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
            ]);
            server.arg(format!("unix_socket_directories={}", self.folder.path().display()));
            let mut child = server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
            loop {
                let mut ask = self.program("pg_isready");
                let answer = ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status().unwrap();
                if answer.success() {
                    self.process = Some(child);
                    return;
                }
                assert!(started.elapsed() < READY_MAX, "{}", self.log());
                // After a kill the memory of the one before is not free at once.
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it as a power cut would, as far as a process can.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        run(self.program("pg_ctl").args(["promote", "-w", "-D"]).arg(self.data()));
    }

    /// What `pg_dump` gives of a schema.
    pub fn dump(&self, schema: &str) -> String {
        let dump = self.program("pg_dump").args(["-d", &self.url(), "-n", schema]).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        String::from_utf8(dump.stdout).unwrap()
    }

    /// Runs a script as psql does.
    pub fn psql(&self, script: &str) -> String {
        let path = self.folder.path().join("script.sql");
        std::fs::write(&path, script).unwrap();
        let mut psql = self.program("psql");
        let psql = psql
            .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-f"])
            .arg(path)
            .output()
            .unwrap();
        assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
        String::from_utf8(psql.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a standby has all that this one wrote.
    pub fn wait_for(&self, standby: &Self) {
        let end = self.psql("SELECT pg_current_wal_flush_lsn()");
        let started = Instant::now();
        while standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) != "t" {
            assert!(started.elapsed() < READY_MAX, "{}", standby.log());
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Asked to stop at once, it takes its children along.
            let _ = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
            let _ = process.wait();
        }
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
