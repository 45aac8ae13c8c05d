//! What watches: it follows the feed by itself, through every move, and compares what it is given with what the nodes were promised.

use evstore::{CommitId, Delivery, Start, Store};
use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

/// Longest that it waits for what was acknowledged.
const PATIENCE: Duration = Duration::from_secs(30);

/// A payment that a node was told is kept.
pub struct Acknowledged {
    /// The commit.
    pub commit: CommitId,
    /// The stream, and the revision of its last event.
    pub place: (String, u64),
    /// How long the application waited for it.
    pub took: Duration,
}

/// What it saw.
#[derive(Default)]
pub struct Watch {
    position: u64,
    revisions: HashMap<String, u64>,
    seen: HashMap<CommitId, (String, u64)>,
}

impl Watch {
    /// Follows until everything was seen that is acknowledged on the way: `all` says so once nothing more comes.
    ///
    /// # Errors
    /// A hole, a step back, an event twice, and what is acknowledged and never comes.
    pub async fn follow(
        mut self,
        store: Store,
        all: tokio::sync::oneshot::Receiver<Vec<Acknowledged>>,
    ) -> Result<(Self, Vec<Acknowledged>), Box<dyn Error + Send + Sync>> {
        let mut feed = store.subscribe(Start::First).open().await?;
        let mut all = std::pin::pin!(all);
        let acknowledged = loop {
            tokio::select! {
                delivery = feed.next() => self.take(delivery?)?,
                acknowledged = &mut all => break acknowledged?,
            }
        };
        let began = Instant::now();
        while let Some(missing) = acknowledged.iter().find(|one| !self.seen.contains_key(&one.commit)) {
            if began.elapsed() > PATIENCE {
                return Err(format!("an acknowledged payment is lost: {}", missing.commit).into());
            }
            self.take(feed.next().await?)?;
        }
        for one in &acknowledged {
            if self.seen[&one.commit] != one.place {
                return Err(format!("a payment stands elsewhere than was said: {}", one.commit).into());
            }
        }
        Ok((self, acknowledged))
    }

    /// Events that it saw.
    pub fn events(&self) -> u64 {
        self.position
    }

    fn take(&mut self, delivery: Option<Delivery>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Some(Delivery::Batch(batch)) = delivery else { return Ok(()) };
        for event in batch.events() {
            let (stream, revision) = (event.stream().to_string(), event.revision().0);
            self.position += 1;
            if event.position().map(|position| position.0) != Some(self.position) {
                return Err(format!("position {:?} comes after {}", event.position(), self.position - 1).into());
            }
            let last = self.revisions.entry(stream.clone()).or_default();
            if revision != *last + 1 {
                return Err(format!("{stream}: revision {revision} comes after {last}").into());
            }
            *last = revision;
            if self.seen.insert(event.commit().id, (stream, revision)).is_some() {
                return Err(format!("a payment was made twice: {}", event.commit().id).into());
            }
        }
        Ok(())
    }
}
