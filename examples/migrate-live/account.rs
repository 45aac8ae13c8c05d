//! What the application is about: accounts, and what is paid into them.

use evstore::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

/// What can happen to an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
pub enum AccountEvent {
    /// Somebody paid something in.
    #[event(name = "paid-in")]
    PaidIn { cents: u64 },
}

/// What decisions need to know.
#[derive(Default, Serialize, Deserialize)]
pub struct Account {
    cents: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        let AccountEvent::PaidIn { cents } = event;
        self.cents += cents;
    }
}

/// What an account may hold at most, so that every payment depends on what was paid before.
const CENTS_MAX: u64 = u64::MAX / 2;

impl Account {
    /// Pays something in.
    ///
    /// # Errors
    /// When the account is full.
    pub fn pay_in(&self, cents: u64) -> Result<Vec<AccountEvent>, &'static str> {
        match self.cents.checked_add(cents).filter(|sum| *sum < CENTS_MAX) {
            Some(_) => Ok(vec![AccountEvent::PaidIn { cents }]),
            None => Err("the account is full"),
        }
    }
}
