//! The same with a feed that is an index: what it costs, and commits that come into it late, which no local engine shows by itself.

use crate::engine::{Fate, Message, Proxy, Scratch, append, append_one, ask, deadline, event, noise, settings, tag};
use crate::{NAME, order_event};
use evstore_api::{
    AdvanceFeed, Clock, CommitId, Cursor, Error, ErrorKind, EventStore, Expected, FeedFilter, FeedPage, FeedStart,
    ReadFeed, Revision, Severity, SystemClock, Timestamp, WaitFeed, Waited,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long readers wait in these tests: nothing here takes so long on a busy machine.
const HELD_BACK: Duration = Duration::from_secs(2);

fn indexed(shards: &'static str) -> [(&'static str, &'static str); 3] {
    [("feed", "sharded-index"), ("shards", shards), ("settling", "1s")]
}

/// An entry of the index that is not shown.
struct Hidden {
    shard: Value,
    place: Vec<u8>,
    key: Value,
}

/// Shows the index without some of its entries, as a service does to which they did not come yet.
#[derive(Clone, Default)]
struct Veil(Arc<Mutex<HashMap<(String, u64), Hidden>>>);

impl Veil {
    async fn over(proxy: &Proxy) -> Self {
        let veil = Self::default();
        let hides = veil.clone();
        proxy.decide(move |message| hides.fate(message));
        veil
    }

    /// Hides a commit that is in the table.
    async fn hide(&self, scratch: &Scratch, name: &str, number: u64) {
        let key = json!({ "k": { "S": name }, "n": { "N": number.to_string() } });
        let item = ask("GetItem", json!({ "TableName": scratch.table(), "Key": key, "ConsistentRead": true })).await;
        let item = &item["Item"];
        let hidden = Hidden { shard: item["g"].clone(), place: binary(&item["i"]), key };
        self.0.lock().unwrap().insert((name.to_owned(), number), hidden);
    }

    fn show(&self, name: &str, number: u64) {
        self.0.lock().unwrap().remove(&(name.to_owned(), number)).expect("it is hidden");
    }

    fn fate(&self, message: &Message) -> Fate {
        let mut asked = message.json();
        if message.operation() != "Query" || asked["IndexName"] != "feed" {
            return Fate::Pass;
        }
        let values = &asked["ExpressionAttributeValues"];
        let (from, to) = (binary(&values[":from"]), binary(&values[":to"]));
        let hidden = self.0.lock().unwrap();
        let within = |one: &&Hidden| one.shard == values[":g"] && from <= one.place && one.place <= to;
        let keys: Vec<Value> = hidden.values().filter(within).map(|one| one.key.clone()).collect();
        if asked["Select"] == "COUNT" {
            return Fate::Otherwise(
                asked,
                Box::new(move |mut answer| {
                    answer["Count"] = json!(answer["Count"].as_u64().unwrap() - keys.len() as u64);
                    answer
                }),
            );
        }
        // What is hidden takes no place in a page.
        let limit = asked.as_object_mut().unwrap().remove("Limit").and_then(|limit| limit.as_u64()).unwrap();
        let is_seen = move |item: &Value| !keys.iter().any(|key| key["k"] == item["k"] && key["n"] == item["n"]);
        Fate::Otherwise(
            asked,
            Box::new(move |mut answer| {
                let items = answer["Items"].as_array().unwrap().iter().filter(|item| is_seen(item));
                let items: Vec<Value> = items.take(limit as usize).cloned().collect();
                if items.len() == limit as usize {
                    answer["LastEvaluatedKey"] = items.last().unwrap().clone();
                }
                answer["Count"] = json!(items.len());
                answer["Items"] = Value::Array(items);
                answer
            }),
        )
    }
}

/// The bytes of a value, which are told in base64.
fn binary(value: &Value) -> Vec<u8> {
    let text = value["B"].as_str().unwrap();
    let sign = |sign: u8| match sign {
        b'A'..=b'Z' => u32::from(sign - b'A'),
        b'a'..=b'z' => u32::from(sign - b'a') + 26,
        b'0'..=b'9' => u32::from(sign - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let signs: Vec<u32> = text.bytes().filter(|byte| *byte != b'=').map(sign).collect();
    let group = |four: &[u32]| {
        let whole = four.iter().chain([&0; 3]).take(4).fold(0_u32, |sum, sign| sum << 6 | sign);
        whole.to_be_bytes()[1..four.len()].to_vec()
    };
    signs.chunks(4).flat_map(group).collect()
}

async fn page(store: &Arc<dyn EventStore>, from: FeedStart, limit: u32) -> Result<FeedPage, Error> {
    store
        .read_feed(ReadFeed { from, filter: FeedFilter::none(), limit, max_bytes: u64::MAX, deadline: deadline() })
        .await
}

fn told(page: &FeedPage) -> Vec<(String, u64)> {
    page.commits().map(|commit| (commit.stream.to_string(), commit.number.0)).collect()
}

/// Reads on until so many commits came, or as the store says why not.
async fn follow(
    store: &Arc<dyn EventStore>,
    mut from: FeedStart,
    count: usize,
) -> (Vec<(String, u64)>, FeedStart, Option<Error>) {
    let (mut found, begun) = (Vec::new(), Instant::now());
    while found.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(20), "only {found:?} came");
        match page(store, from.clone(), 2).await {
            Ok(page) => {
                found.extend(told(&page));
                from = FeedStart::After(page.next);
            }
            Err(error) => return (found, from, Some(error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (found, from, None)
}

fn named(told: &[(&str, u64)]) -> Vec<(String, u64)> {
    told.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_known_stream_is_two_units_and_one_request() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &indexed("4")).await;
    let store = scratch.open().await;
    let commit = |n: u32| vec![event(noise(900 - "Happened".len(), n + 1))];
    let made = append(&store, NAME, Expected::NoStream, CommitId::generate(), commit(0)).await.unwrap();
    // As without an index, and its own: what is written in a transaction counts twice in the table, and once in the index.
    assert_eq!((made.usage.write_units, made.usage.requests), (7.0, 2));
    proxy.take_seen();
    for n in 1..20 {
        let expected = Expected::At(Revision(u64::from(n)));
        let receipt = append(&store, NAME, expected, CommitId::generate(), commit(n)).await.unwrap();
        assert_eq!((receipt.usage.write_units, receipt.usage.read_units, receipt.usage.requests), (2.0, 0.0, 1), "{n}");
    }
    let seen: Vec<_> = proxy.take_seen().into_iter().map(|(operation, _)| operation).collect();
    assert_eq!(seen, vec!["PutItem"; 19]);
    // The index takes a unit however large a commit is.
    let events = (0..10).map(order_event).collect();
    let receipt = append(&store, NAME, Expected::Any, CommitId::generate(), events).await.unwrap();
    assert!(receipt.usage.write_units <= 3.0, "ten events of JSON: {}", receipt.usage.write_units);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_inside_the_bound_is_given_in_its_place() {
    let proxy = Proxy::start().await;
    let mut longer = indexed("3");
    longer[2] = ("settling", "2s");
    let scratch = Scratch::at(&proxy.url, &longer).await;
    let veil = Veil::over(&proxy).await;
    let store = scratch.open().await;
    let mut wanted = Vec::new();
    for n in 0..6 {
        for name in ["a-1", "b-1"] {
            append_one(&store, name, CommitId::generate()).await.unwrap();
            wanted.push((name.to_owned(), n + 1));
        }
    }
    for (name, number) in [("a-1", 2), ("b-1", 2), ("a-1", 6), ("b-1", 6)] {
        veil.hide(&scratch, name, number).await;
    }
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (name, number) in [("b-1", 2), ("b-1", 6), ("a-1", 6), ("a-1", 2)] {
            veil.show(name, number);
        }
    };
    let ((found, _, stopped), ()) = tokio::join!(follow(&store, FeedStart::First, wanted.len()), late);
    assert!(stopped.is_none(), "{stopped:?}");
    assert_eq!(found, wanted, "by when they were appended, each once");
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_what_a_commit_follows() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &indexed("1")).await;
    let veil = Veil::over(&proxy).await;
    let store = scratch.open().await;
    for name in ["a-1", "a-1", "b-1", "a-1"] {
        append_one(&store, name, CommitId::generate()).await.unwrap();
    }
    veil.hide(&scratch, "a-1", 2).await;
    // Far longer than commits are given to come, and the one that follows it is there.
    let (found, from, stopped) = follow(&store, FeedStart::First, 4).await;
    assert_eq!(found, named(&[("a-1", 1), ("b-1", 1)]));
    assert_eq!(stopped.map(|error| error.kind()), Some(ErrorKind::Unavailable));
    // A reader that begins behind it is not told of a commit without the one before it either.
    let fresh = scratch.open().await;
    assert_eq!(page(&fresh, from.clone(), 9).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let told_first = page(&fresh, FeedStart::First, 9).await.unwrap();
    assert_eq!(told(&told_first), named(&[("a-1", 1), ("b-1", 1)]));
    assert!(!told_first.end);
    veil.show("a-1", 2);
    // `b-1` stands behind it, and was given: so it came behind the reader.
    assert_eq!(page(&fresh, from, 9).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    let (found, _, stopped) = follow(&fresh, FeedStart::First, 4).await;
    assert!(stopped.is_none(), "{stopped:?}");
    assert_eq!(found, named(&[("a-1", 1), ("a-1", 2), ("b-1", 1), ("a-1", 3)]));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_behind_a_reader_stops_it_and_says_from_where_to_read_again() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &indexed("4")).await;
    let veil = Veil::over(&proxy).await;
    let store = scratch.open().await;
    for name in ["a-1", "late-1", "b-1"] {
        append_one(&store, name, CommitId::generate()).await.unwrap();
    }
    veil.hide(&scratch, "late-1", 1).await;
    let (found, from, _) = follow(&store, FeedStart::First, 2).await;
    assert_eq!(found, named(&[("a-1", 1), ("b-1", 1)]));
    // What follows it comes before it does, and is not given without it.
    append_one(&store, "late-1", CommitId::generate()).await.unwrap();
    append_one(&store, "c-1", CommitId::generate()).await.unwrap();
    let (found, from, stopped) = follow(&store, from, 1).await;
    assert_eq!((found, stopped.map(|error| error.kind())), (Vec::new(), Some(ErrorKind::Unavailable)));
    veil.show("late-1", 1);
    // Of a reader that goes on in another process it is known at once, of one that goes on when it counts again.
    let fresh = scratch.open().await;
    let mut again = None;
    for reader in [&fresh, &store] {
        let begun = Instant::now();
        let error = loop {
            match page(reader, from.clone(), 9).await {
                Err(error) => break error,
                Ok(_) => assert!(begun.elapsed() < Duration::from_secs(20), "it is passed over in silence"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(error.kind(), ErrorKind::HistoryLost, "{error:?}");
        let fact = |name| error.context().iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        assert_eq!(fact("late").as_deref(), Some("1"));
        again = fact("again");
    }
    let again = FeedStart::After(again.unwrap().parse::<Cursor>().unwrap());
    let (found, ..) = follow(&fresh, again, 5).await;
    assert_eq!(found, named(&[("a-1", 1), ("late-1", 1), ("b-1", 1), ("late-1", 2), ("c-1", 1)]));
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_of_a_commit_that_never_came() {
    let proxy = Proxy::start().await;
    let scratch = Scratch::at(&proxy.url, &indexed("4")).await;
    let veil = Veil::over(&proxy).await;
    let (store, admin) = (scratch.open().await, scratch.admin().await);
    for name in ["a-1", "b-1", "b-1"] {
        append_one(&store, name, CommitId::generate()).await.unwrap();
    }
    let told = async || {
        let findings = admin.examine(deadline()).await.unwrap();
        let found = findings.into_iter().find(|finding| finding.about == "feed index").unwrap();
        (found.severity, found.found)
    };
    veil.hide(&scratch, "b-1", 2).await;
    // Too new to be missed.
    assert_eq!(told().await, (Severity::Fine, "it has the ends of all 2 streams".to_owned()));
    admin.advance_feed(AdvanceFeed { deadline: deadline() }).await.unwrap();
    tokio::time::sleep(HELD_BACK).await;
    let (severity, words) = told().await;
    assert_eq!(severity, Severity::Problem);
    assert!(words.contains("1 of all 2") && words.contains("b-1"), "{words}");
    veil.show("b-1", 2);
    assert_eq!(told().await.0, Severity::Fine);
    scratch.end().await;
}

/// A clock that is off.
#[derive(Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0 * 1_000_000)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_clock_that_is_off_neither_appends_nor_reads_the_feed() {
    let scratch = Scratch::new(&indexed("1")).await;
    let right = scratch.open().await;
    let receipt = append_one(&right, "a-1", CommitId::generate()).await.unwrap();
    for seconds in [-3_600, -3, 3, 3_600] {
        let provider = evstore_dynamodb::provider_with(Arc::new(Off(seconds)));
        let store = provider.opener.open(&scratch.settings).await.unwrap();
        for name in ["a-1", "b-1"] {
            let error = append_one(&store, name, CommitId::generate()).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().contains("clock")),
                (ErrorKind::Unavailable, true),
                "{seconds}"
            );
        }
        assert_eq!(page(&store, FeedStart::First, 9).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.feed_head(deadline()).await.unwrap_err().kind(), ErrorKind::Unavailable);
        let after = Cursor::parts(right.feed_head(deadline()).await.unwrap().cursor.incarnation(), Vec::new()).unwrap();
        let waited = store.wait_feed(WaitFeed { after, deadline: deadline() }).await;
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // Nothing was written.
    let next = append_one(&right, "a-1", CommitId::generate()).await.unwrap();
    assert_eq!(next.number, receipt.number.next());
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_is_told_once_commits_have_settled() {
    let scratch = Scratch::new(&indexed("2")).await;
    let store = scratch.open().await;
    let after = store.feed_head(deadline()).await.unwrap().cursor;
    let begun = Instant::now();
    append_one(&store, "a-1", CommitId::generate()).await.unwrap();
    let head = store.feed_head(deadline()).await.unwrap();
    assert_eq!((head.cursor, head.lag.commits, head.position), (after.clone(), 1, None));
    assert!(head.lag.age > Duration::ZERO);
    let waited = store.wait_feed(WaitFeed { after: after.clone(), deadline: deadline() }).await.unwrap();
    assert_eq!(waited, Waited::More);
    assert!(begun.elapsed() >= HELD_BACK, "{:?}", begun.elapsed());
    let page = page(&store, FeedStart::After(after), 9).await.unwrap();
    assert_eq!((told(&page), page.end), (named(&[("a-1", 1)]), true));
    assert_eq!(store.feed_head(deadline()).await.unwrap().cursor, page.next);
    scratch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_index_does_not_fit_is_refused() {
    let scratch = Scratch::new(&indexed("2")).await;
    let refused = async |more: &[(&str, &str)]| {
        let error = scratch.open_with(more).await.unwrap_err();
        (error.kind(), error.to_string())
    };
    // Fixed when the store was made.
    for more in [("shards", "3"), ("feed", "transactional")] {
        let (kind, words) = refused(&[more]).await;
        assert_eq!(kind, ErrorKind::Schema, "{words}");
    }
    ask(
        "UpdateTable",
        json!({ "TableName": scratch.table(), "GlobalSecondaryIndexUpdates": [{ "Delete": { "IndexName": "feed" } }] }),
    )
    .await;
    let (kind, words) = refused(&[]).await;
    assert_eq!((kind, words.contains("index")), (ErrorKind::Schema, true), "{words}");
    // What would be made is printed.
    let missing = settings(&crate::engine::url(), &indexed("2")).with("table", format!("planned.{}", tag())).unwrap();
    let admin = scratch.provider.opener.open_admin(&missing).await.unwrap();
    let plan = admin.plan_schema(deadline()).await.unwrap();
    let commits: Value = serde_json::from_str(&plan.changes[0].statement).unwrap();
    let index = &commits["EvstoreCommits"]["Properties"]["GlobalSecondaryIndexes"][0];
    assert_eq!(
        (&index["IndexName"], &index["Projection"]),
        (&json!("feed"), &json!({ "ProjectionType": "KEYS_ONLY" }))
    );
    assert_eq!(index["KeySchema"][1], json!({ "AttributeName": "i", "KeyType": "RANGE" }));
    scratch.end().await;
}
