//! 48 bits that need no padding: milliseconds for 8,900 years, or 281 million million entries.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "u64", into = "u64")]
pub(crate) struct U48([u16; 3]);

impl From<u64> for U48 {
    /// What does not fit becomes the largest number that does.
    fn from(n: u64) -> Self {
        let n = n.min((1 << 48) - 1);
        Self([n as u16, (n >> 16) as u16, (n >> 32) as u16])
    }
}

impl From<U48> for u64 {
    fn from(U48([a, b, c]): U48) -> Self {
        Self::from(a) | Self::from(b) << 16 | Self::from(c) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::U48;

    #[test]
    fn packs_and_unpacks() {
        for n in [0, 1, 65_535, 65_536, 1 << 40, (1 << 48) - 1] {
            assert_eq!(u64::from(U48::from(n)), n);
        }
        assert_eq!(u64::from(U48::from(u64::MAX)), (1 << 48) - 1);
        assert_eq!(size_of::<U48>(), 6);
    }
}
