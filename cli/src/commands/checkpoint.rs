//! `evstore checkpoint`: how far each consumer is, and moving one by hand.

use crate::failure::Result;
use crate::moment;
use crate::output::Cell;
use crate::session::Session;
use crate::view;
use bytes::Bytes;
use clap::Subcommand;
use evstore::Checkpoint;
use evstore_api::{
    Cursor, Error, ErrorKind, FeedFilter, FeedStart, Position, PutRecord, ReadFeed, ReadRecord, Record, RecordExpected,
    RecordKey, RecordKind, RecordName,
};
use evstore_migrate::pages::Records;
use serde_json::{Map, Value};

/// What `checkpoint` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore checkpoint list\n  evstore checkpoint get invoices -o json\n  \
                        evstore checkpoint set invoices 1200\n  evstore checkpoint delete invoices -y")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints, by consumer.
    List,
    /// Show a consumer's checkpoint.
    Get {
        /// The consumer.
        name: RecordName,
    },
    /// Move a consumer: it goes on after this place, one that runs too, and forgets what it parked.
    Set {
        /// The consumer.
        name: RecordName,
        /// A position, or a cursor as `feed -o json` prints it under next.
        #[arg(value_name = "POSITION")]
        place: String,
        /// Say what would be done, and do not.
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a consumer's checkpoint: it begins at the first event again.
    Delete {
        /// The consumer.
        name: RecordName,
        /// Say what would be done, and do not.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the store's records.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.command {
        Command::List => list(session).await,
        Command::Get { name } => {
            let record = existing(&name, session).await?;
            print(session, &record, None)
        }
        Command::Set { name, place, dry_run } => set(name, &place, dry_run, session).await,
        Command::Delete { name, dry_run } => delete(name, dry_run, session).await,
    }
}

fn key(name: RecordName) -> RecordKey {
    RecordKey { kind: RecordKind::Checkpoint, name }
}

async fn list(session: &mut Session) -> Result {
    let store = session.open_store().await?;
    let mut records = Records::all(&*store, RecordKind::Checkpoint);
    let columns = ["consumer", "position", "updated at"];
    let mut list = session.output().list("checkpoints", view::object([]), &columns);
    while let Some(page) = records.next(&*store).await? {
        for record in &page {
            list.item(&Value::Object(facts(record)).to_string(), || {
                let name = record.key.name.as_str();
                vec![name.into(), place_cell(record), moment::show(record.updated_at).into()]
            })?;
        }
    }
    list.end(view::object([]), "no checkpoints")
}

/// The cursor in a record, where it is one.
fn cursor(record: &Record) -> Option<Cursor> {
    Checkpoint::from_value(record.value.as_ref()?).ok()?.cursor
}

/// Whether a consumer has made its checkpoint and not handled anything yet.
fn begins(record: &Record) -> bool {
    let read = record.value.as_deref().map(Checkpoint::from_value);
    matches!(read, Some(Ok(Checkpoint { cursor: None, .. })))
}

fn facts(record: &Record) -> Map<String, Value> {
    let cursor = cursor(record);
    let position = cursor.as_ref().and_then(Cursor::position);
    view::object([
        ("consumer", record.key.name.as_str().into()),
        ("position", position.map(|position| position.0).into()),
        ("cursor", cursor.map(|cursor| cursor.to_string()).into()),
        ("number", record.number.0.into()),
        ("updated_at", moment::json(record.updated_at)),
    ])
}

fn place_cell(record: &Record) -> Cell {
    match cursor(record) {
        Some(cursor) => place_of(&cursor).into(),
        None if begins(record) => "not begun".into(),
        None => view::preview(record.value.as_deref().unwrap_or_default()).into(),
    }
}

fn print(session: &mut Session, record: &Record, note: Option<(&'static str, &'static str)>) -> Result {
    let mut json = facts(record);
    let mut shown = vec![
        ("consumer", record.key.name.as_str().into()),
        ("position", place_cell(record)),
        ("updated at", moment::show(record.updated_at).into()),
    ];
    if let Some((key, text)) = note {
        json.insert(key.to_owned(), true.into());
        shown.push((key, text.into()));
    }
    session.output().facts(&Value::Object(json), &shown)
}

async fn find(name: &RecordName, session: &mut Session) -> Result<Option<Record>> {
    let store = session.open_store().await?;
    let request = ReadRecord { key: key(name.clone()), deadline: session.deadline() };
    Ok(store.read_record(request).await?.filter(|record| record.value.is_some()))
}

async fn existing(name: &RecordName, session: &mut Session) -> Result<Record> {
    let missing = || Error::new(ErrorKind::NotFound, "there is no checkpoint of this name").with("consumer", name);
    Ok(find(name, session).await?.ok_or_else(missing)?)
}

async fn set(name: RecordName, place: &str, dry_run: bool, session: &mut Session) -> Result {
    let store = session.open_store().await?;
    let end = store.feed_head(session.deadline()).await?;
    let cursor = match (place.parse::<u64>(), end.position) {
        (Ok(position), Some(end_position)) if position <= end_position.0 => {
            Cursor::total(end.cursor.incarnation(), Position(position))
        }
        (Ok(position), Some(end_position)) => {
            return Err(Error::new(ErrorKind::CursorRefused, "the position lies beyond the end of the feed")
                .with("given", position)
                .with("end", end_position)
                .into());
        }
        (Ok(_), None) => {
            let error = Error::new(ErrorKind::CursorRefused, "this store's feed has no positions; give a cursor");
            return Err(error.into());
        }
        (Err(_), _) => place.parse()?,
    };
    // The store itself says whether the cursor is one of its own: a consumer would find out when it starts.
    let try_it = ReadFeed {
        from: FeedStart::After(cursor.clone()),
        filter: FeedFilter::none(),
        limit: 1,
        max_bytes: 1,
        deadline: session.deadline(),
    };
    store.read_feed(try_it).await?;
    let found = find(&name, session).await?;
    let from = found.as_ref().map_or("nowhere".to_owned(), |record| {
        let cursor = self::cursor(record);
        cursor.map_or("an unreadable place".to_owned(), |cursor| place_of(&cursor))
    });
    let json = || {
        view::object([
            ("consumer", name.as_str().into()),
            ("from", from.as_str().into()),
            ("to", place_of(&cursor).into()),
            ("cursor", cursor.to_string().into()),
        ])
    };
    let what = format!("{name} from {from} to {}", place_of(&cursor));
    if dry_run {
        let mut json = json();
        json.insert("dry_run".into(), true.into());
        return session.output().facts(&Value::Object(json), &[("would move", what.into())]);
    }
    // The number that was read: a consumer that runs meanwhile is not overwritten unseen.
    let expected = found.map_or(RecordExpected::Absent, |record| RecordExpected::At(record.number));
    let value = Some(Bytes::from(cursor.to_string()));
    let put =
        store.put_record(PutRecord { key: key(name.clone()), expected, value, deadline: session.deadline() }).await?;
    session.written(None);
    let mut json = json();
    json.insert("number".into(), put.number.0.into());
    session.output().facts(&Value::Object(json), &[("moved", what.into())])
}

fn place_of(cursor: &Cursor) -> String {
    cursor.position().map_or_else(|| cursor.to_string(), |position| position.to_string())
}

async fn delete(name: RecordName, dry_run: bool, session: &mut Session) -> Result {
    let record = existing(&name, session).await?;
    if dry_run {
        return print(session, &record, Some(("dry_run", "it would be deleted")));
    }
    session.confirm(&format!("Delete the checkpoint of {name}? It begins at the first event again."))?;
    let store = session.open_store().await?;
    let expected = RecordExpected::At(record.number);
    store.put_record(PutRecord { key: key(name), expected, value: None, deadline: session.deadline() }).await?;
    session.written(None);
    print(session, &record, Some(("deleted", "yes")))
}
