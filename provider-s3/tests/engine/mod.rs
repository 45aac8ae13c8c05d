//! What tests of this provider share: a store of their own on the engine that `EVSTORE_TEST_S3_URL` names, requests to the engine past the
//! provider, and a proxy that counts requests and loses or forges answers.

#![allow(dead_code, reason = "each test uses a part of it")]

use evstore_api::{
    Append, Appended, CommitId, Deadline, Error, EventStore, EventType, Events, Expected, NewCommit, NewEvent,
    Provider, Settings, StoreAdmin, StoreName, StreamId,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The bucket of all tests.
pub const BUCKET: &str = "evstore-test";

/// A scratch store, removed at its end by whoever made it.
pub struct Scratch {
    pub provider: Provider,
    pub settings: Settings,
}

impl Scratch {
    /// Makes one, with settings beside the engine's.
    pub async fn new(more: &[(&str, &str)]) -> Self {
        Self::at(&url(), more).await
    }

    /// The same, through another address from then on.
    pub async fn at(address: &str, more: &[(&str, &str)]) -> Self {
        let (provider, settings) = (evstore_s3::provider(), settings(&url(), more));
        let settings = provider.opener.make_scratch(&settings, &tag()).await.unwrap();
        Self { provider, settings: settings.with("endpoint", address).unwrap() }
    }

    pub async fn open(&self) -> Arc<dyn EventStore> {
        self.open_with(&[]).await.unwrap()
    }

    pub async fn open_with(&self, more: &[(&str, &str)]) -> Result<Arc<dyn EventStore>, Error> {
        let with = |settings: Settings, (key, value): &(&str, &str)| settings.with(key, *value).unwrap();
        self.provider.opener.open(&more.iter().fold(self.settings.clone(), with)).await
    }

    pub async fn admin(&self) -> Arc<dyn StoreAdmin> {
        self.provider.opener.open_admin(&self.settings).await.unwrap()
    }

    pub fn prefix(&self) -> String {
        self.settings.text("prefix").unwrap().to_owned()
    }

    /// The key of an object of the log.
    pub fn slot(&self, number: u64) -> String {
        format!("{}/log/{number:020}", self.prefix())
    }

    pub async fn end(self) {
        let straight = self.settings.with("endpoint", url()).unwrap();
        self.provider.opener.drop_scratch(&straight).await.unwrap();
    }
}

pub fn url() -> String {
    std::env::var("EVSTORE_TEST_S3_URL").expect("EVSTORE_TEST_S3_URL names the endpoint to test")
}

pub fn settings(url: &str, more: &[(&str, &str)]) -> Settings {
    let local = [
        ("bucket", BUCKET),
        ("endpoint", url),
        ("region", "us-east-1"),
        ("access_key_id", "AKIDEVSTORETEST"),
        ("secret_access_key", "not-looked-at"),
    ];
    let mut given: HashMap<String, String> = HashMap::new();
    for (key, value) in local.iter().chain(more) {
        given.insert((*key).to_owned(), (*value).to_owned());
    }
    Settings::new(StoreName::new("s3").unwrap(), evstore_s3::KEYS, given).unwrap()
}

/// A tag that no other test has, in this process and in others.
fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("a{:x}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

pub fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub fn event(data: impl Into<Vec<u8>>) -> NewEvent {
    NewEvent::new(EventType::new("Happened").unwrap(), data.into())
}

pub async fn append(
    store: &Arc<dyn EventStore>,
    name: &str,
    expected: Expected,
    id: CommitId,
    events: Vec<NewEvent>,
    deadline: Deadline,
) -> Result<Appended, Error> {
    let commit = NewCommit { id, events: Events::new(events).unwrap() };
    store.append(Append { stream: stream(name), expected, commit, deadline }).await
}

/// A commit of one small event.
pub async fn append_one(store: &Arc<dyn EventStore>, name: &str, id: CommitId) -> Result<Appended, Error> {
    append(store, name, Expected::Any, id, vec![event(b"{}")], deadline()).await
}

/// A request to the engine, past the provider. The engine does not look at its signature.
pub async fn ask(method: &str, path: &str, body: &[u8]) -> Message {
    let url = url();
    let host = url.strip_prefix("http://").expect("a local engine is spoken to without TLS");
    let head = format!(
        "{method} /{BUCKET}{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut engine = TcpStream::connect(host).await.unwrap();
    engine.write_all(head.as_bytes()).await.unwrap();
    engine.write_all(body).await.unwrap();
    Message::read(&mut engine, method).await.expect("the engine answers")
}

/// An object, past the provider.
pub async fn object(key: &str) -> Option<Vec<u8>> {
    let answer = ask("GET", &format!("/{key}"), &[]).await;
    answer.head.starts_with("HTTP/1.1 200").then_some(answer.body)
}

/// A request or an answer.
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one. The answer to a HEAD has no body, whatever length it tells.
    async fn read(from: &mut TcpStream, method: &str) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if from.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let body = bytes.split_off(end);
        let head = String::from_utf8(bytes).ok()?;
        let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let length = if method == "HEAD" { 0 } else { length };
        if header(&head, "expect").is_some() {
            from.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        let mut message = Self { head, body };
        while message.body.len() < length {
            if from.read_buf(&mut message.body).await.ok()? == 0 {
                return None;
            }
        }
        Some(message)
    }

    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether it puts an object of the log where there is none.
    pub fn is_put_of_log(&self) -> bool {
        self.method() == "PUT" && self.path().contains("/log/") && header(&self.head, "if-none-match").is_some()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It is passed on, and its answer back.
    Pass,
    /// It is passed on without its conditions.
    Unconditional,
    /// It is passed on, and its answer lost.
    LoseAnswer,
    /// It is lost.
    LoseRequest,
    /// It is not passed on: this is answered.
    Refuse(u16, &'static str),
}

type Decide = dyn Fn(&Message) -> Fate + Send + Sync;

/// Stands before the engine.
pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    decide: Arc<Mutex<Arc<Decide>>>,
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let pass: Arc<Decide> = Arc::new(|_: &Message| Fate::Pass);
        let decide = Arc::new(Mutex::new(pass));
        let proxy = Self { url, seen: seen.clone(), decide: decide.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (seen, decide) = (seen.clone(), decide.clone());
                tokio::spawn(async move {
                    let _closed = serve(client, &seen, &decide).await;
                });
            }
        });
        proxy
    }

    /// From now on.
    pub fn decide(&self, decide: impl Fn(&Message) -> Fate + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    /// For the next puts of the log, one fate each.
    pub fn next_puts(&self, fates: impl IntoIterator<Item = Fate>) {
        let fates = Mutex::new(fates.into_iter().collect::<std::collections::VecDeque<_>>());
        self.decide(move |message| match message.is_put_of_log() {
            true => fates.lock().unwrap().pop_front().unwrap_or(Fate::Pass),
            false => Fate::Pass,
        });
    }

    /// What was asked for since the last call: methods and paths.
    pub fn take_seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn serve(
    mut client: TcpStream,
    seen: &Mutex<Vec<(String, String)>>,
    decide: &Mutex<Arc<Decide>>,
) -> std::io::Result<()> {
    let url = url();
    let host = url.strip_prefix("http://").expect("a local engine is spoken to without TLS").to_owned();
    while let Some(request) = Message::read(&mut client, "").await {
        let method = request.method().to_owned();
        seen.lock().unwrap().push((method.clone(), request.path().to_owned()));
        let decide = decide.lock().unwrap().clone();
        let fate = decide(&request);
        if let Fate::Refuse(status, code) = fate {
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>forged</Message></Error>");
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} Forged\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await?;
            client.write_all(body.as_bytes()).await?;
            continue;
        }
        if matches!(fate, Fate::LoseRequest) {
            return Ok(());
        }
        let kept = |line: &&str| {
            let line = line.to_ascii_lowercase();
            let condition = line.starts_with("if-none-match:") || line.starts_with("if-match:");
            let dropped = condition && matches!(fate, Fate::Unconditional);
            !dropped && !line.starts_with("expect:")
        };
        let head: String = request.head.split_inclusive("\r\n").filter(kept).collect();
        let mut engine = TcpStream::connect(&host).await?;
        engine.write_all(head.as_bytes()).await?;
        engine.write_all(&request.body).await?;
        let Some(answer) = Message::read(&mut engine, &method).await else { return Ok(()) };
        if matches!(fate, Fate::LoseAnswer) {
            return Ok(());
        }
        client.write_all(answer.head.as_bytes()).await?;
        client.write_all(&answer.body).await?;
    }
    Ok(())
}
