//! Who may ask.

use super::*;

pub(super) fn auth() -> Vec<Check> {
    vec![
        Check::must(
            "auth.no_token",
            "every endpoint refuses a request without a token",
            &["seed.auth.required"],
            |lab| refuses(&lab.user()?.without_token()),
        ),
        Check::must(
            "auth.bad_token",
            "every endpoint refuses a token that nobody issued",
            &["seed.auth.required"],
            |lab| {
                if matches!(lab.subject.profile.token, crate::profile::Token::User) {
                    return crate::lab::not_offered("this backend takes any token (development mode)");
                }
                refuses(&lab.user()?.with_token("not.a.token"))
            },
        ),
        Check::must("auth.other_scheme", "another scheme than Bearer is refused", &["seed.auth.required"], |lab| {
            refuses(&lab.user()?.with_token("Basic YTpi"))
        }),
        Check::must("auth.forged", "a token with another signature is refused", &["seed.auth.required"], |lab| {
            if !matches!(lab.subject.profile.token, crate::profile::Token::Jwt { .. }) {
                return crate::lab::not_offered("the profile's tokens are not signed by the suite");
            }
            let forged = crate::subject::sign("somebody", b"another secret of more than 32 bytes", "");
            lab.user()?.with_token(&forged).get("/sync/capabilities").and_then(|r| unauthorised(&r))?;
            // A token that says it needs no signature.
            let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJzb21lYm9keSIsImV4cCI6NDEwMjQ0NDgwMH0.";
            lab.user()?.with_token(none).get("/sync/capabilities").and_then(|r| unauthorised(&r))
        }),
        Check::should(
            "auth.body",
            "401 has the one error body",
            &["spec.2.errors"],
            "clients cannot tell a missing token from a broken proxy",
            |lab| lab.user()?.without_token().get("/sync/pull")?.refused(401, &["authentication_failed"]).map(drop),
        ),
        Check::must(
            "auth.no_source",
            "every endpoint refuses a request without a source",
            &["seed.auth.source"],
            |lab| {
                let d = lab.ready()?.without_source();
                for (method, path) in ENDPOINTS {
                    let reply = d.send(method, path, if method == "POST" { b"{}" } else { b"" })?;
                    if path != "/sync/watch" || reply.status != 404 {
                        reply.refused(400, &["invalid_request"])?;
                    }
                }
                Ok(())
            },
        ),
        Check::must("auth.blank_source", "a blank source is refused", &["seed.auth.source"], |lab| {
            lab.ready()?.source("  ").get("/sync/pull")?.refused(400, &["invalid_request"]).map(drop)
        }),
        Check::should(
            "auth.source_grammar",
            "sources are 1 to 128 characters from ! to ~",
            &["spec.3.source"],
            "ids that look the same are different devices",
            |lab| {
                let d = lab.ready()?;
                for bad in ["two words", &"x".repeat(129), "caf\u{e9}"] {
                    d.source(bad).get("/sync/pull")?.refused(400, &["invalid_request"])?;
                }
                Ok(())
            },
        ),
        Check::must("auth.source_charset", "every character of the grammar is taken", &["seed.auth.source"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            for (n, good) in ["!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", &"x".repeat(128), "A"].iter().enumerate() {
                let c = d.source(good).push(1, &[t.insert(n as i64, "a")])?;
                want!(c.source == **good, "the source comes back as it was sent", "{c:?}");
            }
            d.audit()
        }),
        Check::should(
            "auth.method",
            "405 and 404 have the one error body",
            &["spec.2.errors"],
            "clients cannot tell a wrong URL from a broken proxy",
            |lab| {
                let d = lab.ready()?;
                for (method, path) in [
                    ("GET", "/sync/connect"),
                    ("PUT", "/sync/pull"),
                    ("POST", "/sync/pull"),
                    ("PATCH", "/sync/push-sessions"),
                ] {
                    d.send(method, path, b"")?.refused(405, &["method_not_allowed"])?;
                }
                d.get("/sync/no-such-thing")?.refused(404, &["not_found"]).map(drop)
            },
        ),
        Check::must("auth.wrong_method", "a wrong method or path does nothing", &["seed.auth.required"], |lab| {
            let d = lab.ready()?;
            for (method, path) in [
                ("GET", "/sync/connect"),
                ("PUT", "/sync/pull"),
                ("DELETE", "/sync/pull"),
                ("GET", "/sync/push-sessions"),
            ] {
                let reply = d.send(method, path, b"")?;
                want!(
                    matches!(reply.status, 404 | 405),
                    "a method that a path does not take is 405",
                    "{}",
                    reply.came()
                );
            }
            let reply = d.get("/sync/no-such-thing")?;
            want!(reply.status == 404, "a path that nothing serves is 404", "{}", reply.came());
            Ok(())
        }),
    ]
}

/// Requests to every endpoint below /sync.
const ENDPOINTS: [(&str, &str); 12] = [
    ("POST", "/sync/connect"),
    ("POST", "/sync/push-sessions"),
    ("POST", "/sync/push-sessions/6df0d8dd-a84b-43b6-bbca-8de70432922a/chunks"),
    ("POST", "/sync/push-sessions/6df0d8dd-a84b-43b6-bbca-8de70432922a/commit"),
    ("DELETE", "/sync/push-sessions/6df0d8dd-a84b-43b6-bbca-8de70432922a"),
    ("GET", "/sync/committed-bundles/1/rows"),
    ("GET", "/sync/pull"),
    ("POST", "/sync/snapshot-sessions"),
    ("GET", "/sync/snapshot-sessions/6df0d8dd-a84b-43b6-bbca-8de70432922a"),
    ("DELETE", "/sync/snapshot-sessions/6df0d8dd-a84b-43b6-bbca-8de70432922a"),
    ("GET", "/sync/capabilities"),
    ("GET", "/sync/watch"),
];

fn refuses(d: &Device<'_>) -> Checked {
    for (method, path) in ENDPOINTS {
        let reply = d.send(method, path, if method == "POST" { b"{}" } else { b"" })?;
        if path != "/sync/watch" || reply.status != 404 {
            unauthorised(&reply)?;
        }
    }
    Ok(())
}

fn unauthorised(reply: &crate::lab::Reply) -> Checked {
    want!(reply.status == 401, "a request without a good token is 401", "{}", reply.came());
    Ok(())
}
