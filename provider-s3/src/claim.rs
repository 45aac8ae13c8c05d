//! A turn for who always loses. A handle that has just put an object puts the next one sooner than another that first has to read it;
//! without a claim a busy process would keep all others out, and nobody would see them.

use crate::log;
use crate::store::Client;
use bytes::Bytes;
use evstore_api::{Result, Usage};
use evstore_aws::s3::{Condition, Put};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

/// Numbers that a group loses before it claims its turn; with the pauses between them that takes a fraction of a second.
pub const LOST_BEFORE_CLAIM: u32 = 6;
/// Objects of one handle between two looks for a claim. A look is sent beside a put and takes no time of its own.
pub const PUTS_BETWEEN_LOOKS: u32 = 16;
/// How long another's turn is waited for: far longer than reading one object and putting one take. Who claimed may be gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether it was taken.
const PAUSE: Duration = Duration::from_millis(10);

fn key(client: &Client) -> String {
    format!("{}/claim", client.prefix())
}

/// Asks for a turn; false where another does.
///
/// # Errors
/// As writes have them.
pub async fn make(client: &Client, usage: &mut Usage) -> Result<bool> {
    let body = Bytes::copy_from_slice(&client.writer());
    let put = client.link().put(&key(client), body, Condition::Free, client.patience(), usage).await?;
    Ok(put == Put::Done)
}

/// Ends a claim. Where it fails, others wait once and end it.
pub async fn end(client: &Client, usage: &mut Usage) {
    let _outwaited = client.link().delete(&key(client), client.patience(), usage).await;
}

/// Who else asks for a turn.
///
/// # Errors
/// As reads have them.
pub async fn look(client: &Client, usage: &mut Usage) -> Result<Option<[u8; 16]>> {
    let found = client.link().get(&key(client), None, client.patience(), usage).await?;
    // One that nobody can have written is waited for as well, and then ended.
    let claimant = |body: Bytes| body.as_ref().try_into().unwrap_or([0; 16]);
    Ok(found.map(|got| claimant(got.body)).filter(|claimant| *claimant != client.writer()))
}

/// Lets another have its turn.
///
/// # Errors
/// As [`log::catch_up`].
pub async fn yield_to(client: &Client, claimant: [u8; 16], usage: &mut Usage) -> Result<()> {
    let awaited = || client.awaited.lock().unwrap_or_else(PoisonError::into_inner);
    *awaited() = Some(claimant);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        tokio::time::sleep(log::jittered(PAUSE)).await;
        log::catch_up(client, client.patience(), usage).await?;
        if awaited().is_none() {
            return Ok(());
        }
    }
    *awaited() = None;
    end(client, usage).await;
    Ok(())
}
