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
    pub fn from_query(query: Option<&str>) -> Result<Self, String> {
        let pairs: Vec<(&str, &str)> =
            query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let asked = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| pairs.iter().find(|(key, _)| key == name));
            found.is_some_and(|(_, value)| !value.eq_ignore_ascii_case("false") && *value != "0")
        };
        let tty = asked(["tty", "tty"]);
        let options = Self {
            stdin: asked(["stdin", "input"]),
            stdout: asked(["stdout", "output"]),
            // A terminal has one output.
            stderr: asked(["stderr", "error"]) && !tty,
            tty,
            creation_timeout: Duration::from_secs(30),
        };
        if !options.stdin && !options.stdout && !options.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".into());
        }
        Ok(options)
    }

    /// The query that asks for these streams, with `extra` pairs that are encoded already.
    pub fn to_query(&self, extra: &[(&str, &str)]) -> String {
        let flags = [("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr), ("tty", self.tty)];
        let flags = flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true"));
        let extra = extra.iter().map(|(name, value)| format!("{name}={value}"));
        extra.chain(flags).collect::<Vec<_>>().join("&")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let cases = [
            ("command=ls&stdout=true&stderr=true", Some((false, true, true, false))),
            ("stdin=true&stdout=true&stderr=true&tty=true", Some((true, true, false, true))),
            ("input=1&output=1&error=1", Some((true, true, true, false))),
            ("stdin=false&stdout=1&tty=0", Some((false, true, false, false))),
            ("command=ls", None),
            ("", None),
        ];
        for (query, expected) in cases {
            let found = RemoteCommandOptions::from_query(Some(query)).ok();
            assert_eq!(found.map(|o| (o.stdin, o.stdout, o.stderr, o.tty)), expected, "{query}");
        }
    }
}
