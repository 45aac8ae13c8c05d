//! The lines of a file, read and understood on a thread of their own while earlier ones are being stored.

use crate::failure::{Failure, Result};
use crate::files::Lines;
use crate::line::{self, Line};
use crate::progress::Progress;
use evstore_api::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Lines that wait at most.
const WAITING_MAX: usize = 1024;
/// How often, in lines, the progress bar moves.
const PROGRESS_LINES: u64 = 256;

/// A line with its number in the file.
#[derive(Debug)]
pub struct Numbered {
    /// From 1.
    pub number: u64,
    /// What it says.
    pub line: Line,
}

/// Lines as they come.
pub struct Incoming {
    file: String,
    read: Arc<AtomicU64>,
    progress: Progress,
    receiver: mpsc::Receiver<Result<Numbered>>,
    peeked: Option<Numbered>,
    lines: u64,
}

impl Incoming {
    /// Begins to read.
    #[must_use]
    pub fn start(lines: Lines, progress: Progress) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let (file, read) = (lines.name().to_owned(), lines.read());
        // A thread of its own rather than the runtime's: reading standard input can't be cut off, and must not hold up
        // the end of the process.
        std::thread::spawn(move || read_all(lines, &sender));
        Self { file, read, progress, receiver, peeked: None, lines: 0 }
    }

    /// The next line, which stays.
    ///
    /// # Errors
    /// When the file can't be read, or the line not understood.
    pub async fn peek(&mut self) -> Result<Option<&Numbered>> {
        if self.peeked.is_none() {
            self.peeked = self.receiver.recv().await.transpose()?;
        }
        Ok(self.peeked.as_ref())
    }

    /// The next line.
    ///
    /// # Errors
    /// When the file can't be read, or the line not understood.
    pub async fn next(&mut self) -> Result<Option<Numbered>> {
        self.peek().await?;
        if self.peeked.is_some() {
            self.lines += 1;
            if self.lines.is_multiple_of(PROGRESS_LINES) {
                self.progress.at(self.read.load(Ordering::Relaxed));
            }
        }
        Ok(self.peeked.take())
    }

    /// What is done with the lines, for whoever watches.
    pub fn doing(&self, doing: &'static str) {
        self.progress.doing(doing);
    }

    /// Lets go of the file and gives what showed its progress.
    #[must_use]
    pub fn into_progress(self) -> Progress {
        self.progress
    }

    /// Whether there is a line without waiting for the file.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.peeked.is_some() || !self.receiver.is_empty()
    }

    /// Lines that were taken.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Adds to an error where in the file it is about.
    #[must_use]
    pub fn at(&self, error: Error, line: u64) -> Error {
        error.with("file", &self.file).with("line", line)
    }

    /// The name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

fn read_all(mut lines: Lines, sender: &mpsc::Sender<Result<Numbered>>) {
    loop {
        let next = lines.next().map(|line| {
            line.map(|line| match line::parse(&line.text) {
                Ok(parsed) => Ok(Numbered { number: line.number, line: parsed }),
                Err(error) => Err(Failure::from(error.with("file", lines.name()).with("line", line.number))),
            })
        });
        let message = match next {
            Ok(None) => return,
            Ok(Some(message)) => message,
            Err(failure) => Err(failure),
        };
        let failed = message.is_err();
        // Whoever reads has left: the import has failed already.
        if sender.blocking_send(message).is_err() || failed {
            return;
        }
    }
}
