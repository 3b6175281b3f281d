//! What a caller of exec or attach asked for.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which streams a remote command has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCommandOptions {
    /// The caller sends input.
    pub stdin: bool,
    /// The caller wants output.
    pub stdout: bool,
    /// The caller wants error output; never together with `tty`.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
    /// How long the caller may take to open its streams.
    pub creation_timeout: Duration,
}

impl RemoteCommandOptions {
    /// Reads `stdin`, `stdout`, `stderr`, `tty` (or `input`, `output`, `error`, `tty`, as old kubelet URLs have it) from a query.
    /// The error is the text of a 400 answer.
    pub fn from_query(query: Option<&str>) -> Result<Self, String> { todo!() }
}

/// The size of a terminal, as clients send it: `{"Width":80,"Height":24}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}
