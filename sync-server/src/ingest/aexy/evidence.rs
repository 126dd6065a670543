//! Files that belong to events: where one may be put.

use axum::response::Response;
use serde_json::Value;
use sync_core::ingest::contract::Role;
use sync_core::ingest::gates::Refusal;

use super::{admit, at, bound_to, config, device, optional, takes, text};
use crate::ingest::Ingest;
use crate::ingest::vault::Actor;

const POLICY: Refusal = Refusal::Denied("Screenshots are switched off for this project");

/// Says where a file may be put, once.
pub(super) fn presign(ingest: &Ingest, actor: &Actor, id: &str, sent: &Value) -> Result<Response, Refusal> {
    let device = device(ingest, actor, id)?;
    let project = bound_to(ingest, actor, &device.binding)?;
    takes(&project)?;
    let config = config(ingest, &project)?;
    if config.member("screenshot_policy").and_then(Value::as_str).is_none_or(|policy| policy == "off") {
        return Err(POLICY);
    }
    let _ = (admit, at, optional, text, Role::Presign, sent);
    Err(Refusal::NoStorage)
}
