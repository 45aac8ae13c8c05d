//! Follows a move: asks the store that its streams live in now, whichever the call began at.
//!
//! A write finds out by itself, as the store that is left refuses it. A read would not: the store is asked whether it is still the
//! owner, unless it said so a moment ago. Where the config names targets of a move the read waits for the answer; else it does not, and a
//! later one heeds it. What stands in the records is all that decides; nobody is told of a move.

use super::layered::Layer;
use super::presence::Presence;
use super::request::{Effect, Request};
use super::{Inner, inner};
use crate::backoff::Backoff;
use crate::config::Config;
use crate::registry::Registry;
use evstore_api::capabilities::Processes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Cursor, Deadline, Error, ErrorKind, EventStore, FeedFilter, FeedStart, Position, PutRecord, ReadFeed, ReadRecord,
    RecordExpected, RecordKey, RecordKind, RecordName, RecordNumber, Result, StoreName,
};
use evstore_kit::presence::Reached;
use evstore_kit::refusal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How long a store is believed to be the owner that said so: a reader that has not noticed a move is behind by no more than this.
const BELIEVED: Duration = Duration::from_millis(250);
/// Longest that the question may take, so that a store that can be read but not written does not stop readers.
pub(super) const ASKED_MAX: Duration = Duration::from_secs(2);
/// Longest that opening the store and a look at its history may take, for whoever waits.
const FOLLOW_MAX: Duration = Duration::from_secs(30);
/// Longest time that is waited for more of a feed before the question is asked again.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Pauses while two stores name each other: it is decided who takes over, and that one is about to be opened.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The record that is asked to change and never does.
const QUESTION: &str = "evstore-owner";
/// The record of the kind `presence` in which a migrator tells who took over.
const OWNER: &str = "evstore-owner";

/// The layer.
pub struct Route {
    /// Whether the config names targets of a move.
    expects_move: bool,
    places: Arc<Places>,
    presence: Presence,
}

/// The stores of the config.
pub(super) struct Places {
    registry: Registry,
    pub config: Config,
    /// Where calls go now.
    now: Mutex<Arc<Place>>,
    /// Told when that changes.
    pub followed: Notify,
    /// Where calls are about to go. Opening a store may mean reading much of it, and a node has hundreds of calls that are refused at once.
    going: Mutex<BTreeMap<StoreName, watch::Receiver<Gone>>>,
    /// Every one that was opened, the first one included.
    opened: Mutex<BTreeMap<StoreName, Arc<Place>>>,
}

/// What became of going to another store; none yet.
type Gone = Option<Result<()>>;

/// A store that calls can go to.
pub(super) struct Place {
    pub name: StoreName,
    pub inner: Inner,
    /// When it last said that it is the owner; held while it is asked, so that many readers ask once.
    believed: tokio::sync::Mutex<Option<Instant>>,
    /// Whether it is being asked beside the reads.
    asking: AtomicBool,
    /// Where it said that its streams went, until a read heeds it.
    left_for: Mutex<Option<StoreName>>,
}

impl Place {
    fn new(name: StoreName, inner: Inner) -> Arc<Self> {
        let (asking, left_for) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { name, inner, believed: tokio::sync::Mutex::default(), asking, left_for })
    }

    pub fn is_on_a_server(&self) -> bool {
        match self.inner.store.capabilities().processes {
            Processes::Many => true,
            Processes::One | Processes::ManyLocal => false,
        }
    }

    /// What it said when it was last asked; asks it again beside the reads when that was too long ago.
    fn said(self: &Arc<Self>) -> Option<Error> {
        if let Some(to) = self.left_for.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Some(left_for(to));
        }
        let is_believed =
            self.believed.try_lock().is_ok_and(|believed| believed.is_some_and(|at| at.elapsed() < BELIEVED));
        if !is_believed && !self.asking.swap(true, Ordering::AcqRel) {
            let place = self.clone();
            tokio::spawn(async move {
                if let Ok(Some(moved)) = place.ask(Deadline::within(ASKED_MAX)).await {
                    *place.left_for.lock().unwrap_or_else(PoisonError::into_inner) = moved.moved_to().cloned();
                }
                place.asking.store(false, Ordering::Release);
            });
        }
        None
    }

    /// Asks whether it is the owner: gives its refusal where it is not.
    async fn ask(&self, deadline: Deadline) -> Result<Option<Error>> {
        // Whoever asks may not be polled for a while, and is not waited for longer than a question may take: the read itself has to tell.
        let turn = tokio::time::timeout_at(deadline.min(Deadline::within(ASKED_MAX)).0.into(), self.believed.lock());
        let Ok(mut believed) = turn.await else { return Ok(None) };
        if believed.is_some_and(|at| at.elapsed() < BELIEVED) {
            return Ok(None);
        }
        let asked_at = Instant::now();
        match self.inner.once.put_record(question(deadline)?).await {
            Err(error) if error.kind() == ErrorKind::Moved => Ok(Some(error)),
            // Whoever may only read is told by a record that the migrator leaves behind.
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                let moved = self.read_owner(deadline).await;
                if moved.is_none() {
                    *believed = Some(asked_at);
                }
                Ok(moved)
            }
            // One that is fenced is the owner until it says otherwise.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Fenced) => {
                *believed = Some(asked_at);
                Ok(None)
            }
            // It can't be reached, or not be written to: the read itself has to tell.
            Err(_) | Ok(_) => Ok(None),
        }
    }

    /// What comes of trying to reach it: whether it can be read, and written to with these credentials.
    pub async fn reach(&self) -> Reached {
        let head = match self.inner.once.feed_head(Deadline::within(ASKED_MAX)).await {
            Ok(head) => head,
            Err(error) => return Reached::Not(error.kind().name().to_owned()),
        };
        let history = head.cursor.incarnation().to_string();
        let Ok(question) = question(Deadline::within(ASKED_MAX)) else { return Reached::Reads(history) };
        match self.inner.once.put_record(question).await {
            Ok(_) => Reached::Writes(history),
            Err(error) => match error.kind() {
                ErrorKind::Moved | ErrorKind::Conflict | ErrorKind::Fenced => Reached::Writes(history),
                ErrorKind::Denied | ErrorKind::Unsupported => Reached::Reads(history),
                other => Reached::Not(other.name().to_owned()),
            },
        }
    }

    /// What a migrator left behind for those who may only read: the name of the store that took over. It comes a moment after that.
    async fn read_owner(&self, deadline: Deadline) -> Option<Error> {
        let key = RecordKey { kind: RecordKind::Presence, name: RecordName::new(OWNER).ok()? };
        let deadline = deadline.min(Deadline::within(ASKED_MAX));
        let record = self.inner.once.read_record(ReadRecord { key, deadline }).await.ok()??;
        let name = StoreName::new(std::str::from_utf8(&record.value?).ok()?).ok()?;
        (name != self.name).then(|| left_for(name))
    }

    /// Whether the present history of another store is one of this one's. After a restart of its server either may have begun a new
    /// one that the other has not heard of yet.
    async fn knows(&self, other: &Self, deadline: Deadline) -> Result<bool> {
        let begins = Cursor::total(other.inner.store.feed_head(deadline).await?.cursor.incarnation(), Position(0));
        let request =
            ReadFeed { from: FeedStart::After(begins), filter: FeedFilter::none(), limit: 1, max_bytes: 1, deadline };
        match self.inner.store.read_feed(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::CursorRefused => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Route {
    /// Begins at the store of this name.
    pub fn new(name: &StoreName, inner: Inner, registry: &Registry, config: &Config) -> Self {
        let home = Place::new(name.clone(), inner);
        let opened = Mutex::new(BTreeMap::from([(name.clone(), home.clone())]));
        let expects_move = !config.migrate().targets().is_empty();
        let (registry, config) = (registry.clone(), config.clone());
        let places = Places {
            registry,
            config,
            now: Mutex::new(home),
            followed: Notify::new(),
            going: Mutex::default(),
            opened,
        };
        let places = Arc::new(places);
        Self { expects_move, presence: Presence::of(name, places.clone()), places }
    }

    /// Goes where a refusal points, from the place that gave it. Of many calls that were refused at once one goes, and the others find it
    /// done, or failed.
    async fn follow(&self, from: &Arc<Place>, moved: Error, deadline: Deadline) -> Result<StoreName> {
        let Some(to) = moved.moved_to().cloned() else { return Err(moved) };
        if let Some(unknown) = self.places.unknown(&to, moved) {
            return Err(unknown);
        }
        let mut done = match self.places.go_to(from, &to) {
            Some(done) => done,
            None => return Ok(to),
        };
        let Ok(done) = tokio::time::timeout_at(deadline.0.into(), done.wait_for(Option::is_some)).await else {
            let message = "the deadline passed while the store was being opened that the streams moved to";
            return Err(Error::new(ErrorKind::DeadlineExceeded, message).with("to", &to));
        };
        match done.as_deref().ok().and_then(Option::as_ref) {
            Some(Ok(())) => Ok(to),
            Some(Err(error)) => Err(refusal::again(error)),
            None => Err(Error::new(ErrorKind::Unavailable, "the call that follows a move was cut off").with("to", &to)),
        }
    }
}

impl Places {
    /// Begins to go to another store, or joins whoever does; none where calls go there by now. It is a task of its own: a caller may be
    /// dropped, or not be polled while it waits for another call, and must not keep others from following.
    fn go_to(self: &Arc<Self>, from: &Arc<Place>, to: &StoreName) -> Option<watch::Receiver<Gone>> {
        let mut going = self.going();
        if self.now().name == *to {
            return None;
        }
        // One whose task was cut off has no sender any more.
        if let Some(done) = going.get(to).filter(|done| done.has_changed().is_ok()) {
            return Some(done.clone());
        }
        let (tell, done) = watch::channel(None);
        going.insert(to.clone(), done.clone());
        let (places, from, to) = (self.clone(), from.clone(), to.clone());
        tokio::spawn(async move {
            let gone = places.go(&from, &to, Deadline::within(FOLLOW_MAX)).await;
            places.going().remove(&to);
            tell.send_replace(Some(gone));
        });
        Some(done)
    }

    async fn go(&self, from: &Place, to: &StoreName, deadline: Deadline) -> Result<()> {
        let place = self.open(to).await?;
        // A store of the right name and another history was made by mistake: appending there would be a fork.
        if !(place.knows(from, deadline).await? || from.knows(&place, deadline).await?) {
            return Err(Error::new(
                ErrorKind::HistoryLost,
                "the store that the streams moved to has another history; check its settings in the config",
            )
            .with("store", &from.name)
            .with("to", to));
        }
        tracing::info!(from = %from.name, %to, "calls follow a move");
        // What it said when the streams left it is no longer so.
        place.left_for.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = place;
        self.followed.notify_one();
        Ok(())
    }

    fn going(&self) -> MutexGuard<'_, BTreeMap<StoreName, watch::Receiver<Gone>>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where calls go now.
    pub fn now(&self) -> Arc<Place> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a store is kept open.
    pub fn is_kept(&self, name: &StoreName) -> bool {
        self.opened().contains_key(name)
    }

    /// Tries to reach a store, and keeps it open where it is one on a server, so that no connection has to be made inside a hand-over.
    pub async fn reach(&self, name: &StoreName) -> Reached {
        let known = self.opened().get(name).cloned();
        let place = match known {
            Some(place) => place,
            None => match self.open_anew(name).await {
                Ok(place) => place,
                // One that is not there yet, or can't be reached, is tried again later.
                Err(error) => return Reached::Not(error.kind().name().to_owned()),
            },
        };
        let reached = place.reach().await;
        // A file is opened in a moment, and somebody may put another one in its place before it is needed.
        if place.is_on_a_server() && !matches!(reached, Reached::Not(_)) {
            self.keep(place);
        }
        reached
    }

    /// Opens a store of the config, once.
    async fn open(&self, name: &StoreName) -> Result<Arc<Place>> {
        if let Some(place) = self.opened().get(name) {
            return Ok(place.clone());
        }
        // Not under the lock: a store that can't be reached must not keep calls from others.
        let place = self.open_anew(name).await?;
        Ok(self.keep(place))
    }

    async fn open_anew(&self, name: &StoreName) -> Result<Arc<Place>> {
        let configured = self.registry.settings(&self.config, name)?.existing()?;
        let store = configured.open_provided().await?;
        Ok(Place::new(name.clone(), inner(name, store, &configured.layers)))
    }

    /// Keeps a place, unless another call was faster; gives the one that is kept.
    fn keep(&self, place: Arc<Place>) -> Arc<Place> {
        self.opened().entry(place.name.clone()).or_insert(place).clone()
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<StoreName, Arc<Place>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a store can't be gone to that a refusal names; none where the config has it.
    fn unknown(&self, name: &StoreName, moved: Error) -> Option<Error> {
        if self.config.stores().any(|known| known == name) {
            return None;
        }
        let error = Error::new(ErrorKind::Moved, "the streams moved to a store that this config does not have; add it");
        let add = format!("[stores.{name}]");
        Some(error.with("to", name).with("add", add).to_store(name.clone()).caused_by(moved))
    }
}

impl Layer for Route {
    const NAME: &'static str = "route";

    async fn call<R: Request>(&self, _: &dyn EventStore, request: R) -> Result<R::Answer> {
        let deadline = request.deadline();
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX, R::OPERATION.as_bytes());
        let mut refused_by = BTreeSet::new();
        loop {
            let place = self.places.now();
            let refusal = match R::EFFECT {
                // It refuses by itself.
                Effect::Write | Effect::WriteOnce => None,
                Effect::Read | Effect::Wait if self.expects_move => place.ask(deadline).await?,
                Effect::Read | Effect::Wait => place.said(),
            };
            // Two stores that name each other hold the same while that lasts: either can be read.
            let reads_anyway = refusal.is_some() && refused_by.contains(&place.name) && R::EFFECT == Effect::Read;
            let moved = match refusal {
                Some(moved) if !reads_anyway => moved,
                Some(_) | None => {
                    let slice = match R::EFFECT {
                        Effect::Wait => deadline.min(Deadline::within(WAIT_MAX)),
                        Effect::Read | Effect::Write | Effect::WriteOnce => deadline,
                    };
                    match request.clone().with_deadline(slice).send(&*place.inner.store).await {
                        Err(moved) if moved.kind() == ErrorKind::Moved => moved,
                        Ok(_) if slice < deadline && slice.has_passed() => continue,
                        answer => return answer,
                    }
                }
            };
            if !refused_by.insert(place.name.clone()) {
                let pause = backoff.pause();
                if pause >= deadline.remaining() {
                    return Err(being_handed_over(&request, moved));
                }
                tokio::time::sleep(pause).await;
            }
            self.follow(&place, moved, deadline).await?;
        }
    }

    async fn close(&self) -> Result<()> {
        self.presence.leave().await;
        let opened: Vec<_> = self.places.opened().values().cloned().collect();
        let mut result = Ok(());
        for place in opened {
            result = place.inner.store.close().await.and(result);
        }
        result
    }
}

/// Whether it may write is what a store says first; this number no record ever has, so that nothing is written.
fn question(deadline: Deadline) -> Result<PutRecord> {
    Ok(PutRecord {
        key: RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new(QUESTION)? },
        expected: RecordExpected::At(RecordNumber(NUMBER_MAX)),
        value: None,
        deadline: deadline.min(Deadline::within(ASKED_MAX)),
    })
}

fn left_for(to: StoreName) -> Error {
    Error::new(ErrorKind::Moved, "the store's streams live in another store").with("to", &to).to_store(to)
}

fn being_handed_over<R: Request>(request: &R, moved: Error) -> Error {
    let error = Error::new(ErrorKind::Fenced, "the streams are being handed over, and no store takes them yet")
        .caused_by(moved);
    request.commit().into_iter().fold(error, Error::of_commit)
}
