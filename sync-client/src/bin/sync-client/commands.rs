//! The commands of `watch --stdin`: one JSON object a line, each answered by one on standard output, beside the events.

use std::{
    io::BufRead,
    path::Path,
    sync::mpsc::{Receiver, Sender},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sync_client::{
    Client, Error,
    report::{Status, SyncReport},
};

use crate::{
    conflicts::{Take, Waiting},
    output::{self, Failure},
};

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Push and pull until nothing is left to do.
    Sync,
    /// Send a refused row again, or put the local row of an entry back.
    Retry(Which),
    /// Give a refused row up.
    Drop(Which),
    /// Forget an entry, or all of a kind.
    Clear {
        #[serde(default)]
        id: Option<i64>,
        #[serde(default)]
        kind: Option<String>,
    },
    /// Answer a conflict; answered at once, since a sync waits for it.
    Resolve {
        id: u64,
        #[serde(default)]
        take: Option<Take>,
        #[serde(default)]
        row: Option<Value>,
    },
    /// What waits; answered at once, also during a sync.
    Status,
    /// End.
    Stop,
}

/// A row by its table and key, or an entry by its number.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    #[serde(default)]
    id: Option<i64>,
    #[serde(default)]
    table: Option<String>,
    #[serde(default)]
    key: Option<Value>,
}

/// What is answered to a command; `request` is whatever came with it under that name.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) answer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Value>,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Synced { report: SyncReport, pending_rows: u64, rejected_rows: u64 },
    Changed { changed: bool },
    Cleared { cleared: u64 },
    Resolved { resolved: bool },
    Status { status: Box<Status> },
    Stopping { stopping: bool },
    Error { error: Failure },
}

/// A command, and what its answer has to name.
pub(crate) struct Asked {
    command: Command,
    request: Option<Value>,
}

/// Hands lines on until there are no more. Nothing is done with them here, so that the end of the input is noticed also
/// where an answer waits for somebody to read it.
pub(crate) fn lines(mut input: impl BufRead, to: &Sender<Vec<u8>>) {
    loop {
        let mut line = Vec::new();
        match input.read_until(b'\n', &mut line) {
            Ok(n) if n > 0 && to.send(line).is_ok() => {}
            _ => return,
        }
    }
}

/// Takes commands until there are no more, until one says stop, or until nobody reads the answers. What takes long goes to
/// `long`, so that others are answered meanwhile.
pub(crate) fn read(lines: &Receiver<Vec<u8>>, client: &Client, waiting: Option<&Waiting>, long: &Sender<Asked>) {
    for line in lines {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = match parse(&line) {
            Err((request, why)) => answer("none", request, Outcome::Error { error: Failure::usage(why) }),
            Ok(Asked { command: Command::Status, request }) => {
                let outcome = client.status().map_or_else(failed, |s| Outcome::Status { status: Box::new(s) });
                answer("status", request, outcome)
            }
            Ok(Asked { command: Command::Resolve { id, take, row }, request }) => {
                let resolved = match waiting {
                    Some(waiting) => waiting.resolve(id, take, row.as_ref()),
                    None => Err("Nobody is asked about conflicts: `watch` was started without --ask.".into()),
                };
                let outcome = match resolved {
                    Ok(()) => Outcome::Resolved { resolved: true },
                    Err(why) => Outcome::Error { error: Failure::usage(why) },
                };
                answer("resolve", request, outcome)
            }
            Ok(Asked { command: Command::Stop, request }) => {
                answer("stop", request, Outcome::Stopping { stopping: true });
                return;
            }
            Ok(asked) => long.send(asked).is_ok(),
        };
        if !read {
            return;
        }
    }
}

/// Carries a command out, and answers; false where nobody reads the answer any more.
pub(crate) fn carry_out(client: &Client, file: &Path, asked: Asked) -> bool {
    let by_which = |which: Which,
                    by_id: fn(&Client, i64) -> Result<bool, Error>,
                    by_key: fn(&Client, &str, &str) -> Result<bool, Error>| {
        let changed = match which {
            Which { id: Some(id), table: None, key: None } => by_id(client, id),
            Which { id: None, table: Some(table), key: Some(key) } => {
                by_key(client, &table, &key.as_str().map_or_else(|| key.to_string(), str::to_owned))
            }
            _ => return Outcome::Error { error: Failure::usage("Name a table and a key, or an id.") },
        };
        changed.map_or_else(failed, |changed| Outcome::Changed { changed })
    };
    let (name, outcome) = match asked.command {
        Command::Sync => ("sync", synced(client).unwrap_or_else(failed)),
        Command::Retry(which) => ("retry", by_which(which, Client::retry_entry, Client::retry)),
        Command::Drop(which) => ("drop", by_which(which, Client::drop_entry, Client::drop_row)),
        Command::Clear { id, kind } => ("clear", cleared(client, id, kind.as_deref())),
        Command::Resolve { .. } | Command::Status | Command::Stop => return true,
    };
    if matches!(outcome, Outcome::Changed { changed: true }) {
        client.wake();
    }
    tracing::debug!("{name} of {} was carried out", file.display());
    answer(name, asked.request, outcome)
}

fn synced(client: &Client) -> Result<Outcome, Error> {
    let report = client.sync()?;
    let Status { pending_rows, rejected_rows, .. } = client.status()?;
    Ok(Outcome::Synced { report, pending_rows, rejected_rows })
}

fn cleared(client: &Client, id: Option<i64>, kind: Option<&str>) -> Outcome {
    let cleared = match (id, kind) {
        (Some(id), None) => client.clear_entry(id).map(u64::from),
        (None, Some(kind)) => client.clear_all(kind),
        _ => return Outcome::Error { error: Failure::usage("Name an id, or a kind.") },
    };
    cleared.map_or_else(failed, |cleared| Outcome::Cleared { cleared })
}

fn failed(e: Error) -> Outcome {
    Outcome::Error { error: e.into() }
}

/// False where nobody reads it any more.
fn answer(answer: &'static str, request: Option<Value>, outcome: Outcome) -> bool {
    output::line(&output::json(&Answer { answer, request, outcome }))
}

/// The command of a line, or why it is none, with what its answer has to name where that can be told.
pub(crate) fn parse(line: &[u8]) -> Result<Asked, (Option<Value>, String)> {
    let line = str::from_utf8(line).map_err(|e| (None, format!("This line is not UTF-8: {e}.")))?;
    let mut object: Value = serde_json::from_str(line).map_err(|e| (None, format!("This line is not JSON: {e}.")))?;
    let request = object.as_object_mut().and_then(|o| o.remove("request"));
    match serde_json::from_value(object) {
        Ok(command) => Ok(Asked { command, request }),
        Err(e) => Err((request, format!("This is no command: {e}."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_told_why_not() {
        let parsed = |line: &str| parse(line.as_bytes()).map(|a| (a.command, a.request));
        assert_eq!(parsed(r#"{"command":"sync","request":7}"#), Ok((Command::Sync, Some(7.into()))));
        let which = Which { id: None, table: Some("t".into()), key: Some(serde_json::json!({"id": 1})) };
        assert_eq!(parsed(r#"{"command":"retry","table":"t","key":{"id":1}}"#), Ok((Command::Retry(which), None)));
        for (line, request) in [
            ("sync", None),
            ("[]", None),
            (r#"{"command":"dance","request":"a"}"#, Some(Value::from("a"))),
            (r#"{"command":"retry","row":1,"request":null}"#, Some(Value::Null)),
            (r#"{"request":1}"#, Some(1.into())),
            (r#"{"command":"resolve","request":2}"#, Some(2.into())),
            (r#"{"command":"resolve","id":1,"take":"both","request":3}"#, Some(3.into())),
        ] {
            assert_eq!(parsed(line).unwrap_err().0, request, "{line}");
        }
        assert!(parse(b"{\"command\":\"status\",\"request\":\"M\xfcller\"}").is_err());
    }
}
