//! A folder with two stores in it, and the command run there.

// Each test program uses a part of it; and a test may fail by a panic, also in its helpers.
#![allow(dead_code, clippy::unwrap_used)]

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The log that ships with the command.
pub const PERMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/permits.jsonl.gz");

/// A folder with two stores in it.
pub struct Folder(TempDir);

impl Folder {
    /// With the stores `a`, the default, and `b`.
    pub fn new() -> Self {
        let folder = Self::bare();
        let store = |name: &str| format!("[stores.{name}]\nprovider = \"sqlite\"\npath = \"{name}.db\"\n");
        folder.write("evstore.toml", &format!("default_store = \"a\"\n{}{}", store("a"), store("b")));
        folder
    }

    /// Without a config.
    pub fn bare() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The command with these arguments, separated by single spaces.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evstore"));
        command.args(arguments.split(' ')).current_dir(self.0.path()).stdin(Stdio::null());
        // Nothing of the machine that runs the tests may be found.
        command.env_clear().env("HOME", self.0.path()).env("TMPDIR", std::env::temp_dir());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints when it is done.
    pub fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error that it ends with, which is one JSON object.
    pub fn error(&self, arguments: &str, code: i32) -> Value {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
        serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{arguments}: {error}: {stderr}"))
    }

    /// Reads one line of what it prints and leaves.
    pub fn run_and_leave(&self, arguments: &str) -> (Option<i32>, String) {
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (child.wait().unwrap().code(), stderr)
    }
}

/// One document.
pub fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One document a line.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(document).collect()
}
