//! What can be wrong with appends and expectations.

use super::Mutant;
use super::defect::{Defect, forgotten, mutant, with_events};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, CommitNumber, ContentDigest, ContentType, Error, ErrorKind, EventStore, EventType, Expected,
    Head, Position, ReadHead, Result, Revision,
};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<DropsAnEvent>(
        "append.drops-an-event",
        "of a commit of several events the second is not stored",
        &["append.a-commit-keeps-its-order", "append.revisions-continue-without-gap", "payload.every-byte-comes-back"],
    ),
    mutant::<StoresTwice>(
        "append.stores-twice",
        "every commit is stored twice, the second time under an id of its own",
        &[
            "append.one-event-reads-back",
            "append.revisions-continue-without-gap",
            "concurrency.streams-do-not-conflict",
        ],
    ),
    mutant::<Reverses>(
        "append.reverses-a-commit",
        "the events of a commit are stored in the opposite order",
        &["append.a-commit-keeps-its-order", "payload.every-field-comes-back"],
    ),
    mutant::<CommitNumberIsRevision>(
        "append.commit-number-is-the-revision",
        "a receipt has the last revision in place of the commit number",
        &["append.revisions-continue-without-gap", "append.a-receipt-says-where-the-commit-stands"],
    ),
    mutant::<CountsFromZero>(
        "append.counts-from-zero",
        "the first event of a stream has revision 0",
        &["append.revisions-count-from-one", "append.one-event-reads-back"],
    ),
    mutant::<TakesAnyForNoStream>(
        "append.no-stream-is-any",
        "an expectation of no stream is not looked at",
        &["append.no-stream-is-expected-of-new-streams-only", "append.a-conflict-carries-the-head"],
    ),
    mutant::<AcceptsStale>(
        "append.accepts-a-stale-revision",
        "an expectation of a revision below the head is taken",
        &["append.only-the-exact-head-is-expected", "concurrency.a-stalled-writer-conflicts"],
    ),
    mutant::<AcceptsFuture>(
        "append.accepts-a-future-revision",
        "an expectation of a revision above the head is taken",
        &["append.only-the-exact-head-is-expected", "append.a-conflict-carries-the-head"],
    ),
    mutant::<AnyIsNoStream>(
        "append.any-is-no-stream",
        "an append without expectation is taken for one to a new stream",
        &["append.anything-is-expected-of-every-live-stream"],
    ),
    mutant::<ExistsIsAny>(
        "append.exists-is-any",
        "an expectation of an existing stream is not looked at",
        &["append.an-existing-stream-is-expected", "append.a-refused-append-leaves-nothing"],
    ),
    mutant::<BareConflict>(
        "append.a-bare-conflict",
        "a conflict does not say what it found",
        &["append.a-conflict-carries-the-head", "concurrency.one-append-wins-each-revision"],
    ),
    mutant::<RefusedStays>(
        "append.a-refused-append-stays",
        "an append that conflicts is stored all the same",
        &["append.a-refused-append-leaves-nothing", "append.only-the-exact-head-is-expected"],
    ),
    mutant::<NoDigest>(
        "append.no-digest",
        "a receipt has an empty digest",
        &["append.a-receipt-says-where-the-commit-stands"],
    ),
    mutant::<NoPosition>(
        "append.no-position",
        "a receipt has no position although appends give them",
        &["append.a-receipt-has-a-position-as-declared"],
    ),
    mutant::<PositionOfTheLast>(
        "append.position-of-the-last",
        "a receipt has the position of the last event in place of the first",
        &["append.a-receipt-has-a-position-as-declared"],
    ),
    mutant::<CutsTypes>("append.cuts-types", "an event type is cut after 200 bytes", &["append.names-up-to-the-limit"]),
    mutant::<ShortNames>(
        "append.refuses-the-longest-name",
        "a stream name of exactly the declared bytes is refused",
        &["append.names-up-to-the-limit", "append.every-name-is-its-own-stream"],
    ),
    mutant::<CutsContentTypes>(
        "append.cuts-content-types",
        "a content type is cut after 100 bytes",
        &["append.names-up-to-the-limit"],
    ),
    mutant::<LongPairs>(
        "append.refuses-long-pairs",
        "a namespace and a name are put into one key, which has no room for the longest of both",
        &["append.names-up-to-the-limit"],
    ),
    mutant::<ThirtyTwoBits>(
        "append.numbers-of-32-bits",
        "numbers of a receipt are cut to 32 bits",
        &["append.numbers-past-2-to-the-32"],
    ),
    mutant::<EndIsAConflict>(
        "append.the-last-position-is-a-conflict",
        "an append that does not fit any more is answered as if others had been faster, for ever",
        &["append.numbers-end-below-2-to-the-53", "payload.commits-up-to-the-limit-of-events"],
    ),
];

#[derive(Debug, Default)]
struct DropsAnEvent;

#[async_trait]
impl Defect for DropsAnEvent {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = with_events(request, |events| {
            if events.len() > 1 {
                events.remove(1);
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct StoresTwice;

#[async_trait]
impl Defect for StoresTwice {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let again = forgotten(Append { expected: Expected::Any, ..request.clone() });
        let receipt = store.append(request).await?;
        if !receipt.repeated {
            store.append(again).await?;
        }
        Ok(receipt)
    }
}

#[derive(Debug, Default)]
struct Reverses;

#[async_trait]
impl Defect for Reverses {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(with_events(request, |events| events.reverse())?).await
    }
}

#[derive(Debug, Default)]
struct CommitNumberIsRevision;

#[async_trait]
impl Defect for CommitNumberIsRevision {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        Ok(Appended { number: CommitNumber(receipt.last.0), ..receipt })
    }
}

#[derive(Debug, Default)]
struct CountsFromZero;

#[async_trait]
impl Defect for CountsFromZero {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        let (first, last) = (Revision(receipt.first.0 - 1), Revision(receipt.last.0 - 1));
        Ok(Appended { first, last, ..receipt })
    }

    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        let head = store.head(request).await?;
        Ok(Head { revision: Revision(head.revision.0.saturating_sub(1)), ..head })
    }
}

#[derive(Debug, Default)]
struct TakesAnyForNoStream;

#[async_trait]
impl Defect for TakesAnyForNoStream {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let expected = if request.expected == Expected::NoStream { Expected::Any } else { request.expected };
        store.append(Append { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct AcceptsStale;

#[async_trait]
impl Defect for AcceptsStale {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let stale = Append { expected: Expected::Any, ..request.clone() };
        let Expected::At(revision) = request.expected else { return store.append(request).await };
        match store.append(request).await {
            Err(error) if error.head().is_some_and(|head| revision < head.revision) => store.append(stale).await,
            answer => answer,
        }
    }
}

#[derive(Debug, Default)]
struct AcceptsFuture;

#[async_trait]
impl Defect for AcceptsFuture {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let future = Append { expected: Expected::Any, ..request.clone() };
        let Expected::At(revision) = request.expected else { return store.append(request).await };
        match store.append(request).await {
            Err(error) if error.head().is_some_and(|head| revision > head.revision) => store.append(future).await,
            answer => answer,
        }
    }
}

#[derive(Debug, Default)]
struct AnyIsNoStream;

#[async_trait]
impl Defect for AnyIsNoStream {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let expected = if request.expected == Expected::Any { Expected::NoStream } else { request.expected };
        store.append(Append { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct ExistsIsAny;

#[async_trait]
impl Defect for ExistsIsAny {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let expected = if request.expected == Expected::Exists { Expected::Any } else { request.expected };
        store.append(Append { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct BareConflict;

#[async_trait]
impl Defect for BareConflict {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(request).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => Error::new(ErrorKind::Conflict, "the stream is not as expected"),
            _ => error,
        })
    }
}

#[derive(Debug, Default)]
struct RefusedStays;

#[async_trait]
impl Defect for RefusedStays {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let stays = Append { expected: Expected::Any, ..request.clone() };
        let answer = store.append(request).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
            store.append(stays).await?;
        }
        answer
    }
}

#[derive(Debug, Default)]
struct NoDigest;

#[async_trait]
impl Defect for NoDigest {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        Ok(Appended { digest: ContentDigest([0; 16]), ..store.append(request).await? })
    }
}

#[derive(Debug, Default)]
struct NoPosition;

#[async_trait]
impl Defect for NoPosition {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        Ok(Appended { position: None, ..store.append(request).await? })
    }
}

#[derive(Debug, Default)]
struct PositionOfTheLast;

#[async_trait]
impl Defect for PositionOfTheLast {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        let position = receipt.position.map(|first| first.plus(receipt.last.0 - receipt.first.0));
        Ok(Appended { position, ..receipt })
    }
}

#[derive(Debug, Default)]
struct CutsTypes;

#[async_trait]
impl Defect for CutsTypes {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let cut = |name: &EventType| name.as_str().chars().take(200).collect::<String>();
        let request = with_events(request, |events| {
            for event in events {
                event.event_type = EventType::new(cut(&event.event_type)).unwrap_or(event.event_type.clone());
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct ShortNames;

#[async_trait]
impl Defect for ShortNames {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        if request.stream.name.as_str().len() as u64 >= store.capabilities().limits.stream_name_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded"));
        }
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct ThirtyTwoBits;

#[async_trait]
impl Defect for ThirtyTwoBits {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        let cut = |number: u64| u64::from(number as u32);
        let position = receipt.position.map(|position| Position(cut(position.0)));
        Ok(Appended { first: Revision(cut(receipt.first.0)), last: Revision(cut(receipt.last.0)), position, ..receipt })
    }
}

#[derive(Debug, Default)]
struct EndIsAConflict;

#[async_trait]
impl Defect for EndIsAConflict {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(request).await.map_err(|error| match error.kind() {
            ErrorKind::TooLarge => Error::new(ErrorKind::Conflict, "the stream is not as expected"),
            _ => error,
        })
    }
}

/// As many whole signs of a text as fit into so many bytes.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[derive(Debug, Default)]
struct CutsContentTypes;

#[async_trait]
impl Defect for CutsContentTypes {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let request = with_events(request, |events| {
            for event in events {
                let kept = ContentType::new(cut(event.content_type.as_str(), 100));
                event.content_type = kept.unwrap_or(event.content_type.clone());
            }
        })?;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct LongPairs;

#[async_trait]
impl Defect for LongPairs {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        if request.stream.namespace.as_str().len() + request.stream.name.as_str().len() > 600 {
            return Err(Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded"));
        }
        store.append(request).await
    }
}
