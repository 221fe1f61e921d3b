//! Releases of two jobs as one group, of which every third is bad, while servers are killed.

use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};

use super::{Kind, World};
use crate::client::Client;

/// The second one is after the first.
pub(super) const JOBS: [&str; 2] = ["first", "second"];

/// What was answered of a group.
#[derive(Clone, Default)]
pub(super) struct Seen {
    revision: u64,
    over: Option<String>,
}

/// Begins one release after the other, and sees each to its end.
pub(super) async fn release(world: Arc<World>) {
    let mut deployments = [0; JOBS.len()];
    for number in 1_u64.. {
        if *world.finishing.borrow() {
            return;
        }
        let is_bad = number.is_multiple_of(3);
        let name = format!("release-{number}");
        let document = group(number, is_bad);
        let begun = world.change("begin", &name, "/v1/groups", &document);
        let begun = begun.await.is(201);
        let id = begun["group"]["id"].as_str().expect("an id").to_owned();
        let shown = follow(&world, &id).await;
        let states: Vec<&str> = members(&shown, "state");
        if is_bad {
            assert_eq!(shown["state"], "failed", "{shown:#}");
            assert_eq!(states, ["taken_back", "rolled_back"], "{shown:#}");
        } else {
            assert_eq!(shown["state"], "completed", "{shown:#}");
            assert_eq!(states, ["completed", "completed"], "{shown:#}");
        }
        // Whatever was ordered was ordered once, and went back once.
        for (job, deployments) in JOBS.iter().zip(&mut deployments) {
            *deployments += if is_bad { 2 } else { 1 };
            let path = format!("/v1/deployments?job_id={job}&page_size=1000");
            let page = world.say(Method::GET, &path, None, None).await.is(200);
            let found = page["deployments"].as_array().expect("a list").len();
            assert_eq!(found, *deployments, "{page:#}");
        }
        for deployment in members(&shown, "deployment_id") {
            world.note(|ledger| {
                // From now on it is looked at after each crash.
                ledger.seen(deployment);
            });
        }
    }
}

fn group(number: u64, is_bad: bool) -> Value {
    let [first, second] = JOBS.map(|job| {
        let mut document = Kind::named(job).document(number);
        document["config"]["bad"] = json!(is_bad && job == JOBS[1]);
        document
    });
    json!({
        "name": "release",
        "members": [
            { "job": JOBS[1], "after": [JOBS[0]], "spec": second },
            { "job": JOBS[0], "spec": first },
        ],
    })
}

fn members<'a>(shown: &'a Value, field: &str) -> Vec<&'a str> {
    let members = shown["members"].as_array().expect("a list").iter();
    let text = |member: &'a Value| member[field].as_str().expect("a text");
    members.map(text).collect()
}

async fn follow(world: &World, id: &str) -> Value {
    let mut revision = 0;
    loop {
        let wait = format!("/v1/groups/{id}?revision={revision}&wait=10s");
        let shown = world.say(Method::GET, &wait, None, None).await.is(200)["group"].take();
        world.note(|ledger| see(ledger.groups.entry(id.to_owned()).or_default(), &shown));
        if shown["state"] != "running" {
            return shown;
        }
        revision = shown["revision"].as_u64().expect("a revision");
    }
}

/// Notes what was answered of a group. Nothing of it goes back.
fn see(seen: &mut Seen, shown: &Value) {
    let revision = shown["revision"].as_u64().expect("a revision");
    assert!(
        revision >= seen.revision,
        "it was at {}: {shown:#}",
        seen.revision
    );
    seen.revision = revision;
    let state = shown["state"].as_str().expect("a state");
    if let Some(over) = &seen.over {
        assert_eq!(over, state, "{shown:#}");
    }
    if state != "running" {
        seen.over = Some(state.to_owned());
    }
}

/// What was answered before is there now.
pub(super) async fn check(client: &Client, groups: impl Iterator<Item = (&String, &Seen)>) {
    for (id, seen) in groups {
        let shown = client.get(&format!("/v1/groups/{id}")).await;
        let shown = shown.expect("the server answers: nobody kills it now");
        see(&mut seen.clone(), &shown.is(200)["group"]);
    }
}
