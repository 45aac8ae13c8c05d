//! Histories of a store that keeps every promise must pass, also after they were written as lines and read again.

use evstore_conformance::history::feed::FeedClaims;
use evstore_conformance::history::generate::{Size, generate};
use evstore_conformance::history::lines::{self, MergeError, Part};
use evstore_conformance::history::record::{Call, Operation, Returned};
use evstore_conformance::history::stream::{Removal, Sessions, StreamClaims};
use evstore_conformance::history::{Claims, FeedClaim, History, check};
use evstore_conformance::seed::Seed;

const CLAIMS: Claims = Claims {
    streams: StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Never },
    feed: FeedClaim::Of(FeedClaims::STRICT),
};

fn made_up(seed: u64, operations: u64) -> History {
    let mut seed = Seed(seed);
    let size = Size { clients: 1 + seed.below(8), streams: 1 + seed.below(4), operations, subscribers: seed.below(4) };
    generate(size, &mut seed)
}

#[test]
fn histories_of_a_right_store_pass() {
    for seed in 0..300 {
        let verdict = check(&made_up(seed, 200), &CLAIMS);
        assert!(verdict.held(), "seed {seed}:\n{verdict}");
    }
}

#[test]
fn lag_and_staleness_are_measured() {
    let size = Size { clients: 6, streams: 2, operations: 2_000, subscribers: 2 };
    let verdict = check(&generate(size, &mut Seed(3)), &CLAIMS);
    assert!(verdict.held(), "{verdict}");
    assert!(verdict.feed.lag.max_ns > 0 && verdict.feed.lag.p50_ns <= verdict.feed.lag.p99_ns);
    assert!(verdict.streams.staleness.count > 0 && verdict.streams.staleness.max_ns > 0);
}

#[test]
fn lines_come_back_as_they_were_written() {
    let history = made_up(7, 500);
    let mut text = Vec::new();
    lines::write(&mut text, &history).unwrap();
    assert_eq!(lines::read(text.as_slice()).unwrap(), history);
}

#[test]
fn an_answer_replaces_the_call_that_was_written_before_it() {
    let answered = made_up(9, 1).operations.remove(0);
    let called = Operation { returned_at: Returned::Never, ..answered.clone() };
    let mut text = Vec::new();
    lines::write_line(&mut text, &lines::Line::Operation(called)).unwrap();
    lines::write_line(&mut text, &lines::Line::Operation(answered.clone())).unwrap();
    assert_eq!(lines::read(text.as_slice()).unwrap().operations, [answered]);
}

#[test]
fn a_last_line_that_was_cut_off_is_left_out() {
    let history = made_up(9, 2);
    let mut text = Vec::new();
    lines::write_line(&mut text, &lines::Line::Operation(history.operations[0].clone())).unwrap();
    lines::write_line(&mut text, &lines::Line::Operation(history.operations[1].clone())).unwrap();
    text.truncate(text.len() - 1);
    assert_eq!(lines::read(text.as_slice()).unwrap().operations, history.operations[..1]);
}

#[test]
fn a_line_that_is_no_record_is_refused_with_its_number() {
    let error = lines::read(&b"{\"run_drained\":{\"subscriber\":1,\"run\":0}}\n"[..]).unwrap_err();
    assert_eq!(error.to_string(), "history line 1: run 0 of subscriber 1 was not started");
    assert_eq!(lines::read(&b"{}\n"[..]).unwrap_err().line, 1);
}

#[test]
fn parts_from_hosts_with_unsure_clocks_pass_once_they_are_widened() {
    let whole = made_up(11, 1_000);
    let odd_ahead_ns = 50_000;
    let split = |odd: u64| {
        let mut part = whole.clone();
        part.operations.retain(|operation| operation.client % 2 == odd);
        part
    };
    let even = split(0);
    let mut odd = split(1);
    odd.runs.clear();
    odd.polls.clear();
    odd.final_streams.clear();
    odd.final_feed = None;
    for operation in &mut odd.operations {
        operation.invoked_at.0 += odd_ahead_ns;
        if let Returned::At(moment) = &mut operation.returned_at {
            moment.0 += odd_ahead_ns;
        }
    }
    let merged = |clock_off_ns| {
        let parts = [&even, &odd].map(|part| Part { history: part.clone(), clock_off_ns });
        lines::merge(parts.to_vec()).unwrap()
    };
    assert!(!check(&merged(0), &CLAIMS).held());
    let verdict = check(&merged(odd_ahead_ns), &CLAIMS);
    assert!(verdict.held(), "{verdict}");
}

#[test]
fn parts_with_the_same_client_are_not_merged() {
    let part = Part { history: made_up(1, 1), clock_off_ns: 0 };
    let result = lines::merge(vec![part.clone(), part]);
    assert!(matches!(result, Err(MergeError::SharedClient(_))));
}

#[test]
fn made_up_histories_have_every_kind_of_call_and_answer() {
    let history = made_up(2, 2_000);
    let shown: String = history.operations.iter().map(|operation| format!("{:?}", operation.call)).collect();
    for kind in [
        "Ok(",
        "repeated: true",
        "Conflict",
        "DefiniteFail",
        "Ambiguous",
        "Chain",
        "from:",
        "Eventual",
        "Superseded",
        "Found",
        "NoStream",
        "Exists",
        "At(",
        "Any",
    ] {
        assert!(shown.contains(kind), "no {kind}");
    }
    assert!(history.operations.iter().any(|operation| matches!(operation.call, Call::SaveSnapshot(_))));
}
