//! Chance, in named streams: a draw more in one of them disturbs none of the others.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::draw::draw;

/// One stream of draws.
#[derive(Clone, Debug)]
pub(super) struct Stream(ChaCha8Rng);

impl Stream {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(draw(0, "stream", name.as_bytes()));
        Self(rng)
    }

    /// Whether something of this probability comes to pass.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability.clamp(0.0, 1.0))
    }

    /// A number from `low` to `high`, both of them included.
    pub(super) fn within(&mut self, (low, high): (u64, u64)) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// The position of one of `count` things.
    pub(super) fn pick(&mut self, count: usize) -> usize {
        self.0.random_range(0..count.max(1))
    }

    /// One of these.
    pub(super) fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.pick(these.len())]
    }
}

/// A number in [0, 1) that belongs to one execution, whatever else is drawn.
pub(super) fn trait_of(seed: u64, purpose: &str, of: [u64; 3]) -> f64 {
    let mut bytes = [0; 24];
    for (chunk, word) in bytes.chunks_mut(8).zip(of) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    // 53 bits: what a double holds exactly.
    (draw(seed, purpose, &bytes) >> 11) as f64 / (1_u64 << 53) as f64
}
