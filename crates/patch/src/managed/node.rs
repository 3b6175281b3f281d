//! How a place in an object is owned: as a whole, by its fields, or by its items.

use std::collections::BTreeMap;

use api::schema::{Field, Form, ListType, Shape, Type};
use serde_json::Value;

use super::field_set::Step;

/// Ownership at one place of a type.
#[derive(Clone, Copy)]
pub(super) enum Node<'t> {
    /// A scalar, or anything that is owned as a whole.
    Leaf,
    /// An object with declared fields.
    Fields(&'t Type),
    /// A map whose values are owned one by one.
    Values(&'t Shape),
    /// A list of scalars that is a set.
    Set,
    /// A list whose items have keys.
    Keyed(&'t Field, &'t Shape),
    /// Unknown to the schema: maps by their keys, all else as a whole.
    Deduced,
}

/// What a value at a place is made of.
pub(super) enum Parts {
    /// Nothing: a leaf.
    None,
    /// Fields or keys.
    Map,
    /// Items.
    List,
}

impl<'t> Node<'t> {
    /// A value of a type.
    pub(super) fn of_type(schema: &'t Type) -> Node<'t> {
        match schema.form {
            Form::Struct if schema.atomic => Node::Leaf,
            Form::Struct => Node::Fields(schema),
            Form::Alias => schema.fields.first().map_or(Node::Deduced, Node::of_field),
            _ => Node::Leaf,
        }
    }

    fn of_shape(shape: &'t Shape) -> Node<'t> {
        match shape {
            Shape::Ref(type_ref) => Node::of_type(type_ref),
            Shape::Map(inner) => Node::Values(inner),
            Shape::Scalar(_) | Shape::List(_) => Node::Leaf,
        }
    }

    pub(super) fn of_field(field: &'t Field) -> Node<'t> {
        match &field.shape {
            _ if field.atomic => Node::Leaf,
            Shape::Ref(type_ref) if field.granular() => Node::Fields(type_ref),
            Shape::List(inner) => match field.list_type {
                ListType::Atomic => Node::Leaf,
                ListType::Set => Node::Set,
                ListType::Map => Node::Keyed(field, inner),
            },
            shape => Node::of_shape(shape),
        }
    }

    /// Whether a field of that name is declared here.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self, Node::Fields(schema) if schema.field(name).is_some())
    }

    /// The place of a field or key.
    pub(super) fn field(self, name: &str) -> Node<'t> {
        match self {
            Node::Fields(schema) => schema.field(name).map_or(Node::Deduced, Node::of_field),
            Node::Values(shape) => Node::of_shape(shape),
            _ => Node::Deduced,
        }
    }

    /// The place of an item.
    pub(super) fn item(self) -> Node<'t> {
        match self {
            Node::Keyed(_, shape) => Node::of_shape(shape),
            _ => Node::Leaf,
        }
    }

    /// What has to be looked at below two values (absent, or of whatever kind) at this place. Where both are empty or
    /// null the place is a leaf, so that the difference between empty and null is seen.
    pub(super) fn parts(self, left: Option<&Value>, right: Option<&Value>) -> Parts {
        let any = |test: fn(&Value) -> bool| left.is_some_and(test) || right.is_some_and(test);
        let full_map = |value: &Value| value.as_object().is_some_and(|map| !map.is_empty());
        let full_list = |value: &Value| value.as_array().is_some_and(|items| !items.is_empty());
        match self {
            Node::Leaf => Parts::None,
            Node::Fields(_) | Node::Values(_) if any(full_map) => Parts::Map,
            Node::Deduced if any(full_map) && !any(|value| !value.is_object() && !value.is_null()) => Parts::Map,
            Node::Set | Node::Keyed(..) if any(full_list) => Parts::List,
            _ => Parts::None,
        }
    }

    /// How an item of a list is named; the error says what is wrong with it.
    pub(super) fn step_of(self, item: &Value) -> Result<Step, String> {
        match self {
            Node::Keyed(field, shape) => {
                let Value::Object(map) = item else {
                    return Err(if item.is_null() {
                        "associative list with keys may not have a null element".into()
                    } else {
                        "associative list with keys may not have non-map elements".into()
                    });
                };
                let mut keys: BTreeMap<&str, &Value> = BTreeMap::new();
                for key in &field.list_map_keys {
                    let default = || match shape {
                        Shape::Ref(type_ref) => type_ref.field(key)?.default.as_ref(),
                        _ => None,
                    };
                    if let Some(value) = map.get(&**key).or_else(default) {
                        keys.insert(key, value);
                    }
                }
                if keys.is_empty() {
                    let names = field.list_map_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" ");
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{names}] (and doesn't have default values for any key fields)"
                    ));
                }
                Ok(Step::keys(&keys))
            }
            _ => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                item => Ok(Step::value(item)),
            },
        }
    }
}
