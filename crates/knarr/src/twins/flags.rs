//! Flags as the real components read them: a table a component, with that program's spelling, values and errors.
//!
//! Every flag of the table is either used, or accepted with a warning because nothing depends on it here, or refused
//! because leaving it out would change what happens.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::{Result, bail};

/// One flag.
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Whether it may stand without a value.
    pub switch: bool,
    /// What becomes of it.
    pub here: Here,
}

/// What becomes of a flag.
pub enum Here {
    /// It is used; what for.
    Used(&'static str),
    /// Nothing here depends on it.
    Harmless,
    /// It is taken with these values only, which describe what is done anyway.
    Only(&'static [&'static str]),
}

/// A flag that is used.
pub const fn used(name: &'static str, help: &'static str) -> Flag {
    Flag { name, switch: false, here: Here::Used(help) }
}

/// A switch that is used.
pub const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, switch: true, here: Here::Used(help) }
}

/// A flag that nothing depends on.
pub const fn harmless(name: &'static str) -> Flag {
    Flag { name, switch: false, here: Here::Harmless }
}

/// A switch that nothing depends on.
pub const fn harmless_switch(name: &'static str) -> Flag {
    Flag { name, switch: true, here: Here::Harmless }
}

/// A flag with the only values that are taken.
pub const fn only(name: &'static str, values: &'static [&'static str]) -> Flag {
    Flag { name, switch: false, here: Here::Only(values) }
}

/// A switch with the only values that are taken.
pub const fn only_switch(name: &'static str, values: &'static [&'static str]) -> Flag {
    Flag { name, switch: true, here: Here::Only(values) }
}

/// Flags that every component has.
pub const COMMON: &[Flag] = &[
    used("v", "Log more: 0 to 3 for info, 4 and 5 for debug, more for trace."),
    used("logging-format", "Form of the log: text or json."),
    harmless("vmodule"),
    harmless("log-flush-frequency"),
    harmless("log-text-info-buffer-size"),
    harmless_switch("log-text-split-stream"),
    harmless_switch("log-json-split-stream"),
    harmless_switch("logtostderr"),
    harmless_switch("alsologtostderr"),
    harmless_switch("profiling"),
    harmless_switch("contention-profiling"),
    harmless("kube-api-qps"),
    harmless("kube-api-burst"),
    only("kube-api-content-type", &["", "application/json", "application/vnd.kubernetes.protobuf"]),
    harmless("feature-gates"),
    harmless("emulated-version"),
    harmless("min-compatibility-version"),
    harmless("show-hidden-metrics-for-version"),
    harmless("disabled-metrics"),
    harmless("allow-metric-labels"),
    harmless("allow-metric-labels-manifest"),
    harmless("tls-min-version"),
    harmless("tls-cipher-suites"),
    harmless("http2-max-streams-per-connection"),
];

/// Flags of leader election.
pub const LEADER: &[Flag] = &[
    switch("leader-elect", "Work only while holding a lease."),
    used("leader-elect-lease-duration", "How long a lease holds without renewal."),
    used("leader-elect-renew-deadline", "How long renewal is tried before the lease is given up."),
    used("leader-elect-retry-period", "How often the lease is tried or renewed."),
    only("leader-elect-resource-lock", &["leases"]),
    used("leader-elect-resource-name", "Name of the lease."),
    used("leader-elect-resource-namespace", "Namespace of the lease."),
];

/// Flags of the port at which a component says how it is.
pub const ENDPOINT: &[Flag] = &[
    used("bind-address", "Address of the port for /healthz and /metrics."),
    used("secure-port", "Port for /healthz and /metrics; 0 for none."),
    used("tls-cert-file", "Certificate of that port; one is made where absent."),
    used("tls-private-key-file", "Key of that certificate."),
    used("client-ca-file", "Authority of certificates that callers of that port show."),
    used("authentication-kubeconfig", "Who asks about tokens of callers."),
    used("authorization-kubeconfig", "Who asks what callers may."),
    harmless("cert-dir"),
    harmless("requestheader-client-ca-file"),
    harmless("requestheader-allowed-names"),
    harmless("requestheader-username-headers"),
    harmless("requestheader-group-headers"),
    harmless("requestheader-extra-headers-prefix"),
    harmless_switch("authentication-skip-lookup"),
    harmless_switch("authentication-tolerate-lookup-failure"),
    harmless("authentication-token-webhook-cache-ttl"),
    harmless("authorization-webhook-cache-authorized-ttl"),
    harmless("authorization-webhook-cache-unauthorized-ttl"),
    only("authorization-always-allow-paths", &["/healthz,/readyz,/livez"]),
    harmless_switch("permit-address-sharing"),
    harmless_switch("permit-port-sharing"),
];

/// What was given, by name.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, Vec<String>>,
    /// Flags that were accepted without effect.
    pub ignored: Vec<&'static str>,
}

impl Values {
    /// Reads a command line.
    ///
    /// # Errors
    /// In the words of the real programs: unknown flags, missing values, values that are none.
    pub fn parse(tables: &[&'static [Flag]], arguments: &[OsString]) -> Result<Values> {
        let mut values = Values::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let text = argument.to_str().unwrap_or_default();
            let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix("-v").map(|_| &text[1..])) else {
                if let Some(short) = text.strip_prefix('-').filter(|short| !short.is_empty()) {
                    bail!("unknown shorthand flag: {:?} in -{short}", short.chars().next().unwrap_or_default());
                }
                bail!("unknown command {text:?}: no arguments are taken but flags");
            };
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            // The real programs take underscores for dashes.
            let name = name.replace('_', "-");
            let known = tables.iter().flat_map(|table| table.iter()).find(|flag| flag.name == name);
            let Some(flag) = known else { bail!("unknown flag: --{name}") };
            let value = match value {
                Some(value) => value,
                None if flag.switch => "true".to_owned(),
                None => match rest.next() {
                    Some(value) => value.to_string_lossy().into_owned(),
                    None => bail!("flag needs an argument: --{name}"),
                },
            };
            if flag.switch && boolean(&value).is_none() {
                bail!("invalid argument {value:?} for \"--{name}\" flag: strconv.ParseBool: parsing {value:?}: invalid syntax");
            }
            match flag.here {
                Here::Used(_) => values.given.entry(flag.name).or_default().push(value),
                Here::Harmless => values.ignored.push(flag.name),
                Here::Only(these) if these.contains(&value.as_str()) => {}
                Here::Only(these) => bail!("invalid argument {value:?} for \"--{name}\" flag: here it can only be {}", these.join(" or ")),
            }
        }
        Ok(values)
    }

    /// The last value of a flag, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name).and_then(|values| values.last()).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All values of a flag, and those that commas part.
    pub fn list(&self, name: &str) -> Vec<String> {
        let all = self.given.get(name).into_iter().flatten().flat_map(|text| text.split(','));
        all.map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// A switch, or what it is where absent.
    pub fn is(&self, name: &str, otherwise: bool) -> bool {
        self.text(name).and_then(boolean).unwrap_or(otherwise)
    }

    /// A value of a type that reads itself from text.
    ///
    /// # Errors
    /// It is none of that type.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str, otherwise: T) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        match self.text(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|error| anyhow::anyhow!("invalid argument {text:?} for \"--{name}\" flag: {error}")),
        }
    }

    /// A duration such as 15s.
    ///
    /// # Errors
    /// It is none.
    pub fn duration(&self, name: &str, otherwise: std::time::Duration) -> Result<std::time::Duration> {
        match self.text(name) {
            None => Ok(otherwise),
            Some(text) => server::parse_duration(text)
                .ok_or_else(|| anyhow::anyhow!("invalid argument {text:?} for \"--{name}\" flag: time: invalid duration {text:?}")),
        }
    }

    /// The value of a flag without which nothing works.
    ///
    /// # Errors
    /// It was not given.
    pub fn needed(&self, name: &str) -> Result<&str> {
        match self.text(name) {
            Some(text) => Ok(text),
            None => bail!("required flag(s) {name:?} not set"),
        }
    }

    /// Everything that was given for flags whose names are among these, as arguments.
    pub fn arguments(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let given = self.given.iter().filter(|(name, _)| wanted(name));
        given.flat_map(|(name, values)| values.iter().map(move |value| format!("--{name}={value}"))).collect()
    }
}

/// The words that the real programs take for yes and no.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] =
        &[used("kubeconfig", ""), switch("leader-elect", ""), harmless("kube-api-qps"), only("proxy-mode", &["", "nftables"])];

    #[test]
    fn lines_are_read_as_by_the_real_programs() {
        let cases: [(&[&str], &str); 11] = [
            (&["--kubeconfig", "a", "--leader-elect"], ""),
            (&["--kubeconfig=a", "--leader-elect=false", "--kube-api-qps=5"], ""),
            (&["--proxy-mode", "nftables"], ""),
            (&["-v=4"], ""),
            (&["--nothing=1"], "unknown flag: --nothing"),
            (&["--kubeconfig"], "flag needs an argument: --kubeconfig"),
            (&["--leader-elect=maybe"], "invalid argument \"maybe\" for \"--leader-elect\" flag"),
            (&["--proxy-mode=ipvs"], "it can only be"),
            (&["-x"], "unknown shorthand flag"),
            (&["word"], "unknown command \"word\""),
            (&["--leader_elect"], ""),
        ];
        for (words, expected) in cases {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let said = Values::parse(&[TABLE, COMMON], &words).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{words:?}: {said}");
        }
        let words = ["--kubeconfig=a", "--kubeconfig=b,c", "--leader-elect=0", "--kube-api-qps=5"].map(OsString::from);
        let values = Values::parse(&[TABLE], &words).unwrap();
        assert_eq!(values.list("kubeconfig"), ["a", "b", "c"]);
        assert_eq!((values.is("leader-elect", true), values.text("kubeconfig")), (false, Some("b,c")));
        assert_eq!(values.ignored, ["kube-api-qps"]);
    }
}
