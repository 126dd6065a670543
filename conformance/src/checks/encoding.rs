//! Bodies: compressed, unknown, broken, too large.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, want};

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::should(
            "encoding.gzip",
            "a gzip body is read",
            &["spec.3.encodings"],
            "uploads cost several times the traffic",
            |lab| encoded(lab, "gzip", gzip),
        ),
        Check::should(
            "encoding.zstd",
            "a zstd body is read",
            &["spec.3.encodings"],
            "uploads cost several times the traffic",
            |lab| encoded(lab, "zstd", zstd),
        ),
        Check::should(
            "encoding.identity",
            "identity is an encoding",
            &["spec.3.encodings"],
            "proxies that name it break sync",
            |lab| encoded(lab, "identity", <[u8]>::to_vec),
        ),
        Check::should(
            "encoding.unknown",
            "another encoding is 415",
            &["spec.3.encodings", "spec.2.errors"],
            "a client takes its own mistake for a failing server",
            |lab| {
                lab.user()?
                    .header("Content-Encoding", "br")
                    .post("/sync/connect", "{}")?
                    .refused(415, &["unsupported_encoding"])
                    .map(drop)
            },
        ),
        Check::should(
            "encoding.broken",
            "a broken gzip body is refused",
            &["spec.3.encodings"],
            "half a request is taken for a whole one",
            |lab| {
                let body = gzip(b"{\"has_local_pending_rows\":false}");
                let d = lab.user()?.header("Content-Encoding", "gzip");
                for body in [&body[..body.len() - 6], b"not gzip at all"] {
                    let reply = d.post("/sync/connect", body)?;
                    want!(reply.status == 400, "a body that cannot be inflated is 400", "{}", reply.came());
                }
                lab.user()?.connect_as(true, "initialize_local").map(drop)
            },
        ),
        Check::may(
            "encoding.replies",
            "replies are compressed where the caller allows it",
            &["spec.3.compressed"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let rows: Vec<_> = (0..200).map(|n| t.insert(n, "the same text again and again")).collect();
                let c = d.push(1, &rows)?;
                let plain = d.rows_reply(c.seq, "")?;
                let packed = d.header("Accept-Encoding", "gzip").rows_reply(c.seq, "")?;
                if packed.header("content-encoding").is_none() {
                    return crate::lab::not_offered("a large reply is not compressed");
                }
                want!(
                    packed.header("content-encoding") == Some("gzip"),
                    "the reply has an encoding that was allowed",
                    "{:?}",
                    packed.headers
                );
                let mut text = Vec::new();
                let read = std::io::Read::read_to_end(
                    &mut flate2::read::MultiGzDecoder::new(packed.body.as_slice()),
                    &mut text,
                );
                want!(
                    read.is_ok() && text == plain.body,
                    "inflated, the reply is the same",
                    "{} bytes, plain {}",
                    text.len(),
                    plain.body.len()
                );
                Ok(())
            },
        ),
        Check::should(
            "encoding.too_large",
            "more decoded bytes than the limit are 413",
            &["spec.3.size", "spec.2.errors"],
            "one request can fill the server's memory",
            |lab| {
                let Some(most) = lab.limit("max_bytes_per_request").filter(|n| *n <= 512 << 20) else {
                    return crate::lab::not_offered("max_bytes_per_request is not advertised, or over 512 MiB");
                };
                let d = lab.ready()?;
                let push = d.create(1, 1)?;
                let d = d.header("Content-Encoding", "gzip");
                let reply = d.post(&format!("/sync/push-sessions/{push}/chunks"), bomb(most as usize + 1))?;
                let json = reply.refused(413, &["payload_too_large"])?;
                want!(
                    json.get("limit_bytes").and_then(Json::integer) == Some(most),
                    "limit_bytes is the advertised limit",
                    "{json}"
                );
                Ok(())
            },
        )
        .slow(),
        Check::must("encoding.utf8_names", "replies are UTF-8", &["spec.2.content_type", "spec.4.text"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let c = d.push(1, &[t.insert(1, "é 中 😀")])?;
            let reply = d.rows_reply(c.seq, "")?;
            want!(std::str::from_utf8(&reply.body).is_ok(), "a JSON reply is UTF-8", "{}", reply.came());
            reply.json().map(drop)
        }),
        Check::must("encoding.hostile", "hostile bodies are refused without a fault", &["spec.3.malformed"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.create(1, 1)?;
            let chunks = format!("/sync/push-sessions/{push}/chunks");
            let paths = ["/sync/connect", "/sync/push-sessions", &chunks, "/sync/snapshot-sessions"];
            let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
            let bodies: [&[u8]; 12] = [
                b"null",
                b"0",
                b"\"\"",
                b"[]",
                b"[[[[",
                b"{\"\":{}}",
                b"\xff\xfe",
                b"\x00",
                b"{\"a\":1e999}",
                b"-",
                b"{\"start_row_ordinal\":1e400,\"rows\":[null]}",
                deep.as_bytes(),
            ];
            for path in paths {
                for body in bodies {
                    // What a body of `null` means is left to the backend; a fault it is not.
                    let reply = d.post(path, body)?;
                    want!(
                        reply.status < 500,
                        "a hostile body is answered without a fault",
                        "{} for {}",
                        reply.came(),
                        crate::lab::shown(body)
                    );
                }
            }
            // The scope and the staged push go on.
            let reply = d.upload(&push, 0, &[t.insert(1, "a")])?;
            if reply.status == 200 {
                d.commit(&push)?;
            }
            d.audit()
        }),
        Check::must(
            "encoding.hostile_paths",
            "hostile paths and queries are refused without a fault",
            &["spec.3.path_ids", "spec.3.malformed"],
            |lab| {
                let d = lab.ready()?;
                for path in [
                    "/sync/push-sessions/%00",
                    "/sync/push-sessions/..%2f..%2fetc%2fpasswd",
                    "/sync/push-sessions/%27%3B%20DROP%20TABLE%20x%3B--",
                    "/sync/snapshot-sessions/%ff",
                    "/sync/snapshot-sessions/%27%20OR%201=1",
                    "/sync/committed-bundles/%00/rows",
                    "/sync/committed-bundles/99999999999999999999/rows",
                    "/sync/pull?after_bundle_seq=%00",
                    "/sync/pull?after_bundle_seq=0x10",
                    "/sync/pull?max_bundles=99999999999999999999",
                    "/sync/pull?after_bundle_seq=1%20OR%201%3D1",
                ] {
                    let method = if path.contains("push-sessions") { "DELETE" } else { "GET" };
                    let reply = d.send(method, path, b"")?;
                    want!(
                        (400..500).contains(&reply.status),
                        "a hostile path is refused without a fault",
                        "{}",
                        reply.came()
                    );
                }
                Ok(())
            },
        ),
        Check::may("encoding.too_large_row", "a row over max_bytes_per_row is refused", &["spec.10.enforced"], |lab| {
            let Some(most) = lab.limit("max_bytes_per_row").filter(|n| *n <= 4 << 20) else {
                return crate::lab::not_offered("max_bytes_per_row is not advertised, or over 4 MiB");
            };
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.create(1, 1)?;
            let reply = d.upload(&push, 0, &[t.insert(1, &"x".repeat(most as usize + 1))])?;
            want!((400..500).contains(&reply.status), "a row over the limit is refused", "{}", reply.came());
            Ok(())
        }),
    ]
}

/// A whole push whose bodies are encoded.
fn encoded(lab: &Lab<'_>, name: &str, encode: fn(&[u8]) -> Vec<u8>) -> Checked {
    let t = lab.plain()?;
    let d = lab.user()?.header("Content-Encoding", name);
    let send = |path: &str, body: &str| -> Checked<Reply> { Device::post(&d, path, encode(body.as_bytes())) };
    let reply = send("/sync/connect", "{\"has_local_pending_rows\":false}")?;
    want!(
        reply.need_text(&reply.ok()?, "resolution")? == "initialize_empty",
        "the encoded body is read",
        "{}",
        reply.came()
    );
    let reply = send("/sync/push-sessions", "{\"source_bundle_id\":1,\"planned_row_count\":1}")?;
    let made = reply.ok()?;
    let push = reply.need_text(&made, "push_id")?;
    let one = |reply: &Reply, json: &Json, name: &str| -> Checked {
        want!(reply.need_integer(json, name)? == 1, "the encoded body is read as it is", "{}", reply.came());
        Ok(())
    };
    one(&reply, &made, "planned_row_count")?;
    let row = t.insert(1, &"a<é>".repeat(500)).json();
    let body = format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}");
    let reply = send(&format!("/sync/push-sessions/{push}/chunks"), &body)?;
    one(&reply, &reply.ok()?, "next_expected_row_ordinal")?;
    let reply = d.commit_reply(&push)?;
    one(&reply, &reply.ok()?, "row_count")
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(body).expect("invariant: writing to a Vec does not fail");
    out.finish().expect("invariant: writing to a Vec does not fail")
}

/// A zstd frame of one raw block: every decoder takes it, and no encoder is needed.
fn zstd(body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).expect("invariant: bodies of the suite are small");
    // Magic; a single segment whose size has four bytes; the size; one last block, raw.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&(size << 3 | 1).to_le_bytes()[..3]);
    out.extend_from_slice(body);
    out
}

/// A small gzip body that inflates to so many bytes of one long string.
fn bomb(size: usize) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    let block = vec![b'x'; 1 << 16];
    let mut left = size;
    out.write_all(b"{\"x\":\"").expect("invariant: writing to a Vec does not fail");
    while left > 0 {
        let n = left.min(block.len());
        out.write_all(&block[..n]).expect("invariant: writing to a Vec does not fail");
        left -= n;
    }
    out.finish().expect("invariant: writing to a Vec does not fail")
}
