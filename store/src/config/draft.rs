//! A config while it is put together, weakest source first: which keys there are, and where each one goes.

use super::document::{self, Value};
use super::migrate::{self, Migrate};
use super::value::{Given, ValueOrigin};
use super::{
    Config, EMBEDDED_PATH, EMBEDDED_PROVIDER, EMBEDDED_STORE, Environment, FILE_VARIABLE, StoreTable, VARIABLE_PREFIX,
    Warning,
};
use evstore_api::{Error, ErrorKind, Result, StoreName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The keys at the top of a config file.
const TOP_KEYS: [&str; 3] = ["default_store", "stores", "migrate"];
/// Variables with the prefix that are not about the config: the engines of tests.
const VARIABLES_OF_TESTS: &str = "EVSTORE_TEST_";

/// What stands behind a key, from any source.
pub enum Item {
    One(Given),
    List(Vec<String>, ValueOrigin),
    Empty(ValueOrigin),
}

impl Item {
    /// Text that is taken as it is.
    pub fn literal(value: &str, origin: ValueOrigin) -> Self {
        Self::One(Given::literal(value, origin))
    }

    fn origin(&self) -> &ValueOrigin {
        match self {
            Self::One(given) => given.origin(),
            Self::List(_, origin) | Self::Empty(origin) => origin,
        }
    }

    /// Refuses it, at its place.
    fn refused(&self, message: &'static str, key: &[String]) -> Error {
        self.origin().locate(Error::new(ErrorKind::Invalid, message).with("key", key.join(".")))
    }

    fn one(&self, key: &[String]) -> Result<&Given> {
        match self {
            Self::One(given) => Ok(given),
            Self::List(..) | Self::Empty(_) => Err(self.refused("a value is a text, a number or a switch", key)),
        }
    }
}

/// What the sources so far say.
#[derive(Default)]
pub struct Draft {
    folder: PathBuf,
    default_store: Option<(StoreName, ValueOrigin)>,
    stores: BTreeMap<StoreName, StoreTable>,
    migrate: Migrate,
    warnings: Vec<Warning>,
}

impl Draft {
    /// Nothing yet; relative paths start at this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    /// Takes the entries of a file.
    pub fn take_file(&mut self, path: &Path, text: &str, environment: &Environment) -> Result<()> {
        let mut entries = document::parse(text, path)?;
        // The first mistake of the file is the one to tell.
        entries.sort_by_key(|entry| entry.line);
        for entry in entries {
            let origin = ValueOrigin::File { path: path.into(), line: entry.line };
            let variable = |name: &str| environment.get(name).map(str::to_owned);
            let item = match entry.value {
                Value::Text(text) => Item::One(Given::text(&text, origin, variable)),
                Value::File(file) => {
                    let file = PathBuf::from(file);
                    Item::One(Given::in_file(&file, self.folder.join(&file), origin))
                }
                Value::List(texts) => Item::List(texts, origin),
                Value::Empty => Item::Empty(origin),
            };
            self.take(&entry.key, item)?;
        }
        Ok(())
    }

    /// Takes the variables that override keys.
    pub fn take_environment(&mut self, environment: &Environment) -> Result<()> {
        for (variable, value) in environment.all() {
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            if variable == FILE_VARIABLE || variable.starts_with(VARIABLES_OF_TESTS) {
                continue;
            }
            let key: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
            let origin = ValueOrigin::Environment { variable: variable.clone() };
            // One part may be another program's variable; several are meant for this config.
            if key.len() == 1 && !TOP_KEYS.contains(&key[0].as_str()) {
                let message = "a variable begins like one of this config's and is none; it is not used";
                self.warnings.push(Warning { message, key: variable.clone(), origin });
                continue;
            }
            self.take(&self.with_known_store(key), Item::literal(value, origin))?;
        }
        Ok(())
    }

    /// Finds the store that a variable means, in which `-` can't be written.
    fn with_known_store(&self, mut key: Vec<String>) -> Vec<String> {
        let known = |part: &str| self.stores.keys().find(|name| name.as_str().replace('-', "_") == part).cloned();
        if let [top, name, ..] = key.as_mut_slice()
            && top == "stores"
            && let Some(known) = known(name)
        {
            *name = known.as_str().into();
        }
        key
    }

    /// Takes one value, over what was there.
    pub fn take(&mut self, key: &[String], item: Item) -> Result<()> {
        let parts: Vec<&str> = key.iter().map(String::as_str).collect();
        match (parts.as_slice(), &item) {
            (["stores"], Item::Empty(_)) | (["migrate"], Item::Empty(_)) => Ok(()),
            (["stores" | "migrate"], _) => Err(item.refused("this is a table", key)),
            (["default_store"], _) => self.take_default_store(key, &item),
            (["stores", name], Item::Empty(_)) => self.table(name, &item, key).map(|_| ()),
            (["stores", _], _) => Err(item.refused("a store is a table, with its provider and its keys", key)),
            (["stores", name, "provider"], _) => {
                let given = item.one(key)?.clone();
                self.table(name, &item, key)?.provider = Some(given);
                Ok(())
            }
            (["stores", name, value], _) => {
                let given = item.one(key)?.clone();
                self.table(name, &item, key)?.values.insert((*value).into(), given);
                Ok(())
            }
            (["stores", ..], _) => Err(item.refused("a key of a store holds one value, not a table", key)),
            (["migrate", name], _) if migrate::is_key(name) => self.take_migrate(name, key, &item),
            (["migrate", ..], _) => Err(item.refused("no such key", key).with("known", migrate::known())),
            _ => Err(item.refused("no such key", key).with("known", TOP_KEYS.join(" "))),
        }
    }

    fn take_default_store(&mut self, key: &[String], item: &Item) -> Result<()> {
        let locate = |error: Error| item.origin().locate(error.with("key", key.join(".")));
        let name = item.one(key)?.value().and_then(StoreName::new).map_err(locate)?;
        self.default_store = Some((name, item.origin().clone()));
        Ok(())
    }

    fn take_migrate(&mut self, name: &str, key: &[String], item: &Item) -> Result<()> {
        let locate = |error: Error| item.origin().locate(error.with("key", key.join(".")));
        let texts = match item {
            Item::List(texts, _) => texts.clone(),
            // In a variable or a flag a list is written with commas.
            Item::One(given) => given.value().map_err(locate)?.split(',').map(|text| text.trim().to_owned()).collect(),
            Item::Empty(_) => return Err(item.refused("a value is a text, a number or a list of them", key)),
        };
        self.migrate.set(name, &texts, item.origin()).map_err(locate)
    }

    fn table(&mut self, name: &str, item: &Item, key: &[String]) -> Result<&mut StoreTable> {
        let name = StoreName::new(name).map_err(|error| item.origin().locate(error.with("key", key.join("."))))?;
        Ok(self.stores.entry(name).or_default())
    }

    /// Checks what can only be said of the whole.
    pub fn finish(mut self, file: Option<PathBuf>) -> Result<Config> {
        if file.is_none() {
            self.embed()?;
        }
        let known = || self.stores.keys().map(StoreName::as_str).collect::<Vec<_>>().join(" ");
        if let Some(file) = file.as_ref().filter(|_| self.stores.is_empty()) {
            return Err(Error::new(ErrorKind::Invalid, "the config names no store; add a table [stores.main]")
                .with("file", file.display()));
        }
        if let Some((name, origin)) = self.default_store.as_ref().filter(|(name, _)| !self.stores.contains_key(name)) {
            let error = Error::new(ErrorKind::Invalid, "no such store").with("store", name);
            return Err(origin.locate(error.with("key", "default_store")).with("known", known()));
        }
        if let Some((name, origin)) = self.migrate.unknown_target(|name| self.stores.contains_key(name)) {
            let error = Error::new(ErrorKind::Invalid, "no such store").with("store", name);
            return Err(origin.locate(error.with("key", "migrate.targets")).with("known", known()));
        }
        let Self { folder, default_store, stores, migrate, warnings } = self;
        Ok(Config { file, folder, default_store, stores, migrate, warnings })
    }

    /// Puts in the embedded default where nothing else was said of its store.
    fn embed(&mut self) -> Result<()> {
        let table = self.stores.entry(StoreName::new(EMBEDDED_STORE)?).or_default();
        if table.provider.is_none() {
            table.provider = Some(Given::literal(EMBEDDED_PROVIDER, ValueOrigin::Default));
            let path = || Given::literal(EMBEDDED_PATH, ValueOrigin::Default);
            table.values.entry("path".into()).or_insert_with(path);
        }
        Ok(())
    }
}
