//! `evstore doctor`: what is wrong with the config, the stores and what is around them, each with its mending.

use crate::failure::{Failure, Result};
use crate::moment;
use crate::output::{Cell, Tone};
use crate::session::{self, Session};
use crate::view;
use evstore::Configured;
use evstore_api::capabilities::{Durability, Failover, Positioned};
use evstore_api::meta::Lineage;
use evstore_api::{
    Capabilities, Clock as _, Error, ErrorKind, EventStore, FeedFilter, FeedStart, Incarnation, Meta, MetaSwapped,
    Position, Provider, ReadFeed, Settings, Severity, StoreAdmin, StoreName, StoreState, SwapMeta, SystemClock,
    Timestamp,
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// No clock of a working machine is before this release: 2026-01-01.
const RELEASED: Timestamp = Timestamp(1_767_225_600_000_000);
/// How far the clock may be behind the last commit: several machines never agree exactly.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(2);

/// What `doctor` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Look for what is wrong with the config, the stores and what is around them; each finding comes with its \
                  mending. Nothing is made or changed. Exits with 1 when there is a problem; warnings are no failure.",
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
    /// The same in numbers, for programs.
    facts: Map<String, Value>,
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
        self.all.push(Finding { level, store: self.store.clone(), about, found, mending, facts: Map::new() });
    }

    /// Adds to the last finding what it says in numbers.
    fn tell(&mut self, facts: Map<String, Value>) {
        if let Some(last) = self.all.last_mut() {
            last.facts = facts;
        }
    }

    /// What the provider found.
    fn take(&mut self, found: evstore_api::Finding) {
        let level = match found.severity {
            Severity::Fine => Level::Fine,
            Severity::Warning => Level::Warning,
            Severity::Problem => Level::Problem,
        };
        self.add(level, found.about, found.found, found.mending);
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
    let configured = match session.configured() {
        Ok(configured) => configured,
        Err(failure) => {
            let found = failure.text().unwrap_or_default();
            return findings.add(Level::Problem, "settings", found, "mend the store's table in the config file");
        }
    };
    let existing = match configured.existing() {
        Ok(existing) => existing,
        Err(error) => return findings.failed("settings", &error),
    };
    let is_made = match existing.open_admin().await {
        Ok(admin) => {
            let is_made = check_admin(findings, &*admin, &configured).await;
            // Everything that could be found out has been.
            let _ = admin.close().await;
            is_made
        }
        // A server that can't be reached is one problem, not one for each thing that could be asked of it.
        Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Throttled) => {
            return findings.failed("open", &error);
        }
        Err(error) => {
            findings.failed("open as an operator", &error);
            // What an application may open, an operator's credentials need not.
            true
        }
    };
    if is_made {
        match existing.provider.opener.open(&existing.settings).await {
            Ok(store) => {
                check_open_store(findings, &*store).await;
                let _ = store.close().await;
            }
            Err(error) => findings.failed("open", &error),
        }
    }
    check_scratch(findings, &existing.provider, &existing.settings).await;
}

async fn check_open_store(findings: &mut Findings, store: &dyn EventStore) {
    let capabilities = store.capabilities();
    findings.fine("engine", &*capabilities.engine);
    match capabilities.durability {
        Durability::Memory => findings.add(
            Level::Warning,
            "durability",
            "everything is gone with the process that holds it",
            "use it for tests only, or let the server write to its disk before it answers",
        ),
        Durability::ProcessCrash => findings.add(
            Level::Warning,
            "durability",
            "an acknowledged commit survives a crash of the process, not of the machine",
            "let the engine sync before it answers",
        ),
        Durability::PowerLoss | Durability::ReplicaQuorum => {
            findings.fine("durability", promised(capabilities, "durability"));
        }
    }
    match capabilities.failover {
        Failover::MayLoseAcknowledged => findings.add(
            Level::Warning,
            "failover",
            "a failover to another machine may take acknowledged commits away; it is noticed, and a new history begins",
            "wait for replicas before an answer (docs/PROVIDERS.md), or take an export often enough",
        ),
        Failover::None | Failover::KeepsAcknowledged => {
            findings.fine("failover", promised(capabilities, "failover"));
        }
    }
    check_feed(findings, store).await;
}

/// A promise in the words of `evstore providers`.
fn promised(capabilities: &Capabilities, wanted: &str) -> String {
    let promises = super::providers::promises(capabilities);
    promises.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value).unwrap_or_default()
}

async fn check_feed(findings: &mut Findings, store: &dyn EventStore) {
    let head = match store.feed_head(session::deadline()).await {
        Ok(head) => head,
        Err(error) => return findings.failed("feed", &error),
    };
    let end = head.position.map_or("it has no positions".into(), |end| format!("it ends at position {end}"));
    let facts = view::object([
        ("position", head.position.map(|position| position.0).into()),
        ("lag_commits", head.lag.commits.into()),
        ("lag_ms", u64::try_from(head.lag.age.as_millis()).unwrap_or(u64::MAX).into()),
    ]);
    let found = match (head.lag.commits, store.capabilities().positioned) {
        (0, Positioned::BySequencer { .. }) => format!("{end}, and everything that was appended is in it"),
        (0, Positioned::ByAppend | Positioned::Never { .. }) => end,
        (commits, _) => {
            let age = head.lag.age;
            format!("{end}; of {commits} commits that were appended it has nothing yet, the oldest waits for {age:?}")
        }
    };
    let bearable = match store.capabilities().positioned {
        Positioned::BySequencer { within } => within,
        Positioned::Never { settling } => settling,
        Positioned::ByAppend => Duration::ZERO,
    };
    if head.lag.commits > 0 && head.lag.age > bearable {
        let mending = "see that a process runs which has the store open: it numbers what was appended; a finding about the \
                       sequencer tells what holds it up";
        findings.add(Level::Warning, "feed", found, mending);
    } else {
        findings.fine("feed", found);
    }
    findings.tell(facts);
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

/// Looks at the administrative side; says whether there is a store to open.
async fn check_admin(findings: &mut Findings, admin: &dyn StoreAdmin, configured: &Configured) -> bool {
    match admin.examine(session::deadline()).await {
        Ok(found) => found.into_iter().for_each(|one| findings.take(one)),
        Err(error) => findings.failed("engine", &error),
    }
    match admin.check_schema(session::deadline()).await {
        Ok(()) => findings.fine("schema", "current"),
        Err(error) if error.kind() == ErrorKind::Schema && will_be_made(admin, configured).await => {
            findings.fine("schema", "there is no store yet: the first append makes it (auto_create)");
            return false;
        }
        Err(error) => {
            findings.failed("schema", &error);
            return error.kind() != ErrorKind::Schema;
        }
    }
    check_state(findings, admin, &configured.settings).await;
    true
}

/// Whether a store is not there and its config says that the first use makes it.
async fn will_be_made(admin: &dyn StoreAdmin, configured: &Configured) -> bool {
    let plan = admin.plan_schema(session::deadline()).await;
    session::is_made_when_opened(configured) && plan.is_ok_and(|plan| !plan.changes.is_empty())
}

async fn check_state(findings: &mut Findings, admin: &dyn StoreAdmin, settings: &Settings) {
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
            let mending =
                format!("if no conformance runs now, evstore conformance {} --clean removes them", settings.store());
            findings.add(Level::Warning, "scratch stores", found, mending);
        }
        Err(error) => findings.failed("scratch stores", &error),
    }
}

fn report(findings: &[Finding], session: &mut Session) -> Result {
    let columns = ["", "store", "about", "found", "what to do"];
    let mut list = session.output().list("findings", view::object([]), &columns);
    for finding in findings {
        let store = finding.store.as_ref().map(ToString::to_string);
        let mut json = json!({
            "level": finding.level.name(),
            "store": store,
            "about": finding.about,
            "found": finding.found,
            "mending": finding.mending,
        });
        if !finding.facts.is_empty() {
            json["facts"] = finding.facts.clone().into();
        }
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
        MetaSwapped::Differs(_) => {
            Err(Error::new(ErrorKind::Conflict, "the store's record changed meanwhile; look again and repeat").into())
        }
    }
}
