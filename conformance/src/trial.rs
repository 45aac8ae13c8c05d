//! The catalog as tests of `cargo test`: one test for each check.

use crate::check::Verdict;
use crate::checks::concurrency::Arena;
use crate::report::Report;
use crate::runner::Runner;
use crate::target::{Target, WorkerCommand};
use crate::worker;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// First argument of a process that the checks start.
pub(crate) const WORKER_ARGUMENT: &str = "conformance-worker";

/// The `main` of a test with `harness = false`: every check of the catalog is a test of the same name.
///
/// # Panics
/// When the process can't find its own program or start its threads.
#[must_use]
pub fn test_main(target: Target) -> ExitCode {
    test_main_with(target, Vec::new())
}

/// The same with races that are harder than the catalog's, each a test of its own under its name, in stores beside those of another
/// target.
///
/// # Panics
/// As [`test_main`].
#[must_use]
pub fn test_main_with(target: Target, races: Vec<(String, Target, Arena)>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    if std::env::args().nth(1).as_deref() == Some(WORKER_ARGUMENT) {
        return runtime.block_on(worker::main(std::slice::from_ref(&target.provider)));
    }
    let program = std::env::current_exe().expect("a process knows its program");
    let with_worker = |target: Target| match &target.worker {
        Some(_) => target,
        None => target.with_worker(WorkerCommand { program: program.clone(), arguments: vec![WORKER_ARGUMENT.into()] }),
    };
    let target = with_worker(target);
    let arguments = Arguments::from_args();
    let seed = std::process::id().into();
    let runner = Arc::new(Runner::new(target, seed));
    let runtime = Arc::new(runtime);
    let trials = runner
        .checks()
        .map(|check| {
            let (runner, runtime) = (runner.clone(), runtime.clone());
            Trial::ignorable_test(check.name, move || {
                runtime.block_on(async {
                    let failed = |error: evstore_api::Error| Failed::from(format!("no scratch store: {error:?}"));
                    let scratch = runner.open_scratch("test").await.map_err(failed)?;
                    let capabilities = scratch.capabilities();
                    let finding = runner.run_check(check, &scratch).await;
                    runner.drop_scratch(scratch).await.map_err(failed)?;
                    match &finding.verdict {
                        Verdict::Held | Verdict::Refused(_) => Ok(Completion::Completed),
                        Verdict::NotApplicable(reason) => {
                            Ok(Completion::ignored_with(format!("not applicable: {reason}")))
                        }
                        Verdict::NotRun(reason) => Ok(Completion::ignored_with(reason)),
                        Verdict::Broken(_) => {
                            let store = runner.target.settings.store().clone();
                            let report = Report { store, capabilities, seed, findings: vec![finding] };
                            Err(Failed::from(report.text()))
                        }
                    }
                })
            })
        })
        .collect::<Vec<_>>();
    let races = races.into_iter().map(|(name, target, arena)| {
        let (runner, runtime) = (Runner::new(with_worker(target), seed), runtime.clone());
        Trial::test(name.clone(), move || match runtime.block_on(runner.race(&name, &arena)) {
            Ok(()) => Ok(()),
            Err(broken) => Err(Failed::from(format!("{broken:#?} (seed {seed})"))),
        })
    });
    let trials = trials.into_iter().chain(races).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
