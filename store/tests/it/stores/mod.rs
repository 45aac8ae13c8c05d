//! Stores for the tests: one in memory, and one around it that loses answers and lets rivals in between. And a recorder of metrics.
#![allow(dead_code, reason = "each test file uses a part of it")]

use async_trait::async_trait;
use evstore::api::*;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A new store in memory.
pub async fn memory() -> Arc<dyn EventStore> {
    memory_with(&[]).await.0
}

/// A new store in memory with these settings, and its administrative side.
pub async fn memory_with(given: &[(&str, &str)]) -> (Arc<dyn EventStore>, Arc<dyn StoreAdmin>) {
    let provider = evstore_memory::provider();
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, given).unwrap();
    (provider.opener.open(&settings).await.unwrap(), provider.opener.open_admin(&settings).await.unwrap())
}

/// What happens to the next call of a kind.
pub enum Fault {
    /// Refused before anything is done.
    Refuse(ErrorKind),
    /// Done, and then the answer is lost.
    LoseAnswer,
    /// Not done, and the caller can't know.
    LoseRequest,
    /// Something else comes first.
    After(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Never answered.
    Hang,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fault")
    }
}

/// A store around another, with faults in the order in which they are put in.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn EventStore>,
    pub on_append: Mutex<VecDeque<Fault>>,
    pub on_put_snapshot: Mutex<VecDeque<Fault>>,
    pub on_read_snapshot: Mutex<VecDeque<Fault>>,
    pub on_read_feed: Mutex<VecDeque<Fault>>,
    pub on_find: Mutex<VecDeque<Fault>>,
    pub on_put_record: Mutex<VecDeque<Fault>>,
    pub on_read_record: Mutex<VecDeque<Fault>>,
    pub on_feed_head: Mutex<VecDeque<Fault>>,
    /// Every read of the feed takes so long.
    pub read_feed_takes: Mutex<std::time::Duration>,
    /// Pages of the feed of more events than this do not come in time.
    pub feed_page_max: Mutex<Option<u32>>,
    /// The end of the feed, where it is not the inner store's: an older copy of it was restored.
    pub feed_ends_at: Mutex<Option<Cursor>>,
    /// How far the feed says that it is behind, where it is not the inner store's.
    pub feed_lags: Mutex<Option<Lag>>,
    /// Every wait on the feed goes unanswered until its deadline: no notification ever arrives.
    pub deaf: bool,
    /// Receipts of appends have no position, as if a sequencer gave it later.
    pub unpositioned: bool,
    /// Read in place of the snapshot that is kept: damaged, or of a stream that has lost its end.
    pub other_snapshot: Mutex<Option<Snapshot>>,
    /// Every append that arrived, in order.
    pub appends: Mutex<Vec<Append>>,
    /// The names of all calls that arrived, in order.
    pub calls: Mutex<Vec<&'static str>>,
}

impl Faulty {
    pub fn around(inner: Arc<dyn EventStore>) -> Self {
        Self {
            inner,
            on_append: Mutex::default(),
            on_put_snapshot: Mutex::default(),
            on_read_snapshot: Mutex::default(),
            on_read_feed: Mutex::default(),
            on_find: Mutex::default(),
            on_put_record: Mutex::default(),
            on_read_record: Mutex::default(),
            on_feed_head: Mutex::default(),
            read_feed_takes: Mutex::default(),
            feed_page_max: Mutex::default(),
            feed_ends_at: Mutex::default(),
            feed_lags: Mutex::default(),
            deaf: false,
            unpositioned: false,
            other_snapshot: Mutex::default(),
            appends: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    pub async fn new() -> Arc<Self> {
        Arc::new(Self::around(memory().await))
    }

    pub fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn called(&self, name: &'static str) {
        self.calls.lock().unwrap().push(name);
    }
}

async fn inject<T>(faults: &Mutex<VecDeque<Fault>>, call: impl Future<Output = Result<T>>) -> Result<T> {
    let fault = faults.lock().unwrap().pop_front();
    match fault {
        None => call.await,
        Some(Fault::Refuse(kind)) => Err(Error::new(kind, "injected")),
        Some(Fault::LoseAnswer) => {
            call.await?;
            Err(Error::new(ErrorKind::Indeterminate, "injected: the answer is lost"))
        }
        Some(Fault::LoseRequest) => Err(Error::new(ErrorKind::Indeterminate, "injected: the request is lost")),
        Some(Fault::After(first)) => {
            first.await;
            call.await
        }
        Some(Fault::Hang) => std::future::pending().await,
    }
}

#[async_trait]
impl EventStore for Faulty {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        self.called("append");
        self.appends.lock().unwrap().push(request.clone());
        let mut receipt = inject(&self.on_append, self.inner.append(request)).await?;
        if self.unpositioned {
            receipt.position = None;
        }
        Ok(receipt)
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        self.called("find_commit");
        inject(&self.on_find, self.inner.find_commit(request)).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        self.called("head");
        self.inner.head(request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        self.called("read_stream");
        self.inner.read_stream(request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        self.called("read_feed");
        let takes = *self.read_feed_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        if self.feed_page_max.lock().unwrap().is_some_and(|max| request.limit > max) {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "injected: too much at a time"));
        }
        inject(&self.on_read_feed, self.inner.read_feed(request)).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.called("wait_feed");
        if self.deaf {
            tokio::time::sleep_until(request.deadline.0.into()).await;
            return Ok(Waited::DeadlinePassed);
        }
        self.inner.wait_feed(request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.called("feed_head");
        let mut head = inject(&self.on_feed_head, self.inner.feed_head(deadline)).await?;
        if let Some(end) = self.feed_ends_at.lock().unwrap().clone() {
            head.position = end.position();
            head.cursor = end;
        }
        head.lag = self.feed_lags.lock().unwrap().unwrap_or(head.lag);
        Ok(head)
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        self.inner.list_streams(request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        self.called("put_snapshot");
        inject(&self.on_put_snapshot, self.inner.put_snapshot(request)).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.called("read_snapshot");
        let kept = inject(&self.on_read_snapshot, self.inner.read_snapshot(request)).await?;
        Ok(self.other_snapshot.lock().unwrap().clone().or(kept))
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        self.called("delete_snapshot");
        *self.other_snapshot.lock().unwrap() = None;
        self.inner.delete_snapshot(request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        self.called("put_record");
        inject(&self.on_put_record, self.inner.put_record(request)).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        self.called("read_record");
        inject(&self.on_read_record, self.inner.read_record(request)).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        self.inner.list_records(request).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// Long enough for anything that a test waits for.
pub fn soon() -> Deadline {
    Deadline::within(std::time::Duration::from_secs(10))
}

/// Appends events of one type to a stream, their data the numbers given.
pub async fn append(store: &dyn EventStore, stream: &str, event_type: &str, numbers: &[u64]) -> Appended {
    let event = |n: &u64| NewEvent::new(EventType::new(event_type).unwrap(), n.to_string().into_bytes());
    let events = Events::new(numbers.iter().map(event).collect()).unwrap();
    let commit = NewCommit { id: CommitId::generate(), events };
    let stream = StreamId::new(stream).unwrap();
    store.append(Append { stream, expected: Expected::Any, commit, deadline: soon() }).await.unwrap()
}

/// Keeps what is told to the `metrics` crate, by name and labels.
#[derive(Debug, Default)]
pub struct Recorder {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Recorder {
    /// A counter, by its name and its labels' values with a space between; none where it was never told.
    pub fn counter(&self, key: &str) -> Option<u64> {
        self.counters.lock().unwrap().get(key).map(|count| count.load(Ordering::Relaxed))
    }

    /// A gauge, in the same way.
    pub fn gauge(&self, key: &str) -> Option<f64> {
        self.gauges.lock().unwrap().get(key).map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)))
    }

    fn cell(all: &Mutex<BTreeMap<String, Arc<AtomicU64>>>, key: &metrics::Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(metrics::Label::value).collect();
        let key = format!("{} {}", key.name(), labels.join(" "));
        all.lock().unwrap().entry(key).or_default().clone()
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(Self::cell(&self.counters, key))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(Self::cell(&self.gauges, key))
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}
