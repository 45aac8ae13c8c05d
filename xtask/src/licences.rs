//! Every dependency's licence is one that we may use. Advisories are not checked here: their list can't be had offline.

use crate::run::{cargo, output};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What a dependency may be offered under. A choice (`OR`) needs one of them, a sum (`AND`) all.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "MIT-0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

/// Looks at every package that the lock file names for this platform.
///
/// # Errors
/// When one has no licence of the list, naming it.
pub fn check() -> Result<()> {
    let metadata: Value = serde_json::from_str(&output(&mut cargo(&["metadata", "--format-version=1", "--locked"]))?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let refused: Vec<_> = packages
        .iter()
        .filter(|package| !allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {} ({})", package["name"], package["version"], package["license"]))
        .collect();
    if !refused.is_empty() {
        bail!(
            "dependencies under a licence that is not on the list of xtask/src/licences.rs:\n  {}",
            refused.join("\n  ")
        );
    }
    println!("== licences of {} packages are on the list", packages.len());
    Ok(())
}

/// Whether an SPDX expression without nested brackets can be met. The old `A/B` means a choice.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let met = |part: &str| part.split(" AND ").all(|one| ALLOWED.contains(&one.trim_matches([' ', '(', ')'])));
    if expression.contains(") AND") || expression.contains("AND (") {
        // `(A OR B) AND C`: every side of the sum has to be met by one of its choices.
        return expression.split(" AND ").all(|side| side.split(" OR ").any(met));
    }
    expression.split(" OR ").any(met)
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn an_expression_is_met_by_one_choice_of_each_sum() {
        for good in ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
