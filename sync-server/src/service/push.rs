//! Pushes: create, chunk, commit, delete.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::Ordering;

use sync_core::engine::admit::{
    Admitted, Create, Who, check_chunk, check_create, check_lease, check_place, check_session, create,
    session_not_found,
};
use sync_core::engine::connect::uninitialized;
use sync_core::hash::Digest;
use sync_core::protocol::push::{ChunkReply, CommitReply, CreatePushReply, CreatePushRequest};
use sync_core::protocol::rows::{ReadError, WireRow, read_chunk};
use sync_core::protocol::watch::WatchEvent;
use sync_core::protocol::{ApiError, Code};
use sync_core::wire::{Form, push_members};

use super::{Caller, FaultPoint, Inner, rows};
use crate::scope::commit::{Job, commit, incomplete, key_text};
use crate::scope::fail::{Fail, Outcome};
use crate::scope::lineage::check_lineage;
use crate::scope::pages::bundle_hash;
use crate::scope::reject::Rejections;
use crate::scope::staging::{Held, Made, Push};
use crate::scope::store::Bundle;
use crate::scope::{Scope, store};

impl Caller {
    /// For the engine.
    pub(super) fn who(&self) -> Who<'_> {
        Who { user: self.user.as_str(), source: self.source.as_str() }
    }
}

/// What a chunk's rows came to, before its place is looked at.
#[derive(Default)]
struct Uploaded {
    rows: i64,
    refused: Rejections,
    /// Table and key of each refused row, in order.
    targets: Vec<(i64, String, String)>,
}

impl Inner {
    pub(super) fn create_push(&self, caller: &Caller, request: CreatePushRequest) -> Outcome<CreatePushReply> {
        let id = request.initialization_id.as_deref().map(str::trim).filter(|id| !id.is_empty());
        let asked = Create {
            source_bundle_id: request.source_bundle_id,
            planned_row_count: request.planned_row_count,
            initialization_id: id,
            max_rows_per_bundle: self.limits.max_rows_per_bundle,
        };
        check_create(&asked)?;
        if request.request_hash.as_deref().is_some_and(|h| Digest::from_hex(h).is_none()) {
            let text = "request_hash must be 64 lowercase hex digits";
            return Err(ApiError::new(Code::PushSessionInvalid, text).into());
        }
        let lineage = match (request.after_bundle_seq, request.after_history_hash.as_deref()) {
            (None, None) => None,
            (Some(after), Some(hash)) if after >= 0 => match Digest::from_hex(hash) {
                Some(hash) => Some((after, hash)),
                None => {
                    let text = "after_history_hash must be 64 lowercase hex digits";
                    return Err(ApiError::new(Code::PushSessionInvalid, text).into());
                }
            },
            _ => {
                let text = "after_bundle_seq, at least 0, and after_history_hash go together";
                return Err(ApiError::new(Code::PushSessionInvalid, text).into());
            }
        };
        let who = caller.who();
        let Some(scope) = self.scope(caller)? else {
            return Err(match id {
                Some(_) => {
                    ApiError::new(Code::InitializationExpired, "initialization lease is no longer active").into()
                }
                None => uninitialized(who.user).into(),
            });
        };
        let now = self.now();
        let decide = |conn: &rusqlite::Connection| -> Outcome<(Admitted, Option<Bundle>)> {
            let state = store::state(conn)?;
            let record = store::source(conn, who.source)?;
            let bundle = store::bundle_of(conn, who.source, asked.source_bundle_id)?;
            let admitted = create(&asked, who, &state.lifecycle, record.as_ref(), bundle.is_some(), now)
                .map_err(|e| self.asked_again(&state.lifecycle, now, e))?;
            if let (Admitted::Stage { .. }, Some((after, hash))) = (&admitted, lineage) {
                check_lineage(conn, &state, after, hash)?;
            }
            Ok((admitted, bundle))
        };
        let push_id = self.environment.new_id();
        let made = Made {
            user: who.user.to_owned(),
            source: who.source.to_owned(),
            source_bundle_id: asked.source_bundle_id,
            planned: asked.planned_row_count,
            initialization_id: id.map(str::to_owned),
            request_hash: request.request_hash.clone(),
            lineage,
        };
        // Under the writer's lock: `staging` proves to a client that nothing of this tuple has
        // committed or will, so no commit may be under way, and the session that is replaced here
        // is gone before one can begin.
        let committed = scope.write(|conn| {
            let (admitted, bundle) = decide(conn)?;
            match (admitted, bundle) {
                (Admitted::AlreadyCommitted, Some(bundle)) => return Ok(Some(bundle)),
                (Admitted::Stage { renews_lease: true }, _) => {
                    store::renew_lease(conn, now + self.limits.initialization_lease_ttl_ms)?;
                }
                _ => {}
            }
            self.pushes.create(&push_id, made, now, now + self.limits.push_session_ttl_ms);
            Ok(None)
        })?;
        if let Some(bundle) = committed {
            self.replays.fetch_add(1, Ordering::Relaxed);
            return Ok(CreatePushReply {
                status: CreatePushReply::ALREADY_COMMITTED.into(),
                committed: Some(self.committed(&scope, &bundle, caller)?),
                ..CreatePushReply::default()
            });
        }
        Ok(CreatePushReply {
            push_id: Some(push_id),
            status: CreatePushReply::STAGING.into(),
            planned_row_count: Some(asked.planned_row_count),
            next_expected_row_ordinal: Some(0),
            committed: None,
        })
    }

    fn committed(&self, scope: &Scope, b: &Bundle, caller: &Caller) -> Outcome<CommitReply> {
        Ok(CommitReply {
            bundle_seq: b.seq,
            source_id: b.source.clone(),
            source_bundle_id: b.source_bundle_id,
            row_count: b.row_count,
            bundle_hash: bundle_hash(scope, &self.schema, b, caller.algorithm)?.hex(),
            history_hash: Some(b.history_hash.hex()),
            request_hash: b.request_hash.map(|d| d.hex()),
        })
    }

    /// The caller's session, alive.
    fn session(&self, caller: &Caller, push_id: &str) -> Result<std::sync::Arc<Push>, ApiError> {
        let push = self.pushes.get(push_id).ok_or_else(|| session_not_found(push_id))?;
        check_session(&push.session(), caller.who(), self.now())?;
        Ok(push)
    }

    pub(super) fn upload_chunk(&self, caller: &Caller, push_id: &str, body: &mut dyn Read) -> Outcome<ChunkReply> {
        let session = self.session(caller, push_id);
        let (push, scope) = match (session, self.scope(caller)?) {
            (Ok(push), Some(scope)) => (push, scope),
            (Ok(_), None) => return Err(session_not_found(push_id).into()),
            // What is wrong with the chunk itself is said first, whatever became of the session.
            (Err(e), Some(scope)) => {
                let mut uploaded = Uploaded::default();
                let start = self.read_rows(&scope, None, &mut uploaded, body)?;
                check_chunk(start, uploaded.rows, self.limits.max_rows_per_push_chunk)?;
                self.refuse(uploaded, start)?;
                return Err(e.into());
            }
            (Err(e), None) => return Err(e.into()),
        };
        let reply = push.hold(|held| self.stage(&scope, &push, held, body));
        self.pushes.trim();
        let next_expected_row_ordinal = reply?;
        self.environment.fault(FaultPoint::AfterChunkStored);
        Ok(ChunkReply { push_id: push_id.to_owned(), next_expected_row_ordinal })
    }

    fn stage(&self, scope: &Scope, push: &Push, held: &mut Held<'_>, body: &mut dyn Read) -> Outcome<i64> {
        let mut uploaded = Uploaded::default();
        held.begin()?;
        let start = self.read_rows(scope, Some(held), &mut uploaded, body)?;
        check_chunk(start, uploaded.rows, self.limits.max_rows_per_push_chunk)?;
        let rows = uploaded.rows;
        self.refuse(uploaded, start)?;
        let now = self.now();
        if let Some(id) = &push.made.initialization_id {
            let who = push.who();
            scope.write(|conn| {
                // Committed before a crash that left the session behind.
                if store::bundle_of(conn, who.source, push.made.source_bundle_id)?.is_some() {
                    return Err(session_not_found(&push.id).into());
                }
                check_lease(id, who, &store::state(conn)?.lifecycle, now)?;
                Ok(store::renew_lease(conn, now + self.limits.initialization_lease_ttl_ms)?)
            })?;
        }
        check_place(&push.id, held.next(), push.made.planned, start, rows)?;
        self.environment.fault(FaultPoint::BeforeChunkStored);
        if push.is_gone() {
            return Err(session_not_found(&push.id).into());
        }
        held.accept(rows, now + self.limits.push_session_ttl_ms)?;
        Ok(held.next())
    }

    /// Reads a chunk's rows, and stores the good ones where `held` says so.
    fn read_rows(
        &self,
        scope: &Scope,
        held: Option<&Held<'_>>,
        uploaded: &mut Uploaded,
        body: &mut dyn Read,
    ) -> Outcome<i64> {
        let first = held.map_or(0, Held::next);
        let max_rows = self.limits.max_rows_per_push_chunk;
        let mut seen: BTreeSet<(i64, Vec<u8>)> = BTreeSet::new();
        let read = read_chunk(body, |row: WireRow| -> Result<(), Fail> {
            let index = uploaded.rows;
            uploaded.rows += 1;
            if index >= max_rows {
                return Ok(());
            }
            let read = rows::read(&row, scope, &self.schema, first + index, self.limits.max_bytes_per_row);
            let refused = match read {
                Ok(staged) if seen.insert((staged.tab, staged.key.as_bytes().to_vec())) => {
                    return held.map_or(Ok(()), |h| h.put(&staged));
                }
                Ok(staged) => {
                    let (schema, table) = rows::target(&row, &self.schema);
                    let key = staged.key.unpack().map(|k| key_text(&k)).unwrap_or_default();
                    let message = format!("duplicate target row in push request: {schema}.{table} {key}");
                    rows::Refused { kind: "duplicate", columns: vec![], message }
                }
                Err(refused) => refused,
            };
            uploaded.refused.add_named(index, refused.kind, refused.columns, refused.message);
            if !uploaded.refused.truncated {
                let mut key = String::new();
                push_members(&mut key, &row.key, Form::Plain);
                let (_, table) = rows::target(&row, &self.schema);
                uploaded.targets.push((index, table, key));
            }
            Ok(())
        });
        read.map_err(|e| match e {
            ReadError::Stopped(e) => e,
            ReadError::Json(e) => {
                ApiError::new(Code::PushChunkInvalid, format!("Failed to parse push chunk request: {e}")).into()
            }
            ReadError::Io(e) => body_error(e).into(),
        })
    }

    fn refuse(&self, uploaded: Uploaded, start: i64) -> Outcome<()> {
        if uploaded.refused.is_empty() {
            return Ok(());
        }
        let mut refused = uploaded.refused;
        for r in &mut refused.list {
            r.ordinal += start;
        }
        let e = refused.into_error(Code::PushChunkInvalid, &self.schema, |ordinal| {
            let at = uploaded.targets.binary_search_by_key(&(ordinal - start), |(i, _, _)| *i);
            let (_, table, key) = at.ok().and_then(|i| uploaded.targets.get(i)).ok_or(Fail::Damaged("a list"))?;
            Ok::<_, Fail>((table.clone(), key.clone()))
        })?;
        Err(e.into())
    }

    pub(super) fn commit_push(&self, caller: &Caller, push_id: &str) -> Outcome<CommitReply> {
        let push = self.session(caller, push_id)?;
        let Some(scope) = self.scope(caller)? else { return Err(session_not_found(push_id).into()) };
        let now = self.now();
        let result = push.hold(|held| {
            if held.next() != push.made.planned {
                return Err(incomplete(held.next(), push.made.planned).into());
            }
            let job = Job {
                scope: &scope,
                push: &push,
                staged: held.conn,
                schema: &self.schema,
                algorithm: caller.algorithm,
                now_ms: now,
                retained: self.limits.retained_bundles,
                fault: &|point| self.environment.fault(point),
            };
            let bundle = commit(&job)?;
            self.environment.fault(FaultPoint::AfterCommit);
            // Before the session is let go: whoever waits for it to delete it must not find it.
            self.pushes.remove(push_id);
            Ok(bundle)
        });
        let bundle = match result {
            Ok(bundle) => bundle,
            Err(Fail::Api(e)) if e.code == Code::PushSessionNotFound => {
                self.pushes.remove(push_id);
                return Err(e.into());
            }
            Err(e) => return Err(e),
        };
        let event = WatchEvent {
            bundle_seq: bundle.seq,
            source_id: Some(bundle.source.clone()),
            source_bundle_id: Some(bundle.source_bundle_id),
        };
        self.hub.publish(&scope.name, event);
        if let Err(e) = self.count(&scope) {
            tracing::warn!(cause = %e, "counters were not read");
        }
        self.committed(&scope, &bundle, caller)
    }

    pub(super) fn delete_push(&self, caller: &Caller, push_id: &str) -> Outcome<()> {
        let push = self.session(caller, push_id)?;
        let scope = self.scope(caller)?;
        // Answering 204 proves to the client that nothing of it will commit: wait for a commit that
        // runs, and tell one that a crash cut off from its reply by its tuple.
        push.hold(|_| {
            self.pushes.remove(push_id);
            let made = &push.made;
            let Some(scope) = scope else { return Ok(()) };
            let source = scope.read(|conn| store::source(conn, &made.source))?;
            if source.is_some_and(|s| s.max_committed >= made.source_bundle_id) {
                return Err(session_not_found(push_id).into());
            }
            Ok(())
        })
    }
}

/// An error of the body's reader: what the reader itself decided, or a connection that broke.
fn body_error(e: std::io::Error) -> ApiError {
    match e.into_inner().map(|inner| inner.downcast::<ApiError>()) {
        Some(Ok(api)) => *api,
        _ => ApiError::new(Code::InvalidRequest, "the request body could not be read to its end"),
    }
}
