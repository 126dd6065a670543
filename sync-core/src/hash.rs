//! Bundle, history and request hashes (protocol §5, §6), computed row by row in constant memory.

use sha2::Digest as _;

use crate::canonical::{Escapes, push_hex, push_integer, push_string};
use crate::protocol::Op;

/// Which of the two bundle hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// One canonical line a row, over the exact view.
    Blake3,
    /// One canonical array, over the plain view: the June dialect.
    Sha256,
}

impl Algorithm {
    /// The name in capabilities and in `Oversync-Bundle-Hash`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// A 32-byte digest; on the wire 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// BLAKE3 of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// 64 lowercase hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut out = String::with_capacity(64);
        for b in self.0 {
            push_hex(&mut out, b);
        }
        out
    }

    /// Reads 64 lowercase hex digits.
    #[must_use]
    pub fn from_hex(s: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let raw = s.as_bytes();
        if raw.len() != 64 {
            return None;
        }
        let mut out = [0; 32];
        for (o, pair) in out.iter_mut().zip(raw.chunks(2)) {
            *o = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(out))
    }

    /// Reads 32 stored bytes.
    #[must_use]
    pub fn from_bytes(b: &[u8]) -> Option<Self> {
        b.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex())
    }
}

/// One committed row as the hashes see it. `key` and `payload` are canonical JSON in the form that
/// the algorithm asks for: [`crate::wire::Form::Exact`] or [`crate::wire::Form::Reference`].
#[derive(Debug, Clone, Copy)]
pub struct HashRow<'a> {
    /// Wire schema name.
    pub schema: &'a str,
    /// Wire table name.
    pub table: &'a str,
    /// Canonical key object.
    pub key: &'a str,
    /// What happened.
    pub op: Op,
    /// The bundle's sequence.
    pub row_version: i64,
    /// Canonical payload object; `None` for DELETE.
    pub payload: Option<&'a str>,
}

/// Hashes a bundle's rows in ordinal order.
///
/// ```
/// use sync_core::hash::{Algorithm, BundleHasher, HashRow};
/// use sync_core::protocol::Op;
/// let mut h = BundleHasher::new(Algorithm::Sha256);
/// h.row(HashRow {
///     schema: "business",
///     table: "users",
///     key: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
///     op: Op::Delete,
///     row_version: 2,
///     payload: None,
/// });
/// assert_eq!(h.finish().hex(), "6b13f10b881305808cb1610f87a82022ee3d860c4cbca85be4fd47279f26809f");
/// ```
#[derive(Debug, Clone)]
pub struct BundleHasher {
    state: State,
    rows: i64,
    bytes: u64,
    line: String,
}

#[derive(Debug, Clone)]
enum State {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl BundleHasher {
    /// A hasher before the first row.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Blake3 => State::Blake3(Box::default()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
        };
        Self { state, rows: 0, bytes: 0, line: String::with_capacity(512) }
    }

    /// Takes the next row; its ordinal is the number of rows before it.
    pub fn row(&mut self, row: HashRow<'_>) {
        let (escapes, open, close) = match self.state {
            State::Blake3(_) => (Escapes::Minimal, "", "\n"),
            State::Sha256(_) => (Escapes::Html, if self.rows == 0 { "[" } else { "," }, ""),
        };
        let line = &mut self.line;
        line.clear();
        line.push_str(open);
        line.push_str("{\"key\":");
        line.push_str(row.key);
        line.push_str(",\"op\":\"");
        line.push_str(row.op.name());
        line.push_str("\",\"payload\":");
        line.push_str(row.payload.unwrap_or("null"));
        line.push_str(",\"row_ordinal\":");
        push_integer(line, self.rows);
        line.push_str(",\"row_version\":");
        push_integer(line, row.row_version);
        line.push_str(",\"schema\":");
        push_string(line, row.schema, escapes);
        line.push_str(",\"table\":");
        push_string(line, row.table, escapes);
        line.push('}');
        line.push_str(close);
        self.rows += 1;
        self.bytes += line.len() as u64;
        match &mut self.state {
            State::Blake3(h) => {
                h.update(line.as_bytes());
            }
            State::Sha256(h) => h.update(line.as_bytes()),
        }
    }

    /// Rows taken so far.
    #[must_use]
    pub const fn rows(&self) -> i64 {
        self.rows
    }

    /// Canonical bytes taken so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bundle's hash.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.state {
            State::Blake3(h) => Digest(*h.finalize().as_bytes()),
            State::Sha256(mut h) => {
                h.update(if self.rows == 0 { b"[]".as_slice() } else { b"]" });
                Digest(h.finalize().into())
            }
        }
    }
}

/// The history hash of a bundle from that of the bundle before it ([`Digest::default`] before the
/// first) and its own `blake3` bundle hash.
#[must_use]
pub fn history(previous: Digest, bundle: Digest, bundle_seq: i64) -> Digest {
    let mut h = blake3::Hasher::new();
    h.update(&previous.0);
    h.update(&bundle.0);
    h.update(&bundle_seq.to_be_bytes());
    Digest(*h.finalize().as_bytes())
}

/// Hashes the rows of a push in upload order: what makes a retry recognisable (protocol §6).
#[derive(Debug, Clone, Default)]
pub struct RequestHasher {
    state: Box<blake3::Hasher>,
    rows: i64,
    line: String,
}

impl RequestHasher {
    /// Takes the next row. `key` and `payload` are canonical JSON in the exact view; the payload
    /// has the members that the client sent.
    pub fn row(&mut self, schema: &str, table: &str, key: &str, op: Op, base_row_version: i64, payload: Option<&str>) {
        let line = &mut self.line;
        line.clear();
        line.push_str("{\"base_row_version\":");
        push_integer(line, base_row_version);
        line.push_str(",\"key\":");
        line.push_str(key);
        line.push_str(",\"op\":\"");
        line.push_str(op.name());
        line.push_str("\",\"payload\":");
        line.push_str(payload.unwrap_or("null"));
        line.push_str(",\"row_ordinal\":");
        push_integer(line, self.rows);
        line.push_str(",\"schema\":");
        push_string(line, schema, Escapes::Minimal);
        line.push_str(",\"table\":");
        push_string(line, table, Escapes::Minimal);
        line.push_str("}\n");
        self.rows += 1;
        self.state.update(line.as_bytes());
    }

    /// The request hash.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.state.finalize().as_bytes())
    }
}

/// Hashes the rows of a range in the order of their keys (`GET /sync/digest`): one line of canonical JSON
/// `{"key":…,"payload":…}` and `\n` a row.
#[derive(Debug, Clone, Default)]
pub struct RangeHasher {
    state: Box<blake3::Hasher>,
    line: String,
}

impl RangeHasher {
    /// Takes the next row: canonical JSON in the exact view; the payload has the members of the columns
    /// that both ends have.
    pub fn row(&mut self, key: &str, payload: &str) {
        let line = &mut self.line;
        line.clear();
        line.push_str("{\"key\":");
        line.push_str(key);
        line.push_str(",\"payload\":");
        line.push_str(payload);
        line.push_str("}\n");
        self.state.update(line.as_bytes());
    }

    /// The digest of the rows so far; the next row begins another range.
    pub fn finish(&mut self) -> Digest {
        let digest = Digest(*self.state.finalize().as_bytes());
        self.state.reset();
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(rows: &[HashRow<'_>]) -> String {
        let mut h = BundleHasher::new(Algorithm::Sha256);
        rows.iter().for_each(|r| h.row(*r));
        h.finish().hex()
    }

    fn row<'a>(schema: &'a str, table: &'a str, key: &'a str, op: Op, v: i64, payload: Option<&'a str>) -> HashRow<'a> {
        HashRow { schema, table, key, op, row_version: v, payload }
    }

    /// The worked examples of reference-server §4.3 and the vector of reference-client §0.
    #[test]
    fn reference_vectors() {
        let a = row(
            "public",
            "users",
            r#"{"id":"row-1"}"#,
            Op::Insert,
            3,
            Some(r#"{"email":"alice@example.com","name":"Alice"}"#),
        );
        assert_eq!(sha(&[a]), "677c5687bb91a8c2d34bc9e2e4f8c1d47981957bd876ba090c39b5e263d26b78");
        let b = row("business", "users", r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#, Op::Delete, 2, None);
        assert_eq!(sha(&[b]), "6b13f10b881305808cb1610f87a82022ee3d860c4cbca85be4fd47279f26809f");
        let c = [
            row(
                "business",
                "users",
                r#"{"id":"11111111-1111-4111-8111-111111111111"}"#,
                Op::Insert,
                1,
                Some(
                    r#"{"created_at":"2026-03-24T18:02:00+00:00","email":"ada@example.com","id":"11111111-1111-4111-8111-111111111111","name":"Ada \u003cx\u0026y\u003e é\u2028\u0007","updated_at":null}"#,
                ),
            ),
            row(
                "business",
                "typed_rows",
                r#"{"id":"22222222-2222-4222-8222-222222222222"}"#,
                Op::Update,
                1,
                Some(
                    r#"{"count_value":9007199254740992,"created_at":null,"data":"AAEC/w==","enabled_flag":1,"id":"22222222-2222-4222-8222-222222222222","name":"n","note":null,"rating":1e+21}"#,
                ),
            ),
            row("business", "posts", r#"{"id":"33333333-3333-4333-8333-333333333333"}"#, Op::Delete, 1, None),
        ];
        assert_eq!(sha(&c), "f048a48beb853dc23b2d80553f1a4c8fe6b8896a147d15995505136b2ebaf6b4");
        let d = [
            row(
                "business",
                "users",
                r#"{"id":"k\u003c1\u003e"}"#,
                Op::Insert,
                143,
                Some(
                    r#"{"big":9007199254740992,"flag":true,"id":"k\u003c1\u003e","n":null,"name":"A\u0026B","score":1.5}"#,
                ),
            ),
            row("business", "users", r#"{"id":"k2"}"#, Op::Delete, 143, None),
        ];
        assert_eq!(sha(&d), "95675c79b340b7de649af971c889abcfbd17bf59e5b1ff844a5f8c69977dcb71");
    }

    /// Ours, written down so that they never change (protocol §5).
    #[test]
    fn blake3_vectors() {
        let rows = [
            row(
                "main",
                "notes",
                r#"{"id":"a<b>"}"#,
                Op::Insert,
                7,
                Some(r#"{"body":"é&\n","id":"a<b>","n":9007199254740993,"r":1.0}"#),
            ),
            row("main", "notes", r#"{"id":"gone"}"#, Op::Delete, 7, None),
        ];
        let mut h = BundleHasher::new(Algorithm::Blake3);
        rows.iter().for_each(|r| h.row(*r));
        let text = concat!(
            r#"{"key":{"id":"a<b>"},"op":"INSERT","payload":{"body":"é&\n","id":"a<b>","n":9007199254740993,"r":1.0},"row_ordinal":0,"row_version":7,"schema":"main","table":"notes"}"#,
            "\n",
            r#"{"key":{"id":"gone"},"op":"DELETE","payload":null,"row_ordinal":1,"row_version":7,"schema":"main","table":"notes"}"#,
            "\n"
        );
        assert_eq!((h.rows(), h.bytes()), (2, text.len() as u64));
        let bundle = h.finish();
        assert_eq!(bundle.0, *blake3::hash(text.as_bytes()).as_bytes());
        assert_eq!(bundle.hex(), "5adda76ebec6555083c752b2368dbb08cb85d6b997e5a56accbc2b815d9d5925");
        let first = history(Digest::default(), bundle, 1);
        assert_eq!(first.hex(), "ede38094165ce2aebfcb1e194cf963e418569d71de6890609a6357f855f7bcd3");
        let mut r = RequestHasher::default();
        r.row("main", "notes", r#"{"id":"a"}"#, Op::Update, 3, Some(r#"{"id":"a","n":null}"#));
        r.row("main", "notes", r#"{"id":"b"}"#, Op::Delete, 4, None);
        assert_eq!(r.finish().hex(), "b3c2a3d277867032f3e1d48fb056efc928c550cd2dbf1c3fae4706f55e5fb07a");
    }

    #[test]
    fn range_vectors() {
        let mut h = RangeHasher::default();
        assert_eq!(h.finish().0, *blake3::hash(b"").as_bytes());
        h.row(r#"{"id":"a<b>"}"#, r#"{"body":null,"n":9007199254740993}"#);
        h.row(r#"{"id":"b"}"#, r#"{"body":"x","n":1.0}"#);
        let text = concat!(
            r#"{"key":{"id":"a<b>"},"payload":{"body":null,"n":9007199254740993}}"#,
            "\n",
            r#"{"key":{"id":"b"},"payload":{"body":"x","n":1.0}}"#,
            "\n"
        );
        let digest = h.finish();
        assert_eq!(digest.0, *blake3::hash(text.as_bytes()).as_bytes());
        assert_eq!(digest.hex(), "11bbe17654dddf34cee5bffb7219789924f44fbdde1c73512ceb95ed6e710cea");
        assert_eq!(h.finish().0, *blake3::hash(b"").as_bytes(), "begins anew");
    }

    #[test]
    fn digests_read_back() {
        let d = Digest([0xa5; 32]);
        assert_eq!(Digest::from_hex(&d.hex()), Some(d));
        assert_eq!(Digest::from_hex(&d.hex().to_uppercase()), None);
        assert_eq!(Digest::from_hex("ab"), None);
        assert_eq!(Digest::from_bytes(&d.0), Some(d));
    }
}
