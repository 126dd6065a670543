//! The text of a trigger's TEMP copy.
//!
//! A full-text index with external content reads the row that it is to forget from the content table, unless the
//! trigger says what it was. After an UPDATE or DELETE that row is another one, or gone, and the words of the old one
//! stay in the index. The copy of such a trigger runs before the write: the index ends as if it were filled afresh,
//! whichever way the app wrote its trigger.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::sql::tokens;
use super::triggers::Trigger;

/// The full-text tables with external content, and the table that each reads; lowercase names.
pub(super) type Contents = BTreeMap<String, String>;

/// Looks at every full-text table.
pub(super) fn contents(conn: &Connection) -> rusqlite::Result<Contents> {
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'";
    let mut s = conn.prepare_cached(sql)?;
    let tables = s.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let mut out = Contents::new();
    for table in tables {
        let (name, sql) = table?;
        if let Some(content) = content_of(&sql) {
            out.insert(name.to_ascii_lowercase(), content.to_ascii_lowercase());
        }
    }
    Ok(out)
}

/// The table that the option `content=` of a full-text table names.
fn content_of(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let using = tokens.iter().position(|t| t.is("USING"))?;
    let module = tokens.get(using + 1)?.name()?.to_ascii_lowercase();
    if !["fts4", "fts5"].contains(&module.as_str()) {
        return None;
    }
    let found = tokens.windows(3).find(|w| w[0].is("content") && w[1].is_sign('='))?;
    found[2].name().map(|n| n.into_owned()).filter(|n| !n.is_empty())
}

/// SQLite stores a trigger as `CREATE TRIGGER name …`, without schema and IF NOT EXISTS.
pub(super) fn temp_copy(trigger: &Trigger, contents: &Contents) -> String {
    let sql = &refusing_only_the_row(&trigger.sql);
    let after = tokens(sql).into_iter().nth(3).filter(|t| t.is("AFTER") && forgets_by_content(trigger, contents));
    let (head, rest) = match after {
        Some(t) => (format!("{}BEFORE", &sql[..t.at]), &sql[t.at + t.text.len()..]),
        None => (sql.clone(), ""),
    };
    let head = head.get("CREATE TRIGGER".len()..).unwrap_or_default();
    format!("CREATE TEMP TRIGGER{head}{rest}")
}

/// `RAISE(ROLLBACK, …)` would end our whole transaction, and `RAISE(FAIL, …)` leave half of a statement: a copy refuses.
fn refusing_only_the_row(sql: &str) -> String {
    let mut out = sql.to_owned();
    let all = tokens(sql);
    for w in all.windows(3).rev() {
        if w[0].is("RAISE") && w[1].is_sign('(') && (w[2].is("ROLLBACK") || w[2].is("FAIL")) {
            out.replace_range(w[2].at..w[2].at + w[2].text.len(), "ABORT");
        }
    }
    out
}

/// Whether a trigger for UPDATE or DELETE keeps an index that reads its table, and does not read that table itself.
fn forgets_by_content(trigger: &Trigger, contents: &Contents) -> bool {
    let on = |name: &str| name.eq_ignore_ascii_case(&trigger.table);
    let tokens = tokens(&trigger.sql);
    let removes = tokens.get(4).is_some_and(|t| t.is("UPDATE") || t.is("DELETE"));
    let body = tokens.iter().skip_while(|t| !t.is("BEGIN"));
    removes
        && trigger.writes.iter().any(|w| contents.get(w).is_some_and(|c| on(c)))
        && !body.filter_map(|t| t.name()).any(|name| on(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_index_reads() {
        for (sql, content) in [
            ("CREATE VIRTUAL TABLE f USING fts5(title, content=entry, content_rowid=id)", Some("entry")),
            ("CREATE VIRTUAL TABLE f USING fts5(title, content = 'my entry')", Some("my entry")),
            ("CREATE VIRTUAL TABLE f USING FTS4(content=\"Entry\", title)", Some("Entry")),
            ("CREATE VIRTUAL TABLE f USING fts5(title, content='')", None),
            ("CREATE VIRTUAL TABLE f USING fts5(title, content)", None),
            ("CREATE VIRTUAL TABLE f USING rtree(id, content, b)", None),
        ] {
            assert_eq!(content_of(sql).as_deref(), content, "{sql}");
        }
    }

    #[test]
    fn a_copy_refuses_no_more_than_its_row() {
        let body =
            "SELECT raise ( rollback, 'RAISE(FAIL'), RAISE(FAIL, x), RAISE(IGNORE), RAISE(ABORT, x), \"ROLLBACK\"; END";
        let expected = body.replacen("rollback", "ABORT", 1).replacen(" RAISE(FAIL,", " RAISE(ABORT,", 1);
        assert_eq!(refusing_only_the_row(body), expected);
    }

    #[test]
    fn which_copies_run_before_the_write() {
        let contents = Contents::from([("f".into(), "entry".into())]);
        for (head, body, writes, before) in [
            ("AFTER DELETE ON entry", "DELETE FROM f WHERE rowid = OLD.id;", "f", true),
            ("after update of title on Entry", "UPDATE f SET title = NEW.title WHERE rowid = NEW.id;", "f", true),
            ("AFTER INSERT ON entry", "INSERT INTO f (rowid) VALUES (NEW.id);", "f", false),
            ("AFTER DELETE ON entry", "DELETE FROM g WHERE rowid = OLD.id;", "g", false),
            ("AFTER DELETE ON entry", "DELETE FROM f WHERE rowid NOT IN (SELECT id FROM entry);", "f", false),
            ("BEFORE DELETE ON entry", "DELETE FROM f WHERE rowid = OLD.id;", "f", false),
        ] {
            let sql = format!("CREATE TRIGGER \"after\" {head} BEGIN {body} END");
            let table = if head.ends_with("Entry") { "Entry" } else { "entry" };
            let trigger = Trigger {
                name: "after".into(),
                table: table.into(),
                sql: sql.clone(),
                writes: [writes.to_owned()].into(),
                fills: std::collections::BTreeSet::new(),
                unknown: None,
            };
            let kept = sql.replacen("CREATE TRIGGER", "CREATE TEMP TRIGGER", 1);
            let expected = if before {
                kept.replacen(&head[..5], "BEFORE", 1).replacen("\"BEFORE\"", "\"after\"", 1)
            } else {
                kept.clone()
            };
            let expected =
                if before && head.starts_with("after") { kept.replacen("\" after", "\" BEFORE", 1) } else { expected };
            assert_eq!(temp_copy(&trigger, &contents), expected);
        }
    }
}
