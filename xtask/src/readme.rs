//! The commands of the README are run for real: every line of a `sh` block below `<!-- run -->`.

use crate::run::{evstore, root};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Runs the marked blocks of the README, each page in one empty folder, with the built command first on the path.
///
/// # Errors
/// When a line fails, naming it.
pub fn check() -> Result<()> {
    let text = std::fs::read_to_string(root().join("README.md")).context("README.md")?;
    let blocks = blocks(&text);
    if blocks.is_empty() {
        bail!("README.md has no block below `<!-- run -->`");
    }
    let folder = tempfile::tempdir()?;
    let binary = evstore()?;
    let bin = binary.parent().context("the command lies in a folder")?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for block in blocks {
        println!("\n== README:\n{block}");
        let status = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block])
            .env("PATH", &path)
            .env("REPOSITORY", root())
            .current_dir(folder.path())
            .status()?;
        if !status.success() {
            bail!("a block of README.md failed ({status}):\n{block}");
        }
    }
    Ok(())
}

/// The marked blocks.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "<!-- run -->" {
            continue;
        }
        if lines.next().is_some_and(|line| line.trim() == "```sh") {
            blocks.push(lines.by_ref().take_while(|line| line.trim() != "```").collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn marked_blocks_are_found() {
        let text = "a\n```sh\nno\n```\n<!-- run -->\n```sh\none\ntwo\n```\n";
        assert_eq!(blocks(text), ["one\ntwo"]);
    }
}
