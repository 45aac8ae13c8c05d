//! Puts every call in a span. It names the store, the operation, the category and the commit; never a stream's key, which may
//! be a person's, and never a payload.

use super::layered::Layer;
use super::request::Request;
use crate::logged::category;
use evstore_api::{EventStore, Result, StoreName};
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span, debug_span};

/// The layer.
pub struct Trace {
    store: StoreName,
}

impl Trace {
    pub fn new(store: &StoreName) -> Self {
        Self { store: store.clone() }
    }

    fn span<R: Request>(&self, request: &R) -> Span {
        let operation = R::OPERATION;
        let span =
            debug_span!("evstore", store = %self.store, operation, category = Empty, commit = Empty, outcome = Empty);
        if !span.is_disabled() {
            if let Some(category) = request.stream().and_then(category) {
                span.record("category", category);
            }
            if let Some(commit) = request.commit() {
                span.record("commit", display(commit));
            }
        }
        span
    }
}

impl Layer for Trace {
    const NAME: &'static str = "trace";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        let span = self.span(&request);
        let answer = request.send(store).instrument(span.clone()).await;
        span.record("outcome", answer.as_ref().map_or_else(|error| error.kind().name(), |_| "ok"));
        answer
    }
}
