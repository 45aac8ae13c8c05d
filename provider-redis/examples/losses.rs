//! `cargo xtask engine valkey -- cargo run --release -p evstore-redis --example losses -- [--setup S] [--fault F] [--seed N] [--rounds N]`
//!
//! Appends by eight callers, then a fault, then a look at what is left: how many acknowledged commits are gone, whether the feed and the
//! streams agree, and whether the handle that wrote and a consumer that read what is gone are told. Set-ups with one server meet
//! `kill` (the process, which leaves the page cache) and `power-cut` (also what no fsync brought to the disk: a file system of its
//! own is shut down without writing its journal, which takes root); those with a replica meet `failover`, to a replica that was stopped
//! for a while. Ends with an error where the store lost more than it declares, in silence, or its feed and streams differ.

#![allow(clippy::print_stdout, reason = "a run prints what it found")]
#![allow(clippy::unwrap_used, reason = "a run that cannot go on stops")]

#[path = "../tests/server/mod.rs"]
mod server;

use evstore_api::capabilities::Durability;
use evstore_api::{
    CommitId, Cursor, Direction, ErrorKind, EventStore, FeedFilter, FeedStart, ReadFeed, ReadStream, StreamStart,
};
use server::{Server, append, deadline, is_there, open, stream};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const CALLERS: usize = 8;
/// Set-ups with one server, and what they are started with.
const ALONE: [(&str, &[&str]); 4] = [
    ("memory", &[]),
    ("no", &["--appendonly", "yes", "--appendfsync", "no"]),
    ("everysec", &["--appendonly", "yes", "--appendfsync", "everysec"]),
    ("always", &["--appendonly", "yes", "--appendfsync", "always"]),
];
type Replicated = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);
/// Set-ups with a replica: what the primary is started with, and what the store is told.
const REPLICATED: [Replicated; 3] = [
    ("replica", &[], &[]),
    ("min-replicas", &["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"], &[]),
    ("wait", &[], &[("durability", "replicas"), ("replicas_timeout", "200ms")]),
];

#[tokio::main]
async fn main() -> ExitCode {
    let (mut setup, mut fault, mut seed, mut rounds) = ("all".to_owned(), "all".to_owned(), 1_u64, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().expect("every option has a value");
        match argument.as_str() {
            "--setup" => setup = value,
            "--fault" => fault = value,
            "--seed" => seed = value.parse().unwrap(),
            "--rounds" => rounds = value.parse().unwrap(),
            other => panic!("there is no option {other}"),
        }
    }
    let wanted = |name: &str, what: &str| (setup == "all" || setup == name) && (fault == "all" || fault == what);
    println!(
        "| engine | set-up | fault | seed | acknowledged | lost | no answer: there, not | the writer is told | a consumer is told |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut good = true;
    for seed in seed..seed + rounds {
        let mut moment = Moment(seed);
        for (name, arguments) in ALONE {
            for fault in ["kill", "power-cut"] {
                if wanted(name, fault) {
                    good &= alone(name, arguments, fault, &mut moment).await.print(name, fault, seed);
                }
            }
        }
        for (name, arguments, settings) in REPLICATED {
            if wanted(name, "failover") {
                good &= failover(arguments, settings, &mut moment).await.print(name, "failover", seed);
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Moments that a seed decides.
struct Moment(u64);

impl Moment {
    /// Between one time and another.
    fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis(low_ms + (mixed ^ (mixed >> 31)) % (high_ms - low_ms))
    }
}

async fn alone(name: &str, arguments: &[&str], fault: &str, moment: &mut Moment) -> Found {
    let mut disk = (fault == "power-cut").then(Disk::new);
    let own = tempfile::tempdir().unwrap();
    let folder = disk.as_ref().map_or_else(|| own.path().to_owned(), |disk| disk.folder.clone());
    let mut server = Server::start_in(folder, arguments).await;
    let store = open(&server.url(), &[]).await;
    if let Some(disk) = &disk {
        // What stands before the load began is not what is asked about.
        disk.sync();
    }
    let load = Load::start(&store);
    tokio::time::sleep(moment.between(1_200, 2_400)).await;
    match &mut disk {
        // Nothing is acknowledged between the cut and the end of the process.
        Some(disk) => {
            server.signal("-STOP");
            disk.cut();
            server.kill();
            disk.back();
        }
        None => server.kill(),
    }
    let load = load.stop().await;
    server.restart().await;
    let again = open(&server.url(), &[]).await;
    let found = Found::look(&store, &again, load).await;
    drop((server, disk));
    assert!(name != "always" || found.durability == Durability::PowerLoss);
    found
}

async fn failover(arguments: &[&str], settings: &[(&str, &str)], moment: &mut Moment) -> Found {
    let mut primary = Server::start(arguments).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    let urls = format!("{},{}", primary.url(), replica.url());
    let store = open(&urls, settings).await;
    let load = Load::start(&store);
    tokio::time::sleep(moment.between(600, 1_200)).await;
    replica.signal("-STOP");
    tokio::time::sleep(moment.between(1_000, 2_500)).await;
    primary.kill();
    replica.signal("-CONT");
    let load = load.stop().await;
    replica.until(&["INFO", "replication"], "master_link_status:down").await;
    replica.run(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    let again = open(&replica.url(), &[]).await;
    let mut found = Found::look(&store, &again, load).await;
    found.durability = store.capabilities().durability;
    found
}

/// Callers at work.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Written>>,
    consumer: tokio::task::JoinHandle<Option<Cursor>>,
}

/// What callers know at the end, and how far a consumer came.
#[derive(Default)]
struct Written {
    acknowledged: Vec<(String, CommitId)>,
    unanswered: Vec<(String, CommitId)>,
    read: Option<Cursor>,
}

impl Load {
    fn start(store: &Arc<dyn EventStore>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |caller| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let (name, mut written) = (format!("caller-{caller}"), Written::default());
                while !stop.load(Ordering::SeqCst) {
                    let id = CommitId::generate();
                    match append(&store, &name, id).await {
                        Ok(_) => written.acknowledged.push((name.clone(), id)),
                        Err(error) => {
                            if error.kind() == ErrorKind::Indeterminate {
                                written.unanswered.push((name.clone(), id));
                            }
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                written
            })
        };
        let callers = (0..CALLERS).map(caller).collect();
        let (store, stopped) = (store.clone(), stop.clone());
        let consumer = tokio::spawn(async move {
            let mut read = None;
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(head) = store.feed_head(deadline()).await {
                    read = Some(head.cursor);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            read
        });
        Self { stop, callers, consumer }
    }

    async fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Written { read: self.consumer.await.unwrap(), ..Written::default() };
        for caller in self.callers {
            let written = caller.await.unwrap();
            all.acknowledged.extend(written.acknowledged);
            all.unanswered.extend(written.unanswered);
        }
        all
    }
}

/// What is left.
struct Found {
    engine: String,
    durability: Durability,
    acknowledged: usize,
    lost: usize,
    unanswered_there: usize,
    unanswered_gone: usize,
    differs: usize,
    writer: Option<ErrorKind>,
    consumer: Option<ErrorKind>,
    consumer_is_beyond: bool,
}

impl Found {
    async fn look(store: &Arc<dyn EventStore>, again: &Arc<dyn EventStore>, written: Written) -> Self {
        let lost = missing(again, &written.acknowledged).await;
        let gone = missing(again, &written.unanswered).await;
        let (fed, kept) = (feed(again).await, streams(again).await);
        let end = again.feed_head(deadline()).await.unwrap().cursor.position().unwrap();
        let read = written.read.unwrap();
        let filter = FeedFilter::none();
        let request = ReadFeed {
            from: FeedStart::After(read.clone()),
            filter,
            limit: 1,
            max_bytes: 1 << 20,
            deadline: deadline(),
        };
        Self {
            engine: again.capabilities().engine.clone(),
            durability: again.capabilities().durability,
            acknowledged: written.acknowledged.len(),
            lost,
            unanswered_there: written.unanswered.len() - gone,
            unanswered_gone: gone,
            differs: fed.symmetric_difference(&kept).count(),
            writer: writer(store).await,
            consumer: again.read_feed(request).await.err().map(|error| error.kind()),
            consumer_is_beyond: read.position().unwrap() > end,
        }
    }

    fn print(&self, setup: &str, fault: &str, seed: u64) -> bool {
        let told = |kind: Option<ErrorKind>| kind.map_or_else(|| "no".to_owned(), |kind| format!("{kind:?}"));
        let Self { engine, acknowledged, lost, unanswered_there, unanswered_gone, .. } = self;
        println!(
            "| {engine} | {setup} | {fault} | {seed} | {acknowledged} | {lost} | {unanswered_there}, {unanswered_gone} | {} | {} |",
            told(self.writer),
            told(self.consumer)
        );
        let mut wrong = Vec::new();
        if self.differs > 0 {
            wrong.push("feed and streams differ");
        }
        if *lost > 0 && self.writer != Some(ErrorKind::HistoryLost) {
            wrong.push("the handle that wrote carries on over a loss");
        }
        if self.consumer_is_beyond
            && self.consumer != Some(ErrorKind::HistoryLost)
            && self.consumer != Some(ErrorKind::CursorRefused)
        {
            wrong.push("a consumer carries on over a loss");
        }
        let kept = match fault {
            "kill" => self.durability >= Durability::ProcessCrash,
            "power-cut" => self.durability >= Durability::PowerLoss,
            _ => false,
        };
        if *lost > 0 && kept {
            wrong.push("more was lost than is declared");
        }
        wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
        wrong.is_empty()
    }
}

/// What the handle that wrote says, once it has found the server again: the first write over a connection that died has no answer.
async fn writer(store: &Arc<dyn EventStore>) -> Option<ErrorKind> {
    let (mut last, mut unanswered) = (None, 0);
    for _ in 0..100 {
        last = append(store, "after", CommitId::generate()).await.err().map(|error| error.kind());
        match last {
            Some(ErrorKind::Indeterminate) if unanswered < 3 => unanswered += 1,
            Some(ErrorKind::Unavailable) => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => break,
        }
    }
    last
}

async fn missing(store: &Arc<dyn EventStore>, commits: &[(String, CommitId)]) -> usize {
    let looks = commits.chunks(commits.len().div_ceil(CALLERS).max(1)).map(|part| {
        let (store, part) = (store.clone(), part.to_vec());
        tokio::spawn(async move {
            let mut missing = 0;
            for (name, commit) in part {
                missing += usize::from(!is_there(&store, &name, commit).await);
            }
            missing
        })
    });
    let mut all = 0;
    for look in looks.collect::<Vec<_>>() {
        all += look.await.unwrap();
    }
    all
}

async fn feed(store: &Arc<dyn EventStore>) -> HashSet<CommitId> {
    let (mut found, mut from) = (HashSet::new(), FeedStart::First);
    loop {
        let request =
            ReadFeed { from, filter: FeedFilter::none(), limit: 5_000, max_bytes: 64 << 20, deadline: deadline() };
        let page = store.read_feed(request).await.unwrap();
        found.extend(page.commits().map(|commit| commit.id));
        if page.end {
            return found;
        }
        from = FeedStart::After(page.next);
    }
}

async fn streams(store: &Arc<dyn EventStore>) -> HashSet<CommitId> {
    let mut found = HashSet::new();
    for caller in 0..CALLERS {
        let mut next = Some(StreamStart::First);
        while let Some(from) = next {
            let (stream, direction) = (stream(&format!("caller-{caller}")), Direction::Forward);
            let request =
                ReadStream { stream, from, direction, limit: 5_000, max_bytes: 64 << 20, deadline: deadline() };
            let page = store.read_stream(request).await.unwrap();
            found.extend(page.events().map(|event| event.commit.id));
            next = page.next.map(StreamStart::At);
        }
    }
    found
}

/// A file system in a file, whose power can be cut.
struct Disk {
    _own: TempDir,
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        let (image, folder) = (own.path().join("image"), own.path().join("disk"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let disk = Self { _own: own, image, folder };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.folder));
    }

    fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(&self.folder));
    }

    /// FS_IOC_SHUTDOWN without flushing the journal: what was not synced is gone.
    fn cut(&self) {
        const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.folder));
    }

    fn back(&self) {
        run(Command::new("umount").arg(&self.folder));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.folder);
    }
}

fn unmount(folder: &Path) {
    let _gone = Command::new("umount").arg(folder).status();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed, and takes root: {}", String::from_utf8_lossy(&output.stderr));
}
