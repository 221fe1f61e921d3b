//! What a group is to be, checked once, and the order that follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::unionfind::UnionFind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::GROUP_MEMBERS_MAX;
use crate::id::{JobId, NAME_BYTES_MAX, is_name};
use crate::spec::SpecErrors;
use crate::spec::parse::{Errors, Part, found, from_value, join, parse};

/// A group, as [`GroupSpec::parse`] reads what people write. Its serde form is the log's.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
    /// What happens to the rest when a job ends badly.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Its jobs, in any order.
    pub members: Vec<Member>,
}

/// One job of a group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Which.
    pub job: JobId,
    /// The members that have to be completed before it starts.
    #[serde(default)]
    pub after: Vec<JobId>,
}

/// What happens to the rest when a job ends badly.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// What is connected with it by dependencies is taken back.
    #[default]
    Rollback,
    /// What depends on it does not start; the rest goes on.
    Stop,
}

impl GroupSpec {
    /// Reads what people write: `{"name": "release", "members": [{"job": "db"}, {"job": "api", "after": ["db"]}]}`, and
    /// `"on_failure": "stop"` where nothing is to be taken back. Says all that is wrong at once.
    pub fn parse(json: &str) -> Result<Self, SpecErrors> {
        parse(json, group)
    }

    /// Reads the same when it was read as JSON before; its repeated keys are gone unnoticed.
    pub fn from_value(value: &Value) -> Result<Self, SpecErrors> {
        from_value(value, group)
    }

    /// The same rules for a spec that was made by hand, and what follows from it.
    pub(super) fn check(&self) -> Result<Order, SpecErrors> {
        let mut errors = Errors::default();
        if !is_name(&self.name) {
            errors.add("name".into(), found(&json!(self.name)), allowed_name());
        }
        let members = self.members.len();
        if !(1..=GROUP_MEMBERS_MAX).contains(&members) {
            errors.add(
                "members".into(),
                format!("{members} jobs"),
                allowed_members(),
            );
            return Err(errors.in_order(|_| 0));
        }
        let row = |(at, member): (usize, &Member)| Row {
            at,
            job: member.job.clone(),
            after: member.after.iter().cloned().enumerate().collect(),
        };
        let rows: Vec<Row> = self.members.iter().enumerate().map(row).collect();
        let order = order(&mut errors, "members", &rows, true);
        match errors.is_empty() {
            true => Ok(order),
            false => Err(errors.in_order(|_| 0)),
        }
    }
}

fn allowed_name() -> String {
    format!("1 to {NAME_BYTES_MAX} of letters, digits, '-', '_' and '.'")
}

fn allowed_members() -> String {
    format!("a list of 1 to {GROUP_MEMBERS_MAX} jobs")
}

/// One member, and where in the document it stands.
struct Row {
    at: usize,
    job: JobId,
    after: Vec<(usize, JobId)>,
}

fn group(errors: &mut Errors, path: String, value: &Value) -> Option<GroupSpec> {
    let mut part = Part::open(errors, path, value, &["name", "on_failure", "members"])?;
    let name = part.read("name", None, &allowed_name(), |value| {
        value
            .as_str()
            .filter(|name| is_name(name))
            .map(String::from)
    });
    let choices = [("rollback", OnFailure::Rollback), ("stop", OnFailure::Stop)];
    let on_failure = part.choice("on_failure", &choices);
    let members = part.read("members", None, &allowed_members(), |value| {
        let allowed = 1..=GROUP_MEMBERS_MAX;
        value
            .as_array()
            .filter(|m| allowed.contains(&m.len()))
            .cloned()
    })?;
    let path = part.at("members");
    let errors = part.errors;
    let member = |(at, value)| member(errors, format!("{path}[{at}]"), at, value);
    let rows: Vec<Option<Row>> = members.iter().enumerate().map(member).collect();
    let read: Vec<Row> = rows.into_iter().flatten().collect();
    order(errors, &path, &read, read.len() == members.len());
    let members = read.into_iter().map(|Row { job, after, .. }| Member {
        job,
        after: after.into_iter().map(|(_, job)| job).collect(),
    });
    Some(GroupSpec {
        name: name?,
        on_failure: on_failure?,
        members: members.collect(),
    })
}

fn member(errors: &mut Errors, path: String, at: usize, value: &Value) -> Option<Row> {
    const JOB: &str = "a job: namespace/job_id, or job_id alone";
    let id = |value: &Value| value.as_str()?.parse::<JobId>().ok();
    let mut part = Part::open(errors, path, value, &["job", "after"])?;
    let job = part.read("job", None, JOB, id);
    let none = Some(Vec::new());
    let listed = part.read("after", none, "a list of jobs", |value| {
        value.as_array().cloned()
    });
    let path = part.at("after");
    let mut after = Vec::new();
    for (at, value) in listed.iter().flatten().enumerate() {
        match id(value) {
            Some(job) => after.push((at, job)),
            None => part
                .errors
                .add(format!("{path}[{at}]"), found(value), JOB.into()),
        }
    }
    let job = job?;
    Some(Row { at, job, after })
}

/// The order that follows from the rows. A job that is not among them is an error only where all could be read.
fn order(errors: &mut Errors, path: &str, rows: &[Row], all_read: bool) -> Order {
    let quoted = |job: &JobId| found(&json!(job));
    let after_field =
        |row: &Row, at: usize| format!("{}[{at}]", join(&format!("{path}[{}]", row.at), "after"));
    // Deduplicated and sorted, so that positions and messages do not depend on the order.
    let mut listed: BTreeMap<&JobId, usize> = BTreeMap::new();
    for row in rows {
        if let Some(first) = listed.get(&row.job) {
            let field = join(&format!("{path}[{}]", row.at), "job");
            let allowed = format!("each job only once: it is {path}[{first}] already");
            errors.add(field, quoted(&row.job), allowed);
        } else {
            listed.insert(&row.job, row.at);
        }
    }
    let position: BTreeMap<&JobId, usize> = listed.keys().copied().zip(0..).collect();
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = listed.iter().map(|_| graph.add_node(())).collect();
    let mut edges = BTreeSet::new();
    for row in rows {
        for (at, dependency) in &row.after {
            match position.get(dependency) {
                _ if *dependency == row.job => {
                    let allowed = "another job: none can be after itself";
                    errors.add(after_field(row, *at), quoted(dependency), allowed.into());
                }
                Some(&other) => {
                    edges.insert((other, position[&row.job]));
                }
                None if all_read => {
                    let allowed = "a member of this group: add it, or take it out here";
                    errors.add(after_field(row, *at), quoted(dependency), allowed.into());
                }
                None => {}
            }
        }
    }
    for (first, then) in edges {
        graph.add_edge(nodes[first], nodes[then], ());
    }
    let jobs: Vec<JobId> = listed.keys().map(|job| (*job).clone()).collect();
    let order = Order::new(jobs, &graph);
    let mut knots = tarjan_scc(&graph);
    knots.retain(|knot| knot.len() > 1);
    knots.iter_mut().for_each(|knot| knot.sort());
    knots.sort();
    for knot in knots {
        let knot: BTreeSet<usize> = knot.into_iter().map(NodeIndex::index).collect();
        let cycle = order.cycle_in(&knot);
        let closes = |row: &Row| {
            let mut after = row.after.iter();
            let &(at, _) = after.find(|(_, job)| row.job == cycle[0] && *job == cycle[1])?;
            Some(after_field(row, at))
        };
        let field = rows.iter().find_map(closes);
        let allowed = format!(
            "no circle: {}, so that none of them could start",
            chain(&cycle)
        );
        errors.add(field.unwrap_or_default(), quoted(&cycle[1]), allowed);
    }
    order
}

/// Who is after whom, by the members' position in the order of their names. Follows from the spec.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) jobs: Vec<JobId>,
    pub(super) after: Vec<Vec<usize>>,
    pub(super) before: Vec<Vec<usize>>,
    /// How many jobs at least come one after the other before this one.
    pub(super) depth: Vec<usize>,
    /// Equal for two jobs exactly if dependencies connect them, in whatever direction.
    pub(super) part: Vec<usize>,
}

impl Order {
    /// From edges that lead from a job to those after it.
    fn new(jobs: Vec<JobId>, graph: &DiGraph<(), ()>) -> Self {
        let (mut after, mut before) = (vec![Vec::new(); jobs.len()], vec![Vec::new(); jobs.len()]);
        let mut parts = UnionFind::new(jobs.len());
        for edge in graph.raw_edges() {
            let (first, then) = (edge.source().index(), edge.target().index());
            after[then].push(first);
            before[first].push(then);
            parts.union(first, then);
        }
        let mut depth = vec![0; jobs.len()];
        // Where there is a cycle there will be no group, and depths do not matter.
        for node in toposort(graph, None).unwrap_or_default() {
            let deepest = after[node.index()].iter().map(|&at| depth[at] + 1).max();
            depth[node.index()] = deepest.unwrap_or(0);
        }
        Self {
            jobs,
            after,
            before,
            depth,
            part: parts.into_labeling(),
        }
    }

    /// The shortest way from the first job of a knot over what it is after back to itself.
    fn cycle_in(&self, knot: &BTreeSet<usize>) -> Vec<JobId> {
        let start = *knot.first().expect("a knot has at least two jobs");
        let mut came_from = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for &next in self.after[at].iter().filter(|next| knot.contains(next)) {
                if came_from.contains_key(&next) {
                    continue;
                }
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
        let (mut cycle, mut at) = (vec![self.jobs[start].clone()], start);
        loop {
            at = came_from[&at];
            cycle.push(self.jobs[at].clone());
            if at == start {
                break;
            }
        }
        cycle.reverse();
        cycle
    }
}

fn chain(jobs: &[JobId]) -> String {
    jobs.iter()
        .map(JobId::to_string)
        .collect::<Vec<_>>()
        .join(" after ")
}
