//! What an operator should know of the tables: what they are paid by, and whether they can be restored.

use crate::index;
use crate::log;
use crate::queue::Queue;
use crate::schema;
use crate::sequencer::Sequencer;
use crate::store::Client;
use crate::tables::Table;
use aws_sdk_dynamodb::types::{BillingMode, PointInTimeRecoveryStatus, TableDescription, TableStatus};
use evstore_api::{Deadline, ErrorKind, Finding, Result, Usage};
use std::time::Duration;

/// A commit that waits so long for its position says that nobody works; one that waits so long, that a day is soon over.
const LATE_FROM: Duration = Duration::from_secs(60);
const TOO_LATE_FROM: Duration = Duration::from_secs(6 * 60 * 60);

/// Streams whose ends are looked for in the feed's index.
const STREAMS_MAX: usize = 10_000;

/// Looks at every table that is there.
pub async fn examine(client: &Client, deadline: Deadline) -> Result<Vec<Finding>> {
    let mut findings = vec![endpoint(client)];
    for table in Table::ALL {
        match schema::describe(client, table, deadline).await {
            Ok(Some(found)) => {
                findings.push(status(client, table, &found));
                findings.push(billing(client, table, &found));
                if client.config().access.is_aws() {
                    findings.push(recovery(client, table, deadline).await?);
                }
            }
            // The schema's own check says so.
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Denied => findings.push(Finding::warning(
                "table",
                format!("{} can't be looked at with these credentials", client.link().table(table)),
                "allow dynamodb:DescribeTable",
            )),
            Err(error) => return Err(error),
        }
    }
    if let Some(sequencer) = client.sequencer() {
        findings.extend(behind(client, sequencer, deadline).await?);
    }
    if let Some(queue) = client.queue() {
        findings.extend(depth(queue, deadline).await?);
    }
    if client.index().is_some() {
        findings.extend(unindexed(client, deadline).await?);
    }
    Ok(findings)
}

/// Whether the feed's index has the end of every stream: the only way to find one that never came.
async fn unindexed(client: &Client, deadline: Deadline) -> Result<Option<Finding>> {
    const ABOUT: &str = "feed index";
    let found = match index::missing(client, STREAMS_MAX, deadline).await {
        Ok(found) => found,
        // The schema's own check says so.
        Err(error) if error.kind() == ErrorKind::Schema => return Ok(None),
        Err(error) if error.kind() == ErrorKind::Denied => {
            return Ok(Some(Finding::warning(
                ABOUT,
                "whether it has the end of every stream can't be looked at with these credentials",
                "allow dynamodb:Query on the index `feed` of the first table",
            )));
        }
        Err(error) => return Err(error),
    };
    let of = if found.is_all { "all" } else { "the first" };
    let Some(one) = found.missing.first() else {
        return Ok(Some(Finding::fine(ABOUT, format!("it has the ends of {of} {} streams", found.streams))));
    };
    Ok(Some(Finding::problem(
        ABOUT,
        format!(
            "it lacks the ends of {} of {of} {} streams for longer than `settling`, that of {one} say",
            found.missing.len(),
            found.streams
        ),
        "see whether writes to the index are throttled; its readers stop at what it lacks, or are told once it comes",
    )))
}

/// What is in the queue. What lies in it long is doubled or another store's: what was not logged for long, the sequencer's finding tells.
async fn depth(queue: &dyn Queue, deadline: Deadline) -> Result<Option<Finding>> {
    const ABOUT: &str = "queue";
    match queue.state(deadline).await {
        Ok(Some(found)) => Ok(Some(Finding::fine(
            ABOUT,
            format!(
                "{} has {} messages, and {} are with who received them",
                queue.name(),
                found.waiting,
                found.in_flight
            ),
        ))),
        // The schema's own check says so.
        Ok(None) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Denied => Ok(Some(Finding::warning(
            ABOUT,
            format!("what is in {} can't be looked at with these credentials", queue.name()),
            "allow sqs:GetQueueUrl and GetQueueAttributes",
        ))),
        Err(error) => Err(error),
    }
}

/// How far the sequencer is behind. What it did not come to within a day is not in the change stream any more.
async fn behind(client: &Client, sequencer: &Sequencer, deadline: Deadline) -> Result<Option<Finding>> {
    const ABOUT: &str = "sequencer";
    let mut usage = Usage::default();
    let lag = async {
        let tail = log::tail(client.link(), deadline, &mut usage).await?;
        sequencer.lag(client, &tail, deadline, &mut usage).await
    };
    let lag = match lag.await {
        Ok(lag) => lag,
        // The schema's own check says so.
        Err(error) if error.kind() == ErrorKind::Schema => return Ok(None),
        Err(error) if error.kind() == ErrorKind::Denied => {
            return Ok(Some(Finding::warning(
                ABOUT,
                "how far it is behind can't be looked at with these credentials",
                "allow dynamodb:DescribeStream, GetShardIterator and GetRecords on the table's change stream",
            )));
        }
        Err(error) => return Err(error),
    };
    if lag.age < LATE_FROM {
        return Ok(Some(Finding::fine(ABOUT, format!("{} commits wait for their positions", lag.commits))));
    }
    let found = format!("{} commits wait for their positions, the oldest for {:?}", lag.commits, lag.age);
    let mending = "run a process that has the store open with sequencer = \"inside\", or `evstore sequencer run`; the change \
                   stream keeps a day, and what is older is found only by looking at every stream";
    Ok(Some(match lag.age < TOO_LATE_FROM {
        true => Finding::warning(ABOUT, found, mending),
        false => Finding::problem(ABOUT, found, mending),
    }))
}

fn endpoint(client: &Client) -> Finding {
    const ABOUT: &str = "endpoint";
    if client.config().access.is_aws() {
        return Finding::fine(ABOUT, "it is AWS's own: two of three zones have a write before it is answered");
    }
    Finding::warning(
        ABOUT,
        "it is not AWS's own: nothing is known of what it keeps, and nothing is promised",
        "use it for tests only, or find out what it does with its tables when it stops",
    )
}

fn status(client: &Client, table: Table, found: &TableDescription) -> Finding {
    const ABOUT: &str = "table";
    let name = client.link().table(table);
    let protected = found.deletion_protection_enabled == Some(true);
    match found.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) if protected || !client.config().access.is_aws() => {
            Finding::fine(ABOUT, format!("{name} is there"))
        }
        Some(TableStatus::Active | TableStatus::Updating) => Finding::warning(
            ABOUT,
            format!("{name} is there, and one call can remove it"),
            "turn its deletion protection on",
        ),
        other => Finding::problem(
            ABOUT,
            format!("{name} takes no requests: {}", other.map_or("unknown", TableStatus::as_str)),
            "wait until it is active, or find out who changes it",
        ),
    }
}

fn billing(client: &Client, table: Table, found: &TableDescription) -> Finding {
    const ABOUT: &str = "capacity";
    let name = client.link().table(table);
    let on_demand =
        found.billing_mode_summary().and_then(|one| one.billing_mode()) == Some(&BillingMode::PayPerRequest);
    let units = found.provisioned_throughput();
    match units {
        Some(units) if !on_demand && units.write_capacity_units() != Some(0) => Finding::fine(
            ABOUT,
            format!(
                "{name} has {} read and {} write units a second",
                units.read_capacity_units().unwrap_or(0),
                units.write_capacity_units().unwrap_or(0)
            ),
        ),
        _ => Finding::fine(ABOUT, format!("{name} is paid for by request")),
    }
}

async fn recovery(client: &Client, table: Table, deadline: Deadline) -> Result<Finding> {
    const ABOUT: &str = "backup";
    let name = client.link().table(table);
    let request = client.link().client().describe_continuous_backups().table_name(name);
    let answer = tokio::time::timeout_at(deadline.0.into(), request.send()).await;
    let unseen = || {
        Finding::warning(
            ABOUT,
            format!("whether {name} can be restored can't be looked at with these credentials"),
            "allow dynamodb:DescribeContinuousBackups",
        )
    };
    let Ok(Ok(found)) = answer else { return Ok(unseen()) };
    let status = found
        .continuous_backups_description
        .and_then(|found| found.point_in_time_recovery_description)
        .and_then(|found| found.point_in_time_recovery_status);
    Ok(match status {
        Some(PointInTimeRecoveryStatus::Enabled) => {
            Finding::fine(ABOUT, format!("{name} can be restored to any second"))
        }
        _ => Finding::warning(
            ABOUT,
            format!("{name} can't be restored to a point in time"),
            "turn point-in-time recovery on; restore all three tables to the same second",
        ),
    })
}
