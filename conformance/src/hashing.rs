//! The hashes of protocol §5, over replies as they came.

use sync_core::canonical::Escapes;
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow, RequestHasher};
use sync_core::protocol::Op;

use crate::calls::Row;
use crate::json::Json;
use crate::rows::Change;

/// The bundle hash of rows in ordinal order.
pub(crate) fn bundle(rows: &[Row], exact: bool) -> Digest {
    let (algorithm, escapes) =
        if exact { (Algorithm::Blake3, Escapes::Minimal) } else { (Algorithm::Sha256, Escapes::Html) };
    let mut hasher = BundleHasher::new(algorithm);
    for row in rows {
        let key = canonical(&row.key, escapes);
        let payload = row.payload.as_ref().map(|p| canonical(p, escapes));
        hasher.row(HashRow {
            schema: &row.schema,
            table: &row.table,
            key: &key,
            op: op(&row.op),
            row_version: row.version,
            payload: payload.as_deref(),
        });
    }
    hasher.finish()
}

/// The request hash of rows in upload order.
pub(crate) fn request(rows: &[Change]) -> String {
    let mut hasher = RequestHasher::default();
    for row in rows {
        let payload = row.payload.as_ref().map(|p| canonical(p, Escapes::Minimal));
        let key = canonical(&row.key, Escapes::Minimal);
        hasher.row(&row.schema, &row.table, &key, op(row.op), row.base, payload.as_deref());
    }
    hasher.finish().hex()
}

/// Canonical JSON in the exact view.
pub(crate) fn exact(json: &Json) -> String {
    canonical(json, Escapes::Minimal)
}

fn op(name: &str) -> Op {
    match name {
        "INSERT" => Op::Insert,
        "DELETE" => Op::Delete,
        _ => Op::Update,
    }
}

fn canonical(json: &Json, escapes: Escapes) -> String {
    let mut out = String::new();
    json.push_canonical(&mut out, escapes);
    out
}
