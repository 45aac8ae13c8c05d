//! The way through a queue, with `feed = "sqs-fifo"`: what a sequencer has read is sent to the queue, and logged in the order in which it
//! comes out. Nothing hangs on the queue: what was read is known here until it is logged, and a record of the log says that it was read
//! only then. So a message that comes twice is one of a commit that is logged; one that comes late or never is done without, after as long as a
//! dead process could have it; and one of something else is looked up before it is believed.

use crate::codec::Ref;
use crate::queue::{self, BATCH_MAX, Letter, Queue, Received, read_body};
use crate::sequencer::{Patience, Told};
use crate::source::Progress;
use evstore_api::{CommitNumber, Deadline, Error, Result, StreamId};
use futures::future::join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commits that were sent and did not come out yet, beyond which no more are read.
const WAITING_MAX: usize = 10_000;
/// Messages that are dealt with in one step: about as many as one record of the log has commits.
const HELD_MAX: usize = 400;
/// Requests of one kind at a time.
const AT_ONCE: usize = 8;
/// How much longer than one who received a message has it is waited for it.
const PATIENCE_MORE: Duration = Duration::from_secs(2);
/// How often the queue is looked into where nothing is waited for: what was doubled lies there.
const STRAYS_EVERY: Duration = Duration::from_secs(60);

/// What one handle has sent to its queue, and what it has out of it.
#[derive(Debug)]
pub struct Courier {
    queue: Arc<dyn Queue>,
    /// How long a message is waited for, once the queue was asked.
    patience: Option<Duration>,
    /// What was read of the change stream, oldest first, whose commits are not all logged.
    sent: VecDeque<Sent>,
    /// What came and was not deleted. It is kept when everything else is forgotten: nobody else sees these messages meanwhile.
    held: Vec<Received>,
    looked: Instant,
}

/// A part of the change stream whose commits were sent.
#[derive(Debug)]
struct Sent {
    /// How far was read with it.
    progress: Progress,
    /// The commits that are not logged, and how many positions each takes.
    waiting: HashMap<(StreamId, CommitNumber), u64>,
    since: Instant,
}

impl Courier {
    /// Nothing is sent yet.
    pub fn new(queue: Arc<dyn Queue>) -> Self {
        Self { queue, patience: None, sent: VecDeque::new(), held: Vec::new(), looked: Instant::now() }
    }

    /// How many requests were sent to the queue.
    pub fn requests(&self) -> u64 {
        self.queue.requests()
    }

    /// How far the change stream was read, where that is further than all is logged.
    pub fn read_to(&self) -> Option<&Progress> {
        self.sent.back().map(|last| &last.progress)
    }

    /// Whether something that was sent is not logged.
    pub fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// Whether so much is not logged that no more is to be read.
    pub fn is_full(&self) -> bool {
        self.waiting() >= WAITING_MAX
    }

    fn waiting(&self) -> usize {
        self.sent.iter().map(|one| one.waiting.len()).sum()
    }

    /// What was sent is read and sent again, which the service recognises within five minutes; later it comes twice.
    pub fn forget(&mut self) {
        self.sent.clear();
    }

    /// Sends commits that were read, each stream's in their order, and notes how far was read with them.
    ///
    /// # Errors
    /// As reads have them; nothing is noted then. `Schema` where there is no such queue.
    pub async fn send(&mut self, letters: &[Letter], progress: Progress, deadline: Deadline) -> Result<()> {
        if self.patience.is_none() {
            let found = self.queue.state(deadline).await?.ok_or_else(|| queue::missing(self.queue.name()))?;
            self.patience = Some(found.visibility + PATIENCE_MORE);
        }
        // The groups of a lane are sent one behind the other, so that none overtakes itself.
        let mut lanes: Vec<Vec<Letter>> = vec![Vec::new(); AT_ONCE];
        for letter in letters {
            // Few are fewer requests in one.
            let lane = match letters.len() <= BATCH_MAX {
                true => 0,
                false => crc32fast::hash(letter.group().as_bytes()) as usize % AT_ONCE,
            };
            lanes[lane].push(letter.clone());
        }
        let queue = &self.queue;
        let sends = lanes.into_iter().map(|lane| async move {
            for batch in lane.chunks(BATCH_MAX) {
                patiently(deadline, || queue.send(batch, deadline)).await?;
            }
            Ok::<_, Error>(())
        });
        join_all(sends).await.into_iter().collect::<Result<()>>()?;
        self.note(letters, progress, Instant::now());
        Ok(())
    }

    fn note(&mut self, letters: &[Letter], progress: Progress, now: Instant) {
        let waiting: HashMap<_, _> =
            letters.iter().map(|letter| ((letter.stream.clone(), letter.number), letter.positions)).collect();
        match self.sent.back_mut() {
            // Behind the last there was nothing more.
            Some(last) if waiting.is_empty() => last.progress = progress,
            Some(_) | None => self.sent.push_back(Sent { progress, waiting, since: now }),
        }
    }

    /// Receives what the queue has, as long as something is waited for, and else now and then.
    ///
    /// # Errors
    /// As reads have them; what came is kept.
    pub async fn receive(&mut self, deadline: Deadline) -> Result<()> {
        let waiting = self.waiting();
        if waiting == 0 && self.looked.elapsed() < STRAYS_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        while self.held.len() < HELD_MAX && (waiting == 0 || self.held.len() < waiting) {
            let missing = waiting.saturating_sub(self.held.len()).div_ceil(BATCH_MAX);
            let queue = &self.queue;
            let asked = (0..missing.clamp(1, AT_ONCE)).map(|_| patiently(deadline, || queue.receive(deadline)));
            let (before, mut failed) = (self.held.len(), None);
            for answer in join_all(asked).await {
                match answer {
                    Ok(messages) => self.held.extend(messages),
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                Some(error) => return Err(error),
                None if self.held.len() == before => break,
                None => {}
            }
        }
        Ok(())
    }

    /// The commits that messages tell of, in their order, and behind them those whose messages were waited for long enough.
    pub fn told(&self) -> Vec<Told> {
        self.told_at(Instant::now())
    }

    fn told_at(&self, now: Instant) -> Vec<Told> {
        let known =
            |commit: &(StreamId, CommitNumber)| self.sent.iter().find_map(|one| one.waiting.get(commit).copied());
        let come = self.held.iter().filter_map(|message| read_body(&message.body)).map(|commit| Told {
            positions: known(&commit),
            stream: commit.0,
            number: commit.1,
        });
        let mut told: Vec<Told> = come.collect();
        let patience = self.patience.unwrap_or(Duration::MAX);
        let late = self.sent.iter().filter(|one| now.saturating_duration_since(one.since) >= patience);
        let mut overdue: Vec<Told> = late
            .flat_map(|one| &one.waiting)
            .map(|((stream, number), positions)| Told {
                stream: stream.clone(),
                number: *number,
                positions: Some(*positions),
            })
            .collect();
        if !overdue.is_empty() {
            tracing::warn!(
                queue = self.queue.name(),
                commits = overdue.len(),
                "the queue did not bring what it was sent"
            );
            overdue.sort_by_key(|one| one.number);
            told.extend(overdue);
        }
        told
    }

    /// Notes that what was told is logged, now or before, and these commits are. Gives how far the change stream was read of which all is
    /// logged, where that is further now.
    pub fn logged(&mut self, told: &[Told], commits: &[Ref]) -> Option<Progress> {
        let told = told.iter().map(|one| (one.stream.clone(), one.number));
        let logged = commits.iter().map(|one| (one.stream.clone(), one.number));
        for commit in told.chain(logged) {
            for one in &mut self.sent {
                one.waiting.remove(&commit);
            }
        }
        let mut progress = None;
        while self.sent.front().is_some_and(|first| first.waiting.is_empty()) {
            progress = self.sent.pop_front().map(|first| first.progress);
        }
        progress
    }

    /// Deletes what came.
    ///
    /// # Errors
    /// As reads have them; a repeat goes on.
    pub async fn delete(&mut self, deadline: Deadline) -> Result<()> {
        let queue = &self.queue;
        let delete =
            |handles: Vec<String>| async move { patiently(deadline, || queue.delete(&handles, deadline)).await };
        self.each_batch(delete).await?;
        self.held.clear();
        Ok(())
    }

    /// Lets others have what came.
    ///
    /// # Errors
    /// As reads have them: others have it once the queue takes this one for dead.
    pub async fn give_back(&mut self, deadline: Deadline) -> Result<()> {
        let queue = &self.queue;
        self.each_batch(|handles| async move { queue.give_back(&handles, deadline).await }).await?;
        self.held.clear();
        Ok(())
    }

    async fn each_batch<F: Future<Output = Result<()>>>(&self, ask: impl Fn(Vec<String>) -> F) -> Result<()> {
        let batches = self.held.chunks(BATCH_MAX);
        let handles = batches.map(|batch| batch.iter().map(|message| message.handle.clone()).collect::<Vec<_>>());
        let handles: Vec<_> = handles.collect();
        stream::iter(handles).map(ask).buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// Asks the queue for something, again where it fails in a way that passes: none of it does harm when it is done twice.
async fn patiently<T, F: Future<Output = Result<T>>>(deadline: Deadline, ask: impl Fn() -> F) -> Result<T> {
    let mut patience = Patience::until(deadline);
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.after(error).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueState;
    use async_trait::async_trait;
    use evstore_api::{CommitId, Position, Timestamp};
    use std::sync::Mutex;

    /// A queue that keeps what it was sent, in batches, and gives out what a test puts there.
    #[derive(Debug, Default)]
    struct Scripted {
        sent: Mutex<Vec<Vec<Letter>>>,
        to_come: Mutex<Vec<Received>>,
        given_back: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Queue for Scripted {
        fn name(&self) -> &str {
            "a.fifo"
        }

        fn requests(&self) -> u64 {
            0
        }

        async fn state(&self, _: Deadline) -> Result<Option<QueueState>> {
            Ok(Some(QueueState {
                is_fifo: true,
                is_by_content: false,
                visibility: Duration::from_secs(10),
                delay: Duration::ZERO,
                waiting: 0,
                in_flight: 0,
            }))
        }

        async fn make(&self, _: Deadline) -> Result<()> {
            Ok(())
        }

        async fn remove(&self, _: Deadline) -> Result<()> {
            Ok(())
        }

        async fn send(&self, letters: &[Letter], _: Deadline) -> Result<()> {
            self.sent.lock().unwrap().push(letters.to_vec());
            Ok(())
        }

        async fn receive(&self, _: Deadline) -> Result<Vec<Received>> {
            let mut to_come = self.to_come.lock().unwrap();
            let count = to_come.len().min(BATCH_MAX);
            Ok(to_come.drain(..count).collect())
        }

        async fn delete(&self, _: &[String], _: Deadline) -> Result<()> {
            Ok(())
        }

        async fn give_back(&self, handles: &[String], _: Deadline) -> Result<()> {
            self.given_back.lock().unwrap().extend_from_slice(handles);
            Ok(())
        }
    }

    fn stream(name: &str) -> StreamId {
        StreamId::new(name).unwrap()
    }

    fn letter(name: &str, number: u64) -> Letter {
        let id = CommitId([number as u8; 16]);
        Letter { stream: stream(name), number: CommitNumber(number), id, positions: 1 }
    }

    fn one(name: &str, number: u64) -> Ref {
        Ref { stream: stream(name), number: CommitNumber(number), positions: 1 }
    }

    fn progress(at: i64) -> Progress {
        Progress { read_at: Timestamp(at), ..Progress::none(Position(0)) }
    }

    fn message(name: &str, number: u64) -> Received {
        Received { handle: format!("{name} {number}"), body: letter(name, number).body() }
    }

    fn told(name: &str, number: u64, positions: Option<u64>) -> Told {
        Told { stream: stream(name), number: CommitNumber(number), positions }
    }

    fn deadline() -> Deadline {
        Deadline::within(Duration::from_secs(5))
    }

    #[tokio::test]
    async fn the_change_stream_was_read_as_far_as_all_before_is_logged() {
        let mut courier = Courier::new(Arc::<Scripted>::default());
        courier.send(&[letter("a", 1), letter("b", 1)], progress(1), deadline()).await.unwrap();
        courier.send(&[letter("a", 2)], progress(2), deadline()).await.unwrap();
        // A read without commits goes with the one before it.
        courier.send(&[], progress(3), deadline()).await.unwrap();
        assert_eq!((courier.read_to(), courier.waiting()), (Some(&progress(3)), 3));
        // The second part is logged, and nothing of it is said until the first is.
        assert_eq!(courier.logged(&[], &[one("a", 1), one("a", 2)]), None);
        assert_eq!(courier.logged(&[told("b", 1, None)], &[]), Some(progress(3)));
        assert_eq!((courier.read_to(), courier.is_waiting()), (None, false));
        courier.send(&[], progress(4), deadline()).await.unwrap();
        assert_eq!(courier.logged(&[], &[]), Some(progress(4)));
    }

    #[tokio::test]
    async fn what_was_sent_is_believed_and_everything_else_is_looked_up() {
        let queue = Arc::<Scripted>::default();
        let mut courier = Courier::new(queue.clone());
        courier.send(&[letter("a", 7)], progress(1), deadline()).await.unwrap();
        let strange = Received { handle: "strange".to_owned(), body: "{}".to_owned() };
        *queue.to_come.lock().unwrap() = vec![message("b", 3), strange, message("a", 7)];
        courier.receive(deadline()).await.unwrap();
        assert_eq!(courier.told(), [told("b", 3, None), told("a", 7, Some(1))]);
        // Whatever becomes of a step, nobody else sees them meanwhile.
        courier.forget();
        assert_eq!(courier.told(), [told("b", 3, None), told("a", 7, None)]);
        courier.give_back(deadline()).await.unwrap();
        assert_eq!(*queue.given_back.lock().unwrap(), ["b 3", "strange", "a 7"]);
        assert!(courier.told().is_empty());
    }

    #[tokio::test]
    async fn what_does_not_come_is_told_after_its_time_in_the_order_of_its_stream() {
        let mut courier = Courier::new(Arc::<Scripted>::default());
        let all: Vec<Letter> = (1..=30).map(|number| letter("a", number)).collect();
        courier.send(&all, progress(1), deadline()).await.unwrap();
        let sent = courier.sent[0].since;
        let patience = Duration::from_secs(10) + PATIENCE_MORE;
        assert!(courier.told_at(sent + patience - Duration::from_millis(1)).is_empty());
        let told: Vec<u64> = courier.told_at(sent + patience).iter().map(|one| one.number.0).collect();
        assert_eq!(told, (1..=30).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_stream_is_sent_in_its_order_and_no_more_is_read_than_can_be_kept() {
        let queue = Arc::<Scripted>::default();
        let mut courier = Courier::new(queue.clone());
        let all: Vec<Letter> = (1..=25).flat_map(|number| ["a", "b", "c"].map(|name| letter(name, number))).collect();
        courier.send(&all, progress(1), deadline()).await.unwrap();
        let sent = queue.sent.lock().unwrap().concat();
        assert!(queue.sent.lock().unwrap().iter().all(|batch| batch.len() <= BATCH_MAX));
        for name in ["a", "b", "c"] {
            let of_stream = sent.iter().filter(|letter| letter.stream == stream(name));
            assert_eq!(of_stream.map(|letter| letter.number.0).collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());
        }
        assert!(!courier.is_full());
        let many: Vec<Letter> = (0..WAITING_MAX as u64).map(|number| letter("many", number + 1)).collect();
        courier.note(&many, progress(2), Instant::now());
        assert!(courier.is_full());
    }
}
