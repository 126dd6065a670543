//! The body of a reply: decoded, stoppable, and honest about its end.

use std::{
    io::{self, Read},
    sync::Arc,
};

use flate2::read::MultiGzDecoder;

use super::{TransportError, gate::Gate};

/// Undoes `Content-Encoding`.
pub(super) fn decoded(
    encoding: Option<&str>,
    raw: impl Read + Send + 'static,
) -> Result<Box<dyn Read + Send>, TransportError> {
    // Both decoders read on until their input ends, and so notice a cut after their last byte too.
    match encoding.map(str::trim) {
        None | Some("" | "identity") => Ok(Box::new(raw)),
        Some(name) if name.eq_ignore_ascii_case("zstd") => {
            let decoder = zstd::Decoder::new(raw).map_err(|error| TransportError::Broken(error.to_string()))?;
            Ok(Box::new(decoder))
        }
        Some(name) if name.eq_ignore_ascii_case("gzip") => Ok(Box::new(MultiGzDecoder::new(raw))),
        Some(_) => Err(TransportError::Broken("the reply has an encoding that was not asked for".into())),
    }
}

/// A body that stops with its call, and that fails for good once it failed.
pub(super) struct Body {
    inner: Box<dyn Read + Send>,
    gate: Arc<Gate>,
    turn: u64,
    failed: Option<TransportError>,
}

impl Body {
    /// The body of the call of that number.
    pub(super) fn new(inner: Box<dyn Read + Send>, gate: Arc<Gate>, turn: u64) -> Self {
        Self { inner, gate, turn, failed: None }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_none() && self.gate.stopped(self.turn) {
            self.failed = Some(TransportError::Interrupted);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone().into_io());
        }
        self.inner.read(buffer).map_err(|error| {
            let known = TransportError::of(&error);
            self.failed = Some(known.clone());
            known.into_io()
        })
    }
}
