//! Projections whose read model keeps the cursor in its own transaction: every event counts once, whatever fails.
use crate::stores::{append, memory};
use evstore::api::*;
use evstore::{
    Batch, BoxError, Checkpoint, Executed, Move, OnError, Phase, Project, Projection, ReadModel, RetryError, Rivals,
    Start, StopReason, Store,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Stands for a database: what is committed outlives the read model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Database {
    sum: u64,
    events: u64,
    place: Option<String>,
}

/// How the next transactions end.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    RollsBack,
    LosesAnswer,
    Commits,
}

#[derive(Clone)]
struct Sums {
    database: Arc<Mutex<Database>>,
    endings: Arc<Mutex<Vec<Ending>>>,
}

impl Sums {
    fn new(endings: &[Ending]) -> Self {
        Self { database: Arc::default(), endings: Arc::new(Mutex::new(endings.iter().rev().copied().collect())) }
    }

    fn read(&self) -> Database {
        self.database.lock().unwrap().clone()
    }

    fn cursor(&self) -> Option<Cursor> {
        self.read().place?.parse::<Checkpoint>().unwrap().cursor
    }

    fn set(&self, cursor: Cursor) {
        self.database.lock().unwrap().place = Some(cursor.to_string());
    }
}

impl ReadModel for Sums {
    async fn checkpoint(&mut self) -> Result<Option<String>, BoxError> {
        Ok(self.read().place)
    }

    async fn apply(&mut self, batch: &Batch, place: &Move) -> Result<(), BoxError> {
        let ending = self.endings.lock().unwrap().pop().unwrap_or(Ending::Commits);
        let mut transaction = self.read();
        if transaction.place != place.from {
            return Err("another process is feeding this read model".into());
        }
        for event in batch.events() {
            transaction.sum += std::str::from_utf8(&event.event().data)?.parse::<u64>()?;
            transaction.events += 1;
        }
        transaction.place = Some(place.to.clone());
        if ending != Ending::RollsBack {
            *self.database.lock().unwrap() = transaction;
        }
        if ending == Ending::Commits { Ok(()) } else { Err("the connection is gone".into()) }
    }
}

fn project(store: &Arc<dyn EventStore>) -> Project {
    Project::new(store.clone(), "sums").category("order").checkpoint_every(2, Duration::ZERO)
}

async fn wait(projection: &Projection, stream: &str, receipt: Appended) {
    let executed = Executed::of(StreamId::new(stream).unwrap(), receipt);
    projection.wait_for(&executed, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn every_event_counts_once_whatever_becomes_of_transactions() {
    let store = memory().await;
    let sums = Sums::new(&[Ending::RollsBack, Ending::LosesAnswer, Ending::Commits, Ending::LosesAnswer]);
    for n in 1..=5 {
        append(&*store, "order-1", "Placed", &[n, n]).await;
    }
    let first = project(&store).run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-2", "Placed", &[10]).await;
    wait(&first, "order-2", receipt).await;
    assert_eq!((sums.read().sum, sums.read().events), (40, 11));
    first.stop().await.unwrap();

    let second = project(&store).run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[100]).await;
    wait(&second, "order-1", receipt).await;
    assert_eq!((sums.read().sum, sums.read().events), (140, 12));
}

#[tokio::test]
async fn the_cursor_moves_in_the_read_model_also_where_nothing_matches() {
    let store = memory().await;
    let sums = Sums::new(&[]);
    let projection = project(&store).run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "invoice-1", "Paid", &[1]).await;
    wait(&projection, "invoice-1", receipt.clone()).await;
    assert_eq!(sums.read().events, 0);
    assert_eq!(sums.cursor().and_then(|cursor| cursor.position()), receipt.position);
}

/// Feeds one event, then lets a rival move the read model to a position, then appends another event.
async fn with_rival_at(position: u64, sums: &Sums, rivals: Rivals) -> (Projection, Executed) {
    let store = memory().await;
    let projection = project(&store).rivals(rivals).run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let incarnation = store.feed_head(crate::stores::soon()).await.unwrap().cursor.incarnation();
    wait(&projection, "order-1", receipt).await;
    sums.set(Cursor::total(incarnation, Position(position)));
    let receipt = append(&*store, "order-1", "Placed", &[5]).await;
    (projection, Executed::of(StreamId::new("order-1").unwrap(), receipt))
}

#[tokio::test]
async fn a_rival_that_feeds_the_same_read_model_ends_this_one() {
    let sums = Sums::new(&[]);
    let (zombie, _) = with_rival_at(99, &sums, Rivals::TakeOver).await;
    let reason = tokio::time::timeout(Duration::from_secs(10), zombie.stopped()).await.unwrap();
    assert!(matches!(*reason, StopReason::Rival(_)), "{reason:?}");
    assert_eq!(sums.read().sum, 1);
}

#[tokio::test]
async fn an_event_that_a_rival_has_applied_is_not_applied_again() {
    let sums = Sums::new(&[]);
    let (projection, executed) = with_rival_at(2, &sums, Rivals::StandBy(Duration::from_secs(1))).await;
    projection.wait_for(&executed, Duration::from_secs(10)).await.unwrap();
    assert_eq!(sums.read().sum, 1);
}

#[tokio::test]
async fn one_that_stands_by_goes_on_from_where_the_rival_came_to() {
    let sums = Sums::new(&[]);
    let (projection, executed) = with_rival_at(0, &sums, Rivals::StandBy(Duration::from_secs(1))).await;
    projection.wait_for(&executed, Duration::from_secs(10)).await.unwrap();
    // The place is the read model's own: told to stand before the first event, it gets both.
    while sums.read().sum != 7 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_model_that_keeps_failing_stops_its_projection_and_nothing_of_the_batch_is_there() {
    let store = memory().await;
    let sums = Sums::new(&[Ending::RollsBack; 9]);
    append(&*store, "order-1", "Placed", &[1]).await;
    let projection = project(&store).on_error(OnError::StopAfter(2)).run_into(sums.clone()).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(10), projection.stopped()).await.unwrap();
    assert!(matches!(*reason, StopReason::Handler { at: None, .. }), "{reason:?}");
    assert_eq!(sums.read(), Database::default());
}

#[tokio::test]
async fn parking_is_refused_where_batches_are_whole() {
    let store = memory().await;
    let parks = project(&store).on_error(OnError::ParkAfter(1)).run_into(Sums::new(&[])).await;
    assert_eq!(parks.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_read_model_beyond_the_end_of_the_feed_is_not_fed() {
    let store = memory().await;
    let sums = Sums::new(&[]);
    append(&*store, "order-1", "Placed", &[1]).await;
    let incarnation = store.feed_head(crate::stores::soon()).await.unwrap().cursor.incarnation();
    sums.set(Cursor::total(incarnation, Position(6)));
    let projection = project(&store).run_into(sums.clone()).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(10), projection.stopped()).await.unwrap();
    assert!(matches!(&*reason, StopReason::Store(error) if error.kind() == ErrorKind::HistoryLost), "{reason:?}");
}

#[tokio::test]
async fn a_file_that_was_restored_from_an_older_copy_does_not_pass_over_what_is_appended_next() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("events.db"), folder.path().join("copy.db"));
    let sums = Sums::new(&[]);
    let three = async || {
        let store = Store::sqlite(&file).await.unwrap();
        let mut last = None;
        for n in 1..=3 {
            last = Some(append(&**store.events(), "order-1", "Placed", &[n]).await);
        }
        (store, last.unwrap())
    };
    three().await.0.close().await.unwrap();
    std::fs::copy(&file, &copy).unwrap();
    let (store, last) = three().await;
    let projection = project(store.events()).run_into(sums.clone()).await.unwrap();
    wait(&projection, "order-1", last).await;
    projection.stop().await.unwrap();
    store.close().await.unwrap();

    std::fs::copy(&copy, &file).unwrap();
    let store = Store::sqlite(&file).await.unwrap();
    let projection = project(store.events()).run_into(sums.clone()).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(10), projection.stopped()).await.unwrap();
    assert!(matches!(&*reason, StopReason::Store(error) if error.kind() == ErrorKind::HistoryLost), "{reason:?}");
    assert!(reason.to_string().contains("place: 6, end: 3"), "{reason}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_place_knows_the_commit_that_it_stands_on() {
    let store = memory().await;
    let sums = Sums::new(&[]);
    let projection = project(&store).run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    let digest = receipt.digest;
    wait(&projection, "order-1", receipt).await;
    let place = sums.read().place.unwrap().parse::<Checkpoint>().unwrap();
    assert_eq!(place.last.map(|last| (last.position, last.digest)), Some((Position(1), digest)));
}

#[tokio::test]
async fn of_two_that_share_a_read_model_one_feeds_it_and_the_other_takes_over() {
    let store = memory().await;
    let sums = Sums::new(&[]);
    let stand_by = || project(&store).rivals(Rivals::StandBy(Duration::from_secs(1))).poll(Duration::from_millis(20));
    let first = stand_by().run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[1]).await;
    wait(&first, "order-1", receipt).await;
    let second = stand_by().run_into(sums.clone()).await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    wait(&second, "order-1", receipt).await;
    assert!(matches!(second.status().phase, Phase::StandingBy));
    let parked = second.retry_parked(&StreamId::new("order-1").unwrap()).await;
    assert!(matches!(parked, Err(RetryError::NotParked)), "{parked:?}");
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[3]).await;
    wait(&second, "order-1", receipt).await;
    assert_eq!((sums.read().sum, sums.read().events), (6, 3));
}

#[tokio::test]
async fn a_read_model_that_begins_now_keeps_where_that_was() {
    let store = memory().await;
    let sums = Sums::new(&[]);
    append(&*store, "order-1", "Placed", &[1]).await;
    let begins_now = || project(&store).start(Start::Now);
    let first = begins_now().run_into(sums.clone()).await.unwrap();
    while sums.read().place.is_none() {
        tokio::task::yield_now().await;
    }
    first.stop().await.unwrap();
    let receipt = append(&*store, "order-1", "Placed", &[2]).await;
    let second = begins_now().run_into(sums.clone()).await.unwrap();
    wait(&second, "order-1", receipt).await;
    assert_eq!((sums.read().sum, sums.read().events), (2, 1));
}
