//! Expressions with their values, by library.

use serde_json::json;

use crate::value::Value;
use crate::{Budget, Names, parse};

use super::evaluate;

fn run(text: &str) -> Result<String, String> {
    let object = json!({
        "metadata": {"name": "web", "labels": {"app": "x", "a/b": "c"}},
        "spec": {"replicas": 3, "ratio": 0.5, "containers": [{"name": "a", "image": "reg/a:1"}, {"name": "b", "image": "reg/b"}]},
    });
    let expr = parse(text)?;
    let names = Names(vec![("object", Value::from_json(&object)), ("oldObject", Value::Null)]);
    let value = evaluate(&expr, &names, &Budget::new(Budget::PER_CALL)).map_err(|failure| failure.to_string())?;
    Ok(value.to_json().map_or_else(|| value.to_text().unwrap_or_else(|| value.type_name().into_owned()), |json| json.to_string()))
}

fn all_true(texts: &[&str]) {
    for text in texts {
        assert_eq!(run(text).as_deref(), Ok("true"), "{text}");
    }
}

#[test]
fn language() {
    all_true(&[
        "1 + 2 * 3 == 7 && 7 % 4 == 3 && -5 / 2 == -2 && 2.5 * 2.0 == 5.0",
        "1 == 1.0 && 1u == 1 && 2u < 3 && 1 < 1.5 && [1] == [1.0]",
        "1 != 'a' && !(1 == null) && null == null",
        "object.spec.replicas <= 5 && object.metadata.name == 'web'",
        "has(object.metadata.labels) && !has(object.metadata.annotations)",
        "'app' in object.metadata.labels && object.metadata.labels['a/b'] == 'c' && 2 in [1, 2]",
        "object.spec.containers.all(c, c.image.startsWith('reg/'))",
        "object.spec.containers.exists(c, c.name == 'b') && object.spec.containers.exists_one(c, c.name == 'a')",
        "object.spec.containers.map(c, c.name) == ['a', 'b'] && [1, 2, 3].filter(x, x > 1) == [2, 3] && [1, 2].map(x, x > 1, x * 2) == [4]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b']) && {'a': 1}.a == 1 && size({'a': 1}) == 1",
        "[1, 2].all(i, v, i + 1 == v) && {'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [3, 4].transformList(i, v, i * v) == [0, 4]",
        "{'a': 1}.transformMapEntry(k, v, {v: k}) == {1: 'a'} && ['b', 'a'].sortBy(x, x) == ['a', 'b']",
        "true || object.none && (1 / 0 == 1 || true)",
        "!(false && object.none.x)",
        "(object.spec.replicas > 2 ? 'many' : 'few') == 'many'",
        "object.?spec.?none.orValue(7) == 7 && object.?metadata.name.hasValue() && optional.none().or(optional.of(1)).value() == 1",
        "[?object.?none, 1] == [1] && {?'a': optional.none()} == {} && optional.of(2).optMap(x, x + 1).value() == 3",
        "type(1) == int && type('a') == string && type(timestamp('2024-01-01T00:00:00Z')) == google.protobuf.Timestamp",
        "int('5') == 5 && string(5) == '5' && double('1.5') == 1.5 && bytes('a') == b'a' && bool('true') && uint(3) == 3u",
        "string(1e100) == '1e+100' && string(0.00001) == '1e-05' && string(2.0) == '2'",
        "'ab' + 'c' == 'abc' && [1] + [2] == [1, 2] && size('é') == 1 && size(b'é') == 2",
        "oldObject == null",
    ]);
    assert_eq!(run("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}").as_deref(), Ok(r#"{"spec":{"replicas":4}}"#));
    assert_eq!(run("[JSONPatch{op: 'add', path: '/a', value: {'b': 1}}]").as_deref(), Ok(r#"[{"op":"add","path":"/a","value":{"b":1}}]"#));
}

#[test]
fn libraries() {
    all_true(&[
        "'hello'.contains('ell') && 'hello'.matches('^h.*o$') && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.substring(1, 3) == 'el'",
        "'Ab'.lowerAscii() == 'ab' && 'ab'.upperAscii() == 'AB' && ' a '.trim() == 'a' && 'aaa'.replace('a', 'b', 2) == 'bba'",
        "'%s is %d, %.2f, %x'.format(['x', 5, 1.5, 255]) == 'x is 5, 1.50, ff' && '%s'.format([[1, 'a']]) == '[1, a]'",
        "'abc 123'.find('[0-9]+') == '123' && '1 22'.findAll('[0-9]+') == ['1', '22'] && strings.quote('a\"') == '\"a\\\\\"\"'",
        "[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && ['a', 'b'].max() == 'b' && [1, 2].isSorted() && [1, 2].indexOf(2) == 1",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && [2, 1].sort() == [1, 2] && [1, 1].distinct() == [1] && lists.range(3) == [0, 1, 2] && [1, 2, 3].slice(1, 2) == [2]",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
        "timestamp('2024-02-29T12:30:00Z').getMonth() == 1 && timestamp('2024-02-29T23:30:00Z').getHours('+02:00') == 1",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h') && duration('1h30m').getMinutes() == 90 && string(duration('1.5s')) == '1.5s'",
        "timestamp('2024-01-01T00:00:00Z') + duration('1h') > timestamp('2024-01-01T00:30:00Z')",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('100m').add(quantity('900m')).asInteger() == 1 && isQuantity('5k') && !isQuantity('x')",
        "quantity('2').sub(3).sign() == -1 && quantity('1Ki').compareTo(quantity('1024')) == 0",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && ip('::1').isLoopback() && !isIP('1.2.3') && ip.isCanonical('10.0.0.1') && !isIP('::ffff:1.2.3.4')",
        "cidr('10.0.0.0/8').containsIP('10.1.1.1') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && isCIDR('::/0')",
        "url('https://u@h.example:8443/p/a?q=1&q=2').getHost() == 'h.example:8443' && url('https://[::1]:80/').getHostname() == '::1' && url('https://h/?q=1&q=2').getQuery() == {'q': ['1', '2']} && isURL('/x') && !isURL('x')",
        "semver('1.2.3').isGreaterThan(semver('1.2.3-rc.1')) && isSemver('v1.0', true) && !isSemver('v1.0') && semver('1.10.0').compareTo(semver('1.9.0')) == 1",
        "!format.dns1123Label().validate('ok').hasValue() && format.named('uuid').value().validate('x').value().size() == 1",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
}

#[test]
fn failures() {
    for (text, expected) in [
        ("object.none", "no such key: none"),
        ("object.spec.containers[5]", "index out of bounds: 5"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("1 + 'a'", "no such overload"),
        ("nothing", "no such attribute(s): nothing"),
        ("'a'.frob()", "no such overload"),
        ("int('x')", "type conversion error from 'string' to 'int': x"),
        ("{'a': 1, 'a': 2}", "Failed with repeated key: a"),
        ("optional.none().value()", "optional.none() dereference"),
        ("'a'.matches('(')", "error parsing regexp: `(`"),
        ("lists.range(100000).map(x, lists.range(100000))", "operation cancelled: actual cost limit exceeded"),
        (
            "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, lists.range(100000).size()))",
            "operation cancelled: actual cost limit exceeded",
        ),
    ] {
        assert_eq!(run(text), Err(expected.to_owned()), "{text}");
    }
}
