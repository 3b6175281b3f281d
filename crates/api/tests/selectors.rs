//! Laws of selectors: no text breaks the parsers, and what they read means what it says.

use std::collections::BTreeMap;

use api::{FieldSelector, LabelSelector};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A requirement as documentation words it, beside what it means.
#[derive(Clone, Debug)]
enum Wish {
    Is(String),
    IsNot(String),
    AnyOf(Vec<String>),
    NoneOf(Vec<String>),
    There,
    Away,
    Above(i64),
    Below(i64),
}

impl Wish {
    fn text(&self, key: &str) -> String {
        match self {
            Wish::Is(value) => format!("{key}={value}"),
            Wish::IsNot(value) => format!("{key} != {value}"),
            Wish::AnyOf(values) => format!("{key} in ({})", values.join(",")),
            Wish::NoneOf(values) => format!("{key} notin ( {} )", values.join(", ")),
            Wish::There => key.into(),
            Wish::Away => format!("!{key}"),
            Wish::Above(bound) => format!("{key}>{bound}"),
            Wish::Below(bound) => format!("{key} < {bound}"),
        }
    }

    fn holds(&self, value: Option<&String>) -> bool {
        let number = value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Wish::Is(wanted) => value == Some(wanted),
            Wish::IsNot(refused) => value != Some(refused),
            Wish::AnyOf(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Wish::NoneOf(refused) => !value.is_some_and(|value| refused.contains(value)),
            Wish::There => value.is_some(),
            Wish::Away => value.is_none(),
            Wish::Above(bound) => number.is_some_and(|number| number > *bound),
            Wish::Below(bound) => number.is_some_and(|number| number < *bound),
        }
    }

    /// The requirement of a `LabelSelector` object; it has no bounds.
    fn expression(&self, key: &str) -> Option<Value> {
        let (operator, values) = match self {
            Wish::Is(value) => ("In", vec![value.clone()]),
            Wish::IsNot(value) => ("NotIn", vec![value.clone()]),
            Wish::AnyOf(values) => ("In", values.clone()),
            Wish::NoneOf(values) => ("NotIn", values.clone()),
            Wish::There => ("Exists", Vec::new()),
            Wish::Away => ("DoesNotExist", Vec::new()),
            Wish::Above(_) | Wish::Below(_) => return None,
        };
        Some(json!({"key": key, "operator": operator, "values": values}))
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "app", "example.com/tier"]).prop_map(String::from)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["x", "y", "v1.2_3", "5", "7"]).prop_map(String::from)
}

fn wish() -> impl Strategy<Value = Wish> {
    let values = || prop::collection::vec(value(), 1..4);
    prop_oneof![
        value().prop_map(Wish::Is),
        value().prop_map(Wish::IsNot),
        values().prop_map(Wish::AnyOf),
        values().prop_map(Wish::NoneOf),
        Just(Wish::There),
        Just(Wish::Away),
        (0..9i64).prop_map(Wish::Above),
        (0..9i64).prop_map(Wish::Below),
    ]
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let sorted: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let direct = selector.matches(|key| labels.get(key).map(String::as_str));
    assert_eq!(selector.matches_sorted(&sorted), direct, "both ways to look labels up agree");
    direct
}

proptest! {
    #[test]
    fn label_selectors_mean_what_they_say(
        wishes in prop::collection::vec((key(), wish()), 0..5),
        labels in prop::collection::btree_map(key(), value(), 0..4),
    ) {
        let text = wishes.iter().map(|(key, wish)| wish.text(key)).collect::<Vec<_>>().join(",");
        let parsed = LabelSelector::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let expected = wishes.iter().all(|(key, wish)| wish.holds(labels.get(key)));
        prop_assert_eq!(matches(&parsed, &labels), expected, "{} of {:?}", text, labels);

        let expressions: Vec<Value> = wishes.iter().filter_map(|(key, wish)| wish.expression(key)).collect();
        let bounded = wishes.iter().filter(|(key, wish)| wish.expression(key).is_some());
        let object = json!({"matchExpressions": expressions});
        let read = LabelSelector::from_value(&object).unwrap_or_else(|error| panic!("{object}: {error}"));
        let expected = bounded.clone().all(|(key, wish)| wish.holds(labels.get(key)));
        prop_assert_eq!(matches(&read, &labels), expected, "{} of {:?}", object, labels);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-c=!,()<> \\\\./0-9_innotexists-]{0,40}", other in "\\PC{0,30}") {
        for text in [text, other] {
            if let Ok(selector) = LabelSelector::parse(&text) {
                matches(&selector, &BTreeMap::from([("a".to_owned(), "5".to_owned())]));
            }
            if let Ok(selector) = FieldSelector::parse(&text) {
                selector.matches(|_| "");
            }
            let _ = LabelSelector::from_value(&json!({"matchLabels": {&text: &text}, "matchExpressions": [{"key": &text, "operator": &text, "values": [&text]}]}));
        }
    }

    #[test]
    fn field_selectors_mean_what_they_say(
        terms in prop::collection::vec(("[a-z.]{1,8}", "[a-z,=\\\\! ]{0,8}", any::<bool>()), 0..4),
        found in prop::sample::select(vec!["", "a", ",", "=", "\\"]),
    ) {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        let term = |(field, value, equal): &(String, String, bool)| format!("{field}{}{}", if *equal { "=" } else { "!=" }, escaped(value));
        let text = terms.iter().map(term).collect::<Vec<_>>().join(",");
        let parsed = FieldSelector::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let read: Vec<_> = parsed.0.iter().map(|one| (one.field.clone(), one.value.clone(), one.equal)).collect();
        prop_assert_eq!(&read, &terms, "{}", text);
        prop_assert_eq!(parsed.matches(|_| found), terms.iter().all(|(_, value, equal)| (value == found) == *equal));
    }
}
