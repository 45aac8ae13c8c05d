//! Config keys that several providers have, each with the provider's own default, and the limits that they give.

use evstore_api::capabilities::{Limit, Limits, Window};
use evstore_api::name::{EVENT_TYPE_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings};

/// Smallest window of recognised commits that the contract allows.
pub const IDEMPOTENCY_COMMITS_MIN: u64 = 64;
/// Longest tag of a scratch store, in bytes.
pub const SCRATCH_TAG_BYTES_MAX: usize = 16;

/// Largest event.
#[must_use]
pub const fn event_bytes_max(default: &'static str) -> ConfigKey {
    bound(
        "event_bytes_max",
        KeyKind::Bytes,
        default,
        "Most bytes of data and metadata of one event; a commit takes 1 KiB more.",
    )
}

/// Largest commit.
#[must_use]
pub const fn commit_bytes_max(default: &'static str) -> ConfigKey {
    bound("commit_bytes_max", KeyKind::Bytes, default, "Most bytes of a commit, its events encoded.")
}

/// Most events of a commit.
#[must_use]
pub const fn commit_events_max(default: &'static str) -> ConfigKey {
    bound("commit_events_max", KeyKind::Count, default, "Most events in a commit.")
}

/// Largest snapshot.
#[must_use]
pub const fn snapshot_bytes_max(default: &'static str) -> ConfigKey {
    bound("snapshot_bytes_max", KeyKind::Bytes, default, "Most bytes of a snapshot.")
}

/// Largest small record.
#[must_use]
pub const fn record_bytes_max(default: &'static str) -> ConfigKey {
    bound("record_bytes_max", KeyKind::Bytes, default, "Most bytes of a checkpoint or another small record.")
}

/// How far back repeats are recognised.
#[must_use]
pub const fn idempotency_commits() -> ConfigKey {
    ConfigKey {
        name: "idempotency_commits",
        kind: KeyKind::Count,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Plain,
        sentence: "Commits of a stream, counted from its end, among which a repeated one is recognised; at least 64, \
                   for ever without it.",
    }
}

const fn bound(name: &'static str, kind: KeyKind, default: &'static str, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default: KeyDefault::Value(default), secrecy: Secrecy::Plain, sentence }
}

/// The limits that the keys of this file set. What a provider has no key for is without a bound.
///
/// # Errors
/// `Invalid` for an event that would fit into no commit.
pub fn limits(settings: &Settings, page_items: u32) -> Result<Limits> {
    let bound = |key| settings.number(key).map_or(Limit::None, Limit::Max);
    let limits = Limits {
        stream_name_bytes: STREAM_NAME_BYTES_MAX as u64,
        event_type_bytes: EVENT_TYPE_BYTES_MAX as u64,
        event_bytes: bound("event_bytes_max"),
        commit_bytes: bound("commit_bytes_max"),
        commit_events: bound("commit_events_max"),
        snapshot_bytes: bound("snapshot_bytes_max"),
        record_bytes: bound("record_bytes_max"),
        page_items,
    };
    if let (Limit::Max(event), Limit::Max(commit)) = (limits.event_bytes, limits.commit_bytes)
        && event.saturating_add(COMMIT_FRAME_BYTES) > commit
    {
        return Err(Error::new(ErrorKind::Invalid, "the largest event fits into no commit")
            .with("store", settings.store())
            .with("key", "event_bytes_max")
            .with("given", event)
            .with("max", commit.saturating_sub(COMMIT_FRAME_BYTES))
            .with("commit_bytes_max", commit));
    }
    Ok(limits)
}

/// Room that a commit needs beside the data and metadata of one event: its frame, and the event's with a type and a content type
/// of the most bytes.
const COMMIT_FRAME_BYTES: u64 = 1_024;

/// The window that `idempotency_commits` sets.
///
/// # Errors
/// `Invalid` for one smaller than the contract allows.
pub fn window(settings: &Settings) -> Result<Window> {
    match settings.number("idempotency_commits") {
        None => Ok(Window::Forever),
        Some(commits) if commits >= IDEMPOTENCY_COMMITS_MIN => Ok(Window::Commits(commits)),
        Some(commits) => Err(Error::new(ErrorKind::Invalid, "the window of recognised commits is too small")
            .with("store", settings.store())
            .with("key", "idempotency_commits")
            .with("given", commits)
            .with("min", IDEMPOTENCY_COMMITS_MIN)),
    }
}

/// Refuses a tag that can't name a scratch store.
///
/// # Errors
/// `Invalid` unless it has 1 to 16 bytes of `[a-z0-9]`.
pub fn check_scratch_tag(tag: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if (1..=SCRATCH_TAG_BYTES_MAX).contains(&tag.len()) && tag.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "the tag of a scratch store is 1 to 16 letters a-z and digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::StoreName;

    #[test]
    fn the_largest_event_fits_into_a_commit() {
        const KEYS: &[ConfigKey] = &[event_bytes_max("1MiB"), commit_bytes_max("4MiB")];
        let of = |event: &str, commit: &str| {
            let given = [("event_bytes_max".to_owned(), event.to_owned()), ("commit_bytes_max".into(), commit.into())];
            limits(&Settings::new(StoreName::new("main").unwrap(), KEYS, given).unwrap(), 10)
        };
        assert_eq!(of("63KiB", "64KiB").unwrap().event_bytes, Limit::Max(63 << 10));
        for event in ["64KiB", "65KiB", "1GiB"] {
            assert_eq!(of(event, "64KiB").unwrap_err().kind(), ErrorKind::Invalid, "{event}");
        }
    }
}
