//! A process is killed while it appends: what it was told is there is there. `examples/kill9.rs` runs more rounds.

#[path = "kill9/rounds.rs"]
mod rounds;

use std::process::Command;

#[test]
fn acknowledged_commits_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id()) ^ 0x5851_F42D_4C95_7F2D;
    println!("seed {seed}");
    let tally = rounds::run(5, seed, &folder.path().join("events.db"), || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_process_that_is_killed", "--nocapture"]);
        command
    });
    println!("{tally:?}");
}

/// Nothing but for the rounds above, which start it as a process of its own.
#[test]
fn the_process_that_is_killed() {
    rounds::run_child();
}
