//! What is appended: JSON that looks like events look, of an exact size, from a seed. Compression finds in it what it finds in events:
//! the same keys again and again, and values that differ. Or random bytes, in which it finds nothing.

use crate::workload::Workload;
use bytes::Bytes;
use evstore_api::{ContentType, EventType, Events, NewEvent, Result};
use evstore_conformance::seed::Seed;

/// Commits that are made beforehand and drawn from, so that making them is not measured. More sizes than this can't be told apart.
const POOL: usize = 256;
const KEYS: [&str; 8] = ["customer", "item", "amount", "currency", "channel", "warehouse", "reference", "status"];
const WORDS: [&str; 8] = ["open", "standard", "express", "north", "web", "accepted", "private", "retail"];
const TYPES: [&str; 4] = ["order-placed", "order-paid", "order-shipped", "order-closed"];

/// Commits to append, drawn from a workload's sizes.
///
/// # Errors
/// `Invalid` never, but for a fixed name that is none.
pub fn commits(workload: &Workload, seed: &mut Seed) -> Result<Vec<Events>> {
    (0..POOL).map(|_| commit(workload, seed)).collect()
}

/// One commit.
fn commit(workload: &Workload, seed: &mut Seed) -> Result<Events> {
    let count = *seed.pick(workload.commit_events.all());
    let events = (0..count).map(|_| event(*seed.pick(workload.event_bytes.all()), workload.compressible, seed));
    Events::new(events.collect::<Result<_>>()?)
}

/// One event whose data has exactly so many bytes.
fn event(bytes: u32, compressible: bool, seed: &mut Seed) -> Result<NewEvent> {
    let event_type = EventType::new(seed.pick(&TYPES))?;
    if !compressible {
        let random: Vec<u8> = std::iter::repeat_with(|| seed.next_u64() as u8).take(bytes as usize).collect();
        return Ok(NewEvent::new(event_type, random));
    }
    let mut event = NewEvent::new(event_type, json(bytes as usize, seed));
    event.content_type = ContentType::json();
    Ok(event)
}

/// Bytes of a snapshot.
#[must_use]
pub fn snapshot(bytes: u32, seed: &mut Seed) -> Bytes {
    json(bytes as usize, seed)
}

/// JSON of exactly so many bytes; digits where they are too few for an object.
fn json(bytes: usize, seed: &mut Seed) -> Bytes {
    let mut text = format!("{{\"id\":\"{:016x}\"", seed.next_u64());
    // What closes the object takes eleven bytes at least.
    while text.len() + 60 < bytes {
        let (key, word) = (seed.pick(&KEYS), seed.pick(&WORDS));
        text.push_str(&format!(",\"{key}\":\"{word} {}\"", seed.below(100_000)));
    }
    let closing = ",\"note\":\"\"}";
    let Some(padding) = bytes.checked_sub(text.len() + closing.len()) else {
        return Bytes::from(vec![b'7'; bytes]);
    };
    text.push_str(",\"note\":\"");
    text.extend(std::iter::repeat_n('.', padding));
    text.push_str("\"}");
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Sizes;

    #[test]
    fn a_payload_is_json_of_exactly_its_size() {
        for bytes in [0, 1, 12, 40, 64, 256, 4096] {
            let data = json(bytes, &mut Seed(7));
            assert_eq!(data.len(), bytes);
            assert!(bytes == 0 || serde_json::from_slice::<serde_json::Value>(&data).is_ok(), "{bytes}");
        }
    }

    #[test]
    fn every_size_of_a_list_is_drawn() {
        let mut workload = crate::workload::Plan::standard().workloads.remove(0);
        workload.commit_events = Sizes::Many(vec![1, 2, 9]);
        let commits = commits(&workload, &mut Seed(1)).unwrap();
        let mut counts: Vec<u32> = commits.iter().map(Events::count).collect();
        counts.sort_unstable();
        counts.dedup();
        assert_eq!(counts, [1, 2, 9]);
    }
}
