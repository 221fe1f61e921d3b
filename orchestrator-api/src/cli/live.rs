//! The picture of a deployment that goes on: its waves as bars, its counts, and what it waits for.

use orchestrator_core::{TargetState, Time};

use super::show::{Out, Paint, bar, cut, span, word};
use crate::native::schema::{Deployment, JobType, State, Strategy, Target};

/// How many waves are shown, the last ones that began.
const WAVES_MAX: usize = 8;
/// The lines beside theirs, and the one below.
const OTHER_LINES: usize = 12;

/// What a deployment does, in a few words.
pub(super) fn what(shown: &Deployment) -> String {
    let kind = word(&shown.kind);
    let versions = match (shown.from_version, shown.to_version) {
        (0, 0) => String::new(),
        (0, to) => format!(", version {to}"),
        (from, 0) => format!(", version {from}"),
        (from, to) if from == to => format!(", version {to}"),
        (from, to) => format!(", version {from} to {to}"),
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
    format!("{kind}{versions}, {strategy}{pace}{batch}")
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
    // Of one that is over nothing comes any more.
    let (in_flight, pending) = match status.completed_at {
        None => ("in flight", "to come"),
        Some(_) => ("not seen to the end", "not begun"),
    };
    for (number, what) in [
        (status.in_flight_nodes, in_flight),
        (status.pending_nodes, pending),
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

/// What to type where healthy canaries wait for a person, and what that does.
pub(super) fn choice(shown: &Deployment) -> Vec<(&'static str, String)> {
    if !waits_for_promotion(shown) {
        return Vec::new();
    }
    let command = |verb: &str| {
        let (namespace, job) = (&shown.namespace, &shown.job_id);
        format!("orchestrator deployment {verb} {namespace}/{job}")
    };
    vec![
        ("to go on", command("promote")),
        ("to take back", command("fail")),
    ]
}

/// Whether its canaries are healthy, and nothing goes on without a word.
pub(super) fn waits_for_promotion(shown: &Deployment) -> bool {
    shown.status.waiting_on.as_deref() == Some("promotion")
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
        // A later server may have other words.
        let state = serde_json::from_value(target.state.as_str().into());
        match state.ok() {
            Some(TargetState::Updated) => wave.updated += 1,
            Some(TargetState::Failed) => wave.failed += 1,
            Some(TargetState::Updating | TargetState::Observing) => wave.busy += 1,
            Some(TargetState::Pending | TargetState::Skipped) | None => {}
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
        |name: &str, text: String| format!("  {}{text}", paint.faint(&format!("{name:<14}")));
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
        let targets = targets.unwrap_or_default();
        let known = match all_errors(targets) {
            Some(known) => format!("{known} failed; "),
            None => String::new(),
        };
        let text = match bad(targets) {
            0 => format!(
                "{known}at most {most} % may fail, for {}",
                check.min_healthy_time
            ),
            bad => paint.busy(&format!(
                "{known}{bad} with a bad interval; at most {most} % may fail"
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
    let choice = choice(shown).into_iter();
    lines.extend(choice.map(|(name, command)| named(name, command)));
    lines.push(String::new());
    lines.push(status.message.clone());
    let lines: Vec<String> = lines.iter().map(|line| cut(line, out.width)).collect();
    fitting(lines, out.height)
}

/// What there is room for above the cursor: a picture that does not fit cannot be drawn over. The first two lines and the
/// last say most.
fn fitting(mut lines: Vec<String>, height: usize) -> Vec<String> {
    let most = height.saturating_sub(1).max(1);
    if lines.len() > most {
        lines.retain(|line| !line.is_empty());
    }
    let over = lines.len().saturating_sub(most);
    let first = (most - 1).min(2);
    lines.drain(first..first + over);
    lines
}

/// How many requests of a target failed in its last interval: `1.2 % of 250`.
pub(super) fn errors(target: &Target) -> Option<String> {
    share(target.failed_requests?.into(), target.requests?.into())
}

/// The same of all that were sent out.
fn all_errors(targets: &[Target]) -> Option<String> {
    let sent = targets.iter().filter(|target| target.wave > 0);
    let known = sent.filter_map(|target| target.failed_requests.zip(target.requests));
    let (failed, all) = known.fold((0, 0), |(failed, all), one| {
        (failed + u64::from(one.0), all + u64::from(one.1))
    });
    share(failed, all)
}

/// Nothing can be said of no request.
fn share(failed: u64, all: u64) -> Option<String> {
    let share = 100.0 * failed.min(all) as f64 / all as f64;
    (all > 0).then(|| format!("{share:.1} % of {all}"))
}

fn bad(targets: &[Target]) -> usize {
    targets
        .iter()
        .filter(|target| target.bad_intervals > 0 || target.unproven)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A canary and then two nodes at a time; so many waves are sent out, and the last of them is under way.
    fn rollout(sent: u32) -> (Deployment, Vec<Target>) {
        let total = 2 * sent + 9;
        let updated = 2 * sent - 4;
        let shown = json!({
            "from_version": 1, "id": "01900000-0000-7000-8000-000000000000", "job_id": "web", "job_type": "service",
            "namespace": "default", "to_version": 2, "type": "update",
            "spec": {
                "auto_promote": false, "canary_count": 1, "canary_percent": 0, "max_failed_nodes": 3,
                "max_failed_nodes_percent": 10.0, "max_parallel": 2, "no_auto_rollback": false,
                "on_failure": "rollback", "strategy": "canary",
                "health_check": {
                    "deadline": "5m", "max_error_rate": 0.05, "min_healthy_time": "30s", "interval": "10s",
                    "failure_threshold": 3, "min_samples": 10,
                },
            },
            "status": {
                "canary_promoted": true, "created_at": "2026-11-21T10:00:00.000Z", "current_wave": sent,
                "failed_nodes": 1, "message": "wave: going on", "revision": 9, "state": "in_progress",
                "total_nodes": total, "updated_at": "2026-11-21T10:01:00.000Z", "updated_nodes": updated,
                "pending_nodes": total - updated - 3, "in_flight_nodes": 2, "skipped_nodes": 0,
                "health_check_deadline": "2026-11-21T10:06:00.000Z",
            },
        });
        let target = |number: u32, wave: u32, state: &str, bad: u8| -> Value {
            json!({
                "target": number, "slot": number, "version": 2, "generation": 7, "node": format!("n{number}"), "state": state, "wave": wave, "canary": wave == 1,
                "bad_intervals": bad, "lost": false, "unproven": false,
            })
        };
        let mut targets = vec![target(0, 1, "updated", 0)];
        for wave in 2..=sent {
            let state = if wave == sent { "updating" } else { "updated" };
            let other = if wave == 2 { "failed" } else { state };
            targets.push(target(2 * wave, wave, state, u8::from(wave == sent)));
            targets.push(target(2 * wave + 1, wave, other, 0));
        }
        for target in &mut targets[1..3] {
            target["requests"] = json!(150);
            target["failed_requests"] = json!(3);
        }
        targets.push(target(9999, 0, "pending", 0));
        let read = |value: Value| serde_json::from_value(value).expect("it is a record");
        let targets = targets
            .into_iter()
            .map(|target| serde_json::from_value(target).expect("it is a record"));
        (read(shown), targets.collect())
    }

    fn drawn(sent: u32, width: usize, height: usize) -> Vec<String> {
        let (shown, targets) = rollout(sent);
        let out = Out {
            json: false,
            width: Some(width),
            height,
            paint: Paint(false),
        };
        let now = "2026-11-21T10:01:16.000Z".parse().expect("it is a time");
        picture(&shown, Some(&targets), now, &out)
    }

    #[test]
    fn a_picture_says_what_how_far_and_for_what_it_waits() {
        let expected = "\
default/web  update, version 1 to 2, canary, 2 at a time
in_progress  1m 16s  01900000-0000-7000-8000-000000000000

  canaries      ####################  1 of 1 updated
  wave 2        ##########xxxxxxxxxx  1 of 2 updated, 1 failed
  wave 3        ####################  2 of 2 updated
  wave 4        >>>>>>>>>>>>>>>>>>>>  0 of 2 updated
  all nodes     ####xx>>>...........  4 of 17 updated, 2 in flight, 10 to come
  failed        1 (5.9 %), tolerated are 3 and 10 %
  requests      2.0 % of 300 failed; 1 with a bad interval; at most 5 % may fail
  deadline      the next in 4m 44s

wave: going on";
        assert_eq!(drawn(4, 100, 40).join("\n"), expected);
    }

    #[test]
    fn a_picture_of_what_waits_for_a_person_says_what_to_type() {
        let (mut shown, _) = rollout(2);
        let commands = |shown: &Deployment| choice(shown).len();
        assert_eq!(commands(&shown), 0);
        shown.status.waiting_on = Some("promotion".to_owned());
        let out = Out {
            json: false,
            width: Some(80),
            height: 24,
            paint: Paint(false),
        };
        let lines = picture(&shown, None, Time::from_millis(0), &out);
        let expected = [
            "  to go on      orchestrator deployment promote default/web",
            "  to take back  orchestrator deployment fail default/web",
            "",
            "wave: going on",
        ];
        assert!(lines.ends_with(&expected.map(str::to_owned)), "{lines:#?}");
    }

    #[test]
    fn a_picture_fits_its_terminal() {
        for height in [2, 3, 4, 6, 10, 14, 16, 24, 60] {
            for sent in [2, 4, 9, 300] {
                let lines = drawn(sent, 40, height);
                assert!(
                    lines.len() < height,
                    "{sent} waves in {height} lines: {lines:#?}"
                );
                let fits = |line: &String| line.chars().count() <= 40;
                assert!(lines.iter().all(fits), "{lines:#?}");
                assert_eq!(lines.last().map(String::as_str), Some("wave: going on"));
            }
        }
        let lines = drawn(300, 100, 40);
        assert!(
            lines[3].starts_with("  waves 1..292  ###################x  "),
            "{lines:#?}"
        );
    }
}
