//! Groups of jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobDocument;

/// Several jobs, each to be brought to a document, in the order of what depends on what.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupDocument {
    /// Its name: 1 to 200 of letters, digits, `-`, `_` and `.`. Of those of one name only one is under way.
    pub name: String,
    /// What happens to the rest when a job ends badly; `rollback` if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<GroupOnFailure>,
    /// Its jobs, in any order: 1 to 1000.
    pub members: Vec<GroupMember>,
}

/// What happens to the rest when a job ends badly.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupOnFailure {
    /// What is connected with it by dependencies is taken back, in the reverse order.
    Rollback,
    /// What depends on it does not start; the rest goes on.
    Stop,
}

/// One job of a group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMember {
    /// Which: `namespace/job_id`, or `job_id` alone in the namespace `default`.
    pub job: String,
    /// The members that have to be completed before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What it is brought to.
    pub spec: JobDocument,
}

/// A group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Group {
    /// Which: a UUIDv7.
    pub id: String,
    /// Its name, which others have had before it.
    pub name: String,
    /// What happens to the rest when a job ends badly.
    pub on_failure: GroupOnFailure,
    /// Where it is.
    pub state: GroupState,
    /// What it waits for, or how it ended, in one sentence.
    pub message: String,
    /// Grows with every change.
    pub revision: u64,
    /// When it began.
    pub created_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// Its jobs, in the order in which they may start.
    pub members: Vec<GroupMemberStatus>,
}

/// Where a group is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// It has not begun.
    Pending,
    /// Jobs are brought to where they are to be, or are taken back.
    Running,
    /// Every job is where it was to be brought.
    Completed,
    /// Not every job is.
    Failed,
    /// An operator has ended it.
    Canceled,
}

/// Where a job of a group is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct GroupMemberStatus {
    /// The namespace of the job.
    pub namespace: String,
    /// Its name within that.
    pub job_id: String,
    /// What has to be completed before it starts.
    pub after: Vec<String>,
    /// What has become of it.
    pub state: GroupMemberState,
    /// The job whose bad end is the reason why it does not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
    /// The deployment that brings it there, also one that others have begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// The version that it came from; 0 = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<u32>,
    /// The deployment that takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_id: Option<String>,
    /// How its deployment ended, also where it was taken back later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<GroupMemberOutcome>,
    /// Why the job did not take what the group told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What has become of a job of a group.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupMemberState {
    /// It waits for those that it is after.
    Waiting,
    /// It was told to start, and has not come to an end.
    Running,
    /// It was on its way there already: that is waited for, and is not the group's to take back.
    Awaited,
    /// It is there.
    Completed,
    /// It was there before, and stays in any case.
    Unchanged,
    /// Badly ended.
    Failed,
    /// Badly ended, and it went back by itself.
    RolledBack,
    /// Somebody canceled it.
    Canceled,
    /// The group cancels it.
    Canceling,
    /// Canceled by the group; it waits for its turn to be taken back.
    Stopped,
    /// The group takes it back.
    RollingBack,
    /// Taken back by the group, or stopped before it had begun.
    TakenBack,
    /// It could not be taken back: a person has to look.
    TakeBackFailed,
    /// It never starts.
    Blocked,
}

/// How a deployment of a group's job ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupMemberOutcome {
    /// Well.
    Completed,
    /// Badly.
    Failed,
    /// Badly, and the job went back by itself.
    RolledBack,
    /// Somebody canceled it, or another deployment took its place.
    Canceled,
}

/// One group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct GroupResponse {
    /// It.
    pub group: Group,
}

/// A page of groups.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct GroupPage {
    /// They.
    pub groups: Vec<Group>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}
