//! Request bodies in, replies out: encodings, limits, streams.

pub(crate) mod decode;
pub(crate) mod drain;
pub(crate) mod encode;
pub(crate) mod incoming;
pub(crate) mod reply;
