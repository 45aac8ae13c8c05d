//! `evstore stream`: the list of streams, and one stream's head, truncation and deletion.

use super::append::{parse_expected, print_receipt};
use super::read::readable;
use crate::failure::Result;
use crate::output::Cell;
use crate::plan::{self, Plan};
use crate::session::Session;
use crate::view;
use clap::Subcommand;
use evstore_api::{Category, CommitId, Delete, Expected, ReadHead, Revision, StreamId, StreamName, Truncate};
use evstore_kit::decide::{Decision, Wanted};
use evstore_migrate::pages::Streams;
use serde_json::Value;

/// What `stream` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore stream list --category order\n  evstore stream head order-1\n  \
                        evstore stream truncate order-1 --before 100 --dry-run\n  \
                        evstore stream delete order-1 --expected 120 -y")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List streams with their heads, by name.
    List(List),
    /// Show the end of a stream.
    Head {
        /// The stream.
        stream: StreamName,
    },
    /// Strip the beginning of a stream for good; revisions stay used.
    Truncate(TruncateArgs),
    /// Delete a stream for good; its name can never be used again.
    Delete(DeleteArgs),
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only this category.
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    /// Only names that begin so.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Most streams to print.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct TruncateArgs {
    /// The stream.
    stream: StreamName,
    /// The first revision to keep. The commit that holds it is kept whole.
    #[arg(long, value_name = "REVISION")]
    before: u64,
    /// Id of the commit that marks it, to make a repeat safe.
    #[arg(long, value_name = "ID")]
    commit: Option<CommitId>,
    /// Say what would be done, or what would be refused, and do not.
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args, Debug)]
struct DeleteArgs {
    /// The stream.
    stream: StreamName,
    /// What has to be true of it: any, no-stream, exists, or the revision of its last event.
    #[arg(long, value_name = "EXPECTED", default_value = "any", value_parser = parse_expected)]
    expected: Expected,
    /// Id of the commit that marks it, to make a repeat safe.
    #[arg(long, value_name = "ID")]
    commit: Option<CommitId>,
    /// Say what would be done, or what would be refused, and do not.
    #[arg(long)]
    dry_run: bool,
}

/// Runs one of them.
///
/// # Errors
/// As the store's.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.command {
        Command::List(args) => list(args, session).await,
        Command::Head { stream } => head(&session.stream(&stream), session).await,
        Command::Truncate(args) => truncate(args, session).await,
        Command::Delete(args) => delete(args, session).await,
    }
}

async fn list(args: List, session: &mut Session) -> Result {
    let store = session.open_store().await?;
    let mut streams = Streams::of(&*store, session.namespaces(), args.category, args.prefix);
    if let Some(limit) = args.limit {
        streams = streams.at_most(limit);
    }
    let columns = ["stream", "state", "revision", "first retained", "commits", "recorded at"];
    let mut list = session.output().list("streams", view::object([]), &columns);
    while let Some(page) = streams.next(&*store).await? {
        for listed in &page {
            let json = Value::Object(view::head_json(&listed.stream, &listed.head)).to_string();
            list.item(&json, || list_cells(&listed.stream, &listed.head))?;
        }
    }
    list.end(view::object([]), "no streams")
}

fn list_cells(stream: &StreamId, head: &evstore_api::Head) -> Vec<Cell> {
    let facts = view::head_facts(stream, head);
    let wanted = ["stream", "state", "revision", "first retained", "commits", "recorded at"];
    let cell = |name: &&str| facts.iter().find(|(known, _)| known == name).map(|(_, cell)| cell.clone());
    wanted.iter().filter_map(cell).collect()
}

async fn head(stream: &StreamId, session: &mut Session) -> Result {
    let head = read_head(stream, session).await?;
    if head.state == evstore_api::StreamState::Missing {
        return readable(stream, &head);
    }
    let json = Value::Object(view::head_json(stream, &head));
    session.output().facts(&json, &view::head_facts(stream, &head))
}

async fn read_head(stream: &StreamId, session: &mut Session) -> Result<evstore_api::Head> {
    let store = session.open_store().await?;
    Ok(store.head(ReadHead { stream: stream.clone(), deadline: session.deadline() }).await?)
}

async fn truncate(args: TruncateArgs, session: &mut Session) -> Result {
    let stream = session.stream(&args.stream);
    let head = read_head(&stream, session).await?;
    readable(&stream, &head)?;
    let what = format!("events of {stream} before revision {} (head: {})", args.before, head.revision);
    let commit = args.commit.unwrap_or_else(CommitId::generate);
    let before = Revision(args.before);
    let request = |deadline| Truncate { stream: stream.clone(), commit, before, deadline };
    if args.dry_run {
        let wanted = Wanted::truncation(&request(session.deadline()));
        let plan = plan::truncation(session, &wanted, before).await?;
        return print_plan(session, &stream, "truncate", &format!("strip {what}"), &plan);
    }
    session.confirm(&format!("Strip {what} for good?"))?;
    let admin = session.open_admin().await?;
    session.commit_begins(commit);
    let answer = admin.truncate(request(session.deadline())).await;
    session.commit_ended();
    let truncated = answer.map_err(|error| if error.commit().is_none() { error.of_commit(commit) } else { error })?;
    session.written(Some(commit));
    let mut json = view::receipt_json(&stream, &truncated.marker);
    json.insert("first_retained".into(), truncated.first_retained.0.into());
    let mut facts = view::receipt_facts(&stream, &truncated.marker, admin.capabilities().positioned);
    facts.push(("first retained", truncated.first_retained.to_string().into()));
    session.output().facts(&Value::Object(json), &facts)
}

async fn delete(args: DeleteArgs, session: &mut Session) -> Result {
    let stream = session.stream(&args.stream);
    let head = read_head(&stream, session).await?;
    // A typing mistake burns a name for ever, so a missing stream is deleted only by who says that it is missing.
    if args.expected != Expected::NoStream && args.commit.is_none() {
        readable(&stream, &head)?;
    }
    let commit = args.commit.unwrap_or_else(CommitId::generate);
    let request = |deadline| Delete { stream: stream.clone(), expected: args.expected, commit, deadline };
    if args.dry_run {
        let what = format!("delete {stream} for good ({} events)", head.revision);
        let plan = plan::write(session, &Wanted::deletion(&request(session.deadline()))).await?;
        return print_plan(session, &stream, "delete", &what, &plan);
    }
    let question =
        format!("Delete {stream} and its {} events for good? Its name can never be used again.", head.revision);
    session.confirm(&question)?;
    let admin = session.open_admin().await?;
    session.commit_begins(commit);
    let answer = admin.delete(request(session.deadline())).await;
    session.commit_ended();
    let deleted = answer.map_err(|error| if error.commit().is_none() { error.of_commit(commit) } else { error })?;
    session.written(Some(commit));
    print_receipt(session, &stream, &deleted, admin.capabilities().positioned)
}

fn print_plan(session: &mut Session, stream: &StreamId, verb: &str, what: &str, plan: &Plan) -> Result {
    let repeated = matches!(plan.decision, Decision::Repeated(_));
    let mut json = view::head_json(stream, &plan.head);
    json.insert("dry_run".into(), true.into());
    json.insert("would".into(), verb.into());
    json.insert("repeated".into(), repeated.into());
    let what = if repeated { "do nothing: it was done before under this id" } else { what };
    session.output().facts(&Value::Object(json), &[("would", what.into())])
}
