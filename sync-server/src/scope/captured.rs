//! The captured way of a commit: whatever a push does, by what the triggers saw, and everything that
//! speaks against it.

use std::cell::OnceCell;

use rusqlite::{Connection, params};
use sync_core::canonical::{Escapes, push_string};
use sync_core::engine::conflict::{Conflict, check};
use sync_core::engine::effects::effect;
use sync_core::key::Key;
use sync_core::protocol::{ApiError, Code, Op};
use sync_core::sqlite::quote;
use sync_core::value::Value;
use sync_core::wire::{Form, push_key, push_payload};

use super::apply::{Apply, Blocked, fetch};
use super::commit::{Job, Log, Request, begin, incomplete, key_text, row_state};
use super::fail::{Fail, Outcome};
use super::pages::form;
use super::reject::{Kind, MAX_BYTES, Rejections, kind};
use super::schema::TableInfo;
use super::staging::{self, Staged};
use super::store::Bundle;
use super::{Scope, Writer, capture};
use crate::service::FaultPoint;

/// Conflicts that are listed, at most.
const MAX_CONFLICTS: usize = 1000;

pub(super) fn commit(w: &Writer, job: &Job<'_>) -> Outcome<Bundle> {
    let conn = &w.conn;
    let state = begin(conn, job)?;
    refuse_duplicates(job)?;
    let mut rejections = Rejections::default();
    let mut conflicts = Conflicts::default();
    let mut blocked = Blocked::default();
    let mut request = Request::new(job);
    let mut apply = Apply {
        scope: job.scope,
        conn,
        staged: job.staged,
        ordinal: &w.ordinal,
        rejections: &mut rejections,
        deleted: OnceCell::new(),
        longest: OnceCell::new(),
    };
    let mut statement = job.staged.prepare_cached(&format!("{} ORDER BY n", staging::SELECT))?;
    let mut rows = statement.query([])?;
    let mut expected = 0;
    // A delete that may act on other rows waits for those that a UNIQUE value blocks: its cascade could
    // take a row away before that row's own change. One that may not waits for those that turn away from it.
    let mut later = Vec::new();
    while let Some(r) = rows.next()? {
        let row = staging::read(r)?;
        if row.ordinal != expected {
            let text = format!("staged rows are not contiguous at row_ordinal {expected}");
            return Err(ApiError::new(Code::PushCommitInvalid, text).into());
        }
        expected += 1;
        let key = row.key.unpack().map_err(|_| Fail::Damaged("a staged key"))?;
        request.row(job.schema, job.scope.table(row.tab)?, &row, &key);
        match check(row.op, row_state(conn, row.tab, &row.key)?, row.base) {
            Err(c) => conflicts.add(row.ordinal, c),
            Ok(()) if !conflicts.is_empty() => {}
            Ok(())
                if row.op == Op::Delete
                    && (row.is_restricted() || !(blocked.is_empty() && later.is_empty()))
                    && job.scope.loaded.schema.references_to(job.scope.position(row.tab)?).next().is_some() =>
            {
                later.push(row.ordinal);
            }
            Ok(()) => apply.row(&row, &key, &mut blocked)?,
        }
    }
    drop(rows);
    if expected != job.push.made.planned {
        return Err(incomplete(expected, job.push.made.planned).into());
    }
    request.check()?;
    if !conflicts.is_empty() {
        // What was applied so far must not show in the rows that the answer carries.
        conn.execute_batch("ROLLBACK; BEGIN")?;
        return Err(conflicts.into_error(conn, job)?.into());
    }
    if !later.is_empty() {
        apply.unblock(&mut blocked)?;
        for ordinal in later {
            let (row, key) = fetch(job.staged, ordinal)?;
            apply.row(&row, &key, &mut blocked)?;
        }
    }
    apply.settle(blocked)?;
    apply.hold_on()?;
    orphans(conn, job.scope, &mut rejections)?;
    if !rejections.is_empty() {
        return Err(rejected(rejections, job)?);
    }
    let mut log = Log::new(conn, job, &state)?;
    log_effects(conn, job, &mut log, &mut rejections)?;
    if rejections.is_empty() && log.blake3.rows() == 0 {
        for ordinal in 0..expected {
            let text = "the push comes to nothing: a rule of the server undoes it";
            rejections.add(ordinal, Kind::NoEffect, vec![], text.into());
            if rejections.truncated {
                break;
            }
        }
    }
    if !rejections.is_empty() {
        return Err(rejected(rejections, job)?);
    }
    let bundle = log.finish(job, &state)?;
    (job.fault)(FaultPoint::BeforeCommit);
    match conn.execute_batch("COMMIT") {
        Ok(()) => Ok(bundle),
        Err(e) if kind(&e) == Some(Kind::ForeignKey) => {
            // Found by SQLite alone: no row can be singled out, so the push is named as a whole.
            for ordinal in 0..expected {
                rejections.add(ordinal, Kind::ForeignKey, vec![], "the push leaves a foreign key unsatisfied".into());
                if rejections.truncated {
                    break;
                }
            }
            Err(rejected(rejections, job)?)
        }
        Err(e) => Err(e.into()),
    }
}

fn refuse_duplicates(job: &Job<'_>) -> Outcome<()> {
    let mut s = job.staged.prepare_cached("SELECT tab, key FROM row GROUP BY tab, key HAVING count(*) > 1 LIMIT 1")?;
    let mut rows = s.query([])?;
    let Some(r) = rows.next()? else { return Ok(()) };
    let t = job.scope.table(r.get(0)?)?;
    let key = Key::from_stored(r.get(1)?).unpack().map_err(|_| Fail::Damaged("a staged key"))?;
    let text =
        format!("duplicate target row in staged push session: {}.{} {}", job.schema, t.table.name, key_text(&key));
    Err(ApiError::new(Code::PushCommitInvalid, text).into())
}

/// Turns what was captured into the rows of the bundle, in the order in which keys were first touched.
fn log_effects(conn: &Connection, job: &Job<'_>, log: &mut Log<'_>, rejections: &mut Rejections) -> Outcome<()> {
    let tables = &job.scope.loaded.tables;
    {
        let mut put = conn.prepare("INSERT OR IGNORE INTO temp._sync_effect (tab, key, n) VALUES (?, ?, ?)")?;
        let width = tables.iter().map(|t| t.table.columns.len()).max().unwrap_or(0);
        let columns: String = (0..width).map(|i| format!(", c{i}")).collect();
        let mut s = conn.prepare(&format!("SELECT n, tab, ordinal{columns} FROM temp._sync_captured ORDER BY n"))?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let tab: i64 = r.get(1)?;
            let t = job.scope.table(tab)?;
            let key: Result<Vec<Value>, _> =
                t.table.key.iter().map(|i| sync_core::sqlite::value(r.get_ref_unwrap(3 + i), *i)).collect();
            let key = key.ok().filter(|k| sync_core::wire::key_can_travel(&t.table, k));
            let Some(packed) = key.and_then(|k| Key::pack(&k).ok()) else {
                let text = format!("a rule of the server wrote a row of {} whose key cannot travel", t.table.name);
                rejections.add(r.get(2)?, Kind::Rule, vec![], text);
                continue;
            };
            put.execute(params![tab, packed.as_bytes(), r.get::<_, i64>(0)?])?;
        }
    }
    let mut upsert = conn.prepare_cached(
        "INSERT INTO main._sync_row VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (tab, key) DO UPDATE SET version = ?3, deleted = ?4",
    )?;
    let mut s = conn.prepare(
        "SELECT e.tab, e.key, c.ordinal FROM temp._sync_effect e JOIN temp._sync_captured c USING (n) ORDER BY e.n",
    )?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let tab: i64 = r.get(0)?;
        let t = job.scope.table(tab)?;
        let packed = Key::from_stored(r.get(1)?);
        let key = packed.unpack().map_err(|_| Fail::Damaged("a captured key"))?;
        let lived = row_state(conn, tab, &packed)?.is_some_and(|s| !s.deleted);
        let Ok(row) = t.sql.read(conn, &key)?.transpose() else {
            let text = format!("a rule of the server wrote text into {} that is not UTF-8", t.table.name);
            rejections.add(r.get(2)?, Kind::Rule, vec![], text);
            continue;
        };
        let Some(op) = effect(lived, row.is_some()) else { continue };
        log.row(t, tab, op, &key, row.as_deref())?;
        upsert.execute(params![tab, packed.as_bytes(), log.seq, row.is_none()])?;
    }
    Ok(())
}

/// Finds rows that refer to nothing, by the keys that were touched: SQLite's own counter cannot say
/// which, and an orphan that was there before hides a new one.
fn orphans(conn: &Connection, scope: &Scope, rejections: &mut Rejections) -> Outcome<()> {
    let tables = &scope.loaded.tables;
    for (at, t) in tables.iter().enumerate() {
        for f in &t.table.foreign_keys {
            let Some(parent_at) = scope.loaded.schema.position(&f.parent) else { continue };
            let parent = &tables[parent_at].table;
            let pairs: Vec<(usize, usize)> =
                f.columns.iter().zip(&f.parent_columns).filter_map(|(c, p)| Some((*c, parent.column(p)?))).collect();
            let name = |t: &TableInfo, i: usize| quote(&t.table.columns[i].sql_name);
            let parent_name = quote(&parent.sql_name);
            let child_name = quote(&t.table.sql_name);
            let all =
                |each: &dyn Fn(&(usize, usize)) -> String| pairs.iter().map(each).collect::<Vec<_>>().join(" AND ");
            let p = &tables[parent_at];
            let columns: Vec<String> = f.columns.iter().map(|c| t.table.columns[*c].name.clone()).collect();
            // Touched children whose parent is missing.
            let keys: Vec<String> = t.table.key.iter().map(|i| format!("t.{} = c.c{i}", name(t, *i))).collect();
            let sql = format!(
                "SELECT DISTINCT c.ordinal FROM temp._sync_captured c JOIN main.{child_name} t ON {} \
                 WHERE c.tab = ? AND c.op = {} AND {} AND NOT EXISTS (SELECT 1 FROM main.{parent_name} p WHERE {})",
                keys.join(" AND "),
                capture::CAME,
                all(&|(c, _)| format!("t.{} IS NOT NULL", name(t, *c))),
                all(&|(c, q)| format!("p.{} = t.{}", name(p, *q), name(t, *c))),
            );
            let found = ordinals(conn, &sql, scope.id(at))?;
            for ordinal in found {
                let text = format!("{} refers to a row of {} that does not exist", t.table.name, parent.name);
                rejections.add(ordinal, Kind::ForeignKey, columns.clone(), text);
            }
            // Rows that a removed parent leaves behind.
            let sql = format!(
                "SELECT DISTINCT c.ordinal FROM temp._sync_captured c WHERE c.tab = ? AND c.op = {} \
                 AND EXISTS (SELECT 1 FROM main.{child_name} t WHERE {}) \
                 AND NOT EXISTS (SELECT 1 FROM main.{parent_name} p WHERE {})",
                capture::WENT,
                all(&|(c, q)| format!("t.{} = c.c{q}", name(t, *c))),
                all(&|(_, q)| format!("p.{} = c.c{q}", name(p, *q))),
            );
            for ordinal in ordinals(conn, &sql, scope.id(parent_at))? {
                let text = format!("rows of {} refer to this row of {}", t.table.name, parent.name);
                rejections.add(ordinal, Kind::ForeignKey, vec![], text);
            }
        }
    }
    Ok(())
}

fn ordinals(conn: &Connection, sql: &str, tab: i64) -> Outcome<Vec<i64>> {
    let mut s = conn.prepare_cached(sql)?;
    let rows = s.query_map([tab], |r| r.get(0))?;
    Ok(rows.take(20_000).collect::<Result<_, _>>()?)
}

fn rejected(rejections: Rejections, job: &Job<'_>) -> Outcome<Fail> {
    let e = rejections.into_error(Code::PushRejected, job.schema, |ordinal| {
        let (row, key) = fetch(job.staged, ordinal)?;
        let t = job.scope.table(row.tab)?;
        let mut text = String::new();
        push_key(&mut text, &t.table, &key, Form::Exact);
        Ok::<_, Fail>((t.table.name.clone(), text))
    })?;
    Ok(e.into())
}

/// Conflicts of a push, as many as are listed.
#[derive(Default)]
struct Conflicts {
    list: Vec<(i64, Conflict)>,
    truncated: bool,
}

impl Conflicts {
    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn add(&mut self, ordinal: i64, c: Conflict) {
        if self.list.len() < MAX_CONFLICTS {
            self.list.push((ordinal, c));
        } else {
            self.truncated = true;
        }
    }

    fn into_error(mut self, conn: &Connection, job: &Job<'_>) -> Outcome<ApiError> {
        let mut message = String::new();
        let mut first = String::new();
        let mut all = String::from("[");
        for (n, (ordinal, c)) in self.list.iter().enumerate() {
            let (row, key) = fetch(job.staged, *ordinal)?;
            let t = job.scope.table(row.tab)?;
            let json = conflict_json(conn, job, t, &row, &key, c)?;
            if n == 0 {
                message = c.message(row.op, job.schema, &t.table.name, &key_text(&key));
                first.clone_from(&json);
            } else if all.len() + json.len() > MAX_BYTES {
                self.truncated = true;
                break;
            } else {
                all.push(',');
            }
            all.push_str(&json);
        }
        all.push(']');
        let e = ApiError::new(Code::PushConflict, message).with_json("conflict", first).with_json("conflicts", all);
        Ok(if self.truncated { e.with_json("conflicts_truncated", "true".into()) } else { e })
    }
}

fn conflict_json(
    conn: &Connection,
    job: &Job<'_>,
    t: &TableInfo,
    row: &Staged,
    key: &[Value],
    c: &Conflict,
) -> Outcome<String> {
    use std::fmt::Write as _;
    let mut out = String::from("{\"schema\":");
    push_string(&mut out, job.schema, Escapes::Minimal);
    out.push_str(",\"table\":");
    push_string(&mut out, &t.table.name, Escapes::Minimal);
    out.push_str(",\"key\":");
    push_key(&mut out, &t.table, key, Form::Exact);
    write!(
        out,
        ",\"op\":\"{}\",\"base_row_version\":{},\"server_row_version\":{},\"server_row_deleted\":{},\"server_row\":",
        row.op.name(),
        row.base,
        c.server_version,
        c.server_deleted
    )
    .expect("invariant: writing to a String does not fail");
    match t.sql.read(conn, key)?.transpose()? {
        Some(values) if c.server_version > 0 && !c.server_deleted => {
            push_payload(&mut out, &t.table, &t.order, &values, form(job.algorithm));
        }
        _ => out.push_str("null"),
    }
    out.push('}');
    Ok(out)
}
