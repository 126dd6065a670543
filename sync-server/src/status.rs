//! The body of `GET /status` and `GET /health` (reference-server §7.2).

use serde::Serialize;

use crate::app::App;
use crate::error::Failure;
use crate::service::Status;

/// What the service says, and what only the router knows.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReply {
    #[serde(flatten)]
    service: Status,
    /// Additive: requests that panicked since the program started. Anything but 0 is a fault of the program.
    panics: u64,
}

impl StatusReply {
    /// Asks the service.
    ///
    /// # Errors
    /// Where its storage cannot be read.
    pub(crate) async fn read(app: &App) -> Result<Self, Failure> {
        let service = app.call(crate::service::Service::status).await?;
        Ok(Self { service, panics: app.panics() })
    }

    /// Whether `GET /health` answers 200.
    pub(crate) fn healthy(&self) -> bool {
        self.service.healthy()
    }
}
