//! The `evstore` command.
fn main() {}
