//! The streams of a store: each listed, its head where the feed says, its slots those of the feed. Where the feed could not be
//! read, the streams are what tells which commits are damaged.

use super::slots::{Slot, Slots};
use super::{DAMAGE, FINDINGS_MAX, Finding, Place, Seen, Verification, content_difference};
use crate::failure::{Failure, Result};
use crate::progress::{Progress, Unit};
use crate::session::{Session, deadline};
use evstore_api::chain::Chain;
use evstore_api::{
    Commit, CommitNumber, Error, ErrorKind, EventStore, Head, Position, ReadHead, Revision, StoreAdmin, StreamId,
    StreamState,
};
use evstore_migrate::pages::Streams;
use evstore_migrate::walk::is_damage;
use futures::{StreamExt as _, stream};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Streams that are read at a time.
const STREAMS_MAX: usize = 16;

/// A stream to be read by itself.
struct Wanted {
    stream: StreamId,
    head: Head,
    seen: Seen,
}

/// Looks at every stream.
///
/// # Errors
/// As the store's reads, for anything but damage.
pub async fn verify(
    verification: &mut Verification,
    store: &dyn EventStore,
    admin: &dyn StoreAdmin,
    sample: u8,
    session: &mut Session,
) -> Result {
    let sample = if verification.damaged { 100 } else { sample };
    let total = Some(verification.seen.len() as u64);
    let progress = Progress::new(session.output(), "verifying streams", Unit::Items("streams"), total);
    let mut streams = Streams::all(store);
    loop {
        let page = match streams.next(store).await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(error) if is_damage(&error) => {
                let detail = format!("the list of streams can't be read: {}", Failure::from(error).sentence());
                verification.find(DAMAGE, None, Place::default(), detail);
                return verify_seen(verification, store, admin, &progress).await;
            }
            Err(error) => return Err(error.into()),
        };
        let mut wanted = Vec::new();
        for listed in page {
            verification.streams += 1;
            let seen = match verification.seen.remove(&listed.stream) {
                Some(seen) => seen,
                None if verification.damaged => Seen { gap: true, ..Seen::default() },
                // A stream may have been made since the feed was read.
                None if is_in_feed_now(store, &listed.stream, verification.positions).await? => continue,
                None => {
                    let detail = "it is listed, and the feed has nothing of it";
                    verification.find("stream", Some(&listed.stream), Place::default(), detail);
                    continue;
                }
            };
            check_head(verification, &listed.stream, &listed.head, &seen);
            if is_sampled(&listed.stream, sample) {
                wanted.push(Wanted { stream: listed.stream, head: listed.head, seen });
            }
        }
        read_all(verification, store, admin, wanted).await?;
        progress.at(verification.streams);
    }
    let mut missing: Vec<StreamId> = verification.seen.drain().map(|(stream, _)| stream).collect();
    missing.sort();
    for stream in missing {
        verification.find("stream", Some(&stream), Place::default(), "the feed has it, and it is not listed");
    }
    Ok(())
}

/// Looks at the streams that the feed has and no page of the list had, one by one.
async fn verify_seen(
    verification: &mut Verification,
    store: &dyn EventStore,
    admin: &dyn StoreAdmin,
    progress: &Progress,
) -> Result {
    let mut left: Vec<(StreamId, Seen)> = verification.seen.drain().collect();
    left.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (stream, seen) in left {
        verification.streams += 1;
        let head = match store.head(ReadHead { stream: stream.clone(), deadline: deadline() }).await {
            Ok(head) => head,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let detail = format!("its head can't be read: {error}");
                verification.find(DAMAGE, Some(&stream), Place::default(), detail);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        check_head(verification, &stream, &head, &seen);
        read_all(verification, store, admin, vec![Wanted { stream, head, seen }]).await?;
        progress.at(verification.streams);
    }
    Ok(())
}

/// Whether a stream that the feed did not have came in after the feed was read.
async fn is_in_feed_now(store: &dyn EventStore, stream: &StreamId, positions: u64) -> Result<bool> {
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
    let place = Place::commit(head.number);
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

async fn read_all(
    verification: &mut Verification,
    store: &dyn EventStore,
    admin: &dyn StoreAdmin,
    wanted: Vec<Wanted>,
) -> Result {
    verification.sampled += wanted.len() as u64;
    let damaged = verification.damaged;
    let reads = wanted.into_iter().map(|wanted| read(store, admin, wanted, damaged));
    // In the order of the streams: the same store gives the same report.
    let mut reads = stream::iter(reads).buffered(STREAMS_MAX);
    while let Some(read) = reads.next().await {
        let Read { findings, more, covered } = read?;
        findings.into_iter().for_each(|finding| verification.add(finding));
        verification.more += more;
        for (first, last, events) in covered {
            if verification.holes.cover(first, last) {
                verification.commits += 1;
                verification.events += events;
            }
        }
    }
    Ok(())
}

/// What reading one stream gave.
#[derive(Default)]
struct Read {
    findings: Vec<Finding>,
    more: u64,
    /// Positions that it has, and events; only where the feed could not be read.
    covered: Vec<(Position, Position, u64)>,
}

impl Read {
    fn find(&mut self, what: &'static str, stream: &StreamId, place: Place, detail: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { what, stream: Some(stream.clone()), place, detail });
        } else {
            self.more += 1;
        }
    }
}

/// Reads the slots of a stream by themselves.
async fn read(store: &dyn EventStore, admin: &dyn StoreAdmin, wanted: Wanted, damaged: bool) -> Result<Read, Error> {
    let Wanted { stream, head, seen } = wanted;
    // What was appended since the feed was read is not compared with it.
    let last = if seen.gap || damaged { head.number.max(seen.number) } else { seen.number };
    let mut slots = Slots::new(store, admin, &stream, &Head { number: last, ..head });
    let mut read = Read::default();
    let (mut number, mut revision, mut position) = (CommitNumber(0), Revision(0), None);
    let mut chain = Chain::default();
    let mut whole = true;
    while let Some(slot) = slots.next().await? {
        match slot {
            Slot::Commit(commit) if commit.number > last => break,
            Slot::Commit(commit) => {
                check_next(&mut read, &commit, number.next(), revision.next());
                (number, revision) = (commit.number, commit.last_revision());
                if commit.number <= seen.number {
                    chain.push(&commit);
                }
                end_damage(&mut read, commit.first_position);
                position = commit.last_position();
                if let (true, Some(first), Some(last)) = (damaged, commit.first_position, position) {
                    read.covered.push((first, last, commit.events.len() as u64));
                }
            }
            Slot::Unreadable { numbers, revisions, error } => {
                whole = false;
                let place = Place {
                    commits: Some(numbers),
                    revisions: Some(revisions).filter(|(first, last)| first <= last),
                    positions: None,
                    between: (position, None),
                };
                read.find(DAMAGE, &stream, place, format!("it can't be read: {error}"));
                (number, revision) = (numbers.1, revisions.1);
            }
        }
    }
    if number < last {
        let detail = format!("its slots end there, and commit {last} was there");
        read.find("stream", &stream, Place::commit(number), detail);
    } else if whole && !seen.gap && chain != seen.chain {
        read.find("stream", &stream, Place::default(), "its slots hold other commits than the feed".to_owned());
    }
    Ok(read)
}

/// Damage lies before the first commit that can be read again.
fn end_damage(read: &mut Read, before: Option<Position>) {
    if let Some(last) = read.findings.last_mut().filter(|last| last.what == DAMAGE && last.place.between.1.is_none()) {
        last.place.between.1 = before;
    }
}

fn check_next(read: &mut Read, commit: &Commit, number: CommitNumber, first: Revision) {
    if let Some((what, detail)) = content_difference(commit) {
        read.find(what, &commit.stream, Place::of(commit), detail);
    }
    if commit.number != number {
        read.find("commit number", &commit.stream, Place::of(commit), format!("wanted {number}"));
    }
    if commit.first_revision != first {
        let detail = format!("it begins at revision {}, wanted {first}", commit.first_revision);
        read.find("revision", &commit.stream, Place::of(commit), detail);
    }
}
