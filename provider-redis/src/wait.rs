//! Appends that replicas confirm: what waits is sent as one batch over one connection, with one `WAIT` behind it, and answered
//! once enough replicas have it. Then the safe position is raised, so that the feed shows nothing that a failover may take.

use crate::error::{self, Detour, Purpose};
use crate::link::{Link, Live, Step};
use crate::script::{self, Call, Scripts};
use crate::server::text;
use evstore_api::{Deadline, Error, ErrorKind, Result};
use evstore_kit::refusal;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Calls of one batch at most.
const BATCH_CALLS_MAX: usize = 512;
/// Calls that wait at most; others wait outside, in order.
const QUEUE_CALLS_MAX: usize = 4096;
/// What a batch may take beside the time that its replicas have.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way in.
#[derive(Clone, Debug)]
pub struct Confirmed(mpsc::Sender<Job>);

struct Job {
    /// By hash, and whole; none where only the safe position is to be raised.
    commands: Option<(Cmd, Cmd)>,
    deadline: Deadline,
    answer: oneshot::Sender<Result<Value>>,
}

/// What a batch needs.
struct Writer {
    link: Arc<Link>,
    meta: String,
    scripts: Scripts,
    replicas: u32,
    timeout: Duration,
}

impl Confirmed {
    /// Starts the writer of one partition. It ends when the last handle is dropped.
    pub fn start(link: Arc<Link>, meta: String, scripts: Scripts, replicas: u32, timeout: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_CALLS_MAX);
        tokio::spawn(Writer { link, meta, scripts, replicas, timeout }.work(receiver));
        Self(sender)
    }

    /// Runs a script that writes, and waits until enough replicas have what it wrote.
    ///
    /// # Errors
    /// `Indeterminate` where too few had it in time; else as the script is answered.
    pub async fn run(&self, by_hash: Cmd, whole: Cmd, deadline: Deadline) -> Result<Value> {
        self.submit(Some((by_hash, whole)), deadline).await
    }

    /// Raises the safe position to the end, once enough replicas have all of it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn touch(&self, deadline: Deadline) -> Result<()> {
        self.submit(None, deadline).await.map(drop)
    }

    async fn submit(&self, commands: Option<(Cmd, Cmd)>, deadline: Deadline) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let job = Job { commands, deadline, answer };
        let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the call was queued");
        tokio::time::timeout_at(deadline.0.into(), self.0.send(job))
            .await
            .map_err(late)?
            .map_err(|_| refusal::closed())?;
        match tokio::time::timeout_at(deadline.0.into(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(error::unanswered()),
        }
    }
}

impl Writer {
    async fn work(self, mut waiting: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, BATCH_CALLS_MAX).await > 0 {
            let mut begun = Vec::with_capacity(batch.len());
            for job in batch.drain(..) {
                match refusal::check_deadline(job.deadline) {
                    Ok(()) if job.answer.is_closed() => {}
                    Ok(()) => begun.push(job),
                    Err(late) => drop(job.answer.send(Err(late))),
                }
            }
            self.write(begun).await;
        }
    }

    async fn write(&self, batch: Vec<Job>) {
        let Some(latest) = batch.iter().map(|job| job.deadline).max() else { return };
        let live = match self.link.live(latest).await {
            Ok(live) => live,
            Err(error) => {
                let (kind, message) = (error.kind(), error.message());
                let copied = |_: &Job| Error::new(kind, message).caused_by(error.to_string());
                return answer(batch, |job, _| Err(copied(job)));
            }
        };
        match tokio::time::timeout(self.timeout + PATIENCE, self.send(&live, &batch)).await {
            Ok(Ok(answers)) => {
                let mut answers = answers.into_iter();
                answer(batch, |_, _| answers.next().unwrap_or_else(|| Err(error::unanswered())));
            }
            Ok(Err(failed)) => {
                self.link.discard(&live);
                answer(batch, |_, _| Err(error::unanswered().caused_by(failed.to_string())));
            }
            Err(_) => {
                self.link.discard(&live);
                answer(batch, |_, _| Err(error::unanswered()));
            }
        }
    }

    /// Sends a batch, and says what became of each of its calls.
    async fn send(&self, live: &Live, batch: &[Job]) -> Result<Vec<Result<Value>>, redis::RedisError> {
        let mut answers =
            self.run(live, batch.iter().map(|job| job.commands.as_ref().map(|(by_hash, _)| by_hash))).await?;
        let forgotten = |answer: &Answer| matches!(answer, Answer::Refused(Detour::NoScript, _));
        if answers.calls.iter().any(forgotten) {
            let whole = |(job, answer): (&Job, &Answer)| {
                job.commands.clone().filter(|_| forgotten(answer)).map(|(_, whole)| whole)
            };
            let again: Vec<Option<Cmd>> = batch.iter().zip(&answers.calls).map(whole).collect();
            let second = self.run(live, again.iter().map(Option::as_ref)).await?;
            answers.confirmed &= second.confirmed;
            answers.safe = second.safe;
            for (answer, second) in answers.calls.iter_mut().zip(second.calls) {
                if forgotten(answer) {
                    *answer = second;
                }
            }
        }
        if answers.calls.iter().any(|answer| matches!(answer, Answer::Refused(Detour::Moved(_), _) | Answer::Spent(_)))
        {
            self.link.discard(live);
        }
        let settled = answers.confirmed && self.settle(live, answers.safe).await;
        Ok(answers.calls.into_iter().map(|answer| answer.verdict(settled)).collect())
    }

    /// One pipeline: the calls, a write that the `WAIT` then covers whatever the calls did, the `WAIT`.
    async fn run<'a>(
        &self,
        live: &Live,
        commands: impl Iterator<Item = Option<&'a Cmd>>,
    ) -> Result<Answers, redis::RedisError> {
        let mut pipeline = Pipeline::new();
        let mut sent = Vec::new();
        for command in commands {
            sent.push(command.is_some());
            if let Some(command) = command {
                pipeline.add_command(command.clone());
            }
        }
        pipeline.add_command(Call::new(self.scripts.of(script::TOUCH)).key(self.meta.clone()).whole());
        pipeline.cmd("WAIT").arg(self.replicas).arg(self.timeout.as_millis() as u64);
        let calls = sent.iter().filter(|sent| **sent).count();
        let mut replies = live.connection.clone().send_packed_commands(&pipeline, 0, calls + 2).await?.into_iter();
        let calls = sent
            .into_iter()
            .map(|sent| if sent { Answer::of(replies.next().unwrap_or_default()) } else { Answer::Value(Value::Nil) })
            .collect();
        let safe = replies.next().unwrap_or_default().extract_error().ok();
        let confirmed = matches!(replies.next(), Some(Value::Int(count)) if count >= i64::from(self.replicas));
        Ok(Answers { calls, confirmed: confirmed && safe.is_some(), safe: safe.as_ref().and_then(text) })
    }

    async fn settle(&self, live: &Live, safe: Option<String>) -> bool {
        let Some(safe) = safe else { return false };
        let call = Call::new(self.scripts.of(script::SETTLE)).key(self.meta.clone()).arg(safe);
        let step = Step::Script(call);
        let Step::Script(call) = &step else { return false };
        let sent = live.connection.clone().send_packed_command(&call.whole()).await;
        matches!(sent.and_then(Value::extract_error), Ok(Value::Int(1)))
    }
}

struct Answers {
    calls: Vec<Answer>,
    confirmed: bool,
    safe: Option<String>,
}

/// What became of one call.
enum Answer {
    Value(Value),
    Refused(Detour, redis::RedisError),
    Spent(redis::RedisError),
}

impl Answer {
    fn of(value: Value) -> Self {
        match value.extract_error() {
            Ok(value) => Self::Value(value),
            Err(error) if error::is_spent(&error) => Self::Spent(error),
            Err(error) => Self::Refused(error::detour(&error), error),
        }
    }

    /// A refusal stands by itself. What was written, or found written, counts only where replicas have it.
    fn verdict(self, settled: bool) -> Result<Value> {
        match self {
            Self::Value(value) if settled => Ok(value),
            Self::Value(_) => Err(Error::new(ErrorKind::Indeterminate, "too few replicas confirmed the write in time")),
            Self::Refused(_, error) | Self::Spent(error) => Err(error::failed(&error, Purpose::Write)),
        }
    }
}

fn answer(batch: Vec<Job>, mut verdict: impl FnMut(&Job, usize) -> Result<Value>) {
    for (at, job) in batch.into_iter().enumerate() {
        let verdict = verdict(&job, at);
        // Whoever asked may have gone: nobody is left to tell.
        drop(job.answer.send(verdict));
    }
}
