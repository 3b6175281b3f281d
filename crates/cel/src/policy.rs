//! Admission policies and match conditions: what their expressions may use, and what comes of evaluating them.
//!
//! This module knows no server: whoever admits a request gathers the objects, and does with the verdicts what
//! bindings say.

use std::sync::{Arc, Mutex};

use serde_json::Value as Json;

use crate::check::{Env, Program};
use crate::eval::{Budget, Failure, Names, evaluate};
use crate::types::Type;
use crate::value::{Host, Value};

/// Longest message that an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;

/// What is known about a request.
#[derive(Clone)]
pub struct Facts<'a> {
    /// The new object; none for deletions.
    pub object: Option<&'a Json>,
    /// The object before; none for creations.
    pub old_object: Option<&'a Json>,
    /// The request as webhooks see it, without the objects.
    pub request: &'a Json,
    /// The parameters of the binding.
    pub params: Option<&'a Json>,
    /// The namespace of the object.
    pub namespace: Option<&'a Json>,
    /// Answers what the user may do.
    pub authorizer: Option<Arc<dyn Host<'a> + 'a>>,
}

/// An expression that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where in the policy, for example `spec.validations[0].expression`.
    pub path: String,
    /// The expression.
    pub text: String,
    /// What is wrong with it.
    pub message: String,
}

/// Conditions under which a policy or webhook is asked at all.
#[derive(Debug, Clone)]
pub struct Conditions(Vec<(String, Program)>);

/// A compiled policy, validating or mutating.
#[derive(Debug, Clone)]
pub struct Policy {
    conditions: Conditions,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Program)>,
    mutations: Vec<Mutation>,
}

#[derive(Debug, Clone)]
struct Validation {
    text: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    reason: String,
}

#[derive(Debug, Clone)]
enum Mutation {
    Apply(Program),
    JsonPatch(Program),
}

/// What one validation or mutation came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It holds.
    Admit,
    /// It does not hold: message and reason.
    Deny(String, String),
    /// The expression failed; the failure policy says what that means.
    Error(String),
}

/// A change that a mutating policy asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A configuration to be applied by ownership rules of lists and maps.
    Apply(Json),
    /// A JSON patch.
    JsonPatch(Json),
}

/// The names of admission expressions.
fn env(params: bool, variables: Vec<(String, Type)>) -> Env {
    let kind =
        || Type::object("kubernetes.GroupVersionKind", vec![("group", Type::String), ("version", Type::String), ("kind", Type::String)]);
    let resource = || {
        Type::object(
            "kubernetes.GroupVersionResource",
            vec![("group", Type::String), ("version", Type::String), ("resource", Type::String)],
        )
    };
    let user = Type::object(
        "kubernetes.UserInfo",
        vec![
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::list(Type::String))),
        ],
    );
    let request = Type::object(
        "kubernetes.AdmissionRequest",
        vec![
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", Type::String),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
            ("uid", Type::String),
        ],
    );
    let mut env = Env::new(vec![
        ("object", Type::Dyn),
        ("oldObject", Type::Dyn),
        ("request", request),
        ("namespaceObject", Type::Dyn),
        ("authorizer", Type::Library("kubernetes.authorization.Authorizer")),
    ]);
    if params {
        env.names.push(("params".into(), Type::Dyn));
    }
    if !variables.is_empty() {
        let object = crate::types::ObjectType { name: "kubernetes.variables".into(), fields: variables, open: false };
        env.names.push(("variables".into(), Type::Object(Arc::new(object))));
    }
    env
}

struct Compiler {
    env: Env,
    faults: Vec<Fault>,
}

impl Compiler {
    fn compile(&mut self, text: &str, path: String, wanted: &[Type]) -> Option<Program> {
        let message = if text.trim().is_empty() {
            return None;
        } else {
            match Program::compile(text, &self.env) {
                Err(error) => format!("compilation failed: {error}"),
                Ok(program) if wanted.is_empty() || wanted.iter().any(|wanted| program.result.fits(wanted)) => return Some(program),
                Ok(_) => match wanted {
                    [one] => format!("must evaluate to {one}"),
                    many => format!("must evaluate to one of [{}]", many.iter().map(Type::to_string).collect::<Vec<_>>().join(" ")),
                },
            }
        };
        self.faults.push(Fault { path, text: text.to_owned(), message });
        None
    }

    fn conditions(&mut self, list: &Json, path: &str) -> Conditions {
        let mut all = Vec::new();
        for (index, condition) in items(list).enumerate() {
            let program = self.compile(text(condition, "expression"), format!("{path}[{index}].expression"), &[Type::Bool]);
            all.extend(program.map(|program| (text(condition, "name").to_owned(), program)));
        }
        Conditions(all)
    }
}

fn items(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

/// What is doubtful about a policy when its objects are of a kind: the path and the error of each expression, in the
/// order of the policy. Nothing of it keeps the policy from being used, since the kind may not be the only one.
pub fn type_check(spec: &Json, object: &Type, params: Option<&Type>) -> Vec<(String, String)> {
    let typed = |types: &[(String, Type)]| {
        let mut env = env(spec.get("paramKind").is_some_and(|kind| !kind.is_null()), types.to_vec());
        for (name, declared) in &mut env.names {
            match name.as_str() {
                "object" | "oldObject" => *declared = object.clone(),
                "params" => *declared = params.cloned().unwrap_or(Type::Dyn),
                _ => {}
            }
        }
        env
    };
    let mut warnings = Vec::new();
    let mut check = |env: &Env, path: String, expression: &str| match Program::compile(expression, env) {
        _ if expression.trim().is_empty() => Type::Dyn,
        Ok(program) => program.result,
        Err(error) => {
            warnings.push((path, error));
            Type::Dyn
        }
    };
    let mut types: Vec<(String, Type)> = Vec::new();
    for (index, variable) in items(&spec["variables"]).enumerate() {
        let result = check(&typed(&types), format!("spec.variables[{index}].expression"), text(variable, "expression"));
        types.push((text(variable, "name").to_owned(), result));
    }
    let env = typed(&types);
    for (index, validation) in items(&spec["validations"]).enumerate() {
        for field in ["expression", "messageExpression"] {
            check(&env, format!("spec.validations[{index}].{field}"), text(validation, field));
        }
    }
    for (index, condition) in items(&spec["matchConditions"]).enumerate() {
        check(&env, format!("spec.matchConditions[{index}].expression"), text(condition, "expression"));
    }
    for (index, annotation) in items(&spec["auditAnnotations"]).enumerate() {
        check(&env, format!("spec.auditAnnotations[{index}].valueExpression"), text(annotation, "valueExpression"));
    }
    warnings
}

fn text<'j>(value: &'j Json, field: &str) -> &'j str {
    value.get(field).and_then(Json::as_str).unwrap_or("")
}

impl Conditions {
    /// Compiles `matchConditions` of a webhook; `path` is where they stand.
    pub fn compile(list: &Json, path: &str) -> Result<Conditions, Vec<Fault>> {
        let mut compiler = Compiler { env: env(false, Vec::new()), faults: Vec::new() };
        let conditions = compiler.conditions(list, path);
        if compiler.faults.is_empty() { Ok(conditions) } else { Err(compiler.faults) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not hold outweighs failures of the others.
    pub fn hold(&self, facts: &Facts) -> Result<bool, String> {
        self.hold_in(&names(facts), &Budget::new(2_500_000))
    }

    fn hold_in(&self, names: &Names, budget: &Budget) -> Result<bool, String> {
        let mut errors = Vec::new();
        for (name, program) in &self.0 {
            match evaluate(&program.expr, names, budget) {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(Value::Bool(true)) => {}
                Ok(_) => errors.push(format!("failed to evaluate match condition {name:?}: no such overload")),
                Err(failure) => errors.push(failure.to_string()),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(errors.join(", ")) }
    }
}

impl Policy {
    /// Compiles the `spec` of a policy. All faults are found at once.
    pub fn compile(spec: &Json) -> Result<Policy, Vec<Fault>> {
        let params = spec.get("paramKind").is_some_and(|kind| !kind.is_null());
        let mut compiler = Compiler { env: env(params, Vec::new()), faults: Vec::new() };
        let conditions = compiler.conditions(&spec["matchConditions"], "spec.matchConditions");
        let mut variables = Vec::new();
        let mut types: Vec<(String, Type)> = Vec::new();
        for (index, variable) in items(&spec["variables"]).enumerate() {
            let program = compiler.compile(text(variable, "expression"), format!("spec.variables[{index}].expression"), &[]);
            let name = text(variable, "name").to_owned();
            // A variable may use those before it.
            types.push((name.clone(), program.as_ref().map_or(Type::Dyn, |program| program.result.clone())));
            compiler.env = env(params, types.clone());
            variables.extend(program.map(|program| (name, program)));
        }
        let mut validations = Vec::new();
        for (index, validation) in items(&spec["validations"]).enumerate() {
            let path = format!("spec.validations[{index}]");
            let program = compiler.compile(text(validation, "expression"), format!("{path}.expression"), &[Type::Bool]);
            let message_program =
                compiler.compile(text(validation, "messageExpression"), format!("{path}.messageExpression"), &[Type::String]);
            validations.extend(program.map(|program| Validation {
                text: text(validation, "expression").trim().to_owned(),
                program,
                message: text(validation, "message").trim().to_owned(),
                message_program,
                reason: text(validation, "reason").to_owned(),
            }));
        }
        let mut annotations = Vec::new();
        for (index, annotation) in items(&spec["auditAnnotations"]).enumerate() {
            let path = format!("spec.auditAnnotations[{index}].valueExpression");
            let program = compiler.compile(text(annotation, "valueExpression"), path, &[Type::String, Type::Null]);
            annotations.extend(program.map(|program| (text(annotation, "key").to_owned(), program)));
        }
        let mut mutations = Vec::new();
        for (index, mutation) in items(&spec["mutations"]).enumerate() {
            let part = |field: &str| mutation.get(field).map_or("", |part| text(part, "expression"));
            let apply = compiler.compile(part("applyConfiguration"), format!("spec.mutations[{index}].applyConfiguration.expression"), &[]);
            let patch =
                compiler.compile(part("jsonPatch"), format!("spec.mutations[{index}].jsonPatch.expression"), &[Type::list(Type::Dyn)]);
            mutations.extend(apply.map(Mutation::Apply).or(patch.map(Mutation::JsonPatch)));
        }
        if !compiler.faults.is_empty() {
            return Err(compiler.faults);
        }
        Ok(Policy { conditions, variables, validations, annotations, mutations })
    }

    /// Whether the conditions of the policy hold.
    pub fn matches(&self, facts: &Facts) -> Result<bool, String> {
        self.conditions.hold(facts)
    }

    /// The verdict of each validation.
    pub fn validate<'a>(&'a self, facts: &Facts<'a>) -> Vec<Verdict> {
        let budget = Budget::new(Budget::PER_CALL * 10);
        let names = self.names(facts);
        let verdict = |validation: &Validation| match evaluate(&validation.program.expr, &names, &budget) {
            Ok(Value::Bool(true)) => Verdict::Admit,
            Ok(Value::Bool(false)) => Verdict::Deny(self.message(validation, &names, &budget), validation.reason.clone()),
            Ok(_) => Verdict::Error(format!("expression '{}' resulted in error: no such overload", validation.text)),
            Err(failure) => Verdict::Error(format!("expression '{}' resulted in error: {failure}", validation.text)),
        };
        self.validations.iter().map(verdict).collect()
    }

    /// The annotations for the audit log.
    pub fn audit<'a>(&'a self, facts: &Facts<'a>) -> Vec<(String, Result<String, String>)> {
        let budget = Budget::new(Budget::PER_CALL);
        let names = self.names(facts);
        let value = |program: &Program| match evaluate(&program.expr, &names, &budget) {
            Ok(Value::String(text)) => Some(Ok(text.trim().to_owned())).filter(|text| text.as_ref().is_ok_and(|text| !text.is_empty())),
            Ok(_) => None,
            Err(failure) => Some(Err(failure.to_string())),
        };
        self.annotations.iter().filter_map(|(key, program)| Some((key.clone(), value(program)?))).collect()
    }

    /// How many mutations there are. Each sees what those before it made.
    pub fn mutations(&self) -> usize {
        self.mutations.len()
    }

    /// The change of one mutation.
    pub fn mutate<'a>(&'a self, index: usize, facts: &Facts<'a>) -> Result<Change, String> {
        let budget = Budget::new(Budget::PER_CALL);
        let names = self.names(facts);
        let value = |program: &Program| {
            let value = evaluate(&program.expr, &names, &budget).map_err(|failure| failure.to_string())?;
            value.to_json().ok_or_else(|| format!("unexpected type {}", value.type_name()))
        };
        match self.mutations.get(index) {
            Some(Mutation::Apply(program)) => value(program).map(Change::Apply),
            Some(Mutation::JsonPatch(program)) => value(program).map(Change::JsonPatch),
            None => Err("no such mutation".into()),
        }
    }

    fn message(&self, validation: &Validation, names: &Names, budget: &Budget) -> String {
        let computed = validation.message_program.as_ref().and_then(|program| match evaluate(&program.expr, names, budget) {
            Ok(Value::String(text)) => Some(text.trim().to_owned()),
            _ => None,
        });
        let usable = computed.filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n'));
        let fixed = || Some(validation.message.clone()).filter(|text| !text.is_empty());
        usable.or_else(fixed).unwrap_or_else(|| format!("failed expression: {}", validation.text))
    }

    fn names<'p: 'a, 'a>(&'p self, facts: &Facts<'a>) -> Names<'p, 'a> {
        let mut names = names(facts);
        if !self.variables.is_empty() {
            let state = State { policy: self, facts: facts.clone(), values: Mutex::new(Vec::new()) };
            names.0.push(("variables", Value::Host(Arc::new(Variables(Arc::new(state))))));
        }
        names
    }
}

fn names<'n, 'a>(facts: &Facts<'a>) -> Names<'n, 'a> {
    let value = |json: Option<&'a Json>| json.map_or(Value::Null, Value::from_json);
    let mut names = vec![
        ("object", value(facts.object)),
        ("oldObject", value(facts.old_object)),
        ("request", Value::from_json(facts.request)),
        ("namespaceObject", value(facts.namespace)),
        ("params", value(facts.params)),
    ];
    names.extend(facts.authorizer.clone().map(|authorizer| ("authorizer", Value::Host(authorizer))));
    Names(names)
}

/// The variables of a policy, each evaluated once, in their order, when one of them is used.
struct Variables<'a>(Arc<State<'a>>);

struct State<'a> {
    policy: &'a Policy,
    facts: Facts<'a>,
    /// Values of the first variables; those not yet needed are not there yet.
    values: Mutex<Vec<Result<Value<'a>, Failure>>>,
}

impl<'a> State<'a> {
    fn value(&self, index: usize) -> Option<Result<Value<'a>, Failure>> {
        self.values.lock().ok()?.get(index).cloned()
    }
}

impl<'a> Host<'a> for Variables<'a> {
    fn type_name(&self) -> &'static str {
        "kubernetes.variables"
    }

    fn field(&self, name: &str) -> Option<Result<Value<'a>, Failure>> {
        let state = &self.0;
        let variables = &state.policy.variables;
        let index = variables.iter().position(|(known, _)| known == name)?;
        if let Some(value) = state.value(index) {
            return Some(value);
        }
        // A variable only uses those before it. Going up in order keeps the stack flat however long the chain is.
        let mut names = names(&state.facts);
        names.0.push(("variables", Value::Host(Arc::new(Variables(state.clone())))));
        loop {
            let next = state.values.lock().ok()?.len();
            if next > index {
                return state.value(index);
            }
            let (name, program) = &variables[next];
            let result = evaluate(&program.expr, &names, &Budget::new(Budget::PER_CALL))
                .map_err(|failure| Failure::new(format!("composited variable {name:?} fails to evaluate: {failure}")));
            state.values.lock().ok()?.push(result);
        }
    }

    fn call(&self, _: &str, _: &[Value<'a>]) -> Option<Result<Value<'a>, Failure>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts<'a>(object: &'a Json, request: &'a Json, params: Option<&'a Json>) -> Facts<'a> {
        Facts { object: Some(object), old_object: None, request, params, namespace: None, authorizer: None }
    }

    #[test]
    fn validating() {
        let policy = Policy::compile(&json!({
            "paramKind": {"kind": "Limit"},
            "matchConditions": [{"name": "c", "expression": "request.operation == 'CREATE'"}],
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}, {"name": "twice", "expression": "variables.replicas * 2"}],
            "validations": [
                {"expression": "variables.twice <= params.max", "messageExpression": "'at most ' + string(params.max)", "reason": "Forbidden"},
                {"expression": "object.metadata.name != 'bad'", "message": " not bad "},
                {"expression": "object.none == 1"},
            ],
            "auditAnnotations": [{"key": "k", "valueExpression": "string(variables.replicas)"}],
        }))
        .expect("the policy compiles");
        let (object, params) = (json!({"metadata": {"name": "bad"}, "spec": {"replicas": 5}}), json!({"max": 4}));
        let request = json!({"operation": "CREATE"});
        let facts = facts(&object, &request, Some(&params));
        assert_eq!(policy.matches(&facts), Ok(true));
        assert_eq!(
            policy.validate(&facts),
            [
                Verdict::Deny("at most 4".into(), "Forbidden".into()),
                Verdict::Deny("not bad".into(), String::new()),
                Verdict::Error("expression 'object.none == 1' resulted in error: no such key: none".into()),
            ]
        );
        assert_eq!(policy.audit(&facts), [("k".to_owned(), Ok("5".to_owned()))]);
    }

    #[test]
    fn mutating() {
        let policy = Policy::compile(&json!({"mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: object.metadata.name}]"}},
        ]}))
        .expect("the policy compiles");
        let (object, request) = (json!({"metadata": {"name": "n"}}), json!({}));
        let facts = facts(&object, &request, None);
        assert_eq!(policy.mutate(0, &facts), Ok(Change::Apply(json!({"metadata": {"labels": {"a": "b"}}}))));
        assert_eq!(policy.mutate(1, &facts), Ok(Change::JsonPatch(json!([{"op": "add", "path": "/metadata/labels/x~1y", "value": "n"}]))));
    }

    #[test]
    fn types_of_kinds() {
        let deployment = crate::types::of_schema(&api::schema::builtin("apps.v1.Deployment").expect("the table has deployments"));
        let spec = json!({
            "variables": [{"name": "r", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "object.spec.replicas > '1'", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
                {"expression": "variables.r > 1 && object.spec.template.spec.containers.all(c, c.image.startsWith('x'))"},
                {"expression": "object.spec.nope == 1"},
            ],
        });
        let found = type_check(&spec, &deployment, None);
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["spec.validations[0].expression", "spec.validations[0].messageExpression", "spec.validations[2].expression"]);
        assert!(found[0].1.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{}", found[0].1);
        assert!(found[1].1.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{}", found[1].1);
        // Types that hold themselves end.
        crate::types::of_schema(
            &api::schema::builtin("apiextensions-apiserver.apiextensions.v1.CustomResourceDefinition").expect("in the table"),
        );
    }

    #[test]
    fn faults() {
        let faults = Policy::compile(&json!({
            "matchConditions": [{"name": "c", "expression": "1"}],
            "variables": [{"name": "v", "expression": "variables.w"}, {"name": "w", "expression": "1"}],
            "validations": [{"expression": "params.x == 1"}, {"expression": "variables.nope"}, {"expression": "'a'", "messageExpression": "1"}],
        }))
        .expect_err("nothing of it is right");
        let found: Vec<(&str, bool)> =
            faults.iter().map(|fault| (fault.path.as_str(), fault.message.contains("must evaluate to"))).collect();
        assert_eq!(
            found,
            [
                ("spec.matchConditions[0].expression", true),
                ("spec.variables[0].expression", false),
                ("spec.validations[0].expression", false),
                ("spec.validations[1].expression", false),
                ("spec.validations[2].expression", true),
                ("spec.validations[2].messageExpression", true),
            ]
        );
    }
}
