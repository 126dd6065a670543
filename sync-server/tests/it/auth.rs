//! Tokens: what is taken, what is refused, and that a refusal never says why a forgery failed.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sync_core::protocol::{SourceId, UserId};
use sync_server::auth::{AuthError, Authenticate, Identity, JwtAuth, bearer};
use sync_server::limits::Limits;
use sync_server::service::Environment;
use sync_server::{Server, router};

use crate::http::{Client, TestEnvironment, open};

const SECRET: &[u8] = b"a secret of thirty-two bytes, 1!";

fn sign(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap().chain_update(&signed).finalize().into_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn tokens_are_verified() {
    let environment = TestEnvironment::new();
    let now = environment.now_ms() / 1000;
    let auth = JwtAuth::new(SECRET, Arc::clone(&environment) as Arc<dyn Environment>).unwrap();
    let ada = UserId::parse("ada").unwrap();
    let token = auth.issue(&ada, 60);
    assert_eq!(auth.verify(&token), Ok(ada.clone()));
    let fine = format!(r#"{{"sub":"ada","iss":"x","iat":{now},"nbf":{now},"exp":{}.5}}"#, now + 5);
    assert_eq!(auth.verify(&sign(SECRET, HS256, &fine)), Ok(ada));

    let invalid = [
        ("another secret", sign(b"another secret of 32 bytes or so!", HS256, &fine)),
        ("alg none", sign(SECRET, r#"{"alg":"none"}"#, &fine)),
        ("alg none, no signature", {
            let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
            format!("{head}.{}.", URL_SAFE_NO_PAD.encode(&fine))
        }),
        ("alg HS512", sign(SECRET, r#"{"alg":"HS512"}"#, &fine)),
        ("alg in lowercase", sign(SECRET, r#"{"alg":"hs256"}"#, &fine)),
        ("two algs", sign(SECRET, r#"{"alg":"HS256","alg":"HS256"}"#, &fine)),
        ("an extension that must be understood", sign(SECRET, r#"{"alg":"HS256","crit":["b64"]}"#, &fine)),
        ("no expiry", sign(SECRET, HS256, r#"{"sub":"ada"}"#)),
        ("no user", sign(SECRET, HS256, &format!(r#"{{"exp":{}}}"#, now + 5))),
        ("a blank user", sign(SECRET, HS256, &format!(r#"{{"sub":"  ","exp":{}}}"#, now + 5))),
        ("a user that is a number", sign(SECRET, HS256, &format!(r#"{{"sub":7,"exp":{}}}"#, now + 5))),
        ("not yet valid", sign(SECRET, HS256, &format!(r#"{{"sub":"ada","nbf":{},"exp":{}}}"#, now + 1, now + 5))),
        ("claims that are no JSON", sign(SECRET, HS256, "ada")),
        ("one part", "ada".to_owned()),
        ("empty parts", "..".to_owned()),
        ("padding", format!("{token}=")),
        ("another user under the same signature", {
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let head = signed.split_once('.').unwrap().0;
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(fine.replace("ada", "bob")))
        }),
        (
            "a bit of the signature",
            format!("{}{}", &token[..token.len() - 2], if token.ends_with('A') { "BB" } else { "AA" }),
        ),
    ];
    for (what, token) in invalid {
        assert_eq!(auth.verify(&token), Err(AuthError::Invalid), "{what}");
    }
    environment.pass(59_999);
    assert!(auth.verify(&token).is_ok());
    environment.pass(1);
    assert_eq!(auth.verify(&token), Err(AuthError::Expired));
}

#[test]
fn a_short_secret_is_refused() {
    let e = JwtAuth::new(&SECRET[..31], TestEnvironment::new()).unwrap_err();
    assert_eq!(e.to_string(), "the secret has 31 bytes; at least 32 are needed");
}

#[test]
fn the_authorization_header() {
    let with = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for v in values {
            headers.append(AUTHORIZATION, v.parse().unwrap());
        }
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(with(&["Bearer abc"]), Ok("abc".into()));
    assert_eq!(with(&["bearer  abc "]), Ok("abc".into()));
    for missing in [&[][..], &["abc"], &["Bearer"], &["Bearer "], &["Basic abc"]] {
        assert_eq!(with(missing), Err(AuthError::Missing), "{missing:?}");
    }
    assert_eq!(with(&["Bearer a", "Bearer b"]), Err(AuthError::Invalid));
}

#[test]
fn a_token_opens_only_its_users_scope() {
    let dir = tempfile::tempdir().unwrap();
    let environment = TestEnvironment::new();
    let service = open(dir.path(), Limits::default(), &environment);
    let auth = JwtAuth::new(SECRET, Arc::clone(&environment) as Arc<dyn Environment>).unwrap();
    let token = auth.issue(&UserId::parse("ada").unwrap(), 60);
    let server = Server::start("127.0.0.1:0", router(service, auth)).unwrap();
    let client = Client::new(server.url(), &token, "phone");
    assert_eq!(client.get("/sync/capabilities").status, 200);
    assert_eq!(client.header("authorization", "Bearer ada").get("/sync/capabilities").error(), "authentication_failed");
    environment.pass(60_000);
    let reply = client.get("/sync/capabilities");
    assert_eq!(reply.error(), "authentication_failed");
    assert_eq!(reply.json()["message"], "the bearer token has expired");
}

/// A host's own rule: sources by the host, a user who asks too often, a directory that is down.
struct Host;

impl Authenticate for Host {
    fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        match bearer(headers)? {
            "often" => Err(AuthError::RateLimited { retry_after_seconds: 7 }),
            "down" => Err(AuthError::Unavailable),
            token => UserId::parse(token).ok_or(AuthError::Invalid),
        }
    }

    fn identify(&self, parts: &Parts) -> Result<Identity, AuthError> {
        Ok(Identity { user: self.authenticate(&parts.headers)?, source: SourceId::parse("from-the-host") })
    }
}

#[test]
fn a_host_may_name_the_source_and_hold_users_back() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path(), Limits::default(), &TestEnvironment::new());
    let server = Server::start("127.0.0.1:0", router(service, Host)).unwrap();
    let client = Client::new(server.url(), "ada", "").header("oversync-source-id", "");
    client.post("/sync/connect", "{}");
    let reply = client.push(1, &[crate::http::user("u", "n")]);
    assert_eq!(reply.json()["source_id"], "from-the-host");
    let reply = client.header("authorization", "Bearer often").get("/sync/capabilities");
    assert_eq!((reply.error().as_str(), reply.header("retry-after")), ("rate_limited", Some("7")));
    assert_eq!(client.header("authorization", "Bearer down").get("/sync/capabilities").error(), "service_unavailable");
}
