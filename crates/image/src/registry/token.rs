//! Bearer tokens: fetched from the server that the registry names, by basic credentials, by a refresh token, or by nobody.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;

use super::challenge::Challenge;
use super::transport::{Answer, Transport, origin};
use super::{FetchError, repository};
use crate::auth::RegistryAuth;
use crate::registries::{Endpoint, TlsSettings};

const TOKEN_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
struct TokenForm {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Answers a bearer challenge of `endpoint`.
pub(super) async fn fetch(
    transport: &Arc<Transport>,
    endpoint: &Endpoint,
    settings: &TlsSettings,
    challenge: &Challenge,
    auth: Option<&RegistryAuth>,
) -> Result<String, FetchError> {
    let realm = challenge.get("realm");
    let refused = || FetchError::Refused(format!("the registry names the token server {realm:?}, which is no usable URL"));
    let realm_uri: Uri = realm.parse().map_err(|_| refused())?;
    let (realm_tls, _) = origin(&realm_uri).ok_or_else(refused)?;
    if endpoint.tls && !realm_tls {
        // Credentials that were meant for TLS must not go out in the clear.
        return Err(FetchError::Refused(format!("the registry uses https, but its token server {realm:?} does not")));
    }
    let fallback = format!("repository:{}:pull", endpoint.repository);
    let scope = Some(challenge.get("scope")).filter(|scope| !scope.is_empty()).unwrap_or(&fallback);
    let service = challenge.get("service");
    let refresh = auth.map(|auth| auth.identity_token.as_str()).filter(|token| !token.is_empty());
    let mut headers = HeaderMap::new();
    let answer = if let Some(refresh) = refresh {
        let form =
            [("grant_type", "refresh_token"), ("service", service), ("scope", scope), ("client_id", "knarr"), ("refresh_token", refresh)];
        let content = Bytes::from(encode(&form));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        transport.send(&Method::POST, &realm_uri, &headers, &content, settings).await?
    } else {
        let basic = auth.filter(|auth| !auth.username.is_empty());
        let mut query = Vec::new();
        if !service.is_empty() {
            query.push(("service", service));
        }
        query.extend(scope.split(' ').map(|scope| ("scope", scope)));
        if let Some(auth) = basic {
            query.push(("account", auth.username.as_str()));
            headers.insert(header::AUTHORIZATION, secret(&auth.basic())?);
        }
        let joint = if realm.contains('?') { '&' } else { '?' };
        let uri: Uri = format!("{realm}{joint}{}", encode(&query)).parse().map_err(|_| refused())?;
        transport.send(&Method::GET, &uri, &headers, &Bytes::new(), settings).await?
    };
    read(answer, realm, auth.is_some()).await
}

async fn read(mut answer: Answer, realm: &str, with_auth: bool) -> Result<String, FetchError> {
    if answer.status != StatusCode::OK {
        let kind = if with_auth { "oauth" } else { "anonymous" };
        let message = repository::error_message(&mut answer.body).await;
        let text = format!(
            "failed to authorize: failed to fetch {kind} token: unexpected status from GET request to {realm}: {}{message}",
            answer.status
        );
        return Err(match answer.status.as_u16() {
            400 | 401 | 403 | 404 => FetchError::Denied(text),
            _ => FetchError::Status { method: "GET", url: realm.to_string(), status: answer.status, message },
        });
    }
    let bytes = answer.body.read(TOKEN_LIMIT).await?;
    let form: TokenForm = serde_json::from_slice(&bytes)
        .map_err(|error| FetchError::Refused(format!("token server {realm:?} answers with something else than a token: {error}")))?;
    match [form.token, form.access_token].into_iter().find(|token| !token.is_empty()) {
        Some(token) => Ok(format!("Bearer {token}")),
        None => Err(FetchError::Refused(format!("token server {realm:?} answers without a token"))),
    }
}

/// A header value that is not printed by accident.
pub(super) fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| FetchError::Denied("credentials have characters that no header may have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn encode(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded() {
        let text = encode(&[("scope", "repository:a/b:pull,push"), ("account", "a b&c=%")]);
        assert_eq!(text, "scope=repository:a/b:pull%2Cpush&account=a%20b%26c%3D%25");
    }
}
