//! What a run found, for people and for programs.

use crate::check::{Check, Verdict};
use evstore_api::capabilities::{Consistency, Limit, Positioned, Window};
use evstore_api::{Capabilities, StoreName};
use serde_json::{Value, json};
use std::fmt::{Debug, Write as _};
use std::time::Duration;

/// What one check found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The check.
    pub check: &'static Check,
    /// Its verdict.
    pub verdict: Verdict,
    /// What was measured, and how far the check reaches.
    pub remarks: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The store's name in the config file.
    pub store: StoreName,
    /// What it promises.
    pub capabilities: Capabilities,
    /// The seed that repeats the run.
    pub seed: u64,
    /// One for each check, in the order of the catalog.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings have this verdict's name.
    #[must_use]
    pub fn count(&self, verdict: &str) -> usize {
        self.findings.iter().filter(|finding| finding.verdict.name() == verdict).count()
    }

    /// The broken ones.
    pub fn broken(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Broken(_)))
    }

    /// The command that runs one check again with the same seed.
    #[must_use]
    pub fn replay(&self, check: &Check) -> String {
        let in_place = if check.name.starts_with("in-place.") { "--in-place " } else { "" };
        format!("evstore conformance {} {in_place}--only {} --seed {}", self.store, check.name, self.seed)
    }

    /// For people: a line for each check that is not held, the history of each broken one, and the counts.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let name = finding.check.name;
            // Writing to a string can't fail.
            let _ = match &finding.verdict {
                Verdict::Held => Ok(()),
                Verdict::Refused(reason) => writeln!(text, "refused  {name}: {reason}"),
                Verdict::NotApplicable(reason) => writeln!(text, "n/a      {name}: {reason}"),
                Verdict::NotRun(reason) => writeln!(text, "not run  {name}: {reason}"),
                Verdict::Broken(broken) => {
                    let mut lines = String::new();
                    for line in &broken.history {
                        let _ = writeln!(lines, "           {line}");
                    }
                    writeln!(
                        text,
                        "BROKEN   {name}: {}\n         promised: {}\n{lines}         again: {}",
                        broken.message,
                        finding.check.promise,
                        self.replay(finding.check)
                    )
                }
            };
            for remark in &finding.remarks {
                let _ = writeln!(text, "note     {name}: {remark}");
            }
        }
        let _ = writeln!(
            text,
            "{} held, {} BROKEN, {} refused, {} not applicable, {} not run (store: {}, provider: {}, engine: {}, seed: {})",
            self.count("held"),
            self.count("BROKEN"),
            self.count("refused"),
            self.count("not applicable"),
            self.count("not run"),
            self.store,
            self.capabilities.provider,
            self.capabilities.engine,
            self.seed
        );
        let risks = self.capabilities.risks();
        if !risks.is_empty() {
            let _ = writeln!(text, "as it is set up, acknowledged commits can be lost: {}", risks.join("; "));
        }
        text
    }

    /// For programs. Fields are only ever added.
    #[must_use]
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                let (reason, history) = match &finding.verdict {
                    Verdict::Held => (None, None),
                    Verdict::Refused(reason) | Verdict::NotApplicable(reason) | Verdict::NotRun(reason) => {
                        (Some(reason.clone()), None)
                    }
                    Verdict::Broken(broken) => (Some(broken.message.clone()), Some(broken.history.clone())),
                };
                json!({
                    "check": finding.check.name,
                    "promise": finding.check.promise,
                    "properties": finding.check.properties,
                    "verdict": finding.verdict.name(),
                    "reason": reason,
                    "history": history,
                    "remarks": finding.remarks,
                    "replay": self.replay(finding.check),
                    "took_ms": finding.took.as_millis() as u64,
                })
            })
            .collect();
        json!({
            "store": self.store.as_str(),
            "provider": self.capabilities.provider,
            "engine": self.capabilities.engine,
            "contract": self.capabilities.contract,
            "release": env!("CARGO_PKG_VERSION"),
            "capabilities": promised(&self.capabilities),
            "can_lose_acknowledged": self.capabilities.risks(),
            "seed": self.seed,
            "held": self.count("held"),
            "broken": self.count("BROKEN"),
            "refused": self.count("refused"),
            "not_applicable": self.count("not applicable"),
            "not_run": self.count("not run"),
            "findings": findings,
        })
    }

    /// For test servers: JUnit XML. What is refused is a success that says so in its output; what does not apply and what was
    /// not run are skipped, each with its reason.
    #[must_use]
    pub fn junit(&self) -> String {
        use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
        let mut suite = TestSuite::new(format!("conformance.{}", self.store));
        for finding in &self.findings {
            let mut status = match &finding.verdict {
                Verdict::Held | Verdict::Refused(_) => TestCaseStatus::success(),
                Verdict::NotApplicable(_) | Verdict::NotRun(_) => TestCaseStatus::skipped(),
                Verdict::Broken(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
            };
            match &finding.verdict {
                Verdict::NotApplicable(reason) => drop(status.set_message(format!("not applicable: {reason}"))),
                Verdict::NotRun(reason) => drop(status.set_message(reason.clone())),
                Verdict::Broken(broken) => {
                    status.set_message(broken.message.clone());
                    status.set_description(broken.history.join("\n"));
                }
                Verdict::Held | Verdict::Refused(_) => {}
            }
            let mut case = TestCase::new(finding.check.name, status);
            case.set_classname(self.capabilities.provider).set_time(finding.took);
            let refused = match &finding.verdict {
                Verdict::Refused(reason) => Some(format!("refused: {reason}")),
                Verdict::Held | Verdict::NotApplicable(_) | Verdict::NotRun(_) | Verdict::Broken(_) => None,
            };
            let said: Vec<String> = refused.into_iter().chain(finding.remarks.iter().cloned()).collect();
            if !said.is_empty() {
                case.set_system_out(said.join("\n"));
            }
            suite.add_test_case(case);
        }
        let mut report = quick_junit::Report::new("evstore conformance");
        report.add_test_suite(suite);
        report.to_string().expect("a report of text is XML")
    }
}

/// What a store promises, field by field, as the contract names them. A limit that it does not have is null.
fn promised(capabilities: &Capabilities) -> Value {
    // Every field is named, so that the compiler asks for a new one.
    let Capabilities {
        contract,
        provider,
        engine,
        durability,
        failover,
        order,
        real_time,
        positions,
        positioned,
        reads,
        lists,
        idempotency,
        event_ids,
        processes,
        fence,
        deletion,
        replication,
        archive,
        time_precision,
        limits,
    } = capabilities;
    json!({
        "contract": contract,
        "provider": provider,
        "engine": engine,
        "durability": name(durability),
        "failover": name(failover),
        "order": name(order),
        "real_time": name(real_time),
        "positions": name(positions),
        "positioned": match positioned {
            Positioned::ByAppend => json!({ "how": "by_append" }),
            Positioned::BySequencer { within } => json!({ "how": "by_sequencer", "within_us": micros(*within) }),
            Positioned::Never { settling } => json!({ "how": "never", "settling_us": micros(*settling) }),
        },
        "reads": consistency(*reads),
        "lists": consistency(*lists),
        "idempotency": match idempotency {
            Window::Forever => json!({ "window": "forever" }),
            Window::Commits(count) => json!({ "window": "commits", "commits": count }),
        },
        "event_ids": name(event_ids),
        "processes": name(processes),
        "fence": name(fence),
        "deletion": name(deletion),
        "replication": name(replication),
        "archive": name(archive),
        "time_precision_us": micros(*time_precision),
        "limits": {
            "stream_name_bytes": limits.stream_name_bytes,
            "event_type_bytes": limits.event_type_bytes,
            "event_bytes": limit(limits.event_bytes),
            "commit_bytes": limit(limits.commit_bytes),
            "commit_events": limit(limits.commit_events),
            "snapshot_bytes": limit(limits.snapshot_bytes),
            "record_bytes": limit(limits.record_bytes),
            "page_items": limits.page_items,
        },
    })
}

/// `PerPartition` as `per_partition`.
fn name(value: &impl Debug) -> String {
    let mut name = String::new();
    for character in format!("{value:?}").chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_lowercase());
    }
    name
}

fn consistency(consistency: Consistency) -> Value {
    match consistency {
        Consistency::Strong => json!({ "how": "strong" }),
        Consistency::Eventual { staleness } => json!({ "how": "eventual", "staleness_us": micros(staleness) }),
    }
}

fn limit(limit: Limit) -> Option<u64> {
    match limit {
        Limit::Max(max) => Some(max),
        Limit::None => None,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::catalog;
    use crate::check::Broken;
    use evstore_api::capabilities::{
        Durability, EventIds, Failover, FeedOrder, Fence, Limits, Positions, Processes, RealTime, Support,
    };

    fn capabilities() -> Capabilities {
        Capabilities {
            contract: evstore_api::CONTRACT,
            provider: "none",
            engine: "none 0".into(),
            durability: Durability::Memory,
            failover: Failover::None,
            order: FeedOrder::Total,
            real_time: RealTime::Kept,
            positions: Positions::Contiguous,
            positioned: Positioned::ByAppend,
            reads: Consistency::Strong,
            lists: Consistency::Strong,
            idempotency: Window::Forever,
            event_ids: EventIds::PerCommit,
            processes: Processes::One,
            fence: Fence::Store,
            deletion: Support::Refused,
            replication: Support::Refused,
            archive: Support::Refused,
            time_precision: Duration::from_micros(1),
            limits: Limits {
                stream_name_bytes: 1,
                event_type_bytes: 1,
                event_bytes: Limit::None,
                commit_bytes: Limit::None,
                commit_events: Limit::None,
                snapshot_bytes: Limit::None,
                record_bytes: Limit::None,
                page_items: 1,
            },
        }
    }

    #[test]
    fn verdicts_are_never_shown_as_one_another() {
        let verdicts = [
            Verdict::Held,
            Verdict::Broken(Broken::shown_by("an event is lost", vec!["append a-1".into()])),
            Verdict::Refused("not promised".into()),
            Verdict::NotApplicable("no positions".into()),
            Verdict::NotRun("no process".into()),
        ];
        let findings = catalog().zip(verdicts).map(|(check, verdict)| {
            let remarks = vec![format!("tried {}", verdict.name())];
            Finding { check, verdict, remarks, took: Duration::ZERO }
        });
        let store = StoreName::new("main").unwrap();
        let report = Report { store, capabilities: capabilities(), seed: 7, findings: findings.collect() };
        let text = report.text();
        for line in [
            "BROKEN   ",
            "refused  ",
            "n/a      ",
            "not run  ",
            "           append a-1",
            ": tried held\n",
            "1 held, 1 BROKEN, 1 refused, 1 not applicable, 1 not run",
            "acknowledged commits can be lost: the end of the process that keeps them; a power cut",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let json = report.json();
        let named: Vec<_> = json["findings"].as_array().unwrap().iter().map(|one| one["verdict"].clone()).collect();
        assert_eq!(named, ["held", "BROKEN", "refused", "not applicable", "not run"]);
        assert_eq!((&json["seed"], &json["findings"][1]["history"][0]), (&json!(7), &json!("append a-1")));
        assert_eq!(json["findings"][0]["remarks"], json!(["tried held"]));
        let junit = report.junit();
        for part in [
            "<failure message=\"an event is lost\"",
            "<skipped message=\"no process\"",
            "<skipped message=\"not applicable: no positions\"",
            "refused: not promised",
        ] {
            assert!(junit.contains(part), "{part} in\n{junit}");
        }
    }

    #[test]
    fn promises_are_fields_and_not_text() {
        let capabilities = Capabilities {
            failover: Failover::MayLoseAcknowledged,
            positioned: Positioned::BySequencer { within: Duration::from_millis(20) },
            lists: Consistency::Eventual { staleness: Duration::from_micros(7) },
            idempotency: Window::Commits(64),
            limits: Limits { event_bytes: Limit::Max(9), ..capabilities().limits },
            ..capabilities()
        };
        assert_eq!(
            promised(&capabilities),
            json!({
                "contract": evstore_api::CONTRACT,
                "provider": "none",
                "engine": "none 0",
                "durability": "memory",
                "failover": "may_lose_acknowledged",
                "order": "total",
                "real_time": "kept",
                "positions": "contiguous",
                "positioned": { "how": "by_sequencer", "within_us": 20_000 },
                "reads": { "how": "strong" },
                "lists": { "how": "eventual", "staleness_us": 7 },
                "idempotency": { "window": "commits", "commits": 64 },
                "event_ids": "per_commit",
                "processes": "one",
                "fence": "store",
                "deletion": "refused",
                "replication": "refused",
                "archive": "refused",
                "time_precision_us": 1,
                "limits": {
                    "stream_name_bytes": 1,
                    "event_type_bytes": 1,
                    "event_bytes": 9,
                    "commit_bytes": null,
                    "commit_events": null,
                    "snapshot_bytes": null,
                    "record_bytes": null,
                    "page_items": 1,
                },
            })
        );
    }
}
