//! Cron schedules, read as robfig/cron v3 reads them: what it accepts, refuses and says, and when it fires next.
//!
//! Five fields, names of months and weekdays, steps, lists, and descriptors such as `@hourly` or `@every 1h`.
//! Days of month and week must both match if one of them is a star, and otherwise either of them suffices.

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    form: Form,
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64 },
    Every(i64),
}

/// Set where a field was a star.
const STAR: u64 = 1 << 63;

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOUR: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAY: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTH: Bounds =
    Bounds { min: 1, max: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] };
const WEEKDAY: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong, in the words that clients of the real server know.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let mut zone = None;
        let mut rest = text;
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (head, tail) = text.split_once(' ').unwrap_or((text, ""));
            let name = head.split_once('=').map_or("", |(_, name)| name);
            zone = Some(TimeZone::get(name).map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?);
            rest = tail.trim();
        }
        let form = if rest.starts_with('@') { descriptor(rest)? } else { fields(rest)? };
        Ok(Schedule { form, zone })
    }

    /// The first time after another; `None` if there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        match &self.form {
            Form::Every(seconds) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(*seconds)).ok()
            }
            Form::Fields { minute, hour, day, month, weekday } => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                let start = whole.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone());
                search(start, [*minute, *hour, *day, *month, *weekday]).map(|found| found.timestamp())
            }
        }
    }
}

/// Walks from the largest field to the smallest and starts over whenever a larger one moved.
fn search(start: Zoned, [minute, hour, day, month, weekday]: [u64; 5]) -> Option<Zoned> {
    let last_year = start.year() + 5;
    let mut time = start;
    let mut moved = false;
    'wrap: loop {
        if time.year() > last_year {
            return None;
        }
        while !has(month, time.month()) {
            if !moved {
                moved = true;
                time = at(&time, date(time.year(), time.month(), 1).at(0, 0, 0, 0))?;
            }
            time = at(&time, time.datetime().checked_add(1.month()).ok()?)?;
            if time.month() == 1 {
                continue 'wrap;
            }
        }
        while !day_matches(&time, day, weekday) {
            if !moved {
                moved = true;
                time = at(&time, time.date().at(0, 0, 0, 0))?;
            }
            time = at(&time, time.datetime().checked_add(1.day()).ok()?)?;
            // Where clocks jump over midnight the day begins at another hour.
            if time.hour() != 0 {
                let hours = if time.hour() > 12 { 24 - i64::from(time.hour()) } else { -i64::from(time.hour()) };
                time = time.checked_add(SignedDuration::from_hours(hours)).ok()?;
            }
            if time.day() == 1 {
                continue 'wrap;
            }
        }
        while !has(hour, time.hour()) {
            if !moved {
                moved = true;
                time = at(&time, time.date().at(time.hour(), 0, 0, 0))?;
            }
            time = time.checked_add(SignedDuration::from_hours(1)).ok()?;
            if time.hour() == 0 {
                continue 'wrap;
            }
        }
        while !has(minute, time.minute()) {
            if !moved {
                moved = true;
                time = time.checked_sub(SignedDuration::from_secs(i64::from(time.second()))).ok()?;
            }
            time = time.checked_add(SignedDuration::from_mins(1)).ok()?;
            if time.minute() == 0 {
                continue 'wrap;
            }
        }
        // Schedules of five fields fire at second 0.
        if time.second() != 0 {
            moved = true;
            time = time.checked_add(SignedDuration::from_secs(60 - i64::from(time.second()))).ok()?;
            if !has(minute, time.minute()) || time.minute() == 0 {
                continue 'wrap;
            }
        }
        return Some(time);
    }
}

fn at(time: &Zoned, civil: DateTime) -> Option<Zoned> {
    time.time_zone().to_zoned(civil).ok()
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1 << value) != 0
}

fn day_matches(time: &Zoned, day: u64, weekday: u64) -> bool {
    let by_day = has(day, time.day());
    let by_weekday = has(weekday, time.weekday().to_sunday_zero_offset());
    if (day | weekday) & STAR != 0 { by_day && by_weekday } else { by_day || by_weekday }
}

fn fields(text: &str) -> Result<Form, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    };
    Ok(Form::Fields {
        minute: field(minute, &MINUTE)?,
        hour: field(hour, &HOUR)?,
        day: field(day, &DAY)?,
        month: field(month, &MONTH)?,
        weekday: field(weekday, &WEEKDAY)?,
    })
}

fn descriptor(text: &str) -> Result<Form, String> {
    let of = |fields_text: &str| fields(fields_text);
    match text {
        "@yearly" | "@annually" => of("0 0 1 1 *"),
        "@monthly" => of("0 0 1 * *"),
        "@weekly" => of("0 0 * * 0"),
        "@daily" | "@midnight" => of("0 0 * * *"),
        "@hourly" => of("0 * * * *"),
        _ => match text.strip_prefix("@every ") {
            Some(duration) => {
                let nanos =
                    go_duration(duration).ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {duration:?}"))?;
                Ok(Form::Every((nanos / 1_000_000_000).max(1) as i64))
            }
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// A duration as Go writes it, for example `1h30m` or `1.5s`, in nanoseconds.
pub fn go_duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: f64 = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[unit_len..];
    }
    let total = total.round() as i128;
    Some(if negative { -total } else { total })
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |bits, part| Ok(bits | range(part, bounds)?))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end, mut extra);
    if matches!(ends[0], "*" | "?") {
        (start, end, extra) = (bounds.min, bounds.max, STAR);
    } else {
        start = number_or_name(ends[0], bounds)?;
        extra = 0;
        end = match ends[..] {
            [_] => start,
            [_, end] => number_or_name(end, bounds)?,
            _ => return Err(format!("too many hyphens: {text}")),
        };
    }
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                extra = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let bits = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, value| bits | 1 << value);
    Ok(bits | extra)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(index) => Ok(index as u64 + bounds.min),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}")),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        for text in
            ["* * * * *", "*/5 * * * *", "0 0 1 jan sun", "5/15 * * * *", "@every 1h", "@daily", "TZ=UTC 0 0 * * *", "0,30 1-5 ? * MON-FRI"]
        {
            assert!(Schedule::parse(text).is_ok(), "{text}");
        }
        let cases = [
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("0 0 * * 7", "end of range (7) above maximum (6): 7"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("0 0 L * *", "failed to parse int from L: strconv.Atoi: parsing \"L\": invalid syntax"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("@foo", "unrecognized descriptor: @foo"),
        ];
        for (text, error) in cases {
            assert_eq!(Schedule::parse(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn next_times() {
        let cases = [
            ("*/5 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"),
            ("*/5 * * * *", "2026-01-01T00:04:59Z", "2026-01-01T00:05:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("30 8 * * mon", "2026-01-01T00:00:00Z", "2026-01-05T08:30:00Z"),
            ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("59 23 31 12 *", "2026-12-31T23:59:30Z", "2027-12-31T23:59:00Z"),
            ("@every 90s", "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z"),
            ("0 * * * *", "2026-01-01T00:59:30Z", "2026-01-01T01:00:00Z"),
        ];
        for (text, after, expected) in cases {
            let next = Schedule::parse(text).unwrap().next(after.parse().unwrap(), &TimeZone::UTC).unwrap();
            assert_eq!(next.to_string(), expected, "{text} after {after}");
        }
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let daily = Schedule::parse("30 2 * * *").unwrap();
        // On the day when clocks jump from 2 to 3 there is no half past two.
        let next = daily.next("2026-03-28T12:00:00Z".parse().unwrap(), &berlin).unwrap();
        assert_eq!(next.to_string(), "2026-03-30T00:30:00Z");
    }
}
