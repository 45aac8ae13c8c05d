//! A folder of this machine as the place of an archive: for trying it out, and where a disk of its own is cheap enough.

use super::Place;
use crate::error;
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Result, Usage};
use std::fs;
use std::io::{ErrorKind as Io, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A folder.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    timeout: Duration,
}

impl Folder {
    /// One that may be there.
    ///
    /// # Errors
    /// `Invalid` for what is no path.
    pub fn new(root: &Path, timeout: Duration) -> Result<Self> {
        let root = std::path::absolute(root)
            .map_err(|cause| Error::new(ErrorKind::Invalid, "the path is not one").caused_by(cause))?;
        Ok(Self { root, timeout })
    }

    /// Keys are made of fixed words, numbers and ids only; whatever else there is never leaves the folder.
    fn path(&self, key: &str) -> Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
        if !key.split('/').all(plain) {
            return Err(Error::new(ErrorKind::Corrupt, "an object has a name that none has").with("object", key));
        }
        Ok(self.root.join(key))
    }

    async fn run<R: Send + 'static>(
        &self,
        key: &str,
        deadline: Deadline,
        work: impl FnOnce(PathBuf) -> std::io::Result<R> + Send + 'static,
    ) -> Result<R> {
        evstore_kit::refusal::check_deadline(deadline)?;
        let path = self.path(key)?;
        let failed = |cause: std::io::Error| {
            let kind = match cause.kind() {
                Io::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            };
            error::of(key, Error::new(kind, "an object of the archive can't be reached").caused_by(cause))
        };
        let until = deadline.0.min(std::time::Instant::now() + self.timeout);
        // A folder may lie on another machine, and hang.
        match tokio::time::timeout_at(until.into(), tokio::task::spawn_blocking(move || work(path))).await {
            Ok(Ok(done)) => done.map_err(failed),
            Ok(Err(cause)) => Err(failed(std::io::Error::other(cause))),
            Err(_) => Err(failed(Io::TimedOut.into())),
        }
    }
}

fn read(path: &Path, part: Option<Range<u64>>) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == Io::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let mut bytes = Vec::new();
    match part {
        Some(part) => {
            file.seek(SeekFrom::Start(part.start))?;
            file.take(part.end.saturating_sub(part.start)).read_to_end(&mut bytes)?;
        }
        None => drop(file.read_to_end(&mut bytes)?),
    }
    Ok(Some(bytes))
}

/// A link is made only where there is no such name, by the file system; a file that is renamed there would take one's place. An archive
/// that was removed meanwhile is not made again by that.
fn put_new(path: &Path, body: &[u8]) -> std::io::Result<bool> {
    let folder = path.parent().ok_or(Io::InvalidInput)?;
    match fs::create_dir(folder) {
        Err(cause) if cause.kind() != Io::AlreadyExists => return Err(cause),
        _ => {}
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(uuid::Uuid::now_v7().to_string());
    let draft = folder.join(name);
    let written = fs::File::create_new(&draft).and_then(|mut file| {
        file.write_all(body)?;
        file.sync_all()
    });
    let put = written.and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == Io::AlreadyExists => Ok(false),
        Err(cause) => Err(cause),
    });
    // A draft that stays behind costs space and is never read.
    let _ = fs::remove_file(&draft);
    let put = put?;
    fs::File::open(folder)?.sync_all()?;
    Ok(put)
}

/// Whoever is still at work puts one thing or another there meanwhile; none of them goes on for long.
fn remove_whole(folder: &Path) -> std::io::Result<()> {
    let mut again = 0..100;
    loop {
        match fs::remove_dir_all(folder) {
            Err(cause) if cause.kind() == Io::DirectoryNotEmpty && again.next().is_some() => {}
            Err(cause) if cause.kind() == Io::NotFound => return Ok(()),
            removed => return removed,
        }
    }
}

fn list(folder: &Path) -> std::io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

#[async_trait]
impl Place for Folder {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Bytes>> {
        usage.requests += 1;
        Ok(self.run(key, deadline, move |path| read(&path, part)).await?.map(Bytes::from))
    }

    async fn put_new(&self, key: &str, body: Bytes, deadline: Deadline, usage: &mut Usage) -> Result<bool> {
        usage.requests += 1;
        self.run(key, deadline, move |path| put_new(&path, &body)).await
    }

    async fn remove(&self, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        usage.requests += 1;
        let remove = |path: PathBuf| match fs::remove_file(path) {
            Err(cause) if cause.kind() != Io::NotFound => Err(cause),
            _ => Ok(()),
        };
        self.run(key, deadline, remove).await
    }

    async fn list(&self, prefix: &str, deadline: Deadline, usage: &mut Usage) -> Result<Vec<String>> {
        usage.requests += 1;
        let folder = prefix.trim_end_matches('/').to_owned();
        let names = self.run(&folder, deadline, |path| list(&path)).await?;
        Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
    }

    async fn make(&self, deadline: Deadline) -> Result<()> {
        self.run("catalog", deadline, fs::create_dir_all).await
    }

    /// Drafts that a killed process left are in the way of nothing else.
    async fn unmake(&self, deadline: Deadline) -> Result<()> {
        let root = self.root.clone();
        let remove = move |_| {
            ["catalog", "segments"].iter().try_for_each(|folder| remove_whole(&root.join(folder)))?;
            match fs::remove_dir(&root) {
                Err(cause) if !matches!(cause.kind(), Io::NotFound | Io::DirectoryNotEmpty) => Err(cause),
                _ => Ok(()),
            }
        };
        self.run("catalog", deadline, remove).await
    }

    async fn tags(&self, deadline: Deadline) -> Result<Vec<String>> {
        let (Some(name), Some(folder)) = (self.root.file_name().and_then(|name| name.to_str()), self.root.parent())
        else {
            return Ok(Vec::new());
        };
        let prefix = format!("{name}{}", crate::config::SCRATCH);
        let folder = folder.to_owned();
        let names = self.run("catalog", deadline, move |_| list(&folder)).await?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_folder_that_is_written_to_can_be_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("catalog");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let write = || {
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    // The folder may be gone before the object is there.
                    let _ = put_new(&folder.join(number.to_string()), b"object");
                }
            };
            scope.spawn(write);
            scope.spawn(write);
            let removed: Vec<_> = (0..300).map(|_| remove_whole(&folder)).collect();
            is_over.store(true, Ordering::Relaxed);
            removed.into_iter().for_each(|removed| removed.unwrap());
        });
    }
}
