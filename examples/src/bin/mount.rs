//! The server inside one's own axum application, below `/api/v1`, with one's own authentication.
//!
//! ```sh
//! cargo run -p examples --bin mount              # serves http://127.0.0.1:8787/api/v1 until Ctrl-C
//! cargo run -p examples --bin mount -- --once    # serves, asks itself, exits
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use clap::Parser;
use examples::{Result, lab};
use rusqlite::Connection;
use sync_client::Client;
use sync_core::protocol::UserId;
use sync_server::auth::{AuthError, Authenticate, bearer};
use sync_server::limits::Limits;
use sync_server::router;

const SCHEMA: &str = "CREATE TABLE bookmarks (url TEXT PRIMARY KEY NOT NULL, title TEXT, stars INTEGER);";

/// An application with a sync server in it.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Listen on a free port, check with a few requests that everything is in its place, and exit.
    #[arg(long)]
    once: bool,
}

/// Knows users by the keys that they were given. An application of yours looks at its sessions here.
struct ApiKeys(HashMap<String, UserId>);

impl ApiKeys {
    fn new(keys: &[(&str, &str)]) -> Self {
        let user = |(key, user): &(&str, &str)| Some(((*key).to_owned(), UserId::parse(user)?));
        Self(keys.iter().filter_map(user).collect())
    }
}

impl Authenticate for ApiKeys {
    fn authenticate(&self, headers: &HeaderMap) -> std::result::Result<UserId, AuthError> {
        self.0.get(bearer(headers)?).cloned().ok_or(AuthError::Invalid)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let data = tempfile::tempdir()?; // yours is a directory that stays
    let service = lab::service(data.path(), SCHEMA, Limits::default())?;
    let keys = ApiKeys::new(&[("key-of-ada", "ada"), ("key-of-bob", "bob")]);
    let app =
        Router::new().route("/", get(|| async { "bookmarks: sync at /api/v1" })).nest("/api/v1", router(service, keys));

    let listen = if options.once { SocketAddr::from(([127, 0, 0, 1], 0)) } else { options.listen };
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("serving {url}/api/v1; the tokens are key-of-ada and key-of-bob");
    if !options.once {
        axum::serve(listener, app).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;
        return Ok(());
    }
    let serving = tokio::spawn(axum::serve(listener, app).into_future());
    let checked = tokio::task::spawn_blocking(move || check(&url).map_err(|e| e.to_string())).await?;
    serving.abort();
    Ok(checked?)
}

/// Asks for the application's own page, knocks without a key, and syncs two files with one.
fn check(url: &str) -> Result<()> {
    let home = ureq::get(url).call()?.into_body().read_to_string()?;
    println!("GET /                           {home}");
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let stranger =
        agent.get(format!("{url}/api/v1/sync/capabilities")).header("Authorization", "Bearer guess").call()?;
    println!("GET /api/v1/sync/capabilities   {} without a known key", stranger.status());
    let dir = tempfile::tempdir()?;
    let sync = |name: &str, sql: &str| -> Result<(u64, u64)> {
        let file = dir.path().join(name);
        Connection::open(&file)?.execute_batch(&format!("{SCHEMA} {sql}"))?;
        let client = Client::builder(&file)
            .server(&format!("{url}/api/v1"))
            .token(|_| Ok("key-of-ada".into()))
            .all_tables()
            .open()?;
        let report = client.sync()?;
        Ok((report.push.committed_rows, report.pull.applied_rows))
    };
    let (out, _) = sync("laptop.db", "INSERT INTO bookmarks VALUES ('https://sqlite.org', 'SQLite', 5)")?;
    let (_, come) = sync("phone.db", "")?;
    println!("sync below /api/v1              {out} row out of one file, {come} into another");
    if stranger.status() != 401 || (out, come) != (1, 1) || !home.starts_with("bookmarks") {
        return Err("the application does not answer as it should".into());
    }
    Ok(())
}
