//! A running system that is moved. Nodes are processes that share nothing but the stores, the migrator is the command by itself, and
//! the history checker judges all that the nodes saw. Two tables say what is run: [`schedules`], in which one thing goes wrong at one
//! moment, and [`matrix`], in which a migrator is killed and cut off at random between any two stores.
//!
//! Servers are started here, so that they can be killed: `EVSTORE_TEST_POSTGRES_BIN` and `EVSTORE_TEST_REDIS_SERVER` name their
//! programs, which `cargo xtask test` fetches. Without the feature `engine-tests` only what needs no server is run.

// A test may fail by a panic, also in its helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod judge;
mod matrix;
mod node;
mod process;
mod proxy;
mod schedules;
mod stores;
mod system;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::var(node::ROLE) {
        Ok(told) if told == schedules::ABORTED => schedules::begin_and_be_aborted(),
        Ok(told) => node::work(&told),
        Err(_) => return test(),
    }
    ExitCode::SUCCESS
}

fn test() -> ExitCode {
    let trials = schedules::trials().chain(matrix::trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
