//! Settings drawn from a seed. Each draw turns most faults off: what is always on hides what it alone
//! would show.

use super::settings::{Behavior, Curve, Faults, Network, Settings};
use super::streams::Stream;
use crate::spec::{Canaries, HealthCheck, OnFailure, Placement, RolloutSpec, Strategy};
use crate::time::Span;

impl Settings {
    /// Some small fleet, some strategy, and some of the faults that there are: all of it drawn from
    /// the seed.
    pub fn swarm(seed: u64) -> Self {
        let mut draw = Stream::new(seed, "swarm");
        let nodes = match draw.pick(4) {
            0 => draw.within((1, 3)),
            1 | 2 => draw.within((2, 12)),
            _ => draw.within((5, 40)),
        } as u32;
        let zones = draw.one_of(&[0, 0, 2, 3]);
        let rollout = rollout(&mut draw, nodes, zones);
        let placement = if draw.chance(0.3) {
            Placement::Replicas {
                count: draw.within((0, 2 * u64::from(nodes))) as u32,
                distinct: draw.chance(0.4),
            }
        } else {
            Placement::Every
        };
        let placement = match placement {
            // More than there are nodes would wait for the others for ever.
            Placement::Replicas {
                count,
                distinct: true,
            } => Placement::Replicas {
                count: count.clamp(1, nodes),
                distinct: true,
            },
            Placement::Replicas { count, distinct } => Placement::Replicas {
                count: count.max(1),
                distinct,
            },
            Placement::Every => placement,
        };
        let faults = faults(&mut draw);
        let watch = if faults.commands > 0 {
            draw.within((600, 3600))
        } else {
            3600
        };
        Self {
            seed,
            nodes,
            zones,
            rollout,
            batch: draw.chance(0.1),
            placement,
            lost_after: Span::from_secs(draw.within((10, 600))),
            version: behavior(&mut draw),
            others: Behavior::HEALTHY,
            faults,
            promote_after: draw
                .chance(0.9)
                .then(|| Span::from_secs(draw.within((0, 300)))),
            resume: draw.chance(0.8),
            watch: Span::from_secs(watch),
            heal: true,
            quiet: draw.chance(0.2),
            grid_millis: draw.one_of(&[1, 1, 100, 1000]),
            recheck_every: 1,
        }
    }
}

fn rollout(draw: &mut Stream, nodes: u32, zones: u32) -> RolloutSpec {
    let min_healthy = draw.one_of(&[0, 1, 10, 30, 60]);
    let health_check = HealthCheck {
        deadline: Span::from_secs(min_healthy + draw.within((5, 300))),
        min_healthy_time: Span::from_secs(min_healthy),
        max_error_rate: draw.one_of(&[0.0, 0.05, 0.1, 0.5, 1.0]),
        interval: Span::from_secs(draw.within((2, 20))),
        failure_threshold: draw.within((0, 4)) as u8,
        min_samples: draw.one_of(&[0, 1, 10, 1000]),
    };
    let strategy = match draw.pick(4) {
        0 => Strategy::Immediate { health_check: None },
        1 => Strategy::Rolling { health_check },
        _ => Strategy::Canary {
            health_check,
            canaries: if draw.chance(0.5) {
                Canaries::Count(draw.within((1, 4)) as u32)
            } else {
                Canaries::Percent(draw.within((1, 100)) as u32)
            },
            auto_promote: draw.chance(0.5),
        },
    };
    RolloutSpec {
        strategy,
        max_parallel: if draw.chance(0.2) {
            0
        } else {
            draw.within((1, u64::from(nodes))) as u32
        },
        max_failed_nodes: draw.one_of(&[0, 1, 2, 10, 1000]),
        max_failed_nodes_percent: draw.one_of(&[0.0, 5.0, 10.0, 50.0, 100.0]),
        no_auto_rollback: draw.chance(0.1),
        on_failure: draw.one_of(&[
            OnFailure::Rollback,
            OnFailure::Rollback,
            OnFailure::Rollback,
            OnFailure::Pause,
            OnFailure::Fail,
        ]),
        spread: (zones > 0 && draw.chance(0.7)).then(|| "zone".to_owned()),
    }
}

fn behavior(draw: &mut Stream) -> Behavior {
    let mut version = Behavior::HEALTHY;
    let mut on = |chance: f64| draw.chance(chance);
    let (fails, slow, errors, flaps, crashes, exits, hangs, silent) = (
        on(0.3),
        on(0.2),
        on(0.25),
        on(0.2),
        on(0.15),
        on(0.1),
        on(0.15),
        on(0.2),
    );
    if fails {
        version.start_failure = draw.one_of(&[0.02, 0.1, 0.3, 1.0]);
    }
    if slow {
        version.slow_start = draw.one_of(&[0.1, 0.5, 1.0]);
        version.slow_factor = draw.one_of(&[5, 50, 500]);
    }
    if errors {
        version.errors = if draw.chance(0.5) {
            Curve::Constant(draw.one_of(&[0.02, 0.09, 0.2, 1.0]))
        } else {
            Curve::Ramp {
                from: 0.0,
                to: draw.one_of(&[0.2, 1.0]),
                over: Span::from_secs(draw.within((10, 600))),
            }
        };
        version.errors_on = draw.one_of(&[0.1, 0.5, 1.0]);
    }
    if flaps {
        version.flapping = draw.one_of(&[0.02, 0.2, 0.5]);
    }
    if crashes {
        version.crash = draw.one_of(&[0.01, 0.1]);
    }
    if exits {
        version.exit = draw.one_of(&[0.005, 0.05]);
    }
    if hangs {
        version.hang = draw.one_of(&[0.05, 0.3, 1.0]);
    }
    if silent {
        version.requests = draw.one_of(&[0, 5]);
    }
    version
}

fn faults(draw: &mut Stream) -> Faults {
    let mut faults = Faults::NONE;
    if draw.chance(0.15) {
        return faults;
    }
    // Any of them is on in a third of the fleets, and then at any rate.
    let rates = [3, 30, 300];
    for fault in [
        &mut faults.cuts,
        &mut faults.crashes,
        &mut faults.drains,
        &mut faults.unmatched,
        &mut faults.leaves,
        &mut faults.joins,
        &mut faults.restarts,
        &mut faults.clock_jumps,
        &mut faults.commands,
    ] {
        if draw.chance(0.33) {
            *fault = draw.one_of(&rates);
        }
    }
    faults.joins = faults.joins.min(30);
    faults.restarts = faults.restarts.min(60);
    if draw.chance(0.3) {
        faults.lost_share = draw.one_of(&[0.1, 0.5]);
    }
    faults.away_millis = (draw.within((1, 20_000)), draw.within((20_000, 1_200_000)));
    faults.clock_jump_millis = draw.one_of(&[500, 5_000, 120_000, 7_200_000]);
    if draw.chance(0.33) {
        faults.torn = draw.one_of(&[0.01, 0.1, 0.3]);
    }
    if draw.chance(0.33) {
        faults.deaf = draw.one_of(&[0.01, 0.1, 1.0]);
    }
    if draw.chance(0.5) {
        faults.network = Network {
            delay_millis: (1, draw.one_of(&[10, 1_000, 30_000])),
            drop: draw.one_of(&[0.0, 0.05, 0.3]),
            duplicate: draw.one_of(&[0.0, 0.1, 0.5]),
        };
    }
    faults
}
