//! Waiting for the feed to grow. Our own writer calls; what other processes append is noticed by looking, and of all that wait
//! on a store one looks.

use crate::error::Result as Worked;
use crate::read;
use crate::reader::{Reader, Readers};
use evstore_api::{Cursor, Deadline, ErrorKind, Incarnation, Position, Result, WaitFeed, Waited};
use evstore_kit::refusal;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, sleep_until};

/// How often somebody looks whether another process has appended.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Where a feed ended at some moment.
pub type End = (Incarnation, Position);

/// Those who wait on one open store.
#[derive(Debug)]
pub struct Waiters {
    /// Held by the one who looks, and what was seen last. Whoever stops waiting lets go of it, and the next one takes over.
    look: Mutex<Option<End>>,
    /// Called when somebody has seen what our own writer did not write.
    seen: watch::Sender<()>,
}

/// What waiting has to know of a feed.
trait Feed: Sync {
    /// Whether it has something after the place that is waited at.
    fn has_more(&self, deadline: Deadline) -> impl Future<Output = Result<bool>> + Send;

    /// Where it ends.
    fn end(&self, deadline: Deadline) -> impl Future<Output = Result<End>> + Send;
}

/// The feed in the file.
struct Stored<'a> {
    readers: &'a Readers,
    after: Cursor,
}

impl Feed for Stored<'_> {
    async fn has_more(&self, deadline: Deadline) -> Result<bool> {
        let after = self.after.clone();
        self.readers.run(deadline, move |reader: &mut Reader| read::has_more(&reader.connection, &after)).await
    }

    async fn end(&self, deadline: Deadline) -> Result<End> {
        let end = |reader: &mut Reader| -> Worked<End> {
            read::store(&reader.connection).map(|(meta, end)| (meta.incarnation(), end))
        };
        self.readers.run(deadline, end).await
    }
}

impl Waiters {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self { look: Mutex::new(None), seen: watch::Sender::new(()) }
    }

    /// Waits until the feed has more or the deadline passes. `own` has the last position that our own writer committed.
    ///
    /// # Errors
    /// What reading says; `Closed`.
    ///
    /// # Cancel safety
    /// Dropped, it leaves looking to another one.
    pub async fn wait(&self, readers: &Readers, own: watch::Receiver<u64>, request: WaitFeed) -> Result<Waited> {
        self.wait_on(&Stored { readers, after: request.after }, own, request.deadline).await
    }

    async fn wait_on(&self, feed: &impl Feed, mut own: watch::Receiver<u64>, deadline: Deadline) -> Result<Waited> {
        let mut seen = self.seen.subscribe();
        loop {
            own.mark_unchanged();
            seen.mark_unchanged();
            match feed.has_more(patience(deadline)).await {
                Ok(true) => return Ok(Waited::More),
                Ok(false) if deadline.has_passed() => return Ok(Waited::DeadlinePassed),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Ok(Waited::DeadlinePassed),
                Err(error) => return Err(error),
            }
            let written = own.clone();
            tokio::select! {
                // The writer's thread has ended: the store is closed.
                called = own.changed() => called.map_err(|_| refusal::closed())?,
                // Its other end is ours.
                _ = seen.changed() => {}
                looked = self.look(feed, &written, deadline) => looked?,
                () = sleep_until(deadline.0.into()) => {}
            }
        }
    }

    /// Looks, as the only one, until there is something that our own writer did not write; then calls everybody.
    async fn look(&self, feed: &impl Feed, own: &watch::Receiver<u64>, deadline: Deadline) -> Result<()> {
        let mut last = self.look.lock().await;
        loop {
            sleep(LOOK_EVERY).await;
            let end = match feed.end(patience(deadline)).await {
                Ok(end) => end,
                // This one's time is over; it finds out itself.
                Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Ok(()),
                Err(error) => return Err(error),
            };
            let (before, (incarnation, position)) = (last.replace(end), end);
            let is_own = position.0 == *own.borrow() && before.is_some_and(|(known, _)| known == incarnation);
            if before != Some(end) && !is_own {
                self.seen.send_replace(());
                return Ok(());
            }
        }
    }
}

/// Reading takes its own time even when the caller's is over: the answer is then that it is.
fn patience(deadline: Deadline) -> Deadline {
    Deadline::within(deadline.remaining() + LOOK_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A feed that counts how often it is looked at.
    #[derive(Debug, Default)]
    struct Counted {
        after: AtomicU64,
        end: AtomicU64,
        looks: AtomicU64,
        reads: AtomicU64,
    }

    impl Feed for Counted {
        async fn has_more(&self, _: Deadline) -> Result<bool> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            Ok(self.end.load(Ordering::Relaxed) > self.after.load(Ordering::Relaxed))
        }

        async fn end(&self, _: Deadline) -> Result<End> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Ok((Incarnation([7; 16]), Position(self.end.load(Ordering::Relaxed))))
        }
    }

    const WAITERS: u64 = 300;

    fn wait(
        waiters: &Arc<Waiters>,
        feed: &Arc<Counted>,
        own: &watch::Sender<u64>,
        within: Duration,
    ) -> tokio::task::JoinHandle<Result<Waited>> {
        let (waiters, feed, own) = (waiters.clone(), feed.clone(), own.subscribe());
        let deadline = Deadline(tokio::time::Instant::now().into_std() + within);
        tokio::spawn(async move { waiters.wait_on(&*feed, own, deadline).await })
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_wait_one_looks() {
        let (waiters, feed, own) = (Arc::new(Waiters::new()), Arc::new(Counted::default()), watch::Sender::new(0));
        let waiting: Vec<_> = (0..WAITERS).map(|_| wait(&waiters, &feed, &own, Duration::from_secs(3600))).collect();
        sleep(LOOK_EVERY * 100).await;
        let looks = feed.looks.load(Ordering::Relaxed);
        assert!((90..=101).contains(&looks), "{looks} looks in the time of 100");
        // One read when each began, and one when the first look told all of them that there was something to see.
        assert_eq!(feed.reads.load(Ordering::Relaxed), 2 * WAITERS);
        feed.end.store(1, Ordering::Relaxed);
        for waited in waiting {
            assert_eq!(waited.await.unwrap().unwrap(), Waited::More);
        }
        assert!(feed.looks.load(Ordering::Relaxed) <= looks + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_and_goes_leaves_it_to_the_next() {
        let (waiters, feed, own) = (Arc::new(Waiters::new()), Arc::new(Counted::default()), watch::Sender::new(0));
        let first = wait(&waiters, &feed, &own, Duration::from_secs(3600));
        sleep(LOOK_EVERY * 2).await;
        let second = wait(&waiters, &feed, &own, Duration::from_secs(3600));
        sleep(LOOK_EVERY * 2).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        feed.end.store(1, Ordering::Relaxed);
        let begun = tokio::time::Instant::now();
        assert_eq!(second.await.unwrap().unwrap(), Waited::More);
        assert!(begun.elapsed() <= LOOK_EVERY * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_our_own_writer_wrote_calls_nobody_twice() {
        let (waiters, feed, own) = (Arc::new(Waiters::new()), Arc::new(Counted::default()), watch::Sender::new(0));
        feed.after.store(10, Ordering::Relaxed);
        let waiting = wait(&waiters, &feed, &own, Duration::from_secs(3600));
        sleep(LOOK_EVERY * 10).await;
        let before = feed.reads.load(Ordering::Relaxed);
        feed.end.store(5, Ordering::Relaxed);
        own.send_replace(5);
        sleep(LOOK_EVERY * 10).await;
        assert_eq!(feed.reads.load(Ordering::Relaxed), before + 1);
        // Another process goes on from there.
        feed.end.store(6, Ordering::Relaxed);
        sleep(LOOK_EVERY * 10).await;
        assert_eq!(feed.reads.load(Ordering::Relaxed), before + 2);
        drop(own);
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
}
