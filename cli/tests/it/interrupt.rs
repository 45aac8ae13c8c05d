//! Ctrl-C: a command that follows, and one that waits for its input, stop at once and cleanly.
#![cfg(unix)]
// A test may fail by a panic, also in its helpers.
use crate::evstore::Folder;
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

#[test]
fn an_interrupted_catalog_leaves_no_scratch_store() {
    let folder = Folder::new();
    let names = || std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let scratch = || names().any(|name| name.to_string_lossy().contains("scratch"));
    let mut child = folder.command("conformance -q").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !scratch() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!scratch());
}

#[test]
fn a_command_that_waits_for_its_reader_stops_too() {
    let folder = Folder::new();
    folder.ok(&format!("import {} -q", crate::evstore::PERMITS));
    for signal in ["-INT", "-TERM"] {
        let mut child = folder.command("feed -o jsonl").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One line shows that it runs; nobody reads the rest.
        let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}
