//! Each mistake with the message that its author reads.

use proptest::prelude::{
    Just, Strategy as Generator, any, prop, prop_assert_eq, prop_oneof, proptest,
};

use super::*;

/// The messages of a job that runs anywhere and has these fields on top.
fn job_errors(fields: &str) -> String {
    let text = format!(r#"{{"job_id": "web", "driver": "exec", "config": {{}}, {fields}}}"#);
    JobSpec::parse(&text).unwrap_err().to_string()
}

fn rollout_errors(text: &str) -> String {
    RolloutSpec::parse(text).unwrap_err().to_string()
}

/// One message for each rollout in the table.
fn check_rollouts(table: &[(&str, &str)]) {
    for (text, message) in table {
        assert_eq!(rollout_errors(text), *message, "{text}");
    }
}

fn some_check() -> HealthCheck {
    HealthCheck {
        deadline: Span::from_secs(300),
        min_healthy_time: Span::from_secs(30),
        max_error_rate: 0.1,
        interval: Span::from_secs(10),
        failure_threshold: 3,
        min_samples: 10,
    }
}

#[test]
fn what_is_not_given_has_its_default() {
    assert_eq!(RolloutSpec::parse("{}"), Ok(RolloutSpec::default()));
    let job =
        JobSpec::parse(r#"{"job_id": "web", "driver": "exec", "config": {"command": "/web"}}"#)
            .unwrap();
    assert_eq!(job.id.to_string(), "default/web");
    assert_eq!(
        (job.job_type, job.placement),
        (JobType::Service, Placement::Every)
    );
    assert_eq!(
        (job.selector, job.lost_after),
        (Selector::default(), Span::from_secs(300))
    );
    assert_eq!(job.rollout, RolloutSpec::default());
    assert_eq!(
        Value::Object(job.workload),
        json!({"driver": "exec", "config": {"command": "/web"}})
    );

    let rollout =
        RolloutSpec::parse(r#"{"strategy": "canary", "health_check": {"deadline": "5m"}}"#)
            .unwrap();
    let health_check = some_check();
    assert_eq!(
        rollout.strategy,
        Strategy::Canary {
            health_check,
            canaries: Canaries::Count(1),
            auto_promote: false
        }
    );
}

#[test]
fn an_explicit_zero_is_no_default() {
    let text = r#"{"max_failed_nodes": 0, "max_failed_nodes_percent": -0.0, "strategy": "canary",
        "canary_count": 0, "canary_percent": 0,
        "health_check": {"deadline": "1ms", "min_healthy_time": "0s", "failure_threshold": 0, "min_samples": 0}}"#;
    let rollout = RolloutSpec::parse(text).unwrap();
    assert_eq!(
        (rollout.max_failed_nodes, rollout.max_failed_nodes_percent),
        (0, 0.0)
    );
    assert!(rollout.max_failed_nodes_percent.is_sign_positive());
    let check = rollout.gate().unwrap();
    assert_eq!(
        (check.deadline, check.min_healthy_time),
        (Span::from_millis(1), Span::ZERO)
    );
    assert_eq!((check.failure_threshold, check.min_samples), (0, 0));
    assert!(matches!(
        rollout.strategy,
        Strategy::Canary {
            canaries: Canaries::Count(1),
            ..
        }
    ));
}

#[test]
fn the_record_names_every_field() {
    let text = r#"{"strategy": "canary", "canary_percent": 5, "auto_promote": true, "spread": "zone",
        "max_parallel": 4, "health_check": {"deadline": "1h 30m"}}"#;
    assert_eq!(
        RolloutSpec::parse(text).unwrap().to_json(),
        json!({
            "strategy": "canary",
            "max_parallel": 4,
            "canary_count": 0,
            "canary_percent": 5,
            "auto_promote": true,
            "health_check": {
                "deadline": "1h 30m",
                "min_healthy_time": "30s",
                "max_error_rate": 0.1,
                "interval": "10s",
                "failure_threshold": 3,
                "min_samples": 10,
            },
            "max_failed_nodes": 10,
            "max_failed_nodes_percent": 10.0,
            "no_auto_rollback": false,
            "on_failure": "rollback",
            "spread": "zone",
        })
    );
    assert_eq!(
        RolloutSpec::parse(r#"{"auto_promote": true}"#)
            .unwrap()
            .to_json(),
        json!({
            "strategy": "immediate",
            "max_parallel": 0,
            "canary_count": 0,
            "canary_percent": 0,
            "auto_promote": false,
            "max_failed_nodes": 10,
            "max_failed_nodes_percent": 10.0,
            "no_auto_rollback": false,
            "on_failure": "rollback",
        })
    );
}

#[test]
fn a_job_survives_its_document() {
    let text = r#"{"namespace": "shop", "job_id": "web", "job_type": "batch", "selector": "gpu,zone in (b,a)",
        "placement": {"replicas": 3, "distinct": true}, "lost_after": "90s",
        "rollout": {"health_check": {"deadline": "5m"}, "on_failure": "pause"},
        "driver": "docker", "config": {"image": "web:1"}, "env": {"A": "x", "B": 1.5, "C": true},
        "resources": {}, "ports": [80], "volumes": [], "artifact": {}, "checks": [{}], "error_rate": {},
        "switch": "start_first", "restart": {}, "labels": {"team": "web"}}"#;
    let job = JobSpec::parse(text).unwrap();
    assert_eq!(job.workload.len(), 12);
    assert_eq!(
        job.rollout.strategy,
        Strategy::Immediate {
            health_check: Some(some_check())
        }
    );
    assert_eq!(JobSpec::from_value(&job.to_json()), Ok(job.clone()));
    assert_eq!(JobSpec::parse(&job.to_json().to_string()), Ok(job.clone()));
    let logged = serde_json::to_string(&job).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&logged).unwrap(), job);
}

#[test]
fn replicas_may_be_said_at_the_top() {
    let placement = |field: &str| {
        let text = format!(r#"{{"job_id": "web", "driver": "exec", "config": {{}}, {field}}}"#);
        JobSpec::parse(&text).unwrap().placement
    };
    assert_eq!(
        placement(r#""replicas": 0"#),
        Placement::Replicas {
            count: 0,
            distinct: false
        }
    );
    assert_eq!(
        placement(r#""placement": {"replicas": 2}"#),
        Placement::Replicas {
            count: 2,
            distinct: false
        }
    );
    assert_eq!(placement(r#""placement": "every""#), Placement::Every);
}

#[test]
fn a_workload_made_by_hand_has_no_field_of_the_specs() {
    let text = r#"{"job_id": "web", "driver": "exec", "config": {}}"#;
    for field in JOB_FIELDS {
        let mut job = JobSpec::parse(text).unwrap();
        job.workload.insert(field.to_owned(), json!(3));
        let message =
            format!("{field}: 3 is not allowed; no part of a workload: the spec has it already");
        assert_eq!(job.check().unwrap_err().to_string(), message);
    }
    let mut job = JobSpec::parse(text).unwrap();
    job.workload = Map::from_iter([("image".to_owned(), json!("web:1"))]);
    assert_eq!(job.check(), Ok(()));
}

#[test]
fn mistakes_in_a_rollout() {
    check_rollouts(&[
        ("[]", "document: [] is not allowed; an object"),
        (
            r#"{"strategy": "blue"}"#,
            r#"strategy: "blue" is not allowed; one of immediate, rolling, canary"#,
        ),
        (
            r#"{"max_parallel": -1}"#,
            "max_parallel: -1 is not allowed; a whole number from 0 to 4294967295",
        ),
        (
            r#"{"max_failed_nodes": 4294967296}"#,
            "max_failed_nodes: 4294967296 is not allowed; a whole number from 0 to 4294967295",
        ),
        (
            r#"{"max_failed_nodes": 1.5}"#,
            "max_failed_nodes: 1.5 is not allowed; a whole number from 0 to 4294967295",
        ),
        (
            r#"{"max_failed_nodes_percent": 100.1}"#,
            "max_failed_nodes_percent: 100.1 is not allowed; a number from 0 to 100",
        ),
        (
            r#"{"max_failed_nodes_percent": "NaN"}"#,
            r#"max_failed_nodes_percent: "NaN" is not allowed; a number from 0 to 100"#,
        ),
        (
            r#"{"no_auto_rollback": null}"#,
            "no_auto_rollback: null is not allowed; true or false",
        ),
        (
            r#"{"on_failure": "stop"}"#,
            r#"on_failure: "stop" is not allowed; one of rollback, pause, fail"#,
        ),
        (
            r#"{"spread": ""}"#,
            "spread: \"\" is not allowed; the key of a node label; \
             a key is 1 to 63 of letters, digits, '-', '_', '.' and '/'",
        ),
    ]);
}

#[test]
fn mistakes_with_canaries() {
    check_rollouts(&[
        (
            r#"{"canary_count": 3}"#,
            "canary_count: 3 is not allowed; 0, or the strategy canary, which alone has canaries",
        ),
        (
            r#"{"strategy": "rolling", "canary_percent": 3, "health_check": {"deadline": "5m"}}"#,
            "canary_percent: 3 is not allowed; 0, or the strategy canary, which alone has canaries",
        ),
        (
            r#"{"strategy": "canary", "canary_count": 2, "canary_percent": 10, "health_check": {"deadline": "5m"}}"#,
            "canary_percent: 10 is not allowed; 0, because canary_count is 2",
        ),
        (
            r#"{"strategy": "canary", "canary_percent": 101, "health_check": {"deadline": "5m"}}"#,
            "canary_percent: 101 is not allowed; a whole number from 0 to 100",
        ),
        (
            r#"{"strategy": "canary", "auto_promote": 1, "health_check": {"deadline": "5m"}}"#,
            "auto_promote: 1 is not allowed; true or false",
        ),
    ]);
}

#[test]
fn mistakes_in_a_health_check() {
    let table = [
        (
            r#"{}"#,
            "health_check.deadline: missing; a length of time such as \"1m 30s\", from 1ms to 30days",
        ),
        (
            r#"{"deadline": "0s"}"#,
            "health_check.deadline: \"0s\" is not allowed; a length of time such as \"1m 30s\", from 1ms to 30days",
        ),
        (
            r#"{"deadline": 300}"#,
            "health_check.deadline: 300 is not allowed; a length of time such as \"1m 30s\", from 1ms to 30days",
        ),
        (
            r#"{"deadline": "31days"}"#,
            "health_check.deadline: \"31days\" is not allowed; a length of time such as \"1m 30s\", from 1ms to 30days",
        ),
        (
            r#"{"deadline": "30s"}"#,
            "health_check.deadline: \"30s\" is not allowed; \
             more than min_healthy_time, which is 30s when it is not given",
        ),
        (
            r#"{"deadline": "1m", "min_healthy_time": "2m"}"#,
            "health_check.deadline: \"1m\" is not allowed; more than min_healthy_time, which is 2m",
        ),
        (
            r#"{"deadline": "1m", "min_healthy_time": "-2m"}"#,
            "health_check.min_healthy_time: \"-2m\" is not allowed; \
             a length of time such as \"1m 30s\", from 0s to 30days",
        ),
        (
            r#"{"deadline": "1m", "max_error_rate": 1.01}"#,
            "health_check.max_error_rate: 1.01 is not allowed; a number from 0 to 1",
        ),
        (
            r#"{"deadline": "1m", "interval": "999ms"}"#,
            "health_check.interval: \"999ms\" is not allowed; a length of time such as \"1m 30s\", from 1s to 1day",
        ),
        (
            r#"{"deadline": "1m", "interval": "99999999999999999999y"}"#,
            "health_check.interval: \"99999999999999999999y\" is not allowed; \
             a length of time such as \"1m 30s\", from 1s to 1day",
        ),
        (
            r#"{"deadline": "1m", "failure_threshold": 101}"#,
            "health_check.failure_threshold: 101 is not allowed; a whole number from 0 to 100",
        ),
        (
            r#"{"deadline": "1m", "min_samples": "9"}"#,
            "health_check.min_samples: \"9\" is not allowed; a whole number from 0 to 4294967295",
        ),
    ];
    for (check, message) in table {
        for strategy in ["immediate", "rolling", "canary"] {
            let text = format!(r#"{{"strategy": "{strategy}", "health_check": {check}}}"#);
            assert_eq!(rollout_errors(&text), message);
        }
    }
    check_rollouts(&[
        (
            r#"{"strategy": "rolling"}"#,
            "health_check: missing; an object with a deadline, because rolling and canary need one",
        ),
        (
            r#"{"strategy": "canary"}"#,
            "health_check: missing; an object with a deadline, because rolling and canary need one",
        ),
    ]);
}

#[test]
fn mistakes_in_a_job() {
    for (fields, message) in [
        (
            r#""namespace": "a/b""#,
            r#"namespace: "a/b" is not allowed; 1 to 200 of letters, digits, '-', '_' and '.'"#,
        ),
        (
            r#""job_type": "cron""#,
            r#"job_type: "cron" is not allowed; one of service, batch"#,
        ),
        (
            r#""selector": "zone in eu""#,
            "selector: \"zone in eu\" is not allowed; a selector such as \"zone in (eu-1, eu-2), gpu, !spot\"; \
             character 9: expected '('",
        ),
        (
            r#""selector": {}"#,
            "selector: {} is not allowed; a selector such as \"zone in (eu-1, eu-2), gpu, !spot\"",
        ),
        (
            r#""placement": "all""#,
            r#"placement: "all" is not allowed; "every" or an object with replicas and distinct"#,
        ),
        (
            r#""placement": {}"#,
            "placement.replicas: missing; a whole number from 0 to 1000000",
        ),
        (
            r#""placement": {"replicas": 1, "distinct": 1}"#,
            "placement.distinct: 1 is not allowed; true or false",
        ),
        (
            r#""replicas": 1000001"#,
            "replicas: 1000001 is not allowed; a whole number from 0 to 1000000",
        ),
        (
            r#""replicas": 1, "placement": "every""#,
            "replicas: 1 is not allowed; only one of placement and replicas",
        ),
        (
            r#""lost_after": "5 minuten""#,
            "lost_after: \"5 minuten\" is not allowed; a length of time such as \"1m 30s\", from 0s to 30days",
        ),
        (
            r#""rollout": "rolling""#,
            r#"rollout: "rolling" is not allowed; an object"#,
        ),
        (
            r#""rollout": {"strategy": "rolling"}"#,
            "rollout.health_check: missing; an object with a deadline, because rolling and canary need one",
        ),
        (
            r#""env": []"#,
            "env: [] is not allowed; an object, each entry a string, a number, true or false",
        ),
        (
            r#""env": {"A": "x", "B": null}"#,
            "env.B: null is not allowed; a string, a number, true or false",
        ),
        (
            r#""labels": {"a": 1}"#,
            "labels.a: 1 is not allowed; a string",
        ),
        (
            r#""resources": 1"#,
            "resources: 1 is not allowed; an object",
        ),
        (r#""ports": {}"#, "ports: {} is not allowed; an array"),
        (
            r#""switch": "both""#,
            r#"switch: "both" is not allowed; one of stop_first, start_first"#,
        ),
    ] {
        assert_eq!(job_errors(fields), message, "{fields}");
    }
    assert_eq!(
        JobSpec::parse("{}").unwrap_err().to_string(),
        "job_id: missing; 1 to 200 of letters, digits, '-', '_' and '.'\n\
         driver: missing; one of exec, docker, external\n\
         config: missing; an object"
    );
}

#[test]
fn unknown_fields_are_named_with_what_they_may_have_been() {
    check_rollouts(&[
        (
            r#"{"max_paralel": 3}"#,
            "max_paralel: 3 is not allowed; there is no such field; the nearest is max_parallel",
        ),
        (
            r#"{"health_check": {"deadline": "5m", "retries": 3}}"#,
            "health_check.retries: 3 is not allowed; there is no such field; the fields are \
             deadline, min_healthy_time, max_error_rate, interval, failure_threshold, min_samples",
        ),
    ]);
    let long = "é".repeat(100);
    let errors = RolloutSpec::parse(&format!(r#"{{"{long}\n": "{long}"}}"#)).unwrap_err();
    let error = &errors.errors()[0];
    assert_eq!(error.field, format!("{}…", "é".repeat(79)));
    assert_eq!(error.value, format!("\"{}…", "é".repeat(78)));
}

#[test]
fn keys_may_not_be_repeated() {
    check_rollouts(&[
        (
            r#"{"strategy": "immediate", "strategy": "rolling", "health_check": {"deadline": "5m"}}"#,
            r#"strategy: "rolling" is not allowed; each field only once"#,
        ),
        (
            r#"{"health_check": {"deadline": "5m", "deadline": "6m"}}"#,
            r#"health_check.deadline: "6m" is not allowed; each field only once"#,
        ),
    ]);
    assert_eq!(
        job_errors(r#""checks": [{}, {"a": {"b": 1, "b": 2}}]"#),
        "checks[1].a.b: 2 is not allowed; each field only once"
    );
}

#[test]
fn text_that_is_no_json_is_placed() {
    check_rollouts(&[
        (
            "",
            "line 1, column 0: missing; JSON: EOF while parsing a value",
        ),
        (
            r#"{"strategy": "rolling""#,
            "line 1, column 22: missing; JSON: EOF while parsing an object",
        ),
        (
            "{\n  \"strategy\": rolling\n}",
            "line 2, column 15: rolling is not allowed; JSON: expected value",
        ),
        (
            r#"{} {}"#,
            "line 1, column 4: {} is not allowed; JSON: trailing characters",
        ),
        (
            r#"{"max_failed_nodes_percent": 1e999}"#,
            "line 1, column 34: 9} is not allowed; JSON: number out of range",
        ),
    ]);
    let deep = rollout_errors(&("[".repeat(1000)));
    assert!(deep.ends_with("JSON: recursion limit exceeded"), "{deep}");
}

#[test]
fn what_is_too_much_is_not_read() {
    let text = " ".repeat(SPEC_BYTES_MAX - 1) + "{}";
    assert_eq!(
        rollout_errors(&text),
        "document: a text of 1048577 bytes is not allowed; at most 1048576 bytes"
    );
    assert!(RolloutSpec::parse(&text[1..]).is_ok());
    let many: Vec<_> = (0..200).map(|n| format!("\"field{n}\": {n}")).collect();
    let errors = RolloutSpec::parse(&format!("{{{}}}", many.join(","))).unwrap_err();
    assert_eq!(errors.errors().len(), 100);
}

#[test]
fn what_a_log_could_not_read_back_is_refused() {
    let nested =
        |levels: usize| format!(r#""checks": {}{}"#, "[".repeat(levels), "]".repeat(levels));
    let text = |fields: String| {
        format!(r#"{{"job_id": "web", "driver": "exec", "config": {{}}, {fields}}}"#)
    };
    assert!(JobSpec::parse(&text(nested(64))).is_ok());
    assert!(job_errors(&nested(65)).ends_with("is not allowed; at most 64 levels of nesting"));
    assert!(
        job_errors(r#""env": {"$serde_json::private::RawValue": "?"}"#)
            .ends_with("is not allowed; no key that starts with $serde_json::private::")
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_text() {
    let text = r#"{
        "rollout": {
            "on_failure": "panic",
            "helth_check": {},
            "strategy": "canary",
            "max_parallel": -1,
            "strategy": "rolling"
        },
        "replicas": "many",
        "job_type": "cron",
        "config": [],
        "env": {"B": [], "A": null},
        "driver": "exec"
    }"#;
    assert_eq!(
        JobSpec::parse(text).unwrap_err().to_string(),
        r#"job_id: missing; 1 to 200 of letters, digits, '-', '_' and '.'
rollout.health_check: missing; an object with a deadline, because rolling and canary need one
rollout.on_failure: "panic" is not allowed; one of rollback, pause, fail
rollout.helth_check: {} is not allowed; there is no such field; the nearest is health_check
rollout.strategy: "rolling" is not allowed; each field only once
rollout.max_parallel: -1 is not allowed; a whole number from 0 to 4294967295
replicas: "many" is not allowed; a whole number from 0 to 1000000
job_type: "cron" is not allowed; one of service, batch
config: [] is not allowed; an object
env.B: [] is not allowed; a string, a number, true or false
env.A: null is not allowed; a string, a number, true or false"#
    );
}

/// Values that look like a document: its names, its words and whatever else JSON has.
fn any_value() -> impl Generator<Value = Value> {
    let words = [
        "canary",
        "rolling",
        "5m",
        "0s",
        "",
        "every",
        "exec",
        "zone in (a)",
        "99999999999y",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    let names: Vec<_> = JOB_FIELDS
        .into_iter()
        .chain(CARRIED.map(|(name, _)| name))
        .chain([
            "strategy",
            "canary_count",
            "canary_percent",
            "health_check",
            "deadline",
            "distinct",
        ])
        .collect();
    let name =
        prop_oneof![4 => prop::sample::select(names).prop_map(String::from), 1 => "\\PC{0,20}"];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => prop::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn any_check() -> impl Generator<Value = HealthCheck> {
    let month = MONTH.as_millis();
    let spans = (0..month).prop_flat_map(move |healthy| (Just(healthy), healthy + 1..=month));
    (
        spans,
        0..=1000u32,
        1000..=DAY.as_millis(),
        0..=100u8,
        any::<u32>(),
    )
        .prop_map(
            |((healthy, deadline), rate, interval, failure_threshold, min_samples)| HealthCheck {
                deadline: Span::from_millis(deadline),
                min_healthy_time: Span::from_millis(healthy),
                max_error_rate: f64::from(rate) / 1000.0,
                interval: Span::from_millis(interval),
                failure_threshold,
                min_samples,
            },
        )
}

fn any_strategy() -> impl Generator<Value = Strategy> {
    let canaries = prop_oneof![
        (1..=u32::MAX).prop_map(Canaries::Count),
        (1..=100u32).prop_map(Canaries::Percent)
    ];
    prop_oneof![
        prop::option::of(any_check()).prop_map(|health_check| Strategy::Immediate { health_check }),
        any_check().prop_map(|health_check| Strategy::Rolling { health_check }),
        (any_check(), canaries, any::<bool>()).prop_map(
            |(health_check, canaries, auto_promote)| {
                Strategy::Canary {
                    health_check,
                    canaries,
                    auto_promote,
                }
            }
        ),
    ]
}

fn any_rollout() -> impl Generator<Value = RolloutSpec> {
    let on_failure =
        prop::sample::select(vec![OnFailure::Rollback, OnFailure::Pause, OnFailure::Fail]);
    (
        any_strategy(),
        (any::<u32>(), any::<u32>(), 0..=100_000u32),
        any::<bool>(),
        on_failure,
        prop::option::of("[a-zA-Z0-9/._-]{1,63}"),
    )
        .prop_map(
            |(strategy, (max_parallel, failed, percent), no_auto_rollback, on_failure, spread)| {
                RolloutSpec {
                    strategy,
                    max_parallel,
                    max_failed_nodes: failed,
                    max_failed_nodes_percent: f64::from(percent) / 1000.0,
                    no_auto_rollback,
                    on_failure,
                    spread,
                }
            },
        )
}

proptest! {
    #[test]
    fn no_document_makes_it_panic(value in any_value(), cut in 0..200usize) {
        let text = value.to_string();
        let cut = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
        for result in [JobSpec::from_value(&value), JobSpec::parse(&text), JobSpec::parse(&text[..cut])] {
            match result {
                Ok(job) => prop_assert_eq!(JobSpec::from_value(&job.to_json()), Ok(job)),
                Err(errors) => prop_assert_eq!(errors.to_string().lines().count(), errors.errors().len()),
            }
        }
        for result in [RolloutSpec::from_value(&value), RolloutSpec::parse(&text)] {
            match result {
                Ok(rollout) => prop_assert_eq!(RolloutSpec::from_value(&rollout.to_json()), Ok(rollout)),
                Err(errors) => prop_assert_eq!(errors.to_string().lines().count(), errors.errors().len()),
            }
        }
    }

    #[test]
    fn a_rollout_survives_its_document(rollout in any_rollout()) {
        let document = rollout.to_json();
        prop_assert_eq!(RolloutSpec::from_value(&document), Ok(rollout.clone()));
        prop_assert_eq!(RolloutSpec::parse(&document.to_string()), Ok(rollout));
    }
}
