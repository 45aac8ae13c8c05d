//! What a write would come to, for `--dry-run`: decided by the rules of every store from what this one has now, and not made.

use crate::failure::Result;
use crate::session::{Session, deadline};
use evstore_api::{Clock as _, ErrorKind, FindCommit, Head, Meta, ReadHead, Revision, SystemClock, Timestamp};
use evstore_kit::decide::{self, Decision, Situation, Wanted};

/// What is decided, and the head of the stream that it was decided on.
pub struct Plan {
    /// The stream as it is.
    pub head: Head,
    /// Whether it is there already, or which slot it would take.
    pub decision: Decision,
}

/// Decides an append or a deletion.
///
/// # Errors
/// As the store's.
pub async fn write(session: &mut Session, wanted: &Wanted) -> Result<Plan> {
    plan(session, wanted, None).await
}

/// Decides a truncation before a revision.
///
/// # Errors
/// As the store's.
pub async fn truncation(session: &mut Session, wanted: &Wanted, before: Revision) -> Result<Plan> {
    plan(session, wanted, Some(before)).await
}

async fn plan(session: &mut Session, wanted: &Wanted, before: Option<Revision>) -> Result<Plan> {
    let now = SystemClock.now();
    let own = session.store_name()?;
    let (meta, head, found) = match session.open_store_if_there().await? {
        None => (Meta::new(now), Head::missing(), None),
        Some(store) => {
            let meta = meta(session, now).await?;
            let stream = wanted.stream.clone();
            let head = store.head(ReadHead { stream: stream.clone(), deadline: deadline() }).await?;
            let find = FindCommit { stream, commit: wanted.commit, deadline: deadline() };
            (meta, head, store.find_commit(find).await?)
        }
    };
    let situation = Situation { meta: &meta, own: &own, head: &head, last_position: None, now };
    let decision = match before {
        Some(before) => decide::truncate(&situation, wanted, before, found)?,
        None => decide::append(&situation, wanted, found)?,
    };
    Ok(Plan { head, decision })
}

/// The store's record; one that is open where an application's credentials may not read it.
async fn meta(session: &mut Session, now: Timestamp) -> Result<Meta> {
    match session.open_admin().await?.read_meta(deadline()).await {
        Err(error) if error.kind() == ErrorKind::Denied => Ok(Meta::new(now)),
        meta => Ok(meta?),
    }
}
