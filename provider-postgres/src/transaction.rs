//! A write transaction with several statements: what administration, snapshots and records use. Appends need none.

use crate::codec;
use crate::error::{self, Fate, Result as Worked};
use crate::statements::{Statement, Statements};
use crate::store::{Lent, Shared};
use evstore_api::{Deadline, Head, Meta, Result, StoreName, StreamId, Timestamp};
use evstore_kit::decide::Situation;
use evstore_kit::refusal;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Executor, PgConnection, Postgres};
use std::sync::Arc;

/// A running transaction. Dropped before its end, its connection is closed and the server undoes it.
pub struct Transaction {
    lent: Lent,
    statements: Arc<Statements>,
    own: StoreName,
    now: Timestamp,
}

/// What was read under the locks and a decision hangs on.
pub struct Found {
    /// The store's record.
    pub meta: Meta,
    /// What stands last in the stream, if anything does.
    pub last: Option<codec::Last>,
    /// The head.
    pub head: Head,
}

impl Transaction {
    /// Begins. Nothing on the server outlives the deadline.
    pub async fn begin(client: &Shared, deadline: Deadline) -> Result<Self> {
        let lent = client.connection(deadline).await?;
        if let Err(passed) = refusal::check_deadline(deadline) {
            lent.give_back();
            return Err(passed);
        }
        let millis = deadline.remaining().as_millis().clamp(1, i32::MAX as u128);
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {millis}");
        let (statements, own) = (client.statements.clone(), client.own().clone());
        let mut transaction = Self { lent, statements, own, now: client.now() };
        let begun = transaction.connection().execute(&*begin).await;
        begun.map_err(error::not_written)?;
        Ok(transaction)
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.lent.connection()
    }

    /// The statements of the store.
    pub fn statements(&self) -> Arc<Statements> {
        self.statements.clone()
    }

    /// The present moment, the same for the whole transaction.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Runs a statement to its end.
    pub async fn execute(&mut self, query: Query<'_, Postgres, PgArguments>) -> Worked<u64> {
        Ok(query.execute(self.connection()).await?.rows_affected())
    }

    /// Runs a statement and gives its rows.
    pub async fn rows(&mut self, query: Query<'_, Postgres, PgArguments>) -> Worked<Vec<PgRow>> {
        Ok(query.fetch_all(self.connection()).await?)
    }

    /// Runs a statement and gives its first row.
    pub async fn row(&mut self, query: Query<'_, Postgres, PgArguments>) -> Worked<Option<PgRow>> {
        Ok(self.rows(query).await?.into_iter().next())
    }

    /// Runs a statement that has no parameters.
    pub async fn run(&mut self, statement: fn(&Statements) -> &Statement) -> Worked<()> {
        let query = statement(&self.statements).query();
        self.execute(query).await.map(drop)
    }

    /// Locks the fence from the side of a writer, then the stream; what is read afterwards stays so.
    pub async fn lock_stream(&mut self, schema: &str, stream: &StreamId) -> Worked<Found> {
        self.run(|statements| &statements.share_store).await?;
        let lock = self.statements.lock_stream.query().bind(codec::lock_of(schema, stream));
        self.execute(lock).await?;
        self.find(stream).await
    }

    /// Reads a stream's head with the store's record.
    async fn find(&mut self, stream: &StreamId) -> Worked<Found> {
        let head = self.statements.head.query().bind(stream.namespace.as_str()).bind(stream.name.as_str());
        let row = self.row(head).await?.ok_or_else(missing_record)?;
        let meta = codec::meta(&row, 8)?;
        let last = codec::last(&row, 0)?;
        let head = codec::head_of(last.as_ref(), &meta, &self.own);
        Ok(Found { meta, last, head })
    }

    /// Reads the store's record.
    pub async fn meta(&mut self) -> Worked<Meta> {
        let meta = self.statements.meta.query();
        let row = self.row(meta).await?.ok_or_else(missing_record)?;
        codec::meta(&row, 0)
    }

    /// Reads the store's record, whichever release may write the store.
    pub async fn any_meta(&mut self) -> Worked<Meta> {
        let meta = self.statements.meta.query();
        let row = self.row(meta).await?.ok_or_else(missing_record)?;
        codec::any_meta(&row, 0)
    }

    /// What a decision hangs on.
    pub fn situation<'a>(&'a self, found: &'a Found) -> Situation<'a> {
        Situation { meta: &found.meta, own: &self.own, head: &found.head, last_position: None, now: self.now }
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// `Indeterminate` where the answer to COMMIT did not come.
    pub async fn commit(mut self) -> Result<()> {
        let committed = self.connection().execute("COMMIT").await;
        match committed {
            Ok(_) => {
                self.lent.give_back();
                Ok(())
            }
            Err(failed) if error::fate(&failed) == Fate::Unknown => Err(error::indeterminate(&failed)),
            Err(failed) => Err(error::not_written(failed)),
        }
    }

    /// Undoes it, and gives the connection back.
    pub async fn roll_back(mut self) {
        let undone = self.connection().execute("ROLLBACK").await;
        // A connection that could not say so is closed by the drop, which undoes it too.
        if undone.is_ok() {
            self.lent.give_back();
        }
    }

    /// Commits what succeeded, undoes what did not.
    pub async fn end<T>(self, worked: Worked<T>) -> Result<T> {
        match worked {
            Ok(answer) => self.commit().await.map(|()| answer),
            Err(stop) => {
                self.roll_back().await;
                Err(stop.into())
            }
        }
    }
}

fn missing_record() -> evstore_api::Error {
    evstore_api::Error::new(evstore_api::ErrorKind::Schema, "the store's record is missing")
}
