//! Networks that fail: a server and agents, each in a network namespace of its own, and what befalls the links between
//! them.

pub(crate) mod site;

use serde_json::Value;

use self::site::Site;
use crate::harness::{canary, immediate, service};

fn job(site: &Site, color: &str, more: Value) -> Value {
    service(&[("COLOR", color), ("JOURNAL", &site.journal())], more)
}

/// Nodes that run version 1, and its processes.
async fn begun(nodes: usize) -> Option<(Site, Vec<i32>)> {
    let site = Site::begin(nodes).await?;
    let first = site.run(job(&site, "blue", immediate())).await;
    site.completed(&first).await;
    let mut pids = Vec::new();
    for at in 0..nodes {
        pids.push(site.runs(at, 1).await);
    }
    Some((site, pids))
}

/// Ready when the canaries are well, and a person has the word.
async fn gate(site: &Site, id: &str) -> Value {
    let waits = |shown: &Value| shown["status"]["waiting_on"] == "promotion";
    site.until(id, "it waits for promotion", waits).await
}

async fn promote(site: &Site, id: &str) {
    site.told(&["deployment", "promote", id], "").await;
}

/// All nodes run this version, and have started each one once.
async fn converged(site: &Site, version: u32) {
    for at in 0..site.nodes.len() {
        site.runs(at, version).await;
        let each_once: Vec<u32> = (1..=version).collect();
        assert_eq!(site.started(at), each_once, "{}", site.nodes[at].log());
    }
}

/// The last node is not heard of for longer than its lease, and is left out of a deployment; it goes on, and follows
/// when its link is whole again.
async fn left_out(site: &Site, pid: i32) {
    let last = site.nodes.len() - 1;
    site.sees(last, "disconnected").await;
    let second = site.run(job(site, "green", canary())).await;
    gate(site, &second).await;
    promote(site, &second).await;
    let done = site.completed(&second).await;
    assert_eq!(done["status"]["updated_nodes"], last, "{done:#}");
    assert_eq!(done["status"]["skipped_nodes"], 1, "{done:#}");
    assert_eq!(site.runs(last, 1).await, pid, "it was never stopped");
    site.heal(last);
    site.sees(last, "ready").await;
    converged(site, 2).await;
}

#[tokio::test]
async fn who_is_cut_off_goes_on_and_follows() {
    let Some((site, pids)) = begun(3).await else {
        return;
    };
    site.cut(2);
    left_out(&site, pids[2]).await;

    // In the middle of a deployment, with its turn still to come.
    let third = site.run(job(&site, "red", canary())).await;
    let shown = gate(&site, &third).await;
    let canaries = shown["status"]["canary_nodes"].as_array().unwrap();
    let other = (0..3).find(|at| canaries.iter().all(|name| *name != *site.nodes[*at].name));
    let other = other.unwrap();
    site.cut(other);
    promote(&site, &third).await;
    site.sees(other, "disconnected").await;
    site.runs(other, 2).await;
    site.heal(other);
    let done = site.completed(&third).await;
    assert_eq!(done["status"]["updated_nodes"], 3, "{done:#}");
    converged(&site, 3).await;
}

#[tokio::test]
async fn who_hears_nothing_goes_on_and_follows() {
    let Some((site, pids)) = begun(3).await else {
        return;
    };
    site.deafen(2);
    left_out(&site, pids[2]).await;
}

#[tokio::test]
async fn who_is_not_heard_goes_on_and_follows() {
    let Some((site, pids)) = begun(3).await else {
        return;
    };
    site.mute(2);
    left_out(&site, pids[2]).await;
}

#[tokio::test]
async fn on_bad_links_it_takes_longer() {
    let Some((site, _)) = begun(3).await else {
        return;
    };
    site.worsen();
    let second = site.run(job(&site, "green", canary())).await;
    gate(&site, &second).await;
    promote(&site, &second).await;
    let done = site.completed(&second).await;
    assert_eq!(done["status"]["updated_nodes"], 3, "{done:#}");
    converged(&site, 2).await;
}

#[tokio::test]
async fn on_bad_links_a_server_may_be_replaced() {
    let Some((mut site, pids)) = begun(3).await else {
        return;
    };
    site.worsen();
    // While it begins, between canaries and the rest, and when the rest has been told.
    let second = site.run(job(&site, "green", canary())).await;
    site.replace_server().await;
    let shown = gate(&site, &second).await;
    site.replace_server().await;
    for (at, pid) in pids.iter().enumerate() {
        let canaries = shown["status"]["canary_nodes"].as_array().unwrap();
        if canaries.iter().all(|name| *name != *site.nodes[at].name) {
            assert_eq!(site.runs(at, 1).await, *pid, "it was never stopped");
        }
    }
    promote(&site, &second).await;
    site.replace_server().await;
    let done = site.completed(&second).await;
    assert_eq!(done["status"]["updated_nodes"], 3, "{done:#}");
    converged(&site, 2).await;
}
