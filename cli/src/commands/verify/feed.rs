//! The feed of a store: every position accounted for, every commit what its digest says, every stream without a gap.

use super::{DAMAGE, Place, Verification, content_difference};
use crate::failure::{Failure, Result};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use evstore_api::capabilities::Positions;
use evstore_api::{Commit, CommitKind, CommitNumber, Content, EventStore, FeedItem, Position, Revision, StoreAdmin};
use evstore_migrate::walk::{Damage, Step, Walk};
use std::sync::Arc;

/// Reads the whole feed.
///
/// # Errors
/// As the store's reads, for anything but damage.
pub async fn verify(
    verification: &mut Verification,
    store: &Arc<dyn EventStore>,
    admin: &Arc<dyn StoreAdmin>,
    session: &mut Session,
) -> Result {
    let contiguous = store.capabilities().positions == Positions::Contiguous;
    let mut walk = Walk::begin(store.clone(), admin.clone(), Damage::IsPassedOver).await?;
    let total = walk.through().map(|through| through.0);
    let progress = Progress::new(session.output(), "verifying the feed", Unit::Items("positions"), total);
    let mut reached = Position(0);
    loop {
        let step = walk.step().await?;
        // The slots of these streams are read by themselves later, and their damage told of then.
        verification.damaged |= !walk.damaged_stubs().is_empty();
        let items = match step {
            Step::Items(items) => items,
            Step::Unreadable(positions, error) => {
                pass_over(verification, positions, &Failure::from(error), &mut reached);
                continue;
            }
            Step::End => break,
        };
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
    if let Some(through) = walk.through().filter(|through| contiguous && *through != reached) {
        let detail = format!("the feed ends at position {through}");
        verification.find("feed", None, Place::positions(reached, reached), detail);
    }
    Ok(())
}

/// Remembers what can't be read: the streams may have it.
fn pass_over(
    verification: &mut Verification,
    positions: Option<(Position, Position)>,
    failure: &Failure,
    reached: &mut Position,
) {
    verification.damaged = true;
    match positions {
        Some((first, last)) => {
            verification.holes.add(first, last);
            *reached = last;
        }
        None => {
            let sentence = failure.sentence();
            let detail = format!("the feed can't be read from there on: {sentence}");
            verification.find(DAMAGE, None, Place::positions(reached.next(), reached.next()), detail);
        }
    }
}

/// Every position is accounted for, once.
fn check_place(verification: &mut Verification, item: &FeedItem, reached: &mut Position) {
    let (stream, first, last) = match item {
        FeedItem::Commit(commit) => (Some(&commit.stream), commit.first_position, commit.last_position()),
        FeedItem::Removed { first, last } => (None, Some(*first), Some(*last)),
    };
    let (Some(first), Some(last)) = (first, last) else {
        verification.find("position", stream, Place::default(), "a commit in the feed has no position");
        return;
    };
    if first != reached.next() {
        let detail = format!("wanted {}", reached.next());
        verification.find("position", stream, Place::positions(first, first), detail);
    }
    *reached = last;
}

fn check_commit(verification: &mut Verification, commit: &Commit) {
    verification.commits += 1;
    verification.chain.push(commit);
    if commit.content == Content::Kept {
        verification.events += commit.events.len() as u64;
    }
    if let Some((what, detail)) = content_difference(commit) {
        verification.find(what, Some(&commit.stream), Place::of(commit), detail);
    }
    let seen = verification.seen.entry(commit.stream.clone()).or_default();
    let (number, first, deleted) = (seen.number.next(), seen.revision.next(), seen.deleted);
    let follows = commit.number == number && commit.first_revision == first;
    seen.number = commit.number;
    seen.revision = commit.last_revision();
    seen.chain.push(commit);
    seen.deleted |= commit.kind == CommitKind::Deleted;
    if !follows && verification.damaged {
        // Slots that follow on no other, so that the stream itself is asked for those between.
        seen.gap = true;
    } else if !follows {
        check_order(verification, commit, number, first);
    }
    if deleted {
        verification.find(
            "tombstone",
            Some(&commit.stream),
            Place::of(commit),
            "it stands after the stream's deletion",
        );
    }
}

fn check_order(verification: &mut Verification, commit: &Commit, number: CommitNumber, first: Revision) {
    if commit.number != number {
        verification.find("commit number", Some(&commit.stream), Place::of(commit), format!("wanted {number}"));
    }
    if commit.first_revision != first {
        let detail = format!("it begins at revision {}, wanted {first}", commit.first_revision);
        verification.find("revision", Some(&commit.stream), Place::of(commit), detail);
    }
}
