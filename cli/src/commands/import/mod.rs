//! `evstore import`: appends a log (`plain`), or restores an export into an empty store (`restore`).

mod incoming;
mod plain;
mod restore;

use crate::failure::Result;
use crate::files::{self, Lines};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use crate::view;
use incoming::Incoming;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What `import` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Append a log of events, or restore what `export` wrote into an empty store.\n\n\
                  A log is JSON Lines: stream, type, time (RFC 3339), data; optional metadata, id, commit, revision, \
                  schema, content_type, namespace. data is any JSON value and is stored byte for byte; data_base64 \
                  takes any bytes. Neighbouring lines of a stream with the same commit become one commit, every other \
                  line one of its own. A line without id gets one from its stream and its place in it: the same file \
                  again adds nothing, a grown file adds its new lines, a changed line is refused. \n\n\
                  An export restores bit-exact into an empty store: numbers, positions, times, commits, markers. A file \
                  is read twice, so that what is wrong with it is found before anything is written. Cut off, either goes \
                  on when it is run again; a store that holds the export already, and perhaps more, stays as it is.",
    after_help = "Examples:\n  evstore import permits.jsonl.gz\n  jq -c '{stream, type, time, data}' log.json | evstore \
                  import -\n  evstore import log.jsonl --dry-run\n  evstore -s other import backup.jsonl.gz"
)]
pub struct Args {
    /// What to read: a file, packed when its name ends in .gz, or - for standard input.
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// Read and check everything, compare it with what the store has, say what would be added, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// What was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Lines that were read.
    pub lines: u64,
    /// Events in them.
    pub events: u64,
    /// Events that were written, or would be.
    pub added: u64,
    /// Events that were there already.
    pub present: u64,
    /// Streams that they are of.
    pub streams: u64,
    /// Whether an export was restored.
    pub restored: bool,
    /// Snapshots and checkpoints of an export that were left out, because the store was in use already.
    pub left_out: u64,
}

/// Imports a file.
///
/// # Errors
/// `Invalid` for a line that is not an event, naming it; `IdReused` for a line that was changed; as the store's append.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let lines = Lines::open(&args.file)?;
    let size = files::size(&args.file);
    let again = size.is_some().then_some(args.file.as_path());
    let imported = import(lines, size, again, args.dry_run, session).await?;
    let would = if args.dry_run { imported.added } else { 0 };
    let json = view::object([
        ("file", args.file.display().to_string().into()),
        ("lines", imported.lines.into()),
        ("events", imported.events.into()),
        ("streams", imported.streams.into()),
        ("added", (imported.added - would).into()),
        ("would_add", would.into()),
        ("present", imported.present.into()),
        ("restored", imported.restored.into()),
        ("left_out", imported.left_out.into()),
        ("dry_run", args.dry_run.into()),
    ]);
    session.output().text(&Value::Object(json), &sentence(&imported, args.dry_run))
}

/// Imports lines, wherever they come from; `again` is where they can be read once more.
///
/// # Errors
/// As [`run`].
pub async fn import(
    lines: Lines,
    size: Option<u64>,
    again: Option<&Path>,
    dry_run: bool,
    session: &mut Session,
) -> Result<Imported> {
    let progress = Progress::new(session.output(), "importing", Unit::Bytes, size);
    let mut incoming = Incoming::start(lines, progress);
    match incoming.peek().await?.and_then(|first| first.line.export) {
        Some(head) => restore::run(incoming, head, again, dry_run, session).await,
        None => plain::run(incoming, dry_run, session).await,
    }
}

fn sentence(imported: &Imported, dry_run: bool) -> String {
    let Imported { events, streams, added, present, left_out, .. } = imported;
    let left_out = match left_out {
        0 => String::new(),
        left_out => format!("; {left_out} snapshots and checkpoints left out: the store is in use and has its own"),
    };
    match (dry_run, imported.restored) {
        (true, true) => {
            format!("{added} events would be restored, {present} are there already; nothing was written{left_out}")
        }
        (true, false) => {
            format!(
                "{added} events would be added, {present} are there already ({streams} streams); nothing was written"
            )
        }
        (false, true) => {
            format!("restored {events} events of {streams} streams ({present} were there already){left_out}")
        }
        (false, false) => format!("{added} events added, {present} were there already ({streams} streams)"),
    }
}
