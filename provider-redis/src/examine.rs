//! What an operator should know of a server: what it does to events, what a crash and a failover may take, its disk, its memory.

use crate::config::{Config, Topology, Wanted};
use crate::server::{Facts, field};
use evstore_api::Finding;
use evstore_api::capabilities::Durability;

/// Share of the memory limit, in percent, above which an operator should hear of it: with `noeviction` appends are refused at it.
const MEMORY_WARNED_PERCENT: u64 = 80;

/// What one server says of itself, held against what the store promises on it. The last position is none before the schema.
pub fn examine(config: &Config, facts: &Facts, position: Option<u64>) -> Vec<Finding> {
    let mut findings = vec![eviction(facts), durability(config, facts)];
    findings.extend(failover(config, facts));
    findings.extend(disk(&facts.info));
    findings.push(memory(&facts.info, position));
    findings
}

fn eviction(facts: &Facts) -> Finding {
    const ABOUT: &str = "eviction";
    match facts.eviction.as_deref() {
        Some("noeviction") => {
            Finding::fine(ABOUT, "the server refuses writes where memory is short, and removes nothing")
        }
        Some(policy) => Finding::problem(
            ABOUT,
            format!("maxmemory-policy is {policy}: the server removes events where memory is short"),
            "set maxmemory-policy to noeviction",
        ),
        None => Finding::warning(
            ABOUT,
            "CONFIG is forbidden, so nobody can tell whether the server removes events where memory is short",
            "make sure that maxmemory-policy is noeviction",
        ),
    }
}

fn durability(config: &Config, facts: &Facts) -> Finding {
    const ABOUT: &str = "durability";
    match (facts.durability, config.wanted) {
        (Some(Durability::PowerLoss), _) => {
            Finding::fine(ABOUT, "appendfsync is always: what is acknowledged is on the disk")
        }
        (Some(_), Wanted::Replicas(replicas)) => Finding::warning(
            ABOUT,
            format!("{replicas} replicas confirm each commit, and the disks lag: a power cut of all takes commits"),
            "set appendonly to yes and appendfsync to always, on the replicas too",
        ),
        (Some(Durability::ProcessCrash), _) => Finding::warning(
            ABOUT,
            "appendfsync is not always: a power cut takes what was acknowledged last, about a second under everysec",
            "set appendfsync to always",
        ),
        (Some(_), _) => Finding::warning(
            ABOUT,
            "there is no append-only file: the end of the server takes what was acknowledged",
            "set appendonly to yes and appendfsync to always",
        ),
        (None, _) => Finding::warning(
            ABOUT,
            "CONFIG is forbidden: what the server keeps is believed as durability says it",
            "ask whoever runs the server for appendonly and appendfsync",
        ),
    }
}

/// Nothing where there is nobody to fail over to.
fn failover(config: &Config, facts: &Facts) -> Option<Finding> {
    const ABOUT: &str = "failover";
    let connected = facts.replicas;
    if connected == 0 && config.topology == Topology::Single {
        return None;
    }
    Some(match u64::from(config.replicas()) {
        0 => Finding::warning(
            ABOUT,
            format!("{connected} replicas lag behind the primary: the promotion of one takes acknowledged commits"),
            "set durability to \"replicas\"",
        ),
        confirming if confirming < connected => Finding::warning(
            ABOUT,
            format!("{confirming} of {connected} replicas confirm a commit: the promotion of another takes some"),
            format!("set replicas to {connected}, or let only those be promoted that confirm"),
        ),
        confirming if confirming > connected => Finding::problem(
            ABOUT,
            format!(
                "{connected} replicas are connected, and {confirming} have to confirm: appends are not acknowledged"
            ),
            "bring the replicas back",
        ),
        confirming => Finding::fine(ABOUT, format!("every commit is confirmed by all {confirming} replicas")),
    })
}

fn disk(info: &str) -> Vec<Finding> {
    const ABOUT: &str = "persistence";
    let mut findings = Vec::new();
    for (name, wrote) in [
        ("aof_last_write_status", "the last write to the append-only file failed"),
        ("aof_last_bgrewrite_status", "the last rewrite of the append-only file failed"),
        ("rdb_last_bgsave_status", "the last dump failed"),
    ] {
        if field(info, name).is_some_and(|status| status != "ok") {
            let mending = "see the server's log, and whether its disk is full";
            findings.push(Finding::warning(ABOUT, format!("{wrote} ({name})"), mending));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::fine(ABOUT, "the last writes of the server to its disk went well"));
    }
    findings
}

fn memory(info: &str, position: Option<u64>) -> Finding {
    const ABOUT: &str = "memory";
    let number = |name| field(info, name).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    let (used, max) = (number("used_memory"), number("maxmemory"));
    // Everything that the server holds is counted, so that it is no less than what the store takes.
    let each = position.and_then(|position| used.checked_div(position));
    let each = each.map_or_else(String::new, |bytes| format!(", {bytes} for each position of this store"));
    match used.saturating_mul(100).checked_div(max) {
        None => Finding::warning(
            ABOUT,
            format!(
                "{used} bytes used{each}, and the server has no limit: the system may end it where memory is short"
            ),
            "set maxmemory to what the machine can spare",
        ),
        Some(percent) if percent >= MEMORY_WARNED_PERCENT => Finding::warning(
            ABOUT,
            format!("{used} of {max} bytes used ({percent} %){each}: appends are refused when it is full"),
            "raise maxmemory, or truncate streams that are not needed whole",
        ),
        Some(percent) => Finding::fine(ABOUT, format!("{used} of {max} bytes used ({percent} %){each}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Settings, Severity, StoreName};

    fn facts() -> Facts {
        Facts {
            engine: "Redis 7".to_owned(),
            durability: Some(Durability::PowerLoss),
            replicas: 0,
            eviction: Some("noeviction".to_owned()),
            info: "aof_last_write_status:ok\r\nused_memory:40\r\nmaxmemory:100\r\n".to_owned(),
        }
    }

    fn worse(durability: &str, facts: &Facts) -> Vec<(&'static str, Severity)> {
        let given = [("url", "redis://localhost"), ("durability", durability), ("replicas", "2")];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = Settings::new(StoreName::new("a").unwrap(), crate::KEYS, given).unwrap();
        let found = examine(&Config::new(&settings).unwrap(), facts, Some(4)).into_iter();
        found.filter(|one| one.severity != Severity::Fine).map(|one| (one.about, one.severity)).collect()
    }

    #[test]
    fn a_server_that_keeps_everything_is_fine() {
        assert_eq!(worse("server", &facts()), []);
        assert_eq!(worse("replicas", &Facts { replicas: 2, ..facts() }), []);
    }

    #[test]
    fn what_may_take_acknowledged_commits_is_named() {
        use Severity::{Problem, Warning};
        for durability in [Durability::Memory, Durability::ProcessCrash] {
            let lags = Facts { durability: Some(durability), ..facts() };
            assert_eq!(worse("server", &lags), [("durability", Warning)]);
        }
        let silent = Facts { durability: None, eviction: None, ..facts() };
        assert_eq!(worse("memory", &silent), [("eviction", Warning), ("durability", Warning)]);
        let evicts = Facts { eviction: Some("allkeys-lru".to_owned()), ..facts() };
        assert_eq!(worse("server", &evicts), [("eviction", Problem)]);
        assert_eq!(worse("server", &Facts { replicas: 1, ..facts() }), [("failover", Warning)]);
        assert_eq!(worse("replicas", &Facts { replicas: 3, ..facts() }), [("failover", Warning)]);
        assert_eq!(worse("replicas", &Facts { replicas: 1, ..facts() }), [("failover", Problem)]);
    }

    #[test]
    fn a_failed_write_and_a_full_memory_are_warned_of() {
        use Severity::Warning;
        let info = "aof_last_write_status:err\r\nused_memory:80\r\nmaxmemory:100\r\n".to_owned();
        assert_eq!(worse("server", &Facts { info, ..facts() }), [("persistence", Warning), ("memory", Warning)]);
        let info = "used_memory:80\r\nmaxmemory:0\r\n".to_owned();
        assert_eq!(worse("server", &Facts { info, ..facts() }), [("memory", Warning)]);
    }
}
