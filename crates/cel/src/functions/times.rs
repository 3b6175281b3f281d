//! Points in time and spans of time.

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};

use crate::Failure;
use crate::eval::Budget;
use crate::value::Value;

use super::Answer;

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    match (name, args) {
        ("timestamp", [Value::String(text)]) => Some(timestamp(text).map(Value::Timestamp)),
        ("timestamp", [Value::Timestamp(time)]) => Some(Ok(Value::Timestamp(*time))),
        ("timestamp", [Value::Int(seconds)]) => {
            Some(Timestamp::from_second(*seconds).map(Value::Timestamp).map_err(|_| Failure::new("timestamp overflow")))
        }
        ("duration", [Value::String(text)]) => Some(duration(text).map(Value::Duration)),
        ("duration", [Value::Duration(nanos)]) => Some(Ok(Value::Duration(*nanos))),
        ("duration", [Value::Int(nanos)]) => Some(Ok(Value::Duration(*nanos))),
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    match (target, args) {
        (Value::Duration(nanos), []) => {
            let amount = match name {
                "getHours" => nanos / 3_600_000_000_000,
                "getMinutes" => nanos / 60_000_000_000,
                "getSeconds" => nanos / 1_000_000_000,
                "getMilliseconds" => nanos / 1_000_000 % 1000,
                _ => return None,
            };
            Some(Ok(Value::Int(amount)))
        }
        (Value::Timestamp(time), []) => part(*time, name, TimeZone::UTC),
        (Value::Timestamp(time), [Value::String(zone)]) => match self::zone(zone) {
            Some(zone) => part(*time, name, zone),
            None => Some(Err(Failure::new(format!("unknown time zone {zone}")))),
        },
        _ => None,
    }
}

/// A time zone by name, or as an offset such as `+02:00`.
fn zone(text: &str) -> Option<TimeZone> {
    if let Ok(zone) = TimeZone::get(text) {
        return Some(zone);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()?.checked_mul(3600)?.checked_add(minutes.parse::<i32>().ok()?.checked_mul(60)?)?;
    Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

fn part<'a>(time: Timestamp, name: &str, zone: TimeZone) -> Answer<'a> {
    let zoned = time.to_zoned(zone);
    let amount = match name {
        "getFullYear" => i64::from(zoned.year()),
        "getMonth" => i64::from(zoned.month()) - 1,
        "getDayOfYear" => i64::from(zoned.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(zoned.day()) - 1,
        "getDate" => i64::from(zoned.day()),
        "getDayOfWeek" => i64::from(zoned.weekday().since(Weekday::Sunday)),
        "getHours" => i64::from(zoned.hour()),
        "getMinutes" => i64::from(zoned.minute()),
        "getSeconds" => i64::from(zoned.second()),
        "getMilliseconds" => i64::from(zoned.millisecond()),
        _ => return None,
    };
    Some(Ok(Value::Int(amount)))
}

fn timestamp(text: &str) -> Result<Timestamp, Failure> {
    let shaped = text.len() >= 20 && text.as_bytes()[10] == b'T';
    text.parse()
        .ok()
        .filter(|_| shaped)
        .ok_or_else(|| Failure::new(format!("type conversion error from 'string' to 'google.protobuf.Timestamp': {text}")))
}

/// A span such as `1h30m`, `1.5s`, `-3ms`.
pub(crate) fn duration(text: &str) -> Result<i64, Failure> {
    parse_duration(text).ok_or_else(|| Failure::new(format!("type conversion error from 'string' to 'google.protobuf.Duration': {text}")))
}

fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(length);
        let (unit, nanos) = [
            ("ns", 1i128),
            ("us", 1000),
            ("µs", 1000),
            ("ms", 1_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
        ]
        .into_iter()
        .find(|(unit, _)| after.starts_with(unit))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 18 {
            return None;
        }
        total += if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? } * nanos;
        let digits = &fraction[..fraction.len().min(15)];
        if !digits.is_empty() {
            total += digits.parse::<i128>().ok()? * nanos / 10i128.pow(digits.len() as u32);
        }
        rest = &after[unit.len()..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A span in seconds, as `string()` gives it.
pub(crate) fn duration_text(nanos: i64) -> String {
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return format!("{seconds}s");
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = format!("{:09}", rest.abs());
    format!("{sign}{}.{}s", seconds.abs(), fraction.trim_end_matches('0'))
}
