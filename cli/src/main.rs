//! The `evstore` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    evstore_cli::main(evstore::Registry::builtin())
}
