//! What the backend says of itself, and who may ask.

mod auth;

use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, want};

const FEATURES: [&str; 7] = [
    "bundle_push",
    "bundle_pull",
    "connect_lifecycle",
    "push_session_chunking",
    "committed_bundle_row_fetch",
    "snapshot_chunking",
    "history_pruned_errors",
];

pub(super) fn checks() -> Vec<Check> {
    let mut all = capabilities();
    all.extend(auth::auth());
    all.extend(health());
    all
}

fn capabilities() -> Vec<Check> {
    vec![
        Check::must("capabilities.version", "the protocol version is v1", &["seed.capabilities.members"], |lab| {
            let c = ask(lab)?;
            want!(c.get("protocol_version").and_then(Json::text) == Some("v1"), "protocol_version is v1", "{c}");
            want!(c.get("schema_version").and_then(Json::integer).is_some(), "schema_version is an integer", "{c}");
            want!(c.get("app_name").is_none_or(|a| a.text().is_some()), "app_name is a string", "{c}");
            Ok(())
        }),
        Check::must("capabilities.tables", "the tables are named, sorted", &["seed.capabilities.members"], |lab| {
            let c = ask(lab)?;
            let names: Vec<&str> = c
                .get("registered_tables")
                .and_then(Json::items)
                .unwrap_or_default()
                .iter()
                .filter_map(Json::text)
                .collect();
            let mut mine: Vec<String> =
                lab.subject.profile.tables.iter().map(crate::profile::Table::full_name).collect();
            mine.sort();
            want!(
                names == mine,
                "registered_tables has the profile's tables as schema.table, sorted",
                "{names:?}, the profile has {mine:?}"
            );
            Ok(())
        }),
        Check::must(
            "capabilities.specs",
            "each table's key columns are named",
            &["seed.capabilities.members"],
            |lab| {
                let c = ask(lab)?;
                let specs = c.get("registered_table_specs").and_then(Json::items).unwrap_or_default();
                want!(specs.len() == lab.subject.profile.tables.len(), "a spec for each table", "{c}");
                for t in &lab.subject.profile.tables {
                    let spec = specs.iter().find(|s| {
                        s.get("table").and_then(Json::text) == Some(&t.name)
                            && s.get("schema").and_then(Json::text) == Some(&t.schema)
                    });
                    let key: Vec<&str> = spec
                        .and_then(|s| s.get("sync_key_columns"))
                        .and_then(Json::items)
                        .unwrap_or_default()
                        .iter()
                        .filter_map(Json::text)
                        .collect();
                    want!(
                        key == t.key,
                        format!("sync_key_columns are the key of the profile"),
                        "{key:?} of {}",
                        t.name
                    );
                }
                Ok(())
            },
        ),
        Check::may("capabilities.columns", "table specs name their columns", &["spec.10.columns"], |lab| {
            let c = ask(lab)?;
            let specs = c.get("registered_table_specs").and_then(Json::items).unwrap_or_default();
            if specs.iter().all(|s| s.get("columns").is_none()) {
                return crate::lab::not_offered("registered_table_specs have no columns");
            }
            for t in &lab.subject.profile.tables {
                let spec = specs.iter().find(|s| s.get("table").and_then(Json::text) == Some(&t.name));
                let names: Vec<&str> = spec
                    .and_then(|s| s.get("columns"))
                    .and_then(Json::items)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(Json::text)
                    .collect();
                let whole =
                    names.len() == t.columns.len() && t.columns.iter().all(|c| names.contains(&c.name.as_str()));
                want!(whole, "columns are those that travel", "{names:?} of {}", t.name);
            }
            Ok(())
        }),
        Check::must("capabilities.hidden", "hidden columns are not shown", &["seed.hidden"], |lab| {
            let c = ask(lab)?;
            let specs = c.get("registered_table_specs").map(Json::to_string).unwrap_or_default();
            want!(!specs.contains("\"_sync_"), "no name that begins with _sync_", "{specs}");
            Ok(())
        }),
        Check::must("capabilities.features", "the seven features are on", &["seed.capabilities.features"], |lab| {
            let c = ask(lab)?;
            for f in FEATURES {
                want!(
                    c.get("features").and_then(|m| m.get(f)).and_then(Json::boolean) == Some(true),
                    "each feature of the protocol is true",
                    "{f}: {c}"
                );
            }
            let flags = c.get("features").and_then(Json::members).unwrap_or_default();
            want!(flags.iter().all(|(_, v)| v.boolean().is_some()), "every feature is a boolean", "{c}");
            Ok(())
        }),
        Check::must(
            "capabilities.limits",
            "the limits are there and agree with each other",
            &["seed.capabilities.limits"],
            |lab| {
                let c = ask(lab)?;
                let limits = c.get("bundle_limits").cloned().unwrap_or(Json::Null);
                let n = |name: &str| limits.get(name).and_then(Json::integer).unwrap_or(0);
                for name in ["max_bundles_per_pull", "push_session_ttl_seconds", "snapshot_session_ttl_seconds"] {
                    want!(n(name) > 0, "each limit of the protocol is a positive integer", "{name}: {limits}");
                }
                for what in ["push_chunk", "committed_bundle_chunk", "snapshot_chunk"] {
                    let (default, most) = (n(&format!("default_rows_per_{what}")), n(&format!("max_rows_per_{what}")));
                    want!(
                        0 < default && default <= most,
                        "a default is 1 or more and not over its maximum",
                        "{what}: {limits}"
                    );
                }
                for name in ["max_rows_per_snapshot_session", "max_bytes_per_snapshot_session"] {
                    want!(
                        limits.get(name).is_none_or(|v| v.integer().is_some_and(|v| v >= 0)),
                        "a limit that is not set is absent or 0",
                        "{name}: {limits}"
                    );
                }
                want!(n("max_bundles_per_pull") <= 5000, "max_bundles_per_pull is at most 5000", "{limits}");
                Ok(())
            },
        ),
        Check::may("capabilities.hashes", "bundle_hash_algorithms has sha256 and blake3", &["spec.5.blake3"], |lab| {
            lab.need_exact()?;
            let c = ask(lab)?;
            let names: Vec<&str> = c
                .get("bundle_hash_algorithms")
                .and_then(Json::items)
                .unwrap_or_default()
                .iter()
                .filter_map(Json::text)
                .collect();
            want!(names.contains(&"sha256"), "the June dialect's sha256 is offered beside blake3", "{names:?}");
            Ok(())
        }),
        Check::may("capabilities.schema", "the DDL is served", &["spec.2.schema"], |lab| {
            let reply = lab.ready()?.get("/sync/schema")?;
            if reply.status == 404 {
                return crate::lab::not_offered("GET /sync/schema is 404");
            }
            let json = reply.ok()?;
            if let Some(schema) = json.get("schema").and_then(|s| s.text()) {
                let capabilities = lab.ready()?.get("/sync/capabilities")?.ok()?;
                let tables = capabilities.get("registered_tables").and_then(|t| t.items()).unwrap_or_default();
                want!(
                    tables.iter().all(|t| t.text().is_some_and(|t| t.starts_with(&format!("{schema}.")))),
                    "schema is that of the registered tables",
                    "{}",
                    reply.came()
                );
            }
            let statements = reply.need(&json, "statements")?.items().unwrap_or_default();
            want!(
                statements.iter().any(|s| s.text().is_some_and(|s| s.to_ascii_uppercase().contains("CREATE TABLE"))),
                "statements has the tables",
                "{}",
                reply.came()
            );
            Ok(())
        }),
    ]
}

fn health() -> Vec<Check> {
    vec![
        Check::must("health.ok", "health is 200 without a user", &["seed.health", "seed.auth.open"], |lab| {
            let reply = open(lab, "health")?;
            let json = reply.ok()?;
            want!(
                json.get("status").and_then(Json::text) == Some("healthy"),
                "status is healthy with 200",
                "{}",
                reply.came()
            );
            Ok(())
        }),
        Check::must("health.secrets", "health and status name no user", &["spec.2.secrets", "seed.auth.open"], |lab| {
            let d = lab.ready()?;
            let t = lab.plain()?;
            d.push(1, &[t.insert(1, "a very private value")])?;
            for name in ["health", "status"] {
                let reply = open(lab, name)?;
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                want!(
                    !text.contains("very private") && !lab.users().iter().any(|u| text.contains(u.as_str())),
                    "no users and no rows",
                    "{}",
                    reply.came()
                );
            }
            Ok(())
        }),
        Check::may("health.aliases", "health and status are also at /syncx", &["spec.2.aliases"], |lab| {
            let d = lab.user()?.without_token().without_source();
            for name in ["health", "status"] {
                let reply = d.get(&format!("/syncx/{name}"))?;
                if reply.status == 404 {
                    return crate::lab::not_offered(format!("/syncx/{name} is 404"));
                }
                let there = reply.ok()?;
                let here = open(lab, name)?.ok()?;
                want!(
                    there.get("features") == here.get("features"),
                    "both say the same of the features",
                    "{}",
                    reply.came()
                );
            }
            Ok(())
        }),
        Check::must(
            "status.members",
            "status has lifecycle, tables, features, bundles, floors and counters",
            &["seed.status", "seed.auth.open"],
            |lab| {
                let reply = open(lab, "status")?;
                let json = reply.ok()?;
                want!(
                    reply.need_text(&json, "lifecycle")? == "running",
                    "a server that answers is running",
                    "{}",
                    reply.came()
                );
                let accepting = json.get("accepting_operations").is_none_or(|a| a.boolean() == Some(true));
                want!(accepting, "a running server accepts operations", "{}", reply.came());
                for name in ["registered_tables", "features"] {
                    reply.need(&json, name)?;
                }
                for name in [
                    "latest_bundle_seq_max",
                    "retained_bundle_floor_min",
                    "retained_bundle_floor_max",
                    "retained_bundle_window_min",
                    "retained_bundle_window_max",
                    "history_pruned_error_count",
                    "committed_bundle_count",
                ] {
                    want!(reply.need_integer(&json, name)? >= 0, format!("{name} is 0 or more"), "{}", reply.came());
                }
                let tables = json.get("registered_tables").and_then(Json::items).map_or(0, <[Json]>::len);
                want!(
                    tables == lab.subject.profile.tables.len(),
                    "registered_tables has every table",
                    "{}",
                    reply.came()
                );
                for f in FEATURES {
                    want!(
                        json.get("features").and_then(|m| m.get(f)).and_then(Json::boolean) == Some(true),
                        "features are those of the capabilities",
                        "{}",
                        reply.came()
                    );
                }
                Ok(())
            },
        ),
        Check::must("status.counts", "status sees what was committed", &["seed.status"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let n = |name: &str| -> Checked<i64> {
                let reply = open(lab, "status")?;
                reply.need_integer(&reply.ok()?, name)
            };
            for id in 1..=3 {
                d.push(id, &[t.insert(id, "a")])?;
            }
            want!(
                n("latest_bundle_seq_max")? >= 3,
                "latest_bundle_seq_max is the newest bundle over all users",
                "less than 3"
            );
            want!(n("committed_bundle_count")? >= 3, "committed_bundle_count counts kept bundles", "less than 3");
            Ok(())
        }),
    ]
}

fn ask(lab: &Lab<'_>) -> Checked<Json> {
    lab.ready()?.get("/sync/capabilities")?.ok()
}

/// Health or status, where the seed or where the reference has it.
fn open(lab: &Lab<'_>, name: &str) -> Checked<crate::lab::Reply> {
    let d = lab.user()?.without_token().without_source();
    let reply = d.get(&format!("/{name}"))?;
    if reply.status == 404 { d.get(&format!("/syncx/{name}")) } else { Ok(reply) }
}
