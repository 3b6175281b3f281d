//! Authorization by a webhook: asked with a SubjectAccessReview where its conditions hold, its answers remembered.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cel::{Budget, Env, Names, Program, Type, Value as Cel, evaluate};
use serde_json::{Value, json};

use crate::attributes::Attributes;
use crate::expiring::{self, Expiring};
use crate::remote::Remote;
use crate::user::User;

/// Attempts of one review, and the wait behind the first.
const ATTEMPTS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Requests that say more about themselves than this are not remembered.
const MAX_REMEMBERED: usize = 10_000;
/// Steps that the conditions of one request may take.
const STEPS: u64 = 2_500_000;

/// What the webhook says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// It may be done.
    Allow(String),
    /// It may not, whatever others say.
    Deny(String),
    /// Others decide.
    None(String),
}

/// How a webhook is asked.
pub struct Settings {
    /// Its name.
    pub name: String,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes counts.
    pub allowed_ttl: Duration,
    /// How long anything else counts.
    pub refused_ttl: Duration,
    /// How long one call may take.
    pub timeout: Duration,
    /// Failures refuse the request.
    pub fails_closed: bool,
    /// Expressions that must all hold for it to be asked.
    pub conditions: Vec<String>,
}

/// The webhook.
pub struct Webhook {
    remote: Remote,
    settings: Settings,
    conditions: Vec<(String, Program)>,
    answers: Expiring<Opinion>,
}

/// The names of match conditions.
fn env() -> Env {
    let texts = |names: &[&'static str]| names.iter().map(|name| (*name, Type::String)).collect::<Vec<_>>();
    let selector = || Type::object("kubernetes.Selector", vec![("rawSelector", Type::String), ("requirements", Type::list(Type::Dyn))]);
    let mut resource = texts(&["namespace", "verb", "group", "version", "resource", "subresource", "name"]);
    resource.extend([("fieldSelector", selector()), ("labelSelector", selector())]);
    let request = Type::object(
        "kubernetes.SubjectAccessReviewSpec",
        vec![
            ("resourceAttributes", Type::object("kubernetes.ResourceAttributes", resource)),
            ("nonResourceAttributes", Type::object("kubernetes.NonResourceAttributes", texts(&["path", "verb"]))),
            ("user", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::list(Type::String))),
            ("uid", Type::String),
        ],
    );
    Env::new(vec![("request", request)])
}

impl Webhook {
    /// The webhook of a kubeconfig file.
    ///
    /// # Errors
    /// When the file or a condition cannot be used.
    pub fn open(kubeconfig: &Path, settings: Settings) -> Result<Webhook, String> {
        let remote = Remote::of_kubeconfig(kubeconfig)?;
        let mut conditions = Vec::new();
        for (index, text) in settings.conditions.iter().enumerate() {
            let fail = |why: String| format!("matchConditions[{index}].expression: {why}");
            if settings.conditions[..index].contains(text) {
                return Err(fail("duplicate expression".into()));
            }
            let program = Program::compile(text, &env()).map_err(|why| fail(format!("compilation failed: {why}")))?;
            if !matches!(program.result, Type::Bool | Type::Dyn) {
                return Err(fail("must evaluate to bool".into()));
            }
            conditions.push((text.clone(), program));
        }
        Ok(Webhook { remote, settings, conditions, answers: Expiring::default() })
    }

    /// What it says about a request.
    pub async fn ask(&self, user: &User, attributes: &Attributes) -> Opinion {
        let spec = spec(user, attributes);
        match self.matches(&spec) {
            Ok(true) => {}
            Ok(false) => return Opinion::None(String::new()),
            Err(why) => return self.failed(&why),
        }
        let text = spec.to_string();
        let key = expiring::key(text.as_bytes());
        if let Some(opinion) = self.answers.get(&key) {
            return opinion;
        }
        let status = match self.review(spec).await {
            Ok(status) => status,
            Err(why) => return self.failed(&why),
        };
        let reason = status["reason"].as_str().unwrap_or("").to_owned();
        let opinion = match (status["denied"] == true, status["allowed"] == true) {
            (true, _) => Opinion::Deny(reason),
            (false, true) => Opinion::Allow(reason),
            (false, false) => Opinion::None(reason),
        };
        if text.len() < MAX_REMEMBERED {
            let is_allowed = matches!(opinion, Opinion::Allow(_));
            self.answers.put(key, opinion.clone(), if is_allowed { self.settings.allowed_ttl } else { self.settings.refused_ttl });
        }
        opinion
    }

    fn failed(&self, why: &str) -> Opinion {
        tracing::error!(webhook = %self.settings.name, %why, "the authorization webhook failed");
        if self.settings.fails_closed { Opinion::Deny(String::new()) } else { Opinion::None(String::new()) }
    }

    /// One condition that does not hold outweighs failures of the others.
    fn matches(&self, spec: &Value) -> Result<bool, String> {
        let budget = Budget::new(STEPS);
        let names = Names(vec![("request", Cel::from_json(spec))]);
        let mut failures = Vec::new();
        for (text, program) in &self.conditions {
            match evaluate(&program.expr, &names, &budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failures.push(format!("{text:?} gave no bool")),
                Err(failure) => failures.push(format!("{text:?}: {failure}")),
            }
        }
        if failures.is_empty() { Ok(true) } else { Err(failures.join(", ")) }
    }

    async fn review(&self, mut spec: Value) -> Result<Value, String> {
        if self.settings.version == "v1beta1" {
            if let Some(groups) = spec.as_object_mut().and_then(|spec| spec.remove("groups")) {
                spec["group"] = groups;
            }
        }
        let review = json!({
            "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{}", self.settings.version),
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let body = Bytes::from(review.to_string());
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let why = match self.remote.post(body.clone(), self.settings.timeout).await {
                Ok((200..300, bytes)) => {
                    let answer: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                    return Ok(answer["status"].clone());
                }
                Ok((code, _)) if code < 500 && code != 429 => return Err(format!("code {code}")),
                Ok((code, _)) => format!("code {code}"),
                Err(why) => why,
            };
            if attempt == ATTEMPTS {
                return Err(why);
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
            wait = wait * 3 / 2;
        }
    }
}

fn spec(user: &User, attributes: &Attributes) -> Value {
    let mut spec = json!({});
    let put = |spec: &mut Value, pairs: &[(&str, &str)]| {
        for (field, text) in pairs.iter().filter(|(_, text)| !text.is_empty()) {
            spec[*field] = (*text).into();
        }
    };
    put(&mut spec, &[("user", &user.name), ("uid", &user.uid)]);
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    let mut asked = json!({});
    if attributes.is_resource() {
        put(
            &mut asked,
            &[
                ("namespace", &attributes.namespace),
                ("verb", attributes.verb),
                ("group", &attributes.group),
                ("version", &attributes.version),
                ("resource", &attributes.resource),
                ("subresource", &attributes.subresource),
                ("name", &attributes.name),
            ],
        );
        spec["resourceAttributes"] = asked;
    } else {
        put(&mut asked, &[("path", &attributes.path), ("verb", attributes.verb)]);
        spec["nonResourceAttributes"] = asked;
    }
    spec
}
