//! What a filter that cannot be understood is answered with.

use crate::list::{Condition, FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX, FilterError};

fn message(filter: &str) -> String {
    Condition::parse(filter).unwrap_err().to_string()
}

#[test]
fn an_error_says_what_is_wrong_where_and_what_to_write() {
    const FIELDS: &str = "id, namespace, job_id, type, state, from_version, to_version, total_nodes, updated_nodes, \
        failed_nodes, revision, created_at, updated_at, completed_at";
    const STATES: &str = "pending, in_progress, paused, completed, failed, canceled";
    const TIME: &str = "a time of the years 1970 to 9999, in quotes, such as \"2026-01-31T09:00:00Z\" or \
        \"2026-01-31T09:00:00+02:00\", or a whole day in UTC, such as 2026-01-31";
    const EXAMPLE: &str =
        "write, for one: state = failed AND (namespace = \"prod\" OR failed_nodes > 3)";
    for (filter, expected) in [
        (
            "status = failed",
            format!("in `status = failed`: there is no field `status`; name one of {FIELDS}"),
        ),
        (
            "status.type = create",
            format!("in `status.type = create`: there is no field `status.type`; name one of {FIELDS}"),
        ),
        (
            "\"state\" = failed",
            format!("in `\"state\" = failed`: there is no field `\"state\"`; name one of {FIELDS}"),
        ),
        (
            "state = Failed",
            format!("in `state = Failed`: `Failed` is not allowed for `state`; write one of {STATES}"),
        ),
        (
            "state < failed",
            "in `state < failed`: the words of `state` are in no order; write state = failed or state != failed".into(),
        ),
        (
            "type = stopped",
            "in `type = stopped`: `stopped` is not allowed for `type`; \
             write one of create, update, restart, rollback, stop".into(),
        ),
        (
            "failed_nodes > 2.5",
            "in `failed_nodes > 2.5`: `2.5` is not allowed for `failed_nodes`; \
             write a whole number in digits, such as 3".into(),
        ),
        (
            "created_at > yesterday",
            format!("in `created_at > yesterday`: `yesterday` is not allowed for `created_at`; write {TIME}"),
        ),
        (
            "completed_at = null",
            format!(
                "in `completed_at = null`: `null` is not allowed for `completed_at`; \
                 write {TIME}, or NOT completed_at:* for what has not ended"
            ),
        ),
        (
            "created_at > 2026-01-31T09:00:00Z",
            "the filter cannot be read from character 27 (`:00:00Z`) on: unexpected input; \
             put a time in quotes: created_at > \"2026-01-31T09:00:00Z\"".into(),
        ),
        (
            "namespace = *eu",
            "in `namespace = *eu`: `*` can only be the last character after `=` or `!=`; \
             write namespace = eu* for what begins so, or namespace:eu for what contains it".into(),
        ),
        (
            "namespace:eu*",
            "in `namespace : eu*`: `*` can only be the last character after `=` or `!=`; \
             write namespace = eu* for what begins so, or namespace:eu for what contains it".into(),
        ),
        (
            "state:(failed OR canceled)",
            "in `state : (failed OR canceled)`: a field is compared to one value; \
             write the field with each: (state : a OR state : b)".into(),
        ),
        (
            "contains(namespace, eu)",
            "in `contains(namespace, eu)`: there are no functions; \
             write a field, a comparison and a value, such as failed_nodes > 3".into(),
        ),
        (
            "job_id = web.\"v2\"",
            "in `job_id = web.\"v2\"`: only a part of the value is in quotes; put all of it in quotes".into(),
        ),
        (
            "state = failed and type = stop",
            "in `and`: this is looked for as a word; write AND, or \"and\" if that is what you look for".into(),
        ),
        (
            "state = failed && type = stop",
            "in `&&`: no namespace, job or id can contain this; write a part of one, of letters, digits, '-', '_' \
             and '.', or a comparison such as state = failed".into(),
        ),
        (
            "état = (",
            format!("the filter cannot be read from its end on: unexpected end of filter; {EXAMPLE}"),
        ),
        (
            "état == 1",
            format!("the filter cannot be read from character 7 (`= 1`) on: expected a value; {EXAMPLE}"),
        ),
        (
            "job_id = \"web",
            format!("the filter cannot be read from character 10 (`\"web`) on: unterminated string; {EXAMPLE}"),
        ),
    ] {
        assert_eq!(message(filter), expected, "{filter}");
    }
}

#[test]
fn all_faults_are_told_at_once_and_in_order() {
    let errors = Condition::parse("a = 1 (NOT b = 2 OR state = off) revision < x").unwrap_err();
    let terms: Vec<_> = errors
        .faults()
        .iter()
        .map(|error| match error {
            FilterError::Field { term, .. } | FilterError::Value { term, .. } => term.as_str(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(terms, ["a = 1", "b = 2", "state = off", "revision < x"]);
    assert_eq!(errors.to_string().lines().count(), 4);
}

#[test]
fn numbers_are_read_strictly() {
    for value in [
        "+3",
        "3.0",
        "1e3",
        "0x3",
        "3s",
        "-",
        "\"\"",
        "\" 3\"",
        "٣",
        "9223372036854775808",
        "three",
    ] {
        let errors = Condition::parse(&format!("revision = {value}")).unwrap_err();
        assert!(
            matches!(errors.faults(), [FilterError::Value { .. }]),
            "{value}"
        );
    }
    for value in ["0", "-3", "007", "9223372036854775807"] {
        Condition::parse(&format!("revision = {value}")).unwrap();
    }
}

#[test]
fn every_bound_has_an_error_of_its_own() {
    let at_bound = format!(
        "{}a{}",
        "(".repeat(FILTER_DEPTH_MAX),
        ")".repeat(FILTER_DEPTH_MAX)
    );
    Condition::parse(&at_bound).unwrap();
    let deeper = format!("({at_bound})");
    assert_eq!(
        message(&deeper),
        "the filter has more than 50 parentheses within each other: write it with fewer"
    );
    assert_eq!(message(&"(".repeat(FILTER_BYTES_MAX)), message(&deeper));

    let terms = |count: usize| vec!["a"; count].join(" OR ");
    Condition::parse(&terms(FILTER_TERMS_MAX)).unwrap();
    assert_eq!(
        message(&terms(FILTER_TERMS_MAX + 1)),
        "the filter has 201 terms: write it with at most 200"
    );

    let long = |bytes: usize| format!("job_id={}", "a".repeat(bytes - "job_id=".len()));
    Condition::parse(&long(FILTER_BYTES_MAX)).unwrap();
    assert_eq!(
        message(&long(FILTER_BYTES_MAX + 1)),
        "the filter has 4097 bytes: write it in at most 4096"
    );
}

#[test]
fn a_message_repeats_no_more_than_a_line_of_the_filter() {
    let long = "é".repeat(1000);
    for filter in [
        long.clone(),
        format!("{long} = 1"),
        format!("state = {long}"),
        format!("state = ={long}"),
    ] {
        assert!(message(&filter).len() < 1000, "{}", message(&filter));
    }
}

#[test]
fn what_is_far_too_large_is_refused_at_once() {
    for filter in [
        "(".repeat(100_000),
        "NOT ".repeat(100_000),
        "a OR ".repeat(20_000),
        "f(".repeat(100_000),
    ] {
        let errors = Condition::parse(&filter).unwrap_err();
        assert_eq!(errors.faults(), [FilterError::TooLong(filter.len())]);
    }
    for filter in [
        "(", "NOT ", "-", "f(", "a:(", "a OR ", "a.", "\"", "a ", "((a) ",
    ] {
        let _ = Condition::parse(&filter.repeat(FILTER_BYTES_MAX / filter.len()));
    }
}
