//! Addresses, networks and URLs.

use std::net::IpAddr;
use std::sync::Arc;

use crate::Failure;
use crate::eval::Budget;
use crate::value::Value;

use super::Answer;

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// As it was given.
    pub text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let [Value::String(text)] = args else { return None };
    if let Err(failure) = budget.scan(text.len()) {
        return Some(Err(failure));
    }
    Some(match name {
        "ip" => address(text).map(Value::Ip),
        "isIP" => Ok(Value::Bool(address(text).is_ok())),
        "ip.isCanonical" => address(text).map(|ip| Value::Bool(ip.to_string() == **text)),
        "cidr" => network(text).map(|(ip, length)| Value::Cidr(ip, length)),
        "isCIDR" => Ok(Value::Bool(network(text).is_ok())),
        "url" => Url::parse(text)
            .map(|url| Value::Url(Arc::new(url)))
            .ok_or_else(|| Failure::new(format!("URL parse error during conversion from string: parse {text:?}: invalid URI for request"))),
        "isURL" => Ok(Value::Bool(Url::parse(text).is_some())),
        _ => return None,
    })
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    let value = match (target, name, args) {
        (Value::Ip(ip), name, []) => match name {
            "family" => Value::Int(if ip.is_ipv4() { 4 } else { 6 }),
            "isUnspecified" => Value::Bool(ip.is_unspecified()),
            "isLoopback" => Value::Bool(ip.is_loopback()),
            "isLinkLocalMulticast" => Value::Bool(link_local_multicast(ip)),
            "isLinkLocalUnicast" => Value::Bool(link_local_unicast(ip)),
            "isGlobalUnicast" => Value::Bool(global_unicast(ip)),
            _ => return None,
        },
        (Value::Cidr(ip, length), name, args) => return cidr_method(*ip, *length, name, args),
        (Value::Url(url), name, []) => match name {
            "getScheme" => Value::text(url.scheme.as_str()),
            "getHost" => Value::text(url.host.as_str()),
            "getHostname" => Value::text(url.hostname()),
            "getPort" => Value::text(url.port()),
            "getEscapedPath" => Value::text(url.path.as_str()),
            "getQuery" => url.parameters(),
            _ => return None,
        },
        _ => return None,
    };
    Some(Ok(value))
}

fn cidr_method<'a>(ip: IpAddr, length: u8, name: &str, args: &[Value<'a>]) -> Answer<'a> {
    let inner_ip = |value: &Value| match value {
        Value::Ip(ip) => Some(Ok(*ip)),
        Value::String(text) => Some(address(text)),
        _ => None,
    };
    let inner_network = |value: &Value| match value {
        Value::Cidr(ip, length) => Some(Ok((*ip, *length))),
        Value::String(text) => Some(network(text)),
        _ => None,
    };
    Some(match (name, args) {
        ("containsIP", [other]) => inner_ip(other)?.map(|other| Value::Bool(holds(ip, length, other))),
        ("containsCIDR", [other]) => inner_network(other)?.map(|(other, inner)| Value::Bool(inner >= length && holds(ip, length, other))),
        ("ip", []) => Ok(Value::Ip(ip)),
        ("masked", []) => Ok(Value::Cidr(masked(ip, length), length)),
        ("prefixLength", []) => Ok(Value::Int(i64::from(length))),
        _ => return None,
    })
}

/// An address without a zone; IPv4 inside IPv6 is not allowed.
fn address(text: &str) -> Result<IpAddr, Failure> {
    let parsed = text.parse::<IpAddr>().ok();
    match parsed {
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(Failure::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Some(ip) => Ok(ip),
        None => Err(Failure::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))),
    }
}

fn network(text: &str) -> Result<(IpAddr, u8), Failure> {
    let wrong = || Failure::new(format!("network address parse error during conversion from string: netip.ParsePrefix({text:?})"));
    let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
    let ip = address(ip).map_err(|_| wrong())?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.parse::<u8>().ok().filter(|length| digits && *length <= most).ok_or_else(wrong)?;
    Ok((ip, length))
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).into()),
    }
}

fn holds(ip: IpAddr, length: u8, other: IpAddr) -> bool {
    ip.is_ipv4() == other.is_ipv4() && masked(ip, length) == masked(other, length)
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local_unicast(ip)
}

impl Url {
    /// An absolute URL, or a path that begins with a slash.
    fn parse(text: &str) -> Option<Url> {
        if text.is_empty() || text.bytes().any(|byte| byte < 0x21 || byte == 0x7f) {
            return None;
        }
        let mut url = Url { text: text.into(), scheme: String::new(), host: String::new(), path: String::new(), query: String::new() };
        let rest = text.split('#').next().unwrap_or("");
        let rest = match rest.split_once(':') {
            Some((scheme, after)) if is_scheme(scheme) => {
                url.scheme = scheme.to_ascii_lowercase();
                after
            }
            _ if rest.starts_with('/') => rest,
            _ => return None,
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.into();
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !url.scheme.is_empty()) {
            let end = authority.find('/').unwrap_or(authority.len());
            let host = authority[..end].rsplit('@').next().unwrap_or("");
            let port = host.rsplit_once(':').map(|(_, port)| port).filter(|_| !host.ends_with(']'));
            if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) || host.starts_with('[') != host.contains(']') {
                return None;
            }
            url.host = host.into();
            url.path = authority[end..].into();
        } else if rest.starts_with('/') {
            url.path = rest.into();
        } else {
            return None;
        }
        valid_escapes(&url.path).then_some(url)
    }

    fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(""),
            None => self.host.split(':').next().unwrap_or(""),
        }
    }

    fn port(&self) -> &str {
        let after = self.host.rsplit(']').next().unwrap_or("");
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    fn parameters<'a>(&self) -> Value<'a> {
        let mut entries: Vec<(String, Vec<Value>)> = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key), Value::text(decode(value)));
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => entries.push((key, vec![value])),
            }
        }
        Value::map(entries.into_iter().map(|(key, values)| (Value::text(key), Value::list(values))).collect())
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn valid_escapes(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte != b'%' || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
