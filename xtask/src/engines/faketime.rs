//! A library that sets the clock of a process off, for tests in which clocks disagree: `EVSTORE_TEST_FAKETIME`.

use super::fetch;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where Debian keeps it, when it is installed.
const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The library to be preloaded.
///
/// # Errors
/// When it can't be had, saying what to install.
pub fn library() -> Result<PathBuf> {
    if Path::new(INSTALLED).exists() {
        return Ok(INSTALLED.into());
    }
    let folder = fetch::debs("faketime", &["libfaketime"])
        .context("there is no libfaketime to test with; install the package libfaketime")?;
    Ok(folder.join(INSTALLED.trim_start_matches('/')))
}
