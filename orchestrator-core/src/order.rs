//! Whose turn comes when: a seeded shuffle, spread over a label's values when asked.

use crate::draw::draw;
use crate::state::State;

/// `slots` in the order of their turn. The same seed and the same fleet give the same order on every
/// machine, whatever the order in which the nodes joined.
///
/// Ready ones come first: the waves that a plan shows are those that then start. Over a spread label
/// every value has its turn before any has its second.
pub(crate) fn order(state: &State, seed: u64, slots: impl Iterator<Item = u32>) -> Vec<u32> {
    let replicated = state.replicas.is_some();
    let mut drawn: Vec<(u64, u32)> = slots
        .map(|slot| {
            let name = state
                .members
                .name(state.slots[slot as usize].node)
                .as_bytes();
            let draw = if replicated {
                draw(seed, "turn", &slot.to_le_bytes())
            } else {
                draw(seed, "turn", name)
            };
            (draw, slot)
        })
        .collect();
    drawn.sort_unstable();
    if state.spec().is_some_and(|s| s.rollout.spread.is_some()) {
        let mut taken = std::collections::BTreeMap::new();
        let mut spread: Vec<(bool, u32, u64, u32)> = drawn
            .into_iter()
            .map(|(draw, slot)| {
                let ready = state.is_ready(slot);
                let zone = state.zone_of(slot).unwrap_or(0);
                let round = taken.entry((ready, zone)).or_insert(0_u32);
                *round += 1;
                (!ready, *round, draw, slot)
            })
            .collect();
        spread.sort_unstable();
        return spread.into_iter().map(|(.., slot)| slot).collect();
    }
    let (mut ready, waiting): (Vec<u32>, Vec<u32>) = drawn
        .into_iter()
        .map(|(_, slot)| slot)
        .partition(|&slot| state.is_ready(slot));
    ready.extend(waiting);
    ready
}
