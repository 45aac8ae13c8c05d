//! What the commits of a store have in common, so that small ones get smaller: dictionaries of zstd, each an item that is never changed and
//! never removed. A process that was told to makes the first one of what it appends; every process reads what is compressed with one.

use crate::codec::corrupt;
use crate::link::{Condition, Order, Range, Written};
use crate::store::Client;
use crate::tables::{DICTIONARIES, NAME, Table, VALUE, bytes, bytes_of, named, text_of, with};
use evstore_api::{Deadline, Result, Usage};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::get_dict_id_from_dict;

/// Size of a dictionary: a larger one measured no better (8 KB made 2.68 of orders of one event, 112 KB 2.67).
const DICTIONARY_BYTES: usize = 8 << 10;
/// Commits that one is made of, and their bytes: each counts with so many at most.
const SAMPLES_MIN: usize = 500;
const SAMPLES_BYTES_MIN: usize = 128 << 10;
const SAMPLE_BYTES_MAX: usize = 4 << 10;
/// Where zstd has the number of a dictionary, behind its magic number.
const NUMBER_AT: usize = 4;
/// The only one that is made in this release.
const FIRST: u32 = 1;
/// Dictionaries that a store may have.
const DICTIONARIES_MAX: u32 = 100;

/// One dictionary.
pub struct Dictionary {
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

/// Without its content, which is of payloads.
impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary").finish_non_exhaustive()
    }
}

impl Dictionary {
    fn new(stored: &[u8], level: i32) -> Self {
        Self { encoder: EncoderDictionary::copy(stored, level), decoder: DecoderDictionary::copy(stored) }
    }

    /// What is stored of bytes, if they get smaller at all.
    pub fn compress(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Compressor::with_prepared_dictionary(&self.encoder).and_then(|mut compressor| compressor.compress(plain)).ok()
    }

    /// The bytes again.
    ///
    /// # Errors
    /// As zstd finds them damaged.
    pub fn decompress(&self, stored: &[u8], bytes: usize) -> std::io::Result<Vec<u8>> {
        Decompressor::with_prepared_dictionary(&self.decoder)?.decompress(stored, bytes)
    }
}

/// Makes a dictionary of commits.
///
/// # Errors
/// As zstd can't.
fn train(samples: &[Vec<u8>], number: u32) -> std::io::Result<Vec<u8>> {
    let mut made = zstd::dict::from_samples(samples, DICTIONARY_BYTES)?;
    // A small number takes less of every commit than one of chance.
    made[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&number.to_le_bytes());
    Ok(made)
}

/// The dictionaries of a store, as far as a handle knows them.
pub struct Dictionaries {
    known: RwLock<BTreeMap<u32, Arc<Dictionary>>>,
    /// What the first one is made of; nothing where this handle is not to make one, or somebody did.
    samples: Mutex<Option<Vec<Vec<u8>>>>,
    /// Whether this handle compresses with them.
    used: bool,
}

/// Without the samples, which are payloads.
impl fmt::Debug for Dictionaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionaries").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Dictionaries {
    /// None is known yet.
    pub fn new(used: bool) -> Self {
        Self { known: RwLock::default(), samples: Mutex::new(used.then(Vec::new)), used }
    }

    /// The one to compress with.
    pub fn newest(&self) -> Option<Arc<Dictionary>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.last_key_value().filter(|_| self.used).map(|(_, newest)| newest.clone())
    }

    fn find(&self, number: u32) -> Option<Arc<Dictionary>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Keeps a commit as a sample; gives all of them once they are enough.
    fn sample(&self, plain: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = samples.as_mut()?;
        kept.push(plain[..plain.len().min(SAMPLE_BYTES_MAX)].to_vec());
        let bytes: usize = kept.iter().map(Vec::len).sum();
        let are_enough = kept.len() >= SAMPLES_MIN && bytes >= SAMPLES_BYTES_MIN;
        if are_enough { samples.take() } else { None }
    }

    fn stop_sampling(&self) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Keeps what is appended as a sample, and makes the store's dictionary of them once they are enough, beside.
pub fn sample(client: &Arc<Client>, plain: &[u8]) {
    let Some(samples) = client.dictionaries().sample(plain) else { return };
    let client = client.clone();
    tokio::spawn(async move {
        // Where it fails, commits stay as large as they are, and the next handle tries.
        if let Err(error) = make(&client, samples).await {
            tracing::warn!(store = %client.own(), %error, "no dictionary was made");
        }
    });
}

async fn make(client: &Client, samples: Vec<Vec<u8>>) -> Result<()> {
    let trained = tokio::task::spawn_blocking(move || train(&samples, FIRST)).await;
    let made = match trained {
        Ok(Ok(made)) => made,
        // Commits that have nothing in common.
        Ok(Err(error)) => return Err(corrupt("commits make no dictionary").caused_by(error)),
        Err(_) => return Ok(()),
    };
    let item = with(named(DICTIONARIES, name(FIRST)), VALUE, bytes(made));
    let (deadline, mut usage) = (client.patience(), Usage::default());
    match client.link().put(Table::Names, item, Condition::absent(), deadline, &mut usage).await? {
        // By this one or by another.
        Written::Done | Written::Refused(_) => load(client, deadline, &mut usage).await,
        Written::Contended => Ok(()),
    }
}

/// A name under which they sort by their numbers.
fn name(number: u32) -> String {
    format!("{number:010}")
}

/// Learns all dictionaries of the store.
///
/// # Errors
/// As reads have them; `Corrupt`.
pub async fn load(client: &Client, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let (key, order) = (DICTIONARIES.to_owned(), Order::Rising);
    let range = Range { table: Table::Names, key, from: None, to: None, order, only: None };
    let mut start = None;
    loop {
        let part = client.link().query(&range, start, DICTIONARIES_MAX, deadline, usage).await?;
        for item in &part.items {
            let wrong = || corrupt("a dictionary is not one");
            let number: u32 = text_of(item, NAME).and_then(|name| name.parse().ok()).ok_or_else(wrong)?;
            let stored = bytes_of(item, VALUE).ok_or_else(wrong)?;
            if get_dict_id_from_dict(&stored) != NonZeroU32::new(number) {
                return Err(wrong());
            }
            let mut known = client.dictionaries().known.write().unwrap_or_else(PoisonError::into_inner);
            known.entry(number).or_insert_with(|| Arc::new(Dictionary::new(&stored, crate::codec::COMPRESSION_LEVEL)));
            client.dictionaries().stop_sampling();
        }
        start = part.next;
        if start.is_none() {
            return Ok(());
        }
    }
}

/// The dictionary of a number.
///
/// # Errors
/// As reads have them; `Corrupt` where there is none.
pub async fn find(client: &Client, number: u32, deadline: Deadline, usage: &mut Usage) -> Result<Arc<Dictionary>> {
    if let Some(found) = client.dictionaries().find(number) {
        return Ok(found);
    }
    // Somebody made it since this handle looked.
    load(client, deadline, usage).await?;
    let found = client.dictionaries().find(number);
    found.ok_or_else(|| corrupt("the dictionary of a commit is missing").with("dictionary", number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sample_is_shown() {
        let dictionaries = Dictionaries::new(true);
        assert!(dictionaries.sample(b"hunter2").is_none());
        let shown = format!("{dictionaries:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&format!("{:?}", b"hunter2")), "{shown}");
    }

    fn order(n: u32) -> Vec<u8> {
        let id = crc32fast::hash(&n.to_le_bytes());
        format!(
            "{{\"orderId\":\"{id:08x}\",\"eventType\":\"OrderLineAdded\",\"currency\":\"EUR\",\"quantity\":{}}}",
            n % 9
        )
        .into_bytes()
    }

    #[test]
    fn a_small_commit_gets_much_smaller_and_comes_back() {
        let samples: Vec<_> = (0..1_000).map(order).collect();
        let stored = train(&samples, 7).unwrap();
        assert!(stored.len() <= DICTIONARY_BYTES);
        assert_eq!(get_dict_id_from_dict(&stored), NonZeroU32::new(7));
        let dictionary = Dictionary::new(&stored, 3);
        let plain = order(5_000);
        let small = dictionary.compress(&plain).unwrap();
        assert!(small.len() * 2 < plain.len(), "{} of {}", small.len(), plain.len());
        assert_eq!(zstd::zstd_safe::get_dict_id_from_frame(&small), NonZeroU32::new(7));
        assert_eq!(dictionary.decompress(&small, plain.len()).unwrap(), plain);
        assert!(zstd::bulk::decompress(&small, plain.len()).is_err(), "without it nothing is read");
    }

    #[test]
    fn samples_are_given_once_and_only_by_who_is_to() {
        let gather = |used| {
            let dictionaries = Dictionaries::new(used);
            (0..2_000).filter_map(|_| dictionaries.sample(&[7; 400])).map(|samples| samples.len()).collect::<Vec<_>>()
        };
        assert_eq!(gather(true), [SAMPLES_MIN]);
        assert_eq!(gather(false), [0; 0]);
    }
}
