//! What an operator should know of the server and of the sequencer: settings that lose commits, and who holds what up.

use crate::capabilities::Server;
use crate::error::Result as Worked;
use crate::statements::Statement;
use crate::store::{self, Client};
use crate::{codec, read};
use evstore_api::{Deadline, Finding, Result};
use sqlx::PgConnection;
use std::time::Duration;

/// A feed that is further behind than this is told of: it is ten times what the store declares.
const LAG_MAX: Duration = Duration::from_millis(2_500);
/// A transaction that is open for longer keeps dead rows in the whole cluster, those of the sequencer's row too.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(3600);

/// Looks at everything, and changes nothing. Works also where there is no schema yet.
pub async fn examine(client: &Client, deadline: Deadline) -> Result<Vec<Finding>> {
    let mut findings = settings(&store::server(client, deadline).await?);
    let has_schema = client
        .read(deadline, async |connection| {
            let rows = client.statements.has_schema.query().fetch_all(connection).await?;
            rows.first().map_or(Ok(false), |row| codec::get(row, 0))
        })
        .await?;
    if has_schema {
        findings.extend(sequencer(client, deadline).await?);
    }
    Ok(findings)
}

fn settings(server: &Server) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut on = |setting: &str, name, loses: &str| {
        if setting == "off" {
            findings.push(Finding::warning(name, format!("{name} is off: {loses}"), format!("set {name} = on")));
        }
    };
    if !server.aurora {
        on(&server.fsync, "fsync", "a crash of the machine may destroy the database");
        on(&server.full_page_writes, "full_page_writes", "a crash of the machine may destroy the database");
    }
    on(&server.synchronous_commit, "synchronous_commit", "a crash of the server loses the last acknowledged commits");
    if server.standby {
        let found = "the server is a standby, which takes no writes and gives no positions";
        findings.push(Finding::problem("standby", found, "let the url lead to the primary"));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("server", "its settings keep what was acknowledged over a crash"));
    }
    findings
}

/// How far the feed is behind, and why.
async fn sequencer(client: &Client, deadline: Deadline) -> Result<Vec<Finding>> {
    let statements = &client.statements;
    let (held, open, (snapshot, orphans)) = client
        .read(deadline, async |connection| {
            let held = sessions(connection, &statements.sequencer_held).await?;
            let open = sessions(connection, &statements.appends_open).await?;
            let rows = statements.oldest_snapshot.query().fetch_all(connection).await?;
            let oldest = match rows.first() {
                Some(row) => (codec::number(row, 0)?, codec::number(row, 1)?),
                None => (0, 0),
            };
            Ok((held, open, oldest))
        })
        .await?;
    let mut findings = Vec::new();
    if !held.is_empty() {
        let found = format!("no positions are given: the sequencer's lock is held by {}", held.join(", "));
        findings.push(Finding::problem("sequencer", found, "end that session: pg_terminate_backend(pid)"));
    }
    if !open.is_empty() {
        let found = format!("appends are open, and not in the feed until they commit: {}", open.join(", "));
        findings.push(Finding::warning("appends", found, "end those sessions: pg_terminate_backend(pid)"));
    }
    let lag = read::feed_head(client, deadline).await?.lag;
    if lag.age > LAG_MAX && held.is_empty() {
        let found = format!("the feed is {} commits and {:.1} s behind", lag.commits, lag.age.as_secs_f64());
        let mending = "open the store in a process that may execute sequence_commits: each open store makes its steps";
        findings.push(Finding::warning("feed", found, mending));
    }
    if Duration::from_secs(snapshot) > SNAPSHOT_AGE_MAX {
        let found =
            format!("a transaction of this cluster is open for {snapshot} s: rows that steps leave behind pile up");
        findings.push(Finding::warning("old transaction", found, "end it; pg_stat_activity.xact_start names it"));
    }
    if orphans > 0 {
        let found = format!("{orphans} prepared transactions are older than five minutes");
        findings.push(Finding::warning("prepared transactions", found, "see pg_prepared_xacts; ROLLBACK PREPARED"));
    }
    Ok(findings)
}

/// Sessions as a person finds them again.
async fn sessions(connection: &mut PgConnection, statement: &Statement) -> Worked<Vec<String>> {
    let rows = statement.query().fetch_all(connection).await?;
    let session = |row| {
        let (pid, seconds): (i32, i64) = (codec::get(row, 0)?, codec::get(row, 3)?);
        let (role, application): (&str, &str) = (codec::get(row, 1)?, codec::get(row, 2)?);
        Ok(format!("pid {pid} ({role}, {application}) since {seconds} s"))
    };
    rows.iter().map(session).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::Severity;

    #[test]
    fn settings_that_lose_commits_are_warned_of() {
        let about = |synchronous_commit: &str, fsync: &str| {
            let server = Server {
                fsync: fsync.into(),
                full_page_writes: "on".into(),
                synchronous_commit: synchronous_commit.into(),
                ..Server::default()
            };
            let findings = settings(&server).into_iter().filter(|finding| finding.severity != Severity::Fine);
            findings.map(|finding| finding.about).collect::<Vec<_>>()
        };
        assert_eq!(about("on", "on"), Vec::<&str>::new());
        assert_eq!(about("off", "off"), ["fsync", "synchronous_commit"]);
    }
}
