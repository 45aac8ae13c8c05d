//! Stores that are wrong only between processes, or only once one is killed, are found BROKEN: on files, with real processes.

use evstore_api::{Provider, Settings, StoreName};
use evstore_conformance::check::Verdict;
use evstore_conformance::mutants::{Mutant, mutants_of_processes};
use evstore_conformance::target::WorkerCommand;
use evstore_conformance::{Runner, Target, worker};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// First argument of a process that a check starts; the second names its mutant.
const WORKER: &str = "conformance-worker";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = Arc::new(runtime.expect("threads can be started"));
    let arguments: Vec<_> = std::env::args().skip(1).take(2).collect();
    if let [first, name] = &arguments[..]
        && first == WORKER
    {
        let mutant = mutants_of_processes().find(|mutant| mutant.name == name).expect("the parent names a mutant");
        return runtime.block_on(worker::main(&[broken(mutant)]));
    }
    let trials = mutants_of_processes()
        .map(|mutant| {
            let runtime = runtime.clone();
            Trial::test(mutant.name, move || mutant_is_noticed(&runtime, mutant)).with_kind("mutant")
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn broken(mutant: &Mutant) -> Provider {
    mutant.provider(&evstore_sqlite::provider())
}

fn mutant_is_noticed(runtime: &Runtime, mutant: &Mutant) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let provider = broken(mutant);
    let path = folder.path().join("live.db").display().to_string();
    let settings = Settings::new(StoreName::new("mutant")?, provider.keys, [("path".into(), path)])?;
    let worker =
        WorkerCommand { program: std::env::current_exe()?, arguments: vec![WORKER.into(), mutant.name.into()] };
    let mut runner = Runner::new(Target::new(provider, settings).with_worker(worker), std::process::id().into());
    runner.only = mutant.killed_by.iter().map(|&name| name.to_owned()).collect();
    let report = runtime.block_on(runner.run(|_| {}))?;
    let survived: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| !matches!(finding.verdict, Verdict::Broken(_)))
        .map(|finding| format!("{} says {}", finding.check.name, finding.verdict.name()))
        .collect();
    if survived.is_empty() && report.findings.len() == mutant.killed_by.len() {
        return Ok(());
    }
    Err(format!("{} (seed {})\n{}", mutant.defect, report.seed, survived.join("\n")).into())
}
