//! A throwaway S3: ministack, a Python program in an environment of its own, which keeps its objects in a folder. It speaks as SQS does, too.

use super::fetch;
use super::{Server, free_port};
use anyhow::Result;
use std::net::TcpStream;
use std::process::Command;
use tempfile::TempDir;

/// Its name and version in the package index. Of what it is built on, every file is one that the index vouches for.
const PACKAGE: &str = "ministack==1.5.33";

/// A running server; stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct S3 {
    // Before the folder, so that the server is gone when that is removed.
    _server: Server,
    _folder: TempDir,
    url: String,
}

impl S3 {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When it can't be had or does not start.
    pub fn start() -> Result<Self> {
        let program = fetch::environment(PACKAGE)?.join("bin/ministack");
        let folder = tempfile::Builder::new().prefix("evstore-s3-").tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .current_dir(folder.path())
            .env("GATEWAY_PORT", port.to_string())
            // Without it every address of the machine is listened on.
            .env("BIND_HOST", "127.0.0.1")
            .env("LOG_LEVEL", "ERROR")
            .env("S3_PERSIST", "1")
            .env("S3_DATA_DIR", folder.path().join("objects"))
            .env("PERSIST_STATE", "1")
            .env("STATE_DIR", folder.path().join("state"));
        let ready = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let server = Server::start("ministack", &mut command, folder.path(), ready)?;
        Ok(Self { _server: server, _folder: folder, url: format!("http://127.0.0.1:{port}") })
    }

    /// Where it is, for `EVSTORE_TEST_S3_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a store needs to know of it besides: the engine does not look at credentials, and the client sends none without.
    #[must_use]
    pub fn settings() -> [(&'static str, &'static str); 4] {
        [
            ("bucket", "evstore-test"),
            ("region", "us-east-1"),
            ("access_key_id", "AKIDEVSTORETEST"),
            ("secret_access_key", "not-looked-at"),
        ]
    }

    /// What tests are told: where both services are.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("EVSTORE_TEST_S3_URL", self.url.clone()), ("EVSTORE_TEST_SQS_URL", self.url.clone())]
    }
}
