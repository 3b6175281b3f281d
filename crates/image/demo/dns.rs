//! Names to addresses by the servers and search list of `/etc/resolv.conf`, without the C library, whose resolver
//! wants plug-ins that a static program does not have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::{Outcome, say};

const TIMEOUT: Duration = Duration::from_secs(3);
const A: u16 = 1;
const AAAA: u16 = 28;

pub fn lookup(arguments: &[String]) -> Outcome {
    let name = arguments.first().ok_or("which name?")?;
    for address in addresses(name)? {
        say(&address.to_string())?;
    }
    Ok(())
}

/// All addresses of the first full name that has any.
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    if let Some(address) = from_hosts(name) {
        return Ok(vec![address]);
    }
    let text = std::fs::read_to_string("/etc/resolv.conf")
        .map_err(|error| format!("/etc/resolv.conf: {error}"))?;
    let (mut servers, mut search, mut dots) = (Vec::new(), Vec::new(), 1);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
            }
            Some("search") => search = words.map(str::to_string).collect(),
            Some("options") => {
                dots = words
                    .find_map(|word| word.strip_prefix("ndots:")?.parse().ok())
                    .unwrap_or(dots);
            }
            _ => {}
        }
    }
    let mut names: Vec<String> = Vec::new();
    if !name.ends_with('.') {
        names.extend(search.iter().map(|domain| format!("{name}.{domain}")));
    }
    let at = if name.matches('.').count() >= dots {
        0
    } else {
        names.len()
    };
    names.insert(at, name.trim_end_matches('.').to_string());
    let mut trouble = None;
    for full in &names {
        for server in &servers {
            let mut found = Vec::new();
            for kind in [A, AAAA] {
                match ask(*server, full, kind) {
                    Ok(more) => found.extend(more),
                    Err(error) => trouble = Some(format!("{server}: {error}")),
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    Err(trouble.unwrap_or_else(|| format!("{name} is not known")))
}

fn from_hosts(name: &str) -> Option<IpAddr> {
    let text = std::fs::read_to_string("/etc/hosts").ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?;
        words
            .any(|known| known == name)
            .then(|| address.parse().ok())?
    })
}

fn ask(server: IpAddr, name: &str, kind: u16) -> Result<Vec<IpAddr>, String> {
    let id = (std::process::id() as u16).to_be_bytes();
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length));
        query.push(length.ok_or_else(|| format!("{name} is no name"))?);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend([kind.to_be_bytes(), 1u16.to_be_bytes()].concat());
    let text = |error: std::io::Error| error.to_string();
    let local: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((local, 0)).map_err(text)?;
    socket.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    socket.connect((server, 53)).map_err(text)?;
    socket.send(&query).map_err(text)?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).map_err(text)?;
    let answer = &answer[..length];
    if answer.get(..2) != Some(&id[..]) {
        return Err("answered something else".into());
    }
    Ok(records(answer, query.len(), kind).unwrap_or_default())
}

/// The addresses behind the question. `None` if the message ends too early.
fn records(answer: &[u8], question_end: usize, kind: u16) -> Option<Vec<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let mut at = question_end;
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        loop {
            match *answer.get(at)? {
                0 => break at += 1,
                length if length >= 0xc0 => break at += 2,
                length => at += 1 + usize::from(length),
            }
        }
        let (record, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if record == kind {
            found.extend(<[u8; 4]>::try_from(data).ok().map(IpAddr::from));
            found.extend(<[u8; 16]>::try_from(data).ok().map(IpAddr::from));
        }
    }
    Some(found)
}
