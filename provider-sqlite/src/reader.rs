//! Reading beside the writer: a few connections, so that no read waits for a commit, each used by one call at a time on
//! a thread that may block.

use crate::codec;
use crate::config::Config;
use crate::error::Result as Worked;
use crate::place::Place;
use crate::schema::{self, Use};
use crate::writer::execute;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Meta, Result, StreamId, format};
use evstore_kit::refusal;
use rusqlite::{CachedStatement, Connection};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

/// Names of streams that one reader remembers; beyond it forgets all. Some 100 bytes each.
const NAMES_MAX: usize = 131_072;
/// Steps of SQLite's machine between two looks at the deadline: some ten microseconds.
const LOOK_STEPS: i32 = 1_000;
/// Longest wait for the moment in which another process recovers the WAL.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// The connections for reading.
#[derive(Debug)]
pub struct Readers {
    place: Place,
    /// One permit for each connection that may be in use at a time; callers wait for them in order.
    permits: Arc<Semaphore>,
    permits_max: u32,
    /// Connections that rest. The one used last is used next: its cache is the warmest.
    resting: Arc<Mutex<Vec<Reader>>>,
}

impl Readers {
    /// Opens nothing yet: each connection is made by the first read that needs it.
    pub fn new(config: &Config, place: Place) -> Self {
        Self {
            place,
            permits: Arc::new(Semaphore::new(config.readers_max as usize)),
            permits_max: config.readers_max,
            resting: Arc::default(),
        }
    }

    /// Runs `read` in one read transaction: all its statements see the same moment.
    ///
    /// # Errors
    /// What `read` says; `DeadlineExceeded`, `Unavailable` and `Closed`.
    ///
    /// # Cancel safety
    /// A read that has begun runs to its end; nobody gets its answer.
    pub async fn run<R, F>(&self, deadline: Deadline, read: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Reader) -> Worked<R> + Send + 'static,
    {
        self.within(deadline, move |reader| reader.transact(deadline, read)).await
    }

    /// Reads the store's record, also that of a store whose other content this release does not understand.
    ///
    /// # Errors
    /// As [`Readers::run`].
    pub async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        self.within(deadline, |reader| schema::read_meta(&reader.connection)).await
    }

    async fn within<R, F>(&self, deadline: Deadline, read: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Reader) -> Result<R> + Send + 'static,
    {
        refusal::check_deadline(deadline)?;
        // Also bounds the wait for a thread, of which the application may have taken all.
        let passed = |_| Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the store was read"));
        timeout_at(deadline.0.into(), self.on_a_thread(deadline, read)).await.unwrap_or_else(passed)
    }

    async fn on_a_thread<R, F>(&self, deadline: Deadline, read: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Reader) -> Result<R> + Send + 'static,
    {
        let permit = self.permit(deadline).await?;
        let (place, resting) = (self.place.clone(), self.resting.clone());
        let run = move || {
            refusal::check_deadline(deadline)?;
            place.check()?;
            let rested = lock(&resting).pop();
            let mut reader = rested.map_or_else(|| Reader::open(&place), Ok)?;
            let answer = read(&mut reader);
            // A connection whose transaction could not be ended is not used again.
            if reader.connection.is_autocommit() {
                lock(&resting).push(reader);
            }
            drop(permit);
            answer
        };
        let gone = |cause| Err(Error::new(ErrorKind::Unavailable, "a reader ended without an answer").caused_by(cause));
        tokio::task::spawn_blocking(run).await.unwrap_or_else(gone)
    }

    async fn permit(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit> {
        match timeout_at(deadline.0.into(), self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(refusal::closed()),
            Err(_) => {
                Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the read waited its turn"))
            }
        }
    }

    /// Waits for the reads that run, refuses all others, and lets go of the connections.
    pub async fn close(&self) {
        // An error means that another call has closed it.
        if let Ok(all) = self.permits.acquire_many(self.permits_max).await {
            self.permits.close();
            drop(all);
        }
        lock(&self.resting).clear();
    }
}

fn lock(resting: &Mutex<Vec<Reader>>) -> std::sync::MutexGuard<'_, Vec<Reader>> {
    resting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection that reads, and what it remembers.
#[derive(Debug)]
pub struct Reader {
    /// The connection, with its cache of statements.
    pub connection: Connection,
    /// Names of streams.
    pub names: Names,
    /// The store's record that was last found to be readable.
    readable: Vec<u8>,
}

/// Names of streams by their keys, which never change.
#[derive(Debug, Default)]
pub struct Names(HashMap<i64, StreamId>);

impl Names {
    /// What [`Names::of`] looks a name up with, prepared once for a page.
    pub fn select(connection: &Connection) -> Worked<CachedStatement<'_>> {
        Ok(connection.prepare_cached("SELECT namespace, name FROM streams WHERE key = ?1")?)
    }

    /// The stream with a key.
    pub fn of(&mut self, select: &mut CachedStatement<'_>, key: i64) -> Worked<StreamId> {
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
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
    fn open(place: &Place) -> Result<Self> {
        Ok(Self { connection: place.connect(Use::Read)?, names: Names::default(), readable: Vec::new() })
    }

    fn transact<R>(&mut self, deadline: Deadline, read: impl FnOnce(&mut Self) -> Worked<R>) -> Result<R> {
        let run = || -> Worked<R> {
            self.connection.busy_timeout(deadline.remaining().min(LOCK_WAIT_MAX))?;
            self.connection.progress_handler(LOOK_STEPS, Some(move || deadline.has_passed()))?;
            execute(&self.connection, "BEGIN")?;
            let done = self.check_format().and_then(|()| read(self));
            self.connection.progress_handler(0, None::<fn() -> bool>)?;
            let ended = execute(&self.connection, "COMMIT");
            let answer = done?;
            ended?;
            Ok(answer)
        };
        run().map_err(Error::from)
    }

    /// Refuses to read what only newer releases understand. Inside the transaction: a newer one may have been here.
    fn check_format(&mut self) -> Worked<()> {
        let mut select = self.connection.prepare_cached("SELECT meta FROM store WHERE id = 1")?;
        let mut rows = select.query([])?;
        let missing = || Error::new(ErrorKind::Schema, "the store's record is missing");
        let row = rows.next()?.ok_or_else(missing)?;
        let encoded = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        if encoded != self.readable {
            format::decode_meta(&Bytes::copy_from_slice(encoded))?.format.check_read()?;
            self.readable = encoded.to_vec();
        }
        Ok(())
    }
}
