//! `evstore migrate` by the real binary, verb by verb. Running systems are moved in `mover`.

// A test may fail by a panic, also in its helpers.
use crate::evstore::{Folder, PERMITS, document};

fn folder() -> Folder {
    let folder = Folder::new();
    let text = folder.read("evstore.toml");
    folder.write("evstore.toml", &format!("{text}[migrate]\ntargets = [\"b\"]\n"));
    folder
}

#[test]
fn a_store_is_moved_verb_by_verb() {
    let folder = folder();
    folder.ok(&format!("import {PERMITS}"));
    folder.ok("checkpoint set mails 100");
    let status = || document(&folder.ok("migrate status -o json"));
    // The target is not made by a look.
    assert_eq!(folder.error("migrate status -o json", 1)["kind"], "schema");
    assert_eq!(document(&folder.ok("migrate start -o json"))["phase"], "copying");
    let plan = document(&folder.ok("migrate plan -o json"));
    assert_eq!((&plan["events"], &plan["checkpoints"], &plan["ready"]), (&8577.into(), &1.into(), &true.into()));
    // Before a cutover there is nothing to take back or to finish, and nothing is done by a dry run.
    assert_eq!(folder.error("migrate rollback -y -o json", 3)["context"]["phase"], "copying");
    assert_eq!(folder.error("migrate finish -y -o json", 3)["kind"], "conflict");
    folder.ok("migrate cutover --dry-run");
    assert_eq!(status()["phase"], "copying");
    let rehearsed = document(&folder.ok("migrate rehearse -o json"));
    assert_eq!(
        (&rehearsed["owner"], &rehearsed["rehearsed"], &rehearsed["end"]),
        (&"a".into(), &true.into(), &8577.into())
    );
    folder.ok("append order-1 --type x --data {}");
    folder.ok("migrate pause");
    assert_eq!(status()["paused"], true);
    assert_eq!(folder.error("migrate cutover -y -o json", 3)["kind"], "conflict");
    folder.ok("migrate resume");
    let told = status();
    assert_eq!(
        (&told["lag"], &told["converges"], &told["seconds_left"]),
        (&1.into(), &false.into(), &serde_json::Value::Null)
    );
    assert_eq!((&told["streams"]["source"], &told["streams"]["handed_over"]), (&1435.into(), &0.into()));
    assert_eq!(told["pause"]["times"], 1);
    assert_eq!(folder.error("migrate cutover -o json", 2)["kind"], "usage");
    let cutover = document(&folder.ok("migrate cutover -y -o json"));
    assert_eq!((&cutover["owner"], &cutover["end"], &cutover["differences"]), (&"b".into(), &8578.into(), &0.into()));
    assert!(cutover["pause_ms"].as_u64().unwrap() < 5_000, "{cutover}");
    assert_eq!(folder.error("-o json append order-1 --type x --data {}", 7)["context"]["to"], "b");
    folder.ok("-s b append order-1 --type x --data {}");
    let carried = document(&folder.ok("-s b checkpoint get mails -o json"));
    assert_eq!(carried, document(&folder.ok("checkpoint get mails -o json")));
    assert_eq!(document(&folder.ok("migrate rollback -y -o json"))["end"], 8579);
    assert_eq!(status()["phase"], "moved_back");
    folder.ok("append order-1 --type x --data {}");
    folder.ok("migrate start");
    folder.ok("migrate abort");
    assert_eq!(status()["phase"], "given_up");
    folder.ok("append order-1 --type x --data {}");
    folder.ok("migrate start");
    folder.ok("migrate cutover -y");
    folder.ok("migrate wait --for open");
    folder.ok("migrate finish -y");
    folder.ok("migrate wait --for finished");
    assert_eq!(folder.error("migrate rollback -y -o json", 3)["context"]["phase"], "finished");
    let export = |store: &str| folder.ok(&format!("-s {store} export"));
    assert_eq!(export("a"), export("b"), "both hold the same, byte for byte");
    folder.ok("verify b");
}

#[test]
fn what_can_not_be_moved_is_told_before_anything_is_changed() {
    let folder = folder();
    folder.ok("append order-1 --type x --data {}");
    folder.ok("-s b append order-1 --type y --data {}");
    let error = folder.error("migrate start -o json", 3);
    assert_eq!(error["context"]["store"], "b", "{error}");
    folder.ok("-s b append order-1 --type y --data {}");
    assert_eq!(folder.error("migrate start --target a -o json", 2)["kind"], "invalid");
    assert_eq!(folder.error("migrate cutover -y -o json", 3)["context"]["phase"], "not_begun");
    // One file under two names is one store.
    folder.write("evstore.toml", "default_store = \"a\"\n[stores.a]\nprovider = \"sqlite\"\npath = \"a.db\"\n[stores.b]\nprovider = \"sqlite\"\npath = \"a.db\"\n");
    assert_eq!(folder.error("migrate start -o json", 2)["kind"], "invalid");
    folder.ok("append order-1 --type x --data {}");
}

/// A process that has a store open, in this one.
struct Node {
    runtime: tokio::runtime::Runtime,
    store: ::evstore::Store,
}

impl Node {
    fn of(folder: &Folder, config: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sources = ::evstore::Sources::new(folder.path(""), ::evstore::Environment::default());
        let config = ::evstore::Config::load(&sources.with_file(folder.path(config))).unwrap();
        let registry = ::evstore::Registry::builtin();
        let store = runtime.block_on(registry.open(&config, config.default_store().unwrap())).unwrap();
        Self { runtime, store }
    }

    fn close(self) {
        self.runtime.block_on(self.store.close()).unwrap();
    }
}

/// The nodes that are listed, once there are so many.
fn nodes(folder: &Folder, count: usize) -> Vec<serde_json::Value> {
    let began = std::time::Instant::now();
    loop {
        let listed = document(&folder.ok("nodes -o json"))["nodes"].as_array().unwrap().clone();
        if listed.len() == count {
            return listed;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{count} nodes are not there: {listed:?}");
    }
}

#[test]
fn a_cutover_waits_for_every_node_to_know_the_target() {
    let folder = folder();
    folder.ok("append order-1 --type x --data {}");
    folder.ok("schema apply b");
    folder.write("untold.toml", "[stores.a]\nprovider = \"sqlite\"\npath = \"a.db\"\n");
    assert!(nodes(&folder, 0).is_empty());
    let untold = Node::of(&folder, "untold.toml");
    let name = nodes(&folder, 1)[0]["name"].as_str().unwrap().to_owned();
    let plan = document(&folder.ok("migrate plan -o json"));
    assert_eq!(plan["nodes"]["live"], 1);
    let sentence = format!("node {name} has no [stores.b] in its config");
    assert_eq!(plan["nodes"]["not_ready"], serde_json::json!([sentence]));
    folder.ok("migrate start");
    for refused in ["migrate cutover -y -o json", "migrate cutover --dry-run -o json"] {
        let error = folder.error(refused, 8);
        assert!(error["message"].as_str().unwrap().contains(&sentence), "{error}");
    }
    assert_eq!(document(&folder.ok("migrate status -o json"))["phase"], "copying", "nothing was closed");
    folder.error("migrate cutover --dry-run --accept-node another -o json", 8);
    folder.ok(&format!("migrate cutover --dry-run --accept-node {name}"));
    // A rehearsal moves nothing, so that nobody is left behind.
    folder.ok("migrate rehearse");
    untold.close();
    let told = Node::of(&folder, "evstore.toml");
    let listed = nodes(&folder, 1);
    assert_eq!(listed[0]["reached"]["b"]["result"], "writes", "{listed:?}");
    assert_eq!(
        (&listed[0]["opened"], &listed[0]["goes_to"], &listed[0]["live"]),
        (&"a".into(), &"a".into(), &true.into())
    );
    let text = folder.read("evstore.toml");
    folder.write("evstore.toml", &format!("{text}expect_nodes = 2\n"));
    let error = folder.error("migrate cutover -y -o json", 8);
    assert!(error["message"].as_str().unwrap().contains("1 nodes are there of 2"), "{error}");
    folder.ok("migrate cutover --dry-run --expect-nodes 0");
    folder.ok("migrate cutover -y --expect-nodes 1");
    // The way back is held up in the same way.
    folder.error("migrate rollback -y -o json", 8);
    folder.ok("migrate rollback -y --expect-nodes 1");
    told.close();
    assert!(nodes(&folder, 0).is_empty());
}

#[test]
fn a_target_that_holds_less_is_refused_or_accepted_by_name() {
    let folder = folder();
    let text = folder.read("evstore.toml").replace("path = \"b.db\"", "path = \"b.db\"\nevent_bytes_max = \"1KiB\"");
    folder.write("evstore.toml", &text);
    folder.ok("append order-1 --type x --data {}");
    let error = folder.error("migrate start -o json", 2);
    assert_eq!(
        (&error["kind"], &error["context"]["accept"]),
        (&"unsupported".into(), &"event_bytes".into()),
        "{error}"
    );
    assert_eq!(folder.error("migrate plan -o json", 2)["kind"], "unsupported");
    folder.ok("migrate start --accept event_bytes --dry-run");
    // A name that no plan lists is a mistake, and not something accepted.
    assert_eq!(folder.error("migrate start --accept evnt_bytes -o json", 2)["kind"], "usage");
    let large = "x".repeat(2000);
    folder.ok(&format!("append order-1 --type x --data \"{large}\""));
    let error = folder.error("migrate start --accept event_bytes -o json", 2);
    assert_eq!(error["kind"], "too_large", "{error}");
    folder.ok("append order-1 --type x --data {}");
}
