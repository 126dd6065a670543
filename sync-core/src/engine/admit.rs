//! Whether a push may be created, fed and committed: sequences, leases, chunks
//! (reference-server §1.5.2, §3; protocol §6).

use super::connect::{Lifecycle, uninitialized};
use crate::protocol::{ApiError, Code};

/// What a source may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// Writes.
    Active,
    /// Set aside for a device that is rebuilding; its first commit makes it active.
    Reserved,
    /// Never writes again.
    Retired,
}

/// What a scope remembers of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it may do.
    pub state: SourceState,
    /// The last source bundle id that was committed; 0 before the first.
    pub max_committed: i64,
    /// With [`SourceState::Retired`]: who took over.
    pub replaced_by: Option<String>,
}

/// Whose push it is, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The user.
    pub user: &'a str,
    /// The source.
    pub source: &'a str,
}

/// The request to create a push, as the decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Create<'a> {
    /// The source's own counter.
    pub source_bundle_id: i64,
    /// Rows that will be uploaded.
    pub planned_row_count: i64,
    /// Trimmed; `None` where absent or empty.
    pub initialization_id: Option<&'a str>,
    /// Rows a push may have; 0 for no limit.
    pub max_rows_per_bundle: i64,
}

/// What becomes of a request to create a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// The tuple is history: answer with its bundle.
    AlreadyCommitted,
    /// A staging session is made.
    Stage {
        /// The scope's lease is renewed with it.
        renews_lease: bool,
    },
}

/// What can be said of a request without looking at the scope.
///
/// # Errors
/// `push_session_invalid`.
pub fn check_create(request: &Create<'_>) -> Result<(), ApiError> {
    if request.source_bundle_id <= 0 {
        return Err(ApiError::new(Code::PushSessionInvalid, "source_bundle_id must be > 0"));
    }
    if request.planned_row_count <= 0 {
        return Err(ApiError::new(Code::PushSessionInvalid, "planned_row_count must be > 0"));
    }
    Ok(())
}

/// A limit is for what is to come: a tuple that is history was taken under another.
fn check_size(request: &Create<'_>) -> Result<(), ApiError> {
    let max = request.max_rows_per_bundle;
    if max > 0 && request.planned_row_count > max {
        let text = format!("planned_row_count {} exceeds max_rows_per_bundle {max}", request.planned_row_count);
        return Err(ApiError::new(Code::BundleTooLarge, text).with_integer("max_rows_per_bundle", max));
    }
    Ok(())
}

/// Decides on a request to create a push. `committed` says whether the tuple is in retained history.
///
/// # Errors
/// The codes of the seed's failure contract for the endpoint, in the order of reference-server §1.5.2,
/// but a committed tuple is recognised before the scope refuses an `initialization_id`; `bundle_too_large` comes last.
pub fn create(
    request: &Create<'_>,
    who: Who<'_>,
    lifecycle: &Lifecycle,
    record: Option<&Source>,
    committed: bool,
    now_ms: i64,
) -> Result<Admitted, ApiError> {
    check_create(request)?;
    let renews_lease = match (lifecycle, lifecycle.lease(now_ms), request.initialization_id) {
        (Lifecycle::Initialized, _, _) if committed => return Ok(Admitted::AlreadyCommitted),
        (Lifecycle::Initialized, _, Some(_)) => {
            let text = "initialization_id must be absent once the scope is initialized";
            return Err(ApiError::new(Code::PushSessionInvalid, text));
        }
        (Lifecycle::Initialized, _, None) => false,
        (_, Some(lease), None) if lease.source == who.source => {
            let text = "initialization_id is required while the scope is initializing";
            return Err(ApiError::new(Code::PushSessionInvalid, text));
        }
        (_, Some(_), None) => {
            let text = format!("sync scope for user {} is being initialized by another source", who.user);
            return Err(ApiError::new(Code::ScopeInitializing, text));
        }
        (_, Some(lease), Some(_)) if lease.source != who.source => {
            let text = "source does not own the active initialization lease";
            return Err(ApiError::new(Code::InitializationStale, text));
        }
        (_, Some(lease), Some(id)) if lease.id != id => {
            let text = "initialization_id does not match the active initialization lease";
            return Err(ApiError::new(Code::InitializationStale, text));
        }
        (_, Some(_), Some(_)) => true,
        (_, None, Some(_)) => {
            let text = "initialization lease is no longer active";
            return Err(ApiError::new(Code::InitializationExpired, text));
        }
        (_, None, None) => return Err(uninitialized(who.user)),
    };
    if let Some(r) = record.filter(|r| r.state == SourceState::Retired) {
        return Err(retired(who, r.replaced_by.as_deref()));
    }
    let max = record.map_or(0, |r| r.max_committed);
    let (got, expected) = (request.source_bundle_id, max + 1);
    if got < expected {
        return Err(ApiError::new(
            Code::HistoryPruned,
            format!(
                "source tuple ({}, {got}) for user {} is older than retained duplicate history; \
                 max committed source_bundle_id is {max}",
                who.source, who.user
            ),
        ));
    }
    if got > expected {
        return Err(ApiError::new(
            Code::SourceSequenceOutOfOrder,
            format!("source {} for user {} expected next source_bundle_id {expected}, got {got}", who.source, who.user),
        ));
    }
    check_size(request)?;
    Ok(Admitted::Stage { renews_lease })
}

/// `source_retired`, with its members.
#[must_use]
pub fn retired(who: Who<'_>, replaced_by: Option<&str>) -> ApiError {
    let by = replaced_by.map(|r| format!(" and replaced by {r}")).unwrap_or_default();
    let text = format!("source {} for user {} was retired{by}", who.source, who.user);
    let e = ApiError::new(Code::SourceRetired, text).with_text("source_id", who.source);
    match replaced_by {
        Some(r) => e.with_text("replaced_by_source_id", r),
        None => e,
    }
}

/// Whether the lease under which a session was made still stands. `lease` is the session's
/// initialization id, `who` its own source.
///
/// # Errors
/// `initialization_expired` while nobody has taken over, else `initialization_stale`.
pub fn check_lease(lease: &str, who: Who<'_>, lifecycle: &Lifecycle, now_ms: i64) -> Result<(), ApiError> {
    let stale = |text: &str| Err(ApiError::new(Code::InitializationStale, text));
    match lifecycle {
        Lifecycle::Initialized => stale("scope is no longer initializing"),
        Lifecycle::Initializing(l) if l.source != who.source => {
            stale("source does not own the active initialization lease")
        }
        Lifecycle::Initializing(l) if l.id != lease => {
            stale("initialization_id does not match the active initialization lease")
        }
        Lifecycle::Initializing(l) if l.live(now_ms) => Ok(()),
        Lifecycle::Initializing(_) | Lifecycle::Uninitialized => {
            Err(ApiError::new(Code::InitializationExpired, "initialization lease is no longer active"))
        }
    }
}

/// Whether a staged session may still commit under its tuple.
///
/// # Errors
/// `source_retired`, `source_sequence_changed`.
pub fn check_sequence(staged: i64, who: Who<'_>, record: Option<&Source>) -> Result<(), ApiError> {
    if let Some(r) = record.filter(|r| r.state == SourceState::Retired) {
        return Err(retired(who, r.replaced_by.as_deref()));
    }
    let expected = record.map_or(0, |r| r.max_committed) + 1;
    if staged == expected {
        return Ok(());
    }
    Err(ApiError::new(
        Code::SourceSequenceChanged,
        format!(
            "source {} for user {} changed expected next source_bundle_id from staged {staged} to {expected} before commit",
            who.source, who.user
        ),
    ))
}

/// A session as its checks need it.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// Its id.
    pub push_id: &'a str,
    /// Whose it is.
    pub owner: Who<'a>,
    /// When it expires.
    pub expires_ms: i64,
}

/// Whether the caller may use a session.
///
/// # Errors
/// `push_session_forbidden`, `push_session_expired`.
pub fn check_session(session: &Session<'_>, caller: Who<'_>, now_ms: i64) -> Result<(), ApiError> {
    let id = session.push_id;
    if session.owner.user != caller.user {
        let text = format!("push session {id} does not belong to the authenticated user");
        return Err(ApiError::new(Code::PushSessionForbidden, text));
    }
    if session.owner.source != caller.source {
        let text = format!("push session {id} does not belong to this source");
        return Err(ApiError::new(Code::PushSessionForbidden, text));
    }
    if now_ms > session.expires_ms {
        let text = format!("push session {id} has expired; start a new push session");
        return Err(ApiError::new(Code::PushSessionExpired, text));
    }
    Ok(())
}

/// `push_session_not_found`, in its own words.
#[must_use]
pub fn session_not_found(push_id: &str) -> ApiError {
    ApiError::new(Code::PushSessionNotFound, format!("push session {push_id} was not found"))
}

/// Checks a chunk's shape, before its session is looked at.
///
/// # Errors
/// `push_chunk_invalid`.
pub fn check_chunk(start: i64, rows: i64, max_rows: i64) -> Result<(), ApiError> {
    if start < 0 {
        return Err(ApiError::new(Code::PushChunkInvalid, "start_row_ordinal must be >= 0"));
    }
    if rows == 0 {
        return Err(ApiError::new(Code::PushChunkInvalid, "rows must not be empty"));
    }
    if rows > max_rows {
        let text = format!("rows length {rows} exceeds max_rows_per_push_chunk {max_rows}");
        return Err(ApiError::new(Code::PushChunkInvalid, text));
    }
    Ok(())
}

/// Checks where a chunk goes: strictly after what the session has, and not beyond what it planned.
///
/// # Errors
/// `push_chunk_out_of_order` with `next_expected_row_ordinal`, or `push_chunk_invalid`.
pub fn check_place(push_id: &str, expected: i64, planned: i64, start: i64, rows: i64) -> Result<(), ApiError> {
    if start != expected {
        let text = format!("push session {push_id} expected start_row_ordinal {expected}, got {start}");
        return Err(ApiError::new(Code::PushChunkOutOfOrder, text).with_integer("next_expected_row_ordinal", expected));
    }
    if rows > planned - start {
        return Err(ApiError::new(Code::PushChunkInvalid, "chunk exceeds planned_row_count"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::connect::Lease;

    const ME: Who<'static> = Who { user: "u", source: "me" };

    fn request(id: i64, initialization_id: Option<&str>) -> Create<'_> {
        Create { source_bundle_id: id, planned_row_count: 1, initialization_id, max_rows_per_bundle: 10 }
    }

    fn record(state: SourceState, max_committed: i64) -> Source {
        Source { state, max_committed, replaced_by: (state == SourceState::Retired).then(|| "next".into()) }
    }

    fn seeding(source: &str, expires_ms: i64) -> Lifecycle {
        Lifecycle::Initializing(Lease { source: source.into(), id: "L".into(), expires_ms })
    }

    /// Reference-server §1.5.2 steps 3 to 12 with the changes of protocol §6, at time 10.
    #[test]
    fn creation() {
        use Code::{
            BundleTooLarge, HistoryPruned, InitializationExpired, InitializationStale, PushSessionInvalid,
            ScopeInitializing, ScopeUninitialized, SourceRetired, SourceSequenceOutOfOrder,
        };
        let init = Lifecycle::Initialized;
        let un = Lifecycle::Uninitialized;
        let stage = Ok(Admitted::Stage { renews_lease: false });
        let seed = Ok(Admitted::Stage { renews_lease: true });
        let done = Ok(Admitted::AlreadyCommitted);
        let active = record(SourceState::Active, 4);
        let gone = record(SourceState::Retired, 4);
        let reserved = record(SourceState::Reserved, 0);
        for (n, (request, lifecycle, record, committed, expected)) in [
            (request(0, None), &init, None, false, Err(PushSessionInvalid)),
            (Create { planned_row_count: 0, ..request(1, None) }, &init, None, false, Err(PushSessionInvalid)),
            (Create { planned_row_count: 11, ..request(1, None) }, &init, None, false, Err(BundleTooLarge)),
            (Create { planned_row_count: 10, ..request(1, None) }, &init, None, false, stage),
            (Create { planned_row_count: 11, max_rows_per_bundle: 0, ..request(1, None) }, &init, None, false, stage),
            (request(1, None), &un, None, false, Err(ScopeUninitialized)),
            (request(1, Some("L")), &un, None, false, Err(InitializationExpired)),
            (request(1, None), &init, None, false, stage),
            (request(1, None), &init, Some(&reserved), false, stage),
            (request(2, None), &init, None, false, Err(SourceSequenceOutOfOrder)),
            (request(5, None), &init, Some(&active), false, stage),
            (request(6, None), &init, Some(&active), false, Err(SourceSequenceOutOfOrder)),
            (request(4, None), &init, Some(&active), true, done),
            (request(4, Some("L")), &init, Some(&active), true, done),
            (Create { planned_row_count: 11, ..request(4, None) }, &init, Some(&active), true, done),
            (request(4, None), &init, Some(&gone), true, done),
            (request(2, None), &init, Some(&active), false, Err(HistoryPruned)),
            (request(5, Some("L")), &init, Some(&active), false, Err(PushSessionInvalid)),
            (request(5, None), &init, Some(&gone), false, Err(SourceRetired)),
        ]
        .into_iter()
        .enumerate()
        {
            let got = create(&request, ME, lifecycle, record, committed, 10).map_err(|e| e.code);
            assert_eq!(got, expected, "case {n}");
        }
        for (n, (lifecycle, id, expected)) in [
            (seeding("me", 11), Some("L"), seed),
            (seeding("me", 11), None, Err(PushSessionInvalid)),
            (seeding("me", 11), Some("x"), Err(InitializationStale)),
            (seeding("you", 11), Some("L"), Err(InitializationStale)),
            (seeding("you", 11), None, Err(ScopeInitializing)),
            (seeding("me", 10), Some("L"), Err(InitializationExpired)),
            (seeding("me", 10), None, Err(ScopeUninitialized)),
        ]
        .into_iter()
        .enumerate()
        {
            let got = create(&request(1, id), ME, &lifecycle, None, false, 10).map_err(|e| e.code);
            assert_eq!(got, expected, "seeding {n}");
        }
    }

    #[test]
    fn sequences_at_commit() {
        let code = |staged, r: Option<&Source>| check_sequence(staged, ME, r).map_err(|e| e.code);
        assert_eq!(code(1, None), Ok(()));
        assert_eq!(code(2, None), Err(Code::SourceSequenceChanged));
        let active = record(SourceState::Active, 4);
        assert_eq!(code(5, Some(&active)), Ok(()));
        assert_eq!(code(4, Some(&active)), Err(Code::SourceSequenceChanged));
        let e = check_sequence(5, ME, Some(&record(SourceState::Retired, 4))).unwrap_err();
        assert_eq!(e.code, Code::SourceRetired);
        assert_eq!(e.message, "source me for user u was retired and replaced by next");
        assert_eq!(e.members[1], ("replaced_by_source_id", "\"next\"".into()));
    }

    /// Protocol §6: 410 while nobody has taken over, else 409.
    #[test]
    fn leases_of_sessions() {
        for (lifecycle, expected) in [
            (seeding("me", 11), Ok(())),
            (seeding("me", 10), Err(Code::InitializationExpired)),
            (Lifecycle::Uninitialized, Err(Code::InitializationExpired)),
            (seeding("you", 11), Err(Code::InitializationStale)),
            (Lifecycle::Initialized, Err(Code::InitializationStale)),
        ] {
            assert_eq!(check_lease("L", ME, &lifecycle, 10).map_err(|e| e.code), expected, "{lifecycle:?}");
        }
        assert_eq!(check_lease("M", ME, &seeding("me", 11), 10).unwrap_err().code, Code::InitializationStale);
    }

    #[test]
    fn sessions_belong_to_a_user_and_a_source() {
        let s = Session { push_id: "p", owner: ME, expires_ms: 10 };
        let code = |user, source, now| check_session(&s, Who { user, source }, now).map_err(|e| e.code);
        assert_eq!(code("u", "me", 10), Ok(()));
        assert_eq!(code("v", "me", 10), Err(Code::PushSessionForbidden));
        assert_eq!(code("u", "you", 10), Err(Code::PushSessionForbidden));
        assert_eq!(code("u", "me", 11), Err(Code::PushSessionExpired));
    }

    #[test]
    fn chunks() {
        let shape = |start, rows| check_chunk(start, rows, 3).map_err(|e| e.message);
        assert_eq!(shape(0, 3), Ok(()));
        assert_eq!(shape(-1, 1), Err("start_row_ordinal must be >= 0".into()));
        assert_eq!(shape(0, 0), Err("rows must not be empty".into()));
        assert_eq!(shape(0, 4), Err("rows length 4 exceeds max_rows_per_push_chunk 3".into()));
        let place = |start, rows| check_place("p", 2, 5, start, rows);
        assert_eq!(place(2, 3), Ok(()));
        assert_eq!(place(2, 4).unwrap_err().message, "chunk exceeds planned_row_count");
        for start in [0, 3] {
            let e = place(start, 1).unwrap_err();
            assert_eq!(e.code, Code::PushChunkOutOfOrder);
            assert_eq!(e.members, [("next_expected_row_ordinal", "2".to_owned())]);
        }
    }
}
