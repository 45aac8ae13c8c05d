//! Ctrl-C: a command that follows, and one that waits for its input, stop at once and cleanly.
#![cfg(unix)]

mod evstore;

use evstore::Folder;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// What Ctrl-C sends.
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn following_the_feed_shows_what_comes_and_stops_at_ctrl_c() {
    let folder = Folder::new();
    folder.ok("append a-1 --type first");
    let mut child = folder.command("feed -f -o jsonl").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(shown.next().unwrap().unwrap().contains("first"));
    folder.ok("append a-1 --type second");
    assert!(shown.next().unwrap().unwrap().contains("second"));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["kind"], &error["written"]), (&"interrupted".into(), &"no".into()));
}
