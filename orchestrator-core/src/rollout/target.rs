//! One target in twenty bytes, and what all of them amount to.

use serde::{Deserialize, Serialize};

use crate::event::is_zero;
use crate::packed::U48;

/// Where a target is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Its turn has not come.
    Pending,
    /// Assigned, not yet healthy.
    Updating,
    /// Healthy; its continuous-health clock runs.
    Observing,
    /// Runs the new version, proven.
    Updated,
    /// Did not.
    Failed,
    /// Its node was not ready when its turn came.
    Skipped,
}

impl TargetState {
    const ALL: [Self; 6] = [
        Self::Pending,
        Self::Updating,
        Self::Observing,
        Self::Updated,
        Self::Failed,
        Self::Skipped,
    ];

    /// Assigned and without a verdict.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Updating | Self::Observing)
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "TargetRow", into = "TargetRow")]
pub(crate) struct Target {
    pub(crate) slot: u32,
    /// Its latest dispatch's position + 1; 0 = none yet.
    pub(crate) dispatch: u32,
    /// The highest number of a report that became a fact.
    pub(crate) reported: u32,
    /// Of an observing or an unproven one, when its clock started, in the job's time.
    pub(crate) since: U48,
    flags: u8,
    /// Bad intervals in a row.
    pub(crate) streak: u8,
}

type TargetRow = (u32, u32, u32, u64, u8, u8);

const STATE: u8 = 0b0111;
const CANARY: u8 = 0b1000;
const LOST: u8 = 0b1_0000;
const BY_RATE: u8 = 0b10_0000;
const FAILED_BEFORE: u8 = 0b100_0000;
/// Of a skipped one: nobody waits for it. Of an updated one: it turned bad or has moved, and is to show its health
/// anew.
const GONE_OR_UNPROVEN: u8 = 0b1000_0000;
/// The clock of an unproven target that does not run.
pub(crate) const STOPPED: u64 = (1 << 48) - 1;

impl Target {
    pub(crate) fn new(slot: u32) -> Self {
        Self {
            slot,
            dispatch: 0,
            reported: 0,
            since: U48::default(),
            flags: 0,
            streak: 0,
        }
    }

    pub(crate) fn state(&self) -> TargetState {
        TargetState::ALL[usize::from(self.flags & STATE)]
    }

    pub(crate) fn set_state(&mut self, state: TargetState) {
        self.flags = self.flags & !(STATE | GONE_OR_UNPROVEN) | state as u8;
    }

    pub(crate) fn is_canary(&self) -> bool {
        self.flags & CANARY != 0
    }

    pub(crate) fn set_canary(&mut self, on: bool) {
        self.set(CANARY, on);
    }

    /// All of them, as they are.
    #[cfg(test)]
    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }

    /// Its node is silent.
    pub(crate) fn is_lost(&self) -> bool {
        self.flags & LOST != 0
    }

    pub(crate) fn set_lost(&mut self, on: bool) {
        self.set(LOST, on);
    }

    /// One of its bad intervals in a row was bad by its error rate.
    pub(crate) fn bad_by_rate(&self) -> bool {
        self.flags & BY_RATE != 0
    }

    pub(crate) fn set_bad_by_rate(&mut self, on: bool) {
        self.set(BY_RATE, on);
    }

    /// It had failed in the deployment that this rollback takes back.
    pub(crate) fn failed_before(&self) -> bool {
        self.flags & FAILED_BEFORE != 0
    }

    pub(crate) fn set_failed_before(&mut self, on: bool) {
        self.set(FAILED_BEFORE, on);
    }

    /// Skipped, and its execution was taken away, or its node belongs to the job no more: nobody waits for it.
    pub(crate) fn is_gone(&self) -> bool {
        self.state() == TargetState::Skipped && self.flags & GONE_OR_UNPROVEN != 0
    }

    pub(crate) fn set_gone(&mut self, on: bool) {
        if self.state() == TargetState::Skipped {
            self.set(GONE_OR_UNPROVEN, on);
        }
    }

    /// Updated, but it was bad or has moved since, and has not been well for long enough: it has a deadline again.
    pub(crate) fn is_unproven(&self) -> bool {
        self.state() == TargetState::Updated && self.flags & GONE_OR_UNPROVEN != 0
    }

    /// Takes an updated target's proof back.
    pub(crate) fn set_unproven(&mut self) {
        debug_assert!(self.state() == TargetState::Updated);
        self.flags |= GONE_OR_UNPROVEN;
        self.stop_clock();
    }

    /// Its health was seen by nobody for so long: that does not count.
    pub(crate) fn hold_clock(&mut self, millis: u64) {
        let since = u64::from(self.since);
        let runs = self.state() == TargetState::Observing || self.is_unproven();
        if runs && since != STOPPED {
            self.since = U48::from(since + millis);
        }
    }

    /// From here on its health is not continuous.
    pub(crate) fn stop_clock(&mut self) {
        self.since = U48::from(STOPPED);
    }

    /// Updated, and nothing speaks against it.
    pub(crate) fn is_well(&self) -> bool {
        self.state() == TargetState::Updated && !self.is_unproven() && !self.is_lost()
    }

    fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag
        } else {
            self.flags &= !flag
        }
    }
}

impl From<TargetRow> for Target {
    fn from((slot, dispatch, reported, since, flags, streak): TargetRow) -> Self {
        // A state that does not exist would be read from a damaged snapshot only.
        let flags = if flags & STATE < 6 {
            flags
        } else {
            flags & !STATE
        };
        Self {
            slot,
            dispatch,
            reported,
            since: since.into(),
            flags,
            streak,
        }
    }
}

impl From<Target> for TargetRow {
    fn from(t: Target) -> Self {
        (
            t.slot,
            t.dispatch,
            t.reported,
            t.since.into(),
            t.flags,
            t.streak,
        )
    }
}

/// How many targets are where; kept with every change, never recounted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Tally {
    pub(crate) pending: u32,
    pub(crate) updating: u32,
    pub(crate) observing: u32,
    pub(crate) updated: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    /// Updated ones that turned bad or have moved, and have yet to show that they are well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unproven: u32,
    /// Skipped ones that do not come back.
    pub(crate) gone: u32,
    /// Failed ones that had failed before the rollback.
    pub(crate) failed_before: u32,
    pub(crate) canaries: u32,
    pub(crate) canaries_failed: u32,
    /// Canaries that are updated, not bad since, and not lost.
    pub(crate) canaries_well: u32,
}

impl Tally {
    pub(crate) fn in_flight(&self) -> u32 {
        self.updating + self.observing
    }

    pub(crate) fn put(&mut self, target: &Target) {
        self.each(target, |count| *count += 1);
    }

    pub(crate) fn take(&mut self, target: &Target) {
        self.each(target, |count| *count -= 1);
    }

    fn each(&mut self, target: &Target, mut step: impl FnMut(&mut u32)) {
        match target.state() {
            TargetState::Pending => step(&mut self.pending),
            TargetState::Updating => step(&mut self.updating),
            TargetState::Observing => step(&mut self.observing),
            TargetState::Updated => {
                step(&mut self.updated);
                if target.is_unproven() {
                    step(&mut self.unproven);
                }
            }
            TargetState::Failed => {
                step(&mut self.failed);
                if target.failed_before() {
                    step(&mut self.failed_before);
                }
            }
            TargetState::Skipped => {
                step(&mut self.skipped);
                if target.is_gone() {
                    step(&mut self.gone);
                }
            }
        }
        if target.is_canary() {
            step(&mut self.canaries);
            match target.state() {
                TargetState::Failed => step(&mut self.canaries_failed),
                TargetState::Updated if target.is_well() => step(&mut self.canaries_well),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_twenty_bytes_and_keeps_what_it_is_told() {
        assert_eq!(size_of::<Target>(), 20);
        for state in TargetState::ALL {
            let mut target = Target::new(7);
            target.set_state(state);
            target.set_canary(true);
            target.set_lost(true);
            assert_eq!(
                (target.state(), target.is_canary(), target.is_lost()),
                (state, true, true)
            );
            target.set_lost(false);
            assert_eq!(
                (target.state(), target.is_canary(), target.is_lost()),
                (state, true, false)
            );
        }
    }

    #[test]
    fn taking_is_the_reverse_of_putting() {
        let mut tally = Tally::default();
        let mut targets = Vec::new();
        for state in TargetState::ALL {
            for canary in [false, true] {
                let mut target = Target::new(0);
                target.set_state(state);
                target.set_canary(canary);
                tally.put(&target);
                targets.push(target);
            }
        }
        assert_eq!(
            (
                tally.in_flight(),
                tally.updated,
                tally.canaries,
                tally.canaries_well
            ),
            (4, 2, 6, 1)
        );
        targets.iter().for_each(|t| tally.take(t));
        assert_eq!(tally, Tally::default());
    }
}
