//! Credentials for images from programs of the node (`--image-credential-provider-config`), for registries whose passwords
//! are made when they are needed.
//!
//! A program is asked over its standard input and answers on its standard output; its answers are kept as long as they hold.

mod config;
mod exec;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{Reference, RegistryAuth};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use tokio::sync::Mutex;

pub use self::config::{ConfigError, Provider, TokenAttributes, parse};
use self::exec::{CacheKey, Question};
use crate::Kubelet;
use crate::image_access::{AccountUse, Offer, Source};
use crate::pods::model;
use crate::tokens;

/// Life of a token for a program, in seconds.
const TOKEN_LIFE: i64 = 600;

/// All programs, with what they have answered.
#[derive(Debug, Default)]
pub struct Providers {
    all: Vec<(Provider, Mutex<HashMap<Key, Kept>>)>,
}

/// What an answer holds for: an image, a registry or everything; for one account where the program is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: String,
    account: String,
}

#[derive(Debug)]
struct Kept {
    auths: Vec<RegistryAuth>,
    until: Instant,
}

/// What a program is told of a pod's account.
#[derive(Debug, Clone, Default)]
struct Account {
    /// What tells its answers from those for others.
    key: String,
    token: String,
    annotations: BTreeMap<String, String>,
    /// The account whose the answers are; none where they are everybody's.
    object: Option<AccountUse>,
}

/// Why a program was not asked, or had no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("service account name is empty for pod")]
    NoAccount,
    #[error("service account {account} is missing required annotation {key:?}")]
    NoAnnotation { account: String, key: String },
    #[error("service account {0} was not found")]
    Unknown(String),
    #[error(transparent)]
    Api(#[from] api::Status),
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
}

impl Providers {
    /// Programs that were not asked yet.
    pub fn new(providers: Vec<Provider>) -> Providers {
        Providers { all: providers.into_iter().map(|provider| (provider, Mutex::default())).collect() }
    }

    /// Credentials for an image of a pod. Programs that fail are told of in the log: others may know.
    pub async fn of(&self, kubelet: &Arc<Kubelet>, pod: &Pod, image: &Reference) -> Vec<Offer> {
        let mut auths = Vec::new();
        for (provider, kept) in &self.all {
            if !provider.match_images.iter().any(|pattern| RegistryAuth::pattern_fits(pattern, image)) {
                continue;
            }
            let asked = async {
                let account = match &provider.token {
                    Some(attributes) => account(kubelet, pod, attributes).await?,
                    None => Account::default(),
                };
                let source = account.object.clone().map_or(Source::Node, Source::Account);
                let auths = ask(provider, kept, image, account).await?;
                Ok::<_, AskError>(auths.into_iter().map(move |auth| Offer { auth, source: source.clone() }))
            };
            match asked.await {
                Ok(found) => auths.extend(found),
                Err(error) => {
                    tracing::error!(provider = provider.name, "credential provider: {}", crate::pods::prepare::chain(&error));
                }
            }
        }
        auths
    }
}

/// The program's answer, from before if it still holds. One program is asked by one at a time, so that many pulls of one
/// registry ask once.
async fn ask(
    provider: &Provider,
    kept: &Mutex<HashMap<Key, Kept>>,
    image: &Reference,
    account: Account,
) -> Result<Vec<RegistryAuth>, exec::ExecError> {
    let name = format!("{}/{}", image.registry, image.path);
    let mut kept = kept.lock().await;
    let now = Instant::now();
    kept.retain(|_, answer| answer.until > now);
    for scope in [&name, &image.registry, ""] {
        let key = Key { scope: scope.to_owned(), account: account.key.clone() };
        if let Some(answer) = kept.get(&key) {
            return Ok(answer.auths.clone());
        }
    }
    let question = Question { provider, image: &name, token: &account.token, annotations: &account.annotations };
    let answer = exec::ask(&question).await?;
    let scope = match answer.key {
        CacheKey::Image => name,
        CacheKey::Registry => image.registry.clone(),
        CacheKey::Global => String::new(),
    };
    let lasts = answer.lasts.unwrap_or(provider.cache_duration);
    if !lasts.is_zero() {
        let until = now.checked_add(lasts).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600));
        kept.insert(Key { scope, account: account.key }, Kept { auths: answer.auths.clone(), until });
    }
    Ok(answer.auths)
}

/// The pod's account as a program is told of it.
async fn account(kubelet: &Arc<Kubelet>, pod: &Pod, attributes: &TokenAttributes) -> Result<Account, AskError> {
    let (namespace, name) =
        (model::namespace(pod), pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default());
    if name.is_empty() || crate::pods::statics::is_static(pod) {
        return if attributes.require_account { Err(AskError::NoAccount) } else { Ok(Account::default()) };
    }
    let shown = || format!("{namespace}/{name}");
    let found: Option<ServiceAccount> = kubelet.client.find(namespace, &name).await?;
    let found = found.ok_or_else(|| AskError::Unknown(shown()))?;
    let all = found.metadata.annotations.unwrap_or_default();
    let mut annotations = BTreeMap::new();
    for key in &attributes.required {
        let value = all.get(key).ok_or_else(|| AskError::NoAnnotation { account: shown(), key: key.clone() })?;
        annotations.insert(key.clone(), value.clone());
    }
    annotations.extend(attributes.optional.iter().filter_map(|key| Some((key.clone(), all.get(key)?.clone()))));
    let request = tokens::Request {
        namespace,
        account: &name,
        pod_name: model::name(pod),
        pod_uid: model::uid(pod),
        audience: &attributes.audience,
        seconds: TOKEN_LIFE,
    };
    let token = kubelet.tokens.get(&request).await?.text;
    let by_token = if attributes.cache_by_token { token.as_str() } else { "" };
    let uid = found.metadata.uid.unwrap_or_default();
    let key = format!("{}\n{uid}\n{annotations:?}\n{by_token}", shown());
    let object = Some(AccountUse { uid, namespace: namespace.to_owned(), name });
    Ok(Account { key, token, annotations, object })
}

/// A duration as Go writes it, unless it is negative.
fn duration(text: &str) -> Option<Duration> {
    api::cron::go_duration(text).and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn config(fields: Value) -> Value {
        let mut provider = json!({
            "name": "plugin", "matchImages": ["*.registry.example", "other.example:5000/team"], "defaultCacheDuration": "1h",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        });
        for (field, value) in fields.as_object().unwrap() {
            provider[field] = value.clone();
        }
        json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [provider]})
    }

    fn program(dir: &Path, script: &str) {
        let file = dir.join("plugin");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A program that counts its calls and notes what it was asked.
    fn answering(dir: &Path, key: &str, lasts: &str) -> Provider {
        let answer = json!({
            "kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": key,
            "cacheDuration": lasts, "auth": {"*.registry.example": {"username": "user", "password": "word"}},
        });
        let dir_text = dir.display();
        program(dir, &format!("cat > {dir_text}/asked; echo $GIVEN $1 >> {dir_text}/calls; echo '{answer}'"));
        let fields = json!({"args": ["get"], "env": [{"name": "GIVEN", "value": "env"}]});
        parse(&config(fields), dir).unwrap().remove(0)
    }

    #[tokio::test]
    async fn answers_are_kept_for_what_they_say() {
        let image = |name: &str| Reference::parse(name).unwrap();
        let (a, b, c) = (image("one.registry.example/a:1"), image("one.registry.example/b"), image("two.registry.example/a"));
        for (key, lasts, calls) in [("Image", "1h", 3), ("Registry", "1h", 2), ("Global", "1h", 1), ("Global", "0s", 6)] {
            let dir = tempfile::tempdir().unwrap();
            let provider = answering(dir.path(), key, lasts);
            let kept = Mutex::default();
            for image in [&a, &b, &c, &a, &b, &c] {
                let auths = ask(&provider, &kept, image, Account::default()).await.unwrap();
                assert_eq!((auths.len(), auths[0].username.as_str(), auths[0].password.as_str()), (1, "user", "word"));
                assert_eq!(auths[0].registry, "*.registry.example");
            }
            let made = std::fs::read_to_string(dir.path().join("calls")).unwrap();
            assert_eq!(made.lines().count(), calls, "{key} {lasts}");
            assert!(made.lines().all(|line| line == "env get"), "{made}");
        }
    }

    #[tokio::test]
    async fn accounts_do_not_share_answers_and_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let provider = answering(dir.path(), "Global", "1h");
        let kept = Mutex::default();
        let image = Reference::parse("one.registry.example/a:1").unwrap();
        for key in ["x", "y", "x"] {
            let annotations = BTreeMap::from([("role".to_owned(), "puller".to_owned())]);
            let account = Account { key: key.into(), token: "secret".into(), annotations, object: None };
            ask(&provider, &kept, &image, account).await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("calls")).unwrap().lines().count(), 2);
        let asked: Value = serde_json::from_slice(&std::fs::read(dir.path().join("asked")).unwrap()).unwrap();
        let expected = json!({
            "kind": "CredentialProviderRequest", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "image": "one.registry.example/a", "serviceAccountToken": "secret", "serviceAccountAnnotations": {"role": "puller"},
        });
        assert_eq!(asked, expected);
    }

    #[tokio::test]
    async fn programs_that_fail_give_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let image = Reference::parse("one.registry.example/a:1").unwrap();
        for (script, said) in [
            ("echo no >&2; exit 3", "no"),
            ("echo nonsense", "answer"),
            (r#"echo '{"kind":"Other","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}'"#, "CredentialProviderResponse"),
        ] {
            program(dir.path(), script);
            let provider = parse(&config(json!({})), dir.path()).unwrap().remove(0);
            let error = ask(&provider, &Mutex::default(), &image, Account::default()).await.unwrap_err();
            let text = crate::pods::prepare::chain(&error);
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn configurations_are_read_strictly() {
        let dir = tempfile::tempdir().unwrap();
        let missing = parse(&config(json!({})), dir.path()).unwrap_err().to_string();
        assert!(missing.contains("did not exist"), "{missing}");
        program(dir.path(), "true");
        let token = json!({"serviceAccountTokenAudience": "a", "requireServiceAccount": true, "cacheType": "ServiceAccount"});
        let with = |field: &str, value: Value| {
            let mut token = token.clone();
            token[field] = value;
            json!({"tokenAttributes": token})
        };
        assert!(parse(&config(json!({"tokenAttributes": token.clone()})), dir.path()).unwrap()[0].token.is_some());
        for (fields, said) in [
            (json!({"name": "../plugin"}), "path separators"),
            (json!({"matchImages": []}), "matchImages"),
            (json!({"apiVersion": "v1"}), "unsupported apiVersion"),
            (json!({"defaultCacheDuration": null}), "is required"),
            (json!({"defaultCacheDuration": "-1s"}), "not negative"),
            (json!({"unknown": 1}), "config"),
            (with("serviceAccountTokenAudience", "".into()), "must be set"),
            (with("cacheType", "Other".into()), "unsupported cacheType"),
            (with("requireServiceAccount", Value::Null), "requireServiceAccount must be set"),
        ] {
            let error = parse(&config(fields), dir.path()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let image = |name: &str| Reference::parse(name).unwrap();
        let fits = |name: &str| {
            let provider = parse(&config(json!({})), dir.path()).unwrap().remove(0);
            provider.match_images.iter().any(|pattern| RegistryAuth::pattern_fits(pattern, &image(name)))
        };
        assert!(fits("a.registry.example/x") && fits("other.example:5000/team/x"));
        assert!(
            !fits("registry.example/x")
                && !fits("a.b.registry.example/x")
                && !fits("other.example/team/x")
                && !fits("other.example:5000/x")
        );
    }
}
