//! The paths that Aexy Tracker's contract has beside its batches: projects, enrolment, heartbeat, status.

pub(super) mod batch;
pub(super) mod evidence;
pub(super) mod login;
pub(super) mod tokens;

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sync_core::ingest::config::Config;
use sync_core::ingest::contract::{Contract, Cost, Enrol, Per, Role};
use sync_core::ingest::gates::Refusal;
use sync_core::ingest::records::canonical_id;
use sync_core::ingest::validate::Violation;
use sync_core::protocol::Code;

use super::Ingest;
use super::append::{self, Device, Enrolment};
use super::http::{api, authenticate, blocking, small, vault};
use super::projects::Project;
use super::vault::Actor;
use super::windows::Ask;
use crate::error::JSON;
use crate::routes::query::Query;

const NOT_ENROLLED: Refusal = Refusal::Missing("Device not enrolled");
const NOT_A_MEMBER: Refusal = Refusal::Denied("Not a member of this project");
const NOT_ENABLED: Refusal = Refusal::Denied("The tracker is not enabled for this project");

/// Paths that a developer calls.
pub(super) async fn of_developer(
    ingest: Arc<Ingest>,
    role: Role,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let actor = authenticate(&ingest, &parts.headers).await?;
    let query = parts.uri.query().map(str::to_owned);
    let last = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let sent = match role {
        // What is wrong with the body of a presign counts after whether there may be one.
        Role::Presign => match small(&ingest, &parts.headers, body).await {
            Err(Refusal::NotJson) => Some(Value::Null),
            other => Some(other?),
        },
        Role::Enrol | Role::TokenCreate => Some(small(&ingest, &parts.headers, body).await?),
        _ => None,
    };
    let turn = ingest.turns.take(&actor.user).await;
    blocking(move || {
        let _turn = turn;
        let sent = sent.unwrap_or_default();
        match role {
            Role::Bindings => projects(&ingest, &actor),
            Role::Enrol => enrol(&ingest, &actor, &sent),
            Role::Heartbeat => heartbeat(&ingest, &actor, &asked(query.as_deref())?),
            Role::Status => status(&ingest, &actor, &asked(query.as_deref())?),
            Role::Presign => evidence::presign(&ingest, &actor, &asked(query.as_deref())?, &sent),
            Role::TokenCreate => tokens::create(&ingest, &actor, &sent),
            Role::TokenList => tokens::list(&ingest, &actor),
            Role::TokenRevoke => tokens::revoke(&ingest, &actor, &last),
            _ => Err(Refusal::NotFound),
        }
    })
    .await
}

fn reply(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], value.to_string() + "\n").into_response()
}

fn at(path: &str) -> Refusal {
    Refusal::Schema(Violation { path: path.to_owned() })
}

/// The `device_id` of a query.
fn asked(query: Option<&str>) -> Result<String, Refusal> {
    let found = Query::new(query, Code::InvalidRequest).text("device_id").map_err(|e| api(&e))?;
    found.ok_or_else(|| at("/device_id"))
}

/// A text member of so many characters, where it is there.
fn optional<'a>(sent: &'a Value, name: &str, most: usize) -> Result<Option<&'a str>, Refusal> {
    match sent.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.chars().count() <= most => Ok(Some(s)),
        Some(_) => Err(at(&format!("/{name}"))),
    }
}

fn text<'a>(sent: &'a Value, name: &str, most: usize) -> Result<&'a str, Refusal> {
    optional(sent, name, most)?.filter(|s| !s.is_empty()).ok_or_else(|| at(&format!("/{name}")))
}

fn enrolment(contract: &Contract) -> Result<&Enrol, Refusal> {
    contract.enrol.as_ref().ok_or(Refusal::Failed)
}

/// A device of this user.
fn device(ingest: &Ingest, actor: &Actor, id: &str) -> Result<Device, Refusal> {
    let (stream, key) = (ingest.contract.stream.as_str(), canonical_id(id));
    let found = ingest.service.on_file(&actor.user, |f| f.read(|c| append::device(c, stream, &key)));
    found.map_err(|e| api(&e))?.ok_or(NOT_ENROLLED)
}

/// What a device is bound to.
fn bound_to(ingest: &Ingest, actor: &Actor, binding: &str) -> Result<Project, Refusal> {
    ingest.vault.project(binding, actor.user.as_str()).map_err(|e| vault(&e))?.ok_or(NOT_A_MEMBER)
}

/// Whether a project takes this user's records.
fn takes(project: &Project) -> Result<(), Refusal> {
    match (project.member, project.tracker) {
        (false, _) => Err(NOT_A_MEMBER),
        (_, false) => Err(NOT_ENABLED),
        _ => Ok(()),
    }
}

fn config(ingest: &Ingest, project: &Project) -> Result<Config, Refusal> {
    project.config(enrolment(&ingest.contract)?).map_err(|e| vault(&e))
}

/// Counts a request against the windows of its role. Windows that cannot be asked let it in.
fn admit(ingest: &Ingest, role: Role, device: &Device, records: usize) -> Result<(), Refusal> {
    let rates = ingest.contract.rates.iter().enumerate().filter(|(_, r)| r.role == role);
    let asks: Vec<Ask<'_>> = rates
        .map(|(rate, limit)| Ask {
            rate,
            key: if limit.per == Per::Device { &device.key } else { &device.binding },
            limit,
            cost: if limit.cost == Cost::Records { records as u64 } else { 1 },
        })
        .collect();
    match ingest.options.limiter.admit(&asks, ingest.service.environment().now_ms()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ms)) => {
            let seconds = u32::try_from(ms.max(1).unsigned_abs().div_ceil(1000)).unwrap_or(u32::MAX);
            Err(Refusal::RateLimited { seconds })
        }
        Err(down) => {
            tracing::warn!(cause = %down, "a request is let in uncounted");
            Ok(())
        }
    }
}

fn projects(ingest: &Ingest, actor: &Actor) -> Result<Response, Refusal> {
    let all = ingest.vault.projects(actor.user.as_str()).map_err(|e| vault(&e))?;
    let shown: Vec<Value> = all.iter().map(|p| json!({ "id": p.id, "name": p.name, "slug": p.slug })).collect();
    Ok(reply(StatusCode::OK, &shown.into()))
}

/// Characters of a device's name, and of its platform.
const MOST_NAME: usize = 255;
const MOST_PLATFORM: usize = 32;

fn enrol(ingest: &Ingest, actor: &Actor, sent: &Value) -> Result<Response, Refusal> {
    let (stream, most) = (ingest.contract.stream.as_str(), enrolment(&ingest.contract)?.most_id);
    let (spelled, project) = (text(sent, "device_id", most)?, text(sent, "project_id", most)?);
    let name = optional(sent, "name", MOST_NAME)?;
    let platform = optional(sent, "platform", MOST_PLATFORM)?.unwrap_or("macos");
    let found = ingest.vault.project(&canonical_id(project), actor.user.as_str()).map_err(|e| vault(&e))?;
    let project = found.ok_or(Refusal::Missing("Project not found"))?;
    takes(&project)?;
    let key = canonical_id(spelled);
    // First whose device it is, over all users; then what it is bound to, in this one's file. Cut off in between, it is
    // this user's and not enrolled.
    ingest.vault.claim_device(stream, &key, actor.user.as_str()).map_err(|e| vault(&e))?;
    let enrolment = Enrolment { key: &key, spelled, binding: &project.id, name, platform };
    let done = ingest.service.on_file(&actor.user, |f| f.write(|c| append::enrol(c, stream, &enrolment)));
    done.map_err(|e| api(&e))?;
    let config = config(ingest, &project)?.shown();
    Ok(reply(StatusCode::CREATED, &json!({ "device_id": spelled, "project_id": project.id, "config": config })))
}

fn heartbeat(ingest: &Ingest, actor: &Actor, id: &str) -> Result<Response, Refusal> {
    let device = device(ingest, actor, id)?;
    let config = config(ingest, &bound_to(ingest, actor, &device.binding)?)?;
    let (stream, now) = (ingest.contract.stream.as_str(), ingest.service.environment().now_ms());
    let done = ingest.service.on_file(&actor.user, |f| f.write(|c| append::seen(c, stream, &device.key, now)));
    done.map_err(|e| api(&e))?;
    Ok(reply(StatusCode::OK, &config.shown()))
}

fn status(ingest: &Ingest, actor: &Actor, id: &str) -> Result<Response, Refusal> {
    let device = device(ingest, actor, id)?;
    let seen = device.last_seen_ms.map(instant);
    let shown = json!({ "device_id": device.spelled, "server_seq": device.high_seq, "last_seen_at": seen });
    Ok(reply(StatusCode::OK, &shown))
}

/// In RFC 3339, in whole seconds: the tracker reads no fractions.
fn instant(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).unwrap_or(jiff::Timestamp::MAX).to_string()
}
