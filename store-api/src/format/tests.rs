//! Golden vectors of format v1: they never change. And what must be refused.

use super::*;
use crate::event::NewEvent;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn event(commit: CommitId, ordinal: u32) -> Event {
    let mut new = NewEvent::new(EventType::new("Placed").unwrap(), vec![0, 255]);
    if ordinal == 2 {
        new.content_type = ContentType::new("text/plain").unwrap();
    }
    if ordinal == 1 {
        new.id = Some(EventId([9; 16]));
        new.occurred_at = Some(Timestamp(-2));
        new.metadata = Bytes::from_static(b"{}");
        new.content_type = ContentType::json();
        new.extensions = vec![Extension { tag: 1 << 31, critical: false, value: Bytes::from_static(b"x") }];
    }
    Event::recorded(new, commit, ordinal)
}

fn commit() -> Commit {
    let id = CommitId([1; 16]);
    let stream = StreamId::within("t", "order-1").unwrap();
    let events = vec![event(id, 0), event(id, 1), event(id, 2)];
    Commit {
        digest: digest(&stream, id, &CommitKind::Events, &events),
        stream,
        id,
        number: CommitNumber(3),
        kind: CommitKind::Events,
        first_revision: Revision(300),
        count: 3,
        first_position: Some(Position(NUMBER_MAX - 2)),
        recorded_at: Timestamp(1_700_000_000_000_000),
        imported: Some(Epoch(2)),
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        events,
    }
}

fn kinds() -> Vec<CommitKind> {
    let store = || StoreName::new("next").unwrap();
    vec![
        CommitKind::Events,
        CommitKind::Truncated { before: Revision(7) },
        CommitKind::Deleted,
        CommitKind::MovedOut { epoch: Epoch(1), to: store() },
        CommitKind::MovedIn { epoch: Epoch(1), owner: store() },
    ]
}

#[test]
fn the_golden_commit_is_written_as_ever() {
    let golden = include_str!("golden/commit-v1.hex").trim();
    assert_eq!(hex(&encode(&commit())), golden);
}

#[test]
fn the_golden_markers_are_written_as_ever() {
    let written: Vec<_> = kinds().iter().map(|kind| hex(&encode_kind(kind))).collect();
    assert_eq!(written.join("\n"), include_str!("golden/kinds-v1.hex").trim());
}

#[test]
fn the_golden_meta_is_written_as_ever() {
    let meta = meta(StoreState::Moved { to: StoreName::new("next").unwrap(), end: Position(42) });
    assert_eq!(hex(&encode_meta(&meta)), include_str!("golden/meta-v1.hex").trim());
}

#[test]
fn the_golden_ids_are_derived_as_ever() {
    let derived = [
        EventId::derive(CommitId([1; 16]), 0).to_string(),
        CommitId::derive(&[b"a", b"bc"]).to_string(),
        CommitId::derive(&[b"ab", b"c"]).to_string(),
        commit().digest.to_string(),
        digest(&commit().stream, CommitId([1; 16]), &CommitKind::Deleted, &[]).to_string(),
    ];
    assert_eq!(derived.join("\n"), include_str!("golden/ids-v1.txt").trim());
}

#[test]
fn a_commit_reads_back_as_written() {
    let whole = commit();
    assert_eq!(decode(&encode(&whole).into()).unwrap(), whole);
    let stub = Commit { content: Content::Stripped, events: Vec::new(), first_position: None, imported: None, ..whole };
    assert_eq!(decode(&encode(&stub).into()).unwrap(), stub);
    for kind in kinds() {
        assert_eq!(decode_kind(&encode_kind(&kind).into()).unwrap(), kind);
    }
}

fn meta(state: StoreState) -> Meta {
    let lineage = vec![
        Lineage { incarnation: Incarnation([1; 16]), ended_at: Some(Position(0)) },
        Lineage { incarnation: Incarnation([2; 16]), ended_at: None },
    ];
    Meta { format: Format::CURRENT, lineage, epoch: Epoch(3), state, created_at: Timestamp(1) }
}

#[test]
fn a_meta_record_reads_back_as_written() {
    let store = || StoreName::new("next").unwrap();
    for state in [
        StoreState::Open,
        StoreState::Fenced { to: store() },
        StoreState::Moved { to: store(), end: Position(9) },
        StoreState::Importing { from: None },
        StoreState::Importing { from: Some(store()) },
        StoreState::Leaving { to: store() },
        StoreState::Retired { to: store() },
    ] {
        let meta = meta(state);
        assert_eq!(decode_meta(&encode_meta(&meta).into()).unwrap(), meta);
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = encode(&commit());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&flipped.into()).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    }
}

#[test]
fn every_cut_is_found() {
    let whole = encode(&commit());
    for length in 0..whole.len() {
        assert_eq!(decode(&Bytes::copy_from_slice(&whole[..length])).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// Bytes with a right checksum, whatever they say.
fn sealed(bytes: &[u8]) -> Bytes {
    Writer(bytes.to_vec()).sealed().into()
}

#[test]
fn what_this_release_does_not_know_is_refused() {
    let kind = |bytes: &[u8]| decode_kind(&sealed(bytes)).unwrap_err().kind();
    assert_eq!(kind(&[2, 0]), ErrorKind::Schema, "another format");
    assert_eq!(kind(&[1, 5]), ErrorKind::Schema, "another kind");
    assert_eq!(kind(&[1, 2, 0]), ErrorKind::Corrupt, "a tail");
    let extensions = |bytes: &[u8]| decode_extensions(&sealed(bytes));
    assert_eq!(extensions(&[1, 1, 5, 1, 0]).unwrap_err().kind(), ErrorKind::Schema, "a critical extension");
    assert_eq!(extensions(&[1, 1, 5, 0, 1, 7]).unwrap()[0].tag, 5, "another one is kept");
    let compressed = [1, 1, 0, 1, 0, 1, b'a', 1, 2, 0, 0, 0, 0];
    assert_eq!(decode_events(CommitId([1; 16]), &sealed(&compressed)).unwrap_err().kind(), ErrorKind::Schema);
}

#[test]
fn a_lying_count_reserves_no_memory() {
    let lie = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(decode_events(CommitId([1; 16]), &sealed(&lie)).unwrap_err().kind(), ErrorKind::Corrupt);
}
