//! Reading a whole archive to prove that it is as it was written, and counting what it holds.

use crate::archiver::{Archiver, soon};
use crate::catalog::Segment;
use crate::error;
use crate::segment::{self, Content};
use bytes::Bytes;
use evstore_api::{Error, ErrorKind, Result, Usage};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub object: String,
    /// Where in it, as far as that is known.
    pub offset: Option<u64>,
    /// What is wrong.
    pub why: String,
}

impl Damage {
    fn of(object: &str, error: &Error) -> Self {
        let fact =
            |wanted: &str| error.context().iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
        Self {
            object: fact("object").unwrap_or_else(|| object.to_owned()),
            offset: fact("offset").and_then(|offset| offset.parse().ok()),
            why: fact("why").unwrap_or_else(|| error.message().to_owned()),
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments that were read.
    pub segments: u64,
    /// Commits in them.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong.
    pub damages: Vec<Damage>,
}

/// What an archive holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of its catalog.
    pub catalog: u64,
    /// Segments.
    pub segments: u64,
    /// Commits.
    pub commits: u64,
    /// Events.
    pub events: u64,
    /// Bytes as they are stored.
    pub bytes: u64,
    /// Bytes of the lines of JSON that they are.
    pub raw_bytes: u64,
    /// The last position that is archived.
    pub through: u64,
    /// The last position of the store.
    pub end: u64,
    /// Streams of which something is gone and still has bytes here.
    pub gone: u64,
    /// Objects that are to be removed.
    pub garbage: u64,
}

impl Archiver {
    /// Reads every segment and compares it with what the catalog says. What is damaged is told, and the rest is read all the same.
    ///
    /// # Errors
    /// As calls to either side; damage is none.
    pub async fn verify(&self, each: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified> {
        let mut verified = Verified::default();
        let catalog = match self.current().await {
            Ok(Some((_, catalog))) => catalog,
            Ok(None) => return Ok(verified),
            Err(failed) if failed.kind() == ErrorKind::Corrupt => {
                verified.damages.push(Damage::of("catalog", &failed));
                return Ok(verified);
            }
            Err(failed) => return Err(failed),
        };
        let of = catalog.segments.len() as u64;
        for segment in &catalog.segments {
            let found = self.archive.place().get(&segment.key, None, soon(), &mut Usage::default()).await?;
            let checked = match found {
                None => Err(error::missing(&segment.key)),
                Some(bytes) => {
                    verified.bytes += bytes.len() as u64;
                    let segment = segment.clone();
                    let gone =
                        |cause| Error::new(ErrorKind::Unavailable, "a segment could not be read").caused_by(cause);
                    tokio::task::spawn_blocking(move || check(&segment, &bytes)).await.map_err(gone)?
                }
            };
            match checked {
                Ok(content) => {
                    verified.commits += content.commits;
                    verified.events += content.events;
                }
                Err(failed) => verified.damages.push(Damage::of(&segment.key, &failed)),
            }
            verified.segments += 1;
            each(verified.segments, of);
        }
        Ok(verified)
    }

    /// Counts what the archive holds, from its catalog.
    ///
    /// # Errors
    /// As calls to either side.
    pub async fn stats(&self) -> Result<Stats> {
        let end = self.hot.feed_head(soon()).await?.position.unwrap_or_default().0;
        let Some((_, catalog)) = self.current().await? else { return Ok(Stats { end, ..Stats::default() }) };
        let sum = |of: fn(&Segment) -> u64| catalog.segments.iter().map(of).sum();
        Ok(Stats {
            catalog: catalog.number,
            segments: catalog.segments.len() as u64,
            commits: sum(|segment| segment.commits),
            events: sum(|segment| segment.events),
            bytes: sum(|segment| segment.bytes),
            raw_bytes: sum(|segment| segment.raw_bytes),
            through: catalog.through().0,
            end,
            gone: catalog.gone.len() as u64,
            garbage: catalog.garbage.len() as u64,
        })
    }
}

fn check(segment: &Segment, bytes: &Bytes) -> Result<Content> {
    let mut content = Content::default();
    // First what says where; the digest of the whole then finds what lies between.
    segment::read_whole(&segment.key, bytes, |commit| {
        content.add(&commit);
        Ok(())
    })?;
    let whole = segment::hex(blake3::hash(bytes).as_bytes());
    if whole != segment.blake3 || bytes.len() as u64 != segment.bytes {
        return Err(error::damaged(&segment.key, "it is another object than the one that was put"));
    }
    if content.digest() != segment.content || content.commits != segment.commits || content.events != segment.events {
        return Err(error::damaged(&segment.key, "it has other commits than the catalog says"));
    }
    Ok(content)
}
