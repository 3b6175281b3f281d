//! The wire of KMS v2: gRPC over HTTP/2 on a unix socket, and the few protobuf fields that its messages have.

use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::UnixStream;

/// Largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// A message that is being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A number; zero is left out.
    pub(super) fn int(mut self, field: u32, value: u64) -> Message {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Bytes or text; nothing is left out.
    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Message {
        if !value.is_empty() {
            self.varint(u64::from(field) << 3 | 2);
            self.varint(value.len() as u64);
            self.0.extend_from_slice(value);
        }
        self
    }

    /// One entry of a map from text to bytes.
    pub(super) fn entry(self, field: u32, key: &str, value: &[u8]) -> Message {
        let entry = Message::default().bytes(1, key.as_bytes()).bytes(2, value);
        self.bytes(field, &entry.0)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// One field of a message: a number or bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Field<'a> {
    pub(super) int: u64,
    pub(super) bytes: &'a [u8],
}

/// Reads the fields of a message.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    /// The next field with its number.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field { int: self.varint()?, ..Field::default() },
            1 => Field { bytes: self.take(8)?, ..Field::default() },
            2 => {
                let length = self.varint()?;
                Field { bytes: self.take(usize::try_from(length).map_err(|_| "a field is too long")?)?, ..Field::default() }
            }
            5 => Field { bytes: self.take(4)?, ..Field::default() },
            wire => return Err(format!("unknown wire type {wire}")),
        };
        Ok(Some((tag >> 3, field)))
    }

    /// One entry of a map from text to bytes.
    pub(super) fn entry(bytes: &'a [u8]) -> Result<(String, Vec<u8>), String> {
        let (mut key, mut value) = (String::new(), Vec::new());
        let mut fields = Fields::new(bytes);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => key = String::from_utf8_lossy(field.bytes).into_owned(),
                2 => value = field.bytes.to_vec(),
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(length).ok_or("the message ends early")?;
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".into())
    }
}

/// A connection to the plugin, made when needed.
pub(super) struct Channel {
    path: PathBuf,
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Channel {
    pub(super) fn new(path: &str) -> Channel {
        Channel { path: PathBuf::from(path), sender: Mutex::default() }
    }

    /// One request, one answer.
    pub(super) async fn call(&self, method: &str, message: Message) -> Result<Vec<u8>, String> {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.0.len()).map_err(|_| "the message is too long")?);
        body.put_slice(&message.0);
        let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(body.freeze()))
            .map_err(|error| error.to_string())?;
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let headers = response.headers().clone();
        let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let said = |name: &str| {
            let value = trailers.get(name).or_else(|| headers.get(name));
            value.and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
        };
        let code = said("grpc-status");
        if code != "0" {
            return Err(format!("code {code}: {}", said("grpc-message")));
        }
        let bytes = collected.to_bytes();
        let (head, rest) = bytes.split_at_checked(5).ok_or("the answer is empty")?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] != 0 || rest.len() != length {
            return Err("the answer is not one plain message".into());
        }
        Ok(rest.to_vec())
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        if let Some(sender) = self.sender.lock().clone().filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        let fail = |error: &dyn std::fmt::Display| format!("connect to {}: {error}", self.path.display());
        // An abstract name starts with `@`, as gRPC writes it.
        let stream = match self.path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => UnixStream::connect(format!("\0{name}")).await,
            None => UnixStream::connect(&self.path).await,
        };
        let stream = stream.map_err(|error| fail(&error))?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| fail(&error))?;
        tokio::spawn(connection);
        *self.sender.lock() = Some(sender.clone());
        Ok(sender)
    }
}
