//! The scripts: constant texts, run by their hash. Names, keys and values reach them as arguments only.

use redis::Cmd;

/// What several scripts know of a stored commit.
macro_rules! writing {
    ($file:literal) => {
        concat!("#!lua\n", include_str!("scripts/commits.lua"), include_str!(concat!("scripts/", $file)))
    };
}

/// Allowed where the server has no memory left, because it makes room.
macro_rules! freeing {
    ($file:literal) => {
        concat!(
            "#!lua flags=allow-oom\n",
            include_str!("scripts/commits.lua"),
            include_str!(concat!("scripts/", $file))
        )
    };
}

/// The server refuses a script without this flag before it starts where it has no memory left or is a replica.
macro_rules! reading {
    ($file:literal) => {
        concat!(
            "#!lua flags=no-writes\n",
            include_str!("scripts/commits.lua"),
            include_str!(concat!("scripts/", $file))
        )
    };
}

/// Decides and writes a commit or a marker.
pub const WRITE: &str = writing!("write.lua");
/// Decides and writes a marker that takes events away.
pub const TRIM: &str = freeing!("write.lua");
/// Takes away more of them.
pub const CUT: &str = freeing!("cut.lua");
/// Takes away events that an archive holds.
pub const RELEASE: &str = freeing!("release.lua");
/// Changes that were decided by the caller, if what they were decided by still holds.
pub const CHANGE: &str = writing!("change.lua");
/// Reads a part of a stream.
pub const READ: &str = reading!("read.lua");
/// Finds a commit by its id.
pub const FIND: &str = reading!("find.lua");
/// Reads a part of the feed.
pub const FEED: &str = reading!("feed.lua");
/// Writes, so that a WAIT covers all that was written before.
pub const TOUCH: &str = writing!("touch.lua");
/// Raises the safe position.
pub const SETTLE: &str = writing!("settle.lua");

const TEXTS: [&str; 10] = [WRITE, TRIM, CUT, RELEASE, CHANGE, READ, FIND, FEED, TOUCH, SETTLE];

/// A script with the hash that the server knows it by.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its text.
    pub text: &'static str,
    hash: String,
}

/// All scripts, hashed once.
#[derive(Clone, Debug)]
pub struct Scripts(Vec<Script>);

impl Scripts {
    /// Hashes them.
    pub fn new() -> Self {
        let script = |text: &'static str| Script { text, hash: sha1_smol::Sha1::from(text).digest().to_string() };
        Self(TEXTS.into_iter().map(script).collect())
    }

    /// The one of this text.
    pub fn of(&self, text: &'static str) -> &Script {
        self.0.iter().find(|script| script.text == text).expect("every script is in the list")
    }
}

/// A call of a script, which can be sent by hash and, where the server has forgotten it, whole.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl<'a> Call<'a> {
    /// A call without keys and arguments.
    pub fn new(script: &'a Script) -> Self {
        Self { script, keys: Vec::new(), arguments: Vec::new() }
    }

    /// Adds a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a number as an argument.
    #[must_use]
    pub fn number(self, number: impl ToString) -> Self {
        self.arg(number.to_string())
    }

    /// By its hash.
    pub fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", self.script.hash.as_str())
    }

    /// With its text.
    pub fn whole(&self) -> Cmd {
        self.command("EVAL", self.script.text)
    }

    /// Bytes of its arguments.
    pub fn bytes(&self) -> usize {
        self.arguments.iter().map(Vec::len).sum()
    }

    fn command(&self, verb: &str, script: &str) -> Cmd {
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.arguments.len(), self.bytes() + 256);
        command.arg(verb).arg(script).arg(self.keys.len());
        for part in self.keys.iter().chain(&self.arguments) {
            command.arg(part.as_slice());
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_declared_and_has_a_hash_of_its_own() {
        let scripts = Scripts::new();
        for script in &scripts.0 {
            assert!(script.text.starts_with("#!lua"));
            assert_eq!(script.hash.len(), 40);
            assert_eq!(scripts.of(script.text).hash, script.hash);
        }
    }
}
