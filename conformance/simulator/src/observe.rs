//! Requests reach the server, and the model sees each with its reply.

use std::collections::BTreeSet;

use crate::device::lock;
use crate::ledger::all_tokens;
use crate::model::UserModel;
use crate::server::{Endpoint, Owned, Reply, caller};
use crate::world::{Violation, World};

impl World {
    /// A request reaches the server, and the model sees both.
    pub(crate) fn handle(&self, r: &Owned) -> Option<Reply> {
        let endpoint = Endpoint::of(r.method, &r.path);
        let json = |b: &[u8]| serde_json::from_slice::<serde_json::Value>(b).unwrap_or_default();
        let push_id = r.path.split('/').nth(3).unwrap_or_default().to_owned();
        let request = r.body.as_deref().map(json).unwrap_or_default();
        if endpoint == Endpoint::Commit {
            self.model(&r.user, |m| {
                m.committing(&push_id);
                Ok(())
            });
        }
        let Some(reply) = self.server.answer(r) else {
            self.model(&r.user, |m| {
                if endpoint == Endpoint::Chunk {
                    m.unheard(&push_id, request.clone());
                }
                Ok(())
            });
            self.start_server();
            self.resolve_doubts();
            return None;
        };
        let body = json(&reply.body);
        self.tell(|| {
            let text = String::from_utf8_lossy(&reply.body);
            let short: String = text.chars().take(300).collect();
            let sent: String =
                String::from_utf8_lossy(r.body.as_deref().unwrap_or_default()).chars().take(1500).collect();
            format!("    {:?} {} [{}] {sent} -> {} {short}", r.method, r.path, &r.source[..8], reply.status)
        });
        let code = body["error"].as_str().unwrap_or(if reply.status < 300 { "ok" } else { "?" });
        self.covered("reply", &format!("{endpoint:?} {code}"));
        let pushers = if endpoint == Endpoint::Commit { self.tokens_of_source(&r.source) } else { BTreeSet::new() };
        self.model(&r.user, |m| match (endpoint, reply.status) {
            (Endpoint::CreatePush, 200) => m.created(&r.source, &request, &body),
            (Endpoint::Chunk, 200) => m.uploaded(&push_id, &request),
            (Endpoint::Commit, 200) => m.committed(&push_id, body["bundle_seq"].as_i64().unwrap_or_default(), &pushers),
            (Endpoint::Commit, _) => {
                m.refused();
                Ok(())
            }
            _ => Ok(()),
        });
        if endpoint == Endpoint::Chunk
            && let Some(key) = crate::june::sent_back(&request)
        {
            self.fail(Violation::new(
                "numbers keep every digit",
                format!("a number of {key} was rounded and sent back"),
            ));
        }
        if endpoint == Endpoint::Commit {
            let ruled = lock(&self.models).get_mut(&r.user).map(|m| std::mem::take(&mut m.ruled)).unwrap_or_default();
            ruled.into_iter().for_each(|name| self.covered("rule", name));
            let rejections = body["rejections"].as_array().into_iter().flatten();
            if lock(&self.models).get(&r.user).is_some_and(|m| !m.carried.is_empty()) {
                let text = format!("a push of {} took rows along with a room that nobody deleted", r.source);
                self.fail(Violation::new("a key change takes nothing along", text));
            }
            rejections.filter_map(|r| r["kind"].as_str()).for_each(|kind| self.covered("rejection", kind));
        }
        Some(reply)
    }

    pub(crate) fn model(&self, user: &str, f: impl FnOnce(&mut UserModel) -> Result<(), String>) {
        let outcome = f(lock(&self.models).entry(user.to_owned()).or_insert_with(|| self.new_user()));
        if let Err(wrong) = outcome {
            self.fail(Violation::new("the server does what the protocol says", wrong));
        }
    }

    /// After the server's death: which commits it had made.
    pub(crate) fn resolve_doubts(&self) {
        let doubts: Vec<(String, (String, String, i64), i64)> =
            lock(&self.models).iter().filter_map(|(user, m)| Some((user.clone(), m.doubt()?, m.latest()))).collect();
        for (user, (push_id, source, source_bundle_id), latest) in doubts {
            let request = sync_core::protocol::pull::PullRequest {
                after_bundle_seq: latest,
                max_bundles: 1,
                ..Default::default()
            };
            let pulled = self.server.service().pull(&caller(&user, "observer", true), request);
            let text = pulled.ok().map(|b| b.flatten().flatten().collect::<Vec<u8>>()).unwrap_or_default();
            let reply: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let bundle = &reply["bundles"][0];
            let same = bundle["source_id"] == source.as_str() && bundle["source_bundle_id"] == source_bundle_id;
            let pushers = self.tokens_of_source(&source);
            self.model(&user, |m| {
                if same {
                    return m.committed(&push_id, latest + 1, &pushers);
                }
                m.refused();
                Ok(())
            });
        }
    }

    /// The texts in the file of the device that writes under a source.
    fn tokens_of_source(&self, source: &str) -> BTreeSet<u64> {
        for n in 0..self.devices() {
            let d = self.device(n);
            let app = lock(&d.app);
            let Some(conn) = app.as_ref() else { continue };
            let own = "SELECT 1 FROM _sync_meta WHERE name = 'source_id' AND value = ?";
            if conn.prepare(own).is_ok_and(|mut s| s.exists([source]).unwrap_or(false)) {
                return crate::device::rows(conn).map(|rows| all_tokens(&rows)).unwrap_or_default();
            }
        }
        BTreeSet::new()
    }

    /// A verb that goes on for ever is stopped, and is a violation.
    pub(crate) fn too_many(&self) -> bool {
        let n = {
            let mut run = lock(&self.run);
            run.requests += 1;
            run.requests
        };
        if n == MOST_REQUESTS {
            self.fail(Violation::new("every verb ends", format!("{n} requests and no end")));
        }
        n >= MOST_REQUESTS
    }

    /// Requests whose senders gave up arrive now.
    pub(crate) fn deliver_late(&self) {
        let due: Vec<Owned> = {
            let mut run = lock(&self.run);
            for (n, _) in &mut run.late {
                *n = n.saturating_sub(1);
            }
            let (due, rest) = std::mem::take(&mut run.late).into_iter().partition(|(n, _)| *n == 0);
            run.late = rest;
            let due: Vec<(u32, Owned)> = due;
            due.into_iter().map(|(_, r)| r).collect()
        };
        for r in due {
            self.covered("late", &format!("{:?}", Endpoint::of(r.method, &r.path)));
            self.handle(&r);
        }
    }
}

/// The longest verb of a plan needs a few hundred.
const MOST_REQUESTS: u32 = 4000;
