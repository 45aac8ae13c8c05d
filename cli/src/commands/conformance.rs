//! `evstore conformance`: holds stores to the catalog, on scratch stores beside them.

use crate::failure::{Failure, Result};
use crate::output::{Cell, Format, Tone};
use crate::progress::{Progress as Bar, Unit};
use crate::session::Session;
use crate::view;
use evstore::Configured;
use evstore_api::provider::parse_duration;
use evstore_api::{Error, ErrorKind, Provider, Settings, StoreName};
use evstore_conformance::mutants::{self, Mutant};
use evstore_conformance::runner::Progress;
use evstore_conformance::target::WorkerCommand;
use evstore_conformance::{Check, Place, Report, Runner, Target, Verdict, catalog, in_place};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The argument with which a check starts this program again.
const WORKER: &str = "conformance-worker";

/// What `conformance` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Hold stores to the catalog of promises, each on a scratch store beside it: same server, same \
                  credentials, a place of its own, dropped at the end. The store itself is not touched.\n\nVerdicts: held; \
                  BROKEN, with what shows it and how to see it again; refused (not promised, and the store said so when it \
                  was asked); not applicable (the promise says nothing of such a store, and nothing was asked); not run. Exits \
                  with 4 when a promise is broken.",
    after_help = "Examples:\n  evstore conformance\n  evstore conformance main next --budget 5m\n  \
                  evstore conformance --only feed. --report feed.xml\n  evstore conformance --list -o jsonl\n  \
                  evstore conformance --clean --dry-run"
)]
pub struct Args {
    /// The stores; else -s, else the default.
    #[arg(value_name = "STORE", value_parser = crate::args::store_name)]
    stores: Vec<StoreName>,
    /// Only checks whose names begin so; may be given several times.
    #[arg(long, value_name = "PREFIX")]
    only: Vec<String>,
    /// Stop beginning checks after this time: 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    budget: Option<Duration>,
    /// Repeat the random choices of an earlier run.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Rounds of the checks that repeat themselves, in percent of an ordinary run's.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    effort: u64,
    /// Run only what reads, on the store itself.
    #[arg(long)]
    in_place: bool,
    /// Fail also when a check was not run.
    #[arg(long)]
    strict: bool,
    /// List the checks, and run none.
    #[arg(long)]
    list: bool,
    /// Remove the scratch stores that runs left behind beside the stores, and run nothing. A run that is going on loses its
    /// own.
    #[arg(long, conflicts_with_all = ["only", "budget", "seed", "in_place", "strict", "list", "mutant", "report"])]
    clean: bool,
    /// With --clean: say what would be removed, and do not.
    #[arg(long, requires = "clean")]
    dry_run: bool,
    /// Hold the store with this known defect instead, to see the catalog notice; a wrong name lists them.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Write a report too: JSON, or JUnit XML, by the name.
    #[arg(long, value_name = "FILE.json|FILE.xml")]
    report: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<Duration, Error> {
    parse_duration(text).ok_or_else(|| Error::new(ErrorKind::Invalid, "not a time").with("such as", "30s, 5m, 1h"))
}

/// Runs the catalog.
///
/// # Errors
/// Broken when a promise is; as making a scratch store.
pub async fn run(args: Args, session: &mut Session) -> Result {
    if args.list {
        return list(&args, session);
    }
    if args.clean {
        return clean(args, session).await;
    }
    let write = args.report.as_deref().map(report_writer).transpose()?;
    if checks(&args).next().is_none() {
        let message = format!("no check begins with {}", args.only.join(" or "));
        return Err(Failure::usage(message, "evstore conformance --list shows their names"));
    }
    let mut reports = Vec::new();
    for store in stores(&args) {
        session.select(store);
        reports.push(run_store(&args, session).await?);
    }
    print(&reports, args.mutant.as_deref(), session)?;
    if let Some(write) = write {
        write(&reports)?;
    }
    judge(&reports, args.strict)
}

/// The stores that are named; none for the one that is meant where none is.
fn stores(args: &Args) -> Vec<Option<StoreName>> {
    if args.stores.is_empty() { vec![None] } else { args.stores.iter().cloned().map(Some).collect() }
}

/// Removes what runs left behind that were ended before they could.
async fn clean(args: Args, session: &mut Session) -> Result {
    let mut left = Vec::new();
    for store in stores(&args) {
        session.select(store);
        let Configured { provider, settings, .. } = session.configured()?;
        for tag in provider.opener.list_scratch(&settings).await? {
            let scratch = provider.opener.scratch(&settings, &tag)?;
            left.push((provider.opener.clone(), scratch, tag));
        }
    }
    if !args.dry_run && !left.is_empty() {
        let tags: Vec<_> = left.iter().map(|(_, scratch, tag)| format!("{} {tag}", scratch.store())).collect();
        session.confirm(&format!("Remove the scratch stores {}?", tags.join(", ")))?;
    }
    let (facts, column) = match args.dry_run {
        true => (view::object([("dry_run", true.into())]), "would be removed"),
        false => (view::object([]), "removed"),
    };
    let mut list = session.output().list("scratch_stores", facts, &["store", column]);
    for (opener, scratch, tag) in left {
        if !args.dry_run {
            opener.drop_scratch(&scratch).await?;
        }
        let json = json!({ "store": scratch.store().as_str(), "tag": tag, "removed": !args.dry_run });
        list.item(&json.to_string(), || vec![scratch.store().as_str().into(), tag.as_str().into()])?;
    }
    list.end(view::object([]), "none left behind")
}

/// The checks that are wanted.
fn checks(args: &Args) -> impl Iterator<Item = &'static Check> {
    let all: Box<dyn Iterator<Item = _>> = if args.in_place { Box::new(in_place()) } else { Box::new(catalog()) };
    all.filter(|check| args.only.is_empty() || args.only.iter().any(|prefix| check.name.starts_with(&**prefix)))
}

fn list(args: &Args, session: &mut Session) -> Result {
    let mut list = session.output().list("checks", view::object([]), &["check", "promise", "properties"]);
    for check in checks(args) {
        let json = json!({ "check": check.name, "promise": check.promise, "properties": check.properties });
        list.item(&json.to_string(), || {
            let properties: Vec<String> = check.properties.iter().map(ToString::to_string).collect();
            vec![check.name.into(), check.promise.into(), Cell::toned(properties.join(" "), Tone::Faint)]
        })?;
    }
    list.end(view::object([]), "no such checks")
}

async fn run_store(args: &Args, session: &mut Session) -> Result<Report> {
    let mut configured = session.configured()?;
    if args.in_place {
        configured = configured.existing()?;
    }
    let Configured { provider, settings, .. } = configured;
    let provider = session.watch_scratch(&provider);
    let target = match &args.mutant {
        // Another process would open the store without the defect.
        Some(name) => Target::new(find_mutant(name)?.provider(&provider), settings),
        None => target(provider, settings),
    };
    let mut runner = Runner::new(target, args.seed.unwrap_or_else(fresh_seed));
    runner.only.clone_from(&args.only);
    runner.budget = args.budget;
    runner.effort = args.effort;
    runner.place = if args.in_place { Place::InPlace } else { Place::Scratch };
    run_shown(&runner, session).await.map_err(|failure| session.explained(failure))
}

/// A store whose checks may start this program again.
#[must_use]
pub fn target(provider: Provider, settings: Settings) -> Target {
    let target = Target::new(provider, settings);
    match std::env::current_exe() {
        Ok(program) => target.with_worker(WorkerCommand { program, arguments: vec![WORKER.into()] }),
        // Checks that need other processes then say that they were not run.
        Err(_) => target,
    }
}

fn find_mutant(name: &str) -> Result<&'static Mutant> {
    mutants::mutants().find(|mutant| mutant.name == name).ok_or_else(|| {
        let known: Vec<_> = mutants::mutants().map(|mutant| mutant.name).collect();
        Failure::usage(format!("no such mutant: {name}"), format!("known are {}", known.join(" ")))
    })
}

/// The report of a store with a defect, with the commands that show it again: they have to name the defect.
#[must_use]
pub fn text_of_mutant(report: &Report, mutant: &str) -> String {
    let plain = format!("evstore conformance {} ", report.store);
    report.text().replace(&plain, &format!("{plain}--mutant {mutant} ")).trim_end().to_owned()
}

/// Runs with a progress bar.
pub async fn run_shown(runner: &Runner, session: &mut Session) -> Result<Report> {
    let total = runner.checks().count() as u64;
    let bar = Bar::new(session.output(), "checking", Unit::Items("checks"), Some(total));
    let mut done = 0;
    let report = runner
        .run(|progress| match progress {
            Progress::Started(check) => bar.on(check.name),
            Progress::Ended(_) => {
                done += 1;
                bar.at(done);
            }
        })
        .await?;
    Ok(report)
}

/// A seed that nobody chose; it is printed, and repeats the run.
#[must_use]
pub fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed.
    u64::from(now.subsec_nanos()) ^ (now.as_secs() & 0xffff_ffff)
}

/// Prints what was found: a table of everything, then each broken promise with what shows it.
fn print(reports: &[Report], mutant: Option<&str>, session: &mut Session) -> Result {
    let output = session.output();
    match output.format() {
        Format::Json => {
            let documents: Vec<Value> = reports.iter().map(Report::json).collect();
            return output.text(&json!({ "reports": documents }), "");
        }
        Format::Jsonl => {
            for report in reports {
                for finding in report.json()["findings"].as_array().into_iter().flatten() {
                    let mut line = json!({ "store": report.store.as_str(), "seed": report.seed });
                    if let (Value::Object(line), Value::Object(finding)) = (&mut line, finding) {
                        line.extend(finding.clone());
                    }
                    output.text(&line, "")?;
                }
            }
            return Ok(());
        }
        Format::Table => {}
    }
    for report in reports {
        let mut list = output.list("findings", view::object([]), &["verdict", "check", "promise", "took"]);
        for finding in &report.findings {
            list.item("", || {
                let took = format!("{} ms", finding.took.as_millis());
                vec![verdict(&finding.verdict), finding.check.name.into(), finding.check.promise.into(), took.into()]
            })?;
        }
        list.end(view::object([]), "no checks")?;
        let text = mutant.map_or_else(|| report.text(), |mutant| text_of_mutant(report, mutant));
        output.line(text.trim_end())?;
    }
    output.flush()
}

fn verdict(verdict: &Verdict) -> Cell {
    let tone = match verdict {
        Verdict::Held => Tone::Good,
        Verdict::Broken(_) => Tone::Bad,
        Verdict::Refused(_) | Verdict::NotApplicable(_) => Tone::Plain,
        Verdict::NotRun(_) => Tone::Warning,
    };
    Cell::toned(verdict.name(), tone)
}

fn judge(reports: &[Report], strict: bool) -> Result {
    let count = |verdict| reports.iter().map(|report| report.count(verdict)).sum::<usize>();
    match (count("BROKEN"), count("not run")) {
        (0, 0) => Ok(()),
        (0, not_run) if strict => Err(Failure::Broken {
            message: match not_run {
                1 => "1 check was not run".to_owned(),
                _ => format!("{not_run} checks were not run"),
            },
            hint: "each says why; without --strict that is no failure".into(),
        }),
        (0, _) => Ok(()),
        (broken, _) => Err(Failure::Broken {
            message: match broken {
                1 => "1 promise is broken".to_owned(),
                _ => format!("{broken} promises are broken"),
            },
            hint: "each has the command that shows it again".into(),
        }),
    }
}

/// How a report is written, by its name: known before anything runs.
fn report_writer(path: &Path) -> Result<impl FnOnce(&[Report]) -> Result + use<>> {
    let path = path.to_owned();
    let xml = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => false,
        Some("xml") => true,
        _ => {
            let message = format!("a report is named .json or .xml, not {}", path.display());
            return Err(Failure::usage(message, "name it report.json, or report.xml for JUnit"));
        }
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let message = format!("there is no folder {}", folder.display());
        return Err(Failure::usage(message, "make it first: a report is written when everything has run"));
    }
    Ok(move |reports: &[Report]| {
        let text = match xml {
            true => junit(reports),
            false => {
                let documents: Vec<Value> = reports.iter().map(Report::json).collect();
                format!("{:#}\n", json!({ "reports": documents }))
            }
        };
        let mut file = crate::files::NewFile::create(&path)?;
        file.write(text.as_bytes())?;
        file.finish()
    })
}

/// One document for one store. Several stores are suites of one document.
fn junit(reports: &[Report]) -> String {
    let mut documents = reports.iter().map(Report::junit);
    let Some(mut text) = documents.next() else { return String::new() };
    for next in documents {
        let (Some(end), Some(begin), Some(last)) =
            (text.rfind("</testsuites>"), next.find("<testsuite "), next.rfind("</testsuites>"))
        else {
            continue;
        };
        text.truncate(end);
        text.push_str(&next[begin..last]);
        text.push_str("</testsuites>\n");
    }
    text
}

/// What a process does that a check started.
///
/// # Errors
/// When it could not do its part; it has said why.
pub async fn work(session: &mut Session) -> Result {
    match evstore_conformance::worker::main(&session.providers()).await {
        ExitCode::SUCCESS => Ok(()),
        _ => Err(Failure::Broken {
            message: "the worker could not do its part".into(),
            hint: "the check that started it tells why".into(),
        }),
    }
}
