//! Quantities such as `100m` or `1.5Gi`: parsing, exact arithmetic, comparison and the canonical text.
//!
//! An amount is kept in billionths; what is finer is rounded away from zero on input, as the real server does.
//! The canonical text remembers the family of the suffix: binary stays binary as long as that is exact.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

const NANO: i128 = 1_000_000_000;

/// Family of the suffix, which the canonical text keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, `k`, `M`...
    #[default]
    DecimalSI,
    /// `Ki`, `Mi`...
    BinarySI,
    /// `e3`.
    DecimalExponent,
}

/// An exact decimal amount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

/// Why a text is no quantity; prints what the real server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the grammar at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is fine, the suffix unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number has two points or the like.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    /// Nothing at all.
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::DecimalSI };

    /// Parses text such as `2`, `100m`, `1.5Gi`, `1e3`.
    pub fn parse(text: &str) -> Option<Quantity> {
        Quantity::read(text).ok()
    }

    /// Parses like [`Quantity::parse`] and says why not.
    ///
    /// # Errors
    /// The part of the grammar that the text breaks.
    pub fn read(text: &str) -> Result<Quantity, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let number_len = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = unsigned.split_at(number_len);
        if number.is_empty() || !is_suffix_grammar(suffix) {
            return Err(ParseError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseError::Numeric);
        }
        let (base, exponent, mut format) = interpret(suffix).ok_or(ParseError::Suffix)?;
        let digits = whole.bytes().chain(fraction.bytes());
        let mantissa = digits.fold(0i128, |sum, digit| sum.saturating_mul(10).saturating_add(i128::from(digit - b'0')));
        let places = fraction.len() as i64;
        let mut nano = if base == 10 {
            scale10(mantissa, 9 + exponent - places)
        } else {
            scale10(mantissa.saturating_mul(1i128 << exponent), 9 - places)
        };
        if format == Format::BinarySI {
            nano = nano.min(i128::from(i64::MAX) * NANO);
            if nano > 0 && nano < NANO {
                format = Format::DecimalSI;
            }
        }
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }

    /// The canonical text of a quantity given as text; `None` when it is none.
    pub fn canonical(text: &str) -> Option<String> {
        Quantity::parse(text).map(|quantity| quantity.to_string())
    }

    /// From a JSON value, text or number.
    pub fn from_json(value: &serde_json::Value) -> Option<Quantity> {
        match value {
            serde_json::Value::String(text) => Quantity::parse(text),
            serde_json::Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => None,
        }
    }

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: i128::from(milli) * 1_000_000, format: Format::DecimalSI }
    }

    /// Billionths.
    pub fn from_nano(nano: i128) -> Quantity {
        Quantity { nano, format: Format::DecimalSI }
    }

    /// The family of its suffix.
    pub fn format(self) -> Format {
        self.format
    }

    /// The same amount in another family.
    pub fn with_format(self, format: Format) -> Quantity {
        Quantity { format, ..self }
    }

    /// The whole number, rounded away from zero.
    pub fn value(self) -> i64 {
        saturated(divide_up(self.nano, NANO))
    }

    /// Thousandths, rounded away from zero.
    pub fn milli(self) -> i64 {
        saturated(divide_up(self.nano, 1_000_000))
    }

    /// Billionths, exact.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// The nearest double.
    pub fn as_f64(self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether nothing is left below one.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether the amount is zero.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// The sum; zero takes the family of the other side.
    #[allow(clippy::should_implement_trait, reason = "amounts saturate, which an operator would hide")]
    pub fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nano: self.nano.saturating_add(other.nano), format }
    }

    /// The difference; zero takes the family of the other side.
    #[allow(clippy::should_implement_trait, reason = "amounts saturate, which an operator would hide")]
    pub fn sub(self, other: Quantity) -> Quantity {
        self.add(Quantity { nano: -other.nano, ..other })
    }

    /// A whole multiple.
    pub fn times(self, factor: i64) -> Quantity {
        Quantity { nano: self.nano.saturating_mul(i128::from(factor)), ..self }
    }

    /// What `limits - requests` arithmetic calls a quotient: how many whole divisors are needed, rounded up.
    pub fn divided_by(self, divisor: Quantity) -> i64 {
        if divisor.is_zero() { self.value() } else { saturated(divide_up(self.nano, divisor.nano)) }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.unsigned_abs() < 1024 * NANO.unsigned_abs();
        if self.format == Format::BinarySI && !small && self.is_whole() {
            let (mut amount, mut step) = (self.nano / NANO, 0);
            while amount % 1024 == 0 && step < BINARY.len() - 1 {
                amount /= 1024;
                step += 1;
            }
            return write!(f, "{amount}{}", BINARY[step]);
        }
        let (mut amount, mut exponent) = (self.nano, -9);
        while amount % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            amount /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{amount}"),
            (Format::DecimalExponent, exponent) => write!(f, "{amount}e{exponent}"),
            (_, exponent) => write!(f, "{amount}{}", DECIMAL[((exponent + 9) / 3) as usize]),
        }
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// Letters, then a sign, then digits, each optional.
fn is_suffix_grammar(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|letter| "eEinumkKMGTP".contains(letter));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// Base, exponent and family of a suffix.
fn interpret(suffix: &str) -> Option<(u32, i64, Format)> {
    if let Some(step) = DECIMAL.iter().position(|one| *one == suffix) {
        return Some((10, step as i64 * 3 - 9, Format::DecimalSI));
    }
    if let Some(step) = BINARY.iter().position(|one| *one == suffix) {
        return Some((2, step as i64 * 10, Format::BinarySI));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    Some((10, exponent, Format::DecimalExponent))
}

/// `amount * 10^exponent`, rounded away from zero, saturating.
fn scale10(amount: i128, exponent: i64) -> i128 {
    let power = |exponent: u64| u32::try_from(exponent).ok().and_then(|exponent| 10i128.checked_pow(exponent));
    match (amount, power(exponent.unsigned_abs())) {
        (0, _) => 0,
        (amount, Some(power)) if exponent >= 0 => amount.saturating_mul(power),
        (amount, Some(power)) => divide_up(amount, power),
        (_, None) if exponent >= 0 => i128::MAX,
        (_, None) => 1,
    }
}

fn divide_up(amount: i128, divisor: i128) -> i128 {
    let quotient = amount / divisor;
    match (amount % divisor, (amount < 0) == (divisor < 0)) {
        (0, _) => quotient,
        (_, true) => quotient + 1,
        (_, false) => quotient - 1,
    }
}

fn saturated(amount: i128) -> i64 {
    amount.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts() {
        let cases = [
            ("1.5Ki", "1536"),
            ("2500000000n", "2500m"),
            ("0.0001n", "1n"),
            ("1024Mi", "1Gi"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("0Ki", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("-1Gi", "-1Gi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("0.5Gi", "512Mi"),
            ("0.1Gi", "107374182400m"),
            ("12e6", "12e6"),
            ("100e-3", "100e-3"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("+5", "5"),
            ("5.", "5"),
            (".5", "500m"),
            ("001", "1"),
            ("1Ki", "1Ki"),
            ("0.25Ki", "256"),
            ("9999Ei", "9223372036854775807"),
            ("1e2", "100"),
            ("10e1", "100"),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::canonical(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "a", "1K", "1ki", "1.2.3", "--1", "1 Gi", "1GiB", ".", "e3"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_and_rounding() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!(parse("1Gi").add(parse("512Mi")).to_string(), "1536Mi");
        assert_eq!(Quantity::ZERO.add(parse("1Ki")).to_string(), "1Ki");
        assert_eq!(parse("1").sub(parse("100m")).to_string(), "900m");
        assert_eq!((parse("1001m").value(), parse("1n").milli(), parse("-1500m").value()), (2, 1, -2));
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!(parse("1000m"), parse("1"));
    }
}
