//! What went wrong, and what the caller does next. Decide by [`ErrorKind`] or [`Advice`], never by text.

use crate::id::CommitId;
use crate::name::StoreName;
use crate::stream::Head;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, one kind for each different thing that a caller would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request, a name or a setting is malformed. Nothing was written. Mend it.
    Invalid,
    /// Something is larger than the store declares. Nothing was written. Split it, or choose a store with a larger limit.
    TooLarge,
    /// The store does not promise this operation. Nothing was written. See its capabilities.
    Unsupported,
    /// The expectation does not hold. Nothing was written. Read again and decide again; [`Error::head`] has what is there.
    Conflict,
    /// The commit id was used in this stream for other content. Nothing was written. Choose a new id for new content.
    IdReused,
    /// There is no such thing. Nothing was written.
    NotFound,
    /// The stream was deleted for good. Nothing was written. Nothing can ever be appended under this name.
    Gone,
    /// The store or the stream lives elsewhere. Nothing was written. Repeat the same commit at [`Error::moved_to`].
    Moved,
    /// The store is closed for a moment, by a fence or an import. Nothing was written. Wait and repeat the same commit.
    Fenced,
    /// A cursor is malformed or comes from another store. Start from a position that this store gave.
    CursorRefused,
    /// The history that a cursor or a writer stood on was lost, by a failover or a restore. Stop and let an operator decide.
    HistoryLost,
    /// The engine asks for a slower pace. Nothing was written. Back off and repeat.
    Throttled,
    /// The engine could not be reached, or refused before it began. Nothing was written. Repeat later.
    Unavailable,
    /// The deadline passed before anything was sent. Nothing was written. Repeat with more time.
    DeadlineExceeded,
    /// Sent, and no answer came. It may or may not have been written. Repeat the same commit to find out.
    Indeterminate,
    /// Stored bytes fail their checksum or cannot be understood. Never retry; see which commit, and restore it.
    Corrupt,
    /// The credentials do not allow this. Nothing was written.
    Denied,
    /// The store's schema is missing, older or newer than this release understands. Nothing was written.
    Schema,
    /// The handle was closed. Nothing was written. Open the store again.
    Closed,
}

impl ErrorKind {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 19] = [
        Self::Invalid,
        Self::TooLarge,
        Self::Unsupported,
        Self::Conflict,
        Self::IdReused,
        Self::NotFound,
        Self::Gone,
        Self::Moved,
        Self::Fenced,
        Self::CursorRefused,
        Self::HistoryLost,
        Self::Throttled,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Indeterminate,
        Self::Corrupt,
        Self::Denied,
        Self::Schema,
        Self::Closed,
    ];

    /// The name for programs: `-o json`, metrics labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::IdReused => "id_reused",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Moved => "moved",
            Self::Fenced => "fenced",
            Self::CursorRefused => "cursor_refused",
            Self::HistoryLost => "history_lost",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Indeterminate => "indeterminate",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Schema => "schema",
            Self::Closed => "closed",
        }
    }

    /// What to do next, for a caller that does not know better.
    #[must_use]
    pub fn advice(self) -> Advice {
        match self {
            Self::Invalid | Self::TooLarge | Self::Unsupported | Self::IdReused | Self::CursorRefused => {
                Advice::MendRequest
            }
            Self::Conflict => Advice::DecideAgain,
            Self::NotFound | Self::Gone => Advice::Accept,
            Self::Moved => Advice::Follow,
            Self::Fenced | Self::Throttled | Self::Unavailable => Advice::RetryLater,
            Self::DeadlineExceeded => Advice::AllowMoreTime,
            Self::Indeterminate => Advice::RepeatSameCommit,
            Self::HistoryLost | Self::Corrupt => Advice::AskOperator,
            Self::Denied | Self::Schema => Advice::MendSetup,
            Self::Closed => Advice::Reopen,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// The same request can never succeed: change it.
    MendRequest,
    /// Read the stream again and decide again, under the same commit id.
    DecideAgain,
    /// It is an answer, not a failure.
    Accept,
    /// Repeat the same commit at the store that the error names.
    Follow,
    /// Nothing was written: repeat after a pause.
    RetryLater,
    /// Nothing was written: repeat with a later deadline.
    AllowMoreTime,
    /// Repeat exactly the same commit: its id tells whether it was written.
    RepeatSameCommit,
    /// Stop, and call the person who runs the store.
    AskOperator,
    /// Change credentials or apply the schema, then repeat.
    MendSetup,
    /// Open the store again, then repeat.
    Reopen,
}

impl Advice {
    /// The name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MendRequest => "mend_request",
            Self::DecideAgain => "decide_again",
            Self::Accept => "accept",
            Self::Follow => "follow",
            Self::RetryLater => "retry_later",
            Self::AllowMoreTime => "allow_more_time",
            Self::RepeatSameCommit => "repeat_same_commit",
            Self::AskOperator => "ask_operator",
            Self::MendSetup => "mend_setup",
            Self::Reopen => "reopen",
        }
    }

    /// For people, as a request.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::MendRequest => "the same request can never succeed: change it",
            Self::DecideAgain => "read the stream again and decide again, under the same commit id",
            Self::Accept => "it is an answer, not a failure",
            Self::Follow => "repeat the same commit at the store that the error names",
            Self::RetryLater => "repeat after a pause",
            Self::AllowMoreTime => "repeat with a later deadline",
            Self::RepeatSameCommit => "repeat exactly the same commit: its id tells whether it was written",
            Self::AskOperator => "stop, and call the person who runs the store",
            Self::MendSetup => "change credentials or apply the schema, then repeat",
            Self::Reopen => "open the store again, then repeat",
        }
    }
}

/// Whether the failed call may have written something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Written {
    /// Certainly not.
    No,
    /// Nobody knows yet.
    Unknown,
}

/// A failed call: its kind, a fixed sentence, the facts, and the cause.
///
/// No message, fact or cause holds a payload, a secret or a URL with credentials.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: &'static str,
    context: Vec<(&'static str, String)>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    head: Option<Head>,
    moved_to: Option<StoreName>,
    commit: Option<CommitId>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of a kind, with a fixed sentence in lower case.
    #[must_use]
    pub fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self(Box::new(Inner {
            kind,
            message,
            context: Vec::new(),
            cause: None,
            head: None,
            moved_to: None,
            commit: None,
            retry_after: None,
        }))
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds what caused it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds the head that a conflict found.
    #[must_use]
    pub fn at_head(mut self, head: Head) -> Self {
        self.0.head = Some(head);
        self
    }

    /// Adds the store that took over.
    #[must_use]
    pub fn to_store(mut self, store: StoreName) -> Self {
        self.0.moved_to = Some(store);
        self
    }

    /// Adds the commit that the call was about.
    #[must_use]
    pub fn of_commit(mut self, commit: CommitId) -> Self {
        self.0.commit = Some(commit);
        self
    }

    /// Adds how long the engine asks to wait.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        self.0.kind.advice()
    }

    /// Whether something may have been written.
    #[must_use]
    pub fn written(&self) -> Written {
        match self.0.kind {
            ErrorKind::Indeterminate => Written::Unknown,
            _ => Written::No,
        }
    }

    /// The fixed sentence.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.0.message
    }

    /// The facts, in the order in which they were added.
    #[must_use]
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The head that a `Conflict` found, read in the same step: no second read is needed.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.0.head.as_ref()
    }

    /// Where a `Moved` store or stream lives now.
    #[must_use]
    pub fn moved_to(&self) -> Option<&StoreName> {
        self.0.moved_to.as_ref()
    }

    /// The commit that the call was about.
    #[must_use]
    pub fn commit(&self) -> Option<CommitId> {
        self.0.commit
    }

    /// How long the engine asks to wait before the next try.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

/// The sentence and its facts in brackets; the cause follows behind a colon.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message)?;
        for (i, (name, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{name}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}
