//! What the cells of tables have in common: ages, containers and images, selectors, lists cut short.

use serde_json::{Map, Value};

use crate::kind::Clock;
use crate::object::Object;
use crate::read::Read;

/// A duration in seconds as people read it: `42s`, `5m3s`, `3h`, `12d`, `2y1d`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |big: i64, unit: char, small: i64, part: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{part}") }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// Seconds since the epoch of an RFC 3339 time.
pub fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// How long ago a time was; `<unknown>` for none.
pub fn since(time: &str, clock: &Clock) -> String {
    seconds(time).map_or_else(|| "<unknown>".into(), |time| human_duration(clock.now - time))
}

/// The age of an object.
pub fn age(object: &Object, clock: &Clock) -> Value {
    since(created(object), clock).into()
}

/// When an object was created, as text.
pub fn created(object: &Object) -> &str {
    object.metadata().map_or("", |meta| meta.text("creationTimestamp"))
}

/// Name and creation time: the columns of kinds without columns of their own.
pub fn plain(object: &Object, _clock: &Clock) -> Vec<Value> {
    vec![object.name().into(), created(object).into()]
}

/// Name and age.
pub fn name_and_age(object: &Object, clock: &Clock) -> Vec<Value> {
    vec![object.name().into(), age(object, clock)]
}

/// `<none>` for nothing.
pub fn or_none(text: &str) -> Value {
    or(text, "<none>")
}

/// A word for nothing.
pub fn or(text: &str, nothing: &str) -> Value {
    if text.is_empty() { nothing.into() } else { text.into() }
}

/// Names and images of the containers of a pod spec, each joined by commas.
pub fn containers(spec: &Map<String, Value>) -> [Value; 2] {
    let joined = |field| spec.maps("containers").map(|one| one.text(field)).collect::<Vec<_>>().join(",");
    [joined("name").into(), joined("image").into()]
}

/// A plain map of labels as a selector: `a=b,c=d`, or `<none>`.
pub fn labels(map: &Map<String, Value>) -> Value {
    let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    or_none(&pairs.join(","))
}

/// A `LabelSelector` in text form: `a=b,c in (d,e),!f`; `<none>` if there is none or it is empty.
pub fn selector(selector: Option<&Map<String, Value>>) -> Value {
    let Some(selector) = selector else { return "<none>".into() };
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.map("matchLabels") {
        terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
    }
    for expression in selector.maps("matchExpressions") {
        let key = expression.text("key");
        let mut values: Vec<&str> = expression.texts("values").collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    let texts: Vec<String> = terms.into_iter().map(|(_, text)| text).collect();
    or_none(&texts.join(","))
}

/// At most `max` items joined by commas, the rest counted: `a,b + 3 more...`.
pub fn at_most(items: &[String], max: usize) -> String {
    if items.len() <= max {
        return items.join(",");
    }
    format!("{} + {} more...", items[..max].join(","), items.len() - max)
}

/// Access modes of a volume in short: `RWO,ROX`.
pub fn access_modes(list: &Map<String, Value>) -> String {
    let known = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let there = |mode: &str| list.texts("accessModes").any(|one| one == mode);
    known.iter().filter(|(mode, _)| there(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Whether a list of conditions has one of a type with status True.
pub fn condition_true(status: &Map<String, Value>, kind: &str) -> bool {
    status.maps("conditions").any(|one| one.text("type") == kind && one.text("status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
