//! Rows on the wire, read and written one at a time.

use std::fmt;
use std::io::Read;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Op;
use super::pull::{BundleHead, PageHead, PullHead};
use crate::canonical::{Escapes, push_integer, push_string};
use crate::json::{JsonError, Members, Scalar, Skip};

/// A row of a push chunk, a bundle or a snapshot, before its table is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WireRow {
    /// Wire schema name; empty where missing.
    pub schema: String,
    /// Wire table name; empty where missing.
    pub table: String,
    /// Key object.
    pub key: Members,
    /// As sent; empty in snapshots.
    pub op: String,
    /// Push: `base_row_version`. Bundle and snapshot: `row_version`.
    pub version: i64,
    /// `None` where absent or `null`.
    pub payload: Option<Members>,
    /// Push: whether a DELETE is refused where it would act on rows that are not in the push ([`super::push::RESTRICT`]).
    pub restrict: bool,
}

impl<'de> Deserialize<'de> for WireRow {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = WireRow;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireRow, A::Error> {
                let mut row = WireRow::default();
                let mut seen = 0u8;
                let mut others: Vec<String> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let bit = match name.as_str() {
                        "schema" => {
                            row.schema = map.next_value::<Option<String>>()?.unwrap_or_default();
                            1
                        }
                        "table" => {
                            row.table = map.next_value::<Option<String>>()?.unwrap_or_default();
                            2
                        }
                        "key" => {
                            row.key = map.next_value()?;
                            4
                        }
                        "op" => {
                            row.op = map.next_value::<Option<String>>()?.unwrap_or_default();
                            8
                        }
                        "base_row_version" | "row_version" => {
                            row.version = map.next_value::<Option<i64>>()?.unwrap_or_default();
                            16
                        }
                        "payload" => {
                            row.payload = map.next_value()?;
                            32
                        }
                        super::push::RESTRICT => {
                            row.restrict = map.next_value::<Option<bool>>()?.unwrap_or_default();
                            64
                        }
                        _ => {
                            map.next_value_seed(Skip { depth: 3 })?;
                            if others.len() >= 64 || others.contains(&name) {
                                return Err(de::Error::custom("duplicate member"));
                            }
                            others.push(name);
                            0
                        }
                    };
                    if bit != 0 && seen & bit != 0 {
                        return Err(de::Error::custom("duplicate member"));
                    }
                    seen |= bit;
                }
                if seen & 4 == 0 {
                    return Err(de::Error::missing_field("key"));
                }
                Ok(row)
            }
        }
        d.deserialize_map(V)
    }
}

/// A committed row as the server writes it; `key` and `payload` are ready JSON.
#[derive(Debug, Clone, Copy)]
pub struct RowText<'a> {
    /// Wire schema name.
    pub schema: &'a str,
    /// Wire table name.
    pub table: &'a str,
    /// Key object.
    pub key: &'a str,
    /// `None` in snapshots.
    pub op: Option<Op>,
    /// Name and value of the version member.
    pub version: (&'static str, i64),
    /// `None` for DELETE.
    pub payload: Option<&'a str>,
}

impl RowText<'_> {
    /// Appends the row.
    pub fn push(&self, out: &mut String) {
        out.push_str("{\"schema\":");
        push_string(out, self.schema, Escapes::Minimal);
        out.push_str(",\"table\":");
        push_string(out, self.table, Escapes::Minimal);
        out.push_str(",\"key\":");
        out.push_str(self.key);
        if let Some(op) = self.op {
            out.push_str(",\"op\":\"");
            out.push_str(op.name());
            out.push('"');
        }
        out.push_str(",\"");
        out.push_str(self.version.0);
        out.push_str("\":");
        push_integer(out, self.version.1);
        if let Some(payload) = self.payload {
            out.push_str(",\"payload\":");
            out.push_str(payload);
        }
        out.push('}');
    }
}

/// Why reading a streamed document stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The document is not what it should be.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The connection or the decompression failed; with it the number of rows handed over is void.
    #[error(transparent)]
    Io(std::io::Error),
    /// The caller's own function failed.
    #[error("{0}")]
    Stopped(E),
}

/// Reads `{"start_row_ordinal": n, "rows": […]}`, handing over each row. Returns `start_row_ordinal`,
/// which may also follow the rows.
///
/// # Errors
/// Malformed input, a failing reader, or an error of `each`.
pub fn read_chunk<E>(reader: impl Read, each: impl FnMut(WireRow) -> Result<(), E>) -> Result<i64, ReadError<E>> {
    let m = read_rows(reader, each)?;
    match m.get("start_row_ordinal") {
        None | Some(Scalar::Null) => Ok(0),
        Some(Scalar::Integer(i)) => Ok(*i),
        Some(_) => Err(wrong_type()),
    }
}

/// Reads a page of committed rows or of a snapshot, handing over each row.
///
/// # Errors
/// As [`read_chunk`].
pub fn read_page<E>(reader: impl Read, each: impl FnMut(WireRow) -> Result<(), E>) -> Result<PageHead, ReadError<E>> {
    PageHead::read(&read_rows(reader, each)?).ok_or_else(wrong_type)
}

/// Takes the parts of a pull page as they are read.
pub trait PullSink {
    /// Why a sink stops the reading.
    type Error;
    /// What was said before the first bundle: in our server's replies the whole window. Does nothing.
    fn begin(&mut self, head: PullHead) {
        let _ = head;
    }
    /// A row of the bundle whose head comes next.
    ///
    /// # Errors
    /// To stop reading.
    fn row(&mut self, row: WireRow) -> Result<(), Self::Error>;
    /// The head of the bundle whose rows came before.
    ///
    /// # Errors
    /// To stop reading.
    fn bundle(&mut self, head: BundleHead) -> Result<(), Self::Error>;
}

/// Reads a pull page, handing over rows and heads in order.
///
/// # Errors
/// As [`read_chunk`].
pub fn read_pull<S: PullSink>(reader: impl Read, sink: &mut S) -> Result<PullHead, ReadError<S::Error>> {
    let mut stopped = None;
    let m = read_object(reader, "bundles", &mut Bundles { sink, stopped: &mut stopped });
    finish(m, stopped).and_then(|m| PullHead::read(&m).ok_or_else(wrong_type))
}

fn read_rows<E>(reader: impl Read, each: impl FnMut(WireRow) -> Result<(), E>) -> Result<Members, ReadError<E>> {
    let mut stopped = None;
    let m = read_object(reader, "rows", &mut Rows { each, stopped: &mut stopped });
    finish(m, stopped)
}

fn finish<E>(read: Result<Members, serde_json::Error>, stopped: Option<E>) -> Result<Members, ReadError<E>> {
    match (read, stopped) {
        (_, Some(e)) => Err(ReadError::Stopped(e)),
        (Ok(m), None) => Ok(m),
        (Err(e), None) if e.is_io() => Err(ReadError::Io(e.into())),
        (Err(e), None) => Err(ReadError::Json(JsonError::new(e))),
    }
}

fn wrong_type<E>() -> ReadError<E> {
    ReadError::Json(JsonError::new(de::Error::custom("invalid type")))
}

fn read_object<S: Elements>(reader: impl Read, array: &'static str, sink: &mut S) -> serde_json::Result<Members> {
    let mut d = serde_json::Deserializer::from_reader(std::io::BufReader::with_capacity(64 * 1024, reader));
    let m = Object { array, sink }.deserialize(&mut d)?;
    d.end()?;
    Ok(m)
}

/// Takes the elements of the one array that is streamed.
trait Elements {
    /// The members that came before the array.
    fn begin(&mut self, members: &Members) {
        let _ = members;
    }
    fn element<'de, D: Deserializer<'de>>(&mut self, d: D) -> Result<(), D::Error>;
}

struct Rows<'a, F, E> {
    each: F,
    stopped: &'a mut Option<E>,
}

impl<F: FnMut(WireRow) -> Result<(), E>, E> Elements for Rows<'_, F, E> {
    fn element<'de, D: Deserializer<'de>>(&mut self, d: D) -> Result<(), D::Error> {
        let row = WireRow::deserialize(d)?;
        (self.each)(row).map_err(|e| stop(self.stopped, e))
    }
}

struct Bundles<'a, S: PullSink> {
    sink: &'a mut S,
    stopped: &'a mut Option<S::Error>,
}

impl<S: PullSink> Elements for Bundles<'_, S> {
    fn begin(&mut self, members: &Members) {
        if let Some(head) = PullHead::read(members) {
            self.sink.begin(head);
        }
    }

    fn element<'de, D: Deserializer<'de>>(&mut self, d: D) -> Result<(), D::Error> {
        let sink = &mut *self.sink;
        let mut rows = Rows { each: |row| sink.row(row), stopped: self.stopped };
        let m = Object { array: "rows", sink: &mut rows }.deserialize(d)?;
        let head = BundleHead::read(&m).ok_or_else(|| de::Error::custom("invalid type"))?;
        self.sink.bundle(head).map_err(|e| stop(self.stopped, e))
    }
}

fn stop<E, D: de::Error>(stopped: &mut Option<E>, e: E) -> D {
    *stopped = Some(e);
    D::custom("stopped")
}

/// An object of which one member is an array that is streamed; the others are collected.
struct Object<'a, S> {
    array: &'static str,
    sink: &'a mut S,
}

impl<'de, S: Elements> DeserializeSeed<'de> for Object<'_, S> {
    type Value = Members;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Members, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, S: Elements> Visitor<'de> for Object<'_, S> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        let mut streamed = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.array {
                if streamed {
                    return Err(de::Error::custom("duplicate member"));
                }
                streamed = true;
                self.sink.begin(&members);
                map.next_value_seed(Array { sink: &mut *self.sink })?;
            } else {
                if members.0.len() >= 64 || members.get(&name).is_some() {
                    return Err(de::Error::custom("duplicate member"));
                }
                let value = map.next_value()?;
                members.0.push((name, value));
            }
        }
        Ok(members)
    }
}

struct Array<'a, S> {
    sink: &'a mut S,
}

impl<'de, S: Elements> DeserializeSeed<'de> for Array<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de, S: Elements> Visitor<'de> for Array<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Element { sink: &mut *self.sink })?.is_some() {}
        Ok(())
    }
}

struct Element<'a, S> {
    sink: &'a mut S,
}

impl<'de, S: Elements> DeserializeSeed<'de> for Element<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        self.sink.element(d)
    }
}

pub(super) fn integer(m: &Members, name: &str) -> Option<i64> {
    match m.get(name) {
        Some(Scalar::Integer(i)) => Some(*i),
        _ => None,
    }
}

pub(super) fn text(m: &Members, name: &str) -> Option<String> {
    match m.get(name) {
        Some(Scalar::Text(s)) => Some(s.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_stream_in_any_member_order() {
        for text in [
            r#"{"start_row_ordinal":3,"rows":[{"table":"t","key":{"id":"a"},"op":"INSERT","base_row_version":2,"payload":{"id":"a"}}]}"#,
            r#"{"rows":[{"payload":{"id":"a"},"base_row_version":2,"op":"INSERT","key":{"id":"a"},"table":"t"}],"start_row_ordinal":3,"x":[1]}"#,
        ] {
            let mut rows = Vec::new();
            let start = read_chunk(text.as_bytes(), |r| {
                rows.push(r);
                Ok::<_, ()>(())
            });
            assert_eq!(start.unwrap(), 3);
            assert_eq!((rows.len(), rows[0].version, rows[0].op.as_str()), (1, 2, "INSERT"));
        }
        for bad in [
            "",
            "[]",
            r#"{"rows":[{"table":"t"}]}"#,
            r#"{"rows":[],"rows":[]}"#,
            r#"{"rows":[{"key":{},"key":{}}]}"#,
            r#"{"rows":5}"#,
            r#"{"rows":[]} x"#,
            r#"{"rows":[],"start_row_ordinal":"1"}"#,
        ] {
            assert!(matches!(read_chunk(bad.as_bytes(), |_| Ok::<_, ()>(())), Err(ReadError::Json(_))), "{bad}");
        }
        let stopped = read_chunk(br#"{"rows":[{"key":{}}]}"#.as_slice(), |_| Err("full"));
        assert!(matches!(stopped, Err(ReadError::Stopped("full"))));
    }

    #[derive(Default)]
    struct Log(Vec<String>);

    impl PullSink for Log {
        type Error = ();
        fn begin(&mut self, head: PullHead) {
            self.0.push(format!("{} rows up to {}", head.row_count.unwrap_or(0), head.stable_bundle_seq));
        }
        fn row(&mut self, row: WireRow) -> Result<(), ()> {
            self.0.push(format!("row {} {}", row.table, row.version));
            Ok(())
        }
        fn bundle(&mut self, head: BundleHead) -> Result<(), ()> {
            self.0.push(format!("bundle {}", head.bundle_seq));
            Ok(())
        }
    }

    #[test]
    fn pull_pages_stream() {
        let mut row = String::new();
        RowText {
            schema: "main",
            table: "t",
            key: r#"{"id":"a"}"#,
            op: Some(Op::Delete),
            version: ("row_version", 5),
            payload: None,
        }
        .push(&mut row);
        let text = format!(
            r#"{{"stable_bundle_seq":6,"row_count":4,"bundles":[{{"bundle_seq":5,"source_id":"s","source_bundle_id":1,"rows":[{row}]}},{{"bundle_seq":6,"source_id":"s","source_bundle_id":2,"rows":[],"rows_omitted":true}}],"has_more":true}}"#
        );
        let mut log = Log::default();
        let head = read_pull(text.as_bytes(), &mut log).unwrap();
        assert_eq!(head, PullHead { stable_bundle_seq: 6, row_count: Some(4), has_more: true });
        assert_eq!(log.0, ["4 rows up to 6", "row t 5", "bundle 5", "bundle 6"]);
    }
}
