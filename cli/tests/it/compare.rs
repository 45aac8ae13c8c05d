//! `evstore compare` by the real binary: what it writes, what it leaves alone, and how it exits.

// A test may fail by a panic, also in its helpers.
use crate::evstore::{Folder, document, lines};
use serde_json::{Value, json};

/// Workloads of a moment.
const SHORT: &str = r#"
schema = 1
name = "short"
about = "Of a moment."
rounds = 2
measure = "50ms"
warm_up = "10ms"
[[workload]]
name = "append"
title = "Append one event"
does = { append = 1 }
callers = [1, 4]
harness = true
[[workload]]
name = "race"
title = "Race"
does = { append = 1 }
rate = 200
nodes = 2
streams = 2
callers = [4]
check = true
"#;

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("short.toml", SHORT);
    folder
}

fn names(folder: &Folder) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path("")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn stores_of_a_config_are_compared_and_not_touched() {
    let folder = folder();
    let report = document(&folder.ok("compare --workload short.toml --out found -o json"));
    assert_eq!((&report["schema"], &report["complete"]), (&json!(1), &json!(true)));
    let stores: Vec<&Value> = report["stores"].as_array().unwrap().iter().map(|store| &store["name"]).collect();
    assert_eq!(stores, ["a", "b"]);
    let rows = report["rows"].as_array().unwrap();
    // Two stores, their floors, the harness and its bare loop at two numbers of callers, and two stores in a race.
    assert_eq!(rows.len(), 14);
    assert!(rows.iter().all(|row| row["operations"].as_u64().unwrap() > 0), "{rows:?}");
    for row in rows {
        let has_floor = row["workload"] == "append" && row["bare"].is_null() && row["harness"] == false;
        assert_eq!(row["of_floor"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), has_floor, "{row}");
    }
    // A process that appended was killed, and nothing that it was acknowledged is gone.
    let losses = report["losses"].as_array().unwrap();
    let killed: Vec<&Value> = losses.iter().filter(|loss| loss["fault"] == "node").collect();
    assert_eq!(killed.len(), 2);
    for loss in killed {
        assert_eq!(
            (&loss["how"], &loss["rounds"], &loss["lost"]),
            (&json!("measured"), &json!(3), &json!(0)),
            "{loss}"
        );
        assert!(loss["acknowledged"].as_u64().unwrap() > 0, "{loss}");
    }
    // Nothing is there but what was there and the report: no store was made, and no scratch store is left.
    assert_eq!(names(&folder), ["evstore.toml", "found", "short.toml"]);
    assert_eq!(document(&folder.read("found/report.json"))["rows"], report["rows"]);
}

/// A standby that lacks the last commits, as a copy of the file that is put back while a process appends.
const STANDBY: &str = r#"
import glob, sqlite3, time
live = sqlite3.connect(glob.glob("a.db.scratch-*[!lm]")[0], timeout=10)
live.execute("SELECT 1")
standby = sqlite3.connect(":memory:")
live.backup(standby)
time.sleep(0.5)
standby.backup(live)
"#;

/// What a command provokes that is to be a failover, and how the comparison exits.
fn failed_over(command: &str) -> (Option<i32>, Value) {
    let folder = folder();
    folder.write("standby.py", STANDBY);
    let mut compare = folder.command("compare --no-kill --no-floor a --workload short.toml --out found");
    let code = compare.args(["--failover", &format!("a={command}")]).output().unwrap().status.code();
    let report = document(&folder.read("found/report.json"));
    let loss = report["losses"].as_array().unwrap().iter().find(|loss| loss["fault"] == "failover").unwrap().clone();
    (code, loss)
}

#[test]
fn a_failover_that_takes_nothing_is_found_to_take_nothing() {
    let (code, loss) = failed_over("true");
    assert_eq!((code, &loss["how"], &loss["lost"]), (Some(0), &json!("measured"), &json!(0)), "{loss}");
    assert!(loss["acknowledged"].as_u64().unwrap() > 0, "{loss}");
}

#[test]
fn what_a_failover_takes_is_found() {
    let (code, loss) = failed_over("python3 standby.py");
    assert_eq!((code, &loss["how"]), (Some(0), &json!("measured")), "{loss}");
    assert!(loss["lost"].as_u64().unwrap() > 0, "{loss}");
}

#[test]
fn a_failover_that_can_not_be_provoked_leaves_the_rest_of_the_report() {
    let (code, loss) = failed_over("echo no such machine >&2; exit 3");
    assert_eq!((code, &loss["how"]), (Some(1), &json!("not_measured")), "{loss}");
    assert!(loss["said"].as_str().unwrap().contains("no such machine"), "{loss}");
}

#[test]
fn the_page_is_one_file_that_asks_for_nothing() {
    let folder = folder();
    let shown = folder.ok("compare --no-kill a --workload short.toml --out found");
    assert!(shown.contains("harness") && shown.contains("How many appends does each take?"), "{shown}");
    let page = folder.read("found/report.html");
    for wrong in ["http://", "https://", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
    // Every place that is pointed to is there.
    for part in page.split("href=\"#").skip(1) {
        let place = part.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{place}\"")), "{place}");
    }
    let begin = page.find("id=\"evstore-compare\">").unwrap() + "id=\"evstore-compare\">".len();
    let embedded = &page[begin..begin + page[begin..].find("</script>").unwrap()];
    assert_eq!(document(embedded), document(&folder.read("found/report.json")));
}

#[test]
fn what_changed_since_an_older_report_is_shown() {
    let folder = folder();
    folder.ok("compare --no-kill a --workload short.toml --out old -q");
    // A store that was a thousand times as fast before.
    let mut old = document(&folder.read("old/report.json"));
    for row in old["rows"].as_array_mut().unwrap() {
        row["per_second"] = json!({ "median": 1e9, "low": 1e9, "high": 1e9 });
    }
    folder.write("fast.json", &old.to_string());
    let now = document(&folder.ok("compare --no-kill a --workload short.toml --out new --against fast.json -o json"));
    let changes = now["changes"]["rows"].as_array().unwrap();
    let verdict = |row: &str| &changes.iter().find(|change| change["row"] == row).unwrap()["verdict"];
    assert_eq!(verdict("append/1/a"), "worse");
    assert_eq!(now["changes"]["new"], json!([]));
    assert!(folder.read("new/report.html").contains("What changed since"));
    let shown = folder.ok("compare --no-kill a --workload short.toml --only append --out third --against fast.json");
    assert!(shown.contains("worse") && shown.contains("Since "), "{shown}");
}

#[test]
fn without_a_config_the_embedded_stores_are_compared() {
    let folder = Folder::bare();
    let rows = lines(&folder.ok("compare --no-kill --only append-1 --rounds 1 -o jsonl"));
    let stores = |callers: u64| -> Vec<&str> {
        rows.iter()
            .filter(|row| row["callers"] == callers && row["workload"] == "append-1")
            .map(|row| row["store"].as_str().unwrap())
            .collect()
    };
    assert_eq!(stores(32), ["memory", "sqlite", "sqlite:bare", "harness", "harness:bare"]);
    // The report is in a new folder, and nothing else is new.
    assert_eq!(names(&folder), ["evstore-compare"]);
    let made = std::fs::read_dir(folder.path("evstore-compare")).unwrap().next().unwrap().unwrap().path();
    assert!(made.join("report.html").exists() && made.join("report.json").exists());
}

#[test]
fn what_can_not_be_used_is_refused_before_anything_is_measured() {
    let folder = folder();
    folder.write("wrong.toml", &SHORT.replace("callers", "callrs"));
    folder.write("wrong.json", "{\"schema\": 99}");
    let error = folder.error("compare --no-kill --workload wrong.toml --out found -o json", 2);
    assert_eq!((&error["context"]["did you mean"], &error["context"]["line"]), (&json!("callers"), &json!("11")));
    for wrong in [
        "compare --no-kill nowhere --workload short.toml",
        "compare --no-kill --workload short.toml --only nothing",
        "compare --no-kill --workload short.toml --against wrong.json",
        "compare --no-kill --workload short.toml --against short.toml",
        "compare --no-kill --workload short.toml --rounds 0",
    ] {
        assert_eq!(folder.error(&format!("{wrong} --out found -o json"), 2)["written"], "no", "{wrong}");
    }
    folder.error("compare --no-kill --workload none.toml --out found -o json", 1);
    assert!(!folder.path("found").exists());
    // A report is replaced when somebody says so.
    std::fs::create_dir(folder.path("found")).unwrap();
    folder.write("found/report.json", "mine");
    folder.error("compare --no-kill a --workload short.toml --out found -o json", 2);
    assert_eq!(folder.read("found/report.json"), "mine");
    folder.ok("compare --no-kill a --workload short.toml --only append --out found -y -q");
    assert_ne!(folder.read("found/report.json"), "mine");
}

#[test]
fn verdicts_of_the_catalog_are_in_the_report() {
    let folder = folder();
    let command =
        "compare --no-kill a --workload short.toml --only append --conformance idempotency. --out found -o json";
    let report = document(&folder.ok(command));
    let found = &report["stores"][0]["conformance"];
    assert_eq!(found["only"], json!(["idempotency."]));
    assert!(found["verdicts"]["held"].as_u64().unwrap() > 0, "{found}");
    assert!(folder.read("found/report.html").contains("only idempotency."));
}

#[test]
fn the_standard_workloads_can_be_printed_changed_and_used() {
    let folder = Folder::new();
    let printed = folder.ok("compare --print-workload");
    folder.write("mine.toml", &printed);
    folder.ok("compare --no-kill a --workload mine.toml --only replay --rounds 1 --out found -q");
    assert_eq!(document(&folder.read("found/report.json"))["rows"][0]["workload"], "replay");
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_what_was_measured_until_then() {
    use std::process::{Command, Stdio};
    let folder = Folder::new();
    // The first workload is of a moment; the second prepares a store, is seen to do so, and would take a day.
    let long = SHORT.replace("callers = [4]", "callers = [4]\nstream_events = 100000");
    folder.write("long.toml", &long);
    let mut command = folder.command("compare --no-floor --no-kill a --workload long.toml --out found -q");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let scratch = || -> Vec<String> { names(&folder).into_iter().filter(|name| name.contains("scratch")).collect() };
    let mut first = Vec::new();
    loop {
        let now = scratch();
        match (first.is_empty(), now.is_empty()) {
            (true, false) => first = now,
            (false, false) if now.iter().all(|name| !first.contains(name)) => break,
            _ => {}
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report = document(&folder.read("found/report.json"));
    assert_eq!(report["complete"], false);
    let measured: Vec<&Value> = report["rows"].as_array().unwrap().iter().map(|row| &row["workload"]).collect();
    assert!(measured.len() >= 4 && measured.iter().all(|workload| *workload == "append"), "{measured:?}");
    assert!(folder.read("found/report.html").contains("This run was interrupted"));
    assert_eq!(scratch(), Vec::<String>::new());
}

#[test]
fn a_profile_is_like_the_store_and_holds_nothing_of_it() {
    let folder = Folder::new();
    for number in 0..3 {
        folder.ok(&format!(
            "append secret-{number} --type Classified --data {{\"word\":\"{}\"}} -q",
            "swordfish".repeat(number + 1)
        ));
    }
    folder.ok("append secret-0 --type Classified --data {\"word\":\"swordfish\"} -q");
    let text = folder.ok("profile --loads 1000");
    assert!(!text.contains("secret") && !text.contains("swordfish") && !text.contains("Classified"), "{text}");
    folder.write("mine.toml", &text);
    let plan = document(&folder.ok("profile -o json"));
    let observed = &plan["observed"];
    assert_eq!((&observed["commits"], &observed["events"], &observed["streams"]), (&json!(4), &json!(4), &json!(3)));
    assert_eq!(observed["hottest"], json!([0.5, 0.25, 0.25]));
    assert_eq!(plan["workload"][0]["event_bytes"].as_array().unwrap().last().unwrap(), &json!(38));
    // It is a workload file like any other.
    let report = document(
        &folder.ok("compare --no-kill a --workload mine.toml --only observed-load --rounds 1 --out found -o json"),
    );
    assert!(report["rows"][0]["operations"].as_u64().unwrap() > 0);
    // And it is priced, with what is left out.
    let estimate = document(&folder.ok("estimate --workload mine.toml -o json"));
    assert_eq!(estimate["observed"]["loads_a_month"], json!(1000.0));
    let dynamodb =
        estimate["bills"].as_array().unwrap().iter().find(|one| one["bill"]["provider"] == "dynamodb").unwrap();
    // Of the first design: one for the commit, and one that the sequencer writes behind it.
    assert_eq!(dynamodb["bill"]["write_units_a_commit"], json!(2.0));
    assert!(folder.ok("estimate").contains("DynamoDB, on demand"));
}

#[test]
fn what_has_no_profile_or_no_price_is_refused() {
    let folder = folder();
    folder.error("profile -o json", 1);
    folder.error("estimate --workload short.toml -o json", 2);
    folder.ok("append a-1 --type t -q");
    folder.error("estimate a -o json", 2);
    let prices = folder.ok("estimate --print-prices");
    folder.write("prices.toml", &prices.replace("source = \"infracost, testdata rds_cluster_test\"", "source = \"\""));
    folder.error("estimate --prices prices.toml -o json", 2);
    folder.write("ours.toml", &prices.replace("provider = \"dynamodb\"", "provider = \"sqlite\""));
    assert!(folder.ok("estimate a --prices ours.toml").contains("DynamoDB"));
}
