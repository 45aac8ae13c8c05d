//! `cargo run --release -p evstore-sqlite --example kill9 -- [--rounds N] [--seed S]`
//!
//! Kills a process that appends, N times at random moments, and checks each time that every acknowledged commit is there,
//! whole and once, that the feed accounts for every position, and that repeating the others leaves each exactly once.

#![allow(clippy::print_stdout, reason = "a command prints what it found")]
#![allow(clippy::unwrap_used, reason = "a command that cannot go on stops")]

#[path = "../tests/kill9/rounds.rs"]
mod rounds;

use std::process::Command;

fn main() {
    if rounds::run_child() {
        return;
    }
    let option = |name: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
        arguments.next().map(|value| value.parse::<u64>().unwrap())
    };
    let count = option("--rounds").unwrap_or(100);
    let seed = option("--seed").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5851_F42D_4C95_7F2D);
    println!("{count} rounds, seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let begin = std::time::Instant::now();
    let tally =
        rounds::run(count, seed, &folder.path().join("events.db"), || Command::new(std::env::current_exe().unwrap()));
    println!("held in {:.1} s: {tally:?}", begin.elapsed().as_secs_f64());
}
