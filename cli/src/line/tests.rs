use super::*;
use bytes::Bytes;
use evstore_api::{Commit, Content, ContentType, ErrorKind, Event, EventId, EventType, NewCommit, StoreName, format};

fn event(data: &[u8]) -> NewEvent {
    NewEvent::new(EventType::new("t").unwrap(), data.to_vec())
}

/// A commit as a store keeps it.
fn commit(events: Vec<NewEvent>) -> Commit {
    let (stream, id) = (StreamId::new("order-1").unwrap(), CommitId([7; 16]));
    let new = NewCommit { id, events: evstore_api::Events::new(events).unwrap() };
    let events: Vec<Event> = new.recorded().unwrap();
    Commit {
        digest: format::digest(&stream, id, &CommitKind::Events, &events),
        stream,
        id,
        number: CommitNumber(3),
        kind: CommitKind::Events,
        first_revision: Revision(5),
        count: events.len() as u32,
        first_position: Some(Position(9)),
        recorded_at: Timestamp(1_700_000_000_000_001),
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        events,
    }
}

fn events_of(lines: &[String]) -> Vec<EventLine> {
    let event = |line: &String| match parse(line.as_bytes()).unwrap().body {
        Body::Event(event) => event,
        other => panic!("{other:?}"),
    };
    lines.iter().map(event).collect()
}

#[test]
fn any_bytes_come_back_exactly() {
    let samples: [&[u8]; 12] = [
        b"",
        b"{}",
        b"null",
        b" {}",
        b"{}\n",
        b"{\"a\":\n1}",
        b"{\"b\" : 1.50, \"a\":1e400}",
        b"\"\\ud800\"",
        b"\xff\x00",
        b"not json",
        "\"é\u{2028}\"".as_bytes(),
        b"{\"a\":1,\"a\":2}",
    ];
    for data in samples {
        let mut new = event(data);
        new.metadata = Bytes::copy_from_slice(data);
        let commit = commit(vec![new]);
        for line in
            [commit_lines(&commit, None).remove(0), super::event(commit.events().next().unwrap(), Detail::Every)]
        {
            assert!(!line.contains('\n'), "{line}");
            let parsed = &events_of(&[line])[0];
            assert_eq!((&*parsed.event.data, &*parsed.event.metadata), (data, data));
        }
    }
}

#[test]
fn json_stands_in_the_line_as_it_is() {
    let line = commit_lines(&commit(vec![event(b"{\"b\" : 1.50,  \"a\":[]}")]), None).remove(0);
    assert!(line.contains(r#""data":{"b" : 1.50,  "a":[]},"#), "{line}");
}

#[test]
fn a_commit_comes_back_with_everything() {
    let mut first = event(b"{}");
    first.content_type = ContentType::new("text/x").unwrap();
    first.schema = 4;
    first.occurred_at = Some(Timestamp(i64::MIN));
    first.id = Some(EventId([1; 16]));
    first.extensions = vec![Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"\0") }];
    let mut whole = commit(vec![first, event(b"2")]);
    whole.group = Some(CommitId([9; 16]));
    whole.extensions = vec![Extension { tag: 5, critical: true, value: Bytes::new() }];
    let lines = events_of(&commit_lines(&whole, None));
    let frame = lines[0].frame.clone().unwrap();
    let restored = Commit {
        stream: lines[0].stream.clone(),
        id: lines[0].commit.unwrap(),
        number: frame.number,
        kind: CommitKind::Events,
        first_revision: lines[0].revision.unwrap(),
        count: frame.count,
        first_position: frame.position,
        recorded_at: frame.recorded_at,
        digest: frame.digest,
        imported: None,
        group: frame.group,
        extensions: frame.extensions,
        content: Content::Kept,
        events: lines.into_iter().zip(0..).map(|(line, at)| Event::recorded(line.event, whole.id, at)).collect(),
    };
    assert_eq!(restored, whole);
}

#[test]
fn markers_and_stubs_come_back_with_everything() {
    let (epoch, store) = (evstore_api::Epoch(3), StoreName::new("next").unwrap());
    let kinds = [
        (CommitKind::Truncated { before: Revision(4) }, Content::Kept, 0),
        (CommitKind::Deleted, Content::Kept, 0),
        (CommitKind::MovedOut { epoch, to: store.clone() }, Content::Kept, 0),
        (CommitKind::MovedIn { epoch, owner: store }, Content::Stripped, 0),
        (CommitKind::Events, Content::Stripped, 1),
        (CommitKind::Events, Content::Stripped, 3),
    ];
    for (kind, content, count) in kinds {
        let whole = Commit { kind, content, count, events: Vec::new(), ..commit(vec![event(b"")]) };
        let Body::Bare(bare) = parse(marker(&whole, None).as_bytes()).unwrap().body else { panic!() };
        assert_eq!((bare.kind, bare.content, bare.frame.count), (whole.kind, whole.content, whole.count));
        assert_eq!((bare.revision, bare.commit, bare.frame.digest), (whole.first_revision, whole.id, whole.digest));
    }
}

#[test]
fn the_first_and_the_last_line_say_what_the_whole_is() {
    let first = FirstLine { through: Some(Position(9)) };
    let line = commit_lines(&commit(vec![event(b"1")]), Some(first)).remove(0);
    assert_eq!(parse(line.as_bytes()).unwrap().export, Some(ExportHead { through: Some(Position(9)) }));
    let removed = removed(Position(1), Position(4), None);
    assert_eq!(parse(removed.as_bytes()).unwrap().body, Body::Removed { first: Position(1), last: Position(4) });
}

#[test]
fn what_is_not_an_event_is_refused_with_what_is_wrong() {
    let refused = |line: &str| {
        let error = parse(line.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{line}");
        error.to_string()
    };
    for (line, wanted) in [
        ("", "EOF"),
        ("[]", "not a JSON object"),
        ("{\"stream\":\"a\"", "EOF"),
        (r#"{"stream":"a","data":1}"#, "key: type"),
        (r#"{"type":"a","data":1}"#, "key: stream"),
        (r#"{"stream":"a","type":"t"}"#, "key: data"),
        (r#"{"stream":"a","type":"t","data":1,"data_base64":""}"#, "twice"),
        (r#"{"stream":"a","type":"t","data_base64":"%"}"#, "not base64"),
        (r#"{"stream":"a","type":"t","data":1,"tags":[]}"#, "unknown field `tags`"),
        (r#"{"stream":"a","type":"t","data":1,"data":2}"#, "duplicate field"),
        (r#"{"stream":"a","type":"t","data":1,"time":"yesterday"}"#, "RFC 3339"),
        (r#"{"stream":"a","type":"t","data":1,"time":1700000000}"#, "RFC 3339"),
        (r#"{"stream":"a\u0000","type":"t","data":1}"#, "control character"),
        (r#"{"stream":"","type":"t","data":1}"#, "empty"),
        (r#"{"stream":"a","type":"t","data":1,"id":"7"}"#, "32 hexadecimal digits"),
        (r#"{"stream":"a","type":"t","data":1,"revision":0}"#, "start at 1"),
        (r#"{"removed":{"first":4,"last":3}}"#, "empty"),
    ] {
        assert!(refused(line).contains(wanted), "{line}: {}", refused(line));
    }
}

#[test]
fn a_plain_line_needs_little() {
    let line = parse(br#"{"stream":"a-1","type":"t","time":"2010-10-02T09:20:39.266+02:00","data":null}"#).unwrap();
    let Body::Event(event) = line.body else { panic!() };
    assert_eq!(
        (&*event.event.data, event.event.content_type, event.event.schema),
        (&b"null"[..], ContentType::json(), 1)
    );
    assert_eq!((event.commit, event.revision, event.frame), (None, None, None));
}
