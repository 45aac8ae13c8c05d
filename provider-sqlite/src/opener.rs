//! The provider as a value, and scratch stores: files beside the file.

use crate::config::{Config, KEYS};
use crate::error;
use crate::schema::{self, Use};
use crate::store::Sqlite;
use async_trait::async_trait;
use evstore_api::{
    Clock, Error, ErrorKind, EventStore, Meta, Opener, Provider, Result, Settings, StoreAdmin, SystemClock,
};
use evstore_kit::keys;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands between a file's name and the tag of a scratch store beside it.
const SCRATCH: &str = ".scratch-";
/// What SQLite keeps beside a file.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// SQLite with the system's clock.
#[must_use]
pub fn provider() -> Provider {
    provider_with(Arc::new(SystemClock))
}

/// SQLite with a clock that a test chooses.
#[must_use]
pub fn provider_with(clock: Arc<dyn Clock>) -> Provider {
    Provider {
        name: "sqlite",
        sentence: "One file on this machine, durable, no server; several processes may share it.",
        keys: KEYS,
        opener: Arc::new(SqliteOpener { clock }),
    }
}

struct SqliteOpener {
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Opener for SqliteOpener {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let (config, clock) = (Config::new(settings)?, self.clock.clone());
        Ok(Arc::new(blocking(move || Sqlite::open(config, clock)).await?))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(Sqlite::open_admin(Config::new(settings)?, self.clock.clone())?))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        keys::check_scratch_tag(tag)?;
        let path = scratch_path(&Config::new(settings)?.path, tag);
        // Once it is dropped, opening it must not make it again.
        settings.clone().with("path", path.to_string_lossy())?.with("auto_create", "false")
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let path = scratch_path(&Config::new(settings)?.path, tag);
        let meta = Meta::new(self.clock.now());
        blocking(move || make_scratch(&path, &meta)).await?;
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        let path = Config::new(scratch)?.path;
        blocking(move || drop_scratch(&path)).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let path = Config::new(settings)?.path;
        blocking(move || list_scratch(&path)).await
    }
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let gone = |cause| Err(Error::new(ErrorKind::Unavailable, "the store could not be opened").caused_by(cause));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(gone)
}

fn scratch_path(path: &Path, tag: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SCRATCH);
    name.push(tag);
    name.into()
}

fn make_scratch(path: &Path, meta: &Meta) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|cause| unusable(folder, cause))?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => schema::apply(&mut schema::connect(path, Use::Make)?, meta).map(drop),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag").with("path", path.display()))
        }
        Err(cause) => Err(unusable(path, cause)),
    }
}

fn drop_scratch(path: &Path) -> Result<()> {
    let tag = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once(SCRATCH));
    if tag.is_none_or(|(_, tag)| keys::check_scratch_tag(tag).is_err()) {
        return Err(Error::new(ErrorKind::Invalid, "the file is not a scratch store").with("path", path.display()));
    }
    for companion in COMPANIONS {
        let mut file = path.as_os_str().to_owned();
        file.push(companion);
        match std::fs::remove_file(&file) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(unusable(path, cause)),
            _ => {}
        }
    }
    Ok(())
}

fn list_scratch(path: &Path) -> Result<Vec<String>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(unusable(folder, cause)),
    };
    let prefix = format!("{name}{SCRATCH}");
    let tag = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_prefix(&prefix).map(str::to_owned);
    let mut tags: Vec<String> =
        entries.flatten().filter_map(tag).filter(|tag| keys::check_scratch_tag(tag).is_ok()).collect();
    tags.sort();
    Ok(tags)
}

fn unusable(path: &Path, cause: std::io::Error) -> Error {
    error::of_file("a file could not be used", path, cause)
}
