//! `stream login`.

use std::{io, sync::Arc, time::Duration};

use serde_json::json;
use sync_client::{
    Error,
    context::{Environment as _, System},
    ingest::{
        self, Endpoint, Stop,
        session::{self, Device, Poll, Session},
    },
    transport::{Http, Transport as _},
};
use sync_core::ingest::contract::{Contract, Role};

use super::{
    args::Login,
    credentials::{Store, Stored},
    push::{failure, now_s},
};
use crate::{
    file::on_signal,
    output::{Done, Failure, Output, json, line},
    text::printable,
    token::{bare, can_be_sent},
};

pub(super) fn login(args: &Login, out: Output) -> Result<Done, Failure> {
    let contract = ingest::contract(&args.stream)?;
    let endpoint = args.endpoint.as_deref().map(Endpoint::parse).transpose()?;
    let store = Store::of(&args.stream)?;
    let url = endpoint.as_ref().map(|e| e.url().to_owned());
    let stored = match &args.secret {
        Some(given) => {
            let secret = own(&contract, endpoint.as_ref(), secret(given)?)?;
            Stored { secret: Some(secret), endpoint: url, ..Stored::default() }
        }
        None if !contract.routes.iter().any(|r| r.role == Role::LoginStart) => {
            return Err(Failure::usage(format!("Give the token: {} has no login by code.", contract.stream)));
        }
        None => {
            let endpoint = endpoint.ok_or_else(|| {
                Failure::usage("A login by code needs --endpoint, the full URL of the batch route; or give the token.")
            })?;
            // One that cannot be read is replaced: this is how.
            let known = store.read().ok().flatten().and_then(|s| s.device_id);
            let (session, device) = by_code(&contract, &endpoint, known, out)?;
            Stored { session: Some(session), device_id: Some(device), endpoint: url, ..Stored::default() }
        }
    };
    store.write(&stored)?;
    let path = store.path.display().to_string();
    out.result(&json!({ "logged_in": true, "file": path }), || format!("Kept in {path}, for you alone."));
    Ok(Done::Clean)
}

/// The token to keep: where a person's signed token is given and the contract has tokens of a program's own, such a one.
fn own(contract: &Contract, endpoint: Option<&Endpoint>, given: String) -> Result<String, Failure> {
    let trades = contract.routes.iter().any(|r| r.role == Role::TokenCreate);
    if !trades || given.starts_with(&contract.auth.prefix) {
        return Ok(given);
    }
    let path = endpoint.and_then(|e| Some((e, e.beside(contract, Role::TokenCreate)?)));
    let (endpoint, path) = path.ok_or_else(|| {
        Failure::usage(format!(
            "A token that does not begin with {} is traded for one that does: that needs --endpoint, the full URL of the batch \
             route.",
            contract.auth.prefix
        ))
    })?;
    let http = Http::new(endpoint.base()).map_err(Error::from)?;
    session::trade(&http, &path, &given, "sync-client").map_err(|stop| failure(&stop))
}

fn secret(given: &str) -> Result<String, Failure> {
    let mut text = given.to_owned();
    if given == "-" {
        text = io::read_to_string(io::stdin()).map_err(|e| Failure::local(format!("It cannot be read: {e}.")))?;
    }
    let secret = bare(&text);
    if secret.is_empty() {
        return Err(Failure::usage("There is no token in it; nothing was changed."));
    }
    can_be_sent(secret, || "the token".into()).map_err(Failure::usage)
}

/// A login that a person approves elsewhere; returns the device that it is for, too.
fn by_code(
    contract: &Contract,
    endpoint: &Endpoint,
    known: Option<String>,
    out: Output,
) -> Result<(Session, String), Failure> {
    let path = |role| {
        let none = || Failure::usage("The endpoint does not end with the batch route: there is no login beside it.");
        endpoint.beside(contract, role).ok_or_else(none)
    };
    let (start, poll) = (path(Role::LoginStart)?, path(Role::LoginPoll)?);
    let http = Arc::new(Http::new(endpoint.base()).map_err(Error::from)?);
    let stopping = Arc::clone(&http);
    on_signal(move || stopping.interrupt())?;
    let name = "sync-client";
    let fresh = || format!("dev_{:016x}", System.random());
    let mut device = known.unwrap_or_else(fresh);
    let mut begun = session::start(http.as_ref(), &start, Device { id: &device, name });
    if matches!(&begun, Err(Stop::Refused { code: Some(code), .. }) if code == "invalid_device_id") {
        device = fresh();
        begun = session::start(http.as_ref(), &start, Device { id: &device, name });
    }
    let begun = begun.map_err(|stop| failure(&stop))?;
    if out.json {
        let said = json!({ "user_code": begun.user_code, "verification_uri": begun.verification_uri,
            "expires_at": begun.expires_at });
        line(&json(&said));
    } else {
        line(&format!(
            "Approve the code {} at {}; this waits.",
            printable(&begun.user_code),
            printable(&begun.verification_uri)
        ));
    }
    let mut interval = begun.interval.clamp(1, 60);
    loop {
        match session::poll(http.as_ref(), &poll, &begun.device_code) {
            Ok(Poll::Done(session)) => {
                let device = session.device_id.clone().unwrap_or(device);
                return Ok((session, device));
            }
            Ok(Poll::SlowDown) => interval += 5,
            // A moment without the network is not the end of a login.
            Ok(_) | Err(Stop::Unreachable(_)) => {}
            Err(stop) => return Err(failure(&stop)),
        }
        if now_s() >= begun.expires_at {
            return Err(failure(&Stop::Login("nobody approved the code in time".into())));
        }
        http.pause(Duration::from_secs(interval)).map_err(Error::from)?;
    }
}
