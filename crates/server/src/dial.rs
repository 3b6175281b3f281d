//! Connections from the server to kubelets, pods and the servers behind services.

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use pki::{HotCert, ServerTrust};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, whatever it is made of.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open connection.
pub type Connected = Box<dyn Duplex>;

/// Whom TLS trusts and what it shows.
pub struct Tls<'a> {
    /// Whose certificate is accepted.
    pub trust: ServerTrust,
    /// Our own certificate.
    pub cert: Option<&'a Arc<HotCert>>,
    /// Name that the certificate must bear.
    pub name: String,
}

/// Connects to an address (host and port), by TLS if asked.
///
/// # Errors
/// 503 with the reason.
pub async fn connect(host: &str, port: u16, tls: Option<Tls<'_>>) -> Result<Connected, Status> {
    let fail = |why: String| Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"));
    let opening = TcpStream::connect((host, port));
    let stream = match tokio::time::timeout(PATIENCE, opening).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(fail(format!("dial tcp {host}:{port}: {error}"))),
        Err(_) => return Err(fail(format!("dial tcp {host}:{port}: i/o timeout"))),
    };
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let config = pki::client_config(&tls.trust, tls.cert, &[]).map_err(|error| fail(error.to_string()))?;
    let name = ServerName::try_from(tls.name).map_err(|error| fail(error.to_string()))?;
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match tokio::time::timeout(PATIENCE, shaking).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(fail(format!("tls: {error}"))),
        Err(_) => Err(fail("TLS handshake timeout".into())),
    }
}
