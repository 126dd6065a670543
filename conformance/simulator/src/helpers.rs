//! What an app keeps beside a synced table with INTEGER keys, by triggers: after whatever a client did, each of it is
//! what it is when filled afresh.

use rusqlite::Connection;

/// An index that says what it forgets and looks at changes of the label only; one that has its own content, with an
/// R-tree and a counter by INSERT and DELETE; one that reads its content before that changes; counts by parent, with
/// WHEN. An app that changes a key changes the label, too: its own SQL keeps all of them right.
pub(crate) const HELPERS: &str = "
CREATE VIRTUAL TABLE told USING fts5(label, content='counters', content_rowid='id');
CREATE TRIGGER told_i AFTER INSERT ON counters BEGIN INSERT INTO told(rowid, label) VALUES (NEW.id, NEW.label); END;
CREATE TRIGGER told_d AFTER DELETE ON counters BEGIN
  INSERT INTO told(told, rowid, label) VALUES ('delete', OLD.id, OLD.label); END;
CREATE TRIGGER told_u AFTER UPDATE OF label ON counters WHEN OLD.label <> NEW.label BEGIN
  INSERT INTO told(told, rowid, label) VALUES ('delete', OLD.id, OLD.label);
  INSERT INTO told(rowid, label) VALUES (NEW.id, NEW.label); END;
CREATE VIRTUAL TABLE own USING fts5(label);
CREATE VIRTUAL TABLE lengths USING rtree(id, low, high);
CREATE TABLE total (n INTEGER NOT NULL);
INSERT INTO total VALUES (0);
CREATE TRIGGER own_i AFTER INSERT ON counters BEGIN
  INSERT INTO own(rowid, label) VALUES (NEW.id, NEW.label);
  INSERT INTO lengths VALUES (NEW.id, length(NEW.label), length(NEW.label)); UPDATE total SET n = n + 1; END;
CREATE TRIGGER own_d AFTER DELETE ON counters BEGIN
  DELETE FROM own WHERE rowid = OLD.id; DELETE FROM lengths WHERE id = OLD.id; UPDATE total SET n = n - 1; END;
CREATE TRIGGER own_u AFTER UPDATE OF label ON counters BEGIN
  DELETE FROM own WHERE rowid = OLD.id; INSERT INTO own(rowid, label) VALUES (NEW.id, NEW.label);
  UPDATE lengths SET id = NEW.id, low = length(NEW.label), high = length(NEW.label) WHERE id = OLD.id; END;
CREATE VIRTUAL TABLE read USING fts5(label, content='counters', content_rowid='id');
CREATE TRIGGER read_i AFTER INSERT ON counters BEGIN INSERT INTO read(rowid, label) VALUES (NEW.id, NEW.label); END;
CREATE TRIGGER read_d BEFORE DELETE ON counters BEGIN DELETE FROM read WHERE rowid = OLD.id; END;
CREATE TRIGGER read_bu BEFORE UPDATE OF label ON counters BEGIN DELETE FROM read WHERE rowid = OLD.id; END;
CREATE TRIGGER read_au AFTER UPDATE OF label ON counters BEGIN
  INSERT INTO read(rowid, label) VALUES (NEW.id, NEW.label); END;
CREATE TABLE children (parent INTEGER, n INTEGER NOT NULL);
CREATE TRIGGER children_i AFTER INSERT ON counters WHEN NEW.parent IS NOT NULL BEGIN
  INSERT INTO children SELECT NEW.parent, 0 WHERE NEW.parent NOT IN (SELECT parent FROM children);
  UPDATE children SET n = n + 1 WHERE parent = NEW.parent; END;
CREATE TRIGGER children_d AFTER DELETE ON counters WHEN OLD.parent IS NOT NULL BEGIN
  UPDATE children SET n = n - 1 WHERE parent = OLD.parent; END;
CREATE TRIGGER children_u AFTER UPDATE OF parent ON counters WHEN OLD.parent IS NOT NEW.parent BEGIN
  UPDATE children SET n = n - 1 WHERE parent = OLD.parent;
  INSERT INTO children SELECT NEW.parent, 0 WHERE NEW.parent NOT IN (SELECT parent FROM children);
  UPDATE children SET n = n + 1 WHERE parent = NEW.parent; END;
";

/// What is not as if it were filled afresh.
///
/// # Errors
/// SQLite's.
pub(crate) fn wrong(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut out = Vec::new();
    for (index, with_content) in [("told", 1), ("read", 1), ("own", 0)] {
        let check = format!("INSERT INTO {index}({index}, rank) VALUES ('integrity-check', {with_content})");
        if let Err(e) = conn.prepare_cached(&check)?.execute([]) {
            out.push(format!("{index}: {e}"));
        }
    }
    for (what, sql) in [
        ("own", "SELECT count(*) FROM (SELECT rowid, label FROM own EXCEPT SELECT id, label FROM counters)"),
        ("own lacks", "SELECT count(*) FROM (SELECT id, label FROM counters EXCEPT SELECT rowid, label FROM own)"),
        ("total", "SELECT n <> (SELECT count(*) FROM counters) FROM total"),
        ("lengths", "SELECT count(*) FROM (SELECT id, low FROM lengths EXCEPT SELECT id, length(label) FROM counters)"),
        (
            "lengths lacks",
            "SELECT count(*) FROM (SELECT id, length(label) FROM counters EXCEPT SELECT id, low FROM lengths)",
        ),
        (
            "children",
            "SELECT count(*) FROM children WHERE n <> (SELECT count(*) FROM counters c WHERE c.parent = children.parent)",
        ),
        (
            "children lacks",
            "SELECT count(*) FROM counters WHERE parent IS NOT NULL AND parent NOT IN (SELECT parent FROM children)",
        ),
    ] {
        let n: i64 = conn.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        if n != 0 {
            out.push(format!("{what}: {n}"));
        }
    }
    Ok(out)
}
