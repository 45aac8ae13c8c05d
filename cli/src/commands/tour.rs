//! `evstore tour`: everything once, in a folder of its own: a store, a real log, a folded aggregate, the catalog, a
//! store that breaks a promise, and a move. Each step is shown as what the user could have typed.

mod permit;

use crate::commands::conformance::{self, fresh_seed};
use crate::commands::import::{self, Imported};
use crate::commands::migrate;
use crate::failure::{Failure, Result};
use crate::files::{Lines, NewFile};
use crate::output::{Format, Tone};
use crate::session::{Session, deadline};
use crate::view;
use evstore::config::{EMBEDDED_PROVIDER, FILE_NAME};
use evstore_api::{Direction, Head, ReadStream, StoreName, StreamId, StreamStart};
use evstore_conformance::mutants;
use evstore_conformance::{Report, Runner, Target};
use evstore_migrate::Cutover;
use evstore_migrate::pages::Streams;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// The log that ships with the command; its citation is beside it, in `data/README.md`.
const LOG: &[u8] = include_bytes!("../../data/permits.jsonl.gz");
/// Its name in the tour's folder.
const LOG_NAME: &str = "permits.jsonl.gz";
/// Whose it is.
const CITATION: &str = "the log: J.C.A.M. Buijs, receipt phase of an environmental permit application process (WABO), CoSeLoG \
                        project, doi:10.4121/uuid:a07386a5-7be3-4367-9535-70bc9e77dbe6";
/// The folder where none is named.
const DIR: &str = "evstore-tour";
/// Folders that are tried where the usual one is taken.
const DIRS_MAX: u32 = 100;
/// Events of a stream that are shown.
const EVENTS_SHOWN: u32 = 5;
/// What the catalog may take of the tour's minute.
const CATALOG_BUDGET: Duration = Duration::from_secs(30);
/// The store that is moved to, and its file.
const OTHER: &str = "next";
/// How long the copy may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);
/// Seeds with which the defect is looked for: each run of threads is another one.
const SEEDS_MAX: u64 = 10;

/// What `tour` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Show everything once, in a fresh folder, with no server and no config: write a config file, import a real \
                  log, read a stream back, fold it into an aggregate with and without a snapshot, hold the store to the \
                  catalog of promises, hold a store with the field's commonest feed to the same catalog, which finds the \
                  event that it loses, and move the store to another file and back. Takes less than a minute.",
    after_help = "Examples:\n  evstore tour\n  evstore tour --dir /tmp/evstore-tour"
)]
pub struct Args {
    /// The folder to make; else ./evstore-tour, or the next free name.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The steps so far.
struct Tour<'a> {
    session: &'a mut Session,
    dir: PathBuf,
    steps: Vec<Value>,
}

/// Shows it.
///
/// # Errors
/// As its steps; broken when the store is, or when the catalog misses the defect.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let dir = make_folder(args.dir)?;
    let mut tour = Tour { session, dir, steps: Vec::new() };
    tour.write_config()?;
    tour.import().await?;
    let (stream, head) = tour.longest_stream().await?;
    tour.read(&stream, &head).await?;
    tour.fold(&stream).await?;
    let report = tour.catalog().await?;
    let lost = tour.serial_feed().await?;
    tour.migrate().await?;
    tour.next_steps()?;
    tour.finish()?;
    judge(&report, &lost)
}

/// A folder that was not there before.
fn make_folder(wanted: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(dir) = wanted {
        let is_taken = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
        if is_taken {
            return Err(Failure::usage(
                format!("{} is not empty", dir.display()),
                "name a folder that is not there yet",
            ));
        }
        std::fs::create_dir_all(&dir)
            .map_err(|cause| Failure::io(format!("{} can't be made", dir.display()), cause))?;
        return Ok(dir);
    }
    for number in 1..=DIRS_MAX {
        let dir = PathBuf::from(if number == 1 { DIR.to_owned() } else { format!("{DIR}-{number}") });
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(Failure::io(format!("{} can't be made", dir.display()), cause)),
        }
    }
    Err(Failure::usage(format!("{DIR} to {DIR}-{DIRS_MAX} are taken"), "remove some, or name one with --dir"))
}

impl Tour<'_> {
    /// Says something to a person.
    fn say(&mut self, text: &str) -> Result {
        if self.session.output().format() == Format::Table { self.session.output().line(text) } else { Ok(()) }
    }

    /// Shows what is done next: why, and what to type for it.
    fn begin(&mut self, why: &str, typed: &str) -> Result {
        let output = self.session.output();
        let (why, typed) = (output.paint(why, Tone::Faint), output.paint(&format!("$ {typed}"), Tone::Good));
        self.say(&format!("\n{why}\n{typed}"))?;
        self.session.output().flush()
    }

    /// Keeps what came of a step, for programs.
    fn done(&mut self, typed: &str, facts: Map<String, Value>) -> Result {
        let mut step = view::object([("typed", typed.into())]);
        step.extend(facts);
        let step = Value::Object(step);
        if self.session.output().format() == Format::Jsonl {
            self.session.output().text(&step, "")?;
        }
        self.steps.push(step);
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result {
        let mut file = NewFile::create_as_given(&self.dir.join(name))?;
        file.write(bytes)?;
        file.finish()
    }

    fn write_config(&mut self) -> Result {
        let enter = format!("mkdir -p {0} && cd {0}", self.dir.display());
        self.begin("Everything happens in a folder of its own.", &enter)?;
        let typed = "evstore init";
        self.begin("A store is chosen in a config file. The embedded one needs no server.", typed)?;
        let text = self.session.registry().template(EMBEDDED_PROVIDER)?;
        self.write(FILE_NAME, text.as_bytes())?;
        self.session.use_config(self.dir.join(FILE_NAME));
        self.say(&format!("wrote {}", self.dir.join(FILE_NAME).display()))?;
        self.done(typed, view::object([("file", self.dir.join(FILE_NAME).display().to_string().into())]))
    }

    async fn import(&mut self) -> Result {
        let typed = format!("evstore import {LOG_NAME}");
        self.begin("A real log: the events of permit applications in a Dutch municipality.", &typed)?;
        self.write(LOG_NAME, LOG)?;
        let size = Some(LOG.len() as u64);
        let imported = import::import(Lines::of_bytes(LOG_NAME, LOG), size, None, false, self.session).await?;
        let Imported { added, streams, .. } = imported;
        self.say(&format!("{added} events added ({streams} streams), each durable before it was acknowledged"))?;
        self.say(&format!("({CITATION})"))?;
        self.done(&typed, view::object([("added", added.into()), ("streams", streams.into())]))
    }

    /// The stream with the most events.
    async fn longest_stream(&mut self) -> Result<(StreamId, Head)> {
        let store = self.session.open_store().await?;
        let mut longest = None;
        let mut streams = Streams::all(&*store);
        while let Some(page) = streams.next(&*store).await? {
            for listed in page {
                if longest.as_ref().is_none_or(|(_, head): &(StreamId, Head)| listed.head.revision > head.revision) {
                    longest = Some((listed.stream, listed.head));
                }
            }
        }
        longest.ok_or_else(|| Failure::usage("the store has no stream", "evstore import a log first"))
    }

    async fn read(&mut self, stream: &StreamId, head: &Head) -> Result {
        let typed = format!("evstore read {stream} --limit {EVENTS_SHOWN}");
        let why =
            format!("One case of the log is a stream. The longest has {} events; the first of them:", head.revision);
        self.begin(&why, &typed)?;
        let store = self.session.open_store().await?;
        let request = ReadStream {
            stream: stream.clone(),
            from: StreamStart::First,
            direction: Direction::Forward,
            limit: EVENTS_SHOWN,
            max_bytes: self.session.page_bytes(),
            deadline: deadline(),
        };
        let page = store.read_stream(request).await?;
        if self.session.output().format() == Format::Table {
            let mut list = self.session.output().list("events", Map::new(), &view::EVENT_COLUMNS);
            for event in page.events() {
                list.item("", || view::event_cells(event))?;
            }
            list.end(Map::new(), "")?;
        }
        let facts = view::object([("stream", stream.name.as_str().into()), ("events", head.revision.0.into())]);
        self.done(&typed, facts)
    }

    async fn fold(&mut self, stream: &StreamId) -> Result {
        let key = stream.name.as_str().split_once('-').map_or("", |(_, key)| key).to_owned();
        let typed = format!("evstore snapshot get {stream}");
        let why = format!(
            "An application folds a stream into a state: Repository::<Permit>::new(store).load({key:?}). A snapshot saves \
             it the beginning; it is a hint, checked against the stream, and can be seen:"
        );
        self.begin(&why, &typed)?;
        let folded = permit::fold_both_ways(self.session.open_store().await?, &key).await?;
        self.say(&folded.text())?;
        self.done(&typed, folded.json())
    }

    async fn catalog(&mut self) -> Result<Report> {
        let typed = format!("evstore conformance --budget {}s", CATALOG_BUDGET.as_secs());
        self.begin("What a store promises is proved on a scratch store beside it, the live one untouched.", &typed)?;
        let (provider, settings) = self.session.settings()?;
        let provider = self.session.watch_scratch(&provider);
        let mut runner = Runner::new(conformance::target(provider, settings), fresh_seed());
        runner.budget = Some(CATALOG_BUDGET);
        let report = conformance::run_shown(&runner, self.session).await?;
        self.say(report.text().trim_end())?;
        self.done(&typed, counts(&report))?;
        Ok(report)
    }

    /// Holds the field's commonest feed to the catalog, until the catalog shows what it loses.
    async fn serial_feed(&mut self) -> Result<Report> {
        let mutant = mutants::serial_feed();
        let typed =
            format!("evstore conformance --mutant {} --only {}", mutant.name, mutant.killed_by.join(" --only "));
        let why = "Now a store with the field's commonest feed: serial positions, readers resume after the last. The \
                   catalog shows an event that a reader never gets:";
        self.begin(why, &typed)?;
        let (provider, settings) = self.session.settings()?;
        let provider = self.session.watch_scratch(&provider);
        let mut runner = Runner::new(Target::new(mutant.provider(&provider), settings), fresh_seed());
        runner.only = mutant.killed_by.iter().map(|name| (*name).to_owned()).collect();
        let mut report = conformance::run_shown(&runner, self.session).await?;
        for _ in 1..SEEDS_MAX {
            if report.broken().next().is_some() {
                break;
            }
            runner.seed += 1;
            report = conformance::run_shown(&runner, self.session).await?;
        }
        let text = conformance::text_of_mutant(&report, mutant.name);
        if let Some(sentence) = lost_event(&text) {
            self.say(&sentence)?;
        }
        self.say(&shortened(&text))?;
        self.done(&typed, counts(&report))?;
        Ok(report)
    }

    /// Moves the store to another file and back, all that was imported included.
    async fn migrate(&mut self) -> Result {
        let typed = "evstore migrate start && evstore migrate cutover -y && evstore migrate rollback -y";
        let why = "A running system can be moved to another store, and back. Here to a second file; to a server it is the same. \
                   Appends wait for the moment that it takes, and no node is restarted:";
        self.begin(why, typed)?;
        let own = self.session.registry().template(EMBEDDED_PROVIDER)?;
        let text = format!("{own}\n[stores.{OTHER}]\nprovider = \"{EMBEDDED_PROVIDER}\"\npath = \"{OTHER}.db\"\n");
        std::fs::remove_file(self.dir.join(FILE_NAME))
            .map_err(|cause| Failure::io(format!("{FILE_NAME} can't be replaced"), cause))?;
        self.write(FILE_NAME, text.as_bytes())?;
        self.session.use_config(self.dir.join(FILE_NAME));
        let source = self.session.store_name()?;
        let migration = migrate::open(&(source, StoreName::new(OTHER)?), true, self.session).await?;
        migration.start().await?;
        let there = migrate::taken_over(migration.cutover(HAND_OVER_MAX, None).await?)?;
        let back = migrate::taken_over(migration.rollback(HAND_OVER_MAX, None).await?)?;
        let pause = |cutover: &Cutover| cutover.pause.map_or(0, |pause| pause.as_millis() as u64);
        self.say(&format!(
            "{} positions moved and compared, without a difference; no store took appends for {} ms there and {} ms back",
            there.end,
            pause(&there),
            pause(&back)
        ))?;
        let facts = view::object([
            ("positions", there.end.0.into()),
            ("pause_ms", pause(&there).into()),
            ("pause_back_ms", pause(&back).into()),
        ]);
        self.session.select(None);
        self.done(typed, facts)
    }

    fn next_steps(&mut self) -> Result {
        let dir = self.dir.display().to_string();
        let text = format!(
            "\nTry next, in {dir}:\n  \
             evstore append order-1 --type placed --data '{{\"sum\": 7}}' --expected no-stream\n  \
             evstore feed --last 5 -f                 follow what comes\n  \
             evstore export backup.jsonl.gz           everything, restored bit-exact by import\n  \
             evstore verify                           prove that nothing is missing or changed\n  \
             evstore providers                        the other kinds of stores\n  \
             evstore doctor                           look for what is wrong\n\
             Remove the folder when you are done: rm -r {dir}"
        );
        self.say(&text)
    }

    /// The one document.
    fn finish(&mut self) -> Result {
        let output = self.session.output();
        if output.format() == Format::Json {
            output.text(&json!({ "dir": self.dir.display().to_string(), "steps": self.steps }), "")?;
        }
        output.flush()
    }
}

/// What the first finding means to whoever reads the feed.
fn lost_event(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim_start).skip_while(|line| !line.starts_with("missing: "));
    let (missing, _) = lines.next()?.strip_prefix("missing: ")?.split_once(", event ")?;
    let (position, which) = missing.split_once(": ")?;
    let got = lines.next().and_then(|line| line.strip_prefix("it got ")).and_then(|got| got.split_once(": "));
    Some(match got {
        Some((got, _)) => format!("A reader got {got} and never {position}, which is {which}. No error told it so.\n"),
        None => format!("A reader never got {position}, which is {which}. No error told it so.\n"),
    })
}

/// What is broken, the first event that was lost, and how to see all of it again; the whole history is many lines.
fn shortened(text: &str) -> String {
    let is_headline = |line: &str| {
        ["BROKEN", "promised:", "again:"].iter().any(|begin| line.trim_start().starts_with(begin))
            || line.contains(" held, ")
    };
    let lost = text.lines().position(|line| line.trim_start().starts_with("missing:"));
    let is_lost = |at: usize| lost.is_some_and(|lost| (lost.saturating_sub(2)..=lost + 1).contains(&at));
    let lines = text.lines().enumerate().filter(|(at, line)| is_headline(line) || is_lost(*at));
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// The verdicts of a report, and the broken ones with what shows them.
fn counts(report: &Report) -> Map<String, Value> {
    let document = report.json();
    let broken: Vec<&Value> =
        document["findings"].as_array().into_iter().flatten().filter(|one| one["verdict"] == "BROKEN").collect();
    view::object([
        ("seed", report.seed.into()),
        ("held", report.count("held").into()),
        ("broken", report.count("BROKEN").into()),
        ("refused", report.count("refused").into()),
        ("not_applicable", report.count("not applicable").into()),
        ("not_run", report.count("not run").into()),
        ("findings", json!(broken)),
    ])
}

fn judge(report: &Report, lost: &Report) -> Result {
    if report.broken().next().is_some() {
        return Err(Failure::Broken {
            message: "the embedded store breaks a promise".into(),
            hint: "each broken promise has the command that shows it again".into(),
        });
    }
    if lost.broken().next().is_none() {
        return Err(Failure::Broken {
            message: "the catalog did not notice a feed that loses events".into(),
            hint: "the machine may be too busy for threads to meet: run the tour again".into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_event_is_told_in_a_sentence() {
        let text = "BROKEN\n  missing: position 48: a-1 revision 3, event 01, commit 02\n  it got position 50: a-2 revision 1, event 03, commit 04";
        let sentence = lost_event(text).unwrap();
        assert!(sentence.starts_with("A reader got position 50 and never position 48, which is a-1 revision 3."));
        assert_eq!(lost_event("all held"), None);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = folder.path().join("a/b");
        assert_eq!(make_folder(Some(fresh.clone())).unwrap(), fresh);
        std::fs::write(fresh.join("x"), "").unwrap();
        assert!(make_folder(Some(fresh)).is_err());
    }
}
