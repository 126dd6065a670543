//! Requests that were damaged at random.

use proptest::prelude::any;
use proptest::strategy::Strategy;

use super::hold;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, want};

/// A request of the list below, and what is done to its body.
#[derive(Debug, Clone)]
struct Damage {
    request: usize,
    /// Where, and the byte that is put there; 0 takes one away, 255 puts one in.
    bytes: Vec<(usize, u8)>,
    /// Where the body is cut off, if anywhere.
    cut: Option<usize>,
    /// A fragment that is put somewhere.
    fragment: Option<(usize, usize)>,
}

pub(super) fn check(lab: &Lab<'_>) -> Checked {
    let victim = lab.ready()?;
    let t = lab.plain()?;
    victim.push(1, &[t.insert(1, SECRET), t.insert(2, SECRET)])?;
    let before = victim.state()?;
    let secret = victim.snapshot()?.id;
    let damage = (
        0..REQUESTS,
        proptest::collection::vec((0..400_usize, any::<u8>()), 0..4),
        proptest::option::weighted(0.2, 0..300_usize),
        proptest::option::weighted(0.5, (0..400_usize, 0..FRAGMENTS.len())),
    );
    let damage = damage.prop_map(|(request, bytes, cut, fragment)| Damage { request, bytes, cut, fragment });
    hold(lab, CASES, &proptest::collection::vec(damage, 1..12), |damages| {
        let d = lab.ready()?;
        let v = d.push(1, &[t.insert(1, "mine"), t.insert(2, "mine")])?.seq;
        let push = d.create(2, 2)?;
        for damage in damages {
            let rows = [t.update(1, v, "changed").json(), t.insert(3, "new").json()].join(",");
            let (method, path, body) = match damage.request {
                0 => ("POST", "/sync/connect".to_owned(), "{\"has_local_pending_rows\":true}".to_owned()),
                1 => ("POST", "/sync/push-sessions".to_owned(), "{\"source_bundle_id\":2,\"planned_row_count\":2}".to_owned()),
                2 => ("POST", "/sync/snapshot-sessions".to_owned(), "{\"source_replacement\":{\"previous_source_id\":\"device-b\",\"new_source_id\":\"device-c\",\"reason\":\"source_retired\"}}".to_owned()),
                3 => ("GET", format!("/sync/snapshot-sessions/{secret}"), String::new()),
                4 => ("POST", format!("/sync/push-sessions/{push}/commit"), String::new()),
                _ => ("POST", format!("/sync/push-sessions/{push}/chunks"), format!("{{\"start_row_ordinal\":0,\"rows\":[{rows}]}}")),
            };
            let body = damaged(body.into_bytes(), damage);
            let reply = d.send(method, &path, &body)?;
            // A value that the column cannot take; `push.rejected` says what a 500 for it costs.
            let of_values = matches!(damage.request, 4..) && (body.is_empty() || Json::parse(&body).is_ok());
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            want!(
                reply.status < 500 || reply.status == 500 && of_values,
                "a damaged request is answered without a fault",
                "{}",
                reply.came()
            );
            want!(!text.contains(SECRET), "no reply shows another user's rows", "{}", reply.came());
        }
        whole(&d)
    })?;
    lab.forget();
    let after = victim.state()?;
    let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.same(b));
    want!(same, "nobody else's rows change", "{}", crate::calls::shown_rows(&after));
    Ok(())
}

/// Either nothing of the second push got in, or all of it.
fn whole(d: &Device<'_>) -> Checked {
    d.audit()?;
    let (stable, bundles) = d.pull_all(0, 100)?;
    let counts: Vec<usize> = bundles.iter().map(|b| b.rows.len()).collect();
    want!(counts.iter().all(|n| *n <= 2), "no bundle has more than was planned", "{counts:?} at {stable}");
    Ok(())
}

fn damaged(mut body: Vec<u8>, damage: &Damage) -> Vec<u8> {
    if let Some((at, n)) = damage.fragment {
        let at = at.min(body.len());
        body.splice(at..at, FRAGMENTS[n].bytes());
    }
    for (at, byte) in &damage.bytes {
        if body.is_empty() {
            break;
        }
        let at = at % body.len();
        match byte {
            0 => drop(body.remove(at)),
            255 => body.insert(at, b'"'),
            byte => body[at] = *byte,
        }
    }
    if let Some(cut) = damage.cut {
        body.truncate(cut);
    }
    body
}

const SECRET: &str = "a secret of somebody else";
const CASES: u32 = 40;
const REQUESTS: usize = 9;
const FRAGMENTS: [&str; 12] = [
    "null",
    "[]",
    "{}",
    ",",
    "1e999",
    "-1",
    "\\u0000",
    "\u{0}",
    "'; DROP TABLE x; --",
    "\"_sync_scope_id\":\"x\",",
    "99999999999999999999",
    "[[[[[[[[[[[[[[[[",
];
