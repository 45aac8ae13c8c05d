//! What can be wrong with copies.

use super::Mutant;
use super::defect::{Defect, find, forgotten, lock, mutant};
use async_trait::async_trait;
use evstore_api::capabilities::Limit;
use evstore_api::{
    Append, Appended, Commit, CommitId, CommitsPage, Error, ErrorKind, EventStore, Origin, ReadCommits, RecordNumber,
    Replica, Replicate, Replicated, Result, StoreAdmin, Timestamp, Usage, format,
};
use std::collections::HashSet;
use std::sync::Mutex;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<OwnTimes>(
        "copies.own-times",
        "a copied commit has another time than its original",
        &["copies.a-copy-is-the-same"],
    ),
    mutant::<OriginIgnored>(
        "copies.nothing-is-marked",
        "a copy for a move is taken for a restore",
        &["copies.a-copy-says-so", "copies.a-copy-opens-with-its-store"],
    ),
    mutant::<CountsRepeats>(
        "copies.repeats-count-as-written",
        "what was there already is said to be written",
        &["copies.a-repeat-adds-nothing", "copies.older-state-is-passed-over"],
    ),
    mutant::<RefusesRepeats>(
        "copies.repeats-are-refused",
        "a copy of what was there already is a conflict",
        &["copies.a-repeat-adds-nothing", "copies.two-copiers-make-one-copy", "copies.the-way-back-adds-what-is-new"],
    ),
    mutant::<ItemByItem>(
        "copies.item-by-item",
        "the items before a refused one stay",
        &["copies.a-request-is-all-or-nothing"],
    ),
    mutant::<PassesOver>(
        "copies.passes-over-what-differs",
        "a commit that does not follow is passed over",
        &["copies.what-does-not-follow-is-refused"],
    ),
    mutant::<MendsDigests>(
        "copies.digests-are-made-anew",
        "the digest of a copy is made of what came",
        &["copies.tampered-content-is-refused"],
    ),
    mutant::<CutsToFit>("copies.cuts-to-fit", "an event that is too large is cut", &["copies.nothing-is-cut-to-fit"]),
    mutant::<AnyEpoch>(
        "copies.of-any-epoch",
        "the epoch of a copy is not looked at",
        &["copies.only-an-importing-store-takes-them"],
    ),
    mutant::<AnyHistory>(
        "copies.of-any-history",
        "the history that a copy was read from is not looked at",
        &["copies.of-an-older-history-are-refused"],
    ),
    mutant::<ForgetsIds>(
        "copies.forget-ids",
        "the ids of copied commits are not recognised",
        &["copies.copied-ids-are-recognised"],
    ),
    mutant::<CountsOn>(
        "copies.checkpoints-count-on",
        "a copied checkpoint counts as one change more",
        &["copies.older-state-is-passed-over", "copies.a-copy-is-the-same"],
    ),
    mutant::<DropsEarlySnapshots>(
        "copies.drop-early-snapshots",
        "a copied snapshot that is ahead of its stream is dropped in silence",
        &["copies.a-snapshot-waits-for-its-commits"],
    ),
    mutant::<DropsRanges>(
        "copies.drop-ranges",
        "positions without content are not copied",
        &["copies.removed-ranges-keep-their-place"],
    ),
    mutant::<BareStubs>(
        "copies.stubs-lose-their-digest",
        "the slot of a commit whose events are gone has no digest",
        &["deletion.truncated-slots-stay-as-stubs"],
    ),
];

/// The same request with its commits changed.
fn with_commits(request: Replicate, change: impl Fn(Commit) -> Commit) -> Replicate {
    let changed = |item| match item {
        Replica::Commit(commit) => Replica::Commit(change(commit)),
        other => other,
    };
    Replicate { items: request.items.into_iter().map(changed).collect(), ..request }
}

/// The same commit with the digest of what it holds.
fn digested(commit: Commit) -> Commit {
    if commit.events.is_empty() {
        return commit;
    }
    let digest = format::digest(&commit.stream, commit.id, &commit.kind, &commit.events);
    Commit { digest, ..commit }
}

#[derive(Debug, Default)]
struct OwnTimes;

#[async_trait]
impl Defect for OwnTimes {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let later = |commit: Commit| Commit { recorded_at: Timestamp(commit.recorded_at.0 + 1), ..commit };
        admin.replicate(with_commits(request, later)).await
    }
}

#[derive(Debug, Default)]
struct OriginIgnored;

#[async_trait]
impl Defect for OriginIgnored {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        admin.replicate(Replicate { origin: Origin::Restore, ..request }).await
    }
}

#[derive(Debug, Default)]
struct CountsRepeats;

#[async_trait]
impl Defect for CountsRepeats {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let done = admin.replicate(request).await?;
        Ok(Replicated { written: done.written + done.present, present: 0, usage: done.usage })
    }
}

#[derive(Debug, Default)]
struct RefusesRepeats;

#[async_trait]
impl Defect for RefusesRepeats {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let done = admin.replicate(request).await?;
        if done.present > 0 {
            return Err(Error::new(ErrorKind::Conflict, "a slot is taken"));
        }
        Ok(done)
    }
}

#[derive(Debug, Default)]
struct ItemByItem;

#[async_trait]
impl Defect for ItemByItem {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let mut all = Replicated { written: 0, present: 0, usage: Usage::default() };
        for item in &request.items {
            let done = admin.replicate(Replicate { items: vec![item.clone()], ..request.clone() }).await?;
            all.written += done.written;
            all.present += done.present;
        }
        Ok(all)
    }
}

#[derive(Debug, Default)]
struct PassesOver;

#[async_trait]
impl Defect for PassesOver {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let present = request.items.len() as u64;
        match admin.replicate(request).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Ok(Replicated { written: 0, present, usage: Usage::default() })
            }
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct MendsDigests;

#[async_trait]
impl Defect for MendsDigests {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        admin.replicate(with_commits(request, digested)).await
    }
}

#[derive(Debug, Default)]
struct CutsToFit;

#[async_trait]
impl Defect for CutsToFit {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let Limit::Max(max) = admin.capabilities().limits.event_bytes else {
            return admin.replicate(request).await;
        };
        let cut = |mut commit: Commit| {
            for event in &mut commit.events {
                event.data.truncate(max as usize);
            }
            digested(commit)
        };
        admin.replicate(with_commits(request, cut)).await
    }
}

#[derive(Debug, Default)]
struct AnyEpoch;

#[async_trait]
impl Defect for AnyEpoch {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let epoch = admin.read_meta(request.deadline).await?.epoch;
        admin.replicate(Replicate { epoch, ..request }).await
    }
}

#[derive(Debug, Default)]
struct AnyHistory;

#[async_trait]
impl Defect for AnyHistory {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let origin = match request.origin {
            Origin::Move { .. } => Origin::Move { history: admin.read_meta(request.deadline).await?.incarnation() },
            Origin::Restore => Origin::Restore,
        };
        admin.replicate(Replicate { origin, ..request }).await
    }
}

/// Ids that came with copies.
#[derive(Debug, Default)]
struct ForgetsIds(Mutex<HashSet<CommitId>>);

#[async_trait]
impl Defect for ForgetsIds {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let copied = lock(&self.0).contains(&request.commit.id);
        let forgets = copied && find(store, &request).await?.is_some();
        store.append(if forgets { forgotten(request) } else { request }).await
    }

    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        let ids = request.items.iter().filter_map(|item| match item {
            Replica::Commit(commit) => Some(commit.id),
            Replica::Removed { .. } | Replica::Snapshot(_) | Replica::Record(_) => None,
        });
        lock(&self.0).extend(ids);
        admin.replicate(request).await
    }
}

#[derive(Debug, Default)]
struct CountsOn;

#[async_trait]
impl Defect for CountsOn {
    async fn replicate(&self, admin: &dyn StoreAdmin, mut request: Replicate) -> Result<Replicated> {
        for item in &mut request.items {
            if let Replica::Record(record) = item {
                record.number = RecordNumber(record.number.0 + 1);
            }
        }
        admin.replicate(request).await
    }
}

#[derive(Debug, Default)]
struct DropsEarlySnapshots;

#[async_trait]
impl Defect for DropsEarlySnapshots {
    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        match admin.replicate(request.clone()).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let mut items = request.items;
                items.retain(|item| !matches!(item, Replica::Snapshot(_)));
                admin.replicate(Replicate { items, ..request }).await
            }
            answer => answer,
        }
    }
}

#[derive(Debug, Default)]
struct DropsRanges;

#[async_trait]
impl Defect for DropsRanges {
    async fn replicate(&self, admin: &dyn StoreAdmin, mut request: Replicate) -> Result<Replicated> {
        request.items.retain(|item| !matches!(item, Replica::Removed { .. }));
        admin.replicate(request).await
    }
}

#[derive(Debug, Default)]
struct BareStubs;

#[async_trait]
impl Defect for BareStubs {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let mut page = admin.read_commits(request).await?;
        for commit in &mut page.commits {
            if commit.content == evstore_api::Content::Stripped {
                commit.digest = evstore_api::ContentDigest([0; 16]);
            }
        }
        Ok(page)
    }
}
