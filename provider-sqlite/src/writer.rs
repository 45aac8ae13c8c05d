//! The one writer of an open store: a thread that turns what waits into one transaction, one COMMIT, one fsync.

use crate::append::Frequent;
use crate::codec;
use crate::config::Config;
use crate::error::{self, Result as Worked, Stop};
use crate::place::Place;
use crate::schema::Use;
use bytes::Bytes;
use evstore_api::{
    Clock, Deadline, Error, ErrorKind, Meta, Position, Result, StoreName, Timestamp, format, number::NUMBER_MAX,
};
use evstore_kit::group_commit::{Bounds, Job, Queue, keep_begun};
use evstore_kit::refusal;
use rusqlite::{CachedStatement, Connection, Statement};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout_at;

/// Appends of one batch at most: beyond it the share of an fsync is small against their own work.
const BATCH_JOBS_MAX: usize = 512;
/// Bytes of one batch at most, so that it fits the page cache.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Pauses between two tries for the lock that another process holds, rising from the first to the last.
const LOCK_PAUSE_MIN: Duration = Duration::from_micros(200);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(5);
/// How long readers may keep the WAL from being moved into the file after a failed commit.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// How long one try to empty the WAL of what was erased waits for readers, which may be in the middle of a page.
const WIPE_WAIT: Duration = Duration::from_millis(100);
/// How long after a try that met a reader the next one is made.
const WIPE_PAUSE: Duration = Duration::from_secs(1);

/// Hands work to the writer thread.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue<Box<dyn Work>>>,
    /// Closed once the thread has ended.
    ended: watch::Receiver<()>,
    /// The last position that this writer committed.
    committed: watch::Receiver<u64>,
}

impl Writer {
    /// Starts the thread. The file is opened by it, with the first batch.
    ///
    /// # Errors
    /// `Unavailable` when there is no thread to be had.
    pub fn start(config: &Config, place: Place, clock: Arc<dyn Clock>) -> Result<Self> {
        let bounds = Bounds {
            queue_bytes_max: config.queue_bytes_max,
            batch_jobs_max: BATCH_JOBS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
        };
        let queue = Arc::new(Queue::new(bounds));
        let (end, ended) = watch::channel(());
        let (announce, committed) = watch::channel(0);
        let file = File { place, open: None, trust: Trust::NotSynced };
        let thread = Thread { queue: queue.clone(), own: config.own.clone(), clock, announce, file };
        let run = move || {
            let _end = end;
            thread.run();
        };
        let started = thread::Builder::new().name("evstore-sqlite-writer".into()).spawn(run);
        started.map_err(|cause| Error::new(ErrorKind::Unavailable, "no thread for the writer").caused_by(cause))?;
        Ok(Self { queue, ended, committed })
    }

    /// Runs `work` inside the next transaction and answers once it is durable. `bytes` is what it holds in memory.
    ///
    /// `work` reaches its verdict before it writes: a verdict that refuses leaves nothing behind. It may run twice, when a
    /// neighbour in its batch fails.
    ///
    /// # Errors
    /// What `work` says; `DeadlineExceeded`, `Unavailable` and `Closed` with nothing written; `Indeterminate` when COMMIT
    /// failed, or the deadline passed once `work` had begun.
    pub async fn run<R, F>(&self, deadline: Deadline, bytes: usize, work: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnMut(&mut Transaction<'_>) -> Worked<R> + Send + 'static,
    {
        let (caller, mut answer) = oneshot::channel();
        let turn = Arc::new(Turn::default());
        let call = Call { deadline, work, verdict: None, caller, turn: turn.clone() };
        self.queue.submit(Box::new(call), bytes).await?;
        let gone = |_| Err(Error::new(ErrorKind::Indeterminate, "the store's writer ended without an answer"));
        if let Some(answered) = look(&mut answer, self.queue.patience()).await {
            return answered;
        }
        if let Ok(answered) = timeout_at(deadline.0.into(), &mut answer).await {
            return answered.unwrap_or_else(gone);
        }
        if turn.withdraw() {
            // Gives its room in the queue to those who wait outside.
            drop(answer);
            self.queue.expire();
            return Err(late());
        }
        let unknown = "the deadline passed while the call was being written";
        answer.try_recv().unwrap_or_else(|_| Err(Error::new(ErrorKind::Indeterminate, unknown)))
    }

    /// Resolves when this writer commits something.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.committed.clone()
    }

    /// Refuses once [`Writer::close`] was called.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if self.queue.is_closed() { Err(refusal::closed()) } else { Ok(()) }
    }

    /// Answers what waits, then ends the thread.
    pub async fn close(&self) {
        self.queue.close();
        // An error is what says that the thread has let go of its end.
        let _ = self.ended.clone().changed().await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Looks for an answer that comes so soon that a sleeping caller would be woken after it; every task of the runtime has its turn in
/// between.
async fn look<R>(answer: &mut oneshot::Receiver<Result<R>>, patience: Duration) -> Option<Result<R>> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Ok(answered) = answer.try_recv() {
            return Some(answered);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// What the thread works with.
struct Thread {
    queue: Arc<Queue<Box<dyn Work>>>,
    own: StoreName,
    clock: Arc<dyn Clock>,
    announce: watch::Sender<u64>,
    file: File,
}

impl Thread {
    fn run(mut self) {
        // A panic in a piece of work must not leave later callers waiting for a thread that is gone.
        let _close = CloseAtEnd(self.queue.clone());
        loop {
            // What was erased is wiped also when nobody writes any more.
            if let Some(wait) = self.file.wipe_wait()
                && !self.queue.wait_for_jobs(wait)
            {
                self.file.wipe();
                continue;
            }
            match self.queue.take_batch() {
                Some(batch) => self.write(batch),
                None => break,
            }
        }
        if self.file.wipe_wait().is_some() {
            self.file.wipe();
        }
    }

    fn write(&mut self, mut batch: Vec<Box<dyn Work>>) {
        let open = match self.file.open() {
            Ok(open) => open,
            Err(error) => return refuse_all(batch, |_| refusal::again(&error)),
        };
        match open.transact(&mut batch, &self.queue, &self.own, &*self.clock) {
            Done::Committed(end) => {
                // Looked at again: a file that lost its name under the COMMIT keeps nothing.
                if let Err(error) = self.file.place.check() {
                    return refuse_all(batch, |_| refusal::again(&error));
                }
                // Before the answer: who was told that something is deleted may look for it in the file.
                if self.file.wipe_wait() == Some(Duration::ZERO) {
                    self.file.wipe();
                }
                self.announce.send_if_modified(|known| std::mem::replace(known, end.0) != end.0);
                batch.into_iter().for_each(|work| work.answer());
            }
            // Alone, so that one piece of work cannot take its neighbours with it.
            Done::NotWritten(_) if batch.len() > 1 => batch.into_iter().for_each(|work| self.write(vec![work])),
            Done::NotWritten(error) => refuse_all(batch, |_| error::not_written(&error)),
            Done::Unknown(error) => {
                self.file.doubt();
                refuse_all(batch, |_| error::indeterminate(&error));
            }
        }
    }
}

fn refuse_all(batch: Vec<Box<dyn Work>>, error: impl Fn(&dyn Work) -> Error) {
    for work in batch {
        let error = error(&*work);
        work.refuse(error);
    }
}

/// Closes the queue when the thread ends, however it ends.
struct CloseAtEnd(Arc<Queue<Box<dyn Work>>>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The file, and the connection to it while there is one that can be trusted.
struct File {
    place: Place,
    open: Option<Open>,
    trust: Trust,
}

/// What is known of the commits that a new connection finds in the WAL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A process that died may have written them without its fsync.
    NotSynced,
    /// An fsync failed: the page cache shows them, and a later fsync would not write them again.
    SyncFailed,
}

impl File {
    fn open(&mut self) -> Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) => {
                self.place.check()?;
                open
            }
            None => {
                let connection = self.place.connect(Use::Write)?;
                settle(&connection, self.trust)?;
                self.trust = Trust::NotSynced;
                Open { connection, known_meta: None, erased: None }
            }
        };
        Ok(self.open.insert(open))
    }

    /// How long until the WAL is to be emptied, if something was erased.
    fn wipe_wait(&self) -> Option<Duration> {
        let due = self.open.as_ref()?.erased?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn wipe(&mut self) {
        if let Some(open) = &mut self.open {
            open.wipe();
        }
    }

    /// Lets go of a connection whose COMMIT failed.
    fn doubt(&mut self) {
        self.open = None;
        self.trust = Trust::SyncFailed;
    }
}

/// Makes durable what a new connection sees, before anyone is told that it is there.
fn settle(connection: &Connection, trust: Trust) -> Result<()> {
    let native = |error: rusqlite::Error| error::not_written(&error);
    match trust {
        // A process that died may also have left what it was about to wipe.
        Trust::NotSynced => empty_wal(connection, Duration::ZERO).map_err(native).map(drop),
        // Writes everything to the file itself, so that it does not hang on pages that the system believes clean.
        Trust::SyncFailed => match empty_wal(connection, SETTLE_WAIT).map_err(native)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unavailable, "readers keep a doubtful commit from being settled")),
        },
    }
}

/// Moves what is in the WAL into the file and cuts the WAL to nothing, all that readers of older moments allow in this time.
/// Answers whether that was all.
fn empty_wal(connection: &Connection, wait: Duration) -> rusqlite::Result<bool> {
    connection.busy_timeout(wait)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(Duration::ZERO)?;
    Ok(busy? == 0)
}

/// A connection, and the store's record as it was decoded last.
struct Open {
    connection: Connection,
    known_meta: Option<(Vec<u8>, Arc<Meta>)>,
    /// When the WAL is to be emptied next of content that was erased; none where nothing was.
    erased: Option<Instant>,
}

enum Done {
    /// Durable, up to this position.
    Committed(Position),
    NotWritten(rusqlite::Error),
    Unknown(rusqlite::Error),
}

impl Open {
    fn transact(
        &mut self,
        batch: &mut Vec<Box<dyn Work>>,
        queue: &Queue<Box<dyn Work>>,
        own: &StoreName,
        clock: &dyn Clock,
    ) -> Done {
        if let Err(error) = begin(&self.connection, queue, batch) {
            return Done::NotWritten(error);
        }
        // Read under the lock: what another process wrote before has an earlier time.
        let end = match self.work(batch, own, clock.now()) {
            Ok(end) => end,
            Err(error) => {
                self.roll_back();
                return Done::NotWritten(error);
            }
        };
        match execute(&self.connection, "COMMIT") {
            Ok(()) => Done::Committed(end),
            Err(error) => Done::Unknown(error),
        }
    }

    /// Runs every member of the batch, each after the verdicts of those before it.
    fn work(&mut self, batch: &mut [Box<dyn Work>], own: &StoreName, now: Timestamp) -> rusqlite::Result<Position> {
        let (meta, begin) = self.read_store()?;
        let connection = &self.connection;
        let frequent = Default::default();
        let mut transaction = Transaction { connection, frequent, own, meta, end: begin, now, erased: false };
        for work in batch {
            // A defect must not end the thread: the batch is rolled back, and its members are tried alone.
            let ran = catch_unwind(AssertUnwindSafe(|| work.work(&mut transaction)));
            ran.unwrap_or_else(|_| Err(error::carried(Error::new(ErrorKind::Unavailable, "the writer met a defect"))))?;
        }
        let end = transaction.end;
        if transaction.erased {
            self.erased = Some(Instant::now());
        }
        if end != begin {
            let mut update = self.connection.prepare_cached("UPDATE store SET position = ?1 WHERE id = 1")?;
            update.execute([end.0 as i64])?;
        }
        Ok(end)
    }

    /// Empties the WAL, which keeps the pages of every commit, of what was erased; the file itself has its zeros from
    /// `secure_delete`. A reader in the way is met again later.
    fn wipe(&mut self) {
        let wiped = empty_wal(&self.connection, WIPE_WAIT).unwrap_or(false);
        self.erased = if wiped { None } else { Some(Instant::now() + WIPE_PAUSE) };
    }

    /// Reads the store's record and counter, under the write lock: another process may have changed them.
    fn read_store(&mut self) -> rusqlite::Result<(Arc<Meta>, Position)> {
        let mut select = self.connection.prepare_cached("SELECT meta, position FROM store WHERE id = 1")?;
        let mut rows = select.query([])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let encoded = row.get_ref(0)?.as_blob()?;
        let position = Position(codec::number(row, 1)?);
        let meta = match &self.known_meta {
            Some((known, meta)) if known == encoded => meta.clone(),
            _ => {
                let meta = Arc::new(decode_meta(encoded)?);
                self.known_meta = Some((encoded.to_vec(), meta.clone()));
                meta
            }
        };
        Ok((meta, position))
    }

    fn roll_back(&mut self) {
        // Some failures have rolled back already. Should ROLLBACK fail, the next BEGIN does too, and says so.
        if !self.connection.is_autocommit() {
            let _ = execute(&self.connection, "ROLLBACK");
        }
    }
}

/// Decodes the record and refuses one that a newer release made unwritable for this one.
fn decode_meta(encoded: &[u8]) -> rusqlite::Result<Meta> {
    let decoded =
        format::decode_meta(&Bytes::copy_from_slice(encoded)).and_then(|meta| meta.format.check_write().map(|()| meta));
    decoded.map_err(error::carried)
}

/// Takes the write lock; while another process holds it, members of the batch and of the queue expire.
fn begin(
    connection: &Connection,
    queue: &Queue<Box<dyn Work>>,
    batch: &mut Vec<Box<dyn Work>>,
) -> rusqlite::Result<()> {
    let mut pause = LOCK_PAUSE_MIN;
    loop {
        match execute(connection, "BEGIN IMMEDIATE") {
            Err(error) if error::is_busy(&error) => {
                *batch = keep_begun(std::mem::take(batch));
                queue.expire();
                if batch.is_empty() {
                    return Err(error);
                }
                thread::sleep(pause);
                pause = (pause * 2).min(LOCK_PAUSE_MAX);
            }
            begun => return begun,
        }
    }
}

pub(crate) fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

/// A running write transaction: what a piece of work sees.
pub struct Transaction<'a> {
    /// The connection, with its cache of statements.
    pub connection: &'a Connection,
    frequent: [Option<CachedStatement<'a>>; Frequent::COUNT],
    own: &'a StoreName,
    meta: Arc<Meta>,
    end: Position,
    now: Timestamp,
    erased: bool,
}

impl<'a> Transaction<'a> {
    /// One of the statements that nearly every append runs.
    pub fn statement(&mut self, frequent: Frequent) -> Worked<&mut Statement<'a>> {
        let slot = &mut self.frequent[frequent as usize];
        let statement = match slot.take() {
            Some(statement) => statement,
            None => self.connection.prepare_cached(frequent.text())?,
        };
        Ok(slot.insert(statement))
    }

    /// The store's record, as this transaction sees it.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The store's own name.
    pub fn own(&self) -> &StoreName {
        self.own
    }

    /// The last position given so far.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The clock's time, the same for the whole batch.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Says that content was taken away for good, so that nothing of it may stay in the files.
    pub fn mark_erased(&mut self) {
        self.erased = true;
    }

    /// Takes the next `count` positions; answers the first.
    ///
    /// # Errors
    /// `TooLarge` past the last number there is.
    pub fn take_positions(&mut self, count: u64) -> Worked<Position> {
        if count > NUMBER_MAX - self.end.0 {
            return Err(Error::new(ErrorKind::TooLarge, "the store has no positions left").into());
        }
        let first = self.end.next();
        self.end = self.end.plus(count);
        Ok(first)
    }

    /// Replaces the store's record.
    pub fn put_meta(&mut self, meta: Meta) -> Worked<()> {
        let encoded = format::encode_meta(&meta);
        self.connection.prepare_cached("UPDATE store SET meta = ?1 WHERE id = 1")?.execute([encoded])?;
        self.meta = Arc::new(meta);
        Ok(())
    }

    /// Runs work that may be refused after it has written: then nothing of it stays.
    pub fn all_or_nothing<R>(&mut self, work: impl FnOnce(&mut Self) -> Worked<R>) -> Worked<R> {
        let (meta, end) = (self.meta.clone(), self.end);
        execute(self.connection, "SAVEPOINT work")?;
        let done = work(self);
        if let Err(Stop::Verdict(_)) = &done {
            execute(self.connection, "ROLLBACK TO work")?;
            (self.meta, self.end) = (meta, end);
        }
        if !matches!(done, Err(Stop::Engine(_))) {
            execute(self.connection, "RELEASE work")?;
        }
        done
    }
}

/// A call on its way through the writer.
trait Work: Send {
    fn deadline(&self) -> Deadline;
    fn is_abandoned(&self) -> bool;
    /// Reaches a verdict and keeps it.
    fn work(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()>;
    /// Gives the caller the verdict.
    fn answer(self: Box<Self>);
    /// Gives the caller an error instead.
    fn refuse(self: Box<Self>, error: Error);
}

impl Job for Box<dyn Work> {
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

/// Who has a call: its caller until it begins, the writer from then on.
#[derive(Debug, Default)]
struct Turn(AtomicU8);

impl Turn {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// Whether the writer may run it. It may run it again.
    fn begin(&self) -> bool {
        self.take(Self::BEGUN) != Self::WITHDRAWN
    }

    /// Whether it will never run.
    fn withdraw(&self) -> bool {
        self.take(Self::WITHDRAWN) != Self::BEGUN
    }

    /// Takes it if it still waits; answers what it was.
    fn take(&self, by: u8) -> u8 {
        let taken = self.0.compare_exchange(Self::WAITING, by, Ordering::AcqRel, Ordering::Acquire);
        taken.unwrap_or_else(|held| held)
    }
}

fn late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the call began")
}

struct Call<R, F> {
    deadline: Deadline,
    turn: Arc<Turn>,
    work: F,
    verdict: Option<Result<R>>,
    caller: oneshot::Sender<Result<R>>,
}

impl<R, F> Work for Call<R, F>
where
    R: Send,
    F: FnMut(&mut Transaction<'_>) -> Worked<R> + Send,
{
    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn work(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        if !self.turn.begin() {
            self.verdict = Some(Err(late()));
            return Ok(());
        }
        self.verdict = match (self.work)(transaction) {
            Ok(receipt) => Some(Ok(receipt)),
            Err(Stop::Verdict(error)) => Some(Err(error)),
            Err(Stop::Engine(error)) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>) {
        let verdict = self.verdict.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the call was not run")));
        // Nobody may be there any more; the commit id then tells what became of it.
        let _ = self.caller.send(verdict);
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.caller.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;
    use crate::schema;
    use evstore_api::{Settings, SystemClock};

    struct Fixture {
        _folder: tempfile::TempDir,
        config: Config,
        writer: Arc<Writer>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.db").display().to_string();
        let settings = Settings::new(StoreName::new("main").unwrap(), KEYS, [("path".to_owned(), path)]).unwrap();
        let config = Config::new(&settings).unwrap();
        let mut connection = schema::connect(&config.path, Use::Make).unwrap();
        schema::apply(&mut connection, &Meta::new(Timestamp(0))).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let writer = Arc::new(Writer::start(&config, Place::new(config.path.clone()), clock).unwrap());
        Fixture { _folder: folder, config, writer }
    }

    fn soon() -> Deadline {
        Deadline::within(Duration::from_secs(20))
    }

    async fn take_one(writer: &Writer) -> Result<Position> {
        writer.run(soon(), 0, |transaction: &mut Transaction<'_>| transaction.take_positions(1)).await
    }

    #[tokio::test]
    async fn a_failed_commit_is_indeterminate_and_the_next_one_is_made() {
        let fixture = fixture();
        // A deferred constraint is what makes COMMIT itself fail.
        let other = Connection::open(&fixture.config.path).unwrap();
        other
            .execute_batch("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
            .unwrap();
        let failing = |transaction: &mut Transaction<'_>| {
            execute(transaction.connection, "INSERT INTO b VALUES (1)")?;
            transaction.take_positions(1)
        };
        let error = fixture.writer.run(soon(), 0, failing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
        assert_eq!(take_one(&fixture.writer).await.unwrap(), Position(1));
    }

    #[tokio::test]
    async fn a_defect_takes_neither_the_writer_nor_its_neighbours_along() {
        let fixture = fixture();
        let held = Connection::open(&fixture.config.path).unwrap();
        held.execute_batch("BEGIN IMMEDIATE").unwrap();
        let calls: Vec<_> = (0..3)
            .map(|call| {
                let writer = fixture.writer.clone();
                let work = move |transaction: &mut Transaction<'_>| {
                    assert_ne!(call, 1, "a defect on purpose");
                    transaction.take_positions(1)
                };
                tokio::spawn(async move { writer.run(soon(), 0, work).await })
            })
            .collect();
        held.execute_batch("ROLLBACK").unwrap();
        let mut kinds = Vec::new();
        for call in calls {
            kinds.push(call.await.unwrap().map_err(|error| error.kind()));
        }
        kinds.sort_by_key(|kind| kind.ok());
        assert_eq!(kinds, [Err(ErrorKind::Unavailable), Ok(Position(1)), Ok(Position(2))]);
    }

    #[tokio::test]
    async fn refused_work_leaves_nothing_of_itself_and_spares_its_neighbours() {
        let fixture = fixture();
        let refused = |transaction: &mut Transaction<'_>| {
            transaction.all_or_nothing(|transaction| {
                transaction.take_positions(5)?;
                execute(transaction.connection, "DELETE FROM store")?;
                Err::<(), _>(Error::new(ErrorKind::Conflict, "on purpose").into())
            })
        };
        let error = fixture.writer.run(soon(), 0, refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(take_one(&fixture.writer).await.unwrap(), Position(1));
    }

    #[tokio::test]
    async fn closing_answers_what_waits() {
        let fixture = fixture();
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let writer = fixture.writer.clone();
                tokio::spawn(async move { take_one(&writer).await })
            })
            .collect();
        tokio::task::yield_now().await;
        fixture.writer.close().await;
        let mut written = 0;
        for call in waiting {
            match call.await.unwrap() {
                Ok(_) => written += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            }
        }
        assert!(written > 0);
        let held: u64 = Connection::open(&fixture.config.path)
            .unwrap()
            .query_row("SELECT position FROM store", [], |row| row.get::<_, i64>(0))
            .unwrap()
            .unsigned_abs();
        assert_eq!(held, written);
    }
}
