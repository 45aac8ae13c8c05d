//! Exit codes: what a script decides by. They are a contract, and one function gives them.

use crate::failure::Failure;
use evstore_api::ErrorKind;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, for a reason without a code of its own.
    Failed = 1,
    /// Wrong use: the same request can never succeed.
    WrongUse = 2,
    /// The store holds something else than was expected.
    Conflict = 3,
    /// A promise is broken, or a store fails its verification.
    Broken = 4,
    /// Not reached; nothing was sent.
    Unreachable = 5,
    /// Sent, and no answer came: repeat with the printed commit id.
    Indeterminate = 6,
    /// Not found, gone or moved.
    NotFound = 7,
    /// Not ready: it has to be waited for.
    NotReady = 8,
    /// Interrupted by Ctrl-C.
    Interrupted = 130,
}

/// The table that `--help` prints.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong use: the same request can never succeed
  3    conflict: the store holds something else than was expected
  4    a promise is broken (conformance, compare), or a difference was found (verify, migrate)
  5    unreachable; nothing was sent
  6    indeterminate: repeat with the printed commit id
  7    not found, gone or moved
  8    not ready
  130  interrupted
A script should treat any other code as a failure.";

/// The code of a failure.
#[must_use]
pub fn of(failure: &Failure) -> Exit {
    match failure {
        Failure::Store(error) | Failure::Advised { error, .. } => of_kind(error.kind()),
        Failure::Usage { .. } => Exit::WrongUse,
        Failure::Io { .. } | Failure::Problems { .. } => Exit::Failed,
        Failure::Untold { .. } => Exit::Indeterminate,
        Failure::Broken { .. } => Exit::Broken,
        Failure::NotReady { .. } => Exit::NotReady,
        Failure::Interrupted { .. } => Exit::Interrupted,
        Failure::ReaderLeft => Exit::Done,
    }
}

fn of_kind(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::Unsupported | ErrorKind::CursorRefused => Exit::WrongUse,
        ErrorKind::Conflict | ErrorKind::IdReused => Exit::Conflict,
        ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Moved => Exit::NotFound,
        ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => Exit::Unreachable,
        ErrorKind::Indeterminate => Exit::Indeterminate,
        ErrorKind::Fenced => Exit::NotReady,
        ErrorKind::HistoryLost | ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::Schema | ErrorKind::Closed => {
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Error, Written};

    #[test]
    fn only_an_unknown_outcome_is_indeterminate() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "x");
            let unknown = error.written() == Written::Unknown;
            assert_eq!(of(&Failure::Store(error)) == Exit::Indeterminate, unknown, "{kind:?}");
        }
    }

    #[test]
    fn no_failure_of_a_store_exits_as_done() {
        for kind in ErrorKind::ALL {
            assert_ne!(of(&Failure::Store(Error::new(kind, "x"))), Exit::Done, "{kind:?}");
        }
    }
}
