//! Gives every call a last moment: its own deadline, or `call_timeout` from now where that is sooner.

use super::layered::Layer;
use super::request::{Effect, Request};
use super::settings::LayerSettings;
use evstore_api::{Deadline, EventStore, Result};
use std::time::Duration;

/// The layer.
pub struct Bound {
    call_timeout: Duration,
}

impl Bound {
    pub fn new(settings: &LayerSettings) -> Self {
        Self { call_timeout: settings.call_timeout }
    }
}

impl Layer for Bound {
    const NAME: &'static str = "bound";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        let deadline = match R::EFFECT {
            Effect::Read | Effect::Write | Effect::WriteOnce => {
                request.deadline().min(Deadline::within(self.call_timeout))
            }
            // To wait long is what it is for.
            Effect::Wait => request.deadline(),
        };
        request.with_deadline(deadline).send(store).await
    }
}
