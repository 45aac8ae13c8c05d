//! Prints a row for each check of each model, and fails where one is not as expected.

use evstore_models::{Scopes, feed_join, histories, log_chain, log_sequencer, store_fence, store_seal, stream_seal};
use std::process::ExitCode;

#[expect(clippy::print_stdout, reason = "the rows are what it is run for")]
fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| given.iter().any(|one| one == flag);
    let scopes = if has("--all") { Scopes::All } else { Scopes::Quick };
    let mut as_expected = true;
    let moves = [store_fence::run, store_seal::run, stream_seal::run, feed_join::run, histories::run];
    for run in moves.into_iter().chain([log_chain::run, log_sequencer::run]) {
        for row in run(scopes) {
            println!("{row}");
            row.trace.iter().filter(|_| has("--trace")).for_each(|step| println!("    {step}"));
            as_expected &= row.found == row.expect;
        }
    }
    if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
