//! All questions, by area.

mod capabilities;
mod commit;
mod connect;
mod digest;
mod encoding;
mod hash;
mod paging;
mod pull;
mod push;
mod refused;
mod replica;
mod retention;
mod rows;
mod snapshot;
mod value;
mod watch;

pub use self::replica::REPLICA;
#[cfg(feature = "replica")]
pub(crate) use self::replica::Story;
pub(crate) use self::snapshot::replace;
use crate::check::Check;

/// Every check, in the order of reports.
#[must_use]
pub fn all() -> Vec<Check> {
    let mut all = Vec::new();
    all.extend(capabilities::checks());
    all.extend(connect::checks());
    all.extend(push::checks());
    all.extend(refused::checks());
    all.extend(commit::checks());
    all.extend(rows::checks());
    all.extend(pull::checks());
    all.extend(snapshot::checks());
    all.extend(digest::checks());
    all.extend(watch::checks());
    all.extend(hash::checks());
    all.extend(value::checks());
    all.extend(encoding::checks());
    all.extend(retention::checks());
    all.extend(crate::property::checks());
    all.extend(replica::checks());
    all
}

/// How much longer than a TTL to wait before it must have run out: TTLs are advertised in whole seconds.
const MARGIN: std::time::Duration = std::time::Duration::from_millis(1500);
