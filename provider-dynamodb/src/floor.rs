//! The floor under a store on DynamoDB: one `PutItem` for each commit under the condition that its slot is free; a load is one `Query`.

use crate::config::Config;
use crate::link::{Condition, Link, Order, Range, Written};
use crate::tables::{EVENTS, Table, bytes, numbered, with};
use async_trait::async_trait;
use evstore_api::{Deadline, Error, ErrorKind, Result, Settings, Usage};
use evstore_kit::floor::{Bare, Floor, Put};
use std::sync::Arc;
use std::time::Duration;

/// Longest time of a request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Items of a page at most; a megabyte ends it sooner.
const PAGE_ITEMS: u32 = 1_000;

/// The floor.
#[must_use]
pub fn floor() -> Arc<dyn Floor> {
    Arc::new(Service)
}

#[derive(Debug)]
struct Service;

#[async_trait]
impl Floor for Service {
    fn sentence(&self) -> &'static str {
        "the SDK, one PutItem for each commit under the condition that its slot is free; a load is one Query"
    }

    fn loads(&self) -> bool {
        true
    }

    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>> {
        Ok(Arc::new(One(Link::new(&Config::new(scratch)?, None).await?)))
    }
}

#[derive(Debug)]
struct One(Link);

fn key(stream: u64) -> String {
    format!("floor-{stream}")
}

#[async_trait]
impl Bare for One {
    async fn append(&self, put: Put) -> Result<Usage> {
        let mut usage = Usage::default();
        let item = with(numbered(key(put.stream), put.slot), EVENTS, bytes(&put.events[..]));
        let item = with(item, "i", bytes(put.id.0));
        let deadline = Deadline::within(REQUEST_MAX);
        match self.0.put(Table::Commits, item, Condition::absent(), deadline, &mut usage).await? {
            Written::Done => Ok(usage),
            Written::Refused(_) | Written::Contended => Err(Error::new(ErrorKind::Conflict, "the slot is taken")),
        }
    }

    async fn load(&self, stream: u64) -> Result<Usage> {
        let mut usage = Usage::default();
        let (key, order) = (key(stream), Order::Rising);
        let range = Range { table: Table::Commits, key, from: None, to: None, order, only: None };
        let mut start = None;
        loop {
            let part = self.0.query(&range, start, PAGE_ITEMS, Deadline::within(REQUEST_MAX), &mut usage).await?;
            match part.next {
                Some(next) => start = Some(next),
                None => return Ok(usage),
            }
        }
    }

    async fn close(&self) {}
}
