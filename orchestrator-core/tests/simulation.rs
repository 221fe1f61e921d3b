//! Fleets that go wrong in every way that is known: named stories, and a swarm of drawn ones.
//!
//! `SEEDS=10000` draws more of them; `SEED=42` plays one again and shows its settings;
//! `FIRST=500` begins elsewhere.

use orchestrator_core::sim::{Behavior, Curve, Faults, Network, Outcome, Settings, run};
use orchestrator_core::spec::{Canaries, HealthCheck, RolloutSpec, Strategy};
use orchestrator_core::{DeploymentState, Span};

/// So many that a build without optimization takes some seconds.
const SEEDS: u64 = 100;

fn health() -> HealthCheck {
    HealthCheck {
        deadline: Span::from_secs(300),
        min_healthy_time: Span::from_secs(30),
        max_error_rate: 0.1,
        interval: Span::from_secs(10),
        failure_threshold: 3,
        min_samples: 10,
    }
}

/// Twenty nodes, two canaries that a person promotes, then five at a time.
fn canary() -> Settings {
    Settings {
        seed: 7,
        nodes: 20,
        zones: 3,
        rollout: RolloutSpec {
            strategy: Strategy::Canary {
                health_check: health(),
                canaries: Canaries::Count(2),
                auto_promote: false,
            },
            max_parallel: 5,
            spread: Some("zone".to_owned()),
            ..RolloutSpec::default()
        },
        ..Settings::default()
    }
}

fn rolling() -> Settings {
    let strategy = Strategy::Rolling {
        health_check: health(),
    };
    let mut settings = canary();
    settings.rollout.strategy = strategy;
    settings
}

fn play(settings: &Settings) -> Outcome {
    run(settings).unwrap_or_else(|broken| panic!("{broken}\n{settings:#?}"))
}

#[test]
fn a_healthy_canary_completes() {
    let outcome = play(&canary());
    assert_eq!(outcome.message, "completed: 20 of 20 nodes updated");
    assert_eq!(outcome.current_version, 2);
    let sizes: Vec<_> = outcome.waves.iter().map(|w| (w.canary, w.size)).collect();
    let waves = [(true, 2), (false, 5), (false, 5), (false, 5), (false, 3)];
    assert_eq!(sizes, waves);
    assert!(outcome.waves.iter().all(|w| w.updated == w.size));
    assert_eq!(
        (outcome.blast.nodes, outcome.blast.failed_requests),
        (20, 0)
    );
    assert!(outcome.followed.is_none());
}

#[test]
fn a_third_that_cannot_start_is_taken_back() {
    let mut settings = rolling();
    settings.version.start_failure = 0.3;
    let outcome = play(&settings);
    assert_eq!(
        outcome.state,
        DeploymentState::Failed,
        "{}",
        outcome.message
    );
    let followed = outcome.followed.expect("a rollback");
    assert_eq!(
        followed.state,
        DeploymentState::Completed,
        "{}",
        followed.message
    );
    // By the agents' truth every node runs it: the run itself checks that.
    assert_eq!(outcome.current_version, 1);
    assert!(outcome.blast.nodes < 20, "{} nodes", outcome.blast.nodes);
}

#[test]
fn a_slow_burn_stops_a_rollout() {
    let mut settings = rolling();
    settings.version.errors = Curve::Ramp {
        from: 0.0,
        to: 0.4,
        over: Span::from_secs(240),
    };
    let outcome = play(&settings);
    assert_eq!(
        outcome.state,
        DeploymentState::Failed,
        "{}",
        outcome.message
    );
    assert!(outcome.waves[0].failed > 0, "{:?}", outcome.waves);
    assert_eq!(outcome.current_version, 1);
    assert!(outcome.blast.failed_requests > 0);
}

#[test]
fn flapping_is_no_progress_and_ends_at_the_deadline() {
    let mut settings = rolling();
    // Nothing but the deadline ends it.
    if let Strategy::Rolling { health_check } = &mut settings.rollout.strategy {
        health_check.failure_threshold = 0;
        health_check.min_healthy_time = Span::from_secs(120);
    }
    settings.version.flapping = 0.5;
    let outcome = play(&settings);
    assert_eq!(
        outcome.state,
        DeploymentState::Failed,
        "{}",
        outcome.message
    );
    assert_eq!(outcome.duration_millis, 300_000);
    assert_eq!(outcome.waves.len(), 1);
}

#[test]
fn a_driver_that_dies_at_every_step_ends_where_another_does() {
    for bad in [0.0, 0.3] {
        let mut calm = canary();
        calm.version.start_failure = bad;
        let mut dying = calm.clone();
        dying.faults.deaf = 1.0;
        let (calm, dying) = (play(&calm), play(&dying));
        assert!(dying.restarts >= 4, "{} restarts", dying.restarts);
        assert_eq!((calm.state, calm.message), (dying.state, dying.message));
        assert_eq!(calm.waves, dying.waves);
        assert_eq!(calm.current_version, dying.current_version);
        assert_eq!(calm.followed, dying.followed);
    }
}

#[test]
fn a_log_that_often_cannot_be_written_loses_nothing() {
    let mut settings = canary();
    settings.faults.torn = 0.5;
    let outcome = play(&settings);
    assert_eq!(outcome.message, "completed: 20 of 20 nodes updated");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let settings = Settings::swarm(seed);
        assert_eq!(play(&settings), play(&settings));
    }
    let other = Settings {
        seed: 8,
        ..canary()
    };
    assert_ne!(play(&canary()).digest, play(&other).digest);
}

#[test]
fn a_network_that_loses_a_third_still_converges() {
    let mut settings = canary();
    settings.faults.network = Network {
        delay_millis: (20, 4_000),
        drop: 0.3,
        duplicate: 0.3,
    };
    let outcome = play(&settings);
    assert_eq!(outcome.message, "completed: 20 of 20 nodes updated");
}

#[test]
fn a_large_fleet_takes_few_steps() {
    let settings = Settings {
        nodes: 10_000,
        quiet: true,
        grid_millis: 1000,
        recheck_every: 0,
        rollout: RolloutSpec {
            max_parallel: 1000,
            ..canary().rollout
        },
        ..canary()
    };
    let outcome = play(&settings);
    assert_eq!(outcome.message, "completed: 10000 of 10000 nodes updated");
    assert_eq!(outcome.waves.len(), 1 + 10);
    assert!(outcome.steps < 1_000, "{} steps", outcome.steps);
}

/// Now and then a check fails on a node that is well: among thousands there is always one.
#[test]
fn a_large_fleet_with_noise_comes_to_its_end() {
    for (strategy, parallel) in [(rolling(), 100), (canary(), 200)] {
        let settings = Settings {
            nodes: 1000,
            quiet: true,
            grid_millis: 1000,
            recheck_every: 50,
            version: Behavior {
                flapping: 0.01,
                ..Behavior::HEALTHY
            },
            rollout: RolloutSpec {
                max_parallel: parallel,
                ..strategy.rollout
            },
            ..strategy
        };
        let outcome = play(&settings);
        let waves = 1000 / parallel + u32::from(outcome.waves[0].canary);
        assert_eq!(
            outcome.state,
            DeploymentState::Completed,
            "{}",
            outcome.message
        );
        assert_eq!(outcome.waves.len(), waves as usize);
    }
}

#[test]
fn settings_and_outcomes_can_be_shown() {
    let settings = Settings {
        version: Behavior {
            start_failure: 0.5,
            ..Behavior::HEALTHY
        },
        faults: Faults::NONE,
        ..canary()
    };
    let shown = serde_json::to_value(&settings).expect("it can be shown");
    assert_eq!(shown["version"]["start_failure"], 0.5);
    let shown = serde_json::to_value(play(&settings)).expect("it can be shown");
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["followed"]["type"], "rollback");
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how many seeds is said from outside"
)]
fn a_swarm_breaks_no_law() {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        )
    };
    if let Some(seed) = number("SEED") {
        let settings = Settings::swarm(seed);
        println!("{settings:#?}");
        match run(&settings) {
            Ok(outcome) => println!("{outcome:#?}"),
            Err(broken) => panic!("{broken}"),
        }
        return;
    }
    let first = number("FIRST").unwrap_or(0);
    let mut broken = Vec::new();
    for seed in first..first + number("SEEDS").unwrap_or(SEEDS) {
        if let Err(mut violation) = run(&Settings::swarm(seed)) {
            violation.tail.clear();
            broken.push(violation.to_string());
        }
    }
    assert!(
        broken.is_empty(),
        "{} broken; play one again with SEED=…\n{}",
        broken.len(),
        broken.join("\n")
    );
}
