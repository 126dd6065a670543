//! `sync-client stream`: flags, exit codes, what is printed, where tokens are kept.

use std::fs;

use serde_json::{Value, json};

use super::peer::Answer;
use super::web::{Web, program};
use super::{event, source, summary};
use crate::cli::Ran;

fn event_at(id: &str) -> Value {
    event(id, "2026-06-08T09:30:00Z")
}

/// ST-22: the flag comes before the variable, and that before what is kept; FILE never has a token.
#[test]
fn st_22_where_the_token_comes_from() {
    let web = Web::new();
    web.add("events", &[event_at("e1")]);
    let endpoint = web.endpoint();
    let args = ["stream", "push", "app.db", "statsai", "--sink", "http", "--endpoint", &endpoint];
    Ran::from(program(&web.dir, &args).output().unwrap()).ends(2);
    web.run(&["stream", "login", "statsai", "token-Z"]).ends(0);
    let with = |variable: bool, flag: bool| {
        let more: &[&str] = if flag { &["--auth-token", "token-X"] } else { &[] };
        let mut command = program(&web.dir, &[&args[..], more].concat());
        if variable {
            command.env("STATSAI_SYNC_TOKEN", "token-Y");
        }
        Ran::from(command.output().unwrap()).ends(0);
        web.peer.kept().tokens.last().unwrap().clone()
    };
    assert_eq!(with(true, true), "Bearer token-X");
    assert_eq!(with(true, false), "Bearer token-Y");
    assert_eq!(with(false, false), "Bearer token-Z");
    let kept = web.dir.path().join("config/sync-client/statsai.json");
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&kept).unwrap().contains("token-Z"));
    }
    let file = fs::read(web.dir.path().join("app.db")).unwrap();
    assert!(!file.windows(6).any(|w| w == b"token-"));
    // A login for one server goes to no other.
    web.run(&["stream", "login", "statsai", "token-Z", "--endpoint", "https://elsewhere.example/api/sync/batches"])
        .ends(0);
    let refused = web.push(&[]).ends(2);
    assert!(refused.stderr.contains("elsewhere.example") && !refused.stderr.contains("token-Z"), "{}", refused.stderr);
}

#[test]
fn exit_codes_say_who_has_to_do_something() {
    let web = Web::new();
    web.add("events", &[event_at("e1"), event_at("e2")]);
    let token = ["--auth-token", "t"];
    let told = |answers: Vec<Answer>, more: &[&str], code: i32| {
        web.peer.answer(answers);
        web.push(&[&token[..], more].concat()).ends(code)
    };
    let instead = |status, body: &str, after| Answer::Instead(status, body.to_owned(), after);
    // The fixtures: refused, wrong, later, put aside, all well.
    told(vec![instead(403, "{}", None)], &[], 4);
    let wrong = told(vec![instead(200, "{}", None)], &["--json"], 4).json();
    assert_eq!((&wrong["error"]["class"], &wrong["counts"]["events"]), (&json!("protocol"), &json!(0)));
    told(vec![instead(401, "{}", None)], &[], 4);
    let path = r#"{"error":"invalid_batch","path":"/events/0/usage"}"#;
    let aside = told(vec![instead(400, path, None)], &["--json"], 5).json();
    assert_eq!(aside["quarantined"][0], json!({"kind": "events", "id": "e1", "reason": "invalid_batch at /usage"}));
    assert_eq!(aside["counts"]["events"], 1);
    // What waits for a person comes before what passes by itself.
    told(vec![instead(429, "{}", Some(600))], &[], 5);
    let status = web.run(&["stream", "status", "app.db", "statsai", "--json"]).ends(5).json();
    let target = &status["targets"][0];
    assert_eq!((&target["sink"], &target["target"]), (&json!("http"), &json!(web.endpoint())));
    assert_eq!((&target["failure_count"], target["retry_after"].is_string()), (&json!(1), true));
    assert_eq!(target["cursors"]["events"]["id"], "e2");
    assert!(target["last_batch_id"].is_string() && target["last_success_at"].is_string());

    let web = Web::new();
    web.add("events", &[event_at("e1")]);
    web.peer.answer([instead(429, "{}", Some(600))]);
    web.push(&token).ends(3);
    web.push(&token).ends(3);
    web.push(&["--dry-run"]).ends(0);
    // A target of its own: nobody asked to wait there.
    web.run(&["stream", "push", "app.db", "statsai", "--sink", "file", "--output", "b.json"]).ends(0);
    let status = web.run(&["stream", "status", "app.db", "statsai"]).ends(0).stdout;
    assert!(status.contains("not before") && status.contains("is in doubt"), "{status}");

    let web = Web::new();
    web.add("sources", &[source("s1")]);
    let verified = web.push(&["--auth-token", "t", "--verify", "--json"]).ends(0).json();
    assert_eq!((&verified["verified"], &verified["error"]), (&json!(true), &Value::Null));
    web.peer.kept().last = Some("another".into());
    let differs = web.push(&["--auth-token", "t", "--since-last", "--verify", "--device", "dev_x"]);
    assert!(differs.ends(0).stdout.contains("sent anew"), "it heals before it compares");
}

/// ST-23, in the program; and what is no command line at all.
#[test]
fn st_23_the_schema_and_what_it_is_against() {
    let web = Web::new();
    let schema = web.run(&["stream", "schema", "statsai.sync_batch"]).ends(0).json();
    let schema = sync_core::ingest::validate::Schema::new(&schema.to_string()).unwrap();
    let mut batch = json!({"schema_version": "sync_batch.v1", "batch_id": "b", "device_id": "d",
        "created_at": "2026-06-08T09:30:00Z", "events": [event_at("e1")], "summaries": [summary("m", "2026-06-08T09:30:00Z", 1)]});
    assert_eq!(schema.check(&batch, 1), Ok(()));
    batch["events"][0]["usage"]["total_tokens"] = json!(1.5);
    assert!(schema.check(&batch, 1).is_err());
    fs::write(web.dir.path().join("bad.json"), batch["events"][0].to_string()).unwrap();
    let added =
        web.run(&["stream", "add", "app.db", "statsai", "events", "--input", "bad.json", "--json"]).ends(0).json();
    assert_eq!(added["invalid"][0]["reason"], "/usage/total_tokens");
    let failed = web.push(&["--auth-token", "t", "--json"]).ends(5).json();
    assert!(failed["error"]["message"].as_str().unwrap().contains("e1"), "{failed}");
    assert_eq!(web.peer.kept().tokens.len(), 0, "nothing was asked");
    fs::write(web.dir.path().join("no.json"), "[{\"event_id\":\"e9\"},{}]").unwrap();
    let refused = web.run(&["stream", "add", "app.db", "statsai", "events", "--input", "no.json"]).ends(1);
    assert!(refused.stderr.contains("ecord 2"), "{}", refused.stderr);
    for args in [
        &["stream"][..],
        &["stream", "add", "app.db", "dance", "events", "--input", "bad.json"],
        &["stream", "add", "app.db", "statsai", "dances", "--input", "bad.json"],
        &["stream", "push", "app.db", "statsai"],
        &["stream", "push", "app.db", "statsai", "--sink", "file"],
        &["stream", "push", "app.db", "statsai", "--sink", "http", "--auth-token", "t"],
        &[
            "stream",
            "push",
            "app.db",
            "statsai",
            "--sink",
            "http",
            "--auth-token",
            "t",
            "--endpoint",
            "http://192.0.2.1/api/sync/batches",
        ],
        &["stream", "schema", "dance"],
        &["stream", "login", "statsai"],
    ] {
        web.run(args).ends(2);
    }
    assert_eq!(web.run(&["stream", "status", "none.db", "statsai"]).ends(1).stdout, "");
    assert!(!web.dir.path().join("none.db").exists());
}

#[test]
fn standard_output_has_batches_and_nothing_else() {
    let web = Web::new();
    web.add("events", &[event_at("e1")]);
    let out = web.run(&["stream", "push", "app.db", "statsai", "--sink", "stdout", "--json"]).ends(0);
    let batch: Value = serde_json::from_str(out.stdout.trim_end()).unwrap();
    assert_eq!((batch["events"][0]["event_id"].as_str(), out.stdout.lines().count()), (Some("e1"), 1));
    let counted = web.run(&["stream", "push", "app.db", "statsai", "--sink", "stdout", "--dry-run"]).ends(0).stdout;
    assert!(counted.contains("1 record") && counted.contains("full"), "{counted}");
}
