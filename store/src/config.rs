//! Which stores there are, and how they are set up: one TOML file, overridden by the environment and by flags.
//!
//! ```toml
//! default_store = "main"
//! [stores.main]
//! provider = "sqlite"
//! path = "evstore.db"
//! append_timeout = "2s"
//! [migrate]
//! targets = []
//! ```
//!
//! The file is the one that is named, or `$EVSTORE_CONFIG`, or `evstore.toml` in the current folder, or
//! `evstore/evstore.toml` in the user's config folder. Without any there is one store, `main`: provider `sqlite`, path
//! `evstore.db` in the current folder. A flag is stronger than the environment (`EVSTORE_STORES__MAIN__URL`), that is
//! stronger than the file, and the file than the default. In the environment `_` also stands for the `-` of a store's name.
//! Relative paths start at the config file's folder, at the current one where there is no file.
//!
//! In a file `${VAR}` stands for a variable and `{ file = "…" }` for the content of a file: so a secret stays out of it. Both
//! are looked at when the store is opened: a store that is not used may lack its secrets.
//!
//! What a provider's keys are, a [`Registry`](crate::Registry) knows: there a store's settings are checked. This is the only
//! place that reads the environment.

mod document;
mod draft;
mod migrate;
mod template;
mod value;

pub use migrate::{MIGRATE_KEYS, Migrate};
pub(crate) use template::template;
pub use value::{Given, MASK, ValueOrigin};

use draft::{Draft, Item};
use evstore_api::{Error, ErrorKind, Result, StoreName};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Name of a config file that is looked for.
pub const FILE_NAME: &str = "evstore.toml";
/// The variable that names a config file.
pub const FILE_VARIABLE: &str = "EVSTORE_CONFIG";
/// What every variable that overrides a key begins with.
pub const VARIABLE_PREFIX: &str = "EVSTORE_";
/// The store of the embedded default.
pub const EMBEDDED_STORE: &str = "main";
/// The provider of the embedded default.
pub const EMBEDDED_PROVIDER: &str = "sqlite";
/// The file of the embedded default, in the current folder.
pub const EMBEDDED_PATH: &str = "evstore.db";

/// The variables of a process, as they were when it was asked.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. Those that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let texts =
            std::env::vars_os().map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(texts.flatten().collect())
    }

    /// These variables and no others.
    pub fn of<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A variable, if it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, by name.
    fn all(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// The folder in which programs keep the user's config.
    fn config_folder(&self) -> Option<PathBuf> {
        let set = |name| self.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || set("HOME").map(|home| home.join(".config"));
        set("XDG_CONFIG_HOME").or_else(home).or_else(|| set("APPDATA"))
    }
}

/// Values stay unsaid: many of them are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// Where a config is read from.
#[derive(Clone, Debug)]
pub struct Sources {
    file: Option<PathBuf>,
    flags: Vec<Flag>,
    environment: Environment,
    folder: PathBuf,
}

#[derive(Clone)]
struct Flag {
    flag: String,
    key: String,
    value: String,
}

/// Its value stays unsaid: it may be a secret.
impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flag({} for {})", self.flag, self.key)
    }
}

impl Sources {
    /// Those of this process: its environment and its current folder.
    ///
    /// # Errors
    /// `Invalid` when the current folder is gone.
    pub fn of_process() -> Result<Self> {
        let folder = std::env::current_dir()
            .map_err(|cause| Error::new(ErrorKind::Invalid, "the current folder can't be used").caused_by(cause))?;
        Ok(Self::new(folder, Environment::of_process()))
    }

    /// A current folder and an environment of the caller's choice.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, environment: Environment) -> Self {
        Self { file: None, flags: Vec::new(), environment, folder: folder.into() }
    }

    /// Reads this file and looks for no other.
    #[must_use]
    pub fn with_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Sets a key, by its dotted name (`default_store`, `stores.main.path`), stronger than anything else. `flag` is how the
    /// user wrote it: `--store`.
    #[must_use]
    pub fn with_flag(mut self, flag: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.flags.push(Flag { flag: flag.into(), key: key.into(), value: value.into() });
        self
    }

    /// The file that is read, none for the embedded default; the path as it is shown to people.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(file) = &self.file {
            return Some(file.clone());
        }
        if let Some(file) = self.environment.get(FILE_VARIABLE).filter(|file| !file.is_empty()) {
            return Some(file.into());
        }
        let here = PathBuf::from(FILE_NAME);
        let of_user = || Some(self.environment.config_folder()?.join("evstore").join(FILE_NAME));
        let is_there = |file: &PathBuf| self.folder.join(file).is_file();
        Some(here).filter(is_there).or_else(|| of_user().filter(is_there))
    }
}

/// Something about the config that works and should be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What, and what to do.
    pub message: &'static str,
    /// The key, by its dotted name; or the variable.
    pub key: String,
    /// Where it was given.
    pub origin: ValueOrigin,
}

/// The sentence, the key and the place.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (key: {}, origin: {})", self.message, self.key, self.origin)
    }
}

/// What the config says of one store, not yet checked against its provider's keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreTable {
    pub provider: Option<Given>,
    pub values: BTreeMap<String, Given>,
}

impl StoreTable {
    /// Where the first of it stands.
    fn origin(&self) -> ValueOrigin {
        let origins = self.values.values().chain(&self.provider).map(|given| given.origin().clone());
        origins
            .min_by_key(|origin| if let ValueOrigin::File { line, .. } = origin { *line } else { usize::MAX })
            .unwrap_or(ValueOrigin::Default)
    }
}

/// The config: named stores, and what a migration has to know. Each value knows where it came from.
#[derive(Clone, Debug)]
pub struct Config {
    file: Option<PathBuf>,
    folder: PathBuf,
    default_store: Option<(StoreName, ValueOrigin)>,
    stores: BTreeMap<StoreName, StoreTable>,
    migrate: Migrate,
    warnings: Vec<Warning>,
}

impl Config {
    /// Finds and reads the config.
    ///
    /// # Errors
    /// `Invalid`, with the file and the line or the variable: a file that can't be read or is no TOML, an unknown key at the
    /// top or under `migrate`, a name of a store that is none. What is wrong inside a store is found by the registry.
    pub fn load(sources: &Sources) -> Result<Self> {
        let file = sources.find();
        let mut draft = Draft::new(folder_of(sources, file.as_deref()));
        if let Some(path) = &file {
            draft.take_file(path, &read(&sources.folder.join(path), path)?, &sources.environment)?;
        }
        draft.take_environment(&sources.environment)?;
        for Flag { flag, key, value } in &sources.flags {
            let origin = ValueOrigin::Flag { flag: flag.clone() };
            draft.take(&key.split('.').map(str::to_owned).collect::<Vec<_>>(), Item::literal(value, origin))?;
        }
        draft.finish(file)
    }

    /// The config of a text, as if it were the file `evstore.toml` of the folder `/`, without an environment. For tests.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str) -> Result<Self> {
        let path = PathBuf::from(FILE_NAME);
        let mut draft = Draft::new(PathBuf::from("/"));
        draft.take_file(&path, text, &Environment::default())?;
        draft.finish(Some(path))
    }

    /// The file that was read, as it is shown to people; none for the embedded default.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Where relative paths start.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The stores, by name.
    pub fn stores(&self) -> impl Iterator<Item = &StoreName> {
        self.stores.keys()
    }

    /// The store to use where none is named: `default_store`, or the only one, or `main`.
    ///
    /// # Errors
    /// `Invalid` where there are several and nothing says which.
    pub fn default_store(&self) -> Result<&StoreName> {
        if let Some((name, _)) = &self.default_store {
            return Ok(name);
        }
        let mut names = self.stores.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only),
            _ => self.stores.keys().find(|name| name.as_str() == EMBEDDED_STORE).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "there are several stores; name one, or set default_store")
                    .with("known", self.known())
            }),
        }
    }

    /// Where `default_store` came from.
    #[must_use]
    pub fn default_store_origin(&self) -> ValueOrigin {
        self.default_store.as_ref().map_or(ValueOrigin::Default, |(_, origin)| origin.clone())
    }

    /// What the config says about migrations.
    #[must_use]
    pub fn migrate(&self) -> &Migrate {
        &self.migrate
    }

    /// What should be changed, as far as it can be said without the providers' keys.
    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(crate) fn store(&self, name: &StoreName) -> Result<&StoreTable> {
        self.stores.get(name).ok_or_else(|| {
            let error = Error::new(ErrorKind::Invalid, "no such store").with("store", name).with("known", self.known());
            match &self.file {
                Some(file) => error.with("file", file.display()),
                None => error,
            }
        })
    }

    /// The provider that a store names.
    pub(crate) fn provider(&self, name: &StoreName) -> Result<(String, ValueOrigin)> {
        let table = self.store(name)?;
        let Some(given) = &table.provider else {
            let error = Error::new(ErrorKind::Invalid, "a store names its provider").with("store", name);
            return Err(table.origin().locate(error.with("key", "provider")));
        };
        let locate = |error: Error| given.origin().locate(error.with("store", name).with("key", "provider"));
        Ok((given.value().map_err(locate)?, given.origin().clone()))
    }

    fn known(&self) -> String {
        self.stores.keys().map(StoreName::as_str).collect::<Vec<_>>().join(" ")
    }
}

fn folder_of(sources: &Sources, file: Option<&Path>) -> PathBuf {
    match file.and_then(Path::parent) {
        Some(folder) => sources.folder.join(folder),
        None => sources.folder.clone(),
    }
}

fn read(path: &Path, shown: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "the config file can't be read").with("file", shown.display()).caused_by(cause)
    })
}
