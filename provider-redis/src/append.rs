//! Writing a commit or a marker by the script that decides it, and finding one again by its id.

use crate::codec::{self, Frame};
use crate::error::Purpose;
use crate::keyspace::member;
use crate::link::Step;
use crate::script::{self, Call};
use crate::server::text;
use crate::store::{Client, array, bytes_of, number};
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Append, Appended, CommitKind, CommitNumber, Deadline, Delete, Deleted, Error, ErrorKind, Expected, FindCommit,
    Position, Release, Released, Result, Revision, StoreState, StreamId, Timestamp, Truncate, Truncated, Usage,
};
use evstore_kit::decide::{self, Decision, Situation, Slot, Wanted};
use evstore_kit::limits;
use redis::Value;

/// Tries of one write: each but the last met another record of the store than the one before.
const TRIES_MAX: u32 = 16;

/// Appends a commit.
pub async fn append(client: &Client, request: Append) -> Result<Appended> {
    let prepared = limits::check_append(client.limits(), request)?;
    let commit = prepared.commit;
    let _open = client.enter(prepared.deadline).await?;
    let wanted = Wanted::append(&prepared);
    let written = write(client, &wanted, &prepared.encoded, None, prepared.deadline).await;
    written.map(|written| written.receipt).map_err(|error| error.of_commit(commit))
}

/// Strips the beginning of a stream, and writes the marker.
pub async fn truncate(client: &Client, request: &Truncate) -> Result<Truncated> {
    let _open = client.enter(request.deadline).await?;
    let wanted = Wanted::truncation(request);
    let written = write(client, &wanted, &[], Some(request.before), request.deadline).await;
    let Written { receipt, first_retained } = written.map_err(|error| error.of_commit(request.commit))?;
    cut(client, &request.stream, request.deadline).await.map_err(|error| error.of_commit(request.commit))?;
    Ok(Truncated { marker: receipt, first_retained })
}

/// Deletes a stream: the tombstone, its events, its snapshot.
pub async fn delete(client: &Client, request: &Delete) -> Result<Deleted> {
    let _open = client.enter(request.deadline).await?;
    let wanted = Wanted::deletion(request);
    let written = write(client, &wanted, &[], None, request.deadline).await;
    let written = written.map_err(|error| error.of_commit(request.commit))?;
    cut(client, &request.stream, request.deadline).await.map_err(|error| error.of_commit(request.commit))?;
    Ok(written.receipt)
}

/// Goes on with what a truncation or a deletion left to be cut, a bounded number of commits at a time, so that nobody is held
/// up for long. Readers leave out all of it already.
///
/// # Errors
/// `Indeterminate`: the marker is written, and a repeat of the call goes on.
pub async fn cut(client: &Client, stream: &StreamId, deadline: Deadline) -> Result<()> {
    let partition = client.keys().partition(stream);
    loop {
        let call = client.call(script::CUT).key(client.keys().meta(partition)).key(client.keys().stream(stream));
        match client.write(partition, call, deadline).await {
            Ok(Value::Int(0)) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                let message = "the marker is written and not all is cut yet; repeat the call";
                return Err(Error::new(ErrorKind::Indeterminate, message).caused_by(error.to_string()));
            }
        }
    }
}

/// Takes out the events of commits that an archive holds, a bounded number at a time.
pub async fn release(client: &Client, request: &Release) -> Result<Released> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    for (stream, before) in &request.streams {
        let partition = client.keys().partition(stream);
        let (mut slot, mut tries) = (1, 0);
        while slot > 0 {
            let known = client.known(request.deadline).await?;
            decide::release(&known.meta)?;
            let call = client
                .call(script::RELEASE)
                .key(client.keys().meta(partition))
                .key(client.keys().stream(stream))
                .arg(known.token.as_str())
                .number(before)
                .number(slot);
            usage.requests += 1;
            let answer = array(client.write(partition, call, request.deadline).await?);
            if answer.first() == Some(&Value::Int(1)) {
                slot = number(answer.get(1))?;
                continue;
            }
            client.record(answer.get(1).and_then(bytes_of))?;
            tries += 1;
            if tries == TRIES_MAX {
                return Err(Error::new(ErrorKind::Unavailable, "the store's record changes while events are released"));
            }
        }
    }
    Ok(Released { usage })
}

/// Finds a commit or a marker by its id.
pub async fn find_commit(client: &Client, request: &FindCommit) -> Result<Option<Appended>> {
    let _open = client.enter(request.deadline).await?;
    let partition = client.keys().partition(&request.stream);
    let call =
        client.call(script::FIND).key(client.keys().stream(&request.stream)).arg(codec::id_field(request.commit));
    let found = client.run(partition, &Step::Script(call), request.deadline, Purpose::Read).await?;
    found_receipt(client, bytes_of(&found), &request.stream, 1)
}

/// What was written, or had been before.
struct Written {
    receipt: Appended,
    first_retained: Revision,
}

async fn write(
    client: &Client,
    wanted: &Wanted,
    events: &[u8],
    before: Option<Revision>,
    deadline: Deadline,
) -> Result<Written> {
    let partition = client.keys().partition(&wanted.stream);
    let stub = codec::stub(&Frame {
        stream: &wanted.stream,
        id: wanted.commit,
        kind: &wanted.kind,
        count: wanted.events,
        digest: wanted.digest,
        imported: None,
        group: None,
        extensions: &[],
    });
    let mut requests = 0;
    for _ in 0..TRIES_MAX {
        let known = client.known(deadline).await?;
        // A record that allows no append is never the one that the script compares with: it gives back what it found.
        let writable = known.meta.format.check_write().and_then(|()| known.meta.state.check_append());
        let token = if writable.is_ok() { known.token.as_str() } else { "" };
        let creates = known.meta.state == StoreState::Open;
        let call = call(client, wanted, token, creates, &stub, events, before);
        requests += 1;
        let answer = array(client.write(partition, call, deadline).await?);
        if answer.first() == Some(&Value::Int(1)) {
            return written(client, wanted, &answer, requests);
        }
        if let Some(written) = refused(client, wanted, before, &answer, requests)? {
            return Ok(written);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the store's record changes while this is written"))
}

fn call<'a>(
    client: &'a Client,
    wanted: &Wanted,
    token: &str,
    creates: bool,
    stub: &[u8],
    events: &[u8],
    before: Option<Revision>,
) -> Call<'a> {
    let keys = client.keys();
    let partition = keys.partition(&wanted.stream);
    let kind = match wanted.kind {
        CommitKind::Events => "e",
        CommitKind::Truncated { .. } => "t",
        CommitKind::Deleted => "d",
        CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. } => unreachable!("no stream is sealed by itself here"),
    };
    let expected = match wanted.expected {
        Expected::Any => "any".to_owned(),
        Expected::NoStream => "0".to_owned(),
        Expected::Exists => "exists".to_owned(),
        Expected::At(revision) => revision.to_string(),
    };
    let script = if wanted.kind == CommitKind::Events { script::WRITE } else { script::TRIM };
    client
        .call(script)
        .key(keys.meta(partition))
        .key(keys.stream(&wanted.stream))
        .key(keys.feed(partition))
        .key(keys.streams(partition))
        .arg(token)
        .arg(codec::id_field(wanted.commit))
        .arg(codec::hex(&wanted.commit.0))
        .arg(expected)
        .arg(if creates { "1" } else { "0" })
        .arg(kind)
        .number(wanted.events)
        .number(client.now().0)
        .arg(stub)
        .arg(events)
        .arg(before.map_or(String::new(), |before| before.to_string()))
        .arg(member(&wanted.stream))
        .number(NUMBER_MAX)
}

fn written(client: &Client, wanted: &Wanted, answer: &[Value], requests: u32) -> Result<Written> {
    let time = answer.get(4).and_then(text).and_then(|time| time.parse().ok());
    let position = Position(number(answer.get(3))?);
    let slot = Slot {
        number: CommitNumber(number(answer.get(1))?),
        first: Revision(number(answer.get(2))?),
        position: client.shown(position),
        recorded_at: Timestamp(time.ok_or_else(|| crate::error::corrupt("a stored number is not one"))?),
    };
    client.acknowledged(&wanted.stream, wanted.commit, position);
    client.ring();
    let receipt = slot.receipt(wanted, Usage { requests, ..Usage::default() });
    Ok(Written { receipt, first_retained: Revision(number(answer.get(5))?) })
}

/// Judges what the script did not write by the rules that all providers share. None: once more, by the record found.
fn refused(
    client: &Client,
    wanted: &Wanted,
    before: Option<Revision>,
    answer: &[Value],
    requests: u32,
) -> Result<Option<Written>> {
    let field = |at: usize| answer.get(at).and_then(bytes_of);
    let known = client.record(field(1))?;
    let head = codec::head(field(3), &known.meta, client.own())?;
    let found = found_receipt(client, field(4), &wanted.stream, requests)?;
    let situation = Situation {
        meta: &known.meta,
        own: client.own(),
        head: &head,
        last_position: Some(Position(number(answer.get(2))?)),
        now: client.now(),
    };
    let decision = match before {
        Some(before) => decide::truncate(&situation, wanted, before, found)?,
        None => decide::append(&situation, wanted, found)?,
    };
    Ok(match decision {
        Decision::Repeated(receipt) => Some(Written { receipt, first_retained: head.first_retained }),
        Decision::Write(_) => None,
    })
}

fn found_receipt(client: &Client, stored: Option<&[u8]>, stream: &StreamId, requests: u32) -> Result<Option<Appended>> {
    let Some(stored) = stored else { return Ok(None) };
    let commit = codec::decode_commit(&Bytes::copy_from_slice(stored), stream)?;
    let receipt = decide::repeated(&commit, Usage { requests, ..Usage::default() });
    Ok(Some(Appended { position: receipt.position.and_then(|position| client.shown(position)), ..receipt }))
}
