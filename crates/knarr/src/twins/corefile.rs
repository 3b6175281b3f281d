//! Corefiles, as far as a cluster's DNS needs them: one server for all names, with the plugins of kubeadm's.
//! A plugin or property that would change answers and is not there is refused by name.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use dns::Upstream;

/// What a Corefile says.
#[derive(Debug, PartialEq, Eq)]
pub struct Corefile {
    /// Port of queries.
    pub port: u16,
    /// Addresses of queries; all where empty.
    pub bind: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Who asks the API server; the pod's account where absent.
    pub kubeconfig: Option<PathBuf>,
    /// Lifetime of the cluster's records, in seconds.
    pub ttl: u32,
    /// Where other names are asked for: a resolv.conf or addresses; nobody where empty.
    pub forward: Vec<String>,
    /// Where /health is answered.
    pub health: Option<String>,
    /// Where /ready is answered.
    pub ready: Option<String>,
    /// Where /metrics is answered.
    pub prometheus: Option<String>,
}

/// Plugins and properties that describe what is done anyway, or that nothing depends on.
const HARMLESS: [&str; 8] = ["errors", "log", "loop", "reload", "loadbalance", "cache", "minimal", "any"];
const KUBERNETES_HARMLESS: [&str; 3] = ["fallthrough", "startup_timeout", "apiserver_qps"];

/// A directive with its arguments and its block.
type Directive = (Vec<String>, Vec<Vec<String>>);

impl Corefile {
    /// Reads one; `port` is for servers that name none.
    ///
    /// # Errors
    /// It is none, or asks for what is not here.
    pub fn parse(text: &str, port: u16) -> Result<Corefile> {
        let (zone, directives) = server(text)?;
        let zone = zone.strip_prefix("dns://").unwrap_or(&zone);
        let (name, port) = match zone.rsplit_once(':') {
            Some((name, text)) => (name, text.parse().with_context(|| format!("{text:?} is no port"))?),
            None => (zone, port),
        };
        if name != "." {
            bail!("the server is for {name:?}; here it can only be for all names, \".\"");
        }
        let mut file = Corefile {
            port,
            bind: Vec::new(),
            domain: String::new(),
            kubeconfig: None,
            ttl: 5,
            forward: Vec::new(),
            health: None,
            ready: None,
            prometheus: None,
        };
        for (words, block) in &directives {
            file.directive(words, block).with_context(|| format!("plugin {}", words[0]))?;
        }
        if file.domain.is_empty() {
            bail!("the server has no plugin \"kubernetes\"");
        }
        Ok(file)
    }

    fn directive(&mut self, words: &[String], block: &[Vec<String>]) -> Result<()> {
        let at = |usual: &str| {
            words.get(1).map_or_else(|| usual.to_owned(), |at| if at.starts_with(':') { format!("0.0.0.0{at}") } else { at.clone() })
        };
        match words[0].as_str() {
            "health" => self.health = Some(at("0.0.0.0:8080")),
            "ready" => self.ready = Some(at("0.0.0.0:8181")),
            "prometheus" => self.prometheus = Some(at("127.0.0.1:9153")),
            "bind" => {
                let addresses = words[1..].iter().map(|word| word.parse::<IpAddr>().with_context(|| format!("{word:?} is no address")));
                self.bind.extend(addresses.collect::<Result<Vec<_>>>()?);
            }
            "forward" => {
                if words.get(1).is_none_or(|from| from != ".") || words.len() < 3 {
                    bail!("it can only be \"forward . ADDRESS...\"");
                }
                self.forward.extend_from_slice(&words[2..]);
            }
            "kubernetes" => self.kubernetes(words, block)?,
            name if HARMLESS.contains(&name) => {}
            _ => bail!("it is not there"),
        }
        Ok(())
    }

    fn kubernetes(&mut self, words: &[String], block: &[Vec<String>]) -> Result<()> {
        let zone = words.get(1).context("it names no zone")?;
        self.domain = zone.trim_end_matches('.').to_owned();
        if let Some(other) = words[2..].iter().find(|zone| !["in-addr.arpa", "ip6.arpa"].contains(&zone.trim_end_matches('.'))) {
            bail!("a second zone, {other}");
        }
        for words in block {
            match (words[0].as_str(), words.get(1).map(String::as_str)) {
                ("kubeconfig", Some(file)) if words.len() == 2 => self.kubeconfig = Some(file.into()),
                ("pods", Some("insecure")) => {}
                ("ttl", Some(seconds)) => {
                    self.ttl = seconds.parse().ok().filter(|ttl| *ttl <= 3600).context("ttl must be in range [0, 3600]")?
                }
                (name, _) if KUBERNETES_HARMLESS.contains(&name) => {}
                _ => bail!("{:?} is not there", words.join(" ")),
            }
        }
        Ok(())
    }

    /// Whom to ask about other names.
    ///
    /// # Errors
    /// An address that is none.
    pub fn upstream(&self) -> Result<Upstream> {
        if let [file] = &self.forward[..] {
            if file.starts_with('/') {
                return Ok(Upstream::ResolvConf(file.into()));
            }
        }
        let server = |text: &String| {
            let text = text.strip_prefix("dns://").unwrap_or(text);
            let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
            alone.or_else(|_| text.parse()).with_context(|| format!("plugin forward: {text:?} is no address and no file"))
        };
        Ok(Upstream::Servers(self.forward.iter().map(server).collect::<Result<_>>()?))
    }
}

/// The only server of a file: its zone and its directives.
fn server(text: &str) -> Result<(String, Vec<Directive>)> {
    let mut zone = None;
    let mut directives: Vec<Directive> = Vec::new();
    let mut depth = 0;
    for (number, line) in text.lines().enumerate() {
        let mut words: Vec<String> = line.split('#').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let opens = words.last().is_some_and(|word| word == "{");
        if opens {
            words.pop();
        }
        match (depth, words.first().map(String::as_str), opens) {
            (_, None, false) => {}
            (0, Some(_), true) if zone.is_none() && words.len() == 1 => (zone, depth) = (words.pop(), 1),
            (0, ..) => bail!("line {}: one server for one zone is what is read here", number + 1),
            (1 | 2, Some("}"), false) if words.len() == 1 => depth -= 1,
            (1, Some(_), _) => {
                directives.push((words, Vec::new()));
                depth += i32::from(opens);
            }
            (2, Some(_), false) => directives.last_mut().expect("the block of one").1.push(words),
            _ => bail!("line {}: unexpected {:?}", number + 1, line.trim()),
        }
    }
    match zone {
        Some(zone) if depth == 0 => Ok((zone, directives)),
        Some(_) => bail!("a block is not closed"),
        None => bail!("there is no server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadms_file_is_read() {
        let file = Corefile::parse(
            ".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n       pods insecure\n       fallthrough in-addr.arpa ip6.arpa\n       ttl 30\n    }\n    prometheus :9153\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    cache 30 # seconds\n    loop\n    reload\n    loadbalance\n}\n",
            53,
        );
        let wanted = Corefile {
            port: 53,
            bind: Vec::new(),
            domain: "cluster.local".into(),
            kubeconfig: None,
            ttl: 30,
            forward: vec!["/etc/resolv.conf".into()],
            health: Some("0.0.0.0:8080".into()),
            ready: Some("0.0.0.0:8181".into()),
            prometheus: Some("0.0.0.0:9153".into()),
        };
        assert_eq!(file.unwrap(), wanted);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (text, why) in [
            ("", "there is no server"),
            (".:53 {\n kubernetes cluster.local\n", "a block is not closed"),
            (".:53 {\n errors\n}\n", "the server has no plugin \"kubernetes\""),
            (
                "example.com {\n kubernetes cluster.local\n}\n",
                "the server is for \"example.com\"; here it can only be for all names, \".\"",
            ),
            (". {\n rewrite name a b\n kubernetes cluster.local\n}\n", "plugin rewrite: it is not there"),
            (". {\n kubernetes cluster.local {\n  pods verified\n }\n}\n", "plugin kubernetes: \"pods verified\" is not there"),
            (". {\n kubernetes cluster.local\n}\na.b {\n errors\n}\n", "line 4: one server for one zone is what is read here"),
            (". {\n kubernetes cluster.local\n forward . nobody\n}\n", "plugin forward: \"nobody\" is no address and no file"),
        ] {
            let error = Corefile::parse(text, 53).and_then(|file| file.upstream()).unwrap_err();
            assert_eq!(format!("{error:#}").split(": invalid").next().unwrap(), why);
        }
    }
}
