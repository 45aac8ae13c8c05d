//! What a tiered store promises: what its hot store does, but for what concerns whole stores.

use evstore_api::capabilities::{FeedOrder, Positions, Support};
use evstore_api::{Capabilities, Error, ErrorKind, Result};

/// The promises of the store in front, as the whole keeps them.
///
/// # Errors
/// `Unsupported` for a store that can't stand before an archive.
pub fn of(hot: &Capabilities) -> Result<Capabilities> {
    let refused = match (hot.archive, hot.order, hot.positions) {
        (Support::Promised, FeedOrder::Total, Positions::Contiguous) => None,
        (Support::Refused, ..) => Some(("archive", format!("{:?}", hot.archive))),
        (_, FeedOrder::PerPartition | FeedOrder::PerStream | FeedOrder::BestEffort, _) => {
            Some(("order", format!("{:?}", hot.order)))
        }
        (_, _, Positions::Increasing | Positions::Opaque) => Some(("positions", format!("{:?}", hot.positions))),
    };
    if let Some((capability, declared)) = refused {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a store in front of an archive lets go of events, and has one order and positions without holes",
        )
        .with("provider", hot.provider)
        .with("capability", capability)
        .with("declared", declared));
    }
    Ok(Capabilities {
        provider: crate::NAME,
        engine: format!("{}, and an archive", hot.engine),
        archive: Support::Refused,
        ..hot.clone()
    })
}
