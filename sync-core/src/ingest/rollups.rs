//! Sums by day and month: computed again from the records of a bucket, never added to.
//!
//! Sums are exact inside. A count that is beyond 64 bits is shown as the largest that fits.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::contract::Rollup;
use super::exact::Json;
use super::time::date_as_written;

/// What sums are kept apart by: the texts of the declared dimensions.
pub type Dimensions = Vec<Option<String>>;

/// One cent, in millionths of a dollar.
const MICRO_PER_CENT: i128 = 10_000;

/// The day of a record, `YYYY-MM-DD` as it is written; `None` where it is in no sum.
#[must_use]
pub fn day(rollup: &Rollup, record: &Json) -> Option<String> {
    if rollup.where_at.text(record) != Some(&rollup.where_is) {
        return None;
    }
    rollup.day.text(record).and_then(date_as_written).map(str::to_owned)
}

/// The month of a day: its first seven characters.
#[must_use]
pub fn month(day: &str) -> &str {
    day.get(..7).unwrap_or(day)
}

/// The dimensions of a record.
#[must_use]
pub fn dimensions(rollup: &Rollup, record: &Json) -> Dimensions {
    rollup.dimensions.iter().map(|p| p.text(record).map(str::to_owned)).collect()
}

/// The sums of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    counts: Vec<u128>,
    micro_usd: i128,
}

impl Sums {
    /// Nothing yet.
    #[must_use]
    pub fn new(rollup: &Rollup) -> Self {
        Self { counts: vec![0; rollup.sum.len()], micro_usd: 0 }
    }

    /// Takes a record in.
    pub fn add(&mut self, rollup: &Rollup, record: &Json) {
        let counts = rollup.counts.find(record);
        for (sum, name) in self.counts.iter_mut().zip(&rollup.sum) {
            let n = counts.and_then(|c| c.member(name)).and_then(Json::integer).and_then(|n| u128::try_from(n).ok());
            *sum = sum.saturating_add(n.unwrap_or(0));
        }
        let cents = rollup.cents.find(record).and_then(Json::integer).unwrap_or(0);
        self.micro_usd = self.micro_usd.saturating_add(cents.saturating_mul(MICRO_PER_CENT));
    }

    /// Takes other sums in.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*n);
        }
        self.micro_usd = self.micro_usd.saturating_add(other.micro_usd);
    }

    /// As text, for storage.
    #[must_use]
    pub fn to_text(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(u128::to_string).collect();
        format!("{};{}", counts.join(","), self.micro_usd)
    }

    /// From [`Sums::to_text`]; `None` where it is something else.
    #[must_use]
    pub fn from_text(rollup: &Rollup, text: &str) -> Option<Self> {
        let (counts, micro) = text.split_once(';')?;
        let counts: Vec<u128> = counts.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let micro_usd = micro.parse().ok()?;
        (counts.len() == rollup.sum.len()).then_some(Self { counts, micro_usd })
    }

    /// The members `usage` and `cost` of a reply.
    pub fn show(&self, rollup: &Rollup, into: &mut Map<String, Value>) {
        let counts = rollup.sum.iter().zip(&self.counts);
        let usage: Map<String, Value> =
            counts.map(|(name, n)| (name.clone(), u64::try_from(*n).unwrap_or(u64::MAX).into())).collect();
        into.insert("usage".into(), usage.into());
        // Half a cent is rounded away from zero.
        let cents = (self.micro_usd + self.micro_usd.signum() * MICRO_PER_CENT / 2) / MICRO_PER_CENT;
        into.insert(
            "cost".into(),
            json!({
                "estimated_api_equivalent_micro_usd": clamp(self.micro_usd),
                "estimated_api_equivalent_usd": clamp(cents),
            }),
        );
    }
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// The sums of a day, from all its records.
#[must_use]
pub fn sum_up<'a>(rollup: &Rollup, records: impl IntoIterator<Item = &'a Json>) -> BTreeMap<Dimensions, Sums> {
    let mut out = BTreeMap::new();
    for record in records {
        out.entry(dimensions(rollup, record)).or_insert_with(|| Sums::new(rollup)).add(rollup, record);
    }
    out
}

/// The last member of each dimension's pointer names it in replies.
#[must_use]
pub fn names(rollup: &Rollup) -> Vec<String> {
    rollup.dimensions.iter().map(|p| p.to_string().rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

/// One row of a reply.
#[must_use]
pub fn row(rollup: &Rollup, bucket: &str, dimensions: &Dimensions, sums: &Sums) -> Value {
    let mut out = Map::new();
    out.insert("bucket".into(), bucket.into());
    for (name, value) in names(rollup).into_iter().zip(dimensions) {
        out.insert(name, value.clone().into());
    }
    sums.show(rollup, &mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::contract::Contract;

    fn summary(day: &str, tokens: &str, cents: i64) -> Json {
        let text = format!(
            r#"{{"metadata":{{"summary_format":"daily_rollup.v1"}},"period_start":"{day}","provider":"codex",
               "usage":{{"total_tokens":{tokens},"requests":null}},"cost":{{"estimated_api_equivalent_usd":{cents}}}}}"#
        );
        Json::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn sums_are_exact_and_shown_within_64_bits() {
        let contract = Contract::statsai();
        let rollup = contract.rollup.as_ref().unwrap();
        let most = u64::MAX.to_string();
        let records = [summary("2026-06-01T00:00:00Z", &most, -3), summary("2026-06-01T00:00:00Z", &most, 1)];
        let sums = sum_up(rollup, &records);
        let (dimensions, sums) = sums.first_key_value().unwrap();
        assert_eq!(sums.to_text(), format!("0,0,0,0,0,{},0,0,0;-20000", u128::from(u64::MAX) * 2));
        assert_eq!(Sums::from_text(rollup, &sums.to_text()).as_ref(), Some(sums));
        let shown = row(rollup, "2026-06-01", dimensions, sums);
        assert_eq!(shown["usage"]["total_tokens"], u64::MAX);
        assert_eq!(shown["usage"]["requests"], 0);
        assert_eq!(shown["cost"]["estimated_api_equivalent_usd"], -2);
        assert_eq!((&shown["provider"], &shown["project_id"]), (&json!("codex"), &Value::Null));
    }

    #[test]
    fn the_day_is_the_date_as_written() {
        let contract = Contract::statsai();
        let rollup = contract.rollup.as_ref().unwrap();
        assert_eq!(day(rollup, &summary("2026-06-01T00:30:00+09:00", "1", 0)).as_deref(), Some("2026-06-01"));
        assert_eq!(month("2026-06-01"), "2026-06");
        let mut other = summary("2026-06-01T00:30:00Z", "1", 0);
        rollup.day.remove(&mut other);
        assert_eq!(day(rollup, &other), None);
        let mut other = summary("2026-06-01T00:30:00Z", "1", 0);
        rollup.where_at.clear(&mut other);
        assert_eq!(day(rollup, &other), None);
    }
}
