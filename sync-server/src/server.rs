//! Runs a router on a listener: until it is told to stop, and then until what is in flight has finished.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::serve::ListenerExt;
use axum::{Extension, Router};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

/// Serves a router until `stop` comes, then takes no new connections, ends the watch streams, lets
/// the requests in flight finish for at most `grace`, and returns.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Replies and events are small and written at once; waiting for more would only delay them.
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|tcp| {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
    });
    let (stopping, stopped) = watch::channel(false);
    let mut closing = Closing(Some(stopped.clone()));
    let mut late = Closing(Some(stopped.clone()));
    let router = router.layer(Extension(Closing(Some(stopped))));
    tokio::spawn(async move {
        stop.await;
        stopping.send_replace(true);
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { closing.wait().await });
    tokio::select! {
        served = serving.into_future() => served,
        () = async { late.wait().await; tokio::time::sleep(grace).await } => {
            tracing::warn!(seconds = grace.as_secs(), "requests that did not finish in time are cut");
            Ok(())
        }
    }
}

/// A runtime for the server: few threads, bounded blocking ones.
///
/// # Errors
/// Where the threads cannot be made.
pub(crate) fn runtime(workers: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(workers.max(1))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("sync-server")
        .enable_all()
        .build()
}

/// Service calls at once. Each may wait for the writer of its scope; more would only cost memory.
const BLOCKING_THREADS: usize = 64;

/// Tells a long stream that the server is stopping.
#[derive(Debug, Clone)]
pub(crate) struct Closing(Option<watch::Receiver<bool>>);

impl Closing {
    /// For a router that somebody else serves: its streams end when the service closes.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Returns once the server is stopping.
    pub(crate) async fn wait(&mut self) {
        match &mut self.0 {
            // An error means that the server is gone.
            Some(stopped) => drop(stopped.wait_for(|stopped| *stopped).await),
            None => std::future::pending().await,
        }
    }
}

/// A router served by a thread of its own, for tests, examples and programs that are not async.
///
/// ```no_run
/// # fn router() -> axum::Router { axum::Router::new() }
/// let server = sync_server::Server::start("127.0.0.1:0", router())?;
/// println!("listening on {}", server.url());
/// server.stop()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Listens; port 0 takes a free one. Requests are answered from the moment this returns.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
    pub fn start(addr: impl ToSocketAddrs, router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let runtime = runtime(2)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("sync-server".into()).spawn(move || {
            let stop = async { drop(stopped.await) };
            let served = runtime.block_on(serve(listener, router, stop, GRACE));
            runtime.shutdown_timeout(GRACE);
            served
        })?;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops it; requests in flight finish first, for at most ten seconds.
    ///
    /// # Errors
    /// Where serving failed.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(served)) => served,
            Some(Err(_)) => Err(io::Error::other("the server's thread panicked")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the server did not stop cleanly");
        }
    }
}

const GRACE: Duration = Duration::from_secs(10);
