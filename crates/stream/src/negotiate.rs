//! Upgrade headers: which protocol a caller speaks, and the answers that upstream gives when it speaks none of ours.

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::BoxBody;

/// The body of the answers made here.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// The answer for a request that cannot be upgraded (400 or 403, plain text as upstream).
pub type Rejection = Response<Body>;

/// A body of known content.
pub fn full_body(content: impl Into<Bytes>) -> Body { todo!() }
