//! Laws of the codecs over arbitrary input: no panic, and what was read once is read again the same.

use api::schema::{Form, Scalar, Shape, Type, builtin, builtin_types};
use api::{Object, TypeRef};
use codec::{Strictness, json, protobuf, yaml};
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use serde_json::{Map, Value};

/// A value that fits a type, a few levels deep.
fn fitting(schema: &TypeRef, depth: u32) -> BoxedStrategy<Value> {
    match schema.form {
        Form::Struct => fields(schema, depth),
        Form::Quantity => prop_oneof![Just("1"), Just("100m"), Just("1.5Gi"), Just("0")].prop_map(Value::from).boxed(),
        Form::Time => prop_oneof![Just(Value::Null), Just(Value::from("2024-02-29T12:00:00+01:00"))].boxed(),
        Form::MicroTime => prop_oneof![Just(Value::Null), Just(Value::from("2024-02-29T12:00:00.123456Z"))].boxed(),
        Form::IntOrString => prop_oneof![any::<i32>().prop_map(Value::from), "[a-z%]{0,5}".prop_map(Value::from)].boxed(),
        Form::RawExtension | Form::FieldsV1 | Form::Json => Just(serde_json::json!({"a": [1, "x", null, true]})).boxed(),
        Form::SchemaOrBool => any::<bool>().prop_map(Value::from).boxed(),
        Form::SchemaOrArray | Form::SchemaOrStrings | Form::Duration | Form::Alias => Just(Value::Null).boxed(),
    }
}

fn fields(schema: &TypeRef, depth: u32) -> BoxedStrategy<Value> {
    let mut strategy = Just(Map::new()).boxed();
    for field in &schema.fields {
        if depth == 0 && !matches!(field.shape, Shape::Scalar(_)) {
            continue;
        }
        let (name, value) = (field.name.to_string(), shape(&field.shape, depth));
        strategy = (strategy, proptest::option::weighted(0.3, value))
            .prop_map(move |(mut map, value)| {
                map.extend(value.map(|value| (name.clone(), value)));
                map
            })
            .boxed();
    }
    strategy.prop_map(Value::Object).boxed()
}

fn shape(shape_of: &Shape, depth: u32) -> BoxedStrategy<Value> {
    let less = depth.saturating_sub(1);
    match shape_of {
        Shape::Scalar(Scalar::String) => "[a-z \"\\\\é\n:]{0,6}".prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Bool) => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Int32) => any::<i32>().prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Int64) => any::<i64>().prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Float64) => (-1.0e6..1.0e6f64).prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Bytes) => prop_oneof![Just(""), Just("aGk="), Just("/+8=")].prop_map(Value::from).boxed(),
        Shape::Ref(type_ref) => fitting(type_ref, less),
        Shape::List(inner) => proptest::collection::vec(shape(inner, less), 0..3).prop_map(Value::from).boxed(),
        Shape::Map(inner) => proptest::collection::vec(("[a-z./]{1,4}", shape(inner, less)), 0..3)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
            .boxed(),
    }
}

/// A few kinds that have between them every form of the table.
const KINDS: [&str; 7] = [
    "core.v1.Pod",
    "core.v1.Service",
    "apps.v1.Deployment",
    "core.v1.Event",
    "core.v1.Secret",
    "authorization.v1.SubjectAccessReview",
    "apiextensions-apiserver.apiextensions.v1.CustomResourceDefinition",
];

fn kinds() -> BoxedStrategy<(TypeRef, Value)> {
    proptest::sample::select(&KINDS[..])
        .prop_flat_map(|name| {
            let schema = builtin(name).expect("the kind is in the table");
            fields(&schema, 5).prop_map(move |value| (schema.clone(), value))
        })
        .boxed()
}

fn normal(value: Value, schema: &Type) -> Object {
    let mut object = json::decode_value(value, schema, Strictness::Strict).expect("the value fits").object;
    codec::normalize(&mut object, schema);
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_encodings_agree((schema, value) in kinds()) {
        let object = normal(value, &schema);
        let message = protobuf::message(&object, &schema).expect("a normal object has a message");
        let mut read = Object(protobuf::decode_message(&message, &schema).expect("our own message"));
        codec::normalize(&mut read, &schema);
        for field in ["apiVersion", "kind"] {
            if let Some(value) = object.get(field) {
                read.0.insert(field.into(), value.clone());
            }
        }
        // Kinds inside a kind do not travel in protobuf.
        if !json::encode(&object).windows(6).any(|part| part == b"\"kind\"") {
            prop_assert_eq!(&read, &object);
        }
        let text = yaml::encode(&Value::Object(object.0.clone()));
        prop_assert_eq!(yaml::parse(text.as_bytes()), Ok(Value::Object(object.0.clone())), "{}", text);
        prop_assert_eq!(json::parse(&json::encode(&object)), Ok(Value::Object(object.0)));
    }

    #[test]
    fn broken_messages_are_errors((schema, value) in kinds(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut message = protobuf::message(&normal(value, &schema), &schema).expect("a normal object has a message");
        prop_assume!(!message.is_empty());
        let place = at.index(message.len());
        message[place] = byte;
        let _ = protobuf::decode_message(&message, &schema);
        message.truncate(cut.index(message.len()));
        let _ = protobuf::decode_message(&message, &schema);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), pick in any::<prop::sample::Index>()) {
        let types: Vec<TypeRef> = builtin_types().map(|(_, schema)| schema).collect();
        let schema = pick.get(&types);
        let _ = protobuf::decode_message(&bytes, schema);
        let _ = protobuf::open(&[&b"k8s\0"[..], &bytes].concat());
        let _ = json::decode(&bytes, schema, Strictness::Warn);
        let _ = yaml::decode(&bytes, schema, Strictness::Warn);
    }

    #[test]
    fn any_text(text in "[\\[\\]{}\",:\\\\a-z0-9.eE+\\- \n\t&*|>!#']{0,80}") {
        let ours = json::parse(text.as_bytes());
        let other = serde_json::from_str::<Value>(&text);
        prop_assert_eq!(ours.is_ok(), other.is_ok(), "{:?} {:?}", ours, other);
        let _ = yaml::parse_all(text.as_bytes());
    }
}
