//! What the administrator says about placement, from the words of the kubelet's flags and configuration.

use std::collections::BTreeMap;

use api::Quantity;

use super::cpu::CpuOptions;
use super::cpus::CpuSet;
use super::hints::{MOST_NODES, Policy, Rules, Scope};
use super::memory::Amounts;

/// The words as given; empty where nothing was.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// `cpuManagerPolicy`.
    pub cpu_policy: String,
    /// `cpuManagerPolicyOptions` as `name=value,...`.
    pub cpu_options: String,
    /// `reservedSystemCPUs`.
    pub reserved_cpus: String,
    /// `kubeReserved` as `resource=amount,...`.
    pub kube_reserved: String,
    /// `systemReserved`, likewise.
    pub system_reserved: String,
    /// `memoryManagerPolicy`.
    pub memory_policy: String,
    /// `reservedMemory` as `node:resource=amount,...;...`.
    pub reserved_memory: String,
    /// `topologyManagerPolicy`.
    pub topology_policy: String,
    /// `topologyManagerScope`.
    pub topology_scope: String,
    /// `topologyManagerPolicyOptions` as `name=value,...`.
    pub topology_options: String,
}

/// What was said.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The static policy for processors; none shares them all.
    pub cpus: Option<CpuOptions>,
    /// Processors that are kept for the system, by number.
    pub reserved_cpus: Option<CpuSet>,
    /// What is kept from pods, by resource.
    pub reserved: BTreeMap<String, Quantity>,
    /// The static policy for memory with what is kept on each node; none takes memory from anywhere.
    pub memory: Option<BTreeMap<u32, Amounts>>,
    /// How nodes are picked.
    pub rules: Rules,
    /// The words themselves.
    pub words: Words,
}

/// Words that say nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No such policy or scope.
    #[error("unknown {0}: {1:?}")]
    Unknown(&'static str, String),
    /// An option that does not exist.
    #[error("unknown {0} Policy option: {1:?}")]
    UnknownOption(&'static str, String),
    /// An option behind a feature gate that is off.
    #[error("{0} Policy Alpha-level Options not enabled, but option {1:?} provided")]
    Alpha(&'static str, String),
    /// A value that is none.
    #[error("bad value for {0}: {1:?}")]
    Value(String, String),
    /// Two options that exclude each other.
    #[error("static policy options {0} and {1} can not be used at the same time")]
    Together(&'static str, &'static str),
}

fn pairs(words: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut pairs = Vec::new();
    for text in words.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = text.split_once('=').ok_or_else(|| OptionsError::Value("option".into(), text.to_owned()))?;
        pairs.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(pairs)
}

fn truth(name: &str, value: &str) -> Result<bool, OptionsError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(OptionsError::Value(format!("option {name:?}"), value.to_owned())),
    }
}

fn quantity(name: &str, value: &str) -> Result<Quantity, OptionsError> {
    Quantity::parse(value).ok_or_else(|| OptionsError::Value(name.to_owned(), value.to_owned()))
}

impl Options {
    /// Reads the words.
    ///
    /// # Errors
    /// They say nothing, or two things at once.
    pub fn parse(words: &Words) -> Result<Options, OptionsError> {
        let cpu_options = cpu_options(&words.cpu_options)?;
        let cpus = match words.cpu_policy.as_str() {
            "" | "none" => None,
            "static" => Some(cpu_options),
            other => return Err(OptionsError::Unknown("cpu manager policy", other.to_owned())),
        };
        let memory = match words.memory_policy.as_str() {
            "" | "None" => None,
            "Static" => Some(reserved_memory(&words.reserved_memory)?),
            other => return Err(OptionsError::Unknown("memory manager policy", other.to_owned())),
        };
        let wrong = |error: super::cpus::NoCpuSet| OptionsError::Value("reserved CPUs".into(), error.to_string());
        let named: CpuSet = words.reserved_cpus.parse().map_err(wrong)?;
        let mut reserved: BTreeMap<String, Quantity> = BTreeMap::new();
        for (name, value) in pairs(&words.kube_reserved)?.into_iter().chain(pairs(&words.system_reserved)?) {
            let amount = quantity(&name, &value)?;
            let place = reserved.entry(name).or_default();
            *place = Quantity::from_milli(place.milli() + amount.milli());
        }
        if !named.is_empty() {
            reserved.insert("cpu".into(), Quantity::from_milli(named.len() as i64 * 1000));
        }
        Ok(Options {
            cpus,
            reserved_cpus: Some(named).filter(|named| !named.is_empty()),
            reserved,
            memory,
            rules: rules(words)?,
            words: words.clone(),
        })
    }

    /// How much of a resource is kept from pods: processors in thousandths, everything else in whole units.
    pub fn kept(&self, resource: &str) -> i64 {
        let amount = self.reserved.get(resource).copied().unwrap_or_default();
        if resource == "cpu" { amount.milli() } else { amount.value() }
    }
}

fn cpu_options(words: &str) -> Result<CpuOptions, OptionsError> {
    let mut options = CpuOptions::default();
    for (name, value) in pairs(words)? {
        let place = match name.as_str() {
            "full-pcpus-only" => &mut options.whole_cores,
            "distribute-cpus-across-numa" => &mut options.spread,
            "strict-cpu-reservation" => &mut options.strict,
            "prefer-align-cpus-by-uncorecache" => &mut options.by_cache,
            "align-by-socket" | "distribute-cpus-across-cores" => return Err(OptionsError::Alpha("CPU Manager", name)),
            _ => return Err(OptionsError::UnknownOption("CPU Manager", name)),
        };
        *place = truth(&name, &value)?;
    }
    if options.spread && options.by_cache {
        return Err(OptionsError::Together("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"));
    }
    Ok(options)
}

fn rules(words: &Words) -> Result<Rules, OptionsError> {
    let policy = match words.topology_policy.as_str() {
        "" | "none" => Policy::None,
        "best-effort" => Policy::BestEffort,
        "restricted" => Policy::Restricted,
        "single-numa-node" => Policy::SingleNumaNode,
        other => return Err(OptionsError::Unknown("topology manager policy", other.to_owned())),
    };
    let scope = match words.topology_scope.as_str() {
        "" | "container" => Scope::Container,
        "pod" => Scope::Pod,
        other => return Err(OptionsError::Unknown("topology manager scope", other.to_owned())),
    };
    let mut rules = Rules { policy, scope, closest: false, most_nodes: MOST_NODES };
    for (name, value) in pairs(&words.topology_options)? {
        match name.as_str() {
            "prefer-closest-numa-nodes" => rules.closest = truth(&name, &value)?,
            "max-allowable-numa-nodes" => {
                let most = value.parse().ok().filter(|most| *most >= MOST_NODES);
                rules.most_nodes = most.ok_or(OptionsError::Value(format!("option {name:?}"), value))?;
            }
            _ => return Err(OptionsError::UnknownOption("Topology Manager", name)),
        }
    }
    Ok(rules)
}

fn reserved_memory(words: &str) -> Result<BTreeMap<u32, Amounts>, OptionsError> {
    let mut nodes = BTreeMap::new();
    for part in words.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || OptionsError::Value("reserved memory".into(), part.to_owned());
        let (node, amounts) = part.split_once(':').ok_or_else(wrong)?;
        let node: u32 = node.trim().parse().map_err(|_| wrong())?;
        let amount = |(name, value): (String, String)| {
            let amount = quantity(&name, &value)?.value();
            Ok((name, u64::try_from(amount).map_err(|_| wrong())?))
        };
        nodes.insert(node, pairs(amounts)?.into_iter().map(amount).collect::<Result<Amounts, OptionsError>>()?);
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: Words, wanted: Result<&str, &str>) {
        let found = Options::parse(&words);
        match wanted {
            Ok(part) => assert!(format!("{:?}", found.as_ref().unwrap()).contains(part), "{found:?}"),
            Err(text) => assert_eq!(found.unwrap_err().to_string(), text),
        }
    }

    #[test]
    fn words_are_read() {
        let cpu = |options: &str| Words { cpu_policy: "static".into(), cpu_options: options.into(), ..Words::default() };
        check(cpu("full-pcpus-only=true"), Ok("whole_cores: true"));
        check(cpu("strict-cpu-reservation=1, distribute-cpus-across-numa=false"), Ok("strict: true"));
        check(cpu("full-pcpus-only=yes"), Err("bad value for option \"full-pcpus-only\": \"yes\""));
        let alpha = "CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided";
        check(cpu("align-by-socket=true"), Err(alpha));
        check(cpu("fast=true"), Err("unknown CPU Manager Policy option: \"fast\""));
        check(Words { cpu_policy: "dynamic".into(), ..Words::default() }, Err("unknown cpu manager policy: \"dynamic\""));
        let both =
            "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time";
        check(cpu("distribute-cpus-across-numa=true,prefer-align-cpus-by-uncorecache=true"), Err(both));
        let topology = |options: &str| Words { topology_policy: "restricted".into(), topology_options: options.into(), ..Words::default() };
        check(topology("max-allowable-numa-nodes=12"), Ok("most_nodes: 12"));
        check(topology("max-allowable-numa-nodes=4"), Err("bad value for option \"max-allowable-numa-nodes\": \"4\""));
        let memory = Words {
            memory_policy: "Static".into(),
            reserved_memory: "0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=1Gi".into(),
            ..Words::default()
        };
        check(memory, Ok("{0: {\"hugepages-1Gi\": 2147483648, \"memory\": 1073741824}, 1: {\"memory\": 1073741824}}"));
    }

    #[test]
    fn reservations_are_added_up() {
        let reserved = |cpus: &str| Words {
            kube_reserved: "cpu=500m,memory=100Mi".into(),
            system_reserved: "cpu=250m,ephemeral-storage=1Gi".into(),
            reserved_cpus: cpus.into(),
            ..Words::default()
        };
        let options = Options::parse(&reserved("")).unwrap();
        assert_eq!((options.kept("cpu"), options.kept("memory"), options.kept("ephemeral-storage")), (750, 100 << 20, 1 << 30));
        let named = Options::parse(&reserved("0-1,4")).unwrap();
        assert_eq!((named.kept("cpu"), named.reserved_cpus.map(|cpus| cpus.len())), (3000, Some(3)));
    }
}
