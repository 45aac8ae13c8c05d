//! One thing goes wrong at one moment of a move, while nodes work. Each schedule shows that its moment was hit; the history checker judges
//! the rest. [`SCHEDULES`] says which are run here, [`ELSEWHERE`] where the others are, and a test that none of the 27 is forgotten.

use crate::node::{HOT, ROLE, Role, now};
use crate::process::{self, Process, patience};
use crate::proxy::Way as Line;
use crate::stores::{Kind, Place};
use crate::system::{NEW, OLD, System, UNTOLD, itself};
use evstore::api::ReadSnapshot;
use evstore::{Deadline, StreamId};
use evstore_conformance::history::record::{
    Append, AppendOutcome, Call, FeedItem, Moment, Operation, Returned, SaveOutcome,
};
use evstore_migrate::{Phase, Way};
use libtest_mimic::Trial;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What goes wrong, and when.
struct Schedule {
    /// Its numbers among the 27.
    numbers: &'static [u8],
    name: &'static str,
    stores: Stores,
    run: fn(),
}

/// What it is run on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stores {
    Files,
    Servers,
}

const SCHEDULES: &[Schedule] = &[
    Schedule { numbers: &[4], name: "a_node_is_stopped_across_the_fence", stores: Stores::Files, run: node_is_stopped },
    Schedule {
        numbers: &[5],
        name: "a_node_was_not_told_of_the_target",
        stores: Stores::Files,
        run: node_was_not_told,
    },
    Schedule {
        numbers: &[6],
        name: "answers_are_lost_around_the_fence_and_the_opening",
        stores: Stores::Servers,
        run: || answers_are_lost(Kind::Postgres, Kind::Redis),
    },
    Schedule {
        numbers: &[7],
        name: "appends_are_held_past_the_fence_of_postgres",
        stores: Stores::Servers,
        run: || appends_are_held(Kind::Postgres, Kind::Sqlite),
    },
    Schedule {
        numbers: &[7],
        name: "appends_are_held_past_the_fence_of_redis",
        stores: Stores::Servers,
        run: || appends_are_held(Kind::Redis, Kind::Sqlite),
    },
    Schedule {
        numbers: &[7],
        name: "appends_are_held_past_the_seals_of_dynamodb",
        stores: Stores::Servers,
        run: || appends_are_held(Kind::DynamoDbSequencer, Kind::Sqlite),
    },
    Schedule {
        numbers: &[1, 18],
        name: "a_migrator_is_killed_while_it_seals_and_a_move_is_given_up_there",
        stores: Stores::Servers,
        run: killed_while_it_seals,
    },
    Schedule {
        numbers: &[8],
        name: "the_source_crashes_in_each_phase_postgres",
        stores: Stores::Servers,
        run: || server_crashes(Kind::Postgres, Kind::Redis, |system| &mut system.a),
    },
    Schedule {
        numbers: &[8],
        name: "the_source_crashes_in_each_phase_redis",
        stores: Stores::Servers,
        run: || server_crashes(Kind::Redis, Kind::Sqlite, |system| &mut system.a),
    },
    Schedule {
        numbers: &[9],
        name: "the_target_crashes_in_each_phase_postgres",
        stores: Stores::Servers,
        run: || server_crashes(Kind::Sqlite, Kind::Postgres, |system| &mut system.b),
    },
    Schedule {
        numbers: &[9],
        name: "the_target_crashes_in_each_phase_redis",
        stores: Stores::Servers,
        run: || server_crashes(Kind::Postgres, Kind::Redis, |system| &mut system.b),
    },
    Schedule {
        numbers: &[10],
        name: "the_target_throttles_for_a_minute",
        stores: Stores::Servers,
        run: target_throttles,
    },
    Schedule { numbers: &[11], name: "the_disk_of_the_target_is_full", stores: Stores::Files, run: disk_is_full },
    Schedule {
        numbers: &[12, 13],
        name: "streams_are_made_on_old_and_new_nodes_across_the_fence",
        stores: Stores::Files,
        run: || streams_are_made(Kind::Sqlite, 0),
    },
    Schedule {
        numbers: &[12, 13],
        name: "streams_are_made_on_old_and_new_nodes_across_the_seals_of_dynamodb",
        stores: Stores::Servers,
        // Without a pause a file takes more streams than the local engine can be given back.
        run: || streams_are_made(Kind::DynamoDbSequencer, 5),
    },
    Schedule {
        numbers: &[14],
        name: "a_hot_stream_is_appended_to_throughout",
        stores: Stores::Files,
        run: stream_is_hot,
    },
    Schedule {
        numbers: &[15],
        name: "consumers_restart_across_the_move",
        stores: Stores::Files,
        run: consumers_restart,
    },
    Schedule {
        numbers: &[16],
        name: "snapshots_are_saved_across_the_fence",
        stores: Stores::Files,
        run: snapshots_race,
    },
    Schedule { numbers: &[17], name: "commits_are_sent_again_after_the_move", stores: Stores::Files, run: sent_again },
    Schedule { numbers: &[20], name: "clocks_are_an_hour_off", stores: Stores::Servers, run: clocks_are_off },
    Schedule { numbers: &[21], name: "a_byte_of_the_target_is_damaged", stores: Stores::Files, run: byte_is_damaged },
    Schedule {
        numbers: &[24],
        name: "a_transaction_stays_open_across_the_fence",
        stores: Stores::Servers,
        run: transaction_stays_open,
    },
    Schedule { numbers: &[25], name: "a_failover_loses_what_was_copied", stores: Stores::Servers, run: failover_loses },
];

/// Where the others are run.
const ELSEWHERE: &[(u8, &str)] = &[
    (1, "migrate/tests/cut_off.rs: before and after every call; and `moved::*` here, at random"),
    (2, "migrate/tests/there_and_back.rs: a_run_copies_both_ways_until_the_move_is_over; cut_off.rs"),
    (3, "migrate/tests/cut_off.rs: a_migrator_that_wakes_up_late_changes_nothing"),
    (18, "migrate/tests/there_and_back.rs: a_move_is_given_up_in_each_phase_and_made_all_the_same"),
    (19, "`moved::*` here: 10,000 appends before the rollback"),
    (22, "migrate/tests/cut_off.rs: a_copy_that_is_not_the_source_is_not_handed_over_to"),
    (23, "cli/tests/it/migrate.rs: a_target_that_holds_less_is_refused_or_accepted_by_name"),
    (26, "migrate/tests/there_and_back.rs: a_copy_that_does_not_come_near_is_told_and_closes_nothing"),
    (27, "`moved::*` here: every pair, more than 10,000 streams, equal exports"),
];

/// What of the 27 belongs to streams that are handed over one by one, and has no counterpart where one record decides: of 13, a name that is
/// made in both stores because both are open for new streams.
pub fn trials() -> impl Iterator<Item = Trial> {
    let is_run = |schedule: &&Schedule| schedule.stores == Stores::Files || cfg!(feature = "engine-tests");
    let schedules = SCHEDULES.iter().filter(is_run).map(|schedule| {
        Trial::test(format!("schedule::{}", schedule.name), || {
            (schedule.run)();
            Ok(())
        })
    });
    let none_is_forgotten = Trial::test("schedule::none_of_the_27_is_forgotten", || {
        let here = SCHEDULES.iter().flat_map(|schedule| schedule.numbers.iter().copied());
        let all: BTreeSet<u8> = here.chain(ELSEWHERE.iter().map(|(number, _)| *number)).collect();
        assert_eq!(all, (1..=27).collect());
        Ok(())
    });
    let none_is_left = Trial::test("schedule::an_aborted_test_leaves_no_process_behind", || {
        aborted_test_leaves_nothing();
        Ok(())
    })
    .with_ignored_flag(!cfg!(target_os = "linux"));
    schedules.chain([none_is_forgotten, none_is_left])
}

/// What a process is told that is to begin a test and be aborted.
pub const ABORTED: &str = "begin-and-be-aborted";

/// Begins a test, says which processes it started, and waits to be killed.
pub fn begin_and_be_aborted() {
    let target = if cfg!(feature = "engine-tests") { Kind::Postgres } else { Kind::Sqlite };
    let mut system = System::new(Kind::Sqlite, target);
    let nodes = [system.node(Role::Write, OLD), system.node(Role::Consume(0), OLD)];
    system.start();
    let copies = system.copies();
    system.let_work(10);
    let mut processes = nodes.map(|node| system.process(node).id()).to_vec();
    processes.push(copies.id());
    processes.extend(system.servers());
    println!("started {}", processes.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    std::thread::sleep(patience());
}

fn aborted_test_leaves_nothing() {
    let printed = tempfile::NamedTempFile::new().unwrap();
    let mut command = process::command(std::env::current_exe().unwrap());
    command.env(ROLE, ABORTED).stdin(Stdio::null()).stdout(printed.reopen().unwrap());
    let aborted = Process::start(&mut command, "a test that is aborted");
    let began = Instant::now();
    let started: Vec<u32> = loop {
        let said = std::fs::read_to_string(printed.path()).unwrap();
        if let Some(line) = said.lines().find_map(|line| line.strip_prefix("started ")) {
            break line.split(' ').map(|number| number.parse().unwrap()).collect();
        }
        assert!(began.elapsed() < patience(), "it starts no processes: {said}");
        std::thread::sleep(Duration::from_millis(20));
    };
    // One that is dead and that nobody has waited for yet does nothing any more.
    let runs = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    assert!(started.len() >= 3 && started.iter().all(runs), "{started:?}");
    drop(aborted);
    let killed_at = Instant::now();
    while started.iter().any(runs) {
        let left: Vec<_> = started.iter().filter(|process| runs(process)).collect();
        assert!(killed_at.elapsed() < Duration::from_secs(30), "they go on without their test: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const TAKEN_OVER: [&str; 2] = ["moved", "copying_back"];

/// A system that works, and whose move has begun and caught up.
fn begun(a: Kind, b: Kind) -> System {
    let mut system = System::new(a, b);
    for _ in 0..2 {
        system.node(Role::Write, OLD);
    }
    system.node(Role::Consume(0), OLD);
    system.let_work(50);
    system.start();
    let [writer, consumer] = [Role::Write, Role::Consume(0)].map(|role| system.node(role, NEW));
    // Whoever begins at the target finds the owner by asking it, so that nothing may be wrong with it before.
    system.until("those with the new config work", || [writer, consumer].iter().all(|node| system.has_told(*node)));
    system
}

/// Hands over, and gives where the source ends.
fn cutover(system: &System) -> u64 {
    cutover_leaving(system, "")
}

/// The same, whoever is left behind for it.
fn cutover_leaving(system: &System, accepts: &str) -> u64 {
    let mut done = None;
    // One that could not reach the target a moment ago tells so for ten seconds.
    system.until("every node would follow", || {
        let output = system.run(&format!("migrate cutover -y -o json{accepts}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 8)), "{said}");
        done = output.status.success().then(|| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap());
        done.is_some()
    });
    done.unwrap()["end"].as_u64().unwrap()
}

/// Repeats a verb until it has come so far, as an operator does.
fn until_done(system: &mut System, arguments: &str, phases: &[&str]) {
    system.killed_until(arguments, 0, phases);
}

fn copied(system: &System) {
    system.ok("migrate wait --for caught-up --timeout 120s");
}

fn node_is_stopped() {
    let mut system = begun(Kind::Sqlite, Kind::Sqlite);
    let _copies = system.copies();
    let stopped = system.node(Role::Write, OLD);
    system.let_work(100);
    copied(&system);
    system.process(stopped).signal("-STOP");
    let end = cutover(&system);
    // The others have gone on for a while, in the other store.
    system.let_work(100);
    let goes_on_at = now();
    system.process(stopped).signal("-CONT");
    // By itself: the others are long done while it finds out that it has to follow.
    system.let_node_work(stopped, 100);
    let seen = system.end("b");
    let of_it = |one: &&Operation| one.client == stopped;
    let went_on = seen.history.operations.iter().filter(of_it).any(|one| {
        let after = matches!(one.returned_at, Returned::At(at) if at > goes_on_at);
        after && matches!(&one.call, Call::Append(append) if is_after(append, end))
    });
    assert!(went_on, "the stopped node did not go on in the store that took over");
    seen.judge();
}

fn node_was_not_told() {
    let mut system = begun(Kind::Sqlite, Kind::Sqlite);
    let untold = system.node(Role::UntilRefused, UNTOLD);
    system.let_work(50);
    // The two writers, the two consumers, and one that has not got the target.
    let mut name = None;
    system.until("all nodes tell of themselves", || {
        let nodes: serde_json::Value = serde_json::from_str(&system.ok("nodes -o json")).unwrap();
        let nodes = nodes["nodes"].as_array().unwrap().clone();
        let untold = nodes.iter().find(|node| node["stores"] == serde_json::json!(["a"]));
        name = untold.map(|node| node["name"].as_str().unwrap().to_owned());
        nodes.iter().filter(|node| node["live"] == true).count() == 6
    });
    let name = name.unwrap();
    assert!(name.ends_with(&format!("-{}", system.process(untold).id())), "{name}");
    let refused = system.run("migrate cutover -y");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(8), "{said}");
    assert!(said.contains(&format!("node {name} has no [stores.b] in its config")), "{said}");
    assert_eq!(system.phase(), "copying", "nothing was closed");
    let end = cutover_leaving(&system, &format!(" --accept-node {name}"));
    let told = system.wait_for(untold);
    assert!(told.contains("refused: Moved") && told.contains("[stores.b]"), "{told}");
    assert_eq!(system.look().source.1.0, end, "it wrote to the store that was left");
    // What it was refused is in neither store: that it is known as such has to be told to the checker.
    let mut seen = system.end("b");
    seen.history.operations.iter_mut().filter(|one| one.returned_at == Returned::Never).for_each(|one| {
        assert_eq!(one.client, untold, "a call got no answer: {one:?}");
        one.returned_at = Returned::At(now());
        if let Call::Append(append) = &mut one.call {
            append.outcome = AppendOutcome::DefiniteFail;
        }
    });
    seen.judge();
}

fn answers_are_lost(a: Kind, b: Kind) {
    let mut system = begun(a, b);
    let copies = system.copies();
    copied(&system);
    let mut hit = 0;
    for (leaves, verb, phases) in [("a", "cutover", TAKEN_OVER.as_slice()), ("b", "rollback", &["moved_back"])] {
        let way = |system: &System, name: &str, way| {
            let place = if name == "a" { &system.a } else { &system.b };
            place.nodes().set(way);
            place.nodes().lost()
        };
        let took_over = if leaves == "a" { "b" } else { "a" };
        // Appends that the store has made, and whose answers never came, are repeated while it is closed and left.
        let before = way(&system, leaves, Line::LosesAnswers);
        system.until("an answer is lost before the fence", || way(&system, leaves, Line::LosesAnswers) > before);
        until_done(&mut system, &format!("migrate {verb} -y"), phases);
        way(&system, leaves, Line::Open);
        system.let_work(30);
        // And the first ones in the store that took over.
        let before = way(&system, took_over, Line::LosesAnswers);
        system.until("an answer is lost after the opening", || way(&system, took_over, Line::LosesAnswers) > before);
        way(&system, took_over, Line::Open);
        system.let_work(30);
        hit += 2;
    }
    drop(copies);
    let seen = system.end("a");
    assert!(seen.repeated_at_first() >= hit, "appends whose answers were lost were not recognised");
    seen.judge();
}

fn appends_are_held(a: Kind, b: Kind) {
    let mut system = begun(a, b);
    let copies = system.copies();
    copied(&system);
    drop(copies);
    system.a.nodes().set(Line::HoldsAppends);
    system.until("an append is held", || system.a.nodes().held() > 0);
    let end = cutover(&system);
    assert_eq!(system.a.nodes().released(), 0, "nothing arrived before the fence");
    system.a.nodes().set(Line::Open);
    system.until("what was held arrives", || system.a.nodes().released() == system.a.nodes().held());
    system.let_work(50);
    assert_eq!(system.look().source.1.0, end, "an append that came late was taken");
    println!("{} appends were held past the fence", system.a.nodes().held());
    system.end("b").judge();
}

/// The others go on, and whoever comes later goes on from there, or gives it up.
fn killed_while_it_seals() {
    let mut system = begun(Kind::DynamoDbSequencer, Kind::Sqlite);
    let copies = system.copies();
    copied(&system);
    drop(copies);
    let sealed = |system: &System| {
        let status: serde_json::Value = serde_json::from_str(&system.ok("migrate status -o json")).unwrap();
        assert_eq!(status["phase"], "sealing");
        status["streams"]["sealed"].as_u64().unwrap()
    };
    system.leave_in(Phase::Sealing(Way::Forth));
    let left = sealed(&system);
    assert!(left > 0, "no stream was sealed");
    system.ok("migrate abort -y");
    assert_eq!(system.phase(), "given_up");
    // Streams that were sealed open with their store, and what comes late from that attempt is of an older epoch.
    system.let_work(50);
    system.start();
    let copies = system.copies();
    copied(&system);
    drop(copies);
    system.ok("migrate rehearse --timeout 60s");
    system.let_work(50);
    system.leave_in(Phase::Sealing(Way::Forth));
    assert!(sealed(&system) >= left);
    // A run elsewhere finishes it.
    let copies = system.copies();
    system.until("a run goes on from the seals", || TAKEN_OVER.contains(&system.phase()));
    system.let_work(50);
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    system.let_work(50);
    drop(copies);
    system.end("a").judge();
}

fn server_crashes(a: Kind, b: Kind, victim: fn(&mut System) -> &mut Place) {
    let mut system = begun(a, b);
    let crash = |system: &mut System, phase: &str| {
        assert_eq!(system.phase(), phase);
        victim(system).crash();
        assert_eq!(system.phase(), phase, "the record outlives a crash");
    };
    let copies = system.copies();
    crash(&mut system, "copying");
    system.let_work(50);
    drop(copies);
    for phase in [Phase::Fenced(Way::Forth), Phase::Decided(Way::Forth)] {
        system.leave_in(phase);
        crash(&mut system, phase.name());
        until_done(&mut system, "migrate cutover -y", &TAKEN_OVER);
        system.let_work(50);
        if phase == Phase::Fenced(Way::Forth) {
            until_done(&mut system, "migrate rollback -y", &["moved_back"]);
            system.start();
        }
    }
    for phase in [Phase::Fenced(Way::Back), Phase::Decided(Way::Back)] {
        let copies = system.copies();
        system.until("it is copied back", || system.phase() == "copying_back");
        if phase == Phase::Fenced(Way::Back) {
            crash(&mut system, "copying_back");
            system.let_work(50);
        }
        drop(copies);
        system.leave_in(phase);
        crash(&mut system, phase.name());
        until_done(&mut system, "migrate rollback -y", &["moved_back"]);
        system.let_work(50);
        if phase == Phase::Fenced(Way::Back) {
            system.start();
            until_done(&mut system, "migrate cutover -y", &TAKEN_OVER);
        }
    }
    system.end("a").judge();
}

fn target_throttles() {
    const THROTTLED: Duration = Duration::from_secs(60);
    let mut system = begun(Kind::Sqlite, Kind::Redis);
    // It takes no writes that need memory: "OOM command not allowed".
    system.b.redis().run("CONFIG SET maxmemory 1");
    let copies = system.copies();
    let began = Instant::now();
    system.let_work(100);
    while began.elapsed() < THROTTLED {
        std::thread::sleep(Duration::from_secs(1));
    }
    let refused = system.b.redis().run("INFO errorstats");
    assert!(refused.contains("errorstat_OOM"), "{refused}");
    assert!(system.look().lag() > 0);
    system.b.redis().run("CONFIG SET maxmemory 0");
    copied(&system);
    cutover(&system);
    drop(copies);
    system.let_work(50);
    system.end("b").judge();
}

fn disk_is_full() {
    let mut system = System::new(Kind::Sqlite, Kind::Sqlite);
    let fills = system.node(Role::Fill(3_000), OLD);
    system.wait_for(fills);
    system.node(Role::Write, OLD);
    system.start();
    // No file of the migrator may grow beyond 300 KiB, and it is told so as by a disk that is full, not by a signal.
    let limited = |arguments: &str| {
        let unlimited = system.command(arguments);
        let mut limited = Command::new("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$0\" \"$@\""]);
        limited.arg(unlimited.get_program()).args(unlimited.get_args());
        limited.current_dir(unlimited.get_current_dir().unwrap()).stdin(Stdio::null()).stdout(Stdio::null());
        limited
    };
    let (said, errors) = (system.path("limited.txt"), std::fs::File::create(system.path("limited.txt")).unwrap());
    let mut runs = Process::start(limited("migrate run").stderr(errors), "a migrator whose disk is full");
    let was_told = || std::fs::read_to_string(&said).unwrap().contains("waiting: ");
    system.until("the migrator meets the end of the disk", was_told);
    system.let_work(50);
    assert!(runs.runs(), "it waits for space");
    assert_eq!(system.phase(), "copying");
    assert!(!process::output(&mut limited("migrate cutover -y")).status.success(), "it was handed over");
    assert_eq!(system.phase(), "copying");
    drop(runs);
    let copies = system.copies();
    copied(&system);
    cutover(&system);
    drop(copies);
    system.let_work(50);
    system.end("b").judge();
}

fn stream_is_hot() {
    const RATE: u64 = 100;
    let mut system = System::new(Kind::Sqlite, Kind::Sqlite);
    let began = now();
    // One with the old config and one with the new one, from before the move until after it.
    system.node(Role::Hot(RATE / 2), OLD);
    system.let_work(50);
    system.start();
    system.node(Role::Hot(RATE / 2), NEW);
    let copies = system.copies();
    system.let_work(200);
    copied(&system);
    let closes_at = now();
    let end = cutover(&system);
    let opened_at = now();
    system.let_work(200);
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    system.let_work(200);
    drop(copies);
    let ended = now();
    let seen = system.end("a");
    let waited_for_the_cutover = seen.history.operations.iter().any(|one| {
        let answered = matches!(one.returned_at, Returned::At(at) if at > closes_at);
        one.stream == HOT
            && one.invoked_at < opened_at
            && answered
            && matches!(&one.call, Call::Append(append) if is_after(append, end))
    });
    assert!(waited_for_the_cutover, "no append was under way across the fence");
    let made = seen.history.final_streams.iter().find(|one| one.stream == HOT).unwrap().commits.len();
    let seconds = (ended.0 - began.0) as f64 / 1e9;
    println!("{made} appends to one stream in {seconds:.1} s");
    // It is offered at this rate; a machine that is busy otherwise may not take all of it.
    assert!(made as f64 > seconds * RATE as f64 / 4.0, "{made} appends in {seconds:.1} s are not a hot stream");
    seen.judge();
}

/// Whether an append was made in the store that took over.
fn is_after(append: &Append, end: u64) -> bool {
    match append.outcome {
        AppendOutcome::Ok(receipt) => receipt.position > Some(end),
        _ => false,
    }
}

fn streams_are_made(a: Kind, pause: u64) {
    let mut system = System::new(a, Kind::Sqlite);
    for config in [OLD, OLD] {
        system.node(Role::Create(pause), config);
    }
    system.let_work(50);
    system.start();
    for config in [NEW, NEW] {
        system.node(Role::Create(pause), config);
    }
    let copies = system.copies();
    system.let_work(200);
    copied(&system);
    let end = cutover(&system);
    system.let_work(200);
    copied(&system);
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    system.let_work(200);
    drop(copies);
    let seen = system.end("a");
    let feed = &seen.history.final_feed.as_ref().unwrap().entries;
    let born = |later: bool| {
        feed.iter()
            .filter(|entry| (entry.position > end) == later && matches!(entry.item, FeedItem::Event { .. }))
            .count()
    };
    assert!(born(false) > 0 && born(true) > 0, "streams were made on both sides of the fence");
    let lost = seen.has_between(
        Moment(0),
        now(),
        |call| matches!(call, Call::Append(append) if matches!(append.outcome, AppendOutcome::Conflict { .. })),
    );
    assert!(lost, "no two nodes tried the same name");
    seen.judge();
}

fn consumers_restart() {
    let mut system = begun(Kind::Sqlite, Kind::Sqlite);
    let consumers = [OLD, NEW].map(|config| (system.node(Role::Consume(0), config), config));
    let copies = system.copies();
    system.until("consumers have checkpoints", || {
        let has = |consumer| system.run(&format!("checkpoint get consumer-{consumer}")).status.success();
        consumers.iter().all(|(consumer, _)| has(*consumer))
    });
    // Down during the cutover, during the rollback, and in between.
    for (run, verb) in [(1, "cutover"), (2, "verify"), (3, "rollback")] {
        system.let_work(100);
        copied(&system);
        consumers.iter().for_each(|(consumer, _)| system.kill(*consumer));
        system.ok(&format!("migrate {verb}{}", if verb == "verify" { "" } else { " -y" }));
        system.let_work(30);
        consumers.iter().for_each(|(consumer, config)| system.node_again(*consumer, Role::Consume(run), config));
        system.until("consumers go on", || consumers.iter().all(|(consumer, _)| system.has_told(*consumer)));
    }
    drop(copies);
    system.let_work(50);
    let seen = system.end("a");
    let is_one = |subscriber| consumers.iter().any(|(consumer, _)| *consumer == subscriber);
    let again = seen.history.runs.iter().filter(|run| is_one(run.subscriber) && run.run > 0 && run.after > 0);
    assert_eq!(again.count(), 6, "they began where they had been");
    seen.judge();
}

fn snapshots_race() {
    let mut system = begun(Kind::Sqlite, Kind::Sqlite);
    let nodes = [OLD, NEW].map(|config| system.node(Role::Snapshot, config));
    let copies = system.copies();
    nodes.iter().for_each(|node| system.let_node_work(*node, 100));
    copied(&system);
    let closes_at = now();
    cutover(&system);
    let opened_at = now();
    nodes.iter().for_each(|node| system.let_node_work(*node, 100));
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    system.let_work(100);
    drop(copies);
    let seen = system.end("a");
    let is_save = |call: &Call| matches!(call, Call::SaveSnapshot(save) if save.outcome == SaveOutcome::Stored);
    assert!(seen.has_between(Moment(0), closes_at, is_save));
    assert!(seen.has_between(opened_at, now(), is_save));
    // In the end the newest one is there that anybody was told is kept.
    let mut newest = BTreeMap::<&str, u64>::new();
    for operation in &seen.history.operations {
        if let Call::SaveSnapshot(save) = &operation.call
            && save.outcome == SaveOutcome::Stored
        {
            let of_stream = newest.entry(&operation.stream).or_default();
            *of_stream = save.revision.max(*of_stream);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = itself(&system, "a").await;
        for (name, revision) in newest {
            let request = ReadSnapshot {
                stream: StreamId::new(name).unwrap(),
                deadline: Deadline::within(Duration::from_secs(20)),
            };
            let found = store.events().read_snapshot(request).await.unwrap().unwrap();
            assert_eq!(found.revision.0, revision, "{name}");
        }
        store.close().await.unwrap();
    });
    seen.judge();
}

fn sent_again() {
    let mut system = begun(Kind::Sqlite, Kind::Sqlite);
    let copies = system.copies();
    system.let_work(300);
    copied(&system);
    let end = cutover(&system);
    let opened_at = now();
    system.let_work(300);
    drop(copies);
    let seen = system.end("b");
    let again = seen.has_between(opened_at, now(), |call| match call {
        Call::Append(append) => matches!(append.outcome, AppendOutcome::Ok(r) if r.repeated && r.position <= Some(end)),
        _ => false,
    });
    assert!(again, "no commit of the old store was sent again to the new one");
    seen.judge();
}

fn clocks_are_off() {
    let library = std::env::var("EVSTORE_TEST_FAKETIME").ok().filter(|path| !path.is_empty());
    let library = library.unwrap_or_else(|| {
        panic!("EVSTORE_TEST_FAKETIME is not set: `cargo xtask test` fetches libfaketime and sets it")
    });
    let off_by = |system: &mut System, hours: &str| {
        let fixed = [("LD_PRELOAD", library.as_str()), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("FAKETIME", hours)];
        system.environment = fixed.map(|(name, value)| (name, value.to_owned())).to_vec();
    };
    let mut system = begun(Kind::Sqlite, Kind::Redis);
    for hours in ["+1h", "-1h"] {
        off_by(&mut system, hours);
        system.node(Role::Write, OLD);
        system.node(Role::Consume(0), NEW);
    }
    // The migrator is an hour late, and on the way back an hour early.
    let copies = system.copies();
    system.let_work(200);
    copied(&system);
    cutover(&system);
    system.let_work(100);
    drop(copies);
    off_by(&mut system, "+1h");
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    system.let_work(100);
    let seen = system.end("a");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ahead = runtime.block_on(async {
        let store = itself(&system, "a").await;
        let present = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        let half_an_hour = 30 * 60 * 1_000_000;
        let all = crate::node::commits(&store).await;
        store.close().await.unwrap();
        all.iter().any(|commit| commit.recorded_at.0 > present + half_an_hour)
    });
    assert!(ahead, "no commit was recorded by a clock that is an hour early");
    seen.judge();
}

fn byte_is_damaged() {
    let mut system = System::new(Kind::Sqlite, Kind::Sqlite);
    system.ok("append order-1 --type x --data \"the-first\"");
    system.ok("append order-1 --type x --data \"to-be-damaged\"");
    system.start();
    let copies = system.copies();
    // It was compared before it is damaged.
    system.until("all is compared", || system.look().compared.0 == 2);
    drop(copies);
    // The last one that closes the file brings all of it into its one place.
    system.ok("migrate status");
    let file = system.path("b.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let text = b"to-be-damaged";
    let found: Vec<_> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!found.is_empty(), "the text is not in the file");
    found.iter().for_each(|at| bytes[*at] ^= 0x20);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(system.run("migrate verify").status.code(), Some(4));
    let refused = system.run("migrate cutover -y");
    assert!(!refused.status.success(), "it was handed over to a damaged copy");
    println!("{}", String::from_utf8_lossy(&refused.stderr));
    assert!(["copying", "given_up"].contains(&system.phase()), "{}", system.phase());
    system.ok("append order-1 --type x --data \"the-third\"");
    let writer = system.node(Role::Write, OLD);
    system.let_work(10);
    system.kill(writer);
}

fn transaction_stays_open() {
    let mut system = begun(Kind::Postgres, Kind::Sqlite);
    let (url, program) = {
        let cluster = system.a.postgres();
        (cluster.url(), std::path::PathBuf::from(std::env::var("EVSTORE_TEST_POSTGRES_BIN").unwrap()).join("psql"))
    };
    let mut psql = process::command(program);
    let psql = psql.args(["-X", "-q", "-d", &url]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut psql = Process::start(psql, "psql, told to end");
    let mut stdin = psql.stdin();
    stdin
        .write_all(
            b"BEGIN; SELECT pg_current_xact_id(); CREATE TEMPORARY TABLE held (n int); INSERT INTO held VALUES (1);\n",
        )
        .unwrap();
    stdin.flush().unwrap();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND application_name = 'psql' AND state <> 'active'";
    let began = Instant::now();
    while system.a.postgres().psql(held) != "1" {
        assert!(began.elapsed() < Duration::from_secs(30), "no transaction is held open");
    }
    let copies = system.copies();
    system.let_work(100);
    copied(&system);
    cutover(&system);
    assert_eq!(system.a.postgres().psql(held), "1", "it was open across the fence");
    system.let_work(50);
    until_done(&mut system, "migrate rollback -y", &["moved_back"]);
    assert_eq!(system.a.postgres().psql(held), "1");
    drop(copies);
    system.let_work(50);
    drop(stdin);
    psql.wait();
    system.end("a").judge();
}

fn failover_loses() {
    let mut system = System::new(Kind::Postgres, Kind::Sqlite);
    system.ok("append order-1 --type x --data {}");
    let mut standby = system.a.postgres().standby();
    system.a.postgres().wait_for(&standby);
    standby.kill();
    // Acknowledged by the one, and never seen by the other.
    system.ok("append order-1 --type x --data {}");
    system.start();
    let copies = system.copies();
    system.until("all of it is copied", || system.look().target.1.0 == 2);
    system.a.postgres().kill();
    standby.start();
    standby.promote();
    system.a.lead_to(standby.port());
    let mut copies = copies;
    let ended = copies.wait();
    assert!(!ended.success());
    assert!(system.said_by_copies().contains("lost"), "{}", system.said_by_copies());
    for verb in ["cutover -y", "verify", "run", "start"] {
        assert_eq!(system.error(&format!("migrate {verb}"))["kind"], "history_lost", "{verb}");
    }
    // The source is what it is, and goes on; the target takes nothing.
    system.ok("append order-1 --type x --data {}");
    assert_eq!(system.error("-s b append order-1 --type x --data {}")["kind"], "moved");
    *system.a.postgres() = standby;
}
