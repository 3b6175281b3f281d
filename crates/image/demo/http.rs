//! Just enough of HTTP: a server whose answers tell pods and versions apart, and a client that prints answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::{Outcome, dns, hostname, say};

const TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_LIMIT: u64 = 16 << 10;

pub fn serve(arguments: &[String]) -> Outcome {
    let port: u16 = match arguments.first() {
        Some(text) => text.parse().map_err(|_| format!("{text} is no port"))?,
        None => 80,
    };
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.map_err(|error| format!("port {port}: {error}"))?;
    say(&format!(
        "{} serves version {} on port {port}",
        hostname(),
        version()
    ))?;
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // A client that goes away is its own business.
            let _gone = answer(stream);
        });
    }
    Ok(())
}

/// Requests of one connection, until the client is done.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let peer = stream.peer_addr()?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if input.by_ref().take(HEADER_LIMIT).read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut length, mut close) = (0, request.contains("HTTP/1.0"));
        loop {
            let mut line = String::new();
            input.by_ref().take(HEADER_LIMIT).read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            close |= line == "connection: close";
        }
        std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink())?;
        let path = request.split(' ').nth(1).unwrap_or("/");
        let (status, body) = match path {
            "/" => (
                "200 OK",
                format!("Hello from {}, version {}.\n", hostname(), version()),
            ),
            "/hostname" => ("200 OK", format!("{}\n", hostname())),
            "/healthz" | "/readyz" => ("200 OK", "ok\n".to_string()),
            _ => (
                "404 Not Found",
                "There is /, /hostname and /healthz.\n".to_string(),
            ),
        };
        let connection = if close { "close" } else { "keep-alive" };
        write!(
            output,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        )?;
        let _log = say(&format!(
            "{} {} {}",
            peer.ip().to_canonical(),
            request.trim(),
            &status[..3]
        ));
        if close {
            return Ok(());
        }
    }
}

pub fn fetch(arguments: &[String]) -> Outcome {
    let url = arguments
        .iter()
        .rfind(|argument| !argument.starts_with('-'))
        .ok_or("which URL?")?;
    let rest = url.strip_prefix("http://").unwrap_or(url);
    if rest.contains("://") {
        return Err(format!("{url}: only http:// is understood"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => (
            host,
            port.parse().map_err(|_| format!("{port} is no port"))?,
        ),
        _ => (authority, 80),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => dns::addresses(host)?,
    };
    let address = addresses
        .first()
        .ok_or_else(|| format!("{host} has no address"))?;
    let address = (*address, port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .next()
        .ok_or("no address")?;
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    write!(
        stream,
        "GET /{path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: knarr-demo\r\n\r\n"
    )
    .map_err(failed)?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).map_err(failed)?;
    loop {
        let mut line = String::new();
        if answer.read_line(&mut line).map_err(failed)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    std::io::copy(&mut answer, &mut std::io::stdout().lock()).map_err(failed)?;
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(status.trim().to_string()),
    }
}

fn version() -> String {
    std::env::var("VERSION").unwrap_or_else(|_| "?".into())
}
