//! The end: what has to have come of it, by the job's word and by the agents' truth.

use super::agent::Place;
use super::fate::name;
use super::report::{Blast, Flaw, Followed, Outcome, Part};
use super::run::{HEARTBEAT, Run};
use super::settings::{Behavior, Faults, Settings};
use crate::event::{DeploymentKind, DeploymentState};
use crate::spec::Strategy;
use crate::waiting_on::WaitingOn;

/// The longest that an immediate target may take to start.
const START_WITHIN: u64 = 3_600_000;

impl Run<'_> {
    /// Law 9: with healthy nodes, and nobody who intervenes, every rollout completes.
    pub(super) fn must_complete(&mut self) -> Result<(), Flaw> {
        if !self.settings.must_complete() {
            return Ok(());
        }
        let record = self.driver.job.deployment();
        let done = record.as_ref().is_some_and(|r| {
            r.to_version == 2
                && r.status.state == DeploymentState::Completed
                && r.status.updated_nodes == r.status.total_nodes
        });
        if done {
            return Ok(());
        }
        let message = record.map(|r| r.status.message).unwrap_or_default();
        Err(Flaw::new(
            9,
            format!("every node is healthy, and: {message}"),
        ))
    }

    /// With everything well again, the job has to come to an end, and the nodes to what it says.
    pub(super) fn come_to_rest(&mut self) -> Result<(), Flaw> {
        let gate = self.settings.gate();
        let deadline = gate.map_or(START_WITHIN, |g| g.deadline.as_millis());
        let targets = self.agents.nodes.len() as u64 * 4 + 10;
        let patience = self
            .settings
            .promote_after
            .map_or(60_000, |p| p.as_millis());
        let each = deadline + patience + self.settings.lost_after.as_millis() + 2 * HEARTBEAT;
        let end = self.world.now.saturating_add(targets.saturating_mul(each));
        // The clock may have been set back by as much as it ever was.
        let end = end.saturating_add(self.driver.offset.unsigned_abs());
        self.until(end, Self::rests)?;
        if !self.rests() {
            let record = self.driver.job.deployment();
            let message = record.map(|r| r.status.message).unwrap_or_default();
            let text = format!("all is well, and it does not come to rest: {message}");
            return Err(Flaw::new(14, text));
        }
        let settle = 3 * HEARTBEAT + self.settings.lost_after.as_millis();
        self.until(self.world.now + settle, |_| false)?;
        if self.rests() {
            self.really_runs()
        } else {
            Err(Flaw::new(
                14,
                "it came to rest, and began again by itself".to_owned(),
            ))
        }
    }

    /// Nothing is under way, or it waits at a gate that nobody opens.
    fn rests(&self) -> bool {
        match self.driver.job.waiting_on() {
            None => self.is_idle(),
            Some(WaitingOn::Executions) => true,
            Some(WaitingOn::Promotion) => self.settings.promote_after.is_none(),
            // It may wait as long as an execution has no ready node.
            Some(WaitingOn::ReadyNode) => {
                let state = &self.driver.job.state;
                let mut live = (0..)
                    .zip(&state.slots)
                    .filter(|(_, slot)| slot.live)
                    .map(|(number, _)| state.is_ready(number));
                let all_ready = live.next() == Some(true) && live.all(|ready| ready);
                !all_ready
            }
            Some(
                WaitingOn::Health { .. }
                | WaitingOn::Proof { .. }
                | WaitingOn::Resume
                | WaitingOn::Members,
            ) => false,
        }
    }

    /// Laws 10 and 15, by what the agents really run.
    pub(super) fn really_runs(&self) -> Result<(), Flaw> {
        let job = &self.driver.job;
        let Some(record) = job.deployment() else {
            return Ok(());
        };
        let completed = record.status.state == DeploymentState::Completed;
        let law = match record.kind {
            DeploymentKind::Rollback if completed => 10,
            _ => 15,
        };
        for (number, node) in (0..).zip(&self.agents.nodes) {
            if node.place != Place::There {
                continue;
            }
            let name = name(number);
            let real = node.running();
            let mut wanted: Vec<(u32, u32)> = job
                .desired(&name)
                .iter()
                .map(|a| (a.slot, a.version))
                .collect();
            wanted.sort_unstable();
            let found: Vec<(u32, u32)> = real.iter().map(|r| (r.slot, r.version)).collect();
            if found != wanted {
                let text = format!(
                    "{name} runs {found:?} and should run {wanted:?} (executions, versions)"
                );
                return Err(Flaw::new(law, text));
            }
            for execution in real {
                let behavior = self.settings.behavior(execution.version);
                let well = self.agents.healed || behavior.is_harmless() && behavior.always_starts();
                if well && !execution.up {
                    let text = format!("{name} does not run {execution:?}, and nothing is wrong");
                    return Err(Flaw::new(law, text));
                }
                if completed && execution.version != job.current() {
                    let text = format!(
                        "{name} runs version {}, and {} is current",
                        execution.version,
                        job.current()
                    );
                    return Err(Flaw::new(law, text));
                }
            }
        }
        Ok(())
    }

    pub(super) fn blast(&self) -> Blast {
        let exposure = self.agents.exposure(self.world.now, 2);
        let nodes = self.agents.nodes.len().max(1) as f64;
        Blast {
            nodes: exposure.nodes,
            share_percent: 100.0 * f64::from(exposure.nodes) / nodes,
            still: exposure.still,
            longest_millis: exposure.longest_millis,
            failed_requests: exposure.failed_requests,
        }
    }

    pub(super) fn outcome(&mut self, blast: Blast) -> Result<Outcome, Flaw> {
        let now = self.world.now;
        if let Some(last) = self.parts.parts.last_mut() {
            last.look(&self.driver.job);
        }
        let Some(part) = self.parts.forward_to(2) else {
            return Err(Flaw::new(0, "the new version never began".to_owned()));
        };
        let parts = &self.parts.parts;
        let followed = parts.iter().find(|p| p.rollback_of == Some(part.id));
        let took = |part: &Part| part.ended.unwrap_or(now) - part.began;
        Ok(Outcome {
            seed: self.settings.seed,
            nodes: self.agents.nodes.len() as u32,
            waves: part.waves.clone(),
            state: part.state,
            message: part.message.clone(),
            duration_millis: took(part),
            followed: followed.map(|part| Followed {
                kind: part.kind,
                state: part.state,
                message: part.message.clone(),
                waves: part.waves.clone(),
                duration_millis: took(part),
            }),
            blast,
            current_version: self.driver.job.current(),
            last_state: parts.last().map_or(part.state, |last| last.state),
            virtual_millis: now,
            steps: self.driver.steps,
            checked: self.driver.checked,
            entries: self.driver.log.len() as u64,
            reports: self.driver.reports,
            restarts: self.driver.recoveries,
            digest: self.driver.digest(),
        })
    }
}

impl Settings {
    fn behavior(&self, version: u32) -> &Behavior {
        if version.is_multiple_of(2) {
            &self.version
        } else {
            &self.others
        }
    }

    /// Whether nothing in here can keep the rollout from completing.
    fn must_complete(&self) -> bool {
        let version = &self.version;
        let limits = self.rollout.gate().is_none_or(|gate| {
            let slow = version
                .start_millis
                .1
                .saturating_mul(version.slow_factor.max(1));
            let wave = slow + gate.min_healthy_time.as_millis() + 3 * gate.interval.as_millis();
            wave + 2 * self.grid_millis + 1000 < gate.deadline.as_millis()
        });
        let promoted = match self.rollout.strategy {
            Strategy::Canary { auto_promote, .. } => auto_promote || self.promote_after.is_some(),
            Strategy::Immediate { .. } | Strategy::Rolling { .. } => true,
        };
        let long = self.expected_millis().saturating_mul(4) < self.watch.as_millis();
        let placed = self.placement == crate::spec::Placement::Every;
        self.faults == Faults::NONE
            && self.nodes > 0
            && version.is_harmless()
            && version.always_starts()
            && limits
            && promoted
            && long
            && placed
    }

    /// About how long a rollout takes in which nothing goes wrong.
    pub(super) fn expected_millis(&self) -> u64 {
        let interval = self.interval_millis();
        let wave = self.gate().map_or(interval, |gate| {
            gate.min_healthy_time.as_millis() + 2 * interval
        }) + self.version.start_millis.1;
        let waves = match self.rollout.max_parallel {
            0 => 2,
            _ if self.gate().is_none() => 1,
            parallel => u64::from(self.nodes.div_ceil(parallel)) + 1,
        };
        let promotion = self.promote_after.map_or(0, |p| p.as_millis());
        waves * wave + promotion
    }
}

impl Behavior {
    fn always_starts(&self) -> bool {
        let slow = self.slow_start > 0.0 && self.slow_factor > 1;
        self.start_failure == 0.0 && self.hang == 0.0 && !slow
    }
}
