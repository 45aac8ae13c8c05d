//! Which providers there are, and how a configured store is opened with one of them.

use crate::config::{self, Config, Given, StoreTable, ValueOrigin, Warning};
use crate::handle::Store;
use crate::layers::{LAYER_KEYS, LayerSettings};
use evstore_api::{
    ConfigKey, Error, ErrorKind, EventStore, KeyDefault, KeyKind, Provider, Result, Secrecy, Settings, StoreAdmin,
    StoreName,
};
use evstore_kit::floor::Floor;
use std::sync::Arc;

/// Providers of this project that a build may lack; each is built in by the feature of its name.
const FEATURES: [&str; 7] = ["memory", "sqlite", "postgres", "redis", "dynamodb", "s3", "tiered"];
/// The provider whose stores stand behind another of the config, and its keys that need the config to be understood.
#[cfg(feature = "tiered")]
const TIERED: &str = evstore_tiered::NAME;
#[cfg(feature = "tiered")]
const HOT: &str = "hot";
#[cfg(feature = "tiered")]
const ARCHIVE: &str = "archive";

/// The key with which a provider makes a missing store when it is opened.
const AUTO_CREATE: &str = "auto_create";

/// The providers that a program knows: a plain value, to be made once and passed on.
///
/// Stores in memory live in the registry's providers: clones share them, two registries do not.
#[derive(Clone, Debug)]
pub struct Registry {
    providers: Vec<Provider>,
    floors: Vec<(&'static str, Arc<dyn Floor>)>,
}

/// A store of the config, checked: who opens it, and with what.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Its provider.
    pub provider: Provider,
    /// What the provider is told.
    pub settings: Settings,
    /// What the layers are told.
    pub layers: LayerSettings,
}

/// A value of the config as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its dotted name: `stores.main.url`.
    pub key: String,
    /// As it was written, or its default; masked where it is a secret.
    pub value: String,
    /// Where it came from.
    pub origin: ValueOrigin,
}

impl Registry {
    /// Without a provider.
    #[must_use]
    pub fn empty() -> Self {
        Self { providers: Vec::new(), floors: Vec::new() }
    }

    /// The providers that this build has.
    #[must_use]
    pub fn builtin() -> Self {
        let registry = Self::empty();
        #[cfg(feature = "memory")]
        let registry = registry.with(evstore_memory::provider());
        #[cfg(feature = "sqlite")]
        let registry = registry.with(evstore_sqlite::provider()).with_floor("sqlite", evstore_sqlite::floor::floor());
        #[cfg(feature = "postgres")]
        let registry =
            registry.with(evstore_postgres::provider()).with_floor("postgres", evstore_postgres::floor::floor());
        #[cfg(feature = "redis")]
        let registry = registry.with(evstore_redis::provider()).with_floor("redis", evstore_redis::floor::floor());
        #[cfg(feature = "dynamodb")]
        let registry =
            registry.with(evstore_dynamodb::provider()).with_floor("dynamodb", evstore_dynamodb::floor::floor());
        #[cfg(feature = "s3")]
        let registry = registry.with(evstore_s3::provider()).with_floor("s3", evstore_s3::floor::floor());
        #[cfg(feature = "tiered")]
        let registry = registry.with(evstore_tiered::provider([]));
        registry
    }

    /// With one more; it takes the place of one of the same name.
    #[must_use]
    pub fn with(mut self, provider: Provider) -> Self {
        self.providers.retain(|known| known.name != provider.name);
        self.providers.push(provider);
        self.tell_tiered();
        self
    }

    /// Any of the others may stand in front of an archive, those of third parties too.
    #[cfg(feature = "tiered")]
    fn tell_tiered(&mut self) {
        let Some(at) = self.providers.iter().position(|known| known.name == TIERED) else { return };
        let others = self.providers.iter().filter(|known| known.name != TIERED).cloned();
        self.providers[at] = evstore_tiered::provider(others);
    }

    #[cfg(not(feature = "tiered"))]
    fn tell_tiered(&mut self) {}

    /// With the bare client of a provider's engine, which comparisons show its stores as a ratio to.
    #[must_use]
    pub fn with_floor(mut self, provider: &'static str, floor: Arc<dyn Floor>) -> Self {
        self.floors.retain(|(known, _)| *known != provider);
        self.floors.push((provider, floor));
        self
    }

    /// The bare client of a provider's engine; none where nobody gave one.
    #[must_use]
    pub fn floor(&self, provider: &str) -> Option<Arc<dyn Floor>> {
        self.floors.iter().find(|(known, _)| *known == provider).map(|(_, floor)| floor.clone())
    }

    /// The providers, in the order in which they were added.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter()
    }

    /// A provider by its name.
    ///
    /// # Errors
    /// `Invalid` where there is none, naming the known ones, or the feature that builds it in.
    pub fn get(&self, name: &str) -> Result<&Provider> {
        self.providers.iter().find(|provider| provider.name == name).ok_or_else(|| self.missing(name, |error| error))
    }

    /// A commented config file with a store of this provider.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn template(&self, provider: &str) -> Result<String> {
        let text = self.get(provider).map(config::template)?;
        #[cfg(feature = "tiered")]
        if provider == TIERED {
            return Ok(with_a_store_in_front(&text));
        }
        Ok(text)
    }

    /// A configured store, checked against its provider's keys, with its secrets put in.
    ///
    /// # Errors
    /// `Invalid`, naming the store, the key and its place: no such store, provider or key, a value that does not fit, a
    /// secret that is not there.
    pub fn settings(&self, config: &Config, name: &StoreName) -> Result<Configured> {
        let (provider, table) = self.provider_of(config, name)?;
        let mut of_layers = Vec::new();
        let mut of_provider = Vec::new();
        for (key, given) in &table.values {
            let declared = declared(provider, key).ok_or_else(|| unknown_key(provider, name, key, given))?;
            let locate = |error: Error| given.origin().locate(error.with("store", name).with("key", key));
            let value = given.value().map_err(locate)?;
            let value = if declared.kind == KeyKind::Path { from_folder(config, &value) } else { value };
            let target = if is_of_layers(key) { &mut of_layers } else { &mut of_provider };
            target.push((key.clone(), value));
        }
        let locate = |error: Error| locate_by_key(error, table);
        let settings = Settings::new(name.clone(), provider.keys, of_provider).map_err(locate)?;
        let settings = self.resolved(config, provider, settings).map_err(locate)?;
        let layers = LayerSettings::new(name, of_layers).map_err(locate)?;
        Ok(Configured { provider: provider.clone(), settings, layers })
    }

    /// The settings of a tiered store with the store in front of it looked up in the config; others as they are.
    #[cfg(feature = "tiered")]
    fn resolved(&self, config: &Config, provider: &Provider, settings: Settings) -> Result<Settings> {
        if provider.name != TIERED {
            return Ok(settings);
        }
        let refused = |error: Error| error.with("store", settings.store()).with("key", HOT);
        let hot = StoreName::new(settings.text(HOT).unwrap_or_default()).map_err(refused)?;
        let (found, _) = self.provider_of(config, &hot).map_err(refused)?;
        if found.name == TIERED {
            return Err(refused(Error::new(ErrorKind::Invalid, "a tiered store has no tiered store in front")));
        }
        let hot = self.settings(config, &hot)?;
        let settings = match settings.text(ARCHIVE).and_then(|archive| archive.strip_prefix("file:")) {
            Some(folder) => {
                let folder = from_folder(config, folder);
                settings.with(ARCHIVE, format!("file:{folder}"))?
            }
            None => settings,
        };
        evstore_tiered::with_hot(settings, &hot.provider, &hot.settings)
    }

    #[cfg(not(feature = "tiered"))]
    fn resolved(&self, _: &Config, _: &Provider, settings: Settings) -> Result<Settings> {
        Ok(settings)
    }

    /// Opens a store for an application, in its layers. Calls follow the streams when they move to another store of the config.
    ///
    /// # Errors
    /// As [`settings`](Self::settings), and as the provider's opener.
    pub async fn open(&self, config: &Config, name: &StoreName) -> Result<Store> {
        let configured = self.settings(config, name)?;
        let store = configured.open_provided().await?;
        Ok(Store::routed(name.clone(), store, &configured.layers, self, config))
    }

    /// Opens the administrative side of a store.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_admin(&self, config: &Config, name: &StoreName) -> Result<Arc<dyn StoreAdmin>> {
        self.settings(config, name)?.open_admin().await
    }

    /// Every value of the config, defaults included, as it may be shown. What is wrong is shown too: see
    /// [`problems`](Self::problems).
    #[must_use]
    pub fn shown(&self, config: &Config) -> Vec<Shown> {
        let mut all = Vec::new();
        if let Ok(name) = config.default_store() {
            let (value, origin) = (name.to_string(), config.default_store_origin());
            all.push(Shown { key: "default_store".into(), value, origin });
        }
        for name in config.stores() {
            self.show_store(config, name, &mut all);
        }
        let migrate = config.migrate().given().into_iter();
        all.extend(migrate.map(|(key, value, origin)| Shown { key: format!("migrate.{key}"), value, origin }));
        all
    }

    /// What keeps stores of the config from being opened; empty where nothing does. Nothing is opened.
    #[must_use]
    pub fn problems(&self, config: &Config) -> Vec<Error> {
        config.stores().filter_map(|name| self.settings(config, name).err()).collect()
    }

    /// What works and should be changed: secrets that stand in the file, variables that nothing reads.
    #[must_use]
    pub fn warnings(&self, config: &Config) -> Vec<Warning> {
        let mut warnings = config.warnings().to_vec();
        for name in config.stores() {
            let Ok((provider, table)) = self.provider_of(config, name) else { continue };
            let literal =
                |(key, given): &(&String, &Given)| is_secret(Some(provider), key) && given.is_literal_secret();
            warnings.extend(table.values.iter().filter(literal).map(|(key, given)| Warning {
                message: "a secret stands in the config file; write \"${VAR}\" or { file = \"path\" }",
                key: format!("stores.{name}.{key}"),
                origin: given.origin().clone(),
            }));
        }
        warnings
    }

    fn provider_of<'a>(&'a self, config: &'a Config, name: &StoreName) -> Result<(&'a Provider, &'a StoreTable)> {
        let (wanted, origin) = config.provider(name)?;
        let found = self.providers.iter().find(|provider| provider.name == wanted);
        let provider = found.ok_or_else(|| self.missing(&wanted, |error| origin.locate(error.with("store", name))))?;
        Ok((provider, config.store(name)?))
    }

    /// Why there is no such provider; `place` adds whose it was to be.
    fn missing(&self, name: &str, place: impl FnOnce(Error) -> Error) -> Error {
        let refused = |message| Error::new(ErrorKind::Invalid, message);
        if FEATURES.contains(&name) {
            let message =
                "the provider is not in this build; build with its feature (--features NAME), or with the feature full";
            return place(refused(message)).with("provider", name).with("feature", name);
        }
        place(refused("no such provider")).with("provider", name).with("known", self.known())
    }

    fn known(&self) -> String {
        self.providers.iter().map(|provider| provider.name).collect::<Vec<_>>().join(" ")
    }

    fn show_store(&self, config: &Config, name: &StoreName, all: &mut Vec<Shown>) {
        let Ok(table) = config.store(name) else { return };
        let mut push = |key: &str, value: String, origin: ValueOrigin| {
            all.push(Shown { key: format!("stores.{name}.{key}"), value, origin });
        };
        if let Some(given) = &table.provider {
            push("provider", given.shown(), given.origin().clone());
        }
        let provider = self.provider_of(config, name).ok().map(|(provider, _)| provider);
        for (key, given) in &table.values {
            let value = if is_secret(provider, key) { given.shown_masked() } else { given.shown() };
            push(key, value, given.origin().clone());
        }
        for key in provider.iter().flat_map(|provider| provider.keys).chain(LAYER_KEYS) {
            if let (KeyDefault::Value(value), false) = (key.default, table.values.contains_key(key.name)) {
                push(key.name, value.into(), ValueOrigin::Default);
            }
        }
    }
}

impl Configured {
    /// Opens the store for an application, in its layers. It follows no move: see [`Registry::open`].
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open(&self) -> Result<Store> {
        let store = self.open_provided().await?;
        Ok(Store::new(self.settings.store().clone(), store, &self.layers))
    }

    /// Opens the store as its provider has it, without a layer.
    pub(crate) async fn open_provided(&self) -> Result<Arc<dyn EventStore>> {
        self.provider.opener.open(&self.settings).await.map_err(|error| self.named(error))
    }

    /// The same store, opened only where it is there.
    ///
    /// # Errors
    /// As changing a setting.
    pub fn existing(&self) -> Result<Self> {
        let makes = self.settings.keys().iter().any(|key| key.name == AUTO_CREATE);
        let settings = self.settings.clone();
        let settings = if makes { settings.with(AUTO_CREATE, "false")? } else { settings };
        Ok(Self { settings, ..self.clone() })
    }

    /// Opens the administrative side.
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open_admin(&self) -> Result<Arc<dyn StoreAdmin>> {
        self.provider.opener.open_admin(&self.settings).await.map_err(|error| self.named(error))
    }

    /// An error of the opener, with the store's name if it does not say it itself.
    fn named(&self, error: Error) -> Error {
        if error.context().iter().any(|(name, _)| *name == "store") {
            return error;
        }
        error.with("store", self.settings.store())
    }
}

fn is_of_layers(key: &str) -> bool {
    LAYER_KEYS.iter().any(|known| known.name == key)
}

fn declared<'a>(provider: &'a Provider, key: &str) -> Option<&'a ConfigKey> {
    LAYER_KEYS.iter().chain(provider.keys).find(|known| known.name == key)
}

/// What is not known to be plain is secret.
fn is_secret(provider: Option<&Provider>, key: &str) -> bool {
    let known = match provider {
        Some(provider) => declared(provider, key),
        None => LAYER_KEYS.iter().find(|known| known.name == key),
    };
    known.is_none_or(|key| key.secrecy == Secrecy::Secret)
}

fn unknown_key(provider: &Provider, store: &StoreName, key: &str, given: &Given) -> Error {
    let known = provider.keys.iter().chain(LAYER_KEYS).map(|key| key.name);
    let known: Vec<_> = std::iter::once("provider").chain(known).collect();
    let error = Error::new(ErrorKind::Invalid, "no such key").with("store", store).with("key", key);
    given.origin().locate(error).with("provider", provider.name).with("known", known.join(" "))
}

/// Adds the place of the key that an error names.
fn locate_by_key(error: Error, table: &StoreTable) -> Error {
    let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
    match key.and_then(|key| table.values.get(&key)).or(table.provider.as_ref()) {
        Some(given) => given.origin().locate(error),
        None => error,
    }
}

fn from_folder(config: &Config, path: &str) -> String {
    config.folder().join(path).to_string_lossy().into_owned()
}

/// A tiered store's file with what it can't be without: a store in front of it, and a place for what is archived.
#[cfg(feature = "tiered")]
fn with_a_store_in_front(text: &str) -> String {
    text.replace("hot = \"change-me\"", "hot = \"hot\"")
        .replace("archive = \"change-me\"", "archive = \"file:archive\"")
        .replace("[migrate]\n", "[stores.hot]\nprovider = \"sqlite\"\npath = \"evstore.db\"\n\n[migrate]\n")
}
