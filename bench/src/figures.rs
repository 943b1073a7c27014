//! Figures of several runs, and how they are written.

use std::fmt;
use std::time::Duration;

/// A duration in milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What several runs gave.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// Adds a run's.
    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// How many runs there were.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one: half of the runs gave no more. 0 without runs.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(50)
    }

    /// What so many per cent of the runs did not exceed (nearest rank). 0 without runs.
    #[must_use]
    pub fn at(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// A number with three digits that say something, as a page shows it.
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
    fn a_percentile_is_a_figure_that_was_measured() {
        let figures: Figures = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(
            [figures.median(), figures.at(90), figures.at(100)],
            [3.0, 5.0, 5.0]
        );
        assert_eq!(Figures::default().median(), 0.0);
    }

    #[test]
    fn numbers_say_no_more_than_they_know() {
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
