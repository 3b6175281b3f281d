//! A value in etcd beside the objects: what servers of one cluster must share before any of them can open the store.

use std::sync::Arc;

use bytes::Bytes;
use http::Uri;

use super::Options;
use super::calls::Members;
use super::link::told;
use super::proto::{self, Action, Compare, RangeRequest, RangeResponse, TransactionResponse};
use crate::OpenError;

/// A key of etcd outside of the objects. Whoever writes it first has written it for all.
pub struct Note {
    calls: Members,
    key: Bytes,
}

impl Note {
    /// The note under a key; nothing is asked yet.
    ///
    /// # Errors
    /// An endpoint that is no address.
    pub fn new(options: &Options, key: &str) -> Result<Note, OpenError> {
        let parse = |endpoint: &String| endpoint.parse::<Uri>().map_err(|error| OpenError::Unavailable(error.to_string()));
        let endpoints = options.endpoints.iter().map(parse).collect::<Result<Vec<Uri>, OpenError>>()?;
        Ok(Note { calls: Members::new(endpoints, options.tls.as_ref().map(Arc::clone)), key: Bytes::copy_from_slice(key.as_bytes()) })
    }

    /// What it says, if it is there.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let request = RangeRequest { key: self.key.clone(), ..RangeRequest::default() };
        let answer = self.calls.ask("/etcdserverpb.KV/Range", &request).await;
        let found: RangeResponse = answer.map_err(|failure| OpenError::Unavailable(told(&failure)))?;
        Ok(found.kvs.first().map(|kv| kv.value.to_vec()))
    }

    /// Writes it unless it is there: whether it was not.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn write(&self, value: Vec<u8>) -> Result<bool, OpenError> {
        let request = proto::transaction(self.key.clone(), Compare::Absent, Action::Put { value: value.into(), lease: 0 });
        let answer = self.calls.call("/etcdserverpb.KV/Txn", &request).await;
        let response: TransactionResponse = answer.map_err(|failure| OpenError::Unavailable(told(&failure)))?;
        Ok(response.succeeded)
    }
}
