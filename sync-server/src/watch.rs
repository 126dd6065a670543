//! Wake-ups: the newest bundle of each scope, for whoever watches it. A slow reader sees only the newest.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sync_core::protocol::watch::WatchEvent;
use tokio::sync::watch::{Receiver, Sender};

use crate::scope::lock;

/// The watched scopes, by name.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scopes: BTreeMap<String, Sender<WatchEvent>>,
    closed: bool,
}

impl Hub {
    /// Watches a scope from `latest` on. `None` after [`Hub::close`].
    pub(crate) fn watch(&self, scope: &str, latest: i64) -> Option<Receiver<WatchEvent>> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        state.scopes.retain(|_, s| s.receiver_count() > 0);
        let first = WatchEvent { bundle_seq: latest, source_id: None, source_bundle_id: None };
        let sender = state.scopes.entry(scope.to_owned()).or_insert_with(|| Sender::new(first));
        Some(sender.subscribe())
    }

    /// Tells watchers of a newer bundle.
    pub(crate) fn publish(&self, scope: &str, event: WatchEvent) {
        if let Some(sender) = lock(&self.state).scopes.get(scope) {
            sender.send_if_modified(|newest| {
                let newer = event.bundle_seq > newest.bundle_seq;
                if newer {
                    *newest = event;
                }
                newer
            });
        }
    }

    /// Ends every stream, and those to come.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.scopes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bundle_seq: i64) -> WatchEvent {
        WatchEvent { bundle_seq, source_id: None, source_bundle_id: None }
    }

    #[test]
    fn the_newest_wins_and_closing_ends() {
        let hub = Hub::default();
        let mut a = hub.watch("a", 3).unwrap();
        let b = hub.watch("b", 0).unwrap();
        hub.publish("a", event(5));
        hub.publish("a", event(4));
        hub.publish("nobody", event(9));
        assert_eq!(a.borrow_and_update().bundle_seq, 5);
        assert!(!b.has_changed().unwrap());
        hub.close();
        assert!(a.has_changed().is_err(), "closed");
        assert!(hub.watch("a", 5).is_none());
    }
}
