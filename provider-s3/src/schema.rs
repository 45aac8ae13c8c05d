//! The bucket and the first object of a log: planning them, making them, and finding out whether the service keeps what the log rests
//! on.

use crate::codec::{self, Author};
use crate::draft::Drafted;
use crate::log::{self, Outcome};
use crate::store::Client;
use crate::tables::Effect;
use bytes::Bytes;
use evstore_api::{CommitId, Deadline, Error, ErrorKind, Meta, Result, SchemaChange, SchemaPlan, Usage};
use evstore_aws::s3::{Condition, Put};
use futures::future::join_all;

/// Puts of one key at once of which only one may succeed.
const RACERS: usize = 8;
/// A tag that no object has.
const NO_TAG: &str = "\"00000000000000000000000000000000\"";

/// Whether the store was made.
pub async fn is_there(client: &Client, deadline: Deadline) -> Result<bool> {
    match client.link().get(&client.slot(1), None, deadline, &mut Usage::default()).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) if error.kind() == ErrorKind::Schema => Ok(false),
        Err(error) => Err(error),
    }
}

/// What [`apply`] would do.
pub async fn plan(client: &Client, deadline: Deadline) -> Result<SchemaPlan> {
    let mut changes = Vec::new();
    let change = |summary| SchemaChange { summary, statement: String::new() };
    if !client.link().has_bucket(deadline).await? {
        changes.push(change(format!("make the bucket {}", client.link().bucket())));
    }
    if !changes.is_empty() || !is_there(client, deadline).await? {
        changes.push(change(format!("make the store's first object, {}", client.slot(1))));
    } else {
        client.look(deadline, &mut Usage::default(), |tables| tables.meta().format.check_write()).await?;
    }
    Ok(SchemaPlan { changes })
}

/// Makes what is missing. Of two that try at once, one makes it.
pub async fn apply(client: &Client, deadline: Deadline) -> Result<SchemaPlan> {
    let planned = plan(client, deadline).await?;
    if planned.changes.is_empty() {
        return Ok(planned);
    }
    if !client.link().has_bucket(deadline).await? {
        client.link().make_bucket(deadline).await?;
    }
    probe(client, deadline).await?;
    create(client, deadline).await?;
    Ok(planned)
}

/// Puts the first object of the log; false where there is one.
pub async fn create(client: &Client, deadline: Deadline) -> Result<bool> {
    let born = Drafted { effect: Effect::Meta(Meta::new(client.now())), payload: None };
    let author = Author::new(client.writer());
    let body = Bytes::from(codec::encode(1, author, &[born]));
    match log::put(client, 1, author, &body, deadline, &mut Usage::default()).await? {
        Outcome::Ours => Ok(true),
        Outcome::Theirs(_) => Ok(false),
    }
}

/// Refuses a service that does not keep the conditions of puts: several writers would overwrite each other there, and nobody would
/// notice.
///
/// # Errors
/// `Schema`.
pub async fn probe(client: &Client, deadline: Deadline) -> Result<()> {
    let key = format!("{}/probe/{}", client.prefix(), CommitId::generate());
    let mut usage = Usage::default();
    let probed = probe_at(client, &key, deadline, &mut usage).await;
    client.link().delete(&key, deadline, &mut usage).await?;
    probed
}

async fn probe_at(client: &Client, key: &str, deadline: Deadline, usage: &mut Usage) -> Result<()> {
    let refused = |found| {
        Err(Error::new(ErrorKind::Schema, "the service does not keep the conditions of puts, which the log rests on")
            .with("found", found)
            .with("bucket", client.link().bucket()))
    };
    let puts = (0..RACERS).map(|racer| async move {
        let body = Bytes::from(vec![racer as u8; 1 << 10]);
        client.link().put(key, body, Condition::Free, deadline, &mut Usage::default()).await
    });
    let raced = join_all(puts).await.into_iter().collect::<Result<Vec<_>>>()?;
    let won = raced.iter().filter(|put| **put == Put::Done).count();
    if won > 1 {
        return refused("of several that put one object where there is none, more than one did");
    }
    if won == 0 && client.link().put(key, Bytes::new(), Condition::Free, deadline, usage).await? != Put::Done {
        return refused("an object could not be put where there is none");
    }
    if client.link().put(key, Bytes::new(), Condition::Free, deadline, usage).await? == Put::Done {
        return refused("an object was put where there is none, and there was one");
    }
    if client.link().put(key, Bytes::new(), Condition::Unchanged(NO_TAG), deadline, usage).await? == Put::Done {
        return refused("an object was replaced that had another tag than the one given");
    }
    let Some(got) = client.link().get(key, None, deadline, usage).await? else {
        return refused("an object that was put was not there");
    };
    let body = Bytes::from_static(b"replaced");
    if client.link().put(key, body, Condition::Unchanged(&got.tag), deadline, usage).await? != Put::Done {
        return refused("an object could not be replaced that had the tag given");
    }
    Ok(())
}

/// Removes everything under the prefix.
pub async fn drop_objects(client: &Client, deadline: Deadline) -> Result<()> {
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    let mut usage = Usage::default();
    let keys = client.link().list_all(&format!("{}/", client.prefix()), None, deadline, &mut usage).await?.keys;
    let invalid = |cause| Error::new(ErrorKind::Invalid, "a key can't be named").caused_by(cause);
    for some in keys.chunks(1_000) {
        let named = some.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let named = named.collect::<std::result::Result<Vec<_>, _>>().map_err(invalid)?;
        let delete = Delete::builder().set_objects(Some(named)).quiet(true).build().map_err(invalid)?;
        let request = client.link().client().delete_objects().bucket(client.link().bucket()).delete(delete);
        let purpose = crate::error::Purpose::Write;
        let answer = evstore_aws::failure::bounded(request.send(), deadline, purpose).await?;
        let answer = answer.map_err(|failed| crate::error::failed(&failed, purpose))?;
        if let Some(left) = answer.errors().first() {
            return Err(Error::new(ErrorKind::Unavailable, "an object could not be removed")
                .with("object", left.key().unwrap_or_default())
                .with("code", left.code().unwrap_or_default()));
        }
    }
    Ok(())
}
