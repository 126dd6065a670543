//! One uploaded row: what it must be before it is staged (reference-server §3.4; protocol §3, §4, §7).

use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::protocol::rows::WireRow;
use sync_core::wire::{WireError, decode_key, decode_payload};

use crate::scope::Scope;
use crate::scope::commit::key_text;
use crate::scope::staging::{Extra, Staged};

/// Why a row is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) kind: &'static str,
    pub(crate) columns: Vec<String>,
    pub(crate) message: String,
}

impl Refused {
    fn new(kind: &'static str, message: String) -> Self {
        Self { kind, columns: vec![], message }
    }
}

impl From<WireError> for Refused {
    fn from(e: WireError) -> Self {
        use WireError as E;
        let (kind, column) = match &e {
            E::KeyMissing(_, c) | E::KeyNotString(_, c) | E::KeyNotUuid(_, c) | E::KeyNotInteger(_, c) => ("key", c),
            E::KeyMismatch(_, c) => ("key_mismatch", c),
            E::Base64(_, c) | E::NotBase64String(_, c) => ("base64", c),
            E::Nested(_, c) | E::TaggedReal(_, c) => ("value", c),
            E::Hidden(_, c) => ("hidden_column", c),
        };
        Self { kind, columns: vec![column.clone()], message: e.to_string() }
    }
}

/// The schema and table that a row names, as they are compared.
pub(crate) fn target(row: &WireRow, wire_schema: &str) -> (String, String) {
    let schema = row.schema.trim().to_ascii_lowercase();
    let schema = if schema.is_empty() { wire_schema.to_owned() } else { schema };
    (schema, row.table.trim().to_ascii_lowercase())
}

/// Reads a row against its table. Where there is no scope yet, only what its schema would say counts.
pub(crate) fn read(
    row: &WireRow,
    scope: &Scope,
    wire_schema: &str,
    ordinal: i64,
    max_bytes: i64,
) -> Result<Staged, Refused> {
    let (schema, table) = target(row, wire_schema);
    let Some(at) = scope.loaded.schema.position(&table).filter(|_| schema == wire_schema) else {
        return Err(Refused::new("unknown_table", format!("table {schema}.{table} is not registered")));
    };
    let t = &scope.loaded.tables[at].table;
    let Some(op) = Op::parse(&row.op) else {
        return Err(Refused::new("op", format!("invalid op \"{}\"", row.op)));
    };
    let key = decode_key(t, &row.key)?;
    let packed = Key::pack(&key).map_err(|e| Refused::new("key", e.to_string()))?;
    let name = || format!("{schema}.{table}");
    let mut extra = None;
    let data = match (op, &row.payload) {
        (Op::Delete, None) => {
            extra = row.restrict.then(|| Extra { restrict: true, ..Extra::default() });
            None
        }
        (Op::Delete, Some(_)) => {
            return Err(Refused::new("payload", format!("DELETE for {} must not include payload", name())));
        }
        (_, None) => return Err(Refused::new("payload", format!("{} for {} requires payload", op.name(), name()))),
        (_, Some(members)) => {
            let payload = decode_payload(t, &key, members)?;
            let unsent: Vec<usize> =
                t.key.iter().copied().filter(|i| members.get(&t.columns[*i].name).is_none()).collect();
            if !payload.unknown.is_empty() || !unsent.is_empty() {
                extra = Some(Extra { unknown: payload.unknown, unsent, restrict: false });
            }
            Some(payload.values)
        }
    };
    if max_bytes > 0
        && let Some(data) = &data
    {
        let bytes = sync_core::record::encode_partial(data).len() as i64;
        if bytes > max_bytes {
            let text = format!("payload for {} {} exceeds max_bytes_per_row {max_bytes}", name(), key_text(&key));
            return Err(Refused::new("too_large", text));
        }
    }
    Ok(Staged { ordinal, tab: scope.id(at), op, base: row.version, key: packed, data, extra })
}
