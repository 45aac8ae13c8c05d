//! Measures event stores side by side: the same workloads against each, in turns, and one document of what was found.
//!
//! A [`Plan`](workload::Plan) is data: a TOML file of workloads, each a mix of operations with its callers, streams and sizes. A
//! [`Run`](run::Run) drives it against [`Contender`](contender::Contender)s, each on scratch stores beside it, round by round in turns, so that
//! what else the machine does meets all of them. What it found so far is in [`Results`](run::Results) at any moment; a
//! [`Report`](report::Report) is made of it, which is printed, kept as JSON, compared with an older one and drawn as one HTML page.
//!
//! One path leads from a workload to a row: `stage` makes the streams, `drive` makes the calls, `operation` is one call as an application
//! makes it, `tally` counts, `run` puts rounds together. Nothing here knows a provider.

pub mod against;
pub mod answers;
pub mod chart;
pub mod check;
pub mod contender;
pub mod cost;
pub mod drive;
pub mod estimate;
pub mod figures;
pub mod html;
pub mod log;
pub mod losses;
pub mod noop;
pub mod observed;
pub mod operation;
pub mod payload;
pub mod prices;
pub mod report;
pub mod run;
pub mod spread;
pub mod stage;
pub mod tally;
pub mod workload;
