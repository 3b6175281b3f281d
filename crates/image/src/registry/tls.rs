//! Whom we trust: the system's authorities, those of `registries.yaml`, or, where it says so, everybody.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::registries::TlsSettings;

/// Where distributions keep the bundle of authorities.
const BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// Builds the settings for one host; the text of an error names the file.
pub(super) fn client_config(settings: &TlsSettings) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(pki::anybody())
    } else {
        let mut roots = system_roots().clone();
        if let Some(path) = &settings.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match (&settings.cert_file, &settings.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| format!("{}: {error}", key_file.display()))?;
            builder.with_client_auth_cert(certificates(cert_file)?, key).map_err(|error| format!("{}: {error}", cert_file.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("cert_file and key_file must be given together".into()),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = |error| format!("{}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(read)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if found.is_empty() { Err(format!("{}: no certificate in it", path.display())) } else { Ok(found) }
}

/// Mozilla's authorities and, added to them, the system's. Read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let own = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
        let bundle = own.or_else(|| BUNDLES.iter().map(std::path::PathBuf::from).find(|path| path.exists()));
        if let Some(found) = bundle.and_then(|path| certificates(&path).ok()) {
            roots.add_parsable_certificates(found);
        }
        roots
    })
}
