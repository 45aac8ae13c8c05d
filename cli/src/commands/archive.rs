//! `evstore archive`: moving cold commits of a tiered store into its archive, and looking after what is there.

use crate::commands::compare;
use crate::failure::{Failure, Result};
use crate::output::{Cell, Format, Tone};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use clap::Subcommand;
use evstore_api::provider::parse_duration;
use evstore_api::{Error, ErrorKind, StoreName};
use evstore_compare::figures::{bytes, dollars, grouped};
use evstore_tiered::{Archiver, Damage, Policy, Ran, Stats};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// What `archive` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Move cold commits of a tiered store into its archive, and look after what is there.\n\n\
                  A tiered store (provider = \"tiered\") has another store in front (hot) and segments on S3 or in a folder behind it \
                  (archive). `run` moves what its policy says there: each segment is read back and compared before the store in front \
                  lets go of its events. Reads are as before. It can be repeated, cut off anywhere, and run by two at once. \
                  docs/ARCHIVE.md has the format, which zstdcat reads.",
    after_help = "Examples:\n  evstore archive run\n  evstore archive run cold --keep-last 100000\n  \
                  evstore archive run cold --older-than 90d --every 1h\n  evstore archive verify cold\n  evstore archive stats -o json\n  \
                  evstore archive compact\n  evstore archive cat | jq -r .type | sort | uniq -c"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Archive what the policy says: of the config, or of the flags instead.
    #[command(after_help = "Examples:\n  evstore archive run\n  evstore archive run cold --keep-last 100000\n  \
                            evstore archive run cold --older-than 90d --below-snapshot --every 1h")]
    Run {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
        /// Commits that were taken longer ago than this: 90d, 12h.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        older_than: Option<Duration>,
        /// All but so many events at the end of the feed.
        #[arg(long, value_name = "EVENTS")]
        keep_last: Option<u64>,
        /// Only commits that the snapshot of their stream has folded in.
        #[arg(long)]
        below_snapshot: bool,
        /// Again after this time, until interrupted.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        every: Option<Duration>,
    },
    /// Read the whole archive and prove that it is as it was written; where it is not, say which bytes of which object.
    #[command(after_help = "Examples:\n  evstore archive verify\n  evstore archive verify cold -o json")]
    Verify {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
    },
    /// Count what is archived, and price a month of it.
    #[command(
        after_help = "Examples:\n  evstore archive stats\n  evstore archive stats cold --prices ours.toml -o json"
    )]
    Stats {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
        /// Prices from a file instead of those that ship with the command.
        #[arg(long, value_name = "FILE")]
        prices: Option<PathBuf>,
    },
    /// Put small segments together, take out what was truncated or deleted, remove what nothing names.
    #[command(after_help = "Examples:\n  evstore archive compact\n  evstore archive compact cold -o json")]
    Compact {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
    },
    /// Print the archived events as lines of JSON, in the order of the feed.
    #[command(
        after_help = "Examples:\n  evstore archive cat | head\n  evstore archive cat cold | jq -c 'select(.type == \"placed\")'"
    )]
    Cat {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
    },
}

fn parse_time(text: &str) -> std::result::Result<Duration, Error> {
    parse_duration(text).ok_or_else(|| Error::new(ErrorKind::Invalid, "not a time").with("such as", "90d, 12h, 5m"))
}

/// Does one of them.
///
/// # Errors
/// Wrong use for a store that is not tiered; as calls to the store in front and to the archive.
pub async fn run(args: Args, session: &mut Session) -> Result {
    session.refuse_namespace("an archive is of a whole store")?;
    match args.command {
        Command::Run { store, older_than, keep_last, below_snapshot, every } => {
            session.select(store);
            let given = Policy { older_than, keep_last, below_snapshot };
            archive(session, given, every).await
        }
        Command::Verify { store } => {
            session.select(store);
            verify(session).await
        }
        Command::Stats { store, prices } => {
            session.select(store);
            stats(session, prices).await
        }
        Command::Compact { store } => {
            session.select(store);
            compact(session).await
        }
        Command::Cat { store } => {
            session.select(store);
            cat(session).await
        }
    }
}

async fn open(session: &mut Session) -> Result<Archiver> {
    let (provider, settings) = session.settings()?;
    if provider.name != evstore_tiered::NAME {
        let name = settings.store();
        return Err(Failure::usage(
            format!("the store {name} has no archive: its provider is {}", provider.name),
            "configure a tiered store in front of which it stands: provider = \"tiered\", hot, archive",
        ));
    }
    let opened = Archiver::open(&settings, &session.providers()).await;
    opened.map_err(|error| session.explained(error.into()))
}

async fn archive(session: &mut Session, given: Policy, every: Option<Duration>) -> Result {
    let archiver = open(session).await?;
    let policy = if given == Policy::default() { archiver.policy() } else { given };
    if policy.check().is_err() {
        return Err(Failure::usage(
            "nothing says what is to be archived",
            "set older_than, keep_last or below_snapshot in the config, or give --older-than, --keep-last or --below-snapshot",
        ));
    }
    let archiver = archiver.with_policy(policy);
    loop {
        let progress = Progress::new(session.output(), "archiving", Unit::Items("positions"), Some(0));
        let tell = |now: evstore_tiered::Progress| {
            progress.of(now.of);
            progress.at(now.done);
        };
        let ran = archiver.run(&tell).await;
        progress.end();
        let ran = ran.map_err(|error| session.explained(error.into()))?;
        tell_ran(session, &archiver, ran)?;
        match every {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Ok(archiver.close().await?),
        }
    }
}

fn tell_ran(session: &mut Session, archiver: &Archiver, ran: Ran) -> Result {
    let json = json!({
        "archived": { "commits": ran.commits, "events": ran.events, "segments": ran.segments, "bytes": ran.bytes },
        "through": ran.through,
        "archive": archiver.place(),
    });
    let archived = match ran.events {
        0 => Cell::toned("nothing: what the policy says is archived already", Tone::Faint),
        events => Cell::toned(
            format!(
                "{} events in {} commits, {} segments, {}",
                grouped(events),
                grouped(ran.commits),
                ran.segments,
                bytes(ran.bytes)
            ),
            Tone::Good,
        ),
    };
    session.output().facts(
        &json,
        &[("archived", archived), ("through", grouped(ran.through).into()), ("archive", archiver.place().into())],
    )
}

async fn verify(session: &mut Session) -> Result {
    let archiver = open(session).await?;
    let progress = Progress::new(session.output(), "verifying", Unit::Items("segments"), Some(0));
    let tell = |done, of| {
        progress.of(of);
        progress.at(done);
    };
    let verified = archiver.verify(&tell).await;
    progress.end();
    let verified = verified.map_err(|error| session.explained(error.into()))?;
    archiver.close().await?;
    let damage = |damage: &Damage| json!({ "object": damage.object, "offset": damage.offset, "why": damage.why });
    let json = json!({
        "segments": verified.segments, "commits": verified.commits, "events": verified.events, "bytes": verified.bytes,
        "damages": verified.damages.iter().map(damage).collect::<Vec<_>>(),
        "archive": archiver.place(),
    });
    let place = archiver.place();
    let mut facts: Vec<(&str, Cell)> = vec![
        ("archive", place.into()),
        ("segments", grouped(verified.segments).into()),
        ("events", grouped(verified.events).into()),
        ("read", bytes(verified.bytes).into()),
    ];
    for damage in &verified.damages {
        let place = damage.offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
        facts.push(("damaged", Cell::toned(format!("{}{place}: {}", damage.object, damage.why), Tone::Bad)));
    }
    if verified.damages.is_empty() {
        facts.push(("damaged", Cell::toned("nothing", Tone::Good)));
    }
    session.output().facts(&json, &facts)?;
    if verified.damages.is_empty() {
        return Ok(());
    }
    Err(Failure::Broken {
        message: format!("{} objects of the archive are not as they were written", verified.damages.len()),
        hint: "bring them back from a version of the bucket or from a backup; what they hold can't be read until then"
            .into(),
    })
}

async fn stats(session: &mut Session, prices: Option<PathBuf>) -> Result {
    let archiver = open(session).await?;
    let stats = archiver.stats().await.map_err(|error| session.explained(error.into()))?;
    archiver.close().await?;
    let costs = costs(&stats, archiver.hot_provider(), prices)?;
    let ratio = stats.raw_bytes as f64 / stats.bytes.max(1) as f64;
    let json = json!({
        "archive": archiver.place(),
        "catalog": stats.catalog, "segments": stats.segments, "commits": stats.commits, "events": stats.events,
        "bytes": stats.bytes, "json_bytes": stats.raw_bytes, "ratio": ratio,
        "through": stats.through, "end": stats.end,
        "to_erase": { "streams": stats.gone, "objects": stats.garbage },
        "usd_a_month": costs.iter().map(|(name, usd)| json!({ "offer": name, "usd": usd })).collect::<Vec<_>>(),
    });
    let place = archiver.place();
    let mut facts: Vec<(&str, Cell)> = vec![
        ("archive", place.into()),
        ("segments", grouped(stats.segments).into()),
        ("events", format!("{} in {} commits", grouped(stats.events), grouped(stats.commits)).into()),
        (
            "bytes",
            format!("{}, {} as lines of JSON: {ratio:.1} times", bytes(stats.bytes), bytes(stats.raw_bytes)).into(),
        ),
        ("through", format!("{} of {}", grouped(stats.through), grouped(stats.end)).into()),
    ];
    let due = format!("{} streams, {} objects: evstore archive compact", grouped(stats.gone), grouped(stats.garbage));
    if stats.gone + stats.garbage > 0 {
        facts.push(("to erase", Cell::toned(due, Tone::Warning)));
    }
    for (name, usd) in &costs {
        facts.push(("a month", format!("{} on {name}", dollars(*usd)).into()));
    }
    session.output().facts(&json, &facts)
}

/// What a month of what is archived costs: on S3, and where it would be else. Storage only.
fn costs(stats: &Stats, hot: &str, prices: Option<PathBuf>) -> Result<Vec<(String, f64)>> {
    const GB: f64 = 1e9;
    let prices = compare::prices(prices.as_deref())?;
    let stored = prices.offers.iter().filter_map(|offer| {
        let price = offer.stored_gb_month.as_ref()?.each();
        let bytes = match offer.provider.as_str() {
            "s3" => stats.bytes as f64,
            provider if provider == hot => {
                stats.raw_bytes as f64 + offer.stored_bytes_more as f64 * stats.commits as f64
            }
            _ => return None,
        };
        Some((offer.name.clone(), bytes / GB * price))
    });
    Ok(stored.collect())
}

async fn compact(session: &mut Session) -> Result {
    let archiver = open(session).await?;
    let progress = Progress::new(session.output(), "compacting", Unit::Items("segments"), None);
    let compacted = archiver.compact().await;
    progress.end();
    let done = compacted.map_err(|error| session.explained(error.into()))?;
    archiver.close().await?;
    let json = json!({
        "rewritten": done.rewritten, "made": done.made, "removed_commits": done.removed_commits,
        "removed_objects": done.removed_objects, "archive": archiver.place(),
    });
    let rewritten = match done.rewritten {
        0 => Cell::toned("nothing: no small segments, and nothing to take out", Tone::Faint),
        segments => format!("{} segments as {}", grouped(segments), grouped(done.made)).into(),
    };
    let facts: [(&str, Cell); 3] = [
        ("rewritten", rewritten),
        ("taken out", format!("{} commits", grouped(done.removed_commits)).into()),
        ("removed", format!("{} objects", grouped(done.removed_objects)).into()),
    ];
    session.output().facts(&json, &facts)
}

async fn cat(session: &mut Session) -> Result {
    if session.output().format() == Format::Json {
        return Err(Failure::usage("archive cat prints lines", "use -o jsonl, or leave -o out"));
    }
    let archiver = open(session).await?;
    let mut failed = None;
    let printed = archiver.cat(|lines| {
        session.output().bytes(lines).map_err(|failure| {
            failed = Some(failure);
            Error::new(ErrorKind::Closed, "nobody reads it any more")
        })
    });
    let printed = printed.await;
    if let Some(failure) = failed {
        return Err(failure);
    }
    printed?;
    session.output().flush()?;
    Ok(archiver.close().await?)
}
