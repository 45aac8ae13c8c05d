//! What an operator should know about the disk under a file: every commit waits for it.

use evstore_api::Finding;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes that the latency of a disk is measured with.
const SYNCS: usize = 20;
/// A sync to disk that takes longer makes every commit slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// A sync that is faster than this did not reach a disk.
const SYNC_FAST: Duration = Duration::from_micros(20);

/// Looks at the folder of a file, which may be missing itself.
pub fn examine(path: &Path) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        let found = format!("there is no folder {} yet", folder.display());
        return vec![Finding::fine("disk", found)];
    }
    vec![disk(folder)]
}

/// Measures what a commit waits for, with a file that has no name and so leaves nothing.
fn disk(folder: &Path) -> Finding {
    let median = match sync_latency(folder) {
        Ok(median) => median,
        Err(cause) => {
            let found = format!("{} can't be written: {cause}", folder.display());
            return Finding::problem("disk", found, "give this user write access to the folder");
        }
    };
    let found = format!("a sync takes {median:?} (median of {SYNCS})");
    if median > SYNC_SLOW {
        Finding::warning("disk", found, "put the file on a faster disk; concurrent appends share a sync")
    } else if median < SYNC_FAST {
        Finding::warning("disk", format!("{found}: it does not reach a disk"), "keep the file on a disk, not in memory")
    } else {
        Finding::fine("disk", found)
    }
}

fn sync_latency(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[SYNCS / 2])
}
