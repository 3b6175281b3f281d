//! Lists and watch events made by joining bytes: the items are never decoded to be sent.

use bytes::{BufMut, Bytes, BytesMut};

/// What stands around the items of a list.
#[derive(Debug, Clone, Default)]
pub struct ListHead<'a> {
    /// For example `v1`.
    pub api_version: &'a str,
    /// Kind of the list, for example `PodList`.
    pub kind: &'a str,
    /// Revision of the read.
    pub resource_version: &'a str,
    /// Token of the next page; empty on the last one.
    pub continue_token: &'a str,
    /// Estimate of the items on further pages.
    pub remaining: Option<i64>,
    /// Whether the token stands there though it is empty: the real server prints lists of custom resources so.
    pub always_continue: bool,
}

impl ListHead<'_> {
    /// `metadata` of the list.
    pub fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut metadata = serde_json::Map::new();
        metadata.insert("resourceVersion".into(), self.resource_version.into());
        if !self.continue_token.is_empty() || self.always_continue {
            metadata.insert("continue".into(), self.continue_token.into());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        metadata
    }

    /// The JSON of the list up to the opening bracket of `items`, for bodies that are streamed; items
    /// follow with commas between them, then [`JSON_END`].
    pub fn json_start(&self) -> Vec<u8> {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let metadata = serde_json::Value::Object(self.metadata());
        let (kind, api_version) = (quote(self.kind), quote(self.api_version));
        format!(r#"{{"kind":{kind},"apiVersion":{api_version},"metadata":{metadata},"items":["#).into_bytes()
    }
}

/// What ends a list that [`ListHead::json_start`] began.
pub const JSON_END: &[u8] = b"]}\n";

/// A whole list in JSON from the bytes of its items.
pub fn json<'a>(head: &ListHead, items: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let start = head.json_start();
    let mut out = BytesMut::with_capacity(start.len() + 4096);
    out.put_slice(&start);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(item.trim_ascii_end());
    }
    out.put_slice(JSON_END);
    out.freeze()
}

/// One frame of a watch in JSON: `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR` with its object.
pub fn json_event(kind: &str, object: &[u8]) -> Bytes {
    let object = object.trim_ascii_end();
    let mut out = BytesMut::with_capacity(object.len() + kind.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}
