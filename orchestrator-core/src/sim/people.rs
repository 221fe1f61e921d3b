//! People: who rolls out, who promotes and resumes after a while, and who means no good.

use super::driver::Done;
use super::report::Flaw;
use super::run::{Phase, Run};
use super::settings::Settings;
use super::world::Happening;
use crate::event::DeploymentKind;
use crate::id::{DeploymentId, JobId};
use crate::input::{Command, Request};
use crate::selector::Selector;
use crate::spec::{JobSpec, JobType, Placement, RolloutSpec};
use crate::waiting_on::WaitingOn;

/// How often a person tries again whose command got no answer.
const PATIENCE: u32 = 1000;

pub(super) fn job_id() -> JobId {
    "sim/web".parse().expect("it is a name")
}

/// The spec of a version; `number` makes it differ from the others.
pub(super) fn spec(settings: &Settings, number: u32) -> JobSpec {
    let rollout = if number == 1 {
        // The first one is there when the story begins.
        RolloutSpec {
            max_failed_nodes: u32::MAX,
            max_failed_nodes_percent: 100.0,
            spread: settings.rollout.spread.clone(),
            ..RolloutSpec::default()
        }
    } else {
        settings.rollout.clone()
    };
    let mut workload = serde_json::Map::new();
    workload.insert("image".to_owned(), format!("web:{number}").into());
    JobSpec {
        id: job_id(),
        job_type: if settings.batch {
            JobType::Batch
        } else {
            JobType::Service
        },
        selector: Selector::default(),
        placement: settings.placement,
        lost_after: settings.lost_after,
        rollout,
        workload,
    }
}

impl Run<'_> {
    /// Registers a version, and goes on trying until somebody answers.
    pub(super) fn roll_out(&mut self, number: u32) -> Result<(), Flaw> {
        let request = Request {
            command: Command::Register {
                spec: Box::new(spec(self.settings, number)),
                members: None,
                again: false,
            },
            key: Some(format!("version {number}")),
            expected: None,
        };
        for _ in 0..PATIENCE {
            let done = self.say(request.clone())?;
            self.look()?;
            match done {
                Done::Taken(_) => return Ok(()),
                Done::Refused(why) => return Err(Flaw::new(0, format!("version {number}: {why}"))),
                Done::Died => {}
            }
        }
        Err(Flaw::new(0, "the log can never be written".to_owned()))
    }

    /// Calls a person where one is waited for.
    pub(super) fn call_for_attention(&mut self) {
        if self.attended || self.down {
            return;
        }
        let wanted = match self.driver.job.waiting_on() {
            Some(WaitingOn::Promotion) => self.settings.promote_after.is_some(),
            Some(WaitingOn::Resume) => self.settings.resume || self.phase == Phase::Healing,
            _ => false,
        };
        if wanted {
            self.attended = true;
            let after = self
                .settings
                .promote_after
                .map_or(60_000, |s| s.as_millis());
            self.world.after(after, Happening::Attention);
        }
    }

    /// Does what a person is waited for, if it is still so.
    pub(super) fn attend(&mut self) -> Result<(), Flaw> {
        self.attended = false;
        let Some(id) = self.driver.job.deployment().map(|d| d.id) else {
            return Ok(());
        };
        let command = match self.driver.job.waiting_on() {
            Some(WaitingOn::Promotion) => Command::Promote(id),
            Some(WaitingOn::Resume) => Command::Resume(id),
            _ => return Ok(()),
        };
        self.keys += 1;
        let key = Some(format!("person {}", self.keys));
        let request = Request {
            command,
            key,
            expected: None,
        };
        if let Done::Refused(why) = self.say(request)? {
            return Err(Flaw::new(
                14,
                format!("what it waits for was refused: {why}"),
            ));
        }
        Ok(())
    }

    /// A command out of turn. Most are refused, and none may break a law.
    pub(super) fn mischief(&mut self) -> Result<(), Flaw> {
        let last = self.driver.job.deployment();
        let id = last.as_ref().map(|d| d.id);
        let any: Option<DeploymentId> = if self.folly.chance(0.9) {
            id
        } else {
            self.parts.parts.first().map(|part| part.id)
        };
        let deployment = any.unwrap_or_else(|| {
            let now = self.driver.clock(self.world.now);
            DeploymentId::derive(self.settings.seed, self.driver.job.id(), 999, now)
        });
        let command = match self.folly.pick(14) {
            0 | 1 => Command::Pause(deployment),
            2 | 3 => Command::Resume(deployment),
            4 | 5 => Command::Promote(deployment),
            6 => Command::Cancel(deployment),
            7 => Command::Fail {
                deployment,
                reason: "it looks odd".to_owned(),
            },
            8 => Command::RollBack {
                to: self
                    .folly
                    .chance(0.5)
                    .then(|| self.folly.within((1, 4)) as u32),
            },
            9 => Command::Restart,
            10 => Command::Stop,
            11 => Command::Scale {
                replicas: self.folly.within((0, 2 * u64::from(self.settings.nodes))) as u32,
            },
            _ => {
                if self.folly.chance(0.7) {
                    self.images += 1;
                }
                let image = self.images;
                let mut spec = spec(self.settings, image);
                if let Placement::Replicas { count, .. } = &mut spec.placement
                    && self.folly.chance(0.3)
                {
                    *count = self.folly.within((0, 2 * u64::from(self.settings.nodes))) as u32;
                }
                Command::Register {
                    spec: Box::new(spec),
                    members: None,
                    again: self.folly.chance(0.5),
                }
            }
        };
        let expected = self.folly.chance(0.1).then(|| self.folly.within((0, 20)));
        self.keys += u32::from(self.folly.chance(0.9));
        let key = self
            .folly
            .chance(0.5)
            .then(|| format!("mischief {}", self.keys));
        let request = Request {
            command,
            key,
            expected,
        };
        self.say(request)?;
        Ok(())
    }

    /// Whether a stop is under way, whose orders are to run nothing.
    pub(super) fn is_stopping(&self) -> bool {
        let job = &self.driver.job;
        let rollout = job.state.active();
        rollout.is_some_and(|r| r.head.kind == DeploymentKind::Stop)
    }
}
