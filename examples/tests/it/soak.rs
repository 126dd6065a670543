//! Three devices do what comes to mind on the notebook's schema, sync when they feel like it, and agree
//! in the end.

use std::path::{Path, PathBuf};

use examples::lab::Lab;
use examples::proof::{self, Except};
use rusqlite::Connection;
use sync_client::{Client, Policy};
use sync_server::limits::Limits;

const SCHEMA: &str = include_str!("../../src/bin/quickstart/notebook.sql");

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// One statement of an app. Many do nothing, or are refused by the schema: that is an app's life, too.
fn statement(dice: &mut Dice) -> String {
    let (n, m, k) = (dice.roll(12), dice.roll(12), dice.roll(1000));
    let notebook = format!("x'0000000000000000000000000000000{:x}'", dice.roll(4));
    match dice.roll(22) {
        0 => format!("INSERT INTO notebooks VALUES ({notebook}, 'book {k}')"),
        1 => format!("DELETE FROM notebooks WHERE id = {notebook}"),
        2 => format!("REPLACE INTO notebooks VALUES ({notebook}, 'again {k}')"),
        3 | 4 => format!("INSERT INTO notes VALUES ('n{n}', {notebook}, 't {k}', NULL, {k}, 0)"),
        5 => format!("UPDATE notes SET title = 't {k}' WHERE id = 'n{n}'"),
        6 => {
            format!("UPDATE notes SET body = coalesce(body, '') || 'β{k}', notebook_id = {notebook} WHERE id = 'n{n}'")
        }
        7 => format!("UPDATE notes SET id = 'n{m}' WHERE id = 'n{n}'"),
        8 => format!("DELETE FROM notes WHERE id = 'n{n}'"),
        9 => format!("INSERT INTO tags (name) VALUES ('tag {n}')"),
        10 => format!("INSERT OR REPLACE INTO tags (id, name) VALUES ({m}, 'tag {n}')"),
        11 => format!("UPDATE tags SET name = 'tag {m}' WHERE id = {n}"),
        12 => format!("UPDATE OR REPLACE tags SET id = {m} WHERE id = {n}"),
        13 => format!("DELETE FROM tags WHERE id = {n}"),
        14 | 15 => {
            format!("INSERT OR IGNORE INTO note_tags SELECT 'n{n}', id FROM tags ORDER BY id LIMIT 2 OFFSET {}", m / 3)
        }
        16 => format!("DELETE FROM note_tags WHERE note_id = 'n{n}'"),
        17 => format!("INSERT OR REPLACE INTO attachments VALUES ('a{n}', 'n{m}', NULL, randomblob(8))"),
        18 => format!("UPDATE attachments SET note_id = 'n{m}' WHERE id = 'a{n}'"),
        19 => format!(
            "INSERT INTO readings VALUES ('r{n}', 'n{m}', 9e999) ON CONFLICT DO UPDATE SET value = {k}.5, note_id = 'n{m}'"
        ),
        20 => format!("UPDATE readings SET value = -value WHERE note_id IS NOT NULL OR id > 'r{n}'"),
        _ => {
            format!("REPLACE INTO settings VALUES ('s{n}', {})", ["NULL", "1", "1.0", "'1'", "x'01'"][(k % 5) as usize])
        }
    }
}

fn work(file: &Path, dice: &mut Dice) {
    let conn = Connection::open(file).unwrap();
    conn.pragma_update(None, "foreign_keys", true).unwrap();
    // Without it, REPLACE leaves the app's own full-text index behind.
    conn.pragma_update(None, "recursive_triggers", true).unwrap();
    let together = dice.roll(3) == 0;
    if together {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    }
    for _ in 0..dice.roll(8) {
        match conn.execute_batch(&statement(dice)) {
            Ok(()) => {}
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == rusqlite::ErrorCode::ConstraintViolation => {}
            Err(e) => panic!("{e}"),
        }
    }
    if together {
        conn.execute_batch(if dice.roll(4) == 0 { "ROLLBACK" } else { "COMMIT" }).unwrap();
    }
}

fn soak(seed: u64) {
    let mut dice = Dice(seed);
    // With a short history a device that was away rebuilds from a snapshot, over its pending edits.
    let retained_bundles = if seed.is_multiple_of(2) { 3 } else { Limits::default().retained_bundles };
    let lab = Lab::start_with(SCHEMA, Limits { retained_bundles, ..Limits::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3).map(|n| dir.path().join(format!("{n}.db"))).collect();
    let clients: Vec<Client> = files
        .iter()
        .enumerate()
        .map(|(n, file)| {
            Connection::open(file).unwrap().execute_batch(SCHEMA).unwrap();
            let policy = if n == 1 { Policy::ClientWins } else { Policy::ServerWins };
            lab.device(file).policy(policy).open().unwrap()
        })
        .collect();
    let calm = 2 + dice.roll(6);
    for step in 0..40 {
        let n = usize::try_from(dice.roll(3)).unwrap();
        work(&files[n], &mut dice);
        if dice.roll(calm) == 0 {
            clients[n].sync().unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        }
    }
    let mut rounds = 0;
    loop {
        let reports: Vec<_> = clients.iter().map(|c| c.sync().unwrap_or_else(|e| panic!("seed {seed}: {e}"))).collect();
        if reports.iter().all(|r| r.push.committed_rows + r.pull.applied_rows == 0) {
            break;
        }
        rounds += 1;
        assert!(rounds < 20, "seed {seed}: the devices never come to rest: {reports:?}");
    }
    let tables = clients[0].status().unwrap().tables;
    let mut except = Except::new();
    for c in &clients {
        except.extend(c.rejected().unwrap().into_iter().map(|r| (r.table, r.key)));
    }
    let server = proof::of_server(&lab.url(), &except).unwrap();
    for (n, file) in files.iter().enumerate() {
        let mut digest = proof::of_file(file, &tables, &except).unwrap();
        digest.left_out = server.left_out;
        assert_eq!(digest, server, "seed {seed}, device {n}, waiting: {:#?}", clients[n].pending().unwrap());
        assert_eq!(proof::full_text_indexes(file).map_err(|e| e.to_string()), Ok(1), "seed {seed}, device {n}");
        let conn = Connection::open(file).unwrap();
        let sql = "SELECT \"table\" || ' -> ' || parent FROM pragma_foreign_key_check";
        let broken: Vec<String> =
            conn.prepare(sql).unwrap().query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(broken.is_empty(), "seed {seed}, device {n}: {broken:?}, inbox: {:#?}", clients[n].rejected().unwrap());
    }
}

#[test]
fn devices_agree_in_the_end() {
    let runs: u64 = std::env::var("SOAK_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let first: u64 = std::env::var("SOAK_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    (first..first + runs).for_each(soak);
}
