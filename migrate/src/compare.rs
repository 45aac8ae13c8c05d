//! Reads both stores and compares them, position by position: numbers, ids, times, boundaries and content. Never by counts alone.

use crate::side::Side;
use crate::walk::Walk;
use crate::{Doing, News, Observer, Progress, deadline};
use evstore_api::chain::Chain;
use evstore_api::{Commit, Content, FeedItem, Position, ReadCommits, Result, StreamId, format};
use std::collections::VecDeque;

/// Differences that are kept; the rest is counted.
const DIFFERENCES_MAX: usize = 100;
/// Positions between two reports of progress.
const REPORT_EVERY: u64 = 1000;

/// Something that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `missing`, `foreign`, `commit`, `content`.
    pub what: &'static str,
    /// Where.
    pub position: Position,
    /// Of which stream, where that is known.
    pub stream: Option<StreamId>,
    /// In words.
    pub detail: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// Behind which position it began.
    pub after: Position,
    /// Up to which position it went.
    pub through: Position,
    /// Commits and markers that were compared.
    pub commits: u64,
    /// Digest over what was read from the one that is copied.
    pub chain: Chain,
    /// What differs, up to a bound.
    pub differences: Vec<Difference>,
    /// Further differences.
    pub more: u64,
}

impl Compared {
    /// How many differences there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.differences.len() as u64 + self.more
    }

    fn find(&mut self, what: &'static str, item: &FeedItem, detail: impl Into<String>) {
        if self.differences.len() < DIFFERENCES_MAX {
            let stream = match item {
                FeedItem::Commit(commit) => Some(commit.stream.clone()),
                FeedItem::Removed { .. } => None,
            };
            self.differences.push(Difference { what, position: ends(item).0, stream, detail: detail.into() });
        } else {
            self.more += 1;
        }
    }
}

/// Compares what two stores hold behind a position, up to another that both have reached.
pub(crate) async fn run(
    from: &Side,
    to: &Side,
    after: Position,
    through: Position,
    observer: Option<&Observer>,
) -> Result<Compared> {
    let mut compared = Compared { after, through, ..Compared::default() };
    let (mut left, mut right) = (Lane::new(from, after, through), Lane::new(to, after, through));
    let mut reported = after.0;
    loop {
        let (one, other) = futures::join!(left.fill(), right.fill());
        one.and(other)?;
        if left.items.is_empty() || right.items.is_empty() {
            unmatched(&mut compared, &mut left, &mut right).await?;
            return Ok(compared);
        }
        let (Some(one), Some(other)) = (left.items.pop_front(), right.items.pop_front()) else { return Ok(compared) };
        let at = ends(&one).1;
        match (one, other) {
            (FeedItem::Removed { first: a, last: b }, FeedItem::Removed { first: c, last: d }) if a == c => {
                let end = b.min(d);
                compared.chain.push_removed(a, end);
                left.give_back(end, b);
                right.give_back(end, d);
            }
            (FeedItem::Commit(one), FeedItem::Commit(other)) if one.first_position == other.first_position => {
                compared.commits += 1;
                compared.chain.push(&one);
                same_commit(&mut compared, from, one, other).await?;
            }
            (one, other) if ends(&one).0 <= ends(&other).0 => {
                compared.find("missing", &one, "the copy does not have it");
                right.items.push_front(other);
            }
            (one, other) => {
                compared.find("foreign", &other, "only the copy has it");
                left.items.push_front(one);
            }
        }
        if let Some(observer) = observer.filter(|_| at.0 >= reported + REPORT_EVERY) {
            reported = at.0;
            observer(News::Progress(Progress { doing: Doing::Comparing, at, through }));
        }
    }
}

/// What one of them has beyond the end of the other.
async fn unmatched<'a>(compared: &mut Compared, left: &mut Lane<'a>, right: &mut Lane<'a>) -> Result<()> {
    for (lane, what, detail) in
        [(left, "missing", "the copy does not have it"), (right, "foreign", "only the copy has it")]
    {
        loop {
            while let Some(item) = lane.items.pop_front() {
                compared.find(what, &item, detail);
            }
            lane.fill().await?;
            if lane.items.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

async fn same_commit(compared: &mut Compared, from: &Side, one: Commit, other: Commit) -> Result<()> {
    if chain_of(&one) != chain_of(&other) {
        let detail = "its numbers, id, time, boundaries or digest differ";
        compared.find("commit", &FeedItem::Commit(other), detail);
        return Ok(());
    }
    if other.content == Content::Kept && !is_as_appended(&other) {
        compared.find("content", &FeedItem::Commit(other), "its content is not what its digest says");
    } else if other.content == Content::Stripped
        && one.content == Content::Kept
        && !is_stripped_by_now(from, &one).await?
    {
        compared.find("content", &FeedItem::Commit(other), "its events are gone from the copy only");
    }
    Ok(())
}

fn chain_of(commit: &Commit) -> Chain {
    let mut chain = Chain::default();
    chain.push(commit);
    chain
}

fn is_as_appended(commit: &Commit) -> bool {
    commit.is_whole()
        && (commit.kind.is_marker()
            || format::digest(&commit.stream, commit.id, &commit.kind, &commit.events) == commit.digest)
}

/// The two stores are not read at one moment: it may have been truncated in between.
async fn is_stripped_by_now(from: &Side, commit: &Commit) -> Result<bool> {
    let stream = commit.stream.clone();
    let request = ReadCommits { stream, from: commit.number, limit: 1, max_bytes: 1, deadline: deadline() };
    let page = from.admin.read_commits(request).await.map_err(|error| from.named(error))?;
    Ok(page.commits.first().is_some_and(|found| found.content == Content::Stripped))
}

fn ends(item: &FeedItem) -> (Position, Position) {
    match item {
        FeedItem::Commit(commit) => {
            (commit.first_position.unwrap_or_default(), commit.last_position().unwrap_or_default())
        }
        FeedItem::Removed { first, last } => (*first, *last),
    }
}

/// What is read from one of the stores.
struct Lane<'a> {
    side: &'a Side,
    walk: Walk,
    items: VecDeque<FeedItem>,
}

impl<'a> Lane<'a> {
    fn new(side: &'a Side, after: Position, through: Position) -> Self {
        let walk = Walk::between(side.store.clone(), side.admin.clone(), after, through);
        Self { side, walk, items: VecDeque::new() }
    }

    async fn fill(&mut self) -> Result<()> {
        if self.items.is_empty() {
            let read = self.walk.next().await.map_err(|error| self.side.named(error))?;
            self.items.extend(read.into_iter().flatten());
        }
        Ok(())
    }

    /// Ranges may be cut at other places in the other store.
    fn give_back(&mut self, used: Position, last: Position) {
        if used < last {
            self.items.push_front(FeedItem::Removed { first: used.next(), last });
        }
    }
}
