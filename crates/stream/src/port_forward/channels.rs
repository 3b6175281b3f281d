//! Ports named in the query, each with two WebSocket channels.

use super::{PortForward, PortForwardError};
use crate::ByteReader;
use crate::ws::Channels;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// The ports that a query names (`ports=80&ports=443,8080`); `None` if there is none, too many or a bad one.
pub(super) fn ports(query: Option<&str>) -> Option<Vec<u16>> {
    let pairs = query.unwrap_or_default().split('&');
    let values = pairs.filter_map(|pair| pair.strip_prefix("ports=").or(pair.strip_prefix("port=")));
    let ports: Result<Vec<u16>, _> =
        values.flat_map(|value| value.split([',']).flat_map(|value| value.split("%2C"))).map(str::parse).collect();
    // Two channels a port, and a channel is a byte below 255.
    ports.ok().filter(|ports| !ports.is_empty() && ports.len() <= 64 && !ports.contains(&0))
}

/// The pairs of one WebSocket connection.
pub(super) struct PortChannels {
    channels: Channels,
    readers: HashMap<u8, ByteReader>,
    /// Ports that have not been handed out.
    rest: std::vec::IntoIter<(u8, u16)>,
    /// Held by every pair that is still served.
    hold: Option<mpsc::Sender<()>>,
    served: mpsc::Receiver<()>,
}

impl PortChannels {
    pub(super) fn new(channels: Channels, readers: HashMap<u8, ByteReader>, ports: &[u16]) -> Self {
        let (hold, served) = mpsc::channel(1);
        let rest: Vec<(u8, u16)> = (0u8..).step_by(2).zip(ports.iter().copied()).collect();
        Self { channels, readers, rest: rest.into_iter(), hold: Some(hold), served }
    }

    /// All pairs, then the end once they are served or the caller is gone.
    pub(super) async fn next(&mut self) -> Option<PortForward> {
        for (channel, port) in self.rest.by_ref() {
            let number = port.to_le_bytes().to_vec();
            self.channels.send(channel, number.clone()).ok()?;
            self.channels.send(channel + 1, number).ok()?;
            let Some(reader) = self.readers.remove(&channel) else {
                continue;
            };
            let writer = self.channels.writer(channel + 1);
            return Some(PortForward {
                port,
                reader,
                writer: self.channels.writer(channel),
                error: PortForwardError { writer, _held: self.hold.clone() },
            });
        }
        self.hold = None;
        tokio::select! {
            _ = self.served.recv() => self.channels.close().await,
            () = self.channels.closed.cancelled() => {}
        }
        None
    }

    pub(super) async fn close(self) {
        self.channels.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_name_ports() {
        let cases = [
            (Some("ports=80"), Some(vec![80])),
            (Some("x=1&ports=80&ports=443"), Some(vec![80, 443])),
            (Some("ports=80,443"), Some(vec![80, 443])),
            (Some("ports=80%2C443"), Some(vec![80, 443])),
            (Some("ports=0"), None),
            (Some("ports=x"), None),
            (None, None),
        ];
        for (query, expected) in cases {
            assert_eq!(ports(query), expected, "{query:?}");
        }
    }
}
