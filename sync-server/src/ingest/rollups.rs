//! Sums in the user's file: written with the batch that touches them, read as they stand.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};
use sync_core::ingest::contract::{Contract, Rollup};
use sync_core::ingest::exact::Json;
use sync_core::ingest::rollups::{Dimensions, Sums, month, row, sum_up};
use sync_core::ingest::time::date_of_ms;

use super::store;
use crate::scope::fail::{Fail, Outcome};

/// Days of a dashboard, today included.
const DASHBOARD_DAYS: i64 = 30;

/// Which sums are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Daily,
    Monthly,
    Dashboard,
}

const DAY: &str = "day";
const MONTH: &str = "month";

/// Computes the days anew from their records, and the months from their days.
pub(super) fn recompute(conn: &Connection, contract: &Contract, days: &BTreeSet<String>) -> Outcome<()> {
    let Some(rollup) = &contract.rollup else { return Ok(()) };
    let stream = contract.stream.as_str();
    for day in days {
        let mut s = conn.prepare_cached(
            "SELECT payload FROM _sync_ingest_record WHERE stream = ? AND kind = ? AND day = ? ORDER BY seq",
        )?;
        let mut rows = s.query([stream, &rollup.from, day])?;
        let mut records = Vec::new();
        while let Some(r) = rows.next()? {
            let text = r.get_ref(0)?.as_str().map_err(|_| Fail::Damaged("a record"))?;
            records.push(Json::read(text.as_bytes()).map_err(|_| Fail::Damaged("a record"))?);
        }
        replace(conn, stream, DAY, day, &sum_up(rollup, &records))?;
    }
    let months: BTreeSet<&str> = days.iter().map(|d| month(d)).collect();
    for month in months {
        let mut sums: BTreeMap<Dimensions, Sums> = BTreeMap::new();
        // Days sort within a month, and `~` is after every digit.
        for (_, dimensions, day) in read(conn, contract, rollup, DAY, &format!("{month}-"), &format!("{month}-~"))? {
            sums.entry(dimensions).or_insert_with(|| Sums::new(rollup)).merge(&day);
        }
        replace(conn, stream, MONTH, month, &sums)?;
    }
    Ok(())
}

fn replace(
    conn: &Connection,
    stream: &str,
    grain: &str,
    bucket: &str,
    sums: &BTreeMap<Dimensions, Sums>,
) -> Outcome<()> {
    conn.prepare_cached("DELETE FROM _sync_ingest_rollup WHERE stream = ? AND grain = ? AND bucket = ?")?
        .execute([stream, grain, bucket])?;
    for (dimensions, sums) in sums {
        conn.prepare_cached("INSERT INTO _sync_ingest_rollup VALUES (?, ?, ?, ?, ?)")?.execute(params![
            stream,
            grain,
            bucket,
            json!(dimensions).to_string(),
            sums.to_text()
        ])?;
    }
    Ok(())
}

type Rows = Vec<(String, Dimensions, Sums)>;

/// Buckets from one to another, sorted by bucket and then by dimensions.
fn read(conn: &Connection, contract: &Contract, rollup: &Rollup, grain: &str, from: &str, to: &str) -> Outcome<Rows> {
    let mut s = conn.prepare_cached(
        "SELECT bucket, dimensions, sums FROM _sync_ingest_rollup WHERE stream = ? AND grain = ? AND bucket BETWEEN ? AND ?",
    )?;
    let mut rows = s.query([contract.stream.as_str(), grain, from, to])?;
    let mut out = Rows::new();
    while let Some(r) = rows.next()? {
        let (dimensions, sums): (String, String) = (r.get(1)?, r.get(2)?);
        let dimensions = serde_json::from_str(&dimensions).map_err(|_| Fail::Damaged("the dimensions of a sum"))?;
        let sums = Sums::from_text(rollup, &sums).ok_or(Fail::Damaged("a sum"))?;
        out.push((r.get(0)?, dimensions, sums));
    }
    out.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    Ok(out)
}

/// The reply of a view.
pub(crate) fn view(conn: &Connection, contract: &Contract, view: View, now_ms: i64) -> Outcome<Value> {
    let Some(rollup) = &contract.rollup else { return Ok(json!({})) };
    let made = store::there(conn)?;
    let rows =
        |grain: &str, from: &str| if made { read(conn, contract, rollup, grain, from, "~") } else { Ok(Rows::new()) };
    let shown = |rows: &Rows| -> Vec<Value> { rows.iter().map(|(b, d, s)| row(rollup, b, d, s)).collect() };
    Ok(match view {
        View::Daily => json!({ "rollups": shown(&rows(DAY, "")?) }),
        View::Monthly => json!({ "rollups": shown(&rows(MONTH, "")?) }),
        View::Dashboard => {
            let first = date_of_ms(now_ms.saturating_sub((DASHBOARD_DAYS - 1) * 86_400_000));
            let today = date_of_ms(now_ms);
            let mut days = rows(DAY, &first)?;
            days.retain(|(day, ..)| *day <= today);
            let mut totals = Sums::new(rollup);
            let mut providers: BTreeMap<Option<String>, Sums> = BTreeMap::new();
            for (_, dimensions, sums) in &rows(MONTH, "")? {
                totals.merge(sums);
                let provider = dimensions.first().cloned().flatten();
                providers.entry(provider).or_insert_with(|| Sums::new(rollup)).merge(sums);
            }
            let mut all = Map::new();
            totals.show(rollup, &mut all);
            let providers: Vec<Value> = providers
                .into_iter()
                .map(|(provider, sums)| {
                    let mut one = Map::new();
                    one.insert("provider".into(), provider.into());
                    sums.show(rollup, &mut one);
                    one.into()
                })
                .collect();
            json!({ "totals": all, "providers": providers, "daily": shown(&days) })
        }
    })
}
