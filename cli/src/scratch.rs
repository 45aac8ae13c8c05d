//! Remembers the scratch stores that a run has made and not dropped, so that Ctrl-C leaves none behind.

use async_trait::async_trait;
use evstore_api::{Error, ErrorKind, EventStore, Opener, Provider, Result, Settings, StoreAdmin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::RwLock;

/// The scratch stores that are there.
#[derive(Default)]
pub struct Scratch(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Read-locked while one is being made.
    making: RwLock<()>,
}

#[derive(Default)]
struct State {
    made: Vec<(Arc<dyn Opener>, Settings)>,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Closed, "the run was interrupted")
}

impl Scratch {
    /// The same provider, its scratch stores remembered here.
    #[must_use]
    pub fn watch(&self, provider: &Provider) -> Provider {
        let opener = Arc::new(Watched { inner: provider.opener.clone(), shared: self.0.clone() });
        Provider { opener, ..provider.clone() }
    }

    /// Lets no more be made, and drops those that are there.
    pub async fn clear(&self) {
        self.0.lock().stopped = true;
        // Whoever began before is waited for; whoever comes later is refused.
        let _nobody_makes_one = self.0.making.write().await;
        let made = std::mem::take(&mut self.0.lock().made);
        for (opener, settings) in made {
            // What can't be dropped now is listed by `evstore doctor`.
            let _ = opener.drop_scratch(&settings).await;
        }
    }
}

struct Watched {
    inner: Arc<dyn Opener>,
    shared: Arc<Shared>,
}

#[async_trait]
impl Opener for Watched {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.inner.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    /// On a task of its own: a caller that is interrupted in the middle must not leave what nobody knows of.
    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        let (inner, shared) = (self.inner.clone(), self.shared.clone());
        let (settings, tag) = (settings.clone(), tag.to_owned());
        let make = async move {
            let _making = shared.making.read().await;
            if shared.lock().stopped {
                return Err(interrupted());
            }
            let made = inner.make_scratch(&settings, &tag).await?;
            shared.lock().made.push((inner, made.clone()));
            Ok(made)
        };
        tokio::spawn(make).await.unwrap_or_else(|cause| Err(interrupted().caused_by(cause)))
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.inner.drop_scratch(scratch).await?;
        self.shared.lock().made.retain(|(_, made)| made != scratch);
        Ok(())
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}
