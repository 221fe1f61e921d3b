//! What operators ask for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Admitted, Rejection, clip, listed};
use crate::apply;
use crate::decide::aftermath;
use crate::draw::draw;
use crate::event::{Aftermath, Cause, DeploymentKind, DeploymentState, Event, Member, Want};
use crate::id::DeploymentId;
use crate::input::{Command, KEY_BYTES_MAX, Request};
use crate::rollout::{Rollout, TargetState};
use crate::spec::{JobSpec, Placement, REPLICAS_MAX};
use crate::state::{Slot, Stage, State, Version};

pub(crate) fn command(state: &State, request: &Request) -> Result<Admitted, Rejection> {
    let fits = |key: &&String| (1..=KEY_BYTES_MAX).contains(&key.len());
    if let Some(key) = request.key.as_ref().filter(|key| !fits(key)) {
        return Err(Rejection::KeyLength(key.len()));
    }
    let known = request.key.as_ref();
    if let Some(known) = known.and_then(|key| state.keys.iter().find(|known| known.key == *key)) {
        if known.digest != digest(&request.command) {
            return Err(Rejection::KeyReused(known.key.clone()));
        }
        return Ok(Admitted::Again(known.clone()));
    }
    if let Some(id) = request.command.deployment() {
        active(state, id)?;
    }
    if let Some(expected) = request.expected {
        let (what, found) = match request.command {
            Command::Register { .. }
            | Command::Restart
            | Command::Stop
            | Command::RollBack { .. }
            | Command::Scale { .. } => ("version", u64::from(state.version_max)),
            _ => (
                "revision",
                state.rollout.as_ref().map_or(0, |r| r.head.revision),
            ),
        };
        if expected != found {
            return Err(Rejection::Unexpected {
                what,
                expected,
                found,
            });
        }
    }
    let facts = match &request.command {
        Command::Register {
            spec,
            members,
            again,
        } => register(state, spec, members.as_deref(), *again)?,
        Command::Restart => vec![restart(state)?],
        Command::Stop => vec![stop(state)?],
        Command::RollBack { to } => vec![roll_back(state, *to)?],
        Command::Scale { replicas } => match state.replicas {
            None => return Err(Rejection::NotReplicated),
            Some(_) if *replicas > REPLICAS_MAX => {
                return Err(Rejection::TooManyReplicas(*replicas));
            }
            Some(now) => {
                let scaled = scale(state, *replicas);
                // A person means it also of the versions that may be gone back to.
                let other = |v: &Version| match v.spec.placement {
                    Placement::Replicas { count, .. } => count != *replicas,
                    Placement::Every => false,
                };
                let same = now == *replicas && !state.versions.values().any(other);
                let none = matches!(&scaled, Event::Scaled { retired, .. } if retired.is_empty());
                if same && none {
                    Vec::new()
                } else {
                    vec![scaled]
                }
            }
        },
        Command::Promote(id) => vec![promote(state, *id)?],
        Command::Pause(id) => match active(state, *id)?.head.state {
            DeploymentState::InProgress => vec![Event::Paused { failure: None }],
            state => {
                return Err(Rejection::DoesNotFit {
                    command: "pause",
                    state,
                });
            }
        },
        Command::Resume(id) => match active(state, *id)?.head.state {
            DeploymentState::Paused => vec![Event::Resumed],
            state => {
                return Err(Rejection::DoesNotFit {
                    command: "resume",
                    state,
                });
            }
        },
        Command::Cancel(id) => {
            active(state, *id)?;
            let cause = Cause::Operator {
                reason: String::new(),
            };
            vec![Event::Ended {
                state: DeploymentState::Canceled,
                cause,
                aftermath: Aftermath::Nothing,
            }]
        }
        Command::Fail { deployment, reason } => {
            let aftermath = aftermath(state, active(state, *deployment)?);
            let cause = Cause::Operator {
                reason: clip(reason),
            };
            vec![Event::Ended {
                state: DeploymentState::Failed,
                cause,
                aftermath,
            }]
        }
    };
    Ok(Admitted::Facts(facts))
}

/// A number that tells one command from another.
pub(crate) fn digest(command: &Command) -> u64 {
    let text = match command {
        Command::Register {
            spec,
            again,
            members: _,
        } => {
            format!(
                "register {again} {}",
                serde_json::to_string(spec).unwrap_or_default()
            )
        }
        Command::Restart => "restart".to_owned(),
        Command::Stop => "stop".to_owned(),
        Command::RollBack { to } => format!("roll back {to:?}"),
        Command::Scale { replicas } => format!("scale {replicas}"),
        Command::Promote(id) => format!("promote {id}"),
        Command::Pause(id) => format!("pause {id}"),
        Command::Resume(id) => format!("resume {id}"),
        Command::Cancel(id) => format!("cancel {id}"),
        Command::Fail { deployment, reason } => format!("fail {deployment} {reason}"),
    };
    draw(0, "command", text.as_bytes())
}

fn register(
    state: &State,
    spec: &JobSpec,
    members: Option<&[Member]>,
    again: bool,
) -> Result<Vec<Event>, Rejection> {
    if spec.id != state.id {
        return Err(Rejection::OtherJob {
            given: spec.id.clone(),
            own: state.id.clone(),
        });
    }
    spec.check()?;
    let mut facts = Vec::new();
    match members {
        Some(members) => facts = listed(state, members)?,
        None => {
            let same = |old: &Arc<JobSpec>| {
                old.selector == spec.selector && old.rollout.spread == spec.rollout.spread
            };
            if state.members_due || !state.spec().is_none_or(same) {
                return Err(Rejection::MembersNeeded);
            }
        }
    }
    let goal = match state.active() {
        Some(rollout) => rollout.head.to,
        None if state.is_whole() => state.current,
        None => 0,
    };
    let there = state
        .versions
        .get(&goal)
        .filter(|v| same_but_replicas(&v.spec, spec));
    if there.is_some() {
        if let (Placement::Replicas { count, .. }, Some(now)) = (spec.placement, state.replicas)
            && now != count
        {
            // Which of them go is known once it is known where they may run.
            let mut listed = Cow::Borrowed(state);
            for fact in &facts {
                apply::facts(listed.to_mut(), fact, &mut Vec::new());
            }
            facts.push(scale(&listed, count));
        }
        return Ok(facts);
    }
    let rejected = state
        .versions
        .iter()
        .rev()
        .find(|(_, v)| v.rejected && same_but_replicas(&v.spec, spec));
    if let Some((&version, _)) = rejected.filter(|_| !again) {
        return Err(Rejection::TakenBack { version });
    }
    let version = state.version_max + 1;
    facts.push(Event::Registered {
        version,
        spec: Arc::new(spec.clone()),
    });
    facts.push(Event::Requested(Want {
        kind: DeploymentKind::Update,
        to: version,
        from: 0,
        rollback_of: None,
    }));
    Ok(facts)
}

fn same_but_replicas(a: &JobSpec, b: &JobSpec) -> bool {
    let placement = match (a.placement, b.placement) {
        (Placement::Replicas { count, .. }, Placement::Replicas { distinct, .. }) => {
            Placement::Replicas { count, distinct }
        }
        (_, other) => other,
    };
    if a.placement != placement {
        return false;
    }
    // Every field but the placement: a new one has to be thought of here.
    let JobSpec {
        id,
        job_type,
        selector,
        placement: _,
        lost_after,
        rollout,
        workload,
    } = a;
    *id == b.id
        && *job_type == b.job_type
        && *selector == b.selector
        && *lost_after == b.lost_after
        && *rollout == b.rollout
        && *workload == b.workload
}

/// So many executions: who stays is chosen among those that are wanted and, where no deployment goes on, those that
/// one which did not complete has left out.
fn scale(state: &State, replicas: u32) -> Event {
    // Before it is known which nodes match nobody knows who is left out.
    let choose = state.active().is_none() && state.want.is_none() && !state.members_due;
    let live = |&slot: &u32| state.slots[slot as usize].live;
    let all = (0..state.slots.len() as u32).filter(live);
    let (own, mut left_out): (Vec<u32>, Vec<u32>) =
        all.partition(|slot| !state.surplus.contains(slot));
    if !choose {
        left_out.clear();
    }
    let keep = replicas as usize;
    if own.len() <= keep && left_out.is_empty() {
        return Event::Scaled {
            replicas,
            retired: Vec::new(),
        };
    }
    let spare = |slot: u32| {
        state
            .spare
            .contains(&(state.slots[slot as usize].told, slot))
    };
    let mut best: Vec<u32> = (own.iter().copied())
        .chain(left_out.iter().copied().filter(|&slot| spare(slot)))
        .collect();
    best.sort_by_cached_key(|&slot| (std::cmp::Reverse(worth(state, slot)), slot));
    if state.distinct() {
        let mut nodes = BTreeSet::new();
        best.retain(|&slot| !spare(slot) || nodes.insert(state.slots[slot as usize].node));
    }
    // Canaries that wait for a promotion stay by their share, and where they are well one of them at least: of what runs the
    // proven version not all is to go. The others of them are rather there than what runs nothing.
    let is_canary = |&slot: &u32| is_good_canary(state, slot);
    let canaries: Vec<u32> = best.iter().copied().filter(is_canary).collect();
    let well = canaries.iter().any(|&slot| worth(state, slot).2 == WELL);
    let share = (canaries.len() * keep / own.len().max(1)).max(usize::from(well));
    let first: BTreeSet<u32> = canaries.into_iter().take(share).collect();
    best.sort_by_cached_key(|&slot| {
        let (placed, ready, good) = worth(state, slot);
        let good = match is_good_canary(state, slot) {
            true => good.min(SOMETHING),
            false => good,
        };
        let is_first = first.contains(&slot);
        (std::cmp::Reverse((is_first, placed, ready, good)), slot)
    });
    let stay: BTreeSet<u32> = best.into_iter().take(keep).collect();
    let candidates = own.into_iter().chain(left_out);
    let retired = candidates.filter(|slot| !stay.contains(slot)).collect();
    Event::Scaled { replicas, retired }
}

/// Whether others wait for a canary that can still be one.
fn is_good_canary(state: &State, slot: u32) -> bool {
    let failed = |r: &Rollout| {
        let target = state.target_of(slot).map(|t| r.targets[t as usize].state());
        target == Some(TargetState::Failed)
    };
    state.is_canary(slot) && state.is_ready(slot) && !state.active().is_some_and(failed)
}

/// Of an execution that runs what it should, and was seen well there.
const WELL: u8 = 6;
/// Of one that runs something.
const SOMETHING: u8 = 2;

/// Whether the last deployment ended before it was seen how it goes there.
fn was_in_flight(state: &State, slot: u32) -> bool {
    let target = state.slots[slot as usize].target as usize;
    let last = state.rollout.as_ref().and_then(|r| r.targets.get(target));
    last.is_some_and(|target| target.slot == slot && target.state().is_in_flight())
}

/// How little an execution would be missed, the least first: what runs nowhere, what may not run, what runs nothing,
/// what does not run what it should or was not seen well there.
fn worth(state: &State, slot: u32) -> (bool, bool, u8) {
    let Slot { told, stage, .. } = state.slots[slot as usize];
    let target = |r: &Rollout| state.target_of(slot).map(|t| r.targets[t as usize]);
    let good = match state.active() {
        Some(rollout) => match target(rollout) {
            Some(target) => match target.state() {
                TargetState::Failed => 0,
                TargetState::Pending | TargetState::Skipped if told == 0 => 1,
                TargetState::Pending | TargetState::Skipped => {
                    let back = rollout.head.kind == DeploymentKind::Rollback;
                    let bad = back && told == rollout.head.from
                        || state.runs_what_failed(slot)
                        || stage == Stage::Failed;
                    if bad { SOMETHING } else { 5 }
                }
                TargetState::Updating | TargetState::Observing => 3,
                TargetState::Updated if target.is_well() => WELL,
                TargetState::Updated => 4,
            },
            // It runs what the others go to already.
            None => WELL,
        },
        None if told == 0 => 0,
        None if stage == Stage::Failed => 1,
        None if state.runs_what_failed(slot) => 2,
        None if was_in_flight(state, slot) => 3,
        None if state.current != 0 && told != state.current => 4,
        None if stage == Stage::Unproven => 5,
        None => WELL,
    };
    (!state.unplaced.contains(&slot), state.is_ready(slot), good)
}

fn restart(state: &State) -> Result<Event, Rejection> {
    if let Some(rollout) = state.active() {
        return Err(Rejection::Busy(rollout.head.id));
    }
    if state.told_other_than(0) == 0 {
        return Err(Rejection::NothingRuns);
    }
    // Those that run another version would have to go on with it, or change it outside of a wave.
    if state.current == 0 || !state.settled && state.leaves_any() {
        return Err(Rejection::Unsettled);
    }
    let told = state.versions.get(&state.current).map_or(0, |v| v.told);
    if told == 0 {
        return Err(Rejection::NothingRuns);
    }
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Restart,
        to: state.current,
        from: 0,
        rollback_of: None,
    }))
}

fn stop(state: &State) -> Result<Event, Rejection> {
    let stopping = state
        .active()
        .is_some_and(|r| r.head.kind == DeploymentKind::Stop);
    // Nodes that are away and have still to hear of a stop hear of it when they are back.
    let stopped = state.current == 0 && (state.settled || state.told_other_than(0) == 0);
    let idle = state.active().is_none() && stopped;
    if stopping || idle {
        return Err(Rejection::NothingRuns);
    }
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Stop,
        to: 0,
        from: 0,
        rollback_of: None,
    }))
}

fn roll_back(state: &State, to: Option<u32>) -> Result<Event, Rejection> {
    let last = state.rollout.as_ref();
    let leaving = state.leaving_version(to);
    let to = match to {
        Some(to) => {
            let version = state
                .versions
                .get(&to)
                .ok_or(Rejection::NoSuchVersion(to))?;
            if !version.stable {
                return Err(Rejection::NotStable(to));
            }
            to
        }
        // What failed goes back to what ran; what completed, to what was stable before it; and what was stopped, to
        // what ran then, or else to the newest.
        None if leaving == 0 => state
            .stopped_version()
            .or_else(|| state.stable_before(u32::MAX))
            .ok_or(Rejection::NoStableVersion)?,
        None => state
            .stable_before(leaving)
            .ok_or(Rejection::NoStableVersion)?,
    };
    let runs = state.versions.get(&to).is_some_and(|v| v.told > 0);
    let unproven = |slot| state.is_unproven(slot, to) && state.is_ready(slot);
    let proven = !(0..state.slots.len() as u32).any(unproven);
    let nothing_else = runs && state.told_other_than(to) == 0 && proven;
    // What is under way is called off by it, also before it has touched a node.
    let there = match state.active() {
        Some(rollout) => rollout.head.to == to,
        None => state.current == to && (state.is_whole() || nothing_else),
    };
    if there {
        return Err(Rejection::NothingToRollBack(to));
    }
    let from = state.leaving_version(Some(to));
    let rollback_of = last
        .filter(|r| r.head.to != to && r.head.to != 0)
        // One that began no wave is not what it takes back.
        .filter(|r| !r.head.state.is_final() || r.head.to == from)
        .map(|r| r.head.id);
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Rollback,
        to,
        from,
        rollback_of,
    }))
}

fn promote(state: &State, id: DeploymentId) -> Result<Event, Rejection> {
    let rollout = active(state, id)?;
    let head = &rollout.head;
    if !matches!(
        head.state,
        DeploymentState::InProgress | DeploymentState::Paused
    ) {
        return Err(Rejection::DoesNotFit {
            command: "promote",
            state: head.state,
        });
    }
    if head.canaries_wanted == 0 {
        return Err(Rejection::NothingToPromote(
            "this deployment has no canaries",
        ));
    }
    if head.promoted {
        return Err(Rejection::NothingToPromote("it was promoted before"));
    }
    if rollout.canaries_well() {
        let waiting = rollout.queue.iter().any(|t| {
            let target = &rollout.targets[t as usize];
            target.state() == TargetState::Pending && state.is_ready(target.slot)
        });
        if head.tally.canaries >= head.canaries_wanted || !waiting {
            return Ok(Event::Promoted { auto: false });
        }
        return Err(Rejection::NothingToPromote("canaries have still to start"));
    }
    let unwell = |&&t: &&u32| !rollout.targets[t as usize].is_well();
    let name = |&t: &u32| {
        state
            .members
            .name(state.slots[rollout.targets[t as usize].slot as usize].node)
            .to_owned()
    };
    if rollout.canaries.is_empty() {
        return Err(Rejection::NothingToPromote("no canary has started"));
    }
    Err(Rejection::CanariesNotHealthy {
        nodes: rollout
            .canaries
            .iter()
            .filter(unwell)
            .take(10)
            .map(name)
            .collect(),
        count: head.tally.canaries - head.tally.canaries_well,
        total: head.tally.canaries,
    })
}

fn active(state: &State, id: DeploymentId) -> Result<&Rollout, Rejection> {
    if let Some(rollout) = state.active().filter(|r| r.head.id == id) {
        return Ok(rollout);
    }
    let mut heads = state.rollout.iter().map(|r| &r.head).chain(&state.history);
    match heads.find(|h| h.id == id) {
        Some(head) => Err(Rejection::Over {
            id,
            state: head.state,
        }),
        None => Err(Rejection::NoSuchDeployment {
            job: state.id.clone(),
            id,
        }),
    }
}
