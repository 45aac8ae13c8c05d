//! The archive behind SQLite: every boundary, every place to be cut off, and an archive that is away, slow or damaged.

use crate::archive::Archive;
use crate::archiver::{Archiver, Policy};
use crate::config::{Config, KEYS};
use crate::place::{self, Place};
use crate::store::Tiered;
use crate::{admin::TieredAdmin, note};
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::*;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug)]
struct Counting(AtomicI64);

impl Clock for Counting {
    fn now(&self) -> Timestamp {
        Timestamp(1_790_000_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(30))
}

fn stream(name: &str) -> StreamId {
    match name.split_once('/') {
        Some((namespace, name)) => StreamId::within(namespace, name).unwrap(),
        None => StreamId::new(name).unwrap(),
    }
}

fn sqlite(path: &Path) -> (Provider, Settings) {
    let provider = evstore_sqlite::provider_with(Arc::new(Counting(AtomicI64::new(0))));
    let given = [("path".to_owned(), path.display().to_string())];
    let settings = Settings::new(StoreName::new("hot").unwrap(), provider.keys, given).unwrap();
    (provider, settings)
}

fn config(folder: &Path) -> Config {
    let given = [
        ("hot", "hot".to_owned()),
        ("archive", format!("file:{}", folder.display())),
        ("segment_bytes", "4KiB".into()),
    ];
    let given = given.into_iter().map(|(key, value)| (key.to_owned(), value));
    Config::new(&Settings::new(StoreName::new("tiered").unwrap(), KEYS, given).unwrap()).unwrap()
}

/// What befalls requests to a place.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Place>,
    /// Requests that are still answered.
    life: AtomicI64,
    /// Whether the one after them is carried out before it fails.
    late: bool,
    /// Whether failed ones never end.
    silent: bool,
    /// Whether segments are kept with a bit flipped.
    lies: bool,
    requests: AtomicU64,
}

impl Faulty {
    fn new(inner: Arc<dyn Place>) -> Self {
        Self {
            inner,
            life: AtomicI64::new(i64::MAX),
            late: false,
            silent: false,
            lies: false,
            requests: AtomicU64::new(0),
        }
    }

    fn dies(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.life.fetch_sub(1, Ordering::Relaxed) <= 0
    }

    async fn failure<T>(&self, key: &str) -> Result<T> {
        if self.silent {
            std::future::pending::<()>().await;
        }
        let kind = if self.late { ErrorKind::Indeterminate } else { ErrorKind::Unavailable };
        Err(Error::new(kind, "the archive is away").with("object", key))
    }
}

#[async_trait]
impl Place for Faulty {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn get(
        &self,
        key: &str,
        part: Option<Range<u64>>,
        deadline: Deadline,
        usage: &mut Usage,
    ) -> Result<Option<Bytes>> {
        if self.dies() { self.failure(key).await } else { self.inner.get(key, part, deadline, usage).await }
    }

    async fn put_new(&self, key: &str, body: Bytes, deadline: Deadline, usage: &mut Usage) -> Result<bool> {
        if self.dies() {
            if self.late && self.life.load(Ordering::Relaxed) == -1 {
                self.inner.put_new(key, body, deadline, usage).await?;
            }
            return self.failure(key).await;
        }
        let body = if self.lies && key.starts_with("segments/") {
            let mut body = body.to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            body.into()
        } else {
            body
        };
        self.inner.put_new(key, body, deadline, usage).await
    }

    async fn remove(&self, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        if self.dies() { self.failure(key).await } else { self.inner.remove(key, deadline, usage).await }
    }

    async fn list(&self, prefix: &str, deadline: Deadline, usage: &mut Usage) -> Result<Vec<String>> {
        if self.dies() { self.failure(prefix).await } else { self.inner.list(prefix, deadline, usage).await }
    }

    async fn make(&self, deadline: Deadline) -> Result<()> {
        self.inner.make(deadline).await
    }

    async fn unmake(&self, deadline: Deadline) -> Result<()> {
        self.inner.unmake(deadline).await
    }

    async fn tags(&self, deadline: Deadline) -> Result<Vec<String>> {
        self.inner.tags(deadline).await
    }
}

/// The administrative side of a store whose process is killed in a release.
#[derive(Debug)]
struct Killed {
    inner: Arc<dyn StoreAdmin>,
    releases: AtomicI64,
}

macro_rules! killed {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[async_trait]
        impl StoreAdmin for Killed {
            fn capabilities(&self) -> &Capabilities {
                self.inner.capabilities()
            }

            async fn release(&self, request: Release) -> Result<Released> {
                if self.releases.fetch_sub(1, Ordering::Relaxed) > 0 {
                    return self.inner.release(request).await;
                }
                let half = request.streams.len() / 2;
                let streams = request.streams[..half].to_vec();
                self.inner.release(Release { streams, ..request }).await?;
                Err(Error::new(ErrorKind::Unavailable, "killed"))
            }

            async fn close(&self) -> Result<()> {
                self.inner.close().await
            }

            $(async fn $name(&self, request: $request) -> Result<$answer> {
                self.inner.$name(request).await
            })*
        }
    };
}

killed! {
    read_meta(Deadline) -> Meta;
    swap_meta(SwapMeta) -> MetaSwapped;
    seal_stream(SealStream) -> Appended;
    open_stream(OpenStream) -> Appended;
    replicate(Replicate) -> Replicated;
    read_commits(ReadCommits) -> CommitsPage;
    truncate(Truncate) -> Truncated;
    delete(Delete) -> Appended;
    advance_feed(AdvanceFeed) -> FeedAdvanced;
    plan_schema(Deadline) -> SchemaPlan;
    apply_schema(Deadline) -> SchemaPlan;
    check_schema(Deadline) -> ();
    examine(Deadline) -> Vec<Finding>;
}

/// Both sides of a store.
#[derive(Clone)]
struct Sides {
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
}

impl Sides {
    async fn plain(path: &Path) -> Self {
        let (provider, settings) = sqlite(path);
        Self {
            store: provider.opener.open(&settings).await.unwrap(),
            admin: provider.opener.open_admin(&settings).await.unwrap(),
        }
    }

    async fn append(&self, name: &str, id: u32, count: u32, bytes: usize) {
        let event = |n: u32| {
            let kind = EventType::new(if (id + n).is_multiple_of(3) { "odd" } else { "even" }).unwrap();
            NewEvent::new(kind, format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(bytes)).into_bytes())
        };
        let commit = NewCommit {
            id: CommitId::derive(&[&id.to_le_bytes()]),
            events: Events::new((0..count).map(event).collect()).unwrap(),
        };
        let request = Append { stream: stream(name), expected: Expected::Any, commit, deadline: deadline() };
        self.store.append(request).await.unwrap();
    }

    async fn truncate(&self, name: &str, id: u32, before: u64) -> Truncated {
        let commit = CommitId::derive(&[&id.to_le_bytes()]);
        let request = Truncate { stream: stream(name), commit, before: Revision(before), deadline: deadline() };
        self.admin.truncate(request).await.unwrap()
    }

    async fn delete(&self, name: &str, id: u32) {
        let commit = CommitId::derive(&[&id.to_le_bytes()]);
        let request = Delete { stream: stream(name), expected: Expected::Any, commit, deadline: deadline() };
        self.admin.delete(request).await.unwrap();
    }

    async fn end(&self) -> u64 {
        self.store.feed_head(deadline()).await.unwrap().position.unwrap().0
    }
}

/// Streams of many shapes: long and short, of large commits and of single events, truncated, deleted, in a namespace, with snapshots.
async fn fill(sides: &Sides) {
    let mut id = 0;
    for round in 0..4_u32 {
        for (name, count, bytes) in
            [("a-1", 1, 10), ("a-1", 3, 5), ("b-1", 2, 300), ("tenant/a-1", 1, 0), ("b-2", 1, 40), ("gone-1", 1, 5)]
        {
            id += 1;
            sides.append(name, id, count, bytes).await;
        }
        if round == 1 {
            sides.truncate("b-1", 500, 3).await;
        }
        if round == 2 {
            sides.delete("gone-1", 501).await;
            sides.append("one-1", 502, 1, 1).await;
            break;
        }
    }
    let page = sides.store.read_stream(read("a-1", StreamStart::First, Direction::Forward, 4, u64::MAX)).await.unwrap();
    let last = page.commits.last().unwrap();
    let snapshot = Snapshot {
        stream: stream("a-1"),
        revision: last.last_revision(),
        number: last.number,
        commit: last.id,
        schema: 1,
        content_type: ContentType::json(),
        data: "{}".into(),
        taken_at: Timestamp(5),
    };
    sides.store.put_snapshot(PutSnapshot { snapshot, deadline: deadline() }).await.unwrap();
}

const STREAMS: [&str; 7] = ["a-1", "b-1", "tenant/a-1", "b-2", "gone-1", "one-1", "none-1"];

fn read(name: &str, from: StreamStart, direction: Direction, limit: u32, max_bytes: u64) -> ReadStream {
    ReadStream { stream: stream(name), from, direction, limit, max_bytes, deadline: deadline() }
}

/// Every answer of a store, to be compared as text: every read from everywhere, both ways, of several lengths, filtered and not.
async fn answers(sides: &Sides) -> Vec<(String, String)> {
    answers_of(sides, true).await
}

/// The same; whole reads only, where it is not the reads that are tried.
async fn brief(sides: &Sides) -> Vec<(String, String)> {
    answers_of(sides, false).await
}

async fn answers_of(sides: &Sides, thorough: bool) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    let mut tell = |what: String, answer: String| answers.push((what, answer));
    for name in STREAMS {
        let head = sides.store.head(ReadHead { stream: stream(name), deadline: deadline() }).await.unwrap();
        let mut starts = vec![StreamStart::First, StreamStart::Last];
        if thorough {
            starts.extend((1..=head.revision.0 + 2).map(|at| StreamStart::At(Revision(at))));
        }
        tell(format!("head {name}"), format!("{head:?}"));
        for from in starts {
            for direction in [Direction::Forward, Direction::Backward] {
                for (limit, max_bytes) in [(0, 9), (1, u64::MAX), (3, u64::MAX), (100, 60), (100, u64::MAX)] {
                    let page = sides.store.read_stream(read(name, from, direction, limit, max_bytes)).await;
                    let page = page.map(|page| StreamPage { usage: Usage::default(), ..page });
                    tell(format!("{name} {from:?} {direction:?} {limit} {max_bytes}"), format!("{page:?}"));
                }
            }
        }
        for (from, limit, max_bytes) in [(1, 100, u64::MAX), (2, 2, u64::MAX), (1, 100, 40), (3, 1, 1)] {
            let request =
                ReadCommits { stream: stream(name), from: CommitNumber(from), limit, max_bytes, deadline: deadline() };
            let page = sides.admin.read_commits(request).await;
            tell(
                format!("slots {name} {from} {limit} {max_bytes}"),
                format!("{:?}", page.map(|page| (page.commits, page.next))),
            );
        }
        let snapshot = sides.store.read_snapshot(ReadSnapshot { stream: stream(name), deadline: deadline() }).await;
        tell(format!("snapshot {name}"), format!("{snapshot:?}"));
    }
    let filters = [
        FeedFilter::none(),
        FeedFilter { categories: vec![Category::new("a").unwrap()], ..FeedFilter::none() },
        FeedFilter { types: vec![EventType::new("odd").unwrap()], ..FeedFilter::none() },
        FeedFilter { namespace: NamespaceFilter::One(Namespace::new("tenant").unwrap()), ..FeedFilter::none() },
    ];
    let last = if thorough { sides.end().await + 1 } else { 0 };
    for after in 0..=last {
        for filter in &filters {
            for (limit, max_bytes) in [(1, u64::MAX), (4, u64::MAX), (100, 100), (1_000, u64::MAX)] {
                let from = FeedStart::AfterPosition(Position(after));
                let request = ReadFeed { from, filter: filter.clone(), limit, max_bytes, deadline: deadline() };
                let page = sides.store.read_feed(request).await;
                let page = page.map(|page| FeedPage { usage: Usage::default(), ..page });
                tell(format!("feed {after} {limit} {max_bytes} {filter:?}"), format!("{page:?}"));
            }
        }
    }
    let list = ListStreams {
        namespace: NamespaceFilter::All,
        category: None,
        prefix: String::new(),
        after: None,
        limit: 100,
        deadline: deadline(),
    };
    let listed = sides.store.list_streams(list).await.map(|page| page.streams);
    tell("streams".into(), format!("{listed:?}"));
    let records = ListRecords { kind: RecordKind::Presence, after: None, limit: 10, deadline: deadline() };
    let records = sides.store.list_records(records).await.map(|page| page.records);
    tell("records".into(), format!("{records:?}"));
    answers
}

fn ensure_same(found: &[(String, String)], wanted: &[(String, String)], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// A tiered store on a copy of a file.
struct Copied {
    folder: tempfile::TempDir,
    place: Arc<Faulty>,
    hot: Sides,
    config: Config,
}

impl Copied {
    async fn of(file: &Path) -> Self {
        Self::with(file, |_| {}).await
    }

    async fn with(file: &Path, change: impl FnOnce(&mut Faulty)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(file, folder.path().join("hot.db")).unwrap();
        let config = config(&folder.path().join("archive"));
        let settings = Settings::new(
            StoreName::new("t").unwrap(),
            KEYS,
            [("hot".to_owned(), "hot".to_owned()), ("archive".to_owned(), "file:unused".to_owned())],
        );
        let mut place = Faulty::new(place::of(&config, &settings.unwrap()).await.unwrap());
        change(&mut place);
        let hot = Sides::plain(&folder.path().join("hot.db")).await;
        Self { place: Arc::new(place), hot, config, folder }
    }

    /// As another process sees it: nothing is in its memory.
    fn archive(&self) -> Arc<Archive> {
        Arc::new(Archive::new(self.place.clone(), self.config.cache_bytes))
    }

    fn tiered(&self) -> Sides {
        let archive = self.archive();
        let (provider, settings) = sqlite(&self.folder.path().join("hot.db"));
        let store = Tiered::new(self.hot.store.clone(), archive.clone()).unwrap();
        let admin = TieredAdmin::new(self.hot.admin.clone(), provider, settings, archive, self.config.clone()).unwrap();
        Sides { store: Arc::new(store), admin: Arc::new(admin) }
    }

    fn archiver(&self, keep_last: u64) -> Archiver {
        self.archiver_with(self.hot.admin.clone(), keep_last)
    }

    fn archiver_with(&self, admin: Arc<dyn StoreAdmin>, keep_last: u64) -> Archiver {
        let archiver = Archiver::new(self.hot.store.clone(), admin, self.archive(), &self.config);
        archiver.with_policy(Policy { keep_last: Some(keep_last), ..Policy::default() })
    }
}

/// A file with streams of many shapes, and what an untiered store answers on it.
async fn original(folder: &Path) -> (std::path::PathBuf, Vec<(String, String)>) {
    let path = folder.join("original.db");
    let sides = Sides::plain(&path).await;
    fill(&sides).await;
    let wanted = answers(&sides).await;
    sides.store.close().await.unwrap();
    sides.admin.close().await.unwrap();
    (path, wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_is_the_same_wherever_the_boundary_lies() {
    let folder = tempfile::tempdir().unwrap();
    let (file, wanted) = original(folder.path()).await;
    let end = Sides::plain(&file).await.end().await;
    // The boundary moves over one store from the first commit to the last, a segment for each step: then all of them are put together.
    let one = Copied::of(&file).await;
    let mut archived = 0;
    for keep in (0..end).rev() {
        let ran = one.archiver(keep).run(&|_| {}).await.unwrap();
        if ran.commits > 0 {
            archived += ran.commits;
            ensure_same(&answers(&one.tiered()).await, &wanted, &format!("the last {keep} are kept"));
        }
    }
    assert!(archived > 12, "{archived} commits were archived");
    let compacted = one.archiver(0).compact().await.unwrap();
    assert!(compacted.rewritten > 10 && compacted.made < compacted.rewritten, "{compacted:?}");
    ensure_same(&answers(&one.tiered()).await, &wanted, "small segments were put together");
    let verified = one.archiver(0).verify(&|_, _| {}).await.unwrap();
    assert_eq!((verified.damages, verified.commits), (vec![], archived));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_step_to_any_boundary_is_the_same_too() {
    let folder = tempfile::tempdir().unwrap();
    let (file, wanted) = original(folder.path()).await;
    let end = Sides::plain(&file).await.end().await;
    for keep in [0, 1, 2, 7, end / 2, end - 9, end - 1] {
        let copied = Copied::of(&file).await;
        copied.archiver(keep).run(&|_| {}).await.unwrap();
        ensure_same(&answers(&copied.tiered()).await, &wanted, &format!("all but the last {keep} at once"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_snapshots_have_folded_in_is_archived_by_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (file, wanted) = original(folder.path()).await;
    let copied = Copied::of(&file).await;
    let policy = Policy { below_snapshot: true, ..Policy::default() };
    let ran = copied.archiver(0).with_policy(policy).run(&|_| {}).await.unwrap();
    assert_eq!((ran.commits, ran.events), (2, 4));
    ensure_same(&answers(&copied.tiered()).await, &wanted, "below the snapshot");
    // Then everything: segments overlap.
    copied.archiver(0).run(&|_| {}).await.unwrap();
    ensure_same(&answers(&copied.tiered()).await, &wanted, "below the snapshot, then all");
    copied.archiver(0).compact().await.unwrap();
    ensure_same(&answers(&copied.tiered()).await, &wanted, "and compacted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_it_is_cut_off_a_repeat_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    let wanted = brief(&Sides::plain(&file).await).await;
    for late in [false, true] {
        let mut life = 0;
        loop {
            let copied = Copied::with(&file, |place| place.late = late).await;
            copied.archiver(9).run(&|_| {}).await.unwrap();
            copied.place.life.store(life, Ordering::Relaxed);
            let cut = copied.archiver(2).run(&|_| {}).await;
            let cut = match cut {
                Ok(_) => copied.archiver(2).compact().await.map(drop),
                Err(error) => Err(error),
            };
            copied.place.life.store(i64::MAX, Ordering::Relaxed);
            let what =
                format!("cut off after {life} requests, the next one {}", if late { "done" } else { "not done" });
            ensure_same(&brief(&copied.tiered()).await, &wanted, &what);
            copied.archiver(2).run(&|_| {}).await.unwrap();
            copied.archiver(2).compact().await.unwrap();
            ensure_same(&brief(&copied.tiered()).await, &wanted, &format!("{what}, and repeated"));
            let verified = copied.archiver(2).verify(&|_, _| {}).await.unwrap();
            assert_eq!(verified.damages, vec![], "{what}");
            if cut.is_ok() {
                break;
            }
            life += 1;
        }
        assert!(life > 8, "{life} places to be cut off");
    }
    for releases in 0..3 {
        let copied = Copied::of(&file).await;
        let admin = Arc::new(Killed { inner: copied.hot.admin.clone(), releases: AtomicI64::new(releases) });
        let killed = copied.archiver_with(admin, 2).run(&|_| {}).await;
        assert_eq!(killed.is_err(), releases == 0, "{killed:?}");
        ensure_same(&brief(&copied.tiered()).await, &wanted, "killed in a release");
        copied.archiver(2).run(&|_| {}).await.unwrap();
        ensure_same(&brief(&copied.tiered()).await, &wanted, "killed in a release, and repeated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_forgets_is_noticed_before_anything_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let (file, wanted) = original(folder.path()).await;
    let copied = Copied::with(&file, |place| place.lies = true).await;
    let error = copied.archiver(2).run(&|_| {}).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("segments/"), "{error}");
    ensure_same(&answers(&copied.tiered()).await, &wanted, "nothing was archived");
    ensure_same(&answers(&copied.hot).await[..10], &wanted[..10], "nothing was released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archivers_make_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    let (file, wanted) = original(folder.path()).await;
    let copied = Copied::of(&file).await;
    let (one, two, three) = (copied.archiver(3), copied.archiver(2), copied.archiver(0));
    let runs = futures::join!(one.run(&|_| {}), two.run(&|_| {}), three.compact());
    assert!(runs.0.is_ok() && runs.1.is_ok() && runs.2.is_ok(), "{runs:?}");
    ensure_same(&answers(&copied.tiered()).await, &wanted, "two at once");
    let kept = Sides::plain(&file).await;
    let all = answers(&kept).await;
    ensure_same(&all, &wanted, "the original");
    let stats = copied.archiver(0).stats().await.unwrap();
    let mut lines = 0;
    copied
        .archiver(0)
        .cat(|text| {
            lines += text.iter().filter(|byte| **byte == b'\n').count() as u64;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(lines, stats.events, "each event once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_truncated_or_deleted_is_gone_from_the_archive_too() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    let copied = Copied::of(&file).await;
    copied.archiver(0).run(&|_| {}).await.unwrap();
    let oracle = folder.path().join("oracle.db");
    std::fs::copy(&file, &oracle).unwrap();
    let (oracle, tiered) = (Sides::plain(&oracle).await, copied.tiered());
    // Another process, which has the catalog of before in its memory.
    let other = copied.tiered();
    answers(&other).await;
    for sides in [&oracle, &tiered] {
        sides.truncate("a-1", 600, 6).await;
        sides.delete("b-2", 601).await;
    }
    // Both clocks have told as many times, but for those of the oracle's filling.
    let timeless = |answers: Vec<(String, String)>| -> Vec<(String, String)> {
        let blank = |text: String| {
            let mut parts = text.split("Timestamp(");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
        };
        answers.into_iter().map(|(what, answer)| (what, blank(answer))).collect()
    };
    let wanted = timeless(answers(&oracle).await);
    ensure_same(&timeless(answers(&tiered).await), &wanted, "truncated and deleted");
    ensure_same(&timeless(answers(&other).await), &wanted, "truncated and deleted, by another process");
    let stats = copied.archiver(0).stats().await.unwrap();
    assert_eq!((stats.gone, stats.garbage), (0, 0), "nothing is left to be erased");
    let mut text = Vec::new();
    for entry in std::fs::read_dir(copied.folder.path().join("archive/segments")).unwrap() {
        text.extend(zstd::stream::decode_all(&std::fs::read(entry.unwrap().path()).unwrap()[..]).unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"stream\":\"b-1\"") && !text.contains("\"stream\":\"b-2\""), "{text}");
    assert_eq!(copied.archiver(0).verify(&|_, _| {}).await.unwrap().damages, vec![]);
}

async fn enter(admin: &Arc<dyn StoreAdmin>, state: StoreState) -> Epoch {
    let expected = admin.read_meta(deadline()).await.unwrap();
    let new = Meta { epoch: expected.epoch.next(), state, ..expected.clone() };
    let epoch = new.epoch;
    assert_eq!(admin.swap_meta(SwapMeta { expected, new, deadline: deadline() }).await.unwrap(), MetaSwapped::Done);
    epoch
}

/// As on the way back of a move: what the owner took away meanwhile comes as copies, and whoever copies is killed before the archive is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_copies_take_away_is_gone_from_the_archive_too() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    let untiered = Copied::of(&file).await;
    let owner = &untiered.hot;
    let before = Position(owner.end().await);
    owner.append("b-2", 600, 1, 1).await;
    owner.truncate("a-1", 601, 5).await;
    owner.delete("tenant/a-1", 602).await;
    owner.append("b-2", 603, 1, 1).await;
    let wanted = brief(owner).await;
    let request = ReadFeed {
        from: FeedStart::AfterPosition(before),
        filter: FeedFilter::none(),
        limit: 100,
        max_bytes: u64::MAX,
        deadline: deadline(),
    };
    let items: Vec<_> = owner.store.read_feed(request).await.unwrap().commits().cloned().map(Replica::Commit).collect();
    assert_eq!(items.len(), 4);
    for killed_at in [vec![], vec![1], vec![1, 2], vec![1, 2, 3]] {
        let copied = Copied::of(&file).await;
        copied.archiver(0).run(&|_| {}).await.unwrap();
        let tiered = copied.tiered();
        let epoch = enter(&tiered.admin, StoreState::Importing { from: None }).await;
        for (at, item) in items.iter().cloned().enumerate() {
            let admin = if killed_at.contains(&at) { &copied.hot.admin } else { &tiered.admin };
            let request = Replicate { epoch, origin: Origin::Restore, items: vec![item], deadline: deadline() };
            assert_eq!(admin.replicate(request).await.unwrap().written, 1);
        }
        enter(&tiered.admin, StoreState::Open).await;
        ensure_same(&brief(&tiered).await, &wanted, &format!("killed at {killed_at:?}"));
        // What stands in the archive only is not taken for a range without content.
        let epoch = enter(&tiered.admin, StoreState::Importing { from: None }).await;
        let items = vec![Replica::Removed { first: Position(1), last: before }];
        let request = Replicate { epoch, origin: Origin::Restore, items, deadline: deadline() };
        assert_eq!(tiered.admin.replicate(request).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_away_or_slow_touches_only_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    for silent in [false, true] {
        let copied = Copied::with(&file, |place| place.silent = silent).await;
        copied.archiver(8).run(&|_| {}).await.unwrap();
        copied.place.life.store(0, Ordering::Relaxed);
        let before = copied.place.requests.load(Ordering::Relaxed);
        let tiered = copied.tiered();
        tiered.append("a-1", 700, 1, 3).await;
        tiered.append("new-1", 701, 1, 3).await;
        let end = tiered.end().await;
        let last =
            tiered.store.read_stream(read("a-1", StreamStart::Last, Direction::Backward, 1, u64::MAX)).await.unwrap();
        assert_eq!((last.commits.len(), last.head.first_retained), (1, Revision(1)));
        for filter in
            [FeedFilter::none(), FeedFilter { categories: vec![Category::new("a").unwrap()], ..FeedFilter::none() }]
        {
            let from = FeedStart::AfterPosition(Position(end - 2));
            let request = ReadFeed { from, filter, limit: 10, max_bytes: u64::MAX, deadline: deadline() };
            assert!(tiered.store.read_feed(request).await.unwrap().end);
        }
        assert_eq!(copied.place.requests.load(Ordering::Relaxed), before, "no request to the archive");
        let soon = Deadline::within(Duration::from_millis(300));
        let cold = ReadStream { deadline: soon, ..read("a-1", StreamStart::First, Direction::Forward, 9, u64::MAX) };
        let error = tiered.store.read_stream(cold).await.unwrap_err();
        let wanted = if silent { ErrorKind::DeadlineExceeded } else { ErrorKind::Unavailable };
        assert_eq!(error.kind(), wanted, "{error}");
        assert!(error.context().iter().any(|(name, _)| *name == "object"), "{error}");
        let all = ReadFeed {
            from: FeedStart::First,
            filter: FeedFilter::none(),
            limit: 10,
            max_bytes: u64::MAX,
            deadline: Deadline::within(Duration::from_millis(300)),
        };
        assert_eq!(tiered.store.read_feed(all).await.unwrap_err().kind(), wanted);
        // An end that is reached from behind is no end: it says where to go on, and going on fails.
        let back = ReadStream {
            deadline: Deadline::within(Duration::from_millis(300)),
            ..read("a-1", StreamStart::Last, Direction::Backward, 100, u64::MAX)
        };
        assert_eq!(tiered.store.read_stream(back).await.unwrap_err().kind(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_damaged_object_is_named_and_never_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    let wanted = brief(&Sides::plain(&file).await).await;
    let copied = Copied::of(&file).await;
    for keep in [12, 2] {
        copied.archiver(keep).run(&|_| {}).await.unwrap();
    }
    let segments = copied.folder.path().join("archive/segments");
    let mut names: Vec<_> = std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let whole: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    for (name, bytes) in names.iter().zip(&whole) {
        for at in [None, Some(40), Some(bytes.len() / 3), Some(bytes.len() - 60)] {
            match at {
                None => std::fs::remove_file(name).unwrap(),
                Some(at) => {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 4;
                    std::fs::write(name, damaged).unwrap();
                }
            }
            let key = format!("segments/{}", name.file_name().unwrap().to_str().unwrap());
            let verified = copied.archiver(2).verify(&|_, _| {}).await.unwrap();
            assert_eq!(verified.damages.len(), 1, "{at:?}");
            assert_eq!(verified.damages[0].object, key, "{at:?}");
            let mut failed = 0;
            for (found, wanted) in brief(&copied.tiered()).await.into_iter().zip(&wanted) {
                if found == *wanted {
                    continue;
                }
                assert!(found.1.starts_with("Err(") && found.1.contains(&key), "{found:?}");
                failed += 1;
            }
            assert!(failed > 0, "{at:?} of {key}");
            std::fs::write(name, bytes).unwrap();
        }
    }
    ensure_same(&brief(&copied.tiered()).await, &wanted, "mended");
    std::fs::remove_dir_all(copied.folder.path().join("archive/catalog")).unwrap();
    let cold = read("a-1", StreamStart::First, Direction::Forward, 9, u64::MAX);
    let error = copied.tiered().store.read_stream(cold).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("catalog/"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_stream_takes_a_request_and_one_more_for_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("original.db");
    let sides = Sides::plain(&path).await;
    for id in 0..100 {
        sides.append("cold-1", id, 1, 100).await;
        sides.append("cold-2", 1_000 + id, 1, 100).await;
        sides.append(&format!("other-{id}"), 2_000 + id, 1, 100).await;
    }
    sides.store.close().await.unwrap();
    let mut copied = Copied::of(&path).await;
    copied.config.segment_bytes = 8 << 20;
    copied.archiver(0).run(&|_| {}).await.unwrap();
    let tiered = copied.tiered();
    let count = async |name: &str| {
        let before = copied.place.requests.load(Ordering::Relaxed);
        let page =
            tiered.store.read_stream(read(name, StreamStart::First, Direction::Forward, 100, u64::MAX)).await.unwrap();
        assert_eq!(page.events().count(), 100);
        copied.place.requests.load(Ordering::Relaxed) - before
    };
    // The catalog, the index, the frames.
    assert_eq!(count("cold-1").await, 3);
    assert!(count("cold-2").await <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_archive_and_a_store_that_lost_commits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = original(folder.path()).await;
    let copied = Copied::of(&file).await;
    let before = copied.folder.path().join("before.db");
    copied.archiver(4).run(&|_| {}).await.unwrap();
    copied.hot.store.close().await.unwrap();
    copied.hot.admin.close().await.unwrap();
    // A store of its own, which was never archived, and the archive of another.
    std::fs::copy(&file, &before).unwrap();
    let stranger = Sides::plain(&before).await;
    let archiver = Archiver::new(stranger.store.clone(), stranger.admin.clone(), copied.archive(), &copied.config);
    let archiver = archiver.with_policy(Policy { keep_last: Some(0), ..Policy::default() });
    assert_eq!(archiver.run(&|_| {}).await.unwrap_err().kind(), ErrorKind::Schema);
    // A store that was set back behind what is archived, with the note of later.
    let empty = Sides::plain(&copied.folder.path().join("empty.db")).await;
    empty.append("a-1", 1, 1, 1).await;
    let archive = copied.archive();
    let last = archive.last_catalog(deadline(), &mut Usage::default()).await.unwrap().unwrap();
    let noted = note::Note {
        archive: last.archive.clone(),
        catalog: last.number,
        through: last.through().0,
        released: last.number,
    };
    note::raise(&*empty.store, &noted, deadline()).await.unwrap();
    let archiver = Archiver::new(empty.store.clone(), empty.admin.clone(), archive, &copied.config);
    let archiver = archiver.with_policy(Policy { keep_last: Some(0), ..Policy::default() });
    assert_eq!(archiver.run(&|_| {}).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    assert_eq!(archiver.with_policy(Policy::default()).run(&|_| {}).await.unwrap_err().kind(), ErrorKind::Invalid);
}
