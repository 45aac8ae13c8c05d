//! Generated parts of pages: between `<!-- generated: NAME -->` and `<!-- end -->` stands what a command prints.

use crate::engines::{postgres, redis};
use crate::run::{evstore, output, root};
use crate::setup::{Setup, Shown};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Where generated parts stand.
const PAGES: &[&str] = &["README.md", "docs/CONTRACT.md", "docs/PROVIDERS.md", "docs/CLI.md"];

/// The stores of the table of promises, by names that say what is particular about them.
const SHOWN: &[(&str, Setup)] = &[
    ("memory", Setup::Memory),
    ("sqlite", Setup::Sqlite),
    ("dynamodb-on-a-local-engine-in-memory", Setup::DynamoDb("")),
    ("s3-on-a-local-engine", Setup::S3),
    ("postgres", Setup::Postgres(postgres::Release::Newest)),
    ("redis-appendfsync-always", Setup::Redis(redis::Release::Newest, redis::Setup::Always, "")),
    ("redis-appendfsync-everysec", Setup::Redis(redis::Release::Newest, redis::Setup::EverySecond, "")),
    ("redis-without-persistence", Setup::Redis(redis::Release::Newest, redis::Setup::Memory, "")),
    ("redis-sentinel-and-wait", Setup::Redis(redis::Release::Newest, redis::Setup::Sentinel, "")),
    ("redis-cluster-of-4-partitions", Setup::Redis(redis::Release::Newest, redis::Setup::Partitions, "")),
];

/// Writes every generated part anew.
///
/// # Errors
/// When a page or a part's command fails.
pub fn write() -> Result<()> {
    for (page, made) in made()? {
        std::fs::write(root().join(page), made)?;
    }
    Ok(())
}

/// Looks whether every generated part is what its command prints.
///
/// # Errors
/// When one is not, naming the page.
pub fn check() -> Result<()> {
    for (page, made) in made()? {
        if std::fs::read_to_string(root().join(page))? != made {
            bail!("{page} is not what the code says; `cargo xtask docs` writes it anew");
        }
    }
    Ok(())
}

/// Every page with its parts made anew.
fn made() -> Result<Vec<(&'static str, String)>> {
    let evstore = evstore()?;
    // Promises are read off stores, so every kind of set-up has one that runs.
    let shown = Shown::start(SHOWN)?;
    let part = |name: &str| {
        let mut command = Command::new(&evstore);
        shown.tell(&mut command);
        output(command.arg("generate").args(name.split(' ')).current_dir(shown.folder()))
    };
    PAGES
        .iter()
        .map(|page| {
            let text = std::fs::read_to_string(root().join(page)).with_context(|| (*page).to_owned())?;
            Ok((*page, fill(&text, part).with_context(|| (*page).to_owned())?))
        })
        .collect()
}

/// Replaces what stands between the marks.
fn fill(text: &str, part: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut made = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<!-- generated: ") {
        let (name, after) = after.split_once(" -->").context("a mark without an end")?;
        let (_, after) = after.split_once("<!-- end -->").with_context(|| format!("no `<!-- end -->` after {name}"))?;
        made += before;
        made += &format!("<!-- generated: {name} -->\n{}\n<!-- end -->", part(name)?.trim_end());
        rest = after;
    }
    Ok(made + rest)
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let text = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n";
        let made = fill(text, |name| Ok(format!("new {name}\n"))).unwrap();
        assert_eq!(made, "a\n<!-- generated: x -->\nnew x\n<!-- end -->\nb\n");
    }
}
