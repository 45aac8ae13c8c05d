//! Servers of a test's own: started on free ports in temporary folders, killed and waited for on drop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod proxy;

use evstore_api::{
    Append, Appended, CommitId, Deadline, EventStore, EventType, Events, Expected, FindCommit, NewCommit, NewEvent,
    Result, Settings, StoreAdmin, StoreName, StreamId,
};
use redis::{Cmd, Value};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server has to come up, to agree with others, or to be promoted.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server process.
pub struct Server {
    pub port: u16,
    arguments: Vec<String>,
    folder: PathBuf,
    /// Removed with it, where it is its own.
    _own: Option<TempDir>,
    child: Option<Child>,
}

impl Server {
    /// Starts one with these arguments beside its port and its folder.
    pub async fn start(arguments: &[&str]) -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut server = Self::new(own.path().to_owned(), arguments);
        server._own = Some(own);
        server.restart().await;
        server
    }

    /// Starts one in a folder that stays when it is dropped.
    pub async fn start_in(folder: PathBuf, arguments: &[&str]) -> Self {
        let mut server = Self::new(folder, arguments);
        server.restart().await;
        server
    }

    fn new(folder: PathBuf, arguments: &[&str]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        // The bus of a cluster listens 10,000 above.
        let port = if port > 55_000 { port - 20_000 } else { port };
        let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend(["--save", "", "--repl-diskless-sync-delay", "0"].map(str::to_owned));
        Self { port, arguments: all, folder, _own: None, child: None }
    }

    /// Starts a sentinel over a primary.
    pub async fn sentinel(primary: u16) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let own = tempfile::tempdir().unwrap();
        let folder = own.path().to_owned();
        let config = folder.join("sentinel.conf");
        let lines = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
            folder.display()
        );
        std::fs::write(&config, lines).unwrap();
        let child = Command::new(binary()).arg(&config).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
        let server = Self { port, arguments: Vec::new(), folder, _own: Some(own), child: Some(child) };
        server.wait().await;
        server
    }

    /// Starts it again where it was.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(binary());
        command.arg("--port").arg(self.port.to_string()).args(["--bind", "127.0.0.1", "--dir"]).arg(&self.folder);
        self.child = Some(command.args(&self.arguments).stdout(Stdio::null()).spawn().unwrap());
        self.wait().await;
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _killed = child.kill();
            child.wait().unwrap();
        }
    }

    /// Stops it without ending it, or lets it go on.
    pub fn signal(&self, signal: &str) {
        let child = self.child.as_ref().unwrap();
        Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap();
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command on it.
    pub async fn run(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.query_async(&mut connection).await
    }

    /// Waits until an answer holds a text.
    pub async fn until(&self, words: &[&str], wanted: &str) {
        let begun = Instant::now();
        loop {
            let answer = self.run(words).await;
            if answer.as_ref().is_ok_and(|answer| text(answer).contains(wanted)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{words:?} did not come to {wanted}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait(&self) {
        self.until(&["PING"], "PONG").await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All text of an answer.
pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

fn binary() -> PathBuf {
    std::env::var_os("EVSTORE_TEST_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// A deadline that is far away.
pub fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(20))
}

/// Settings of a store there, made where it is missing.
pub fn settings(url: &str, more: &[(&str, &str)]) -> Settings {
    let given = [("url", url), ("auto_create", "true")].into_iter().chain(more.iter().copied());
    let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Settings::new(StoreName::new("redis").unwrap(), evstore_redis::KEYS, given).unwrap()
}

/// A store there.
pub async fn open(url: &str, more: &[(&str, &str)]) -> Arc<dyn EventStore> {
    evstore_redis::provider().opener.open(&settings(url, more)).await.unwrap()
}

/// Its administrative side.
pub async fn open_admin(url: &str, more: &[(&str, &str)]) -> Arc<dyn StoreAdmin> {
    evstore_redis::provider().opener.open_admin(&settings(url, more)).await.unwrap()
}

/// A stream.
pub fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

/// Appends one event of 64 bytes.
pub async fn append(store: &Arc<dyn EventStore>, name: &str, commit: CommitId) -> Result<Appended> {
    append_by(store, name, commit, deadline()).await
}

/// The same with a deadline.
pub async fn append_by(store: &Arc<dyn EventStore>, name: &str, id: CommitId, deadline: Deadline) -> Result<Appended> {
    let event = NewEvent::new(EventType::new("happened").unwrap(), vec![7; 64]);
    let commit = NewCommit { id, events: Events::new(vec![event]).unwrap() };
    store.append(Append { stream: stream(name), expected: Expected::Any, commit, deadline }).await
}

/// Whether a commit is there.
pub async fn is_there(store: &Arc<dyn EventStore>, name: &str, commit: CommitId) -> bool {
    let request = FindCommit { stream: stream(name), commit, deadline: deadline() };
    store.find_commit(request).await.unwrap().is_some()
}
