//! Taking a port that a predecessor may be about to give back.
//!
//! A killed server of many objects takes a while to end: its threads give back memory before the last of them closes the
//! listener. Whoever starts the next one at once, a script or a service manager, should not have to know that.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::time::{Instant, sleep};

/// How long somebody else may keep the port.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// Listens on an address, after some seconds at most.
///
/// # Errors
/// The address is none, is not ours, or stays taken.
pub async fn listen(address: impl ToSocketAddrs + Display) -> io::Result<TcpListener> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match TcpListener::bind(&address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%address, "the port is taken; waiting for a predecessor that may be ending");
                }
                sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}
