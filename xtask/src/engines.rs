//! Throwaway engines for tests: fetched through the ordinary package clients, pinned and with their hashes checked, started on a
//! free loopback port in a folder of their own, and stopped when the value is dropped. What can't be had is an error that says
//! what to install, never a skip.

pub mod chromium;
pub mod dynamodb;
pub mod faketime;
pub mod fetch;
pub mod pgbouncer;
pub mod postgres;
pub mod redis;
pub mod s3;

use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time from the start of a server until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest time that a server may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Time between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server that runs as a direct child, in the foreground, so that it can be killed and waited for.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    has_children: bool,
}

impl Server {
    /// Starts a server and waits until it is ready. Its words go to `server.log` in its folder.
    ///
    /// # Errors
    /// When it can't be started, ends, or is not ready in time; with the end of its log.
    pub fn start(name: &'static str, command: &mut Command, folder: &Path, ready: impl Fn() -> bool) -> Result<Self> {
        let path = folder.join("server.log");
        let log = std::fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{name}: {command:?} could not be started"))?;
        let mut server = Self { name, child, has_children: false };
        let started = Instant::now();
        while !ready() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended before it was ready ({status}):\n{}", end_of(&path));
            }
            if started.elapsed() > START_MAX {
                bail!("{name} was not ready within {} s:\n{}", START_MAX.as_secs(), end_of(&path));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    /// The same for one that has processes of its own, and ends them when it is asked to quit.
    #[must_use]
    pub fn with_children(mut self) -> Self {
        self.has_children = true;
        self
    }

    fn ask_to_quit(&mut self) {
        let asked = crate::run::output(Command::new("kill").args(["-QUIT", &self.child.id().to_string()]));
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < STOP_MAX && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.has_children {
            self.ask_to_quit();
        }
        // Waited for: a dead child that nobody waited for keeps its place, and some engines then refuse to start again.
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            println!("{} could not be stopped: {error}", self.name);
        }
    }
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A port that nothing listens on just now.
///
/// # Errors
/// When the machine has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("a free port")?.local_addr()?.port())
}

/// A command that does not run as root: several engines refuse to. Anyone else stays who they are.
#[must_use]
pub fn unprivileged(program: &Path, home: &Path) -> Command {
    if !is_root() {
        let mut command = Command::new(program);
        command.env("HOME", home);
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program).env("HOME", home);
    command
}

/// Gives a folder to whom [`unprivileged`] commands run as.
///
/// # Errors
/// When that is not possible.
pub fn hand_over(folder: &Path) -> Result<()> {
    if is_root() {
        crate::run::output(Command::new("chown").arg("nobody").arg(folder))?;
    }
    Ok(())
}

fn is_root() -> bool {
    crate::run::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
