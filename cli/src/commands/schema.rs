//! `evstore schema`: what a store needs in its engine, planned, made, checked and printed.

use crate::failure::Result;
use crate::output::{Format, Tone};
use crate::session::Session;
use crate::view;
use clap::{Subcommand, ValueEnum};
use evstore_api::{SchemaPlan, StoreName};
use serde_json::{Value, json};

/// What `schema` takes.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  evstore schema plan\n  evstore schema apply main\n  evstore schema check main\n  \
                        evstore schema print main --as sql > schema.sql"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what apply would do.
    Plan {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
    },
    /// Make or upgrade the schema.
    Apply {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
        /// Show what would be done, and do not.
        #[arg(long)]
        dry_run: bool,
    },
    /// Verify that the schema is what this release needs.
    Check {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
    },
    /// Print the statements that apply would run, for review or another tool.
    Print {
        /// The store; else -s, else the default.
        #[arg(id = "STORE", value_parser = crate::args::store_name)]
        store: Option<StoreName>,
        /// In which language.
        #[arg(long = "as", value_name = "LANGUAGE", value_enum, default_value = "sql")]
        language: Language,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// SQL statements.
    Sql,
    /// A CloudFormation template.
    Cloudformation,
}

/// Runs one of them.
///
/// # Errors
/// `Schema`, naming what is missing or different.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.command {
        Command::Plan { store } | Command::Apply { store, dry_run: true } => {
            session.select(store);
            let plan = session.open_admin().await?.plan_schema(session.deadline()).await;
            let plan = plan.map_err(|error| session.explained(error.into()))?;
            print_plan(session, &plan, "planned", "the schema is current: nothing to do")
        }
        Command::Apply { store, dry_run: false } => {
            session.select(store);
            let plan = session.open_admin().await?.apply_schema(session.deadline()).await;
            let plan = plan.map_err(|error| session.explained(error.into()))?;
            print_plan(session, &plan, "applied", "the schema was current: nothing was done")
        }
        Command::Check { store } => {
            session.select(store);
            let checked = session.open_admin().await?.check_schema(session.deadline()).await;
            checked.map_err(|error| session.explained(error.into()))?;
            let json = json!({ "schema": "current" });
            session.output().facts(&json, &[("schema", crate::output::Cell::toned("current", Tone::Good))])
        }
        Command::Print { store, language } => {
            session.select(store);
            print_statements(session, language).await
        }
    }
}

fn print_plan(session: &mut Session, plan: &SchemaPlan, verb: &'static str, none: &str) -> Result {
    let mut list = session.output().list("changes", view::object([]), &["#", verb]);
    for (change, number) in plan.changes.iter().zip(1..) {
        let json = json!({ "summary": change.summary, "statement": change.statement });
        list.item(&json.to_string(), || vec![format!("{number}").into(), change.summary.as_str().into()])?;
    }
    list.end(view::object([]), none)
}

/// The resources that statements are, where they are resources of CloudFormation.
fn resources(statements: &[&str]) -> Option<serde_json::Map<String, Value>> {
    let mut resources = serde_json::Map::new();
    for statement in statements {
        resources.extend(serde_json::from_str::<serde_json::Map<String, Value>>(statement).ok()?);
    }
    Some(resources)
}

/// The statements of a store that has nothing yet, whatever the given one has: a scratch store's plan would be empty, so
/// this is what the plan of the store itself holds.
async fn print_statements(session: &mut Session, language: Language) -> Result {
    let plan = session.open_admin().await?.plan_schema(session.deadline()).await;
    let plan = plan.map_err(|error| session.explained(error.into()))?;
    let statements: Vec<&str> =
        plan.changes.iter().map(|change| change.statement.as_str()).filter(|one| !one.is_empty()).collect();
    let resources = resources(&statements);
    let unsupported = |message| Err(evstore_api::Error::new(evstore_api::ErrorKind::Unsupported, message).into());
    match (language, session.output().format()) {
        (Language::Cloudformation, _) if statements.is_empty() => {
            session.output().note("the schema is current: nothing to print");
            Ok(())
        }
        (Language::Cloudformation, _) => match resources {
            Some(resources) => {
                let template = json!({ "AWSTemplateFormatVersion": "2010-09-09", "Resources": resources });
                session.output().text(&template, &format!("{template:#}"))
            }
            None => unsupported("only tables of DynamoDB are described by CloudFormation"),
        },
        (Language::Sql, _) if resources.is_some() && !statements.is_empty() => {
            unsupported("tables of DynamoDB have no SQL; print them with --as cloudformation")
        }
        (Language::Sql, Format::Table) => {
            if statements.is_empty() {
                session.output().note("the schema is current: nothing to print");
            }
            for statement in statements {
                session.output().line(&format!("{};", statement.trim_end().trim_end_matches(';')))?;
            }
            session.output().flush()
        }
        (Language::Sql, Format::Json | Format::Jsonl) => {
            session.output().text(&json!({ "statements": Value::from(statements) }), "")
        }
    }
}
