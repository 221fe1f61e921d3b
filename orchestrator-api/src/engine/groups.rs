//! Groups of jobs: those that have not ended, what their jobs have to be asked about, and how they are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use orchestrator_core::group::{
    Group, GroupSpec, GroupState, MemberState, MemberStatus, OnFailure, Outcome,
};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{DeploymentId, JobId, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::machines::Owned;
use super::rows::json;
use crate::store::{BegunWith, Claim, GroupId, GroupRow};

/// How many jobs a sentence names.
const NAMES_MAX: usize = 5;

/// What a group is to bring its jobs to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Release {
    pub(super) group: GroupSpec,
    pub(super) jobs: Vec<JobSpec>,
    pub(super) again: bool,
}

impl Release {
    /// The jobs of this group to these documents; with `again`, also to those that were taken back before. `None` where
    /// there is not one document for each of its jobs.
    pub fn new(group: GroupSpec, jobs: Vec<JobSpec>, again: bool) -> Option<Self> {
        let mut named: Vec<&JobId> = group.members.iter().map(|member| &member.job).collect();
        let mut given: Vec<&JobId> = jobs.iter().map(|spec| &spec.id).collect();
        named.sort();
        given.sort();
        let fits = named == given;
        fits.then_some(Self { group, jobs, again })
    }
}

/// A group that has not ended.
#[derive(Debug)]
pub(super) struct OwnedGroup {
    pub(super) owned: Owned<Group>,
    pub(super) begun_with: BegunWith,
    pub(super) release: Release,
    /// What jobs have refused, and why: that is in no log, only in the row.
    pub(super) refusals: BTreeMap<JobId, String>,
}

impl OwnedGroup {
    pub(super) fn name(&self) -> &str {
        &self.release.group.name
    }
}

/// All groups that have not ended.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_id: BTreeMap<GroupId, OwnedGroup>,
    of_job: BTreeMap<JobId, BTreeSet<GroupId>>,
    /// Of which jobs they are to be asked for their duty, and from when on.
    due: BTreeMap<(GroupId, JobId), Time>,
    /// Groups that are ours and could not be read, and when that is tried again.
    broken: BTreeMap<GroupId, (Claim, Time)>,
}

impl Groups {
    pub(super) fn get(&self, id: GroupId) -> Option<&OwnedGroup> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> Option<&mut OwnedGroup> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&GroupId, &OwnedGroup)> {
        self.by_id.iter()
    }

    /// Takes a group in. Nothing of it is known to be under way, so it is asked about each of its jobs.
    pub(super) fn insert(&mut self, id: GroupId, group: OwnedGroup) {
        for member in group.owned.machine.state().members() {
            let job = member.job.clone();
            self.of_job.entry(job.clone()).or_default().insert(id);
            self.due.insert((id, job), Time::default());
        }
        self.by_id.insert(id, group);
    }

    pub(super) fn remove(&mut self, id: GroupId) -> Option<OwnedGroup> {
        let group = self.by_id.remove(&id)?;
        for member in group.owned.machine.state().members() {
            if let Some(groups) = self.of_job.get_mut(&member.job) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.of_job.remove(&member.job);
                }
            }
            self.due.remove(&(id, member.job.clone()));
        }
        Some(group)
    }

    /// Something has happened to a job.
    pub(super) fn note(&mut self, job: &JobId) {
        for id in self.of_job.get(job).into_iter().flatten() {
            self.due.insert((*id, job.clone()), Time::default());
        }
    }

    /// A group is to be asked for its duty to a job, not before this.
    pub(super) fn ask(&mut self, id: GroupId, job: JobId, at: Time) {
        if self.by_id.contains_key(&id) {
            self.due.insert((id, job), at);
        }
    }

    /// A group cannot be read; it is tried again, not before this.
    pub(super) fn is_broken(&mut self, id: GroupId, claim: Claim, again: Time) {
        self.broken.insert(id, (claim, again));
    }

    /// When the first of them is to be asked, or read again.
    pub(super) fn wake(&self) -> Option<Time> {
        let again = self.broken.values().map(|(_, again)| again);
        self.due.values().chain(again).min().copied()
    }

    /// Those that are to be read again by now.
    pub(super) fn take_broken(&mut self, now: Time) -> Vec<(GroupId, Claim)> {
        let due = self.broken.extract_if(.., |_, (_, again)| *again <= now);
        due.map(|(id, (claim, _))| (id, claim)).collect()
    }

    /// Those that are to be asked by now.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<(GroupId, JobId)> {
        let due = self.due.extract_if(.., |_, at| *at <= now);
        due.map(|(whom, _)| whom).collect()
    }
}

/// A group as it is shown: everything of it is safe.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownGroup {
    /// Its name to the world.
    pub id: GroupId,
    /// Where it is.
    pub state: GroupState,
    /// It will not change any more.
    pub is_over: bool,
    /// `{"group":{…}}`, the answer to who asks for it.
    pub answer: Bytes,
    /// Grows with every change.
    pub revision: u64,
}

/// What of a record is needed to show it, and to go on with it.
#[derive(Deserialize)]
struct Known {
    revision: u64,
    state: GroupState,
    members: Vec<KnownMember>,
}

#[derive(Deserialize)]
struct KnownMember {
    namespace: String,
    job_id: String,
    #[serde(default)]
    reason: Option<String>,
}

fn known(row: &GroupRow) -> Known {
    serde_json::from_str(&row.record).expect("every record says so")
}

/// What jobs have refused, as it stands in a row.
pub(super) fn refusals(row: &GroupRow) -> BTreeMap<JobId, String> {
    let refused = |member: KnownMember| {
        let job = JobId::new(&member.namespace, &member.job_id).ok()?;
        Some((job, member.reason?))
    };
    known(row).members.into_iter().filter_map(refused).collect()
}

impl From<GroupRow> for ShownGroup {
    fn from(row: GroupRow) -> Self {
        let Known {
            revision, state, ..
        } = known(&row);
        Self {
            id: row.id,
            state,
            is_over: row.completed_at.is_some(),
            revision,
            answer: format!("{{\"group\":{}}}", row.record).into(),
        }
    }
}

/// The groups that have not ended; others are in the store only.
#[derive(Debug, Default)]
pub(super) struct ShownGroups(RwLock<HashMap<GroupId, watch::Sender<Arc<ShownGroup>>>>);

impl ShownGroups {
    pub(super) fn watch(&self, id: GroupId) -> Option<watch::Receiver<Arc<ShownGroup>>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).map(watch::Sender::subscribe)
    }

    /// Shows it to everyone. Those who watch one that has ended learn that it will not change any more.
    pub(super) fn publish(&self, shown: ShownGroup) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (id, is_over) = (shown.id, shown.is_over);
        let shown = Arc::new(shown);
        match all.get(&id) {
            Some(sender) => drop(sender.send_replace(shown)),
            None => drop(all.insert(id, watch::Sender::new(shown))),
        }
        if is_over {
            all.remove(&id);
        }
    }
}

/// A group as the API shows it.
#[derive(Debug, Serialize)]
struct GroupRecord<'a> {
    id: GroupId,
    name: &'a str,
    on_failure: OnFailure,
    state: GroupState,
    message: String,
    revision: u64,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    members: Vec<MemberRecord<'a>>,
}

/// One of its jobs.
#[derive(Debug, Serialize)]
struct MemberRecord<'a> {
    namespace: &'a str,
    job_id: &'a str,
    after: &'a [JobId],
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment_id: Option<DeploymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_id: Option<DeploymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a String>,
}

/// The row of a group; with the moment of its end, once it has ended.
pub(super) fn row(id: GroupId, group: &OwnedGroup, completed_at: Option<Time>) -> GroupRow {
    let (group, refusals) = (&group.owned.machine, &group.refusals);
    let state = group.state();
    let spec = state.spec();
    // In the order in which they may start.
    let waves = group.plan().into_iter().flatten();
    let members = waves.filter_map(|job| {
        let member = state.member(&job)?;
        let after = spec.members.iter().find(|member| member.job == job)?;
        Some(member_record(member, &after.after, refusals.get(&job)))
    });
    let record = GroupRecord {
        id,
        name: &spec.name,
        on_failure: spec.on_failure,
        state: state.state(),
        message: message(group),
        revision: state.seq(),
        created_at: state.created_at().to_string(),
        completed_at: completed_at.map(|at| at.to_string()),
        members: members.collect(),
    };
    GroupRow {
        id,
        name: spec.name.clone(),
        completed_at,
        record: json(&record),
    }
}

fn member_record<'a>(
    member: &'a MemberStatus,
    after: &'a [JobId],
    reason: Option<&'a String>,
) -> MemberRecord<'a> {
    MemberRecord {
        namespace: member.job.namespace(),
        job_id: member.job.name(),
        after,
        state: word(&member.state),
        blocked_by: match &member.state {
            MemberState::Blocked { culprit } => Some(culprit),
            _ => None,
        },
        deployment_id: member.deployment,
        from_version: member.from,
        rollback_id: member.rollback,
        outcome: member.outcome,
        reason,
    }
}

/// As the API writes it.
fn word(state: &MemberState) -> &'static str {
    match state {
        MemberState::Waiting => "waiting",
        MemberState::Running => "running",
        MemberState::Awaited => "awaited",
        MemberState::Completed => "completed",
        MemberState::Unchanged => "unchanged",
        MemberState::Failed => "failed",
        MemberState::RolledBack => "rolled_back",
        MemberState::Canceled => "canceled",
        MemberState::Canceling => "canceling",
        MemberState::Stopped => "stopped",
        MemberState::RollingBack => "rolling_back",
        MemberState::TakenBack => "taken_back",
        MemberState::TakeBackFailed => "take_back_failed",
        MemberState::Blocked { .. } => "blocked",
    }
}

/// Where it is, or how it ended, in one sentence.
fn message(group: &Group) -> String {
    let state = group.state();
    if let Some(what) = group.waiting_on() {
        return format!("waiting for {what}");
    }
    if state.state() == GroupState::Completed {
        return "completed: every job is where it was to be brought".to_owned();
    }
    let ended = match state.state() {
        GroupState::Canceled => "canceled",
        _ => "failed",
    };
    let parts = [
        ("failed", "failed"),
        ("rolled_back", "failed and went back by itself"),
        ("canceled", "canceled"),
        ("taken_back", "taken back"),
        ("take_back_failed", "not taken back, look at it"),
        ("blocked", "not started"),
    ];
    let parts = parts.into_iter().filter_map(|(became, what)| {
        let members = state.members().iter();
        let those = members.filter(|member| word(&member.state) == became);
        let names: Vec<String> = those.map(|member| member.job.to_string()).collect();
        Some(format!("{} {what}", listed(&names)?))
    });
    let parts: Vec<String> = parts.collect();
    match parts.is_empty() {
        true => ended.to_owned(),
        false => format!("{ended}: {}", parts.join("; ")),
    }
}

fn listed(names: &[String]) -> Option<String> {
    let shown = names.get(..NAMES_MAX).unwrap_or(names).join(", ");
    match names.len() {
        0 => None,
        len if len > NAMES_MAX => Some(format!("{shown} and {} more", len - NAMES_MAX)),
        _ => Some(shown),
    }
}
