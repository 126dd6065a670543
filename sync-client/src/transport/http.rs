//! Under construction.

use super::{Request, Response, Transport, TransportError};

/// HTTP by ureq.
#[derive(Debug)]
pub struct Http {}

impl Http {
    /// A transport to a base URL, which may carry a path.
    ///
    /// # Errors
    /// When the URL is not http or https.
    pub fn new(base_url: &str) -> Result<Self, TransportError> {
        let _ = base_url;
        Ok(Self {})
    }
}

impl Transport for Http {
    fn send(&self, _: &Request<'_>) -> Result<Response, TransportError> {
        Err(TransportError::Offline("not built yet".into()))
    }
}
