//! Outgoing proxies, by the environment variables that every program on a company's machine obeys.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER_LIMIT: usize = 16 << 10;

/// Which requests go through a proxy. The default uses none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// URL of the proxy for https; empty for none.
    pub https: String,
    /// URL of the proxy for http; empty for none.
    pub http: String,
    /// Hosts that are reached directly: names (with all names below them), addresses, networks, `*`; by comma.
    pub except: String,
}

/// One proxy to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl ProxySettings {
    /// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in capitals or not.
    pub fn from_environment() -> ProxySettings {
        let read = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.unwrap_or_default()
        };
        ProxySettings { https: read("HTTPS_PROXY"), http: read("HTTP_PROXY"), except: read("NO_PROXY") }
    }

    /// The proxy for a request; an error if the setting is no proxy URL.
    pub(super) fn choose(&self, uri: &Uri) -> Result<Option<Proxy>, String> {
        let tls = uri.scheme_str() == Some("https");
        let setting = if tls { &self.https } else { &self.http };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if setting.is_empty() || self.is_excepted(host, uri.port_u16().unwrap_or(if tls { 443 } else { 80 })) {
            return Ok(None);
        }
        parse(setting).map(Some).ok_or_else(|| "the proxy of the environment is no http URL".to_string())
    }

    fn is_excepted(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        if host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let host = host.to_ascii_lowercase();
        self.except.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
            let entry = entry.to_ascii_lowercase();
            if entry == "*" {
                return true;
            }
            if let (Some(address), Some((network, length))) = (address, entry.split_once('/')) {
                return in_network(address, network, length);
            }
            let (name, wanted) = match entry.rsplit_once(':') {
                Some((name, digits)) if !name.contains(':') => (name.to_string(), digits.parse().ok()),
                _ => (entry, None),
            };
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let below = host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            wanted.is_none_or(|wanted: u16| wanted == port) && below
        })
    }
}

/// Asks a proxy for a tunnel to `host:port`.
pub(super) async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> Result<(), String> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    let failed = |error: std::io::Error| format!("proxyconnect tcp {}:{}: {error}", proxy.host, proxy.port);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // One byte at a time: what follows the answer belongs to the tunnel.
        let byte = stream.read_u8().await.map_err(failed)?;
        answer.push(byte);
        if answer.len() > ANSWER_LIMIT {
            return Err(format!("proxy {}:{} answers without end", proxy.host, proxy.port));
        }
    }
    let status = String::from_utf8_lossy(&answer);
    let status = status.lines().next().unwrap_or_default().trim().to_string();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("proxy {}:{} refuses {host}:{port}: {status}", proxy.host, proxy.port)),
    }
}

fn parse(setting: &str) -> Option<Proxy> {
    let with_scheme = if setting.contains("://") { setting.to_string() } else { format!("http://{setting}") };
    let uri: Uri = with_scheme.parse().ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let user = uri.authority()?.as_str().rsplit_once('@').map(|(user, _)| decode(user));
    Some(Proxy {
        host: uri.host()?.trim_start_matches('[').trim_end_matches(']').to_string(),
        port: uri.port_u16().unwrap_or(80),
        authorization: user.map(|user| format!("Basic {}", STANDARD.encode(user))),
    })
}

/// Undoes `%xx`, in which URLs carry passwords.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &more[2..] } else { more };
    }
    bytes
}

fn in_network(address: IpAddr, network: &str, length: &str) -> bool {
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((address_bits, width), (network_bits, network_width)) = (bits(address), bits(network));
    let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
    width == network_width && length <= width && address_bits & mask == network_bits & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_chosen_by_scheme_and_exception() {
        let settings = ProxySettings {
            https: "http://u%3a:p%40@proxy.corp:3128".into(),
            http: "plain.corp".into(),
            except: "corp.example, .inner.io,10.0.0.0/8,fd00::/8,h.io:5000, 192.168.1.7".into(),
        };
        let cases = [
            ("https://quay.io/v2/", Some("proxy.corp:3128")),
            ("http://quay.io/v2/", Some("plain.corp:80")),
            ("https://corp.example/", None),
            ("https://r.corp.example/", None),
            ("https://xcorp.example/", Some("proxy.corp:3128")),
            ("https://a.inner.io/", None),
            ("https://10.1.2.3:5000/", None),
            ("https://11.1.2.3/", Some("proxy.corp:3128")),
            ("https://[fd00::1]/", None),
            ("https://h.io:5000/", None),
            ("https://h.io/", Some("proxy.corp:3128")),
            ("https://192.168.1.7/", None),
            ("http://localhost:5000/", None),
            ("http://127.0.0.1/", None),
        ];
        for (url, expected) in cases {
            let chosen = settings.choose(&url.parse().expect("a URL")).expect("a proxy or none");
            let shown = chosen.map(|proxy| format!("{}:{}", proxy.host, proxy.port));
            assert_eq!(shown.as_deref(), expected, "{url}");
        }
        let proxy = parse(&settings.https).expect("parses");
        assert_eq!(proxy.authorization, Some(format!("Basic {}", STANDARD.encode("u::p@"))));
        let all = ProxySettings { except: "*".into(), ..settings.clone() };
        assert_eq!(all.choose(&"https://quay.io".parse().expect("a URL")), Ok(None));
        let socks = ProxySettings { https: "socks5://x".into(), ..ProxySettings::default() };
        assert!(socks.choose(&"https://quay.io".parse().expect("a URL")).is_err());
        assert_eq!(ProxySettings::default().choose(&"https://quay.io".parse().expect("a URL")), Ok(None));
    }
}
