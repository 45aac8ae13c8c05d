//! Times the history checker on a million calls:
//! `cargo run --release -p evstore-history --example million [calls]`.
#![expect(clippy::print_stdout, reason = "a program that reports to its caller")]

use std::time::Instant;

use evstore_history::Logs;
use evstore_history::feed::{FeedClaims, check_feed};
use evstore_history::generate::{Size, generate};
use evstore_history::seed::Seed;
use evstore_history::snapshot::check_snapshots;
use evstore_history::stream::{Removal, Sessions, StreamClaims, check_streams};

fn main() {
    let asked = std::env::args().nth(1).and_then(|calls| calls.parse().ok());
    let operations = asked.unwrap_or(1_000_000);
    for (streams, name) in [(1, "one stream"), (1_000, "1,000 streams")] {
        let size = Size { clients: 32, streams, operations, subscribers: 2 };
        let history = generate(size, &mut Seed(1));
        println!("{name}: {} calls, seed 1", history.operations.len());

        let start = Instant::now();
        let logs = Logs::of(&history);
        println!("  laid out     {:?}", start.elapsed());
        let claims = StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Never };
        let streams = check_streams(&logs, &claims);
        println!("  with streams {:?}", start.elapsed());
        let snapshots = check_snapshots(&logs);
        println!("  + snapshots  {:?}", start.elapsed());
        let start = Instant::now();
        let feed = check_feed(&logs, &FeedClaims::STRICT);
        let delivered: usize = history.runs.iter().map(|run| run.deliveries.len()).sum();
        println!("  feed         {:?} for {delivered} deliveries", start.elapsed());

        assert!(streams.violations.is_empty(), "{}", streams.violations);
        assert!(snapshots.is_empty(), "{snapshots}");
        assert!(feed.violations.is_empty(), "{}", feed.violations);
    }
}
