//! Keeps the last calls of a check as lines, so that a broken promise is shown by what was done.

use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Capabilities, Deadline, DeleteSnapshot, Error, EventStore, FeedHead, FeedPage, FindCommit, Head,
    ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot, ReadStream, Record,
    RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StreamPage, StreamsPage, WaitFeed, Waited,
};
use std::collections::VecDeque;
use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines kept: what a person reads of one failure.
const LINES_MAX: usize = 40;

/// The last calls, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<VecDeque<String>>>);

impl Trace {
    pub(crate) fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A store whose calls are traced.
#[derive(Debug)]
pub(crate) struct Traced {
    inner: Arc<dyn EventStore>,
    trace: Trace,
}

impl Traced {
    pub(crate) fn new(inner: Arc<dyn EventStore>, trace: Trace) -> Self {
        Self { inner, trace }
    }

    fn log<T>(&self, call: impl Display, result: Result<T>, show: impl FnOnce(&T) -> String) -> Result<T> {
        let answer = match &result {
            Ok(answer) => show(answer),
            Err(error) => failure(error),
        };
        self.trace.push(format!("{call} -> {answer}"));
        result
    }
}

fn failure(error: &Error) -> String {
    match error.head() {
        Some(head) => format!("{} at head {}", error.kind().name(), head.revision),
        None => format!("{error:?}"),
    }
}

fn short(value: impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(160) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn receipt(appended: &Appended) -> String {
    let position = appended.position.map_or("none".into(), |position| position.to_string());
    let repeated = if appended.repeated { ", repeated" } else { "" };
    format!(
        "revisions {}..{}, commit number {}, position {position}{repeated}",
        appended.first, appended.last, appended.number
    )
}

#[async_trait]
impl EventStore for Traced {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        let (stream, expected, id) = (request.stream.clone(), request.expected, request.commit.id);
        let count = request.commit.events.count();
        let result = self.inner.append(request).await;
        self.log(format_args!("append {stream} expected {expected} commit {id} of {count}"), result, receipt)
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        let call = format!("find-commit {} {}", request.stream, request.commit);
        let result = self.inner.find_commit(request).await;
        self.log(call, result, |found| found.as_ref().map_or("none".into(), receipt))
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        let call = format!("head {}", request.stream);
        let result = self.inner.head(request).await;
        self.log(call, result, |head| format!("revision {}, {:?}", head.revision, head.state))
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        let call =
            format!("read {} from {:?} {:?} limit {}", request.stream, request.from, request.direction, request.limit);
        let result = self.inner.read_stream(request).await;
        self.log(call, result, |page| {
            let revisions: Vec<_> = page.events().map(|event| event.revision().0).collect();
            format!(
                "revisions {}, head {} {:?}, next {:?}",
                short(revisions),
                page.head.revision,
                page.head.state,
                page.next
            )
        })
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        let call = format!("feed from {} limit {}", short(&request.from), request.limit);
        let result = self.inner.read_feed(request).await;
        self.log(call, result, |page| {
            let events: Vec<_> = page
                .events()
                .map(|event| {
                    // Not as a position: one that is out of bounds is for a check to find.
                    let position = event.commit.first_position.map(|first| first.0 + u64::from(event.event.ordinal));
                    (position, format!("{}@{}", event.stream(), event.revision()))
                })
                .collect();
            format!("{}, next {}, end {}", short(events), page.next, page.end)
        })
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        let call = format!("wait-feed after {}", request.after);
        let result = self.inner.wait_feed(request).await;
        self.log(call, result, |waited| short(waited))
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        let result = self.inner.feed_head(deadline).await;
        self.log("feed-head", result, |head| format!("{} lag {:?}", head.cursor, head.lag))
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        let call =
            format!("list-streams prefix {:?} after {:?} limit {}", request.prefix, request.after, request.limit);
        let result = self.inner.list_streams(request).await;
        self.log(call, result, |page| short(page.streams.iter().map(|one| &one.stream).collect::<Vec<_>>()))
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        let call = format!("put-snapshot {} at {}", request.snapshot.stream, request.snapshot.revision);
        let result = self.inner.put_snapshot(request).await;
        self.log(call, result, |put| short(put))
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        let call = format!("read-snapshot {}", request.stream);
        let result = self.inner.read_snapshot(request).await;
        self.log(call, result, |found| found.as_ref().map_or("none".into(), |one| format!("at {}", one.revision)))
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        let call = format!("delete-snapshot {}", request.stream);
        let result = self.inner.delete_snapshot(request).await;
        self.log(call, result, |()| "done".into())
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        let call = format!("put-record {} expected {:?}", request.key.name, request.expected);
        let result = self.inner.put_record(request).await;
        self.log(call, result, |put| format!("number {}", put.number))
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        let call = format!("read-record {}", request.key.name);
        let result = self.inner.read_record(request).await;
        self.log(call, result, |found| short(found))
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        let call = format!("list-records {} after {:?}", request.kind.name(), request.after);
        let result = self.inner.list_records(request).await;
        self.log(call, result, |page| short(page.records.iter().map(|one| &one.key.name).collect::<Vec<_>>()))
    }

    async fn close(&self) -> Result<()> {
        let result = self.inner.close().await;
        self.log("close", result, |()| "done".into())
    }
}
