//! For every rule the smallest history that breaks it: a right one, changed in one place. The checker must name the rule.

use evstore_history::feed::{FeedClaims, FeedCommits, FeedLag, FeedOrder, FeedPositions, FeedRealtime};
use evstore_history::record::{
    Append, AppendOutcome, Call, CommitId, Consistency, Delivery, Digest, Event, EventId, Expected, FeedEntry,
    FeedItem, FinalBody, FinalCommit, FinalFeed, FinalStream, LoadOutcome, Moment, Operation, PrefixPoll, Read,
    ReadOutcome, Receipt, Returned, RunEnd, SaveOutcome, SaveSnapshot, Seen, SubscriptionRun, chain, feed_chain,
};
use evstore_history::stream::{Removal, Sessions, StreamClaims};
use evstore_history::{Claims, FeedClaim, History, KEPT_MAX, Rule, check};

const CLAIMS: Claims = Claims {
    streams: StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Never },
    feed: FeedClaim::Of(FEED),
};

/// What is claimed where somebody truncated, deleted or moved streams.
const REMOVING: Claims =
    Claims { streams: StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Asked }, ..CLAIMS };

const FEED: FeedClaims =
    FeedClaims { lag: FeedLag::Within { lag_ns: 1_000, healed_at: Moment(0) }, ..FeedClaims::STRICT };

/// What is claimed where streams were sealed, and nobody removed anything.
const SEALING: Claims =
    Claims { streams: StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Sealed }, ..CLAIMS };

type Break = fn(&mut History);

/// Each rule with ways to break it.
const BREAKS: &[(Rule, Break)] = &[
    (Rule::Record, |history| history.operations[0].returned_at = Returned::At(Moment(1))),
    (Rule::Record, |history| append(history, A1).events.clear()),
    (Rule::Record, |history| history.final_feed = None),
    (Rule::Record, |history| {
        let mut other = history.final_streams[0].clone();
        other.commits.pop();
        history.final_streams.push(other);
    }),
    (Rule::LogShape, |history| history.final_streams[0].commits[1].number = 3),
    (Rule::LogShape, |history| {
        history.final_streams[0].commits.remove(0);
    }),
    (Rule::DuplicateId, |history| {
        let again = FinalCommit { number: 4, body: body(4, &[event(1)]), id: commit(1) };
        history.final_streams[0].commits.push(again);
    }),
    (Rule::RemovedUnasked, |history| {
        history.final_streams[0].commits[0].body = FinalBody::Removed { first: 1, last: 1 };
    }),
    (Rule::RemovedUnasked, |history| {
        let number = history.final_streams[0].commits.len() as u64 + 1;
        history.final_streams[0].commits.push(FinalCommit { id: commit(8), number, body: FinalBody::Marker });
    }),
    (Rule::RemovedUnasked, |history| entries(history)[0].item = FeedItem::Removed { last: 1 }),
    (Rule::RemovedUnasked, |history| history.runs[0].deliveries[0].entry.item = FeedItem::Removed { last: 1 }),
    (Rule::Phantom, |history| add_to_log(history, 9, &[event(90)])),
    (Rule::Corrupt, |history| history.final_streams[0].commits[0].body = body(1, &[event(99)])),
    (Rule::TornCommit, |history| history.final_streams[1].commits[0].body = body(1, &[event(20)])),
    (Rule::TornCommit, |history| {
        let commits = &mut history.final_streams[1].commits;
        commits[0].body = body(1, &[event(20)]);
        commits.push(FinalCommit { id: commit(2), number: 2, body: body(2, &[event(21)]) });
    }),
    (Rule::LostAck, |history| {
        history.final_streams[0].commits.pop();
    }),
    (Rule::WrongRevision, |history| receipt(history, B).last = 3),
    (Rule::WrongRevision, |history| receipt(history, B).number = 2),
    (Rule::RefusedButPresent, |history| append(history, A3).outcome = AppendOutcome::DefiniteFail),
    (Rule::RefusedButPresent, |history| {
        append(history, A3).expected = Expected::NoStream;
        append(history, A3).outcome = AppendOutcome::Conflict { actual: 2 };
    }),
    // Written twice, and said so twice.
    (Rule::Idempotence, |history| repeat(history, |again| again.invoked_at = Moment(100))),
    // Conflicts although the commit is there.
    (Rule::Idempotence, |history| {
        repeat(history, |again| outcome(again, AppendOutcome::Conflict { actual: 2 }));
    }),
    // Refuses the same content.
    (Rule::Idempotence, |history| repeat(history, |again| outcome(again, AppendOutcome::OtherContent))),
    // Accepts other content.
    (Rule::Idempotence, |history| {
        repeat(history, |again| {
            let Call::Append(append) = &mut again.call else { panic!("an append is repeated") };
            append.events = vec![event(77)];
            let AppendOutcome::Ok(receipt) = &mut append.outcome else { panic!("the append was acknowledged") };
            receipt.repeated = true;
        });
    }),
    // Answers with another receipt than the first.
    (Rule::Idempotence, |history| {
        let receipt = Receipt { first: 2, last: 2, number: 2, position: None, repeated: true };
        repeat(history, |again| outcome(again, AppendOutcome::Ok(receipt)));
    }),
    (Rule::Expectation, |history| append(history, A2).expected = Expected::At(0)),
    (Rule::Expectation, |history| append(history, A2).expected = Expected::NoStream),
    (Rule::Expectation, |history| append(history, A1).expected = Expected::Exists),
    (Rule::Expectation, |history| {
        append(history, A2).expected = Expected::At(7);
        append(history, A2).outcome = AppendOutcome::Ambiguous;
    }),
    (Rule::SpuriousConflict, |history| conflict(history, Expected::Any, 3)),
    (Rule::SpuriousConflict, |history| conflict(history, Expected::At(3), 3)),
    (Rule::SpuriousConflict, |history| conflict(history, Expected::Exists, 3)),
    (Rule::ReadFromFuture, |history| see(history, "a-1", Consistency::Strong, (300, 310), 4)),
    (Rule::ReadFromFuture, |history| see(history, "a-1", Consistency::Strong, (11, 12), 2)),
    (Rule::TornRead, |history| see(history, "b-1", Consistency::Strong, (31, 39), 1)),
    (Rule::TornRead, |history| see(history, "b-1", Consistency::Eventual, (300, 310), 1)),
    (Rule::WrongRead, |history| {
        show(history, Seen::Events { from: 2, events: vec![event(1)] });
    }),
    (Rule::WrongRead, |history| show(history, Seen::Chain(Digest([7; 16])))),
    (Rule::WrongRead, |history| show(history, Seen::Events { from: 3, events: vec![event(3), event(4)] })),
    (Rule::StaleRead, |history| see(history, "a-1", Consistency::Strong, (300, 310), 2)),
    (Rule::StaleRead, |history| {
        conflict(history, Expected::At(9), 2);
    }),
    // Two appends that do not overlap, in the wrong order in the log.
    (Rule::RealtimeOrder, |history| {
        history.operations[A2].invoked_at = Moment(300);
        history.operations[A2].returned_at = Returned::At(Moment(310));
    }),
    (Rule::EventualFuture, |history| see(history, "a-1", Consistency::Eventual, (300, 310), 4)),
    (Rule::EventualFuture, |history| see(history, "a-1", Consistency::Eventual, (11, 12), 3)),
    (Rule::MonotonicReads, |history| {
        see(history, "a-1", Consistency::Eventual, (300, 310), 2);
        see(history, "a-1", Consistency::Eventual, (320, 330), 1);
    }),
    (Rule::ReadYourWrites, |history| {
        see(history, "a-1", Consistency::Eventual, (300, 310), 2);
        history.operations.last_mut().expect("there are calls").client = 1;
    }),
    (Rule::MonotonicWrites, |history| history.operations[A3].operation = 0),
    (Rule::WritesFollowReads, |history| {
        see(history, "a-1", Consistency::Eventual, (61, 62), 3);
        let read = history.operations.last_mut().expect("there are calls");
        (read.client, read.operation) = (1, 0);
    }),
    (Rule::FeedForward, |history| history.runs[0].deliveries.swap(0, 1)),
    (Rule::FeedForward, |history| {
        let again = history.runs[0].deliveries[2].clone();
        history.runs[0].deliveries.insert(3, again);
    }),
    (Rule::FeedForward, |history| {
        history.runs[1].after = 1;
    }),
    (Rule::FeedAgreement, |history| {
        let other = history.runs[1].deliveries[0].entry.item.clone();
        history.runs[1].deliveries[1].entry.item = other;
    }),
    (Rule::FeedAgreement, |history| receipt(history, B).position = Some(3)),
    (Rule::FeedAgreement, |history| {
        let mut again = entries(history)[0].clone();
        again.position = 6;
        entries(history).push(again);
    }),
    (Rule::FeedAgreement, |history| history.polls[0].chain = Digest([7; 16])),
    (Rule::FeedAgreement, |history| {
        // Two runs of an incarnation that is gone.
        history.runs.iter_mut().for_each(|run| run.incarnation = "gone".to_owned());
        history.runs[1].deliveries[0].entry.item = FeedItem::Marker { stream: "a-1".to_owned(), number: 9 };
    }),
    (Rule::FeedStreamOrder, |history| {
        let (first, second) = (entries(history)[3].item.clone(), entries(history)[4].item.clone());
        entries(history)[3].item = second;
        entries(history)[4].item = first;
    }),
    (Rule::FeedStreamOrder, |history| {
        history.runs[0].deliveries.remove(3);
    }),
    (Rule::FeedComplete, |history| {
        entries(history).pop();
    }),
    (Rule::FeedComplete, |history| {
        let extra = feed_event(6, "c-1", 1, 9, event(90));
        entries(history).push(extra);
    }),
    // A drained subscriber that lacks the last entry.
    (Rule::FeedComplete, |history| {
        history.runs[1].deliveries.pop();
    }),
    // Delivered before it was asked for.
    (Rule::FeedComplete, |history| history.runs[0].deliveries[4].delivered_at = Moment(1)),
    (Rule::FeedContiguous, |history| {
        history.runs[0].deliveries.remove(2);
    }),
    (Rule::FeedContiguous, |history| entries(history).iter_mut().for_each(|entry| entry.position += 1)),
    (Rule::FeedLateArrival, |history| {
        history.polls[0].entries = 2;
    }),
    // One subscriber passes over an entry that another one gets later.
    (Rule::FeedLateArrival, |history| {
        history.runs[0].deliveries.remove(2);
    }),
    (Rule::FeedWholeCommits, |history| {
        let (second, other) = (entries(history)[2].item.clone(), entries(history)[3].item.clone());
        entries(history)[2].item = other;
        entries(history)[3].item = second;
    }),
    (Rule::FeedRealtime, |history| {
        let item = entries(history)[0].item.clone();
        let entries = entries(history);
        entries[0].item = entries[1].item.clone();
        entries[1].item = entries[2].item.clone();
        entries[2].item = item;
    }),
    (Rule::FeedLag, |history| {
        let last = history.runs[0].deliveries.last_mut().expect("it was given something");
        last.delivered_at = Moment(5_000);
    }),
    (Rule::SnapshotState, |history| save(history, 320, 3, 2, SaveOutcome::Stored)),
    (Rule::SnapshotAhead, |history| save(history, 320, 4, 3, SaveOutcome::Stored)),
    (Rule::SnapshotAhead, |history| save(history, 2, 3, 3, SaveOutcome::Stored)),
    (Rule::SnapshotRegressed, |history| load(history, 320, 1)),
    (Rule::SnapshotRegressed, |history| load(history, 320, 0)),
    (Rule::SnapshotRegressed, |history| save(history, 320, 1, 1, SaveOutcome::Superseded { by: 1 })),
    (Rule::SnapshotOverwritten, |history| save(history, 320, 1, 1, SaveOutcome::Stored)),
    (Rule::SnapshotOverwritten, |history| {
        save(history, 320, 1, 1, SaveOutcome::Ambiguous);
        load(history, 330, 1);
    }),
];

#[test]
fn every_broken_history_is_caught_by_its_rule() {
    for (number, (rule, break_it)) in BREAKS.iter().enumerate() {
        let mut history = right();
        break_it(&mut history);
        let verdict = check(&history, &CLAIMS);
        assert!(verdict.breaks(*rule), "break {number} is not named {rule}, but:\n{verdict}");
    }
}

#[test]
fn every_rule_has_a_history_that_breaks_it() {
    let unbroken: Vec<&Rule> =
        Rule::ALL.iter().filter(|rule| !BREAKS.iter().any(|(other, _)| other == *rule)).collect();
    assert_eq!(unbroken, Vec::<&Rule>::new());
}

#[test]
fn the_right_history_passes() {
    let verdict = check(&right(), &CLAIMS);
    assert!(verdict.held(), "{verdict}");
}

#[test]
fn what_is_allowed_passes() {
    const ALLOWED: &[Break] = &[
        // A lost answer, repeated.
        |history| {
            append(history, A3).outcome = AppendOutcome::Ambiguous;
            history.operations[A3].returned_at = Returned::Never;
            let receipt = Receipt { first: 3, last: 3, number: 3, position: Some(5), repeated: true };
            repeat_of(history, A3, |again| outcome(again, AppendOutcome::Ok(receipt)));
        },
        // A lost answer that was never applied.
        |history| {
            conflict(history, Expected::Any, 3);
            outcome(history.operations.last_mut().expect("there are calls"), AppendOutcome::Ambiguous);
        },
        // Other content under a used id is refused.
        |history| {
            repeat(history, |again| {
                let Call::Append(append) = &mut again.call else { panic!("an append is repeated") };
                append.events = vec![event(77)];
                append.outcome = AppendOutcome::OtherContent;
            });
        },
        // After a conflict the decision is made anew under the same id.
        |history| {
            let mut first = history.operations[A3].clone();
            (first.operation, first.invoked_at, first.returned_at) = (30, Moment(85), Returned::At(Moment(90)));
            let Call::Append(append) = &mut first.call else { panic!("an append") };
            append.events = vec![event(77)];
            append.expected = Expected::At(1);
            append.outcome = AppendOutcome::Conflict { actual: 2 };
            first.client = 9;
            history.operations.push(first);
        },
        // An eventual read of another client is behind.
        |history| see(history, "a-1", Consistency::Eventual, (300, 310), 1),
        // `At(0)` is `NoStream`.
        |history| append(history, A1).expected = Expected::At(0),
        // Overlapping calls may stand in either order.
        |history| see(history, "a-1", Consistency::Strong, (40, 85), 1),
        |history| see(history, "a-1", Consistency::Strong, (40, 85), 2),
        // A marker takes a number and a position, and no revision.
        |history| {
            let body = FinalBody::Marker;
            history.final_streams[0].commits.push(FinalCommit { id: commit(8), number: 4, body });
            let item = FeedItem::Marker { stream: "a-1".to_owned(), number: 4 };
            let entry = FeedEntry { position: 6, item };
            entries(history).push(entry.clone());
            history.runs[1].deliveries.push(Delivery { delivered_at: Moment(400), entry });
        },
        // The first events are truncated: removed from the log and from the feed after they were delivered.
        |history| {
            history.final_streams[0].commits[0].body = FinalBody::Removed { first: 1, last: 1 };
            entries(history)[0].item = FeedItem::Removed { last: 1 };
        },
        // A late subscriber sees the removed range only.
        |history| {
            history.final_streams[0].commits[0].body = FinalBody::Removed { first: 1, last: 1 };
            entries(history)[0].item = FeedItem::Removed { last: 1 };
            history.runs[0].deliveries[0].entry.item = FeedItem::Removed { last: 1 };
        },
        // A deleted snapshot is gone.
        |history| {
            operation(history, "a-1", (312, 314), Call::DeleteSnapshot);
            load(history, 320, 0);
        },
        // A save whose answer was lost shows or does not.
        |history| {
            save(history, 320, 3, 3, SaveOutcome::Ambiguous);
            load(history, 330, 2);
        },
        // A replay in another incarnation is not compared with what is gone.
        |history| {
            history.runs.iter_mut().for_each(|run| run.incarnation = "gone".to_owned());
            history.runs.iter_mut().for_each(|run| run.deliveries.truncate(4));
            history.polls[0].incarnation = "gone".to_owned();
            history.polls[0].chain = Digest([7; 16]);
        },
    ];
    for (number, change) in ALLOWED.iter().enumerate() {
        let mut history = right();
        change(&mut history);
        let verdict = check(&history, &REMOVING);
        assert!(verdict.held(), "change {number}:\n{verdict}");
    }
}

#[test]
fn seals_pass_where_streams_were_sealed_and_nothing_else_does() {
    let mut history = right();
    let number = history.final_streams[0].commits.len() as u64 + 1;
    history.final_streams[0].commits.push(FinalCommit { id: commit(8), number, body: FinalBody::Marker });
    let verdict = check(&history, &SEALING);
    assert!(verdict.held(), "{verdict}");
    history.final_streams[0].commits[0].body = FinalBody::Removed { first: 1, last: 1 };
    assert!(check(&history, &SEALING).streams.violations.has(Rule::RemovedUnasked));
    let mut history = right();
    entries(&mut history)[0].item = FeedItem::Removed { last: 1 };
    assert!(check(&history, &SEALING).streams.violations.has(Rule::RemovedUnasked));
}

#[test]
fn holes_and_mixed_commits_pass_where_nothing_else_is_claimed() {
    let mut history = right();
    // Positions with holes, and the second event of commit 2 behind another commit.
    let order = [0, 1, 3, 2, 4];
    let items: Vec<FeedItem> = order.iter().map(|index| entries(&mut history)[*index].item.clone()).collect();
    let mixed: Vec<FeedEntry> =
        items.into_iter().zip([2, 3, 5, 8, 13]).map(|(item, position)| FeedEntry { position, item }).collect();
    *entries(&mut history) = mixed.clone();
    history.polls.clear();
    history.runs.truncate(1);
    for (delivery, entry) in history.runs[0].deliveries.iter_mut().zip(mixed) {
        delivery.entry = entry;
    }
    [A1, B, A2, A3].into_iter().for_each(|index| receipt(&mut history, index).position = None);
    let lax = FeedClaims {
        positions: FeedPositions::Increasing,
        commits: FeedCommits::MayInterleave,
        real_time: FeedRealtime::NotPromised,
        ..FEED
    };
    let verdict = check(&history, &Claims { feed: FeedClaim::Of(lax), ..CLAIMS });
    assert!(verdict.held(), "{verdict}");
    let verdict = check(&history, &CLAIMS);
    assert!(verdict.breaks(Rule::FeedContiguous) && verdict.breaks(Rule::FeedWholeCommits), "{verdict}");
}

#[test]
fn a_feed_without_positions_is_complete_and_ordered_by_stream() {
    let opaque = Claims {
        feed: FeedClaim::Of(FeedClaims { order: FeedOrder::PerStream, positions: FeedPositions::Opaque, ..FEED }),
        ..CLAIMS
    };
    let mut history = right();
    history.polls.clear();
    history.runs.truncate(1);
    history.runs[0].ended = RunEnd::Drained;
    entries(&mut history).iter_mut().for_each(|entry| entry.position = 0);
    history.runs[0].deliveries.iter_mut().for_each(|delivery| delivery.entry.position = 0);
    history.runs[0].deliveries.rotate_left(1);
    // Streams may overtake each other; the events of one may not.
    let own: Vec<Delivery> = history.runs[0].deliveries.clone();
    history.runs[0].deliveries = [4, 0, 1, 2, 3].iter().map(|index| own[*index].clone()).collect();
    let verdict = check(&history, &opaque);
    assert!(verdict.held(), "{verdict}");

    history.runs[0].deliveries.swap(0, 3);
    assert!(check(&history, &opaque).breaks(Rule::FeedStreamOrder));
    history.runs[0].deliveries.swap(0, 3);

    // A second run from a later place, of which only is known that it is not the beginning.
    let rest = history.runs[0].deliveries.split_off(3);
    history.runs[0].ended = RunEnd::Cut;
    let again =
        SubscriptionRun { run: 1, after: 1, ended: RunEnd::Drained, deliveries: rest, ..history.runs[0].clone() };
    history.runs.push(again);
    let verdict = check(&history, &opaque);
    assert!(verdict.held(), "{verdict}");
    history.runs[1].deliveries.remove(0);
    assert!(check(&history, &opaque).breaks(Rule::FeedComplete));
}

#[test]
fn a_violation_shows_the_calls_that_prove_it_and_no_others() {
    let mut history = right();
    see(&mut history, "a-1", Consistency::Strong, (300, 310), 2);
    let violations = check(&history, &CLAIMS).streams.violations;
    assert_eq!(
        violations.to_string(),
        "S4.stale: a head was shown that had been overtaken before the call\n  \
         promise: A strong answer shows every append that returned before it was asked for.\n  \
         stream: a-1\n  \
         [0.000 us .. 0.010 us] client 1 call 3 attempt 1 on a-1: append 1 event(s), At(2), \
         commit 04040404040404040404040404040404 -> ok at 3..=3, commit number 3\n  \
         [0.200 us .. 0.210 us] client 40 call 3 attempt 1 on a-1: Strong read -> head at 2\n  \
         final log of a-1: revisions 3..=3 are commit 04040404040404040404040404040404, number 3\n"
    );
}

#[test]
fn of_each_rule_only_a_few_violations_are_kept_and_all_are_counted() {
    let mut history = right();
    for number in 0..20 {
        see(&mut history, "a-1", Consistency::Strong, (300 + number, 400), 9);
    }
    let verdict = check(&history, &CLAIMS);
    assert_eq!(verdict.streams.violations.kept.len(), KEPT_MAX);
    assert_eq!(verdict.streams.violations.counts[&Rule::ReadFromFuture], 20);
    assert!(verdict.to_string().ends_with("S3.future: 12 more\n"));
}

// --- The right history: commits 1, 3 and 4 on a-1, commit 2 with two events on b-1, one after the other

const A1: usize = 0;
const B: usize = 1;
const A2: usize = 2;
const A3: usize = 3;

fn right() -> History {
    let mut history = History::default();
    write(&mut history, "a-1", (10, 20), 1, Expected::NoStream, (1, 1, 1), vec![event(1)]);
    write(&mut history, "b-1", (30, 40), 2, Expected::Any, (1, 1, 2), vec![event(20), event(21)]);
    write(&mut history, "a-1", (70, 80), 3, Expected::Exists, (2, 2, 4), vec![event(2)]);
    write(&mut history, "a-1", (100, 110), 4, Expected::At(2), (3, 3, 5), vec![event(3)]);
    let logged =
        |id: u8, number, first, events: &[Event]| FinalCommit { id: commit(id), number, body: body(first, events) };
    history.final_streams = vec![
        FinalStream {
            stream: "a-1".to_owned(),
            commits: vec![logged(1, 1, 1, &[event(1)]), logged(3, 2, 2, &[event(2)]), logged(4, 3, 3, &[event(3)])],
        },
        FinalStream { stream: "b-1".to_owned(), commits: vec![logged(2, 1, 1, &[event(20), event(21)])] },
    ];
    let feed = vec![
        feed_event(1, "a-1", 1, 1, event(1)),
        feed_event(2, "b-1", 1, 2, event(20)),
        feed_event(3, "b-1", 2, 2, event(21)),
        feed_event(4, "a-1", 2, 3, event(2)),
        feed_event(5, "a-1", 3, 4, event(3)),
    ];
    history.runs = vec![run(1, 0, RunEnd::Cut, 200, &feed), run(2, 2, RunEnd::Drained, 300, &feed[2..])];
    history.polls = vec![PrefixPoll {
        client: 50,
        incarnation: "now".to_owned(),
        invoked_at: Moment(150),
        up_to: 3,
        entries: 3,
        chain: feed[..3].iter().fold(Digest::default(), feed_chain),
    }];
    history.final_feed = Some(FinalFeed { incarnation: "now".to_owned(), entries: feed });
    save(&mut history, 130, 2, 2, SaveOutcome::Stored);
    load(&mut history, 140, 2);
    show(&mut history, Seen::Chain(folded(3)));
    show(&mut history, Seen::Events { from: 2, events: vec![event(2), event(3)] });
    history
}

fn write(
    history: &mut History,
    stream: &str,
    times: (u64, u64),
    id: u8,
    expected: Expected,
    (number, first, position): (u64, u64, u64),
    events: Vec<Event>,
) {
    let last = first + events.len() as u64 - 1;
    let receipt = Receipt { first, last, number, position: Some(position), repeated: false };
    let append = Append { commit: commit(id), expected, events, outcome: AppendOutcome::Ok(receipt) };
    operation(history, stream, times, Call::Append(append));
    let written = history.operations.last_mut().expect("there are calls");
    (written.client, written.operation) = (1, number);
}

/// A call of a client of its own.
fn operation(history: &mut History, stream: &str, (invoked_at, returned_at): (u64, u64), call: Call) {
    history.operations.push(Operation {
        client: 40,
        operation: 1 + history.operations.iter().filter(|operation| operation.client == 40).count() as u64,
        attempt: 1,
        stream: stream.to_owned(),
        invoked_at: Moment(invoked_at),
        returned_at: Returned::At(Moment(returned_at)),
        call,
    });
    let last = history.operations.len() - 1;
    // Its calls are told apart by their own client, so that no session rule binds them unless a test says so.
    if let Call::Read(Read { consistency: Consistency::Strong, outcome: ReadOutcome::Ok { seen, .. } }) =
        &history.operations[last].call
        && *seen != Seen::Head
    {
        history.operations[last].client = 100 + last as u64;
    }
}

fn see(history: &mut History, stream: &str, consistency: Consistency, times: (u64, u64), head: u64) {
    let outcome = ReadOutcome::Ok { head, seen: Seen::Head };
    operation(history, stream, times, Call::Read(Read { consistency, outcome }));
}

/// A strong read of a-1 at the end that shows this of its content.
fn show(history: &mut History, seen: Seen) {
    let outcome = ReadOutcome::Ok { head: 3, seen };
    operation(history, "a-1", (250, 260), Call::Read(Read { consistency: Consistency::Strong, outcome }));
}

fn conflict(history: &mut History, expected: Expected, actual: u64) {
    let outcome = AppendOutcome::Conflict { actual };
    let append = Append { commit: commit(7), expected, events: vec![event(70)], outcome };
    operation(history, "a-1", (300, 310), Call::Append(append));
}

fn repeat(history: &mut History, change: impl FnOnce(&mut Operation)) {
    repeat_of(history, A1, change);
}

/// One more attempt at an append, after everything else.
fn repeat_of(history: &mut History, index: usize, change: impl FnOnce(&mut Operation)) {
    let mut again = history.operations[index].clone();
    (again.client, again.operation) = (41, 1);
    (again.invoked_at, again.returned_at) = (Moment(350), Returned::At(Moment(360)));
    change(&mut again);
    history.operations.push(again);
}

fn save(history: &mut History, at: u64, revision: u64, state_of: u64, outcome: SaveOutcome) {
    let save = SaveSnapshot { revision, state: folded(state_of), outcome };
    operation(history, "a-1", (at, at + 5), Call::SaveSnapshot(save));
}

fn load(history: &mut History, at: u64, revision: u64) {
    let outcome = match revision {
        0 => LoadOutcome::Absent,
        revision => LoadOutcome::Found { revision, state: folded(revision) },
    };
    operation(history, "a-1", (at, at + 5), Call::LoadSnapshot(outcome));
}

fn add_to_log(history: &mut History, id: u8, events: &[Event]) {
    let added = FinalCommit { id: commit(id), number: 4, body: body(4, events) };
    history.final_streams[0].commits.push(added);
}

fn append(history: &mut History, index: usize) -> &mut Append {
    match &mut history.operations[index].call {
        Call::Append(append) => append,
        other => panic!("not an append: {other:?}"),
    }
}

fn receipt(history: &mut History, index: usize) -> &mut Receipt {
    match &mut append(history, index).outcome {
        AppendOutcome::Ok(receipt) => receipt,
        other => panic!("not acknowledged: {other:?}"),
    }
}

fn outcome(operation: &mut Operation, outcome: AppendOutcome) {
    match &mut operation.call {
        Call::Append(append) => append.outcome = outcome,
        other => panic!("not an append: {other:?}"),
    }
}

fn entries(history: &mut History) -> &mut Vec<FeedEntry> {
    &mut history.final_feed.as_mut().expect("the right history has one").entries
}

fn run(subscriber: u64, after: u64, ended: RunEnd, from: u64, entries: &[FeedEntry]) -> SubscriptionRun {
    let delivery = |(entry, at): (&FeedEntry, u64)| Delivery { delivered_at: Moment(at), entry: entry.clone() };
    SubscriptionRun {
        subscriber,
        run: 0,
        incarnation: "now".to_owned(),
        after,
        started_at: Moment(0),
        ended,
        deliveries: entries.iter().zip(from..).map(delivery).collect(),
    }
}

fn feed_event(position: u64, stream: &str, revision: u64, id: u8, event: Event) -> FeedEntry {
    FeedEntry { position, item: FeedItem::Event { stream: stream.to_owned(), revision, commit: commit(id), event } }
}

/// The state of a-1 at a revision.
fn folded(revision: u64) -> Digest {
    (1..=revision).map(|number| event(number as u8)).fold(Digest::default(), |state, event| chain(state, &event))
}

fn body(first: u64, events: &[Event]) -> FinalBody {
    FinalBody::Events { first, events: events.to_vec() }
}

fn commit(id: u8) -> CommitId {
    CommitId([id; 16])
}

fn event(id: u8) -> Event {
    Event { id: EventId([id; 16]), digest: Digest([id; 16]) }
}
