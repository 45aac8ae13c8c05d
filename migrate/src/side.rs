//! One of the two stores of a move: its name, and both of its faces.

use crate::{PAUSE, deadline, phase, until_told};
use evstore_api::capabilities::{FeedOrder, Fence, Positions, Support};
use evstore_api::{
    AdvanceFeed, Deadline, Error, ErrorKind, EventStore, Meta, MetaSwapped, Position, Result, StoreAdmin, StoreName,
    StoreState, SwapMeta,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a change of the record is sent whose answer is lost, or a feed is asked to catch up.
const TRIES_MAX: u32 = 20;
/// How long a feed is brought up to its streams at a time.
const ADVANCE_MAX: Duration = Duration::from_secs(2);

/// A store that takes part in a move.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its name, the same in the config of everybody who uses it.
    pub name: StoreName,
    /// The side that applications hold, for reading; the store itself, that follows no move.
    pub store: Arc<dyn EventStore>,
    /// The side that changes who may write.
    pub admin: Arc<dyn StoreAdmin>,
}

impl Side {
    /// Its record.
    pub(crate) async fn meta(&self) -> Result<Meta> {
        self.admin.read_meta(deadline()).await.map_err(|error| self.named(error))
    }

    /// The last position of its feed, as it is.
    pub(crate) async fn head(&self) -> Result<Position> {
        self.end().await.map(|(head, _)| head)
    }

    /// The same, and how many commits the feed is behind the streams.
    pub(crate) async fn end(&self) -> Result<(Position, u64)> {
        let head = self.store.feed_head(deadline()).await.map_err(|error| self.named(error))?;
        let position = head.position.ok_or_else(|| unmovable("positions", self.store.capabilities().positions));
        Ok((position.map_err(|error| self.named(error))?, head.lag.commits))
    }

    /// The last position of its feed once that has come up to what was acknowledged before this call, by the clocks of whoever appends.
    pub(crate) async fn settled_head(&self) -> Result<Position> {
        let began = Instant::now();
        for _ in 0..TRIES_MAX {
            let advanced = self.admin.advance_feed(AdvanceFeed { deadline: Deadline::within(ADVANCE_MAX) }).await;
            let head = match advanced {
                Ok(advanced) => Ok(advanced.head),
                // While others append, a feed that comes about behind them is never at its end, and a step of it may be cut off.
                Err(error) if matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Indeterminate) => {
                    self.store.feed_head(deadline()).await
                }
                Err(error) => Err(error),
            };
            let head = head.map_err(|error| self.named(error))?;
            match head.position {
                Some(position) if head.lag.commits == 0 || head.lag.age < began.elapsed() => return Ok(position),
                Some(_) => tokio::time::sleep(PAUSE).await,
                None => return Err(self.named(unmovable("positions", self.store.capabilities().positions))),
            }
        }
        Err(self.named(Error::new(ErrorKind::Unavailable, "the feed does not come up to its streams")))
    }

    /// Changes its record if it is as it was read; says whether it is as wanted now.
    pub(crate) async fn swap(&self, expected: &Meta, new: Meta) -> Result<bool> {
        // The change itself tells what became of an earlier one: it is a compare-and-set of the whole.
        let swapped = until_told(TRIES_MAX, |_| {
            let request = SwapMeta { expected: expected.clone(), new: new.clone(), deadline: deadline() };
            self.admin.swap_meta(request)
        });
        match swapped.await.map_err(|error| self.named(error))? {
            MetaSwapped::Done => {
                tracing::info!(store = %self.name, state = new.state.name(), epoch = %new.epoch, "the record was changed");
                Ok(true)
            }
            MetaSwapped::Differs(found) => Ok(*found == new),
        }
    }

    /// Opens it again where it is closed in favour of this store and nothing was decided; says whether it was. The other store is not
    /// asked: it may be gone, and this store alone decides (rule A5).
    ///
    /// # Errors
    /// As reading and changing the record.
    pub async fn release(&self, to: &StoreName) -> Result<bool> {
        for _ in 0..TRIES_MAX {
            let meta = self.meta().await?;
            match &meta.state {
                StoreState::Leaving { to: there } | StoreState::Fenced { to: there } if there == to => {}
                _ => return Ok(false),
            }
            if self.swap(&meta, phase::given_up(&meta)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a store that can't be moved from or to in this release.
    ///
    /// # Errors
    /// `Unsupported`, with the capability that is not enough.
    pub(crate) fn check(&self) -> Result<()> {
        let found = self.store.capabilities();
        let refused = match (found.fence, found.order, found.positions, found.replication) {
            (Fence::Store | Fence::Stream, FeedOrder::Total, Positions::Contiguous, Support::Promised) => return Ok(()),
            (Fence::Partition, ..) => unmovable("fence", found.fence),
            (_, FeedOrder::BestEffort | FeedOrder::PerStream | FeedOrder::PerPartition, ..) => {
                unmovable("order", found.order)
            }
            (_, _, Positions::Increasing | Positions::Opaque, _) => unmovable("positions", found.positions),
            (.., Support::Refused) => unmovable("replication", found.replication),
        };
        Err(self.named(refused.with("provider", found.provider)))
    }

    /// An error with the store's name.
    pub(crate) fn named(&self, error: Error) -> Error {
        if error.context().iter().any(|(name, _)| *name == "store") { error } else { error.with("store", &self.name) }
    }
}

fn unmovable(capability: &'static str, found: impl std::fmt::Debug) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this release moves stores with one order and positions without holes only, that are closed as a whole or by stream",
    )
    .with("capability", capability)
    .with("declared", format_args!("{found:?}"))
}
