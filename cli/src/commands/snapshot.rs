//! `evstore snapshot`: the latest folded state of each stream, which is a hint and can always be made again.

use crate::failure::Result;
use crate::line;
use crate::moment;
use crate::session::{self, Session};
use crate::view;
use clap::Subcommand;
use evstore_api::{
    Category, DeleteSnapshot, Error, ErrorKind, EventStore, ReadSnapshot, Snapshot, StreamId, StreamName,
};
use evstore_migrate::pages::Streams;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

/// How many snapshots are asked for at a time while they are listed.
const READS_MAX: usize = 16;

/// What `snapshot` takes.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  evstore snapshot list --category order\n  evstore snapshot get order-1 -o json\n  \
                        evstore snapshot delete order-1 -y"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the snapshots, by stream.
    List {
        /// Only this category.
        #[arg(long, value_name = "CATEGORY")]
        category: Option<Category>,
        /// Only streams whose names begin so.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show the snapshot of a stream.
    Get {
        /// The stream.
        stream: StreamName,
    },
    /// Remove the snapshot of a stream. The events stay.
    Delete {
        /// The stream.
        stream: StreamName,
        /// Say what would be done, and do not.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the store's.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.command {
        Command::List { category, prefix } => list(category, prefix, session).await,
        Command::Get { stream } => get(&session.stream(&stream), session).await,
        Command::Delete { stream, dry_run } => delete(&session.stream(&stream), dry_run, session).await,
    }
}

async fn list(category: Option<Category>, prefix: String, session: &mut Session) -> Result {
    let store = session.open_store().await?;
    let mut streams = Streams::of(&*store, session.namespaces(), category, prefix);
    let columns = ["stream", "revision", "schema", "bytes", "taken at"];
    let mut list = session.output().list("snapshots", view::object([]), &columns);
    while let Some(page) = streams.next(&*store).await? {
        let reads = page.iter().map(|listed| read(&*store, &listed.stream));
        let mut found = stream::iter(reads).buffered(READS_MAX);
        while let Some(snapshot) = found.try_next().await? {
            if let Some(snapshot) = snapshot {
                let cells = || {
                    vec![
                        snapshot.stream.to_string().into(),
                        snapshot.revision.to_string().into(),
                        snapshot.schema.to_string().into(),
                        snapshot.data.len().to_string().into(),
                        moment::show(snapshot.taken_at).into(),
                    ]
                };
                list.item(&Value::Object(facts(&snapshot)).to_string(), cells)?;
            }
        }
    }
    list.end(view::object([]), "no snapshots")
}

async fn read(store: &dyn EventStore, stream: &StreamId) -> Result<Option<Snapshot>> {
    Ok(store.read_snapshot(ReadSnapshot { stream: stream.clone(), deadline: session::deadline() }).await?)
}

/// What a snapshot is, without its data.
fn facts(snapshot: &Snapshot) -> serde_json::Map<String, Value> {
    let mut map = view::stream_json(&snapshot.stream);
    map.extend(view::object([
        ("revision", snapshot.revision.0.into()),
        ("number", snapshot.number.0.into()),
        ("commit", snapshot.commit.to_string().into()),
        ("schema", snapshot.schema.into()),
        ("content_type", snapshot.content_type.as_str().into()),
        ("bytes", snapshot.data.len().into()),
        ("taken_at", moment::json(snapshot.taken_at)),
    ]));
    map
}

async fn existing(stream: &StreamId, session: &mut Session) -> Result<Snapshot> {
    let store = session.open_store().await?;
    let missing = || Error::new(ErrorKind::NotFound, "there is no snapshot of this stream").with("stream", stream);
    Ok(read(&*store, stream).await?.ok_or_else(missing)?)
}

async fn get(stream: &StreamId, session: &mut Session) -> Result {
    let snapshot = existing(stream, session).await?;
    let json = line::snapshot_object(&snapshot);
    let facts = [
        ("stream", stream.to_string().into()),
        ("revision", snapshot.revision.to_string().into()),
        ("schema", snapshot.schema.to_string().into()),
        ("content type", snapshot.content_type.as_str().into()),
        ("taken at", moment::show(snapshot.taken_at).into()),
        ("bytes", snapshot.data.len().to_string().into()),
        ("data", view::preview(&snapshot.data).into()),
    ];
    session.output().facts(&json, &facts)
}

async fn delete(stream: &StreamId, dry_run: bool, session: &mut Session) -> Result {
    let snapshot = existing(stream, session).await?;
    let mut json = facts(&snapshot);
    let what = format!("the snapshot of {stream} at revision {}", snapshot.revision);
    if dry_run {
        json.insert("dry_run".into(), true.into());
        return session.output().facts(&Value::Object(json), &[("would delete", what.into())]);
    }
    session.confirm(&format!("Delete {what}?"))?;
    let store = session.open_store().await?;
    store.delete_snapshot(DeleteSnapshot { stream: stream.clone(), deadline: session.deadline() }).await?;
    json.insert("deleted".into(), true.into());
    session.output().facts(&Value::Object(json), &[("deleted", what.into())])
}
