//! Sets of numbers that come in runs: `[[0,10000],[20007,1]]` instead of ten thousand numbers.

use serde::{Deserialize, Serialize};

/// Runs of consecutive numbers, in the order in which they were pushed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct Runs(Vec<(u32, u32)>);

impl TryFrom<Vec<(u32, u32)>> for Runs {
    type Error = &'static str;

    fn try_from(runs: Vec<(u32, u32)>) -> Result<Self, Self::Error> {
        let mut count = 0_u32;
        for &(start, len) in &runs {
            let sound = len > 0 && start.checked_add(len - 1).is_some();
            count = count
                .checked_add(len)
                .filter(|_| sound)
                .ok_or("a run that is empty, or longer than numbers go")?;
        }
        Ok(Self(runs))
    }
}

impl From<Runs> for Vec<(u32, u32)> {
    fn from(runs: Runs) -> Self {
        runs.0
    }
}

impl Runs {
    /// Appends a number; it joins the last run where it can.
    pub(crate) fn push(&mut self, number: u32) {
        match self.0.last_mut() {
            Some((start, len)) if start.checked_add(*len) == Some(number) => *len += 1,
            _ => self.0.push((number, 1)),
        }
    }

    /// Whether there is no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|(_, len)| len).sum()
    }

    /// The numbers, in the order in which they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0
            .iter()
            .flat_map(|&(start, len)| (0..len).map(move |more| start + more))
    }
}

impl FromIterator<u32> for Runs {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut runs = Self::default();
        for number in numbers {
            runs.push(number);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::Runs;

    #[test]
    fn runs_keep_order_and_count() {
        let numbers = [3, 4, 5, 9, 1, 2, 2];
        let runs: Runs = numbers.into_iter().collect();
        assert_eq!(runs.0, [(3, 3), (9, 1), (1, 2), (2, 1)]);
        assert_eq!(runs.count(), 7);
        assert!(runs.iter().eq(numbers));
        assert!(Runs::default().is_empty());
        let read = |text| serde_json::from_str::<Runs>(text);
        assert_eq!(read("[[3,3],[9,1],[1,2],[2,1]]").unwrap(), runs);
        let high: Runs = [u32::MAX - 1, u32::MAX, 0].into_iter().collect();
        assert!(high.iter().eq([u32::MAX - 1, u32::MAX, 0]));
        assert_eq!(read("[[4294967294,2],[0,1]]").unwrap(), high);
        for bad in ["[[0,0]]", "[[2,4294967295]]", "[[0,4294967295],[0,5]]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
