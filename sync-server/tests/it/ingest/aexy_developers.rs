//! How a developer gets a token.

use serde_json::{Value, json};

use super::aexy_world::{PROJECTS, TOKENS, Tracker, detail};
use super::world::contains;

#[test]
fn ax_26_the_browser_is_sent_on_and_back_to_this_machine_alone() {
    let t = Tracker::new();
    let nobody = t.world.client("x").header("authorization", "");
    let login = |query: &str| {
        let request = format!(
            "GET /api/v1/auth/device/login?{query} HTTP/1.1\r\nhost: evil.example.org\r\nconnection: close\r\n\r\n"
        );
        crate::http::raw(t.world.url.trim_start_matches("http://").parse().unwrap(), request.as_bytes())
    };
    let reply = login("provider=github&port=43210&host=evil.com");
    let to = "/api/v1/auth/github/login?redirect_url=http%3A%2F%2F127.0.0.1%3A43210%2Fcallback";
    assert_eq!((reply.status, reply.header("location")), (302, Some(to)));
    for fine in ["1024", "65535"] {
        assert_eq!(login(&format!("provider=google&port={fine}")).status, 302);
    }
    for wrong in ["80", "1023", "70000", "-1", "x", "", "43210%40evil.com", "43210.0"] {
        assert_eq!(login(&format!("provider=microsoft&port={wrong}")).status, 400, "{wrong}");
    }
    for wrong in ["facebook", "GitHub", "", "github%2F..%2Fevil"] {
        let reply = nobody.get(&format!("/api/v1/auth/device/login?provider={wrong}&port=43210"));
        assert_eq!(detail(&reply, 400), "Unknown provider");
    }
}

/// As the tracker's app does: its browser comes back to it with a signed token, which it trades.
#[test]
fn a_developer_signs_in_by_the_browser() {
    let t = Tracker::new();
    let browser = |path: &str| {
        let addr = t.world.url.strip_prefix("http://").unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        crate::http::raw(addr.parse().unwrap(), request.as_bytes())
    };
    let sent_on = browser("/api/v1/auth/device/login?provider=google&port=43210");
    let opened = browser(sent_on.header("location").unwrap());
    let page = String::from_utf8(opened.body).unwrap();
    let after = |mark: &str, n: usize| page[page.find(mark).unwrap() + mark.len()..][..n].to_owned();
    let (login, code) = (after("?login=", 64), after("--data DIR ", 9));
    let again = format!("/api/v1/auth/google/login?login={login}");
    assert!(String::from_utf8_lossy(&browser(&again).body).contains(&code), "nobody approved it");
    t.world.printed(&["devices", "approve", "--data", "data", &code, "--user", "ada"]);
    let back = browser(&again);
    assert_eq!(back.status, 302);
    let signed = back.header("location").unwrap().strip_prefix("http://127.0.0.1:43210/callback?token=").unwrap();
    let made = t.world.client(signed).post(TOKENS, &json!({ "name": "Mac", "expires_in_days": 365 }).to_string());
    assert_eq!(made.status, 201, "{made:?}");
    let mac = t.world.client(made.json()["token"].as_str().unwrap());
    assert_eq!(mac.get(PROJECTS).json().as_array().unwrap().len(), 2);
    assert!(String::from_utf8_lossy(&browser(&again).body).contains("is over"), "once");
    for wrong in [
        "http%3A%2F%2Fevil.example.org%3A43210%2Fcallback",
        "http%3A%2F%2F127.0.0.1%3A43210%40evil.example.org%2Fcallback",
        "http%3A%2F%2F127.0.0.1%3A80%2Fcallback",
        "http%3A%2F%2Flocalhost%3A43210%2Fcallback",
        "https%3A%2F%2F127.0.0.1%3A43210%2Fcallback",
        "http%3A%2F%2F127.0.0.1%3A43210%2Fcallback%3Fx",
        "",
    ] {
        let reply = browser(&format!("/api/v1/auth/google/login?redirect_url={wrong}"));
        assert_eq!(detail(&reply, 400), "Invalid redirect_url", "{wrong}");
    }
    assert_eq!(browser("/api/v1/auth/facebook/login?redirect_url=x").status, 400);
}

#[test]
fn ax_27_a_signed_token_is_exchanged_for_a_long_lived_one() {
    let t = Tracker::new();
    let jwt = t.jwt("ada");
    let create = |body: Value| jwt.post(TOKENS, &body.to_string());
    let made = create(json!({ "name": "Mac", "expires_in_days": 365 }));
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let token = made["token"].as_str().unwrap();
    let hex = token.strip_prefix("aexy_").unwrap();
    assert!(hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{token}");
    assert_eq!((&made["name"], &made["is_active"], &made["last_used_at"]), (&json!("Mac"), &json!(true), &Value::Null));
    let days = made["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() - jiff::Timestamp::now();
    assert!((8759.0..=8760.0).contains(&days.total(jiff::Unit::Hour).unwrap()));
    let mac = t.world.client(token);
    assert_eq!(mac.get(PROJECTS).json().as_array().unwrap().len(), 2);
    let listed = mac.get(TOKENS);
    let found = listed.json().as_array().unwrap().iter().find(|l| l["id"] == made["id"]).unwrap().clone();
    assert_eq!(found["token_prefix"], &token[..12]);
    assert!(found.get("token").is_none() && found["last_used_at"].is_string(), "{found}");
    assert!(!contains(&listed.body, token) && !contains(&t.world.everything(), token), "only its hash is stored");
    assert_eq!(t.bob.get(TOKENS).json().as_array().unwrap().len(), 1, "bob's own");
    let path = format!("{TOKENS}/{}", made["id"].as_str().unwrap());
    assert_eq!(detail(&t.bob.delete(&path), 404), "Token not found");
    let deleted = jwt.delete(&path);
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    detail(&mac.get(PROJECTS), 401);
    detail(&jwt.delete(&path), 404);
    assert!(!contains(&jwt.get(TOKENS).body, made["id"].as_str().unwrap()));
    for (wrong, path) in [
        (json!({ "name": "Mac", "expires_in_days": 366 }), "/expires_in_days"),
        (json!({ "name": "Mac", "expires_in_days": 0 }), "/expires_in_days"),
        (json!({ "name": "Mac", "expires_in_days": 1.0 }), "/expires_in_days"),
        (json!({ "name": "" }), "/name"),
        (json!({ "name": "n".repeat(256) }), "/name"),
        (json!({}), "/name"),
    ] {
        assert_eq!(detail(&create(wrong), 422), format!("Invalid request at {path}"));
    }
    let days = create(json!({ "name": "default" })).json()["expires_at"].as_str().unwrap().to_owned();
    let days = days.parse::<jiff::Timestamp>().unwrap() - jiff::Timestamp::now();
    assert!((2159.0..=2160.0).contains(&days.total(jiff::Unit::Hour).unwrap()));
}
