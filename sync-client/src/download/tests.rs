//! What becomes of the scratch database, and of downloads that were cut, when it fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use sync_server::auth::DevAuth;
use sync_server::service::{Service, ServiceConfig};
use sync_server::{Server, SystemEnvironment, router};

use crate::stage::Stage;
use crate::transport::{Http, Request, Response, Transport, TransportError};
use crate::{Client, Error};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB);";

fn serve(dir: &Path) -> Server {
    let config = ServiceConfig::new(dir.join("data"), SCHEMA);
    let service = Service::open(config, Arc::new(SystemEnvironment::default())).unwrap();
    Server::start("127.0.0.1:0", router(service, DevAuth)).unwrap()
}

/// A server that cannot be reached after the first page of a bundle's rows, once.
struct Cut(Http, AtomicBool);

impl Transport for Cut {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if request.path.contains("/rows?")
            && request.path.contains("after_row_ordinal=")
            && self.1.swap(false, Ordering::SeqCst)
        {
            return Err(TransportError::Offline("the network is gone".into()));
        }
        self.0.send(request)
    }
}

/// A client of a new file, and the app's connection to it.
fn device(dir: &Path, name: &str, server: &Server, cut: bool) -> (Client, Connection) {
    let path = dir.join(name);
    let app = Connection::open(&path).unwrap();
    app.execute_batch(SCHEMA).unwrap();
    let transport = Cut(Http::new(&server.url()).unwrap(), AtomicBool::new(cut));
    let builder = Client::builder(&path).server(&server.url()).token(|_| Ok("ada".into())).all_tables();
    (builder.transport(Arc::new(transport)).open().unwrap(), app)
}

fn fill(app: &Connection, rows: u32, bytes: u32) {
    let numbers = format!("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    app.execute_batch(&format!("{numbers} INSERT INTO t SELECT i, randomblob({bytes}) FROM n")).unwrap();
}

fn rows(app: &Connection) -> i64 {
    app.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
}

/// There was no room for a snapshot, or for a bundle. The scratch database has no journal: what a write that failed has
/// left of it is not used again.
#[test]
fn a_full_disk_costs_no_more_than_the_try_that_met_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let (a, app) = device(dir.path(), "a.db", &server, false);
    let (b, copy) = device(dir.path(), "b.db", &server, false);
    for n in 0..2i64 {
        // The first time by a snapshot, then by a pull.
        app.execute_batch("DELETE FROM t").unwrap();
        fill(&app, 1500, 900);
        a.sync().unwrap();
        b.with(|e| {
            let stage = Stage::create(&e.path)?;
            stage.conn.query_row("PRAGMA max_page_count = 100", [], |_| Ok(()))?;
            e.stage = Some(stage);
            Ok(())
        })
        .unwrap();
        let failed = b.sync().unwrap_err();
        assert!(matches!(&failed, Error::Sqlite(e) if e.to_string().contains("full")), "{n}: {failed:?}");
        b.sync().unwrap();
        assert_eq!(rows(&copy), 1500, "{n}");
    }
}

/// A download that was cut goes on only where the scratch database still has what came.
#[test]
fn a_lost_scratch_database_takes_the_cut_download_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let (a, app) = device(dir.path(), "a.db", &server, false);
    let (b, copy) = device(dir.path(), "b.db", &server, true);
    a.sync().unwrap();
    b.sync().unwrap();
    fill(&app, 12_000, 4);
    a.sync().unwrap();
    assert!(matches!(b.sync(), Err(Error::Offline { .. })));
    b.with(|e| {
        let stage = e.stage.as_ref().expect("it is kept");
        assert!(stage.conn.query_row("SELECT count(*) FROM row", [], |r| r.get::<_, i64>(0))? > 0);
        Ok(stage.conn.execute_batch("DROP TABLE snapshot")?)
    })
    .unwrap();
    assert!(matches!(b.sync(), Err(Error::Sqlite(_))));
    b.sync().unwrap();
    assert_eq!(rows(&copy), 12_000);
}
