//! Rows that hold text which is not UTF-8, as an import of long ago leaves them: they cannot travel and cannot be
//! compared, and neither they nor what other devices write is lost for that.

use crate::world::{Device, World, converge};

const PEOPLE: &str = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, phone TEXT, email TEXT UNIQUE);
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, person TEXT REFERENCES people(id) ON DELETE CASCADE, body TEXT);";

/// Two devices with the same row, of which `b` has broken the name and `a` changed the phone.
fn broken_here_and_changed_there(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people VALUES ('k', 'kim', '1', 'e')");
    converge(&[&a, &b]);
    b.sql("UPDATE people SET name = CAST(x'4bfc6d' AS TEXT)");
    b.sync();
    a.sql("UPDATE people SET phone = '2'");
    a.sync();
    b.sync();
    assert_eq!(b.text("SELECT hex(name) FROM people"), "4BFC6D", "it waits as it is");
    assert_eq!(b.client().rejected().unwrap()[0].reason, "not_utf8");
    (a, b)
}

#[test]
fn a_corrected_row_meets_what_others_wrote_meanwhile() {
    for correction in ["Kim", "kim"] {
        let w = World::with(PEOPLE, Default::default());
        let (a, b) = broken_here_and_changed_there(&w);
        b.sql(&format!("UPDATE people SET name = '{correction}'"));
        converge(&[&b, &a]);
        assert_eq!(b.text("SELECT name || phone FROM people"), "kim2", "{correction}");
        let kept = b.client().discarded().unwrap();
        let kept: Vec<&str> = kept.iter().filter_map(|r| r.local_row.as_deref()).collect();
        assert!(kept.iter().any(|r| r.contains(&format!("\"{correction}\""))), "{correction} {kept:?}");
    }
}

#[test]
fn a_row_that_is_given_up_is_as_others_left_it() {
    let w = World::with(PEOPLE, Default::default());
    let (a, b) = broken_here_and_changed_there(&w);
    assert!(b.client().drop_row("people", "k").unwrap());
    converge(&[&b, &a]);
    assert_eq!(b.text("SELECT name || phone FROM people"), "kim2");
    let kept = b.client().discarded().unwrap();
    assert_eq!((kept.len(), kept[0].op.as_str()), (1, "UPDATE"));
    assert!(kept[0].local_row.as_ref().unwrap().contains(r#""name":{"$blob":"S/xt"}"#), "{kept:?}");
}

#[test]
fn a_delete_by_others_is_not_undone_by_a_correction() {
    for rebuild in [false, true] {
        let w = World::with(PEOPLE, Default::default());
        let (a, b) = broken_here_and_changed_there(&w);
        a.sql("DELETE FROM people");
        a.sync();
        if rebuild {
            b.client().rebuild().unwrap();
        }
        b.sync();
        assert_eq!(b.count("SELECT count(*) FROM people"), 1, "it waits as it is");
        b.sql("UPDATE people SET name = 'Kim'");
        converge(&[&b, &a]);
        assert_eq!(b.count("SELECT count(*) FROM people"), 0);
        assert!(b.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("\"Kim\""));
    }
}

#[test]
fn a_row_that_has_to_leave_is_kept_byte_for_byte() {
    let w = World::with(PEOPLE, Default::default());
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people VALUES ('k', 'kim', '1', 'old'), ('l', 'lou', '1', NULL)");
    converge(&[&a, &b]);
    b.sql(
        "UPDATE people SET name = CAST(x'4bfc6d' AS TEXT), email = 'e' WHERE id = 'k';
         INSERT INTO notes VALUES ('n', 'l', CAST(x'fc' AS TEXT))",
    );
    b.sync();
    a.sql("INSERT INTO people VALUES ('j', 'jo', '2', 'e'); DELETE FROM people WHERE id = 'l'");
    converge(&[&a, &b]);
    assert_eq!(
        b.text("SELECT group_concat(id || name || email) FROM (SELECT * FROM people ORDER BY id)"),
        "jjoe,kkimold"
    );
    let kept = b.client().rejected().unwrap();
    let told: Vec<_> = kept.iter().map(|r| (r.op.as_str(), r.reason.as_str(), r.local_row.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("UPDATE", "unique", Some(r#"{"email":"e","id":"k","name":{"$blob":"S/xt"},"phone":"1"}"#)),
            ("INSERT", "parent_deleted", Some(r#"{"body":{"$blob":"/A=="},"id":"n","person":"l"}"#)),
        ]
    );
    assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
}
