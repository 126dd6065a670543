//! A conflict settled by merging: two devices edit the same row offline, and the app decides column by
//! column, with the row as it was before both edits at hand.
//!
//! ```sh
//! cargo run -p examples --bin merge
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use examples::lab::Lab;
use examples::proof::Except;
use examples::show::{Colour, heading, paint};
use examples::{Result, proof};
use rusqlite::Connection;
use sync_client::{Conflict, Policy, Resolution, RowValues, Value};

const SCHEMA: &str = "CREATE TABLE recipe (
    id     TEXT PRIMARY KEY NOT NULL,
    title  TEXT NOT NULL,
    steps  TEXT NOT NULL,
    cooked INTEGER NOT NULL
);";

/// A column that only one side changed is that side's. Where both did: numbers add up what each side
/// added, texts keep both, and anything else is the server's.
fn merge(base: &RowValues, local: &RowValues, server: &RowValues) -> RowValues {
    let mut merged = server.clone();
    for (column, ours) in local {
        let (before, theirs) = (base.get(column), server.get(column));
        if before == Some(ours) || theirs == Some(ours) {
            continue;
        }
        let value = match (before, ours, theirs) {
            _ if before == theirs => ours.clone(),
            (Some(Value::Integer(b)), Value::Integer(o), Some(Value::Integer(t))) => {
                Value::Integer(t.saturating_add(o.saturating_sub(*b)))
            }
            (_, Value::Text(o), Some(Value::Text(t))) => Value::Text(format!("{t}\n{o}")),
            _ => continue,
        };
        merged.insert(column.clone(), value);
    }
    merged
}

/// The policy. A row that one side deleted, or that has no base, is left to the server.
fn resolve(conflict: &Conflict) -> Resolution {
    match (&conflict.base, &conflict.local, &conflict.server) {
        (Some(base), Some(local), Some(server)) => Resolution::Merged(merge(base, local, server)),
        _ => Resolution::TakeServer,
    }
}

fn main() -> Result<()> {
    let lab = Lab::start(SCHEMA)?;
    let dir = tempfile::tempdir()?;
    let files = [dir.path().join("kitchen.db"), dir.path().join("shop.db")];
    for file in &files {
        Connection::open(file)?.execute_batch(SCHEMA)?;
    }
    let kitchen = lab.device(&files[0]).open()?;
    Connection::open(&files[0])?.execute_batch("INSERT INTO recipe VALUES ('soup', 'Soup', 'Boil water.', 3)")?;
    kitchen.sync()?;

    // The resolver gets values and returns values; what it saw is kept here only to be printed.
    let seen: Arc<Mutex<Vec<Conflict>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let policy = Policy::Custom(Arc::new(move |c| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(c.clone());
        resolve(c)
    }));
    let shop = lab.device(&files[1]).table_policy("recipe", policy).open()?;
    shop.sync()?;

    Connection::open(&files[0])?
        .execute_batch("UPDATE recipe SET steps = 'Boil water. Salt it.', cooked = cooked + 2")?;
    Connection::open(&files[1])?.execute_batch(
        "UPDATE recipe SET title = 'Lentil soup', steps = 'Boil water. Add lentils.', cooked = cooked + 1",
    )?;
    kitchen.sync()?;
    shop.sync()?;
    kitchen.sync()?;

    for c in seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        heading(&format!("A conflict in {} {}", c.table, c.key));
        show("before", c.base.as_ref());
        show("shop", c.local.as_ref());
        show("kitchen", c.server.as_ref());
        if let Resolution::Merged(merged) = resolve(c) {
            show("merged", Some(&merged));
        }
    }
    let (tables, all) = (["recipe".to_owned()], Except::new());
    let (a, b) = (proof::of_file(&files[0], &tables, &all)?, proof::of_file(&files[1], &tables, &all)?);
    let merged: (String, String, i64) =
        Connection::open(&files[0])?
            .query_row("SELECT title, steps, cooked FROM recipe", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    let expected = ("Lentil soup".to_owned(), "Boil water. Salt it.\nBoil water. Add lentils.".to_owned(), 6);
    if a != b || a != proof::of_server(&lab.url(), &all)? || merged != expected {
        return Err("the devices do not hold the merged row".into());
    }
    println!("\n{}", paint(Colour::Green, "Both devices and the server hold the merged row."));
    Ok(())
}

fn show(who: &str, row: Option<&RowValues>) {
    let text = |v: &Value| match v {
        Value::Integer(i) => i.to_string(),
        Value::Text(s) => format!("{s:?}"),
        other => other.class().to_owned(),
    };
    let columns = row.map(|r| r.iter().filter(|(c, _)| *c != "id").map(|(c, v)| format!("{c} {}", text(v))).collect());
    println!("  {who:<8} {}", columns.map_or_else(|| "(deleted)".to_owned(), |c: Vec<String>| c.join("  ")));
}
