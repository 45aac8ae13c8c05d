//! What services ask for: a dated file, each figure with its source, to be replaced by whoever pays other prices.

use crate::workload::misread;
use evstore_api::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The form of price files that this release reads.
pub const SCHEMA: u32 = 1;
/// The prices that ship with the command.
pub const LIST: &str = include_str!("../prices.toml");

/// A price file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The form of the file.
    pub schema: u32,
    /// The day on which it was put together.
    pub date: String,
    /// Where the prices hold.
    pub region: String,
    /// In what they are; figures are called usd whatever it is.
    pub currency: String,
    /// The ways to pay.
    #[serde(rename = "offer")]
    pub offers: Vec<Offer>,
    /// What set-ups of a provider write besides each commit, for estimates. What is not named writes nothing.
    #[serde(rename = "design", default)]
    pub designs: Vec<Design>,
}

/// What a set-up writes: an estimate goes by it, and a run counts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Design {
    /// The provider that it is of.
    pub provider: String,
    /// The settings that make it.
    pub when: BTreeMap<String, String>,
    /// How often each write unit is counted: twice in a transaction.
    #[serde(default = "one")]
    pub write_times: f64,
    /// Items of one unit that are written besides each commit, by one that appends alone: those that append together share them.
    #[serde(default)]
    pub write_items_more: f64,
    /// Write units for each commit that somebody writes behind the append: in a bill, and in no receipt.
    #[serde(default)]
    pub write_units_behind: f64,
    /// Requests to a queue for each commit that somebody sends behind the append: likewise.
    #[serde(default)]
    pub queue_requests_behind: f64,
    /// What a bill has besides, and is in no receipt.
    #[serde(default)]
    pub left_out: Option<String>,
    /// Where this is from.
    pub source: String,
}

impl Design {
    /// Of a provider that writes nothing but commits.
    fn plain() -> Self {
        Self { write_times: 1.0, ..Self::default() }
    }

    /// What an offer leaves out, and what this design does.
    #[must_use]
    pub fn left_out(&self, offer: &Offer) -> String {
        self.left_out.iter().fold(offer.left_out.clone(), |all, more| format!("{all}; {more}"))
    }

    /// What an offer asks for each commit for what is done behind the append.
    #[must_use]
    pub fn behind(&self, offer: &Offer) -> f64 {
        self.write_units_behind * each(offer.write_unit.as_ref())
            + self.queue_requests_behind * each(offer.queue_request.as_ref())
    }

    /// The settings, as a name; empty where there are none.
    #[must_use]
    pub fn name(&self) -> String {
        self.when.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
    }
}

/// One way to pay for a kind of store. What it does not ask for is absent.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// The provider that it is for.
    pub provider: String,
    /// For a write unit.
    pub write_unit: Option<Price>,
    /// For a read unit.
    pub read_unit: Option<Price>,
    /// For a request that appends.
    pub append_request: Option<Price>,
    /// For a request that reads.
    pub read_request: Option<Price>,
    /// For a request to a queue that keeps an order, where a set-up has one.
    pub queue_request: Option<Price>,
    /// For an hour, used or not.
    pub hour: Option<Price>,
    /// For a stored GB (10⁹ bytes) and month.
    pub stored_gb_month: Option<Price>,
    /// Bytes that are paid for each commit besides its own.
    #[serde(default)]
    pub stored_bytes_more: u64,
    /// Bytes of a write unit; needed to estimate them.
    pub write_unit_bytes: Option<u64>,
    /// Bytes of a read unit; needed to estimate them.
    pub read_unit_bytes: Option<u64>,
    /// Bytes that units count besides those of a commit: keys, names of attributes.
    #[serde(default)]
    pub unit_bytes_more: u64,
    /// Write units that one stream gets in a second.
    pub partition_units_a_second: Option<u64>,
    /// What a bill has besides, and is not in here.
    pub left_out: String,
}

/// One figure.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The price.
    pub usd: f64,
    /// For how many.
    #[serde(default = "one")]
    pub per: f64,
    /// When it held.
    pub date: String,
    /// Where it was read.
    pub source: String,
}

fn one() -> f64 {
    1.0
}

impl Price {
    /// For one.
    #[must_use]
    pub fn each(&self) -> f64 {
        self.usd / self.per
    }
}

/// The price of one, nothing where it is not asked for.
#[must_use]
pub fn each(price: Option<&Price>) -> f64 {
    price.map_or(0.0, Price::each)
}

impl Prices {
    /// Reads a price file.
    ///
    /// # Errors
    /// `Invalid`, with the line; for a figure without a source too.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let prices: Self = toml::from_str(text).map_err(|cause| misread(&cause, text, file))?;
        let refused = |message| Error::new(ErrorKind::Invalid, message).with("file", file);
        if prices.schema != SCHEMA {
            return Err(refused("this release does not read price files of this schema").with("wanted", SCHEMA));
        }
        for offer in &prices.offers {
            for price in offer.prices() {
                let is_right =
                    price.usd >= 0.0 && price.usd.is_finite() && price.per >= 1.0 && !price.source.is_empty();
                if !is_right {
                    let error =
                        refused("a price is a number from 0, for at least one, with the source where it was read");
                    return Err(error.with("offer", &offer.name));
                }
            }
        }
        for design in &prices.designs {
            let is_right = (1.0..=100.0).contains(&design.write_times)
                && (0.0..=100.0).contains(&design.write_items_more)
                && (0.0..=100.0).contains(&design.write_units_behind)
                && (0.0..=100.0).contains(&design.queue_requests_behind)
                && !design.source.is_empty();
            if !is_right {
                let error = refused("a design counts each unit once at least, and names where that was read");
                return Err(error.with("provider", &design.provider));
            }
        }
        Ok(prices)
    }

    /// The prices that ship with the command.
    #[must_use]
    pub fn list() -> Self {
        Self::parse(LIST, "prices").expect("a test parses it")
    }

    /// What a set-up writes besides its commits.
    #[must_use]
    pub fn design(&self, provider: &str, settings: &BTreeMap<String, String>) -> Design {
        let fits = |design: &&Design| {
            design.provider == provider && design.when.iter().all(|(key, value)| settings.get(key) == Some(value))
        };
        self.designs.iter().find(fits).cloned().unwrap_or_else(Design::plain)
    }

    /// Every set-up of a provider that is named, or the plain one.
    #[must_use]
    pub fn designs_of(&self, provider: &str) -> Vec<Design> {
        let designs: Vec<Design> = self.designs.iter().filter(|design| design.provider == provider).cloned().collect();
        if designs.is_empty() { vec![Design::plain()] } else { designs }
    }

    /// The ways to pay for a provider.
    pub fn of<'a>(&'a self, provider: &'a str) -> impl Iterator<Item = &'a Offer> {
        self.offers.iter().filter(move |offer| offer.provider == provider)
    }
}

impl Offer {
    fn prices(&self) -> impl Iterator<Item = &Price> {
        let of_requests = [&self.append_request, &self.read_request, &self.queue_request];
        let others = [&self.write_unit, &self.read_unit, &self.hour, &self.stored_gb_month];
        of_requests.into_iter().chain(others).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_every_figure_has_a_source() {
        let prices = Prices::list();
        assert_eq!(["dynamodb", "postgres", "s3"].map(|provider| prices.of(provider).count()), [1, 2, 2]);
    }

    #[test]
    fn a_design_is_found_by_its_settings() {
        let prices = Prices::list();
        let of = |feed: &str| prices.design("dynamodb", &BTreeMap::from([("feed".to_owned(), feed.to_owned())]));
        assert_eq!((of("transactional").write_times, of("transactional").write_items_more), (2.0, 1.0));
        assert_eq!((of("sequencer").write_times, of("sequencer").write_units_behind), (1.0, 1.0));
        assert_eq!((of("sqs-fifo").write_units_behind, of("sqs-fifo").queue_requests_behind), (1.0, 3.0));
        // A unit of 0.625 dollars a million, and three requests of half a dollar a million.
        let offer = prices.of("dynamodb").next().unwrap();
        assert!((of("sqs-fifo").behind(offer) * 1e6 - 2.125).abs() < 1e-9);
        assert_eq!((of("another").write_times, of("another").write_items_more), (1.0, 0.0));
        assert_eq!(prices.designs_of("s3"), [Design::plain()]);
    }

    #[test]
    fn a_figure_without_a_source_is_refused() {
        let text = LIST.replace("infracost, testdata of that day", "");
        assert_eq!(Prices::parse(&text, "mine.toml").unwrap_err().kind(), ErrorKind::Invalid);
        let error = Prices::parse(&LIST.replace("left_out", "leftout"), "mine.toml").unwrap_err();
        assert!(error.context().contains(&("did you mean", "left_out".into())), "{error:?}");
    }
}
