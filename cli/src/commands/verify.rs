//! `evstore verify`: reads a whole store and proves that it is complete, consistent and unchanged. Never writes.

use crate::failure::{Failure, Result};
use crate::output::{Cell, Tone};
use crate::progress::{Progress, Unit};
use crate::session::{Session, deadline};
use crate::view;
use crate::walk::Walk;
use evstore_api::capabilities::Positions;
use evstore_api::chain::Chain;
use evstore_api::{
    Commit, CommitKind, CommitNumber, Content, Error, ErrorKind, EventStore, FeedItem, Head, ListStreams,
    NamespaceFilter, Position, ReadCommits, ReadHead, Revision, StoreAdmin, StoreName, StreamId, StreamState, format,
};
use futures::{StreamExt as _, stream};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Findings that are kept; the rest is counted.
const FINDINGS_MAX: usize = 1000;
/// Streams that are read at a time.
const STREAMS_MAX: usize = 16;
/// Most bytes in a page.
const PAGE_BYTES: u64 = 4 << 20;

/// What `verify` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Read a whole store and prove that it is complete, consistent and unchanged. Nothing is written.\n\n\
                  The feed: every position is accounted for, every event has the bytes that its checksum and its commit's \
                  digest say, slots and revisions of each stream have no gap. The streams: every one that the feed knows is \
                  listed, its head is where the feed says, and its own slots hold the same commits. Exits with 4 on any \
                  difference.",
    after_help = "Examples:\n  evstore verify\n  evstore verify archive --sample 5\n  evstore verify -o json"
)]
pub struct Args {
    /// The store; else -s, else the default.
    #[arg(id = "STORE", value_parser = crate::args::store_name)]
    store: Option<StoreName>,
    /// How many of the streams are read by themselves too. The feed is always read whole.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    sample: u8,
}

/// Something that is not as it has to be.
#[derive(Clone, Debug)]
struct Finding {
    what: &'static str,
    stream: Option<StreamId>,
    place: String,
    detail: String,
}

/// What a stream looks like from the feed.
#[derive(Clone, Debug)]
struct Seen {
    number: CommitNumber,
    revision: Revision,
    chain: Chain,
    deleted: bool,
}

/// What was looked at and what was found.
#[derive(Default)]
struct Verification {
    findings: Vec<Finding>,
    more: u64,
    events: u64,
    commits: u64,
    positions: u64,
    streams: u64,
    sampled: u64,
    chain: Chain,
    seen: HashMap<StreamId, Seen>,
}

impl Verification {
    fn find(&mut self, what: &'static str, stream: Option<&StreamId>, place: impl ToString, detail: impl ToString) {
        if self.findings.len() < FINDINGS_MAX {
            let (place, detail) = (place.to_string(), detail.to_string());
            self.findings.push(Finding { what, stream: stream.cloned(), place, detail });
        } else {
            self.more += 1;
        }
    }

    fn differences(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }
}

/// Verifies.
///
/// # Errors
/// Broken when anything differs; as the store's reads.
pub async fn run(args: Args, session: &mut Session) -> Result {
    session.refuse_namespace("verify reads a whole store")?;
    session.select(args.store);
    let store = session.open_store().await?;
    let admin = session.open_admin().await?;
    let mut verification = Verification::default();
    verify_feed(&mut verification, &store, &admin, session).await?;
    verify_streams(&mut verification, &store, &admin, args.sample, session).await?;
    report(&verification, session)
}

/// Damage is what is looked for, not a reason to stop.
fn is_damage(failure: &Failure) -> bool {
    matches!(failure, Failure::Store(error) if error.kind() == ErrorKind::Corrupt)
}

async fn verify_feed(
    verification: &mut Verification,
    store: &Arc<dyn EventStore>,
    admin: &Arc<dyn StoreAdmin>,
    session: &mut Session,
) -> Result {
    let contiguous = store.capabilities().positions == Positions::Contiguous;
    let mut walk = match Walk::begin(store.clone(), admin.clone()).await {
        Err(failure) if is_damage(&failure) => {
            verification.find("feed", None, "", failure.text().unwrap_or_default());
            return Ok(());
        }
        walk => walk?,
    };
    let total = walk.through().map(|through| through.0);
    let progress = Progress::new(session.output(), "verifying the feed", Unit::Items("positions"), total);
    let mut reached = Position(0);
    loop {
        let items = match walk.next().await {
            Err(failure) if is_damage(&failure) => {
                let after = format!("after position {reached}");
                verification.find("feed", None, after, failure.text().unwrap_or_default());
                return Ok(());
            }
            items => items?,
        };
        let Some(items) = items else { break };
        for item in &items {
            if contiguous {
                check_place(verification, item, &mut reached);
            }
            match item {
                FeedItem::Commit(commit) => check_commit(verification, commit),
                FeedItem::Removed { first, last } => verification.chain.push_removed(*first, *last),
            }
        }
        progress.at(reached.0);
    }
    verification.positions = reached.0;
    if contiguous && walk.through().is_some_and(|through| through != reached) {
        let detail = format!("the feed ends at position {}", walk.through().unwrap_or_default());
        verification.find("feed", None, format!("position {reached}"), detail);
    }
    Ok(())
}

/// Every position is accounted for, once.
fn check_place(verification: &mut Verification, item: &FeedItem, reached: &mut Position) {
    let (stream, first, last) = match item {
        FeedItem::Commit(commit) => (Some(&commit.stream), commit.first_position, commit.last_position()),
        FeedItem::Removed { first, last } => (None, Some(*first), Some(*last)),
    };
    let (Some(first), Some(last)) = (first, last) else {
        verification.find("position", stream, "", "a commit in the feed has no position");
        return;
    };
    if first != reached.next() {
        verification.find("position", stream, format!("position {first}"), format!("wanted {}", reached.next()));
    }
    *reached = last;
}

fn check_commit(verification: &mut Verification, commit: &Commit) {
    verification.commits += 1;
    verification.chain.push(commit);
    if commit.content == Content::Kept {
        verification.events += commit.events.len() as u64;
    }
    check_content(verification, commit);
    let (number, first, deleted) = match verification.seen.get(&commit.stream) {
        Some(seen) => (seen.number.next(), seen.revision.next(), seen.deleted),
        None => (CommitNumber(1), Revision(1), false),
    };
    let place = format!("commit {}", commit.number);
    if commit.number != number {
        verification.find("commit number", Some(&commit.stream), &place, format!("wanted {number}"));
    }
    if commit.first_revision != first {
        let detail = format!("it begins at revision {}, wanted {first}", commit.first_revision);
        verification.find("revision", Some(&commit.stream), &place, detail);
    }
    if deleted {
        verification.find("tombstone", Some(&commit.stream), &place, "it stands after the stream's deletion");
    }
    let seen = verification.seen.entry(commit.stream.clone()).or_insert(Seen {
        number,
        revision: Revision(0),
        chain: Chain::default(),
        deleted: false,
    });
    seen.number = commit.number;
    seen.revision = commit.last_revision();
    seen.chain.push(commit);
    seen.deleted |= commit.kind == CommitKind::Deleted;
}

/// The bytes are those that were appended.
fn check_content(verification: &mut Verification, commit: &Commit) {
    if commit.content == Content::Stripped {
        return;
    }
    let place = format!("commit {}", commit.number);
    if !commit.is_whole() {
        let detail = format!("it has {} of its {} events", commit.events.len(), commit.count);
        verification.find("commit", Some(&commit.stream), place, detail);
    } else if format::digest(&commit.stream, commit.id, &commit.kind, &commit.events) != commit.digest {
        verification.find("digest", Some(&commit.stream), place, "its content is not what its digest says");
    }
}

async fn verify_streams(
    verification: &mut Verification,
    store: &Arc<dyn EventStore>,
    admin: &Arc<dyn StoreAdmin>,
    sample: u8,
    session: &mut Session,
) -> Result {
    let total = Some(verification.seen.len() as u64);
    let progress = Progress::new(session.output(), "verifying streams", Unit::Items("streams"), total);
    let mut request = ListStreams {
        namespace: NamespaceFilter::All,
        category: None,
        prefix: String::new(),
        after: None,
        limit: store.capabilities().limits.page_items,
        deadline: deadline(),
    };
    loop {
        request.deadline = deadline();
        let page = store.list_streams(request.clone()).await?;
        let mut sampled = Vec::new();
        for listed in &page.streams {
            verification.streams += 1;
            let Some(seen) = verification.seen.remove(&listed.stream) else {
                // A stream may have been made since the feed was read.
                if !is_in_feed_now(store, &listed.stream, verification.positions).await? {
                    verification.find(
                        "stream",
                        Some(&listed.stream),
                        "",
                        "it is listed, and the feed has nothing of it",
                    );
                }
                continue;
            };
            check_head(verification, &listed.stream, &listed.head, &seen);
            if is_sampled(&listed.stream, sample) {
                sampled.push((listed.stream.clone(), seen));
            }
        }
        progress.at(verification.streams);
        verification.sampled += sampled.len() as u64;
        let reads = sampled.into_iter().map(|(stream, seen)| read_stream(&**store, &**admin, stream, seen));
        let mut read = stream::iter(reads).buffer_unordered(STREAMS_MAX);
        while let Some((stream, found)) = read.next().await {
            match found {
                Ok(None) => {}
                Ok(Some(detail)) => verification.find("stream", Some(&stream), "", detail),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    verification.find("stream", Some(&stream), "", error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    let mut missing: Vec<StreamId> = verification.seen.drain().map(|(stream, _)| stream).collect();
    missing.sort();
    for stream in missing {
        verification.find("stream", Some(&stream), "", "the feed has it, and it is not listed");
    }
    Ok(())
}

/// Whether a stream that the feed did not have came in after the feed was read.
async fn is_in_feed_now(store: &Arc<dyn EventStore>, stream: &StreamId, positions: u64) -> Result<bool> {
    let request = ReadHead { stream: stream.clone(), deadline: deadline() };
    let has_events = store.head(request).await?.number.0 > 0;
    let grown = store.feed_head(deadline()).await?.position.is_none_or(|position| position.0 > positions);
    Ok(has_events && grown)
}

/// Always the same streams of the same percentage, so that a finding can be looked at again.
fn is_sampled(stream: &StreamId, percent: u8) -> bool {
    let mut hasher = DefaultHasher::new();
    stream.hash(&mut hasher);
    hasher.finish() % 100 < u64::from(percent)
}

/// A head is where the feed says, or further on by now.
fn check_head(verification: &mut Verification, stream: &StreamId, head: &Head, seen: &Seen) {
    let place = format!("commit {}", head.number);
    if head.number < seen.number {
        let detail = format!("its head is behind the feed, which has commit {}", seen.number);
        verification.find("head", Some(stream), place, detail);
    } else if head.number == seen.number && head.revision != seen.revision {
        let detail = format!("its head has revision {}, the feed has {}", head.revision, seen.revision);
        verification.find("head", Some(stream), place, detail);
    } else if head.number == seen.number && (head.state == StreamState::Deleted) != seen.deleted {
        verification.find("head", Some(stream), place, "head and feed do not agree on whether it is deleted");
    }
}

/// Reads the slots of a stream by themselves; says what differs from the feed.
async fn read_stream(
    store: &dyn EventStore,
    admin: &dyn StoreAdmin,
    stream: StreamId,
    seen: Seen,
) -> (StreamId, Result<Option<String>, Error>) {
    let found = compare_stream(store, admin, &stream, &seen).await;
    (stream, found)
}

async fn compare_stream(
    store: &dyn EventStore,
    admin: &dyn StoreAdmin,
    stream: &StreamId,
    seen: &Seen,
) -> Result<Option<String>, Error> {
    let mut chain = Chain::default();
    let mut next = Some(CommitNumber(1));
    let mut reached = CommitNumber(0);
    while let Some(from) = next.filter(|from| *from <= seen.number) {
        let request = ReadCommits {
            stream: stream.clone(),
            from,
            limit: store.capabilities().limits.page_items,
            max_bytes: PAGE_BYTES,
            deadline: deadline(),
        };
        let page = admin.read_commits(request).await?;
        for commit in page.commits.iter().filter(|commit| commit.number <= seen.number) {
            let mut alone = Verification::default();
            check_content(&mut alone, commit);
            if let Some(finding) = alone.findings.pop() {
                return Ok(Some(format!("{}: {}", finding.place, finding.detail)));
            }
            chain.push(commit);
            reached = commit.number;
        }
        next = page.next;
    }
    Ok(match (reached == seen.number, chain == seen.chain) {
        (true, true) => None,
        (false, _) => Some(format!("its slots end at commit {reached}, the feed has commit {}", seen.number)),
        (true, false) => Some("its slots hold other commits than the feed".to_owned()),
    })
}

fn report(verification: &Verification, session: &mut Session) -> Result {
    let facts = view::object([
        ("events", verification.events.into()),
        ("commits", verification.commits.into()),
        ("positions", verification.positions.into()),
        ("streams", verification.streams.into()),
        ("streams_read", verification.sampled.into()),
        ("chain", verification.chain.to_string().into()),
        ("differences", verification.differences().into()),
    ]);
    let columns = ["what", "stream", "place", "difference"];
    let mut list = session.output().list("findings", facts, &columns)?;
    for finding in &verification.findings {
        list.item(&finding_json(finding), || {
            vec![
                Cell::toned(finding.what, Tone::Bad),
                finding.stream.as_ref().map_or(String::new(), ToString::to_string).into(),
                finding.place.as_str().into(),
                finding.detail.as_str().into(),
            ]
        })?;
    }
    list.end(Map::new(), "")?;
    let counts = format!(
        "{} events in {} commits of {} streams, {} of them read by themselves",
        verification.events, verification.commits, verification.streams, verification.sampled
    );
    if verification.differences() == 0 {
        session.output().note(&format!("complete and unchanged: {counts} (chain: {})", verification.chain));
        return Ok(());
    }
    Err(Failure::Broken {
        message: format!("{} differences in {counts}", verification.differences()),
        hint: "nothing was changed; keep the store as it is, and restore what is damaged from an export".into(),
    })
}

fn finding_json(finding: &Finding) -> String {
    let mut map = finding.stream.as_ref().map(view::stream_json).unwrap_or_default();
    let rest = json!({ "what": finding.what, "place": finding.place, "difference": finding.detail });
    if let Value::Object(rest) = rest {
        map.extend(rest);
    }
    Value::Object(map).to_string()
}
