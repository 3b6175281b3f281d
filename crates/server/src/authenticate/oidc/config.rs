//! The file `AuthenticationConfiguration`, and the flags that describe one issuer in its place.

use serde::Deserialize;

use crate::security::OidcSettings;

/// The file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    pub(super) jwt: Vec<Jwt>,
    pub(super) anonymous: Option<Anonymous>,
}

/// Which callers without credentials are served.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// Any at all.
    pub enabled: bool,
    /// Only for these paths, if there are some.
    #[serde(default)]
    pub conditions: Vec<AnonymousPath>,
}

/// One path.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AnonymousPath {
    /// The whole of it.
    pub path: String,
}

/// One issuer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Jwt {
    pub(super) issuer: Issuer,
    #[serde(default)]
    pub(super) claim_validation_rules: Vec<ClaimRule>,
    pub(super) claim_mappings: Mappings,
    #[serde(default)]
    pub(super) user_validation_rules: Vec<UserRule>,
    /// Only flags can say this.
    #[serde(skip)]
    pub(super) algorithms: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Issuer {
    pub(super) url: String,
    #[serde(rename = "discoveryURL")]
    pub(super) discovery_url: Option<String>,
    #[serde(default)]
    pub(super) certificate_authority: String,
    #[serde(default)]
    pub(super) audiences: Vec<String>,
    #[serde(default)]
    pub(super) audience_match_policy: String,
    #[serde(default)]
    pub(super) egress_selector_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClaimRule {
    pub(super) claim: String,
    pub(super) required_value: String,
    pub(super) expression: String,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mappings {
    pub(super) username: Prefixed,
    #[serde(default)]
    pub(super) groups: Prefixed,
    #[serde(default)]
    pub(super) uid: Plain,
    #[serde(default)]
    pub(super) extra: Vec<Extra>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Prefixed {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    pub(super) expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Plain {
    pub(super) claim: String,
    pub(super) expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Extra {
    pub(super) key: String,
    pub(super) value_expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRule {
    pub(super) expression: String,
    #[serde(default)]
    pub(super) message: String,
}

/// Reads a file and checks everything but its expressions. `taken` are issuers that nobody else may have.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(content: &[u8], taken: &[String]) -> Result<File, String> {
    let value = codec::yaml::parse(content).map_err(|error| error.to_string())?;
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let known = matches!(
        file.api_version.as_str(),
        "apiserver.config.k8s.io/v1" | "apiserver.config.k8s.io/v1beta1" | "apiserver.config.k8s.io/v1alpha1"
    );
    if !known || file.kind != "AuthenticationConfiguration" {
        return Err(format!(
            "expected AuthenticationConfiguration of apiserver.config.k8s.io/v1, got {} of {}",
            file.kind, file.api_version
        ));
    }
    if file.jwt.len() > 64 {
        return Err("jwt: must have at most 64 items".into());
    }
    if file.anonymous.as_ref().is_some_and(|anonymous| !anonymous.enabled && !anonymous.conditions.is_empty()) {
        return Err("anonymous.conditions: enabled should be set to true when conditions are defined".into());
    }
    let mut urls: Vec<&str> = Vec::new();
    for (index, jwt) in file.jwt.iter().enumerate() {
        check(jwt, taken).map_err(|why| format!("jwt[{index}].{why}"))?;
        for url in [Some(&jwt.issuer.url), jwt.issuer.discovery_url.as_ref()].into_iter().flatten() {
            if urls.contains(&url.as_str()) {
                return Err(format!("jwt[{index}].issuer: duplicate URL {url:?}"));
            }
            urls.push(url);
        }
    }
    Ok(file)
}

fn check(jwt: &Jwt, taken: &[String]) -> Result<(), String> {
    let issuer = &jwt.issuer;
    check_url(&issuer.url).map_err(|why| format!("issuer.url: {why}"))?;
    if taken.contains(&issuer.url) {
        return Err(format!("issuer.url: URL must not overlap with disallowed issuers: {taken:?}"));
    }
    if let Some(url) = &issuer.discovery_url {
        check_url(url).map_err(|why| format!("issuer.discoveryURL: {why}"))?;
        if url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
            return Err("issuer.discoveryURL: discoveryURL must be different from URL".into());
        }
    }
    if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
        return Err("issuer.audiences: at least one issuer.audiences is required".into());
    }
    match (issuer.audiences.len() > 1, issuer.audience_match_policy.as_str()) {
        (_, "MatchAny") | (false, "") => {}
        (true, _) => return Err("issuer.audienceMatchPolicy: audienceMatchPolicy must be MatchAny for multiple audiences".into()),
        (false, _) => return Err("issuer.audienceMatchPolicy: audienceMatchPolicy must be empty or MatchAny for single audience".into()),
    }
    if !issuer.egress_selector_type.is_empty() {
        return Err("issuer.egressSelectorType: egress selectors are not supported".into());
    }
    for (index, rule) in jwt.claim_validation_rules.iter().enumerate() {
        let why = match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => "claim and expression can't both be set",
            (true, true) => "claim or expression is required",
            (false, true) if !rule.message.is_empty() => "message: may not be specified when claim is set",
            (true, false) if !rule.required_value.is_empty() => "requiredValue: may not be specified when expression is set",
            _ => continue,
        };
        return Err(format!("claimValidationRules[{index}]: {why}"));
    }
    check_mappings(jwt)
}

fn check_mappings(jwt: &Jwt) -> Result<(), String> {
    let mappings = &jwt.claim_mappings;
    for (name, one, is_required) in [("username", &mappings.username, true), ("groups", &mappings.groups, false)] {
        let why = match (one.claim.is_empty(), one.expression.is_empty()) {
            (false, false) => "claim and expression can't both be set",
            (true, true) if is_required => "claim or expression is required",
            (true, false) if one.prefix.is_some() => "prefix: may not be specified when expression is set",
            (false, true) if one.prefix.is_none() => {
                "prefix: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
            }
            _ => continue,
        };
        return Err(format!("claimMappings.{name}: {why}"));
    }
    if !mappings.uid.claim.is_empty() && !mappings.uid.expression.is_empty() {
        return Err("claimMappings.uid: claim and expression can't both be set".into());
    }
    for (index, extra) in mappings.extra.iter().enumerate() {
        let fail = |why: &str| Err(format!("claimMappings.extra[{index}].key: {why}"));
        let domain = extra.key.split('/').next().unwrap_or("");
        if extra.key.is_empty() || !extra.key.contains('/') {
            return fail("must be a domain-prefixed path (such as acme.io/foo)");
        }
        if extra.key != extra.key.to_lowercase() {
            return fail("must be lowercase");
        }
        if ["k8s.io", "kubernetes.io"].iter().any(|reserved| domain == *reserved || domain.ends_with(&format!(".{reserved}"))) {
            return fail("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
        }
        if mappings.extra[..index].iter().any(|other| other.key == extra.key) {
            return fail("duplicate key");
        }
    }
    let mut others =
        mappings.extra.iter().map(|one| &one.value_expression).chain(jwt.claim_validation_rules.iter().map(|rule| &rule.expression));
    let uses_email = mappings.username.expression.replace("claims.email_verified", "").contains("claims.email");
    let checks_email =
        mappings.username.expression.contains("claims.email_verified") || others.any(|text| text.contains("claims.email_verified"));
    if uses_email && !checks_email {
        return Err("claimMappings.username.expression: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression".into());
    }
    Ok(())
}

fn check_url(text: &str) -> Result<(), String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    if url.scheme_str() != Some("https") {
        return Err("URL scheme must be https".into());
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("URL must not contain a username or password".into());
    }
    if url.query().is_some() {
        return Err("URL must not contain a query".into());
    }
    if text.contains('#') {
        return Err("URL must not contain a fragment".into());
    }
    Ok(())
}

/// The issuer that flags describe.
///
/// # Errors
/// When something is missing or wrong.
pub(super) fn of_flags(flags: &OidcSettings, taken: &[String]) -> Result<Jwt, String> {
    let certificate_authority = match &flags.ca_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("--oidc-ca-file {}: {error}", path.display()))?,
        None => String::new(),
    };
    let claim = if flags.username_claim.is_empty() { "sub" } else { &flags.username_claim };
    let prefix = match flags.username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
        _ if claim == "email" => String::new(),
        _ => format!("{}#", flags.issuer),
    };
    let groups = match flags.groups_claim.as_str() {
        "" => Prefixed::default(),
        claim => Prefixed { claim: claim.to_owned(), prefix: Some(flags.groups_prefix.clone()), expression: String::new() },
    };
    let required = flags.required_claims.iter();
    let jwt = Jwt {
        issuer: Issuer {
            url: flags.issuer.clone(),
            discovery_url: None,
            certificate_authority,
            audiences: vec![flags.client_id.clone()],
            audience_match_policy: String::new(),
            egress_selector_type: String::new(),
        },
        claim_validation_rules: required
            .map(|(claim, value)| ClaimRule { claim: claim.clone(), required_value: value.clone(), ..ClaimRule::default() })
            .collect(),
        claim_mappings: Mappings {
            username: Prefixed { claim: claim.to_owned(), prefix: Some(prefix), expression: String::new() },
            groups,
            uid: Plain::default(),
            extra: Vec::new(),
        },
        user_validation_rules: Vec::new(),
        algorithms: if flags.signing_algorithms.is_empty() { vec!["RS256".into()] } else { flags.signing_algorithms.clone() },
    };
    check(&jwt, taken)?;
    Ok(jwt)
}
