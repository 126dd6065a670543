//! The login of a device by code, and the sessions that come of it.

use serde_json::{Value, json};
use sync_server::ingest::{IngestOptions, statsai};
use sync_server::{Server, standalone};

use super::world::{World, full, send};
use crate::http::{Client, Reply, TestEnvironment};

const DEVICE: &str = r#"{"deviceId":"dev_a","deviceName":"laptop","platform":"linux","collectorVersion":"0.0.1"}"#;

fn poll(nobody: &Client, begun: &Value) -> Reply {
    nobody.post("/api/devices/poll", &json!({ "deviceCode": begun["deviceCode"] }).to_string())
}

fn refresh(nobody: &Client, token: &Value, rotation: Option<&str>) -> Reply {
    let mut body = json!({ "refreshToken": token });
    if let Some(r) = rotation {
        body["rotationId"] = r.into();
    }
    nobody.post("/api/devices/token", &body.to_string())
}

#[test]
fn st_29_a_device_is_let_in_by_its_code() {
    let world = World::with(&["--public-url", "https://stats.example.org/"]);
    let nobody = world.client("x").header("authorization", "");
    let begun = nobody.post("/api/devices/start", DEVICE).json();
    let code = begun["userCode"].as_str().unwrap();
    assert_eq!(begun["verificationUri"], "https://stats.example.org/connect-device");
    assert!(begun["verificationUriComplete"].as_str().unwrap().ends_with(code));
    assert!(begun["expiresAt"].as_u64().is_some() && begun["interval"].as_u64().is_some());
    let page = nobody.get(&format!("/connect-device?code={code}"));
    assert!(page.status == 200 && String::from_utf8_lossy(&page.body).contains(code));
    let page = nobody.get("/connect-device?code=%3Cscript%3E");
    assert!(!String::from_utf8_lossy(&page.body).contains("script"));

    let pending = poll(&nobody, &begun);
    assert_eq!((pending.status, pending.json()), (400, json!({ "error": "authorization_pending" })));
    let approve = |code: &str, user: &str| world.run(&["devices", "approve", "--data", "data", code, "--user", user]);
    assert_eq!(approve("NONE-SUCH", "ada").status.code(), Some(1));
    assert!(approve(&code.to_lowercase(), "ada").status.success());
    assert_eq!(approve(code, "bob").status.code(), Some(1), "it was approved already");
    let session = poll(&nobody, &begun).json();
    assert_eq!(session["deviceId"], "dev_a");
    assert!(session["accessExpiresAt"].as_u64().unwrap() < session["refreshExpiresAt"].as_u64().unwrap());
    assert_eq!(poll(&nobody, &begun).json(), json!({ "error": "expired_token" }), "a session is told once");
    let device = world.client(session["accessToken"].as_str().unwrap());
    assert_eq!(send(&device, &full("batch_1")).status, 200);
    assert_eq!(world.client(session["refreshToken"].as_str().unwrap()).get("/api/sync/status").status, 401);

    let second = refresh(&nobody, &session["refreshToken"], None).json();
    assert_ne!(second["refreshToken"], session["refreshToken"]);
    assert_eq!(refresh(&nobody, &session["refreshToken"], None).status, 401);
    assert_eq!(refresh(&nobody, &session["accessToken"], None).status, 401);
    assert_eq!(world.client(second["accessToken"].as_str().unwrap()).get("/api/sync/status").status, 200);

    let r = "5".repeat(64);
    let third = refresh(&nobody, &second["refreshToken"], Some(&r)).json();
    for _ in 0..2 {
        assert_eq!(refresh(&nobody, &second["refreshToken"], Some(&r)).json(), third);
    }
    assert_eq!(refresh(&nobody, &second["refreshToken"], Some(&"6".repeat(64))).status, 401);
    assert_eq!(refresh(&nobody, &second["refreshToken"], None).status, 401);
    let fourth = refresh(&nobody, &third["refreshToken"], Some(&r)).json();
    assert_eq!(refresh(&nobody, &second["refreshToken"], Some(&r)).status, 401, "what came of it was used");

    // A login is one line of the list, and is revoked whole.
    let listed: Value = serde_json::from_str(&world.printed(&["keys", "list", "--data", "data", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    world.printed(&["keys", "revoke", "--data", "data", listed[0]["key_id"].as_str().unwrap()]);
    assert_eq!(world.client(fourth["accessToken"].as_str().unwrap()).get("/api/sync/status").status, 401);
    assert_eq!(refresh(&nobody, &fourth["refreshToken"], None).status, 401);
    let everything = world.everything();
    for s in [&session, &second, &third, &fourth] {
        for token in ["accessToken", "refreshToken"] {
            assert!(!super::world::contains(&everything, s[token].as_str().unwrap()), "only hashes are stored");
        }
    }
}

/// As the command line does without `--headless`: its browser comes back to it with a code.
#[test]
fn a_device_is_let_in_by_its_browser() {
    let world = World::new();
    let nobody = world.client("x").header("authorization", "");
    // The redirect is looked at, not followed: nobody listens there.
    let browser = |query: &str| {
        let addr = world.url.strip_prefix("http://").unwrap();
        let request = format!("GET /connect-device?{query} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        crate::http::raw(addr.parse().unwrap(), request.as_bytes())
    };
    let opened = browser("redirect_uri=http%3A%2F%2F127.0.0.1%3A4711%2Fcallback&state=a%20%22state%22%3C");
    let page = String::from_utf8(opened.body).unwrap();
    assert!(opened.status == 200 && !page.contains("state"), "{page}");
    let after = |mark: &str, n: usize| page[page.find(mark).unwrap() + mark.len()..][..n].to_owned();
    let (login, code) = (after("?login=", 64), after("--data DIR ", 9));
    let waiting = browser(&format!("login={login}"));
    assert!(waiting.status == 200 && String::from_utf8_lossy(&waiting.body).contains(&code));
    assert_eq!(poll(&nobody, &json!({ "deviceCode": login })).json(), json!({ "error": "expired_token" }));
    world.printed(&["devices", "approve", "--data", "data", &code, "--user", "ada"]);
    let back = browser(&format!("login={login}"));
    assert_eq!(back.status, 303);
    let to = back.header("location").unwrap();
    let (at, state) = to.split_once("&state=").unwrap();
    let code = at.strip_prefix("http://127.0.0.1:4711/callback?code=").unwrap();
    assert_eq!(state, "a%20%22state%22%3C");
    assert!(String::from_utf8_lossy(&browser(&format!("login={login}")).body).contains("is over"), "once");

    let exchange = |code: &str, state: &str, device: &str| {
        let body = json!({ "code": code, "state": state, "deviceId": device, "deviceName": "laptop", "platform": "linux",
            "collectorVersion": "0.0.1" });
        nobody.post("/api/devices/exchange", &body.to_string())
    };
    world.device("bob", "dev_b");
    let right = "a \"state\"<";
    assert_eq!(exchange(code, "another", "dev_a").json(), json!({ "error": "expired_token" }));
    assert_eq!(exchange(&login, right, "dev_a").status, 400);
    // The command line then tries with a fresh id.
    assert_eq!(exchange(code, right, "dev_b").json(), json!({ "error": "invalid_device_id" }));
    let session = exchange(code, right, "dev_a").json();
    assert_eq!(session["deviceId"], "dev_a");
    assert_eq!(send(&world.client(session["accessToken"].as_str().unwrap()), &full("batch_1")).status, 200);
    assert_eq!(exchange(code, right, "dev_a").status, 400, "once");
    for wrong in [
        "redirect_uri=http%3A%2F%2Fexample.org%3A1%2Fcallback&state=s",
        "redirect_uri=http://127.0.0.1:1/callback",
        "redirect_uri=%ff&state=s",
    ] {
        assert_eq!(browser(wrong).status, 400, "{wrong}");
    }
}

#[test]
fn a_device_of_another_user_is_told_to_take_another_id() {
    let world = World::new();
    world.device("bob", "dev_a");
    let nobody = world.client("x");
    let begun = nobody.post("/api/devices/start", DEVICE).json();
    let code = begun["userCode"].as_str().unwrap();
    world.printed(&["devices", "approve", "--data", "data", code, "--user", "ada"]);
    for _ in 0..2 {
        let reply = poll(&nobody, &begun);
        assert_eq!((reply.status, reply.json()), (409, json!({ "error": "invalid_device_id" })));
    }
    for wrong in ["{}", "{\"deviceId\":\"\"}", "{\"deviceId\":7}", "[]"] {
        assert_eq!(nobody.post("/api/devices/start", wrong).json(), json!({ "error": "invalid_request" }));
    }
}

/// On a clock of the test's own.
#[test]
fn st_01_tokens_and_logins_expire() {
    let dir = tempfile::tempdir().unwrap();
    let environment = TestEnvironment::new();
    let service = crate::http::open(dir.path(), sync_server::limits::Limits::default(), &environment);
    let routes = statsai(service, dir.path(), IngestOptions::new("http://here")).unwrap();
    let server = Server::start("127.0.0.1:0", standalone(routes)).unwrap();
    let client = |token: &str| Client::new(server.url(), token, "unused");
    let nobody = client("x");
    let late = nobody.post("/api/devices/start", DEVICE).json();
    environment.pass(15 * 60 * 1000);
    assert_eq!(poll(&nobody, &late).json(), json!({ "error": "expired_token" }));

    let begun = nobody.post("/api/devices/start", DEVICE).json();
    // The command would go by the machine's clock, not by this server's.
    let conn = rusqlite::Connection::open(dir.path().join("keys.db")).unwrap();
    assert_eq!(conn.execute("UPDATE login SET user_id = 'ada'", []).unwrap(), 1);
    let session = poll(&nobody, &begun).json();
    let device = client(session["accessToken"].as_str().unwrap());
    environment.pass(60 * 60 * 1000 - 1);
    assert_eq!(send(&device, &full("batch_1")).status, 200);
    environment.pass(1);
    assert_eq!(send(&device, &full("batch_2")).json(), json!({ "error": "unauthorized" }));
    let session = refresh(&nobody, &session["refreshToken"], None).json();
    assert_eq!(send(&client(session["accessToken"].as_str().unwrap()), &full("batch_1")).status, 200);
    environment.pass(91 * 24 * 60 * 60 * 1000);
    assert_eq!(refresh(&nobody, &session["refreshToken"], None).status, 401);
}
