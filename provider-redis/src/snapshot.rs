//! The latest snapshot of each stream, kept beside its commits.

use crate::codec::{self, HEAD, SNAPSHOT};
use crate::error::Purpose;
use crate::link::Step;
use crate::schema::{Known, command};
use crate::script::{self, Call};
use crate::store::{Client, array, bytes_of};
use bytes::Bytes;
use evstore_api::{
    Deadline, DeleteSnapshot, Error, ErrorKind, Head, PutSnapshot, ReadSnapshot, Result, Snapshot, SnapshotPut,
    StreamId, Usage,
};
use evstore_kit::decide::{self, Situation};
use evstore_kit::limits;
use redis::Value;
use std::sync::Arc;

/// Tries of one change: each but the first met another write to the same stream.
const TRIES_MAX: u32 = 64;

/// Keeps a snapshot, unless a newer one is kept.
pub async fn put(client: &Client, request: &PutSnapshot) -> Result<SnapshotPut> {
    limits::check_put_snapshot(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let snapshot = &request.snapshot;
    let encoded = codec::encode_snapshot(snapshot);
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let found = Found::read(client, &snapshot.stream, request.deadline).await?;
        usage.requests += 2;
        decide::put_snapshot(&found.situation(client), snapshot)?;
        match found.kept(&snapshot.stream)? {
            Some(kept) if kept.revision > snapshot.revision => {
                return Ok(SnapshotPut::Superseded { by: kept.revision, usage });
            }
            Some(_) | None => {}
        }
        let call = found.guarded(client, &snapshot.stream).arg("set").number(2).arg(SNAPSHOT).arg(encoded.clone());
        let partition = client.keys().partition(&snapshot.stream);
        if client.write(partition, call, request.deadline).await? == Value::Int(1) {
            return Ok(SnapshotPut::Stored { usage });
        }
    }
    Err(Error::new(ErrorKind::Throttled, "too many write to this stream at once").with("stream", &snapshot.stream))
}

/// Reads the latest snapshot.
pub async fn read(client: &Client, request: &ReadSnapshot) -> Result<Option<Snapshot>> {
    let _open = client.enter(request.deadline).await?;
    let partition = client.keys().partition(&request.stream);
    let asked = Step::Command(command("HGET", client.keys().stream(&request.stream), &[SNAPSHOT]));
    let found = client.run(partition, &asked, request.deadline, Purpose::Read).await?;
    bytes_of(&found).map(|stored| codec::decode_snapshot(&Bytes::copy_from_slice(stored), &request.stream)).transpose()
}

/// Removes the snapshot.
pub async fn delete(client: &Client, request: &DeleteSnapshot) -> Result<()> {
    let _open = client.enter(request.deadline).await?;
    for _ in 0..TRIES_MAX {
        let found = Found::read(client, &request.stream, request.deadline).await?;
        decide::delete_snapshot(&found.situation(client)).map_err(|error| error.with("stream", &request.stream))?;
        if found.snapshot.is_none() {
            return Ok(());
        }
        let call = found.guarded(client, &request.stream).arg("unset").number(2).arg(SNAPSHOT);
        let partition = client.keys().partition(&request.stream);
        if client.write(partition, call, request.deadline).await? == Value::Int(1) {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Throttled, "too many write to this stream at once").with("stream", &request.stream))
}

/// What a decision is made by. It is written only if none of it has changed meanwhile.
struct Found {
    known: Arc<Known>,
    head: Head,
    stored_head: Option<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
}

impl Found {
    async fn read(client: &Client, stream: &StreamId, deadline: Deadline) -> Result<Self> {
        let partition = client.keys().partition(stream);
        let steps = [
            Step::Command(command("HGET", client.keys().meta(partition), &["record"])),
            Step::Command(command("HMGET", client.keys().stream(stream), &[HEAD, SNAPSHOT])),
        ];
        let mut answers = client.read_all(partition, &steps, deadline).await?.into_iter();
        let record = answers.next();
        let known = client.record(record.as_ref().and_then(bytes_of))?;
        let fields = answers.next().map_or_else(Vec::new, array);
        let field = |at: usize| fields.get(at).and_then(bytes_of).map(<[u8]>::to_vec);
        let stored_head = field(0);
        let head = codec::head(stored_head.as_deref(), &known.meta, client.own())?;
        Ok(Self { known, head, stored_head, snapshot: field(1) })
    }

    fn situation<'a>(&'a self, client: &'a Client) -> Situation<'a> {
        Situation {
            meta: &self.known.meta,
            own: client.own(),
            head: &self.head,
            last_position: None,
            now: client.now(),
        }
    }

    fn kept(&self, stream: &StreamId) -> Result<Option<Snapshot>> {
        let decode = |stored: &Vec<u8>| codec::decode_snapshot(&Bytes::copy_from_slice(stored), stream);
        self.snapshot.as_ref().map(decode).transpose()
    }

    fn guarded<'a>(&self, client: &'a Client, stream: &StreamId) -> Call<'a> {
        let keys = client.keys();
        let call =
            client.call(script::CHANGE).key(keys.meta(keys.partition(stream))).key(keys.stream(stream)).number(3);
        let call = call.number(1).arg("token").arg("=").arg(self.known.token.as_str());
        let guard = |call: Call<'a>, field: &str, found: &Option<Vec<u8>>| match found {
            Some(found) => call.number(2).arg(field).arg("=").arg(found.clone()),
            None => call.number(2).arg(field).arg("-").arg(""),
        };
        let call = guard(call, HEAD, &self.stored_head);
        guard(call, SNAPSHOT, &self.snapshot)
    }
}
