//! What groups ask of their jobs. A group is asked only once what it and the job have said is safe, so what it orders in
//! one turn it hears of in a later one.

use std::collections::BTreeMap;
use std::sync::Arc;

use orchestrator_core::group::{self, Duty, Effect, Group, GroupState, Input, Outcome};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{Command, Job, JobId, Rejection, Request, Time};

use super::audit::audit;
use super::load::seed;
use super::{AGAIN_MILLIS, Loop, Turn, answer};
use crate::engine::groups::{OwnedGroup, Release, ShownGroup, refusals, row};
use crate::engine::machines::{Owned, chain, load_group};
use crate::engine::rows::json;
use crate::engine::{EngineError, Reply, Who};
use crate::store::{Append, Audit, BegunWith, Claim, GroupId, Line, Machine, Wanted};

/// How soon a group is read again that could not be.
const BROKEN_MILLIS: u64 = 5_000;

/// What one turn changes about one group.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) entries: Vec<group::Entry>,
    /// It begins in this turn.
    is_new: bool,
    audit: Vec<Audit>,
    pub(super) replies: Vec<Reply<Arc<ShownGroup>>>,
}

impl Loop {
    /// Claims and reads all groups that have not ended.
    pub(super) fn load_groups(&mut self) -> Result<(), EngineError> {
        let ids = self.runtime.block_on(self.store.running_groups())?;
        let wanted = ids.into_iter().map(wanted).collect();
        for claim in self.runtime.block_on(self.store.claim(wanted))? {
            let Machine::Group(id) = claim.machine else {
                continue;
            };
            self.read_group(id, claim, self.clock.1);
        }
        Ok(())
    }

    /// Reads a group. One that cannot be read keeps nobody else from being driven, and is tried again.
    fn read_group(&mut self, id: GroupId, claim: Claim, now: Time) {
        if let Err(why) = self.load_group(id, claim.clone()) {
            tracing::error!(group = %id, why = chain(&why), "the group cannot be read");
            let again = Time::from_millis(now.as_millis() + BROKEN_MILLIS);
            self.groups.is_broken(id, claim, again);
        }
    }

    fn load_group(&mut self, id: GroupId, claim: Claim) -> Result<(), EngineError> {
        let loaded = load_group(&*self.store, claim, id);
        let Some(owned) = self.runtime.block_on(loaded)? else {
            return Ok(());
        };
        let begun_with = self.runtime.block_on(self.store.begun_with(id))?;
        let begun_with = begun_with.ok_or(EngineError::NoSuchGroup(id))?;
        let release = serde_json::from_str(&begun_with.wanted);
        let release = release.map_err(|why| EngineError::Unreadable {
            machine: format!("group {id}"),
            why: why.to_string(),
        })?;
        let kept = self.runtime.block_on(self.store.group(id))?;
        let group = OwnedGroup {
            owned,
            begun_with,
            release,
            refusals: kept.as_ref().map(refusals).unwrap_or_default(),
        };
        if !is_over(&group.owned.machine) {
            let shown = row(id, &group, None);
            self.shown_groups.publish(shown.into());
            self.groups.insert(id, group);
        }
        Ok(())
    }

    /// A crash may have kept half a step.
    pub(super) fn catch_up_groups(&mut self, turn: &mut Turn) {
        let ids: Vec<GroupId> = self.groups.iter().map(|(id, _)| *id).collect();
        for id in ids {
            self.step_group(turn, id, Input::Tick);
        }
    }

    pub(super) fn begin_group(
        &mut self,
        turn: &mut Turn,
        release: Release,
        key: Option<String>,
        who: &Who,
        reply: Reply<Arc<ShownGroup>>,
    ) {
        let begun_with = BegunWith {
            key,
            wanted: json(&release),
        };
        match self.known(&begun_with) {
            Ok(None) => {}
            Ok(Some(id)) => return self.answer_group(turn, id, reply),
            Err(why) => return answer(reply, Err(why)),
        }
        match self.make_group(turn, release, begun_with, who) {
            Ok(id) => self.answer_group(turn, id, reply),
            Err(why) => answer(reply, Err(why)),
        }
    }

    /// The group that was begun under this key.
    fn known(&self, begun_with: &BegunWith) -> Result<Option<GroupId>, EngineError> {
        let Some(key) = &begun_with.key else {
            return Ok(None);
        };
        let mut running = self.groups.iter();
        let running = running.find(|(_, group)| group.begun_with.key.as_ref() == Some(key));
        let known = match running {
            Some((id, group)) => Some((*id, group.begun_with.clone())),
            None => {
                let known = self.store.group_of_key(key.clone());
                match self.runtime.block_on(known)? {
                    None => None,
                    Some(id) => {
                        let before = self.runtime.block_on(self.store.begun_with(id))?;
                        before.map(|before| (id, before))
                    }
                }
            }
        };
        match known {
            Some((_, before)) if before != *begun_with => {
                Err(Rejection::KeyReused(key.clone()).into())
            }
            known => Ok(known.map(|(id, _)| id)),
        }
    }

    fn make_group(
        &mut self,
        turn: &mut Turn,
        release: Release,
        begun_with: BegunWith,
        who: &Who,
    ) -> Result<GroupId, EngineError> {
        let name = &release.group.name;
        let running = self.groups.iter().find(|(_, group)| group.name() == name);
        if let Some((&id, _)) = running {
            let name = name.clone();
            return Err(EngineError::GroupRuns { name, id });
        }
        for spec in &release.jobs {
            let request = register(spec, release.again, None);
            self.plan(&spec.id, request).map_err(|why| match why {
                EngineError::Rejected(why) => EngineError::Member {
                    job: spec.id.clone(),
                    why,
                },
                why => why,
            })?;
        }
        let id = GroupId::new();
        let claims = self.runtime.block_on(self.store.claim(vec![wanted(id)]))?;
        let elsewhere = || EngineError::Elsewhere(format!("group {id}"));
        let claim = claims.into_iter().next().ok_or_else(elsewhere)?;
        let unreadable = |why: &dyn std::error::Error| EngineError::Unreadable {
            machine: format!("group {id}"),
            why: chain(why),
        };
        let begun = Group::new(turn.now, release.group.clone());
        let (machine, first) = begun.map_err(|why| unreadable(&why))?;
        let action = audit(turn.now, who, "begin", format!("group {name}, {id}"));
        let changed = turn.groups.entry(id).or_default();
        changed.entries.push(first);
        changed.is_new = true;
        changed.audit.push(action);
        let owned = Owned {
            machine,
            claim,
            grown: 0,
            snapshot: 0,
            deaf_since: None,
        };
        let group = OwnedGroup {
            owned,
            begun_with,
            release,
            refusals: BTreeMap::new(),
        };
        self.groups.insert(id, group);
        self.step_group(turn, id, Input::Start);
        Ok(id)
    }

    pub(super) fn cancel_group(
        &mut self,
        turn: &mut Turn,
        id: GroupId,
        who: &Who,
        reply: Reply<Arc<ShownGroup>>,
    ) {
        if self.groups.get(id).is_some() {
            if self.step_group(turn, id, Input::Cancel)
                && let Some(changed) = turn.groups.get_mut(&id)
            {
                let action = audit(turn.now, who, "cancel", format!("group {id}"));
                changed.audit.push(action);
            }
            return self.answer_group(turn, id, reply);
        }
        let ended = self.ended_group(id).and_then(|ended| match ended.state {
            GroupState::Canceled => Ok(ended),
            _ => Err(EngineError::GroupEnded(id)),
        });
        answer(reply, ended);
    }

    /// Answers with a group, as it is once this turn is safe.
    fn answer_group(&mut self, turn: &mut Turn, id: GroupId, reply: Reply<Arc<ShownGroup>>) {
        if self.groups.get(id).is_some() {
            return turn.groups.entry(id).or_default().replies.push(reply);
        }
        answer(reply, self.ended_group(id));
    }

    fn ended_group(&self, id: GroupId) -> Result<Arc<ShownGroup>, EngineError> {
        let row = self.runtime.block_on(self.store.group(id))?;
        let row = row.ok_or(EngineError::NoSuchGroup(id))?;
        Ok(Arc::new(row.into()))
    }

    /// Asks groups for their duty to jobs that something has happened to, and does it.
    pub(super) fn serve_groups(&mut self, turn: &mut Turn) {
        for (id, claim) in self.groups.take_broken(turn.now) {
            self.read_group(id, claim, turn.now);
            self.step_group(turn, id, Input::Tick);
        }
        for (id, job) in self.groups.take_due(turn.now) {
            self.serve(turn, id, job);
        }
    }

    fn serve(&mut self, turn: &mut Turn, id: GroupId, job: JobId) {
        if turn.jobs.contains_key(&job) {
            // What another group has just ordered may not be kept.
            return self.groups.ask(id, job, turn.now);
        }
        let missing = match self.find(&job, false) {
            Ok(()) => None,
            // It has never been, and is asked as if it were.
            Err(EngineError::NoSuchJob(_)) => Some(Job::new(job.clone(), seed(&job))),
            Err(why) => {
                tracing::error!(group = %id, %job, why = chain(&why), "a job of a group cannot be read");
                return self.groups.ask(id, job, later(turn));
            }
        };
        let known = self.jobs.get(&job).map(|owned| &owned.machine);
        let Some((group, machine)) = self.groups.get(id).zip(known.or(missing.as_ref())) else {
            return;
        };
        let Some(duty) = group.owned.machine.duty(machine) else {
            return;
        };
        let request = match duty {
            Duty::Tell(input) => {
                if self.step_group(turn, id, input) {
                    self.groups.ask(id, job, turn.now);
                }
                return;
            }
            // Nor may what it has just decided.
            Duty::Command(_) | Duty::Start { .. } if turn.groups.contains_key(&id) => {
                return self.groups.ask(id, job, turn.now);
            }
            Duty::Command(request) => request,
            Duty::Start { key } => {
                let release = &group.release;
                let Some(spec) = release.jobs.iter().find(|spec| spec.id == job) else {
                    return;
                };
                register(spec, release.again, Some(key))
            }
        };
        let who = Who {
            name: format!("group {}", group.name()),
            request: id.to_string(),
        };
        match self.command(turn, &job, None, request, &who, None) {
            Ok(()) => self.groups.ask(id, job, turn.now),
            Err((EngineError::Rejected(why), _)) => {
                tracing::warn!(group = %id, %job, %why, "a job refuses what its group orders");
                let known = self.jobs.get(&job).map(|owned| &owned.machine);
                let Some((group, machine)) = self.groups.get(id).zip(known.or(missing.as_ref()))
                else {
                    return;
                };
                let input = group.owned.machine.refused(machine, &why);
                let is_bad = matches!(
                    input,
                    Input::Finished {
                        outcome: Outcome::Failed,
                        ..
                    } | Input::RollbackFinished { ok: false, .. }
                );
                if let Some(group) = self.groups.get_mut(id).filter(|_| is_bad) {
                    group.refusals.insert(job.clone(), why.to_string());
                }
                if self.step_group(turn, id, input) {
                    self.groups.ask(id, job, turn.now);
                }
            }
            Err((why, _)) => {
                tracing::error!(group = %id, %job, why = chain(&why), "a group's order cannot be carried out");
                self.groups.ask(id, job, later(turn));
            }
        }
    }

    /// The only way to step a group. Says whether that changed anything.
    fn step_group(&mut self, turn: &mut Turn, id: GroupId, input: Input) -> bool {
        let Some(group) = self.groups.get_mut(id) else {
            return false;
        };
        match group.owned.machine.step(turn.now, input) {
            Ok(entries) if entries.is_empty() => false,
            Ok(entries) => {
                turn.groups.entry(id).or_default().entries.extend(entries);
                true
            }
            Err(why) => {
                tracing::error!(group = %id, %why, "the group refuses what the engine says");
                false
            }
        }
    }

    /// All that this turn changes about a group; nothing where it only has to be answered.
    pub(super) fn append_group(
        &self,
        turn: &Turn,
        id: GroupId,
        changed: &Changed,
    ) -> Option<Append> {
        let group = self.groups.get(id)?;
        let OwnedGroup {
            owned, begun_with, ..
        } = group;
        if changed.entries.is_empty() {
            return None;
        }
        let line = |entry: &group::Entry| Line {
            seq: entry.seq,
            of: None,
            at: entry.at,
            text: entry.encode(),
            words: None,
        };
        let lines: Vec<_> = changed.entries.iter().map(line).collect();
        let grown: usize = lines.iter().map(|line| line.text.len()).sum();
        let completed_at = is_over(&owned.machine).then_some(turn.now);
        Some(Append {
            log: owned.claim.log,
            epoch: owned.claim.epoch,
            expected: owned.claim.seq,
            lines,
            snapshot: (owned.snapshot_due(grown)).then(|| owned.machine.snapshot()),
            job: None,
            deployments: Vec::new(),
            targets: Vec::new(),
            group: Some(row(id, group, completed_at)),
            begun_with: changed.is_new.then(|| begun_with.clone()),
            nodes: Vec::new(),
            nodes_gone: Vec::new(),
            audit: changed.audit.clone(),
        })
    }

    /// What follows once what a turn has changed about a group is safe, or is not.
    pub(super) fn group_is_kept(
        &mut self,
        now: Time,
        id: GroupId,
        changed: Changed,
        lost: Option<&EngineError>,
    ) {
        if let Some(why) = lost {
            for reply in changed.replies {
                answer(reply, Err(why.clone()));
            }
            return;
        }
        let Some(group) = self.groups.get(id) else {
            return;
        };
        let is_over = is_over(&group.owned.machine);
        let shown = ShownGroup::from(row(id, group, is_over.then_some(now)));
        if !changed.entries.is_empty() {
            self.shown_groups.publish(shown.clone());
        }
        let shown = Arc::new(shown);
        for reply in changed.replies {
            answer(reply, Ok(shown.clone()));
        }
        if is_over {
            self.groups.remove(id);
            return;
        }
        let effects = changed.entries.iter().flat_map(group::Entry::effects);
        for job in effects.map(|effect: Effect| effect.job().clone()) {
            self.groups.ask(id, job, now);
        }
    }

    /// Drops a group that is ahead of its log, and reads it again; one that was to begin has never been.
    pub(super) fn reload_group(&mut self, id: GroupId, now: Time) {
        if let Some(group) = self.groups.remove(id) {
            self.read_group(id, group.owned.claim, now);
        }
    }
}

/// It has ended, so nothing of it will ever change.
fn is_over(group: &Group) -> bool {
    !matches!(
        group.state().state(),
        GroupState::Pending | GroupState::Running
    )
}

fn wanted(id: GroupId) -> Wanted {
    Wanted {
        machine: Machine::Group(id),
        seed: 0,
    }
}

fn register(spec: &JobSpec, again: bool, key: Option<String>) -> Request {
    Request {
        command: Command::Register {
            spec: Box::new(spec.clone()),
            members: None,
            again,
        },
        key,
        expected: None,
    }
}

/// When something is tried again that cannot be done now.
fn later(turn: &Turn) -> Time {
    Time::from_millis(turn.now.as_millis() + AGAIN_MILLIS)
}
