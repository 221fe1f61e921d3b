//! Watches a group to its end, and says what becomes of its jobs.

use orchestrator_core::Span;
use serde_json::Value;

use super::job;
use crate::cli::client::Client;
use crate::cli::error::Error;
use crate::cli::show::{Out, now, read, word};
use crate::cli::watch::{self, CANCELED, COMPLETED, FAILED, ROLLED_BACK, Screen, asked, within};
use crate::native::schema::{
    GetDeploymentResponse, Group, GroupMemberOutcome, GroupMemberState, GroupMemberStatus,
    GroupOnFailure, GroupResponse, GroupState, State,
};

/// What is watched here, as the command line calls it.
const GROUP: &str = "group";

/// Watches a group from what was answered about it to its end, the end of the time that is given to it, or an interrupt, and
/// gives the exit code.
pub(super) async fn watch(
    answer: Value,
    timeout: Option<Span>,
    client: &Client,
    out: &Out,
) -> Result<u8, Error> {
    let GroupResponse { group } = read(answer.clone())?;
    let watching = follow(answer, client, out);
    within(timeout, GROUP, &group.id, watching).await
}

async fn follow(mut answer: Value, client: &Client, out: &Out) -> Result<u8, Error> {
    // It has no picture: a line for each change is all there is to it.
    let mut screen = Screen::new(out);
    let mut before = None;
    loop {
        let GroupResponse { group } = read(answer.clone())?;
        show(&answer, &group, before.as_ref(), out)?;
        if let Some(code) = ended(&group) {
            if !out.json {
                explain(&group, client, out).await?;
            }
            return Ok(code);
        }
        let (id, revision) = (&group.id, group.revision);
        let path = format!("/v1/groups/{id}?revision={revision}&wait=30s");
        answer = asked(&path, GROUP, &mut screen, client, out).await?;
        before = Some(group);
    }
}

/// Shows what is another than before.
fn show(answer: &Value, group: &Group, before: Option<&Group>, out: &Out) -> Result<(), Error> {
    if out.json {
        return match before.is_some_and(|before| before == group) {
            true => Ok(()),
            false => out.line(answer),
        };
    }
    let known = |at: usize| before.and_then(|before| before.members.get(at));
    let members = group.members.iter().enumerate();
    let mut lines: Vec<String> = members
        .filter_map(|(at, member)| became(member, known(at)))
        .collect();
    if before.is_none_or(|before| before.message != group.message) {
        lines.push(group.message.clone());
    }
    let now = now();
    let lines = lines.iter().map(|line| format!("{now}  {line}\n"));
    out.say(&lines.collect::<String>())
}

/// What has become of a member that is another than before, and by which deployment; nothing where none has begun.
fn became(member: &GroupMemberStatus, before: Option<&GroupMemberStatus>) -> Option<String> {
    let begun = match member.state {
        GroupMemberState::Waiting => false,
        GroupMemberState::Running => member.deployment_id.is_some(),
        GroupMemberState::RollingBack => member.rollback_id.is_some(),
        _ => true,
    };
    if !begun || before == Some(member) {
        return None;
    }
    let is_known = |id: &String| before.is_some_and(|before| ids(before).any(|known| known == id));
    let deployment = ids(member).find(|id| !is_known(id));
    let deployment = deployment.map(|id| format!(", deployment {id}"));
    let (job, state) = (job(member), state(member));
    Some(format!("{job}: {state}{}", deployment.unwrap_or_default()))
}

/// Its deployments, the last one first.
fn ids(member: &GroupMemberStatus) -> impl Iterator<Item = &String> {
    member.rollback_id.iter().chain(&member.deployment_id)
}

/// Where a member is, in the API's word.
pub(super) fn state(member: &GroupMemberStatus) -> String {
    match &member.blocked_by {
        Some(culprit) => format!("{} by {culprit}", word(&member.state)),
        None => word(&member.state),
    }
}

/// The exit code of one that has ended.
fn ended(group: &Group) -> Option<u8> {
    use GroupMemberState::{Canceled, Failed, TakeBackFailed};
    let stays = |member: &GroupMemberStatus| {
        matches!(member.state, Failed | Canceled | TakeBackFailed)
            || group.on_failure == GroupOnFailure::Stop
    };
    match group.state {
        GroupState::Pending | GroupState::Running => None,
        GroupState::Completed => Some(COMPLETED),
        GroupState::Failed if group.members.iter().any(stays) => Some(FAILED),
        GroupState::Failed => Some(ROLLED_BACK),
        GroupState::Canceled => Some(CANCELED),
    }
}

/// Says of each member that ended badly why it did, but not of what the group itself has called off.
async fn explain(group: &Group, client: &Client, out: &Out) -> Result<(), Error> {
    for member in &group.members {
        let ended_badly = match member.outcome {
            Some(GroupMemberOutcome::Failed | GroupMemberOutcome::RolledBack) => true,
            Some(GroupMemberOutcome::Canceled) => {
                member.state == GroupMemberState::Canceled && group.state != GroupState::Canceled
            }
            Some(GroupMemberOutcome::Completed) | None => false,
        };
        if ended_badly {
            explain_member(member, member.deployment_id.as_ref(), client, out).await?;
        }
        if member.state == GroupMemberState::TakeBackFailed {
            explain_member(member, member.rollback_id.as_ref(), client, out).await?;
        }
    }
    Ok(())
}

/// Says what its deployment says; where there is none, why the job did not take what the group told it.
async fn explain_member(
    member: &GroupMemberStatus,
    deployment: Option<&String>,
    client: &Client,
    out: &Out,
) -> Result<(), Error> {
    let mut failed = None;
    let message = match deployment {
        None => {
            let why = member
                .reason
                .as_deref()
                .unwrap_or("the server's log says why");
            format!("it was refused: {why}")
        }
        Some(id) => match client.get(&format!("/v1/deployments/{id}")).await {
            Ok(answer) => {
                let GetDeploymentResponse { deployment } = read(answer)?;
                let message = deployment.status.message.clone();
                failed = Some(deployment).filter(|it| it.status.state == State::Failed);
                message
            }
            // It was so long ago that nobody knows any more.
            Err(why) if why.problem().is_some_and(|problem| problem.status == 404) => {
                return Ok(());
            }
            Err(why) => return Err(why),
        },
    };
    out.say(&format!("{}: {message}\n", job(member)))?;
    match failed {
        Some(failed) => watch::explain(&failed, client, out).await,
        None => Ok(()),
    }
}
