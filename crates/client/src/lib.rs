//! Typed calls to the API, over HTTP or in process.
