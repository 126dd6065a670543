//! Compression of replies: what the client takes, and an encoder that is fed piece by piece.

use std::io::Write;

use axum::http::{HeaderMap, HeaderValue, header};
use sync_core::protocol::{ApiError, Code};

/// A reply shorter than this is not worth compressing.
pub(crate) const WORTH_BYTES: usize = 1024;

/// The best encoding that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    Identity,
    Gzip,
    Zstd,
}

impl Accepted {
    /// From `Accept-Encoding`: zstd before gzip, whatever the weights, as long as they are not 0.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let (mut gzip, mut zstd, mut any) = (None, None, None);
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for part in value.to_str().unwrap_or_default().split(',') {
                let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
                let weight = parameters.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
                let takes = Some(weight > 0.0);
                match name.trim().to_ascii_lowercase().as_str() {
                    "gzip" | "x-gzip" => gzip = takes,
                    "zstd" => zstd = takes,
                    "*" => any = takes,
                    _ => {}
                }
            }
        }
        if zstd.or(any) == Some(true) {
            Self::Zstd
        } else if gzip.or(any) == Some(true) {
            Self::Gzip
        } else {
            Self::Identity
        }
    }

    /// The value of `Content-Encoding`.
    pub(crate) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Zstd => Some(HeaderValue::from_static("zstd")),
        }
    }
}

/// Takes plain pieces and gives encoded ones.
pub(crate) enum Encoder {
    Identity(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// # Errors
    /// `internal_error` where the encoder cannot be made.
    pub(crate) fn new(accepted: Accepted) -> Result<Self, ApiError> {
        Ok(match accepted {
            Accepted::Identity => Self::Identity(Vec::new()),
            Accepted::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast())),
            Accepted::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1).map_err(failed)?),
        })
    }

    /// Takes a piece; what is ready so far waits in [`Encoder::ready`].
    ///
    /// # Errors
    /// `internal_error` where the encoder fails.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        match self {
            Self::Identity(out) => out.write_all(piece),
            Self::Gzip(e) => e.write_all(piece),
            Self::Zstd(e) => e.write_all(piece),
        }
        .map_err(failed)
    }

    /// Encoded bytes that can be taken.
    pub(crate) fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Identity(out) => out,
            Self::Gzip(e) => e.get_mut(),
            Self::Zstd(e) => e.get_mut(),
        }
    }

    /// Ends the encoding; the rest waits in [`Encoder::ready`].
    ///
    /// # Errors
    /// `internal_error` where the encoder fails.
    pub(crate) fn finish(&mut self) -> Result<(), ApiError> {
        match self {
            Self::Identity(_) => Ok(()),
            Self::Gzip(e) => e.try_finish().map_err(failed),
            Self::Zstd(e) => e.do_finish().map_err(failed),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a map_err function")]
fn failed(e: std::io::Error) -> ApiError {
    ApiError::new(Code::InternalError, format!("compressing the reply failed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding() {
        for (value, expected) in [
            ("gzip", Accepted::Gzip),
            ("gzip, zstd", Accepted::Zstd),
            ("zstd;q=0, gzip;q=0.1", Accepted::Gzip),
            ("GZIP ; q=1.0", Accepted::Gzip),
            ("*", Accepted::Zstd),
            ("*, zstd;q=0", Accepted::Gzip),
            ("br, deflate", Accepted::Identity),
            ("gzip;q=0", Accepted::Identity),
            ("identity", Accepted::Identity),
            ("", Accepted::Identity),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(Accepted::of(&headers), expected, "{value}");
        }
        assert_eq!(Accepted::of(&HeaderMap::new()), Accepted::Identity);
    }
}
