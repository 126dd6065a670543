//! The words of SQL text, as far as they have to be known without running it: where a statement ends, which functions
//! and collations it names, which collation a column is declared with.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

/// What a piece of SQL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or a bare name.
    Word,
    /// `"a name"`, `` `a name` `` or `[a name]`.
    Name,
    /// `'a text'`, also the body of a blob literal.
    Text,
    /// A number.
    Number,
    /// Any other character.
    Sign,
}

/// A piece of SQL that is neither white space nor comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As it is written, quotes included.
    pub text: &'a str,
    /// Where it begins, in bytes.
    pub at: usize,
}

impl<'a> Token<'a> {
    /// Whether it is this keyword.
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is this character.
    #[must_use]
    pub fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign && self.text.starts_with(sign)
    }

    /// What it names where a name stands: SQLite takes a text for one, too. `None` for numbers and signs.
    #[must_use]
    pub fn name(&self) -> Option<Cow<'a, str>> {
        match self.kind {
            Kind::Word => Some(Cow::Borrowed(self.text)),
            Kind::Name | Kind::Text => {
                let close = self.text.chars().next().map_or('"', closing);
                let inner = self.text.get(1..).unwrap_or_default();
                let inner = inner.strip_suffix(close).unwrap_or(inner);
                Some(if close == ']' || !inner.contains(close) {
                    Cow::Borrowed(inner)
                } else {
                    Cow::Owned(inner.replace(&format!("{close}{close}"), &close.to_string()))
                })
            }
            Kind::Number | Kind::Sign => None,
        }
    }

    fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

const fn closing(open: char) -> char {
    if open == '[' { ']' } else { open }
}

/// The pieces of a text, in order. Quotes that are not closed go on to its end.
#[must_use]
pub fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let (kind, len) = match c {
            c if c.is_ascii_whitespace() || c == '\u{b}' => {
                at += c.len_utf8();
                continue;
            }
            '-' if rest.starts_with("--") => {
                at += rest.find('\n').map_or(rest.len(), |n| n + 1);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                at += rest[2..].find("*/").map_or(rest.len(), |n| n + 4);
                continue;
            }
            '\'' => (Kind::Text, quoted(rest, '\'')),
            '"' | '`' | '[' => (Kind::Name, quoted(rest, closing(c))),
            c if c.is_ascii_digit() => {
                (Kind::Number, rest.find(|c: char| !of_word(c) && c != '.').unwrap_or(rest.len()))
            }
            c if of_word(c) => (Kind::Word, rest.find(|c: char| !of_word(c)).unwrap_or(rest.len())),
            c => (Kind::Sign, c.len_utf8()),
        };
        out.push(Token { kind, text: &rest[..len], at });
        at += len;
    }
    out
}

/// The length of what is quoted, quotes included. A doubled quote stands for itself, but for `]`.
fn quoted(text: &str, close: char) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == close {
            if close != ']' && chars.next_if(|(_, next)| *next == close).is_some() {
                continue;
            }
            return at + 1;
        }
    }
    text.len()
}

/// The statements of a text, without the semicolons between them. One that makes a trigger ends at `; END;`.
#[must_use]
pub fn statements(text: &str) -> Vec<&str> {
    let all = tokens(text);
    let mut out = Vec::new();
    let mut first = 0;
    for (n, token) in all.iter().enumerate().filter(|(_, t)| t.is_sign(';')) {
        if n == first {
            first = n + 1;
            continue;
        }
        let inside = &all[first..n];
        let ended = matches!(inside, [.., before, end] if before.is_sign(';') && end.is("END"));
        if makes_trigger(inside) && !ended {
            continue;
        }
        out.push(&text[inside[0].at..token.at]);
        first = n + 1;
    }
    if let Some(left) = all.get(first..).and_then(<[Token<'_>]>::first) {
        out.push(&text[left.at..]);
    }
    out.into_iter().map(str::trim_end).collect()
}

fn makes_trigger(tokens: &[Token<'_>]) -> bool {
    match tokens {
        [create, kind, ..] if create.is("CREATE") && kind.is("TRIGGER") => true,
        [create, temp, kind, ..] => {
            create.is("CREATE") && (temp.is("TEMP") || temp.is("TEMPORARY")) && kind.is("TRIGGER")
        }
        _ => false,
    }
}

/// Every name that stands before an opening parenthesis, lowercase: the functions that a text calls are among them.
#[must_use]
pub fn called(sql: &str) -> BTreeSet<String> {
    let all = tokens(sql);
    let before = all.windows(2).filter(|pair| pair[1].is_sign('(')).filter_map(|pair| pair[0].name());
    before.map(|name| name.to_ascii_lowercase()).collect()
}

/// The collations that a text names, as it writes them.
#[must_use]
pub fn collations(sql: &str) -> BTreeSet<String> {
    let all = tokens(sql);
    let named = all.windows(2).filter(|pair| pair[0].is("COLLATE")).filter_map(|pair| pair[1].name());
    named.map(Cow::into_owned).collect()
}

/// A column that a `CREATE TABLE` statement declares with a collation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collated {
    /// Its name, lowercase.
    pub column: String,
    /// The collation.
    pub collation: String,
    /// Where the statement says so: `COLLATE name`, in bytes.
    pub span: Range<usize>,
}

/// The columns of a `CREATE TABLE` statement that are declared with a collation.
#[must_use]
pub fn collated_columns(sql: &str) -> Vec<Collated> {
    let all = tokens(sql);
    let mut out = Vec::new();
    let (mut depth, mut column, mut begins) = (0, None, false);
    for (n, token) in all.iter().enumerate() {
        if token.is_sign('(') {
            depth += 1;
            begins |= depth == 1;
        } else if token.is_sign(')') {
            depth -= 1;
            if depth == 0 {
                break;
            }
        } else if depth == 1 && token.is_sign(',') {
            begins = true;
        } else if depth == 1 {
            if std::mem::take(&mut begins) {
                column = token.name().map(|name| name.to_ascii_lowercase());
            }
            if let (true, Some(column), Some(named)) = (token.is("COLLATE"), &column, all.get(n + 1))
                && let Some(collation) = named.name()
            {
                let (column, collation) = (column.clone(), collation.into_owned());
                out.push(Collated { column, collation, span: token.at..named.end() });
            }
        }
    }
    out
}

/// What our writes say of conflicts in the table of a `CREATE TABLE` statement, so that they are refused. Where the table
/// says nothing itself, SQLite refuses them anyhow, and our word would count inside its triggers too, in place of theirs.
#[must_use]
pub fn or_abort(sql: &str) -> &'static str {
    let declared = tokens(sql).windows(2).any(|pair| pair[0].is("ON") && pair[1].is("CONFLICT"));
    if declared { OR_ABORT } else { "" }
}

/// Whether a trigger or a table says `OR ROLLBACK`, `OR FAIL` or the like of a conflict.
#[must_use]
pub fn ends_more(sql: &str) -> bool {
    let all = tokens(sql);
    let clause = |t: &Token<'_>| t.is("OR") || t.is("CONFLICT");
    all.windows(2).any(|pair| clause(&pair[0]) && (pair[1].is("ROLLBACK") || pair[1].is("FAIL")))
}

/// Says that a conflict is refused.
pub const OR_ABORT: &str = " OR ABORT";

/// Whether every SQLite has this collation.
#[must_use]
pub fn is_builtin_collation(name: &str) -> bool {
    ["BINARY", "NOCASE", "RTRIM"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// A `CREATE TABLE` statement without the collations that only the app has.
#[must_use]
pub fn without_app_collations(sql: &str) -> String {
    let mut out = sql.to_owned();
    for c in collated_columns(sql).into_iter().rev().filter(|c| !is_builtin_collation(&c.collation)) {
        let before = out[..c.span.start].trim_end().len();
        out.replace_range(before..c.span.end, "");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_sqlite_ends_them() {
        let text = "CREATE TABLE a (x DEFAULT ';'); -- a; comment\n; CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN
            SELECT CASE WHEN 1 THEN 2 END; UPDATE a SET x = ';'; END ;
            CREATE VIEW \"v;\" AS SELECT 1 /* ; */;PRAGMA user_version = 4";
        let found = statements(text);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "CREATE TABLE a (x DEFAULT ';')");
        assert!(found[1].starts_with("CREATE TEMP TRIGGER") && found[1].ends_with("END"), "{}", found[1]);
        assert_eq!(found[3], "PRAGMA user_version = 4");
        assert!(statements(" -- nothing\n;;").is_empty());
        assert_eq!(statements("SELECT 'not closed; at all"), ["SELECT 'not closed; at all"]);
    }

    #[test]
    fn names_of_every_spelling() {
        let names: Vec<String> = tokens("a \"b \"\"c\" `d` [e] 'f''g' 12.5e3 x'00' é")
            .iter()
            .filter_map(|t| t.name())
            .map(Cow::into_owned)
            .collect();
        assert_eq!(names, ["a", "b \"c", "d", "e", "f'g", "x", "00", "é"]);
        let called: Vec<String> = called("SELECT Fn(1), \"g\" (2), count (*) FROM t").into_iter().collect();
        assert_eq!(called, ["count", "fn", "g"]);
    }

    #[test]
    fn what_a_table_says_of_conflicts_is_found() {
        for (sql, said) in [
            ("CREATE TABLE t (a UNIQUE on /* a */ conflict IGNORE)", " OR ABORT"),
            ("CREATE TABLE t (a NOT NULL, UNIQUE (a) ON\nCONFLICT REPLACE)", " OR ABORT"),
            (
                "CREATE TABLE \"on conflict\" (a DEFAULT 'on conflict' REFERENCES b ON DELETE CASCADE) -- ON CONFLICT",
                "",
            ),
        ] {
            assert_eq!(or_abort(sql), said, "{sql}");
        }
    }

    #[test]
    fn collations_of_the_app_go_and_nothing_else() {
        let sql = "CREATE TABLE \"t (\" (a TEXT COLLATE unicase NOT NULL, b COLLATE NOCASE, \"c,\" TEXT
            COLLATE [my one], d TEXT CHECK (d <> 'COLLATE x' COLLATE BINARY), UNIQUE (b COLLATE RTRIM))";
        let found = collated_columns(sql);
        let columns: Vec<(&str, &str)> = found.iter().map(|c| (c.column.as_str(), c.collation.as_str())).collect();
        assert_eq!(columns, [("a", "unicase"), ("b", "NOCASE"), ("c,", "my one")]);
        let plain = without_app_collations(sql);
        assert!(plain.contains("(a TEXT NOT NULL, b COLLATE NOCASE, \"c,\" TEXT, d TEXT CHECK"), "{plain}");
        assert_eq!(without_app_collations(&plain), plain);
    }
}
