//! `evstore init`: writes a commented config file, and nothing else.

use crate::failure::Result;
use crate::files::NewFile;
use crate::session::Session;
use crate::view;
use evstore::config::{EMBEDDED_PROVIDER, FILE_NAME};
use serde_json::Value;
use std::path::PathBuf;

/// What `init` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Write a commented config file with one store, and nothing else. An embedded store is made when it is \
                  first opened, any other by `evstore schema apply`.",
    after_help = "Examples:\n  evstore init\n  evstore init --template memory\n  evstore -c config/evstore.toml init"
)]
pub struct Args {
    /// Kind of the store, as `evstore providers` lists them.
    #[arg(long, value_name = "NAME", default_value = EMBEDDED_PROVIDER)]
    template: String,
    /// Print the file, and do not write it.
    #[arg(long)]
    dry_run: bool,
}

/// Writes the file.
///
/// # Errors
/// Wrong use for an unknown kind, or where there is a file already and nobody says to replace it.
pub fn run(args: &Args, session: &mut Session) -> Result {
    let text = session.registry().template(&args.template)?;
    let file = session.globals().config.clone().unwrap_or_else(|| PathBuf::from(FILE_NAME));
    let json = view::object([
        ("file", file.display().to_string().into()),
        ("provider", args.template.as_str().into()),
        ("dry_run", args.dry_run.into()),
        ("text", text.as_str().into()),
    ]);
    if args.dry_run {
        return session.output().text(&Value::Object(json), &text);
    }
    if file.exists() {
        session.confirm(&format!("{} exists. Replace it?", file.display()))?;
    }
    let mut new = NewFile::create(&file)?;
    new.write(text.as_bytes())?;
    new.finish()?;
    let next = if args.template == EMBEDDED_PROVIDER { "evstore append" } else { "evstore schema apply" };
    session.output().text(&Value::Object(json), &format!("wrote {}; next: edit it, then {next}", file.display()))
}
