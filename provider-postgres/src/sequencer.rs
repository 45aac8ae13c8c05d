//! Gives commits their positions. Any node can make a step: a task of every open store does after its own appends, and
//! a reader does that finds the tail old. Steps exclude each other on the server; one that is not needed writes nothing.

use crate::codec;
use crate::error::Result as Worked;
use crate::store::Shared;
use crate::transaction::Transaction;
use evstore_api::{Deadline, ErrorKind, Incarnation, Lineage, Meta, Position, Result, format};
use sqlx::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Shortest time between two steps of one node: a step costs an fsync, and under load it should number many commits.
const STEP_SPACING: Duration = Duration::from_millis(15);
/// Time between looks for appends of other nodes, while somebody waits for the feed.
const WAITING_POLL: Duration = Duration::from_millis(20);
/// The same while nobody does.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Pause before another try of someone who waits while another node makes a step.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Longest time that a step of the background task may take.
const STEP_MAX: Duration = Duration::from_secs(30);

/// What the background task and those who wait have in common.
#[derive(Debug)]
pub struct Sequencer {
    work: Notify,
    waiting: AtomicUsize,
    /// Changes with the end of the feed, and when a new history begins.
    news: watch::Sender<News>,
}

/// What those who wait for the feed are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    end: i64,
    histories: u64,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The end of the feed after it.
    pub end: Position,
    /// Whether another node makes one just now.
    pub busy: bool,
    /// How many positions it gave.
    pub moved: u64,
}

impl Sequencer {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { work: Notify::new(), waiting: AtomicUsize::new(0), news: watch::Sender::new(News::default()) }
    }

    /// Says that there is something to number.
    pub fn nudge(&self) {
        self.work.notify_one();
    }

    /// Hears of news from now on; looks are more frequent while anybody does.
    pub fn listen(&self) -> Listener<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.work.notify_one();
        Listener { sequencer: self, news: self.news.subscribe() }
    }

    /// Wakes everybody who waits, to look again.
    pub fn ring(&self) {
        self.news.send_modify(|news| news.histories += 1);
    }

    fn publish(&self, end: Position) {
        let end = codec::integer(end.0);
        self.news.send_if_modified(|news| std::mem::replace(&mut news.end, end) != end);
    }
}

/// Somebody who waits for the feed.
pub struct Listener<'a> {
    sequencer: &'a Sequencer,
    news: watch::Receiver<News>,
}

impl Listener<'_> {
    /// Resolves when there are news.
    pub async fn changed(&mut self) {
        // An error would mean that the sender is gone, and it lives as long as this.
        let _ = self.news.changed().await;
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.sequencer.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The background task of one open store. Ends when the store is closed or dropped.
pub async fn run(shared: Arc<Shared>, mut closed: watch::Receiver<bool>) {
    let task = async {
        let mut failing = None;
        loop {
            let poll = if shared.sequencer.waiting.load(Ordering::SeqCst) > 0 { WAITING_POLL } else { IDLE_POLL };
            // A timeout is a look for what other nodes appended.
            let _ = tokio::time::timeout(poll, shared.sequencer.work.notified()).await;
            match step(&shared, Deadline::within(STEP_MAX)).await {
                Ok(done) => {
                    failing = None;
                    if done.busy {
                        shared.sequencer.nudge();
                    }
                }
                Err(error) => {
                    // Once for each reason: what goes on failing would say so many times a second.
                    if failing.replace(error.kind()) != Some(error.kind()) {
                        tracing::warn!(store = %shared.config.own, %error, "a sequencer step failed");
                    }
                    if error.kind() == ErrorKind::Denied {
                        // Others make the steps; those who wait here are told of them.
                        look(&shared).await;
                    }
                }
            }
            tokio::time::sleep(STEP_SPACING).await;
        }
    };
    tokio::select! {
        () = task => {}
        // An error says that the last handle was dropped.
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

/// Tells those who wait how far the feed goes now.
async fn look(shared: &Shared) {
    let end = shared
        .read(Deadline::within(STEP_MAX), async |connection| {
            let rows = shared.statements.last_position.query().fetch_all(connection).await?;
            rows.first().map_or(Ok(0), |row| codec::number(row, 0))
        })
        .await;
    // Where it can't be read, the step before said why.
    if let Ok(end) = end {
        shared.sequencer.publish(Position(end));
    }
}

/// Makes a step. Where another history begins, it is written down first.
pub async fn step(shared: &Shared, deadline: Deadline) -> Result<Step> {
    loop {
        let stepped = shared.read(deadline, async |connection| once(shared, connection).await).await?;
        match stepped {
            Outcome::Stepped(step) => {
                shared.sequencer.publish(step.end);
                return Ok(step);
            }
            Outcome::Moved => begin_history(shared, deadline).await?,
        }
    }
}

enum Outcome {
    Stepped(Step),
    /// The server is another one, or went back: nothing was numbered.
    Moved,
}

async fn once(shared: &Shared, connection: &mut PgConnection) -> Worked<Outcome> {
    let rows = shared.statements.sequence.query().fetch_all(connection).await?;
    let row = rows.first().ok_or_else(|| crate::error::corrupt("the sequencer did not answer"))?;
    let outcome: &str = codec::get(row, 0)?;
    if outcome == "moved" {
        return Ok(Outcome::Moved);
    }
    let end = Position(codec::number(row, 1)?);
    Ok(Outcome::Stepped(Step { end, busy: outcome == "busy", moved: codec::number(row, 2)? }))
}

/// Looks whether the server is the one that the store's record was made on, and writes a new history down where it is not.
///
/// # Errors
/// `Denied` for credentials that may not: an operator opens the store once then.
pub async fn begin_history(shared: &Shared, deadline: Deadline) -> Result<()> {
    // Looked at without a lock first: nearly always there is nothing to write, and opening a store must not wait for appends.
    let differs = shared
        .read(deadline, async |connection| {
            let rows = shared.statements.identity.query().fetch_all(connection).await?;
            let row = rows.first().ok_or_else(|| crate::error::corrupt("the store's record is missing"))?;
            Ok(Identity::read(row)?.differs())
        })
        .await?;
    if !differs {
        return Ok(());
    }
    let mut transaction = Transaction::begin(shared, deadline).await?;
    let worked = write_history(&mut transaction).await;
    let changed = transaction.end(worked).await?;
    if changed {
        tracing::warn!(store = %shared.config.own, "a new history of the store begins: the server is another one than before");
        shared.sequencer.ring();
    }
    Ok(())
}

async fn write_history(transaction: &mut Transaction) -> Worked<bool> {
    transaction.run(|statements| &statements.lock_store).await?;
    transaction.run(|statements| &statements.lock_sequencer).await?;
    let statements = transaction.statements();
    let row = transaction.row(statements.identity.query()).await?;
    let row = row.ok_or_else(|| crate::error::corrupt("the store's record is missing"))?;
    let identity = Identity::read(&row)?;
    if !identity.differs() {
        return Ok(false);
    }
    // After a failover transaction ids go on where they were; after a restore from a dump they begin again.
    if identity.is_restored {
        transaction.run(|statements| &statements.sequence_restored).await?;
    }
    let row = transaction.row(statements.last_position.query()).await?;
    let end = row.map_or(Ok(0), |row| codec::number(&row, 0))?;
    let meta = next_history(identity.meta, Position(end));
    transaction.execute(statements.put_identity.query().bind(format::encode_meta(&meta))).await?;
    Ok(true)
}

struct Identity {
    made_on: (i64, i32, i64),
    is_on: (i64, i32, i64),
    is_restored: bool,
    meta: Meta,
}

impl Identity {
    fn read(row: &sqlx::postgres::PgRow) -> Worked<Self> {
        let made_on: (i64, i32, i64) = (codec::get(row, 0)?, codec::get(row, 1)?, codec::get(row, 2)?);
        let is_on = (codec::get(row, 3)?, codec::get(row, 4)?, codec::get(row, 5)?);
        let went_back: bool = codec::get(row, 6)?;
        let is_restored = went_back || made_on.0 != is_on.0 || made_on.2 != is_on.2;
        Ok(Self { made_on, is_on, is_restored, meta: codec::meta(row, 7)? })
    }

    fn differs(&self) -> bool {
        self.is_restored || self.made_on != self.is_on
    }
}

/// The record with the present history ended and a new one begun.
fn next_history(mut meta: Meta, end: Position) -> Meta {
    if let Some(last) = meta.lineage.last_mut() {
        last.ended_at = Some(end);
    }
    meta.lineage.push(Lineage { incarnation: Incarnation::generate(), ended_at: None });
    meta
}

/// Makes a step for a reader or an operator who waits for it, after that of another node where there is one. What was acknowledged
/// before the call is in the feed after it.
pub async fn advance(shared: &Shared, deadline: Deadline) -> Result<Position> {
    loop {
        let done = step(shared, deadline).await?;
        if !done.busy {
            return Ok(done.end);
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}
