//! Replies that are not the server's: a proxy's own page in place of an error, a filter that refuses a request, a
//! login page. Whatever the server says is one JSON object, and an error of it names a code; everything else comes
//! from something between.

use std::io::{Cursor, Read};

use sync_core::json::Members;
use sync_core::protocol::error::ErrorReply;

/// An error reply as the server's, or the first words of what is none.
pub(crate) fn read_error(bytes: &[u8]) -> Result<ErrorReply, Unread> {
    match sync_core::json::from_slice::<ErrorReply>(bytes) {
        Ok(reply) if begins_object(bytes) && !reply.error.is_empty() => Ok(reply),
        Err(e) if e.is_cut() && begins_object(bytes) => Err(Unread::Cut(e)),
        _ => Err(Unread::Foreign { words: first_words(bytes), page: bytes.trim_ascii_start().starts_with(b"<") }),
    }
}

/// Why an error reply is none of the server's.
pub(crate) enum Unread {
    /// It may be one, but its end is missing.
    Cut(sync_core::json::JsonError),
    /// Something else wrote it; its first words, and whether it is a page for people.
    Foreign { words: String, page: bool },
}

/// The body of a reply that says that all is well, with nothing taken from it; `Err` with the first words where it is
/// not a JSON object, or a short one with nothing in it that any reply of a server has. An empty one, or one that breaks
/// off before its first byte, is left to whoever reads it.
pub(crate) fn look(mut body: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, String> {
    let mut begin = Vec::new();
    let mut buffer = [0; 16];
    while !begin.iter().any(|b: &u8| !b.is_ascii_whitespace()) && begin.len() < MOST_SPACE {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(Box::new(Cursor::new(begin))),
            Ok(n) => begin.extend_from_slice(&buffer[..n]),
            Err(e) => return Ok(Box::new(Cursor::new(begin).chain(Failed(Some(e)).chain(body)))),
        }
    }
    if begins_object(&begin) {
        // An error is met again by whoever reads on.
        let failed = match body.by_ref().take(READ_WORDS).read_to_end(&mut begin) {
            Ok(n) if n < READ_WORDS as usize && is_anothers(&begin) => return Err(first_words(&begin)),
            read => read.err(),
        };
        return Ok(Box::new(Cursor::new(begin).chain(Failed(failed)).chain(body)));
    }
    // What can be had of it, for the person who reads the error.
    let _ = body.take(READ_WORDS).read_to_end(&mut begin);
    Err(first_words(&begin))
}

/// An error that was met before anybody asked for what comes next.
struct Failed(Option<std::io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Whether this is a whole JSON object without a single member that a server's replies can be known by.
fn is_anothers(bytes: &[u8]) -> bool {
    let known = |name: &str| MEMBERS.contains(&name);
    sync_core::json::from_slice::<Members>(bytes).is_ok_and(|members| !members.0.iter().any(|(name, _)| known(name)))
}

fn begins_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// The text of a page without its tags and scripts, cut to one short line.
fn first_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(READ_WORDS as usize)]);
    let mut words = String::new();
    let mut rest = &*text;
    while let Some(open) = rest.find('<') {
        push_words(&mut words, &rest[..open]);
        rest = &rest[open..];
        let hidden = ["script", "style"].into_iter().find(|tag| begins_with(&rest[1..], tag));
        let end = match hidden {
            Some(tag) => {
                rest.match_indices("</").find(|(at, _)| begins_with(&rest[at + 2..], tag)).map(|(at, _)| at + 1)
            }
            None => Some(0),
        };
        rest = end.and_then(|at| rest[at..].find('>').map(|close| &rest[at + close + 1..])).unwrap_or_default();
        words.push(' ');
    }
    push_words(&mut words, rest);
    let line: Vec<&str> = words.split_whitespace().collect();
    line.join(" ").chars().take(MOST_WORDS).collect()
}

fn begins_with(text: &str, name: &str) -> bool {
    text.get(..name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name))
}

fn push_words(words: &mut String, text: &str) {
    words.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
}

/// Each reply has at least one of them, whatever it answers; words that anybody says (`status`) are left out.
const MEMBERS: [&str; 9] = [
    "protocol_version",
    "statements",
    "resolution",
    "push_id",
    "bundle_seq",
    "stable_bundle_seq",
    "next_row_ordinal",
    "rows",
    "snapshot_id",
];
/// White space before a reply that is passed over.
const MOST_SPACE: usize = 4096;
/// As much of a page is looked at.
const READ_WORDS: u64 = 8 * 1024;
/// As much of it is told, in characters.
const MOST_WORDS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_servers() {
        for (body, foreign) in [
            (r#"{"error":"push_conflict","message":"m"}"#, None),
            (r#" {"error":"unheard_of"}"#, None),
            ("", Some("")),
            ("<html>blocked</html>", Some("blocked")),
            (r#"{"message":"Forbidden"}"#, Some(r#"{"message":"Forbidden"}"#)),
            (r#"{"error":{"code":7}}"#, Some(r#"{"error":{"code":7}}"#)),
            (r#"["error"]"#, Some(r#"["error"]"#)),
            ("404 page not found\n", Some("404 page not found")),
            (
                "<html><head><title>413 Too Large</title><STYLE>a { b }</STYLE></head>\n<body>\t<p>no\u{7}</p></body></html>",
                Some("413 Too Large no"),
            ),
            ("<script>alert(1)</script>go <b", Some("go")),
        ] {
            match (read_error(body.as_bytes()), foreign) {
                (Ok(_), None) => {}
                (Err(Unread::Foreign { words, .. }), Some(expected)) => assert_eq!(words, expected, "{body}"),
                _ => panic!("{body}"),
            }
        }
        assert!(matches!(read_error(br#"{"error":"push_c"#), Err(Unread::Cut(_))), "it is asked for again");
        let long = "word ".repeat(1000);
        assert!(
            matches!(read_error(long.as_bytes()), Err(Unread::Foreign { words, .. }) if words.chars().count() == MOST_WORDS)
        );
    }

    #[test]
    fn a_good_reply_is_handed_on_whole() {
        let long = format!(r#"{{"bundles":["{}"],"stable_bundle_seq":1}}"#, "x".repeat(20_000));
        for body in
            [r#"{"rows":1}"#, "  \n {\"push_id\":\"0123456789012345678901234567890123456789\"}", "", "{\"cut\":", &long]
        {
            let mut read = String::new();
            look(Box::new(Cursor::new(body.to_owned()))).ok().unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, body);
        }
        for (page, words) in [
            ("<!doctype html><p>Log in", "Log in"),
            ("[1]", "[1]"),
            ("ok", "ok"),
            ("{}", "{}"),
            (r#"{"status":"ok"}"#, r#"{"status":"ok"}"#),
        ] {
            assert_eq!(look(Box::new(page.as_bytes())).err().as_deref(), Some(words));
        }
        let mut cut = look(Box::new(Failed(Some(std::io::Error::other("gone"))))).ok().unwrap();
        assert!(cut.read(&mut [0; 4]).is_err(), "an error is no end");
    }
}
