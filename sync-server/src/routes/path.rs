//! Identifiers in a path.

use axum::extract::RawPathParams;
use axum::extract::rejection::RawPathParamsRejection;

/// The path as axum took it apart.
pub(super) type Path = Result<RawPathParams, RawPathParamsRejection>;

/// A part of the path by its name, percent-decoded. The router may be mounted under a path with
/// parts of its own, so the place says nothing. `None` where it is not UTF-8.
pub(super) fn part<'a>(path: &'a Path, name: &str) -> Option<&'a str> {
    path.as_ref().ok()?.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
}

/// An id that the service may have minted: a dashed UUID, in lowercase. `None` for anything else.
pub(super) fn id(path: &Path, name: &str) -> Option<String> {
    minted(part(path, name)?)
}

/// An id that the service may have minted.
pub(super) fn minted(text: &str) -> Option<String> {
    let text = Some(text).filter(|t| t.len() == 36)?;
    uuid::Uuid::try_parse(text).ok().map(|u| u.hyphenated().to_string())
}
