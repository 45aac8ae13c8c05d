//! A seed repeats a run: the same calls, in the same order, with the same answers.

use evstore_api::{Settings, StoreName};
use evstore_conformance::check::Verdict;
use evstore_conformance::mutants::mutants;
use evstore_conformance::{Runner, Target};

/// Each draws what it does, and finds its mutant BROKEN only after a while.
const DRAWN: &[(&str, &str)] = &[
    ("snapshots.snapshot-and-tail-equal-a-replay", "snapshots.an-old-state"),
    ("idempotency.a-dropped-append-is-resolved-by-repeating", "idempotency.forgets"),
];

/// The calls of a check up to where it finds a mutant BROKEN.
async fn calls(check: &str, mutant: &str, seed: u64) -> Vec<String> {
    let healthy = evstore_memory::provider();
    let provider = mutants().find(|one| one.name == mutant).expect(mutant).provider(&healthy);
    let settings = Settings::new(StoreName::new("seeded").unwrap(), provider.keys, []).unwrap();
    let mut runner = Runner::new(Target::new(provider, settings), seed);
    runner.only = vec![check.to_owned()];
    let report = runner.run(|_| {}).await.unwrap();
    match &report.findings[0].verdict {
        Verdict::Broken(broken) => broken.history.clone(),
        verdict => panic!("{check} says {} of {mutant}", verdict.name()),
    }
}

#[tokio::test]
async fn the_same_seed_makes_the_same_calls() {
    for (check, mutant) in DRAWN {
        let first = calls(check, mutant, 7).await;
        assert!(!first.is_empty(), "{check} made no call");
        assert_eq!(calls(check, mutant, 7).await, first, "{check} with the same seed");
        assert_ne!(calls(check, mutant, 8).await, first, "{check} with another seed");
    }
}
