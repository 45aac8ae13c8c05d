//! What the config says about migrations: the table `[migrate]`.

use super::value::ValueOrigin;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, StoreName};

/// The keys of the table `[migrate]`.
pub const MIGRATE_KEYS: &[ConfigKey] = &[
    key("targets", KeyKind::Text, "Stores that every node must know before streams move there; a list of names."),
    key("throttle", KeyKind::Count, "Most events per second that a copy takes; as fast as it goes without it."),
    key(
        "expect_nodes",
        KeyKind::Count,
        "How many nodes must tell of themselves before a cutover; not counted without it.",
    ),
];

const fn key(name: &'static str, kind: KeyKind, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default: KeyDefault::Absent, secrecy: Secrecy::Plain, sentence }
}

/// The names of the keys.
pub(super) fn known() -> String {
    MIGRATE_KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(" ")
}

/// Whether there is a key of this name.
pub(super) fn is_key(name: &str) -> bool {
    MIGRATE_KEYS.iter().any(|key| key.name == name)
}

/// What the config says about migrations.
#[derive(Clone, Debug, Default)]
pub struct Migrate {
    targets: Option<(Vec<StoreName>, ValueOrigin)>,
    throttle: Option<(u64, ValueOrigin)>,
    expect_nodes: Option<(u64, ValueOrigin)>,
}

impl Migrate {
    /// Stores that every node must know, and reach, before streams move there.
    #[must_use]
    pub fn targets(&self) -> &[StoreName] {
        self.targets.as_ref().map_or(&[], |(targets, _)| targets)
    }

    /// Most events per second that a copy takes.
    #[must_use]
    pub fn throttle(&self) -> Option<u64> {
        self.throttle.as_ref().map(|(throttle, _)| *throttle)
    }

    /// How many nodes must be present before a cutover.
    #[must_use]
    pub fn expect_nodes(&self) -> Option<u64> {
        self.expect_nodes.as_ref().map(|(nodes, _)| *nodes)
    }

    /// What was given, by name of its key, as text.
    pub(crate) fn given(&self) -> Vec<(&'static str, String, ValueOrigin)> {
        let targets = self.targets.iter().map(|(targets, origin)| {
            let names: Vec<_> = targets.iter().map(StoreName::as_str).collect();
            ("targets", names.join(","), origin.clone())
        });
        let number = |name| move |(number, origin): &(u64, ValueOrigin)| (name, number.to_string(), origin.clone());
        let throttle = self.throttle.iter().map(number("throttle"));
        targets.chain(throttle).chain(self.expect_nodes.iter().map(number("expect_nodes"))).collect()
    }

    pub(super) fn set(&mut self, name: &str, texts: &[String], origin: &ValueOrigin) -> Result<()> {
        match name {
            "targets" => {
                let named = texts.iter().filter(|text| !text.is_empty());
                let targets = named.map(StoreName::new).collect::<Result<Vec<_>>>()?;
                self.targets = Some((targets, origin.clone()));
            }
            "throttle" => self.throttle = Some((positive(texts)?, origin.clone())),
            "expect_nodes" => self.expect_nodes = Some((positive(texts)?, origin.clone())),
            _ => unreachable!("keys are looked up in MIGRATE_KEYS first"),
        }
        Ok(())
    }

    pub(super) fn unknown_target(&self, is_known: impl Fn(&StoreName) -> bool) -> Option<(&StoreName, &ValueOrigin)> {
        let (targets, origin) = self.targets.as_ref()?;
        targets.iter().find(|name| !is_known(name)).map(|name| (name, origin))
    }
}

fn positive(texts: &[String]) -> Result<u64> {
    let number = match texts {
        [text] => text.parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    number.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "a value does not fit its key")
            .with("wanted", "a whole number above 0")
            .with("given", texts.join(","))
    })
}
