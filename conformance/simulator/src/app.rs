//! The app: its schema, and what it writes. Every text that it writes carries a token of its own,
//! `<w17>`, by which the ledger finds it again wherever it went.

use serde::{Deserialize, Serialize};

use crate::plan::Migration;

/// The app's DDL: cascades, SET NULL, a composite key, numbers that devices mint twice, blob keys,
/// UNIQUE values, columns of any type, rows that get another key and are never deleted, rows that only a UNIQUE
/// column identifies, two tables that may swap their names, rows that say to which row they were made, whatever number that
/// has.
pub const SCHEMA: &str = "
CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT UNIQUE, age INTEGER, score REAL, photo BLOB);
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL,
  person TEXT REFERENCES people(id) ON DELETE CASCADE ON UPDATE CASCADE,
  body TEXT NOT NULL, pinned INTEGER CHECK (pinned IN (0, 1)));
CREATE TABLE tags (note TEXT NOT NULL REFERENCES notes(id) ON DELETE CASCADE ON UPDATE CASCADE, tag TEXT NOT NULL,
  mark TEXT, PRIMARY KEY (note, tag)) WITHOUT ROWID;
CREATE TABLE counters (id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL,
  parent INTEGER REFERENCES counters(id) ON DELETE SET NULL);
CREATE TABLE marks (id BLOB PRIMARY KEY NOT NULL, counter INTEGER NOT NULL REFERENCES counters(id), text TEXT);
CREATE TABLE settings (name TEXT PRIMARY KEY NOT NULL, value);
CREATE TABLE rooms (id TEXT PRIMARY KEY NOT NULL, name TEXT);
CREATE TABLE seats (id TEXT PRIMARY KEY NOT NULL, room TEXT REFERENCES rooms(id) ON DELETE CASCADE, text TEXT);
CREATE TABLE codes (code TEXT NOT NULL UNIQUE, text TEXT);
CREATE TABLE left_shelf (id TEXT PRIMARY KEY NOT NULL, text TEXT);
CREATE TABLE right_shelf (id TEXT PRIMARY KEY NOT NULL, text TEXT);
CREATE TABLE boxes (id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL);
CREATE TABLE things (id TEXT PRIMARY KEY NOT NULL, box INTEGER NOT NULL REFERENCES boxes(id), of TEXT NOT NULL, text TEXT);
CREATE INDEX notes_person ON notes(person);
";

/// The same where SQLite gives the number of a deleted row to a new one.
#[must_use]
pub fn schema(numbers_again: bool) -> String {
    SCHEMA.replace(" AUTOINCREMENT", if numbers_again { "" } else { " AUTOINCREMENT" })
}

/// What only the app has: tables without a key that refer to synced ones, a search index and a counter, kept by triggers.
pub const LOCAL_SCHEMA: &str = "
CREATE TABLE desk (person TEXT REFERENCES people(id) ON DELETE CASCADE ON UPDATE CASCADE, text TEXT);
CREATE TABLE pins (counter INTEGER REFERENCES counters(id) ON DELETE SET NULL, text TEXT);
CREATE TABLE locks (note TEXT REFERENCES notes(id), text TEXT);
CREATE TABLE labels (box INTEGER REFERENCES boxes(id), of TEXT);
CREATE TABLE tally (n INTEGER NOT NULL);
INSERT INTO tally VALUES (0);
CREATE VIRTUAL TABLE search USING fts5(body, content='notes', content_rowid='rowid');
CREATE TRIGGER notes_ai AFTER INSERT ON notes BEGIN
  INSERT INTO search(rowid, body) VALUES (NEW.rowid, NEW.body); UPDATE tally SET n = n + 1; END;
CREATE TRIGGER notes_ad AFTER DELETE ON notes BEGIN
  INSERT INTO search(search, rowid, body) VALUES ('delete', OLD.rowid, OLD.body); UPDATE tally SET n = n - 1; END;
CREATE TRIGGER notes_au AFTER UPDATE ON notes BEGIN
  INSERT INTO search(search, rowid, body) VALUES ('delete', OLD.rowid, OLD.body);
  INSERT INTO search(rowid, body) VALUES (NEW.rowid, NEW.body); END;
";

/// What the newest version of the schema adds.
pub const ADDED: &str = "
ALTER TABLE people ADD COLUMN nick TEXT;
CREATE TABLE extras (id TEXT PRIMARY KEY NOT NULL, note TEXT REFERENCES notes(id) ON DELETE SET NULL, text TEXT);
";

/// The statements of a migration. `seen` says that the schema has been changed so already.
#[must_use]
pub fn migration(kind: Migration, n: u64) -> String {
    match kind {
        Migration::AddColumn => "ALTER TABLE people ADD COLUMN nick TEXT".into(),
        Migration::AddTable => "CREATE TABLE extras (id TEXT PRIMARY KEY NOT NULL, \
                                note TEXT REFERENCES notes(id) ON DELETE SET NULL, text TEXT)"
            .into(),
        Migration::AddIndex => format!("CREATE INDEX IF NOT EXISTS extra_{n} ON notes(pinned)"),
        Migration::RebuildTable => "PRAGMA foreign_keys = OFF; BEGIN;
             CREATE TABLE new_settings (name TEXT PRIMARY KEY NOT NULL, value);
             INSERT INTO new_settings SELECT name, value FROM settings;
             DROP TABLE settings;
             ALTER TABLE new_settings RENAME TO settings;
             INSERT OR REPLACE INTO settings VALUES ('s1', '{w}');
             DELETE FROM settings WHERE name = 's2';
             COMMIT; PRAGMA foreign_keys = ON"
            .into(),
        Migration::RenameAside => "BEGIN; DROP TABLE IF EXISTS settings_backup;
             ALTER TABLE settings RENAME TO settings_backup;
             CREATE TABLE settings (name TEXT PRIMARY KEY NOT NULL, value);
             INSERT INTO settings SELECT name, value FROM settings_backup;
             INSERT OR REPLACE INTO settings VALUES ('s3', '{w}');
             DELETE FROM settings WHERE name = 's4';
             COMMIT"
            .into(),
        Migration::SwapNames => "BEGIN; ALTER TABLE left_shelf RENAME TO shelf;
             ALTER TABLE right_shelf RENAME TO left_shelf; ALTER TABLE shelf RENAME TO right_shelf;
             UPDATE left_shelf SET text = '{w}' WHERE id = 'l1'; COMMIT"
            .into(),
    }
}

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// What an app writes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[expect(missing_docs, reason = "the statement says it")]
        pub enum Kind { $($name),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

kinds!(
    PersonInsert,
    PersonName,
    PersonMail,
    PersonSwap,
    PersonReplace,
    PersonValues,
    PersonDelete,
    PersonKey,
    PersonUndo,
    PersonAgain,
    PeopleInsert,
    PeopleUpdate,
    Crowd,
    NoteInsert,
    NoteBody,
    NoteMove,
    NoteDelete,
    NoteKey,
    NoteUpsert,
    NotesUpdate,
    TagInsert,
    TagMark,
    TagDelete,
    CounterInsert,
    CounterChild,
    CounterLabel,
    CounterDelete,
    CounterKey,
    MarkInsert,
    MarkText,
    MarkDelete,
    SettingPut,
    SettingDelete,
    Nick,
    Extra,
    RoomInsert,
    RoomKey,
    SeatInsert,
    SeatMove,
    SeatDelete,
    CodePut,
    CodeKey,
    CodeDelete,
    ShelfPut,
    ShelfDelete,
    Desk,
    Pin,
    Lock,
    Unlock,
    BoxInsert,
    ThingInsert,
    ThingText,
    ThingDelete,
    Label,
);

/// One statement, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sql(pub Kind, pub u8, pub u8, pub u16);

impl Sql {
    /// The text; `w` is the number of its token.
    #[must_use]
    pub fn text(self, w: u64) -> String {
        let Self(kind, n, m, k) = self;
        let (n, m) = (n % 7, m % 7);
        let blob = format!("x'0000000000000000000000000000000{n:x}'");
        match kind {
            Kind::PersonInsert => format!(
                "INSERT INTO people (id, name, email, age, score) VALUES ('p{n}', '<w{w}>', {}, {k}, {k} / 8.0)",
                if k % 3 == 0 { "NULL".into() } else { format!("'mail {m}'") }
            ),
            Kind::PersonName => format!("UPDATE people SET name = '<w{w}> ü\u{1F600}' WHERE id = 'p{n}'"),
            Kind::PersonMail => format!("UPDATE people SET email = 'mail {m}', name = '<w{w}>' WHERE id = 'p{n}'"),
            Kind::PersonSwap => format!(
                "UPDATE people SET email = CASE id WHEN 'p{n}' THEN 'tmp {w}' ELSE email END WHERE id = 'p{n}';
                 UPDATE people SET email = 'mail {n}' WHERE id = 'p{m}' AND '{n}' <> '{m}';
                 UPDATE people SET email = 'mail {m}' WHERE id = 'p{n}'"
            ),
            Kind::PersonReplace => {
                format!("INSERT OR REPLACE INTO people (id, name, email) VALUES ('p{n}', '<w{w}>', 'mail {m}')")
            }
            Kind::PersonValues => format!(
                "UPDATE people SET age = {}, score = {}, photo = {}, name = '<w{w}>' WHERE id = 'p{n}'",
                ["NULL", "9007199254740993", "-9223372036854775808", "'old'", "1.5"][usize::from(k % 5)],
                ["NULL", "9e999", "-0.0", "0.1", "1"][usize::from(k / 5 % 5)],
                ["NULL", "x''", "x'00ff'", "'text'", "zeroblob(40)"][usize::from(k / 25 % 5)],
            ),
            Kind::PersonDelete => format!("DELETE FROM people WHERE id = 'p{n}'"),
            Kind::PersonKey => format!("UPDATE people SET id = 'p{m}', name = '<w{w}>' WHERE id = 'p{n}'"),
            Kind::PersonUndo => format!(
                "UPDATE people SET score = coalesce(score, 0) + 1 WHERE id = 'p{n}';
                 UPDATE people SET score = score - 1 WHERE id = 'p{n}' AND score IS NOT NULL"
            ),
            Kind::PersonAgain => {
                format!("DELETE FROM people WHERE id = 'p{n}'; INSERT INTO people (id, name) VALUES ('p{n}', '<w{w}>')")
            }
            Kind::PeopleInsert => format!(
                "WITH RECURSIVE c(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM c WHERE i < 24)
                 INSERT OR IGNORE INTO people (id, name, age) SELECT 'many {n} ' || i, '<w{w}:' || i || '>', i FROM c"
            ),
            Kind::Crowd => format!(
                "WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < 149)
                 INSERT OR IGNORE INTO people (id, name, age) SELECT 'of a crowd ' || i, '<w{w}:' || i || '>', i FROM c"
            ),
            Kind::PeopleUpdate => format!("UPDATE people SET name = '<w{w}:' || id || '>' WHERE id > 'many {n}'"),
            Kind::NoteInsert => format!(
                "INSERT INTO notes VALUES ('n{n}', {}, '<w{w}>', {})",
                if k % 5 == 0 { "NULL".into() } else { format!("'p{m}'") },
                ["NULL", "0", "1", "2"][usize::from(k % 4)]
            ),
            Kind::NoteBody => format!("UPDATE notes SET body = '<w{w}>' || char(1) || '€' WHERE id = 'n{n}'"),
            Kind::NoteMove => format!("UPDATE notes SET person = 'p{m}', body = '<w{w}>' WHERE id = 'n{n}'"),
            Kind::NoteDelete => format!("DELETE FROM notes WHERE id = 'n{n}'"),
            Kind::NoteKey => format!("UPDATE notes SET id = 'n{m}', body = '<w{w}>' WHERE id = 'n{n}'"),
            Kind::NoteUpsert => format!(
                "INSERT INTO notes VALUES ('n{n}', NULL, '<w{w}>', NULL)
                 ON CONFLICT (id) DO UPDATE SET body = excluded.body"
            ),
            Kind::NotesUpdate => format!("UPDATE notes SET pinned = {}, body = '<w{w}:' || id || '>'", k % 2),
            Kind::TagInsert => format!("INSERT OR IGNORE INTO tags VALUES ('n{n}', 'tag {m}', '<w{w}>')"),
            Kind::TagMark => format!("UPDATE tags SET mark = '<w{w}:' || tag || '>' WHERE note = 'n{n}'"),
            Kind::TagDelete => format!("DELETE FROM tags WHERE note = 'n{n}' AND tag = 'tag {m}'"),
            Kind::CounterInsert => format!("INSERT INTO counters (label) VALUES ('<w{w}>')"),
            Kind::CounterChild => {
                format!("INSERT INTO counters (label, parent) SELECT '<w{w}>', max(id) FROM counters")
            }
            Kind::CounterLabel => format!("UPDATE counters SET label = '<w{w}>' WHERE id = {n}"),
            Kind::CounterDelete => format!("DELETE FROM counters WHERE id = {n}"),
            Kind::CounterKey => format!("UPDATE counters SET id = {m}, label = '<w{w}>' WHERE id = {n}"),
            Kind::MarkInsert => {
                format!(
                    "INSERT INTO marks SELECT {blob}, id, '<w{w}>' FROM counters ORDER BY id LIMIT 1 OFFSET {}",
                    m / 2
                )
            }
            Kind::MarkText => format!("UPDATE marks SET text = '<w{w}>' WHERE id = {blob}"),
            Kind::MarkDelete => format!("DELETE FROM marks WHERE id = {blob}"),
            Kind::SettingPut => format!(
                "REPLACE INTO settings VALUES ('s{n}', {})",
                [
                    format!("'<w{w}>'"),
                    "NULL".into(),
                    format!("{k}"),
                    format!("{k}.25"),
                    format!("CAST('<w{w}>' AS BLOB)"),
                    "1e300 * 1e300".into(),
                ][usize::from(k % 6)]
            ),
            Kind::SettingDelete => format!("DELETE FROM settings WHERE name = 's{n}'"),
            Kind::Nick => format!("UPDATE people SET nick = '<w{w}>' WHERE id = 'p{n}'"),
            Kind::RoomInsert => format!("INSERT OR IGNORE INTO rooms VALUES ('r{n}', '<w{w}>')"),
            // Nobody deletes a room: what has one stays, whatever the room is called.
            Kind::RoomKey => format!("UPDATE rooms SET id = 'r{m}', name = '<w{w}>' WHERE id = 'r{n}'"),
            Kind::SeatInsert => format!(
                "INSERT OR IGNORE INTO seats SELECT 's{n}', id, '<w{w}>' FROM rooms ORDER BY id LIMIT 1 OFFSET {}",
                m / 3
            ),
            Kind::SeatMove => format!(
                "UPDATE seats SET room = (SELECT id FROM rooms ORDER BY id LIMIT 1 OFFSET {}), text = '<w{w}>'
                 WHERE id = 's{n}'",
                m / 3
            ),
            Kind::SeatDelete => format!("DELETE FROM seats WHERE id = 's{n}'"),
            Kind::CodePut => format!(
                "INSERT INTO codes VALUES ('c{n}', '<w{w}>') ON CONFLICT (code) DO UPDATE SET text = excluded.text"
            ),
            Kind::CodeKey => format!("UPDATE codes SET code = 'c{m}', text = '<w{w}>' WHERE code = 'c{n}'"),
            Kind::CodeDelete => format!("DELETE FROM codes WHERE code = 'c{n}'"),
            Kind::ShelfPut => {
                format!("REPLACE INTO {} VALUES ('l{n}', '<w{w}>')", ["left_shelf", "right_shelf"][usize::from(k % 2)])
            }
            Kind::ShelfDelete => {
                format!("DELETE FROM {} WHERE id = 'l{n}'", ["left_shelf", "right_shelf"][usize::from(k % 2)])
            }
            Kind::Desk => format!("INSERT INTO desk SELECT id, 'of ' || id FROM people WHERE id = 'p{n}'"),
            Kind::Pin => format!("INSERT INTO pins SELECT id, 'of ' || id FROM counters WHERE id = {n}"),
            Kind::Lock => format!("INSERT INTO locks SELECT id, 'of ' || id FROM notes WHERE id = 'n{n}'"),
            // Nobody changes or deletes a box, so that what was made to it tells it from every other.
            Kind::BoxInsert => format!("INSERT INTO boxes (made) VALUES ('<w{w}>')"),
            Kind::ThingInsert => format!(
                "INSERT INTO things SELECT 't{w}', id, substr(made, 3), '<w{w}>' FROM boxes
                 ORDER BY id DESC LIMIT 1 OFFSET {}",
                m / 3
            ),
            Kind::ThingText => format!(
                "UPDATE things SET text = '<w{w}>' WHERE id = (SELECT id FROM things ORDER BY id LIMIT 1 OFFSET {n})"
            ),
            Kind::ThingDelete => {
                format!("DELETE FROM things WHERE id = (SELECT id FROM things ORDER BY id LIMIT 1 OFFSET {n})")
            }
            Kind::Label => format!(
                "INSERT INTO labels SELECT id, substr(made, 3) FROM boxes ORDER BY id DESC LIMIT 1 OFFSET {}",
                m / 3
            ),
            Kind::Unlock => "DELETE FROM locks".into(),
            Kind::Extra => format!("INSERT OR REPLACE INTO extras VALUES ('e{n}', NULL, '<w{w}>')"),
        }
    }
}

/// The tokens in a text, each as a number of its own.
pub fn tokens(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split("<w").skip(1).filter_map(|rest| {
        let (token, _) = rest.split_once('>')?;
        // FNV-1a: tokens are many and only compared.
        Some(token.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    })
}
