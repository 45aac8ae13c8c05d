//! One value of the config: where it came from, what it is once variables and files are put in, and what may be shown of it.

use evstore_api::{Error, ErrorKind, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// What stands where a secret is not shown.
pub const MASK: &str = "***";

/// Where a value came from. The strongest comes last: flag > environment > file > default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody gave it.
    Default,
    /// A line of the config file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line, or the calling program.
    Flag {
        /// As it is written: `--store`.
        flag: String,
    },
}

impl ValueOrigin {
    /// Adds the place to an error, under the name that fits.
    pub(crate) fn locate(&self, error: Error) -> Error {
        match self {
            Self::Default => error,
            Self::File { .. } => error.with("file", self),
            Self::Environment { variable } => error.with("variable", variable),
            Self::Flag { flag } => error.with("flag", flag),
        }
    }
}

/// `default`, `evstore.toml:7`, `$EVSTORE_STORES__MAIN__URL` or `--store`.
impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "${variable}"),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// What was written for a value.
#[derive(Clone)]
enum Written {
    /// Text, perhaps with `${VAR}` in it.
    Text(String),
    /// `{ file = "…" }`.
    File(PathBuf),
}

/// What a value is, or what it lacks.
#[derive(Clone)]
enum Resolved {
    Text(String),
    /// A variable that is not set.
    Unset(String),
    /// A `${` without its `}`.
    Unclosed,
    /// The content of this file, read when the value is asked for.
    InFile(PathBuf),
}

/// A value that somebody gave.
#[derive(Clone)]
pub struct Given {
    written: Written,
    resolved: Resolved,
    origin: ValueOrigin,
}

/// What it is stays unsaid: it may be a secret.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Given({})", self.origin)
    }
}

impl Given {
    /// Text of a config file, in which `${VAR}` stands for a variable and `$${` for a plain `${`.
    pub(crate) fn text(text: &str, origin: ValueOrigin, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self { written: Written::Text(text.into()), resolved: put_in(text, variable), origin }
    }

    /// Text that is taken as it is: from the environment or a flag.
    pub(crate) fn literal(text: &str, origin: ValueOrigin) -> Self {
        Self { written: Written::Text(text.into()), resolved: Resolved::Text(text.into()), origin }
    }

    /// The content of a file; `written` as in the config file, `path` from the config file's folder.
    pub(crate) fn in_file(written: &Path, path: PathBuf, origin: ValueOrigin) -> Self {
        Self { written: Written::File(written.into()), resolved: Resolved::InFile(path), origin }
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &ValueOrigin {
        &self.origin
    }

    /// The value. A file is read now, and loses the line break at its end.
    ///
    /// # Errors
    /// `Invalid` when a variable is not set or a file can't be read.
    pub(crate) fn value(&self) -> Result<String> {
        match &self.resolved {
            Resolved::Text(text) => Ok(text.clone()),
            Resolved::Unset(variable) => {
                Err(Error::new(ErrorKind::Invalid, "a variable that the config names is not set; set it")
                    .with("needs", format_args!("${variable}")))
            }
            Resolved::Unclosed => {
                Err(Error::new(ErrorKind::Invalid, "a value has ${ without }; write $${ for the characters themselves"))
            }
            Resolved::InFile(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.trim_end_matches('\r')).into()),
                Err(cause) => Err(Error::new(ErrorKind::Invalid, "a file that the config names can't be read")
                    .with("needs", path.display())
                    .caused_by(cause)),
            },
        }
    }

    /// What may be shown of a plain value: as it was written.
    pub(crate) fn shown(&self) -> String {
        match &self.written {
            Written::Text(text) => text.clone(),
            Written::File(path) => format!("{{ file = \"{}\" }}", path.display()),
        }
    }

    /// What may be shown of a secret: only where it is kept.
    pub(crate) fn shown_masked(&self) -> String {
        match &self.written {
            Written::Text(text) if is_only_variables(text) && matches!(self.origin, ValueOrigin::File { .. }) => {
                text.clone()
            }
            Written::Text(_) => MASK.into(),
            Written::File(_) => self.shown(),
        }
    }

    /// Whether it is a secret that stands in the config file itself.
    pub(crate) fn is_literal_secret(&self) -> bool {
        match (&self.written, &self.origin) {
            (Written::Text(text), ValueOrigin::File { .. }) => has_secret(text),
            _ => false,
        }
    }
}

/// Puts variables in.
fn put_in(text: &str, variable: impl Fn(&str) -> Option<String>) -> Resolved {
    let mut resolved = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            resolved.push_str(&rest[..at]);
            resolved.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        resolved.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            return Resolved::Unclosed;
        };
        match variable(name) {
            Some(value) => resolved.push_str(&value),
            None => return Resolved::Unset(name.into()),
        }
        rest = after;
    }
    resolved.push_str(rest);
    Resolved::Text(resolved)
}

/// The text without its `${VAR}`s.
fn without_variables(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        left.push_str(before);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    left + rest
}

fn is_only_variables(text: &str) -> bool {
    !text.is_empty() && without_variables(text).is_empty()
}

/// Whether a literal part of a secret value is secret. Of a URL that is the password; of anything else, all of it.
fn has_secret(text: &str) -> bool {
    let literal = without_variables(text);
    let Some((_, after)) = literal.split_once("://") else {
        return !literal.is_empty();
    };
    let authority = after.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    password || after.to_ascii_lowercase().split(['?', '&']).any(is_filled_password)
}

fn is_filled_password(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, value)| name.contains("password") && !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str) -> Result<String> {
        Given::text(text, ValueOrigin::Default, |name| (name == "WHO").then(|| "me".into())).value()
    }

    #[test]
    fn variables_are_put_in_anywhere() {
        assert_eq!(put("${WHO}").unwrap(), "me");
        assert_eq!(put("a://${WHO}@b/${WHO}").unwrap(), "a://me@b/me");
        assert_eq!(put("$${WHO} $WHO $").unwrap(), "${WHO} $WHO $");
    }

    #[test]
    fn what_can_not_be_put_in_is_named() {
        assert!(put("${NOBODY}").unwrap_err().to_string().contains("$NOBODY"));
        assert!(put("${WHO").unwrap_err().to_string().contains("${ without }"));
    }

    #[test]
    fn only_what_is_secret_counts_as_one() {
        for plain in
            ["${URL}", "postgres://localhost/db", "postgres://me:${PW}@host/db", "postgres://me@host?password=${PW}"]
        {
            assert!(!has_secret(plain), "{plain}");
        }
        for secret in ["hunter2", "postgres://me:hunter2@host/db", "redis://:hunter2@host", "a://b/?password=hunter2"] {
            assert!(has_secret(secret), "{secret}");
        }
    }
}
