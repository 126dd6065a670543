//! What stands between the devices and the server for a whole run: a server that names no row, and proxies that answer
//! in the server's place. It goes where faults stop: a row that it refuses, or whose refusal it hides, waits for as long.
//! A server of another dialect stays what it is.

use std::sync::atomic::Ordering;

use sync_client::transport::{Request, TransportError};

use crate::device::lock;
use crate::model::UserModel;
use crate::plan::{Verb, Way};
use crate::server::{Endpoint, Owned, Reply};
use crate::world::{Violation, World};

impl World {
    /// What is on the way now.
    pub(crate) fn way(&self) -> Way {
        if self.clear.load(Ordering::Relaxed) && self.way != Way::June { Way::Clear } else { self.way }
    }

    /// Faults stop.
    pub(crate) fn clear_the_way(&self) {
        self.clear.store(true, Ordering::Relaxed);
    }

    /// The answer to a request that does not reach the server.
    pub(crate) fn stopped(&self, endpoint: Endpoint, r: &Owned) -> Option<Result<Reply, TransportError>> {
        if endpoint != Endpoint::Chunk {
            return None;
        }
        let body = r.body.as_deref().unwrap_or_default();
        let (name, status) = match self.way() {
            // About one in ten of the apps' texts.
            Way::Filter(status) if String::from_utf8_lossy(body).contains("7>") => ("filter", status),
            Way::Narrow if body.len() > MOST_BYTES => ("narrow", 413),
            _ => return None,
        };
        self.covered("way", name);
        if status == 0 {
            return Some(Err(TransportError::Broken("the connection was reset".into())));
        }
        Some(Ok(page(status)))
    }

    /// What becomes of the server's reply.
    pub(crate) fn altered(&self, endpoint: Endpoint, reply: Reply) -> Reply {
        match self.way() {
            Way::June => {
                self.covered("way", "june");
                // Searches for what is refused come to an end only where they are few.
                crate::june::answer(endpoint, reply, self.clear.load(Ordering::Relaxed))
            }
            Way::NoNames if reply.status == 422 || reply.status == 400 && endpoint == Endpoint::Chunk => {
                self.covered("way", "no names");
                let body = br#"{"error":"internal_error","message":"it failed"}"#.to_vec();
                Reply { status: 500, retry_after: None, body }
            }
            Way::NoWords if reply.status >= 400 => {
                self.covered("way", "no words");
                page(reply.status)
            }
            _ => reply,
        }
    }

    /// What a cache makes of a page of bundles: with `old`, until the verb ends, the page as it was when it was first
    /// asked for.
    pub(crate) fn cached(&self, r: &Request<'_>, reply: Reply, old: bool) -> Reply {
        if reply.status != 200 {
            return reply;
        }
        let old = {
            let mut run = lock(&self.run);
            run.cached |= old;
            run.cached
        };
        let mut pages = lock(&self.pages);
        let page = pages.entry((r.token.to_owned(), r.path.to_owned())).or_insert_with(|| reply.body.clone());
        if !old || *page == reply.body {
            return reply;
        }
        self.covered("cache", "old page");
        Reply { body: page.clone(), ..reply }
    }

    /// A push that fails keeps no device from what others committed.
    pub(crate) fn pulled_all_the_same(&self, device: usize, verb: Verb, checkpoint: i64, waits: bool) {
        let user = lock(&self.device(device).user).clone();
        let latest = lock(&self.models).get(&user).map_or(0, UserModel::latest);
        if verb == Verb::Sync && !waits && checkpoint != latest {
            let text = format!("device {device} is at {checkpoint} of {latest}");
            self.fail(Violation::new("no push holds a pull back", text));
        }
    }
}

fn page(status: u16) -> Reply {
    Reply { status, retry_after: None, body: b"<html>a proxy's own words</html>".to_vec() }
}

/// What a narrow proxy takes at once: a few rows.
const MOST_BYTES: usize = 900;
