//! Formats of strings that structural schemas may name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use base64::Engine;
use regex::Regex;

/// Whether a text has a format; formats that are not known accept everything.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "email" => text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@')),
        "hostname" => api::names::is_dns_subdomain(&text.to_lowercase()),
        "uri" => text.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) || text.starts_with('/'),
        "mac" => {
            text.split([':', '-']).count() == 6
                && text.split([':', '-']).all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
        }
        "hexcolor" => matches(&HEX, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "isbn" | "isbn10" | "isbn13" => matches(&ISBN, r"^[0-9Xx -]{10,17}$", text),
        "k8s-short-name" => api::names::is_dns_label(text),
        "k8s-long-name" => api::names::is_dns_subdomain(text),
        _ => true,
    }
}

static HEX: OnceLock<Regex> = OnceLock::new();
static ISBN: OnceLock<Regex> = OnceLock::new();

fn matches(cell: &OnceLock<Regex>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| Regex::new(pattern).expect("a literal pattern")).is_match(text)
}

/// Go's durations: signed numbers with units.
fn is_duration(text: &str) -> bool {
    static DURATION: OnceLock<Regex> = OnceLock::new();
    text == "0"
        || matches(&DURATION, r"^[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d|w)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d|w))*$", text)
}
