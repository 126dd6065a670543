//! What came back, and readers that fail with what was expected and what came.

use crate::json::Json;
use crate::lab::{Checked, fail, want};

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) what: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// What came, for a failure.
    pub(crate) fn came(&self) -> String {
        format!("{}: status {}, {}", self.what, self.status, shown(&self.body))
    }

    /// The body of a success.
    pub(crate) fn ok(&self) -> Checked<Json> {
        want!(self.status == 200, format!("{} answers 200", endpoint(&self.what)), "{}", self.came());
        self.json()
    }

    /// A success without a body.
    pub(crate) fn done(&self) -> Checked {
        let expected = format!("{} answers 204 without a body", endpoint(&self.what));
        want!(self.status == 204 && self.body.is_empty(), expected, "{}", self.came());
        Ok(())
    }

    /// The body as JSON, with its content type.
    pub(crate) fn json(&self) -> Checked<Json> {
        let json = Json::parse(&self.body).or_else(|e| {
            fail(format!("{} answers with one JSON document", endpoint(&self.what)), format!("{e}: {}", self.came()))
        })?;
        let media = self.header("content-type").unwrap_or_default();
        want!(
            media.split(';').next().is_some_and(|m| m.trim() == "application/json"),
            format!("{} answers with the content type application/json", endpoint(&self.what)),
            "content type {media:?}: {}",
            self.came()
        );
        Ok(json)
    }

    /// An error in its one form: this status, one of these codes, a message.
    pub(crate) fn refused(&self, status: u16, codes: &[&str]) -> Checked<Json> {
        let expected = format!("{} answers {status} {}", endpoint(&self.what), codes.join(" or "));
        want!(self.status == status, expected, "{}", self.came());
        let json = Json::parse(&self.body)
            .or_else(|e| fail(format!("{expected} as {{\"error\", \"message\"}}"), format!("{e}: {}", self.came())))?;
        let code = json.get("error").and_then(Json::text);
        want!(code.is_some_and(|c| codes.contains(&c)), expected, "{}", self.came());
        let message = json.get("message").and_then(Json::text);
        want!(message.is_some_and(|m| !m.is_empty()), "an error body has a message", "{}", self.came());
        self.json()
    }

    /// A member of a body that must be there.
    pub(crate) fn need<'j>(&self, json: &'j Json, name: &str) -> Checked<&'j Json> {
        match json.get(name) {
            Some(v) => Ok(v),
            None => fail(format!("the reply to {} has {name}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_integer(&self, json: &Json, name: &str) -> Checked<i64> {
        match self.need(json, name)?.integer() {
            Some(i) => Ok(i),
            None => fail(format!("{name} is an integer in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_text(&self, json: &Json, name: &str) -> Checked<String> {
        match self.need(json, name)?.text() {
            Some(s) => Ok(s.to_owned()),
            None => fail(format!("{name} is a string in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    pub(crate) fn need_boolean(&self, json: &Json, name: &str) -> Checked<bool> {
        match self.need(json, name)?.boolean() {
            Some(b) => Ok(b),
            None => fail(format!("{name} is a boolean in the reply to {}", endpoint(&self.what)), self.came()),
        }
    }

    /// A time that must lie ahead.
    pub(crate) fn need_future(&self, json: &Json, name: &str) -> Checked<jiff::Timestamp> {
        let text = self.need_text(json, name)?;
        match text.parse::<jiff::Timestamp>() {
            // A minute for clocks that do not agree.
            Ok(t) if t.as_second() + 60 >= jiff::Timestamp::now().as_second() && text.ends_with('Z') => Ok(t),
            _ => fail(format!("{name} is a time to come, RFC 3339, UTC"), self.came()),
        }
    }
}

/// A request without its ids and query: how failures of one kind are recognised.
fn endpoint(what: &str) -> String {
    let path = what.split('?').next().unwrap_or(what);
    let mut parts: Vec<&str> = path.split('/').collect();
    for i in 1..parts.len() {
        match parts[i - 1] {
            "push-sessions" => parts[i] = "{push_id}",
            "snapshot-sessions" => parts[i] = "{snapshot_id}",
            "committed-bundles" => parts[i] = "{bundle_seq}",
            _ => {}
        }
    }
    parts.join("/")
}

/// The beginning of a body, for people.
pub(crate) fn shown(body: &[u8]) -> String {
    if body.is_empty() {
        return "an empty body".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim_end().to_owned();
    if body.len() > SHOWN { format!("{text}… ({} bytes)", body.len()) } else { text }
}

const SHOWN: usize = 1000;
