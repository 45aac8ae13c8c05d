//! What the server's and the connection's failures mean to a caller: the only place that knows them.

use evstore_api::{Error, ErrorKind};
use redis::RedisError;

/// What a call does to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing: repeating it is harmless.
    Read,
    /// It may write: without an answer nobody knows.
    Write,
}

/// Where a refusal sends the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    /// The slot lives at another node from now on.
    Moved(String),
    /// The slot is on its way to another node: this call goes there.
    Asked(String),
    /// Some of the slot is here and some there: once more, a little later.
    Again,
    /// The server has forgotten the script.
    NoScript,
    /// None: the answer stands.
    None,
}

/// What to do about a refusal before it is reported. In all these cases nothing was executed.
pub fn detour(error: &RedisError) -> Detour {
    let node = || error.detail().and_then(|detail| detail.split_whitespace().nth(1)).unwrap_or_default().to_owned();
    match error.code() {
        Some("MOVED") => Detour::Moved(node()),
        Some("ASK") => Detour::Asked(node()),
        Some("TRYAGAIN") => Detour::Again,
        Some("NOSCRIPT") => Detour::NoScript,
        _ => Detour::None,
    }
}

/// Whether the connection is of no use any more, or leads to a server that is not the primary.
pub fn is_spent(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "LOADING"))
}

/// A failure to connect: nothing was sent.
pub fn unreachable(error: &RedisError) -> Error {
    match error.code() {
        Some("WRONGPASS" | "NOAUTH" | "NOPERM") => denied(error),
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => denied(error),
        _ if error.kind() == redis::ErrorKind::InvalidClientConfig => {
            Error::new(ErrorKind::Invalid, "the server's url is not one")
        }
        _ => Error::new(ErrorKind::Unavailable, "the server could not be reached").caused_by(error.to_string()),
    }
}

/// A failure of a call that was sent.
pub fn failed(error: &RedisError, purpose: Purpose) -> Error {
    let Some(code) = error.code() else {
        return match purpose {
            Purpose::Read => Error::new(ErrorKind::Unavailable, "the connection broke").caused_by(error.to_string()),
            Purpose::Write => unanswered().caused_by(error.to_string()),
        };
    };
    let refused = |kind, message| Error::new(kind, message).with("code", code.to_owned()).caused_by(error.to_string());
    match code {
        // The script is declared, so the server refuses it before it starts.
        "OOM" => refused(ErrorKind::Throttled, "the server has no memory left; raise maxmemory or remove data"),
        "READONLY" | "MASTERDOWN" => refused(ErrorKind::Unavailable, "the server is not the primary any more"),
        "CLUSTERDOWN" => refused(ErrorKind::Unavailable, "the cluster does not serve this slot"),
        "LOADING" => refused(ErrorKind::Unavailable, "the server is still loading its data"),
        "BUSY" => refused(ErrorKind::Throttled, "the server is busy with a long script"),
        "NOREPLICAS" => refused(ErrorKind::Unavailable, "the server has fewer replicas than it demands for a write"),
        "MISCONF" => refused(ErrorKind::Unavailable, "the server can't write to its disk"),
        "MOVED" | "ASK" | "TRYAGAIN" => refused(ErrorKind::Unavailable, "the slot moves between nodes"),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => denied(error),
        "WRONGTYPE" => refused(ErrorKind::Schema, "a key of the store holds another kind of value"),
        _ if purpose == Purpose::Read => refused(ErrorKind::Unavailable, "the server refused a command"),
        // A script that broke off has perhaps written: scripts are not rolled back.
        _ => unanswered().with("code", code.to_owned()).caused_by(error.to_string()),
    }
}

/// Sent, and no answer came.
pub fn unanswered() -> Error {
    Error::new(ErrorKind::Indeterminate, "the server did not confirm the write")
}

/// The deadline passed while an answer was awaited.
pub fn late(purpose: Purpose) -> Error {
    match purpose {
        Purpose::Read => Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the server answered"),
        Purpose::Write => unanswered(),
    }
}

/// Stored bytes that are not what this release writes.
pub fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn denied(error: &RedisError) -> Error {
    Error::new(ErrorKind::Denied, "the server does not allow this with these credentials").caused_by(error.to_string())
}
