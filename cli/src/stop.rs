//! Stopping a command from outside: Ctrl-C, and the signal with which a supervisor ends a process. And what is known of
//! its writes by then, which is what it has to say.

use crate::exit;
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use evstore_api::CommitId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a command may take to hear that it is to stop: one that waits for a terminal or a full pipe never does.
const HEARD_MAX: Duration = Duration::from_secs(1);

/// What is known of the writes of a run; every clone is the same one.
#[derive(Clone, Default)]
pub struct Outcome(Arc<Mutex<Writes>>);

#[derive(Clone, Copy, Default)]
struct Writes {
    under_way: Option<CommitId>,
    /// Something was acknowledged; the id is none where it was no commit.
    written: Option<Option<CommitId>>,
}

impl Outcome {
    fn with<T>(&self, change: impl FnOnce(&mut Writes) -> T) -> T {
        // Two plain values: a panic between them leaves nothing half done.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A commit is on its way.
    pub fn begins(&self, commit: CommitId) {
        self.with(|writes| writes.under_way = Some(commit));
    }

    /// Its outcome is known.
    pub fn ended(&self) {
        self.with(|writes| writes.under_way = None);
    }

    /// Something was acknowledged.
    pub fn written(&self, commit: Option<CommitId>) {
        self.with(|writes| writes.written = Some(commit));
    }

    /// A failure as it has to be told: one of the output does not undo what was written before it.
    #[must_use]
    pub fn told(&self, failure: Failure) -> Failure {
        match (failure, self.with(|writes| writes.written)) {
            (Failure::Io { doing, cause }, Some(commit)) => Failure::Untold { doing, cause, commit },
            (failure, _) => failure,
        }
    }

    /// How an interrupted command ends.
    #[must_use]
    pub fn interrupted(&self) -> Failure {
        let commit = self.with(|writes| writes.under_way.or(writes.written.flatten()));
        let hint = match commit {
            Some(commit) => {
                format!("it may have been written: repeat the same command with --commit {commit} to find out")
            }
            None => "what was acknowledged is there; the same command can be run again".into(),
        };
        Failure::Interrupted { commit, hint }
    }
}

/// Whether the command is to stop.
pub struct Stop {
    asked: Arc<Semaphore>,
    heard: Arc<Semaphore>,
}

impl Stop {
    /// Waits until it is.
    pub async fn asked(&self) {
        // Never closed: there is nothing to be told about it.
        let _ = self.asked.acquire().await;
        self.heard.add_permits(1);
    }
}

/// Listens from now on. A command that does not hear is ended from here, and so is one that is asked twice: nothing
/// acknowledged is lost by it.
///
/// # Errors
/// When the system gives no signals.
pub fn watch(format: Format, outcome: Outcome) -> Result<Stop> {
    let mut signals = Signals::new().map_err(|cause| Failure::io("signals can't be listened to", cause))?;
    let (asked, heard) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let stop = Stop { asked: asked.clone(), heard: heard.clone() };
    tokio::spawn(async move {
        signals.next().await;
        asked.add_permits(1);
        tokio::select! {
            () = signals.next() => {}
            () = unheard(&heard) => {}
        }
        let failure = outcome.interrupted();
        output::failure(format, &failure);
        std::process::exit(i32::from(exit::of(&failure) as u8));
    });
    Ok(stop)
}

/// Ends when the command has not heard in time.
async fn unheard(heard: &Semaphore) {
    if let Ok(Ok(_)) = tokio::time::timeout(HEARD_MAX, heard.acquire()).await {
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
