//! The sign-in of a desktop app by its browser: the way to where a person signs in, and from there back to this machine
//! alone.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sync_core::ingest::gates::Refusal;
use sync_core::protocol::Code;

use crate::ingest::http::{api, escaped};
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
    let provider = provider.ok_or(Refusal::BadRequest("Unknown provider"))?;
    let port = value("port")?.and_then(|p| p.parse::<u16>().ok()).filter(|p| PORTS.contains(p));
    let port = port.ok_or(Refusal::BadRequest("Invalid port"))?;
    let back = escaped(&format!("http://127.0.0.1:{port}/callback"));
    let to = format!("/api/v1/auth/{provider}/login?redirect_url={back}");
    let location = HeaderValue::from_str(&to).map_err(|_| Refusal::Failed)?;
    Ok((StatusCode::FOUND, [(header::LOCATION, location)]).into_response())
}
