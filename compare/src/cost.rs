//! What was measured, in money: what receipts counted times its price, and what an hour costs divided by what it was used for.

use crate::estimate::{Reckoned, read_units, write_units};
use crate::payload;
use crate::prices::{Design, Offer, Prices, each};
use crate::report::{Report, Row};
use crate::workload::{Operation, Workload};
use evstore_api::{CommitId, NewCommit, Result, format};
use evstore_conformance::seed::Seed;
use serde::{Deserialize, Serialize};

/// Shares of its time for which a machine that is paid by the hour is used.
pub const UTILISATIONS: [f64; 3] = [0.01, 0.1, 0.5];

/// What a million operations of a row cost.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cost {
    /// The row.
    pub row: String,
    /// The offer.
    pub offer: String,
    /// What was counted and is paid by the piece, for a million operations.
    pub counted_usd: f64,
    /// The hours, for a million operations, at each of [`UTILISATIONS`] of the rate that was measured. Zeros where none is paid.
    pub hours_usd: [f64; 3],
    /// What the bill has besides.
    pub left_out: String,
}

/// What is paid for each row that is of one kind of operation.
#[must_use]
pub fn costs(report: &Report, prices: &Prices) -> Vec<Cost> {
    let mut costs = Vec::new();
    for row in report.store_rows().filter(|row| row.is_measured() && row.rate.is_none()) {
        let Some(workload) = report.plan.workloads.iter().find(|workload| workload.name == row.workload) else {
            continue;
        };
        let Some(store) = report.stores.iter().find(|store| store.name == row.store) else { continue };
        let Some(kind) = kind(workload) else { continue };
        let design = prices.design(&store.provider, &store.settings);
        costs.extend(prices.of(&store.provider).filter_map(|offer| cost(row, kind, offer, &design)));
    }
    costs
}

/// What each row was reckoned to take, beside what was counted.
#[must_use]
pub fn reckoned(report: &Report, prices: &Prices) -> Vec<Reckoned> {
    let mut all = Vec::new();
    for workload in report.plan.workloads.iter().filter(|workload| workload.log.is_none() && workload.rate.is_none()) {
        let Some(kind) = kind(workload).filter(|_| !workload.catches_up()) else { continue };
        let Ok(sizes) = commit_bytes(workload, report.seed) else { continue };
        for row in report.store_rows().filter(|row| row.workload == workload.name && row.is_measured()) {
            let Some(store) = report.stores.iter().find(|store| store.name == row.store) else { continue };
            let design = prices.design(&store.provider, &store.settings);
            // What is paid for in the same way is reckoned once.
            let Some(offer) = prices.of(&store.provider).next() else { continue };
            all.extend(of_row(row, workload, kind, &sizes, offer, &design));
        }
    }
    all
}

fn of_row(row: &Row, workload: &Workload, kind: Kind, sizes: &[u64], offer: &Offer, design: &Design) -> Vec<Reckoned> {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / sizes.len().max(1) as f64;
    let line = |of: &str, estimated: f64, counted: f64| Reckoned {
        row: row.id(),
        offer: offer.name.clone(),
        of: of.to_owned(),
        estimated,
        counted,
    };
    let mut lines = Vec::new();
    match kind {
        Kind::Append => {
            if offer.write_unit_bytes.is_some() {
                let mut units = sizes.iter().filter_map(|bytes| write_units(offer, design, *bytes));
                // Attempts that conflict are in neither: a refusal is no receipt.
                lines.push(line("write units", mean(&mut units), row.cost.write_units));
            }
            if offer.append_request.is_some() {
                lines.push(line("requests", 1.0, row.cost.requests));
            }
        }
        Kind::Read => {
            let commits = match workload.snapshot_behind {
                Some(behind) => behind as f64 + 1.0,
                None => workload.stream_events as f64,
            } / workload.commit_events.mean();
            let bytes = mean(&mut sizes.iter().map(|bytes| (bytes + offer.unit_bytes_more) as f64)) * commits;
            let snapshot = workload.snapshot_behind.map(|_| f64::from(workload.snapshot_bytes));
            if let Some(units) = read_units(offer, bytes) {
                let of_snapshot = snapshot.and_then(|bytes| read_units(offer, bytes)).unwrap_or_default();
                lines.push(line("read units", units + of_snapshot, row.cost.read_units));
            }
            if offer.read_request.is_some() {
                lines.push(line("requests", 1.0, row.cost.requests));
            }
        }
    }
    lines
}

/// Bytes of a workload's commits, as the format encodes their events.
fn commit_bytes(workload: &Workload, seed: u64) -> Result<Vec<u64>> {
    let id = CommitId([7; 16]);
    let commits = payload::commits(workload, &mut Seed(seed))?;
    let bytes =
        |events| -> Result<u64> { Ok(format::encode_events(id, &NewCommit { id, events }.recorded()?).len() as u64) };
    commits.into_iter().map(bytes).collect()
}

/// Whether requests are appends or reads; none where both are made.
fn kind(workload: &Workload) -> Option<Kind> {
    match workload.does.parts().as_slice() {
        [(Operation::Append, _)] => Some(Kind::Append),
        [(Operation::Load | Operation::CatchUp, _)] => Some(Kind::Read),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Append,
    Read,
}

/// None where the offer asks by the piece and the engine counted none: that would look like a present.
fn cost(row: &Row, kind: Kind, offer: &Offer, design: &Design) -> Option<Cost> {
    let request = match kind {
        Kind::Append => &offer.append_request,
        Kind::Read => &offer.read_request,
    };
    let counted = row.cost.write_units * each(offer.write_unit.as_ref())
        + row.cost.read_units * each(offer.read_unit.as_ref())
        + row.cost.requests * each(request.as_ref());
    let hour = each(offer.hour.as_ref());
    if counted == 0.0 && hour == 0.0 {
        return None;
    }
    let in_an_hour = row.per_second.median * 3_600.0;
    Some(Cost {
        row: row.id(),
        offer: offer.name.clone(),
        counted_usd: counted * 1e6,
        hours_usd: UTILISATIONS.map(|used| hour / (in_an_hour * used) * 1e6),
        left_out: match (kind, design.behind(offer) * 1e6) {
            (Kind::Append, behind) if behind > 0.0 => {
                format!("{behind:.2} usd a million for what is done behind appends; {}", design.left_out(offer))
            }
            (Kind::Append, _) => design.left_out(offer),
            (Kind::Read, _) => offer.left_out.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PerOperation;

    fn row(cost: PerOperation) -> Row {
        let text = include_str!("../tests/row.json");
        let row: Row = serde_json::from_str(text).unwrap();
        Row { cost, ..row }
    }

    #[test]
    fn units_and_hours_become_money() {
        let prices = Prices::list();
        let units = row(PerOperation { requests: 1.0, read_units: 0.0, write_units: 2.0 });
        let plain = Design::default();
        let dynamodb = cost(&units, Kind::Append, prices.of("dynamodb").next().unwrap(), &plain).unwrap();
        assert_eq!((dynamodb.counted_usd, dynamodb.hours_usd), (1.25, [0.0; 3]));
        // 1,000 a second: an hour of 0.12 holds 3.6 million at full use.
        let aurora = cost(&units, Kind::Append, prices.of("postgres").next().unwrap(), &plain).unwrap();
        assert!((aurora.hours_usd[2] - 0.12 / 1.8).abs() < 1e-9, "{aurora:?}");
    }

    #[test]
    fn what_was_not_counted_is_not_free() {
        let nothing = row(PerOperation::default());
        let plain = Design::default();
        assert_eq!(cost(&nothing, Kind::Append, Prices::list().of("dynamodb").next().unwrap(), &plain), None);
    }
}
