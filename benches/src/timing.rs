//! Timing of closures, and the middle of several rounds.

use std::time::Instant;

/// Runs `work`; answers how long it took in seconds, and what it made.
pub fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let made = std::hint::black_box(work());
    (start.elapsed().as_secs_f64(), made)
}

/// The middle value; of an even number of them the higher of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of `rounds` answers, after one that only warms up.
pub fn median_of(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    round();
    median((0..rounds).map(|_| round()).collect())
}

#[cfg(test)]
mod tests {
    use super::{median, median_of};

    #[test]
    fn the_middle_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        let mut next = 0.0;
        let counting = || {
            next += 1.0;
            next
        };
        assert_eq!(median_of(3, counting), 3.0);
    }
}
