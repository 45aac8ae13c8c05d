//! What an operator should know of the bucket: whether something else removes objects of the log, or keeps what was removed.

use crate::error::{self, Purpose};
use crate::store::Client;
use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus, LifecycleRule};
use evstore_api::{Deadline, ErrorKind, Finding, Result, Usage};
use evstore_aws::failure::bounded;

/// Looks at the bucket and, where it is there, at the store.
pub async fn examine(client: &Client, deadline: Deadline) -> Result<Vec<Finding>> {
    let mut findings = vec![durability(client)];
    match client.link().has_bucket(deadline).await {
        Ok(true) => {}
        // The schema's own check says so.
        Ok(false) => return Ok(findings),
        Err(denied) if denied.kind() == ErrorKind::Denied => findings.push(Finding::warning(
            "bucket",
            format!("{} can't be looked at with these credentials", client.link().bucket()),
            "allow s3:ListBucket",
        )),
        Err(failed) => return Err(failed),
    }
    match rules(client, deadline).await? {
        Ok(rules) => {
            findings.push(versioning(client, &rules, deadline).await?);
            findings.push(lifecycle(client, &rules));
        }
        Err(unseen) => findings.push(unseen),
    }
    findings.extend(left(client, deadline).await?);
    Ok(findings)
}

fn durability(client: &Client) -> Finding {
    const ABOUT: &str = "durability";
    if client.config().access.is_aws() {
        return Finding::fine(ABOUT, "three zones or more have a write before it is answered");
    }
    Finding::warning(
        ABOUT,
        "the endpoint is not AWS's own: nothing is known of what it keeps, and nothing is promised",
        "use it for tests only, or find out what it does with its objects when it stops",
    )
}

/// The bucket's rules, or why they are not known.
async fn rules(client: &Client, deadline: Deadline) -> Result<std::result::Result<Vec<LifecycleRule>, Finding>> {
    let request = client.link().client().get_bucket_lifecycle_configuration().bucket(client.link().bucket());
    Ok(match bounded(request.send(), deadline, Purpose::Read).await? {
        Ok(found) => Ok(found.rules.unwrap_or_default()),
        Err(failed) => match error::refusal(&failed) {
            Some(("NoSuchLifecycleConfiguration", _)) => Ok(Vec::new()),
            _ => Err(unseen(
                "lifecycle",
                &error::failed(&failed, Purpose::Read),
                "rules",
                "s3:GetLifecycleConfiguration",
            )),
        },
    })
}

async fn versioning(client: &Client, rules: &[LifecycleRule], deadline: Deadline) -> Result<Finding> {
    const ABOUT: &str = "versions";
    let request = client.link().client().get_bucket_versioning().bucket(client.link().bucket());
    let found = match bounded(request.send(), deadline, Purpose::Read).await? {
        Ok(found) => found,
        Err(failed) => {
            let failed = error::failed(&failed, Purpose::Read);
            return Ok(unseen(ABOUT, &failed, "versions", "s3:GetBucketVersioning"));
        }
    };
    let ends = |rule: &LifecycleRule| {
        *rule.status() == ExpirationStatus::Enabled
            && rule.noncurrent_version_expiration().is_some()
            && concerns(rule, client.prefix())
    };
    Ok(match found.status() {
        Some(BucketVersioningStatus::Enabled) if rules.iter().any(ends) => {
            Finding::fine(ABOUT, "an object that somebody removes can be had back for some days")
        }
        Some(BucketVersioningStatus::Enabled) => Finding::warning(
            ABOUT,
            "the bucket keeps every version of an object for ever, and so what was truncated and deleted",
            "let noncurrent versions expire after the days for which removed events may be kept",
        ),
        _ => Finding::warning(
            ABOUT,
            "the bucket keeps no versions: an object that somebody removes is gone, and the store with it",
            "turn versioning on, and let noncurrent versions expire after some days; allow nobody s3:DeleteObject under log/",
        ),
    })
}

fn lifecycle(client: &Client, rules: &[LifecycleRule]) -> Finding {
    const ABOUT: &str = "lifecycle";
    match rules.iter().find(|rule| removes(rule, client.prefix())) {
        Some(rule) => Finding::problem(
            ABOUT,
            format!("the rule {} lets objects of the log expire", rule.id().unwrap_or("without a name")),
            "take the store's prefix out of it, or let only noncurrent versions expire",
        ),
        None => Finding::fine(ABOUT, "no rule lets objects of the store expire"),
    }
}

/// Whether a rule removes present objects of a store.
fn removes(rule: &LifecycleRule, prefix: &str) -> bool {
    let expires = rule.expiration().is_some_and(|end| end.days().is_some() || end.date().is_some());
    *rule.status() == ExpirationStatus::Enabled && expires && concerns(rule, prefix)
}

/// Whether a rule is about objects of the log. One for some tags is not: no object has any.
fn concerns(rule: &LifecycleRule, prefix: &str) -> bool {
    let filter = rule.filter();
    let tagged =
        filter.is_some_and(|filter| filter.tag().is_some() || filter.and().is_some_and(|and| !and.tags().is_empty()));
    let own = filter.and_then(|filter| filter.prefix().or(filter.and().and_then(|and| and.prefix())));
    #[expect(deprecated, reason = "buckets of long ago have such rules")]
    let of_rule = own.or(rule.prefix()).unwrap_or_default();
    let log = format!("{prefix}/log/");
    !tagged && (log.starts_with(of_rule) || of_rule.starts_with(&log))
}

/// What was removed and still has its bytes in some object.
async fn left(client: &Client, deadline: Deadline) -> Result<Option<Finding>> {
    const ABOUT: &str = "removed";
    let look = |tables: &crate::tables::Tables| Ok((tables.due, tables.dead.len()));
    let (due, objects) = match client.look(deadline, &mut Usage::default(), look).await {
        Ok(found) => found,
        Err(missing) if missing.kind() == ErrorKind::Schema => return Ok(None),
        Err(failed) => return Err(failed),
    };
    Ok(Some(match due {
        false => Finding::fine(ABOUT, "no object has bytes of what was truncated or deleted"),
        true => Finding::warning(
            ABOUT,
            format!("{objects} objects still have bytes of what was truncated or deleted"),
            "run `evstore schema apply`, which takes them out",
        ),
    }))
}

fn unseen(about: &'static str, failed: &evstore_api::Error, what: &str, allow: &str) -> Finding {
    match failed.kind() {
        ErrorKind::Denied => Finding::warning(
            about,
            format!("the bucket's {what} can't be looked at with these credentials"),
            format!("allow {allow}"),
        ),
        // Servers that speak alike know not everything.
        _ => Finding::warning(
            about,
            format!("the service does not say what {what} the bucket has"),
            "find out from whoever runs it whether it removes objects by itself",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::{LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter, Tag};

    fn rule(filter: LifecycleRuleFilter) -> LifecycleRule {
        LifecycleRule::builder()
            .status(ExpirationStatus::Enabled)
            .filter(filter)
            .expiration(LifecycleExpiration::builder().days(30).build())
            .build()
            .unwrap()
    }

    fn of(prefix: &str) -> LifecycleRule {
        rule(LifecycleRuleFilter::builder().prefix(prefix).build())
    }

    #[test]
    fn a_rule_that_lets_the_log_expire_is_told_from_others() {
        for prefix in ["", "shop", "shop/orders/", "shop/orders/log/", "shop/orders/log/0000"] {
            assert!(removes(&of(prefix), "shop/orders"), "{prefix:?}");
        }
        for prefix in ["other", "shop/orders.t1/", "shop/orders/checkpoint/"] {
            assert!(!removes(&of(prefix), "shop/orders"), "{prefix:?}");
        }
        let tag = Tag::builder().key("a").value("b").build().unwrap();
        let tagged = LifecycleRuleAndOperator::builder().prefix("shop").tags(tag).build();
        assert!(!removes(&rule(LifecycleRuleFilter::builder().and(tagged).build()), "shop/orders"));
    }
}
