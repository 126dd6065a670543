//! Statements of somebody who is not trusted with this device, as a server's of an app's objects. SQLite itself says what
//! each would do, by its authorizer; what is not on a short list is not done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::connection::{no_longer_than, room_for};
use super::sql::{self, Kind, Token};
use super::stubs::Stubs;
use super::{ledgers, quote, triggers};
use crate::schema::Schema;
use needs::Needs;

/// A statement that was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What it makes, as `view recent`; its first words where that cannot be told.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Makes the tables and indexes that are synced. In a transaction of the caller.
///
/// # Errors
/// The first statement that makes something else, or that SQLite refuses.
pub fn make_synced(conn: &mut Connection, statements: &[String]) -> Result<(), LeftOut> {
    for statement in statements {
        let guest = Guest::read(statement);
        match guest.makes {
            Makes::Table | Makes::Index => guest.run(conn, statement)?,
            _ => return Err(guest.left_out("it makes no table or index".into())),
        }
    }
    Ok(())
}

/// Makes the other objects of the app; what cannot be made, or must not, is left out and named. In a transaction of the
/// caller. `synced` is the schema of what [`make_synced`] made.
///
/// # Errors
/// SQLite's, but for those of the statements.
pub fn make_others(conn: &mut Connection, statements: &[String], synced: &Schema) -> rusqlite::Result<Vec<LeftOut>> {
    let each: Vec<&str> = statements.iter().flat_map(|text| sql::statements(text)).collect();
    let stubs = Stubs::install(conn, each.iter().copied())?;
    let mut left_out = Vec::new();
    let mut needs = Needs::default();
    for statement in each {
        let guest = Guest::read(statement);
        let refused = match guest.refusal(synced) {
            Some(why) => Some(guest.left_out(why)),
            None => guest.run(conn, statement).err(),
        };
        match refused {
            Some(refused) => {
                needs.is_missing(&guest);
                left_out.push(refused);
            }
            None => needs.made.push(guest),
        }
    }
    left_out.extend(needs.leave_out(conn)?);
    stubs.remove(conn)?;
    Ok(left_out)
}

/// Fills the full-text indexes whose content is an ordinary table of the file; names those that only the app can fill.
///
/// # Errors
/// SQLite's.
pub fn fill(conn: &mut Connection) -> rusqlite::Result<Vec<String>> {
    let kept: Vec<String> = triggers::read(conn)?.into_iter().flat_map(|t| t.writes).collect();
    let mut s = conn.prepare(
        "SELECT o.name, o.sql FROM main.sqlite_schema o WHERE o.type = 'table' AND o.sql LIKE 'CREATE VIRTUAL TABLE%' \
         ORDER BY o.name",
    )?;
    let found: Vec<(String, String)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut table = conn.prepare(
        "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ? COLLATE NOCASE",
    )?;
    let mut unfilled = Vec::new();
    for (name, sql) in found {
        let all = sql::tokens(&sql);
        if !all.iter().any(|t| t.is("fts5")) {
            continue;
        }
        let content = all.windows(3).find(|w| w[0].is("content") && w[1].is_sign('=')).and_then(|w| w[2].name());
        match content {
            Some(of) if table.exists([&*of])? => {
                let index = quote(&name);
                conn.execute_batch(&format!("INSERT INTO main.{index} ({index}) VALUES ('rebuild')"))?;
            }
            _ if kept.contains(&name.to_ascii_lowercase()) => {}
            _ => unfilled.push(name),
        }
    }
    Ok(unfilled)
}

/// What a statement makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    Table,
    Index,
    View,
    Trigger,
    Virtual,
    /// `user_version` or `application_id`.
    Number,
    /// A row in the record of a migration tool.
    Row,
    Nothing,
}

/// One statement, read as far as its words tell what it is.
struct Guest<'a> {
    tokens: Vec<Token<'a>>,
    makes: Makes,
    /// The object, or the table of a row.
    name: String,
}

impl<'a> Guest<'a> {
    fn read(statement: &'a str) -> Self {
        let tokens = sql::tokens(statement);
        let word = |n: usize, w: &str| tokens.get(n).is_some_and(|t| t.is(w));
        let (makes, mut at) = if word(0, "CREATE") {
            match () {
                () if word(1, "TABLE") => (Makes::Table, 2),
                () if word(1, "INDEX") => (Makes::Index, 2),
                () if word(1, "UNIQUE") && word(2, "INDEX") => (Makes::Index, 3),
                () if word(1, "VIEW") => (Makes::View, 2),
                () if word(1, "TRIGGER") => (Makes::Trigger, 2),
                () if word(1, "VIRTUAL") && word(2, "TABLE") => (Makes::Virtual, 3),
                () => (Makes::Nothing, 0),
            }
        } else if word(0, "INSERT") && word(1, "INTO") {
            (Makes::Row, 2)
        } else if is_number(&tokens) {
            (Makes::Number, 1)
        } else {
            (Makes::Nothing, 0)
        };
        if word(at, "IF") && word(at + 1, "NOT") && word(at + 2, "EXISTS") {
            at += 3;
        }
        if tokens.get(at + 1).is_some_and(|t| t.is_sign('.')) {
            at += 2;
        }
        let name = tokens.get(at).and_then(Token::name).unwrap_or_default().into_owned();
        Self { tokens, makes, name }
    }

    fn left_out(&self, why: String) -> LeftOut {
        let kind = match self.makes {
            Makes::Table => "table",
            Makes::Index => "index",
            Makes::View => "view",
            Makes::Trigger => "trigger",
            Makes::Virtual => "virtual table",
            Makes::Row => "a row of table",
            Makes::Number => "number",
            Makes::Nothing => {
                let words: Vec<&str> = self.tokens.iter().take(3).map(|t| t.text).collect();
                return LeftOut { what: format!("a statement that begins with {}", words.join(" ")), why };
            }
        };
        LeftOut { what: format!("{kind} {}", self.name), why }
    }

    /// What the words alone forbid.
    fn refusal(&self, synced: &Schema) -> Option<String> {
        if self.makes == Makes::Nothing {
            return Some("it makes no table, index, view or trigger".into());
        }
        let ours = |t: &Token<'_>| {
            let name = t.name().unwrap_or_default();
            name.trim_matches(['"', '\'', '`', '[', ']']).get(..6).is_some_and(|b| b.eq_ignore_ascii_case("_sync_"))
        };
        if let Some(token) = self.tokens.iter().find(|t| ours(t)) {
            return Some(format!("it names {}, and names that begin with _sync_ are taken", token.text));
        }
        let dangerous = |w: &[Token<'_>]| {
            let name = w[0].name().unwrap_or_default();
            w[1].is_sign('(') && OUTSIDE.iter().any(|f| f.eq_ignore_ascii_case(&name))
        };
        if let Some(call) = self.tokens.windows(2).find(|w| dangerous(w)) {
            return Some(format!("it calls {}, which reaches out of the file", call[0].text));
        }
        let is_synced = |name: &str| synced.table(&name.to_ascii_lowercase()).is_some();
        match self.makes {
            Makes::Row if is_synced(&self.name) || !ledgers::may_be(&self.name) => {
                Some("only records of migrations come with the schema".into())
            }
            Makes::Row if !self.is_plain_row() => Some("its values are not written out".into()),
            Makes::Index if self.on().is_some_and(|on| is_synced(&on)) => {
                Some("the table that it is on is synced, and has its indexes".into())
            }
            _ => None,
        }
    }

    /// The table that an index is on.
    fn on(&self) -> Option<String> {
        let at = self.tokens.iter().position(|t| t.is("ON"))?;
        self.tokens.get(at + 1)?.name().map(std::borrow::Cow::into_owned)
    }

    /// The module of a virtual table.
    fn module(&self) -> Option<String> {
        let at = self.tokens.iter().position(|t| t.is("USING")).filter(|_| self.makes == Makes::Virtual)?;
        self.tokens.get(at + 1)?.name().map(std::borrow::Cow::into_owned)
    }

    /// `INSERT INTO name (columns) VALUES (literals)`, and nothing else.
    fn is_plain_row(&self) -> bool {
        let Some(values) = self.tokens.iter().position(|t| t.is("VALUES")) else { return false };
        let (head, tail) = self.tokens.split_at(values);
        let name = |t: &Token<'_>| matches!(t.kind, Kind::Word | Kind::Name);
        let columns = head.iter().skip(2).all(|t| name(t) || ['(', ')', ',', '.'].iter().any(|c| t.is_sign(*c)));
        let literal = |t: &Token<'_>| match t.kind {
            Kind::Text | Kind::Number => true,
            Kind::Word => ["NULL", "X"].iter().any(|w| t.is(w)),
            Kind::Sign => ['(', ')', ',', '-', '+'].iter().any(|c| t.is_sign(*c)),
            Kind::Name => false,
        };
        columns && tail.len() > 1 && tail.iter().skip(1).all(literal)
    }

    /// Runs the statement, the first of its text, as far as it does what it says that it makes.
    fn run(&self, conn: &mut Connection, statement: &str) -> Result<(), LeftOut> {
        let denied = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&denied);
        let (makes, name) = (self.makes, self.name.to_ascii_lowercase());
        let sqlite = |e: &rusqlite::Error| self.left_out(format!("SQLite refuses it: {e}"));
        let guard = move |ctx: AuthContext<'_>| {
            if allowed(makes, &name, &ctx) {
                Authorization::Allow
            } else {
                seen.store(true, Ordering::Relaxed);
                Authorization::Deny
            }
        };
        conn.authorizer(Some(guard)).map_err(|e| sqlite(&e))?;
        // A record of migrations may be a table that makes much of a short row.
        let outcome = no_longer_than(conn, room_for(statement.len() as u64), || {
            conn.prepare(statement).and_then(|mut prepared| {
                let mut rows = prepared.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            })
        })
        .and_then(|outcome| outcome);
        conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(|e| sqlite(&e))?;
        if denied.load(Ordering::Relaxed) {
            return Err(self.left_out(
                match self.module().filter(|m| !MODULES.iter().any(|k| k.eq_ignore_ascii_case(m))) {
                    Some(module) => {
                        format!("of the modules only {} are taken, and it is of {module}", MODULES.join(", "))
                    }
                    None => "it does more than that".into(),
                },
            ));
        }
        outcome.map_err(|e| sqlite(&e))
    }
}

/// `PRAGMA user_version = 5`, and nothing else.
fn is_number(tokens: &[Token<'_>]) -> bool {
    let [pragma, name, equals, value @ ..] = tokens else { return false };
    let value = match value {
        [sign, rest @ ..] if sign.is_sign('-') => rest,
        all => all,
    };
    pragma.is("PRAGMA")
        && (name.is("user_version") || name.is("application_id"))
        && equals.is_sign('=')
        && matches!(value, [number] if number.kind == Kind::Number)
}

/// Modules whose virtual tables keep to tables of their own.
const MODULES: &[&str] = &["fts5", "rtree", "rtree_i32"];

/// Functions that reach out of the file, of SQLite itself and of its shell. They are not run here, but a view or a trigger
/// may call them later, in the app.
const OUTSIDE: &[&str] =
    &["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "eval", "lsdir", "fsdir"];

/// Whether SQLite may do this on behalf of a statement that makes an object of this kind and name.
fn allowed(makes: Makes, name: &str, ctx: &AuthContext<'_>) -> bool {
    if ctx.database_name.is_some_and(|db| db != "main") {
        return false;
    }
    let is = |given: &str| given.eq_ignore_ascii_case(name);
    let catalog = |table: &str| ["sqlite_schema", "sqlite_master"].iter().any(|t| t.eq_ignore_ascii_case(table));
    let part = |table: &str| {
        let table = table.to_ascii_lowercase();
        table == name || table.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
    };
    match (makes, &ctx.action) {
        // What every CREATE writes to the catalog.
        (
            Makes::Table | Makes::Index | Makes::View | Makes::Trigger | Makes::Virtual,
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Read { table_name, .. },
        ) if catalog(table_name) => true,
        (Makes::Table, AuthAction::CreateTable { table_name }) => is(table_name) || *table_name == "sqlite_sequence",
        // Those that its constraints need.
        (Makes::Table, AuthAction::CreateIndex { table_name, .. }) => is(table_name),
        (Makes::Table | Makes::Row, AuthAction::Read { table_name, .. }) => is(table_name),
        (Makes::Table | Makes::Index | Makes::Row, AuthAction::Function { function_name }) => {
            !OUTSIDE.iter().any(|f| f.eq_ignore_ascii_case(function_name))
        }
        (Makes::Index, AuthAction::CreateIndex { index_name, .. } | AuthAction::Reindex { index_name }) => {
            is(index_name)
        }
        (Makes::Index, AuthAction::Read { .. }) => true,
        (Makes::View, AuthAction::CreateView { view_name }) => is(view_name),
        (Makes::Trigger, AuthAction::CreateTrigger { trigger_name, .. }) => is(trigger_name),
        (Makes::Virtual, AuthAction::CreateVtable { table_name, module_name }) => {
            is(table_name) && MODULES.iter().any(|m| m.eq_ignore_ascii_case(module_name))
        }
        // What the module does for its own tables while it is made.
        (
            Makes::Virtual,
            AuthAction::CreateTable { table_name }
            | AuthAction::CreateIndex { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name }
            | AuthAction::Read { table_name, .. },
        ) => part(table_name),
        (Makes::Virtual, AuthAction::Select) => true,
        (Makes::Virtual, AuthAction::Function { function_name }) => *function_name == "zeroblob",
        (Makes::Virtual, AuthAction::Pragma { pragma_name, pragma_value: None }) => {
            ["page_size", "data_version"].iter().any(|p| p.eq_ignore_ascii_case(pragma_name))
        }
        (Makes::Number, AuthAction::Pragma { pragma_name, pragma_value: Some(_) }) => is(pragma_name),
        (Makes::Row, AuthAction::Insert { table_name }) => is(table_name),
        _ => false,
    }
}

mod needs;
#[cfg(test)]
mod tests;
