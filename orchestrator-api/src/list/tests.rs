//! Lists as a whole: rows, filters as text, and what they mean together.

mod errors;
mod filters;
mod laws;

use orchestrator_core::{DeploymentKind, DeploymentState, JobId, Time};

use crate::store::{DeploymentRow, LogId};

/// A deployment of prod/web that is under way. It began at the end of the 31st of January 2026.
fn row() -> DeploymentRow {
    let time = |text: &str| -> Time { text.parse().unwrap() };
    DeploymentRow {
        id: "01969af3-6c00-7a1b-8c2d-0123456789ab".parse().unwrap(),
        log: LogId(1),
        number: 1,
        job: JobId::new("prod", "Web.v2").unwrap(),
        kind: DeploymentKind::Update,
        state: DeploymentState::InProgress,
        from_version: 3,
        to_version: 4,
        total_nodes: 100,
        updated_nodes: 10,
        failed_nodes: 2,
        revision: 17,
        created_at: time("2026-01-31T23:59:59.999Z"),
        updated_at: time("2026-02-01T00:00:00Z"),
        completed_at: None,
        record: "{}".into(),
    }
}
