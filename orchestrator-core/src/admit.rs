//! The door: everything that is said to a job is checked here, and nowhere else.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::decide::aftermath;
use crate::draw::draw;
use crate::event::{
    Aftermath, Answered, Bad, Cause, DeploymentKind, DeploymentState, Event, Member, Presence,
    Reason, Want,
};
use crate::health::{Verdict, judge};
use crate::id::{DeploymentId, JobId, is_name};
use crate::input::{
    Command, Done, KEY_BYTES_MAX, NODES_MAX, NodeChange, Observation, Report, Request,
    TEXT_BYTES_MAX,
};
use crate::rollout::{Rollout, STOPPED, TargetState};
use crate::selector::LABEL_BYTES_MAX;
use crate::spec::{JobSpec, JobType, Placement, REPLICAS_MAX, SpecErrors};
use crate::state::{Moment, Slot, State};

/// Why an input was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The spec is another job's.
    #[error("the spec is of job {given}, this is job {own}")]
    OtherJob {
        /// The spec's.
        given: JobId,
        /// This one.
        own: JobId,
    },
    /// The spec breaks the rules of a document.
    #[error("the spec is not valid")]
    InvalidSpec(#[from] SpecErrors),
    /// More executions than a job may have.
    #[error("{0} replicas are more than a job may have ({REPLICAS_MAX})")]
    TooManyReplicas(u32),
    /// An idempotency key is too long to be kept.
    #[error("the idempotency key has {0} bytes: at most {KEY_BYTES_MAX} are kept")]
    KeyTooLong(usize),
    /// The value of a node's spread label is too long.
    #[error("the label of node {node} has {bytes} bytes: at most {LABEL_BYTES_MAX} are kept")]
    LabelTooLong {
        /// The node.
        node: String,
        /// How long it is.
        bytes: usize,
    },
    /// A node's name is none.
    #[error("{0:?} names no node: 1 to 200 of letters, digits, '-', '_' and '.'")]
    BadNodeName(String),
    /// A node is listed twice.
    #[error("node {0} is listed twice")]
    NodeTwice(String),
    /// More nodes than a job may have.
    #[error("{0} nodes are more than a job may have ({NODES_MAX})")]
    TooManyNodes(usize),
    /// The nodes that match have to be listed.
    #[error(
        "the selector or the spread label is another than before: list the nodes that match now"
    )]
    MembersNeeded,
    /// The very same was taken back before.
    #[error(
        "this is the same as version {version}, which was taken back; change it, or say that you want it again"
    )]
    TakenBack {
        /// The version that was taken back.
        version: u32,
    },
    /// Somebody else was faster.
    #[error("expected {expected}, but it is at {found}: look again")]
    Unexpected {
        /// What the caller believed.
        expected: u64,
        /// What is so.
        found: u64,
    },
    /// The key was used for another command.
    #[error("the idempotency key {0:?} was used for another command: take a new one")]
    KeyReused(String),
    /// Not a deployment that is under way.
    #[error("deployment {id} is {}: it takes no more commands", state.word())]
    Over {
        /// Which.
        id: DeploymentId,
        /// Its state.
        state: DeploymentState,
    },
    /// This job knows no such deployment.
    #[error("job {job} knows no deployment {id}")]
    NoSuchDeployment {
        /// This job.
        job: JobId,
        /// What was asked for.
        id: DeploymentId,
    },
    /// The command does not fit the deployment's state.
    #[error("cannot {command} a deployment that is {}", state.word())]
    DoesNotFit {
        /// The command.
        command: &'static str,
        /// The deployment's state.
        state: DeploymentState,
    },
    /// There is nothing to promote.
    #[error("there is nothing to promote: {0}")]
    NothingToPromote(&'static str),
    /// Canaries that are not healthy.
    #[error("{count} of {total} canaries are not healthy: {}", nodes.join(", "))]
    CanariesNotHealthy {
        /// The first of them, by the names of their nodes.
        nodes: Vec<String>,
        /// How many there are.
        count: u32,
        /// Of how many.
        total: u32,
    },
    /// A restart waits for what is under way.
    #[error("deployment {0} is under way: wait for its end, or cancel it")]
    Busy(DeploymentId),
    /// The job runs nowhere.
    #[error("the job runs nowhere: register a version first")]
    NothingRuns,
    /// Not every node runs the version that is in force, and none is on its way there.
    #[error(
        "the last deployment did not complete, and nodes run what it left: roll back, or register a version, before a restart"
    )]
    Unsettled,
    /// There is no such version.
    #[error("there is no version {0}")]
    NoSuchVersion(u32),
    /// The version never proved itself.
    #[error("version {0} was never stable: a rollback goes to a proven version only")]
    NotStable(u32),
    /// Nothing to go back to.
    #[error("there is no older stable version to go back to")]
    NoStableVersion,
    /// Every node runs it already.
    #[error("every node was last told to run version {0}: there is nothing to take back")]
    NothingToRollBack(u32),
    /// Entries are missing.
    #[error("a part of a step was taken in, {0} of its entries are missing: catch up first")]
    WithinStep(u32),
    /// The job runs once on every node.
    #[error("the job runs once on every matching node: only a job with `replicas` can be scaled")]
    NotReplicated,
}

/// What an accepted command leads to.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// These facts.
    Facts(Vec<Event>),
    /// The answer of the first time.
    Again(Answered),
}

/// Why a report changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// No deployment is under way.
    Idle,
    /// There is no such target.
    UnknownTarget,
    /// It is about an earlier assignment.
    Stale,
    /// It is about an assignment that was never made: somebody makes things up.
    Impossible,
    /// It, or a later one, was heard before.
    Duplicate,
    /// The target has its verdict.
    Decided,
    /// The node counts as lost: nothing good is believed before it is back.
    Lost,
    /// It says nothing new.
    NothingNew,
}

pub(crate) fn command(state: &State, request: &Request) -> Result<Admitted, Rejection> {
    if let Some(key) = request.key.as_ref().filter(|key| key.len() > KEY_BYTES_MAX) {
        return Err(Rejection::KeyTooLong(key.len()));
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
        let found = match request.command {
            Command::Register { .. }
            | Command::Restart
            | Command::Stop
            | Command::RollBack { .. }
            | Command::Scale { .. } => u64::from(state.version_max),
            _ => state.rollout.as_ref().map_or(0, |r| r.head.revision),
        };
        if expected != found {
            return Err(Rejection::Unexpected { expected, found });
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
            Some(now) => scale(state, now, *replicas).into_iter().collect(),
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

/// What a report amounts to, if anything.
pub(crate) fn report(state: &State, now: Moment, report: &Report) -> Result<Event, Ignored> {
    let rollout = state.active().ok_or(Ignored::Idle)?;
    let target = rollout
        .targets
        .get(report.target as usize)
        .ok_or(Ignored::UnknownTarget)?;
    let generation = rollout.generation(target);
    if report.generation > state.seq {
        return Err(Ignored::Impossible);
    }
    if generation == 0 || report.generation != generation {
        return Err(Ignored::Stale);
    }
    if report.number <= target.reported {
        return Err(Ignored::Duplicate);
    }
    let updated = target.state() == TargetState::Updated;
    if !updated && !target.state().is_in_flight() {
        return Err(Ignored::Decided);
    }
    let heard = vec![(report.target, report.number)];
    let failed = |reason| {
        Ok(Event::Failed {
            targets: [report.target].into_iter().collect(),
            reason,
        })
    };
    let passed = |heard| {
        if target.is_lost() {
            Err(Ignored::Lost)
        } else {
            Ok(Event::Updated { heard })
        }
    };
    let gate = rollout.head.spec.gate();
    let batch = rollout.head.batch;

    if rollout.head.kind == DeploymentKind::Stop {
        return match &report.what {
            Observation::Stopped | Observation::Exited { .. } if !updated => passed(heard),
            Observation::CannotStart { detail } => failed(Reason::CannotStart {
                detail: clip(detail),
            }),
            _ => Err(Ignored::NothingNew),
        };
    }
    match (&report.what, gate) {
        // What has done its work is done.
        _ if batch && updated => Err(Ignored::Decided),
        (Observation::CannotStart { detail }, _) => failed(Reason::CannotStart {
            detail: clip(detail),
        }),
        (Observation::Exited { code: 0 }, _) if batch => passed(heard),
        (Observation::Exited { code }, _) => failed(Reason::Exited { code: *code }),
        (Observation::Restarted, Some(gate)) if updated => Ok(unhealthy(
            rollout,
            report,
            Bad::Restart,
            gate.failure_threshold,
        )),
        // Also where no clock runs: a good report that was written before and comes after it starts none.
        (Observation::Restarted, Some(_)) if !batch => Ok(Event::Restarted { heard }),
        (Observation::Started | Observation::Restarted | Observation::Interval(_), None)
            if !updated && !batch =>
        {
            passed(heard)
        }
        (Observation::Interval(interval), Some(gate)) => {
            let by_rate = target.streak > 0 && target.bad_by_rate();
            match judge(*interval, gate, by_rate) {
                Verdict::Nothing => Err(Ignored::NothingNew),
                Verdict::Bad(cause) => {
                    Ok(unhealthy(rollout, report, cause, gate.failure_threshold))
                }
                // Of work that ends, health ends a row of bad intervals, and proves nothing.
                Verdict::Good if batch && target.streak == 0 => Err(Ignored::NothingNew),
                Verdict::Good if batch && target.is_lost() => Err(Ignored::Lost),
                Verdict::Good if batch => Ok(Event::Healthy { heard }),
                Verdict::Good => good(target, heard, now, gate.min_healthy_time.as_millis()),
            }
        }
        _ => Err(Ignored::NothingNew),
    }
}

/// What the end of an execution amounts to that no deployment waits for.
pub(crate) fn done(state: &State, done: Done) -> Result<Event, Ignored> {
    let Done { slot, generation } = done;
    let known = state.slots.get(slot as usize).filter(|s| s.live);
    let known = known.ok_or(Ignored::UnknownTarget)?;
    if generation > state.seq {
        return Err(Ignored::Impossible);
    }
    if u64::from(known.generation) != generation {
        return Err(Ignored::Stale);
    }
    if known.done {
        return Err(Ignored::Duplicate);
    }
    let version = state.versions.get(&known.told);
    let batch = version.is_some_and(|v| v.spec.job_type == JobType::Batch);
    if !batch || state.is_waited_for(slot) {
        return Err(Ignored::NothingNew);
    }
    Ok(Event::Done { slots: vec![slot] })
}

fn good(
    target: &crate::rollout::Target,
    heard: Vec<crate::event::Heard>,
    now: Moment,
    min_healthy: u64,
) -> Result<Event, Ignored> {
    if target.is_lost() {
        return Err(Ignored::Lost);
    }
    match target.state() {
        TargetState::Updating if min_healthy == 0 => Ok(Event::Updated { heard }),
        TargetState::Updating => Ok(Event::Healthy { heard }),
        // Health is continuous when it is seen again at the end: silence proves nothing. What comes
        // before is noted, or a copy of it that arrives later would pass for the end.
        TargetState::Observing
            if now.elapsed.saturating_sub(target.since.into()) >= min_healthy =>
        {
            Ok(Event::Updated { heard })
        }
        TargetState::Observing => Ok(Event::Healthy { heard }),
        TargetState::Updated if target.is_unproven() => {
            let since = u64::from(target.since);
            let shown = since != STOPPED && now.elapsed.saturating_sub(since) >= min_healthy;
            if shown || min_healthy == 0 {
                Ok(Event::Updated { heard })
            } else {
                Ok(Event::Healthy { heard })
            }
        }
        TargetState::Updated if target.streak > 0 => Ok(Event::Healthy { heard }),
        _ => Err(Ignored::NothingNew),
    }
}

fn unhealthy(rollout: &Rollout, report: &Report, cause: Bad, threshold: u8) -> Event {
    let count = rollout.targets[report.target as usize]
        .streak
        .saturating_add(1);
    if threshold > 0 && count >= threshold {
        let reason = Reason::BadIntervals { count, cause };
        return Event::Failed {
            targets: [report.target].into_iter().collect(),
            reason,
        };
    }
    Event::Unhealthy {
        heard: vec![(report.target, report.number)],
        cause,
    }
}

/// Checks all of `changes`, so that none of them is taken in when one is bad.
pub(crate) fn check_nodes(state: &State, changes: &[NodeChange]) -> Result<(), Rejection> {
    for change in changes {
        match change {
            NodeChange::Seen(member) => check_member(member)?,
            NodeChange::Became { name, .. } => check_name(name)?,
        }
    }
    let names = changes.iter().filter_map(|change| match change {
        NodeChange::Seen(member) => Some(member.name.as_str()),
        NodeChange::Became { .. } => None,
    });
    check_room(state, changes.len(), names)
}

/// Whether there is room for those of `names` that are new; `most` is how many there may be.
fn check_room<'a>(
    state: &State,
    most: usize,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Rejection> {
    let known = state.members.len() as usize;
    if known + most <= NODES_MAX {
        return Ok(());
    }
    let new = names.filter(|name| state.members.find(name).is_none());
    match known + new.count() {
        nodes if nodes > NODES_MAX => Err(Rejection::TooManyNodes(nodes)),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if is_name(name) {
        Ok(())
    } else {
        Err(Rejection::BadNodeName(clip(name)))
    }
}

fn check_member(member: &Member) -> Result<(), Rejection> {
    check_name(&member.name)?;
    if member.zone.len() > LABEL_BYTES_MAX {
        return Err(Rejection::LabelTooLong {
            node: member.name.clone(),
            bytes: member.zone.len(),
        });
    }
    Ok(())
}

/// What one change amounts to; nothing where the job knows it, or does not care.
pub(crate) fn node(state: &State, change: &NodeChange) -> Option<Event> {
    let (name, member, status) = match change {
        NodeChange::Seen(member) => (&member.name, Some(member), member.status),
        NodeChange::Became { name, status } => (name, None, *status),
    };
    let known = state
        .members
        .find(name)
        .filter(|&n| state.members.presence(n) != Presence::Gone);
    let Some(node) = known else {
        let joins = member.filter(|m| !matches!(m.status, Presence::Gone | Presence::Unmatched))?;
        return Some(Event::NodesJoined {
            nodes: vec![joins.clone()],
        });
    };
    if state.members.presence(node) != status {
        return Some(Event::NodesChanged {
            status,
            nodes: [node].into_iter().collect(),
        });
    }
    let member = member?;
    let replicated = state.replicas.is_some();
    let moved = !state.members.is_in_zone(node, &member.zone);
    (moved || replicated && state.members.load(node) != member.load).then(|| Event::NodeRelabeled {
        node,
        zone: member.zone.clone(),
        load: member.load,
    })
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
        None if state.settled => state.current,
        None => 0,
    };
    let there = state
        .versions
        .get(&goal)
        .filter(|v| same_but_replicas(&v.spec, spec));
    if there.is_some() {
        if let (Placement::Replicas { count, .. }, Some(now)) = (spec.placement, state.replicas) {
            facts.extend(scale(state, now, count));
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
        rollback_of: None,
    }));
    Ok(facts)
}

/// What the list of all nodes that match amounts to.
pub(crate) fn listed(state: &State, members: &[Member]) -> Result<Vec<Event>, Rejection> {
    let all = members.iter().map(|member| member.name.as_str());
    check_room(state, members.len(), all)?;
    let mut names = BTreeSet::new();
    let mut joined = Vec::new();
    let mut facts = Vec::new();
    for member in members {
        check_member(member)?;
        if !names.insert(member.name.as_str()) {
            return Err(Rejection::NodeTwice(member.name.clone()));
        }
        match node(state, &NodeChange::Seen(member.clone())) {
            Some(Event::NodesJoined { nodes }) => joined.extend(nodes),
            // A node that is known may differ in its status and in its label: two facts.
            Some(fact @ Event::NodesChanged { .. }) => {
                facts.push(fact);
                let known = state.members.find(&member.name);
                let moved = known.filter(|&n| !state.members.is_in_zone(n, &member.zone));
                facts.extend(moved.map(|node| Event::NodeRelabeled {
                    node,
                    zone: member.zone.clone(),
                    load: member.load,
                }));
            }
            Some(fact) => facts.push(fact),
            None => {}
        }
    }
    if !joined.is_empty() {
        facts.push(Event::NodesJoined { nodes: joined });
    }
    let left_out = |&n: &u32| {
        state.members.presence(n) != Presence::Unmatched && !names.contains(state.members.name(n))
    };
    let nodes: crate::runs::Runs = state.members.iter().filter(left_out).collect();
    if !nodes.is_empty() {
        facts.push(Event::NodesChanged {
            status: Presence::Unmatched,
            nodes,
        });
    }
    if state.members_due {
        facts.push(Event::MembersListed);
    }
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

fn scale(state: &State, now: u32, replicas: u32) -> Option<Event> {
    if now == replicas {
        return None;
    }
    let mut retired = Vec::new();
    if replicas < now {
        let own = |&slot: &u32| state.slots[slot as usize].live && !state.surplus.contains(&slot);
        let mut slots: Vec<u32> = (0..state.slots.len() as u32).filter(own).collect();
        // First what runs nowhere, then what may not run, then the youngest.
        slots.sort_by_key(|&slot| {
            (
                !state.unplaced.contains(&slot),
                state.is_ready(slot),
                std::cmp::Reverse(slot),
            )
        });
        // Canaries that wait for a promotion stay by their share, and one of them at least: neither is a version to
        // run on more nodes than before, nor are all of the proven one to go.
        let (canaries, others): (Vec<u32>, Vec<u32>) =
            slots.into_iter().partition(|&slot| state.is_canary(slot));
        let (all, keep) = ((canaries.len() + others.len()).max(1), replicas as usize);
        let share = (canaries.len() * keep / all).max(1).min(keep);
        let spare = canaries.len().saturating_sub(share);
        let less = (now - replicas) as usize - spare;
        retired = canaries.into_iter().take(spare).collect();
        retired.extend(others.into_iter().take(less));
    }
    Some(Event::Scaled { replicas, retired })
}

fn restart(state: &State) -> Result<Event, Rejection> {
    if let Some(rollout) = state.active() {
        return Err(Rejection::Busy(rollout.head.id));
    }
    if state.told_other_than(0) == 0 {
        return Err(Rejection::NothingRuns);
    }
    // Those that run another version would have to go on with it, or change it outside of a wave.
    let other = |(slot, s): (u32, &Slot)| {
        s.live && !state.surplus.contains(&slot) && s.told != 0 && s.told != state.current
    };
    if state.current == 0 || !state.settled && (0..).zip(&state.slots).any(other) {
        return Err(Rejection::Unsettled);
    }
    let told = state.versions.get(&state.current).map_or(0, |v| v.told);
    if told == 0 {
        return Err(Rejection::NothingRuns);
    }
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Restart,
        to: state.current,
        rollback_of: None,
    }))
}

fn stop(state: &State) -> Result<Event, Rejection> {
    let stopping = state
        .active()
        .is_some_and(|r| r.head.kind == DeploymentKind::Stop);
    // Nodes that are away and have still to hear of a stop hear of it when they are back.
    let stopped = state.settled && state.current == 0 || state.told_other_than(0) == 0;
    let idle = state.active().is_none() && stopped;
    if stopping || idle {
        return Err(Rejection::NothingRuns);
    }
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Stop,
        to: 0,
        rollback_of: None,
    }))
}

fn roll_back(state: &State, to: Option<u32>) -> Result<Event, Rejection> {
    let last = state.rollout.as_ref();
    let leaving = state.leaving_version();
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
        // What failed goes back to what ran; what completed, to what was stable before it; and what
        // was stopped, to the newest.
        None => state
            .stable_before(if leaving == 0 { u32::MAX } else { leaving })
            .ok_or(Rejection::NoStableVersion)?,
    };
    let nothing_runs = state.told_other_than(0) == 0;
    let untouched = state.told_other_than(to) == 0 && !nothing_runs;
    // What is under way is called off by it, also before it has touched a node.
    let there = match state.active() {
        Some(rollout) => rollout.head.to == to,
        None => untouched || state.settled && state.current == to,
    };
    if there {
        return Err(Rejection::NothingToRollBack(to));
    }
    let rollback_of = last
        .filter(|r| r.head.to != to && r.head.to != 0)
        .map(|r| r.head.id);
    Ok(Event::Requested(Want {
        kind: DeploymentKind::Rollback,
        to,
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

/// No more than is kept of a text from outside, cut between characters.
pub(crate) fn clip(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
