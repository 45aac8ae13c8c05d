//! What ends a command early, and how it is told: a sentence and a hint for people, one JSON object for programs.

use evstore_api::{Advice, CommitId, Error, ErrorKind, Written};
use serde_json::{Map, Value, json};
use std::io;

/// The result of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The store, its config or a value from the command line was refused.
    Store(Error),
    /// The same, where the command knows better what to do next than the error's kind does.
    Advised {
        /// What was refused.
        error: Error,
        /// What to do next.
        hint: String,
    },
    /// The command line itself does not make sense.
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: String,
    },
    /// A file or a pipe could not be read or written.
    Io {
        /// What was being done, with the file's name.
        doing: String,
        /// Why it failed.
        cause: io::Error,
    },
    /// What was done could not be told: something was written before the output failed.
    Untold {
        /// What was being done.
        doing: String,
        /// Why it failed.
        cause: io::Error,
        /// The commit that was written; none where it was no commit.
        commit: Option<CommitId>,
    },
    /// A promise is broken, or a difference was found. The findings are on stdout already.
    Broken {
        /// What was found, in a sentence.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// It has to be waited for. Nothing was changed.
    NotReady {
        /// What for, in a sentence.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// `doctor` found problems. They are on stdout already.
    Problems {
        /// How many.
        count: usize,
    },
    /// Ctrl-C.
    Interrupted {
        /// The commit that was under way, if there was one: it may have been written.
        commit: Option<CommitId>,
        /// What was done until then and what to do next.
        hint: String,
    },
    /// Whoever read our output has left. That is no failure of ours, and nobody is there to be told.
    ReaderLeft,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// The command line does not make sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A file or pipe failed.
    pub fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderLeft,
            _ => Self::Io { doing: doing.into(), cause },
        }
    }

    /// For people: what happened, and what to do next. None where there is nobody to tell.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let (message, hint) = match self {
            Self::ReaderLeft => return None,
            Self::Store(error) => (store_sentence(error), store_hint(error)),
            Self::Advised { error, hint } => (store_sentence(error), hint.clone()),
            Self::Usage { message, hint } | Self::Broken { message, hint } | Self::NotReady { message, hint } => {
                (message.clone(), hint.clone())
            }
            Self::Io { doing, cause } => (format!("{doing}: {cause}"), String::new()),
            Self::Untold { doing, cause, commit } => (format!("{doing}: {cause}"), untold(*commit)),
            Self::Problems { count } => (problems(*count), String::new()),
            Self::Interrupted { hint, .. } => ("interrupted".to_owned(), hint.clone()),
        };
        Some(if hint.is_empty() { message } else { format!("{message}\n  {hint}") })
    }

    /// What happened, in one line and without what to do next.
    #[must_use]
    pub fn sentence(&self) -> String {
        self.text().unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    }

    /// For programs: one object.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        let object = |kind: &str, message: &str, advice: &str, written: Written, commit: Option<CommitId>| {
            json!({
                "kind": kind,
                "message": message,
                "context": {},
                "advice": advice,
                "written": written_name(written),
                "commit": commit.map(|commit| commit.to_string()),
            })
        };
        let (mut value, hint) = match self {
            Self::ReaderLeft => return None,
            Self::Store(error) => (store_json(error), store_hint(error)),
            Self::Advised { error, hint } => (store_json(error), hint.clone()),
            Self::Usage { message, hint } => {
                (object("usage", message, "mend_request", Written::No, None), hint.clone())
            }
            Self::Io { doing, cause } => {
                let message = format!("{doing}: {cause}");
                (object("io", &message, io_advice(cause), Written::No, None), String::new())
            }
            Self::Untold { doing, cause, commit } => {
                let message = format!("{doing}: {cause}");
                (object("io", &message, "repeat_same_commit", Written::Unknown, *commit), untold(*commit))
            }
            Self::Broken { message, hint } => {
                (object("broken", message, "ask_operator", Written::No, None), hint.clone())
            }
            Self::NotReady { message, hint } => {
                (object("not_ready", message, "retry_later", Written::No, None), hint.clone())
            }
            Self::Problems { count } => {
                (object("problems", &problems(*count), "mend_setup", Written::No, None), String::new())
            }
            Self::Interrupted { commit, hint } => {
                let written = if commit.is_some() { Written::Unknown } else { Written::No };
                (object("interrupted", "interrupted", "repeat_same_commit", written, *commit), hint.clone())
            }
        };
        if !hint.is_empty() {
            value["hint"] = hint.into();
        }
        Some(value)
    }
}

/// What to do about a file that failed: most often another one was meant.
fn io_advice(cause: &io::Error) -> &'static str {
    let advice = match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Advice::MendRequest,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Advice::MendSetup,
        _ => Advice::AskOperator,
    };
    advice.name()
}

/// What to do where the outcome could not be told.
fn untold(commit: Option<CommitId>) -> String {
    match commit {
        Some(commit) => format!("it was written before: the same command with --commit {commit} gives its receipt"),
        None => "it was written before: look before it is repeated".into(),
    }
}

fn problems(count: usize) -> String {
    if count == 1 { "there is a problem".into() } else { format!("there are {count} problems") }
}

/// The name of an outcome, for programs.
fn written_name(written: Written) -> &'static str {
    match written {
        Written::No => "no",
        Written::Unknown => "unknown",
    }
}

/// The sentence, its facts and its cause; what a conflict found and where a stream went included.
fn store_sentence(error: &Error) -> String {
    let facts: Vec<String> = facts(error).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut text = error.message().to_owned();
    if !facts.is_empty() {
        text.push_str(&format!(" ({})", facts.join(", ")));
    }
    if let Some(cause) = std::error::Error::source(error) {
        text.push_str(&format!(": {cause}"));
    }
    text
}

/// What the error says as facts, with the head of a conflict and the store that took over.
fn facts(error: &Error) -> Vec<(&'static str, String)> {
    let mut facts = error.context().to_vec();
    let has = |facts: &[(&str, String)], name| facts.iter().any(|(known, _)| *known == name);
    if let Some(head) = error.head().filter(|_| !has(&facts, "actual")) {
        facts.push(("actual", head.revision.to_string()));
    }
    if let Some(store) = error.moved_to().filter(|_| !has(&facts, "to")) {
        facts.push(("to", store.to_string()));
    }
    facts
}

fn store_json(error: &Error) -> Value {
    let context: Map<String, Value> =
        facts(error).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut value = json!({
        "kind": error.kind().name(),
        "message": error.message(),
        "context": context,
        "advice": error.advice().name(),
        "written": written_name(error.written()),
        "commit": error.commit().map(|commit| commit.to_string()),
    });
    if let Some(cause) = std::error::Error::source(error) {
        value["cause"] = cause.to_string().into();
    }
    value
}

/// What to do next, in words.
fn store_hint(error: &Error) -> String {
    match (error.advice(), error.commit()) {
        (Advice::MendRequest | Advice::Accept, _) => String::new(),
        (Advice::DecideAgain, _) => "nothing was written: read the stream again and decide again".into(),
        (Advice::Follow, _) => "nothing was written: use the store that it names (-s)".into(),
        (Advice::RetryLater, _) if error.kind() == ErrorKind::Fenced => {
            "nothing was written: try again in a moment; `evstore doctor` tells what the store is closed for".into()
        }
        (Advice::RetryLater, _) => "nothing was written: try again in a moment".into(),
        (Advice::AllowMoreTime, _) => "nothing was sent in time: try again, or raise the store's timeout".into(),
        (Advice::RepeatSameCommit, Some(commit)) => {
            format!("it may have been written: repeat the same command with --commit {commit} to find out")
        }
        (Advice::RepeatSameCommit, None) => "it may have been written: repeat the same command to find out".into(),
        (Advice::AskOperator, _) => "do not retry: `evstore verify` shows what is affected".into(),
        (Advice::MendSetup, _) => "`evstore doctor` shows what is missing; `evstore schema apply` makes it".into(),
        (Advice::Reopen, _) => "run the command again".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Head, Revision};

    #[test]
    fn a_conflict_tells_what_is_there() {
        let head = Head { revision: Revision(7), ..Head::missing() };
        let error = Error::new(ErrorKind::Conflict, "not as expected").at_head(head);
        let value = Failure::Store(error).json().unwrap();
        assert_eq!(
            (&value["kind"], &value["context"]["actual"], &value["written"]),
            (&"conflict".into(), &"7".into(), &"no".into())
        );
    }

    #[test]
    fn an_unknown_outcome_names_the_commit_to_repeat() {
        let commit = CommitId([1; 16]);
        let error = Error::new(ErrorKind::Indeterminate, "no answer").of_commit(commit);
        assert!(Failure::Store(error).text().unwrap().contains(&format!("--commit {commit}")));
    }
}
