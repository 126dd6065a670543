//! `GET /sync/watch`: server-sent events that say "there is something to pull" (reference-server §8).

use serde::{Deserialize, Serialize};

/// The data of one `bundle` event. Only a hint: the truth comes by pull.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// The newest bundle.
    pub bundle_seq: i64,
    /// Who wrote it; absent from the event that catches a stream up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// The writer's own counter; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_bundle_id: Option<i64>,
}

impl WatchEvent {
    /// The event as it goes on the stream.
    #[must_use]
    pub fn frame(&self) -> String {
        let data = serde_json::to_string(self).expect("invariant: integers and text always serialise");
        format!("event: bundle\ndata: {data}\n\n")
    }
}

/// The comment that keeps an idle stream alive.
pub const HEARTBEAT: &str = ": heartbeat\n\n";

/// Collects lines of a stream into events.
///
/// ```
/// use sync_core::protocol::watch::EventReader;
/// let mut r = EventReader::default();
/// assert!(r.line(": heartbeat").is_none());
/// assert!(r.line("event: bundle").is_none());
/// assert!(r.line("data: {\"bundle_seq\":7}").is_none());
/// assert_eq!(r.line("").unwrap().bundle_seq, 7);
/// ```
#[derive(Debug, Default)]
pub struct EventReader {
    event: String,
    data: String,
}

impl EventReader {
    /// Takes one line without its line feed; an empty line ends an event.
    pub fn line(&mut self, line: &str) -> Option<WatchEvent> {
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let data = std::mem::take(&mut self.data);
            return if event == "bundle" { crate::json::from_slice(data.as_bytes()).ok() } else { None };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}
