//! What Postgres' errors mean to a caller: the only place that knows them.

use evstore_api::{Error, ErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use std::time::Duration;

/// Why a piece of work inside a transaction ended early.
#[derive(Debug)]
pub enum Stop {
    /// A verdict about this call; nothing was written.
    Verdict(Error),
    /// The engine failed before COMMIT was sent.
    Engine(sqlx::Error),
}

/// The result of a piece of work inside a transaction.
pub type Result<T, E = Stop> = std::result::Result<T, E>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Verdict(error)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Verdict(error) => error,
            Stop::Engine(error) => not_written(error),
        }
    }
}

/// What is known of a write whose answer was an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server undid it, because of another transaction: the same again may succeed.
    UndoneByOthers,
    /// The server refused it.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What became of a write that was sent and answered with this.
///
/// An ERROR undoes its transaction. FATAL and PANIC end the connection, perhaps after the commit was made: they tell nothing.
pub fn fate(error: &sqlx::Error) -> Fate {
    let Some(database) = database(error) else {
        return Fate::Unknown;
    };
    match (database.severity(), database.code()) {
        (PgSeverity::Error, "40001" | "40P01" | "55P03") => Fate::UndoneByOthers,
        (PgSeverity::Error, code) if !code.starts_with("08") && !code.starts_with("57P") => Fate::Refused,
        _ => Fate::Unknown,
    }
}

fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    match error {
        sqlx::Error::Database(database) => database.try_downcast_ref::<PgDatabaseError>(),
        _ => None,
    }
}

/// A failure of a read, or of a write before anything that counts was sent.
pub fn not_written(error: sqlx::Error) -> Error {
    let kind = match &error {
        sqlx::Error::PoolClosed => return evstore_kit::refusal::closed(),
        sqlx::Error::PoolTimedOut => ErrorKind::Throttled,
        sqlx::Error::Configuration(_) => ErrorKind::Invalid,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
            ErrorKind::Corrupt
        }
        _ => database(&error).map_or(ErrorKind::Unavailable, |database| kind(database.code())),
    };
    let refused = Error::new(kind, message(kind));
    let refused = match database(&error) {
        Some(database) => refused.with("sqlstate", database.code()),
        None => refused,
    };
    match kind {
        // A URL that can't be read may hold a password, and the parser's words may repeat it.
        ErrorKind::Invalid => refused,
        ErrorKind::Throttled => refused.retry_after(Duration::from_millis(50)).caused_by(error),
        _ => refused.caused_by(error),
    }
}

/// The kind of an error, by its SQLSTATE: <https://www.postgresql.org/docs/18/errcodes-appendix.html>, 2026-11-20.
fn kind(code: &str) -> ErrorKind {
    match code {
        // Cancelled by our own statement_timeout, which is the deadline.
        "57014" => ErrorKind::DeadlineExceeded,
        "42501" | "28000" | "28P01" => ErrorKind::Denied,
        // Another connection's statement under our name, or none: a pooler that keeps none stands between.
        "26000" | "42P05" => ErrorKind::Invalid,
        "3F000" | "42P01" | "42703" | "42883" | "42704" | "42804" | "3D000" | "0A000" => ErrorKind::Schema,
        "53300" | "53400" => ErrorKind::Throttled,
        "54000" | "54001" | "54011" | "54023" => ErrorKind::TooLarge,
        "XX001" | "XX002" => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    }
}

fn message(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::DeadlineExceeded => "the deadline passed and the server undid the call",
        ErrorKind::Denied => "the server does not allow this to these credentials",
        ErrorKind::Schema => "the server does not have what this release needs; see `evstore schema check`",
        ErrorKind::Throttled => "the server or the pool has no connection left",
        ErrorKind::TooLarge => "the server refused it as too large",
        ErrorKind::Corrupt => "the server answered with something that is not what was stored",
        ErrorKind::Invalid => {
            "the url is not one that leads to a Postgres server, or a pooler stands between; see transaction_pooler"
        }
        _ => "the server could not be reached, or refused before it began",
    }
}

/// A write that was sent and whose answer is not known.
pub fn indeterminate(error: &sqlx::Error) -> Error {
    Error::new(ErrorKind::Indeterminate, "the connection failed before the answer came").caused_by(error.to_string())
}

/// A write that was sent and not answered in time.
pub fn late() -> Error {
    Error::new(ErrorKind::Indeterminate, "the deadline passed before the answer came")
}

/// Stored content that is not what it has to be.
pub fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
