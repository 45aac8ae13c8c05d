//! Aggregates in a store: load one, execute a command on one. How a stream is folded is in `fold`.

use crate::aggregate::{self, Aggregate};
use crate::api::{
    Advice, Append, Appended, Clock, CommitId, CommitNumber, Deadline, DeleteSnapshot, Error, ErrorKind, EventStore,
    Events, Expected, Namespace, NewCommit, PutSnapshot, Result, Revision, Snapshot, SnapshotPut, StreamId,
    SystemClock,
};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::domain_event::DomainEvent;
use crate::fold::{Fold, FoldedFrom, Folder};
use crate::logged::Logged;
use crate::snapshots::{self, SnapshotPolicy, SnapshotRefused, StateCodec};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a call may take in all, where nothing else was said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long taking a snapshot may delay the answer to an append.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_millis(500);
/// How often a command is decided anew, at most.
const DECISIONS_MAX: u32 = 100;
/// Pauses between tries.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const NEWER_SCHEMA: FoldedFrom = FoldedFrom::EventsNotSnapshot(SnapshotRefused::NewerSchema);

/// The aggregates of one kind in one store. Cheap to clone.
///
/// ```
/// # use evstore::{Aggregate, CommitId, DomainEvent, ExecuteError, Repository, SnapshotPolicy};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
/// # enum OrderEvent { Placed { customer: String }, Shipped }
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Order { placed: bool, shipped: bool }
/// # impl Aggregate for Order {
/// #     const CATEGORY: &'static str = "order";
/// #     type Event = OrderEvent;
/// #     fn apply(&mut self, event: &OrderEvent) {
/// #         match event { OrderEvent::Placed { .. } => self.placed = true, OrderEvent::Shipped => self.shipped = true }
/// #     }
/// # }
/// impl Order {
///     fn ship(&self) -> Result<Vec<OrderEvent>, &'static str> {
///         match (self.placed, self.shipped) {
///             (false, _) => Err("there is no such order"),
///             (true, false) => Ok(vec![OrderEvent::Shipped]),
///             (true, true) => Ok(vec![]), // Nothing to do: nothing is appended.
///         }
///     }
/// }
///
/// # async fn example(events: std::sync::Arc<dyn evstore::EventStore>) -> Result<(), Box<dyn std::error::Error>> {
/// let orders = Repository::<Order>::new(events).with_snapshots(SnapshotPolicy::EveryEvents(100));
/// let request = CommitId::generate(); // Or the id that the request came with: repeating it is safe.
/// match orders.execute(42, request, Order::ship).await {
///     Ok(executed) => println!("order 42 is at revision {}", executed.revision),
///     Err(ExecuteError::Rejected(reason)) => println!("no: {reason}"),
///     Err(ExecuteError::Store(error)) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Repository<A> {
    events: Arc<dyn EventStore>,
    namespace: Namespace,
    codec: Option<StateCodec<A>>,
    policy: SnapshotPolicy,
    context: Context,
    timeout: Duration,
}

/// An aggregate as it was read.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    /// Its state; the default where it has no event.
    pub state: A,
    /// The last event that is folded in; 0 where there is none. What `execute_at` takes.
    pub revision: Revision,
    /// What the state was folded from.
    pub from: FoldedFrom,
}

/// The receipt of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// The aggregate's stream.
    pub stream: StreamId,
    /// Its last event then.
    pub revision: Revision,
    /// The commit; none where the decision had nothing to append. `repeated` says that the command was executed before.
    pub commit: Option<Appended>,
}

/// Why a command was not executed.
#[derive(Debug)]
pub enum ExecuteError<E> {
    /// The decision was no. Nothing was written.
    Rejected(E),
    /// The store could not do it; see its kind for what to do next. After `Indeterminate` repeat the call with the same
    /// commit id: if it was executed, its receipt comes back.
    Store(Error),
}

impl crate::Store {
    /// The aggregates of one kind in this store, each call within the store's `call_timeout`.
    #[must_use]
    pub fn repository<A: Aggregate>(&self) -> Repository<A> {
        Repository::new(self.events().clone()).with_timeout(self.call_timeout())
    }
}

/// On which state a command may be decided.
#[derive(Clone, Copy)]
enum Stand {
    Latest,
    At(Revision),
}

impl<A: Aggregate> Repository<A> {
    const IS_CATEGORY: () =
        assert!(aggregate::is_category(A::CATEGORY), "CATEGORY is empty, or has a `-` or a control character");

    /// The aggregates of this kind in a store: in the empty namespace, without snapshots, each call within 10 seconds.
    #[must_use]
    pub fn new(events: Arc<dyn EventStore>) -> Self {
        let () = Self::IS_CATEGORY;
        Self {
            events,
            namespace: Namespace::none(),
            codec: None,
            policy: SnapshotPolicy::Never,
            context: Context::none(),
            timeout: TIMEOUT,
        }
    }

    /// Uses snapshots, and takes them by this policy.
    ///
    /// A snapshot is a hint: one that is not of this stream, this history and this schema is passed over. Taking one never
    /// fails an append and delays its answer by half a second at most.
    #[must_use]
    pub fn with_snapshots(mut self, policy: SnapshotPolicy) -> Self
    where
        A: Serialize + DeserializeOwned,
    {
        self.codec = Some(StateCodec::json());
        self.policy = policy;
        self
    }

    /// Works on the streams of this namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Gives every event that is appended this context as its metadata.
    #[must_use]
    pub fn with_context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Lets each call take this long in all.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The stream of one aggregate.
    ///
    /// # Errors
    /// `Invalid` when the key is empty or makes no valid name.
    pub fn stream(&self, key: impl fmt::Display) -> Result<StreamId> {
        let key = key.to_string();
        if key.is_empty() {
            return Err(
                Error::new(ErrorKind::Invalid, "the key of an aggregate is empty").with("category", A::CATEGORY)
            );
        }
        StreamId::within(self.namespace.as_str(), format!("{}-{key}", A::CATEGORY))
    }

    /// Reads an aggregate. One without events is its default state at revision 0.
    ///
    /// # Errors
    /// `Gone` for a deleted one. `HistoryLost` when events were truncated and no snapshot stands for them. `Schema` or
    /// `Corrupt` when an event does not read.
    pub async fn load(&self, key: impl fmt::Display) -> Result<Loaded<A>> {
        let stream = self.stream(key)?;
        let fold = self.folder(&stream, None, Deadline::within(self.timeout)).fold().await?;
        Ok(Loaded { state: fold.state, revision: fold.revision, from: fold.from })
    }

    /// Decides on the aggregate's present state and appends what was decided.
    ///
    /// # Behavior
    /// The commit id is looked up before anything is decided: a command that was executed before gets its first receipt,
    /// `repeated`, and is not decided again. When another writer was faster, the decision is made anew on the newer state,
    /// under the same id, up to 100 times. When the outcome of an append is unknown, the same bytes are repeated until it is
    /// known or the time is up. No event decided means that nothing is appended; such a command is decided again when it
    /// is repeated.
    ///
    /// # Errors
    /// `Rejected` with what the decision says; `Store` with `Conflict` when others were faster every time, `Indeterminate`
    /// when the time was up before the outcome was known, and what appending and reading fail with.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the commit written or not. Repeating the call with the same id finds out.
    pub async fn execute<E>(
        &self,
        key: impl fmt::Display,
        commit: CommitId,
        decide: impl Fn(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<Executed, ExecuteError<E>> {
        let stream = self.stream(key)?;
        self.run(stream, commit, Stand::Latest, decide).await
    }

    /// As [`execute`](Self::execute), but only on the state of exactly this revision: what a user saw before saying yes.
    ///
    /// # Errors
    /// `Store` with `Conflict` when the aggregate is at another revision; nothing was written and nothing is decided anew.
    pub async fn execute_at<E>(
        &self,
        key: impl fmt::Display,
        revision: Revision,
        commit: CommitId,
        decide: impl Fn(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<Executed, ExecuteError<E>> {
        let stream = self.stream(key)?;
        self.run(stream, commit, Stand::At(revision), decide).await
    }

    /// Takes a snapshot now, whatever the policy.
    ///
    /// # Errors
    /// As [`load`](Self::load), and what keeping a snapshot fails with; `NotFound` for an aggregate without events; `Schema`
    /// where a newer release keeps its own.
    pub async fn take_snapshot(&self, key: impl fmt::Display) -> Result<SnapshotPut>
    where
        A: Serialize + DeserializeOwned,
    {
        let stream = self.stream(key)?;
        let deadline = Deadline::within(self.timeout);
        let fold = self.folder(&stream, None, deadline).fold().await?;
        let Some((number, commit)) = fold.last else {
            return Err(Error::new(ErrorKind::NotFound, "the stream has no event").with("stream", stream));
        };
        if fold.from == NEWER_SCHEMA {
            let error = Error::new(ErrorKind::Schema, "a snapshot of a newer schema is kept");
            return Err(error.with("stream", stream).with("schema", A::SNAPSHOT_SCHEMA));
        }
        let data = (StateCodec::<A>::json().encode)(&fold.state)?;
        let snapshot = snapshot::<A>(&stream, fold.revision, number, commit, data)?;
        self.put_snapshot(snapshot, fold.refused_at, deadline).await
    }

    /// Keeps a snapshot. One that was refused and stands higher would be kept instead, and refused until it is overtaken: it
    /// goes first. The stream was folded without it, so that nothing is lost with it.
    async fn put_snapshot(
        &self,
        snapshot: Snapshot,
        refused_at: Option<Revision>,
        deadline: Deadline,
    ) -> Result<SnapshotPut> {
        if refused_at.is_some_and(|refused| refused >= snapshot.revision) {
            self.events.delete_snapshot(DeleteSnapshot { stream: snapshot.stream.clone(), deadline }).await?;
        }
        self.events.put_snapshot(PutSnapshot { snapshot, deadline }).await
    }

    async fn run<E>(
        &self,
        stream: StreamId,
        commit: CommitId,
        stand: Stand,
        decide: impl Fn(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<Executed, ExecuteError<E>> {
        let deadline = Deadline::within(self.timeout);
        let folder = self.folder(&stream, Some(commit), deadline);
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, &commit.0);
        let mut fold = match before_deciding(&folder, commit).await? {
            Before::Executed(receipt) => return Ok(Executed::of(stream, receipt)),
            Before::New(fold) => fold,
        };
        for decisions in 1.. {
            check_stand(&stream, stand, &fold)?;
            let decided = decide(&fold.state).map_err(ExecuteError::Rejected)?;
            if decided.is_empty() {
                return Ok(Executed { revision: fold.revision, stream, commit: None });
            }
            let append = self.append(&stream, commit, fold.revision, &decided, deadline)?;
            let bytes = append.commit.events.as_slice().iter().map(|new| new.data.len() + new.metadata.len()).sum();
            let conflict = match self.append_until_known(append).await {
                Ok(receipt) => {
                    self.keep_snapshot(&stream, fold, &decided, bytes, &receipt).await;
                    return Ok(Executed::of(stream, receipt));
                }
                // Executed meanwhile, with another outcome because it was decided on another state.
                Err(error) if error.kind() == ErrorKind::IdReused => match folder.find(commit).await? {
                    Some(receipt) => return Ok(Executed::of(stream, receipt)),
                    None => return Err(error.into()),
                },
                Err(error) if error.kind() == ErrorKind::Conflict => error,
                Err(error) => return Err(error.into()),
            };
            let pause = pauses.pause();
            let again = matches!(stand, Stand::Latest) && decisions < DECISIONS_MAX && pause < deadline.remaining();
            if !again {
                return Err(conflict.into());
            }
            // The first conflict is likely over already; those who meet again wait.
            if decisions > 1 {
                tokio::time::sleep(pause).await;
            }
            fold = folder.catch_up(fold).await?;
            if let Some(receipt) = fold.met {
                return Ok(Executed::of(stream, receipt));
            }
        }
        unreachable!("the loop ends by its bound on decisions")
    }

    fn folder<'a>(&'a self, stream: &'a StreamId, sought: Option<CommitId>, deadline: Deadline) -> Folder<'a, A> {
        Folder { events: &*self.events, stream, codec: self.codec, sought, deadline }
    }

    fn append(
        &self,
        stream: &StreamId,
        commit: CommitId,
        revision: Revision,
        decided: &[A::Event],
        deadline: Deadline,
    ) -> Result<Append> {
        let metadata = self.context.to_metadata()?;
        let mut events = Vec::with_capacity(decided.len());
        for event in decided {
            let mut new = event.encode()?;
            // An event type may bring metadata of its own.
            if new.metadata.is_empty() {
                new.metadata = metadata.clone();
            }
            events.push(new);
        }
        let commit = NewCommit { id: commit, events: Events::new(events)? };
        Ok(Append { stream: stream.clone(), expected: Expected::At(revision), commit, deadline })
    }

    /// Repeats the same bytes until the store says whether they are written.
    async fn append_until_known(&self, append: Append) -> Result<Appended> {
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, &append.commit.id.0);
        let mut unknown = None;
        loop {
            let error = match self.events.append(append.clone()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            let pause = pauses.pause().max(error.pause().unwrap_or_default());
            let again = matches!(error.advice(), Advice::RepeatSameCommit | Advice::RetryLater);
            if !again || pause >= append.deadline.remaining() {
                return Err(verdict(error, unknown, append.expected));
            }
            if error.advice() == Advice::RepeatSameCommit {
                unknown = Some(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Keeps a snapshot of the state after an append, if the policy wants one. Whatever happens here, the append was made.
    async fn keep_snapshot(
        &self,
        stream: &StreamId,
        fold: Fold<A>,
        decided: &[A::Event],
        bytes: usize,
        receipt: &Appended,
    ) {
        let Some(codec) = self.codec else { return };
        if receipt.repeated || receipt.first != fold.revision.next() {
            return;
        }
        // In a rolling deploy the newer release snapshots for itself: two that overwrite each other's would both replay.
        if fold.from == NEWER_SCHEMA {
            return;
        }
        let Fold { mut state, mut tail, refused_at, .. } = fold;
        decided.iter().for_each(|event| state.apply(event));
        tail.events += decided.len() as u64;
        tail.bytes += bytes as u64;
        let kept = async {
            let Some(data) = self.policy.due(tail, || (codec.encode)(&state))? else { return Ok(()) };
            let snapshot = snapshot::<A>(stream, receipt.last, receipt.number, receipt.commit, data)?;
            self.put_snapshot(snapshot, refused_at, Deadline::within(SNAPSHOT_WAIT_MAX)).await.map(|_| ())
        };
        let category = A::CATEGORY;
        match tokio::time::timeout(SNAPSHOT_WAIT_MAX, kept).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(category, error = %Logged(&error), "a snapshot was not kept"),
            Err(_) => tracing::warn!(category, "a snapshot was not kept in time"),
        }
    }
}

fn snapshot<A: Aggregate>(
    stream: &StreamId,
    revision: Revision,
    number: CommitNumber,
    commit: CommitId,
    data: Bytes,
) -> Result<Snapshot> {
    Ok(Snapshot {
        stream: stream.clone(),
        revision,
        number,
        commit,
        schema: A::SNAPSHOT_SCHEMA,
        content_type: snapshots::content_type(&data)?,
        data,
        taken_at: SystemClock.now(),
    })
}

/// What there is to know before a decision.
#[expect(clippy::large_enum_variant, reason = "one is made for each command, and none is kept")]
enum Before<A> {
    Executed(Appended),
    New(Fold<A>),
}

/// Folds the state and looks the commit id up, in an order that matters: an id that is not there after the state was read
/// is not in the state either. The other way round, a twin of this command could be decided upon its own effects.
async fn before_deciding<A: Aggregate>(folder: &Folder<'_, A>, commit: CommitId) -> Result<Before<A>> {
    match folder.fold().await {
        Ok(Fold { met: Some(receipt), .. }) => Ok(Before::Executed(receipt)),
        Ok(fold) if fold.met_all => Ok(Before::New(fold)),
        Ok(fold) => Ok(match folder.find(commit).await? {
            Some(receipt) => Before::Executed(receipt),
            None => Before::New(fold),
        }),
        // Deleted, truncated or unreadable: a command that was executed before still gets its receipt.
        Err(error) => match folder.find(commit).await {
            Ok(Some(receipt)) => Ok(Before::Executed(receipt)),
            Ok(None) | Err(_) => Err(error),
        },
    }
}

fn check_stand<A>(stream: &StreamId, stand: Stand, fold: &Fold<A>) -> Result<()> {
    match stand {
        Stand::At(revision) if revision != fold.revision => {
            Err(Error::new(ErrorKind::Conflict, "the aggregate is at another revision")
                .with("stream", stream)
                .with("expected", revision)
                .with("actual", fold.revision)
                .at_head(fold.head.clone()))
        }
        Stand::At(_) | Stand::Latest => Ok(()),
    }
}

/// What to answer when the last try failed and an earlier one may have been written.
fn verdict(last: Error, unknown: Option<Error>, expected: Expected) -> Error {
    // A commit id is looked up first, so that these say the earlier try was not written. Nor will it be: what it expects of
    // a stream that has gone past it can't hold again.
    let settles = match (last.kind(), expected) {
        (ErrorKind::Conflict, Expected::At(revision)) => last.head().is_none_or(|head| head.revision > revision),
        (ErrorKind::IdReused | ErrorKind::Gone | ErrorKind::Moved, _) => true,
        (_, _) => false,
    };
    match unknown {
        Some(unknown) if !settles => unknown,
        Some(_) | None => last,
    }
}

impl Executed {
    /// The receipt of a commit that was appended to a stream.
    #[must_use]
    pub fn of(stream: StreamId, commit: Appended) -> Self {
        Self { stream, revision: commit.last, commit: Some(commit) }
    }

    /// Whether the command was executed before, and this is the receipt that it got then.
    #[must_use]
    pub fn repeated(&self) -> bool {
        self.commit.as_ref().is_some_and(|commit| commit.repeated)
    }
}

impl<A> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Self {
            events: self.events.clone(),
            namespace: self.namespace.clone(),
            codec: self.codec,
            policy: self.policy,
            context: self.context.clone(),
            timeout: self.timeout,
        }
    }
}

impl<E> From<Error> for ExecuteError<E> {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl<E: fmt::Display> fmt::Display for ExecuteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ExecuteError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}
