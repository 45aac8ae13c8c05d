//! What can be said shorter: stores without a config, and a plain append, a whole stream, its latest event.
use evstore::{CommitId, ErrorKind, EventStoreExt, EventType, Expected, NewEvent, Revision, Store, StreamId};
use futures::TryStreamExt;

fn event(n: u64) -> NewEvent {
    NewEvent::new(EventType::new("Counted").unwrap(), n.to_string().into_bytes())
}

#[tokio::test]
async fn a_stream_reads_whole_over_many_pages_from_any_revision_and_ends_with_its_latest_event() {
    let store = Store::memory().await.unwrap();
    let (events, stream) = (store.events(), StreamId::new("count-1").unwrap());
    assert!(events.latest_event(&stream).await.unwrap().is_none());
    for first in (1..=1200).step_by(3) {
        let three = (first..first + 3).map(event);
        events.append_events(&stream, Expected::At(Revision(first - 1)), CommitId::generate(), three).await.unwrap();
    }
    // In the middle of a commit.
    let all: Vec<_> = events.read_all(&stream, Revision(2)).try_collect().await.unwrap();
    let revisions: Vec<_> = all.iter().map(|event| event.revision().0).collect();
    assert_eq!(revisions, (2..=1200).collect::<Vec<_>>());
    assert!(all.iter().all(|event| event.event().data == event.revision().0.to_string()));
    assert_eq!(events.latest_event(&stream).await.unwrap().unwrap().revision(), Revision(1200));
}

#[tokio::test]
async fn an_append_of_nothing_and_a_stale_one_are_refused() {
    let store = Store::memory().await.unwrap();
    let (events, stream) = (store.events(), StreamId::new("count-1").unwrap());
    let nothing = events.append_events(&stream, Expected::Any, CommitId::generate(), []).await;
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::Invalid);
    events.append_events(&stream, Expected::NoStream, CommitId::generate(), [event(1)]).await.unwrap();
    let stale = events.append_events(&stream, Expected::NoStream, CommitId::generate(), [event(1)]).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_store_in_a_file_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.db");
    let stream = StreamId::new("count-1").unwrap();
    let store = Store::sqlite(&path).await.unwrap();
    store.events().append_events(&stream, Expected::Any, CommitId::generate(), [event(1)]).await.unwrap();
    store.close().await.unwrap();
    let store = Store::sqlite(&path).await.unwrap();
    assert!(store.events().latest_event(&stream).await.unwrap().is_some());
    store.close().await.unwrap();
}
