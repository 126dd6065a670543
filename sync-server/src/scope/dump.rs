//! `sqlite3 app.db .schema > schema.sql`: what SQLite's shell prints of an app's file has tables of SQLite's own and,
//! where the file is synced already, of ours. Both are passed over.

/// The statements of a script without those that make, fill or empty a table of SQLite's or of ours.
pub(crate) fn without_internal(sql: &str) -> String {
    let mut kept = String::with_capacity(sql.len());
    let mut rest = sql;
    while !rest.is_empty() {
        let (end, words) = statement(rest);
        let (this, after) = rest.split_at(end);
        if !is_internal(&words) {
            kept.push_str(this);
        }
        rest = after;
    }
    kept
}

/// Whether the object that a statement makes, or the table that it is about, is SQLite's or ours.
fn is_internal(words: &[Word<'_>]) -> bool {
    let at = |n: usize, what: &str| words.get(n).is_some_and(|w| w.is(what));
    let internal = |n: usize| words.get(n).is_some_and(|w| w.names_internal());
    if at(0, "INSERT") || at(0, "DELETE") {
        // INSERT INTO t, INSERT OR REPLACE INTO t, DELETE FROM t
        return words.iter().take(5).position(|w| w.is("INTO") || w.is("FROM")).is_some_and(|n| internal(n + 1));
    }
    if !at(0, "CREATE") {
        return false;
    }
    let kinds = ["TABLE", "INDEX", "TRIGGER", "VIEW"];
    let Some(kind) = words.iter().take(4).position(|w| kinds.iter().any(|k| w.is(k))) else { return false };
    let name = if at(kind + 1, "IF") { kind + 4 } else { kind + 1 };
    // An index and a trigger belong to the table after ON.
    let of = words.iter().skip(name).position(|w| w.is("ON")).map(|n| name + n + 1);
    internal(name) || (at(kind, "INDEX") || at(kind, "TRIGGER")) && of.is_some_and(internal)
}

/// A word of a statement, or a mark by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    Bare(&'a str),
    Quoted(&'a str),
    Mark(char),
}

impl Word<'_> {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Bare(w) if w.eq_ignore_ascii_case(keyword))
    }

    fn names_internal(&self) -> bool {
        let (Self::Bare(name) | Self::Quoted(name)) = self else { return false };
        let name = name.to_ascii_lowercase();
        name.starts_with("sqlite_") || name.starts_with("_sync_")
    }
}

/// Where the first statement ends, its semicolon included, and its words. As SQLite's shell sees it: a trigger ends
/// with an END that follows a semicolon.
fn statement(sql: &str) -> (usize, Vec<Word<'_>>) {
    let bytes = sql.as_bytes();
    let mut words: Vec<Word<'_>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let from = at;
        match bytes[at] {
            b';' => {
                at += 1;
                let trigger =
                    words.first().is_some_and(|w| w.is("CREATE")) && words.iter().take(3).any(|w| w.is("TRIGGER"));
                let ended = matches!(words.as_slice(), [.., Word::Mark(';'), end] if end.is("END"));
                if !trigger || ended {
                    return (at, words);
                }
                words.push(Word::Mark(';'));
            }
            b'-' if bytes[at..].starts_with(b"--") => at = end_of(sql, at, "\n"),
            b'/' if bytes[at..].starts_with(b"/*") => at = end_of(sql, at + 2, "*/"),
            open @ (b'\'' | b'"' | b'`' | b'[') => {
                let close = if open == b'[' { b']' } else { open };
                at += 1;
                while at < bytes.len() && bytes[at] != close {
                    at += 1;
                }
                words.push(Word::Quoted(&sql[from + 1..at]));
                at = (at + 1).min(bytes.len());
            }
            b if b.is_ascii_whitespace() => at += 1,
            b if is_word(b) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                words.push(Word::Bare(&sql[from..at]));
            }
            b => {
                at += 1;
                words.push(Word::Mark(b.into()));
            }
        }
    }
    (bytes.len(), words)
}

const fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || !b.is_ascii()
}

fn end_of(sql: &str, from: usize, end: &str) -> usize {
    sql.get(from..).and_then(|rest| rest.find(end)).map_or(sql.len(), |n| from + n + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_sqlites_or_ours_goes() {
        let kept = [
            "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT DEFAULT 'a;b' /* ; */);",
            "CREATE INDEX a_x ON a(x) -- of _sync_ nothing;\n;",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = CASE WHEN x THEN 1 ELSE 2 END; DELETE FROM a; END;",
            "CREATE TABLE \"sync_log\"(id TEXT PRIMARY KEY NOT NULL, \"a \"\"; b\" TEXT);",
            "CREATE VIRTUAL TABLE f USING fts5(x);",
            "CREATE TABLE IF NOT EXISTS 'f_data'(id INTEGER PRIMARY KEY, block BLOB);",
            "CREATE VIEW v AS SELECT name FROM sqlite_schema\n/* v(name) */;",
            "INSERT INTO a VALUES (1, '_sync_meta');",
        ];
        let gone = [
            "CREATE TABLE sqlite_sequence(name,seq);",
            "CREATE TABLE sqlite_stat1(tbl,idx,stat);",
            "CREATE TABLE _sync_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;",
            "CREATE TABLE IF NOT EXISTS \"_sync_row\"(t, k, v);",
            "CREATE INDEX i ON _sync_row (v);",
            "CREATE UNIQUE INDEX IF NOT EXISTS _sync_i ON a (x);",
            "CREATE TRIGGER _sync_a_i AFTER INSERT ON a BEGIN INSERT INTO _sync_log_1 VALUES (new.id); END;",
            "INSERT INTO sqlite_sequence VALUES ('a', 7);",
            "DELETE FROM sqlite_sequence;",
        ];
        let mut script = String::new();
        for i in 0..kept.len().max(gone.len()) {
            script.push_str(gone.get(i).copied().unwrap_or_default());
            script.push_str(kept.get(i).copied().unwrap_or_default());
        }
        assert_eq!(without_internal(&script), kept.concat());
        for odd in ["", ";;", "CREATE TABLE", "CREATE TABLE 'x", "/* ", "-- x", "[", "é 'é"] {
            assert_eq!(without_internal(odd), odd);
        }
    }
}
