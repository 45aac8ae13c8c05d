//! What can be wrong with names, namespaces, and stores beside each other.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Delete, DeleteSnapshot, Deleted, EventStore, FeedPage, FindCommit, Head, Namespace,
    NamespaceFilter, Opener, PutSnapshot, ReadFeed, ReadHead, ReadSnapshot, ReadStream, Result, Settings, Snapshot,
    SnapshotPut, StoreAdmin, StreamId, StreamName, StreamPage,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<Renames<0>>(
        "tenancy.names-fold-case",
        "stream names that differ in case only are one stream",
        &["append.every-name-is-its-own-stream", "listing.every-stream-is-listed-once"],
    ),
    mutant::<Renames<1>>(
        "tenancy.names-are-trimmed",
        "spaces around a stream's name are taken away",
        &["append.every-name-is-its-own-stream"],
    ),
    mutant::<Renames<2>>(
        "tenancy.namespaces-leak",
        "streams of one name are one stream in all namespaces",
        &[
            "tenancy.namespaces-are-independent",
            "tenancy.every-namespace-is-its-own",
            "idempotency.an-id-belongs-to-its-stream",
        ],
    ),
    mutant::<Renames<3>>(
        "tenancy.namespaces-are-joined",
        "a namespace and a name are put together without a sign between that neither can hold",
        &["tenancy.every-namespace-is-its-own"],
    ),
    mutant::<Renames<4>>(
        "tenancy.names-are-hashed",
        "a stream is known by a hash of 32 bits of its name",
        &["append.every-name-is-its-own-stream"],
    ),
    mutant::<FeedOfAll>(
        "tenancy.the-feed-leaks",
        "the feed of a namespace has the streams of all",
        &["tenancy.feed-and-list-by-namespace-and-whole"],
    ),
    mutant::<DeletesByName>(
        "tenancy.deletes-by-name",
        "a deletion takes the streams of that name in all namespaces",
        &["tenancy.deleting-in-one-namespace-leaves-others"],
    ),
    Mutant {
        name: "tenancy.drops-what-begins-so",
        defect: "dropping a scratch store drops those too whose tags begin with its own",
        killed_by: &["tenancy.stores-of-like-names-share-nothing"],
        wrap: |inner| Arc::new(DropsByPrefix { inner, made: Mutex::default() }),
    },
    Mutant {
        name: "tenancy.one-store-for-all",
        defect: "stores beside each other are one store",
        killed_by: &["tenancy.two-stores-share-nothing"],
        wrap: |inner| Arc::new(OneForAll { inner, first: Mutex::default() }),
    },
];

/// Opens stores and drops with each those whose tags begin with its own.
struct DropsByPrefix {
    inner: Arc<dyn Opener>,
    made: Mutex<Vec<(String, Settings)>>,
}

#[async_trait]
impl Opener for DropsByPrefix {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.inner.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let made = self.inner.make_scratch(settings, tag).await?;
        lock(&self.made).push((tag.to_owned(), made.clone()));
        Ok(made)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let known = lock(&self.made).clone();
        let dropped = known.iter().find(|(_, settings)| settings == scratch);
        for (_, settings) in known.iter().filter(|(tag, _)| dropped.is_some_and(|one| tag.starts_with(&one.0))) {
            self.inner.drop_scratch(settings).await?;
        }
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}

/// A store that knows streams by another name than they are given.
#[derive(Debug, Default)]
struct Renames<const HOW: usize>;

const RENAMES: [fn(&StreamId) -> Result<StreamId>; 5] = [
    |stream| StreamId::within(stream.namespace.as_str(), stream.name.as_str().to_ascii_lowercase()),
    |stream| StreamId::within(stream.namespace.as_str(), stream.name.as_str().trim()),
    |stream| StreamId::new(stream.name.as_str()),
    |stream| match stream.namespace.as_str() {
        "" => Ok(stream.clone()),
        namespace => StreamId::within("joined", format!("{namespace}:{}", stream.name)),
    },
    |stream| {
        let name = stream.name.as_str().bytes();
        let hash = name.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        StreamId::within(stream.namespace.as_str(), format!("{hash:08x}"))
    },
];

impl<const HOW: usize> Renames<HOW> {
    fn renamed(stream: &StreamId) -> StreamId {
        RENAMES[HOW](stream).unwrap_or_else(|_| stream.clone())
    }

    /// The page under the name that was asked for, so that the defect shows in what is shared and not in the name.
    fn named(mut page: StreamPage, stream: &StreamId) -> StreamPage {
        page.commits.iter_mut().for_each(|commit| commit.stream = stream.clone());
        page
    }
}

#[async_trait]
impl<const HOW: usize> Defect for Renames<HOW> {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(Append { stream: Self::renamed(&request.stream), ..request }).await
    }

    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        store.find_commit(FindCommit { stream: Self::renamed(&request.stream), ..request }).await
    }

    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        store.head(ReadHead { stream: Self::renamed(&request.stream), ..request }).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let stream = request.stream.clone();
        let page = store.read_stream(ReadStream { stream: Self::renamed(&stream), ..request }).await?;
        Ok(Self::named(page, &stream))
    }

    async fn put_snapshot(&self, store: &dyn EventStore, mut request: PutSnapshot) -> Result<SnapshotPut> {
        request.snapshot.stream = Self::renamed(&request.snapshot.stream);
        store.put_snapshot(request).await
    }

    async fn read_snapshot(&self, store: &dyn EventStore, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        store.read_snapshot(ReadSnapshot { stream: Self::renamed(&request.stream), ..request }).await
    }

    async fn delete_snapshot(&self, store: &dyn EventStore, request: DeleteSnapshot) -> Result<()> {
        store.delete_snapshot(DeleteSnapshot { stream: Self::renamed(&request.stream), ..request }).await
    }
}

#[derive(Debug, Default)]
struct FeedOfAll;

#[async_trait]
impl Defect for FeedOfAll {
    async fn read_feed(&self, store: &dyn EventStore, mut request: ReadFeed) -> Result<FeedPage> {
        request.filter.namespace = NamespaceFilter::All;
        store.read_feed(request).await
    }
}

/// Namespaces and names that were appended to.
#[derive(Debug, Default)]
struct DeletesByName(Mutex<HashSet<(Namespace, StreamName)>>);

#[async_trait]
impl Defect for DeletesByName {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).insert((request.stream.namespace.clone(), request.stream.name.clone()));
        store.append(request).await
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let known: Vec<_> = lock(&self.0).iter().filter(|one| one.1 == request.stream.name).cloned().collect();
        for (namespace, name) in known {
            let stream = StreamId { namespace, name };
            if stream != request.stream {
                admin.delete(Delete { stream, ..request.clone() }).await?;
            }
        }
        admin.delete(request).await
    }
}

/// Opens the first scratch store whichever is asked for.
struct OneForAll {
    inner: Arc<dyn Opener>,
    first: Mutex<Option<Settings>>,
}

#[async_trait]
impl Opener for OneForAll {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.inner.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        if let Some(first) = lock(&self.first).clone() {
            return Ok(first);
        }
        let made = self.inner.make_scratch(settings, tag).await?;
        *lock(&self.first) = Some(made.clone());
        Ok(made)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}
