//! What a month costs by the rules of an offer: how much there is comes from a profile, how units are counted from the price file. An
//! estimate is held against what receipts count in a run, where there is one.

use crate::observed::Observed;
use crate::prices::{Design, Offer, Prices, each};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Hours of a month.
const MONTH_HOURS: f64 = 730.0;
/// How many times what was seen a month is priced for.
pub const TIMES: [f64; 3] = [1.0, 3.0, 10.0];
const GB: f64 = 1e9;

/// A month's bill of one offer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Bill {
    /// The offer.
    pub offer: String,
    /// The provider.
    pub provider: String,
    /// What is paid for appends and loads, by the piece: now, and at three and ten times.
    pub operations_usd: [f64; 3],
    /// What is paid for hours, whatever is done in them: for one machine, which has to take the peak.
    pub hours_usd: f64,
    /// What is paid for what is stored now, and for three and ten times as much.
    pub stored_usd: [f64; 3],
    /// Write units of a commit by the rules of the offer; none where it does not count them.
    pub write_units_a_commit: Option<f64>,
    /// The share that the hottest stream takes of what one partition gives in its fullest second; none where the offer has no such limit.
    pub hottest_of_partition: Option<f64>,
    /// What it costs to write all that there is once, as a move to it does.
    #[serde(default)]
    pub moved_in_usd: f64,
    /// What it costs to read all that there is once, as a move away from it does.
    #[serde(default)]
    pub moved_out_usd: f64,
    /// What the bill has besides.
    pub left_out: String,
}

impl Bill {
    /// All of it, now, and at three and ten times.
    #[must_use]
    pub fn total_usd(&self) -> [f64; 3] {
        [0, 1, 2].map(|at| self.operations_usd[at] + self.stored_usd[at] + self.hours_usd)
    }
}

/// Whose offers are wanted.
#[derive(Clone, Debug)]
pub struct Payer {
    /// The provider.
    pub provider: String,
    /// How the store is set up.
    pub settings: BTreeMap<String, String>,
}

/// A month's bills, of the offers for some stores; of all, in every set-up, where none is named.
#[must_use]
pub fn bills(observed: &Observed, prices: &Prices, payers: &[Payer]) -> Vec<Bill> {
    let mut bills: Vec<Bill> = Vec::new();
    for offer in &prices.offers {
        let designs = match payers {
            [] => prices.designs_of(&offer.provider),
            payers => {
                let own = payers.iter().filter(|payer| payer.provider == offer.provider);
                own.map(|payer| prices.design(&payer.provider, &payer.settings)).collect()
            }
        };
        for design in designs {
            let bill = bill(observed, offer, &design);
            if !bills.contains(&bill) {
                bills.push(bill);
            }
        }
    }
    bills
}

/// Write units of a commit of so many bytes by the rules of an offer; none where it does not count them.
#[must_use]
pub fn write_units(offer: &Offer, design: &Design, bytes: u64) -> Option<f64> {
    let own = (bytes + offer.unit_bytes_more).div_ceil(offer.write_unit_bytes?).max(1);
    Some((own as f64 + design.write_items_more) * design.write_times)
}

/// Read units of so many bytes that are read together; none where the offer does not count them.
#[must_use]
pub fn read_units(offer: &Offer, bytes: f64) -> Option<f64> {
    offer.read_unit_bytes.map(|unit| (bytes / unit as f64).ceil().max(1.0))
}

fn bill(observed: &Observed, offer: &Offer, design: &Design) -> Bill {
    // The mean of the members, each rounded up by itself: a small commit takes a whole unit.
    let units = observed.commit_bytes.iter().filter_map(|bytes| write_units(offer, design, *bytes));
    let units: Vec<f64> = units.map(|units| units + design.write_units_behind).collect();
    let write_units = (!units.is_empty()).then(|| units.iter().sum::<f64>() / units.len() as f64);
    let commit = write_units.unwrap_or_default() * each(offer.write_unit.as_ref())
        + design.queue_requests_behind * each(offer.queue_request.as_ref())
        + each(offer.append_request.as_ref());
    let stream_bytes = observed.bytes as f64 / observed.streams.max(1) as f64;
    let load = read_units(offer, stream_bytes).unwrap_or_default() * each(offer.read_unit.as_ref())
        + each(offer.read_request.as_ref());
    let operations = observed.commits_a_month() * commit + observed.loads_a_month * load;
    let stored = observed.bytes as f64 + (observed.commits * offer.stored_bytes_more) as f64;
    let stored_usd = stored / GB * each(offer.stored_gb_month.as_ref());
    let hottest = |limit: u64| write_units.map(|units| units * observed.stream_peak_second as f64 / limit as f64);
    // A move writes each commit once more; the way back reads them, all together.
    let read = read_units(offer, observed.bytes as f64).unwrap_or_default() * each(offer.read_unit.as_ref());
    let name = design.name();
    Bill {
        offer: if name.is_empty() { offer.name.clone() } else { format!("{}, {name}", offer.name) },
        provider: offer.provider.clone(),
        operations_usd: TIMES.map(|times| operations * times),
        hours_usd: MONTH_HOURS * each(offer.hour.as_ref()),
        stored_usd: TIMES.map(|times| stored_usd * times),
        write_units_a_commit: write_units,
        hottest_of_partition: offer.partition_units_a_second.and_then(hottest),
        moved_in_usd: observed.commits as f64 * commit,
        moved_out_usd: read,
        left_out: design.left_out(offer),
    }
}

/// What a row was reckoned to take by the rules of an offer, beside what its receipts counted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reckoned {
    /// The row.
    pub row: String,
    /// The offer.
    pub offer: String,
    /// Of what: `write units`, `read units`, `requests`; of one operation.
    pub of: String,
    /// By the rules.
    pub estimated: f64,
    /// By the receipts.
    pub counted: f64,
}

/// At how many times of what was seen one bill becomes dearer than another that is dearer now. None where it never does.
#[must_use]
pub fn crossing(cheaper: &Bill, dearer: &Bill) -> Option<f64> {
    // Both are straight lines: what is paid anyway, and what grows with use.
    let grows = |bill: &Bill| bill.operations_usd[0] + bill.stored_usd[0];
    let (faster, slower) = (grows(cheaper), grows(dearer));
    let times = (dearer.hours_usd - cheaper.hours_usd) / (faster - slower);
    (faster > slower && times > 1.0).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        Observed {
            commits: 730 * 3_600,
            events: 730 * 3_600,
            streams: 1_000,
            seconds: 730.0 * 3_600.0,
            bytes: 730 * 3_600 * 500,
            commit_bytes: vec![500; 19].into_iter().chain([1_000]).collect(),
            stream_events: vec![1; 20],
            peak_second: 40,
            stream_peak_second: 10,
            hottest: vec![0.1],
            by_hour: vec![0.0; 24],
            loads_a_month: 1_000_000.0,
        }
    }

    #[test]
    fn a_month_is_priced_by_the_offers_own_rules() {
        let payer = |provider: &str, settings: &[(&str, &str)]| Payer {
            provider: provider.into(),
            settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let payers = [payer("dynamodb", &[]), payer("postgres", &[])];
        let bills = bills(&observed(), &Prices::list(), &payers);
        let dynamodb = &bills[0];
        // Nineteen of twenty commits take one unit, and one of 1,000 bytes with what is added takes two.
        assert_eq!(dynamodb.write_units_a_commit, Some(1.05));
        // In a transaction with the record of the log both count twice.
        let transactional = payer("dynamodb", &[("feed", "transactional")]);
        let transactional = &super::bills(&observed(), &Prices::list(), &[transactional])[0];
        assert_eq!(transactional.write_units_a_commit, Some(4.1));
        // 2.628 million commits at 1.05 units, and a million loads of a stream of 1.3 MB: 321 read units each.
        let operations = 2.628 * 1.05 * 0.625 + 321.0 * 0.125;
        assert!((dynamodb.operations_usd[0] - operations).abs() < 1e-6, "{dynamodb:?}");
        assert_eq!(dynamodb.hottest_of_partition, Some(0.0105));
        assert!((dynamodb.moved_in_usd - 2.628 * 1.05 * 0.625).abs() < 1e-6, "{dynamodb:?}");
        assert!((bills[1].total_usd()[0] - (730.0 * 0.12 + 1.314 * 0.10)).abs() < 1e-6, "{:?}", bills[1]);
    }

    #[test]
    fn one_bill_overtakes_the_other_where_their_lines_cross() {
        let bill = |grows: f64, hours: f64| Bill {
            offer: String::new(),
            provider: String::new(),
            operations_usd: TIMES.map(|times| times * grows),
            hours_usd: hours,
            stored_usd: [0.0; 3],
            write_units_a_commit: None,
            hottest_of_partition: None,
            moved_in_usd: 0.0,
            moved_out_usd: 0.0,
            left_out: String::new(),
        };
        assert_eq!(crossing(&bill(10.0, 0.0), &bill(0.0, 80.0)), Some(8.0));
        assert_eq!(crossing(&bill(1.0, 0.0), &bill(2.0, 80.0)), None);
    }
}
