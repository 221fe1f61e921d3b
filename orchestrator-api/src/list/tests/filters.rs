//! What a filter means: the condition that it becomes, and the rows that it is true of.

use super::row;
use crate::list::{Condition, Field, Order, Place, Relation, Value};

use Condition::{All, Any, Not, Present};

fn compare(field: Field, relation: Relation, value: &str) -> Condition {
    Condition::Compare(field, relation, Value::Text(value.into()))
}

fn number(field: Field, relation: Relation, value: i64) -> Condition {
    Condition::Compare(field, relation, Value::Number(value))
}

fn not(condition: Condition) -> Condition {
    Not(Box::new(condition))
}

#[test]
fn a_filter_becomes_the_condition_that_aip_160_says() {
    let a = || number(Field::FailedNodes, Relation::Equal, 1);
    let b = || number(Field::TotalNodes, Relation::Less, 2);
    let c = || compare(Field::State, Relation::NotEqual, "failed");
    let [at, bt, ct] = [
        "failed_nodes = 1",
        "total_nodes<2",
        "status.state != \"failed\"",
    ];
    for (text, expected) in [
        ("".into(), All(vec![])),
        ("  ".into(), All(vec![])),
        (at.into(), a()),
        (format!("(({at}))"), a()),
        (format!("{at} AND {bt} AND {ct}"), All(vec![a(), b(), c()])),
        (format!("{at} OR {bt} OR {ct}"), Any(vec![a(), b(), c()])),
        (format!("{at} {bt}  {ct}"), All(vec![a(), b(), c()])),
        // OR binds tighter than AND and than nothing at all.
        (
            format!("{at} AND {bt} OR {ct}"),
            All(vec![a(), Any(vec![b(), c()])]),
        ),
        (
            format!("{at} OR {bt} AND {ct}"),
            All(vec![Any(vec![a(), b()]), c()]),
        ),
        (
            format!("{at} {bt} OR {ct}"),
            All(vec![a(), Any(vec![b(), c()])]),
        ),
        (
            format!("({at} AND {bt}) OR {ct}"),
            Any(vec![All(vec![a(), b()]), c()]),
        ),
        // NOT takes one term.
        (format!("NOT {at} OR {bt}"), Any(vec![not(a()), b()])),
        (format!("-{at} AND {bt}"), All(vec![not(a()), b()])),
        (format!("NOT ({at} OR {bt})"), not(Any(vec![a(), b()]))),
        (format!("-(NOT {at})"), not(not(a()))),
        ("completed_at:*".into(), Present(Field::CompletedAt)),
        (
            "NOT status.completed_at:*".into(),
            not(Present(Field::CompletedAt)),
        ),
        (
            "job_id = web.v2".into(),
            compare(Field::JobId, Relation::Equal, "web.v2"),
        ),
        (
            "job_id = 'a \\'b\\''".into(),
            compare(Field::JobId, Relation::Equal, "a 'b'"),
        ),
        (
            "namespace:PROD".into(),
            compare(Field::Namespace, Relation::Contains, "PROD"),
        ),
        (
            "id = 01969AF3".into(),
            compare(Field::Id, Relation::Equal, "01969af3"),
        ),
        (
            "type:create".into(),
            compare(Field::Type, Relation::Equal, "create"),
        ),
        (
            "revision:7".into(),
            number(Field::Revision, Relation::Equal, 7),
        ),
        (
            "revision > -7".into(),
            number(Field::Revision, Relation::Greater, -7),
        ),
        (
            "revision = \"7\"".into(),
            number(Field::Revision, Relation::Equal, 7),
        ),
        (
            "created_at > \"2026-01-31T11:00:00.5+02:00\"".into(),
            number(Field::CreatedAt, Relation::Greater, 1_769_850_000_500),
        ),
    ] {
        assert_eq!(Condition::parse(&text), Ok(expected), "{text}");
    }
}

#[test]
fn a_bare_word_is_looked_for_in_the_names() {
    let expected = |word: &str| {
        Any([Field::Namespace, Field::JobId, Field::Id]
            .map(|field| compare(field, Relation::Contains, word))
            .into())
    };
    for (text, word) in [
        ("web", "web"),
        ("\"and\"", "and"),
        ("web.v2", "web.v2"),
        ("'7'", "7"),
    ] {
        assert_eq!(Condition::parse(text), Ok(expected(word)), "{text}");
    }
    assert_eq!(Condition::parse("-web"), Ok(not(expected("web"))));
}

#[test]
fn filters_are_true_of_the_rows_they_name() {
    let row = row();
    for (text, expected) in [
        ("", true),
        ("state = in_progress", true),
        ("state = paused OR state = in_progress", true),
        ("type != update", false),
        (
            "failed_nodes > 1 AND failed_nodes >= 2 AND failed_nodes <= 2 AND failed_nodes < 3",
            true,
        ),
        ("failed_nodes > 2", false),
        ("failed_nodes < 2", false),
        ("failed_nodes != 2", false),
        (
            "revision = 17 total_nodes = 100 updated_nodes = 10 from_version = 3 to_version = 4",
            true,
        ),
        // Texts are compared by their bytes, and looked through whatever the case.
        ("job_id = web.v2", false),
        ("job_id = Web.v2", true),
        ("job_id:WEB", true),
        ("job_id:\"b.V\"", true),
        ("job_id:\"\"", true),
        ("job_id:webs", false),
        ("job_id < a", true),
        ("id:6C00-7a", true),
        ("web", true),
        ("PROD", true),
        ("0123456789ab", true),
        ("staging", false),
        // What begins so, whatever comes after it.
        ("job_id = Web*", true),
        ("job_id = \"Web.v2*\"", true),
        ("job_id = Web.v2a*", false),
        ("job_id = web*", false),
        ("job_id = \"*\"", true),
        ("job_id != \"*\"", false),
        ("job_id != Web*", false),
        ("job_id != Wea*", true),
        ("job_id != Wec*", true),
        // A day is a whole one.
        ("created_at = 2026-01-31", true),
        ("created_at:2026-01-31", true),
        ("created_at <= 2026-01-31", true),
        ("created_at < 2026-01-31", false),
        ("created_at > 2026-01-31", false),
        ("created_at >= 2026-01-31", true),
        ("created_at != 2026-01-31", false),
        ("updated_at != 2026-01-31", true),
        ("updated_at = 2026-01-31", false),
        ("updated_at > 2026-01-31", true),
        ("updated_at <= 9999-12-31", true),
        ("updated_at > 9999-12-31", false),
        ("updated_at = \"2026-02-01T02:00:00+02:00\"", true),
        ("updated_at > \"2026-01-31T23:59:59.999Z\"", true),
        // What has no value is in no relation to any.
        ("completed_at:*", false),
        ("NOT completed_at:*", true),
        ("completed_at < 2026-01-31", false),
        ("completed_at <= 9999-12-31", false),
        ("completed_at > 2026-01-31", false),
        ("completed_at != 2026-01-31", false),
        ("NOT completed_at = 2026-01-31", true),
    ] {
        let condition = Condition::parse(text).unwrap();
        assert_eq!(condition.holds(&row), expected, "{text}");
    }
}

#[test]
fn a_prefix_ends_before_the_next_one() {
    let parts = |first: &str, after: &str| {
        All(vec![
            compare(Field::JobId, Relation::GreaterOrEqual, first),
            compare(Field::JobId, Relation::Less, after),
        ])
    };
    for (text, expected) in [
        ("job_id = ab*", parts("ab", "ac")),
        // There is no character from U+D800 to U+DFFF.
        ("job_id = a\u{d7ff}*", parts("a\u{d7ff}", "a\u{e000}")),
        ("job_id = a\u{10ffff}*", parts("a\u{10ffff}", "b")),
    ] {
        assert_eq!(Condition::parse(text), Ok(expected), "{text}");
    }
    let last = compare(Field::JobId, Relation::GreaterOrEqual, "\u{10ffff}");
    assert_eq!(
        Condition::parse("job_id = \u{10ffff}*"),
        Ok(All(vec![last]))
    );
}

#[test]
fn values_of_two_types_stand_in_no_relation() {
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Contains] {
        assert!(!number(Field::JobId, relation, 1).holds(&row()));
        assert!(!compare(Field::Revision, relation, "17").holds(&row()));
    }
    assert!(!number(Field::Revision, Relation::Contains, 17).holds(&row()));
}

#[test]
fn a_place_is_what_the_row_says_of_the_order() {
    let order = Order::parse("completed_at desc, failed_nodes, state").unwrap();
    let expected = Place {
        values: vec![
            None,
            Some(Value::Number(2)),
            Some(Value::Text("in_progress".into())),
        ],
        id: row().id.to_string(),
    };
    assert_eq!(Place::of(&row(), &order), expected);
}
