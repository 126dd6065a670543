//! A finding as shell commands that reproduce it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::json::Json;
use crate::lab::Exchange;

/// The requests of a check as `curl` commands. Ids that a reply minted become variables, so that the
/// commands work again; tokens never show.
#[must_use]
pub fn curl(base: &str, exchanges: &[Exchange]) -> String {
    let mut out = format!("BASE={}\n", quote(base));
    let mut users: Vec<&str> = Vec::new();
    let mut minted: BTreeMap<String, String> = BTreeMap::new();
    for e in exchanges {
        if !e.user.is_empty() && !users.contains(&e.user.as_str()) {
            users.push(&e.user);
            let _ = writeln!(out, "TOKEN_{}=…   # a token of a fresh user, as {}", users.len(), e.user);
        }
    }
    let skipped = exchanges.len().saturating_sub(MOST);
    if skipped > 0 {
        let _ = writeln!(out, "# {skipped} requests in the middle are left out");
    }
    for (n, e) in exchanges.iter().enumerate() {
        if skipped > 0 && n >= MOST / 2 && n < MOST / 2 + skipped {
            continue;
        }
        out.push_str(&command(e, &users, &minted));
        let names = mint(e, &mut minted);
        for (name, member) in &names {
            let _ = write!(
                out,
                " | tee /dev/stderr | sed -n 's/.*\"{member}\" *: *\"\\([^\"]*\\)\".*/\\1/p' > {name}.id; {name}=$(cat {name}.id)"
            );
        }
        let _ = write!(out, "\n# {} {}\n", e.status, one_line(&e.reply));
    }
    out
}

fn command(e: &Exchange, users: &[&str], minted: &BTreeMap<String, String>) -> String {
    let mut out = String::from("curl -sS");
    if e.method != "GET" {
        let _ = write!(out, " -X {}", e.method);
    }
    let mut path = e.path.clone();
    for (id, name) in minted {
        path = path.replace(id, &format!("${{{name}}}"));
    }
    let _ = write!(out, " \"$BASE{path}\"");
    if let Some(n) = users.iter().position(|u| *u == e.user) {
        let _ = write!(out, " -H \"Authorization: Bearer $TOKEN_{}\"", n + 1);
    }
    for (name, value) in &e.headers {
        if name != "Content-Type" || value != "application/json" {
            let _ = write!(out, " -H {}", quote(&format!("{name}: {value}")));
        }
    }
    if !e.body.is_empty() {
        let text = std::str::from_utf8(&e.body).ok().filter(|t| t.len() <= LONGEST);
        let Some(text) = text else {
            let _ = write!(out, " --data-binary @body   # {} bytes", e.body.len());
            return out;
        };
        let mut data = quote(text);
        for (id, name) in minted {
            data = data.replace(id, &format!("'\"${{{name}}}\"'"));
        }
        let _ = write!(out, " -d {data}");
    } else if e.method == "POST" {
        out.push_str(" -d ''");
    }
    out
}

/// Names the ids of a reply.
fn mint(e: &Exchange, minted: &mut BTreeMap<String, String>) -> Vec<(String, &'static str)> {
    let mut names = Vec::new();
    let Ok(json) = Json::parse(e.reply.as_bytes()) else { return names };
    for (member, name) in [("push_id", "PUSH"), ("snapshot_id", "SNAPSHOT"), ("initialization_id", "LEASE")] {
        let Some(id) = json.get(member).and_then(Json::text) else { continue };
        if id.len() >= 8 && !minted.contains_key(id) {
            let name = format!("{name}_{}", minted.len() + 1);
            minted.insert(id.to_owned(), name.clone());
            names.push((name, member));
        }
    }
    names
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > 300 { text.chars().take(300).collect::<String>() + "…" } else { text }
}

const MOST: usize = 24;
const LONGEST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_become_variables_and_tokens_never_show() {
        let exchange = |method: &str, path: &str, body: &str, reply: &str| Exchange {
            method: method.to_owned(),
            path: path.to_owned(),
            user: "ada".to_owned(),
            headers: vec![("Oversync-Source-ID".to_owned(), "it's".to_owned())],
            body: body.as_bytes().to_vec(),
            status: 200,
            reply: reply.to_owned(),
        };
        let text = curl(
            "http://h",
            &[
                exchange("POST", "/sync/push-sessions", "{}", r#"{"push_id":"0123-4567"}"#),
                exchange("DELETE", "/sync/push-sessions/0123-4567", "", ""),
            ],
        );
        assert!(text.contains("curl -sS -X DELETE \"$BASE/sync/push-sessions/${PUSH_1}\""), "{text}");
        assert!(text.contains("-H 'Oversync-Source-ID: it'\\''s'"), "{text}");
        assert!(text.contains("Bearer $TOKEN_1"), "{text}");
    }
}
