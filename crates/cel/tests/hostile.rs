//! Hostile expressions: no panic, no deep stack, no long run, whatever the text is.

use std::time::Duration;

use cel::{Budget, Env, Names, Program, Type, Value, evaluate, parse};
use proptest::prelude::*;
use serde_json::json;

/// Most time of a processor that an expression may take, not optimized. The clock would measure other programs, too.
const LONG: Duration = Duration::from_secs(10);

/// Time of a processor that this thread has used.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Evaluates on a stack as small as that of a worker thread, within the time that is allowed.
fn on_a_small_stack(text: String) -> Result<(), String> {
    let name = text[..text.len().min(60)].to_owned();
    let run = move || {
        let object = json!({"a": {"b": [1, 2, 3]}, "s": "text"});
        let env = Env::new(vec![("object", Type::Dyn)]);
        let program = Program::compile(&text, &env)?;
        let names = Names(vec![("object", Value::from_json(&object))]);
        evaluate(&program.expr, &names, &Budget::new(Budget::PER_CALL)).map(drop).map_err(|failure| failure.to_string())
    };
    let timed = move || (run(), own_time());
    let (outcome, took) = std::thread::Builder::new().stack_size(2 << 20).spawn(timed).expect("a thread").join().expect("no panic");
    assert!(took < LONG, "{name} took {took:?}");
    outcome
}

#[test]
fn the_deepest_trees_fit_the_stack() {
    let cases = [
        ("sum", format!("1{}", " + 1".repeat(248))),
        ("select", format!("object{}", ".a".repeat(249))),
        ("brackets", format!("{}1{}", "(".repeat(99), ")".repeat(99))),
        ("lists", format!("{}1{}", "[".repeat(99), "]".repeat(99))),
        ("maps", format!("{}1{}", "{1: ".repeat(99), "}".repeat(99))),
        ("calls", format!("{}1{}", "dyn(".repeat(99), ")".repeat(99))),
        ("conditions", format!("{}1", "true ? 1 : ".repeat(99))),
        ("macros", format!("{}true{}", "[1].all(x, ".repeat(99), ")".repeat(99))),
        ("maps of lists", format!("{}1{}", "[1].map(x, ".repeat(98), ")".repeat(98))),
        ("optional", format!("object{}", ".?a".repeat(249))),
    ];
    for (name, text) in cases {
        if let Err(error) = on_a_small_stack(text) {
            assert!(!error.contains("recursion limit"), "{name}: {error}");
        }
    }
}

#[test]
fn costs_end_long_runs() {
    let numbers = "[0,1,2,3,4,5,6,7,8,9]";
    let nested = (0..8).fold("1".to_owned(), |inner, level| format!("{numbers}.map(x{level}, {inner})"));
    let doubling = (0..30).fold("'x'".to_owned(), |inner, level| format!("[{inner}].map(v{level}, v{level} + v{level})[0]"));
    let pattern = format!("'{}'.matches('{}')", "a".repeat(20_000), "(a?){50}".repeat(40));
    // Patterns are matched in linear time, so this one may well be allowed; it just must not take long.
    let _ = on_a_small_stack(pattern);
    for text in [
        nested,
        doubling,
        "lists.range(1000000).map(x, string(x)).join(',')".into(),
        "[1].map(x, lists.range(999999)).flatten().sort()".into(),
    ] {
        let error = on_a_small_stack(text.clone()).expect_err(&text[..text.len().min(60)]);
        assert!(error.contains("cost limit"), "{error}");
    }
}

/// Pieces of expressions, put together at random.
fn pieces() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "object",
        "a",
        "1",
        "2u",
        "1.5",
        "'x'",
        "b'y'",
        "true",
        "null",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "in",
        "has",
        "size",
        ".all",
        ".map",
        ".filter",
        "(x,",
        "x",
        "type",
        "duration('1h')",
        "timestamp('2024-01-01T00:00:00Z')",
        ".a",
        ".b",
        ".?a",
        "[?0]",
        "string",
        ".format",
        ".split(',')",
        "quantity('1')",
        "optional.of(1)",
        ".orValue(2)",
        "'%s'",
        ".exists(",
        "-9223372036854775808",
    ]);
    proptest::collection::vec(piece, 1..24).prop_map(|parts| parts.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn anything_can_be_parsed(text in ".{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn what_parses_can_be_evaluated(text in pieces()) {
        let object = json!({"a": {"b": [1, 2, 3]}, "s": "text"});
        if let Ok(expr) = parse(&text) {
            let names = Names(vec![("object", Value::from_json(&object)), ("a", Value::Int(1))]);
            if let Ok(value) = evaluate(&expr, &names, &Budget::new(100_000)) {
                let _ = (value.to_json(), value.to_text(), value.type_name());
                prop_assert!(!matches!(value.compare(&value), Some(order) if order.is_ne()));
            }
            let _ = Program::compile(&text, &Env::new(vec![("object", Type::Dyn)]));
        }
    }
}
