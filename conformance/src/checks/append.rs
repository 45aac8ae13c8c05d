//! Appending and expectations: properties 1 to 22.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, revisions};
use evstore_api::{Expected, Revision};

pub(crate) const CHECKS: &[Check] = &[
    check!(
        "append.one-event-reads-back",
        "an event that was appended to a new stream is read back with the same bytes, type and numbers",
        [1, 13],
        one_event_reads_back
    ),
    check!(
        "append.only-the-exact-head-is-expected",
        "an expectation of a revision holds at that head only: lower, higher and gappy values conflict and change nothing",
        [5, 10, 11, 21],
        only_the_exact_head_is_expected
    ),
];

async fn one_event_reads_back(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let event = context.event();
    let receipt = context.append_events(&stream, Expected::NoStream, vec![event.clone()]).await?;
    ensure_eq!(
        (receipt.first, receipt.last, receipt.number.0, receipt.repeated),
        (Revision(1), Revision(1), 1, false),
        "receipt"
    );
    let page = context.read(&stream).await?;
    ensure_eq!(revisions(&page), [Revision(1)], "revisions of the stream");
    let stored = page.events().next().expect("there is one revision").event;
    ensure_eq!((&stored.event_type, &stored.data), (&event.event_type, &event.data), "the stored event");
    Ok(Outcome::Held)
}

async fn only_the_exact_head_is_expected(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::NoStream, 3).await?;
    context.append(&stream, Expected::At(Revision(3)), 4).await?;
    for wrong in [0, 1, 3, 5, 6, 8, 100] {
        let result = context.append(&stream, Expected::At(Revision(wrong)), 1).await;
        let error = ensure_kind!(result, Conflict, "an append at head 7 that expects {wrong}");
        ensure_eq!(error.head().map(|head| head.revision), Some(Revision(7)), "the head that the conflict carries");
    }
    ensure!(context.read(&stream).await?.events().count() == 7, "a refused append left events");
    context.append(&stream, Expected::At(Revision(7)), 1).await?;
    Ok(Outcome::Held)
}
