//! Logs and exports: in, out, again, cut off, damaged.

use crate::evstore::{Folder, PERMITS, document, lines};
use serde_json::json;

fn line(stream: &str, data: &str) -> String {
    format!("{{\"stream\":\"{stream}\",\"type\":\"t\",\"time\":\"2010-10-02T09:20:39.266+02:00\",\"data\":{data}}}\n")
}

#[test]
fn a_log_is_imported_once_and_keeps_its_order() {
    let folder = Folder::new();
    let first = document(&folder.ok(&format!("import {PERMITS} -o json")));
    assert_eq!((&first["added"], &first["streams"]), (&json!(8577), &json!(1434)));
    let second = document(&folder.ok(&format!("import {PERMITS} -o json")));
    assert_eq!((&second["added"], &second["present"]), (&json!(0), &json!(8577)));
    let feed = lines(&folder.ok("feed --limit 2 -o jsonl"));
    assert_eq!((&feed[0]["stream"], &feed[0]["time"]), (&json!("permit-case-891"), &json!("2010-10-02T07:20:39.266Z")));
    assert_eq!(document(&folder.ok("verify -o json"))["differences"], 0);
}

#[test]
fn an_export_restores_into_the_same_bytes() {
    let folder = Folder::new();
    folder.ok(&format!("import {PERMITS} -q"));
    folder.ok("append odd-1 --type t --content-type text/plain --data two\nlines --metadata {\"a\":1}");
    folder.ok("append other-1 --namespace tenant --type t --data {\"b\":1.50}");
    folder.write("many.jsonl", "{\"type\":\"a\",\"data\":1}\n{\"type\":\"b\",\"data\":2}\n");
    folder.ok("append many-1 --events many.jsonl");
    folder.ok("append many-1 --events many.jsonl");
    folder.ok("stream truncate permit-case-891 --before 3 -y");
    folder.ok("stream truncate many-1 --before 3 -y");
    folder.ok("stream delete permit-case-1 -y --expected any --commit 01900000000070008000000000000001");
    folder.ok("checkpoint set reports 100");
    folder.ok("export a.jsonl.gz --checkpoints --snapshots");
    let restored = document(&folder.ok("-s b import a.jsonl.gz -o json"));
    assert_eq!(restored["restored"], true);
    folder.ok("export a.jsonl --checkpoints");
    folder.ok("-s b export b.jsonl --checkpoints");
    assert!(folder.read("a.jsonl") == folder.read("b.jsonl"), "the second export differs");
    assert_eq!(document(&folder.ok("verify b -o json"))["differences"], 0);
    assert_eq!(document(&folder.ok("-s b checkpoint get reports -o json"))["position"], 100);
    // The store is open again, and goes on counting where the first one would.
    let receipt = document(&folder.ok("-s b append many-1 --type c --expected 4 -o json"));
    assert_eq!(receipt["last_revision"], 5);
}

#[test]
fn a_restore_needs_an_empty_store_or_the_same_content() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t");
    folder.ok("export a.jsonl");
    assert_eq!(document(&folder.ok("import a.jsonl -o json"))["present"], 1);
    folder.ok("-s b append b-1 --type t");
    assert_eq!(folder.error("-s b import a.jsonl -o json", 3)["kind"], "conflict");
    folder.ok("-s b append b-1 --type t");
}

/// Runs the command with a text as its standard input.
fn with_input(folder: &Folder, arguments: &str, input: &str) -> std::process::Output {
    use std::io::Write as _;
    let mut command = folder.command(arguments);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// An export of three commits, whole and cut after two.
fn whole_and_cut(folder: &Folder) -> (String, String) {
    for stream in ["a-1", "a-2", "a-3"] {
        folder.ok(&format!("append {stream} --type t"));
    }
    folder.ok("export whole.jsonl");
    let whole = folder.read("whole.jsonl");
    let cut = whole.lines().take(2).map(|line| format!("{line}\n")).collect();
    (whole, cut)
}

#[test]
fn a_file_that_is_no_whole_export_is_refused_before_anything_is_written() {
    let folder = Folder::new();
    let (whole, cut) = whole_and_cut(&folder);
    let recorded = whole.lines().next().unwrap().split("\"recorded_at\":\"").nth(1).unwrap()[..19].to_owned();
    // A time is in no commit's digest: only the digest of the whole tells that it was changed.
    let changed = whole.replacen(&recorded, "2020-02-02T02:02:02", 1);
    let torn = whole[..whole.len() - 40].to_owned();
    for (text, code) in [(cut, 2), (changed, 1), (torn, 2)] {
        folder.write("bad.jsonl", &text);
        let error = folder.error("-s b import bad.jsonl -o json", code);
        assert_eq!((&error["written"], &error["context"]["file"]), (&json!("no"), &json!("bad.jsonl")), "{error}");
        folder.error("-s b import bad.jsonl --dry-run -o json", code);
        assert!(!folder.path("b.db").exists());
    }
    folder.ok("-s b import whole.jsonl");
}

#[test]
fn an_export_that_was_cut_goes_on_with_the_whole() {
    let folder = Folder::new();
    let (whole, cut) = whole_and_cut(&folder);
    let output = with_input(&folder, "-s b import - -o json", &cut);
    assert_eq!(output.status.code(), Some(2));
    let error = document(std::str::from_utf8(&output.stderr).unwrap());
    assert_eq!(error["context"]["reached"], "2");
    assert!(error["hint"].as_str().unwrap().contains("import the whole export to go on"), "{error}");
    // A store with a part of its content is neither appended to nor exported as if it were whole.
    let mut append = folder.command("-s b append c-1 --type t -o json");
    assert_eq!(append.env("EVSTORE_STORES__B__CALL_TIMEOUT", "100ms").output().unwrap().status.code(), Some(8));
    folder.error("-s b export half.jsonl -o json", 8);
    assert!(!folder.path("half.jsonl").exists());
    let plan = document(&folder.ok("-s b import whole.jsonl --dry-run -o json"));
    assert_eq!((&plan["would_add"], &plan["present"]), (&json!(1), &json!(2)));
    let restored = document(&folder.ok("-s b import whole.jsonl -o json"));
    assert_eq!(restored["events"], 3);
    folder.ok("-s b export again.jsonl");
    assert_eq!(folder.read("again.jsonl"), whole);
}

#[test]
fn an_export_is_there_already_in_a_store_that_has_gone_on() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t");
    folder.ok("append a-1 --type t");
    folder.ok("checkpoint set c 1");
    folder.ok("export a.jsonl --checkpoints");
    folder.ok("-s b import a.jsonl");
    folder.ok("-s b append a-1 --type t");
    folder.ok("-s b checkpoint set c 2");
    folder.ok("-s b stream truncate a-1 --before 2 -y");
    for arguments in ["-o json", "--dry-run -o json"] {
        let again = document(&folder.ok(&format!("-s b import a.jsonl {arguments}")));
        assert_eq!((&again["added"], &again["present"], &again["left_out"]), (&json!(0), &json!(2), &json!(1)));
    }
    assert_eq!(document(&folder.ok("-s b checkpoint get c -o json"))["position"], 2);
    assert_eq!(document(&folder.ok("-s b stream head a-1 -o json"))["revision"], 3);
}

#[test]
fn a_store_without_events_is_exported_and_restored_too() {
    let folder = Folder::new();
    folder.ok("schema apply");
    folder.ok("checkpoint set c 0");
    for (name, flags) in [("a", ""), ("b", " --checkpoints")] {
        folder.ok(&format!("export {name}.jsonl{flags}"));
    }
    folder.ok("-s b import a.jsonl");
    folder.ok("-s b import b.jsonl");
    assert_eq!(document(&folder.ok("-s b checkpoint get c -o json"))["position"], 0);
    folder.ok("-s b export again.jsonl --checkpoints");
    assert_eq!(folder.read("again.jsonl"), folder.read("b.jsonl"));
    folder.ok("-s b append a-1 --type t");
}

#[test]
fn what_a_store_can_not_take_is_found_before_it_is_closed_for_it() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t --data 1");
    folder.ok("append a-1 --type t --data \"much-longer-than-ten-bytes\"");
    folder.ok("export a.jsonl");
    let mut restore = folder.command("-s b import a.jsonl -o json");
    let output = restore.env("EVSTORE_STORES__B__EVENT_BYTES_MAX", "10").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = document(std::str::from_utf8(&output.stderr).unwrap());
    assert_eq!((&error["kind"], &error["context"]["line"]), (&json!("too_large"), &json!("2")), "{error}");
    folder.ok("-s b append a-1 --type t");
}

#[test]
fn a_changed_export_is_refused() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t --data {\"sum\":7}");
    folder.ok("export a.jsonl");
    folder.write("b.jsonl", &folder.read("a.jsonl").replace("7}", "8}"));
    let error = folder.error("-s b import b.jsonl -o json", 1);
    assert_eq!((&error["kind"], &error["context"]["line"]), (&json!("corrupt"), &json!("1")));
}

#[test]
fn a_grown_log_adds_its_new_lines_and_a_changed_one_is_refused() {
    let folder = Folder::new();
    let log = line("a-1", "1") + &line("b-1", "2");
    folder.write("log.jsonl", &log);
    folder.ok("import log.jsonl");
    folder.write("log.jsonl", &(log.clone() + &line("a-1", "3")));
    let grown = document(&folder.ok("import log.jsonl -o json"));
    assert_eq!((&grown["added"], &grown["present"]), (&json!(1), &json!(2)));
    folder.write("log.jsonl", &(line("a-1", "1") + &line("b-1", "9")));
    let error = folder.error("import log.jsonl -o json", 3);
    assert_eq!((&error["kind"], &error["context"]["line"]), (&json!("id_reused"), &json!("2")));
}

#[test]
fn a_bad_line_is_named_and_the_good_ones_before_it_stay() {
    let folder = Folder::new();
    folder.write("log.jsonl", &(line("a-1", "1") + "\n" + "{\"stream\":\"a-1\"}\n" + &line("a-1", "2")));
    let error = folder.error("import log.jsonl -o json", 2);
    assert_eq!((&error["kind"], &error["context"]["line"]), (&json!("invalid"), &json!("3")));
    assert_eq!(error["context"]["events_added_before"], "1");
    folder.error("import log.jsonl --dry-run -o json", 2);
    folder.write("log.jsonl", &(line("a-1", "1") + &line("a-1", "2")));
    assert_eq!(document(&folder.ok("import log.jsonl -o json"))["added"], 1);
}

#[test]
fn neighbouring_lines_of_one_commit_are_written_together() {
    let folder = Folder::new();
    let of_commit = |data: &str| {
        line("a-1", data).replace("\"type\"", "\"commit\":\"01900000-0000-7000-8000-000000000001\",\"type\"")
    };
    folder.write("log.jsonl", &(of_commit("1") + &of_commit("2") + &line("a-1", "3")));
    folder.ok("import log.jsonl");
    let head = document(&folder.ok("stream head a-1 -o json"));
    assert_eq!((&head["revision"], &head["number"]), (&json!(3), &json!(2)));
}

#[test]
fn what_read_prints_can_be_imported_elsewhere() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t --data {\"sum\":7}");
    folder.ok("append a-1 --type u");
    folder.write("log.jsonl", &folder.ok("read a-1 -o jsonl"));
    folder.ok("-s b import log.jsonl");
    let ids =
        |text: &str| lines(text).iter().map(|event| (event["id"].clone(), event["commit"].clone())).collect::<Vec<_>>();
    assert_eq!(ids(&folder.ok("-s b read a-1 -o jsonl")), ids(&folder.ok("read a-1 -o jsonl")));
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = Folder::new();
    let plan = document(&folder.ok(&format!("import {PERMITS} --dry-run -o json")));
    assert_eq!((&plan["would_add"], &plan["added"]), (&json!(8577), &json!(0)));
    assert!(!folder.path("a.db").exists());
    folder.write("log.jsonl", &line("a-1", "1"));
    folder.ok("import log.jsonl");
    folder.write("log.jsonl", &(line("a-1", "1") + &line("a-1", "2") + &line("b-1", "3")));
    let plan = document(&folder.ok("import log.jsonl --dry-run -o json"));
    assert_eq!((&plan["would_add"], &plan["present"], &plan["added"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(lines(&folder.ok("feed -o jsonl")).len(), 1);
    folder.write("log.jsonl", &line("a-1", "9"));
    assert_eq!(folder.error("import log.jsonl --dry-run -o json", 3)["kind"], "id_reused");
}

#[test]
fn an_export_does_not_replace_a_file_unasked() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t");
    folder.write("a.jsonl", "precious");
    folder.error("export a.jsonl -o json", 2);
    assert_eq!(folder.read("a.jsonl"), "precious");
    folder.ok("export a.jsonl -y");
}

#[test]
fn a_restore_that_was_killed_goes_on() {
    let folder = Folder::new();
    folder.ok(&format!("import {PERMITS} -q"));
    folder.ok("export a.jsonl");
    let mut restore = folder.command("-s b import a.jsonl -q").spawn().unwrap();
    // Somewhere in the middle: some of it is written, and the last of it is not.
    let written = || std::fs::metadata(folder.path("b.db-wal")).map_or(0, |wal| wal.len());
    while written() < 1_000_000 && restore.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    restore.kill().unwrap();
    assert!(!restore.wait().unwrap().success(), "it ended before it could be killed");
    folder.ok("-s b import a.jsonl");
    folder.ok("-s b export b.jsonl");
    assert!(folder.read("a.jsonl") == folder.read("b.jsonl"), "the second export differs");
}

#[test]
fn damage_is_found_and_told() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t --data \"untouched\"");
    folder.ok("append b-1 --type t --data \"precious\"");
    assert_eq!(document(&folder.ok("verify -o json"))["differences"], 0);
    let mut bytes = std::fs::read(folder.path("a.db")).unwrap();
    let at = bytes.windows(8).position(|window| window == b"precious").unwrap();
    bytes[at] = b'P';
    std::fs::write(folder.path("a.db"), bytes).unwrap();
    let output = folder.run("verify -o json");
    assert_eq!(output.status.code(), Some(4));
    let findings = document(std::str::from_utf8(&output.stdout).unwrap());
    assert!(findings["differences"].as_u64().unwrap() >= 1, "{findings}");
}

#[test]
fn a_line_that_is_there_twice_is_stored_once() {
    let folder = Folder::new();
    let with = |key: &str, id: u8, data: &str| {
        line("a-1", data)
            .replace("\"type\"", &format!("\"{key}\":\"01900000-0000-7000-8000-00000000000{id}\",\"type\""))
    };
    for key in ["id", "commit"] {
        let stream = |text: String| text.replace("a-1", &format!("{key}-1"));
        let (first, second) = (stream(with(key, 1, "1")), stream(with(key, 2, "2")));
        let apart = format!("{first}{second}{first}{}", stream(line("a-1", "3")));
        folder.write("log.jsonl", &apart);
        let imported = document(&folder.ok("import log.jsonl -o json"));
        assert_eq!((&imported["added"], &imported["present"]), (&json!(3), &json!(1)), "{key}");
        assert_eq!(document(&folder.ok("import log.jsonl -o json"))["present"], 4, "{key}");
        folder.write("log.jsonl", &format!("{first}{second}{}", stream(with(key, 1, "9"))));
        let error = folder.error("-s b import log.jsonl -o json", 3);
        assert_eq!((&error["kind"], &error["context"]["line"]), (&json!("id_reused"), &json!("3")), "{key}");
    }
}

#[test]
fn two_imports_of_a_file_at_once_both_end_well() {
    let folder = Folder::new();
    let log: String = (0..3000).map(|number| line(&format!("a-{}", number % 7), &number.to_string())).collect();
    folder.write("log.jsonl", &log);
    folder.ok("schema apply -y");
    let mut first = folder.command("import log.jsonl -q").spawn().unwrap();
    let second = folder.run("import log.jsonl -o json");
    assert_eq!(second.status.code(), Some(0), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(first.wait().unwrap().success());
    assert_eq!(document(&folder.ok("import log.jsonl -o json"))["present"], 3000);
    assert_eq!(document(&folder.ok("stream head a-0 -o json"))["revision"], 429);
}

#[test]
fn a_namespace_is_of_a_log_and_not_of_a_whole_store() {
    let folder = Folder::new();
    folder.write("log.jsonl", &line("a-1", "1"));
    folder.ok("import log.jsonl --namespace tenant");
    assert_eq!(lines(&folder.ok("read a-1 --namespace tenant -o jsonl")).len(), 1);
    folder.ok("export a.jsonl");
    for whole in ["export b.jsonl", "verify", "-s b import a.jsonl"] {
        assert_eq!(folder.error(&format!("{whole} --namespace tenant -o json"), 2)["kind"], "usage");
    }
    assert!(!folder.path("b.jsonl").exists());
}

#[cfg(unix)]
#[test]
fn an_export_leaves_links_and_devices_what_they_are() {
    let folder = Folder::new();
    folder.ok("append a-1 --type t");
    folder.write("real.jsonl", "old");
    std::os::unix::fs::symlink("real.jsonl", folder.path("link.jsonl")).unwrap();
    folder.ok("export link.jsonl -y");
    assert!(folder.path("link.jsonl").is_symlink());
    assert!(folder.read("real.jsonl").contains("a-1"));
    let pipe = folder.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut export = folder.command("export pipe -y").spawn().unwrap();
    assert_eq!(folder.read("pipe"), folder.read("real.jsonl"));
    assert!(export.wait().unwrap().success());
    assert!(!std::fs::symlink_metadata(&pipe).unwrap().is_file(), "the pipe was replaced");
    folder.ok("export /dev/null -y");
}

#[test]
fn the_tour_leaves_a_log_that_its_command_imports_and_tells_what_was_lost() {
    let folder = Folder::bare();
    let shown = folder.ok("tour --dir t");
    assert!(shown.contains("A reader ") && shown.contains("$ evstore import permits.jsonl.gz"), "{shown}");
    let mut import = folder.command("import permits.jsonl.gz -o json");
    let output = import.current_dir(folder.path("t")).output().unwrap();
    let imported = document(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!((&imported["added"], &imported["present"]), (&json!(0), &json!(8577)));
}
