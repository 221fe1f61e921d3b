//! Rolling, canary, rollback: the services say which version runs where.

use serde_json::{Value, json};

use crate::harness::{Node, Server, canary, eventually, get, rolling, service};

async fn fleet(server: &Server, count: usize) -> Vec<Node> {
    let nodes = (1..=count).map(|number| Node::here(server, &format!("n{number}")));
    let nodes: Vec<Node> = nodes.collect();
    server.api.nodes(count).await;
    nodes
}

async fn all_answer(nodes: &[Node], version: u32) {
    for node in nodes {
        node.answers(version).await;
    }
}

/// Whether it was taken back; if so, by whom.
async fn taken_back(server: &Server, id: &str) -> Value {
    let failed = server.api.until_state(id, "failed").await;
    let rollback = failed["rolled_back_by"].as_str().unwrap();
    server.api.until_state(rollback, "completed").await;
    failed
}

#[tokio::test]
async fn a_fleet_goes_from_version_to_version() {
    let server = Server::start().await;
    let nodes = fleet(&server, 3).await;
    let api = &server.api;

    let first = api.register(service(&[], rolling())).await;
    let done = api.until_state(&first, "completed").await;
    assert_eq!(done["status"]["updated_nodes"], 3);
    all_answer(&nodes, 1).await;

    let second = api.register(service(&[("COLOR", "green")], canary())).await;
    let waits = api
        .until(&second, |d| {
            d["status"]["updated_nodes"] == 1 && d["status"]["in_flight_nodes"] == 0
        })
        .await;
    let canaries = waits["status"]["canary_nodes"].as_array().unwrap();
    for node in &nodes {
        let is_canary = canaries.iter().any(|name| *name == node.name);
        node.answers(if is_canary { 2 } else { 1 }).await;
    }
    api.post(&format!("/v1/deployments/{second}/promote"), json!({}))
        .await;
    api.until_state(&second, "completed").await;
    all_answer(&nodes, 2).await;

    // It listens, and is never well.
    let third = api.register(service(&[("SICK", "1")], canary())).await;
    let failed = taken_back(&server, &third).await;
    assert_eq!(failed["status"]["failed_nodes"], 1);
    all_answer(&nodes, 2).await;

    // It ends at once, again and again.
    let fourth = api.register(service(&[("CRASH", "1")], canary())).await;
    taken_back(&server, &fourth).await;
    all_answer(&nodes, 2).await;
    for node in &nodes {
        assert_eq!(node.processes().len(), 1);
    }
}

#[tokio::test]
async fn errors_that_the_workload_counts_take_a_version_back() {
    errors_take_back(json!({
        "from": "prometheus", "requests": "requests_total", "failed": "failed_total",
    }))
    .await;
}

#[tokio::test]
async fn errors_in_the_access_log_take_a_version_back() {
    // What the checks ask for is in the log, too.
    errors_take_back(json!({
        "from": "logs", "requests": "\"GET / [^\"]*\" [1-5][0-9][0-9] ",
        "failed": "\"GET / [^\"]*\" 5[0-9][0-9] ",
    }))
    .await;
}

/// By this error rate; at most a tenth of the requests may fail.
async fn errors_take_back(counted: Value) {
    let server = Server::start().await;
    let nodes = fleet(&server, 1).await;
    let job = |errors: &str| {
        let mut job = service(&[("ERRORS", errors), ("ACCESS", "1")], rolling());
        job["error_rate"] = counted.clone();
        job
    };
    let asking = async {
        loop {
            let status = nodes[0].status().await.unwrap_or_default();
            let runs = status["runs"].as_array().into_iter().flatten();
            for run in runs.filter(|run| run["phase"] == "running") {
                for _ in 0..20 {
                    let _ = get(run["ports"]["http"].as_u64().unwrap() as u16, "/").await;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let story = async {
        let first = server.api.register(job("50")).await;
        server.api.until_state(&first, "completed").await;
        // Its checks pass all the time.
        let second = server.api.register(job("2")).await;
        let failed = taken_back(&server, &second).await;
        let said = server
            .api
            .get(&format!("/v1/deployments/{second}/explain"))
            .await;
        assert!(
            said.to_string().contains(" errors in "),
            "{said:#} {failed:#}"
        );
        nodes[0].answers(1).await;
    };
    tokio::select! {
        () = asking => {}
        () = story => {}
    }
}

#[tokio::test]
async fn what_cannot_start_says_why_and_what_ran_before_goes_on() {
    let server = Server::start().await;
    let nodes = fleet(&server, 1).await;
    let first = server.api.register(service(&[], rolling())).await;
    server.api.until_state(&first, "completed").await;
    let pid = nodes[0].answers(1).await;

    let mut wrong = service(&[], rolling());
    wrong["config"] = json!({ "comand": "x" });
    wrong["rollout"]["no_auto_rollback"] = json!(true);
    let second = server.api.register(wrong).await;
    server.api.until_state(&second, "failed").await;
    let said = server
        .api
        .get(&format!("/v1/deployments/{second}/explain"))
        .await;
    assert!(said.to_string().contains("config: comand: "), "{said:#}");
    assert_eq!(
        nodes[0].answer().await,
        Some((1, pid)),
        "it was never stopped"
    );
    // And where it ends, it begins again: until something better can, it is what runs here.
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let again = eventually("it runs again", async || {
        nodes[0].answer().await.filter(|(_, other)| *other != pid)
    });
    assert_eq!(again.await.0, 1);

    let mut missing = service(&[], rolling());
    missing["config"] = json!({ "command": "/nowhere/to/be/found" });
    let third = server.api.register(missing).await;
    taken_back(&server, &third).await;
    let said = server
        .api
        .get(&format!("/v1/deployments/{third}/explain"))
        .await;
    assert!(
        said.to_string()
            .contains("/nowhere/to/be/found: No such file"),
        "{said:#}"
    );
    nodes[0].answers(1).await;
}

#[tokio::test]
async fn what_is_taken_back_to_what_still_runs_goes_on() {
    let server = Server::start().await;
    let mut nodes: Vec<Node> = ["n1", "n2"].map(|name| Node::new(&server, name)).into();
    for node in &mut nodes {
        node.start_apart(&[]);
    }
    let api = &server.api;
    api.nodes(2).await;
    let job = |env: &[(&str, &str)]| {
        let mut job = service(env, rolling());
        job["switch"] = json!("start_first");
        job["rollout"]["max_parallel"] = json!(2);
        job
    };
    let id = api.register(job(&[])).await;
    api.until_state(&id, "completed").await;
    let mut pids = Vec::new();
    for node in &nodes {
        pids.push(node.answers(1).await);
    }
    let mut unknown = job(&[]);
    unknown["config"] = json!({ "comand": "x" });
    let mut missing = job(&[]);
    missing["artifact"] = json!({ "source": "/nowhere", "sha256": "0".repeat(64) });
    // Not understood, never there, and begun beside what runs: on all nodes at once.
    for bad in [unknown, missing, job(&[("SICK", "1")])] {
        let id = api.register(bad).await;
        taken_back(&server, &id).await;
        for (node, pid) in nodes.iter().zip(&pids) {
            assert_eq!(node.answers(1).await, *pid, "{}", node.log());
            let is_alone = async || (node.processes() == [*pid]).then_some(());
            eventually("nothing else runs", is_alone).await;
        }
    }
    // Of which assignment it is knows the next agent, too.
    for (node, pid) in nodes.iter_mut().zip(&pids) {
        node.kill().await;
        node.start_apart(&[]);
        let is_up = |status: &Value| status["executions"][0]["standing"] == "up";
        node.until("it has found it", is_up).await;
        assert_eq!(node.answers(1).await, *pid);
    }
    // Where it ends by itself it is begun again; and where somebody wants that.
    let of = |pid| rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(of(pids[0]), rustix::process::Signal::KILL).unwrap();
    assert_ne!(nodes[0].answers(1).await, pids[0]);
    let restart = api.post("/v1/jobs/default/web/restart", json!({})).await;
    let id = restart["deployment_id"].as_str().unwrap();
    api.until_state(id, "completed").await;
    assert_ne!(nodes[1].answers(1).await, pids[1]);
}

#[tokio::test]
async fn who_was_away_begins_anew_only_what_was_restarted_meanwhile() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    let api = &server.api;
    api.nodes(1).await;
    let id = api.register(service(&[], rolling())).await;
    api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;
    let is_told = async |id: &str| {
        let is_told = |shown: &Value| shown["status"]["in_flight_nodes"] == 1;
        api.until(id, is_told).await;
    };
    let order = async |order: &str| {
        let path = format!("/v1/jobs/default/web/{order}");
        let answer = api.post(&path, json!({})).await;
        let id = answer["deployment_id"].as_str().unwrap().to_owned();
        is_told(&id).await;
        id
    };
    for (round, is_restarted) in ["1", "2"].into_iter().zip([false, true]) {
        node.kill().await;
        if is_restarted {
            order("restart").await;
        }
        let bad = api.register(service(&[("SICK", round)], rolling())).await;
        is_told(&bad).await;
        let back = order("rollback").await;
        node.start_apart(&[]);
        api.until_state(&back, "completed").await;
        let now = node.answers(1).await;
        assert_eq!(now != pid, is_restarted, "{}", node.log());
        assert_eq!(node.processes(), [now]);
    }
}

#[tokio::test]
async fn start_first_leaves_no_gap_and_a_stop_leaves_nothing() {
    let server = Server::start().await;
    let nodes = fleet(&server, 1).await;
    let mut more = rolling();
    more["switch"] = json!("start_first");
    let first = server.api.register(service(&[], more.clone())).await;
    server.api.until_state(&first, "completed").await;
    nodes[0].answers(1).await;
    let status = nodes[0].status().await.unwrap();
    let port = status["runs"][0]["ports"]["http"].as_u64().unwrap() as u16;
    // A version that never is healthy takes nothing away.
    let second = server.api.register(service(&[("SICK", "1")], more)).await;
    let story = server.api.until_state(&second, "failed");
    let asking = async {
        loop {
            assert!(
                get(port, "/").await.is_some(),
                "the old one was stopped too soon"
            );
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = story => {}
        () = asking => {}
    }
    server.api.stopped("web").await;
    assert!(nodes[0].processes().is_empty());
}
