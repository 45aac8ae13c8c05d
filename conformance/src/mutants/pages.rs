//! Stores that take the page of their engine for the end.

use super::Mutant;
use super::defect::{Defect, mutant};
use async_trait::async_trait;
use evstore_api::{
    CommitsPage, EventStore, FeedPage, ListRecords, ListStreams, ReadCommits, ReadFeed, RecordsPage, Result,
    StoreAdmin, StreamsPage,
};

const KILLED_BY: &[&str] = &["pages.no-walk-ends-early"];

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<FeedEnds>(
        "feed.ends-at-a-page",
        "a page of the feed that is cut by the engine says that it is the last",
        KILLED_BY,
    ),
    mutant::<ListEnds>(
        "listing.ends-at-a-page",
        "a list that is cut by the engine says that nothing follows",
        KILLED_BY,
    ),
    mutant::<SlotsEnd>(
        "copies.slots-end-at-a-page",
        "a page of slots that is cut by the engine says that nothing follows",
        KILLED_BY,
    ),
    mutant::<SlotsAnyLimit>(
        "copies.slots-take-any-limit",
        "a page of no slot or of more than declared is moved to what can be given",
        &["pages.limits-of-slots-are-kept"],
    ),
    mutant::<SlotsNoBytes>(
        "copies.slots-of-no-bytes",
        "a page of slots that may hold no bytes holds no slot, and goes on where it began",
        &["pages.limits-of-slots-are-kept"],
    ),
    mutant::<RecordsEnd>(
        "records.end-at-a-page",
        "a list of records that is cut by the engine says that nothing follows",
        KILLED_BY,
    ),
];

/// Items of a page of the engine.
const PAGE: u32 = 1_000;

#[derive(Debug, Default)]
struct FeedEnds;

#[async_trait]
impl Defect for FeedEnds {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let cut = request.limit > PAGE;
        let page = store.read_feed(ReadFeed { limit: request.limit.min(PAGE), ..request }).await?;
        Ok(FeedPage { end: page.end || cut, ..page })
    }
}

#[derive(Debug, Default)]
struct ListEnds;

#[async_trait]
impl Defect for ListEnds {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let cut = request.limit > PAGE;
        let page = store.list_streams(ListStreams { limit: request.limit.min(PAGE), ..request }).await?;
        Ok(StreamsPage { next: page.next.filter(|_| !cut), ..page })
    }
}

#[derive(Debug, Default)]
struct SlotsEnd;

#[async_trait]
impl Defect for SlotsEnd {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let cut = request.limit > PAGE;
        let page = admin.read_commits(ReadCommits { limit: request.limit.min(PAGE), ..request }).await?;
        Ok(CommitsPage { next: page.next.filter(|_| !cut), ..page })
    }
}

#[derive(Debug, Default)]
struct RecordsEnd;

#[async_trait]
impl Defect for RecordsEnd {
    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        let cut = request.limit > PAGE;
        let page = store.list_records(ListRecords { limit: request.limit.min(PAGE), ..request }).await?;
        Ok(RecordsPage { next: page.next.filter(|_| !cut), ..page })
    }
}

#[derive(Debug, Default)]
struct SlotsAnyLimit;

#[async_trait]
impl Defect for SlotsAnyLimit {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let limit = request.limit.clamp(1, admin.capabilities().limits.page_items);
        admin.read_commits(ReadCommits { limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct SlotsNoBytes;

#[async_trait]
impl Defect for SlotsNoBytes {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let nothing = (request.max_bytes == 0).then_some(request.from);
        let page = admin.read_commits(request).await?;
        match nothing {
            Some(from) => Ok(CommitsPage { commits: Vec::new(), next: Some(from), ..page }),
            None => Ok(page),
        }
    }
}
