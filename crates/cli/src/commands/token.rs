//! `knarr token`: bootstrap tokens, with which further nodes join.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::Subcommand;
use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use pki::{BootstrapToken, ServerToken};
use serde_json::{Value, json};

use super::wait::seconds;
use crate::access::{Access, Cluster};
use crate::table::columns_of;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a token and print the line with which a node joins.
    Create {
        /// How long it is good, for example 30m or 24h; 0 is for ever.
        #[arg(long, default_value = "24h", value_parser = seconds)]
        ttl: Duration,
        /// What the token is for.
        #[arg(long, default_value = "made by knarr token create")]
        description: String,
        /// Address that nodes reach the server at; else what the cluster says of itself.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Form of the output.
        #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
        output: String,
    },
    /// List tokens.
    #[command(visible_alias = "ls")]
    List {
        /// Form of the output.
        #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
        output: String,
    },
    /// Delete tokens by id or by their text.
    #[command(visible_alias = "rm")]
    Delete {
        /// Ids or whole tokens.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let cluster = flags.access.connect()?;
    match flags.verb {
        Verb::Create { ttl, description, server, output } => {
            let token = create(&cluster, ttl, &description).await?;
            let server = match server {
                Some(server) => server,
                None => address(&cluster).await?,
            };
            let pinned = ServerToken::pinned(&authority(&cluster).await?, &token).to_text();
            if output == "json" {
                println!("{}", serde_json::to_string_pretty(&json!({"id": token.id, "token": pinned, "server": server}))?);
            } else {
                println!("knarr agent --server {server} --token {pinned}");
            }
        }
        Verb::List { output } => list(&cluster, &output).await?,
        Verb::Delete { tokens } => {
            for token in tokens {
                let id = id_of(&token)?;
                cluster.client.call(Method::DELETE, &format!("{SECRETS}/bootstrap-token-{id}"), &Value::Null).await?;
                println!("{id} deleted");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(cluster: &Cluster, ttl: Duration, description: &str) -> Result<BootstrapToken> {
    let token = BootstrapToken::generate();
    let mut data = json!({
        "token-id": token.id, "token-secret": token.secret, "description": description,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
    });
    if !ttl.is_zero() {
        let end = Timestamp::now() + SignedDuration::from_secs(i64::try_from(ttl.as_secs())?);
        data["expiration"] = end.round(jiff::Unit::Second)?.to_string().into();
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "stringData": data,
    });
    cluster.client.call(Method::POST, SECRETS, &secret).await.context("make the token's Secret")?;
    Ok(token)
}

/// Where nodes reach the server: the endpoints of the Service `kubernetes`.
async fn address(cluster: &Cluster) -> Result<String> {
    let slices = cluster
        .get(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes",
            "application/json",
        )
        .await?;
    let slice = &slices["items"][0];
    match (slice["endpoints"][0]["addresses"][0].as_str(), slice["ports"][0]["port"].as_u64()) {
        (Some(address), Some(port)) if address.contains(':') => Ok(format!("https://[{address}]:{port}")),
        (Some(address), Some(port)) => Ok(format!("https://{address}:{port}")),
        _ => bail!("the cluster does not say where its server is; give --server"),
    }
}

/// The authorities as the server hands them to joining nodes, for the token pins exactly these bytes.
async fn authority(cluster: &Cluster) -> Result<String> {
    let answer = cluster.client.transport().call(Request::get("/cacerts").body(Bytes::new())?).await?;
    String::from_utf8(answer.into_body().to_vec()).context("the authorities are no PEM")
}

async fn list(cluster: &Cluster, output: &str) -> Result<()> {
    let secrets = cluster.get(&format!("{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"), "application/json").await?;
    let secrets = secrets["items"].as_array().map_or(&[][..], Vec::as_slice);
    let field = |secret: &Value, name: &str| {
        let bytes = secret["data"][name].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    if output == "json" {
        let tokens: Vec<Value> = secrets.iter().map(|secret| json!({"id": field(secret, "token-id"), "expiration": field(secret, "expiration"), "description": field(secret, "description")})).collect();
        println!("{}", serde_json::to_string_pretty(&tokens)?);
        return Ok(());
    }
    let mut lines = vec![["ID", "EXPIRES", "DESCRIPTION"].map(str::to_owned).to_vec()];
    for secret in secrets {
        let expires = field(secret, "expiration");
        let expires = if expires.is_empty() { "<never>".to_owned() } else { expires };
        lines.push(vec![field(secret, "token-id"), expires, field(secret, "description")]);
    }
    print!("{}", columns_of(&lines));
    Ok(())
}

/// The id inside an id, a token or a joining token.
fn id_of(text: &str) -> Result<String> {
    if text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    let token = ServerToken::parse(text).ok().and_then(|token| token.bootstrap());
    token.map(|token| token.id).with_context(|| format!("{text:?} is neither the id of a token nor a token"))
}

#[cfg(test)]
mod tests {
    use super::id_of;

    #[test]
    fn ids_are_found_in_every_form() {
        for text in ["abcdef", "abcdef.0123456789abcdef", &format!("K10{}::abcdef.0123456789abcdef", "a".repeat(64))] {
            assert_eq!(id_of(text).expect(text), "abcdef");
        }
        assert!(id_of("no token").is_err());
    }
}
