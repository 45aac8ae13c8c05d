//! The schema: what makes it, what is missing, and whether what is there is what this release needs.
//!
//! The statements are in `schema.sql`, reviewed as text. An upgrade expands first: a release adds what it needs, works with what
//! the release before wrote, and a later one takes away what nobody needs any more.

use crate::admin;
use crate::codec;
use crate::error::{self, Result as Worked};
use crate::statements::{Prepared, Statement};
use crate::store::Shared;
use evstore_api::{Deadline, Error, ErrorKind, Meta, Result, SchemaChange, SchemaPlan, format};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Executor, PgConnection, Postgres, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The statements that make a store, each below a line that says what it does.
pub const STATEMENTS: &str = include_str!("schema.sql");

/// Pause before a schema is dropped again.
const DROP_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One statement of the schema.
struct Part {
    summary: &'static str,
    statement: &'static str,
}

fn parts() -> impl Iterator<Item = Part> {
    STATEMENTS.split("--; ").skip(1).map(|part| {
        let (summary, statement) = part.split_once('\n').unwrap_or((part, ""));
        Part { summary, statement: statement.trim().trim_end_matches(';') }
    })
}

/// What a part makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Made<'a> {
    Schema,
    /// A table, an index, a sequence or a view.
    Relation(&'a str),
    Function(&'a str),
}

impl Part {
    fn made(&self) -> Made<'static> {
        let first_line = self.statement.lines().next().unwrap_or_default();
        let words: Vec<&str> =
            first_line.split([' ', '(']).filter(|word| !matches!(*word, "OR" | "REPLACE" | "UNIQUE")).collect();
        let name = words.get(2).copied().unwrap_or_default().trim_start_matches("{schema}.");
        match words.get(1).copied() {
            Some("SCHEMA") => Made::Schema,
            Some("FUNCTION") => Made::Function(name),
            _ => Made::Relation(name),
        }
    }

    /// What Postgres keeps of a function's text.
    fn body(&self) -> Option<&'static str> {
        self.statement.split("$$").nth(1)
    }

    fn change(&self, schema: &str) -> SchemaChange {
        let statement = self.statement.replace("{schema}", &format!("\"{schema}\""));
        SchemaChange { summary: self.summary.to_owned(), statement }
    }

    /// The columns of a table with their types, as `format_type` names them.
    fn columns(&self) -> Vec<(&'static str, &'static str)> {
        let Some((_, rest)) = self.statement.split_once("(\n") else { return Vec::new() };
        let lines = rest.lines().map(str::trim).take_while(|line| !line.starts_with(')'));
        let column = |line: &'static str| {
            let (name, rest) = line.split_once(' ')?;
            let kind = rest.split([' ', ',']).next()?;
            (!name.starts_with("--") && name != "PRIMARY").then_some((name, kind))
        };
        lines.filter_map(column).collect()
    }
}

/// What is in the schema.
#[derive(Debug, Default)]
struct Found {
    schema: bool,
    /// Relations, and whether each is an index that is unique, valid and complete, or no index.
    relations: BTreeMap<String, Soundness>,
    /// Columns of tables: `table.column`, with the type.
    columns: BTreeMap<String, String>,
    /// Functions with their text.
    functions: BTreeMap<String, String>,
}

/// Whether an index does what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Soundness {
    NoIndex,
    /// Its definition, where it is valid.
    Index(String),
    Invalid,
}

/// A statement that is run now and then: not worth keeping, and good behind any pooler.
fn once<'q>(sql: &'static str) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

async fn find(connection: &mut PgConnection, schema: &str) -> Worked<Found> {
    let mut found = Found::default();
    let rows = once("SELECT 1 FROM pg_namespace WHERE nspname = $1").bind(schema).fetch_all(&mut *connection).await?;
    found.schema = !rows.is_empty();
    let rows = once(
        "SELECT c.relname::text, i.indexrelid IS NOT NULL, coalesce(i.indisvalid AND i.indisready, true),
            coalesce(pg_get_indexdef(i.indexrelid), '')
        FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relnamespace = to_regnamespace(quote_ident($1))",
    );
    for row in rows.bind(schema).fetch_all(&mut *connection).await? {
        let definition: String = row.try_get(3)?;
        let sound = match (row.try_get::<bool, _>(1)?, row.try_get::<bool, _>(2)?) {
            (false, _) => Soundness::NoIndex,
            (true, true) => {
                Soundness::Index(definition.replace(&format!("{schema}."), "").replace(&format!("\"{schema}\"."), ""))
            }
            (true, false) => Soundness::Invalid,
        };
        found.relations.insert(row.try_get(0)?, sound);
    }
    let rows = once(
        "SELECT c.relname || '.' || a.attname, format_type(a.atttypid, NULL) FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace(quote_ident($1))",
    );
    for row in rows.bind(schema).fetch_all(&mut *connection).await? {
        found.columns.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let rows = once("SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident($1))");
    for row in rows.bind(schema).fetch_all(&mut *connection).await? {
        found.functions.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(found)
}

impl Found {
    /// Whether a part is there as this release makes it.
    ///
    /// # Errors
    /// `Schema` where something is there that is another thing.
    fn has(&self, part: &Part) -> Result<Presence> {
        let different =
            |name: &str| Err(Error::new(ErrorKind::Schema, "a part of the schema is different").with("name", name));
        match part.made() {
            Made::Schema if self.schema => Ok(Presence::Same),
            Made::Schema => Ok(Presence::Missing),
            Made::Function(name) => match self.functions.get(name) {
                None => Ok(Presence::Missing),
                Some(text) if Some(text.as_str()) == part.body() => Ok(Presence::Same),
                Some(_) => Ok(Presence::Different),
            },
            Made::Relation(name) => match self.relations.get(name) {
                None => Ok(Presence::Missing),
                Some(Soundness::NoIndex) => {
                    for (column, kind) in part.columns() {
                        if self.columns.get(&format!("{name}.{column}")).map(String::as_str) != Some(kind) {
                            return different(&format!("{name}.{column}"));
                        }
                    }
                    Ok(Presence::Same)
                }
                Some(Soundness::Index(definition)) => {
                    let unique = |text: &str| text.starts_with("CREATE UNIQUE");
                    let keys = |text: &str| text.split_once('(').map(|(_, keys)| keys.replace('"', ""));
                    if unique(definition) == unique(part.statement) && keys(definition) == keys(part.statement) {
                        Ok(Presence::Same)
                    } else {
                        different(name)
                    }
                }
                Some(Soundness::Invalid) => different(name),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Same,
    Missing,
    /// There in another release's form; only of what can be replaced.
    Different,
}

/// What [`apply`] would do.
///
/// # Errors
/// `Schema` when what is there was made by a newer release, or is something else.
pub async fn plan(shared: &Shared, deadline: Deadline) -> Result<SchemaPlan> {
    let schema = &shared.config.schema;
    let plan = shared
        .read(deadline, async |connection| {
            let found = find(connection, schema).await?;
            if found.relations.contains_key("store") {
                // A change of the schema is a write.
                if let Some(meta) = check_release(shared, connection).await? {
                    meta.format.check_write()?;
                }
            }
            Ok(plan_for(&found, schema)?)
        })
        .await?;
    Ok(plan)
}

fn plan_for(found: &Found, schema: &str) -> Result<SchemaPlan> {
    let mut changes = Vec::new();
    for part in parts() {
        if found.has(&part)? != Presence::Same {
            changes.push(part.change(schema));
        }
    }
    Ok(SchemaPlan { changes })
}

/// Refuses a store that a newer release made unreadable for this one; its record, where it has one.
async fn check_release(shared: &Shared, connection: &mut PgConnection) -> Worked<Option<Meta>> {
    let rows = shared.statements.meta.query().fetch_all(connection).await?;
    match rows.first() {
        Some(row) => codec::meta(row, 0).map(Some),
        None => Ok(None),
    }
}

/// Makes what is missing, in one transaction: of two processes that try, one does it.
///
/// # Errors
/// As [`plan`].
pub async fn apply(shared: &Shared, deadline: Deadline) -> Result<SchemaPlan> {
    let schema = &shared.config.schema;
    let plan = plan(shared, deadline).await?;
    if plan.changes.is_empty() {
        return Ok(plan);
    }
    let meta = Meta::new(shared.now());
    shared
        .write(deadline, async |transaction| {
            let lock = codec::lock_of(schema, &evstore_api::StreamId::new("evstore schema")?);
            transaction.execute(once("SELECT pg_advisory_xact_lock($1)").bind(lock)).await?;
            // Again, under the lock.
            let found = find(transaction.connection(), schema).await?;
            let plan = plan_for(&found, schema)?;
            for change in &plan.changes {
                let statement = Statement::new(&change.statement, schema, Prepared::Once);
                transaction.connection().execute(statement.sql()).await?;
            }
            let first_rows = FIRST_ROWS.map(|statement| Statement::new(statement, schema, shared.config.prepared));
            let [store, sequencer] = &first_rows;
            let access = admin::access(&meta);
            transaction.execute(store.query().bind(format::encode_meta(&meta)).bind(access)).await?;
            transaction.execute(sequencer.query()).await?;
            Ok(plan)
        })
        .await
}

/// The rows that every store has, one each.
const FIRST_ROWS: [&str; 2] = [
    "INSERT INTO {schema}.store (id, meta, access, system_identifier, timeline, commits_oid)
        SELECT 1, $1, $2, (SELECT system_identifier FROM pg_control_system()),
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer, '{schema}.commits'::regclass
        ON CONFLICT (id) DO NOTHING",
    "INSERT INTO {schema}.sequencer (id, snapshot, position) VALUES (1, pg_current_snapshot(), 0) ON CONFLICT (id) DO NOTHING",
];

/// Verifies that everything is there as this release needs it.
///
/// # Errors
/// `Schema`, naming what is missing or different.
pub async fn check(shared: &Shared, deadline: Deadline) -> Result<()> {
    let schema = &shared.config.schema;
    shared
        .read(deadline, async |connection| {
            let found = find(connection, schema).await?;
            let refused = |message, name: &str| {
                Err(Error::new(ErrorKind::Schema, message).with("schema", schema).with("name", name))
            };
            if !found.schema || !found.relations.contains_key("store") {
                return Ok(refused("the store has no schema yet; apply it", schema)?);
            }
            check_release(shared, connection).await?;
            for part in parts() {
                match (found.has(&part)?, part.made()) {
                    (Presence::Same, _) | (_, Made::Schema) => {}
                    (Presence::Missing, Made::Relation(name) | Made::Function(name)) => {
                        refused("a part of the schema is missing; apply it", name)?;
                    }
                    (Presence::Different, Made::Relation(name) | Made::Function(name)) => {
                        refused("a part of the schema is of another release; apply it", name)?;
                    }
                }
            }
            Ok(())
        })
        .await
}

/// What a role that may only read and append does not do at open: begin a new history.
///
/// # Errors
/// The error, if it is another one.
pub fn without_rights(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::Denied { Ok(()) } else { Err(error) }
}

/// What opening goes on after: a schema that this release does not change.
///
/// # Errors
/// The error, if it is another one.
pub fn without_changes(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::Schema { Ok(()) } else { Err(error) }
}

/// Makes the schema of a scratch store.
///
/// # Errors
/// `Conflict` when there is one.
pub async fn make_scratch(shared: &Shared, deadline: Deadline) -> Result<()> {
    let schema = &shared.config.schema;
    let found = shared.read(deadline, async |connection| find(connection, schema).await).await?;
    if found.schema {
        return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag").with("schema", schema));
    }
    apply(shared, deadline).await.map(drop)
}

/// Drops a schema and everything in it.
pub async fn remove(shared: &Shared, deadline: Deadline) -> Result<()> {
    let statement = Statement::new("DROP SCHEMA IF EXISTS {schema} CASCADE", &shared.config.schema, Prepared::Once);
    loop {
        let dropped =
            shared.write(deadline, async |transaction| transaction.execute(statement.query()).await.map(drop)).await;
        match dropped {
            // It locks one table after the other, and whoever still has the store open locks them in another order: the server then undoes
            // one of the two.
            Err(error) if error.kind() == ErrorKind::Unavailable && deadline.remaining() > DROP_AGAIN_AFTER => {
                tokio::time::sleep(DROP_AGAIN_AFTER).await;
            }
            dropped => return dropped,
        }
    }
}

/// The names of schemas that begin so.
pub async fn list(shared: &Shared, prefix: &str, deadline: Deadline) -> Result<BTreeSet<String>> {
    shared
        .read(deadline, async |connection| {
            let select = once("SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname::text, $1)");
            let rows = select.bind(prefix).fetch_all(connection).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_, error::Stop>>()
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_makes_one_thing_with_a_name() {
        let made: Vec<_> = parts().map(|part| part.made()).collect();
        assert_eq!(made.first(), Some(&Made::Schema));
        assert!(made.contains(&Made::Relation("commits_slot")) && made.contains(&Made::Function("append")));
        let distinct: BTreeSet<_> = made.iter().collect();
        assert_eq!(distinct.len(), made.len());
    }

    #[test]
    fn columns_are_read_with_their_types() {
        let part = parts().find(|part| part.made() == Made::Relation("sequencer")).unwrap();
        assert_eq!(part.columns(), [("id", "smallint"), ("snapshot", "pg_snapshot"), ("position", "bigint")]);
    }
}
