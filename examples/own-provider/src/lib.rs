//! A provider of one's own: a SQLite file for each tenant, in one folder.
//!
//! A provider is a value with an opener, and the opener gives things that implement the two traits of the contract. This one
//! lets another provider's stores do the work and decides where they lie. A provider for an engine of its own implements
//! the traits as well, and best starts as a copy of `provider-memory`.

use async_trait::async_trait;
use evstore_api::{
    ConfigKey, Deadline, Error, ErrorKind, EventStore, KeyDefault, KeyKind, Opener, Provider, Result, Secrecy,
    Settings, StoreAdmin,
};
use std::sync::Arc;
use std::time::Duration;

/// What a store reads from its table in the config file.
const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "folder",
        kind: KeyKind::Path,
        default: KeyDefault::Required,
        secrecy: Secrecy::Plain,
        sentence: "Where the files of all tenants lie.",
    },
    ConfigKey {
        name: "tenant",
        kind: KeyKind::Text,
        default: KeyDefault::Required,
        secrecy: Secrecy::Plain,
        sentence: "Whose store it is: a-z, 0-9 and -.",
    },
];

/// The provider, as a config file names it.
#[must_use]
pub fn provider() -> Provider {
    let files = evstore_sqlite::provider();
    Provider {
        name: "tenants",
        sentence: "A SQLite file for each tenant.",
        keys: KEYS,
        opener: Arc::new(Tenants { files }),
    }
}

struct Tenants {
    files: Provider,
}

impl Tenants {
    /// The settings of the tenant's file. A name can't leave the folder, because it can't have a dot or a slash.
    fn file(&self, settings: &Settings) -> Result<Settings> {
        let text = |key| settings.text(key).unwrap_or_default();
        let tenant = text("tenant");
        if tenant.is_empty() || !tenant.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(Error::new(ErrorKind::Invalid, "a tenant is named by a-z, 0-9 and -"));
        }
        let path = format!("{}/{tenant}.db", text("folder"));
        // Opening makes no file: a name that is mistyped is told as such, and a tenant is made by `evstore schema apply`.
        let given = [("path", path), ("auto_create", "false".to_owned())];
        let given = given.map(|(key, value)| (key.to_owned(), value));
        Settings::new(settings.store().clone(), self.files.keys, given)
    }
}

#[async_trait]
impl Opener for Tenants {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.files.opener.open(&self.file(settings)?).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.files.opener.open_admin(&self.file(settings)?).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=16).contains(&tag.len()) || !tag.bytes().all(allowed) {
            return Err(Error::new(ErrorKind::Invalid, "the tag of a scratch store is 1 to 16 letters a-z and digits"));
        }
        settings.clone().with("tenant", format!("{SCRATCH}{tag}"))
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let scratch = self.scratch(settings, tag)?;
        let file = self.file(&scratch)?;
        let path = file.path("path").unwrap_or_default();
        if path.exists() {
            return Err(Error::new(ErrorKind::Conflict, "there is a scratch store of that tag"));
        }
        let admin = self.files.opener.open_admin(&file).await?;
        admin.apply_schema(Deadline::within(PATIENCE)).await?;
        admin.close().await?;
        Ok(scratch)
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        if !scratch.text("tenant").is_some_and(|tenant| tenant.starts_with(SCRATCH)) {
            return Err(Error::new(ErrorKind::Invalid, "the store is not a scratch store"));
        }
        let path = self.file(scratch)?.path("path").unwrap_or_default();
        for companion in ["", "-wal", "-shm"] {
            let mut file = path.clone().into_os_string();
            file.push(companion);
            match std::fs::remove_file(&file) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::Unavailable, "a file could not be removed").caused_by(cause));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        let folder = settings.path("folder").unwrap_or_default();
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let tag = |name: String| Some(name.strip_prefix(SCRATCH)?.strip_suffix(".db")?.to_owned());
        let mut tags: Vec<_> = names.filter_map(tag).collect();
        tags.sort();
        Ok(tags)
    }
}

/// What the tenants of scratch stores begin with.
const SCRATCH: &str = "scratch-";
/// How long making one may take.
const PATIENCE: Duration = Duration::from_secs(30);
