//! The protocol's calls as a well-behaved client makes them, and strict readers of the replies:
//! whatever comes is compared with what the protocol promises, also in the steps before a check's point.

use crate::hashing;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, fail, want};
use crate::rows::Change;

/// A committed row, or a row of a snapshot (`op` is empty then).
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) key: Json,
    pub(crate) op: String,
    pub(crate) version: i64,
    pub(crate) payload: Option<Json>,
}

impl Row {
    /// Whether it is the same row: table and key.
    pub(crate) fn is(&self, schema: &str, table: &str, key: &Json) -> bool {
        self.schema == schema && self.table == table && self.key.same(key)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        let payloads = match (&self.payload, &other.payload) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.is(&other.schema, &other.table, &other.key)
            && self.op == other.op
            && self.version == other.version
            && payloads
    }

    pub(crate) fn shown(&self) -> String {
        let payload = self.payload.as_ref().map_or_else(|| "none".to_owned(), Json::to_string);
        format!("{} {}.{} {} version {} payload {payload}", self.op, self.schema, self.table, self.key, self.version)
    }
}

pub(crate) fn shown_rows(rows: &[Row]) -> String {
    let mut text: Vec<String> = rows.iter().take(5).map(Row::shown).collect();
    if rows.len() > 5 {
        text.push(format!("and {} more", rows.len() - 5));
    }
    if text.is_empty() { "no rows".to_owned() } else { text.join("; ") }
}

/// What a connect said.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) resolution: String,
    pub(crate) id: Option<String>,
    pub(crate) lease: Option<jiff::Timestamp>,
    pub(crate) body: Json,
}

/// The head of a committed bundle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Committed {
    pub(crate) seq: i64,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) row_count: i64,
    pub(crate) hash: String,
    pub(crate) history: Option<String>,
}

/// A bundle of a pull.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) seq: i64,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) rows: Vec<Row>,
    pub(crate) row_count: Option<i64>,
    pub(crate) hash: Option<String>,
    pub(crate) history: Option<String>,
    pub(crate) omitted: bool,
}

/// A page of a pull.
#[derive(Debug, Clone)]
pub(crate) struct Pulled {
    pub(crate) stable: i64,
    pub(crate) bundles: Vec<Bundle>,
    pub(crate) more: bool,
}

impl Pulled {
    pub(crate) fn seqs(&self) -> Vec<i64> {
        self.bundles.iter().map(|b| b.seq).collect()
    }
}

/// A page of rows.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    pub(crate) next: i64,
    pub(crate) more: bool,
}

/// A snapshot session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) row_count: i64,
    pub(crate) byte_count: Option<i64>,
    pub(crate) expires: jiff::Timestamp,
    pub(crate) history: Option<String>,
}

pub(crate) const RESOLUTIONS: [&str; 4] =
    ["remote_authoritative", "initialize_local", "initialize_empty", "retry_later"];

impl Device<'_> {
    pub(crate) fn connect(&self, pending: bool) -> Checked<Connected> {
        let reply = self.post("/sync/connect", format!("{{\"has_local_pending_rows\":{pending}}}"))?;
        read_connected(&reply)
    }

    pub(crate) fn connect_as(&self, pending: bool, resolution: &str) -> Checked<Connected> {
        let c = self.connect(pending)?;
        want!(c.resolution == resolution, format!("connect resolves as {resolution}"), "{}", c.body);
        Ok(c)
    }

    pub(crate) fn create_reply(&self, id: i64, rows: i64) -> Checked<Reply> {
        self.post("/sync/push-sessions", format!("{{\"source_bundle_id\":{id},\"planned_row_count\":{rows}}}"))
    }

    pub(crate) fn create_seed_reply(&self, id: i64, rows: i64, initialization: &str) -> Checked<Reply> {
        let body = format!(
            "{{\"source_bundle_id\":{id},\"planned_row_count\":{rows},\"initialization_id\":{}}}",
            Json::from(initialization)
        );
        self.post("/sync/push-sessions", body)
    }

    /// A session that takes chunks.
    pub(crate) fn create(&self, id: i64, rows: usize) -> Checked<String> {
        read_staging(&self.create_reply(id, rows as i64)?, Some(rows))
    }

    pub(crate) fn create_seed(&self, id: i64, rows: usize, initialization: &str) -> Checked<String> {
        read_staging(&self.create_seed_reply(id, rows as i64, initialization)?, Some(rows))
    }

    pub(crate) fn upload(&self, push: &str, start: i64, rows: &[Change]) -> Checked<Reply> {
        let rows: Vec<String> = rows.iter().map(Change::json).collect();
        self.upload_text(push, start, &rows)
    }

    pub(crate) fn upload_text(&self, push: &str, start: i64, rows: &[String]) -> Checked<Reply> {
        let body = format!("{{\"start_row_ordinal\":{start},\"rows\":[{}]}}", rows.join(","));
        self.post(&format!("/sync/push-sessions/{push}/chunks"), body)
    }

    pub(crate) fn chunk(&self, push: &str, start: usize, rows: &[Change]) -> Checked {
        let reply = self.upload(push, start as i64, rows)?;
        let json = reply.ok()?;
        let (id, next) = (reply.need_text(&json, "push_id")?, reply.need_integer(&json, "next_expected_row_ordinal")?);
        want!(id == push, "a chunk's reply repeats push_id", "{}", reply.came());
        let expected = "next_expected_row_ordinal is the start and the number of rows together";
        want!(next == (start + rows.len()) as i64, expected, "{}", reply.came());
        Ok(())
    }

    pub(crate) fn commit_reply(&self, push: &str) -> Checked<Reply> {
        self.post(&format!("/sync/push-sessions/{push}/commit"), "")
    }

    pub(crate) fn commit(&self, push: &str) -> Checked<Committed> {
        let reply = self.commit_reply(push)?;
        let c = read_committed(&reply, &reply.ok()?)?;
        want!(c.source == self.source_id(), "a bundle is of the source that pushed it", "{}", reply.came());
        self.lab.committed(self.user_id(), c.clone());
        Ok(c)
    }

    /// Pushes rows from beginning to end, in as many chunks as the backend wants.
    pub(crate) fn push(&self, id: i64, rows: &[Change]) -> Checked<Committed> {
        let push = self.create(id, rows.len())?;
        self.fill(&push, rows)?;
        let c = self.commit(&push)?;
        let expected = "a commit's reply has the tuple of its session";
        want!(c.source == self.source_id() && c.source_bundle_id == id, expected, "{c:?}");
        Ok(c)
    }

    pub(crate) fn fill(&self, push: &str, rows: &[Change]) -> Checked {
        let size = self.lab.limit("max_rows_per_push_chunk").map_or(500, |n| n.min(500)) as usize;
        for (n, rows) in rows.chunks(size).enumerate() {
            self.chunk(push, n * size, rows)?;
        }
        Ok(())
    }

    /// Stages rows without committing them.
    pub(crate) fn stage(&self, id: i64, rows: &[Change]) -> Checked<String> {
        let push = self.create(id, rows.len())?;
        self.fill(&push, rows)?;
        Ok(push)
    }

    pub(crate) fn rows_reply(&self, seq: i64, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/committed-bundles/{seq}/rows{query}"))
    }

    /// A page of a committed bundle, compared with what the commit said.
    pub(crate) fn rows_page(&self, c: &Committed, query: &str) -> Checked<Page> {
        let reply = self.rows_reply(c.seq, query)?;
        let json = reply.ok()?;
        let head = read_committed(&reply, &json)?;
        let expected = "a page of a committed bundle repeats what its commit said";
        let same = head.seq == c.seq
            && head.source == c.source
            && head.source_bundle_id == c.source_bundle_id
            && head.row_count == c.row_count
            && (head.hash == c.hash || self.is_exact());
        want!(same, expected, "{}; the commit said {c:?}", reply.came());
        let rows = read_rows(self.lab, &reply, &json, Some(c.seq))?;
        let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
        Ok(Page { rows, next, more })
    }

    /// All rows of a bundle, whose count and hash are those of the commit.
    pub(crate) fn rows(&self, c: &Committed) -> Checked<Vec<Row>> {
        let mut rows = Vec::new();
        let mut query = String::new();
        loop {
            let page = self.rows_page(c, &query)?;
            rows.extend(page.rows);
            let expected = "next_row_ordinal of a committed bundle's page is the ordinal of its last row";
            want!(page.next == rows.len() as i64 - 1, expected, "{} after {} rows", page.next, rows.len());
            if !page.more {
                break;
            }
            query = format!("?after_row_ordinal={}", page.next);
        }
        let expected = "a committed bundle has row_count rows";
        want!(rows.len() as i64 == c.row_count, expected, "{} rows, row_count {}", rows.len(), c.row_count);
        if !self.is_exact() {
            check_hash(&rows, &c.hash, false)?;
        }
        Ok(rows)
    }

    pub(crate) fn pull_reply(&self, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/pull{query}"))
    }

    /// One page of a pull.
    pub(crate) fn pull(&self, query: &str) -> Checked<Pulled> {
        let reply = self.pull_reply(query)?;
        let json = reply.ok()?;
        let stable = reply.need_integer(&json, "stable_bundle_seq")?;
        let more = reply.need_boolean(&json, "has_more")?;
        let Some(items) = reply.need(&json, "bundles")?.items() else {
            return fail("bundles is an array", reply.came());
        };
        let mut bundles: Vec<Bundle> = Vec::new();
        for item in items {
            let seq = reply.need_integer(item, "bundle_seq")?;
            let expected = "bundles of a pull come in order and without a gap";
            want!(bundles.last().is_none_or(|b| b.seq + 1 == seq), expected, "{}", reply.came());
            let omitted = item.get("rows_omitted").and_then(Json::boolean) == Some(true);
            let b = Bundle {
                seq,
                source: reply.need_text(item, "source_id")?,
                source_bundle_id: reply.need_integer(item, "source_bundle_id")?,
                rows: read_rows(self.lab, &reply, item, Some(seq))?,
                row_count: item.get("row_count").and_then(Json::integer),
                hash: item.get("bundle_hash").and_then(Json::text).map(str::to_owned),
                history: item.get("history_hash").and_then(Json::text).map(str::to_owned),
                omitted,
            };
            for (name, there) in [("row_count", b.row_count.is_some()), ("bundle_hash", b.hash.is_some())] {
                want!(
                    item.get(name).is_none() != there,
                    format!("{name} of a bundle has its type"),
                    "{}",
                    reply.came()
                );
            }
            want!(!b.source.is_empty(), "a bundle has its source", "{}", reply.came());
            want!(b.source_bundle_id > 0, "source_bundle_id is 1 or more", "{}", reply.came());
            if !omitted {
                want!(!b.rows.is_empty(), "a bundle of a pull has rows", "{}", reply.came());
                let expected = "row_count of a bundle is the number of its rows";
                want!(b.row_count.is_none_or(|n| n == b.rows.len() as i64), expected, "{}", reply.came());
                if let Some(hash) = &b.hash {
                    check_hash(&b.rows, hash, self.is_exact())?;
                }
            }
            if let Some(c) = self.lab.commit_of(self.user_id(), seq) {
                let same = b.source == c.source && b.source_bundle_id == c.source_bundle_id;
                let count = b.row_count.is_none_or(|n| n == c.row_count);
                want!(
                    same && count,
                    "a pulled bundle has the head that its commit said",
                    "{}, not {c:?}",
                    reply.came()
                );
            }
            bundles.push(b);
        }
        let asked = |name: &str| query.split(['?', '&']).find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        let after = asked("after_bundle_seq").and_then(|n| n.parse().ok()).unwrap_or(0);
        let last = bundles.last().map_or(after, |b| b.seq);
        let expected = "has_more is true exactly while the window has more bundles";
        want!(more == (last < stable), expected, "{}", reply.came());
        Ok(Pulled { stable, bundles, more })
    }

    /// Everything after a checkpoint, page by page, up to the end that the first page froze.
    pub(crate) fn pull_all(&self, after: i64, page: i64) -> Checked<(i64, Vec<Bundle>)> {
        let first = self.pull(&format!("?after_bundle_seq={after}&max_bundles={page}"))?;
        let (stable, mut more, mut bundles) = (first.stable, first.more, first.bundles);
        while more {
            let last = bundles.last().map_or(after, |b| b.seq);
            let next = self.pull(&format!("?after_bundle_seq={last}&max_bundles={page}&target_bundle_seq={stable}"))?;
            want!(
                next.stable == stable,
                "stable_bundle_seq is the target on every page",
                "{} not {stable}",
                next.stable
            );
            let Some(b) = next.bundles.first() else {
                return fail("a page after has_more has a bundle", "an empty page".to_owned());
            };
            want!(b.seq == last + 1, "pages of a pull follow each other without a gap", "{} after {last}", b.seq);
            more = next.more;
            bundles.extend(next.bundles);
        }
        let last = bundles.last().map_or(after, |b| b.seq);
        want!(last == stable, "the last page of a pull reaches stable_bundle_seq", "{last}, not {stable}");
        Ok((stable, bundles))
    }

    pub(crate) fn snapshot_reply(&self, body: &str) -> Checked<Reply> {
        self.post("/sync/snapshot-sessions", body)
    }

    pub(crate) fn snapshot(&self) -> Checked<Session> {
        read_session(&self.snapshot_reply("{}")?)
    }

    pub(crate) fn snapshot_page_reply(&self, id: &str, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/snapshot-sessions/{id}{query}"))
    }

    pub(crate) fn snapshot_page(&self, s: &Session, query: &str) -> Checked<Page> {
        let reply = self.snapshot_page_reply(&s.id, query)?;
        let json = reply.ok()?;
        let expected = "a snapshot page repeats its session's id and bundle";
        let same = reply.need_text(&json, "snapshot_id")? == s.id
            && reply.need_integer(&json, "snapshot_bundle_seq")? == s.seq;
        want!(same, expected, "{}", reply.came());
        let rows = read_rows(self.lab, &reply, &json, None)?;
        for row in &rows {
            let expected = "a snapshot row's version is a bundle of the snapshot";
            want!((1..=s.seq).contains(&row.version), expected, "{}", row.shown());
        }
        let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
        let expected = "has_more of a snapshot page is true exactly while rows are left";
        want!(more == (next < s.row_count && !rows.is_empty()), expected, "{}", reply.came());
        Ok(Page { rows, next, more })
    }

    /// All rows of a session, in pages of so many.
    pub(crate) fn snapshot_all(&self, s: &Session, page: i64) -> Checked<Vec<Row>> {
        let mut rows = Vec::new();
        loop {
            let p = self.snapshot_page(s, &format!("?after_row_ordinal={}&max_rows={page}", rows.len()))?;
            want!(!p.more || !p.rows.is_empty(), "a snapshot page with has_more has rows", "an empty page");
            rows.extend(p.rows);
            let expected = "next_row_ordinal of a snapshot page is the number of rows so far";
            want!(p.next == rows.len() as i64, expected, "{} after {} rows", p.next, rows.len());
            if !p.more {
                break;
            }
        }
        let expected = "a snapshot has row_count rows";
        want!(rows.len() as i64 == s.row_count, expected, "{} rows, row_count {}", rows.len(), s.row_count);
        Ok(rows)
    }

    /// The rows that live now.
    pub(crate) fn state(&self) -> Checked<Vec<Row>> {
        let s = self.snapshot()?;
        self.snapshot_all(&s, 1000)
    }

    /// The row that a snapshot has under this key.
    pub(crate) fn live(&self, c: &Change) -> Checked<Option<Row>> {
        Ok(self.state()?.into_iter().find(|r| r.is(&c.schema, &c.table, &c.key)))
    }

    /// History and snapshot tell the same story: replayed bundles give the live rows.
    pub(crate) fn audit(&self) -> Checked {
        let (stable, bundles) = self.pull_all(0, 1000)?;
        let mut rows: Vec<Row> = Vec::new();
        for bundle in bundles {
            for row in bundle.rows {
                rows.retain(|r| !r.is(&row.schema, &row.table, &row.key));
                if row.op != "DELETE" {
                    rows.push(row);
                }
            }
        }
        let session = self.snapshot()?;
        want!(session.seq == stable, "a snapshot stands at the newest bundle", "{} not {stable}", session.seq);
        let live = self.snapshot_all(&session, 1000)?;
        let expected = "a snapshot holds what the pulled history leaves alive";
        want!(live.len() == rows.len(), expected, "{}; by history {}", shown_rows(&live), shown_rows(&rows));
        for row in &live {
            let found = rows.iter().find(|r| r.is(&row.schema, &row.table, &row.key));
            let same = found.is_some_and(|r| {
                r.version == row.version && matches!((&r.payload, &row.payload), (Some(a), Some(b)) if a.same(b))
            });
            want!(
                same,
                expected,
                "{}; by history {}",
                row.shown(),
                found.map_or_else(|| "nothing".to_owned(), Row::shown)
            );
        }
        Ok(())
    }
}

/// What holds for every reply by its endpoint, whatever the check is about.
pub(crate) fn examine(d: &Device<'_>, method: &str, path: &str, body: &[u8], reply: &Reply) -> Checked {
    let json_body = reply.header("content-type").is_some_and(|m| m.starts_with("application/json"));
    if !json_body || reply.header("content-encoding").is_some() || !matches!(reply.status, 200 | 400..) {
        return Ok(());
    }
    let path = path.split('?').next().unwrap_or(path);
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let json = reply.json()?;
    if reply.status != 200 {
        return examine_error(d.lab, reply, &json);
    }
    match (method, parts.as_slice()) {
        ("POST", ["sync", "connect"]) => read_connected(reply).map(drop),
        ("POST", ["sync", "push-sessions"]) => {
            let asked = Json::parse(body).unwrap_or(Json::Null);
            if reply.need_text(&json, "status")? == "already_committed" {
                let c = read_committed(reply, &json)?;
                let same = c.source == d.source_id()
                    && asked.get("source_bundle_id").and_then(Json::integer).is_none_or(|id| id == c.source_bundle_id);
                want!(same, "already_committed is about the tuple that was asked for", "{}", reply.came());
                return Ok(());
            }
            let rows = asked.get("planned_row_count").and_then(Json::integer);
            read_staging(reply, rows.and_then(|n| usize::try_from(n).ok())).map(drop)
        }
        ("POST", ["sync", "push-sessions", id, "chunks"]) => {
            want!(reply.need_text(&json, "push_id")? == **id, "a chunk's reply repeats push_id", "{}", reply.came());
            reply.need_integer(&json, "next_expected_row_ordinal").map(drop)
        }
        ("POST", ["sync", "push-sessions", _, "commit"]) => read_committed(reply, &json).map(drop),
        ("GET", ["sync", "committed-bundles", seq, "rows"]) => {
            let c = read_committed(reply, &json)?;
            want!(**seq == c.seq.to_string(), "a page of a committed bundle repeats its sequence", "{}", reply.came());
            let rows = read_rows(d.lab, reply, &json, Some(c.seq))?;
            let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
            let left = next + 1 < c.row_count && !rows.is_empty();
            want!(more == left, "has_more is true exactly while rows are left", "{}", reply.came());
            Ok(())
        }
        ("POST", ["sync", "snapshot-sessions"]) => read_session(reply).map(drop),
        ("GET", ["sync", "snapshot-sessions", id]) => {
            let same = reply.need_text(&json, "snapshot_id")? == **id;
            want!(same, "a snapshot page repeats its session's id", "{}", reply.came());
            read_rows(d.lab, reply, &json, None).map(drop)
        }
        _ => Ok(()),
    }
}

/// The members of an error, and of what it lists.
fn examine_error(lab: &Lab<'_>, reply: &Reply, json: &Json) -> Checked {
    let code = reply.need_text(json, "error")?;
    want!(
        !reply.need_text(json, "message")?.is_empty() && !code.is_empty(),
        "an error body has a code and a message",
        "{}",
        reply.came()
    );
    // Clients act by the code. Paths that nothing serves may be answered by somebody before the backend.
    if !matches!(reply.status, 401 | 404 | 405 | 429 | 500..) {
        let known = sync_core::protocol::Code::parse(&code).is_some_and(|c| c.status() == reply.status);
        want!(known, "an error has a code of the protocol, with that code's status", "{}", reply.came());
    }
    let list = |name: &str| json.get(name).and_then(Json::items).unwrap_or_default();
    for c in json.get("conflict").into_iter().chain(list("conflicts")) {
        let texts = ["schema", "table", "op"].iter().all(|m| c.get(m).and_then(Json::text).is_some());
        let numbers =
            ["base_row_version", "server_row_version"].iter().all(|m| c.get(m).and_then(Json::integer).is_some());
        let key = c
            .get("key")
            .and_then(Json::members)
            .is_some_and(|k| !k.is_empty() && k.iter().all(|(_, v)| v.text().is_some()));
        let deleted = c.get("server_row_deleted").and_then(Json::boolean).is_some();
        want!(texts && numbers && key && deleted, "a conflict has its eight members", "{}", reply.came());
        let Some(row) = c.get("server_row") else { return fail("a conflict has its eight members", reply.came()) };
        want!(*row == Json::Null || row.members().is_some(), "server_row is an object or null", "{}", reply.came());
        if *row != Json::Null {
            let name = c.get("table").and_then(Json::text);
            let table = lab.subject.profile.tables.iter().find(|t| Some(t.name.as_str()) == name);
            check_members(row, table, &reply.came())?;
        }
    }
    if json.get("conflicts").is_some() {
        let first = json.get("conflict").is_some_and(|c| list("conflicts").iter().any(|l| l.same(c)));
        want!(first, "conflict is one of conflicts", "{}", reply.came());
    }
    want!(
        json.get("rejections").is_none() || !list("rejections").is_empty(),
        "rejections is a list of rows",
        "{}",
        reply.came()
    );
    for r in list("rejections") {
        let texts = ["schema", "table", "kind", "message"].iter().all(|m| r.get(m).and_then(Json::text).is_some());
        let columns = r.get("columns").and_then(Json::items).is_some_and(|c| c.iter().all(|c| c.text().is_some()));
        // A chunk may be refused for the very key; a commit has read it.
        let read = |k: &Json| k.members().is_some_and(|k| !k.is_empty() && k.iter().all(|(_, v)| v.text().is_some()));
        let key = r.get("key").is_some_and(|k| code != "push_rejected" || read(k));
        let whole = texts && columns && key && r.get("row_ordinal").and_then(Json::integer).is_some();
        want!(whole, "a rejection has its seven members", "{}", reply.came());
    }
    for name in ["next_expected_row_ordinal", "latest_bundle_seq", "limit_bytes"] {
        want!(
            json.get(name).is_none_or(|n| n.integer().is_some()),
            format!("{name} is an integer"),
            "{}",
            reply.came()
        );
    }
    Ok(())
}

fn read_connected(reply: &Reply) -> Checked<Connected> {
    let json = reply.ok()?;
    let resolution = reply.need_text(&json, "resolution")?;
    want!(RESOLUTIONS.contains(&resolution.as_str()), "resolution is one of the four", "{}", reply.came());
    let has = |name: &str| json.get(name).is_some();
    let (local, later) = (resolution == "initialize_local", resolution == "retry_later");
    let id = if local { Some(reply.need_text(&json, "initialization_id")?) } else { None };
    want!(local || !has("initialization_id"), "only initialize_local has an initialization_id", "{}", reply.came());
    want!(id.as_ref().is_none_or(|i| !i.is_empty()), "initialization_id is not empty", "{}", reply.came());
    let lease = if local || later { Some(reply.need_future(&json, "lease_expires_at")?) } else { None };
    want!(local || later || !has("lease_expires_at"), "only a lease has lease_expires_at", "{}", reply.came());
    if has("retry_after_seconds") {
        let seconds = reply.need_integer(&json, "retry_after_seconds")?;
        want!(later && seconds >= 1, "retry_after_seconds is 1 or more, with retry_later", "{}", reply.came());
    }
    if has("scope_id") {
        want!(!reply.need_text(&json, "scope_id")?.is_empty(), "scope_id is not empty", "{}", reply.came());
    }
    Ok(Connected { resolution, id, lease, body: json })
}

fn read_staging(reply: &Reply, rows: Option<usize>) -> Checked<String> {
    let json = reply.ok()?;
    let status = reply.need_text(&json, "status")?;
    want!(status == "staging", "a fresh push session has the status staging", "{}", reply.came());
    let planned = reply.need_integer(&json, "planned_row_count")?;
    want!(rows.is_none_or(|n| planned == n as i64), "planned_row_count is repeated", "{}", reply.came());
    // The reference leaves a zero out; `push.create.next_expected` says what that costs.
    let next = json.get("next_expected_row_ordinal").map_or(Some(0), Json::integer);
    want!(next == Some(0), "a fresh push session expects row 0", "{}", reply.came());
    let id = reply.need_text(&json, "push_id")?;
    want!(!id.is_empty() && !id.contains(['/', '?', '#', ' ']), "push_id can stand in a path", "{}", reply.came());
    Ok(id)
}

pub(crate) fn read_committed(reply: &Reply, json: &Json) -> Checked<Committed> {
    let c = Committed {
        seq: reply.need_integer(json, "bundle_seq")?,
        source: reply.need_text(json, "source_id")?,
        source_bundle_id: reply.need_integer(json, "source_bundle_id")?,
        row_count: reply.need_integer(json, "row_count")?,
        hash: reply.need_text(json, "bundle_hash")?,
        history: json.get("history_hash").and_then(Json::text).map(str::to_owned),
    };
    want!(
        c.seq > 0 && c.source_bundle_id > 0 && c.row_count > 0,
        "a committed bundle's numbers are 1 or more",
        "{}",
        reply.came()
    );
    want!(is_hash(&c.hash), "bundle_hash is 64 lowercase hex digits", "{}", reply.came());
    want!(
        json.get("history_hash").is_none() || c.history.as_deref().is_some_and(is_hash),
        "history_hash is 64 lowercase hex digits",
        "{}",
        reply.came()
    );
    Ok(c)
}

pub(crate) fn read_session(reply: &Reply) -> Checked<Session> {
    let json = reply.ok()?;
    let s = Session {
        id: reply.need_text(&json, "snapshot_id")?,
        seq: reply.need_integer(&json, "snapshot_bundle_seq")?,
        row_count: reply.need_integer(&json, "row_count")?,
        byte_count: json.get("byte_count").and_then(Json::integer),
        expires: reply.need_future(&json, "expires_at")?,
        history: json.get("history_hash").and_then(Json::text).map(str::to_owned),
    };
    want!(
        json.get("history_hash").is_none() || s.history.as_deref().is_some_and(is_hash),
        "history_hash is 64 lowercase hex digits",
        "{}",
        reply.came()
    );
    want!(s.seq >= 0 && s.row_count >= 0, "a snapshot's numbers are 0 or more", "{}", reply.came());
    // The reference leaves a zero out.
    let bytes = s
        .byte_count
        .map_or_else(|| s.row_count == 0 && json.get("byte_count").is_none(), |b| (b > 0) == (s.row_count > 0));
    want!(bytes, "byte_count is positive exactly where there are rows", "{}", reply.came());
    want!(
        !s.id.is_empty() && !s.id.contains(['/', '?', '#', ' ']),
        "snapshot_id can stand in a path",
        "{}",
        reply.came()
    );
    Ok(s)
}

/// The rows of a page or bundle; with a bundle's sequence, committed rows.
fn read_rows(lab: &Lab<'_>, reply: &Reply, json: &Json, seq: Option<i64>) -> Checked<Vec<Row>> {
    let Some(items) = reply.need(json, "rows")?.items() else {
        return fail("rows is an array", reply.came());
    };
    items.iter().map(|item| read_row(lab, reply, item, seq)).collect()
}

fn read_row(lab: &Lab<'_>, reply: &Reply, item: &Json, seq: Option<i64>) -> Checked<Row> {
    let row = Row {
        schema: reply.need_text(item, "schema")?,
        table: reply.need_text(item, "table")?,
        key: reply.need(item, "key")?.clone(),
        op: if seq.is_some() { reply.need_text(item, "op")? } else { String::new() },
        version: reply.need_integer(item, "row_version")?,
        payload: item.get("payload").cloned(),
    };
    if let Some(seq) = seq {
        want!(row.version == seq, "row_version of a bundle's row is its bundle_seq", "{}", row.shown());
        want!(
            ["INSERT", "UPDATE", "DELETE"].contains(&row.op.as_str()),
            "op is INSERT, UPDATE or DELETE",
            "{}",
            row.shown()
        );
    } else {
        want!(item.get("op").is_none(), "a snapshot row has no op", "{}", reply.came());
    }
    let Some(key) = row.key.members().filter(|k| !k.is_empty()) else {
        return fail("key is an object with a member per key column", row.shown());
    };
    want!(key.iter().all(|(_, v)| v.text().is_some()), "every value of a key is a string", "{}", row.shown());
    let table = lab.subject.profile.tables.iter().find(|t| t.schema == row.schema && t.name == row.table);
    if let Some(t) = table {
        let whole = key.len() == t.key.len() && t.key.iter().all(|k| row.key.get(k).is_some());
        want!(whole, "key has exactly the key columns", "{}", row.shown());
    } else if !lab.subject.profile.tables.is_empty() {
        return fail("rows are of tables that the profile names", row.shown());
    }
    check_payload(&row, table)?;
    Ok(row)
}

fn check_payload(row: &Row, table: Option<&crate::profile::Table>) -> Checked {
    if row.op == "DELETE" {
        want!(row.payload.is_none(), "a DELETE has no payload", "{}", row.shown());
        return Ok(());
    }
    let Some(payload) = row.payload.as_ref().filter(|p| p.members().is_some()) else {
        return fail("a row that is not deleted has a payload object", row.shown());
    };
    check_members(payload, table, &row.shown())?;
    for (name, value) in row.key.members().unwrap_or_default() {
        let same = payload.get(name).is_some_and(|v| match v {
            Json::Number(digits) => value.text() == Some(digits),
            v => v == value,
        });
        want!(same, "a payload repeats its key", "{}", row.shown());
    }
    Ok(())
}

/// A payload or server row: every column of its table, nothing hidden, nothing else.
pub(crate) fn check_members(payload: &Json, table: Option<&crate::profile::Table>, shown: &str) -> Checked {
    let members = payload.members().unwrap_or_default();
    let hidden = members.iter().any(|(n, _)| n.starts_with("_sync_"));
    want!(!hidden, "members that begin with _sync_ are never sent", "{shown}");
    if let Some(t) = table {
        let whole = members.len() == t.columns.len() && t.columns.iter().all(|c| payload.get(&c.name).is_some());
        want!(whole, "a payload has every column of its table and nothing else", "{shown}");
    }
    Ok(())
}

pub(crate) fn check_hash(rows: &[Row], hash: &str, exact: bool) -> Checked {
    let computed = hashing::bundle(rows, exact).hex();
    let name = if exact { "blake3" } else { "sha256" };
    let expected = format!("bundle_hash is the {name} hash of the rows as they are sent");
    want!(computed == hash, expected, "{hash}, computed {computed} over {}", shown_rows(rows));
    Ok(())
}

pub(crate) fn is_hash(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
