//! `evstore export`: everything in a store as lines, from which `import` restores it bit-exact.

use crate::failure::{Failure, Result};
use crate::files::NewFile;
use crate::line::{self, CheckpointLine, FirstLine, INCARNATION};
use crate::output::Format;
use crate::progress::{Progress, Unit};
use crate::session::{self, Session};
use crate::view;
use evstore_api::chain::Chain;
use evstore_api::{
    Content, Error, ErrorKind, EventStore, FeedItem, Meta, Position, ReadSnapshot, Record, RecordKind, StoreState,
};
use evstore_migrate::pages::{Records, Streams};
use evstore_migrate::walk::{Damage, Walk};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What `export` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Write everything in a store as JSON Lines, in feed order: events, and all that the store gave them.\n\n\
                  `evstore import` restores it into an empty store, bit-exact: numbers, positions, times, commits, \
                  markers. The same content gives the same bytes. The store may be in use meanwhile; the export ends \
                  where the feed ended when it began.",
    after_help = "Examples:\n  evstore export backup.jsonl.gz\n  evstore export | zstd > backup.jsonl.zst\n  \
                  evstore export backup.jsonl.gz && evstore -s other import backup.jsonl.gz"
)]
pub struct Args {
    /// Where to write: a file, packed when its name ends in .gz, or - for standard output.
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,
    /// Snapshots too.
    #[arg(long)]
    snapshots: bool,
    /// Checkpoints of consumers too.
    #[arg(long)]
    checkpoints: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Events.
    pub events: u64,
    /// Commits and markers, stripped ones included.
    pub commits: u64,
    /// Lines.
    pub lines: u64,
    /// The last position.
    pub through: Option<Position>,
    /// Digest over all of it.
    pub chain: Chain,
}

/// Where lines go. One is held back, because the last one says what the whole is.
struct Sink<'a> {
    to: To<'a>,
    held: Option<String>,
    lines: u64,
}

enum To<'a> {
    File(NewFile),
    Stdout(&'a mut crate::output::Output),
}

impl Sink<'_> {
    fn line(&mut self, line: String) -> Result {
        let before = self.held.replace(line);
        self.write(before)
    }

    /// Ends the part that the chain is about.
    fn seal(&mut self, chain: Chain) -> Result {
        let last = self.held.take().map(|mut line| {
            line.truncate(line.len() - 1);
            format!("{line},\"chain\":\"{chain}\"}}")
        });
        self.write(last)
    }

    fn write(&mut self, line: Option<String>) -> Result {
        let Some(mut line) = line else { return Ok(()) };
        line.push('\n');
        self.lines += 1;
        match &mut self.to {
            To::File(file) => file.write(line.as_bytes()),
            To::Stdout(output) => output.bytes(line.as_bytes()),
        }
    }

    fn finish(mut self) -> Result<u64> {
        let last = self.held.take();
        self.write(last)?;
        match self.to {
            To::File(file) => file.finish()?,
            To::Stdout(output) => output.flush()?,
        }
        Ok(self.lines)
    }
}

/// Exports.
///
/// # Errors
/// As the store's reads; when the file can't be written. Then there is no file of that name.
pub async fn run(args: Args, session: &mut Session) -> Result {
    session.refuse_namespace("export writes a whole store")?;
    let to_stdout = args.file == Path::new("-");
    // A device or a pipe is not replaced.
    if !to_stdout && args.file.is_file() {
        session.confirm(&format!("{} exists. Replace it?", args.file.display()))?;
    }
    let exported = export(&args, session, to_stdout).await?;
    let took = format!("{} events in {} commits, {} lines", exported.events, exported.commits, exported.lines);
    if to_stdout {
        session.output().note(&format!("exported {took}"));
        return Ok(());
    }
    let json = view::object([
        ("file", args.file.display().to_string().into()),
        ("events", exported.events.into()),
        ("commits", exported.commits.into()),
        ("lines", exported.lines.into()),
        ("through", exported.through.map(|through| through.0).into()),
        ("chain", exported.chain.to_string().into()),
    ]);
    session.output().text(&Value::Object(json), &format!("exported {took} to {}", args.file.display()))
}

async fn export(args: &Args, session: &mut Session, to_stdout: bool) -> Result<Exported> {
    let store = session.open_store().await?;
    let admin = session.open_admin().await?;
    let meta = admin.read_meta(session.deadline()).await?;
    refuse_half(&meta)?;
    let incarnation = meta.incarnation().to_string();
    let mut walk = Walk::begin(store.clone(), admin.clone(), Damage::Stops).await?;
    let progress = if to_stdout && session.output().format() != Format::Table {
        None
    } else {
        let total = walk.through().map(|through| through.0);
        Some(Progress::new(session.output(), "exporting", Unit::Items("positions"), total))
    };
    let to = if to_stdout { To::Stdout(session.output()) } else { To::File(NewFile::create(&args.file)?) };
    let mut sink = Sink { to, held: None, lines: 0 };
    let mut exported = Exported { through: walk.through(), ..Exported::default() };
    let mut first = Some(FirstLine { through: walk.through() });
    while let Some(items) = walk.next().await? {
        for item in items {
            let reached = write_item(&item, first.take(), &mut sink, &mut exported)?;
            if let (Some(progress), Some(reached)) = (&progress, reached) {
                progress.at(reached.0);
            }
        }
    }
    if let Some(first) = first {
        sink.line(line::nothing(first))?;
    }
    sink.seal(exported.chain)?;
    if args.snapshots {
        write_snapshots(&*store, &mut sink).await?;
    }
    if args.checkpoints {
        write_checkpoints(&*store, &incarnation, &mut sink).await?;
    }
    exported.lines = sink.finish()?;
    Ok(exported)
}

/// A store whose restore was cut off has a part of what it is to hold, and an export of it would be taken for the whole.
fn refuse_half(meta: &Meta) -> Result {
    match meta.state {
        StoreState::Importing { from: None } => Err(Failure::Advised {
            error: Error::new(ErrorKind::Fenced, "the store is being restored and holds a part of an export only"),
            hint: "nothing was exported: import the whole export first, which goes on where it was cut off".into(),
        }),
        StoreState::Open
        | StoreState::Importing { from: Some(_) }
        | StoreState::Fenced { .. }
        | StoreState::Moved { .. }
        | StoreState::Leaving { .. }
        | StoreState::Retired { .. } => Ok(()),
    }
}

/// Writes one item; gives the position that it reaches.
fn write_item(
    item: &FeedItem,
    first: Option<FirstLine>,
    sink: &mut Sink<'_>,
    exported: &mut Exported,
) -> Result<Option<Position>> {
    match item {
        FeedItem::Removed { first: from, last } => {
            exported.chain.push_removed(*from, *last);
            sink.line(line::removed(*from, *last, first))?;
            Ok(Some(*last))
        }
        FeedItem::Commit(commit) => {
            exported.chain.push(commit);
            exported.commits += 1;
            exported.events += if commit.content == Content::Kept { u64::from(commit.count) } else { 0 };
            for line in line::commit_lines(commit, first) {
                sink.line(line)?;
            }
            Ok(commit.last_position())
        }
    }
}

async fn write_snapshots(store: &dyn EventStore, sink: &mut Sink<'_>) -> Result {
    let mut streams = Streams::all(store);
    while let Some(page) = streams.next(store).await? {
        for listed in page {
            let read = ReadSnapshot { stream: listed.stream, deadline: session::deadline() };
            if let Some(snapshot) = store.read_snapshot(read).await? {
                sink.line(line::snapshot(&snapshot))?;
            }
        }
    }
    Ok(())
}

async fn write_checkpoints(store: &dyn EventStore, incarnation: &str, sink: &mut Sink<'_>) -> Result {
    let mut records = Records::all(store, RecordKind::Checkpoint);
    while let Some(page) = records.next(store).await? {
        for record in page {
            if let Some(checkpoint) = checkpoint(record, incarnation) {
                sink.line(line::checkpoint(&checkpoint))?;
            }
        }
    }
    Ok(())
}

/// A checkpoint whose cursor will be of whichever store it is restored into: positions are the same there.
fn checkpoint(record: Record, incarnation: &str) -> Option<CheckpointLine> {
    let value = record.value?;
    let value = match std::str::from_utf8(&value) {
        Ok(text) => text.replace(incarnation, INCARNATION).into(),
        Err(_) => value,
    };
    Some(CheckpointLine { name: record.key.name, number: record.number, updated_at: record.updated_at, value })
}
