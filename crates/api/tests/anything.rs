//! Whatever a client sends that fits the schema, nothing panics: random objects of every kind go through defaulting,
//! preparation, validation, warnings, columns and selectable fields.

use api::kinds::{self, Clock};
use api::read::Read;
use api::{Form, Object, Scalar, Shape, Type, normal, resources, types};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

const TEXTS: [&str; 28] = [
    "",
    "a",
    "A_b",
    "x.y/z",
    "-",
    "..",
    "/",
    "//a",
    "a b",
    "None",
    "Always",
    "Indexed",
    "10%",
    "1Gi",
    "-5",
    "1.2.3.4",
    "::1",
    "10.0.0.0/8",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "*/5 * * * *",
    "@every 1h",
    "https://a/b?c#d",
    "é\u{1f600}",
    "LoadBalancer",
    "metadata.labels['a']",
    "Localhost",
    "0",
];

fn text(rng: &mut StdRng, enumeration: &[Box<str>]) -> Value {
    if !enumeration.is_empty() && rng.random_bool(0.6) {
        return enumeration[rng.random_range(0..enumeration.len())].to_string().into();
    }
    TEXTS[rng.random_range(0..TEXTS.len())].into()
}

fn number(rng: &mut StdRng) -> i64 {
    [0, 1, -1, 2, 80, 443, 70_000, 100_001, i64::from(i32::MAX), i64::MIN, i64::MAX][rng.random_range(0..11)]
}

fn shape(rng: &mut StdRng, shape: &Shape, enumeration: &[Box<str>], depth: u32) -> Value {
    match shape {
        Shape::Scalar(Scalar::String | Scalar::Bytes) => text(rng, enumeration),
        Shape::Scalar(Scalar::Bool) => rng.random_bool(0.5).into(),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64) => number(rng).into(),
        Shape::Scalar(Scalar::Float64) => 1.5.into(),
        Shape::List(inner) => (0..rng.random_range(0..3)).map(|_| self::shape(rng, inner, enumeration, depth)).collect(),
        Shape::Map(inner) => {
            let pairs = (0..rng.random_range(0..3))
                .map(|_| (TEXTS[rng.random_range(0..TEXTS.len())].to_owned(), self::shape(rng, inner, &[], depth)));
            Value::Object(pairs.collect())
        }
        Shape::Ref(schema) => match schema.form {
            Form::Struct => Value::Object(structure(rng, schema, depth + 1)),
            Form::Quantity => ["1", "-1Gi", "500m", "0", "1e30", "9999999999999E", "1n"][rng.random_range(0..7)].into(),
            Form::Time | Form::MicroTime => {
                [json!(null), json!("2026-01-01T00:00:00Z"), json!("1969-12-31T00:00:00.5Z")][rng.random_range(0..3)].clone()
            }
            Form::IntOrString => {
                if rng.random_bool(0.5) {
                    number(rng).into()
                } else {
                    text(rng, &[])
                }
            }
            Form::RawExtension | Form::FieldsV1 => json!({"a": 1}),
            Form::SchemaOrArray => {
                if rng.random_bool(0.5) {
                    json!([{"type": "string"}])
                } else {
                    json!({"type": "string"})
                }
            }
            _ => [json!(null), json!(true), json!({"x": []}), json!("y"), json!([1])][rng.random_range(0..5)].clone(),
        },
    }
}

fn structure(rng: &mut StdRng, schema: &Type, depth: u32) -> Map<String, Value> {
    let likely = if depth < 4 {
        0.7
    } else if depth < 9 {
        0.35
    } else {
        0.0
    };
    let mut map = Map::new();
    for field in &schema.fields {
        if rng.random_bool(likely) {
            let value = if rng.random_bool(0.03) { Value::Null } else { shape(rng, &field.shape, &field.enumeration, depth) };
            map.insert(field.name.to_string(), value);
        }
    }
    map
}

#[test]
fn nothing_panics() {
    let mut rng = StdRng::seed_from_u64(36);
    for round in 0..12 {
        for resource in resources::builtin() {
            let kind = kinds::of(resource);
            let mut make = || {
                let mut object = Object(structure(&mut rng, &resource.schema, 0));
                object.set_kind(&resource.api_version(), &resource.kind);
                if round % 2 == 0 {
                    normal::normalize(&mut object.0, &resource.schema);
                }
                types::default(&mut object.0, &resource.schema);
                object
            };
            let (mut new, old) = (make(), make());
            let mut created = new.clone();
            (kind.prepare_create)(&mut created);
            normal::normalize(&mut created.0, &resource.schema);
            let _ = kinds::validate_create(resource, &created).joined();
            let mut status = new.clone();
            (kind.prepare_update)(&mut new, &old);
            let _ = kinds::validate_update(resource, &new, &old).joined();
            (kind.prepare_status_update)(&mut status, &old);
            let _ = kinds::validate_status_update(resource, &status, &old).joined();
            let _ = (kind.warnings)(&created);
            for object in [&created, &new, &status] {
                if let Some(columns) = kind.columns {
                    let cells = columns(object, &Clock { now: 1_800_000_000 });
                    // The real server tells the age of an address and has no head for it.
                    let more = usize::from(&*resource.kind == "IPAddress");
                    assert!(resource.columns.is_empty() || cells.len() == resource.columns.len() + more);
                }
                for one in kind.selectable {
                    let _ = (one.value)(object);
                }
                let mut again = object.clone();
                types::default(&mut again.0, &resource.schema);
                normal::normalize(&mut again.0, &resource.schema);
                let once = again.clone();
                types::default(&mut again.0, &resource.schema);
                normal::normalize(&mut again.0, &resource.schema);
                assert_eq!(again, once, "defaulting a {} twice changes it", resource.kind);
            }
            let mut causes = api::Causes::default();
            if &*resource.kind == "Pod" {
                use api::kinds::core::pod;
                pod::validate_ephemeral_containers(&new, &old, &mut causes);
                pod::validate_resize(&new, &old, &mut causes);
                let _ = (api::pods::requests(created.map("spec")), api::pods::limits(created.map("spec")));
            }
            for to in ["autoscaling/v1", "autoscaling/v2", "v1", "events.k8s.io/v1"] {
                let _ = api::convert::convert(&mut new, to);
            }
        }
    }
}

#[test]
fn texts_never_panic() {
    let mut rng = StdRng::seed_from_u64(7);
    let letters: Vec<char> = "0123456789.-+eEinumkKMGTP*/, @hsé".chars().collect();
    for _ in 0..200_000 {
        let length = rng.random_range(0..14);
        let text: String = (0..length).map(|_| letters[rng.random_range(0..letters.len())]).collect();
        if let Some(quantity) = api::Quantity::parse(&text) {
            let canonical = quantity.to_string();
            let again = api::Quantity::parse(&canonical);
            assert!(again == Some(quantity) || quantity.nano().unsigned_abs() > 1 << 90, "{text} {canonical}");
            let _ = (quantity.value(), quantity.milli(), quantity.add(quantity), quantity.sub(quantity));
        }
        let _ = api::cron::Schedule::parse(&text);
        let _ = (api::names::qualified_name_errors(&text), api::names::label_errors(&text), api::names::config_key_errors(&text));
    }
}
