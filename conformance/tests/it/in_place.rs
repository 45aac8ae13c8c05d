//! The checks that only read hold on a healthy store with content, write nothing, and notice stores that are wrong.

use evstore_api::{
    Append, CommitId, ContentType, Deadline, EventType, Events, Expected, NewCommit, NewEvent, Settings, StoreName,
    StreamId,
};
use evstore_conformance::check::Verdict;
use evstore_conformance::mutants::mutants;
use evstore_conformance::{Place, Report, Runner, Target, in_place};
use std::time::Duration;

/// Which known mutants each check has to notice, on content that was written before.
const NOTICED: &[(&str, &str)] = &[
    ("in-place.the-feed-accounts-for-every-position", "feed.repeats"),
    ("in-place.any-place-resumes-with-the-rest", "feed.reorders-across-streams"),
    ("in-place.streams-are-what-the-feed-shows", "time.truncated-by-reads"),
    ("in-place.backward-is-forward-reversed", "streams.backward-begins-below"),
    ("in-place.repeats-would-be-recognised", "idempotency.finds-nothing"),
    ("in-place.lists-are-complete-and-ordered", "listing.heads-of-the-first-commit"),
];

/// Runs the checks on a store in memory with some content, with a defect or without.
async fn report(mutant: Option<&str>, only: &[&str]) -> Report {
    let healthy = evstore_memory::provider();
    let settings = Settings::new(StoreName::new("live").unwrap(), healthy.keys, []).unwrap();
    let store = healthy.opener.open(&settings).await.unwrap();
    for number in 0..120 {
        let event = |_| NewEvent {
            content_type: ContentType::json(),
            ..NewEvent::new(EventType::new("Tried").unwrap(), format!("{number}"))
        };
        store
            .append(Append {
                stream: StreamId::new(format!("order-{}", number % 7)).unwrap(),
                expected: Expected::Any,
                commit: NewCommit {
                    id: CommitId::derive(&[&[number]]),
                    events: Events::new((0..1 + number % 3).map(event).collect()).unwrap(),
                },
                deadline: Deadline::within(Duration::from_secs(5)),
            })
            .await
            .unwrap();
    }
    let before = store.feed_head(Deadline::within(Duration::from_secs(5))).await.unwrap();
    let provider = match mutant {
        Some(name) => mutants().find(|mutant| mutant.name == name).expect(name).provider(&healthy),
        None => healthy,
    };
    let mut runner = Runner::new(Target::new(provider, settings), 1);
    runner.place = Place::InPlace;
    runner.only = only.iter().map(|&name| name.to_owned()).collect();
    let report = runner.run(|_| {}).await.unwrap();
    assert_eq!(
        store.feed_head(Deadline::within(Duration::from_secs(5))).await.unwrap(),
        before,
        "something was written"
    );
    report
}

#[tokio::test]
async fn a_healthy_store_holds_and_is_not_written_to() {
    let report = report(None, &[]).await;
    assert_eq!(report.count("held"), in_place().count(), "{}", report.text());
}

#[tokio::test]
async fn every_check_notices_a_store_that_is_wrong() {
    assert!(in_place().all(|check| NOTICED.iter().any(|(name, _)| *name == check.name)));
    for (check, mutant) in NOTICED {
        let report = report(Some(mutant), &[check]).await;
        assert!(matches!(report.findings[0].verdict, Verdict::Broken(_)), "{check} on {mutant}: {}", report.text());
    }
}
