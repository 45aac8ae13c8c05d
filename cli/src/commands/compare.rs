//! `evstore compare`: the same workloads against several stores, on scratch stores beside them, in turns.

use crate::commands::conformance;
use crate::failure::{Failure, Result};
use crate::files::NewFile;
use crate::output::{Cell, Format, Tone};
use crate::progress::{Progress as Bar, Unit};
use crate::session::Session;
use evstore::Configured;
use evstore_api::{Clock as _, Provider, Settings, StoreName, SystemClock};
use evstore_compare::against::{self, Changes, Verdict};
use evstore_compare::contender::{Contender, Part};
use evstore_compare::figures::{grouped, rate, share, time};
use evstore_compare::log::Log;
use evstore_compare::losses::{self, Fault, How, Loss};
use evstore_compare::prices::Prices;
use evstore_compare::report::{Circumstances, Conformance, Machine, Report, Row};
use evstore_compare::run::{Results, Run};
use evstore_compare::workload::Plan;
use evstore_compare::{html, noop};
use evstore_conformance::target::WorkerCommand;
use evstore_conformance::{Runner, Verdict as Found};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The log that workloads name `permits`; its citation is beside it, in `data/README.md`.
const PERMITS: &[u8] = include_bytes!("../../data/permits.jsonl.gz");
/// The hidden command of a process that is to be killed.
const WORKER: &str = "compare-worker";
/// The providers that are measured where there is no config: they need nothing.
const EMBEDDED: [&str; 2] = ["memory", "sqlite"];
/// Largest file that is read whole, unpacked.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// The files of a report.
const JSON: &str = "report.json";
const HTML: &str = "report.html";

/// What `compare` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Measure stores side by side: the same workloads against each, in turns, each on scratch stores beside it (same \
                  server, same credentials, dropped at the end). The stores themselves are not touched.\n\nWithout a config file \
                  the embedded stores are compared, in under two minutes. Prints a table, and writes report.json and \
                  report.html (one page, no network) into a new folder. Ctrl-C writes what was measured until then. Exits with 4 \
                  when something acknowledged was lost, doubled or out of an order that the store promises.",
    after_help = "Examples:\n  evstore compare\n  evstore compare main next --out today\n  \
                  evstore compare --only append --only load --against today/report.json\n  \
                  evstore compare --print-workload > mine.toml; evstore compare --workload mine.toml\n  \
                  evstore compare --failover main='redis-cli -p 26379 sentinel failover mymaster'\n  \
                  evstore compare --conformance concurrency. -o json"
)]
pub struct Args {
    /// The stores; else every store of the config file, or the embedded ones where there is none.
    #[arg(value_name = "STORE", value_parser = crate::args::store_name)]
    stores: Vec<StoreName>,
    /// Workloads from a file instead of the standard ones.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Only workloads whose names begin so; may be given several times.
    #[arg(long, value_name = "PREFIX")]
    only: Vec<String>,
    /// Where report.json and report.html go; else a new folder below evstore-compare, named by the time.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show what changed since an older report.json.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Rounds of each cell, instead of what the workload file says.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Hold each store to the catalog too, and put the verdicts in the report: all checks, or those whose names begin so.
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "")]
    conformance: Option<String>,
    /// Leave out the bare clients of the engines, which each store is also shown as a ratio to.
    #[arg(long)]
    no_floor: bool,
    /// Leave out killing a process that appends, which tells what of its acknowledged commits is gone.
    #[arg(long)]
    no_kill: bool,
    /// Provoke a failover of a store by a command, while a process appends to a scratch store beside it, and look for what that was
    /// acknowledged. `sh` runs the command, which returns when the failover has begun. For servers that serve nobody else.
    #[arg(long, value_name = "STORE=COMMAND", value_parser = failover)]
    failover: Vec<(StoreName, String)>,
    /// Repeat the payloads and choices of an earlier run.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Prices from a file instead of those that ship with the command.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Print the standard workloads, to be changed, and measure nothing.
    #[arg(long)]
    print_workload: bool,
}

/// Compares stores.
///
/// # Errors
/// Wrong use for a workload file, a report or a folder that can't be used, before anything is measured. Broken when a store was seen to
/// break a promise.
pub async fn run(args: Args, session: &mut Session) -> Result {
    if args.print_workload {
        let json = serde_json::to_value(Plan::standard()).unwrap_or_default();
        return session.output().text(&json, evstore_compare::workload::STANDARD);
    }
    let plan = plan(&args)?;
    let logs = logs(&plan, args.workload.as_deref())?;
    let prices = prices(args.prices.as_deref())?;
    let before = args.against.as_deref().map(read_report).transpose()?;
    let mut contenders = contenders(&args.stores, session)?;
    if let Some((name, _)) = args.failover.iter().find(|(name, _)| contenders.iter().all(|c| c.name != name.as_str())) {
        return Err(Failure::usage(format!("--failover names {name}, which is not compared"), "name the store, too"));
    }
    let began_at = SystemClock.now();
    let folder = Folder::choose(args.out.as_deref(), &began_at, session)?;
    let targets = contenders.clone();
    if !args.no_floor {
        contenders = with_floors(contenders, session);
    }
    contenders.extend(noop::contenders());
    let seed = args.seed.unwrap_or_else(conformance::fresh_seed);
    let ending = Ending {
        results: Results::default(),
        plan: plan.clone(),
        began: Instant::now(),
        began_at: crate::moment::show(began_at),
        seed,
        prices,
        conformance: Arc::default(),
        losses: Arc::default(),
        before,
        folder,
    };
    if cfg!(debug_assertions) {
        session.output().note("this command was built without optimisation: its figures say nothing about a store");
    }
    let kept = ending.clone();
    session.when_interrupted(Box::new(move |output| kept.tell(output).map(drop)));
    measure(Run { plan, contenders, logs, seed }, &ending.results, session).await?;
    let mut unprovoked = Vec::new();
    let mut keep = |store: &str, fault: Fault, found: evstore_api::Result<Loss>| {
        let loss = found.unwrap_or_else(|error| {
            unprovoked.push(format!("{} of {store}: {error}", fault.name()));
            Loss::unprovoked(store, fault, How::NotMeasured, format!("not measured: {error}"))
        });
        ending.losses.lock().unwrap_or_else(PoisonError::into_inner).push(loss);
    };
    if !args.no_kill {
        for target in &targets {
            session.output().note(&format!("a process that appends to {} is killed", target.name));
            keep(&target.name, Fault::Node, losses::killed(target, &worker()?, seed).await);
        }
    }
    for (name, command) in &args.failover {
        for target in targets.iter().filter(|target| target.name == name.as_str()) {
            session.output().note(&format!("a failover of {name} is provoked"));
            keep(&target.name, Fault::Failover, losses::failed_over(target, command, &worker()?, seed).await);
        }
    }
    if let Some(prefix) = &args.conformance {
        for target in targets {
            let verdicts = hold(&target, prefix, seed, session).await?;
            ending.verdicts().insert(target.name, verdicts);
        }
    }
    judge(&ending.tell(session.output())?)?;
    match unprovoked.first() {
        // What was measured besides is in the report.
        Some(first) => Err(Failure::io("an accident could not be provoked", std::io::Error::other(first.clone()))),
        None => Ok(()),
    }
}

/// `STORE=COMMAND`.
fn failover(text: &str) -> std::result::Result<(StoreName, String), String> {
    let (store, command) = text.split_once('=').ok_or("a store's name, =, and the command that provokes it")?;
    if command.trim().is_empty() {
        return Err(format!("no command stands behind {store}="));
    }
    Ok((crate::args::store_name(store).map_err(|error| error.to_string())?, command.to_owned()))
}

/// The workloads, as they are wanted.
fn plan(args: &Args) -> Result<Plan> {
    let plan = match &args.workload {
        None => Plan::standard(),
        Some(path) => Plan::parse(&text(path)?, &path.display().to_string())?,
    };
    let mut plan = plan.only(&args.only)?;
    plan.rounds = args.rounds.unwrap_or(plan.rounds);
    Ok(plan)
}

/// The prices of a file, or those that ship with the command.
///
/// # Errors
/// `Invalid` for a file that is none.
pub fn prices(file: Option<&Path>) -> Result<Prices> {
    match file {
        None => Ok(Prices::list()),
        Some(path) => Ok(Prices::parse(&text(path)?, &path.display().to_string())?),
    }
}

/// The logs that workloads name: the one that ships with the command, or files beside the workload file.
fn logs(plan: &Plan, file: Option<&Path>) -> Result<HashMap<String, Arc<Log>>> {
    let mut logs = HashMap::new();
    for name in plan.workloads.iter().filter_map(|workload| workload.log.as_ref()) {
        let text = match name.as_str() {
            "permits" => unpack(PERMITS, "permits")?,
            name => text(&file.and_then(Path::parent).unwrap_or(Path::new("")).join(name))?,
        };
        logs.insert(name.clone(), Arc::new(Log::parse(&text, name)?));
    }
    Ok(logs)
}

/// A file as text, unpacked where its name says that it is packed.
///
/// # Errors
/// When it can't be read, or is too large.
pub fn text(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|cause| Failure::io(format!("{name} can't be opened"), cause))?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz")) {
        return unpack(file, &name);
    }
    read(file, &name)
}

fn unpack(packed: impl std::io::Read, name: &str) -> Result<String> {
    read(flate2::read::MultiGzDecoder::new(packed), name)
}

fn read(reader: impl std::io::Read, name: &str) -> Result<String> {
    let mut text = String::new();
    let failed = |cause| Failure::io(format!("{name} can't be read"), cause);
    reader.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{name} is too large"), format!("at most {FILE_BYTES_MAX} bytes are read")));
    }
    Ok(text)
}

fn read_report(path: &Path) -> Result<Report> {
    Ok(Report::parse(&text(path)?, &path.display().to_string())?)
}

/// The stores that are named, else all of the config, else the embedded ones.
fn contenders(named: &[StoreName], session: &mut Session) -> Result<Vec<Contender>> {
    let config = session.config()?.clone();
    let names = match (named, config.file()) {
        ([], Some(_)) => match session.globals().store {
            Some(_) => vec![session.store_name()?],
            None => config.stores().cloned().collect(),
        },
        ([], None) => return embedded(session),
        (named, _) => named.to_vec(),
    };
    let mut contenders: Vec<Contender> = Vec::new();
    for name in names {
        if name.as_str() == noop::NAME {
            return Err(Failure::usage(
                "harness is the name of the rows that show what the measuring costs",
                "give the store another name in the config file",
            ));
        }
        if contenders.iter().any(|known| known.name == name.as_str()) {
            continue;
        }
        session.select(Some(name));
        let Configured { provider, settings, .. } = session.configured()?;
        contenders.push(contender(&provider, settings, session));
    }
    Ok(contenders)
}

/// Each store with the bare client of its engine behind it, where there is one.
fn with_floors(contenders: Vec<Contender>, session: &Session) -> Vec<Contender> {
    let beside = |store: Contender| {
        let floor = session.registry().floor(store.provider.name).map(|floor| noop::floor(&store, floor));
        std::iter::once(store).chain(floor)
    };
    contenders.into_iter().flat_map(beside).collect()
}

/// The command whose process appends until it is killed.
fn worker() -> Result<WorkerCommand> {
    let program = std::env::current_exe().map_err(|cause| Failure::io("this program is not found", cause))?;
    Ok(WorkerCommand { program, arguments: vec![WORKER.into()] })
}

/// What a process does that is to be killed.
///
/// # Errors
/// As the store's.
pub async fn work(session: &Session) -> Result {
    Ok(losses::append_until_killed(&session.providers()).await?)
}

/// The stores that need no server, in a place of their own.
fn embedded(session: &mut Session) -> Result<Vec<Contender>> {
    let folder = session.temporary_folder()?;
    let mut contenders = Vec::new();
    for provider in session.providers().iter().filter(|provider| EMBEDDED.contains(&provider.name)) {
        let has_path = provider.keys.iter().any(|key| key.name == "path");
        let path = folder.join(provider.name).display().to_string();
        let given = has_path.then(|| ("path".to_owned(), path));
        let settings = Settings::new(StoreName::new(provider.name)?, provider.keys, given)?;
        contenders.push(contender(provider, settings, session));
    }
    if contenders.is_empty() {
        return Err(Failure::usage("this build has no store that needs no server", "name stores of a config file"));
    }
    Ok(contenders)
}

fn contender(provider: &Provider, settings: Settings, session: &Session) -> Contender {
    let (name, provider) = (settings.store().to_string(), session.watch_scratch(provider));
    Contender { name, provider, settings, part: Part::Store }
}

/// Measures, with a progress bar.
async fn measure(run: Run, results: &Results, session: &mut Session) -> Result {
    let bar = Bar::new(session.output(), "measuring", Unit::Items("rounds"), Some(run.total()));
    run.run(results, |progress| {
        bar.at(progress.done);
        bar.on(&progress.on);
    })
    .await?;
    bar.end();
    Ok(())
}

/// Holds a store to the catalog.
async fn hold(contender: &Contender, prefix: &str, seed: u64, session: &mut Session) -> Result<Conformance> {
    let target = conformance::target(contender.provider.clone(), contender.settings.clone());
    let mut runner = Runner::new(target, seed);
    runner.only = Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()).into_iter().collect();
    if runner.checks().next().is_none() {
        let message = format!("no check begins with {prefix}");
        return Err(Failure::usage(message, "evstore conformance --list shows their names"));
    }
    let report = conformance::run_shown(&runner, session).await?;
    let mut verdicts = BTreeMap::new();
    for finding in &report.findings {
        *verdicts.entry(finding.verdict.name().to_owned()).or_default() += 1;
    }
    let broken = report.broken().filter_map(|finding| match &finding.verdict {
        Found::Broken(broken) => Some((finding.check.name.to_owned(), broken.message.clone())),
        _ => None,
    });
    Ok(Conformance { only: runner.only.clone(), verdicts, broken: broken.collect(), seed })
}

/// Where the report goes. Chosen and made before anything is measured: what was measured must not be lost to a folder.
#[derive(Clone, Debug)]
struct Folder(PathBuf);

impl Folder {
    fn choose(out: Option<&Path>, now: &evstore_api::Timestamp, session: &Session) -> Result<Self> {
        let folder = match out {
            Some(folder) => folder.to_owned(),
            None => {
                let moment = crate::moment::show(*now);
                let seconds: String = moment.chars().take(19).filter(|c| *c != ':').collect();
                Path::new("evstore-compare").join(seconds)
            }
        };
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Failure::io(format!("{} can't be made", folder.display()), cause))?;
        let chosen = Self(folder);
        if chosen.json().exists() || chosen.html().exists() {
            session.confirm(&format!("Replace the report in {}?", chosen.0.display()))?;
        }
        Ok(chosen)
    }

    fn json(&self) -> PathBuf {
        self.0.join(JSON)
    }

    fn html(&self) -> PathBuf {
        self.0.join(HTML)
    }

    fn write(&self, report: &Report, changes: Option<&Changes>) -> Result {
        let document = serde_json::to_string_pretty(report)
            .map_err(|cause| Failure::io("the report can't be written", std::io::Error::other(cause)))?;
        for (path, text) in [(self.json(), format!("{document}\n")), (self.html(), html::page(report, changes)?)] {
            let mut file = NewFile::create(&path)?;
            file.write(text.as_bytes())?;
            file.finish()?;
        }
        Ok(())
    }
}

/// What is needed to tell what was found, at the end or when the run is interrupted.
#[derive(Clone)]
struct Ending {
    results: Results,
    plan: Plan,
    began: Instant,
    began_at: String,
    seed: u64,
    prices: Prices,
    conformance: Arc<Mutex<BTreeMap<String, Conformance>>>,
    losses: Arc<Mutex<Vec<Loss>>>,
    before: Option<Report>,
    folder: Folder,
}

impl Ending {
    fn verdicts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Conformance>> {
        self.conformance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the report, and prints it.
    fn tell(&self, output: &mut crate::output::Output) -> Result<Report> {
        let circumstances = Circumstances {
            began_at: self.began_at.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
            machine: Machine::here(env!("CARGO_PKG_VERSION")),
            plan: self.plan.clone(),
            seed: self.seed,
            prices: self.prices.clone(),
            conformance: self.verdicts().clone(),
            losses: self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let report = Report::new(self.results.found(), circumstances, crate::commands::providers::promises);
        let changes = self.before.as_ref().map(|before| against::changes(before, &report));
        self.folder.write(&report, changes.as_ref())?;
        print(&report, changes.as_ref(), output)?;
        output.note(&format!("{} and {HTML} are in {}", JSON, self.folder.0.display()));
        Ok(report)
    }
}

fn print(report: &Report, changes: Option<&Changes>, output: &mut crate::output::Output) -> Result {
    match output.format() {
        Format::Json => {
            let mut document = json!(report);
            if let Some(changes) = changes {
                document["changes"] = json!(changes);
            }
            return output.text(&document, "");
        }
        Format::Jsonl => {
            for row in &report.rows {
                output.text(&json!(row), "")?;
            }
            return Ok(());
        }
        Format::Table => {}
    }
    let columns = [
        "workload",
        "callers",
        "store",
        "a second",
        "lowest to highest",
        "of its floor",
        "half within",
        "99 % within",
        "longest",
        "beside",
    ];
    let mut list = output.list("rows", serde_json::Map::new(), &columns);
    for row in &report.rows {
        list.item("", || cells(row))?;
    }
    list.end(serde_json::Map::new(), "nothing was measured")?;
    answers(report, output)?;
    if let Some(changes) = changes {
        print_changes(changes, output)?;
    }
    Ok(())
}

fn cells(row: &Row) -> Vec<Cell> {
    let tone = if row.is_of_store() { Tone::Plain } else { Tone::Faint };
    let mut cells: Vec<Cell> =
        [row.workload.clone(), row.callers.to_string(), row.store.clone()].map(|text| Cell::toned(text, tone)).into();
    if row.is_measured() {
        let spread = format!("{} to {}", rate(row.per_second.low), rate(row.per_second.high));
        let figures = [
            rate(row.per_second.median),
            spread,
            row.of_floor.map_or_else(|| "-".into(), |ratio| format!("{:.2}", ratio.median)),
            time(row.latency.p50_us),
            time(row.latency.p99_us),
            time(row.latency.max_us),
        ];
        cells.extend(figures.map(|text| Cell::toned(text, tone)));
    } else {
        cells.push(Cell::toned("not measured", Tone::Warning));
        cells.extend(std::iter::repeat_n(Cell::from("-"), 5));
    }
    cells.push(beside(row));
    cells
}

/// What else there is to say about a row.
fn beside(row: &Row) -> Cell {
    if let Some(failed) = &row.failed {
        return Cell::toned(failed, Tone::Bad);
    }
    let broken = row.checked.as_ref().map_or(&[][..], |checked| &checked.broken);
    if !broken.is_empty() {
        return Cell::toned(broken.join("; "), Tone::Bad);
    }
    let errors: u64 = row.errors.values().sum();
    let mut said = Vec::new();
    if errors > 0 {
        said.push(if errors == 1 { "1 error".into() } else { format!("{} errors", grouped(errors)) });
    }
    if row.conflicts > 0 {
        said.push(if row.conflicts == 1 {
            "1 conflict".into()
        } else {
            format!("{} conflicts", grouped(row.conflicts))
        });
    }
    if let Some(within) = row.within {
        said.push(format!("{} in time", share(within)));
    }
    if let Some(checked) = &row.checked {
        let (lag, count) = (time(checked.feed_lag.p99_us), grouped(checked.acknowledged));
        said.push(format!("in the feed 99 % within {lag}; all {count} are there, once and in order"));
    }
    if let Some(stale) = row.stale {
        said.push(format!("{} of {} reads stale", grouped(stale.stale), grouped(stale.reads)));
    }
    Cell::toned(said.join("; "), if errors > 0 { Tone::Warning } else { Tone::Faint })
}

/// What people ask, as far as it was measured; the page has what was not.
fn answers(report: &Report, output: &mut crate::output::Output) -> Result {
    for answer in report.answers.iter().filter(|answer| answer.not_measured.is_none()) {
        output.line(&format!("\n{}", answer.question))?;
        for line in &answer.lines {
            output.line(&format!("  {}", line.text))?;
        }
    }
    if let Some(harness) = &report.harness {
        output.line(&format!(
            "\nThe measuring itself takes {} of the fastest row's time ({}).",
            share(harness.share),
            harness.row
        ))?;
    }
    output.flush()
}

fn print_changes(changes: &Changes, output: &mut crate::output::Output) -> Result {
    output.line(&format!("\nSince {}:", changes.before))?;
    for difference in &changes.differs {
        output.line(&format!("  {difference}"))?;
    }
    let columns = ["row", "", "a second before", "now", "99 % within before", "now"];
    let mut list = output.list("changes", serde_json::Map::new(), &columns);
    for change in &changes.rows {
        let tone = match change.verdict {
            Verdict::Better => Tone::Good,
            Verdict::Worse => Tone::Bad,
            Verdict::Same => Tone::Faint,
        };
        list.item("", || {
            vec![
                change.row.as_str().into(),
                Cell::toned(change.verdict.name(), tone),
                rate(change.before_per_second).into(),
                rate(change.now_per_second).into(),
                time(change.before_p99_us).into(),
                time(change.now_p99_us).into(),
            ]
        })?;
    }
    list.end(serde_json::Map::new(), "no row is in both reports")
}

fn judge(report: &Report) -> Result {
    let broken: Vec<String> = report.broken().map(|(row, what)| format!("{row}: {what}")).collect();
    if !broken.is_empty() {
        return Err(Failure::Broken {
            message: broken.join("; "),
            hint: "`evstore conformance --only concurrency.` shows the calls that break a promise".into(),
        });
    }
    match report.store_rows().find(|row| row.failed.is_some()) {
        Some(row) => Err(Failure::io(
            format!("{} could not be measured", row.id()),
            std::io::Error::other(row.failed.clone().unwrap_or_default()),
        )),
        None => Ok(()),
    }
}
