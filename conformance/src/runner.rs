//! Runs checks on scratch stores and collects verdicts.

use crate::catalog::{catalog, in_place};
use crate::check::{Broken, Check, Verdict};
use crate::checks::concurrency::{Arena, race_in};
use crate::context::Context;
use crate::report::{Finding, Report};
use crate::seed::Seed;
use crate::target::Target;
use evstore_api::{EventStore, Result, Settings, StoreAdmin};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one check may take before it is broken by not ending.
const CHECK_MAX: Duration = Duration::from_secs(300);

/// What to run, and how hard.
#[derive(Clone, Debug)]
pub struct Runner {
    /// What is held to the catalog.
    pub target: Target,
    /// Names or beginnings of names of the checks to run; all when empty.
    pub only: Vec<String>,
    /// When it is spent, the checks that are left are not run. None for no bound.
    pub budget: Option<Duration>,
    /// Seed of every random choice; each check draws its own from it by name.
    pub seed: u64,
    /// Rounds, in hundredths of an ordinary run's.
    pub effort: u64,
    /// Where the checks run, and so which.
    pub place: Place,
}

/// Where checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole catalog, on scratch stores that are dropped.
    Scratch,
    /// The checks that only read, on the store itself.
    InPlace,
}

/// The store that several checks share.
#[derive(Debug)]
pub(crate) struct Scratch {
    settings: Settings,
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
}

impl Runner {
    /// Every check, an ordinary run's rounds, no bound.
    #[must_use]
    pub fn new(target: Target, seed: u64) -> Self {
        Self { target, only: Vec::new(), budget: None, seed, effort: 100, place: Place::Scratch }
    }

    /// The checks that would run, in order.
    pub fn checks(&self) -> impl Iterator<Item = &'static Check> {
        let of_scratch = (self.place == Place::Scratch).then(catalog).into_iter().flatten();
        let reading = (self.place == Place::InPlace).then(in_place).into_iter().flatten();
        of_scratch
            .chain(reading)
            .filter(|check| self.only.is_empty() || self.only.iter().any(|prefix| check.name.starts_with(&**prefix)))
    }

    /// Runs the checks one after the other; `progress` hears of each before and after.
    ///
    /// # Errors
    /// When no scratch store can be made or dropped. Then nothing was found out.
    pub async fn run(&self, mut progress: impl FnMut(Progress<'_>)) -> Result<Report> {
        let started = Instant::now();
        let scratch = match self.place {
            Place::Scratch => self.open_scratch("shared").await?,
            Place::InPlace => self.open(self.target.settings.clone()).await?,
        };
        let mut findings = Vec::new();
        for check in self.checks() {
            progress(Progress::Started(check));
            let spent = self.budget.is_some_and(|budget| started.elapsed() >= budget);
            findings.push(if spent {
                let verdict = Verdict::NotRun("the budget is spent".into());
                Finding { check, verdict, remarks: Vec::new(), took: Duration::ZERO }
            } else {
                self.run_check(check, &scratch).await
            });
            progress(Progress::Ended(&findings[findings.len() - 1]));
        }
        let capabilities = scratch.store.capabilities().clone();
        match self.place {
            Place::Scratch => self.drop_scratch(scratch).await?,
            Place::InPlace => scratch.close().await?,
        }
        Ok(Report { store: self.target.settings.store().clone(), capabilities, seed: self.seed, findings })
    }

    /// Makes a scratch store for several checks.
    pub(crate) async fn open_scratch(&self, what: &str) -> Result<Scratch> {
        let opener = &self.target.provider.opener;
        // The clock makes the tag new; nothing that is checked depends on it.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut unique = Seed(now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32 ^ self.seed);
        let tag = format!("{}{:08x}", &what[..what.len().min(6)], unique.next_u64() as u32);
        let settings = opener.make_scratch(&self.target.settings, &tag).await?;
        self.open(settings).await
    }

    /// Opens both sides of a store.
    async fn open(&self, settings: Settings) -> Result<Scratch> {
        let opener = &self.target.provider.opener;
        let store = opener.open(&settings).await?;
        let admin = opener.open_admin(&settings).await?;
        Ok(Scratch { settings, store, admin })
    }

    /// Closes and removes a scratch store.
    pub(crate) async fn drop_scratch(&self, scratch: Scratch) -> Result<()> {
        scratch.close().await?;
        self.target.provider.opener.drop_scratch(&scratch.settings).await
    }

    /// A context for a check, or what else has a name, in a scratch store.
    fn context(&self, name: &str, scratch: &Scratch) -> Context {
        let seed = name.bytes().fold(self.seed, |seed, byte| Seed(seed ^ u64::from(byte)).next_u64());
        let tag = format!("{:08x}", Seed(seed ^ u64::from(std::process::id())).next_u64() as u32);
        Context::new(
            self.target.clone(),
            scratch.settings.clone(),
            scratch.store.clone(),
            scratch.admin.clone(),
            format!("c{tag}"),
            seed,
            self.effort,
        )
    }

    /// Races once in an arena, in a scratch store. By the name its stores are told from those of other races in the same process.
    pub(crate) async fn race(&self, name: &str, arena: &Arena) -> Result<(), Broken> {
        let scratch = self.open_scratch("race").await?;
        let context = self.context(name, &scratch);
        let raced = race_in(&context, arena).await;
        for fresh in context.take_fresh() {
            self.target.provider.opener.drop_scratch(&fresh).await?;
        }
        self.drop_scratch(scratch).await?;
        raced
    }

    /// Runs one check and drops the scratch stores that it made.
    pub(crate) async fn run_check(&self, check: &'static Check, scratch: &Scratch) -> Finding {
        let began = Instant::now();
        let context = self.context(check.name, scratch);
        // A task of its own: a panic of a store is a broken promise, not the end of the run.
        let task = tokio::spawn(AssertUnwindSafe((check.run)(context.clone())).0);
        let abort = task.abort_handle();
        let mut verdict = match tokio::time::timeout(CHECK_MAX, task).await {
            Ok(Ok(Ok(outcome))) => outcome.into(),
            Ok(Ok(Err(mut broken))) => {
                if broken.history.is_empty() {
                    broken.history = context.trace();
                }
                Verdict::Broken(broken)
            }
            Ok(Err(panic)) => Verdict::Broken(Broken::shown_by(format!("a call panicked: {panic}"), context.trace())),
            Err(_) => {
                abort.abort();
                let message = format!("it did not end within {} s", CHECK_MAX.as_secs());
                Verdict::Broken(Broken::shown_by(message, context.trace()))
            }
        };
        for fresh in context.take_fresh() {
            if let Err(error) = self.target.provider.opener.drop_scratch(&fresh).await {
                let broken =
                    Broken::shown_by(format!("its scratch store could not be dropped: {error:?}"), context.trace());
                verdict = Verdict::Broken(broken);
            }
        }
        Finding { check, verdict, remarks: context.take_remarks(), took: began.elapsed() }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This check begins.
    Started(&'static Check),
    /// This one ended.
    Ended(&'a Finding),
}

impl Scratch {
    pub(crate) fn capabilities(&self) -> evstore_api::Capabilities {
        self.store.capabilities().clone()
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await?;
        self.admin.close().await
    }
}
