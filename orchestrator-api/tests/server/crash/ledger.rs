//! What was answered, and that it is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{KINDS, Kind, SPARE, WILD, World, releases};
use crate::client::Client;

/// What was answered.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    /// The deployment of each version.
    pub(super) versions: BTreeMap<(&'static str, u64), String>,
    pub(super) deployments: BTreeMap<String, Seen>,
    /// The targets of each version that were said to be well.
    pub(super) well: BTreeMap<(&'static str, u64), BTreeSet<u64>>,
    /// The slots of each version that were told to begin, and have not yet said how it goes.
    pub(super) begun: BTreeMap<(&'static str, u64), BTreeSet<u64>>,
    /// The furthest position of the store that anybody heard of.
    pub(super) position: u64,
    /// What was changed, by the request that did it.
    pub(super) deeds: BTreeMap<String, &'static str>,
    pub(super) groups: BTreeMap<String, releases::Seen>,
    /// What stays so until somebody begins to change it.
    pub(super) stands: Stands,
    pub(super) answers: u64,
    pub(super) reports: u64,
}

/// What was answered of what is no deployment. Of what is being changed nothing is known.
#[derive(Clone, Default)]
pub(super) struct Stands {
    /// Whether the spare node is drained.
    pub(super) drained: Option<bool>,
    /// Whether a token is good.
    pub(super) tokens: BTreeMap<String, bool>,
    /// Of the wild job: its current version, and how many executions it has.
    pub(super) wild: Option<(u64, u64)>,
}

#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) revision: u64,
    pub(super) over: Option<String>,
    pub(super) promoted: bool,
    pub(super) paused: bool,
    /// Nobody reports of it, and its deadline is near.
    pub(super) timed: bool,
    /// What was asked for: which type, to which version.
    pub(super) begun: Option<(&'static str, u64)>,
    /// Nothing more can become of it, and it was found so after a crash.
    pub(super) checked: bool,
}

impl Ledger {
    pub(super) fn seen(&mut self, id: &str) -> &mut Seen {
        self.deployments.entry(id.to_owned()).or_default()
    }
}

/// Notes what was answered of a deployment. Nothing of it goes back, and never is more under way than may be.
pub(super) fn see(seen: &mut Seen, record: &Value) {
    let job = record["job_id"].as_str().expect("a job");
    let kind = Kind::named(job);
    let status = &record["status"];
    let revision = status["revision"].as_u64().expect("a revision");
    assert!(
        revision >= seen.revision,
        "it was at {}: {record:#}",
        seen.revision
    );
    seen.revision = revision;
    let state = status["state"].as_str().expect("a state");
    if ["completed", "failed", "canceled"].contains(&state) {
        let over = seen.over.get_or_insert_with(|| state.to_owned());
        assert_eq!(over, state, "{record:#}");
    } else {
        assert_eq!(seen.over, None, "it was over: {record:#}");
    }
    assert!(
        !seen.promoted || status["canary_promoted"] == true,
        "it was promoted: {record:#}"
    );
    // The limits hold also then.
    assert!(
        !seen.paused || state == "paused" || state == "failed",
        "it was paused: {record:#}"
    );
    if let Some((kind, to)) = seen.begun {
        assert_eq!(record["type"], kind, "{record:#}");
        assert_eq!(record["to_version"], to, "{record:#}");
    }
    let in_flight = status["in_flight_nodes"].as_u64().expect("a count");
    assert!(
        in_flight <= kind.max_parallel,
        "more than {}: {record:#}",
        kind.max_parallel
    );
}

/// What was answered before is there now. Of what was found over before, only where `all` of it is to be looked at.
pub(super) async fn check(client: &Client, world: &World, before: &Ledger, all: bool) {
    let there = "the server answers: nobody kills it now";
    let metrics = client.get("/metrics").await.expect(there).is(200);
    let metrics = metrics.as_str().expect("text");
    let position = metrics
        .lines()
        .find_map(|line| line.strip_prefix("orchestrator_store_position "));
    let position: u64 = position.expect("it is counted").parse().expect("a number");
    assert!(
        position >= before.position,
        "{position}, and {} was heard of",
        before.position
    );

    for kind in &KINDS {
        let Some((&(_, newest), _)) = before
            .versions
            .range((kind.name, 0)..=(kind.name, u64::MAX))
            .last()
        else {
            continue;
        };
        let job = client
            .get(&format!("/v1/jobs/default/{}", kind.name))
            .await
            .expect(there)
            .is(200);
        assert!(
            job["job"]["version"].as_u64() >= Some(newest),
            "{newest}: {job:#}"
        );
    }
    check_what_stands(client, &before.stands).await;
    releases::check(client, before.groups.iter()).await;
    check_audit(client, &before.deeds).await;
    let versions = before.versions.iter();
    let versions: BTreeMap<&str, (&str, u64)> = versions
        .map(|(&(name, version), id)| (id.as_str(), (name, version)))
        .collect();
    for (id, seen) in &before.deployments {
        if seen.checked && !all {
            continue;
        }
        let path = format!("/v1/deployments/{id}");
        let record = client.get(&path).await.expect(there).is(200)["deployment"].take();
        see(&mut seen.clone(), &record);
        world.ledger().seen(id).checked |= seen.over.is_some();
        let Some(&(name, version)) = versions.get(id.as_str()) else {
            continue;
        };
        let kind = Kind::named(name);
        assert_eq!(record["to_version"], version);
        let status = &record["status"];
        let events = client
            .all(&format!("{path}/events"), "events")
            .await
            .expect(there);
        let revisions = events
            .iter()
            .map(|event| event["revision"].as_u64().expect("a number"));
        let last = status["revision"].as_u64().expect("a revision");
        // While one page was read after the other more may have come.
        let revisions: Vec<u64> = revisions.take(last as usize).collect();
        assert!(
            revisions.iter().copied().eq(1..=last),
            "{last}: {revisions:?}"
        );

        let targets = client
            .all(&format!("{path}/targets"), "targets")
            .await
            .expect(there);
        if status["state"] != "failed" {
            for &target in before.well.get(&(name, version)).into_iter().flatten() {
                let target = &targets[target as usize];
                assert_eq!(
                    target["state"], "updated",
                    "it was said to be well: {target:#} {record:#}"
                );
            }
        }
        let under_way =
            |target: &&Value| target["state"] == "updating" || target["state"] == "observing";
        let under_way = targets.iter().filter(under_way).count();
        assert!(
            under_way as u64 <= kind.max_parallel || status["state"] == "failed",
            "{targets:#?}"
        );
    }
}

async fn check_what_stands(client: &Client, before: &Stands) {
    let there = "the server answers: nobody kills it now";
    if let Some(drained) = before.drained {
        let node = client.get(&format!("/v1/nodes/{SPARE}")).await;
        let node = node.expect(there).is(200);
        assert_eq!(node["node"]["drain"], drained, "{node:#}");
    }
    let tokens = client.all("/v1/tokens", "tokens").await.expect(there);
    for (id, good) in &before.tokens {
        let token = tokens.iter().find(|token| token["id"] == **id);
        let token = token.unwrap_or_else(|| panic!("{id} was made"));
        assert_eq!(token["active"], *good, "{token:#}");
    }
    if let Some((current, executions)) = before.wild {
        let path = format!("/v1/jobs/default/{WILD}");
        let job = client.get(&path).await.expect(there).is(200);
        assert_eq!(job["job"]["current_version"], current, "{job:#}");
        let versions = client.all(&format!("{path}/versions"), "versions").await;
        let versions = versions.expect(there);
        let told = versions.iter().map(|version| &version["executions"]);
        let told: u64 = told.map(|told| told.as_u64().expect("a number")).sum();
        assert_eq!(told, executions, "{versions:#?}");
    }
}

/// Each deed was written down, and once, though it may have been said to more servers than one.
async fn check_audit(client: &Client, deeds: &BTreeMap<String, &'static str>) {
    let lines = client.all("/v1/audit", "lines").await;
    let lines = lines.expect("the server answers: nobody kills it now");
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["outcome"] == "done") {
        let text = |name: &str| line[name].as_str().expect("a text");
        found
            .entry(text("request"))
            .or_default()
            .push(text("action"));
    }
    for (request, action) in deeds {
        let lines = found.get(request.as_str()).map_or(&[][..], Vec::as_slice);
        assert_eq!(lines, [*action], "{request}");
    }
}
