//! A system of two stores, its nodes, and the command that moves it.

use crate::judge::{self, Seen};
use crate::node::{DRAIN, ROLE, Role, STOP, WINDOW, now};
use crate::process::{self, Process, is_full, patience};
use crate::stores::{Kind, Place};
use async_trait::async_trait;
use evstore::api::{
    AdvanceFeed, Appended, Capabilities, CommitId, CommitsPage, Deadline, Delete, FeedAdvanced, Finding, Meta,
    MetaSwapped, OpenStream, ReadCommits, Release, Released, Replicate, Replicated, Result, SchemaPlan, SealStream,
    StoreAdmin, StoreState, SwapMeta, Truncate, Truncated,
};
use evstore::{Config, Registry, Sources, StoreName};
use evstore_conformance::seed::Seed;
use evstore_migrate::pages::Streams;
use evstore_migrate::{Migration, Phase, Side, Status, Way, phase};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a store may promise less of than another.
const ACCEPTED: [&str; 9] = [
    "window",
    "durability",
    "failover",
    "real_time",
    "event_ids",
    "processes",
    "event_bytes",
    "commit_bytes",
    "snapshot_bytes",
];
/// Nodes with the old config, with the new one, and one that was told of no target.
pub const OLD: &str = "old.toml";
pub const NEW: &str = "new.toml";
pub const UNTOLD: &str = "untold.toml";
/// The migrator's.
const OPERATOR: &str = "operator.toml";

/// A node.
pub struct Node {
    process: Process,
    /// What it prints.
    seen: PathBuf,
    /// Its number.
    client: u64,
    role: Role,
}

impl Node {
    /// How many calls it has told of so far, each before and after.
    fn calls(&self) -> usize {
        std::fs::read(&self.seen).unwrap().iter().filter(|byte| **byte == b'\n').count()
    }
}

/// Two stores, `a` and `b`, and the processes that use them.
pub struct System {
    nodes: Vec<Node>,
    pub a: Place,
    pub b: Place,
    pub seed: Seed,
    processes: u64,
    ended: Vec<PathBuf>,
    /// How often the migrator was killed in each phase.
    killed: BTreeMap<&'static str, u32>,
    /// What processes are told that are started from now on, the migrator too.
    pub environment: Vec<(&'static str, String)>,
    // Last, so that nothing runs any more when it is removed.
    folder: TempDir,
}

impl System {
    /// With two empty stores.
    pub fn new(a: Kind, b: Kind) -> Self {
        let seed = std::env::var("EVSTORE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = Seed(seed.unwrap_or_else(|| u64::from(std::process::id()) ^ now().0));
        println!("{} to {}, EVSTORE_TEST_SEED={}", a.name(), b.name(), seed.0);
        let (a, b) = (Place::new("a", a), Place::new("b", b));
        let (nodes, ended, killed) = Default::default();
        let folder = tempfile::tempdir().unwrap();
        let environment = [&a, &b].iter().filter_map(|place| place.window()).min();
        let environment = environment.map(|window| (WINDOW, window.to_string())).into_iter().collect();
        let system = Self { nodes, a, b, seed, processes: 0, ended, killed, environment, folder };
        system.write_configs();
        // Made before any node looks for them, as an operator does.
        ["a", "b"].iter().for_each(|store| drop(system.ok(&format!("-s {store} schema apply -y"))));
        system
    }

    fn write_configs(&self) {
        let (a, b) = (self.a.table_of_nodes(), self.b.table_of_nodes());
        let of_move = "[migrate]\ntargets = [\"b\"]\n";
        let text = |default: &str, tables: &str| format!("default_store = \"{default}\"\n{tables}");
        self.write(OLD, &text("a", &format!("{a}{b}{of_move}")));
        self.write(NEW, &text("b", &format!("{a}{b}{of_move}")));
        self.write(UNTOLD, &text("a", &a));
        let (a, b) = (self.a.table_of_operator(), self.b.table_of_operator());
        self.write(OPERATOR, &text("a", &format!("{a}{b}{of_move}")));
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a node and gives its number.
    pub fn node(&mut self, role: Role, config: &str) -> u64 {
        let client = self.processes;
        self.node_again(client, role, config);
        client
    }

    /// Starts a node that was there before.
    pub fn node_again(&mut self, client: u64, role: Role, config: &str) {
        let mut command = process::command(std::env::current_exe().unwrap());
        command.envs(self.environment.iter().cloned());
        let seen = self.path(&format!("node-{}.jsonl", self.processes));
        self.processes += 1;
        command.env(ROLE, role.told(&self.path(config), client, self.seed.next_u64()));
        let file = |path: PathBuf| std::fs::File::create(path).unwrap();
        let (out, errors) = (file(seen.clone()), file(seen.with_extension("txt")));
        let process = Process::start(command.stdin(Stdio::null()).stdout(out).stderr(errors), format!("node {client}"));
        self.nodes.push(Node { process, seen, client, role });
    }

    /// A node that runs.
    pub fn process(&self, client: u64) -> &Process {
        &self.with_number(client).process
    }

    fn with_number(&self, client: u64) -> &Node {
        self.nodes.iter().find(|node| node.client == client).unwrap()
    }

    /// The processes of its servers.
    pub fn servers(&self) -> impl Iterator<Item = u32> {
        [&self.a, &self.b].into_iter().filter_map(Place::process)
    }

    /// Waits for a node to end by itself; gives what it said of itself.
    pub fn wait_for(&mut self, client: u64) -> String {
        let at = self.nodes.iter().position(|node| node.client == client).unwrap();
        let mut node = self.nodes.remove(at);
        let ended = node.process.wait();
        let said = std::fs::read_to_string(node.seen.with_extension("txt")).unwrap();
        assert!(ended.success(), "node {client}: {said}");
        self.ended.push(node.seen.clone());
        said
    }

    /// Forgets what the nodes told that have ended.
    pub fn forget(&mut self) {
        self.ended.clear();
    }

    /// Kills a node.
    pub fn kill(&mut self, client: u64) {
        let at = self.nodes.iter().position(|node| node.client == client).unwrap();
        let node = self.nodes.remove(at);
        self.ended.push(node.seen.clone());
    }

    /// The migrator's command.
    pub fn command(&self, arguments: &str) -> Command {
        self.command_with(OPERATOR, arguments)
    }

    fn command_with(&self, config: &str, arguments: &str) -> Command {
        let mut command = process::command(env!("CARGO_BIN_EXE_evstore"));
        command.args(["-c", config]).args(arguments.split(' ')).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.folder.path()).envs(self.environment.iter().cloned());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        process::output(&mut self.command(arguments))
    }

    pub fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Imports a log, as patiently as nodes append.
    pub fn import(&self, log: &str) {
        self.until("the log is imported", || {
            let output = process::output(&mut self.command_with(OLD, &format!("import {log} -q")));
            // It says itself that it may be repeated, where a server did not answer in time.
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                println!("the import is repeated: {}", said.lines().next().unwrap_or_default());
            }
            output.status.success()
        });
    }

    /// The error that a command ends with.
    pub fn error(&self, arguments: &str) -> Value {
        let output = self.run(&format!("{arguments} -o json"));
        assert!(!output.status.success(), "{arguments} did not fail");
        serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|_| panic!("{arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Moves all but the last events of the owner into its archive, where it has one.
    pub fn archive(&self, owner: &str) {
        let place = if owner == "a" { &self.a } else { &self.b };
        if place.has_archive() {
            println!("archived: {}", self.ok(&format!("archive run {owner} --keep-last 200 -o json")).trim());
        }
    }

    /// Begins a move, whatever the target promises less of.
    pub fn start(&self) {
        let accepted: Vec<_> = ACCEPTED.iter().map(|name| format!("--accept {name}")).collect();
        self.ok(&format!("migrate start {}", accepted.join(" ")));
    }

    /// Lets a migrator copy beside what happens. It ends with what is given.
    pub fn copies(&self) -> Process {
        let seen = self.path("run.txt");
        let errors = std::fs::File::options().create(true).append(true).open(&seen).unwrap();
        Process::start(self.command("migrate run").stdout(Stdio::null()).stderr(errors), "a migrator that copies")
    }

    /// What the copying migrators said.
    pub fn said_by_copies(&self) -> String {
        std::fs::read_to_string(self.path("run.txt")).unwrap_or_default()
    }

    /// Where the move stands. The command looks twice for it, a second apart.
    pub fn look(&self) -> Status {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let began = Instant::now();
        loop {
            let looked = runtime.block_on(async {
                let sides = [self.side("a").await?, self.side("b").await?];
                let [source, target] = sides.clone();
                let status = Migration::new(source, target)?.status().await;
                for side in sides {
                    side.store.close().await?;
                    side.admin.close().await?;
                }
                status
            });
            match looked {
                Ok(status) => return status,
                // A server that was killed or cut off a moment ago.
                Err(error) => assert!(began.elapsed() < patience(), "where the move stands is not known: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A store as the migrator opens it.
    async fn side(&self, name: &str) -> Result<Side> {
        let config = self.path(OPERATOR);
        let sources = Sources::new(self.folder.path(), evstore::Environment::default()).with_file(&config);
        let name = StoreName::new(name)?;
        let configured = Registry::builtin().settings(&Config::load(&sources)?, &name)?;
        let store = configured.provider.opener.open(&configured.settings).await?;
        Ok(Side { name, store, admin: configured.open_admin().await? })
    }

    /// The phase, by its name.
    pub fn phase(&self) -> &'static str {
        self.look().phase.name()
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < patience(), "it does not come to this: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a node was answered by a store.
    pub fn has_told(&self, client: u64) -> bool {
        // The first line says that it is about to ask.
        self.with_number(client).calls() > 1
    }

    /// How many calls the nodes have told of so far.
    pub fn calls(&self) -> usize {
        self.nodes.iter().map(Node::calls).sum()
    }

    /// Lets the nodes do so much more.
    pub fn let_work(&self, calls: usize) {
        let before = self.calls();
        self.until("the nodes go on", || self.calls() > before + calls);
    }

    /// Lets one of them do so much more.
    pub fn let_node_work(&self, client: u64, calls: usize) {
        let before = self.with_number(client).calls();
        self.until("the node goes on", || self.with_number(client).calls() > before + calls);
    }

    /// Leaves the move in a phase as a migrator does that is killed right there, and waits until nothing holds it up.
    pub fn leave_in(&self, wanted: Phase) {
        let (Phase::Sealing(way) | Phase::Fenced(way) | Phase::Decided(way)) = wanted else {
            panic!("no migrator is killed in {wanted:?}")
        };
        let (from, to) = match way {
            Way::Forth => ("a", "b"),
            Way::Back => ("b", "a"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let deadline = || Deadline::within(patience());
            let (from, to) = (self.side(from).await.unwrap(), self.side(to).await.unwrap());
            if let Phase::Sealing(_) = wanted {
                let owner = from.admin.read_meta(deadline()).await.unwrap();
                let (new, to) = (phase::leaving(&owner, &to.name), to.name);
                let epoch = new.epoch;
                from.admin.swap_meta(SwapMeta { expected: owner, new, deadline: deadline() }).await.unwrap();
                // Half of them are sealed, as far as it came.
                let mut streams = Streams::all(&*from.store).at_most(100);
                let listed = streams.next(&*from.store).await.unwrap().unwrap();
                for one in listed.iter().take(listed.len() / 2 + 1) {
                    let (stream, commit) = (one.stream.clone(), CommitId::generate());
                    let seal = SealStream { stream, commit, epoch, to: to.clone(), deadline: deadline() };
                    from.admin.seal_stream(seal).await.unwrap();
                }
                return;
            }
            if let Phase::Fenced(_) = wanted {
                let owner = from.admin.read_meta(deadline()).await.unwrap();
                let new = phase::fenced(&owner, &to.name);
                from.admin.swap_meta(SwapMeta { expected: owner, new, deadline: deadline() }).await.unwrap();
                return;
            }
            let decided = from.admin.clone();
            let to = Side { admin: Arc::new(NeverOpens(to.admin)), ..to };
            let (source, target) = if way == Way::Forth { (from, to) } else { (to, from) };
            let migration = Migration::new(source, target).unwrap();
            let is_decided = async {
                while !matches!(decided.read_meta(deadline()).await.unwrap().state, StoreState::Moved { .. }) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let hands_over = async {
                match way {
                    Way::Forth => migration.cutover(patience(), None).await,
                    Way::Back => migration.rollback(patience(), None).await,
                }
            };
            tokio::select! {
                settled = hands_over => panic!("{settled:?}"),
                () = is_decided => {}
                () = tokio::time::sleep(patience()) => panic!("a hand-over is not decided"),
            }
        });
        assert_eq!(self.phase(), wanted.name());
    }

    /// Lets a migrator run and kills it so many times.
    pub fn run_killed(&mut self, kills: u32) {
        for _ in 0..kills {
            let run = self.copies();
            std::thread::sleep(Duration::from_millis(30 + self.seed.below(400)));
            drop(run);
            *self.killed.entry(self.phase()).or_default() += 1;
        }
    }

    /// Starts a verb of the migrator again and again and kills it, until the move is in one of these phases. Once it was killed
    /// `kills` times it is left alone. In between the way to either store is cut for a moment, where there is one.
    pub fn killed_until(&mut self, arguments: &str, kills: u32, phases: &[&str]) {
        // A hand-over reads every stream's snapshot first: some kills come before that is done, some after.
        let after: &[u64] = if is_full() { &[300, 1_500, 6_000] } else { &[150, 800] };
        let began = Instant::now();
        for round in 0.. {
            let phase = self.phase();
            assert!(began.elapsed() < patience(), "{arguments} does not come to an end; it is {phase}");
            // A hand-over that is cut off while the owner is closed opens it again and says so: its operator begins anew.
            if phase == Phase::GivenUp(Way::Forth).name() {
                self.start();
            }
            let errors = std::fs::File::create(self.path("verb.txt")).unwrap();
            let mut verb = Process::start(self.command(arguments).stdout(Stdio::null()).stderr(errors), arguments);
            if round < kills {
                let longest = *self.seed.pick(after);
                std::thread::sleep(Duration::from_millis(20 + self.seed.below(longest)));
                if self.seed.chance(50) {
                    self.cut_for_a_moment();
                }
                drop(verb);
                let phase = self.phase();
                *self.killed.entry(phase).or_default() += 1;
                if phases.contains(&phase) {
                    return;
                }
            } else {
                let end = verb.wait();
                let phase = self.phase();
                if phases.contains(&phase) {
                    return;
                }
                let said = std::fs::read_to_string(self.path("verb.txt")).unwrap();
                println!("{arguments} ended with {end}: {phase}: {}", said.lines().next().unwrap_or_default());
            }
        }
    }

    /// Cuts the migrator off from one of the stores, where that is possible.
    fn cut_for_a_moment(&mut self) {
        let place = if self.seed.chance(50) { &self.a } else { &self.b };
        if let Some(way) = place.operator() {
            way.set(crate::proxy::Way::Cut);
            std::thread::sleep(Duration::from_millis(self.seed.below(300)));
            way.set(crate::proxy::Way::Open);
        }
    }

    /// Stops the nodes and reads what they saw, and what a store holds.
    pub fn end(&mut self, owner: &str) -> Seen {
        self.write(STOP, "");
        let consumes = |node: &Node| matches!(node.role, Role::Consume(_));
        for client in self.nodes.iter().filter(|node| !consumes(node)).map(|node| node.client).collect::<Vec<_>>() {
            self.wait_for(client);
        }
        // Nobody appends any more: the end of the feed is that of what consumers have to see.
        self.write(DRAIN, "");
        for client in self.nodes.iter().map(|node| node.client).collect::<Vec<_>>() {
            self.wait_for(client);
        }
        if !self.killed.is_empty() {
            println!("killed by phase: {:?}", self.killed);
        }
        for (name, place) in [("a", &self.a), ("b", &self.b)] {
            if let Some(way) = place.operator().filter(|way| way.cut() > 0) {
                println!("connections of the migrator to {name} that were cut: {}", way.cut());
            }
        }
        let is_sealed = self.a.is_sealed() || self.b.is_sealed();
        Seen::read(self.ended.iter().cloned(), &self.path(OPERATOR), owner, is_sealed)
    }

    /// Both stores hold the same, byte for byte. Nobody may write any more, and a migrator has to copy.
    pub fn check_same(&self) {
        self.until("all is copied", || {
            let status = self.look();
            status.source.1 == status.target.1
        });
        let export = |store: &str| self.ok(&format!("-s {store} export"));
        assert_eq!(blake3::hash(export("a").as_bytes()), blake3::hash(export("b").as_bytes()), "the stores differ");
    }
}

/// A store of the system, by itself.
pub async fn itself(system: &System, name: &str) -> evstore::Store {
    judge::itself(&system.path(OPERATOR), name).await
}

/// A store that a migrator is about to open, and never does.
#[derive(Debug)]
struct NeverOpens(Arc<dyn StoreAdmin>);

macro_rules! passed_on {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[async_trait]
        impl StoreAdmin for NeverOpens {
            fn capabilities(&self) -> &Capabilities {
                self.0.capabilities()
            }

            async fn close(&self) -> Result<()> {
                self.0.close().await
            }

            async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
                if request.new.state == StoreState::Open {
                    std::future::pending::<()>().await;
                }
                self.0.swap_meta(request).await
            }

            $(async fn $name(&self, request: $request) -> Result<$answer> {
                self.0.$name(request).await
            })*
        }
    };
}

passed_on! {
    read_meta(Deadline) -> Meta;
    seal_stream(SealStream) -> Appended;
    open_stream(OpenStream) -> Appended;
    replicate(Replicate) -> Replicated;
    read_commits(ReadCommits) -> CommitsPage;
    truncate(Truncate) -> Truncated;
    release(Release) -> Released;
    delete(Delete) -> Appended;
    advance_feed(AdvanceFeed) -> FeedAdvanced;
    plan_schema(Deadline) -> SchemaPlan;
    apply_schema(Deadline) -> SchemaPlan;
    check_schema(Deadline) -> ();
    examine(Deadline) -> Vec<Finding>;
}
