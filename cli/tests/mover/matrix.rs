//! A running system is moved between any two stores while its migrator is killed and cut off at random: there, back with all that was
//! appended since, there again, and for good.
//!
//! Four pairs are run on every change, with fewer kills; `EVSTORE_TEST_KILLS` asks for more, and `--include-ignored` for every pair.

use crate::node::Role;
use crate::stores::Kind;
use crate::system::{NEW, OLD, System};
use libtest_mimic::Trial;

/// Pairs of every change.
const PAIRS: [(Kind, Kind); 4] = [
    (Kind::Sqlite, Kind::Sqlite),
    (Kind::Sqlite, Kind::Postgres),
    (Kind::Postgres, Kind::Redis),
    (Kind::DynamoDb, Kind::S3),
];
/// Kills of the migrator on every change.
const KILLS: u32 = 6;
/// Commits to streams of their own, beside the log: with it there are more than ten thousand streams.
const STREAMS: u64 = 2_500;
/// Appends that a rollback takes along.
const BEFORE_ROLLBACK: u64 = 10_000;
const INCIDENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/incidents.jsonl.gz");

pub fn trials() -> impl Iterator<Item = Trial> {
    let pairs = Kind::ALL.iter().flat_map(|a| Kind::ALL.iter().map(move |b| (*a, *b)));
    // DynamoDB recognises repeats for a shorter time than the others, so that a move to it is refused; a way back is not.
    let pairs = pairs.filter(|(a, b)| *b != Kind::DynamoDb || a == b);
    pairs.map(|(a, b)| {
        let name = format!("moved::{}_to_{}", a.name(), b.name());
        Trial::test(name, move || {
            there_and_back_and_for_good(a, b);
            Ok(())
        })
        .with_ignored_flag(!PAIRS.contains(&(a, b)))
    })
}

fn there_and_back_and_for_good(a: Kind, b: Kind) {
    let kills = std::env::var("EVSTORE_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut system = System::new(a, b);
    system.ok(&format!("import {INCIDENTS} -q"));
    let fills = system.node(Role::Fill(STREAMS), OLD);
    system.wait_for(fills);
    // Whatever was there before is told once, by one that reads it.
    system.forget();
    let recalls = system.node(Role::Recall, OLD);
    system.wait_for(recalls);
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
    let taken_over = ["moved", "copying_back"];
    system.killed_until("migrate cutover -y --timeout 120s", kills, &taken_over);
    // One that starts cold, with the old config, when the streams have left; and a consumer that was down for a while.
    system.node(Role::Write, OLD);
    system.kill(consumer);
    let copies = system.copies();
    let bursts = system.node(Role::Burst(BEFORE_ROLLBACK), OLD);
    system.wait_for(bursts);
    drop(copies);
    system.node_again(consumer, Role::Consume(1), OLD);
    system.run_killed(kills);
    system.killed_until("migrate rollback -y --timeout 120s", kills, &["moved_back"]);
    system.start();
    system.kill(other);
    system.node_again(other, Role::Consume(1), NEW);
    system.run_killed(kills / 2);
    system.killed_until("migrate cutover -y --timeout 120s", kills, &taken_over);
    system.let_work(200);
    let copies = system.copies();
    let seen = system.end("b");
    system.check_same();
    system.ok("migrate verify");
    system.ok("migrate finish -y");
    drop(copies);
    assert_eq!(system.phase(), "finished");
    seen.judge();
    system.ok("verify b");
}
