//! How far this machine's clock is off the service's, as far as the service's answers say: each has the second in which it was made.

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_smithy_types::date_time::Format;
use evstore_api::{Clock, Error, ErrorKind, Result, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The service tells whole seconds.
const SECOND_MICROS: i64 = 1_000_000;

/// What is known of the service's clock beside this machine's.
#[derive(Clone, Debug)]
pub struct ServerTime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    ahead: Mutex<Option<Ahead>>,
}

/// How far the service's clock is ahead, in microseconds: no less and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    least: i64,
    most: i64,
}

impl Ahead {
    /// What an answer says that was made in this second, of a request that was sent then and answered then.
    fn told(second: i64, sent: Timestamp, answered: Timestamp) -> Self {
        let second = second.saturating_mul(SECOND_MICROS);
        Self { least: second.saturating_sub(answered.0), most: (second + SECOND_MICROS).saturating_sub(sent.0) }
    }

    /// What both say; the later alone where they disagree, since one of the clocks was set then.
    fn and(self, later: Self) -> Self {
        let both = Self { least: self.least.max(later.least), most: self.most.min(later.most) };
        if both.least <= both.most { both } else { later }
    }

    /// Whether the clocks are certainly further apart than this.
    fn is_beyond(self, bound: Duration) -> bool {
        let bound = i64::try_from(bound.as_micros()).unwrap_or(i64::MAX);
        self.least > bound || self.most < -bound
    }
}

impl ServerTime {
    /// Nothing is known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { clock, ahead: Mutex::default() }))
    }

    /// Refuses to go on with a clock that is certainly further off than this.
    ///
    /// # Errors
    /// `Unavailable`; nothing was sent.
    pub fn check(&self, bound: Duration) -> Result<()> {
        let ahead = *self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        match ahead {
            Some(ahead) if ahead.is_beyond(bound) => Err(Error::new(
                ErrorKind::Unavailable,
                "this machine's clock is further off the service's than half of `settling`; set it, or let commits settle longer",
            )
            .with("ahead_at_least_us", ahead.least)
            .with("ahead_at_most_us", ahead.most)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the service says what time it is.
    pub fn is_known(&self) -> bool {
        self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn hear(&self, later: Ahead) {
        let mut ahead = self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead = Some(ahead.map_or(later, |earlier| earlier.and(later)));
    }
}

/// When a request was sent.
#[derive(Debug)]
struct Sent(Timestamp);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl Intercept for ServerTime {
    fn name(&self) -> &'static str {
        "ServerTime"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        cfg.interceptor_state().store_put(Sent(self.0.clock.now()));
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let (Some(date), Some(sent)) = (date, cfg.load::<Sent>()) {
            self.hear(Ahead::told(date.secs(), sent.0, self.0.clock.now()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
    }

    #[test]
    fn answers_narrow_what_is_known_until_a_clock_is_set() {
        let told = |second, sent, answered| Ahead::told(second, Timestamp(sent), Timestamp(answered));
        let wide = told(10, 10_400_000, 10_600_000);
        assert_eq!(wide, Ahead { least: -600_000, most: 600_000 });
        let narrow = wide.and(told(11, 11_000_000, 11_100_000));
        assert_eq!(narrow, Ahead { least: -100_000, most: 600_000 });
        let set = told(11, 21_000_000, 21_100_000);
        assert_eq!(narrow.and(set), set);
    }

    #[test]
    fn a_clock_is_refused_once_it_is_certainly_off() {
        let time = ServerTime::new(Arc::new(Still));
        let bound = Duration::from_secs(2);
        assert!(!time.is_known());
        time.check(bound).unwrap();
        for (second, is_good) in [(0, true), (2, true), (3, false), (-3, true), (-4, false)] {
            time.hear(Ahead::told(second, Timestamp(0), Timestamp(0)));
            // Each lies apart from the one before, so that it replaces it.
            assert_eq!(time.check(bound).is_ok(), is_good, "{second}");
        }
        assert!(time.is_known());
    }
}
