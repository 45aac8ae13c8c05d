//! Tells others of this handle of a store: under which name it runs, which stores its config has, which of those it reaches that streams
//! may move to. It says so in the store that its calls go to, beside the calls, and nothing depends on it.

use super::route::{ASKED_MAX, Place, Places};
use evstore_api::{
    CommitId, Deadline, Error, ErrorKind, ListRecords, PutRecord, ReadRecord, Record, RecordExpected, RecordKey,
    RecordKind, RecordName, RecordNumber, Result, StoreName,
};
use evstore_kit::presence::{self, NODES_MAX, Node, Reached};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::AbortHandle;

/// How often it is said where the config names targets of a move, and where it does not: there it only tells that it was not told.
const EVERY: Duration = Duration::from_secs(10);
const EVERY_WITHOUT_TARGETS: Duration = Duration::from_secs(60);
/// How soon it is tried again where something failed, at first.
const SOONER_MIN: Duration = Duration::from_secs(1);
/// A handle that lives shorter is not told of: a command that makes one call would make three more to come and go.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// How often a file is opened to see whether it can be.
const FILES_EVERY: Duration = Duration::from_secs(60);
/// A record that nobody has changed for so long is another node's to take, whatever the clocks say.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Places that are tried when others want them at the same time.
const TRIES_MAX: usize = 50;
/// Longest that leaving may hold up a close.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What this handle says of itself, until it is closed.
pub struct Presence {
    teller: Arc<Teller>,
    task: AbortHandle,
}

/// What is told, and where.
struct Teller {
    id: String,
    name: String,
    opened: StoreName,
    places: Arc<Places>,
    said: tokio::sync::Mutex<Said>,
}

/// What was said last.
#[derive(Default)]
struct Said {
    /// The record that is ours.
    at: Option<Spot>,
    reached: BTreeMap<StoreName, (Instant, Reached)>,
}

struct Spot {
    place: Arc<Place>,
    record: RecordName,
    number: RecordNumber,
}

impl Presence {
    /// Begins to tell of a handle that has opened a store.
    pub fn of(opened: &StoreName, places: Arc<Places>) -> Self {
        let host = gethostname::gethostname();
        let name = presence::name(&format!("{}-{}", host.to_string_lossy(), std::process::id()));
        let (id, said) = (CommitId::generate().to_string(), tokio::sync::Mutex::default());
        let teller = Arc::new(Teller { id, name, opened: opened.clone(), places, said });
        let task = tokio::spawn(teller.clone().go_on()).abort_handle();
        Self { teller, task }
    }

    /// Says no more, and takes back what was said.
    pub async fn leave(&self) {
        self.task.abort();
        let left = async {
            let spot = self.teller.said.lock().await.at.take();
            if let Some(spot) = spot {
                self.teller.take_back(&spot).await;
            }
        };
        // What is left behind is taken for gone after a while.
        let _ = tokio::time::timeout(LEAVE_MAX, left).await;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Teller {
    async fn go_on(self: Arc<Self>) {
        let expects_move = !self.places.config.migrate().targets().is_empty();
        let every = if expects_move { EVERY } else { EVERY_WITHOUT_TARGETS };
        let mut sooner = SOONER_MIN;
        tokio::time::sleep(FIRST_AFTER).await;
        loop {
            let pause = match self.say(every).await {
                Ok(true) => every,
                // What failed a moment ago holds up a hand-over: it is tried again sooner, and less and less so.
                Ok(false) => sooner.min(every),
                Err(error) => {
                    // Whoever may not write here, or not now, is not told of; calls do not depend on it.
                    tracing::debug!(%error, "a node can't tell of itself");
                    sooner.min(every)
                }
            };
            sooner = if pause == every { SOONER_MIN } else { sooner * 2 };
            // Where its calls go is told at once.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.places.followed.notified() => {}
            }
        }
    }

    /// Says it, and whether all targets were reached.
    async fn say(&self, every: Duration) -> Result<bool> {
        let mut said = self.said.lock().await;
        for target in self.places.config.migrate().targets() {
            // A server's connections are kept ready by it; a file is opened each time.
            let known = said.reached.get(target).filter(|(at, reached)| {
                !matches!(reached, Reached::Not(_)) && !self.places.is_kept(target) && at.elapsed() < FILES_EVERY
            });
            if known.is_none() {
                let reached = self.places.reach(target).await;
                said.reached.insert(target.clone(), (Instant::now(), reached));
            }
        }
        let place = self.places.now();
        if said.at.as_ref().is_some_and(|spot| spot.place.name != place.name)
            && let Some(left) = said.at.take()
        {
            self.take_back(&left).await;
        }
        let reached: BTreeMap<_, _> =
            said.reached.iter().map(|(store, (_, reached))| (store.clone(), reached.clone())).collect();
        let reaches_all = !reached.values().any(|reached| matches!(reached, Reached::Not(_)));
        let node = self.node(&place, reached, every);
        said.at = Some(match said.at.take() {
            Some(spot) => self.say_again(spot, &node).await?,
            None => self.take_place(place, &node).await?,
        });
        Ok(reaches_all)
    }

    fn node(&self, now: &Place, reached: BTreeMap<StoreName, Reached>, every: Duration) -> Node {
        let config = &self.places.config;
        // Those of moves first: the list has an end.
        let mut stores: Vec<_> = config.migrate().targets().to_vec();
        stores.extend(config.stores().filter(|store| !config.migrate().targets().contains(store)).cloned());
        stores.truncate(presence::STORES_MAX);
        Node {
            id: self.id.clone(),
            name: self.name.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            opened: self.opened.clone(),
            follows: now.name.clone(),
            stores,
            reached,
            every,
        }
    }

    async fn say_again(&self, spot: Spot, node: &Node) -> Result<Spot> {
        match put(&spot.place, &spot.record, RecordExpected::At(spot.number), Some(node)).await {
            Ok(number) => Ok(Spot { number, ..spot }),
            // Another one took it for forgotten, or an answer was lost: it says which.
            Err(error) if error.kind() == ErrorKind::Conflict => self.take_place(spot.place, node).await,
            // It is tried again at the next time; a conflict tells then whether it was written.
            Err(error) if matches!(error.kind(), ErrorKind::Indeterminate | ErrorKind::Unavailable) => Ok(spot),
            Err(error) => Err(error),
        }
    }

    /// Takes the first record that is nobody's.
    async fn take_place(&self, place: Arc<Place>, node: &Node) -> Result<Spot> {
        let taken = records(&place).await?;
        let own = taken.iter().find(|(_, record)| is_of(record, &self.id));
        let own = own.map(|(number, record)| (*number, RecordExpected::At(record.number)));
        let free = (1..=NODES_MAX).filter_map(|number| match taken.get(&number) {
            None => Some((number, RecordExpected::Absent)),
            Some(record) if is_forgotten(record) => Some((number, RecordExpected::At(record.number))),
            Some(_) => None,
        });
        for (number, expected) in own.into_iter().chain(free).take(TRIES_MAX) {
            let record = presence::record(number)?;
            match put(&place, &record, expected, Some(node)).await {
                Ok(number) => return Ok(Spot { place, record, number }),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "there is no record left for one more node"))
    }

    async fn take_back(&self, spot: &Spot) {
        let key = RecordKey { kind: RecordKind::Presence, name: spot.record.clone() };
        let read = ReadRecord { key, deadline: Deadline::within(ASKED_MAX) };
        // It may be another one's by now; and what is left behind is taken for gone after a while.
        if let Ok(Some(record)) = spot.place.inner.once.read_record(read).await
            && is_of(&record, &self.id)
        {
            let _ = put(&spot.place, &spot.record, RecordExpected::At(record.number), None).await;
        }
    }
}

fn is_of(record: &Record, id: &str) -> bool {
    let node = record.value.as_ref().and_then(|value| Node::from_value(value));
    node.is_some_and(|node| node.id == id)
}

/// By this machine's clock: one that is wrong takes a record from a node that finds that out, and takes another.
fn is_forgotten(record: &Record) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_micros(record.updated_at.0.try_into().unwrap_or_default());
    now.saturating_sub(changed) > FORGOTTEN
}

async fn put(
    place: &Place,
    record: &RecordName,
    expected: RecordExpected,
    node: Option<&Node>,
) -> Result<RecordNumber> {
    let key = RecordKey { kind: RecordKind::Presence, name: record.clone() };
    let deadline = Deadline::within(ASKED_MAX);
    let request = PutRecord { key, expected, value: node.map(Node::to_value), deadline };
    place.inner.once.put_record(request).await.map(|put| put.number)
}

/// The records of nodes in a store, by their place.
async fn records(place: &Place) -> Result<BTreeMap<u32, Record>> {
    let limit = place.inner.once.capabilities().limits.page_items;
    let (mut after, mut found) = (Some(RecordName::new(presence::RECORDS)?), BTreeMap::new());
    loop {
        let deadline = Deadline::within(ASKED_MAX);
        let request = ListRecords { kind: RecordKind::Presence, after, limit, deadline };
        let page = place.inner.once.list_records(request).await?;
        let is_last = page.records.last().is_some_and(|record| presence::place(&record.key.name).is_none());
        let of_nodes = page.records.into_iter().filter_map(|one| Some((presence::place(&one.key.name)?, one)));
        found.extend(of_nodes);
        if page.next.is_none() || is_last {
            return Ok(found);
        }
        after = page.next;
    }
}
