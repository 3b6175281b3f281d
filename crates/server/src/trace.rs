//! The trace that a caller's request belongs to: its headers go on with the calls that the request makes, to webhooks and
//! aggregated servers, so that whoever collects spans there finds them together. The server itself records none.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of the W3C's trace context and baggage.
const HEADERS: [HeaderName; 3] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate"), HeaderName::from_static("baggage")];

/// What goes on.
type Carried = Vec<(HeaderName, HeaderValue)>;

tokio::task_local! {
    static CARRIED: Carried;
}

/// What a request brings; nothing where it belongs to no trace.
pub fn of(headers: &HeaderMap) -> Option<Carried> {
    headers.get(&HEADERS[0])?;
    Some(HEADERS.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect())
}

/// Does the work of a request in its trace.
pub async fn within<T>(carried: Option<Carried>, work: impl Future<Output = T>) -> T {
    match carried {
        Some(carried) => CARRIED.scope(carried, work).await,
        None => work.await,
    }
}

/// Gives a call that this task makes the trace of the request that it serves.
pub fn carry(headers: &mut HeaderMap) {
    let _ = CARRIED.try_with(|carried| headers.extend(carried.iter().cloned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn headers_go_on() {
        let mut came = HeaderMap::new();
        came.insert("tracestate", HeaderValue::from_static("a=b"));
        assert!(of(&came).is_none(), "a state alone is no trace");
        came.insert("traceparent", HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        let mut goes = HeaderMap::new();
        within(of(&came), async { carry(&mut goes) }).await;
        assert_eq!(goes, came);
        let mut other = HeaderMap::new();
        carry(&mut other);
        assert!(other.is_empty());
    }
}
