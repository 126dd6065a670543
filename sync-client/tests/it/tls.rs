//! TLS in front of the server: an authority of one's own, the system's store, and what is said where nobody is trusted.

use std::io::{Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sync_client::Client;
use tempfile::TempDir;

use crate::cli::{DDL, THREE, file, program, run};
use crate::support::serve;

/// A file beside these tests.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Ends TLS in front of a plain server, as a proxy does, with a certificate for `localhost`; the URL.
fn in_front_of(url: &str) -> String {
    let server = url.strip_prefix("http://").unwrap().to_owned();
    let certificate = CertificateDer::from_pem_file(beside("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(beside("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream.unwrap());
            let server = server.clone();
            std::thread::spawn(move || relay(tls, &server));
        }
    });
    format!("https://localhost:{port}")
}

/// One request and its reply.
fn relay(mut tls: StreamOwned<ServerConnection, TcpStream>, server: &str) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if !tls.read(&mut byte).is_ok_and(|n| n > 0) {
            return;
        }
        request.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    tls.read_exact(&mut body).unwrap();
    let end = request.len() - 2;
    let mut upstream = TcpStream::connect(server).unwrap();
    upstream.write_all(&[&request[..end], b"Connection: close\r\n\r\n", &body].concat()).unwrap();
    let mut reply = Vec::new();
    upstream.read_to_end(&mut reply).unwrap();
    if tls.write_all(&reply).is_ok() {
        tls.conn.send_close_notify();
        let _ = tls.flush();
    }
}

#[test]
fn an_authority_of_ones_own_is_trusted_and_remembered() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = in_front_of(&server.url());
    let ca = beside("authority.pem").display().to_string();
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    // Nobody vouches for it, as long as nobody says who may.
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann", "--offline"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(3);
    assert!(ran.stderr.contains("--ca FILE") && ran.stderr.contains("SSL_CERT_FILE"), "{}", ran.stderr);
    let init = run(&dir, &["init", "a.db", "--server", &url, "--all", "--ca", &ca, "--json"]).ends(0).json();
    assert_eq!(init["online"], true);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(run(&dir, &["status", "a.db", "--json"]).ends(0).json()["ca"], ca.as_str());
    run(&dir, &["clone", &url, "b.db", "--token", "ann", "--ca", &ca]).ends(0);
    run(&dir, &["sync", "b.db"]).ends(0);
    let client = Client::builder(dir.path().join("b.db")).token(|_| Ok("ann".into())).open().unwrap();
    client.sync().unwrap();
    drop(client);
    // The name counts, too.
    let elsewhere = url.replace("localhost", "127.0.0.2");
    let ran = run(&dir, &["init", "a.db", "--server", &elsewhere, "--all", "--ca", &ca]);
    let said = if ran.code == 3 { "for another name" } else { "cannot reach" };
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    for (content, said) in [(Some("no certificate"), "there is no certificate in it"), (None, "No such file")] {
        let path = dir.path().join("wrong.pem");
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let ran = run(&dir, &["init", "a.db", "--server", &url, "--all", "--ca", "wrong.pem"]).ends(2);
        assert!(ran.stderr.contains("wrong.pem") && ran.stderr.contains(said), "{}", ran.stderr);
    }
}

/// Letting go of a file, and deciding about its rows, needs no certificate.
#[test]
fn an_authority_that_is_gone_keeps_nobody_from_detaching() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", DDL);
    std::fs::copy(beside("authority.pem"), dir.path().join("ca.pem")).unwrap();
    run(&dir, &["init", "a.db", "--server", "https://h", "--all", "--ca", "ca.pem", "--offline"]).ends(0);
    std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
    let ran = run(&dir, &["sync", "a.db", "--token", "ann"]).ends(2);
    assert!(ran.stderr.contains("ca.pem"), "{}", ran.stderr);
    run(&dir, &["clear", "a.db", "--kind", "discarded"]).ends(0);
    run(&dir, &["detach", "a.db"]).ends(0);
}

#[test]
fn the_systems_store_may_be_another_file() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let url = in_front_of(&server.url());
    file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann", "--offline"]).ends(0);
    let synced = program(&dir, &["sync", "a.db"]).env("SSL_CERT_FILE", beside("authority.pem")).output().unwrap();
    assert!(synced.status.success(), "{}", String::from_utf8_lossy(&synced.stderr));
}

#[test]
fn https_to_a_plain_server_and_http_to_one_with_tls_are_told() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let (right, wrong) = (server.url(), server.url().replace("http://", "https://"));
    file(&dir, "a.db", DDL);
    run(&dir, &["init", "a.db", "--server", &right, "--all", "--token", "ann"]).ends(0);
    let tls = in_front_of(&right);
    for (url, said) in [(&wrong, "http://?"), (&tls.replace("https://", "http://"), "https://"), (&tls, "--ca FILE")] {
        let ran = run(&dir, &["init", "a.db", "--server", url, "--all", "--token", "bob"]).ends(3);
        let all = ["Nothing was changed; with --offline the server is not asked.", said];
        assert!(all.iter().all(|said| ran.stderr.contains(said)), "{}", ran.stderr);
    }
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["init", "a.db", "--server", &wrong, "--all", "--token", "ann", "--offline"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(3);
    assert!(ran.stderr.contains("does not speak TLS; is its URL http://?"), "{}", ran.stderr);
    let wrong = in_front_of(&server.url()).replace("https://", "http://");
    run(&dir, &["init", "a.db", "--server", &wrong, "--all", "--offline"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(3);
    assert!(ran.stderr.contains("https://"), "{}", ran.stderr);
}
