//! What a tracker's samples come to: consecutive ones of the same app and branch are one span of time.
//!
//! A span is known by its first sample, so that computing it again replaces it.

use super::exact::Json;

/// A stored sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its id.
    pub id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The seconds that it stands for.
    pub seconds: i64,
    /// What is the same within a span.
    pub signal: Signal,
}

/// What is the same within a span.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signal {
    /// The app's bundle id.
    pub app: String,
    /// The repository of the file in it.
    pub repo: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `tracker:` and the id of its first sample.
    pub key: String,
    /// When it began.
    pub from_ms: i64,
    /// When its last sample ended.
    pub to_ms: i64,
    /// The seconds that its samples stand for.
    pub seconds: i64,
    /// How many they are.
    pub samples: u64,
    /// What they have in common.
    pub signal: Signal,
}

impl Point {
    /// Reads a stored sample; `None` where it is none.
    #[must_use]
    pub fn read(id: &str, at_ms: i64, payload: &Json) -> Option<Self> {
        let text = |of: &str, name: &str| payload.member(of)?.member(name)?.text().map(str::to_owned);
        let seconds = i64::try_from(payload.member("interval_s")?.integer()?).ok()?;
        let signal = Signal {
            app: text("active_app", "bundle_id")?,
            repo: text("file_context", "repo"),
            branch: text("file_context", "branch"),
        };
        Some(Self { id: id.to_owned(), at_ms, seconds, signal })
    }
}

/// Collapses samples, which are in the order of their times. A gap of more than twice what a sample stands for ends a span.
#[must_use]
pub fn collapse(points: impl IntoIterator<Item = Point>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut reach = i64::MIN;
    for p in points {
        let length = p.seconds.saturating_mul(1000);
        let end = p.at_ms.saturating_add(length);
        match spans.last_mut() {
            Some(span) if span.signal == p.signal && p.at_ms <= reach => {
                span.to_ms = span.to_ms.max(end);
                span.seconds = span.seconds.saturating_add(p.seconds);
                span.samples += 1;
            }
            _ => spans.push(Span {
                key: format!("tracker:{}", p.id),
                from_ms: p.at_ms,
                to_ms: end,
                seconds: p.seconds,
                samples: 1,
                signal: p.signal,
            }),
        }
        reach = end.saturating_add(length);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_signal_without_a_gap_are_one_span() {
        let point = |id: &str, minute: i64, app: &str| Point {
            id: id.into(),
            at_ms: minute * 60_000,
            seconds: 60,
            signal: Signal { app: app.into(), ..Signal::default() },
        };
        let points = [
            point("a", 0, "vim"),
            point("b", 1, "vim"),
            point("c", 3, "vim"),
            point("d", 4, "mail"),
            point("e", 5, "vim"),
            point("f", 8, "vim"),
        ];
        let spans = collapse(points);
        let told: Vec<_> =
            spans.iter().map(|s| (s.key.as_str(), s.from_ms / 60_000, s.to_ms / 60_000, s.samples)).collect();
        let expected = [("tracker:a", 0, 4, 3), ("tracker:d", 4, 5, 1), ("tracker:e", 5, 6, 1), ("tracker:f", 8, 9, 1)];
        assert_eq!(told, expected);
        assert_eq!(spans[0].seconds, 180);
        assert_eq!(collapse([]), []);
    }

    #[test]
    fn samples_are_read_from_what_is_stored() {
        let payload =
            r#"{"interval_s":60,"active_app":{"name":"n","bundle_id":"b"},"file_context":{"repo":"r","branch":null}}"#;
        let point = Point::read("e", 7, &Json::read(payload.as_bytes()).unwrap()).unwrap();
        assert_eq!(point.signal, Signal { app: "b".into(), repo: Some("r".into()), branch: None });
        assert_eq!((point.at_ms, point.seconds), (7, 60));
        assert_eq!(Point::read("e", 7, &Json::Null), None);
    }
}
