//! A batch of events: who sent it, whether it fits into the windows, and then each event by itself.

use sync_core::ingest::aexy::ack;
use sync_core::ingest::contract::Role;
use sync_core::ingest::gates::Refusal;
use sync_core::ingest::records::open;

use super::{NOT_ENROLLED, admit, bound_to, config, device, takes};
use crate::ingest::http::api;
use crate::ingest::vault::Actor;
use crate::ingest::{Ingest, append};
use crate::service::FaultPoint;

/// The gates from decode on, for the decoded bytes. What is stored, and what is queued of it, is one transaction of the
/// user's file.
pub(in crate::ingest) fn apply(ingest: &Ingest, actor: &Actor, bytes: &[u8]) -> Result<String, Refusal> {
    let contract = &ingest.contract;
    let opened = open(contract, bytes)?;
    let device = device(ingest, actor, &opened.device)?;
    let project = bound_to(ingest, actor, &device.binding)?;
    takes(&project)?;
    let config = config(ingest, &project)?;
    admit(ingest, Role::Batch, &device, opened.records)?;
    let environment = ingest.service.environment();
    let now = environment.now_ms();
    let records = opened.judge(contract, now);
    let applied = ingest.service.on_file(&actor.user, |file| {
        let applied = file.write(|conn| {
            let written = append::apply(conn, contract, &device.key, records, now)?;
            environment.fault(FaultPoint::BeforeCommit);
            Ok(written)
        })?;
        environment.fault(FaultPoint::AfterCommit);
        Ok(applied)
    });
    let applied = applied.map_err(|e| api(&e))?.ok_or(NOT_ENROLLED)?;
    if applied.tally.accepted > 0 {
        ingest.queued(&actor.user);
    }
    Ok(ack(&applied.tally, applied.high_seq, &config))
}
