//! Connections that can be stopped: the name lookup, the connect, and the socket below TLS.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use ureq::{
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport},
    },
};

use super::{
    TransportError,
    gate::{Gate, Wire},
    http::{CONNECT, IDLE},
};

/// Looks names up. At most so many addresses of a host are tried.
const MAX_ADDRESSES: usize = 8;

/// `host:port` of a URL, for connecting and for messages.
fn host_and_port(uri: &Uri) -> (String, u16) {
    let port = uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 });
    (uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(), port)
}

fn ureq_error(error: TransportError) -> ureq::Error {
    ureq::Error::Io(error.into_io())
}

/// Name lookups that a stop leaves behind.
#[derive(Debug)]
pub(super) struct Names(pub(super) Arc<Gate>);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port) = host_and_port(uri);
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(literal) => vec![SocketAddr::new(literal, port)],
            Err(_) => {
                let name = host.clone();
                self.0
                    .wait_for(CONNECT, move || Ok((name.as_str(), port).to_socket_addrs()?.collect()))
                    .map_err(|error| match error {
                        TransportError::Interrupted => error,
                        TransportError::Timeout => TransportError::Offline(format!("looking up {host} took too long")),
                        _ => TransportError::Offline(format!("the name {host} is not known")),
                    })
                    .map_err(ureq_error)?
            }
        };
        let mut addresses = self.empty();
        for address in config.ip_family().keep_wanted(found.into_iter()).take(MAX_ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(ureq_error(TransportError::Offline(format!("the name {host} has no address"))));
        }
        Ok(addresses)
    }
}

/// Opens sockets, unless a proxy did.
#[derive(Debug)]
pub(super) struct Dial(pub(super) Arc<Gate>);

impl<In: Transport> Connector<In> for Dial {
    type Out = Either<In, Link>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let addresses: Vec<SocketAddr> = details.addrs.iter().copied().collect();
        let limit = CONNECT.min(*details.timeout.after);
        let (host, port) = host_and_port(details.uri);
        let wire = self
            .0
            .wait_for(limit, move || connect_any(&addresses, limit))
            .map_err(|error| match error {
                TransportError::Interrupted => error,
                TransportError::Timeout => TransportError::Offline(format!("{host}:{port} does not answer")),
                TransportError::Offline(why) | TransportError::Broken(why) | TransportError::Invalid(why) => {
                    TransportError::Offline(format!("{host}:{port}: {why}"))
                }
            })
            .and_then(|stream| self.0.adopt(stream))
            .map_err(ureq_error)?;
        wire.stream.set_nodelay(true)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Link { wire, buffers })))
    }
}

/// The first address that answers. Each but the last gets half of the time that is left, so that a
/// dead first address (IPv6 without a route, often) does not use it all up.
fn connect_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = if at + 1 == addresses.len() { left } else { left / 2 };
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(10))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One connection.
pub(super) struct Link {
    wire: Arc<Wire>,
    buffers: LazyBuffers,
}

impl Link {
    fn check(&self) -> Result<(), TransportError> {
        if self.wire.is_cut() { Err(TransportError::Interrupted) } else { Ok(()) }
    }

    /// What an error of the socket means. Never of a kind that ureq takes for the end of a body.
    fn failed(&self, error: &io::Error) -> ureq::Error {
        ureq_error(if self.wire.is_cut() { TransportError::Interrupted } else { TransportError::of(error) })
    }
}

/// The time that one wait on the socket may take: what is left of the phase, where it has a limit,
/// else the idle limit.
fn patience(timeout: &NextTimeout) -> Duration {
    let after =
        if timeout.after.is_not_happening() { timeout.per_read.map_or(IDLE, |idle| *idle) } else { *timeout.after };
    // Zero would mean no limit to the socket.
    after.max(Duration::from_millis(1))
}

impl Transport for Link {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.check().map_err(ureq_error)?;
        let output = &self.buffers.output()[..amount];
        let mut stream = &self.wire.stream;
        let sent = stream.set_write_timeout(Some(patience(&timeout))).and_then(|()| stream.write_all(output));
        self.wire.count(amount);
        sent.map_err(|error| self.failed(&error))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.check().map_err(ureq_error)?;
        let input = self.buffers.input_append_buf();
        let mut stream = &self.wire.stream;
        let deadline = Instant::now() + patience(&timeout);
        let got = loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(input)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let amount = got.map_err(|error| self.failed(&error))?;
        // A socket that was cut reads as ended; so it must be asked last.
        self.check().map_err(ureq_error)?;
        self.wire.count(amount);
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        if self.wire.is_cut() {
            return false;
        }
        // Nothing may wait to be read on an idle connection: neither bytes nor an end.
        let mut stream = &self.wire.stream;
        let idle = stream.set_nonblocking(true).is_ok()
            && matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_ok() && idle
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.wire.stream.peer_addr().ok()).finish()
    }
}
