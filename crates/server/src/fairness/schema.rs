//! Which flow a request belongs to: flow schemas, read once when they change so that matching only compares words.

use std::sync::Arc;

use api::Object;
use http::HeaderValue;
use serde_json::Value;

use super::flow::Flow;
use super::level::Level;
use crate::attributes::Attributes;
use crate::user::User;

/// A flow schema in force.
pub struct Schema {
    /// Its name.
    pub name: String,
    /// `matchingPrecedence`; the smallest wins.
    pub precedence: i64,
    /// For the header that names it.
    pub uid: HeaderValue,
    /// For the header that names its level.
    pub level_uid: HeaderValue,
    /// Where its requests wait.
    pub level: Arc<Level>,
    /// What is counted.
    pub flow: Arc<Flow>,
    /// What tells the flows of the schema apart.
    by: By,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

/// What of a schema does not depend on its level.
pub struct Read {
    /// Name of the level.
    pub level: String,
    /// `matchingPrecedence`.
    pub precedence: i64,
    by: By,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    User(Words),
    Group(Words),
    Account { namespace: String, name: Words },
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Words,
    groups: Words,
    resources: Words,
    cluster: bool,
    namespaces: Words,
}

#[derive(Debug)]
struct PathRule {
    verbs: Words,
    paths: Vec<String>,
}

/// A list of words, or every word.
#[derive(Debug)]
enum Words {
    All,
    Some(Vec<String>),
}

impl Words {
    fn of(value: &Value) -> Words {
        let words: Vec<String> = value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        if words.iter().any(|word| word == "*") { Words::All } else { Words::Some(words) }
    }

    fn one(value: &Value) -> Words {
        match value.as_str().unwrap_or("") {
            "*" => Words::All,
            word => Words::Some(vec![word.to_owned()]),
        }
    }

    fn has(&self, word: &str) -> bool {
        match self {
            Words::All => true,
            Words::Some(words) => words.iter().any(|one| one == word),
        }
    }
}

impl Read {
    /// Reads the object.
    pub fn of(object: &Object) -> Read {
        let spec = object.get("spec").cloned().unwrap_or_default();
        Read {
            level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or("").to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            by: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => By::User,
                Some("ByNamespace") => By::Namespace,
                _ => By::Nothing,
            },
            rules: list(&spec["rules"]).map(rule).collect(),
        }
    }

    /// The schema with its level.
    pub fn on(self, object: &Object, level: Arc<Level>, level_uid: HeaderValue, flow: Arc<Flow>) -> Schema {
        let uid = header(object.uid());
        Schema { name: object.name().to_owned(), precedence: self.precedence, uid, level_uid, level, flow, by: self.by, rules: self.rules }
    }
}

/// The value of a header that names an object.
pub fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn rule(value: &Value) -> Rule {
    let resource = |rule: &Value| ResourceRule {
        verbs: Words::of(&rule["verbs"]),
        groups: Words::of(&rule["apiGroups"]),
        resources: Words::of(&rule["resources"]),
        cluster: rule["clusterScope"] == true,
        namespaces: Words::of(&rule["namespaces"]),
    };
    let path = |rule: &Value| PathRule {
        verbs: Words::of(&rule["verbs"]),
        paths: list(&rule["nonResourceURLs"]).filter_map(|path| path.as_str().map(str::to_owned)).collect(),
    };
    Rule {
        subjects: list(&value["subjects"]).filter_map(subject).collect(),
        resources: list(&value["resourceRules"]).map(resource).collect(),
        paths: list(&value["nonResourceRules"]).map(path).collect(),
    }
}

fn subject(value: &Value) -> Option<Subject> {
    match value["kind"].as_str()? {
        "User" => Some(Subject::User(Words::one(&value["user"]["name"]))),
        "Group" => Some(Subject::Group(Words::one(&value["group"]["name"]))),
        "ServiceAccount" => {
            let account = &value["serviceAccount"];
            Some(Subject::Account { namespace: account["namespace"].as_str()?.to_owned(), name: Words::one(&account["name"]) })
        }
        _ => None,
    }
}

impl Schema {
    /// Whether a request belongs here.
    pub fn matches(&self, user: &User, attributes: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, attributes))
    }

    /// What tells the request's flow apart from others of the schema.
    pub fn distinguisher<'a>(&self, user: &'a User, attributes: &'a Attributes) -> &'a str {
        match self.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => &attributes.namespace,
        }
    }
}

impl Rule {
    fn matches(&self, user: &User, attributes: &Attributes) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if attributes.is_resource() {
            self.resources.iter().any(|rule| rule.matches(attributes))
        } else {
            self.paths.iter().any(|rule| rule.matches(attributes))
        }
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name.has(&user.name),
            Subject::Group(Words::All) => true,
            Subject::Group(Words::Some(names)) => names.iter().any(|name| user.in_group(name)),
            Subject::Account { namespace, name } => {
                user.account().is_some_and(|(in_namespace, account)| in_namespace == namespace && name.has(account))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let place = if attributes.namespace.is_empty() { self.cluster } else { self.namespaces.has(&attributes.namespace) };
        place && self.verbs.has(attributes.verb) && self.groups.has(&attributes.group) && self.names(attributes)
    }

    fn names(&self, attributes: &Attributes) -> bool {
        match &self.resources {
            Words::All => true,
            Words::Some(names) if attributes.subresource.is_empty() => names.contains(&attributes.resource),
            Words::Some(names) => names.iter().any(|name| {
                let parts = name.split_once('/');
                parts.is_some_and(|(resource, part)| resource == attributes.resource && part == attributes.subresource)
            }),
        }
    }
}

impl PathRule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let hit = |path: &String| match path.strip_suffix('*') {
            Some(start) => attributes.path.starts_with(start),
            None => *path == attributes.path,
        };
        self.verbs.has(attributes.verb) && self.paths.iter().any(hit)
    }
}
