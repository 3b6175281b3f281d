//! Long text in YAML is broken where Go's library breaks it, so that the output of both is the same to the byte.

use serde_json::json;

#[test]
fn lines_end_behind_the_eightieth_column() {
    let words = "0123456789 ".repeat(9);
    let words = words.trim_end();
    let long = "x".repeat(100);
    for (what, value, expected) in [
        ("plain", json!({"a": words}), format!("a: {}\n  0123456789\n", &words[..87])),
        ("quoted", json!({"a": format!("{words}: {words}")}), String::new()),
        ("without blanks", json!({"a": long}), format!("a: {long}\n")),
        ("short", json!({"a": "b c"}), "a: b c\n".to_owned()),
        ("nested", json!({"a": {"b": words}}), format!("a:\n  b: {}\n    {}\n", &words[..76], &words[77..])),
        ("in a list", json!({"a": [words]}), format!("a:\n- {}\n  0123456789\n", &words[..87])),
    ] {
        let written = codec::yaml::encode(&value);
        assert_eq!(codec::yaml::parse(written.as_bytes()).unwrap(), value, "{what}: {written}");
        if !expected.is_empty() {
            assert_eq!(written, expected, "{what}");
        }
    }
}
