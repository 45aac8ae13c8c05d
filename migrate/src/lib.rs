//! Live migration: moves a running system from one event store to another, with a way back.
//!
//! A [`Migration`] is two stores and nothing else. All that it knows it reads from them: their two records say which step comes next
//! ([`phase`], pure), and the copy goes on behind the last position of the store that is filled. So every call can be repeated, cut
//! off anywhere, and made by several processes at once: each step is a compare-and-set of a whole record, and one of them makes it.
//! The rules are those that the models in `models/` were checked for; `docs/MIGRATION.md` tells them.
//!
//! This release moves stores whose feed has one order and whose positions have no holes, and whose fence is of the whole store or of each
//! stream, which are then sealed one by one. Others are refused.

mod carry;
mod compare;
mod copy;
mod engine;
mod governor;
pub mod nodes;
mod notes;
pub mod pages;
pub mod phase;
pub mod plan;
mod rate;
mod seal;
mod side;
pub mod walk;

pub use compare::{Compared, Difference};
pub use copy::{Pace, bytes_of, events_of, replicate};
pub use engine::{Cutover, Migration, Settled, Status, Streams, Verb};
pub use phase::{Phase, Way};
pub use plan::{Accepted, Plan, Weaker};
pub use rate::{Rate, spread};
pub use side::Side;

use evstore_api::{Deadline, Error, ErrorKind, Position};
use std::sync::Arc;
use std::time::Duration;

/// Longest that one call to a store may take.
const CALL_MAX: Duration = Duration::from_secs(60);

/// When a call that begins now has to end.
fn deadline() -> Deadline {
    Deadline::within(CALL_MAX)
}

/// Pause before a call is made again.
const PAUSE: Duration = Duration::from_millis(25);

/// Makes a call that finds what an earlier one did, again while it is not told what became of it. The call is told which try it is, from 1.
async fn until_told<T, F: Future<Output = Result<T, Error>>>(tries: u32, call: impl Fn(u32) -> F) -> Result<T, Error> {
    let mut made = 0;
    loop {
        made += 1;
        match call(made).await {
            Err(error) if error.kind() == ErrorKind::Indeterminate && made < tries => {
                tracing::info!(%error, "a call is made again");
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// What is being done, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What.
    pub doing: Doing,
    /// Up to which position.
    pub at: Position,
    /// Up to which it goes, for now.
    pub through: Position,
}

/// What takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// The feed is copied.
    Copying,
    /// Both stores are read and compared.
    Comparing,
    /// All of the source is read, to see whether the target can hold it.
    Planning,
}

/// What there is to tell while something takes long.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// It came so far.
    Progress(Progress),
    /// A store fails for the moment, and is tried again.
    Waits(&'a Error),
    /// Writes of the store that is copied have become slow, or fast again: this part of the time is spent copying.
    Slowed(f64),
    /// Somebody paused the copy.
    Paused,
}

/// Who is told.
pub type Observer = Arc<dyn Fn(News<'_>) + Send + Sync>;
