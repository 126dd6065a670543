//! The demonstration's own app: a research notebook, and what its user does on two devices without a
//! network. Everything here is plain SQL on an ordinary connection.

use std::path::Path;

use examples::Result;
use rusqlite::{Connection, params};

/// The schema, as the app runs it on each device and as the server gets it.
pub(crate) const SCHEMA: &str = include_str!("notebook.sql");

/// The app's connection to its file.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    Ok(conn)
}

/// Fills a new file with what a user may have written in a year.
pub(crate) fn fill(conn: &mut Connection, notes: u32) -> Result<()> {
    let tx = conn.transaction()?;
    for n in 0..NOTEBOOKS {
        let title = format!("{} {n}", ["Bosporus", "Ελλάδα", "北海道", "Ærø", "🏔 Alps"][n as usize % 5]);
        tx.execute("INSERT INTO notebooks VALUES (?, ?)", params![notebook(n), title])?;
    }
    for n in 1..=24 {
        tx.execute("INSERT INTO tags VALUES (?, ?)", params![n, format!("tag {n}")])?;
    }
    for n in 0..notes {
        let body =
            (n % 7 != 0).then(|| format!("Observation {n}: π ≈ 3.14159, \"quoted\", naïve, 観測 {}", n * 37 % 101));
        tx.execute(
            "INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?)",
            params![note(n), notebook(n % NOTEBOOKS), format!("Note {n}"), body, written(n), n % 11 == 0],
        )?;
        tx.execute("INSERT INTO note_tags VALUES (?, ?)", params![note(n), n % 24 + 1])?;
        if n % 2 == 0 {
            let value = match n % 10 {
                0 => Some(f64::INFINITY),
                2 => Some(f64::NEG_INFINITY),
                4 => None,
                _ => Some(f64::from(n) / 7.0),
            };
            tx.execute("INSERT INTO readings VALUES (?, ?, ?)", params![format!("reading-{n:05}"), note(n), value])?;
        }
        if n % 10 == 0 {
            let bytes: Vec<u8> = (0..64 + n % 64).map(|i| (i * 31 + n).to_le_bytes()[0]).collect();
            let id = format!("attachment-{n:05}");
            tx.execute("INSERT INTO attachments VALUES (?, ?, 'image/png', ?)", params![id, note(n), bytes])?;
        }
    }
    tx.execute_batch(
        "INSERT INTO settings VALUES ('theme', 'dark'), ('font size', 13), ('zoom', 1.25), ('icon', x'00ff'), ('name', NULL),
         ('last opened', 9007199254740993);",
    )?;
    tx.commit()?;
    Ok(())
}

/// One thing that the user does: what a person would call it, and the statements.
pub(crate) struct Edit {
    pub(crate) what: &'static str,
    pub(crate) sql: &'static str,
}

/// On the laptop.
pub(crate) const ON_A: &[Edit] = &[
    Edit {
        what: "writes a better title for note 7",
        sql: "UPDATE notes SET title = 'Note 7: the ferry' WHERE id = 'note-00007'",
    },
    Edit { what: "deletes a notebook, and with it its notes", sql: "DELETE FROM notebooks WHERE title LIKE '% 3'" },
    Edit {
        what: "gives note 8 another key; children follow",
        sql: "UPDATE notes SET id = 'note-8-renamed' WHERE id = 'note-00008'",
    },
    Edit {
        what: "measures again",
        sql: "UPDATE readings SET value = value * 1.1 WHERE id LIKE 'reading-%5' OR id LIKE 'reading-%6'",
    },
    Edit { what: "replaces a setting", sql: "REPLACE INTO settings VALUES ('theme', 'light')" },
    Edit {
        what: "makes a tag and puts it on 20 notes",
        sql: "INSERT INTO tags (name) VALUES ('from the laptop');
              INSERT INTO note_tags SELECT id, (SELECT max(id) FROM tags) FROM notes WHERE pinned ORDER BY id LIMIT 20",
    },
];

/// On the phone: in part the same rows.
pub(crate) const ON_B: &[Edit] = &[
    Edit {
        what: "writes more into note 7",
        sql: "UPDATE notes SET body = 'The 07:40 ferry was late; the captain, Zoë, had the 舵.', pinned = 1 WHERE id = 'note-00007'",
    },
    Edit {
        what: "edits a note of the deleted notebook",
        sql: "UPDATE notes SET body = 'Still needed!' WHERE id = 'note-00003'",
    },
    Edit {
        what: "deletes note 12 and writes it anew, same key",
        sql: "DELETE FROM notes WHERE id = 'note-00012';
              INSERT INTO notes SELECT 'note-00012', notebook_id, 'Note 12, again', NULL, 9223372036854775807, 0
              FROM notes WHERE id = 'note-00052'",
    },
    Edit { what: "replaces the same setting", sql: "REPLACE INTO settings VALUES ('theme', 'high contrast')" },
    Edit {
        what: "replaces a tag through its UNIQUE name",
        sql: "INSERT OR REPLACE INTO tags (id, name) VALUES (1024, 'tag 5')",
    },
    Edit {
        what: "makes a tag, too, and puts it on 30 notes",
        sql: "INSERT INTO tags (id, name) VALUES (25, 'from the phone');
              INSERT INTO note_tags SELECT id, 25 FROM notes WHERE NOT pinned AND id > 'note-00100' ORDER BY id LIMIT 30",
    },
    Edit {
        what: "writes 200 notes",
        sql: "INSERT INTO notes SELECT 'phone-' || substr(id, 6), notebook_id, 'On the road: ' || title, body, written_ns + 1, 0 \
              FROM notes WHERE id > 'note-00020' ORDER BY id LIMIT 200",
    },
];

/// Does one edit.
pub(crate) fn apply(conn: &Connection, edit: &Edit) -> Result<()> {
    conn.execute_batch(edit.sql).map_err(|e| format!("{}: {e}", edit.what))?;
    Ok(())
}

fn notebook(n: u32) -> [u8; 16] {
    let mut id = *b"\x6b\x1d\x0c\x52\x00\x00\x40\x00\x80\x00\x00\x00\x00\x00\x00\x00";
    id[12..].copy_from_slice(&n.to_be_bytes());
    id
}

fn note(n: u32) -> String {
    format!("note-{n:05}")
}

fn written(n: u32) -> i64 {
    1_790_000_000_123_456_789 + i64::from(n) * 86_400_000_000_007
}

const NOTEBOOKS: u32 = 40;
