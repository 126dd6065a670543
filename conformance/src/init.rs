//! A first profile, from what a backend says of itself.

use std::fmt::Write as _;

use crate::json::Json;

/// A profile with the tables of the capabilities, for a person to finish.
#[must_use]
pub fn profile(capabilities: &Json) -> String {
    let name = capabilities.get("app_name").and_then(Json::text).unwrap_or("my backend");
    let mut out = format!("name = {}\n", Json::from(name));
    out.push_str(
        "# Longest burst of requests in a second, over all checks.\nrequests_per_second = 50\n\n\
         # How to get a token for a fresh user: kind is jwt, sign_in, command, list or user.\n\
         [token]\nkind = \"jwt\"\nsecret_env = \"CONFORMANCE_SECRET\"\n",
    );
    for spec in capabilities.get("registered_table_specs").and_then(Json::items).unwrap_or_default() {
        let text = |name: &str| spec.get(name).and_then(Json::text).unwrap_or_default();
        let names = |member: &str| {
            let items = spec.get(member).and_then(Json::items).unwrap_or_default();
            items.iter().filter_map(Json::text).map(str::to_owned).collect::<Vec<_>>()
        };
        let key = names("sync_key_columns");
        let columns = names("columns");
        let quoted: Vec<String> = key.iter().map(|k| Json::from(k.as_str()).to_string()).collect();
        let _ = write!(
            out,
            "\n[[tables]]\nschema = {}\nname = {}\nkey = [{}]\n",
            Json::from(text("schema")),
            Json::from(text("table")),
            quoted.join(", ")
        );
        out.push_str("# kind: text, uuid, integer, real, blob, boolean, timestamp, other; also required, unique, references, on_delete, default, refuses\ncolumns = [\n");
        for c in if columns.is_empty() { &key } else { &columns } {
            let required = if key.contains(c) { ", required = true" } else { "" };
            let _ = writeln!(out, "  {{ name = {}, kind = \"text\"{required} }},", Json::from(c.as_str()));
        }
        out.push_str("]\n");
    }
    out
}
