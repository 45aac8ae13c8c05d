//! Sealing a stream in favour of another store, and opening one that was copied here: each is a marker in the stream's next slot.
//!
//! The store's record is read before a seal, and not looked at again in the same step: a seal that comes late bears the epoch of its attempt,
//! and closes nothing in a later one (`models/src/store_seal.rs`). Thousands are put at a time, and a look at one item that all of them make
//! would let one through after the other. What opens a stream does look: nothing takes that back. With a sequencer's feed seals that are
//! asked for at the same time are put together (`together`).

use crate::codec::{Events, Frame};
use crate::config::Feed;
use crate::known::{self, Last};
use crate::lane::{commit_item, jittered};
use crate::link::{Condition, Transacted, Write, Written, sleep};
use crate::schema::{self, StoredMeta};
use crate::store::Client;
use crate::tables::{Item, META, Table, named};
use crate::together::Wanted;
use evstore_api::{
    Appended, CommitId, CommitKind, Content, ContentDigest, Deadline, Epoch, Error, ErrorKind, Meta, OpenStream,
    Result, SealStream, StoreState, StreamId, StreamState, Usage, format,
};
use evstore_kit::decide::in_window;
use evstore_kit::refusal;
use std::time::Duration;

/// Tries of one marker: each but the last met another writer.
const TRIES_MAX: u32 = 1_000;
/// Pause after the service said that others write the same items; a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(20);

/// Seals a stream.
pub async fn seal(client: &Client, request: &SealStream) -> Result<Appended> {
    check_feed(client, "seal_stream")?;
    let kind = CommitKind::MovedOut { epoch: request.epoch, to: request.to.clone() };
    if client.sequencer().is_some() {
        let (stream, commit, kind, epoch) = (request.stream.clone(), request.commit, kind.clone(), request.epoch);
        let digest = format::digest(&stream, commit, &kind, &[]);
        let wanted = Wanted { stream, commit, kind, digest, epoch };
        if let Some(sealed) = client.together().seal(client, wanted, request.deadline).await? {
            return Ok(sealed);
        }
    }
    mark(client, &request.stream, request.commit, &kind, request.deadline, |last, meta| {
        if !closes(&meta.meta, request.epoch) {
            return Err(Error::new(ErrorKind::Conflict, "the store is not leaving in this epoch")
                .with("state", meta.meta.state.name())
                .with("epoch", meta.meta.epoch)
                .with("given", request.epoch));
        }
        match client.head(last, &meta.meta).state {
            state if takes(&state, request.epoch) => Ok(()),
            StreamState::Open | StreamState::Missing => Err(Error::new(ErrorKind::NotFound, "there is no such stream")),
            StreamState::Deleted => Err(Error::new(ErrorKind::Gone, "the stream was deleted for good")),
            StreamState::Sealed { to, .. } => {
                Err(Error::new(ErrorKind::Moved, "the stream lives in another store").with("to", &to).to_store(to))
            }
        }
    })
    .await
}

/// Whether streams are sealed under this record, in an epoch.
pub fn closes(meta: &Meta, epoch: Epoch) -> bool {
    matches!(&meta.state, StoreState::Leaving { .. } | StoreState::Fenced { .. }) && meta.epoch == epoch
}

/// Whether a stream takes the seal of an epoch: also where it is sealed by an attempt that was given up, or by the copy before, as a writer may
/// know the record as it was open since.
pub fn takes(state: &StreamState, epoch: Epoch) -> bool {
    match state {
        StreamState::Open => true,
        StreamState::Sealed { epoch: sealed, .. } => *sealed < epoch,
        StreamState::Missing | StreamState::Deleted => false,
    }
}

/// The frame of a marker behind the last commit of its stream.
///
/// # Errors
/// As [`Client::place`].
pub fn marker(client: &Client, id: CommitId, kind: &CommitKind, last: &Last, digest: ContentDigest) -> Result<Frame> {
    let now = client.now();
    Ok(Frame {
        id,
        kind: kind.clone(),
        first: last.revision.next(),
        count: 0,
        position: None,
        recorded_at: last.recorded_at.max(now),
        digest,
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        plain_bytes: None,
        retained: last.retained,
        from: last.from,
        place: client.place(last, now, digest)?,
    })
}

/// Opens a copied stream.
pub async fn open(client: &Client, request: &OpenStream) -> Result<Appended> {
    check_feed(client, "open_stream")?;
    let kind = CommitKind::MovedIn { epoch: request.epoch, owner: request.owner.clone() };
    mark(client, &request.stream, request.commit, &kind, request.deadline, |last, _| {
        let is_next = last.number.next() == request.number;
        // Its own is open already, or was sealed here: neither is opened in place.
        if is_next && last.imported.is_some() && last.kind != CommitKind::Deleted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "the stream is not opened at this slot")
            .with("number", request.number)
            .with("last", last.number))
    })
    .await
}

fn check_feed(client: &Client, operation: &'static str) -> Result<()> {
    match client.config().feed {
        Feed::Sequencer { .. } | Feed::SqsFifo { .. } | Feed::ShardedIndex { .. } => Ok(()),
        Feed::Transactional => Err(refusal::unsupported(operation, "fence", client.config().feed.fence())),
    }
}

/// Puts a marker into the next slot of a stream, if something holds of the stream and the store's record.
async fn mark(
    client: &Client,
    stream: &StreamId,
    commit: CommitId,
    kind: &CommitKind,
    deadline: Deadline,
    holds: impl Fn(&Last, &StoredMeta) -> Result<()>,
) -> Result<Appended> {
    let mut usage = Usage::default();
    let digest = format::digest(stream, commit, kind, &[]);
    for _ in 0..TRIES_MAX {
        let known = known::refresh(client, stream, deadline, &mut usage).await?;
        let last = &known.last;
        let is_known = |receipt: &&Appended| in_window(client.config().idempotency(), last.number, receipt.number);
        match known.find(commit).filter(is_known) {
            Some(found) if found.digest == digest => {
                return Ok(Appended { repeated: true, usage, ..found.clone() });
            }
            Some(_) => return Err(refusal::id_reused(commit).with("stream", stream)),
            None => {}
        }
        let meta = schema::read_meta(client, deadline, &mut usage).await?;
        meta.meta.format.check_write()?;
        holds(last, &meta).map_err(|error| error.with("stream", stream))?;
        let number = last.number.next();
        let frame = marker(client, commit, kind, last, digest)?;
        let item = commit_item(client, stream, number, &frame, &Events::default());
        let put = match kind {
            CommitKind::MovedIn { .. } => put_and_look(client, item, meta.token, deadline, &mut usage).await?,
            _ => client.link().put(Table::Commits, item, Condition::absent(), deadline, &mut usage).await?,
        };
        match put {
            Written::Done => {
                client.appended();
                return Ok(Appended { repeated: false, usage, ..frame.receipt(number) });
            }
            // Somebody appended, or changed the record.
            Written::Refused(_) => {}
            Written::Contended => sleep(jittered(CONTENDED_PAUSE), deadline).await?,
        }
    }
    Err(Error::new(ErrorKind::Throttled, "too many processes write to the stream at once").with("stream", stream))
}

/// Puts an item if the store's record is as it was read.
async fn put_and_look(
    client: &Client,
    item: Item,
    token: u64,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Written> {
    let writes = vec![
        Write::put(Table::Commits, item, Some(Condition::absent())),
        Write::check(Table::Names, named(META, META), Condition::counted(token)),
    ];
    Ok(match client.link().transact(writes, deadline, usage).await? {
        Transacted::Done => Written::Done,
        Transacted::Refused(_) => Written::Refused(None),
        Transacted::Contended => Written::Contended,
    })
}
