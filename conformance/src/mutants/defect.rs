//! The forwarding store of which each mutant changes a method or two.

use super::Mutant;
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Append, Appended, Capabilities, CommitId, CommitsPage, Deadline, Delete, DeleteSnapshot, Deleted,
    EventStore, Events, FeedAdvanced, FeedHead, FeedPage, FindCommit, Finding, Head, ListRecords, ListStreams, Meta,
    MetaSwapped, NewEvent, OpenStream, Opener, PutRecord, PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadRecord,
    ReadSnapshot, ReadStream, Record, RecordPut, RecordsPage, Release, Released, Replicate, Replicated, Result,
    SchemaPlan, SealStream, Settings, Snapshot, SnapshotPut, StoreAdmin, StreamId, StreamOpened, StreamPage,
    StreamSealed, StreamsPage, SwapMeta, Truncate, Truncated, WaitFeed, Waited,
};
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Declares [`Defect`] and the two sides of a store that asks it, from one list of the calls.
///
/// The signatures are those that `async_trait` gives, so that a mutant writes `async fn` for the calls that it changes. The
/// others hand on the future of the store inside and have none of their own: hundreds of mutants times thirty futures would
/// be most of what there is to compile here.
macro_rules! defect {
    (
        EventStore { $($call:ident($Request:ty) -> $Answer:ty;)* }
        StoreAdmin { $($admin_call:ident($AdminRequest:ty) -> $AdminAnswer:ty;)* }
    ) => {
        /// What a mutant does instead of forwarding a call. There is one value for each store, shared by all of its handles.
        pub(super) trait Defect: Debug + Send + Sync {
            fn capabilities(&self, inner: &Capabilities) -> Capabilities {
                inner.clone()
            }

            /// A handle of the store was opened.
            fn opened<'s, 'i, 'f>(&'s self, _: &'i dyn EventStore) -> Answering<'f, ()>
            where
                's: 'f,
                'i: 'f,
                Self: 'f,
            {
                Box::pin(std::future::ready(Ok(())))
            }

            $(fn $call<'s, 'i, 'f>(&'s self, store: &'i dyn EventStore, request: $Request) -> Answering<'f, $Answer>
            where
                's: 'f,
                'i: 'f,
                Self: 'f,
            {
                store.$call(request)
            })*

            fn close<'s, 'i, 'f>(&'s self, store: &'i dyn EventStore) -> Answering<'f, ()>
            where
                's: 'f,
                'i: 'f,
                Self: 'f,
            {
                store.close()
            }

            $(fn $admin_call<'s, 'i, 'f>(
                &'s self,
                admin: &'i dyn StoreAdmin,
                request: $AdminRequest,
            ) -> Answering<'f, $AdminAnswer>
            where
                's: 'f,
                'i: 'f,
                Self: 'f,
            {
                admin.$admin_call(request)
            })*
        }

        #[async_trait]
        impl EventStore for Store {
            fn capabilities(&self) -> &Capabilities {
                &self.capabilities
            }

            $(async fn $call(&self, request: $Request) -> Result<$Answer> {
                self.defect.$call(&*self.inner, request).await
            })*

            async fn close(&self) -> Result<()> {
                self.defect.close(&*self.inner).await
            }
        }

        #[async_trait]
        impl StoreAdmin for Admin {
            fn capabilities(&self) -> &Capabilities {
                &self.capabilities
            }

            $(async fn $admin_call(&self, request: $AdminRequest) -> Result<$AdminAnswer> {
                self.defect.$admin_call(&*self.inner, request).await
            })*

            async fn close(&self) -> Result<()> {
                self.inner.close().await
            }
        }
    };
}

defect! {
    EventStore {
        append(Append) -> Appended;
        find_commit(FindCommit) -> Option<Appended>;
        head(ReadHead) -> Head;
        read_stream(ReadStream) -> StreamPage;
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
    StoreAdmin {
        read_meta(Deadline) -> Meta;
        swap_meta(SwapMeta) -> MetaSwapped;
        seal_stream(SealStream) -> StreamSealed;
        open_stream(OpenStream) -> StreamOpened;
        replicate(Replicate) -> Replicated;
        read_commits(ReadCommits) -> CommitsPage;
        truncate(Truncate) -> Truncated;
        release(Release) -> Released;
        delete(Delete) -> Deleted;
        advance_feed(AdvanceFeed) -> FeedAdvanced;
        plan_schema(Deadline) -> SchemaPlan;
        apply_schema(Deadline) -> SchemaPlan;
        check_schema(Deadline) -> ();
        examine(Deadline) -> Vec<Finding>;
    }
}

/// The answer of a call, as `async_trait` writes it.
type Answering<'f, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'f>>;

/// A mutant whose stores have a defect of type `D`.
pub(super) const fn mutant<D: Defect + Default + 'static>(
    name: &'static str,
    defect: &'static str,
    killed_by: &'static [&'static str],
) -> Mutant {
    Mutant { name, defect, killed_by, wrap: |inner| Opening::around(inner, || Arc::new(D::default())) }
}

/// Opens stores with a defect.
struct Opening {
    inner: Arc<dyn Opener>,
    new: fn() -> Arc<dyn Defect>,
    defects: Mutex<Vec<(Settings, Arc<dyn Defect>)>>,
}

impl Opening {
    fn around(inner: Arc<dyn Opener>, new: fn() -> Arc<dyn Defect>) -> Arc<dyn Opener> {
        Arc::new(Self { inner, new, defects: Mutex::default() })
    }

    fn defect(&self, settings: &Settings) -> Arc<dyn Defect> {
        let mut defects = lock(&self.defects);
        if let Some((_, defect)) = defects.iter().find(|(known, _)| known == settings) {
            return defect.clone();
        }
        let defect = (self.new)();
        defects.push((settings.clone(), defect.clone()));
        defect
    }
}

#[async_trait]
impl Opener for Opening {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let (inner, defect) = (self.inner.open(settings).await?, self.defect(settings));
        defect.opened(&*inner).await?;
        Ok(Arc::new(Store { capabilities: defect.capabilities(inner.capabilities()), inner, defect }))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        let (inner, defect) = (self.inner.open_admin(settings).await?, self.defect(settings));
        Ok(Arc::new(Admin { capabilities: defect.capabilities(inner.capabilities()), inner, defect }))
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

#[derive(Debug)]
struct Store {
    inner: Arc<dyn EventStore>,
    defect: Arc<dyn Defect>,
    capabilities: Capabilities,
}

#[derive(Debug)]
struct Admin {
    inner: Arc<dyn StoreAdmin>,
    defect: Arc<dyn Defect>,
    capabilities: Capabilities,
}

/// The head of a stream.
pub(super) async fn head(store: &dyn EventStore, stream: &StreamId, deadline: Deadline) -> Result<Head> {
    store.head(ReadHead { stream: stream.clone(), deadline }).await
}

/// The commit of an append, if it is there already.
pub(super) async fn find(store: &dyn EventStore, request: &Append) -> Result<Option<Appended>> {
    let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, request.deadline);
    store.find_commit(FindCommit { stream, commit, deadline }).await
}

/// The same append as somebody takes it who does not know its id.
pub(super) fn forgotten(mut request: Append) -> Append {
    request.commit.id = CommitId::generate();
    request
}

/// The same append with its events changed.
pub(super) fn with_events(mut request: Append, change: impl FnOnce(&mut Vec<NewEvent>)) -> Result<Append> {
    let mut events = request.commit.events.as_slice().to_vec();
    change(&mut events);
    request.commit.events = Events::new(events)?;
    Ok(request)
}

/// What several calls of one mutant share.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
