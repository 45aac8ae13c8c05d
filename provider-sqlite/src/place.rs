//! Where the store's file is, and whether the path still leads to the file that was opened.

use crate::error;
use crate::schema::{self, Use};
use evstore_api::{Error, ErrorKind, Result};
use rusqlite::Connection;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The path of an open store, shared by its writer and its readers.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    /// The file that the first connection opened.
    opened: Arc<OnceLock<Identity>>,
}

/// What stays the same while a file stands at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Place {
    /// A path through which nothing was opened yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, opened: Arc::default() }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a connection to the file that the first connection opened.
    ///
    /// # Errors
    /// As [`schema::connect`]; `HistoryLost` when it is another file by now.
    pub fn connect(&self, purpose: Use) -> Result<Connection> {
        self.check()?;
        let before = self.identity().unwrap_or(None);
        let connection = schema::connect(&self.path, purpose)?;
        // Between the two looks the path led to one file: the connection's.
        let after = self.identity().map_err(|cause| error::of_file("the store's file is gone", &self.path, cause))?;
        if before.is_some() && before != after {
            return Err(self.lost());
        }
        if let Some(after) = after {
            self.opened.get_or_init(|| after);
        }
        self.check()?;
        Ok(connection)
    }

    /// Refuses to go on when the path leads elsewhere: what is written to a file without a name is lost with the process.
    ///
    /// # Errors
    /// `HistoryLost`.
    pub fn check(&self) -> Result<()> {
        let Some(opened) = self.opened.get() else { return Ok(()) };
        match self.identity() {
            Ok(Some(found)) if found != *opened => Err(self.lost()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(self.lost()),
            Err(cause) => Err(error::of_file("the store's file could not be looked at", &self.path, cause)),
            Ok(_) => Ok(()),
        }
    }

    fn lost(&self) -> Error {
        let message =
            "the store's file was replaced or removed while it was open; open the store again once it is right";
        Error::new(ErrorKind::HistoryLost, message).with("path", self.path.display())
    }

    /// None on systems that do not number their files.
    #[cfg(unix)]
    fn identity(&self) -> io::Result<Option<Identity>> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(&self.path)?;
        Ok(Some(Identity { device: metadata.dev(), inode: metadata.ino() }))
    }

    #[cfg(not(unix))]
    fn identity(&self) -> io::Result<Option<Identity>> {
        Ok(None)
    }
}
