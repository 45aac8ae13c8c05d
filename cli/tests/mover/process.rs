//! Processes of a system. Each ends with the test that started it, however that ends, and every wait for one has an end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Longest that anything may take that has to happen. With a load of the full size everything takes longer.
pub fn patience() -> Duration {
    Duration::from_secs(if is_full() { 900 } else { 180 })
}

/// Whether the full load was asked for, and not that of every change.
pub fn is_full() -> bool {
    std::env::var_os(crate::matrix::KILLS).is_some()
}

/// A command whose process is killed by the kernel when the thread that starts it is gone. A test that is aborted drops nothing, and
/// its processes would go on for ever.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    if cfg!(target_os = "linux") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// A process that was started.
pub struct Process {
    child: Child,
    /// What it is, for messages.
    what: String,
}

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command, what: impl Into<String>) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        Self { child, what: what.into() }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it reads, once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Whether it goes on.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Stops it without ending it, or lets it go on.
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").arg(signal).arg(self.id().to_string()).status().unwrap().success());
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < patience(), "{} does not end", self.what);
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Process {
    /// Kills it.
    fn drop(&mut self) {
        // It may have ended; there is nothing more to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command prints and ends with.
pub fn output(command: &mut Command) -> Output {
    // Into files: a process stops at a pipe that is full while its end is waited for.
    let [mut out, mut errors]: [File; 2] = std::array::from_fn(|_| tempfile::tempfile().unwrap());
    let copies = [&out, &errors].map(|file| Stdio::from(file.try_clone().unwrap()));
    let [to_out, to_errors] = copies;
    let what = format!("{command:?}");
    let status = Process::start(command.stdout(to_out).stderr(to_errors), what).wait();
    let [stdout, stderr] = [&mut out, &mut errors].map(|file| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    });
    Output { status, stdout, stderr }
}
