//! What services ask for: a dated file, each figure with its source, to be replaced by whoever pays other prices.

use crate::workload::misread;
use evstore_api::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

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
        Ok(prices)
    }

    /// The prices that ship with the command.
    #[must_use]
    pub fn list() -> Self {
        Self::parse(LIST, "prices").expect("a test parses it")
    }

    /// The ways to pay for a provider.
    pub fn of<'a>(&'a self, provider: &'a str) -> impl Iterator<Item = &'a Offer> {
        self.offers.iter().filter(move |offer| offer.provider == provider)
    }
}

impl Offer {
    fn prices(&self) -> impl Iterator<Item = &Price> {
        [&self.write_unit, &self.read_unit, &self.append_request, &self.read_request, &self.hour, &self.stored_gb_month]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_every_figure_has_a_source() {
        let prices = Prices::list();
        assert!(prices.of("dynamodb").count() == 1 && prices.of("postgres").count() == 2);
    }

    #[test]
    fn a_figure_without_a_source_is_refused() {
        let text = LIST.replace("infracost, testdata of that day", "");
        assert_eq!(Prices::parse(&text, "mine.toml").unwrap_err().kind(), ErrorKind::Invalid);
        let error = Prices::parse(&LIST.replace("left_out", "leftout"), "mine.toml").unwrap_err();
        assert!(error.context().contains(&("did you mean", "left_out".into())), "{error:?}");
    }
}
