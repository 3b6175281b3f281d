//! Decoding as clients see it: messages, strict field validation, canonical forms, limits.

use std::time::Duration;

use api::schema::{Form, Shape, Structural, Type, TypeRef, builtin};
use codec::{DecodeError, Strictness, json, protobuf, yaml};
use serde_json::{Value, json};

fn schema(name: &str) -> TypeRef {
    builtin(name).unwrap_or_else(|| panic!("{name} is in the table"))
}

#[test]
fn messages() {
    let cases = [
        (
            "core.v1.ConfigMap",
            r#"{"metadata":{"name":"x","foo":"bar"},"data":{"a":"b"},"dat":{}}"#,
            r#"strict decoding error: unknown field "metadata.foo", unknown field "dat""#,
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"containers":[{"name":"a","imag":"x"}],"nodeName":"a","nodeName":"b"}}"#,
            r#"strict decoding error: unknown field "spec.containers[0].imag", duplicate field "spec.nodeName""#,
        ),
        ("core.v1.ConfigMap", r#"{"data":{"a":"1","a":"2"}}"#, r#"strict decoding error: duplicate field "data.a""#),
        ("core.v1.ConfigMap", r#"{"DATA":{"a":"1"}}"#, r#"strict decoding error: unknown field "DATA""#),
        (
            "apps.v1.Deployment",
            r#"{"spec":{"replicas":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps.v1.Deployment",
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        ("core.v1.Pod", r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        ("core.v1.Pod", "[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            "core.v1.Pod",
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        ("core.v1.Secret", r#"{"data":{"a":"!"}}"#, "illegal base64 data at input byte 0"),
        ("core.v1.Pod", "", "couldn't get version/kind; json parse error: unexpected end of JSON input"),
        ("core.v1.Pod", "{\"a\" 1}", "couldn't get version/kind; json parse error: invalid character '1' after object key"),
        ("core.v1.Pod", "{} x", "couldn't get version/kind; json parse error: invalid character 'x' after top-level value"),
        (
            "core.v1.Pod",
            "{\"a\":nul}",
            "couldn't get version/kind; json parse error: invalid character '}' in literal null (expecting 'l')",
        ),
    ];
    for (name, text, expected) in cases {
        let error = json::decode(text.as_bytes(), &schema(name), Strictness::Strict).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let error = DecodeError::Strict(vec!["unknown field \"a\"".into()]).status("v1", "Pod");
    assert_eq!(error.message, "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"a\"");
}

#[test]
fn strictness() {
    let text = br#"{"kind":"ConfigMap","x":1,"data":{"a":"1","a":"2"}}"#;
    let warned = json::decode(text, &schema("core.v1.ConfigMap"), Strictness::Warn).expect("a warning only");
    assert_eq!(warned.problems, ["unknown field \"x\"", "duplicate field \"data.a\""]);
    assert_eq!(Value::Object(warned.object.0), json!({"kind": "ConfigMap", "data": {"a": "2"}}));
    let ignored = json::decode(text, &schema("core.v1.ConfigMap"), Strictness::Ignore).expect("nothing to say");
    assert!(ignored.problems.is_empty());
    let error = yaml::decode(b"data:\n  a: x\n  a: z\n", &schema("core.v1.ConfigMap"), Strictness::Strict).expect_err("a duplicate key");
    assert_eq!(error.to_string(), "strict decoding error: yaml: unmarshal errors:\n  line 3: key \"a\" already set in map");
}

#[test]
fn go_round_trip() {
    let cases = [
        (
            "core.v1.Container",
            json!({"name": "a", "tty": false, "args": [], "env": null, "livenessProbe": {}}),
            json!({"name": "a", "resources": {}, "livenessProbe": {}}),
        ),
        (
            "core.v1.ResourceRequirements",
            json!({"limits": {"cpu": 1, "memory": "1024Mi", "x": null}}),
            json!({"limits": {"cpu": "1", "memory": "1Gi", "x": "0"}}),
        ),
        (
            "apps.v1.DeploymentSpec",
            json!({"replicas": 0, "paused": false, "template": {}}),
            json!({"replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}),
        ),
        ("core.v1.ServicePort", json!({"port": 80}), json!({"port": 80, "targetPort": 0})),
        ("apis.meta.v1.ObjectMeta", json!({"name": "x", "creationTimestamp": null, "labels": {}}), json!({"name": "x"})),
        ("core.v1.ResourceFieldSelector", json!({"resource": "limits.cpu"}), json!({"resource": "limits.cpu", "divisor": "0"})),
        (
            "core.v1.Event",
            json!({"involvedObject": {}, "metadata": {}, "eventTime": "2024-01-01T01:00:00.5+01:00"}),
            json!({"involvedObject": {}, "metadata": {}, "source": {}, "firstTimestamp": null, "lastTimestamp": null, "eventTime": "2024-01-01T00:00:00.500000Z", "reportingComponent": "", "reportingInstance": ""}),
        ),
        ("core.v1.Secret", json!({"metadata": {}, "data": {"a": "aGk="}, "type": ""}), json!({"metadata": {}, "data": {"a": "aGk="}})),
    ];
    for (name, value, expected) in cases {
        let schema = schema(name);
        let mut object = json::decode_value(value, &schema, Strictness::Strict).unwrap_or_else(|error| panic!("{name}: {error}")).object;
        codec::normalize(&mut object, &schema);
        assert_eq!(Value::Object(object.0.clone()), expected, "{name}");
        let again = object.clone();
        codec::normalize(&mut object, &schema);
        assert_eq!(object, again, "{name}");
    }
}

#[test]
fn custom_resources() {
    let structural = |structural: Structural| Some(Box::new(structural));
    let field = |name: &str, shape: Shape| api::Field {
        name: name.into(),
        number: 0,
        embedded: Vec::new(),
        shape,
        omit_empty: true,
        pointer: true,
        required: false,
        list_type: Default::default(),
        list_map_keys: Vec::new(),
        patch_merge: false,
        patch_retain_keys: false,
        merge_key: "".into(),
        atomic: false,
        default: None,
        enumeration: Vec::new(),
    };
    let own = |fields: Vec<api::Field>, preserve_unknown: bool| Type {
        name: "".into(),
        form: Form::Struct,
        fields,
        atomic: false,
        structural: structural(Structural { preserve_unknown, ..Structural::default() }),
    };
    let open = TypeRef::Own(std::sync::Arc::new(own(Vec::new(), true)));
    let size = field("size", Shape::Scalar(api::Scalar::Int64));
    let root = own(vec![field("metadata", Shape::Ref(schema("apis.meta.v1.ObjectMeta"))), field("open", Shape::Ref(open)), size], false);
    let text = br#"{"metadata":{"name":"x","bad":1},"open":{"any":[1,2.0,1e3]},"size":"not a number","gone":true}"#;
    let decoded = json::decode(text, &root, Strictness::Warn).expect("wrong types are left to validation");
    assert_eq!(decoded.problems, ["unknown field \"metadata.bad\"", "unknown field \"gone\""]);
    let expected = json!({"metadata": {"name": "x"}, "open": {"any": [1, 2, 1000]}, "size": "not a number"});
    assert_eq!(Value::Object(decoded.object.0), expected);
}

#[test]
fn yaml_values() {
    let text = b"a: 0644\nb: 1e3\nc: yes\nd: \"0644\"\ne: 1.5\nf: 2001-01-01\ng: ~\nh: |\n  x\n  y\n";
    let expected = json!({"a": 420, "b": 1000, "c": true, "d": "0644", "e": 1.5, "f": "2001-01-01", "g": null, "h": "x\ny\n"});
    assert_eq!(yaml::parse(text), Ok(expected));
    let documents = yaml::parse_all(b"a: 1\n---\n---\nb: 2\n").expect("two documents");
    assert_eq!(documents, [json!({"a": 1}), json!({"b": 2})]);
    let value = json!({"list": [{"a": "1", "b": ["x"]}, [], {}], "text": "a: b", "num": "1", "bool": "true", "empty": "", "lines": "a\n  b\n", "tail": "x\n\n", "null": null, "n": 1, "y": "y", "date": "2001-01-01", "star": "*x", "tab": "a\tb", "quote": "it's"});
    let written = yaml::encode(&value);
    assert_eq!(yaml::parse(written.as_bytes()), Ok(value), "{written}");
    assert!(written.contains("list:\n- a: \"1\"\n  b:\n  - x\n- []\n- {}\n"), "{written}");
}

/// Hostile input is refused soon, without a deep stack.
#[test]
fn limits() {
    let refused = |what: &str, parse: &dyn Fn() -> bool| {
        // Time of this thread, since a busy machine takes its time from everybody.
        let own_time = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let before = own_time();
        assert!(parse(), "{what} was accepted");
        let took = Duration::try_from(own_time() - before).expect("time goes on");
        assert!(took < Duration::from_millis(500), "{what} took {took:?}");
    };
    let pod = schema("core.v1.Pod");
    for nested in ["[".repeat(1_000_000), "{\"a\":".repeat(500_000), "{\"spec\":".repeat(300_000)] {
        refused("nested JSON", &|| {
            json::decode(nested.as_bytes(), &pod, Strictness::Strict).is_err() && json::parse(nested.as_bytes()).is_err()
        });
        refused("nested YAML", &|| yaml::parse(nested.as_bytes()).is_err());
    }
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    refused("an alias bomb", &|| yaml::parse(bomb.as_bytes()).is_err());
    let props = schema("apiextensions-apiserver.apiextensions.v1.JSONSchemaProps");
    refused("a deep message", &|| protobuf::decode_message(&deep_schema(), &props).is_err());
    for bytes in [&b"k8s\0\x0a\xff\xff\xff\xff\x0f"[..], b"k8s\0\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f", b"k8s\0\x0b", b"k8s", b""] {
        refused("a broken envelope", &|| protobuf::open(bytes).is_err());
    }
}

/// `not` (field 28) in itself, many times.
fn deep_schema() -> Vec<u8> {
    let mut message: Vec<u8> = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0xe2, 0x01];
        let mut length = message.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&message);
        message = outer;
    }
    message
}
