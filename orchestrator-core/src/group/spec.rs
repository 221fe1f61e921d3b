//! What a group is to be, checked once, and the order that follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::unionfind::UnionFind;
use serde::{Deserialize, Serialize};

use super::GROUP_MEMBERS_MAX;
use crate::id::{InvalidName, JobId, is_name};

/// A group as people write it.
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
    /// Says all that is wrong at once.
    pub(super) fn check(&self) -> Result<Order, GroupErrors> {
        if self.members.len() > GROUP_MEMBERS_MAX {
            return Err(GroupErrors(vec![GroupError::TooMany(self.members.len())]));
        }
        let mut errors = Vec::new();
        if !is_name(&self.name) {
            let name = InvalidName(self.name.chars().take(80).collect());
            errors.push(GroupError::InvalidName(name));
        }
        if self.members.is_empty() {
            errors.push(GroupError::Empty);
        }
        let mut listed: BTreeMap<&JobId, BTreeSet<&JobId>> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for Member { job, after } in &self.members {
            if listed.contains_key(job) {
                twice.insert(job);
            }
            listed.entry(job).or_default().extend(after);
        }
        errors.extend(twice.into_iter().cloned().map(GroupError::ListedTwice));
        // Deduplicated and sorted, so that positions and messages do not depend on the order.
        let position: BTreeMap<&JobId, usize> = listed
            .keys()
            .enumerate()
            .map(|(at, job)| (*job, at))
            .collect();
        let mut graph = DiGraph::<(), ()>::new();
        let nodes: Vec<NodeIndex> = listed.iter().map(|_| graph.add_node(())).collect();
        for (at, (job, after)) in listed.iter().enumerate() {
            for dependency in after {
                match position.get(dependency) {
                    Some(other) if *other == at => {
                        errors.push(GroupError::SelfDependency((*job).clone()));
                    }
                    Some(&other) => {
                        graph.add_edge(nodes[other], nodes[at], ());
                    }
                    None => errors.push(GroupError::UnknownDependency {
                        job: (*job).clone(),
                        after: (*dependency).clone(),
                    }),
                }
            }
        }
        let jobs: Vec<JobId> = listed.keys().map(|job| (*job).clone()).collect();
        let order = Order::new(jobs, &graph);
        let mut knots = tarjan_scc(&graph);
        knots.retain(|knot| knot.len() > 1);
        knots.iter_mut().for_each(|knot| knot.sort());
        knots.sort();
        for knot in knots {
            let knot: BTreeSet<usize> = knot.into_iter().map(NodeIndex::index).collect();
            errors.push(GroupError::Cycle(order.cycle_in(&knot)));
        }
        if errors.is_empty() {
            Ok(order)
        } else {
            Err(GroupErrors(errors))
        }
    }
}

/// All that is wrong with a group's spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupErrors(pub Vec<GroupError>);

impl fmt::Display for GroupErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for GroupErrors {}

/// One thing that is wrong with a group's spec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GroupError {
    /// The group's own name.
    #[error("name: {0}")]
    InvalidName(#[source] InvalidName),
    /// There is nothing to do.
    #[error("members: a group needs at least one job")]
    Empty,
    /// See [`GROUP_MEMBERS_MAX`]. Nothing else is looked at then.
    #[error(
        "members: {0} are too many, at most {GROUP_MEMBERS_MAX} are allowed; make several groups"
    )]
    TooMany(usize),
    /// It would not be clear which one counts.
    #[error("members: job {0} is listed more than once; list it once with all that it is after")]
    ListedTwice(JobId),
    /// It could never start.
    #[error("members: job {job} is after {after}, which is no member; add it or take it out")]
    UnknownDependency {
        /// The job that could not start.
        job: JobId,
        /// What it is after.
        after: JobId,
    },
    /// It could never start.
    #[error("members: job {0} is after itself; take that out")]
    SelfDependency(JobId),
    /// None of them could ever start. The first job is the last one, too.
    #[error("members: {}: none of them could start; take one of these out", chain(.0))]
    Cycle(Vec<JobId>),
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
