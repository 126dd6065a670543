//! The event stream that says "there is something to pull".

use std::time::Duration;

use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Events, Lab, Stop, Stream, fail, want};

/// How long an event may take.
const SOON: Duration = Duration::from_secs(10);
/// How long a stream is listened to that must stay silent.
const SILENCE: Duration = Duration::from_millis(1500);

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::may("watch.stream", "watch is an event stream", &["ref.8.stream"], |lab| {
            let d = offered(lab)?;
            let events = open(&d, "", SOON)?;
            let header = |name: &str| {
                events.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v.as_str())
            };
            want!(
                header("content-type").starts_with("text/event-stream"),
                "the content type is text/event-stream",
                "{:?}",
                events.headers
            );
            want!(header("cache-control").contains("no-cache"), "events are not cached", "{:?}", events.headers);
            Ok(())
        }),
        Check::may(
            "watch.immediate",
            "a stream that is behind gets the newest bundle at once",
            &["ref.8.immediate"],
            |lab| {
                let (d, t) = (offered(lab)?, lab.plain()?);
                for id in 1..=3 {
                    d.push(id, &[t.insert(id, "a")])?;
                }
                for query in ["", "?after_bundle_seq=0", "?after_bundle_seq=2"] {
                    let json = event(&mut open(&d, query, SOON)?)?;
                    want!(
                        json.get("bundle_seq").and_then(Json::integer) == Some(3),
                        "the first event is the newest bundle",
                        "{json}"
                    );
                }
                Ok(())
            },
        ),
        Check::may("watch.wakes", "a commit wakes the stream, with its tuple", &["ref.8.wakes"], |lab| {
            let (d, t) = (offered(lab)?, lab.plain()?);
            let mut events = open(&d, "", SOON)?;
            d.source("device-b").push(1, &[t.insert(1, "a")])?;
            let json = event(&mut events)?;
            let named = json.get("bundle_seq").and_then(Json::integer) == Some(1)
                && json.get("source_id").is_none_or(|s| s.text() == Some("device-b"))
                && json.get("source_bundle_id").is_none_or(|i| i.integer() == Some(1));
            want!(named, "the event names the bundle", "{json}");
            d.push(1, &[t.insert(2, "b")])?;
            let json = event(&mut events)?;
            want!(json.get("bundle_seq").and_then(Json::integer) == Some(2), "own commits wake, too", "{json}");
            Ok(())
        }),
        Check::may("watch.rises", "events only rise, up to the newest bundle", &["ref.8.wakes"], |lab| {
            let (d, t) = (offered(lab)?, lab.plain()?);
            let mut events = open(&d, "", SOON)?;
            for id in 1..=8 {
                d.push(id, &[t.insert(id, "a")])?;
            }
            let mut last = 0;
            while last < 8 {
                let json = event(&mut events)?;
                let seq = json.get("bundle_seq").and_then(Json::integer).unwrap_or(0);
                want!(seq > last && seq <= 8, "each event is newer than the one before", "{seq} after {last}");
                last = seq;
            }
            Ok(())
        }),
        Check::may("watch.silent", "nothing happens without a commit", &["ref.8.wakes"], |lab| {
            let (d, t) = (offered(lab)?, lab.plain()?);
            d.push(1, &[t.insert(1, "a")])?;
            let mut events = open(&d, "?after_bundle_seq=1", SILENCE)?;
            let push = d.stage(2, &[t.insert(1, "conflict")])?;
            d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
            d.stage(2, &[t.insert(2, "staged")])?;
            silent(&mut events)
        })
        .slow(),
        Check::may(
            "watch.isolated",
            "another user's commit wakes nobody",
            &["ref.8.wakes", "spec.1.isolation"],
            |lab| {
                let (a, b, t) = (offered(lab)?, lab.ready()?, lab.plain()?);
                let mut events = open(&a, "", SILENCE)?;
                b.push(1, &[t.insert(1, "b")])?;
                silent(&mut events)
            },
        )
        .slow(),
        Check::may("watch.two", "every stream of the user wakes", &["ref.8.wakes"], |lab| {
            let (d, t) = (offered(lab)?, lab.plain()?);
            let mut streams = [open(&d, "", SOON)?, open(&d.source("device-b"), "", SOON)?, open(&d, "", SOON)?];
            d.push(1, &[t.insert(1, "a")])?;
            for s in &mut streams {
                let json = event(s)?;
                want!(json.get("bundle_seq").and_then(Json::integer) == Some(1), "each stream has the event", "{json}");
            }
            Ok(())
        }),
        Check::may("watch.heartbeat", "an idle stream has heartbeats", &["ref.8.heartbeat"], |lab| {
            let d = offered(lab)?;
            let mut events = open(&d, "", lab.subject.patience)?;
            while let Some(line) = events.line() {
                if line.starts_with(':') {
                    return Ok(());
                }
            }
            Err(Stop::Inconclusive(format!("no heartbeat within {} s (--patience)", lab.subject.patience.as_secs())))
        })
        .slow(),
        Check::may("watch.refused.query", "a malformed checkpoint is refused", &["ref.8.refusals"], |lab| {
            let d = offered(lab)?;
            for query in ["?after_bundle_seq=-1", "?after_bundle_seq=x"] {
                refused(&d, query, 400, &["invalid_request"])?;
            }
            Ok(())
        }),
        Check::may(
            "watch.refused.uninitialized",
            "a scope that nobody initialized is not watched",
            &["ref.8.refusals"],
            |lab| {
                offered(lab)?;
                refused(&lab.user()?, "", 409, &["scope_uninitialized"])
            },
        ),
        Check::may(
            "watch.refused.initializing",
            "a scope that is being seeded is not watched",
            &["ref.8.refusals"],
            |lab| {
                offered(lab)?;
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                refused(&d.source("device-b"), "", 409, &["scope_initializing"])
            },
        ),
        Check::may("watch.refused.token", "a stream wants a user", &["ref.8.refusals"], |lab| {
            match offered(lab)?.without_token().watch("/sync/watch", SOON)? {
                Stream::Refused(reply) => {
                    want!(reply.status == 401, "a watch without a token is 401", "{}", reply.came());
                    Ok(())
                }
                Stream::Open(_) => fail("a watch without a token is 401", "an open stream"),
            }
        }),
    ]
}

fn offered<'l>(lab: &'l Lab<'_>) -> Checked<Device<'l>> {
    if lab.subject.feature("bundle_change_watch") {
        lab.ready()
    } else {
        crate::lab::not_offered("the feature bundle_change_watch is off")
    }
}

fn open(d: &Device<'_>, query: &str, time: Duration) -> Checked<Events> {
    match d.watch(&format!("/sync/watch{query}"), time)? {
        Stream::Open(events) => Ok(events),
        Stream::Refused(reply) => fail("GET /sync/watch answers 200 with a stream", reply.came()),
    }
}

fn refused(d: &Device<'_>, query: &str, status: u16, codes: &[&str]) -> Checked {
    match d.watch(&format!("/sync/watch{query}"), SOON)? {
        Stream::Refused(reply) => reply.refused(status, codes).map(drop),
        Stream::Open(_) => fail(format!("GET /sync/watch answers {status} {}", codes.join(" or ")), "an open stream"),
    }
}

/// The data of the next bundle event.
fn event(events: &mut Events) -> Checked<Json> {
    let (mut name, mut data) = (String::new(), String::new());
    while let Some(line) = events.line() {
        if let Some(value) = line.strip_prefix("event:") {
            value.trim().clone_into(&mut name);
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push_str(value.trim_start());
        } else if line.is_empty() && !data.is_empty() {
            want!(name == "bundle", "an event of the stream is named bundle", "{name}: {data}");
            return Json::parse(data.as_bytes()).or_else(|e| fail("an event's data is JSON", format!("{e}: {data}")));
        }
    }
    fail("a stream that is behind, or whose user commits, has an event", format!("none within {} s", SOON.as_secs()))
}

fn silent(events: &mut Events) -> Checked {
    while let Some(line) = events.line() {
        want!(!line.starts_with("data:"), "a stream is silent while nothing is committed for its user", "{line}");
    }
    Ok(())
}
