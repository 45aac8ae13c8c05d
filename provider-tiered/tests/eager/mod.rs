//! Tiered stores whose archive is always busy: everything but the last events is archived behind every append at first, and all the
//! time by a task beside.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic, also in its helpers")]

use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Capabilities, Deadline, DeleteSnapshot, EventStore, FeedHead, FeedPage, FindCommit, Head,
    ListRecords, ListStreams, Opener, Provider, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot,
    ReadStream, Record, RecordPut, RecordsPage, Result, Settings, Snapshot, SnapshotPut, StoreAdmin, StoreName,
    StreamPage, StreamsPage, Usage, WaitFeed, Waited,
};
use evstore_tiered::{Archiver, Policy};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Appends of a handle behind which everything else is archived before they are answered.
const AT_ONCE: u64 = 40;
/// Pause of the task beside.
const PAUSE: Duration = Duration::from_millis(20);

/// Commits that were archived in this process.
pub static ARCHIVED: AtomicU64 = AtomicU64::new(0);

/// Settings of a tiered store with this one in front and an archive of small segments.
pub fn settings(hot: &Provider, hot_settings: &Settings, archive: &str, more: &[(&str, &str)]) -> Settings {
    let tiered = evstore_tiered::provider([]);
    let given = [("hot", "hot"), ("archive", archive), ("segment_bytes", "4KiB")];
    let given = given.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let settings = Settings::new(StoreName::new("tiered").unwrap(), tiered.keys, given).unwrap();
    evstore_tiered::with_hot(settings, hot, hot_settings).unwrap()
}

/// The tiered provider, eager.
pub fn provider(hot: Provider) -> Provider {
    let tiered = evstore_tiered::provider([hot.clone()]);
    Provider { opener: Arc::new(EagerOpener { inner: tiered.opener.clone(), hot }), ..tiered }
}

struct EagerOpener {
    inner: Arc<dyn Opener>,
    hot: Provider,
}

#[async_trait]
impl Opener for EagerOpener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let inner = self.inner.open(settings).await?;
        let archiver = Archiver::open(settings, std::slice::from_ref(&self.hot)).await?;
        let keep_last = settings.number("keep_last").unwrap_or(1);
        let archiver = archiver.with_policy(Policy { keep_last: Some(keep_last), ..Policy::default() });
        let eager = Arc::new(Eager { inner, archiver: archiver.clone(), appends: AtomicU64::new(0) });
        tokio::spawn(beside(archiver, Arc::downgrade(&eager)));
        Ok(eager)
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}

/// Archives while the store is held. What is refused, because the store is fenced or closed, is tried again.
async fn beside(archiver: Archiver, store: Weak<Eager>) {
    while store.strong_count() > 0 {
        tokio::time::sleep(PAUSE).await;
        run(&archiver).await;
    }
    // What it opened is let go of; that the store may be gone by now is no failure.
    let _ = archiver.close().await;
}

async fn run(archiver: &Archiver) {
    if let Ok(ran) = archiver.run(&|_| {}).await {
        ARCHIVED.fetch_add(ran.commits, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Eager {
    inner: Arc<dyn EventStore>,
    archiver: Archiver,
    appends: AtomicU64,
}

macro_rules! passed_on {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[async_trait]
        impl EventStore for Eager {
            fn capabilities(&self) -> &Capabilities {
                self.inner.capabilities()
            }

            async fn append(&self, request: Append) -> Result<Appended> {
                let appended = self.inner.append(request).await;
                if appended.is_ok() && self.appends.fetch_add(1, Ordering::Relaxed) < AT_ONCE {
                    run(&self.archiver).await;
                }
                appended
            }

            /// What is in the archive changes while a check reads, and so does what a read of it costs: `src/tests.rs` measures that
            /// in peace. A check is told of one request, whatever it reads.
            async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
                let page = self.inner.read_stream(request).await?;
                Ok(StreamPage { usage: Usage { requests: 1, ..Usage::default() }, ..page })
            }

            async fn close(&self) -> Result<()> {
                self.inner.close().await
            }

            $(async fn $name(&self, request: $request) -> Result<$answer> {
                self.inner.$name(request).await
            })*
        }
    };
}

passed_on! {
    find_commit(FindCommit) -> Option<Appended>;
    head(ReadHead) -> Head;
    read_feed(ReadFeed) -> FeedPage;
    wait_feed(WaitFeed) -> Waited;
    feed_head(Deadline) -> FeedHead;
    list_streams(ListStreams) -> StreamsPage;
    put_snapshot(PutSnapshot) -> SnapshotPut;
    read_snapshot(ReadSnapshot) -> Option<Snapshot>;
    delete_snapshot(DeleteSnapshot) -> ();
    put_record(PutRecord) -> RecordPut;
    read_record(ReadRecord) -> Option<Record>;
    list_records(ListRecords) -> RecordsPage;
}
