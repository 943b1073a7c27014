//! Measured values, and how the page shows them.

use std::fmt;
use std::time::Duration;

/// A duration in milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The values of several runs.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The number of values.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The median. 0 without values.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The percentile by the nearest-rank method. 0 without values.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A number with three significant digits.
#[derive(Clone, Copy, Debug)]
pub struct Rounded(pub f64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        let magnitude = value.abs();
        if magnitude >= 1000.0 {
            return f.write_str(&grouped(&format!("{value:.0}")));
        }
        let decimals = match magnitude {
            _ if magnitude >= 100.0 => 0,
            _ if magnitude >= 10.0 => 1,
            _ if magnitude >= 0.095 || magnitude == 0.0 => 2,
            _ => 4,
        };
        write!(f, "{value:.decimals$}")
    }
}

fn grouped(digits: &str) -> String {
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let samples: Samples = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(
            [
                samples.median(),
                samples.percentile(90),
                samples.percentile(100)
            ],
            [3.0, 5.0, 5.0]
        );
        assert_eq!(Samples::default().median(), 0.0);
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        let written: Vec<String> = [0.0, 0.0123, 0.5, 1.234, 12.34, 123.4, 1234.0, 1_234_567.0]
            .map(|value| Rounded(value).to_string())
            .into();
        let expected = [
            "0.00",
            "0.0123",
            "0.50",
            "1.23",
            "12.3",
            "123",
            "1,234",
            "1,234,567",
        ];
        assert_eq!(written, expected);
    }
}
