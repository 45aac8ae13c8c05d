//! `evstore estimate`: what a month of a profile costs, by a price file.

use crate::commands::{compare, profile};
use crate::failure::{Failure, Result};
use crate::output::{Cell, Format};
use crate::session::Session;
use evstore_api::StoreName;
use evstore_compare::estimate::{Bill, Payer, bills, crossing};
use evstore_compare::figures::{bytes, dollars, grouped, rate, share};
use evstore_compare::observed::Observed;
use evstore_compare::run::told;
use evstore_compare::workload::Plan;
use serde_json::json;
use std::path::PathBuf;

/// What `estimate` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Price a month of what a store holds and how it grows: now, at three and at ten times. What there is comes from a \
                  workload file that `evstore profile` made, or is read off the store; what is asked for comes from a dated price file, each \
                  figure with its source. Units are reckoned by the rules of an offer; what an engine really counts is in the report of \
                  `evstore compare --workload FILE`.",
    after_help = "Examples:\n  evstore estimate\n  evstore profile main --file mine.toml; evstore estimate --workload mine.toml\n  \
                  evstore estimate --workload mine.toml next --prices ours.toml -o json\n  evstore estimate --print-prices > ours.toml"
)]
pub struct Args {
    /// Only offers for the providers of these stores; else all that the price file has.
    #[arg(value_name = "STORE", value_parser = crate::args::store_name)]
    stores: Vec<StoreName>,
    /// A workload file that `evstore profile` made; else the store is read: -s, or the default.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Prices from a file instead of those that ship with the command.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// How many streams are loaded in a month, instead of what the workload file says.
    #[arg(long, value_name = "NUMBER")]
    loads: Option<u64>,
    /// Print the prices that ship with the command, to be changed, and estimate nothing.
    #[arg(long)]
    print_prices: bool,
}

/// Prices a month.
///
/// # Errors
/// Wrong use for a workload file that was not made of a live store.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let prices = compare::prices(args.prices.as_deref())?;
    if args.print_prices {
        let json = serde_json::to_value(&prices).unwrap_or_default();
        return session.output().text(&json, evstore_compare::prices::LIST);
    }
    let mut payers = Vec::new();
    for store in &args.stores {
        session.select(Some(store.clone()));
        let configured = session.configured()?;
        payers.push(Payer { provider: configured.provider.name.to_owned(), settings: told(&configured.settings) });
    }
    session.select(None);
    let plan = match &args.workload {
        Some(path) => Plan::parse(&compare::text(path)?, &path.display().to_string())?,
        None => profile::observe(session, None).await?,
    };
    let Some(mut observed) = plan.observed else {
        let message = "the workload file was not made of a live store: it has no [observed]";
        return Err(Failure::usage(message, "evstore profile makes one"));
    };
    if let Some(loads) = args.loads {
        observed.loads_a_month = loads as f64;
    }
    let bills = bills(&observed, &prices, &payers);
    if bills.is_empty() {
        let providers: Vec<&str> = payers.iter().map(|payer| payer.provider.as_str()).collect();
        let message = format!("the price file has no offer for {}", providers.join(", "));
        return Err(Failure::usage(
            message,
            "evstore estimate --print-prices shows what it has; --prices takes another",
        ));
    }
    let date = format!("{}, {}, {}", prices.region, prices.currency, prices.date);
    print(&observed, &bills, &date, session)
}

fn print(observed: &Observed, bills: &[Bill], date: &str, session: &mut Session) -> Result {
    let pairs = bills.iter().flat_map(|one| bills.iter().map(move |other| (one, other)));
    let overtakes: Vec<(&str, &str, f64)> =
        pairs.filter_map(|(one, other)| Some((&*one.offer, &*other.offer, crossing(one, other)?))).collect();
    let output = session.output();
    if output.format() != Format::Table {
        let totals = bills.iter().map(|bill| json!({ "bill": bill, "total_usd": bill.total_usd() }));
        let overtakes = overtakes
            .iter()
            .map(|(one, other, times)| json!({ "offer": one, "becomes_dearer_than": other, "at_times": times }));
        let document = json!({
            "prices": date,
            "observed": observed,
            "bills": totals.collect::<Vec<_>>(),
            "overtakes": overtakes.collect::<Vec<_>>(),
        });
        return output.text(&document, "");
    }
    output.line(&format!(
        "{} commits a month of {} on average, the largest {}; {} in the fullest second, {} of one stream; {} loads a month; prices of {date}",
        rate(observed.commits_a_month()),
        bytes(observed.bytes / observed.commits.max(1)),
        bytes(observed.largest_commit()),
        grouped(observed.peak_second),
        grouped(observed.stream_peak_second),
        rate(observed.loads_a_month),
    ))?;
    let columns =
        ["offer", "a month now", "at 3 times", "at 10 times", "of it hours", "hottest of its partition", "left out"];
    let mut list = output.list("bills", serde_json::Map::new(), &columns);
    for bill in bills {
        list.item("", || {
            let mut cells: Vec<Cell> = vec![bill.offer.as_str().into()];
            cells.extend(bill.total_usd().map(|usd| Cell::from(dollars(usd))));
            cells.push(dollars(bill.hours_usd).into());
            cells.push(bill.hottest_of_partition.map_or_else(|| "-".into(), share).into());
            cells.push(bill.left_out.as_str().into());
            cells
        })?;
    }
    list.end(serde_json::Map::new(), "")?;
    for (one, other, times) in overtakes {
        output.line(&format!("{one} becomes dearer than {other} at {times:.1} times of what there is now"))?;
    }
    if observed.loads_a_month == 0.0 {
        output.note("loads are priced where --loads says how many there are: a store does not know it");
    }
    output.flush()
}
