//! What a command works with: the flags, the config, the stores that are open, and how to ask and to print.

use crate::args::Globals;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::scratch::Scratch;
use crate::stop::Outcome;
use evstore::config::Sources;
use evstore::{Config, Configured, Registry};
use evstore_api::{
    CommitId, Deadline, ErrorKind, EventStore, NamespaceFilter, Provider, Settings, StoreAdmin, StoreName, StreamId,
    StreamName,
};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Longest that a call may take; a store's own timeouts in the config are shorter and hold first.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Most bytes of data and metadata in a page.
const PAGE_BYTES: u64 = 4 << 20;

/// When a call that begins now has to end.
#[must_use]
pub fn deadline() -> Deadline {
    Deadline::within(CALL_MAX)
}

/// The key with which a provider makes a missing store when it is opened.
const AUTO_CREATE: &str = "auto_create";

/// Whether a store that is not there is made by the first command that stores something.
#[must_use]
pub fn is_made_when_opened(configured: &Configured) -> bool {
    configured.settings.switch(AUTO_CREATE) == Some(true)
}

/// Says what makes a store that is not there.
fn not_made(failure: Failure, configured: &Configured) -> Failure {
    match failure {
        Failure::Store(error) if is_made_when_opened(configured) && error.kind() == ErrorKind::Schema => {
            Failure::Advised {
                error,
                hint: "if nothing was stored yet, the first `evstore append` or `evstore import` makes the store, and \
                   `evstore schema apply` an empty one; `evstore config show --origin` tells where it is looked for"
                    .into(),
            }
        }
        other => other,
    }
}

/// One run of the command.
pub struct Session {
    globals: Globals,
    registry: Registry,
    output: Output,
    config: Option<Config>,
    selected: Option<StoreName>,
    store: Option<Arc<dyn EventStore>>,
    admin: Option<Arc<dyn StoreAdmin>>,
    outcome: Outcome,
    scratch: Scratch,
    folder: Option<TempDir>,
    when_interrupted: Option<WhenInterrupted>,
}

/// What a command still has to tell when it is interrupted.
pub type WhenInterrupted = Box<dyn FnOnce(&mut Output) -> Result + Send>;

impl Session {
    /// A run with these flags; nothing is read or opened yet.
    #[must_use]
    pub fn new(globals: Globals, registry: Registry) -> Self {
        let output = Output::new(globals.output, globals.quiet);
        let (config, selected, store, admin) = (None, None, None, None);
        let (outcome, scratch) = (Outcome::default(), Scratch::default());
        let (folder, when_interrupted) = (None, None);
        Self { globals, registry, output, config, selected, store, admin, outcome, scratch, folder, when_interrupted }
    }

    /// Where to print.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The flags of every command.
    #[must_use]
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// The providers that this build knows.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The same providers, one by one.
    #[must_use]
    pub fn providers(&self) -> Vec<Provider> {
        self.registry.providers().cloned().collect()
    }

    /// Where the config is looked for.
    ///
    /// # Errors
    /// `Invalid` when the current folder is gone.
    pub fn sources(&self) -> Result<Sources> {
        let mut sources = Sources::of_process()?;
        if let Some(file) = &self.globals.config {
            sources = sources.with_file(file);
        }
        if let Some(store) = &self.globals.store {
            sources = sources.with_flag("--store", "default_store", store);
        }
        Ok(sources)
    }

    /// The config, read once.
    ///
    /// # Errors
    /// `Invalid`, with file and line.
    pub fn config(&mut self) -> Result<&Config> {
        let config = match self.config.take() {
            Some(config) => config,
            None => Config::load(&self.sources()?)?,
        };
        Ok(self.config.insert(config))
    }

    /// Works on this store from now on; on the one of the flags, or the default, where none is named.
    pub fn select(&mut self, store: Option<StoreName>) {
        self.selected = store;
        (self.store, self.admin) = (None, None);
    }

    /// Works with this config file from now on, whatever the flags say.
    pub fn use_config(&mut self, file: PathBuf) {
        self.globals.config = Some(file);
        self.globals.store = None;
        self.config = None;
        self.select(None);
    }

    /// The name of the store that is worked on.
    ///
    /// # Errors
    /// `Invalid` where nothing says which of several.
    pub fn store_name(&mut self) -> Result<StoreName> {
        match &self.selected {
            Some(name) => Ok(name.clone()),
            None => Ok(self.config()?.default_store()?.clone()),
        }
    }

    /// The store that is worked on, as it is configured.
    ///
    /// # Errors
    /// `Invalid`, naming the store, the key and its place.
    pub fn configured(&mut self) -> Result<Configured> {
        let name = self.store_name()?;
        self.config()?;
        match &self.config {
            Some(config) => Ok(self.registry.settings(config, &name)?),
            None => Err(Failure::usage("there is no config", "evstore init writes one")),
        }
    }

    /// A failure of the store that is worked on: with its name, and what makes it where it is not there.
    pub fn explained(&mut self, failure: Failure) -> Failure {
        let Ok(configured) = self.configured() else { return failure };
        let Failure::Store(error) = failure else { return failure };
        let is_named = error.context().iter().any(|(known, _)| *known == "store");
        let error = if is_named { error } else { error.with("store", configured.settings.store()) };
        not_made(error.into(), &configured)
    }

    /// The provider of the store that is worked on, and its settings.
    ///
    /// # Errors
    /// As [`configured`](Self::configured).
    pub fn settings(&mut self) -> Result<(Provider, Settings)> {
        let configured = self.configured()?;
        Ok((configured.provider, configured.settings))
    }

    /// The same provider, with the scratch stores that it makes dropped at the end, whatever ends the command.
    #[must_use]
    pub fn watch_scratch(&self, provider: &Provider) -> Provider {
        self.scratch.watch(provider)
    }

    /// Opens the store that is worked on, once, and makes none where there is none: a look must leave no trace, and a
    /// mistyped path no empty store.
    ///
    /// # Errors
    /// As the provider's opener; where there is no store, with what makes one.
    pub async fn open_store(&mut self) -> Result<Arc<dyn EventStore>> {
        let configured = self.configured()?;
        let existing = configured.existing()?;
        self.open(existing).await.map_err(|failure| not_made(failure, &configured))
    }

    /// The same for a look that can do without it: none where there is no store yet.
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open_store_if_there(&mut self) -> Result<Option<Arc<dyn EventStore>>> {
        match self.open_store().await {
            Ok(store) => Ok(Some(store)),
            Err(Failure::Advised { error, .. } | Failure::Store(error)) if error.kind() == ErrorKind::Schema => {
                // One that is there and can't be understood is another thing than one that could be made.
                match self.open_admin().await?.plan_schema(self.deadline()).await {
                    Ok(plan) if !plan.changes.is_empty() => Ok(None),
                    Ok(_) | Err(_) => Err(self.explained(error.into())),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// The same to append to, where the store is made on the way if its config says so (`auto_create`).
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open_store_to_append(&mut self) -> Result<Arc<dyn EventStore>> {
        let configured = self.configured()?;
        self.open(configured).await
    }

    /// The same to give appended commits their places in the feed, whatever the config says of who does.
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open_store_to_sequence(&mut self) -> Result<Arc<dyn EventStore>> {
        const KEY: &str = "sequencer";
        let configured = self.configured()?;
        let mut existing = configured.existing()?;
        if existing.settings.keys().iter().any(|key| key.name == KEY) {
            existing.settings = existing.settings.with(KEY, "inside")?;
        }
        self.open(existing).await.map_err(|failure| not_made(failure, &configured))
    }

    async fn open(&mut self, configured: Configured) -> Result<Arc<dyn EventStore>> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = configured.open().await?;
        Ok(self.store.insert(store.events().clone()).clone())
    }

    /// Opens its administrative side, once. It makes nothing by itself.
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn open_admin(&mut self) -> Result<Arc<dyn StoreAdmin>> {
        if let Some(admin) = &self.admin {
            return Ok(admin.clone());
        }
        let admin = self.configured()?.open_admin().await?;
        Ok(self.admin.insert(admin).clone())
    }

    /// Lets go of the stores: what they took is answered first.
    pub async fn close(&mut self) {
        self.scratch.clear().await;
        // The command has ended and told what it had to tell: there is nothing more to do about a store that does not
        // close.
        if let Some(store) = self.store.take() {
            let _ = store.close().await;
        }
        if let Some(admin) = self.admin.take() {
            let _ = admin.close().await;
        }
    }

    /// A folder that is gone with the command.
    ///
    /// # Errors
    /// When none can be made.
    pub fn temporary_folder(&mut self) -> Result<PathBuf> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => TempDir::with_prefix("evstore-")
                .map_err(|cause| Failure::io("a temporary folder can't be made", cause))?,
        };
        Ok(self.folder.insert(folder).path().to_owned())
    }

    /// What is to be told if the command is interrupted: what it found until then.
    pub fn when_interrupted(&mut self, tell: WhenInterrupted) {
        self.when_interrupted = Some(tell);
    }

    /// The command was interrupted: tells what it left to be told.
    ///
    /// # Errors
    /// As telling it fails.
    pub fn tell_interrupted(&mut self) -> Result {
        match self.when_interrupted.take() {
            Some(tell) => tell(&mut self.output),
            None => Ok(()),
        }
    }

    /// When a call that begins now has to end.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        deadline()
    }

    /// Most bytes in a page.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    /// A stream of the namespace that the flags name.
    #[must_use]
    pub fn stream(&self, name: &StreamName) -> StreamId {
        StreamId { namespace: self.globals.namespace.clone().unwrap_or_default(), name: name.clone() }
    }

    /// The namespaces that lists and feeds cover: the one of the flags, else all.
    #[must_use]
    pub fn namespaces(&self) -> NamespaceFilter {
        self.globals.namespace.clone().map_or(NamespaceFilter::All, NamespaceFilter::One)
    }

    /// The namespace of the flags, where one is given.
    #[must_use]
    pub fn namespace(&self) -> Option<&evstore_api::Namespace> {
        self.globals.namespace.as_ref()
    }

    /// Refuses the flag where a part of a store would be taken for the whole.
    ///
    /// # Errors
    /// Wrong use where a namespace is given.
    pub fn refuse_namespace(&self, why: &str) -> Result {
        match self.namespace() {
            None => Ok(()),
            Some(_) => Err(Failure::usage(format!("{why}, not one namespace"), "leave --namespace out")),
        }
    }

    /// Remembers the commit that is on its way, so that an interruption can name it.
    pub fn commit_begins(&mut self, commit: CommitId) {
        self.outcome.begins(commit);
    }

    /// Its outcome is known.
    pub fn commit_ended(&mut self) {
        self.outcome.ended();
    }

    /// Something was written, under this id where it has one: whoever can't be told has to look.
    pub fn written(&mut self, commit: Option<CommitId>) {
        self.outcome.written(commit);
    }

    /// What is known of the writes of this run.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    /// Asks before something that can't be undone.
    ///
    /// # Errors
    /// Wrong use where the answer is no, or nobody is there to give one.
    pub fn confirm(&self, question: &str) -> Result {
        if self.globals.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::usage(
                format!("nobody is there to be asked: {question}"),
                "add -y to do it without asking",
            ));
        }
        let mut stderr = io::stderr();
        // A terminal that can't be written can't be asked either: the answer is then no.
        let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        match (read, answer.trim().to_lowercase().as_str()) {
            (Ok(_), "y" | "yes") => Ok(()),
            _ => Err(Failure::usage("not done", "answer y to do it, or add -y")),
        }
    }
}
