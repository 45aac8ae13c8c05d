//! The floor under a store in Postgres: one `INSERT` into the same table for each commit, a transaction each, through a pool; a load is
//! one `SELECT`.

use crate::config::Config;
use crate::error;
use async_trait::async_trait;
use evstore_api::{Result, Settings, Usage};
use evstore_kit::floor::{Bare, Floor, Put};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::sync::Arc;

/// The floor.
#[must_use]
pub fn floor() -> Arc<dyn Floor> {
    Arc::new(Server)
}

/// The statement that writes one commit into the table of a schema, whose name was validated.
#[must_use]
pub fn insert(schema: &str) -> String {
    format!(
        "INSERT INTO \"{schema}\".commits (stream, number, revision, recorded_at, xid, ordering, count, id, digest, events)
         VALUES ($1, $2, $3, $4, pg_current_xact_id()::text::bigint, nextval('\"{schema}\".order_of_commits'), $5, $6::text::uuid,
         $6::text::uuid, $7)"
    )
}

#[derive(Debug)]
struct Server;

#[async_trait]
impl Floor for Server {
    fn sentence(&self) -> &'static str {
        "sqlx, one INSERT for each commit into the same table, a transaction each; a load is one SELECT"
    }

    fn loads(&self) -> bool {
        true
    }

    async fn connect(&self, scratch: &Settings) -> Result<Arc<dyn Bare>> {
        let config = Config::new(scratch)?;
        let pool = PgPoolOptions::new().max_connections(config.pool_max).test_before_acquire(false);
        let pool = pool.connect_lazy_with(config.connect_options()?.disable_statement_logging());
        let select =
            format!("SELECT events FROM \"{}\".commits WHERE stream = $1 ORDER BY revision, number", config.schema);
        Ok(Arc::new(Pool { pool, insert: insert(&config.schema), select }))
    }
}

#[derive(Debug)]
struct Pool {
    pool: PgPool,
    insert: String,
    select: String,
}

#[async_trait]
impl Bare for Pool {
    async fn append(&self, put: Put) -> Result<Usage> {
        sqlx::query(&self.insert)
            .bind(put.stream as i64)
            .bind(put.slot as i64)
            .bind(put.first_revision() as i64)
            .bind(put.slot as i64)
            .bind(i64::from(put.count))
            .bind(put.id.to_string())
            .bind(&put.events[..])
            .execute(&self.pool)
            .await
            .map_err(|cause| error::indeterminate(&cause))?;
        Ok(crate::codec::ONE_REQUEST)
    }

    async fn load(&self, stream: u64) -> Result<Usage> {
        let rows = sqlx::query_scalar::<_, Vec<u8>>(&self.select).bind(stream as i64).fetch_all(&self.pool);
        rows.await.map_err(error::not_written)?;
        Ok(crate::codec::ONE_REQUEST)
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
