//! What can be wrong with the list of streams.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::{Append, Appended, EventStore, ListStreams, Result, StreamId, StreamState, StreamsPage};
use std::collections::HashMap;
use std::sync::Mutex;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<SkipsAtPages>(
        "listing.skips-at-pages",
        "the first stream of every later page is left out",
        &["listing.every-stream-is-listed-once"],
    ),
    mutant::<FoldsCase>(
        "listing.prefixes-fold-case",
        "a prefix is compared without case",
        &["listing.prefixes-and-categories-are-exact"],
    ),
    mutant::<OldHeads>(
        "listing.heads-of-the-first-commit",
        "a listed stream has commit number 1",
        &["listing.heads-are-those-of-the-streams"],
    ),
    mutant::<ListsLate>(
        "listing.lists-late",
        "the first list after an append does not see it, and lists are declared strong",
        &["listing.a-new-stream-is-listed-as-declared"],
    ),
    mutant::<CountsPlaces>(
        "listing.counts-places",
        "a page begins behind as many streams as were listed before it, whichever those are now",
        &["listing.streams-made-meanwhile-disturb-nothing"],
    ),
    mutant::<HidesDeleted>(
        "listing.hides-deleted-streams",
        "deleted streams are left out",
        &["listing.deleted-streams-are-listed-as-deleted"],
    ),
    mutant::<AnyLimit>(
        "listing.takes-any-limit",
        "a page of nothing or of more than is declared is moved to what can be given",
        &["listing.pages-are-as-large-as-declared"],
    ),
];

#[derive(Debug, Default)]
struct SkipsAtPages;

#[async_trait]
impl Defect for SkipsAtPages {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let later = request.after.is_some();
        let mut page = store.list_streams(request).await?;
        if later && !page.streams.is_empty() {
            page.streams.remove(0);
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct FoldsCase;

#[async_trait]
impl Defect for FoldsCase {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let prefix = request.prefix.to_lowercase();
        // The whole store in one page: a check's store is small.
        let limit = store.capabilities().limits.page_items;
        let whole = ListStreams { prefix: String::new(), limit, ..request.clone() };
        let mut page = store.list_streams(whole).await?;
        page.streams.retain(|one| one.stream.name.as_str().to_lowercase().starts_with(&prefix));
        page.next = (page.streams.len() > request.limit as usize).then(|| {
            page.streams.truncate(request.limit as usize);
            page.streams[page.streams.len() - 1].stream.clone()
        });
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct OldHeads;

#[async_trait]
impl Defect for OldHeads {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let mut page = store.list_streams(request).await?;
        for one in &mut page.streams {
            one.head.number = evstore_api::CommitNumber(1);
        }
        Ok(page)
    }
}

/// Streams that were appended to since the last list.
#[derive(Debug, Default)]
struct ListsLate(Mutex<Vec<StreamId>>);

#[async_trait]
impl Defect for ListsLate {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).push(request.stream.clone());
        store.append(request).await
    }

    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let late = std::mem::take(&mut *lock(&self.0));
        let mut page = store.list_streams(request).await?;
        page.streams.retain(|one| !late.contains(&one.stream));
        Ok(page)
    }
}

/// How many streams were listed up to one that a page ended with.
#[derive(Debug, Default)]
struct CountsPlaces(Mutex<HashMap<StreamId, usize>>);

#[async_trait]
impl Defect for CountsPlaces {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let places = request.after.as_ref().and_then(|after| lock(&self.0).get(after).copied()).unwrap_or(0);
        let limit = store.capabilities().limits.page_items;
        let mut page = store.list_streams(ListStreams { after: None, limit, ..request.clone() }).await?;
        page.streams.drain(..places.min(page.streams.len()));
        page.next = (page.streams.len() > request.limit as usize).then(|| {
            page.streams.truncate(request.limit as usize);
            page.streams[page.streams.len() - 1].stream.clone()
        });
        if let Some(next) = &page.next {
            lock(&self.0).insert(next.clone(), places + page.streams.len());
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct HidesDeleted;

#[async_trait]
impl Defect for HidesDeleted {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let mut page = store.list_streams(request).await?;
        page.streams.retain(|one| one.head.state != StreamState::Deleted);
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct AnyLimit;

#[async_trait]
impl Defect for AnyLimit {
    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        let limit = request.limit.clamp(1, store.capabilities().limits.page_items);
        store.list_streams(ListStreams { limit, ..request }).await
    }
}
