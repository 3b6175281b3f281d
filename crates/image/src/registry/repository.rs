//! One repository at one endpoint with at most one credential: manifests and blobs.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use parking_lot::Mutex;
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::transport::{Answer, Body, Transport, origin};
use super::{FetchError, token};
use crate::auth::RegistryAuth;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_LIMIT, OCI_INDEX, OCI_MANIFEST};
use crate::registries::{Endpoint, TlsSettings};
use crate::unpack::Hasher;

const REDIRECT_LIMIT: usize = 10;
const DIGEST_HEADER: &str = "docker-content-digest";

pub(crate) struct Repository {
    transport: Arc<Transport>,
    endpoint: Endpoint,
    auth: Option<RegistryAuth>,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A manifest or index as it was served.
pub(crate) struct FetchedManifest {
    pub bytes: Bytes,
    pub media_type: String,
    /// Calculated, not believed.
    pub digest: String,
}

#[derive(Deserialize)]
struct ErrorForm {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Repository {
    pub(crate) fn new(transport: Arc<Transport>, endpoint: Endpoint, auth: Option<RegistryAuth>) -> Repository {
        let auth = auth.filter(|auth| !auth.is_empty());
        let ready = auth.as_ref().map(|auth| &auth.registry_token).filter(|token| !token.is_empty());
        let ready = ready.and_then(|token| token::secret(&format!("Bearer {token}")).ok());
        Repository { transport, endpoint, auth, authorization: Mutex::new(ready) }
    }

    /// Digest of a tag without its manifest; `None` if the registry does not say.
    pub(crate) async fn head_manifest(&self, name: &str) -> Result<Option<String>, FetchError> {
        let answer = self.request(&Method::HEAD, &format!("manifests/{name}"), &manifest_headers()).await?;
        let digest = answer.headers.get(DIGEST_HEADER).and_then(|value| value.to_str().ok()).map(str::to_string);
        answer.body.discard().await;
        Ok(digest)
    }

    /// A manifest by tag or digest. A digest is checked.
    pub(crate) async fn manifest(&self, name: &str) -> Result<FetchedManifest, FetchError> {
        let mut answer = self.request(&Method::GET, &format!("manifests/{name}"), &manifest_headers()).await?;
        let bytes = answer.body.read(DOCUMENT_LIMIT).await?;
        let digest = Hasher::digest(&bytes);
        let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let promised = if name.contains(':') { Some(name) } else { text(DIGEST_HEADER) };
        if let Some(promised) = promised.filter(|promised| promised.starts_with("sha256:") && *promised != digest) {
            return Err(FetchError::Refused(format!("manifest {name} has the digest {digest} instead of {promised}")));
        }
        let media_type = text("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Ok(FetchedManifest { bytes, media_type, digest })
    }

    /// A small blob, digest checked.
    pub(crate) async fn document(&self, digest: &str) -> Result<Bytes, FetchError> {
        let mut answer = self.request(&Method::GET, &format!("blobs/{digest}"), &HeaderMap::new()).await?;
        let bytes = answer.body.read(DOCUMENT_LIMIT).await?;
        match Hasher::digest(&bytes) {
            got if got == digest => Ok(bytes),
            got => Err(FetchError::Refused(format!("blob {digest} has the digest {got}"))),
        }
    }

    /// A blob from `offset` on. The number tells where the body really begins: registries may ignore ranges.
    pub(crate) async fn blob(&self, digest: &str, offset: u64) -> Result<(u64, Body), FetchError> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(header::RANGE, range.expect("a number is a header value"));
        }
        let answer = self.request(&Method::GET, &format!("blobs/{digest}"), &headers).await?;
        if answer.status != StatusCode::PARTIAL_CONTENT {
            return Ok((0, answer.body));
        }
        let range = answer.headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        match start {
            Some(start) if start <= offset => Ok((start, answer.body)),
            _ => Err(FetchError::Refused(format!("blob {digest}: the registry answers with the range {range:?}"))),
        }
    }

    /// Sends, authorizes if asked to, and turns everything but success into an error.
    async fn request(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let Endpoint { tls, authority, prefix, repository, .. } = &self.endpoint;
        let scheme = if *tls { "https" } else { "http" };
        let query = self.endpoint.namespace.as_ref().map_or(String::new(), |namespace| format!("?ns={namespace}"));
        let url = format!("{scheme}://{authority}{prefix}/{repository}/{path}{query}");
        let uri: Uri = url.parse().map_err(|_| FetchError::Refused(format!("{url:?} is no URL")))?;
        let mut answer = self.follow(method, &uri, headers).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            let challenges = challenge::parse(&answer.headers);
            answer.body.discard().await;
            self.authorize(&challenges).await?;
            answer = self.follow(method, &uri, headers).await?;
        }
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(match answer.status {
            StatusCode::NOT_FOUND => {
                answer.body.discard().await;
                FetchError::NotFound
            }
            StatusCode::UNAUTHORIZED => {
                let challenges = challenge::parse(&answer.headers);
                let said = challenges.iter().map(|challenge| challenge.get("error")).find(|error| !error.is_empty());
                FetchError::Denied(format!("server message: {}: authorization failed", said.unwrap_or("unauthorized")))
            }
            status => {
                let message = error_message(&mut answer.body).await;
                FetchError::Status { method: if *method == Method::HEAD { "HEAD" } else { "GET" }, url, status, message }
            }
        })
    }

    /// Follows redirects. The authorization goes to the endpoint itself only, never to where it points.
    async fn follow(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let home = origin(uri);
        let mut uri = uri.clone();
        for _ in 0..REDIRECT_LIMIT {
            let mut headers = headers.clone();
            let at_home = origin(&uri) == home;
            if at_home && let Some(authorization) = self.authorization.lock().clone() {
                headers.insert(header::AUTHORIZATION, authorization);
            }
            let settings = if at_home { self.endpoint.settings.clone() } else { self.foreign_settings() };
            let answer = self.transport.send(method, &uri, &headers, &Bytes::new(), &settings).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                if answer.status == StatusCode::UNAUTHORIZED && !at_home {
                    return Err(FetchError::Denied(format!("redirected to {uri}, which wants other credentials")));
                }
                return Ok(answer);
            }
            let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| resolve(&uri, location));
            let next = next.ok_or_else(|| FetchError::Refused(format!("{uri} redirects to {location:?}, which is no usable URL")))?;
            answer.body.discard().await;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(FetchError::Refused(format!("{uri} redirects from https to {next}")));
            }
            uri = next;
        }
        Err(FetchError::Refused(format!("{uri}: too many redirects")))
    }

    async fn authorize(&self, challenges: &[Challenge]) -> Result<(), FetchError> {
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let value = if let Some(bearer) = find("bearer") {
            let realm = bearer.get("realm").parse().ok().and_then(|realm: Uri| origin(&realm));
            let at_home = realm == Some((self.endpoint.tls, self.endpoint.authority.to_ascii_lowercase()));
            let settings = if at_home { self.endpoint.settings.clone() } else { self.foreign_settings() };
            token::fetch(&self.transport, &self.endpoint, &settings, bearer, self.auth.as_ref()).await?
        } else if let (Some(_), Some(auth)) = (find("basic"), self.auth.as_ref().filter(|auth| !auth.username.is_empty())) {
            auth.basic()
        } else if find("basic").is_some() {
            return Err(FetchError::Denied("server message: no basic auth credentials".into()));
        } else {
            return Err(FetchError::Denied("server message: unauthorized: authorization failed".into()));
        };
        *self.authorization.lock() = Some(token::secret(&value)?);
        Ok(())
    }

    /// Token servers and blob stores share the trust of their registry, but do not see our client certificate.
    fn foreign_settings(&self) -> TlsSettings {
        TlsSettings { cert_file: None, key_file: None, ..self.endpoint.settings.clone() }
    }
}

/// What the registry says about an error, ready to be appended: `: CODE: message`.
pub(super) async fn error_message(body: &mut Body) -> String {
    let Ok(bytes) = body.read(1 << 16).await else {
        return String::new();
    };
    let Ok(form) = serde_json::from_slice::<ErrorForm>(&bytes) else {
        return String::new();
    };
    let entry = |entry: &ErrorEntry| format!(": {}: {}", entry.code, entry.message);
    // The text ends in events and on terminals.
    let printable = |text: String| text.chars().filter(|character| !character.is_control()).take(500).collect();
    form.errors.first().map(entry).map(printable).unwrap_or_default()
}

fn manifest_headers() -> HeaderMap {
    let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
    let accept = HeaderValue::from_str(&accept).expect("media types are header values");
    HeaderMap::from_iter([(header::ACCEPT, accept)])
}

/// An absolute URL, one without scheme, or a path.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let scheme = base.scheme_str()?;
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", base.authority()?)
    } else {
        location.to_string()
    };
    let uri: Uri = absolute.parse().ok()?;
    origin(&uri).map(|_| uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let base: Uri = "https://r.io:5000/v2/a".parse().expect("a URL");
        let cases = [
            ("https://cdn.io/x?y=1#z", Some("https://cdn.io/x?y=1")),
            ("/v2/b", Some("https://r.io:5000/v2/b")),
            ("//cdn.io/x", Some("https://cdn.io/x")),
            ("file:///etc/passwd", None),
            ("https://u:p@cdn.io/x", None),
            ("relative", None),
            ("", None),
        ];
        for (location, expected) in cases {
            let resolved = resolve(&base, location).map(|uri| uri.to_string());
            assert_eq!(resolved.as_deref(), expected, "{location}");
        }
    }
}
