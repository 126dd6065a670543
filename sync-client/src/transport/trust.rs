//! Whom TLS trusts: the system's authorities, those of a file, and what is wrong in words where it trusts nobody.

use std::path::Path;
use std::sync::Arc;

use rustls::{CertificateError, Error};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::TransportError;

/// The system's store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name in its place, with the authorities of `ca`.
/// Where the system has none, those that browsers trust.
pub(super) fn config(ca: Option<&Path>) -> Result<TlsConfig, TransportError> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!("a certificate of the system's store was not read: {error}");
    }
    let mut roots: Vec<Certificate<'static>> =
        system.certs.iter().map(|cert| Certificate::from_der(cert.as_ref()).to_owned()).collect();
    if let Some(path) = ca {
        roots.extend(authorities(path)?);
    }
    let roots = if roots.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(roots)) };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>, TransportError> {
    let invalid = |why: String| TransportError::Invalid(format!("the certificate authority {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(cert) = item.map_err(|error| invalid(error.to_string()))? {
            found.push(cert);
        }
    }
    if found.is_empty() { Err(invalid("there is no certificate in it (PEM is expected)".into())) } else { Ok(found) }
}

/// What a failure of TLS means for whoever gave the URL.
pub(super) fn meaning(error: &Error) -> String {
    let certificate = match error {
        Error::InvalidMessage(_) => return "what answers there does not speak TLS; is its URL http://?".into(),
        Error::InvalidCertificate(certificate) => certificate,
        other => return format!("TLS failed: {other}"),
    };
    match certificate {
        CertificateError::UnknownIssuer => {
            "its certificate is from an authority that this machine does not trust; for one \
            of your own, `init` with --ca FILE (in a program Builder::ca), or set SSL_CERT_FILE"
                .into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is wrong".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name than the one in the URL".into()
        }
        other => format!("its certificate is not valid: {other}"),
    }
}
