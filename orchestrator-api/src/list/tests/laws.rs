//! What is true of all conditions, orders and tokens.

use orchestrator_core::{DeploymentKind, DeploymentState, JobId, Time};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::row;
use crate::list::field::Kind;
use crate::list::{Condition, Field, Order, Place, Relation, TokenError, Value};
use crate::store::DeploymentRow;

/// Few, so that rows and conditions meet.
const NAMES: [&str; 5] = ["a", "ab", "Ab", "b-a.b", "web"];
const IDS: [&str; 3] = [
    "01969af3-6c00-7a1b-8c2d-0123456789ab",
    "01969af3-6c00-7a1b-8c2d-0123456789ac",
    "01969bf3-6c00-7a1b-8c2d-0123456789ab",
];
const KINDS: [DeploymentKind; 5] = [
    DeploymentKind::Create,
    DeploymentKind::Update,
    DeploymentKind::Restart,
    DeploymentKind::Rollback,
    DeploymentKind::Stop,
];
const STATES: [DeploymentState; 6] = [
    DeploymentState::Pending,
    DeploymentState::InProgress,
    DeploymentState::Paused,
    DeploymentState::Completed,
    DeploymentState::Failed,
    DeploymentState::Canceled,
];
const DAY: u64 = 24 * 60 * 60 * 1000;

/// Around the ends of days.
fn times() -> impl Strategy<Value = u64> {
    (20_483..20_486_u64, 0..3_u64).prop_map(|(day, near)| day * DAY + near - 1)
}

fn rows() -> impl Strategy<Value = DeploymentRow> {
    let names = (select(&IDS[..]), select(&NAMES[..]), select(&NAMES[..]));
    let words = (select(&KINDS[..]), select(&STATES[..]));
    let counts = (0..4_u32, 0..4_u32, 0..4_u32, 0..4_u32, 0..4_u32, 0..4_u64);
    let ends = (times(), times(), option::of(times()));
    (names, words, counts, ends).prop_map(|(names, words, counts, ends)| DeploymentRow {
        id: names.0.parse().unwrap(),
        job: JobId::new(names.1, names.2).unwrap(),
        kind: words.0,
        state: words.1,
        from_version: counts.0,
        to_version: counts.1,
        total_nodes: counts.2,
        updated_nodes: counts.3,
        failed_nodes: counts.4,
        revision: counts.5,
        created_at: Time::from_millis(ends.0),
        updated_at: Time::from_millis(ends.1),
        completed_at: ends.2.map(Time::from_millis),
        ..row()
    })
}

fn comparisons() -> impl Strategy<Value = Condition> {
    use Relation::*;
    let equal = [Equal, NotEqual];
    let ordered = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual];
    let texts = [
        Equal,
        NotEqual,
        Less,
        LessOrEqual,
        Greater,
        GreaterOrEqual,
        Contains,
    ];
    select(&Field::ALL[..]).prop_flat_map(move |field| {
        let (relations, values) = match field.kind() {
            Kind::Text => {
                let known =
                    prop_oneof![select(&NAMES[..]), select(&IDS[..])].prop_map(String::from);
                // Ids are looked for in lower case, and `*` has a meaning.
                let any = "[^*A-Z]{0,3}";
                let values = prop_oneof![3 => known.prop_map(move |text| match field {
                    Field::Id => text.to_lowercase(),
                    _ => text,
                }), 1 => any]
                .prop_map(Value::Text);
                (texts.to_vec(), values.boxed())
            }
            Kind::Word(words) => {
                let values = select(words).prop_map(|word| Value::Text(word.into()));
                (equal.to_vec(), values.boxed())
            }
            Kind::Number => {
                let values = prop_oneof![3 => -1..5_i64, 1 => any::<i64>()].prop_map(Value::Number);
                (ordered.to_vec(), values.boxed())
            }
            Kind::Time => {
                let values = times().prop_map(|at| Value::Number(at.try_into().unwrap()));
                (ordered.to_vec(), values.boxed())
            }
        };
        (select(relations), values)
            .prop_map(move |(relation, value)| Condition::Compare(field, relation, value))
    })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let terms = prop_oneof![
        8 => comparisons(),
        1 => select(&Field::ALL[..]).prop_map(Condition::Present),
    ];
    terms.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Condition::All),
            vec(inner.clone(), 0..4).prop_map(Condition::Any),
            inner.prop_map(|part| Condition::Not(Box::new(part))),
        ]
    })
}

fn orders() -> impl Strategy<Value = Order> {
    vec((select(&Field::ALL[..]), any::<bool>()), 0..6).prop_map(|mut fields| {
        let mut known = Vec::new();
        fields.retain(|&(field, _)| {
            let new = !known.contains(&field);
            known.push(field);
            new
        });
        Order(fields)
    })
}

/// A filter by a day or a prefix, that day or prefix, and what it means, said in another way than the parser does.
fn said() -> impl Strategy<Value = (String, String, fn(&DeploymentRow, &str) -> bool)> {
    fn begins(row: &DeploymentRow, prefix: &str) -> bool {
        row.job.name().starts_with(prefix)
    }
    fn on(row: &DeploymentRow, day: &str) -> bool {
        row.created_at.to_string().starts_with(day)
    }
    fn until(row: &DeploymentRow, day: &str) -> bool {
        on(row, day) || row.created_at.to_string().as_str() < day
    }
    let days = ["2026-01-30", "2026-01-31", "2026-02-01"];
    let meaning = [("=", on as fn(&DeploymentRow, &str) -> bool), ("<=", until)];
    prop_oneof![
        "[abAw]{0,2}".prop_map(|prefix| {
            let filter = format!("job_id = \"{prefix}*\"");
            (filter, prefix, begins as fn(&DeploymentRow, &str) -> bool)
        }),
        (select(days.to_vec()), select(meaning.to_vec())).prop_map(|(day, (sign, means))| {
            (format!("created_at {sign} {day}"), day.into(), means)
        }),
    ]
}

/// Texts that look like a filter for a while.
fn babble() -> impl Strategy<Value = String> {
    let words = [
        "(",
        ")",
        " ",
        " AND ",
        " OR ",
        "NOT ",
        "-",
        "=",
        "!=",
        "<",
        ":",
        "*",
        ".",
        ",",
        "\"",
        "'",
        "\\",
        "state",
        "failed",
        "status",
        "job_id",
        "revision",
        "3",
        "created_at",
        "2026-01-31",
        "é",
        "\u{10ffff}",
        "\0",
        "\"2026-01-31T00:00:00+01:00\"",
        "web",
    ];
    vec(select(words.to_vec()), 0..30).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_condition_means_the_same_once_written_and_read(
        condition in conditions(),
        rows in vec(rows(), 8),
    ) {
        let text = condition.to_string();
        let again = Condition::parse(&text);
        prop_assert!(again.is_ok(), "{text}: {}", again.unwrap_err());
        let again = again.unwrap();
        for row in rows {
            prop_assert_eq!(again.holds(&row), condition.holds(&row), "{} of {:?}", text, row);
        }
    }

    #[test]
    fn days_and_prefixes_mean_what_they_say(
        (filter, value, means) in said(),
        rows in vec(rows(), 8),
    ) {
        let condition = Condition::parse(&filter).unwrap();
        for row in rows {
            prop_assert_eq!(condition.holds(&row), means(&row, &value), "{} of {:?}", filter, row);
        }
    }

    #[test]
    fn what_was_read_can_be_written_and_read_again(text in babble(), rows in vec(rows(), 4)) {
        if let Ok(condition) = Condition::parse(&text) {
            let again = Condition::parse(&condition.to_string()).unwrap();
            for row in rows {
                prop_assert_eq!(again.holds(&row), condition.holds(&row), "{:?}", text);
            }
        }
    }

    #[test]
    fn an_order_is_the_same_once_written_and_read(order in orders()) {
        prop_assert_eq!(Order::parse(&order.to_string()), Ok(order));
    }

    #[test]
    fn a_token_leads_back_to_its_place_and_to_no_other_list(
        row in rows(),
        lists in [(conditions(), orders()), (conditions(), orders())],
        cut in any::<prop::sample::Index>(),
    ) {
        let [(condition, order), (other, other_order)] = lists;
        let place = Place::of(&row, &order);
        let token = place.token(&condition, &order);
        prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        prop_assert_eq!(Place::from_token(&token, &condition, &order), Ok(place));
        let elsewhere = Place::from_token(&token, &other, &other_order);
        if other.to_string() != condition.to_string() || other_order != order {
            prop_assert_eq!(elsewhere, Err(TokenError::OtherList));
        }
        let part = Place::from_token(&token[..cut.index(token.len())], &condition, &order);
        prop_assert_eq!(part, Err(TokenError::Damaged));
    }

    #[test]
    fn nothing_that_is_sent_makes_it_panic(bytes in vec(any::<u8>(), 0..200), text in any::<String>()) {
        let (all, order) = (Condition::All(vec![]), Order::default());
        for text in [&*String::from_utf8_lossy(&bytes), &text] {
            let _ = Condition::parse(text);
            let _ = Order::parse(text);
            prop_assert_eq!(Place::from_token(text, &all, &order), Err(TokenError::Damaged));
        }
    }
}
