//! The floor under a store in SQLite: one connection, the same tables and statements, one transaction for each commit. Streams are
//! known by their keys, and nothing is looked up but the position.

use crate::config::Config;
use crate::error;
use crate::schema::{self, Use};
use async_trait::async_trait;
use evstore_api::{Error, ErrorKind, Result, Settings, Usage};
use evstore_kit::floor::{Bare, Floor, Put};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The floor.
#[must_use]
pub fn floor() -> Arc<dyn Floor> {
    Arc::new(File)
}

#[derive(Debug)]
struct File;

#[async_trait]
impl Floor for File {
    fn sentence(&self) -> &'static str {
        "rusqlite, one connection, one transaction for each commit with the same tables and statements; a load is one SELECT"
    }

    fn loads(&self) -> bool {
        true
    }

    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>> {
        let path = Config::new(scratch)?.path;
        let connection = connect(&path)?;
        Ok(Arc::new(One { connection: Mutex::new(Some(connection)), path }))
    }
}

/// A connection as the store's writer has it.
///
/// # Errors
/// As opening the file.
pub fn connect(path: &Path) -> Result<Connection> {
    schema::connect(path, Use::Write)
}

#[derive(Debug)]
struct One {
    /// Callers wait for it in order, as they do where an application shares a connection.
    connection: Mutex<Option<Connection>>,
    path: PathBuf,
}

impl One {
    async fn with(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send) -> Result<Usage> {
        let guard = self.connection.lock().await;
        let connection = guard.as_ref().ok_or_else(|| Error::new(ErrorKind::Closed, "the store is closed"))?;
        // In this thread: a floor hands nothing to another.
        work(connection).map_err(|cause| error::not_opened(&cause, &self.path))?;
        Ok(Usage::default())
    }
}

#[async_trait]
impl Bare for One {
    async fn append(&self, put: Put) -> Result<Usage> {
        self.with(|connection| transaction(connection, std::slice::from_ref(&put))).await
    }

    async fn load(&self, stream: u64) -> Result<Usage> {
        self.with(|connection| {
            let select =
                "SELECT events FROM commits WHERE stream = (SELECT key FROM streams WHERE namespace = '' AND name = ?1)
                ORDER BY number";
            let mut statement = connection.prepare_cached(select)?;
            let mut rows = statement.query([name(stream)])?;
            while let Some(row) = rows.next()? {
                let _events: Vec<u8> = row.get(0)?;
            }
            Ok(())
        })
        .await
    }

    async fn close(&self) {
        drop(self.connection.lock().await.take());
    }
}

fn name(stream: u64) -> String {
    format!("order-{stream}")
}

/// Writes commits in one transaction.
///
/// # Errors
/// As SQLite's.
pub fn transaction(connection: &Connection, puts: &[Put]) -> rusqlite::Result<()> {
    let run = |statement: &str| connection.prepare_cached(statement)?.execute([]).map(drop);
    run("BEGIN IMMEDIATE")?;
    let written = write(connection, puts);
    match &written {
        Ok(()) => run("COMMIT")?,
        Err(_) => run("ROLLBACK")?,
    }
    written
}

fn write(connection: &Connection, puts: &[Put]) -> rusqlite::Result<()> {
    let select = "SELECT meta, position FROM store WHERE id = 1";
    let mut position: i64 = connection.prepare_cached(select)?.query_row([], |row| row.get(1))?;
    for put in puts {
        append(connection, position + 1, put)?;
        position += i64::from(put.count);
    }
    let update = "UPDATE store SET position = ?1 WHERE id = 1";
    connection.prepare_cached(update)?.execute([position]).map(drop)
}

fn append(connection: &Connection, position: i64, put: &Put) -> rusqlite::Result<()> {
    let prepare = |statement: &str| connection.prepare_cached(statement);
    let (id, number, count) = (&put.id.0[..], put.slot as i64, i64::from(put.count));
    let (first, name) = (put.first_revision() as i64, name(put.stream));
    let select =
        "SELECT key, revision, number, first_retained, recorded_at, last_id, last_marker, last_imported FROM streams
        WHERE namespace = ?1 AND name = ?2";
    let key: Option<i64> = prepare(select)?.query_row(["", &name], |row| row.get(0)).optional()?;
    let key = match key {
        Some(key) => {
            let select = "SELECT number, revision, count, position, recorded_at, digest FROM commits WHERE stream = ?1 AND id = ?2";
            let _known = prepare(select)?.exists(params![key, id])?;
            let update =
                "UPDATE streams SET revision = ?1, number = ?2, first_retained = 1, recorded_at = ?3, last_id = ?4,
                last_marker = NULL, last_imported = NULL WHERE key = ?5";
            prepare(update)?.execute(params![first + count - 1, number, position, id, key])?;
            key
        }
        None => {
            let insert = "INSERT INTO streams (revision, number, first_retained, recorded_at, last_id, checksum, namespace, name,
                category) VALUES (?1, ?2, 1, ?3, ?4, 4294967295, '', ?5, 'order')";
            prepare(insert)?.insert(params![first + count - 1, number, position, id, name])?
        }
    };
    let insert =
        "INSERT INTO commits (position, stream, number, revision, count, recorded_at, id, digest, events_checksum,
        checksum, events) VALUES (?1, ?2, ?3, ?4, ?5, ?1, ?6, ?6, 4294967295, 4294967295, ?7)";
    prepare(insert)?.execute(params![position, key, number, first, count, id, &put.events[..]]).map(drop)
}
