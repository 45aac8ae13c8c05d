//! What a check is, and what it can answer.

use crate::context::Context;
use evstore_api::{Error, ErrorKind};
use std::fmt;
use std::pin::Pin;

/// A promise and the function that looks whether it holds.
#[derive(Clone, Copy)]
pub struct Check {
    /// `topic.what-holds`. Never renamed: reports of different releases are compared by it.
    pub name: &'static str,
    /// What every store promises, in one sentence.
    pub promise: &'static str,
    /// Numbers of the properties in `docs/CONTRACT.md` that it covers.
    pub properties: &'static [u16],
    /// Looks whether it holds.
    pub run: Run,
}

/// The function of a check.
pub type Run = fn(Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Broken>> + Send>>;

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({})", self.name)
    }
}

/// What a check found, when it found nothing broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise holds.
    Held,
    /// The store does not make this promise, and refused when it was asked.
    Refused(Refusal),
    /// The promise says nothing of such a store, for this reason: nothing was asked.
    NotApplicable(String),
    /// It could not be tried, for this reason.
    NotRun(String),
}

impl Outcome {
    /// What a check says of a promise that a store refused by `answer`.
    ///
    /// # Errors
    /// When the answer is no refusal: its kind is not `Unsupported`.
    pub fn refused(answer: &Error, reason: impl Into<String>) -> Result<Self, Broken> {
        match answer.kind() {
            ErrorKind::Unsupported => Ok(Self::Refused(Refusal(reason.into()))),
            kind => Err(Broken::new(format!("{}: the store answered {kind:?}, wanted Unsupported", reason.into()))),
        }
    }
}

/// Why a promise is refused. Only [`Outcome::refused`] makes one, of a store's own answer: what was never asked is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

/// A promise that does not hold, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong, in a sentence.
    pub message: String,
    /// The calls that show it, in order; filled from the trace where the check gives none.
    pub history: Vec<String>,
}

impl Broken {
    /// A broken promise; the trace of the check's calls becomes its history.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), history: Vec::new() }
    }

    /// A broken promise with the calls that show it.
    pub fn shown_by(message: impl Into<String>, history: Vec<String>) -> Self {
        Self { message: message.into(), history }
    }
}

/// A call failed that had to succeed.
impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::new(format!("a call failed that had to succeed: {error:?}"))
    }
}

/// What a check says of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The promise holds.
    Held,
    /// It does not.
    Broken(Broken),
    /// Not promised, and refused when it was asked for.
    Refused(String),
    /// Nothing was asked, since the promise says nothing of such a store, for this reason. Never shown as held.
    NotApplicable(String),
    /// Not tried, for this reason. Never shown as held.
    NotRun(String),
}

impl Verdict {
    /// As reports show it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Broken(_) => "BROKEN",
            Self::Refused(_) => "refused",
            Self::NotApplicable(_) => "not applicable",
            Self::NotRun(_) => "not run",
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Held => Self::Held,
            Outcome::Refused(Refusal(reason)) => Self::Refused(reason),
            Outcome::NotApplicable(reason) => Self::NotApplicable(reason),
            Outcome::NotRun(reason) => Self::NotRun(reason),
        }
    }
}

/// Makes a [`Check`] of an async function of the same module.
macro_rules! check {
    ($name:literal, $promise:literal, [$($property:literal),* $(,)?], $run:ident) => {
        $crate::check::Check {
            name: $name,
            promise: $promise,
            properties: &[$($property),*],
            run: |context| Box::pin($run(context)),
        }
    };
}

/// Ends a check as broken unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::check::Broken::new(format!($($message)+)));
        }
    };
}

/// Ends a check as broken unless two values are equal; shows both.
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr, $($message:tt)+) => {
        match (&$found, &$wanted) {
            (found, wanted) => {
                if found != wanted {
                    let message = format!($($message)+);
                    return Err($crate::check::Broken::new(format!("{message}: found {found:?}, wanted {wanted:?}")));
                }
            }
        }
    };
}

/// Ends a check as broken unless a call failed with one kind; gives the error.
macro_rules! ensure_kind {
    ($result:expr, $kind:ident, $($message:tt)+) => {
        match $result {
            Err(error) if error.kind() == evstore_api::ErrorKind::$kind => error,
            Err(error) => {
                let message = format!($($message)+);
                return Err($crate::check::Broken::new(format!(
                    "{message}: failed with {error:?}, wanted {:?}", evstore_api::ErrorKind::$kind
                )));
            }
            Ok(found) => {
                let message = format!($($message)+);
                return Err($crate::check::Broken::new(format!(
                    "{message}: succeeded with {found:?}, wanted {:?}", evstore_api::ErrorKind::$kind
                )));
            }
        }
    };
}

pub(crate) use {check, ensure, ensure_eq, ensure_kind};

#[cfg(test)]
mod tests {
    use super::{Outcome, Verdict};
    use evstore_api::{Error, ErrorKind};

    #[test]
    fn only_what_a_store_refused_is_refused() {
        let refused = Outcome::refused(&Error::new(ErrorKind::Unsupported, "no"), "not promised").unwrap();
        assert_eq!(Verdict::from(refused), Verdict::Refused("not promised".into()));
        for kind in [ErrorKind::Invalid, ErrorKind::Conflict, ErrorKind::Unavailable] {
            assert!(Outcome::refused(&Error::new(kind, "no"), "not promised").is_err(), "{kind:?}");
        }
    }
}
