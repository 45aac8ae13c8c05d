//! Aggregates: state that is folded from the events of one stream.

use crate::domain_event::DomainEvent;

/// State folded from a stream's events. `Default` is the state before the first one.
///
/// ```
/// use evstore::{Aggregate, DomainEvent, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
/// enum AccountEvent {
///     Deposited { cents: u64 },
///     Withdrawn { cents: u64 },
/// }
///
/// #[derive(Default)]
/// struct Account {
///     cents: u64,
/// }
///
/// impl Aggregate for Account {
///     const CATEGORY: &'static str = "account";
///     type Event = AccountEvent;
///
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Deposited { cents } => self.cents += cents,
///             AccountEvent::Withdrawn { cents } => self.cents -= cents,
///         }
///     }
/// }
///
/// // A decision is a plain function from the state to new events. It may be called more than once.
/// impl Account {
///     fn withdraw(&self, cents: u64) -> Result<Vec<AccountEvent>, &'static str> {
///         match self.cents.checked_sub(cents) {
///             Some(_) => Ok(vec![AccountEvent::Withdrawn { cents }]),
///             None => Err("not enough money"),
///         }
///     }
/// }
///
/// testing::given([AccountEvent::Deposited { cents: 100 }])
///     .when(|account: &Account| account.withdraw(70))
///     .then_expect([AccountEvent::Withdrawn { cents: 70 }]);
/// ```
pub trait Aggregate: Default + Send + Sync {
    /// The category of its streams, what stands before the first `-`: not empty, without a `-`.
    const CATEGORY: &'static str;

    /// Number of the shape of the state in snapshots. Raise it when the shape, or what `apply` makes of the same events,
    /// changes: snapshots of another number are ignored and made anew.
    const SNAPSHOT_SCHEMA: u32 = 1;

    /// Its events.
    type Event: DomainEvent;

    /// Folds one event in. Events are facts: this does not fail and does not ask again whether it was allowed.
    fn apply(&mut self, event: &Self::Event);
}

/// Whether a category can be an aggregate's: what follows its first `-` is the key.
pub(crate) const fn is_category(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'-' || bytes[at] < b' ' {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty()
}
