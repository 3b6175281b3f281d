//! From the claims of a token to a user: by the names of claims or by expressions, and the rules that both must meet.

use cel::{Budget, Env, Names, Program, Type, Value as Cel, evaluate};
use serde_json::{Value, json};

use super::config::{Jwt, Plain, Prefixed};
use crate::user::User;

/// Steps that all expressions of one token may take together.
const STEPS: u64 = 10_000_000;

/// What is compiled of a configuration.
pub(super) struct Mapper {
    username: Source,
    groups: Source,
    uid: Source,
    extra: Vec<(String, Program)>,
    required: Vec<(String, String)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
}

enum Source {
    None,
    Claim(String, String),
    Expression(Program),
}

struct Rule {
    text: String,
    message: String,
    program: Program,
}

fn claims_env() -> Env {
    Env::new(vec![("claims", Type::map(Type::Dyn))])
}

fn user_env() -> Env {
    let user = Type::object(
        "kubernetes.UserInfo",
        vec![
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::list(Type::String))),
        ],
    );
    Env::new(vec![("user", user)])
}

fn compile(text: &str, env: &Env, path: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = Program::compile(text, env).map_err(|why| format!("{path}: compilation failed: {why}"))?;
    if wanted.is_empty() || program.result == Type::Dyn || wanted.contains(&program.result) {
        return Ok(program);
    }
    Err(format!("{path}: must evaluate to {}", if wanted == [Type::Bool] { "bool" } else { "one of [string list dyn]" }))
}

impl Mapper {
    /// Compiles what a configuration says.
    ///
    /// # Errors
    /// The first expression that is wrong.
    pub(super) fn compile(jwt: &Jwt) -> Result<Mapper, String> {
        let mappings = &jwt.claim_mappings;
        let texts = [Type::String];
        let lists = [Type::String, Type::list(Type::String), Type::list(Type::Dyn)];
        let prefixed =
            |one: &Prefixed, path: &str, wanted: &[Type]| source(&one.claim, one.prefix.as_deref(), &one.expression, path, wanted);
        let Plain { claim, expression } = &mappings.uid;
        let mut extra = Vec::new();
        for (index, one) in mappings.extra.iter().enumerate() {
            let path = format!("claimMappings.extra[{index}].valueExpression");
            extra.push((one.key.clone(), compile(&one.value_expression, &claims_env(), &path, &lists)?));
        }
        let mut mapper = Mapper {
            username: prefixed(&mappings.username, "claimMappings.username.expression", &texts)?,
            groups: prefixed(&mappings.groups, "claimMappings.groups.expression", &lists)?,
            uid: source(claim, None, expression, "claimMappings.uid.expression", &texts)?,
            extra,
            required: Vec::new(),
            claim_rules: Vec::new(),
            user_rules: Vec::new(),
        };
        for (index, rule) in jwt.claim_validation_rules.iter().enumerate() {
            if !rule.claim.is_empty() {
                mapper.required.push((rule.claim.clone(), rule.required_value.clone()));
                continue;
            }
            let program = compile(&rule.expression, &claims_env(), &format!("claimValidationRules[{index}].expression"), &[Type::Bool])?;
            mapper.claim_rules.push(Rule { text: rule.expression.clone(), message: rule.message.clone(), program });
        }
        for (index, rule) in jwt.user_validation_rules.iter().enumerate() {
            let program = compile(&rule.expression, &user_env(), &format!("userValidationRules[{index}].expression"), &[Type::Bool])?;
            mapper.user_rules.push(Rule { text: rule.expression.clone(), message: rule.message.clone(), program });
        }
        Ok(mapper)
    }

    /// The user of verified claims.
    ///
    /// # Errors
    /// Which rule they break.
    pub(super) fn user(&self, claims: &Value) -> Result<User, String> {
        let budget = Budget::new(STEPS);
        let mut user = User { name: self.name(claims, &budget)?, ..User::default() };
        user.groups = self.groups.values(claims, &budget).map_err(|why| format!("oidc: error evaluating group claim: {why}"))?;
        user.uid = self
            .uid
            .values(claims, &budget)
            .map_err(|why| format!("oidc: error evaluating uid claim: {why}"))?
            .into_iter()
            .next()
            .unwrap_or_default();
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
        }
        for (key, program) in &self.extra {
            let values = strings(&run(program, "claims", claims, &budget)?)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {why}"))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            match claims.get(claim) {
                None => return Err(format!("oidc: required claim {claim} not present in ID token")),
                Some(found) if found == wanted.as_str() => {}
                Some(found) => return Err(format!("oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}")),
            }
        }
        check(&self.claim_rules, "claims", claims, &budget)
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        if !self.user_rules.is_empty() {
            let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            check(&self.user_rules, "user", &shown, &budget)
                .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
        Ok(user)
    }

    fn name(&self, claims: &Value, budget: &Budget) -> Result<String, String> {
        match &self.username {
            Source::Claim(claim, prefix) => {
                let name = claims[claim].as_str().ok_or_else(|| format!("oidc: parse username claims {claim:?}: claim not present"))?;
                if claim == "email" && claims.get("email_verified").is_some_and(|flag| *flag != true) {
                    return Err("oidc: email not verified".into());
                }
                Ok(format!("{prefix}{name}"))
            }
            Source::Expression(program) => {
                let found = run(program, "claims", claims, budget)
                    .map_err(|why| format!("oidc: error evaluating username claim expression: {why}"))?;
                let name = found
                    .as_str()
                    .ok_or("oidc: error evaluating username claim expression: username claim expression must return a string")?;
                if name.is_empty() {
                    return Err("oidc: empty username via CEL expression is not allowed".into());
                }
                Ok(name.to_owned())
            }
            Source::None => Err("oidc: no username".into()),
        }
    }
}

fn source(claim: &str, prefix: Option<&str>, expression: &str, path: &str, wanted: &[Type]) -> Result<Source, String> {
    if !claim.is_empty() {
        return Ok(Source::Claim(claim.to_owned(), prefix.unwrap_or("").to_owned()));
    }
    if expression.is_empty() {
        return Ok(Source::None);
    }
    Ok(Source::Expression(compile(expression, &claims_env(), path, wanted)?))
}

impl Source {
    /// A text or a list of texts; a claim that is not there is none.
    fn values(&self, claims: &Value, budget: &Budget) -> Result<Vec<String>, String> {
        match self {
            Source::None => Ok(Vec::new()),
            Source::Claim(claim, prefix) => match claims.get(claim) {
                None => Ok(Vec::new()),
                Some(Value::String(text)) => Ok(vec![format!("{prefix}{text}")]),
                Some(Value::Array(list)) => {
                    let text = |one: &Value| {
                        one.as_str().map(|text| format!("{prefix}{text}")).ok_or_else(|| format!("claim {claim:?} is no list of strings"))
                    };
                    list.iter().map(text).collect()
                }
                Some(_) => Err(format!("claim {claim:?} is neither a string nor a list of strings")),
            },
            Source::Expression(program) => strings(&run(program, "claims", claims, budget)?),
        }
    }
}

fn run(program: &Program, name: &'static str, value: &Value, budget: &Budget) -> Result<Value, String> {
    let names = Names(vec![(name, Cel::from_json(value))]);
    let found = evaluate(&program.expr, &names, budget).map_err(|failure| failure.to_string())?;
    found.to_json().ok_or_else(|| format!("unexpected type {}", found.type_name()))
}

/// What an expression gave, as texts; empty ones count as not there.
fn strings(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(Some(text.clone()).into_iter().filter(|text| !text.is_empty()).collect()),
        Value::Array(list) => {
            let all: Vec<&str> = list.iter().map(|one| one.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?;
            Ok(all.into_iter().filter(|text| !text.is_empty()).map(str::to_owned).collect())
        }
        _ => Err(wrong()),
    }
}

fn check(rules: &[Rule], name: &'static str, value: &Value, budget: &Budget) -> Result<(), String> {
    for rule in rules {
        match run(&rule.program, name, value, budget)? {
            Value::Bool(true) => {}
            Value::Bool(false) => return Err(format!("validation expression '{}' failed: {}", rule.text, rule.message)),
            _ => return Err("validation expression must return a boolean".into()),
        }
    }
    Ok(())
}
