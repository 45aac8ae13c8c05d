//! Taking the bytes of what was removed out of the objects that hold them. An object is rewritten under its key, if nobody did so
//! meanwhile: no number of the log is ever free again, and no other payload moves.

use crate::codec;
use crate::error;
use crate::store::{Client, Handle};
use crate::tables::{Effect, Location};
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use evstore_aws::s3::{Condition, Put};
use futures::stream::{self, StreamExt};

/// Objects that are rewritten at once.
const REWRITES_MAX: usize = 8;
/// Tries to rewrite one: each but the last met another who did.
const TRIES_MAX: u32 = 20;
/// Payloads that lost their place to newer ones and lie about until they are worth the requests that take them out.
const SUPERSEDED_MAX: usize = 4_096;
const SUPERSEDED_BYTES_MAX: u64 = 64 << 20;

/// Takes out what was removed, if the service lets that happen in time. Else it is left to whoever removes something next.
pub async fn finish(handle: &Handle, deadline: Deadline, usage: &mut Usage) {
    let due = handle.client.tables().due;
    if due {
        // It is removed already as far as any reader can see; what is left is to be taken out, and the state says so.
        let _left = run(handle, deadline, usage).await;
    }
}

/// The same once enough of what newer snapshots superseded lies about.
pub async fn tidy(handle: &Handle, deadline: Deadline, usage: &mut Usage) {
    let (count, bytes) = {
        let tables = handle.client.tables();
        let dead = tables.dead.values().flatten();
        dead.fold((0, 0), |(count, bytes), at| (count + 1, bytes + u64::from(at.bytes)))
    };
    if count > SUPERSEDED_MAX || bytes > SUPERSEDED_BYTES_MAX {
        let _left = run(handle, deadline, usage).await;
    }
}

/// Takes out everything that nothing points to, and notes in the log what is gone.
///
/// # Errors
/// The first failure; what was taken out before it is noted all the same.
pub async fn run(handle: &Handle, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let client = &handle.client;
    let dead: Vec<(u64, Vec<Location>)> = client.tables().dead.clone().into_iter().collect();
    let rewrites = dead.into_iter().map(|(object, gone)| async move {
        let mut usage = Usage::default();
        let done = rewrite(client, object, &gone, deadline, &mut usage).await;
        (done.map(|()| gone), usage)
    });
    let rewritten: Vec<_> = stream::iter(rewrites).buffer_unordered(REWRITES_MAX).collect().await;
    let (mut gone, mut failed) = (Vec::new(), None);
    for (done, cost) in rewritten {
        *usage += cost;
        match done {
            Ok(locations) => gone.extend(locations),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if !gone.is_empty() {
        let note = move |draft: &mut crate::draft::Draft<'_>| draft.add(Effect::Blanked(gone.clone()));
        let ((), cost) = handle.lane.write(0, deadline, note).await?;
        *usage += cost;
    }
    failed.map_or(Ok(()), Err)
}

async fn rewrite(client: &Client, object: u64, gone: &[Location], deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let key = client.slot(object);
    for _ in 0..TRIES_MAX {
        let got = client.link().get(&key, None, deadline, usage).await?.ok_or_else(|| error::missing(&key))?;
        let blanked = codec::blank(object, &got.body, gone).map_err(|cause| error::damaged(&key, cause))?;
        if blanked == got.body {
            client.cache().forget(object);
            return Ok(());
        }
        let condition = Condition::Unchanged(&got.tag);
        match client.link().put(&key, Bytes::from(blanked), condition, deadline, usage).await? {
            Put::Done => {
                client.cache().forget(object);
                return Ok(());
            }
            Put::Refused | Put::Contended => {}
        }
    }
    Err(Error::new(ErrorKind::Throttled, "others rewrite an object just now").with("object", key))
}
