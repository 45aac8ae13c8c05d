//! `evstore migrate`: moves a running system to another store. Each verb is a call of the library; what it says is here.

use crate::commands::nodes::check as check_nodes;
use crate::failure::{Failure, Result};
use crate::output::{Cell, Tone};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use crate::view;
use evstore_api::provider::parse_duration;
use evstore_api::{Error, ErrorKind, Meta, Position, StoreName};
use evstore_migrate::nodes::Lack;
use evstore_migrate::plan::NAMES;
use evstore_migrate::{
    Accepted, Compared, Cutover, Difference, Doing, Migration, News, Observer, Pace, Phase, Plan, Rate, Settled, Side,
    Status, Streams, Verb, Way, spread,
};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a watched status is printed.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Positions that a copy may be behind and still count as caught up: so many are copied in a moment.
const CAUGHT_UP: u64 = 500;

/// What to do about a copy that is not one.
const DIFFERS: &str = "do not hand over: move to a new, empty store, and keep this one to look at";

/// What `migrate` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Move a running system from one store to another, with a way back.\n\nEvery application node needs both stores \
                  in its config before the cutover; nothing is restarted for it. The source is closed for a moment only, and \
                  appends wait for it inside their own deadline. Where a move stands is written in the two stores: every verb \
                  can be repeated, interrupted, and run by two people at once. docs/MIGRATION.md tells what happens.",
    after_help = "Examples:\n  evstore migrate plan --source main --target next\n  evstore migrate start --source main --target next\n  \
                  evstore migrate run &            copies, both ways, until the move is over\n  evstore migrate status\n  \
                  evstore migrate cutover -y       evstore migrate rollback -y       evstore migrate finish -y"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Command,
    /// The store to leave; else -s, else the default.
    #[arg(long, global = true, value_name = "STORE", value_parser = crate::args::store_name)]
    source: Option<StoreName>,
    /// The store to go to; else the one that the migrate table of the config names, or the only other store.
    #[arg(long, global = true, value_name = "STORE", value_parser = crate::args::store_name)]
    target: Option<StoreName>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Compare the two stores and read all of the source: what would be lost, what does not fit, how much there is.
    Plan(Accept),
    /// Begin: close the target for appends, and let it take copies.
    Start {
        #[command(flatten)]
        accept: Accept,
        /// Refuse what would be refused, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Copy, and go on copying what is appended, both ways, until the move is over.
    Run {
        /// Most events per second; else the throttle of the migrate table in the config, else as fast as it goes.
        #[arg(long, value_name = "EVENTS")]
        throttle: Option<u64>,
    },
    /// Tell where the move stands.
    Status {
        /// Again every second, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Read both stores and compare them, position by position.
    Verify,
    /// Close the owner for a moment as a cutover does, measure how long it takes, and open it again. Nothing moves.
    Rehearse(Closing),
    /// Stop copying for a while. A run that goes on waits.
    Pause,
    /// Go on copying.
    Resume,
    /// Hand the streams over to the target.
    Cutover(HandOver),
    /// Take the streams back, with all that was appended since.
    Rollback(HandOver),
    /// Give the move up before it is decided, or a rollback that was cut off.
    Abort {
        /// Refuse what would be refused, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Leave the source for good. There is no way back after it.
    Finish {
        /// Refuse what would be refused, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Wait until the move has come so far.
    Wait {
        /// How far.
        #[arg(long = "for", value_name = "PHASE", value_enum)]
        until: Until,
        /// How long at most, such as 30s or 5m; then it exits with 8.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
        timeout: Duration,
    },
}

/// What a plan or a start may lose.
#[derive(clap::Args, Debug)]
struct Accept {
    /// Something that the target promises less of, by the name that the plan gives it. May be given several times.
    #[arg(
        long = "accept",
        value_name = "NAME",
        value_parser = clap::builder::PossibleValuesParser::new(NAMES),
        hide_possible_values = true
    )]
    accepted: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct HandOver {
    #[command(flatten)]
    closing: Closing,
    /// A node that may be left behind, by the name that `evstore nodes` gives it. May be given several times.
    #[arg(long = "accept-node", value_name = "NAME")]
    accepted: Vec<String>,
    /// How many nodes have to be there; else `expect_nodes` under `[migrate]` in the config, else they are not counted. 0 does not count.
    #[arg(long, value_name = "NODES")]
    expect_nodes: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct Closing {
    /// How long the copy may take to come near the source, such as 30s or 5m. Nothing is closed before.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    timeout: Duration,
    /// Refuse what would be refused, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// The target has all but the last moments.
    CaughtUp,
    /// The target has taken over.
    Open,
    /// The move is over.
    Finished,
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "wanted is a time such as 30s or 5m".to_owned())
}

/// Moves.
///
/// # Errors
/// As the library's verbs; broken where the stores differ; not ready where it has to be waited for.
pub async fn run(args: Args, session: &mut Session) -> Result {
    make(args, session).await.map_err(|failure| match failure {
        Failure::Store(error) if error.kind() == ErrorKind::Conflict => {
            Failure::Advised { error, hint: "`evstore migrate status` tells where the move stands".into() }
        }
        other => other,
    })
}

async fn make(args: Args, session: &mut Session) -> Result {
    session.refuse_namespace("a move is of whole stores")?;
    let names = names(&args, session)?;
    let makes = matches!(args.verb, Command::Start { dry_run: false, .. });
    let migration = match (open(&names, makes, session).await, &args.verb) {
        (Err(failure), Command::Abort { dry_run: false }) => return release(&names, failure, session).await,
        (opened, _) => opened?,
    };
    match args.verb {
        Command::Plan(accept) => {
            let plan = planned(&migration, session).await?;
            let accepted: Accepted = accept.accepted.into_iter().collect();
            let seen = Nodes::of(&migration, session).await?;
            print_plan(&plan, Some(&seen), &accepted, session)?;
            Ok(plan.check(&accepted)?)
        }
        Command::Start { accept, dry_run } => start(&migration, accept, dry_run, session).await,
        Command::Run { throttle } => run_on(&migration, throttle, session).await,
        Command::Status { watch } => status(&migration, watch, session).await,
        Command::Verify => verify(&migration, session).await,
        Command::Rehearse(args) => rehearse(&migration, &args, session).await,
        Command::Pause => {
            migration.pause().await?;
            session.written(None);
            print_status(&migration.status().await?, None, &migration, session)
        }
        Command::Resume => {
            migration.resume().await?;
            session.written(None);
            print_status(&migration.status().await?, None, &migration, session)
        }
        Command::Cutover(args) => hand_over(&migration, Way::Forth, &args, session).await,
        Command::Rollback(args) => hand_over(&migration, Way::Back, &args, session).await,
        Command::Abort { dry_run } => {
            if !checked(&migration, Verb::Abort, dry_run, session).await? {
                migration.abort().await?;
                print_status(&migration.status().await?, None, &migration, session)?;
            }
            Ok(())
        }
        Command::Finish { dry_run } => finish(&migration, dry_run, session).await,
        Command::Wait { until, timeout } => wait(&migration, until, timeout, session).await,
    }
}

/// The names of the two stores.
fn names(args: &Args, session: &mut Session) -> Result<(StoreName, StoreName)> {
    let source = match &args.source {
        Some(source) => source.clone(),
        None => session.store_name()?,
    };
    if let Some(target) = &args.target {
        return Ok((source, target.clone()));
    }
    let config = session.config()?;
    let one_other = |names: &mut dyn Iterator<Item = &StoreName>| {
        let mut others = names.filter(|name| **name != source).cloned();
        others.next().filter(|_| others.next().is_none())
    };
    let target = one_other(&mut config.migrate().targets().iter()).or_else(|| one_other(&mut config.stores()));
    match target {
        Some(target) => Ok((source, target)),
        None => Err(Failure::usage(
            "nothing says which store to go to",
            "name it with --target, or in the config under [migrate] targets",
        )),
    }
}

/// Opens both stores of a move; the target is made where it is missing and its config says so.
///
/// # Errors
/// As the providers' openers; `Unsupported` for a store that can't be moved.
pub async fn open(names: &(StoreName, StoreName), makes: bool, session: &mut Session) -> Result<Migration> {
    let mut side = async |name: &StoreName, makes: bool| -> Result<Side> {
        session.select(Some(name.clone()));
        let store = if makes { session.open_store_to_append().await? } else { session.open_store().await? };
        Ok(Side { name: name.clone(), store, admin: session.open_admin().await? })
    };
    let (source, target) = (side(&names.0, false).await?, side(&names.1, makes).await?);
    Ok(Migration::new(source, target)?)
}

/// Opens a store again that is closed in favour of one that can't be opened.
async fn release(names: &(StoreName, StoreName), failure: Failure, session: &mut Session) -> Result {
    for (owner, other) in [(&names.0, &names.1), (&names.1, &names.0)] {
        session.select(Some(owner.clone()));
        let (Ok(store), Ok(admin)) = (session.open_store().await, session.open_admin().await) else { continue };
        let side = Side { name: owner.clone(), store, admin };
        // Closed for it, or for a rehearsal.
        if side.release(other).await? || side.release(owner).await? {
            session.written(None);
            let text = format!("{owner} takes appends again; {other} could not be opened");
            return session.output().text(&json!({ "owner": owner.as_str(), "released": true }), &text);
        }
    }
    Err(failure)
}

/// A bar for the long work of a verb.
fn observer(session: &mut Session) -> Observer {
    let bar = Progress::new(session.output(), "", Unit::Items("positions"), Some(0));
    let told = Mutex::new(String::new());
    Arc::new(move |news| {
        let progress = match news {
            News::Progress(progress) => progress,
            News::Waits(error) => {
                let text = format!("waiting: {error}");
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                // Once for each reason: it may be the same for hours.
                if *told != text {
                    bar.note(&text);
                    *told = text;
                }
                return;
            }
            News::Slowed(share) if share < 1.0 => {
                return bar.on(&format!("slowed to {:.0} % for the source's sake", share * 100.0));
            }
            News::Slowed(_) => return bar.on(""),
            News::Paused => return bar.doing("paused"),
        };
        bar.doing(match progress.doing {
            Doing::Copying => "copying",
            Doing::Comparing => "comparing",
            Doing::Planning => "reading the source",
        });
        bar.of(progress.through.0);
        bar.at(progress.at.0);
    })
}

async fn planned(migration: &Migration, session: &mut Session) -> Result<Plan> {
    let observer = observer(session);
    Ok(migration.plan(Some(&observer)).await?)
}

async fn start(migration: &Migration, accept: Accept, dry_run: bool, session: &mut Session) -> Result {
    migration.check(Verb::Start).await?;
    let plan = planned(migration, session).await?;
    let accepted: Accepted = accept.accepted.into_iter().collect();
    plan.check(&accepted).map_err(|error| Failure::Advised {
        error,
        hint: "nothing was changed: `evstore migrate plan` lists what is lost; --accept NAME accepts it".into(),
    })?;
    if dry_run {
        return print_plan(&plan, None, &accepted, session);
    }
    migration.start().await?;
    session.written(None);
    print_status(&migration.status().await?, None, migration, session)
}

async fn run_on(migration: &Migration, throttle: Option<u64>, session: &mut Session) -> Result {
    let configured = session.config()?.migrate().throttle();
    let pace = Pace { events_per_second: throttle.or(configured) };
    session.output().note("copying until the move is over; interrupt it at any time and run it again");
    let phase = {
        let observer = observer(session);
        migration.run(pace, Some(&observer)).await?
    };
    let status = migration.status().await?;
    tell_end(phase, session);
    print_status(&status, None, migration, session)
}

fn tell_end(phase: Phase, session: &mut Session) {
    let note = match phase {
        Phase::GivenUp(Way::Back) => {
            "the way back was given up: `evstore migrate rollback` begins it again, `finish` ends the move"
        }
        Phase::GivenUp(Way::Forth) => "the move was given up: `evstore migrate start` begins it again",
        _ => return,
    };
    session.output().note(note);
}

async fn status(migration: &Migration, watch: bool, session: &mut Session) -> Result {
    let (mut before, mut looked_at) = (migration.status().await?, Instant::now());
    let streams = migration.streams().await?;
    loop {
        let moves =
            matches!(before.phase, Phase::Copying(_) | Phase::Sealing(_) | Phase::Fenced(_) | Phase::Decided(_));
        if watch || moves {
            tokio::time::sleep(WATCH_EVERY).await;
        }
        let status = migration.status().await?;
        let seen = Seen { streams, rate: Rate::between(&before, &status, looked_at.elapsed()) };
        (before, looked_at) = (status, Instant::now());
        print_status(&before, Some(&seen), migration, session)?;
        if !watch {
            return Ok(());
        }
    }
}

/// What is seen by looking twice, and by going through lists.
struct Seen {
    streams: Streams,
    rate: Rate,
}

async fn rehearse(migration: &Migration, args: &Closing, session: &mut Session) -> Result {
    if checked(migration, Verb::Rehearse, args.dry_run, session).await? {
        return Ok(());
    }
    let settled = {
        let observer = observer(session);
        migration.rehearse(args.timeout, Some(&observer)).await
    };
    let settled = settled.map_err(cut_off)?;
    if let Settled::Differs(compared) = &settled {
        print_compared(compared, session)?;
    }
    let rehearsed = taken_over(settled)?;
    session.written(None);
    print_cutover(&rehearsed, Outcome::Rehearsed, migration, session)
}

async fn verify(migration: &Migration, session: &mut Session) -> Result {
    let compared = {
        let observer = observer(session);
        migration.verify(Some(&observer)).await
    };
    let compared = match compared {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return Err(Failure::Broken { message: error.to_string(), hint: DIFFERS.into() });
        }
        compared => compared?,
    };
    print_compared(&compared, session)?;
    judge(&compared)
}

/// Checks a verb; with `--dry-run` tells that it would be taken, and that is all.
async fn checked(migration: &Migration, verb: Verb, dry_run: bool, session: &mut Session) -> Result<bool> {
    migration.check(verb).await?;
    if dry_run {
        print_status(&migration.status().await?, None, migration, session)?;
    }
    Ok(dry_run)
}

async fn hand_over(migration: &Migration, way: Way, args: &HandOver, session: &mut Session) -> Result {
    let (verb, from, to) = match way {
        Way::Forth => (Verb::Cutover, migration.source(), migration.target()),
        Way::Back => (Verb::Rollback, migration.target(), migration.source()),
    };
    let phase = migration.check(verb).await?;
    let expected = args.expect_nodes.or(session.config()?.migrate().expect_nodes()).filter(|expected| *expected > 0);
    // One that has closed a store already is to be finished, whoever is there.
    if !matches!(phase, Phase::Sealing(_) | Phase::Fenced(_) | Phase::Decided(_)) {
        check_nodes(&migration.lacks(way, expected).await?, &args.accepted)?;
    }
    if args.closing.dry_run {
        return print_status(&migration.status().await?, None, migration, session);
    }
    session.confirm(&format!("Hand all streams of {} over to {}?", from.name, to.name))?;
    let settled = {
        let observer = observer(session);
        match way {
            Way::Forth => migration.cutover(args.closing.timeout, Some(&observer)).await,
            Way::Back => migration.rollback(args.closing.timeout, Some(&observer)).await,
        }
    };
    let settled = settled.map_err(cut_off)?;
    if let Settled::Differs(compared) = &settled {
        print_compared(compared, session)?;
    }
    let cutover = taken_over(settled)?;
    session.written(None);
    print_cutover(&cutover, Outcome::HandedOver, migration, session)
}

/// What a hand-over came to, where it was made.
///
/// # Errors
/// Not ready, or broken.
pub fn taken_over(settled: Settled) -> Result<Cutover> {
    match settled {
        Settled::Done(cutover) => Ok(*cutover),
        Settled::Behind { lag } => Err(Failure::NotReady {
            message: format!("the copy is {lag} positions behind and does not come nearer in time; nothing was closed"),
            hint: "let `evstore migrate run` copy first, or allow more with --timeout; `evstore migrate status` shows the lag"
                .into(),
        }),
        Settled::Differs(compared) => Err(Failure::Broken {
            message: format!("the stores differ; nothing was handed over: {} differences", compared.count()),
            hint: "the owner takes appends; move to a new, empty store".into(),
        }),
    }
}

/// What goes wrong in the middle may leave a store closed: that has to be told, with the way on.
fn cut_off(error: Error) -> Failure {
    if error.context().iter().any(|(name, _)| *name == "closed") {
        let hint = "the store that it names is closed: repeat the command to go on, or `evstore migrate abort` to open it again";
        return Failure::Advised { error, hint: hint.into() };
    }
    error.into()
}

async fn finish(migration: &Migration, dry_run: bool, session: &mut Session) -> Result {
    if checked(migration, Verb::Finish, dry_run, session).await? {
        return Ok(());
    }
    session.confirm(&format!("Leave {} for good? There is no way back after it.", migration.source().name))?;
    migration.finish().await?;
    session.written(None);
    let text = format!(
        "now make {} the plain store in every config: default_store, without [migrate]",
        migration.target().name
    );
    session.output().note(&text);
    print_status(&migration.status().await?, None, migration, session)
}

async fn wait(migration: &Migration, until: Until, timeout: Duration, session: &mut Session) -> Result {
    let began = Instant::now();
    loop {
        let status = migration.status().await?;
        let reached = match until {
            Until::CaughtUp => matches!(status.phase, Phase::Copying(_)) && status.lag() <= CAUGHT_UP,
            Until::Open => {
                matches!(status.phase, Phase::Moved(Way::Forth) | Phase::Copying(Way::Back) | Phase::GivenUp(Way::Back))
            }
            Until::Finished => false,
        };
        if reached || status.phase == Phase::Finished {
            return print_status(&status, None, migration, session);
        }
        if began.elapsed() > timeout {
            return Err(Failure::NotReady {
                message: format!("the move has not come so far: {}", status.phase.sentence()),
                hint: "`evstore migrate run` copies; allow more with --timeout".into(),
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn side_json(name: &StoreName, (meta, head): &(Meta, Position)) -> Value {
    json!({ "store": name.as_str(), "state": meta.state.name(), "epoch": meta.epoch.0, "position": head.0 })
}

fn status_json(status: &Status, seen: Option<&Seen>, migration: &Migration) -> Map<String, Value> {
    let ms = |time: Duration| time.as_millis() as u64;
    let pause = spread(&status.pauses).map(|[p50, p99, max]| {
        json!({ "times": status.pauses.len(), "p50_ms": ms(p50), "p99_ms": ms(p99), "max_ms": ms(max) })
    });
    let mut json = view::object([
        ("phase", status.phase.name().into()),
        ("paused", status.paused.into()),
        ("source", side_json(&migration.source().name, &status.source)),
        ("target", side_json(&migration.target().name, &status.target)),
        ("lag", status.lag().into()),
        ("compared", status.compared.0.into()),
        ("pause", pause.into()),
    ]);
    if let Some(Seen { streams, rate }) = seen {
        let handed_over = if has_taken_over(status.phase) { streams.target } else { 0 };
        json.extend(view::object([
            (
                "streams",
                json!({
                    "source": streams.source,
                    "target": streams.target,
                    "sealed": streams.sealed,
                    "handed_over": handed_over,
                }),
            ),
            ("copied_per_second", (rate.copied.round() as u64).into()),
            ("appended_per_second", (rate.appended.round() as u64).into()),
            ("converges", rate.converges().into()),
            ("seconds_left", rate.left().map(|left| left.as_secs()).into()),
        ]));
    }
    json
}

/// Whether the streams are the target's.
fn has_taken_over(phase: Phase) -> bool {
    match phase {
        Phase::Decided(Way::Forth)
        | Phase::Moved(Way::Forth)
        | Phase::Copying(Way::Back)
        | Phase::Sealing(Way::Back)
        | Phase::Fenced(Way::Back)
        | Phase::Rehearsing(Way::Back)
        | Phase::GivenUp(Way::Back)
        | Phase::Finished => true,
        Phase::NotBegun
        | Phase::Copying(Way::Forth)
        | Phase::Sealing(Way::Forth)
        | Phase::Fenced(Way::Forth)
        | Phase::Rehearsing(Way::Forth)
        | Phase::GivenUp(Way::Forth)
        | Phase::Decided(Way::Back)
        | Phase::Moved(Way::Back) => false,
    }
}

fn print_status(status: &Status, seen: Option<&Seen>, migration: &Migration, session: &mut Session) -> Result {
    let side = |name: &StoreName, (meta, head): &(Meta, Position)| {
        format!("{name}: {}, epoch {}, position {head}", meta.state.name(), meta.epoch)
    };
    let tone = match status.phase {
        Phase::Sealing(_) | Phase::Fenced(_) | Phase::Rehearsing(_) | Phase::Decided(_) => Tone::Warning,
        Phase::Moved(_) | Phase::Finished => Tone::Good,
        Phase::NotBegun | Phase::Copying(_) | Phase::GivenUp(_) => Tone::Plain,
    };
    let paused = if status.paused { "; the copy is paused" } else { "" };
    let mut facts = vec![
        ("phase", Cell::toned(format!("{}: {}{paused}", status.phase.name(), status.phase.sentence()), tone)),
        ("source", side(&migration.source().name, &status.source).into()),
        ("target", side(&migration.target().name, &status.target).into()),
        ("lag", format!("{} positions", status.lag()).into()),
        ("compared", format!("up to position {}", status.compared).into()),
    ];
    if let Some(Seen { streams, rate }) = seen {
        let handed_over = match (streams.sealed, has_taken_over(status.phase)) {
            (0, true) => "all handed over".to_owned(),
            (0, false) => "none handed over".to_owned(),
            (sealed, _) => format!("{sealed} sealed to be handed over"),
        };
        let counted = format!("{} in the source, {} in the target, {handed_over}", streams.source, streams.target);
        facts.push(("streams", counted.into()));
        if let Phase::Copying(_) = status.phase {
            let rates = format!("{:.0} copied and {:.0} appended per second", rate.copied, rate.appended);
            facts.extend([("rate", rates.into()), ("time left", outlook(rate))]);
        }
    }
    if let Some([p50, p99, max]) = spread(&status.pauses) {
        let ms = |time: Duration| time.as_millis();
        let text =
            format!("{} so far: p50 {} ms, p99 {} ms, max {} ms", status.pauses.len(), ms(p50), ms(p99), ms(max));
        facts.push(("pauses of appends", text.into()));
    }
    session.output().facts(&Value::Object(status_json(status, seen, migration)), &facts)
}

fn outlook(rate: &Rate) -> Cell {
    match rate.left() {
        _ if rate.lag == 0 => Cell::toned("nothing is left", Tone::Good),
        Some(left) => format!("about {} s", left.as_secs()).into(),
        None if rate.copied == 0.0 => {
            Cell::toned("nothing is copied now: is `evstore migrate run` running?", Tone::Warning)
        }
        None => Cell::toned("never: appends are faster than the copy", Tone::Bad),
    }
}

/// What a store was closed for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    HandedOver,
    Rehearsed,
}

fn print_cutover(cutover: &Cutover, outcome: Outcome, migration: &Migration, session: &mut Session) -> Result {
    let owner = match (cutover.way, outcome) {
        (Way::Forth, Outcome::HandedOver) | (Way::Back, Outcome::Rehearsed) => &migration.target().name,
        (Way::Back, Outcome::HandedOver) | (Way::Forth, Outcome::Rehearsed) => &migration.source().name,
    };
    let pause_ms = cutover.pause.map(|pause| pause.as_millis() as u64);
    let json = view::object([
        ("owner", owner.as_str().into()),
        ("rehearsed", (outcome == Outcome::Rehearsed).into()),
        ("epoch", cutover.epoch.0.into()),
        ("end", cutover.end.0.into()),
        ("pause_ms", pause_ms.into()),
        ("compared_commits", cutover.compared.commits.into()),
        ("chain", cutover.compared.chain.to_string().into()),
        ("differences", 0.into()),
    ]);
    let pause = pause_ms
        .map_or_else(|| "unknown: another process had closed the store".to_owned(), |pause| format!("{pause} ms"));
    let facts = [
        ("owner", Cell::toned(owner.as_str(), Tone::Good)),
        ("epoch", cutover.epoch.to_string().into()),
        ("end", format!("position {}", cutover.end).into()),
        ("no store took appends for", pause.into()),
        ("compared meanwhile", format!("{} commits, no difference", cutover.compared.commits).into()),
    ];
    session.output().facts(&Value::Object(json), &facts)
}

/// Who is there now, and what they lack for a cutover.
struct Nodes {
    live: usize,
    lacks: Vec<Lack>,
}

impl Nodes {
    async fn of(migration: &Migration, session: &mut Session) -> Result<Self> {
        let expected = session.config()?.migrate().expect_nodes();
        let live = migration.nodes().await?.iter().filter(|present| present.is_live()).count();
        Ok(Self { live, lacks: migration.lacks(Way::Forth, expected).await? })
    }
}

fn print_plan(plan: &Plan, nodes: Option<&Nodes>, accepted: &Accepted, session: &mut Session) -> Result {
    if let Some(Nodes { live, lacks }) = nodes {
        session.output().note(&format!("{live} nodes tell of themselves"));
        lacks.iter().for_each(|lack| session.output().note(&format!("not ready for a cutover: {lack}")));
    }
    let mut facts = view::object([
        ("events", plan.events.into()),
        ("commits", plan.commits.into()),
        ("bytes", plan.bytes.into()),
        ("largest_commit", plan.largest_commit.into()),
        ("snapshots", plan.snapshots.into()),
        ("checkpoints", plan.checkpoints.into()),
        ("through", plan.through.0.into()),
        ("seals", plan.seals.into()),
        ("too_large", json!(plan.too_large)),
        ("too_large_left_out", plan.too_large_more.into()),
        ("ready", plan.check(accepted).is_ok().into()),
    ]);
    if let Some(Nodes { live, lacks }) = nodes {
        let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
        facts.insert("nodes".into(), json!({ "live": live, "not_ready": lacks }));
    }
    session.output().note(&format!(
        "{} events in {} commits, {} bytes, {} snapshots, {} checkpoints",
        plan.events, plan.commits, plan.bytes, plan.snapshots, plan.checkpoints
    ));
    if let Some(streams) = plan.seals {
        session.output().note(&format!(
            "a cutover seals {streams} streams one by one: appends to those that are sealed wait until it is decided; `rehearse` shows how long"
        ));
    }
    plan.too_large.iter().for_each(|item| session.output().note(&format!("does not fit: {item}")));
    let mut list = session.output().list("weaker", facts, &["name", "source", "target", "accepted", "meaning"]);
    for weaker in &plan.weaker {
        let is_accepted = accepted.contains(weaker.name);
        let json = json!({
            "name": weaker.name, "source": weaker.source, "target": weaker.target,
            "accepted": is_accepted, "meaning": weaker.sentence,
        });
        list.item(&json.to_string(), || {
            let tone = if is_accepted { Tone::Plain } else { Tone::Warning };
            vec![
                Cell::toned(weaker.name, tone),
                weaker.source.as_str().into(),
                weaker.target.as_str().into(),
                if is_accepted { "yes" } else { "no" }.into(),
                weaker.sentence.into(),
            ]
        })?;
    }
    list.end(Map::new(), "the target promises all that the source does")
}

fn print_compared(compared: &Compared, session: &mut Session) -> Result {
    let facts = view::object([
        ("after", compared.after.0.into()),
        ("through", compared.through.0.into()),
        ("commits", compared.commits.into()),
        ("chain", compared.chain.to_string().into()),
        ("differences", compared.count().into()),
        ("differences_left_out", compared.more.into()),
    ]);
    session.output().note(&format!("compared {} commits up to position {}", compared.commits, compared.through));
    let mut list = session.output().list("findings", facts, &["what", "position", "stream", "difference"]);
    for difference in &compared.differences {
        list.item(&difference_json(difference), || {
            vec![
                Cell::toned(difference.what, Tone::Bad),
                difference.position.to_string().into(),
                difference.stream.as_ref().map_or(String::new(), ToString::to_string).into(),
                difference.detail.as_str().into(),
            ]
        })?;
    }
    list.end(Map::new(), "no difference")
}

fn difference_json(difference: &Difference) -> String {
    let mut json = view::object([("what", difference.what.into()), ("position", difference.position.0.into())]);
    json.extend(difference.stream.iter().flat_map(view::stream_json));
    json.insert("difference".into(), difference.detail.as_str().into());
    Value::Object(json).to_string()
}

fn judge(compared: &Compared) -> Result {
    match compared.count() {
        0 => Ok(()),
        count => {
            Err(Failure::Broken { message: format!("the stores differ: {count} differences"), hint: DIFFERS.into() })
        }
    }
}
