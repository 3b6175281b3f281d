//! The name grammars of Kubernetes (RFC 1123, RFC 1035, qualified names) with the messages of the real server.

/// `metadata.name` of most kinds: at most 253 characters of DNS labels joined by dots.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// At most 63 characters: lower-case letters, digits and inner dashes.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_label(name)
}

/// Like a DNS label, but it starts with a letter (RFC 1035).
pub fn is_dns_1035_label(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// `[prefix/]name` as label and annotation keys are.
pub fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if !prefix.is_empty() && is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && name.len() <= 63 && edges_alphanumeric(name) && name.bytes().all(is_name_byte)
}

/// A label's value: empty or like the name part of a qualified name.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || (value.len() <= 63 && edges_alphanumeric(value) && value.bytes().all(is_name_byte))
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && edges_alphanumeric(label)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn edges_alphanumeric(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    edge(text.bytes().next()) && edge(text.bytes().next_back())
}
