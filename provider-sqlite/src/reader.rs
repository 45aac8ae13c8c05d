//! Reading beside the writer: a few threads, each with a connection of its own, so that no read waits for a commit.

use crate::codec;
use crate::error::Result as Worked;
use crate::schema::{self, Use};
use crate::writer::execute;
use evstore_api::{Deadline, Error, ErrorKind, Result, StreamId};
use evstore_kit::group_commit::{Bounds, Job, Queue};
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Reads that wait at most, each counted as one KiB.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Names of streams that one reader remembers; beyond it forgets all.
const NAMES_MAX: usize = 16_384;
/// Longest wait for the moment in which another process recovers the WAL.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Hands reads to the reader threads.
#[derive(Debug)]
pub struct Readers {
    queue: Arc<Queue<Box<dyn Read>>>,
    /// Closed once the last thread has ended.
    ended: watch::Receiver<()>,
}

impl Readers {
    /// Starts the threads. Each opens the file with its first read.
    ///
    /// # Errors
    /// `Unavailable` when there is no thread to be had.
    pub fn start(path: &Path, threads: usize) -> Result<Self> {
        let bounds = Bounds { queue_bytes_max: QUEUE_BYTES_MAX, batch_jobs_max: 1, batch_bytes_max: usize::MAX };
        let queue = Arc::new(Queue::new(bounds));
        let (end, ended) = watch::channel(());
        for _ in 0..threads {
            let (queue, path, end) = (queue.clone(), path.to_owned(), end.clone());
            let run = move || {
                let _end = end;
                read_all(&queue, &path);
            };
            let started = thread::Builder::new().name("evstore-sqlite-reader".into()).spawn(run);
            started.map_err(|cause| Error::new(ErrorKind::Unavailable, "no thread for a reader").caused_by(cause))?;
        }
        Ok(Self { queue, ended })
    }

    /// Runs `read` in one read transaction: all its statements see the same moment.
    ///
    /// # Errors
    /// What `read` says; `DeadlineExceeded`, `Unavailable` and `Closed`.
    pub async fn run<R, F>(&self, deadline: Deadline, read: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Reader) -> Worked<R> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        self.queue.submit(Box::new(Call { deadline, read, caller }), 0).await?;
        let gone = |_| Err(Error::new(ErrorKind::Unavailable, "a reader ended without an answer"));
        answer.await.unwrap_or_else(gone)
    }

    /// Answers what waits, then ends the threads.
    pub async fn close(&self) {
        self.queue.close();
        // An error is what says that every thread has let go of its end.
        let _ = self.ended.clone().changed().await;
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn read_all(queue: &Queue<Box<dyn Read>>, path: &PathBuf) {
    let mut reader = None;
    while let Some(batch) = queue.take_batch() {
        for read in batch {
            match reader.take().map_or_else(|| Reader::open(path), Ok) {
                Ok(mut open) => {
                    read.read(&mut open);
                    // A connection whose transaction could not be ended is not used again.
                    reader = open.connection.is_autocommit().then_some(open);
                }
                Err(error) => read.refuse(error),
            }
        }
    }
}

/// One connection that reads, and what it remembers.
pub struct Reader {
    /// The connection, with its cache of statements.
    pub connection: Connection,
    /// Names of streams.
    pub names: Names,
}

/// Names of streams by their keys, which never change.
#[derive(Default)]
pub struct Names(HashMap<i64, StreamId>);

impl Names {
    /// The stream with a key.
    pub fn of(&mut self, connection: &Connection, key: i64) -> Worked<StreamId> {
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let mut select = connection.prepare_cached("SELECT namespace, name FROM streams WHERE key = ?1")?;
        let mut rows = select.query([key])?;
        let row = rows.next()?.ok_or_else(|| codec::corrupt("a commit's stream is missing"))?;
        let id = codec::stream_id(row, 0, 1)?;
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(key, id.clone());
        Ok(id)
    }
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self { connection: schema::connect(path, Use::Read)?, names: Names::default() })
    }

    fn transact<R>(&mut self, deadline: Deadline, read: impl FnOnce(&mut Self) -> Worked<R>) -> Result<R> {
        let run = || -> Worked<R> {
            self.connection.busy_timeout(deadline.remaining().min(LOCK_WAIT_MAX))?;
            execute(&self.connection, "BEGIN")?;
            let done = read(self);
            let ended = execute(&self.connection, "COMMIT");
            let answer = done?;
            ended?;
            Ok(answer)
        };
        run().map_err(Error::from)
    }
}

/// A read on its way to a thread.
trait Read: Send {
    fn deadline(&self) -> Deadline;
    fn is_abandoned(&self) -> bool;
    fn read(self: Box<Self>, reader: &mut Reader);
    fn refuse(self: Box<Self>, error: Error);
}

impl Job for Box<dyn Read> {
    fn deadline(&self) -> Deadline {
        (**self).deadline()
    }

    fn is_abandoned(&self) -> bool {
        (**self).is_abandoned()
    }

    fn refuse(self, error: Error) {
        self.refuse(error);
    }
}

struct Call<R, F> {
    deadline: Deadline,
    read: F,
    caller: oneshot::Sender<Result<R>>,
}

impl<R, F> Read for Call<R, F>
where
    R: Send,
    F: FnOnce(&mut Reader) -> Worked<R> + Send,
{
    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn read(self: Box<Self>, reader: &mut Reader) {
        // Nobody may be there any more, and then nothing is lost.
        let _ = self.caller.send(reader.transact(self.deadline, self.read));
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.caller.send(Err(error));
    }
}
