//! A running system is moved between any two stores while its migrator is killed and cut off at random: there, back with all that was
//! appended since, there again, and for good.
//!
//! Four pairs are run on every change, with fewer kills and a small part of the load; `EVSTORE_TEST_KILLS` asks for more kills and all of
//! it, and `--include-ignored` for every pair.

use crate::node::Role;
use crate::stores::Kind;
use crate::system::{NEW, OLD, System};
use flate2::read::GzDecoder;
use libtest_mimic::Trial;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};

/// Pairs of every change; `cargo xtask test --all` runs the others.
const PAIRS: [(Kind, Kind); 4] = [
    (Kind::Sqlite, Kind::Sqlite),
    (Kind::Sqlite, Kind::Postgres),
    (Kind::Postgres, Kind::Redis),
    (Kind::Redis, Kind::Sqlite),
];

/// How much happens.
struct Size {
    /// Kills of the migrator in each part of a move.
    kills: u32,
    /// Lines of the incident log that are there before.
    lines: usize,
    /// Commits to streams of their own, beside the log: with the whole log there are more than ten thousand streams.
    streams: u64,
    /// Appends that a rollback takes along.
    before_rollback: u64,
}

/// On every change.
const SMALL: Size = Size { kills: 2, lines: 1_000, streams: 60, before_rollback: 400 };
/// Asks for the full load, with so many kills.
pub const KILLS: &str = "EVSTORE_TEST_KILLS";
/// The file in which a long run notes the pairs that are done, and the second (since 1970) after which it begins no other.
const DONE: &str = "EVSTORE_TEST_DONE";
const UNTIL: &str = "EVSTORE_TEST_UNTIL";

impl Size {
    fn asked_for() -> Self {
        match std::env::var(KILLS) {
            Ok(kills) => Self {
                kills: kills.parse().expect("EVSTORE_TEST_KILLS is a number"),
                lines: usize::MAX,
                streams: 2_500,
                before_rollback: 10_000,
            },
            Err(_) => SMALL,
        }
    }
}

const INCIDENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/incidents.jsonl.gz");

pub fn trials() -> impl Iterator<Item = Trial> {
    let pairs = Kind::ALL.iter().flat_map(|a| Kind::ALL.iter().map(move |b| (*a, *b)));
    pairs.map(|(a, b)| {
        let name = format!("moved::{}_to_{}", a.name(), b.name());
        Trial::test(name.clone(), move || {
            if !was_done(&name) {
                if is_spent() {
                    return Err("not run, the budget is spent".into());
                }
                there_and_back_and_for_good(a, b);
                note_done(&name);
            }
            Ok(())
        })
        .with_ignored_flag(!PAIRS.contains(&(a, b)))
    })
}

/// Whether a long run with the same seed has moved this pair before it was stopped.
fn was_done(name: &str) -> bool {
    let Ok(file) = std::env::var(DONE) else { return false };
    let done = std::fs::read_to_string(file).unwrap_or_default().lines().any(|line| line == name);
    if done {
        println!("{name}: done before, with the same seed");
    }
    done
}

fn note_done(name: &str) {
    if let Ok(file) = std::env::var(DONE) {
        let mut file = File::options().create(true).append(true).open(file).unwrap();
        writeln!(file, "{name}").unwrap();
    }
}

/// Whether it is too late to begin another pair.
fn is_spent() -> bool {
    let until =
        std::env::var(UNTIL).ok().map(|until| until.parse().expect("EVSTORE_TEST_UNTIL is a number of seconds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    until.is_some_and(|until| now.as_secs() >= until)
}

fn there_and_back_and_for_good(a: Kind, b: Kind) {
    let Size { kills, lines, streams, before_rollback } = Size::asked_for();
    let mut system = System::new(a, b);
    let began = std::time::Instant::now();
    let lap = |what: &str| println!("{:>6.1} s {what}", began.elapsed().as_secs_f32());
    let log = BufReader::new(GzDecoder::new(File::open(INCIDENTS).unwrap())).lines().take(lines);
    let log: String = log.map(|line| line.unwrap() + "\n").collect();
    std::fs::write(system.path("log.jsonl"), log).unwrap();
    system.import("log.jsonl");
    lap("imported");
    let fills = system.node(Role::Fill(streams), OLD);
    system.wait_for(fills);
    lap("filled");
    // Whatever was there before is told once, by one that reads it.
    system.forget();
    let recalls = system.node(Role::Recall, OLD);
    system.wait_for(recalls);
    lap("recalled");
    system.archive("a");
    for _ in 0..5 {
        system.node(Role::Write, OLD);
    }
    let consumer = system.node(Role::Consume(0), OLD);
    system.start();
    // Deployed with the new config before anything was handed over.
    for _ in 0..2 {
        system.node(Role::Write, NEW);
    }
    let other = system.node(Role::Consume(0), NEW);
    system.run_killed(kills);
    lap("copied");
    let taken_over = ["moved", "copying_back"];
    system.killed_until("migrate cutover -y --timeout 120s", kills, &taken_over);
    lap("cut over");
    system.archive("b");
    // One that starts cold, with the old config, when the streams have left; and a consumer that was down for a while.
    system.node(Role::Write, OLD);
    system.kill(consumer);
    let copies = system.copies();
    let bursts = system.node(Role::Burst(before_rollback), OLD);
    system.wait_for(bursts);
    lap("burst");
    drop(copies);
    system.node_again(consumer, Role::Consume(1), OLD);
    system.run_killed(kills);
    system.killed_until("migrate rollback -y --timeout 120s", kills, &["moved_back"]);
    lap("rolled back");
    system.archive("a");
    system.start();
    system.kill(other);
    system.node_again(other, Role::Consume(1), NEW);
    system.run_killed(kills / 2);
    system.killed_until("migrate cutover -y --timeout 120s", kills, &taken_over);
    system.let_work(200);
    lap("second cutover");
    let copies = system.copies();
    let seen = system.end("b");
    lap("ended");
    system.check_same();
    lap("same");
    system.ok("migrate verify");
    lap("verified");
    system.ok("migrate finish -y");
    lap("finished");
    drop(copies);
    assert_eq!(system.phase(), "finished");
    seen.judge();
    lap("judged");
    system.ok("verify b");
    lap("passed");
}
