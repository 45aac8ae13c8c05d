//! A batch of appends: one call of the server's function, and what its answer means for each of them.

use crate::codec::{self, Id, ONE_REQUEST, integer};
use crate::error::{self, Fate, Result as Worked};
use crate::lanes::{Job, Line};
use crate::store::Client;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Appended, CommitNumber, Deadline, Error, ErrorKind, Expected, FindCommit, Result, Revision, Timestamp,
};
use evstore_kit::decide::{self, Decision, Situation, Wanted};
use evstore_kit::group_commit::{self, Job as _, keep_begun};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use std::collections::HashMap;
use std::time::Duration;

/// Pause before a batch is sent again that another transaction undid.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Appends that share a transaction.
#[derive(Debug)]
pub struct Batch {
    jobs: Vec<Job>,
    now: Timestamp,
    /// Whether the server is to say what it found of what it does not write.
    asks_why: bool,
}

impl Batch {
    /// A batch of at least one.
    pub fn new(jobs: Vec<Job>) -> Self {
        Self { jobs, now: Timestamp(0), asks_why: false }
    }

    /// What stands for its streams among advisory locks, each once, in the order in which every batch takes them.
    pub fn locks(&self) -> Vec<i64> {
        let mut locks: Vec<i64> = self.jobs.iter().map(|job| job.lock).collect();
        locks.sort_unstable();
        locks.dedup();
        locks
    }

    /// When the last of its callers stops waiting.
    fn deadline(&self) -> Option<Deadline> {
        self.jobs.iter().map(|job| job.deadline).max()
    }

    /// Sends it, and answers every caller.
    pub async fn send(mut self, client: &Client) {
        loop {
            self.jobs = keep_begun(self.jobs);
            let Some(deadline) = self.deadline() else { return };
            self.now = client.now();
            let mut line = match Line::open(client, deadline).await {
                Ok(line) => line,
                Err(error) => return self.refuse_all(|| copy(&error)),
            };
            let call = client.whole(line.connection(), async |connection| self.call(client, connection).await);
            let answer = tokio::time::timeout_at(deadline.0.into(), call).await;
            let failed = match answer {
                Ok(Ok(Answer::Found(rows))) => {
                    line.give_back();
                    return self.answer(client, &rows);
                }
                Ok(Ok(Answer::Written(written))) => {
                    line.give_back();
                    self.answer_written(&written);
                    if self.jobs.is_empty() {
                        return;
                    }
                    // Against those that are left something can be said.
                    self.asks_why = true;
                    continue;
                }
                Ok(Err(failed)) => failed,
                // Dropped, the line is closed.
                Err(_) => return self.refuse_all(error::late),
            };
            match error::fate(&failed) {
                Fate::Unknown => return self.refuse_all(|| error::indeterminate(&failed)),
                Fate::UndoneByOthers => {
                    line.give_back();
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Fate::Refused if self.jobs.len() > 1 => {
                    line.give_back();
                    return self.send_each_alone(client).await;
                }
                Fate::Refused => {
                    line.give_back();
                    let error = error::not_written(failed);
                    return self.refuse_all(|| copy(&error));
                }
            }
        }
    }

    /// So that one append cannot take its neighbours with it.
    async fn send_each_alone(self, client: &Client) {
        for job in self.jobs {
            Box::pin(Self::new(vec![job]).send(client)).await;
        }
    }

    fn refuse_all(self, error: impl Fn() -> Error) {
        for job in self.jobs {
            job.refuse(error());
        }
    }

    /// One round trip. What most appends need is tried first; what those functions do not write is asked about.
    async fn call(&self, client: &Client, connection: &mut PgConnection) -> Result<Answer, sqlx::Error> {
        let (rounds, sizes) = self.rounds();
        match &self.jobs[..] {
            [job] if !self.asks_why => {
                let row = self.query_one(client, job).fetch_one(connection).await?;
                let written = match row.try_get_unchecked::<Option<Vec<i64>>, _>(0)?.as_deref() {
                    Some([number, revision, at]) => vec![(job.wanted.digest.0, [*number, *revision, *at])],
                    _ => Vec::new(),
                };
                Ok(Answer::Written(written))
            }
            _ if !self.asks_why && sizes.len() == 1 => {
                let rows = self.query_many(client).fetch_all(connection).await?;
                let written = rows.iter().map(|row| {
                    let number = |column| row.try_get_unchecked(column);
                    Ok((row.try_get_unchecked::<Id, _>(0)?.0, [number(1)?, number(2)?, number(3)?]))
                });
                written.collect::<Result<_, sqlx::Error>>().map(Answer::Written)
            }
            _ => self.query(client, rounds, sizes).fetch_all(connection).await.map(Answer::Found),
        }
    }

    fn query_one<'a>(&self, client: &Client, job: &'a Job) -> Query<'a, Postgres, PgArguments> {
        let wanted = &job.wanted;
        let (lowest, highest) = next_revisions(wanted);
        client
            .statements
            .append_one
            .query()
            .bind(self.now.0)
            .bind(job.lock)
            .bind(wanted.stream.namespace.as_str())
            .bind(wanted.stream.name.as_str())
            .bind(wanted.stream.name.category().as_str().to_owned())
            .bind(Id(wanted.commit.0))
            .bind(Id(wanted.digest.0))
            .bind(lowest)
            .bind(highest)
            .bind(i64::from(wanted.events))
            .bind(&job.encoded[..])
    }

    fn query_many<'a>(&'a self, client: &Client) -> Query<'a, Postgres, PgArguments> {
        let jobs = &self.jobs;
        let wanted = || jobs.iter().map(|job| &job.wanted);
        client
            .statements
            .append_many
            .query()
            .bind(self.now.0)
            .bind(self.locks())
            .bind(wanted().map(|wanted| wanted.stream.namespace.as_str()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| wanted.stream.name.as_str()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| wanted.stream.name.category().as_str().to_owned()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| Id(wanted.commit.0)).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| Id(wanted.digest.0)).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| next_revisions(wanted).0).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| next_revisions(wanted).1).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| i64::from(wanted.events)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| &job.encoded[..]).collect::<Vec<_>>())
    }

    fn query<'a>(&'a self, client: &Client, rounds: Vec<i32>, sizes: Vec<i32>) -> Query<'a, Postgres, PgArguments> {
        let jobs = &self.jobs;
        let wanted = || jobs.iter().map(|job| &job.wanted);
        client
            .statements
            .append
            .query()
            .bind(self.now.0)
            .bind(self.locks())
            .bind(sizes)
            .bind(rounds)
            .bind(wanted().map(|wanted| wanted.stream.namespace.as_str()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| wanted.stream.name.as_str()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| wanted.stream.name.category().as_str().to_owned()).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| Id(wanted.commit.0)).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| Id(wanted.digest.0)).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| expected(wanted.expected)).collect::<Vec<_>>())
            .bind(wanted().map(|wanted| i64::from(wanted.events)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| &job.encoded[..]).collect::<Vec<_>>())
    }

    /// In which turn each is decided, and how many in each turn: those of one stream one after the other, so that each sees the
    /// verdict before it.
    fn rounds(&self) -> (Vec<i32>, Vec<i32>) {
        let mut turns: HashMap<_, usize> = HashMap::with_capacity(self.jobs.len());
        let (mut rounds, mut sizes) = (Vec::with_capacity(self.jobs.len()), Vec::new());
        for job in &self.jobs {
            let turn = turns.entry(job.lock).or_insert(0);
            if *turn == sizes.len() {
                sizes.push(0);
            }
            sizes[*turn] += 1;
            *turn += 1;
            rounds.push(*turn as i32);
        }
        (rounds, sizes)
    }

    fn answer(self, client: &Client, rows: &[PgRow]) {
        let places = self.places(rows);
        let shares = group_commit::shares(ONE_REQUEST, self.jobs.len());
        for ((job, row), usage) in self.jobs.into_iter().zip(places).zip(shares) {
            let unanswered = || error::corrupt("the server did not answer an append");
            let verdict = row.ok_or_else(|| unanswered().into()).and_then(|row| verdict(client, self.now, &job, row));
            let verdict = verdict.map_err(|stop| Error::from(stop).of_commit(job.wanted.commit));
            job.answer(verdict.map(|receipt| Appended { usage, ..receipt }));
        }
    }

    /// Tells those that were written, and keeps the others. A digest says stream, id and content, and each stream is there once.
    fn answer_written(&mut self, written: &[([u8; 16], [i64; 3])]) {
        let mut shares = group_commit::shares(ONE_REQUEST, written.len());
        let written: HashMap<_, _> = written.iter().copied().collect();
        for job in std::mem::take(&mut self.jobs) {
            match written.get(&job.wanted.digest.0) {
                Some([number, first, at]) => {
                    let first = Revision(first.unsigned_abs());
                    let receipt = receipt(&job, number.unsigned_abs(), first, Timestamp(*at));
                    job.answer(Ok(Appended { usage: shares.next().unwrap_or_default(), ..receipt }));
                }
                None => self.jobs.push(job),
            }
        }
    }

    /// Which row answers which append. Those that were not written are named by their place; those that were, by their digest,
    /// which says stream, id and content: the same twice is written once.
    fn places<'a>(&self, rows: &'a [PgRow]) -> Vec<Option<&'a PgRow>> {
        let mut places: Vec<Option<&PgRow>> = vec![None; self.jobs.len()];
        let mut written = HashMap::new();
        for row in rows {
            match codec::get::<Option<i64>>(row, ORDINAL) {
                Ok(Some(ordinal)) => {
                    let place = usize::try_from(ordinal).ok().and_then(|ordinal| ordinal.checked_sub(1));
                    if let Some(slot) = place.and_then(|place| places.get_mut(place)) {
                        *slot = Some(row);
                    }
                }
                Ok(None) => {
                    if let Ok(Id(digest)) = codec::get(row, DIGEST) {
                        written.insert(digest, row);
                    }
                }
                Err(_) => {}
            }
        }
        for (job, place) in self.jobs.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
            *place = written.remove(&job.wanted.digest.0);
        }
        places
    }
}

/// What the server says to a batch.
enum Answer {
    /// Digests of those that were written, with number, first revision and time.
    Written(Vec<([u8; 16], [i64; 3])>),
    /// A row for each.
    Found(Vec<PgRow>),
}

/// Between which revisions the first event has to come to lie: what is expected, with room for all events below the highest revision.
fn next_revisions(wanted: &Wanted) -> (i64, i64) {
    let highest = integer(NUMBER_MAX) - i64::from(wanted.events);
    match wanted.expected {
        Expected::Any => (1, highest),
        Expected::Exists => (2, highest),
        Expected::NoStream => (1, 1),
        Expected::At(revision) => {
            let next = i64::try_from(revision.0).unwrap_or(i64::MAX).saturating_add(1);
            (next, next.min(highest))
        }
    }
}

/// What an append that was written is told. Its position comes later.
fn receipt(job: &Job, number: u64, first: Revision, recorded_at: Timestamp) -> Appended {
    Appended {
        commit: job.wanted.commit,
        number: CommitNumber(number),
        first,
        last: Revision(first.0 + u64::from(job.wanted.events) - 1),
        position: None,
        recorded_at,
        digest: job.wanted.digest,
        repeated: false,
        usage: ONE_REQUEST,
    }
}

/// The same refusal for another caller; the cause goes along as text.
fn copy(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.message());
    error.context().iter().fold(copy, |copy, (name, value)| copy.with(name, value))
}

fn expected(expected: Expected) -> i64 {
    match expected {
        Expected::Any => -1,
        Expected::Exists => -2,
        Expected::NoStream => 0,
        // Beyond every revision there is, so that it conflicts.
        Expected::At(revision) => i64::try_from(revision.0).unwrap_or(i64::MAX),
    }
}

/// Columns of the append function's answer.
const ORDINAL: usize = 0;
const WRITTEN: usize = 1;
const META: usize = 5;
const HEAD: usize = 6;
const FOUND: usize = 13;
const DIGEST: usize = 17;

/// What the server decided, in the contract's words. It only says what it found; why that is a refusal is decided by the same
/// function as everywhere.
fn verdict(client: &Client, now: Timestamp, job: &Job, row: &PgRow) -> Worked<Appended> {
    if let Some(number) = codec::get::<Option<i64>>(row, WRITTEN)? {
        let first = Revision(codec::number(row, WRITTEN + 1)?);
        return Ok(receipt(job, number.unsigned_abs(), first, Timestamp(codec::get(row, WRITTEN + 2)?)));
    }
    let meta = codec::meta(row, META)?;
    let last = codec::last_of_answer(row, HEAD)?;
    let head = codec::head_of(last.as_ref(), &meta, client.own());
    let at = [FOUND, FOUND + 1, FOUND + 2, FOUND + 3, FOUND + 4, FOUND + 5];
    let found = codec::receipt(row, at, job.wanted.commit)?;
    let situation = Situation { meta: &meta, own: client.own(), head: &head, last_position: None, now };
    match decide::append(&situation, &job.wanted, found)? {
        Decision::Repeated(receipt) => Ok(receipt),
        Decision::Write(_) => {
            Err(Error::new(ErrorKind::Schema, "the server's append function is of another release").into())
        }
    }
}

/// Finds a commit or a marker by its id.
pub async fn find_commit(client: &Client, request: &FindCommit) -> Result<Option<Appended>> {
    client
        .read(request.deadline, async |connection| {
            let find = client
                .statements
                .find
                .query()
                .bind(request.stream.namespace.as_str())
                .bind(request.stream.name.as_str())
                .bind(Id(request.commit.0));
            match find.fetch_all(connection).await?.first() {
                Some(row) => codec::receipt(row, [1, 0, 2, 3, 4, 5], request.commit),
                None => Ok(None),
            }
        })
        .await
}
