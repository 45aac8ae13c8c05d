//! `evstore verify`: reads a whole store and proves that it is complete, consistent and unchanged. Never writes.

mod feed;
mod holes;
mod slots;
mod streams;

use crate::failure::{Failure, Result};
use crate::output::{Cell, Tone};
use crate::session::Session;
use crate::view;
use evstore_api::chain::Chain;
use evstore_api::{Commit, CommitNumber, Content, Position, Revision, StoreName, StreamId, format};
use holes::Holes;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Findings that are kept; the rest is counted.
const FINDINGS_MAX: usize = 1000;

/// What `verify` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Read a whole store and prove that it is complete, consistent and unchanged. Nothing is written.\n\n\
                  The feed: every position is accounted for, every event has the bytes that its checksum and its commit's \
                  digest say, slots and revisions of each stream have no gap. The streams: every one that the feed knows is \
                  listed, its head is where the feed says, and its own slots hold the same commits.\n\nWhat is damaged is \
                  passed over and listed, with its stream, revisions and positions, up to 1,000 places; the rest is \
                  counted. Exits with 4 on any difference.",
    after_help = "Examples:\n  evstore verify\n  evstore verify archive --sample 5\n  evstore verify -o json"
)]
pub struct Args {
    /// The store; else -s, else the default.
    #[arg(id = "STORE", value_parser = crate::args::store_name)]
    store: Option<StoreName>,
    /// How many of the streams are read by themselves too. The feed is always read whole; where it
    /// is damaged, so is every stream.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    sample: u8,
}

/// Something that is not as it has to be.
#[derive(Clone, Debug)]
struct Finding {
    what: &'static str,
    stream: Option<StreamId>,
    place: Place,
    detail: String,
}

/// Where it is, as far as that is known: both ends included.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    commits: Option<(CommitNumber, CommitNumber)>,
    revisions: Option<(Revision, Revision)>,
    positions: Option<(Position, Position)>,
    /// Positions of the stream's commits before and behind it, from which its own can be told.
    between: (Option<Position>, Option<Position>),
}

impl Place {
    fn of(commit: &Commit) -> Self {
        let revisions = (commit.count > 0).then(|| (commit.first_revision, commit.last_revision()));
        let positions = commit.first_position.zip(commit.last_position());
        Self { commits: Some((commit.number, commit.number)), revisions, positions, between: (None, None) }
    }

    fn commit(number: CommitNumber) -> Self {
        Self { commits: Some((number, number)), ..Self::default() }
    }

    fn positions(first: Position, last: Position) -> Self {
        Self { positions: Some((first, last)), ..Self::default() }
    }

    /// `commit 3, revisions 5 to 6, position 9`.
    fn text(&self) -> String {
        let ends = |name: &str, ends: Option<(u64, u64)>| match ends {
            None => None,
            Some((first, last)) if first == last => Some(format!("{name} {first}")),
            Some((first, last)) => Some(format!("{name}s {first} to {last}")),
        };
        let commits = ends("commit", self.commits.map(|(first, last)| (first.0, last.0)));
        let revisions = ends("revision", self.revisions.map(|(first, last)| (first.0, last.0)));
        let positions = ends("position", self.positions.map(|(first, last)| (first.0, last.0)));
        [commits, revisions, positions].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What a stream looks like from the feed.
#[derive(Clone, Debug, Default)]
struct Seen {
    number: CommitNumber,
    revision: Revision,
    chain: Chain,
    deleted: bool,
    /// The feed left something of it out, where it could not be read.
    gap: bool,
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
    /// What the feed could not give.
    holes: Holes,
    /// Whether something could not be read: what is missing then is for the streams to tell.
    damaged: bool,
}

impl Verification {
    fn find(&mut self, what: &'static str, stream: Option<&StreamId>, place: Place, detail: impl ToString) {
        self.add(Finding { what, stream: stream.cloned(), place, detail: detail.to_string() });
    }

    /// Feed and stream may show the same difference: it is told once.
    fn add(&mut self, finding: Finding) {
        let is_same = |known: &Finding| {
            (known.what, &known.stream, known.place.commits) == (finding.what, &finding.stream, finding.place.commits)
        };
        if finding.place.commits.is_some() && self.findings.iter().any(is_same) {
            return;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    fn differences(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }

    /// Gives damage its positions where only one hole is in question, and tells of the holes that are left.
    fn place_damage(&mut self) {
        let mut placed = Vec::new();
        for finding in self.findings.iter_mut().filter(|one| one.what == DAMAGE && one.place.positions.is_none()) {
            let (after, before) = finding.place.between;
            finding.place.positions = self.holes.only_between(after, before);
            placed.extend(finding.place.positions);
        }
        for (first, _) in placed {
            self.holes.remove(first);
        }
        let left: Vec<_> = self.holes.iter().collect();
        for (first, last) in left {
            let detail = "the feed can't be read there, and no stream that can be read has it";
            self.find(DAMAGE, None, Place::positions(first, last), detail);
        }
    }
}

/// What a finding is called where bytes are not what they were.
const DAMAGE: &str = "damage";

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
    feed::verify(&mut verification, &store, &admin, session).await?;
    streams::verify(&mut verification, &*store, &*admin, args.sample, session).await?;
    verification.place_damage();
    report(&verification, session)
}

/// What is wrong with the bytes of a commit, if anything: they have to be those that were appended.
fn content_difference(commit: &Commit) -> Option<(&'static str, String)> {
    if commit.content == Content::Stripped {
        None
    } else if !commit.is_whole() {
        Some(("commit", format!("it has {} of its {} events", commit.events.len(), commit.count)))
    } else if format::digest(&commit.stream, commit.id, &commit.kind, &commit.events) != commit.digest {
        Some(("digest", "its content is not what its digest says".to_owned()))
    } else {
        None
    }
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
        ("differences_left_out", verification.more.into()),
    ]);
    let columns = ["what", "stream", "place", "difference"];
    let mut list = session.output().list("findings", facts, &columns);
    for finding in &verification.findings {
        list.item(&finding_json(finding), || {
            vec![
                Cell::toned(finding.what, Tone::Bad),
                finding.stream.as_ref().map_or(String::new(), ToString::to_string).into(),
                finding.place.text().into(),
                finding.detail.as_str().into(),
            ]
        })?;
    }
    list.end(Map::new(), "")?;
    if verification.more > 0 {
        session.output().note(&format!("and {} more", verification.more));
    }
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
    let Place { commits, revisions, positions, .. } = finding.place;
    let rest = json!({
        "what": finding.what,
        "place": finding.place.text(),
        "first_commit": commits.map(|(first, _)| first.0),
        "last_commit": commits.map(|(_, last)| last.0),
        "first_revision": revisions.map(|(first, _)| first.0),
        "last_revision": revisions.map(|(_, last)| last.0),
        "first_position": positions.map(|(first, _)| first.0),
        "last_position": positions.map(|(_, last)| last.0),
        "difference": finding.detail,
    });
    if let Value::Object(rest) = rest {
        map.extend(rest);
    }
    Value::Object(map).to_string()
}
