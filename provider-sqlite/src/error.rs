//! What SQLite's errors mean to a caller: the only place that knows them.

use evstore_api::{Error, ErrorKind};
use rusqlite::ErrorCode;
use std::io;
use std::path::Path;

/// Why a piece of work inside a transaction ended early.
#[derive(Debug)]
pub enum Stop {
    /// A verdict about this call alone; it wrote nothing.
    Verdict(Error),
    /// The engine failed; nothing in this transaction counts.
    Engine(rusqlite::Error),
}

/// The result of a piece of work inside a transaction.
pub type Result<T, E = Stop> = std::result::Result<T, E>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Verdict(error)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Verdict(error) => error,
            Stop::Engine(error) => not_written(&error),
        }
    }
}

/// A failure before COMMIT, or of a read: nothing was written.
pub fn not_written(error: &rusqlite::Error) -> Error {
    let (kind, message) = meaning(error);
    Error::new(kind, message).caused_by(error.to_string())
}

/// A file or folder that the system refused. What is hidden or read-only is for the operator to mend.
pub fn of_file(message: &'static str, path: &Path, cause: io::Error) -> Error {
    let error = match cause.kind() {
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            "this user may not use the path; let it read and write the file and its folder",
        ),
        io::ErrorKind::ReadOnlyFilesystem => Error::new(
            ErrorKind::Denied,
            "the path is on a read-only file system; mount it for writing, or move the file",
        ),
        _ => Error::new(ErrorKind::Unavailable, message),
    };
    error.with("path", path.display()).caused_by(cause)
}

/// A connection that could not be opened.
pub fn not_opened(error: &rusqlite::Error, path: &Path) -> Error {
    let denied =
        error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && path.is_file() && files_can_be_opened(path);
    if denied {
        let message = "this user may not open the store's file; let it read and write the file and its folder";
        return Error::new(ErrorKind::Denied, message).with("path", path.display()).caused_by(error.to_string());
    }
    not_written(error).with("path", path.display())
}

/// Whether the process has a file left to open: SQLite does not tell a refusal from a lack of them. Looked at by the folder:
/// closing the file itself would drop the locks that other connections of this process have on it.
fn files_can_be_opened(path: &Path) -> bool {
    match path.parent().map(std::fs::read_dir) {
        Some(Err(cause)) => cause.kind() == io::ErrorKind::PermissionDenied,
        Some(Ok(_)) | None => true,
    }
}

/// Carries an error of ours through code that fails with SQLite's.
pub fn carried(error: Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// A failure of COMMIT: what was sent may be there after all.
pub fn indeterminate(error: &rusqlite::Error) -> Error {
    Error::new(ErrorKind::Indeterminate, "the store did not confirm the commit").caused_by(error.to_string())
}

/// Whether another connection holds the lock that is wanted, so that waiting helps.
pub fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn meaning(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    use rusqlite::Error as Native;
    match error {
        Native::SqliteFailure(failure, _) => of_code(failure.code),
        Native::FromSqlConversionFailure(_, _, cause) => match cause.downcast_ref::<Error>() {
            Some(error) => (error.kind(), error.message()),
            None => (ErrorKind::Corrupt, "a stored row is not what it should be"),
        },
        // All statements are constants that the tests run: one that does not fit the tables means other tables.
        Native::SqlInputError { .. } => (ErrorKind::Schema, "the file does not have the tables of an event store"),
        Native::IntegralValueOutOfRange(..)
        | Native::InvalidColumnType(..)
        | Native::QueryReturnedNoRows
        | Native::Utf8Error(..) => (ErrorKind::Corrupt, "a stored row is not what it should be"),
        _ => (ErrorKind::Unavailable, "the store's file could not be used"),
    }
}

fn of_code(code: ErrorCode) -> (ErrorKind, &'static str) {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (ErrorKind::Unavailable, "another process holds the store's lock")
        }
        // Only readers are interrupted, and only past their deadline.
        ErrorCode::OperationInterrupted => {
            (ErrorKind::DeadlineExceeded, "the deadline passed while the store was read")
        }
        ErrorCode::DiskFull => (ErrorKind::Unavailable, "the disk is full"),
        ErrorCode::DatabaseCorrupt => (ErrorKind::Corrupt, "the store's file is damaged"),
        ErrorCode::NotADatabase => (ErrorKind::Schema, "the file is not a SQLite database"),
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied => {
            (ErrorKind::Denied, "the store's file may not be written; let this user write it and its folder")
        }
        ErrorCode::TooBig => (ErrorKind::TooLarge, "a value is larger than SQLite takes"),
        ErrorCode::ConstraintViolation => (ErrorKind::Corrupt, "the store's rows contradict each other"),
        ErrorCode::CannotOpen => (ErrorKind::Unavailable, "the store's file could not be opened"),
        // Code 1 is what a statement gives that names a missing table or column.
        ErrorCode::Unknown => (ErrorKind::Schema, "the file does not have the tables of an event store"),
        _ => (ErrorKind::Unavailable, "the store's file could not be used"),
    }
}
