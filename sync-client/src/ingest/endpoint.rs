//! The URL of a batch route: where it may be, and the routes beside it.

use std::net::{IpAddr, ToSocketAddrs as _};

use sync_core::ingest::contract::{Contract, Role};
use ureq::http::Uri;

use super::report::IngestError;

/// The full URL of a contract's batch route. A token goes there over TLS or to this machine, and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    base: String,
    path: String,
}

impl Endpoint {
    /// Reads a URL. `localhost` has to be this machine, and is then spoken to by its number.
    ///
    /// # Errors
    /// [`IngestError::Endpoint`] where it is none, has a user, a query or a fragment, or is http to another machine.
    pub fn parse(url: &str) -> Result<Self, IngestError> {
        let wrong = |why: &str| IngestError::Endpoint(format!("the endpoint {why}"));
        let url = url.trim();
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("must be a whole URL, https://…/api/sync/batches"));
        };
        if authority.as_str().contains('@') || uri.query().is_some() || url.contains('#') {
            return Err(wrong("must not have a user, a query or a fragment"));
        }
        let base = match scheme {
            "https" => format!("https://{authority}"),
            "http" => {
                let host = authority.host().trim_matches(['[', ']']);
                match host.parse::<IpAddr>() {
                    Ok(ip) if ip.is_loopback() => format!("http://{authority}"),
                    Err(_) if host.eq_ignore_ascii_case("localhost") => {
                        format!("http://{}", local(uri.port_u16().unwrap_or(80)).ok_or_else(|| wrong(ELSEWHERE))?)
                    }
                    _ => return Err(wrong(ELSEWHERE)),
                }
            }
            _ => return Err(wrong("must begin with https://, or http:// to this machine")),
        };
        Ok(Self { url: url.to_owned(), base, path: uri.path().to_owned() })
    }

    /// As it was given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Scheme and host: what a transport is made for.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The path of the batch route.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of another route of the contract, beside the batch route; `None` where that is not at its place.
    #[must_use]
    pub fn beside(&self, contract: &Contract, role: Role) -> Option<String> {
        let of = |role| contract.routes.iter().find(|r| r.role == role).map(|r| r.path.as_str());
        let prefix = self.path.strip_suffix(of(Role::Batch)?)?;
        of(role).map(|path| format!("{prefix}{path}"))
    }
}

const ELSEWHERE: &str = "is http to another machine, where the token would travel readably: use https";

/// `localhost` as an address, where it is this machine alone.
fn local(port: u16) -> Option<std::net::SocketAddr> {
    let found: Vec<_> = ("localhost", port).to_socket_addrs().ok()?.collect();
    let here = !found.is_empty() && found.iter().all(|a| a.ip().is_loopback());
    // Servers listen on the older one more often.
    here.then(|| found.iter().find(|a| a.is_ipv4()).or_else(|| found.first()).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_or_nowhere_else() {
        for (url, base) in [
            ("https://api.example.org/x/api/sync/batches", "https://api.example.org"),
            ("http://127.0.0.1:80/api/sync/batches", "http://127.0.0.1:80"),
            ("http://[::1]:7/api/sync/batches", "http://[::1]:7"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().base(), base);
        }
        let here = Endpoint::parse("http://localhost:8787/api/sync/batches").unwrap();
        assert!(here.base() == "http://127.0.0.1:8787" || here.base() == "http://[::1]:8787", "{}", here.base());
        for wrong in [
            "",
            "/api/sync/batches",
            "api.example.org/api/sync/batches",
            "ftp://127.0.0.1/api/sync/batches",
            "http://api.example.org/api/sync/batches",
            "http://10.0.0.5/api/sync/batches",
            "http://localhost.example.org/api/sync/batches",
            "https://user:pw@api.example.org/api/sync/batches",
            "https://api.example.org/api/sync/batches?x=1",
            "https://api.example.org/api/sync/batches#x",
        ] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn routes_beside_it() {
        let contract = Contract::statsai();
        let status = |url: &str| Endpoint::parse(url).unwrap().beside(&contract, Role::Status);
        assert_eq!(status("https://h/x/api/sync/batches").as_deref(), Some("/x/api/sync/status"));
        assert_eq!(status("https://h/v1/other"), None);
    }
}
