//! What can be wrong with the store's record, its fence and the seal of a stream.

use super::Mutant;
use super::defect::{Defect, find, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, CommitId, CommitNumber, ContentDigest, Deadline, Epoch, Error, ErrorKind, EventStore, Lineage,
    Meta, MetaSwapped, OpenStream, PutRecord, ReadRecord, Record, RecordKind, RecordNumber, RecordPut, Result,
    Revision, SealStream, StoreAdmin, StoreState, StreamOpened, StreamSealed, SwapMeta, Timestamp, Usage,
};
use std::sync::Mutex;
use std::time::Duration;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<ComparesEpochs>(
        "ownership.compares-epochs",
        "of the expected record only the epoch is looked at",
        &["ownership.the-record-is-compared-and-set"],
    ),
    mutant::<NotRepeatable>(
        "ownership.a-repeat-differs",
        "a change of the record that was made already is answered as if another had been made",
        &["ownership.the-record-is-compared-and-set"],
    ),
    mutant::<AnyStep>(
        "ownership.takes-every-step",
        "a step that no protocol makes is answered as done",
        &["ownership.illegal-steps-are-refused"],
    ),
    mutant::<KeepsHistories>(
        "ownership.keeps-its-histories",
        "a store that is filled does not take over the histories of the one that it is filled from",
        &["ownership.a-filled-store-takes-over-histories"],
    ),
    mutant::<LosesHistories>(
        "ownership.takes-histories-in-silence",
        "a change of histories is answered as done, and they stay as they are",
        &["ownership.a-filled-store-takes-over-histories"],
    ),
    mutant::<LooksThenSwaps>(
        "ownership.looks-then-swaps",
        "the record is compared in a step of its own",
        &["ownership.one-of-many-changes-wins"],
    ),
    mutant::<CheckpointsPass>(
        "ownership.checkpoints-pass-the-fence",
        "a checkpoint of a closed store is answered as kept",
        &["ownership.a-closed-record-refuses-every-write"],
    ),
    mutant::<MovedSomewhere>(
        "ownership.moved-somewhere",
        "a store that moved does not say where",
        &["ownership.a-closed-record-refuses-every-write"],
    ),
    mutant::<FenceFirst>(
        "ownership.the-fence-comes-before-the-id",
        "a fenced store looks at its record before it looks for the commit",
        &["ownership.a-repeat-is-answered-behind-the-fence"],
    ),
    mutant::<LateSteps>(
        "ownership.late-steps-are-made",
        "a change of the record is made although another came before it",
        &["ownership.an-aborted-fence-opens-again", "ownership.the-record-is-compared-and-set"],
    ),
    mutant::<FenceApart>(
        "ownership.the-fence-is-checked-apart",
        "an append looks at the record in a step before the one that writes",
        &["ownership.no-append-lands-behind-the-fence"],
    ),
    mutant::<FirstEpoch>(
        "ownership.records-are-of-the-first-epoch",
        "every checkpoint says that it was changed in epoch 0",
        &["ownership.records-name-their-epoch"],
    ),
    mutant::<SealsNothing>(
        "ownership.seals-nothing",
        "a seal and the opening of a stream are answered, and nothing is done",
        &[
            "ownership.a-seal-closes-its-stream",
            "ownership.a-seal-is-of-its-attempt",
            "ownership.an-imported-stream-is-opened-at-its-slot",
            "honesty.operations-are-as-declared",
        ],
    ),
];

#[derive(Debug, Default)]
struct ComparesEpochs;

#[async_trait]
impl Defect for ComparesEpochs {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let found = admin.read_meta(request.deadline).await?;
        let expected = if found.epoch == request.expected.epoch { found } else { request.expected };
        admin.swap_meta(SwapMeta { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct NotRepeatable;

#[async_trait]
impl Defect for NotRepeatable {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let found = admin.read_meta(request.deadline).await?;
        if found != request.expected {
            return Ok(MetaSwapped::Differs(Box::new(found)));
        }
        admin.swap_meta(request).await
    }
}

#[derive(Debug, Default)]
struct AnyStep;

#[async_trait]
impl Defect for AnyStep {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        match admin.swap_meta(request).await {
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(MetaSwapped::Done),
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct KeepsHistories;

#[async_trait]
impl Defect for KeepsHistories {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let has_one = |one: &Lineage| request.new.lineage.iter().any(|other| other.incarnation == one.incarnation);
        let (old, new) = (&request.expected.lineage, &request.new.lineage);
        if new.len() != old.len() && old.iter().all(has_one) {
            return Err(Error::new(ErrorKind::Invalid, "the history of a store is only added to"));
        }
        admin.swap_meta(request).await
    }
}

#[derive(Debug, Default)]
struct LosesHistories;

#[async_trait]
impl Defect for LosesHistories {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        // What no protocol makes is refused all the same.
        request.expected.check_next(&request.new)?;
        let new = Meta { lineage: request.expected.lineage.clone(), ..request.new };
        admin.swap_meta(SwapMeta { new, ..request }).await
    }
}

#[derive(Debug, Default)]
struct LooksThenSwaps;

#[async_trait]
impl Defect for LooksThenSwaps {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let found = admin.read_meta(request.deadline).await?;
        if found != request.expected {
            return admin.swap_meta(request).await;
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
        let expected = admin.read_meta(request.deadline).await?;
        admin.swap_meta(SwapMeta { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct CheckpointsPass;

#[async_trait]
impl Defect for CheckpointsPass {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let checkpoint = request.key.kind == RecordKind::Checkpoint;
        match store.put_record(request).await {
            Err(error) if checkpoint && matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Moved) => {
                Ok(RecordPut { number: RecordNumber(1), usage: Usage::default() })
            }
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct MovedSomewhere;

#[async_trait]
impl Defect for MovedSomewhere {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(request).await.map_err(|error| match error.kind() {
            ErrorKind::Moved => Error::new(ErrorKind::Moved, "the store's streams live in another store"),
            _ => error,
        })
    }
}

/// The state that the record was changed to last.
#[derive(Debug, Default)]
struct FenceFirst(Mutex<Option<StoreState>>);

#[async_trait]
impl Defect for FenceFirst {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let state = lock(&self.0).clone();
        if let Some(state) = state {
            state.check_append()?;
        }
        store.append(request).await
    }

    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let state = request.new.state.clone();
        let swapped = admin.swap_meta(request).await?;
        if swapped == MetaSwapped::Done {
            *lock(&self.0) = Some(state);
        }
        Ok(swapped)
    }
}

#[derive(Debug, Default)]
struct LateSteps;

#[async_trait]
impl Defect for LateSteps {
    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        let found = admin.read_meta(request.deadline).await?;
        let epoch = found.epoch.max(request.new.epoch);
        let new = if found == request.expected { request.new } else { Meta { epoch, ..request.new } };
        admin.swap_meta(SwapMeta { expected: found, new, deadline: request.deadline }).await
    }
}

/// The record, beside the inner store's, which stays open.
#[derive(Debug, Default)]
struct FenceApart(Mutex<Option<Meta>>);

#[async_trait]
impl Defect for FenceApart {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let meta = lock(&self.0).clone();
        if let Some(meta) = meta
            && find(store, &request).await?.is_none()
        {
            meta.state.check_append()?;
        }
        tokio::task::yield_now().await;
        store.append(request).await
    }

    async fn read_meta(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<Meta> {
        let inner = admin.read_meta(deadline).await?;
        Ok(lock(&self.0).clone().unwrap_or(inner))
    }

    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        request.expected.check_next(&request.new)?;
        let inner = admin.read_meta(request.deadline).await?;
        let mut meta = lock(&self.0);
        let found = meta.clone().unwrap_or(inner);
        if found != request.expected && found != request.new {
            return Ok(MetaSwapped::Differs(Box::new(found)));
        }
        *meta = Some(request.new);
        Ok(MetaSwapped::Done)
    }
}

#[derive(Debug, Default)]
struct FirstEpoch;

#[async_trait]
impl Defect for FirstEpoch {
    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        let found = store.read_record(request).await?;
        Ok(found.map(|record| Record { epoch: Epoch(0), ..record }))
    }
}

#[derive(Debug, Default)]
struct SealsNothing;

fn answered(commit: CommitId, number: CommitNumber) -> Appended {
    Appended {
        commit,
        number,
        first: Revision(1),
        last: Revision(0),
        position: None,
        recorded_at: Timestamp(0),
        digest: ContentDigest([0; 16]),
        repeated: false,
        usage: Usage::default(),
    }
}

#[async_trait]
impl Defect for SealsNothing {
    async fn seal_stream(&self, _: &dyn StoreAdmin, request: SealStream) -> Result<StreamSealed> {
        Ok(answered(request.commit, CommitNumber(1)))
    }

    async fn open_stream(&self, _: &dyn StoreAdmin, request: OpenStream) -> Result<StreamOpened> {
        Ok(answered(request.commit, request.number))
    }
}
