//! Lists of deployments against a plain reading of the same condition, order and place.

use std::cmp::Ordering;

use orchestrator_api::list::{Condition, Field, Order, Place, Query, Relation, Value};
use orchestrator_api::store::{Append, DeploymentRow, Store};
use orchestrator_core::{DeploymentKind, DeploymentState};

use crate::making::*;

macro_rules! suite {
    ($make:path) => {
        #[tokio::test]
        async fn every_list_is_as_a_plain_reading_says() {
            let fixture = $make();
            $crate::lists::every_list_is_as_a_plain_reading_says(&*fixture).await;
        }

        #[tokio::test]
        async fn paging_is_stable_while_rows_come_and_change() {
            let fixture = $make();
            $crate::lists::paging_is_stable_while_rows_come_and_change(&*fixture).await;
        }

        #[tokio::test]
        async fn a_deep_and_long_condition_is_answered() {
            let fixture = $make();
            $crate::lists::a_deep_and_long_condition_is_answered(&*fixture).await;
        }
    };
}
pub(crate) use suite;

const FIELDS: [Field; 14] = [
    Field::Id,
    Field::Namespace,
    Field::JobId,
    Field::Type,
    Field::State,
    Field::FromVersion,
    Field::ToVersion,
    Field::TotalNodes,
    Field::UpdatedNodes,
    Field::FailedNodes,
    Field::Revision,
    Field::CreatedAt,
    Field::UpdatedAt,
    Field::CompletedAt,
];

/// A generator that gives the same numbers in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn row(draw: &mut Draw, number: u64) -> DeploymentRow {
    let name = format!(
        "{}/{}",
        draw.one(&["a", "A-b", "prod"]),
        draw.one(&["web", "Web.x", "db_1"])
    );
    let mut row = deployment(
        orchestrator_api::store::LogId(1),
        number as u32,
        &name,
        id(number),
    );
    row.kind = draw.one(&[
        DeploymentKind::Create,
        DeploymentKind::Update,
        DeploymentKind::Stop,
    ]);
    row.state = draw.one(&[
        DeploymentState::Completed,
        DeploymentState::Completed,
        DeploymentState::Failed,
        DeploymentState::InProgress,
    ]);
    row.from_version = draw.below(4) as u32;
    row.to_version = draw.below(200) as u32;
    row.total_nodes = draw.below(5) as u32;
    row.updated_nodes = draw.below(1000) as u32;
    row.failed_nodes = u32::from(draw.below(50) == 0);
    row.revision = draw.below(10_000);
    row.created_at = at(number * 10);
    row.updated_at = at(number * 10 + draw.below(1000));
    row.completed_at = row
        .state
        .is_final()
        .then(|| at(number * 10 + draw.below(5000)));
    row
}

async fn fill(
    store: &dyn Store,
    draw: &mut Draw,
    numbers: std::ops::Range<u64>,
) -> Vec<DeploymentRow> {
    let claim = own(store, "a/web").await;
    assert_eq!(claim.log.0, 1, "the log that all rows name");
    let rows: Vec<_> = numbers.map(|number| row(draw, number)).collect();
    for some in rows.chunks(2000) {
        take(
            store,
            Append {
                deployments: some.to_vec(),
                ..append(&claim)
            },
        )
        .await;
    }
    rows
}

fn value(field: Field, row: &DeploymentRow) -> Option<Value> {
    let word = |word: serde_json::Result<String>| {
        Some(Value::Text(
            word.expect("a word").trim_matches('"').to_owned(),
        ))
    };
    let number = |number: u64| Some(Value::Number(number as i64));
    match field {
        Field::Id => Some(Value::Text(row.id.to_string())),
        Field::Namespace => Some(Value::Text(row.job.namespace().to_owned())),
        Field::JobId => Some(Value::Text(row.job.name().to_owned())),
        Field::Type => word(serde_json::to_string(&row.kind)),
        Field::State => word(serde_json::to_string(&row.state)),
        Field::FromVersion => number(row.from_version.into()),
        Field::ToVersion => number(row.to_version.into()),
        Field::TotalNodes => number(row.total_nodes.into()),
        Field::UpdatedNodes => number(row.updated_nodes.into()),
        Field::FailedNodes => number(row.failed_nodes.into()),
        Field::Revision => number(row.revision),
        Field::CreatedAt => number(row.created_at.as_millis()),
        Field::UpdatedAt => number(row.updated_at.as_millis()),
        Field::CompletedAt => row.completed_at.and_then(|at| number(at.as_millis())),
    }
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => one.cmp(other),
        _ => panic!("of one field"),
    }
}

fn holds(condition: &Condition, row: &DeploymentRow) -> bool {
    match condition {
        Condition::All(parts) => parts.iter().all(|part| holds(part, row)),
        Condition::Any(parts) => parts.iter().any(|part| holds(part, row)),
        Condition::Not(part) => !holds(part, row),
        Condition::Present(field) => value(*field, row).is_some(),
        Condition::Compare(field, relation, to) => value(*field, row).is_some_and(|value| {
            if *relation == Relation::Contains {
                let (Value::Text(value), Value::Text(to)) = (value, to) else {
                    return false;
                };
                return value
                    .to_ascii_lowercase()
                    .contains(&to.to_ascii_lowercase());
            }
            let order = compare(&value, to);
            match relation {
                Relation::Equal => order.is_eq(),
                Relation::NotEqual => order.is_ne(),
                Relation::Less => order.is_lt(),
                Relation::LessOrEqual => order.is_le(),
                Relation::Greater => order.is_gt(),
                Relation::GreaterOrEqual => order.is_ge(),
                Relation::Contains => unreachable!("above"),
            }
        }),
    }
}

fn sort(order: &Order, rows: &mut [DeploymentRow]) {
    let last = order.0.last().is_none_or(|(_, descends)| *descends);
    rows.sort_by(|one, other| {
        let fields = order.0.iter().copied().chain([(Field::Id, last)]);
        fields
            .map(|(field, descends)| {
                let order = match (value(field, one), value(field, other)) {
                    (Some(one), Some(other)) => compare(&one, &other),
                    (one, other) => one.is_some().cmp(&other.is_some()),
                };
                if descends { order.reverse() } else { order }
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
}

/// All pages, one after the other.
async fn list(
    store: &dyn Store,
    condition: &Condition,
    order: &Order,
    limit: u32,
) -> Vec<DeploymentRow> {
    let mut all = Vec::new();
    let mut after: Option<Place> = None;
    loop {
        let query = Query {
            condition: condition.clone(),
            order: order.clone(),
            after: after.clone(),
            limit,
        };
        let page = store.deployments(query).await.expect("listed");
        assert!(page.rows.len() <= limit as usize);
        all.extend(page.rows);
        match page.next {
            None => return all,
            ref next => assert_ne!(*next, after, "it gets on"),
        }
        after = page.next;
    }
}

fn condition(draw: &mut Draw, rows: &[DeploymentRow], depth: u32) -> Condition {
    match draw.below(if depth == 0 { 5 } else { 9 }) {
        0 => Condition::Present(draw.one(&[Field::CompletedAt, Field::State])),
        1..5 => {
            let field = draw.one(&FIELDS);
            let row = &rows[draw.below(rows.len() as u64) as usize];
            let relation = draw.one(&[
                Relation::Equal,
                Relation::Equal,
                Relation::NotEqual,
                Relation::Less,
                Relation::LessOrEqual,
                Relation::Greater,
                Relation::GreaterOrEqual,
                Relation::Contains,
            ]);
            let value = value(field, row).unwrap_or(Value::Number(777));
            match (relation, value) {
                (Relation::Contains, Value::Text(text)) => {
                    let part = draw.one(&["E", "%", "_", "", "eb", &text]).to_owned();
                    Condition::Compare(field, relation, Value::Text(part))
                }
                (Relation::Contains, value) => Condition::Compare(field, Relation::Equal, value),
                (relation, value) => Condition::Compare(field, relation, value),
            }
        }
        5 => Condition::Not(Box::new(condition(draw, rows, depth - 1))),
        6 => Condition::Any(
            (0..draw.below(4))
                .map(|_| condition(draw, rows, depth - 1))
                .collect(),
        ),
        _ => Condition::All(
            (0..draw.below(4))
                .map(|_| condition(draw, rows, depth - 1))
                .collect(),
        ),
    }
}

pub(crate) async fn every_list_is_as_a_plain_reading_says(store: &dyn Store) {
    let mut draw = Draw(1);
    // More than a page may look at, so that what spans pages is tried too.
    let rows = fill(store, &mut draw, 0..2300).await;
    let mut orders = vec![Order(Vec::new())];
    for field in FIELDS {
        orders.push(Order(vec![(field, false)]));
        orders.push(Order(vec![(field, true)]));
    }
    for _ in 0..40 {
        let count = 1 + draw.below(4);
        orders.push(Order(
            (0..count)
                .map(|_| (draw.one(&FIELDS), draw.below(2) == 0))
                .collect(),
        ));
    }
    let all = Condition::All(Vec::new());
    for (index, order) in orders.iter().enumerate() {
        let drawn = condition(&mut draw, &rows, 3);
        // The whole list of some orders, and of all of them a part.
        let conditions = if index % 8 == 0 {
            vec![all.clone(), drawn]
        } else {
            vec![drawn]
        };
        for condition in conditions {
            let mut want: Vec<_> = rows
                .iter()
                .filter(|row| holds(&condition, row))
                .cloned()
                .collect();
            sort(order, &mut want);
            let limit = draw.one(&[97, 500, 5000]);
            let found = list(store, &condition, order, limit).await;
            assert_eq!(
                found.len(),
                want.len(),
                "{condition:?} by {order:?}, {limit} a page"
            );
            let differs = found
                .iter()
                .zip(&want)
                .position(|(one, other)| one != other);
            assert_eq!(differs, None, "{condition:?} by {order:?}, {limit} a page");
        }
    }
}

/// Rows that stay as they are come exactly once, whatever happens to others between the pages.
pub(crate) async fn paging_is_stable_while_rows_come_and_change(store: &dyn Store) {
    let mut draw = Draw(2);
    let rows = fill(store, &mut draw, 1000..1500).await;
    let order = Order(vec![(Field::State, false), (Field::Revision, true)]);
    let claim = own(store, "a/web").await;
    let mut seen = Vec::new();
    let mut after = None;
    for number in 0.. {
        let query = Query {
            condition: Condition::All(Vec::new()),
            order: order.clone(),
            after,
            limit: 20,
        };
        let page = store.deployments(query).await.expect("listed");
        seen.extend(page.rows.iter().map(|row| row.id));
        after = page.next;
        if after.is_none() {
            break;
        }
        let mut moved = rows[number * 2 % rows.len()].clone();
        moved.revision = draw.below(20_000);
        let deployments = vec![
            moved,
            row(&mut draw, number as u64),
            row(&mut draw, 5000 + number as u64),
        ];
        take(
            store,
            Append {
                deployments,
                ..append(&claim)
            },
        )
        .await;
    }
    for unmoved in rows.iter().skip(1).step_by(2) {
        assert_eq!(seen.iter().filter(|id| **id == unmoved.id).count(), 1);
    }
}

pub(crate) async fn a_deep_and_long_condition_is_answered(store: &dyn Store) {
    let mut draw = Draw(3);
    let rows = fill(store, &mut draw, 0..500).await;
    let mut deep = condition(&mut draw, &rows, 0);
    for depth in 0..60 {
        let terms = (0..4)
            .map(|_| condition(&mut draw, &rows, 0))
            .chain([deep])
            .collect();
        deep = match depth % 3 {
            0 => Condition::Any(terms),
            1 => Condition::All(vec![Condition::Not(Box::new(Condition::All(terms)))]),
            _ => Condition::Not(Box::new(Condition::Any(terms))),
        };
    }
    let want = rows.iter().filter(|row| holds(&deep, row)).count();
    assert_eq!(list(store, &deep, &Order::default(), 100).await.len(), want);
}
