//! The sign-in of a desktop app by its browser: the way to where a person signs in, and from there back to this machine
//! alone, with a signed token.
//!
//! There are no accounts elsewhere behind this server: whichever provider was named, the page shows a code, and whoever runs
//! the server lets the person in.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use sync_core::ingest::gates::Refusal;
use sync_core::protocol::{Code, UserId};

use crate::ingest::Ingest;
use crate::ingest::http::{api, blocking, escaped, vault};
use crate::ingest::sessions::SignIn;
use crate::ingest::statsai::browser::{advice, back, html};
use crate::routes::query::Query;

/// Whose accounts a person may sign in with.
const PROVIDERS: [&str; 3] = ["github", "google", "microsoft"];

/// Ports that an app without privileges can listen on.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65_535;

/// Sends the browser on. Host and path of the way back are fixed: a token never leaves the machine.
pub(in crate::ingest) fn redirect(query: Option<&str>) -> Result<Response, Refusal> {
    let query = Query::new(query, Code::InvalidRequest);
    let value = |name: &str| query.text(name).map_err(|e| api(&e));
    let given = value("provider")?;
    let provider = PROVIDERS.iter().find(|p| given.as_deref() == Some(**p));
    let provider = provider.ok_or(UNKNOWN)?;
    let port = value("port")?.and_then(|p| p.parse::<u16>().ok()).filter(|p| PORTS.contains(p));
    let port = port.ok_or(Refusal::BadRequest("Invalid port"))?;
    let back = escaped(&format!("http://127.0.0.1:{port}/callback"));
    let to = format!("/api/v1/auth/{provider}/login?redirect_url={back}");
    let location = HeaderValue::from_str(&to).map_err(|_| Refusal::Failed)?;
    Ok((StatusCode::FOUND, [(header::LOCATION, location)]).into_response())
}

/// Seconds that a signed token is good for: the app trades it at once.
const TOKEN_SECONDS: i64 = 600;

const UNKNOWN: Refusal = Refusal::BadRequest("Unknown provider");

/// Shows the code, or sends the browser back to the app.
pub(in crate::ingest) async fn page(ingest: Arc<Ingest>, uri: &Uri) -> Result<Response, Refusal> {
    let provider = uri.path().rsplit('/').nth(1).unwrap_or_default();
    PROVIDERS.iter().find(|p| **p == provider).ok_or(UNKNOWN)?;
    // Without a secret there is no signed token to come back with.
    let developer = ingest.options.developer.clone().ok_or(Refusal::NotFound)?;
    let query = Query::new(uri.query(), Code::InvalidRequest);
    let value = |name: &str| query.text(name).map_err(|e| api(&e));
    let stream = ingest.contract.stream.clone();
    if let Some(login) = value("login")? {
        let secret = login.clone();
        return match blocking(move || ingest.vault.sign_in(&stream, &secret).map_err(|e| vault(&e))).await? {
            // It was found, so it is made of hex digits.
            SignIn::Pending { user_code } => Ok(html(&advice(&user_code), Some(&login))),
            SignIn::Approved { redirect, user } => {
                let user = UserId::parse(&user).ok_or(Refusal::Failed)?;
                back(StatusCode::FOUND, &format!("{redirect}?token={}", developer.issue(&user, TOKEN_SECONDS)))
            }
            SignIn::Gone => Ok(html("<p>This sign-in is over. Begin it again in the app.", None)),
        };
    }
    let given = value("redirect_url")?;
    let redirect = given.as_deref().and_then(this_machine).ok_or(Refusal::BadRequest("Invalid redirect_url"))?;
    let begun = blocking(move || ingest.vault.begin_page(&stream, &redirect, "").map_err(|e| vault(&e))).await?;
    Ok(html(&advice(&begun.user_code), Some(&begun.code)))
}

/// An address as [`redirect`] makes it, and no other.
fn this_machine(address: &str) -> Option<String> {
    let port = address.strip_prefix("http://127.0.0.1:")?.strip_suffix("/callback")?;
    let port = port.parse::<u16>().ok().filter(|p| PORTS.contains(p))?;
    Some(format!("http://127.0.0.1:{port}/callback"))
}
