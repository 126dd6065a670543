//! Files that belong to events: a signed address to put one to, and the directory that takes it.
//!
//! The signature covers where the file goes, its size, type and SHA-256, and until when; whoever has the address needs no
//! token. The file's name is a digest of whose it is and of what, so ids cannot lead out of the directory.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sync_core::ingest::contract::{Dialect, Role};
use sync_core::ingest::gates::Refusal;
use sync_core::ingest::records::canonical_id;
use sync_core::protocol::Code;

use super::{admit, at, bound_to, config, device, enrolment, reply, takes, text};
use crate::body::decode::{Encoding, check_announced};
use crate::body::incoming::{decode_whole, read_wire};
use crate::ingest::Ingest;
use crate::ingest::http::{api, blocking, by_method, encoding_of, escaped, refused};
use crate::ingest::sessions::hex;
use crate::ingest::vault::Actor;
use crate::routes::query::Query;

/// Where files are put.
pub(in crate::ingest) const PATH: &str = "/_blobs/{reference}";

const POLICY: Refusal = Refusal::Denied("Screenshots are switched off for this project");
const SIGNATURE: Refusal = Refusal::Denied("The address is not valid, or no longer");
const OTHER_BYTES: Refusal = Refusal::BadRequest("The file is not the one that was announced");

/// Seconds that an address is good for.
const SECONDS: i64 = 300;

/// Characters of a file's type; of its SHA-256.
const MOST_TYPE: usize = 64;
const SHA256: usize = 64;

/// Bytes of a file.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// What an address says, and its signature covers.
struct Ticket {
    reference: String,
    object: String,
    bytes: u64,
    content_type: String,
    sha256: String,
    expires: i64,
}

impl Ticket {
    fn mac(&self, key: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
        let numbers = (self.bytes.to_string(), self.expires.to_string());
        for part in
            ["evidence", &self.reference, &self.object, &numbers.0, &self.content_type, &self.sha256, &numbers.1]
        {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    fn url(&self, base: &str, key: &[u8]) -> String {
        let signature = hex(&self.mac(key).finalize().into_bytes());
        format!(
            "{base}/_blobs/{}?o={}&e={}&n={}&t={}&h={}&s={signature}",
            escaped(&self.reference),
            self.object,
            self.expires,
            self.bytes,
            escaped(&self.content_type),
            self.sha256
        )
    }

    /// What an address says, where its signature is ours.
    fn read(path: &str, query: Option<&str>, key: &[u8]) -> Option<Self> {
        let query = Query::new(query, Code::InvalidRequest);
        let value = |name: &str| query.text(name).ok().flatten();
        // A path is decoded as a query is, but for the plus sign, which is never in it unescaped.
        let last = format!("r={}", path.rsplit('/').next()?);
        let reference = Query::new(Some(&last), Code::InvalidRequest).text("r").ok()??;
        let ticket = Self {
            reference,
            object: value("o")?,
            bytes: value("n")?.parse().ok()?,
            content_type: value("t")?,
            sha256: value("h")?,
            expires: value("e")?.parse().ok()?,
        };
        let signature = from_hex(&value("s")?)?;
        ticket.mac(key).verify_slice(&signature).ok().map(|()| ticket)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()).collect()
}

/// The name of a file: whose it is, and of which event.
fn object(parts: [&str; 4]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize())
}

/// Says where a file may be put.
pub(super) fn presign(ingest: &Ingest, actor: &Actor, id: &str, sent: &Value) -> Result<Response, Refusal> {
    let device = device(ingest, actor, id)?;
    let project = bound_to(ingest, actor, &device.binding)?;
    takes(&project)?;
    let config = config(ingest, &project)?;
    if config.member("screenshot_policy").and_then(Value::as_str).is_none_or(|policy| policy == "off") {
        return Err(POLICY);
    }
    if ingest.options.evidence.is_none() {
        return Err(Refusal::NoStorage);
    }
    let event = canonical_id(text(sent, "event_id", enrolment(&ingest.contract)?.most_id)?);
    let content_type = text(sent, "content_type", MOST_TYPE)?.to_owned();
    let bytes = sent.get("byte_size").and_then(Value::as_u64).filter(|n| (1..=MOST_BYTES).contains(n));
    let bytes = bytes.ok_or_else(|| at("/byte_size"))?;
    let sha256 = text(sent, "sha256", SHA256)?.to_ascii_lowercase();
    if sha256.len() != SHA256 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(at("/sha256"));
    }
    admit(ingest, Role::Presign, &device, 1)?;
    let ticket = Ticket {
        reference: format!("ev_{}_{}_{event}", device.binding, device.key),
        object: object([actor.user.as_str(), &device.binding, &device.key, &event]),
        bytes,
        content_type,
        sha256,
        expires: ingest.vault.now().div_euclid(1000) + SECONDS,
    };
    let url = ticket.url(&ingest.options.public_url, &ingest.signing_key);
    let shown = json!({ "evidence_ref": ticket.reference, "upload_url": url, "expires_in_s": SECONDS });
    Ok(reply(StatusCode::OK, &shown))
}

/// Takes a file at its address.
pub(in crate::ingest) async fn put(ingest: Arc<Ingest>, request: Request) -> Response {
    if let Some(response) = by_method(Dialect::Aexy, request.method(), &["PUT"]) {
        return response;
    }
    match take(ingest, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(r) => refused(Dialect::Aexy, &r),
    }
}

async fn take(ingest: Arc<Ingest>, request: Request) -> Result<(), Refusal> {
    let (parts, body) = request.into_parts();
    let ticket = Ticket::read(parts.uri.path(), parts.uri.query(), &ingest.signing_key);
    let in_time = |t: &Ticket| ingest.vault.now() <= t.expires.saturating_mul(1000);
    let ticket = ticket.filter(in_time).ok_or(SIGNATURE)?;
    if encoding_of(&parts.headers)? != Encoding::Identity {
        return Err(Refusal::BadEncoding);
    }
    check_announced(&parts.headers, Encoding::Identity, ticket.bytes).map_err(|e| api(&e))?;
    if !is_of_type(&parts.headers, &ticket.content_type) {
        return Err(OTHER_BYTES);
    }
    let upload = Arc::clone(&ingest.uploads).acquire_owned().await.ok();
    let bytes = read_wire(body, ingest.options.idle_body, ticket.bytes).await.map_err(|e| api(&e))?;
    blocking(move || {
        let _upload = upload;
        let bytes =
            decode_whole(&bytes, Encoding::Identity, ticket.bytes, Code::InvalidRequest).map_err(|e| api(&e))?;
        if bytes.len() as u64 != ticket.bytes || hex(&Sha256::digest(&bytes)) != ticket.sha256 {
            return Err(OTHER_BYTES);
        }
        let dir = ingest.options.evidence.as_deref().ok_or(Refusal::NoStorage)?;
        keep(dir, &ticket.object, &ingest.vault.new_id(), &bytes).map_err(|e| {
            tracing::warn!(cause = %e, "a file cannot be kept");
            Refusal::Unavailable
        })
    })
    .await
}

/// Whether a file comes as what was announced; one that comes without a type does not say otherwise.
fn is_of_type(headers: &HeaderMap, announced: &str) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|t| t.as_bytes() == announced.as_bytes())
}

/// Puts a file in its place, whole or not at all.
fn keep(dir: &Path, object: &str, fresh: &str, bytes: &[u8]) -> std::io::Result<()> {
    let shelf = dir.join(object.get(..2).unwrap_or(object));
    std::fs::create_dir_all(&shelf)?;
    let made = shelf.join(format!(".{fresh}"));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let kept = (|| {
        let mut file = options.open(&made)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&made, shelf.join(object))?;
        #[cfg(unix)]
        std::fs::File::open(&shelf)?.sync_all()?;
        Ok(())
    })();
    if kept.is_err() {
        // What is left has a name that nobody asks for.
        let _ = std::fs::remove_file(&made);
    }
    kept
}
