//! `knarr agent`: a further node that joins a cluster by its token.

use anyhow::{Result, bail};

use crate::flags::AgentFlags;

/// Runs an agent until it is told to stop.
///
/// # Errors
/// The cluster cannot be reached or refuses the token.
pub fn run(flags: AgentFlags) -> Result<()> {
    bail!("joining {} is not there yet", flags.server)
}
