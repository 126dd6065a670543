//! A running server, its keys, and batches in the words of the contract.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Client, Reply};

/// The program in a directory of its own; killed when dropped.
pub(super) struct World {
    pub(super) dir: TempDir,
    program: Option<Child>,
    pub(super) url: String,
    contracts: &'static str,
}

/// The batches' path.
pub(super) const BATCHES: &str = "/api/sync/batches";

/// The kinds, in the order of the count lists.
pub(super) const KINDS: [&str; 6] =
    ["sources", "accounts", "source_account_assignments", "subscriptions", "events", "summaries"];

impl World {
    /// `serve --ingest statsai`, and nothing else.
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(more: &[&str]) -> Self {
        Self::serving("statsai", more)
    }

    /// `serve --ingest` with these contracts. There is a file with a secret, for whoever names it.
    pub(super) fn serving(contracts: &'static str, more: &[&str]) -> Self {
        let mut world = Self { dir: TempDir::new().unwrap(), program: None, url: String::new(), contracts };
        std::fs::write(world.dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        world.start(more, None);
        world
    }

    /// Starts the program (again); with `fault` it stands still at that point.
    pub(super) fn start(&mut self, more: &[&str], fault: Option<&str>) {
        self.kill();
        let mut command =
            self.command(&["serve", "--data", "data", "--ingest", self.contracts, "--listen", "127.0.0.1:0"]);
        command.args(more).env_remove("SYNC_SERVER_FAULT").env("RUST_LOG", "trace");
        if let Some(fault) = fault {
            command.env("SYNC_SERVER_FAULT", fault);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let stderr = if fault.is_some() { Stdio::piped() } else { log.into() };
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).clone_into(&mut self.url);
        self.program = Some(child);
    }

    /// Waits until the program stands at its fault point.
    pub(super) fn at_fault(&mut self) {
        let stderr = self.program.as_mut().unwrap().stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        assert!(lines.any(|l| l.unwrap().contains("fault ")), "the point is never reached");
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.program.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.program.as_ref().unwrap().id()
    }

    /// The most memory that the process ever held, in MiB.
    #[cfg(target_os = "linux")]
    pub(super) fn peak_mib(&self) -> u64 {
        let id = self.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sync-server"));
        command.current_dir(self.dir.path()).env_remove("SYNC_SERVER_SECRET").args(args);
        command
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// As [`World::run`]; what it printed, where it succeeded.
    pub(super) fn printed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a key; its whole reply.
    pub(super) fn key(&self, user: &str, device: &str, more: &[&str]) -> Value {
        let args =
            ["keys", "create", "--data", "data", "--for", "statsai", "--json", "--user", user, "--device", device];
        serde_json::from_str(&self.printed(&[&args[..], more].concat())).unwrap()
    }

    /// A device with a token of its own.
    pub(super) fn device(&self, user: &str, device: &str) -> Client {
        self.client(self.key(user, device, &[])["secret"].as_str().unwrap())
    }

    pub(super) fn client(&self, token: &str) -> Client {
        Client::new(self.url.clone(), token, "unused")
    }

    /// Everything that the server wrote: files and logs.
    pub(super) fn everything(&self) -> Vec<u8> {
        fn read(dir: &Path, into: &mut Vec<u8>) {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    read(&entry.path(), into);
                } else {
                    std::fs::File::open(entry.path()).unwrap().read_to_end(into).unwrap();
                }
            }
        }
        let mut all = Vec::new();
        read(self.dir.path(), &mut all);
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether bytes have a text in them.
pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Sends a batch. Each acknowledgement has to reconcile (I1).
pub(super) fn send(device: &Client, batch: &Value) -> Reply {
    let reply = device.post(BATCHES, &batch.to_string());
    if reply.status == 200 {
        let ack = reply.json();
        assert_eq!(ack["batch_id"], batch["batch_id"]);
        assert_eq!(ack["rejected"], json!([]));
        for kind in KINDS {
            let submitted = batch[kind].as_array().map_or(0, Vec::len) as u64;
            let count = |member: &str| ack[member][kind].as_u64().unwrap_or_else(|| panic!("{member}.{kind}: {ack}"));
            assert_eq!(count("accepted") + count("duplicates"), submitted, "{kind}: {ack}");
            assert!(count("updated") <= count("accepted"));
        }
    }
    reply
}

/// A member of an acknowledgement as a count list.
pub(super) fn counts(reply: &Reply, member: &str) -> [u64; 6] {
    assert_eq!(reply.status, 200, "{reply:?}");
    let ack = reply.json();
    KINDS.map(|kind| ack[member][kind].as_u64().unwrap())
}

/// Nothing of any kind.
pub(super) const ZERO: [u64; 6] = [0; 6];

pub(super) fn batch(id: &str, created_at: &str) -> Value {
    json!({ "schema_version": "sync_batch.v1", "batch_id": id, "device_id": "dev_0011223344556677", "created_at": created_at })
}

/// One source, account, assignment and event.
pub(super) fn full(id: &str) -> Value {
    let t = "2026-06-09T12:00:00Z";
    let mut batch = batch(id, "2026-06-09T12:00:01Z");
    batch["sources"] = json!([{
        "schema_version": "source_location.v1", "source_id": "src_b881a9663933c7dd828f0632", "provider": "codex",
        "source_kind": "local_adapter", "location_origin": "default", "enabled": true, "path_label": null,
        "created_at": t, "updated_at": t,
    }]);
    batch["accounts"] = json!([{
        "schema_version": "provider_account.v1", "provider_account_id": "acct_0cfc32243e9c8a88744e6bba",
        "provider": "codex", "identity_source": "local_auth", "confidence": "high", "provider_user_id": "u-1",
        "email": "ada@example.com", "created_at": t, "updated_at": t,
    }]);
    batch["source_account_assignments"] = json!([{
        "schema_version": "source_account_assignment.v1", "assignment_id": "assign_1d6368142bd2199d3da7fbfa",
        "source_id": "src_b881a9663933c7dd828f0632", "provider": "codex",
        "provider_account_id": "acct_0cfc32243e9c8a88744e6bba", "started_at": t, "created_at": t, "updated_at": t,
    }]);
    batch["events"] = json!([{
        "schema_version": "usage_event.v1", "event_id": "evt_438425b452e615857526d0ef751fd84a",
        "device_id": "dev_0011223344556677", "provider": "codex", "source_id": "src_b881a9663933c7dd828f0632",
        "source": origin(), "session": { "session_id": "s", "started_at": t }, "usage": { "input_tokens": 1000 },
        "cost": { "currency": "USD", "confidence": "high", "estimated_api_equivalent_usd": 12 },
        "privacy": privacy(), "created_at": t, "imported_at": t,
    }]);
    batch
}

fn origin() -> Value {
    json!({ "adapter_id": "codex-local-jsonl", "adapter_version": "1", "source_kind": "local_adapter",
        "source_type": "jsonl", "parse_confidence": "high" })
}

fn privacy() -> Value {
    json!({ "mode": "metadata_only", "contains_prompt_text": false, "contains_response_text": false,
        "contains_file_paths": false })
}

/// The sums of one day as a device sends them, computed at `stamp`.
pub(super) fn summary(id: &str, day: &str, tokens: u64, stamp: &str) -> Value {
    json!({
        "schema_version": "usage_summary.v1", "summary_id": id, "device_id": "dev_0011223344556677", "provider": "codex",
        "source_id": "src_b881a9663933c7dd828f0632", "source": origin(), "usage": { "total_tokens": tokens },
        "cost": { "currency": "USD", "confidence": "high", "estimated_api_equivalent_usd": 12 }, "privacy": privacy(),
        "observed_at": format!("{day}T23:59:59Z"), "imported_at": stamp, "period_start": format!("{day}T00:00:00Z"),
        "metadata": { "summary_format": "daily_rollup.v1", "last_computed_at": stamp },
    })
}

/// A batch of summaries.
pub(super) fn summaries(id: &str, created_at: &str, all: &[Value]) -> Value {
    let mut batch = batch(id, created_at);
    batch["summaries"] = all.into();
    batch
}

/// A plan.
pub(super) fn subscription(id: &str) -> Value {
    let mut batch = batch(id, "2026-06-09T12:00:00Z");
    batch["subscriptions"] = json!([{
        "schema_version": "subscription.v1", "subscription_id": "sub_13b692228054363063acc6da", "provider": "codex",
        "provider_account_id": "acct_0cfc32243e9c8a88744e6bba", "plan_name": "Pro", "price": 2000, "currency": "USD",
        "billing_period": "monthly", "started_at": "2026-06-01T00:00:00Z", "status": "active",
    }]);
    batch
}

/// What the server says it has of a device.
pub(super) fn status(device: &Client) -> (Value, [u64; 4]) {
    let reply = device.get("/api/sync/status");
    assert_eq!(reply.status, 200, "{reply:?}");
    let status = reply.json();
    let count = |kind| status["mirrorCounts"][kind].as_u64().unwrap();
    (status["device"]["last_sync_batch_id"].clone(), [KINDS[0], KINDS[1], KINDS[2], KINDS[3]].map(count))
}

/// Total tokens by bucket, of a list of sums.
pub(super) fn tokens(device: &Client, path: &str) -> Vec<(String, u64)> {
    let reply = device.get(path).json();
    let mut all: Vec<(String, u64)> = Vec::new();
    for row in reply["rollups"].as_array().unwrap() {
        let (bucket, n) = (row["bucket"].as_str().unwrap(), row["usage"]["total_tokens"].as_u64().unwrap());
        match all.last_mut() {
            Some((last, sum)) if last == bucket => *sum += n,
            _ => all.push((bucket.to_owned(), n)),
        }
    }
    all
}

/// The days' total tokens.
pub(super) fn daily(device: &Client) -> Vec<(String, u64)> {
    tokens(device, "/api/rollups/daily")
}
