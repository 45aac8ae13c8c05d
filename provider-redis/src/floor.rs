//! The floor under a store in Redis: the script that writes, through one bare connection that all callers share. A load gets the whole
//! hash of the stream.

use crate::codec;
use crate::config::{Config, Topology};
use crate::error::{self, Purpose};
use crate::keyspace::{Keyspace, member};
use crate::link::Link;
use crate::script;
use async_trait::async_trait;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{Clock as _, Deadline, Error, ErrorKind, Result, Settings, StreamId, SystemClock, Usage};
use evstore_kit::floor::{Bare, Floor, Put};
use redis::Value;
use redis::aio::MultiplexedConnection;
use std::fmt;
use std::sync::Arc;

/// Bytes of a frame of one event: what the store sends besides the events.
const STUB_BYTES: usize = 72;

/// The floor.
#[must_use]
pub fn floor() -> Arc<dyn Floor> {
    Arc::new(Server)
}

#[derive(Debug)]
struct Server;

#[async_trait]
impl Floor for Server {
    fn sentence(&self) -> &'static str {
        "the client of the redis crate, one EVALSHA of the same script for each commit over one connection; a load is one HGETALL"
    }

    fn loads(&self) -> bool {
        true
    }

    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>> {
        let config = Config::new(scratch)?;
        if config.topology == Topology::Cluster {
            return Err(Error::new(ErrorKind::Unsupported, "the floor is that of one server"));
        }
        let failed = |cause: redis::RedisError| error::failed(&cause, Purpose::Read);
        let keys = Keyspace::new(config.prefix.clone(), 1);
        let deadline = Deadline::within(config.connect_timeout * 2);
        // The store's own way to its primary, which a sentinel may have to name; then the bare connection.
        let link = Link::new(Arc::new(config), keys.clone(), 0);
        let mut connection = link.live(deadline).await?.connection;
        let token: String =
            redis::cmd("HGET").arg(keys.meta(0)).arg("token").query_async(&mut connection).await.map_err(failed)?;
        let hash: String =
            redis::cmd("SCRIPT").arg("LOAD").arg(script::WRITE).query_async(&mut connection).await.map_err(failed)?;
        Ok(Arc::new(One { connection, keys, token, hash }))
    }
}

struct One {
    connection: MultiplexedConnection,
    keys: Keyspace,
    token: String,
    hash: String,
}

/// Without the connection, which shows nothing.
impl fmt::Debug for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("One").field("keys", &self.keys).finish_non_exhaustive()
    }
}

const ONE_REQUEST: Usage = Usage { requests: 1, read_units: 0.0, write_units: 0.0 };

#[async_trait]
impl Bare for One {
    async fn append(&self, put: Put) -> Result<Usage> {
        let stream = StreamId::new(format!("order-{}", put.stream))?;
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(4);
        call.arg(self.keys.meta(0)).arg(self.keys.stream(&stream)).arg(self.keys.feed(0)).arg(self.keys.streams(0));
        call.arg(&self.token)
            .arg(codec::id_field(put.id))
            .arg(codec::hex(&put.id.0))
            .arg(put.first_revision() - 1)
            .arg("1")
            .arg("e");
        call.arg(put.count).arg(SystemClock.now().0).arg(&[b's'; STUB_BYTES][..]).arg(&put.events[..]).arg("");
        call.arg(member(&stream)).arg(NUMBER_MAX);
        let answer: Vec<Value> = call
            .query_async(&mut self.connection.clone())
            .await
            .map_err(|cause| error::failed(&cause, Purpose::Write))?;
        match answer.first() {
            Some(Value::Int(1)) => Ok(ONE_REQUEST),
            _ => Err(Error::new(ErrorKind::Conflict, "the script did not write")),
        }
    }

    async fn load(&self, stream: u64) -> Result<Usage> {
        let stream = StreamId::new(format!("order-{stream}"))?;
        let mut call = redis::cmd("HGETALL");
        call.arg(self.keys.stream(&stream));
        let _all: Value = call
            .query_async(&mut self.connection.clone())
            .await
            .map_err(|cause| error::failed(&cause, Purpose::Read))?;
        Ok(ONE_REQUEST)
    }

    async fn close(&self) {}
}
