//! The login of a device by its browser: `GET /connect-device`.
//!
//! The device opens it with the address that it listens on, on its own machine, and a word of its own. The page shows a code
//! and asks again by itself; once the operator approved the code, the browser goes back to the device.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use sync_core::ingest::gates::Refusal;
use sync_core::protocol::Code;

use crate::ingest::Ingest;
use crate::ingest::http::{api, blocking, escaped, vault};
use crate::ingest::sessions::Page;
use crate::routes::query::Query;

/// Its path, as the contract declares it.
pub(super) const PATH: &str = "/connect-device";

/// Characters of what a device sends along.
const MOST_STATE: usize = 512;

/// Seconds between two looks.
const AGAIN_SECONDS: u32 = 3;

/// The page, or the way back to the device.
pub(in crate::ingest) async fn page(ingest: Arc<Ingest>, query: Option<&str>) -> Result<Response, Refusal> {
    let query = Query::new(query, Code::InvalidRequest);
    let value = |name: &str| query.text(name).map_err(|e| api(&e));
    let (redirect, state) = (value("redirect_uri")?, value("state")?);
    let stream = ingest.contract.stream.clone();
    if let Some(redirect) = redirect {
        let invalid = || Refusal::BadRequest("invalid_request");
        let redirect = loopback(&redirect).ok_or_else(invalid)?;
        let state = state.filter(|s| s.chars().count() <= MOST_STATE).ok_or_else(invalid)?;
        let begun =
            blocking(move || ingest.vault.begin_page(&stream, &redirect, &state).map_err(|e| vault(&e))).await?;
        return Ok(html(&advice(&begun.user_code), Some(&begun.code)));
    }
    if let Some(login) = value("login")? {
        let secret = login.clone();
        return Ok(match blocking(move || ingest.vault.page(&stream, &secret).map_err(|e| vault(&e))).await? {
            // It was found, so it is made of hex digits.
            Page::Pending { user_code } => html(&advice(&user_code), Some(&login)),
            Page::Approved { redirect, state, code } => {
                back(StatusCode::SEE_OTHER, &format!("{redirect}?code={code}&state={}", escaped(&state)))?
            }
            Page::Gone => html("<p>This login is over. Begin it again on the device.", None),
        });
    }
    let code = value("code")?;
    let fits = |c: &&str| c.len() == 9 && c.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    Ok(html(&advice(code.as_deref().filter(fits).unwrap_or("CODE")), None))
}

pub(in crate::ingest) fn advice(code: &str) -> String {
    format!(
        "<p>Whoever runs this server lets the device in:<pre>sync-server devices approve --data DIR {code} --user USER</pre>\
         <p>The device goes on by itself then."
    )
}

pub(in crate::ingest) fn html(text: &str, login: Option<&str>) -> Response {
    let again = login.map_or_else(String::new, |login| {
        format!("<meta http-equiv=refresh content=\"{AGAIN_SECONDS};url=?login={login}\">")
    });
    let page = format!("<!doctype html><meta charset=utf-8><title>Connect a device</title>{again}{text}");
    (HEADERS, Html(page)).into_response()
}

pub(in crate::ingest) fn back(status: StatusCode, to: &str) -> Result<Response, Refusal> {
    let location = HeaderValue::from_str(to).map_err(|_| Refusal::Failed)?;
    Ok((status, HEADERS, [(header::LOCATION, location)]).into_response())
}

/// Nothing else is loaded, and no other page learns of this one's address.
const HEADERS: [(header::HeaderName, HeaderValue); 3] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// The address of a device that listens on its own machine; a code goes nowhere else.
fn loopback(redirect: &str) -> Option<String> {
    let uri: Uri = redirect.parse().ok()?;
    let authority = uri.authority()?;
    let local = ["127.0.0.1", "[::1]", "localhost"].contains(&authority.host());
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/callback" && uri.query().is_none();
    let port = authority.port_u16()?;
    (local && plain && !authority.as_str().contains('@'))
        .then(|| format!("http://{}:{port}/callback", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_to_loopback_only() {
        for fine in ["http://127.0.0.1:4711/callback", "http://localhost:1/callback", "http://[::1]:65535/callback"] {
            assert_eq!(loopback(fine).as_deref(), Some(fine));
        }
        for wrong in [
            "http://example.org:80/callback",
            "https://127.0.0.1:1/callback",
            "http://127.0.0.1/callback",
            "http://127.0.0.1:1/other",
            "http://127.0.0.1:1/callback?x=1",
            "http://127.0.0.1:1@example.org/callback",
            "http://me@127.0.0.1:1/callback",
            "http://127.0.0.1.example.org:1/callback",
            "//127.0.0.1:1/callback",
            "javascript:alert(1)",
            "",
        ] {
            assert_eq!(loopback(wrong), None, "{wrong}");
        }
        assert_eq!(escaped("a b&c=\u{e4}\r\n~"), "a%20b%26c%3D%C3%A4%0D%0A~");
    }
}
