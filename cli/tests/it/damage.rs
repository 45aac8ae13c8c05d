//! A store whose file was changed behind its back: verify goes on past damage, tells every place, and mends nothing.

use crate::evstore::{Folder, document};
use serde_json::{Value, json};

/// Turns the bits of one byte of a text that stands in the store's file.
fn damage(folder: &Folder, text: &str) {
    let path = folder.path("a.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let text = text.as_bytes();
    let at: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!at.is_empty(), "the text is not in the file");
    for at in at {
        bytes[at] ^= 0xff;
    }
    std::fs::write(path, bytes).unwrap();
}

/// Commits of one event each, in turn for each stream; `stream/revision` stands in each.
fn fill(folder: &Folder, streams: &[&str], revisions: u32) {
    let mut log = String::new();
    for revision in 1..=revisions {
        for stream in streams {
            log.push_str(&format!(
                "{{\"stream\":\"{stream}\",\"type\":\"t\",\"time\":\"2026-01-01T00:00:00Z\",\"data\":\"{stream}/{revision}.\"}}\n"
            ));
        }
    }
    folder.write("log.jsonl", &log);
    folder.ok("import log.jsonl -q");
}

/// What verify says of a damaged store.
fn verify(folder: &Folder, arguments: &str) -> Value {
    let output = folder.run(&format!("verify{arguments} -o json"));
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(document(std::str::from_utf8(&output.stderr).unwrap())["kind"], "broken");
    document(std::str::from_utf8(&output.stdout).unwrap())
}

/// Stream, revisions and positions of every finding, sorted.
fn places(report: &Value) -> Vec<(String, [u64; 4])> {
    let mut places: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let number = |name: &str| finding[name].as_u64().unwrap_or(0);
            let stream = finding["stream"].as_str().unwrap_or_default().to_owned();
            let ends = ["first_revision", "last_revision", "first_position", "last_position"];
            (stream, ends.map(number))
        })
        .collect();
    places.sort();
    places
}

#[test]
fn every_damaged_place_is_told_with_stream_revision_and_position() {
    let folder = Folder::new();
    fill(&folder, &["a-1", "b-1", "c-1"], 20);
    for text in ["a-1/3.", "b-1/9.", "c-1/20."] {
        damage(&folder, text);
    }
    let report = verify(&folder, "");
    let place = |stream: &str, revision, position| (stream.to_owned(), [revision, revision, position, position]);
    assert_eq!(places(&report), [place("a-1", 3, 7), place("b-1", 9, 26), place("c-1", 20, 60)], "{report}");
    assert_eq!((&report["differences"], &report["streams"], &report["events"]), (&json!(3), &json!(3), &json!(57)));
    // A sample of the streams would leave damage out.
    assert_eq!(places(&verify(&folder, " --sample 0")), places(&report));
    // It only reads.
    assert_eq!(verify(&folder, ""), report);
}

#[test]
fn damage_side_by_side_is_told_by_stream() {
    let folder = Folder::new();
    fill(&folder, &["a-1", "b-1"], 10);
    for text in ["a-1/4.", "b-1/4.", "a-1/5.", "a-1/10.", "b-1/10."] {
        damage(&folder, text);
    }
    let report = verify(&folder, "");
    let revisions: Vec<_> = places(&report)
        .into_iter()
        .filter(|(stream, _)| !stream.is_empty())
        .map(|(stream, [first, last, ..])| (stream, first, last))
        .collect();
    let of = |stream: &str, first, last| (stream.to_owned(), first, last);
    let wanted = [of("a-1", 4, 5), of("a-1", 10, 10), of("b-1", 4, 4), of("b-1", 10, 10)];
    assert_eq!(revisions, wanted, "{report}");
}

#[test]
fn damage_in_a_truncated_stream_does_not_hide_the_rest() {
    let folder = Folder::new();
    fill(&folder, &["a-1", "b-1"], 10);
    folder.ok("stream truncate a-1 --before 5 -y");
    for text in ["a-1/7.", "b-1/2."] {
        damage(&folder, text);
    }
    let report = verify(&folder, "");
    let streams: Vec<_> = places(&report).into_iter().map(|(stream, [first, ..])| (stream, first)).collect();
    assert_eq!(streams, [("a-1".to_owned(), 7), ("b-1".to_owned(), 2)], "{report}");
}

#[test]
fn an_export_of_a_damaged_store_fails_and_leaves_no_file() {
    let folder = Folder::new();
    fill(&folder, &["a-1"], 5);
    damage(&folder, "a-1/3.");
    let error = folder.error("export x.jsonl -o json", 1);
    assert_eq!((&error["kind"], &error["advice"]), (&json!("corrupt"), &json!("ask_operator")));
    assert!(error["hint"].as_str().unwrap().contains("evstore verify"), "{error}");
    assert!(!folder.path("x.jsonl").exists());
}
