//! The connect lease machine: who may seed a scope, and for how long (reference-server §2; protocol §6).

use crate::protocol::connect::Resolution;
use crate::protocol::{ApiError, Code};

/// The right to seed a scope, held by one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The source that seeds.
    pub source: String,
    /// Carried by its seed push.
    pub id: String,
    /// When it lapses, in milliseconds since the epoch.
    pub expires_ms: i64,
}

impl Lease {
    /// Whether the lease still holds.
    #[must_use]
    pub const fn live(&self, now_ms: i64) -> bool {
        self.expires_ms > now_ms
    }

    /// In how many seconds another device asks again. Each chunk of the seeding device begins the lease anew for
    /// `ttl_ms`, so what is left says how long it was silent: one that was just heard of may be done in a moment,
    /// and the longer it is silent, the longer the wait, up to the end of the lease.
    #[must_use]
    pub fn retry_after_s(&self, now_ms: i64, ttl_ms: i64) -> i64 {
        let left_s = self.expires_ms.saturating_sub(now_ms) / 1000;
        let silent_s = ttl_ms.saturating_sub(self.expires_ms.saturating_sub(now_ms)) / 1000;
        (silent_s / 10).max(SOON_S).min(left_s).max(1)
    }
}

/// Seconds after which a seeding that goes on is asked after.
const SOON_S: i64 = 2;

/// Where a scope stands. A lapsed lease counts as [`Lifecycle::Uninitialized`]; nothing is written
/// when it lapses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// Nobody has written.
    Uninitialized,
    /// One source seeds, or its lease has lapsed.
    Initializing(Lease),
    /// For good.
    Initialized,
}

impl Lifecycle {
    /// The lease where one holds now.
    #[must_use]
    pub fn lease(&self, now_ms: i64) -> Option<&Lease> {
        match self {
            Self::Initializing(l) if l.live(now_ms) => Some(l),
            _ => None,
        }
    }

    /// What pull, watch and snapshots require: an initialized scope.
    ///
    /// # Errors
    /// `scope_uninitialized` or `scope_initializing`. `time` writes an instant as RFC 3339.
    pub fn readable(&self, user: &str, now_ms: i64, time: impl Fn(i64) -> String) -> Result<(), ApiError> {
        match (self, self.lease(now_ms)) {
            (Self::Initialized, _) => Ok(()),
            (_, Some(l)) => Err(ApiError::new(
                Code::ScopeInitializing,
                format!("sync scope for user {user} is initializing until {}", time(l.expires_ms)),
            )),
            _ => Err(uninitialized(user)),
        }
    }
}

/// `scope_uninitialized`, in its own words.
#[must_use]
pub fn uninitialized(user: &str) -> ApiError {
    ApiError::new(Code::ScopeUninitialized, format!("sync scope for user {user} is not initialized"))
}

/// The outcome of a connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// What the caller is told to do.
    pub resolution: Resolution,
    /// The lease that the reply speaks of: the caller's own, or the other device's.
    pub lease: Option<Lease>,
    /// With `retry_later`: whole seconds, at least 1.
    pub retry_after_seconds: Option<i64>,
    /// What the scope becomes, where it changes.
    pub next: Option<Lifecycle>,
}

/// Resolves a connect. `fresh_id` is used where a lease is granted, `ttl_ms` is how long it lasts.
#[must_use]
pub fn connect(
    state: &Lifecycle,
    source: &str,
    has_local_pending_rows: bool,
    now_ms: i64,
    ttl_ms: i64,
    fresh_id: impl FnOnce() -> String,
) -> Connected {
    let plain = |resolution, next| Connected { resolution, lease: None, retry_after_seconds: None, next };
    if *state == Lifecycle::Initialized {
        return plain(Resolution::RemoteAuthoritative, None);
    }
    let held = state.lease(now_ms);
    if let Some(other) = held.filter(|l| l.source != source) {
        return Connected {
            resolution: Resolution::RetryLater,
            lease: Some(other.clone()),
            retry_after_seconds: Some(other.retry_after_s(now_ms, ttl_ms)),
            next: None,
        };
    }
    if !has_local_pending_rows {
        return plain(Resolution::InitializeEmpty, Some(Lifecycle::Initialized));
    }
    let id = held.map_or_else(fresh_id, |l| l.id.clone());
    let lease = Lease { source: source.to_owned(), id, expires_ms: now_ms + ttl_ms };
    Connected {
        resolution: Resolution::InitializeLocal,
        lease: Some(lease.clone()),
        retry_after_seconds: None,
        next: Some(Lifecycle::Initializing(lease)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(source: &str, expires_ms: i64) -> Lifecycle {
        Lifecycle::Initializing(Lease { source: source.into(), id: "old".into(), expires_ms })
    }

    /// Every row of reference-server §2.3, at time `10_000` with a lease of `5_000`.
    #[test]
    fn the_decision_table() {
        use Resolution::{InitializeEmpty, InitializeLocal, RemoteAuthoritative, RetryLater};
        let granted =
            |id: &str| Some(Lifecycle::Initializing(Lease { source: "me".into(), id: id.into(), expires_ms: 15_000 }));
        let done = Some(Lifecycle::Initialized);
        for (state, pending, resolution, next, retry) in [
            (Lifecycle::Initialized, true, RemoteAuthoritative, None, None),
            (Lifecycle::Initialized, false, RemoteAuthoritative, None, None),
            (Lifecycle::Uninitialized, true, InitializeLocal, granted("new"), None),
            (Lifecycle::Uninitialized, false, InitializeEmpty, done.clone(), None),
            (lease("me", 10_001), true, InitializeLocal, granted("old"), None),
            (lease("me", 10_001), false, InitializeEmpty, done.clone(), None),
            (lease("you", 12_999), true, RetryLater, None, Some(2)),
            (lease("you", 10_001), false, RetryLater, None, Some(1)),
            (lease("me", 10_000), true, InitializeLocal, granted("new"), None),
            (lease("you", 10_000), true, InitializeLocal, granted("new"), None),
            (lease("you", 10_000), false, InitializeEmpty, done, None),
        ] {
            let c = connect(&state, "me", pending, 10_000, 5_000, || "new".into());
            assert_eq!(
                (c.resolution, &c.next, c.retry_after_seconds),
                (resolution, &next, retry),
                "{state:?} {pending}"
            );
            assert_eq!(c.lease.is_some(), matches!(resolution, InitializeLocal | RetryLater));
        }
    }

    /// A lease of 900 s: while chunks arrive the others ask soon, then at growing intervals, never past its end.
    #[test]
    fn who_waits_for_a_seeding_asks_again_soon() {
        let lease = |left_ms: i64| Lease { source: "you".into(), id: "L".into(), expires_ms: 1_000_000 + left_ms };
        for (left_ms, seconds) in [
            (900_000, 2),
            (880_000, 2),
            (840_000, 6),
            (600_000, 30),
            (100_000, 80),
            (60_000, 60),
            (1_999, 1),
            (1, 1),
            // Granted by a server with a longer term.
            (5_000_000, 2),
        ] {
            assert_eq!(lease(left_ms).retry_after_s(1_000_000, 900_000), seconds, "{left_ms} ms are left");
        }
    }

    #[test]
    fn reading_needs_an_initialized_scope() {
        let code = |s: &Lifecycle| s.readable("u", 10, |t| t.to_string()).map_err(|e| e.code);
        assert_eq!(code(&Lifecycle::Initialized), Ok(()));
        assert_eq!(code(&Lifecycle::Uninitialized), Err(Code::ScopeUninitialized));
        assert_eq!(code(&lease("a", 11)), Err(Code::ScopeInitializing));
        assert_eq!(code(&lease("a", 10)), Err(Code::ScopeUninitialized));
        let e = lease("a", 11).readable("u", 10, |t| format!("<{t}>")).unwrap_err();
        assert_eq!(e.message, "sync scope for user u is initializing until <11>");
    }
}
