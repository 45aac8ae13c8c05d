//! Files and pipes: `-` is standard input or output, gzip goes by the name, lines are bounded, and a file that is written
//! appears under its name only when it is whole.

use crate::failure::{Failure, Result};
use evstore_api::{Error, ErrorKind};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::NamedTempFile;

/// Longest line of a log. An event's data takes at most four thirds of its size as base64.
pub const LINE_BYTES_MAX: u64 = 64 << 20;
/// Largest value that is read whole, for one event's data or a snapshot.
const SMALL_BYTES_MAX: u64 = 64 << 20;

/// A line of a log, without its line break.
#[derive(Debug)]
pub struct TextLine {
    /// Its number in the file, from 1.
    pub number: u64,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// The lines of a file, empty ones left out.
pub struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
    read: Arc<AtomicU64>,
}

/// Counts the bytes that go through it, for a progress bar that knows the size of the file.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Lines {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let raw: Box<dyn Read + Send> = match path.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(File::open(path).map_err(|cause| open_failed(path, cause))?),
        };
        Ok(Self::new(path.display().to_string(), raw, is_gzip(path)))
    }

    /// The lines of bytes that are there already, compressed or not.
    #[must_use]
    pub fn of_bytes(name: &str, bytes: &'static [u8]) -> Self {
        Self::new(name.to_owned(), Box::new(bytes), is_gzip(Path::new(name)))
    }

    fn new(name: String, raw: Box<dyn Read + Send>, gzip: bool) -> Self {
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: raw, count: read.clone() };
        let reader: Box<dyn BufRead + Send> = match gzip {
            true => Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(counted))),
            false => Box::new(BufReader::with_capacity(64 << 10, counted)),
        };
        Self { name, reader, number: 0, read }
    }

    /// The name that messages use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file that were read so far, before they were unpacked.
    #[must_use]
    pub fn read(&self) -> Arc<AtomicU64> {
        self.read.clone()
    }

    /// The next line that is not empty.
    ///
    /// # Errors
    /// When the file can't be read, or a line is too long.
    pub fn next(&mut self) -> Result<Option<TextLine>> {
        loop {
            let mut text = Vec::new();
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX + 2);
            let count = bounded.read_until(b'\n', &mut text).map_err(|cause| {
                let hint = if cause.kind() == io::ErrorKind::InvalidInput { " (is it gzip?)" } else { "" };
                Failure::io(format!("{} can't be read after line {}{hint}", self.name, self.number), cause)
            })?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if text.last() == Some(&b'\n') {
                text.pop();
            }
            if text.len() as u64 > LINE_BYTES_MAX {
                return Err(Error::new(ErrorKind::TooLarge, "a line is too long")
                    .with("file", &self.name)
                    .with("line", self.number)
                    .with("bytes_max", LINE_BYTES_MAX)
                    .into());
            }
            if self.number == 1 {
                self.check_beginning(&mut text)?;
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(TextLine { number: self.number, text }));
            }
        }
    }

    /// Some editors put a byte order mark before the first line; and a packed file may have lost its `.gz`.
    fn check_beginning(&self, text: &mut Vec<u8>) -> Result {
        if text.starts_with(&[0x1f, 0x8b]) {
            let message = format!("{} is packed with gzip, and its name does not say so", self.name);
            return Err(Failure::usage(message, "name it FILE.gz, or unpack it: gunzip -c FILE | evstore import -"));
        }
        if text.starts_with(b"\xef\xbb\xbf") {
            text.drain(..3);
        }
        Ok(())
    }
}

/// Whether a file's name says that it is packed.
fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn open_failed(path: &Path, cause: io::Error) -> Failure {
    Failure::io(format!("{} can't be opened", path.display()), cause)
}

/// The size of a file; none for `-` and for what has no size.
#[must_use]
pub fn size(path: &Path) -> Option<u64> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    (path != Path::new("-")).then_some(metadata.len())
}

/// Reads a file, or standard input for `-`, as a whole.
///
/// # Errors
/// When there is none, or it is too large for one value.
pub fn read_small(file: &str) -> Result<Vec<u8>> {
    let path = Path::new(file);
    let raw: Box<dyn Read> = match file {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(path).map_err(|cause| open_failed(path, cause))?),
    };
    let mut bytes = Vec::new();
    let failed = |cause| Failure::io(format!("{file} can't be read"), cause);
    raw.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SMALL_BYTES_MAX {
        let error = Error::new(ErrorKind::TooLarge, "a file is too large for one value");
        return Err(error.with("file", file).with("bytes_max", SMALL_BYTES_MAX).into());
    }
    Ok(bytes)
}

/// A file that is being written. Dropped unfinished, it leaves nothing under its name.
pub struct NewFile {
    path: PathBuf,
    writer: Packed,
}

enum Packed {
    Plain(BufWriter<Target>),
    Gzip(Box<GzEncoder<BufWriter<Target>>>),
}

/// Where the bytes go.
enum Target {
    /// Beside the file that will be replaced or made.
    Beside(NamedTempFile, PathBuf),
    /// Into a device or a pipe, which stays what it is.
    Into(File),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside(file, _) => file.write(bytes),
            Self::Into(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file, _) => file.flush(),
            Self::Into(file) => file.flush(),
        }
    }
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        // What a link points to is replaced, not the link.
        let path = if path.is_symlink() { path.canonicalize()? } else { path.to_owned() };
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return File::options().write(true).open(&path).map(Self::Into);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".evstore-");
        // As any other new file: what the user's umask leaves.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder)?;
        Ok(Self::Beside(temporary, path))
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Beside(temporary, path) => {
                temporary.as_file().sync_all()?;
                temporary.persist(path).map(drop).map_err(|error| error.error)
            }
            // A device or a pipe has nothing to make durable.
            Self::Into(mut file) => file.flush(),
        }
    }
}

impl NewFile {
    /// Begins a file that will be under this name; packed where the name says so. A device or a pipe is written to.
    ///
    /// # Errors
    /// When its folder can't be written.
    pub fn create(path: &Path) -> Result<Self> {
        if !is_gzip(path) {
            return Self::create_as_given(path);
        }
        let writer = Packed::Gzip(Box::new(GzEncoder::new(open_target(path)?, Compression::default())));
        Ok(Self { path: path.to_owned(), writer })
    }

    /// Begins a file of bytes that are packed already, where its name says so.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_as_given(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), writer: Packed::Plain(open_target(path)?) })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the disk is full, say.
    pub fn write(&mut self, bytes: &[u8]) -> Result {
        let written = match &mut self.writer {
            Packed::Plain(writer) => writer.write_all(bytes),
            Packed::Gzip(writer) => writer.write_all(bytes),
        };
        written.map_err(|cause| write_failed(&self.path, cause))
    }

    /// Makes the file durable, then gives it its name.
    ///
    /// # Errors
    /// When the disk is full, say. Then there is no file of that name, or still the old one.
    pub fn finish(self) -> Result {
        let path = self.path;
        let failed = |cause| write_failed(&path, cause);
        let buffered = match self.writer {
            Packed::Plain(writer) => writer,
            Packed::Gzip(writer) => writer.finish().map_err(failed)?,
        };
        let target = buffered.into_inner().map_err(|error| failed(error.into_error()))?;
        target.finish().map_err(failed)
    }
}

fn open_target(path: &Path) -> Result<BufWriter<Target>> {
    let target = Target::open(path).map_err(|cause| write_failed(path, cause))?;
    Ok(BufWriter::with_capacity(64 << 10, target))
}

fn write_failed(path: &Path, cause: io::Error) -> Failure {
    Failure::io(format!("{} can't be written", path.display()), cause)
}
