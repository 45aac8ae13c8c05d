//! `evstore append`: one commit of one or more events, all or nothing.

use crate::failure::{Failure, Result};
use crate::files;
use crate::line;
use crate::moment;
use crate::plan;
use crate::session::Session;
use crate::view;
use bytes::Bytes;
use evstore_api::capabilities::Positioned;
use evstore_api::{
    Append, Appended, CommitId, ContentType, Error, ErrorKind, EventType, Events, Expected, NewCommit, NewEvent,
    Revision, StreamId, StreamName, Timestamp,
};
use evstore_kit::decide::{Decision, Wanted};
use evstore_kit::limits;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::path::Path;

/// What `append` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Append a commit of one or more events to a stream, all or nothing.\n\nThe receipt has the commit's id. \
                  If the command is cut off or exits with 6, repeat it with --commit ID: it is written once, however \
                  often it is repeated.",
    after_help = "Examples:\n  evstore append order-1 --type placed --data '{\"sum\": 7}' --expected no-stream\n  \
                  evstore append order-1 --type paid --data @payment.json --expected 1\n  \
                  evstore append order-1 --type scanned --content-type image/png --data @scan.png\n  \
                  evstore append order-1 --events events.jsonl\n  \
                  echo '{\"sum\": 7}' | evstore append order-1 --type placed --data -"
)]
pub struct Args {
    /// The stream; made by its first commit.
    stream: StreamName,
    /// Type of the event.
    #[arg(long, value_name = "TYPE", required_unless_present = "events")]
    r#type: Option<EventType>,
    /// Its data: text, @FILE, or - for standard input. Spaces around JSON are dropped.
    #[arg(long, value_name = "JSON|@FILE|-", requires = "type", default_value = "{}", hide_default_value = true)]
    data: String,
    /// Its metadata.
    #[arg(long, value_name = "JSON", requires = "type")]
    metadata: Option<String>,
    /// What its data is; anything but application/json is taken as it is.
    #[arg(long, value_name = "TYPE", requires = "type", default_value = "application/json")]
    content_type: ContentType,
    /// Number of its schema.
    #[arg(long, value_name = "NUMBER", requires = "type", default_value_t = 1)]
    schema: u32,
    /// When it happened, as RFC 3339 with an offset.
    #[arg(long, value_name = "TIME", requires = "type", value_parser = moment::parse)]
    time: Option<Timestamp>,
    /// Several events in one commit: lines as `import` takes them, `stream` left out.
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["type", "data", "metadata"])]
    events: Option<String>,
    /// What has to be true of the stream: any, no-stream, exists, or the revision of its last event.
    #[arg(long, value_name = "EXPECTED", default_value = "any", value_parser = parse_expected)]
    expected: Expected,
    /// Id of the commit, to make a repeat safe; made up where it is not given.
    #[arg(long, value_name = "ID")]
    commit: Option<CommitId>,
    /// Say what would be appended, or what would be refused, and do not.
    #[arg(long)]
    dry_run: bool,
}

/// Appends.
///
/// # Errors
/// As the store's append, with the commit's id.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let stream = session.stream(&args.stream);
    let events = match &args.events {
        Some(file) => events_of_lines(file, &stream)?,
        None => vec![single_event(&args)?],
    };
    let events = Events::new(events)?;
    let commit = args.commit.unwrap_or_else(CommitId::generate);
    let deadline = session.deadline();
    let request =
        Append { stream: stream.clone(), expected: args.expected, commit: NewCommit { id: commit, events }, deadline };
    if args.dry_run {
        return plan_append(session, request).await;
    }
    let store = session.open_store_to_append().await?;
    session.commit_begins(commit);
    let answer = store.append(request).await;
    session.commit_ended();
    // A failed append is told with its id: the caller may not have chosen it, and needs it to repeat.
    let receipt = answer.map_err(|error| if error.commit().is_none() { error.of_commit(commit) } else { error })?;
    session.written(Some(commit));
    print_receipt(session, &stream, &receipt, store.capabilities().positioned)
}

/// A receipt, in the format asked for.
pub fn print_receipt(session: &mut Session, stream: &StreamId, receipt: &Appended, positioned: Positioned) -> Result {
    let json = Value::Object(view::receipt_json(stream, receipt));
    session.output().facts(&json, &view::receipt_facts(stream, receipt, positioned))
}

async fn plan_append(session: &mut Session, request: Append) -> Result {
    let (stream, expected, count) = (request.stream.clone(), request.expected, request.commit.events.count());
    let limits = session.open_admin().await?.capabilities().limits;
    let prepared = limits::check_append(&limits, request)?;
    let plan = plan::write(session, &Wanted::append(&prepared)).await?;
    let (repeated, first) = match &plan.decision {
        Decision::Repeated(receipt) => (true, receipt.first),
        Decision::Write(slot) => (false, slot.first),
    };
    let mut json = view::stream_json(&stream);
    json.extend(view::object([
        ("dry_run", true.into()),
        ("events", count.into()),
        ("expected", expected.to_string().into()),
        ("commit", prepared.commit.to_string().into()),
        ("first_revision", first.0.into()),
        ("repeated", repeated.into()),
    ]));
    let what = if repeated { "nothing: it was appended before".to_owned() } else { format!("{count} event(s)") };
    let facts = [
        ("would append", what.into()),
        ("to", stream.to_string().into()),
        ("expecting", expected.to_string().into()),
        ("from revision", first.to_string().into()),
        ("commit", prepared.commit.to_string().into()),
    ];
    session.output().facts(&Value::Object(json), &facts)
}

/// Reads `any`, `no-stream`, `exists` or a revision.
///
/// # Errors
/// `Invalid` for anything else.
pub fn parse_expected(text: &str) -> Result<Expected, Error> {
    match text {
        "any" => Ok(Expected::Any),
        "no-stream" => Ok(Expected::NoStream),
        "exists" => Ok(Expected::Exists),
        digits => match digits.parse() {
            // No stream is as long as this; a conflict would tell to read again and decide again.
            Ok(revision) if i64::try_from(revision).is_ok() => Ok(Expected::At(Revision(revision))),
            Ok(_) | Err(_) => Err(Error::new(ErrorKind::Invalid, "not an expectation")
                .with("known", "any, no-stream, exists, or a revision")),
        },
    }
}

fn single_event(args: &Args) -> Result<NewEvent> {
    let Some(event_type) = args.r#type.clone() else {
        return Err(Failure::usage("an event needs a type", "add --type TYPE, or --events FILE"));
    };
    let data = match args.data.as_str() {
        "-" => files::read_small("-")?,
        text => match text.strip_prefix('@') {
            Some(file) => files::read_small(file)?,
            None => text.as_bytes().to_vec(),
        },
    };
    let data = if args.content_type == ContentType::json() { json_document(data, "--data")? } else { data.into() };
    let metadata = match &args.metadata {
        Some(text) => json_document(text.clone().into_bytes(), "--metadata")?,
        None => Bytes::new(),
    };
    let schema = args.schema;
    let content_type = args.content_type.clone();
    Ok(NewEvent { schema, content_type, metadata, occurred_at: args.time, ..NewEvent::new(event_type, data) })
}

/// JSON without the spaces and line breaks around it, which editors and shells add.
fn json_document(bytes: Vec<u8>, flag: &str) -> Result<Bytes> {
    match serde_json::from_slice::<IgnoredAny>(&bytes) {
        Ok(_) => Ok(Bytes::copy_from_slice(bytes.trim_ascii())),
        Err(cause) => Err(Failure::usage(
            format!("the value of {flag} is not JSON: {cause}"),
            "quote it for the shell ('{\"sum\": 7}'), or name what it is with --content-type",
        )),
    }
}

fn events_of_lines(file: &str, stream: &StreamId) -> Result<Vec<NewEvent>> {
    let mut lines = files::Lines::open(Path::new(file))?;
    let mut events = Vec::new();
    while let Some(line) = lines.next()? {
        let at = |error: Error| error.with("file", file).with("line", line.number);
        let parsed = line::parse_event_of(stream, &line.text).map_err(at)?;
        events.push(parsed.event);
    }
    Ok(events)
}
