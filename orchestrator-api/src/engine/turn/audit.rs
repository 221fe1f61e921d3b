//! What the audit log has of a turn.

use orchestrator_core::fleet;
use orchestrator_core::{Command, Time};

use crate::access::audit::{DONE, Record};
use crate::engine::Who;
use crate::store::Audit;

pub(super) fn action(command: &Command) -> &'static str {
    match command {
        Command::Register { .. } => "register",
        Command::Restart => "restart",
        Command::Stop => "stop",
        Command::RollBack { .. } => "rollback",
        Command::Scale { .. } => "scale",
        Command::Promote(_) => "promote",
        Command::Pause(_) => "pause",
        Command::Resume(_) => "resume",
        Command::Cancel(_) => "cancel",
        Command::Fail { .. } => "fail",
    }
}

/// What people do to nodes.
pub(super) fn audit_of_fleet(at: Time, who: &Who, input: &fleet::Input) -> Option<Audit> {
    let (action, node) = match input {
        fleet::Input::Join { name, leaving, .. } => match leaving {
            false => ("join", name),
            true => ("leave", name),
        },
        fleet::Input::Drain { name, .. } => ("drain", name),
        fleet::Input::Enable { name, .. } => ("enable", name),
        fleet::Input::Remove { name } => ("remove", name),
        _ => return None,
    };
    Some(audit(at, who, action, format!("node {node}")))
}

pub(super) fn audit(at: Time, who: &Who, action: &str, object: String) -> Audit {
    let record = Record {
        who: (&who.name).into(),
        request: (&who.request).into(),
        action: action.into(),
        object: object.into(),
        outcome: DONE.into(),
    };
    record.at(at)
}
