//! Pulls that must be refused.

use super::*;

pub(super) fn refused() -> Vec<Check> {
    vec![
        Check::must(
            "pull.uninitialized",
            "a scope that nobody initialized is not served",
            &["seed.pull.scope_uninitialized"],
            |lab| lab.user()?.pull_reply("")?.refused(409, &["scope_uninitialized"]).map(drop),
        ),
        Check::must(
            "pull.initializing",
            "a scope that is being seeded is not served",
            &["seed.pull.scope_initializing"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                d.source("device-b").pull_reply("")?.refused(409, &["scope_initializing"]).map(drop)
            },
        ),
        Check::must(
            "pull.invalid.after_negative",
            "a negative checkpoint is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?after_bundle_seq=-1"),
        ),
        Check::must(
            "pull.invalid.after_text",
            "a checkpoint that is no integer is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?after_bundle_seq=x"),
        ),
        Check::must(
            "pull.invalid.after_overflow",
            "a checkpoint of 2^63 is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?after_bundle_seq=9223372036854775808"),
        ),
        Check::must("pull.invalid.max_zero", "max_bundles 0 is refused", &["seed.pull.pull_invalid"], |lab| {
            invalid(lab, "?max_bundles=0")
        }),
        Check::must(
            "pull.invalid.max_negative",
            "a negative max_bundles is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?max_bundles=-1"),
        ),
        Check::must(
            "pull.invalid.max_text",
            "max_bundles that is no integer is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?max_bundles=many"),
        ),
        Check::must(
            "pull.invalid.target_negative",
            "a negative target is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?target_bundle_seq=-1"),
        ),
        Check::must(
            "pull.invalid.target_text",
            "a target that is no integer is refused",
            &["seed.pull.pull_invalid"],
            |lab| invalid(lab, "?target_bundle_seq=1.5"),
        ),
        Check::should(
            "pull.ahead",
            "a checkpoint ahead of the history is refused",
            &["spec.8.ahead"],
            "a server that was restored from a backup is not noticed",
            |lab| ahead(lab, "?after_bundle_seq=4"),
        ),
        Check::should(
            "pull.target_ahead",
            "a target ahead of the history is refused",
            &["spec.8.ahead"],
            "a device takes a shortened history for the whole",
            |lab| ahead(lab, "?target_bundle_seq=4"),
        ),
    ]
}

fn invalid(lab: &Lab<'_>, query: &str) -> Checked {
    history(lab, 1)?.pull_reply(query)?.refused(400, INVALID).map(drop)
}

fn ahead(lab: &Lab<'_>, query: &str) -> Checked {
    let json = history(lab, 3)?.pull_reply(query)?.refused(409, &["checkpoint_ahead"])?;
    let latest = json.get("latest_bundle_seq").and_then(crate::json::Json::integer);
    want!(latest == Some(3), "checkpoint_ahead says what the newest bundle is", "{json}");
    Ok(())
}

const INVALID: &[&str] = &["pull_invalid", "invalid_request"];
