//! Randomness without a state: a draw is a hash of a seed, a purpose and a subject.
//!
//! One draw never disturbs another, nothing has to be saved, and every machine draws the same.

/// A number that depends on all three and on nothing else.
pub(crate) fn draw(seed: u64, purpose: &str, subject: &[u8]) -> u64 {
    let mut hash = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for part in [purpose.as_bytes(), subject] {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        // The length keeps "ab" + "c" apart from "a" + "bc".
        hash = mix(hash ^ part.len() as u64);
    }
    hash
}

/// The finalizer of SplitMix64: every input bit moves every output bit.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn draws_are_the_same_for_ever() {
        assert_eq!(draw(7, "order", b"n1"), draw(7, "order", b"n1"));
        let draws = [
            draw(7, "order", b"n1"),
            draw(7, "order", b"n2"),
            draw(8, "order", b"n1"),
            draw(7, "place", b"n1"),
        ];
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[i + 1..].iter().all(|b| a != b));
        }
        assert_ne!(draw(0, "ab", b"c"), draw(0, "a", b"bc"));
    }
}
