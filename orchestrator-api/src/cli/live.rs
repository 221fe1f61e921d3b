//! The picture of a deployment that goes on: its waves as bars, its counts, and what it waits for.

use orchestrator_core::Time;

use super::show::{Out, Paint, bar, cut, span, word};
use crate::native::schema::{Deployment, JobType, State, Strategy, Target};

/// How many waves are shown, the last ones that began.
const WAVES_MAX: usize = 8;
/// The lines beside theirs, and the one below. A picture that does not fit cannot be drawn over.
const OTHER_LINES: usize = 12;

/// What a deployment does, in a few words.
pub(super) fn what(shown: &Deployment) -> String {
    let kind = word(&shown.kind);
    let versions = match (shown.from_version, shown.to_version) {
        (0, to) => format!("version {to}"),
        (from, 0) => format!("version {from}"),
        (from, to) if from == to => format!("version {to}"),
        (from, to) => format!("version {from} to {to}"),
    };
    let strategy = word(&shown.spec.strategy);
    let pace = match (shown.spec.strategy, shown.spec.max_parallel) {
        (Strategy::Immediate, _) => String::new(),
        (_, 0) => ", all at once".to_owned(),
        (_, most) => format!(", {most} at a time"),
    };
    let batch = match shown.job_type {
        JobType::Batch => ", batch",
        JobType::Service => "",
    };
    format!("{kind}, {versions}, {strategy}{pace}{batch}")
}

/// Its nodes, as a bar and in numbers.
pub(super) fn nodes(shown: &Deployment, paint: Paint) -> String {
    let status = &shown.status;
    let bar = bar(
        status.updated_nodes,
        status.failed_nodes,
        status.in_flight_nodes,
        status.total_nodes,
        paint,
    );
    let mut text = format!(
        "{bar}  {} of {} updated",
        status.updated_nodes, status.total_nodes
    );
    for (number, what) in [
        (status.in_flight_nodes, "in flight"),
        (status.pending_nodes, "to come"),
        (status.skipped_nodes, "not ready"),
    ] {
        if number > 0 {
            text += &format!(", {number} {what}");
        }
    }
    text
}

/// What failed, and how much of that is tolerated.
fn failed(shown: &Deployment, paint: Paint) -> String {
    let (status, spec) = (&shown.status, &shown.spec);
    let share = 100.0 * f64::from(status.failed_nodes) / f64::from(status.total_nodes.max(1));
    let counted = format!("{} ({share:.1} %)", status.failed_nodes);
    let counted = match status.failed_nodes {
        0 => counted,
        _ => paint.bad(&counted),
    };
    format!(
        "{counted}, tolerated are {} and {} %",
        spec.max_failed_nodes, spec.max_failed_nodes_percent
    )
}

/// The targets of a wave, counted.
#[derive(Default)]
struct Wave {
    number: u32,
    canary: bool,
    all: u32,
    updated: u32,
    failed: u32,
    busy: u32,
}

fn waves(targets: &[Target]) -> Vec<Wave> {
    let mut waves: Vec<Wave> = Vec::new();
    for target in targets.iter().filter(|target| target.wave > 0) {
        let at = waves.binary_search_by_key(&target.wave, |wave| wave.number);
        let at = at.unwrap_or_else(|at| {
            let wave = Wave {
                number: target.wave,
                ..Wave::default()
            };
            waves.insert(at, wave);
            at
        });
        let wave = &mut waves[at];
        wave.canary |= target.canary;
        wave.all += 1;
        match target.state.as_str() {
            "updated" => wave.updated += 1,
            "failed" => wave.failed += 1,
            "assigned" | "healthy" => wave.busy += 1,
            _ => {}
        }
    }
    waves
}

/// The lines of the picture, none longer than the terminal is wide.
pub(super) fn picture(
    shown: &Deployment,
    targets: Option<&[Target]>,
    now: Time,
    out: &Out,
) -> Vec<String> {
    let (status, paint) = (&shown.status, out.paint);
    let job = format!("{}/{}", shown.namespace, shown.job_id);
    let state = word(&status.state);
    let began = status.created_at.parse::<Time>().unwrap_or(now);
    let ended = status.completed_at.as_ref().and_then(|at| at.parse().ok());
    let took = |until: Time| span(until.as_millis().saturating_sub(began.as_millis()));
    let mut lines = vec![
        format!("{}  {}", paint.bold(&job), what(shown)),
        format!(
            "{}  {}  {}",
            paint.state(&state),
            took(ended.unwrap_or(now)),
            paint.faint(&shown.id)
        ),
        String::new(),
    ];
    let named =
        |name: &str, text: String| format!("  {}{text}", paint.faint(&format!("{name:<12}")));
    let waves = waves(targets.unwrap_or_default());
    let hidden = waves
        .len()
        .saturating_sub(WAVES_MAX.min(out.height.saturating_sub(OTHER_LINES)));
    if hidden > 0 {
        let before = &waves[..hidden];
        let sum = |part: fn(&Wave) -> u32| before.iter().map(part).sum();
        let name = format!("waves 1..{}", waves[hidden - 1].number);
        let all: Wave = Wave {
            number: 0,
            canary: false,
            all: sum(|wave| wave.all),
            updated: sum(|wave| wave.updated),
            failed: sum(|wave| wave.failed),
            busy: sum(|wave| wave.busy),
        };
        lines.push(named(&name, all.text(paint)));
    }
    for wave in &waves[hidden..] {
        let name = match wave.canary {
            true => "canaries".to_owned(),
            false => format!("wave {}", wave.number),
        };
        lines.push(named(&name, wave.text(paint)));
    }
    lines.push(named("all nodes", nodes(shown, paint)));
    lines.push(named("failed", failed(shown, paint)));
    if let Some(check) = &shown.spec.health_check
        && shown.spec.strategy != Strategy::Immediate
    {
        let most = 100.0 * check.max_error_rate;
        let text = match bad(targets.unwrap_or_default()) {
            0 => format!("at most {most} % may fail, for {}", check.min_healthy_time),
            bad => paint.busy(&format!(
                "{bad} with a bad interval; at most {most} % may fail"
            )),
        };
        lines.push(named("requests", text));
    }
    let deadline = status.health_check_deadline.as_ref();
    let deadline = deadline.and_then(|at| at.parse::<Time>().ok());
    if let Some(deadline) = deadline.filter(|_| status.state == State::InProgress) {
        let left = deadline.as_millis().saturating_sub(now.as_millis());
        lines.push(named("deadline", format!("the next in {}", span(left))));
    }
    lines.push(String::new());
    lines.push(status.message.clone());
    lines.iter().map(|line| cut(line, out.width)).collect()
}

fn bad(targets: &[Target]) -> usize {
    targets
        .iter()
        .filter(|target| target.bad_intervals > 0)
        .count()
}

impl Wave {
    fn text(&self, paint: Paint) -> String {
        let bar = bar(self.updated, self.failed, self.busy, self.all, paint);
        let mut text = format!("{bar}  {} of {} updated", self.updated, self.all);
        if self.failed > 0 {
            text += &paint.bad(&format!(", {} failed", self.failed));
        }
        text
    }
}
