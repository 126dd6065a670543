//! What the program `sync-server` does: serve until a signal, or print a token.

use std::io::{IsTerminal as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clap::Parser;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "ingest")]
use crate::app::health_router;
use crate::auth::{DevAuth, JwtAuth};
#[cfg(feature = "ingest")]
use crate::config::Stream;
use crate::config::{Cli, Command, ConfigError, Serve, fault_point, secret_auth};
use crate::environment::SystemEnvironment;
#[cfg(feature = "ingest")]
use crate::ingest::{IngestOptions, KeyAuth};
use crate::limits::Limits;
use crate::service::{Environment, Service, ServiceConfig};
use crate::{RouterOptions, router_with, serve, server, standalone};

/// Runs the command line. 0 is success, 1 a failure, 2 a command line or environment that cannot be used.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let usage = e.downcast_ref::<ConfigError>().is_some();
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "sync-server: {e}");
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

type Failed = Box<dyn std::error::Error>;

fn run(cli: Cli) -> Result<(), Failed> {
    let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment::stopping_at(fault_point()?));
    match cli.command {
        Command::Token(token) => {
            writeln!(std::io::stdout(), "{}", token.issue(environment)?)?;
            Ok(())
        }
        #[cfg(feature = "ingest")]
        Command::Keys(keys) => keys.run(environment),
        #[cfg(feature = "ingest")]
        Command::Devices(devices) => devices.run(environment),
        #[cfg(feature = "ingest")]
        Command::Projects(projects) => projects.run(environment),
        #[cfg(feature = "ingest")]
        Command::Rollups(rollups) => rollups.run(&environment),
        Command::Serve(options) => {
            options.check()?;
            log_to_stderr();
            run_server(&options, &environment)
        }
    }
}

fn run_server(options: &Serve, environment: &Arc<dyn Environment>) -> Result<(), Failed> {
    let secret = options.schema.is_some() && !options.dev;
    let auth = secret.then(|| secret_auth(options.secret_file.as_deref(), Arc::clone(environment))).transpose()?;
    let service = open(options, environment)?;
    let listener =
        TcpListener::bind(options.listen).map_err(|e| format!("cannot listen on {}: {e}", options.listen))?;
    let addr = listener.local_addr()?;
    let router = standalone(routes(options, &service, auth, environment, addr)?);
    let runtime = server::runtime(options.workers)?;
    runtime.block_on(async {
        // The handlers are in place before anybody is told that there is something to stop.
        let stop = stop_signal()?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "listening on http://{addr}")?;
        stdout.flush()?;
        tracing::info!(%addr, dev = options.dev, "serving");
        serve(listener, router, stop, Duration::from_secs(options.grace)).await
    })?;
    // Ends what was cut, so that closing does not wait for a client.
    runtime.shutdown_timeout(Duration::from_secs(1));
    close(service);
    tracing::info!("stopped");
    Ok(())
}

fn open(options: &Serve, environment: &Arc<dyn Environment>) -> Result<Service, Failed> {
    let limits = options.limits.limits();
    let Some(schema) = &options.schema else { return without_schema(options, limits, environment) };
    let config = ServiceConfig {
        rules_sql: options.rules.as_deref().map(read).transpose()?,
        wire_schema: options.wire_schema.clone(),
        app_name: options.app_name.clone(),
        limits,
        ..ServiceConfig::new(&options.data, read(schema)?)
    };
    Ok(Service::open(config, Arc::clone(environment)).map_err(|e| e.to_string())?)
}

#[cfg(feature = "ingest")]
fn without_schema(options: &Serve, limits: Limits, environment: &Arc<dyn Environment>) -> Result<Service, Failed> {
    let opened = Service::open_recorded(options.data.clone(), limits, Arc::clone(environment));
    Ok(opened.map_err(|e| e.to_string())?)
}

#[cfg(not(feature = "ingest"))]
fn without_schema(_: &Serve, _: Limits, _: &Arc<dyn Environment>) -> Result<Service, Failed> {
    Err("--schema is required".into())
}

/// Row sync where there is a schema, and the contracts that were named.
#[cfg(feature = "ingest")]
fn routes(
    options: &Serve,
    service: &Service,
    auth: Option<JwtAuth>,
    environment: &Arc<dyn Environment>,
    addr: SocketAddr,
) -> Result<Router, Failed> {
    let keys = |other| KeyAuth::new(&options.data, Arc::clone(environment), other);
    let contracts = options.ingest.iter().map(|s| s.contract());
    let ingest_streams = contracts.map(|c| crate::ingest::told(&c)).collect();
    let http = RouterOptions { heartbeat: options.heartbeat(), ingest_streams, ..RouterOptions::default() };
    let mut router = match (&options.schema, auth) {
        (None, _) => health_router(service.clone(), http),
        (Some(_), Some(auth)) => router_with(service.clone(), keys(auth)?, http),
        (Some(_), None) => router_with(service.clone(), DevAuth, http),
    };
    let url = options.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    let url = url.unwrap_or_else(|| format!("http://{addr}"));
    let ingest = || IngestOptions {
        dev: options.dev,
        loopback_diagnostics: options.loopback_diagnostics,
        ..IngestOptions::new(url.clone())
    };
    if options.ingest.contains(&Stream::Statsai) {
        router = router.merge(crate::ingest::statsai(service.clone(), &options.data, ingest())?);
    }
    if options.ingest.contains(&Stream::Aexy) {
        let evidence = options.evidence.clone().unwrap_or_else(|| options.data.join("evidence"));
        let evidence = Some(evidence).filter(|dir| dir.as_os_str() != "none");
        let ingest = IngestOptions { developer: developer(options, environment)?, evidence, ..ingest() };
        router = router.merge(crate::ingest::aexy(service.clone(), &options.data, ingest)?);
    }
    Ok(router)
}

/// Signed tokens are a developer's where there is a secret to sign them with; the operator's keys are so without one.
#[cfg(feature = "ingest")]
fn developer(options: &Serve, environment: &Arc<dyn Environment>) -> Result<Option<JwtAuth>, ConfigError> {
    match secret_auth(options.secret_file.as_deref(), Arc::clone(environment)) {
        Ok(auth) => Ok(Some(auth)),
        Err(ConfigError::NoSecret) => {
            tracing::info!(
                "no secret is set: developers' own tokens are made with `sync-server keys create --for aexy`"
            );
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

#[cfg(not(feature = "ingest"))]
fn routes(
    options: &Serve,
    service: &Service,
    auth: Option<JwtAuth>,
    _: &Arc<dyn Environment>,
    _: SocketAddr,
) -> Result<Router, Failed> {
    let http = RouterOptions { heartbeat: options.heartbeat(), ..RouterOptions::default() };
    Ok(match auth {
        Some(auth) => router_with(service.clone(), auth, http),
        None => router_with(service.clone(), DevAuth, http),
    })
}

/// Closes the service, but does not wait for ever: every commit is durable or will be rolled back.
fn close(service: Service) {
    let (closed, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        service.close();
        // Nobody may be waiting any more.
        let _ = closed.send(());
    });
    if done.recv_timeout(Duration::from_secs(5)).is_err() {
        tracing::warn!("the service did not close in time");
    }
}

fn read(path: &Path) -> Result<String, Failed> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
}

/// Ends with the first SIGINT or SIGTERM.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        drop(tokio::signal::ctrl_c().await);
    })
}

/// Filtered by `RUST_LOG`; `info` where that is not set.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for a terminal: a log file has none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_target(false).with_ansi(colours).init();
}
