//! Decoded request bodies with a limit that counts while inflating (protocol §3).

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, header};
use sync_core::protocol::{ApiError, Code};

/// How a request body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// From `Content-Encoding`.
    ///
    /// # Errors
    /// `unsupported_encoding` for anything else, chains of encodings included.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let name = value.as_bytes().trim_ascii().to_ascii_lowercase();
        match (name.as_slice(), values.next()) {
            (b"" | b"identity", None) => Ok(Self::Identity),
            (b"gzip" | b"x-gzip", None) => Ok(Self::Gzip),
            (b"zstd", None) => Ok(Self::Zstd),
            _ => Err(ApiError::new(Code::UnsupportedEncoding, "a body's encoding is identity, gzip or zstd")),
        }
    }
}

/// Refuses a body that is not encoded and announces more than the limit, before it is read.
///
/// # Errors
/// `payload_too_large`.
pub(crate) fn check_announced(headers: &HeaderMap, encoding: Encoding, limit: u64) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if encoding == Encoding::Identity && length.is_some_and(|n| n > limit) {
        return Err(too_large(limit));
    }
    Ok(())
}

/// `payload_too_large` with the limit.
pub(crate) fn too_large(limit: u64) -> ApiError {
    ApiError::new(Code::PayloadTooLarge, format!("the decoded body is over {limit} bytes"))
        .with_integer("limit_bytes", i64::try_from(limit).unwrap_or(i64::MAX))
}

/// The decoded bytes of a body. A failure is an I/O error with an [`ApiError`] inside, and is kept,
/// so that it is not lost in a parser's own error.
pub(crate) struct Decoded<R: Read> {
    inner: Inner<R>,
    values: Option<Values>,
    left: u64,
    limit: u64,
    malformed: Code,
    failure: Arc<Mutex<Option<ApiError>>>,
}

enum Inner<R: Read> {
    Identity(R),
    Gzip(Box<flate2::read::MultiGzDecoder<Counted<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<Counted<R>>>>),
}

/// Counts what was read from the wire.
struct Counted<R> {
    wire: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.wire.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Watches the length of JSON strings and numbers in an inflated body. A parser holds one whole, so a
/// few kilobytes could ask for all of the limit at once; everything else passes through.
struct Values {
    wire: Arc<AtomicU64>,
    wire_at_start: u64,
    inside: bool,
    escaped: bool,
    length: u64,
}

impl Values {
    /// A token up to this length is nobody's business.
    const FREE: u64 = 16 << 20;
    /// Beyond it, each byte of the wire may stand for so many.
    const RATIO: u64 = 50;
    /// What a decoder may have read ahead before the token began.
    const AHEAD: u64 = 128 << 10;

    fn new(wire: Arc<AtomicU64>) -> Self {
        Self { wire, wire_at_start: 0, inside: false, escaped: false, length: 0 }
    }

    /// False where a token is far longer than what carried it.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        let wire = self.wire.load(Ordering::Relaxed);
        for b in bytes {
            match (self.inside, b) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (true, b'"') => self.inside = false,
                (true, _) => {}
                (false, b) => {
                    self.inside = *b == b'"';
                    if self.inside
                        || matches!(b, b',' | b':' | b'[' | b']' | b'{' | b'}' | b' ' | b'\n' | b'\r' | b'\t')
                    {
                        (self.length, self.wire_at_start) = (0, wire);
                    }
                }
            }
            self.length += 1;
        }
        self.length <= Self::FREE || self.length / Self::RATIO <= wire - self.wire_at_start + Self::AHEAD
    }
}

/// Windows of 8 MiB are what every decoder has to take (RFC 8878); a frame may ask for far more memory.
const ZSTD_WINDOW_LOG: u32 = 23;

impl<R: Read> Decoded<R> {
    /// Reads `wire`; more than `limit` decoded bytes are `payload_too_large`, malformed compression
    /// is `malformed`.
    ///
    /// # Errors
    /// Where the decoder cannot be made.
    pub(crate) fn new(wire: R, encoding: Encoding, limit: u64, malformed: Code) -> Result<Self, ApiError> {
        let bytes = Arc::new(AtomicU64::new(0));
        let values = (encoding != Encoding::Identity).then(|| Values::new(Arc::clone(&bytes)));
        let inner = match encoding {
            Encoding::Identity => Inner::Identity(wire),
            Encoding::Gzip => Inner::Gzip(Box::new(flate2::read::MultiGzDecoder::new(Counted { wire, bytes }))),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(Counted { wire, bytes })
                    .map_err(|_| ApiError::new(Code::InternalError, "the decoder cannot be made"))?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(|_| ApiError::new(Code::InternalError, "the decoder cannot be made"))?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner, values, left: limit, limit, malformed, failure: Arc::default() })
    }

    /// Where the failure of this body is found once it was read.
    pub(crate) fn failure(&self) -> FailureSlot {
        FailureSlot(Arc::clone(&self.failure))
    }

    fn fail(&self, e: ApiError) -> io::Error {
        let mut slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        io::Error::other(slot.get_or_insert(e).clone())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // In pieces, so that no token is over before it was looked at.
        let most = buf.len().min(64 * 1024);
        let buf = &mut buf[..most];
        let read = match &mut self.inner {
            Inner::Identity(r) => r.read(buf),
            Inner::Gzip(r) => r.read(buf),
            Inner::Zstd(r) => r.read(buf),
        };
        match read {
            Ok(n) => match self.left.checked_sub(n as u64) {
                Some(left) => {
                    self.left = left;
                    if self.values.as_mut().is_none_or(|v| v.pass(&buf[..n])) {
                        Ok(n)
                    } else {
                        Err(self.fail(too_large(self.limit)))
                    }
                }
                None => {
                    self.left = 0;
                    Err(self.fail(too_large(self.limit)))
                }
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let known = e.get_ref().and_then(|inner| inner.downcast_ref::<ApiError>()).cloned();
                Err(self.fail(known.unwrap_or_else(|| {
                    ApiError::new(self.malformed, "the body is not what its Content-Encoding says")
                })))
            }
        }
    }
}

/// Holds why a body could not be read.
pub(crate) struct FailureSlot(Arc<Mutex<Option<ApiError>>>);

impl FailureSlot {
    /// The body's own failure where it has one, else what the reader of the body made of it.
    pub(crate) fn or(self, e: ApiError) -> ApiError {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(e)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(data).unwrap();
        e.finish().unwrap()
    }

    /// The code of what must fail.
    fn refused(wire: &[u8], encoding: Encoding, limit: u64) -> Code {
        read(wire, encoding, limit).map(|body| body.len()).unwrap_err().code
    }

    fn read(wire: &[u8], encoding: Encoding, limit: u64) -> Result<Vec<u8>, ApiError> {
        let mut d = Decoded::new(wire, encoding, limit, Code::PushChunkInvalid).unwrap();
        let slot = d.failure();
        let mut out = Vec::new();
        d.read_to_end(&mut out).map_err(|_| slot.or(ApiError::new(Code::InternalError, "?")))?;
        Ok(out)
    }

    #[test]
    fn every_encoding_reads_back_and_counts_decoded_bytes() {
        let data = b"{\"rows\":[]}".repeat(100);
        let wires = [
            (Encoding::Identity, data.clone()),
            (Encoding::Gzip, gzip(&data)),
            (Encoding::Zstd, zstd::encode_all(&data[..], 1).unwrap()),
        ];
        for (encoding, wire) in wires {
            assert_eq!(read(&wire, encoding, data.len() as u64).unwrap(), data);
            let e = read(&wire, encoding, data.len() as u64 - 1).unwrap_err();
            assert_eq!(e.code, Code::PayloadTooLarge, "{encoding:?}");
            assert_eq!(e.members, [("limit_bytes", "1099".to_owned())]);
        }
    }

    #[test]
    fn malformed_compression_is_the_endpoints_own_error() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            assert_eq!(read(b"{\"rows\":[]}", encoding, 1000).unwrap_err().code, Code::PushChunkInvalid);
        }
        let mut cut = gzip(&b"hello ".repeat(100));
        cut.truncate(cut.len() - 3);
        assert_eq!(read(&cut, Encoding::Gzip, 10_000).unwrap_err().code, Code::PushChunkInvalid);
        let mut trailing = gzip(b"{}");
        trailing.extend_from_slice(b"garbage");
        assert_eq!(read(&trailing, Encoding::Gzip, 10_000).unwrap_err().code, Code::PushChunkInvalid);
    }

    #[test]
    fn a_long_string_has_to_be_carried() {
        let text = |filling: &[u8]| [b"{\"a\":\"x\\\"", filling, b"\"}"].concat();
        let flat = text(&vec![b'a'; 20 << 20]);
        // Hex digits of a simple generator: they shrink to about a half.
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"0123456789abcdef"[(state >> 28) as usize]
        })
        .take(20 << 20)
        .collect();
        let noise = text(&noise);
        for (encoding, encode) in [(Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Encoding::Zstd, zstd1)] {
            assert_eq!(refused(&encode(&flat), encoding, 1 << 30), Code::PayloadTooLarge);
            assert_eq!(refused(&encode(&vec![b'1'; 20 << 20]), encoding, 1 << 30), Code::PayloadTooLarge);
            assert!(read(&encode(&noise), encoding, 1 << 30).unwrap() == noise);
            // Blanks between values, and many short values, are not held by anybody.
            let blanks = [b"{", &vec![b' '; 20 << 20][..], b"}"].concat();
            assert_eq!(read(&encode(&blanks), encoding, 1 << 30).unwrap().len(), blanks.len());
            let many = b"\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",".repeat(150_000);
            assert_eq!(read(&encode(&many), encoding, 1 << 30).unwrap().len(), many.len());
        }
        assert!(read(&flat, Encoding::Identity, 1 << 30).unwrap() == flat);
    }

    fn zstd1(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    #[test]
    fn a_frame_cannot_ask_for_a_huge_window() {
        let mut e = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        e.window_log(27).unwrap();
        e.write_all(&vec![7; 20 << 20]).unwrap();
        let wire = e.finish().unwrap();
        assert_eq!(read(&wire, Encoding::Zstd, 1 << 30).unwrap_err().code, Code::PushChunkInvalid);
    }
}
