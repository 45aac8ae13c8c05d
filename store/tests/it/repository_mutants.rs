//! Repositories that are wrong in one way each, and the checks that notice: the repository keeps every promise, each mutant breaks
//! the ones that it names, and each check is named by a mutant.
use crate::stores::{Fault, Faulty, soon};
use async_trait::async_trait;
use evstore::api::*;
use evstore::{Aggregate, DomainEvent, ExecuteError, Executed, Repository, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DomainEvent)]
enum Counted {
    Added { n: u64 },
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    sum: u64,
}

impl Aggregate for Counter {
    const CATEGORY: &'static str = "counter";
    type Event = Counted;

    fn apply(&mut self, Counted::Added { n }: &Counted) {
        self.sum += n;
    }
}

type Decision = Result<Vec<Counted>, &'static str>;
type Decide<'a> = &'a (dyn Fn(&Counter) -> Decision + Send + Sync);
type Answer = Result<Executed, ExecuteError<&'static str>>;

/// What executes commands on one aggregate.
#[async_trait]
trait Commands: Send + Sync {
    async fn execute(&self, commit: CommitId, decide: Decide<'_>) -> Answer;
}

const KEY: &str = "a";

fn repository(store: Arc<dyn EventStore>) -> Repository<Counter> {
    Repository::new(store).with_snapshots(SnapshotPolicy::EveryEvents(1)).with_timeout(Duration::from_millis(200))
}

/// The repository itself.
struct Healthy(Repository<Counter>);

#[async_trait]
impl Commands for Healthy {
    async fn execute(&self, commit: CommitId, decide: Decide<'_>) -> Answer {
        self.0.execute(KEY, commit, decide).await
    }
}

/// Where mutants differ from the repository and from each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Defect {
    DecidesFirst,
    NeverLooksUp,
    LooksUpBeforeReading,
    DecidesAgainAfterUnknown,
    NewIdAfterConflict,
    UnknownIsNotWritten,
}

/// A repository written anew, with one defect.
struct Mutated {
    store: Arc<dyn EventStore>,
    defect: Defect,
}

impl Mutated {
    fn stream() -> StreamId {
        StreamId::new(format!("{}-{KEY}", Counter::CATEGORY)).unwrap()
    }

    async fn find(&self, commit: CommitId) -> Result<Option<Executed>> {
        let found = self.store.find_commit(FindCommit { stream: Self::stream(), commit, deadline: soon() }).await?;
        Ok(found.map(|receipt| Executed::of(Self::stream(), receipt)))
    }

    async fn append(&self, revision: Revision, commit: CommitId, decided: &[Counted]) -> Result<Executed> {
        let events = decided.iter().map(|event| event.encode().unwrap()).collect();
        let commit = NewCommit { id: commit, events: Events::new(events).unwrap() };
        let append = Append { stream: Self::stream(), expected: Expected::At(revision), commit, deadline: soon() };
        self.store.append(append).await.map(|receipt| Executed::of(Self::stream(), receipt))
    }

    /// Repeats the same bytes while the outcome is unknown.
    async fn append_until_known(&self, revision: Revision, commit: CommitId, decided: &[Counted]) -> Result<Executed> {
        for _ in 0..20 {
            match self.append(revision, commit, decided).await {
                Err(error) if error.kind() == ErrorKind::Indeterminate => {}
                answer => return answer,
            }
        }
        Err(Error::new(ErrorKind::Indeterminate, "it stays unknown"))
    }
}

#[async_trait]
impl Commands for Mutated {
    async fn execute(&self, commit: CommitId, decide: Decide<'_>) -> Answer {
        let mut id = commit;
        if self.defect == Defect::LooksUpBeforeReading
            && let Some(executed) = self.find(commit).await?
        {
            return Ok(executed);
        }
        for _ in 0..20 {
            let loaded = repository(self.store.clone()).load(KEY).await?;
            let looks_up =
                !matches!(self.defect, Defect::DecidesFirst | Defect::NeverLooksUp | Defect::LooksUpBeforeReading);
            if looks_up && let Some(executed) = self.find(commit).await? {
                return Ok(executed);
            }
            let decided = decide(&loaded.state).map_err(ExecuteError::Rejected)?;
            if self.defect == Defect::DecidesFirst
                && let Some(executed) = self.find(commit).await?
            {
                return Ok(executed);
            }
            let appended = match self.defect {
                Defect::DecidesAgainAfterUnknown | Defect::UnknownIsNotWritten => {
                    self.append(loaded.revision, id, &decided).await
                }
                _ => self.append_until_known(loaded.revision, id, &decided).await,
            };
            match appended {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    if self.defect == Defect::NewIdAfterConflict {
                        id = CommitId::generate();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Indeterminate => match self.defect {
                    Defect::UnknownIsNotWritten => {
                        return Err(Error::new(ErrorKind::Unavailable, "the store did not answer").into());
                    }
                    _ => id = if self.find(commit).await?.is_some() { CommitId::generate() } else { id },
                },
                answer => return Ok(answer?),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "others are always first").into())
    }
}

/// A store with faults, the commands on it, and somebody else who executes commands on the same store without faults.
struct Stage {
    store: Arc<Faulty>,
    commands: Box<dyn Commands>,
    rival: Repository<Counter>,
}

impl Stage {
    async fn sum(&self) -> u64 {
        self.rival.load(KEY).await.unwrap().state.sum
    }
}

type Outcome = Result<(), String>;

/// What a repository promises, and the function that looks.
struct Check {
    name: &'static str,
    run: fn(Stage) -> Pin<Box<dyn Future<Output = Outcome>>>,
}

const CHECKS: &[Check] = &[
    Check { name: "a-repeat-is-not-decided-again", run: |stage| Box::pin(a_repeat_is_not_decided_again(stage)) },
    Check {
        name: "a-repeat-that-is-not-allowed-any-more-gets-its-receipt",
        run: |stage| Box::pin(a_repeat_that_is_not_allowed_any_more_gets_its_receipt(stage)),
    },
    Check {
        name: "a-command-is-not-decided-upon-its-own-effects",
        run: |stage| Box::pin(a_command_is_not_decided_upon_its_own_effects(stage)),
    },
    Check {
        name: "an-unknown-outcome-repeats-the-same-bytes",
        run: |stage| Box::pin(an_unknown_outcome_repeats_the_same_bytes(stage)),
    },
    Check {
        name: "a-conflict-is-decided-anew-under-the-same-id",
        run: |stage| Box::pin(a_conflict_is_decided_anew_under_the_same_id(stage)),
    },
    Check {
        name: "an-outcome-that-stays-unknown-is-not-called-unwritten",
        run: |stage| Box::pin(an_outcome_that_stays_unknown_is_not_called_unwritten(stage)),
    },
];

/// A repository with one defect, and the checks that must notice.
struct Mutant {
    defect: Defect,
    name: &'static str,
    killed_by: &'static [&'static str],
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        defect: Defect::DecidesFirst,
        name: "decides before it looks up the commit id",
        killed_by: &["a-repeat-is-not-decided-again", "a-repeat-that-is-not-allowed-any-more-gets-its-receipt"],
    },
    Mutant {
        defect: Defect::NeverLooksUp,
        name: "leaves the commit id to the append",
        killed_by: &["a-repeat-is-not-decided-again", "a-repeat-that-is-not-allowed-any-more-gets-its-receipt"],
    },
    Mutant {
        defect: Defect::LooksUpBeforeReading,
        name: "looks the commit id up before it reads the state",
        killed_by: &["a-command-is-not-decided-upon-its-own-effects"],
    },
    Mutant {
        defect: Defect::DecidesAgainAfterUnknown,
        name: "decides again when an answer is lost",
        killed_by: &["an-unknown-outcome-repeats-the-same-bytes"],
    },
    Mutant {
        defect: Defect::NewIdAfterConflict,
        name: "takes a new id after a conflict",
        killed_by: &["a-conflict-is-decided-anew-under-the-same-id"],
    },
    Mutant {
        defect: Defect::UnknownIsNotWritten,
        name: "takes a lost answer for nothing written",
        killed_by: &["an-outcome-that-stays-unknown-is-not-called-unwritten"],
    },
];

fn id(n: u8) -> CommitId {
    CommitId([n; 16])
}

fn add(n: u64) -> impl Fn(&Counter) -> Decision + Send + Sync {
    move |_| Ok(vec![Counted::Added { n }])
}

/// Once is enough.
fn once(counter: &Counter) -> Decision {
    if counter.sum == 0 { Ok(vec![Counted::Added { n: 1 }]) } else { Err("done already") }
}

fn ensure(holds: bool, message: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(message.into()) }
}

fn receipt(answer: Answer, what: &str) -> Result<Appended, String> {
    match answer {
        Ok(Executed { commit: Some(receipt), .. }) => Ok(receipt),
        other => Err(format!("{what}: {other:?}")),
    }
}

async fn a_repeat_is_not_decided_again(stage: Stage) -> Outcome {
    let first = receipt(stage.commands.execute(id(1), &add(2)).await, "the command")?;
    stage.rival.execute(KEY, id(2), add(3)).await.unwrap();
    let decisions = AtomicU32::new(0);
    let counting = |_: &Counter| -> Decision {
        decisions.fetch_add(1, Ordering::Relaxed);
        Ok(vec![Counted::Added { n: 2 }])
    };
    let again = receipt(stage.commands.execute(id(1), &counting).await, "the command once more")?;
    ensure(again.repeated && (again.number, again.first) == (first.number, first.first), "another receipt")?;
    ensure(decisions.into_inner() == 0, "a command that was executed is decided again")
}

async fn a_repeat_that_is_not_allowed_any_more_gets_its_receipt(stage: Stage) -> Outcome {
    receipt(stage.commands.execute(id(1), &once).await, "the command")?;
    let again = receipt(stage.commands.execute(id(1), &once).await, "the command once more")?;
    ensure(again.repeated, "the command is executed twice")
}

async fn a_command_is_not_decided_upon_its_own_effects(stage: Stage) -> Outcome {
    // A twin executes it while this one reads, and leaves a snapshot that hides the commit.
    let twin = stage.rival.clone();
    let comes_first = Box::pin(async move {
        twin.execute(KEY, id(1), once).await.unwrap();
        twin.execute(KEY, id(2), add(1)).await.unwrap();
    });
    stage.store.on_read_snapshot.lock().unwrap().push_back(Fault::After(comes_first));
    let receipt = receipt(stage.commands.execute(id(1), &once).await, "the command that a twin executed")?;
    ensure(receipt.repeated, "the command is executed twice")
}

async fn an_unknown_outcome_repeats_the_same_bytes(stage: Stage) -> Outcome {
    for (turn, fault) in [Fault::LoseAnswer, Fault::LoseRequest].into_iter().enumerate() {
        stage.store.on_append.lock().unwrap().push_back(fault);
        let before = stage.store.appends.lock().unwrap().len();
        let decisions = AtomicU32::new(0);
        let counting = |_: &Counter| -> Decision {
            let n = u64::from(decisions.fetch_add(1, Ordering::Relaxed)) + 1;
            Ok(vec![Counted::Added { n }])
        };
        receipt(stage.commands.execute(id(turn as u8), &counting).await, "the command whose answer is lost")?;
        ensure(decisions.into_inner() == 1, "decided again though the first decision may be written")?;
        let appends = stage.store.appends.lock().unwrap().clone();
        let same = appends[before..]
            .iter()
            .all(|one| (one.expected, &one.commit) == (appends[before].expected, &appends[before].commit));
        ensure(same && appends.len() == before + 2, "other bytes are sent")?;
    }
    ensure(stage.sum().await == 2, "the commands did not each count once")
}

async fn a_conflict_is_decided_anew_under_the_same_id(stage: Stage) -> Outcome {
    let rival = stage.rival.clone();
    let comes_first = Box::pin(async move { drop(rival.execute(KEY, id(9), add(10)).await.unwrap()) });
    stage.store.on_append.lock().unwrap().push_back(Fault::After(comes_first));
    let next = |counter: &Counter| -> Decision { Ok(vec![Counted::Added { n: counter.sum + 1 }]) };
    receipt(stage.commands.execute(id(1), &next).await, "the command after a conflict")?;
    ensure(stage.sum().await == 21, "decided on a state that was over")?;
    let again = receipt(stage.commands.execute(id(1), &next).await, "the command once more")?;
    ensure(again.repeated && stage.sum().await == 21, "the command is executed twice")
}

async fn an_outcome_that_stays_unknown_is_not_called_unwritten(stage: Stage) -> Outcome {
    let lost = std::iter::once(Fault::LoseAnswer);
    let away = (0..999).map(|_| Fault::Refuse(ErrorKind::Unavailable));
    stage.store.on_append.lock().unwrap().extend(lost.chain(away));
    let kind = match stage.commands.execute(id(1), &add(1)).await {
        Err(ExecuteError::Store(error)) => error.kind(),
        other => return Err(format!("a command whose answers are lost: {other:?}")),
    };
    ensure(kind == ErrorKind::Indeterminate, format!("what was written is answered as {kind:?}"))
}

async fn broken(check: &Check, make: &dyn Fn(Arc<dyn EventStore>) -> Box<dyn Commands>) -> Outcome {
    let store = Faulty::new().await;
    let rival = repository(store.inner.clone());
    (check.run)(Stage { commands: make(store.clone()), rival, store }).await
}

#[tokio::test]
async fn the_repository_keeps_every_promise() {
    for check in CHECKS {
        let outcome = broken(check, &|store| Box::new(Healthy(repository(store)))).await;
        assert_eq!(outcome, Ok(()), "{}", check.name);
    }
}

#[tokio::test]
async fn every_mutant_is_noticed_by_the_checks_that_it_names() {
    for mutant in MUTANTS {
        for name in mutant.killed_by {
            let check = CHECKS.iter().find(|check| check.name == *name).expect("the check is there");
            let outcome = broken(check, &|store| Box::new(Mutated { store, defect: mutant.defect })).await;
            assert!(outcome.is_err(), "a repository that {} is not noticed by {name}", mutant.name);
        }
    }
}

#[test]
fn every_check_is_named_by_a_mutant() {
    for check in CHECKS {
        assert!(MUTANTS.iter().any(|mutant| mutant.killed_by.contains(&check.name)), "{}", check.name);
    }
}
