//! What tests of this provider share: a store of their own on the engine that `EVSTORE_TEST_DYNAMODB_URL` names, requests to the engine
//! past the provider, and a proxy that counts requests and loses or forges answers.

use evstore_api::{
    Append, Appended, CommitId, Deadline, Error, EventStore, EventType, Events, Expected, FindCommit, NewCommit,
    NewEvent, Provider, Settings, StoreAdmin, StoreName, StreamId,
};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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

    /// The same, through another address.
    pub async fn at(url: &str, more: &[(&str, &str)]) -> Self {
        let (provider, settings) = (evstore_dynamodb::provider(), settings(url, more));
        let settings = provider.opener.make_scratch(&settings, &tag()).await.unwrap();
        Self { provider, settings }
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

    pub fn table(&self) -> String {
        self.settings.text("table").unwrap().to_owned()
    }

    pub async fn end(self) {
        let straight = self.settings.with("endpoint", url()).unwrap();
        self.provider.opener.drop_scratch(&straight).await.unwrap();
    }
}

pub fn url() -> String {
    std::env::var("EVSTORE_TEST_DYNAMODB_URL").expect("EVSTORE_TEST_DYNAMODB_URL names the endpoint to test")
}

/// Of a store with its feed in the append's transaction, unless it is said otherwise.
pub fn settings(url: &str, more: &[(&str, &str)]) -> Settings {
    let local = [
        ("feed", "transactional"),
        ("endpoint", url),
        ("region", "local"),
        ("access_key_id", "AKIDEVSTORETEST"),
        ("secret_access_key", "not-looked-at"),
    ];
    let mut given: HashMap<String, String> = HashMap::new();
    for (key, value) in local.iter().chain(more) {
        given.insert((*key).to_owned(), (*value).to_owned());
    }
    Settings::new(StoreName::new("dynamodb").unwrap(), evstore_dynamodb::KEYS, given).unwrap()
}

/// A tag that no other test has, in this process and in others.
pub fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("a{:x}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(30))
}

pub fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub fn event(data: Vec<u8>) -> NewEvent {
    NewEvent::new(EventType::new("Happened").unwrap(), data)
}

/// Bytes that nothing makes smaller.
pub fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..count).map(|_| next()).collect()
}

pub async fn append(
    store: &Arc<dyn EventStore>,
    name: &str,
    expected: Expected,
    id: CommitId,
    events: Vec<NewEvent>,
) -> Result<Appended, Error> {
    let commit = NewCommit { id, events: Events::new(events).unwrap() };
    store.append(Append { stream: stream(name), expected, commit, deadline: deadline() }).await
}

/// A commit of one small event.
pub async fn append_one(store: &Arc<dyn EventStore>, name: &str, id: CommitId) -> Result<Appended, Error> {
    append(store, name, Expected::Any, id, vec![event(b"{}".to_vec())]).await
}

pub async fn is_there(store: &Arc<dyn EventStore>, name: &str, commit: CommitId) -> bool {
    store.find_commit(FindCommit { stream: stream(name), commit, deadline: deadline() }).await.unwrap().is_some()
}

/// Where queues are.
pub fn queues_url() -> String {
    std::env::var("EVSTORE_TEST_SQS_URL").expect("EVSTORE_TEST_SQS_URL names the endpoint of queues to test")
}

/// A request to the engine, past the provider. The engine does not look at its signature.
pub async fn ask(operation: &str, body: Value) -> Value {
    ask_at(&url(), &format!("DynamoDB_20120810.{operation}"), body).await
}

/// The same to the engine of queues.
pub async fn ask_queue(operation: &str, body: Value) -> Value {
    ask_at(&queues_url(), &format!("AmazonSQS.{operation}"), body).await
}

async fn ask_at(url: &str, target: &str, body: Value) -> Value {
    let host = url.strip_prefix("http://").expect("a local engine is spoken to without TLS");
    let body = body.to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nx-amz-target: {target}\r\n\
         content-type: application/x-amz-json-1.0\r\nauthorization: AWS4-HMAC-SHA256 \
         Credential=AKIDEVSTORETEST/20260101/local/dynamodb/aws4_request, SignedHeaders=host, Signature=0\r\n\
         x-amz-date: 20260101T000000Z\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut engine = TcpStream::connect(host).await.unwrap();
    engine.write_all(request.as_bytes()).await.unwrap();
    let answer = Message::read(&mut engine).await.expect("the engine answers");
    assert!(answer.head.starts_with("HTTP/1.1 200"), "{} {}", answer.head, String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

/// A request or an answer.
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    async fn read(from: &mut TcpStream) -> Option<Self> {
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
        let mut message = Self { head, body };
        while message.body.len() < length {
            if from.read_buf(&mut message.body).await.ok()? == 0 {
                return None;
            }
        }
        Some(message)
    }

    /// What it asks for.
    pub fn operation(&self) -> String {
        header(&self.head, "x-amz-target")
            .and_then(|target| target.split('.').next_back())
            .unwrap_or_default()
            .to_owned()
    }

    /// The same with another body. An answer goes without the checksum of its own.
    fn with_body(&self, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        let told = |line: &&str| !line.to_ascii_lowercase().starts_with("x-amz-crc32");
        let line = |line: &str| match line.to_ascii_lowercase().starts_with("content-length:") {
            true => format!("content-length: {}\r\n", body.len()),
            false => format!("{line}\r\n"),
        };
        Self { head: self.head.lines().filter(told).map(line).collect(), body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What becomes of a request.
pub enum Fate {
    /// It is passed on, and its answer back.
    Pass,
    /// It is passed on once this says so, or its sender is gone: a test that fails does not leave it waiting.
    PassOnce(watch::Receiver<bool>),
    /// It is passed on, and its answer lost.
    LoseAnswer,
    /// It is lost.
    LoseRequest,
    /// It is not passed on: this is answered.
    Answer(u16, Value),
    /// Another one is passed on, and its answer back as this makes it.
    Otherwise(Value, Box<dyn FnOnce(Value) -> Value + Send>),
}

/// A refusal as the service words it.
pub fn refusal(code: &str) -> Fate {
    let status = if code == "InternalServerError" { 500 } else { 400 };
    Fate::Answer(
        status,
        serde_json::json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "forged" }),
    )
}

type Decide = dyn Fn(&Message) -> Fate + Send + Sync;

/// Stands before the engine.
pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    decide: Arc<Mutex<Arc<Decide>>>,
}

impl Proxy {
    pub async fn start() -> Self {
        Self::before(url()).await
    }

    /// Of another engine.
    pub async fn before(engine: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let pass: Arc<Decide> = Arc::new(|_: &Message| Fate::Pass);
        let decide = Arc::new(Mutex::new(pass));
        let proxy = Self { url, seen: seen.clone(), decide: decide.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (engine, seen, decide) = (engine.clone(), seen.clone(), decide.clone());
                tokio::spawn(async move {
                    let _closed = serve(client, &engine, &seen, &decide).await;
                });
            }
        });
        proxy
    }

    /// From now on.
    pub fn decide(&self, decide: impl Fn(&Message) -> Fate + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    /// Once, for the next request of an operation.
    pub fn once(&self, operation: &'static str, fate: Fate) {
        let fate = Mutex::new(Some(fate));
        self.decide(move |message| match message.operation() == operation {
            true => fate.lock().unwrap().take().unwrap_or(Fate::Pass),
            false => Fate::Pass,
        });
    }

    /// What was asked for since the last call.
    pub fn take_seen(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn serve(
    mut client: TcpStream,
    engine: &str,
    seen: &Mutex<Vec<(String, Value)>>,
    decide: &Mutex<Arc<Decide>>,
) -> std::io::Result<()> {
    let host = engine.strip_prefix("http://").expect("a local engine is spoken to without TLS").to_owned();
    // A head and its body are sent apart, and the second would wait for the other side to say that it has the first.
    client.set_nodelay(true)?;
    while let Some(request) = Message::read(&mut client).await {
        seen.lock().unwrap().push((request.operation(), request.json()));
        let decide = decide.lock().unwrap().clone();
        let mut fate = decide(&request);
        if let Fate::PassOnce(may) = &mut fate {
            let _told_or_gone = may.wait_for(|may| *may).await;
        }
        if let Fate::Answer(status, answer) = fate {
            let body = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} Forged\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            client.write_all(head.as_bytes()).await?;
            client.write_all(body.as_bytes()).await?;
            continue;
        }
        if matches!(fate, Fate::LoseRequest) {
            return Ok(());
        }
        let request = match &fate {
            Fate::Otherwise(body, _) => request.with_body(body),
            _ => request,
        };
        let mut engine = TcpStream::connect(&host).await?;
        engine.set_nodelay(true)?;
        engine.write_all(request.head.as_bytes()).await?;
        engine.write_all(&request.body).await?;
        let Some(mut answer) = Message::read(&mut engine).await else { return Ok(()) };
        if matches!(fate, Fate::LoseAnswer) {
            return Ok(());
        }
        if let Fate::Otherwise(_, make) = fate {
            let made = make(answer.json());
            answer = answer.with_body(&made);
        }
        client.write_all(answer.head.as_bytes()).await?;
        client.write_all(&answer.body).await?;
    }
    Ok(())
}
