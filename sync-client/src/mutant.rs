//! Faults on purpose: first the fifteen of the best-known client of this protocol that lose data or stop a file for
//! good, each one line at the place where it would live here. The simulator has to find every one of them, or it
//! proves nothing. Without the feature `mutants`, which no program has, `on` is `false` and all of this is gone.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A fault. The number is the reference client's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name),* }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// Every one, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

mutants! {
    /// 1, loses: what the app wrote between a pull's check and its apply is overwritten.
    StaleCheck,
    /// 2, loses: a rebuild drops intents and outbox.
    RebuildForgets,
    /// 3, loses: a payload is read back through another decoder than the one that it was written for. Here: the hex
    /// of a blob is taken for its bytes.
    WrongDecoder,
    /// 4, loses: triggers and code encode some keys differently. Here: INTEGER keys that come from the server are
    /// stored as text.
    SecondKeyEncoder,
    /// 5, loses: a detach wipes what is not on the server.
    DetachWipes,
    /// 6, loses: attached to a scope that has rows, this file's are discarded in silence. Here: they stay in their
    /// tables and are sent to nobody.
    AttachDiscards,
    /// 7, loses: integers go through a double.
    Doubles,
    /// 8, loses: gaps in the sequence and wrong hashes are not noticed.
    Unverified,
    /// 9, stops: what the server did not commit is never released from the outbox.
    NeverReleased,
    /// 10, stops: a push that had committed is checked against the payload, which may have changed. Here: against
    /// what the app wrote since.
    PayloadProof,
    /// 11, stops: refused because of its lease, a push is never tried without it.
    LeaseKept,
    /// 12, stops: the client wins against a remote delete, and its edit stays an UPDATE.
    UpdateOfNothing,
    /// 13, stops: a freeze in which nothing is frozen does not commit what it cleaned up.
    CleanupLost,
    /// 14, stops: a table or column that this file does not have stops the pull.
    UnknownStops,
    /// 15, stops: UNIQUE values that are swapped are applied in one pass.
    OnePass,
    /// Stops: a reply that is not the server's ends the sync, and the same is sent again for ever.
    TrustsProxies,
    /// Loses: what an own push takes from this file, or changes in it, is not told.
    EffectsUntold,
    /// Breaks references: rows of unsynced tables stay as they are, whatever becomes of the rows that
    /// they refer to.
    LocalsLeft,
    /// Loses: what refers to a row that gets another number stays with the number.
    Renumbered,
    /// Loses: a row that left its table otherwise than by a DELETE is sent as one that was, and the server takes along
    /// what refers to it.
    KeyChangeCascades,
    /// Loses: a table is not compared, though its triggers were away while the app wrote.
    TriggersUncompared,
    /// Stops: a push that fails holds the pull back.
    PushHoldsPull,
    /// Loses: what was known of a history is forgotten where another one takes its place.
    EarlierForgotten,
    /// Loses: what is written to a new file at the path of the one that is open goes nowhere.
    OldFileKept,
    /// Loses: what a double left of a number is sent back, as if the app had written it.
    RoundingsSent,
    /// Stops: what changes nothing is asked for again and again.
    GoesInCircles,
    /// Doubles: rows of a copy of a file get other numbers, as if they were others' rows.
    CopiesMerged,
}

#[cfg(feature = "mutants")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// From now on, clients on this thread have this fault, or none.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

/// Whether this fault is to show.
#[cfg(feature = "mutants")]
pub(crate) fn on(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}

/// Whether this fault is to show: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}
