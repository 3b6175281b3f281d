//! What every process of a container finds in its environment when nobody said otherwise.

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds `PATH`, `HOSTNAME` and, with a terminal, `TERM` where they are missing.
pub(crate) fn complete(env: &mut Vec<String>, hostname: &str, tty: bool) {
    if value(env, "PATH").is_none() {
        env.insert(0, PATH.into());
    }
    if value(env, "HOSTNAME").is_none() {
        let name =
            if hostname.is_empty() { rustix::system::uname().nodename().to_string_lossy().into_owned() } else { hostname.to_owned() };
        env.push(format!("HOSTNAME={name}"));
    }
    if tty && value(env, "TERM").is_none() {
        env.push("TERM=xterm".into());
    }
}

/// The last value of a variable, which is the one that programs see.
pub(crate) fn value<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// `base` with the lines of `over` added or put in place of those of the same name.
pub(crate) fn merge(base: &[String], over: &[String]) -> Vec<String> {
    let name = |line: &str| line.split_once('=').map_or(line.to_owned(), |(name, _)| name.to_owned());
    let mut merged: Vec<String> = base.iter().filter(|line| !over.iter().any(|new| name(new) == name(line))).cloned().collect();
    merged.extend_from_slice(over);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_only_what_is_missing() {
        let mut env = vec!["PATH=/x".to_owned(), "A=1".to_owned()];
        complete(&mut env, "pod", true);
        assert_eq!(env, ["PATH=/x", "A=1", "HOSTNAME=pod", "TERM=xterm"]);
        assert_eq!(merge(&env, &["A=2".to_owned()]), ["PATH=/x", "HOSTNAME=pod", "TERM=xterm", "A=2"]);
    }
}
