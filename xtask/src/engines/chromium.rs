//! A headless Chromium, from the distribution, that opens a page of this machine and nothing else.

use super::{fetch, hand_over, unprivileged};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The browser, with the libraries that a small machine lacks.
const DEBS: [&str; 19] = [
    "chromium-headless-shell",
    "chromium-common",
    "libasyncns0",
    "libdouble-conversion3",
    "libflac12",
    "libharfbuzz-subset0",
    "libminizip1",
    "libmp3lame0",
    "libmpg123-0",
    "libogg0",
    "libopenh264-7",
    "libopenjp2-7",
    "libopus0",
    "libpulse0",
    "libsndfile1",
    "libvorbis0a",
    "libvorbisenc2",
    "libxnvctrl0",
    "xdg-utils",
];

/// How dark a page is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// For dark rooms.
    Dark,
    /// As paper.
    Light,
}

/// A browser that is there.
#[derive(Debug)]
pub struct Chromium(PathBuf);

impl Chromium {
    /// Fetches it, unless that was done before.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn fetched() -> Result<Self> {
        fetch::debs("chromium", &DEBS).map(Self)
    }

    /// Opens a page of this machine, lets its scripts run, and gives what is in it then. `arguments` are the browser's own.
    ///
    /// # Errors
    /// When the browser fails, or the page or what it loads says anything on its console: that is where errors go.
    pub fn open(&self, page: &Path, scheme: Scheme, arguments: &[&str]) -> Result<String> {
        self.run(page, scheme, &[&["--dump-dom"], arguments].concat())
    }

    /// Takes a picture of a page in a window of this size, as a PNG.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn picture(&self, page: &Path, scheme: Scheme, (width, height): (u32, u32)) -> Result<Vec<u8>> {
        // Where whoever the browser runs as may write.
        let folder = tempfile::Builder::new().prefix("evstore-picture-").tempdir()?;
        hand_over(folder.path())?;
        let picture = folder.path().join("page.png");
        let window = format!("--window-size={width},{height}");
        let place = format!("--screenshot={}", picture.display());
        self.run(page, scheme, &["--hide-scrollbars", &window, &place])?;
        Ok(std::fs::read(picture)?)
    }

    fn run(&self, page: &Path, scheme: Scheme, arguments: &[&str]) -> Result<String> {
        let home = tempfile::Builder::new().prefix("evstore-chromium-").tempdir()?;
        hand_over(home.path())?;
        let libraries = self.0.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let path = format!("{0}:{0}/pulseaudio", libraries.display());
        let mut browser: Command = unprivileged(&self.0.join("usr/lib/chromium/chromium-headless-shell"), home.path());
        // Its sandbox needs rights that test machines do not give; it opens nothing but our own page.
        browser.args(["--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]);
        browser.args(["--allow-file-access-from-files", "--enable-logging=stderr"]);
        let scheme = if scheme == Scheme::Dark { 0 } else { 1 };
        browser.arg(format!("--blink-settings=preferredColorScheme={scheme}")).args(arguments);
        browser.arg(format!("--user-data-dir={}", home.path().display()));
        let output = browser.arg(format!("file://{}", page.display())).env("LD_LIBRARY_PATH", path).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("the browser failed ({}):\n{said}", output.status);
        }
        let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
        if !console.is_empty() {
            bail!("the page says on its console:\n{}", console.join("\n"));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
