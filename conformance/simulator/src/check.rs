//! The invariants: after each verb those of one file, and at the end those of the whole world.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::accounts::is_exported;
use crate::app::tokens;
use crate::device::{Device, Seen, lock, rows, seen};
use crate::ledger::all_tokens;
use crate::model::{Id, State, UserModel, Val, table};
use crate::plan::Way;
use crate::world::{Violation, World};

impl World {
    /// One file between two verbs: constraints hold, search is right, and what is not local work is a state
    /// of the server's history.
    pub(crate) fn check_device(&self, d: &Device) {
        if let Err(e) = self.checked(d) {
            self.fail(Violation::new("a file can be read", format!("device {}: {e}", d.index)));
        }
    }

    fn checked(&self, d: &Device) -> rusqlite::Result<()> {
        let app = lock(&d.app);
        let Some(conn) = app.as_ref() else { return Ok(()) };
        if d.setup.foreign_keys {
            let mut s = conn.prepare_cached("SELECT \"table\" || ' -> ' || parent FROM pragma_foreign_key_check")?;
            let broken: Vec<String> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
            if !broken.is_empty() {
                self.fail(Violation::new("foreign keys hold", format!("device {}: {broken:?}", d.index)));
            }
        }
        // In a history that follows one which is lost, the number is all that tells whether two rows are the same.
        let rewritten = *lock(&self.was_away) || lock(&self.models).values().any(UserModel::was_rewritten);
        for (table, sql) in [
            ("things", "SELECT count(*) FROM things t JOIN boxes b ON b.id = t.box WHERE t.of <> substr(b.made, 3)"),
            ("labels", "SELECT count(*) FROM labels l JOIN boxes b ON b.id = l.box WHERE l.of <> substr(b.made, 3)"),
        ] {
            let strange: i64 = conn.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
            if strange > 0 && !rewritten {
                let text = format!("device {}: {strange} {table} are of another box than they were made to", d.index);
                self.fail(Violation::new("references mean the row that they were made to", text));
            }
        }
        if let Err(e) = conn.execute_batch("INSERT INTO search(search, rank) VALUES ('integrity-check', 1)") {
            self.fail(Violation::new("search is right", format!("device {}: {e}", d.index)));
        }
        let wrong = if self.helpers { crate::helpers::wrong(conn)? } else { Vec::new() };
        if !wrong.is_empty() {
            self.fail(Violation::new("helpers are as if filled afresh", format!("device {}: {wrong:?}", d.index)));
        }
        if self.helpers {
            self.covered("helpers", "compared");
        }
        // After the indexes' own checks, which also make this connection read them anew.
        let sound: String = conn.query_row("PRAGMA quick_check", [], |r| r.get(0))?;
        if sound != "ok" {
            self.fail(Violation::new("the file is sound", format!("device {}: {sound}", d.index)));
        }
        let (notes, tally): (i64, i64) =
            conn.query_row("SELECT (SELECT count(*) FROM notes), n FROM tally", [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        if notes != tally {
            self.fail(Violation::new("counters are right", format!("device {}: {tally} for {notes}", d.index)));
        }
        let Some(seen) = seen(conn)? else { return Ok(()) };
        if seen.settled && !d.unseen.load(Ordering::Relaxed) {
            let rows = rows(conn)?;
            let models = lock(&self.models);
            let Some(model) = models.get(lock(&d.user).as_str()) else { return Ok(()) };
            if let Some(wrong) = prefix(model, &seen, &rows, self.same()) {
                drop(models);
                let message = format!("device {} at {}: {wrong}", d.index, seen.checkpoint);
                self.fail(Violation::new("reads are a prefix of history", message));
            }
        }
        Ok(())
    }

    /// Faults stop: every queue drains, every file is the same, and everything written is accounted for.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        self.tell(|| "settle".into());
        self.clear_the_way();
        lock(&self.run).late.clear();
        let mut calm = 0;
        for round in 0.. {
            let before = self.picture();
            for n in 0..self.devices() {
                self.clock.fetch_add(61_000, Ordering::Relaxed);
                self.plain_sync(n);
                self.import_rest(&self.device(n));
                self.check_device(&self.device(n));
            }
            if let Some(v) = lock(&self.violation).clone() {
                return Err(v);
            }
            // Who waits for another device's lease is not at rest.
            let waits = std::mem::take(&mut *lock(&self.waits));
            calm = if self.picture() == before && !waits { calm + 1 } else { 0 };
            if calm == 2 {
                break;
            }
            if round == MOST_ROUNDS {
                return Err(Violation::new("every queue drains", self.restless()));
            }
        }
        self.finished()?;
        lock(&self.violation).clone().map_or(Ok(()), Err)
    }

    /// What has to stand still for the world to be at rest.
    fn picture(&self) -> Vec<(i64, String, usize, usize, State)> {
        (0..self.devices())
            .map(|n| {
                let d = self.device(n);
                let app = lock(&d.app);
                let conn = app.as_ref().expect("invariant: the app runs");
                let seen = seen(conn).ok().flatten().unwrap_or_default();
                let rows = rows(conn).unwrap_or_default();
                (seen.checkpoint, seen.outbox, seen.intents.len() + seen.fetched.len(), seen.held.len(), rows)
            })
            .collect()
    }

    fn restless(&self) -> String {
        let pending: Vec<String> = (0..self.devices())
            .map(|n| {
                let d = self.device(n);
                let waits = lock(&d.client).as_ref().map(|c| c.pending().map_err(|e| e.to_string()));
                format!("device {n}: {waits:?}")
            })
            .collect();
        format!("the devices never come to rest: {}", pending.join("; "))
    }

    fn finished(&self) -> Result<(), Violation> {
        let mut found = BTreeSet::new();
        let mut inboxes = String::new();
        let mut held = BTreeSet::new();
        let mut there = BTreeSet::new();
        for n in 0..self.devices() {
            let d = self.device(n);
            let app = lock(&d.app);
            let conn = app.as_ref().expect("invariant: the app runs");
            let wrong = |e: rusqlite::Error| Violation::new("a file can be read", e.to_string());
            let (seen, rows) = (seen(conn).map_err(wrong)?.unwrap_or_default(), rows(conn).map_err(wrong)?);
            held.extend(seen.held.iter().cloned());
            // What the server did to a row may wait for this file's side: its line in `status` says so.
            let waiting: Vec<&Id> =
                seen.intents.difference(&seen.held).chain(seen.fetched.difference(&seen.aside)).collect();
            if !waiting.is_empty() || seen.outbox != "none" || !seen.settled {
                let text = format!(
                    "device {n}: {waiting:?} wait, the outbox is {}, settled: {}; {}",
                    seen.outbox,
                    seen.settled,
                    self.restless()
                );
                return Err(Violation::new("every queue drains", text));
            }
            let user = lock(&d.user).clone();
            let models = lock(&self.models);
            let empty = UserModel::default();
            let model = models.get(&user).unwrap_or(&empty);
            if seen.checkpoint != model.latest() {
                let text = format!("device {n} rests at {} of {}", seen.checkpoint, model.latest());
                return Err(Violation::new("every device arrives", text));
            }
            if let Some(wrong) = differs(model.now(), &seen, &rows, self.same()) {
                return Err(Violation::new("all replicas converge", format!("device {n}: {wrong}")));
            }
            for (id, row) in model.now().iter() {
                there.extend(row.values().flat_map(crate::model::tokens_of).map(|t| (id.clone(), t)));
            }
            // What a refusal holds back is still in its table.
            found.extend(all_tokens(&rows.into_iter().filter(|(id, _)| seen.held.contains(id)).collect()));
            seen.reasons.iter().for_each(|r| self.covered("settled", r));
            for entry in seen.inbox {
                // What was exported has to be where it was imported.
                if is_exported(&entry) {
                    continue;
                }
                found.extend(tokens_of_entry(&entry));
                inboxes.push_str(&entry);
                inboxes.push('\n');
            }
        }
        let happened = |name: &str| lock(&self.cover).count("history", name) > 0;
        // Such a file does not know what it pushed, and still means to insert what others deleted since.
        let older_self = ["device copied", "device restored", "user switched"].into_iter().any(happened);
        let pushers_forget = older_self || lock(&self.models).values().any(UserModel::forgot);
        for model in lock(&self.models).values() {
            found.extend(&model.cascaded);
            if pushers_forget {
                found.extend(&model.taken_from_pusher);
            }
            found.extend(all_tokens(model.now()));
        }
        found.extend(self.tokens_left_in_exports());
        self.server_agrees()?;
        (0..self.devices()).for_each(|n| self.verify(n));
        let ledger = lock(&self.ledger);
        let missing = ledger.missing(&found);
        if !missing.is_empty() {
            return Err(Violation::new("no write is lost", format!("token (hash) and device: {missing:?}")));
        }
        // A delete that came between the loss of the server's history and the merge of the devices that have the
        // row still is nobody's to know. Data that stay away are a history that is lost; those that came back are not.
        // Nor what one of two files said that meet as strangers.
        let rewritten = older_self
            || happened("twins")
            || lock(&self.away).is_some()
            || lock(&self.models).values().any(UserModel::was_rewritten);
        // Whoever joins while most of the account's rows are still on their way is not asked.
        let asked = |answer| lock(&self.cover).count("copy", answer);
        if asked("copy") + 1 >= self.devices() as u64
            && asked("merge") == 0
            && happened("twins")
            && !older_self
            && !lock(&self.models).values().any(UserModel::was_rewritten)
        {
            self.covered("copy", "compared");
            self.no_copy_is_doubled()?;
        }
        for (table, key) in ledger.resurrected(&there).into_iter().filter(|_| !rewritten) {
            let named = held.contains(&(*table, key.clone()))
                || key.iter().all(|v| match v {
                    Val::Text(s) => inboxes.contains(s.as_str()),
                    Val::Int(i) => inboxes.contains(&format!("\"{i}\"")),
                    _ => true,
                });
            if !named {
                let text = format!("{table} {key:?} was deleted, is there again, and no inbox knows why");
                return Err(Violation::new("no delete is undone in silence", text));
            }
        }
        Ok(())
    }

    /// Rows of files that are copies of one another are one row each, where everybody said that they are.
    fn no_copy_is_doubled(&self) -> Result<(), Violation> {
        for model in lock(&self.models).values() {
            let there =
                |label: &str| model.now().iter().any(|(_, row)| row.get("label") == Some(&Val::Text(label.into())));
            // The row of that number, as the first file has it, and as the file of that number had changed it.
            if let Some(n) =
                (1..self.devices()).find(|n| there(&format!("<w0:{}>", 20 + n)) && there(&format!("<w{n}>")))
            {
                return Err(Violation::new("no copy is doubled", format!("row {} of counters is there twice", 20 + n)));
            }
        }
        Ok(())
    }

    /// What counts as one value: a server that sends doubles leaves rounded ones in files.
    fn same(&self) -> fn(&Val, &Val) -> bool {
        if self.way() == Way::June { crate::june::same_rounded } else { Val::eq }
    }

    /// The server's own snapshot is the model's state.
    fn server_agrees(&self) -> Result<(), Violation> {
        for (user, model) in lock(&self.models).iter() {
            if model.latest() == 0 {
                continue;
            }
            let rows = self.snapshot(user).map_err(|e| Violation::new("the server can be read", e))?;
            if let Some(wrong) = differs(model.now(), &Seen::default(), &rows, Val::eq) {
                return Err(Violation::new("the server has what was committed", wrong));
            }
        }
        Ok(())
    }

    fn snapshot(&self, user: &str) -> Result<State, String> {
        let service = self.server.service();
        let caller = crate::server::caller(user, "observer", true);
        let session = service.create_snapshot(&caller, Default::default()).map_err(|e| e.to_string())?;
        let mut out = State::new();
        let mut after = 0;
        loop {
            let request = sync_server::service::SnapshotPageRequest { after_row_ordinal: after, max_rows: None };
            let body = service.snapshot_page(&caller, &session.snapshot_id, request).map_err(|e| e.to_string())?;
            let text: Vec<u8> = body.flatten().flatten().collect();
            let page: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
            for row in page["rows"].as_array().ok_or("rows")? {
                let def = table(row["table"].as_str().unwrap_or_default()).ok_or("table")?;
                let id = (def.name, crate::wire::read_key(def, &row["key"])?);
                out.insert(id, crate::wire::read_row(def, &row["payload"])?);
            }
            after = page["next_row_ordinal"].as_i64().unwrap_or_default();
            if page["has_more"] != true {
                break;
            }
        }
        service.delete_snapshot(&caller, &session.snapshot_id).map_err(|e| e.to_string())?;
        Ok(out)
    }
}

/// The tokens in an inbox entry, in texts and in blobs.
pub(crate) fn tokens_of_entry(entry: &str) -> Vec<u64> {
    use base64::Engine as _;
    let blobs = entry
        .split("{\"$blob\":\"")
        .skip(1)
        .filter_map(|rest| base64::engine::general_purpose::STANDARD.decode(rest.split('"').next()?).ok())
        .flat_map(|bytes| tokens(&String::from_utf8_lossy(&bytes)).collect::<Vec<_>>());
    tokens(entry).chain(blobs).collect()
}

/// Whether the rows that are no local work are a state of the history; what is wrong otherwise.
fn prefix(model: &UserModel, seen: &Seen, rows: &State, same: fn(&Val, &Val) -> bool) -> Option<String> {
    let mut first = None;
    for state in model.at(seen.checkpoint) {
        let wrong = differs(state, seen, rows, same)?;
        first.get_or_insert(wrong);
    }
    Some(first.unwrap_or_else(|| "no history has this bundle".into()))
}

/// The first row that is another here than there, local work aside.
fn differs(state: &State, seen: &Seen, rows: &State, same: fn(&Val, &Val) -> bool) -> Option<String> {
    let skip = |id: &Id| seen.in_motion(id);
    for (id, row) in rows.iter().filter(|(id, _)| !skip(id)) {
        let Some(there) = state.get(id) else { return Some(format!("{id:?} is {row:?}, it should not be")) };
        for (column, v) in row {
            let other = there.get(column).unwrap_or(&Val::Null);
            if !same(v, other) {
                return Some(format!("{id:?}: {column} is {v:?}, it should be {other:?}"));
            }
        }
    }
    let known: BTreeSet<&str> = rows.keys().map(|(t, _)| *t).collect();
    state
        .iter()
        .find(|(id, _)| !skip(id) && !rows.contains_key(*id) && (id.0 != "extras" || known.contains("extras")))
        .map(|(id, row)| format!("{id:?} is missing, it should be {row:?}"))
}

/// Rounds of all devices in which the world has to come to rest once faults have stopped.
const MOST_ROUNDS: u32 = 14;
