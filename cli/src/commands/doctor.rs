//! `evstore doctor`: what is wrong with the config, the stores and what is around them, each with its mending.

use crate::failure::{Failure, Result};
use crate::moment;
use crate::output::{Cell, Tone};
use crate::session::{self, Session};
use crate::view;
use evstore_api::capabilities::Durability;
use evstore_api::meta::Lineage;
use evstore_api::{
    Clock as _, Error, EventStore, FeedFilter, FeedStart, Incarnation, Meta, MetaSwapped, Position, Provider, ReadFeed,
    Settings, StoreAdmin, StoreName, StoreState, SwapMeta, SystemClock, Timestamp,
};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes that the latency of a disk is measured with.
const FSYNCS: usize = 20;
/// A sync to disk that takes longer makes every commit slow.
const FSYNC_SLOW: Duration = Duration::from_millis(20);
/// A sync that is faster than this did not reach a disk.
const FSYNC_FAST: Duration = Duration::from_micros(20);
/// No clock of a working machine is before this release: 2026-01-01.
const RELEASED: Timestamp = Timestamp(1_767_225_600_000_000);
/// How far the clock may be behind the last commit: several machines never agree exactly.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(2);

/// What `doctor` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Look for what is wrong with the config, the stores and what is around them; each finding comes with its \
                  mending. Nothing is changed, but that an embedded store is made when it is first opened. Exits with 1 \
                  when there is a problem; warnings are no failure.",
    after_help = "Examples:\n  evstore doctor\n  evstore doctor main next -o json\n  \
                  evstore doctor main --new-incarnation     after the store was restored from a backup"
)]
pub struct Args {
    /// The stores; else -s, else all of the config.
    #[arg(value_name = "STORE", value_parser = crate::args::store_name)]
    stores: Vec<StoreName>,
    /// Declare that the one named store was restored from a backup that may lack acknowledged commits: consumers that
    /// are ahead of it are then stopped instead of reading on.
    #[arg(long)]
    new_incarnation: bool,
    /// With --new-incarnation: say what would be done, and do not.
    #[arg(long, requires = "new_incarnation")]
    dry_run: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Fine,
    Warning,
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Fine => Tone::Good,
            Self::Warning => Tone::Warning,
            Self::Problem => Tone::Bad,
        }
    }
}

/// Something that was looked at.
#[derive(Debug)]
struct Finding {
    level: Level,
    store: Option<StoreName>,
    about: &'static str,
    found: String,
    mending: String,
}

/// Collects what was found about one store, or about the config.
#[derive(Default)]
struct Findings {
    all: Vec<Finding>,
    store: Option<StoreName>,
}

impl Findings {
    fn add(&mut self, level: Level, about: &'static str, found: impl Into<String>, mending: impl Into<String>) {
        let (found, mending) = (found.into(), mending.into());
        self.all.push(Finding { level, store: self.store.clone(), about, found, mending });
    }

    fn fine(&mut self, about: &'static str, found: impl Into<String>) {
        self.add(Level::Fine, about, found, "");
    }

    fn failed(&mut self, about: &'static str, error: &Error) {
        let mending = Failure::from(error_again(error)).text().unwrap_or_default();
        let mending = mending.split_once('\n').map_or(String::new(), |(_, hint)| hint.trim().to_owned());
        self.add(Level::Problem, about, error.to_string(), mending);
    }
}

/// What the hint of an error is taken from: its kind.
fn error_again(error: &Error) -> Error {
    Error::new(error.kind(), error.message())
}

/// Looks at everything.
///
/// # Errors
/// When there is a problem.
pub async fn run(args: Args, session: &mut Session) -> Result {
    if args.new_incarnation {
        let [store] = args.stores.as_slice() else {
            return Err(Failure::usage(
                "--new-incarnation is about one store",
                "name it: evstore doctor STORE --new-incarnation",
            ));
        };
        return new_incarnation(store, args.dry_run, session).await;
    }
    let mut findings = Findings::default();
    check_clock(&mut findings);
    let stores = check_config(&mut findings, &args.stores, session);
    for store in stores {
        findings.store = Some(store.clone());
        session.select(Some(store));
        check_store(&mut findings, session).await;
        session.close().await;
    }
    report(&findings.all, session)
}

fn check_clock(findings: &mut Findings) {
    let now = SystemClock.now();
    if now < RELEASED {
        let found = format!("it says {}, before this release was made", moment::show(now));
        findings.add(Level::Problem, "clock", found, "set the machine's clock (timedatectl set-ntp true)");
    } else {
        findings.fine("clock", moment::show(now));
    }
}

/// Looks at the config; gives the stores to look at.
fn check_config(findings: &mut Findings, wanted: &[StoreName], session: &mut Session) -> Vec<StoreName> {
    let config = match session.config() {
        Ok(config) => config.clone(),
        Err(failure) => {
            let found = failure.text().unwrap_or_default();
            findings.add(Level::Problem, "config", found, "mend the file; evstore init --dry-run prints a good one");
            return Vec::new();
        }
    };
    match config.file() {
        Some(file) => findings.fine("config", file.display().to_string()),
        None => findings.fine("config", "no file: the embedded default (evstore init writes one)"),
    }
    for warning in session.registry().warnings(&config) {
        findings.add(Level::Warning, "config", warning.to_string(), "");
    }
    match (wanted, &session.globals().store) {
        // The flag names the default of this run.
        ([], Some(_)) => match config.default_store() {
            Ok(store) => vec![store.clone()],
            Err(error) => {
                findings.add(Level::Problem, "config", error.to_string(), "name a store of the config with -s");
                Vec::new()
            }
        },
        ([], None) => config.stores().cloned().collect(),
        (wanted, _) => wanted.to_vec(),
    }
}

async fn check_store(findings: &mut Findings, session: &mut Session) {
    let (provider, settings) = match session.settings() {
        Ok(settings) => settings,
        Err(failure) => {
            let found = failure.text().unwrap_or_default();
            return findings.add(Level::Problem, "settings", found, "mend the store's table in the config file");
        }
    };
    match provider.opener.open(&settings).await {
        Ok(store) => {
            check_open_store(findings, &*store, &settings).await;
            // Everything that could be found out has been.
            let _ = store.close().await;
        }
        Err(error) => findings.failed("open", &error),
    }
    match provider.opener.open_admin(&settings).await {
        Ok(admin) => {
            check_admin(findings, &*admin, &settings).await;
            let _ = admin.close().await;
        }
        Err(error) => findings.failed("open as an operator", &error),
    }
    check_scratch(findings, &provider, &settings).await;
}

async fn check_open_store(findings: &mut Findings, store: &dyn EventStore, settings: &Settings) {
    let capabilities = store.capabilities();
    findings.fine("engine", &*capabilities.engine);
    match capabilities.durability {
        Durability::Memory => {
            findings.add(Level::Warning, "durability", "everything is gone with the process", "use it for tests only");
        }
        Durability::ProcessCrash => findings.add(
            Level::Warning,
            "durability",
            "an acknowledged commit survives a crash of the process, not of the machine",
            "make the engine sync before it answers",
        ),
        Durability::PowerLoss | Durability::ReplicaQuorum => {
            findings.fine("durability", format!("{:?}", capabilities.durability));
        }
    }
    if let (Durability::PowerLoss, Some(path)) = (capabilities.durability, settings.path("path")) {
        check_disk(findings, &path);
    }
    check_feed(findings, store).await;
}

async fn check_feed(findings: &mut Findings, store: &dyn EventStore) {
    let head = match store.feed_head(session::deadline()).await {
        Ok(head) => head,
        Err(error) => return findings.failed("feed", &error),
    };
    let end = head.position.map_or("it has no positions".into(), |end| format!("it ends at position {end}"));
    if head.lag.commits > 0 {
        let found = format!("{end}; {} commits are not in it yet, the oldest for {:?}", head.lag.commits, head.lag.age);
        findings.add(Level::Warning, "feed", found, "see that a sequencer runs");
    } else {
        findings.fine("feed", end);
    }
    if let Some(end) = head.position.filter(|end| end.0 > 0) {
        check_last_time(findings, store, end).await;
    }
}

/// A clock that is behind the store's last commit gives wrong times until it has caught up.
async fn check_last_time(findings: &mut Findings, store: &dyn EventStore, end: Position) {
    let request = ReadFeed {
        from: FeedStart::AfterPosition(Position(end.0 - 1)),
        filter: FeedFilter::none(),
        limit: 1,
        max_bytes: 1,
        deadline: session::deadline(),
    };
    let page = match store.read_feed(request).await {
        Ok(page) => page,
        Err(error) => return findings.failed("last commit", &error),
    };
    let Some(last) = page.commits().last() else { return };
    let now = SystemClock.now();
    let behind = u64::try_from(last.recorded_at.0.saturating_sub(now.0)).map(Duration::from_micros).unwrap_or_default();
    if behind > CLOCK_BEHIND_MAX {
        let found = format!("this machine's clock is {behind:?} behind the last commit");
        findings.add(Level::Warning, "clock", found, "set the clocks of all machines by one time server");
    } else {
        findings.fine("last commit", moment::show(last.recorded_at));
    }
}

/// Measures what a commit waits for.
fn check_disk(findings: &mut Findings, path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fsync_latency(folder) {
        Ok(median) if median > FSYNC_SLOW => {
            let found = format!("a sync takes {median:?} (median of {FSYNCS})");
            findings.add(
                Level::Warning,
                "disk",
                found,
                "put the file on a faster disk; concurrent appends share a sync",
            );
        }
        Ok(median) if median < FSYNC_FAST => {
            let found = format!("a sync takes {median:?} (median of {FSYNCS}): it does not reach a disk");
            findings.add(Level::Warning, "disk", found, "keep the file on a disk, not in memory");
        }
        Ok(median) => findings.fine("disk", format!("a sync takes {median:?} (median of {FSYNCS})")),
        Err(cause) => {
            let found = format!("{} can't be written: {cause}", folder.display());
            findings.add(Level::Problem, "disk", found, "give this user write access to the folder");
        }
    }
}

fn fsync_latency(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut took = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[FSYNCS / 2])
}

async fn check_admin(findings: &mut Findings, admin: &dyn StoreAdmin, settings: &Settings) {
    match admin.check_schema(session::deadline()).await {
        Ok(()) => findings.fine("schema", "current"),
        Err(error) => return findings.failed("schema", &error),
    }
    let meta = match admin.read_meta(session::deadline()).await {
        Ok(meta) => meta,
        Err(error) => return findings.failed("state", &error),
    };
    let state = format!("{}, epoch {}, incarnation {}", meta.state.name(), meta.epoch, meta.incarnation());
    match &meta.state {
        StoreState::Open => findings.fine("state", state),
        StoreState::Importing { from: None } => {
            let mending = format!("a restore was cut off: run evstore -s {} import FILE again", settings.store());
            findings.add(Level::Warning, "state", state, mending);
        }
        StoreState::Moved { to, .. } | StoreState::Retired { to } => {
            let mending = format!("its streams live in {to}: make that the default_store");
            findings.add(Level::Warning, "state", state, mending);
        }
        StoreState::Fenced { .. } | StoreState::Importing { .. } | StoreState::Leaving { .. } => {
            findings.add(Level::Warning, "state", state, "it takes part in a move: finish or abort that");
        }
    }
}

async fn check_scratch(findings: &mut Findings, provider: &Provider, settings: &Settings) {
    match provider.opener.list_scratch(settings).await {
        Ok(tags) if tags.is_empty() => findings.fine("scratch stores", "none left behind"),
        Ok(tags) => {
            let found = format!("left behind by conformance: {}", tags.join(" "));
            let mending = match settings.path("path") {
                Some(path) => format!("if none runs now, delete {}.scratch-*", path.display()),
                None => "if none runs now, drop them on the server".into(),
            };
            findings.add(Level::Warning, "scratch stores", found, mending);
        }
        Err(error) => findings.failed("scratch stores", &error),
    }
}

fn report(findings: &[Finding], session: &mut Session) -> Result {
    let columns = ["", "store", "about", "found", "what to do"];
    let mut list = session.output().list("findings", view::object([]), &columns)?;
    for finding in findings {
        let store = finding.store.as_ref().map(ToString::to_string);
        let json = json!({
            "level": finding.level.name(),
            "store": store,
            "about": finding.about,
            "found": finding.found,
            "mending": finding.mending,
        });
        list.item(&json.to_string(), || {
            vec![
                Cell::toned(finding.level.name(), finding.level.tone()),
                store.unwrap_or_default().into(),
                finding.about.into(),
                finding.found.as_str().into(),
                finding.mending.as_str().into(),
            ]
        })?;
    }
    list.end(view::object([]), "nothing to look at")?;
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    if problems == 0 { Ok(()) } else { Err(Failure::Problems { count: problems }) }
}

/// Begins a new history: what consumers read beyond its beginning was lost.
async fn new_incarnation(store: &StoreName, dry_run: bool, session: &mut Session) -> Result {
    session.select(Some(store.clone()));
    let events = session.open_store().await?;
    let admin = session.open_admin().await?;
    let head = events.feed_head(session.deadline()).await?;
    let Some(end) = head.position else {
        return Err(Failure::usage("this store's feed has no positions", "its cursors notice by themselves"));
    };
    let meta = admin.read_meta(session.deadline()).await?;
    let mut next: Meta = meta.clone();
    if let Some(last) = next.lineage.last_mut() {
        last.ended_at = Some(end);
    }
    let incarnation = Incarnation::generate();
    next.lineage.push(Lineage { incarnation, ended_at: None });
    let json = json!({ "store": store.as_str(), "kept_through": end.0, "incarnation": incarnation.to_string(), "dry_run": dry_run });
    let what = format!("a new history of {store} begins after position {end}");
    if dry_run {
        return session.output().facts(&json, &[("would declare", what.into())]);
    }
    session.confirm(&format!("Declare that {what}? Consumers beyond it will stop."))?;
    match admin.swap_meta(SwapMeta { expected: meta, new: next, deadline: session.deadline() }).await? {
        MetaSwapped::Done => session.output().facts(&Value::clone(&json), &[("declared", what.into())]),
        MetaSwapped::Differs(_) => Err(Error::new(
            evstore_api::ErrorKind::Conflict,
            "the store's record changed meanwhile; look again and repeat",
        )
        .into()),
    }
}
