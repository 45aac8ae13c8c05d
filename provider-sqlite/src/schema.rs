//! The tables: making them, checking them, and opening connections to them with the settings that durability needs.

use crate::error;
use bytes::Bytes;
use evstore_api::{Error, ErrorKind, Meta, Result, SchemaChange, SchemaPlan, format};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::Path;
use std::time::{Duration, Instant};

/// The statements that make a store, reviewed as text.
pub const STATEMENTS: &str = include_str!("schema.sql");

/// `evst`: marks a file as one of ours in the SQLite header.
const APPLICATION_ID: i64 = 0x6576_7374;
/// Version of the tables in the SQLite header.
const TABLES: i64 = 1;
/// Before 3.51.3 SQLite could corrupt a database when it reset its WAL (fixed 2026-03-13).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Pages in the WAL before a commit moves them into the file: 16 MiB. Against SQLite's 1,000 pages 256 callers ran 20 %
/// faster and 32 callers 8 % (2026-11-20, 2 cores, one event of 256 bytes, medians of two runs of 1.5 s each).
const WAL_PAGES: u32 = 4_000;
/// The WAL file is cut back to this after a burst.
const WAL_BYTES_KEPT: u32 = 64 << 20;
/// Page cache of the writer, in KiB: it holds what one batch changes.
const WRITER_CACHE_KIB: u32 = 16 << 10;
/// Page cache of a reader, in KiB. Any commit empties it, and more was not faster, as it leaves the processor's own cache.
const READER_CACHE_KIB: u32 = 2 << 10;
/// Longest wait for a lock that another process holds for a moment, while it opens the file or makes the tables.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Pause between two tries where SQLite does not wait by itself.
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Prepared statements that one connection keeps; there are fewer.
const STATEMENTS_CACHED: usize = 64;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Writing: the file is made where it is missing.
    Make,
    /// Writing to a store that is there.
    Write,
    /// Reading.
    Read,
}

/// Opens a connection with our settings, to nothing or to a store of ours: any other file stays as it is.
///
/// # Errors
/// `Unavailable`, `Denied`, or `Schema` when the file is missing or something else.
pub fn connect(path: &Path, purpose: Use) -> Result<Connection> {
    match (look(path)?, purpose) {
        (Found::Ours, _) => {}
        (Found::Missing, Use::Make) => make_folder(path)?,
        (Found::Empty, Use::Make) => {}
        (Found::Missing, Use::Write | Use::Read) => {
            let error =
                Error::new(ErrorKind::Schema, "the store's file is missing; apply the schema, or set auto_create");
            return Err(error.with("path", path.display()));
        }
        (Found::Empty, Use::Write | Use::Read) => return Err(no_tables().with("path", path.display())),
    }
    let make = if purpose == Use::Make { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    let refused = |error: rusqlite::Error| error::not_opened(&error, path);
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | make)?;
    switch_to_wal(&connection, path)?;
    configure(&connection, purpose).map_err(refused)?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(Error::new(ErrorKind::Schema, "this SQLite is too old to be safe with a WAL")
            .with("sqlite", rusqlite::version()));
    }
    let opened = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    opened.map_err(|error| error::not_opened(&error, path))
}

fn make_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder)
        .map_err(|cause| error::of_file("the store's folder could not be made", folder, cause))
}

/// What is there, seen through a connection that cannot write: what is not ours is not touched.
fn look(path: &Path) -> Result<Found> {
    let there =
        path.try_exists().map_err(|cause| error::of_file("the store's file could not be looked at", path, cause))?;
    if !there {
        return Ok(Found::Missing);
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(LOCK_WAIT).map_err(|error| error::not_opened(&error, path))?;
    found(&connection).map_err(|error| error.with("path", path.display()))
}

/// Whether there is neither a file nor anything in it.
///
/// # Errors
/// As [`connect`].
pub fn is_missing(path: &Path) -> Result<bool> {
    Ok(look(path)? != Found::Ours)
}

/// A file that cannot have a WAL has neither our durability nor readers beside the writer.
fn switch_to_wal(connection: &Connection, path: &Path) -> Result<()> {
    let refused = |error: rusqlite::Error| error::not_opened(&error, path);
    // Switching takes a lock for a moment, which another process that opens the file may hold.
    connection.busy_timeout(LOCK_WAIT).map_err(refused)?;
    let switch = || connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    let until = Instant::now() + LOCK_WAIT;
    let mode = loop {
        match switch() {
            // Of two that switch at once SQLite lets neither wait for the other: one is refused in spite of its time.
            Err(error) if error::is_busy(&error) && Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            done => break done.map_err(refused)?,
        }
    };
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let message = "the file cannot have a write-ahead log here; put it into a folder on a local disk";
    Err(Error::new(ErrorKind::Invalid, message).with("path", path.display()).with("journal_mode", mode))
}

fn configure(connection: &Connection, purpose: Use) -> rusqlite::Result<()> {
    let cache_kib = if purpose == Use::Read { READER_CACHE_KIB } else { WRITER_CACHE_KIB };
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    // What was deleted for good is overwritten, not only forgotten.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "query_only", purpose == Use::Read)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.busy_timeout(Duration::ZERO)
}

/// What [`apply`] would do to what is there, which stays as it is.
///
/// # Errors
/// `Schema` when the file is something else or was made by a newer release.
pub fn plan(path: &Path) -> Result<SchemaPlan> {
    if is_missing(path)? {
        return Ok(plan_new());
    }
    read_meta(&connect(path, Use::Read)?)?.format.check_write()?;
    Ok(SchemaPlan { changes: Vec::new() })
}

/// What [`apply`] would do where there is nothing.
fn plan_new() -> SchemaPlan {
    SchemaPlan { changes: statements().map(change).collect() }
}

/// Makes the tables where there are none, in one transaction: of two processes that try, one does it.
///
/// # Errors
/// As [`plan`].
pub fn apply(connection: &mut Connection, meta: &Meta) -> Result<SchemaPlan> {
    let native = |error: rusqlite::Error| error::not_written(&error);
    connection.busy_timeout(LOCK_WAIT).map_err(native)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(native)?;
    let plan = match found(&transaction)? {
        Found::Ours => {
            read_meta(&transaction)?.format.check_write()?;
            SchemaPlan { changes: Vec::new() }
        }
        Found::Missing | Found::Empty => {
            transaction.execute_batch(STATEMENTS).map_err(native)?;
            let meta = format::encode_meta(meta);
            transaction.execute("INSERT INTO store (id, meta, position) VALUES (1, ?1, 0)", [meta]).map_err(native)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(native)?;
            transaction.pragma_update(None, "user_version", TABLES).map_err(native)?;
            plan_new()
        }
    };
    transaction.commit().map_err(native)?;
    connection.busy_timeout(Duration::ZERO).map_err(native)?;
    Ok(plan)
}

/// Verifies that every table and index is there exactly as this release makes it, and that it may read the format.
///
/// # Errors
/// `Schema`, naming what is missing or different.
pub fn check(connection: &Connection) -> Result<Meta> {
    match found(connection)? {
        Found::Ours => {}
        Found::Missing | Found::Empty => return Err(no_tables()),
    }
    for statement in statements() {
        let name = object_name(statement);
        match stored(connection, name)? {
            Some(stored) if stored == statement => {}
            Some(_) => return Err(Error::new(ErrorKind::Schema, "a table or index is different").with("name", name)),
            None => return Err(Error::new(ErrorKind::Schema, "a table or index is missing").with("name", name)),
        }
    }
    let meta = read_meta(connection)?;
    meta.format.check_read()?;
    Ok(meta)
}

fn no_tables() -> Error {
    Error::new(ErrorKind::Schema, "the store has no tables yet; apply the schema")
}

/// The store's record, of whatever format it is.
///
/// # Errors
/// `Schema` when there is none, `Corrupt`.
pub fn read_meta(connection: &Connection) -> Result<Meta> {
    let row =
        connection.query_row("SELECT meta FROM store WHERE id = 1", [], |row| row.get::<_, Vec<u8>>(0)).optional();
    match row.map_err(|error| error::not_written(&error))? {
        Some(encoded) => format::decode_meta(&Bytes::from(encoded)),
        None => Err(Error::new(ErrorKind::Schema, "the store's record is missing")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// No file.
    Missing,
    /// A file with nothing in it.
    Empty,
    /// A store.
    Ours,
}

fn found(connection: &Connection) -> Result<Found> {
    let header = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let read = || -> rusqlite::Result<(i64, i64, i64)> {
        let objects = connection.query_row("SELECT count(*) FROM sqlite_schema", [], count)?;
        Ok((header("application_id")?, header("user_version")?, objects))
    };
    // In one transaction: between two looks another process may make the tables.
    let native = |error: rusqlite::Error| error::not_written(&error);
    let own = connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose().map_err(native)?;
    let seen = read().map_err(native)?;
    drop(own);
    match seen {
        (0, 0, 0) => Ok(Found::Empty),
        (APPLICATION_ID, TABLES, _) => Ok(Found::Ours),
        (APPLICATION_ID, tables, _) => Err(Error::new(ErrorKind::Schema, "the tables are of another release")
            .with("tables", tables)
            .with("ours", TABLES)),
        _ => Err(Error::new(ErrorKind::Schema, "the file is another application's database")),
    }
}

fn statements() -> impl Iterator<Item = &'static str> {
    STATEMENTS.split(';').map(str::trim).filter(|statement| !statement.is_empty())
}

/// The third word of `CREATE TABLE name`, the word before ` ON ` of `CREATE INDEX name`.
fn object_name(statement: &str) -> &str {
    let head = statement.split_once(" ON ").map_or(statement, |(head, _)| head);
    let head = head.split_once('(').map_or(head, |(head, _)| head);
    head.split_whitespace().last().unwrap_or_default()
}

fn change(statement: &str) -> SchemaChange {
    let words: Vec<&str> = statement.split_whitespace().take_while(|word| *word != object_name(statement)).collect();
    let what = words.last().copied().unwrap_or_default().to_lowercase();
    SchemaChange { summary: format!("make the {what} {}", object_name(statement)), statement: statement.to_owned() }
}

fn stored(connection: &Connection, name: &str) -> Result<Option<String>> {
    let sql =
        connection.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0)).optional();
    sql.map_err(|error| error::not_written(&error))
}
