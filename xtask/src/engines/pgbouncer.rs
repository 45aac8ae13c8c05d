//! A throwaway PgBouncer in transaction mode before a throwaway Postgres, from the distribution: the release that many run, which
//! keeps no prepared statements.

use super::fetch;
use super::postgres::Postgres;
use super::{Server, free_port, hand_over, unprivileged};
use anyhow::{Context, Result};
use std::net::TcpStream;
use tempfile::TempDir;

/// The pooler, with the libraries that a small machine lacks.
const DEBS: [&str; 3] = ["pgbouncer", "libc-ares2", "libevent-2.1-7"];

/// A running pooler with its server; stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    // In this order, so that the pooler is gone before its server and its folder.
    _server: Server,
    _postgres: Postgres,
    _folder: TempDir,
    url: String,
}

impl PgBouncer {
    /// Starts one on a free port before a server. So few server connections stand behind it that clients share them.
    ///
    /// # Errors
    /// When it can't be had or does not start.
    pub fn before(postgres: Postgres) -> Result<Self> {
        let unpacked = fetch::debs("pgbouncer", &DEBS)?;
        let folder = tempfile::Builder::new().prefix("evstore-pgbouncer-").tempdir()?;
        hand_over(folder.path())?;
        let (port, behind) = (free_port()?, postgres.url().rsplit([':', '/']).nth(1).context("the url has a port")?);
        let settings = folder.path().join("pgbouncer.ini");
        std::fs::write(
            &settings,
            format!(
                "[databases]\n* = host=127.0.0.1 port={behind}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = transaction\ndefault_pool_size = 6\nmax_client_conn = 1000\n\
                 ignore_startup_parameters = extra_float_digits\n"
            ),
        )?;
        std::fs::write(folder.path().join("users"), "\"postgres\" \"\"\n")?;
        let program = unpacked.join("usr/sbin/pgbouncer");
        let libraries = unpacked.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let mut pgbouncer = unprivileged(&program, folder.path());
        pgbouncer.arg(&settings).env("LD_LIBRARY_PATH", &libraries).current_dir(folder.path());
        let ready = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let server = Server::start("PgBouncer", &mut pgbouncer, folder.path(), ready)?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        Ok(Self { _server: server, _postgres: postgres, _folder: folder, url })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}
