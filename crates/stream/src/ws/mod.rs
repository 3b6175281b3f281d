//! WebSocket: channels for remote commands, a byte stream for SPDY tunnelled in binary messages, and one-way messages.

mod channels;
mod messages;
mod tunnel;

pub(crate) use channels::{ChannelProtocol, Channels, Side};
pub use messages::{Framing, Sending, send_bytes, send_items};
pub use tunnel::Tunnel;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The largest message that we take; clients send pieces of 32 KiB.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// Limits of every WebSocket connection.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE))
}
