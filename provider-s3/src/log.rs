//! The row of objects that is the store: reading it to its end, and putting the next one. What stands under a number stands there for
//! ever, and nobody puts a number before the one below it is known to be there.

use crate::checkpoint;
use crate::codec::{self, Author};
use crate::error::{self, Purpose};
use crate::store::Client;
use crate::tables::Tables;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use evstore_aws::s3::{Condition, Put};
use futures::future::join_all;
use std::hash::{BuildHasher, RandomState};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Objects that are read at once, at most, where many are missing.
const WINDOW_MAX: u64 = 16;
/// First pause before a put is sent again of which nobody knows what became, or that met another; it doubles, and a part of it is
/// chance.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What became of an object that was put.
#[derive(Debug)]
pub enum Outcome {
    /// It stands in the log.
    Ours,
    /// This one does, of another.
    Theirs(Bytes),
}

/// The key of an object of the log. Zeros before it make the order of names that of numbers, for people who look.
pub fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}/log/{number:020}")
}

/// Reads a store for the first time: a checkpoint, and what came after it.
///
/// # Errors
/// `Schema` where it is not there; `Corrupt` where an object of it is missing or damaged, naming it.
pub async fn open(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    if let Some(kept) = checkpoint::read(client, deadline, usage).await? {
        let mut tables = client.tables();
        if tables.end == 0 {
            client.checkpointed.store(kept.end, Ordering::Release);
            *tables = kept;
        }
    }
    catch_up(client, deadline, usage).await?;
    let end = client.tables().end;
    // A hole looks like the end. What a list says is enough to tell them apart: if anything is there behind the end, the next one is
    // there by now too.
    let (all, last) = (format!("{}/log/", client.prefix()), client.slot(end));
    let behind = client.link().list(&all, Some(&last), None, 1, deadline, usage).await?;
    if behind.keys.is_empty() {
        return if end == 0 { Err(missing(client)) } else { Ok(()) };
    }
    let next = client.slot(end + 1);
    match client.link().get(&next, Some(0..1), deadline, usage).await? {
        Some(_) => Ok(()),
        None => Err(error::missing(&next)),
    }
}

fn missing(client: &Client) -> Error {
    Error::new(ErrorKind::Schema, "the store is not there yet; apply the schema, or set auto_create")
        .with("bucket", client.link().bucket())
        .with("prefix", client.prefix())
}

/// Reads what others put since: afterwards the state has everything that was answered before this was called. Calls that wait for
/// each other share one look, if it began after they came.
///
/// # Errors
/// As reads have them; `Corrupt` for an object that is damaged, naming it.
pub async fn catch_up(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let ticket = client.tickets.fetch_add(1, Ordering::AcqRel) + 1;
    let turn = tokio::time::timeout_at(deadline.0.into(), client.turn.lock());
    let _turn = turn.await.map_err(|_| error::late(Purpose::Read))?;
    check(client, &client.tables())?;
    if client.seen.load(Ordering::Acquire) >= ticket {
        return Ok(());
    }
    let began = client.tickets.load(Ordering::Acquire);
    let mut window = 1;
    loop {
        let end = client.tables().end;
        let reads = (end + 1..=end + window).map(|number| async move {
            let mut usage = Usage::default();
            let got = client.link().get(&client.slot(number), None, deadline, &mut usage).await;
            (number, got, usage)
        });
        let mut ended = false;
        for (number, got, cost) in join_all(reads).await {
            *usage += cost;
            if ended {
                // Put since the first look past the end; whoever comes next reads it.
                continue;
            }
            match got? {
                Some(got) => advance(client, number, got.body)?,
                None => ended = true,
            }
        }
        if ended {
            client.seen.fetch_max(began, Ordering::AcqRel);
            return Ok(());
        }
        window = (window * 2).min(WINDOW_MAX);
    }
}

/// Applies the object of a number, unless that was done.
///
/// # Errors
/// `Corrupt`, naming it.
pub fn advance(client: &Client, number: u64, body: Bytes) -> Result<()> {
    let key = client.slot(number);
    let object = codec::decode(number, &body).map_err(|cause| error::damaged(&key, cause))?;
    let mut tables = client.tables();
    check(client, &tables)?;
    if tables.end < number {
        tables.advance(number, body.len(), object.effects).map_err(|cause| error::damaged(&key, cause))?;
        drop(tables);
        client.awaited.lock().unwrap_or_else(PoisonError::into_inner).take_if(|who| *who == object.author.writer);
        client.cache().put(number, body);
        client.ring();
    }
    Ok(())
}

/// Refuses to work with a state that may be half of one.
///
/// # Errors
/// `Corrupt`, naming the object.
pub fn check(client: &Client, tables: &Tables) -> Result<()> {
    match tables.broken {
        None => Ok(()),
        Some(number) => Err(error::damaged(
            &client.slot(number),
            crate::wire::corrupt("what it says does not follow from the objects before it"),
        )),
    }
}

/// Puts the object of a number until it is known who has it: an answer that was lost is found by who wrote what stands there.
///
/// # Errors
/// What the service refuses, nothing written; `Indeterminate` where the deadline passed and nobody knows.
pub async fn put(
    client: &Client,
    number: u64,
    author: Author,
    body: &Bytes,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Outcome> {
    let key = client.slot(number);
    let mut pause = PAUSE;
    // Whether one of the puts may still arrive, or has.
    let mut unknown = false;
    loop {
        let patience = client.patience().min(deadline);
        let refused = match client.link().put(&key, body.clone(), Condition::Free, patience, usage).await {
            Ok(Put::Done) => return Ok(Outcome::Ours),
            Ok(Put::Contended) => None,
            Ok(Put::Refused) => match client.link().get(&key, None, client.patience().min(deadline), usage).await {
                Ok(Some(got)) => {
                    let found = codec::decode(number, &got.body).map_err(|cause| error::damaged(&key, cause))?;
                    return Ok(if found.author == author { Outcome::Ours } else { Outcome::Theirs(got.body) });
                }
                Ok(None) => None,
                Err(failed) => Some(failed),
            },
            Err(failed) => {
                unknown |= failed.kind() == ErrorKind::Indeterminate;
                Some(failed)
            }
        };
        match refused {
            Some(failed) if !unknown => return Err(failed),
            Some(failed) if deadline.has_passed() => return Err(error::unanswered().caused_by(failed.to_string())),
            None if deadline.has_passed() && unknown => return Err(error::unanswered()),
            None if deadline.has_passed() => return Err(error::late(Purpose::Read)),
            Some(_) | None => {}
        }
        tokio::time::sleep(jittered(pause).min(deadline.remaining())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// From half of a pause to all of it.
pub fn jittered(pause: Duration) -> Duration {
    // A new state is seeded anew each time: chance enough for two processes that wait for each other.
    let chance = RandomState::new().hash_one(pause) as u32;
    pause / 2 + pause / 2 * (chance >> 16) / (1 << 16)
}
