//! A throwaway DynamoDB: dynoxide, one static program from npm, which keeps its tables in a SQLite file; ours are in memory where the system has a
//! folder there.

use super::fetch::{self, Tarball};
use super::{Server, free_port};
use crate::run::output;
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const TARBALL: Tarball = Tarball {
    name: "@dynoxide/linux-x64",
    version: "1.2.1",
    sha256: "80e1ed33e33ec33c7bdcb1779ea09678e5c6f87c5c225f44c2037d2b2ea71164",
};

/// Where files are in memory, if anywhere.
const MEMORY: &str = "/dev/shm";
/// Each write asks for the largest number in a table's stream, each read for those behind one: without an index the engine looks at the records of all
/// streams that it has, so that a write takes 1 ms after 20,000.
const INDEX: &str = "import sqlite3, sys
tables = sqlite3.connect(sys.argv[1], timeout=10)
tables.execute('CREATE INDEX stream_order ON _stream_records(table_name, CAST(sequence_number AS INTEGER))')
tables.commit()";

/// A running server; stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct DynamoDb {
    // Before the folder, so that the server is gone when that is removed.
    _server: Server,
    _folder: TempDir,
    url: String,
}

impl DynamoDb {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When it can't be had or does not start.
    pub fn start() -> Result<Self> {
        let program = fetch::tarball(TARBALL)?.join("dynoxide");
        let mut builder = tempfile::Builder::new();
        builder.prefix("evstore-dynamodb-");
        let folder = match Path::new(MEMORY).is_dir() {
            true => builder.tempdir_in(MEMORY).or_else(|_| builder.tempdir())?,
            false => builder.tempdir()?,
        };
        let tables = folder.path().join("tables.db");
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string(), "--db-path"]).arg(&tables);
        command.current_dir(folder.path());
        let ready = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let server = Server::start("dynoxide", &mut command, folder.path(), ready)?;
        output(Command::new("python3").args(["-c", INDEX]).arg(&tables))
            .context("the engine's records could not be put in order: python3 with its sqlite3 is needed")?;
        Ok(Self { _server: server, _folder: folder, url: format!("http://127.0.0.1:{port}") })
    }

    /// Where it is, for `EVSTORE_TEST_DYNAMODB_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a store needs to know of it besides: the engine does not look at credentials, and the client sends none without.
    #[must_use]
    pub fn settings() -> [(&'static str, &'static str); 3] {
        [("region", "local"), ("access_key_id", "AKIDEVSTORETEST"), ("secret_access_key", "not-looked-at")]
    }

    /// What tests are told.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 1] {
        [("EVSTORE_TEST_DYNAMODB_URL", self.url.clone())]
    }
}
