//! Capability names, and the order in which the sets of a process may be changed.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::spec::Capabilities;

/// Names by number, as the kernel counts them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every name, with its prefix.
pub(crate) fn all_names() -> Vec<String> {
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}

/// The set of the named capabilities. Unknown names are refused: a typing error must not weaken or widen a set.
pub(crate) fn set_of(names: &[String]) -> Result<CapabilitySet, String> {
    let mut bits = 0u64;
    for name in names {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        let number = NAMES.iter().position(|known| *known == short).ok_or_else(|| format!("unknown capability {name}"))?;
        bits |= 1 << number;
    }
    Ok(CapabilitySet::from_bits_retain(bits))
}

/// Sets ready to be applied, cut to what we may give.
pub(crate) struct Prepared {
    bounding: CapabilitySet,
    sets: CapabilitySets,
    ambient: CapabilitySet,
}

/// Reads the names. What we do not have ourselves we cannot give, so it is left out.
pub(crate) fn prepare(wanted: &Capabilities) -> Result<Prepared, String> {
    let own = capabilities(None).map_err(|e| format!("read own capabilities: {e}"))?.permitted;
    let permitted = set_of(&wanted.permitted)? & own;
    Ok(Prepared {
        bounding: set_of(&wanted.bounding)?,
        sets: CapabilitySets {
            effective: set_of(&wanted.effective)? & permitted,
            permitted,
            inheritable: set_of(&wanted.inheritable)? & own,
        },
        ambient: set_of(&wanted.ambient)? & permitted,
    })
}

/// Cuts the bounding set; needs `CAP_SETPCAP`, so it comes before the user changes.
pub(crate) fn drop_bounding(prepared: &Prepared) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if prepared.bounding.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sets what is in force; comes after the user changed, with the permitted set kept.
pub(crate) fn apply(prepared: &Prepared) -> io::Result<()> {
    set_capabilities(None, prepared.sets)?;
    let _old_kernel = clear_ambient_capability_set();
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if prepared.ambient.contains(capability) {
            configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}
