//! Notices when somebody removes a table of ours: `nft flush ruleset`, the reload of a firewall.
//!
//! The kernel tells of every change of nftables, so that nothing is polled.

use tokio::io::unix::AsyncFd;

use crate::netlink::{NetlinkError, Socket, Subsystem};
use crate::nft;

/// The multicast group of nftables (`NFNLGRP_NFTABLES`) as a bit.
const GROUP: u32 = 1 << 6;

/// A watch over one table.
#[derive(Debug)]
pub struct TableWatch {
    news: AsyncFd<Socket>,
    asking: Socket,
    table: String,
}

impl TableWatch {
    /// Starts to watch a table of the family `inet`. Needs a tokio runtime.
    pub fn open(table: &str) -> Result<Self, NetlinkError> {
        let news = Socket::subscribe(Subsystem::Netfilter, GROUP)?;
        let news = crate::sys::watch(news).map_err(|error| broken(&error))?;
        Ok(Self { news, asking: Socket::open(Subsystem::Netfilter)?, table: table.to_owned() })
    }

    /// Waits until the table was removed and not made anew.
    pub async fn lost(&mut self) -> Result<(), NetlinkError> {
        loop {
            let mut ready = self.news.readable_mut().await.map_err(|error| broken(&error))?;
            let mut removed = false;
            let table = &self.table;
            let complete = ready.get_inner_mut().drain(|kind, payload| removed |= nft::tells_removal(kind, payload, table))?;
            ready.clear_ready();
            drop(ready);
            if (removed || !complete) && !nft::table_exists(&mut self.asking, &self.table)? {
                return Ok(());
            }
        }
    }
}

fn broken(error: &std::io::Error) -> NetlinkError {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    NetlinkError::new("wait for changes of nftables", errno)
}
