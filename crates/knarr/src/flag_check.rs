//! Values of flags that their types do not check, looked at before anything on the machine is touched: a bad flag leaves
//! nothing half-started.

use anyhow::{Context, Result, bail};
use api::Quantity;
use image::Registries;

use crate::flags::{NodeFlags, ServerFlags};
use crate::kubelet_file::Settings;
use crate::{node, server};

/// Parts that can be switched off.
const PARTS: &[&str] = &["dns", "proxy", "scheduler", "controllers", "node", "local-storage"];
/// Parts of k3s that are not there, so that scripts which switch them off go on working.
const ABSENT: &[&str] = &["traefik", "servicelb", "metrics-server"];

impl NodeFlags {
    /// Looks at every value.
    ///
    /// # Errors
    /// The first bad one.
    pub fn check(&self) -> Result<()> {
        node::node_name(self)?;
        Registries::load(&self.private_registry).with_context(|| format!("--private-registry {}", self.private_registry.display()))?;
        for (flag, quantity) in [("node-cpu", &self.node_cpu), ("node-memory", &self.node_memory)] {
            if let Some(text) = quantity {
                Quantity::parse(text).with_context(|| format!("--{flag} {text:?} is no quantity such as 2, 500m or 4Gi"))?;
            }
        }
        Settings::of(self.kubelet_config.as_deref())?;
        if let Some(label) = self.node_label.iter().find(|label| !is_label(label)) {
            bail!("--node-label {label:?} is no label such as key=value");
        }
        if let Some(taint) = self.node_taint.iter().find(|taint| !is_taint(taint)) {
            bail!("--node-taint {taint:?} is no taint such as key=value:NoSchedule");
        }
        Ok(())
    }
}

impl ServerFlags {
    /// Looks at every value.
    ///
    /// # Errors
    /// The first bad one.
    pub fn check(&self) -> Result<()> {
        self.node.check()?;
        server::kubeconfig_mode(self)?;
        server::node_ports(self)?;
        if let Some(name) = self.disable.iter().find(|name| !PARTS.contains(&name.as_str()) && !ABSENT.contains(&name.as_str())) {
            bail!("--disable {name}: there is no such part; there are {}", PARTS.join(", "));
        }
        Ok(())
    }
}

fn is_label(text: &str) -> bool {
    text.split_once('=').is_some_and(|(key, value)| api::names::is_qualified_name(key) && api::names::is_label_value(value))
}

fn is_taint(text: &str) -> bool {
    let Some((what, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = what.split_once('=').unwrap_or((what, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    known && api::names::is_qualified_name(key) && api::names::is_label_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServerFlags,
    }

    #[track_caller]
    fn check(words: &[&str], expected: &str) {
        let flags = Line::parse_from(std::iter::once("server").chain(["--node-name", "n"]).chain(words.iter().copied())).flags;
        let said = flags.check().map_or_else(|error| format!("{error:#}"), |()| String::new());
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{words:?}: {said}");
        assert!(!said.contains('\n'), "{words:?}: one line: {said}");
    }

    #[test]
    fn bad_values_are_named() {
        check(
            &[
                "--node-label",
                "a=b",
                "--node-taint",
                "a=b:NoExecute",
                "--node-taint",
                "a:NoSchedule",
                "--disable",
                "dns,traefik",
                "--node-cpu",
                "500m",
            ],
            "",
        );
        check(&["--node-label", "a"], "--node-label \"a\"");
        check(&["--node-taint", "a=b"], "--node-taint \"a=b\"");
        check(&["--node-taint", "a=b:Never"], "--node-taint");
        check(&["--disable", "dsn"], "--disable dsn");
        check(&["--node-memory", "much"], "--node-memory \"much\"");
        check(&["--write-kubeconfig-mode", "9x"], "\"9x\" is no mode");
        check(&["--service-node-port-range", "5"], "\"5\" is no range of ports");
    }
}
